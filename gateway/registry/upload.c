/* upload: multipart bodies -> temporary folder -> job -> store and registry.
 *
 *   upload_begin (head) -> upload_feed ... (sink) -> upload_submit (handle) -> job: files_check -> files_keep -> 201
 *        |                     |                          |                       |    (validating)     \-> self-test -> ready
 *        +---------------------+--------------------------+-----------------------+
 *          refused, or the client left: the folder goes with the request
 *
 * The folder's fate hangs on the request's end (http_on_free), which comes in every path; store_commit takes the folder
 * away before. Files that can't be served are refused and leave nothing; what only the engine can tell is the version's
 * state, which ?wait=ready waits for.
 *
 * Bounds: UPLOADS_OPEN_MAX requests between begin and end, half of them of one tenant, sizes by the settings, parts by multipart.h,
 * jobs by the pool. begin, feed, submit: worker of the request; jobs: the pool's threads (upload_jobs.c). */
#include "gateway/proxy/chat_api.h"
#include "gateway/registry/multipart.h"
#include "gateway/registry/upload_impl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

struct upload {
    struct job job;
    struct uploads *u;
    struct upload *next; /* of uploads.open */
    struct http_request *req;
    struct principal who;
    bool dry_run, wait;
    char dir[STORE_PATH_MAX]; /* "" once it is not ours any more */
    struct multipart parser;
    unsigned seen; /* bits of the parts that came */
    enum part part;
    int fd;
    int64_t bytes; /* of the current part */
    char text[PARTS][DESCRIPTION_MAX + 1];
};

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
    const char *name = up->text[PART_NAME];
    if (strlen(name) != (size_t)up->bytes || !name_is_valid(name))
        return err_field(e, ERR_INVALID, "name",
                         "an adapter's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit",
                         NAME_MAX_LEN);
    if (residency_serves(up->u->g, name))
        return err_field(e, ERR_CONFLICT, "name", "'%s' is the base model's name", name);
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

static int open_add(struct uploads *u, struct upload *up, struct err *e)
{
    int own = 0;
    pthread_mutex_lock(&u->lock);
    for (const struct upload *o = u->open; o; o = o->next) own += strcmp(o->who.tenant, up->who.tenant) == 0;
    bool full = u->nopen >= UPLOADS_OPEN_MAX, fits = !full && own < UPLOADS_OPEN_OF_ONE;
    if (fits) {
        up->next = u->open;
        u->open = up;
        u->nopen++;
    }
    pthread_mutex_unlock(&u->lock);
    if (fits) return 0;
    return full ? err_set(e, ERR_QUEUE_FULL, "too many uploads at a time; try again")
                : err_later(e, ERR_RATE_LIMIT, 1, "%d uploads are on their way, as many as may be at a time; try again", own);
}

static void open_remove(struct uploads *u, const struct upload *up)
{
    pthread_mutex_lock(&u->lock);
    struct upload **at = &u->open;
    while (*at != up) at = &(*at)->next;
    *at = up->next;
    u->nopen--;
    pthread_mutex_unlock(&u->lock);
}

static void upload_free(struct http_request *r)
{
    struct upload *up = r->user;
    if (up->fd >= 0) close(up->fd);
    if (up->dir[0]) store_discard(up->dir);
    open_remove(up->u, up);
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
    if (residency_base(g, "", &base, e) || multipart_boundary(http_header(r, "content-type"), boundary, e)) return NULL;
    up->u = u;
    up->req = r;
    up->who = *who;
    if (open_add(u, up, e)) return NULL;
    up->dry_run = dry_run;
    up->wait = http_query(r, "wait") != NULL;
    up->fd = -1;
    multipart_init(&up->parser, boundary, &events, up);
    if (store_temp(g->tmp, up->dir, e)) {
        open_remove(u, up);
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

static void answer_dry_run(struct upload *up, json_t *report, const struct err *e)
{
    char tensor[160] = "";
    json_t *o = json_pack("{s:s, s:b}", "object", "adapter.validation", "valid", e == NULL);
    if (e) {
        failed_tensor(e->msg, tensor);
        json_object_set_new(
            o, "error", json_pack("{ss ss ss}", "code", err_info(e->code)->code, "message", e->msg, "tensor", tensor));
    } else {
        json_object_update(o, report);
    }
    json_decref(report);
    api_reply(up->req, 200, o);
}

static void keep(struct upload *up, const struct version_new *v)
{
    struct gateway *g = up->u->g;
    struct actor by = {.key = up->who.key, .ip = up->req->peer, .request = up->req->id};
    struct version_name name = {.version = 0};
    struct err e = {0};
    bool created = false;
    if (files_keep(up->u, &by, up->dir, v, &name.version, &created, &e)) {
        api_refuse(up->req, &e);
        return;
    }
    memcpy(name.tenant, v->tenant, sizeof name.tenant);
    memcpy(name.name, v->name, sizeof name.name);
    if (up->wait)
        version_wait(up->u, up->req, &name, created ? 201 : 200);
    else
        version_answer(g, up->req, &name, created ? 201 : 200);
}

static void run_upload(struct uploads *u, struct job *j)
{
    struct upload *up = (struct upload *)j;
    struct version_new v = {.validating = true};
    struct err e = {0};
    json_t *report = NULL;

    snprintf(v.name, sizeof v.name, "%.*s", NAME_MAX_LEN, up->text[PART_NAME]);
    v.description = up->seen & (1u << PART_DESCRIPTION) ? up->text[PART_DESCRIPTION] : NULL;
    if (files_check(u->g, up->dir, up->who.tenant, &v, up->dry_run ? &report : NULL, &e)) {
        if (up->dry_run && e.code == ERR_ADAPTER_INVALID)
            answer_dry_run(up, NULL, &e);
        else
            api_refuse(up->req, &e);
    } else if (up->dry_run) {
        answer_dry_run(up, report, NULL);
    } else {
        keep(up, &v);
    }
}

int upload_submit(struct upload *up, struct err *e)
{
    struct uploads *u = up->u;
    if (multipart_end(&up->parser, e)) return -1;
    for (int i = 0; i < PARTS; i++)
        if (part_row[i].needed && !(up->seen & (1u << i)) && !(up->dry_run && i == PART_NAME))
            return err_field(e, ERR_MISSING, part_row[i].name, "the part '%s' is missing", part_row[i].name);
    if (atomic_load(&u->stop)) return err_set(e, ERR_UNAVAILABLE, "shutting down");
    up->job.run = run_upload;
    job_add(u, &up->job, 0);
    return 0;
}
