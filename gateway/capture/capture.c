/* capture: a transcript becomes a file (see capture.h). On the thread of gateway/quality.
 *
 * What is kept is the conversation as the engine read it: with the alias's system prefix and template, after which a version that is trained on it can be
 * asked in the alias's place. A row is redacted whole or not kept; where anything was redacted the log-probabilities are left out, since their tokens spell
 * what was taken away. */
#include "gateway/capture/capture.h"
#include "base/clock.h"
#include "base/log.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/capture/redact.h"
#include "gateway/observe/meters.h"
#include "gateway/quality/quality.h"
#include "gateway/quality/transcript.h"
#include "gateway/settings.h"
#include <stdio.h>
#include <string.h>

#define DAY_S 86400
#define CHAT "/v1/chat/completions"

/* A member of the row, redacted; NULL: left out. */
struct member {
    const char *name;
    const json_t *v;
};

static json_t *said(const struct transcript *t)
{
    json_t *o = json_pack("{ss ss%}", "role", "assistant", "content", t->answer ? t->answer : "", t->answer_len);
    if (o && t->tool_calls) json_object_set(o, "tool_calls", (json_t *)t->tool_calls);
    return o;
}

static int add_members(struct redactor *r, const struct transcript *t, json_t *row, struct err *e)
{
    json_t *answer = said(t);
    const struct member members[] = {{"messages", json_object_get(t->body, "messages")}, {"tools", json_object_get(t->body, "tools")}, {"answer", answer}};
    int rc = answer ? 0 : err_set(e, ERR_INVALID, "the answer is not UTF-8");
    for (size_t i = 0; i < sizeof members / sizeof *members && rc == 0; i++) {
        json_t *v = NULL;
        if (!members[i].v) continue;
        rc = redact_json(r, members[i].v, &v, e);
        if (rc == 0 && json_object_set_new(row, members[i].name, v)) rc = err_set(e, ERR_NO_MEMORY, "no memory for a capture");
    }
    json_decref(answer);
    return rc;
}

static json_t *head(const struct transcript *t, const json_t *policy, int64_t expires_s)
{
    const struct admission *a = t->adm;
    char version[NAME_MAX_LEN + 16] = "";
    if (*a->what.adapter) snprintf(version, sizeof version, "%s@%d", a->what.adapter, a->what.version);
    return json_pack("{ss ss sI sI ss ss ss ss sb sO sO s[]}", "id", a->id, "object", "capture", "created_at", (json_int_t)(a->t_start / 1000000), "expires_at",
                     (json_int_t)expires_s, "alias", a->alias, "version", *version ? version : a->what.base, "base", a->what.base, "finish_reason",
                     t->finish, "stream", a->stream, "redact", json_object_get(policy, "redact"), "patterns", json_object_get(policy, "patterns"), "answers");
}

static int fill(const struct transcript *t, const json_t *policy, json_t *row, struct err *e)
{
    struct redactor *r = NULL;
    if (redactor_new(&r, json_object_get(policy, "redact"), json_object_get(policy, "patterns"), e)) return -1;
    int rc = add_members(r, t, row, e);
    if (rc == 0) json_object_set_new(row, "redacted", redactor_counts(r));
    if (rc == 0 && t->logprobs && !redactor_found(r)) json_object_set(row, "logprobs", (json_t *)t->logprobs);
    redactor_free(r);
    return rc;
}

struct origin {
    struct registry *registry;
    const struct admission *adm;
};

/* Whatever it says now: what counts of it is that it says anything. */
static bool still_wanted(void *u)
{
    const struct origin *o = u;
    return alias_has(o->registry, o->adm->who.tenant, o->adm->alias, ALIAS_CAPTURE);
}

static int keep(struct gateway *g, const struct transcript *t, const json_t *policy, struct err *e)
{
    struct origin from = {g->registry, t->adm};
    int64_t now_s = clock_wall_us() / 1000000, days = json_integer_value(json_object_get(policy, "expires_days"));
    struct capture_new n = {.tenant = t->adm->who.tenant, .id = t->adm->id, .alias = t->adm->alias, .expires_s = now_s + days * DAY_S,
                            .max_rows = json_integer_value(json_object_get(policy, "max_rows")), .max_bytes = settings_now(g->settings)->capture_mb << 20,
                            .still = still_wanted, .u = &from};
    json_t *row = head(t, policy, n.expires_s);
    int rc = row ? fill(t, policy, row, e) : err_set(e, ERR_NO_MEMORY, "no memory for a capture");
    if (rc == 0) rc = captures_add(g->captures, &n, row, e);
    json_decref(row);
    return rc;
}

/* Why it is not to be kept; NULL: it is. */
static const char *unfit(struct gateway *g, const struct transcript *t)
{
    if (!captures_on(g->captures, t->adm->who.tenant) || !still_wanted(&(struct origin){g->registry, t->adm})) return "stopped";
    if (strcmp(t->adm->endpoint, CHAT) != 0 || !json_is_array(json_object_get(t->body, "messages"))) return "not_chat";
    return t->truncated ? "too_large" : NULL;
}

bool capture_wanted(const struct gateway *g) { return settings_now(g->settings)->capture_mb > 0; }

void capture_take(struct quality *q, const struct transcript *t)
{
    struct gateway *g = quality_gateway(q);
    const char *text = t->part[ALIAS_CAPTURE], *what = unfit(g, t);
    json_t *policy = NULL;
    struct err e = {0};
    if (!what) {
        int rc = json_parse(text, strlen(text), &policy, &e);
        if (rc == 0) rc = keep(g, t, policy, &e);
        what = rc == 0 ? "kept" : e.code == ERR_TOO_LARGE ? "too_large" : e.code == ERR_CONFLICT ? "stopped" : "failed";
        if (rc && e.code != ERR_CONFLICT) log_warn("capture", LS("id", t->adm->id), LS("error", e.msg));
        json_decref(policy);
    }
    metric_add(g->metrics, GM_CAPTURES, (const char *[]){what}, 1);
}
