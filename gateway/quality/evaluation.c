/* evaluation: one answer's scores, and whether those of a version have fallen.
 *
 *     evaluation_take -> rules -> groundedness -> overall -> row and sums (evaluation_store.h)
 *                                                   |           window of the version -> event, gauge
 *                                                   `-> judge (judge.h) -> row and sums, window
 *
 * A window is as many scores by one rule, of answers of one version by one alias, as the alias's `alert` says; when it is full, its mean is compared with `below`, an event tells of
 * each change, and the next begins. So a bad hour of a busy version is told within minutes, and that of a rare one not by chance. Windows are in memory:
 * a restart begins them anew, and a fall is then told once more. Gauges are made of them when they are read (evaluations_meter), and windows that nobody asks
 * for any more go then: a gauge that stands still would keep an alert for ever. */
#include "gateway/quality/evaluation.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway.h"
#include "gateway/live/event.h"
#include "gateway/observe/meters.h"
#include "gateway/proxy/json_walk.h"
#include "gateway/quality/evaluation_store.h"
#include "gateway/quality/grounded.h"
#include "gateway/quality/judge.h"
#include "gateway/quality/quality.h"
#include "gateway/quality/transcript.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOWS 2048 /* of versions by their aliases; the one that was used longest ago goes */
#define TRIM_US (60 * 1000000LL)
#define DAY_US 86400000000LL

struct window {
    char tenant[UUID_LEN], alias[NAME_MAX_LEN + 1], version[2 * NAME_MAX_LEN + 16], rule[RULE_NAME_MAX + 1];
    char tenant_name[NAME_MAX_LEN + 1];
    int n;
    double sum, mean; /* mean: of the last that was full */
    bool full, below; /* full: there was one */
    uint64_t used;    /* never twice the same; 0: forgotten */
};

struct evaluations {
    struct gateway *g;
    struct judge *judge;
    int64_t trimmed_us;
    pthread_mutex_t lock; /* covers the rest; nothing is called under it */
    struct window window[WINDOWS];
    int nwindows;
    uint64_t uses;
};

/* --- windows --- */

static void version_text(const struct target *t, char *out, size_t n)
{
    if (t->is_base) snprintf(out, n, "base:%s", t->base);
    else snprintf(out, n, "%s@%d", t->adapter, t->version);
}

/* Under the lock. */
static struct window *window_of(struct evaluations *x, const struct evaluation *v, const char *version, const char *rule)
{
    struct window *oldest = &x->window[0];
    for (int i = 0; i < x->nwindows; i++) {
        struct window *w = &x->window[i];
        if (strcmp(w->version, version) == 0 && strcmp(w->rule, rule) == 0 && strcmp(w->alias, v->alias) == 0 && strcmp(w->tenant, v->tenant) == 0) return w;
        if (w->used < oldest->used) oldest = w;
    }
    if (!x->nwindows || (oldest->used && x->nwindows < WINDOWS)) oldest = &x->window[x->nwindows++];
    *oldest = (struct window){.n = 0};
    snprintf(oldest->tenant, sizeof oldest->tenant, "%s", v->tenant);
    snprintf(oldest->tenant_name, sizeof oldest->tenant_name, "%s", v->tenant_name);
    snprintf(oldest->alias, sizeof oldest->alias, "%s", v->alias);
    snprintf(oldest->version, sizeof oldest->version, "%s", version);
    snprintf(oldest->rule, sizeof oldest->rule, "%s", rule);
    return oldest;
}

/* One more score: 1 the window is full, with its mean, and *was whether the one before was below. */
static bool window_add(struct evaluations *x, const struct evaluation *v, const char *version, const char *rule, double score, int size, double below, double *mean, bool *was)
{
    pthread_mutex_lock(&x->lock);
    struct window *w = window_of(x, v, version, rule);
    w->used = ++x->uses;
    w->sum += score;
    bool full = ++w->n >= size;
    if (full) {
        *mean = w->mean = w->sum / w->n;
        *was = w->below;
        w->full = true;
        w->below = *mean < below;
        w->n = 0;
        w->sum = 0;
    }
    pthread_mutex_unlock(&x->lock);
    return full;
}

