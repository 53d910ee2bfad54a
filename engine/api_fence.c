/* api_fence: an engine serves no gateway that another one has taken over from (docs/BACKUP.md section 4).
 *
 * A standby that is promoted counts one takeover more, and every request for text says `X-Weft-Takeover: TAG-N`: TAG stands for the books that the gateway
 * keeps, which primary and standby share, and N for how often they were taken over. Once a request of N came, those of the same TAG and a smaller number
 * are refused with 409: the primary came back beside its successor, and would bill the same tenants on its own old state. What was seen is in memory:
 * an engine that was started anew learns it from the next request. The FENCES_MAX books that were seen last are remembered. Any thread. */
#include "base/clock.h"
#include "base/log.h"
#include "engine/api_impl.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FENCES_MAX 16
#define TAG_DIGITS 32
#define NUMBER_DIGITS 9

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* covers `fence` */
static struct fence {
    char tag[TAG_DIGITS + 1];
    long n;
    int64_t seen_us;
} fence[FENCES_MAX];

static struct fence *fence_of(const char *tag)
{
    struct fence *oldest = fence;
    for (int i = 0; i < FENCES_MAX; i++) {
        if (strcmp(fence[i].tag, tag) == 0) return &fence[i];
        if (fence[i].seen_us < oldest->seen_us) oldest = &fence[i];
    }
    *oldest = (struct fence){0};
    snprintf(oldest->tag, sizeof oldest->tag, "%s", tag);
    return oldest;
}

static int read_fence(const char *word, char tag[TAG_DIGITS + 1], long *n)
{
    size_t digits = strspn(word, "0123456789abcdef");
    const char *number = word + TAG_DIGITS + 1;
    if (digits != TAG_DIGITS || word[TAG_DIGITS] != '-') return -1;
    size_t len = strlen(number);
    if (!len || len > NUMBER_DIGITS || strspn(number, "0123456789") != len) return -1;
    snprintf(tag, TAG_DIGITS + 1, "%s", word);
    *n = strtol(number, NULL, 10);
    return 0;
}

int api_fence(const char *word, struct err *e)
{
    char tag[TAG_DIGITS + 1];
    long n, seen;
    if (read_fence(word, tag, &n)) return err_field(e, ERR_INVALID, "X-Weft-Takeover", "the header X-Weft-Takeover must be 32 hex digits, '-', and a number");
    pthread_mutex_lock(&lock);
    struct fence *f = fence_of(tag);
    bool more = n > f->n;
    if (more) f->n = n;
    f->seen_us = clock_mono_us();
    seen = f->n;
    pthread_mutex_unlock(&lock);
    if (more) log_info("gateway_took_over", LS("tag", tag), LI("takeover", n));
    return n >= seen ? 0 : err_set(e, ERR_CONFLICT, "another gateway has taken over from this one (takeover %ld; this one is of %ld): it must not serve any more", seen, n);
}
