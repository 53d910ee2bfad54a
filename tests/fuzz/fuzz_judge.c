/* A judge: what it is asked, which is made of a stranger's request and a model's answer, and what it says. The question is always one that can be asked: JSON, with
 * the beginning of both, each whole or cut between two characters near its bound, in one string of the second message. A score is on the scale or is none, with
 * why; said again it is the same, and on a scale without it it is none. Input: bytes for what (0: an answer of the judge's, 1: the text in it, 2: a question) and the
 * scale; then the judge's answer, or how often the text is said, the request, a NUL, the text. */
#include "base/json.h"
#include "gateway/quality/judge.h"
#include "tests/fuzz/fuzz.h"

#define TEXT_MOST 40000 /* bytes: beyond the bounds of both */

/* --- what it says --- */

static int64_t score_of(const json_t *body, int64_t low, int64_t high)
{
    char why[RULE_NOTE_LEN] = "", *s = json_dumps(body, JSON_COMPACT);
    FUZZ_NEED(s);
    int64_t score = judge_score(s, strlen(s), low, high, why);
    FUZZ_NEED(score == -1 ? why[0] : score >= low && score <= high);
    free(s);
    return score;
}

static json_t *said(const char *text, size_t n)
{
    json_t *content = json_stringn(text, n);
    return content ? json_pack("{s[{s{so}}]}", "choices", "message", "content", content) : NULL;
}

static void check_score(int64_t score, int64_t low, int64_t high)
{
    char text[64];
    if (score == -1) return;
    int n = snprintf(text, sizeof text, " {\"score\":\n%lld}", (long long)score);
    json_t *again = said(text, (size_t)n);
    FUZZ_NEED(again && score_of(again, low, high) == score);
    FUZZ_NEED(score_of(again, score + 1, score + 2) == -1 && (!score || score_of(again, 0, score - 1) == -1));
    json_decref(again);
}

static void check_answer(const char *s, size_t n, bool text, int64_t low, int64_t high)
{
    char why[RULE_NOTE_LEN] = "";
    json_t *body = text ? said(s, n) : NULL;
    if (text && !body) return;
    int64_t score = text ? score_of(body, low, high) : judge_score(s, n, low, high, why);
    FUZZ_NEED(text || (score == -1 ? why[0] != 0 : score >= low && score <= high));
    check_score(score, low, high);
    json_decref(body);
}

/* --- what it is asked --- */

static void need_beginning(const json_t *shown, const char *s, size_t n, size_t most)
{
    FUZZ_NEED(json_is_string(shown) && json_string_length(shown) <= n && memcmp(json_string_value(shown), s, json_string_length(shown)) == 0);
    FUZZ_NEED(n <= most ? json_string_length(shown) == n : json_string_length(shown) <= most && json_string_length(shown) > most - 4);
}

static const json_t *message(const json_t *body, size_t i)
{
    return json_object_get(json_array_get(json_object_get(body, "messages"), i), "content");
}

static void check_question(const json_t *asked, const char *question, const char *s, size_t n, int64_t low, int64_t high)
{
    json_t *judge = json_pack("{ss ss s{sI sI}}", "model", "m", "rubric", "Is it right?", "scale", "min", (json_int_t)low, "max", (json_int_t)high), *body = NULL, *shown = NULL;
    char *text = judge_body(judge, asked, s, n);
    FUZZ_NEED(text && json_parse(text, strlen(text), &body, NULL) == 0);
    FUZZ_NEED(json_array_size(json_object_get(body, "messages")) == 2 && json_is_string(message(body, 0)) && json_is_string(message(body, 1)));
    FUZZ_NEED(json_equal(json_object_get(body, "model"), json_object_get(judge, "model")));
    FUZZ_NEED(json_parse(json_string_value(message(body, 1)), json_string_length(message(body, 1)), &shown, NULL) == 0 && json_object_size(shown) == 2);
    need_beginning(json_object_get(shown, "answer"), s, n, JUDGE_ANSWER_MAX);
    FUZZ_NEED(json_is_string(json_object_get(shown, "question")));
    if (question) need_beginning(json_object_get(shown, "question"), question, strlen(question), JUDGE_QUESTION_MAX);
    json_decref(shown);
    json_decref(body);
    json_decref(judge);
    free(text);
}

/* s, said `times`, as a text. free() */
static char *repeated(const char *s, size_t n, unsigned times, size_t *len)
{
    if (n * (times + 1) > TEXT_MOST) times = 0;
    *len = n * (times + 1);
    char *out = malloc(*len + 1);
    FUZZ_NEED(out);
    for (unsigned i = 0; i <= times; i++) memcpy(out + i * n, s, n);
    out[*len] = 0;
    return out;
}

static void check_asked(const uint8_t *data, size_t n, int64_t low, int64_t high)
{
    unsigned times = fuzz_byte(&data, &n) * 64;
    size_t len;
    char *request = fuzz_until(&data, &n, 0), *text = repeated((const char *)data, n, times, &len);
    json_t *asked = NULL, *is = json_stringn(text, len), *own;
    if (is && !memchr(text, 0, len)) { /* an answer is UTF-8 */
        if (json_parse(request, strlen(request), &asked, NULL) == 0) check_question(asked, NULL, text, len, low, high);
        own = json_pack("{s[{ss sO}{ss ss}]}", "messages", "role", "user", "content", is, "role", "assistant", "content", "x");
        check_question(own, text, text, len, low, high);
        json_decref(own);
        own = json_pack("{sO}", "prompt", is);
        check_question(own, text, text, len, low, high);
        json_decref(own);
        own = json_pack("{s[{ss s[{ss sO}]}]}", "messages", "role", "user", "content", "type", "text", "text", is);
        check_question(own, NULL, text, len, low, high);
        json_decref(own);
    }
    json_decref(is);
    json_decref(asked);
    free(text);
    free(request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned what = fuzz_byte(&data, &n) % 3, scale = fuzz_byte(&data, &n);
    int64_t low = scale % 5, high = low + 1 + scale / 5;
    char *text = fuzz_text(data, n);
    if (what == 2) check_asked(data, n, low, high);
    else check_answer(text, n, what == 1, low, high);
    free(text);
    return 0;
}
