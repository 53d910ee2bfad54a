/* Tests of gateway/auth_keys and auth_tenants: scopes, bounds of who makes keys, rotation, revisions, the last admin, when a use is written. */
#include "base/clock.h"
#include "gateway/auth/auth_store.h"
#include "tests/unit/data_room.h"
#include <jansson.h>

struct keys_room {
    struct room r;
    struct auth *auth;
};

static const struct actor tester = {.key = "test", .ip = "127.0.0.1", .request = "r"};

static int setup(void **state)
{
    struct keys_room *k = calloc(1, sizeof *k);
    struct err e = {0};
    json_t *out;
    room_new(&k->r);
    room_start(&k->r);
    assert_ok(auth_open(&k->auth, k->r.db, &e), e);
    for (int i = 0; i < 2; i++) {
        assert_ok(tenant_create(k->auth, &tester, i ? "other" : "acme", 1, &out, &e), e);
        json_decref(out);
    }
    *state = k;
    return 0;
}

static int teardown(void **state)
{
    struct keys_room *k = *state;
    auth_close(k->auth);
    room_end(&k->r);
    free(k);
    return 0;
}

struct made {
    char text[KEY_TEXT_LEN], id[KEY_ID_LEN];
};

static const char *text_of(const json_t *o, const char *member)
{
    return json_string_value(json_object_get(o, member));
}

static int64_t number_of(const json_t *o, const char *member)
{
    return json_integer_value(json_object_get(o, member));
}

/* Takes over o. */
static struct made take(json_t *o)
{
    struct made m;
    snprintf(m.text, sizeof m.text, "%s", text_of(o, "key"));
    snprintf(m.id, sizeof m.id, "%s", text_of(o, "id"));
    json_decref(o);
    return m;
}

static struct made make(struct keys_room *k, const struct key_wish *w)
{
    struct err e = {0};
    json_t *out;
    assert_ok(key_create(k->auth, &tester, w, &out, &e), e);
    return take(out);
}

static struct made make_role(struct keys_room *k, const char *tenant, const char *role)
{
    return make(k, &(struct key_wish){.tenant = tenant, .name = "n", .role = {role}, .nroles = 1});
}

static enum err_code code_of(struct keys_room *k, const struct made *m, bool admin, unsigned scope, struct principal *p)
{
    struct err e = {0};
    int rc =
        admin ? auth_check_admin(k->auth, m->text, scope, p, &e) : auth_check(k->auth, m->text, NULL, scope, p, &e);
    assert_int_equal(rc, e.code ? -1 : 0);
    return e.code;
}

static bool works(struct keys_room *k, const struct made *m)
{
    struct principal p;
    return code_of(k, m, false, 0, &p) == ERR_NONE;
}

static json_t *get(struct keys_room *k, bool admin, const char *id)
{
    struct err e = {0};
    json_t *out;
    assert_ok(key_get(k->auth, &(struct key_reach){.admin = admin}, id, &out, &e), e);
    return out;
}

static int64_t entries(struct keys_room *k)
{
    struct err e = {0};
    bool more;
    json_t *list = json_array();
    assert_ok(audit_list(k->r.db, 0, 1, list, &more, &e), e);
    int64_t seq = number_of(json_array_get(list, 0), "seq");
    json_decref(list);
    return seq;
}

/* --- scopes --- */

