/* The kinds vllm and openai: what goes out, what comes back, what is counted, what a refusal means. The answers are vLLM's
 * own (0.32, docs/VLLM.md). */
#include "base/json.h"
#include "gateway/pool/engine_words.h"
#include <cmocka.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

static struct engine_link here(void)
{
    return (struct engine_link){
        .name = "v", .base_url = "http://x", .base = "smol", .model = "org/SmolLM", .store = "/store"};
}

/* The body that is sent, or the error's param (or message, where it names none) after "! ". */
static char *sent(const struct kind *k, struct kind_ask *a, const char *body)
{
    static char text[4096];
    struct engine_link l = here();
    struct err e = {0};
    struct buf out;
    a->body = body;
    a->len = strlen(body);
    buf_init(&out, 1 << 16);
    if (k->write_body(&l, a, &out, &e))
        snprintf(text, sizeof text, "! %s", e.param[0] ? e.param : e.msg);
    else
        snprintf(text, sizeof text, "%s", out.data);
    buf_close(&out);
    return text;
}

/* --- the walk --- */

static const struct {
    const char *in;
    int members; /* -1: it says that this is no object */
} walks[] = {
    {"{}", 0},
    {" { } ", 0},
    {"{\"a\":1}", 1},
    {"{\"a\" : \"}\" , \"b\":[1,{\"c\":\"]\"}],\"d\":{\"e\":{}}}", 3},
    {"{\"a\":\"\\\"\",\"b\":null}", 2},
    {"", -1},
    {"[1]", -1},
    {"{\"a\"}", -1},
    {"{\"a\":}", -1},
    {"{\"a\":1", -1},
    {"{\"a\":[1}", -1},
    {"{\"a\":\"x", -1},
    {"{a:1}", -1},
    {"{\"a\":1 \"b\":2}", -1},
    {"{\"a\":1,", -1},
    {"{\"a\":\"\\", -1},
};

static void a_walk_finds_the_members_or_says_that_there_is_no_object(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof walks / sizeof *walks; i++) {
        size_t n = strlen(walks[i].in);
        char *exact = malloc(n ? n : 1); /* so that ASan sees a read beyond it */
        memcpy(exact, walks[i].in, n);
        struct json_walk w = json_walk((struct json_span){exact, n});
        struct json_member m;
        int count = 0, rc;
        while ((rc = json_walk_member(&w, &m)) > 0) count++;
        if (walks[i].members < 0)
            assert_int_equal(rc, -1);
        else
            assert_int_equal(count, walks[i].members);
        free(exact);
    }
}

/* --- bodies --- */

