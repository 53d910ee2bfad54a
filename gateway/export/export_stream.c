/* export_stream: the exports that are under way (see export_stream.h), on one thread.
 *
 *     start -> [ ready ] -> slice: rows -> text -> stream -.
 *                 ^            |  no room: wait            | all written
 *                 |            v                           v
 *                 `------- on_room (http worker)        the end, or a cut
 *
 * A slice is one short read of at most SLICE_ROWS rows, so no snapshot lives long and the WAL can be checkpointed; what it became stands in the export's
 * own piece of memory until the stream took it. Where the reader is slower than we are nothing waits for him but that memory: the http worker tells
 * when there is room. Exports take turns, slice by slice. The thread runs at a low priority: tokens come first.
 *
 * An export ends at its query's end, which is now unless the caller said otherwise, so it ends however fast rows are added. What fails on the way cuts
 * the connection without the last chunk: who reads sees that it is not whole and resumes after the last row he has. The key's right is looked at again
 * before every slice; a revoked one gets no further row. After every slice, before any of it is sent, the months are looked at: where retention took rows
 * meanwhile it may lack some, so it is cut, and who resumes after the last row that he has is told so if he misses any.
 *
 * Locks: exports.lock covers the list of ready ones and the counts; nothing is called under it. */
#include "gateway/export/export_stream.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/export/export_gzip.h"
#include "gateway/export/export_world.h"
#include "gateway/ledger/ledger_internal.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define SLICE_ROWS 4096
#define NICE 10
#define GZIP_MAX (2 * EXPORT_MEMORY)
#define ROOM_WANTED 65536 /* waited for, where so much is left to write */
#define TRIES 5           /* reads that time out in a row without a row */
#define LONGEST_US (6 * 3600 * 1000000ll)

enum step { STEP_AGAIN, STEP_WAITS, STEP_END, STEP_CUT };

struct export {
    struct exports *all;
    struct export *next; /* in the list of ready ones */
    struct http_request *r;
    struct http_stream *s;
    struct export_ask ask;
    char tenant[UUID_LEN];                      /* whose rows, "" where all are asked for */
    char key[KEY_ID_LEN], holder[UUID_LEN];     /* who asked; holder: its tenant, "" an admin */
    struct export_writer w;
    struct gzip *gzip;
    struct buf packed;     /* with gzip: what is written instead of w.out */
    size_t sent;           /* of it */
    bool last;             /* all rows are in memory */
    bool waited;           /* for room, since the last write */
    int tries;
    int64_t until_us;
    char memory[EXPORT_MEMORY];
};

struct exports {
    struct gateway *g;
    struct export_world *world;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct export *first, *end; /* ready */
    struct {
        char key[KEY_ID_LEN], tenant[UUID_LEN];
        int n;
    } of_key[EXPORTS_MAX];
    int n;
    bool started;
    _Atomic bool stop;
};

/* --- the list --- */

static void ready(void *u)
{
    struct export *x = u;
    struct exports *all = x->all;
    pthread_mutex_lock(&all->lock);
    x->next = NULL;
    if (all->first) all->end->next = x;
    else all->first = x;
    all->end = x;
    pthread_cond_signal(&all->wake);
    pthread_mutex_unlock(&all->lock);
}

/* One more of this key, which is the tenant's ("": an admin's), or one less. */
static int count(struct exports *all, const char *key, const char *tenant, int more, struct err *e)
{
    int free_at = -1, at = -1, of_tenant = 0, rc = 0;
    pthread_mutex_lock(&all->lock);
    for (int i = 0; i < EXPORTS_MAX; i++) {
        if (*tenant && all->of_key[i].n && strcmp(all->of_key[i].tenant, tenant) == 0) of_tenant += all->of_key[i].n;
        if (all->of_key[i].n && strcmp(all->of_key[i].key, key) == 0) at = i;
        if (!all->of_key[i].n) free_at = i;
    }
    if (at < 0) at = free_at;
    if (more > 0 && (all->n == EXPORTS_MAX || all->stop))
        rc = err_set(e, ERR_UNAVAILABLE, "%d exports are under way; try again", all->n);
    else if (more > 0 && all->of_key[at].n == EXPORTS_PER_KEY_MAX)
        rc = err_later(e, ERR_RATE_LIMIT, 1, "%d exports of this key are under way; try again when one has ended.", EXPORTS_PER_KEY_MAX);
    else if (more > 0 && of_tenant == EXPORTS_PER_TENANT_MAX)
        rc = err_later(e, ERR_RATE_LIMIT, 1, "%d exports of this tenant are under way; try again when one has ended.", EXPORTS_PER_TENANT_MAX);
    else {
        memcpy(all->of_key[at].tenant, tenant, strlen(tenant) + 1);
        memcpy(all->of_key[at].key, key, strlen(key) + 1);
        all->of_key[at].n += more;
        all->n += more;
    }
    pthread_mutex_unlock(&all->lock);
    return rc;
}

