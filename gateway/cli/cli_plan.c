/* weft plan PROFILE [NAME=VALUE...]: how many engines, which settings, what they will do and cost; plan.c computes it. Asks no gateway. */
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_verbs.h"
#include "gateway/cli/plan.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MB 1048576.0
#define GATEWAY_MB 60.0         /* of a gateway with nothing in flight */
#define GATEWAY_ADAPTER_KB 2.0 /* of an adapter that it knows */

static const struct conf_row profile_rows[] = {
#define X(...) CONF_ROW(struct plan_profile, __VA_ARGS__)
#include "schema/profile.def"
#undef X
};

/* The words as a command line of base/conf.h: --config PROFILE --NAME VALUE ... */
static int read_words(const struct cli *c, struct plan_settings *o, struct err *e)
{
    char *argv[2 * CLI_ARGS_MAX + 4] = {(char[]){"weft plan"}, (char[]){"--config"}, (char *)c->arg[0]}, *made[CLI_ARGS_MAX] = {NULL};
    int n = 3, rc = 0;
    for (int i = 1; i < c->nargs && !rc; i++) {
        const char *is = strchr(c->arg[i], '=');
        if (!is || is == c->arg[i] || asprintf(&made[i], "--%s", c->arg[i]) < 0) {
            rc = err_set(e, ERR_USAGE, "\"%.80s\": NAME=VALUE is needed", c->arg[i]);
            made[i] = NULL;
            break;
        }
        made[i][2 + (is - c->arg[i])] = 0;
        for (char *p = made[i] + 2; *p; p++) *p = *p == '_' ? '-' : *p;
        argv[n++] = made[i];
        argv[n++] = made[i] + 3 + (is - c->arg[i]);
    }
    if (!rc) rc = conf_load(plan_rows, plan_nrows, o, n, argv, NULL, 0, NULL, e);
    for (int i = 0; i < CLI_ARGS_MAX; i++) free(made[i]);
    return rc;
}

static int scale(struct plan_settings *o, struct err *e)
{
    struct plan_profile to = {0};
    char *argv[] = {(char[]){"weft plan"}, (char[]){"--config"}, (char *)o->base};
    if (!o->base[0]) return 0;
    if (conf_load(profile_rows, CONF_ROWS(profile_rows), &to, 3, argv, NULL, 0, NULL, e)) return -1;
    plan_scale(o, &to);
    return 0;
}

/* --- shown --- */

static const char *bottleneck(const struct plan_choice *p)
{
    static const char *const word[] = {[PLAN_PROMPTS] = "prompts", [PLAN_ROWS] = "decoding rows", [PLAN_ADAPTERS] = "adapters' ranks",
                                       [PLAN_STEPS] = "steps themselves (reading the weights)"};
    int best = 0;
    for (int i = 1; i < 4; i++)
        if (p->peak.share[i] > p->peak.share[best]) best = i;
    return word[best];
}

static json_t *engine_json(const struct plan_engine *g)
{
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:{s:f, s:f, s:f, s:f}, s:{s:f, s:f, s:f, s:f}, s:f, s:f, s:{s:f, s:f, s:f, s:f}}", "requests_s", g->rate,
                     "busy", g->busy, "running", g->running, "distinct_adapters", g->adapters, "step_ms", g->step_us / 1e3, "decode_step_ms", g->decode_us / 1e3, "cold", g->cold, "load_ms",
                     g->load_us / 1e3, "ttft_ms", "p50", g->ttft_ms[0], "p90", g->ttft_ms[1], "p99", g->ttft_ms[2], "mean", g->ttft_ms[3], "tpot_ms",
                     "p50", g->tpot_ms[0], "p90", g->tpot_ms[1], "p99", g->tpot_ms[2], "mean", g->tpot_ms[3], "prompt_tokens_s",
                     g->prompt_tokens_s, "output_tokens_s", g->output_tokens_s, "time", "prompts", g->share[PLAN_PROMPTS], "rows", g->share[PLAN_ROWS],
                     "adapters", g->share[PLAN_ADAPTERS], "steps", g->share[PLAN_STEPS]);
}

