/* What sched*.c share. Private: others use sched.h.
 *
 *   sched.c         submit, cancel, start, stop
 *   sched_admit.c   can a request meet its deadline
 *   sched_queue.c   places of requests, turns, deadlines; sched_tenant.c: tenants and their virtual counters
 *   sched_slots.c   which adapters may be asked for, who gives a slot back; sched_pin.c: the adapters of a request
 *   sched_room.c    places and pages, preemption; sched_evict.c: pages behind the window
 *   sched_budget.c  how many rows of prompts; sched_cost.c: what steps cost
 *   sched_plan.c    the rows of a step
 *   sched_follow.c  the step behind the one that a device runs
 *   sched_rows.c    which rows of a step use which adapters
 *   sched_prefix.c  pages of others that have the same beginning
 *   sched_spec.c    tokens guessed ahead; sched_past.c: from answers before; sched_draft.c: by a second model
 *   sched_medusa.c  guesses of heads beside the base; sched_tree.c: several guesses at one position
 *   sched_sample.c  from logits to tokens, on every thread of the pool
 *   sched_step.c    the step thread
 *   sched_check.c   what a request may say
 *   sched_gen.c     one request: its memory, its tokens, its end
 *   sched_state.c   what can be seen from outside
 *
 * `lock` guards what is marked [L]; what is marked [S] belongs to the step thread. No callback runs under it, and no
 * lock but the metrics' own is taken. The lists [L] of preempted and running sequences are changed by the step thread alone, which so may read
 * them without it. A request is freed by the step thread after its GEN_DONE, or by the late answer to its last pin. */
#pragma once
#include "engine/detok.h"
#include "engine/forward.h"
#include "engine/kv.h"
#include "engine/kv_touch.h"
#include "engine/medusa.h"
#include "engine/sched.h"
#include "engine/sched_cost.h"
#include "engine/trace.h"
#include <pthread.h>
#include <stdatomic.h>

#define SCHED_BUCKETS 1024      /* of the tenants' table */
#define SCHED_IDLE_TENANTS 1024 /* remembered without requests, so that leaving and coming back pays nothing off */
#define SCHED_TAG_MAX 64
#define SCHED_ENDS_MAX 64 /* end tokens of a vocabulary that min_tokens bans */
#define SCHED_TIMES 1024  /* step times remembered */
#define SPEC_GRAM 8       /* tokens compared to find what may be copied */
#define SPEC_SEQUENCES 2  /* running, beyond which nobody guesses */
#define SPEC_ROWS 9       /* of a step with guesses: on the processors seen further ones cost as much as a step each */
#define SPEC_LEN 3        /* tokens guessed at first: up to four rows cost what one does */
#define SLOTS_UNPIN 64    /* slots given back in one step */
#define SCHED_EXTRA                                                                                                    \
    64 /* logits of a step besides one per sequence: guesses to verify, prompts whose log-probabilities are asked */

enum gen_place {
    PLACE_WAITING,   /* may not ask for its adapters yet */
    PLACE_PINNING,   /* waits for its adapters */
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
    struct gen_list pinning, wanting[SCHED_CLASSES], ready[SCHED_CLASSES]; /* wanting: PLACE_WAITING */
    int waiting, running;                                                  /* requests; preempted ones are waiting */
    bool active;
    struct tenant *chain;       /* of the bucket */
    struct tenant *prev, *next; /* of the active or the idle */
};

struct tenant_list {
    struct tenant *first, *last;
    int n;
};

/* When it is somebody's turn: by level, then counter, then number. */
struct turn {
    int level;
    double counter;
    uint64_t number;
};

/* An adapter that requests name. */
struct want {
    char digest[SHA256_HEX];
    int refs;            /* pins of requests that are there, whether they hold it or not */
    int held, running;   /* pins that were reserved; of sequences that run */
    bool loading;        /* asked for, without an answer yet */
    int64_t since_us;    /* held */
    uint64_t span;       /* of the trace, while loading */
    uint64_t mark;       /* of the last plan that counted it */
    bool judged, yields; /* while a slot is taken back: sched_slots.c */
    struct turn best;
    struct want *chain;
};

