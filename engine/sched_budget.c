/* sched_budget: how many rows of prompts the next step computes, and whose.
 *
 * Idea: all that a running sequence notices of a prompt beside it is a longer step. So where sequences decode, the step gets as long as the
 * shortest TPOT target among their classes allows: the model of steps (sched_cost.c) says what decoding alone takes, and the rest of the
 * time is filled with prompts. They are served by level, then those of tenants that run least, each by its weight, then those of
 * adapters that run least, for they get the least of each step; then the one with the least left, so that a short prompt doesn't wait behind a long one.
 *
 * Whoever comes waits for the step to end. That matters to those who are rare: whose tenant or adapter has a RARE-th of the requests that another
 * has, running or waiting. (Counting those that run alone, chance made one of eight
 * equal tenants rare at any time, and all lost up to a quarter of their tokens/s to short steps.) While there are such, and for RARE_US after, a step with prompts takes no longer than step_ms, or STRETCH times what decoding alone
 * takes where that is more (a big model's weights should be read for more than a handful of rows); up to twice as long, within the target,
 * where that ends prompts of the rare. Among equals steps stay long: many rows a step are computed quicker, by a tenth to a quarter.
 *
 * Where decoding alone takes more than half of step_ms, such a step is long whatever is left out of it. Then prompts of the rare get a step of
 * their own, an express, in which nobody decodes: no longer than another, and within the target together with decoding, or as long as decoding
 * where that takes more than half of the target. What it takes is owed, and paid off with what the steps that follow have for prompts and don't use,
 * to which end prompts of others get less; until then, and where the fixed part of a step is most of decoding, only what ends a prompt and is within the same bound goes ahead. So a flood of the rare
 * costs decoding no more than prompts in its own steps would. No express follows another at once.
 *
 * Guarantees: prompts get a quarter (an eighth while something is owed) of the target's time in nearly every step, or of decoding's where that alone takes longer than the target, and of
 * this the oldest prompt a quarter, one row at least: so no prompt starves, and decoding is not much slower than it has to be. (A least
 * number of rows instead would break the target of those beside a prompt of 32,000 tokens: sixteen rows there look back on half a million
 * positions.) Decoding never waits; no more than step_tokens rows. Where nobody is rare, and without a target or anybody decoding, that
 * is the only limit.
 *
 * Chunks of a page and more are whole pages, so that what is computed can be shared at once (sched_prefix.c).
 *
 * With the lock held; step thread, but for budget_target_us(). */
#include "engine/sched_impl.h"
#include <math.h>

#define AIM 0.9 /* of a target: estimates err to both sides */
#define REST                                                                                                           \
    4 /* where the target can't be held one step of so many has no prompt, or the model couldn't tell what decoding takes alone */
#define STRETCH 2 /* times what decoding takes */
#define RARE 6
#define RARE_US 60000000
#define LEAST 0.25 /* of the time: for prompts in each step, and of this for the oldest */
#define OWING 0.5  /* of the least, while an express is not paid off */

double budget_target_us(const struct sched *s)
{
    double least = 0;
    for (const struct gen *g = s->running.first; g; g = g->next) {
        double target = s->o.target[g->class].tpot_ms * 1000.0;
        if (g->decodes && target > 0 && (least == 0 || target < least)) least = target;
    }
    return AIM * least;
}

int budget_ranks(const struct gen *g, int at)
{
    int sum = 0;
    for (int i = 0; i < g->npins; i++) sum += g->pin[i].from <= at ? lora_rank_pad(g->pin[i].slot->max_rank) : 0;
    return sum;
}

/* Of each of those rows the ranks, summed: an adapter that is called by a text counts from there on. */
static double rank_rows_of(const struct gen *g, int at, int rows)
{
    double sum = 0;
    for (int i = 0; i < g->npins; i++) {
        int from = g->pin[i].from > at ? g->pin[i].from : at;
        if (from < at + rows) sum += (double)(at + rows - from) * lora_rank_pad(g->pin[i].slot->max_rank);
    }
    return sum;
}

