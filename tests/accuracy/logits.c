/* weft-logits: what the engine computes, without scheduler and HTTP, for whoever compares it with an oracle (`run`).
 *
 *     weft-logits [--exact] [--context N] [--weights FILE] MODEL PROMPTS OUT [ADAPTER ...]
 *
 * PROMPTS: a line of token ids per prompt, separated by blanks. OUT: float32 [runs][positions of all prompts][vocab],
 * little-endian; the first run is the base's, then one for each ADAPTER (a PEFT folder) that was taken. Standard output
 * gets one JSON object: {"vocab", "positions", "refused": {folder: why}, "weights": [{"name", "n", "k"}, ..]}. FAST unless
 * --exact is given.
 *
 * --weights FILE: every matrix as the engine holds it, dequantized, float32 [n][k] in the order that "weights" tells; names
 * are those of packed files (source.h), and q, k, v, gate and up always stand apart.
 *
 * Exit codes: 0, also when adapters were refused; 2 bad arguments; 3 the model was refused, with the reason on standard
 * error. Bounds: PROMPTS_MAX prompts of at most --context tokens, ADAPTERS_MAX adapters. */
#include "base/json.h"
#include "base/log.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/lora.h"
#include "engine/source.h"
#include "tests/unit/pin_folder.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROMPTS_MAX 64
#define ADAPTERS_MAX 64
#define ROWS_MAX 512 /* of one pass; longer prompts go through in pieces */
#define RANK_MAX 512
#define THREADS 2
#define KV_BYTES (64 << 20)
#define USAGE "usage: weft-logits [--exact] [--context N] [--weights FILE] MODEL PROMPTS OUT [ADAPTER ...]\n"

enum { DONE = 0, BAD_USAGE = 2, BAD_MODEL = 3 };

struct prompt {
    int32_t *id;
    int n;
};

struct logits {
    enum precision prec;
    int context;
    const char *weights; /* or NULL */
    const char *model, *prompts, *out, **adapter;
    int nadapters;

    struct prompt prompt[PROMPTS_MAX];
    int nprompts;
    struct model *m;
    struct lora_set *loras;
    struct pool *pool;
    struct kv_pool kv;
    struct forward *f;
    FILE *file;
    json_t *told;
};

/* --- arguments and prompts --- */

static bool whole_number(const char *s, long min, long max, int *out)
{
    char *end;
    errno = 0;
    long v = strtol(s, &end, 10);
    if (errno || end == s || *end || v < min || v > max) return false;
    *out = (int)v;
    return true;
}

static int read_arguments(struct logits *l, int argc, char **argv)
{
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        bool value = i + 1 < argc;
        if (strcmp(argv[i], "--exact") == 0)
            l->prec = PREC_EXACT;
        else if (strcmp(argv[i], "--weights") == 0 && value)
            l->weights = argv[++i];
        else if (strcmp(argv[i], "--context") != 0 || !value || !whole_number(argv[++i], 0, INT_MAX, &l->context))
            return -1;
    }
    if (argc - i < 3 || argc - i - 3 > ADAPTERS_MAX) return -1;
    l->model = argv[i];
    l->prompts = argv[i + 1];
    l->out = argv[i + 2];
    l->adapter = (const char **)argv + i + 3;
    l->nadapters = argc - i - 3;
    return 0;
}

/* A line's numbers; `line` is changed. */
static int read_prompt(char *line, const struct model *m, struct prompt *p, struct err *e)
{
    char *rest = line, *word;
    size_t most = strlen(line) / 2 + 1;
    p->id = malloc(most * sizeof *p->id);
    if (!p->id) return err_set(e, ERR_NO_MEMORY, "no memory for a prompt");
    while ((word = strsep(&rest, " \n"))) {
        int id;
        if (!*word) continue;
        if (!whole_number(word, 0, m->vocab - 1, &id))
            return err_set(e, ERR_USAGE, "'%.40s' is no token of the model", word);
        p->id[p->n++] = id;
    }
    if (p->n > m->max_context)
        return err_set(e, ERR_USAGE, "a prompt of %d tokens, in a context of %d", p->n, m->max_context);
    return 0;
}

static int read_prompts(struct logits *l, struct err *e)
{
    char *line = NULL;
    size_t cap = 0;
    int rc = 0;
    FILE *f = fopen(l->prompts, "re");
    if (!f) return err_errno(e, "cannot open %s", l->prompts);
    while (rc == 0 && getline(&line, &cap, f) > 0) {
        struct prompt *p = &l->prompt[l->nprompts];
        if (l->nprompts == PROMPTS_MAX)
            rc = err_set(e, ERR_USAGE, "%s has more than %d prompts", l->prompts, PROMPTS_MAX);
        else if ((rc = read_prompt(line, l->m, p, e)) == 0 && p->n > 0)
            l->nprompts++;
        else
            free(p->id), *p = (struct prompt){0};
    }
    free(line);
    fclose(f);
    if (rc == 0 && l->nprompts == 0) return err_set(e, ERR_USAGE, "%s has no prompt", l->prompts);
    return rc;
}

