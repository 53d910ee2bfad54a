/* pressure: see pressure.h. The main thread looks; HTTP workers ask for the level, which is one number.
 *
 *        share of the highest sign   0.80      0.90      0.95          1.00
 *     none ------------------------> uploads -> batch -> connections -> all
 *          <------------------------         <-       <-             <-       each step below by PRESSURE_SLACK, for PRESSURE_CALM_US
 *
 * The shares of memory: of resident bytes against memory_high (0: half of what the process may have), and of the control group's
 * working set against CGROUP_PART of its limit, as the kernel is about to kill somebody there; its page cache that can be dropped
 * (inactive_file) does not count. Connections, waiting requests and the writer's queue have bounds of their own (503 beyond
 * max_connections, queue_full, ledger_unavailable); here they only take what matters less away before that. The disk's reserve is what settling and checkpoints need when new work has
 * ended: so all ends while it is still there.
 *
 * What it does not do: it cuts nothing that is under way, and judges no tenant: fairness is the engine's counters' (sched_tenant.c)
 * and the limits'. */
#include "gateway/pressure.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/process.h"
#include "gateway/gateway.h"
#include "gateway/live/live.h"
#include "gateway/observe/meters.h"
#include "gateway/proxy/upstream.h"
#include "gateway/settings.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CGROUP_PART 0.95
#define MEMORY_PART 0.5
#define TEXT_MAX 8192
#define SHARE_MAX 10.0

const char *const pressure_level_name[PRESSURE_LEVELS] = {"none", "uploads", "batch", "connections", "all"};
const char *const pressure_sign_name[PRESSURE_SIGNS] = {"memory", "cgroup", "connections", "waiting", "writer", "disk"};
static const double begins[PRESSURE_LEVELS] = {0, 0.80, 0.90, 0.95, 1.00};
/* What has a bound of its own, which refuses whom it must, takes the ladder no further than it helps. */
static const enum pressure_level most_level[PRESSURE_SIGNS] = {
    PRESSURE_ALL, PRESSURE_ALL, PRESSURE_CONNECTIONS, PRESSURE_BATCH, PRESSURE_BATCH, PRESSURE_ALL,
};

/* --- the signs --- */

static size_t read_file(const char *folder, const char *name, char out[TEXT_MAX])
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "re");
    size_t n = f ? fread(out, 1, TEXT_MAX - 1, f) : 0;
    if (f) fclose(f);
    out[n] = 0;
    return n;
}

/* A file of one number; 0: none, or no limit ("max"). */
static int64_t read_number(const char *folder, const char *name)
{
    char text[TEXT_MAX];
    return read_file(folder, name, text) ? strtoll(text, NULL, 10) : 0;
}

/* Version 2 alone: one line "0::/path". The root group has no limit. */
static void find_cgroup(struct pressure *p)
{
    char text[TEXT_MAX];
    char *at = read_file("/proc/self", "cgroup", text) ? strstr(text, "0::/") : NULL;
    if (!at) return;
    at[strcspn(at, "\n")] = 0;
    snprintf(p->cgroup_path, sizeof p->cgroup_path, "/sys/fs/cgroup%s", at + 3);
    p->cgroup = read_number(p->cgroup_path, "memory.max");
}

void pressure_open(struct pressure *p)
{
    memset(p, 0, sizeof *p);
    p->machine = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    find_cgroup(p);
}

static double part(double of, double most)
{
    double share = most > 0 ? of / most : 0;
    return share < SHARE_MAX ? share : SHARE_MAX;
}

int64_t pressure_memory_mark(const struct pressure *p, const struct settings *set)
{
    int64_t most = p->cgroup && p->cgroup < p->machine ? p->cgroup : p->machine;
    return set->memory_high ? set->memory_high : (int64_t)((double)most * MEMORY_PART);
}

static double memory_share(const struct pressure *p, const struct settings *set)
{
    return part((double)process_resident(), (double)pressure_memory_mark(p, set));
}

static double cgroup_share(const struct pressure *p)
{
    char text[TEXT_MAX];
    if (!p->cgroup) return 0;
    int64_t used = read_number(p->cgroup_path, "memory.current");
    char *cache = read_file(p->cgroup_path, "memory.stat", text) ? strstr(text, "\ninactive_file ") : NULL;
    if (cache) used -= strtoll(cache + strlen("\ninactive_file "), NULL, 10);
    return part((double)used, (double)p->cgroup * CGROUP_PART);
}

static double waiting_share(struct gateway *g)
{
    struct live_now here;
    struct pool_sums there;
    live_now(upstream_live(g->upstream), NULL, &here);
    pool_sum(g->pool, &there);
    return part(here.of.waiting + there.waiting, (double)g->set->waiting_high);
}

static double disk_share(struct gateway *g)
{
    int64_t free, size;
    disk_room(db_dir(g->db), &free, &size);
    return size ? part((double)g->set->disk_reserve, free > 0 ? (double)free : 1) : 0;
}

