/* sched_gen: one request, from its copy to its end.
 *
 * A chosen token goes through take_token: it is remembered, decided about (end token, stop id, stop string, length),
 * turned into text and told as GEN_TOKEN. An end token is told too, with no text, since it was chosen and counts; text
 * that was held back comes with GEN_DONE.
 *
 *     end token and not ignore_eos, or a stop id    FINISH_STOP
 *     a stop string is complete                     FINISH_STOP, its text is the reason
 *     max_tokens are chosen                         FINISH_LENGTH
 *
 * Before min_tokens the first two can't happen: the ids are banned in the sampler and stop strings are not looked for.
 *
 * Guarantees: GEN_DONE comes exactly once, after pages and pin were given back; no event after it. Memory that a
 * request needs is taken when it is submitted, bounded by its prompt and max_tokens.
 *
 * gen_new(): any thread. The rest: the step thread, without the lock. */
#include "base/clock.h"
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const gen_finish_name[] = {"", "stop", "length", "cancelled", "error"};

/* --- the request --- */

static int check_stops(const struct gen_params *p, struct err *e)
{
    if (p->nstop < 0 || p->nstop > GEN_STOPS)
        return err_field(e, ERR_INVALID, "stop", "at most %d stop strings", GEN_STOPS);
    if (p->nstop_id < 0 || p->nstop_id > GEN_STOP_IDS)
        return err_field(e, ERR_INVALID, "stop_token_ids", "at most %d stop ids", GEN_STOP_IDS);
    for (int i = 0; i < p->nstop; i++) {
        size_t n = strlen(p->stop[i]);
        if (n == 0 || n >= DETOK_STOP_BYTES)
            return err_field(e, ERR_INVALID, "stop", "a stop string has 1 to %d bytes, not %zu", DETOK_STOP_BYTES - 1,
                             n);
    }
    return 0;
}

static int check_params(const struct gen_params *p, struct err *e)
{
    if (p->max_tokens < 1)
        return err_field(e, ERR_INVALID, "max_tokens", "max_tokens is %d: at least 1", p->max_tokens);
    if (p->min_tokens < 0 || p->min_tokens > p->max_tokens)
        return err_field(e, ERR_INVALID, "min_tokens", "min_tokens is %d: 0 to max_tokens, %d", p->min_tokens,
                         p->max_tokens);
    if (!(p->sample.temperature >= 0) || isinf(p->sample.temperature))
        return err_field(e, ERR_INVALID, "temperature", "temperature must be a number of at least 0");
    return check_stops(p, e);
}

