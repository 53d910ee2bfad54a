/* model_keep: the work that may wait until the engine is ready.
 *
 *     first start of a base      packed into memory -> ready -> keeper: copy written -> (the next start)
 *     next start, copy there     mapped, verified   -> ready -> keeper: weights moved into 2 MB pages
 *
 * A copy holds what source_pack() takes from the original (keys, texts, vectors) and the matrices from the model in memory, so what the next
 * start maps are the very bytes that this one computes with. The files are compared with what they were when they were opened after all
 * was taken from them: a base that somebody replaces during the start is not copied under the old one's name.
 *
 * Nobody waits for this thread and it waits for the disk, so it runs with the lowest ordinary priority. What goes wrong is logged and costs
 * the next start its time; the file appears whole or not at all (packed_write.c), also when the process is killed.
 *
 * keeper_stop() ends it between two matrices or chunks. */
#include "engine/model_keep.h"
#include "base/clock.h"
#include "base/log.h"
#include "engine/packed.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define NICE 19
#define COPY_OVERHEAD ((int64_t)64 << 20) /* of a copy besides its matrices: vocabulary, vectors, index */

struct model_keeper {
    pthread_t thread;
    atomic_bool stop;
    const struct model *m; /* of a copy; NULL: move */
    struct source *source; /* own for a copy */
    struct cache *cache;
    char key[SHA256_HEX];
};

/* --- a copy --- */

struct copy {
    struct model_keeper *k;
    struct packed_writer *w;
    struct err *e;
};

static int put(const struct copy *c, enum place at, int layer, int expert, const struct weight *w)
{
    char name[SOURCE_PLACE_MAX];
    if (!w->n) return 0;
    if (atomic_load(&c->k->stop)) return err_set(c->e, ERR_UNAVAILABLE, "the engine is stopping");
    source_place_name(&(struct spot){.at = at, .layer = layer, .expert = expert}, name);
    return packed_writer_add_weight(c->w, name, w, c->e);
}

static int put_layer(const struct copy *c, int l)
{
    const struct model_layer *from = &c->k->m->layer[l];
    for (int i = 0; i < LORA_MODULES; i++)
        if (put(c, (enum place)(AT_Q + i), l, 0, &from->module[i])) return -1;
    if (put(c, AT_ROUTER, l, 0, &from->router)) return -1;
    for (int x = 0; from->expert && x < c->k->m->experts; x++)
        for (int i = 0; i < 3; i++)
            if (put(c, (enum place)(AT_EXPERT_GATE + i), l, x, &from->expert[x].part[i])) return -1;
    return 0;
}

static int put_all(const struct copy *c)
{
    const struct model *m = c->k->m;
    if (source_pack(c->k->source, c->w, c->e) || put(c, AT_EMBED, 0, 0, &m->embed)) return -1;
    if (m->head == &m->head_own && put(c, AT_HEAD, 0, 0, &m->head_own)) return -1;
    for (int l = 0; l < m->layers; l++)
        if (put_layer(c, l)) return -1;
    return 0;
}

static int finish(const struct copy *c)
{
    if (!source_unchanged(c->k->source))
        return err_set(c->e, ERR_MODEL, "the base's files changed while they were read");
    json_t *meta =
        json_pack("{s:s, s:s, s:s}", "program", "weft-engine", "base", c->k->m->desc.digest, "key", c->k->key);
    int rc =
        meta ? packed_writer_finish(c->w, meta, c->e) : err_set(c->e, ERR_NO_MEMORY, "no memory for a description");
    json_decref(meta);
    return rc;
}

static void write_copy(struct model_keeper *k)
{
    struct err e = {0};
    struct copy c = {.k = k, .e = &e};
    char path[CACHE_PATH_MAX];
    int64_t t0 = clock_mono_us();
    cache_copy_path(k->cache, k->key, path);
    bool good = cache_copy_room(k->cache, (int64_t)k->m->weight_bytes + COPY_OVERHEAD, &e) == 0 &&
                packed_writer_new(&c.w, path, &e) == 0 && put_all(&c) == 0 && finish(&c) == 0;
    packed_writer_free(c.w);
    source_close(k->source);
    k->source = NULL;
    if (good)
        log_info("cache_written", LS("file", path), LI("bytes", (int64_t)k->m->weight_bytes),
                 LI("ms", (clock_mono_us() - t0) / 1000));
    else
        log_warn("cache_not_written", LS("file", path), LS("why", e.msg));
}

/* --- the thread --- */

static void *keep(void *u)
{
    struct model_keeper *k = u;
    pthread_setname_np(pthread_self(), "keeper");
    setpriority(PRIO_PROCESS, 0, NICE); /* Linux: of this thread */
    if (k->m)
        write_copy(k);
    else
        source_move(k->source, &k->stop);
    return NULL;
}

static struct model_keeper *start(const struct model_keeper *with)
{
    struct model_keeper *k = malloc(sizeof *k);
    if (k) *k = *with;
    if (!k || pthread_create(&k->thread, NULL, keep, k)) {
        log_warn("no_keeper", LS("why", "no thread or memory"));
        free(k);
        return NULL;
    }
    return k;
}

struct model_keeper *keeper_copy(const struct model *m, struct source *original, struct cache *c,
                                 const char key[SHA256_HEX])
{
    struct model_keeper with = {.m = m, .source = original, .cache = c};
    memcpy(with.key, key, sizeof with.key);
    struct model_keeper *k = start(&with);
    if (!k) source_close(original);
    return k;
}

struct model_keeper *keeper_move(struct source *packed)
{
    return start(&(struct model_keeper){.source = packed});
}

void keeper_stop(struct model_keeper *k)
{
    if (!k) return;
    atomic_store(&k->stop, true);
    pthread_join(k->thread, NULL);
    free(k);
}
