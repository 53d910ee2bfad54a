/* Evaluation: what answers are worth, by what the alias says of it (docs/EVALUATION.md).
 *
 *     alias.evaluation = {sample, rules: [..], groundedness: {..}, judge: {..}, alert: {..}}
 *
 * Off where an alias has no such part. A sampled answer (gateway/quality/quality.h) gets a score of 0 to 1 by each rule, by groundedness where the client
 * sent what it retrieved, and by a judge model (judge.h) where one is asked; `overall` is the mean of what was scored, the judge's apart. Scores stand in
 * rows for evaluation_days, and in sums by the hour, version and rule for ever (evaluation_store.h). */
#pragma once
#include "base/err.h"
#include "base/json.h"

struct quality;
struct transcript;
struct evaluations;
struct gateway;
struct principal;

#define EVALUATION_MAX 49152 /* bytes of an alias's part */
#define EVALUATION_OVERALL "overall"
#define EVALUATION_JUDGE "judge"

/* Of an alias's JSON into what is stored, all defaults written out; *out NULL where v is NULL, null or {}. ERR_INVALID and ERR_MISSING name the field below
 * `evaluation`. (alias_parts.h) */
int evaluation_read(const json_t *v, json_t **out, struct err *e);

/* The setting `evaluation`. */
bool evaluation_wanted(const struct gateway *g);
/* The taker (quality.h): on the thread `quality`. */
void evaluation_take(struct quality *q, const struct transcript *t);

/* Windows of answers, for alerts, and the judge's threads. After quality_open()'s place in the order of things; closed before the thread's takers are gone. */
int evaluations_open(struct evaluations **out, struct gateway *g, struct err *e);
void evaluations_close(struct evaluations *x);
/* Where the public listener was bound: the judge's questions go there. */
void evaluations_listens(struct evaluations *x, const char *at);
/* judge_guest() */
bool evaluations_guest(struct evaluations *x, const char *bearer, struct principal *out);
/* About once a second: rows that are over go. */
void evaluations_tick(struct evaluations *x);
/* The gauges of windows, of those that some alias still asks for; the others are forgotten. One at a time; NULL is fine. */
struct metrics;
void evaluations_meter(struct evaluations *x, struct metrics *m);
