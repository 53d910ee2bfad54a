/* plan: an engine as a queue.
 *
 * Steps cost what engine/sched_cost.c says. With k sequences in an engine each of its requests takes, of its time,
 *
 *     work(k) = prompt + (output - 1) rows + (output - 1 + chunks) / k * (step + ranks of the distinct adapters of k - rows that are free)
 *
 * so it ends k requests in k work(k). Requests that come by chance and share a server whose speed depends on their number are in it with chances
 * that are products (the order in which they are served, and how their lengths are spread, does not matter: Cohen 1979):
 *
 *     P(k) ~ rate^k work(1) ... work(k),  from max_running on with work(max_running)
 *
 * First tokens: who comes waits for the step that runs or for the prompts before it (Pollaczek and Khinchine, an exponential tail), for its adapter where that is cold, and then
 * for the steps that compute its prompt. Each combination of state, prompt, wait and adapter is a value with a chance; percentiles are read off them sorted.
 *
 * Where that is wrong and by how much: docs/PLANNING.md, from weft-simulate and from the bench. */
#include "gateway/cli/plan.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define AIM 0.9 /* of the target, and a quarter of the time at least: engine/sched_budget.c */
#define LEAST 0.25
#define WAITS 10 /* equally likely parts of a wait that is not none */
#define PHASES 4 /* of a step */
#define RARE 1e-5
#define EVEN 1.6 /* found with weft-simulate */
#define VALUES_MAX 400000

const struct conf_row plan_rows[] = {
#define X(...) CONF_ROW(struct plan_settings, __VA_ARGS__)
#include "schema/profile.def"
#include "schema/plan_settings.def"
#undef X
};
const size_t plan_nrows = CONF_ROWS(plan_rows);

/* --- lengths --- */

/* Inverse of the normal distribution, by halving: 50 times is exact. */
static double normal_at(double part)
{
    double low = -8, high = 8;
    for (int i = 0; i < 50; i++) {
        double mid = (low + high) / 2;
        if (0.5 * erfc(-mid / M_SQRT2) < part)
            low = mid;
        else
            high = mid;
    }
    return low;
}

void plan_length(struct plan_length *l, double median, double sigma, double most)
{
    enum { FINE = 40 };
    *l = (struct plan_length){0};
    for (int i = 0; i < PLAN_QUANTILES * FINE; i++) {
        double x = fmin(fmax(median * exp(sigma * normal_at((i + 0.5) / (PLAN_QUANTILES * FINE))), 1), most);
        l->at[i / FINE] += x / FINE;
        l->mean += x / (PLAN_QUANTILES * FINE);
        l->square += x * x / (PLAN_QUANTILES * FINE);
        l->triangle += x * (x - 1) / 2 / (PLAN_QUANTILES * FINE);
    }
}

/* --- adapters --- */

/* Of the adapter that is the i-th in popularity, from 0: calls with each group of alike ones, few at the beginning and many where they hardly differ. */
struct group {
    double each, count; /* part of the requests of each; how many */
};
#define GROUPS_MAX 400

static int groups_of(const struct plan_settings *o, struct group v[GROUPS_MAX])
{
    int n = 0;
    double sum = 0, exponent = (double)o->zipf_percent / 100;
    for (int64_t at = 1; at <= o->adapters && n < GROUPS_MAX;) {
        int64_t width = at < 64 ? 1 : at / 32, last = at + width - 1 < o->adapters ? at + width - 1 : o->adapters;
        if (n == GROUPS_MAX - 1) last = o->adapters;
        v[n] = (struct group){pow((double)(at + last) / 2, -exponent), (double)(last - at + 1)};
        sum += v[n].each * v[n].count;
        n++;
        at = last + 1;
    }
    for (int i = 0; i < n; i++) v[i].each /= sum;
    return n;
}

