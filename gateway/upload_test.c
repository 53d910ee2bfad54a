/* upload_test: the last step before a version is ready: the engine computes with it, and is compared.
 *
 *     validating --loaded, max_error <= ERROR_MAX------------> ready
 *                --refused, or the error is larger-----------> failed (code, module, detail); its bytes go
 *                --no engine can just now--------------------> again soon, for TEST_FOR_MS; then failed
 *
 * What the engine then says of a ready version (values that are not finite, ADAPTER_FAULTS times) quarantines it: no
 * request gets it any more, until somebody restores it, which tests it anew. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/upload_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relative, of a product. The engine's fast path rounds activations to 8 bits: up to 0.05 was seen on sound adapters. */
#define ERROR_MAX 0.1
#define FAULTS_MAX 1024

static const struct actor nobody = {.key = "system", .ip = "", .request = ""};

struct test {
    struct job job;
    struct version_name v;
    char digest[SHA256_HEX];
    int64_t until_us;
};

static bool is_passing(enum err_code c)
{
    static const enum err_code codes[] = {ERR_UNAVAILABLE, ERR_ENGINE,           ERR_NO_SLOT,  ERR_QUEUE_FULL,
                                          ERR_DEADLINE,    ERR_UPSTREAM_TIMEOUT, ERR_NO_MEMORY};
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (codes[i] == c) return true;
    return false;
}

static int change(struct uploads *u, const struct version_name *v, const struct version_change *x)
{
    struct err e = {0};
    if (registry_change_state(u->g->registry, &nobody, v->tenant, v->name, v->version, x, &e) == 0) return 0;
    if (e.code != ERR_CONFLICT && e.code != ERR_NOT_FOUND) /* which: somebody removed it meanwhile */
        log_error("version_state", LS("name", v->name), LI("version", v->version), LS("error", e.msg));
    return -1;
}

static void ready(struct uploads *u, const struct test *t, const struct selftest *s)
{
    change(u, &t->v,
           &(struct version_change){
               .from = 1u << VERSION_VALIDATING, .to = VERSION_READY, .max_error = s->ran ? s->max_error : -1});
}

static void failed(struct uploads *u, struct test *t, const char *code, const char *tensor, const char *detail,
                   double max_error)
{
    char digests[1][SHA256_HEX];
    log_warn("adapter_selftest", LS("name", t->v.name), LI("version", t->v.version), LS("code", code),
             LS("detail", detail));
    if (change(u, &t->v,
               &(struct version_change){.from = 1u << VERSION_VALIDATING,
                                        .to = VERSION_FAILED,
                                        .code = code,
                                        .tensor = tensor,
                                        .detail = detail,
                                        .max_error = max_error}))
        return;
    memcpy(digests[0], t->digest, SHA256_HEX);
    uploads_drop(u, digests, 1);
}

static void judge(struct uploads *u, struct test *t, const struct selftest *s)
{
    char detail[256];
    if (!s->ran || s->max_error <= ERROR_MAX) {
        ready(u, t, s);
        return;
    }
    snprintf(detail, sizeof detail, "the engine's result for %s is off by %.3g, more than %.3g", s->worst, s->max_error,
             ERROR_MAX);
    failed(u, t, "selftest_failed", s->worst, detail, s->max_error);
}

static void refuse(struct uploads *u, struct test *t, const struct err *e)
{
    char tensor[160];
    failed_tensor(e->msg, tensor);
    failed(u, t, err_info(e->code)->code, tensor, e->msg, -1);
}

