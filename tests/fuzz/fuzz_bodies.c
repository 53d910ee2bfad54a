/* Bodies of tenants and operators: aliases, limits, prices, webhooks, what is to be sent once more, feedback, and each part of an alias by itself. What is taken keeps
 * to its bounds, and said again as it is shown it is the same; what is refused has a field's name that stands in the body or is missing there. Input: a byte for
 * which (its low 3 bits; the others: a change rather than a new one), the body. */
#include "base/json.h"
#include "base/sha256.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/gateway.h"
#include "gateway/ledger/price_store.h"
#include "gateway/limits/limit_body.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/feedback.h"
#include "gateway/quality/route.h"
#include "gateway/registry/alias_draft.h"
#include "gateway/registry/alias_parts.h"
#include "gateway/webhook/webhook_impl.h"
#include "tests/fuzz/fuzz.h"

#define NOW_S 1800000000
#define TIME_MAX 253402300799 /* 9999-12-31 */

static void need_refused(const json_t *body, const struct err *e)
{
    FUZZ_NEED((e->code == ERR_INVALID || e->code == ERR_MISSING) && e->msg[0]);
    FUZZ_NEED(e->param[0] || json_object_get(body, "")); /* a field may have no name */
}

static char *dump(const json_t *v)
{
    char *s = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS);
    FUZZ_NEED(s);
    return s;
}

/* --- aliases --- */

static void check_targets(const struct draft *d)
{
    int64_t sum = 0;
    FUZZ_NEED(d->n >= 1 && d->n <= (d->policy == ALIAS_FALLBACK ? ALIAS_CHAIN : ALIAS_TARGETS));
    for (int i = 0; i < d->n; i++) {
        const struct draft_target *t = &d->target[i];
        FUZZ_NEED(!*t->adapter != !*t->base && t->weight >= 0 && t->weight <= ALIAS_WEIGHT_MAX && t->version >= 0 && (!*t->base || !t->version));
        for (int k = 0; k < i; k++) FUZZ_NEED(strcmp(t->adapter, d->target[k].adapter) || strcmp(t->base, d->target[k].base) || t->version != d->target[k].version);
        sum += t->weight;
    }
    FUZZ_NEED(sum > 0 || d->policy != ALIAS_WEIGHTED);
}

static void check_alias(const json_t *body, bool change)
{
    struct draft d, again;
    struct err e = {0};
    (void)change;
    if (draft_read(body, &d, &e)) {
        need_refused(body, &e);
        return;
    }
    check_targets(&d);
    FUZZ_NEED((unsigned)d.policy < ALIAS_POLICIES && (unsigned)d.sticky < ALIAS_STICKIES && strlen(d.prefix) <= ALIAS_PREFIX_MAX);
    json_t *shown = draft_json(&d), *twice;
    FUZZ_NEED(shown && draft_read(shown, &again, NULL) == 0 && (twice = draft_json(&again)));
    FUZZ_NEED(json_equal(shown, twice) && d.n == again.n && d.policy == again.policy && d.sticky == again.sticky);
    draft_close(&again);
    draft_close(&d);
    json_decref(twice);
    json_decref(shown);
}

/* --- parts of aliases --- */

static void check_routing(const json_t *part, const char *text)
{
    struct route_rules r;
    (void)text;
    route_rules_of(part, &r);
    FUZZ_NEED(r.tokens >= 0 && r.tokens <= ROUTE_TOKENS_MAX && r.error_cost > 0 && r.ratio >= 0 && r.ratio <= 1 && (unsigned)r.arm < ROUTE_ARMS);
    FUZZ_NEED(r.tokens == json_integer_value(json_object_get(part, "probe_tokens")) && strcmp(route_arm_name[r.arm], json_string_value(json_object_get(part, "arm"))) == 0);
}

/* The number that is found without a tree is the tree's; it is asked for where the client did not ask. */
static void check_capture(const json_t *part, const char *text)
{
    int top = capture_policy_top(text);
    json_t *root = json_object();
    FUZZ_NEED(top == json_integer_value(json_object_get(part, "top_logprobs")));
    FUZZ_NEED(capture_ask_logprobs(root, top) == (top > 0) && json_integer_value(json_object_get(root, "top_logprobs")) == top);
    FUZZ_NEED(!capture_ask_logprobs(root, top));
    json_decref(root);
}

