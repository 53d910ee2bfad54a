/* Detok: tokens of one answer -> text that can be shown at once and never has to be taken back.
 *
 *     bytes of a token --> part (a character that isn't whole) --> held (whole characters) --> shown
 *
 * Two things keep text back. A token may end inside a character: its first bytes wait in `part`, three at most. And the end of
 * the text may be the beginning of a stop string: the longest such end stays in `held` and the rest is given out. When the next
 * token shows that it is no stop string, it is released with that token.
 *
 * Guaranteed: what is given out is valid UTF-8, all of it together is the answer's text up to the first stop string, and does not
 * depend on how the text was cut into tokens.
 *
 * One per sequence; the step thread. */
#include "engine/detok.h"
#include "engine/tokenizer_utf8.h"
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */
#define CAP_FIRST 64

int detok_init(struct detok *d, const struct tokenizer *t, const char *const *stops, int n, struct err *e)
{
    struct detok x = {.tok = t, .nstop = n, .stop_hit = -1};
    if (n < 0 || n > DETOK_STOPS)
        return err_field(e, ERR_INVALID, "stop", "%d stop strings, at most %d are served", n, DETOK_STOPS);
    for (int i = 0; i < n; i++) {
        size_t len = strlen(stops[i]);
        if (len == 0 || len >= DETOK_STOP_BYTES)
            return err_field(e, ERR_INVALID, "stop", "a stop string is %zu bytes long, 1 to %d are served", len,
                             DETOK_STOP_BYTES - 1);
        memcpy(x.stop[i].s, stops[i], len);
        x.stop[i].len = len;
    }
    *d = x;
    return 0;
}

void detok_close(struct detok *d)
{
    free(d->held);
    d->held = NULL;
    d->nheld = d->shown = d->cap = 0;
}

static void drop_shown(struct detok *d)
{
    if (d->shown) memmove(d->held, d->held + d->shown, d->nheld - d->shown);
    d->nheld -= d->shown;
    d->shown = 0;
}

/* Room for n bytes more; a bad byte becomes three. */
static int make_room(struct detok *d, size_t n)
{
    size_t want = d->nheld + 3 * (n + sizeof d->part), cap = d->cap ? d->cap : CAP_FIRST;
    if (want <= d->cap) return 0;
    while (cap < want) cap *= 2;
    char *p = realloc(d->held, cap);
    if (!p) return -1;
    d->held = p;
    d->cap = cap;
    return 0;
}

static void hold(struct detok *d, const char *s, size_t n)
{
    memcpy(d->held + d->nheld, s, n);
    d->nheld += n;
}

/* One byte more. Of a character that breaks off, the bytes before are one U+FFFD and this one begins anew. */
static void add_byte(struct detok *d, char c)
{
    uint32_t cp;
    d->part[d->npart++] = c;
    int len = utf8_decode(d->part, (size_t)d->npart, &cp);
    if (len == UTF8_MORE) return;
    if (len > 0) {
        hold(d, d->part, (size_t)len);
        d->npart = 0;
        return;
    }
    bool broke_off = d->npart > 1;
    hold(d, REPLACEMENT, 3);
    d->npart = 0;
    if (broke_off) add_byte(d, c);
}

/* Ends the text at the stop string that is complete first, and of those that are complete at once the longest. */
static bool find_stop(struct detok *d)
{
    size_t best_end = SIZE_MAX, start = 0;
    for (int i = 0; i < d->nstop; i++) {
        const char *at = d->nheld ? memmem(d->held, d->nheld, d->stop[i].s, d->stop[i].len) : NULL;
        size_t from = at ? (size_t)(at - d->held) : 0, end = from + d->stop[i].len;
        if (!at || end > best_end || (end == best_end && from >= start)) continue;
        best_end = end;
        start = from;
        d->stop_hit = i;
    }
    if (best_end == SIZE_MAX) return false;
    d->nheld = start;
    d->npart = 0;
    d->stopped = true;
    return true;
}

/* How many bytes at the end of held may be the beginning of a stop string. */
static size_t undecided(const struct detok *d)
{
    size_t most = 0;
    for (int i = 0; i < d->nstop; i++) {
        size_t k = d->stop[i].len - 1;
        if (k > d->nheld) k = d->nheld;
        while (k > most && memcmp(d->held + d->nheld - k, d->stop[i].s, k)) k--;
        if (k > most) most = k;
    }
    return most;
}

static void give(struct detok *d, size_t n, const char **text, size_t *len)
{
    d->shown = n;
    *text = n ? d->held : "";
    *len = n;
}

int detok_push(struct detok *d, int32_t id, bool show_special, const char **text, size_t *len)
{
    size_t n = 0;
    const char *bytes = (d->begun ? tokenizer_bytes : tokenizer_first_bytes)(d->tok, id, &n);
    drop_shown(d);
    give(d, 0, text, len);
    if (d->stopped) return 1;
    if (tokenizer_is_special(d->tok, id) && !show_special) return 0;
    if (make_room(d, n)) return -1;
    d->begun = true;
    for (size_t i = 0; i < n; i++) add_byte(d, bytes[i]);
    bool stop = find_stop(d);
    give(d, d->nheld - (stop ? 0 : undecided(d)), text, len);
    return stop;
}

int detok_flush(struct detok *d, const char **text, size_t *len)
{
    drop_shown(d);
    give(d, 0, text, len);
    if (d->stopped) return 0;
    if (make_room(d, 0)) return -1;
    if (d->npart) {
        hold(d, REPLACEMENT, 3);
        d->npart = 0;
        find_stop(d);
    }
    give(d, d->nheld, text, len);
    return 0;
}
