/* The ledger: every admitted request becomes exactly one usage row (METERING.md section 1).
 *
 * Admission is a row written before the request goes to an engine; settlement writes the usage row and the rollups and deletes the admission in
 * one transaction. What a crash left open is closed at the next start as gateway_crash with the last known counts, after asking the engine for its
 * receipt. Row ids are UUIDv7: usage id = request id. */
#pragma once
#include "gateway/auth/auth.h"
#include "gateway/db/db.h"
#include "gateway/ledger/price.h"
#include "gateway/limits/limit.h"
#include "gateway/registry/registry.h"

enum usage_state { USAGE_COMPLETED, USAGE_CLIENT_ABORT, USAGE_UPSTREAM_ERROR, USAGE_TIMEOUT, USAGE_REJECTED, USAGE_GATEWAY_CRASH, USAGE_STATES };
extern const char *const usage_state_name[USAGE_STATES];

enum count_source { COUNT_NONE, COUNT_ENGINE, COUNT_USAGE, COUNT_RECEIPT, COUNT_PROGRESS, COUNT_ESTIMATE, COUNT_SOURCES };
extern const char *const count_source_name[COUNT_SOURCES];

struct admission {
    char id[UUID_LEN];
    struct principal who;
    struct target what;
    char model[256];          /* as the client wrote it */
    char alias[NAME_MAX_LEN + 1]; /* the alias that led to `what`; "": none */
    const char *endpoint;     /* "/v1/chat/completions", a constant */
    bool stream;
    int64_t reserved_tokens;  /* all that the prompts and the longest allowed answers can have */
    int64_t reserved_cost;    /* of these */
    struct price price;       /* that was valid at the start */
    struct limit_ticket held; /* of the limits; given back when the usage row is committed */
    int64_t t_start;          /* wall us */
};

#define ROUTED_FEATURES 256 /* bytes */

/* How the model of a request of an adaptive alias was chosen (docs/ROUTING.md), and what the small model computed for it in vain: that becomes a usage row of its own. */
struct settled_route {
    int way;
    double need, cost;
    const char *reason;                 /* a constant */
    char targets[SHA256_HEX];
    uint8_t features[ROUTED_FEATURES];
    int nfeatures;                      /* bytes */
    char probe[UUID_LEN];               /* id of that row; "": there is none. What follows is its */
    struct target what;
    struct price price;
    int64_t prompt, cached, output, t_end;
    char engine[64];
};

struct settlement {
    enum usage_state state;
    int http_status;
    char finish[16];          /* "stop", "length", "" */
    int64_t t_first, t_end;   /* wall us; t_first 0: no token came */
    int64_t prompt, cached, delivered, produced; /* tokens */
    int64_t before, after;    /* tokens of the prompt as it was sent and as it was read, under a prompt policy; before 0: there was none */
    enum count_source source;
    int attempt;              /* 1: the first engine answered */
    bool cold;
    int64_t load_us;          /* waited for the adapter to be loaded; 0: it was there */
    char engine[64];
    struct settled_route *route; /* malloc'ed, taken over by ledger_settle(); NULL: none */
    bool impatient; /* done comes at the latest when the disk refuses, though the row is not there yet */
};

struct ledger;

int ledger_open(struct ledger **out, struct db *d, struct err *e);
/* Before db_close(). Waits for settlements that were handed in; what is still open stays an admission row, for the next start to close. */
void ledger_close(struct ledger *l);

/* Counts settlements into the gateway's metrics from now on (gateway/observe/meters.h); before traffic. */
struct metrics;
void ledger_set_metrics(struct ledger *l, struct metrics *m);

/* Before traffic: from now on what an admission holds of the limits is settled with it, and ledger_recover() knows what
 * things cost. Either may be NULL. */
void ledger_set_limits(struct ledger *l, struct limits *limits, struct prices *prices);

