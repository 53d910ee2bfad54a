/* api_policy: what a gateway's alias wants done with a prompt before the model reads it (docs/POLICIES.md).
 *
 * Truncation drops whole turns of a chat, the oldest first, until the prompt as the template spells it has at most max_tokens:
 *
 *     [ all before the first user message ][ head_turns ][ turns that may go, oldest first ][ last_turns ]
 *
 * A turn is a user's message and all that follows it up to the next one, so a call of a tool never loses its result. Where
 * the kept parts alone are too long the request is refused: a text that was cut in the middle is not what anybody wrote. Of a completion's
 * prompt, which has no turns, the first head_tokens and the last tokens stay.
 *
 * Structured prompts are made by the gateway, which knows no tokens: what clients put into them is checked here to be text and nothing else, so
 * that no slot ends its message and begins another.
 *
 * How many turns go is found by halving, as each try spells and encodes the prompt anew; what is taken was measured, so a template that
 * counts otherwise than one thinks costs a turn and never breaks the budget. Runs where prompts are tokenized; no state. */
#include "engine/api_impl.h"
#include "engine/api_params_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- plain text --- */

/* The first special token that the text is read as; -1: none. What the vocabulary has no token for is the same either way, and no fault. */
static int find_special(const struct tokenizer *tok, const json_t *s, int32_t *id, struct err *e)
{
    struct tokens as[2] = {{0}};
    size_t found[2] = {0};
    const char *text = json_string_value(s);
    int rc = tokenizer_encode(tok, text, json_string_length(s), true, POLICY_TOKENS_MAX, &as[0], e) ||
                     tokenizer_encode(tok, text, json_string_length(s), false, POLICY_TOKENS_MAX, &as[1], e)
                 ? -1
                 : 0;
    for (int k = 0; k < 2 && rc == 0; k++)
        for (size_t i = 0; i < as[k].n; i++) {
            bool special = tokenizer_is_special(tok, as[k].id[i]);
            if (special && k == 0 && !found[0]) *id = as[k].id[i];
            found[k] += special;
        }
    free(as[0].id);
    free(as[1].id);
    return rc ? -1 : found[0] > found[1];
}

static int check_plain(const struct tokenizer *tok, const json_t *s, const char *param, struct err *e)
{
    int32_t id = -1;
    size_t n = 0;
    int rc = json_is_string(s) ? find_special(tok, s, &id, e) : 0;
    if (rc <= 0) return rc;
    const char *bytes = tokenizer_bytes(tok, id, &n);
    return err_field(e, ERR_INVALID, param, "'%s' holds '%.*s', which this model reads as a token of its own and not as text", param, (int)n, bytes);
}

/* Each by its own name, then the messages that they are part of, where two of them may be one token. */
static int check_text(const struct api_engine *g, const struct ask *a, struct err *e)
{
    const char *name;
    json_t *s;
    char param[96];
    json_object_foreach((json_t *)a->policy.text, name, s)
    {
        snprintf(param, sizeof param, "slots.%.80s", name);
        if (check_plain(g->model->tok, s, param, e)) return -1;
    }
    for (size_t i = 0; i < json_array_size(a->messages); i++) {
        snprintf(param, sizeof param, "messages.%zu", i);
        if (check_plain(g->model->tok, json_object_get(json_array_get(a->messages, i), "content"), param, e)) return -1;
    }
    return 0;
}

/* --- a chat's turns --- */

static bool is_user(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && strcmp(role, "user") == 0;
}

/* Where message `turn` of those that begin turns stands; the number of messages where there are not so many. */
static size_t turn_at(const json_t *messages, int turn)
{
    size_t i = 0, n = json_array_size(messages);
    for (; i < n; i++)
        if (is_user(json_array_get(messages, i)) && turn-- == 0) break;
    return i;
}

static int count_turns(const json_t *messages)
{
    int n = 0;
    for (size_t i = 0; i < json_array_size(messages); i++) n += is_user(json_array_get(messages, i));
    return n;
}

