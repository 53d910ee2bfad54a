/* Judge: a model is asked, through the gateway's own public API, what an answer is worth.
 *
 * The question is a request of the same tenant under the same key: its limits and budgets hold it, it has a usage row of its own and is billed as any other;
 * it goes in the class "batch" and is itself looked at by nobody (principal.judge). It comes in by a ticket that JUDGE_THREADS threads make, each good for
 * one request that begins within JUDGE_MS, for no route but those for text; a key that was revoked meanwhile gets none. What the judge says counts only
 * where it is the JSON object that was asked for, with a whole number of the scale. */
#pragma once
#include "gateway/auth/auth.h"
#include "gateway/quality/evaluation_store.h"

#define JUDGE_THREADS 2
#define JUDGE_QUEUE 64
#define JUDGE_MS 30000
#define JUDGE_QUESTION_MAX 8192 /* bytes of the question that the judge is shown, and of the answer */
#define JUDGE_ANSWER_MAX 16384
#define JUDGE_TICKET "wfj_"

struct gateway;
struct judge;
struct transcript;

struct judge_job {
    struct principal who;
    struct evaluation of; /* whose, of what; no scores yet */
    char *body;           /* the request; malloc'ed, taken over */
    int64_t low, high;    /* of the scale */
    double min;           /* a share of the scale that is enough */
    double below;         /* of an alert for the judge's score */
    int window;           /* its answers; 0: none */
};

/* told(u, job): the answer was judged, or could not be; job->of has one score. On a thread of the judge's. */
int judge_open(struct judge **out, struct gateway *g, void (*told)(void *u, const struct judge_job *job), void *u, struct err *e);
/* What waits is dropped, what is asked is cut. After the public listener; NULL is fine. */
void judge_close(struct judge *j);
void judge_listens(struct judge *j, const char *at); /* the public listener's address, as bound */
/* Any thread, never waits; takes job->body. A full queue drops it, counted. */
void judge_put(struct judge *j, const struct judge_job *job);

/* The body of the question: `judge` of an alias's evaluation. NULL: no memory. */
char *judge_body(const json_t *judge, const json_t *asked, const char *answer, size_t n);
/* The score of a judge's answer (a chat's), from low to high; -1: it is not one, with why. */
int64_t judge_score(const char *body, size_t n, int64_t low, int64_t high, char why[RULE_NOTE_LEN]);

/* A bearer that is a ticket: who it stands for; it is used up. false: it is none. Any thread. */
bool judge_guest(struct judge *j, const char *bearer, struct principal *out);
