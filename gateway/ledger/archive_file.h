/* The file of one archived month: made from the month's table and the file that is there already, and compared with them row by row. Parts of
 * ledger_archive.c, which alone calls them. */
#pragma once
#include "base/sha256.h"
#include "gateway/ledger/ledger_archive.h"

struct archive_file {
    const char *database; /* path of weft.db */
    const char *path;     /* of the file; usage_YYYYMM.db.tmp while it is made */
    const char *before;   /* an earlier file of the month, whose rows are its, too; NULL: none */
    const char *table;    /* "usage" or "gone": the table in the database is TABLE_YYYYMM */
    int yyyymm;
    bool (*stop)(void *u);
    void *user;
};

/* Makes the file, which is replaced, with the rows of `before` and of the table; on the disk when 0 is returned. */
int archive_file_make(const struct archive_file *f, struct err *e);

/* Reads the file anew: is it whole (integrity_check), has it every row of the table and of `before`, and, where `exactly`, no other? ERR_CONFLICT when not:
 * it is damaged, or rows came since. *rows: of the file. */
int archive_file_check(const struct archive_file *f, bool exactly, int64_t *rows, struct err *e);

/* What the row of the table `archive` says of it. */
int archive_file_digest(const struct archive_file *f, int64_t *bytes, char sha256[SHA256_HEX], struct err *e);
