/* upload_check: are these files an adapter that can be served, what is it, and into the store and the registry with it.
 *
 * adapter_open() decides, as the engine will. What it says of a good one is collected in a report, which a dry run
 * shows: what it adapts, the memory that it takes, and findings: things that are allowed and rarely meant. */
#include "adapters/adapter.h"
#include "base/log.h"
#include "gateway/registry/upload_impl.h"
#include <stdio.h>
#include <string.h>

#define FINDINGS_MAX 16 /* of one kind that are named */
#define LARGE_SCALE 16.0

/* The smaller of two bounds, of which the second may be none (-1). */
static int64_t least(int64_t setting, int64_t limit)
{
    return limit >= 0 && limit < setting ? limit : setting;
}

void quota_of(struct gateway *g, const char *tenant, struct quota *out)
{
    char subject[LIMIT_SUBJECT_LEN];
    limit_subject_tenant(subject, tenant);
    out->versions = least(g->set->max_adapters, limit_value(g->limits, subject, LIMIT_ADAPTERS));
    out->bytes = limit_value(g->limits, subject, LIMIT_ADAPTER_BYTES);
    out->pinned =
        least(g->set->max_slots > 1 ? g->set->max_slots / 2 : 1, limit_value(g->limits, subject, LIMIT_PINNED));
    out->rank = (int)least(g->set->max_rank, limit_value(g->limits, subject, LIMIT_ADAPTER_RANK));
}

/* --- what a refusal is about --- */

static size_t name_length(const char *s)
{
    return strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
}

void failed_tensor(const char *msg, char out[160])
{
    const char *at = strstr(msg, "tensor ");
    if (at)
        at += strlen("tensor ");
    else if ((at = strstr(msg, "tensors ")))
        at += strlen("tensors ");
    else
        at = msg;
    size_t n = name_length(at);
    while (n && at[n - 1] == '.') n--;
    bool dotted = memchr(at, '.', n) != NULL, file = strncmp(at, "adapter_", 8) == 0;
    snprintf(out, 160, "%.*s", dotted && !file ? (int)n : 0, at);
}

/* --- the report --- */

static double larger_scale(double s, const struct adapter_part *p, int n)
{
    for (int i = 0; p && i < n; i++)
        if (p[i].a && p[i].scale > s) s = p[i].scale;
    return s;
}

static double largest_scale(const struct adapter *a)
{
    double s = larger_scale(0, a->part, a->layers * LORA_MODULES);
    s = larger_scale(s, a->expert, a->layers * a->experts * 3);
    s = larger_scale(s, a->router, a->layers);
    return larger_scale(larger_scale(s, &a->embed, 1), &a->head, 1);
}

static bool is_zero(const struct st_tensor *t)
{
    const unsigned char *p = t->data;
    return t->bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, t->bytes - 1) == 0);
}

static void add_finding(json_t *list, const char *code, const char *text, const char *tensor)
{
    json_array_append_new(list, json_pack("{ss ss ss}", "code", code, "message", text, "tensor", tensor));
}

static void find_zeros(const struct adapter *a, json_t *list)
{
    int n = 0;
    for (int i = 0; i < a->file->ntensors; i++) {
        const struct st_tensor *t = &a->file->tensor[i];
        if (!strstr(t->name, "lora_B") && !strstr(t->name, "lora_embedding_B")) continue;
        if (is_zero(t) && n++ < FINDINGS_MAX)
            add_finding(list, "no_effect", "B is all zeros, as before training: the module is not changed", t->name);
    }
}

static json_t *findings(const struct adapter *a, const struct version_new *v, const struct quota *q, int64_t count,
                        int64_t bytes)
{
    json_t *list = json_array();
    if (!*a->config->base_model)
        add_finding(list, "base_unsaid", "base_model_name_or_path is empty: only the shapes say that it fits this base",
                    "");
    if (v->scale > LARGE_SCALE)
        add_finding(list, "large_scale", "alpha / r is large: is lora_alpha what was trained with?", "");
    if (count >= q->versions)
        add_finding(list, "quota", "the tenant has as many versions as it may: an upload would be refused", "");
    if (q->bytes >= 0 && bytes + v->bytes > q->bytes)
        add_finding(list, "quota",
                    "the tenant's adapters would have more bytes than they may: an upload would be refused", "");
    find_zeros(a, list);
    return list;
}

