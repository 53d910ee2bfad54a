/* evaluation_policy: an alias's `evaluation`, read and written out with all defaults. Pure functions over JSON. */
#include "base/buf.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/grounded.h"
#include "gateway/quality/rule.h"
#include <stdio.h>
#include <string.h>

#define WHERE "evaluation"
#define RUBRIC_MAX 4096
#define MODEL_MAX 255
#define SCALE_MAX 100
#define WINDOW_MIN 10
#define WINDOW_MAX 10000

static const char default_rubric[] = "Judge whether the answer is correct, complete and to the point.";

/* --- the parts --- */

static int read_rule(json_t *to, const json_t *v, struct err *e)
{
    json_t *rule = NULL, *one;
    size_t i;
    if (rule_read(v, &rule, e)) return -1;
    const char *name = json_string_value(json_object_get(rule, "name"));
    bool taken = strcmp(name, EVALUATION_OVERALL) == 0 || strcmp(name, EVALUATION_JUDGE) == 0 || strncmp(name, "groundedness", 12) == 0 || strncmp(name, "retrieval", 9) == 0;
    json_array_foreach(to, i, one) taken |= strcmp(json_string_value(json_object_get(one, "name")), name) == 0;
    if (taken) {
        json_decref(rule);
        return err_field(e, ERR_INVALID, "name", "The name is another score's already.");
    }
    return json_array_append_new(to, rule) ? err_set(e, ERR_NO_MEMORY, "no memory for an evaluation") : 0;
}

static int read_rules(const json_t *v, json_t **out, struct err *e)
{
    json_t *one;
    size_t i;
    if (!json_is_array(v) || json_array_size(v) > RULES_MAX) return err_field(e, ERR_INVALID, "", "'rules' must be a list of at most %d rules.", RULES_MAX);
    if (!(*out = json_array())) return err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
    json_array_foreach((json_t *)v, i, one)
    {
        char at[24];
        if (read_rule(*out, one, e) == 0) continue;
        snprintf(at, sizeof at, "%zu", i);
        return err_within(e, at);
    }
    return 0;
}

static int read_grounded(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"support", "ngram", "min", NULL};
    double support = 0.6, min = 0.5;
    int64_t ngram = 3;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "It is an object {support, ngram, min}.");
    if (json_check_fields(v, names, NULL, e) || json_get_num(v, "support", 0.01, 1, &support, NULL, e) || json_get_num(v, "min", 0, 1, &min, NULL, e) ||
        json_get_int(v, "ngram", 1, RAG_NGRAM_MAX, &ngram, NULL, e))
        return -1;
    *out = json_pack("{sf sI sf}", "support", support, "ngram", (json_int_t)ngram, "min", min);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
}

static int read_judge(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"model", "rubric", "sample", "scale", "min", NULL}, *const ends[] = {"min", "max", NULL};
    const char *model = NULL, *rubric = default_rubric;
    double sample = 1, min = 0.5;
    int64_t low = 1, high = 5;
    const json_t *scale = json_object_get(v, "scale");
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "It is an object {model, rubric, sample, scale, min}.");
    if (json_check_fields(v, names, NULL, e) || json_need_str(v, "model", MODEL_MAX, &model, e) || json_get_str(v, "rubric", RUBRIC_MAX, &rubric, NULL, e) ||
        json_get_num(v, "sample", 0, 1, &sample, NULL, e) || json_get_num(v, "min", 0, 1, &min, NULL, e))
        return -1;
    if (!*model) return err_field(e, ERR_INVALID, "model", "'model' must name a model.");
    if (scale && !json_is_null(scale)) {
        if (!json_is_object(scale)) return err_field(e, ERR_INVALID, "scale", "'scale' is an object {min, max}.");
        if (json_check_fields(scale, ends, NULL, e) || json_get_int(scale, "min", 0, SCALE_MAX, &low, NULL, e) || json_get_int(scale, "max", 1, SCALE_MAX, &high, NULL, e)) return -1;
        if (low >= high) return err_field(e, ERR_INVALID, "scale", "'min' must be less than 'max'.");
    }
    *out = json_pack("{ss ss sf s{sI sI} sf}", "model", model, "rubric", rubric, "sample", sample, "scale", "min", (json_int_t)low, "max", (json_int_t)high, "min", min);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
}

