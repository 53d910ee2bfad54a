/* Tests of engine/source: the names of each family lead to its places in both worlds, rows come in Hugging Face's order, and nothing is
 * passed over. What strangers' files may do wrong is in test_source_hostile.c, the formats are in test_source_formats.c. */
#include "tests/unit/test_source.h"
#include "base/sha256.h"
#include "engine/packed.h"

/* What stands at a place, in the order of the room's tensors; at PLACES: the tensor has none of its own. */
struct held {
    enum place at;
    bool bias;
    int expert;
};

struct family_room {
    const char *name, *config, *arch; /* arch NULL: a directory */
    struct room_tensor t[ROOM_TENSORS];
    struct held at[ROOM_TENSORS];
};

#define CONFIG "{\"model_type\":\"x\"}"
#define COMPOSITE "{\"model_type\":\"x\",\"text_config\":{\"model_type\":\"y\"}}"
#define L "model.layers.0."
#define V(p)                                                                                                           \
    {                                                                                                                  \
        (p), false, 0                                                                                                  \
    }
#define X(p, e)                                                                                                        \
    {                                                                                                                  \
        (p), false, (e)                                                                                                \
    }
#define B(p)                                                                                                           \
    {                                                                                                                  \
        (p), true, 0                                                                                                   \
    }

