/* replay: what an adaptive alias would have made of a recorded set, by the gateway's own decision (gateway/quality/route.h), beside always the small model, always
 * the large one, chance, and the oracle, which knows who is right and takes the cheaper.
 *
 *     replay [NAME=VALUE...] FILE...     seeds=20 tokens=24 exploration=0.4 error_cost=3 price=0.25 feedback=1 whole=0 skip=0
 *
 * A line of a file is {"messages", "max_tokens", "small": {"right", "prompt", "output", "logprobs"}, "large": {...}} (tests/quality/record makes such). Each file is
 * one alias: beliefs begin anew with each file and each seed, which gives another order. After each answer, `feedback` of them, by chance, are rated: 1 right, 0 wrong.
 * The first `skip` requests of an order are answered and rated, and not counted: what is printed is of those that come after, which no belief has seen.
 *
 * Cost is in answers of the large model (the mean of the file): tokens of a prompt at one, of an answer at OUTPUT_PRICE, those of the small model at `price` of it. What the small
 * model said before a request was taken from it counts too: with whole=1 all of its answer, as for a client that does not stream, else its first `tokens`. Regret is what the oracle
 * gained beyond it, a hundred requests: a right answer gains error_cost, an answer costs what it costs. */
#include "base/buf.h"
#include "base/json.h"
#include "gateway/quality/route.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINES_MAX 20000
#define LINE_MAX_BYTES 65536
#define OUTPUT_PRICE 4.0

struct said {
    bool right;
    double prompt, output, cost;
    struct route_probe probe;
};

struct line {
    double x[ROUTE_SEEN];
    struct said small, large;
    double probe_cost; /* of what the small one says before it is stopped */
};

struct options {
    double seeds, tokens, exploration, error_cost, price, feedback, whole, skip;
};

static struct options opt = {20, 24, 0.4, 3, 0.25, 1, 0, 0};

static const struct {
    const char *name;
    double *value;
} names[] = {{"seeds", &opt.seeds}, {"tokens", &opt.tokens},     {"exploration", &opt.exploration}, {"error_cost", &opt.error_cost},
             {"price", &opt.price}, {"feedback", &opt.feedback}, {"whole", &opt.whole},             {"skip", &opt.skip}};

static void fail(const char *what, const char *of)
{
    fprintf(stderr, "replay: %s: %s\n", of, what);
    exit(2);
}

/* --- the set --- */

static void take_said(const json_t *o, double price, struct said *s, const char *file)
{
    const json_t *one;
    size_t i;
    if (!json_is_object(o)) fail("a line without an answer", file);
    s->right = json_is_true(json_object_get(o, "right"));
    s->prompt = json_number_value(json_object_get(o, "prompt"));
    s->output = json_number_value(json_object_get(o, "output"));
    s->cost = price * (s->prompt + OUTPUT_PRICE * s->output);
    json_array_foreach(json_object_get(o, "logprobs"), i, one)
        if ((double)i < opt.tokens) route_probe_add(&s->probe, json_number_value(one));
}

static void take_line(const char *text, size_t n, struct line *l, const char *file)
{
    struct err e = {0};
    json_t *o = NULL;
    if (json_parse(text, n, &o, &e)) fail(e.msg, file);
    take_said(json_object_get(o, "small"), opt.price, &l->small, file);
    take_said(json_object_get(o, "large"), 1, &l->large, file);
    route_features(o, true, l->x);
    route_probe_features(&l->small.probe, (int)opt.tokens, l->x + ROUTE_ASK);
    double heard = opt.whole > 0 ? l->small.output : fmin(l->small.output, opt.tokens);
    l->probe_cost = opt.price * (l->small.prompt + OUTPUT_PRICE * heard);
    json_decref(o);
}

static int read_set(const char *file, struct line *lines)
{
    static char text[LINE_MAX_BYTES];
    int n = 0;
    FILE *f = fopen(file, "r");
    if (!f) fail("can't be read", file);
    while (n < LINES_MAX && fgets(text, sizeof text, f)) {
        size_t len = strcspn(text, "\n");
        memset(&lines[n], 0, sizeof lines[n]);
        if (len) take_line(text, len, &lines[n++], file);
    }
    fclose(f);
    if (!n) fail("holds no line", file);
    double unit = 0;
    for (int i = 0; i < n; i++) unit += lines[i].large.cost / n;
    for (int i = 0; i < n; i++) lines[i].large.cost /= unit, lines[i].small.cost /= unit, lines[i].probe_cost /= unit;
    return n;
}

/* --- policies --- */

enum policy { ALWAYS_SMALL, ALWAYS_LARGE, CHANCE, ASK_ALONE, UNTAUGHT, ADAPTIVE, ORACLE, POLICIES };
static const char *const policy_name[POLICIES] = {"always small", "always large", "by chance", "adaptive, by the request alone", "adaptive, without feedback", "adaptive", "oracle"};

struct result {
    double n, right, cost, regret, small, escalated;
};

static double gain(bool right, double cost)
{
    return (right ? opt.error_cost : 0) - cost;
}