static const struct {
    const char *what;
    const struct kind *kind;
    bool stream;
    const char *digest, *in, *out;
} bodies[] = {
    {"the base by the engine's name", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"n\":1,\"cache_salt\":\"s\"}",
     "{\"model\":\"org/SmolLM\",\"n\":1,\"cache_salt\":\"s\"}"},
    {"an adapter by its digest", &kind_vllm, false, DIGEST, "{\"model\":\"" DIGEST "\",\"x\":{\"model\":1}}",
     "{\"model\":\"" DIGEST "\",\"x\":{\"model\":1}}"},
    {"usage of each chunk", &kind_vllm, true, NULL, "{\"model\":\"smol\",\"stream\":true}",
     "{\"model\":\"org/"
     "SmolLM\",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}"},
    {"the client's options once", &kind_vllm, true, NULL,
     "{\"stream_options\":{\"include_usage\":false},\"model\":\"smol\"}",
     "{\"model\":\"org/SmolLM\",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}"},
    {"options without a stream are the engine's to refuse", &kind_vllm, false, NULL,
     "{\"model\":\"smol\",\"stream_options\":{}}", "{\"model\":\"org/SmolLM\",\"stream_options\":{}}"},
    {"one whole adapter of `adapters`", &kind_vllm, false, NULL,
     "{\"adapters\":[{\"name\":\"" DIGEST "\",\"weight\":1.0}],\"model\":\"smol\"}", "{\"model\":\"" DIGEST "\"}"},
    {"no adapters are none", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"adapters\":[]}",
     "{\"model\":\"org/SmolLM\"}"},
    {"a part of an adapter", &kind_vllm, false, NULL,
     "{\"model\":\"smol\",\"adapters\":[{\"name\":\"" DIGEST "\",\"weight\":0.5}]}", "! adapters"},
    {"two adapters", &kind_vllm, false, NULL,
     "{\"model\":\"smol\",\"adapters\":[{\"name\":\"" DIGEST "\"},{\"name\":\"" DIGEST "\"}]}", "! adapters"},
    {"an adapter on an adapter", &kind_vllm, false, DIGEST,
     "{\"model\":\"" DIGEST "\",\"adapters\":[{\"name\":\"" DIGEST "\"}]}", "! adapters"},
    {"a guided expression in vLLM's new words", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"guided_regex\":\"a+\"}",
     "{\"model\":\"org/SmolLM\",\"structured_outputs\":{\"regex\":\"a+\"}}"},
    {"two shapes", &kind_vllm, false, NULL,
     "{\"model\":\"smol\",\"guided_json\":{},\"structured_outputs\":{\"regex\":\"a\"}}", "! guided_json"},
    {"best_of as many as n", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"n\":2,\"best_of\":2}",
     "{\"model\":\"org/SmolLM\",\"n\":2}"},
    {"best_of more than n", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"best_of\":2}", "! best_of"},
    {"typical_p that changes nothing", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"typical_p\":1.0}",
     "{\"model\":\"org/SmolLM\"}"},
    {"typical_p", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"typical_p\":0.5}", "! typical_p"},
    {"a prompt policy", &kind_vllm, false, NULL, "{\"model\":\"smol\",\"weft_prompt_policy\":{}}", "! model"},
    {"a prompt policy, and an upstream", &kind_openai, false, NULL, "{\"model\":\"smol\",\"weft_prompt_policy\":{}}", "! model"},
    {"no object", &kind_vllm, false, NULL, "[]", "! the request's body is not a JSON object"},
    {"an upstream gets no salt and no options of vLLM's", &kind_openai, true, NULL,
     "{\"model\":\"smol\",\"cache_salt\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"cache_salt\"}]}",
     "{\"model\":\"org/"
     "SmolLM\",\"messages\":[{\"role\":\"user\",\"content\":\"cache_salt\"}],\"stream_options\":{\"include_usage\":"
     "true}}"},
    {"an upstream serves no adapters", &kind_openai, false, NULL,
     "{\"model\":\"smol\",\"adapters\":[{\"name\":\"" DIGEST "\"}]}", "! adapters"},
    {"an upstream does not count each chunk", &kind_openai, true, NULL,
     "{\"model\":\"smol\",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}",
     "! stream_options"},
};

static void a_body_says_what_its_engine_understands_or_is_refused_by_name(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        struct kind_ask a = {.model = "mine", .digest = bodies[i].digest, .stream = bodies[i].stream};
        const char *got = sent(bodies[i].kind, &a, bodies[i].in);
        if (strcmp(got, bodies[i].out) != 0) fail_msg("%s: %s", bodies[i].what, got);
    }
}

/* --- streams --- */

/* All events of a stream; lines that go on, each ended by a newline. */
static char *streamed(struct kind_ask *a, const char *const *events, struct relay_counts *c)
{
    static char text[8192];
    text[0] = 0;
    *c = (struct relay_counts){0};
    for (; *events; events++) {
        struct buf out;
        size_t n = strlen(*events), at = strlen(text);
        char *exact = malloc(n);
        memcpy(exact, *events, n);
        buf_init(&out, 1 << 16);
        assert_int_equal(words_event(a, exact, n, c, &out), 0);
        if (out.len) snprintf(text + at, sizeof text - at, "%s\n", out.data);
        buf_close(&out);
        free(exact);
    }
    return text;
}

#define CHUNK(index, text, finish, usage)                                                                              \
    "{\"id\":\"c\",\"model\":\"" DIGEST "\",\"choices\":[{\"index\":" index ",\"delta\":{\"content\":\"" text          \
    "\"},\"finish_reason\":" finish "}]" usage "}"
