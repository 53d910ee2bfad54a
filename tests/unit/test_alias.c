/* Tests of gateway/alias: shares, stickiness, chains, holds, changes and rollback, against a registry in a database. */
#include "gateway/api/page.h"
#include "gateway/api/revision.h"
#include "gateway/registry/alias.h"
#include "tests/unit/reg_room.h"

static bool served(void *u, const char *base)
{
    (void)u;
    return strcmp(base, BASE) == 0;
}

static int add(struct reg_room *w, const char *name, int n)
{
    bool created;
    return add_on(w, 0, name, n, BASE, &created);
}

static int64_t put(struct reg_room *w, const char *name, const char *body, int64_t want, struct err *e)
{
    json_t *o = json_loads(body, 0, NULL), *out = NULL;
    bool created;
    assert_non_null(o);
    int rc = alias_put(w->reg, &tester, &(struct alias_put){w->tenant[0], name, o, want, served, NULL}, &out, &created, e);
    int64_t revision = rc ? -1 : json_integer_value(json_object_get(out, "revision"));
    json_decref(o);
    json_decref(out);
    return revision;
}

static int choose(struct reg_room *w, const char *model, const char *request, const char *user, struct choice *c,
                  struct err *e)
{
    return alias_choose(w->reg, &(struct alias_ask){w->tenant[0], model, request, user, "key", served, NULL}, c, e);
}

/* The version that answers. */
static int version_for(struct reg_room *w, const char *model, const char *request, const char *user)
{
    struct choice c;
    struct err e = {0};
    assert_ok(choose(w, model, request, user, &c, &e), e);
    int version = c.target[0].version;
    choice_close(w->reg, &c);
    return version;
}

static const char *numbered(const char *what, int i)
{
    static char text[64];
    snprintf(text, sizeof text, "%s-%d", what, i);
    return text;
}

static void a_pick_covers_each_weight_and_nothing_else(void **state)
{
    (void)state;
    const uint64_t one = 1ull << 53;
    assert_int_equal(alias_pick((int[]){9, 1}, 2, 0), 0);
    assert_int_equal(alias_pick((int[]){9, 1}, 2, one / 10 * 9 - 100), 0);
    assert_int_equal(alias_pick((int[]){9, 1}, 2, one - 1), 1);
    assert_int_equal(alias_pick((int[]){0, 5, 0}, 3, 0), 1);
    assert_int_equal(alias_pick((int[]){0, 5, 0}, 3, one - 1), 1);
    assert_int_equal(alias_pick((int[]){0, 0}, 2, 5), -1);
    assert_int_equal(alias_pick((int[]){ALIAS_WEIGHT_MAX, ALIAS_WEIGHT_MAX}, 2, one / 2), 1);
}

static void shares_are_the_weights(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    add(w, "sql", 1);
    add(w, "sql", 2);
    assert_true(put(w, "prod",
                    "{\"targets\":[{\"adapter\":\"sql\",\"version\":1,\"weight\":90},{\"adapter\":\"sql\",\"version\":"
                    "2,\"weight\":10}]}",
                    REVISION_ANY, &e) == 1);
    int second = 0;
    for (int i = 0; i < 10000; i++) second += version_for(w, "prod", numbered("request", i), NULL) == 2;
    assert_in_range(second, 900, 1100);
}

static void a_user_stays_on_the_canary_that_grows(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    bool on[1000];
    add(w, "sql", 1);
    add(w, "sql", 2);
    for (int share = 10, step = 0; step < 3; share = step == 0 ? 50 : 100, step++) {
        char body[256];
        snprintf(body, sizeof body,
                 "{\"sticky\":\"user\",\"targets\":[{\"adapter\":\"sql\",\"version\":1,\"weight\":%d},{\"adapter\":"
                 "\"sql\",\"version\":2,\"weight\":%d}]}",
                 100 - share, share);
        if (put(w, "prod", body, REVISION_ANY, &e) < 0) fail_msg("%s", e.msg);
        int n = 0;
        for (int i = 0; i < 1000; i++) {
            bool now = version_for(w, "prod", "r1", numbered("user", i)) == 2;
            assert_int_equal(now, version_for(w, "prod", "r2", numbered("user", i)) == 2);
            if (step && on[i]) assert_true(now);
            on[i] = now;
            n += now;
        }
        assert_in_range(n, share * 10 - 40, share * 10 + 40);
    }
}

