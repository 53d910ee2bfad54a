/* Tests of who waits for which pull and for how long (engine/pull.c): the puller's end of the socket pair is the test's, and the set of adapters is a stand-in. */
#include "base/clock.h"
#include "engine/pull_impl.h"
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOB 20 /* bytes of each adapter that lies in the store */
#define HEAR_MS 5000

/* --- the stand-ins --- */

static struct {
    int theirs, ours;    /* the pair: the test's end, the engine's */
    bool small;          /* it holds a few messages alone */
    char held[8];        /* first letters of what is in use */
    char known[64];      /* of what the set knows, in the order of its loads */
    void (*on_load)(void); /* called while an adapter is on its way into the set */
} world;

int pull_helper_start(const struct pull_options *o, int *fd, pid_t *pid, struct err *e)
{
    int pair[2], least = 1;
    (void)o;
    (void)e;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    if (world.small) setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
    *fd = world.ours = pair[0];
    world.theirs = pair[1];
    *pid = 1;
    return 0;
}

void lora_load(struct lora_set *s, const char *digest, const char *path, void (*done)(void *u, const struct err *e), void *u)
{
    (void)s;
    (void)path;
    if (world.on_load) world.on_load();
    strncat(world.known, digest, 1);
    done(u, NULL);
}

void lora_unload(struct lora_set *s, const char *digest, void (*done)(void *u, const struct err *e), void *u)
{
    struct err e = {0};
    char *at = strchr(world.known, digest[0]);
    (void)s;
    if (at)
        memmove(at, at + 1, strlen(at));
    else
        err_set(&e, ERR_ADAPTER_NOT_LOADED, "no adapter %.80s is loaded", digest);
    done(u, at ? NULL : &e);
}

bool lora_may_go(struct lora_set *s, const char *digest)
{
    (void)s;
    return !strchr(world.held, digest[0]);
}

bool lora_let_go(struct lora_set *s, const char *digest)
{
    return lora_may_go(s, digest);
}

int64_t lora_used_us(struct lora_set *s, const char *digest)
{
    (void)s;
    (void)digest;
    return 0;
}

/* --- a store, and who asks --- */

static char store[64];

static const char *name(char letter)
{
    static char text[4][SHA256_HEX];
    static int turn;
    char *t = text[turn++ % 4];
    memset(t, letter, SHA256_HEX - 1);
    return t;
}

static void put_file(const char *dir, const char *file, int bytes)
{
    char path[STORE_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "w");
    for (int i = 0; f && i < bytes; i++) fputc('x', f);
    assert_true(f && fclose(f) == 0);
}

static void make_store(const char *letters)
{
    char dir[STORE_PATH_MAX], parent[sizeof store + 4];
    snprintf(store, sizeof store, "/tmp/weft-jobs-XXXXXX");
    assert_non_null(mkdtemp(store));
    for (int i = 0; letters[i]; i++) {
        snprintf(parent, sizeof parent, "%s/%c%c", store, letters[i], letters[i]);
        assert_int_equal(mkdir(parent, 0700), 0);
        assert_int_equal(store_path(store, name(letters[i]), dir, NULL), 0);
        assert_int_equal(mkdir(dir, 0700), 0);
        put_file(dir, "adapter_config.json", BLOB / 2);
        put_file(dir, "adapter_model.safetensors", BLOB / 2);
    }
}

/* An engine whose store holds these adapters and has room for so many bytes. */
static struct pull *begin(const char *letters, int64_t max_bytes, int total_s)
{
    struct pull *p = NULL;
    struct err e = {0};
    static const struct base_desc base;
    bool small = world.small;
    memset(&world, 0, sizeof world);
    world.small = small;
    make_store(letters);
    const struct pull_options o = {.url = "http://127.0.0.1:1", .token_file = "", .ca_file = "", .store = store, .confine = "off", .max_bytes = max_bytes, .total_s = total_s, .stall_s = 1};
    assert_int_equal(pull_start(&p, &o, &e), 0);
    assert_int_equal(pull_serve(p, NULL, &base, NULL, &e), 0);
    return p;
}

static void end(struct pull *p)
{
    pull_stop(p);
    pull_free(p);
    close(world.theirs);
    world.small = false;
    store_discard(store);
    assert_int_not_equal(access(store, F_OK), 0);
}

