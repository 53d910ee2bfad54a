/* weft-engine: one base model on one device, served over HTTP (schema/ENGINE_API.md).
 *
 * Main binds first, so that /health answers at once, then a second thread loads the model while main waits for signals:
 * a SIGTERM during a long load is obeyed at once. Afterwards main is the one that watches: that a step doesn't hang,
 * and that somebody still talks to this engine (orphan_s).
 *
 *     bind -> loading -> serving -> drain -> withdraw -> free scheduler, adapters, server, model -> exit 0
 *                |           |        |
 *                |           |        +-- stopping does not end: exit 4
 *                |           +-- a step hangs, or the device fails or hangs: exit 4
 *                +-- model refused: exit 3; device or memory refused, or the device hangs: exit 4
 *
 * What hangs in a driver cannot be joined or cancelled, so such an end is an _exit: connections break off, and who
 * started this engine starts another.
 *
 * Exit codes: 0 asked to stop, 2 bad arguments, 3 model refused, 4 device failed, 5 the process that fetches adapters ended. */
#include "base/clock.h"
#include "base/conf.h"
#include "base/confine.h"
#include "base/json.h"
#include "base/log.h"
#include "base/version.h"
#include "engine/api.h"
#include "engine/cache.h"
#include "engine/calibrate.h"
#include "engine/kv.h"
#include "engine/medusa.h"
#include "engine/meters.h"
#include "engine/model_device.h"
#include "engine/pull.h"
#include "engine/reach_settings.h"
#include "engine/room.h"
#include "engine/trace.h"
#include "engine/verbs.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TICK_MS 100
#define OPEN_PATIENCE 5      /* times hang_s: a driver that starts, and kernels that it translates for a newer device */
#define FAILED_GRACE_MS 1000 /* after a device failed: so that what is in flight hears of it */
#define GRAMMAR_CACHE_BYTES ((size_t)64 << 20)
#define TOKEN_MAX 4096
#define USAGE_HINT                                                                                                     \
    "usage: weft-engine serve --model PATH (--socket PATH | --listen ADDR:PORT --token-file F), quantize IN OUT, "     \
    "prune IN OUT, eval, trace OUT, or calibrate; see --help"

enum exit_code { EXIT_ASKED = 0, EXIT_USAGE = 2, EXIT_MODEL = 3, EXIT_DEVICE = 4, EXIT_PULLER = 5 };

struct settings {
#define X(field, type, deflt, min, max, env, help) CONF_CTYPE_##type field;
#include "schema/engine_settings.def"
#undef X
};

