/* Adapters opened against a base: three real ones, and the many ways in which a file can fail to be one.
 * Runs in the repository's root (ops/demo holds the real ones). */
#include "adapters/digest.h"
#include "tests/unit/test_adapters.h"
#include <math.h>

static struct base_desc smollm2(void)
{
    struct base_desc b = {.name = "SmolLM2-135M-Instruct",
                          .digest = FIX_BASE_DIGEST,
                          .layers = 30,
                          .in = {576, 576, 576, 576, 576, 576, 1536},
                          .out = {576, 192, 192, 576, 1536, 1536, 576}};
    return b;
}

/* Digests by an independent program (Python: hashlib, json) that follows the rule in digest.h. */
static const struct {
    const char *name;
    int rank, tensors;
    unsigned modules;
    double scale;
    const char *digest, *file_sha256;
} demos[] = {
    {"triage", 8, 420, 0x7f, 16 / 2.8284271247461903,
     "468688583fec224178076e68180b9212bd3547e384b894af0cf408f871b494a2",
     "07fa1c8ce0e8991a7c4a69a1bfa9d6e92ff623ef0c823df6a3464df625583b25"},
    {"sql", 16, 240, 0x0f, 2, "5459066fb1be48a5c2f819740ff1c7ae4427205f0bb5449a5969b4f5dec1f6be",
     "3bd5145538db7b0748e1ec93c32d1ff3cb149e85036960a9bb95b9c851238dbc"},
    {"pirate", 4, 240, 1u << LM_Q | 1u << LM_V | 1u << LM_UP | 1u << LM_DOWN, 2,
     "717c2ea4c2590cadc077a44ddf5fe5c47228a7f23b89e62f794564c9e0fcb547",
     "dcacbef0d74180223f24ea50b6cc79953a01e264adddedbeed32057ef504b12f"},
};

static void check_demo(const struct adapter *a, size_t i)
{
    size_t bytes = 0;
    assert_int_equal(a->max_rank, demos[i].rank);
    assert_int_equal(a->modules, demos[i].modules);
    assert_int_equal(a->file->ntensors, demos[i].tensors);
    assert_string_equal(a->digest, demos[i].digest);
    assert_string_equal(a->file_sha256, demos[i].file_sha256);
    for (int k = 0; k < a->layers * LORA_MODULES; k++) {
        const struct adapter_part *p = &a->part[k];
        bool adapted = demos[i].modules >> k % LORA_MODULES & 1;
        assert_int_equal(p->a != NULL, adapted);
        if (!adapted) continue;
        assert_int_equal(p->r, demos[i].rank);
        assert_true(p->scale == (float)demos[i].scale);
        bytes += p->a->bytes + p->b->bytes;
    }
    assert_int_equal(a->tensor_bytes, bytes);
}

static void the_demo_adapters_open_with_their_ranks_scales_and_digests(void **state)
{
    (void)state;
    struct base_desc base = smollm2();
    for (size_t i = 0; i < sizeof demos / sizeof *demos; i++) {
        char dir[64];
        struct err e = {0};
        struct adapter *a = NULL;
        snprintf(dir, sizeof dir, "ops/demo/%s", demos[i].name);
        if (adapter_open(&a, dir, &base, NULL, &e)) fail_msg("%s: %s", dir, e.msg);
        check_demo(a, i);
        adapter_close(a);
    }
}

static void a_place_holds_the_tensor_of_its_name(void **state)
{
    (void)state;
    struct base_desc base = smollm2();
    struct adapter *a = NULL;
    assert_int_equal(adapter_open(&a, "ops/demo/triage", &base, NULL, NULL), 0);
    assert_string_equal(a->part[12 * LORA_MODULES + LM_DOWN].b->name,
                        "base_model.model.model.layers.12.mlp.down_proj.lora_B.weight");
    assert_string_equal(a->part[29 * LORA_MODULES + LM_K].a->name,
                        "base_model.model.model.layers.29.self_attn.k_proj.lora_A.weight");
    adapter_close(a);
}

static struct adapter *open_fix(const char *dir)
{
    struct base_desc base;
    struct err e = {0};
    struct adapter *a = NULL;
    fix_base(&base);
    if (adapter_open(&a, dir, &base, NULL, &e)) fail_msg("refused: %s", e.msg);
    return a;
}

static void digest_of_fix(const char *dir, char out[SHA256_HEX])
{
    struct adapter *a = open_fix(dir);
    memcpy(out, a->digest, SHA256_HEX);
    adapter_close(a);
}

static void the_digest_does_not_depend_on_order_padding_or_spelling(void **state)
{
    char first[SHA256_HEX], again[SHA256_HEX];
    struct fix f;
    fix_write(*state, NULL, NULL);
    digest_of_fix(*state, first);
    fix_good(&f);
    for (int i = 0; i < f.n / 2; i++) {
        struct fix_tensor t = f.t[i];
        f.t[i] = f.t[f.n - 1 - i];
        f.t[f.n - 1 - i] = t;
    }
    for (int pad = 0; pad < 9; pad++) {
        fix_weights(&f, *state, pad);
        digest_of_fix(*state, again);
        assert_string_equal(first, again);
    }
    fix_config(*state, "{\"lora_alpha\":8.0,\"target_modules\":[\"v_proj\",\"q_proj\"],\"lora_dropout\":0.3}");
    digest_of_fix(*state, again);
    assert_string_equal(first, again);
}

