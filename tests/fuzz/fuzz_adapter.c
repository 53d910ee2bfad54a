/* A whole adapter against a base: config and tensors together. What is taken uses every tensor, has ranks and scales within bounds, parts that can be read
 * to their last element, and a digest that is the same when it is opened again; the base's description survives its JSON. Input: the config, a NUL, the
 * tensors' file; a byte below 32 in front chooses another base, and limits. */
#include "adapters/adapter.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"
#include <fcntl.h>
#include <math.h>

/* Two layers so small that an input of 4 KiB has room for all of it; and what bases differ in. */
#define TINY                                                                                                           \
    .name = "Tiny", .digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", .also = {"tiny-instruct"}, .layers = 2, .hidden = 4
static const struct base_desc bases[] = {
    {TINY, .in = {4, 4, 4, 4, 4, 4, 6}, .out = {4, 2, 2, 4, 6, 6, 4}, .vocab = 5, .experts = 2, .expert_mlp = 3},
    {TINY, .in = {4, 4, 4, 4, 4, 4, 6}, .out = {4, 2, 2, 4, 6, 6, 4}, .vocab = 5, .fused_qkv = true, .fused_gate_up = true},
    {TINY, .in = {4, 4, 4, 4}, .out = {4, 2, 2, 4}, .vocab = 5, .experts = 2, .expert_mlp = 3}, /* experts in every layer */
    {TINY, .in = {4, 4, 4, 4, 4, 4, 6}, .out = {4, 2, 2, 4, 6, 6, 4}},                          /* dense, ends that can't be adapted */
};
#define NBASES (sizeof bases / sizeof *bases)

static void check_part(const struct adapter *a, const struct adapter_part *p, int64_t in, int64_t out)
{
    if (!p->a) return;
    FUZZ_NEED(in && out);
    FUZZ_NEED(p->b && p->r >= 1 && p->r <= a->max_rank && a->max_rank <= PEFT_RANK_MAX && fabsf(p->scale) <= 64.1f);
    for (int64_t j = 0; j < p->r; j++) {
        for (int64_t i = 0; i < in; i++) FUZZ_NEED(isfinite(adapter_part_a(p, j, i)));
        for (int64_t o = 0; o < out; o++) FUZZ_NEED(isfinite(adapter_part_b(p, o, j)));
    }
}

static void check_adapter(const struct adapter *a, const struct base_desc *base)
{
    FUZZ_NEED(a->layers == base->layers && a->modules && sha256_is_hex(a->digest) && sha256_is_hex(a->file_sha256));
    for (int l = 0; l < a->layers; l++)
        for (int m = 0; m < LORA_MODULES; m++) check_part(a, &a->part[l * LORA_MODULES + m], base->in[m], base->out[m]);
    for (int i = 0; a->router && i < a->layers; i++) check_part(a, &a->router[i], base->hidden, base->experts);
    for (int i = 0; a->expert && i < a->layers * a->experts * 3; i++) {
        bool down = i % 3 == 2;
        check_part(a, &a->expert[i], down ? base->expert_mlp : base->hidden, down ? base->hidden : base->expert_mlp);
    }
}

static void check_base(const struct base_desc *base)
{
    struct base_desc again = {0};
    json_t *j = base_desc_to_json(base);
    FUZZ_NEED(j && base_desc_from_json(&again, j, NULL) == 0 && again.layers == base->layers && !strcmp(again.digest, base->digest));
    FUZZ_NEED(!memcmp(again.in, base->in, sizeof base->in) && !memcmp(again.out, base->out, sizeof base->out));
    json_decref(j);
}

/* In place of the one before it: a new file would cost more than looking at it. */
static void put(int *fd, const char *name, const void *bytes, size_t n)
{
    char path[96];
    if (!*fd) {
        fuzz_put(name, "", 0, path);
        *fd = open(path, O_RDWR | O_CLOEXEC);
    }
    FUZZ_NEED(*fd > 0 && ftruncate(*fd, 0) == 0 && pwrite(*fd, bytes, n, 0) == (ssize_t)n);
}

static void breathe(void *u)
{
    ++*(int *)u;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static int config, weights;
    int breaths = 0;
    unsigned how = n && *data && *data < 32 ? fuzz_byte(&data, &n) : 0;
    const struct base_desc *base = &bases[how % NBASES];
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t len = nul ? (size_t)(nul - data) : n;
    struct adapter *a = NULL, *again = NULL;
    struct adapter_limits limits = {.max_rank = how & 4 ? 1 : 0, .max_bytes = how & 8 ? 300 : 0, .breathe = breathe, .u = &breaths};
    struct err e = {0};
    if (!config)
        for (size_t i = 0; i < NBASES; i++) check_base(&bases[i]);
    put(&config, ADAPTER_CONFIG_FILE, data, len);
    put(&weights, ADAPTER_WEIGHTS_FILE, nul ? nul + 1 : data, nul ? n - len - 1 : 0);
    if (adapter_open(&a, fuzz_folder(), base, &limits, &e)) {
        FUZZ_NEED(e.code == ERR_ADAPTER_INVALID && e.msg[0] && !a);
        return 0;
    }
    check_adapter(a, base);
    FUZZ_NEED(breaths > 0 && (!limits.max_rank || a->max_rank <= limits.max_rank) && (!limits.max_bytes || a->file->file_bytes <= limits.max_bytes));
    limits = (struct adapter_limits){.unsummed = true, .known = &a->stamp};
    FUZZ_NEED(adapter_open(&again, fuzz_folder(), base, &limits, &e) == 0);
    FUZZ_NEED(!strcmp(a->digest, again->digest) && !again->file_sha256[0] && a->modules == again->modules);
    adapter_close(a);
    adapter_close(again);
    return 0;
}
