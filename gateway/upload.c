/* Uploads: body -> temporary folder -> validation job -> store and registry.
 *
 *   upload_begin (head) -> upload_feed ... (sink) -> upload_submit (handle) -> job: open, check -> claim digest
 *        |                     |                          |                    -> store_commit -> registry_add -> 201
 *        +---------------------+--------------------------+
 *          refused, or the client left: the folder goes with the request
 *
 * The folder's fate hangs on the request's end (http_on_free), which comes in every path; store_commit takes the folder
 * away before. After a crash, uploads_open() removes all temporary folders and every blob that no version refers to,
 * which is what a crash between commit and registration leaves.
 *
 * A blob is shared by all versions with its digest, of any tenant. So "commit, then register" and "unregister, then
 * remove" exclude each other per digest: both claim it. A claim is no mutex: nothing is locked while disk or database
 * work.
 *
 * Bounds: UPLOADS_OPEN_MAX requests between begin and end, sizes by the settings, parts by multipart.h, jobs by the
 * pool. begin, feed, submit: worker of the request; jobs: the pool's threads. */
#include "gateway/upload.h"
#include "adapters/store.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/chat_api.h"
#include "gateway/db_audit.h"
#include "gateway/multipart.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UPLOADS_OPEN_MAX 64
#define DESCRIPTION_MAX 1024
#define THREADS_MAX 16

enum part { PART_NAME, PART_CONFIG, PART_WEIGHTS, PART_DESCRIPTION, PARTS };

static const struct {
    const char *name, *file; /* file NULL: kept in memory */
    bool needed;
} part_row[PARTS] = {
    [PART_NAME] = {"name", NULL, true},
    [PART_CONFIG] = {"config", ADAPTER_CONFIG_FILE, true},
    [PART_WEIGHTS] = {"weights", ADAPTER_WEIGHTS_FILE, true},
    [PART_DESCRIPTION] = {"description", NULL, false},
};

struct claim {
    const char *digest;
    struct claim *next;
};

struct uploads {
    struct gateway *g;
    int nthreads;
    pthread_t thread[THREADS_MAX];
    pthread_mutex_t lock; /* covers the rest */
    pthread_cond_t work, released;
    struct upload *first, *last; /* submitted, in order */
    int open;
    bool stop;
    struct claim *claims;
};

struct upload {
    struct uploads *u;
    struct http_request *req;
    struct principal who;
    bool dry_run;
    char dir[STORE_PATH_MAX]; /* "" once it is not ours any more */
    struct multipart parser;
    unsigned seen; /* bits of the parts that came */
    enum part part;
    int fd;
    int64_t bytes; /* of the current part */
    char text[PARTS][DESCRIPTION_MAX + 1];
    struct upload *next;
};

/* --- claims --- */

static void claim(struct uploads *u, struct claim *c, const char *digest)
{
    c->digest = digest;
    pthread_mutex_lock(&u->lock);
    for (struct claim *i = u->claims; i;) {
        if (strcmp(i->digest, digest) == 0) {
            pthread_cond_wait(&u->released, &u->lock);
            i = u->claims;
        } else {
            i = i->next;
        }
    }
    c->next = u->claims;
    u->claims = c;
    pthread_mutex_unlock(&u->lock);
}

static void release(struct uploads *u, struct claim *c)
{
    pthread_mutex_lock(&u->lock);
    struct claim **p = &u->claims;
    while (*p != c) p = &(*p)->next;
    *p = c->next;
    pthread_cond_broadcast(&u->released);
    pthread_mutex_unlock(&u->lock);
}

/* --- the body --- */

static int64_t part_limit(const struct upload *up)
{
    const struct settings *set = up->u->g->set;
    switch (up->part) {
    case PART_NAME:
        return NAME_MAX_LEN;
    case PART_CONFIG:
        return PEFT_CONFIG_MAX;
    case PART_WEIGHTS:
        return set->max_adapter_bytes;
    default:
        return DESCRIPTION_MAX;
    }
}

static int on_part(void *user, const struct multipart_part *p, struct err *e)
{
    struct upload *up = user;
    char path[STORE_PATH_MAX + 64];
    int i = 0;
    while (i < PARTS && strcmp(part_row[i].name, p->name) != 0) i++;
    if (i == PARTS)
        return err_field(e, ERR_INVALID, p->name,
                         "no such part: '%s'; the parts are name, config, weights and description", p->name);
    if (up->seen & (1u << i)) return err_field(e, ERR_INVALID, p->name, "the part '%s' is there twice", p->name);
    up->seen |= 1u << i;
    up->part = (enum part)i;
    up->bytes = 0;
    if (!part_row[i].file) return 0;
    snprintf(path, sizeof path, "%s/%s", up->dir, part_row[i].file);
    up->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return up->fd >= 0 ? 0 : err_errno(e, "cannot store the upload");
}

