/* What the tests of gateway/standby share: a gateway's database in two states, with the files that each names, and a standby's folder that holds the first.
 * What a look of a standby would bring over the network is put there by hand. */
#pragma once
#include "adapters/adapter.h"
#include "gateway/standby/parcel.h"
#include "gateway/standby/standby.h"
#include "gateway/standby/standby_impl.h"
#include "tests/unit/data_room.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

#define PAGE 4096
#define STATES 2
#define FROM "http://127.0.0.1:1" /* nobody listens there */

struct world {
    struct room room; /* the primary's folder */
    char db[STATES][160], home[160], out[160];
    struct state state[STATES];
    char list[STATES][600];
};

static inline bool never(void) { return false; }

static inline void put_file(const char *dir, const char *name, const char *text)
{
    char path[FILES_PATH_MAX];
    struct err e = {0};
    files_join(path, dir, name);
    assert_ok(files_folders(path, strlen(dir), &e), e);
    assert_ok(files_write(path, text, strlen(text), &e), e);
}

static inline bool is_file(const char *dir, const char *name)
{
    char path[FILES_PATH_MAX];
    files_join(path, dir, name);
    return access(path, F_OK) == 0;
}

/* Up to 4,095 bytes; "": there is none. */
static inline const char *text_of(const char *dir, const char *name)
{
    static char text[4096];
    char path[FILES_PATH_MAX];
    files_join(path, dir, name);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = 0;
    return text;
}

/* Over what stands there. */
static inline void room_write(const char *dir, const char *name, off_t at, const char *bytes, size_t n)
{
    char path[FILES_PATH_MAX];
    files_join(path, dir, name);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), (ssize_t)n);
    close(fd);
}

static inline void sha256_text(const char *text, char out[SHA256_HEX])
{
    uint8_t d[SHA256_BYTES];
    sha256_of(text, strlen(text), d);
    sha256_hex(d, out);
}

/* --- the primary --- */

static inline const char *month_text(int state, int month)
{
    static char text[64];
    snprintf(text, sizeof text, "month %d of state %d", month, state);
    return text;
}

/* State 0: adapter 0, month 1. State 1: adapter 1, month 1 written anew, month 2. */
static inline void list_files(struct world *w, int i)
{
    char sha[SHA256_HEX];
    int n = snprintf(w->list[i], sizeof w->list[i], "blobs/%.2s/%s\n", digest(i), digest(i));
    for (int month = 1; month <= i + 1; month++) {
        sha256_text(month_text(i, month), sha);
        n += snprintf(w->list[i] + n, sizeof w->list[i] - (size_t)n, "archive/usage_20250%d.db %zu %s\n", month, strlen(month_text(i, month)), sha);
    }
}

static inline void place(const struct world *w, const char *name, char out[160])
{
    char dir[sizeof w->room.dir];
    memcpy(dir, w->room.dir, sizeof dir);
    snprintf(out, 160, "%s/%s", dir, name);
}

static inline void keep_state(struct world *w, int i)
{
    char from[FILES_PATH_MAX], sha[SHA256_HEX];
    struct err e = {0};
    int64_t bytes;
    db_close(w->room.db);
    w->room.db = NULL;
    files_join(from, w->room.dir, DB_FILE);
    place(w, i ? "state1.db" : "state0.db", w->db[i]);
    assert_ok(files_copy(from, w->db[i], NULL, sha, &bytes, &e), e);
    list_files(w, i);
    struct state *t = &w->state[i];
    *t = (struct state){.epoch = "01890000-0000-7000-8000-000000000000", .gen = i + 1, .pages = bytes / PAGE, .page_size = PAGE, .wall_us = 1000000 + i, .asked_us = 1};
    sha256_text(w->list[i], t->names);
}

static inline void fill(struct world *w, int from, int to)
{
    room_start(&w->room);
    for (int i = from; i < to; i++) room_sql(&w->room, "INSERT INTO meta(name, value) VALUES(printf('row-%%0500d', %d), %d)", i, i);
}

