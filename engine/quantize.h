/* `weft-engine quantize`: a model is read in whatever format it comes, its matrices are quantized to one type or to the
 * cheapest per layer, and written as a packed file (packed.h) that maps and starts at once. */
#pragma once
#include "engine/model.h"
#include "kernels/quantize.h"

struct quantize_options {
    const char *in, *out;
    const char *type;    /* a name of quant_types[], or "auto" */
    double max_kl;       /* auto: mean KL(unquantized || quantized) per token, at most */
    const char *text;    /* auto: what it is measured on */
    int tokens;          /* auto: of the text */
    int threads;         /* 0: one per core */
    const char *kernels; /* "auto", or a table's name (kernels/ops.h) */
};

/* Logs what became of each layer. Errors: ERR_USAGE (type, text), ERR_MODEL, ERR_IO. Nothing is left behind on failure. */
int quantize(const struct quantize_options *o, struct err *e);

/* --- what quantize*.c share --- */

/* The type of each layer, and of embedding and head. NULL: as it was loaded. */
struct quantize_plan {
    const struct quant_type **layer; /* [layers] */
    const struct quant_type *ends;
};

/* A matrix as it is packed, as a source of rows. *w must outlive it. */
void quantize_source(const struct weight *w, struct weight_source *out);

/* May this type replace what the model was loaded with? False where it would take more bytes. */
bool quantize_shrinks(const struct weight *w, const struct quant_type *t);

/* Fills plan->layer by measurement. */
int quantize_choose(const struct quantize_options *o, const struct model *m, struct quantize_plan *plan, struct err *e);
