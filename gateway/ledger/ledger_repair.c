/* ledger_repair: rollups anew of a data folder, as a repair. `weft-gateway rebuild --data DIR`, without a gateway.
 *
 *     weft.db there? --lock, open, migrate as a start does--> compared: what differs --ledger_rebuild--> compared again: equal?
 *
 * The rows are the truth: every bucket is made of them again, month by month, each whole or not at all, so a kill between leaves a folder on which the
 * command is simply run again. Sums of budgets are made of the rollups then. Sums of months whose rows retention has removed stay; they are compared, and what
 * still differs is an exit of 1. The last comparison is what `usage verify` and the metrics tell of until the next.
 *
 * Exit codes: 0 equal now, 1 not, 2 bad arguments. */
#include "gateway/ledger/ledger.h"
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char usage[] = "weft-gateway rebuild --data DIR\n"
                            "  --data DIR    a data folder that no gateway runs on; back it up first\n";

static int complain(const char *what)
{
    fprintf(stderr, "weft-gateway: %s\n", what);
    return 1;
}

static int bad_arguments(const char *what)
{
    fprintf(stderr, "weft-gateway: rebuild: %s\n%s", what, usage);
    return 2;
}

/* db_open() would make one. */
static int find_database(const char *dir, struct err *e)
{
    char path[DB_PATH_LEN];
    if (snprintf(path, sizeof path, "%s/" DB_FILE, dir) >= (int)sizeof path) return err_set(e, ERR_USAGE, "--data is too long");
    return access(path, F_OK) ? err_errno(e, "%s", path) : 0;
}

static void print_differs(void *u, int yyyymm, const char *rollup, int64_t buckets)
{
    const char *const *when = u;
    if (yyyymm) printf("%s: %s of %06d: %lld buckets differ\n", *when, rollup, yyyymm, (long long)buckets);
    else printf("%s: %s: %lld sums differ\n", *when, rollup, (long long)buckets);
}

static int repair(struct ledger *l, int64_t *made, int64_t *left, struct err *e)
{
    const char *before = "before", *still = "still";
    int64_t rows, bad;
    if (ledger_verify_each(l, print_differs, &before, &rows, &bad, e)) return -1;
    if (!bad) printf("before: every rollup equals its rows\n");
    if (fflush(stdout)) return err_errno(e, "standard output");
    return ledger_rebuild(l, made, e) || ledger_verify_each(l, print_differs, &still, &rows, left, e) ? -1 : 0;
}

static int open_and_repair(const char *dir, int64_t *made, int64_t *left, struct err *e)
{
    struct db *d = NULL;
    struct ledger *l = NULL;
    int rc = find_database(dir, e);
    if (rc == 0) rc = db_open(&d, &(struct db_options){.dir = dir, .sync_ms = 1000}, e);
    if (rc == 0) rc = ledger_open(&l, d, e);
    if (rc == 0) rc = repair(l, made, left, e);
    ledger_close(l);
    db_close(d);
    return rc;
}

int rebuild_main(int argc, char **argv)
{
    static const struct option options[] = {{"data", required_argument, NULL, 'd'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *dir = NULL;
    int64_t made = 0, left = 0;
    struct err e = {0};
    optind = 2;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'd') dir = optarg;
        else if (c == 'h') return fputs(usage, stdout) < 0;
        else return bad_arguments("there is no such argument, or it lacks its value");
    }
    if (optind < argc || !dir || !*dir) return bad_arguments("--data is needed, and nothing else");
    if (open_and_repair(dir, &made, &left, &e)) return complain(e.msg);
    printf("%s: made anew of %lld rows; %s\n", dir, (long long)made, left ? "the above still differ" : "every rollup equals its rows");
    if (fflush(stdout)) return complain("standard output can't be written");
    return left ? complain("sums still differ that can't be made of the rows (docs/RUNBOOK.md, WeftLedgerDiffers)") : 0;
}
