/* sched_gen: one request, from its copy to its end.
 *
 * A chosen token goes through take_token: it is remembered, decided about (end token, stop id, stop string, length),
 * turned into text and told as GEN_TOKEN. An end token is told too, with no text, since it was chosen and counts; text
 * that was held back comes with GEN_DONE.
 *
 *     end token and not ignore_eos, or a stop id    FINISH_STOP
 *     a stop string is complete                     FINISH_STOP, its text is the reason
 *     the grammar allows nothing but the end        FINISH_STOP
 *     max_tokens are chosen                         FINISH_LENGTH
 *
 * Before min_tokens the first two can't happen: the ids are banned in the sampler and stop strings are not looked for.
 *
 * Guarantees: GEN_DONE comes exactly once, after pages and pin were given back; no event after it. Memory that a
 * request needs is taken when it is submitted, bounded by its prompt and max_tokens.
 *
 * gen_new(): any thread. The rest: the step thread, without the lock. */
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const gen_finish_name[] = {"", "stop", "length", "cancelled", "error"};

/* --- the request --- */

static int copy_stops(struct gen *g, const struct gen_params *p)
{
    size_t bytes = 1;
    for (int i = 0; i < p->nstop; i++) bytes += strlen(p->stop[i]) + 1;
    char *at = g->strings = malloc(bytes);
    if (!at) return -1;
    for (int i = 0; i < p->nstop; i++) {
        size_t n = strlen(p->stop[i]) + 1;
        memcpy(at, p->stop[i], n);
        g->p.stop[i] = at;
        at += n;
    }
    return 0;
}

/* What may not be chosen before min_tokens. */
static int list_banned(struct gen *g, const struct sched *s)
{
    if (g->p.min_tokens == 0) return 0;
    g->banned = malloc(sizeof s->ends + sizeof g->p.stop_id);
    if (!g->banned) return -1;
    for (int i = 0; !g->p.ignore_eos && i < s->nends; i++) g->banned[g->nbanned++] = s->ends[i];
    for (int i = 0; i < g->p.nstop_id; i++) g->banned[g->nbanned++] = g->p.stop_id[i];
    return 0;
}

static int by_id(const void *x, const void *y)
{
    const struct token_bias *a = x, *b = y;
    return a->id < b->id ? -1 : a->id > b->id;
}

/* Sorted, each id once: biases for the same token are added. */
static int copy_bias(struct gen *g)
{
    int n = 0;
    if (g->p.nbias == 0) return 0;
    g->bias = malloc((size_t)g->p.nbias * sizeof *g->bias);
    if (!g->bias) return -1;
    memcpy(g->bias, g->p.bias, (size_t)g->p.nbias * sizeof *g->bias);
    qsort(g->bias, (size_t)g->p.nbias, sizeof *g->bias, by_id);
    for (int i = 0; i < g->p.nbias; i++) {
        if (n && g->bias[n - 1].id == g->bias[i].id)
            g->bias[n - 1].bias += g->bias[i].bias;
        else
            g->bias[n++] = g->bias[i];
    }
    g->p.nbias = n;
    return 0;
}

static void set_adapters(struct gen *g, const struct gen_request *r)
{
    g->npins = r->nadapters ? r->nadapters : r->digest != NULL;
    for (int i = 0; i < g->npins; i++) {
        struct gen_pin *p = &g->pin[i];
        p->g = g;
        p->weight = r->nadapters ? r->adapter[i].weight : 1;
        memcpy(p->digest, r->nadapters ? r->adapter[i].digest : r->digest, sizeof p->digest);
    }
}

static int claim_adapters(struct gen *g, struct err *e)
{
    for (int i = 0; i < g->npins; i++)
        if (!(g->pin[i].claim = lora_claim(g->s->loras, g->pin[i].digest, e))) return -1;
    return 0;
}

static int fill(struct gen *g, struct sched *s, const struct gen_request *r, struct err *e)
{
    int cap = r->nprompt + r->p.max_tokens;
    g->ids = malloc((size_t)cap * sizeof *g->ids);
    g->key = malloc((size_t)kv_pages_of(cap) * sizeof *g->key);
    if (!g->ids || !g->key || copy_stops(g, &r->p) || copy_bias(g) || list_banned(g, s))
        return err_set(e, ERR_NO_MEMORY, "no memory for a request");
    memcpy(g->ids, r->prompt, (size_t)r->nprompt * sizeof *g->ids);
    g->nids = g->nprompt = r->nprompt;
    g->told = g->prompt_logprobs ? 1 : g->nprompt;
    kv_key_root(&g->root, r->salt ? r->salt : "");
    if (kv_seq_init(&g->kv, cap, e) || (s->draft && kv_seq_init(&g->spec.kv, cap, e))) return -1;
    if (r->grammar && grammar_state_new(&g->grammar, r->grammar, e)) return -1;
    if (detok_init(&g->detok, s->m->tok, g->p.stop, g->p.nstop, e)) return -1;
    if (g->p.min_tokens > 0) g->detok.nstop = 0; /* until then */
    return 0;
}

