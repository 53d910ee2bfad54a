/* The metrics of engines, for a Prometheus that cannot reach them: the engine that the gateway spawned listens on a socket
 * file, others where only the gateway has a route and a token.
 *
 *     GET /metrics/targets -> who there is (Prometheus' HTTP service discovery)
 *     GET /metrics/engines/{name} -> its own /metrics, byte for byte
 *
 * Asked is an engine that is ready, so one at an address has proved its token before it gets it (engine.c). At most
 * SCRAPES are under way, for a stranger on the operator's network is not to keep the client busy; the answer is held in
 * memory, at most ANSWER_MAX bytes. The client's thread answers. */
#include "base/json.h"
#include "gateway/pool/pool_impl.h"
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define SCRAPES 16
#define ANSWER_MAX (8u << 20)
#define CONNECT_MS 1000
#define WAIT_MS 5000

struct scrape {
    struct member *m;
    void (*done)(void *u, const struct buf *text, const struct err *e);
    void *user;
    struct buf text;
};

static atomic_int under_way;

static void scrape_over(struct scrape *s, const struct err *e)
{
    member_unref(s->m);
    under_way--;
    s->done(s->user, &s->text, e);
    buf_close(&s->text);
    free(s);
}

static int on_data(void *u, const char *bytes, size_t n)
{
    return buf_add(&((struct scrape *)u)->text, bytes, n);
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct scrape *s = u;
    struct err why = {0};
    if (e && e->code)
        err_set(&why, ERR_ENGINE, "the engine's metrics could not be read");
    else if (r->status != 200)
        err_set(&why, ERR_ENGINE, "the engine answered /metrics with status %d", r->status);
    scrape_over(s, why.code ? &why : NULL);
}

static int start(struct client *c, struct scrape *s, struct err *e)
{
    struct engine_link link;
    struct client_call *call;
    char url[512];
    engine_get_link(s->m->g, &link);
    snprintf(url, sizeof url, "%s%s", link.base_url, kind_of(s->m->row.kind)->metrics);
    const char *headers[] = {link.auth, NULL};
    struct client_request req = {.method = "GET",
                                 .url = url,
                                 .unix_socket = link.unix_socket,
                                 .headers = headers,
                                 .connect_ms = CONNECT_MS,
                                 .first_byte_ms = WAIT_MS,
                                 .idle_ms = WAIT_MS,
                                 .total_ms = WAIT_MS,
                                 .on_data = on_data,
                                 .on_done = on_done,
                                 .user = s};
    return client_start(c, &req, &call, e);
}

static int check(const struct member *m, struct err *e)
{
    if (!kind_of(m->row.kind)->metrics) return err_set(e, ERR_NOT_FOUND, "engines of kind '%s' have no metrics", kind_of(m->row.kind)->name);
    return engine_ready(m->g) ? 0 : err_set(e, ERR_UNAVAILABLE, "the engine is not ready");
}

int pool_scrape(struct pool *p, const char *name, void (*done)(void *u, const struct buf *text, const struct err *e), void *u, struct err *e)
{
    struct member *m = member_ref(p, name);
    if (!m) return err_set(e, ERR_NOT_FOUND, "There is no engine '%.64s'.", name);
    struct scrape *s = check(m, e) ? NULL : calloc(1, sizeof *s);
    bool busy = s && under_way++ >= SCRAPES;
    if (!s || busy) {
        if (busy) under_way--;
        free(s);
        member_unref(m);
        return err_set(e, busy ? ERR_UNAVAILABLE : ERR_NO_MEMORY, busy ? "too many ask for metrics of engines" : "no memory for metrics");
    }
    *s = (struct scrape){.m = m, .done = done, .user = u};
    buf_init(&s->text, ANSWER_MAX);
    if (start(p->o.client, s, e) == 0) return 0;
    member_unref(m);
    under_way--;
    buf_close(&s->text);
    free(s);
    return -1;
}

static json_t *target_json(const struct member *m, const char *host)
{
    char path[128];
    snprintf(path, sizeof path, "/metrics/engines/%s", m->row.name);
    return json_pack("{s[s] s{ss ss ss}}", "targets", host, "labels", "__metrics_path__", path, "engine", m->row.name, "kind", kind_of(m->row.kind)->name);
}

json_t *pool_targets(struct pool *p, const char *host)
{
    struct member *m[POOL_ENGINES];
    json_t *list = json_array();
    int n = members_ref(p, m);
    for (int i = 0; i < n; i++) {
        if (kind_of(m[i]->row.kind)->metrics && m[i]->row.state != MEMBER_DISABLED) json_array_append_new(list, target_json(m[i], host));
        member_unref(m[i]);
    }
    return list;
}
