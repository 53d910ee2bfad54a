/* Tests of gateway/ledger_archive: a closed month becomes a file, and every row is told once, whatever happens when. */
#include "base/json.h"
#include "gateway/api/page.h"
#include "gateway/ledger/ledger_archive.h"
#include "gateway/ledger/ledger_find.h"
#include "tests/unit/ledger_room.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define AUGUST 1785542400ll    /* 2026-08-01T00:00:00Z */
#define SEPTEMBER 1788220800ll
#define OCTOBER 1790812800ll
#define NOVEMBER 1793491200ll
#define NOW ((NOVEMBER + 86400) * 1000000) /* so August is the one that goes */
#define KILLS 40
enum { N = 400 };

static struct archive_pass pass;

static int archive(struct ledger_room *x, int64_t now_us, int keep, struct err *e)
{
    return ledger_archive(x->l, &(struct archive_options){.months = 2, .keep_months = keep, .now_us = now_us}, &pass, e);
}

static void path_of(struct ledger_room *x, int month, char out[256])
{
    snprintf(out, 256, "%s/archive/usage_%06d.db", x->r.dir, month);
}

static bool is_there(struct ledger_room *x, int month)
{
    char path[256];
    path_of(x, month, path);
    return access(path, F_OK) == 0;
}

static int64_t tables(struct ledger_room *x)
{
    return room_number(&x->r, "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND (name LIKE 'usage_2%' OR name LIKE 'gone_2%')");
}

/* What readers are told is `want`, the same rows as before. */
static void tells(struct ledger_room *x, const char *want)
{
    char *now = ledger_room_rows(x);
    if (strcmp(now, want) != 0) {
        size_t i = 0;
        while (now[i] == want[i]) i++;
        fail_msg("%d rows; they differ at byte %zu: '%.60s' for '%.60s'", x->nrows, i, now + i, want + i);
    }
    free(now);
}

/* The sums that were made of the rows when they were in their tables are still theirs. */
static void balances(struct ledger_room *x, int64_t want)
{
    struct err e = {0};
    int64_t rows, bad;
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    assert_int_equal(rows, want);
    assert_int_equal(bad, 0);
}

static void four_months(struct ledger_room *x)
{
    ledger_room_fill(x, N, AUGUST, 60000000);
    ledger_room_fill(x, N, SEPTEMBER, 60000000);
    ledger_room_fill(x, N, OCTOBER, 60000000);
    ledger_room_fill(x, N, NOVEMBER, 60000000);
}

static void a_closed_month_becomes_a_file_and_no_row_changes(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    four_months(x);
    char *before = ledger_room_rows(x);
    assert_int_equal(x->nrows, 4 * N);
    assert_ok(archive(x, NOW, 0, &e), e);
    assert_int_equal(pass.archived, 1);
    assert_int_equal(pass.rows, N);
    assert_true(is_there(x, 202608));
    assert_false(is_there(x, 202609));
    assert_int_equal(tables(x), 3);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%_202608%'"), 0);
    assert_int_equal(room_number(&x->r, "SELECT rows FROM archive WHERE month = 202608 AND dropped IS NOT NULL AND removed IS NULL"), N);
    tells(x, before);
    assert_ok(archive(x, NOW, 0, &e), e);
    assert_int_equal(pass.archived, 0);
    ledger_room_stop(x);
    ledger_room_start(x);
    tells(x, before);
    assert_ok(archive(x, (NOVEMBER + 200 * 86400) * 1000000, 0, &e), e); /* June: February, and all before */
    assert_int_equal(pass.archived, 3);
    assert_int_equal(tables(x), 0);
    tells(x, before);
    balances(x, 4 * N);
    free(before);
}

