/* Tests of gateway/registry: names and versions, newest ready one, another tenant's as absent, removal and orphans. */
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "tests/unit/reg_room.h"

static int add(struct reg_room *g, int tenant, const char *name, int n)
{
    bool created;
    return add_on(g, tenant, name, n, BASE, &created);
}

static int resolve(struct reg_room *g, int tenant, const char *model, struct target *t, struct err *e)
{
    return registry_resolve(g->reg, g->tenant[tenant], model, BASE, t, e);
}

static void a_bare_name_is_its_newest_version(void **state)
{
    struct reg_room *g = *state;
    struct target t;
    struct err e = {0};
    for (int i = 1; i <= 3; i++) assert_int_equal(add(g, 0, "greet", i), i);
    assert_ok(resolve(g, 0, "greet", &t, &e), e);
    assert_int_equal(t.version, 3);
    assert_string_equal(t.digest, digest(3));
    assert_string_equal(t.base, BASE);
    assert_false(t.is_base);
    assert_ok(resolve(g, 0, "greet@2", &t, &e), e);
    assert_int_equal(t.version, 2);
    assert_ok(resolve(g, 0, BASE, &t, &e), e);
    assert_true(t.is_base);
    assert_string_equal(t.digest, "");
}

static void the_same_digest_is_the_same_version(void **state)
{
    struct reg_room *g = *state;
    bool created;
    assert_int_equal(add_on(g, 0, "greet", 1, BASE, &created), 1);
    assert_true(created);
    assert_int_equal(add_on(g, 0, "greet", 2, BASE, &created), 2);
    assert_int_equal(add_on(g, 0, "greet", 1, BASE, &created), 1);
    assert_false(created);
    assert_int_equal(add_on(g, 0, "other", 1, BASE, &created), 1);
    assert_true(created);
    assert_int_equal(registry_count(g->reg, g->tenant[0], NULL), 3);
    assert_int_equal(registry_count(g->reg, g->tenant[1], NULL), 0);
}

static void what_cannot_be_resolved_gets_one_answer(void **state)
{
    struct reg_room *g = *state;
    bool created;
    add(g, 0, "greet", 1);
    add(g, 1, "secret", 2);
    add_on(g, 0, "foreign", 3, "another-base", &created);
    static const char *const models[] = {"secret",  "absent",   "greet@2",  "greet@0",          "greet@01", "greet@",
                                         "greet@x", "greet@1x", "greet@-1", "greet@9999999999", "@1",       "",
                                         "GREET",   "foreign",  "smol@1",   "greet@1@1",        "greet "};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct err e = {0};
        struct target t;
        char want[512];
        assert_int_equal(resolve(g, 0, models[i], &t, &e), -1);
        snprintf(want, sizeof want, "The model `%s` does not exist or you do not have access to it.", models[i]);
        assert_string_equal(e.msg, want);
        assert_int_equal(e.code, ERR_MODEL_NOT_FOUND);
        assert_string_equal(e.param, "model");
    }
}

static void another_tenants_adapter_is_an_absent_one_to_the_byte(void **state)
{
    struct reg_room *g = *state;
    struct err there = {0}, absent = {0};
    struct target t;
    json_t *out;
    add(g, 1, "theirs", 1);
    assert_int_equal(resolve(g, 0, "theirs", &t, &there), -1);
    assert_int_equal(registry_get(g->reg, g->tenant[0], "theirs", &out, NULL), -1);
    char(*orphans)[SHA256_HEX];
    int n, draining;
    assert_int_equal(registry_remove(g->reg, &tester, g->tenant[0], "theirs", 0, REVISION_ANY, &orphans, &n, &draining, NULL), -1);
    struct err e = {0};
    assert_ok(registry_remove(g->reg, &tester, g->tenant[1], "theirs", 0, REVISION_ANY, &orphans, &n, &draining, &e), e);
    free(orphans);
    assert_int_equal(resolve(g, 0, "theirs", &t, &absent), -1);
    assert_memory_equal(&there, &absent, sizeof there);
}