/* One adapter of a request. */
struct gen_pin {
    struct gen *g;
    struct want *want; /* [L] */
    bool held, left;   /* [L] counts in want->held; no more in want->refs */
    char digest[SHA256_HEX];
    float weight;
    struct lora_entry *claim; /* while the request is there, so that unloading waits for it */
    struct lora_slot *slot;   /* [L] set once; the step thread reads it when PLACE_READY or later */
    int from;                 /* [S] the first position that uses it: 0, but for aLoRA */
};

/* What was guessed of a sequence: the tokens stand in ids[nids ..]. */
struct gen_spec {
    int n;            /* guessed for the next step */
    int len;          /* how many are tried */
    int pause, again; /* tokens waited after the last failure; the nout from which to try again */
    bool named;
    struct kv_key who; /* salt and adapters; once it is named */
    struct kv_seq kv;  /* of the draft model */
    int done;          /* positions of it that hold this sequence's tokens */
    /* by Medusa heads */
    bool tree;                    /* n nodes, whose tokens are among `top` */
    float gain;                   /* mean of tokens that a step's guesses brought; 0: none yet */
    int tree_pause, tree_again;   /* as those above */
    int row;                      /* of the pass `pass`: where the last token was chosen */
    uint64_t pass;
    int32_t top[MEDUSA_HEADS_MAX][MEDUSA_RANKS]; /* candidates of each head */
};

struct gen {
    struct sched *s;
    /* the request: never changes */
    char id[GEN_ID_LEN], trace[TRACE_HEX];
    struct gen_params p; /* strings in `strings`, bias its own */
    char *strings;
    struct token_bias *bias;
    int32_t *banned; /* before min_tokens */
    int nbanned;
    int nprompt;
    bool no_cache, prompt_logprobs;
    struct kv_key root; /* of its prefixes */
    void (*on_event)(void *u, const struct gen_event *ev);
    void *user;
    enum sched_class class;
    int64_t submit_us, deadline_us; /* deadline 0: none */
    uint64_t number;                /* of submission */
    char trace_id[TRACE_ID];        /* its id and number */
    int npins;                      /* adapters */
    /* [L] */
    enum gen_place place;
    struct gen *prev, *next; /* of the place's list */
    struct tenant *tenant;   /* NULL when it is over */
    bool cancel_asked;
    struct gen *next_cancelled;
    struct gen_pin pin[GEN_ADAPTERS];
    int pins_left;               /* reserved, without an answer yet */
    int64_t since_us, waited_us; /* waits since; waited before */
    int64_t placed_us;           /* in its place since */
    int64_t load_us, paused_us;  /* waited for its adapters before its first turn; waited after it */
    int64_t blocked_us;          /* lacks nothing but a slot since; 0: not so */
    bool decodes;                /* has told its first token */
    bool promoted;               /* late, and given a turn of the first level */
    bool put_off;                /* its place or its slot was taken from it */
    uint64_t span;               /* of the trace: the phase that it is in */
    uint64_t stamp;              /* of first admission: age among the running; 0: never ran */
    bool ended;                  /* while pins were on the way: the answer to the last frees it */
    bool cold;
    struct err err; /* PLACE_FAILED */
    /* [S] */
    uint64_t planned;     /* mark of the last plan that has its prompt */
    int64_t mask_us;      /* what its last mask took that was not known */
    bool sits_out;        /* this step, for want of a mask */
    int32_t *ids;         /* prompt, then what was chosen, then what is guessed */
    int nids, nout, done; /* done: positions whose keys and values are in the cache */
    struct kv_seq kv;
    struct kv_key *key; /* [kv.cap] of full pages, nkeys of them known */
    int nkeys, npublic; /* npublic: leading pages that are in the prefix cache, or had a twin there */
    int high, cached;   /* positions that were held before; prompt tokens never computed */
    bool looked;        /* counted among the queries of the cache */
    int told;           /* prompt tokens whose log-probabilities are settled: nprompt when none is wanted */
    struct gen_spec spec;
    struct grammar_state *grammar; /* or NULL; the pool's thread that samples the sequence changes it */
    struct detok detok;
    enum gen_finish finish; /* once it is decided */
    int64_t admitted_us, first_us, last_us;
};

/* A chain of guesses with pages of its own: sched_tree.c. */
struct tree_branch {
    int first, npages, page[2]; /* page i of the table is page[i - first] from `first` on */
    int *table;
};

struct tree {
    struct gen *g;
    int pos0; /* of its last token */
    const struct medusa_tree *shape;
    struct tree_branch branch[MEDUSA_NODES_MAX]; /* by chain; chain 0 is the sequence's own */
};

