/* model_open: the base itself, or its packed copy from the cache.
 *
 *     source_open(PATH) -> digest (remembered, where no file changed) -> key -> a copy under that key?
 *         there:      opened, verified whole, loaded   -> served from the map
 *         not there:  loaded from the source           -> copy written by the keeper, after the start
 *         damaged:    said, dropped, and as if it was not there
 *
 * The key is a SHA-256 over everything that decides what a copy holds: the base's digest, its text files, the precision, and this program's own
 * file. With the program in it nobody has to remember to raise a number when a layout or a decoder changes: another program's copies are
 * simply not found, and go as the longest unused. The copy says its key too, so one that was renamed is not taken for another.
 *
 * A packed file that was given as the model is a copy already: it only gets its digest remembered and its weights moved.
 *
 * One thread, at load. */
#include "base/log.h"
#include "engine/model_keep.h"
#include "engine/packed.h"
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void key_of(const struct source *s, const char *digest, const struct model_options *o, char key[SHA256_HEX])
{
    char identity[SHA256_HEX], text[512];
    uint8_t sum[SHA256_BYTES];
    source_identity(s, digest, identity);
    int n = snprintf(text, sizeof text, "weft packed copy\n%s\n%s\n%s\n", identity,
                     o->prec == PREC_EXACT ? "exact" : "fast", cache_program(o->cache));
    sha256_of(text, (size_t)n, sum);
    sha256_hex(sum, key);
}

/* --- the copy --- */

static int check_key(const struct source *copy, const char *key, struct err *e)
{
    const char *says = json_string_value(json_object_get(source_meta(copy), "key"));
    return says && strcmp(says, key) == 0 ? 0 : err_set(e, ERR_MODEL, "it is the copy of something else");
}

/* 0: loaded; -1: there is none, or none that can be used. */
static int load_copy(struct model **out, const char *path, const char *digest, const char *key,
                     const struct model_options *o)
{
    char file[CACHE_PATH_MAX];
    struct source *copy = NULL;
    struct err e = {0};
    cache_copy_path(o->cache, key, file);
    if (access(file, F_OK)) return -1;
    int rc = source_open(&copy, file, &e);
    if (rc == 0 && source_kind(copy) != SOURCE_PACKED) rc = err_set(&e, ERR_MODEL, "it is no packed file");
    if (rc == 0) rc = check_key(copy, key, &e) || source_verify(copy, &e) ? -1 : 0;
    if (rc == 0) rc = model_from_source(out, copy, path, digest, o, &e);
    if (rc) {
        log_warn("cache_refused", LS("file", file), LS("why", e.msg));
        source_close(copy);
        unlink(file);
        return -1;
    }
    (*out)->copied = true;
    cache_copy_used(o->cache, file);
    return 0;
}

/* --- either --- */

static int load_original(struct model **out, struct source *s, const char *path, const char *digest, const char *key,
                         const struct model_options *o, struct err *e)
{
    bool packed = source_kind(s) == SOURCE_PACKED;
    if (model_from_source(out, s, path, digest, o, e)) {
        source_close(s);
        return -1;
    }
    if (key)
        (*out)->keeper = keeper_copy(*out, s, o->cache, key);
    else if (!packed)
        source_close(s);
    return 0;
}

int model_open(struct model **out, const char *path, const struct model_options *o, struct err *e)
{
    char digest[SHA256_HEX], key[SHA256_HEX];
    struct source *s;
    if (source_open(&s, path, e)) return -1;
    bool packed = source_kind(s) == SOURCE_PACKED, cached = o->cache && !packed;
    source_use_cache(s, o->cache);
    if (cached) {
        if (source_digest(s, digest, e)) {
            source_close(s);
            return -1;
        }
        key_of(s, digest, o, key);
    }
    if (cached && load_copy(out, path, digest, key, o) == 0)
        source_close(s);
    else if (load_original(out, s, path, cached ? digest : NULL, cached ? key : NULL, o, e))
        return -1;
    if ((*out)->from && !o->keep_mapped) (*out)->keeper = keeper_move((*out)->from);
    return 0;
}

void model_memory(const struct model *m, struct model_memory *out)
{
    size_t moved = m->from ? source_moved(m->from) : 0;
    *out = (struct model_memory){.from = !m->from ? "packed" : m->copied ? "copy" : "file", .weights = m->weight_bytes};
    out->huge = !m->from || moved > m->weight_bytes ? m->weight_bytes : moved;
    out->mapped = m->weight_bytes - out->huge;
}