static void run_test(struct uploads *u, struct job *j)
{
    struct test *t = (struct test *)j;
    enum version_state s;
    struct selftest result;
    struct err e = {0};
    if (atomic_load(&u->stop)) { /* it stays validating; the next start tests it */
        free(t);
        return;
    }
    if (registry_state(u->g->registry, t->v.tenant, t->v.name, t->v.version, &s, t->digest) &&
        s == VERSION_VALIDATING) {
        int rc = residency_selftest(u->g, t->v.tenant, t->digest, &u->stop, &result, &e);
        if (rc && is_passing(e.code) && (atomic_load(&u->stop) || clock_mono_us() < t->until_us)) {
            job_add(u, &t->job, TEST_AGAIN_MS);
            return;
        }
        if (rc)
            refuse(u, t, &e);
        else
            judge(u, t, &result);
    }
    version_settled(u, &t->v, t->v.version);
    free(t);
}

int test_queue(struct uploads *u, const struct version_name *v, struct err *e)
{
    struct test *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NO_MEMORY, "no memory for a self-test");
    t->job.run = run_test;
    t->v = *v;
    t->until_us = clock_mono_us() + TEST_FOR_MS * 1000LL;
    job_add(u, &t->job, 0);
    return 0;
}

int uploads_restore(struct uploads *u, const struct actor *by, const char *tenant, const char *name, int version,
                    struct err *e)
{
    static const struct version_change back = {
        .from = 1u << VERSION_ARCHIVED | 1u << VERSION_QUARANTINED, .to = VERSION_VALIDATING, .max_error = -1};
    struct version_name v = {.version = version};
    if (registry_change_state(u->g->registry, by, tenant, name, version, &back, e)) return -1;
    snprintf(v.tenant, sizeof v.tenant, "%s", tenant);
    snprintf(v.name, sizeof v.name, "%s", name);
    return test_queue(u, &v, e);
}

/* --- faults --- */

struct fault {
    struct version_name v;
    int n;
    struct fault *next;
};

struct quarantine {
    struct job job;
    struct version_name v;
};

static void run_quarantine(struct uploads *u, struct job *j)
{
    static const struct version_change x = {.from = 1u << VERSION_READY,
                                            .to = VERSION_QUARANTINED,
                                            .code = "adapter_fault",
                                            .detail = "it produced values that are not finite",
                                            .max_error = -1};
    struct quarantine *q = (struct quarantine *)j;
    enum version_state s;
    char digest[SHA256_HEX];
    if (!atomic_load(&u->stop) && change(u, &q->v, &x) == 0) {
        log_warn("adapter_quarantined", LS("name", q->v.name), LI("version", q->v.version));
        if (registry_state(u->g->registry, q->v.tenant, q->v.name, q->v.version, &s, digest))
            residency_unload(u->g, digest);
    }
    free(q);
}

/* Counts one more; true at the last that is borne, when the count begins anew. */
static bool count_fault(struct uploads *u, const struct version_name *v)
{
    struct fault *f;
    pthread_mutex_lock(&u->lock);
    for (f = u->faults; f; f = f->next)
        if (f->v.version == v->version && strcmp(f->v.name, v->name) == 0 && strcmp(f->v.tenant, v->tenant) == 0) break;
    if (!f && u->nfaults < FAULTS_MAX && (f = calloc(1, sizeof *f))) {
        f->v = *v;
        f->next = u->faults;
        u->faults = f;
        u->nfaults++;
    }
    bool enough = f && ++f->n >= ADAPTER_FAULTS;
    if (enough) f->n = 0;
    pthread_mutex_unlock(&u->lock);
    return enough;
}

void uploads_fault(struct uploads *u, const char *tenant, const char *name, int version)
{
    struct version_name v = {.version = version};
    snprintf(v.tenant, sizeof v.tenant, "%s", tenant);
    snprintf(v.name, sizeof v.name, "%s", name);
    if (!count_fault(u, &v)) return;
    struct quarantine *q = calloc(1, sizeof *q);
    if (!q) return; /* the next fault counts again */
    q->job.run = run_quarantine;
    q->v = v;
    job_add(u, &q->job, 0);
}

void faults_free(struct uploads *u)
{
    for (struct fault *f = u->faults, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    u->faults = NULL;
}
