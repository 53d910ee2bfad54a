/* A sliding minute: how many requests and tokens its last 60 seconds hold. Not for others than limit*.c.
 *
 * Tenths of a second that are not empty stand in a ring, oldest first. A tenth counts until the whole of it is a minute
 * old, so a window never holds less than its last 60 seconds did, and 0.1 s more at most. Memory grows with the tenths in
 * use, to WINDOW_TENTHS; a subject that sleeps has an empty ring. Time is monotonic, in us, and never goes back. */
#pragma once
#include <stdint.h>

#define WINDOW_US 60000000
#define WINDOW_TENTH_US 100000
#define WINDOW_TENTHS 601 /* that may count at one moment */

struct window_tenth {
    int64_t at; /* t / WINDOW_TENTH_US */
    int64_t requests, tokens;
};

struct limit_window {
    struct window_tenth *ring; /* [cap] */
    uint32_t cap, head, n;
    int64_t requests, tokens; /* sums */
};

int window_init(struct limit_window *w); /* -1: no memory */
void window_close(struct limit_window *w);

/* Lets go what is too old; before each look at the sums. */
void window_advance(struct limit_window *w, int64_t now_us);

/* Adds to the tenth of now_us, which is not before any that was added to. Without memory for a further tenth the oldest
 * two become one that leaves with the younger: more is counted then, never less. */
void window_add(struct limit_window *w, int64_t now_us, int64_t requests, int64_t tokens);

/* Changes what was added at t_us, if that still counts. */
void window_correct(struct limit_window *w, int64_t t_us, int64_t requests, int64_t tokens);

/* us until so many requests and tokens have left; both 0: 0. More than there are: until all have. */
int64_t window_wait(const struct limit_window *w, int64_t now_us, int64_t requests, int64_t tokens);

/* us until nothing counts any more. */
int64_t window_rest(const struct limit_window *w, int64_t now_us);
