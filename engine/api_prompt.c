/* api_prompt: which model is meant, and the prompt's text as token ids.
 *
 * Runs on HTTP workers, so that a megabyte of prompt delays its own connection's thread and never a step; the context
 * bounds how many ids are kept. The text of special tokens becomes those tokens in completions as well, as in other
 * servers: a caller of that route writes templates by hand. */
#include "engine/api_impl.h"
#include <stdlib.h>
#include <string.h>

#define RENDERED_MAX (16u << 20) /* bytes of a rendered chat */

int api_resolve(const struct api_engine *g, const char *name, const char **digest, struct err *e)
{
    if (!strcmp(name, g->model->name) || !strcmp(name, g->model->desc.digest)) {
        *digest = NULL;
        return 0;
    }
    if (!sha256_is_hex(name))
        return err_field(e, ERR_MODEL_NOT_FOUND, "model", "the model '%.128s' does not exist", name);
    if (!lora_known(g->loras, name))
        return err_field(e, ERR_ADAPTER_NOT_LOADED, "model", "the adapter %s is not loaded", name);
    *digest = name;
    return 0;
}

static int prepend_bos(const struct model *m, struct tokens *t, struct err *e)
{
    int32_t *id = malloc((t->n + 1) * sizeof *id);
    if (!id) return err_set(e, ERR_NO_MEMORY, "no memory for the prompt");
    id[0] = tokenizer_bos(m->tok);
    if (t->n) memcpy(id + 1, t->id, t->n * sizeof *id);
    free(t->id);
    t->id = id;
    t->n++;
    return 0;
}

static int encode(const struct api_engine *g, const struct ask *a, const char *text, size_t len, const char *field,
                  size_t most, struct tokens *out, struct err *e)
{
    const struct model *m = g->model;
    struct err why = {0};
    struct tokens t = {0};
    if (tokenizer_encode(m->tok, text, len, true, most, &t, &why)) {
        if (why.code == ERR_CONTEXT_LENGTH)
            return err_field(e, why.code, field,
                             "This model's maximum context length is %d tokens; the %s alone are longer.",
                             g->max_context, a->kind == ASK_CHAT ? "messages" : "tokens of the prompt");
        return err_field(e, why.code, field, "%s", why.msg);
    }
    if (a->add_special_tokens && tokenizer_adds_bos(m->tok) && tokenizer_bos(m->tok) >= 0 && prepend_bos(m, &t, e)) {
        free(t.id);
        return -1;
    }
    *out = t;
    return 0;
}

static int chat_tokens(const struct api_engine *g, const struct ask *a, const json_t *messages, size_t most,
                       struct tokens *out, struct err *e)
{
    const struct model *m = g->model;
    struct buf text;
    if (!m->chat)
        return err_field(e, ERR_UNSUPPORTED, "messages", "the model %s has no chat template; use /v1/completions",
                         m->name);
    buf_init(&text, RENDERED_MAX);
    const json_t *tools = a->tool_choice == TOOL_CHOICE_NONE ? NULL : a->tools;
    if (tools && !g->template_takes_tools)
        return err_field(e, ERR_UNSUPPORTED, "tools", "the chat template of %s has no place for tools", m->name);
    int rc = chat_render(m->chat, messages, tools, a->add_generation_prompt, a->template_args, &text, e);
    if (!rc) rc = encode(g, a, text.data, text.len, "messages", most, out, e);
    buf_close(&text);
    return rc;
}

static int copy_ids(const struct api_engine *g, const json_t *ids, size_t most, struct tokens *out, struct err *e)
{
    size_t n = json_array_size(ids);
    if (n > most)
        return err_field(e, ERR_CONTEXT_LENGTH, "prompt",
                         "This model's maximum context length is %d tokens; the prompt has %zu.", g->max_context, n);
    int32_t *id = malloc((n ? n : 1) * sizeof *id);
    if (!id) return err_set(e, ERR_NO_MEMORY, "no memory for the prompt");
    for (size_t i = 0; i < n; i++) id[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    out->id = id;
    out->n = n;
    return 0;
}

int api_tokenize_of(const struct api_engine *g, const struct ask *a, int i, const json_t *messages, size_t most,
                    struct tokens *out, struct err *e)
{
    struct tokens t = {0};
    const json_t *v = a->prompt[i];
    int rc = a->kind == ASK_CHAT ? chat_tokens(g, a, messages, most, &t, e)
             : json_is_array(v)  ? copy_ids(g, v, most, &t, e)
                                 : encode(g, a, json_string_value(v), json_string_length(v), "prompt", most, &t, e);
    if (rc) return -1;
    if (t.n == 0) {
        free(t.id);
        return err_field(e, ERR_INVALID, a->kind == ASK_CHAT ? "messages" : "prompt", "the prompt is empty");
    }
    *out = t;
    return 0;
}

int api_tokenize(const struct api_engine *g, struct ask *a, int i, struct tokens *out, int *before, struct err *e)
{
    if (a->policy.on) return policy_tokenize(g, a, i, out, before, e);
    if (api_tokenize_of(g, a, i, a->messages, (size_t)g->max_context, out, e)) return -1;
    *before = (int)out->n;
    return 0;
}

/* POST /weft/v1/tokenize: the body of either route, told apart by `messages`. */
static void reply_tokens(struct http_request *r, struct ask *a, const struct api_engine *g)
{
    struct err e = {0};
    int64_t total = 0;
    json_t *ids = json_array();
    for (int i = 0; i < a->nprompts; i++) {
        struct tokens t;
        int before;
        if (api_tokenize(g, a, i, &t, &before, &e)) {
            json_decref(ids);
            api_refuse(r, &e);
            return;
        }
        total += (int64_t)t.n;
        json_t *one = json_array();
        for (size_t k = 0; k < t.n && a->return_token_ids; k++) json_list_add(&one, json_integer(t.id[k]));
        json_list_add(&ids, one);
        free(t.id);
    }
    json_t *v = json_pack("{s:I, s:i}", "prompt_tokens", (json_int_t)total, "max_model_len", g->max_context);
    if (a->return_token_ids)
        json_object_put(&v, "token_ids", ids);
    else
        json_decref(ids);
    api_reply_json(r, v);
}

void api_count(struct http_request *r, const struct api_engine *g)
{
    struct err e = {0};
    struct ask a;
    json_t *root = NULL;
    const char *digest;
    if (json_parse(r->body, r->body_len, &root, &e)) {
        api_refuse(r, &e);
        return;
    }
    enum ask_kind kind = json_object_get(root, "messages") ? ASK_CHAT : ASK_COMPLETION;
    json_decref(root);
    if (ask_parse(r->body, r->body_len, kind, g->model->vocab, &a, &e)) {
        api_refuse(r, &e);
        return;
    }
    if (api_resolve(g, a.model, &digest, &e))
        api_refuse(r, &e);
    else
        reply_tokens(r, &a, g);
    ask_close(&a);
}
