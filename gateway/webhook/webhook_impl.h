/* What the parts of gateway/webhook share. Nobody else includes it. */
#pragma once
#include "base/buf.h"
#include "gateway/ledger/ledger_rows.h"
#include "gateway/registry/import_address.h"
#include "gateway/settings.h"
#include "gateway/webhook/webhook.h"
#include <pthread.h>
#include <stdatomic.h>

#define BATCH_EVENTS 100
#define BATCH_BYTES (256 * 1024)
#define HOOK_FLIGHT_MAX 64   /* batches under way at once; one of a webhook */
#define HOOK_CONNECT_MS 5000
#define HOOK_SILENCE_MS 15000
#define HOOK_TOTAL_MS 30000
#define HOOK_READ_MS 2000
#define HOOK_ANSWER_MAX 65536 /* bytes of an answer's body; nobody reads them */
#define HOOK_TYPE_PREFIX "weft."
#define HOOK_CONTENT_TYPE "Content-Type: application/cloudevents-batch+json" /* bare: there are receivers that compare it whole */
#define HOOK_HEADERS 7

#define HOOK_ID_TEXT 48
#define WEBHOOK_TRIES_MAX 8 /* test events under way */

/* --- webhook_secret.c --- */

/* "whsec_" and base64, as Standard Webhooks has it. */
#define WEBHOOK_SECRET_TEXT (6 + SHA256_BASE64)
struct webhook_secret {
    uint8_t now[SHA256_BYTES], before[SHA256_BYTES];
    int64_t before_until; /* Unix seconds; 0: there is none */
    char authorization[WEBHOOK_AUTHORIZATION_MAX + 1]; /* what the receiver wants to see in that header; "": nothing */
};
int webhook_secret_new(uint8_t out[SHA256_BYTES], struct err *e);
void webhook_secret_text(const uint8_t secret[SHA256_BYTES], char out[WEBHOOK_SECRET_TEXT]);
/* Sealed for the row of this id. */
int webhook_secret_seal(struct db *d, const char *id, const struct webhook_secret *s, struct buf *out, struct err *e);
int webhook_secret_open(struct db *d, const char *id, const void *sealed, size_t n, struct webhook_secret *out, struct err *e);
/* The headers of a message, each with its name. signature: one "v1,..." for each secret that is in force at t_s. */
struct webhook_headers {
    char id[96], timestamp[64], signature[160], authorization[WEBHOOK_AUTHORIZATION_MAX + 32];
    const char *line[HOOK_HEADERS]; /* all of the request, ended by NULL; they point into this struct */
};
int webhook_sign(const struct webhook_secret *s, const char *id, int64_t t_s, const void *body, size_t n, struct webhook_headers *out,
                 struct err *e);

/* --- the thread's webhooks --- */

enum hook_state { HOOK_ENABLED, HOOK_PAUSED, HOOK_FAILING, HOOK_STATES };
extern const char *const hook_state_name[HOOK_STATES]; /* webhook_store.c */

/* IDLE --hook_begin--> SENDING --on_done (client)--> ANSWERED --hook_judge--> SAVING --saved (writer)--> SAVED --> IDLE */
enum hook_phase { HOOK_IDLE, HOOK_SENDING, HOOK_ANSWERED, HOOK_SAVING, HOOK_SAVED };

struct replay {
    int64_t start, until; /* as in the row */
    struct rows_cursor at;
};

/* How far: all up to here is delivered, or was nothing for this webhook. */
struct hook_place {
    int64_t usage, event;
    struct replay replay;
};

struct hook {
    struct hook *next;
    struct webhooks *all;
    bool seen; /* by the reload under way; one that wasn't is gone */
    bool gone;

    /* the row */
    char id[UUID_LEN], tenant[UUID_LEN], name[WEBHOOK_NAME_MAX + 1], url[WEBHOOK_URL_MAX + 1];
    char events[WEBHOOK_EVENTS_MAX * (WEBHOOK_PREFIX_MAX + 1)];
    struct webhook_secret secret;
    bool usage;
    enum hook_state state;
    int64_t revision, failing_since; /* wall us, 0: it does not fail */
    struct hook_place stands;        /* in the row */

    struct hook_place at; /* how far it was looked through: never before `stands` */
    int failures;
    int64_t due_us;       /* mono: not before */
    int batch_max;