static int on_data(void *user, const char *bytes, size_t n, struct err *e)
{
    struct upload *up = user;
    int64_t limit = part_limit(up);
    if ((int64_t)n > limit - up->bytes)
        return err_field(e, up->part == PART_WEIGHTS ? ERR_TOO_LARGE : ERR_INVALID, part_row[up->part].name,
                         "the part '%s' is longer than %lld bytes%s", part_row[up->part].name, (long long)limit,
                         up->part == PART_WEIGHTS ? "; the setting max_adapter_bytes allows more" : "");
    if (up->fd < 0) memcpy(up->text[up->part] + up->bytes, bytes, n);
    up->bytes += (int64_t)n;
    while (up->fd >= 0 && n > 0) {
        ssize_t w = write(up->fd, bytes, n);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return err_errno(e, "cannot store the upload");
        bytes += w;
        n -= (size_t)w;
    }
    return 0;
}

/* The name is checked as soon as it is there, so that a bad one does not cost the client its weights. */
static int check_name(struct upload *up, struct err *e)
{
    struct base_desc base;
    const char *name = up->text[PART_NAME];
    if (strlen(name) != (size_t)up->bytes || !name_is_valid(name))
        return err_field(e, ERR_INVALID, "name",
                         "an adapter's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit",
                         NAME_MAX_LEN);
    if (engine_base(up->u->g->engine, &base, e)) return -1;
    if (strcmp(base.name, name) == 0) return err_field(e, ERR_CONFLICT, "name", "'%s' is the base model's name", name);
    return 0;
}

static int on_part_end(void *user, struct err *e)
{
    struct upload *up = user;
    if (up->fd >= 0 && close(up->fd)) {
        up->fd = -1;
        return err_errno(e, "cannot store the upload");
    }
    up->fd = -1;
    if (up->part == PART_NAME) return check_name(up, e);
    if (up->part == PART_DESCRIPTION) {
        bool valid = strlen(up->text[PART_DESCRIPTION]) == (size_t)up->bytes;
        for (int64_t i = 0; valid && i < up->bytes;)
            i += (int64_t)buf_utf8(up->text[PART_DESCRIPTION] + i, (size_t)(up->bytes - i), &valid);
        if (!valid) return err_field(e, ERR_INVALID, "description", "the description is not UTF-8 text");
    }
    return 0;
}

static const struct multipart_events events = {on_part, on_data, on_part_end};

static int count_open(struct uploads *u, int by)
{
    pthread_mutex_lock(&u->lock);
    bool full = by > 0 && u->open >= UPLOADS_OPEN_MAX;
    if (!full) u->open += by;
    pthread_mutex_unlock(&u->lock);
    return full ? -1 : 0;
}

static void upload_free(struct http_request *r)
{
    struct upload *up = r->user;
    if (up->fd >= 0) close(up->fd);
    if (up->dir[0]) store_discard(up->dir);
    count_open(up->u, -1);
}

struct upload *upload_begin(struct http_request *r, const struct principal *who, bool dry_run, struct err *e)
{
    struct gateway *g = r->server_user;
    struct uploads *u = g->uploads;
    struct base_desc base;
    char boundary[MULTIPART_BOUNDARY_MAX + 1];
    struct upload *up = arena_alloc(r->arena, sizeof *up);

    if (!up) {
        err_set(e, ERR_NO_MEMORY, "no memory for the upload");
        return NULL;
    }
    if (engine_base(g->engine, &base, e) || multipart_boundary(http_header(r, "content-type"), boundary, e))
        return NULL;
    if (count_open(u, 1)) {
        err_set(e, ERR_QUEUE_FULL, "too many uploads at a time; try again");
        return NULL;
    }
    up->u = u;
    up->req = r;
    up->who = *who;
    up->dry_run = dry_run;
    up->fd = -1;
    multipart_init(&up->parser, boundary, &events, up);
    if (store_temp(g->tmp, up->dir, e)) {
        count_open(u, -1);
        return NULL;
    }
    r->user = up;
    http_on_free(r, upload_free);
    return up;
}

int upload_feed(struct upload *up, const char *bytes, size_t n, struct err *e)
{
    return multipart_feed(&up->parser, bytes, n, e);
}

/* --- the job --- */

static double larger_scale(double s, const struct adapter_part *p, int n)
{
    for (int i = 0; p && i < n; i++)
        if (p[i].a && p[i].scale > s) s = p[i].scale;
    return s;
}

