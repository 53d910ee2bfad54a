/* fetch: the files of a state (see follow.c): the pepper, months in files, adapters' bytes, in pieces.
 *
 *     a piece --appended--> in/NAME.part --whole, synced, renamed--> in/NAME (months: apply.c places them with the state that names them), or its place
 *                                                                     (adapters' bytes, which nothing names until the state does)
 *
 * A piece that came does not travel again in this process's life. What the primary itself has no more, or can't read, is no reason to stay behind with all the
 * rest: the state is taken without it, standby/missing names it, the log and /status say so, promote does, and each look asks for some of it again. After a
 * start every file that the state names is looked for once. Main thread of the standby. */
#include "adapters/adapter.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/backup/backup_impl.h"
#include "gateway/standby/standby_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- a file --- */

static int write_piece(int fd, const char *p, size_t n, const char *path, struct err *e)
{
    while (n) {
        ssize_t done = write(fd, p, n);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return err_errno(e, "%s", path);
        p += done;
        n -= (size_t)done;
    }
    return 0;
}

static int fetch_pieces(struct follow *f, const char *name, int fd, const char *path, struct err *e)
{
    char url[SUMS_PATH_MAX + 100];
    struct stat st;
    if (fstat(fd, &st)) return err_errno(e, "%s", path);
    int64_t at = st.st_size, bytes = -1, said = 0; /* what an answer that was cut off had brought before is not asked for again */
    do {
        snprintf(url, sizeof url, "/admin/v1/standby/files?path=%s&offset=%lld", name, (long long)at);
        if (ask(f, "GET", url, NULL, e) || json_get_int(f->head, "bytes", 0, INT64_MAX, &said, NULL, e)) return -1;
        if ((bytes >= 0 && said != bytes) || (int64_t)f->len > said - at || (!f->len && at < said)) return err_set(e, ERR_CONFLICT, "%s changed meanwhile", name);
        bytes = said;
        if (write_piece(fd, f->bytes, f->len, path, e)) return -1;
        at += (int64_t)f->len;
        if (at < bytes && is_long(f, e)) return -1;
    } while (at < bytes);
    return fsync(fd) ? err_errno(e, "%s", path) : 0;
}

/* Into `to`, a path of the folder. sha256: what it must be, or NULL. A whole file, or none; of one that was cut the beginning stays in in/, as long as
 * this process lives: what is on the disk after a crash of the machine is not trusted. */
static int fetch(struct follow *f, const char *name, const char *to, const char *sha256, struct err *e)
{
    char part[FILES_PATH_MAX], full[FILES_PATH_MAX], word[SUMS_PATH_MAX + 40], is[SHA256_HEX];
    int64_t bytes;
    snprintf(word, sizeof word, "standby/in/%s.part", name);
    for (char *p = word + 11; *p; p++)
        if (*p == '/') *p = '-';
    standby_path(f->s, word, part);
    standby_path(f->s, to, full);
    int fd = open(part, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, "%s", part);
    struct err why = {0};
    int rc = fetch_pieces(f, name, fd, part, &why);
    close(fd);
    if (rc == 0 && sha256 && files_hash(part, NULL, is, &bytes, &why) == 0 && strcmp(is, sha256) != 0) {
        standby_count(f->s, CHECK_MONTH);
        err_set(&why, ERR_CONFLICT, "%s is another file than the database names", name);
    }
    if (why.code && why.code != ERR_UNAVAILABLE && why.code != ERR_ENGINE && why.code != ERR_UPSTREAM_TIMEOUT) unlink(part);
    if (why.code) return err_set(e, why.code, "%s", why.msg);
    if (files_folders(full, strlen(f->s->dir), e)) return -1;
    if (rename(part, full)) return err_errno(e, "%s", full);
    *strrchr(full, '/') = 0;
    return files_sync_folder(full, e);
}

static bool is_here(const struct follow *f, const char *name)
{
    char path[FILES_PATH_MAX];
    standby_path(f->s, name, path);
    return access(path, F_OK) == 0;
}

/* --- what a state names --- */

static bool has_line(const struct buf *b, const char *line)
{
    size_t n = strlen(line);
    for (const char *p = b->data; (p = strstr(p, line)); p += n)
        if ((p == b->data || p[-1] == '\n') && p[n] == '\n') return true;
    return false;
}