static void removal_names_the_digests_that_nobody_has(void **state)
{
    struct reg_room *g = *state;
    struct err e = {0};
    char(*orphans)[SHA256_HEX];
    struct target t;
    int n, draining;
    for (int i = 1; i <= 3; i++) add(g, 0, "greet", i);
    add(g, 1, "same", 2); /* another tenant has the same bytes */
    assert_true(registry_has_digest(g->reg, digest(1)));
    assert_ok(registry_remove(g->reg, &tester, g->tenant[0], "greet", 1, REVISION_ANY, &orphans, &n, &draining, &e), e);
    assert_int_equal(n, 1);
    assert_string_equal(orphans[0], digest(1));
    free(orphans);
    assert_false(registry_has_digest(g->reg, digest(1)));
    assert_ok(registry_remove(g->reg, &tester, g->tenant[0], "greet", 0, REVISION_ANY, &orphans, &n, &draining, &e), e);
    assert_int_equal(n, 1);
    assert_string_equal(orphans[0], digest(3));
    free(orphans);
    assert_true(registry_has_digest(g->reg, digest(2)));
    assert_int_equal(resolve(g, 0, "greet", &t, NULL), -1);
    assert_int_equal(registry_remove(g->reg, &tester, g->tenant[0], "greet", 0, REVISION_ANY, &orphans, &n, &draining, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
}

static void a_removed_versions_number_is_not_given_again(void **state)
{
    struct reg_room *g = *state;
    struct err e = {0};
    char(*orphans)[SHA256_HEX];
    int n, draining;
    add(g, 0, "greet", 1);
    add(g, 0, "greet", 2);
    for (int v = 2; v >= 1; v--) {
        assert_ok(registry_remove(g->reg, &tester, g->tenant[0], "greet", v, REVISION_ANY, &orphans, &n, &draining, &e), e);
        free(orphans);
    }
    assert_int_equal(add(g, 0, "greet", 3), 3);
}

static void names_that_are_taken_or_bad_are_refused(void **state)
{
    struct reg_room *g = *state;
    static const struct {
        const char *name;
        enum err_code code;
    } rows[] = {
        {BASE, ERR_CONFLICT}, {"", ERR_INVALID}, {"Upper", ERR_INVALID}, {"a@1", ERR_INVALID}, {"../x", ERR_INVALID}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct version_new v = {.base = BASE};
        struct err e = {0};
        int version;
        bool created;
        snprintf(v.tenant, sizeof v.tenant, "%s", g->tenant[0]);
        snprintf(v.name, sizeof v.name, "%s", rows[i].name);
        assert_int_equal(registry_add(g->reg, &tester, &v, &version, &created, &e), -1);
        assert_int_equal(e.code, rows[i].code);
        assert_string_equal(e.param, "name");
    }
}

static void lists_show_the_tenants_own_in_order(void **state)
{
    struct reg_room *g = *state;
    struct err e = {0};
    bool more;
    char name[16];
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "a%d", i);
        add(g, 0, name, i);
    }
    add(g, 0, "a0", 7);
    add(g, 1, "a9", 8);
    json_t *list = json_array();
    assert_ok(registry_list(g->reg, g->tenant[0], &(struct page){"", "", 3}, list, &more, &e), e);
    assert_true(more);
    assert_ok(registry_list(g->reg, g->tenant[0], &(struct page){"a2", "", 3}, list, &more, &e), e);
    assert_false(more);
    assert_int_equal(json_array_size(list), 5);
    json_t *first = json_array_get(list, 0);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "a0");
    assert_int_equal(json_integer_value(json_object_get(first, "version")), 2);
    assert_int_equal(json_integer_value(json_object_get(first, "versions_count")), 2);
    assert_string_equal(json_string_value(json_object_get(first, "state")), "ready");
    assert_int_equal(json_array_size(json_object_get(first, "modules")), 2);
    json_decref(list);
    json_t *one;
    assert_ok(registry_get(g->reg, g->tenant[0], "a0", &one, &e), e);
    assert_int_equal(json_array_size(json_object_get(one, "versions")), 2);
    json_decref(one);
    assert_ok(registry_get_version(g->reg, g->tenant[0], "a0", 1, &one, &e), e);
    assert_string_equal(json_string_value(json_object_get(one, "digest")), digest(0));
    json_decref(one);
    assert_int_equal(registry_get_version(g->reg, g->tenant[0], "a0", 9, &one, &e), -1);
    assert_int_equal(e.code, ERR_NOT_FOUND);
}

static void everything_is_there_after_a_restart(void **state)
{
    struct reg_room *g = *state;
    struct err e = {0};
    struct target t;
    add(g, 0, "greet", 1);
    registry_close(g->reg);
    auth_close(g->auth);
    db_close(g->r.db);
    room_start(&g->r);
    assert_ok(auth_open(&g->auth, g->r.db, &e), e);
    assert_ok(registry_open(&g->reg, g->r.db, &e), e);
    assert_ok(resolve(g, 0, "greet@1", &t, &e), e);
}

/* The trail of this room without the tenants' own entries, oldest first. */
static json_t *trail(struct reg_room *g)
{
    struct err e = {0};
    bool more;
    int64_t rows, bad;
    json_t *newest = json_array(), *out = json_array();
    assert_ok(audit_list(g->r.db, 0, 100, newest, &more, &e), e);
    assert_ok(audit_verify(g->r.db, &rows, &bad, &e), e);
    assert_int_equal(bad, 0);
    assert_int_equal(rows, json_array_size(newest));
    for (size_t i = json_array_size(newest); i-- > 0;) {
        json_t *entry = json_array_get(newest, i);
        if (strncmp(json_string_value(json_object_get(entry, "action")), "tenant.", 7) != 0)
            json_array_append(out, entry);
    }
    json_decref(newest);
    return out;
}

