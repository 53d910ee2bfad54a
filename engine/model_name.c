/* model_name: what a model is called, and what adapters are checked against.
 *
 * A name comes from where the model lies, since that is what its owner chose:
 *
 *     dir/SmolLM2-135M-Instruct.Q4_1.gguf                     SmolLM2-135M-Instruct
 *     dir/Qwen2.5-0.5B-Instruct/                              Qwen2.5-0.5B-Instruct
 *     hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de289.../   Qwen3-0.6B
 *
 * Other names under which adapters may know it (base_desc.also) come from the metadata.
 *
 * Called at load only. */
#include "base/clock.h"
#include "engine/model_family.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Is s a type suffix: Q4_1, q8_0, IQ4_NL, Q4_K_M, F16, BF16, MXFP4? */
static bool is_type_word(const char *s)
{
    static const char *const starts[] = {"iq", "q", "bf", "f", "mxfp", "tq"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        size_t k = strlen(starts[i]);
        if (strncasecmp(s, starts[i], k) == 0 && isdigit((unsigned char)s[k])) return true;
    }
    return false;
}

/* The last part of a path, of at most 127 bytes; cuts it off `path`. */
static void take_last(char *path, char out[128])
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') path[--n] = 0;
    char *slash = strrchr(path, '/');
    snprintf(out, 128, "%.127s", slash ? slash + 1 : path);
    if (slash)
        *slash = 0;
    else
        path[0] = 0;
}

/* "models--Qwen--Qwen3-0.6B" -> "Qwen3-0.6B", where the path is that of a snapshot in Hugging Face's cache. */
static void repository_of(char *rest, char out[128])
{
    char above[128], repository[128];
    take_last(rest, above);
    if (strcmp(above, "snapshots") != 0) return;
    take_last(rest, repository);
    char *name = strstr(repository, "--"), *next;
    if (strncmp(repository, "models--", 8) != 0 || !name) return;
    while ((next = strstr(name + 2, "--"))) name = next;
    snprintf(out, 128, "%s", name + 2);
}

static void stem_of(const char *path, char out[128])
{
    char *resolved = realpath(path, NULL), rest[4096];
    struct stat st;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    snprintf(rest, sizeof rest, "%s", folder && resolved ? resolved : path); /* "." and ".." have no name */
    free(resolved);
    take_last(rest, out);
    if (folder) {
        repository_of(rest, out);
        return;
    }
    size_t n = strlen(out);
    if (n > 5 && ends_with(out, ".gguf")) out[n -= 5] = 0;
    if (n > 5 && ends_with(out, ".weft")) out[n -= 5] = 0;
    char *cut = n > 1 ? strpbrk(out + 1, ".-") : NULL;
    for (char *next; cut && (next = strpbrk(cut + 1, ".-")); cut = next) {
    }
    if (cut && is_type_word(cut + 1)) *cut = 0;
}

static void copy_key(const struct gguf *g, const char *key, char out[128])
{
    struct gguf_str s;
    if (gguf_has(g, key) && gguf_string(g, key, &s, NULL) == 0 && s.len < 128)
        snprintf(out, 128, "%.*s", (int)s.len, s.s);
}

/* _name_or_path is a name on the hub, or where somebody's directory was: of that the last part. */
static void copy_hub_name(const json_t *root, char out[128])
{
    const char *s = json_string_value(json_object_get(root, "_name_or_path"));
    char rest[4096];
    if (!s || strlen(s) >= 128) return;
    snprintf(rest, sizeof rest, "%s", s);
    if (s[0] == '/' || s[0] == '.')
        take_last(rest, out);
    else
        snprintf(out, 128, "%s", s);
}

static void set_shape(const struct family *f, const struct model_plan *p, const struct model *m, struct base_desc *d)
{
    bool dense = false;
    int q = m->heads * m->head_dim, kv = m->kv_heads * m->head_dim;
    for (int i = 0; i < m->layers; i++) dense |= !p->layer[i].sparse;
    const int in[LORA_MODULES] = {m->hidden, m->hidden, m->hidden, q, m->hidden, m->hidden, m->mlp};
    const int out[LORA_MODULES] = {q, kv, kv, m->hidden, m->mlp, m->mlp, m->hidden};
    for (int i = 0; i < LORA_MODULES; i++) {
        bool has = i <= LM_O || dense;
        d->in[i] = has ? in[i] : 0;
        d->out[i] = has ? out[i] : 0;
    }
    d->layers = m->layers;
    d->uneven = m->uneven;
    for (int l = 0; m->uneven && l < m->layers; l++)
        d->widths[l] = (struct base_widths){.q = p->layer[l].heads * m->head_dim,
                                            .kv = p->layer[l].kv_heads * m->head_dim,
                                            .mlp = p->layer[l].mlp};
    d->vocab = m->vocab;
    d->hidden = m->hidden;
    d->experts = m->experts;
    d->expert_mlp = m->expert_mlp;
    d->fused_qkv = d->fused_gate_up = f->fused;
}

int model_describe(const struct meta *c, const struct model_plan *p, const char *path, const char *name,
                   struct model *m, struct err *e)
{
    struct base_desc *d = &m->desc;
    if (c->g) {
        copy_key(c->g, "general.name", d->also[0]);
        copy_key(c->g, "general.basename", d->also[1]);
    } else
        copy_hub_name(c->root, d->also[0]);
    stem_of(path, d->also[2]);
    if (name && *name) {
        if (strlen(name) >= sizeof m->name)
            return err_set(e, ERR_USAGE, "the model's name is longer than %zu bytes", sizeof m->name - 1);
        snprintf(m->name, sizeof m->name, "%s", name);
    } else
        for (size_t i = 0; i < sizeof m->name; i++) m->name[i] = (char)tolower((unsigned char)d->also[2][i]);
    memcpy(d->name, m->name, sizeof d->name);
    set_shape(c->f, p, m, d);
    struct stat st;
    m->created = stat(path, &st) == 0 ? (int64_t)st.st_mtime : clock_wall_us() / 1000000;
    return 0;
}
