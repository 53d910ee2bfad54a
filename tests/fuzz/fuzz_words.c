/* What engines say and are told, of all kinds: a body that is JSON is JSON when it was written for them, with their name of the model; events and answers that are JSON objects
 * stay such and never say the engine's name of an adapter in an error, counts are never below 0, what the relay makes of a stream does not depend on its cuts, and of a list of
 * models one is taken that stands there. Input: a byte for the kind, one for how, the request's body, a NUL, the answer. */
#include "base/client.h"
#include "base/json.h"
#include "gateway/pool/engine_words.h"
#include "tests/fuzz/fuzz.h"

static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static const char *said; /* by the engine, to whatever it is asked */
static size_t said_len;

/* In the place of base/client.c. */
int client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    (void)r, (void)e;
    *status = 200;
    *len = said_len < max_body ? said_len : max_body;
    *body = fuzz_text((const uint8_t *)said, *len);
    return 0;
}

/* Duplicates are jansson's to refuse, but not what we pass on has to answer for. */
static json_t *object(const char *s, size_t n)
{
    json_t *v = json_loadb(s, n, JSON_ALLOW_NUL, NULL);
    if (json_is_object(v)) return v;
    json_decref(v);
    return NULL;
}

static void check_counts(const struct relay_counts *c)
{
    FUZZ_NEED(c->prompt >= 0 && c->cached >= 0 && c->output >= 0 && memchr(c->finish, 0, sizeof c->finish));
}

static void check_body(const struct kind *k, struct kind_ask *a)
{
    struct engine_link l = {.name = "e", .base_url = "http://x", .base = "base", .model = "their/model", .store = "/x"};
    struct buf out;
    struct err e = {0};
    json_t *in = object(a->body, a->len);
    buf_init(&out, 1u << 20);
    int rc = k->write_body(&l, a, &out, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && a->choices <= KIND_CHOICES);
    if (in && rc == 0 && out.len) {
        json_t *v = object(out.data, out.len);
        const json_t *model = json_object_get(v, "model");
        FUZZ_NEED(v);
        if (k == &kind_vllm && json_object_get(in, "model")) FUZZ_NEED(json_is_string(model) && (!a->sent[0] || !strcmp(json_string_value(model), a->sent)));
        if (k == &kind_weft) FUZZ_NEED(!a->digest && json_is_string(model) && !strcmp(json_string_value(model), l.model));
        json_decref(v);
    }
    if (in && rc == 0 && k != &kind_weft) FUZZ_NEED(out.len);
    json_decref(in);
    buf_close(&out);
}

static void check_answer(const struct kind *k, struct kind_ask *a, const char *s, size_t n)
{
    struct relay_counts c = {0};
    struct buf out;
    json_t *in = object(s, n);
    buf_init(&out, (1u << 20) + 8 * n);
    memset(a->state, 0, sizeof a->state);
    for (int i = 0; i < 2; i++) {
        int64_t before = c.output;
        buf_reset(&out);
        FUZZ_NEED(k->event(a, s, n, &c, &out) == 0);
        check_counts(&c);
        FUZZ_NEED(i == 0 || c.output >= before || !c.estimated);
        if (!in || !out.len) continue;
        json_t *v = object(out.data, out.len);
        const json_t *error = json_object_get(in, "error");
        bool plain = !memmem(s, n, "\\u", 2); /* a name that is written in escapes is another one to json_walk */
        if (plain && a->digest && error && !json_is_null(error)) FUZZ_NEED(!memmem(out.data, out.len, digest, 64));
        FUZZ_NEED(v && !memchr(out.data, '\n', memchr(s, '\n', n) ? 0 : out.len));
        if (plain && json_is_string(json_object_get(v, "model"))) FUZZ_NEED(!strcmp(json_string_value(json_object_get(v, "model")), a->model));
        json_decref(v);
    }
    memset(&c, 0, sizeof c);
    buf_reset(&out);
    FUZZ_NEED(k->answer(a, s, n, &c, &out) == 0);
    check_counts(&c);
    json_t *v = in ? object(out.data, out.len) : NULL;
    FUZZ_NEED(!in || v);
    json_decref(v);
    json_decref(in);
    buf_close(&out);
}