/* A sequence's share of a step: rows of its tokens, then rows of guessed ones; and its jobs: `given` for prompt tokens that are told, then one
 * that chooses when the rows reach its last token. */
struct part {
    struct gen *g; /* NULL: it ended in the step before, nobody wants what comes of its rows */
    int pos0, rows, drafts, given, job0;
    struct tree *tree; /* how drafts follow each other; NULL: one the other */
    int32_t token; /* of a plan that follows: where it was chosen (kernels/device.h) */
    bool chooses;
};

enum sample_rc { SAMPLE_OK, SAMPLE_NOT_FINITE, SAMPLE_NOTHING, SAMPLE_NO_MEMORY };

/* Consecutive logits of one sequence that one thread turns into tokens. */
struct job {
    struct gen *g;     /* NULL: as in its part */
    int logit, n;      /* n > 1: guesses to verify */
    int given;         /* > 0: the prompt position whose token is told; 0: tokens are chosen */
    const struct medusa_tree *tree; /* of the guesses, or NULL */
    int chosen;        /* result: how many of the n */
    int last;          /* result: of the n, the row that the last of them came from */
    bool over;         /* result: the grammar allows nothing after the last of them */
    enum sample_rc rc; /* result: of what came after them */
};

/* The arrays of a step, for the largest one. */
struct plan {
    int nparts, rows, njobs, nlogits, adapters, prefill_rows, draft_rows;
    bool follows;         /* made while the step before ran */
    int extra;            /* logits besides one per sequence */
    int chosen, accepted; /* results: tokens, and guesses among them */
    int discarded;        /* rows that nobody wants any more */
    struct step_shape shape;
    double estimate_us;
    int budget_rows;              /* prompt rows that the targets allow; -1: any */
    struct part *part;            /* [max_running] */
    int32_t *token;               /* [step_tokens] */
    struct attn_seq *seq;         /* [max_running + SPEC_SEQUENCES * MEDUSA_NODES_MAX] */
    struct lora_seg *seg;         /* [max_running * GEN_ADAPTERS] */
    int *logit_row;               /* [max_running + SCHED_EXTRA] */
    struct device_choice *choice; /* the same; where a device chooses */
    struct job *job;              /* the same */
    struct sample *sample;        /* the same */
    struct forward_batch batch;
    int ntrees;
    struct tree tree[SPEC_SEQUENCES];
    int *table; /* theirs */
    struct kv_copy copy[SPEC_SEQUENCES * MEDUSA_NODES_MAX];
};

struct sched {
    const struct model *m;
    struct lora_set *loras;
    struct sched_options o; /* step_tokens >= max_running */
    struct metrics *metrics;
    int32_t ends[SCHED_ENDS_MAX];
    int nends;
    struct kv_keep keep; /* what sequences keep of their pages; window 0: all */

    pthread_mutex_t lock;
    pthread_cond_t wake; /* the step thread: work; also: a late pin was answered */
    pthread_t thread;
    bool started, sync_ready;
    bool stop;                          /* [L] */
    uint64_t submitted;                 /* [L] */
    int waiting;                        /* [L] requests that never ran: bounded by max_waiting */
    int pins_pending;                   /* [L] */
    struct want *wanted[SCHED_BUCKETS]; /* [L] */
    int held, loading;                  /* [L] distinct adapters: reserved; without an answer yet */
    int base_running;                   /* [L] running sequences without an adapter */
    int base_there;                     /* [L] requests without an adapter, running or waiting */
    double most_demand, most_like;      /* [L] requests of a tenant by its weight, of an adapter: sched_budget.c */
    int64_t rare_until_us;              /* [L] short steps until then: sched_budget.c */
    bool express;                       /* [L] the last step was one: sched_budget.c */
    double owed_us;                     /* [L] of what expresses took: not paid off yet */
    int put_off;                        /* [L] requests that ran before and wait */
    int class_waiting[SCHED_CLASSES];   /* [L] */
    uint64_t stamps;                    /* [L] */
    int turns;                          /* [L] first admissions since one was promoted */
    struct gen_list preempted, running, failed; /* [L] by stamp, by stamp, any order */
    struct gen *cancelled;                      /* [L] */
    struct tenant *bucket[SCHED_BUCKETS];       /* [L] */
    struct tenant_list active, idle;            /* [L] idle: longest idle first */
    struct tenant *last_waiting; /* [L] who had requests waiting last; NULL: it is forgotten, its counter was */
    double last_counter;         /* [L] this */
    struct cost_model cost;      /* [L] */
    double stay_us, load_us;     /* [L] means: from admission to the end; of an adapter's load */
    int64_t next_deadline_us;    /* [L] none of those waiting is due before; INT64_MAX: none */
    uint64_t lora_changes;       /* [L] places of adapted requests that changed */
    uint64_t steps, preemptions, yields, drains; /* [L] */
    int last_budget, tail_tokens;                /* [L] */
    double waste;                                /* [L] */
    int last_rows, last_adapters;                /* [L] */
    int64_t times_us[SCHED_TIMES];               /* [L] ring by steps */
    int pages_used, pages_idle;                  /* [L] copies of the pool's counts */
    uint64_t prefix_queries, prefix_hits;        /* [L] tokens */
    uint64_t drafted, accepted;                  /* [L] tokens */

