/* price_body: what a body says a price is. Whose it is (is there such a tenant?) price_store.c looks up. Pure functions. */
#include "base/json.h"
#include "gateway/auth/auth.h"
#include "gateway/ledger/price_store.h"

#define BASE_MAX 127
#define TIME_MAX 253402300799 /* 9999-12-31 */

static int need_nano(const json_t *body, const char *field, int64_t *out, struct err *e)
{
    bool there = false;
    if (json_get_int(body, field, 0, PRICE_MAX, out, &there, e)) return -1;
    return there ? 0 : err_field(e, ERR_MISSING, field, "'%s' is missing: nano-units of one token.", field);
}

int price_read_wish(const json_t *body, struct price_wish *w, struct err *e)
{
    *w = (struct price_wish){.tenant = "", .adapter = "", .valid_from = -1};
    if (json_need_str(body, "base", BASE_MAX, &w->base, e) ||
        json_get_str(body, "tenant", NAME_MAX_LEN, &w->tenant, NULL, e) ||
        json_get_str(body, "adapter", NAME_MAX_LEN, &w->adapter, NULL, e) ||
        json_get_int(body, "valid_from", 0, TIME_MAX, &w->valid_from, NULL, e) ||
        need_nano(body, "prompt_nano", &w->prompt, e) || need_nano(body, "output_nano", &w->output, e))
        return -1;
    if (!*w->base) return err_field(e, ERR_INVALID, "base", "'base' must not be empty.");
    if (*w->adapter && !*w->tenant)
        return err_field(e, ERR_MISSING, "tenant", "The price of an adapter needs its 'tenant'.");
    w->cached = w->prompt;
    return json_get_int(body, "cached_nano", 0, PRICE_MAX, &w->cached, NULL, e);
}
