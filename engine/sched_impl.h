/* What sched*.c share. Private: others use sched.h.
 *
 *   sched.c         submit, cancel, start, stop
 *   sched_queue.c   places of requests, tenants and their virtual counters, admission
 *   sched_plan.c    pages, preemption, the rows of a step
 *   sched_step.c    the step thread
 *   sched_gen.c     one request: its memory, its tokens, its end
 *   sched_state.c   what can be seen from outside
 *
 * `lock` guards what is marked [L]; what is marked [S] belongs to the step thread. No callback runs under it, and no
 * lock but the metrics' own is taken. A request is freed by the step thread after its GEN_DONE, or by the late answer
 * to its pin. */
#pragma once
#include "engine/detok.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/sched.h"
#include <pthread.h>
#include <stdatomic.h>

#define SCHED_BUCKETS 1024      /* of the tenants' table */
#define SCHED_IDLE_TENANTS 1024 /* remembered without requests, so that leaving and coming back pays nothing off */
#define SCHED_TAG_MAX 64
#define SCHED_ENDS_MAX 64 /* end tokens of a vocabulary that min_tokens bans */
#define SCHED_TIMES 1024  /* step times remembered */

enum gen_place {
    PLACE_PINNING,   /* waits for its adapter */
    PLACE_READY,     /* waits for its turn */
    PLACE_PREEMPTED, /* was running, waits for pages */
    PLACE_RUNNING,
    PLACE_FAILED, /* to be ended with g->err */
    PLACE_NONE,   /* in no list */
};

struct gen_list {
    struct gen *first, *last;
    int n;
};

struct tenant {
    char tag[SCHED_TAG_MAX];
    double weight, counter; /* counter: tokens served, weighed (Sheng et al. 2024, "virtual token counter") */
    struct gen_list pinning, ready;
    int waiting, running; /* requests; preempted ones are waiting */
    bool active;
    struct tenant *chain;       /* of the bucket */
    struct tenant *prev, *next; /* of the active or the idle */
};

struct tenant_list {
    struct tenant *first, *last;
    int n;
};

struct gen {
    struct sched *s;
    /* the request: never changes */
    char id[GEN_ID_LEN];
    struct gen_params p; /* strings in `strings` */
    char *strings;
    int32_t *banned; /* before min_tokens */
    int nbanned;
    int nprompt;
    void (*on_event)(void *u, const struct gen_event *ev);
    void *user;
    int64_t submit_us, deadline_us; /* deadline 0: none */
    uint64_t number;                /* of submission */
    bool adapted;
    char digest[SHA256_HEX];
    /* [L] */
    enum gen_place place;
    struct gen *prev, *next; /* of the place's list */
    struct tenant *tenant;   /* NULL when it is over */
    bool cancel_asked;
    struct gen *next_cancelled;
    bool pin_pending, ended; /* ended while its pin was on the way: the pin's answer frees it */
    struct lora_slot *slot;  /* set once; the step thread reads it when PLACE_READY or later */
    bool cold;
    struct err err; /* PLACE_FAILED */
    /* [S] */
    uint64_t stamp;       /* of first admission: age among the running */
    int32_t *ids;         /* prompt, then what was chosen */
    int nids, nout, done; /* done: positions whose keys and values are in the cache */
    struct kv_seq kv;
    struct detok detok;
    enum gen_finish finish; /* once it is decided */
    int64_t admitted_us, first_us, last_us;
};

/* A sequence's share of a step. */
struct part {
    struct gen *g;
    int rows;
};

/* The arrays of a step, for the largest one. */
struct plan {
    int nparts, rows, nlogits, adapters, prefill_rows;
    struct part *part;      /* [max_running] */
    int32_t *token;         /* [step_tokens] */
    struct attn_seq *seq;   /* [max_running] */
    struct lora_seg *seg;   /* [max_running] */
    int *logit_row;         /* [max_running] */
    struct gen **logit_gen; /* [max_running] */
    struct sample *sample;  /* [max_running] */
    int *sample_rc;         /* [max_running] */
    struct forward_batch batch;
};

