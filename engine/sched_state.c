/* sched_state: what can be seen of the scheduler from outside: the snapshot for /weft/v1/state and the metrics.
 *
 * The snapshot is taken under the lock and sorted outside of it where that costs something. The label of
 * vllm:lora_requests_info lists digests, so it is made only when the place of an adapted request changed, and not more
 * often than LABEL_EVERY_US while steps run. */
#include "base/buf.h"
#include "base/clock.h"
#include "engine/meters.h"
#include "engine/sched_impl.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LABEL_EVERY_US 200000
#define LABEL_BYTES 8192
#define LABEL_SCAN 4096 /* requests looked at for one label */

int64_t sched_now(const struct sched *s)
{
    return s->o.clock ? s->o.clock->now_us(s->o.clock->u) : clock_mono_us();
}

/* --- metrics --- */

void note_add(struct sched *s, size_t row, const char *label, double v)
{
    if (s->metrics) metric_add(s->metrics, row, label ? (const char *[]){label} : NULL, v);
}

void note_time(struct sched *s, size_t row, int64_t us)
{
    if (s->metrics) metric_observe(s->metrics, row, NULL, (double)us / 1e6);
}

void note_wait(struct sched *s, const struct gen *g)
{
    if (!s->metrics) return;
    const char *const label[] = {sched_class_name[g->class]};
    metric_observe(s->metrics, M_QUEUE_WAIT, label, (double)(g->admitted_us - g->submit_us) / 1e6);
}

/* What the model believed of this step and what it says now. */
static void note_cost(struct sched *s, int64_t took_us)
{
    const struct plan *p = s->plan;
    cost_learn(&s->cost, &p->shape, (double)took_us);
    if (s->o.stepped) s->o.stepped(s->o.stepped_user, &p->shape, took_us);
    s->last_budget = p->budget_rows;
    if (!s->metrics) return;
    note_time(s, M_STEP_ESTIMATED, (int64_t)p->estimate_us);
    metric_set(s->metrics, M_STEP_ERROR, NULL, s->cost.error);
    metric_set(s->metrics, M_BUDGET, NULL, p->budget_rows < 0 ? s->o.step_tokens : p->budget_rows);
    for (int i = 0; i < COST_TERMS; i++)
        metric_set(s->metrics, M_COST, (const char *[]){cost_term_name[i]}, cost_us(&s->cost, (enum cost_term)i));
}

/* Of the pages in use only the last one of each sequence has positions that hold nothing, and won't: a prompt's pages are taken whole. */
static void note_waste(struct sched *s)
{
    int tail = 0;
    for (const struct gen *g = s->running.first; g; g = g->next) tail += g->kv.npages * KV_PAGE > g->nids ? g->kv.npages * KV_PAGE - g->nids : 0;
    s->tail_tokens = tail > 0 ? tail : 0;
    s->waste = s->pages_used ? (double)s->tail_tokens / s->pages_used / KV_PAGE : 0;
    if (s->metrics) metric_set(s->metrics, M_KV_WASTE, NULL, s->waste);
}

void note_step(struct sched *s, int64_t took_us)
{
    const struct plan *p = s->plan;
    char adapters[16];
    note_cost(s, took_us);
    note_waste(s);
    snprintf(adapters, sizeof adapters, "%d", p->adapters);
    s->times_us[s->steps % SCHED_TIMES] = took_us;
    s->steps++;
    s->last_rows = p->rows;
    s->last_adapters = p->adapters;
    note_add(s, M_STEPS, NULL, 1);
    note_add(s, M_STEPS_FOLLOWED, NULL, p->follows);
    note_add(s, M_ROWS_DISCARDED, NULL, p->discarded);
    note_time(s, M_STEP_SECONDS, took_us);
    note_add(s, M_STEP_ROWS, "prefill", p->prefill_rows);
    note_add(s, M_STEP_ROWS, "decode", p->rows - p->prefill_rows - p->draft_rows - p->discarded);
    note_add(s, M_STEP_ROWS, "draft", p->draft_rows);
    note_add(s, M_STEP_ADAPTERS, adapters, 1);
    note_add(s, M_PROMPT_TOKENS, NULL, p->prefill_rows);
    note_add(s, M_GEN_TOKENS, NULL, p->chosen);
    s->drafted += (uint64_t)p->draft_rows;
    s->accepted += (uint64_t)p->accepted;
    note_add(s, M_SPEC_DRAFTED, NULL, p->draft_rows);
    note_add(s, M_SPEC_ACCEPTED, NULL, p->accepted);
    note_add(s, M_VLLM_DRAFTED, NULL, p->draft_rows);
    note_add(s, M_VLLM_ACCEPTED, NULL, p->accepted);
}

