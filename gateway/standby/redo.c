/* redo: what is received of the next state, until it is whole (see standby_impl.h; applied by apply.c).
 *
 *     standby/fresh:  MAGIC and version  page size  0      | number page | number page | ...            grows; a page that comes again is written over
 *     standby/redo:   MAGIC and version  page size  count  | number page | ... | 0  state  list of files | SHA-256 of all that
 *
 * What is of another version is none of it: of fresh another is begun; redo is left for the version that wrote it until a state of this one is whole (apply.c).
 * be32 numbers; the state is JSON after its length; the list after its length, or UNCHANGED where the state before had the same. Pages, state and list are
 * one file under one digest and get their name by one rename, so none of them can be of another state than the others.
 *
 * What came is never thrown away because a look failed: the next look goes on, and a process that is started again takes up what its predecessor received.
 * Where each page stands is kept in memory (4 bytes a page of the database), so however often a page comes while a state is received, its room is taken
 * once. The digest is computed at the seal: the file is read back for it. Main thread of the standby. */
#include "gateway/db/db_pages.h"
#include "gateway/standby/parcel.h"
#include "gateway/standby/standby_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROW 4096

static int64_t record_at(const struct redo *r, uint32_t slot) { return REDO_HEAD + (int64_t)(slot - 1) * (4 + r->page_size); }

static int put_at(const struct redo *r, const void *bytes, size_t n, int64_t at, struct err *e)
{
    for (const char *p = bytes; n;) {
        ssize_t done = pwrite(r->fd, p, n, at);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) return err_errno(e, "%s/standby/fresh", r->s->dir);
        p += done;
        at += done;
        n -= (size_t)done;
    }
    return 0;
}

static int put_head(const struct redo *r, uint32_t count, struct err *e)
{
    unsigned char head[REDO_HEAD];
    memcpy(head, REDO_MAGIC, REDO_MAGIC_LEN);
    head[REDO_MAGIC_LEN] = REDO_VERSION;
    put_be32((uint32_t)r->page_size, head + 8);
    put_be32(count, head + 12);
    return put_at(r, head, sizeof head, 0, e);
}

static void fresh_path(const struct redo *r, char out[FILES_PATH_MAX]) { standby_path(r->s, "standby/fresh", out); }

int redo_begin(struct redo *r, const struct standby *s, int64_t page_size, struct err *e)
{
    char path[FILES_PATH_MAX];
    if (r->fd >= 0 && r->page_size == page_size) return 0;
    redo_drop(r);
    *r = (struct redo){.s = s, .fd = -1, .page_size = page_size};
    fresh_path(r, path);
    r->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r->fd < 0) return err_errno(e, "%s", path);
    if (put_head(r, 0, e) == 0) return 0;
    redo_drop(r);
    return -1;
}

static int make_room(struct redo *r, uint32_t pgno, struct err *e)
{
    if (!pgno || pgno > DB_PAGES_MAX) return err_set(e, ERR_INVALID, "an answer has a page %u", pgno);
    if (pgno <= r->cap) return 0;
    size_t cap = pgno + pgno / 8 + GROW;
    uint32_t *slot = realloc(r->slot, cap * sizeof *slot);
    if (!slot) return err_set(e, ERR_NO_MEMORY, "no memory for the places of %zu pages", cap);
    memset(slot + r->cap, 0, (cap - r->cap) * sizeof *slot);
    r->slot = slot;
    r->cap = (uint32_t)cap;
    return 0;
}

static int put_record(struct redo *r, const char *record, struct err *e)
{
    uint32_t pgno = get_be32(record);
    if (make_room(r, pgno, e)) return -1;
    uint32_t slot = r->slot[pgno - 1] ? r->slot[pgno - 1] : r->count + 1;
    if (put_at(r, record, 4 + (size_t)r->page_size, record_at(r, slot), e)) return -1;
    r->slot[pgno - 1] = slot;
    if (slot > r->count) r->count = slot;
    return 0;
}

int redo_pages(struct redo *r, uint32_t count, const void *records, struct err *e)
{
    const char *p = records;
    for (uint32_t i = 0; i < count; i++)
        if (put_record(r, p + i * (4 + (size_t)r->page_size), e)) return -1;
    return 0;
}

static void forget(struct redo *r)
{
    if (r->fd >= 0) close(r->fd);
    free(r->slot);
    r->fd = -1;
    r->slot = NULL;
    r->cap = r->count = 0;
}

void redo_close(struct redo *r) { forget(r); }

void redo_drop(struct redo *r)
{
    char path[FILES_PATH_MAX];
    if (r->fd < 0) return;
    forget(r);
    fresh_path(r, path);
    unlink(path);
}

bool redo_page(const struct redo *r, uint32_t pgno, void *out)
{
    if (r->fd < 0 || pgno > r->cap || !r->slot[pgno - 1]) return false;
    return pread(r->fd, out, (size_t)r->page_size, record_at(r, r->slot[pgno - 1]) + 4) == r->page_size;
}

