/* Private to kernels/: how panels are filled and read back, one row of a table per layout, and where weights get their
 * memory. */
#pragma once
#include "kernels/weight.h"

#define Q8_GROUP_BYTES (PANEL * 2 + PANEL * GROUP)
#define Q4_GROUP_BYTES (PANEL * 4 + PANEL * GROUP / 2)

/* Fill panel `panel` (zeroed memory) from the source rows row[0..count). Returns -1 when a scale is not finite. */
typedef int pack_panel_fn(void *panel, enum tensor_type type, const char *const *row, int count, int k);

int pack_panel_f32(void *panel, enum tensor_type type, const char *const *row, int count, int k);
int pack_panel_bf16(void *panel, enum tensor_type type, const char *const *row, int count, int k);
int pack_panel_q8(void *panel, enum tensor_type type, const char *const *row, int count, int k);
int pack_panel_q4(void *panel, enum tensor_type type, const char *const *row, int count, int k);

/* Output `o` of a panel, inputs 0..k, as float32. */
void unpack_row_f32(const void *panel, int o, int k, float *out);
void unpack_row_bf16(const void *panel, int o, int k, float *out);
void unpack_row_q8(const void *panel, int o, int k, float *out);
void unpack_row_q4(const void *panel, int o, int k, float *out);

/* Inputs k0 .. k0+count-1 of output o of a panel (all multiples of GROUP for quantized layouts, of 2 for the others).
 */
void weight_part(const struct weight *w, int panel, int o, int k0, int count, float *out);

/* One element of an unquantized source. */
float tensor_element(enum tensor_type type, const void *src, size_t i);

/* Memory shared by weights: bytes of zeroed memory, 64-byte aligned, taken out of *block. NULL: out of memory. */
void *block_take(size_t bytes, void **block);
void block_drop(void *block);
