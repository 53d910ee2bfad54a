/* A model as Hugging Face keeps it: config.json's quantization, the index of the shards, the shards' headers, and what is then handed out. What is opened has tensors
 * that stand once each, tile their files and lie where the index says, by a second reading of it too; no file but plain *.safetensors beside the index is opened; every
 * place that is said to be there is read to its last row, as finite numbers of the shape that was asked for, or refused by name; and what nobody asked for is refused.
 * Input: a byte for how the folder looks, config.json, a NUL, the index, a NUL, the header of a.safetensors, a NUL, two bytes for the size of its data, b.safetensors
 * as it is. The bits of the first byte: only model.safetensors (b), config.json is missing, other files stand beside it, no weights, b is missing, tokenizer_config.json is empty; l.safetensors is a link to b. */
#include "engine/source_hf.c"
#include "base/log.h"
#include "tests/fuzz/fuzz.h"
#include <fcntl.h>

#define ONE 1
#define NO_CONFIG 2
#define BESIDE 4
#define NO_WEIGHTS 8
#define NO_B 16
#define EMPTY_TEXT 32

/* --- the folder: files are made once and then filled anew, or put out of sight --- */

struct disk_file {
    const char *name;
    int fd;
    bool there;
};
static struct disk_file files[] = {{"config.json", 0, 0}, {INDEX, 0, 0},           {"a.safetensors", 0, 0},        {"b.safetensors", 0, 0},
                                   {SINGLE, 0, 0},        {"pytorch_model.bin", 0, 0}, {"adapter_config.json", 0, 0}, {"tokenizer_config.json", 0, 0}};
enum { CONFIG_FILE, INDEX_FILE, A_FILE, B_FILE, SINGLE_FILE, PICKLE_FILE, ADAPTER_FILE, TEXT_FILE, NFILES };

static void leave(void)
{
    char path[128];
    for (int i = 0; i < NFILES; i++)
        for (int off = 0; off < 2; off++) {
            snprintf(path, sizeof path, "%s/%s%s", fuzz_folder(), files[i].name, off ? ".off" : "");
            unlink(path);
        }
    snprintf(path, sizeof path, "%s/l.safetensors", fuzz_folder());
    unlink(path);
}

