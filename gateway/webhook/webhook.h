/* Webhooks: settled requests and events, sent as batches of CloudEvents to where a tenant or the operator says (docs/WEBHOOKS.md).
 *
 * A webhook is a row; how far it has been served is in it too. One thread sends (webhook_send.c); the API changes rows (webhook_change.c)
 * and tells that thread. Functions of rows block in the database: on db_defer's threads. JSON results are new references. */
#pragma once
#include "gateway/gateway.h"

#define WEBHOOK_TENANT_MAX 16 /* webhooks of one tenant, and of the operator */
#define WEBHOOK_MAX 4096
#define WEBHOOK_URL_MAX 2048
#define WEBHOOK_NAME_MAX 64
#define WEBHOOK_AUTHORIZATION_MAX 1024
#define WEBHOOK_EVENTS_MAX 16 /* prefixes */
#define WEBHOOK_PREFIX_MAX 64
#define WEBHOOK_GRACE_MAX_S (30 * 86400)

struct webhooks;
struct actor;
struct page;
struct json_t;

/* After the ledger, before the listeners. Starts its thread and a client of its own. */
int webhooks_open(struct webhooks **out, struct gateway *g, struct err *e);
/* After the listeners, before client, ledger and database: what is under way gets a moment, then is sent again by the next start. */
void webhooks_stop(struct webhooks *w);
void webhooks_close(struct webhooks *w); /* after the database, whose last handlers may still ask; NULL is fine for both */
void webhooks_look(struct webhooks *w);  /* rows have changed; any thread */

/* --- rows: webhook_store.c reads, webhook_change.c changes; reach: the tenant's id, NULL: everybody's --- */

int webhook_get(struct gateway *g, const char *reach, const char *id, struct json_t **out, struct err *e);
int webhook_list(struct gateway *g, const char *reach, const struct page *p, struct json_t *list, bool *more, struct err *e);

/* What a body says; NULL, -1: not said. */
struct webhook_wish {
    const char *name, *url;
    const char *tenant; /* the operator's word, a name */
    const char *authorization; /* of the header; "": none any more */
    int usage;
    bool set_events;
    char events[WEBHOOK_EVENTS_MAX * (WEBHOOK_PREFIX_MAX + 1)]; /* with commas between */
};
/* Checks what can be checked without the row. ERR_INVALID, ERR_MISSING name the field. */
int webhook_read_wish(const struct gateway *g, const struct json_t *body, bool fresh, struct webhook_wish *w, struct err *e);

/* What is sent once more: from start until before end, Unix seconds, or start -1 and the events after one. */
struct webhook_span {
    int64_t start, end, after_event;
};
int webhook_read_span(const struct json_t *body, int64_t now_s, struct webhook_span *s, struct err *e);

/* Who asks for which, and If-Match. */
struct webhook_who {
    const struct actor *by;
    const char *reach, *id; /* id NULL: a new one */
    int64_t want;           /* as revision_wanted() says */
};
/* Each is one transaction with its entry in the audit trail. *out: the webhook; of create and rotate with its secret, this once. */
int webhook_create(struct gateway *g, const struct webhook_who *who, const struct webhook_wish *w, struct json_t **out, struct err *e);
int webhook_update(struct gateway *g, const struct webhook_who *who, const struct webhook_wish *w, struct json_t **out, struct err *e);
int webhook_remove(struct gateway *g, const struct webhook_who *who, struct json_t **out, struct err *e);
/* The old secret signs, too, until the grace is over. */
int webhook_rotate(struct gateway *g, const struct webhook_who *who, int64_t grace_s, struct json_t **out, struct err *e);
int webhook_pause(struct gateway *g, const struct webhook_who *who, struct json_t **out, struct err *e);
/* A failing one gets what it missed from the raw rows. */
int webhook_resume(struct gateway *g, const struct webhook_who *who, struct json_t **out, struct err *e);
/* Requests that began from start until before end (Unix seconds) and events from start on, or events after one (start < 0), once more. */
int webhook_redeliver(struct gateway *g, const struct webhook_who *who, int64_t start, int64_t end, int64_t after_event, struct json_t **out,
                      struct err *e);

/* webhook_try.c: sends one event now, whatever the state, and answers the request with how it went, once it has. */
struct http_request;
void webhook_try(struct http_request *r, const char *reach, const char *id);
