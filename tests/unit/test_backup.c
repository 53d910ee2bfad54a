/* Tests of gateway/backup: what is restored is one state of the source, whole, whatever happened while it was copied; and what was changed is found. */
#include "gateway/backup/backup_impl.h"
#include "gateway/ledger/ledger_archive.h"
#include "tests/unit/ledger_room.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define AUGUST 1785542400ll /* 2026-08-01T00:00:00Z */
#define NOVEMBER 1793491200ll
#define FLIPS 100
#define ID "20261122T100000.000Z"
#define ID2 "20261122T100001.000Z"
enum { N = 300, ADAPTERS = 4 };

struct world {
    struct ledger_room x;
    char dir[80], to[96];
};

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void blob_path(struct world *w, const char *root, int n, int file, char out[400])
{
    char rel[SUMS_PATH_MAX];
    blob_file(digest(n), file, rel);
    snprintf(out, 400, "%s/%s", root ? root : w->x.r.dir, rel);
}

static void add_blob(struct world *w, int n)
{
    char path[400], sql[600];
    struct err e = {0};
    for (int file = 0; file < BLOB_FILES; file++) {
        blob_path(w, NULL, n, file, path);
        assert_ok(files_folders(path, strlen(w->x.r.dir), &e), e);
        write_file(path, digest(n + file));
    }
    snprintf(sql, sizeof sql, "INSERT INTO version(adapter, version, state, digest, file_sha256, base, rank, modules, scale, bytes, created)"
             " VALUES(1, %d, 'ready', '%s', '', 'smol', 8, 5, 2, 100, 1)", n + 1, digest(n));
    ledger_room_sql(&w->x, sql);
}

static void remove_blob(struct world *w, int n)
{
    char path[400], sql[200];
    snprintf(sql, sizeof sql, "DELETE FROM version WHERE version = %d", n + 1);
    ledger_room_sql(&w->x, sql);
    for (int file = 0; file < BLOB_FILES; file++) {
        blob_path(w, NULL, n, file, path);
        unlink(path);
    }
}

/* A month in a file, one in a table, adapters. */
static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct err e = {0};
    struct archive_pass pass;
    room_new(&w->x.r);
    ledger_room_start(&w->x);
    snprintf(w->dir, sizeof w->dir, "%s-backup", w->x.r.dir);
    snprintf(w->to, sizeof w->to, "%s-restored", w->x.r.dir);
    ledger_room_fill(&w->x, N, AUGUST, 60000000);
    assert_ok(ledger_archive(w->x.l, &(struct archive_options){.months = 2, .now_us = NOVEMBER * 1000000}, &pass, &e), e);
    assert_int_equal(pass.archived, 1);
    ledger_room_fill(&w->x, N, NOVEMBER, 60000000);
    ledger_room_sql(&w->x, "INSERT INTO tenant VALUES('t', 'acme', 1, 0, 1, 0, 'normal', NULL, 1);"
                           "INSERT INTO adapter(tenant, name, created) VALUES('t', 'sql', 1)");
    for (int i = 0; i < ADAPTERS; i++) add_blob(w, i);
    assert_ok(backup_open(w->dir, &e), e);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    ledger_close(w->x.l);
    room_end(&w->x.r);
    room_remove(w->dir);
    room_remove(w->to);
    free(w);
    return 0;
}

static json_t *make(struct world *w, const char *id)
{
    struct err e = {0};
    json_t *o = NULL;
    assert_ok(backup_make(w->x.r.db, w->dir, id, NULL, &o, &e), e);
    return o;
}

static int64_t number(const json_t *o, const char *name) { return json_integer_value(json_object_get(o, name)); }

static void good(struct world *w, const char *id, struct backup_check *x)
{
    struct err e = {0};
    assert_ok(backup_verify(w->dir, id, NULL, x, &e), e);
    if (!x->good) fail_msg("%s", x->why);
}

static void restored(struct world *w, const char *id, const char *sha256, struct backup_check *x)
{
    struct err e = {0};
    char from[200];
    snprintf(from, sizeof from, "%s/%s", w->dir, id);
    assert_ok(backup_restore(from, w->to, sha256, x, &e), e);
    if (!x->good) fail_msg("%s", x->why);
}

