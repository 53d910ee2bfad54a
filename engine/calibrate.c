/* calibrate: the scheduler as it ships, without HTTP, is given streams, prompts and adapters in turn, round after round, and every step says what it was
 * made of and how long it took; calibrate_fit.c finds the coefficients. So what is measured has everything that a step has: planning, products, sampling.
 *
 *     round: for each case: its streams at once, each with a prompt of its own, until the last ends
 *            an adapter is loaded, nothing else in flight; and beside four streams
 *
 * The machine changes within seconds, so cases take turns, and the fit takes the middle of them. The first round warms up and doesn't count.
 * Main thread; steps are noted on the step thread, under `lock`. */
#include "engine/calibrate.h"
#include "base/clock.h"
#include "base/conf.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/calibrate_adapter.h"
#include "engine/calibrate_fit.h"
#include "engine/calibrate_folder.h"
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMALL 8 /* adapters of SMALL_RANK, then LARGE of LARGE_RANK */
#define LARGE 2
#define ADAPTERS (SMALL + LARGE)
#define SMALL_RANK 16
#define LARGE_RANK 64
#define STREAMS_MAX 48
#define PROMPT_MAX 512
#define STEPS_MAX 100000
#define LOADS_MAX 512
#define BESIDE 4 /* streams beside a load */
#define SLOW_US 40000 /* a step of one stream: from there on answers are shorter */
#define SLOW_TOKENS 8
#define ROUNDS_LEAST 1
#define CONTEXT_LEAST 700
#define PROGRAM_BYTES (64 << 20) /* the program, its threads, and what tokenizer and HTTP keep */

_Static_assert(ADAPTERS == CALIBRATE_ADAPTERS, "what is made is what is removed");

enum { DONE = 0, BAD_USAGE = 2, BAD_MODEL = 3 };

struct calibrate_settings {
#define X CONF_FIELD
#include "schema/calibrate_settings.def"
#undef X
};
static const struct conf_row rows[] = {
#define X(...) CONF_ROW(struct calibrate_settings, __VA_ARGS__)
#include "schema/calibrate_settings.def"
#undef X
};

struct profile {
#define X CONF_FIELD
#include "schema/profile.def"
#undef X
};
static const struct conf_row profile_rows[] = {
#define X(...) CONF_ROW(struct profile, __VA_ARGS__)
#include "schema/profile.def"
#undef X
};

static const struct work {
    int streams, prompt, tokens, first, adapters; /* of the made ones, from `first` on, dealt to the streams */
} cases[] = {
    {1, 32, 32, 0, 0},          {1, 256, 4, 0, 0},           {2, 64, 24, 0, 0},           {4, 64, 24, 0, 0},  {8, 64, 32, 0, 0},
    {16, 64, 32, 0, 0},         {48, 32, 16, 0, 0},          {4, 512, 24, 0, 0},          {1, 512, 16, 0, 0}, {8, 48, 32, 0, SMALL},
    {8, 48, 24, SMALL, LARGE},  {4, 48, 24, 0, 4},           {32, 48, 8, 0, ADAPTERS},
};
#define WARM_STREAMS 8 /* more are not needed to warm up */
#define CASES (int)(sizeof cases / sizeof *cases)

struct load_time {
    double bytes, us;
    bool busy;
};

struct calibrate {
    const struct calibrate_settings *s;
    struct model *m;
    struct lora_set *loras;
    struct sched *sched;
    struct calibrate_folder folder;
    char digest[ADAPTERS][SHA256_HEX];
    int32_t prompt[PROMPT_MAX];
    uint64_t seed;
    double prior[COST_TERMS];
    struct load_time load[LOADS_MAX];
    int nloads;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t cond;
    struct fit_step *step;
    int nsteps, kind; /* kind < 0: not noted */
    int open, begun;  /* requests that have not ended; that have a token */
    bool loaded;
    struct err err; /* of a request or a load */
};

/* --- what is noted --- */

