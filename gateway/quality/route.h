/* Which of two models answers a request: the decision of an adaptive alias (docs/ROUTING.md). No network, no database, no clock: the gateway and the
 * replay of recorded sets (tests/quality/replay.c) run this very code.
 *
 *     features of the request ---> route_ask: large, or try small ---> log-probabilities of its first tokens ---> route_seen: keep, or large after all
 *
 * Value is rating, 0 to 1, less cost: an answer of the large model costs 1 / error_cost, one of the small model `ratio` of that. Three beliefs of LinUCB (bandit.h):
 *
 *     ask     value of trying the small model, by the request: whatever comes of it, what it costs included
 *     seen    rating of the small model's answer, by the request and by what it began to say
 *     large   rating of the large one's, by the request
 *
 * First: trying against large - 1 / error_cost. Then, the small model's part being paid for either way: seen against large - 1 / error_cost. The better one goes, a
 * width of each belief times `exploration` added to it. Ratings of the answers that were given are all that is learned from; a request that was tried and taken away teaches `ask`
 * what that came to. */
#pragma once
#include "base/err.h"
#include "gateway/quality/bandit.h"
#include <stdbool.h>
#include <stdint.h>

#define ROUTE_ASK 44                        /* features of a request */
#define ROUTE_PROBE 6                       /* and of what the small model began to say */
#define ROUTE_SEEN (ROUTE_ASK + ROUTE_PROBE)
#define ROUTE_TOKENS_MAX 256                /* that a decision may wait for */

struct json_t;

enum route_arm { ROUTE_AUTO, ROUTE_SMALL, ROUTE_LARGE, ROUTE_ARMS };
extern const char *const route_arm_name[ROUTE_ARMS];

/* What the alias says (`routing`). */
struct route_rules {
    int tokens;         /* of the small answer that are looked at; 0: none, the request alone decides */
    double exploration; /* widths that are added to what is believed */
    double error_cost;  /* what a wrong answer costs, in answers of the large model */
    double ratio;       /* cost of the small model's answer to the large one's; 0: as their prices say */
    enum route_arm arm; /* fixed, or ROUTE_AUTO */
    bool learn;
};
#define ROUTE_RATIO 0.25 /* where nothing has a price */

/* `routing` of an alias, a row of alias_parts.c: what is stored, all defaults written out. */
int route_rules_read(const struct json_t *v, struct json_t **out, struct err *e);
void route_rules_of(const struct json_t *v, struct route_rules *out); /* of what is stored */

/* How a request went; what is learned of it depends on that. */
enum route_way { ROUTE_DIRECT, ROUTE_KEPT, ROUTE_ESCALATED, ROUTE_UNSEEN, ROUTE_WAYS }; /* large at once; small, after a look; large, after a look; small, without one */
extern const char *const route_way_name[ROUTE_WAYS];

struct route_model {
    struct bandit ask, seen, large;
    int64_t n; /* ratings learned */
};
void route_model_init(struct route_model *m);

struct route_choice {
    bool large;
    double need; /* how much better the large one is expected to be, 0 to 1 */
};
struct route_choice route_ask(const struct route_model *m, const struct route_rules *r, const double x[ROUTE_ASK]);
struct route_choice route_seen(const struct route_model *m, const struct route_rules *r, const double x[ROUTE_SEEN]);

/* What the small model's part of a way cost, in the value of a right answer: what `ask` learns less. */
double route_cost(const struct route_rules *r, double ratio, enum route_way way);
/* rating: 0 to 1. x: [ROUTE_SEEN]; the probe's features count where there was a look. cost: route_cost(). */
void route_learn(struct route_model *m, enum route_way way, const double *x, double rating, double cost);
/* The rating of a request that was learned is another one now. */
void route_relearn(struct route_model *m, enum route_way way, const double *x, double was, double rating);

/* --- features (route_features.c) --- */

/* Of a request's body (chat: with messages). */
void route_features(const struct json_t *root, bool chat, double x[ROUTE_ASK]);

/* Log-probabilities of the small model's first tokens, one by one, and the features of them. */
struct route_probe {
    int n;
    double sum, least, first;
    int doubtful; /* tokens with less than half */
};
void route_probe_add(struct route_probe *p, double logprob);
void route_probe_features(const struct route_probe *p, int tokens, double x[ROUTE_PROBE]);
/* Those of an answer, or of a chunk of a stream, up to `most` of them in all: how many were added. */
int route_probe_read(struct route_probe *p, const struct json_t *answer, int most);
