/* Evaluations of answers: what may be set, what each kind of rule says of a text, groundedness beside what is counted by hand, what a judge may answer. */
#include "gateway/quality/evaluation.h"
#include "gateway/quality/grounded.h"
#include "gateway/quality/judge.h"
#include "gateway/quality/rule.h"
#include <cmocka.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static json_t *parse(const char *text)
{
    json_t *o = json_load(text, strlen(text), JSON_DECODE_ANY, NULL);
    if (!o) fail_msg("not JSON: %s", text);
    return o;
}

/* --- what may be set --- */

struct set {
    const char *policy, *want, *param; /* want: what is stored, or NULL and the field at fault */
};

#define RULE(rule) "{\"rules\":[{\"name\":\"r\"," rule "}]}"
#define SCHEMA(schema) RULE("\"kind\":\"json_schema\",\"schema\":" schema)

static const struct set sets[] = {
    {"null", "null", NULL},
    {"{}", "null", NULL},
    {"[]", NULL, "evaluation"},
    {"{\"x\":1}", NULL, "evaluation"},
    {"{\"sample\":0.5}", NULL, "evaluation.rules"},
    {"{\"sample\":1.5,\"rules\":[]}", NULL, "evaluation.sample"},
    {"{\"rules\":[]}", NULL, "evaluation.rules"},
    {"{\"rules\":[],\"groundedness\":{}}", "{\"groundedness\":{\"min\":0.5,\"ngram\":3,\"support\":0.6},\"rules\":[],\"sample\":1.0}", NULL},
    {"{\"judge\":{\"model\":\"\"}}", NULL, "evaluation.judge.model"},
    {RULE("\"kind\":\"regex\",\"pattern\":\"a+\""), "{\"rules\":[{\"expect\":\"match\",\"ignore_case\":false,\"kind\":\"regex\",\"name\":\"r\",\"pattern\":\"a+\"}],\"sample\":1.0}", NULL},
    {RULE("\"kind\":\"regex\",\"pattern\":\"(\""), NULL, "evaluation.rules.0.pattern"},
    {RULE("\"kind\":\"regex\",\"pattern\":\"\\\\C\""), NULL, "evaluation.rules.0.pattern"},
    {RULE("\"kind\":\"regex\""), NULL, "evaluation.rules.0.pattern"},
    {RULE("\"kind\":\"regex\",\"pattern\":\"a\",\"schema\":{}"), NULL, "evaluation.rules.0.schema"},
    {RULE("\"kind\":\"tone\""), NULL, "evaluation.rules.0.kind"},
    {RULE("\"kind\":\"length\""), NULL, "evaluation.rules.0.max"},
    {RULE("\"kind\":\"length\",\"min\":3,\"max\":2"), NULL, "evaluation.rules.0.min"},
    {RULE("\"kind\":\"length\",\"unit\":\"lines\",\"max\":2"), NULL, "evaluation.rules.0.unit"},
    {RULE("\"kind\":\"language\",\"languages\":[]"), NULL, "evaluation.rules.0.languages"},
    {RULE("\"kind\":\"language\",\"languages\":[\"xx\"]"), NULL, "evaluation.rules.0.languages"},
    {SCHEMA("{\"type\":\"object\",\"if\":{}}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"type\":7}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"type\":\"strnig\"}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"$ref\":\"#/enum/0\",\"enum\":[{}]}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"$ref\":\"#/allOf/x\",\"allOf\":[{}]}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"$ref\":\"#/$defs/x\"}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"$ref\":\"http://example.org\"}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"multipleOf\":0}"), NULL, "evaluation.rules.0.schema"},
    {SCHEMA("{\"pattern\":\"(\"}"), NULL, "evaluation.rules.0.schema"},
    {"{\"rules\":[{\"name\":\"a\",\"kind\":\"length\",\"max\":1},{\"name\":\"a\",\"kind\":\"length\",\"max\":1}]}", NULL, "evaluation.rules.1.name"},
    {"{\"rules\":[{\"name\":\"overall\",\"kind\":\"length\",\"max\":1}]}", NULL, "evaluation.rules.0.name"},
    {"{\"rules\":[{\"name\":\"a b\",\"kind\":\"length\",\"max\":1}]}", NULL, "evaluation.rules.0.name"},
    {"{\"groundedness\":{}}", "{\"groundedness\":{\"min\":0.5,\"ngram\":3,\"support\":0.6},\"sample\":1.0}", NULL},
    {"{\"groundedness\":{\"ngram\":6}}", NULL, "evaluation.groundedness.ngram"},
    {"{\"judge\":{}}", NULL, "evaluation.judge.model"},
    {"{\"judge\":{\"model\":\"m\",\"scale\":{\"min\":5,\"max\":5}}}", NULL, "evaluation.judge.scale"},
    {"{\"groundedness\":{},\"alert\":{}}", NULL, "evaluation.alert.below"},
    {"{\"groundedness\":{},\"alert\":{\"below\":0.5,\"rule\":\"tone\"}}", NULL, "evaluation.alert.rule"},
    {"{\"groundedness\":{},\"alert\":{\"below\":0.5}}",
     "{\"alert\":{\"answers\":50,\"below\":0.5,\"rule\":\"overall\"},\"groundedness\":{\"min\":0.5,\"ngram\":3,\"support\":0.6},\"sample\":1.0}", NULL},
};