/* What a probe counts against budgets, beside its request: 0 where there was none. */
static inline int64_t probe_tokens(const struct settlement *s)
{
    return s->route && *s->route->probe ? s->route->prompt + s->route->output : 0;
}
static inline int64_t probe_cost(const struct settlement *s)
{
    return s->route && *s->route->probe ? price_cost(&s->route->price, s->route->prompt, s->route->cached, s->route->output) : 0;
}

/* What a settlement counts against budgets: tokens of the prompt and those delivered, and their price. */
static inline int64_t settled_tokens(const struct settlement *s)
{
    return s->prompt + s->delivered;
}
static inline int64_t settled_cost(const struct admission *a, const struct settlement *s)
{
    return price_cost(&a->price, s->prompt, s->cached, s->delivered);
}

/* Writes the admission; done(u, NULL) once committed, then the request may go on. ERR_LEDGER when it can't be recorded: answer 503; ERR_TIMEOUT_BODY
 * when it began so long ago that rows of its time may have been exported. Reserves the place of the settlement, which therefore can't be refused. */
int ledger_admit(struct ledger *l, const struct admission *a, void (*done)(void *u, const struct err *e), void *u, struct err *e);

/* Counts so far of an admitted request, never more than delivered; joins the next group. Call at most once a second or every 256 tokens. */
void ledger_progress(struct ledger *l, const char *id, int64_t prompt, int64_t cached, int64_t delivered);

/* Another way answers than the one that was admitted: from now on a crash finds a->what and a->price in the admission, too. */
void ledger_moved(struct ledger *l, const struct admission *a);

/* Ends it, of a->what at a->price, exactly once for each admission, and takes over what a->held holds. done (may be NULL) comes once committed; see also `impatient`. */
void ledger_settle(struct ledger *l, const struct admission *a, const struct settlement *s, void (*done)(void *u), void *u);

/* The engine's counts of a request id; 0, or -1 where it knows none. */
typedef int ledger_receipt_fn(void *u, const char *id, int64_t *prompt, int64_t *cached, int64_t *output, char finish[16]);

/* At start, before traffic: closes what a crash left open. receipt(): the engine's counts of a request id, 0 or -1 where it knows none; it may only
 * correct the produced and prompt counts, the delivered count stays what was noted. */
int ledger_recover(struct ledger *l, ledger_receipt_fn *receipt, void *u, int *closed, struct err *e);

int64_t ledger_open_admissions(struct ledger *l);

/* Compares the rollups with the raw rows, to the integer, archived months too; *bad counts buckets that differ. The result stands in `verified`. */
int ledger_verify(struct ledger *l, int64_t *rows, int64_t *bad, struct err *e);
/* The same, told which: `buckets` of a rollup of a month, YYYYMM; of budget_use month 0. ledger_verify() logs it. */
typedef void ledger_differs_fn(void *u, int yyyymm, const char *rollup, int64_t buckets);
int ledger_verify_each(struct ledger *l, ledger_differs_fn *differs, void *u, int64_t *rows, int64_t *bad, struct err *e);
/* When the last one ended, Unix seconds, of an earlier process too; 0: never. Any thread. */
int64_t ledger_verified(const struct ledger *l, int64_t *bad);

/* Compares the last completed requests with what the engines counted, as far as they still know them. */
struct receipt_check {
    int asked, known, differ;
};
int ledger_check_receipts(struct ledger *l, ledger_receipt_fn *receipt, void *u, struct receipt_check *out, struct err *e);

/* Makes all rollups anew from the raw rows of weft.db and the archive, and of them the sums of budgets; *rows: how many. Minutes for tens of millions: before traffic, or as a repair. */
int ledger_rebuild(struct ledger *l, int64_t *rows, struct err *e);
/* `weft-gateway rebuild --data DIR` (ledger_repair.c): 0 all is equal, 1 failed or something still differs, 2 bad arguments. */
int rebuild_main(int argc, char **argv);

/* Settlements since the start, and those that the writer had to hand in again because the disk refused. */
int64_t ledger_settled(const struct ledger *l);
int64_t ledger_retried(const struct ledger *l);
