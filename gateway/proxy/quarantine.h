/* Quarantine: what blame.h finds guilty is put where it harms nobody, and let out again.
 *
 * An adapter's version goes to the state quarantined, with those of the same bytes (the operator restores it: self-test), a request is refused for
 * `quarantine_s`, across restarts (quarantine_store.h), and all of a tenant's are while the process lives (lifted at /v1/quarantine, /admin/v1/quarantine; a tenant's by the operator only). Each is an audit entry and
 * an event of the tenant's. */
#pragma once
#include "gateway/gateway.h"
#include "gateway/ledger/ledger.h"
#include "gateway/proxy/blame.h"

struct exchange;
struct upstream_ask;
struct upstream_route;
struct version_name;
struct actor;

int quarantine_open(struct blame **out, struct gateway *g, struct err *e); /* on failure *out may be there, to be closed */
void quarantine_ended(void *gateway, const char *engine, uint64_t life, bool crashed); /* the pool's `ended` */

/* Before the admission: ERR_QUARANTINED. */
int quarantine_check(struct gateway *g, const struct upstream_ask *ask, struct err *e);
/* The same of a route of one that was admitted: what was found out since, and the routes behind the first. */
int quarantine_route(struct exchange *x, struct upstream_route *r, struct err *e);
/* 0: it may go to the engine that was picked; -1: not now (ERR_QUEUE_FULL). */
int quarantine_enter(struct exchange *x, struct err *e);
void quarantine_leave(struct exchange *x); /* its engine, without an end */
void quarantine_lost(struct exchange *x);  /* its engine was lost with it */
void quarantine_left(struct exchange *x);  /* the engine may be at it still: a load that took too long */
void quarantine_over(struct exchange *x, enum usage_state state);
/* The same of a self-test. */
bool quarantine_enter_test(struct gateway *g, const struct version_name *v, struct blame_seat *seat, const char *engine);
void quarantine_over_test(struct gateway *g, const struct version_name *v, struct blame_seat *seat, bool completed);
void quarantine_lost_test(struct gateway *g, const struct version_name *v, struct blame_seat *seat, const char *engine, uint64_t life);
void quarantine_left_test(struct gateway *g, const struct version_name *v, const char *engine, uint64_t life);
/* An engine was lost with a load that no request waits for (warm, a pin), or it took too long: it counts as there, of that tenant. */
void quarantine_lost_load(struct gateway *g, const char *tenant, const char *engine, uint64_t life, bool late);

/* tenant: id, NULL: anybody's. Blocks; ERR_NOT_FOUND. */
int quarantine_lift(struct gateway *g, const struct actor *by, const char *tenant, const char *id, struct err *e);