/* Of kinds that have no words of their own: the counts are found in the text. */
static void check_usage(const char *s, size_t n)
{
    struct relay_counts c = {0};
    struct relay_times t = {0};
    relay_usage(s, n, &c);
    check_counts(&c);
    FUZZ_NEED(c.known || c.output == 0);
    relay_read_times(s, &t);
    FUZZ_NEED(t.queue_us >= 0 && t.load_us >= 0 && t.prefill_us >= 0 && t.decode_us >= 0 && t.paused_us >= 0);
    FUZZ_NEED(t.known || !(t.queue_us | t.load_us | t.prefill_us | t.decode_us | t.paused_us));
}

struct talk {
    const struct kind *kind;
    struct kind_ask *ask;
};

static int on_event(void *u, const char *data, size_t n, struct relay_counts *c, struct buf *out)
{
    struct talk *t = u;
    return t->kind->event(t->ask, data, n, c, out);
}

static int gather(void *u, const char *bytes, size_t n, uint64_t mark)
{
    (void)mark;
    return buf_add(u, bytes, n);
}

static void feed(struct talk *t, const char *s, size_t n, size_t step, struct relay *r, struct buf *out)
{
    buf_init(out, (1u << 20) + 8 * n);
    memset(t->ask->state, 0, sizeof t->ask->state);
    for (size_t at = 0; at < n; at += step) FUZZ_NEED(relay_feed(r, s + at, n - at < step ? n - at : step, gather, out) == 0);
    check_counts(&r->counts);
    FUZZ_NEED(memchr(r->code, 0, sizeof r->code));
}

static void need_same(const struct relay *r, const struct relay *q, const struct buf *x, const struct buf *y)
{
    FUZZ_NEED(x->len == y->len && !memcmp(x->data, y->data, x->len) && r->counts.output == q->counts.output && r->counts.prompt == q->counts.prompt);
    FUZZ_NEED(r->mark == q->mark && r->done == q->done && r->error == q->error && r->times.known == q->times.known && !strcmp(r->code, q->code));
}

/* As a whole, in pieces, and again in the one that was used: as a request that is sent once more. */
static void check_stream(struct talk *t, const char *s, size_t n, size_t step)
{
    struct relay r, q;
    struct buf x, y, z;
    relay_init(&r);
    relay_init(&q);
    r.event = q.event = t->kind->event ? on_event : NULL;
    r.event_user = q.event_user = t;
    feed(t, s, n, n ? n : 1, &r, &x);
    feed(t, s, n, step, &q, &y);
    need_same(&r, &q, &x, &y);
    relay_reset(&q);
    feed(t, s, n, n ? n : 1, &q, &z);
    need_same(&r, &q, &x, &z);
    relay_close(&r);
    relay_close(&q);
    buf_close(&x);
    buf_close(&y);
    buf_close(&z);
}

static bool lists(const json_t *data, const char *id)
{
    size_t i;
    json_t *m;
    json_array_foreach(data, i, m)
        if (json_is_string(json_object_get(m, "id")) && !strcmp(json_string_value(json_object_get(m, "id")), id)) return true;
    return false;
}

static void check_models(const char *s, size_t n)
{
    static const char *const wanted[] = {"", "base"};
    const struct engine_link l = {.name = "e", .base_url = "http://x", .base = "base", .store = "/x"};
    json_t *v = NULL;
    said = s;
    said_len = n;
    json_parse(s, n, &v, NULL);
    for (size_t i = 0; i < 2; i++) {
        char model[128] = "";
        int context = 0;
        struct err e = {0};
        int rc = words_models(&l, wanted[i], model, &context, &e);
        FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && context >= 0);
        if (rc == 0) FUZZ_NEED(model[0] && lists(json_object_get(v, "data"), model) && (!i || !strcmp(model, wanted[i])));
    }
    json_decref(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned kind = fuzz_byte(&data, &n), how = fuzz_byte(&data, &n);
    static const struct kind *const kinds[] = {&kind_vllm, &kind_openai, &kind_weft};
    const struct kind *k = kinds[kind % 3];
    char *body = fuzz_until(&data, &n, 0), *answer = fuzz_text(data, n);
    struct kind_ask a = {.id = "id", .model = "mine \"x\"", .path = "/v1/completions", .digest = how & 1 ? digest : NULL, .body = body, .len = strlen(body),
                         .stream = how >> 1 & 1, .choices = 1};
    check_body(k, &a);
    if (a.choices < 1) a.choices = 1;
    if (k->answer) check_answer(k, &a, answer, n);
    else check_usage(answer, n);
    if (k != &kind_weft) check_models(answer, n);
    check_stream(&(struct talk){k, &a}, answer, n, 1 + how % 31);
    free(body);
    free(answer);
    return 0;
}
