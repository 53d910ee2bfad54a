/* Tests of engine/source against files that lie: each is refused with ERR_MODEL by the name of what is wrong, and nothing is read outside
 * (these run under ASan and UBSan too). */
#include "tests/unit/test_source.h"
#include <limits.h>
#include <math.h>

#define EMBED "\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}"
#define GOOD "{" EMBED "}"
#define TEN "[[[[[[[[[["
#define DEEP TEN TEN TEN TEN TEN TEN TEN
#define INDEX(file) "{\"weight_map\":{\"model.embed_tokens.weight\":\"" file "\"}}"

static void expect_refusal(int rc, const struct err *e, const char *word, const char *what)
{
    if (rc == 0) fail_msg("%s: it was taken", what);
    if (e->code != ERR_MODEL && e->code != ERR_IO) fail_msg("%s: code %d: %s", what, e->code, e->msg);
    if (!strstr(e->msg, word)) fail_msg("%s: no \"%s\" in: %s", what, word, e->msg);
}

/* --- a directory as a whole --- */

#define LFS "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"

static const struct {
    const char *what, *config, *index, *single, *a, *b, *word;
    int bytes; /* of data in each file */
} dirs[] = {
    {"nothing at all", NULL, NULL, NULL, NULL, NULL, "config.json", 0},
    {"no weights", "{}", NULL, NULL, NULL, NULL, "index.json; download the whole repository", 0},
    {"an empty config", "", NULL, GOOD, NULL, NULL, "config.json is empty; download it again", 8},
    {"a config that git-lfs left", LFS, NULL, GOOD, NULL, NULL,
     "config.json is a git-lfs pointer, not the file itself: fetch", 0},
    {"an index that git-lfs left", "{}", LFS, NULL, GOOD, NULL, "model.safetensors.index.json is a git-lfs pointer", 8},
    {"an index of nothing", "{}", "{}", NULL, GOOD, NULL, "index.json: it has no weight_map; download it again", 8},
    {"an index of no tensors", "{}", "{\"weight_map\":{}}", NULL, GOOD, NULL, "index.json names no tensors; download",
     8},
    {"config is no JSON", "{", NULL, GOOD, NULL, NULL, "config.json", 8},
    {"config is nested too deep", "{\"a\":" DEEP "}", NULL, GOOD, NULL, NULL, "nested", 8},
    {"index points upwards", "{}", INDEX("../a.safetensors"), NULL, GOOD, NULL, "../a.safetensors", 8},
    {"index points to the root", "{}", INDEX("/etc/x.safetensors"), NULL, GOOD, NULL, "/etc/x", 8},
    {"index points to a hidden file", "{}", INDEX(".a.safetensors"), NULL, GOOD, NULL, ".a.safetensors", 8},
    {"index names another kind of file", "{}", INDEX("config.json"), NULL, GOOD, NULL, "config.json", 8},
    {"index escapes a name", "{}", "{\"weight_map\":{\"model.\\u0065\":\"a.safetensors\"}}", NULL, GOOD, NULL,
     "escapes", 8},
    {"index without a map", "{}", "{\"metadata\":{}}", NULL, GOOD, NULL, "weight_map", 8},
    {"index cut off", "{}", "{\"weight_map\":{\"x\":\"a.saf", NULL, GOOD, NULL, "index.json", 8},
    {"index with two maps", "{}", "{\"weight_map\":{},\"weight_map\":{}}", NULL, GOOD, NULL, "twice", 8},
    {"missing shard", "{}", INDEX("c.safetensors"), NULL, GOOD, NULL,
     "the file c.safetensors, which model.safetensors.index.json names, is missing; download it", 8},
    {"index and shards differ", "{}",
     "{\"weight_map\":{\"model.embed_tokens.weight\":\"a.safetensors\",\"model.norm.weight\":\"a.safetensors\"}}", NULL,
     GOOD, NULL, "model.norm.weight", 8},
    {"a tensor in two shards", "{}", "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"b.safetensors\"}}", NULL, GOOD,
     GOOD, "model.embed_tokens.weight stands in", 8},
    {"no tensors", "{}", NULL, "{}", NULL, NULL, "model.safetensors holds no tensors; download it again", 0},
    {"a tensor twice", "{}", NULL,
     "{" EMBED ",\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]}}", NULL, NULL,
     "stands in", 8},
    {"overlap", "{}", NULL, "{" EMBED ",\"x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", NULL, NULL,
     "tensor x overlaps tensor model.embed_tokens.weight; download it again", 8},
    {"hole", "{}", NULL, "{" EMBED ",\"x\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}", NULL, NULL,
     "a hole of 1 bytes between model.embed_tokens.weight and tensor x; download", 10},
    {"tail", "{}", NULL, GOOD, NULL, NULL, "belong to none", 9},
    {"cut off", "{}", NULL, GOOD, NULL, NULL, "cut off", 7},
    {"offsets and shape differ", "{}", NULL, "{\"x\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", NULL,
     NULL, "needs 12", 8},
    {"offsets backwards", "{}", NULL, "{\"x\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[8,0]}}", NULL, NULL,
     "backwards", 8},
    {"a product that overflows", "{}", NULL,
     "{\"x\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", NULL, NULL, "overflow", 8},
    {"bytes that overflow", "{}", NULL,
     "{\"x\":{\"dtype\":\"F64\",\"shape\":[4611686018427387904],\"data_offsets\":[0,8]}}", NULL, NULL, "overflow", 8},
    {"a number without end", "{}", NULL,
     "{\"x\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", NULL, NULL, "too large", 8},
    {"a negative size", "{}", NULL, "{\"x\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,8]}}", NULL, NULL,
     "whole number", 8},
    {"nine dimensions", "{}", NULL, "{\"x\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}",
     NULL, NULL, "8 dimensions", 4},
    {"an unknown type", "{}", NULL, "{\"x\":{\"dtype\":\"F9\",\"shape\":[1],\"data_offsets\":[0,4]}}", NULL, NULL,
     "F9 is not served; save", 4},
    {"an entry with more", "{}", NULL, "{\"x\":{\"dtype\":\"F32\",\"extra\":1,\"shape\":[1],\"data_offsets\":[0,4]}}",
     NULL, NULL, "exactly", 4},
    {"an entry with less", "{}", NULL, "{\"x\":{\"dtype\":\"F32\",\"shape\":[1]}}", NULL, NULL, "lacks", 4},
    {"a header that is no JSON", "{}", NULL, "hello", NULL, NULL, "'{'", 4},
    {"an unknown method", "{\"quantization_config\":{\"quant_method\":\"hqq\"}}", NULL, GOOD, NULL, NULL,
     "\"hqq\" is not served", 8},
    {"a method without name", "{\"quantization_config\":{}}", NULL, GOOD, NULL, NULL, "not served", 8},
    {"AWQ of another kernel", "{\"quantization_config\":{\"quant_method\":\"awq\",\"version\":\"gemv\"}}", NULL, GOOD,
     NULL, NULL, "gemv", 8},
    {"GPTQ for Marlin", "{\"quantization_config\":{\"quant_method\":\"gptq\",\"checkpoint_format\":\"marlin\"}}", NULL,
     GOOD, NULL, NULL, "marlin", 8},
    {"sparse tensors", "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"marlin-24\"}}",
     NULL, GOOD, NULL, NULL, "marlin-24", 8},
    {"NVFP4", "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\"}}",
     NULL, GOOD, NULL, NULL, "nvfp4", 8},
    {"turned activations",
     "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"dense\",\"transform_config\":"
     "{\"config_groups\":{\"R4\":{\"type\":\"hadamard\"}}}}}",
     NULL, GOOD, NULL, NULL, "transform_config is set: turned activations are not served; quantize the model without",
     8},
    {"absurd blocks", "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[0,-5]}}", NULL, GOOD,
     NULL, NULL, "block", 8},
};

