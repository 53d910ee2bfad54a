/* settings_live: the settings in force, read again while the gateway runs (see settings.h).
 *
 *     read all sources into a fresh snapshot          wrong anywhere -> refused whole, the old one stays
 *       -> rows that can't change now: the old value  named, and logged once a reading
 *       -> differences into the audit trail           refused -> the old one stays
 *       -> the fresh one in the old one's place
 *
 * A value stands where it wins: environment and command line go before the file, so what they say does not change by editing the file.
 * Reading: any thread, no lock. Reloads: one at a time, on a thread that may block. */
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "gateway/api/idempotency.h"
#include "gateway/db/db_audit.h"
#include "gateway/settings.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STARS "***"
#define TEXT_BYTES 4200

struct snapshot {
    struct settings set;
    struct snapshot *before;
    int64_t read_us; /* wall */
    enum conf_source source[];
};

struct settings_live {
    int argc;
    char **argv;
    pthread_mutex_t lock; /* one reload at a time, the audit trail's transaction included; readers don't take it */
    struct snapshot *_Atomic now;
    const struct settings *_Atomic *where;
    int changes;
};

static void snapshot_free(struct snapshot *s)
{
    if (!s) return;
    conf_free(settings_rows, settings_nrows, &s->set);
    free(s);
}

static int snapshot_read(const struct settings_live *l, struct snapshot **out, struct err *e)
{
    struct snapshot *s = calloc(1, sizeof *s + settings_nrows * sizeof s->source[0]);
    if (!s) return err_set(e, ERR_NO_MEMORY, "no memory for settings");
    s->read_us = clock_wall_us();
    if (conf_read(settings_rows, settings_nrows, &s->set, s->source, l->argc, l->argv, e) ||
        settings_check(&s->set, e)) {
        snapshot_free(s);
        return -1;
    }
    *out = s;
    return 0;
}

static bool asks_for_text(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "--print-config") == 0) return true;
    return false;
}

int settings_open(struct settings_live **out, int argc, char **argv, struct err *e)
{
    struct settings unused = {0};
    if (asks_for_text(argc, argv))
        return conf_load(settings_rows, settings_nrows, &unused, argc, argv, NULL, 0, NULL, e);
    struct settings_live *l = calloc(1, sizeof *l);
    if (!l) return err_set(e, ERR_NO_MEMORY, "no memory for settings");
    l->argc = argc;
    l->argv = argv;
    pthread_mutex_init(&l->lock, NULL);
    struct snapshot *first;
    if (snapshot_read(l, &first, e)) {
        settings_close(l);
        return -1;
    }
    l->now = first;
    *out = l;
    return 0;
}

void settings_close(struct settings_live *l)
{
    if (!l) return;
    for (struct snapshot *s = l->now; s;) {
        struct snapshot *before = s->before;
        snapshot_free(s);
        s = before;
    }
    pthread_mutex_destroy(&l->lock);
    free(l);
}

const struct settings *settings_now(const struct settings_live *l)
{
    return &l->now->set;
}

void settings_follow(struct settings_live *l, const struct settings *_Atomic *where)
{
    l->where = where;
    *where = &l->now->set;
}

/* --- values as JSON --- */

/* What stands between :// and @ of an address is a name and a password. */
static json_t *text_json(const char *text)
{
    char shown[TEXT_BYTES];
    const char *host = strstr(text, "://"), *at = host ? strchr(host, '@') : NULL;
    if (!at) return json_string(text);
    snprintf(shown, sizeof shown, "%.*s" STARS "%s", (int)(host + 3 - text), text, at);
    return json_string(shown);
}

static json_t *value_json(const struct conf_row *row, const struct settings *s)
{
    const void *at = (const char *)s + row->offset;
    if (row->type == CONF_BOOL) return json_boolean(*(const bool *)at);
    if (row->type != CONF_STR) return json_integer(*(const int64_t *)at);
    const char *text = *(const char *const *)at;
    return setting_is_secret(row) && *text ? json_string(STARS) : text_json(text);
}

static json_t *row_json(const struct conf_row *row, const struct snapshot *s)
{
    static const char *const sources[] = {"default", "file", "environment", "command_line"};
    return json_pack("{ss so ss ss sb ss}", "name", row->name, "value", value_json(row, &s->set), "default", row->deflt,
                     "source", sources[s->source[row - settings_rows]], "live", setting_is_live(row), "help",
                     row->help);
}

json_t *settings_json(struct settings_live *l)
{
    const struct snapshot *s = l->now;
    json_t *data = json_array();
    for (size_t i = 0; i < settings_nrows; i++) json_array_append_new(data, row_json(&settings_rows[i], s));
    const char *path = conf_path(l->argc, l->argv);
    return json_pack("{ss ss? sI so}", "object", "settings", "file", path, "read_at",
                     (json_int_t)(s->read_us / 1000000), "data", data);
}