#define MAG(l, m) "base_model.model.model.layers." l ".self_attn." m "_proj.lora_magnitude_vector"

static void the_digest_changes_with_what_changes_an_answer(void **state)
{
    static const struct {
        const char *patch, *edits;
    } changes[] = {
        {NULL, NULL},
        {"{\"lora_alpha\":9}", NULL},
        {"{\"use_rslora\":true}", NULL},
        {"{\"alpha_pattern\":{\"q_proj\":3}}", NULL},
        {"{\"alora_invocation_tokens\":[1,2]}", NULL},
        {"{\"alora_invocation_tokens\":[2,1]}", NULL},
        {"{\"use_dora\":true}",
         "+" MAG("0", "q") "=F32:8 +" MAG("0", "v") "=F32:4 "
                                                    "+" MAG("1", "q") "=F32:8 +" MAG("1", "v") "=F32:4"},
        {"{\"ensure_weight_tying\":true}", NULL},
        {NULL, "0.q.A@3=3c23d70a"},
        {NULL, "+0.q.A=BF16:4,8"},
        {"{\"target_modules\":[\"q_proj\"]}", "-0.v.A -0.v.B -1.v.A -1.v.B"},
    };
    enum { N = sizeof changes / sizeof *changes };
    char digest[N + 1][SHA256_HEX];
    struct base_desc base;
    for (int i = 0; i < N; i++) {
        fix_write(*state, changes[i].patch, changes[i].edits);
        digest_of_fix(*state, digest[i]);
    }
    fix_write(*state, NULL, NULL);
    fix_base(&base);
    base.digest[0] = 'c';
    struct adapter *a = NULL;
    assert_int_equal(adapter_open(&a, *state, &base, NULL, NULL), 0);
    memcpy(digest[N], a->digest, SHA256_HEX);
    adapter_close(a);
    for (int i = 0; i <= N; i++)
        for (int k = 0; k < i; k++) assert_string_not_equal(digest[i], digest[k]);
}

#define R8 "+0.q.A=F32:8,8 +0.q.B=F32:8,8 +1.q.A=F32:8,8 +1.q.B=F32:8,8"
#define RENAMED(p, s)                                                                                                  \
    "-0.q.A -0.q.B -1.q.A -1.q.B -0.v.A -0.v.B -1.v.A -1.v.B "                                                         \
    "+" p "layers.0.self_attn.q_proj.lora_A" s "weight=F32:4,8 +" p "layers.0.self_attn.q_proj.lora_B" s               \
    "weight=F32:8,4 "                                                                                                  \
    "+" p "layers.1.self_attn.q_proj.lora_A" s "weight=F32:4,8 +" p "layers.1.self_attn.q_proj.lora_B" s               \
    "weight=F32:8,4"
#define HEAD(r) "+base_model.model.lm_head.lora_A.weight=F32:" r ",8 +base_model.model.lm_head.lora_B.weight=F32:32," r
#define ONLY_Q "{\"target_modules\":[\"q_proj\"]}"