static const struct conf_row rows[] = {
#define X(field, type, deflt, min, max, env, help)                                                                     \
    {#field, CONF_##type, deflt, min, max, env, help, offsetof(struct settings, field)},
#include "schema/engine_settings.def"
#undef X
};

/* What is loaded; written by the loading thread, read by main once `state` says so. */
struct engine {
    const struct settings *s;
    struct api *api;
    struct metrics *metrics;
    struct cache *cache;         /* NULL: none */
    struct device *device;       /* NULL: this processor */
    struct device_plan plan;     /* of it */
    struct model *model, *draft; /* draft NULL: none */
    struct medusa *medusa;       /* NULL: none */
    struct pull *pull; /* NULL: the store is the gateway's */
    struct lora_set *loras;
    struct constrain *constrain;
    struct sched *sched;
    struct trace *trace; /* or NULL */
    struct err error;
    enum exit_code refused;
    pthread_t loader;
    atomic_int state;
};

enum { LOADING, SERVING, REFUSED };

/* What this program does besides `serve`. */
static const struct {
    const char *word;
    int (*run)(int argc, char **argv);
} verbs[] = {{"quantize", verb_quantize}, {"prune", verb_prune}, {"eval", verb_eval}, {"trace", verb_trace}, {"calibrate", verb_calibrate}};

/* --- arguments --- */

static int usage_error(const struct err *e)
{
    fprintf(stderr, "weft-engine: %s\n", e->msg);
    return EXIT_USAGE;
}

static bool one_of(const char *word, const char *a, const char *b)
{
    return !strcmp(word, a) || !strcmp(word, b);
}

/* Pages are given back, or positions passed over: devices do neither. */
static bool windowed(const struct settings *s)
{
    return s->kv_window > 0 || strcmp(s->kv_evict, "on") == 0;
}

static int check_settings(const struct settings *s, struct err *e)
{
    if (!s->model[0]) return err_set(e, ERR_USAGE, "--model is missing");
    if (!s->socket[0] == !s->listen[0]) return err_set(e, ERR_USAGE, "give either --socket or --listen");
    if (s->medusa[0] && s->draft_model[0])
        return err_set(e, ERR_USAGE, "give either --medusa or --draft-model: both guess where the text itself has nothing to copy");
    if (s->listen[0] && !s->token_file[0]) return err_set(e, ERR_USAGE, "--listen needs --token-file");
    if (!one_of(s->device, "auto", "cpu") && !device_is_name(s->device))
        return err_set(e, ERR_USAGE, "no such device: '%s' (auto, cpu, cuda or cuda:N)", s->device);
    if (!one_of(s->precision, "fast", "exact"))
        return err_set(e, ERR_USAGE, "no such precision: '%s' (fast or exact)", s->precision);
    if (!one_of(s->kv_type, "auto", "bf16") && strcmp(s->kv_type, "int8") != 0)
        return err_set(e, ERR_USAGE, "no such type of keys and values: '%s' (auto, bf16 or int8)", s->kv_type);
    if (!one_of(s->augment, "auto", "on") && strcmp(s->augment, "off") != 0)
        return err_set(e, ERR_USAGE, "augment is '%s': auto, on or off", s->augment);
    if (!strcmp(s->precision, "exact") && strcmp(s->kv_type, "auto") != 0)
        return err_set(e, ERR_USAGE, "kv_type %s goes with precision fast: exact keeps float32", s->kv_type);
    if (!strcmp(s->precision, "exact") && device_is_name(s->device))
        return err_set(e, ERR_USAGE, "precision exact is the CPU's: %s has fast", s->device);
    if (s->tp > 1 && (!strcmp(s->precision, "exact") || !strcmp(s->device, "cpu")))
        return err_set(e, ERR_USAGE, "tp %d goes with a device, and precision fast", (int)s->tp);
    double number;
    if (reach_number("rope_factor", s->rope_factor, &number, e) || reach_number("rope_theta", s->rope_theta, &number, e)) return -1;
    if (!one_of(s->kv_evict, "auto", "on") && strcmp(s->kv_evict, "off") != 0)
        return err_set(e, ERR_USAGE, "kv_evict is '%s': auto, on or off", s->kv_evict);
    if (windowed(s) && (device_is_name(s->device) || s->tp > 1))
        return err_set(e, ERR_USAGE, "kv_window and kv_evict on are the CPU's: give --device cpu");
    if (!room_word_is_good(s->confine)) return err_set(e, ERR_USAGE, "confine is '%s': auto, on or off", s->confine);
    if (s->pull_url[0] && strncmp(s->pull_url, "http://", 7) != 0 && strncmp(s->pull_url, "https://", 8) != 0)
        return err_set(e, ERR_USAGE, "pull_url must begin with http:// or https://");
    if (s->pull_url[0] && (!s->pull_token_file[0] || s->store[0] != '/'))
        return err_set(e, ERR_USAGE, "--pull-url needs --pull-token-file, and --store with an absolute path");
    if (log_level_parse(s->log_level) < 0)
        return err_set(e, ERR_USAGE, "no such log level: '%s' (debug, info, warn or error)", s->log_level);
    return 0;
}

/* The token's file: one line of visible characters; white space around it doesn't count. */
static int read_token(const char *path, char out[TOKEN_MAX], struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) return err_errno(e, "cannot open the token file %s", path);
    size_t n = fread(out, 1, TOKEN_MAX - 1, f);
    bool whole = feof(f) && !ferror(f);
    fclose(f);
    while (n && strchr(" \t\r\n", out[n - 1])) n--;
    out[n] = 0;
    bool good = whole && n > 0;
    for (size_t i = 0; i < n; i++) good &= out[i] > 0x20 && out[i] < 0x7f;
    return good ? 0 : err_set(e, ERR_USAGE, "the token file %s must hold one token of visible ASCII characters", path);
}

/* --- loading --- */

static int refuse(struct engine *g, enum exit_code code)
{
    g->refused = code;
    return -1;
}

