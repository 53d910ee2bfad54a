/* Scheduled exports as rows: which file is written, how often, and how far that came. What writes them is gateway/export/export_files.h.
 *
 * A schedule writes one file for each hour, day or month (UTC) into the folder of its name. done_until is the end of the last period that was written;
 * it moves in a transaction of its own after the file lies there whole. Changes block, are audited, and are refused with ERR_PRECONDITION where the row
 * has another revision than was asked for. JSON results are new references. */
#pragma once
#include "gateway/db/db_audit.h"
#include "gateway/export/export_rows.h"

#define SCHEDULES_MAX 256
#define SCHEDULE_BACK_MAX 10000 /* periods that a schedule may begin before now */

struct page;
struct json_t;

enum schedule_every { EVERY_HOUR, EVERY_DAY, EVERY_MONTH, EVERY_KINDS };
extern const char *const schedule_every_name[EVERY_KINDS];

/* The period that a moment lies in (Unix seconds), and where it ends. */
int64_t schedule_start(enum schedule_every every, int64_t t);
int64_t schedule_end(enum schedule_every every, int64_t t);

struct schedule_wish {
    const char *name;   /* as of tenants; the folder's */
    const char *tenant; /* name; "": everybody */
    const char *format, *every;
    int64_t from;       /* the first period is the one of this moment; -1: of now */
};

/* ERR_CONFLICT: the name is taken, or there are SCHEDULES_MAX. ERR_NOT_FOUND: no such tenant. */
int schedule_create(struct db *d, const struct actor *by, const struct schedule_wish *w, struct json_t **out, struct err *e);
int schedule_list(struct db *d, const struct page *p, struct json_t *list, bool *more, struct err *e); /* by name */
int schedule_get(struct db *d, const char *name, struct json_t **out, struct err *e);

struct schedule_change {
    const char *state; /* enabled or paused; NULL: stays */
    int64_t from;      /* go on with the period of this moment; -1: stays */
    int64_t revision;  /* as of revision_wanted() */
};
int schedule_update(struct db *d, const struct actor *by, const char *name, const struct schedule_change *change, struct json_t **out, struct err *e);
/* Its files stay. */
int schedule_remove(struct db *d, const struct actor *by, const char *name, int64_t revision, struct json_t **out, struct err *e);

/* --- for the thread that writes --- */

struct schedule {
    char id[UUID_LEN], name[NAME_MAX_LEN + 1], tenant[UUID_LEN], tenant_name[NAME_MAX_LEN + 1]; /* tenant "": everybody */
    enum export_format format;
    enum schedule_every every;
    int64_t done_until, last_run; /* last_run us */
    bool failing;
};

/* The enabled ones; returns how many, or -1. */
int schedules_enabled(struct db *d, struct schedule out[SCHEDULES_MAX], struct err *e);
/* Its file of the period up to `until` lies there. Nothing when the schedule was changed meanwhile. */
int schedule_done(struct db *d, const struct schedule *s, int64_t until, struct err *e);
/* Why it does not; the first time in a row also an event. */
int schedule_failed(struct db *d, const struct schedule *s, const char *why, struct err *e);
