/* Which modules a PEFT config means, and with which rank and alpha.
 *
 * PEFT's own rules, in its order: a module is out when exclude_modules names it; target_modules as a string is a regex
 * that must match the whole name ("all-linear": every linear layer); as a list it names modules exactly, or by their
 * last parts, and only these suffixes are then narrowed by layers_to_transform and layers_pattern. rank_pattern and
 * alpha_pattern are tried in the file's order as (.*\.)?(key)$ from the name's start; the first match wins. What
 * modules_to_save names is never a target.
 *
 * The layer is the first number in a name, or the one behind a layers_pattern; older versions of PEFT took the last.
 * They differ for experts one by one ("layers.1.mlp.experts.0.up_proj"), where the file's tensors tell which was meant
 * (adapter_agree.c sets last_number).
 *
 * The patterns come from strangers and PCRE2 backtracks, so a match has limits on steps, depth and memory, and all
 * matches of one config share a budget of CPU time: 256 patterns times a thousand modules, each just below its own
 * limit, would otherwise be a lever. Hitting a limit refuses the adapter; it never means "no match".
 *
 * Where Python's re and PCRE2 read a pattern differently it is refused (peft_dialect.c). Start-of-pattern verbs of PCRE2
 * can't be reached, since every pattern is put behind something. */
#include "adapters/peft.h"
#include "base/buf.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <math.h>
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ALL_LINEAR "all-linear" /* PEFT compares it without case */
#define LAYER "weft_layer"
#define LAYER_DIGITS 6
#define LAYER_GROUPS 64 /* that a layers_pattern may have beside that */
#define MATCH_STEPS 20000
#define MATCH_DEPTH 1000
#define MATCH_HEAP_KIB 1024
#define MATCH_BUDGET_NS 2000000000LL

struct peft_match {
    pcre2_code *target, *exclude; /* NULL: not a regex */
    pcre2_code **rank, **alpha;
    pcre2_code **layer, **old_layer; /* [nlayer]: with the number as the group LAYER */
    int nrank, nalpha, nlayer;
    pcre2_match_context *limits;
    pcre2_match_data *data;
    pcre2_match_data *groups; /* of the patterns of layers */
    int64_t spent_ns;
};

/* --- compiling --- */

static int compile(pcre2_code **out, const char *field, const char *before, const char *pattern, const char *after,
                   uint32_t options, struct err *e)
{
    const char *differs = peft_dialect_differs(pattern, options & PCRE2_ENDANCHORED);
    if (differs)
        return err_set(
            e, ERR_ADAPTER_INVALID,
            "adapter_config.json: %s: \"%.80s\" is not a regular expression that Python and PCRE2 read alike, "
            "from \"%.20s\" on; write it with plain letters, classes and groups",
            field, pattern, differs);
    if (strlen(pattern) > PEFT_PATTERN_LEN)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: a pattern of %s has %zu bytes, more than %d",
                       field, strlen(pattern), PEFT_PATTERN_LEN);
    struct buf b;
    int code;
    PCRE2_SIZE at;
    buf_init(&b, PEFT_PATTERN_LEN + 64);
    buf_adds(&b, before);
    buf_adds(&b, pattern);
    buf_adds(&b, after);
    if (!b.failed)
        *out = pcre2_compile((PCRE2_SPTR)b.data, b.len,
                             options | PCRE2_ANCHORED | PCRE2_NEVER_UTF | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    bool short_of_memory = b.failed || (!*out && code == PCRE2_ERROR_NOMEMORY);
    buf_close(&b);
    if (*out) return 0;
    if (short_of_memory) return err_set(e, ERR_NO_MEMORY, "out of memory for a pattern");
    char why[128];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: %s: \"%.80s\" is not a regular expression: %s", field,
                   pattern, why);
}

static int compile_whole(pcre2_code **out, const char *field, const char *pattern, struct err *e)
{
    if (!pattern || !strcasecmp(pattern, ALL_LINEAR)) return 0;
    return compile(out, field, "(?:", pattern, ")", PCRE2_ENDANCHORED, e);
}

static int compile_patterns(pcre2_code ***out, int *n, const char *field, const struct peft_pattern *p, int count,
                            struct err *e)
{
    *out = calloc((size_t)count + 1, sizeof **out);
    if (!*out) return err_set(e, ERR_NO_MEMORY, "out of memory for patterns");
    for (*n = 0; *n < count; ++*n)
        if (compile(&(*out)[*n], field, "(.*\\.)?(", p[*n].key, ")$", 0, e)) return -1;
    return 0;
}