/* --- the standby's folder --- */

static inline void open_home(struct world *w, struct standby *s)
{
    struct err e = {0};
    *s = (struct standby){.dir = w->home, .from = FROM, .is_asked_to_end = never, .lock = -1};
    assert_ok(standby_open(s, FROM, &e), e);
}

/* As fetch.c leaves them. */
static inline void bring_files(const struct world *w, int i)
{
    char name[200];
    for (int file = 0; file < 2; file++) {
        snprintf(name, sizeof name, "blobs/%.2s/%s/%s", digest(i), digest(i), file ? ADAPTER_WEIGHTS_FILE : ADAPTER_CONFIG_FILE);
        put_file(w->home, name, "adapter");
    }
    for (int month = 1; month <= i + 1; month++) {
        snprintf(name, sizeof name, "standby/in/usage_20250%d.db", month);
        put_file(w->home, name, month_text(i, month));
    }
}

static inline int bring_pages(const struct world *w, struct standby *s, int i, uint32_t first, uint32_t last, struct err *e)
{
    char record[4 + PAGE];
    int fd = open(w->db[i], O_RDONLY), rc = redo_begin(&s->rx.redo, s, PAGE, e);
    for (uint32_t pgno = first; rc == 0 && pgno <= last; pgno++) {
        put_be32(pgno, (unsigned char *)record);
        if (pread(fd, record + 4, PAGE, (off_t)(pgno - 1) * PAGE) != PAGE) rc = err_set(e, ERR_IO, "a page of the test");
        else rc = redo_pages(&s->rx.redo, 1, record, e);
    }
    close(fd);
    return rc;
}

/* What a look brings to who has the other state: pages that differ, or are new; their number. */
static inline int bring_changes(const struct world *w, struct standby *s, int i, struct err *e)
{
    char a[PAGE], b[PAGE];
    int is = open(w->db[i], O_RDONLY), was = open(w->db[!i], O_RDONLY), n = 0, rc = 0;
    for (uint32_t pgno = 1; rc == 0 && pgno <= w->state[i].pages; pgno++) {
        if (pread(is, a, PAGE, (off_t)(pgno - 1) * PAGE) == PAGE && pread(was, b, PAGE, (off_t)(pgno - 1) * PAGE) == PAGE && memcmp(a, b, PAGE) == 0) continue;
        rc = bring_pages(w, s, i, pgno, pgno, e);
        n++;
    }
    close(is);
    close(was);
    return rc ? -1 : n;
}

static inline int seal_state(const struct world *w, struct standby *s, int i, struct err *e)
{
    struct buf list;
    buf_init(&list, 4096);
    buf_adds(&list, w->list[i]);
    int rc = redo_seal(&s->rx.redo, &w->state[i], &list, e);
    buf_close(&list);
    return rc;
}

/* All of it. */
static inline int bring_state(const struct world *w, struct standby *s, int i, struct err *e)
{
    bool applied;
    return bring_pages(w, s, i, 1, (uint32_t)w->state[i].pages, e) || seal_state(w, s, i, e) || apply_redo(s, &applied, e) ? -1 : 0;
}

/* To who has the other one. */
static inline int bring_next(const struct world *w, struct standby *s, int i, struct err *e)
{
    bool applied;
    return bring_changes(w, s, i, e) < 0 || seal_state(w, s, i, e) || apply_redo(s, &applied, e) ? -1 : 0;
}

/* A fresh folder that holds a state. */
static inline void make_home(struct world *w, int i)
{
    struct standby s;
    struct err e = {0};
    char from[FILES_PATH_MAX], to[FILES_PATH_MAX], sha[SHA256_HEX];
    int64_t bytes;
    room_remove(w->home);
    open_home(w, &s);
    files_join(from, w->room.dir, "pepper");
    files_join(to, w->home, "pepper");
    assert_ok(files_copy(from, to, NULL, sha, &bytes, &e), e);
    bring_files(w, i);
    assert_ok(bring_state(w, &s, i, &e), e);
    standby_close(&s);
}