struct sched {
    const struct model *m;
    struct lora_set *loras;
    struct sched_options o; /* step_tokens >= max_running */
    struct metrics *metrics;
    int32_t ends[SCHED_ENDS_MAX];
    int nends;

    pthread_mutex_t lock;
    pthread_cond_t wake; /* the step thread: work; also: a late pin was answered */
    pthread_t thread;
    bool started, sync_ready;
    bool stop;                                  /* [L] */
    uint64_t submitted;                         /* [L] */
    int waiting;                                /* [L] requests that never ran: bounded by max_waiting */
    int pins_pending;                           /* [L] */
    struct gen_list preempted, running, failed; /* [L] by stamp, by stamp, any order */
    struct gen *cancelled;                      /* [L] */
    struct tenant *bucket[SCHED_BUCKETS];       /* [L] */
    struct tenant_list active, idle;            /* [L] idle: longest idle first */
    double last_counter;                        /* [L] of the last tenant that went idle */
    int64_t next_deadline_us;                   /* [L] none of those waiting is due before; INT64_MAX: none */
    uint64_t lora_changes;                      /* [L] places of adapted requests that changed */
    uint64_t steps, preemptions;                /* [L] */
    int last_rows, last_adapters;               /* [L] */
    int64_t times_us[SCHED_TIMES];              /* [L] ring by steps */
    int pages_used;                             /* [L] copy of the pool's count */

    _Atomic int64_t busy_since_us; /* 0: asleep */

    /* [S] */
    struct pool *pool;
    const struct kernels *kernels;
    struct kv_pool kv;
    struct forward *forward;
    struct sampler *sampler[POOL_THREADS_MAX];
    struct plan plan;
    uint64_t stamps;
    uint64_t lora_noted;
    int64_t lora_noted_us;
    char *lora_running, *lora_waiting; /* labels last set */
};

/* --- sched_gen.c --- */
int gen_new(struct gen **out, struct sched *s, const struct gen_request *r, struct err *e);
void gen_free(struct gen *g); /* in no list, no pages, no pin */
/* A chosen token: remembered, shown, and g->finish set when it was the last. Callback: without the lock. */
void gen_take_token(struct gen *g, const struct sample *sample);
/* The end: pages, place and pin are given back, then GEN_DONE, then it is freed. `e` with FINISH_ERROR. Step thread,
 * without the lock. */
void gen_end(struct gen *g, enum gen_finish finish, const struct err *e);

/* --- sched_queue.c; with the lock held --- */
int queue_enter(struct sched *s, struct gen *g, const char *tag, double weight, struct err *e);
void queue_move(struct gen *g, enum gen_place to);
void queue_fail(struct gen *g, enum err_code code, const char *msg); /* to PLACE_FAILED, unless it is there */
void queue_charge(struct gen *g, double tokens);
struct gen *queue_next(struct sched *s);               /* whose turn it is among the ready; NULL: none */
void queue_fail_late(struct sched *s, int64_t now_us); /* those past their deadline; sets next_deadline_us */
void queue_free(struct sched *s);

#define COST_PROMPT 1.0 /* of a token, as in the paper: what is generated takes a whole step's turn */
#define COST_OUTPUT 2.0

/* --- sched_plan.c --- */
int plan_init(struct plan *p, const struct sched_options *o, struct err *e);
void plan_close(struct plan *p);
bool plan_make(struct sched *s); /* with the lock held; false: nothing to compute */

/* --- sched_step.c --- */
void *sched_thread(void *sched);

/* --- sched_state.c --- */
void note_add(struct sched *s, size_t row, const char *label, double v);
void note_time(struct sched *s, size_t row, int64_t us);
void note_step(struct sched *s, int64_t took_us); /* with the lock held */
void note_gauges(struct sched *s);                /* with the lock held */
void note_adapters(struct sched *s, bool now);    /* step thread, without the lock */