int gen_new(struct gen **out, struct sched *s, const struct gen_request *r, struct err *e)
{
    if (check_request(s, r, e)) return -1;
    struct gen *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NO_MEMORY, "no memory for a request");
    g->s = s;
    g->p = r->p;
    g->on_event = r->on_event;
    g->user = r->user;
    g->submit_us = sched_now(s);
    g->class = r->class;
    g->deadline_us = r->deadline_ms > 0 ? g->submit_us + (int64_t)r->deadline_ms * 1000 : 0;
    g->place = PLACE_NONE;
    g->no_cache = r->no_prefix_cache;
    g->prompt_logprobs = r->prompt_logprobs;
    g->spec.len = SPEC_LEN;
    memcpy(g->id, r->id, sizeof g->id);
    memcpy(g->trace, r->trace, sizeof g->trace);
    set_adapters(g, r);
    if (claim_adapters(g, e) || fill(g, s, r, e)) {
        gen_free(g);
        return -1;
    }
    *out = g;
    return 0;
}

void gen_free(struct gen *g)
{
    kv_seq_close(&g->kv);
    kv_seq_close(&g->spec.kv);
    grammar_state_free(g->grammar);
    free(g->key);
    free(g->bias);
    detok_close(&g->detok);
    free(g->ids);
    free(g->strings);
    free(g->banned);
    for (int i = 0; i < g->npins; i++)
        if (g->pin[i].claim) lora_unclaim(g->s->loras, g->pin[i].claim);
    free(g);
}

/* --- its tokens --- */

static struct gen_counts counts_of(const struct gen *g)
{
    return (struct gen_counts){.prompt = g->nprompt, .cached = g->cached, .output = g->nout};
}

static struct gen_times times_of(const struct gen *g, int64_t now)
{
    int64_t admitted = g->admitted_us ? g->admitted_us : now, first = g->first_us ? g->first_us : now;
    int64_t queue = admitted - g->submit_us - g->load_us;
    return (struct gen_times){.queue_us = queue > 0 ? queue : 0,
                              .load_us = g->load_us,
                              .prefill_us = g->admitted_us ? first - admitted : 0,
                              .decode_us = g->first_us ? g->last_us - first : 0,
                              .paused_us = g->paused_us};
}

bool gen_is_stop_id(const struct gen *g, int32_t id)
{
    if (!g->p.ignore_eos && tokenizer_is_end(g->s->m->tok, id)) return true;
    for (int i = 0; i < g->p.nstop_id; i++)
        if (g->p.stop_id[i] == id) return true;
    return false;
}

/* Prefill is over. The span is the step thread's while the request runs. */
static void note_first(struct gen *g, int64_t now)
{
    struct sched *s = g->s;
    const struct sched_targets *t = &s->o.target[g->class];
    note_time(s, M_TTFT, now - g->submit_us);
    if (t->ttft_ms && s->metrics) {
        bool met = now - g->submit_us <= (int64_t)t->ttft_ms * 1000;
        metric_add(s->metrics, M_TARGETS, (const char *[]){sched_class_name[g->class], "ttft", met ? "met" : "missed"},
                   1);
    }
    trace_end(s->o.trace, g->span, now);
    g->span = trace_begin(s->o.trace, TRACE_DECODE, g->trace_id, now);
}

/* Over the whole answer, as its reader sees it. */
static void note_tpot(struct gen *g)
{
    struct sched *s = g->s;
    const struct sched_targets *t = &s->o.target[g->class];
    if (t->tpot_ms == 0 || g->nout < 2 || !s->metrics) return;
    bool met = (g->last_us - g->first_us) / (g->nout - 1) <= (int64_t)t->tpot_ms * 1000;
    metric_add(s->metrics, M_TARGETS, (const char *[]){sched_class_name[g->class], "tpot", met ? "met" : "missed"}, 1);
}

void gen_name_trace(struct gen *g)
{
    snprintf(g->trace_id, sizeof g->trace_id, "%.48s#%llu", g->id, (unsigned long long)g->number);
}