static int read_alert(const json_t *v, json_t **out, struct err *e)
{
    static const char *const names[] = {"rule", "below", "answers", NULL};
    const char *rule = EVALUATION_OVERALL;
    double below = 0;
    int64_t answers = 50;
    bool given = false;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, "", "It is an object {rule, below, answers}.");
    if (json_check_fields(v, names, NULL, e) || json_get_str(v, "rule", RULE_NAME_MAX, &rule, NULL, e) || json_get_num(v, "below", 0, 1, &below, &given, e) ||
        json_get_int(v, "answers", WINDOW_MIN, WINDOW_MAX, &answers, NULL, e))
        return -1;
    if (!given) return err_field(e, ERR_MISSING, "below", "'below' is missing.");
    *out = json_pack("{ss sf sI}", "rule", rule, "below", below, "answers", (json_int_t)answers);
    return *out ? 0 : err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
}

/* --- all of it --- */

static const struct part {
    const char *name;
    int (*read)(const json_t *v, json_t **out, struct err *e);
    bool scores;
} parts[] = {
    {"rules", read_rules, true},
    {"groundedness", read_grounded, true},
    {"judge", read_judge, true},
    {"alert", read_alert, false},
};
#define PARTS (sizeof parts / sizeof *parts)

/* The rule that an alert watches is one that there is. */
static int check_alert(const json_t *o, struct err *e)
{
    const char *rule = json_string_value(json_object_get(json_object_get(o, "alert"), "rule"));
    size_t i;
    json_t *one;
    if (!rule || strcmp(rule, EVALUATION_OVERALL) == 0) return 0;
    if (strcmp(rule, EVALUATION_JUDGE) == 0 && json_object_get(o, "judge")) return 0;
    if ((strcmp(rule, "groundedness") == 0 || strcmp(rule, "groundedness.ngrams") == 0) && json_object_get(o, "groundedness")) return 0;
    json_array_foreach(json_object_get(o, "rules"), i, one) if (strcmp(json_string_value(json_object_get(one, "name")), rule) == 0) return 0;
    return err_field(e, ERR_INVALID, WHERE ".alert.rule", "There is no score '%.64s' in this evaluation.", rule);
}

/* An empty list of rules judges nothing. */
static bool judges(const json_t *part)
{
    return part && (!json_is_array(part) || json_array_size(part));
}

static int check_whole(const json_t *o, struct err *e)
{
    bool scores = false;
    struct buf text;
    for (size_t i = 0; i < PARTS; i++) scores |= parts[i].scores && judges(json_object_get(o, parts[i].name));
    if (!scores) return err_field(e, ERR_MISSING, WHERE ".rules", "An evaluation needs a rule in 'rules', 'groundedness' or a 'judge'.");
    buf_init(&text, EVALUATION_MAX);
    bool fits = json_dump(o, true, &text) == 0, large = text.full;
    buf_close(&text);
    if (large) return err_field(e, ERR_INVALID, WHERE, "An evaluation has at most %d bytes.", EVALUATION_MAX);
    return fits ? check_alert(o, e) : err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
}

static int read_all(const json_t *v, json_t *o, struct err *e)
{
    static const char *const names[] = {"sample", "rules", "groundedness", "judge", "alert", NULL};
    double sample = 1;
    struct err why = {0};
    if (json_check_fields(v, names, WHERE, e)) return -1;
    if (json_get_num(v, "sample", 0, 1, &sample, NULL, &why)) return err_field(e, why.code, WHERE ".sample", "%s", why.msg);
    for (size_t i = 0; i < PARTS; i++)
        if (json_read_member(v, parts[i].name, parts[i].read, WHERE, o, e)) return -1;
    if (json_object_set_new(o, "sample", json_real(sample))) return err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
    return check_whole(o, e);
}

int evaluation_read(const json_t *v, json_t **out, struct err *e)
{
    *out = NULL;
    if (!v || json_is_null(v) || (json_is_object(v) && json_object_size(v) == 0)) return 0;
    if (!json_is_object(v)) return err_field(e, ERR_INVALID, WHERE, "'%s' must be an object.", WHERE);
    json_t *o = json_object();
    int rc = o ? read_all(v, o, e) : err_set(e, ERR_NO_MEMORY, "no memory for an evaluation");
    if (rc) json_decref(o);
    else *out = o;
    return rc;
}
