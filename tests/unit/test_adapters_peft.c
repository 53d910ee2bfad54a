/* PEFT's config: what is refused by name, and which modules its patterns mean. The expectations of the pattern table
 * are what PEFT's documented rule gives under Python's re. */
#include "tests/unit/test_adapters.h"
#include <math.h>

#define BASIC "\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]"

static const struct {
    const char *config, *expect;
} refused[] = {
    {"", "adapter_config.json is empty"},
    {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "adapter_config.json is a git-lfs pointer"},
    {"[]", "must be an object"},
    {"{", "invalid JSON"},
    {"{" BASIC "} trailing", "invalid JSON"},
    {"{" BASIC ",\"r\":8}", "duplicate"},
    {"{\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "peft_type is missing"},
    {"{\"peft_type\":\"LOHA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}",
     "peft_type LOHA is not served"},
    {"{\"peft_type\":\"LORA\",\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "r is missing"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"target_modules\":[\"q_proj\"]}", "lora_alpha is missing"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":null,\"target_modules\":[\"q_proj\"]}", "lora_alpha is missing"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":\"16\",\"target_modules\":[\"q_proj\"]}",
     "'lora_alpha' must be a number"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":1e999,\"target_modules\":[\"q_proj\"]}", "invalid JSON"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":1e300,\"target_modules\":[\"q_proj\"]}",
     "'lora_alpha' must be from"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":NaN,\"target_modules\":[\"q_proj\"]}", "invalid JSON"},
    {"{\"peft_type\":\"LORA\",\"r\":0,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "r is 0, not 1 to 512"},
    {"{\"peft_type\":\"LORA\",\"r\":-4,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "r is -4"},
    {"{\"peft_type\":\"LORA\",\"r\":513,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "r is 513"},
    {"{\"peft_type\":\"LORA\",\"r\":8.5,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "'r' must be an integer"},
    {"{\"peft_type\":\"LORA\",\"r\":true,\"lora_alpha\":16,\"target_modules\":[\"q_proj\"]}", "'r' must be an integer"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[]}",
     "target_modules is empty; upload the file that save_pretrained() wrote"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[7]}",
     "target_modules is not a list of names"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":7}",
     "target_modules is not a list of names or a pattern"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":\"(q\"}", "is not a regular expression"},
    {"{" BASIC ",\"use_dora\":1}", "'use_dora' must be true or false"},
    {"{" BASIC ",\"alora_invocation_tokens\":[1,\"x\"]}", "alora_invocation_tokens is not a list of token ids"},
    {"{" BASIC ",\"alora_invocation_tokens\":[-1]}", "alora_invocation_tokens is not a list of token ids"},
    {"{" BASIC ",\"alora_invocation_tokens\":7}", "alora_invocation_tokens is not a list of 1 to 256"},
    {"{" BASIC ",\"alora_invocation_tokens\":[1],\"use_dora\":true}", "does not go with use_dora"},
    {"{" BASIC ",\"bias\":\"all\"}", "biases"},
    {"{" BASIC ",\"bias\":\"lora_only\"}", "biases"},
    {"{" BASIC ",\"lora_bias\":true}", "biases"},
    {"{" BASIC ",\"modules_to_save\":[\"norm\"]}", "modules_to_save names norm: only embed_tokens and lm_head"},
    {"{" BASIC ",\"modules_to_save\":\"lm_head\"}", "modules_to_save is not a list"},
    {"{" BASIC ",\"modules_to_save\":[7]}", "modules_to_save is not a list of names"},
    {"{" BASIC ",\"trainable_token_indices\":[1]}", "trainable_token_indices is set"},
    {"{" BASIC ",\"layer_replication\":[[0,4],[2,5]]}", "replicated layers"},
    {"{" BASIC ",\"target_parameters\":\"mlp.experts.gate_up_proj\"}", "target_parameters is not a list"},
    {"{" BASIC ",\"use_qalora\":true}", "QALoRA"},
    {"{" BASIC ",\"use_bdlora\":{\"nblocks\":2}}", "BD-LoRA"},
    {"{" BASIC ",\"arrow_config\":{\"top_k\":3}}", "Arrow"},
    {"{" BASIC ",\"use_something_new\":true}", "use_something_new is set"},
    {"{" BASIC ",\"something_config\":{\"a\":1}}", "something_config is set"},
    {"{" BASIC ",\"init_lora_weights\":\"pissa\"}", "PiSSA changes the base"},
    {"{" BASIC ",\"init_lora_weights\":\"pissa_niter_16\"}", "PiSSA changes the base"},
    {"{" BASIC ",\"init_lora_weights\":\"olora\"}", "OLoRA changes the base"},
    {"{" BASIC ",\"init_lora_weights\":\"corda\"}", "CorDA changes the base"},
    {"{" BASIC ",\"init_lora_weights\":\"loftq\"}", "LoftQ changes the base"},
    {"{" BASIC ",\"init_lora_weights\":\"lora_ga\"}", "LoRA-GA changes the base"},
    {"{" BASIC ",\"init_lora_weights\":\"newest\"}", "not known to leave the base"},
    {"{" BASIC ",\"init_lora_weights\":3}", "init_lora_weights is no boolean"},
    {"{" BASIC ",\"rank_pattern\":[1]}", "rank_pattern is not an object"},
    {"{" BASIC ",\"rank_pattern\":{\"q_proj\":0}}", "rank_pattern \"q_proj\" is 0, not 1 to 512"},
    {"{" BASIC ",\"rank_pattern\":{\"q_proj\":4.5}}", "rank_pattern \"q_proj\" is not a number"},
    {"{" BASIC ",\"rank_pattern\":{\"q_proj\":513}}", "rank_pattern \"q_proj\" is 513"},
    {"{" BASIC ",\"alpha_pattern\":{\"q_proj\":\"x\"}}", "alpha_pattern \"q_proj\" is not a number"},
    {"{" BASIC ",\"rank_pattern\":{\"q_[\":4}}", "is not a regular expression"},
    {"{" BASIC ",\"layers_to_transform\":\"x\"}", "layers_to_transform is not a layer"},
    {"{" BASIC ",\"layers_to_transform\":[-1]}", "layers_to_transform names layer -1"},
    {"{" BASIC ",\"layers_to_transform\":[1000000]}", "layers_to_transform names layer 1000000"},
    {"{" BASIC ",\"layers_to_transform\":[0],\"layers_pattern\":{}}", "layers_pattern is not a pattern"},
    {"{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":\".*q_proj\",\"layers_to_transform\":[0]}",
     "goes with a list"},
    {"{" BASIC ",\"modules_to_save\":[\"layers.0.self_attn.q_proj\"]}", "merge the adapter into its base"},
    {"{" BASIC ",\"modules_to_save\":[\"head\"]}", "modules_to_save names head"}, /* PEFT compares the ends of paths */
    {"{" BASIC ",\"alora_invocation_tokens\":[1],\"modules_to_save\":[\"lm_head\"]}", "train without modules_to_save"},
    {"{" BASIC ",\"alora_invocation_tokens\":[1],\"task_type\":null}", "set task_type to CAUSAL_LM"},
    {"{" BASIC ",\"bias\":\"\"}", "bias is set"},
    {"{" BASIC ",\"bias\":null}", "bias is set"},
    {"{" BASIC ",\"kasa_config\":{}}", "KaSA, which changes the base, is not served; merge the adapter"},
    {"{" BASIC ",\"velora_config\":{}}", "VeLoRA is not served; merge the adapter"},
    {"{" BASIC ",\"monteclora_config\":{}}", "MonteCLoRA is not served; merge the adapter"},
    {"{" BASIC ",\"use_bdlora\":{}}", "BD-LoRA is not served; merge the adapter"},
    {"{" BASIC ",\"arrow_config\":{}}", "serve the adapters that it chooses from one by one"},
    {"{" BASIC ",\"trainable_token_indices\":[]}", "train embed_tokens by modules_to_save"},
    {"{" BASIC ",\"layer_replication\":[[0,2]]}", "write the replicated model with save_pretrained()"},
    {"{" BASIC ",\"use_foo\":true}", "does not know it; merge the adapter into its base by merge_and_unload()"},
    {"{" BASIC ",\"init_lora_weights\":\"gaussian2\"}", "\"gaussian2\" is not known to leave the base as it is"},
    {"{" BASIC ",\"init_lora_weights\":\"LoftQ\"}", "serve the base that LoftQ wrote"},
    {"{" BASIC ",\"init_lora_weights\":\"pissa\"}", "save_pretrained(path_initial_model_for_weight_conversion=...)"},
    {"{" BASIC ",\"alpha_pattern\":{\"(?i)Q_PROJ\":7}}", "alpha_pattern: \"(?i)Q_PROJ\" is not a regular expression"},
    {"{" BASIC ",\"alpha_pattern\":{\"[[:alpha:]]_proj\":7}}", "read alike, from \"[[:alpha:]]_proj\" on"},
    {"{" BASIC ",\"alpha_pattern\":{\"\\\\Qq_proj\\\\E\":7}}", "read alike, from \"\\Qq_proj\\E\" on"},
    {"{" BASIC ",\"alpha_pattern\":{\"q\\\\Nproj\":7}}", "read alike, from \"\\Nproj\" on"},
    {"{" BASIC ",\"alpha_pattern\":{\"[\\\\h]_proj\":7}}", "read alike"},
    {"{" BASIC ",\"alpha_pattern\":{\"\\\\x{71}_proj\":7}}", "read alike"},
    {"{" BASIC ",\"alpha_pattern\":{\"(?|q|k)_proj\":7}}", "read alike"},
    {"{" BASIC ",\"alpha_pattern\":{\"q{,2}_proj\":7}}", "read alike"},
    {"{" BASIC ",\"rank_pattern\":{\"((?:[a-z]|(?1))*)*_\":7}}", "read alike"},
    {"{" BASIC ",\"base_model_name_or_path\":7}", "'base_model_name_or_path' must be a string"},
    {"{" BASIC ",\"use_rslora\":\"yes\"}", "'use_rslora' must be true or false"},
};

static void configs_that_cannot_be_served_are_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct err e = {0};
        struct peft_config *c = NULL;
        if (!peft_parse(&c, refused[i].config, strlen(refused[i].config), &e))
            fail_msg("accepted: %s", refused[i].config);
        if (e.code != ERR_ADAPTER_INVALID || !strstr(e.msg, refused[i].expect))
            fail_msg("%s\n-> %d \"%s\", not \"%s\"", refused[i].config, e.code, e.msg, refused[i].expect);
    }
}

static struct peft_config *parse(const char *text)
{
    struct err e = {0};
    struct peft_config *c = NULL;
    if (peft_parse(&c, text, strlen(text), &e)) fail_msg("%s\n-> \"%s\"", text, e.msg);
    return c;
}

static void settings_that_change_nothing_are_ignored(void **state)
{
    (void)state;
    static const char *const fine[] = {
        "\"init_lora_weights\":true",
        "\"init_lora_weights\":false",
        "\"init_lora_weights\":null",
        "\"init_lora_weights\":\"gaussian\"",
        "\"init_lora_weights\":\"eva\",\"eva_config\":{\"rho\":2.0}",
        "\"init_lora_weights\":\"orthogonal\"",
        "\"lora_dropout\":0.1,\"revision\":\"main\",\"task_type\":\"CAUSAL_LM\",\"inference_mode\":true",
        "\"loftq_config\":{\"loftq_bits\":4}",
        "\"megatron_config\":{\"a\":1},\"megatron_core\":\"megatron.core\"",
        "\"modules_to_save\":[]",
        "\"modules_to_save\":null",
        "\"qalora_group_size\":16",
        "\"unsloth_fixed\":true",
        "\"use_something_new\":false,\"something_config\":null",
        "\"fan_in_fan_out\":true",
        "\"lora_bias\":false",
        "\"init_lora_weights\":\"mica\"",
        "\"kasa_config\":null,\"trainable_token_indices\":{},\"layer_replication\":[],\"use_qalora\":false",
        "\"modules_to_save\":[\"score\",\"classifier\"]",
    };
    char text[1024];
    for (size_t i = 0; i < sizeof fine / sizeof *fine; i++) {
        snprintf(text, sizeof text, "{" BASIC ",%s}", fine[i]);
        peft_free(parse(text));
    }
}

#define Q0 "model.layers.0.self_attn.q_proj"
#define Q10 "model.layers.10.self_attn.q_proj"
#define E1 "model.layers.1.mlp.experts.0.up_proj"
#define D1 "model.layers.1.mlp.down_proj"

/* `more` is added to r 8, alpha 16. */
static const struct {
    const char *more, *module;
    int target, r;
    double alpha;
} resolved[] = {
    {"\"target_modules\":[\"q_proj\"]", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"]", D1, 0, 8, 16},
    {"\"target_modules\":[\"proj\"]", Q0, 0, 8, 16}, /* a suffix is whole parts */
    {"\"target_modules\":[\"self_attn.q_proj\"]", Q0, 1, 8, 16},
    {"\"target_modules\":[\"" Q0 "\"]", Q0, 1, 8, 16},
    {"\"target_modules\":[\"layers.0.self_attn.q_proj\"]", Q10, 0, 8, 16},
    {"\"target_modules\":[\"" Q0 "\"],\"layers_to_transform\":[5]", Q0, 1, 8, 16}, /* exact names pass the layer rule */
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[5]", Q0, 0, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":0", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[1,10]", Q10, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[]", Q10, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":\"layers\"", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":\"h\"", Q0, 0, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":[\"h\",\"layers\"]", Q0, 1, 8, 16},
    {"\"target_modules\":\"all-linear\"", D1, 1, 8, 16},
    {"\"target_modules\":\"All-Linear\"", D1, 1, 8, 16},
    {"\"target_modules\":null", Q0, 1, 8, 16}, /* PEFT's own for these families */
    {"\"target_modules\":null", D1, 0, 8, 16},
    {"\"target_modules\":[\"up_proj\"],\"layers_to_transform\":[1]", E1, 1, 8, 16}, /* the first number */
    {"\"target_modules\":[\"up_proj\"],\"layers_to_transform\":[0]", E1, 0, 8, 16},
    {"\"target_modules\":[\"up_proj\"],\"layers_to_transform\":[1],\"layers_pattern\":\"layers\"", E1, 1, 8, 16},
    {"\"target_modules\":[\"up_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":\"experts\"", E1, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":\"model.layers\"", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":\"(l)ayers\"", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0],\"layers_pattern\":\"model|layers\"", Q0, 0, 8, 16},
    {"\"target_modules\":[\"q_proj\",\"lm_head\"],\"modules_to_save\":[\"lm_head\"]", "lm_head", 0, 8, 16},
    {"\"target_modules\":\"(?i).*Q_PROJ\"", Q0, 1, 8, 16},
    {"\"target_modules\":\"(?i:.*Q)_proj\"", Q0, 1, 8, 16},
    {"\"target_modules\":\".*[[qv]_proj\"", Q0, 1, 8, 16},
    {"\"target_modules\":\".*(?P<m>q|v)_proj\"", Q0, 1, 8, 16},
    {"\"target_modules\":\".*(?<=\\\\.)q_proj$\"", Q0, 1, 8, 16},
    {"\"target_modules\":\".*q_proj\"", Q0, 1, 8, 16},
    {"\"target_modules\":\"q_proj\"", Q0, 0, 8, 16}, /* a string must match the whole name */
    {"\"target_modules\":\".*\\\\.(q|k)_proj\"", Q0, 1, 8, 16},
    {"\"target_modules\":\".*q_pro\"", Q0, 0, 8, 16},
    {"\"target_modules\":\"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj).*?)|(?:\\\\bmodel\\\\.layers\\\\.["
     "\\\\d]{1,}\\\\.(?:self_attn|mlp)\\\\.(?:(?:q_proj|k_proj)))\"",
     Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":[\"layers.0.self_attn.q_proj\"]", Q0, 0, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":[\"layers.0.self_attn.q_proj\"]", Q10, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"exclude_modules\":\".*layers\\\\.1.*\"", Q10, 0, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"q_proj\":32}", Q0, 1, 32, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"proj\":32}", Q0, 1, 8, 16}, /* (.*\.)? ends on a dot */
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"layers.0.self_attn.q_proj\":32}", Q10, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"ayers.0.self_attn.q_proj\":32}", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"^model.layers.0.self_attn.q_proj\":32}", Q0, 1, 32, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"^layers.0.self_attn.q_proj\":32}", Q0, 1, 8, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"layers.*\":32}", Q0, 1, 32, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"layers\":32}", Q0, 1, 8, 16}, /* must reach the end */
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"k_proj|q_proj\":32}", Q0, 1, 32, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"self_attn.q_proj\":4,\"q_proj\":32}", Q0, 1, 4, 16},
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"q_proj\":32,\"self_attn.q_proj\":4}", Q0, 1, 32,
     16}, /* first wins */
    {"\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"z\":1,\"q_proj\":32},\"alpha_pattern\":{\"q_proj\":5.5}", Q0,
     1, 32, 5.5},
    {"\"target_modules\":[\"q_proj\"],\"alpha_pattern\":{\"layers.\\\\d+.mlp.*\":64}", D1, 0, 8, 64},
};

