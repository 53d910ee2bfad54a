/* prompt_units: where a text may be cut, and what is left out. Pure functions. */
#include "engine/prompt_units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Behind the marks at s[i] that end a sentence; i where there are none. */
static size_t behind_marks(const char *s, size_t n, size_t i)
{
    size_t k = i;
    while (k < n && s[k] && strchr(".!?", s[k])) k++;
    if (k == i) return i;
    while (k < n && s[k] && strchr("\"')]", s[k])) k++;
    return k == n || is_space(s[k]) ? k : i;
}

size_t unit_end(const char *s, size_t n, size_t at, bool words)
{
    size_t i = at;
    while (i < n && is_space(s[i])) i++; /* its own */
    for (; i < n; i++) {
        if (words ? is_space(s[i]) : s[i] == '\n') return i;
        size_t k = words ? i : behind_marks(s, n, i);
        if (k > i) return k;
    }
    return n;
}

static int less_informative(const void *x, const void *y)
{
    const struct unit_rank *a = x, *b = y;
    if (a->info != b->info) return a->info < b->info ? -1 : 1;
    return (a->at > b->at) - (a->at < b->at);
}

int units_choose(struct unit *u, int n, double ratio, struct unit_rank *rank, int *stands)
{
    int stay = 0;
    for (int i = 0; i < n; i++) stands[u[i].part] = 0;
    for (int i = 0; i < n; i++) {
        stands[u[i].part]++;
        stay += u[i].tokens;
        rank[i] = (struct unit_rank){u[i].info, i};
    }
    double most = ratio * stay;
    qsort(rank, (size_t)n, sizeof *rank, less_informative);
    for (int k = 0; k < n && stay > most; k++) {
        int i = rank[k].at;
        if (!(u[i].info < INFINITY) || stands[u[i].part] == 1) continue;
        u[i].left_out = true;
        stands[u[i].part]--;
        stay -= u[i].tokens;
    }
    return stay;
}
