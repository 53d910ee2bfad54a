/* evaluation_store: rows and sums of scores, one job of the writer for an answer. Jobs aren't durable by themselves: a score that a power cut takes is one
 * sample less. */
#include "gateway/quality/evaluation_store.h"
#include "base/log.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_US 3600000000LL
#define TRIM_ROWS 2000 /* at a time */

struct job {
    void (*lost)(void *u);
    void *u;
    struct evaluation x;
};

struct evaluated *evaluation_add(struct evaluation *x, const char *rule, const char *kind)
{
    if (x->n == EVALUATION_SCORES_MAX) return NULL;
    struct evaluated *s = &x->score[x->n++];
    *s = (struct evaluated){.rule = ""};
    snprintf(s->rule, sizeof s->rule, "%s", rule);
    snprintf(s->kind, sizeof s->kind, "%s", kind);
    return s;
}

static int add_row(struct db *d, sqlite3 *c, const struct evaluation *x, const struct evaluated *s, struct err *e)
{
    static const char sql[] = "INSERT INTO evaluation(t, tenant, request, alias, adapter, version, digest, base, rule, kind, score, passed, note, judge)"
                              " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, CASE WHEN ?11 THEN ?12 END, CASE WHEN ?11 THEN ?13 END, ?14, ?15)";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "issssissssidiss", x->t, x->tenant, x->request, x->alias, x->what.adapter, (int64_t)x->what.version, x->what.digest, x->what.base, s->rule, s->kind,
                          (int64_t)s->v.scored, s->v.score, (int64_t)s->v.passed, s->v.note, s->judge) ||
                   db_done(st, e)
               ? -1
               : 0;
}

static int add_sums(struct db *d, sqlite3 *c, const struct evaluation *x, const struct evaluated *s, struct err *e)
{
    static const char sql[] = "INSERT INTO rollup_evaluation(tenant, alias, adapter, version, base, digest, rule, kind, t, n, sum, squares, fails, skipped)"
                              " VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, 1 - ?10) ON CONFLICT DO UPDATE SET n = n + excluded.n,"
                              " sum = sum + excluded.sum, squares = squares + excluded.squares, fails = fails + excluded.fails, skipped = skipped + excluded.skipped";
    double v = s->v.scored ? s->v.score : 0;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    return !st || db_bind(st, e, "sssissssiiddi", x->tenant, x->alias, x->what.adapter, (int64_t)x->what.version, x->what.base, x->what.digest, s->rule, s->kind,
                          x->t / HOUR_US * 3600, (int64_t)s->v.scored, v, v * v, (int64_t)(s->v.scored && !s->v.passed)) ||
                   db_done(st, e)
               ? -1
               : 0;
}

static int run_write(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct evaluation *x = &((struct job *)u)->x;
    for (int i = 0; i < x->n; i++)
        if (add_row(d, c, x, &x->score[i], e) || add_sums(d, c, x, &x->score[i], e)) return -1;
    return 0;
}

static void written(void *u, const struct err *e)
{
    struct job *j = u;
    if (e) log_warn("evaluation_lost", LS("id", j->x.request), LS("error", e->msg));
    if (e && j->lost) j->lost(j->u);
    free(j);
}

void evaluation_write(struct db *d, const struct evaluation *x, void (*lost)(void *u), void *u)
{
    struct err e = {0};
    struct job *j = x->n ? malloc(sizeof *j) : NULL;
    if (!j) {
        if (x->n && lost) lost(u);
        return;
    }
    *j = (struct job){lost, u, *x};
    if (db_write(d, &(struct db_job){.run = run_write, .done = written, .user = j}, &e)) written(j, &e);
}

struct trim {
    int64_t before;
};

static int run_trim(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char over[] = "DELETE FROM evaluation WHERE row IN (SELECT row FROM evaluation ORDER BY row LIMIT ?2) AND t < ?1";
    static const char beyond[] = "DELETE FROM evaluation WHERE row IN (SELECT row FROM evaluation WHERE row <= (SELECT max(row) FROM evaluation) - ?1 ORDER BY row LIMIT ?2)";
    const struct trim *t = u;
    sqlite3_stmt *st = db_stmt(d, c, over, e);
    if (!st || db_bind(st, e, "ii", t->before, (int64_t)TRIM_ROWS) || db_done(st, e)) return -1;
    st = db_stmt(d, c, beyond, e);
    return !st || db_bind(st, e, "ii", (int64_t)EVALUATION_ROWS_MAX, (int64_t)TRIM_ROWS) || db_done(st, e) ? -1 : 0;
}

static void trimmed(void *u, const struct err *e)
{
    if (e) log_warn("evaluation_trim", LS("error", e->msg));
    free(u);
}

void evaluation_trim(struct db *d, int64_t before)
{
    struct err e = {0};
    struct trim *t = malloc(sizeof *t);
    if (!t) return;
    t->before = before;
    if (db_write(d, &(struct db_job){.run = run_trim, .done = trimmed, .user = t}, &e)) trimmed(t, &e);
}