/* What one who asked has heard. */
struct answer {
    pthread_mutex_t lock;
    int heard;
    struct err e;
};
#define ANSWER {.lock = PTHREAD_MUTEX_INITIALIZER}

static void heard(void *u, const struct err *e)
{
    struct answer *a = u;
    pthread_mutex_lock(&a->lock);
    a->heard++;
    if (e) a->e = *e;
    pthread_mutex_unlock(&a->lock);
}

static int times(struct answer *a)
{
    pthread_mutex_lock(&a->lock);
    int n = a->heard;
    pthread_mutex_unlock(&a->lock);
    return n;
}

/* The outcome, once it has come. */
static enum err_code outcome(struct answer *a, int within_ms)
{
    for (int64_t until = clock_mono_us() + within_ms * 1000ll; !times(a);) {
        if (clock_mono_us() > until) fail_msg("no answer within %d ms", within_ms);
        poll(NULL, 0, 2);
    }
    assert_int_equal(times(a), 1);
    return a->e.code;
}

/* The next message to the puller, as "G" and its digest's first letter, or "", where none comes in time. */
static const char *said_within(struct pull_ask *a, int ms)
{
    static char text[3];
    struct pollfd at = {.fd = world.theirs, .events = POLLIN};
    if (poll(&at, 1, ms) != 1 || recv(world.theirs, a, sizeof *a, 0) != (ssize_t)sizeof *a) return "";
    snprintf(text, sizeof text, "%c%c", "GONDX"[a->op <= PULL_DROP ? a->op == PULL_GET ? 0 : a->op == PULL_GO ? 1 : a->op == PULL_NO ? 2 : 3 : 4], a->digest[0]);
    return text;
}

#define SAID(a, text) assert_string_equal(said_within(a, HEAR_MS), text)
#define SILENT(a) assert_string_equal(said_within(a, 50), "")

static void tell(const struct pull_ask *a, enum pull_event what, int64_t bytes, enum err_code code)
{
    struct pull_tell t = {.what = what, .id = a->id, .bytes = bytes, .code = code};
    snprintf(t.why, sizeof t.why, "%s", code ? "as the test says" : "");
    assert_int_equal(send(world.theirs, &t, sizeof t, MSG_NOSIGNAL), (int)sizeof t);
}

static struct pull_state state_of(struct pull *p)
{
    struct pull_state s;
    pull_get_state(p, &s);
    return s;
}

/* --- the tests --- */

static void one_pull_serves_all_who_ask(void **state)
{
    (void)state;
    struct pull *p = begin("", 100, 60);
    struct answer one = ANSWER, two = ANSWER;
    struct pull_ask a;
    pull_load(p, name('a'), heard, &one);
    pull_load(p, name('a'), heard, &two);
    SAID(&a, "Ga");
    tell(&a, PULL_NEED, 30, ERR_NONE);
    SAID(&a, "Oa");
    tell(&a, PULL_DONE, 30, ERR_NONE);
    assert_int_equal(outcome(&one, HEAR_MS), ERR_NONE);
    assert_int_equal(outcome(&two, HEAR_MS), ERR_NONE);
    assert_string_equal(world.known, "aa");
    assert_int_equal(state_of(p).bytes, 30);
    SILENT(&a);
    end(p);
}

/* Its end of the pair is full after a few messages: whoever asks something of the engine meanwhile does not wait for it. */
static void a_puller_that_takes_no_message_holds_up_nobody(void **state)
{
    (void)state;
    world.small = true;
    struct pull *p = begin("bcdef012", 8 * BLOB, 60);
    struct answer one = ANSWER;
    struct pull_ask a;
    pull_load(p, name('a'), heard, &one);
    SAID(&a, "Ga");
    alarm(10); /* a lock that is held for ever ends the test */
    tell(&a, PULL_NEED, 8 * BLOB, ERR_NONE);
    for (int64_t until = clock_mono_us() + HEAR_MS * 1000ll; state_of(p).blobs && clock_mono_us() < until;) poll(NULL, 0, 2);
    poll(NULL, 0, 50); /* by now a sender that waits does so */
    assert_int_equal(state_of(p).blobs, 0);
    for (int i = 0; i < 8; i++) assert_string_equal((char[2]){said_within(&a, HEAR_MS)[0]}, "D");
    SAID(&a, "Oa"); /* after all that had to go */
    alarm(0);
    end(p);
}

