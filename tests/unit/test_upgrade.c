/* A database that any older version left, with rows in all it had, becomes this one's, and its books balance; also when the upgrade is killed. */
#include "gateway/auth/auth_store.h"
#include "gateway/db/db_internal.h"
#include "tests/unit/ledger_room.h"
#include <signal.h>
#include <sys/wait.h>

enum { ROWS = 500, OLDEST = 1, BEFORE = 7, KILLS = 12 };

/* Tables of months as versions 1 to 3 made them: rows of the last three months, five tenants. */
static const char old_month[] =
    "CREATE TABLE usage_%1$06d("
    " id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, base TEXT NOT NULL, adapter TEXT NOT NULL, version INTEGER NOT NULL,"
    " model TEXT NOT NULL, endpoint TEXT NOT NULL, stream INTEGER NOT NULL, state INTEGER NOT NULL CHECK(state BETWEEN 0 AND 5),"
    " http INTEGER NOT NULL, finish TEXT NOT NULL, t_start INTEGER NOT NULL, t_first INTEGER NOT NULL, t_end INTEGER NOT NULL,"
    " prompt INTEGER NOT NULL, cached INTEGER NOT NULL, output INTEGER NOT NULL, produced INTEGER NOT NULL, source INTEGER NOT NULL,"
    " price INTEGER NOT NULL, cost INTEGER NOT NULL, attempt INTEGER NOT NULL, cold INTEGER NOT NULL, engine TEXT NOT NULL,"
    " adjusts TEXT"
    ") STRICT, WITHOUT ROWID;"
    "CREATE UNIQUE INDEX usage_%1$06d_tenant ON usage_%1$06d(tenant, id);";
static const char old_rows[] =
    "WITH RECURSIVE n(i, t) AS (SELECT 0, %2$lld000000 UNION ALL SELECT i + 1, t + 3777000000 FROM n WHERE i < %3$d - 1)"
    "INSERT INTO usage_%1$06d SELECT printf('%%08x-%%04x-7000-8000-%%012d', t / 1000 >> 16, t / 1000 & 65535, i), 'tenant-' || i %% 5, 'key' || i %% 3,"
    " 'smol', iif(i %% 4, 'greet', ''), i %% 4, 'greet@' || i %% 4, '/v1/chat/completions', i & 1, i %% 6, 200, 'stop', t, iif(i %% 6, t + 9000, 0),"
    " t + 99000 + i, 10 + i %% 7, i %% 7, 20 + i %% 11, 21 + i %% 13, 1, 0, i, 1, i %% 9 = 0, 'local', NULL FROM n;";
#define SUMS "count(*), sum(prompt), sum(cached), sum(output), sum(produced), sum(cost)"
static const char old_rollups[] =
    "INSERT INTO rollup_hour SELECT tenant, t_start / 3600000000 * 3600 t, state, " SUMS " FROM usage_%1$06d GROUP BY tenant, t, state;"
    "INSERT INTO rollup_day SELECT tenant, t_start / 86400000000 * 86400 t, key, base, adapter, version, model, endpoint, state, " SUMS
    " FROM usage_%1$06d GROUP BY tenant, t, key, base, adapter, version, model, endpoint, state;"
    "INSERT INTO rollup_adapter(tenant, adapter, version, t, n, prompt, cached, output, produced, cost, cold, last_used)"
    " SELECT tenant, adapter, version, t_start / 86400000000 * 86400 t, " SUMS ", sum(cold), max(t_end) FROM usage_%1$06d"
    " GROUP BY tenant, adapter, version, t;";