double plan_ranks(const struct plan_case *c, double k, double *distinct)
{
    struct group v[GROUPS_MAX];
    int n = groups_of(c->o, v);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        /* At home on one engine of all, unless there are more requests than that: then on as many as it takes. */
        double here = fmin(v[i].each * c->engines, 1), homes = fmax(1, v[i].each * c->engines);
        sum += v[i].count / c->engines * fmin(homes, c->engines) * (1 - pow(1 - here, k));
    }
    if (distinct) *distinct = fmin(sum, k);
    return fmin(sum, k) * c->rank_mean;
}

/* --- cold loads --- */

#define HOT_SHARE 0.25 /* gateway/pool/place.h */
#define HOT_LEAST 2
#define HOT_MORE 12
#define HOT_PART 4
#define LOAD_BOUND 1.25
#define LOAD_FLOOR 4

static double copies_of(double part, int engines, double flight)
{
    double hot = part * engines * flight, each = fmax(HOT_SHARE * flight, HOT_LEAST);
    if (hot < each) return 1;
    return fmin(1 + hot / each + fmin(HOT_MORE, engines / HOT_PART), engines);
}

/* Chance that an engine is beyond its bound when somebody comes: its requests are a Poisson count of `flight`. */
static double spilled(int engines, double flight)
{
    double bound = fmax(ceil(LOAD_BOUND * flight + sqrt(flight)), LOAD_FLOOR), chance = exp(-flight), below = 0;
    if (engines == 1) return 0;
    for (int i = 0; i < bound; i++) {
        below += chance;
        chance *= flight / (i + 1);
    }
    return fmax(1 - below, 0);
}

/* What is resident where all that was used within `window` requests is, and what is missed then. */
static double held(const struct group *v, int n, int engines, double flight, double window, double *missed)
{
    double sum = 0, away = spilled(engines, flight);
    *missed = 0;
    for (int i = 0; i < n; i++) {
        double copies = copies_of(v[i].each, engines, flight), out = copies > 1 ? 0 : away;
        double home = v[i].each * (1 - out) / copies, other = v[i].each * out;
        sum += v[i].count * (copies * (1 - exp(-home * window)) + (1 - exp(-other * window)));
        *missed += v[i].count * (copies * home * exp(-home * window) + other * exp(-other * window));
    }
    return sum;
}

/* Che, Tung and Wang 2002: a store that drops the least recently used holds what was asked for within a time that is the same for all. */
double plan_cold(const struct plan_settings *o, int engines, int slots, double flight)
{
    struct group v[GROUPS_MAX];
    int n = groups_of(o, v);
    double low = 0, high = 1, missed = 0, most = (double)engines * slots;
    if (n == 0) return 0;
    while (held(v, n, engines, flight, high, &missed) < most && high < 1e15) high *= 2;
    if (high >= 1e15) return 0; /* all are resident */
    for (int i = 0; i < 60; i++) {
        double mid = (low + high) / 2;
        if (held(v, n, engines, flight, mid, &missed) < most)
            low = mid;
        else
            high = mid;
    }
    held(v, n, engines, flight, (low + high) / 2, &missed);
    return missed;
}

static double load_us(const struct plan_case *c, double busy)
{
    double idle = (double)c->o->load_fixed_us + c->rank_mean * (double)c->o->rank_bytes / (double)c->o->load_bytes_us;
    return idle * (1 + fmin(busy, 1) * ((double)c->o->load_busy_percent / 100 - 1));
}

/* --- steps --- */

static double ns(int64_t v)
{
    return (double)v / 1e3;
}

/* Positions that a decoding row looks back on, on the mean: longer answers have more rows. */
static double context_of(const struct plan_case *c)
{
    return c->prompt.mean + 1 + (c->output.mean > 1 ? c->output.triangle / (c->output.mean - 1) : 0) / 1;
}