static void tell(struct evaluations *x, const struct evaluation *v, const char *rule, double mean, double below, int size, bool was)
{
    if ((mean < below) == was) return;
    event_note(x->g->db, v->tenant, was ? "evaluation.recovered" : "evaluation.below", v->alias,
               json_pack("{ss so si ss sf sf si}", "alias", v->alias, "adapter", v->what.is_base ? json_null() : json_string(v->what.adapter), "version", v->what.version, "rule", rule, "score",
                         mean, "below", below, "answers", size));
}

/* `alert` of the alias: looks for its score among those of this answer. */
static void watch(struct evaluations *x, const struct evaluation *v, const char *rule, double below, int size)
{
    char version[sizeof x->window[0].version];
    double mean;
    bool was;
    version_text(&v->what, version, sizeof version);
    for (int i = 0; i < v->n; i++) {
        const struct evaluated *s = &v->score[i];
        if (!s->v.scored || strcmp(s->rule, rule) != 0) continue;
        if (window_add(x, v, version, rule, s->v.score, size, below, &mean, &was)) tell(x, v, rule, mean, below, size, was);
    }
}

/* --- gauges --- */

static bool alerts_by(const char *text, const void *rule)
{
    struct json_span alert, name;
    size_t n = strlen(rule);
    return json_walk_find((struct json_span){text, strlen(text)}, "alert", &alert) && json_walk_find(alert, "rule", &name) && name.n == n + 2 && memcmp(name.s + 1, rule, n) == 0;
}

static bool window_at(struct evaluations *x, int i, struct window *out)
{
    pthread_mutex_lock(&x->lock);
    bool is = i < x->nwindows;
    if (is) *out = x->window[i];
    pthread_mutex_unlock(&x->lock);
    return is;
}

/* Unless a score has come to it meanwhile. */
static void forget(struct evaluations *x, int i, const struct window *was)
{
    pthread_mutex_lock(&x->lock);
    if (x->window[i].used == was->used) x->window[i] = (struct window){.n = 0};
    pthread_mutex_unlock(&x->lock);
}

void evaluations_meter(struct evaluations *x, struct metrics *m)
{
    struct window w;
    metric_clear(m, GM_EVALUATION_SCORE);
    metric_clear(m, GM_EVALUATION_BELOW);
    for (int i = 0; x && window_at(x, i, &w); i++) {
        const char *of[] = {w.tenant_name, w.alias, w.version, w.rule};
        if (!w.used) continue;
        if (!alias_still(x->g->registry, w.tenant, w.alias, ALIAS_EVALUATION, w.version, alerts_by, w.rule)) {
            forget(x, i, &w);
        } else if (w.full) {
            metric_set(m, GM_EVALUATION_SCORE, of, w.mean);
            metric_set(m, GM_EVALUATION_BELOW, of, w.below);
        }
    }
}

/* --- scores --- */

static void lost(void *u)
{
    struct gateway *g = u;
    metric_add(g->metrics, GM_EVALUATIONS, (const char *[]){"all", "lost"}, 1);
}

static void keep(struct evaluations *x, const struct evaluation *v)
{
    for (int i = 0; i < v->n; i++) {
        const struct evaluated *s = &v->score[i];
        metric_add(x->g->metrics, GM_EVALUATIONS, (const char *[]){s->kind, !s->v.scored ? "not_scored" : s->v.passed ? "passed" : "failed"}, 1);
    }
    evaluation_write(x->g->db, v, lost, x->g);
}

/* A score of `share`, enough where it is at least `min`. */
static void add_share(struct evaluation *v, const char *rule, const char *kind, double share, double min, const char *note)
{
    struct evaluated *s = evaluation_add(v, rule, kind);
    if (!s) return;
    s->v = (struct verdict){.scored = true, .passed = share >= min, .score = share};
    snprintf(s->v.note, sizeof s->v.note, "%s", note);
}