static const struct family_room rooms[] = {
    {"Llama",
     CONFIG,
     NULL,
     {{"model.embed_tokens.weight", {3, 32}},
      {"lm_head.weight", {3, 32}},
      {"model.norm.weight", {32}},
      {L "input_layernorm.weight", {32}},
      {L "post_attention_layernorm.weight", {32}},
      {L "self_attn.q_proj.weight", {32, 32}},
      {L "self_attn.k_proj.weight", {16, 32}},
      {L "self_attn.v_proj.weight", {16, 32}},
      {L "self_attn.o_proj.weight", {32, 32}},
      {L "mlp.gate_proj.weight", {64, 32}},
      {L "mlp.up_proj.weight", {64, 32}},
      {L "mlp.down_proj.weight", {32, 64}},
      {L "self_attn.rotary_emb.inv_freq", {4}}},
     {V(AT_EMBED), V(AT_HEAD), V(AT_FINAL_NORM), V(AT_ATTN_NORM), V(AT_MLP_NORM), V(AT_Q), V(AT_K), V(AT_V), V(AT_O),
      V(AT_GATE), V(AT_UP), V(AT_DOWN), V(PLACES)}},
    {"Qwen2, the bare decoder",
     CONFIG,
     NULL,
     {{"embed_tokens.weight", {3, 32}},
      {"layers.0.self_attn.q_proj.weight", {32, 32}},
      {"layers.0.self_attn.q_proj.bias", {32}},
      {"layers.0.self_attn.k_proj.weight", {16, 32}},
      {"layers.0.self_attn.k_proj.bias", {16}}},
     {V(AT_EMBED), V(AT_Q), B(AT_Q), V(AT_K), B(AT_K)}},
    {"Gemma 3 in a composite",
     COMPOSITE,
     NULL,
     {{"language_model.model.embed_tokens.weight", {3, 32}},
      {"language_model.lm_head.weight", {3, 32}},
      {"language_model.model.layers.0.input_layernorm.weight", {32}},
      {"language_model.model.layers.0.post_attention_layernorm.weight", {32}},
      {"language_model.model.layers.0.pre_feedforward_layernorm.weight", {32}},
      {"language_model.model.layers.0.post_feedforward_layernorm.weight", {32}},
      {"language_model.model.layers.0.self_attn.q_norm.weight", {8}},
      {"language_model.model.layers.0.self_attn.k_norm.weight", {8}},
      {"vision_tower.vision_model.embeddings.patch_embedding.weight", {8, 3, 2}},
      {"multi_modal_projector.mm_soft_emb_norm.weight", {8}}},
     {V(AT_EMBED), V(AT_HEAD), V(AT_ATTN_NORM), V(AT_ATTN_POST), V(AT_MLP_NORM), V(AT_MLP_POST), V(AT_Q_NORM),
      V(AT_K_NORM), V(PLACES), V(PLACES)}},
    {"Gemma 3 in a composite of transformers 5",
     COMPOSITE,
     NULL,
     {{"model.language_model.embed_tokens.weight", {3, 32}},
      {"model.language_model.layers.0.mlp.down_proj.weight", {32, 64}},
      {"model.vision_tower.x.weight", {8}}},
     {V(AT_EMBED), V(AT_DOWN), V(PLACES)}},
    {"Phi-3",
     CONFIG,
     NULL,
     {{"model.embed_tokens.weight", {3, 32}},
      {L "self_attn.qkv_proj.weight", {64, 32}},
      {L "mlp.gate_up_proj.weight", {128, 32}}},
     {V(AT_EMBED), V(AT_QKV), V(AT_GATE_UP)}},
    {"Mixtral",
     CONFIG,
     NULL,
     {{"model.embed_tokens.weight", {3, 32}},
      {L "block_sparse_moe.gate.weight", {2, 32}},
      {L "block_sparse_moe.experts.0.w1.weight", {16, 32}},
      {L "block_sparse_moe.experts.0.w2.weight", {32, 16}},
      {L "block_sparse_moe.experts.0.w3.weight", {16, 32}},
      {L "block_sparse_moe.experts.1.w1.weight", {16, 32}},
      {L "block_sparse_moe.experts.1.w2.weight", {32, 16}},
      {L "block_sparse_moe.experts.1.w3.weight", {16, 32}}},
     {V(AT_EMBED), V(AT_ROUTER), X(AT_EXPERT_GATE, 0), X(AT_EXPERT_DOWN, 0), X(AT_EXPERT_UP, 0), X(AT_EXPERT_GATE, 1),
      X(AT_EXPERT_DOWN, 1), X(AT_EXPERT_UP, 1)}},
    {"Qwen 3 with experts",
     CONFIG,
     NULL,
     {{"model.embed_tokens.weight", {3, 32}},
      {L "mlp.gate.weight", {2, 32}},
      {L "mlp.experts.1.gate_proj.weight", {16, 32}},
      {L "mlp.experts.1.up_proj.weight", {16, 32}},
      {L "mlp.experts.1.down_proj.weight", {32, 16}}},
     {V(AT_EMBED), V(AT_ROUTER), X(AT_EXPERT_GATE, 1), X(AT_EXPERT_UP, 1), X(AT_EXPERT_DOWN, 1)}},
    {"Qwen 3 in GGUF",
     NULL,
     "qwen3",
     {{"token_embd.weight", {3, 32}},
      {"output.weight", {3, 32}},
      {"output_norm.weight", {32}},
      {"rope_freqs.weight", {4}},
      {"blk.0.attn_norm.weight", {32}},
      {"blk.0.ffn_norm.weight", {32}},
      {"blk.0.attn_q.weight", {32, 32}},
      {"blk.0.attn_k.weight", {16, 32}},
      {"blk.0.attn_v.weight", {16, 32}},
      {"blk.0.attn_output.weight", {32, 32}},
      {"blk.0.attn_q_norm.weight", {8}},
      {"blk.0.attn_k_norm.weight", {8}},
      {"blk.0.ffn_gate.weight", {64, 32}},
      {"blk.0.ffn_up.weight", {64, 32}},
      {"blk.0.ffn_down.weight", {32, 64}}},
     {V(AT_EMBED), V(AT_HEAD), V(AT_FINAL_NORM), V(AT_ROPE_FREQS), V(AT_ATTN_NORM), V(AT_MLP_NORM), V(AT_Q), V(AT_K),
      V(AT_V), V(AT_O), V(AT_Q_NORM), V(AT_K_NORM), V(AT_GATE), V(AT_UP), V(AT_DOWN)}},
    {"Gemma 3 in GGUF",
     NULL,
     "gemma3",
     {{"token_embd.weight", {3, 32}},
      {"blk.0.post_attention_norm.weight", {32}},
      {"blk.0.post_ffw_norm.weight", {32}},
      {"blk.0.ffn_norm.weight", {32}}},
     {V(AT_EMBED), V(AT_ATTN_POST), V(AT_MLP_POST), V(AT_MLP_NORM)}},
    {"Phi-3 in GGUF",
     NULL,
     "phi3",
     {{"token_embd.weight", {3, 32}},
      {"blk.0.attn_qkv.weight", {64, 32}},
      {"blk.0.ffn_up.weight", {128, 32}},
      {"rope_factors_long.weight", {4}},
      {"rope_factors_short.weight", {4}}},
     {V(AT_EMBED), V(AT_QKV), V(AT_GATE_UP), V(AT_ROPE_LONG), V(AT_ROPE_SHORT)}},
    {"Mixtral in an old GGUF",
     NULL,
     "llama",
     {{"token_embd.weight", {3, 32}},
      {"blk.0.ffn_gate_inp.weight", {2, 32}},
      {"blk.0.ffn_gate.1.weight", {16, 32}},
      {"blk.0.ffn_up.1.weight", {16, 32}},
      {"blk.0.ffn_down.1.weight", {32, 16}}},
     {V(AT_EMBED), V(AT_ROUTER), X(AT_EXPERT_GATE, 1), X(AT_EXPERT_UP, 1), X(AT_EXPERT_DOWN, 1)}},
};