static void test_a_directory_that_lies_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs; i++) {
        char dir[64], data[64] = {0};
        struct source *s = NULL;
        struct err e = {0};
        room_new(dir);
        if (dirs[i].config) room_text(dir, "config.json", dirs[i].config);
        if (dirs[i].index) room_text(dir, "model.safetensors.index.json", dirs[i].index);
        if (dirs[i].single) room_st_raw(dir, "model.safetensors", dirs[i].single, data, (size_t)dirs[i].bytes);
        if (dirs[i].a) room_st_raw(dir, "a.safetensors", dirs[i].a, data, (size_t)dirs[i].bytes);
        if (dirs[i].b) room_st_raw(dir, "b.safetensors", dirs[i].b, data, (size_t)dirs[i].bytes);
        expect_refusal(source_open(&s, dir, &e), &e, dirs[i].word, dirs[i].what);
        assert_null(s);
        room_end(dir);
    }
}

static void test_what_is_no_model_is_told_apart(void **state)
{
    (void)state;
    static const struct {
        const char *file, *text, *word;
    } rows[] = {{"pytorch_model.bin", "x", "pickled weights are not served; save them as safetensors"},
                {"adapter_config.json", "{}", "it is an adapter, not a base model; give the base here"},
                {"model.safetensors", LFS, "model.safetensors is a git-lfs pointer"}};
    struct source *s = NULL;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char dir[64];
        struct err e = {0};
        room_new(dir);
        if (i != 1) room_text(dir, "config.json", "{}");
        room_text(dir, rows[i].file, rows[i].text);
        expect_refusal(source_open(&s, dir, &e), &e, rows[i].word, rows[i].file);
        room_end(dir);
    }
    struct err e = {0};
    expect_refusal(source_open(&s, "/nowhere/at/all", &e), &e, "/nowhere/at/all", "a path to nothing");
}