/* What each version's own program could have stored beside usage. */
static const char *const control[] = {
    NULL,
    "INSERT INTO tenant(id, name, weight, created) VALUES('tenant-1', 'acme', 2.5, 5);"
    "INSERT INTO api_key(id, tenant, name, roles, hash, created, created_by) VALUES('k', 'tenant-1', 'n', 'admin', zeroblob(32), 5, 'x');"
    "INSERT INTO adapter(tenant, name, created) VALUES('tenant-1', 'greet', 5);"
    "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created) VALUES(1, 1, 'ready', 'd', 'f', 'smol', 8, 4, 2, 99, 5);"
    "INSERT INTO admission(id, tenant, key, base, adapter, version, model, endpoint, stream, reserved, t_start)"
    " VALUES('01900000-0000-7000-8000-000000000000', 'tenant-1', 'key1', 'smol', '', 0, 'smol', '/v1/chat/completions', 0, 9, 1717243000000000);",
    "UPDATE version SET kind = 'dora';",
    "INSERT INTO price(base, valid_from, prompt, cached, output, created) VALUES('smol', 5, 1, 2, 3, 5);"
    "INSERT INTO alias(tenant, name, created, changed) VALUES('tenant-1', 'talk', 5, 5);"
    "INSERT INTO event(t, tenant, type, object, detail) VALUES(5, '', 'engine.back', 'local', '{}');"
    /* Prices that were removed; the words of the second can't be read. */
    "INSERT INTO audit(t, actor, ip, request, action, object, before, after, hash) VALUES"
    "(5, 'x', '', '', 'price.delete', '8', '{\"prompt_nano\":20,\"cached_nano\":3,\"output_nano\":77}', '', zeroblob(32)),"
    "(5, 'x', '', '', 'price.delete', '7', '{\"prompt_nano\":', '', zeroblob(32));",
    /* A month that retention removed; a key that took over what another had used. */
    "INSERT INTO archive(month, rows, bytes, sha256, made, removed) VALUES(202001, 9, 9, 'x', 5, 6), (202002, 9, 9, 'x', 5, NULL);"
    "UPDATE archive SET removed = 7 WHERE month = 202002;"
    "INSERT INTO limits(subject, tokens_per_day, revision, changed) VALUES('key:k', 100, 1, 5);"
    "INSERT INTO budget_use(subject, period, t, tokens, cost) VALUES('key:k', 0, 0, 70, 7), ('key:k', 1, 0, 70, 7);"
    "INSERT INTO price_removed VALUES(6, 1, 1, 6);",
    /* A price that was removed now. */
    "INSERT INTO audit(t, actor, ip, request, action, object, before, after, hash)"
    " VALUES(5, 'x', '', '', 'price.delete', '6', '{\"prompt_nano\":1,\"cached_nano\":1,\"output_nano\":99}', '', zeroblob(32));",
    "UPDATE version SET state = 'quarantined', reason = 'engine_lost: engines were lost with it again and again', changed = 7;",
};

static void exec(sqlite3 *c, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(c, sql, NULL, NULL, &why) != SQLITE_OK) fail_msg("%s: %s", why, sql);
}

/* One month before another, as YYYYMM, and its start. */
static int month_of_day(int64_t days_ago, int64_t *start)
{
    time_t s = (time_t)(clock_wall_us() / 1000000 - days_ago * 86400);
    struct tm tm;
    gmtime_r(&s, &tm);
    tm = (struct tm){.tm_year = tm.tm_year, .tm_mon = tm.tm_mon, .tm_mday = 1};
    *start = timegm(&tm);
    return (tm.tm_year + 1900) * 100 + tm.tm_mon + 1;
}

