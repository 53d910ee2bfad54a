/* What the gateway's database tests share: a fresh data folder under /tmp, opened and removed. */
#pragma once
#include "base/log.h"
#include "gateway/db/db.h"
#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct room {
    char dir[96];
    struct db *db;
};

#define assert_ok(call, e)                                                                                             \
    do {                                                                                                               \
        if ((call) != 0) fail_msg("%s: %s", #call, (e).msg);                                                           \
    } while (0)

static inline void room_start(struct room *r)
{
    struct err e = {0};
    assert_ok(db_open(&r->db, &(struct db_options){.dir = r->dir, .sync_ms = 5}, &e), e);
}

static inline void room_new(struct room *r)
{
    log_init("test", LOG_ERROR);
    snprintf(r->dir, sizeof r->dir, "/tmp/weft-room-XXXXXX");
    assert_non_null(mkdtemp(r->dir));
    r->db = NULL;
}

static inline int room_remove_one(const char *path, const struct stat *st, int type, struct FTW *f)
{
    (void)st, (void)type, (void)f;
    return remove(path);
}

static inline void room_remove(const char *dir)
{
    nftw(dir, room_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void room_end(struct room *r)
{
    db_close(r->db);
    room_remove(r->dir);
}

/* For cmocka: *state is a room of the test's own, open. */
static inline int room_setup(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    assert_non_null(r);
    room_new(r);
    room_start(r);
    *state = r;
    return 0;
}

static inline int room_teardown(void **state)
{
    room_end(*state);
    free(*state);
    return 0;
}

/* Does any file of the folder contain these bytes? */
static inline bool room_contains(const char *dir, const void *bytes, size_t n)
{
    bool found = false;
    DIR *d = opendir(dir);
    for (struct dirent *x; d && !found && (x = readdir(d));) {
        char path[1024];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, x->d_name);
        FILE *f = x->d_type == DT_REG ? fopen(path, "rb") : NULL;
        if (!f || fstat(fileno(f), &st)) continue;
        char *all = malloc((size_t)st.st_size + 1);
        size_t got = fread(all, 1, (size_t)st.st_size, f);
        found = memmem(all, got, bytes, n) != NULL;
        free(all);
        fclose(f);
    }
    if (d) closedir(d);
    return found;
}

/* One number by SQL, through a reader. */
struct room_number {
    const char *sql;
    int64_t v;
};

static inline int room_read_number(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct room_number *n = u;
    sqlite3_stmt *st = NULL;
    (void)d;
    if (sqlite3_prepare_v2(c, n->sql, -1, &st, NULL) != SQLITE_OK) return db_error(c, n->sql, e);
    n->v = sqlite3_step(st) == SQLITE_ROW ? sqlite3_column_int64(st, 0) : -1;
    sqlite3_finalize(st);
    return 0;
}

static inline int64_t room_number(struct room *r, const char *sql)
{
    struct err e = {0};
    struct room_number n = {sql, 0};
    assert_ok(db_read(r->db, room_read_number, &n, 10000, &e), e);
    return n.v;
}

static inline int room_run_sql(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, u, e);
}

/* A change by SQL, through the writer; on the disk when it returns. */
__attribute__((format(printf, 2, 3))) static inline void room_sql(struct room *r, const char *format, ...)
{
    char text[1024];
    struct err e = {0};
    va_list ap;
    va_start(ap, format);
    assert_true(vsnprintf(text, sizeof text, format, ap) < (int)sizeof text);
    va_end(ap);
    assert_ok(db_write_wait(r->db, room_run_sql, text, &e), e);
}

/* Of test content n: good until four later calls. */
static inline const char *digest(int n)
{
    static char d[4][65];
    static int at;
    char *out = d[at++ % 4];
    memset(out, '0', 64);
    out[0] = (char)('a' + n % 6);
    out[1] = (char)('0' + n / 6);
    out[64] = 0;
    return out;
}