static double largest_scale(const struct adapter *a)
{
    double s = larger_scale(0, a->part, a->layers * LORA_MODULES);
    s = larger_scale(s, a->expert, a->layers * a->experts * 3);
    s = larger_scale(s, a->router, a->layers);
    return larger_scale(larger_scale(s, &a->embed, 1), &a->head, 1);
}

static int check(struct upload *up, struct version_new *v, struct err *e)
{
    struct gateway *g = up->u->g;
    struct adapter_limits limits = {.max_rank = (int)g->set->max_rank, .max_bytes = (size_t)g->set->max_adapter_bytes};
    struct base_desc base;
    struct adapter *a;

    if (engine_base(g->engine, &base, e) || adapter_open(&a, up->dir, &base, &limits, e)) return -1;
    memcpy(v->tenant, up->who.tenant, sizeof v->tenant);
    snprintf(v->name, sizeof v->name, "%.*s", NAME_MAX_LEN, up->text[PART_NAME]);
    v->description = up->seen & (1u << PART_DESCRIPTION) ? up->text[PART_DESCRIPTION] : NULL;
    memcpy(v->digest, a->digest, sizeof v->digest);
    memcpy(v->file_sha256, a->file_sha256, sizeof v->file_sha256);
    memcpy(v->base, base.name, sizeof v->base);
    v->rank = a->max_rank;
    v->modules = a->modules;
    v->kind = peft_kind(a->config);
    v->scale = largest_scale(a);
    v->bytes = (int64_t)a->file->file_bytes;
    adapter_close(a);
    return 0;
}

static int check_room(struct upload *up, struct err *e)
{
    int64_t most = up->u->g->set->max_adapters;
    if (registry_count(up->u->g->registry, up->who.tenant) < most) return 0;
    return err_set(e, ERR_QUOTA, "this tenant has %lld adapter versions already; remove one first", (long long)most);
}

/* Into the store and the registry, as one step for this digest. */
static int keep(struct upload *up, const struct version_new *v, int *version, bool *created, struct err *e)
{
    struct gateway *g = up->u->g;
    struct actor by = {up->who.key, up->req->peer, up->req->id};
    struct claim c;
    claim(up->u, &c, v->digest);
    int rc = store_commit(g->store, up->dir, v->digest, e);
    if (!rc) {
        up->dir[0] = 0;
        rc = registry_add(g->registry, &by, v, version, created, e);
        if (rc && !*version && !registry_has_digest(g->registry, v->digest)) store_remove(g->store, v->digest, NULL);
    }
    release(up->u, &c);
    return rc;
}

static void answer_dry_run(struct upload *up, const struct version_new *v, const struct err *e)
{
    json_t *o = json_pack("{s:s, s:b}", "object", "adapter.validation", "valid", e == NULL);
    if (e)
        json_object_set_new(o, "error", json_pack("{s:s, s:s}", "code", err_info(e->code)->code, "message", e->msg));
    else
        json_object_update_new(o, json_pack("{s:s, s:s, s:i, s:s, s:o, s:f, s:I, s:s}", "digest", v->digest, "base",
                                            v->base, "rank", v->rank, "kind", v->kind, "modules",
                                            registry_modules_json(v->modules), "scale", v->scale, "bytes",
                                            (json_int_t)v->bytes, "file_sha256", v->file_sha256));
    api_reply(up->req, 200, o);
}

static void prefetched(void *u, bool cold, const struct err *e)
{
    (void)u, (void)cold;
    if (e) log_warn("adapter_prefetch", LS("error", e->msg));
}

/* The answer describes the adapter through its new version: id and object are the adapter's. */
static void answer_kept(struct upload *up, const struct version_new *v, int version, bool created)
{
    struct gateway *g = up->u->g;
    struct err e = {0};
    json_t *o = NULL, *adapter = NULL;
    log_info("adapter_version", LS("tenant", up->who.tenant_name), LS("name", v->name), LI("version", version),
             LS("digest", v->digest));
    engine_load(g->engine, v->digest, prefetched, NULL);
    if (registry_get_version(g->registry, v->tenant, v->name, version, &o, &e) ||
        registry_get(g->registry, v->tenant, v->name, &adapter, &e)) {
        json_decref(o);
        api_refuse(up->req, &e);
        return;
    }
    json_object_set_new(o, "id", json_string(v->name));
    json_object_set_new(o, "object", json_string("adapter"));
    json_object_set(o, "description", json_object_get(adapter, "description"));
    json_decref(adapter);
    api_reply(up->req, created ? 201 : 200, o);
}