/* An alert's score is one that answers get. */
static bool is_score(const json_t *part, const char *rule)
{
    static const struct {
        const char *score, *of;
    } scores[] = {{"overall", "sample"}, {"judge", "judge"}, {"groundedness", "groundedness"}, {"groundedness.ngrams", "groundedness"}};
    size_t i;
    json_t *one;
    for (i = 0; i < sizeof scores / sizeof *scores; i++)
        if (strcmp(rule, scores[i].score) == 0) return json_object_get(part, scores[i].of);
    json_array_foreach(json_object_get(part, "rules"), i, one) if (strcmp(json_string_value(json_object_get(one, "name")), rule) == 0) return true;
    return false;
}

static void check_evaluation(const json_t *part, const char *text)
{
    const json_t *alert = json_object_get(part, "alert");
    FUZZ_NEED(!alert || is_score(part, json_string_value(json_object_get(alert, "rule"))));
    double sample = json_number_value(json_object_get(part, "sample"));
    FUZZ_NEED(sample >= 0 && sample <= 1 && strlen(text) <= EVALUATION_MAX);
    FUZZ_NEED(json_object_get(part, "rules") || json_object_get(part, "groundedness") || json_object_get(part, "judge"));
}

/* A part is stored as text, which is read when it is followed. */
static void check_stored(enum alias_part which, const json_t *part)
{
    static void (*const check[ALIAS_PARTS])(const json_t *part, const char *text) = {
        [ALIAS_EVALUATION] = check_evaluation, [ALIAS_ROUTING] = check_routing, [ALIAS_CAPTURE] = check_capture};
    char *text = dump(part);
    json_t *back = NULL, *again = NULL;
    FUZZ_NEED(json_parse(text, strlen(text), &back, NULL) == 0 && alias_part_row[which].read(back, &again, NULL) == 0);
    FUZZ_NEED(json_equal(back, part) && json_equal(again, part));
    if (check[which]) check[which](back, text);
    json_decref(again);
    json_decref(back);
    free(text);
}

static void check_parts(const json_t *body, bool change)
{
    (void)change;
    for (int i = 0; i < ALIAS_PARTS; i++) {
        const char *field = alias_part_row[i].field;
        json_t *part = NULL;
        struct err e = {0};
        if (alias_part_row[i].read(json_object_get(body, field), &part, &e)) {
            FUZZ_NEED(!part && (e.code == ERR_INVALID || e.code == ERR_MISSING) && e.msg[0] && strncmp(e.param, field, strlen(field)) == 0);
            FUZZ_NEED(!e.param[strlen(field)] || e.param[strlen(field)] == '.');
        } else if (part) {
            check_stored((enum alias_part)i, part);
        }
        json_decref(part);
    }
}

/* --- feedback --- */

static void check_feedback(const json_t *body, bool change)
{
    struct feedback f = {.label = "", .comment = ""}, again = f;
    struct err e = {0};
    (void)change;
    if (feedback_read(body, &f, &e)) {
        need_refused(body, &e);
        return;
    }
    FUZZ_NEED(uuid_is(f.request) && f.rating >= -1 && f.rating <= 1 && strlen(f.label) <= FEEDBACK_LABEL_MAX && strlen(f.comment) <= FEEDBACK_COMMENT_MAX);
    json_t *said = json_pack("{ss sf ss ss}", "request_id", f.request, "rating", f.rating, "label", f.label, "comment", f.comment);
    FUZZ_NEED(said && feedback_read(said, &again, NULL) == 0 && again.rating == f.rating && strcmp(again.request, f.request) == 0);
    FUZZ_NEED(strcmp(again.label, f.label) == 0 && strcmp(again.comment, f.comment) == 0);
    json_decref(said);
}

/* --- limits --- */

static void check_limits(const json_t *body, bool change)
{
    int64_t value[LIMIT_VALUES], again[LIMIT_VALUES];
    struct err e = {0};
    const char *name;
    json_t *v;
    (void)change;
    if (limit_body_read(body, value, &e)) {
        need_refused(body, &e);
        return;
    }
    json_t *shown = limit_body_json(value);
    FUZZ_NEED(json_object_size(shown) == LIMIT_VALUES && limit_body_read(shown, again, NULL) == 0 && memcmp(value, again, sizeof value) == 0);
    json_object_foreach((json_t *)body, name, v) FUZZ_NEED(json_equal(v, json_object_get(shown, name))); /* each name is known */
    for (int i = 0; i < LIMIT_VALUES; i++) FUZZ_NEED(value[i] >= -1 && value[i] <= 1000000000000000);
    for (int i = 0; i < LIMIT_KINDS; i++) {
        char soft[64];
        snprintf(soft, sizeof soft, "%s_soft", limit_name[i]);
        const json_t *is = json_object_get(shown, soft);
        FUZZ_NEED(!json_is_integer(is) || value[i] < 0 || json_integer_value(is) <= value[i]);
    }
    json_decref(shown);
}