static int64_t parameters(const struct adapter *a)
{
    int64_t n = 0;
    for (int i = 0; i < a->file->ntensors; i++)
        n += a->file->tensor[i].dim[0] * (a->file->tensor[i].ndim == 2 ? a->file->tensor[i].dim[1] : 1);
    return n;
}

static json_t *report_json(struct gateway *g, const char *tenant, const struct adapter *a, const struct version_new *v,
                           const struct quota *q)
{
    int64_t bytes = 0, n = parameters(a);
    int count = registry_count(g->registry, tenant, &bytes);
    return json_pack("{ss ss si ss so sf sI ss si sI s[] s{sI sI sI} so}", "digest", v->digest, "base", v->base, "rank",
                     v->rank, "kind", v->kind, "modules", registry_modules_json(v->modules), "scale", v->scale, "bytes",
                     (json_int_t)v->bytes, "file_sha256", v->file_sha256, "tensors", a->file->ntensors, "parameters",
                     (json_int_t)n, "unused", "memory", "disk", (json_int_t)v->bytes, "device", (json_int_t)(2 * n),
                     "host", (json_int_t)a->tensor_bytes, "findings", findings(a, v, q, count, bytes));
}

static void describe(const struct adapter *a, const struct base_desc *base, struct version_new *v)
{
    memcpy(v->digest, a->digest, sizeof v->digest);
    memcpy(v->file_sha256, a->file_sha256, sizeof v->file_sha256);
    memcpy(v->base, base->name, sizeof v->base);
    v->rank = a->max_rank;
    v->modules = a->modules;
    v->kind = peft_kind(a->config);
    v->scale = largest_scale(a);
    v->bytes = (int64_t)a->file->file_bytes;
}

/* The first base that it fits; what is wrong with it is said of the first. */
static int open_for_a_base(struct gateway *g, const char *dir, const struct adapter_limits *limits,
                           struct base_desc *base, struct adapter **a, struct err *e)
{
    struct base_desc *all = calloc(POOL_ENGINES, sizeof *all);
    struct err first = {0}, why = {0};
    int rc = -1, n = all ? residency_bases(g, all, POOL_ENGINES) : 0;
    for (int i = 0; i < n && rc; i++) {
        if (!all[i].layers) continue; /* an upstream that tells no shapes has no adapters */
        why = (struct err){0};
        rc = adapter_open(a, dir, &all[i], limits, &why);
        if (rc == 0)
            *base = all[i];
        else if (!first.code)
            first = why;
    }
    free(all);
    if (rc && e && first.code) *e = first;
    if (rc && !first.code) err_set(e, ERR_UNAVAILABLE, "no engine has said yet what its base looks like; try again");
    return rc;
}

int files_check(struct gateway *g, const char *dir, const char *tenant, struct version_new *v, json_t **report,
                struct err *e)
{
    struct base_desc base;
    struct adapter *a;
    struct quota q;
    quota_of(g, tenant, &q);
    if (q.rank < 1) return err_set(e, ERR_QUOTA, "this tenant may have no adapters: its largest rank is 0");
    struct adapter_limits limits = {.max_rank = q.rank, .max_bytes = (size_t)g->set->max_adapter_bytes};
    if (open_for_a_base(g, dir, &limits, &base, &a, e)) return -1;
    snprintf(v->tenant, sizeof v->tenant, "%s", tenant);
    describe(a, &base, v);
    v->bounded = true;
    v->room = q.bytes;
    v->room_count = q.versions;
    if (report) *report = report_json(g, tenant, a, v, &q);
    adapter_close(a);
    return 0;
}

/* --- keeping --- */

int files_keep(struct uploads *u, const struct actor *by, char *dir, const struct version_new *v, int *version,
               bool *created, struct err *e)
{
    struct gateway *g = u->g;
    struct claim c;
    digest_claim(u, &c, v->digest);
    int rc = store_commit(g->store, dir, v->digest, e);
    if (!rc) {
        dir[0] = 0;
        rc = registry_add(g->registry, by, v, version, created, e);
        if (rc && !*version && !registry_has_digest(g->registry, v->digest)) store_remove(g->store, v->digest, NULL);
    }
    digest_release(u, &c);
    if (rc) return -1;
    log_info("adapter_version", LS("tenant", v->tenant), LS("name", v->name), LI("version", *version),
             LS("digest", v->digest));
    struct version_name name = {.version = *version};
    memcpy(name.tenant, v->tenant, sizeof name.tenant);
    memcpy(name.name, v->name, sizeof name.name);
    return *created && v->validating ? test_queue(u, &name, e) : 0;
}
