/* From tokens to text that may be shown: UTF-8 is held until a character is whole, and text that may be the beginning of a stop
 * string is held until it is decided.
 *
 * One per sequence, used by the step thread. */
#pragma once
#include "engine/tokenizer.h"

#define DETOK_STOPS 4
#define DETOK_STOP_BYTES 256

struct detok {
    const struct tokenizer *tok;
    int nstop;
    struct {
        char s[DETOK_STOP_BYTES];
        size_t len;
    } stop[DETOK_STOPS];
    char *held; /* bytes not shown yet */
    size_t nheld, cap;
    bool stopped;
    int stop_hit; /* index of the stop string that ended the text, or -1 */
};

/* stops may be NULL with n 0; each 1..DETOK_STOP_BYTES-1 bytes. */
int detok_init(struct detok *d, const struct tokenizer *t, const char *const *stops, int n, struct err *e);
void detok_close(struct detok *d);

/* Add a token; *text (borrowed until the next call) is what became showable, may be empty. Special tokens show nothing unless
 * show_special. Returns 1 when a stop string was met: the text ends before it and nothing follows; 0 otherwise; -1 out of memory. */
int detok_push(struct detok *d, int32_t id, bool show_special, const char **text, size_t *len);

/* At the end: what was held (an incomplete character becomes U+FFFD). */
int detok_flush(struct detok *d, const char **text, size_t *len);
