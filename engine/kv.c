/* kv: pages of keys and values, counted.
 *
 * Idea: one block of memory cut into pages of KV_PAGE positions, a stack of free page numbers and a reference count
 * each. A page number means the same position in every layer's part of the block, so one table per sequence serves all
 * layers.
 *
 *     free --kv_page_take--> held (1) --kv_page_ref--> held (n) --kv_page_drop x n--> free, or idle when it is published
 *                                                        ^---------kv_page_ref--------------------- idle
 *
 * Guarantees: taking is all or nothing for a sequence's reservation; a page is handed out again only when nobody counts
 * on it, and idle ones only when none is free. What a page held before is not cleared: attention never reads positions that its sequence has
 * not written or taken over as a whole.
 *
 * Refuses to grow: when the pool is empty the scheduler preempts somebody. Step thread only, so no lock. */
#include "engine/kv.h"
#include "base/log.h"
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOKENS_EACH 512 /* of a sequence that the automatic size has in mind */
#define MEMORY_SHARE 4  /* at most 1/4 of the machine's memory unless asked for */
#define PAGES_MAX (1 << 24)

int kv_pages_of(int tokens)
{
    return (int)(((int64_t)tokens + KV_PAGE - 1) / KV_PAGE);
}

int64_t kv_pool_bytes(const struct model *m, enum kv_type type, int most, int max_running)
{
    size_t page_bytes = kv_bytes_of(m, type);
    int context = kv_pages_of(most), each = kv_pages_of(most < TOKENS_EACH ? most : TOKENS_EACH);
    int64_t pages = (int64_t)each * max_running;
    int64_t share = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / MEMORY_SHARE;
    if (share > 0 && pages * (int64_t)page_bytes > share) pages = share / (int64_t)page_bytes;
    if (pages < context) pages = context;
    return pages * (int64_t)page_bytes;
}

/* The lists of pages, once their memory is there (or not). */
static int take_lists(struct kv_pool *p, const struct model *m, struct err *e)
{
    static const char *const name[] = {[KV_BF16] = "bf16", [KV_F32] = "float32", [KV_INT8] = "int8"};
    struct kv_cache *c = &p->cache;
    p->free_page = malloc((size_t)c->pages * sizeof *p->free_page);
    p->refs = calloc((size_t)c->pages, sizeof *p->refs);
    if (!c->base || !p->free_page || !p->refs) {
        kv_pool_close(p);
        return err_set(e, ERR_NO_MEMORY, "no memory for a KV pool of %zu bytes", p->bytes);
    }
    if (kv_prefix_init(p, e)) {
        kv_pool_close(p);
        return -1;
    }
    for (int i = 0; i < c->pages; i++) p->free_page[i] = c->pages - 1 - i;
    p->nfree = c->pages;
    log_info("kv_pool", LS("type", name[c->type]), LI("pages", c->pages), LI("tokens", (int64_t)c->pages * KV_PAGE),
             LI("page_bytes", (int64_t)(p->bytes / (size_t)c->pages)), LI("bytes", (int64_t)p->bytes),
             LI("max_context", m->max_context));
    return 0;
}

size_t kv_bytes_of(const struct model *m, enum kv_type type)
{
    size_t bytes = 0;
    for (int l = 0; l < m->layers; l++) bytes += kv_page_bytes(type, model_kv_heads(m, l), m->head_dim);
    return bytes;
}

/* Where layers differ: a cache for each, one behind the other. */
static int divide(struct kv_cache *c, const struct model *m, struct err *e)
{
    if (!m->uneven) return 0;
    c->own = calloc((size_t)m->layers, sizeof *c->own);
    if (!c->own) return err_set(e, ERR_NO_MEMORY, "no memory for the pages of %d layers", m->layers);
    char *at = c->base;
    for (int l = 0; l < m->layers; l++) {
        struct kv_cache *own = &c->own[l];
        *own = *c;
        own->layers = 1;
        own->kv_heads = model_kv_heads(m, l);
        own->page_bytes = kv_page_bytes(c->type, own->kv_heads, c->head_dim);
        own->base = at;
        own->own = NULL;
        at += own->page_bytes * (size_t)c->pages;
    }
    return 0;
}

int kv_pool_init(struct kv_pool *p, const struct model *m, int64_t bytes, int max_running, struct err *e)
{
    return kv_pool_init_as(p, m, kv_type_of(m->prec), bytes, max_running, e);
}

int kv_pool_init_as(struct kv_pool *p, const struct model *m, enum kv_type type, int64_t bytes, int max_running,
                    struct err *e)
{
    assert((type == KV_F32) == (m->prec == PREC_EXACT));
    memset(p, 0, sizeof *p);
    struct kv_cache *c = &p->cache;
    *c = (struct kv_cache){.type = type, .layers = m->layers, .kv_heads = m->kv_heads, .head_dim = m->head_dim};
    c->page_bytes = kv_page_bytes(c->type, m->kv_heads, m->head_dim);
    size_t all_layers = kv_bytes_of(m, type);
    if (bytes <= 0) bytes = kv_pool_bytes(m, type, m->max_context, max_running);
    int64_t pages = bytes / (int64_t)all_layers;
    if (pages < 1)
        return err_set(e, ERR_USAGE, "a KV pool of %lld bytes holds not one page of %zu bytes", (long long)bytes,
                       all_layers);
    c->pages = pages < PAGES_MAX ? (int)pages : PAGES_MAX;
    p->bytes = (size_t)c->pages * all_layers;
    c->base = big_alloc(p->bytes);
    if (take_lists(p, m, e)) return -1;
    int rc = divide(c, m, e);
    if (rc) kv_pool_close(p);
    return rc;
}