/* An engine without a cache starts later and answers the same. */
static void open_cache(struct engine *g)
{
    struct err why = {0};
    if (!g->s->cache[0] || !g->s->cache_mb) return;
    if (cache_open(&g->cache, g->s->cache, g->s->cache_mb << 20, &why)) log_warn("no_cache", LS("why", why.msg));
}

/* A guess is a token id, so both must mean the same by it. */
static int load_draft(struct engine *g, enum precision prec)
{
    const char *path = g->s->draft_model;
    if (!path[0] || g->s->speculate == 0) return 0;
    const struct model_options o = {
        .name = "draft", .prec = prec, .cache = g->cache, .keep_mapped = g->s->share_weights};
    if (model_open(&g->draft, path, &o, &g->error)) return -1;
    if (g->draft->tokens != g->model->tokens)
        return err_set(&g->error, ERR_USAGE, "the draft model %s has %d tokens, the model %d", path, g->draft->tokens,
                       g->model->tokens);
    for (int i = 0; i < g->model->tokens; i++) {
        size_t n, m;
        const char *a = tokenizer_bytes(g->model->tok, i, &n), *b = tokenizer_bytes(g->draft->tok, i, &m);
        if (n != m || memcmp(a, b, n) != 0)
            return err_set(&g->error, ERR_USAGE,
                           "token %d of the draft model %s is not the model's: '%.*s', not '%.*s'", i, path, (int)m, b,
                           (int)n, a);
    }
    return 0;
}

/* They read the workspace of a step, which is the CPU's. */
static int load_medusa(struct engine *g)
{
    const struct settings *s = g->s;
    if (!s->medusa[0] || s->speculate == 0) return 0;
    if (g->device)
        return err_set(&g->error, ERR_USAGE, "medusa goes with the CPU: give --device cpu, or leave --medusa out");
    return medusa_load(&g->medusa, s->medusa, g->model, &g->error);
}

/* Has the loader of adapters to stand back? Not where a core is left over beside the compute threads, nor where a device
 * computes. */
static bool busy(void *u)
{
    const struct engine *g = u;
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return !g->device && sched_busy(g->sched) && (g->s->threads == 0 || g->s->threads >= cores);
}

/* A device where one was asked for, or where one answers and nobody asked for the CPU. */
static int open_device(struct engine *g, enum precision prec)
{
    const struct settings *s = g->s;
    struct device_about about;
    struct err why = {0};
    bool any = strcmp(s->device, "auto") == 0 && s->tp == 1;
    if (strcmp(s->device, "cpu") == 0 || prec == PREC_EXACT || windowed(s)) return 0;
    if (device_open(&g->device, strcmp(s->device, "auto") ? s->device : "cuda", (int)s->tp, &why)) {
        if (!any) return err_set(&g->error, why.code, "%s", why.msg);
        log_info("device", LS("device", "cpu"), LS("why", why.msg));
        return 0;
    }
    device_about(g->device, &about);
    log_info("device", LS("device", about.backend), LS("name", about.name), LI("ranks", about.ranks),
             LI("memory", (int64_t)about.memory));
    return 0;
}

static enum device_augment augment_of(const char *word)
{
    return one_of(word, "on", "auto") ? (strcmp(word, "on") ? AUGMENT_AUTO : AUGMENT_ON) : AUGMENT_OFF;
}

/* What was timed at start, and what was chosen by it. */
static void log_measured(const struct device_measured *m)
{
    if (m->s > 0)
        log_info("device_measured", LI("ms", (int64_t)(m->s * 1000)), LI("shapes", m->shapes), LI("timed", m->timed),
                 LI("gb_s", (int64_t)(m->bytes_us / 1000)), LI("gflops", (int64_t)(m->flops_us / 1000)),
                 LI("launches_us", (int64_t)m->step_us), LS("ways", m->ways));
    if (m->augment_ranks)
        log_info("augment", LI("rank", m->augment_ranks), LI("columns", m->augment_columns),
                 LI("tried", m->augment_tried), LI("taken", m->augment_taken),
                 LI("columns_us", (int64_t)m->augment_with_us), LI("kernels_us", (int64_t)m->augment_without_us));
}

