/* Kind openai: an upstream that speaks OpenAI's API and knows models of its own only, at an address and with a key of the
 * operator's. It serves a base, never an adapter.
 *
 *   out    the upstream's name of the model, the operator's key; neither a client's key, nor a header of a client's or of
 *          ours, nor the salt of a tenant's cache
 *   in     the client's name of the model; counts as the upstream reports them
 *
 * An upstream's word about our account (a wrong key, a spent budget, a model that is not there) is the operator's matter:
 * clients see an engine that failed, and nothing of what was said. It is not asked whether it lives, every second and for
 * nothing: that is what requests find out. Any thread. */
#include "base/json.h"
#include "gateway/pool/engine_words.h"
#include "gateway/registry/prompt_policy.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Some have no list of models; what they serve shows with the first request. A key that is refused shows here. */
static int look(const struct engine_link *l, struct engine_view *out, struct err *e)
{
    char *body = NULL;
    size_t len = 0;
    int status = 0;
    if (!l->model[0])
        return err_set(e, ERR_ENGINE, "the row does not say which of the upstream's models it is (upstream_model)");
    if (kind_get(l, "/v1/models", true, &status, &body, &len, e)) return -1;
    free(body);
    if (status == 401 || status == 403)
        return err_set(e, ERR_ENGINE, "the upstream at %s refuses our key", l->base_url);
    if (status >= 500) return err_set(e, ERR_ENGINE, "the upstream at %s answers with status %d", l->base_url, status);
    snprintf(out->model, sizeof out->model, "%s", l->model);
    return 0;
}

static int write_model(struct words_body *b, const struct json_member *m, struct err *e)
{
    if (b->ask->digest) return err_set(e, ERR_UNSUPPORTED, "the upstream that this model runs on serves no adapters");
    words_put_model(b, m->key, b->link->model);
    return 0;
}

static int nothing(struct words_body *b, const struct json_member *m, struct err *e)
{
    (void)b, (void)m, (void)e;
    return 0;
}

/* It would have to count in every chunk. */
static int write_stream_options(struct words_body *b, const struct json_member *m, struct err *e)
{
    if (words_stream_options(b, m, e)) return -1;
    if (!b->ask->usage_each) return 0;
    return err_field(e, ERR_UNSUPPORTED, "stream_options",
                     "'continuous_usage_stats' is not served by the upstream that this model runs on");
}

static const struct words_field fields[] = {
    {"model", write_model},
    {PROMPT_FIELD, words_refuse_policy},
    {"cache_salt", nothing},
    {"adapters", words_leave_out},
    {"stream_options", write_stream_options},
    {NULL, NULL},
};

static int write_body(const struct engine_link *l, struct kind_ask *a, struct buf *out, struct err *e)
{
    return words_write_body(l, a, fields, "{\"include_usage\":true}", out, e);
}

static void put_refusal(const struct kind_ask *a, const struct kind_error *said, const char *body, size_t n,
                        struct buf *out)
{
    json_t *root = NULL;
    const char *param = NULL;
    if (json_parse(body, n, &root, NULL) == 0)
        param = json_string_value(json_object_get(json_object_get(root, "error"), "param"));
    enum err_code code = err_by_word(said->code);
    if (code == ERR_NONE || err_info(code)->status != 400) code = ERR_INVALID;
    words_error(a, code, param ? param : "", said->message[0] ? said->message : "the upstream refused the request",
                out);
    json_decref(root);
}

static enum kind_verdict verdict(const struct kind_ask *a, int status, const char *body, size_t n, struct buf *out)
{
    struct kind_error said;
    kind_read_error(body, n, &said);
    if (status == 400 || status == 413 || status == 422) {
        put_refusal(a, &said, body, n, out);
        return KIND_REFUSED;
    }
    if (status == 503 || (status == 429 && strcmp(said.code, "insufficient_quota") != 0)) {
        words_error(a, status == 429 ? ERR_RATE_LIMIT : ERR_QUEUE_FULL, "",
                    "the upstream has too many requests; try again", out);
        return KIND_BUSY;
    }
    words_error(a, ERR_ENGINE, "", "the upstream failed while it served the request", out);
    return KIND_FAILED;
}

const struct kind kind_openai = {
    .name = "openai",
    .look = look,
    .write_body = write_body,
    .event = words_event,
    .answer = words_answer,
    .verdict = verdict,
};