/* As much goes as the adapter needs, as far as it is not in use; and one that asks twice gets nothing twice. */
static void a_full_disk_is_told_and_what_is_not_in_use_goes(void **state)
{
    (void)state;
    static const struct {
        const char *held, *dropped, *word;
    } rows[] = {{"bcd", "", "Na"}, {"b", "D", "Oa"}, {"", "DD", "Oa"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pull *p = begin(i == 1 ? "bc" : "bcd", 1000, 60);
        struct answer load = ANSWER;
        struct pull_ask a, b;
        snprintf(world.held, sizeof world.held, "%s", rows[i].held);
        int64_t had = state_of(p).bytes;
        pull_load(p, name('a'), heard, &load);
        SAID(&a, "Ga");
        tell(&a, PULL_FULL, 30, ERR_NONE); /* before it asked for room at all */
        SAID(&b, "Na");
        tell(&a, PULL_NEED, 30, ERR_NONE);
        SAID(&b, "Oa");
        tell(&a, PULL_NEED, 30, ERR_NONE);
        SAID(&b, "Na");
        assert_int_equal(state_of(p).bytes, had + 30);
        tell(&a, PULL_FULL, 30, ERR_NONE);
        for (const char *d = rows[i].dropped; *d; d++) assert_int_equal(said_within(&b, HEAR_MS)[0], *d);
        SAID(&b, rows[i].word);
        tell(&a, PULL_DONE, 30, ERR_IO);
        assert_int_equal(outcome(&load, HEAR_MS), ERR_FETCH);
        assert_int_equal(state_of(p).bytes, had - (int64_t)strlen(rows[i].dropped) * BLOB);
        end(p);
    }
}

/* Four go at a time, and these never end: the fifth, and all who wait for the four, hear of it. */
static void no_load_waits_for_ever(void **state)
{
    (void)state;
    struct pull *p = begin("", 1000, 1 - PULL_GRACE_S); /* a second in all */
    struct answer a[6] = {ANSWER, ANSWER, ANSWER, ANSWER, ANSWER, ANSWER};
    struct pull_ask ask[5];
    for (int i = 0; i < 5; i++) pull_load(p, name("abcde"[i]), heard, &a[i]);
    pull_load(p, name('a'), heard, &a[5]);
    for (int i = 0; i < PULL_JOBS; i++) assert_int_equal(said_within(&ask[i], HEAR_MS)[0], 'G');
    SILENT(&ask[4]);
    for (int i = 0; i < 6; i++) assert_int_equal(outcome(&a[i], HEAR_MS), ERR_FETCH);
    assert_non_null(strstr(a[0].e.msg, "not fetched within 1 s"));
    assert_non_null(strstr(a[4].e.msg, "turn"));
    tell(&ask[0], PULL_NEED, 30, ERR_NONE); /* one comes late: it is in the store for who asks next, and another may go */
    SAID(&ask[4], "Oa");
    tell(&ask[0], PULL_DONE, 30, ERR_NONE);
    for (int64_t until = clock_mono_us() + HEAR_MS * 1000ll; !state_of(p).blobs && clock_mono_us() < until;) poll(NULL, 0, 2);
    assert_int_equal(state_of(p).blobs, 1);
    assert_int_equal(state_of(p).pulling, PULL_JOBS - 1);
    SILENT(&ask[4]); /* nobody waits for the fifth any more */
    assert_string_equal(world.known, "");
    end(p);
}

/* Whoever asked for it hears so, and what came all the same goes before the unload is answered. */
static void an_unload_ends_the_pull_of_its_adapter(void **state)
{
    (void)state;
    static const enum err_code codes[] = {ERR_UNAVAILABLE, ERR_NONE}; /* called off, or done just before */
    for (int i = 0; i < 2; i++) {
        struct pull *p = begin("", 1000, 60);
        struct answer load = ANSWER, unload = ANSWER, again = ANSWER;
        struct pull_ask a, b;
        pull_load(p, name('a'), heard, &load);
        SAID(&a, "Ga");
        tell(&a, PULL_NEED, 30, ERR_NONE);
        SAID(&a, "Oa");
        pull_unload(p, name('a'), heard, &unload);
        assert_int_equal(outcome(&load, HEAR_MS), ERR_ADAPTER_NOT_LOADED);
        SAID(&b, "Na");
        pull_load(p, name('a'), heard, &again); /* asked for after the unload: another pull, once that one has ended */
        SILENT(&b);
        assert_int_equal(times(&unload), 0);
        tell(&a, PULL_DONE, 30, codes[i]);
        assert_int_equal(outcome(&unload, HEAR_MS), ERR_NONE);
        if (!codes[i]) SAID(&b, "Da");
        SAID(&b, "Ga");
        assert_true(b.id != a.id);
        assert_int_equal(state_of(p).bytes, 0);
        assert_string_equal(world.known, "");
        tell(&b, PULL_NEED, 30, ERR_NONE);
        SAID(&a, "Oa");
        tell(&b, PULL_DONE, 30, ERR_NONE);
        assert_int_equal(outcome(&again, HEAR_MS), ERR_NONE);
        assert_string_equal(world.known, "a");
        end(p);
    }
}

static void an_unload_takes_back_a_load_that_waits_for_its_turn(void **state)
{
    (void)state;
    struct pull *p = begin("", 1000, 60);
    struct answer a[5] = {ANSWER, ANSWER, ANSWER, ANSWER, ANSWER}, unload = ANSWER;
    struct pull_ask ask;
    for (int i = 0; i < 5; i++) pull_load(p, name("abcde"[i]), heard, &a[i]);
    for (int i = 0; i < PULL_JOBS; i++) assert_int_equal(said_within(&ask, HEAR_MS)[0], 'G');
    pull_unload(p, name('e'), heard, &unload);
    assert_int_equal(outcome(&a[4], HEAR_MS), ERR_ADAPTER_NOT_LOADED);
    assert_int_equal(outcome(&unload, HEAR_MS), ERR_NONE);
    tell(&ask, PULL_DONE, 0, ERR_NOT_FOUND);
    assert_int_equal(outcome(&a[3], HEAR_MS), ERR_NOT_FOUND);
    SILENT(&ask);
    end(p);
}

static struct pull *unloaded_from;
static struct answer unload_between = ANSWER;

static void unload_now(void)
{
    world.on_load = NULL;
    pull_unload(unloaded_from, name('a'), heard, &unload_between);
}

/* It is fetched, or lay in the store, and the set has not heard of it yet. */
static void an_unload_of_what_is_being_opened_comes_true_after_the_load(void **state)
{
    (void)state;
    for (int there = 0; there < 2; there++) {
        struct pull *p = begin(there ? "a" : "", 1000, 60);
        struct answer load = ANSWER;
        struct pull_ask a;
        unloaded_from = p;
        unload_between = (struct answer)ANSWER;
        world.on_load = unload_now;
        pull_load(p, name('a'), heard, &load);
        if (!there) {
            SAID(&a, "Ga");
            tell(&a, PULL_NEED, 30, ERR_NONE);
            SAID(&a, "Oa");
            tell(&a, PULL_DONE, 30, ERR_NONE);
        }
        assert_int_equal(outcome(&load, HEAR_MS), ERR_NONE);
        assert_int_equal(outcome(&unload_between, HEAR_MS), ERR_NONE);
        assert_string_equal(world.known, "");
        SAID(&a, "Da");
        assert_int_equal(state_of(p).bytes, 0);
        end(p);
    }
}

/* A puller that hangs does not keep it either. */
static void no_unload_waits_for_ever(void **state)
{
    (void)state;
    struct pull *p = begin("", 1000, 1 - PULL_GRACE_S);
    struct answer load = ANSWER, unload = ANSWER;
    struct pull_ask a;
    pull_load(p, name('a'), heard, &load);
    SAID(&a, "Ga");
    pull_unload(p, name('a'), heard, &unload);
    assert_int_equal(outcome(&unload, HEAR_MS), ERR_FETCH);
    tell(&a, PULL_DONE, 30, ERR_NONE);
    SAID(&a, "Na");
    SAID(&a, "Da");
    end(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pull_serves_all_who_ask),
        cmocka_unit_test(a_puller_that_takes_no_message_holds_up_nobody),
        cmocka_unit_test(a_full_disk_is_told_and_what_is_not_in_use_goes),
        cmocka_unit_test(no_load_waits_for_ever),
        cmocka_unit_test(an_unload_ends_the_pull_of_its_adapter),
        cmocka_unit_test(an_unload_takes_back_a_load_that_waits_for_its_turn),
        cmocka_unit_test(an_unload_of_what_is_being_opened_comes_true_after_the_load),
        cmocka_unit_test(no_unload_waits_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