    _Atomic int64_t busy_since_us; /* 0: asleep */

    /* [S] */
    struct pool *pool;
    const struct kernels *kernels;
    struct kv_pool kv;
    struct kv_toucher *toucher; /* or NULL */
    struct forward *forward;
    struct sampler *sampler[POOL_THREADS_MAX];
    uint32_t *mask[POOL_THREADS_MAX]; /* of a grammar */
    struct draft *draft;              /* or NULL */
    struct guesser *guesser;          /* or NULL: no Medusa heads */
    uint64_t passes;
    struct pasts *pasts;              /* or NULL: nobody guesses */
    uint64_t evictions_noted;
    struct plan turn[2];
    struct plan *plan;         /* of these the one that is made, computed, taken; the other one may follow it */
    atomic_bool device_failed; /* the device did, and says so in the log: no step will be computed any more */
    uint64_t marks;            /* plans */
    double left_us;            /* of the step that is planned */
    uint64_t masked;           /* stamp of the last one that got time for a mask */
    struct lora_slot *unpin[SLOTS_UNPIN]; /* to be given back without the lock */
    int nunpin;
    int64_t begun_us, planned_us, computed_us; /* of the step: planning began, was over; products were done */
    uint64_t lora_noted;
    int64_t lora_noted_us;
    char *lora_running, *lora_waiting; /* labels last set */
};

/* The time, by the machine's clock or a test's. */
int64_t sched_now(const struct sched *s); /* sched_state.c */

/* --- sched_check.c --- */
int check_request(const struct sched *s, const struct gen_request *r, struct err *e);

/* --- sched_gen.c --- */
int gen_new(struct gen **out, struct sched *s, const struct gen_request *r, struct err *e);
void gen_free(struct gen *g); /* in no list, no pages, no pin */
void gen_name_trace(struct gen *g);
/* A chosen token: remembered, shown, and g->finish set when it was the last; over: nothing may follow it. Callback:
 * without the lock. */
void gen_take_token(struct gen *g, const struct sample *sample, bool over);
/* Prompt tokens g->told .. g->told+n-1. Callback: without the lock. */
void gen_tell_prompt(struct gen *g, const struct sample *samples, int n);
bool gen_is_stop_id(const struct gen *g, int32_t id);
/* The end: pages, place and pins are given back, then GEN_DONE, then it is freed. `e` with FINISH_ERROR. Step thread,
 * without the lock. */
void gen_end(struct gen *g, enum gen_finish finish, const struct err *e);

/* --- sched_queue.c; with the lock held --- */
int queue_enter(struct sched *s, struct gen *g, const char *tag, double weight, struct err *e);
void queue_move(struct gen *g, enum gen_place to);
void queue_fail(struct gen *g, enum err_code code, const char *msg); /* to PLACE_FAILED, unless it is there */
void queue_fail_all(struct sched *s);                                /* the engine stops */
void queue_charge(struct gen *g, double tokens);
int queue_level(const struct gen *g); /* 0: the most urgent */
struct turn turn_of(const struct gen *g);
int turn_compare(const struct turn *a, const struct turn *b);
struct gen *queue_next(struct sched *s);               /* whose turn it is among the ready; NULL: none */
void queue_fail_late(struct sched *s, int64_t now_us); /* those past their deadline; sets next_deadline_us */

