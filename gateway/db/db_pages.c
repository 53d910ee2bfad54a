/* db_pages: notes which pages of the database are written, and reads pages of one moment (see db_pages.h).
 *
 * In WAL mode what changed stands in the WAL, a frame for each page that a commit wrote. So the writer, before each checkpoint (after which the WAL may be
 * written from its beginning again), reads the 24 bytes in front of every frame that is new, and notes the page's number with the generation that is being
 * counted: two dozen microseconds for a hundred frames. Nothing is hooked into SQLite, and without a snapshot in the last minutes nothing is noted.
 *
 *     job: a row of `meta` is written -> committed -> done(), on the writer: look at the new frames; begin a read transaction on the snapshot's own
 *          connection; list the pages that are wanted, with the frame that holds each; the next generation begins
 *     then, on the caller's thread: each page from its frame in the WAL, else from the file
 *
 * Why this is one moment: done() runs between two transactions of the only writer, so the read transaction begins at the very commit up to which frames
 * were looked at. The row that was just written has not been checkpointed, so the reader has a mark in the WAL, and as long as it has that the
 * WAL is not begun anew and no checkpoint goes past it: its frames stay, and the file's page is what it was wherever the WAL had no frame. Pages are read
 * through SQLite's own file objects (the library here has no sqlite_dbpage), so no descriptor of ours drops its locks.
 *
 * What can't be followed (a write that failed and was undone, a WAL of another salt than expected) ends the noting: the next snapshot has another epoch, and
 * who followed the old one compares. */
#include "gateway/db/db_pages.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/db/db_internal.h"
#include <stdlib.h>
#include <string.h>

#define WAL_HEAD 32
#define FRAME_HEAD 24
#define WAL_MAGIC 0x377f0682u /* the last bit says the order of the checksums' bytes */
#define GROW 4096
#define READ_S 30

struct noted {
    uint32_t gen;          /* the last one in which it was written; 0: not since the noting began */
    uint32_t cycle, frame; /* its last frame, in that run through the WAL */
};

struct db_pages {
    char epoch[UUID_LEN];
    uint32_t gen;
    uint32_t salt[2], cycle, frames; /* the WAL as it was looked at last */
    uint32_t size, page_size;        /* of the database, in pages, after the last commit */
    size_t cap;
    struct noted *page; /* [cap], of page 1 and on */
    int64_t used_us;
    int64_t before_us;
};

struct db_snap {
    struct db_conn conn;
    struct db *db;
    const struct db_snap_want *want;
    struct db_snap_at at;
    sqlite3_file *file, *wal;
    uint32_t salt[2];
    uint32_t *pgno, *frame; /* [want->most]; frame 0: the file has it */
    size_t n;
    char *raw; /* a frame */
    /* Until done() came. */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool over;
    struct err err;
};

static uint32_t be32(const unsigned char *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }

/* --- noting, on the writer's thread --- */

void db_pages_forget(struct db *d)
{
    if (d->pages) free(d->pages->page);
    free(d->pages);
    d->pages = NULL;
}

static int make_room(struct db_pages *p, uint32_t pgno, struct err *e)
{
    if (pgno <= p->cap) return 0;
    if (pgno > DB_PAGES_MAX) return err_set(e, ERR_TOO_LARGE, "the database has more than %u pages", DB_PAGES_MAX);
    size_t cap = pgno + pgno / 8 + GROW;
    struct noted *page = realloc(p->page, cap * sizeof *page);
    if (!page) return err_set(e, ERR_NO_MEMORY, "no memory to note %zu pages", cap);
    memset(page + p->cap, 0, (cap - p->cap) * sizeof *page);
    p->page = page;
    p->cap = cap;
    return 0;
}

static int read_at(sqlite3_file *f, void *out, int n, int64_t at, struct err *e)
{
    int rc = f && f->pMethods ? f->pMethods->xRead(f, out, n, at) : SQLITE_IOERR;
    return rc == SQLITE_OK ? 0 : err_set(e, ERR_IO, "the database's files can't be read (%s)", sqlite3_errstr(rc));
}

/* Where the WAL was begun anew since the last look. */
static int look_at_head(struct db_pages *p, sqlite3_file *wal, struct err *e)
{
    unsigned char h[WAL_HEAD];
    if (read_at(wal, h, sizeof h, 0, e)) return -1;
    uint32_t salt[2] = {be32(h + 16), be32(h + 20)}, page_size = be32(h + 8);
    if ((be32(h) | 1) != (WAL_MAGIC | 1) || page_size < 512) return err_set(e, ERR_IO, "the WAL does not begin as one");
    p->page_size = page_size;
    if (p->cycle && memcmp(salt, p->salt, sizeof salt) == 0) return 0;
    memcpy(p->salt, salt, sizeof salt);
    p->cycle++;
    p->frames = 0;
    return 0;
}

