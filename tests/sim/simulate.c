/* weft-simulate: the settings of settings.def, a trace, a run of each policy, a line of each.
 *
 * Exit codes: 0; 1 when a run failed; 2 bad arguments. */
#include "base/json.h"
#include "tests/sim/sim.h"
#include <stdio.h>
#include <string.h>

static void print_head(const struct sim_settings *o, const struct trace *t)
{
    printf("%d requests of %d adapters of %d tenants in %.0f s, on %lld engines of %lld slots; the first %lld%% not counted\n\n", t->n,
           t->adapters, t->tenants, t->v[t->n - 1].at_us / 1e6, (long long)o->engines, (long long)o->max_slots,
           (long long)o->warm_percent);
    printf("| %-12s | %7s | %7s | %7s | %7s | %7s | %6s | %6s | %6s | %6s | %9s | %7s | %6s | %5s | %7s |\n", "policy", "loads %", "cold %",
           "TTFT ms", "p90", "p99", "TPOT", "p90", "p99", "busy", "most/mean", "cv", "flight", "most", "engines");
    printf("|--------------|--------:|--------:|--------:|--------:|--------:|-------:|-------:|-------:|-------:|----------:|--------:|-------:|------:|--------:|\n");
}

static void print_row(const char *name, const struct tally *t)
{
    double n = (double)t->requests;
    printf("| %-12s | %7.2f | %7.2f | %7.1f | %7.1f | %7.1f | %6.1f | %6.1f | %6.1f | %5.1f%% | %9.2f | %7.3f | %6.2f | %4.0f%% | %7.1f |\n",
           name, 100 * (double)t->loads / n, 100 * (double)t->cold / n, t->ttft_ms[0], t->ttft_ms[1], t->ttft_ms[2],
           t->tpot_ms[0], t->tpot_ms[1], t->tpot_ms[2], 100 * t->busy, t->work_most, t->work_cv, t->flight_most,
           100 * t->busy_most, t->places);
}

static void print_json(const struct sim_settings *o, const char *name, const struct tally *t)
{
    printf("{\"policy\":\"%s\",\"engines\":%lld,\"slots\":%lld,\"zipf\":%.2f,\"rate_s\":%lld,\"seed\":%lld,\"requests\":%lld,\"ended\":%lld,"
           "\"loads\":%lld,\"cold\":%lld,\"first_seen\":%lld,\"pooled\":%lld,\"prompt_tokens\":%lld,\"output_tokens\":%lld,"
           "\"ttft_ms\":[%.3f,%.3f,%.3f,%.3f],\"tpot_ms\":[%.3f,%.3f,%.3f,%.3f],\"work_most\":%.4f,\"work_cv\":%.4f,"
           "\"flight_most\":%.4f,\"busy\":%.4f,\"busy_most\":%.4f,\"places\":%.2f,\"seconds\":%.3f}\n",
           name, (long long)o->engines, (long long)o->max_slots, (double)o->zipf_percent / 100, (long long)o->rate_s,
           (long long)o->seed, (long long)t->requests, (long long)t->ended, (long long)t->loads, (long long)t->cold,
           (long long)t->first_seen, (long long)t->pooled, (long long)t->prompt_tokens, (long long)t->output_tokens, t->ttft_ms[0], t->ttft_ms[1],
           t->ttft_ms[2], t->ttft_ms[3], t->tpot_ms[0], t->tpot_ms[1], t->tpot_ms[2], t->tpot_ms[3], t->work_most, t->work_cv,
           t->flight_most, t->busy, t->busy_most, t->places, t->seconds);
}

static int run_one(const struct sim_settings *o, const struct trace *t, const struct policy *p, struct tally *out, struct err *e)
{
    struct sim *s;
    if (sim_open(&s, o, t, p, e)) return -1;
    sim_run(s);
    sim_tell(s, out);
    sim_close(s);
    if (o->json)
        print_json(o, p->name, out);
    else
        print_row(p->name, out);
    fflush(stdout);
    return 0;
}

static int run(const struct sim_settings *o, const struct trace *t, struct err *e)
{
    struct tally of = {0};
    bool all = strcmp(o->policy, "all") == 0;
    if (!all && !policy_find(o->policy)) return err_set(e, ERR_USAGE, "there is no policy `%.60s`", o->policy);
    if (!o->json) print_head(o, t);
    for (int i = 0; i < npolicies; i++)
        if (all || strcmp(o->policy, policies[i].name) == 0)
            if (run_one(o, t, &policies[i], &of, e)) return -1;
    if (!o->json)
        printf("\nloads at least, %% of requests: %.2f of adapters that nobody had asked for before; %.2f if all slots were one store\n",
               100 * (double)of.first_seen / (double)of.requests, 100 * (double)of.pooled / (double)of.requests);
    return 0;
}

int main(int argc, char **argv)
{
    struct sim_settings o = {0};
    struct err e = {0};
    struct trace t = {0};
    json_start();
    int rc = conf_load(sim_rows, sim_nrows, &o, argc, argv, NULL, 0, NULL, &e);
    if (rc > 0) return 0;
    if (!rc) rc = o.trace[0] ? trace_read(&t, o.trace, &e) : trace_make(&t, &o, &e);
    if (!rc) rc = o.save[0] ? trace_write(&t, o.save, &e) : run(&o, &t, &e);
    if (rc) fprintf(stderr, "weft-simulate: %s\n", e.msg);
    trace_close(&t);
    conf_free(sim_rows, sim_nrows, &o);
    return rc ? e.code == ERR_USAGE ? 2 : 1 : 0;
}