/* --- sched_tenant.c; with the lock held --- */
struct tenant *tenant_of(struct sched *s, const char *tag, double weight, struct err *e); /* NULL: no memory */
void tenant_join(struct sched *s, struct tenant *t);       /* a request of it comes to wait */
void tenant_left_queue(struct sched *s, struct tenant *t); /* none of it waits any more */
void tenant_rest(struct sched *s, struct tenant *t);       /* goes idle, unless it has requests */
void tenant_charge(struct tenant *t, double tokens);
void tenants_free(struct sched *s);

#define COST_PROMPT 1.0 /* of a token, as in the paper: what is generated takes a whole step's turn */
#define COST_OUTPUT 2.0

/* --- sched_admit.c; with the lock held --- */
int admit_check(struct sched *s, const struct gen *g, const struct tenant *t, struct err *e); /* may it enter? */
double admit_estimate_us(const struct sched *s, const struct gen *g,
                         const struct tenant *t); /* until its first token */
void admit_note_load(struct sched *s, int64_t us);
void admit_note_stay(struct sched *s, int64_t us);

/* --- sched_slots.c; with the lock held --- */
int wants_enter(struct sched *s, struct gen *g, struct err *e); /* names its adapters */
void wants_leave(struct gen *g);
/* The next in turn that may ask for its adapters, now PINNING, for the caller to pins_ask(); NULL: none. */
struct gen *slots_reserve_next(struct sched *s);
void slots_answered(struct gen_pin *p, bool cold);
void slots_release(struct gen_pin *p);       /* its slot is given back, or was not got */
int64_t slots_deadline(const struct gen *g); /* until when it waits for a slot; INT64_MAX: it does not */
/* Takes slots back for the one that lacks one and is next; the caller gives s->unpin back and then asks for the result's pins, if any. */
struct gen *slots_drain(struct sched *s);
bool slots_wanted(struct sched *s); /* would one of the two above find somebody? */

/* --- sched_pin.c --- */
void pins_ask(struct gen *g); /* without the lock; reserved. It may be gone afterwards */
/* With the lock held: what is pinned, now the caller's to give back. */
int pins_withdraw(struct gen *g, struct lora_slot *out[GEN_ADAPTERS]);

/* --- sched_room.c; step thread, with the lock held --- */
void room_grow(struct sched *s);                   /* the running have pages for their next tokens, or are preempted */
void room_admit(struct sched *s);                  /* who may run from this step on */
void room_preempt(struct gen *g, const char *why); /* why NULL: for want of pages */
bool room_yields(const struct gen *v, const struct gen *g); /* v, running, to g */
bool room_wanted(struct sched *s);                          /* somebody waits that room_admit() might let in */

/* --- sched_evict.c; where keep.window is 0 they are what they would be without it --- */
int evict_target(const struct sched *s, const struct gen *g, int done); /* positions that it needs pages for, when it has done so many */
int evict_most(const struct sched *s, int tokens);                      /* pages that a sequence of so many holds at most */
int evict_looked(const struct sched *s, int pos);                       /* positions that a row at `pos` looks back on */
void evict_behind(struct sched *s, struct gen *g);                      /* gives back what it has behind it; step thread */
void evict_take(struct sched *s, struct gen *g, int pages); /* of the cache what it needs of its first pages, to go on behind as many as can be */

/* --- sched_budget.c; step thread, with the lock held --- */
bool budget_express(struct sched *s); /* puts prompts of the rare into the plan, and nothing else belongs there then */
void budget_prompts(struct sched *s); /* adds parts of prompts to the plan */
void budget_follow(struct sched *s, struct plan *p);     /* a step that follows has no prompts */
void budget_note_ranks(struct sched *s, struct plan *p); /* of the plan's parts */
int budget_ranks(const struct gen *g, int at); /* of the adapters that a sequence that runs uses at that position */
void budget_note_part(struct plan *p, const struct part *a, bool prompt);
double budget_target_us(const struct sched *s); /* of the next step; 0: none */

/* --- sched_plan.c --- */
int plan_init(struct plan *p, const struct sched_options *o, struct err *e);
void plan_close(struct plan *p);
bool plan_make(struct sched *s); /* with the lock held; false: nothing to compute */
void plan_add_prompt(struct sched *s, struct gen *g, int rows);
void plan_clear(struct plan *p, bool follows);
void plan_add_next(struct plan *p, struct gen *g,
                   int logit);                     /* the token that comes of this logit of the step before */
