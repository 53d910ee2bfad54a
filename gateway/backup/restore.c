/* restore: a backup becomes a data folder. `weft-gateway restore --from DIR --data DIR [--digest HEX]`, without a gateway.
 *
 *     new or empty --.restoring--> being filled --every file: its digest--> whole --weft.db checked--> (no .restoring) --> opened, verified
 *
 * While .restoring is there no gateway starts on the folder (db_files.c), and only a restore of the same backup goes on with it: it begins again. The
 * folder's lock is held all the time. A target that holds anything else is refused: whoever means it removes it himself. The backup is only read.
 *
 * Exit codes: 0 restored and good, 1 not, 2 bad arguments. */
#include "base/clock.h"
#include "gateway/backup/backup_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TO_MAX 500 /* as a data folder's */

struct restoring {
    const char *from, *to;
    struct digests sums;
    char sha256[SHA256_HEX];
    int lock;
};

/* --- the target --- */

/* The mark names the backup's digest. 1: it is ours, 0: there is none, -1. */
static int read_mark(const struct restoring *r, struct err *e)
{
    char path[FILES_PATH_MAX], text[SHA256_HEX] = "";
    files_join(path, r->to, RESTORING_FILE);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? 0 : err_errno(e, "%s", path);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n == (ssize_t)sizeof text - 1 && strcmp(text, r->sha256) == 0) return 1;
    return err_set(e, ERR_CONFLICT, "%s holds the beginning of another restore: remove it first", r->to);
}

/* A restore that was killed before its mark was there leaves the lock file, and the mark under another name. */
static int check_empty(const struct restoring *r, struct err *e)
{
    static const char *const ours[] = {".", "..", "lock", RESTORING_FILE ".new"};
    DIR *d = opendir(r->to);
    int rc = d ? 0 : err_errno(e, "%s", r->to);
    for (struct dirent *x; rc == 0 && (x = readdir(d));) {
        size_t i = 0;
        while (i < sizeof ours / sizeof *ours && strcmp(x->d_name, ours[i]) != 0) i++;
        if (i == sizeof ours / sizeof *ours)
            rc = err_set(e, ERR_CONFLICT, "%s is not empty (it has '%.60s'): restore into a new folder", r->to, x->d_name);
    }
    if (d) closedir(d);
    return rc;
}

static int take_lock(struct restoring *r, struct err *e)
{
    char path[FILES_PATH_MAX];
    files_join(path, r->to, "lock");
    r->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r->lock < 0) return err_errno(e, "lock file %s", path);
    return flock(r->lock, LOCK_EX | LOCK_NB) ? err_set(e, ERR_CONFLICT, "another process uses %s (it holds the file lock)", r->to) : 0;
}

static int open_target(struct restoring *r, struct err *e)
{
    char path[FILES_PATH_MAX];
    if (files_folder(r->to, e)) return -1;
    int mark = read_mark(r, e);
    if (mark < 0 || (mark == 0 && check_empty(r, e)) || take_lock(r, e)) return -1;
    if (chmod(r->to, 0700)) return err_errno(e, "mode 0700 of %s", r->to);
    files_join(path, r->to, RESTORING_FILE);
    return files_write(path, r->sha256, strlen(r->sha256), e) || files_sync_folder(r->to, e) ? -1 : 0;
}

/* --- the source --- */

static int open_source(struct restoring *r, const char *digest, struct err *e)
{
    char path[FILES_PATH_MAX];
    json_t *o = NULL;
    if (digests_read(&r->sums, r->from, r->sha256, e)) return -1;
    if (digest && strcmp(digest, r->sha256) != 0) return err_set(e, ERR_CONFLICT, "the digest of %s is %s, not %.64s", r->from, r->sha256, digest);
    files_join(path, r->from, BACKUP_FILE);
    if (read_json(path, &o, e)) return -1;
    const char *said = json_string_value(json_object_get(o, "sha256"));
    int rc = said && strcmp(said, r->sha256) == 0 ? 0 : err_set(e, ERR_CONFLICT, SUMS_FILE " of %s is not the one that " BACKUP_FILE " names", r->from);
    json_decref(o);
    if (rc == 0 && (!digests_find(&r->sums, DB_FILE) || !digests_find(&r->sums, "pepper"))) rc = err_set(e, ERR_INVALID, "%s lacks weft.db or pepper", r->from);
    return rc;
}

