/* verb_prune: `weft-engine prune`: arguments in, a checkpoint out (prune.h). Runs on the main thread of a process of its own. */
#include "base/conf.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/prune.h"
#include "engine/verbs.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DONE = 0, BAD_USAGE = 2, BAD_MODEL = 3 };

struct settings {
#define X CONF_FIELD
#include "schema/prune_settings.def"
#undef X
};
static const struct conf_row rows[] = {
#define X(...) CONF_ROW(struct settings, __VA_ARGS__)
#include "schema/prune_settings.def"
#undef X
};

static int read_share(const char *name, const char *text, double min, double max, double *out, struct err *e)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= min && v <= max))
        return err_set(e, ERR_USAGE, "--%s is '%s': a number from %g to %g is needed", name, text, min, max);
    *out = v;
    return 0;
}

static int read_words(const struct settings *s, struct prune_options *o, struct err *e)
{
    static const char *const patterns[] = {[PRUNE_NONE] = "none", [PRUNE_24] = "2:4", [PRUNE_LOOSE] = "unstructured"};
    int at = 0, level = log_level_parse(s->log_level);
    o->wanda = strcmp(s->method, "wanda") == 0;
    if (!o->wanda && strcmp(s->method, "magnitude") != 0)
        return err_set(e, ERR_USAGE, "no such method: '%s' (magnitude or wanda)", s->method);
    while (at < 3 && strcmp(s->pattern, patterns[at]) != 0) at++;
    if (at == 3) return err_set(e, ERR_USAGE, "no such pattern: '%s' (2:4, unstructured or none)", s->pattern);
    if (o->wanda && !s->calibration[0])
        return err_set(e, ERR_USAGE, "--method wanda needs a text: --calibration FILE");
    if (level < 0) return err_set(e, ERR_USAGE, "no such log level: '%s' (debug, info, warn or error)", s->log_level);
    o->pattern = (enum prune_pattern)at;
    log_init("weft-engine", (enum log_level)level);
    return 0;
}

static int read_settings(const struct settings *s, struct prune_options *o, struct err *e)
{
    if (read_words(s, o, e) || read_share("ratio", s->ratio, 0, 0.99, &o->ratio, e) ||
        read_share("width", s->width, 0.05, 1, &o->width, e) || read_share("heads", s->heads, 0.05, 1, &o->heads, e))
        return -1;
    o->sparse = s->sparse;
    o->zeros = s->zeros;
    o->calibration = s->calibration;
    o->tokens = (int)s->tokens;
    o->context = (int)s->context;
    o->threads = (int)s->threads;
    o->kernels = s->kernels;
    return 0;
}

int verb_prune(int argc, char **argv)
{
    static struct settings s;
    struct prune_options o = {0};
    struct err e = {0};
    const char *path[3] = {NULL};
    int n = 0, rc = conf_load(rows, CONF_ROWS(rows), &s, argc, argv, path, 3, &n, &e);
    if (rc > 0) return DONE;
    if (rc == 0 && n != 3) rc = err_set(&e, ERR_USAGE, "usage: weft-engine prune IN OUT; see prune --help");
    if (rc == 0) rc = read_settings(&s, &o, &e);
    o.in = path[1];
    o.out = path[2];
    if (rc == 0) {
        json_start();
        signal(SIGXFSZ, SIG_IGN); /* a file beyond the limit is an error of write(2), which is told and cleaned up */
        rc = prune(&o, &e);
    }
    if (rc == 0) return DONE;
    fprintf(stderr, "weft-engine: %s\n", e.msg);
    return e.code == ERR_USAGE ? BAD_USAGE : BAD_MODEL;
}