#define USAGE(p, c) ",\"usage\":{\"prompt_tokens\":" p ",\"total_tokens\":0,\"completion_tokens\":" c "}"
#define MINE(index, text, finish, usage)                                                                               \
    "{\"id\":\"c\",\"model\":\"mine\",\"choices\":[{\"index\":" index ",\"delta\":{\"content\":\"" text                \
    "\"},\"finish_reason\":" finish "}]" usage "}\n"
#define LAST(p, c) "{\"id\":\"c\",\"model\":\"" DIGEST "\",\"choices\":[]" USAGE(p, c) "}"

static void a_stream_is_counted_and_the_usage_that_nobody_asked_for_is_taken_out(void **state)
{
    (void)state;
    const char *const events[] = {CHUNK("0", "", "null", USAGE("33", "0")), CHUNK("0", "He", "null", USAGE("33", "1")),
                                  CHUNK("0", "y", "\"length\"", USAGE("33", "3")), LAST("33", "3"), NULL};
    struct kind_ask a = {.model = "mine", .digest = DIGEST, .stream = true};
    struct relay_counts c;
    sent(&kind_vllm, &a, "{\"model\":\"" DIGEST "\"}");
    assert_string_equal(streamed(&a, events, &c),
                        MINE("0", "", "null", "") MINE("0", "He", "null", "") MINE("0", "y", "\"length\"", ""));
    assert_int_equal(c.prompt, 33);
    assert_int_equal(c.output, 3);
    assert_true(c.known);
    assert_string_equal(c.finish, "length");
}

static void a_client_that_asked_gets_the_usage_of_the_end_and_of_each_chunk_only_if_it_asked_for_that(void **state)
{
    (void)state;
    const char *const events[] = {CHUNK("0", "He", "null", USAGE("5", "1")), LAST("5", "1"), NULL};
    struct kind_ask a = {.model = "mine", .digest = DIGEST, .stream = true}, b = a;
    struct relay_counts c;
    sent(&kind_vllm, &a, "{\"model\":\"x\",\"stream_options\":{\"include_usage\":true}}");
    assert_string_equal(
        streamed(&a, events, &c),
        MINE("0", "He", "null", "") "{\"id\":\"c\",\"model\":\"mine\",\"choices\":[]" USAGE("5", "1") "}\n");
    sent(&kind_vllm, &b,
         "{\"model\":\"x\",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}}");
    assert_string_equal(streamed(&b, events, &c),
                        MINE("0", "He", "null",
                             USAGE("5", "1")) "{\"id\":\"c\",\"model\":\"mine\",\"choices\":[]" USAGE("5", "1") "}\n");
}

static void a_stream_that_is_cut_has_the_tokens_of_all_its_choices_and_each_prompt_once(void **state)
{
    (void)state;
    /* two prompts of 10 and 20 tokens, two choices each: 0 and 1, 2 and 3 */
    const char *const events[] = {CHUNK("0", "a", "null", USAGE("10", "2")), CHUNK("1", "a", "null", USAGE("10", "1")),
                                  CHUNK("3", "b", "null", USAGE("20", "4")), CHUNK("2", "b", "null", USAGE("20", "1")),
                                  CHUNK("0", "c", "null", USAGE("10", "5")), NULL};
    struct kind_ask a = {.model = "mine", .digest = DIGEST, .stream = true};
    struct relay_counts c;
    sent(&kind_vllm, &a, "{\"model\":\"x\",\"n\":2}");
    streamed(&a, events, &c);
    assert_int_equal(c.prompt, 30);
    assert_int_equal(c.output, 5 + 1 + 1 + 4);
}

static void an_upstream_that_counts_at_the_end_only_is_estimated_until_then(void **state)
{
    (void)state;
    const char *const events[] = {CHUNK("0", "", "null", ",\"usage\":null"),
                                  CHUNK("0", "He", "null", ",\"usage\":null"),
                                  CHUNK("0", "y", "\"stop\"", ",\"usage\":null"), NULL};
    const char *const last[] = {LAST("7", "9"), NULL};
    struct kind_ask a = {.model = "mine", .stream = true};
    struct relay_counts c;
    sent(&kind_openai, &a, "{\"model\":\"smol\"}");
    assert_string_equal(streamed(&a, events, &c),
                        MINE("0", "", "null", "") MINE("0", "He", "null", "") MINE("0", "y", "\"stop\"", ""));
    assert_int_equal(c.output, 2);
    assert_true(c.estimated);
    assert_string_equal(streamed(&a, last, &c), "");
    assert_int_equal(c.output, 9);
    assert_int_equal(c.prompt, 7);
    assert_true(c.known && !c.estimated);
}

