/* upload_test: the last step before a version is ready: the engine computes with it, and is compared.
 *
 *     validating --loaded, max_error <= ERROR_MAX------------> ready
 *                --refused, or the error is larger-----------> failed (code, module, detail); its bytes go
 *                --no engine can just now--------------------> again soon, for TEST_FOR_MS; then failed
 *
 * What the engine then says of a ready version (values that are not finite, ADAPTER_FAULTS times), or that engines are lost with it
 * (gateway/proxy/blame.h; at its test, too), quarantines it: no request gets it any more, until somebody restores it, which tests it anew. */
#include "base/clock.h"
#include "base/log.h"
#include "gateway/proxy/quarantine.h"
#include "gateway/registry/upload_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Relative, of a product. The engine's fast path rounds activations to 8 bits: up to 0.05 was seen on sound adapters. */
#define ERROR_MAX 0.1
#define FAULTS_MAX 1024                     /* versions with one; the oldest makes room */
#define FAULT_US (24 * 3600 * 1000000LL) /* one is forgotten after */

static const struct actor nobody = {.key = "system", .ip = "", .request = ""};

struct test {
    struct job job;
    struct version_name v;
    char digest[SHA256_HEX];
    int64_t until_us;
    struct gateway *g;
    struct blame_seat seat;
    bool held; /* the last try was not let in, for the sake of a trial or of its tenant's quarantine */
};

static bool is_passing(enum err_code c)
{
    static const enum err_code codes[] = {ERR_UNAVAILABLE, ERR_ENGINE,           ERR_NO_SLOT,  ERR_QUEUE_FULL, ERR_FETCH,
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
               .from = 1u << VERSION_VALIDATING, .to = VERSION_READY, .max_error = s->figure.ran ? s->figure.max_error : -1});
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
    if (!s->figure.ran || s->figure.max_error <= ERROR_MAX) {
        ready(u, t, s);
        return;
    }
    snprintf(detail, sizeof detail, "the engine's result for %s is off by %.3g, more than %.3g", s->figure.worst, s->figure.max_error,
             ERROR_MAX);
    failed(u, t, "selftest_failed", s->figure.worst, detail, s->figure.max_error);
}

static void refuse(struct uploads *u, struct test *t, const struct err *e)
{
    char tensor[160];
    failed_tensor(e->msg, tensor);
    failed(u, t, err_info(e->code)->code, tensor, e->msg, -1);
}

static bool may_test(void *u, const char *engine)
{
    struct test *t = u;
    t->held = !quarantine_enter_test(t->g, &t->v, &t->seat, engine);
    return !t->held;
}

/* An accused version waits for its turn (gateway/proxy/blame_trial.c) from one try to the next. */
static int test_now(struct uploads *u, struct test *t, struct selftest *result, struct err *e)
{
    t->held = false;
    int rc = residency_selftest(u->g, t->v.tenant, t->digest, &u->stop, may_test, t, result, e);
    if (t->held) t->until_us = clock_mono_us() + TEST_FOR_MS * 1000LL; /* it was not for want of an engine */
    if (rc && e->code == ERR_UPSTREAM_TIMEOUT) quarantine_left_test(u->g, &t->v, result->engine, result->life);
    if (rc && result->lost) quarantine_lost_test(u->g, &t->v, &t->seat, result->engine, result->life);
    if (rc == 0 || t->seat.at) quarantine_over_test(u->g, &t->v, &t->seat, rc == 0);
    return rc;
}

static void run_test(struct uploads *u, struct job *j)
{
    struct test *t = (struct test *)j;
    enum version_state s;
    struct selftest result;
    struct err e = {0};
    if (atomic_load(&u->stop)) { /* it stays validating; the next start tests it */
        quarantine_over_test(u->g, &t->v, &t->seat, false);
        free(t);
        return;
    }
    if (registry_state(u->g->registry, t->v.tenant, t->v.name, t->v.version, &s, t->digest) &&
        s == VERSION_VALIDATING) {
        int rc = test_now(u, t, &result, &e);
        if (rc && is_passing(e.code) && (atomic_load(&u->stop) || clock_mono_us() < t->until_us)) {
            job_add(u, &t->job, TEST_AGAIN_MS);
            return;
        }
        if (rc)
            refuse(u, t, &e);
        else
            judge(u, t, &result);
    }
    quarantine_over_test(u->g, &t->v, &t->seat, false);
    version_settled(u, &t->v, t->v.version);
    free(t);
}

int test_queue(struct uploads *u, const struct version_name *v, struct err *e)
{
    struct test *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NO_MEMORY, "no memory for a self-test");
    t->job.run = run_test;
    t->v = *v;
    t->g = u->g;
    t->until_us = clock_mono_us() + TEST_FOR_MS * 1000LL;
    job_add(u, &t->job, 0);
    return 0;
}

int uploads_restore(struct uploads *u, const struct actor *by, bool operator, const char *tenant, const char *name, int version,
                    struct answer_keep *keep, struct err *e)
{
    struct version_change back = {
        .from = 1u << VERSION_ARCHIVED | 1u << VERSION_QUARANTINED, .to = VERSION_VALIDATING, .max_error = -1, .unless = operator ? NULL : "engine_lost", .keep = keep};
    struct version_name v = {.version = version};
    if (registry_change_state(u->g->registry, by, tenant, name, version, &back, e)) return -1;
    snprintf(v.tenant, sizeof v.tenant, "%s", tenant);
    snprintf(v.name, sizeof v.name, "%s", name);
    faults_forget(u, tenant, name, version);
    return test_queue(u, &v, e);
}

/* --- faults --- */

