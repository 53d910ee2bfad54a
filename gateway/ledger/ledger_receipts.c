/* ledger_receipts: what the last completed requests were billed, held against what the engines themselves counted.
 *
 * Engines keep receipts of their last requests for an hour. The last ROWS_MAX completed rows of the time in which all are kept are asked for, as
 * long as ASK_MS lasts; an engine that has no receipts, or lost them at a restart, answers for none. A request that was broken off is not
 * compared: its engine may have gone on for a moment after the last count that reached us. Blocks; on database threads. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/ledger/ledger_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACK_S 3000    /* receipts are kept 3600 */
#define ROWS_MAX 256
#define SLICE 4096
#define SLICES_MAX 256 /* a million rows: of more the newest are not reached, and older ones are compared */
#define ASK_MS 5000

struct counted {
    char id[UUID_LEN];
    int64_t prompt, output;
};

struct last {
    struct counted row[ROWS_MAX]; /* a ring */
    int64_t n;
};

static int keep(void *u, const struct usage_row *r, struct err *e)
{
    struct last *l = u;
    (void)e;
    if (r->adjusts || r->state != USAGE_COMPLETED || (r->source != COUNT_ENGINE && r->source != COUNT_USAGE)) return 0;
    struct counted *c = &l->row[l->n++ % ROWS_MAX];
    snprintf(c->id, sizeof c->id, "%s", r->id);
    c->prompt = r->prompt;
    c->output = r->produced;
    return 0;
}

static int find_last(struct ledger *l, struct last *last, struct err *e)
{
    int64_t now = clock_wall_us() / 1000000;
    struct rows_query q = {.start = now - BACK_S, .end = now + 1, .all = true};
    struct rows_cursor at = {0};
    bool more = true;
    for (int i = 0; i < SLICES_MAX && more; i++)
        if (ledger_rows(l, &q, &at, SLICE, keep, last, &more, e)) return -1;
    return 0;
}

static void ask(const struct counted *c, ledger_receipt_fn *receipt, void *u, struct receipt_check *out)
{
    int64_t prompt = 0, cached = 0, output = 0;
    char finish[16] = "";
    out->asked++;
    if (receipt(u, c->id, &prompt, &cached, &output, finish)) return;
    out->known++;
    if (prompt == c->prompt && output == c->output) return;
    out->differ++;
    log_warn("receipt_differs", LS("request", c->id), LI("prompt", c->prompt), LI("engine_prompt", prompt), LI("output", c->output),
             LI("engine_output", output));
}

int ledger_check_receipts(struct ledger *l, ledger_receipt_fn *receipt, void *u, struct receipt_check *out, struct err *e)
{
    struct last *last = calloc(1, sizeof *last);
    if (!last) return err_set(e, ERR_NO_MEMORY, "no memory to check receipts");
    int rc = find_last(l, last, e);
    int64_t until = clock_mono_us() + ASK_MS * 1000ll, n = last->n < ROWS_MAX ? last->n : ROWS_MAX;
    *out = (struct receipt_check){0};
    for (int64_t i = 0; rc == 0 && i < n && clock_mono_us() < until; i++) ask(&last->row[(last->n - 1 - i) % ROWS_MAX], receipt, u, out);
    free(last);
    return rc;
}
