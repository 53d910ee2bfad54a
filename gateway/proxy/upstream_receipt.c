/* What an engine did for a client that left before anything was counted: its receipt (ENGINE_API.md).
 *
 *   exchange_drop -> receipt_ask: due? --no--> the end
 *                       | yes          ^
 *                       v              |
 *                    a tick later: GET receipt --of a request that still runs--> a tick later, again
 *                                      `--counts, or none to be had-----------> exchange_drop
 *
 * An answer that is not a stream tells its counts at its end, and a stream with its first token. Whoever left before had a
 * prompt read for nothing otherwise, as often as they like, below any budget. Asked are weft-engines, which know it; other
 * kinds have nothing to ask (docs/VLLM.md says what was weighed), and such requests are counted in
 * weft_uncounted_requests_total. Most
 * engines tell at the first question; one under load is asked for RECEIPT_US: until then the place among the concurrent
 * requests is kept, and so is what was reserved. */
#include "base/clock.h"
#include "base/json.h"
#include "gateway/proxy/upstream_impl.h"
#include <stdio.h>
#include <string.h>

#define RECEIPT_US 15000000
#define RECEIPT_MS 500 /* one question */
#define RECEIPT_MAX 4096
#define URL_LEN 512

static bool is_due(struct exchange *x)
{
    if (!x->pick.m || !x->attempt || x->relay.counts.known || pick_kind(&x->pick) != ENGINE_WEFT) return false;
    pthread_mutex_lock(&x->lock);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone && !atomic_load(&x->up->closing);
}

/* True: it still runs, which the engine will notice soon. */
static bool read_receipt(struct exchange *x, int status)
{
    struct relay_counts c = {.known = true};
    const char *state = "", *finish = "";
    json_t *v = NULL;
    if (status != 200 || json_parse(x->answer.data, x->answer.len, &v, NULL)) return false;
    int rc = json_get_int(v, "prompt_tokens", 0, INT32_MAX, &c.prompt, NULL, NULL) |
             json_get_int(v, "cached_tokens", 0, INT32_MAX, &c.cached, NULL, NULL) |
             json_get_int(v, "output_tokens", 0, INT32_MAX, &c.output, NULL, NULL) |
             json_get_int(v, "policy_before_tokens", 0, INT32_MAX, &c.before, NULL, NULL) |
             json_get_int(v, "policy_after_tokens", 0, INT32_MAX, &c.after, NULL, NULL) |
             json_get_str(v, "state", sizeof c.finish, &state, NULL, NULL) |
             json_get_str(v, "finish_reason", sizeof c.finish - 1, &finish, NULL, NULL);
    bool runs = strcmp(state, "running") == 0;
    snprintf(c.finish, sizeof c.finish, "%s", finish);
    json_decref(v);
    if (rc || runs) return runs;
    x->relay.counts = c;
    x->receipt = true;
    return false;
}

static int on_data(void *u, const char *bytes, size_t n)
{
    struct exchange *x = u;
    return x->answer.len + n > RECEIPT_MAX ? -1 : buf_add(&x->answer, bytes, n);
}

static void on_done(void *u, const struct client_reply *r, const struct err *e)
{
    struct exchange *x = u;
    bool late = e && e->code == ERR_UPSTREAM_TIMEOUT; /* it has more to do than to answer: it will */
    bool runs = late || read_receipt(x, e && e->code ? 0 : r->status);
    if (!runs) x->receipt_until_us = 1; /* that was all */
    exchange_drop(x);
}

static int send(struct exchange *x)
{
    struct engine_link link;
    struct client_call *call;
    char url[URL_LEN];
    pick_link(&x->pick, &link);
    snprintf(url, sizeof url, "%s/weft/v1/receipts/%s", link.base_url, x->adm.id);
    const char *headers[] = {link.auth, NULL};
    struct client_request req = {.method = "GET",
                                 .url = url,
                                 .unix_socket = link.unix_socket,
                                 .headers = headers,
                                 .connect_ms = RECEIPT_MS,
                                 .first_byte_ms = RECEIPT_MS,
                                 .idle_ms = RECEIPT_MS,
                                 .total_ms = RECEIPT_MS,
                                 .on_data = on_data,
                                 .on_done = on_done,
                                 .user = x};
    buf_reset(&x->answer);
    return client_start(x->g->client, &req, &call, NULL);
}

bool receipt_wait(struct exchange *x)
{
    int64_t now = clock_mono_us();
    if (!is_due(x)) return false;
    if (!x->receipt_until_us) x->receipt_until_us = now + RECEIPT_US;
    if (now >= x->receipt_until_us) return false;
    x->receipt_next = true;
    wait_tick(x); /* exchange_proceed() comes, and with it receipt_ask() */
    return true;
}

bool receipt_ask(struct exchange *x)
{
    if (!x->receipt_next) return false;
    x->receipt_next = false;
    return is_due(x) && send(x) == 0;
}