/* By sums, for tags are too many for labels. Counters are compared among those that compete. */
static void note_tenants(struct sched *s)
{
    int waiting = 0, running = 0;
    double least = INFINITY, most = -INFINITY;
    for (const struct tenant *t = s->active.first; t; t = t->next) {
        running += t->running > 0;
        if (!t->waiting) continue;
        waiting++;
        least = fmin(least, t->counter);
        most = fmax(most, t->counter);
    }
    metric_set(s->metrics, M_TENANTS, (const char *[]){"waiting"}, waiting);
    metric_set(s->metrics, M_TENANTS, (const char *[]){"running"}, running);
    metric_set(s->metrics, M_TENANT_SPREAD, NULL, waiting ? most - least : 0);
}

void note_gauges(struct sched *s)
{
    s->pages_idle = s->kv.nidle;
    s->pages_used = s->kv.cache.pages - kv_available(&s->kv);
    if (!s->metrics) return;
    metric_set(s->metrics, M_PREFIX_IDLE, NULL, s->pages_idle);
    metric_add(s->metrics, M_PREFIX_EVICTIONS, NULL, (double)(s->kv.evictions - s->evictions_noted));
    s->evictions_noted = s->kv.evictions;
    metric_set(s->metrics, M_RUNNING, NULL, s->running.n);
    metric_set(s->metrics, M_WAITING, NULL, s->waiting + s->put_off);
    for (int c = 0; c < SCHED_CLASSES; c++)
        metric_set(s->metrics, M_CLASS_WAITING, (const char *[]){sched_class_name[c]}, s->class_waiting[c]);
    note_tenants(s);
    metric_set(s->metrics, M_KV_USAGE, NULL, (double)s->pages_used / s->kv.cache.pages);
}

/* --- the adapters' label --- */

static void add_digests_of(struct buf *b, const struct gen *g)
{
    for (int i = 0; i < g->npins; i++) {
        if (b->len && strstr(b->data, g->pin[i].digest)) continue;
        if (b->len) buf_addc(b, ',');
        buf_adds(b, g->pin[i].digest);
    }
}

static void add_digests(struct buf *b, const struct gen_list *l, int *left)
{
    for (const struct gen *g = l->first; g && *left > 0 && b->len + GEN_ADAPTERS * SHA256_HEX < LABEL_BYTES;
         g = g->next, --*left)
        add_digests_of(b, g);
}

static void list_adapters(struct sched *s, struct buf *running, struct buf *waiting)
{
    int left = LABEL_SCAN;
    add_digests(running, &s->running, &left);
    add_digests(waiting, &s->preempted, &left);
    for (const struct tenant *t = s->active.first; t && left > 0; t = t->next) {
        add_digests(waiting, &t->pinning, &left);
        for (int c = 0; c < SCHED_CLASSES; c++) {
            add_digests(waiting, &t->wanting[c], &left);
            add_digests(waiting, &t->ready[c], &left);
        }
    }
}

static bool replace(char **old, struct buf *b)
{
    if (*old && strcmp(*old, b->data) == 0) return false;
    char *s = buf_take(b);
    if (!s) return false;
    free(*old);
    *old = s;
    return true;
}

