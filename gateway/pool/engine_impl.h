/* What the engine*.c files share. Not for others. */
#pragma once
#include "gateway/pool/engine.h"
#include "gateway/pool/engine_gone.h"
#include <pthread.h>
#include <stdatomic.h>

#define ENGINE_LOAD_BUCKETS 1024
#define ENGINE_LOADS_MAX 65536  /* digests remembered as loaded */
#define ENGINE_UNLOADS_MAX 1024 /* unload calls that wait for a repetition */
#define ENGINE_FINGERPRINT 65

/* The process on the socket, as the pid file names it. */
struct engine_process {
    pid_t pid;                /* 0: none */
    unsigned long long start; /* its start time in clock ticks: a pid alone may have been given to somebody else */
    int pidfd;                /* -1: none */
    bool child;               /* ours to wait for */
};

struct engine_load;
struct engine_unload_job;

struct engine {
    struct engine_options o;                 /* strings are owned */
    const char *extra[ENGINE_EXTRA_MAX + 1]; /* o.extra's */
    struct client *client;
    bool spawned;
    char *auth; /* "Authorization: Bearer ...", or NULL */
    char *base_url;
    const char *unix_socket; /* in o.socket or o.url, or NULL */
    char *pid_file;
    char fingerprint[ENGINE_FINGERPRINT]; /* of what the engine was started with */
    int wake;                             /* eventfd */
    pthread_t watcher;

    /* The watcher's own. */
    struct engine_process proc;
    int64_t since_us, retry_us, complained_us;
    int backoff_ms, failures;
    int64_t judge_us;      /* when the end of life `ended` is told; 0: it was */
    uint64_t ended;
    bool crashed;
    int64_t oom_kills; /* the kernel's, at the last look */

    _Atomic int state;   /* enum engine_state; written by the watcher under the lock */
    atomic_bool suspect; /* written under the lock */
    _Atomic uint64_t lives;
    struct engine_counts first;  /* the watcher's own: as it counted when it became ready */
    int ticks;                   /* the watcher's own */

    pthread_mutex_t lock; /* covers the rest; nothing is called under it but client_start and client_cancel */
    pthread_cond_t changed;
    bool refused, stop, known;
    struct engine_queue queue;   /* of the last look */
    struct engine_tally tally;
    struct engine_view view;
    char why[256], why_load[256];
    uint64_t generation; /* counts the lives of what it holds */
    struct engine_load *load[ENGINE_LOAD_BUCKETS];
    int nloads;
    struct gone gone; /* what it held once */
    int calls;                         /* load and unload calls under way */
    struct engine_unload_job *unloads; /* under way or to be repeated */
    int nunloads;
};

/* engine_process.c: the process behind the socket. */
int process_find(struct engine *g, struct engine_process *out,
                 char fingerprint[ENGINE_FINGERPRINT]); /* by the pid file: 0, or -1: none of ours lives */
int process_spawn(struct engine *g, struct engine_process *out, struct err *e);
bool process_alive(struct engine_process *p, int *exit_code);               /* false once; *exit_code -1: not known */
void process_end(struct engine *g, struct engine_process *p, int grace_ms); /* SIGTERM, then SIGKILL */
void process_forget(struct engine *g, struct engine_process *p);
void process_fingerprint(const struct engine_options *o, char out[ENGINE_FINGERPRINT]);

/* engine_load.c */
void loads_forget_all(struct engine *g);           /* under the lock */
void loads_lost(struct engine *g);                 /* the same: it ended with all that it held */
void loads_note(void *engine, const char *digest); /* it holds this one */
void loads_close(struct engine *g);
void unloads_repeat(struct engine *g);