static void place(int i, bool there, const void *bytes, size_t n)
{
    struct disk_file *f = &files[i];
    char on[128], off[140];
    snprintf(on, sizeof on, "%s/%s", fuzz_folder(), f->name);
    snprintf(off, sizeof off, "%s.off", on);
    if (!f->fd) f->fd = open(off, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (there != f->there) FUZZ_NEED(rename(there ? off : on, there ? on : off) == 0);
    f->there = there;
    if (there) FUZZ_NEED(f->fd > 0 && ftruncate(f->fd, 0) == 0 && pwrite(f->fd, bytes, n, 0) == (ssize_t)n);
}

/* A shard of that header; its data are floats of every type, which are finite. */
static uint8_t *framed(const char *header, size_t data, size_t *n)
{
    uint64_t len = strlen(header);
    *n = 8 + (size_t)len + data;
    uint8_t *b = malloc(*n);
    FUZZ_NEED(b);
    memcpy(b, &len, 8);
    memcpy(b + 8, header, (size_t)len);
    for (size_t i = 0; i < data; i++) b[8 + len + i] = (uint8_t)(i * 37 & 0x3f);
    return b;
}

/* --- what was opened --- */

static void check_tensors(const struct source *s)
{
    size_t sum[SOURCE_SHARDS_MAX] = {0};
    FUZZ_NEED(s->ntensors >= 1 && s->nshards >= 1 && s->nshards <= SOURCE_SHARDS_MAX);
    for (int i = 0; i < s->ntensors; i++) {
        const struct tensor *t = &s->tensor[i];
        const struct mapped *m = &s->shard[t->shard];
        FUZZ_NEED(!i || strcmp(t[-1].name, t->name) < 0);
        FUZZ_NEED(t->data >= m->p + 8 && t->data + t->bytes <= m->p + m->bytes && t->bytes == (size_t)t->count * dtype_bytes[t->dtype]);
        FUZZ_NEED(hf_find(s, t->name) == t);
        sum[t->shard] += t->bytes;
    }
    for (int i = 0; i < s->nshards; i++) {
        const struct mapped *m = &s->shard[i];
        uint64_t head;
        memcpy(&head, m->p, sizeof head);
        FUZZ_NEED(!strchr(m->name, '/') && m->name[0] != '.' && m->bytes == 8 + head + sum[i]);
    }
}

/* The index by jansson: what it says of a tensor is so. */
static void check_index(const struct source *s, const char *text)
{
    json_t *o = json_loadb(text, strlen(text), JSON_REJECT_DUPLICATES, NULL), *file;
    const char *name;
    json_object_foreach(json_object_get(o, "weight_map"), name, file)
    {
        const struct tensor *t = hf_find(s, name);
        FUZZ_NEED(t && json_is_string(file) && !strcmp(s->shard[t->shard].name, json_string_value(file)));
    }
    json_decref(o);
}

static int skip_entry(struct source *s, const char *dir, const struct json_word *tensor, const struct json_word *file, struct err *e)
{
    (void)dir;
    (void)e;
    FUZZ_NEED(tensor->s && file->s);
    s->world ^= shard_name_ok(file);
    return 0;
}

/* The same readers over blocks of exactly the text's size, where a byte read beyond is seen. */
static void walk_exact(const char *index, const uint8_t *shard, size_t n)
{
    struct source s = {.kind = SOURCE_HF, .names = arena_new(1u << 20), .shard = calloc(1, sizeof *s.shard), .nshards = 1};
    struct err e = {0};
    uint8_t *block = malloc(n ? n : 1), *text = malloc(strlen(index) ? strlen(index) : 1);
    FUZZ_NEED(s.names && s.shard && block && text);
    memcpy(block, shard, n);
    memcpy(text, index, strlen(index));
    int rc = walk_index(text, strlen(index), &s, "", skip_entry, &e);
    FUZZ_NEED(rc == 0 || (e.code == ERR_MODEL && e.msg[0]));
    s.shard[0].p = block;
    s.shard[0].bytes = n;
    e = (struct err){0};
    rc = st_shard(&s, 0, &e);
    FUZZ_NEED(rc == 0 || (e.code == ERR_MODEL && e.msg[0]));
    free(s.shard);
    free(s.tensor);
    free(block);
    free(text);
    arena_free(s.names);
}

/* --- what is handed out --- */

static void check_row(const struct source_matrix *m, int row)
{
    size_t k = (size_t)m->src.k, groups = (k + 31) / 32;
    struct weight_row out = {malloc(k * sizeof(float)), malloc(k), malloc(groups * sizeof(float)), malloc(groups * sizeof(float))};
    struct err e = {0};
    FUZZ_NEED(out.f && out.q && out.d && out.z);
    int rc = m->src.read(&m->src, row, &out, &e);
    FUZZ_NEED(rc == 0 || (e.code == ERR_MODEL && e.msg[0]));
    for (size_t i = 0; !rc && m->src.kind == CODES_FLOAT && i < k; i++) FUZZ_NEED(out.f[i] - out.f[i] == 0);
    for (size_t i = 0; !rc && m->src.kind != CODES_FLOAT && i < groups; i++) FUZZ_NEED(out.d[i] - out.d[i] == 0);
    free(out.f);
    free(out.q);
    free(out.d);
    free(out.z);
}

static void ask_matrix(const struct source *s, const struct spot *at, int64_t n, int64_t k)
{
    struct source_matrix m = {.room = NULL};
    struct err e = {0};
    if (n < 0 || n > 1 << 16 || k < 0 || k > 1 << 16) return;
    if (source_matrix(s, at, (int)n, (int)k, &m, &e)) {
        FUZZ_NEED(e.code == ERR_MODEL && e.msg[0]);
        return;
    }
    FUZZ_NEED(m.src.n == n && m.src.k == k && m.src.format && n > 0 && k > 0);
    check_row(&m, 0);
    check_row(&m, (int)n - 1);
    source_matrix_close(&m);
}

static void ask_vector(const struct source *s, const struct spot *at, int64_t n)
{
    float *v = NULL;
    struct err e = {0};
    if (n < 0 || n > 1 << 16) return;
    if (source_vector(s, at, (int)n, &v, &e))
        FUZZ_NEED(e.code == ERR_MODEL && e.msg[0] && !v);
    else
        for (int64_t i = 0; i < n; i++) FUZZ_NEED(v[i] - v[i] == 0);
    free(v);
}

static void ask(const struct source *s, const struct spot *at)
{
    int64_t n = 0, k = 0;
    bool has = source_has(s, at), shaped = source_shape(s, at, &n, &k);
    FUZZ_NEED(!shaped || (n >= 0 && k >= 0));
    if (!has) return;
    if (at->bias || (shaped && n == 0)) {
        ask_vector(s, at, k);
        ask_vector(s, at, k + 1);
        return;
    }
    if (shaped) ask_matrix(s, at, n, k);
    ask_matrix(s, at, 32, 32);
    ask_matrix(s, at, 16, 64);
}

static void ask_all(const struct source *s)
{
    for (int at = 0; at < PLACES; at++) {
        bool layered = at >= AT_ATTN_NORM, experts = at >= AT_EXPERT_GATE, module = at >= AT_Q && at <= AT_DOWN;
        for (int layer = 0; layer <= layered; layer++)
            for (int x = 0; x <= experts; x++)
                for (int bias = 0; bias <= module; bias++) ask(s, &(struct spot){.at = (enum place)at, .layer = layer, .expert = x, .bias = bias});
    }
    FUZZ_NEED(!source_has(s, &(struct spot){.at = AT_Q, .layer = -1}) && !source_has(s, &(struct spot){.at = AT_Q, .layer = SOURCE_LAYERS_MAX}));
    ask_matrix(s, &(struct spot){.at = AT_EXPERT_DOWN, .layer = 1023, .expert = 1023}, 32, 32);
    ask_vector(s, &(struct spot){.at = AT_FINAL_NORM}, 0);
}

/* The shards' bytes in blocks of their own while the places are read. */
static void ask_exact(struct source *s)
{
    for (int i = 0; i < s->nshards; i++) {
        struct mapped *m = &s->shard[i];
        uint8_t *block = malloc(m->bytes);
        FUZZ_NEED(block);
        memcpy(block, m->p, m->bytes);
        for (int t = 0; t < s->ntensors; t++)
            if (s->tensor[t].shard == i) s->tensor[t].data = block + (s->tensor[t].data - m->p);
        munmap((void *)(uintptr_t)m->p, m->bytes);
        m->p = block;
    }
    ask_all(s);
    struct err e = {0};
    FUZZ_NEED(source_all_used(s, &e) == 0 || (e.code == ERR_MODEL && e.msg[0]));
    for (int i = 0; i < s->nshards; i++) {
        free((void *)(uintptr_t)s->shard[i].p);
        s->shard[i].p = NULL;
    }
}

static void put_folder(unsigned how, const char *config, const char *index, const char *header, size_t room, const uint8_t *b, size_t n)
{
    static bool begun;
    char link[128];
    size_t na;
    uint8_t *a = framed(header, room, &na);
    bool weights = !(how & NO_WEIGHTS), beside = how & BESIDE;
    fuzz_folder();
    if (!begun) {
        log_init("fuzz", LOG_ERROR);
        snprintf(link, sizeof link, "%s/l.safetensors", fuzz_folder());
        FUZZ_NEED(symlink("b.safetensors", link) == 0);
        atexit(leave);
        begun = true;
    }
    place(CONFIG_FILE, !(how & NO_CONFIG), config, strlen(config));
    place(INDEX_FILE, weights && !(how & ONE), index, strlen(index));
    place(A_FILE, true, a, na);
    place(B_FILE, !(how & (NO_B | ONE)), b, n);
    place(SINGLE_FILE, weights && (how & ONE), b, n);
    place(PICKLE_FILE, beside, "", 0);
    place(ADAPTER_FILE, beside, "{}", 2);
    place(TEXT_FILE, how & EMPTY_TEXT, "", 0);
    free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned how = fuzz_byte(&data, &n);
    char *config = fuzz_until(&data, &n, 0), *index = fuzz_until(&data, &n, 0), *header = fuzz_until(&data, &n, 0);
    size_t room = fuzz_byte(&data, &n);
    room = room << 8 | fuzz_byte(&data, &n);
    struct source *s = NULL, *again = NULL;
    struct err e = {0};
    put_folder(how, config, index, header, room, data, n);
    walk_exact(index, data, n);
    if (source_open(&s, fuzz_folder(), &e)) {
        FUZZ_NEED(e.code == ERR_MODEL && e.msg[0] && !s);
    } else {
        char digest[65], same[65];
        FUZZ_NEED(!(how & (NO_CONFIG | NO_WEIGHTS)) && source_kind(s) == SOURCE_HF && source_config(s) && source_config_root(s));
        check_tensors(s);
        if (!(how & ONE)) check_index(s, index);
        FUZZ_NEED(source_unchanged(s) && source_open(&again, fuzz_folder(), &e) == 0 && again->ntensors == s->ntensors);
        FUZZ_NEED(source_digest(s, digest, &e) == 0 && source_digest(again, same, &e) == 0 && !strcmp(digest, same));
        ask_exact(s);
    }
    source_close(s);
    source_close(again);
    free(config);
    free(index);
    free(header);
    return 0;
}