static void an_error_within_a_stream_is_said_in_our_words_with_the_clients_name(void **state)
{
    (void)state;
    const char *const events[] = {"{\"error\":{\"message\":\"Internal trouble with " DIGEST
                                  "\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}",
                                  NULL};
    struct kind_ask a = {.model = "mine", .digest = DIGEST, .stream = true};
    struct relay_counts c;
    sent(&kind_vllm, &a, "{\"model\":\"" DIGEST "\"}");
    assert_string_equal(streamed(&a, events, &c),
                        "{\"error\":{\"message\":\"Internal trouble with "
                        "mine\",\"type\":\"server_error\",\"param\":null,\"code\":\"engine_error\"}}\n");
}

static void what_is_no_object_passes_and_counts_nothing(void **state)
{
    (void)state;
    const char *const events[] = {"{\"model\":", "x", NULL};
    struct kind_ask a = {.model = "mine", .digest = DIGEST, .choices = 1};
    struct relay_counts c;
    assert_string_equal(streamed(&a, events, &c), "{\"model\":\nx\n");
    assert_false(c.known);
}

/* --- answers --- */

static void an_answer_keeps_its_bytes_but_for_the_model(void **state)
{
    (void)state;
    static const char body[] =
        "{\"id\":\"c\",\"model\":\"" DIGEST "\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"\\\"model\\\":"
        "\\\"x\\\"\"},\"logprob\":-1.328825831413269,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":33,\"total_tokens\":39,\"completion_tokens\":6,\"prompt_tokens_details\":{"
        "\"cached_tokens\":16}},\"metrics\":null}";
    static const char want[] =
        "{\"id\":\"c\",\"model\":\"mine\",\"choices\":[{\"index\":0,\"message\":{\"content\":\"\\\"model\\\":"
        "\\\"x\\\"\"},\"logprob\":-1.328825831413269,\"finish_reason\":\"stop\"}],"
        "\"usage\":{\"prompt_tokens\":33,\"total_tokens\":39,\"completion_tokens\":6,\"prompt_tokens_details\":{"
        "\"cached_tokens\":16}},\"metrics\":null}";
    struct kind_ask a = {.model = "mine", .digest = DIGEST, .choices = 1};
    struct relay_counts c = {0};
    struct buf out;
    buf_init(&out, 1 << 16);
    assert_int_equal(words_answer(&a, body, sizeof body - 1, &c, &out), 0);
    assert_string_equal(out.data, want);
    assert_int_equal(c.prompt, 33);
    assert_int_equal(c.output, 6);
    assert_int_equal(c.cached, 16);
    assert_string_equal(c.finish, "stop");
    buf_close(&out);
}

/* --- refusals --- */

#define ERROR(message, type, param, code)                                                                              \
    "{\"error\":{\"message\":\"" message "\",\"type\":\"" type "\",\"param\":" param ",\"code\":" code "}}"

