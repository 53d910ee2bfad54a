/* The gateway's settings: schema/gateway_settings.def as a struct and a table (base/conf.h), and how they are read again while it runs.
 *
 * The settings in force are a snapshot that nobody edits. Reading again (SIGHUP, POST /admin/v1/reload) makes another one, of which only rows that
 * can change at run time differ, and puts it in the old one's place. Old ones stay until the end, for a request may hold one as long as it
 * lives; so a process takes SETTINGS_CHANGES_MAX changes (readings that change nothing don't count). */
#pragma once
#include "base/conf.h"
#include "gateway/db/db.h"

struct settings {
#define X(field, type, deflt, min, max, env, help) CONF_CTYPE_##type field;
#include "schema/gateway_settings.def"
#undef X
};

extern const struct conf_row settings_rows[];
extern const size_t settings_nrows;

#define SETTINGS_CHANGES_MAX 10000

/* Rules that a row of the table can't say; ERR_USAGE. */
int settings_check(const struct settings *s, struct err *e);

struct json_t;
struct actor;
struct settings_live;

/* Reads all sources. 1: --help or --print-config was asked for and printed. argv must outlive it. */
int settings_open(struct settings_live **out, int argc, char **argv, struct err *e);
void settings_close(struct settings_live *l);

/* Valid until settings_close(). */
const struct settings *settings_now(const struct settings_live *l);

/* *where is `const struct settings *_Atomic`: follows settings_now() from here on. */
void settings_follow(struct settings_live *l, const struct settings *_Atomic *where);

/* Reads all sources again. A file that is wrong anywhere is refused whole, and so is what breaks settings_check(). What changed is noted in the
 * audit trail first, then in force, then logged; what would need a restart stays as it is and is named. *out may be NULL:
 *     {"object":"reload", "changed":[{"name","before","after"}], "restart_needed":[name, ...]}
 * Blocks in the database. */
int settings_reload(struct settings_live *l, struct db *d, const struct actor *by, struct json_t **out, struct err *e);

/* {"object":"settings", "file", "read_at", "data":[{"name","value","default","source","live","help"}]}; secrets are starred out. */
struct json_t *settings_json(struct settings_live *l);

bool setting_is_live(const struct conf_row *row);   /* takes effect without a restart */
bool setting_is_secret(const struct conf_row *row); /* its value is shown to nobody */
