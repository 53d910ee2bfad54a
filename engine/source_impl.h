/* Sources from inside: tensors of both worlds, names of places, and what the decoders of quantized formats lean on. Private to
 * source*.c and quant_*.c. */
#pragma once
#include "base/arena.h"
#include "engine/cache.h"
#include "engine/source.h"

#define TENSOR_NAME_MAX 256 /* bytes, NUL included */

/* safetensors' types; what a matrix or its companions may be made of. */
enum dtype {
    D_F32,
    D_F16,
    D_BF16,
    D_F64,
    D_I8,
    D_U8,
    D_I16,
    D_U16,
    D_I32,
    D_U32,
    D_I64,
    D_U64,
    D_BOOL,
    D_E4M3,
    D_E5M2,
    D_E8M0,
    DTYPES
};

struct tensor {
    const char *name;
    enum dtype dtype;
    int ndim;            /* dim[] holds the first four */
    int64_t dim[4];      /* row-major; 1 behind ndim */
    const uint8_t *data; /* not aligned to anything */
    size_t bytes;
    int64_t count; /* of elements */
    int shard;
};

struct mapped {
    char name[TENSOR_NAME_MAX];
    const uint8_t *p; /* NULL: there is no such file */
    size_t bytes;
    struct file_id id; /* when it was mapped */
};

enum quant_method { QM_NONE, QM_GPTQ, QM_AWQ, QM_BNB, QM_FP8, QM_CT, QM_COUNT };

/* quantization_config, as far as the tensors don't tell it themselves. */
struct quant_config {
    enum quant_method method;
    const char *word;     /* quant_method as the file spells it, or "" */
    bool plain;           /* the file says that nothing is packed (compressed-tensors' "dense") */
    bool zeros_minus_one; /* GPTQ, first format: zeros are stored less one */
    int block[2];         /* of weight_scale_inv, [rows][columns] */
};

struct source {
    enum source_kind kind;
    char path[512]; /* for messages, cut */
    struct gguf *g;
    struct arena *names; /* of tensors */
    struct mapped *shard;
    int nshards;
    struct tensor *tensor; /* sorted by name */
    int ntensors, tensor_room;
    bool *used; /* of tensor[], or of the GGUF's tensors: [gguf_tensors()] */
    struct mapped config_file;
    json_t *root;
    const json_t *config;
    struct mapped *file; /* text files, in the order of source_files[] */
    int world;           /* row of the prefixes of names */
    bool head_is_copy, head_is_embed;
    struct quant_config quant;
    bool *told; /* [TELLS]: what was logged once */
    struct packed *packed;
    struct file_id id; /* of `path`, taken before it was opened */
    struct cache *cache;
};

/* --- names (source_names.c) --- */

/* How the tensor of a name holds what the place asks for. */
enum form {
    FORM_MODULE, /* stem + ".weight" or what a quantized format has instead, stem + ".bias" */
    FORM_STACK,  /* the stem is the tensor: [experts][n][k] or [experts][k][n] */
    FORM_LOW,    /* the same of gate and up one behind the other, [experts][2n][k]: the first half of the rows */
    FORM_HIGH,   /* the second half */
};

struct located {
    char stem[TENSOR_NAME_MAX];
    enum form form;
};

/* Where the source keeps a place; false: nowhere. at->stem is then the name that was expected. */
bool names_locate(const struct source *s, const struct spot *at, struct located *out);
/* Which prefix the file's names have, the first where no embedding is found; called once all tensors are known. */
void names_world(struct source *s);
/* May this tensor be passed over? (rotary buffers; vision towers of a composite; scales of activations) */
bool names_harmless(const struct source *s, const char *name);

/* --- tensors of a Hugging Face directory --- */

