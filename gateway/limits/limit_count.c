/* limit_count: one question to an engine for a request that its bound alone would refuse (limit_request.c).
 *
 * The text's tokens don't depend on the adapter, so the base is named in the body and nothing has to be loaded first. What
 * is lost, late or refused counts as "can't say", and the refusal stands: no second try, a client tries again anyway. The
 * answer comes on the client's thread. */
#include "gateway/limits/limit_count.h"
#include "base/json.h"
#include "gateway/pool/engine_answers.h"
#include "gateway/pool/engine_kind.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define ANSWER_MAX 65536
#define BODY_MAX (512u << 20)
#define CONNECT_MS 1000
#define WAIT_MS 5000

struct question {
    struct pool *pool;
    struct pick pick;
    void (*done)(void *u, int64_t tokens);
    void *user;
    struct buf answer;
};

static atomic_int under_way;

static void question_free(struct question *q, enum pick_end how)
{
    pool_done(q->pool, &q->pick, how);
    buf_close(&q->answer);
    free(q);
    under_way--;
}

static int on_data(void *u, const char *bytes, size_t n)
{
    return buf_add(&((struct question *)u)->answer, bytes, n);
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct question *q = u;
    int64_t tokens = r->status == 200 && !(e && e->code) ? engine_read_tokens(q->answer.data, q->answer.len) : -1;
    void (*done)(void *, int64_t) = q->done;
    void *user = q->user;
    question_free(q, tokens < 0 ? PICK_UNUSED : PICK_OK);
    done(user, tokens);
}

/* The request's body with the base for a model. */
static int write_body(const struct upstream_ask *ask, struct buf *out)
{
    json_t *o = NULL;
    if (json_parse(ask->route[0].body, ask->route[0].body_len, &o, NULL)) return -1;
    int rc = json_object_set_new(o, "model", json_string(ask->adm.what.base));
    json_object_del(o, "adapters");
    if (!rc) rc = json_dump(o, false, out);
    json_decref(o);
    return rc;
}

static int send(struct gateway *g, struct question *q, const struct buf *body)
{
    struct engine_link link;
    struct client_call *call;
    char url[512];
    pick_link(&q->pick, &link);
    snprintf(url, sizeof url, "%s/weft/v1/tokenize", link.base_url);
    const char *headers[] = {link.auth, NULL};
    struct client_request req = {.method = "POST",
                                 .url = url,
                                 .unix_socket = link.unix_socket,
                                 .headers = headers,
                                 .body = body->data,
                                 .body_len = body->len,
                                 .connect_ms = CONNECT_MS,
                                 .first_byte_ms = WAIT_MS,
                                 .idle_ms = WAIT_MS,
                                 .total_ms = WAIT_MS,
                                 .on_data = on_data,
                                 .on_done = on_done,
                                 .user = q};
    return client_start(g->client, &req, &call, NULL);
}

/* One that knows the route, and that may see the text. */
static int pick(struct gateway *g, const struct upstream_ask *ask, struct question *q)
{
    struct pool_want want = {.base = ask->adm.what.base, .local_only = ask->adm.who.private};
    q->pool = g->pool;
    if (pool_pick(g->pool, &want, &q->pick, NULL)) return -1;
    if (pick_kind(&q->pick) == ENGINE_WEFT) return 0;
    pool_done(g->pool, &q->pick, PICK_UNUSED);
    return -1;
}

static struct question *question_new(struct gateway *g, const struct upstream_ask *ask)
{
    if (under_way++ >= LIMIT_COUNTS) {
        under_way--;
        return NULL;
    }
    struct question *q = calloc(1, sizeof *q);
    if (!q || pick(g, ask, q)) {
        free(q);
        under_way--;
        return NULL;
    }
    buf_init(&q->answer, ANSWER_MAX);
    return q;
}

int limit_count(struct gateway *g, const struct upstream_ask *ask, void (*done)(void *u, int64_t tokens), void *u)
{
    struct buf body;
    struct question *q = question_new(g, ask);
    if (!q) return -1;
    q->done = done;
    q->user = u;
    buf_init(&body, BODY_MAX);
    int rc = write_body(ask, &body) || send(g, q, &body) ? -1 : 0;
    buf_close(&body);
    if (rc) question_free(q, PICK_UNUSED);
    return rc;
}
