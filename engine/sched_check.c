/* sched_check: what a request may say, before anything is copied or queued.
 *
 * Everything here is settled by the request, the model and the limits alone: a refusal is told to the caller at once and names the field. What
 * depends on the adapters themselves (can they be summed?) is settled when they are resident: sched_pin.c. Any thread. */
#include "engine/sched_impl.h"
#include <math.h>
#include <string.h>

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

static int check_bias(const struct sched *s, const struct gen_params *p, struct err *e)
{
    if (p->nbias < 0 || p->nbias > GEN_BIAS_MAX)
        return err_field(e, ERR_INVALID, "logit_bias", "at most %d tokens", GEN_BIAS_MAX);
    for (int i = 0; i < p->nbias; i++)
        if (p->bias[i].id < 0 || p->bias[i].id >= s->m->vocab || !isfinite(p->bias[i].bias))
            return err_field(e, ERR_INVALID, "logit_bias", "token %d: ids are 0 to %d, a bias is a number",
                             p->bias[i].id, s->m->vocab - 1);
    return 0;
}

static int check_adapter(const struct sched *s, const char *digest, struct err *e)
{
    if (s->loras && digest && sha256_is_hex(digest)) return 0; /* known? gen_new() claims it */
    return err_set(e, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", digest ? digest : "");
}

static int lora_max_slots_of(const struct sched *s)
{
    return s->loras ? lora_max_slots(s->loras) : 0;
}

static int check_adapters(const struct sched *s, const struct gen_request *r, struct err *e)
{
    int n = r->nadapters;
    if (n < 0 || n > GEN_ADAPTERS) return err_set(e, ERR_INVALID, "at most %d adapters on a request", GEN_ADAPTERS);
    if (n == 0 && r->digest) return check_adapter(s, r->digest, e);
    if (n > 1 && n > lora_max_slots_of(s))
        return err_set(e, ERR_INVALID, "%d adapters on a request: this engine holds %d", n, lora_max_slots_of(s));
    for (int i = 0; i < n; i++) {
        const char *digest = r->adapter[i].digest;
        if (check_adapter(s, digest, e)) return -1;
        if (!(fabsf(r->adapter[i].weight) <= GEN_WEIGHT_MAX))
            return err_set(e, ERR_INVALID, "the weight of an adapter is at most %g", (double)GEN_WEIGHT_MAX);
        for (int k = 0; k < i; k++)
            if (strcmp(digest, r->adapter[k].digest) == 0)
                return err_set(e, ERR_INVALID, "the adapter %s is named twice", digest);
    }
    return 0;
}

static int check_params(const struct sched *s, const struct gen_params *p, struct err *e)
{
    if (p->max_tokens < 1)
        return err_field(e, ERR_INVALID, "max_tokens", "max_tokens is %d: at least 1", p->max_tokens);
    if (p->min_tokens < 0 || p->min_tokens > p->max_tokens)
        return err_field(e, ERR_INVALID, "min_tokens", "min_tokens is %d: 0 to max_tokens, %d", p->min_tokens,
                         p->max_tokens);
    if (!(p->sample.temperature >= 0) || isinf(p->sample.temperature))
        return err_field(e, ERR_INVALID, "temperature", "temperature must be a number of at least 0");
    return check_bias(s, p, e) || check_stops(p, e);
}

int check_request(const struct sched *s, const struct gen_request *r, struct err *e)
{
    if (check_adapters(s, r, e)) return -1;
    if (check_params(s, &r->p, e)) return -1;
    if (r->nprompt < 1) return err_set(e, ERR_INVALID, "the prompt has no tokens");
    int64_t all = (int64_t)r->nprompt + r->p.max_tokens;
    if (all > s->m->max_context)
        return err_set(e, ERR_CONTEXT_LENGTH, "the prompt's %d tokens and max_tokens %d exceed the context of %d",
                       r->nprompt, r->p.max_tokens, s->m->max_context);
    if (evict_most(s, (int)all - 1) > s->kv.cache.pages)
        return err_set(e, ERR_CONTEXT_LENGTH,
                       "the prompt's %d tokens and max_tokens %d exceed the KV pool of %d tokens", r->nprompt,
                       r->p.max_tokens, s->kv.cache.pages * KV_PAGE);
    for (int i = 0; i < r->nprompt; i++)
        if (r->prompt[i] < 0 || r->prompt[i] >= s->m->vocab)
            return err_set(e, ERR_INVALID, "token %d of the prompt is %d: ids are 0 to %d", i, r->prompt[i],
                           s->m->vocab - 1);
    if (r->salt && strlen(r->salt) >= GEN_SALT_LEN)
        return err_field(e, ERR_INVALID, "cache_salt", "at most %d bytes", GEN_SALT_LEN - 1);
    return 0;
}