static void a_chain_names_all_that_can_serve_in_order(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    struct choice c;
    add(w, "sql", 1);
    add(w, "pirate", 2);
    assert_true(put(w, "chain",
                    "{\"policy\":\"fallback\",\"system_prefix\":\"Be "
                    "brief.\",\"targets\":[{\"adapter\":\"pirate\"},{\"adapter\":\"sql\"},{\"base\":\"smol\"}]}",
                    REVISION_NONE, &e) == 1);
    assert_ok(choose(w, "chain", "r", NULL, &c, &e), e);
    assert_int_equal(c.n, 3);
    assert_string_equal(c.target[0].adapter, "pirate");
    assert_string_equal(c.target[1].adapter, "sql");
    assert_true(c.target[2].is_base);
    assert_string_equal(c.prefix, "Be brief.");
    assert_int_equal(registry_held(w->reg, digest(1)), 1);
    choice_close(w->reg, &c);
    assert_int_equal(registry_held(w->reg, digest(1)), 0);
    assert_ok(registry_change_state(w->reg, &tester, w->tenant[0], "pirate", 1,
                                    &(struct version_change){.from = 1u << VERSION_READY,
                                                             .to = VERSION_QUARANTINED,
                                                             .code = "adapter_fault",
                                                             .detail = "x",
                                                             .max_error = -1},
                                    &e),
              e);
    assert_ok(choose(w, "chain", "r", NULL, &c, &e), e);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.target[0].adapter, "sql");
    choice_close(w->reg, &c);
}

static void an_alias_decides_before_an_adapter_of_its_name(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    add(w, "sql", 1);
    add(w, "sql", 2);
    assert_int_equal(version_for(w, "sql", "r", NULL), 2);
    assert_true(put(w, "sql", "{\"targets\":[{\"adapter\":\"sql\",\"version\":1}]}", REVISION_ANY, &e) == 1);
    assert_int_equal(version_for(w, "sql", "r", NULL), 1);
    assert_int_equal(version_for(w, "sql@2", "r", NULL), 2);
    assert_ok(alias_delete(w->reg, &tester, w->tenant[0], "sql", REVISION_ANY, &e), e);
    assert_int_equal(version_for(w, "sql", "r", NULL), 2);
}

static void what_an_alias_points_at_stays_and_what_is_held_drains(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    struct choice c;
    char(*orphans)[SHA256_HEX];
    int n, draining;
    add(w, "sql", 1);
    add(w, "sql", 2);
    assert_true(put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\",\"version\":1}]}", REVISION_ANY, &e) == 1);
    assert_int_equal(registry_remove(w->reg, &tester, w->tenant[0], "sql", 1, REVISION_ANY, &orphans, &n, &draining, &e),
                     -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_int_equal(registry_remove(w->reg, &tester, w->tenant[0], "sql", 0, REVISION_ANY, &orphans, &n, &draining, NULL),
                     -1);
    err_clear(&e);
    assert_ok(choose(w, "prod", "r", NULL, &c, &e), e);
    assert_ok(alias_delete(w->reg, &tester, w->tenant[0], "prod", REVISION_ANY, &e), e);
    assert_ok(registry_remove(w->reg, &tester, w->tenant[0], "sql", 0, REVISION_ANY, &orphans, &n, &draining, &e), e);
    assert_int_equal(draining, 1);
    assert_int_equal(n, 1);
    assert_string_equal(orphans[0], digest(2));
    free(orphans);
    assert_true(registry_has_digest(w->reg, digest(1)));
    assert_int_equal(choose(w, "sql@1", "r", NULL, &(struct choice){0}, NULL), -1);
    choice_close(w->reg, &c);
    assert_ok(registry_collect(w->reg, &orphans, &n, &draining, &e), e);
    assert_int_equal(n, 1);
    assert_string_equal(orphans[0], digest(1));
    free(orphans);
    json_t *gone;
    assert_int_equal(registry_get(w->reg, w->tenant[0], "sql", &gone, NULL),
                     -1); /* the adapter went with the last version */
}