static int add_missing(struct follow *f, const char *line, struct err *e)
{
    return buf_addf(&f->missing, "%s\n", line) ? err_set(e, ERR_NO_MEMORY, "no memory for a list of files") : 0;
}

/* The primary answered, and has not got it, or can't read it. */
static bool is_refused(const struct follow *f) { return f->status == 404 || f->status == 500; }

/* blobs/ab/DIGEST has its name in a folder that may be new, too. */
static int sync_above(const struct follow *f, const char *line, struct err *e)
{
    char path[FILES_PATH_MAX], two[9];
    snprintf(two, sizeof two, "%.8s", line);
    standby_path(f->s, two, path);
    if (files_sync_folder(path, e)) return -1;
    standby_path(f->s, "blobs", path);
    return files_sync_folder(path, e);
}

static int fetch_blob(struct follow *f, const char *line, struct err *e)
{
    static const char *const names[BLOB_FILES] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
    char name[SUMS_PATH_MAX];
    bool came = false;
    for (int i = 0; i < BLOB_FILES; i++) {
        struct err why = {0};
        snprintf(name, sizeof name, "%.80s/%s", line, names[i]);
        if (is_here(f, name)) continue;
        if (fetch(f, name, name, NULL, &why)) return is_refused(f) ? add_missing(f, line, e) : err_set(e, why.code, "%s", why.msg);
        came = true;
    }
    return came ? sync_above(f, line, e) : 0;
}

/* Fetched for a state that was not whole then. */
static bool came_before(const struct follow *f, const char *in, const char *sha256)
{
    char path[FILES_PATH_MAX], is[SHA256_HEX];
    int64_t bytes;
    standby_path(f->s, in, path);
    return files_hash(path, NULL, is, &bytes, NULL) == 0 && strcmp(is, sha256) == 0;
}

static bool is_month(const char *name)
{
    return strncmp(name, "archive/usage_", 14) == 0 && strspn(name + 14, "0123456789") == 6 && strcmp(name + 20, ".db") == 0;
}

/* "archive/usage_YYYYMM.db BYTES SHA256": the same line as before is the same file. One that is another than the state says was probably written anew since:
 * the next state says so. Where that is so twice the primary's file is damaged, and is as good as missing. */
static int fetch_month(struct follow *f, const char *line, struct err *e)
{
    char name[64], sha256[SHA256_HEX], in[80];
    struct err why = {0};
    if (sscanf(line, "%40s %*s %64s", name, sha256) != 2 || !is_month(name))
        return err_set(e, ERR_INVALID, "a list of files names '%.60s'", line);
    if (has_line(&f->s->names, line) && !has_line(&f->s->missing, line) && is_here(f, name)) return 0;
    snprintf(in, sizeof in, "standby/in/%s", name + 8);
    if (came_before(f, in, sha256) || fetch(f, name, in, sha256, &why) == 0) return 0;
    if (is_refused(f)) return add_missing(f, line, e);
    bool again = why.code == ERR_CONFLICT && strcmp(f->s->odd, line) == 0;
    if (why.code == ERR_CONFLICT) snprintf(f->s->odd, sizeof f->s->odd, "%s", line);
    return again ? add_missing(f, line, e) : err_set(e, why.code, "%s", why.msg);
}

static bool is_blob(const char *line)
{
    char digest[SHA256_HEX];
    if (strlen(line) != BLOB_LINE - 1 || strncmp(line, "blobs/", 6) != 0 || line[8] != '/') return false;
    snprintf(digest, sizeof digest, "%.64s", line + 9);
    return sha256_is_hex(digest) && line[6] == digest[0] && line[7] == digest[1];
}

static bool is_whole(const struct follow *f, const char *line)
{
    char config[SUMS_PATH_MAX], weights[SUMS_PATH_MAX];
    snprintf(config, sizeof config, "%.80s/" ADAPTER_CONFIG_FILE, line);
    snprintf(weights, sizeof weights, "%.80s/" ADAPTER_WEIGHTS_FILE, line);
    return is_blob(line) && is_here(f, config) && is_here(f, weights);
}

/* What could not be had before is asked for again, a few files a look and each in its turn: where thousands are missing, as of a disk that the primary lost,
 * a question for each would make every look last a minute. again: only such are walked. */