/* The restored folder, opened as a gateway would; the caller stops it. */
static void open_restored(struct world *w, struct ledger_room *y)
{
    struct err e = {0};
    int64_t rows, bad;
    *y = (struct ledger_room){0};
    assert_true(strlen(w->to) < sizeof y->r.dir);
    memcpy(y->r.dir, w->to, strlen(w->to) + 1);
    ledger_room_start(y);
    assert_ok(ledger_verify(y->l, &rows, &bad, &e), e);
    assert_int_equal(bad, 0);
}

static void what_is_restored_is_what_was(void **state)
{
    struct world *w = *state;
    struct ledger_room y;
    struct backup_check x;
    char path[400];
    char *before = ledger_room_rows(&w->x);
    json_t *o = make(w, ID);
    assert_int_equal(number(o, "files"), 3 + 2 * ADAPTERS);
    assert_int_equal(number(o, "adapters"), ADAPTERS);
    assert_int_equal(number(o, "archived_months"), 1);
    good(w, ID, &x);
    assert_int_equal(x.files, 3 + 2 * ADAPTERS);
    assert_int_equal(x.requests, 2 * N);
    restored(w, ID, json_string_value(json_object_get(o, "sha256")), &x);
    open_restored(w, &y);
    char *after = ledger_room_rows(&y);
    assert_string_equal(after, before);
    assert_int_equal(y.nrows, 2 * N);
    assert_memory_equal(db_pepper(y.r.db), db_pepper(w->x.r.db), 32);
    for (int i = 0; i < ADAPTERS; i++) {
        blob_path(w, w->to, i, 0, path);
        assert_int_equal(access(path, R_OK), 0);
    }
    ledger_room_stop(&y);
    free(before);
    free(after);
    json_decref(o);
}

struct traffic {
    struct ledger_room *x;
    _Atomic bool stop;
    _Atomic int n;
};

static void *settle_on(void *u)
{
    struct traffic *t = u;
    for (; !t->stop; t->n++) {
        ledger_room_add(t->x, 10000 + t->n, (NOVEMBER + 86400) * 1000000 + t->n);
        if (t->n % 8 == 0) ledger_room_wait(t->x);
    }
    ledger_room_wait(t->x);
    return NULL;
}

static void under_load_it_is_one_state_with_all_that_was_settled_before(void **state)
{
    struct world *w = *state;
    struct traffic t = {.x = &w->x};
    struct ledger_room y;
    struct backup_check x;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, settle_on, &t), 0);
    while (t.n < 500) usleep(1000);
    for (int i = 0; i < 3; i++) {
        int settled = w->x.settled;
        char id[BACKUP_ID_LEN];
        snprintf(id, sizeof id, "20261122T10010%u.000Z", (unsigned)i % 10);
        json_decref(make(w, id));
        int later = w->x.given;
        restored(w, id, NULL, &x);
        open_restored(w, &y);
        char *rows = ledger_room_rows(&y);
        assert_true(y.nrows >= settled);
        assert_true(y.nrows <= later);
        print_message("%d settled before, %d in the backup, %d by its end\n", settled, y.nrows, later);
        /* In the order of their settlement, so what is there is a beginning of it. */
        assert_int_equal(room_number(&y.r, "SELECT count(*) FROM usage_202611 WHERE t_start >= 1793577600000000"),
                         room_number(&y.r, "SELECT coalesce(max(t_start) - 1793577600000000 + 1, 0) FROM usage_202611 WHERE t_start >= 1793577600000000"));
        free(rows);
        ledger_room_stop(&y);
        room_remove(w->to);
    }
    t.stop = true;
    pthread_join(thread, NULL);
}

static void what_the_backup_before_has_is_linked_to_it(void **state)
{
    struct world *w = *state;
    struct backup_check x;
    char a[400], b[400], root[200];
    struct stat s, t;
    json_decref(make(w, ID));
    add_blob(w, ADAPTERS);
    json_t *o = make(w, ID2);
    snprintf(root, sizeof root, "%s/" ID, w->dir);
    blob_path(w, root, 1, 1, a);
    snprintf(root, sizeof root, "%s/" ID2, w->dir);
    blob_path(w, root, 1, 1, b);
    assert_int_equal(stat(a, &s), 0);
    assert_int_equal(stat(b, &t), 0);
    assert_int_equal(s.st_ino, t.st_ino);
    assert_true(number(o, "linked_bytes") > 0);
    struct err e = {0};
    assert_ok(backup_remove(w->dir, ID, &e), e);
    good(w, ID2, &x);
    json_decref(o);
}

/* --- adapters that come and go meanwhile --- */