static void each_scope_alone_allows_itself_and_nothing_else(void **state)
{
    struct keys_room *k = *state;
    static const struct {
        const char *word;
        bool admin;
        unsigned scope;
    } rows[] = {
        {"inference", false, SCOPE_INFER}, {"adapters", false, SCOPE_WRITE}, {"usage", false, SCOPE_USAGE},
        {"keys", false, SCOPE_KEYS},       {"read", true, SCOPE_ADMIN_READ}, {"write", true, SCOPE_ADMIN},
    };
    enum { ROWS = sizeof rows / sizeof *rows };
    for (int i = 0; i < ROWS; i++) {
        struct principal p;
        struct key_wish w = {
            .tenant = rows[i].admin ? NULL : "acme", .name = "", .scope = {rows[i].word}, .nscopes = 1};
        struct made m = make(k, &w);
        for (int j = 0; j < ROWS; j++) {
            if (rows[j].admin != rows[i].admin) continue;
            enum err_code want = i == j ? ERR_NONE : ERR_FORBIDDEN;
            assert_int_equal(code_of(k, &m, rows[i].admin, rows[j].scope, &p), want);
        }
        json_t *row = get(k, rows[i].admin, m.id);
        assert_int_equal(json_array_size(json_object_get(row, "roles")), 0);
        assert_int_equal(json_array_size(json_object_get(row, "scopes")), 1);
        assert_string_equal(json_string_value(json_array_get(json_object_get(row, "scopes"), 0)), rows[i].word);
        json_decref(row);
        w.tenant = rows[i].admin ? "acme" : NULL; /* the other kind has no such word */
        struct err e = {0};
        assert_int_equal(key_create(k->auth, &tester, &w, &row, &e), -1);
        assert_string_equal(e.param, "scopes");
    }
}

static void roles_and_scopes_add_up(void **state)
{
    struct keys_room *k = *state;
    struct principal p;
    struct made m = make(k, &(struct key_wish){.tenant = "acme",
                                               .name = "",
                                               .role = {"billing"},
                                               .nroles = 1,
                                               .scope = {"inference", "usage"},
                                               .nscopes = 2});
    assert_int_equal(code_of(k, &m, false, SCOPE_USAGE | SCOPE_INFER, &p), ERR_NONE);
    assert_int_equal(p.scopes, SCOPE_USAGE | SCOPE_INFER);
}

/* --- who makes keys --- */

static int try_as(struct keys_room *k, const struct made *maker, const char *scope, int64_t expires, struct err *e)
{
    json_t *out = NULL;
    struct key_wish w = {
        .tenant = "acme", .maker = maker->id, .name = "", .scope = {scope}, .nscopes = 1, .expires = expires};
    int rc = key_create(k->auth, &tester, &w, &out, e);
    json_decref(out);
    return rc;
}

static void no_key_makes_one_that_may_more_than_itself(void **state)
{
    struct keys_room *k = *state;
    struct made maker =
        make(k, &(struct key_wish){.tenant = "acme", .name = "", .scope = {"keys", "inference"}, .nscopes = 2});
    int64_t before = entries(k);
    struct err e = {0}, f = {0};
    assert_int_equal(try_as(k, &maker, "usage", 0, &e), -1);
    assert_int_equal(e.code, ERR_FORBIDDEN);
    assert_int_equal(try_as(k, &maker, "adapters", 0, &f), -1);
    assert_int_equal(f.code, ERR_FORBIDDEN);
    assert_int_equal(entries(k), before);
    struct err g = {0};
    assert_ok(try_as(k, &maker, "inference", 0, &g), g);
    assert_ok(try_as(k, &maker, "keys", 0, &g), g);
}

static void no_key_makes_one_that_outlives_it(void **state)
{
    struct keys_room *k = *state;
    int64_t end = clock_wall_us() / 1000000 + 1000;
    struct made maker =
        make(k, &(struct key_wish){.tenant = "acme", .name = "", .role = {"admin"}, .nroles = 1, .expires = end});
    const int64_t late[] = {0, end + 1};
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        assert_int_equal(try_as(k, &maker, "usage", late[i], &e), -1);
        assert_string_equal(e.param, "expires_at");
    }
    struct err e = {0};
    assert_ok(try_as(k, &maker, "usage", end, &e), e);
}

static void a_key_that_was_revoked_makes_none_even_when_its_request_was_let_in(void **state)
{
    struct keys_room *k = *state;
    struct made maker = make_role(k, "acme", "admin");
    struct err e = {0}, f = {0};
    json_t *out;
    assert_ok(key_revoke(k->auth, &tester, &(struct key_reach){0}, maker.id, 0, &out, &e), e);
    json_decref(out);
    assert_int_equal(try_as(k, &maker, "usage", 0, &f), -1);
    assert_int_equal(f.code, ERR_UNAUTHORIZED);
}

