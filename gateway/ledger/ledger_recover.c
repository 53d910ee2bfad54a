/* ledger_recover: at start, closes what the last process left open.
 *
 * An admission row without a usage row means that the gateway died before it could settle: the row becomes usage with the state
 * gateway_crash. Billed is what the last progress note knew to be delivered, never more; an engine that outlived the gateway may still
 * hold a receipt, which fills in the prompt's size and what was produced beyond. It is priced as it would have been: by the price that the
 * admission names, whatever became of the prices since. Rows are read in batches, asked for outside of any
 * transaction, and settled by the same ledger_settle_run() as all others, so being killed here too changes nothing. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/ledger_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 256
#define READ_MS 30000
#define RECEIPTS_MS 10000 /* for all of them; then on without */

struct left {
    struct admission a;
    struct settlement s;
    struct usage_row row;
    struct month *month;
    char endpoint[64];
    int64_t price; /* where it is priced */
    bool priced, counted;
};

struct batch {
    struct ledger *l;
    int n;
    struct left row[BATCH];
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void read_row(sqlite3_stmt *st, struct left *x)
{
    struct admission *a = &x->a;
    *x = (struct left){0};
    snprintf(a->id, sizeof a->id, "%s", db_text(st, 0));
    snprintf(a->who.tenant, sizeof a->who.tenant, "%s", db_text(st, 1));
    snprintf(a->who.key, sizeof a->who.key, "%s", db_text(st, 2));
    snprintf(a->what.base, sizeof a->what.base, "%s", db_text(st, 3));
    snprintf(a->what.adapter, sizeof a->what.adapter, "%s", db_text(st, 4));
    a->what.version = sqlite3_column_int(st, 5);
    snprintf(a->model, sizeof a->model, "%s", db_text(st, 6));
    snprintf(x->endpoint, sizeof x->endpoint, "%s", db_text(st, 7));
    a->endpoint = x->endpoint;
    a->stream = sqlite3_column_int(st, 8);
    a->t_start = sqlite3_column_int64(st, 9);
    snprintf(a->alias, sizeof a->alias, "%s", db_text(st, 14));
    x->priced = sqlite3_column_type(st, 15) != SQLITE_NULL;
    x->price = sqlite3_column_int64(st, 15);
    int64_t noted = sqlite3_column_int64(st, 10);
    struct settlement *s = &x->s;
    s->state = USAGE_GATEWAY_CRASH;
    s->t_end = noted > a->t_start ? noted : a->t_start;
    s->prompt = sqlite3_column_int64(st, 11);
    s->cached = least(sqlite3_column_int64(st, 12), s->prompt);
    s->delivered = s->produced = sqlite3_column_int64(st, 13);
    s->source = noted ? COUNT_PROGRESS : COUNT_NONE;
    s->attempt = 1;
}

/* An admission of an older version names no price: the one that is in force for its start. */
static int find_price(struct db *d, sqlite3 *c, struct ledger *l, struct left *x, struct err *e)
{
    struct admission *a = &x->a;
    if (x->priced) return price_of_row(d, c, x->price, &a->price, e) < 0 ? -1 : 0;
    if (l->prices) a->price = price_of(l->prices, a->what.base, a->who.tenant, a->what.adapter, a->t_start);
    return 0;
}

static int read_batch(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT id, tenant, key, base, adapter, version, model, endpoint, stream, t_start, t_noted, prompt, cached, output, alias, price"
                              " FROM admission ORDER BY id LIMIT ?1";
    struct batch *b = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "i", (int64_t)BATCH)) return -1;
    int rc = 0;
    for (b->n = 0; b->n < BATCH && (rc = db_row(st, e)) == 1; b->n++) {
        struct left *x = &b->row[b->n];
        read_row(st, x);
        if (!(x->month = ledger_month(b->l, x->a.t_start, e))) return -1;
        if (find_price(d, c, b->l, x, e)) return -1;
    }
    return rc < 0 ? -1 : 0;
}

static int settle_batch(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct batch *b = u;
    for (int i = 0; i < b->n; i++)
        if (ledger_settle_run(d, c, b->row[i].month, &b->row[i].a, &b->row[i].s, &b->row[i].row, &b->row[i].counted, e)) return -1;
    return 0;
}

static void ask(struct left *x, ledger_receipt_fn *receipt, void *u)
{
    struct settlement *s = &x->s;
    int64_t prompt = s->prompt, cached = s->cached, output = s->produced;
    char finish[16] = "";
    if (receipt(u, x->a.id, &prompt, &cached, &output, finish)) return;
    s->prompt = prompt > 0 ? prompt : 0;
    s->cached = cached > 0 ? least(cached, s->prompt) : 0;
    if (output > s->produced) s->produced = output;
    memcpy(s->finish, finish, sizeof s->finish);
    s->finish[sizeof s->finish - 1] = 0;
    s->source = COUNT_RECEIPT;
}

int ledger_recover(struct ledger *l, ledger_receipt_fn *receipt, void *u, int *closed, struct err *e)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b) return err_set(e, ERR_NO_MEMORY, "no memory to recover the ledger");
    int64_t until = clock_mono_us() + RECEIPTS_MS * 1000ll;
    int rc, total = 0;
    b->l = l;
    while ((rc = db_read(l->db, read_batch, b, READ_MS, e)) == 0 && b->n > 0) {
        for (int i = 0; i < b->n && receipt && clock_mono_us() < until; i++) ask(&b->row[i], receipt, u);
        if ((rc = db_write_wait(l->db, settle_batch, b, e))) break;
        for (int i = 0; i < b->n; i++) b->row[i].month->made = true;
        total += b->n;
        l->open -= b->n;
    }
    free(b);
    if (total) log_warn("admissions_closed", LI("requests", total));
    if (closed) *closed = total;
    return rc;
}