/* Of the adapters that a sequence uses before position `end` and that no sequence marked before. */
static int new_ranks(struct sched *s, const struct gen *g, int end)
{
    int sum = 0;
    for (int i = 0; i < g->npins; i++) {
        struct want *w = g->pin[i].want;
        if (w->mark == s->marks || g->pin[i].from >= end) continue;
        w->mark = s->marks;
        sum += lora_rank_pad(g->pin[i].slot->max_rank);
    }
    return sum;
}

/* Of the adapters of all that run; each once. */
static int ranks_of(struct sched *s)
{
    int sum = 0;
    s->marks++;
    for (const struct gen *g = s->running.first; g; g = g->next) sum += new_ranks(s, g, g->nids);
    return sum;
}

void budget_note_ranks(struct sched *s, struct plan *p)
{
    p->shape.ranks = 0;
    s->marks++;
    for (int i = 0; i < p->nparts; i++) {
        const struct part *a = &p->part[i];
        p->shape.ranks += new_ranks(s, a->g, a->pos0 + a->rows + a->drafts);
    }
}

void budget_note_part(struct plan *p, const struct part *a, bool prompt)
{
    struct step_shape *w = &p->shape;
    w->rank_rows += rank_rows_of(a->g, a->pos0, a->rows + (prompt ? 0 : a->drafts));
    if (prompt) {
        w->prefill_rows += a->rows;
        w->prefill_context += cost_context(evict_looked(a->g->s, a->pos0), a->rows);
    } else {
        w->decode_rows += a->rows + a->drafts;
        w->decode_context += cost_context(evict_looked(a->g->s, a->pos0), a->rows + a->drafts);
    }
}

/* --- whose prompt --- */

/* Sequences that run with the same adapter, itself among them; of several adapters, with the one that most use. */
static int running_like(const struct gen *g)
{
    int n = g->npins ? 0 : g->s->base_running;
    for (int i = 0; i < g->npins; i++)
        if (g->pin[i].want->running > n) n = g->pin[i].want->running;
    return n;
}

static double share_of(const struct gen *g)
{
    return g->tenant->running / g->tenant->weight;
}

/* Requests that are there, running or waiting, of its tenant by the weight; and of its adapter, of several the one that most name. */
static double demand_of(const struct gen *g)
{
    return (g->tenant->running + g->tenant->waiting) / g->tenant->weight;
}

static int demand_like(const struct gen *g)
{
    int n = g->npins ? 0 : g->s->base_there;
    for (int i = 0; i < g->npins; i++)
        if (g->pin[i].want->refs > n) n = g->pin[i].want->refs;
    return n;
}

/* Somebody has RARE times as many as its tenant, or those with its adapter. */
static bool is_rare(const struct gen *g)
{
    return g->s->most_demand >= RARE * demand_of(g) || g->s->most_like >= RARE * demand_like(g);
}

/* Who has most; and are there rare ones? */
static void look_for_rare(struct sched *s)
{
    s->most_demand = s->most_like = 0;
    for (const struct gen *g = s->running.first; g; g = g->next) {
        s->most_demand = fmax(s->most_demand, demand_of(g));
        s->most_like = fmax(s->most_like, demand_like(g));
    }
    for (const struct gen *g = s->running.first; g; g = g->next)
        if (is_rare(g)) {
            s->rare_until_us = sched_now(s) + RARE_US;
            return;
        }
}

static bool is_before(const struct gen *a, const struct gen *b)
{
    int x = queue_level(a), y = queue_level(b);
    if (x != y) return x < y;
    double share_a = share_of(a), share_b = share_of(b);
    if (share_a != share_b) return share_a < share_b;
    int like_a = running_like(a), like_b = running_like(b);
    if (like_a != like_b) return like_a < like_b;
    int left_a = a->nids - a->done, left_b = b->nids - b->done;
    return left_a != left_b ? left_a < left_b : a->stamp < b->stamp;
}

