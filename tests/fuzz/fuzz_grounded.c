/* What a client says that it retrieved (metadata.rag), and the answer that is held against it: counts are within one another, and the same each time; a mean of
 * scores is between the least and the greatest of them; an answer that is a passage word for word is supported whole, as is any answer that is among the passages; the
 * order of passages does not matter, one more never takes support away, nor does asking for less of it; without passages nothing is claimed and nothing found.
 * Input: a byte (n-gram and support), metadata.rag, a NUL, the answer. */
#include "base/json.h"
#include "gateway/quality/grounded.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

static struct grounded measure(json_t *rag, const char *answer, size_t n, const struct grounded_policy *p)
{
    struct grounded g, again;
    struct err e = {0};
    json_t *body = rag ? json_pack("{s{sO}}", "metadata", "rag", rag) : json_object();
    FUZZ_NEED(grounded_measure(body, answer, n, p, &g, &e) == 0 && grounded_measure(body, answer, n, p, &again, &e) == 0);
    FUZZ_NEED(g.sent == (rag != NULL) && g.readable == again.readable && g.passages == again.passages && strcmp(g.why, again.why) == 0);
    FUZZ_NEED(g.claims == again.claims && g.supported == again.supported && g.ngrams == again.ngrams && g.found == again.found);
    FUZZ_NEED(g.supported >= 0 && g.supported <= g.claims && g.found >= 0 && g.found <= g.ngrams);
    FUZZ_NEED(!g.sent || g.readable == !g.why[0]);
    FUZZ_NEED(g.readable || (!g.claims && !g.ngrams && !g.passages));
    FUZZ_NEED(g.passages > 0 || (!g.claims && !g.ngrams));
    json_decref(body);
    return g;
}

static void need_whole(const struct grounded *g)
{
    FUZZ_NEED(g->readable && g->supported == g->claims && g->found == g->ngrams);
}

static void check_scores(const json_t *list, const struct grounded *g)
{
    double least = INFINITY, most = -INFINITY;
    int n = 0, texts = 0;
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)list, i, one)
    {
        const json_t *score = json_object_get(one, "score");
        texts += json_string_length(json_object_get(one, "text")) > 0;
        if (!json_is_number(score)) continue;
        n++;
        least = fmin(least, json_number_value(score));
        most = fmax(most, json_number_value(score));
    }
    FUZZ_NEED(g->passages == texts && g->scores == n);
    if (!n) return;
    double room = 1e-9 * fmax(fabs(least), fabs(most));
    FUZZ_NEED(g->score_least == least && g->score_mean >= least - room && g->score_mean <= most + room);
}

static json_t *rag_of(json_t *list)
{
    json_t *o = json_pack("{so}", "passages", list);
    FUZZ_NEED(o);
    return o;
}

static void check_more(const json_t *list, const char *answer, size_t n, const struct grounded_policy *p, const struct grounded *g)
{
    json_t *back = json_array(), *text = json_stringn(answer, n), *one;
    size_t i;
    json_array_foreach((json_t *)list, i, one) json_array_insert(back, 0, one);
    json_t *rag = rag_of(back);
    struct grounded is = measure(rag, answer, n, p);
    FUZZ_NEED(is.claims == g->claims && is.supported == g->supported && is.ngrams == g->ngrams && is.found == g->found && is.scores == g->scores);
    if (text && n && json_array_size(list) < RAG_PASSAGES_MAX) {
        json_array_append_new(back, json_pack("{sO}", "text", text));
        is = measure(rag, answer, n, p);
        need_whole(&is);
    }
    json_decref(text);
    json_decref(rag);
}

static void check_list(json_t *rag, const char *answer, size_t n, const struct grounded_policy *p, const struct grounded *g)
{
    const json_t *list = json_object_get(rag, "passages");
    size_t i;
    json_t *one;
    check_scores(list, g);
    json_array_foreach((json_t *)list, i, one)
    {
        const json_t *text = json_object_get(one, "text");
        struct grounded is = measure(rag, json_string_value(text), json_string_length(text), &(struct grounded_policy){1, p->ngram});
        need_whole(&is);
    }
    struct grounded less = measure(rag, answer, n, &(struct grounded_policy){p->support / 2, p->ngram});
    FUZZ_NEED(less.claims == g->claims && less.supported >= g->supported && less.found == g->found);
    check_more(list, answer, n, p, g);
    json_t *none = rag_of(json_array());
    struct grounded is = measure(none, answer, n, p);
    FUZZ_NEED(is.readable && is.passages == 0);
    json_decref(none);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned how = fuzz_byte(&data, &n);
    const struct grounded_policy p = {.support = (how / RAG_NGRAM_MAX + 1) / 52.0, .ngram = (int)(how % RAG_NGRAM_MAX) + 1};
    char *said = fuzz_until(&data, &n, 0), *answer = fuzz_text(data, n);
    size_t most = strlen(said) + 16;
    char *wrap = malloc(most);
    json_t *o = NULL;
    int len = snprintf(wrap, most, "{\"rag\":%s}", said);
    struct grounded g = measure(NULL, answer, n, &p);
    FUZZ_NEED(!g.sent && !g.readable);
    if (json_parse(wrap, (size_t)len, &o, NULL) == 0 && json_object_get(o, "rag")) {
        json_t *rag = json_object_get(o, "rag");
        g = measure(rag, answer, n, &p);
        if (g.readable) check_list(rag, answer, n, &p, &g);
    }
    json_decref(o);
    free(wrap);
    free(answer);
    free(said);
    return 0;
}