static void each_change_has_its_entry_and_no_change_has_none(void **state)
{
    struct reg_room *g = *state;
    static const struct {
        const char *action, *object;
    } want[] = {
        {"adapter.create", "alpha/greet"},   {"version.create", "alpha/greet@1"}, {"version.create", "alpha/greet@2"},
        {"version.create", "alpha/greet@3"}, {"version.remove", "alpha/greet@2"}, {"version.remove", "alpha/greet@1"},
        {"version.remove", "alpha/greet@3"}, {"adapter.remove", "alpha/greet"},
    };
    struct err e = {0};
    char(*orphans)[SHA256_HEX];
    int n, draining;
    for (int i = 1; i <= 3; i++) add(g, 0, "greet", i);
    add(g, 0, "greet", 2); /* there already */
    assert_ok(registry_remove(g->reg, &tester, g->tenant[0], "greet", 2, REVISION_ANY, &orphans, &n, &draining, &e), e);
    free(orphans);
    assert_int_equal(registry_remove(g->reg, &tester, g->tenant[0], "greet", 2, REVISION_ANY, &orphans, &n, &draining, NULL), -1);
    assert_int_equal(registry_remove(g->reg, &tester, g->tenant[1], "greet", 0, REVISION_ANY, &orphans, &n, &draining, NULL), -1);
    assert_ok(registry_remove(g->reg, &tester, g->tenant[0], "greet", 0, REVISION_ANY, &orphans, &n, &draining, &e), e);
    free(orphans);
    json_t *list = trail(g);
    assert_int_equal(json_array_size(list), sizeof want / sizeof *want);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const json_t *entry = json_array_get(list, i);
        assert_string_equal(json_string_value(json_object_get(entry, "action")), want[i].action);
        assert_string_equal(json_string_value(json_object_get(entry, "target")), want[i].object);
        assert_string_equal(json_string_value(json_object_get(entry, "actor")), tester.key);
    }
    const json_t *gone = json_object_get(json_array_get(list, 4), "before");
    assert_string_equal(json_string_value(json_object_get(gone, "digest")), digest(2));
    json_decref(list);
}

static int add_described(struct reg_room *g, const char *description, int n, struct err *e)
{
    struct version_new v = {.name = "greet", .description = description, .base = BASE};
    int version = 0;
    bool created;
    snprintf(v.tenant, sizeof v.tenant, "%s", g->tenant[0]);
    snprintf(v.digest, sizeof v.digest, "%s", digest(n));
    snprintf(v.file_sha256, sizeof v.file_sha256, "%s", digest(n));
    return registry_add(g->reg, &tester, &v, &version, &created, e);
}

static void a_new_description_is_noted_with_the_old_one(void **state)
{
    struct reg_room *g = *state;
    struct err e = {0};
    assert_ok(add_described(g, "first", 1, &e), e);
    assert_ok(add_described(g, "first", 1, &e), e);
    assert_ok(add_described(g, NULL, 1, &e), e);
    assert_ok(add_described(g, "second", 1, &e), e);
    json_t *list = trail(g);
    assert_int_equal(json_array_size(list), 3);
    const json_t *last = json_array_get(list, 2);
    assert_string_equal(json_string_value(json_object_get(last, "action")), "adapter.update");
    assert_string_equal(json_string_value(json_object_get(json_object_get(last, "before"), "description")), "first");
    assert_string_equal(json_string_value(json_object_get(json_object_get(last, "after"), "description")), "second");
    json_decref(list);
}

static void a_change_whose_entry_cannot_be_written_does_not_happen(void **state)
{
    struct reg_room *g = *state;
    static char long_text[70000]; /* more than an entry takes */
    struct err e = {0}, first = {0};
    struct target t;
    memset(long_text, 'x', sizeof long_text - 1);
    assert_int_equal(add_described(g, long_text, 1, &first), -1);
    assert_int_equal(first.code, ERR_TOO_LARGE);
    assert_int_equal(resolve(g, 0, "greet", &t, NULL), -1);
    assert_ok(add_described(g, "short", 1, &e), e);
    assert_int_equal(add_described(g, long_text, 2, NULL), -1);
    assert_ok(registry_reload(g->reg, &e), e);
    assert_int_equal(registry_count(g->reg, g->tenant[0], NULL), 1);
    json_t *list = trail(g);
    assert_int_equal(json_array_size(list), 2);
    json_decref(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, reg_setup, reg_teardown)
        T(a_bare_name_is_its_newest_version),           T(the_same_digest_is_the_same_version),
        T(what_cannot_be_resolved_gets_one_answer),     T(another_tenants_adapter_is_an_absent_one_to_the_byte),
        T(removal_names_the_digests_that_nobody_has),   T(a_removed_versions_number_is_not_given_again),
        T(names_that_are_taken_or_bad_are_refused),     T(lists_show_the_tenants_own_in_order),
        T(everything_is_there_after_a_restart),         T(each_change_has_its_entry_and_no_change_has_none),
        T(a_new_description_is_noted_with_the_old_one), T(a_change_whose_entry_cannot_be_written_does_not_happen),
#undef T
    };
    return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
