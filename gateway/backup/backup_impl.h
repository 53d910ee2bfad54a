/* What the parts of gateway/backup share: backup.c (list, remove), backup_make.c, backup_check.c, restore.c. Nobody else includes it. */
#pragma once
#include "gateway/backup/backup.h"
#include "gateway/backup/backup_sums.h"
#include <jansson.h>

#define BACKUP_FILE "backup.json"
#define VERIFIED_FILE "verified.json"
#define RESTORING_FILE ".restoring" /* in a data folder whose restore has not ended: the gateway refuses it (db_files.c) */
#define BACKUP_DIGESTS_MAX 2000000

struct wanted {
    char digest[SHA256_HEX];
    bool needed; /* a version can't do without; else its bytes may be gone already */
};

/* What a weft.db names: adapters' bytes by digest, sorted; months in files, as YYYYMM. */
struct inventory {
    struct wanted *blob;
    size_t nblobs, cap;
    int month[600], nmonths, schema;
};
int inventory_read(struct inventory *v, const char *database, bool immutable, struct err *e); /* {0} before */
void inventory_close(struct inventory *v);
bool inventory_has(const struct inventory *v, const char *digest);
void blob_file(const char *digest, int file, char out[SUMS_PATH_MAX]); /* file 0 or 1: blobs/ab/DIGEST/... */
#define BLOB_FILES 2
void month_file(int yyyymm, char out[SUMS_PATH_MAX]);

int read_json(const char *path, json_t **out, struct err *e); /* ERR_NOT_FOUND */
int write_json(const char *path, const json_t *v, struct err *e);

/* backup_check.c: of a folder that holds weft.db, pepper, archive/ and blobs/, and which nobody uses: SQLite's own check, and that what weft.db names is in `s`. */
int check_database(const char *folder, const struct digests *s, const struct stopper *stop, struct backup_check *out, struct err *e);
/* Opens it as a start does, which may bring it to this program's shape; ledger and audit trail. */
int check_books(const char *folder, struct backup_check *out, struct err *e);
int backup_bad(struct backup_check *out, const char *format, ...) __attribute__((format(printf, 2, 3))); /* 0: the first one stands */
