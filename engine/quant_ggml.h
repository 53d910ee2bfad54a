/* ggml's tensor types as rows of codes (kernels/weight.h): which of them are served, and a source over one matrix of a GGUF file.
 *
 * Every decoder gives exactly the float32 values of ggml's own dequantization. Private to source*.c. */
#pragma once
#include "engine/source.h"

/* A matrix [n][k] of ggml's type number `type` whose rows begin at `data`, which is as long as shape and type say and outlives *out.
 * `label` is for messages. ERR_MODEL for a type that isn't served. */
int ggml_source(struct source_matrix *out, int type, const void *data, int n, int k, const char *label, struct err *e);
bool ggml_is_float(int type);                /* F32, F16, BF16 */
int64_t ggml_row_bytes(int type, int64_t k); /* 0: not served, or k doesn't fit its blocks */
