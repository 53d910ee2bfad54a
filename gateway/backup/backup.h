/* Backups: the whole state of a gateway as it was at one moment, in a folder, made while it serves (docs/BACKUP.md).
 *
 *     DIR/ID/weft.db  pepper  archive/usage_YYYYMM.db  blobs/ab/DIGEST/...  SHA256SUMS  backup.json  [verified.json]
 *
 * ID is the time of its making, UTC, as 20261122T135953.042Z; DIR/ID.part is one that is not complete. weft.db is one state; what it names, months in
 * files and adapters' bytes, is there. Files that never change are hard links where DIR is on the data's file system, or to the backup before.
 *
 * These functions work on folders and block for as long as it takes; the thread that calls them for the gateway is upkeep.h's. */
#pragma once
#include "gateway/db/db.h"
#include "gateway/registry/files.h"

#define BACKUP_ID_LEN 24
#define BACKUP_PATH_MAX 700 /* of DIR */
#define BACKUPS_MAX 1000    /* in one DIR */

struct json_t;

/* Removes what a crash left in DIR (making it where it is missing). Before the others. */
int backup_open(const char *dir, struct err *e);

/* An id that is free in DIR: this millisecond, or one after it. */
void backup_new_id(const char *dir, int64_t wall_us, char id[BACKUP_ID_LEN]);
bool backup_id_is(const char *text);

/* Makes DIR/ID. *out: what backup.json says. No archive pass may run meanwhile (upkeep.c sees to it). */
int backup_make(struct db *d, const char *dir, const char *id, const struct stopper *stop, struct json_t **out, struct err *e);

/* What the complete ones say of themselves, with "verification" (null, or verified.json), newest first. */
int backup_list(const char *dir, struct json_t *list, struct err *e);
int backup_get(const char *dir, const char *id, struct json_t **out, struct err *e); /* ERR_NOT_FOUND */
int backup_remove(const char *dir, const char *id, struct err *e);
/* Removes complete ones until the newest `keep` are left; 0: none. */
int backup_retain(const char *dir, int keep, struct err *e);

/* Is it whole, and does it balance: every file's digest; weft.db's integrity; that all that it names is there; then a copy is opened as a start would
 * open it, and the ledger and the audit trail are verified. 0: it was looked at, and out->good says how it is. Writes verified.json. */
struct backup_check {
    bool good;
    char why[400]; /* not good: the first thing that is wrong */
    char sha256[SHA256_HEX];
    int64_t files, bytes, requests, bad_buckets, audit_rows, took_us;
};
int backup_verify(const char *dir, const char *id, const struct stopper *stop, struct backup_check *out, struct err *e);

/* The backup FROM (the folder DIR/ID, wherever it lies) becomes the data folder TO, which must be new or empty, or one that an interrupted restore of
 * the same backup left. digest: what the backup's must be, or NULL. Ends with the check above, of TO itself. */
int backup_restore(const char *from, const char *to, const char *digest, struct backup_check *out, struct err *e);

/* `weft-gateway restore --from DIR --data DIR [--digest HEX]`: 0, 1 failed or not good, 2 bad arguments. */
int restore_main(int argc, char **argv);