/* --- adapters --- */

static struct lora_slot *pin(struct logits *l, const char *folder, struct err *e)
{
    char digest[SHA256_HEX], *dir = realpath(folder, NULL);
    struct lora_slot *slot = NULL;
    if (!dir) {
        err_errno(e, "no such folder: %s", folder);
        return NULL;
    }
    pin_folder(l->loras, &l->m->desc, dir, digest, &slot, e);
    free(dir);
    return slot;
}

/* The row from which the adapter takes part: aLoRA's begins at the last occurrence of its tokens. */
static int first_row(const struct lora_slot *s, const struct prompt *p)
{
    if (!s->ninvocation) return 0;
    for (int at = p->n - s->ninvocation; at >= 0; at--)
        if (memcmp(p->id + at, s->invocation, (size_t)s->ninvocation * sizeof *p->id) == 0) return at;
    return p->n;
}

/* --- runs --- */

/* Rows pos .. pos+rows-1 of a prompt. */
static int run_part(struct logits *l, const struct prompt *p, const struct kv_seq *kv, struct lora_slot *slot, int pos,
                    int rows, struct err *e)
{
    int wanted[ROWS_MAX], first = slot ? first_row(slot, p) - pos : rows;
    for (int i = 0; i < rows; i++) wanted[i] = i;
    if (first < 0) first = 0;
    const struct attn_seq seq = {.rows = rows, .pos0 = pos, .page = kv->page};
    struct lora_seg seg = {.row0 = first, .rows = rows - first, .nuse = 1};
    struct forward_batch b = {
        .rows = rows, .token = p->id + pos, .nseq = 1, .seq = &seq, .nlogits = rows, .logit_row = wanted};
    if (first < rows) {
        seg.use[0] = (struct lora_use){&slot->table, 1};
        b.lora = (struct lora_batch){.nseg = 1, .seg = &seg, .modules = LORA_MODULES, .experts = l->m->experts};
        b.max_rank = lora_rank_pad(slot->max_rank);
    }
    size_t n = (size_t)rows * (size_t)l->m->vocab;
    if (fwrite(forward_run(l->f, &b), sizeof(float), n, l->file) == n) return 0;
    return err_errno(e, "cannot write %s", l->out);
}

static int run_prompt(struct logits *l, const struct prompt *p, struct lora_slot *slot, struct err *e)
{
    struct kv_seq kv;
    int rc = kv_seq_init(&kv, p->n, e);
    if (rc) return rc;
    if (!kv_seq_reserve(&l->kv, &kv, p->n)) rc = err_set(e, ERR_USAGE, "a prompt of %d tokens has no room", p->n);
    for (int pos = 0; rc == 0 && pos < p->n; pos += ROWS_MAX)
        rc = run_part(l, p, &kv, slot, pos, p->n - pos < ROWS_MAX ? p->n - pos : ROWS_MAX, e);
    kv_seq_release(&l->kv, &kv);
    kv_seq_close(&kv);
    return rc;
}

static int run_with(struct logits *l, struct lora_slot *slot, struct err *e)
{
    for (int i = 0; i < l->nprompts; i++)
        if (run_prompt(l, &l->prompt[i], slot, e)) return -1;
    return 0;
}

static int run_all(struct logits *l, struct err *e)
{
    int positions = 0;
    json_t *refused = json_object();
    for (int i = 0; i < l->nprompts; i++) positions += l->prompt[i].n;
    json_object_set_new(l->told, "vocab", json_integer(l->m->vocab));
    json_object_set_new(l->told, "positions", json_integer(positions));
    json_object_set_new(l->told, "refused", refused);
    int rc = run_with(l, NULL, e);
    for (int i = 0; rc == 0 && i < l->nadapters; i++) {
        struct err why = {0};
        struct lora_slot *slot = pin(l, l->adapter[i], &why);
        if (!slot) {
            json_object_set_new(refused, l->adapter[i], json_string(why.msg));
            continue;
        }
        rc = run_with(l, slot, e);
        lora_unpin(l->loras, slot);
    }
    return rc;
}

/* --- weights --- */

