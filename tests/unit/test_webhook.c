/* Tests of gateway/webhook: signatures against the specification's example, secrets at rest, which URLs and events are meant, and batches: what is in
 * them, where they end, and that the same places give the same bytes. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/live/event.h"
#include "gateway/settings.h"
#include "gateway/webhook/webhook_impl.h"
#include "tests/unit/data_room.h"

struct hook_room {
    struct room r;
    struct settings set;
    struct gateway g;
    struct webhooks w;
    struct hook h;
};

static int run_sql(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d;
    return sqlite3_exec(c, u, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(c, u, e);
}

static void sql(struct hook_room *x, const char *text)
{
    struct err e = {0};
    assert_ok(db_write_wait(x->r.db, run_sql, (void *)text, &e), e);
}

static int setup(void **state)
{
    struct hook_room *x = calloc(1, sizeof *x);
    struct err e = {0};
    room_new(&x->r);
    room_start(&x->r);
    x->set.currency = "USD";
    x->set.webhook_hosts = "127.0.0.1, hooks.lan:8443";
    x->g.db = x->r.db;
    x->g.set = &x->set;
    assert_ok(ledger_open(&x->g.ledger, x->r.db, &e), e);
    x->w.g = &x->g;
    snprintf(x->w.source, sizeof x->w.source, "urn:weft:test");
    x->h = (struct hook){.all = &x->w, .usage = true, .events = "*", .id = "01a2039e-1bc4-7001-a2e2-88814ac3d4ec"};
    sql(x, "INSERT INTO tenant(id, name, weight, created) VALUES('t1', 'acme', 1, 0), ('t2', 'other', 1, 0);"
           "INSERT INTO webhook(id, tenant, name, url, secret, usage, usage_seq, event_seq, created) VALUES('w', '', 'w', '', x'00', 1, 0, 0, 0)");
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct hook_room *x = *state;
    ledger_close(x->g.ledger);
    room_end(&x->r);
    free(x);
    return 0;
}

/* --- signatures and secrets --- */

/* HMAC fills keys with zeros: one of 24 bytes is one of 32. */
static const uint8_t example[SHA256_BYTES] = {0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4,
                                              0x3c, 0x3f, 0x08, 0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0};
#define EXAMPLE_SIGNED "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

static void a_message_is_signed_as_in_the_specifications_example(void **state)
{
    (void)state;
    static const char body[] = "{\"test\": 2432232314}";
    struct webhook_secret s = {.before_until = 1614265331};
    struct webhook_headers h;
    struct err e = {0};
    memcpy(s.now, example, sizeof s.now);
    s.before[0] = 1;
    assert_ok(webhook_sign(&s, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265331, body, sizeof body - 1, &h, &e), e);
    assert_null(strchr(strstr(h.signature, "v1,"), ' ')); /* the grace is over */
    assert_ok(webhook_sign(&s, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, sizeof body - 1, &h, &e), e);
    assert_string_equal(h.id, "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek");
    assert_string_equal(h.timestamp, "webhook-timestamp: 1614265330");
    assert_memory_equal(h.signature, "webhook-signature: " EXAMPLE_SIGNED " v1,", strlen("webhook-signature: " EXAMPLE_SIGNED " v1,"));
    assert_null(h.line[5]);
    snprintf(s.authorization, sizeof s.authorization, "Bearer x");
    assert_ok(webhook_sign(&s, "m", 1, body, 1, &h, &e), e);
    assert_string_equal(h.line[5], "Authorization: Bearer x");
    assert_null(h.line[6]);
}

static void a_sealed_secret_opens_in_its_own_row_only(void **state)
{
    struct hook_room *x = *state;
    struct webhook_secret s = {.before_until = 7, .authorization = "Bearer x"}, out;
    struct err e = {0};
    struct buf sealed;
    buf_init(&sealed, 4096);
    assert_ok(webhook_secret_new(s.now, &e), e);
    assert_ok(webhook_secret_seal(x->r.db, "a", &s, &sealed, &e), e);
    assert_ok(webhook_secret_open(x->r.db, "a", sealed.data, sealed.len, &out, &e), e);
    assert_memory_equal(&s, &out, sizeof s);
    assert_int_equal(webhook_secret_open(x->r.db, "b", sealed.data, sealed.len, &out, NULL), -1);
    assert_int_equal(webhook_secret_open(x->r.db, "a", sealed.data, sealed.len - 1, &out, NULL), -1);
    assert_null(memmem(sealed.data, sealed.len, s.now, sizeof s.now));
    buf_close(&sealed);
}

/* --- URLs and types --- */