static void patterns_mean_what_peft_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof resolved / sizeof *resolved; i++) {
        char text[1024];
        struct err e = {0};
        struct peft_place p;
        snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,%s}", resolved[i].more);
        struct peft_config *c = parse(text);
        if (peft_resolve(c, resolved[i].module, &p, &e)) fail_msg("%s: %s", text, e.msg);
        if (p.target != resolved[i].target || p.r != resolved[i].r || p.alpha != resolved[i].alpha)
            fail_msg("%s\n%s: target %d r %d alpha %g", text, resolved[i].module, p.target, p.r, p.alpha);
        peft_free(c);
    }
}

static void the_scale_is_alpha_over_r_or_over_its_root(void **state)
{
    (void)state;
    static const struct {
        int r;
        double alpha;
        bool rs;
        float scale; /* 0: refused */
    } cases[] = {{8, 16, false, 2.f},        {8, 16, true, (float)(16 / 2.8284271247461903)},
                 {1, 64, false, 64.f},       {1, 64.5, false, 0},
                 {1, -64, false, -64.f},     {1, -65, true, 0},
                 {512, 1, false, 1 / 512.f}, {3, 1, false, (float)(1 / 3.0)},
                 {16, 1000000, false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[256];
        struct err e = {0};
        struct peft_place p;
        snprintf(
            text, sizeof text,
            "{\"peft_type\":\"LORA\",\"r\":%d,\"lora_alpha\":%g,\"use_rslora\":%s,\"target_modules\":[\"q_proj\"]}",
            cases[i].r, cases[i].alpha, cases[i].rs ? "true" : "false");
        struct peft_config *c = parse(text);
        int rc = peft_resolve(c, Q0, &p, &e);
        if (cases[i].scale == 0) {
            assert_int_equal(rc, -1);
            assert_non_null(strstr(e.msg, "is a scale of"));
        } else {
            assert_int_equal(rc, 0);
            assert_true(p.scale == cases[i].scale);
        }
        peft_free(c);
    }
}

static void a_pattern_that_backtracks_without_end_is_refused(void **state)
{
    (void)state;
    static const char *const slow[] = {
        /* they end on a letter that the name has: PCRE2 rejects others at once */
        "\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"(([a-z0-9._]+)*)*_\":4}",
        "\"target_modules\":\"(.*)*(.*)*(.*)*(.*)*_\"",
    };
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
        char text[512];
        struct err e = {0};
        struct peft_place p;
        snprintf(text, sizeof text, "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,%s}", slow[i]);
        struct peft_config *c = parse(text);
        if (!peft_resolve(c, Q0, &p, &e)) fail_msg("matched: %s", slow[i]);
        assert_int_equal(e.code, ERR_ADAPTER_INVALID);
        assert_non_null(strstr(e.msg, "takes too long"));
        peft_free(c);
    }
}

