/* route_features: a request, and the beginning of an answer, as a few numbers within about -1 to 1 (route.h).
 *
 * Of a request: lengths, turns, what it asks for, what its last turn is made of, and its words, each of which adds a sign to one of WORDS places by a hash of it
 * (feature hashing: Weinberger et al., ICML 2009): which kind of thing is asked, without a list of words. Nothing of it can be read back. Each text counts up to
 * TEXT_MAX bytes. */
#include "base/json.h"
#include "gateway/quality/route.h"
#include <ctype.h>
#include <math.h>
#include <string.h>

#define TEXT_MAX 8192
#define WORDS 32 /* places */
#define FIRST_WORD (ROUTE_ASK - WORDS)
#define WORD_WEIGHT 0.5
#define LOGPROB_LEAST (-20.0)

struct reading {
    double *x;
    size_t all, last; /* bytes */
    int turns, digits, marks, words, letters;
    bool system, question;
};

static void add_word(double *x, const char *s, size_t n)
{
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ (uint32_t)tolower((unsigned char)s[i])) * 16777619u;
    h ^= h >> 15; /* its low bits alone are not mixed well */
    h *= 2246822519u;
    h ^= h >> 13;
    x[FIRST_WORD + h % WORDS] += h & 0x80000000u ? WORD_WEIGHT : -WORD_WEIGHT;
}

static void add_words(struct reading *r, const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t from = i;
        while (i < n && (isalpha((unsigned char)s[i]) || (unsigned char)s[i] >= 128)) i++;
        if (i > from) {
            add_word(r->x, s + from, i - from);
            r->words++;
            r->letters += (int)(i - from);
        } else {
            i++;
        }
    }
}

/* The last turn's signs; what stands before it counts by its length alone, but for the system message's words. */
static void look(struct reading *r, const char *s, size_t n)
{
    r->digits = r->marks = 0;
    r->question = memchr(s, '?', n) != NULL;
    for (size_t i = 0; i < n; i++) {
        r->digits += isdigit((unsigned char)s[i]) != 0;
        r->marks += strchr("{}[]();=<>`_\\", s[i]) != NULL && s[i];
    }
    r->last = n;
}

static size_t bounded(const json_t *text)
{
    size_t n = json_string_length(text);
    return n < TEXT_MAX ? n : TEXT_MAX;
}

/* A content's text, or that of the first of its parts. */
static const json_t *text_of(const json_t *content)
{
    const json_t *part;
    size_t i;
    if (!json_is_array(content)) return content;
    json_array_foreach(content, i, part) if (json_is_string(json_object_get(part, "text"))) return json_object_get(part, "text");
    return NULL;
}

static void read_messages(struct reading *r, const json_t *messages)
{
    const json_t *m, *last = NULL;
    size_t i;
    json_array_foreach(messages, i, m)
    {
        const char *role = json_string_value(json_object_get(m, "role"));
        const json_t *text = text_of(json_object_get(m, "content"));
        bool system = role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
        r->all += bounded(text);
        r->system |= system;
        if (system && json_is_string(text)) add_words(r, json_string_value(text), bounded(text));
        if (role && strcmp(role, "user") == 0) r->turns++, last = text;
    }
    if (!json_is_string(last)) return;
    look(r, json_string_value(last), bounded(last));
    add_words(r, json_string_value(last), bounded(last));
}

static void read_prompt(struct reading *r, const json_t *prompt)
{
    const json_t *text = json_is_array(prompt) ? json_array_get(prompt, 0) : prompt;
    r->turns = 1;
    if (!json_is_string(text)) return;
    r->all = bounded(text);
    look(r, json_string_value(text), r->all);
    add_words(r, json_string_value(text), r->all);
}

/* 1 from 2^most on. */
static double of_log(double n, double most)
{
    return fmin(1, log2(1 + n) / most);
}

static double most_tokens(const json_t *root)
{
    const json_t *v = json_object_get(root, "max_completion_tokens");
    if (!v) v = json_object_get(root, "max_tokens");
    return json_is_integer(v) && json_integer_value(v) >= 0 ? of_log((double)json_integer_value(v), 12) : 1;
}

void route_features(const json_t *root, bool chat, double x[ROUTE_ASK])
{
    memset(x, 0, ROUTE_ASK * sizeof *x);
    struct reading r = {.x = x};
    if (chat)
        read_messages(&r, json_object_get(root, "messages"));
    else
        read_prompt(&r, json_object_get(root, "prompt"));
    double last = r.last ? (double)r.last : 1;
    bool shape = json_object_get(root, "response_format") || json_object_get(root, "structured_outputs") || json_object_get(root, "guided_json") ||
                 json_object_get(root, "guided_regex") || json_object_get(root, "guided_choice");
    const double plain[FIRST_WORD] = {1,
                                      of_log((double)r.last, 13),
                                      of_log((double)r.all, 16),
                                      fmin(1, r.turns / 8.0),
                                      r.system,
                                      json_object_get(root, "tools") != NULL,
                                      shape,
                                      fmin(1, 4 * r.digits / last),
                                      fmin(1, 10 * r.marks / last),
                                      r.question,
                                      most_tokens(root),
                                      r.words ? fmin(1, r.letters / (10.0 * r.words)) : 0};
    memcpy(x, plain, sizeof plain);
    for (int i = FIRST_WORD; i < ROUTE_ASK; i++) x[i] = tanh(x[i]);
}

/* --- the beginning of an answer --- */

void route_probe_add(struct route_probe *p, double logprob)
{
    double v = isfinite(logprob) ? fmin(0, fmax(LOGPROB_LEAST, logprob)) : LOGPROB_LEAST;
    if (!p->n) p->first = p->least = v;
    p->n++;
    p->sum += v;
    p->least = fmin(p->least, v);
    p->doubtful += v < -M_LN2;
}

void route_probe_features(const struct route_probe *p, int tokens, double x[ROUTE_PROBE])
{
    double n = p->n ? p->n : 1;
    x[0] = p->n ? exp(p->sum / n) : 0;
    x[1] = p->n ? exp(p->least) : 0;
    x[2] = p->n ? exp(p->first) : 0;
    x[3] = p->doubtful / n;
    x[4] = tokens > 0 ? fmin(1, p->n / (double)tokens) : 0;
    x[5] = fmax(-1, p->sum / 8); /* of all of them together */
}

/* chat: choices[0].logprobs.content[].logprob; completions: choices[0].logprobs.token_logprobs[] */
int route_probe_read(struct route_probe *p, const json_t *answer, int most)
{
    const json_t *all = json_object_get(json_array_get(json_object_get(answer, "choices"), 0), "logprobs"), *v;
    const json_t *list = json_object_get(all, "content");
    bool chat = json_is_array(list);
    size_t i;
    int added = 0;
    if (!chat) list = json_object_get(all, "token_logprobs");
    json_array_foreach(list, i, v)
    {
        const json_t *n = chat ? json_object_get(v, "logprob") : v;
        if (p->n >= most) break;
        if (!json_is_number(n)) continue;
        route_probe_add(p, json_number_value(n));
        added++;
    }
    return added;
}