static void a_policy_is_stored_whole_or_refused_by_its_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        const struct set *s = &sets[i];
        json_t *v = parse(s->policy), *out = NULL, *want = s->want ? parse(s->want) : NULL;
        struct err e = {0};
        int rc = evaluation_read(v, &out, &e);
        if (s->want && (rc || !(out ? json_equal(out, want) : json_is_null(want)))) fail_msg("%s: %s %s", s->policy, e.msg, out ? json_dumps(out, JSON_SORT_KEYS) : "nothing");
        if (!s->want && (!rc || strcmp(e.param, s->param) != 0)) fail_msg("%s: %s (%s)", s->policy, e.param, e.msg);
        json_decref(v);
        json_decref(out);
        json_decref(want);
    }
}

/* --- rules --- */

static struct verdict judge_by(const char *rule, const char *text, int64_t tokens)
{
    struct verdict v;
    struct err e = {0};
    json_t *o = parse(rule), *r = NULL;
    if (rule_read(o, &r, &e)) fail_msg("%s: %s", rule, e.msg);
    rule_apply(r, &(struct rule_text){text, strlen(text), tokens}, &v);
    json_decref(o);
    json_decref(r);
    return v;
}

enum { FAILS, PASSES, SILENT };

static const struct judged {
    const char *rule, *text;
    int is;
} judgeds[] = {
    {"{\"name\":\"r\",\"kind\":\"regex\",\"pattern\":\"^Dear .*,$\"}", "Dear Ann,", PASSES},
    {"{\"name\":\"r\",\"kind\":\"regex\",\"pattern\":\"sorry\",\"expect\":\"no_match\",\"ignore_case\":true}", "I am SORRY.", FAILS},
    {"{\"name\":\"r\",\"kind\":\"regex\",\"pattern\":\"^.\\u00e9$\"}", "\xc3\xa9\xc3\xa9", PASSES},
    {"{\"name\":\"r\",\"kind\":\"regex\",\"pattern\":\"^(a+)+(b+)+(a+)+$\"}", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbbbbbaaaaaaaaaaaaaaaaaaaaaac", SILENT},
    {"{\"name\":\"r\",\"kind\":\"length\",\"max\":5}", "gr\xc3\xbc\xc3\x9f" "e", PASSES},
    {"{\"name\":\"r\",\"kind\":\"length\",\"unit\":\"words\",\"min\":3}", "no more", FAILS},
    {"{\"name\":\"r\",\"kind\":\"length\",\"unit\":\"words\",\"min\":5,\"max\":5}", "Don't pay 1,000.50 twice", PASSES}, /* a mark within a word parts it, one within a number does not: don t pay 1.000.50 twice */
    {"{\"name\":\"r\",\"kind\":\"length\",\"unit\":\"tokens\",\"max\":6}", "x", FAILS},
    {"{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"en\"]}", "The parcel was sent on Monday and should be with you in two days.", PASSES},
    {"{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"en\"]}", "Das Paket wurde am Montag verschickt und sollte in zwei Tagen bei Ihnen sein.", FAILS},
    {"{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"en\"]}", "ok", SILENT},
    {"{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"ja\"]}", "\xe3\x81\x93\xe3\x82\x93\xe3\x81\xab\xe3\x81\xa1\xe3\x81\xaf\xe4\xb8\x96\xe7\x95\x8c", PASSES},
    {"{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"ru\"]}", "Посылка была отправлена в понедельник и будет у вас через два дня.", PASSES},
    {"{\"name\":\"r\",\"kind\":\"language\",\"languages\":[\"ru\"]}", "Посилка була відправлена у понеділок і буде у вас через два дні, як і було обіцяно.", FAILS},
};

static void each_kind_of_rule_says_what_it_should(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof judgeds / sizeof *judgeds; i++) {
        const struct judged *j = &judgeds[i];
        struct verdict v = judge_by(j->rule, j->text, 7);
        int is = !v.scored ? SILENT : v.passed ? PASSES : FAILS;
        if (is != j->is) fail_msg("%s of '%s': %d (%s)", j->rule, j->text, is, v.note);
        if (is != PASSES) assert_true(*v.note);
    }
}

