/* alias_draft: a tenant's body of an alias into numbers and words within their bounds. Whether a target is there, and may be named, is looked at where the rows are
 * (alias_change.c). */
#include "gateway/registry/alias_draft.h"
#include "base/json.h"
#include "gateway/db/db.h"
#include "gateway/registry/alias_parts.h"
#include <string.h>

#define VERSION_MAX 999999999

void draft_close(struct draft *d)
{
    for (int i = 0; i < ALIAS_PARTS; i++) {
        json_decref(d->part[i]);
        d->part[i] = NULL;
    }
}

static int read_word(const json_t *o, const char *field, const char *const *words, int n, int *out, struct err *e)
{
    const char *text = NULL;
    if (json_get_str(o, field, 64, &text, NULL, e)) return -1;
    if (!text) return 0;
    for (int i = 0; i < n; i++)
        if (strcmp(words[i], text) == 0) {
            *out = i;
            return 0;
        }
    return err_field(e, ERR_INVALID, field, "'%s' can't be '%.60s'.", field, text);
}

static int read_target(const json_t *v, struct draft_target *t, struct err *e)
{
    static const char *const names[] = {"adapter", "version", "base", "weight", NULL};
    struct err why = {0};
    *t = (struct draft_target){.adapter = "", .base = "", .weight = 1};
    if (!json_is_object(v))
        return err_field(e, ERR_INVALID, "targets", "A target is an object {adapter, version, base, weight}.");
    if (json_check_fields(v, names, "targets", e)) return -1;
    if (json_get_str(v, "adapter", NAME_MAX_LEN, &t->adapter, NULL, &why) ||
        json_get_str(v, "base", 127, &t->base, NULL, &why) ||
        json_get_int(v, "version", 1, VERSION_MAX, &t->version, NULL, &why) ||
        json_get_int(v, "weight", 0, ALIAS_WEIGHT_MAX, &t->weight, NULL, &why))
        return err_field(e, why.code, "targets", "%s", why.msg);
    if (!*t->adapter == !*t->base)
        return err_field(e, ERR_INVALID, "targets", "A target names either an adapter or a base.");
    if (*t->base && t->version) return err_field(e, ERR_INVALID, "targets", "A base has no versions.");
    return 0;
}

static int read_targets(const json_t *list, struct draft *d, struct err *e)
{
    int64_t sum = 0;
    size_t most = d->policy == ALIAS_FALLBACK ? ALIAS_CHAIN : ALIAS_TARGETS;
    if (!list) return err_field(e, ERR_MISSING, "targets", "'targets' is missing.");
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > most)
        return err_field(e, ERR_INVALID, "targets", "'targets' must be a list of 1 to %zu targets.", most);
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct draft_target *t = &d->target[d->n];
        if (read_target(json_array_get(list, i), t, e)) return -1;
        sum += t->weight;
        for (int k = 0; k < d->n; k++)
            if (strcmp(d->target[k].adapter, t->adapter) == 0 && strcmp(d->target[k].base, t->base) == 0 &&
                d->target[k].version == t->version)
                return err_field(e, ERR_INVALID, "targets", "'targets' names the same thing twice.");
        d->n++;
    }
    if (!sum && d->policy == ALIAS_WEIGHTED) return err_field(e, ERR_INVALID, "targets", "All weights are 0.");
    return 0;
}

void draft_fields(const char *names[DRAFT_FIELDS + 1])
{
    static const char *const own[] = {"targets", "policy", "sticky", "system_prefix"};
    int n = 0;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) names[n++] = own[i];
    for (int i = 0; i < ALIAS_PARTS; i++) names[n++] = alias_part_row[i].field;
    names[n] = NULL;
}

int draft_read(const json_t *o, struct draft *d, struct err *e)
{
    const char *names[DRAFT_FIELDS + 1];
    int policy = ALIAS_WEIGHTED, sticky = ALIAS_REQUEST;
    *d = (struct draft){.prefix = ""};
    draft_fields(names);
    if (json_check_fields(o, names, NULL, e) || read_word(o, "policy", alias_policy_name, ALIAS_POLICIES, &policy, e) ||
        read_word(o, "sticky", alias_sticky_name, ALIAS_STICKIES, &sticky, e) ||
        json_get_str(o, "system_prefix", ALIAS_PREFIX_MAX, &d->prefix, NULL, e))
        return -1;
    d->policy = (enum alias_policy)policy;
    d->sticky = (enum alias_sticky)sticky;
    if (read_targets(json_object_get(o, "targets"), d, e)) return -1;
    for (int i = 0; i < ALIAS_PARTS; i++)
        if (alias_part_row[i].read(json_object_get(o, alias_part_row[i].field), &d->part[i], e)) {
            draft_close(d);
            return -1;
        }
    if (!d->part[ALIAS_ROUTING] || (d->policy == ALIAS_FALLBACK && d->n == 2)) return 0;
    draft_close(d);
    return err_field(e, ERR_INVALID, "routing", "'routing' wants a fallback chain of two: the small model, then the large one.");
}

json_t *draft_target_json(const char *adapter, int64_t version, const char *base, int64_t weight)
{
    if (*base) return json_pack("{ss sI}", "base", base, "weight", (json_int_t)weight);
    json_t *o = json_pack("{ss sI}", "adapter", adapter, "weight", (json_int_t)weight);
    if (o && version) json_object_put(&o, "version", json_integer(version));
    return o;
}

json_t *draft_json(const struct draft *d)
{
    json_t *list = json_array();
    for (int i = 0; i < d->n; i++)
        json_list_add(&list, draft_target_json(d->target[i].adapter, d->target[i].version, d->target[i].base, d->target[i].weight));
    json_t *o = json_pack("{so ss ss ss}", "targets", list, "policy", alias_policy_name[d->policy], "sticky", alias_sticky_name[d->sticky],
                          "system_prefix", d->prefix);
    for (int i = 0; o && i < ALIAS_PARTS; i++)
        json_object_put(&o, alias_part_row[i].field, d->part[i] ? json_incref(d->part[i]) : json_null());
    return o;
}
