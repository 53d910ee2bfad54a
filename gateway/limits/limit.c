/* limit: what tenants, keys and adapters may use, and what they hold (see limit.h).
 *
 *     limit_admit --refused--> nothing has changed
 *         |
 *         v held: +1 request, +tokens in the minute, +1 concurrent, tokens and cost held of day and month
 *     limit_done      the answer is complete: -1 concurrent, and what is held becomes what it used
 *         v
 *     limit_settle    the usage row is committed: what is held becomes used
 *
 * One lock covers all subjects, so a request gets all it asks for or nothing, without an order of locks. It is held for
 * some hundred instructions: at 5,000 requests a second it is free 99.8 % of the time, and shards would cost three locks
 * instead of one.
 *
 * `used` of a budget grows where the row in the file has grown, on the writer's thread and in its order; until then the
 * amount is held. So used + held is never less than what the file will say, and a limit that is set while requests run
 * finds the right sum: what the file says at that point of the order is `used`, what comes later is held here.
 *
 * Subjects come with their first request. One that holds nothing, has an empty minute and no row goes when others
 * come: each new one looks at SWEEP buckets for such. So memory is bounded by the rows and by who was active within about
 * a minute. Any thread; no database access. */
#include "base/clock.h"
#include "gateway/limits/limit_internal.h"
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define FIRST_BUCKETS 1024
#define BUCKETS_MAX (1u << 24)
#define SWEEP 8
#define RETRY_US 1000000 /* where nobody knows how long it takes: others are using it */

/* --- subjects --- */

static void join(char out[LIMIT_SUBJECT_LEN], const char *kind, const char *a, const char *b)
{
    size_t n = 0;
    const char *part[] = {kind, a, b};
    for (int i = 0; i < 3; i++) {
        size_t len = strlen(part[i]);
        if (len > LIMIT_SUBJECT_LEN - 2 - n)
            len = LIMIT_SUBJECT_LEN - 2 - n; /* ids and names are shorter by their rules */
        memcpy(out + n, part[i], len);
        n += len;
        if (i == 1 && *b) out[n++] = '/';
    }
    out[n] = 0;
}

void limit_subject_tenant(char out[LIMIT_SUBJECT_LEN], const char *tenant)
{
    join(out, "tenant:", tenant, "");
}

void limit_subject_key(char out[LIMIT_SUBJECT_LEN], const char *key)
{
    join(out, "key:", key, "");
}

void limit_subject_adapter(char out[LIMIT_SUBJECT_LEN], const char *tenant, const char *adapter)
{
    join(out, "adapter:", tenant, adapter);
}

/* Names of adapters are chosen by strangers, so the hash has a seed of its own in each process. */
static uint64_t hash_name(uint64_t seed, const char *s, size_t n)
{
    uint64_t h = seed ^ n, v;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&v, s, 8);
        h = (h ^ v) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    v = 0;
    memcpy(&v, s, n);
    h = (h ^ v) * 0xBF58476D1CE4E5B9u;
    return h ^ h >> 32;
}

static void subject_free(struct limit_subject *s)
{
    window_close(&s->minute);
    free(s);
}

static void grow(struct limits *l)
{
    uint32_t n = 2 * l->nbuckets;
    struct limit_subject **bucket = n <= BUCKETS_MAX ? calloc(n, sizeof(struct limit_subject *)) : NULL;
    if (!bucket) return; /* longer chains */
    for (uint32_t i = 0; i < l->nbuckets; i++)
        for (struct limit_subject *s = l->bucket[i], *next; s; s = next) {
            next = s->next;
            s->next = bucket[s->hash & (n - 1)];
            bucket[s->hash & (n - 1)] = s;
        }
    free(l->bucket);
    l->bucket = bucket;
    l->nbuckets = n;
}

static bool is_idle(struct limit_subject *s, int64_t now_us)
{
    if (s->refs || s->stored) return false;
    window_advance(&s->minute, now_us);
    return s->minute.n == 0;
}

static void sweep(struct limits *l, int64_t now_us)
{
    for (int i = 0; i < SWEEP; i++) {
        struct limit_subject **p = &l->bucket[l->sweep++ & (l->nbuckets - 1)];
        while (*p) {
            struct limit_subject *s = *p;
            if (!is_idle(s, now_us)) {
                p = &s->next;
                continue;
            }
            *p = s->next;
            subject_free(s);
            l->nsubjects--;
        }
    }
}