static struct source *open_room(const struct family_room *r, char dir[64])
{
    char path[128];
    struct source *s = NULL;
    struct err e = {0};
    room_new(dir);
    if (r->arch) {
        room_gguf(dir, "model.gguf", r->arch, r->t, 0);
        snprintf(path, sizeof path, "%s/model.gguf", dir);
    } else {
        room_text(dir, "config.json", r->config);
        room_st(dir, "model.safetensors", r->t);
        snprintf(path, sizeof path, "%s", dir);
    }
    if (source_open(&s, path, &e)) fail_msg("%s: %s", r->name, e.msg);
    return s;
}

/* The first element of the last row. */
static float corner(const struct source *s, const struct spot *at, int n, int k, const char *what)
{
    struct source_matrix m;
    struct err e = {0};
    float f[256];
    assert_true(k <= 256);
    if (source_matrix(s, at, n, k, &m, &e)) fail_msg("%s: %s", what, e.msg);
    if (m.src.read(&m.src, n - 1, &(struct weight_row){.f = f}, &e)) fail_msg("%s: %s", what, e.msg);
    source_matrix_close(&m);
    return f[0];
}

static void check_place(const struct source *s, const struct family_room *r, int i)
{
    const struct room_tensor *t = &r->t[i];
    struct spot at = {.at = r->at[i].at, .bias = r->at[i].bias, .expert = r->at[i].expert};
    struct err e = {0};
    float *v;
    if (!source_has(s, &at)) fail_msg("%s: %s is not found", r->name, t->name);
    if (t->dim[1]) {
        assert_true(corner(s, &at, t->dim[0], t->dim[1], t->name) == (float)(i * STEP + (t->dim[0] - 1) * t->dim[1]));
        return;
    }
    if (source_vector(s, &at, t->dim[0], &v, &e)) fail_msg("%s: %s: %s", r->name, t->name, e.msg);
    for (int j = 0; j < t->dim[0]; j++) assert_true(v[j] == (float)(i * STEP + j));
    free(v);
}

