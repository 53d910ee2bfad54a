/* Tests of gateway/auth: keys, scopes, one answer for all causes, revocation at once, no secret in any file. */
#include "base/clock.h"
#include "gateway/auth/auth_store.h"
#include "tests/unit/data_room.h"
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>

struct auth_room {
    struct room r;
    struct auth *auth;
};

static const struct actor tester = {"test", "127.0.0.1", "r", NULL, 0};

static int setup(void **state)
{
    struct auth_room *a = calloc(1, sizeof *a);
    struct err e = {0};
    room_new(&a->r);
    room_start(&a->r);
    assert_ok(auth_open(&a->auth, a->r.db, &e), e);
    *state = a;
    return 0;
}

static int teardown(void **state)
{
    struct auth_room *a = *state;
    auth_close(a->auth);
    room_end(&a->r);
    free(a);
    return 0;
}

static void make_tenant(struct auth_room *a, const char *name)
{
    struct err e = {0};
    json_t *out;
    assert_ok(tenant_create(a->auth, &tester, name, 2.5, &out, &e), e);
    json_decref(out);
}

static void make_key_until(struct auth_room *a, const char *tenant, const char *role, int64_t expires,
                           char text[KEY_TEXT_LEN])
{
    struct err e = {0};
    json_t *out;
    struct key_wish w = {.tenant = tenant, .name = "k", .role = {role}, .nroles = 1, .expires = expires};
    assert_ok(key_create(a->auth, &tester, &w, &out, &e), e);
    snprintf(text, KEY_TEXT_LEN, "%s", json_string_value(json_object_get(out, "key")));
    json_decref(out);
}

static void make_key(struct auth_room *a, const char *tenant, const char *role, char text[KEY_TEXT_LEN])
{
    make_key_until(a, tenant, role, 0, text);
}

static void revoke_key(struct auth_room *a, const char *text)
{
    char id[KEY_ID_LEN], secret[44];
    bool admin;
    struct err e = {0};
    json_t *out;
    assert_true(auth_key_parse(text, &admin, id, secret));
    assert_ok(key_revoke(a->auth, &tester, &(struct key_reach){.admin = admin}, id, 0, &out, &e), e);
    assert_true(json_is_integer(json_object_get(out, "revoked_at")));
    json_decref(out);
}

static void a_key_names_its_tenant_and_its_scopes(void **state)
{
    struct auth_room *a = *state;
    static const struct {
        const char *role;
        unsigned scopes;
    } rows[] = {
        {"admin", SCOPE_INFER | SCOPE_WRITE | SCOPE_USAGE | SCOPE_KEYS},
        {"writer", SCOPE_WRITE},
        {"inference", SCOPE_INFER},
        {"billing", SCOPE_USAGE},
    };
    make_tenant(a, "acme");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        struct principal p;
        char text[KEY_TEXT_LEN];
        make_key(a, "acme", rows[i].role, text);
        assert_ok(auth_check(a->auth, text, NULL, rows[i].scopes, &p, &e), e);
        assert_ok(auth_check(a->auth, text, "acme", rows[i].scopes, &p, &e), e);
        assert_string_equal(p.tenant_name, "acme");
        assert_true(uuid_is(p.tenant));
        assert_int_equal(strlen(p.tag), 32);
        assert_true(p.weight == 2.5);
        assert_int_equal(p.scopes, rows[i].scopes);
        assert_int_equal(auth_check(a->auth, text, NULL, SCOPE_ADMIN, &p, &e), -1);
        assert_int_equal(e.code, ERR_FORBIDDEN);
        assert_int_equal(auth_check_admin(a->auth, text, 0, &p, NULL), -1);
    }
}

/* The checksum as auth_key.c describes it, written a second time. */
static void sign(char *text)
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    uint8_t h[SHA256_BYTES];
    uint64_t v = 0;
    sha256_of(text, 60, h);
    for (int i = 0; i < 8; i++) v = v << 8 | h[i];
    for (int i = 66; i > 60; i--, v /= 62) text[i] = digits[v % 62];
}