static struct limit_subject *subject_new(struct limits *l, const char *name, size_t n, uint64_t hash)
{
    sweep(l, l->mono_us());
    if (l->nsubjects >= l->nbuckets) grow(l);
    struct limit_subject *s = calloc(1, sizeof *s + n + 1);
    if (!s || window_init(&s->minute)) {
        free(s);
        return NULL;
    }
    memcpy(s->name, name, n);
    s->hash = hash;
    for (int k = 0; k < LIMIT_KINDS; k++) s->max[k] = -1;
    s->next = l->bucket[hash & (l->nbuckets - 1)];
    l->bucket[hash & (l->nbuckets - 1)] = s;
    l->nsubjects++;
    return s;
}

struct limit_subject *limit_find(struct limits *l, const char *name, bool make)
{
    size_t n = strlen(name);
    uint64_t hash = hash_name(l->seed, name, n);
    struct limit_subject *s = l->bucket[hash & (l->nbuckets - 1)];
    while (s && (s->hash != hash || strcmp(s->name, name) != 0)) s = s->next;
    return s || !make ? s : subject_new(l, name, n, hash);
}

/* A clock that is set back finds the period that it left. */
struct limit_period *limit_period_now(struct limit_subject *s, enum limit_span span, int id)
{
    struct limit_period *p = &s->now[span], left = *p;
    if (p->id == id) return p;
    *p = s->before[span].id == id ? s->before[span] : (struct limit_period){.id = id};
    s->before[span] = left;
    return p;
}

/* --- asking --- */

struct moment {
    int64_t mono_us, wall_us;
    int id[LIMIT_SPANS];
};

static struct moment moment_of(struct limits *l, int64_t wall_us)
{
    struct moment m = {.mono_us = l->mono_us(), .wall_us = wall_us ? wall_us : l->wall_us()};
    if (m.wall_us < l->month_from_us || m.wall_us >= l->month_to_us) {
        l->month = limit_month(m.wall_us);
        l->month_from_us = limit_period_start(LIMIT_MONTH, l->month) * 1000000;
        l->month_to_us = limit_period_start(LIMIT_MONTH, l->month + 1) * 1000000;
    }
    m.id[LIMIT_DAY] = limit_day(m.wall_us);
    m.id[LIMIT_MONTH] = l->month;
    return m;
}

struct asking {
    const struct limit_ask *a;
    struct moment now;
    struct limit_subject *s[LIMIT_SUBJECTS];
    int n;
    struct limit_refusal worst; /* scope NULL: none */
};

#define ADAPTER 2 /* the last of a ticket's subjects, where it has one */
static const char *const scopes[LIMIT_SUBJECTS] = {"tenant", "key", "adapter"};

/* How the subject stands to one of its limits. */
static struct limit_refusal standing(const struct limit_subject *s, int kind, const struct limit_ask *a)
{
    struct limit_refusal r = {.kind = (enum limit_kind)kind, .max = s->max[kind], .ask = 1};
    const struct limit_period *p = &s->now[limit_span_of(kind)];
    switch (kind) {
    case LIMIT_REQUESTS_MINUTE:
        r.used = s->minute.requests;
        break;
    case LIMIT_TOKENS_MINUTE:
        r.used = s->minute.tokens;
        r.ask = a->tokens;
        break;
    case LIMIT_CONCURRENT:
        r.used = s->concurrent;
        break;
    default:
        r.used = limit_is_cost(kind) ? p->used.cost : p->used.tokens;
        r.held = limit_is_cost(kind) ? p->held.cost : p->held.tokens;
        r.ask = limit_is_cost(kind) ? a->cost : a->tokens;
    }
    return r;
}

static int64_t wait_of(const struct limit_subject *s, const struct limit_refusal *r, const struct moment *now)
{
    int64_t over = r->used + r->held + r->ask - r->max;
    enum limit_span span = limit_span_of(r->kind);
    if (r->ask > r->max) return -1;
    if (r->kind == LIMIT_REQUESTS_MINUTE) return window_wait(&s->minute, now->mono_us, over, 0);
    if (r->kind == LIMIT_TOKENS_MINUTE) return window_wait(&s->minute, now->mono_us, 0, over);
    if (!limit_is_budget(r->kind) || r->used + r->ask <= r->max) return RETRY_US;
    return limit_period_start(span, now->id[span] + 1) * 1000000 - now->wall_us;
}

