/* Tests of gateway/db/db_pages: a folder that takes the pages that each snapshot gives holds that snapshot, whatever is written, checkpointed, undone and
 * cut into pieces meanwhile. The oracle is the database itself, asked in the same snapshot. */
#include "base/clock.h"
#include "gateway/db/db_internal.h"
#include "gateway/db/db_pages.h"
#include "tests/unit/data_room.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#define PAGE 4096

static uint32_t dice(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u; }

/* --- writing --- */

struct write {
    uint32_t seed;
    bool fails, drops;
    int rows;
};

static int run_write(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char put[] = "INSERT INTO meta(name, value) VALUES(?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value";
    static const char drop[] = "DELETE FROM meta WHERE name GLOB 'row-*' AND abs(value) % 3 = 1";
    struct write *w = u;
    char name[220];
    for (int i = 0; i < w->rows; i++) {
        snprintf(name, sizeof name, "row-%0*u", (int)(8 + dice(&w->seed) % 190), dice(&w->seed) % 4000);
        sqlite3_stmt *st = db_stmt(d, c, put, e);
        if (!st || db_bind(st, e, "si", name, (int64_t)dice(&w->seed)) || db_done(st, e)) return -1;
    }
    sqlite3_stmt *st = w->drops ? db_stmt(d, c, drop, e) : NULL;
    if (w->drops && (!st || db_done(st, e))) return -1;
    return w->fails ? err_set(e, ERR_CONFLICT, "as asked") : 0;
}

static void write_some(struct room *r, uint32_t *seed, int rows)
{
    struct err e = {0};
    uint32_t n = dice(seed) >> 16;
    struct write w = {.seed = *seed, .rows = rows, .fails = n % 7 == 0, .drops = n % 41 == 1};
    int rc = db_write_wait(r->db, run_write, &w, &e);
    if (rc != (w.fails ? -1 : 0)) fail_msg("a write: %s", e.msg);
}

/* --- following --- */

struct mirror {
    char path[128], epoch[UUID_LEN];
    uint32_t gen, most;
    int64_t pages_taken, answers;
};