static void urls_are_https_or_of_listed_hosts(void **state)
{
    struct hook_room *x = *state;
    static const struct {
        const char *url;
        int rc;
        bool listed;
    } row[] = {{"https://example.com/x?y", 0, false},    {"http://127.0.0.1:9/x", 0, true},    {"https://127.0.0.1/x", 0, true},
               {"http://HOOKS.lan:8443/", 0, true},      {"http://hooks.lan:8444/", -1, false}, {"http://example.com/", -1, false},
               {"http://127.0.0.1@evil.example/", -1, false}, {"http://127.0.0.1.evil.example/", -1, false}, {"https://u:p@example.com/", -1, false},
               {"ftp://127.0.0.1/", -1, false},          {"https://", -1, false},              {"https:///x", -1, false},
               {"https://ex\nample/", -1, false},        {"https://ex\\ample/", -1, false},    {"", -1, false},
               {"http://127.0.0.1\\@evil.example/", -1, false}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        bool listed = false;
        if (hook_check_url(&x->g, row[i].url, &listed, NULL) != row[i].rc) fail_msg("%s", row[i].url);
        if (row[i].rc == 0) assert_int_equal(listed, row[i].listed);
    }
}

static void events_are_wanted_by_the_beginning_of_their_type(void **state)
{
    (void)state;
    static const struct {
        const char *prefixes, *type;
        bool wanted;
    } row[] = {{"", "alias.changed", false},        {"*", "alias.changed", true},          {"alias.", "alias.changed", true},
               {"alias.changed", "alias.", false},  {"budget.,alias.", "alias.changed", true}, {"budget.,ali", "budget.soft", true},
               {"budget.soft", "budget.hard", false}, {"a,b,*", "zebra", true}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (hook_wants_event(row[i].prefixes, row[i].type) != row[i].wanted) fail_msg("%s %s", row[i].prefixes, row[i].type);
}

/* --- batches --- */

static void settled(void *u)
{
    ++*(_Atomic int *)u;
}

/* n requests, in turn of both tenants where `both`. */
static void settle(struct hook_room *x, int n, bool both)
{
    _Atomic int done = 0;
    for (int i = 0; i < n; i++) {
        struct admission a = {.endpoint = "/v1/chat/completions", .t_start = clock_wall_us(), .model = "sm\"ol"};
        struct settlement s = {.state = USAGE_COMPLETED, .http_status = 200, .finish = "stop", .t_end = a.t_start + 5, .prompt = 3, .delivered = 2};
        uuid7(a.id);
        snprintf(a.who.tenant, sizeof a.who.tenant, both && i % 2 ? "t2" : "t1");
        snprintf(a.what.base, sizeof a.what.base, "smol");
        ledger_settle(x->g.ledger, &a, &s, settled, &done);
    }
    while (done < n) usleep(500);
}

static json_t *parsed(const struct batch *b)
{
    json_error_t why;
    json_t *list = json_loadb(b->body.data, b->body.len, 0, &why);
    if (!list) fail_msg("%s at %d", why.text, why.position);
    assert_int_equal(json_array_size(list), b->n);
    assert_true(b->body.len <= BATCH_BYTES);
    return list;
}

static const char *text(const json_t *o, const char *name)
{
    return json_string_value(json_object_get(o, name));
}

static void a_batch_ends_at_its_number_and_the_next_goes_on_from_there(void **state)
{
    struct hook_room *x = *state;
    struct err e = {0};
    int seen = 0, sizes[3] = {100, 100, 50};
    settle(x, 250, true);
    for (int i = 0; i < 3; i++) {
        struct batch b;
        assert_ok(hooks_heads(&x->w, &e), e);
        batch_init(&b, BATCH_EVENTS);
        assert_ok(batch_live(&x->w, &x->h, NULL, &b, &e), e);
        json_t *list = parsed(&b), *first = json_array_get(list, 0), *data = json_object_get(first, "data");
        assert_int_equal(b.n, sizes[i]);
        assert_string_equal(text(first, "type"), "weft.usage.settled");
        assert_string_equal(text(first, "subject"), "acme");
        assert_string_equal(text(json_array_get(list, 1), "subject"), "other");
        assert_string_equal(text(data, "model"), "sm\"ol");
        assert_int_equal(json_integer_value(json_object_get(data, "output_tokens")), 2);
        seen += b.n;
        x->h.at = b.to;
        json_decref(list);
        batch_close(&b);
    }
    assert_int_equal(x->h.at.usage, room_number(&x->r, "SELECT max(seq) FROM outbox"));
    assert_int_equal(seen, 250);
}

static void a_tenants_batch_has_its_own_and_passes_the_rest(void **state)
{
    struct hook_room *x = *state;
    struct err e = {0};
    struct batch b;
    settle(x, 20, true);
    snprintf(x->h.tenant, sizeof x->h.tenant, "t2");
    assert_ok(hooks_heads(&x->w, &e), e);
    batch_init(&b, BATCH_EVENTS);
    assert_ok(batch_live(&x->w, &x->h, NULL, &b, &e), e);
    assert_int_equal(b.n, 10);
    assert_int_equal(b.to.usage, x->w.heads.usage);
    json_decref(parsed(&b));
    batch_close(&b);
    snprintf(x->h.tenant, sizeof x->h.tenant, "t3");
    batch_init(&b, BATCH_EVENTS);
    assert_ok(batch_live(&x->w, &x->h, NULL, &b, &e), e);
    assert_int_equal(b.n, 0);
    assert_int_equal(b.to.usage, x->w.heads.usage);
    batch_close(&b);
}

static int add_event(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    return event_add(d, c, "t1", "adapter.checked", "sql", u, e);
}

static void a_batch_ends_at_its_bytes_and_none_is_lost(void **state)
{
    struct hook_room *x = *state;
    struct err e = {0};
    char big[15000];
    int seen = 0, batches = 0;
    memset(big, '<', sizeof big);
    big[sizeof big - 1] = 0;
    json_t *detail = json_pack("{ss}", "text", big);
    for (int i = 0; i < 40; i++) assert_ok(db_write_wait(x->r.db, add_event, detail, &e), e);
    json_decref(detail);
    settle(x, 5, false);
    for (; seen < 45; batches++) {
        struct batch b, again;
        assert_ok(hooks_heads(&x->w, &e), e);
        batch_init(&b, BATCH_EVENTS);
        batch_init(&again, BATCH_EVENTS);
        assert_ok(batch_live(&x->w, &x->h, NULL, &b, &e), e);
        assert_true(b.n > 0);
        settle(x, 1, false); /* what comes meanwhile is not in a batch that is tried again */
        assert_ok(hooks_heads(&x->w, &e), e);
        assert_ok(batch_live(&x->w, &x->h, &b.to, &again, &e), e);
        assert_int_equal(again.body.len, b.body.len);
        assert_memory_equal(again.body.data, b.body.data, b.body.len);
        seen += b.n;
        x->h.at = b.to;
        json_decref(parsed(&b));
        batch_close(&b);
        batch_close(&again);
    }
    assert_true(batches >= 3);
}

static void first_id(struct hook_room *x, char out[HOOK_ID_TEXT])
{
    struct err e = {0};
    struct batch b;
    assert_ok(hooks_heads(&x->w, &e), e);
    batch_init(&b, 1);
    assert_ok(batch_live(&x->w, &x->h, NULL, &b, &e), e);
    json_t *list = parsed(&b);
    snprintf(out, HOOK_ID_TEXT, "%s", text(json_array_get(list, 0), "id"));
    json_decref(list);
    batch_close(&b);
}

static void an_event_after_a_restore_is_not_taken_for_one_that_had_its_number(void **state)
{
    struct hook_room *x = *state;
    struct err e = {0};
    char before[HOOK_ID_TEXT], again[HOOK_ID_TEXT], after[HOOK_ID_TEXT];
    assert_ok(db_write_wait(x->r.db, add_event, NULL, &e), e);
    first_id(x, before);
    first_id(x, again);
    sql(x, "DELETE FROM event; DELETE FROM sqlite_sequence WHERE name = 'event'");
    usleep(2000);
    assert_ok(db_write_wait(x->r.db, add_event, NULL, &e), e);
    first_id(x, after);
    assert_string_equal(before, again);
    assert_string_not_equal(before, after);
    assert_int_equal(room_number(&x->r, "SELECT max(seq) FROM event"), 1);
}

static void raw_rows_come_again_by_time_and_the_end_is_told(void **state)
{
    struct hook_room *x = *state;
    struct err e = {0};
    int seen = 0, batches = 0;
    settle(x, 230, true);
    snprintf(x->h.tenant, sizeof x->h.tenant, "t1");
    x->h.at.replay = (struct replay){.start = clock_wall_us() / 1000000 - 3600, .until = clock_wall_us() / 1000000 + 1};
    for (; x->h.at.replay.until; batches++) {
        struct batch b, again;
        batch_init(&b, BATCH_EVENTS);
        batch_init(&again, BATCH_EVENTS);
        assert_ok(batch_replay(&x->w, &x->h, NULL, &b, &e), e);
        if (b.n) assert_ok(batch_replay(&x->w, &x->h, &b.to, &again, &e), e);
        if (b.n) assert_int_equal(again.body.len, b.body.len);
        if (b.n) assert_memory_equal(again.body.data, b.body.data, b.body.len);
        seen += b.n;
        x->h.at = b.to;
        json_decref(parsed(&b));
        batch_close(&b);
        batch_close(&again);
    }
    assert_int_equal(seen, 115);
    assert_int_equal(batches, 3); /* 100, 15, none */
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_message_is_signed_as_in_the_specifications_example),
        cmocka_unit_test_setup_teardown(a_sealed_secret_opens_in_its_own_row_only, setup, teardown),
        cmocka_unit_test_setup_teardown(urls_are_https_or_of_listed_hosts, setup, teardown),
        cmocka_unit_test(events_are_wanted_by_the_beginning_of_their_type),
        cmocka_unit_test_setup_teardown(a_batch_ends_at_its_number_and_the_next_goes_on_from_there, setup, teardown),
        cmocka_unit_test_setup_teardown(a_tenants_batch_has_its_own_and_passes_the_rest, setup, teardown),
        cmocka_unit_test_setup_teardown(a_batch_ends_at_its_bytes_and_none_is_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(an_event_after_a_restore_is_not_taken_for_one_that_had_its_number, setup, teardown),
        cmocka_unit_test_setup_teardown(raw_rows_come_again_by_time_and_the_end_is_told, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