/* --- what a process before left --- */

/* As far as its records are whole. Of the pages themselves nothing is believed: they are compared with the primary's. */
static void take_records(struct redo *r)
{
    struct stat st;
    unsigned char number[4];
    if (fstat(r->fd, &st)) return;
    for (uint32_t slot = 1; record_at(r, slot + 1) <= st.st_size; slot++) {
        if (pread(r->fd, number, sizeof number, record_at(r, slot)) != sizeof number) return;
        uint32_t pgno = get_be32(number);
        if (make_room(r, pgno, NULL) || r->slot[pgno - 1]) return;
        r->slot[pgno - 1] = slot;
        r->count = slot;
    }
}

void redo_take_up(struct redo *r, const struct standby *s)
{
    char path[FILES_PATH_MAX];
    unsigned char head[REDO_HEAD];
    forget(r);
    *r = (struct redo){.s = s, .fd = -1};
    fresh_path(r, path);
    r->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (r->fd < 0) return;
    bool whole = pread(r->fd, head, sizeof head, 0) == sizeof head && memcmp(head, REDO_MAGIC, REDO_MAGIC_LEN) == 0 && head[REDO_MAGIC_LEN] == REDO_VERSION;
    r->page_size = whole ? get_be32(head + 8) : 0;
    if (r->page_size >= 512 && r->page_size <= REDO_PAGE_MAX) take_records(r);
    if (!r->count) redo_drop(r);
}

/* --- sealed --- */

/* The file may be longer than the state says until it is applied: SQLite goes by the size in its first page. */
static int take_room(const struct standby *s, int64_t bytes, struct err *e)
{
    char path[FILES_PATH_MAX];
    standby_path(s, DB_FILE, path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, "%s", path);
    int rc = posix_fallocate(fd, 0, bytes);
    close(fd);
    errno = rc;
    return rc ? err_errno(e, "room for %lld bytes of %s", (long long)bytes, path) : 0;
}

static int add_number(struct buf *b, uint32_t v)
{
    unsigned char n[4];
    put_be32(v, n);
    return buf_add(b, n, sizeof n);
}

static int print_end(struct buf *b, const struct state *to, const struct buf *list, struct err *e)
{
    struct buf text;
    buf_init(&text, STATE_TEXT_MAX);
    json_t *o = state_json(to);
    int rc = !o || json_dump(o, true, &text) || add_number(b, 0) || add_number(b, (uint32_t)text.len) || buf_add(b, text.data, text.len) ||
             add_number(b, list ? (uint32_t)list->len : REDO_UNCHANGED) || (list && buf_add(b, list->data, list->len));
    json_decref(o);
    buf_close(&text);
    return rc ? err_set(e, ERR_NO_MEMORY, "no memory for a state") : 0;
}

/* Of the first `bytes` bytes. */
static int digest_of(const struct redo *r, int64_t bytes, uint8_t out[SHA256_BYTES], struct err *e)
{
    char some[65536];
    struct sha256 h;
    sha256_init(&h);
    for (int64_t at = 0; at < bytes;) {
        size_t most = bytes - at < (int64_t)sizeof some ? (size_t)(bytes - at) : sizeof some;
        ssize_t n = pread(r->fd, some, most, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? err_errno(e, "%s/standby/fresh", r->s->dir) : err_set(e, ERR_IO, "%s/standby/fresh became shorter", r->s->dir);
        sha256_add(&h, some, (size_t)n);
        at += n;
    }
    sha256_end(&h, out);
    return 0;
}

static int put_end(struct redo *r, const struct state *to, const struct buf *list, struct err *e)
{
    uint8_t digest[SHA256_BYTES];
    struct buf b;
    int64_t at = record_at(r, r->count + 1);
    buf_init(&b, STANDBY_NAMES_MAX + STATE_TEXT_MAX + 64);
    int rc = print_end(&b, to, list, e);
    if (rc == 0 && ftruncate(r->fd, at)) rc = err_errno(e, "%s/standby/fresh", r->s->dir);
    if (rc == 0) rc = put_head(r, r->count, e) || put_at(r, b.data, b.len, at, e) || digest_of(r, at + (int64_t)b.len, digest, e) ||
                      put_at(r, digest, sizeof digest, at + (int64_t)b.len, e) ? -1 : 0;
    buf_close(&b);
    return rc;
}

int redo_seal(struct redo *r, const struct state *to, const struct buf *list, struct err *e)
{
    char fresh[FILES_PATH_MAX], path[FILES_PATH_MAX];
    if (put_end(r, to, list, e) || take_room(r->s, to->pages * to->page_size, e)) return -1;
    fresh_path(r, fresh);
    standby_path(r->s, "standby/redo", path);
    if (fsync(r->fd)) return err_errno(e, "%s", fresh);
    if (rename(fresh, path)) return err_errno(e, "%s", path);
    forget(r);
    standby_path(r->s, "standby", path);
    return files_sync_folder(path, e);
}