/* The messages without [from, to); NULL where memory is short. */
static json_t *without(const json_t *messages, size_t from, size_t to)
{
    json_t *kept = json_array();
    for (size_t i = 0; i < json_array_size(messages); i++)
        if (i < from || i >= to) json_list_add(&kept, json_incref(json_array_get(messages, i)));
    return kept;
}

/* The prompt without `drop` turns behind the head. */
static int try_dropping(const struct api_engine *g, const struct ask *a, int drop, json_t **kept, struct tokens *out,
                        struct err *e)
{
    int head = a->policy.head_turns;
    json_t *m = without(a->messages, turn_at(a->messages, head), turn_at(a->messages, head + drop));
    if (!m) return err_set(e, ERR_NO_MEMORY, "no memory for the messages");
    if (api_tokenize_of(g, a, 0, m, POLICY_TOKENS_MAX, out, e)) {
        json_decref(m);
        return -1;
    }
    *kept = m;
    return 0;
}

static int too_long(const struct ask *a, size_t n, struct err *e)
{
    return err_field(e, ERR_CONTEXT_LENGTH, "messages",
                     "This model's prompts are cut to %d tokens, but what is always kept (what stands before the first user "
                     "message, %d turns from the start, %d from the end) has %zu. Shorten it.",
                     a->policy.max_tokens, a->policy.head_turns, a->policy.last_turns, n);
}

/* Fewest turns are dropped: lo is too few, hi fits. *out comes with the whole prompt, which is too long. */
static int drop_turns(const struct api_engine *g, struct ask *a, struct tokens *out, struct err *e)
{
    size_t most = (size_t)a->policy.max_tokens;
    int lo = 0, hi = count_turns(a->messages) - a->policy.head_turns - a->policy.last_turns;
    json_t *kept = NULL, *m = NULL;
    struct tokens t;
    if (hi < 1) return too_long(a, out->n, e);
    if (try_dropping(g, a, hi, &kept, &t, e)) return -1;
    free(out->id);
    *out = t;
    if (t.n > most) {
        json_decref(kept);
        return too_long(a, t.n, e);
    }
    while (hi - lo > 1) {
        int mid = lo + (hi - lo) / 2;
        if (try_dropping(g, a, mid, &m, &t, e)) {
            json_decref(kept);
            return -1;
        }
        bool fits = t.n <= most;
        if (fits) {
            free(out->id);
            json_decref(kept);
            *out = t;
            kept = m;
            hi = mid;
        } else {
            free(t.id);
            json_decref(m);
            lo = mid;
        }
    }
    if (json_object_set_new(a->root, "messages", kept)) return err_set(e, ERR_NO_MEMORY, "no memory for the messages");
    a->messages = kept;
    return 0;
}

/* --- a completion's prompt --- */

static void cut_middle(const struct ask_policy *p, struct tokens *t)
{
    size_t most = (size_t)p->max_tokens, head = (size_t)p->head_tokens, tail = most - head;
    memmove(t->id + head, t->id + t->n - tail, tail * sizeof *t->id);
    t->n = most;
}

int policy_tokenize(const struct api_engine *g, struct ask *a, int i, struct tokens *out, int *before, struct err *e)
{
    const struct ask_policy *p = &a->policy;
    size_t most = p->max_tokens ? POLICY_TOKENS_MAX : (size_t)g->max_context;
    struct tokens t = {0};
    if (p->text && check_text(g, a, e)) return -1;
    if (api_tokenize_of(g, a, i, a->messages, most, &t, e)) return -1;
    *before = (int)t.n;
    bool long_one = p->max_tokens && t.n > (size_t)p->max_tokens;
    if (long_one && a->kind == ASK_CHAT && drop_turns(g, a, &t, e)) {
        free(t.id);
        return -1;
    }
    if (long_one && a->kind == ASK_COMPLETION) cut_middle(p, &t);
    if (t.n > (size_t)g->max_context) { /* the policy's budget is larger than the context */
        free(t.id);
        return err_field(e, ERR_CONTEXT_LENGTH, a->kind == ASK_CHAT ? "messages" : "prompt",
                         "This model's maximum context length is %d tokens; the prompt has %zu.", g->max_context, t.n);
    }
    *out = t;
    return 0;
}