void note_adapters(struct sched *s, bool now)
{
    int64_t t = clock_mono_us();
    if (!now && t - s->lora_noted_us < LABEL_EVERY_US) return;
    struct buf running, waiting;
    buf_init(&running, LABEL_BYTES);
    buf_init(&waiting, LABEL_BYTES);
    pthread_mutex_lock(&s->lock);
    bool changed = s->lora_changes != s->lora_noted;
    s->lora_noted = s->lora_changes;
    if (changed && s->metrics) list_adapters(s, &running, &waiting);
    pthread_mutex_unlock(&s->lock);
    s->lora_noted_us = t;
    if (changed && s->metrics) {
        bool a = replace(&s->lora_running, &running), b = replace(&s->lora_waiting, &waiting);
        char max[16];
        snprintf(max, sizeof max, "%d", s->loras ? lora_max_slots(s->loras) : 0);
        if ((a || b) && s->lora_running && s->lora_waiting)
            metric_state(s->metrics, M_LORA_INFO, (const char *[]){max, s->lora_running, s->lora_waiting},
                         (double)clock_wall_us() / 1e6);
    }
    buf_close(&running);
    buf_close(&waiting);
}

/* --- the snapshot --- */

void sched_get_memory(const struct sched *s, struct sched_memory *out)
{
    *out = (struct sched_memory){
        .kv = s->kv.bytes, .workspace = workspace_of(s), .logits = forward_logits_bytes(s->forward)};
}

static void add_tenant(struct sched_state *out, const struct tenant *t)
{
    int max = (int)(sizeof out->tenant / sizeof *out->tenant), all = t->waiting + t->running, i = out->ntenant;
    if (i == max) {
        if (out->tenant[max - 1].waiting + out->tenant[max - 1].running >= all) return;
        i--;
    } else {
        out->ntenant++;
    }
    for (; i > 0 && out->tenant[i - 1].waiting + out->tenant[i - 1].running < all; i--)
        out->tenant[i] = out->tenant[i - 1];
    snprintf(out->tenant[i].tag, sizeof out->tenant[i].tag, "%s", t->tag);
    out->tenant[i].waiting = t->waiting;
    out->tenant[i].running = t->running;
    out->tenant[i].weight = t->weight;
    out->tenant[i].counter = t->counter;
}

static int by_value(const void *x, const void *y)
{
    int64_t a = *(const int64_t *)x, b = *(const int64_t *)y;
    return a < b ? -1 : a > b;
}

void sched_get_state(struct sched *s, struct sched_state *out)
{
    int64_t times[SCHED_TIMES];
    memset(out, 0, sizeof *out);
    pthread_mutex_lock(&s->lock);
    out->running = s->running.n;
    out->waiting = s->waiting + s->put_off;
    out->pages_total = s->kv.cache.pages;
    int64_t tokens = (int64_t)s->kv.cache.pages * KV_PAGE;
    bool all = evict_most(s, s->m->max_context) <= s->kv.cache.pages;
    out->max_tokens = all || tokens > s->m->max_context ? s->m->max_context : (int)tokens;
    out->pages_used = s->pages_used;
    out->pages_idle = s->pages_idle;
    out->prefix_queries = s->prefix_queries;
    out->prefix_hits = s->prefix_hits;
    out->drafted = s->drafted;
    out->accepted = s->accepted;
    out->max_running = s->o.max_running;
    out->steps = s->steps;
    out->preemptions = s->preemptions;
    out->last_rows = s->last_rows;
    out->last_adapters = s->last_adapters;
    out->yields = s->yields;
    out->drains = s->drains;
    out->budget_rows = s->last_budget;
    out->estimate_error = s->cost.error;
    out->tail_tokens = s->tail_tokens;
    out->waste = s->waste;
    for (int i = 0; i < COST_TERMS; i++) out->cost_us[i] = cost_us(&s->cost, (enum cost_term)i);
    memcpy(out->class_waiting, s->class_waiting, sizeof out->class_waiting);
    out->pinning = s->pins_pending;
    for (const struct tenant *t = s->active.first; t; t = t->next) add_tenant(out, t);
    memcpy(times, s->times_us, sizeof times);
    pthread_mutex_unlock(&s->lock);
    size_t n = out->steps < SCHED_TIMES ? (size_t)out->steps : SCHED_TIMES;
    if (n == 0) return;
    qsort(times, n, sizeof *times, by_value);
    out->step_us_p50 = times[n / 2];
    out->step_us_p99 = times[n * 99 / 100];
}
