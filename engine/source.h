/* Where a model comes from: a GGUF file, a Hugging Face directory, or a packed file of `weft-engine quantize`. One interface, so that
 * the loader (model.c) knows names of places, not of tensors.
 *
 * The file is mapped, read-only; everything borrowed from a source dies with it. Formats: GGUF as ggml's gguf.md; safetensors;
 * quantization_config of GPTQ, AWQ, bitsandbytes, fp8 and compressed-tensors as transformers and their own projects define them. What is
 * not served is refused with ERR_MODEL, naming the file, the tensor or key, and what would make it work. */
#pragma once
#include "base/err.h"
#include "base/json.h"
#include "engine/gguf.h"
#include "kernels/weight.h"
#include <stdatomic.h>
#include <stdbool.h>

#define SOURCE_SHARDS_MAX 1024
#define SOURCE_TENSORS_MAX (1 << 20)
#define SOURCE_LAYERS_MAX 4096
#define SOURCE_CONFIG_MAX (4u << 20) /* config.json */
#define SOURCE_INDEX_MAX (64u << 20) /* model.safetensors.index.json */
#define SOURCE_PLACE_MAX 64
#define SOURCE_FILE_MAX (256u << 20) /* tokenizer.json and the other text files */

struct source;
struct packed_writer;
struct cache;

enum source_kind { SOURCE_GGUF, SOURCE_HF, SOURCE_PACKED };

/* Places of tensors. Per layer unless said otherwise; the loader asks for those that its family has. */
enum place {
    AT_EMBED,      /* of the model: [vocab][hidden] */
    AT_HEAD,       /* of the model */
    AT_FINAL_NORM, /* of the model */
    AT_ROPE_FREQS, /* of the model: GGUF's divisors, [rotary/2] */
    AT_ROPE_LONG,
    AT_ROPE_SHORT, /* of the model: GGUF's longrope factors */
    AT_ATTN_NORM,
    AT_MLP_NORM,
    AT_ATTN_POST,
    AT_MLP_POST,
    AT_Q_NORM,
    AT_K_NORM,
    AT_Q,
    AT_K,
    AT_V,
    AT_O,
    AT_GATE,
    AT_UP,
    AT_DOWN, /* matrices, in the order of enum lora_module */
    AT_QKV,
    AT_GATE_UP, /* fused matrices (Phi-3): rows of q, then k, then v; of gate, then up */
    AT_ROUTER,
    AT_EXPERT_GATE,
    AT_EXPERT_UP,
    AT_EXPERT_DOWN, /* of one expert, however the file stores them */
    PLACES
};

struct spot {
    enum place at;
    bool bias;  /* the vector that goes with a matrix */
    int layer;  /* where it counts */
    int expert; /* AT_EXPERT_* */
};

/* PATH: a .gguf file, a directory with config.json, or a packed file; told apart by content. */
int source_open(struct source **out, const char *path, struct err *e);
void source_close(struct source *s); /* NULL is fine */
enum source_kind source_kind(const struct source *s);

/* SHA-256 that names the base, hex: of the GGUF or packed file (whose contents are checked against its index: ERR_MODEL); of a directory: over the sorted lines "name sha256" of config.json and
 * the weight files. */
int source_digest(const struct source *s, char hex[65], struct err *e);
/* From now on digests of files that did not change are taken from this cache, and new ones enter it. */
void source_use_cache(struct source *s, struct cache *c);
/* Names everything that a packed copy of this source depends on: SHA-256 over its digest and its text files, hex. */
void source_identity(const struct source *s, const char digest[65], char hex[65]);
/* Are all files at their paths still those that were opened? What was read from them in between belongs together then. */
bool source_unchanged(const struct source *s);
/* [packed files] every entry's contents against its SHA-256 (ERR_MODEL); of other kinds nothing is checked. */
int source_verify(const struct source *s, struct err *e);

const struct gguf *
source_gguf(const struct source *s); /* NULL unless the metadata is a GGUF's (also for a packed file made of one) */
const json_t *
source_config(const struct source *s); /* config.json (its text_config where it is a composite); NULL for GGUF */
const json_t *source_config_root(const struct source *s); /* config.json itself: "architectures"; NULL for GGUF */
/* Whole text files of a directory, kept by packed files too: "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
 * "generation_config.json". Borrowed; false: there is none. */
bool source_file(const struct source *s, const char *name, const char **text, size_t *len);

/* A head that is tied and stored all the same, byte for byte, is not there. Norms are as the file has them: GGUF's converter has added 1
 * to Gemma's, Hugging Face's files want it added. */
bool source_has(const struct source *s, const struct spot *at);
/* The [n][k] that the file gives a matrix (of one expert), quantized or not; n = 0 and k the length of a vector (a norm, a bias). false: it
 * isn't there, or its stored form doesn't tell. */
bool source_shape(const struct source *s, const struct spot *at, int64_t *n, int64_t *k);
/* A matrix, ready to be packed. Rows of q and k come in Hugging Face's order, whatever the file's. `n` and `k` are what the shape
 * must be. *src is valid as long as the source; `room` owns what read() needs and is freed by source_matrix_close(). */
struct source_matrix {
    struct weight_source src;
    const int *row_of; /* or NULL: goes to weight_pack_source() */
    void *room;
};
int source_matrix(const struct source *s, const struct spot *at, int n, int k, struct source_matrix *out,
                  struct err *e);
void source_matrix_close(struct source_matrix *m);
/* A vector of n floats (norms, biases), malloc'ed. */
int source_vector(const struct source *s, const struct spot *at, int n, float **out, struct err *e);
/* [packed files] the weight as it was packed, adopted from the map: false when this source gives rows instead. */
bool source_weight(const struct source *s, const struct spot *at, struct weight *out);

/* [packed files] meta data; its weights moved into 2 MB pages, and how many bytes were (packed.h). */
const json_t *source_meta(const struct source *s);
void source_move(struct source *s, const atomic_bool *stop);
size_t source_moved(const struct source *s);

/* Fail closed: ERR_MODEL naming a tensor that nobody asked for and that isn't known to be harmless (rotary inv_freq buffers and the like).
 * Called once everything was taken. */
int source_all_used(const struct source *s, struct err *e);

/* --- writing packed files --- */

/* What a packed file calls a place: "embed", "layers.3.q", "layers.3.q.bias", "layers.3.experts.7.down". */
void source_place_name(const struct spot *at, char out[SOURCE_PLACE_MAX]);
/* Add all of `s` but its matrices: metadata, text files, and every vector as source_vector() gives it. The matrices are the caller's to
 * add, q, k, v and gate, up apart, under their places' names; the file then opens as a source that gives the same metadata. */
int source_pack(const struct source *s, struct packed_writer *w, struct err *e);