static const struct {
    const char *what;
    const struct kind *kind;
    int status;
    const char *body;
    enum kind_verdict verdict;
    const char *code, *param, *message; /* NULL: any */
} refusals[] = {
    {"it forgot the adapter", &kind_vllm, 404,
     ERROR("The model `" DIGEST "` does not exist. Valid aliases: smol.", "NotFoundError", "\"model\"", "404"),
     KIND_NOT_LOADED, NULL, NULL, NULL},
    {"no such route", &kind_vllm, 404, "{\"detail\":\"Not Found\"}", KIND_FAILED, "engine_error", NULL, NULL},
    {"too long", &kind_vllm, 400,
     ERROR("This model's maximum context length is 2048 tokens. (parameter=input_tokens, value=2049)",
           "BadRequestError", "\"input_tokens\"", "400"),
     KIND_REFUSED, "context_length_exceeded", NULL, "This model's maximum context length is 2048 tokens."},
    {"too many", &kind_vllm, 400,
     ERROR("max_tokens=5000 cannot be greater than max_model_len=2048. (parameter=max_tokens, value=5000)",
           "BadRequestError", "\"max_tokens\"", "400"),
     KIND_REFUSED, "context_length_exceeded", NULL, NULL},
    {"a wrong value", &kind_vllm, 400,
     ERROR("temperature must be non-negative, got -1.0. (parameter=temperature, value=-1.0)", "BadRequestError",
           "\"temperature\"", "400"),
     KIND_REFUSED, "invalid_value", "temperature", "temperature must be non-negative, got -1.0."},
    {"a wrong type", &kind_vllm, 400, ERROR("1 validation error", "Bad Request", "\"body.messages\"", "400"),
     KIND_REFUSED, "invalid_value", "messages", NULL},
    {"the adapter's name", &kind_vllm, 400, ERROR("no tools for " DIGEST "!", "BadRequestError", "null", "400"),
     KIND_REFUSED, "invalid_value", NULL, "no tools for mine!"},
    {"full", &kind_vllm, 503, ERROR("queue", "ServiceUnavailable", "null", "503"), KIND_BUSY, "queue_full", NULL, NULL},
    {"its key", &kind_vllm, 401, "{\"error\":\"Unauthorized\"}", KIND_FAILED, "engine_error", NULL, NULL},
    {"not JSON", &kind_vllm, 500, "Internal Server Error", KIND_FAILED, "engine_error", NULL, NULL},
    {"our key is our matter", &kind_openai, 401,
     ERROR("Incorrect API key provided: sk-secret", "invalid_request_error", "null", "\"invalid_api_key\""),
     KIND_FAILED, "engine_error", NULL, "the upstream failed while it served the request"},
    {"our budget too", &kind_openai, 429,
     ERROR("You exceeded your quota", "insufficient_quota", "null", "\"insufficient_quota\""), KIND_FAILED,
     "engine_error", NULL, "the upstream failed while it served the request"},
    {"its rate", &kind_openai, 429,
     ERROR("Rate limit reached for org-x", "requests", "null", "\"rate_limit_exceeded\""), KIND_BUSY,
     "rate_limit_exceeded", NULL, "the upstream has too many requests; try again"},
    {"the model's name", &kind_openai, 400,
     ERROR("`org/SmolLM` has no tools", "invalid_request_error", "\"tools\"", "\"unsupported_parameter\""),
     KIND_REFUSED, "unsupported_parameter", "tools", "`mine` has no tools"},
    {"a code that we have not", &kind_openai, 400, ERROR("no", "invalid_request_error", "null", "\"some_new_code\""),
     KIND_REFUSED, "invalid_value", NULL, "no"},
    {"a model that it has not", &kind_openai, 404,
     ERROR("`org/SmolLM` does not exist", "x", "null", "\"model_not_found\""), KIND_FAILED, "engine_error", NULL, NULL},
};

static void check_error(const char *what, const char *body, const char *code, const char *param, const char *message)
{
    struct err e = {0};
    json_t *root = NULL;
    if (json_parse(body, strlen(body), &root, &e)) fail_msg("%s: %s in %s", what, e.msg, body);
    json_t *o = json_object_get(root, "error");
    if (strcmp(code, json_string_value(json_object_get(o, "code"))) != 0) fail_msg("%s: %s", what, body);
    const char *p = json_string_value(json_object_get(o, "param")),
               *m = json_string_value(json_object_get(o, "message"));
    if (strcmp(param ? param : "", p ? p : "") != 0) fail_msg("%s: %s", what, body);
    if (message && strcmp(message, m) != 0) fail_msg("%s: %s", what, body);
    json_decref(root);
}

