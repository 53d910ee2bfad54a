/* weft doctor: is this set up as it should be, and if not, what to do.
 *
 *     configuration of this command -> settings of the gateway -> data folder, lock, database -> ports -> model -> host
 *       -> the gateway, its keys, its engines over HTTP
 *
 * It only looks: the lock is tried and given back at once, the database opened for reading, ports bound and let go. What
 * is not there to be looked at (no data folder named: a client's machine) is skipped and said so. Exit status 1 where a
 * check failed; warnings alone are 0. */
#include "gateway/cli/cli_doctor.h"
#include "gateway/cli/cli_config.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_verbs.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT 700

static const char *const verdicts[] = {"ok", "warn", "fail", "skip"};

void doctor_say(struct doctor *d, enum doctor_verdict v, const char *check, const char *remedy, const char *format, ...)
{
    static const enum cli_colour colours[] = {CLI_GREEN, CLI_YELLOW, CLI_RED, CLI_DIM};
    char text[TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    d->warned += v == DOCTOR_WARN;
    d->failed += v == DOCTOR_FAIL;
    json_array_append_new(d->checks, json_pack("{s:s, s:s, s:s, s:s}", "check", check, "verdict", verdicts[v], "found",
                                               text, "remedy", remedy));
    if (d->c->json) return;
    printf("%s%-4s%s  %-14s  ", cli_colour(colours[v]), verdicts[v], cli_colour(CLI_PLAIN), check);
    cli_puts(text, strlen(text));
    putchar('\n');
    if (*remedy) {
        printf("%*s-> ", 22, "");
        cli_puts(remedy, strlen(remedy));
        putchar('\n');
    }
    fflush(stdout);
}

/* cli_config_settle() has read it, or the command would have ended. */
static void check_config(struct doctor *d)
{
    char path[4096], remedy[4200] = "";
    struct stat st;
    if (cli_config_path(d->c, path)) return;
    if (stat(path, &st)) {
        doctor_say(d, DOCTOR_OK, "configuration", "", "no file %s: environment and defaults", path);
        return;
    }
    bool open_to_others = st.st_mode & 077;
    if (open_to_others) snprintf(remedy, sizeof remedy, "chmod 600 %s", path);
    doctor_say(d, open_to_others ? DOCTOR_WARN : DOCTOR_OK, "configuration", remedy, "%s, mode %03o", path,
               st.st_mode & 0777u);
}

static int report(const struct doctor *d)
{
    if (d->c->json) {
        json_t *o = json_pack("{s:s, s:b, s:i, s:i, s:O}", "object", "doctor", "ok", d->failed == 0, "failed",
                              d->failed, "warned", d->warned, "checks", d->checks);
        cli_json(o);
        json_decref(o);
    } else {
        printf("\n%d checks: %d failed, %d warned\n", (int)json_array_size(d->checks), d->failed, d->warned);
    }
    return d->failed ? CLI_FAILED : CLI_OK;
}

int cli_doctor(const struct cli *c)
{
    static struct doctor d; /* strings of settings live as long as the program */
    d.c = c;
    d.checks = json_array();
    check_config(&d);
    doctor_settings(&d);
    doctor_data(&d);
    doctor_ports(&d);
    doctor_model(&d);
    doctor_host(&d);
    doctor_gateway(&d);
    int rc = report(&d);
    json_decref(d.checks);
    return rc;
}