static const struct {
    const char *what, *patch, *edits;
} fine[] = {
    {"as it is", NULL, NULL},
    {"all three types at once", NULL, "+0.q.A=BF16:4,8 +1.v.B=F16:4,4"},
    {"rank by pattern", "{\"rank_pattern\":{\"q_proj\":8}}", R8},
    {"one layer", "{\"layers_to_transform\":[1]}", "-0.q.A -0.q.B -0.v.A -0.v.B"},
    {"layers that the base lacks are not waited for", "{\"layers_to_transform\":[0,1,7]}", NULL},
    {"modules that the base lacks are not waited for", "{\"target_modules\":[\"q_proj\",\"v_proj\",\"c_attn\"]}", NULL},
    {"regex", "{\"target_modules\":\".*[qv]_proj\"}", NULL},
    {"all linear layers in capitals, but some",
     "{\"target_modules\":\"ALL-LINEAR\",\"exclude_modules\":\".*(k|o|gate|up|"
     "down)_proj\"}",
     NULL},
    {"PEFT's own targets", "{\"target_modules\":null}", NULL},
    {"a module that nothing has is saved", "{\"modules_to_save\":[\"score\",\"classifier\"]}", NULL},
    {"a module that is adapted and saved",
     "{\"target_modules\":[\"q_proj\",\"v_proj\",\"lm_head\"],\"modules_to_save\":[\"lm_head\"]}",
     "+base_model.model.lm_head.weight=F32:32,8"},
    {"weights as parameters",
     "{\"target_modules\":[\"v_proj\"],\"target_parameters\":[\"q_proj.weight\",\"lm_head.weight\"]}", HEAD("4")},
    {"exclude", "{\"exclude_modules\":[\"layers.0.self_attn.v_proj\"]}", "-0.v.A -0.v.B"},
    {"without base_model.model.", ONLY_Q, RENAMED("model.", ".")},
    {"without any prefix", ONLY_Q, RENAMED("", ".")},
    {"bare decoder in PEFT", ONLY_Q, RENAMED("base_model.model.", ".")},
    {"with the adapter's name", ONLY_Q, RENAMED("base_model.model.model.", ".default.")},
    {"language model of a larger one", ONLY_Q, RENAMED("base_model.model.model.language_model.", ".")},
    {"language model, older layout", ONLY_Q, RENAMED("base_model.model.language_model.model.", ".")},
    {"compiled", ONLY_Q, RENAMED("base_model.model._orig_mod.model.", ".")},
    {"base by its other name", "{\"base_model_name_or_path\":\"someone/other-name\"}", NULL},
    {"base without case and org", "{\"base_model_name_or_path\":\"TINY-BASE\"}", NULL},
    {"4-bit copy of the base", "{\"base_model_name_or_path\":\"unsloth/Tiny-Base-unsloth-bnb-4bit\"}", NULL},
    {"bnb copy of the base", "{\"base_model_name_or_path\":\"unsloth/tiny-base-bnb-4bit\"}", NULL},
    {"GPTQ copy of the base", "{\"base_model_name_or_path\":\"x/tiny-base-GPTQ\"}", NULL},
    {"AWQ copy of the base", "{\"base_model_name_or_path\":\"x/tiny-base-awq\"}", NULL},
    {"GGUF copy of the base", "{\"base_model_name_or_path\":\"x/tiny-base-GGUF\"}", NULL},
    {"absolute path", "{\"base_model_name_or_path\":\"/models/llama\"}", NULL},
    {"relative path", "{\"base_model_name_or_path\":\"./llama\"}", NULL},
    {"home path", "{\"base_model_name_or_path\":\"~/llama\"}", NULL},
    {"path with folders", "{\"base_model_name_or_path\":\"models/org/llama\"}", NULL},
    {"no base said", "{\"base_model_name_or_path\":null}", NULL},
    {"largest value", NULL, "0.q.A@31=461c4000"},
    {"negative zero", NULL, "0.q.A@31=80000000"},
};

static void adapters_in_every_usual_spelling_open(void **state)
{
    struct base_desc base;
    fix_base(&base);
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        struct err e = {0};
        struct adapter *a = NULL;
        fix_write(*state, fine[i].patch, fine[i].edits);
        if (adapter_open(&a, *state, &base, NULL, &e)) fail_msg("%s: %s", fine[i].what, e.msg);
        assert_true(a->modules & 1u << LM_Q && a->part[LORA_MODULES + LM_Q].a->dim[1] == 8);
        adapter_close(a);
    }
}

#define EMBED "base_model.model.model.embed_tokens.lora_embedding_A"
#define MAGNITUDE "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
#define ALL_GONE "-0.q.A -0.q.B -1.q.A -1.q.B -0.v.A -0.v.B -1.v.A -1.v.B"