/* --- reading again --- */

struct reload {
    const struct actor *by;
    const char *file;
    json_t *changed, *kept, *before, *after; /* the last two for the trail */
};

static int note_change(struct reload *r, const struct conf_row *row, const struct settings *old,
                       const struct settings *fresh, struct err *e)
{
    json_t *change =
        json_pack("{ss so so}", "name", row->name, "before", value_json(row, old), "after", value_json(row, fresh));
    if (json_object_set_new(r->before, row->name, value_json(row, old)) ||
        json_object_set_new(r->after, row->name, value_json(row, fresh)) || json_array_append_new(r->changed, change))
        return err_set(e, ERR_NO_MEMORY, "no memory for a change");
    return 0;
}

/* What can't change now gets the old value back, with where that one came from. */
static int compare(struct reload *r, const struct snapshot *old, struct snapshot *fresh, struct err *e)
{
    for (size_t i = 0; i < settings_nrows; i++) {
        const struct conf_row *row = &settings_rows[i];
        if (conf_equal(row, &old->set, &fresh->set)) continue;
        if (setting_is_live(row)) {
            if (note_change(r, row, &old->set, &fresh->set, e)) return -1;
            continue;
        }
        if (conf_copy(row, &fresh->set, &old->set, e)) return -1;
        fresh->source[i] = old->source[i];
        if (json_array_append_new(r->kept, json_string(row->name)))
            return err_set(e, ERR_NO_MEMORY, "no memory for a change");
    }
    return 0;
}

static json_t *answer_json(const struct reload *r)
{
    return json_pack("{ss sO sO}", "object", "reload", "changed", r->changed, "restart_needed", r->kept);
}

static bool differs(const struct reload *r)
{
    return json_array_size(r->changed) > 0;
}

/* A request that names itself is answered the same when it comes again, whether or not it changed anything. */
static int run_note(struct db *d, sqlite3 *c, void *u, struct err *e)
{
    const struct reload *r = u;
    if (differs(r) && audit_add(d, c, &(struct audit){r->by, "settings.reload", r->file, r->before, r->after}, e)) return -1;
    json_t *answer = answer_json(r);
    int rc = once_keep(d, c, r->by, 200, answer, e);
    json_decref(answer);
    return rc;
}

static void log_outcome(const struct reload *r)
{
    size_t i;
    const json_t *v;
    json_array_foreach(r->changed, i, v)
        log_info("setting_changed", LS("name", json_string_value(json_object_get(v, "name"))));
    json_array_foreach(r->kept, i, v)
        log_warn("setting_kept", LS("name", json_string_value(v)), LS("why", "it takes effect at the next start"));
    log_info("settings_read", LS("file", r->file), LI("changed", (int64_t)json_array_size(r->changed)),
             LI("kept", (int64_t)json_array_size(r->kept)));
}

static void put_in_force(struct settings_live *l, struct snapshot *fresh)
{
    fresh->before = l->now;
    l->now = fresh;
    l->changes++;
    if (l->where) *l->where = &fresh->set;
    log_set_level((enum log_level)log_level_parse(fresh->set.log_level));
}

/* Under the lock. */
static int reload(struct settings_live *l, struct db *d, struct reload *r, struct err *e)
{
    struct snapshot *fresh;
    if (l->changes == SETTINGS_CHANGES_MAX)
        return err_set(e, ERR_CONFLICT, "The settings have changed %d times; restart the gateway.", l->changes);
    if (snapshot_read(l, &fresh, e)) return -1;
    int rc = compare(r, l->now, fresh, e);
    if (rc == 0 && (differs(r) || r->by->once)) rc = db_write_wait(d, run_note, r, e);
    if (rc == 0 && differs(r))
        put_in_force(l, fresh);
    else
        snapshot_free(fresh);
    return rc;
}

int settings_reload(struct settings_live *l, struct db *d, const struct actor *by, json_t **out, struct err *e)
{
    const char *path = conf_path(l->argc, l->argv);
    struct reload r = {.by = by,
                       .file = path ? path : "",
                       .changed = json_array(),
                       .kept = json_array(),
                       .before = json_object(),
                       .after = json_object()};
    pthread_mutex_lock(&l->lock);
    int rc = reload(l, d, &r, e);
    pthread_mutex_unlock(&l->lock);
    if (rc == 0) log_outcome(&r);
    if (rc == 0 && out) *out = answer_json(&r);
    json_decref(r.changed);
    json_decref(r.kept);
    json_decref(r.before);
    json_decref(r.after);
    return rc;
}