static void a_start_of_pattern_verb_has_no_power(void **state)
{
    (void)state;
    struct err e = {0};
    struct peft_config *c = NULL;
    const char *text =
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":\"(*LIMIT_MATCH=1)q_proj\"}";
    assert_int_equal(peft_parse(&c, text, strlen(text), &e), -1);
    assert_non_null(strstr(e.msg, "is not a regular expression"));
}

static void the_canonical_form_does_not_depend_on_spelling(void **state)
{
    (void)state;
    static const char *const same[] = {
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\",\"k_proj\"]}",
        "{ \"lora_alpha\" : 16.0, \"target_modules\":[\"k_proj\",\"q_proj\",\"q_proj\"], "
        "\"r\":8,\n\"peft_type\":\"LORA\", \"use_dora\":false }",
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\",\"k_proj\"],\"rank_pattern\":"
        "{},"
        "\"layers_to_transform\":[],\"lora_dropout\":0.5}",
    };
    static const char *const other[] = {
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":17,\"target_modules\":[\"q_proj\",\"k_proj\"]}",
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"use_rslora\":true,\"target_modules\":[\"q_proj\",\"k_"
        "proj\"]}",
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\",\"k_proj\"],\"alpha_"
        "pattern\":{\"q_proj\":3,\".*\":4}}",
        "{\"peft_type\":\"LORA\",\"r\":8,\"lora_alpha\":16,\"target_modules\":[\"q_proj\",\"k_proj\"],\"alpha_"
        "pattern\":{\".*\":4,\"q_proj\":3}}",
    };
    const char *expect =
        "{\"alora_invocation_tokens\":null,\"alpha_pattern\":[],\"fan_in_fan_out\":false,\"layers_pattern\":null,"
        "\"layers_to_transform\":null,\"lora_alpha\":16,\"peft_type\":\"LORA\",\"r\":8,\"rank_pattern\":[],"
        "\"target_modules\":[\"k_proj\",\"q_proj\"],\"use_dora\":false,\"use_rslora\":false}";
    struct peft_config *c, *seen[4];
    for (size_t i = 0; i < 3; i++) {
        c = parse(same[i]);
        assert_string_equal(c->canonical, expect);
        peft_free(c);
    }
    for (int i = 0; i < 4; i++) {
        seen[i] = parse(other[i]);
        assert_string_not_equal(seen[i]->canonical, expect);
        for (int k = 0; k < i; k++) assert_string_not_equal(seen[i]->canonical, seen[k]->canonical);
    }
    for (int i = 0; i < 4; i++) peft_free(seen[i]);
}