static int write_matrix(FILE *f, json_t *list, const struct spot *at, const struct weight *w, struct err *e)
{
    char name[SOURCE_PLACE_MAX];
    if (!w->n) return 0;
    float *row = malloc((size_t)w->k * sizeof *row);
    if (!row) return err_set(e, ERR_NO_MEMORY, "no memory for a row of %d", w->k);
    source_place_name(at, name);
    json_array_append_new(list, json_pack("{s:s, s:i, s:i}", "name", name, "n", w->n, "k", w->k));
    bool good = true;
    for (int i = 0; i < w->n && good; i++) {
        weight_row(w, i, row);
        good = fwrite(row, sizeof *row, (size_t)w->k, f) == (size_t)w->k;
    }
    free(row);
    return good ? 0 : err_errno(e, "cannot write %s", name);
}

static int write_layer(FILE *f, json_t *list, const struct model *m, int layer, struct err *e)
{
    const struct model_layer *l = &m->layer[layer];
    for (int i = 0; i < LORA_MODULES; i++)
        if (write_matrix(f, list, &(struct spot){.at = (enum place)(AT_Q + i), .layer = layer}, &l->module[i], e))
            return -1;
    if (write_matrix(f, list, &(struct spot){.at = AT_ROUTER, .layer = layer}, &l->router, e)) return -1;
    for (int x = 0; l->expert && x < m->experts; x++)
        for (int i = 0; i < 3; i++) {
            const struct spot at = {.at = (enum place)(AT_EXPERT_GATE + i), .layer = layer, .expert = x};
            if (write_matrix(f, list, &at, &l->expert[x].part[i], e)) return -1;
        }
    return 0;
}

static int write_weights(struct logits *l, struct err *e)
{
    json_t *list = json_array();
    json_object_set_new(l->told, "weights", list);
    FILE *f = fopen(l->weights, "we");
    if (!f) return err_errno(e, "cannot open %s", l->weights);
    int rc = write_matrix(f, list, &(struct spot){.at = AT_EMBED}, &l->m->embed, e);
    if (rc == 0) rc = write_matrix(f, list, &(struct spot){.at = AT_HEAD}, &l->m->head_own, e);
    for (int i = 0; rc == 0 && i < l->m->layers; i++) rc = write_layer(f, list, l->m, i, e);
    if (fclose(f) && rc == 0) rc = err_errno(e, "cannot write %s", l->weights);
    return rc;
}

/* --- whole --- */

static int open_engine(struct logits *l, struct err *e)
{
    const struct lora_options o = {.max_slots = 1, .max_known = ADAPTERS_MAX, .wait_ms = 10000, .max_rank = RANK_MAX};
    const struct kernels *k = kernels_pick(getenv("WEFT_KERNELS"), l->prec);
    if (!k) return err_set(e, ERR_USAGE, "the kernels that WEFT_KERNELS names cannot run here");
    if (model_load(&l->m, l->model, NULL, l->prec, l->context, e)) return -1;
    if (lora_set_new(&l->loras, l->m, &o, e) || pool_new(&l->pool, THREADS, e)) return -1;
    if (kv_pool_init(&l->kv, l->m, KV_BYTES, 1, e)) return -1;
    return forward_new(&l->f, l->m, k, l->pool, &l->kv.cache, ROWS_MAX, ROWS_MAX, RANK_MAX, e);
}

static void close_engine(struct logits *l)
{
    if (l->f) forward_free(l->f);
    if (l->kv.refs) kv_pool_close(&l->kv);
    if (l->pool) pool_free(l->pool);
    if (l->loras) lora_set_free(l->loras);
    if (l->m) model_free(l->m);
    for (int i = 0; i < PROMPTS_MAX; i++) free(l->prompt[i].id);
}

static int compute(struct logits *l, struct err *e)
{
    if (open_engine(l, e) || read_prompts(l, e)) return -1;
    l->file = fopen(l->out, "we");
    if (!l->file) return err_errno(e, "cannot open %s", l->out);
    int rc = run_all(l, e);
    if (fclose(l->file) && rc == 0) rc = err_errno(e, "cannot write %s", l->out);
    return rc == 0 && l->weights ? write_weights(l, e) : rc;
}

int main(int argc, char **argv)
{
    static struct logits l = {.prec = PREC_FAST};
    struct err e = {0};
    if (read_arguments(&l, argc, argv)) return fputs(USAGE, stderr), BAD_USAGE;
    log_init("weft-logits", LOG_ERROR);
    l.told = json_object();
    int rc = compute(&l, &e);
    if (rc == 0) json_dumpf(l.told, stdout, JSON_COMPACT);
    if (rc) fprintf(stderr, "%s\n", e.msg);
    json_decref(l.told);
    close_engine(&l);
    return rc == 0 ? DONE : e.code == ERR_USAGE ? BAD_USAGE : BAD_MODEL;
}