static bool is_worse(const struct limit_refusal *a, const struct limit_refusal *b)
{
    return !b->scope || (b->wait_us >= 0 && (a->wait_us < 0 || a->wait_us > b->wait_us));
}

static void check(struct asking *k, int i)
{
    struct limit_subject *s = k->s[i];
    for (int kind = 0; kind < LIMIT_ADMITTED; kind++) {
        if (s->max[kind] < 0) continue;
        struct limit_refusal r = standing(s, kind, k->a);
        if (r.used + r.held + r.ask <= r.max) continue;
        r.wait_us = wait_of(s, &r, &k->now);
        r.scope = scopes[i];
        r.name = i == 0 ? k->a->who->tenant_name : i == 1 ? k->a->who->key : k->a->adapter;
        if (is_worse(&r, &k->worst)) k->worst = r;
    }
}

/* NULL: no memory. */
static struct limit_subject *take(struct limits *l, const char *name, const struct moment *now)
{
    struct limit_subject *s = limit_find(l, name, true);
    if (!s) return NULL;
    s->refs++; /* a later one's sweep must not take it */
    window_advance(&s->minute, now->mono_us);
    for (int p = 0; p < LIMIT_SPANS; p++) limit_period_now(s, (enum limit_span)p, now->id[p]);
    return s;
}

static int find_subjects(struct limits *l, struct asking *k)
{
    char name[LIMIT_SUBJECTS][LIMIT_SUBJECT_LEN];
    limit_subject_tenant(name[0], k->a->who->tenant);
    limit_subject_key(name[1], k->a->who->key);
    if (*k->a->adapter) limit_subject_adapter(name[ADAPTER], k->a->who->tenant, k->a->adapter);
    k->n = *k->a->adapter ? LIMIT_SUBJECTS : ADAPTER;
    for (int i = 0; i < k->n; i++)
        if (!(k->s[i] = take(l, name[i], &k->now))) return -1;
    return 0;
}

static struct limit_period *period_of(struct limit_subject *s, enum limit_span span, int id)
{
    if (s->now[span].id == id) return &s->now[span];
    return s->before[span].id == id ? &s->before[span] : NULL;
}

static void hold_in(struct limit_ticket *t, int i, struct limit_subject *s, int64_t now_us)
{
    const int id[LIMIT_SPANS] = {t->day, t->month};
    t->of[i] = s;
    t->t_us[i] = now_us;
    s->concurrent++;
    window_add(&s->minute, now_us, 1, t->tokens);
    for (int p = 0; p < LIMIT_SPANS; p++) {
        struct limit_period *in = period_of(s, (enum limit_span)p, id[p]);
        if (!in) continue;
        in->held.tokens += t->tokens;
        in->held.cost += t->cost;
    }
}

static void hold(struct asking *k, struct limit_ticket *t)
{
    *t = (struct limit_ticket){.tokens = k->a->tokens,
                               .cost = k->a->cost,
                               .wall_us = k->now.wall_us,
                               .day = k->now.id[LIMIT_DAY],
                               .month = k->now.id[LIMIT_MONTH],
                               .held = true};
    for (int i = 0; i < k->n; i++) hold_in(t, i, k->s[i], k->now.mono_us);
}

/* The headers' figures, after the request got what it asked for, or did not. */
static void look(const struct asking *k, struct limit_view *v)
{
    *v = (struct limit_view){-1, -1, -1, -1, 0, 0, k->worst.wait_us, k->worst.kind, k->worst.scope};
    for (int i = 0; i < k->n; i++) {
        const struct limit_subject *s = k->s[i];
        int64_t requests = s->max[LIMIT_REQUESTS_MINUTE], tokens = s->max[LIMIT_TOKENS_MINUTE];
        int64_t left = requests > s->minute.requests ? requests - s->minute.requests : 0;
        if (requests >= 0 && (v->limit_requests < 0 || left < v->remaining_requests)) {
            v->limit_requests = requests;
            v->remaining_requests = left;
            v->reset_requests_us = window_rest(&s->minute, k->now.mono_us);
        }
        left = tokens > s->minute.tokens ? tokens - s->minute.tokens : 0;
        if (tokens >= 0 && (v->limit_tokens < 0 || left < v->remaining_tokens)) {
            v->limit_tokens = tokens;
            v->remaining_tokens = left;
            v->reset_tokens_us = window_rest(&s->minute, k->now.mono_us);
        }
    }
}