static bool is_anothers_turn(struct follow *f, const char *line, bool again)
{
    const struct standby *s = f->s;
    if (!again && (!s->missing.len || is_whole(f, line) || !has_line(&s->missing, line))) return false;
    int64_t i = f->was_missing++;
    return i < s->missing_turn || i >= s->missing_turn + MISSING_A_LOOK;
}

static int fetch_line(struct follow *f, const char *line, bool again, struct err *e)
{
    if (is_anothers_turn(f, line, again)) return add_missing(f, line, e);
    return is_blob(line) ? fetch_blob(f, line, e) : fetch_month(f, line, e);
}

static int fetch_named(struct follow *f, const struct buf *list, struct err *e)
{
    char line[200];
    bool again = list == &f->s->missing;
    for (const char *p = list->data, *end; *p && (end = strchr(p, '\n')); p = end + 1) {
        snprintf(line, sizeof line, "%.*s", (int)(end - p < 199 ? end - p : 199), p);
        if (is_long(f, e) || fetch_line(f, line, again, e)) return -1;
    }
    int64_t next = f->s->missing_turn + MISSING_A_LOOK;
    f->s->missing_turn = f->was_missing > next ? next : 0;
    return 0;
}

int keep_missing(struct standby *s, const struct buf *list, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct buf *was = &s->missing;
    if (was->len == list->len && memcmp(was->data, list->data, list->len) == 0) return 0;
    standby_path(s, "standby/missing", path);
    if (list->len ? files_write(path, list->data, list->len, e) : unlink(path) && errno != ENOENT ? err_errno(e, "%s", path) : 0) return -1;
    buf_reset(was);
    return buf_add(was, list->data, list->len) ? err_set(e, ERR_NO_MEMORY, "no memory for a list of files") : 0;
}

/* Until the new state is there what the old one lacks is missing, too: what came for it may be lost again. */
static int keep_both(struct follow *f, struct err *e)
{
    char line[200];
    struct buf both, *was = &f->s->missing;
    if (was->len == f->missing.len && memcmp(was->data, f->missing.data, was->len) == 0) return 0;
    buf_init(&both, 2 * STANDBY_NAMES_MAX);
    buf_add(&both, f->missing.data, f->missing.len);
    for (const char *p = f->s->missing.data, *end; *p && (end = strchr(p, '\n')); p = end + 1) {
        snprintf(line, sizeof line, "%.*s", (int)(end - p < 199 ? end - p : 199), p);
        if (!has_line(&f->missing, line)) buf_addf(&both, "%s\n", line);
    }
    int rc = both.failed ? err_set(e, ERR_NO_MEMORY, "no memory for a list of files") : keep_missing(f->s, &both, e);
    buf_close(&both);
    return rc;
}

/* --- the pepper --- */

/* Held to the tag of the answers: with another pepper every key would be refused after a promotion, and nothing sealed could be opened. */
static int take_pepper(struct follow *f, struct err *e)
{
    static const char name[] = "standby/in/pepper";
    char from[FILES_PATH_MAX], to[FILES_PATH_MAX];
    if (strcmp(f->pepper, f->to.tag) == 0) return 0;
    if (*f->pepper) standby_count(f->s, CHECK_PEPPER);
    if (*f->pepper) log_warn("standby_pepper", LS("reason", "the pepper in the folder is not the one of its state: it is fetched again"));
    if (fetch(f, "pepper", name, NULL, e) || pepper_tag(f->s, name, f->pepper, e)) return -1;
    standby_path(f->s, name, from);
    standby_path(f->s, "pepper", to);
    if (strcmp(f->pepper, f->to.tag) != 0) {
        standby_count(f->s, CHECK_PEPPER);
        unlink(from);
        return err_set(e, ERR_CONFLICT, "the pepper that came is not the one of the database that came");
    }
    return rename(from, to) ? err_errno(e, "%s", to) : files_sync_folder(f->s->dir, e);
}

/* A new list is looked through, and after a start the old one; else what was missing is asked for again, some of it. */
int fetch_files(struct follow *f, struct err *e)
{
    struct standby *s = f->s;
    f->until_us = clock_mono_us() + LOOK_S * 1000000ll; /* a time of their own: however long the pages took, files get on too */
    if (take_pepper(f, e) || fetch_named(f, f->new_list ? &f->list : s->was_walked ? &s->missing : &s->names, e) || keep_both(f, e)) return -1;
    s->was_walked = true;
    return 0;
}
