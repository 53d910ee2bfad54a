/* packed_verify: is a packed file what was written?
 *
 * All of it is hashed at every start, before anything of it is served, and not once and trusted, nor in the background after the start: a
 * bit that flipped on the disk changes no time stamp, and an answer that was given cannot be taken back. It can be afforded because entries
 * are hashed side by side: 1.6 GB/s a core with the SHA instructions, 0.3 s for a gigabyte on two cores, which is what a fast disk takes
 * to deliver it. A faster checksum would save a fifth of a second a gigabyte and need a second index.
 *
 *     head, meta, index --seal--> entries, the largest first, claimed by threads --> first difference wins
 *
 * Threads of its own, at load; they end before it returns. */
#include "base/sha256.h"
#include "engine/packed_impl.h"
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST_CHUNK (1u << 20)
#define VERIFY_THREADS_MAX 16

int packed_digest(const struct packed *p, char hex[65], struct err *e)
{
    (void)e;
    struct sha256 h;
    uint8_t digest[SHA256_BYTES];
    sha256_init(&h);
    for (size_t at = 0; at < p->size; at += DIGEST_CHUNK)
        sha256_add(&h, p->map + at, p->size - at < DIGEST_CHUNK ? p->size - at : DIGEST_CHUNK);
    sha256_end(&h, digest);
    sha256_hex(digest, hex);
    return 0;
}

void packed_seal(const struct packed_head *h, const void *meta, const void *index, uint8_t digest[32])
{
    struct sha256 s;
    sha256_init(&s);
    sha256_add(&s, h, offsetof(struct packed_head, sha256));
    sha256_add(&s, meta, h->meta_bytes);
    sha256_add(&s, index, h->entries * sizeof(struct packed_entry));
    sha256_end(&s, digest);
}

/* --- entries, on several threads --- */

struct check {
    const struct packed *p;
    const struct packed_entry **order; /* the largest first, so that the threads end together */
    atomic_int next, bad;              /* bad: the first in this order that differs, or count */
};

static int by_size(const void *a, const void *b)
{
    const struct packed_entry *const *x = a, *const *y = b;
    return ((*x)->bytes < (*y)->bytes) - ((*x)->bytes > (*y)->bytes);
}

static void note_bad(struct check *c, int i)
{
    int so_far = atomic_load(&c->bad);
    while (i < so_far && !atomic_compare_exchange_weak(&c->bad, &so_far, i)) {
    }
}

static void *check_entries(void *u)
{
    struct check *c = u;
    uint8_t digest[SHA256_BYTES];
    for (int i; (i = atomic_fetch_add(&c->next, 1)) < c->p->count && atomic_load(&c->bad) == c->p->count;) {
        const struct packed_entry *it = c->order[i];
        sha256_of(c->p->map + it->offset, it->bytes, digest);
        if (memcmp(digest, it->sha256, sizeof digest)) note_bad(c, i);
    }
    return NULL;
}

static int cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
    return n < 1 ? 1 : n > VERIFY_THREADS_MAX ? VERIFY_THREADS_MAX : n;
}

/* The index in c->order of one that differs; count: none. The caller works too, so that it goes on where no thread can be had. */
static int check_all(struct check *c)
{
    pthread_t thread[VERIFY_THREADS_MAX];
    int n = 0, want = cores() - 1;
    while (n < want && pthread_create(&thread[n], NULL, check_entries, c) == 0) n++;
    check_entries(c);
    for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
    return atomic_load(&c->bad);
}

int packed_verify(const struct packed *p, struct err *e)
{
    const struct packed_head *h = (const struct packed_head *)p->map;
    uint8_t seal[SHA256_BYTES];
    packed_seal(h, p->map + h->meta, p->map + h->index, seal);
    if (memcmp(seal, h->sha256, sizeof seal))
        return err_set(e, ERR_MODEL, "%s: the head, the meta data or the index are not those that were written",
                       p->path);
    struct check c = {.p = p, .bad = p->count};
    c.order = malloc(((size_t)p->count + 1) * sizeof *c.order);
    if (!c.order) return err_set(e, ERR_NO_MEMORY, "no memory to check %d entries", p->count);
    memcpy(c.order, p->entry, (size_t)p->count * sizeof *c.order);
    qsort(c.order, (size_t)p->count, sizeof *c.order, by_size);
    int bad = check_all(&c);
    if (bad < p->count)
        err_set(e, ERR_MODEL, "%s: the bytes of %s are not those that were written", p->path, c.order[bad]->name);
    free(c.order);
    return bad < p->count ? -1 : 0;
}