static void run_job(struct upload *up)
{
    struct version_new v = {0};
    struct err e = {0};
    int version = 0;
    bool created = false;

    if (check(up, &v, &e)) {
        if (up->dry_run && e.code == ERR_ADAPTER_INVALID)
            answer_dry_run(up, NULL, &e);
        else
            api_refuse(up->req, &e);
    } else if (up->dry_run) {
        answer_dry_run(up, &v, NULL);
    } else if (check_room(up, &e) || keep(up, &v, &version, &created, &e)) {
        api_refuse(up->req, &e);
    } else {
        answer_kept(up, &v, version, created);
    }
}

int upload_submit(struct upload *up, struct err *e)
{
    struct uploads *u = up->u;
    if (multipart_end(&up->parser, e)) return -1;
    for (int i = 0; i < PARTS; i++)
        if (part_row[i].needed && !(up->seen & (1u << i)) && !(up->dry_run && i == PART_NAME))
            return err_field(e, ERR_MISSING, part_row[i].name, "the part '%s' is missing", part_row[i].name);
    pthread_mutex_lock(&u->lock);
    bool stop = u->stop;
    if (!stop) {
        if (u->last)
            u->last->next = up;
        else
            u->first = up;
        u->last = up;
        pthread_cond_signal(&u->work);
    }
    pthread_mutex_unlock(&u->lock);
    return stop ? err_set(e, ERR_UNAVAILABLE, "shutting down") : 0;
}

static void *work(void *p)
{
    struct uploads *u = p;
    pthread_mutex_lock(&u->lock);
    for (;;) {
        struct upload *up = u->first;
        if (!up && u->stop) break;
        if (!up) {
            pthread_cond_wait(&u->work, &u->lock);
            continue;
        }
        u->first = up->next;
        if (!u->first) u->last = NULL;
        pthread_mutex_unlock(&u->lock);
        run_job(up); /* which answers: `up` may be gone now */
        pthread_mutex_lock(&u->lock);
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

/* --- removing, starting, stopping --- */

void uploads_drop(struct uploads *u, char (*digests)[SHA256_HEX], int n)
{
    struct gateway *g = u->g;
    for (int i = 0; i < n; i++) {
        struct claim c;
        struct err e = {0};
        claim(u, &c, digests[i]);
        if (!registry_has_digest(g->registry, digests[i])) {
            engine_unload(g->engine, digests[i]);
            if (store_remove(g->store, digests[i], &e)) /* the next start tries again */
                log_error("blob_remove", LS("digest", digests[i]), LS("error", e.msg));
        }
        release(u, &c);
    }
}

/* Blobs under ROOT/ab that no version refers to. */
static void sweep_folder(struct gateway *g, const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *i; d && (i = readdir(d));) {
        struct err e = {0};
        if (!sha256_is_hex(i->d_name) || registry_has_digest(g->registry, i->d_name)) continue;
        if (store_remove(g->store, i->d_name, &e))
            log_error("blob_remove", LS("digest", i->d_name), LS("error", e.msg));
        else
            log_info("blob_orphan", LS("digest", i->d_name));
    }
    if (d) closedir(d);
}

static void sweep(struct gateway *g)
{
    char path[sizeof g->store + 8];
    DIR *d = opendir(g->store);
    for (struct dirent *i; d && (i = readdir(d));) {
        if (strlen(i->d_name) != 2 || i->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%.2s", g->store, i->d_name);
        sweep_folder(g, path);
    }
    if (d) closedir(d);
}

int uploads_open(struct uploads **out, struct gateway *g, struct err *e)
{
    struct uploads *u;
    if (store_clean(g->tmp, e)) return -1;
    sweep(g);
    u = calloc(1, sizeof *u);
    if (!u) return err_set(e, ERR_NO_MEMORY, "no memory for uploads");
    u->g = g;
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->work, NULL);
    pthread_cond_init(&u->released, NULL);
    for (int i = 0; i < g->set->upload_jobs && i < THREADS_MAX; i++) {
        if (pthread_create(&u->thread[i], NULL, work, u)) {
            uploads_close(u);
            return err_set(e, ERR_NO_MEMORY, "no threads for uploads");
        }
        u->nthreads++;
    }
    *out = u;
    return 0;
}

void uploads_close(struct uploads *u)
{
    if (!u) return;
    pthread_mutex_lock(&u->lock);
    u->stop = true;
    pthread_cond_broadcast(&u->work);
    pthread_mutex_unlock(&u->lock);
    for (int i = 0; i < u->nthreads; i++) pthread_join(u->thread[i], NULL);
    pthread_cond_destroy(&u->released);
    pthread_cond_destroy(&u->work);
    pthread_mutex_destroy(&u->lock);
    free(u);
}
