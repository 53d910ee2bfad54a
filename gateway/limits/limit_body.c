/* limit_body: limits as a body says them: a number for each name, and for a budget a soft one below it, which is told and refuses nothing. */
#include "gateway/limits/limit_body.h"
#include "base/json.h"
#include <stdio.h>
#include <string.h>

#define VALUE_MAX 1000000000000000ll /* 1e15, so that sums stay far from 2^63 */

static const enum limit_kind soft_of[LIMIT_SOFTS] = {LIMIT_TOKENS_DAY, LIMIT_TOKENS_MONTH, LIMIT_COST_DAY, LIMIT_COST_MONTH};

static const char *soft_name(int i, char out[48])
{
    snprintf(out, 48, "%s_soft", limit_name[soft_of[i]]);
    return out;
}

static json_t *value_or_null(int64_t v)
{
    return v < 0 ? json_null() : json_integer(v);
}

json_t *limit_body_json(const int64_t value[LIMIT_VALUES])
{
    char name[48];
    json_t *o = json_object();
    for (int k = 0; k < LIMIT_KINDS; k++) json_object_set_new(o, limit_name[k], value_or_null(value[k]));
    for (int i = 0; i < LIMIT_SOFTS; i++)
        json_object_set_new(o, soft_name(i, name), value_or_null(value[LIMIT_KINDS + i]));
    return o;
}

int limit_body_read(const json_t *o, int64_t value[LIMIT_VALUES], struct err *e)
{
    char name[48];
    const char *key;
    json_t *v;
    for (int i = 0; i < LIMIT_VALUES; i++) value[i] = -1;
    json_object_foreach((json_t *)o, key, v)
    {
        int i = 0;
        while (i < LIMIT_KINDS && strcmp(key, limit_name[i]) != 0) i++;
        while (i >= LIMIT_KINDS && i < LIMIT_VALUES && strcmp(key, soft_name(i - LIMIT_KINDS, name)) != 0) i++;
        if (i == LIMIT_VALUES) return err_field(e, ERR_INVALID, key, "There is no limit '%.60s'.", key);
        if (json_get_int(o, key, 0, VALUE_MAX, &value[i], NULL, e)) return -1;
    }
    for (int i = 0; i < LIMIT_SOFTS; i++)
        if (value[soft_of[i]] >= 0 && value[LIMIT_KINDS + i] > value[soft_of[i]])
            return err_field(e, ERR_INVALID, soft_name(i, name),
                             "'%s' (%lld) is above '%s' (%lld): it would never be told.", name,
                             (long long)value[LIMIT_KINDS + i], limit_name[soft_of[i]], (long long)value[soft_of[i]]);
    return 0;
}
