/* Tests of what an engine that fetches adapters makes of what it is told, and of its store's bound; whole pulls are tests/e2e/gateway/test_blob_pull.py. */
#include "base/confine.h"
#include "base/json.h"
#include "engine/pull_impl.h"
#include <cmocka.h>
#include <errno.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DIGEST "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SUM "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define CONFIG(bytes) "{\"name\":\"adapter_config.json\",\"bytes\":" bytes ",\"sha256\":\"" SUM "\"}"
#define WEIGHTS(bytes) "{\"name\":\"adapter_model.safetensors\",\"bytes\":" bytes ",\"sha256\":\"" SUM "\"}"
#define LIST(files) "{\"digest\":\"" DIGEST "\",\"files\":[" files "]}"

static enum err_code parse(const char *text, struct pull_list *out)
{
    struct err e = {0};
    int rc = pull_list_parse(out, text, strlen(text), DIGEST, 1000000, &e);
    assert_int_equal(rc != 0, e.code != ERR_NONE);
    return e.code;
}

static void a_list_names_the_two_files_of_the_digest_that_was_asked_for(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum err_code code;
    } rows[] = {
        {LIST(CONFIG("10") "," WEIGHTS("999990")), ERR_NONE},
        {LIST(WEIGHTS("999990") "," CONFIG("10")), ERR_NONE},
        {LIST(CONFIG("11") "," WEIGHTS("999990")), ERR_TOO_LARGE},
        {LIST(CONFIG("1") "," WEIGHTS("9223372036854775807")), ERR_ENGINE},
        {LIST(CONFIG("262145") "," WEIGHTS("1")), ERR_ENGINE}, /* more than a config has */
        {LIST(CONFIG("0") "," WEIGHTS("5")), ERR_ENGINE},
        {LIST(CONFIG("-1") "," WEIGHTS("5")), ERR_ENGINE},
        {LIST(CONFIG("1.5") "," WEIGHTS("5")), ERR_ENGINE},
        {LIST(CONFIG("\"1\"") "," WEIGHTS("5")), ERR_ENGINE},
        {LIST(CONFIG("null") "," WEIGHTS("5")), ERR_ENGINE},
        {LIST(CONFIG("1") "," CONFIG("1")), ERR_ENGINE},
        {LIST(WEIGHTS("1")), ERR_ENGINE},
        {LIST(CONFIG("1") "," WEIGHTS("1") "," WEIGHTS("1")), ERR_ENGINE},
        {LIST("{\"name\":\"../x\",\"bytes\":1,\"sha256\":\"" SUM "\"}," WEIGHTS("1")), ERR_ENGINE},
        {LIST("{\"name\":\"adapter_config.json\",\"bytes\":1,\"sha256\":\"BB\"}," WEIGHTS("1")), ERR_ENGINE},
        {"{\"digest\":\"" SUM "\",\"files\":[" CONFIG("1") "," WEIGHTS("1") "]}", ERR_ENGINE},
        {"{\"digest\":\"" DIGEST "\"}", ERR_ENGINE},
        {"[]", ERR_ENGINE},
        {"<html>", ERR_ENGINE},
        {"", ERR_ENGINE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pull_list l = {0};
        if (parse(rows[i].text, &l) != rows[i].code) fail_msg("%s", rows[i].text);
        assert_int_equal(l.bytes, rows[i].code ? 0 : 1000000); /* untouched where it failed */
    }
}

/* --- the store's bound --- */

struct keep {
    char held[8]; /* first letters of what is in use */
    char dropped[64];
    int64_t used[26];
};

static bool let_go(void *u, const char *digest)
{
    return !strchr(((struct keep *)u)->held, digest[0]);
}

static int64_t used_us(void *u, const char *digest)
{
    return ((struct keep *)u)->used[digest[0] - 'a'];
}

static void drop(void *u, const char *digest)
{
    struct keep *k = u;
    strncat(k->dropped, digest, 1);
}

static const char *name(char letter)
{
    static char text[SHA256_HEX];
    memset(text, letter, sizeof text - 1);
    return text;
}

static void fill(struct pull_cache *c, const char *letters, int64_t bytes)
{
    for (int i = 0; letters[i]; i++) {
        struct pull_blob *b = pull_cache_add(c, name(letters[i]), bytes);
        assert_non_null(b);
        b->used_us = i + 1;
        c->bytes += bytes;
    }
}