static inline int new_world(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct standby s;
    struct err e = {0};
    room_new(&w->room);
    place(w, "home", w->home);
    place(w, "out", w->out);
    fill(w, 0, 20);
    keep_state(w, 0);
    fill(w, 20, 200);
    keep_state(w, 1);
    s.dir = w->room.dir;
    for (int i = 0; i < STATES; i++) assert_ok(pepper_tag(&s, "pepper", w->state[i].tag, &e), e);
    *state = w;
    return 0;
}

static inline int end_world(void **state)
{
    struct world *w = *state;
    room_end(&w->room);
    free(w);
    return 0;
}

/* --- what is there --- */

static inline int64_t rows_of(const char *path)
{
    char uri[DB_URI_MAX];
    struct err e = {0};
    sqlite3 *c;
    sqlite3_stmt *st;
    assert_int_equal(db_uri(path, "mode=ro", uri, &e), 0);
    assert_int_equal(sqlite3_open_v2(uri, &c, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(c, "PRAGMA integrity_check", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_string_equal(sqlite3_column_text(st, 0), "ok");
    sqlite3_finalize(st);
    assert_int_equal(sqlite3_prepare_v2(c, "SELECT count(*) FROM meta WHERE name GLOB 'row-*'", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    sqlite3_close(c);
    return n;
}

static inline void check_files(const struct world *w, int i)
{
    char name[200];
    snprintf(name, sizeof name, "blobs/%.2s/%s/%s", digest(i), digest(i), ADAPTER_WEIGHTS_FILE);
    assert_true(is_file(w->home, name));
    for (int month = 1; month <= STATES; month++) {
        snprintf(name, sizeof name, "archive/usage_20250%d.db", month);
        assert_string_equal(text_of(w->home, name), month <= i + 1 ? month_text(i, month) : "");
    }
}

/* The folder of a standby holds state i, byte by byte; weft.db may be longer: room that was taken for another. */
static inline void check_home(const struct world *w, const struct standby *s, int i)
{
    char path[FILES_PATH_MAX], is[PAGE], should[PAGE];
    files_join(path, w->home, DB_FILE);
    int a = open(path, O_RDONLY), b = open(w->db[i], O_RDONLY);
    for (int64_t page = 0; page < w->state[i].pages; page++) {
        assert_int_equal(pread(a, is, PAGE, page * PAGE), PAGE);
        assert_int_equal(pread(b, should, PAGE, page * PAGE), PAGE);
        assert_memory_equal(is, should, PAGE);
    }
    close(a);
    close(b);
    assert_int_equal(s->state.gen, w->state[i].gen);
    assert_string_equal(s->state.names, w->state[i].names);
    assert_string_equal(s->names.data, w->list[i]);
    assert_false(is_file(w->home, "standby/redo"));
    check_files(w, i);
}

/* --- commands, in a process of their own --- */

static inline int wait_for(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Its exit status; what it says is in w->out. armed() is called in its process just before. */
static inline int promote_home(const struct world *w, bool force, void (*armed)(void))
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid) return wait_for(pid);
    char *args[] = {(char *)"weft-gateway", (char *)"promote", (char *)"--data", (char *)w->home, force ? (char *)"--force" : NULL, NULL};
    if (!freopen(w->out, "w", stdout) || !freopen(w->out, "a", stderr)) _exit(98);
    if (armed) armed();
    int rc = promote_main(force ? 5 : 4, args);
    fflush(NULL);
    _exit(rc);
}

static inline void check_said(const struct world *w, const char *words)
{
    const char *said = text_of(w->room.dir, "out");
    if (!strstr(said, words)) fail_msg("'%s' is not in: %s", words, said);
}