const struct tensor *hf_find(const struct source *s, const char *name); /* NULL: absent; marks nothing */
/* stem + suffix, marked as used. NULL: absent. */
const struct tensor *hf_take(const struct source *s, const char *stem, const char *suffix);
int hf_config(struct source *s, const char *dir, struct err *e);
int hf_shards(struct source *s, const char *dir, struct err *e);
int hf_matrix(const struct source *s, const struct located *at, int expert, int n, int k, struct source_matrix *out,
              struct err *e);
int hf_vector(const struct source *s, const char *name, int n, float *out, struct err *e);
bool hf_shape(const struct source *s, const struct located *at, bool bias, int64_t *n, int64_t *k);

/* For a file that map_whole() did not find: -1 when something stands there all the same, empty or a link to nothing. */
int check_stands(const char *path, struct err *e);
/* Map a file: m->p, bytes and id. They are NULL and 0 when it's absent and `optional`, or empty. */
int map_whole(const char *path, bool optional, size_t max, struct mapped *m, struct err *e);
/* Read the header of one shard and append its tensors to s->tensor. */
int st_shard(struct source *s, int shard, struct err *e);
extern const char *const dtype_name[DTYPES];
extern const uint8_t dtype_bytes[DTYPES];

/* --- rows of floats --- */

/* n elements of a float tensor from element `from`, `stride` elements apart, as float32. -1: one of them is not finite. */
int floats_read(enum dtype t, const uint8_t *data, int64_t from, int64_t stride, int n, float *out);
/* One element of a tensor of scales (F32, F16, BF16, E8M0). */
float scale_at(const struct tensor *t, int64_t i);
bool dtype_is_float(enum dtype t); /* F32, F16, BF16 */

/* --- quantized modules (quant_*.c) --- */

/* What a decoder is given: the module and the shape it must have. */
struct module_of {
    const struct source *s;
    const char *stem;
    int n, k;
};

/* Open the module into out->src with out->room; each refuses what doesn't fit, by the tensor's name. */
typedef int quant_open(const struct module_of *m, struct source_matrix *out, struct err *e);
quant_open gptq_open, awq_open, bnb4_open, bnb8_open, fp8_open, ct_packed_open, ct_int_open, ct_sparse_open;

int quant_config_read(struct source *s, struct err *e);
/* 1: the module is quantized and was opened; 0: it is plain; -1: it is neither, or broken. */
int quant_matrix(const struct module_of *m, struct source_matrix *out, struct err *e);
/* At the end of a load: -1 where a method is configured and no matrix was stored by it. */
int quant_unseen(const struct source *s, struct err *e);
/* ERR_MODEL "path: stem: ..." */
int module_bad(const struct module_of *m, struct err *e, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The module's tensor of that suffix, marked as used; NULL with ERR_MODEL. */
const struct tensor *module_need(const struct module_of *m, const char *suffix, struct err *e);
/* Once per source and `bit`: a line in the log. */
void source_tell(const struct source *s, int bit, const char *event, const char *what);
enum { TELL_ACTIVATIONS, TELL_G_IDX, SAW_QUANTIZED, TELLS };

/* --- the two worlds behind one interface --- */

int gguf_matrix(const struct source *s, const struct spot *at, const struct located *where, int n, int k,
                struct source_matrix *out, struct err *e);
int gguf_vector(const struct source *s, const struct spot *at, const char *name, int n, float *out, struct err *e);
bool gguf_shape(const struct source *s, const struct located *at, bool bias, int64_t *n, int64_t *k);
int gguf_source_open(struct source *s, const char *path, struct err *e);

int packed_source_open(struct source *s, const char *path, struct err *e);
bool packed_source_has(const struct source *s, const struct spot *at);
bool packed_source_shape(const struct source *s, const struct spot *at, int64_t *n, int64_t *k);
bool packed_source_weight(const struct source *s, const struct spot *at, struct weight *out);
int packed_source_vector(const struct source *s, const struct spot *at, int n, float **out, struct err *e);
int packed_source_all_used(const struct source *s, struct err *e);
int config_read(struct source *s, const char *path, const char *text, size_t len, struct err *e);
extern const char *const source_text_files[];
#define TEXT_FILES 6