/* The same texts under each language's own name and no other. */
static const struct {
    const char *word, *text;
} said[] = {
    {"en", "We have received your order and it will be shipped as soon as it is ready."},
    {"de", "Wir haben Ihre Bestellung erhalten und sie wird verschickt, sobald sie fertig ist."},
    {"fr", "Nous avons bien reçu votre commande et elle sera expédiée dès qu'elle est prête pour vous."},
    {"es", "Hemos recibido su pedido y lo enviaremos en cuanto esté listo, no se preocupe por la entrega."},
    {"it", "Abbiamo ricevuto il suo ordine e lo spediremo non appena sarà pronto per la consegna."},
    {"pt", "Recebemos o seu pedido e ele será enviado assim que estiver pronto, não se preocupe com a entrega."},
    {"nl", "Wij hebben uw bestelling ontvangen en deze wordt verzonden zodra het klaar is voor u."},
    {"sv", "Vi har fått din beställning och den kommer att skickas så snart den är klar för dig."},
    {"pl", "Otrzymaliśmy zamówienie i zostanie ono wysłane, jak tylko będzie gotowe do tego, nie martw się o to."},
    {"tr", "Siparişinizi aldık ve bu hafta için hazır olduğu zaman size gönderilecek, daha sonra bir mesaj alırsınız."},
    {"ko", "주문을 받았으며 준비되는 대로 발송됩니다."},
    {"zh", "我们已收到您的订单，准备好后将立即发货。"},
    {"el", "Λάβαμε την παραγγελία σας και θα αποσταλεί μόλις είναι έτοιμη."},
    {"ar", "لقد استلمنا طلبك وسيتم شحنه بمجرد أن يصبح جاهزا."},
    {"he", "קיבלנו את ההזמנה שלך והיא תישלח ברגע שתהיה מוכנה."},
    {"hi", "हमें आपका ऑर्डर मिल गया है और तैयार होते ही भेज दिया जाएगा।"},
    {"th", "เราได้รับคำสั่งซื้อของคุณแล้วและจะจัดส่งทันทีที่พร้อม"},
};

static void a_sentence_tells_its_language(void **state)
{
    double sure;
    (void)state;
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) assert_string_equal(language_of(said[i].text, strlen(said[i].text), &sure), said[i].word);
    assert_string_equal(language_of("{\"a\": 1}", 8, &sure), "");
    assert_string_equal(language_of("", 0, &sure), "");
}

/* --- schemas: beside a table of what they allow --- */

#define PERSON "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"minLength\":1},\"age\":{\"type\":\"integer\",\"minimum\":0}},\"required\":[\"name\"],\"additionalProperties\":false}"
#define TREE "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"kids\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},\"additionalProperties\":false}}}"

#define LONG_SEARCHES "{\"items\":{\"not\":{\"pattern\":\"^(a+)+$\"}}}"
#define AAA "\"aaaaaaaaaaaaaab\""
#define AAA_8 AAA "," AAA "," AAA "," AAA "," AAA "," AAA "," AAA "," AAA