static void add_skip(struct evaluation *v, const char *rule, const char *kind, const char *why)
{
    struct evaluated *s = evaluation_add(v, rule, kind);
    if (s) verdict_skip(&s->v, why);
}

/* Why the rules have nothing to say of this answer, or NULL. */
static const char *beyond_rules(const struct transcript *t)
{
    if (t->cut) return "the answer is too long to be looked at";
    return t->answer_len || !t->tool_calls ? NULL : "the answer is a call of tools";
}

static void apply_rules(const json_t *policy, const struct transcript *t, struct evaluation *v)
{
    const struct rule_text text = {t->answer, t->answer_len, t->end->delivered};
    const char *beyond = beyond_rules(t);
    size_t i;
    json_t *rule;
    json_array_foreach(json_object_get(policy, "rules"), i, rule)
    {
        struct evaluated *s = evaluation_add(v, json_string_value(json_object_get(rule, "name")), json_string_value(json_object_get(rule, "kind")));
        if (!s) return;
        if (beyond) verdict_skip(&s->v, beyond);
        else rule_apply(rule, &text, &s->v);
    }
}

static void add_retrieval(const struct grounded *g, struct evaluation *v)
{
    char note[RULE_NOTE_LEN];
    snprintf(note, sizeof note, "%d passages", g->passages);
    add_share(v, "retrieval", "retrieval", g->passages > 0, 1, note);
    if (!g->scores) return;
    add_share(v, "retrieval.score", "retrieval", g->score_mean, g->score_mean, "");
    add_share(v, "retrieval.least", "retrieval", g->score_least, g->score_least, "");
}

static void apply_grounded(const json_t *policy, const struct transcript *t, struct evaluation *v)
{
    const json_t *p = json_object_get(policy, "groundedness");
    struct grounded_policy how = {json_number_value(json_object_get(p, "support")), (int)json_integer_value(json_object_get(p, "ngram"))};
    struct grounded g;
    struct err e = {0};
    char note[RULE_NOTE_LEN];
    if (!p || t->cut) return;
    if (grounded_measure(t->body, t->answer, t->answer_len, &how, &g, &e)) snprintf(g.why, sizeof g.why, "%.100s", e.msg);
    if (!g.sent) return;
    if (g.readable) add_retrieval(&g, v);
    snprintf(note, sizeof note, "%d of %d claims", g.supported, g.claims);
    if (g.claims) add_share(v, "groundedness", "groundedness", (double)g.supported / g.claims, json_number_value(json_object_get(p, "min")), note);
    else add_skip(v, "groundedness", "groundedness", !g.readable ? g.why : !g.passages ? "nothing was retrieved" : "the answer claims nothing");
    snprintf(note, sizeof note, "%lld of %lld n-grams", (long long)g.found, (long long)g.ngrams);
    if (g.ngrams) add_share(v, "groundedness.ngrams", "groundedness", (double)g.found / (double)g.ngrams, 0, note);
}

/* The mean of the rules and of groundedness. */
static void add_overall(struct evaluation *v)
{
    double sum = 0;
    int n = 0;
    for (int i = 0; i < v->n; i++) {
        const struct evaluated *s = &v->score[i];
        if (!s->v.scored || strcmp(s->kind, "retrieval") == 0 || strcmp(s->rule, "groundedness.ngrams") == 0) continue;
        sum += s->v.score;
        n++;
    }
    if (n) add_share(v, EVALUATION_OVERALL, "overall", sum / n, 1, "");
}

