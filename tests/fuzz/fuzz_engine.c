/* An engine's answers to what the gateway asks of it, and the bodies that the gateway writes for it: whatever it says, numbers are none below 0, names have their ends, a refusal
 * becomes an error of ours with words in it, the body that goes to the client is an error object in JSON, and only who knows the secret is greeted. Input: a byte for the
 * question (its rest by 3 the kind; bits: 8 a refusal, 16 the row's settings, 32 a byte for the status and the link follows, 64 a body), one for the status where it is
 * a refusal or for how where it is a body, then what the engine answers. */
#include "base/client.h"
#include "base/json.h"
#include "gateway/pool/engine_words.h"
#include "tests/fuzz/fuzz.h"

#define SECRET "s"

static const uint8_t *said;
static size_t said_len;
static int said_status;
static bool knows; /* the secret */

/* As a weft-engine greets. */
static char *greeting(const char *url)
{
    const char *nonce = strstr(url, "nonce=");
    char text[256], proof[SHA256_HEX], theirs[SHA256_HEX];
    uint8_t mac[SHA256_BYTES];
    FUZZ_NEED(nonce);
    sha256_hmac("x", 1, said, said_len, mac);
    sha256_hex(mac, theirs);
    int n = snprintf(text, sizeof text, "weft hello %.64s %s", nonce + 6, theirs);
    sha256_hmac(SECRET, strlen(SECRET), text, (size_t)n, mac);
    sha256_hex(mac, proof);
    n = snprintf(text, sizeof text, "{\"nonce\":\"%s\",\"proof\":\"%s\"}", theirs, proof);
    return fuzz_text((const uint8_t *)text, (size_t)n);
}

/* In the place of base/client.c: every question is answered by the input. */
int client_fetch(const struct client_request *r, size_t max_body, int *status, char **body, size_t *len, struct err *e)
{
    (void)e;
    *status = said_status;
    if (knows && strstr(r->url, "/hello?")) {
        *body = greeting(r->url);
        *len = strlen(*body);
        return 0;
    }
    *len = said_len < max_body ? said_len : max_body;
    *body = fuzz_text(said, *len);
    return 0;
}