static int64_t ask(sqlite3 *c, const char *sql)
{
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(c, sql, -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    int64_t v = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    return v;
}

static const char sums[] = "SELECT coalesce(sum(value * 31 + length(name) * 7 + unicode(substr(name, -1))), 0) + count(*) FROM meta";

static int take(struct room *r, struct mirror *m, const struct db_snap_want *want, struct db_snap_at *at, int64_t *sum, struct err *e)
{
    struct db_snap *s = NULL;
    char page[PAGE];
    if (db_snap_open(r->db, want, &s, e)) return -1;
    *at = *db_snap_at(s);
    assert_int_equal(at->page_size, PAGE);
    int fd = open(m->path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    for (size_t i = 0; i < db_snap_count(s); i++) {
        uint32_t pgno;
        if (db_snap_page(s, i, &pgno, page, e)) fail_msg("%s", e->msg);
        assert_int_equal(pwrite(fd, page, PAGE, (off_t)(pgno - 1) * PAGE), PAGE);
    }
    assert_int_equal(ftruncate(fd, (off_t)at->pages * PAGE), 0);
    close(fd);
    m->pages_taken += (int64_t)db_snap_count(s);
    m->answers++;
    *sum = ask(db_snap_conn(s), sums);
    db_snap_close(s);
    return 0;
}

static void check(const struct mirror *m, int64_t sum)
{
    char uri[DB_URI_MAX];
    struct err e = {0};
    sqlite3 *c;
    assert_int_equal(db_uri(m->path, "immutable=1", uri, &e), 0);
    assert_int_equal(sqlite3_open_v2(uri, &c, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, NULL), SQLITE_OK);
    sqlite3_stmt *st;
    assert_int_equal(sqlite3_prepare_v2(c, "PRAGMA integrity_check", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_string_equal(sqlite3_column_text(st, 0), "ok");
    sqlite3_finalize(st);
    assert_int_equal(ask(c, sums), sum);
    sqlite3_close(c);
}

/* As a standby does it: until one answer holds all that changed. */
static void follow(struct room *r, struct mirror *m, void (*meanwhile)(struct room *r, uint32_t *seed), uint32_t *seed)
{
    for (uint32_t since = m->gen, first = 0;; since = first) {
        struct db_snap_want want = {.epoch = m->epoch, .since = since, .from = 1, .most = m->most};
        struct db_snap_at at = {.next = 1};
        int64_t sum = 0;
        int answers = 0;
        for (; at.next; answers++) {
            struct err e = {0};
            want.from = at.next;
            if (take(r, m, &want, &at, &sum, &e)) fail_msg("%s", e.msg);
            if (!answers) first = at.gen;
            memcpy(m->epoch, at.epoch, sizeof m->epoch);
            if (meanwhile) meanwhile(r, seed);
        }
        m->gen = at.gen;
        if (answers == 1) {
            check(m, sum);
            return;
        }
        meanwhile = NULL; /* let it end */
    }
}

static void mirror_of(struct room *r, struct mirror *m, uint32_t most)
{
    *m = (struct mirror){.most = most};
    snprintf(m->path, sizeof m->path, "%s/mirror.db", r->dir);
}

static void what_follows_holds_each_snapshot_over_checkpoints_and_undone_jobs(void **state)
{
    struct room *r = *state;
    struct mirror m;
    uint32_t seed = 11;
    mirror_of(r, &m, DB_SNAP_MOST);
    for (int i = 0; i < 300; i++) {
        write_some(r, &seed, (int)(dice(&seed) >> 20) % 60);
        if (i % 5 == 0) follow(r, &m, NULL, NULL);
        if (i % 50 == 49) usleep(40000); /* time for a checkpoint */
        if (i % 100 == 99) write_some(r, &seed, 3000);
    }
    follow(r, &m, NULL, NULL);
}

static void pages_that_were_checkpointed_before_a_snapshot_saw_them_are_given(void **state)
{
    struct room *r = *state;
    struct mirror m;
    uint32_t seed = 23;
    mirror_of(r, &m, DB_SNAP_MOST);
    write_some(r, &seed, 4000);
    follow(r, &m, NULL, NULL);
    for (int i = 0; i < 4; i++) {
        while (r->db->wal_pages < 1500) write_some(r, &seed, 300);
        for (int t = 0; t < 5000 && r->db->wal_pages; t++) usleep(1000); /* idle: all of it is checkpointed */
        assert_int_equal(r->db->wal_pages, 0);
        write_some(r, &seed, 1); /* the WAL begins anew */
        write_some(r, &seed, 1);
        follow(r, &m, NULL, NULL);
    }
}

static void write_few(struct room *r, uint32_t *seed) { write_some(r, seed, 20); }

/* --- the WAL's length --- */

static int64_t wal_bytes(const struct room *r)
{
    char path[DB_PATH_MAX + 4];
    struct stat st;
    snprintf(path, sizeof path, "%s-wal", r->db->path);
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static bool is_cut(const struct room *r)
{
    for (int t = 0; t < 8000 && wal_bytes(r) > 2000 * PAGE; t++) usleep(1000);
    return wal_bytes(r) <= 2000 * PAGE;
}

static int run_long(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char put[] = "INSERT INTO meta(name, value) SELECT hex(zeroblob(5000000)), 1 WHERE true ON CONFLICT DO UPDATE SET value = value + 1";
    sqlite3_stmt *st = db_stmt(d, c, put, e);
    (void)u;
    return st ? db_done(st, e) : -1;
}

static void make_long(struct room *r)
{
    struct err e = {0};
    assert_ok(db_write_wait(r->db, run_long, NULL, &e), e);
    assert_true(wal_bytes(r) > 9000000);
}

static void a_long_wal_is_cut_when_nothing_is_to_do_and_what_follows_goes_on(void **state)
{
    struct room *r = *state;
    struct mirror m;
    uint32_t seed = 5;
    mirror_of(r, &m, DB_SNAP_MOST);
    for (int i = 0; i < 2; i++) {
        make_long(r);
        follow(r, &m, NULL, NULL);
        write_some(r, &seed, 100); /* mostly not looked at before the cut */
        assert_true(is_cut(r));
        write_some(r, &seed, 1);
        int64_t before = m.pages_taken;
        follow(r, &m, NULL, NULL);
        assert_true(m.pages_taken - before < 400); /* what was noted before the cut is known after it */
    }
}

static int read_and_wait(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct room *r = u;
    uint32_t seed = 7;
    int64_t there = ask(c, sums);
    (void)e;
    int64_t tried = d->cut_again_us;
    for (int t = 0; t < 8000 && d->cut_again_us == tried; t++) usleep(1000); /* it was tried beside this reader */
    assert_true(d->cut_again_us != tried && wal_bytes(r) > 0);
    write_some(r, &seed, 1);
    assert_int_equal(ask(c, sums), there);
    return 0;
}

static void a_reader_in_the_wal_is_not_waited_for(void **state)
{
    struct room *r = *state;
    struct err e = {0};
    make_long(r);
    assert_ok(db_read(r->db, read_and_wait, r, 60000, &e), e);
    assert_true(is_cut(r));
}

static void in_many_small_answers_with_writes_between_them_it_ends_whole(void **state)
{
    struct room *r = *state;
    struct mirror m;
    uint32_t seed = 5;
    mirror_of(r, &m, DB_SNAP_MOST);
    write_some(r, &seed, 3000);
    write_some(r, &seed, 3000);
    m.most = 13;
    follow(r, &m, write_few, &seed);
    assert_true(m.answers > 5);
    for (int i = 0; i < 20; i++) {
        write_some(r, &seed, 300);
        follow(r, &m, write_few, &seed);
    }
}

static _Atomic bool over;

static void *write_on(void *u)
{
    struct room *r = u;
    uint32_t seed = 77;
    while (!over) write_some(r, &seed, 40);
    return NULL;
}

static void beside_a_writer_every_snapshot_is_one_moment(void **state)
{
    struct room *r = *state;
    struct mirror m;
    pthread_t t;
    mirror_of(r, &m, DB_SNAP_MOST);
    over = false;
    assert_int_equal(pthread_create(&t, NULL, write_on, r), 0);
    for (int64_t until = clock_mono_us() + 3000000; clock_mono_us() < until;) follow(r, &m, NULL, NULL);
    over = true;
    pthread_join(t, NULL);
    follow(r, &m, NULL, NULL);
    assert_true(m.answers > 20);
}

static void an_idle_database_gives_a_few_pages_only(void **state)
{
    struct room *r = *state;
    struct mirror m;
    uint32_t seed = 9;
    mirror_of(r, &m, DB_SNAP_MOST);
    write_some(r, &seed, 2000);
    follow(r, &m, NULL, NULL);
    int64_t all = m.pages_taken;
    assert_true(all > 50);
    for (int i = 0; i < 10; i++) follow(r, &m, NULL, NULL);
    assert_true(m.pages_taken - all < 60);
}

static void another_epoch_is_a_conflict_and_ranges_are_given_whatever_they_are(void **state)
{
    struct room *r = *state;
    struct mirror m;
    struct err e = {0};
    struct db_snap_at at;
    int64_t sum;
    mirror_of(r, &m, DB_SNAP_MOST);
    follow(r, &m, NULL, NULL);
    struct db_snap_want want = {.epoch = m.epoch, .since = m.gen, .from = 1, .most = 100, .range = (const uint32_t[][2]){{2, 3}, {5, 5}}, .nranges = 2};
    int64_t before = m.pages_taken;
    assert_int_equal(take(r, &m, &want, &at, &sum, &e), 0);
    assert_true(m.pages_taken - before >= 3);
    db_close(r->db);
    room_start(r);
    assert_int_equal(take(r, &m, &want, &at, &sum, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    *m.epoch = 0;
    m.gen = 0;
    follow(r, &m, NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, room_setup, room_teardown)
        T(what_follows_holds_each_snapshot_over_checkpoints_and_undone_jobs),
        T(pages_that_were_checkpointed_before_a_snapshot_saw_them_are_given),
        T(a_long_wal_is_cut_when_nothing_is_to_do_and_what_follows_goes_on),
        T(a_reader_in_the_wal_is_not_waited_for),
        T(in_many_small_answers_with_writes_between_them_it_ends_whole),
        T(beside_a_writer_every_snapshot_is_one_moment),
        T(an_idle_database_gives_a_few_pages_only),
        T(another_epoch_is_a_conflict_and_ranges_are_given_whatever_they_are),
#undef T
    };
    return cmocka_run_group_tests_name("db_pages", tests, NULL, NULL);
}