static const struct shaped {
    const char *schema, *text;
    int is;
} shapeds[] = {
    {PERSON, "{\"name\":\"Ann\",\"age\":3}", PASSES},
    {PERSON, " \n{\"name\":\"Ann\"}\n", PASSES},
    {PERSON, "{\"name\":\"\"}", FAILS},
    {PERSON, "{\"age\":3}", FAILS},
    {PERSON, "{\"name\":\"Ann\",\"age\":3.5}", FAILS},
    {PERSON, "{\"name\":\"Ann\",\"age\":3.0}", PASSES},
    {PERSON, "{\"name\":\"Ann\",\"x\":1}", FAILS},
    {PERSON, "Here it is: {\"name\":\"Ann\"}", FAILS},
    {PERSON, "```json\n{\"name\":\"Ann\"}\n```", FAILS},
    {PERSON, "{\"name\":\"Ann\"", FAILS},
    {"true", "1,\"x\":2", FAILS},
    {"true", "1,\"v\":2", FAILS},
    {"true", "\"x\"", PASSES},
    {"false", "\"x\"", FAILS},
    {"{\"type\":[\"string\",\"null\"]}", "null", PASSES},
    {"{\"enum\":[1,\"a\"]}", "1.0", PASSES},
    {"{\"const\":{\"a\":[1]}}", "{\"a\":[1]}", PASSES},
    {"{\"minimum\":1,\"exclusiveMaximum\":2}", "2", FAILS},
    {"{\"multipleOf\":0.1}", "0.3", PASSES},
    {"{\"multipleOf\":0.1}", "0.35", FAILS},
    {"{\"maxLength\":2}", "\"\xc3\xbc\xc3\xbc\"", PASSES},
    {"{\"pattern\":\"^a\"}", "\"ba\"", FAILS},
    {"{\"minItems\":1,\"uniqueItems\":true}", "[1,1.0]", FAILS},
    {"{\"prefixItems\":[{\"type\":\"string\"}],\"items\":{\"type\":\"number\"}}", "[\"a\",1,2]", PASSES},
    {"{\"prefixItems\":[{\"type\":\"string\"}],\"items\":false}", "[\"a\",1]", FAILS},
    {"{\"anyOf\":[{\"type\":\"string\"},{\"minimum\":5}]}", "4", FAILS},
    {"{\"oneOf\":[{\"minimum\":1},{\"minimum\":2}]}", "3", FAILS},
    {"{\"allOf\":[{\"minimum\":1},{\"maximum\":2}],\"not\":{\"const\":2}}", "1", PASSES},
    {"{\"minProperties\":1,\"additionalProperties\":{\"type\":\"number\"}}", "{\"a\":\"b\"}", FAILS},
    {TREE, "{\"kids\":[{\"kids\":[]},{}]}", PASSES},
    {TREE, "{\"kids\":[{\"kids\":[{\"x\":1}]}]}", FAILS},
    {"{\"$ref\":\"#\"}", "1", SILENT},
    {"{\"$defs\":{\"a/b~\":{\"minimum\":2}},\"$ref\":\"#/$defs/a~1b~0\"}", "1", FAILS},
    {"{\"const\":9007199254740993}", "9007199254740992", FAILS},
    {"{\"const\":{\"a\":[1]}}", "{\"a\":[1.0]}", PASSES},
    {LONG_SEARCHES, "[" AAA "," AAA "]", PASSES},
    {LONG_SEARCHES, "[" AAA_8 "," AAA_8 "," AAA_8 "]", SILENT}, /* each is within its own limit */
};

static void a_schema_allows_what_it_says(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapeds / sizeof *shapeds; i++) {
        const struct shaped *s = &shapeds[i];
        char rule[4096];
        snprintf(rule, sizeof rule, "{\"name\":\"r\",\"kind\":\"json_schema\",\"schema\":%s}", s->schema);
        struct verdict v = judge_by(rule, s->text, 1);
        int is = !v.scored ? SILENT : v.passed ? PASSES : FAILS;
        if (is != s->is) fail_msg("%s of '%s': %d (%s)", s->schema, s->text, is, v.note);
    }
}

/* --- groundedness --- */

#define RAG(passages) "{\"metadata\":{\"rag\":{\"passages\":" passages "}}}"
#define MILL "{\"id\":\"1\",\"text\":\"The old mill was built in 1832 beside the river. It ground corn for nine villages.\",\"score\":0.9}"
#define BRIDGE "{\"id\":\"2\",\"text\":\"A stone bridge crosses the river since 1790.\",\"score\":0.5}"