static const struct {
    const char *what, *patch, *edits, *expect;
} bad[] = {
    {"embedding's A of another vocabulary", NULL, "+" EMBED "=F32:4,33",
     EMBED " has 33 columns, and tiny-base needs 32"},
    {"an A as of a linear layer on the embedding", NULL, "+" EMBED ".weight=F32:4,32",
     "1 of the file's 9 tensors would not be used: " EMBED},
    {"DoRA magnitude without use_dora", NULL, "+" MAGNITUDE "=F32:8", "has a lora_magnitude_vector, and"},
    {"DoRA magnitude of another width", "{\"use_dora\":true}", "+" MAGNITUDE "=F32:9", "no vector of 8 magnitudes"},
    {"DoRA without one magnitude", "{\"use_dora\":true}", "+" MAGNITUDE "=F32:8", "has no lora_magnitude_vector"},
    {"DoRA on the embedding", "{\"use_dora\":true}", "+base_model.model.model.embed_tokens.lora_magnitude_vector=F32:8",
     "DoRA on the embedding is not served"},
    {"head that the config does not name", NULL, HEAD("4"), "adapter_model.safetensors has tensors for lm_head"},
    {"half a head", "{\"target_modules\":[\"q_proj\",\"v_proj\",\"lm_head\"]}",
     "+base_model.model.lm_head.lora_A.weight=F32:4,8", "lm_head has lora_A and no lora_B"},
    {"resized vocabulary", "{\"modules_to_save\":[\"lm_head\"]}", "+base_model.model.lm_head.weight=F32:33,8",
     "is [33,8], and tiny-base has [32,8]: an adapter with a resized vocabulary"},
    {"saved head that is not there", "{\"modules_to_save\":[\"lm_head\"]}", NULL,
     "modules_to_save names lm_head, and adapter_model.safetensors has no weight of it; take the two files"},
    {"saved head that is not named", NULL, "+base_model.model.lm_head.modules_to_save.default.weight=F32:32,8",
     "does not name its module"},
    {"saved norm", "{\"modules_to_save\":[\"norm\"]}", NULL,
     "modules_to_save names norm: only embed_tokens and lm_head"},
    {"expert of a dense base", NULL, "+base_model.model.model.layers.0.mlp.experts.0.up_proj.lora_A.weight=F32:4,8",
     "tiny-base has no experts"},
    {"router of a dense base", NULL, "+base_model.model.model.layers.0.block_sparse_moe.gate.lora_A.weight=F32:4,8",
     "tiny-base has no experts"},
    {"fused module of a split base", NULL, "+base_model.model.model.layers.0.self_attn.qkv_proj.lora_A.weight=F32:4,8",
     "tiny-base has no qkv_proj"},
    {"aLoRA with DoRA", "{\"alora_invocation_tokens\":[1,2],\"use_dora\":true}", NULL, "does not go with use_dora"},
    {"aLoRA that nothing wakes", "{\"alora_invocation_tokens\":[]}", NULL, "not a list of 1 to 256 token ids"},
    {"trained rows", "{\"trainable_token_indices\":[3]}", NULL, "train embed_tokens by modules_to_save"},
    {"VeRA", "{\"peft_type\":\"VERA\"}", NULL, "peft_type VERA is not served, only LORA; train with LoraConfig"},
    {"bias", NULL, "+base_model.model.model.layers.0.self_attn.q_proj.bias=F32:8", "would not be used"},
    {"lora_B bias", NULL, "+base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias=F32:8", "would not be used"},
    {"another adapter's name", NULL, "+base_model.model.model.layers.0.self_attn.q_proj.lora_A.other.weight=F32:4,8",
     "two adapters in one file"},
    {"vision tower", NULL, "+base_model.model.vision_tower.encoder.layers.0.self_attn.q_proj.lora_A.weight=F32:4,8",
     "would not be used"},
    {"self attention misspelled", NULL, "+base_model.model.model.layers.0.attn.q_proj.lora_A.weight=F32:4,8",
     "would not be used"},
    {"module under the wrong parent", NULL, "+base_model.model.model.layers.0.mlp.q_proj.lora_A.weight=F32:4,8",
     "would not be used"},
    {"leading zero", NULL, "+base_model.model.model.layers.00.mlp.up_proj.lora_A.weight=F32:4,8", "would not be used"},
    {"negative layer", NULL, "+base_model.model.model.layers.-1.mlp.up_proj.lora_A.weight=F32:4,8",
     "would not be used"},
    {"layer beyond int", NULL, "+base_model.model.model.layers.4294967296.mlp.up_proj.lora_A.weight=F32:4,8",
     "would not be used"},
    {"no layer", NULL, "+base_model.model.model.layers..mlp.up_proj.lora_A.weight=F32:4,8", "would not be used"},
    {"name goes on", NULL, "+base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight.x=F32:4,8",
     "would not be used"},
    {"nine unknown names", NULL,
     "+x1=F32:1 +x2=F32:1 +x3=F32:1 +x4=F32:1 +x5=F32:1 +x6=F32:1 +x7=F32:1 +x8=F32:1 +x9=F32:1",
     "9 of the file's 17 tensors would not be used: x1, x2, x3, ...; only LoRA"},
    {"layer beyond the base", NULL, "+2.q.A=F32:4,8 +2.q.B=F32:8,4", "is of layer 2, and tiny-base has 2 layers"},
    {"two names of one place", NULL, "+base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight=F32:4,8",
     "are the same weight"},
    {"with and without base_model.model.", NULL, "+model.layers.0.self_attn.q_proj.lora_A.weight=F32:4,8",
     "are the same weight"},
    {"two prefixes", NULL, "+language_model.layers.0.mlp.up_proj.lora_A.weight=F32:4,8", "two models in one file"},
    {"B is missing", NULL, "-1.q.B", "layers.1.self_attn.q_proj has lora_A and no lora_B"},
    {"A is missing", NULL, "-1.q.A", "layers.1.self_attn.q_proj has lora_B and no lora_A"},
    {"a layer is missing", NULL, "-1.q.A -1.q.B",
     "names model.layers.1.self_attn.q_proj, and adapter_model.safetensors has no tensors"},
    {"a module is missing", "{\"target_modules\":[\"q_proj\",\"v_proj\",\"o_proj\"]}", NULL,
     "layers.0.self_attn.o_proj, and adapter_model.safetensors has no"},
    {"a module too many", ONLY_Q, NULL, "layers.0.self_attn.v_proj, which adapter_config.json does not name"},
    {"a layer too many", "{\"layers_to_transform\":[0]}", NULL,
     "layers.1.self_attn.q_proj, which adapter_config.json does not name"},
    {"nothing", "{\"target_modules\":[\"c_attn\"]}", ALL_GONE, "adapts nothing"},
    {"no tensors at all", NULL, ALL_GONE, "has no tensors"},
    {"A for another width", NULL, "+0.q.A=F32:4,16", "has 16 columns, and tiny-base needs 8"},
    {"B for another width", NULL, "+0.v.B=F32:8,4", "has 8 rows, and tiny-base needs 4"},
    {"A transposed", NULL, "+0.q.A=F32:8,4", "has 4 columns"},
    {"one dimension", NULL, "+0.q.A=F32:32", "has 1 dimension, not 2"},
    {"A and B of different rank", NULL, "+0.q.B=F32:8,2", "lora_A has 4 rows and lora_B 2 columns"},
    {"rank unlike the config", "{\"r\":8}", NULL, "has rank 4, and adapter_config.json says 8"},
    {"rank unlike the pattern", "{\"rank_pattern\":{\"v_proj\":2}}", NULL,
     "layers.0.self_attn.v_proj has rank 4, and adapter_config.json says 2"},
    {"rank beyond all", NULL, "+0.q.A=F32:513,8 +0.q.B=F32:8,513", "has rank 513, above the limit of 512"},
    {"alpha is missing", "{\"lora_alpha\":null}", NULL, "lora_alpha is missing"},
    {"scale too large", "{\"lora_alpha\":1024}", NULL, "is a scale of 256"},
    {"scale too large by pattern", "{\"alpha_pattern\":{\"v_proj\":-1024}}", NULL, "is a scale of -256"},
    {"another base", "{\"base_model_name_or_path\":\"meta-llama/Llama-3.1-8B\"}", NULL,
     "trained on meta-llama/Llama-3.1-8B, and this base is tiny-base"},
    {"another size of the base", "{\"base_model_name_or_path\":\"org/tiny-base-2\"}", NULL,
     "was trained on org/tiny-base-2"},
    {"bare name of another base", "{\"base_model_name_or_path\":\"gpt2\"}", NULL, "was trained on gpt2"},
    {"only a suffix", "{\"base_model_name_or_path\":\"-AWQ\"}", NULL, "was trained on -AWQ"},
    {"ends on a slash", "{\"base_model_name_or_path\":\"tiny-base/\"}", NULL, "was trained on tiny-base/"},
    {"NaN", NULL, "0.q.A@9=7fc00000", "layers.0.self_attn.q_proj.lora_A.weight: element [1,1] is nan"},
    {"negative NaN", NULL, "1.v.B@15=ffffffff", "element [3,3] is -nan"},
    {"Inf", NULL, "0.q.B@0=7f800000", "element [0,0] is inf"},
    {"-Inf in bf16", NULL, "+0.q.B=BF16:8,4 0.q.B@31=ff80", "element [7,3] is -inf"},
    {"NaN in f16", NULL, "+0.q.B=F16:8,4 0.q.B@31=7e00", "element [7,3] is nan"},
    {"too large", NULL, "0.q.B@0=461c4001", "element [0,0] is 10000.001, not within +-10000"},
    {"too large in bf16", NULL, "+0.q.B=BF16:8,4 0.q.B@1=461d", "element [0,1] is 10048"},
    {"too large in f16", NULL, "+0.q.B=F16:8,4 0.q.B@1=70e3", "element [0,1] is 10008"},
    {"a saved classifier", "{\"modules_to_save\":[\"score\"]}", "+base_model.model.score.weight=F32:2,8",
     "1 of the file's 9 tensors would not be used: base_model.model.score"},
    {"aLoRA with whole modules", "{\"alora_invocation_tokens\":[1],\"modules_to_save\":[\"lm_head\"]}",
     "+base_model.model.lm_head.weight=F32:32,8", "alora_invocation_tokens is not served with modules_to_save"},
    {"saved module that has LoRA all the same",
     "{\"target_modules\":[\"q_proj\",\"v_proj\",\"lm_head\"],\"modules_to_save\":[\"lm_head\"]}",
     HEAD("4") " +base_model.model.lm_head.weight=F32:32,8", "has tensors for lm_head, which adapter_config.json does"},
    {"no target_modules, and more than q and v", "{\"target_modules\":null}", "+0.k.A=F32:4,8 +0.k.B=F32:4,4",
     "has tensors for model.layers.0.self_attn.k_proj, which"},
    {"trained base is another", "{\"base_model_name_or_path\":\"gpt2\"}", NULL,
     "adapter_config.json: base_model_name_or_path: the adapter was trained on gpt2"},
    {"DoRA without magnitudes", "{\"use_dora\":true}", NULL, "has no lora_magnitude_vector"},
    {"PiSSA", "{\"init_lora_weights\":\"pissa\"}", NULL, "PiSSA"},
    {"endless pattern", "{\"rank_pattern\":{\"(([a-z0-9._]+)*)*_\":4}}", NULL, "takes too long"},
};