static int fill(struct restoring *r, struct backup_check *out, struct err *e)
{
    for (size_t i = 0; i < r->sums.n; i++) {
        const struct file_digest *s = &r->sums.v[i];
        char from[FILES_PATH_MAX], to[FILES_PATH_MAX], sha256[SHA256_HEX];
        int64_t bytes;
        files_join(from, r->from, s->path);
        files_join(to, r->to, s->path);
        if (files_folders(to, strlen(r->to), e) || files_copy(from, to, NULL, sha256, &bytes, e)) return -1;
        if (strcmp(sha256, s->sha256) != 0) return err_set(e, ERR_CONFLICT, "%s is not what it was when the backup was made", from);
        out->files++;
        out->bytes += bytes;
    }
    return files_sync_tree(r->to, e);
}

static int unmark(const struct restoring *r, struct err *e)
{
    char path[FILES_PATH_MAX];
    files_join(path, r->to, RESTORING_FILE);
    return unlink(path) ? err_errno(e, "%s", path) : files_sync_folder(r->to, e);
}

static int restore(struct restoring *r, const char *digest, struct backup_check *out, struct err *e)
{
    if (open_source(r, digest, e) || open_target(r, e) || fill(r, out, e) || check_database(r->to, &r->sums, NULL, out, e)) return -1;
    if (!out->good) return err_set(e, ERR_CONFLICT, "%s", out->why);
    if (unmark(r, e)) return -1;
    close(r->lock); /* the gateway's own way takes it again */
    r->lock = -1;
    return check_books(r->to, out, e);
}

int backup_restore(const char *from, const char *to, const char *digest, struct backup_check *out, struct err *e)
{
    struct restoring r = {.from = from, .to = to, .lock = -1};
    int64_t began_us = clock_mono_us();
    *out = (struct backup_check){.good = true};
    if (strlen(from) > BACKUP_PATH_MAX || strlen(to) > TO_MAX) return err_set(e, ERR_USAGE, "a folder's path is longer than %d bytes", TO_MAX);
    int rc = restore(&r, digest, out, e);
    memcpy(out->sha256, r.sha256, sizeof out->sha256);
    out->took_us = clock_mono_us() - began_us;
    if (r.lock >= 0) close(r.lock);
    digests_close(&r.sums);
    return rc;
}

/* --- the command --- */

static const char usage[] = "weft-gateway restore --from DIR --data DIR [--digest HEX]\n"
                            "  --from DIR    a backup: a folder with SHA256SUMS in it\n"
                            "  --data DIR    what becomes the data folder; new, or empty\n"
                            "  --digest HEX  refuse any other backup (sha256 in `weft backup list`)\n";

static int complain(const char *what)
{
    fprintf(stderr, "weft-gateway: %s\n", what);
    return 1;
}

static int bad_arguments(const char *what)
{
    fprintf(stderr, "weft-gateway: restore: %s\n%s", what, usage);
    return 2;
}

int restore_main(int argc, char **argv)
{
    static const struct option options[] = {
        {"from", required_argument, NULL, 'f'}, {"data", required_argument, NULL, 'd'}, {"digest", required_argument, NULL, 's'}, {"help", no_argument, NULL, 'h'}, {0}};
    const char *from = NULL, *to = NULL, *digest = NULL;
    struct backup_check x;
    struct err e = {0};
    optind = 2;
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'f') from = optarg;
        else if (c == 'd') to = optarg;
        else if (c == 's') digest = optarg;
        else if (c == 'h') return fputs(usage, stdout) < 0;
        else return bad_arguments("there is no such argument, or it lacks its value");
    }
    if (optind < argc || !from || !to || !*from || !*to) return bad_arguments("--from and --data are needed, and nothing else");
    if (digest && !sha256_is_hex(digest)) return bad_arguments("--digest takes 64 lower-case hex digits");
    if (backup_restore(from, to, digest, &x, &e)) return complain(e.msg);
    printf("%s: %lld files, %.1f MB, backup %s\n", to, (long long)x.files, (double)x.bytes / 1e6, x.sha256);
    if (!x.good) return complain(x.why);
    printf("%lld requests, every rollup equals its rows; the audit trail's %lld rows are whole\n", (long long)x.requests, (long long)x.audit_rows);
    return fflush(stdout) == 0 ? 0 : 1;
}