static void room_is_made_by_age_and_not_of_what_is_in_use(void **state)
{
    (void)state;
    static const struct {
        const char *held;
        int64_t want;
        int rc;
        const char *dropped;
    } rows[] = {
        {"", 0, 0, ""},    {"", 20, 0, ""},    {"", 21, 0, "a"},   {"", 40, 0, "a"},    {"", 41, 0, "ab"},   {"", 100, 0, "abcd"},
        {"", 101, -1, ""}, {"a", 41, 0, "bc"}, {"abd", 40, 0, "c"}, {"abd", 41, -1, ""}, {"abcd", 21, -1, ""}, {"abcd", 20, 0, ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pull_cache c = {.max_bytes = 100};
        struct keep k = {0};
        const struct pull_keeper keeper = {let_go, let_go, used_us, drop, &k};
        fill(&c, "abcd", 20);
        snprintf(k.held, sizeof k.held, "%s", rows[i].held);
        assert_int_equal(pull_cache_reserve(&c, rows[i].want, &keeper), rows[i].rc);
        assert_string_equal(k.dropped, rows[i].dropped);
        int left = 4 - (int)strlen(k.dropped);
        assert_int_equal(c.n, left);
        assert_int_equal(c.bytes, left * 20 + (rows[i].rc ? 0 : rows[i].want));
        assert_true(c.bytes <= c.max_bytes);
        pull_cache_free(&c);
    }
}

static void a_full_disk_costs_what_is_not_in_use_and_no_more_than_is_asked_for(void **state)
{
    (void)state;
    static const struct {
        const char *held;
        int64_t want, freed;
        const char *dropped;
    } rows[] = {{"", 0, 0, ""}, {"", 1, 20, "a"}, {"", 20, 20, "a"}, {"", 21, 40, "ab"}, {"ac", 30, 40, "bd"}, {"ac", 1000, 40, "bd"}, {"abcd", 1, 0, ""}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pull_cache c = {.max_bytes = 100};
        struct keep k = {0};
        const struct pull_keeper keeper = {let_go, let_go, used_us, drop, &k};
        fill(&c, "abcd", 20);
        snprintf(k.held, sizeof k.held, "%s", rows[i].held);
        assert_int_equal(pull_cache_evict(&c, rows[i].want, &keeper), rows[i].freed);
        assert_string_equal(k.dropped, rows[i].dropped);
        assert_int_equal(c.bytes, 80 - rows[i].freed);
        pull_cache_free(&c);
    }
}

static void what_a_request_used_lately_is_young(void **state)
{
    (void)state;
    struct pull_cache c = {.max_bytes = 100};
    struct keep k = {.used = {[0] = 1000}}; /* a, the oldest as a file */
    const struct pull_keeper keeper = {let_go, let_go, used_us, drop, &k};
    fill(&c, "abcde", 20);
    assert_int_equal(pull_cache_reserve(&c, 40, &keeper), 0);
    assert_string_equal(k.dropped, "bc");
    pull_cache_free(&c);
}

static void a_blob_that_is_fetched_over_the_old_one_counts_once(void **state)
{
    (void)state;
    struct pull_cache c = {.max_bytes = 100};
    struct keep k = {0};
    const struct pull_keeper keeper = {let_go, let_go, used_us, drop, &k};
    fill(&c, "a", 20);
    assert_int_equal(pull_cache_reserve(&c, 30, &keeper), 0);
    assert_non_null(pull_cache_add(&c, name('a'), 30));
    assert_int_equal(c.n, 1);
    assert_int_equal(c.bytes, 30);
    pull_cache_remove(&c, name('a'));
    assert_int_equal(c.bytes, 0);
    pull_cache_remove(&c, name('a'));
    pull_cache_free(&c);
}

static void a_start_finds_whole_versions_and_nothing_else(void **state)
{
    (void)state;
    char top[] = "/tmp/weft-pull-XXXXXX", path[256];
    struct pull_cache c = {.max_bytes = 100};
    struct err e = {0};
    assert_non_null(mkdtemp(top));
    static const struct {
        char letter;
        const char *file[2];
    } rows[] = {{'a', {"adapter_config.json", "adapter_model.safetensors"}}, {'b', {"adapter_config.json", NULL}}, {'c', {NULL, NULL}}};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%c%c", top, rows[i].letter, rows[i].letter);
        assert_int_equal(mkdir(path, 0700), 0);
        snprintf(path, sizeof path, "%s/%c%c/%s", top, rows[i].letter, rows[i].letter, name(rows[i].letter));
        assert_int_equal(mkdir(path, 0700), 0);
        for (int j = 0; j < 2 && rows[i].file[j]; j++) {
            snprintf(path, sizeof path, "%s/%c%c/%s/%s", top, rows[i].letter, rows[i].letter, name(rows[i].letter), rows[i].file[j]);
            FILE *f = fopen(path, "w");
            assert_true(f && fputs("text", f) >= 0 && fclose(f) == 0);
        }
    }
    assert_int_equal(pull_cache_read(&c, top, &e), 0);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.bytes, 8);
    assert_non_null(pull_cache_find(&c, name('a')));
    assert_null(pull_cache_find(&c, name('b')));
    pull_cache_free(&c);
    for (size_t i = 0; i < 3; i++) {
        for (int j = 0; j < 2 && rows[i].file[j]; j++) {
            snprintf(path, sizeof path, "%s/%c%c/%s/%s", top, rows[i].letter, rows[i].letter, name(rows[i].letter), rows[i].file[j]);
            unlink(path);
        }
        snprintf(path, sizeof path, "%s/%c%c/%s", top, rows[i].letter, rows[i].letter, name(rows[i].letter));
        rmdir(path);
        snprintf(path, sizeof path, "%s/%c%c", top, rows[i].letter, rows[i].letter);
        rmdir(path);
    }
    assert_int_equal(rmdir(top), 0);
}