/* The folder as the program of that version left it. */
static void make_old(const char *dir, int version)
{
    static const int days_ago[] = {40, 75, 500}; /* one is older than hours are kept */
    char path[128], sql[4000];
    struct err e = {0};
    sqlite3 *c;
    struct db *d;
    assert_ok(db_open(&d, &(struct db_options){.dir = dir, .sync_ms = 5}, &e), e); /* the folders and the pepper */
    db_close(d);
    snprintf(path, sizeof path, "%s/weft.db", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(sqlite3_open(path, &c), SQLITE_OK);
    exec(c, "PRAGMA journal_mode=WAL");
    for (int v = 1; v <= version; v++) {
        assert_ok(db_migrate(c, dir, db_migrations, v, &e), e);
        exec(c, control[v]);
    }
    for (size_t i = 0; i < sizeof days_ago / sizeof *days_ago; i++) {
        int64_t start;
        int month = month_of_day(days_ago[i], &start);
        snprintf(sql, sizeof sql, old_month, month);
        exec(c, sql);
        snprintf(sql, sizeof sql, old_rows, month, (long long)start, ROWS);
        exec(c, sql);
        snprintf(sql, sizeof sql, old_rollups, month);
        exec(c, sql);
    }
    sqlite3_close(c);
}

static void is_upgraded(struct ledger_room *x, int version)
{
    struct err e = {0};
    char path[160];
    int64_t rows, bad;
    int closed;
    assert_int_equal(room_number(&x->r, "PRAGMA user_version"), db_nmigrations);
    assert_ok(ledger_recover(x->l, NULL, NULL, &closed, &e), e);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM admission"), 0);
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    assert_int_equal(rows, 3 * ROWS + 1);
    assert_int_equal(bad, 0);
    free(ledger_room_rows(x));
    assert_int_equal(x->nrows, 3 * ROWS + 1);
    assert_int_equal(room_number(&x->r, "SELECT sum(output) FROM rollup_hour WHERE tenant = ''"),
                     room_number(&x->r, "SELECT sum(output) FROM rollup_hour WHERE tenant <> ''"));
    assert_true(room_number(&x->r, "SELECT count(*) FROM usage_bad") > 0);
    assert_true(room_number(&x->r, "SELECT sum(errors) FROM rollup_adapter") > 0);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM tenant t JOIN api_key k ON k.tenant = t.id JOIN adapter a ON a.tenant = t.id"
                                        " JOIN version v ON v.adapter = a.row WHERE t.name = 'acme' AND v.digest = 'd'"), 1);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM version WHERE kind = 'dora'"), version >= 2);
    assert_int_equal(room_number(&x->r, "SELECT (SELECT count(*) FROM price) + (SELECT count(*) FROM alias) + (SELECT count(*) FROM event)"), version >= 3 ? 3 : 0);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM archive WHERE lost = 9"), version >= 4 ? 2 : 0);
    assert_int_equal(room_number(&x->r, "SELECT coalesce(sum(carried_tokens), 0) FROM budget_use"), version >= 4 ? 140 : 0);
    assert_int_equal(room_number(&x->r, "SELECT coalesce(sum(output), 0) FROM price_removed"), (version >= 3 ? 77 : 0) + (version >= 4 ? 6 : 0));
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM version WHERE state = 'quarantined'"), version >= 6);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM quarantine"), 0);
    snprintf(path, sizeof path, "%s/archive/weft-before-v%d.db", x->r.dir, version + 1);
    assert_int_equal(access(path, F_OK), 0);
}

/* Settles as ever, and everything still balances. */
static void goes_on(struct ledger_room *x)
{
    struct err e = {0};
    int64_t rows, bad;
    ledger_room_fill(x, 50, clock_wall_us() / 1000000, 10);
    ledger_room_stop(x);
    ledger_room_start(x);
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    assert_int_equal(rows, 3 * ROWS + 1 + 50);
    assert_int_equal(bad, 0);
}

static void every_older_version_is_upgraded_and_balances(void **state)
{
    (void)state;
    for (int v = OLDEST; v < BEFORE; v++) {
        struct ledger_room x = {0};
        room_new(&x.r);
        make_old(x.r.dir, v);
        ledger_room_start(&x);
        is_upgraded(&x, v);
        goes_on(&x);
        ledger_room_stop(&x);
        room_remove(x.r.dir);
    }
    assert_true(db_nmigrations >= BEFORE); /* a later version: its own rows above */
}

static void a_killed_upgrade_goes_on_at_the_next_start(void **state)
{
    (void)state;
    int64_t whole_us = 0;
    for (int i = 0; i < KILLS; i++) {
        struct ledger_room x = {0};
        room_new(&x.r);
        make_old(x.r.dir, 3);
        int64_t began = clock_mono_us();
        pid_t pid = fork();
        if (pid == 0) {
            ledger_room_start(&x);
            _exit(0);
        }
        if (i) usleep((useconds_t)(whole_us * i / KILLS));
        if (i) kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        if (!i) whole_us = clock_mono_us() - began;
        ledger_room_start(&x);
        is_upgraded(&x, 3);
        ledger_room_stop(&x);
        room_remove(x.r.dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_older_version_is_upgraded_and_balances),
        cmocka_unit_test(a_killed_upgrade_goes_on_at_the_next_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