static void a_config_beyond_its_size_is_refused_and_at_its_size_read(void **state)
{
    char *text = malloc(PEFT_CONFIG_MAX + 2), path[1200];
    struct err e = {0};
    struct peft_config *c = NULL;
    memset(text, ' ', PEFT_CONFIG_MAX + 2);
    memcpy(text, "{" BASIC "}", strlen("{" BASIC "}"));
    snprintf(path, sizeof path, "%s/c", (char *)*state);
    fix_file(*state, "c", text, PEFT_CONFIG_MAX);
    assert_int_equal(peft_load(&c, path, &e), 0);
    peft_free(c);
    fix_file(*state, "c", text, PEFT_CONFIG_MAX + 2);
    assert_int_equal(peft_load(&c, path, &e), -1);
    assert_non_null(strstr(e.msg, "more than 262144"));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configs_that_cannot_be_served_are_refused_by_name),
        cmocka_unit_test(settings_that_change_nothing_are_ignored),
        cmocka_unit_test(patterns_mean_what_peft_says),
        cmocka_unit_test(the_scale_is_alpha_over_r_or_over_its_root),
        cmocka_unit_test(a_pattern_that_backtracks_without_end_is_refused),
        cmocka_unit_test(a_start_of_pattern_verb_has_no_power),
        cmocka_unit_test(the_canonical_form_does_not_depend_on_spelling),
        cmocka_unit_test_setup_teardown(a_config_beyond_its_size_is_refused_and_at_its_size_read, fix_dir,
                                        fix_dir_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
