/* Tests of gateway/ledger under load: rollups made anew meanwhile; and killed at any moment, no admitted request is lost, none counts twice, and the rollups equal the rows. Invariants I1 and I9. */
#include "tests/unit/led_room.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#define KILLS 60 /* or the environment's WEFT_KILLS */

static int kills(void)
{
    const char *s = getenv("WEFT_KILLS");
    long n = s ? strtol(s, NULL, 10) : KILLS;
    return n > 0 && n <= 10000 ? (int)n : KILLS;
}

struct word { /* what the child says over the pipe */
    char id[UUID_LEN];
    char what; /* 'a' admitted, 's' settled */
};

static int pipe_fd;

struct flight {
    struct admission a;
    int n;
    struct ledger *l;
    _Atomic int *busy;
};

static void say(const char *id, char what)
{
    struct word w = {.what = what};
    memcpy(w.id, id, sizeof w.id);
    if (write(pipe_fd, &w, sizeof w) != (ssize_t)sizeof w) _exit(3);
}

static void child_settled(void *u)
{
    struct flight *f = u;
    say(f->a.id, 's');
    --*f->busy;
    free(f);
}

static void child_admitted(void *u, const struct err *e)
{
    struct flight *f = u;
    if (e) _exit(4);
    say(f->a.id, 'a');
    if (f->n % 3 == 0) ledger_progress(f->l, f->a.id, 5, 0, 3);
    struct settlement s = settlement(f->n, &f->a);
    if (f->n % 50 == 49) return; /* a stream that is still open when the kill comes */
    ledger_settle(f->l, &f->a, &s, child_settled, f);
}

static void child_main(const char *dir, int fd)
{
    struct err e = {0};
    struct db *d;
    struct ledger *l;
    _Atomic int busy = 0;
    pipe_fd = fd;
    if (db_open(&d, &(struct db_options){.dir = dir, .sync_ms = 2}, &e) || ledger_open(&l, d, &e)) _exit(5);
    int closed;
    if (ledger_recover(l, NULL, NULL, &closed, &e)) _exit(6);
    for (int n = 0; n < 1000000; n++) {
        while (busy > 100) usleep(100);
        struct flight *f = calloc(1, sizeof *f);
        f->a = admission(n, clock_wall_us());
        f->n = n;
        f->l = l;
        f->busy = &busy;
        busy++;
        if (ledger_admit(l, &f->a, child_admitted, f, &e)) _exit(7);
    }
    _exit(8);
}

/* Reads what the child said until it is dead; adds to the lists. */
static void hear(int fd, char (**said)[UUID_LEN], int *n, int *settled_n)
{
    struct word w;
    ssize_t got;
    while ((got = read(fd, &w, sizeof w)) == (ssize_t)sizeof w) {
        if (w.what == 's') {
            ++*settled_n;
            continue;
        }
        if (*n % 4096 == 0) *said = realloc(*said, (size_t)(*n + 4096) * UUID_LEN);
        memcpy((*said)[(*n)++], w.id, UUID_LEN);
    }
}

struct lookup {
    char (*said)[UUID_LEN];
    int n, missing;
};

static int read_lookup(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    struct lookup *k = u;
    sqlite3_stmt *st = NULL;
    (void)d;
    if (sqlite3_prepare_v2(c, in_month("SELECT 1 FROM usage_%06d WHERE id = ?1", clock_wall_us()), -1, &st, NULL) !=
        SQLITE_OK)
        return db_error(c, "lookup", e);
    for (int i = 0; i < k->n; i++) {
        sqlite3_bind_text(st, 1, k->said[i], -1, SQLITE_STATIC);
        k->missing += sqlite3_step(st) != SQLITE_ROW;
        sqlite3_reset(st);
    }
    sqlite3_finalize(st);
    return 0;
}

static void killed_at_any_moment_no_row_is_lost_or_doubled(void **state)
{
    struct led_room *x = *state;
    struct lookup k = {0};
    int settled_n = 0;
    led_stop(x);
    srandom(7);
    for (int round = 0; round < kills(); round++) {
        int p[2];
        assert_int_equal(pipe(p), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(p[0]);
            child_main(x->r.dir, p[1]);
        }
        close(p[1]);
        struct pollfd ready = {.fd = p[0], .events = POLLIN};
        assert_int_equal(poll(&ready, 1, 20000), 1); /* at work */
        usleep((useconds_t)(random() % 30000));
        kill(pid, SIGKILL);
        hear(p[0], &k.said, &k.n, &settled_n);
        close(p[0]);
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status));
    }
    led_start(x);
    struct err e = {0};
    int closed;
    int64_t rows, bad;
    assert_ok(ledger_recover(x->l, NULL, NULL, &closed, &e), e);
    assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
    assert_ok(db_read(x->r.db, read_lookup, &k, 60000, &e), e);
    print_message("%d kills: %d admitted, %d settled by word, %lld rows, %d closed at the last start, %d missing, %lld "
                  "rollups wrong\n",
                  kills(), k.n, settled_n, (long long)rows, closed, k.missing, (long long)bad);
    assert_int_equal(k.missing, 0);
    assert_int_equal(bad, 0);
    assert_true(rows >= k.n &&
                rows <=
                    k.n + kills() * 200); /* beyond the word: admissions committed but not said yet; ids are the key */
    /* What was said to be settled has its own state; only what was not may be a crash. */
    assert_true(room_number(&x->r, in_month("SELECT count(*) FROM usage_%06d WHERE state < 5", clock_wall_us())) >=
                settled_n);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM admission"), 0);
    assert_int_equal(room_number(&x->r, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"),
                     0);
    free(k.said);
}

struct load {
    struct ledger *l;
    _Atomic bool stop;
    _Atomic int told, begun;
};

static void load_told(void *u)
{
    ((struct load *)u)->told++;
}

static void *load_main(void *u)
{
    struct load *w = u;
    for (int n = 0; !w->stop; n++) {
        usleep(300); /* so that a rebuild stays short */
        struct admission a = admission(n, clock_wall_us());
        struct settlement s = settlement(n, &a);
        w->begun++;
        ledger_settle(w->l, &a, &s, load_told, w);
    }
    return NULL;
}

/* Rows that are settled before, after and in the same group as a month's rebuild are counted once. */
static void rollups_are_made_anew_while_requests_are_settled(void **state)
{
    struct led_room *x = *state;
    struct load w = {.l = x->l};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, load_main, &w), 0);
    for (int i = 0; i < 8; i++) {
        struct err e = {0};
        int64_t rows, bad;
        usleep(20000);
        assert_ok(ledger_rebuild(x->l, &rows, &e), e);
        assert_ok(ledger_verify(x->l, &rows, &bad, &e), e);
        assert_int_equal(bad, 0);
    }
    w.stop = true;
    pthread_join(t, NULL);
    for (int i = 0; i < 20000 && w.told < w.begun; i++) usleep(200);
    assert_true(w.told > 100);
    balances(x, w.told);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rollups_are_made_anew_while_requests_are_settled, setup, teardown),
        cmocka_unit_test_setup_teardown(killed_at_any_moment_no_row_is_lost_or_doubled, setup, teardown),
    };
    return cmocka_run_group_tests_name("ledger_kill", tests, NULL, NULL);
}