static bool may_prefill(struct sched *s, struct gen *g)
{
    return g->nids - g->done > 1 && g->planned != s->marks && !prefix_awaits(s, g);
}

static struct gen *oldest_prompt(struct sched *s)
{
    for (struct gen *g = s->running.first; g; g = g->next)
        if (may_prefill(s, g)) return g;
    return NULL;
}

static struct gen *next_prompt(struct sched *s)
{
    struct gen *best = NULL;
    for (struct gen *g = s->running.first; g; g = g->next)
        if (may_prefill(s, g) && (!best || is_before(g, best))) best = g;
    return best;
}

/* --- how much of it --- */

static int least_of(int a, int b)
{
    return a < b ? a : b;
}

/* At most, and within the time; up to the end of a page, unless it is the prompt's end or there is no page's worth. */
static int rows_in_time(const struct sched *s, const struct gen *g, int most)
{
    int rows = cost_rows_within(&s->cost, s->left_us, evict_looked(s, g->done), budget_ranks(g, g->done), most);
    if (rows < KV_PAGE || rows == g->nids - g->done) return rows;
    return (g->done + rows) / KV_PAGE * KV_PAGE - g->done;
}

static double cost_of_rows(const struct sched *s, const struct gen *g, int rows)
{
    return cost_of_prompt(&s->cost, evict_looked(s, g->done), budget_ranks(g, g->done), rows);
}

static void add_prompt(struct sched *s, struct gen *g, int rows)
{
    g->planned = s->marks;
    s->left_us -= cost_of_rows(s, g, rows);
    plan_add_prompt(s, g, rows);
}

/* What a step with prompts may take, given what decoding takes. */
static double longest_us(const struct sched *s, double decode_us)
{
    double step = s->o.step_ms * 1000.0;
    if (step == 0 || sched_now(s) > s->rare_until_us) return INFINITY;
    return fmax(step, STRETCH * decode_us);
}

/* Prompts of those who are rare, to their ends, while the time that is spare allows it. */
static void serve_rare(struct sched *s, double spare_us)
{
    s->left_us += spare_us;
    for (struct gen *g; (g = next_prompt(s)) && is_rare(g);) {
        int left = g->nids - g->done;
        if (left > s->o.step_tokens - s->plan->rows || cost_of_rows(s, g, left) > s->left_us) break;
        add_prompt(s, g, left);
    }
    s->left_us = fmax(s->left_us - spare_us, 0);
}

/* What the oldest is sure of is set aside while others are served. */
static void serve(struct sched *s, struct gen *oldest)
{
    struct plan *p = s->plan;
    double aside = isfinite(s->left_us) ? LEAST * s->left_us : 0;
    s->left_us -= aside;
    for (struct gen *g; (g = next_prompt(s)) && p->rows < s->o.step_tokens;) {
        if (g == oldest) s->left_us += aside, aside = 0;
        int most = least_of(g->nids - g->done, s->o.step_tokens - p->rows), rows = rows_in_time(s, g, most);
        if (rows == 0 && g != oldest) break;
        add_prompt(s, g, rows ? rows : 1);
    }
    s->left_us += aside;
}

static double decoding_us(const struct sched *s)
{
    struct step_shape w = {.ranks = s->plan->shape.ranks};
    for (const struct gen *g = s->running.first; g; g = g->next) {
        if (g->nids - g->done != 1) continue;
        w.decode_rows++;
        w.decode_context += cost_context(evict_looked(s, g->done), 1);
        w.rank_rows += budget_ranks(g, g->done);
    }
    return w.decode_rows ? cost_of(&s->cost, &w) : 0;
}

static struct gen *next_rare(struct sched *s)
{
    struct gen *g = next_prompt(s);
    return g && g->class != CLASS_BATCH && is_rare(g) ? g : NULL;
}

/* What prompts may take of a step with decoding, on the mean. */
static double share_us(double aim, double decode)
{
    return fmax(aim - decode, LEAST * fmax(aim, decode));
}

