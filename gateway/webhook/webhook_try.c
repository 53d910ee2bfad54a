/* webhook_try: one event of the type weft.webhook.test, now, whatever the webhook's state, and how it went as the answer.
 *
 * It goes the way of all batches (same client, guard, signature), but stands in no queue and moves nothing. The request waits for the exchange,
 * not a thread: the handler returns, the client's last callback answers. At most WEBHOOK_TRIES_MAX at a time, TRY_TOTAL_MS each. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/api/admin_api.h"
#include "gateway/proxy/chat_api.h"
#include "gateway/webhook/webhook_answer.h"
#include "gateway/webhook/webhook_impl.h"
#include <stdlib.h>
#include <string.h>

#define TRY_TOTAL_MS 10000

struct try {
    struct http_request *r;
    struct webhooks *w;
    const char *reach; /* until the exchange begins */
    char id[UUID_LEN], tenant[NAME_MAX_LEN + 1], url[WEBHOOK_URL_MAX + 1];
    struct webhook_secret secret;
    bool listed, cut; /* by us: its answer was long */
    size_t answer_bytes;
    int64_t began_us;
};

static void end(struct try *t)
{
    t->w->tries--;
    explicit_bzero(&t->secret, sizeof t->secret);
    free(t);
}

static int read_row(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    static const char sql[] = "SELECT coalesce(t.name, ''), w.url, w.secret FROM webhook w LEFT JOIN tenant t ON t.id = w.tenant"
                              " WHERE w.id = ?1 AND (?2 IS NULL OR w.tenant = ?2)";
    struct try *t = u;
    sqlite3_stmt *st = db_stmt(d, c, sql, e);
    int rc = st && db_bind(st, e, "ss", t->id, t->reach) == 0 ? db_row(st, e) : -1;
    if (rc == 1) {
        snprintf(t->tenant, sizeof t->tenant, "%s", db_text(st, 0));
        snprintf(t->url, sizeof t->url, "%s", db_text(st, 1));
        rc = webhook_secret_open(d, t->id, sqlite3_column_blob(st, 2), (size_t)sqlite3_column_bytes(st, 2), &t->secret, e) ? -1 : 1;
    }
    if (st) sqlite3_reset(st);
    return rc == 0 ? err_set(e, ERR_NOT_FOUND, "There is no webhook '%.64s'.", t->id) : rc < 0 ? -1 : 0;
}

static int on_address(void *u, const struct sockaddr *a)
{
    return hook_judge_address(&((struct try *)u)->listed, a);
}

/* Nobody reads the answer's body: the status is what counts, and of a batch a long one is cut as well. */
static int on_data(void *u, const char *bytes, size_t n)
{
    struct try *t = u;
    (void)bytes;
    t->answer_bytes += n;
    t->cut = t->answer_bytes > HOOK_ANSWER_MAX;
    return t->cut ? -1 : 0;
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct try *t = u;
    bool broken = e->code && !t->cut, delivered = webhook_verdict(r->status, broken, 1) == HOOK_DELIVERED;
    json_t *o = json_pack("{ss ss sb so so sI}", "object", "webhook.test", "id", t->id, "delivered", delivered, "status",
                          r->status ? json_integer(r->status) : json_null(), "error", broken ? json_string(e->msg) : json_null(), "duration_ms",
                          (json_int_t)((clock_mono_us() - t->began_us) / 1000));
    struct http_request *req = t->r;
    end(t);
    admin_reply(req, 200, o);
}

static int post(struct try *t, const struct batch *b, struct err *e)
{
    struct webhook_headers s;
    struct client_call *call;
    char msg[HOOK_ID_TEXT] = "msg_";
    uuid7(msg + 4);
    if (webhook_sign(&t->secret, msg, clock_wall_us() / 1000000, b->body.data, b->body.len, &s, e)) return -1;
    struct client_request q = {.method = "POST", .url = t->url, .ca_file = hook_ca_file(t->w->g), .headers = s.line, .body = b->body.data, .body_len = b->body.len,
                               .connect_ms = HOOK_CONNECT_MS, .first_byte_ms = TRY_TOTAL_MS, .idle_ms = TRY_TOTAL_MS, .total_ms = TRY_TOTAL_MS,
                               .on_data = on_data, .on_done = on_done, .on_address = on_address, .user = t};
    return client_start(t->w->client, &q, &call, e);
}

static int start(struct try *t, struct err *e)
{
    struct gateway *g = t->w->g;
    struct batch b;
    if (db_read(g->db, read_row, t, HOOK_READ_MS, e) || hook_check_url(g, t->url, &t->listed, e)) return -1;
    batch_init(&b, 1);
    t->began_us = clock_mono_us();
    int rc = batch_test(t->w, t->id, t->tenant, &b, e) || post(t, &b, e) ? -1 : 0;
    batch_close(&b);
    return rc;
}

void webhook_try(struct http_request *r, const char *reach, const char *id)
{
    struct webhooks *w = admin_gateway(r)->webhooks;
    struct err e = {0};
    struct try *t = calloc(1, sizeof *t);
    if (!t) {
        http_reply_error(r, &(struct err){.code = ERR_NO_MEMORY, .msg = "no memory for a test"});
        return;
    }
    *t = (struct try){.r = r, .w = w, .reach = reach};
    snprintf(t->id, sizeof t->id, "%s", id);
    if (w->tries++ >= WEBHOOK_TRIES_MAX) err_set(&e, ERR_QUEUE_FULL, "%d tests are under way; try again", WEBHOOK_TRIES_MAX);
    if (!e.code && start(t, &e) == 0) return;
    end(t);
    api_refuse(r, &e);
}