/* One file of a model, a pointer in a GGUF file's place, a link to nothing. */
static void test_what_stands_in_a_models_place_is_named(void **state)
{
    (void)state;
    char dir[64], path[128];
    struct source *s = NULL;
    struct err e = {0}, f = {0}, g = {0};
    room_new(dir);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    room_text(dir, "model.safetensors", "x");
    expect_refusal(source_open(&s, path, &e), &e, "one file of a model; give the folder, with config.json", "one file");
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    room_text(dir, "model.gguf", LFS);
    expect_refusal(source_open(&s, path, &f), &f, "is a git-lfs pointer, not the file itself", "a pointer");
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(symlink("/nowhere/at/all", path), 0);
    expect_refusal(source_open(&s, dir, &g), &g, "config.json is a symbolic link to nothing; download it again",
                   "a link");
    room_end(dir);
}

/* A header cut at every length, and with every byte changed: refused or taken, never read beyond. */
static void test_damaged_headers_are_never_read_beyond(void **state)
{
    (void)state;
    static const char header[] = "{\"__metadata__\":{\"a\":\"b\\\"{\"}," EMBED
                                 ",\"x\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[8,16]}}";
    char dir[64], copy[sizeof header], data[16] = {0};
    struct source *s;
    room_new(dir);
    room_text(dir, "config.json", "{}");
    for (size_t i = 0; i < sizeof header - 1; i++)
        for (int kind = 0; kind < 3; kind++) {
            struct err e = {0};
            memcpy(copy, header, sizeof header);
            copy[i] = kind == 0 ? 0 : kind == 1 ? '"' : '9';
            room_st_raw(dir, "model.safetensors", copy, data, sizeof data);
            if (source_open(&s, dir, &e) == 0) source_close(s);
        }
    room_end(dir);
}

/* --- quantized modules --- */

#define STEM "model.layers.0.mlp.down_proj"
#define PARTS 6

struct part {
    const char *suffix, *dtype, *shape;
    int bytes, fill; /* every byte */
};

static const char gptq[] = "{\"quantization_config\":{\"quant_method\":\"gptq\"}}";
static const char awq[] = "{\"quantization_config\":{\"quant_method\":\"awq\"}}";
static const char bnb[] = "{\"quantization_config\":{\"quant_method\":\"bitsandbytes\"}}";
static const char fp8[] = "{\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}}";
static const char ct[] =
    "{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}}";