static void files_that_are_no_adapter_of_this_base_are_refused(void **state)
{
    struct base_desc base;
    fix_base(&base);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct err e = {0};
        struct adapter *a = NULL;
        fix_write(*state, bad[i].patch, bad[i].edits);
        if (!adapter_open(&a, *state, &base, NULL, &e)) fail_msg("%s: was accepted", bad[i].what);
        if (e.code != ERR_ADAPTER_INVALID || !strstr(e.msg, bad[i].expect))
            fail_msg("%s: %d \"%s\", not \"%s\"", bad[i].what, e.code, e.msg, bad[i].expect);
        assert_null(a);
    }
}

#define MOE "base_model.model.model.layers.0.block_sparse_moe."
#define MOE1 "base_model.model.model.layers.1.block_sparse_moe."
#define MLP "base_model.model.model.layers.0.mlp."
#define PAIR(name, r, in, out) "+" name ".lora_A.weight=F32:" r "," in " +" name ".lora_B.weight=F32:" out "," r " "
#define EXPERT(p, n) PAIR(p "experts." n, "4", "8", "6")
#define WITH(m) "{\"target_modules\":[\"q_proj\",\"v_proj\"," m "]}"
#define STACKED "{\"target_parameters\":[\"mlp.experts.gate_up_proj\",\"mlp.experts.down_proj\"]}"

