/* weft doctor, over HTTP: does the gateway answer, can it serve, are the keys valid, how are its engines, is what it recorded
 * backed up, verified and passed on, is it of the same version as the programs here, do the clocks agree. */
#include "base/json.h"
#include "base/version.h"
#include "gateway/cli/cli_doctor.h"
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_MS 2000
#define ANSWER_MS 5000
#define SKEW_S 5 /* clocks apart */
#define REMEDY 300
#define HOUR_S 3600
#define DAY_S 86400LL
#define BACKUP_S (2 * DAY_S)  /* as the alerts of ops/prometheus have it */
#define VERIFY_S (31 * DAY_S) /* once for each month's invoices */
#define EXPORT_S HOUR_S

static int get(const struct doctor *d, enum cli_side side, const char *path, bool keyless, struct cli_answer *a)
{
    return cli_ask(d->c,
                   &(struct cli_ask){.side = side,
                                     .method = "GET",
                                     .path = path,
                                     .quiet = true,
                                     .keyless = keyless,
                                     .connect_ms = CONNECT_MS,
                                     .first_byte_ms = ANSWER_MS},
                   a);
}

/* --- reachable, ready --- */

static bool check_reach(struct doctor *d, enum cli_side side)
{
    const char *name = side == CLI_ADMIN_SIDE ? "admin API" : "API",
               *url = side == CLI_ADMIN_SIDE ? d->c->admin_url : d->c->url;
    char remedy[REMEDY];
    struct cli_answer a;
    int rc = get(d, side, "/health", true, &a);
    snprintf(remedy, sizeof remedy, "is it running, and is the address right? weft config set %s URL, or %s",
             side == CLI_ADMIN_SIDE ? "admin_url" : "url", side == CLI_ADMIN_SIDE ? "WEFT_ADMIN_URL" : "WEFT_URL");
    if (!rc)
        doctor_say(d, DOCTOR_OK, name, "", "%s answers", url);
    else if (a.status)
        doctor_say(d, DOCTOR_FAIL, name, "is that a weft-gateway?", "%s answers %d to /health", url, a.status);
    else
        doctor_say(d, DOCTOR_FAIL, name, remedy, "%s", *a.broken.msg ? a.broken.msg : url);
    cli_answer_close(&a);
    return !rc;
}

static void check_ready(struct doctor *d)
{
    struct cli_answer a;
    int rc = get(d, CLI_ADMIN_SIDE, "/ready", true, &a);
    json_t *o = a.text ? json_load(a.text, strlen(a.text), 0, NULL) : NULL; /* a 503 has the same object */
    bool engine = json_is_true(json_object_get(o, "engine")), database = json_is_true(json_object_get(o, "database"));
    if (!rc)
        doctor_say(d, DOCTOR_OK, "ready", "", "engine and database");
    else if (!o)
        doctor_say(d, DOCTOR_FAIL, "ready", "look at the gateway's log", "/ready answers %d", a.status);
    else
        doctor_say(d, DOCTOR_FAIL, "ready",
                   database ? "weft engine list; a large model takes a while to load"
                            : "the disk is full or broken: look at the gateway's log",
                   "%s%s%s", engine ? "" : "no engine answers", !engine && !database ? ", " : "",
                   database ? "" : "the database takes no writes");
    json_decref(o);
    cli_answer_close(&a);
}

/* --- keys --- */

static void check_key(struct doctor *d, enum cli_side side)
{
    bool admin = side == CLI_ADMIN_SIDE;
    const char *name = admin ? "admin key" : "key", *key = admin ? d->c->admin_key : d->c->key;
    char remedy[REMEDY];
    struct cli_answer a;
    if (!key) {
        doctor_say(d, DOCTOR_SKIP, name, "", "none: %s, or weft config set %s", admin ? "WEFT_ADMIN_KEY" : "WEFT_KEY",
                   admin ? "admin_key" : "key");
        return;
    }
    int rc = get(d, side, admin ? "/admin/v1/tenants?limit=1" : "/v1/models", false, &a);
    snprintf(remedy, sizeof remedy, "%s",
             admin ? "weft-gateway admin-key --new --data DIR makes another, with the gateway stopped"
                   : "weft key create --tenant NAME makes another");
    if (!rc)
        doctor_say(d, DOCTOR_OK, name, "", "%.16s... is valid", strlen(key) > 24 ? key : "it");
    else if (a.status == 403)
        doctor_say(d, DOCTOR_OK, name, "", "valid; its role may not do everything");
    else if (a.status == 401)
        doctor_say(d, DOCTOR_FAIL, name, remedy, "the gateway does not know it, or it is revoked or expired");
    else
        doctor_say(d, DOCTOR_FAIL, name, "look at the gateway's log",
                   a.status ? "the gateway answers %d" : "the gateway did not answer", a.status);
    cli_answer_close(&a);
}

