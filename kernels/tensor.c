/* Tensors of the simple types as sources of rows: floats, and ggml's blocks of 32 inputs of one output: Q8_0 { f16 d;
 * int8 q[32] }, Q4_0 { f16 d; 16 bytes }, Q4_1 { f16 d; f16 m; 16 bytes }, where byte i of a 4-bit block holds input i
 * in its low half and input 16 + i in its high half. Q4_0 means d (q - 8).
 *
 * Files do not promise alignment: everything is read by bytes. */
#include "kernels/convert.h"
#include "kernels/pack.h"

static const struct {
    const char *name;
    int block; /* elements that share a block */
    int block_bytes;
    enum code_kind kind;
} types[] = {
    [T_F32] = {"F32", 1, 4, CODES_FLOAT},    [T_F16] = {"F16", 1, 2, CODES_FLOAT},
    [T_BF16] = {"BF16", 1, 2, CODES_FLOAT},  [T_Q8_0] = {"Q8_0", 32, 34, CODES_INT8},
    [T_Q4_0] = {"Q4_0", 32, 18, CODES_INT4}, [T_Q4_1] = {"Q4_1", 32, 20, CODES_AFFINE},
};

size_t tensor_bytes(enum tensor_type type, int64_t n, int64_t k)
{
    if (n < 1 || k < 1 || n > N_MAX || k > K_MAX || k % types[type].block) return 0;
    return (size_t)n * (size_t)(k / types[type].block) * (size_t)types[type].block_bytes;
}

static uint16_t read_u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

float tensor_element(enum tensor_type type, const void *src, size_t i)
{
    if (type == T_F16) return f32_of_f16(read_u16((const uint8_t *)src + i * 2));
    if (type == T_BF16) return f32_of_bf16(read_u16((const uint8_t *)src + i * 2));
    float f;
    memcpy(&f, (const char *)src + i * sizeof f, sizeof f);
    return f;
}

/* A loop per type, so that the compiler makes vectors of it: adapters are packed while the step wants the core. */
void tensor_to_f32(enum tensor_type type, const void *src, int64_t n, float *out)
{
    if (type == T_F32)
        memcpy(out, src, (size_t)n * sizeof *out);
    else if (type == T_BF16)
        for (int64_t i = 0; i < n; i++) out[i] = f32_of_bf16(read_u16((const uint8_t *)src + i * 2));
    else
        for (int64_t i = 0; i < n; i++) out[i] = tensor_element(type, src, (size_t)i);
}

struct tensor {
    enum tensor_type type;
    const char *bytes;
    size_t row_bytes;
};

static int read_floats(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct tensor *t = s->u;
    tensor_to_f32(t->type, t->bytes + (size_t)row * t->row_bytes, s->k, out->f);
    return 0;
}

static int read_q8_0(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct tensor *t = s->u;
    const uint8_t *block = (const uint8_t *)t->bytes + (size_t)row * t->row_bytes;
    for (int g = 0; g < s->k / GROUP; g++, block += types[T_Q8_0].block_bytes) {
        out->d[g] = f32_of_f16(read_u16(block));
        for (int i = 0; i < GROUP; i++) out->q[g * GROUP + i] = block[2 + i] ^ 0x80;
    }
    return 0;
}

static int read_q4(const struct weight_source *s, int row, struct weight_row *out, struct err *e)
{
    (void)e;
    const struct tensor *t = s->u;
    const uint8_t *block = (const uint8_t *)t->bytes + (size_t)row * t->row_bytes;
    for (int g = 0; g < s->k / GROUP; g++, block += types[t->type].block_bytes) {
        const uint8_t *nibbles = block + (t->type == T_Q4_1 ? 4 : 2);
        uint8_t *q = out->q + g * GROUP;
        out->d[g] = f32_of_f16(read_u16(block));
        out->z[g] = t->type == T_Q4_1 ? f32_of_f16(read_u16(block + 2)) : 8;
        for (int i = 0; i < GROUP / 2; i++) q[i] = nibbles[i] & 15, q[i + GROUP / 2] = nibbles[i] >> 4;
    }
    return 0;
}

int weight_pack(struct weight *w, enum tensor_type type, const void *src, int n, int k, const int *row_of,
                enum precision prec, struct err *e)
{
    struct tensor t = {type, src, tensor_bytes(type, 1, k)};
    struct weight_source s = {.kind = types[type].kind, .n = n, .k = k, .u = &t, .format = types[type].name};
    s.read = type <= T_BF16 ? read_floats : type == T_Q8_0 ? read_q8_0 : read_q4;
    if (k > 0 && k <= K_MAX && !t.row_bytes) /* no block ends where the row does */
        return err_set(e, ERR_MODEL, "a %s matrix with %d inputs: they must be a multiple of %d", types[type].name, k,
                       types[type].block);
    return weight_pack_source(w, &s, row_of, prec, LAYOUT_AUTO, NULL, e);
}
