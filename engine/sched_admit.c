/* sched_admit: whether a request with a deadline can meet it, told at once.
 *
 * Idea: a refusal in the first millisecond lets the caller go elsewhere; one after the deadline helps nobody. What has to happen before the
 * first token is known: prompts of those who go first are computed, places come free, an adapter is loaded. What that takes is
 * estimated from the model of steps (sched_cost.c) and from the last requests:
 *
 *     prompts   tokens ahead: of the tenant's own requests that wait, times how many such shares go round, at most all that wait; less
 *               what the prefix cache usually has; plus its own; in chunks beside the sequences that decode
 *     places    where all are taken and nobody has to yield: requests ahead, one place coming free every (mean stay / places)
 *     adapter   the mean load, unless it is held
 *
 * Only waiting requests of the same level and above count. Before enough steps were seen nothing is refused.
 *
 * With the scheduler's lock held, any thread. */
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <math.h>

#define KEPT_PART 8 /* of max_waiting */
#define SEEN_STEPS 16 /* to trust the model */
#define FADE 0.9      /* of the means of stays and loads */
#define SECONDS_MAX 3600

/* --- means --- */

static double mean(double old, double v)
{
    return old > 0 ? FADE * old + (1 - FADE) * v : v;
}

void admit_note_load(struct sched *s, int64_t us)
{
    s->load_us = mean(s->load_us, (double)us);
}

void admit_note_stay(struct sched *s, int64_t us)
{
    s->stay_us = mean(s->stay_us, (double)us);
}

/* --- what is ahead --- */

struct ahead {
    double tokens, requests; /* in turns before */
    double own, own_requests;
    double shares; /* how many of the tenant's share go round */
};

static void add_waiting(struct ahead *a, const struct gen_list *l, bool own)
{
    double tokens = 0;
    for (const struct gen *g = l->first; g; g = g->next) tokens += g->nprompt;
    a->tokens += tokens;
    a->requests += l->n;
    if (!own) return;
    a->own += tokens;
    a->own_requests += l->n;
}

static struct ahead count_ahead(const struct sched *s, const struct tenant *mine, enum sched_class class)
{
    struct ahead a = {0};
    double weights = mine->waiting ? 0 : mine->weight;
    for (const struct tenant *t = s->active.first; t; t = t->next) {
        if (t->waiting) weights += t->weight;
        for (int c = 0; c <= (int)class; c++) {
            add_waiting(&a, &t->ready[c], t == mine);
            add_waiting(&a, &t->wanting[c], t == mine);
        }
    }
    a.shares = weights / mine->weight;
    return a;
}

/* Prompt tokens of running sequences that are not computed yet, and the shape of their decoding. */
static double left_of_running(const struct sched *s, struct step_shape *w)
{
    double left = 0;
    for (const struct gen *g = s->running.first; g; g = g->next) {
        left += g->decodes ? 0 : g->nprompt;
        w->decode_rows++;
        w->decode_context += g->nprompt;
        w->rank_rows += budget_ranks(g, g->nids);
    }
    return left;
}

/* --- the estimate --- */

/* `own`: of those tokens, the request's. What the others look back on is not known; ranks, its own as well, are taken to be those of who runs. */
static double time_of_prompts(const struct sched *s, double tokens, int own, const struct step_shape *beside)
{
    double step = cost_of(&s->cost, beside), target = budget_target_us(s), least_us = fmax(target, step) / 4;
    int most = s->o.step_tokens - beside->decode_rows, rows = most > 1 ? most : 1;
    int ranks = beside->decode_rows ? (int)(beside->rank_rows / beside->decode_rows) : 0;
    if (target > 0 && beside->decode_rows) {
        int within = cost_rows_within(&s->cost, fmax(target - step, least_us), own / 2, ranks, rows);
        rows = within > 1 ? within : 1;
    }
    double steps = ceil(tokens / rows), each = cost_us(&s->cost, COST_PREFILL_ROW) + ranks * cost_us(&s->cost, COST_RANK_ROW);
    return steps * step + tokens * each + cost_context(0, own) * cost_us(&s->cost, COST_PREFILL_CONTEXT);
}

static double least(double a, double b)
{
    return a < b ? a : b;
}

double admit_estimate_us(const struct sched *s, const struct gen *g, const struct tenant *t)
{
    struct step_shape beside = {0};
    struct ahead a = count_ahead(s, t, g->class);
    double hits = s->prefix_queries ? (double)s->prefix_hits / (double)s->prefix_queries : 0;
    double tokens = least(a.tokens, a.own * a.shares) + left_of_running(s, &beside);
    double requests = least(a.requests, a.own_requests * a.shares) + 1;
    double us = time_of_prompts(s, tokens * (1 - hits) + g->nprompt, g->nprompt, &beside);
    int places = s->o.max_running - s->running.n;
    bool takes = t->running == 0 && s->running.n > 1; /* others will have to yield */
    if (requests > places && !takes) us += (requests - places) * s->stay_us / s->o.max_running;
    for (int i = 0; i < g->npins; i++)
        if (g->pin[i].want->held == 0 && !lora_resident(s->loras, g->pin[i].digest)) us += s->load_us;
    return us;
}

static int seconds(double us)
{
    double sec = ceil(us / 1e6);
    return sec < 1 ? 1 : sec > SECONDS_MAX ? SECONDS_MAX : (int)sec;
}

static int refuse_full(const struct sched *s, struct err *e)
{
    if (e) e->retry_after_s = seconds(s->stay_us / s->o.max_running);
    return err_set(e, ERR_QUEUE_FULL, "%d requests wait already: try again later", s->waiting);
}

/* The last places are for tenants that have few: whose turn comes first by its counter must be able to come in, whoever fills the queue. */
static bool is_full(const struct sched *s, const struct tenant *t)
{
    int kept = s->o.max_waiting / KEPT_PART;
    return s->waiting >= s->o.max_waiting || (s->waiting >= s->o.max_waiting - kept && t->waiting >= kept);
}

int admit_check(struct sched *s, const struct gen *g, const struct tenant *t, struct err *e)
{
    if (is_full(s, t)) return refuse_full(s, e);
    if (s->cost.seen < SEEN_STEPS || !g->deadline_us) return 0;
    double us = admit_estimate_us(s, g, t), may_us = (double)(g->deadline_us - g->submit_us), late = us - may_us;
    if (late <= 0) return 0;
    if (e) e->retry_after_s = seconds(late);
    return err_set(e, ERR_DEADLINE,
                   "the first token is expected in %.0f ms, the deadline is in %.0f: try again in %d s", us / 1000,
                   may_us / 1000, seconds(late));
}