    /* the batch in hand, or to be tried again: the same id stands for the same events */
    char msg[HOOK_ID_TEXT];
    bool replaying;         /* its kind; the two take turns */
    struct hook_place then; /* where its delivery leads to */
    int n;

    _Atomic int phase;
    bool listed;            /* the operator's host: its address is not judged */
    struct client_call *call;
    int status;
    size_t answer_bytes;
    bool cut;               /* by us: its body was long */
    char retry_after[64];
    struct err broken;
    bool moves;         /* what is being saved leads to `then` */
    bool pause;         /* and to another state: 410 */
    bool changed;       /* the row took it */
    bool holds;         /* at the last look at its lag some request waited for it */
    const char *behind; /* why it is to stop as failing, once it is idle */
};

struct hook_heads {
    int64_t usage, event; /* the last seq that there is */
};

#define NAMES_KEPT 256
/* The setting webhook_ca_file, as the client takes it. */
static inline const char *hook_ca_file(const struct gateway *g)
{
    return *g->set->webhook_ca_file ? g->set->webhook_ca_file : NULL;
}

struct webhooks {
    struct gateway *g;
    struct client *client;
    char source[64]; /* of the events: this gateway's data */
    struct hook *hooks;
    int nhooks, in_flight;
    struct hook_heads heads;
    int64_t keep_us, pass_us, lag_us; /* mono: next time */
    int64_t trim_at; /* the writer's while trim_busy */
    _Atomic bool trimming; /* there may be more */
    bool trim_many;
    _Atomic bool trim_busy;
    _Atomic int tries;
    struct {
        char id[UUID_LEN], name[NAME_MAX_LEN + 1];
    } tenants[NAMES_KEPT]; /* names never change */

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t lock; /* covers what follows */
    pthread_cond_t wake;
    bool look, kick, stop;
};

void hook_kick(struct webhooks *w); /* something ended; any thread */

/* Inside a read or a job: the webhook as clients see it. ERR_NOT_FOUND. webhook_store.c */
int webhook_row(struct db *d, sqlite3 *c, const char *reach, const char *id, struct json_t **out, struct err *e);

/* --- webhook_rows.c: rows as the thread sees them --- */

int hooks_load(struct webhooks *w, struct err *e); /* what is idle becomes what its row is */
int hooks_heads(struct webhooks *w, struct err *e);
/* Each hands a change to the writer; the phase is HOOK_SAVED when it is over, and h->changed says whether the row still was what we know. */
void hook_save(struct hook *h, int (*run)(struct db *d, sqlite3 *c, void *u, struct err *e));
int hook_run_delivered(struct db *d, sqlite3 *c, void *u, struct err *e);
int hook_run_failed(struct db *d, sqlite3 *c, void *u, struct err *e);
int hook_run_passed(struct db *d, sqlite3 *c, void *u, struct err *e); /* nothing was to be sent up to h->then */
int hook_run_stopped(struct db *d, sqlite3 *c, void *u, struct err *e); /* too far behind: failing, from h->then.replay on */

/* --- webhook_keep.c: once a second --- */

void hooks_keep(struct webhooks *w);
void hook_stop(struct hook *h); /* failing, because of h->behind */

/* --- webhook_batch.c --- */

struct batch {
    struct buf body;
    int n, max;
    struct hook_place to;
    bool full;
};
void batch_init(struct batch *b, int max);
void batch_close(struct batch *b);
/* What follows h->at, at most up to `last` (or NULL). b->n 0: nothing, and b->to says how far that is true. */
int batch_live(struct webhooks *w, const struct hook *h, const struct hook_place *last, struct batch *b, struct err *e);
int batch_replay(struct webhooks *w, const struct hook *h, const struct hook_place *last, struct batch *b, struct err *e);
/* Any thread. tenant: its name, or "". */
int batch_test(const struct webhooks *w, const char *id, const char *tenant, struct batch *b, struct err *e);
bool hook_wants_event(const char *prefixes, const char *type);

/* --- webhook_body.c --- */

/* May this URL be asked: https, or a host that the operator lists. */
int hook_check_url(const struct gateway *g, const char *url, bool *listed, struct err *e);

/* --- webhook_send.c --- */

void hook_pass(struct hook *h); /* writes down h->at */
int hook_judge_address(void *listed, const struct sockaddr *a); /* of a bool */
