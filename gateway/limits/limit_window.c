/* limit_window: a ring of the tenths of a second in which something happened (see limit_window.h).
 *
 *     head --> [at 101: 1 request, 40 tokens] [at 103: ...] ... [at 688: ...]      sums over all of it
 *              leaves at (101 + 1) tenths + 60 s
 *
 * Why not GCRA: that bounds a rate with a burst, so two windows that touch may hold nearly twice the limit. Why not one
 * entry per request: a busy tenant has 300,000 in a minute. Pure arithmetic; whoever has the lock calls. */
#include "gateway/limits/limit_window.h"
#include <stddef.h>
#include <stdlib.h>

#define FIRST_CAP 4

static struct window_tenth *nth(const struct limit_window *w, uint32_t i)
{
    return &w->ring[(w->head + i) & (w->cap - 1)];
}

int window_init(struct limit_window *w)
{
    *w = (struct limit_window){.ring = malloc(FIRST_CAP * sizeof *w->ring), .cap = FIRST_CAP};
    return w->ring ? 0 : -1;
}

void window_close(struct limit_window *w)
{
    free(w->ring);
    *w = (struct limit_window){0};
}

static int64_t leaves_us(const struct window_tenth *x)
{
    return (x->at + 1) * WINDOW_TENTH_US + WINDOW_US;
}

void window_advance(struct limit_window *w, int64_t now_us)
{
    while (w->n && leaves_us(nth(w, 0)) <= now_us) {
        w->requests -= nth(w, 0)->requests;
        w->tokens -= nth(w, 0)->tokens;
        w->head = (w->head + 1) & (w->cap - 1);
        w->n--;
    }
}

static int grow(struct limit_window *w)
{
    uint32_t cap = 2 * w->cap;
    struct window_tenth *ring = malloc(cap * sizeof *ring);
    if (!ring) return -1;
    for (uint32_t i = 0; i < w->n; i++) ring[i] = *nth(w, i);
    free(w->ring);
    w->ring = ring;
    w->cap = cap;
    w->head = 0;
    return 0;
}

static void merge_oldest(struct limit_window *w)
{
    struct window_tenth *a = nth(w, 0), *b = nth(w, 1);
    b->requests += a->requests;
    b->tokens += a->tokens;
    w->head = (w->head + 1) & (w->cap - 1);
    w->n--;
}

void window_add(struct limit_window *w, int64_t now_us, int64_t requests, int64_t tokens)
{
    int64_t at = now_us / WINDOW_TENTH_US;
    if (!w->n || nth(w, w->n - 1)->at != at) {
        if (w->n == w->cap && grow(w)) merge_oldest(w);
        *nth(w, w->n++) = (struct window_tenth){.at = at};
    }
    struct window_tenth *x = nth(w, w->n - 1);
    x->requests += requests;
    x->tokens += tokens;
    w->requests += requests;
    w->tokens += tokens;
}

/* NULL: it has left, or was merged with a younger one. */
static struct window_tenth *find(const struct limit_window *w, int64_t at)
{
    uint32_t low = 0, high = w->n;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (nth(w, mid)->at < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low < w->n && nth(w, low)->at == at ? nth(w, low) : NULL;
}

void window_correct(struct limit_window *w, int64_t t_us, int64_t requests, int64_t tokens)
{
    struct window_tenth *x = find(w, t_us / WINDOW_TENTH_US);
    if (!x) return;
    x->requests += requests;
    x->tokens += tokens;
    w->requests += requests;
    w->tokens += tokens;
}

int64_t window_wait(const struct limit_window *w, int64_t now_us, int64_t requests, int64_t tokens)
{
    int64_t wait = 0;
    for (uint32_t i = 0; i < w->n && (requests > 0 || tokens > 0); i++) {
        const struct window_tenth *x = nth(w, i);
        requests -= x->requests;
        tokens -= x->tokens;
        wait = leaves_us(x) - now_us;
    }
    return wait > 0 ? wait : 0;
}

int64_t window_rest(const struct limit_window *w, int64_t now_us)
{
    for (uint32_t i = w->n; i-- > 0;) {
        const struct window_tenth *x = nth(w, i);
        if (x->requests || x->tokens) return leaves_us(x) > now_us ? leaves_us(x) - now_us : 0;
    }
    return 0;
}
