/* kv_prefix: complete pages of keys and values, found again by what they were computed from.
 *
 * Idea: what a page holds depends on its own tokens, on all tokens before it and on the adapters that its rows and those before used. All of
 * that goes into its key, a chain of SHA-256: key(page) = H(key(page before), tokens, which adapters begin where). The root is a hash
 * of the salt. So equal keys mean equal contents: nobody can make two prompts whose keys are equal, and who does not know a salt can't name
 * its pages. Adapters are named by digest, so nothing goes stale when one is unloaded and another comes under its name.
 *
 *     held --publish--> held, published --last reference dropped--> idle --found--> held, published
 *                            |                                        |
 *                            forget: held                             taken for something else, or forget: free
 *
 * Guarantees: a key names one page at most; the pages of a chain are idle in such an order that its end is taken first; nothing is
 * allocated after the start.
 *
 * Step thread only (keys: any thread). */
#include "engine/kv.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* --- keys --- */

void kv_key_root(struct kv_key *out, const char *salt)
{
    static const char about[] = "weft prefix root";
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, about, sizeof about);
    sha256_add(&h, salt, strlen(salt));
    sha256_end(&h, out->b);
}

void kv_key_next(struct kv_key *out, const struct kv_key *before, const int32_t token[KV_PAGE],
                 const struct kv_key *begins)
{
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, before->b, sizeof before->b);
    sha256_add(&h, token, KV_PAGE * sizeof *token);
    if (begins) sha256_add(&h, begins->b, sizeof begins->b); /* the length tells the two kinds apart */
    sha256_end(&h, out->b);
}

/* --- the table --- */

static int bucket_of(const struct kv_pool *p, const struct kv_key *k)
{
    uint32_t v;
    memcpy(&v, k->b, sizeof v);
    return (int)(v & (uint32_t)(p->nbuckets - 1));
}

int kv_prefix_init(struct kv_pool *p, struct err *e)
{
    p->nbuckets = 1;
    while (p->nbuckets < p->cache.pages) p->nbuckets *= 2;
    p->slot = calloc((size_t)p->cache.pages, sizeof *p->slot);
    p->bucket = malloc((size_t)p->nbuckets * sizeof *p->bucket);
    if (!p->slot || !p->bucket) {
        kv_prefix_close(p);
        return err_set(e, ERR_NO_MEMORY, "no memory for the prefixes of %d pages", p->cache.pages);
    }
    for (int i = 0; i < p->nbuckets; i++) p->bucket[i] = -1;
    p->idle_first = p->idle_last = -1;
    return 0;
}

void kv_prefix_close(struct kv_pool *p)
{
    free(p->slot);
    free(p->bucket);
    p->slot = NULL;
    p->bucket = NULL;
}

int kv_prefix_find(const struct kv_pool *p, const struct kv_key *k)
{
    for (int i = p->bucket[bucket_of(p, k)]; i >= 0; i = p->slot[i].chain)
        if (memcmp(&p->slot[i].key, k, sizeof *k) == 0) return i;
    return -1;
}

bool kv_prefix_publish(struct kv_pool *p, int page, const struct kv_key *k)
{
    struct kv_slot *s = &p->slot[page];
    assert(p->refs[page] > 0 && !s->published);
    if (kv_prefix_find(p, k) >= 0) return false;
    int *at = &p->bucket[bucket_of(p, k)];
    s->key = *k;
    s->chain = *at;
    s->published = true;
    *at = page;
    p->npublished++;
    return true;
}

void kv_prefix_forget(struct kv_pool *p, int page)
{
    struct kv_slot *s = &p->slot[page];
    if (!s->published) return;
    int *at = &p->bucket[bucket_of(p, &s->key)];
    while (*at != page) at = &p->slot[*at].chain;
    *at = s->chain;
    s->published = false;
    p->npublished--;
    if (p->refs[page] > 0) return;
    kv_idle_remove(p, page);
    p->free_page[p->nfree++] = page;
}

/* --- the idle --- */

void kv_idle_add(struct kv_pool *p, int page)
{
    struct kv_slot *s = &p->slot[page];
    s->prev = p->idle_last;
    s->next = -1;
    if (s->prev >= 0)
        p->slot[s->prev].next = page;
    else
        p->idle_first = page;
    p->idle_last = page;
    p->nidle++;
}

void kv_idle_remove(struct kv_pool *p, int page)
{
    struct kv_slot *s = &p->slot[page];
    if (s->prev >= 0)
        p->slot[s->prev].next = s->next;
    else
        p->idle_first = s->next;
    if (s->next >= 0)
        p->slot[s->next].prev = s->prev;
    else
        p->idle_last = s->prev;
    p->nidle--;
}