/* A base of two experts (6 wide) in every layer, and one whose q, k, v and gate, up are fused. */
static const struct {
    const char *what;
    bool fused;
    const char *patch, *edits, *expect; /* NULL: it opens */
} others[] = {
    {"old names", false, WITH("\"layers.0.block_sparse_moe.experts.1.w1\""), EXPERT(MOE, "1.w1"), NULL},
    {"one of two experts", false, WITH("\"w3\""), EXPERT(MOE, "1.w3"),
     "names model.layers.0.block_sparse_moe.experts.0.w3, and adapter_model.safetensors has no tensors"},
    {"experts of one of two layers", false, WITH("\"w3\""), EXPERT(MOE, "0.w3") EXPERT(MOE, "1.w3"),
     "names model.layers.1.block_sparse_moe.experts.0.w3, and adapter_model.safetensors has no tensors"},
    {"config names experts that the file lacks", false, WITH("\"up_proj\""), NULL, NULL},
    {"expert out of range", false, WITH("\"w3\""), EXPERT(MOE, "2.w3"), "is of expert 2, and tiny-base has 2 experts"},
    {"layers by the first number", false,
     "{\"target_modules\":[\"q_proj\",\"v_proj\",\"w3\"],\"layers_to_transform\":[0]}",
     "-1.q.A -1.q.B -1.v.A -1.v.B " EXPERT(MOE, "0.w3") EXPERT(MOE, "1.w3"), NULL},
    {"layers by the last number, as older PEFTs took it", false,
     "{\"target_modules\":[\"q_proj\",\"v_proj\",\"w3\"],\"layers_to_transform\":[1],\"layers_pattern\":null}",
     "-0.q.A -0.q.B -0.v.A -0.v.B " EXPERT(MOE, "1.w3") EXPERT(MOE1, "1.w3"), NULL},
    {"layers by neither", false, "{\"target_modules\":[\"q_proj\",\"v_proj\",\"w3\"],\"layers_to_transform\":[1]}",
     "-0.q.A -0.q.B -0.v.A -0.v.B " EXPERT(MOE, "0.w3") EXPERT(MOE1, "1.w3"),
     "has tensors for model.layers.0.block_sparse_moe.experts.0.w3, which adapter_config.json does not name"},
    {"names of two kinds", false, WITH("\"w3\""), EXPERT(MOE, "0.w3") EXPERT(MLP, "1.up_proj"),
     "name the experts in two ways"},
    {"expert of another width", false, WITH("\"w3\""), PAIR(MOE "experts.0.w3", "4", "8", "7"), "has 7 rows"},
    {"one by one and together", false, WITH("\"up_proj\""), EXPERT(MLP, "0.up_proj") PAIR(MLP "experts", "8", "6", "8"),
     "one by one and all together"},
    {"parameters of one layer", false, STACKED,
     PAIR(MLP "experts.base_layer", "8", "8", "12") PAIR(MLP "experts", "8", "6", "8"),
     "names model.layers.1.mlp.experts.gate_up_proj"},
    {"parameters with the wrong rank", false, STACKED,
     PAIR(MLP "experts.base_layer", "7", "8", "12") PAIR(MLP "experts", "8", "6", "8"),
     "lora_A has 7 rows, not 4 for each of 2 experts"},
    {"parameters the other way round", false, STACKED,
     PAIR(MLP "experts.base_layer", "8", "6", "8") PAIR(MLP "experts", "8", "8", "12"), "and tiny-base needs 8 and 12"},
    {"parameters that the config does not name", false, NULL, PAIR(MLP "experts", "8", "6", "8"),
     "adapter_model.safetensors has tensors for model.layers.0.mlp.experts.down_proj"},
    {"router without B", false, WITH("\"gate\""), "+" MLP "gate.lora_A.weight=F32:4,8", "has lora_A and no lora_B"},
    {"router of another width", false, WITH("\"gate\""), PAIR(MLP "gate", "4", "8", "3"), "has 3 rows"},
    {"dense module of a base of experts", false, WITH("\"up_proj\""), "+0.u.A=F32:4,8", "has no up_proj"},
    {"split adapter of a fused base", true, NULL, NULL, "has no q_proj of its own but a qkv_proj"},
    {"fused adapter", true, "{\"target_modules\":[\"layers.0.self_attn.qkv_proj\",\"layers.0.mlp.gate_up_proj\"]}",
     ALL_GONE " " PAIR("base_model.model.model.layers.0.self_attn.qkv_proj", "4", "8", "16")
         PAIR(MLP "gate_up_proj", "4", "8", "32"),
     NULL},
    {"fused adapter of another width", true, "{\"target_modules\":[\"qkv_proj\"]}",
     ALL_GONE " " PAIR("base_model.model.model.layers.0.self_attn.qkv_proj", "4", "8", "15"), "has 15 rows"},
};