static void a_refusal_means_what_it_says_and_is_said_in_our_words(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        bool vllm = refusals[i].kind == &kind_vllm;
        struct kind_ask a = {.model = "mine", .digest = vllm ? DIGEST : NULL};
        struct buf out;
        sent(refusals[i].kind, &a, vllm ? "{\"model\":\"" DIGEST "\"}" : "{\"model\":\"smol\"}");
        buf_init(&out, 1 << 16);
        int got = refusals[i].kind->verdict(&a, refusals[i].status, refusals[i].body, strlen(refusals[i].body), &out);
        if (got != (int)refusals[i].verdict) fail_msg("%s: %d", refusals[i].what, got);
        if (refusals[i].code)
            check_error(refusals[i].what, out.data, refusals[i].code, refusals[i].param, refusals[i].message);
        buf_close(&out);
    }
}

/* --- loading --- */

static const struct {
    int status;
    const char *body;
    enum err_code code;
} loads[] = {
    {400,
     ERROR("The lora adapter 'x' has already been loaded. If you want to load the adapter in place, set 'load_inplace' "
           "to True.",
           "InvalidUserInput", "null", "400"),
     ERR_NONE},
    {404, ERROR("Loading lora x failed: No adapter found for /store/b1/x", "NotFoundError", "null", "404"),
     ERR_INTERNAL},
    {404, "{\"detail\":\"Not Found\"}", ERR_INTERNAL},
    {500,
     ERROR("Call to add_lora method failed: Worker failed with error 'LoRA rank 64 is greater than max_lora_rank 16.'",
           "InternalServerError", "null", "500"),
     ERR_ADAPTER_INVALID},
    {503, "", ERR_UNAVAILABLE},
    {401, "{\"error\":\"Unauthorized\"}", ERR_INTERNAL},
    {418, "", ERR_INTERNAL},
};

static void a_load_that_is_refused_says_whose_fault_it_is_and_one_that_was_done_before_is_done(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof loads / sizeof *loads; i++) {
        struct err e = {0};
        kind_vllm.load_refused(loads[i].status, loads[i].body, strlen(loads[i].body), &e);
        if (e.code != loads[i].code) fail_msg("%d %s: %s", loads[i].status, loads[i].body, e.msg);
    }
}

static void an_adapter_is_loaded_under_its_digest_from_the_store_as_the_engine_sees_it(void **state)
{
    (void)state;
    struct engine_link l = here();
    json_t *settings = json_pack("{s:s}", "store", "/mnt/blobs");
    struct kind_call call = {0};
    struct err e = {0};
    for (int i = 0; i < 2; i++) {
        buf_init(&call.body, 4096);
        assert_int_equal(kind_vllm.load(&l, DIGEST, &call, &e), 0);
        assert_string_equal(call.path, "/v1/load_lora_adapter");
        assert_string_equal(call.body.data,
                            i ? "{\"lora_name\":\"" DIGEST "\",\"lora_path\":\"/mnt/blobs/b1/" DIGEST "\"}"
                              : "{\"lora_name\":\"" DIGEST "\",\"lora_path\":\"/store/b1/" DIGEST "\"}");
        buf_close(&call.body);
        l.settings = settings;
    }
    json_decref(settings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_walk_finds_the_members_or_says_that_there_is_no_object),
        cmocka_unit_test(a_body_says_what_its_engine_understands_or_is_refused_by_name),
        cmocka_unit_test(a_stream_is_counted_and_the_usage_that_nobody_asked_for_is_taken_out),
        cmocka_unit_test(a_client_that_asked_gets_the_usage_of_the_end_and_of_each_chunk_only_if_it_asked_for_that),
        cmocka_unit_test(a_stream_that_is_cut_has_the_tokens_of_all_its_choices_and_each_prompt_once),
        cmocka_unit_test(an_upstream_that_counts_at_the_end_only_is_estimated_until_then),
        cmocka_unit_test(an_error_within_a_stream_is_said_in_our_words_with_the_clients_name),
        cmocka_unit_test(what_is_no_object_passes_and_counts_nothing),
        cmocka_unit_test(an_answer_keeps_its_bytes_but_for_the_model),
        cmocka_unit_test(a_refusal_means_what_it_says_and_is_said_in_our_words),
        cmocka_unit_test(a_load_that_is_refused_says_whose_fault_it_is_and_one_that_was_done_before_is_done),
        cmocka_unit_test(an_adapter_is_loaded_under_its_digest_from_the_store_as_the_engine_sees_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