/* --- engines, versions, clock --- */

static void check_engine(struct doctor *d, const json_t *row)
{
    const json_t *status = json_object_get(row, "status");
    const char *name = json_string_value(json_object_get(row, "name")),
               *state = json_string_value(json_object_get(status, "state")),
               *why = json_string_value(json_object_get(status, "why")),
               *want = json_string_value(json_object_get(row, "state"));
    bool enabled = !want || !strcmp(want, "enabled"),
         fine = state && (!strcmp(state, "ready") || !strcmp(state, "slow_start"));
    char remedy[REMEDY];
    snprintf(remedy, sizeof remedy, "weft engine show %.64s; its log says more", name ? name : "");
    doctor_say(d, fine || !enabled ? DOCTOR_OK : DOCTOR_FAIL, "engine", fine || !enabled ? "" : remedy, "%s: %s%s%s",
               name ? name : "?", enabled ? (state ? state : "?") : want, why && *why ? ": " : "", why ? why : "");
}

static void check_engines(struct doctor *d)
{
    struct cli_answer a;
    size_t i;
    json_t *row;
    if (!get(d, CLI_ADMIN_SIDE, "/admin/v1/engines?limit=100", false, &a)) {
        json_array_foreach(json_object_get(a.json, "data"), i, row) check_engine(d, row);
        if (!json_array_size(json_object_get(a.json, "data")))
            doctor_say(d, DOCTOR_FAIL, "engine", "weft engine add, or the setting model", "there is none");
    }
    cli_answer_close(&a);
}

static void check_skew(struct doctor *d)
{
    struct cli_answer a;
    struct timespec now;
    if (!get(d, CLI_ADMIN_SIDE, "/admin/v1/top?limit=1", false, &a)) {
        double there = json_number_value(json_object_get(a.json, "time"));
        clock_gettime(CLOCK_REALTIME, &now);
        double apart = fabs((double)now.tv_sec + (double)now.tv_nsec / 1e9 - there);
        if (there > 0)
            doctor_say(d, apart > SKEW_S ? DOCTOR_WARN : DOCTOR_OK, "clock",
                       apart > SKEW_S ? "keep both by a time server" : "", "%.1f s from the gateway's", apart);
    }
    cli_answer_close(&a);
}

/* --- the books: what GET /admin/v1/ledger/health says --- */

static void say_age(int64_t s, char out[32])
{
    if (s < 2 * HOUR_S)
        snprintf(out, 32, "%lld min", (long long)s / 60);
    else if (s < 2 * DAY_S)
        snprintf(out, 32, "%lld h", (long long)s / HOUR_S);
    else
        snprintf(out, 32, "%lld days", (long long)(s / DAY_S));
}

static void check_backup(struct doctor *d, const json_t *health)
{
    const json_t *backups = json_object_get(health, "backups");
    int64_t age = json_integer_value(json_object_get(backups, "age_s"));
    char text[32];
    say_age(age, text);
    if (!json_is_object(backups))
        doctor_say(d, DOCTOR_WARN, "backup", "weft backup create; the setting backup_every_h makes them by itself", "there is none");
    else if (age > BACKUP_S)
        doctor_say(d, DOCTOR_WARN, "backup", "weft backup list says what failed; weft backup create", "the newest is %s old", text);
    else
        doctor_say(d, DOCTOR_OK, "backup", "", "the newest is %s old", text);
}

static void check_verify(struct doctor *d, const json_t *health)
{
    const json_t *last = json_object_get(health, "last_verify");
    int64_t age = json_integer_value(json_object_get(health, "time")) - json_integer_value(json_object_get(last, "t"));
    long long bad = json_integer_value(json_object_get(last, "bad")), rows = json_integer_value(json_object_get(last, "rows"));
    char text[32];
    say_age(age > 0 ? age : 0, text);
    if (!json_is_object(last))
        doctor_say(d, DOCTOR_WARN, "books", "weft usage verify", "never verified");
    else if (bad)
        doctor_say(d, DOCTOR_FAIL, "books", "send no invoice; docs/RUNBOOK.md, WeftLedgerDiffers",
                   "%lld sums differed from the rows when they were verified %s ago", bad, text);
    else if (age > VERIFY_S)
        doctor_say(d, DOCTOR_WARN, "books", "weft usage verify, before each month's invoices", "verified %s ago", text);
    else
        doctor_say(d, DOCTOR_OK, "books", "", "verified %s ago: %lld rows, no difference", text, rows);
}

static bool is_failing_webhook(const json_t *row)
{
    const char *state = json_string_value(json_object_get(row, "state"));
    return state && !strcmp(state, "failing");
}

