/* route: the decision between two models (route.h has the idea).
 *
 * Before anything was rated the beliefs are these: the large model is right nearly always; trying the small one is worth it; and it is right as often as the mean of its tokens' probabilities
 * and the least of them say, which is how a cascade by confidence decides. RIDGE observations weigh as much as that. */
#include "gateway/quality/route.h"
#include "base/json.h"
#include <math.h>
#include <string.h>

#define RIDGE 2.0
#define LARGE_PRIOR 0.9
#define ASK_PRIOR 0.8
#define TOKENS_DEFAULT 24
#define EXPLORATION_DEFAULT 0.4
#define ERROR_COST_DEFAULT 3.0

const char *const route_arm_name[ROUTE_ARMS] = {"auto", "small", "large"};
const char *const route_way_name[ROUTE_WAYS] = {"large", "kept", "escalated", "small"};

/* --- what the alias says --- */

static int check_fields(const json_t *v, struct err *e)
{
    static const char *const names[] = {"probe_tokens", "exploration", "error_cost", "cost_ratio", "arm", "learn", NULL};
    const char *field = json_other_field(v, names);
    return field ? err_field(e, ERR_INVALID, "routing", "There is no field '%.60s' in 'routing'.", field) : 0;
}

static int read_rules(const json_t *v, struct route_rules *r, struct err *e)
{
    const char *arm = NULL;
    int64_t tokens = TOKENS_DEFAULT;
    *r = (struct route_rules){.exploration = EXPLORATION_DEFAULT, .error_cost = ERROR_COST_DEFAULT, .learn = true};
    if (json_get_int(v, "probe_tokens", 0, ROUTE_TOKENS_MAX, &tokens, NULL, e) || json_get_num(v, "exploration", 0, 10, &r->exploration, NULL, e) ||
        json_get_num(v, "error_cost", 0.01, 1e6, &r->error_cost, NULL, e) || json_get_num(v, "cost_ratio", 0, 1, &r->ratio, NULL, e) ||
        json_get_bool(v, "learn", &r->learn, NULL, e) || json_get_str(v, "arm", 8, &arm, NULL, e))
        return -1;
    r->tokens = (int)tokens;
    for (int i = 0; arm && i < ROUTE_ARMS; i++)
        if (strcmp(route_arm_name[i], arm) == 0) {
            r->arm = (enum route_arm)i;
            arm = NULL;
        }
    return arm ? err_field(e, ERR_INVALID, "arm", "'arm' can't be '%.8s'.", arm) : 0;
}

int route_rules_read(const json_t *v, json_t **out, struct err *e)
{
    struct route_rules r;
    *out = NULL;
    if (!v || json_is_null(v) || (json_is_object(v) && !json_object_size(v))) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "routing", "'routing' must be an object.");
    if (check_fields(v, e)) return -1;
    if (read_rules(v, &r, e)) return err_within(e, "routing");
    *out = json_pack("{sI sf sf sf ss sb}", "probe_tokens", (json_int_t)r.tokens, "exploration", r.exploration, "error_cost", r.error_cost, "cost_ratio", r.ratio, "arm",
                     route_arm_name[r.arm], "learn", (int)r.learn);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an alias");
}

void route_rules_of(const json_t *v, struct route_rules *out)
{
    read_rules(v, out, NULL);
}

/* --- beliefs --- */

void route_model_init(struct route_model *m)
{
    double large[ROUTE_ASK] = {LARGE_PRIOR}, ask[ROUTE_ASK] = {ASK_PRIOR}, seen[ROUTE_SEEN] = {0};
    seen[ROUTE_ASK] = 0.5;     /* the mean's probability */
    seen[ROUTE_ASK + 1] = 0.5; /* the least one's */
    bandit_init(&m->ask, ROUTE_ASK, RIDGE, ask);
    bandit_init(&m->seen, ROUTE_SEEN, RIDGE, seen);
    bandit_init(&m->large, ROUTE_ASK, RIDGE, large);
    m->n = 0;
}

static double within(double v)
{
    return fmin(1, fmax(0, v));
}

/* value: of the small model's way, without its width's part. */
static struct route_choice choose(const struct route_model *m, const struct route_rules *r, double value, double value_width, const double *x)
{
    double width, large = within(bandit_mean(&m->large, x, &width));
    double other = large - 1 / r->error_cost + r->exploration * width;
    bool is_large = r->arm == ROUTE_AUTO ? other > value + r->exploration * value_width : r->arm == ROUTE_LARGE;
    return (struct route_choice){is_large, within(large - value)};
}

struct route_choice route_ask(const struct route_model *m, const struct route_rules *r, const double x[ROUTE_ASK])
{
    double width, value = bandit_mean(&m->ask, x, &width);
    return choose(m, r, value, width, x);
}

struct route_choice route_seen(const struct route_model *m, const struct route_rules *r, const double x[ROUTE_SEEN])
{
    double width, value = within(bandit_mean(&m->seen, x, &width));
    return choose(m, r, value, width, x);
}

double route_cost(const struct route_rules *r, double ratio, enum route_way way)
{
    return way == ROUTE_DIRECT ? 0 : (ratio + (way == ROUTE_ESCALATED)) / r->error_cost;
}

void route_learn(struct route_model *m, enum route_way way, const double *x, double rating, double cost)
{
    if (way == ROUTE_DIRECT || way == ROUTE_ESCALATED) bandit_learn(&m->large, x, rating);
    if (way != ROUTE_DIRECT) bandit_learn(&m->ask, x, rating - cost);
    if (way == ROUTE_KEPT) bandit_learn(&m->seen, x, rating);
    m->n++;
}

void route_relearn(struct route_model *m, enum route_way way, const double *x, double was, double rating)
{
    if (way == ROUTE_DIRECT || way == ROUTE_ESCALATED) bandit_correct(&m->large, x, rating - was);
    if (way != ROUTE_DIRECT) bandit_correct(&m->ask, x, rating - was);
    if (way == ROUTE_KEPT) bandit_correct(&m->seen, x, rating - was);
}
