/* upload_imports: threads of their own for what waits for strangers' hosts, so that nothing else waits behind it.
 *
 *     run_intake -> imports_add -> [a thread: run_fetch] -> job_add: the ordinary workers check and keep what came
 *
 * A tenant's imports have at most half of the threads, so one tenant never has all. Of those that wait, the next is the
 * oldest of the tenant with the fewest under way. What waits is bounded by the tenants' max_uploads, how long a thread is
 * held by import_s and import_slow_s.
 *
 * At the stop what waits is dropped, and what is under way ends soon: the rows say validating, the next start goes on. */
#include "gateway/registry/upload_impl.h"
#include <string.h>

void imports_add(struct uploads *u, struct job *j, const char *tenant)
{
    struct imports *m = &u->imports;
    j->tenant = tenant;
    j->next = NULL;
    pthread_mutex_lock(&u->lock);
    struct job **p = &m->first;
    while (*p) p = &(*p)->next;
    *p = j;
    pthread_cond_signal(&m->work);
    pthread_mutex_unlock(&u->lock);
}

static int under_way(const struct imports *m, const char *tenant)
{
    int n = 0;
    for (int i = 0; i < IMPORT_THREADS_MAX; i++) n += m->running[i] && strcmp(m->running[i], tenant) == 0;
    return n;
}

/* Under the lock: whose turn it is, out of the list. NULL: nobody's. */
static struct job *take(struct uploads *u)
{
    struct imports *m = &u->imports;
    struct job **best = NULL;
    int fewest = (int)u->g->set->import_jobs / 2;
    for (struct job **p = &m->first; *p; p = &(*p)->next) {
        int n = under_way(m, (*p)->tenant);
        if (n >= fewest) continue;
        fewest = n;
        best = p;
    }
    struct job *j = best ? *best : NULL;
    if (j) *best = j->next;
    return j;
}

static void *import(void *p)
{
    struct uploads *u = p;
    struct imports *m = &u->imports;
    pthread_mutex_lock(&u->lock);
    while (!atomic_load(&u->stop)) {
        struct job *j = take(u);
        if (!j) {
            pthread_cond_wait(&m->work, &u->lock);
            continue;
        }
        int at = 0;
        char tenant[UUID_LEN];
        memcpy(tenant, j->tenant, sizeof tenant);
        while (m->running[at]) at++; /* there are as many places as threads */
        m->running[at] = tenant;
        pthread_mutex_unlock(&u->lock);
        j->run(u, j);
        pthread_mutex_lock(&u->lock);
        m->running[at] = NULL;
        if (m->first) pthread_cond_signal(&m->work); /* the tenant may have one more now */
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

int imports_start(struct uploads *u, struct err *e)
{
    struct imports *m = &u->imports;
    for (int i = 0; i < u->g->set->import_jobs && i < IMPORT_THREADS_MAX; i++) {
        if (pthread_create(&m->thread[i], NULL, import, u)) return err_set(e, ERR_NO_MEMORY, "no threads for imports");
        m->nthreads++;
    }
    return 0;
}

void imports_stop(struct uploads *u)
{
    struct imports *m = &u->imports;
    pthread_mutex_lock(&u->lock);
    pthread_cond_broadcast(&m->work);
    pthread_mutex_unlock(&u->lock);
    for (int i = 0; i < m->nthreads; i++) pthread_join(m->thread[i], NULL);
    for (struct job *j = m->first, *next; j; j = next) {
        next = j->next;
        j->run(u, j); /* which frees it */
    }
    m->first = NULL;
}