/* A module of 16 x 64. Zeros in every byte are fine values but where a row says otherwise. */
static const struct lie {
    const char *what, *config, *word; /* word NULL: it is taken */
    struct part part[PARTS];
} lies[] = {
#define QW                                                                                                             \
    {                                                                                                                  \
        ".qweight", "I32", "[8,16]", 512, 0                                                                            \
    }
#define QZ                                                                                                             \
    {                                                                                                                  \
        ".qzeros", "I32", "[2,2]", 16, 0                                                                               \
    }
#define SC                                                                                                             \
    {                                                                                                                  \
        ".scales", "F16", "[2,16]", 64, 0                                                                              \
    }
    {"GPTQ as it should be", gptq, NULL, {QW, QZ, SC}},
    {"GPTQ without scales", gptq, ".scales", {QW, QZ}},
    {"GPTQ without zeros", gptq, ".qzeros", {QW, SC}},
    {"GPTQ of five bits", gptq, "packing", {{".qweight", "I32", "[10,16]", 640, 0}, QZ, SC}},
    {"GPTQ of other outputs", gptq, "packing", {{".qweight", "I32", "[8,24]", 768, 0}, QZ, SC}},
    {"GPTQ with scales for others", gptq, "scales", {QW, QZ, {".scales", "F16", "[2,8]", 32, 0}}},
    {"GPTQ with scales of integers", gptq, "scales", {QW, QZ, {".scales", "I16", "[2,16]", 64, 0}}},
    {"GPTQ with groups that don't divide", gptq, "groups", {QW, QZ, {".scales", "F16", "[3,16]", 96, 0}}},
    {"GPTQ with zeros for others", gptq, ".qzeros", {QW, {".qzeros", "I32", "[2,1]", 8, 0}, SC}},
    {"GPTQ with scales that are NaN", gptq, "not finite", {QW, QZ, {".scales", "F16", "[2,16]", 64, 0x7e}}},
    {"GPTQ with groups out of range", gptq, "group", {QW, QZ, SC, {".g_idx", "I32", "[64]", 256, 1}}},
    {"GPTQ with negative groups", gptq, "group -1", {QW, QZ, SC, {".g_idx", "I32", "[64]", 256, 0xff}}},
    {"GPTQ with a short g_idx", gptq, "g_idx", {QW, QZ, SC, {".g_idx", "I32", "[32]", 128, 0}}},
    {"GPTQ where none is configured", "{}", "gptq writes it", {QW, QZ, SC}},
    {"GPTQ where fp8 is configured", fp8, "\"fp8\"", {QW, QZ, SC}},
    {"AWQ in GPTQ's shape", awq, ".qweight", {QW, QZ, SC}},
    {"AWQ as it should be", awq, NULL, {{".qweight", "I32", "[64,2]", 512, 0}, QZ, SC}},
#define PW                                                                                                             \
    {                                                                                                                  \
        ".weight_packed", "I32", "[16,8]", 512, 0                                                                      \
    }
    {"packed as it should be", ct, NULL, {PW, {".weight_scale", "BF16", "[16,2]", 64, 0}}},
    {"packed without scale", ct, "weight_scale", {PW}},
    {"packed of nine bits",
     ct,
     "packing",
     {{".weight_packed", "I32", "[16,18]", 1152, 0}, {".weight_scale", "BF16", "[16,2]", 64, 0}}},
    {"packed with scales for others", ct, "weight_scale", {PW, {".weight_scale", "BF16", "[8,2]", 32, 0}}},
    {"packed with another shape",
     ct,
     "weight_shape",
     {PW, {".weight_scale", "BF16", "[16,2]", 64, 0}, {".weight_shape", "I64", "[2]", 16, 1}}},
    {"packed with few zeros",
     ct,
     "weight_zero_point",
     {PW, {".weight_scale", "BF16", "[16,2]", 64, 0}, {".weight_zero_point", "I32", "[1,2]", 8, 0}}},
    {"packed with groups out of range",
     ct,
     "group",
     {PW, {".weight_scale", "BF16", "[16,2]", 64, 0}, {".weight_g_idx", "I32", "[64]", 256, 5}}},
    {"int8 with zeros of another type",
     ct,
     "weight_zero_point",
     {{".weight", "I8", "[16,64]", 1024, 0},
      {".weight_scale", "F32", "[16,1]", 64, 0},
      {".weight_zero_point", "I32", "[16,1]", 64, 0}}},
    {"int8 without scale", ct, "weight_scale", {{".weight", "I8", "[16,64]", 1024, 0}}},
#define FW                                                                                                             \
    {                                                                                                                  \
        ".weight", "F8_E4M3", "[16,64]", 1024, 0                                                                       \
    }
    {"fp8 as it should be", fp8, NULL, {FW, {".weight_scale_inv", "F32", "[1,1]", 4, 0}}},
    {"fp8 without scale", fp8, "without", {FW}},
    {"fp8 with too many blocks", fp8, "scale is 2 x 3", {FW, {".weight_scale_inv", "F32", "[2,3]", 24, 0}}},
    {"fp8 with a scale that is NaN", fp8, "not finite", {FW, {".weight_scale", "F32", "[]", 4, 0xff}}},
    {"fp8 with values that are NaN",
     fp8,
     "not finite",
     {{".weight", "F8_E4M3", "[16,64]", 1024, 0x7f}, {".weight_scale", "F32", "[]", 4, 0}}},
    {"fp8 with narrow groups", fp8, "groups of 4", {FW, {".weight_scale", "F32", "[16,16]", 1024, 0}}},
    {"fp8 of another shape",
     fp8,
     "64 x 16",
     {{".weight", "F8_E4M3", "[64,16]", 1024, 0}, {".weight_scale", "F32", "[]", 4, 0}}},
    {"fp8 with zero points",
     fp8,
     "zero points",
     {FW, {".weight_scale", "F32", "[]", 4, 0}, {".weight_zero_point", "I8", "[]", 1, 1}}},
    {"e5m2", fp8, "F8_E5M2", {{".weight", "F8_E5M2", "[16,64]", 1024, 0}, {".weight_scale", "F32", "[]", 4, 0}}},
    {"bitsandbytes without state", bnb, "quant_state", {{".weight", "U8", "[512,1]", 512, 0}}},
    {"bitsandbytes of another length", bnb, "half a byte", {{".weight", "U8", "[500,1]", 500, 0}}},
    {"bitsandbytes with a state that is no JSON",
     bnb,
     "quant_state",
     {{".weight", "U8", "[512,1]", 512, 0}, {".weight.quant_state.bitsandbytes__nf4", "U8", "[4]", 4, '{'}}},
    {"int8 without SCB", bnb, "SCB", {{".weight", "I8", "[16,64]", 1024, 0}}},
    {"int8 with few SCB", bnb, "SCB", {{".weight", "I8", "[16,64]", 1024, 0}, {".SCB", "F32", "[8]", 32, 0}}},
    {"int8 with SCB that is NaN",
     bnb,
     "not finite",
     {{".weight", "I8", "[16,64]", 1024, 0}, {".SCB", "F32", "[16]", 64, 0xff}}},
    {"bytes where none are configured", "{}", "bitsandbytes writes it", {{".weight", "U8", "[512,1]", 512, 0}}},
    {"floats that are NaN", "{}", "not finite", {{".weight", "F32", "[16,64]", 4096, 0xff}}},
    {"floats that are infinite", "{}", "not finite", {{".weight", "F16", "[16,64]", 2048, 0x7c}}},
    {"floats of another shape", "{}", "64 x 16", {{".weight", "F16", "[64,16]", 2048, 0}}},
    {"floats of eight bytes", "{}", "F64", {{".weight", "F64", "[16,64]", 8192, 0}}},
};