static void look_at_signs(struct pressure *p, struct gateway *g, double share[PRESSURE_SIGNS])
{
    struct http_server *s = g->public_server;
    share[PRESSURE_MEMORY] = memory_share(p, g->set);
    share[PRESSURE_CGROUP] = cgroup_share(p);
    share[PRESSURE_SOCKETS] = s ? part(http_server_connections(s), (double)g->set->max_connections) : 0;
    share[PRESSURE_WAITING] = waiting_share(g);
    share[PRESSURE_WRITER] = part(db_queue_len(g->db), DB_QUEUE_MAX - DB_QUEUE_URGENT);
    share[PRESSURE_DISK] = disk_share(g);
}

/* --- the ladder --- */

enum pressure_level pressure_step(struct pressure *p, double share, int64_t now_us)
{
    int level = atomic_load(&p->level), want = PRESSURE_NONE;
    while (want + 1 < PRESSURE_LEVELS && share >= begins[want + 1]) want++;
    if (want > level || level == PRESSURE_NONE || share >= begins[level] - PRESSURE_SLACK) {
        p->calm_us = 0;
        return (enum pressure_level)(want > level ? want : level);
    }
    if (!p->calm_us) p->calm_us = now_us;
    if (now_us - p->calm_us < PRESSURE_CALM_US) return (enum pressure_level)level;
    p->calm_us = 0;
    return (enum pressure_level)(level - 1);
}

/* A share that asks for no more than this level. */
static double bounded(double share, enum pressure_level most)
{
    double cap = most + 1 < PRESSURE_LEVELS ? begins[most + 1] - 0.001 : SHARE_MAX;
    return share < cap ? share : cap;
}

static void changed(struct gateway *g, enum pressure_level from, enum pressure_level to, int by, double share)
{
    struct http_server *s = g->public_server;
    if (s) http_server_shed(s, to >= PRESSURE_CONNECTIONS);
    log_warn("pressure", LI("level", to), LS("name", pressure_level_name[to]), LI("before", from), LS("by", pressure_sign_name[by]),
             LI("percent", (int64_t)(share * 100)));
}

void pressure_look(struct pressure *p, struct gateway *g)
{
    double share[PRESSURE_SIGNS];
    int most = 0;
    look_at_signs(p, g, share);
    for (int i = 0; i < PRESSURE_SIGNS; i++) {
        atomic_store(&p->share[i], (int)(share[i] * 1000));
        share[i] = bounded(share[i], most_level[i]);
        if (share[i] > share[most]) most = i;
    }
    enum pressure_level from = (enum pressure_level)atomic_load(&p->level), to = pressure_step(p, share[most], clock_mono_us());
    if (to == from) return;
    if (to > from) atomic_store(&p->by, most);
    atomic_store(&p->level, to);
    changed(g, from, to, most, share[most]);
}

/* --- what it refuses --- */

static int refuse(struct gateway *g, enum pressure_level what, struct err *e)
{
    static const char *const words[PRESSURE_LEVELS] = {"", "uploads", "requests of class batch", "", "requests"};
    if (g->metrics) metric_add(g->metrics, GM_SHED, (const char *[]){pressure_level_name[what]}, 1);
    return err_set(e, ERR_OVERLOADED, "%s are not taken while the server is under pressure; try again", words[what]);
}

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool is_upload(const struct http_route *route)
{
    if (route->body == HTTP_BODY_SINK) return true;
    return strcmp(route->method, "POST") == 0 && (ends_in(route->pattern, "/uploads") || ends_in(route->pattern, "/import"));
}

int pressure_gate(struct http_request *r)
{
    struct gateway *g = r->server_user;
    struct err e = {0};
    int level = atomic_load(&g->pressure.level);
    if (level == PRESSURE_NONE || strcmp(r->route->pattern, "/health") == 0) return 0;
    if (level < PRESSURE_ALL && !is_upload(r->route)) return 0;
    refuse(g, level == PRESSURE_ALL ? PRESSURE_ALL : PRESSURE_UPLOADS, &e);
    http_reply_error(r, &e);
    return -1;
}

int pressure_class(struct gateway *g, const char *class, struct err *e)
{
    if (atomic_load(&g->pressure.level) < PRESSURE_BATCH || strcmp(class, "batch") != 0) return 0;
    return refuse(g, PRESSURE_BATCH, e);
}

/* --- what is told of it --- */

json_t *pressure_json(const struct pressure *p)
{
    int level = atomic_load(&p->level);
    json_t *shares = json_object();
    for (int i = 0; i < PRESSURE_SIGNS; i++)
        json_object_set_new(shares, pressure_sign_name[i], json_real(atomic_load(&p->share[i]) / 1000.0));
    return json_pack("{si ss ss* so}", "level", level, "name", pressure_level_name[level], "by",
                     level ? pressure_sign_name[atomic_load(&p->by)] : NULL, "share", shares);
}

void pressure_meter(const struct pressure *p, struct metrics *m)
{
    metric_set(m, GM_PRESSURE, NULL, atomic_load(&p->level));
    for (int i = 0; i < PRESSURE_SIGNS; i++)
        metric_set(m, GM_PRESSURE_SHARE, (const char *[]){pressure_sign_name[i]}, atomic_load(&p->share[i]) / 1000.0);
}
