/* Closed months leave the database: their raw rows go to archive/usage_YYYYMM.db, a file that is written once and only read (docs/BACKUP.md).
 *
 * A month's rows are those of its table usage_YYYYMM, and, where the table `archive` has a row for it with `removed` NULL, those of its file. The
 * two are disjoint: the transaction that makes the row takes the table out of sight. Rows that come for an archived month later (a request that a
 * crash left open) make a table anew, and the next pass merges them. */
#pragma once
#include "gateway/ledger/ledger.h"

struct archive_options {
    int months;      /* closed months that stay in the database, 1 or more */
    int keep_months; /* files of months older than so many are removed; 0: never */
    int64_t now_us;  /* wall */
    bool (*stop)(void *u); /* asked often; NULL: never */
    void *user;
};

struct archive_pass {
    int archived, removed; /* months */
    int64_t rows, slowest_us; /* rows written to files; the longest that the writer was held by one step */
};

/* Archives what is due, finishes what a crash interrupted, removes what is too old. Long: on a thread of its own, one at a time, after ledger_open().
 * A month that fails is logged and tried again by the next call; -1 tells of the last such. */
int ledger_archive(struct ledger *l, const struct archive_options *o, struct archive_pass *out, struct err *e);