void plan_settle(struct sched *s, struct plan *p); /* its parts are there */

/* --- sched_follow.c: step thread --- */
/* With the lock held: the step behind s->plan, which runs, in the other plan; NULL: the planner decides when its tokens are there. */
struct plan *follow_make(struct sched *s);
void follow_forget(struct plan *next, const struct gen *g); /* it is over */

/* --- sched_rows.c --- */
int rows_compare(const struct gen *a, const struct gen *b); /* equal adapters stand together, none first */
void rows_place_adapters(struct gen *g);                    /* sets pin[].from */
/* The part's rows from `row` of the step on. */
void rows_add_segments(struct plan *p, const struct part *a, int row);

/* --- sched_prefix.c: step thread --- */
void prefix_take(struct sched *s, struct gen *g); /* at admission: pages of the cache, as g's first ones */
void prefix_begin(struct sched *s, struct gen *g,
                  int pages); /* with the lock held: it is admitted with so many of them */
/* In prefill: takes pages that others completed meanwhile; with the lock held. Returns the prompt tokens saved. */
int prefix_catch_up(struct sched *s, struct gen *g);
bool prefix_awaits(struct sched *s, struct gen *g); /* its next page is computed by one that is in the plan */
void prefix_publish(struct sched *s, struct gen *g);
void prefix_forget(struct sched *s, struct gen *g); /* what it published can't be trusted */

/* --- sched_spec.c: step thread, without the lock --- */
void spec_guess(struct sched *s);           /* sets spec.n of running sequences */
bool spec_may_guess(const struct sched *s); /* behind the step that runs */
void spec_learn(struct gen *g, int guessed, int right);

/* --- sched_past.c: step thread --- */
int pasts_new(struct pasts **out, struct err *e);
void pasts_free(struct pasts *p);
const int32_t *pasts_of(struct pasts *p, struct gen *g,
                        int *n);                       /* answers before under g's salt and adapters, or NULL */
void pasts_keep(struct pasts *p, const struct gen *g); /* it is over */

/* --- sched_draft.c: step thread, without the lock --- */
int draft_new(struct draft **out, struct sched *s, struct err *e);
void draft_free(struct draft *d);
/* Greedy guesses for g[0..n-1], want[i] tokens each into its ids; spec.n set. */
void draft_guess(struct draft *d, struct gen *const *g, const int *want, int n);
void draft_release(struct draft *d, struct gen *g); /* its pages */

/* --- sched_medusa.c: step thread, without the lock --- */
int guesser_new(struct guesser **out, struct sched *s, struct err *e);
void guesser_free(struct guesser *u);
void guesser_guess(struct guesser *u, struct gen *const *g, int n); /* sets spec.n, and the candidates for a tree */
void guesser_learn(struct gen *g, int right);                       /* of the guesses of a step */

/* --- sched_tree.c: step thread --- */
int tree_rooms_init(struct plan *p, const struct sched_options *o, int context, struct err *e);
/* With the lock held: g's guesses as a tree of n, its tokens behind g's own; NULL: no pages. Closed with its results. */
struct tree *tree_open(struct sched *s, struct plan *p, struct gen *g, int n);
int tree_fill(struct plan *p, const struct tree *r, int row, struct attn_seq *out); /* sequences that it makes of its rows */
/* `last`: the last node that was right, -1: none. */
void tree_close(struct sched *s, struct tree *r, int last);

/* --- sched_sample.c --- */
void sample_leave(struct plan *p);                    /* what a device may choose by itself, before the pass */
bool sample_is_plain(const struct gen *g, int index); /* it may choose the index-th token */
void sample_jobs(struct kthread *t, void *sched, const float *logits); /* on every thread of the pool */

/* --- sched_step.c --- */
void *sched_thread(void *sched);

/* --- sched_state.c --- */
size_t workspace_of(const struct sched *s); /* bytes, a device's too; sched.c */
void note_add(struct sched *s, size_t row, const char *label, double v);
void note_time(struct sched *s, size_t row, int64_t us);
void note_step(struct sched *s, int64_t took_us);     /* with the lock held: what is planned was computed */
void note_wait(struct sched *s, const struct gen *g); /* with the lock held: it is admitted */
void note_gauges(struct sched *s);                    /* with the lock held */
void note_adapters(struct sched *s, bool now);        /* step thread, without the lock */
