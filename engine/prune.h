/* `weft-engine prune`: weights of a base that matter little become zeros, or whole heads and MLP channels go away.
 *
 * Methods: the magnitude of a weight; or Wanda's (Sun, Liu, Bair, Kolter, "A Simple and Effective Pruning Approach for Large Language
 * Models", 2023): |W[o][i]| ||x[i]||, where ||x[i]|| is the norm of that input over a calibration text. Both are compared within an output
 * row. Unlike the paper, all norms are taken in one pass of the unpruned model. */
#pragma once
#include "engine/model.h"

enum prune_pattern { PRUNE_NONE, PRUNE_24, PRUNE_LOOSE };

struct prune_options {
    const char *in, *out; /* out: a directory where `in` is one, else a packed file */
    bool wanda;
    enum prune_pattern pattern;
    double ratio;            /* PRUNE_LOOSE: of a row's weights that become zeros, 0 .. 0.99 */
    double width, heads;     /* of all MLP channels, of all groups of heads: what stays, 0.05 .. 1 */
    bool sparse;             /* 2:4 goes into a packed file in LAYOUT_S24, not as bf16 */
    bool zeros;              /* 2:4 is written as plain matrices with zeros, not as sparse-24-bitmask */
    const char *calibration; /* a text; NULL: magnitude */
    int tokens, context;     /* of the text; of a window */
    int threads;             /* 0: one per core */
    const char *kernels;
};

/* Logs what became of each layer. Errors: ERR_USAGE, ERR_MODEL, ERR_IO. Nothing is left behind on failure. */
int prune(const struct prune_options *o, struct err *e);

/* --- what prune*.c share, and tests --- */

/* Zeros in a row of k weights, by |w[i]| norm[i] (norm NULL: 1). 2:4: of each four inputs the two larger stay, k is a multiple of 4. Of
 * equals the first stays. */
struct prune_scored {
    float score;
    int at;
};
void prune_row(float *w, const float *norm, int k, enum prune_pattern pattern, double ratio,
               struct prune_scored *scratch /* [k] */);

/* Norms of the inputs of q (k, v), o, gate (up) and down over a text, layer by layer; a layer without the module has zeros. */
enum prune_input { INPUT_Q, INPUT_O, INPUT_GATE, INPUT_DOWN, PRUNE_INPUTS };
struct prune_norms {
    int k[PRUNE_INPUTS];       /* of the largest layer */
    float *norm[PRUNE_INPUTS]; /* [layers][k] */
};
int prune_calibrate(const struct prune_options *o, const struct model *m, struct prune_norms *out, struct err *e);
void prune_norms_close(struct prune_norms *n);

/* Which channels and groups of heads of a layer stay, ascending. A group: a key-value head with the heads that share it. */
struct prune_layer {
    int channels, groups;
    int *channel, *group;
};
/* Ranked over all layers, each against its own mean; as multiples of what kernels need, and never none. */
int prune_choose(const struct prune_options *o, const struct model *m, const struct prune_norms *norms,
                 struct prune_layer *out, struct err *e);
