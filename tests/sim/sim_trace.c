/* sim_trace: requests, made by chance or read from a file.
 *
 * A made trace: requests come by a Poisson process of rate_s, each for an adapter of rank k in popularity with a chance
 * as 1/k^s. Bursts begin by a Poisson process of their own, last exponentially, and ask for one adapter each. Which adapter
 * is how popular has nothing to do with its number's hash, so none is placed by its popularity. Ranks: half of the adapters
 * 8, three in ten 16, 15 % 32, 5 % 64.
 *
 * A read trace is foreign text: every number is bounded, and lines are of LINE_MAX_LEN at most. */
#include "base/json.h"
#include "tests/sim/sim.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_LEN 4096
#define FIELD_MAX 256
#define BURSTS_MAX 4096 /* at a time */

/* --- chance --- */

uint64_t chance_next(uint64_t *s)
{
    uint64_t x = *s += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

double chance_unit(uint64_t *s)
{
    return ((double)(chance_next(s) >> 11) + 0.5) * 0x1p-53;
}

double chance_exponential(uint64_t *s)
{
    return -log(chance_unit(s));
}

double chance_normal(uint64_t *s)
{
    double far = sqrt(-2 * log(chance_unit(s)));
    return far * cos(2 * M_PI * chance_unit(s));
}

/* --- adapters --- */

static int rank_of(uint64_t key)
{
    int at = (int)(key >> 32) % 100;
    at = at < 0 ? at + 100 : at;
    return at < 50 ? 8 : at < 80 ? 16 : at < 95 ? 32 : 64;
}

static int add_adapters(struct trace *t, int n, struct err *e)
{
    t->rank = calloc((size_t)n, sizeof *t->rank);
    t->key = calloc((size_t)n, sizeof *t->key);
    return t->rank && t->key ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for %d adapters", n);
}

static void name_adapter(struct trace *t, int i, const char *name)
{
    t->key[i] = place_hash(name);
    t->rank[i] = rank_of(t->key[i]);
}

/* --- made --- */

struct burst {
    int adapter;
    double until_us;
};

struct maker {
    const struct sim_settings *o;
    uint64_t seed;
    double *sum; /* of chances up to each adapter */
    int *adapter; /* by popularity */
    double now_us, next_us, burst_us; /* now; next request and burst of those that come by themselves */
    struct burst burst[BURSTS_MAX];
    int nbursts;
};

static int by_popularity(struct maker *m)
{
    double x = chance_unit(&m->seed) * m->sum[m->o->adapters - 1];
    int low = 0, high = (int)m->o->adapters - 1;
    while (low < high) {
        int mid = (low + high) / 2;
        if (m->sum[mid] < x)
            low = mid + 1;
        else
            high = mid;
    }
    return m->adapter[low];
}

static int maker_init(struct maker *m, const struct sim_settings *o, struct err *e)
{
    int n = (int)o->adapters;
    *m = (struct maker){.o = o, .seed = (uint64_t)o->seed * 0x9e3779b97f4a7c15u + 1};
    m->sum = calloc((size_t)n, sizeof *m->sum);
    m->adapter = calloc((size_t)n, sizeof *m->adapter);
    if (!m->sum || !m->adapter) return err_set(e, ERR_NO_MEMORY, "no memory for %d adapters", n);
    double sum = 0;
    for (int i = 0; i < n; i++) {
        m->sum[i] = sum += pow(i + 1, -(double)o->zipf_percent / 100);
        m->adapter[i] = i;
    }
    for (int i = n - 1; i > 0; i--) {
        int k = (int)(chance_next(&m->seed) % (uint64_t)(i + 1)), was = m->adapter[i];
        m->adapter[i] = m->adapter[k];
        m->adapter[k] = was;
    }
    m->next_us = chance_exponential(&m->seed) * 1e6 / (double)o->rate_s;
    m->burst_us = o->bursts_minute ? chance_exponential(&m->seed) * 60e6 / (double)o->bursts_minute : INFINITY;
    return 0;
}

static void begin_burst(struct maker *m)
{
    double until = m->burst_us + chance_exponential(&m->seed) * 1e3 * (double)m->o->burst_ms;
    int adapter = by_popularity(m);
    if (m->nbursts < BURSTS_MAX) m->burst[m->nbursts++] = (struct burst){adapter, until};
    m->burst_us += chance_exponential(&m->seed) * 60e6 / (double)m->o->bursts_minute;
}

static void end_bursts(struct maker *m)
{
    for (int i = 0; i < m->nbursts; i++)
        if (m->burst[i].until_us <= m->now_us) m->burst[i--] = m->burst[--m->nbursts];
}

/* Moves now_us to the next request and says of which adapter. The chance of a burst's request is drawn anew whenever
 * something else happens: an exponential time has no memory. */
static int next_adapter(struct maker *m)
{
    for (;;) {
        end_bursts(m);
        double rate = (double)m->o->burst_rate_s * m->nbursts, end = INFINITY;
        double theirs = rate > 0 ? m->now_us + chance_exponential(&m->seed) * 1e6 / rate : INFINITY;
        for (int i = 0; i < m->nbursts; i++) end = fmin(end, m->burst[i].until_us);
        double to = fmin(fmin(m->next_us, m->burst_us), fmin(theirs, end));
        m->now_us = to;
        if (to == theirs) return m->burst[chance_next(&m->seed) % (uint64_t)m->nbursts].adapter;
        if (to == m->next_us) {
            m->next_us += chance_exponential(&m->seed) * 1e6 / (double)m->o->rate_s;
            return by_popularity(m);
        }
        if (to == m->burst_us) begin_burst(m);
    }
}

static int lognormal(struct maker *m, int64_t median, int64_t sigma_percent, int64_t most)
{
    double x = round((double)median * exp(chance_normal(&m->seed) * (double)sigma_percent / 100));
    return x < 1 ? 1 : x > (double)most ? (int)most : (int)x;
}

int trace_make(struct trace *t, const struct sim_settings *o, struct err *e)
{
    struct maker m;
    char name[32];
    *t = (struct trace){.n = (int)o->requests, .adapters = (int)o->adapters, .tenants = (int)o->tenants};
    t->v = calloc((size_t)t->n, sizeof *t->v);
    int rc = t->v ? maker_init(&m, o, e) : err_set(e, ERR_NO_MEMORY, "no memory for %d requests", t->n);
    if (t->v && !rc) rc = add_adapters(t, t->adapters, e);
    for (int i = 0; i < t->adapters && !rc; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        name_adapter(t, i, name);
    }
    for (int i = 0; i < t->n && !rc; i++) {
        int adapter = next_adapter(&m);
        t->v[i] = (struct request){m.now_us, adapter % t->tenants, adapter,
                                   lognormal(&m, o->prompt_median, o->prompt_sigma_percent, o->prompt_max),
                                   lognormal(&m, o->output_median, o->output_sigma_percent, o->output_max)};
    }
    if (t->v) {
        free(m.sum);
        free(m.adapter);
    }
    return rc;
}

void trace_close(struct trace *t)
{
    free(t->v);
    free(t->rank);
    free(t->key);
    *t = (struct trace){0};
}

/* --- written and read --- */

int trace_write(const struct trace *t, const char *path, struct err *e)
{
    FILE *f = fopen(path, "w");
    if (!f) return err_errno(e, "can't write %.200s", path);
    fputs("at_us,tenant,adapter,prompt,output,rank\n", f);
    for (int i = 0; i < t->n; i++) {
        const struct request *q = &t->v[i];
        fprintf(f, "%.3f,tenant-%d,adapter-%d,%d,%d,%d\n", q->at_us, q->tenant, q->adapter, q->prompt, q->output,
                t->rank[q->adapter]);
    }
    int bad = ferror(f);
    if (fclose(f) || bad) return err_errno(e, "can't write %.200s", path);
    return 0;
}

/* Names, numbered as they come. */
struct names {
    char **v;
    int *at; /* open addressing; -1: free */
    int n, cap;
};

static int names_grow(struct names *s, struct err *e)
{
    int cap = s->cap ? 2 * s->cap : 1024;
    char **v = realloc(s->v, (size_t)cap * sizeof *v);
    if (v) s->v = v;
    int *at = malloc(2 * (size_t)cap * sizeof *at);
    if (!v || !at) {
        free(at);
        return err_set(e, ERR_NO_MEMORY, "no memory for %d names", cap);
    }
    free(s->at);
    s->at = at;
    s->cap = cap;
    for (int i = 0; i < 2 * cap; i++) at[i] = -1;
    for (int i = 0; i < s->n; i++) {
        uint64_t h = place_hash(s->v[i]);
        while (at[h % (uint64_t)(2 * cap)] >= 0) h++;
        at[h % (uint64_t)(2 * cap)] = i;
    }
    return 0;
}

static int name_number(struct names *s, const char *name, int *out, struct err *e)
{
    if (s->n == s->cap && names_grow(s, e)) return -1;
    uint64_t h = place_hash(name);
    int *at;
    for (; *(at = &s->at[h % (uint64_t)(2 * s->cap)]) >= 0; h++)
        if (strcmp(s->v[*at], name) == 0) {
            *out = *at;
            return 0;
        }
    if (!(s->v[s->n] = strdup(name))) return err_set(e, ERR_NO_MEMORY, "no memory for a name");
    *out = *at = s->n++;
    return 0;
}

static void names_close(struct names *s)
{
    for (int i = 0; i < s->n; i++) free(s->v[i]);
    free(s->v);
    free(s->at);
}

enum column { AT, TENANT, ADAPTER, PROMPT, OUTPUT, RANK, COLUMNS };
static const char *const column_name[COLUMNS] = {"at_us", "tenant", "adapter", "prompt", "output", "rank"};

struct reader {
    struct trace *t;
    struct names tenants, adapters;
    int column[COLUMNS]; /* of CSV: where each stands, -1 nowhere */
    bool json;
    int line, cap, ranks;
};

static int number(const char *s, double most, double *out)
{
    char *end;
    if (!*s) return -1;
    *out = strtod(s, &end);
    return *end || !(*out >= 0) || *out > most ? -1 : 0;
}

static int one_more(struct reader *r, struct err *e)
{
    struct trace *t = r->t;
    if (t->n == TRACE_REQUESTS_MAX) return err_set(e, ERR_INVALID, "more than %d requests", t->n);
    if (t->n < r->cap) return 0;
    int cap = r->cap ? 2 * r->cap : 4096;
    struct request *v = realloc(t->v, (size_t)cap * sizeof *v);
    if (!v) return err_set(e, ERR_NO_MEMORY, "no memory for %d requests", cap);
    t->v = v;
    r->cap = cap;
    return 0;
}

/* A rank that a row names holds for the adapter from then on: for the run as a whole, since ranks are not moved. */
static int set_rank(struct reader *r, int adapter, int rank, struct err *e)
{
    if (r->ranks < r->adapters.cap) {
        int *v = realloc(r->t->rank, (size_t)r->adapters.cap * sizeof *v);
        if (!v) return err_set(e, ERR_NO_MEMORY, "no memory for ranks");
        memset(v + r->ranks, 0, (size_t)(r->adapters.cap - r->ranks) * sizeof *v);
        r->t->rank = v;
        r->ranks = r->adapters.cap;
    }
    if (rank) r->t->rank[adapter] = rank;
    return 0;
}

static int add_row(struct reader *r, char field[COLUMNS][FIELD_MAX], struct err *e)
{
    double at, prompt, output, rank = 0;
    struct request q = {0};
    if (number(field[AT], 1e15, &at) || number(field[PROMPT], TRACE_TOKENS_MAX, &prompt) ||
        number(field[OUTPUT], TRACE_TOKENS_MAX, &output) || (field[RANK][0] && number(field[RANK], TRACE_RANK_MAX, &rank)) ||
        !field[ADAPTER][0])
        return err_set(e, ERR_INVALID, "line %d: at_us, prompt, output (and rank) are numbers, adapter is a name", r->line);
    if (r->t->n && at < r->t->v[r->t->n - 1].at_us)
        return err_set(e, ERR_INVALID, "line %d: at_us goes back", r->line);
    if (one_more(r, e) || name_number(&r->adapters, field[ADAPTER], &q.adapter, e) ||
        name_number(&r->tenants, field[TENANT], &q.tenant, e) || set_rank(r, q.adapter, (int)rank, e))
        return -1;
    q.at_us = at;
    q.prompt = prompt < 1 ? 1 : (int)prompt;
    q.output = output < 1 ? 1 : (int)output;
    r->t->v[r->t->n++] = q;
    return 0;
}

static int read_json(struct reader *r, const char *line, struct err *e)
{
    char field[COLUMNS][FIELD_MAX] = {{0}};
    json_t *o = NULL;
    if (json_parse(line, strlen(line), &o, e)) return err_prefix(e, "line %d: ", r->line);
    for (int i = 0; i < COLUMNS; i++) {
        const json_t *v = json_object_get(o, column_name[i]);
        if (json_is_string(v)) snprintf(field[i], FIELD_MAX, "%s", json_string_value(v));
        if (json_is_number(v)) snprintf(field[i], FIELD_MAX, "%.15g", json_number_value(v));
    }
    json_decref(o);
    return add_row(r, field, e);
}

/* Plain CSV: names have no commas and no quotes. */
static int read_csv(struct reader *r, char *line, struct err *e)
{
    char field[COLUMNS][FIELD_MAX] = {{0}};
    bool header = r->line == 1;
    for (int at = 0; line; at++) {
        char *text = strsep(&line, ",");
        for (int i = 0; i < COLUMNS; i++) {
            if (header && strcmp(text, column_name[i]) == 0) r->column[i] = at;
            if (!header && r->column[i] == at) snprintf(field[i], FIELD_MAX, "%s", text);
        }
    }
    if (!header) return add_row(r, field, e);
    for (int i = 0; i < RANK; i++)
        if (r->column[i] < 0 && i != TENANT) return err_set(e, ERR_INVALID, "the first line names no %s", column_name[i]);
    return 0;
}

static int read_line(struct reader *r, char *line, struct err *e)
{
    size_t len = strlen(line);
    r->line++;
    if (len == LINE_MAX_LEN - 1 && line[len - 1] != '\n') return err_set(e, ERR_INVALID, "line %d is too long", r->line);
    line[strcspn(line, "\r\n")] = 0;
    if (r->line == 1) r->json = line[0] == '{';
    if (!line[0]) return 0;
    return r->json ? read_json(r, line, e) : read_csv(r, line, e);
}

static int settle(struct reader *r, struct err *e)
{
    struct trace *t = r->t;
    t->adapters = r->adapters.n;
    t->tenants = r->tenants.n;
    if (t->n == 0) return err_set(e, ERR_INVALID, "no request in it");
    if (!(t->key = calloc((size_t)t->adapters, sizeof *t->key))) return err_set(e, ERR_NO_MEMORY, "no memory for adapters");
    for (int i = 0; i < t->adapters; i++) {
        int rank = t->rank[i];
        name_adapter(t, i, r->adapters.v[i]);
        if (rank) t->rank[i] = rank;
    }
    return 0;
}

int trace_read(struct trace *t, const char *path, struct err *e)
{
    char line[LINE_MAX_LEN];
    struct reader r = {.t = t, .column = {-1, -1, -1, -1, -1, -1}};
    FILE *f = fopen(path, "r");
    *t = (struct trace){0};
    if (!f) return err_errno(e, "can't read %.200s", path);
    int rc = 0;
    while (!rc && fgets(line, sizeof line, f)) rc = read_line(&r, line, e);
    if (!rc && ferror(f)) rc = err_errno(e, "can't read %.200s", path);
    if (!rc) rc = settle(&r, e);
    fclose(f);
    names_close(&r.tenants);
    names_close(&r.adapters);
    return rc;
}
