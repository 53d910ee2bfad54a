/* What is done for a model's memory after the start, by one thread of low priority, while the model is served: write the packed copy that the
 * next start will map, or move the weights of a mapped file into 2 MB pages.
 *
 * Private to engine/model*.c. */
#pragma once
#include "engine/cache.h"
#include "engine/model.h"
#include "engine/source.h"

struct model_keeper;

/* A model from this source, which is the model's afterwards where it is a packed file and else remains the caller's. digest NULL: the
 * source's own. In model.c. */
int model_from_source(struct model **out, struct source *s, const char *path, const char *digest,
                      const struct model_options *o, struct err *e);

/* Write a copy of m to the cache's file of that key; `original` is what m was loaded from and is closed at the end. Nothing is written where
 * the files of the original changed in the meantime. NULL: no thread or memory, logged. */
struct model_keeper *keeper_copy(const struct model *m, struct source *original, struct cache *c,
                                 const char key[SHA256_HEX]);
/* Move the mapped weights of a packed file. */
struct model_keeper *keeper_move(struct source *packed);
/* Stops it where it is; a copy that is not finished leaves nothing. NULL is fine. */
void keeper_stop(struct model_keeper *k);