static void a_key_of_another_tenant_or_kind_is_not_found(void **state)
{
    struct keys_room *k = *state;
    struct made acme = make_role(k, "acme", "admin"), other = make_role(k, "other", "admin"),
                admin = make_role(k, NULL, "admin");
    struct principal p;
    assert_int_equal(code_of(k, &acme, false, 0, &p), ERR_NONE);
    struct key_reach own = {.tenant = p.tenant, .maker = acme.id};
    const char *const out_of_reach[] = {other.id, admin.id, "absent", ""};
    for (int i = 0; i < 4; i++) {
        json_t *out;
        struct err e[3] = {0};
        assert_int_equal(key_get(k->auth, &own, out_of_reach[i], &out, &e[0]), -1);
        assert_int_equal(key_revoke(k->auth, &tester, &own, out_of_reach[i], 0, &out, &e[1]), -1);
        assert_int_equal(key_rotate(k->auth, &tester, &own, out_of_reach[i], &(struct key_rotation){0}, &out, &e[2]),
                         -1);
        for (int j = 0; j < 3; j++) assert_int_equal(e[j].code, ERR_NOT_FOUND);
    }
    assert_true(works(k, &other));
}

static void a_key_has_no_say_over_one_that_may_more(void **state)
{
    struct keys_room *k = *state;
    struct made wide = make_role(k, "acme", "admin");
    struct made maker = make(k, &(struct key_wish){.tenant = "acme", .name = "", .scope = {"keys"}, .nscopes = 1});
    struct key_reach in = {.maker = maker.id};
    struct err e = {0}, f = {0};
    json_t *out;
    assert_int_equal(key_rotate(k->auth, &tester, &in, wide.id, &(struct key_rotation){.grace_s = 9}, &out, &e), -1);
    assert_int_equal(e.code, ERR_FORBIDDEN);
    assert_int_equal(key_revoke(k->auth, &tester, &in, wide.id, 0, &out, &f), -1);
    assert_int_equal(f.code, ERR_FORBIDDEN);
    assert_true(works(k, &wide));
}

static int put_limit(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char limit[] = "INSERT INTO limits(subject, requests_per_minute, tokens_per_day, revision, changed) "
                                "VALUES('key:' || ?1, 7, 1000, 4, 5)";
    static const char use[] =
        "INSERT INTO budget_use(subject, period, t, tokens, cost) VALUES('key:' || ?1, 0, 86400, 900, 3)";
    sqlite3_stmt *st = db_stmt(d, c, limit, e);
    if (!st || db_bind(st, e, "s", (const char *)u) || db_done(st, e)) return -1;
    st = db_stmt(d, c, use, e);
    return st && db_bind(st, e, "s", (const char *)u) == 0 ? db_done(st, e) : -1;
}

static int count_limit(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT l.requests_per_minute + l.tokens_per_day + b.tokens FROM limits l JOIN "
                              "budget_use b ON b.subject = l.subject"
                              " WHERE l.subject = 'key:' || ?1 AND l.concurrent_requests IS NULL";
    struct {
        char id[KEY_ID_LEN];
        int64_t sum;
    } *w = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    if (!st || db_bind(st, e, "s", w->id) || db_row(st, e) != 1) return -1;
    w->sum = sqlite3_column_int64(st, 0);
    return 0;
}

static void assert_limited(struct keys_room *k, const char *id)
{
    struct err e = {0};
    struct {
        char id[KEY_ID_LEN];
        int64_t sum;
    } w = {0};
    snprintf(w.id, sizeof w.id, "%s", id);
    assert_ok(db_read(k->r.db, count_limit, &w, 1000, &e), e);
    assert_int_equal(w.sum, 1907);
}