/* The model's constants and room for everything else, on the device. */
static int start_device(struct engine *g, const struct sched_options *o, struct lora_options *lo)
{
    const struct settings *s = g->s;
    const struct model_device_options mo = {.kv_type = o->kv_type,
                                            .max_rows = sched_rows(o),
                                            .max_seqs = o->max_running,
                                            .max_logits = sched_logits(o),
                                            .max_segs = sched_segments(o),
                                            .max_rank = lora_rank_pad((int)s->max_rank),
                                            .slots = (int)s->max_slots,
                                            .adapter_bytes = s->adapter_mb << 20,
                                            .kv_bytes = s->kv_mb << 20,
                                            .augment = augment_of(s->augment),
                                            .e4m3_rows = s->fp8_rows};
    if (!g->device) return 0;
    if (model_to_device(g->model, g->device, &mo, &g->plan, &g->error)) return -1;
    const struct device_plan *p = &g->plan;
    log_info("device_plan", LI("weights", (int64_t)p->weights), LI("constants", (int64_t)p->constants),
             LI("kv", (int64_t)p->kv), LI("kv_pages", p->kv_pages), LI("adapters", (int64_t)p->adapters),
             LI("workspace", (int64_t)p->workspace), LI("staging", (int64_t)p->staging), LI("total", (int64_t)p->total),
             LI("memory", (int64_t)p->memory));
    log_measured(&p->measured);
    lo->device = g->device;
    if (!lo->max_bytes) lo->max_bytes = (int64_t)p->adapters;
    return 0;
}

/* What does not change while it runs; graphs and replays are read when somebody asks (api_metrics). */
static void note_device(struct engine *g)
{
    const struct device_plan *p = &g->plan;
    const struct {
        const char *area;
        size_t bytes;
    } areas[] = {{"weights", p->weights},         {"constants", p->constants}, {"kv", p->kv},
                 {"adapters", p->adapters},       {"workspace", p->workspace}, {"staging", p->staging},
                 {"unused", p->memory - p->total}};
    struct device_about about = {.backend = "cpu", .ranks = 0};
    char ranks[12];
    if (g->device) device_about(g->device, &about);
    snprintf(ranks, sizeof ranks, "%d", about.ranks);
    metric_set(g->metrics, M_DEVICE, (const char *[]){about.backend, about.name, ranks}, 1);
    for (size_t i = 0; g->device && i < sizeof areas / sizeof *areas; i++)
        metric_set(g->metrics, M_DEVICE_BYTES, (const char *[]){areas[i].area}, (double)areas[i].bytes);
    if (g->device) metric_set(g->metrics, M_DEVICE_PAGES, NULL, p->kv_pages);
}

static struct model_options model_of(const struct engine *g, enum precision prec)
{
    const struct settings *s = g->s;
    struct model_options o = {.name = s->name[0] ? s->name : NULL,
                              .prec = prec,
                              .max_context = (int)s->max_context,
                              .reach = REACH_OF(s),
                              .cache = g->cache,
                              .keep_mapped = s->share_weights};
    reach_number("rope_factor", s->rope_factor, &o.reach.factor, NULL); /* check_settings() looked at them */
    reach_number("rope_theta", s->rope_theta, &o.reach.theta, NULL);
    return o;
}

static struct lora_options adapters_of(const struct engine *g)
{
    const struct settings *s = g->s;
    return (struct lora_options){.store = s->store[0] ? s->store : NULL,
                                 .max_slots = (int)s->max_slots,
                                 .max_bytes = s->adapter_mb << 20,
                                 .max_known = (int)s->max_known,
                                 .wait_ms = (int)s->adapter_wait_ms,
                                 .max_rank = (int)s->max_rank,
                                 .metrics = g->metrics};
}

/* Of what is there already: draft, heads, trace, device. */
static struct sched_options sched_of(const struct engine *g)
{
    const struct settings *s = g->s;
    return (struct sched_options){
        .max_running = (int)s->max_running,
        .max_waiting = (int)s->max_waiting,
        .step_tokens = (int)s->step_tokens,
        .step_ms = (int)s->step_ms,
        .adapter_wait_ms = (int)s->adapter_wait_ms,
        .target = {[CLASS_INTERACTIVE] = {(int)s->ttft_interactive_ms, (int)s->tpot_interactive_ms},
                   [CLASS_NORMAL] = {(int)s->ttft_normal_ms, (int)s->tpot_normal_ms},
                   [CLASS_BATCH] = {(int)s->ttft_batch_ms, (int)s->tpot_batch_ms}},
        .kv_bytes = s->kv_mb << 20,
        .kv_type = strcmp(s->kv_type, "int8") ? KV_BF16 : KV_INT8,
        .threads = (int)s->threads,
        .kernels = s->kernels,
        .kv_evict = windowed(s) && strcmp(s->kv_evict, "off") != 0,
        .prefix_cache = s->prefix_cache,
        .follow = s->device_follow,
        .speculate = (int)s->speculate,
        .draft = g->draft,
        .medusa = g->medusa,
        .medusa_nodes = (int)s->medusa_nodes,
        .hang_s = (int)s->hang_s,
        .trace = g->trace,
        .device = g->device,
        .plan = &g->plan};
}

