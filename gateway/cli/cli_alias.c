/* weft alias set: where a name leads, in one line.
 *
 *     TARGET[=SHARE][,TARGET[=SHARE]]...     TARGET: ADAPTER, ADAPTER@VERSION, base:NAME
 *     SHARE: 10% (one target may be without: it gets the rest), or a plain weight (then all have one)
 *
 * Weights that go to the server are whole: per cent, or hundredths of one where a share is finer. A fallback chain has an
 * order instead of shares. What the alias said before and the line does not (policy, sticky, system prefix, prompt policy, evaluation, routing, capture) stays: the
 * change is made on what is there, under its revision. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGETS_MAX 16
#define TARGET 192
#define FINE 100 /* parts of a per cent */

struct target {
    char name[TARGET];
    double share; /* < 0: none given */
    bool percent;
};

static int read_target(const char *text, size_t n, struct target *t)
{
    char *end;
    if (n >= sizeof t->name) return cli_error(CLI_USAGE, "%.*s...: the target is too long", 40, text);
    snprintf(t->name, sizeof t->name, "%.*s", (int)n, text);
    char *eq = strchr(t->name, '=');
    t->share = -1;
    if (eq) {
        *eq = 0;
        t->share = strtod(eq + 1, &end);
        t->percent = !strcmp(end, "%");
        bool number = end != eq + 1 && (t->percent || !*end) && t->share >= 0 && t->share <= (t->percent ? 100 : 1e6);
        if (!number) return cli_error(CLI_USAGE, "%s=%s: not a share like 10%% or a weight", t->name, eq + 1);
    }
    return *t->name ? CLI_OK : cli_error(CLI_USAGE, "a target is empty");
}

static int read_targets(const struct cli *c, struct target t[TARGETS_MAX], int *n)
{
    *n = 0;
    for (int i = 1; i < c->nargs; i++)
        for (const char *p = c->arg[i]; *p;) {
            size_t len = strcspn(p, ", ");
            if (*n == TARGETS_MAX) return cli_error(CLI_USAGE, "more than %d targets", TARGETS_MAX);
            int rc = len ? read_target(p, len, &t[(*n)++]) : CLI_OK;
            if (rc) return rc;
            p += len + (p[len] != 0);
        }
    return *n ? CLI_OK : cli_error(CLI_USAGE, "no target given");
}

/* Whole weights of the shares; 0 everywhere where there are none. */
static int weigh(struct target *t, int n, int64_t weight[TARGETS_MAX])
{
    int rest = -1, percents = 0, weights = 0;
    double sum = 0, fine = 1;
    for (int i = 0; i < n; i++) {
        if (t[i].share < 0) {
            if (rest >= 0 && n > 1)
                rest = -2;
            else
                rest = i;
            continue;
        }
        percents += t[i].percent;
        weights += !t[i].percent;
        sum += t[i].share;
        if (t[i].percent && t[i].share != floor(t[i].share)) fine = FINE;
    }
    if (!percents && !weights && n == 1) return weight[0] = 1, CLI_OK;
    if (percents && weights) return cli_error(CLI_USAGE, "shares in per cent and plain weights don't mix");
    if (rest == -2 || (!percents && rest >= 0))
        return cli_error(CLI_USAGE,
                         "give shares: all targets but one in per cent, like sql@2=10%%,sql@1 (or --policy fallback)");
    if (percents && (sum > 100 + 1e-9 || (rest < 0 && fabs(sum - 100) > 1e-9)))
        return cli_error(CLI_USAGE, "the shares are %g %% together, not 100", sum);
    for (int i = 0; i < n; i++) {
        double share = (t[i].share < 0 ? 100 - sum : t[i].share) * fine;
        weight[i] = (int64_t)llround(share);
        if (fabs(share - (double)weight[i]) > 1e-6)
            return cli_error(CLI_USAGE, "%s: a share has at most two decimals", t[i].name);
    }
    return CLI_OK;
}

