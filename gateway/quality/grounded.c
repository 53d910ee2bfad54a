/* grounded: claims and n-grams of an answer, looked for in passages (see grounded.h).
 *
 * Words are compared by 64-bit hashes, lower case, in sorted lists: of each passage its words, of all passages together the n-grams. The commonest words of
 * the known languages (rule_language.c) say nothing of what a claim claims, and are left out of it; not out of the n-grams. */
#include "gateway/quality/grounded.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FNV_BASIS 14695981039346656037u /* FNV-1a, 64 bits */
#define FNV_PRIME 1099511628211u

struct hashes {
    uint64_t *v;
    size_t n, cap;
};

struct passage {
    struct hashes words;
};

struct passages {
    struct passage one[RAG_PASSAGES_MAX];
    int n;
    struct hashes ngrams;
};

static int add(struct hashes *h, uint64_t v, struct err *e)
{
    if (h->n == h->cap) {
        size_t cap = h->cap ? 2 * h->cap : 64;
        uint64_t *bigger = realloc(h->v, cap * sizeof *bigger);
        if (!bigger) return err_set(e, ERR_NO_MEMORY, "no memory for passages");
        h->v = bigger;
        h->cap = cap;
    }
    h->v[h->n++] = v;
    return 0;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void sort(struct hashes *h)
{
    if (h->n) qsort(h->v, h->n, sizeof *h->v, by_value);
}

static bool has(const struct hashes *h, uint64_t v)
{
    return h->n && bsearch(&v, h->v, h->n, sizeof *h->v, by_value);
}

static uint64_t hash_of(const struct word *w)
{
    uint64_t h = FNV_BASIS;
    for (size_t i = 0; i < w->n; i++) h = (h ^ (unsigned char)w->s[i]) * FNV_PRIME;
    return h;
}

/* The last n words. */
struct window {
    uint64_t last[RAG_NGRAM_MAX];
    int n, have;
};

/* True: *out is the hash of the last n words, in their order; there were not so many yet otherwise. */
static bool slide(struct window *w, uint64_t word, uint64_t *out)
{
    memmove(w->last, w->last + 1, (size_t)(w->n - 1) * sizeof *w->last);
    w->last[w->n - 1] = word;
    if (w->have < w->n && ++w->have < w->n) return false;
    uint64_t h = FNV_BASIS;
    for (int i = 0; i < w->n; i++) h = ((h ^ w->last[i]) * FNV_PRIME) ^ (h >> 29); /* whole words at a time: their high bits are to count below, too */
    *out = h;
    return true;
}

/* --- passages --- */

static int read_text(struct passages *p, const char *s, size_t n, int ngram, struct err *e)
{
    struct passage *to = &p->one[p->n++];
    struct window win = {.n = ngram};
    struct word w;
    uint64_t gram;
    for (size_t at = 0; word_next(s, n, &at, &w);) {
        uint64_t h = hash_of(&w);
        if (add(&to->words, h, e) || (slide(&win, h, &gram) && add(&p->ngrams, gram, e))) return -1;
    }
    sort(&to->words);
    return 0;
}

/* Not readable, and why: of the form of printf, and ours. 0, for the measure itself did not fail. */
__attribute__((format(printf, 2, 3))) static int wrong(struct grounded *out, const char *why, ...)
{
    static const char where[] = "metadata.rag: ";
    va_list args;
    va_start(args, why);
    memcpy(out->why, where, sizeof where);
    vsnprintf(out->why + sizeof where - 1, sizeof out->why - sizeof where + 1, why, args);
    va_end(args);
    return 0;
}

/* A score that can't be counted takes those of the passages before with it: half a list says nothing. */
static int no_scores(struct grounded *out)
{
    out->scores = 0;
    return wrong(out, "a score is beyond a million");
}

/* ERR_NO_MEMORY; what is not as it should be is in *out. */
static int read_passages(const json_t *rag, int ngram, struct passages *p, struct grounded *out, struct err *e)
{
    const json_t *list = json_object_get(rag, "passages");
    size_t i, bytes = 0;
    json_t *one;
    if (!json_is_array(list)) return wrong(out, "'passages' must be a list");
    if (json_array_size(list) > RAG_PASSAGES_MAX) return wrong(out, "more than %d passages", RAG_PASSAGES_MAX);
    json_array_foreach((json_t *)list, i, one)
    {
        const json_t *text = json_object_get(one, "text"), *score = json_object_get(one, "score");
        if (!json_is_string(text) || (score && !json_is_null(score) && !json_is_number(score))) return wrong(out, "a passage is {id, text, score}");
        if (fabs(json_number_value(score)) > RAG_SCORE_MAX) return no_scores(out);
        if ((bytes += json_string_length(text)) > RAG_TEXT_MAX) return wrong(out, "the passages have more than %u KiB", RAG_TEXT_MAX >> 10);
        if (json_is_number(score)) {
            double v = json_number_value(score);
            out->score_least = out->scores && out->score_least < v ? out->score_least : v;
            out->scores++;
            out->score_mean += v / out->scores - out->score_mean / out->scores; /* their difference may be more than a double holds */
        }
        if (json_string_length(text) && read_text(p, json_string_value(text), json_string_length(text), ngram, e)) return -1;
    }
    sort(&p->ngrams);
    out->passages = p->n;
    out->readable = true;
    return 0;
}

/* --- the answer --- */

struct claim {
    struct hashes words, numbers;
};

static bool supported_by(const struct claim *c, const struct passage *p, double support)
{
    size_t found = 0;
    for (size_t i = 0; i < c->numbers.n; i++)
        if (!has(&p->words, c->numbers.v[i])) return false;
    for (size_t i = 0; i < c->words.n; i++) found += has(&p->words, c->words.v[i]);
    return (double)found >= support * (double)c->words.n;
}

static void judge_claim(struct claim *c, const struct passages *p, double support, struct grounded *out)
{
    bool says = c->words.n + c->numbers.n > 0, is = false;
    for (int i = 0; says && i < p->n && !is; i++) is = supported_by(c, &p->one[i], support);
    out->claims += says;
    out->supported += is;
    c->words.n = c->numbers.n = 0;
}

static int read_answer(const char *s, size_t n, const struct grounded_policy *g, const struct passages *p, struct grounded *out, struct err *e)
{
    struct claim c = {.words = {0}};
    struct window win = {.n = g->ngram};
    struct word w;
    uint64_t gram;
    int rc = 0, words = 0;
    for (size_t at = 0; rc == 0 && words < RAG_WORDS_MAX && word_next(s, n, &at, &w); words++) {
        uint64_t h = hash_of(&w);
        if (w.after_end) judge_claim(&c, p, g->support, out);
        if (w.number || !language_stop_word(w.s, w.n)) rc = add(w.number ? &c.numbers : &c.words, h, e);
        if (!slide(&win, h, &gram)) continue;
        out->ngrams++;
        out->found += has(&p->ngrams, gram);
    }
    judge_claim(&c, p, g->support, out);
    free(c.words.v);
    free(c.numbers.v);
    return rc;
}

int grounded_measure(const json_t *body, const char *answer, size_t n, const struct grounded_policy *g, struct grounded *out, struct err *e)
{
    const json_t *rag = json_object_get(json_object_get(body, "metadata"), "rag");
    struct passages *p = rag ? calloc(1, sizeof *p) : NULL;
    *out = (struct grounded){.sent = rag != NULL};
    if (!rag) return 0;
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory for passages");
    int rc = read_passages(rag, g->ngram, p, out, e);
    if (rc == 0 && out->readable && p->n) rc = read_answer(answer, n, g, p, out, e);
    for (int i = 0; i < p->n; i++) free(p->one[i].words.v);
    free(p->ngrams.v);
    free(p);
    return rc;
}
