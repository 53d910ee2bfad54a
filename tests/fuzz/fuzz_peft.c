/* adapter_config.json: what is taken keeps to the bounds, has canonical JSON that is the same when read twice, and gives every module a rank and a scale
 * within bounds; what is refused says why; the file on disk is read as its text is. Input: the file; behind a NUL, a module to ask for, or a slash and how the file lies
 * there: plain, as a link, as a folder, not at all. */
#include "adapters/peft.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>
#include <sys/stat.h>

static void check_place(const struct peft_config *c, const char *module, bool parameter)
{
    struct peft_place p = {0}, q = {0};
    struct err e = {0};
    int rc = parameter ? peft_resolve_parameter(c, module, &p, &e) : peft_resolve(c, module, &p, &e);
    FUZZ_NEED(rc == 0 || e.code == ERR_ADAPTER_INVALID || e.code == ERR_NO_MEMORY);
    if (rc) return;
    FUZZ_NEED(!p.target || (p.r >= 1 && p.r <= PEFT_RANK_MAX && fabsf(p.scale) <= PEFT_SCALE_MAX * 1.001f));
    if ((parameter ? peft_resolve_parameter(c, module, &q, &e) : peft_resolve(c, module, &q, &e)) == 0) FUZZ_NEED(p.target == q.target && p.r == q.r && p.scale == q.scale);
}

static void check_config(const struct peft_config *c, const char *module)
{
    static const char *const modules[] = {"model.layers.0.self_attn.q_proj", "model.layers.31.mlp.down_proj", "model.embed_tokens", "lm_head", ""};
    json_t *canonical = NULL;
    FUZZ_NEED(c->r >= 1 && c->r <= PEFT_RANK_MAX && isfinite(c->lora_alpha));
    FUZZ_NEED(c->ntarget_modules >= 0 && c->ntarget_modules <= PEFT_TARGETS && c->nrank_pattern <= PEFT_PATTERNS && c->nalpha_pattern <= PEFT_PATTERNS);
    FUZZ_NEED(c->ninvocation >= 0 && c->ninvocation <= PEFT_INVOCATION_MAX && c->nlayers_to_transform <= PEFT_LAYERS_MAX);
    FUZZ_NEED(json_parse(c->canonical, strlen(c->canonical), &canonical, NULL) == 0);
    for (int i = 1; i < c->nlayers_to_transform; i++) FUZZ_NEED(c->layers_to_transform[i - 1] <= c->layers_to_transform[i]);
    for (int i = 1; i < c->ntarget_modules; i++) FUZZ_NEED(strcmp(c->target_modules[i - 1], c->target_modules[i]) <= 0);
    json_decref(canonical);
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) check_place(c, modules[i], false);
    check_place(c, module, false);
    check_place(c, module, true);
    check_place(c, "model.layers.0.mlp.experts.gate_up_proj", true);
    FUZZ_NEED(peft_kind(c)[0]);
}

/* From a file: the same config, or the same refusal; what is no plain file is refused whatever it holds. */
static void check_load(const char *text, size_t len, char how, const struct peft_config *want)
{
    char path[96], other[128];
    struct peft_config *c = NULL;
    struct err e = {0};
    fuzz_put("adapter_config.json", text, len, path);
    snprintf(other, sizeof other, "%s-%c", path, how == 'l' || how == 'f' ? how : 'n');
    if (how == 'l') FUZZ_NEED(symlink(path, other) == 0);
    if (how == 'f') FUZZ_NEED(mkdir(other, 0700) == 0);
    bool plain = how != 'l' && how != 'f' && how != 'n';
    int rc = peft_load(&c, plain ? path : other, &e);
    if (how == 'l') unlink(other);
    if (how == 'f') rmdir(other);
    FUZZ_NEED(plain || (rc && e.code == ERR_ADAPTER_INVALID && e.msg[0]));
    FUZZ_NEED(!plain || rc == (want ? 0 : -1));
    if (rc == 0) FUZZ_NEED(strcmp(c->canonical, want->canonical) == 0);
    peft_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const uint8_t *nul = n ? memchr(data, 0, n) : NULL;
    size_t len = nul ? (size_t)(nul - data) : n;
    char *text = fuzz_text(data, len), *module = nul ? fuzz_text(nul + 1, n - len - 1) : fuzz_text(NULL, 0);
    struct peft_config *c = NULL, *again = NULL;
    struct err e = {0};
    peft_dialect_differs(text, true);
    peft_dialect_differs(text, false);
    if (peft_parse(&c, text, len, &e))
        FUZZ_NEED(e.code == ERR_ADAPTER_INVALID && e.msg[0] && !c);
    else {
        check_config(c, module);
        FUZZ_NEED(peft_parse(&again, text, len, &e) == 0 && strcmp(c->canonical, again->canonical) == 0);
    }
    if (module[0] == '/') check_load(text, len, module[1], c);
    peft_free(c);
    peft_free(again);
    free(text);
    free(module);
    return 0;
}