static int check(const struct sched *s, const struct gen_request *r, struct err *e)
{
    if (check_params(&r->p, e)) return -1;
    if (r->nprompt < 1) return err_set(e, ERR_INVALID, "the prompt has no tokens");
    int64_t all = (int64_t)r->nprompt + r->p.max_tokens;
    if (all > s->m->max_context)
        return err_set(e, ERR_CONTEXT_LENGTH, "the prompt's %d tokens and max_tokens %d exceed the context of %d",
                       r->nprompt, r->p.max_tokens, s->m->max_context);
    if (kv_pages_of((int)all - 1) > s->kv.cache.pages)
        return err_set(e, ERR_CONTEXT_LENGTH,
                       "the prompt's %d tokens and max_tokens %d exceed the KV pool of %d tokens", r->nprompt,
                       r->p.max_tokens, s->kv.cache.pages * KV_PAGE);
    for (int i = 0; i < r->nprompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= s->m->vocab)
            return err_set(e, ERR_INVALID, "token %d of the prompt is %d: ids are 0 to %d", i, r->prompt[i],
                           s->m->vocab - 1);
    if (r->digest && !sha256_is_hex(r->digest))
        return err_set(e, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", r->digest);
    return 0;
}

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

static int fill(struct gen *g, struct sched *s, const struct gen_request *r, struct err *e)
{
    int cap = r->nprompt + r->p.max_tokens;
    g->ids = malloc((size_t)cap * sizeof *g->ids);
    if (!g->ids || copy_stops(g, &r->p) || list_banned(g, s))
        return err_set(e, ERR_NO_MEMORY, "no memory for a request");
    memcpy(g->ids, r->prompt, (size_t)r->nprompt * sizeof *g->ids);
    g->nids = g->nprompt = r->nprompt;
    if (kv_seq_init(&g->kv, cap, e)) return -1;
    if (detok_init(&g->detok, s->m->tok, g->p.stop, g->p.nstop, e)) return -1;
    if (g->p.min_tokens > 0) g->detok.nstop = 0; /* until then */
    return 0;
}

int gen_new(struct gen **out, struct sched *s, const struct gen_request *r, struct err *e)
{
    if (check(s, r, e)) return -1;
    struct gen *g = calloc(1, sizeof *g);
    if (!g) return err_set(e, ERR_NO_MEMORY, "no memory for a request");
    g->s = s;
    g->p = r->p;
    g->on_event = r->on_event;
    g->user = r->user;
    g->submit_us = clock_mono_us();
    g->deadline_us = r->deadline_ms > 0 ? g->submit_us + (int64_t)r->deadline_ms * 1000 : 0;
    g->adapted = g->pin_pending = r->digest != NULL;
    g->place = PLACE_NONE;
    memcpy(g->id, r->id, sizeof g->id);
    if (r->digest) memcpy(g->digest, r->digest, sizeof g->digest);
    if (fill(g, s, r, e)) {
        gen_free(g);
        return -1;
    }
    *out = g;
    return 0;
}

void gen_free(struct gen *g)
{
    kv_seq_close(&g->kv);
    detok_close(&g->detok);
    free(g->ids);
    free(g->strings);
    free(g->banned);
    free(g);
}

/* --- its tokens --- */

static struct gen_counts counts_of(const struct gen *g)
{
    return (struct gen_counts){.prompt = g->nprompt, .output = g->nout};
}

static bool is_stop_id(const struct gen *g, int32_t id)
{
    if (!g->p.ignore_eos && tokenizer_is_end(g->s->m->tok, id)) return true;
    for (int i = 0; i < g->p.nstop_id; i++)
        if (g->p.stop_id[i] == id) return true;
    return false;
}

static void note_token_time(struct gen *g)
{
    int64_t now = clock_mono_us();
    if (!g->first_us) {
        g->first_us = now;
        note_time(g->s, M_TTFT, now - g->submit_us);
    } else {
        note_time(g->s, M_ITL, now - g->last_us);
    }
    g->last_us = now;
}

void gen_take_token(struct gen *g, const struct sample *sample)
{
    const char *text = "";
    size_t len = 0;
    int stopped = 0;
    g->ids[g->nids++] = sample->id;
    g->nout++;
    note_token_time(g);
    if (g->nout >= g->p.min_tokens) g->detok.nstop = g->p.nstop;
    if (is_stop_id(g, sample->id)) {
        g->finish = FINISH_STOP;
    } else {
        stopped = detok_push(&g->detok, sample->id, g->p.show_special, &text, &len);
        if (stopped > 0)
            g->finish = FINISH_STOP;
        else if (g->nout >= g->p.max_tokens)
            g->finish = FINISH_LENGTH;
    }
    if (stopped < 0) {
        g->finish = FINISH_ERROR;
        err_set(&g->err, ERR_NO_MEMORY, "no memory for the answer's text");
        return;
    }
    struct gen_event ev = {
        .kind = GEN_TOKEN, .sample = sample, .text = text, .text_len = len, .counts = counts_of(g), .cold = g->cold};
    g->on_event(g->user, &ev);
}

/* --- its end --- */

static void tell_done(struct gen *g, enum gen_finish finish, const struct err *e)
{
    const char *text = "";
    size_t len = 0;
    if (detok_flush(&g->detok, &text, &len) < 0) len = 0;
    int64_t now = clock_mono_us(), admitted = g->admitted_us ? g->admitted_us : now,
            first = g->first_us ? g->first_us : now;
    int hit = finish == FINISH_STOP ? g->detok.stop_hit : -1;
    struct gen_event ev = {.kind = GEN_DONE,
                           .text = text,
                           .text_len = len,
                           .counts = counts_of(g),
                           .finish = finish,
                           .stop_reason = hit >= 0 && g->detok.stopped ? g->p.stop[hit] : NULL,
                           .error = finish == FINISH_ERROR ? e : NULL,
                           .cold = g->cold,
                           .queued_us = admitted - g->submit_us,
                           .prefill_us = g->admitted_us ? first - admitted : 0,
                           .decode_us = g->first_us ? g->last_us - first : 0};
    note_add(g->s, M_SUCCESS, gen_finish_name[finish], 1);
    g->on_event(g->user, &ev);
}

static void forget_cancel(struct sched *s, struct gen *g)
{
    if (!g->cancel_asked) return;
    struct gen **at = &s->cancelled;
    while (*at != g) at = &(*at)->next_cancelled;
    *at = g->next_cancelled;
}

/* Out of every list and without pages; returns the pin, which has to be given back without the lock. */
static struct lora_slot *withdraw(struct sched *s, struct gen *g)
{
    pthread_mutex_lock(&s->lock);
    queue_move(g, PLACE_NONE);
    kv_seq_release(&s->kv, &g->kv);
    s->pages_used = s->kv.cache.pages - s->kv.nfree;
    struct lora_slot *slot = g->slot;
    g->slot = NULL;
    note_gauges(s);
    pthread_mutex_unlock(&s->lock);
    return slot;
}

void gen_end(struct gen *g, enum gen_finish finish, const struct err *e)
{
    struct sched *s = g->s;
    struct lora_slot *slot = withdraw(s, g);
    if (slot) lora_unpin(s->loras, slot);
    tell_done(g, finish, e);
    /* The caller knows now that it is over and asks for no cancel any more; a pin may still come. */
    pthread_mutex_lock(&s->lock);
    forget_cancel(s, g);
    slot = g->slot;
    bool pin_on_its_way = g->ended = g->pin_pending;
    pthread_mutex_unlock(&s->lock);
    if (pin_on_its_way) return;
    if (slot) lora_unpin(s->loras, slot);
    gen_free(g);
}
