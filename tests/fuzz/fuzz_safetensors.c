/* A safetensors file: what is taken has sorted names, tensors of their dtype's and shape's size that tile the data, all of it readable; written again from
 * what was read it is taken with the same tensors. */
#include "adapters/safetensors.h"
#include "base/buf.h"
#include "tests/fuzz/fuzz.h"

static void check_tensor(const struct st_file *f, int i)
{
    const struct st_tensor *t = &f->tensor[i];
    int64_t elements = t->dim[0] * (t->ndim == 2 ? t->dim[1] : 1);
    FUZZ_NEED((t->ndim == 1 || t->ndim == 2) && t->bytes == (size_t)elements * st_dtype_bytes(t->dtype));
    FUZZ_NEED(i == 0 || strcmp(f->tensor[i - 1].name, t->name) < 0);
    FUZZ_NEED(st_find(f, t->name) == t && (uintptr_t)t->data % st_dtype_bytes(t->dtype) == 0);
    int64_t beyond = st_first_beyond(t);
    FUZZ_NEED(beyond >= -1 && beyond < elements);
    for (int64_t k = 0; k < elements; k++) {
        float v = st_get(t, k);
        bool fine = v >= -ST_VALUE_MAX && v <= ST_VALUE_MAX;
        FUZZ_NEED(fine || (beyond >= 0 && beyond <= k));
        FUZZ_NEED(!fine || k != beyond);
    }
}

static void write_again(const struct st_file *f, struct buf *out)
{
    struct buf head;
    uint64_t at = 0;
    buf_init(&head, 1u << 24);
    buf_addc(&head, '{');
    for (int i = 0; i < f->ntensors; i++) {
        const struct st_tensor *t = &f->tensor[i];
        buf_addf(&head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", i ? "," : "", t->name, st_dtype_name(t->dtype), (long long)t->dim[0]);
        if (t->ndim == 2) buf_addf(&head, ",%lld", (long long)t->dim[1]);
        buf_addf(&head, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + t->bytes));
        at += t->bytes;
    }
    buf_addc(&head, '}');
    uint64_t n = head.len;
    buf_add(out, &n, sizeof n);
    buf_add(out, head.data, head.len);
    for (int i = 0; i < f->ntensors; i++) buf_add(out, f->tensor[i].data, f->tensor[i].bytes);
    buf_close(&head);
}

static void compare(const struct st_file *f, const struct st_file *g)
{
    FUZZ_NEED(f->ntensors == g->ntensors);
    for (int i = 0; i < f->ntensors; i++) {
        const struct st_tensor *a = &f->tensor[i], *b = &g->tensor[i];
        FUZZ_NEED(!strcmp(a->name, b->name) && a->dtype == b->dtype && a->ndim == b->ndim && a->dim[0] == b->dim[0] && a->bytes == b->bytes);
        FUZZ_NEED(!a->bytes || !memcmp(a->data, b->data, a->bytes));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct st_file *f = NULL, *again = NULL;
    struct err e = {0};
    struct buf out;
    char path[96];
    fuzz_put("adapter_model.safetensors", data, n, path);
    if (st_open(&f, path, &e)) {
        FUZZ_NEED(e.code == ERR_ADAPTER_INVALID && e.msg[0] && !f);
        return 0;
    }
    FUZZ_NEED(f->file_bytes == n && f->ntensors >= 0 && !st_find(f, "no such tensor"));
    for (int i = 0; i < f->ntensors; i++) check_tensor(f, i);
    buf_init(&out, 1u << 24);
    write_again(f, &out);
    fuzz_put("again", out.data, out.len, path);
    FUZZ_NEED(st_open(&again, path, &e) == 0);
    unlink(path);
    compare(f, again);
    st_close(f);
    st_close(again);
    buf_close(&out);
    return 0;
}