static const struct grounding {
    const char *body, *answer;
    int claims, supported, passages;
    bool sent, readable;
} groundings[] = {
    {RAG("[" MILL "," BRIDGE "]"), "The mill was built in 1832. It ground corn for villages.", 2, 2, 2, true, true},
    {RAG("[" MILL "," BRIDGE "]"), "The mill was built in 1843. The bridge is made of stone.", 2, 1, 2, true, true}, /* the year is not in it */
    {RAG("[" MILL "," BRIDGE "]"), "Elephants live for seventy years. They eat grass.", 2, 0, 2, true, true},
    {RAG("[" MILL "," BRIDGE "]"), "The mill was built in 1790.", 1, 0, 2, true, true}, /* the year is another passage's */
    {RAG("[" MILL "]"), "It is. And that, too!", 0, 0, 1, true, true},
    {RAG("[]"), "Anything at all.", 0, 0, 0, true, true},
    {RAG("[{\"text\":\"\"}]"), "Anything at all.", 0, 0, 0, true, true},
    {RAG("{}"), "Anything at all.", 0, 0, 0, true, false},
    {RAG("[{\"text\":7}]"), "Anything at all.", 0, 0, 0, true, false},
    {RAG("[{\"text\":\"a\",\"score\":\"high\"}]"), "Anything at all.", 0, 0, 0, true, false},
    {"{\"metadata\":{}}", "Anything at all.", 0, 0, 0, false, false},
    {"{}", "Anything at all.", 0, 0, 0, false, false},
};

static void claims_are_found_where_their_words_are(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof groundings / sizeof *groundings; i++) {
        const struct grounding *w = &groundings[i];
        json_t *body = parse(w->body);
        struct grounded g;
        struct err e = {0};
        assert_int_equal(grounded_measure(body, w->answer, strlen(w->answer), &(struct grounded_policy){0.6, 3}, &g, &e), 0);
        if (g.claims != w->claims || g.supported != w->supported || g.passages != w->passages || g.sent != w->sent || g.readable != w->readable)
            fail_msg("%s: %d of %d claims, %d passages, %d %d %s", w->answer, g.supported, g.claims, g.passages, g.sent, g.readable, g.why);
        json_decref(body);
    }
}

static void what_is_copied_has_all_its_ngrams_and_scores_are_told(void **state)
{
    (void)state;
    json_t *body = parse(RAG("[" MILL "," BRIDGE "]"));
    struct grounded g;
    struct err e = {0};
    const char *copied = "The old mill was built in 1832", *mixed = "The old mill crosses the river since Tuesday";
    assert_int_equal(grounded_measure(body, copied, strlen(copied), &(struct grounded_policy){0.6, 3}, &g, &e), 0);
    assert_int_equal(g.ngrams, 5);
    assert_int_equal(g.found, 5);
    assert_true(fabs(g.score_mean - 0.7) < 1e-9 && fabs(g.score_least - 0.5) < 1e-9);
    assert_int_equal(grounded_measure(body, mixed, strlen(mixed), &(struct grounded_policy){0.6, 3}, &g, &e), 0);
    assert_int_equal(g.ngrams, 6);
    assert_int_equal(g.found, 3); /* the old mill; crosses the river; the river since */
    json_decref(body);
}

/* Sums of squares of what a client sends stay numbers. */
static void a_passages_score_is_a_number_that_can_be_summed(void **state)
{
    (void)state;
    static const char *const scores[] = {"1e300", "-1e300", "1000001"};
    for (size_t i = 0; i < sizeof scores / sizeof *scores; i++) {
        char text[128];
        snprintf(text, sizeof text, "{\"metadata\":{\"rag\":{\"passages\":[{\"text\":\"a mill\",\"score\":%s}]}}}", scores[i]);
        json_t *body = parse(text);
        struct grounded g;
        struct err e = {0};
        assert_int_equal(grounded_measure(body, "a mill", 6, &(struct grounded_policy){0.6, 3}, &g, &e), 0);
        assert_true(g.sent && !g.readable && g.scores == 0);
        assert_non_null(strstr(g.why, "score"));
        json_decref(body);
    }
}

/* --- judges --- */

static void a_judges_score_counts_only_as_it_was_asked_for(void **state)
{
    static const struct {
        const char *said;
        int64_t is;
    } of[] = {
        {"{\\\"score\\\": 4}", 4}, {" {\\\"score\\\":1} ", 1}, {"{\\\"score\\\":6}", -1}, {"{\\\"score\\\":0}", -1}, {"{\\\"score\\\":4.0}", -1},
        {"{\\\"score\\\":\\\"4\\\"}", -1}, {"{\\\"score\\\":4,\\\"why\\\":1}", -1}, {"4", -1}, {"Score: 4", -1}, {"", -1},
    };
    char body[512], why[RULE_NOTE_LEN];
    (void)state;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        snprintf(body, sizeof body, "{\"choices\":[{\"message\":{\"content\":\"%s\"}}]}", of[i].said);
        if (judge_score(body, strlen(body), 1, 5, why) != of[i].is) fail_msg("%s", body);
    }
    assert_int_equal(judge_score("{\"error\":{}}", 12, 1, 5, why), -1);
}

