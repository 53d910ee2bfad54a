/* models_kept: a table of one place for each tenant's hash (see models_kept.h). Any thread. */
#include "gateway/registry/models_kept.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct entry {
    char *name, *text; /* name: tenant, owner and bases in one */
    size_t n;
    uint64_t serial;
};

struct models_kept {
    pthread_mutex_t lock;
    struct entry of[MODELS_KEPT];
};

struct models_kept *models_kept_new(void)
{
    struct models_kept *k = calloc(1, sizeof *k);
    if (k) pthread_mutex_init(&k->lock, NULL);
    return k;
}

static void entry_close(struct entry *x)
{
    free(x->name);
    free(x->text);
    *x = (struct entry){0};
}

void models_kept_free(struct models_kept *k)
{
    if (!k) return;
    for (int i = 0; i < MODELS_KEPT; i++) entry_close(&k->of[i]);
    pthread_mutex_destroy(&k->lock);
    free(k);
}

static struct entry *place_of(struct models_kept *k, const char *tenant)
{
    uint32_t h = 2166136261u;
    for (; *tenant; tenant++) h = (h ^ (uint8_t)*tenant) * 16777619u;
    return &k->of[(h >> 16 ^ h) % MODELS_KEPT];
}

/* "TENANT\nOWNER\nBASES" is this: no name has a line's end in it but the bases' ends. */
static bool is_named(const char *name, const struct models_key *key)
{
    const char *part[] = {key->tenant, key->owner, key->bases};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(part[i]);
        if (strncmp(name, part[i], n) != 0 || name[n] != (i < 2 ? '\n' : 0)) return false;
        name += n + 1;
    }
    return true;
}

static char *name_of(const struct models_key *key)
{
    struct buf b;
    buf_init(&b, SIZE_MAX / 2);
    buf_adds(&b, key->tenant);
    buf_adds(&b, "\n");
    buf_adds(&b, key->owner);
    buf_adds(&b, "\n");
    buf_adds(&b, key->bases);
    char *name = b.failed ? NULL : strdup(b.data);
    buf_close(&b);
    return name;
}

int models_kept_get(struct models_kept *k, const struct models_key *key, struct buf *out)
{
    pthread_mutex_lock(&k->lock);
    const struct entry *x = place_of(k, key->tenant);
    int rc = x->text && x->serial == key->serial && is_named(x->name, key) ? buf_add(out, x->text, x->n) : -1;
    pthread_mutex_unlock(&k->lock);
    return rc;
}

void models_kept_put(struct models_kept *k, const struct models_key *key, const char *text, size_t n)
{
    struct entry fresh = {.serial = key->serial, .n = n};
    if (n > MODELS_KEPT_BYTES) return;
    fresh.name = name_of(key);
    fresh.text = malloc(n + 1);
    if (!fresh.name || !fresh.text) {
        entry_close(&fresh);
        return;
    }
    memcpy(fresh.text, text, n);
    pthread_mutex_lock(&k->lock);
    struct entry *x = place_of(k, key->tenant), old = *x;
    *x = fresh;
    pthread_mutex_unlock(&k->lock);
    entry_close(&old);
}
