/* apply: the standby's folder (see standby.h). What it holds is a whole state of the primary at any moment, whatever is killed when.
 *
 *     fresh (redo.c) --sealed: digest, fsync, rename--> redo --pages into weft.db, files into place, list, fsync, state.json--> (no redo)
 *     a kill before that: the state is the old one,     a kill here: the next start, or promote, does all of it again; so does the next look, where the
 *     what came stays, and is compared                  disk refused: no look begins while there is a redo
 *
 * Writing the same pages twice is the same as once, so redo needs no log of how far it was. The room that weft.db will need is taken before the seal, so a
 * full disk is met while the old state is still the whole truth. redo is read and its digest compared before its first page is written. The list of files
 * is in it, and the folder's own list is believed only where its SHA-256 is the one that the state says: else it is asked for again. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/backup/backup_impl.h"
#include "gateway/standby/parcel.h"
#include "gateway/standby/standby_impl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void standby_path(const struct standby *s, const char *name, char out[FILES_PATH_MAX]) { files_join(out, s->dir, name); }

void standby_count(struct standby *s, enum standby_check what)
{
    pthread_mutex_lock(&s->lock_stats);
    s->stats.unverified[what]++;
    pthread_mutex_unlock(&s->lock_stats);
}

/* --- state.json --- */

static int other_version(const struct standby *s, const char *name, int64_t version, struct err *e)
{
    return err_set(e, ERR_UNSUPPORTED, "%s/standby/%s was left by another version of weft-gateway: its format is %lld, this program's %d. Promote it with the version that left it; or, where "
                   "the primary serves, let this version's standby follow until it has a whole state", s->dir, name, (long long)version, REDO_VERSION - '0');
}

json_t *state_json(const struct state *t)
{
    return json_pack("{si ss ss ss sI sI sI sI sI}", "version", REDO_VERSION - '0', "epoch", t->epoch, "tag", t->tag, "names", t->names, "gen", (json_int_t)t->gen, "pages", (json_int_t)t->pages,
                     "page_size", (json_int_t)t->page_size, "wall_us", (json_int_t)t->wall_us, "asked_us", (json_int_t)t->asked_us);
}

static int state_of(const json_t *o, struct state *out, struct err *e)
{
    struct state t = {0};
    const char *epoch = NULL, *tag = NULL, *names = NULL;
    if (json_need_str(o, "epoch", UUID_LEN - 1, &epoch, e) || json_need_str(o, "tag", SHA256_HEX - 1, &tag, e) || json_need_str(o, "names", SHA256_HEX - 1, &names, e) ||
        json_get_int(o, "gen", 0, UINT32_MAX, &t.gen, NULL, e) || json_get_int(o, "pages", 1, UINT32_MAX, &t.pages, NULL, e) ||
        json_get_int(o, "page_size", 512, REDO_PAGE_MAX, &t.page_size, NULL, e) || json_get_int(o, "wall_us", 0, INT64_MAX, &t.wall_us, NULL, e) ||
        json_get_int(o, "asked_us", 0, INT64_MAX, &t.asked_us, NULL, e))
        return -1;
    if (!t.pages || !t.page_size) return err_set(e, ERR_INVALID, "a state without pages");
    snprintf(t.epoch, sizeof t.epoch, "%s", epoch);
    snprintf(t.tag, sizeof t.tag, "%s", tag);
    snprintf(t.names, sizeof t.names, "%s", names);
    *out = t;
    return 0;
}

int state_read(const struct standby *s, struct state *out, struct err *e)
{
    char path[FILES_PATH_MAX];
    json_t *o = NULL;
    standby_path(s, "standby/state.json", path);
    if (read_json(path, &o, e)) return -1;
    int64_t version = REDO_VERSION - '0'; /* where none is said: of before it was */
    int rc = json_get_int(o, "version", 0, INT64_MAX, &version, NULL, e);
    if (rc == 0 && version != REDO_VERSION - '0') rc = other_version(s, "state.json", version, e);
    else if (rc == 0) rc = state_of(o, out, e);
    json_decref(o);
    return rc && e->code != ERR_UNSUPPORTED ? err_prefix(e, "%s", path) : rc;
}

int state_write(const struct standby *s, const struct state *t, struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(s, "standby/state.json", path);
    json_t *o = state_json(t);
    int rc = write_json(path, o, e);
    json_decref(o);
    return rc;
}