/* As good as any generator here: the order of a set, and which answers are rated. */
static double chance(uint64_t *state)
{
    *state += 0x9E3779B97F4A7C15ull;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return (double)((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}

static enum route_way decide(const struct route_model *m, const struct route_rules *r, const struct line *l)
{
    if (route_ask(m, r, l->x).large) return ROUTE_DIRECT;
    if (!r->tokens || !l->small.probe.n) return ROUTE_UNSEEN;
    return route_seen(m, r, l->x).large ? ROUTE_ESCALATED : ROUTE_KEPT;
}

static struct route_rules rules_of(enum policy p)
{
    return (struct route_rules){.tokens = p == ASK_ALONE ? 0 : (int)opt.tokens, .exploration = p == UNTAUGHT ? 0 : opt.exploration, .error_cost = opt.error_cost};
}

static enum route_way way_of(enum policy p, const struct route_model *m, const struct line *l, uint64_t *state)
{
    struct route_rules r = rules_of(p);
    bool small_gains = gain(l->small.right, l->small.cost) >= gain(l->large.right, l->large.cost);
    switch (p) {
    case ALWAYS_SMALL: return ROUTE_UNSEEN;
    case ALWAYS_LARGE: return ROUTE_DIRECT;
    case CHANCE: return chance(state) < 0.5 ? ROUTE_UNSEEN : ROUTE_DIRECT;
    case ORACLE: return small_gains ? ROUTE_UNSEEN : ROUTE_DIRECT;
    default: return decide(m, &r, l);
    }
}

static void count(struct result *s, const struct line *l, enum route_way way)
{
    bool is_large = way == ROUTE_DIRECT || way == ROUTE_ESCALATED, right = is_large ? l->large.right : l->small.right;
    double cost = (is_large ? l->large.cost : l->small.cost) + (way == ROUTE_ESCALATED ? l->probe_cost : 0);
    s->n++;
    s->right += right;
    s->cost += cost;
    s->small += !is_large;
    s->escalated += way == ROUTE_ESCALATED;
    s->regret += fmax(gain(l->small.right, l->small.cost), gain(l->large.right, l->large.cost)) - gain(right, cost);
}

static void shuffle(int *order, int n, uint64_t *state)
{
    for (int i = 0; i < n; i++) order[i] = i;
    for (int i = n - 1; i > 0; i--) {
        int k = (int)(chance(state) * (i + 1)), t = order[i];
        order[i] = order[k];
        order[k] = t;
    }
}

static void run(enum policy p, const struct line *lines, int n, int seed, struct result *out)
{
    static struct route_model m;
    static int order[LINES_MAX];
    struct route_rules r = rules_of(p);
    uint64_t state = 0x5DEECE66Dull * (uint64_t)(seed + 1);
    route_model_init(&m);
    shuffle(order, n, &state);
    for (int i = 0; i < n; i++) {
        const struct line *l = &lines[order[i]];
        enum route_way way = way_of(p, &m, l, &state);
        bool is_large = way == ROUTE_DIRECT || way == ROUTE_ESCALATED, rated = chance(&state) < opt.feedback;
        if (i >= (int)opt.skip) count(out, l, way);
        if (rated && (p == ASK_ALONE || p == ADAPTIVE)) route_learn(&m, way, l->x, is_large ? l->large.right : l->small.right, route_cost(&r, opt.price, way));
    }
}

static void print(const char *file, const struct line *lines, int n)
{
    struct result r[POLICIES] = {0};
    const char *base = strrchr(file, '/');
    for (int p = 0; p < POLICIES; p++)
        for (int seed = 0; seed < (int)opt.seeds; seed++) run((enum policy)p, lines, n, seed, &r[p]);
    printf("\n| %s, %d requests after %d | right | of always large's | cost of always large's | regret, of a hundred | by the small one | taken from it |\n| --- | --- | --- | --- | --- | --- | --- |\n",
           base ? base + 1 : file, n - (int)opt.skip, (int)opt.skip);
    for (int p = 0; p < POLICIES; p++) {
        const struct result *s = &r[p], *large = &r[ALWAYS_LARGE];
        printf("| %s | %.1f %% | %.1f %% | %.1f %% | %.1f | %.0f %% | %.0f %% |\n", policy_name[p], 100 * s->right / s->n, 100 * s->right / large->right, 100 * s->cost / large->cost,
               100 * s->regret / s->n, 100 * s->small / s->n, 100 * s->escalated / s->n);
    }
}

int main(int argc, char **argv)
{
    static struct line lines[LINES_MAX];
    int files = 0;
    for (int i = 1; i < argc; i++) {
        const char *eq = strchr(argv[i], '=');
        bool found = false;
        for (size_t k = 0; eq && k < sizeof names / sizeof *names; k++) {
            if (strncmp(names[k].name, argv[i], (size_t)(eq - argv[i])) != 0 || strlen(names[k].name) != (size_t)(eq - argv[i])) continue;
            *names[k].value = strtod(eq + 1, NULL);
            found = true;
        }
        if (found) continue;
        print(argv[i], lines, read_set(argv[i], lines));
        files++;
    }
    if (!files) fail("no file is given", argv[0]);
    return 0;
}