static int publish(struct engine *g, const struct kernels *k, struct err *e)
{
    struct api_engine face = {.model = g->model,
                              .loras = g->loras,
                              .pull = g->pull,
                              .constrain = g->constrain,
                              .sched = g->sched,
                              .trace = g->trace,
                              .kernels = k->name,
                              .device = g->device,
                              .plan = &g->plan,
                              .max_slots = (int)g->s->max_slots,
                              .max_known = (int)g->s->max_known};
    note_device(g);
    return api_publish(g->api, &face, e);
}

static int load_parts(struct engine *g)
{
    const struct settings *s = g->s;
    struct err *e = &g->error;
    enum precision prec = strcmp(s->precision, "exact") ? PREC_FAST : PREC_EXACT;
    const struct kernels *k = kernels_pick(s->kernels, prec);
    if (!k) {
        err_set(e, ERR_USAGE, "kernels '%s' cannot run on this machine", s->kernels);
        return refuse(g, EXIT_DEVICE);
    }
    if (open_device(g, prec)) return refuse(g, EXIT_DEVICE);
    if (g->device) k = device_kernels(g->device);
    open_cache(g);
    const struct model_options mo = model_of(g, prec);
    if (model_open(&g->model, s->model, &mo, e)) return refuse(g, EXIT_MODEL);
    if (strcmp(s->kv_evict, "on") == 0 && kv_keep_of(g->model).window == 0) {
        err_set(e, ERR_USAGE, "kv_evict on: a layer of %s sees all positions, so no page is ever behind it; give kv_window", g->model->name);
        return refuse(g, EXIT_MODEL);
    }
    if (s->chat_template[0] && model_set_chat(g->model, s->chat_template, e)) return refuse(g, EXIT_MODEL);
    if (load_draft(g, prec) || load_medusa(g)) return refuse(g, EXIT_MODEL);
    if (constrain_new(&g->constrain, g->model->tok, GRAMMAR_CACHE_BYTES, e)) return refuse(g, EXIT_DEVICE);
    if (s->trace_steps && trace_new(&g->trace, (int)s->trace_steps, e)) return refuse(g, EXIT_DEVICE);
    struct lora_options lo = adapters_of(g);
    struct sched_options so = sched_of(g);
    if (start_device(g, &so, &lo)) return refuse(g, EXIT_DEVICE);
    if (lora_set_new(&g->loras, g->model, &lo, e)) return refuse(g, EXIT_DEVICE);
    if (g->pull && pull_serve(g->pull, g->loras, &g->model->desc, g->metrics, e)) return refuse(g, EXIT_DEVICE);
    if (sched_new(&g->sched, g->model, g->loras, &so, g->metrics, e)) return refuse(g, EXIT_DEVICE);
    lora_set_pace(g->loras, busy, g);
    return publish(g, k, e) ? refuse(g, EXIT_DEVICE) : 0;
}

static void log_memory(const struct engine *g)
{
    struct model_memory m;
    struct sched_memory c;
    model_memory(g->model, &m);
    sched_get_memory(g->sched, &c);
    log_info("memory_plan", LI("weights", (int64_t)m.weights), LS("weights_from", m.from),
             LI("weights_huge", (int64_t)m.huge), LI("weights_mapped", (int64_t)m.mapped), LI("kv", (int64_t)c.kv),
             LI("workspace", (int64_t)c.workspace), LI("logits", (int64_t)c.logits),
             LI("adapters", (int64_t)lora_max_bytes(g->loras)), LI("adapter_slots", g->s->max_slots));
}