static bool is_late_schedule(const json_t *row)
{
    const char *state = json_string_value(json_object_get(row, "state"));
    return json_integer_value(json_object_get(row, "behind_s")) > EXPORT_S && state && !strcmp(state, "enabled");
}

/* Lists of which one bad row is a warning, with the first by name. */
static const struct kind {
    const char *list, *check, *is_bad, *remedy;
    bool (*bad)(const json_t *row);
} kinds[] = {
    {"webhooks", "webhooks", "failing", "weft webhook test ID, then weft webhook resume ID: it gets what it missed", is_failing_webhook},
    {"schedules", "exports", "more than an hour behind", "weft export-schedule list says its last error", is_late_schedule},
};

static void check_rows(struct doctor *d, const json_t *health, const struct kind *k)
{
    const json_t *list = json_object_get(health, k->list);
    const char *first = NULL, *of = NULL;
    int bad = 0, n = (int)json_array_size(list);
    for (int i = n - 1; i >= 0; i--) {
        const json_t *row = json_array_get(list, (size_t)i);
        if (!k->bad(row)) continue;
        bad++;
        first = json_string_value(json_object_get(row, "name"));
        of = json_string_value(json_object_get(row, "tenant"));
    }
    if (bad)
        doctor_say(d, DOCTOR_WARN, k->check, k->remedy, "%d of %d %s: %.64s%s%.64s%s", bad, n, k->is_bad, first ? first : "?",
                   of ? " of tenant " : "", of ? of : "", bad > 1 ? " and others" : "");
    else
        doctor_say(d, DOCTOR_OK, k->check, "", n ? "%d, none %s" : "none", n, k->is_bad);
}

static void check_books(struct doctor *d)
{
    struct cli_answer a;
    if (!get(d, CLI_ADMIN_SIDE, "/admin/v1/ledger/health", false, &a)) {
        check_backup(d, a.json);
        check_verify(d, a.json);
        for (size_t i = 0; i < CLI_COUNT(kinds); i++) check_rows(d, a.json, &kinds[i]);
    } else if (a.status >= 400 && a.status < 500) {
        doctor_say(d, DOCTOR_SKIP, "books", "", "the gateway answers %d: an older one, or a key that may not ask", a.status);
    } else {
        doctor_say(d, DOCTOR_WARN, "books", "look at the gateway's log", "/admin/v1/ledger/health answers %d", a.status);
    }
    cli_answer_close(&a);
}

/* --- programs --- */

/* The first line that a program prints for --version; false: it could not be had. */
static bool version_of(const char *program, char out[128])
{
    char *argv[] = {(char *)program, (char *)"--version", NULL}, *none[] = {NULL};
    posix_spawn_file_actions_t actions;
    int ends[2], status;
    pid_t pid;
    if (pipe(ends)) return false;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    int failed = posix_spawn(&pid, program, &actions, NULL, argv, none);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    ssize_t n = failed ? -1 : read(ends[0], out, 127);
    close(ends[0]);
    if (!failed) waitpid(pid, &status, 0);
    if (n <= 0) return false;
    out[n] = 0;
    out[strcspn(out, "\n")] = 0;
    return !status;
}

static void check_program(struct doctor *d, const char *path)
{
    static const char same[] = "install all three programs from one build";
    char text[128];
    if (access(path, X_OK))
        doctor_say(d, DOCTOR_WARN, "versions",
                   "weft, weft-gateway and weft-engine belong beside each other (or set `engine`)", "%s can't be run",
                   path);
    else if (!version_of(path, text))
        doctor_say(d, DOCTOR_WARN, "versions", same, "%s does not say its version", path);
    else if (!strstr(text, " " WEFT_VERSION))
        doctor_say(d, DOCTOR_WARN, "versions", same, "%s, weft " WEFT_VERSION, text);
    else
        doctor_say(d, DOCTOR_OK, "versions", "", "%s, weft " WEFT_VERSION, text);
}

/* The programs lie side by side when they were built together. */
static void check_programs(struct doctor *d)
{
    char self[900], path[1000];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || !d->data) return;
    self[n] = 0;
    *strrchr(self, '/') = 0;
    snprintf(path, sizeof path, "%s/weft-gateway", self);
    check_program(d, path);
    snprintf(path, sizeof path, "%s/weft-engine", self);
    check_program(d, *d->set.engine && d->settings_known ? d->set.engine : path);
}

void doctor_gateway(struct doctor *d)
{
    check_programs(d);
    if (check_reach(d, CLI_TENANT_SIDE)) check_key(d, CLI_TENANT_SIDE);
    if (!check_reach(d, CLI_ADMIN_SIDE)) return;
    check_ready(d);
    check_key(d, CLI_ADMIN_SIDE);
    if (!d->c->admin_key) return;
    check_engines(d);
    check_books(d);
    check_skew(d);
}
