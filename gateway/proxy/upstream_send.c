/* The request as it goes to the engine that was picked: body and headers in the words of its kind.
 *
 * A weft-engine gets the headers of ENGINE_API.md: whose request it is (an opaque tag), its share, its class, how long the
 * first token may take from now on, and the name that answers are to say. Other kinds get none of them, and a body that
 * their own table row writes. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/proxy/upstream_impl.h"
#include <stdio.h>
#include <string.h>

#define HEADERS 12
#define HEADER_LEN 640

struct headers {
    char text[HEADERS][HEADER_LEN];
    const char *list[HEADERS + 1];
    int n;
};

static void add(struct headers *h, const char *name, const char *value)
{
    snprintf(h->text[h->n++], HEADER_LEN, "%s: %s", name, value);
}

/* The base is named in the body, and its name may be no header's. */
static bool is_header(const char *s)
{
    for (; *s; s++)
        if (*s < ' ' || *s > '~') return false;
    return true;
}

static void add_weft(struct exchange *x, int64_t left_ms, struct headers *h)
{
    const struct principal *who = &x->adm.who;
    char number[32];
    add(h, "X-Weft-Request-Id", x->adm.id);
    add(h, "X-Weft-Tenant", who->tag);
    add(h, "X-Weft-Takeover", x->g->takeover);
    snprintf(number, sizeof number, "%.6g", who->weight);
    add(h, "X-Weft-Weight", number);
    if (who->class[0]) add(h, "X-Weft-Class", who->class);
    snprintf(number, sizeof number, "%lld", (long long)left_ms);
    if (left_ms > 0) add(h, "X-Weft-Deadline-Ms", number);
    bool named = !x->adm.what.is_base || x->body.len;
    if (named && is_header(x->adm.model)) add(h, "X-Weft-Model", x->adm.model);
}

/* The trace goes on below us; a list that some other program keeps beside it as it came. An upstream that is somebody else's learns nothing of
 * what clients and their networks call a request. */
static void add_trace(struct exchange *x, struct headers *h)
{
    char parent[TRACEPARENT_LEN];
    observe_traceparent(x->seen, parent);
    if (!*parent || pick_kind(&x->pick) == ENGINE_OPENAI) return;
    add(h, "traceparent", parent);
    if (x->seen->tracestate) add(h, "tracestate", x->seen->tracestate);
}

/* What is left of the time for the first token; 0: it may take as long as it takes. */
static int left_of_deadline(const struct exchange *x, int64_t *left_ms, struct err *e)
{
    const struct principal *who = &x->adm.who;
    *left_ms = 0;
    if (who->deadline_ms <= 0 || strcmp(who->class, "batch") == 0) return 0;
    *left_ms = who->deadline_ms - (clock_mono_us() - x->arrived_us) / 1000;
    return *left_ms > 0 ? 0 : err_set(e, ERR_DEADLINE, "no engine could take the request in time; try again");
}

static int relay_event(void *u, const char *data, size_t n, struct relay_counts *c, struct buf *out)
{
    struct exchange *x = u;
    const struct kind *k = pick_ops(&x->pick);
    struct buf said;
    if (!trial_reads(x)) return k->event ? k->event(&x->ask, data, n, c, out) : buf_add(out, data, n);
    buf_init(&said, RELAY_LINE_MAX);
    int rc = k->event ? k->event(&x->ask, data, n, c, &said) : buf_add(&said, data, n);
    if (!rc && said.len) rc = trial_event(x, said.data, said.len, out);
    buf_close(&said);
    return rc;
}

/* The body in the words of its kind. */
static int put(struct exchange *x, const struct kind *k, const struct engine_link *l, struct err *e)
{
    bool own = x->at->nneeds && strcmp(x->named_by, "model") == 0;
    x->ask = (struct kind_ask){.id = x->adm.id,
                               .model = x->adm.model,
                               .path = x->path,
                               .digest = own ? x->at->need[0].digest : NULL,
                               .body = x->at->body,
                               .len = x->at->body_len,
                               .stream = x->adm.stream,
                               .policy = x->policy};
    buf_reset(&x->body);
    if (k->write_body && k->write_body(l, &x->ask, &x->body, e)) return -1;
    return x->body.failed ? err_set(e, ERR_NO_MEMORY, "no memory for the request") : 0;
}

static void begin_attempt(struct exchange *x, const struct kind *k)
{
    x->attempt++;
    x->kind = k->name;
    x->status = 0;
    x->relay.event = k->event || trial_reads(x) ? relay_event : NULL;
    x->relay.event_user = x;
    relay_reset(&x->relay);
    trial_restart(x);
    buf_reset(&x->answer);
}

int exchange_send(struct exchange *x, struct err *e)
{
    const struct settings *set = x->g->set;
    const struct kind *k = pick_ops(&x->pick);
    struct engine_link l;
    struct headers h = {.n = 0};
    char url[512];
    int64_t left_ms;

    pick_link(&x->pick, &l);
    if (left_of_deadline(x, &left_ms, e) || put(x, k, &l, e)) return -1;
    add(&h, "Content-Type", "application/json");
    if (k->weft_headers) add_weft(x, left_ms, &h);
    observe_enter(x->seen, STAGE_UPSTREAM, x->engine);
    add_trace(x, &h);
    for (int i = 0; i < h.n; i++) h.list[i] = h.text[i];
    h.list[h.n] = l.auth; /* or NULL */
    snprintf(url, sizeof url, "%s%s", l.base_url, x->path);
    begin_attempt(x, k);
    live_sent(x->up->live, &x->live);
    struct client_request req = {.method = "POST",
                                 .url = url,
                                 .unix_socket = l.unix_socket,
                                 .headers = h.list,
                                 .body = x->body.len ? x->body.data : x->at->body,
                                 .body_len = x->body.len ? x->body.len : x->at->body_len,
                                 .connect_ms = (int)set->connect_ms,
                                 .first_byte_ms = (int)set->first_byte_ms,
                                 .idle_ms = (int)set->idle_ms,
                                 .total_ms = (int)set->total_ms,
                                 .on_head = exchange_on_head,
                                 .on_data = exchange_on_data,
                                 .on_done = exchange_on_done,
                                 .user = x};

    /* Under the lock, so that `call` stands before on_done() takes it away. Nothing of x is touched after. */
    pthread_mutex_lock(&x->lock);
    int rc = client_start(x->g->client, &req, &x->call, e);
    if (rc == 0 && x->gone) client_cancel(x->call);
    pthread_mutex_unlock(&x->lock);
    return rc;
}