struct fault {
    struct version_name v;
    int n;
    int64_t at_us; /* the last */
    struct fault *next;
};

struct quarantine {
    struct job job;
    struct version_name v;
    const char *code;
    char detail[128];
};

static void run_quarantine(struct uploads *u, struct job *j)
{
    struct quarantine *q = (struct quarantine *)j;
    const struct version_change x = {.from = 1u << VERSION_READY | 1u << VERSION_VALIDATING, /* its self-test, too, takes engines down */
                                     .to = VERSION_QUARANTINED,
                                     .code = q->code,
                                     .detail = q->detail,
                                     .max_error = -1};
    enum version_state s;
    char digest[SHA256_HEX];
    if (!atomic_load(&u->stop) && change(u, &q->v, &x) == 0) {
        log_warn("adapter_quarantined", LS("name", q->v.name), LI("version", q->v.version), LS("code", q->code));
        if (registry_state(u->g->registry, q->v.tenant, q->v.name, q->v.version, &s, digest))
            residency_unload(u->g, digest);
    }
    free(q);
}

static bool is_of(const struct fault *f, const char *tenant, const char *name, int version)
{
    return (!version || f->v.version == version) && strcmp(f->v.name, name) == 0 && strcmp(f->v.tenant, tenant) == 0;
}

/* Under the lock. */
static void drop_fault(struct uploads *u, struct fault **at)
{
    struct fault *f = *at;
    *at = f->next;
    free(f);
    u->nfaults--;
}

void faults_forget(struct uploads *u, const char *tenant, const char *name, int version)
{
    pthread_mutex_lock(&u->lock);
    for (struct fault **at = &u->faults; *at;) {
        if (is_of(*at, tenant, name, version)) drop_fault(u, at);
        else at = &(*at)->next;
    }
    pthread_mutex_unlock(&u->lock);
}

/* Under the lock: what is old goes, and of a full table what had its fault first. */
static void make_room(struct uploads *u, int64_t now)
{
    struct fault **oldest = NULL;
    for (struct fault **at = &u->faults; *at;) {
        if (now - (*at)->at_us > FAULT_US) {
            if (oldest == &(*at)->next) oldest = at;
            drop_fault(u, at);
            continue;
        }
        if (!oldest || (*at)->at_us < (*oldest)->at_us) oldest = at;
        at = &(*at)->next;
    }
    if (u->nfaults >= FAULTS_MAX && oldest) drop_fault(u, oldest);
}

bool faults_count(struct uploads *u, const struct version_name *v, int64_t now)
{
    struct fault **at, *f;
    pthread_mutex_lock(&u->lock);
    for (at = &u->faults; *at && !is_of(*at, v->tenant, v->name, v->version);) at = &(*at)->next;
    bool known = *at && now - (*at)->at_us <= FAULT_US, enough = known && (*at)->n + 1 >= ADAPTER_FAULTS;
    if (enough) {
        drop_fault(u, at);
    } else if (known) {
        (*at)->n++;
        (*at)->at_us = now;
    } else {
        make_room(u, now);
        if ((f = calloc(1, sizeof *f))) {
            *f = (struct fault){.v = *v, .n = 1, .at_us = now, .next = u->faults};
            u->faults = f;
            u->nfaults++;
        }
    }
    pthread_mutex_unlock(&u->lock);
    return enough;
}

struct same {
    struct uploads *u;
    const char *tenant, *name, *code, *detail;
    int version;
    char digest[SHA256_HEX];
};

static void quarantine_if_same(void *u, const struct version_id *v)
{
    const struct same *s = u;
    bool itself = v->version == s->version && strcmp(v->name, s->name) == 0;
    if (!itself && strcmp(v->tenant, s->tenant) == 0 && strcmp(v->digest, s->digest) == 0) uploads_quarantine(s->u, v->tenant, v->name, v->version, s->code, s->detail);
}

void uploads_quarantine_same(struct uploads *u, const char *tenant, const char *name, int version, const char *code, const char *detail)
{
    struct same s = {.u = u, .tenant = tenant, .name = name, .code = code, .detail = detail, .version = version};
    enum version_state state;
    if (registry_state(u->g->registry, tenant, name, version, &state, s.digest))
        registry_each(u->g->registry, 1u << VERSION_READY | 1u << VERSION_VALIDATING, quarantine_if_same, &s);
}

void uploads_quarantine(struct uploads *u, const char *tenant, const char *name, int version, const char *code, const char *detail)
{
    struct quarantine *q = calloc(1, sizeof *q);
    if (!q) return; /* the next fault counts again */
    q->job.run = run_quarantine;
    q->v.version = version;
    snprintf(q->v.tenant, sizeof q->v.tenant, "%s", tenant);
    snprintf(q->v.name, sizeof q->v.name, "%s", name);
    q->code = code;
    snprintf(q->detail, sizeof q->detail, "%s", detail);
    job_add_first(u, &q->job);
}

void uploads_fault(struct uploads *u, const char *tenant, const char *name, int version)
{
    struct version_name v = {.version = version};
    snprintf(v.tenant, sizeof v.tenant, "%s", tenant);
    snprintf(v.name, sizeof v.name, "%s", name);
    if (!faults_count(u, &v, clock_mono_us())) return;
    char detail[64];
    snprintf(detail, sizeof detail, "values that are not finite in %d answers", ADAPTER_FAULTS);
    uploads_quarantine(u, tenant, name, version, "adapter_fault", detail);
}

void faults_free(struct uploads *u)
{
    for (struct fault *f = u->faults, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    u->faults = NULL;
    u->nfaults = 0;
}