int limit_admit(struct limits *l, const struct limit_ask *a, struct limit_ticket *t, struct limit_view *view,
                struct err *e)
{
    struct asking k = {.a = a};
    pthread_mutex_lock(&l->lock);
    k.now = moment_of(l, a->wall_us);
    int lost = find_subjects(l, &k);
    for (int i = 0; i < k.n && !lost; i++) check(&k, i);
    bool ok = !lost && !k.worst.scope;
    if (ok) hold(&k, t);
    for (int i = 0; i < k.n && k.s[i] && !ok; i++) k.s[i]->refs--;
    if (!lost) look(&k, view);
    pthread_mutex_unlock(&l->lock);
    if (ok) return 0;
    *t = (struct limit_ticket){0};
    if (!lost) return limit_refuse(&k.worst, e);
    *view = (struct limit_view){-1, -1, -1, -1, 0, 0, 0, LIMIT_KINDS, NULL};
    return err_set(e, ERR_NO_MEMORY, "no memory for the request's limits");
}

/* --- giving back --- */

static void leave(struct limit_subject *s, const struct limit_ticket *t)
{
    if (!t->left) s->concurrent--;
}

/* What is held there becomes tokens and cost. */
static void change_held_in(const struct limit_ticket *t, int i, int64_t tokens, int64_t cost)
{
    const int id[LIMIT_SPANS] = {t->day, t->month};
    window_correct(&t->of[i]->minute, t->t_us[i], 0, tokens - t->tokens);
    for (int p = 0; p < LIMIT_SPANS; p++) {
        struct limit_period *in = period_of(t->of[i], (enum limit_span)p, id[p]);
        if (!in) continue;
        in->held.tokens += tokens - t->tokens;
        in->held.cost += cost - t->cost;
    }
}

static void change_held(const struct limit_ticket *t, int64_t tokens, int64_t cost)
{
    for (int i = 0; i < LIMIT_SUBJECTS && t->of[i]; i++) change_held_in(t, i, tokens, cost);
}

static void let_go(struct limit_ticket *t, int i, bool never_was)
{
    if (never_was) window_correct(&t->of[i]->minute, t->t_us[i], -1, 0);
    leave(t->of[i], t);
    t->of[i]->refs--;
    t->of[i] = NULL;
}

int limit_move(struct limits *l, struct limit_ticket *t, const struct principal *who, const char *adapter,
               struct err *e)
{
    struct limit_ask a = {who, adapter, t->tokens, t->cost, t->wall_us};
    struct asking k = {.a = &a};
    char name[LIMIT_SUBJECT_LEN];
    if (!t->held) return 0;
    limit_subject_adapter(name, who->tenant, adapter);
    pthread_mutex_lock(&l->lock);
    k.now = moment_of(l, t->wall_us);
    struct limit_subject *from = t->of[ADAPTER], *to = *adapter ? take(l, name, &k.now) : NULL;
    k.s[ADAPTER] = to;
    if (to && to != from) check(&k, ADAPTER);
    bool ok = (to || !*adapter) && !k.worst.scope;
    if (ok && to != from) {
        if (from) {
            change_held_in(t, ADAPTER, 0, 0);
            let_go(t, ADAPTER, true);
        }
        if (to) hold_in(t, ADAPTER, to, k.now.mono_us);
    } else if (to) {
        to->refs--;
    }
    pthread_mutex_unlock(&l->lock);
    if (ok) return 0;
    return k.worst.scope ? limit_refuse(&k.worst, e) : err_set(e, ERR_NO_MEMORY, "no memory for the request's limits");
}

static void make_used(const struct limit_ticket *t, int64_t tokens, int64_t cost)
{
    const int id[LIMIT_SPANS] = {t->day, t->month};
    for (int i = 0; i < LIMIT_SUBJECTS && t->of[i]; i++)
        for (int p = 0; p < LIMIT_SPANS; p++) {
            struct limit_period *in = period_of(t->of[i], (enum limit_span)p, id[p]);
            if (!in) continue;
            in->held.tokens -= tokens;
            in->held.cost -= cost;
            in->used.tokens += tokens;
            in->used.cost += cost;
        }
}

