/* Feedback: what a tenant says of an answer that it got (docs/ROUTING.md, "Feedback"): a rating, a label, a comment, one of each request, which later ones replace.
 *
 * It is said of requests that are settled, by the tenant whose they are. A request that nobody knows and one of another tenant are the same to whoever
 * asks. What is said goes when retention removes the month of the request's row (gateway/ledger/ledger_archive.c). */
#pragma once
#include "gateway/ledger/ledger.h"

#define FEEDBACK_LABEL_MAX 64
#define FEEDBACK_COMMENT_MAX 4000 /* bytes */

struct json_t;
struct actor;
struct page;

struct feedback {
    const char *tenant, *request; /* ids */
    const char *key;              /* public id of the key that says it */
    double rating;                /* -1: useless, 1: good */
    const char *label, *comment;  /* "": none */
};

/* What a body says, {request_id, rating: "up" | "down" | -1 to 1, label, comment}; the rest of *f is left as it is, texts are the body's. ERR_MISSING, ERR_INVALID. */
int feedback_read(const struct json_t *body, struct feedback *f, struct err *e);

/* Keeps it, in the place of what was said before, and teaches the routes (or NULL); *out is it as JSON. ERR_NOT_FOUND: no settled request of this tenant. Blocks. */
struct route_book;
int feedback_put(struct ledger *l, struct db *d, struct route_book *routes, const struct actor *by, const struct feedback *f, struct json_t **out, struct err *e);

/* By request id, newest first; tenant NULL: everybody's, with names. alias NULL: of all. Blocks. */
struct feedback_query {
    const char *tenant, *alias;
    double most; /* only ratings up to this; 1: all */
};
int feedback_list(struct db *d, const struct feedback_query *q, const struct page *p, struct json_t *list, bool *more, struct err *e);
/* One, of this tenant. ERR_NOT_FOUND. */
int feedback_get(struct db *d, const char *tenant, const char *request, struct json_t **out, struct err *e);
/* Takes it back. ERR_NOT_FOUND. Blocks. */
int feedback_delete(struct db *d, const char *tenant, const char *request, struct err *e);