static void limits_of_a_key_bind_those_it_makes_and_the_one_that_replaces_it(void **state)
{
    struct keys_room *k = *state;
    struct made maker = make_role(k, "acme", "admin");
    struct err e = {0};
    json_t *out;
    assert_ok(db_write_wait(k->r.db, put_limit, maker.id, &e), e);
    struct made child = make(
        k, &(struct key_wish){.tenant = "acme", .maker = maker.id, .name = "", .role = {"inference"}, .nroles = 1});
    assert_limited(k, child.id);
    assert_ok(
        key_rotate(k->auth, &tester, &(struct key_reach){0}, child.id, &(struct key_rotation){.grace_s = 5}, &out, &e),
        e);
    struct made next = take(out);
    assert_limited(k, next.id);
}

/* --- rotation --- */

static json_t *rotate(struct keys_room *k, const char *id, int grace_s, int64_t expires)
{
    struct err e = {0};
    json_t *out;
    assert_ok(key_rotate(k->auth, &tester, &(struct key_reach){0}, id,
                         &(struct key_rotation){.grace_s = grace_s, .expires = expires}, &out, &e),
              e);
    return out;
}

static void a_rotated_key_is_valid_until_its_grace_is_over(void **state)
{
    struct keys_room *k = *state;
    struct made old =
        make(k, &(struct key_wish){.tenant = "acme", .name = "nightly", .role = {"writer", "billing"}, .nroles = 2});
    json_t *out = rotate(k, old.id, 1, 0), *was = json_object_get(out, "replaces");
    assert_string_equal(text_of(out, "name"), "nightly");
    assert_int_equal(json_array_size(json_object_get(out, "roles")), 2);
    assert_string_equal(text_of(was, "id"), old.id);
    assert_string_equal(text_of(was, "replaced_by"), text_of(out, "id"));
    assert_true(json_is_null(json_object_get(out, "expires_at")));
    struct made next = take(json_incref(out));
    assert_true(works(k, &old) && works(k, &next));
    int64_t end = clock_wall_us() + 5000000;
    while (works(k, &old) && clock_wall_us() < end) usleep(20000);
    assert_false(works(k, &old));
    assert_true(works(k, &next));
    json_decref(out);
}

static void without_grace_the_old_key_is_refused_at_once(void **state)
{
    struct keys_room *k = *state;
    struct made old = make_role(k, "acme", "writer"), next = take(rotate(k, old.id, 0, 0));
    assert_false(works(k, &old));
    assert_true(works(k, &next));
    json_t *row = get(k, false, old.id);
    assert_true(json_is_integer(json_object_get(row, "revoked_at")));
    json_decref(row);
}

static void a_rotation_never_lengthens_the_old_keys_life(void **state)
{
    struct keys_room *k = *state;
    int64_t now = clock_wall_us() / 1000000;
    struct made old = make(
        k, &(struct key_wish){.tenant = "acme", .name = "", .role = {"writer"}, .nroles = 1, .expires = now + 100});
    json_t *out = rotate(k, old.id, 1000, 0);
    assert_int_equal(number_of(json_object_get(out, "replaces"), "expires_at"), now + 100);
    assert_in_range(number_of(out, "expires_at"), now + 99, now + 102); /* as long as the old one was to live */
    json_decref(out);
    struct made third = make_role(k, "acme", "writer");
    out = rotate(k, third.id, 1000, now + 77);
    assert_int_equal(number_of(out, "expires_at"), now + 77);
    json_decref(out);
}

static void a_key_that_is_over_cannot_be_rotated(void **state)
{
    struct keys_room *k = *state;
    struct made gone = make_role(k, "acme", "writer"), replaced = make_role(k, "acme", "writer");
    struct made expired =
        make(k, &(struct key_wish){.tenant = "acme", .name = "", .role = {"writer"}, .nroles = 1, .expires = 1});
    struct err e = {0};
    json_t *out;
    assert_ok(key_revoke(k->auth, &tester, &(struct key_reach){0}, gone.id, 0, &out, &e), e);
    json_decref(out);
    json_decref(rotate(k, replaced.id, 100, 0));
    const char *const ids[] = {gone.id, replaced.id, expired.id};
    int64_t before = entries(k);
    for (int i = 0; i < 3; i++) {
        struct err f = {0};
        assert_int_equal(
            key_rotate(k->auth, &tester, &(struct key_reach){0}, ids[i], &(struct key_rotation){0}, &out, &f), -1);
        assert_int_equal(f.code, ERR_CONFLICT);
    }
    assert_int_equal(entries(k), before);
}