struct moment {
    struct world *w;
    int asked, at;
    bool done;
};

static bool swap_adapters(void *u)
{
    struct moment *m = u;
    if (m->asked++ == m->at) {
        remove_blob(m->w, 2);
        add_blob(m->w, ADAPTERS);
        m->done = true;
    }
    return false;
}

static void adapters_that_come_and_go_at_any_moment_leave_it_whole(void **state)
{
    struct world *w = *state;
    struct backup_check x;
    int moments = 0;
    for (bool came = true; came; moments++) {
        struct moment m = {.w = w, .at = moments};
        struct err e = {0};
        json_t *o = NULL;
        assert_ok(backup_make(w->x.r.db, w->dir, ID, &(struct stopper){swap_adapters, &m}, &o, &e), e);
        came = m.done;
        good(w, ID, &x);
        assert_int_equal(number(o, "adapters"), ADAPTERS);
        assert_int_equal(number(o, "files"), 3 + 2 * ADAPTERS);
        json_decref(o);
        assert_ok(backup_remove(w->dir, ID, &e), e);
        if (came) {
            remove_blob(w, ADAPTERS);
            add_blob(w, 2);
        }
    }
    assert_true(moments > 10);
}

static bool stop_now(void *u)
{
    struct moment *m = u;
    return m->asked++ >= m->at;
}

static void a_stop_at_any_moment_leaves_nothing(void **state)
{
    struct world *w = *state;
    char path[200];
    int stops = 0;
    for (int rc = -1; rc; stops++) {
        struct moment m = {.w = w, .at = stops};
        struct err e = {0};
        json_t *o = NULL;
        rc = backup_make(w->x.r.db, w->dir, ID, &(struct stopper){stop_now, &m}, &o, &e);
        assert_true(!rc || e.code == ERR_UNAVAILABLE);
        snprintf(path, sizeof path, "%s/" ID ".part", w->dir);
        assert_int_not_equal(access(path, F_OK), 0);
        snprintf(path, sizeof path, "%s/" ID, w->dir);
        assert_int_equal(access(path, F_OK), rc);
        json_decref(o);
    }
    assert_true(stops > 10);
}