static void stepped(void *u, const struct step_shape *w, int64_t took_us)
{
    struct calibrate *c = u;
    pthread_mutex_lock(&c->lock);
    if (c->kind >= 0 && c->nsteps < STEPS_MAX && took_us > 0)
        c->step[c->nsteps++] = (struct fit_step){*w, (double)took_us, 2 * c->kind + (w->prefill_rows > 0)};
    pthread_mutex_unlock(&c->lock);
}

static void on_event(void *u, const struct gen_event *ev)
{
    struct calibrate *c = u;
    pthread_mutex_lock(&c->lock);
    c->begun += ev->kind == GEN_TOKEN && ev->counts.output == 1;
    c->open -= ev->kind == GEN_DONE;
    if (ev->kind == GEN_DONE && ev->error && !c->err.code) c->err = *ev->error;
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static void on_load(void *u, const struct err *e)
{
    struct calibrate *c = u;
    pthread_mutex_lock(&c->lock);
    if (e && !c->err.code) c->err = *e;
    c->loaded = true;
    pthread_cond_broadcast(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static int failed(struct calibrate *c, struct err *e)
{
    if (c->err.code) *e = c->err;
    return c->err.code ? -1 : 0;
}

/* --- work --- */

static int submit(struct calibrate *c, const struct work *w, int i, struct err *e)
{
    struct gen *g;
    struct gen_request r = {.prompt = c->prompt, .nprompt = w->prompt, .tenant = "", .weight = 1, .class = CLASS_BATCH, .on_event = on_event, .user = c};
    snprintf(r.id, sizeof r.id, "calibrate-%d", i);
    for (int k = 0; k < w->prompt; k++) {
        c->seed = c->seed * 6364136223846793005u + 1442695040888963407u;
        c->prompt[k] = (int32_t)((c->seed >> 33) % (uint64_t)c->m->tokens);
    }
    if (w->adapters) r.digest = c->digest[w->first + i * w->adapters / w->streams];
    r.p.max_tokens = w->tokens;
    r.p.ignore_eos = true;
    pthread_mutex_lock(&c->lock);
    c->open++;
    pthread_mutex_unlock(&c->lock);
    return sched_submit(c->sched, &r, &g, e);
}

static int start(struct calibrate *c, const struct work *w, int kind, struct err *e)
{
    pthread_mutex_lock(&c->lock);
    c->kind = kind;
    c->begun = 0;
    pthread_mutex_unlock(&c->lock);
    for (int i = 0; i < w->streams; i++)
        if (submit(c, w, i, e)) return -1;
    return 0;
}

static int finish(struct calibrate *c, struct err *e)
{
    pthread_mutex_lock(&c->lock);
    while (c->open > 0) pthread_cond_wait(&c->cond, &c->lock);
    c->kind = -1;
    int rc = failed(c, e);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static int run_case(struct calibrate *c, int i, bool counts, bool slow, struct err *e)
{
    struct work w = cases[i];
    if (slow && w.tokens > SLOW_TOKENS) w.tokens = SLOW_TOKENS;
    return start(c, &w, counts ? i : -1, e) || finish(c, e) ? -1 : 0;
}

/* --- loads --- */

static int await_load(struct calibrate *c, struct err *e)
{
    pthread_mutex_lock(&c->lock);
    while (!c->loaded) pthread_cond_wait(&c->cond, &c->lock);
    c->loaded = false;
    int rc = failed(c, e);
    pthread_mutex_unlock(&c->lock);
    return rc;
}

static void path_of(const struct calibrate *c, int i, const char *file, char out[3200])
{
    snprintf(out, 3200, "%s/a%d%s", c->folder.path, i, file);
}

static double bytes_of(const struct calibrate *c, int i)
{
    struct lora_info v[ADAPTERS];
    int n = lora_list(c->loras, v, ADAPTERS);
    for (int k = 0; k < n; k++)
        if (!strcmp(v[k].digest, c->digest[i])) return (double)v[k].bytes;
    return 0;
}

static int load(struct calibrate *c, int i, double *us, struct err *e)
{
    char path[3200];
    path_of(c, i, "", path);
    int64_t from = clock_mono_us();
    lora_load(c->loras, c->digest[i], path, on_load, c);
    if (await_load(c, e)) return -1;
    *us = (double)(clock_mono_us() - from);
    return 0;
}

static int reload(struct calibrate *c, int i, bool busy, struct err *e)
{
    struct load_time t = {.busy = busy};
    lora_unload(c->loras, c->digest[i], on_load, c);
    if (await_load(c, e) || load(c, i, &t.us, e)) return -1;
    t.bytes = bytes_of(c, i);
    if (c->nloads < LOADS_MAX) c->load[c->nloads++] = t;
    return 0;
}

static int time_loads(struct calibrate *c, bool slow, struct err *e)
{
    const struct work beside = {BESIDE, 32, slow ? SLOW_TOKENS : 64, 0, 0};
    for (int busy = 0; busy < 2; busy++) {
        if (busy && start(c, &beside, -1, e)) return -1;
        pthread_mutex_lock(&c->lock);
        while (busy && c->begun < BESIDE && c->open > 0) pthread_cond_wait(&c->cond, &c->lock);
        pthread_mutex_unlock(&c->lock);
        if (reload(c, 0, busy, e) || (!busy && reload(c, SMALL, busy, e))) return -1;
        if (finish(c, e)) return -1;
    }
    return 0;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The middle of the times of loads of that kind. */
static double middle_load(const struct calibrate *c, bool large, bool busy, double *bytes)
{
    double v[LOADS_MAX], most = 0;
    int n = 0;
    for (int i = 0; i < c->nloads; i++) most = fmax(most, c->load[i].bytes);
    for (int i = 0; i < c->nloads; i++) {
        if (c->load[i].busy != busy || (c->load[i].bytes == most) != large) continue;
        v[n++] = c->load[i].us;
        if (bytes) *bytes = c->load[i].bytes;
    }
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n ? v[n / 2] : 0;
}

static void tell_loads(const struct calibrate *c, struct profile *p)
{
    double small = 0, large = 0, of_small = middle_load(c, false, false, &small), of_large = middle_load(c, true, false, &large);
    if (!(small > 0) || !(large > small)) return;
    p->rank_bytes = (int64_t)(large / LARGE_RANK);
    if (of_large > of_small) p->load_bytes_us = (int64_t)fmax((large - small) / (of_large - of_small), 1);
    p->load_fixed_us = (int64_t)fmax(of_small - small / (double)p->load_bytes_us, 0);
    p->load_busy_percent = (int64_t)fmax(100 * middle_load(c, false, true, NULL) / of_small, 100);
}

/* --- life --- */

static int make_adapters(struct calibrate *c, struct err *e)
{
    char path[3200], weights[3200];
    if (calibrate_folder_make(&c->folder, c->s->folder, e)) return -1;
    for (int i = 0; i < ADAPTERS; i++) {
        struct adapter *a;
        bool first = i == 0 || i == SMALL;
        path_of(c, i < SMALL ? 0 : SMALL, "/adapter_model.safetensors", weights);
        path_of(c, i, "", path);
        if (made_adapter(path, &c->m->desc, i < SMALL ? SMALL_RANK : LARGE_RANK, 16 + i, first ? NULL : weights, e)) return -1;
        if (adapter_open(&a, path, &c->m->desc, NULL, e)) return -1;
        memcpy(c->digest[i], a->digest, sizeof c->digest[i]);
        adapter_close(a);
    }
    return 0;
}

static bool is_busy(void *u)
{
    const struct calibrate *c = u;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return sched_busy(c->sched) && (c->s->threads == 0 || c->s->threads >= cores);
}

static int open_engine(struct calibrate *c, struct err *e)
{
    const struct calibrate_settings *s = c->s;
    bool exact = strcmp(s->precision, "exact") == 0, int8 = strcmp(s->kv_type, "int8") == 0;
    if (!s->model[0]) return err_set(e, ERR_USAGE, "usage: weft-engine calibrate --model PATH [--out FILE]; see calibrate --help");
    if (!exact && strcmp(s->precision, "fast") != 0) return err_set(e, ERR_USAGE, "no such precision: '%s' (fast or exact)", s->precision);
    if (!int8 && strcmp(s->kv_type, "auto") != 0 && strcmp(s->kv_type, "bf16") != 0)
        return err_set(e, ERR_USAGE, "no such type of keys and values: '%s' (auto, bf16 or int8)", s->kv_type);
    const struct lora_options lo = {.max_slots = ADAPTERS, .max_known = ADAPTERS, .wait_ms = 60000, .max_rank = LARGE_RANK};
    const struct sched_options so = {.max_running = STREAMS_MAX, .max_waiting = 2 * STREAMS_MAX, .step_tokens = (int)s->step_tokens, .kernels = s->kernels,
                                     .threads = (int)s->threads, .kv_type = int8 ? KV_INT8 : KV_BF16, .stepped = stepped, .stepped_user = c};
    const struct cost_speed unknown = {0};
    if (model_load(&c->m, s->model, NULL, exact ? PREC_EXACT : PREC_FAST, 0, e)) return -1;
    if (c->m->max_context < CONTEXT_LEAST)
        return err_set(e, ERR_INVALID, "its context of %d positions is too short to measure in: %d", c->m->max_context, CONTEXT_LEAST);
    cost_prior(c->m, &unknown, c->prior);
    if (lora_set_new(&c->loras, c->m, &lo, e) || sched_new(&c->sched, c->m, c->loras, &so, NULL, e)) return -1;
    lora_set_pace(c->loras, is_busy, c);
    if (s->seconds == 0) return 0;
    c->step = calloc(STEPS_MAX, sizeof *c->step);
    if (!c->step) return err_set(e, ERR_NO_MEMORY, "no memory for %d steps", STEPS_MAX);
    if (make_adapters(c, e)) return -1;
    for (int i = 0; i < ADAPTERS; i++) {
        double us;
        if (load(c, i, &us, e)) return -1;
    }
    return 0;
}

static void close_engine(struct calibrate *c)
{
    if (c->loras) lora_set_pace(c->loras, NULL, NULL);
    if (c->sched) sched_free(c->sched);
    if (c->loras) lora_set_free(c->loras);
    if (c->m) model_free(c->m);
    calibrate_folder_remove(&c->folder);
    free(c->step);
}

static int measure(struct calibrate *c, int *rounds, struct err *e)
{
    int64_t end = clock_mono_us() + c->s->seconds * 1000000, from = clock_mono_us();
    if (run_case(c, 0, false, false, e)) return -1;
    bool slow = clock_mono_us() - from > SLOW_US * cases[0].tokens;
    for (*rounds = -1; *rounds < ROUNDS_LEAST || clock_mono_us() < end; ++*rounds) {
        for (int i = 0; i < CASES; i++)
            if ((*rounds >= 0 || cases[i].streams == WARM_STREAMS) && run_case(c, i, *rounds >= 0, slow, e)) return -1;
        if (time_loads(c, slow, e)) return -1;
        if (*rounds < 0) c->nloads = 0;
    }
    return 0;
}

/* --- what came of it --- */

/* A rank's bytes by the shapes; where adapters were loaded, those of the largest. */
static int64_t rank_bytes_of(const struct model *m)
{
    int64_t sum = 0;
    for (int l = 0; l < m->layers; l++)
        for (int i = 0; i < LORA_MODULES; i++) sum += base_desc_in(&m->desc, l, i) ? base_desc_in(&m->desc, l, i) + base_desc_out(&m->desc, l, i) : 0;
    return 2 * sum;
}

static void tell_sizes(struct calibrate *c, struct profile *p)
{
    struct sched_memory kept;
    const struct model *m = c->m;
    int64_t number = m->prec == PREC_EXACT ? 4 : strcmp(c->s->kv_type, "int8") ? 2 : 1;
    sched_get_memory(c->sched, &kept);
    p->weight_bytes = (int64_t)m->weight_bytes;
    p->kv_token_bytes = 0;
    for (int l = 0; l < m->layers; l++) p->kv_token_bytes += 2 * (int64_t)model_kv_heads(m, l) * (m->head_dim * number + (number == 1 ? 4 : 0));
    p->max_context = m->max_context;
    p->rank_bytes = rank_bytes_of(m);
    p->work_bytes = (int64_t)kept.workspace + PROGRAM_BYTES;
}

static void tell_times(struct calibrate *c, struct profile *p, double *error)
{
    double us[COST_TERMS];
    int64_t *const out[COST_TERMS] = {&p->step_ns, &p->decode_row_ns, &p->prefill_row_ns, &p->decode_context_ns, &p->prefill_context_ns, &p->rank_ns, &p->rank_row_ns};
    int free_rows = 0;
    *error = fit_free_rows(c->step, c->nsteps, c->prior, &free_rows, us);
    p->free_rows = free_rows;
    for (int i = 0; i < COST_TERMS; i++) *out[i] = llround(us[i] * 1e3);
    tell_loads(c, p);
}

static int write_profile(const struct calibrate *c, const struct profile *p, int rounds, double error, struct err *e)
{
    FILE *f = c->s->out[0] ? fopen(c->s->out, "we") : stdout;
    if (!f) return err_errno(e, "can't write %.200s", c->s->out);
    fprintf(f, "# %s, %s, %ld cores: %s\n", c->m->name, c->s->precision, sysconf(_SC_NPROCESSORS_ONLN),
            rounds > 0 ? "weft-engine calibrate" : "sizes only, times are no measurement");
    if (rounds > 0) fprintf(f, "# %d steps in %d rounds, explained with a mean error of %.1f %%\n", c->nsteps, rounds, 100 * error);
    for (size_t i = 0; i < CONF_ROWS(profile_rows); i++) {
        const char *name = profile_rows[i].name;
        bool lost = rounds > 0 && *(const int64_t *)((const char *)p + profile_rows[i].offset) == 0 && strlen(name) > 3 && strcmp(name + strlen(name) - 3, "_ns") == 0;
        if (lost) fprintf(f, "# %s was lost in what else ran here: measure again where it is quiet\n", name);
        fprintf(f, "%s = %lld\n", profile_rows[i].name, (long long)*(const int64_t *)((const char *)p + profile_rows[i].offset));
    }
    bool bad = ferror(f) || fflush(f);
    if (f != stdout) bad |= fclose(f) != 0;
    return bad ? err_errno(e, "can't write %.200s", c->s->out) : 0;
}

static int run(struct calibrate *c, struct err *e)
{
    struct profile p = {0};
    double error = 0;
    int rounds = 0;
    char *none[] = {(char[]){"calibrate"}};
    if (conf_load(profile_rows, CONF_ROWS(profile_rows), &p, 1, none, NULL, 0, NULL, e) || open_engine(c, e)) return -1;
    tell_sizes(c, &p);
    if (c->s->seconds > 0 && measure(c, &rounds, e)) return -1;
    if (rounds > 0) tell_times(c, &p, &error);
    return write_profile(c, &p, rounds, error, e);
}

int verb_calibrate(int argc, char **argv)
{
    static struct calibrate_settings s;
    static struct calibrate c = {.s = &s, .kind = -1, .seed = 1, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct err e = {0};
    const char *verb[1] = {NULL};
    int n = 0, rc = conf_load(rows, CONF_ROWS(rows), &s, argc, argv, verb, 1, &n, &e);
    if (rc > 0) return DONE;
    int level = rc ? LOG_WARN : log_level_parse(s.log_level);
    if (!rc && level < 0) rc = err_set(&e, ERR_USAGE, "no such log level: '%s' (debug, info, warn or error)", s.log_level);
    log_init("weft-engine", (enum log_level)level);
    json_start();
    if (!rc) rc = calibrate_folder_end_with(&c.folder, &e) || run(&c, &e) ? -1 : 0;
    close_engine(&c);
    if (rc) fprintf(stderr, "weft-engine: %s\n", e.msg);
    return rc ? e.code == ERR_USAGE ? BAD_USAGE : BAD_MODEL : DONE;
}