/* --- the puller --- */

static struct pull_ask right_ask(void)
{
    struct pull_ask a;
    memset(&a, 0, sizeof a);
    a.max_rank = 8;
    memcpy(a.digest, DIGEST, sizeof a.digest);
    a.base = (struct base_desc){.name = "Tiny", .digest = SUM, .also = {"tiny"}, .layers = 2, .in = {4, 4}, .out = {4, 2}, .vocab = 5, .hidden = 4};
    return a;
}

static void an_engine_that_was_taken_over_gets_nothing_odd_past_its_puller(void **state)
{
    (void)state;
    struct pull_ask a = right_ask();
    assert_int_equal(pull_ask_check(&a, NULL), 0);
#define ODD(what)                                                                                                      \
    do {                                                                                                               \
        struct err e = {0};                                                                                            \
        a = right_ask();                                                                                               \
        what;                                                                                                          \
        if (pull_ask_check(&a, &e) == 0 || e.code != ERR_INVALID) fail_msg("%s", #what);                               \
    } while (0)
    ODD(a.op = PULL_DROP + 1);
    ODD(memcpy(a.digest, "../../../v1", 12));
    ODD(a.op = PULL_DROP; a.digest[3] = '/');
    ODD(memset(a.digest, 'a', sizeof a.digest));
    ODD(a.max_rank = 0);
    ODD(a.max_rank = PEFT_RANK_MAX + 1);
    ODD(memset(a.base.name, 'x', sizeof a.base.name));
    ODD(memset(a.base.also[3], 'x', sizeof a.base.also[3]));
    ODD(memset(a.base.digest, 'a', sizeof a.base.digest));
    ODD(a.base.layers = 0);
    ODD(a.base.layers = PEFT_LAYERS_MAX + 1);
    ODD(a.base.in[0] = -4);
    ODD(a.base.out[0] = 0);
    ODD(a.base.out[1] = 1 << 30);
    ODD(a.base.vocab = -1);
    ODD(a.base.hidden = 0);
    ODD(a.base.experts = 4);
    ODD(memset(&a.base.fused_qkv, 7, 1));
#undef ODD
}

static int filters_of(pid_t pid)
{
    char path[64], line[128];
    int n = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && n < 0 && fgets(line, sizeof line, f)) sscanf(line, "Seccomp_filters: %d", &n);
    if (f) fclose(f);
    return n;
}

/* In a process of its own: a filter is for good. 0: the puller came to a filter of its own. */
static int without_landlock(const char *store)
{
    const struct pull_options o = {.url = "https://127.0.0.1:1", .token_file = "/none/token", .ca_file = "", .store = store, .confine = "auto", .max_bytes = 1 << 20};
    scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
    struct err e = {0};
    int fd, rc = 2;
    pid_t puller;
    if (!f || seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(landlock_create_ruleset), 0) || seccomp_load(f)) return 3;
    int own = filters_of(getpid());
    if (own < 1) return 0; /* the kernel does not say */
    if (pull_helper_start(&o, &fd, &puller, &e)) return 4;
    for (int i = 0; i < 500 && rc; i++, usleep(10000)) rc = filters_of(puller) == own + 1 ? 0 : 2;
    kill(puller, SIGKILL);
    waitpid(puller, NULL, 0);
    return rc;
}

static void where_the_kernel_has_no_landlock_the_puller_still_gives_up_system_calls(void **state)
{
    (void)state;
    char store[] = "/tmp/weft-pull-XXXXXX", path[64];
    int status = 1;
    if (confine_is_sanitized()) return;
    assert_non_null(mkdtemp(store));
    pid_t child = fork();
    if (child == 0) _exit(without_landlock(store));
    assert_int_equal(waitpid(child, &status, 0), child);
    snprintf(path, sizeof path, "%s/lock", store);
    unlink(path);
    snprintf(path, sizeof path, "%s/tmp", store);
    rmdir(path);
    rmdir(store);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_list_names_the_two_files_of_the_digest_that_was_asked_for),
        cmocka_unit_test(room_is_made_by_age_and_not_of_what_is_in_use),
        cmocka_unit_test(a_full_disk_costs_what_is_not_in_use_and_no_more_than_is_asked_for),
        cmocka_unit_test(what_a_request_used_lately_is_young),
        cmocka_unit_test(a_blob_that_is_fetched_over_the_old_one_counts_once),
        cmocka_unit_test(a_start_finds_whole_versions_and_nothing_else),
        cmocka_unit_test(an_engine_that_was_taken_over_gets_nothing_odd_past_its_puller),
        cmocka_unit_test(where_the_kernel_has_no_landlock_the_puller_still_gives_up_system_calls),
    };
    json_start();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