/* A row, a prompt's as well, is multiplied with an adapter of its own. */
static double rank_row_us(const struct plan_case *c)
{
    return c->o->adapters ? c->rank_mean * ns(c->o->rank_row_ns) : 0;
}

static double row_us(const struct plan_case *c)
{
    return ns(c->o->decode_row_ns) + context_of(c) * ns(c->o->decode_context_ns) + rank_row_us(c);
}

/* Of k decoding rows, those that are done while the weights are read. */
static double free_us(const struct plan_case *c, double k)
{
    return fmin(k, (double)c->o->free_rows) * ns(c->o->decode_row_ns);
}

static double fixed_us(const struct plan_case *c, double k)
{
    return ns(c->o->step_ns) + ns(c->o->rank_ns) * plan_ranks(c, k, NULL);
}

double plan_step_us(const struct plan_case *c, double k)
{
    return fixed_us(c, k) + k * row_us(c) - free_us(c, k);
}

static double prompt_us(const struct plan_case *c, double rows)
{
    return rows * (ns(c->o->prefill_row_ns) + rank_row_us(c)) + rows * (rows + 1) / 2 * ns(c->o->prefill_context_ns);
}

static double prompts_us(const struct plan_case *c)
{
    return c->prompt.mean * (ns(c->o->prefill_row_ns) + rank_row_us(c)) + (c->prompt.square + c->prompt.mean) / 2 * ns(c->o->prefill_context_ns);
}

/* Prompt rows that a step has beside k that decode. */
static double chunk_of(const struct plan_case *c, double k)
{
    double rows = fmax((double)c->o->step_tokens - k, 16), decode = plan_step_us(c, k), target = AIM * 1e3 * (double)c->o->hold_tpot_ms;
    if (k < 1 || target <= 0) return rows;
    double left = fmax(target - decode, LEAST * fmax(target, decode));
    return fmin(rows, fmax(left / (ns(c->o->prefill_row_ns) + rank_row_us(c) + c->prompt.mean / 2 * ns(c->o->prefill_context_ns)), 1));
}

/* Steps of one prompt. */
static double chunks_of(const struct plan_case *c, double k)
{
    double rows = chunk_of(c, k), sum = 0;
    for (int i = 0; i < PLAN_QUANTILES; i++) sum += ceil(c->prompt.at[i] / rows - 1e-9) / PLAN_QUANTILES;
    return sum;
}

/* Its part of the steps that it is in. */
static double steps_of(const struct plan_case *c, double k)
{
    return (c->output.mean - 1 + chunks_of(c, k - 1)) / k;
}

/* What its decoding rows take; of those in a step, steps with prompts among them, some are free. */
static double rows_us(const struct plan_case *c, double k)
{
    double rows = c->output.mean - 1, steps = steps_of(c, k);
    return rows * row_us(c) - steps * free_us(c, rows / steps);
}

double plan_work_us(const struct plan_case *c, double k)
{
    return prompts_us(c) + rows_us(c, k) + steps_of(c, k) * fixed_us(c, k);
}

/* Requests a second that come beside one that is there: of so many streams all but its own. */
static double others(const struct plan_case *c, const struct plan_engine *g)
{
    double streams = fmax(c->streams / c->engines, 1);
    return c->streams > 0 ? g->rate * (streams - 1) / streams : g->rate;
}

/* --- values with chances --- */

struct value {
    float at, chance;
};
struct values {
    struct value *v;
    int n;
};

static void add(struct values *s, double at, double chance)
{
    if (s->n < VALUES_MAX && chance > 0) s->v[s->n++] = (struct value){(float)at, (float)chance};
}

static int by_at(const void *a, const void *b)
{
    float x = ((const struct value *)a)->at, y = ((const struct value *)b)->at;
    return x < y ? -1 : x > y;
}