static void test_names_of_every_family_lead_to_their_places(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof rooms / sizeof *rooms; f++) {
        const struct family_room *r = &rooms[f];
        char dir[64];
        struct err e = {0};
        struct source *s = open_room(r, dir);
        for (int i = 0; r->t[i].name; i++)
            if (r->at[i].at != PLACES) check_place(s, r, i);
        if (source_all_used(s, &e)) fail_msg("%s: %s", r->name, e.msg);
        source_close(s);
        room_end(dir);
    }
}

static void test_a_tensor_that_nobody_asked_for_is_named(void **state)
{
    (void)state;
    const struct family_room *r = &rooms[0];
    char dir[64];
    struct err e = {0};
    struct source *s = open_room(r, dir);
    for (int i = 0; r->t[i].name; i++)
        if (r->at[i].at != PLACES && r->at[i].at != AT_V) check_place(s, r, i);
    assert_int_equal(source_all_used(s, &e), -1);
    assert_int_equal(e.code, ERR_MODEL);
    assert_non_null(strstr(e.msg, "v_proj"));
    source_close(s);
    room_end(dir);
}

static void test_places_that_a_file_lacks_are_not_there(void **state)
{
    (void)state;
    static const struct spot none[] = {{.at = AT_ATTN_POST},     {.at = AT_QKV},           {.at = AT_ROUTER},
                                       {.at = AT_EXPERT_UP},     {.at = AT_Q, .layer = 1}, {.at = AT_Q, .bias = true},
                                       {.at = AT_Q, .layer = -1}};
    char dir[64];
    struct source *s = open_room(&rooms[0], dir);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        struct source_matrix m;
        struct err e = {0};
        assert_false(source_has(s, &none[i]));
        if (!none[i].bias) {
            assert_int_equal(source_matrix(s, &none[i], 32, 32, &m, &e), -1);
            assert_int_equal(e.code, ERR_MODEL);
        }
    }
    source_close(s);
    room_end(dir);
}

/* --- rows and stacks --- */

/* llama.cpp's converter: of each head, row i of half j becomes row 2i + j. */
static void test_llamas_rows_of_q_and_k_come_back_into_order(void **state)
{
    (void)state;
    static const struct room_tensor t[] = {{"token_embd.weight", {3, 32}},    {"blk.0.attn_q.weight", {32, 32}},
                                           {"blk.0.attn_q.bias", {32}},       {"blk.0.attn_k.weight", {16, 32}},
                                           {"blk.0.attn_v.weight", {16, 32}}, {NULL, {0}}};
    static const struct {
        enum place at;
        int n;
        bool moved;
    } rows[] = {{AT_Q, 32, true}, {AT_K, 16, true}, {AT_V, 16, false}};
    char dir[64], path[128];
    struct source *s;
    struct err e = {0};
    room_new(dir);
    room_gguf(dir, "model.gguf", "llama", t, 0);
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    assert_int_equal(source_open(&s, path, &e), 0);
    for (size_t i = 0; i < 3; i++) {
        struct source_matrix m;
        assert_int_equal(source_matrix(s, &(struct spot){.at = rows[i].at}, rows[i].n, 32, &m, &e), 0);
        assert_true((m.row_of != NULL) == rows[i].moved);
        for (int r = 0; m.row_of && r < rows[i].n; r++)
            assert_int_equal(m.row_of[r], r / 8 * 8 + 2 * (r % 4) + r % 8 / 4);
        source_matrix_close(&m);
    }
    float *v;
    assert_int_equal(source_vector(s, &(struct spot){.at = AT_Q, .bias = true}, 32, &v, &e), 0);
    for (int r = 0; r < 32; r++) assert_true(v[r] == (float)(2 * STEP + r / 8 * 8 + 2 * (r % 4) + r % 8 / 4));
    free(v);
    source_close(s);
    room_end(dir);
}