static int look_at_frame(struct db_pages *p, sqlite3_file *wal, uint32_t frame, struct err *e)
{
    unsigned char h[FRAME_HEAD];
    if (read_at(wal, h, sizeof h, WAL_HEAD + (int64_t)(frame - 1) * (FRAME_HEAD + p->page_size), e)) return -1;
    uint32_t pgno = be32(h), size = be32(h + 4);
    if (!pgno || be32(h + 8) != p->salt[0] || be32(h + 12) != p->salt[1]) return err_set(e, ERR_IO, "frame %u of the WAL is of another run", frame);
    if (make_room(p, pgno, e)) return -1;
    p->page[pgno - 1] = (struct noted){p->gen, p->cycle, frame};
    if (size) p->size = size;
    return 0;
}

static int look(struct db *d, struct err *e)
{
    struct db_pages *p = d->pages;
    sqlite3_file *wal = db_wal_file(d);
    if (look_at_head(p, wal, e)) return -1;
    if (d->wal_frames < p->frames) return err_set(e, ERR_IO, "the WAL lost frames");
    for (; p->frames < d->wal_frames; p->frames++)
        if (look_at_frame(p, wal, p->frames + 1, e)) return -1;
    return 0;
}

void db_pages_look(struct db *d)
{
    struct err e = {0};
    if (!d->pages) return;
    bool idle = clock_mono_us() - d->pages->used_us > DB_PAGES_IDLE_S * 1000000ll;
    if (!idle && look(d, &e) == 0) return;
    if (!idle) log_warn("pages_not_followed", LS("reason", e.msg));
    db_pages_forget(d);
}

static int begin_noting(struct db *d, int64_t before_us, struct err *e)
{
    if (d->pages) return 0;
    struct db_pages *p = calloc(1, sizeof *p);
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory to note pages");
    uuid7(p->epoch);
    p->gen = 1;
    p->before_us = before_us;
    d->pages = p;
    return 0;
}

/* --- a snapshot, still there --- */

static bool is_wanted(const struct db_pages *p, const struct db_snap_want *w, uint32_t pgno, int *range)
{
    uint32_t gen = pgno <= p->cap && p->page[pgno - 1].gen ? p->page[pgno - 1].gen : 1;
    while (*range < w->nranges && w->range[*range][1] < pgno) (*range)++;
    return gen > w->since || (*range < w->nranges && w->range[*range][0] <= pgno);
}

static void list_pages(struct db_snap *s, const struct db_pages *p)
{
    int range = 0;
    for (uint32_t i = s->want->from; i <= p->size; i++) {
        if (!is_wanted(p, s->want, i, &range)) continue;
        if (s->n == s->want->most) {
            s->at.next = i;
            return;
        }
        s->pgno[s->n] = i;
        s->frame[s->n++] = i <= p->cap && p->page[i - 1].cycle == p->cycle ? p->page[i - 1].frame : 0;
    }
}

static int begin_read(struct db_snap *s, struct err *e)
{
    sqlite3 *c = s->conn.c;
    if (sqlite3_exec(c, "BEGIN; SELECT count(*) FROM meta", NULL, NULL, NULL) != SQLITE_OK) return db_error(c, "snapshot", e);
    sqlite3_file_control(c, "main", SQLITE_FCNTL_FILE_POINTER, &s->file);
    sqlite3_file_control(c, "main", SQLITE_FCNTL_JOURNAL_POINTER, &s->wal);
    return s->file && s->wal ? 0 : err_set(e, ERR_INTERNAL, "the database is not in WAL mode");
}

static int take_moment(struct db_snap *s, struct err *e)
{
    struct db *d = s->db;
    if (begin_noting(d, s->at.before_us, e)) return -1;
    if (look(d, e)) {
        db_pages_forget(d);
        return -1;
    }
    struct db_pages *p = d->pages;
    p->used_us = clock_mono_us();
    if (s->want->since && strcmp(s->want->epoch ? s->want->epoch : "", p->epoch) != 0) return err_set(e, ERR_CONFLICT, "This is epoch %s.", p->epoch);
    if (begin_read(s, e)) return -1;
    s->at.gen = p->gen++;
    s->at.before_us = p->before_us;
    s->at.pages = p->size;
    s->at.page_size = p->page_size;
    memcpy(s->at.epoch, p->epoch, sizeof s->at.epoch);
    memcpy(s->salt, p->salt, sizeof s->salt);
    list_pages(s, p);
    return 0;
}