static void what_is_archived_can_be_read_by_anybody_and_says_its_digest(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    char path[256];
    sqlite3 *c;
    sqlite3_stmt *st;
    struct stat st_buf;
    ledger_room_fill(x, N, AUGUST, 60000000);
    assert_ok(archive(x, NOW, 0, &e), e);
    path_of(x, 202608, path);
    assert_int_equal(stat(path, &st_buf), 0);
    assert_int_equal(room_number(&x->r, "SELECT bytes FROM archive"), st_buf.st_size);
    assert_int_equal(sqlite3_open_v2(path, &c, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(c, "SELECT count(*), sum(output) FROM usage_202608 WHERE tenant = 'tenant-1'", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), N / 5);
    sqlite3_finalize(st);
    sqlite3_close(c);
}

static void rows_that_come_later_are_merged_into_the_file(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    ledger_room_fill(x, N, AUGUST, 60000000);
    assert_ok(archive(x, NOW, 0, &e), e);
    ledger_room_add(x, 7001, (AUGUST + 30) * 1000000);
    ledger_room_add(x, 7002, (AUGUST + 20 * 86400) * 1000000);
    ledger_room_wait(x);
    assert_int_equal(tables(x), 1);
    char *before = ledger_room_rows(x);
    assert_int_equal(x->nrows, N + 2);
    balances(x, N + 2);
    assert_ok(archive(x, NOW, 0, &e), e);
    assert_int_equal(pass.rows, N + 2);
    assert_int_equal(tables(x), 0);
    assert_int_equal(room_number(&x->r, "SELECT rows FROM archive"), N + 2);
    tells(x, before);
    balances(x, N + 2);
    free(before);
}

/* --- what comes or ends in between: stop() is asked at all steps --- */

struct between {
    struct ledger_room *x;
    int asked, at; /* at: which question */
    bool add;      /* a row comes then; else it is a stop */
    _Atomic bool given;
};

static bool between(void *u)
{
    struct between *b = u;
    bool now = b->asked++ == b->at;
    if (b->add && now) {
        ledger_room_add(b->x, 9000, (AUGUST + 5 * 86400) * 1000000);
        ledger_room_wait(b->x);
        b->given = true;
    }
    return !b->add && (now || b->asked > b->at);
}

static int archive_between(struct between *b, struct err *e)
{
    return ledger_archive(b->x->l, &(struct archive_options){.months = 2, .now_us = NOW, .stop = between, .user = b}, &pass, e);
}

/* After another whole pass nothing is left in tables, and readers are told `rows`, which goes. */
static void ends_as(struct ledger_room *x, char *rows)
{
    struct err e = {0};
    assert_ok(archive(x, NOW, 0, &e), e);
    assert_int_equal(tables(x), 0);
    tells(x, rows);
    free(rows);
    ledger_room_sql(x, "DELETE FROM archive");
}

static void a_row_that_comes_at_any_moment_is_told_once(void **state)
{
    struct ledger_room *x = *state;
    int moments = 0;
    for (bool came = true; came; moments++) {
        struct between b = {.x = x, .at = moments, .add = true};
        ledger_room_fill(x, N, AUGUST, 60000000);
        struct err first = {0};
        archive_between(&b, &first);
        came = b.given;
        assert_ok(first.code != ERR_NONE, first);
        char *rows = ledger_room_rows(x);
        assert_int_equal(x->nrows, N + came);
        ends_as(x, rows);
    }
    assert_true(moments > 10);
}

/* On the writer: what the archive hands in meanwhile is queued, and the row behind it, so that both are of one group. */
static int add_behind(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct between *b = u;
    (void)c, (void)e;
    for (int i = 0; i < 200 && db_queue_len(d) == 0; i++) usleep(100);
    ledger_room_add(b->x, 9000, (AUGUST + 5 * 86400) * 1000000);
    return 0;
}

static void added_behind(void *u, const struct err *e) { ((struct between *)u)->given = !e; }

static bool behind(void *u)
{
    struct between *b = u;
    struct err e = {0};
    if (b->asked++ != b->at) return false;
    if (room_number(&b->x->r, "SELECT count(*) FROM archive") == 0) {
        ledger_room_add(b->x, 0, AUGUST * 1000000); /* counts no more, and says that the table is there */
        ledger_room_wait(b->x);
    }
    b->add = true;
    assert_ok(db_write(b->x->r.db, &(struct db_job){.run = add_behind, .done = added_behind, .user = b, .durable = true}, &e), e);
    return false;
}

static int64_t indexes_of(struct ledger_room *x, const char *table)
{
    char sql[200];
    snprintf(sql, sizeof sql, "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND tbl_name = '%s'", table);
    return room_number(&x->r, sql);
}

static void is_indexed(struct ledger_room *x, int month)
{
    char path[256];
    sqlite3 *c;
    sqlite3_stmt *st;
    path_of(x, month, path);
    assert_int_equal(sqlite3_open_v2(path, &c, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(c, "SELECT count(*) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL", -1, &st, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(st), SQLITE_ROW);
    assert_int_equal(sqlite3_column_int(st, 0), 1);
    sqlite3_finalize(st);
    sqlite3_close(c);
}

static void a_row_behind_any_step_makes_its_table_anew_with_an_index(void **state)
{
    struct ledger_room *x = *state;
    int moments = 0, beside = 0;
    for (bool came = true; came; moments++) {
        struct between b = {.x = x, .at = moments};
        struct err e = {0};
        ledger_room_fill(x, N, AUGUST, 60000000);
        ledger_archive(x->l, &(struct archive_options){.months = 2, .now_us = NOW, .stop = behind, .user = &b}, &pass, &e);
        came = b.add;
        for (int i = 0; i < 10000 && came && !b.given; i++) usleep(100);
        ledger_room_wait(x);
        int64_t usage = room_number(&x->r, "SELECT count(*) FROM sqlite_schema WHERE name = 'usage_202608'");
        assert_int_equal(indexes_of(x, "usage_202608"), usage);
        beside += room_number(&x->r, "SELECT count(*) FROM sqlite_schema WHERE name = 'usage_202608_tenant_2'") > 0;
        char *rows = ledger_room_rows(x);
        assert_int_equal(x->nrows, N + came);
        ends_as(x, rows);
        is_indexed(x, 202608);
    }
    assert_true(moments > 10 && beside > 0);
}

/* As a version before made them. */
static void a_table_without_its_index_gets_it_at_the_start(void **state)
{
    struct ledger_room *x = *state;
    ledger_room_fill(x, N, AUGUST, 60000000);
    ledger_room_sql(x, "DROP INDEX usage_202608_tenant");
    ledger_room_stop(x);
    ledger_room_start(x);
    assert_int_equal(indexes_of(x, "usage_202608"), 1);
}

static void a_stop_at_any_moment_leaves_every_row_told_once(void **state)
{
    struct ledger_room *x = *state;
    int stops = 0;
    for (int rc = -1; rc; stops++) {
        struct between b = {.x = x, .at = stops};
        struct err why = {0};
        ledger_room_fill(x, N, AUGUST, 60000000);
        char *before = ledger_room_rows(x);
        assert_int_equal(x->nrows, N);
        rc = archive_between(&b, &why);
        assert_true(!rc || why.code == ERR_UNAVAILABLE);
        tells(x, before);
        ends_as(x, before);
    }
    assert_true(stops > 10);
}

static void a_kill_at_any_moment_leaves_every_row_told_once(void **state)
{
    struct ledger_room *x = *state;
    int switched = 0, gone = 0;
    int64_t whole_us = 0; /* opening and archiving, so that the kills fall into all of it */
    for (int i = 0; i < KILLS; i++) {
        ledger_room_fill(x, N, AUGUST, 60000000);
        ledger_room_add(x, 8000 + i, (AUGUST + 86400) * 1000000);
        ledger_room_wait(x);
        char *before = ledger_room_rows(x);
        ledger_room_stop(x);
        int64_t began = clock_mono_us();
        pid_t pid = fork();
        if (pid == 0) {
            ledger_room_start(x);
            archive(x, NOW, 0, NULL);
            _exit(0);
        }
        if (i) usleep((useconds_t)(whole_us * i / KILLS));
        if (i) kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        if (!i) whole_us = clock_mono_us() - began;
        ledger_room_start(x);
        switched += room_number(&x->r, "SELECT count(*) FROM archive") > 0;
        gone += room_number(&x->r, "SELECT count(*) FROM sqlite_schema WHERE name = 'gone_202608'") > 0;
        tells(x, before);
        ends_as(x, before);
    }
    print_message("%d kills: %d after the switch, %d while it was emptied\n", KILLS, switched, gone);
    assert_true(switched < KILLS);
}

static void a_damaged_file_keeps_the_rows_that_are_still_there(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    struct between b = {.x = x};
    char path[256];
    ledger_room_fill(x, N, AUGUST, 60000000);
    for (int64_t gone = 0; !gone && b.at < 200; b = (struct between){.x = x, .at = b.at + 1}) {
        archive_between(&b, NULL);
        gone = room_number(&x->r, "SELECT count(*) FROM sqlite_schema WHERE name = 'gone_202608'");
    }
    int64_t left = room_number(&x->r, "SELECT count(*) FROM gone_202608");
    assert_true(left > 0);
    path_of(x, 202608, path);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, "XXXXXXXXXXXXXXXX", 16, 4096 * 4 - 64), 16);
    close(fd);
    assert_int_equal(archive(x, NOW, 0, &e), -1);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM gone_202608"), left);
    for (int i = 0; i < 1000 && !room_number(&x->r, "SELECT count(*) FROM event WHERE type = 'archive.failed'"); i++) usleep(1000);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM event WHERE type = 'archive.failed'"), 1);
}

static void old_files_go_when_their_time_is_over(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    four_months(x);
    for (int month = 202608; month <= 202611; month++)
        room_sql(&x->r, "INSERT INTO feedback VALUES('t', 'r%d', %d, 0, 'k', 'm', '', '', 0, 1, '', '');"
                        " INSERT INTO usage_route VALUES('r%d', %d, 0, 0, '', '', 'a', '', 0, x'');"
                        " INSERT INTO usage_judge VALUES('j%d', %d)", month, month, month, month, month, month);
    assert_ok(archive(x, (NOVEMBER + 100 * 86400) * 1000000, 0, &e), e); /* February */
    assert_int_equal(pass.archived, 4);
    assert_ok(archive(x, (NOVEMBER + 100 * 86400) * 1000000, 4, &e), e);
    assert_int_equal(pass.removed, 2);
    assert_int_equal(room_number(&x->r, "SELECT count(*) * 1000000 + min(month) FROM feedback"), 2000000 + 202610);
    assert_int_equal(room_number(&x->r, "SELECT count(*) * 1000000 + min(month) FROM usage_route"), 2000000 + 202610);
    assert_int_equal(room_number(&x->r, "SELECT count(*) * 1000000 + min(month) FROM usage_judge"), 2000000 + 202610);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM usage_policy p WHERE NOT EXISTS (SELECT 1 FROM archive a WHERE a.month = p.month AND a.removed IS NULL)" " AND NOT EXISTS (SELECT 1 FROM sqlite_schema s WHERE s.name = printf('usage_%06d', p.month))"), 0);
    assert_true(room_number(&x->r, "SELECT count(*) FROM usage_policy") > 0);
    assert_false(is_there(x, 202608) || is_there(x, 202609));
    assert_true(is_there(x, 202610) && is_there(x, 202611));
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM archive WHERE removed IS NOT NULL"), 2);
    free(ledger_room_rows(x));
    assert_int_equal(x->nrows, 2 * N);
    balances(x, 2 * N);
    assert_ok(archive(x, (NOVEMBER + 100 * 86400) * 1000000, 4, &e), e);
    assert_int_equal(pass.removed, 0);
}

static int64_t sum_of(struct ledger_room *x, const char *table, int64_t from, int64_t to)
{
    char sql[300];
    snprintf(sql, sizeof sql, "SELECT sum(n + prompt + cached + output + produced + cost) FROM %s WHERE t >= %lld AND t < %lld", table, (long long)from, (long long)to);
    return room_number(&x->r, sql);
}

#define FEBRUARY ((NOVEMBER + 100 * 86400) * 1000000)

static void is_gone(struct ledger_room *x, int first, int until, int last, int months)
{
    struct err e = {0};
    struct rows_gone gone;
    assert_ok(ledger_rows_gone(x->l, first, until, &gone, &e), e);
    assert_true(gone.months == months && gone.last == last && gone.rows == months * N);
}

/* Where a clock was wrong, or an admission stayed open for a year: the sums of August are those of rows that are gone, and of these. */
static void rows_that_come_for_a_removed_month_are_told_and_its_sums_stay(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    enum { LATE = 7 };
    static const char *const tables[] = {"rollup_day", "rollup_hour", "rollup_adapter", "rollup_by"};
    int64_t was[4], rows, bad;
    four_months(x);
    assert_ok(archive(x, FEBRUARY, 4, &e), e);
    assert_int_equal(pass.removed, 2);
    for (int i = 0; i < 4; i++) was[i] = sum_of(x, tables[i], AUGUST, SEPTEMBER);
    for (int i = 0; i < LATE; i++) ledger_room_add(x, N + i, AUGUST * 1000000 + 5000000ll * i);
    ledger_room_wait(x);
    balances(x, 2 * N + LATE); /* in their table */
    int64_t more = sum_of(x, "rollup_day", AUGUST, SEPTEMBER);
    assert_true(more > was[0]);
    assert_ok(ledger_rebuild(x->l, &rows, &e), e);
    assert_int_equal(sum_of(x, "rollup_day", AUGUST, SEPTEMBER), more);
    for (int i = 1; i < 4; i++) assert_true(sum_of(x, tables[i], AUGUST, SEPTEMBER) > was[i]);
    balances(x, 2 * N + LATE);
    assert_ok(archive(x, FEBRUARY, 0, &e), e); /* in a file of their own */
    assert_int_equal(pass.archived, 1);
    assert_true(is_there(x, 202608));
    is_gone(x, 202608, 202612, 202609, 2); /* though August has a file again */
    is_gone(x, 202608, 202608, 202608, 1);
    is_gone(x, 202610, 202612, 0, 0);
    balances(x, 2 * N + LATE);
    assert_ok(ledger_rebuild(x->l, &rows, &e), e);
    assert_int_equal(sum_of(x, "rollup_day", AUGUST, SEPTEMBER), more);
    room_sql(&x->r, "DELETE FROM rollup_day WHERE t >= %lld AND t < %lld", AUGUST, SEPTEMBER); /* found though the rows can't make it up */
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    assert_true(bad > 0);
}

static void a_month_with_an_open_request_is_not_removed(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    int closed;
    four_months(x);
    room_sql(&x->r, "INSERT INTO admission(id, tenant, key, base, adapter, version, model, endpoint, stream, reserved, t_start)"
                    " VALUES('01900000-0000-7000-8000-000000000000', 'tenant-1', 'key1', 'smol', '', 0, 'smol', '/v1/chat/completions', 0, 9, %lld000000)", SEPTEMBER - 1);
    assert_ok(archive(x, FEBRUARY, 4, &e), e);
    assert_int_equal(pass.removed, 1);
    assert_true(is_there(x, 202608));
    assert_ok(ledger_recover(x->l, NULL, NULL, &closed, &e), e);
    assert_int_equal(closed, 1);
    balances(x, 3 * N + 1);
    assert_ok(archive(x, FEBRUARY, 4, &e), e);
    assert_int_equal(pass.archived, 1);
    assert_int_equal(pass.removed, 1);
    assert_int_equal(room_number(&x->r, "SELECT sum(lost) FROM archive"), 2 * N + 1);
    balances(x, 2 * N);
}

/* --- the list of requests --- */

struct listing {
    char id[5 * N][UUID_LEN];
    int n, pages;
};

/* All that fit, page by page, in the order of the walk; no page is empty but the last, or one that says where to go on. */
static void list_all(struct ledger_room *x, const char *tenant, const struct request_filter *f, bool back, int limit, struct listing *out)
{
    char cursor[UUID_LEN] = "", place[UUID_LEN];
    bool more = true;
    if (back) usage_id_at(0, cursor);
    for (*out = (struct listing){0}; more; out->pages++) {
        struct err e = {0};
        json_t *list = json_array();
        struct page p = {back ? "" : cursor, back ? cursor : "", limit};
        assert_ok(ledger_requests(x->l, tenant, f, &p, list, &more, place, &e), e);
        int n = (int)json_array_size(list);
        assert_true(n || !more || *place);
        for (int i = 0; i < n; i++)
            snprintf(out->id[out->n++], UUID_LEN, "%s", json_string_value(json_object_get(json_array_get(list, (size_t)(back ? n - 1 - i : i)), "id")));
        if (*place) memcpy(cursor, place, UUID_LEN);
        else if (n) memcpy(cursor, out->id[out->n - 1], UUID_LEN);
        json_decref(list);
        assert_true(out->pages < 5 * N);
    }
}

static void is_in_order(const struct listing *l, bool back, int want)
{
    assert_int_equal(l->n, want);
    for (int i = 1; i < l->n; i++) assert_true((strcmp(l->id[i], l->id[i - 1]) > 0) == back);
}

/* The same requests, wherever they stand: tables, files, and both. */
static void the_list_of_requests_goes_on_through_archived_months(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    static struct listing now, was[6];
    const struct request_filter any = {.state = -1}, failed = {.state = USAGE_TIMEOUT}, times = {.state = -1, .start = AUGUST + 3600, .end = SEPTEMBER + 7200},
                                adapter = {.state = -1, .adapter = "greet@3", .min_duration_us = 1050};
    const struct {
        const char *tenant;
        const struct request_filter *f;
        bool back;
        int limit;
    } ask[] = {{NULL, &any, false, 100}, {NULL, &any, true, 37}, {"tenant-2", &any, false, 10}, {NULL, &failed, false, 20}, {NULL, &times, true, 50}, {"tenant-1", &adapter, false, 3}};
    four_months(x);
    for (int i = 0; i < 6; i++) list_all(x, ask[i].tenant, ask[i].f, ask[i].back, ask[i].limit, &was[i]);
    is_in_order(&was[0], false, 4 * N);
    assert_true(was[3].n > 4 * N / 8 && was[4].n > N / 2 && was[5].n > 8);
    assert_ok(archive(x, FEBRUARY, 0, &e), e);
    assert_int_equal(tables(x), 0);
    for (int i = 0; i < 6; i++) {
        list_all(x, ask[i].tenant, ask[i].f, ask[i].back, ask[i].limit, &now);
        is_in_order(&now, ask[i].back, was[i].n);
        assert_memory_equal(now.id, was[i].id, sizeof now.id);
    }
    for (int i = 0; i < 9; i++) ledger_room_add(x, N + i, AUGUST * 1000000 + 777000000ll * i); /* in its table, beside the file */
    ledger_room_wait(x);
    list_all(x, NULL, &any, false, 100, &now);
    is_in_order(&now, false, 4 * N + 9);
    list_all(x, NULL, &any, true, 100, &now);
    is_in_order(&now, true, 4 * N + 9);
    assert_ok(archive(x, FEBRUARY, 4, &e), e); /* August and September are removed */
    list_all(x, NULL, &any, false, 100, &now);
    is_in_order(&now, false, 2 * N);
}

/* At a month's turn ids and starts part: a request's id is older than its start. */
static void the_list_is_in_order_over_an_archived_turn(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    static struct listing l;
    for (int i = 0; i < 60; i++) {
        struct admission a = {.endpoint = "/v1/completions", .t_start = SEPTEMBER * 1000000 + (i % 2 ? 5000000 : -1)};
        struct settlement s = {.t_end = a.t_start + 1};
        usage_id_at(SEPTEMBER * 1000000 - 1000000 + i * 1000, a.id);
        x->given++;
        ledger_settle(x->l, &a, &s, ledger_room_settled, x);
    }
    ledger_room_wait(x);
    for (int archived = 0; archived < 3; archived++) {
        for (int limit = 1; limit < 70; limit += 7) {
            list_all(x, NULL, &(struct request_filter){.state = -1}, false, limit, &l);
            is_in_order(&l, false, 60);
            list_all(x, NULL, &(struct request_filter){.state = -1}, true, limit, &l);
            is_in_order(&l, true, 60);
        }
        if (archived < 2) assert_ok(archive(x, archived ? FEBRUARY : NOW, 0, &e), e); /* August alone, then both */
    }
}

/* --- beside traffic --- */

struct traffic {
    struct ledger_room *x;
    _Atomic bool stop;
    int n;
    int64_t slowest_us;
};

static void *settle_on(void *u)
{
    struct traffic *t = u;
    for (int i = 0; !t->stop; i++) {
        int64_t began = clock_mono_us();
        ledger_room_add(t->x, 100000 + i, NOW + i);
        ledger_room_wait(t->x);
        int64_t took = clock_mono_us() - began;
        if (took > t->slowest_us) t->slowest_us = took;
        t->n++;
    }
    return NULL;
}

static void settlements_go_on_beside_it(void **state)
{
    struct ledger_room *x = *state;
    struct err e = {0};
    enum { LARGE = 60000 };
    struct traffic t = {.x = x};
    pthread_t thread;
    ledger_room_fill(x, LARGE, AUGUST, 40000000);
    assert_int_equal(pthread_create(&thread, NULL, settle_on, &t), 0);
    int64_t began = clock_mono_us();
    int rc = archive(x, NOW, 0, &e);
    int64_t took = clock_mono_us() - began;
    t.stop = true;
    pthread_join(thread, NULL);
    assert_ok(rc, e);
    print_message("%d rows archived in %lld ms; writer held %lld us at most; %d settlements beside it, the slowest took %lld us\n", LARGE,
                  (long long)took / 1000, (long long)pass.slowest_us, t.n, (long long)t.slowest_us);
    assert_int_equal(room_number(&x->r, "SELECT rows FROM archive"), LARGE);
    assert_int_equal(room_number(&x->r, "SELECT sum(n) FROM rollup_day WHERE t >= 1793491200"), t.n);
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, ledger_room_new, ledger_room_end)
    const struct CMUnitTest tests[] = {
        TEST(a_closed_month_becomes_a_file_and_no_row_changes),
        TEST(what_is_archived_can_be_read_by_anybody_and_says_its_digest),
        TEST(rows_that_come_later_are_merged_into_the_file),
        TEST(a_row_that_comes_at_any_moment_is_told_once),
        TEST(a_row_behind_any_step_makes_its_table_anew_with_an_index),
        TEST(a_table_without_its_index_gets_it_at_the_start),
        TEST(a_stop_at_any_moment_leaves_every_row_told_once),
        TEST(a_kill_at_any_moment_leaves_every_row_told_once),
        TEST(a_damaged_file_keeps_the_rows_that_are_still_there),
        TEST(old_files_go_when_their_time_is_over),
        TEST(rows_that_come_for_a_removed_month_are_told_and_its_sums_stay),
        TEST(a_month_with_an_open_request_is_not_removed),
        TEST(the_list_of_requests_goes_on_through_archived_months),
        TEST(the_list_is_in_order_over_an_archived_turn),
        TEST(settlements_go_on_beside_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