/* --- a slice --- */

static bool may_go_on(const struct export *x)
{
    struct principal who;
    struct auth *a = x->all->g->auth;
    const char *bearer = http_bearer(x->r);
    return (x->ask.admin ? auth_check_admin(a, bearer, SCOPE_ADMIN_READ, &who, NULL)
                         : auth_check(a, bearer, x->r->param[0], SCOPE_USAGE, &who, NULL)) == 0;
}

/* Rows into memory. A read that was too long goes on where it ended. */
static int take_rows(struct export *x, struct err *e)
{
    bool more = false;
    int64_t before = x->w.sums.requests + x->w.sums.adjustments;
    x->w.full = false;
    int rc = ledger_rows(x->all->g->ledger, &x->ask.rows, &x->ask.after, SLICE_ROWS, export_row, &x->w, &more, e);
    bool some = x->w.sums.requests + x->w.sums.adjustments > before;
    x->tries = some ? 0 : x->tries + 1;
    x->last = rc == 0 && !more;
    if (!rc || (!x->w.full && (e->code != ERR_DEADLINE || x->tries >= TRIES))) return rc;
    err_clear(e);
    return 0;
}

static int check_gone(const struct export *x, struct err *e)
{
    const struct rows_gone *was = &x->ask.gone;
    struct rows_gone now;
    if (ledger_rows_gone(x->all->g->ledger, x->ask.first, x->ask.last, &now, e)) return -1;
    return now.months == was->months && now.rows == was->rows ? 0 : err_set(e, ERR_GONE, "rows of %06d were removed meanwhile", now.last);
}

static int fill(struct export *x, struct err *e)
{
    x->w.len = x->sent = 0;
    buf_reset(&x->packed);
    if (!may_go_on(x)) return err_set(e, ERR_UNAUTHORIZED, "the key was revoked");
    if (!x->last && (take_rows(x, e) || check_gone(x, e))) return -1;
    return x->gzip ? gzip_add(x->gzip, x->w.out, x->w.len, x->last, &x->packed, e) : 0;
}

/* Gives the stream what it takes. */
static enum step push(struct export *x)
{
    const char *bytes = x->gzip ? x->packed.data : x->w.out;
    size_t len = x->gzip ? x->packed.len : x->w.len;
    while (x->sent < len) {
        size_t left = len - x->sent, room = http_stream_room(x->s), n = left < room ? left : room;
        if (n == 0 && x->waited) return STEP_CUT; /* told, and there is none: the reader is gone */
        if (n == 0) {
            x->waited = true;
            return STEP_WAITS;
        }
        if (http_stream_write(x->s, bytes + x->sent, n, 0)) return STEP_CUT;
        x->waited = false;
        x->sent += n;
    }
    return x->last ? STEP_END : STEP_AGAIN;
}

static enum step step(struct export *x)
{
    struct err e = {0};
    bool late = clock_mono_us() > x->until_us;
    enum step s = late ? STEP_AGAIN : push(x);
    if (s != STEP_AGAIN || x->all->stop) return x->all->stop ? STEP_CUT : s;
    if (late) err_set(&e, ERR_DEADLINE, "it takes too long");
    else if (fill(x, &e) == 0) return push(x);
    log_warn("export_cut", LS("request", x->r->id), LS("error", e.msg));
    return STEP_CUT;
}

static void free_export(struct export *x)
{
    gzip_free(x->gzip);
    buf_close(&x->packed);
    free(x);
}

/* After the stream's end the request may be gone. */
static void finish(struct export *x, bool whole)
{
    struct exports *all = x->all;
    struct http_stream *s = x->s;
    log_debug("export", LS("request", x->r->id), LI("rows", x->w.sums.requests + x->w.sums.adjustments), LI("whole", whole));
    count(all, x->key, x->holder, -1, NULL);
    free_export(x);
    if (whole) http_stream_end(s);
    else http_stream_abort(s);
}

static void run(struct export *x)
{
    enum step s = step(x);
    size_t left = (x->gzip ? x->packed.len : x->w.len) - x->sent;
    if (s == STEP_AGAIN) ready(x);
    if (s == STEP_WAITS) http_stream_on_room(x->s, left < ROOM_WANTED ? left : ROOM_WANTED, ready, x);
    if (s == STEP_END || s == STEP_CUT) finish(x, s == STEP_END);
}