static int print_json(const struct plan_settings *o, const struct plan_choice *p)
{
    json_t *v = json_pack("{s:b, s:i, s:{s:i, s:i, s:I, s:I, s:I}, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}, s:o, s:o, s:f, s:{s:f, s:f}, s:s, s:s*}", "holds", p->holds, "engines",
                          p->engines, "settings", "max_slots", p->slots, "max_running", p->max_running, "kv_mb", (json_int_t)(p->kv_bytes / MB) + 1,
                          "step_tokens", (json_int_t)o->step_tokens, "adapter_mb", (json_int_t)(p->slot_bytes / MB) + 1, "memory_mb", "engine",
                          p->engine_bytes / MB, "weights", (double)o->weight_bytes / MB, "work", (double)o->work_bytes / MB, "kv", p->kv_bytes / MB,
                          "adapters", p->slot_bytes / MB, "gateway", GATEWAY_MB + (double)o->adapters * GATEWAY_ADAPTER_KB / 1024, "store", p->disk_bytes / MB, "peak",
                          engine_json(&p->peak), "mean", engine_json(&p->mean), "most_requests_s", p->peak.most_rate * p->engines, "cost_per_million",
                          "mean", p->cost_million, "full", p->cost_million_full, "bottleneck", bottleneck(p), "fewer_engines_miss", p->limit);
    int rc = v ? cli_json(v) : cli_error(CLI_FAILED, "no memory");
    json_decref(v);
    return rc;
}

static void print_load(const char *word, const struct plan_choice *p, const struct plan_engine *g)
{
    printf("%s\n", word);
    printf("  requests       %.4g /s of %.4g /s that all engines can; an engine is busy %.0f %% of the time\n", g->rate * p->engines, g->most_rate * p->engines, 100 * g->busy);
    printf("  tokens         %.0f prompt and %.0f output tokens/s\n", g->prompt_tokens_s, g->output_tokens_s);
    printf("  first token    p50 %.0f ms, p90 %.0f ms, p99 %.0f ms\n", g->ttft_ms[0], g->ttft_ms[1], g->ttft_ms[2]);
    printf("  output token   p50 %.1f ms, p90 %.1f ms, p99 %.1f ms\n", g->tpot_ms[0], g->tpot_ms[1], g->tpot_ms[2]);
    printf("  cold loads     %.2f %% of requests, %.3g /s, %.1f ms each\n", 100 * g->cold, g->cold * g->rate * p->engines, g->load_us / 1e3);
}

static void print_plan(const struct plan_settings *o, const struct plan_choice *p)
{
    printf("engines          %d%s%s%s\n", p->engines, p->limit ? "; fewer would miss " : "", p->limit ? p->limit : "", p->holds ? "" : " (and so do these)");
    printf("settings         max_slots=%d max_running=%d step_tokens=%lld kv_mb=%.0f\n", p->slots, p->max_running, (long long)o->step_tokens, p->kv_bytes / MB + 1);
    printf("memory           %.0f MB an engine: weights %.0f, KV %.0f (%.0f tokens), adapters %.0f, rest %.0f; gateway %.0f MB; store %.0f MB\n",
           p->engine_bytes / MB, (double)o->weight_bytes / MB, p->kv_bytes / MB, p->peak.kv_tokens, p->slot_bytes / MB, (double)o->work_bytes / MB,
           GATEWAY_MB + (double)o->adapters * GATEWAY_ADAPTER_KB / 1024, p->disk_bytes / MB);
    print_load(o->streams ? "with so many in flight" : "at the peak", p, &p->peak);
    if (!o->streams && o->peak_minute) print_load("on the mean", p, &p->mean);
    printf("bottleneck       %s: of an engine's time prompts %.0f %%, rows %.0f %%, ranks %.0f %%, steps %.0f %%\n", bottleneck(p), 100 * p->peak.share[PLAN_PROMPTS],
           100 * p->peak.share[PLAN_ROWS], 100 * p->peak.share[PLAN_ADAPTERS], 100 * p->peak.share[PLAN_STEPS]);
    if (p->cost_million > 0)
        printf("cost             %.4g a million tokens at the mean load; %.4g where engines are as busy as they may be\n", p->cost_million, p->cost_million_full);
}

