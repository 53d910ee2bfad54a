/* lora_pace: loading beside a step that has all cores.
 *
 * A load hashes, checks and packs some megabytes, 5 to 15 ms of a core. Run as the system would have it, that is whole steps in which one compute
 * thread comes late and all others wait for it at the barrier: loads one after the other beside 8 streams took the p99 of the time between
 * tokens up by 131 %. So while steps are being made the loader works in slices and rests between them:
 *
 *     SLICE_US of its own processor time, then REST_US of sleep, where two loaders are at work twice that: a step of 10 ms loses about 1 ms
 *
 * (A fifth of a core instead of a tenth: the p99 of the time between tokens rises by 42 %. Half the slice and half the rest: the same.)
 *
 * A lower priority instead does not do: the compute threads spin at their barriers, so to the system the cores are never idle, and the idle class
 * would load an adapter in seconds; a nice thread gets its share in rare slices of several milliseconds, which is what p99 shows. And a thread
 * that the system keeps from running may hold a lock that the step wants.
 *
 * Fresh memory comes in slices as well: to zero a page of 2 MB is one go of the system's, and in a virtual machine, which finds the memory for it
 * meanwhile, that took 3.6 ms and made each eighth step beside loads 6 ms longer. So while steps are made small pages are touched, and
 * the system (khugepaged) joins them later.
 *
 * What is not cut into slices: the check of one tensor's values and its packing, below a millisecond but for the largest. With nothing in flight the loader doesn't
 * rest. The loaders' threads. */
#include "engine/lora_impl.h"
#include <sys/mman.h>
#include <time.h>

#define SLICE_US 500
#define REST_US 4500
#define SMALL_PAGE 4096
#define PAGES_A_BREATH 16

static int64_t own_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Under the lock, so that whoever takes busy() away knows that it is not being called. */
static bool is_busy(struct lora_set *s, int *loading)
{
    pthread_mutex_lock(&s->lock);
    bool busy = s->busy && s->busy(s->busy_u);
    *loading = s->loading > 0 ? s->loading : 1;
    pthread_mutex_unlock(&s->lock);
    return busy;
}

void lora_breathe(void *u)
{
    struct lora_pace *p = u;
    if (!p) return;
    int64_t now = own_us();
    if (!p->rested_us) p->rested_us = now;
    if (now - p->rested_us < SLICE_US) return;
    int loading;
    if (is_busy(p->s, &loading)) nanosleep(&(struct timespec){.tv_nsec = (long)REST_US * 1000 * loading}, NULL);
    p->rested_us = now;
}

void lora_touch(void *block, size_t bytes, struct lora_pace *pace)
{
    char *p = block;
    int loading;
    if (!p || !pace || !is_busy(pace->s, &loading) || bytes < HUGE_FROM) return;
    madvise(p, bytes, MADV_NOHUGEPAGE); /* both are wishes */
    for (size_t at = 0; at < bytes; at += SMALL_PAGE) {
        p[at] = 0;
        if (at / SMALL_PAGE % PAGES_A_BREATH == 0) lora_breathe(pace);
    }
    madvise(p, bytes, MADV_HUGEPAGE);
}