static void a_version_that_comes_while_its_digest_goes_keeps_the_bytes(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    struct choice c;
    char(*orphans)[SHA256_HEX];
    int n, draining;
    add(w, "sql", 1);
    assert_ok(choose(w, "sql", "r", NULL, &c, &e), e);
    assert_ok(registry_remove(w->reg, &tester, w->tenant[0], "sql", 1, REVISION_ANY, &orphans, &n, &draining, &e), e);
    free(orphans);
    assert_int_equal(add(w, "sql", 1), 2); /* not the one that goes */
    choice_close(w->reg, &c);
    assert_ok(registry_collect(w->reg, &orphans, &n, &draining, &e), e);
    assert_int_equal(n, 0);
    free(orphans);
    assert_int_equal(version_for(w, "sql", "r", NULL), 2);
}

static void a_rollback_is_undone_by_another(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    json_t *out;
    add(w, "sql", 1);
    add(w, "sql", 2);
    put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\",\"version\":1}],\"system_prefix\":\"a secret\"}", REVISION_ANY,
        &e);
    assert_int_equal(alias_rollback(w->reg, &tester, w->tenant[0], "prod", REVISION_ANY, served, NULL, &out, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    err_clear(&e);
    assert_true(put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\",\"version\":2}]}", 1, &e) == 2);
    assert_int_equal(put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\",\"version\":1}]}", 1, &e), -1);
    assert_int_equal(e.code, ERR_PRECONDITION);
    err_clear(&e);
    for (int i = 1; i <= 2; i++) {
        assert_ok(alias_rollback(w->reg, &tester, w->tenant[0], "prod", i + 1, served, NULL, &out, &e), e);
        assert_string_equal(json_string_value(json_object_get(out, "system_prefix")), i == 1 ? "a secret" : "");
        json_decref(out);
        assert_int_equal(version_for(w, "prod", "r", NULL), i);
    }
    assert_int_equal(
        room_number(&w->r, "SELECT count(*) FROM audit WHERE before LIKE '%a secret%' OR after LIKE '%a secret%'"), 0);
    assert_int_equal(room_number(&w->r, "SELECT count(*) FROM event WHERE detail LIKE '%a secret%'"), 0);
    assert_int_equal(room_number(&w->r, "SELECT count(*) FROM event WHERE type = 'alias.changed'"), 4);
}

static void a_put_of_what_stands_is_nothing_to_roll_back(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    json_t *out;
    add(w, "sql", 1);
    add(w, "sql", 2);
    put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\",\"version\":1}]}", REVISION_ANY, &e);
    put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\",\"version\":2}]}", REVISION_ANY, &e);
    assert_true(put(w, "prod",
                    "{\"policy\":\"weighted\",\"targets\":[{\"weight\":1,\"version\":2,\"adapter\":\"sql\"}]}", 2,
                    &e) == 3);
    assert_int_equal(room_number(&w->r, "SELECT count(*) FROM audit WHERE action LIKE 'alias.%'"), 2);
    assert_ok(alias_rollback(w->reg, &tester, w->tenant[0], "prod", REVISION_ANY, served, NULL, &out, &e), e);
    json_decref(out);
    assert_int_equal(version_for(w, "prod", "r", NULL), 1);
}

