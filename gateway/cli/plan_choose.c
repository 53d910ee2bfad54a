/* plan_choose: how many engines, of which settings. Fewest first; of slots, too. */
#include "gateway/cli/plan.h"
#include <math.h>
#include <stdlib.h>

#define SLOTS_SHIPPED 64 /* the default of max_slots */
#define SLOTS_MOST 4096
#define ENGINES_MOST 256
#define MB 1048576.0

static int column_of(const struct plan_settings *o)
{
    return o->percentile >= 99 ? 2 : o->percentile >= 90 ? 1 : 0;
}

/* NULL: it holds. */
static const char *missed(const struct plan_settings *o, const struct plan_engine *g)
{
    if (!o->streams && g->rate > g->most_rate * (double)o->full_percent / 100) return "what engines can do at most";
    if (g->ttft_ms[column_of(o)] > (double)o->ttft_ms) return "the time to the first token";
    if (g->tpot_ms[column_of(o)] > (double)o->tpot_ms) return "the time per output token";
    return NULL;
}

static double slot_bytes(const struct plan_case *c)
{
    return c->rank_mean * (double)c->o->rank_bytes;
}

static double fixed_bytes(const struct plan_case *c, const struct plan_engine *g)
{
    return (double)c->o->weight_bytes + (double)c->o->work_bytes + g->kv_tokens * (double)c->o->kv_token_bytes;
}

static bool fits(const struct plan_case *c, const struct plan_engine *g, int slots)
{
    double of_slots = fmin(slots, (double)c->o->adapters) * slot_bytes(c);
    return !c->o->memory_mb || fixed_bytes(c, g) + of_slots <= (double)c->o->memory_mb * MB;
}

/* The shipped slots, fewer where memory has no room for them; from there on the least power of two with few enough cold loads, as far as there are
 * adapters and memory for it. */
static void choose_slots(struct plan_case *c, struct plan_engine *g)
{
    const struct plan_settings *o = c->o;
    c->slots = o->max_slots ? (int)o->max_slots : SLOTS_SHIPPED;
    plan_engine(c, g);
    while (!o->max_slots && c->slots > 1 && !fits(c, g, c->slots)) c->slots /= 2;
    while (!o->max_slots && c->slots < SLOTS_MOST && c->slots < o->adapters && g->cold > (double)o->cold_percent / 100) {
        if (!fits(c, g, 2 * c->slots)) break;
        c->slots *= 2;
        g->cold = plan_cold(o, c->engines, c->slots, g->running);
    }
    plan_engine(c, g);
}

static double cost_of(double price, int engines, double tokens_s)
{
    return tokens_s > 0 ? price * engines / 3600 / tokens_s * 1e6 : 0;
}

static int power_from(int n)
{
    int out = 16;
    while (out < n) out *= 2;
    return out;
}

static void tell_rest(struct plan_case *c, struct plan_choice *out)
{
    const struct plan_settings *o = c->o;
    double price = strtod(o->price_hour, NULL), tokens = c->prompt.mean + c->output.mean;
    out->engines = c->engines;
    out->slots = c->slots;
    out->max_running = (int)fmin((double)o->max_running, power_from(out->peak.k_high));
    if (o->streams) {
        out->mean = out->peak;
    } else {
        c->rate = (double)o->requests_minute / 60;
        plan_engine(c, &out->mean);
    }
    out->kv_bytes = out->peak.kv_tokens * (double)o->kv_token_bytes;
    out->slot_bytes = fmin(c->slots, fmax((double)o->adapters, 0)) * slot_bytes(c);
    out->engine_bytes = (double)o->weight_bytes + (double)o->work_bytes + out->kv_bytes + out->slot_bytes;
    out->disk_bytes = (double)o->adapters * slot_bytes(c);
    out->cost_million = cost_of(price, c->engines, out->mean.prompt_tokens_s + out->mean.output_tokens_s);
    out->cost_million_full = cost_of(price, 1, out->peak.most_rate * (double)o->full_percent / 100 * tokens);
}

int plan_choose(const struct plan_settings *o, struct plan_choice *out, struct err *e)
{
    struct plan_case c;
    const char *miss = NULL;
    *out = (struct plan_choice){0};
    if (plan_begin(&c, o, e)) return -1;
    c.streams = (double)o->streams;
    for (c.engines = o->engines ? (int)o->engines : 1;; c.engines++) {
        c.rate = (double)(o->peak_minute ? o->peak_minute : o->requests_minute) / 60;
        choose_slots(&c, &out->peak);
        miss = missed(o, &out->peak);
        if (miss) out->limit = miss;
        if (!miss || o->engines || c.engines == ENGINES_MOST) break;
        /* No more than what time alone asks for is worth a look. */
        if (!o->streams && !o->engines) {
            int least = (int)fmin(c.rate / out->peak.most_rate, ENGINES_MOST) - 1;
            if (least > c.engines) c.engines = least;
        }
    }
    out->holds = !miss;
    tell_rest(&c, out);
    return 0;
}

/* --- another base --- */

static int64_t times(int64_t v, int64_t to, int64_t from)
{
    return llround((double)v * (double)to / (double)fmax((double)from, 1));
}

/* Steps and rows by the weights' bytes, which both read and multiply; contexts by the bytes of keys and values; ranks and loads by an adapter's. */
void plan_scale(struct plan_settings *o, const struct plan_profile *to)
{
    o->step_ns = times(o->step_ns, to->weight_bytes, o->weight_bytes);
    o->decode_row_ns = times(o->decode_row_ns, to->weight_bytes, o->weight_bytes);
    o->prefill_row_ns = times(o->prefill_row_ns, to->weight_bytes, o->weight_bytes);
    o->decode_context_ns = times(o->decode_context_ns, to->kv_token_bytes, o->kv_token_bytes);
    o->prefill_context_ns = times(o->prefill_context_ns, to->kv_token_bytes, o->kv_token_bytes);
    o->rank_ns = times(o->rank_ns, to->rank_bytes, o->rank_bytes);
    o->rank_row_ns = times(o->rank_row_ns, to->rank_bytes, o->rank_bytes);
    o->rank_bytes = to->rank_bytes;
    o->weight_bytes = to->weight_bytes;
    o->work_bytes = to->work_bytes;
    o->kv_token_bytes = to->kv_token_bytes;
    o->max_context = to->max_context;
}
