/* prompt_units: where a text may be cut, and what is left out. Pure functions. */
#include "engine/prompt_units.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Marks of scripts that set no space behind them, or have a full stop of their own (Unicode 15, Sentence_Terminal, those of today's languages): they stand in
 * no number and no abbreviation. */
static const char *const terminals[] = {"。", "！", "？", "．", "｡", "।", "॥", "؟", "۔", "։", "።", "។", "။", NULL};
static const char *const pauses[] = {"，", "、", "；", "：", "､", NULL};
static const char *const closings[] = {"」", "』", "）", "】", "》", "〉", "］", "”", "’", NULL};

/* The bytes of the marks, any number of them, that s begins with. */
static size_t marks_at(const char *const *marks, const char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; marks[i];) {
        size_t len = strlen(marks[i]);
        bool here = len <= n - k && memcmp(s + k, marks[i], len) == 0;
        k += here ? len : 0;
        i = here ? 0 : i + 1;
    }
    return k;
}

/* Behind the marks at s[i] that end a sentence, or with `pause` a part of one in scripts without spaces; i where there are none. */
static size_t behind_own_marks(const char *s, size_t n, size_t i, bool pause)
{
    size_t k = i + marks_at(terminals, s + i, n - i);
    if (pause) k += marks_at(pauses, s + k, n - k);
    return k > i ? k + marks_at(closings, s + k, n - k) : i;
}

static size_t behind_marks(const char *s, size_t n, size_t i)
{
    size_t k = i;
    while (k < n && s[k] && strchr(".!?", s[k])) k++;
    if (k == i) return behind_own_marks(s, n, i, false);
    while (k < n && s[k] && strchr("\"')]", s[k])) k++;
    return k == n || is_space(s[k]) ? k : i;
}

size_t unit_end(const char *s, size_t n, size_t at, bool words)
{
    size_t i = at;
    while (i < n && is_space(s[i])) i++; /* its own */
    for (; i < n; i++) {
        if (words ? is_space(s[i]) : s[i] == '\n') return i;
        size_t k = words ? behind_own_marks(s, n, i, true) : behind_marks(s, n, i);
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
