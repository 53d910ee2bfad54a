/* alive: asks the parts that could hang whether they do (see alive.h).
 *
 * A question is a job that does nothing, or GET /health; its answer may come on any thread. A part that refuses at once (its queue is full, the disk
 * is, 503) has answered: it is not stuck, and a restart would only lose what it holds. A part that doesn't answer in time keeps the sign of life
 * back, and the service manager ends us; each part is named in the log once. */
#include "gateway/alive.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/gateway.h"
#include <stdio.h>
#include <string.h>

#define HEALTH_MS 600000 /* longer than anybody's patience: the question is given up by us, not by the client */

static const char *const part_name[ALIVE_PARTS] = {"writer", "readers", "http"};

static void answered(struct beat *b)
{
    b->since_us = 0;
    b->asked = false;
}

static int do_nothing(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    (void)d, (void)c, (void)u, (void)e;
    return 0;
}

static void on_written(void *u, const struct err *e)
{
    (void)e; /* a disk that is full is no reason to restart */
    answered(u);
}

static int ask_writer(struct beat *b)
{
    return db_write(b->a->g->db, &(struct db_job){.run = do_nothing, .done = on_written, .user = b, .urgent = true},
                    NULL);
}

static void on_read(void *u)
{
    answered(u);
}

static int ask_readers(struct beat *b)
{
    return db_defer(b->a->g->db, on_read, b, NULL);
}

static void on_health(void *u, const struct client_reply *r, const struct err *e)
{
    struct beat *b = u;
    (void)e;
    if (r->status)
        answered(b);
    else
        b->asked = false; /* not reached: asked again, the time goes on */
}

static int ask_http(struct beat *b)
{
    struct client_request q = {.method = "GET",
                               .url = b->a->url,
                               .unix_socket = b->a->unix_socket,
                               .connect_ms = HEALTH_MS,
                               .first_byte_ms = HEALTH_MS,
                               .idle_ms = HEALTH_MS,
                               .total_ms = HEALTH_MS,
                               .on_done = on_health,
                               .user = b};
    struct client_call *call;
    return client_start(b->a->g->client, &q, &call, NULL);
}

static int (*const ask[ALIVE_PARTS])(struct beat *b) = {ask_writer, ask_readers, ask_http};

void alive_open(struct alive *a, struct gateway *g, const char *at, int64_t watchdog_us)
{
    bool is_unix = strncmp(at, "unix:", 5) == 0;
    a->g = g;
    a->patience_us = watchdog_us / 2;
    snprintf(a->text, sizeof a->text, is_unix ? "%s" : "http://%s/health", is_unix ? at + 5 : at);
    a->url = is_unix ? "http://gateway/health" : a->text;
    a->unix_socket = is_unix ? a->text : NULL;
    for (int i = 0; i < ALIVE_PARTS; i++) a->part[i].a = a;
}

static void put(struct beat *b, int64_t now, int part)
{
    if (b->asked) return;
    if (!b->since_us) b->since_us = now;
    b->asked = true; /* before the answer can come */
    if (ask[part](b)) answered(b);
}

bool alive_look(struct alive *a)
{
    int64_t now = clock_mono_us();
    bool well = true;
    if (!a->patience_us) return false;
    for (int i = 0; i < ALIVE_PARTS; i++) {
        int64_t since = a->part[i].since_us;
        bool hangs = since && now - since >= a->patience_us;
        if (hangs && !a->part[i].told) log_error("hangs", LS("part", part_name[i]), LI("ms", (now - since) / 1000));
        a->part[i].told = hangs;
        well &= !hangs;
    }
    if (now - a->asked_us < a->patience_us / 2) return false;
    a->asked_us = now;
    for (int i = 0; i < ALIVE_PARTS; i++) put(&a->part[i], now, i);
    return well;
}
