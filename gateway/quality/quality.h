/* Quality: looks at sampled exchanges after they were answered.
 *
 *     quality_pick --draw says no, or no part of the alias asks--> NULL: all that the request ever pays
 *          |
 *          v         quality_feed: a copy of what goes to the client       quality_put: at settlement
 *     struct watch ------------------------------------------------------> [queue] -> thread `quality`: transcript -> its takers
 *
 * A taker is a row of quality_taker[]: a part of the alias (gateway/registry/alias_parts.c) whose member `sample` says which share of requests it
 * wants, and the function that gets their transcripts. The draw is made of the request's id alone, so who knows the id knows whether it was picked, and a
 * request that is in a small sample is in each larger one: what one taker has, another has too as far as both samples reach.
 *
 * Nothing waits for it: a queue that is full, or watches that hold QUALITY_BYTES_MAX together, cost the transcript, which is counted
 * (weft_quality_transcripts_total). Only exchanges that completed get a transcript: an answer that broke off says something about engines and clients'
 * patience, which usage tells; as an answer it was not the model's. */
#pragma once
#include "base/err.h"
#include "gateway/registry/alias.h"
#include <stddef.h>

#define QUALITY_QUEUE 512                  /* transcripts that wait */
#define QUALITY_BYTES_MAX ((int64_t)64 << 20) /* of all watches, those of requests that still run too */

struct gateway;
struct quality;
struct watch;
struct transcript;
struct admission;
struct settlement;
struct http_request;

struct quality_taker {
    const char *name; /* in logs and metrics */
    enum alias_part part;
    bool (*wanted)(const struct gateway *g); /* the operator's switch; asked where an alias has the part */
    void (*take)(struct quality *q, const struct transcript *t); /* on the thread; *t is its own until it returns */
};
extern const struct quality_taker quality_taker[]; /* ended by take NULL */

/* After metrics and db, before the listeners; g must outlive it. */
int quality_open(struct quality **out, struct gateway *g, struct err *e);
/* When no request is in flight any more, before the ledger: what waits is looked at for STOP_MS at most, the rest is dropped. NULL is fine. */
void quality_close(struct quality *q);
struct gateway *quality_gateway(struct quality *q);

/* Whether quality_pick() would: before a body is made for it. */
bool quality_picks(const struct quality *q, char *const part[ALIAS_PARTS], const char *id);
/* The watch of a request that some part of its alias picked, or NULL. Takes over the texts of those parts (they become NULL), copies the body. */
struct watch *quality_pick(struct quality *q, char *part[ALIAS_PARTS], const char *id, const char *body, size_t len);
/* Whether the draw of a request picks it for a sample of this share. */
bool quality_draw(const char *id, double share);

/* n bytes go to the client. One thread at a time. */
void quality_feed(struct watch *w, const char *bytes, size_t n);
/* Settled: hands the watch over. Never waits. */
void quality_put(struct quality *q, struct watch *w, const struct admission *a, const struct settlement *s);
void quality_drop(struct watch *w); /* of a request that was never settled; NULL is fine */

int quality_waiting(struct quality *q);
/* Until all that was put before is looked at, 5 s at most. For tests. */
void quality_settle(struct quality *q);
