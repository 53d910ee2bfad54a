/* Logs: one line per event in logfmt on standard error, safe from any thread, written with one write(2).
 *
 *     log_info("engine_ready", LS("model", name), LI("ms", ms));
 *     -> ts=2026-11-21T10:04:00.123Z level=info event=engine_ready model=smollm2 ms=412
 *
 * Values are quoted and escaped as logfmt asks, so no input can forge a line. Never log a prompt, an answer or a key.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

struct log_field {
    const char *key; /* NULL ends the list */
    enum { LOG_STR, LOG_INT, LOG_DBL } kind;
    const char *s; /* NULL prints as empty */
    int64_t i;
    double d;
};

#define LS(k, v) ((struct log_field){.key = (k), .kind = LOG_STR, .s = (v)})
#define LI(k, v) ((struct log_field){.key = (k), .kind = LOG_INT, .i = (v)})
#define LD(k, v) ((struct log_field){.key = (k), .kind = LOG_DBL, .d = (v)})

#define log_debug(event, ...) log_event(LOG_DEBUG, event, (struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}})
#define log_info(event, ...) log_event(LOG_INFO, event, (struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}})
#define log_warn(event, ...) log_event(LOG_WARN, event, (struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}})
#define log_error(event, ...) log_event(LOG_ERROR, event, (struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){0}})

/* Once at start, before other threads: the least level written, and a name put on every line as `program=`. */
void log_init(const char *program, enum log_level least);

void log_set_level(enum log_level least); /* any thread, any time */

bool log_is_on(enum log_level level); /* to spare what only a line needs */

/* "debug", "info", "warn", "error" -> level, or -1. */
int log_level_parse(const char *word);

/* A line is at most 4 KiB; longer values are cut and marked with "...". */
void log_event(enum log_level level, const char *event, const struct log_field *fields);