static void make_sparse(struct base_desc *b)
{
    b->experts = 2, b->expert_mlp = 6;
    for (int m = LM_GATE; m <= LM_DOWN; m++) b->in[m] = b->out[m] = 0;
}

static void experts_and_fused_modules_are_placed_or_refused(void **state)
{
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct base_desc base;
        struct err e = {0};
        struct adapter *a = NULL;
        fix_base(&base);
        base.fused_qkv = base.fused_gate_up = others[i].fused;
        if (!others[i].fused) make_sparse(&base);
        fix_write(*state, others[i].patch, others[i].edits);
        int rc = adapter_open(&a, *state, &base, NULL, &e);
        if (!others[i].expect && rc) fail_msg("%s: %s", others[i].what, e.msg);
        if (others[i].expect && !rc) fail_msg("%s: was accepted", others[i].what);
        if (others[i].expect && (e.code != ERR_ADAPTER_INVALID || !strstr(e.msg, others[i].expect)))
            fail_msg("%s: %d \"%s\", not \"%s\"", others[i].what, e.code, e.msg, others[i].expect);
        adapter_close(a);
    }
}

/* Element values tell where they came from: fix_fill() makes element i 0.01 (i mod 7). */
static void parts_of_one_tensor_are_views_of_it(void **state)
{
    struct base_desc base;
    struct err e = {0};
    struct adapter *a;
    fix_base(&base);
    make_sparse(&base);
    base.layers = 1;
    fix_write(*state, STACKED,
              "-1.q.A -1.q.B -1.v.A -1.v.B " PAIR(MLP "experts.base_layer", "8", "8", "12")
                  PAIR(MLP "experts", "8", "6", "8"));
    if (adapter_open(&a, *state, &base, NULL, &e)) fail_msg("%s", e.msg);
    const struct adapter_part *up = &a->expert[1 * 3 + 1], *down = &a->expert[0 * 3 + 2];
    assert_true(up->r == 4 && up->scale == 2);
    assert_int_equal(a->modules, 1u << LM_Q | 1u << LM_V | 7u << LM_GATE | ADAPTS_EXPERTS);
    /* A [2 * 4][8]: expert 1's row 2 is row 6. B [12][4 * 2]: up's output 5 is row 11, rank 3 of expert 1 column 7. */
    assert_true(adapter_part_a(up, 2, 5) == 0.01f * ((6 * 8 + 5) % 7));
    assert_true(adapter_part_b(up, 5, 3) == 0.01f * ((11 * 8 + 7) % 7));
    assert_true(adapter_part_b(down, 3, 2) == 0.01f * ((3 * 8 + 4) % 7));
    adapter_close(a);
}

static void long_names_are_cut_from_the_list_and_counted(void **state)
{
    struct base_desc base;
    struct err e = {0};
    struct adapter *a = NULL;
    char edits[1600] = "";
    size_t n = 0;
    for (int i = 0; i < 5; i++) n += (size_t)snprintf(edits + n, sizeof edits - n, "+n%d%0200d=F32:1 ", i, 0);
    fix_base(&base);
    fix_write(*state, NULL, edits);
    assert_int_equal(adapter_open(&a, *state, &base, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "5 of the file's 13 tensors"));
    assert_non_null(strstr(e.msg, "000, ...; only LoRA as PEFT saves it is served: merge the adapter into its base"));
}

static void limits_of_the_caller_are_kept(void **state)
{
    struct base_desc base;
    struct adapter *a = NULL;
    struct err e = {0};
    fix_base(&base);
    fix_write(*state, NULL, NULL);
    struct adapter_limits low = {.max_rank = 3}, same = {.max_rank = 4, .max_bytes = 1 << 20},
                          small = {.max_bytes = 100};
    assert_int_equal(adapter_open(&a, *state, &base, &same, NULL), 0);
    adapter_close(a);
    assert_int_equal(adapter_open(&a, *state, &base, &low, &e), -1);
    assert_non_null(strstr(e.msg, "has rank 4, above the limit of 3"));
    err_clear(&e);
    assert_int_equal(adapter_open(&a, *state, &base, &small, &e), -1);
    assert_non_null(strstr(e.msg, "above the limit of 100"));
}