void limit_done(struct limits *l, struct limit_ticket *t, int64_t tokens, int64_t cost)
{
    if (!t->held) return;
    if (tokens > t->tokens) tokens = t->tokens;
    if (cost > t->cost) cost = t->cost;
    pthread_mutex_lock(&l->lock);
    change_held(t, tokens, cost);
    for (int i = 0; i < LIMIT_SUBJECTS && t->of[i]; i++) leave(t->of[i], t);
    pthread_mutex_unlock(&l->lock);
    t->tokens = tokens;
    t->cost = cost;
    t->left = true;
}

static void end(struct limits *l, struct limit_ticket *t, bool never_was, int64_t tokens, int64_t cost)
{
    if (!t->held) return;
    pthread_mutex_lock(&l->lock);
    change_held(t, tokens, cost);
    make_used(t, tokens, cost);
    for (int i = 0; i < LIMIT_SUBJECTS && t->of[i]; i++) let_go(t, i, never_was);
    pthread_mutex_unlock(&l->lock);
    *t = (struct limit_ticket){0};
}

void limit_settle(struct limits *l, struct limit_ticket *t, int64_t tokens, int64_t cost)
{
    end(l, t, false, tokens, cost);
}

void limit_adjust(struct limits *l, const struct principal *who, const char *adapter, int64_t wall_us, int64_t tokens, int64_t cost)
{
    const int id[LIMIT_SPANS] = {limit_day(wall_us), limit_month(wall_us)};
    char name[LIMIT_SUBJECTS][LIMIT_SUBJECT_LEN];
    limit_subject_tenant(name[0], who->tenant);
    limit_subject_key(name[1], who->key);
    limit_subject_adapter(name[2], who->tenant, adapter);
    pthread_mutex_lock(&l->lock);
    for (int i = 0; i < (*adapter ? LIMIT_SUBJECTS : LIMIT_SUBJECTS - 1); i++) {
        struct limit_subject *s = limit_find(l, name[i], false);
        for (int p = 0; s && p < LIMIT_SPANS; p++) {
            struct limit_period *now = limit_period_now(s, (enum limit_span)p, id[p]);
            now->used.tokens += tokens;
            now->used.cost += cost;
        }
    }
    pthread_mutex_unlock(&l->lock);
}

void limit_release(struct limits *l, struct limit_ticket *t)
{
    end(l, t, true, 0, 0);
}

static void add_held(struct limit_held *sum, const struct limit_period *p)
{
    sum->tokens += p->held.tokens;
    sum->cost += p->held.cost;
}

struct limit_held limit_all_held(struct limits *l)
{
    struct limit_held sum = {0};
    pthread_mutex_lock(&l->lock);
    for (uint32_t i = 0; i < l->nbuckets; i++)
        for (const struct limit_subject *s = l->bucket[i]; s; s = s->next) {
            sum.places += s->concurrent;
            add_held(&sum, &s->now[LIMIT_DAY]);
            add_held(&sum, &s->before[LIMIT_DAY]);
        }
    pthread_mutex_unlock(&l->lock);
    return sum;
}

int64_t limit_value(struct limits *l, const char *subject, enum limit_kind k)
{
    pthread_mutex_lock(&l->lock);
    const struct limit_subject *s = limit_find(l, subject, false);
    int64_t v = s ? s->max[k] : -1;
    pthread_mutex_unlock(&l->lock);
    return v;
}

/* --- life --- */

int limits_open(struct limits **out, struct db *d, struct err *e)
{
    struct limits *l = calloc(1, sizeof *l);
    if (l) l->bucket = calloc(FIRST_BUCKETS, sizeof(struct limit_subject *));
    if (!l || !l->bucket) {
        free(l);
        return err_set(e, ERR_NO_MEMORY, "no memory for limits");
    }
    l->db = d;
    l->mono_us = clock_mono_us;
    l->wall_us = clock_wall_us;
    l->nbuckets = FIRST_BUCKETS;
    pthread_mutex_init(&l->lock, NULL);
    if (getrandom(&l->seed, sizeof l->seed, 0) != sizeof l->seed) l->seed = (uint64_t)clock_mono_us();
    if (limits_reload(l, e)) {
        limits_close(l);
        return -1;
    }
    *out = l;
    return 0;
}

void limits_close(struct limits *l)
{
    if (!l) return;
    for (uint32_t i = 0; i < l->nbuckets; i++)
        while (l->bucket[i]) {
            struct limit_subject *s = l->bucket[i];
            l->bucket[i] = s->next;
            subject_free(s);
        }
    free(l->bucket);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