static void *load(void *u)
{
    struct engine *g = u;
    int64_t start = clock_mono_us();
    bool good = load_parts(g) == 0;
    if (good) log_memory(g);
    if (good)
        log_info("ready", LS("model", g->model->name), LS("digest", g->model->desc.digest),
                 LI("ms", (clock_mono_us() - start) / 1000));
    atomic_store(&g->state, good ? SERVING : REFUSED);
    return NULL;
}

/* --- serving --- */

static bool orphaned(const struct engine *g)
{
    int64_t silent_us = clock_mono_us() - api_heard_us(g->api);
    return g->s->orphan_s > 0 && silent_us > g->s->orphan_s * 1000000 && api_in_flight(g->api) == 0;
}

/* A call to the device that gets nowhere, beside the steps, which the scheduler watches. */
struct pulse {
    struct device_pulse last;
    int64_t since_us;
};

static bool device_hangs(const struct engine *g, struct pulse *p)
{
    struct device_pulse now;
    int64_t us = clock_mono_us();
    device_pulse(&now);
    if (!now.call || now.call != p->last.call || now.count != p->last.count) *p = (struct pulse){now, us};
    int patience = now.call && !strcmp(now.call, "open") ? OPEN_PATIENCE : 1;
    if (us - p->since_us < g->s->hang_s * patience * 1000000) return false;
    log_error("device_hangs", LS("call", now.call), LI("s", (us - p->since_us) / 1000000));
    return true;
}

/* A device may fail outside of steps too. */
static bool device_broke(struct engine *g)
{
    struct err why = {0};
    if (g->device && device_failed(g->device, &why)) sched_fail(g->sched, why.msg);
    return sched_failed(g->sched);
}

/* Until something ends it; returns the exit code. */
static enum exit_code watch(struct engine *g, const sigset_t *signals)
{
    struct pulse pulse = {.since_us = clock_mono_us()};
    for (;;) {
        int signal = sigtimedwait(signals, NULL, &(struct timespec){.tv_nsec = TICK_MS * 1000000L});
        int state = atomic_load(&g->state);
        if (signal > 0) {
            log_info("stopping", LS("why", signal == SIGTERM ? "SIGTERM" : "SIGINT"));
            return EXIT_ASKED;
        }
        if (state == REFUSED) {
            log_error("refused", LS("why", g->error.msg));
            return g->refused;
        }
        if (state == SERVING && g->pull && pull_ended(g->pull)) {
            log_error("puller_ended");
            return EXIT_PULLER;
        }
        if (state == SERVING && device_broke(g)) return EXIT_DEVICE;
        if (state == SERVING && !sched_alive(g->sched)) {
            log_error("step_hangs", LI("s", g->s->hang_s));
            return EXIT_DEVICE;
        }
        if (device_hangs(g, &pulse)) return EXIT_DEVICE;
        if (orphaned(g)) {
            log_info("stopping", LS("why", "nobody asked for anything within orphan_s"));
            return EXIT_ASKED;
        }
    }
}

static _Noreturn void leave(const struct engine *g, enum exit_code code)
{
    if (g->s->socket[0]) unlink(g->s->socket);
    _exit(code);
}

/* Ends the process where stopping does not end, because a step or an adapter's copy never comes back. */
static void *guard(void *u)
{
    const struct engine *g = u;
    int64_t end = clock_mono_us() + g->s->drain_ms * 1000 + g->s->hang_s * 1000000;
    while (clock_mono_us() < end) nanosleep(&(struct timespec){.tv_nsec = TICK_MS * 1000000L}, NULL);
    log_error("stop_hangs", LI("s", g->s->hang_s), LI("drain_ms", g->s->drain_ms));
    leave(g, EXIT_DEVICE);
}

static void guard_stop(struct engine *g)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, guard, g))
        log_warn("no_guard");
    else
        pthread_detach(thread);
}

/* In the order of who uses whom; what is in flight is finished or ended with an error. A device that failed meanwhile is
 * not asked to close. */
static void stop(struct engine *g)
{
    guard_stop(g);
    api_drain(g->api, (int)g->s->drain_ms);
    if (g->sched && device_broke(g)) leave(g, EXIT_DEVICE);
    api_withdraw(g->api);
    if (g->loras) lora_set_pace(g->loras, NULL, NULL); /* it asks the scheduler */
    if (g->sched) sched_free(g->sched);
    if (g->pull) pull_stop(g->pull);
    if (g->loras) lora_set_free(g->loras);
    pull_free(g->pull);
    api_stop(g->api);
    trace_free(g->trace);
    if (g->constrain) constrain_free(g->constrain);
    device_close(g->device);
    if (g->draft) model_free(g->draft);
    medusa_free(g->medusa);
    if (g->model) model_free(g->model);
    cache_close(g->cache);
    metrics_free(g->metrics);
}