static int read_before(struct db *d, sqlite3 *c, int64_t *out, struct err *e)
{
    static const char sql[] = "SELECT value FROM meta WHERE name = 'standby'";
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st ? db_row(st, e) : -1;
    if (rc == 1) *out = sqlite3_column_int64(st, 0);
    if (st) sqlite3_reset(st);
    return rc < 0 ? -1 : 0;
}

static int write_moment(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "INSERT INTO meta(name, value) VALUES('standby', ?1) ON CONFLICT DO UPDATE SET value = excluded.value";
    struct db_snap *s = u;
    if (read_before(d, c, &s->at.before_us, e)) return -1;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    s->at.wall_us = clock_wall_us();
    return !st || db_bind(st, e, "i", s->at.wall_us) ? -1 : db_done(st, e);
}

static void moment_done(void *u, const struct err *e)
{
    struct db_snap *s = u;
    struct err why = {0};
    if (e) why = *e;
    else take_moment(s, &why);
    pthread_mutex_lock(&s->lock);
    s->err = why;
    s->over = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

/* --- reading, on the caller's thread --- */

static int wait_moment(struct db_snap *s, struct err *e)
{
    if (db_write(s->db, &(struct db_job){.run = write_moment, .done = moment_done, .user = s}, e)) return -1;
    pthread_mutex_lock(&s->lock);
    while (!s->over) pthread_cond_wait(&s->wake, &s->lock);
    pthread_mutex_unlock(&s->lock);
    s->want = NULL;
    return s->err.code ? err_set(e, s->err.code, "%s", s->err.msg) : 0;
}

static int open_snap(struct db_snap *s, struct err *e)
{
    s->pgno = calloc(s->want->most + 1, sizeof *s->pgno);
    s->frame = calloc(s->want->most + 1, sizeof *s->frame);
    if (!s->pgno || !s->frame) return err_set(e, ERR_NO_MEMORY, "no memory for a snapshot");
    if (db_conn_open(&s->conn, s->db, false, e) || wait_moment(s, e)) return -1;
    s->conn.deadline_us = clock_mono_us() + READ_S * 1000000ll;
    if (!(s->raw = malloc(FRAME_HEAD + s->at.page_size))) return err_set(e, ERR_NO_MEMORY, "no memory for a page");
    return 0;
}

int db_snap_open(struct db *d, const struct db_snap_want *want, struct db_snap **out, struct err *e)
{
    if (want->most > DB_SNAP_MOST || want->nranges > DB_SNAP_RANGES || !want->from) return err_set(e, ERR_INTERNAL, "a snapshot of too many pages");
    struct db_snap *s = calloc(1, sizeof *s);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for a snapshot");
    s->db = d;
    s->want = want;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, NULL);
    int rc = open_snap(s, e);
    if (rc) db_snap_close(s);
    else *out = s;
    return rc;
}

void db_snap_close(struct db_snap *s)
{
    if (!s) return;
    if (s->conn.c && !sqlite3_get_autocommit(s->conn.c)) {
        s->conn.deadline_us = 0;
        sqlite3_exec(s->conn.c, "COMMIT", NULL, NULL, NULL);
    }
    db_conn_close(&s->conn);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    free(s->pgno);
    free(s->frame);
    free(s->raw);
    free(s);
}

const struct db_snap_at *db_snap_at(const struct db_snap *s) { return &s->at; }

size_t db_snap_count(const struct db_snap *s) { return s->n; }

sqlite3 *db_snap_conn(struct db_snap *s) { return s->conn.c; }

/* A page that the file does not reach is one that SQLite never writes (that of the lock byte): zeros. */
static int page_of_file(struct db_snap *s, uint32_t pgno, void *out, struct err *e)
{
    int rc = s->file->pMethods->xRead(s->file, out, (int)s->at.page_size, (int64_t)(pgno - 1) * s->at.page_size);
    return rc == SQLITE_OK || rc == SQLITE_IOERR_SHORT_READ ? 0 : err_set(e, ERR_IO, "page %u can't be read (%s)", pgno, sqlite3_errstr(rc));
}

int db_snap_page(struct db_snap *s, size_t i, uint32_t *pgno, void *out, struct err *e)
{
    uint32_t frame = s->frame[i], page_size = s->at.page_size;
    const unsigned char *h = (const unsigned char *)s->raw;
    *pgno = s->pgno[i];
    if (!frame) return page_of_file(s, *pgno, out, e);
    if (read_at(s->wal, s->raw, (int)(FRAME_HEAD + page_size), WAL_HEAD + (int64_t)(frame - 1) * (FRAME_HEAD + page_size), e)) return -1;
    if (be32(h) != *pgno || be32(h + 8) != s->salt[0] || be32(h + 12) != s->salt[1]) return err_set(e, ERR_INTERNAL, "frame %u of the WAL was written again", frame);
    memcpy(out, s->raw + FRAME_HEAD, page_size);
    return 0;
}