/* What an express may take now beside its fixed part, given what decoding takes. */
static double express_us(const struct sched *s, double decode)
{
    double target = budget_target_us(s), all = longest_us(s, decode);
    if (STRETCH * decode <= s->o.step_ms * 1000.0) return 0;
    if (target > 0) all = fmin(all, fmax(target - decode, decode));
    return fmax(all - s->owed_us - cost_us(&s->cost, COST_STEP), 0);
}

/* Prompts of the rare while there is time; `whole`: not only a part of the first one. */
static void fill_express(struct sched *s, bool whole)
{
    for (struct gen *g; s->left_us > 0 && (g = next_rare(s)) && s->plan->rows < s->o.step_tokens;) {
        int left = g->nids - g->done, rows = rows_in_time(s, g, least_of(left, s->o.step_tokens - s->plan->rows));
        if (rows == 0 || (s->plan->rows == 0 && whole && rows < left)) break;
        add_prompt(s, g, rows);
    }
}

bool budget_express(struct sched *s)
{
    bool just_before = s->express;
    s->express = false;
    if (s->o.step_ms == 0 || just_before) return false;
    s->plan->shape.ranks = ranks_of(s);
    look_for_rare(s);
    double fixed = cost_us(&s->cost, COST_STEP), decode = decoding_us(s), rows = express_us(s, decode);
    s->left_us = rows;
    fill_express(s, s->owed_us > 0 || STRETCH * fixed > decode);
    if (s->plan->rows == 0) return false;
    s->owed_us += fixed + rows - s->left_us;
    s->plan->budget_rows = s->plan->rows;
    return s->express = true;
}

/* Prompts of a step in which decoding takes so long; `longest`, and the target or INFINITY; `share`: theirs on the mean. */
static void fill_step(struct sched *s, struct gen *oldest, double decode, double longest, double target, double share)
{
    struct plan *p = s->plan;
    double aim = fmin(target, longest) - s->owed_us;
    double least = isfinite(aim) ? LEAST * fmax(aim, decode) * (s->owed_us > 0 ? OWING : 1) : 0;
    s->left_us = fmax(aim - decode, least);
    if (s->left_us == least && p->shape.decode_rows && s->steps % REST == 0) return;
    if (isfinite(aim)) p->budget_rows = cost_rows_within(&s->cost, s->left_us, evict_looked(s, oldest->done), budget_ranks(oldest, oldest->done), s->o.step_tokens);
    if (isfinite(longest)) serve_rare(s, fmax(fmin(target, 2 * longest) - decode, share) - s->left_us);
    serve(s, oldest);
    int most = least_of(oldest->nids - oldest->done, s->o.step_tokens - p->rows);
    if (!may_prefill(s, oldest) || most <= 0) return;
    int rows = rows_in_time(s, oldest, most);
    add_prompt(s, oldest, rows ? rows : 1);
}

/* What prompts had for them and did not use. */
static void pay_off(struct sched *s, double us)
{
    s->owed_us -= fmin(s->owed_us, fmax(us, 0));
}

void budget_prompts(struct sched *s)
{
    struct plan *p = s->plan;
    p->shape.ranks = ranks_of(s);
    p->budget_rows = -1;
    struct gen *oldest = oldest_prompt(s);
    if (oldest) look_for_rare(s);
    double target = budget_target_us(s), decode = cost_of(&s->cost, &p->shape), longest = longest_us(s, decode);
    if (target == 0) target = INFINITY;
    if (p->shape.decode_rows == 0) s->owed_us = 0;
    double share = share_us(fmin(target, longest), decode);
    if (oldest) fill_step(s, oldest, decode, longest, target, share);
    pay_off(s, share - (cost_of(&s->cost, &p->shape) - decode));
}

void budget_follow(struct sched *s, struct plan *p)
{
    double target = budget_target_us(s), decode = cost_of(&s->cost, &p->shape), longest = longest_us(s, decode);
    s->express = false;
    p->budget_rows = -1;
    pay_off(s, share_us(fmin(target == 0 ? INFINITY : target, longest), decode));
}