/* As PEFT writes them: a pattern with an alternative that stands for itself has no number. */
static int compile_layers(struct peft_match *m, const struct peft_config *c, struct err *e)
{
    const char *after = "\\.(?P<" LAYER ">[0-9]+)\\.";
    m->layer = calloc((size_t)c->nlayers_pattern + 1, sizeof *m->layer);
    m->old_layer = calloc((size_t)c->nlayers_pattern + 1, sizeof *m->old_layer);
    m->groups = pcre2_match_data_create(LAYER_GROUPS + 2, NULL);
    if (!m->layer || !m->old_layer || !m->groups) return err_set(e, ERR_NO_MEMORY, "out of memory for patterns");
    for (; m->nlayer < c->nlayers_pattern; m->nlayer++) {
        const char *pattern = c->layers_pattern[m->nlayer];
        uint32_t groups = 0;
        if (compile(&m->layer[m->nlayer], "layers_pattern", "(?:^|.*?\\.)", pattern, after, 0, e) ||
            compile(&m->old_layer[m->nlayer], "layers_pattern", ".*\\.", pattern, after, 0, e))
            return -1;
        pcre2_pattern_info(m->layer[m->nlayer], PCRE2_INFO_CAPTURECOUNT, &groups);
        if (groups > LAYER_GROUPS)
            return err_set(
                e, ERR_ADAPTER_INVALID,
                "adapter_config.json: layers_pattern: a pattern has %u groups, more than %d; name the list of "
                "layers plainly, as in \"layers\"",
                groups - 1, LAYER_GROUPS);
    }
    return 0;
}

static int compile_all(struct peft_match *m, const struct peft_config *c, struct err *e)
{
    m->limits = pcre2_match_context_create(NULL);
    m->data = pcre2_match_data_create(1, NULL); /* whether it matches is all we ask */
    if (!m->limits || !m->data) return err_set(e, ERR_NO_MEMORY, "out of memory for patterns");
    pcre2_set_match_limit(m->limits, MATCH_STEPS);
    pcre2_set_depth_limit(m->limits, MATCH_DEPTH);
    pcre2_set_heap_limit(m->limits, MATCH_HEAP_KIB);
    if (compile_whole(&m->target, "target_modules", c->target_regex, e) ||
        compile_whole(&m->exclude, "exclude_modules", c->exclude_regex, e) ||
        compile_patterns(&m->rank, &m->nrank, "rank_pattern", c->rank_pattern, c->nrank_pattern, e) ||
        compile_patterns(&m->alpha, &m->nalpha, "alpha_pattern", c->alpha_pattern, c->nalpha_pattern, e))
        return -1;
    return compile_layers(m, c, e);
}

int peft_match_new(struct peft_config *c, struct err *e)
{
    struct peft_match *m = calloc(1, sizeof *m);
    if (!m) return err_set(e, ERR_NO_MEMORY, "out of memory for patterns");
    if (compile_all(m, c, e)) {
        peft_match_free(m);
        return -1;
    }
    c->match = m;
    return 0;
}

static void codes_free(pcre2_code **v, int n)
{
    for (int i = 0; i < n; i++) pcre2_code_free(v[i]);
    free(v);
}

/* A pattern that failed to compile may have left one of the two. */
static void layers_free(struct peft_match *m)
{
    for (int i = 0; m->old_layer && i <= m->nlayer; i++) pcre2_code_free(m->old_layer[i]);
    for (int i = 0; m->layer && i <= m->nlayer; i++) pcre2_code_free(m->layer[i]);
    free(m->layer);
    free(m->old_layer);
    pcre2_match_data_free(m->groups);
}

void peft_match_free(struct peft_match *m)
{
    if (!m) return;
    pcre2_code_free(m->target);
    pcre2_code_free(m->exclude);
    codes_free(m->rank, m->nrank);
    codes_free(m->alpha, m->nalpha);
    layers_free(m);
    pcre2_match_context_free(m->limits);
    pcre2_match_data_free(m->data);
    free(m);
}

/* --- matching --- */

static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int match_into(struct peft_match *m, const pcre2_code *code, pcre2_match_data *data, const char *name, bool *yes,
                      struct err *e)
{
    int64_t start = cpu_ns();
    int rc = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, data, m->limits);
    m->spent_ns += cpu_ns() - start;
    if (rc < PCRE2_ERROR_NOMATCH) /* partial matching is never asked for, so below stand only failures */
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: a pattern takes too long to match \"%.200s\"",
                       name);
    if (m->spent_ns > MATCH_BUDGET_NS)
        return err_set(e, ERR_ADAPTER_INVALID, "adapter_config.json: the patterns together take too long to match");
    *yes = rc != PCRE2_ERROR_NOMATCH;
    return 0;
}

static int matches(struct peft_match *m, const pcre2_code *code, const char *name, bool *yes, struct err *e)
{
    return match_into(m, code, m->data, name, yes, e);
}

/* The index of the first pattern that matches, or -1. */
static int first_match(struct peft_match *m, pcre2_code **v, int n, const char *name, int *out, struct err *e)
{
    bool yes = false;
    for (int i = 0; i < n; i++) {
        if (matches(m, v[i], name, &yes, e)) return -1;
        if (!yes) continue;
        *out = i;
        return 0;
    }
    *out = -1;
    return 0;
}

enum named { NAMED_NOT, NAMED_SUFFIX, NAMED_EXACTLY };