static void every_cause_gets_the_same_401(void **state)
{
    struct auth_room *a = *state;
    char good[KEY_TEXT_LEN], revoked[KEY_TEXT_LEN], expired[KEY_TEXT_LEN], admin[KEY_TEXT_LEN], off[KEY_TEXT_LEN],
        typo[KEY_TEXT_LEN];
    make_tenant(a, "acme");
    make_tenant(a, "other");
    make_tenant(a, "off");
    make_key(a, "acme", "admin", good);
    make_key(a, "acme", "admin", revoked);
    make_key_until(a, "acme", "admin", clock_wall_us() / 1000000 - 1, expired);
    make_key(a, NULL, "admin", admin);
    make_key(a, "off", "admin", off);
    revoke_key(a, revoked);
    struct err e = {0};
    json_t *out;
    assert_ok(tenant_update(a->auth, &tester, "off", &(struct tenant_change){.set_disabled = true, .disabled = true},
                            &out, &e),
              e);
    json_decref(out);
    snprintf(typo, sizeof typo, "%s", good);
    typo[20] = typo[20] == 'a' ? 'b' : 'a';
    struct new_key stranger;
    uint8_t pepper[32] = {1};
    assert_ok(auth_key_make(pepper, false, &stranger, &e), e);
    char wrong[KEY_TEXT_LEN];
    memcpy(wrong, good, 16);
    memcpy(wrong + 16, stranger.text + 16, sizeof wrong - 16);
    sign(wrong);
    const struct {
        const char *bearer, *path;
        enum auth_cause cause;
    } rows[] = {
        {NULL, NULL, AUTH_NO_KEY},     {"", NULL, AUTH_MALFORMED},          {"wft_", NULL, AUTH_MALFORMED},
        {typo, NULL, AUTH_MALFORMED},  {stranger.text, NULL, AUTH_UNKNOWN}, {wrong, NULL, AUTH_WRONG_SECRET},
        {revoked, NULL, AUTH_UNKNOWN}, {expired, NULL, AUTH_EXPIRED},       {admin, NULL, AUTH_MALFORMED},
        {off, NULL, AUTH_UNKNOWN},     {good, "other", AUTH_OTHER_TENANT},  {good, "nobody", AUTH_OTHER_TENANT},
        {good, "", AUTH_OTHER_TENANT},
    };
    struct err first = {0};
    struct principal p;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err x = {0};
        int64_t before = auth_refused(a->auth, rows[i].cause);
        assert_int_equal(auth_check(a->auth, rows[i].bearer, rows[i].path, SCOPE_INFER, &p, &x), -1);
        assert_int_equal(auth_refused(a->auth, rows[i].cause), before + 1);
        if (i == 0) first = x;
        assert_int_equal(x.code, ERR_UNAUTHORIZED);
        assert_memory_equal(&x, &first, sizeof x);
    }
    struct err x = {0};
    assert_ok(auth_check(a->auth, good, "acme", SCOPE_INFER, &p, &x), x);
}

static void every_changed_character_is_refused(void **state)
{
    struct auth_room *a = *state;
    char good[KEY_TEXT_LEN];
    struct principal p;
    make_tenant(a, "acme");
    make_key(a, "acme", "inference", good);
    for (size_t i = 0; good[i]; i++) {
        char bad[KEY_TEXT_LEN];
        memcpy(bad, good, sizeof bad);
        bad[i] = bad[i] == 'x' ? 'y' : 'x';
        assert_int_equal(auth_check(a->auth, bad, NULL, SCOPE_INFER, &p, NULL), -1);
        bad[i] = 0;
        assert_int_equal(auth_check(a->auth, bad, NULL, SCOPE_INFER, &p, NULL), -1);
    }
}

struct hammer {
    struct auth *auth;
    const char *text;
    _Atomic bool revoked, stop;
    _Atomic int late, served;
};

static void *hammer_main(void *u)
{
    struct hammer *h = u;
    struct principal p;
    while (!h->stop) {
        bool before = h->revoked;
        if (auth_check(h->auth, h->text, NULL, SCOPE_INFER, &p, NULL)) continue;
        h->served++;
        if (before) h->late++;
    }
    return NULL;
}

static void a_revoked_key_is_refused_when_the_call_has_returned(void **state)
{
    struct auth_room *a = *state;
    make_tenant(a, "acme");
    for (int round = 0; round < 5; round++) {
        char text[KEY_TEXT_LEN];
        make_key(a, "acme", "inference", text);
        struct hammer h = {.auth = a->auth, .text = text};
        pthread_t t[2];
        for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&t[i], NULL, hammer_main, &h), 0);
        for (int i = 0; h.served < 10 && i < 5000; i++) usleep(1000);
        revoke_key(a, text);
        h.revoked = true;
        usleep(20000);
        h.stop = true;
        for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
        assert_true(h.served >= 10);
        assert_int_equal(h.late, 0);
    }
}

static void no_secret_is_in_any_file(void **state)
{
    struct auth_room *a = *state;
    char text[2][KEY_TEXT_LEN], id[KEY_ID_LEN], secret[44];
    bool admin;
    make_tenant(a, "acme");
    make_key(a, "acme", "admin", text[0]);
    make_key(a, NULL, "admin", text[1]);
    for (int i = 0; i < 2; i++) {
        assert_true(auth_key_parse(text[i], &admin, id, secret));
        assert_true(room_contains(a->r.dir, id, strlen(id))); /* the search finds what is there */
        assert_false(room_contains(a->r.dir, secret, 43));
        assert_false(room_contains(a->r.dir, secret, 12));
    }
}