static void a_missing_blob_is_no_backup(void **state)
{
    struct world *w = *state;
    char path[400];
    struct err e = {0};
    json_t *o = NULL;
    blob_path(w, NULL, 1, 1, path);
    unlink(path);
    assert_int_equal(backup_make(w->x.r.db, w->dir, ID, NULL, &o, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
}

static void after_a_kill_what_is_there_is_complete(void **state)
{
    struct world *w = *state;
    struct backup_check x;
    int complete = 0;
    int64_t whole_us = 0; /* so that the kills fall into all of it */
    for (int i = 0; i < 20; i++) {
        struct err e = {0};
        ledger_room_stop(&w->x);
        int64_t began = clock_mono_us();
        pid_t pid = fork();
        if (pid == 0) {
            json_t *o;
            ledger_room_start(&w->x);
            backup_make(w->x.r.db, w->dir, ID, NULL, &o, NULL);
            _exit(0);
        }
        if (i) usleep((useconds_t)(whole_us * i / 20));
        if (i) kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        if (!i) whole_us = clock_mono_us() - began;
        ledger_room_start(&w->x);
        assert_ok(backup_open(w->dir, &e), e);
        json_t *list = json_array();
        assert_ok(backup_list(w->dir, list, &e), e);
        if (json_array_size(list)) good(w, ID, &x);
        complete += json_array_size(list) > 0;
        json_decref(list);
        backup_remove(w->dir, ID, NULL);
    }
    print_message("20 kills: %d after it was complete\n", complete);
}

/* --- what was changed --- */

static void any_byte_that_was_changed_is_found(void **state)
{
    struct world *w = *state;
    struct digests s = {0};
    struct backup_check x;
    struct err e = {0};
    char sha256[SHA256_HEX], folder[200], path[400];
    json_decref(make(w, ID));
    snprintf(folder, sizeof folder, "%s/" ID, w->dir);
    assert_ok(digests_read(&s, folder, sha256, &e), e);
    assert_ok(digests_add(&s, SUMS_FILE, sha256, 0, &e), e);
    srandom(7);
    for (int i = 0; i < FLIPS; i++) {
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", folder, s.v[(size_t)i % s.n].path);
        assert_int_equal(stat(path, &st), 0);
        off_t at = random() % st.st_size;
        int fd = open(path, O_RDWR);
        uint8_t was, now;
        assert_int_equal(pread(fd, &was, 1, at), 1);
        now = was ^ (uint8_t)(1 << random() % 8);
        assert_int_equal(pwrite(fd, &now, 1, at), 1);
        assert_ok(backup_verify(w->dir, ID, NULL, &x, &e), e);
        if (x.good) fail_msg("byte %ld of %s", (long)at, path);
        assert_int_equal(backup_restore(folder, w->to, NULL, &x, NULL), -1);
        assert_int_equal(pwrite(fd, &was, 1, at), 1);
        close(fd);
        room_remove(w->to);
    }
    digests_close(&s);
    good(w, ID, &x);
}

static void a_ledger_that_did_not_balance_is_told_of(void **state)
{
    struct world *w = *state;
    struct backup_check x;
    struct err e = {0};
    ledger_room_sql(&w->x, "UPDATE rollup_day SET output = output + 1 WHERE t = (SELECT max(t) FROM rollup_day)");
    json_decref(make(w, ID));
    assert_ok(backup_verify(w->dir, ID, NULL, &x, &e), e);
    assert_false(x.good);
    assert_true(x.bad_buckets > 0);
    json_t *o;
    assert_ok(backup_get(w->dir, ID, &o, &e), e);
    assert_true(json_is_false(json_object_get(json_object_get(o, "verification"), "good")));
    json_decref(o);
}

static void a_list_with_other_paths_is_refused(void **state)
{
    (void)state;
    static const char *const known[] = {"weft.db", "pepper", "archive/usage_202608.db"};
    static const char *const not[] = {"", "../weft.db", "/etc/passwd", "weft.db-wal", "archive/usage_2026080.db", "archive/../pepper", "archive/usage_202608.db/x",
                                      "blobs/a0/x", "blobs/../../../x", "lock", "weft.db/", "archive/usage_20260x.db", "./weft.db"};
    char blob[SUMS_PATH_MAX];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) assert_true(digests_path_is_known(known[i]));
    for (size_t i = 0; i < sizeof not / sizeof *not; i++) assert_false(digests_path_is_known(not[i]));
    blob_file(digest(1), 1, blob);
    assert_true(digests_path_is_known(blob));
    blob[6] = 'x';
    assert_false(digests_path_is_known(blob));
}

static void a_list_out_of_form_is_refused(void **state)
{
    struct world *w = *state;
    static const char hex[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    static const char *const forms[] = {"", "x\n", "%s pepper\n", "%s  pepper", "%s  weft.db\n%s  pepper\n", "%s  pepper\n%s  pepper\n", "%s  ../pepper\n", "A%s  pepper\n"};
    char path[200], text[400], sha256[SHA256_HEX];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct digests s = {0};
        struct err e = {0};
        snprintf(path, sizeof path, "%s/" SUMS_FILE, w->dir);
        snprintf(text, sizeof text, forms[i], hex, hex);
        write_file(path, text);
        assert_int_equal(digests_read(&s, w->dir, sha256, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        digests_close(&s);
    }
}

/* --- the target of a restore --- */

static void only_a_new_or_empty_folder_is_restored_into(void **state)
{
    struct world *w = *state;
    struct backup_check x;
    struct err e = {0}, e2 = {0}, e3 = {0};
    char from[200], path[200];
    json_decref(make(w, ID));
    snprintf(from, sizeof from, "%s/" ID, w->dir);
    assert_int_equal(mkdir(w->to, 0755), 0);
    snprintf(path, sizeof path, "%s/mine", w->to);
    write_file(path, "x");
    assert_int_equal(backup_restore(from, w->to, NULL, &x, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_int_equal(access(path, F_OK), 0);
    unlink(path);
    assert_int_equal(backup_restore(from, w->to, digest(1), &x, &e2), -1);
    assert_int_equal(e2.code, ERR_CONFLICT);
    restored(w, ID, NULL, &x);
    assert_int_equal(backup_restore(from, w->to, NULL, &x, &e3), -1);
    assert_int_equal(backup_restore(from, w->x.r.dir, NULL, &x, NULL), -1); /* the one that runs */
}

static void an_interrupted_restore_goes_on_and_no_gateway_starts_on_it(void **state)
{
    struct world *w = *state;
    struct ledger_room y;
    struct backup_check x;
    char from[200], path[200];
    json_decref(make(w, ID));
    snprintf(from, sizeof from, "%s/" ID, w->dir);
    snprintf(path, sizeof path, "%s/.restoring", w->to);
    int interrupted = 0;
    int64_t whole_us = 0;
    for (int i = 0; i < 15; i++) {
        int64_t began = clock_mono_us();
        pid_t pid = fork();
        if (pid == 0) {
            backup_restore(from, w->to, NULL, &x, NULL);
            _exit(0);
        }
        if (i) usleep((useconds_t)(whole_us * i / 15));
        if (i) kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        if (!i) whole_us = clock_mono_us() - began;
        if (access(path, F_OK) == 0) {
            struct db *d = NULL;
            struct err e = {0};
            interrupted++;
            assert_int_equal(db_open(&d, &(struct db_options){.dir = w->to, .sync_ms = 5}, &e), -1);
            assert_int_equal(e.code, ERR_CONFLICT);
            restored(w, ID, NULL, &x);
        } else if (access(w->to, F_OK) == 0 && rmdir(w->to) != 0) {
            struct err e = {0}; /* it was over, or had only just begun */
            if (backup_restore(from, w->to, NULL, &x, &e)) assert_int_equal(e.code, ERR_CONFLICT);
        } else {
            restored(w, ID, NULL, &x);
        }
        open_restored(w, &y);
        free(ledger_room_rows(&y));
        assert_int_equal(y.nrows, 2 * N);
        ledger_room_stop(&y);
        room_remove(w->to);
    }
    print_message("15 kills: %d while it was being filled\n", interrupted);
}

static void the_newest_are_kept_and_what_is_no_backup_is_left_alone(void **state)
{
    struct world *w = *state;
    struct err e = {0};
    char path[200], id[BACKUP_ID_LEN];
    for (int i = 0; i < 4; i++) {
        snprintf(id, sizeof id, "20261122T10000%u.000Z", (unsigned)i % 10);
        json_decref(make(w, id));
    }
    snprintf(path, sizeof path, "%s/mine", w->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/20261122T100009.000Z.part", w->dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_ok(backup_retain(w->dir, 0, &e), e);
    assert_ok(backup_retain(w->dir, 2, &e), e);
    assert_ok(backup_open(w->dir, &e), e);
    assert_int_not_equal(access(path, F_OK), 0);
    json_t *list = json_array();
    assert_ok(backup_list(w->dir, list, &e), e);
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), "20261122T100003.000Z");
    snprintf(path, sizeof path, "%s/mine", w->dir);
    assert_int_equal(access(path, F_OK), 0);
    json_decref(list);
}

static void ids_are_times(void **state)
{
    struct world *w = *state;
    static const char *const not[] = {"", "20261122T100000", "20261122T100000.000Zx", "20261122T100000Z", "20261122T100000.00Z", "20261122T100000_000Z", "../20261122T100000.000Z", "20261122T100000.000Z.part"};
    char id[BACKUP_ID_LEN];
    for (size_t i = 0; i < sizeof not / sizeof *not; i++) assert_false(backup_id_is(not[i]));
    backup_new_id(w->dir, 1795341600000000, id);
    assert_string_equal(id, "20261122T100000.000Z");
    json_decref(make(w, id));
    backup_new_id(w->dir, 1795341600000000, id);
    assert_string_equal(id, "20261122T100000.001Z");
    assert_true(backup_id_is(id));
    json_decref(make(w, id));
}

int main(void)
{
#define TEST(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_restored_is_what_was),
        TEST(under_load_it_is_one_state_with_all_that_was_settled_before),
        TEST(what_the_backup_before_has_is_linked_to_it),
        TEST(adapters_that_come_and_go_at_any_moment_leave_it_whole),
        TEST(a_stop_at_any_moment_leaves_nothing),
        TEST(a_missing_blob_is_no_backup),
        TEST(after_a_kill_what_is_there_is_complete),
        TEST(any_byte_that_was_changed_is_found),
        TEST(a_ledger_that_did_not_balance_is_told_of),
        TEST(a_list_with_other_paths_is_refused),
        TEST(a_list_out_of_form_is_refused),
        TEST(only_a_new_or_empty_folder_is_restored_into),
        TEST(an_interrupted_restore_goes_on_and_no_gateway_starts_on_it),
        TEST(the_newest_are_kept_and_what_is_no_backup_is_left_alone),
        TEST(ids_are_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
