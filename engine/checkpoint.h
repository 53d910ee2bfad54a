/* Writing a Hugging Face directory: one model.safetensors and the text files beside it. Format: safetensors' README (an
 * 8-byte length, a JSON header that may end in spaces, the tensors one behind the other).
 *
 * The header stands before the tensors and is known after them, so room for it is left and filled with spaces. Everything is written
 * under other names and renamed at the end: an unfinished directory has no model.safetensors and is removed. */
#pragma once
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

#define CHECKPOINT_DIMS 2

struct checkpoint;

/* dir: must not exist yet; its parent must. tensors: at most so many will be added. ERR_USAGE, ERR_IO, ERR_NO_MEMORY. */
int checkpoint_new(struct checkpoint **out, const char *dir, int tensors, struct err *e);
/* dtype as safetensors spells it ("BF16", "U8", "I64"); ndim 1 or 2; `bytes` long. */
int checkpoint_add(struct checkpoint *c, const char *name, const char *dtype, const int64_t dim[CHECKPOINT_DIMS], int ndim,
                   const void *data, size_t bytes, struct err *e);
/* A text file beside it: "config.json". */
int checkpoint_text(struct checkpoint *c, const char *name, const char *text, size_t len, struct err *e);
/* Synced and renamed: now it is a checkpoint. */
int checkpoint_finish(struct checkpoint *c, struct err *e);
/* NULL is fine; one that was not finished is removed. */
void checkpoint_free(struct checkpoint *c);
