/* Requests for text as the engine reads them: what is taken keeps to every bound, what is refused has a reason, and reading is the same twice. Input: a byte
 * for the route, the body. */
#include "engine/api_params.h"
#include "tests/fuzz/fuzz.h"
#include <math.h>

#define VOCAB 100

static void check_numbers(const struct ask *a)
{
    const struct sample_params *s = &a->p.sample;
    FUZZ_NEED(s->temperature >= 0 && s->temperature <= 2 && s->top_p >= 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1);
    FUZZ_NEED(s->typical_p >= 0 && s->typical_p <= 1 && s->repetition_penalty > 0 && s->repetition_penalty <= 100);
    FUZZ_NEED(s->logprobs >= -1 && s->logprobs <= TOP_LOGPROBS_MAX && a->p.max_tokens >= 0 && a->p.min_tokens >= 0);
    FUZZ_NEED(a->n >= 1 && a->nprompts >= 1 && a->nprompts <= ASK_PROMPTS_MAX && a->n * a->nprompts <= ASK_CHOICES_MAX);
    FUZZ_NEED(a->p.nstop >= 0 && a->p.nstop <= GEN_STOPS && a->p.nstop_id >= 0 && a->p.nstop_id <= GEN_STOP_IDS);
    FUZZ_NEED(a->p.nbias >= 0 && a->p.nbias <= ASK_BIASES_MAX && a->nadapters >= 0 && a->nadapters <= GEN_ADAPTERS);
}

static void check_ask(const struct ask *a, enum ask_kind kind)
{
    FUZZ_NEED(a->kind == kind && a->model && strlen(a->model) < ASK_MODEL_LEN && (!a->cache_salt || strlen(a->cache_salt) < ASK_SALT_LEN));
    check_numbers(a);
    for (int i = 0; i < a->p.nstop; i++) FUZZ_NEED(a->p.stop[i][0]);
    for (int i = 0; i < a->p.nstop_id; i++) FUZZ_NEED(a->p.stop_id[i] >= 0 && a->p.stop_id[i] < VOCAB);
    for (int i = 0; i < a->p.nbias; i++) FUZZ_NEED(a->p.bias[i].id >= 0 && a->p.bias[i].id < VOCAB && isfinite(a->p.bias[i].bias));
    for (int i = 0; i < a->nadapters; i++) FUZZ_NEED(a->adapter[i].name[0] && isfinite(a->adapter[i].weight));
    if (kind == ASK_CHAT) FUZZ_NEED(json_is_array(a->messages) && json_array_size(a->messages) <= ASK_MESSAGES_MAX);
    for (int i = 0; kind == ASK_COMPLETION && i < a->nprompts; i++) FUZZ_NEED(json_is_string(a->prompt[i]) || json_is_array(a->prompt[i]));
    if (a->format.kind != FORMAT_ANY && a->format.kind != FORMAT_JSON_OBJECT) FUZZ_NEED(a->format.field && a->format.value);
    if (a->tools) FUZZ_NEED(json_array_size(a->tools) >= 1 && json_array_size(a->tools) <= TOOLS_MAX);
    const struct ask_policy *p = &a->policy;
    FUZZ_NEED(p->on || (!p->max_tokens && p->ratio == 0 && !p->text));
    FUZZ_NEED(!p->max_tokens || (p->max_tokens >= 16 && p->head_tokens >= 0 && p->head_tokens < p->max_tokens && p->head_turns >= 0 && p->last_turns >= 1));
    FUZZ_NEED(p->ratio == 0 || (p->ratio > 0 && p->ratio < 1 && p->min_tokens >= 0 && kind == ASK_CHAT));
    FUZZ_NEED(a->tool_choice != TOOL_CHOICE_NAMED || (a->tools && a->tool_named));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    enum ask_kind kind = fuzz_byte(&data, &n) % 2 ? ASK_CHAT : ASK_COMPLETION;
    char *body = fuzz_text(data, n);
    struct ask a = {0}, again = {0};
    struct err e = {0}, e2 = {0};
    if (ask_parse(body, n, kind, VOCAB, &a, &e)) {
        FUZZ_NEED(e.code != ERR_NONE && err_info(e.code)->status >= 400 && err_info(e.code)->status < 500 && e.msg[0]);
        FUZZ_NEED(ask_parse(body, n, kind, VOCAB, &again, &e2) && e2.code == e.code && !strcmp(e.msg, e2.msg) && !strcmp(e.param, e2.param));
    } else {
        check_ask(&a, kind);
        ask_close(&a);
    }
    free(body);
    return 0;
}
