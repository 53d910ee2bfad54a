/* How a tensor-parallel group shares a model (shard.h): plain arithmetic, the same for weights, adapters, biases and KV
 * heads, so that one test on the CPU vouches for all of them.
 *
 * Attention: with q heads dealt in order and heads / kv_heads of them reading one kv head, a rank's q heads read its own
 * kv heads if kv_heads / ranks come out even, or if ranks / kv_heads do (then a kv head lives on so many ranks, each with
 * a part of the q heads that read it). What is neither is refused: a kv head would be needed by a rank that does not hold
 * it. */
#include "kernels/cuda/shard.h"
#include <stddef.h>

static const struct {
    const char *name;
    enum shard_split split;
} roles[ROLES] = {
    [ROLE_WHOLE] = {"the router", SPLIT_NONE},
    [ROLE_EMBED] = {"the embedding", SPLIT_NONE},
    [ROLE_Q] = {"q_proj", SPLIT_OUTPUTS},
    [ROLE_KV] = {"k_proj and v_proj", SPLIT_OUTPUTS},
    [ROLE_O] = {"o_proj", SPLIT_INPUTS},
    [ROLE_GATE] = {"gate_proj and up_proj", SPLIT_OUTPUTS},
    [ROLE_DOWN] = {"down_proj", SPLIT_INPUTS},
    [ROLE_EXPERT_GATE] = {"experts' gate_proj and up_proj", SPLIT_OUTPUTS},
    [ROLE_EXPERT_DOWN] = {"experts' down_proj", SPLIT_INPUTS},
    [ROLE_HEAD] = {"lm_head", SPLIT_OUTPUTS},
};

enum shard_split shard_split_of(enum device_role role)
{
    return roles[role].split;
}

static int units_of(const struct shard_rule *rule)
{
    int size = rule->split == SPLIT_INPUTS ? rule->k : rule->n;
    return (size + rule->unit - 1) / rule->unit;
}

/* Units of a part. */
static int step_units(const struct shard_rule *rule, int ranks)
{
    return (units_of(rule) + ranks - 1) / ranks;
}

int shard_check(const struct shard_rule *rule, const char *what, int ranks, struct err *e)
{
    if (ranks < 1) return err_set(e, ERR_USAGE, "a group of %d devices", ranks);
    if (rule->split == SPLIT_NONE || ranks == 1 || rule->ragged) return 0;
    int size = rule->split == SPLIT_INPUTS ? rule->k : rule->n, units = units_of(rule);
    const char *of = rule->split == SPLIT_INPUTS ? "inputs" : "outputs";
    if (size % rule->unit)
        return err_set(e, ERR_USAGE, "%s: %d %s are not made of %d each", what, size, of, rule->unit);
    if (units % ranks == 0 || (rule->copies && ranks % units == 0)) return 0;
    return err_set(e, ERR_USAGE, "%s: %d times %d %s can't be shared by %d devices", what, units, rule->unit, of,
                   ranks);
}

struct shard shard_of(const struct shard_rule *rule, int ranks, int rank)
{
    struct shard s = {0, rule->n, 0, rule->k};
    if (rule->split == SPLIT_NONE) return s;
    int units = units_of(rule), each = step_units(rule, ranks);
    int first = rule->copies && units < ranks ? rank / (ranks / units) : rank * each;
    int size = rule->split == SPLIT_INPUTS ? rule->k : rule->n;
    int lo = first * rule->unit, hi = lo + each * rule->unit;
    lo = lo > size ? size : lo, hi = hi > size ? size : hi;
    if (rule->split == SPLIT_INPUTS)
        s.k0 = lo, s.k = hi - lo;
    else
        s.row0 = lo, s.n = hi - lo;
    return s;
}

int shard_step(const struct shard_rule *rule, int ranks)
{
    return rule->split == SPLIT_NONE ? rule->n : step_units(rule, ranks) * rule->unit;
}

/* Outputs or inputs of an MLP that stay together. */
static int group_of(const struct device_shape *s)
{
    return s->scale_group > 0 ? s->scale_group : GROUP;
}

struct shard_rule shard_rule_of(const struct device_shape *s, enum device_role role)
{
    struct shard_rule r = {.split = roles[role].split, .n = s->hidden, .k = s->hidden, .unit = group_of(s)};
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    switch (role) {
    case ROLE_Q:
        r.n = q, r.unit = s->head_dim;
        return r;
    case ROLE_KV:
        r.n = kv, r.unit = s->head_dim, r.copies = true;
        return r;
    case ROLE_O:
        r.k = q, r.unit = s->head_dim;
        return r;
    case ROLE_GATE:
        r.n = s->mlp;
        return r;
    case ROLE_DOWN:
        r.k = s->mlp;
        return r;
    case ROLE_EXPERT_GATE:
        r.n = s->expert_mlp;
        return r;
    case ROLE_EXPERT_DOWN:
        r.k = s->expert_mlp;
        return r;
    case ROLE_HEAD:
        r.n = s->vocab, r.unit = PANEL, r.ragged = true;
        return r;
    default:
        return (struct shard_rule){.split = SPLIT_NONE};
    }
}

/* A rank's q heads read kv heads that it holds: whole groups of them on one rank, or one group on whole ranks. o's inputs
 * are its q heads, which may cut a quantized group of inputs only where a head is no multiple of one. */
static int check_heads(const struct device_shape *s, int ranks, struct err *e)
{
    int part = s->heads / ranks * s->head_dim;
    if (s->heads % s->kv_heads)
        return err_set(e, ERR_USAGE, "%d heads are not made of %d kv heads' groups", s->heads, s->kv_heads);
    if (part % group_of(s))
        return err_set(e, ERR_USAGE, "o_proj: %d inputs on each of %d devices cut a group of %d", part, ranks,
                       group_of(s));
    return 0;
}

int shard_model(const struct device_shape *s, int ranks, struct err *e)
{
    for (enum device_role role = 0; role < ROLES; role++) {
        struct shard_rule rule = shard_rule_of(s, role);
        if (rule.n < 1 || rule.k < 1) continue; /* no MLP of that sort */
        if (shard_check(&rule, roles[role].name, ranks, e)) return -1;
    }
    return ranks == 1 ? 0 : check_heads(s, ranks, e);
}
