/* Trials: a request of an adaptive alias on its way (docs/ROUTING.md): which model it is planned for, what the small one began to say, what was decided and why.
 *
 *     trial_plan (chat_api.c) --large--> routes are [large, small]: a chain as any, no look
 *              `-------small--> routes are [small, large], and what the first says is looked at
 *                                   stream   held back until there are enough tokens, or its end     -.
 *                                   whole    when it is there                                         +-> keep: it goes on; or escalate: the next route, from the beginning
 *                                   lost, late, busy, refused by no fault of the request's            -'   (the chain's own ways)
 *
 * A trial is the exchange's; all but the plan is on the client's thread. */
#pragma once
#include "gateway/proxy/chat_ask.h"
#include "gateway/quality/route.h"
#include "gateway/registry/alias.h"

struct exchange;
struct trial;

/* Of a choice whose alias has `routing`: plans, and puts its targets into the order in which they are tried. *out NULL: there is nothing to decide. */
int trial_plan(struct http_request *r, const struct chat_ask *w, const json_t *root, struct choice *c, struct trial **out, struct err *e);
void trial_free(struct trial *t); /* NULL is fine */

/* Around the writing of a route's body: the first one's asks for log-probabilities where it is to be looked at and the client did not. */
void trial_ask(struct trial *t, int route, json_t *root);
void trial_asked(struct trial *t, int route, json_t *root);

void trial_restart(struct exchange *x); /* a body goes out anew: nothing was read of an answer yet */
bool trial_reads(const struct exchange *x); /* events of the answer pass trial_event() */
int trial_event(struct exchange *x, const char *data, size_t n, struct buf *out);
bool trial_holds(const struct exchange *x); /* nothing of the answer may go on yet */

enum trial_verdict { TRIAL_WAIT, TRIAL_KEEP, TRIAL_ESCALATE };
/* Of what was read so far; over: there is no more. TRIAL_KEEP is said once. */
enum trial_verdict trial_look(struct exchange *x, bool over);
/* The same of a whole answer in x->answer, which loses its log-probabilities where the client did not ask. */
enum trial_verdict trial_whole(struct exchange *x);

int trial_hold(struct exchange *x, const char *bytes, size_t n, uint64_t mark);
const struct buf *trial_held(const struct exchange *x, uint64_t *mark);

/* The small one's call is over, and its answer is not wanted: what it counted becomes the probe, and the large one is asked. x is not to be touched any more. */
void trial_escalate(struct exchange *x);
/* The small one can't, and nothing of its answer has gone on: the large one answers, and nothing is billed of the small one. true: x is not to be touched any more. */
bool trial_instead(struct exchange *x);
bool trial_stopped(const struct exchange *x); /* trial_look() said so in mid-stream */

void trial_header(struct exchange *x);
/* For the settlement, malloc'ed; NULL where there was no trial. */
struct settled_route *trial_settled(struct exchange *x, enum usage_state state);
/* What the probe counts: 0 where there was none. */
void trial_probe(const struct exchange *x, int64_t *tokens, int64_t *cost);
