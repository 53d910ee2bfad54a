/* What upload*.c and import.c share: jobs, claims, waiting requests. Not for others. */
#pragma once
#include "adapters/store.h"
#include "base/json.h"
#include "gateway/db/db_audit.h"
#include "gateway/registry/registry_upload.h"
#include "gateway/registry/residency.h"
#include "gateway/registry/upload.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdatomic.h>

#define JOB_THREADS_MAX 16
#define IMPORT_THREADS_MAX 16
#define UPLOADS_OPEN_MAX 64 /* multipart bodies at a time */
#define UPLOADS_OPEN_OF_ONE (UPLOADS_OPEN_MAX / 2) /* of a tenant */
#define WAITERS_MAX 1024    /* requests that wait for a version */
#define WAIT_MS 600000      /* longest wait of one */
#define TEST_FOR_MS 600000  /* how long a self-test is tried where no engine can */
#define TEST_AGAIN_MS 500
#define ADAPTER_FAULTS 2 /* then the version is quarantined */
#define DESCRIPTION_MAX 1024

/* A piece of work; embedded at the front of what it needs, which run() frees. With u->stop it does nothing else. */
struct job {
    void (*run)(struct uploads *u, struct job *j);
    struct job *next;
    int64_t due_us;
    const char *tenant; /* of an import: in what follows the job */
};

struct claim {
    const char *digest;
    struct claim *next;
};

/* A version on its way, as jobs and waiting requests name it. */
struct version_name {
    char tenant[UUID_LEN];
    char name[NAME_MAX_LEN + 1];
    int version;
};

struct waiter;
struct fault;
struct busy {
    char id[UUID_LEN];
    struct busy *next;
};

/* Imports that wait, and the threads that make them; under uploads.lock. */
struct imports {
    int nthreads;
    pthread_t thread[IMPORT_THREADS_MAX];
    const char *running[IMPORT_THREADS_MAX]; /* whose; NULL: none */
    pthread_cond_t work;
    struct job *first; /* oldest first */
};

struct uploads {
    struct gateway *g;
    int nthreads;
    pthread_t thread[JOB_THREADS_MAX], keeper;
    bool has_keeper;
    atomic_bool stop;
    pthread_mutex_t lock; /* covers the rest; nothing is called under it */
    pthread_cond_t work, released, tick;
    struct job *first, *last, *later; /* in order; and those that are due later */
    struct imports imports;
    struct upload *open;              /* multipart bodies */
    int nopen;
    struct claim *claims;
    struct busy *busy; /* uploads whose files are being written or read */
    struct waiter *waiters;
    int nwaiters;
    struct fault *faults;
    int nfaults;
    bool draining; /* versions that go are still held */
};

/* upload_jobs.c */
void job_add(struct uploads *u, struct job *j, int delay_ms); /* run() comes in any case */
void job_add_first(struct uploads *u, struct job *j);         /* before all that wait */
void digest_claim(struct uploads *u, struct claim *c, const char *digest);
void digest_release(struct uploads *u, struct claim *c);
int busy_take(struct uploads *u, const char *id, struct err *e); /* ERR_CONFLICT */
void busy_give(struct uploads *u, const char *id);
void busy_list_free(struct uploads *u);
bool busy_is(struct uploads *u, const char *id);

/* upload_imports.c: run() comes in any case, on a thread for imports. The tenant's text must live until then. */
void imports_add(struct uploads *u, struct job *j, const char *tenant);
int imports_start(struct uploads *u, struct err *e);
void imports_stop(struct uploads *u); /* after u->stop was set, before the last look at the other jobs */

/* upload_wait.c: answers r with the version, once it is settled (or at once, where it is). */
void version_wait(struct uploads *u, struct http_request *r, const struct version_name *v, int status);
/* v is settled, as its version number `is`. */
void version_settled(struct uploads *u, const struct version_name *v, int is);
/* What an answer says of a version beside its row: the adapter's id and description, where it is resident. */
int version_beside(struct gateway *g, const struct version_name *v, struct json_t **out, struct err *e);
/* Adds where a version (an object with "digest") is. */
void version_add_residency(struct gateway *g, struct json_t *version);
void version_answer(struct gateway *g, struct http_request *r, const struct version_name *v, int status);
void waiters_tick(struct uploads *u, bool all);

/* upload_check.c: files in a folder -> what is registered. */
struct quota {
    int64_t versions, bytes, pinned; /* bytes -1: no bound */
    int rank;
};
void quota_of(struct gateway *g, const char *tenant, struct quota *out);
int files_check(struct gateway *g, const char *dir, const char *tenant, struct version_new *v, struct json_t **report,
                struct err *e);
/* Into the store and the registry, as one step for this digest; then the self-test where it has to be. */
int files_keep(struct uploads *u, const struct actor *by, char *dir, const struct version_new *v, int *version,
               bool *created, struct err *e);
/* The tensor that a refusal is about, or "". */
void failed_tensor(const char *msg, char out[160]);

/* upload_test.c */
int test_queue(struct uploads *u, const struct version_name *v, struct err *e);
/* Counts one more; true at the last that is borne, when the count begins anew. */
bool faults_count(struct uploads *u, const struct version_name *v, int64_t now_us);
void faults_forget(struct uploads *u, const char *tenant, const char *name, int version); /* version 0: all of the adapter's */
void faults_free(struct uploads *u);

/* upload_parts.c: completed ones, imports; what a start finds. */
void parts_queue(struct uploads *u, const char *id);
void parts_start(struct uploads *u);               /* after the start: what was being validated goes on */
int parts_sweep(struct gateway *g, struct err *e); /* tmp/, but for uploads that live */
void parts_expire(struct uploads *u);
void parts_collect(struct uploads *u); /* folders in tmp/ whose upload was removed with its version */
