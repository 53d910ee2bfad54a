/* What has been learned for adaptive aliases: a model (route.h) of each, in memory for decisions, in the table route_model over restarts.
 *
 * It changes with a rating alone, in the rating's own transaction, so a rating is learned exactly once, and one that is said again replaces what was learned of
 * it. An alias that leads elsewhere begins anew. At most ROUTE_BOOK_MAX models are kept: those that learned last. */
#pragma once
#include "gateway/db/db.h"
#include "gateway/quality/route.h"
#include <stddef.h>

#define ROUTE_BOOK_MAX 512

struct route_book;

int route_book_open(struct route_book **out, struct db *d, struct err *e);
void route_book_close(struct route_book *b); /* after the last request; NULL is fine */

/* The decisions of route.h by what was learned for an alias (tenant: id) whose targets have this digest. x: [ROUTE_ASK] to
 * ask, [ROUTE_SEEN] once seen. Any thread, no database. */
struct route_choice route_book_ask(struct route_book *b, const char *tenant, const char *alias, const char *targets, const struct route_rules *r, const double *x);
struct route_choice route_book_seen(struct route_book *b, const char *tenant, const char *alias, const char *targets, const struct route_rules *r, const double *x);

/* Features as they stand in usage_route: float32, [ROUTE_SEEN]. The bytes that they take; 0: there are not so many. */
size_t route_features_pack(const double x[ROUTE_SEEN], uint8_t *out, size_t cap);

/* A rating, -1 to 1, that is being kept, was: the one that it replaces, or NULL. In the rating's job; *learned is a model to be handed to route_book_learned() once that is
 * committed, or NULL. */
struct route_lesson;
int route_book_learn(struct db *d, sqlite3 *c, const char *tenant, const char *request, const double *was, double rating, struct route_lesson **learned, struct err *e);
void route_book_learned(struct route_book *b, struct route_lesson *learned); /* takes it over; NULL is fine; b NULL: it is dropped */