static void read_off(struct values *s, double out[4])
{
    static const double part[3] = {0.5, 0.9, 0.99};
    double sum = 0, mean = 0, upto = 0;
    int k = 0;
    qsort(s->v, (size_t)s->n, sizeof *s->v, by_at);
    for (int i = 0; i < s->n; i++) {
        sum += (double)s->v[i].chance;
        mean += (double)s->v[i].chance * (double)s->v[i].at;
    }
    for (int i = 0; i < s->n && k < 3; i++)
        for (upto += (double)s->v[i].chance; k < 3 && upto >= part[k] * sum;) out[k++] = (double)s->v[i].at / 1e3;
    while (k < 3) out[k++] = s->n ? (double)s->v[s->n - 1].at / 1e3 : 0;
    out[3] = sum > 0 ? mean / sum / 1e3 : 0;
    s->n = 0;
}

/* --- first tokens --- */

/* Prompts as a queue of their own, beside k that decode. Those with the least left come first, so each waits for the shorter ones: `before` and `wait` are
 * of prompts by their length. */
struct prompts {
    double chunk, decode, full; /* rows of a step; what decoding takes of it; the whole, with a mean prompt's rows */
    double busy;                /* of the time somebody's prompt is there */
    double before[PLAN_QUANTILES], wait[PLAN_QUANTILES], own[PLAN_QUANTILES];
    double mean;                /* from coming to the first token */
};

static void prompts_beside(const struct plan_case *c, double rate, double k, struct prompts *p)
{
    double sum = 0, squares = 0, each = rate / 1e6 / PLAN_QUANTILES;
    p->chunk = chunk_of(c, k);
    p->decode = plan_step_us(c, k);
    p->full = p->decode + prompt_us(c, fmin(p->chunk, c->prompt.mean));
    p->mean = 0;
    for (int i = 0; i < PLAN_QUANTILES; i++) {
        double rows = c->prompt.at[i], us = prompt_us(c, rows) + fmax(rows / p->chunk, 0.25) * p->decode, ahead = fmin(each * (sum + us / 2), 0.95);
        p->own[i] = prompt_us(c, rows) + fmax(ceil(rows / p->chunk - 1e-9), 1) * p->decode;
        p->before[i] = 1 / (1 - ahead);
        p->wait[i] = each * (squares + us * us / 2) / 2 / ((1 - ahead) * (1 - ahead));
        sum += us;
        squares += us * us;
    }
    p->busy = fmin(each * sum, 0.98);
    for (int i = 0; i < PLAN_QUANTILES; i++) p->mean += (p->own[i] * p->before[i] + p->wait[i]) / PLAN_QUANTILES;
}

static void first_tokens_at(const struct plan_case *c, const struct plan_engine *g, int k, double chance, struct values *s)
{
    struct prompts p;
    double most = (double)c->o->max_running, queue = k >= most ? (k - most + 1) * plan_work_us(c, most) : 0, beside = fmin(k, most - 1);
    prompts_beside(c, others(c, g), beside, &p);
    for (int i = 0; i < PLAN_QUANTILES; i++) {
        double own = p.own[i] * p.before[i] + (double)c->o->face_us + queue, part = chance / PLAN_QUANTILES, later = p.wait[i] / fmax(p.busy, 1e-3);
        for (int cold = 0; cold < 2; cold++) {
            double each = part * (cold ? g->cold : 1 - g->cold), late = own + (cold ? g->load_us : 0);
            for (int w = 0; w < WAITS; w++) add(s, late - later * log((w + 0.5) / WAITS) + p.full * ((7 * w) % WAITS + 0.5) / WAITS, each * p.busy / WAITS);
            for (int w = 0; w < PHASES; w++) add(s, late + (k > 0 ? p.decode * (w + 0.5) / PHASES : 0), each * (1 - p.busy) / PHASES);
        }
    }
}

/* --- tokens after it --- */

/* While it decodes other prompts come in: those that came while its own did, those that come then, and those that come because of these: of a queue with some work in it
 * at the beginning, the time until it is empty. Spread like a gamma of the same mean and variance, here by its normal root (Wilson and Hilferty); no step is longer than a whole
 * chunk makes it. */