static enum named named_by(const char *const *list, int n, const char *name)
{
    enum named best = NAMED_NOT;
    size_t len = strlen(name);
    for (int i = 0; i < n; i++) {
        size_t k = strlen(list[i]);
        if (!strcmp(list[i], name)) return NAMED_EXACTLY;
        if (k < len && name[len - k - 1] == '.' && !strcmp(name + len - k, list[i])) best = NAMED_SUFFIX;
    }
    return best;
}

/* The number of a layer in the name, the first or the last part that is one and has two parts before it and one behind
 * it; -1: none. */
static long number_in(const char *name, bool last)
{
    long found = -1;
    for (const char *p = strchr(name, '.'); p; p = strchr(p + 1, '.')) {
        const char *next = strchr(p + 1, '.');
        size_t digits = next ? strspn(next + 1, "0123456789") : 0;
        if (!digits || digits > LAYER_DIGITS || next[1 + digits] != '.') continue;
        found = strtol(next + 1, NULL, 10);
        if (!last) break;
    }
    return found;
}

/* The number that the first pattern to match gives; -1: none. */
static int number_by_pattern(const struct peft_config *c, const char *name, long *out, struct err *e)
{
    struct peft_match *m = c->match;
    bool yes = false;
    *out = -1;
    for (int i = 0; i < m->nlayer && !yes; i++) {
        const pcre2_code *code = c->last_number ? m->old_layer[i] : m->layer[i];
        PCRE2_UCHAR digits[LAYER_DIGITS + 1];
        PCRE2_SIZE n = sizeof digits;
        if (match_into(m, code, m->groups, name, &yes, e)) return -1;
        if (yes && !pcre2_substring_copy_byname(m->groups, (PCRE2_SPTR)LAYER, digits, &n))
            *out = strtol((const char *)digits, NULL, 10);
    }
    return 0;
}

static int layer_wanted(const struct peft_config *c, const char *name, bool *yes, struct err *e)
{
    long layer = -1;
    *yes = c->nlayers_to_transform == 0;
    if (*yes) return 0;
    if (!c->nlayers_pattern)
        layer = number_in(name, c->last_number);
    else if (number_by_pattern(c, name, &layer, e))
        return -1;
    for (int i = 0; i < c->nlayers_to_transform; i++)
        if (c->layers_to_transform[i] == layer) *yes = true;
    return 0;
}

static bool ends_in(const char *name, const char *part)
{
    size_t n = strlen(name), k = strlen(part);
    return n >= k && !strcmp(name + n - k, part) && (n == k || name[n - k - 1] == '.');
}

static int targeted(const struct peft_config *c, const char *name, bool *yes, struct err *e)
{
    *yes = false;
    if (c->match->exclude) {
        bool out = false;
        if (matches(c->match, c->match->exclude, name, &out, e)) return -1;
        if (out) return 0;
    }
    if (named_by(c->exclude_modules, c->nexclude_modules, name)) return 0;
    if ((c->saves_embed && ends_in(name, "embed_tokens")) || (c->saves_head && ends_in(name, "lm_head"))) return 0;
    if (c->match->target) return matches(c->match, c->match->target, name, yes, e);
    if (c->target_regex) { /* all-linear: neither the embedding nor the output layer */
        *yes = !ends_in(name, "embed_tokens") && !ends_in(name, "lm_head");
        return 0;
    }
    enum named how = named_by(c->target_modules, c->ntarget_modules, name);
    *yes = how == NAMED_EXACTLY;
    return how == NAMED_SUFFIX ? layer_wanted(c, name, yes, e) : 0;
}

/* Rank, alpha and scale of what is called `module`. */
static int resolve(const struct peft_config *c, const char *module, bool target, struct peft_place *out, struct err *e)
{
    struct peft_place p = {.target = target, .r = c->r, .alpha = c->lora_alpha};
    int i;
    if (first_match(c->match, c->match->rank, c->match->nrank, module, &i, e)) return -1;
    if (i >= 0) p.r = (int)c->rank_pattern[i].value;
    if (first_match(c->match, c->match->alpha, c->match->nalpha, module, &i, e)) return -1;
    if (i >= 0) p.alpha = c->alpha_pattern[i].value;
    p.scale = (float)(c->use_rslora ? p.alpha / sqrt(p.r) : p.alpha / p.r);
    if (!(fabsf(p.scale) <= (float)PEFT_SCALE_MAX))
        return err_set(e, ERR_ADAPTER_INVALID,
                       "adapter_config.json: %.200s: alpha %g with rank %d is a scale of %g, beyond %g", module,
                       p.alpha, p.r, (double)p.scale, PEFT_SCALE_MAX);
    *out = p;
    return 0;
}

int peft_resolve(const struct peft_config *c, const char *module, struct peft_place *out, struct err *e)
{
    bool target;
    return targeted(c, module, &target, e) ? -1 : resolve(c, module, target, out, e);
}

int peft_resolve_parameter(const struct peft_config *c, const char *parameter, struct peft_place *out, struct err *e)
{
    bool target = named_by(c->target_parameters, c->ntarget_parameters, parameter) != NAMED_NOT;
    return resolve(c, parameter, target, out, e);
}
