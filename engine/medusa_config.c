/* medusa_config: what config.json says of Medusa heads.
 *
 * The fields are those of the published ones, and medusa_accuracy of ours. Others are not looked at: they tell of training.
 * Whose file it is is not known, so all is bounded before it counts, and nothing is kept of the JSON (the tokens are a copy, which medusa_free() frees). Any thread. */
#include "base/json.h"
#include "engine/medusa.h"
#include <limits.h>
#include <stdlib.h>

#define LAYERS_MAX 4

/* Where nothing was measured: what one head of a small base has, and how it falls from head to head and rank to rank. */
#define RIGHT_FIRST 0.5f
#define RIGHT_NEXT_HEAD 0.7f
#define RIGHT_NEXT_RANK 0.3f

static int read_accuracy(struct medusa *m, const json_t *list, struct err *e)
{
    if (!json_is_array(list) || (int)json_array_size(list) != m->heads)
        return err_field(e, ERR_MODEL, "medusa_accuracy", "medusa_accuracy must be a list for each of %d heads",
                         m->heads);
    for (int k = 0; k < m->heads; k++) {
        const json_t *one = json_array_get(list, (size_t)k);
        size_t n = json_array_size(one);
        if (n < 1 || n > MEDUSA_RANKS)
            return err_field(e, ERR_MODEL, "medusa_accuracy", "medusa_accuracy of head %d must have 1 to %d numbers", k,
                             MEDUSA_RANKS);
        for (size_t i = 0; i < MEDUSA_RANKS; i++) {
            double v = i < n ? json_number_value(json_array_get(one, i)) : 0;
            if (i < n && (!json_is_number(json_array_get(one, i)) || !(v >= 0 && v <= 1)))
                return err_field(e, ERR_MODEL, "medusa_accuracy", "medusa_accuracy of head %d: not a share from 0 to 1",
                                 k);
            m->right[k][i] = (float)v;
        }
    }
    m->measured = true;
    return 0;
}

static void guess_accuracy(struct medusa *m)
{
    float head = RIGHT_FIRST;
    for (int k = 0; k < m->heads; k++, head *= RIGHT_NEXT_HEAD) {
        float rank = head;
        for (int i = 0; i < MEDUSA_RANKS; i++, rank *= RIGHT_NEXT_RANK) m->right[k][i] = rank;
    }
}

static int read_tokens(struct medusa *m, const json_t *list, struct err *e)
{
    size_t n = json_array_size(list);
    if (n < MEDUSA_RANKS || n > (size_t)m->vocab)
        return err_field(e, ERR_MODEL, "medusa_tokens", "medusa_tokens must be a list of %d to %d tokens", MEDUSA_RANKS,
                         m->vocab);
    m->token = malloc(n * sizeof *m->token);
    if (!m->token) return err_set(e, ERR_NO_MEMORY, "no memory for medusa_tokens");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t id = json_integer_value(v), least = i ? m->token[i - 1] + 1 : 0;
        if (!json_is_integer(v) || id < least || id >= m->vocab)
            return err_field(e, ERR_MODEL, "medusa_tokens",
                             "medusa_tokens: number %zu is no token, or not larger than the one before", i);
        m->token[i] = (int32_t)id;
    }
    m->ntokens = (int)n;
    return 0;
}

/* What it says of the base, if anything, must be this base. */
static int check_base(const struct medusa *m, const json_t *o, struct err *e)
{
    int64_t hidden = m->hidden, vocab = m->vocab;
    if (json_get_int(o, "hidden_size", 1, INT_MAX, &hidden, NULL, e)) return -1;
    if (json_get_int(o, "vocab_size", 1, INT_MAX, &vocab, NULL, e)) return -1;
    if (hidden != m->hidden || vocab != m->vocab)
        return err_set(e, ERR_MODEL, "they are for a base of hidden size %lld and %lld tokens, this one has %d and %d",
                       (long long)hidden, (long long)vocab, m->hidden, m->vocab);
    return 0;
}

static int read_config(struct medusa *m, const json_t *o, struct err *e)
{
    int64_t heads = 0, layers = 1;
    bool there = false;
    const json_t *accuracy = json_object_get(o, "medusa_accuracy"), *tokens = json_object_get(o, "medusa_tokens");
    if (json_get_int(o, "medusa_num_heads", 1, MEDUSA_HEADS_MAX, &heads, &there, e)) return -1;
    if (!there) return err_field(e, ERR_MODEL, "medusa_num_heads", "medusa_num_heads is missing");
    if (json_get_int(o, "medusa_num_layers", 1, LAYERS_MAX, &layers, NULL, e)) return -1;
    if (check_base(m, o, e)) return -1;
    m->heads = (int)heads;
    m->layers = (int)layers;
    guess_accuracy(m);
    if (accuracy && !json_is_null(accuracy) && read_accuracy(m, accuracy, e)) return -1;
    return tokens && !json_is_null(tokens) ? read_tokens(m, tokens, e) : 0;
}

int medusa_config(struct medusa *m, const char *text, size_t len, struct err *e)
{
    json_t *o;
    if (json_parse_wide(text, len, &o, e)) return -1;
    int rc = read_config(m, o, e);
    json_decref(o);
    return rc;
}