/* Two experts, n 16 (rows of gate and of up), k 32. */
static const struct stack {
    const char *arch, *gate, *up, *down; /* up NULL: fused with gate */
    bool transposed;
} stacks[] = {
    {NULL, L "mlp.experts.gate_up_proj", NULL, L "mlp.experts.down_proj", false},
    {NULL, L "mlp.experts.gate_up_proj", NULL, L "mlp.experts.down_proj", true},
    {"qwen3moe", "blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight", false},
    {"qwen3moe", "blk.0.ffn_gate_up_exps.weight", NULL, "blk.0.ffn_down_exps.weight", false},
};

static struct source *open_stack(const struct stack *k, char dir[64])
{
    int rows = k->up ? 16 : 48; /* fused: not square, so that the order of dimensions shows */
    struct room_tensor t[5] = {{k->arch ? "token_embd.weight" : "model.embed_tokens.weight", {3, 32}},
                               {k->gate, {2, k->transposed ? 32 : rows, k->transposed ? rows : 32}},
                               {k->down, {2, k->transposed ? 24 : 32, k->transposed ? 32 : 24}},
                               {k->up, {2, 16, 32}}};
    char path[128];
    struct source *s;
    struct err e = {0};
    if (k->up) t[2].dim[2] = 16;
    room_new(dir);
    if (k->arch) room_gguf(dir, "model.gguf", k->arch, t, 0);
    if (!k->arch) room_text(dir, "config.json", CONFIG);
    if (!k->arch) room_st(dir, "model.safetensors", t);
    snprintf(path, sizeof path, "%s%s", dir, k->arch ? "/model.gguf" : "");
    if (source_open(&s, path, &e)) fail_msg("%s", e.msg);
    return s;
}

static void test_experts_in_one_stack_are_found_one_by_one(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++) {
        const struct stack *k = &stacks[i];
        int n = k->up ? 16 : 24, rows = k->up ? n : 2 * n, last = n - 1;
        char dir[64];
        struct err e = {0};
        struct source *s = open_stack(k, dir);
        const struct spot gate = {.at = AT_EXPERT_GATE, .expert = 1}, up = {.at = AT_EXPERT_UP, .expert = 1},
                          down = {.at = AT_EXPERT_DOWN, .expert = 1};
        int row_step = k->transposed ? 1 : 32;
        assert_true(corner(s, &gate, n, 32, k->gate) == (float)(STEP + rows * 32 + last * row_step));
        assert_true(corner(s, &up, n, 32, k->gate) ==
                    (float)(k->up ? 3 * STEP + n * 32 + last * 32 : STEP + rows * 32 + (n + last) * row_step));
        assert_true(corner(s, &down, 32, n, k->down) == (float)(2 * STEP + 32 * n + 31 * (k->transposed ? 1 : n)));
        struct source_matrix m;
        assert_int_equal(source_matrix(s, &(struct spot){.at = AT_EXPERT_DOWN, .expert = 2}, 32, n, &m, &e), -1);
        source_close(s);
        room_end(dir);
    }
}

/* --- the head, the files, the digest --- */

static void test_a_tied_head_is_there_only_where_it_differs(void **state)
{
    (void)state;
    static const char header[] =
        "{\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[0,8]},"
        "\"lm_head.weight\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[8,16]}}";
    static const struct {
        const char *config;
        uint16_t other;
        bool there;
    } rows[] = {
        {"{\"tie_word_embeddings\":true}", 1, false}, {"{\"tie_word_embeddings\":true}", 2, true}, {"{}", 1, true}};
    for (size_t i = 0; i < 3; i++) {
        uint16_t v[8] = {1, 1, 1, 1, 1, 1, 1, rows[i].other};
        char dir[64];
        struct source *s;
        struct source_matrix m;
        struct err e = {0};
        room_new(dir);
        room_text(dir, "config.json", rows[i].config);
        room_st_raw(dir, "model.safetensors", header, v, sizeof v);
        assert_int_equal(source_open(&s, dir, &e), 0);
        assert_int_equal(source_has(s, &(struct spot){.at = AT_HEAD}), rows[i].there);
        assert_int_equal(source_matrix(s, &(struct spot){.at = AT_EMBED}, 2, 2, &m, &e), 0);
        source_matrix_close(&m);
        assert_int_equal(source_all_used(s, &e), rows[i].there ? -1 : 0);
        source_close(s);
        room_end(dir);
    }
}