static void next_tokens_at(const struct plan_case *c, const struct plan_engine *g, double k, double chance, struct values *s)
{
    struct prompts p;
    double decode = plan_step_us(c, k), work = 0, squares = 0;
    for (int i = 0; i < PLAN_QUANTILES; i++) {
        double us = prompt_us(c, c->prompt.at[i]);
        work += us / PLAN_QUANTILES;
        squares += us * us / PLAN_QUANTILES;
    }
    double rate = others(c, g);
    prompts_beside(c, rate, k - 1, &p);
    if (c->streams > 0) p.mean = 0; /* the others come again when they have ended, not by chance */
    double share = fmin(rate * work / 1e6, 0.9), longest = decode + prompt_us(c, chunk_of(c, k));
    for (int i = 0; i < PLAN_QUANTILES; i++) {
        double n = c->output.at[i] - 1;
        if (n < 1) continue;
        double mean = share * (n * decode + p.mean) / (1 - share), spread = rate / 1e6 * squares * (n * decode + p.mean) / pow(1 - share, 3), shape = mean * mean / fmax(spread, 1e-9);
        for (int w = 0; w < WAITS; w++) {
            double root = 1 - 1 / (9 * shape) + normal_at((w + 0.5) / WAITS) / sqrt(9 * shape);
            double more = share > 0 && shape > 0 ? mean * pow(fmax(root, 0), 3) : 0;
            add(s, fmin((n * decode + more) / n, longest), chance / PLAN_QUANTILES / WAITS);
        }
    }
}

/* --- an engine --- */

static void states_of_rate(const struct plan_case *c, struct plan_engine *g)
{
    double log_p[PLAN_STATES], most = 0, sum = 0, top = (double)c->o->max_running;
    log_p[0] = 0;
    for (int k = 1; k < PLAN_STATES; k++) {
        log_p[k] = log_p[k - 1] + log(g->rate * plan_work_us(c, fmin(k, top)) / 1e6);
        most = fmax(most, log_p[k]);
    }
    /* Of several engines who has least takes more of what comes, so that they are less apart than chance would have it. */
    for (int k = 0; k < PLAN_STATES; k++) sum += g->state[k] = exp((log_p[k] - most) * (c->engines > 1 ? EVEN : 1));
    for (int k = 0; k < PLAN_STATES; k++) g->state[k] /= sum;
}

/* What of its time an engine spends with what: in each state as that state's work is made up. All four together are how busy it is. */
static void shares_of(const struct plan_case *c, struct plan_engine *g)
{
    double rows = c->output.mean - 1, own = rank_row_us(c);
    for (int k = 1; k < PLAN_STATES; k++) {
        double in = fmin(k, (double)c->o->max_running), each = steps_of(c, in), part = g->state[k] / plan_work_us(c, in);
        if (g->state[k] <= RARE) continue;
        g->share[PLAN_PROMPTS] += part * (prompts_us(c) - c->prompt.mean * own);
        g->share[PLAN_ROWS] += part * (rows_us(c, in) - rows * own);
        g->share[PLAN_ADAPTERS] += part * (each * ns(c->o->rank_ns) * plan_ranks(c, in, NULL) + (c->prompt.mean + rows) * own);
        g->share[PLAN_STEPS] += part * each * ns(c->o->step_ns);
    }
}