/* --- changes --- */

static void a_change_of_another_revision_is_refused_and_one_of_this_raises_it(void **state)
{
    struct keys_room *k = *state;
    struct made m = make_role(k, "acme", "admin");
    struct key_wish less = {.scope = {"usage"}, .nscopes = 1};
    struct principal p;
    json_t *out;
    struct err e = {0}, f = {0};
    struct key_change c = {.rights = &less, .name = "renamed", .revision = 1};
    assert_ok(key_update(k->auth, &tester, &(struct key_reach){0}, m.id, &c, &out, &e), e);
    assert_int_equal(number_of(out, "revision"), 2);
    assert_string_equal(text_of(out, "name"), "renamed");
    json_decref(out);
    assert_int_equal(code_of(k, &m, false, SCOPE_INFER, &p), ERR_FORBIDDEN);
    assert_int_equal(code_of(k, &m, false, SCOPE_USAGE, &p), ERR_NONE);
    assert_int_equal(key_update(k->auth, &tester, &(struct key_reach){0}, m.id, &c, &out, &f), -1);
    assert_int_equal(f.code, ERR_PRECONDITION);
}

static void an_end_is_set_and_taken_back(void **state)
{
    struct keys_room *k = *state;
    struct made m = make_role(k, "acme", "admin");
    struct err e = {0};
    json_t *out;
    const int64_t ends[] = {1, 0};
    for (int i = 0; i < 2; i++) {
        struct key_change c = {.set_expires = true, .expires = ends[i]};
        assert_ok(key_update(k->auth, &tester, &(struct key_reach){0}, m.id, &c, &out, &e), e);
        json_decref(out);
        assert_int_equal(works(k, &m), i);
    }
}

static void the_last_admin_key_stays(void **state)
{
    struct keys_room *k = *state;
    struct key_reach in = {.admin = true};
    struct made first = make_role(k, NULL, "admin"), viewer = make_role(k, NULL, "viewer");
    make(k, &(struct key_wish){.name = "", .role = {"admin"}, .nroles = 1, .expires = 1}); /* is over */
    struct principal p;
    json_t *out;
    struct err e = {0}, f = {0};
    assert_int_equal(key_revoke(k->auth, &tester, &in, first.id, 0, &out, &e), -1);
    assert_int_equal(e.code, ERR_CONFLICT);
    assert_int_equal(code_of(k, &first, true, SCOPE_ADMIN, &p), ERR_NONE);
    assert_ok(key_revoke(k->auth, &tester, &in, viewer.id, 0, &out, &f), f);
    json_decref(out);
    make(k, &(struct key_wish){.name = "", .scope = {"write"}, .nscopes = 1});
    assert_ok(key_revoke(k->auth, &tester, &in, first.id, 0, &out, &f), f);
    json_decref(out);
    assert_int_equal(code_of(k, &first, true, 0, &p), ERR_UNAUTHORIZED);
}

static void a_tenants_fields_reach_the_principal_at_once(void **state)
{
    struct keys_room *k = *state;
    struct made m = make_role(k, "acme", "inference");
    struct principal p;
    assert_int_equal(code_of(k, &m, false, 0, &p), ERR_NONE);
    assert_true(!p.private && p.deadline_ms == 0 && strcmp(p.class, "normal") == 0);
    struct tenant_change c = {.set_private = true,
                              .private = true,
                              .class = "interactive",
                              .set_deadline = true,
                              .deadline_ms = 1500,
                              .revision = 1};
    struct err e = {0}, f = {0}, g = {0};
    json_t *out;
    assert_ok(tenant_update(k->auth, &tester, "acme", &c, &out, &e), e);
    assert_int_equal(number_of(out, "revision"), 2);
    json_decref(out);
    assert_int_equal(code_of(k, &m, false, 0, &p), ERR_NONE);
    assert_true(p.private && p.deadline_ms == 1500 && strcmp(p.class, "interactive") == 0);
    assert_int_equal(tenant_update(k->auth, &tester, "acme", &c, &out, &f), -1);
    assert_int_equal(f.code, ERR_PRECONDITION);
    c = (struct tenant_change){.class = "fast"};
    assert_int_equal(tenant_update(k->auth, &tester, "acme", &c, &out, &g), -1);
    assert_string_equal(g.param, "class");
}

