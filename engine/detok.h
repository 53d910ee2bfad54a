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
    char
        *held; /* whole characters: `shown` of them were given out by the last call, the rest may begin a stop string */
    size_t nheld, shown, cap;
    char part[4]; /* a character that is not whole yet */
    int npart;
    bool begun; /* a token was shown */
    bool stopped;
    int stop_hit; /* index of the stop string that ended the text, or -1 */
};

/* stops may be NULL with n 0; each 1..DETOK_STOP_BYTES-1 bytes, else ERR_INVALID with param "stop". */
int detok_init(struct detok *d, const struct tokenizer *t, const char *const *stops, int n, struct err *e);
void detok_close(struct detok *d);

/* Add a token; *text (borrowed until the next call) is what became showable, may be empty. Special tokens show nothing unless
 * show_special; bytes that are no UTF-8 show as U+FFFD. Returns 1 when a stop string was met: the text ends before it and nothing
 * follows; 0 otherwise; -1 out of memory. Of several stop strings the one that is complete first counts, so where tokens begin
 * and end makes no difference. */
int detok_push(struct detok *d, int32_t id, bool show_special, const char **text, size_t *len);

/* At the end: what was held (an incomplete character becomes U+FFFD). 0, or -1 out of memory. */
int detok_flush(struct detok *d, const char **text, size_t *len);
