/* Tenants under suspicion: who has a new name for each crash is known by its own.
 *
 *     at a crash that nobody was found guilty of: a strike for each tenant that lost something by it
 *     BLAME_ACCUSING of them within BLAME_MEMORY_US: accused, so that its requests are tried one by one (blame_trial.c)
 *         a trial is completed: acquitted of the strikes so far
 *         a crash at which nothing but its own was lost: guilty, all its requests are refused
 *
 * A busy innocent tenant is at every crash that another one makes, and is acquitted by the first request that completes alone. Who has good requests
 * between the bad ones is acquitted, too; so each further time takes ACQUIT_TIMES as many completed trials, and whoever goes on crashing engines has to
 * hit one in which it is alone.
 *
 * While a tenant has the engines to itself (nobody else asked for BLAME_MEMORY_US) it is not accused, for there is nobody to guard, and to refuse all
 * of it would be worse than the crashes. All under blame.lock. */
#include "gateway/proxy/blame_impl.h"
#include <stdio.h>
#include <string.h>

#define ACQUIT_SHIFT 2 /* four times as many */
#define ACQUIT_MOST 3  /* so often */

struct suspect *suspect_find(struct blame *b, const char *tenant)
{
    for (int i = 0; i < b->nsuspects; i++)
        if (strcmp(b->suspect[i].who.tenant, tenant) == 0) return &b->suspect[i];
    return NULL;
}

void suspect_drop(struct blame *b, struct suspect *s)
{
    *s = b->suspect[b->nsuspects - 1];
    b->nsuspects--;
}

void suspects_forget(struct blame *b, int64_t now)
{
    for (int i = b->nsuspects - 1; i >= 0; i--) {
        struct suspect *s = &b->suspect[i];
        if (s->until_us ? now >= s->until_us : now - s->last_us > BLAME_MEMORY_US) suspect_drop(b, s);
    }
}

/* As with names: the one that was struck longest ago makes room, who is refused last. */
static struct suspect *add(struct blame *b, const struct blame_who *w)
{
    struct suspect *s = &b->suspect[b->nsuspects];
    if (b->nsuspects == BLAME_TENANTS) {
        s = &b->suspect[0];
        for (int i = 1; i < b->nsuspects; i++) {
            struct suspect *o = &b->suspect[i];
            if (!o->until_us == !s->until_us ? o->last_us < s->last_us : !o->until_us) s = o;
        }
    } else {
        b->nsuspects++;
    }
    *s = (struct suspect){.who = {.all = true}};
    snprintf(s->who.tenant, sizeof s->who.tenant, "%s", w->tenant);
    snprintf(s->who.model, sizeof s->who.model, "*");
    for (const char *c = w->tenant; *c && strlen(s->who.request) < BLAME_ID - 1; c++) /* its id without the hyphens */
        if (*c != '-') s->who.request[strlen(s->who.request)] = *c;
    return s;
}

void suspect_strike(struct blame *b, const struct blame_who *w, int64_t now)
{
    struct suspect *s = suspect_find(b, w->tenant);
    if (!s) s = add(b, w);
    if (s->crash == b->crashes) return;
    s->crash = b->crashes;
    if (*w->tenant_name) snprintf(s->who.tenant_name, sizeof s->who.tenant_name, "%s", w->tenant_name);
    s->at_us[s->at] = now;
    s->at = (s->at + 1) % BLAME_ACCUSING;
    s->last_us = now;
    s->crashes++;
}

static bool has_company(const struct blame *b, int64_t now)
{
    return b->company_us && now - b->company_us <= BLAME_MEMORY_US;
}

bool suspect_is_accused(struct blame *b, const char *tenant, int64_t now)
{
    const struct suspect *s = suspect_find(b, tenant);
    if (!s || !has_company(b, now)) return false;
    for (int i = 0; i < BLAME_ACCUSING; i++)
        if (!s->at_us[i] || now - s->at_us[i] > BLAME_MEMORY_US) return false;
    return true;
}

void suspect_convict(struct blame *b, const char *tenant, int64_t now, int64_t refuse_us, struct blame_refused *out)
{
    struct suspect *s = suspect_find(b, tenant);
    if (!s) return;
    s->crashes++;
    s->last_us = s->since_us = now;
    s->until_us = now + refuse_us;
    *out = (struct blame_refused){.who = s->who, .crashes = s->crashes, .since_us = now, .until_us = s->until_us};
    snprintf(out->id, sizeof out->id, "%.32s", s->who.request);
}

void suspect_won(struct blame *b, const char *tenant, int64_t now)
{
    struct suspect *s = suspect_find(b, tenant);
    if (!s || s->until_us || !suspect_is_accused(b, tenant, now)) return;
    int often = s->acquittals < ACQUIT_MOST ? s->acquittals : ACQUIT_MOST;
    if (++s->trials < 1 << (often * ACQUIT_SHIFT)) return;
    memset(s->at_us, 0, sizeof s->at_us);
    s->trials = 0;
    s->acquittals++;
}