int kv_pool_init_on(struct kv_pool *p, const struct model *m, enum kv_type type, const struct device_plan *plan,
                    char *base, struct err *e)
{
    memset(p, 0, sizeof *p);
    p->elsewhere = true;
    p->bytes = plan->kv;
    p->cache = (struct kv_cache){.type = type,
                                 .layers = m->layers,
                                 .kv_heads = m->kv_heads,
                                 .head_dim = m->head_dim,
                                 .pages = plan->kv_pages,
                                 .page_bytes = plan->kv_page_bytes,
                                 .base = base};
    return take_lists(p, m, e);
}

void kv_pool_close(struct kv_pool *p)
{
    if (p->cache.base && !p->elsewhere) big_free(p->cache.base, p->bytes);
    free(p->cache.own);
    free(p->free_page);
    free(p->refs);
    kv_prefix_close(p);
    memset(p, 0, sizeof *p);
}

int kv_available(const struct kv_pool *p)
{
    return p->nfree + p->nidle;
}

int kv_page_take(struct kv_pool *p)
{
    if (p->nfree == 0) {
        if (p->nidle == 0) return -1;
        kv_prefix_forget(p, p->idle_first);
        p->evictions++;
    }
    int page = p->free_page[--p->nfree];
    assert(p->refs[page] == 0);
    p->refs[page] = 1;
    return page;
}

void kv_page_ref(struct kv_pool *p, int page)
{
    assert(p->refs[page] > 0 || p->slot[page].published);
    if (p->refs[page]++ == 0) kv_idle_remove(p, page);
}

void kv_page_drop(struct kv_pool *p, int page)
{
    assert(p->refs[page] > 0);
    if (--p->refs[page] > 0) return;
    if (p->slot[page].published)
        kv_idle_add(p, page);
    else
        p->free_page[p->nfree++] = page;
}

int kv_seq_init(struct kv_seq *s, int max_tokens, struct err *e)
{
    int cap = kv_pages_of(max_tokens);
    int *page = malloc((size_t)(cap ? cap : 1) * sizeof *page);
    if (!page) return err_set(e, ERR_NO_MEMORY, "no memory for a table of %d pages", cap);
    *s = (struct kv_seq){.page = page, .cap = cap};
    return 0;
}

void kv_seq_close(struct kv_seq *s)
{
    assert(s->npages == 0);
    free(s->page);
    *s = (struct kv_seq){0};
}

bool kv_seq_reserve(struct kv_pool *p, struct kv_seq *s, int tokens)
{
    int want = kv_pages_of(tokens);
    assert(want <= s->cap);
    if (want - s->npages > kv_available(p)) return false;
    while (s->npages < want) s->page[s->npages++] = kv_page_take(p);
    return true;
}

void kv_seq_share(struct kv_pool *p, struct kv_seq *s, int page)
{
    assert(s->npages < s->cap);
    kv_page_ref(p, page);
    s->page[s->npages++] = page;
}

void kv_seq_swap(struct kv_pool *p, struct kv_seq *s, int i, int page)
{
    assert(i < s->npages);
    kv_page_ref(p, page);
    kv_page_drop(p, s->page[i]);
    s->page[i] = page;
}

void kv_seq_release(struct kv_pool *p, struct kv_seq *s)
{
    while (s->npages > 0)
        if (s->page[--s->npages] >= 0) kv_page_drop(p, s->page[s->npages]);
    s->kept = s->gone = 0;
}

/* --- sequences that look back on a part of themselves --- */

struct kv_keep kv_keep_of(const struct model *m)
{
    struct kv_keep k = {0};
    for (int i = 0; i < m->layers; i++) {
        const struct model_layer *l = &m->layer[i];
        if (m->uneven && !l->module[LM_Q].n) continue;
        if (l->window == 0) return (struct kv_keep){0};
        if (l->window > k.window) k.window = l->window;
        if (l->sinks > k.sinks) k.sinks = l->sinks;
    }
    return k;
}

int kv_keep_sinks(const struct kv_keep *k)
{
    return kv_pages_of(k->sinks);
}

int kv_keep_first(const struct kv_keep *k, int pos)
{
    int first = pos >= k->window + k->sinks ? (pos - k->window + 1) / KV_PAGE : 0, sinks = kv_keep_sinks(k);
    return first > sinks ? first : sinks;
}

int kv_keep_most(const struct kv_keep *k, int tokens, int ahead)
{
    int all = kv_pages_of(tokens);
    if (k->window == 0) return all;
    int64_t most = kv_keep_sinks(k) + kv_pages_of(k->window) + 1 + (int64_t)kv_pages_of(ahead) + 1;
    return most < all ? (int)most : all;
}

int kv_seq_held(const struct kv_seq *s)
{
    return s->npages - (s->gone > s->kept ? s->gone - s->kept : 0);
}

void kv_seq_evict(struct kv_pool *p, struct kv_seq *s, const struct kv_keep *k, int pos)
{
    int sinks = kv_keep_sinks(k), first = kv_keep_first(k, pos);
    if (first > s->npages) first = s->npages;
    for (int i = s->gone > sinks ? s->gone : sinks; i < first; i++) {
        kv_page_drop(p, s->page[i]);
        s->page[i] = -1;
        s->kept = sinks;
        s->gone = i + 1;
    }
}

void kv_seq_skip(struct kv_seq *s, int kept)
{
    assert(s->npages < s->cap && s->npages >= kept);
    s->page[s->npages++] = -1;
    s->kept = kept;
    s->gone = s->npages;
}