static enum exit_code serve(struct engine *g, const sigset_t *signals)
{
    if (pthread_create(&g->loader, NULL, load, g)) {
        log_error("no_thread", LS("why", strerror(errno)));
        return EXIT_DEVICE;
    }
    enum exit_code code = watch(g, signals);
    /* A load cannot be interrupted, and a step that hangs cannot be joined: then the process ends without cleaning up.
     */
    if (atomic_load(&g->state) == SERVING && sched_failed(g->sched)) api_drain(g->api, FAILED_GRACE_MS);
    bool loading = atomic_load(&g->state) == LOADING, hung = code == EXIT_DEVICE && !loading && g->sched;
    if (!loading) pthread_join(g->loader, NULL);
    if (loading || hung) leave(g, code);
    stop(g);
    return code;
}

/* Forks: before there is a thread, a socket or a model. */
static int start_puller(struct engine *g, struct err *e)
{
    const struct settings *s = g->s;
    const struct pull_options o = {.url = s->pull_url,
                                   .token_file = s->pull_token_file,
                                   .ca_file = s->pull_ca_file,
                                   .store = s->store,
                                   .confine = s->confine,
                                   .max_bytes = s->store_mb << 20,
                                   .total_s = (int)s->pull_s,
                                   .stall_s = (int)s->pull_stall_s,
                                   .max_rank = (int)s->max_rank};
    return s->pull_url[0] ? pull_start(&g->pull, &o, e) : 0;
}

static int bind_api(struct engine *g, struct err *e)
{
    static char token[TOKEN_MAX];
    const struct settings *s = g->s;
    char where[300], *bound = NULL;
    if (s->token_file[0] && read_token(s->token_file, token, e)) return -1;
    snprintf(where, sizeof where, "%s%s", s->socket[0] ? "unix:" : "", s->socket[0] ? s->socket : s->listen);
    struct api_options o = {.listen = where,
                            .token = token[0] ? token : NULL,
                            .workers = (int)s->http_workers,
                            .max_connections = (int)s->max_connections,
                            .max_body = (size_t)s->max_body};
    g->metrics = metrics_new(meter_rows, METERS);
    if (!g->metrics) return err_set(e, ERR_NO_MEMORY, "no memory for the metrics");
    if (api_start(&g->api, &o, g->metrics, &bound, e)) return -1;
    log_info("listening", LS("address", bound), LI("pid", getpid()));
    free(bound);
    return 0;
}

int main(int argc, char **argv)
{
    static struct settings s;
    static struct engine g;
    struct err e = {0};
    const char *verb = NULL;
    int nverb = 0;
    sigset_t signals;

    confine_start();
    if (argc > 1 && !strcmp(argv[1], "--version")) {
        puts("weft-engine " WEFT_VERSION);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(argv[1], verbs[i].word)) return verbs[i].run(argc, argv);
    int rc = conf_load(rows, sizeof rows / sizeof *rows, &s, argc, argv, &verb, 1, &nverb, &e);
    if (rc > 0) return 0;
    if (rc < 0) return usage_error(&e);
    if (nverb != 1 || strcmp(verb, "serve")) err_set(&e, ERR_USAGE, USAGE_HINT);
    if (e.code || check_settings(&s, &e)) return usage_error(&e);

    umask(0077); /* of what a running one writes; quantize's is for others to read */
    log_init("weft-engine", (enum log_level)log_level_parse(s.log_level));
    json_start();
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread exists: all inherit it */

    g.s = &s;
    const struct room room = {.word = s.confine,
                              .device = s.device,
                              .model = s.model,
                              .draft_model = s.draft_model,
                              .medusa = s.medusa,
                              .chat_template = s.chat_template,
                              .token_file = s.token_file,
                              .store = s.store,
                              .cache = s.cache_mb ? s.cache : "",
                              .socket = s.socket};
    if (start_puller(&g, &e) || room_enter(&room, &e) || bind_api(&g, &e) || room_close(&room, &e)) return usage_error(&e);
    return serve(&g, &signals);
}