static void note_token_time(struct gen *g)
{
    int64_t now = sched_now(g->s);
    if (!g->first_us) {
        g->first_us = now;
        note_first(g, now);
    } else {
        note_time(g->s, M_ITL, now - g->last_us);
    }
    g->last_us = now;
}

void gen_tell_prompt(struct gen *g, const struct sample *samples, int n)
{
    struct gen_event ev = {.kind = GEN_PROMPT,
                           .samples = samples,
                           .first = g->told,
                           .nsamples = n,
                           .counts = counts_of(g),
                           .times = times_of(g, sched_now(g->s)),
                           .cold = g->cold};
    g->told += n;
    g->on_event(g->user, &ev);
}

void gen_take_token(struct gen *g, const struct sample *sample, bool over)
{
    const char *text = "";
    size_t len = 0;
    int stopped = 0;
    g->ids[g->nids++] = sample->id;
    g->nout++;
    note_token_time(g);
    if (g->nout >= g->p.min_tokens) g->detok.nstop = g->p.nstop;
    if (gen_is_stop_id(g, sample->id)) {
        g->finish = FINISH_STOP;
    } else {
        stopped = detok_push(&g->detok, sample->id, g->p.show_special, &text, &len);
        if (stopped > 0 || over)
            g->finish = FINISH_STOP;
        else if (g->nout >= g->p.max_tokens)
            g->finish = FINISH_LENGTH;
    }
    if (stopped < 0) {
        g->finish = FINISH_ERROR;
        err_set(&g->err, ERR_NO_MEMORY, "no memory for the answer's text");
        return;
    }
    struct gen_event ev = {.kind = GEN_TOKEN,
                           .sample = sample,
                           .text = text,
                           .text_len = len,
                           .counts = counts_of(g),
                           .times = times_of(g, g->last_us),
                           .cold = g->cold};
    g->on_event(g->user, &ev);
}

/* --- its end --- */

static void tell_done(struct gen *g, enum gen_finish finish, const struct err *e)
{
    const char *text = "";
    size_t len = 0;
    if (detok_flush(&g->detok, &text, &len) < 0) len = 0;
    int hit = finish == FINISH_STOP ? g->detok.stop_hit : -1;
    struct gen_event ev = {.kind = GEN_DONE,
                           .text = text,
                           .text_len = len,
                           .counts = counts_of(g),
                           .times = times_of(g, sched_now(g->s)),
                           .finish = finish,
                           .stop_reason = hit >= 0 && g->detok.stopped ? g->p.stop[hit] : NULL,
                           .error = finish == FINISH_ERROR ? e : NULL,
                           .cold = g->cold};
    note_add(g->s, M_SUCCESS, gen_finish_name[finish], 1);
    note_tpot(g);
    g->on_event(g->user, &ev);
}

static void forget_cancel(struct sched *s, struct gen *g)
{
    if (!g->cancel_asked) return;
    struct gen **at = &s->cancelled;
    while (*at != g) at = &(*at)->next_cancelled;
    *at = g->next_cancelled;
}

/* Out of every list and without pages; the pins are the caller's, to be given back without the lock. */
static int withdraw(struct sched *s, struct gen *g, struct lora_slot *slot[GEN_ADAPTERS])
{
    pthread_mutex_lock(&s->lock);
    queue_move(g, PLACE_NONE);
    if (g->admitted_us) admit_note_stay(s, sched_now(s) - g->admitted_us);
    kv_seq_release(&s->kv, &g->kv);
    if (s->draft) draft_release(s->draft, g);
    int n = pins_withdraw(g, slot);
    wants_leave(g);
    note_gauges(s);
    pthread_mutex_unlock(&s->lock);
    return n;
}

static void unpin(struct sched *s, struct lora_slot *const *slot, int n)
{
    for (int i = 0; i < n; i++) lora_unpin(s->loras, slot[i]);
}

void gen_end(struct gen *g, enum gen_finish finish, const struct err *e)
{
    struct sched *s = g->s;
    struct lora_slot *slot[GEN_ADAPTERS];
    if (s->pasts && finish != FINISH_ERROR) pasts_keep(s->pasts, g);
    unpin(s, slot, withdraw(s, g, slot));
    tell_done(g, finish, e);
    /* The caller knows now that it is over and asks for no cancel any more; pins may still come. */
    pthread_mutex_lock(&s->lock);
    forget_cancel(s, g);
    int n = pins_withdraw(g, slot);
    bool pins_on_their_way = g->ended = g->pins_left > 0;
    pthread_mutex_unlock(&s->lock);
    unpin(s, slot, n);
    if (!pins_on_their_way) gen_free(g);
}
