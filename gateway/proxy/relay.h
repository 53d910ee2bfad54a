/* Relay: the engine's answer on its way to the client, with the counts taken out (ENGINE_API.md, "Counting").
 *
 * A stream of server-sent events passes byte for byte, but for the comment lines ": weft PROMPT CACHED OUTPUT", which
 * are removed and read. Each piece goes on with a mark: the OUTPUT tokens whose events are complete after it, so a
 * client that was cut in the middle of an event is not billed for that event. A line is held back until its end; one
 * beyond RELAY_LINE_MAX passes in pieces. */
#pragma once
#include "base/buf.h"
#include <stdint.h>

#define RELAY_LINE_MAX (256u << 10)

struct relay_counts {
    int64_t prompt, cached, output;
    int64_t before, after; /* of the prompt, where a policy was followed; else 0 */
    bool known;
    bool estimated;  /* counted by us: the engine did not say */
    char finish[16]; /* the last finish_reason, or "" */
};

/* Where the engine's time went, as it says; microseconds. */
struct relay_times {
    bool known;
    int64_t queue_us, load_us, prefill_us, decode_us, paused_us;
};

struct relay {
    struct relay_counts counts; /* of the last comment */
    struct relay_times times;   /* likewise */
    uint64_t mark;              /* output tokens whose events are complete in what was emitted */
    bool done;                  /* "data: [DONE]" has passed */
    bool error;                 /* the engine sent an error event of its own */
    char code[16];              /* its code, or "" */
    bool data;                  /* a data line has passed: the first byte of the answer */
    /* Of engines that count otherwise: set after relay_init(). Gets the data of each `data:` line but [DONE], appends what
     * goes on in its place (nothing: the event is left out) and notes what it counts; a line must fit RELAY_LINE_MAX. */
    int (*event)(void *u, const char *data, size_t n, struct relay_counts *c, struct buf *out);
    void *event_user;
    /* private */
    bool in_event, drop_blank, in_long, spoken; /* spoken: the event that goes on has a whole data line */
    struct buf line;
};

void relay_init(struct relay *r);
void relay_close(struct relay *r);
void relay_reset(struct relay *r); /* as after relay_init: before an exchange is tried again */

/* Feed what the engine sent; emit() gets what goes on, with its mark, and may refuse with -1. -1: emit refused or
 * memory is short. */
int relay_feed(struct relay *r, const char *bytes, size_t n,
               int (*emit)(void *u, const char *bytes, size_t n, uint64_t mark), void *u);

/* Nothing more comes. An event whose empty line did not come is whole with one, which is the caller's to send where this says so, and the mark counts it.
 * -1: a line of it is torn, and nothing that would follow could be read. */
int relay_cut(struct relay *r, bool *wants_blank);

/* "QUEUE LOAD PREFILL DECODE PAUSED", with nothing but blanks behind; anything else, or what no request can take, leaves *out as it is. */
void relay_read_times(const char *text, struct relay_times *out);

/* Counts from the `usage` of an answer that is not a stream, without parsing all of it. known: false when there is
 * none. */
void relay_usage(const char *body, size_t n, struct relay_counts *out);
