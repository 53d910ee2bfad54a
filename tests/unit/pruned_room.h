/* A folder for checkpoints that tests write, and what a model in it answers: for tests of bases that were pruned, made of the tiny llama3 of
 * tests/golden/families. */
#pragma once
#include "base/json.h"
#include "base/log.h"
#include "engine/evaluate.h"
#include "tests/unit/tables.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define BASE "tests/golden/families/llama3"
#define HIDDEN 64
#define DIM 16
#define HEADS 4
#define KV 2
#define MLP 96
#define LAYERS 2
#define TOKENS 40

static char room[] = "/tmp/weft-prune-XXXXXX";

static inline int make_room(void **state)
{
    (void)state;
    log_init("test", LOG_ERROR);
    json_start();
    return mkdtemp(room) ? 0 : -1;
}

static inline void at_room(const char *name, char out[256])
{
    snprintf(out, 256, "%s/%s", room, name);
}

/* A directory of this test, without the folders in it. */
static inline void drop_dir(const char *name)
{
    static const char *const files[] = {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json",
                                        "generation_config.json", "adapter_config.json", "adapter_model.safetensors"};
    char dir[256], path[400];
    at_room(name, dir);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    if (rmdir(dir)) fail_msg("%s holds something else", dir);
}

static inline int drop_room(void **state)
{
    (void)state;
    return rmdir(room); /* fails where a test left something behind */
}

static inline void or_fail(int rc, const struct err *e)
{
    if (rc) fail_msg("%s", e->msg);
}

/* --- logits --- */

static inline struct model *open_model(const char *name, enum precision prec)
{
    struct model *m = NULL;
    struct err e = {0};
    char path[256];
    at_room(name, path);
    or_fail(model_load(&m, path, NULL, prec, 0, &e), &e);
    return m;
}

struct logits {
    float *at;
    int vocab;
};

static inline void keep_logits(void *u, int first, int count, const float *logits)
{
    struct logits *l = u;
    memcpy(l->at + (size_t)first * (size_t)l->vocab, logits, (size_t)count * (size_t)l->vocab * sizeof *logits);
}

/* Of every position but the last. */
static inline float *logits_of(const struct model *m)
{
    struct err e = {0};
    struct evaluator *v;
    int32_t token[TOKENS];
    struct logits l = {calloc(TOKENS * (size_t)m->vocab, sizeof(float)), m->vocab};
    for (int i = 0; i < TOKENS; i++) token[i] = (i * 37 + i * i * 11) % m->tokens;
    or_fail(evaluator_new(&v, m, kernels_pick(current_table, m->prec), 2, TOKENS, &e), &e);
    evaluator_window(v, token, TOKENS, keep_logits, &l);
    evaluator_free(v);
    return l.at;
}
