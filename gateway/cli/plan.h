/* What engines of a measured kind will do with given traffic: the arithmetic of `weft plan`, apart from who asks and how it is shown. docs/PLANNING.md has the formulas in words.
 *
 * All of it is plain arithmetic on doubles, microseconds and bytes; nothing is kept between calls. */
#pragma once
#include "base/conf.h"

struct plan_profile {
#define X CONF_FIELD
#include "schema/profile.def"
#undef X
};

struct plan_settings {
#define X CONF_FIELD
#include "schema/profile.def"
#include "schema/plan_settings.def"
#undef X
};
extern const struct conf_row plan_rows[];
extern const size_t plan_nrows;

/* A length: a lognormal that is cut off, as so many equally likely values. */
#define PLAN_QUANTILES 24
struct plan_length {
    double at[PLAN_QUANTILES], mean, square, triangle; /* means of x, x^2, x (x - 1) / 2 */
};
void plan_length(struct plan_length *l, double median, double sigma, double most);

#define PLAN_STATES 1025 /* sequences in an engine, 0 .. */
#define PLAN_RANKS 16

struct plan_case {
    const struct plan_settings *o;
    struct plan_length prompt, output;
    double rate;    /* requests a second, of all engines; of streams it comes out */
    double streams; /* 0: they come at `rate`, whatever is in flight */
    int engines, slots;
    double rank_mean;
};

struct plan_engine {
    double rate;                /* requests a second of one engine */
    double busy;                /* of its time; 1 and more: it cannot keep up */
    double state[PLAN_STATES];  /* chance of so many sequences; the last: that many and more */
    double running, adapters;   /* means: sequences, distinct adapters among them */
    double step_us, decode_us;  /* mean of steps; one without a prompt */
    double share[4];            /* of its time: prompts, decoding rows, ranks, steps themselves */
    double cold;                /* of requests */
    double load_us;             /* mean of a cold load */
    double ttft_ms[4], tpot_ms[4]; /* p50, p90, p99, mean */
    double prompt_tokens_s, output_tokens_s; /* of all engines */
    double most_rate;           /* requests a second at which one engine is busy all the time */
    double kv_tokens;           /* that are held, all but once in a thousand times */
    int k_high;                 /* sequences, likewise */
};

enum { PLAN_PROMPTS, PLAN_ROWS, PLAN_ADAPTERS, PLAN_STEPS };

/* 0, or ERR_USAGE of `ranks`. c->o, rate or streams, engines and slots are the caller's. */
int plan_begin(struct plan_case *c, const struct plan_settings *o, struct err *e);
void plan_engine(const struct plan_case *c, struct plan_engine *out);

/* Cold loads, as a part of requests: n engines of so many slots, each with `flight` requests in flight on the mean. */
double plan_cold(const struct plan_settings *o, int engines, int slots, double flight);
double plan_step_us(const struct plan_case *c, double k); /* of a step in which k sequences decode */
double plan_ranks(const struct plan_case *c, double k, double *distinct); /* of the distinct adapters of k sequences */
double plan_work_us(const struct plan_case *c, double k); /* of an engine's time that a request takes where k are in it */

/* Coefficients of o as of a base of those sizes instead of its own. */
void plan_scale(struct plan_settings *o, const struct plan_profile *to);

/* The least engines and slots that hold what is asked for; those that are given stay. `why`: what the last that did not was short of. */
struct plan_choice {
    int engines, slots, max_running;
    bool holds; /* false: the most that may be do not */
    const char *limit; /* what fewer engines would miss */
    struct plan_engine peak, mean;
    double engine_bytes, kv_bytes, slot_bytes, disk_bytes; /* of one engine; of it; of it; adapters' files */
    double cost_million, cost_million_full; /* of prompt and output tokens, at the mean rate and where engines are full */
};
int plan_choose(const struct plan_settings *o, struct plan_choice *out, struct err *e);