/* The next that is ready; NULL: stop, and none is left. */
static struct export *next(struct exports *all)
{
    pthread_mutex_lock(&all->lock);
    while (!all->first && !(all->stop && !all->n)) pthread_cond_wait(&all->wake, &all->lock);
    struct export *x = all->first;
    if (x) all->first = x->next;
    pthread_mutex_unlock(&all->lock);
    return x;
}

static void *exports_main(void *u)
{
    struct exports *all = u;
    setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
    for (struct export *x; (x = next(all));) run(x);
    return NULL;
}

/* --- from outside --- */

int exports_open(struct exports **out, struct gateway *g, struct err *e)
{
    struct exports *all = calloc(1, sizeof *all);
    if (!all) return err_set(e, ERR_NO_MEMORY, "no memory for exports");
    all->g = g;
    pthread_mutex_init(&all->lock, NULL);
    pthread_cond_init(&all->wake, NULL);
    *out = all;
    if (export_world_new(&all->world, g->db, g->prices, g->set->currency, g->set->provider_name, e)) return -1;
    if (pthread_create(&all->thread, NULL, exports_main, all)) return err_set(e, ERR_NO_MEMORY, "no thread for exports");
    all->started = true;
    return 0;
}

void exports_close(struct exports *all)
{
    if (!all) return;
    pthread_mutex_lock(&all->lock);
    all->stop = true;
    pthread_cond_signal(&all->wake);
    pthread_mutex_unlock(&all->lock);
    if (all->started) pthread_join(all->thread, NULL);
    export_world_free(all->world);
    pthread_cond_destroy(&all->wake);
    pthread_mutex_destroy(&all->lock);
    free(all);
}

static int open_export(struct exports *all, struct http_request *r, const struct export_ask *ask, struct export **out, struct err *e)
{
    struct export *x = malloc(sizeof *x);
    if (!x) return err_set(e, ERR_NO_MEMORY, "no memory for an export");
    memset(x, 0, offsetof(struct export, memory));
    x->all = all;
    x->r = r;
    x->ask = *ask;
    x->until_us = clock_mono_us() + LONGEST_US;
    buf_init(&x->packed, GZIP_MAX);
    memcpy(x->key, ((const struct principal *)r->user)->key, sizeof x->key);
    memcpy(x->holder, ((const struct principal *)r->user)->tenant, sizeof x->holder);
    if (ask->rows.tenant) {
        memcpy(x->tenant, ask->rows.tenant, strnlen(ask->rows.tenant, UUID_LEN - 1));
        x->ask.rows.tenant = x->tenant;
    }
    export_begin(&x->w, ask->format, all->world, x->memory, sizeof x->memory);
    export_head(&x->w);
    if (ask->gzip && (gzip_new(&x->gzip, e) || gzip_add(x->gzip, x->memory, x->w.len, false, &x->packed, e))) {
        free_export(x);
        return -1;
    }
    *out = x;
    return 0;
}

/* What is said of the answer before it begins. */
static int set_headers(struct ledger *l, struct http_request *r, const struct export_ask *ask, struct err *e)
{
    char id[UUID_LEN], text[64];
    int64_t final_us;
    if (ledger_final_before(l, id, &final_us, e)) return -1;
    snprintf(text, sizeof text, "%lld", (long long)(final_us / 1000000));
    http_set_header(r, "X-Weft-Complete-Before", text);
    if (ask->gone.months) {
        snprintf(text, sizeof text, "%lld", (long long)month_start(month_after(ask->gone.last)));
        http_set_header(r, "X-Weft-Removed-Before", text);
    }
    snprintf(text, sizeof text, "attachment; filename=\"usage.%s\"", export_kinds[ask->format].extension);
    http_set_header(r, "Content-Disposition", text);
    http_set_header(r, "Cache-Control", "no-store");
    http_set_header(r, "Vary", "Accept-Encoding");
    if (ask->gzip) http_set_header(r, "Content-Encoding", "gzip");
    return 0;
}

int exports_start(struct exports *all, struct http_request *r, const struct export_ask *ask, struct err *e)
{
    struct export *x = NULL;
    const struct principal *who = r->user;
    if (count(all, who->key, who->tenant, 1, e)) return -1;
    if (open_export(all, r, ask, &x, e)) {
        count(all, who->key, who->tenant, -1, NULL);
        return -1;
    }
    if (set_headers(all->g->ledger, r, ask, e)) {
        count(all, who->key, who->tenant, -1, NULL);
        free_export(x);
        return -1;
    }
    x->last = strcmp(r->method, "HEAD") == 0;
    x->s = http_stream_open(r, 200, export_kinds[ask->format].content_type);
    ready(x);
    return 0;
}