static int target_json(const struct target *t, int64_t weight, json_t **out)
{
    char name[TARGET];
    memcpy(name, t->name, sizeof name);
    char *at = strrchr(name, '@');
    json_t *o = json_object();
    *out = o;
    if (!strncmp(name, "base:", 5)) {
        json_object_set_new(o, "base", json_string(name + 5));
    } else {
        if (at && (!at[1] || strspn(at + 1, "0123456789") != strlen(at + 1) || strlen(at + 1) > 9))
            return cli_error(CLI_USAGE, "%s: a version is a number", t->name);
        if (at) {
            *at = 0;
            json_object_set_new(o, "version", json_integer(strtol(at + 1, NULL, 10)));
        }
        json_object_set_new(o, "adapter", json_string(name));
    }
    if (weight >= 0) json_object_set_new(o, "weight", json_integer(weight));
    return CLI_OK;
}

static int targets_json(const struct cli *c, bool chain, json_t **out)
{
    struct target t[TARGETS_MAX];
    int64_t weight[TARGETS_MAX];
    int n, rc = read_targets(c, t, &n);
    for (int i = 0; !rc && chain && i < n; i++)
        if (t[i].share >= 0) rc = cli_error(CLI_USAGE, "%s: a fallback chain has an order, no shares", t[i].name);
    if (!rc && !chain) rc = weigh(t, n, weight);
    json_t *list = json_array();
    for (int i = 0; !rc && i < n; i++) {
        json_t *o = NULL;
        rc = target_json(&t[i], chain ? -1 : weight[i], &o);
        json_array_append_new(list, o);
    }
    if (rc)
        json_decref(list);
    else
        *out = list;
    return rc;
}

/* What the alias is now: its fields for the new body, and its ETag; nothing of either where there is none. */
static int look(const struct cli *c, const char *path, json_t *body, char etag[64])
{
    static const char *const kept[] = {"policy", "sticky", "system_prefix", "prompt_policy", "evaluation", "routing", "capture"};
    struct cli_answer a;
    struct cli_ask ask = {.side = CLI_TENANT_SIDE, .method = "GET", .path = path, .expected = 404};
    int rc = cli_ask(c, &ask, &a);
    snprintf(etag, 64, "%s", rc ? "" : a.etag);
    for (int i = 0; !rc && i < CLI_COUNT(kept); i++) {
        json_t *v = json_object_get(a.json, kept[i]);
        if (v && !json_is_null(v)) json_object_set(body, kept[i], v);
    }
    cli_answer_close(&a);
    return rc == CLI_NOT_FOUND ? CLI_OK : rc;
}

static int put(const struct cli *c, const char *path, const json_t *body, const char *etag)
{
    char match[96];
    struct cli_answer a = {0};
    bool create = cli_has(c, CLI_CREATE_FLAG);
    int rc = cli_revision(c, etag, match);
    struct cli_ask ask = {.side = CLI_TENANT_SIDE, .method = "PUT", .path = path, .body = body};
    if (create)
        ask.header[0] = "If-None-Match: *";
    else if (*match)
        ask.header[0] = match;
    if (!rc) rc = cli_ask(c, &ask, &a);
    if (!rc && c->json)
        rc = cli_json(a.json);
    else if (!rc)
        cli_fields(&cli_view_alias, a.json);
    cli_answer_close(&a);
    return rc;
}

int cli_alias_set(const struct cli *c)
{
    char path[CLI_URL_MAX], etag[64] = "";
    json_t *body = json_object(), *given = NULL, *targets = NULL;
    int rc = cli_fill(c, c->command->path, path);
    if (!rc && !cli_has(c, CLI_CREATE_FLAG)) rc = look(c, path, body, etag);
    if (!rc) rc = cli_body(c, &given);
    if (!rc) json_object_update(body, given);
    const char *policy = json_string_value(json_object_get(body, "policy"));
    if (!rc) rc = targets_json(c, policy && !strcmp(policy, "fallback"), &targets);
    if (!rc) json_object_set_new(body, "targets", targets);
    if (!rc) rc = put(c, path, body, etag);
    json_decref(given);
    json_decref(body);
    return rc;
}