static void the_first_admin_key_is_made_once(void **state)
{
    struct auth_room *a = *state;
    char first[KEY_TEXT_LEN], again[KEY_TEXT_LEN], further[KEY_TEXT_LEN];
    struct err e = {0};
    struct principal p;
    assert_ok(auth_first_admin_key(a->r.db, first, &e), e);
    assert_int_equal(strncmp(first, "wfa_", 4), 0);
    assert_ok(auth_first_admin_key(a->r.db, again, &e), e);
    assert_string_equal(again, "");
    assert_ok(auth_new_admin_key(a->r.db, further, &e), e);
    assert_ok(auth_reload(a->auth, &e), e);
    assert_ok(auth_check_admin(a->auth, first, SCOPE_ADMIN, &p, &e), e);
    assert_ok(auth_check_admin(a->auth, further, SCOPE_ADMIN, &p, &e), e);
    assert_string_equal(p.tenant, "");
    assert_int_equal(auth_check(a->auth, first, NULL, 0, &p, NULL), -1);
}

static void tenants_have_valid_names_once_each(void **state)
{
    struct auth_room *a = *state;
    static const char *const bad[] = {
        "",    "A",   "-a",       ".a",  "_a",
        "a b", "a/b", "\xC3\xA9", "a@1", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    json_t *out = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        assert_int_equal(tenant_create(a->auth, &tester, bad[i], 1, &out, &e), -1);
        assert_int_equal(e.code, ERR_INVALID);
        assert_string_equal(e.param, "name");
    }
    struct err e = {0};
    make_tenant(a, "acme");
    assert_int_equal(tenant_create(a->auth, &tester, "acme", 1, &out, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    struct err w = {0};
    assert_int_equal(tenant_create(a->auth, &tester, "heavy", 1e9, &out, &w), -1);
    assert_string_equal(w.param, "weight");
    struct err n = {0};
    assert_int_equal(tenant_get(a->auth, "absent", &out, &n), -1);
    assert_int_equal(n.code, ERR_NOT_FOUND);
}

static void lists_are_paged_in_order(void **state)
{
    struct auth_room *a = *state;
    struct err e = {0};
    char after[NAME_MAX_LEN + 1] = "", name[16];
    bool more = true;
    int seen = 0;
    for (int i = 0; i < 7; i++) {
        snprintf(name, sizeof name, "t%d", i);
        make_tenant(a, name);
    }
    while (more) {
        json_t *list = json_array(), *x;
        size_t i;
        assert_ok(tenant_list(a->auth, &(struct page){after, "", 3}, list, &more, &e), e);
        json_array_foreach(list, i, x)
        {
            snprintf(name, sizeof name, "t%d", seen++);
            assert_string_equal(json_string_value(json_object_get(x, "name")), name);
            snprintf(after, sizeof after, "%s", name);
        }
        json_decref(list);
    }
    assert_int_equal(seen, 7);
}

static void every_change_is_in_the_audit_trail(void **state)
{
    struct auth_room *a = *state;
    char text[KEY_TEXT_LEN];
    struct err e = {0};
    json_t *out, *list = json_array();
    bool more;
    make_tenant(a, "acme");
    make_key(a, "acme", "writer", text);
    revoke_key(a, text);
    assert_ok(
        tenant_update(a->auth, &tester, "acme", &(struct tenant_change){.set_weight = true, .weight = 3}, &out, &e), e);
    json_decref(out);
    assert_int_equal(tenant_create(a->auth, &tester, "acme", 1, &out, NULL), -1); /* refused: no row */
    assert_ok(audit_list(a->r.db, 0, 100, list, &more, &e), e);
    static const char *const want[] = {"tenant.update", "key.revoke", "key.create", "tenant.create"};
    assert_int_equal(json_array_size(list), 4);
    for (size_t i = 0; i < 4; i++) {
        json_t *row = json_array_get(list, i);
        assert_string_equal(json_string_value(json_object_get(row, "action")), want[i]);
        assert_string_equal(json_string_value(json_object_get(row, "actor")), "test");
    }
    json_decref(list);
    int64_t rows, bad;
    assert_ok(audit_verify(a->r.db, &rows, &bad, &e), e);
    assert_int_equal(bad, 0);
}

static void a_check_costs_microseconds(void **state)
{
    struct auth_room *a = *state;
    enum { N = 20000 };
    char text[KEY_TEXT_LEN];
    struct principal p;
    make_tenant(a, "acme");
    make_key(a, "acme", "inference", text);
    int64_t t = clock_mono_us();
    for (int i = 0; i < N; i++) assert_int_equal(auth_check(a->auth, text, NULL, SCOPE_INFER, &p, NULL), 0);
    t = clock_mono_us() - t;
    print_message("%d checks in %lld us: %.0f a second\n", N, (long long)t, N * 1e6 / (double)t);
    assert_true(t < 5000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(a_key_names_its_tenant_and_its_scopes),
        T(every_cause_gets_the_same_401),
        T(every_changed_character_is_refused),
        T(a_revoked_key_is_refused_when_the_call_has_returned),
        T(no_secret_is_in_any_file),
        T(the_first_admin_key_is_made_once),
        T(tenants_have_valid_names_once_each),
        T(lists_are_paged_in_order),
        T(every_change_is_in_the_audit_trail),
        T(a_check_costs_microseconds),
#undef T
    };
    return cmocka_run_group_tests_name("auth", tests, NULL, NULL);
}
