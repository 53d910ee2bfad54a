/* Private to kernels/: how rows are put into panels and read back, and where weights get their memory. */
#pragma once
#include "kernels/weight.h"

#define N_MAX (1 << 24) /* outputs */
#define K_MAX (1 << 20) /* inputs */

/* Bytes of a group of 32 inputs in a panel. */
#define Q8_GROUP_BYTES (PANEL * 2 + PANEL * GROUP)
#define Q4_GROUP_BYTES (PANEL * 4 + PANEL * GROUP / 2)
#define Q8F_GROUP_BYTES (PANEL * 4 + PANEL * GROUP)
#define Q4Z_GROUP_BYTES (PANEL * 5 + PANEL * GROUP / 2)
#define T4_GROUP_BYTES (PANEL * 4 + PANEL * GROUP / 2)
#define F8_GROUP_BYTES (PANEL * 4 + PANEL * GROUP)
#define Q2_GROUP_BYTES (PANEL * 4 + PANEL * GROUP / 4)

#define S24_UNIT 16                             /* inputs */
#define S24_MASKS 64                            /* bytes of their masks, before the values */
#define S24_UNIT_BYTES (S24_MASKS + PANEL * 16) /* of a panel */

/* What a matrix loses on its way into a layout. */
struct rounding {
    bool allowed;              /* scales may be rounded; where not, a row that needs it does not fit */
    bool any;                  /* a value was rounded */
    float d, d_error, m_error; /* the largest scale and the largest errors so far */
};

/* Put a row into output `o` of a panel (zeroed memory); false: it does not fit. */
typedef bool put_row_fn(void *panel, int o, const struct weight_row *row, int k, struct rounding *r);

put_row_fn put_f32, put_bf16;                                                        /* pack_dense.c */
put_row_fn put_s24;                                                                  /* pack_sparse.c */
put_row_fn put_q8, put_q8f, put_q4, put_q4_of_zero, put_q4z, put_q2, put_t4, put_f8; /* pack_quant.c */

/* Output `o` of a panel of w (a part of one: k inputs from `panel` on), as float32. */
typedef void unpack_row_fn(const struct weight *w, const void *panel, int o, int k, float *out);

unpack_row_fn unpack_f32, unpack_bf16, unpack_s24;
unpack_row_fn unpack_q8, unpack_q8f, unpack_q4, unpack_q4z, unpack_q2, unpack_t4, unpack_f8;

/* A group of 32 inputs of LAYOUT_S24 as float32, out[32 inputs][32 outputs]: for tables in EXACT. */
void group_s24(const struct weight *w, const uint8_t *group, float *out);

/* What FAST multiplies of a LAYOUT_T4 weight's table. */
void table_coarse(struct weight *w);

/* Inputs k0 .. k0+count-1 of output o of a panel (all multiples of GROUP for quantized layouts, of 2 for the others).
 */
void weight_part(const struct weight *w, int panel, int o, int k0, int count, float *out);

/* Shape and sizes; w->data is not touched. -1: the layout does not hold the shape. */
int weight_shape(struct weight *w, enum layout layout, int n, int k, const char *format, struct err *e);

/* Pack a coded source into layout `to`, or LAYOUT_AUTO: what its kind has for it. */
int pack_codes(struct weight *w, const struct weight_source *src, const int *row_of, enum precision prec, int to,
               bool *requantized, struct err *e);

/* Room for a row of k inputs in one block; room->f is what to free. */
int row_room(struct weight_row *room, int k, struct err *e);

/* Read a row and check it: codes and scales in the kind's range. k inputs. */
int row_read(const struct weight_source *src, int row, struct weight_row *out, struct err *e);

/* The float32 values that a row's codes stand for, into row->f. */
void row_values(const struct weight_source *src, struct weight_row *row);

/* One element of an unquantized source. */
float tensor_element(enum tensor_type type, const void *src, size_t i);

/* Memory shared by weights: bytes of zeroed memory, 64-byte aligned, taken out of *block. NULL: out of memory. */
void *block_take(size_t bytes, void **block);
void block_drop(void *block);