/* --- lists --- */

static void a_list_goes_back_as_it_went_forward(void **state)
{
    struct keys_room *k = *state;
    struct err e = {0};
    bool more;
    json_t *all = json_array(), *back = json_array(), *x;
    size_t i;
    for (int n = 0; n < 5; n++) make_role(k, "acme", "writer");
    assert_ok(key_list(k->auth, "acme", &(struct page){"", "", 100}, all, &more, &e), e);
    assert_int_equal(json_array_size(all), 5);
    assert_false(more);
    const char *fourth = text_of(json_array_get(all, 3), "id");
    assert_ok(key_list(k->auth, "acme", &(struct page){"", fourth, 2}, back, &more, &e), e);
    assert_true(more);
    json_array_foreach(back, i, x) assert_string_equal(text_of(x, "id"), text_of(json_array_get(all, i + 1), "id"));
    assert_int_equal(json_array_size(back), 2);
    json_decref(all);
    json_decref(back);
}

/* --- uses --- */

static int64_t last_used(struct keys_room *k, const char *id)
{
    json_t *row = get(k, false, id);
    int64_t at = number_of(row, "last_used_at");
    json_decref(row);
    return at;
}

static int nothing(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)u, (void)e;
    return 0;
}

static void uses_are_written_together_and_later_not_one_by_one(void **state)
{
    struct keys_room *k = *state;
    struct made m[3];
    struct err e = {0};
    for (int i = 0; i < 3; i++) m[i] = make_role(k, "acme", "writer");
    for (int i = 0; i < 3000; i++) assert_true(works(k, &m[i % 2]));
    auth_note_uses(k->auth); /* the minute is not over */
    assert_ok(db_write_wait(k->r.db, nothing, NULL, &e), e);
    for (int i = 0; i < 3; i++) assert_int_equal(last_used(k, m[i].id), 0);
    assert_ok(auth_reload(k->auth, &e), e); /* what is not written yet outlives the snapshot */
    auth_close(k->auth);
    assert_ok(db_write_wait(k->r.db, nothing, NULL, &e), e);
    assert_ok(auth_open(&k->auth, k->r.db, &e), e);
    int64_t now = clock_wall_us() / 1000000;
    for (int i = 0; i < 2; i++) assert_in_range(last_used(k, m[i].id), now - 60, now);
    assert_int_equal(last_used(k, m[2].id), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        T(each_scope_alone_allows_itself_and_nothing_else),
        T(roles_and_scopes_add_up),
        T(no_key_makes_one_that_may_more_than_itself),
        T(no_key_makes_one_that_outlives_it),
        T(a_key_that_was_revoked_makes_none_even_when_its_request_was_let_in),
        T(a_key_of_another_tenant_or_kind_is_not_found),
        T(a_key_has_no_say_over_one_that_may_more),
        T(limits_of_a_key_bind_those_it_makes_and_the_one_that_replaces_it),
        T(a_rotated_key_is_valid_until_its_grace_is_over),
        T(without_grace_the_old_key_is_refused_at_once),
        T(a_rotation_never_lengthens_the_old_keys_life),
        T(a_key_that_is_over_cannot_be_rotated),
        T(a_change_of_another_revision_is_refused_and_one_of_this_raises_it),
        T(an_end_is_set_and_taken_back),
        T(the_last_admin_key_stays),
        T(a_tenants_fields_reach_the_principal_at_once),
        T(a_list_goes_back_as_it_went_forward),
        T(uses_are_written_together_and_later_not_one_by_one),
#undef T
    };
    return cmocka_run_group_tests_name("keys", tests, NULL, NULL);
}