static void write_lie(const char *dir, const struct lie *l)
{
    static char data[16384];
    char header[4096] = "{" EMBED;
    size_t at = strlen(header), from = 8;
    memset(data, 0, 8);
    for (int i = 0; i < PARTS && l->part[i].suffix; i++) {
        const struct part *p = &l->part[i];
        at += (size_t)snprintf(header + at, sizeof header - at,
                               ",\"" STEM "%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", p->suffix,
                               p->dtype, p->shape, from, from + (size_t)p->bytes);
        memset(data + from, p->fill, (size_t)p->bytes);
        from += (size_t)p->bytes;
    }
    snprintf(header + at, sizeof header - at, "}");
    room_text(dir, "config.json", l->config);
    room_st_raw(dir, "model.safetensors", header, data, from);
}

/* Opens the module and reads all its rows. */
static int read_module(const struct source *s, struct err *e)
{
    static float f[64], d[2], z[2];
    static uint8_t q[64];
    struct source_matrix m;
    int rc = 0;
    if (source_matrix(s, &(struct spot){.at = AT_DOWN}, 16, 64, &m, e)) return -1;
    for (int r = 0; r < 16 && !rc; r++) rc = m.src.read(&m.src, r, &(struct weight_row){f, q, d, z}, e);
    source_matrix_close(&m);
    return rc;
}

static void test_a_quantized_module_that_lies_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        char dir[64];
        struct source *s;
        struct err e = {0};
        room_new(dir);
        write_lie(dir, &lies[i]);
        if (source_open(&s, dir, &e)) fail_msg("%s: %s", lies[i].what, e.msg);
        int rc = read_module(s, &e);
        if (lies[i].word)
            expect_refusal(rc, &e, lies[i].word, lies[i].what);
        else if (rc)
            fail_msg("%s: %s", lies[i].what, e.msg);
        source_close(s);
        room_end(dir);
    }
}

