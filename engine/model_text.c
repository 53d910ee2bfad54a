/* model_text: the vocabulary and the chat template that come with a model.
 *
 *     GGUF      tokenizer.ggml.*, tokenizer.chat_template
 *     directory tokenizer.json, tokenizer_config.json, generation_config.json; chat_template.jinja, else tokenizer_config.json's
 *               chat_template: a string, or a list of named ones of which "default" is taken
 *
 * The vocabulary may be smaller than the embedding, whose last rows are then padding (to a multiple that suits the
 * trainer's machine): model.tokens says how many there are, and ids beyond are never sampled. One that is larger would
 * read behind the embedding and is refused.
 *
 * Called at load only. */
#include "engine/model_family.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define TEMPLATE_MAX (4u << 20) /* bytes of a template in a file of its own */

/* A special token's text with a NUL, cut where it is absurdly long. */
static void token_text(const struct tokenizer *t, int id, char out[256])
{
    size_t n = 0;
    const char *s = id >= 0 ? tokenizer_bytes(t, id, &n) : "";
    snprintf(out, 256, "%.*s", (int)(n < 255 ? n : 255), s);
}

static int compile(struct model *m, const char *text, size_t len, struct err *e)
{
    char bos[256], eos[256];
    token_text(m->tok, tokenizer_bos(m->tok), bos);
    token_text(m->tok, tokenizer_eos(m->tok), eos);
    if (chat_template_new(&m->chat, text, len, bos, eos, e) == 0) return 0;
    size_t n = e ? strlen(e->msg) : 0;
    if (e && e->code == ERR_MODEL) snprintf(e->msg + n, sizeof e->msg - n, "; --chat-template FILE brings another");
    return err_prefix(e, "the chat template");
}

static int load_gguf(const struct gguf *g, struct model *m, struct err *e)
{
    struct gguf_str text;
    if (tokenizer_from_gguf(&m->tok, g, e)) return -1;
    if (!gguf_has(g, "tokenizer.chat_template")) return 0;
    return gguf_string(g, "tokenizer.chat_template", &text, e) ? -1 : compile(m, text.s, text.len, e);
}

/* A JSON file of the source; *out NULL where there is none. */
static int parse_file(const struct source *s, const char *name, json_t **out, struct err *e)
{
    const char *text;
    size_t len;
    *out = NULL;
    if (!source_file(s, name, &text, &len)) return 0;
    if (json_parse_wide(text, len, out, e) == 0) return 0;
    e->code = ERR_MODEL;
    return err_prefix(e, "%s", name);
}

/* The template of tokenizer_config.json; *text NULL: it has none. */
static int config_template(const json_t *config, const char **text, size_t *len, struct err *e)
{
    const json_t *t = json_object_get(config, "chat_template");
    *text = NULL;
    if (!t || json_is_null(t)) return 0;
    for (size_t i = 0; json_is_array(t) && i < json_array_size(t); i++) {
        const json_t *named = json_array_get(t, i);
        const char *name = json_string_value(json_object_get(named, "name"));
        if (!name || strcmp(name, "default") != 0) continue;
        t = json_object_get(named, "template");
        break;
    }
    if (!json_is_string(t))
        return err_set(
            e, ERR_MODEL,
            "tokenizer_config.json: chat_template is neither a text nor a list with \"default\"; take it out and give "
            "--chat-template FILE");
    *text = json_string_value(t);
    *len = json_string_length(t);
    return 0;
}

static int hf_template(const struct source *s, const json_t *config, struct model *m, struct err *e)
{
    const char *text;
    size_t len;
    if (!source_file(s, "chat_template.jinja", &text, &len) && config_template(config, &text, &len, e)) return -1;
    return text ? compile(m, text, len, e) : 0;
}

static int load_hf(const struct source *s, struct model *m, struct err *e)
{
    json_t *config = NULL, *generation = NULL;
    const char *text;
    size_t len;
    int rc = -1;
    if (!source_file(s, "tokenizer.json", &text, &len))
        return err_set(e, ERR_MODEL,
                       "tokenizer.json is missing: save the tokenizer with transformers' save_pretrained()");
    if (parse_file(s, "tokenizer_config.json", &config, e) || parse_file(s, "generation_config.json", &generation, e))
        goto out;
    if (tokenizer_from_hf(&m->tok, text, len, config, generation, e)) goto out;
    rc = hf_template(s, config, m, e);
out:
    json_decref(config);
    json_decref(generation);
    return rc;
}

int text_load(const struct source *s, struct model *m, struct err *e)
{
    const struct gguf *g = source_gguf(s);
    if (g ? load_gguf(g, m, e) : load_hf(s, m, e)) return -1;
    m->tokens = tokenizer_vocab(m->tok);
    if (m->tokens > m->vocab)
        return err_set(e, ERR_MODEL,
                       "the vocabulary has %d tokens, the embedding only %d rows; the tokenizer is another model's",
                       m->tokens, m->vocab);
    return 0;
}

int model_set_chat(struct model *m, const char *path, struct err *e)
{
    struct chat_template *old = m->chat;
    struct stat st;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return err_set(e, ERR_USAGE, "the chat template %s is not a file: give the path of a Jinja file", path);
    FILE *f = fopen(path, "re");
    if (!f) return err_errno(e, "cannot open the chat template %s", path);
    char *text = malloc(TEMPLATE_MAX);
    size_t n = text ? fread(text, 1, TEMPLATE_MAX, f) : 0;
    bool whole = feof(f) && !ferror(f);
    fclose(f);
    int rc = !text    ? err_set(e, ERR_NO_MEMORY, "no memory for the chat template")
             : !whole ? err_set(e, ERR_USAGE, "the chat template %s has more than %u bytes", path, TEMPLATE_MAX)
                      : compile(m, text, n, e);
    free(text);
    if (rc) return err_prefix(e, "%s", path);
    chat_template_free(old);
    return 0;
}