/* --- prices --- */

static void check_price(const json_t *body, bool change)
{
    struct price_wish w, again;
    struct err e = {0};
    (void)change;
    if (price_read_wish(body, &w, &e)) {
        need_refused(body, &e);
        return;
    }
    FUZZ_NEED(*w.base && strlen(w.base) < 128 && (*w.tenant || !*w.adapter) && w.valid_from >= -1 && w.valid_from <= TIME_MAX);
    FUZZ_NEED(w.prompt >= 0 && w.prompt <= PRICE_MAX && w.cached >= 0 && w.cached <= PRICE_MAX && w.output >= 0 && w.output <= PRICE_MAX);
    json_t *said = json_pack("{ss ss ss sI sI sI}", "base", w.base, "tenant", w.tenant, "adapter", w.adapter, "prompt_nano", (json_int_t)w.prompt,
                             "cached_nano", (json_int_t)w.cached, "output_nano", (json_int_t)w.output);
    if (w.valid_from >= 0) json_object_set_new(said, "valid_from", json_integer(w.valid_from));
    FUZZ_NEED(said && price_read_wish(said, &again, NULL) == 0 && again.valid_from == w.valid_from && again.prompt == w.prompt && again.cached == w.cached);
    FUZZ_NEED(strcmp(again.base, w.base) == 0 && strcmp(again.tenant, w.tenant) == 0 && strcmp(again.adapter, w.adapter) == 0 && again.output == w.output);
    json_decref(said);
}

/* --- webhooks --- */

static const struct settings set = {.webhook_hosts = "127.0.0.1, hooks.lan:8443"};
static const struct gateway gateway = {.set = (struct settings *)&set};

static void check_events(const json_t *body, const struct webhook_wish *w)
{
    const json_t *list = json_object_get(body, "events");
    FUZZ_NEED(memchr(w->events, 0, sizeof w->events) && w->set_events == json_is_array(list));
    const char *p = w->events;
    for (size_t i = 0; i < json_array_size(list); i++) { /* the row's text is the list with commas, to the letter */
        const char *s = json_string_value(json_array_get(list, i));
        size_t n = s ? strlen(s) : 0;
        FUZZ_NEED(n >= 1 && n <= WEBHOOK_PREFIX_MAX && !strchr(s, ',') && strncmp(p, s, n) == 0);
        p += n;
        FUZZ_NEED(i + 1 < json_array_size(list) ? *p == ',' : !*p);
        p += *p == ',';
    }
}

static void check_webhook(const json_t *body, bool change)
{
    struct webhook_wish w;
    struct err e = {0};
    if (webhook_read_wish(&gateway, body, !change, &w, &e)) {
        need_refused(body, &e);
        return;
    }
    FUZZ_NEED(change || (w.name && w.url && w.usage >= 0));
    FUZZ_NEED(!w.name || (name_is_valid(w.name) && strlen(w.name) <= WEBHOOK_NAME_MAX));
    FUZZ_NEED(!w.url || strncmp(w.url, "https://", 8) == 0 || strncmp(w.url, "http://", 7) == 0 || !strncasecmp(w.url, "http", 4));
    for (const char *p = w.authorization ? w.authorization : ""; *p; p++) FUZZ_NEED(*p >= ' ' && *p <= '~'); /* no second header */
    FUZZ_NEED(!w.authorization || strlen(w.authorization) <= WEBHOOK_AUTHORIZATION_MAX);
    check_events(body, &w);
}

static void check_span(const json_t *body, bool change)
{
    struct webhook_span s;
    struct err e = {0};
    (void)change;
    if (webhook_read_span(body, NOW_S, &s, &e)) {
        need_refused(body, &e);
        return;
    }
    FUZZ_NEED((s.start >= 0) != (s.after_event >= 0) && s.end <= NOW_S + 1 && (s.start < 0 || s.start < s.end));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static void (*const check[])(const json_t *body, bool change) = {check_alias, check_limits, check_price, check_webhook, check_span, check_feedback, check_parts};
    unsigned which = fuzz_byte(&data, &n);
    char *text = fuzz_text(data, n);
    json_t *body = NULL;
    if (json_parse(text, n, &body, NULL) == 0) {
        char *before = dump(body), *after;
        check[(which & 7) % (sizeof check / sizeof *check)](body, which > 7);
        after = dump(body);
        FUZZ_NEED(strcmp(before, after) == 0); /* a reader changes nothing */
        free(before);
        free(after);
    }
    json_decref(body);
    free(text);
    return 0;
}