static void explain(const struct plan_settings *o, const struct plan_choice *p)
{
    struct plan_case c;
    struct err e = {0};
    if (plan_begin(&c, o, &e)) return;
    c.engines = p->engines;
    c.slots = p->slots;
    double k = p->peak.running > 1 ? p->peak.running : 1;
    printf("\nhow\n");
    printf("  lengths        prompt: mean %.1f, root mean square %.1f; answer: mean %.1f\n", c.prompt.mean, __builtin_sqrt(c.prompt.square), c.output.mean);
    double free_rows = k < (double)o->free_rows ? k : (double)o->free_rows, ranks = plan_ranks(&c, k, NULL), row = (double)o->decode_row_ns / 1e6;
    double others = plan_step_us(&c, k) / 1e3 - (double)o->step_ns / 1e6 - (k - free_rows) * row - ranks * (double)o->rank_ns / 1e6;
    printf("  step(k)        = step + (k - %lld free) row + k (context x look + own ranks x rank row) + ranks(k) x rank\n", (long long)o->free_rows);
    printf("                 = %.3f + %.2f x %.3f + %.2f x %.3f + %.1f x %.4f = %.2f ms\n", (double)o->step_ns / 1e6, k - free_rows, row, k, others / k, ranks,
           (double)o->rank_ns / 1e6, plan_step_us(&c, k) / 1e3);
    printf("  work(k)        = prompt rows + (answer - 1) rows + (answer - 1 + chunks) / k x (step + ranks - free rows)\n");
    for (int i = 1; i <= o->max_running; i *= 2) printf("                 work(%d) = %.1f ms, so %.3g requests/s an engine\n", i, plan_work_us(&c, i) / 1e3, 1e6 / plan_work_us(&c, i));
    if (!o->streams) printf("  in flight      P(k) ~ rate^k work(1)...work(k): mean %.1f, %d in one case of 1,000\n", p->peak.running, p->peak.k_high);
    printf("  first token    = wait for the step or the prompts before (rate E[S^2] / 2 / (1 - rate E[S])) + load where cold + its own steps + %.1f ms of gateway and HTTP\n", (double)o->face_us / 1e3);
    printf("  cold           %d engines x %d slots: the window in which so many distinct adapters are asked for; cold is who was not asked for in it (Che)\n", p->engines, p->slots);
    printf("  KV             %.0f tokens x %lld bytes\n", p->peak.kv_tokens, (long long)o->kv_token_bytes);
    printf("  cost           = price an hour x engines / 3,600 / tokens a second x 1,000,000\n");
}

int cli_plan(const struct cli *c)
{
    struct plan_settings o = {0};
    struct plan_choice p;
    struct err e = {0};
    int rc = read_words(c, &o, &e) || scale(&o, &e) || plan_choose(&o, &p, &e);
    if (rc)
        rc = cli_error(e.code == ERR_USAGE ? CLI_USAGE : CLI_FAILED, "%s", e.msg);
    else if (c->json)
        rc = print_json(&o, &p);
    else {
        print_plan(&o, &p);
        if (cli_has(c, CLI_EXPLAIN_FLAG)) explain(&o, &p);
    }
    if (!rc && !p.holds) rc = CLI_FAILED;
    conf_free(plan_rows, plan_nrows, &o);
    return rc;
}