static void describe(const struct transcript *t, struct evaluation *v)
{
    const struct admission *a = t->adm;
    *v = (struct evaluation){.t = t->end->t_end, .what = a->what};
    snprintf(v->request, sizeof v->request, "%s", a->id);
    snprintf(v->tenant, sizeof v->tenant, "%s", a->who.tenant);
    snprintf(v->tenant_name, sizeof v->tenant_name, "%s", a->who.tenant_name);
    snprintf(v->alias, sizeof v->alias, "%s", a->alias);
}

/* The judge's draw is the request's own again: of those that were picked, its share. */
static void ask_judge(struct evaluations *x, const json_t *policy, const struct transcript *t)
{
    const json_t *j = json_object_get(policy, "judge"), *scale = json_object_get(j, "scale");
    double share = json_number_value(json_object_get(policy, "sample")) * json_number_value(json_object_get(j, "sample"));
    if (!j || t->truncated || !t->answer_len || !quality_draw(t->adm->id, share)) return;
    struct judge_job job = {.who = t->adm->who,
                            .body = judge_body(j, t->body, t->answer, t->answer_len),
                            .low = json_integer_value(json_object_get(scale, "min")),
                            .high = json_integer_value(json_object_get(scale, "max")),
                            .min = json_number_value(json_object_get(j, "min"))};
    const json_t *alert = json_object_get(policy, "alert");
    const char *rule = json_string_value(json_object_get(alert, "rule"));
    if (rule && strcmp(rule, EVALUATION_JUDGE) == 0) {
        job.below = json_number_value(json_object_get(alert, "below"));
        job.window = (int)json_integer_value(json_object_get(alert, "answers"));
    }
    describe(t, &job.of);
    if (job.body) judge_put(x->judge, &job);
}

static void judged(void *u, const struct judge_job *job)
{
    struct evaluations *x = u;
    keep(x, &job->of);
    if (job->window) watch(x, &job->of, EVALUATION_JUDGE, job->below, job->window);
}

void evaluation_take(struct quality *q, const struct transcript *t)
{
    struct evaluations *x = quality_gateway(q)->evaluations;
    const char *text = t->part[ALIAS_EVALUATION];
    struct err e = {0};
    json_t *policy = NULL;
    struct evaluation v;
    if (!x || json_parse(text, strlen(text), &policy, &e)) {
        log_warn("evaluation", LS("id", t->adm->id), LS("error", e.msg));
        return;
    }
    const json_t *alert = json_object_get(policy, "alert");
    describe(t, &v);
    apply_rules(policy, t, &v);
    apply_grounded(policy, t, &v);
    add_overall(&v);
    keep(x, &v);
    if (alert)
        watch(x, &v, json_string_value(json_object_get(alert, "rule")), json_number_value(json_object_get(alert, "below")), (int)json_integer_value(json_object_get(alert, "answers")));
    ask_judge(x, policy, t);
    json_decref(policy);
}

bool evaluation_wanted(const struct gateway *g) { return g->set->evaluation; }

/* --- life --- */

void evaluations_tick(struct evaluations *x)
{
    int64_t now = clock_mono_us();
    if (x->trimmed_us && now - x->trimmed_us < TRIM_US) return;
    x->trimmed_us = now;
    evaluation_trim(x->g->db, clock_wall_us() - x->g->set->evaluation_days * DAY_US);
}

bool evaluations_guest(struct evaluations *x, const char *bearer, struct principal *out) { return x && judge_guest(x->judge, bearer, out); }

void evaluations_listens(struct evaluations *x, const char *at) { judge_listens(x->judge, at); }

int evaluations_open(struct evaluations **out, struct gateway *g, struct err *e)
{
    struct evaluations *x = calloc(1, sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for evaluations");
    x->g = g;
    pthread_mutex_init(&x->lock, NULL);
    if (judge_open(&x->judge, g, judged, x, e)) {
        pthread_mutex_destroy(&x->lock);
        free(x);
        return -1;
    }
    *out = x;
    return 0;
}

void evaluations_close(struct evaluations *x)
{
    if (!x) return;
    judge_close(x->judge);
    pthread_mutex_destroy(&x->lock);
    free(x);
}
