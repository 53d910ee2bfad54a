/* Pressure: how near the gateway is to what it can bear, and what it gives up for it, step by step (GATEWAY.md section 9).
 *
 *   0 none         all is served
 *   1 uploads      adapters' bytes are refused: uploads, parts of them, imports
 *   2 batch        and requests of class `batch`
 *   3 connections  and every answer closes its connection, idle ones are closed
 *   4 all          and every request of the public listener but /health
 *
 * What is refused gets 503 `overloaded` with Retry-After before its body is read; what is under way goes on. Six signs are looked at
 * five times a second, each as a share of its own mark; the highest one sets the level. It rises at once and sinks by one step when
 * the share was PRESSURE_SLACK below the step for PRESSURE_CALM_US, so that it does not flutter. The admin listener is never refused. */
#pragma once
#include "base/err.h"
#include "base/http.h"
#include <stdatomic.h>
#include <stdint.h>

struct gateway;
struct settings;
struct json_t;

enum pressure_level { PRESSURE_NONE, PRESSURE_UPLOADS, PRESSURE_BATCH, PRESSURE_CONNECTIONS, PRESSURE_ALL, PRESSURE_LEVELS };
enum pressure_sign {
    PRESSURE_MEMORY,  /* resident bytes of the mark (setting memory_high) */
    PRESSURE_CGROUP,  /* what the control group uses of its limit; the engine that was spawned is in it, too */
    PRESSURE_SOCKETS, /* open connections of max_connections */
    PRESSURE_WAITING, /* requests without an engine's place, here and in the engines, of waiting_high */
    PRESSURE_WRITER,  /* changes that wait for the database, of the places that new requests may take */
    PRESSURE_DISK,    /* disk_reserve of what is free */
    PRESSURE_SIGNS
};
extern const char *const pressure_level_name[PRESSURE_LEVELS], *const pressure_sign_name[PRESSURE_SIGNS];

#define PRESSURE_SLACK 0.05
#define PRESSURE_CALM_US 2000000

struct pressure {
    _Atomic int level, by; /* read by anybody; by: the sign that set it */
    _Atomic int share[PRESSURE_SIGNS]; /* in thousandths */
    int64_t calm_us;       /* since when the next lower level would do; 0: it would not. The looker's */
    int64_t machine, cgroup; /* bytes; 0: unknown, without limit */
    char cgroup_path[512];
};

void pressure_open(struct pressure *p);

/* The rule alone: the level for this share, coming from that level at that moment. */
enum pressure_level pressure_step(struct pressure *p, double share, int64_t now_us);

/* The mark of memory in bytes: memory_high, or half of what this process may have. Any thread. */
int64_t pressure_memory_mark(const struct pressure *p, const struct settings *set);

/* Looks at all signs; logs a change and tells the public server. One thread, a few times a second; blocks for nothing. */
void pressure_look(struct pressure *p, struct gateway *g);

/* http_options.gate of the public listener: levels 1 and 4. */
int pressure_gate(struct http_request *r);

/* After the key is known. 0, or -1 with ERR_OVERLOADED. */
int pressure_class(struct gateway *g, const char *class, struct err *e);

/* {"level","name","by","share":{sign: number}} */
struct json_t *pressure_json(const struct pressure *p);
struct metrics;
void pressure_meter(const struct pressure *p, struct metrics *m);
