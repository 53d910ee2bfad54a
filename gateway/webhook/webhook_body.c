/* webhook_body: what bodies say of webhooks: where one goes and what it wants, and what is to be sent once more. Pure functions but for the setting that lists hosts. */
#include "base/json.h"
#include "gateway/db/db.h"
#include "gateway/webhook/webhook_impl.h"
#include <stdio.h>
#include <string.h>

#define TIME_MAX 253402300799 /* 9999-12-31 */

static int read_prefix(const char *s, struct webhook_wish *w, struct err *e)
{
    size_t used = strlen(w->events), n = strlen(s);
    bool fine = n >= 1 && n <= WEBHOOK_PREFIX_MAX && (strcmp(s, "*") == 0 || strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_.") == n);
    if (!fine)
        return err_field(e, ERR_INVALID, "events", "'%.64s' is no beginning of an event's type: 1 to %d of a-z 0-9 _ and dots, or *.", s,
                         WEBHOOK_PREFIX_MAX);
    snprintf(w->events + used, sizeof w->events - used, "%s%s", used ? "," : "", s);
    return 0;
}

static int read_events(const json_t *list, struct webhook_wish *w, struct err *e)
{
    const json_t *v;
    size_t i;
    if (!list || json_is_null(list)) return 0;
    if (!json_is_array(list) || json_array_size(list) > WEBHOOK_EVENTS_MAX)
        return err_field(e, ERR_INVALID, "events", "'events' must be a list of at most %d texts.", WEBHOOK_EVENTS_MAX);
    w->set_events = true;
    json_array_foreach(list, i, v)
    {
        if (!json_is_string(v)) return err_field(e, ERR_INVALID, "events", "'events' must be a list of texts.");
        if (read_prefix(json_string_value(v), w, e)) return -1;
    }
    return 0;
}

/* One line of visible characters: what else it may be is the receiver's. null: none any more. */
static int read_authorization(const json_t *body, struct webhook_wish *w, struct err *e)
{
    const json_t *v = json_object_get(body, "authorization");
    if (json_get_str(body, "authorization", WEBHOOK_AUTHORIZATION_MAX, &w->authorization, NULL, e)) return -1;
    if (json_is_null(v)) w->authorization = "";
    for (const char *p = w->authorization ? w->authorization : ""; *p; p++)
        if ((unsigned char)*p < ' ' || (unsigned char)*p > '~')
            return err_field(e, ERR_INVALID, "authorization", "'authorization' holds a character that no header has.");
    return 0;
}

int hook_check_url(const struct gateway *g, const char *url, bool *listed, struct err *e)
{
    char host[IMPORT_HOST_LEN];
    bool https = false;
    if (import_address_host(url, &https, host, "url", e)) return -1;
    *listed = import_address_is_listed(g->set->webhook_hosts, host);
    if (https || *listed) return 0;
    return err_field(e, ERR_INVALID, "url", "'url' must begin with https://: plain http is for hosts of the setting webhook_hosts.");
}

int webhook_read_wish(const struct gateway *g, const json_t *body, bool fresh, struct webhook_wish *w, struct err *e)
{
    bool usage = true, said = false, listed;
    *w = (struct webhook_wish){.usage = -1};
    if (json_get_str(body, "name", WEBHOOK_NAME_MAX, &w->name, NULL, e) || json_get_str(body, "url", WEBHOOK_URL_MAX, &w->url, NULL, e) ||
        json_get_str(body, "tenant", NAME_MAX_LEN, &w->tenant, NULL, e) || read_authorization(body, w, e) || json_get_bool(body, "usage", &usage, &said, e) ||
        read_events(json_object_get(body, "events"), w, e))
        return -1;
    if (said || fresh) w->usage = usage;
    if (fresh && !w->name) return err_field(e, ERR_MISSING, "name", "'name' is missing.");
    if (fresh && !w->url) return err_field(e, ERR_MISSING, "url", "'url' is missing.");
    if (w->name && !name_is_valid(w->name))
        return err_field(e, ERR_INVALID, "name", "A webhook's name is 1 to %d characters of a-z 0-9 . _ -, the first a letter or digit.",
                         WEBHOOK_NAME_MAX);
    return w->url ? hook_check_url(g, w->url, &listed, e) : 0;
}

int webhook_read_span(const json_t *body, int64_t now_s, struct webhook_span *s, struct err *e)
{
    bool timed = false, ended = false, numbered = false;
    int64_t now = now_s + 1;
    *s = (struct webhook_span){-1, now, -1};
    if (json_get_int(body, "start_time", 0, TIME_MAX, &s->start, &timed, e) || json_get_int(body, "end_time", 1, TIME_MAX, &s->end, &ended, e) ||
        json_get_int(body, "after_event", 0, INT64_MAX / 2, &s->after_event, &numbered, e))
        return -1;
    if (timed == numbered) return err_field(e, timed ? ERR_INVALID : ERR_MISSING, "start_time", "Say either 'start_time' or 'after_event'.");
    if (ended && !timed) return err_field(e, ERR_INVALID, "end_time", "'end_time' goes with 'start_time'.");
    if (s->end > now) s->end = now;
    if (timed && s->start >= s->end) return err_field(e, ERR_INVALID, "start_time", "'start_time' must be in the past and before 'end_time'.");
    return 0;
}