/* The state of NF4 is JSON within the tensors: each of its numbers may lie. */
static void test_a_state_of_bitsandbytes_that_lies_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *state, *word;
    } rows[] = {
        {"{\"blocksize\":64,\"shape\":[16,64]}", NULL},
        {"{\"blocksize\":64,\"shape\":[64,16]}", "64 x 16"},
        {"{\"blocksize\":64}", "quant_state says"},
        {"{\"blocksize\":0,\"shape\":[16,64]}", "blocksize of 0"},
        {"{\"blocksize\":48,\"shape\":[16,64]}", "blocksize of 48"},
        {"{\"blocksize\":16,\"shape\":[16,64]}", "blocksize of 16"},
        {"{\"blocksize\":128,\"shape\":[16,64]}", "8 are needed"},
        {"{\"blocksize\":64,\"shape\":[16,64],\"nested_blocksize\":0}", "nested_blocksize 0"},
        {"{\"blocksize\":64,\"shape\":[16,64],\"nested_blocksize\":256,\"nested_offset\":1}", "nested"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char dir[64], header[2048], data[8 + 512 + 64 + 64 + 256] = {0};
        size_t n = strlen(rows[i].state);
        struct source *s;
        struct err e = {0};
        snprintf(
            header, sizeof header,
            "{" EMBED ",\"" STEM ".weight\":{\"dtype\":\"U8\",\"shape\":[512,1],\"data_offsets\":[8,520]},\"" STEM
            ".weight.absmax\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[520,584]},\"" STEM
            ".weight.quant_map\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[584,648]},\"" STEM
            ".weight.quant_state.bitsandbytes__nf4\":{\"dtype\":\"U8\",\"shape\":[%zu],\"data_offsets\":[648,%zu]}}",
            n, 648 + n);
        memcpy(data + 648, rows[i].state, n);
        room_new(dir);
        room_text(dir, "config.json", bnb);
        room_st_raw(dir, "model.safetensors", header, data, 648 + n);
        if (source_open(&s, dir, &e)) fail_msg("%s", e.msg);
        int rc = read_module(s, &e);
        if (rows[i].word)
            expect_refusal(rc, &e, rows[i].word, rows[i].state);
        else if (rc)
            fail_msg("%s: %s", rows[i].state, e.msg);
        source_close(s);
        room_end(dir);
    }
}

/* --- GGUF --- */

static void test_a_gguf_of_other_shapes_or_types_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        int rows, type, n, k;
        const char *word;
    } rows[] = {
        {"qwen3", 32, 0, 32, 64, "32 x 64 is needed"},
        {"qwen3", 32, 0, 16, 32, "16 x 32 is needed"},
        {"qwen3", 32, 24, 32, 32, "I8"},
        {"llama", 30, 0, 30, 32, "head_count"},
        {"llama", 4, 0, 4, 32, "head_count"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct room_tensor t[] = {{"blk.0.attn_q.weight", {rows[i].rows, 32}}, {NULL, {0}}};
        char dir[64], path[128];
        struct source *s;
        struct source_matrix m;
        struct err e = {0};
        room_new(dir);
        room_gguf(dir, "model.gguf", rows[i].arch, t, rows[i].type);
        snprintf(path, sizeof path, "%s/model.gguf", dir);
        if (source_open(&s, path, &e)) fail_msg("%s", e.msg);
        expect_refusal(source_matrix(s, &(struct spot){.at = AT_Q}, rows[i].n, rows[i].k, &m, &e), &e, rows[i].word,
                       rows[i].word);
        source_close(s);
        room_end(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_directory_that_lies_is_refused_by_name),
        cmocka_unit_test(test_what_is_no_model_is_told_apart),
        cmocka_unit_test(test_what_stands_in_a_models_place_is_named),
        cmocka_unit_test(test_damaged_headers_are_never_read_beyond),
        cmocka_unit_test(test_a_quantized_module_that_lies_is_refused_by_name),
        cmocka_unit_test(test_a_state_of_bitsandbytes_that_lies_is_refused),
        cmocka_unit_test(test_a_gguf_of_other_shapes_or_types_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