static int read_names(const struct standby *s, const char *name, struct buf *b, struct err *e)
{
    char path[FILES_PATH_MAX], some[65536];
    ssize_t n = 0;
    standby_path(s, name, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? 0 : err_errno(e, "%s", path);
    int rc = 0;
    while (rc == 0 && (n = read(fd, some, sizeof some)) > 0) rc = buf_add(b, some, (size_t)n) ? err_set(e, ERR_NO_MEMORY, "no memory for %s", path) : 0;
    if (n < 0) rc = err_errno(e, "%s", path);
    close(fd);
    return rc;
}

int names_read(struct standby *s, struct err *e)
{
    buf_reset(&s->names);
    return read_names(s, "standby/names", &s->names, e);
}

int missing_read(struct standby *s, struct err *e)
{
    buf_reset(&s->missing);
    return read_names(s, "standby/missing", &s->missing, e);
}

int pepper_tag(const struct standby *s, const char *name, char out[SHA256_HEX], struct err *e)
{
    char path[FILES_PATH_MAX];
    uint8_t pepper[33]; /* one more than there may be */
    *out = 0;
    standby_path(s, name, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? 0 : err_errno(e, "%s", path);
    ssize_t n = read(fd, pepper, sizeof pepper);
    int rc = n < 0 ? err_errno(e, "%s", path) : 0;
    close(fd);
    if (n == 32) parcel_tag(pepper, out);
    else snprintf(out, SHA256_HEX, "?");
    explicit_bzero(pepper, sizeof pepper);
    return rc;
}

int check_version(const struct standby *s, struct err *e)
{
    char path[FILES_PATH_MAX];
    unsigned char b[4] = {0};
    standby_path(s, DB_FILE, path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return err_errno(e, "%s", path);
    int rc = pread(fd, b, sizeof b, DB_VERSION_AT) == sizeof b ? 0 : err_errno(e, "%s", path);
    close(fd);
    if (rc || get_be32(b) <= (uint32_t)db_version()) return rc;
    return err_set(e, ERR_CONFLICT, "the database has version %u, this program knows %d: install the primary's version of weft-gateway here, or this folder can't be promoted", get_be32(b), db_version());
}

/* --- applied --- */

struct applying {
    struct standby *s;
    FILE *f;
    int db;
    uint32_t page_size, count;
    struct state to;
    struct buf list;
    bool new_list; /* else the one of the state before is its own */
};

static int get(struct applying *a, void *out, size_t n, struct err *e)
{
    return fread(out, 1, n, a->f) == n ? 0 : err_set(e, ERR_INVALID, "%s/standby/redo is torn", a->s->dir);
}

static int get_number(struct applying *a, uint32_t *out, struct err *e)
{
    unsigned char b[4];
    if (get(a, b, sizeof b, e)) return -1;
    *out = get_be32(b);
    return 0;
}

/* Before its digest: where another version puts that is not known here. */
static int check_redo_version(struct applying *a, struct err *e)
{
    char head[REDO_MAGIC_LEN + 1];
    if (fread(head, 1, sizeof head, a->f) != sizeof head || memcmp(head, REDO_MAGIC, REDO_MAGIC_LEN) != 0 || head[REDO_MAGIC_LEN] == REDO_VERSION) return 0;
    return other_version(a->s, "redo", head[REDO_MAGIC_LEN] - '0', e);
}

/* All of it is read once, before any of it is used. */
static int check_digest(struct applying *a, struct err *e)
{
    struct sha256 h;
    uint8_t is[SHA256_BYTES], said[SHA256_BYTES];
    char some[65536];
    if (fseeko(a->f, 0, SEEK_END)) return err_errno(e, "%s/standby/redo", a->s->dir);
    int64_t left = ftello(a->f) - SHA256_BYTES;
    rewind(a->f);
    if (left < 0) return err_set(e, ERR_INVALID, "%s/standby/redo is torn", a->s->dir);
    sha256_init(&h);
    while (left > 0) {
        size_t n = left < (int64_t)sizeof some ? (size_t)left : sizeof some;
        if (get(a, some, n, e)) return -1;
        sha256_add(&h, some, n);
        left -= (int64_t)n;
    }
    sha256_end(&h, is);
    if (get(a, said, sizeof said, e)) return -1;
    rewind(a->f);
    return memcmp(is, said, sizeof is) == 0 ? 0 : err_set(e, ERR_INVALID, "%s/standby/redo is not what was received", a->s->dir);
}

static int read_head(struct applying *a, struct err *e)
{
    char magic[REDO_MAGIC_LEN + 1];
    if (get(a, magic, sizeof magic, e) || get_number(a, &a->page_size, e) || get_number(a, &a->count, e)) return -1;
    if (memcmp(magic, REDO_MAGIC, REDO_MAGIC_LEN) == 0 && a->page_size >= 512 && a->page_size <= REDO_PAGE_MAX) return 0;
    return err_set(e, ERR_INVALID, "%s/standby/redo is none that this program knows", a->s->dir);
}

static int read_state(struct applying *a, struct err *e)
{
    char text[STATE_TEXT_MAX];
    uint32_t zero, n;
    json_t *o = NULL;
    if (get_number(a, &zero, e) || get_number(a, &n, e)) return -1;
    if (zero || n > sizeof text) return err_set(e, ERR_INVALID, "%s/standby/redo ends in no state", a->s->dir);
    if (get(a, text, n, e) || json_parse(text, n, &o, e)) return -1;
    int rc = state_of(o, &a->to, e);
    json_decref(o);
    return rc;
}

static int read_list(struct applying *a, struct err *e)
{
    char some[65536];
    uint32_t n;
    if (get_number(a, &n, e)) return -1;
    a->new_list = n != REDO_UNCHANGED;
    for (uint32_t left = a->new_list ? n : 0; left;) {
        size_t piece = left < sizeof some ? left : sizeof some;
        if (get(a, some, piece, e)) return -1;
        if (buf_add(&a->list, some, piece)) return err_set(e, ERR_NO_MEMORY, "no memory for a list of files");
        left -= (uint32_t)piece;
    }
    return 0;
}

/* What stands behind the pages is read first: how large the database becomes is known before a page is written. */
static int read_end(struct applying *a, struct err *e)
{
    if (read_head(a, e)) return -1;
    if (fseeko(a->f, REDO_HEAD + (int64_t)a->count * (4 + a->page_size), SEEK_SET)) return err_errno(e, "%s/standby/redo", a->s->dir);
    return read_state(a, e) || read_list(a, e) ? -1 : 0;
}

/* Of a database that became smaller while it was received there are pages that it has no more. */
static int write_page(struct applying *a, uint32_t pgno, const char *page, struct err *e)
{
    if (!pgno) return err_set(e, ERR_INVALID, "page 0 in %s/standby/redo", a->s->dir);
    if (pgno > a->to.pages) return 0;
    ssize_t n = pwrite(a->db, page, a->page_size, (int64_t)(pgno - 1) * a->page_size);
    return n == (ssize_t)a->page_size ? 0 : err_errno(e, "%s/" DB_FILE, a->s->dir);
}

static int write_pages(struct applying *a, struct err *e)
{
    uint32_t pgno;
    char *page = malloc(a->page_size);
    if (!page) return err_set(e, ERR_NO_MEMORY, "no memory for a page");
    int rc = fseeko(a->f, REDO_HEAD, SEEK_SET) ? err_errno(e, "%s/standby/redo", a->s->dir) : 0;
    for (uint32_t i = 0; rc == 0 && i < a->count; i++) rc = get_number(a, &pgno, e) || get(a, page, a->page_size, e) || write_page(a, pgno, page, e) ? -1 : 0;
    free(page);
    return rc;
}

/* What the state does not name goes. */
static void remove_months(const char *folder, const char *list)
{
    char path[FILES_PATH_MAX], word[64];
    DIR *d = opendir(folder);
    for (struct dirent *x; d && (x = readdir(d));) {
        snprintf(word, sizeof word, "archive/%.40s ", x->d_name);
        files_join(path, folder, x->d_name);
        if (strncmp(x->d_name, "usage_", 6) == 0 && !strstr(list, word)) unlink(path);
    }
    if (d) closedir(d);
}

/* Months that came for this state. */
static int place_months(struct applying *a, const char *list, struct err *e)
{
    char in[FILES_PATH_MAX], from[FILES_PATH_MAX], to[FILES_PATH_MAX], word[64];
    standby_path(a->s, "archive", in);
    if (a->new_list) remove_months(in, list);
    bool moved = a->new_list;
    for (const char *p = list; (p = strstr(p, "archive/usage_"));) {
        p += 8;
        snprintf(word, sizeof word, "standby/in/%.15s", p);
        standby_path(a->s, word, from);
        files_join(to, in, word + 11);
        if (rename(from, to) == 0) moved = true;
        else if (errno != ENOENT) return err_errno(e, "%s", to);
    }
    return moved ? files_sync_folder(in, e) : 0;
}

static int digest_order(const void *a, const void *b) { return memcmp((const char *)a + 9, (const char *)b + 9, 64); }

/* Of adapters that no version needs any more: the list's lines are sorted and of one length. */
static void remove_unnamed(struct applying *a, const struct buf *list)
{
    char blobs[FILES_PATH_MAX], two[FILES_PATH_MAX], path[FILES_PATH_MAX], line[BLOB_LINE + 2];
    const char *end = strstr(list->data, "archive/");
    size_t n = (end ? (size_t)(end - list->data) : list->len) / BLOB_LINE;
    standby_path(a->s, "blobs", blobs);
    DIR *d = opendir(blobs);
    for (struct dirent *x; d && (x = readdir(d));) {
        if (strlen(x->d_name) != 2 || x->d_name[0] == '.') continue;
        files_join(two, blobs, x->d_name);
        DIR *inner = opendir(two);
        for (struct dirent *y; inner && (y = readdir(inner));) {
            if (!sha256_is_hex(y->d_name)) continue;
            snprintf(line, sizeof line, "blobs/%.2s/%.64s", x->d_name, y->d_name);
            files_join(path, two, y->d_name);
            if (!bsearch(line, list->data, n, BLOB_LINE, digest_order)) files_remove_tree(path, NULL);
        }
        if (inner) closedir(inner);
    }
    if (d) closedir(d);
}

static int place_files(struct applying *a, struct err *e)
{
    char path[FILES_PATH_MAX];
    if (place_months(a, a->new_list ? a->list.data : a->s->names.data, e)) return -1;
    if (!a->new_list) return 0;
    remove_unnamed(a, &a->list);
    standby_path(a->s, "standby/names", path);
    return files_write(path, a->list.data, a->list.len, e);
}

static int write_all(struct applying *a, struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(a->s, DB_FILE "-wal", path); /* of a promotion that was killed */
    unlink(path);
    standby_path(a->s, DB_FILE "-shm", path);
    unlink(path);
    standby_path(a->s, DB_FILE, path);
    a->db = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (a->db < 0) return err_errno(e, "%s", path);
    if (write_pages(a, e)) return -1;
    if (ftruncate(a->db, a->to.pages * a->to.page_size) || fsync(a->db)) return err_errno(e, "%s", path);
    return place_files(a, e) || state_write(a->s, &a->to, e) || files_sync_folder(a->s->dir, e) ? -1 : 0;
}

int apply_redo(struct standby *s, bool *applied, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct applying a = {.s = s, .db = -1};
    *applied = false;
    standby_path(s, "standby/redo", path);
    a.f = fopen(path, "rbe");
    if (!a.f) return errno == ENOENT ? 0 : err_errno(e, "%s", path);
    buf_init(&a.list, STANDBY_NAMES_MAX);
    int rc = check_redo_version(&a, e) || check_digest(&a, e) || read_end(&a, e) || write_all(&a, e) ? -1 : 0;
    buf_close(&a.list);
    if (a.db >= 0) close(a.db);
    fclose(a.f);
    if (rc) return -1;
    s->has_foreign = false;
    if (unlink(path)) return err_errno(e, "%s", path);
    standby_path(s, "standby", path);
    if (files_sync_folder(path, e)) return -1;
    pthread_mutex_lock(&s->lock_stats);
    s->state = a.to;
    pthread_mutex_unlock(&s->lock_stats);
    *applied = true;
    return names_read(s, e);
}

/* --- the folder --- */

static int take_lock(struct standby *s, struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(s, "lock", path);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock < 0) return err_errno(e, "lock file %s", path);
    return flock(s->lock, LOCK_EX | LOCK_NB) ? err_set(e, ERR_CONFLICT, "another process uses %s (it holds the file lock)", s->dir) : 0;
}

/* A folder with a gateway's data in it is never made a standby's: it would be written over. */
static int check_mark(const struct standby *s, const char *from, struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(s, STANDBY_MARK, path);
    if (access(path, F_OK) == 0) return 0;
    if (!from) return err_set(e, ERR_CONFLICT, "%s is no standby's folder", s->dir);
    standby_path(s, DB_FILE, path);
    if (access(path, F_OK) == 0) return err_set(e, ERR_CONFLICT, "%s holds a gateway's data: give a standby a folder of its own", s->dir);
    return 0;
}

static int make_mark(const struct standby *s, const char *from, struct err *e)
{
    static const char *const folders[] = {"standby", "standby/in", "blobs", "archive"};
    char path[FILES_PATH_MAX];
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        standby_path(s, folders[i], path);
        if (files_folder(path, e)) return -1;
    }
    if (!from) return 0;
    standby_path(s, STANDBY_MARK, path);
    return files_write(path, from, strlen(from), e);
}

/* A redo is synced before it has its name: one that is torn was damaged since, perhaps when half of it was applied. Then nobody knows which state this is:
 * promote refuses, and who follows compares all pages. */
static void forget_state(struct standby *s)
{
    pthread_mutex_lock(&s->lock_stats);
    s->state = (struct state){0};
    pthread_mutex_unlock(&s->lock_stats);
}

/* Half of a redo may be in weft.db, which this program can't end. The version that left it can, as long as redo and state.json are there: a primary that is
 * gone may come back, or not. So they stay until a state that was compared is sealed, which takes their names. */
static int follow_beside(struct standby *s, const struct err *why)
{
    if (!s->has_foreign) log_warn("standby_other_version", LS("reason", why->msg));
    s->has_foreign = true;
    forget_state(s);
    return 0;
}

int apply_left(struct standby *s, bool follows, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct err why = {0};
    bool applied;
    int rc = apply_redo(s, &applied, &why);
    if (rc == 0 && applied) log_info("standby_redone", LI("gen", s->state.gen));
    if (why.code == ERR_INVALID) standby_count(s, CHECK_REDO);
    if (why.code == ERR_UNSUPPORTED && follows) return follow_beside(s, &why);
    if (rc == 0 || why.code != ERR_INVALID || !follows) return rc ? err_set(e, why.code, "%s", why.msg) : 0;
    log_error("standby_torn", LS("reason", why.msg));
    forget_state(s);
    standby_path(s, "standby/state.json", path);
    if (unlink(path) && errno != ENOENT) return err_errno(e, "%s", path);
    standby_path(s, "standby/redo", path);
    return unlink(path) ? err_errno(e, "%s", path) : 0;
}

/* A list that is not the state's own would never be asked for again. */
static void check_names(struct standby *s)
{
    char is[SHA256_HEX];
    uint8_t digest[SHA256_BYTES];
    sha256_of(s->names.data, s->names.len, digest);
    sha256_hex(digest, is);
    if (!s->state.pages || strcmp(is, s->state.names) == 0) return;
    standby_count(s, CHECK_LIST);
    log_warn("standby_list", LS("reason", "the list of files is not the one of the state: it is asked for again"));
    *s->state.names = 0;
    buf_reset(&s->names);
}

/* Months that came for what another version left stay, too; the beginnings of files are nobody's. */
static void remove_parts(const char *folder)
{
    char path[FILES_PATH_MAX];
    DIR *d = opendir(folder);
    for (struct dirent *x; d && (x = readdir(d));) {
        size_t n = strlen(x->d_name);
        if (n < 5 || strcmp(x->d_name + n - 5, ".part") != 0) continue;
        files_join(path, folder, x->d_name);
        unlink(path);
    }
    if (d) closedir(d);
}

static int finish_left(struct standby *s, bool follows, struct err *e)
{
    char path[FILES_PATH_MAX];
    struct err why = {0};
    s->state = (struct state){0};
    if (state_read(s, &s->state, &why) && why.code != ERR_NOT_FOUND && (why.code != ERR_UNSUPPORTED || !follows)) return err_set(e, why.code, "%s", why.msg);
    if (why.code == ERR_UNSUPPORTED) follow_beside(s, &why);
    if (names_read(s, e) || missing_read(s, e) || apply_left(s, follows, e)) return -1;
    check_names(s);
    standby_path(s, "standby/in", path);
    if (s->has_foreign) {
        remove_parts(path);
        return 0;
    }
    return files_remove_tree(path, e) || files_folder(path, e) ? -1 : 0;
}

int standby_open(struct standby *s, const char *from, struct err *e)
{
    s->lock = -1;
    s->rx = (struct receiving){.redo = {.fd = -1}};
    pthread_mutex_init(&s->lock_stats, NULL);
    buf_init(&s->names, STANDBY_NAMES_MAX);
    buf_init(&s->missing, STANDBY_NAMES_MAX);
    if (strlen(s->dir) > STANDBY_DIR_MAX) return err_set(e, ERR_USAGE, "the folder's path is longer than %d bytes", STANDBY_DIR_MAX);
    if (from && files_folder(s->dir, e)) return -1;
    if (access(s->dir, F_OK)) return err_errno(e, "%s", s->dir);
    /* Looked at twice: before, so that a folder that is no standby's stays as it is; under the lock, for it may have been promoted since. */
    if (check_mark(s, from, e) || take_lock(s, e) || check_mark(s, from, e) || chmod(s->dir, 0700) || make_mark(s, from, e)) return e->code ? -1 : err_errno(e, "%s", s->dir);
    return finish_left(s, from != NULL, e);
}

void standby_close(struct standby *s)
{
    if (s->lock >= 0) close(s->lock);
    s->lock = -1;
    redo_close(&s->rx.redo);
    free(s->rx.range);
    s->rx.range = NULL;
    buf_close(&s->names);
    buf_close(&s->missing);
    pthread_mutex_destroy(&s->lock_stats);
}