static void test_a_directory_is_named_by_its_config_and_weights(void **state)
{
    (void)state;
    static const struct room_tensor a[] = {{"model.embed_tokens.weight", {3, 32}}, {NULL, {0}}};
    static const struct room_tensor b[] = {{"model.norm.weight", {32}}, {NULL, {0}}};
    char dir[64], digest[3][65];
    const char *text;
    size_t len;
    struct err e = {0};
    room_new(dir);
    room_text(dir, "config.json", CONFIG);
    room_text(dir, "tokenizer.json", "{\"x\":1}");
    room_st(dir, "a.safetensors", a);
    room_st(dir, "b.safetensors", b);
    for (int i = 0; i < 3; i++) {
        struct source *s;
        room_text(dir, "model.safetensors.index.json",
                  i == 1 ? "{\"weight_map\":{\"model.norm.weight\":\"b.safetensors\",\"model.embed_tokens.weight\":\"a."
                           "safetensors\"}}"
                         : "{\"metadata\":{\"x\":[{}]},\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\","
                           "\"model.norm.weight\":\"b.safetensors\"}}");
        if (i == 2) room_text(dir, "config.json", "{\"model_type\":\"z\"}");
        if (source_open(&s, dir, &e)) fail_msg("%s", e.msg);
        assert_int_equal(source_digest(s, digest[i], &e), 0);
        assert_true(source_file(s, "tokenizer.json", &text, &len) && len == 7 && memcmp(text, "{\"x\":1}", 7) == 0);
        assert_false(source_file(s, "chat_template.jinja", &text, &len));
        assert_null(source_gguf(s));
        assert_string_equal(json_string_value(json_object_get(source_config(s), "model_type")), i == 2 ? "z" : "x");
        source_close(s);
    }
    assert_true(sha256_is_hex(digest[0]));
    assert_string_equal(digest[0], digest[1]);
    assert_string_not_equal(digest[0], digest[2]);
    room_end(dir);
}

/* --- packed files --- */

static void pack_room(const struct source *s, const char *path, const float *embed)
{
    struct packed_writer *w;
    struct weight m;
    struct err e = {0};
    json_t *meta = json_object();
    assert_int_equal(weight_pack(&m, T_F32, embed, 3, 32, NULL, PREC_EXACT, &e), 0);
    assert_int_equal(packed_writer_new(&w, path, &e), 0);
    if (source_pack(s, w, &e)) fail_msg("%s", e.msg);
    assert_int_equal(packed_writer_add_weight(w, "embed", &m, &e), 0);
    if (packed_writer_finish(w, meta, &e)) fail_msg("%s", e.msg);
    packed_writer_free(w);
    weight_close(&m);
    json_decref(meta);
}

/* Metadata and files are the source's. */
static void check_meta(const struct source *p, bool gguf)
{
    const char *text;
    size_t len;
    uint64_t heads = 0;
    struct err e = {0};
    assert_int_equal(source_kind(p), SOURCE_PACKED);
    assert_true((source_gguf(p) != NULL) == gguf);
    assert_true((source_config(p) != NULL) == !gguf);
    assert_true(source_file(p, "tokenizer.json", &text, &len) == !gguf);
    if (!gguf) return;
    assert_int_equal(gguf_u64(source_gguf(p), "llama.attention.head_count", &heads, &e), 0);
    assert_int_equal(heads, 4);
    assert_int_equal(gguf_tensors(source_gguf(p)), 0);
}