static void means_of(const struct plan_case *c, struct plan_engine *g)
{
    double upto = 0;
    g->running = 0;
    g->k_high = PLAN_STATES - 1;
    for (int k = 0; k < PLAN_STATES; k++) {
        g->running += k * g->state[k];
        upto += g->state[k];
        if (upto > 1 - 1e-3 && k < g->k_high) g->k_high = k;
    }
    double k = fmin(fmax(g->running, 1), (double)c->o->max_running);
    plan_ranks(c, k, &g->adapters);
    shares_of(c, g);
    g->step_us = plan_work_us(c, k) / steps_of(c, k);
    g->decode_us = plan_step_us(c, k);
    g->kv_tokens = g->k_high * (c->prompt.mean + c->output.mean + 8) +
                   3 * sqrt(fmax(g->k_high, 1)) * sqrt(fmax(c->prompt.square - c->prompt.mean * c->prompt.mean + c->output.square - c->output.mean * c->output.mean, 0));
}

static void times_of(const struct plan_case *c, struct plan_engine *g)
{
    struct values s = {calloc(VALUES_MAX, sizeof *s.v), 0};
    double top = (double)c->o->max_running, decoding = 0;
    if (!s.v) return;
    for (int k = 0; k < PLAN_STATES; k++)
        if (g->state[k] > RARE) first_tokens_at(c, g, c->streams > 0 && k > 0 ? k - 1 : k, g->state[k], &s);
    read_off(&s, g->ttft_ms);
    for (int k = 1; k < PLAN_STATES; k++) decoding += g->state[k] * fmin(k, top);
    for (int k = 1; k < PLAN_STATES && decoding > 0; k++)
        if (g->state[k] > RARE) next_tokens_at(c, g, fmin(k, top), g->state[k] * fmin(k, top) / decoding, &s);
    read_off(&s, g->tpot_ms);
    free(s.v);
}

void plan_engine(const struct plan_case *c, struct plan_engine *g)
{
    double top = (double)c->o->max_running;
    *g = (struct plan_engine){0};
    g->most_rate = 1e6 / plan_work_us(c, top);
    if (c->streams > 0) {
        int k = (int)fmin(fmax(c->streams / c->engines, 1), PLAN_STATES - 1);
        g->state[k] = 1;
        g->rate = 1e6 / plan_work_us(c, fmin(k, top));
        g->busy = 1;
    } else {
        g->rate = c->rate / c->engines;
        states_of_rate(c, g);
        g->busy = g->rate < g->most_rate ? 1 - g->state[0] : g->rate / g->most_rate;
    }
    means_of(c, g);
    g->cold = plan_cold(c->o, c->engines, c->slots, g->running);
    g->load_us = load_us(c, g->busy);
    double loads = fmin(g->rate * g->cold * g->load_us / 1e6, 0.95);
    g->load_us *= 1 + loads / 2 / (1 - loads); /* one after the other */
    times_of(c, g);
    double done = fmin(g->rate, g->most_rate) * c->engines;
    g->prompt_tokens_s = done * c->prompt.mean;
    g->output_tokens_s = done * c->output.mean;
}

int plan_begin(struct plan_case *c, const struct plan_settings *o, struct err *e)
{
    const char *at = o->ranks;
    double sum = 0, percent = 0;
    *c = (struct plan_case){.o = o, .engines = 1, .slots = 64};
    while (*at) {
        char *end;
        double rank = strtod(at, &end), part = end > at && *end == ':' ? strtod(at = end + 1, &end) : -1;
        if (end == at || !(rank >= 1) || !(part >= 0) || (*end && *end != ','))
            return err_set(e, ERR_USAGE, "ranks=%.60s: RANK:PERCENT,RANK:PERCENT is needed", o->ranks);
        sum += rank * part;
        percent += part;
        at = *end ? end + 1 : end;
    }
    if (!(percent > 0)) return err_set(e, ERR_USAGE, "ranks=%.60s: RANK:PERCENT,RANK:PERCENT is needed", o->ranks);
    c->rank_mean = sum / percent;
    plan_length(&c->prompt, (double)o->prompt_median, (double)o->prompt_sigma_percent / 100, (double)o->prompt_max);
    plan_length(&c->output, (double)o->output_median, (double)o->output_sigma_percent / 100, (double)o->output_max);
    return 0;
}