static const struct kind *const kinds[] = {&kind_vllm, &kind_weft, &kind_openai};
static const char digest[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static void one(void *u, const char *id)
{
    (void)u;
    FUZZ_NEED(sha256_is_hex(id));
}

static void calls(const struct kind *k, const struct engine_link *l)
{
    int (*const make[])(const struct engine_link *, const char *, struct kind_call *, struct err *) = {k->load, k->unload};
    for (int i = 0; i < 2; i++) {
        struct kind_call c = {0};
        json_t *v = NULL;
        if (!make[i]) continue;
        buf_init(&c.body, 4096);
        FUZZ_NEED(make[i](l, digest, &c, NULL) == 0 && c.path[0] == '/' && json_parse(c.body.data, c.body.len, &v, NULL) == 0);
        json_decref(v);
        buf_close(&c.body);
    }
}

static void ask(const struct kind *k, const struct engine_link *l)
{
    struct engine_view view = {0};
    struct engine_queue q = {0};
    struct engine_counts c = {0};
    struct relay_counts r = {0};
    struct err e[4] = {0};
    if (k->look(l, &view, &e[0]) == 0) {
        FUZZ_NEED(view.model[0] && memchr(view.model, 0, sizeof view.model) && view.max_context >= 0 && view.pid >= 0);
        FUZZ_NEED(!view.described || (view.base.layers > 0 && sha256_is_hex(view.base.digest)));
        FUZZ_NEED(memchr(view.device.name, 0, sizeof view.device.name) && view.device.ranks >= 0 && view.device.memory >= 0);
    } else
        FUZZ_NEED(e[0].code != ERR_NONE);
    if (k->queue && k->queue(l, &q, &e[1]) == 0) {
        FUZZ_NEED(q.running >= 0 && q.waiting >= 0 && q.kv_used >= 0 && q.kv_used <= 1);
        FUZZ_NEED(q.slots >= 0 && q.slots_resident >= 0 && q.slots_loading >= 0 && q.pages >= 0 && q.pages_used >= 0);
        FUZZ_NEED(q.steps >= 0 && q.step_us_p50 >= 0 && q.step_us_p99 >= 0);
    }
    if (k->counts && k->counts(l, &c) == 0) FUZZ_NEED(c.requests >= 0 && c.output >= 0);
    if (k->residents) k->residents(l, one, NULL, &e[2]);
    if (k->receipt && k->receipt(l, "id", &r) == 0) FUZZ_NEED(r.prompt >= 0 && r.cached >= 0 && r.output >= 0);
    if (k->greet) FUZZ_NEED((k->greet(l, &e[3]) == 0) == (knows && said_status == 200)); /* nobody can prove what it does not know */
}

/* A request's body, in the words of the kind. */
static void write_body(const struct kind *k, const struct engine_link *l, unsigned how, const char *body)
{
    struct kind_ask a = {.id = "id", .model = "mine", .path = "/v1/completions", .digest = how & 1 ? digest : NULL, .body = body, .len = strlen(body), .stream = how >> 1 & 1, .choices = 1};
    struct err e = {0};
    struct buf out;
    json_t *in = NULL, *v = NULL;
    buf_init(&out, 1u << 20);
    int rc = k->write_body(l, &a, &out, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (rc == 0 || e.msg[0]) && a.choices >= 1 && a.choices <= KIND_CHOICES && memchr(a.sent, 0, sizeof a.sent));
    FUZZ_NEED(rc == 0 || err_info(e.code)->status / 100 == 4);
    bool fine = json_parse(body, a.len, &in, NULL) == 0 && !strstr(body, "\\u");
    if (fine && rc == 0 && out.len) {
        FUZZ_NEED((v = json_loadb(out.data, out.len, JSON_ALLOW_NUL, NULL)));
        const json_t *model = json_object_get(v, "model"), *options = json_object_get(v, "stream_options");
        if (json_object_get(in, "model")) FUZZ_NEED(json_is_string(model) && (k == &kind_weft || !strcmp(json_string_value(model), a.sent)));
        if (k != &kind_weft) FUZZ_NEED(!a.stream || json_is_true(json_object_get(options, "include_usage")));
        if (k != &kind_weft) FUZZ_NEED(!json_object_get(v, "adapters") && !json_object_get(v, k == &kind_vllm ? "guided_json" : "cache_salt"));
    }
    if (k == &kind_openai && a.digest && json_object_get(in, "model")) FUZZ_NEED(rc != 0); /* it serves no adapters */
    json_decref(in);
    json_decref(v);
    buf_close(&out);
}

static void kinds_have_names(void)
{
    for (int i = 0; i < ENGINE_KINDS; i++)
        if (kind_of((enum engine_kind)i)) FUZZ_NEED(kind_by_name(kind_of((enum engine_kind)i)->name) == i);
}

static void refuse(const struct kind *k, int status, const char *body, size_t n)
{
    struct kind_ask a = {.id = "id", .model = "mine", .path = "/v1/chat/completions", .digest = digest, .body = "{}", .len = 2, .choices = 1};
    struct kind_error words;
    struct err e = {0};
    struct buf out;
    json_t *v = NULL;
    snprintf(a.sent, sizeof a.sent, "%s", digest);
    buf_init(&out, 1u << 16);
    enum kind_verdict verdict = k->verdict(&a, status, body, n, &out);
    if (out.len && k != &kind_weft) { /* weft-engine's own bodies pass as they are */
        FUZZ_NEED(json_parse(out.data, out.len, &v, NULL) == 0);
        FUZZ_NEED(json_is_string(json_object_get(json_object_get(v, "error"), "message")) && !memmem(out.data, out.len, digest, 64));
    }
    FUZZ_NEED(verdict >= KIND_REFUSED && verdict <= KIND_FAILED);
    json_decref(v);
    if (k->load_refused) k->load_refused(status, body, n, &e);
    FUZZ_NEED(e.code == ERR_NONE || e.msg[0]);
    kind_read_error(body, n, &words);
    FUZZ_NEED(memchr(words.code, 0, sizeof words.code) && memchr(words.message, 0, sizeof words.message));
    buf_close(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const int statuses[] = {400, 401, 403, 404, 409, 413, 422, 429, 500, 502, 503, 200};
    struct engine_link l = {.name = "e", .base_url = "http://x", .secret = SECRET, .base = "", .model = "base", .store = "/x"};
    unsigned what = fuzz_byte(&data, &n), how = what & (8 | 32 | 64) ? fuzz_byte(&data, &n) : 11;
    const struct kind *k = kinds[what % 3];
    if (what & (8 | 64)) {
        char *body = fuzz_text(data, n);
        if (how & 4) l.base = "served";
        if (what & 8) refuse(k, statuses[how % 12], body, n);
        else write_body(k, &l, how, body);
        free(body);
        return 0;
    }
    said_status = statuses[how % 16 % 12];
    knows = how & 16;
    if (how & 32) l.base = "served";
    if (how & 64) l.model[0] = 0;
    json_t *settings = NULL; /* of the engine's row: what an operator wrote there */
    if (what & 16 && json_parse((const char *)data, n, &settings, NULL) == 0) l.settings = settings;
    said = data;
    said_len = n;
    kinds_have_names();
    ask(k, &l);
    calls(k, &l);
    json_decref(settings);
    return 0;
}