static void a_judge_is_asked_in_texts_that_stay_texts(void **state)
{
    (void)state;
    json_t *judge = parse("{\"model\":\"m\",\"rubric\":\"Be strict.\",\"sample\":1,\"scale\":{\"min\":0,\"max\":2},\"min\":0.5}");
    json_t *asked = parse("{\"messages\":[{\"role\":\"user\",\"content\":\"first\"},{\"role\":\"user\",\"content\":\"Q \\\" }\"}]}");
    char *body = judge_body(judge, asked, "A\"}", 3);
    assert_non_null(body);
    json_t *o = parse(body);
    const json_t *messages = json_object_get(o, "messages");
    json_t *shown = parse(json_string_value(json_object_get(json_array_get(messages, 1), "content")));
    assert_string_equal(json_string_value(json_object_get(shown, "question")), "Q \" }");
    assert_string_equal(json_string_value(json_object_get(shown, "answer")), "A\"}");
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(messages, 0), "content")), "Be strict."));
    json_decref(shown);
    json_decref(o);
    json_decref(judge);
    json_decref(asked);
    free(body);
}

/* Many patterns that backtrack, each within its own limit, over one text: the schema as a whole gives up early. Before that was so this took minutes. */
static void a_schema_of_many_slow_patterns_is_given_up_soon(void **state)
{
    (void)state;
    json_t *list = json_array(), *refs = json_array();
    for (int i = 0; i < 100; i++) {
        json_array_append_new(list, json_pack("{ss}", "pattern", "(a|aa)+$"));
        json_array_append_new(refs, json_pack("{ss}", "$ref", "#/$defs/x"));
    }
    json_t *rule = json_pack("{ss ss s{s{s{so}} so}}", "name", "slow", "kind", "json_schema", "schema", "$defs", "x", "anyOf", list, "anyOf", refs), *stored = NULL;
    struct err e = {0};
    struct verdict v;
    assert_int_equal(rule_read(rule, &stored, &e), 0);
    struct rule_text t = {"\"aaaaaaaaaaaaaaaaaaaaaaaaaaab\"", 30, 1};
    rule_apply(stored, &t, &v);
    assert_false(v.scored);
    json_decref(rule);
    json_decref(stored);
}

/* Three bytes a character: the bound falls into one wherever it begins. */
static void a_judge_is_asked_about_long_texts_of_any_script(void **state)
{
    (void)state;
    enum { CHARACTERS = JUDGE_ANSWER_MAX };
    json_t *judge = parse("{\"model\":\"m\",\"rubric\":\"Be strict.\",\"sample\":1,\"scale\":{\"min\":0,\"max\":2},\"min\":0.5}");
    char *text = calloc(3 * CHARACTERS + 3, 1);
    assert_non_null(text);
    for (int i = 0; i < CHARACTERS; i++) memcpy(text + 2 + 3 * i, "\xe6\x97\xa5", 3);
    memcpy(text, "ab", 2);
    for (int skip = 0; skip < 3; skip++) {
        json_t *asked = json_pack("{s[{ss ss}]}", "messages", "role", "user", "content", text + skip);
        assert_non_null(asked);
        char *body = judge_body(judge, asked, text + skip, strlen(text + skip));
        if (!body) fail_msg("%d bytes before the first character: the judge is asked nothing", 2 - skip);
        free(body);
        json_decref(asked);
    }
    json_decref(judge);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_policy_is_stored_whole_or_refused_by_its_field),
        cmocka_unit_test(each_kind_of_rule_says_what_it_should),
        cmocka_unit_test(a_sentence_tells_its_language),
        cmocka_unit_test(a_schema_allows_what_it_says),
        cmocka_unit_test(claims_are_found_where_their_words_are),
        cmocka_unit_test(what_is_copied_has_all_its_ngrams_and_scores_are_told),
        cmocka_unit_test(a_passages_score_is_a_number_that_can_be_summed),
        cmocka_unit_test(a_judges_score_counts_only_as_it_was_asked_for),
        cmocka_unit_test(a_judge_is_asked_in_texts_that_stay_texts),
        cmocka_unit_test(a_schema_of_many_slow_patterns_is_given_up_soon),
        cmocka_unit_test(a_judge_is_asked_about_long_texts_of_any_script),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