static void check_vectors(const struct source *s, const struct source *p)
{
    static const struct spot vectors[] = {{.at = AT_FINAL_NORM}, {.at = AT_ATTN_NORM}, {.at = AT_Q, .bias = true}};
    for (size_t i = 0; i < 3; i++) {
        struct err e = {0};
        float *a, *b;
        assert_true(source_has(p, &vectors[i]));
        assert_int_equal(source_vector(s, &vectors[i], 32, &a, &e), 0);
        assert_int_equal(source_vector(p, &vectors[i], 31, &b, &e), -1);
        e = (struct err){0};
        if (source_vector(p, &vectors[i], 32, &b, &e)) fail_msg("%s", e.msg);
        assert_memory_equal(a, b, 32 * sizeof *a);
        free(a);
        free(b);
    }
}

static void check_weights(const struct source *p, const float *embed)
{
    struct weight w;
    float row[32];
    char digest[65];
    struct err e = {0};
    assert_int_equal(source_all_used(p, &e), -1); /* the embedding */
    assert_non_null(strstr(e.msg, "embed"));
    e = (struct err){0};
    assert_false(source_weight(p, &(struct spot){.at = AT_Q}, &w));
    assert_true(source_weight(p, &(struct spot){.at = AT_EMBED}, &w));
    weight_row(&w, 2, row);
    assert_memory_equal(row, embed + 64, sizeof row);
    if (source_all_used(p, &e)) fail_msg("%s", e.msg);
    assert_int_equal(source_digest(p, digest, &e), 0);
    assert_true(sha256_is_hex(digest));
}

/* Llama's bias of q is out of order in GGUF: what comes out of the packed file is in order as what comes out of the GGUF. */
static void test_a_packed_file_gives_what_its_source_gave(void **state)
{
    (void)state;
    static const struct room_tensor of_gguf[] = {{"token_embd.weight", {3, 32}},   {"output_norm.weight", {32}},
                                                 {"blk.0.attn_norm.weight", {32}}, {"blk.0.attn_q.weight", {32, 32}},
                                                 {"blk.0.attn_q.bias", {32}},      {NULL, {0}}};
    static const struct room_tensor of_hf[] = {
        {"model.embed_tokens.weight", {3, 32}},  {"model.norm.weight", {32}},       {L "input_layernorm.weight", {32}},
        {L "self_attn.q_proj.weight", {32, 32}}, {L "self_attn.q_proj.bias", {32}}, {NULL, {0}}};
    for (int gguf = 0; gguf < 2; gguf++) {
        char dir[64], path[128], packed[128];
        struct source *s, *p;
        struct err e = {0};
        size_t n;
        float *values = room_values(of_hf, &n);
        room_new(dir);
        room_gguf(dir, "model.gguf", "llama", of_gguf, 0);
        room_st(dir, "model.safetensors", of_hf);
        room_text(dir, "config.json", CONFIG);
        room_text(dir, "tokenizer.json", "{}");
        snprintf(path, sizeof path, "%s%s", dir, gguf ? "/model.gguf" : "");
        snprintf(packed, sizeof packed, "%s/model.weft", dir);
        assert_int_equal(source_open(&s, path, &e), 0);
        pack_room(s, packed, values);
        if (source_open(&p, packed, &e)) fail_msg("%s", e.msg);
        check_meta(p, gguf != 0);
        check_vectors(s, p);
        check_weights(p, values);
        source_close(p);
        source_close(s);
        free(values);
        room_end(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_of_every_family_lead_to_their_places),
        cmocka_unit_test(test_a_tensor_that_nobody_asked_for_is_named),
        cmocka_unit_test(test_places_that_a_file_lacks_are_not_there),
        cmocka_unit_test(test_llamas_rows_of_q_and_k_come_back_into_order),
        cmocka_unit_test(test_experts_in_one_stack_are_found_one_by_one),
        cmocka_unit_test(test_a_tied_head_is_there_only_where_it_differs),
        cmocka_unit_test(test_a_directory_is_named_by_its_config_and_weights),
        cmocka_unit_test(test_a_packed_file_gives_what_its_source_gave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