static void a_bad_alias_is_refused_by_field(void **state)
{
    struct reg_room *w = *state;
    static const struct {
        const char *name, *body, *param;
        enum err_code code;
    } rows[] = {
        {"p", "{}", "targets", ERR_MISSING},
        {"p", "{\"targets\":[]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":{}}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[1]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\",\"base\":\"smol\"}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"absent\"}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\",\"version\":9}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\",\"version\":0}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\",\"weight\":-1}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\",\"weight\":0}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\"},{\"adapter\":\"sql\"}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\",\"wieght\":1}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"base\":\"other\"}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"base\":\"smol\",\"version\":1}]}", "targets", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\"}],\"policy\":\"best\"}", "policy", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\"}],\"sticky\":1}", "sticky", ERR_INVALID},
        {"p", "{\"targets\":[{\"adapter\":\"sql\"}],\"extra\":1}", "extra", ERR_INVALID},
        {"Up", "{\"targets\":[{\"adapter\":\"sql\"}]}", "name", ERR_INVALID},
        {"smol", "{\"targets\":[{\"adapter\":\"sql\"}]}", "name", ERR_CONFLICT},
    };
    add(w, "sql", 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        if (put(w, rows[i].name, rows[i].body, REVISION_ANY, &e) != -1) fail_msg("%s was taken", rows[i].body);
        if (e.code != rows[i].code || strcmp(e.param, rows[i].param) != 0)
            fail_msg("%s: %s (%s)", rows[i].body, e.msg, e.param);
    }
    struct choice c;
    assert_int_equal(choose(w, "p", "r", NULL, &c, NULL), -1);
}

static void an_adapter_cannot_take_an_aliass_name(void **state)
{
    struct reg_room *w = *state;
    struct err e = {0};
    int version = 0;
    bool created;
    add(w, "sql", 1);
    put(w, "prod", "{\"targets\":[{\"adapter\":\"sql\"}]}", REVISION_ANY, &e);
    struct version_new v = {.name = "prod", .base = BASE};
    snprintf(v.tenant, sizeof v.tenant, "%s", w->tenant[0]);
    snprintf(v.digest, sizeof v.digest, "%s", digest(3));
    snprintf(v.file_sha256, sizeof v.file_sha256, "%s", digest(3));
    assert_int_equal(registry_add(w->reg, &tester, &v, &version, &created, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_string_equal(e.param, "name");
}

static void a_prompt_policy_goes_with_the_choice_and_there_is_none_without(void **state)
{
    struct reg_room *w = *state;
    struct choice c;
    struct err e = {0};
    add(w, "sql", 1);
    assert_true(put(w, "cut", "{\"targets\":[{\"adapter\":\"sql\"}],\"prompt_policy\":{\"truncate\":{\"max_tokens\":64}}}", REVISION_ANY, &e) > 0);
    assert_ok(choose(w, "cut", "r", "", &c, &e), e);
    assert_string_equal(c.part[ALIAS_PROMPT], "{\"truncate\":{\"head_tokens\":0,\"head_turns\":0,\"last_turns\":1,\"max_tokens\":64}}");
    choice_close(w->reg, &c);
    assert_true(put(w, "cut", "{\"targets\":[{\"adapter\":\"sql\"}]}", REVISION_ANY, &e) > 0);
    for (int i = 0; i < 2; i++) {
        assert_ok(choose(w, i ? "sql" : "cut", "r", "", &c, &e), e);
        assert_null(c.part[ALIAS_PROMPT]);
        choice_close(w->reg, &c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, reg_setup, reg_teardown)
        T(a_pick_covers_each_weight_and_nothing_else),
        T(shares_are_the_weights),
        T(a_user_stays_on_the_canary_that_grows),
        T(a_chain_names_all_that_can_serve_in_order),
        T(an_alias_decides_before_an_adapter_of_its_name),
        T(what_an_alias_points_at_stays_and_what_is_held_drains),
        T(a_version_that_comes_while_its_digest_goes_keeps_the_bytes),
        T(a_rollback_is_undone_by_another),
        T(a_put_of_what_stands_is_nothing_to_roll_back),
        T(a_bad_alias_is_refused_by_field),
        T(an_adapter_cannot_take_an_aliass_name),
        T(a_prompt_policy_goes_with_the_choice_and_there_is_none_without),
#undef T
    };
    return cmocka_run_group_tests_name("alias", tests, NULL, NULL);
}