static void a_base_without_a_module_refuses_tensors_for_it(void **state)
{
    struct base_desc base;
    struct adapter *a = NULL;
    struct err e = {0};
    fix_base(&base);
    base.in[LM_V] = base.out[LM_V] = 0;
    fix_write(*state, NULL, NULL);
    assert_int_equal(adapter_open(&a, *state, &base, NULL, &e), -1);
    assert_non_null(strstr(e.msg, "tiny-base has no v_proj"));
    fix_write(*state, NULL, "-0.v.A -0.v.B -1.v.A -1.v.B");
    assert_int_equal(adapter_open(&a, *state, &base, NULL, NULL), 0);
    adapter_close(a);
}

static void a_folder_without_one_of_the_files_is_refused(void **state)
{
    struct base_desc base;
    struct adapter *a = NULL;
    char path[1200];
    static const char *const files[] = {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE};
    fix_base(&base);
    for (int i = 0; i < 2; i++) {
        struct err e = {0};
        fix_write(*state, NULL, NULL);
        snprintf(path, sizeof path, "%s/%s", (char *)*state, files[i]);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(adapter_open(&a, *state, &base, NULL, &e), -1);
        assert_non_null(strstr(e.msg, "missing"));
    }
}

static void a_base_survives_its_way_through_json(void **state)
{
    (void)state;
    struct base_desc b, back;
    struct err e = {0};
    fix_base(&b);
    b.in[LM_O] = b.out[LM_O] = 0;
    b.experts = 4, b.expert_mlp = 24, b.fused_gate_up = true;
    json_t *j = base_desc_to_json(&b);
    memset(&back, 0xff, sizeof back);
    if (base_desc_from_json(&back, j, &e)) fail_msg("%s", e.msg);
    assert_memory_equal(&b, &back, sizeof b);
    json_decref(j);
}

static void a_base_that_lies_in_json_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *patch, *expect;
    } lies[] = {
        {"{\"name\":7}", "name"},
        {"{\"name\":null}", "name"},
        {"{\"digest\":\"abc\"}", "digest"},
        {"{\"layers\":0}", "layers"},
        {"{\"layers\":null}", "layers"},
        {"{\"layers\":100000}", "layers"},
        {"{\"modules\":[]}", "modules"},
        {"{\"modules\":{\"q_proj\":[8]}}", "q_proj"},
        {"{\"modules\":{\"q_proj\":[8,-8]}}", "q_proj"},
        {"{\"modules\":{\"q_proj\":[8,2000000]}}", "q_proj"},
        {"{\"modules\":{\"q_proj\":\"8\"}}", "q_proj"},
        {"{\"also\":[\"a\",\"b\",\"c\",\"d\",\"e\"]}", "also"},
        {"{\"also\":[7]}", "also"},
        {"{\"vocab\":-1}", "vocab"},
        {"{\"hidden\":\"8\"}", "hidden"},
        {"{\"hidden\":0}", "hidden"},
        {"{\"experts\":4}", "expert_mlp"},
        {"{\"experts\":1000000}", "experts"},
        {"{\"fused_qkv\":1}", "fused_qkv"},
    };
    struct base_desc b, before;
    fix_base(&b);
    before = b;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct err e = {0};
        json_t *j = base_desc_to_json(&b), *p = json_loads(lies[i].patch, 0, NULL);
        json_object_update(j, p);
        if (!base_desc_from_json(&b, j, &e)) fail_msg("accepted: %s", lies[i].patch);
        if (!strstr(e.msg, lies[i].expect)) fail_msg("%s: %s", lies[i].patch, e.msg);
        assert_memory_equal(&b, &before, sizeof b);
        json_decref(j);
        json_decref(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_demo_adapters_open_with_their_ranks_scales_and_digests),
        cmocka_unit_test(a_place_holds_the_tensor_of_its_name),
        cmocka_unit_test_setup_teardown(the_digest_does_not_depend_on_order_padding_or_spelling, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(the_digest_changes_with_what_changes_an_answer, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(adapters_in_every_usual_spelling_open, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(files_that_are_no_adapter_of_this_base_are_refused, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(experts_and_fused_modules_are_placed_or_refused, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(parts_of_one_tensor_are_views_of_it, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(long_names_are_cut_from_the_list_and_counted, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(limits_of_the_caller_are_kept, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_base_without_a_module_refuses_tensors_for_it, fix_dir, fix_dir_gone),
        cmocka_unit_test_setup_teardown(a_folder_without_one_of_the_files_is_refused, fix_dir, fix_dir_gone),
        cmocka_unit_test(a_base_survives_its_way_through_json),
        cmocka_unit_test(a_base_that_lies_in_json_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
