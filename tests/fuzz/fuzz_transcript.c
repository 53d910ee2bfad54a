/* Answers as they went to clients, read again by who looks at them afterwards. Whatever the bytes are, what is read of them keeps to its bounds and is UTF-8; a
 * stream cut at a line gives two halves that make up the whole, cut anywhere what had come until then; and what was read, said as one object and as a stream in
 * pieces beside another choice, is read as the same. Input: a byte (1: stream; 2: ASCII alone; 4: completions; 8: CR before LF), a byte for where to cut, the answer. */
#include "base/json.h"
#include "gateway/quality/transcript.h"
#include "tests/fuzz/fuzz.h"

enum { STREAM = 1, ASCII = 2, TEXT = 4, CRLF = 8 };

static void need_utf8(const char *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        bool valid;
        i += buf_utf8(s + i, n - i, &valid);
        FUZZ_NEED(valid);
    }
}

static struct answer read_all(const char *s, size_t n, bool stream)
{
    struct answer a;
    struct err e = {0};
    char *bare = malloc(n ? n : 1); /* without a NUL behind it */
    FUZZ_NEED(bare);
    if (n) memcpy(bare, s, n);
    FUZZ_NEED(answer_read(&a, bare, n, stream, &e) == 0 && e.code == ERR_NONE);
    free(bare);
    return a;
}

/* --- bounds --- */

static void check_call(const json_t *call)
{
    const json_t *function = json_object_get(call, "function"), *v;
    const char *name;
    FUZZ_NEED(json_is_string(json_object_get(call, "type")) &&
              strcmp(json_string_value(json_object_get(call, "type")), "function") == 0);
    FUZZ_NEED(json_is_object(function) && json_object_size(call) == 2u + (json_object_get(call, "id") != NULL));
    json_object_foreach((json_t *)function, name, v)
    {
        FUZZ_NEED(json_is_string(v) && (strcmp(name, "name") == 0 || strcmp(name, "arguments") == 0));
        need_utf8(json_string_value(v), json_string_length(v));
    }
}

static void check_bounds(const struct answer *a, size_t n, bool stream)
{
    FUZZ_NEED(a->text.len <= n && !a->text.failed && strlen(a->text.data) == a->text.len &&
              memchr(a->finish, 0, sizeof a->finish));
    need_utf8(a->text.data, a->text.len);
    need_utf8(a->finish, strlen(a->finish));
    FUZZ_NEED(a->events >= 0 && (size_t)a->events <= (stream ? n / 8 : 1)); /* "data:{}\n" */
    FUZZ_NEED(!a->tool_calls ||
              (json_array_size(a->tool_calls) >= 1 && json_array_size(a->tool_calls) <= TRANSCRIPT_TOOLS_MAX));
    FUZZ_NEED((!a->logprobs || json_is_array(a->logprobs)) && json_array_size(a->logprobs) <= n);
    for (size_t i = 0; i < json_array_size(a->tool_calls); i++) check_call(json_array_get(a->tool_calls, i));
}

/* --- cuts --- */

static void check_list(const json_t *all, const json_t *part, size_t from)
{
    FUZZ_NEED(from + json_array_size(part) <= json_array_size(all));
    for (size_t i = 0; i < json_array_size(part); i++)
        FUZZ_NEED(json_equal(json_array_get(all, from + i), json_array_get(part, i)));
}

static void check_cut(const struct answer *all, const char *s, size_t n, size_t at)
{
    struct answer first = read_all(s, at, true);
    FUZZ_NEED(first.events <= all->events && first.text.len <= all->text.len &&
              memcmp(first.text.data, all->text.data, first.text.len) == 0);
    FUZZ_NEED(json_array_size(first.tool_calls) <= json_array_size(all->tool_calls));
    check_list(all->logprobs, first.logprobs, 0);
    while (at && s[at - 1] != '\n') at--; /* what has no end was not read */
    struct answer rest = read_all(s + at, n - at, true);
    FUZZ_NEED(first.events + rest.events == all->events && first.text.len + rest.text.len == all->text.len);
    FUZZ_NEED(memcmp(all->text.data + first.text.len, rest.text.data, rest.text.len) == 0);
    FUZZ_NEED(strcmp(all->finish, *rest.finish ? rest.finish : first.finish) == 0 || !*rest.finish);
    check_list(all->logprobs, rest.logprobs, json_array_size(first.logprobs));
    answer_close(&first);
    answer_close(&rest);
}

/* --- said again --- */

static json_t *text_of(const char *s, size_t n)
{
    json_t *v = json_stringn(s, n);
    FUZZ_NEED(v);
    return v;
}

/* choice (taken) as an answer's own, or an event's, another one before it. */
static void say(struct buf *b, json_t *choice, unsigned how)
{
    json_t *o = json_pack("{ss s[{si s{ss} ss ss} o]}", "id", "x", "choices", "index", 1, "delta", "content", "no",
                          "text", "no", "finish_reason", "other", choice);
    char *text = json_dumps(o, JSON_COMPACT | (how & ASCII ? JSON_ENSURE_ASCII : 0));
    const char *end = how & CRLF ? "\r\n\r\n" : "\n\n";
    FUZZ_NEED(o && text && buf_addf(b, "%s", how & STREAM ? "data: " : "") == 0 && buf_adds(b, text) == 0 &&
              buf_adds(b, how & STREAM ? end : "") == 0);
    free(text);
    json_decref(o);
}

/* The choice with what this event brings. */
static json_t *choice_of(const char *finish, json_t *logprobs)
{
    json_t *c = json_pack("{si so so}", "index", 0, "finish_reason",
                          finish && *finish ? text_of(finish, strlen(finish)) : json_null(), "logprobs",
                          logprobs ? logprobs : json_null());
    FUZZ_NEED(c);
    return c;
}

static void put_text(json_t *choice, unsigned how, const char *s, size_t n)
{
    if (how & TEXT)
        FUZZ_NEED(json_object_set_new(choice, "text", text_of(s, n)) == 0);
    else
        FUZZ_NEED(json_object_set_new(choice, how & STREAM ? "delta" : "message",
                                      json_pack("{so}", "content", text_of(s, n))) == 0);
}

static json_t *entries(const json_t *list, size_t from, size_t to)
{
    json_t *content = json_array();
    for (size_t i = from; i < to && i < json_array_size(list); i++) json_array_append(content, json_array_get(list, i));
    return json_pack("{so}", "content", content);
}

/* A place in s near n * cut / 256 where a character begins. */
static size_t middle(const char *s, size_t n, unsigned cut)
{
    size_t at = n * cut / 256;
    while (at && ((unsigned char)s[at] & 0xc0) == 0x80) at--;
    return at;
}

static void say_call(struct buf *b, size_t i, const json_t *call, unsigned how, unsigned cut)
{
    const json_t *f = json_object_get(call, "function"), *arguments = json_object_get(f, "arguments"),
                 *name = json_object_get(f, "name");
    const char *s = arguments ? json_string_value(arguments) : "";
    size_t n = strlen(s), at = middle(s, n, cut);
    json_t *first = json_object(), *one = json_pack("{si so}", "index", (int)i, "function", first);
    if (json_object_get(call, "id")) json_object_set(one, "id", json_object_get(call, "id"));
    if (name) json_object_set(first, "name", (json_t *)name);
    if (arguments) json_object_set_new(first, "arguments", text_of(s, at));
    json_t *c = choice_of(NULL, NULL);
    json_object_set_new(c, "delta", json_pack("{s[o]}", "tool_calls", one));
    say(b, c, how);
    if (!arguments) return;
    c = choice_of(NULL, NULL);
    json_object_set_new(c, "delta",
                        json_pack("{sn s[{si s{so}}]}", "content", "tool_calls", "index", (int)i, "function",
                                  "arguments", text_of(s + at, n - at)));
    say(b, c, how);
}

static void say_stream(struct buf *b, const struct answer *a, unsigned how, unsigned cut)
{
    size_t at = middle(a->text.data, a->text.len, cut), half = json_array_size(a->logprobs) * cut / 256;
    json_t *c = choice_of(NULL, a->logprobs ? entries(a->logprobs, 0, half) : NULL);
    buf_adds(b, ": kept alive\n\n");
    put_text(c, how, a->text.data, at);
    say(b, c, how);
    c = choice_of(NULL, a->logprobs ? entries(a->logprobs, half, SIZE_MAX) : NULL);
    put_text(c, how, a->text.data + at, a->text.len - at);
    say(b, c, how);
    for (size_t i = json_array_size(a->tool_calls); i-- > 0;)
        say_call(b, i, json_array_get(a->tool_calls, i), how, cut);
    say(b, choice_of(a->finish, NULL), how);
    buf_adds(b, "data: {\"choices\":[],\"usage\":{}}\n\ndata: [DONE]\n\n");
}

static void say_object(struct buf *b, const struct answer *a, unsigned how)
{
    json_t *c = choice_of(a->finish, a->logprobs ? entries(a->logprobs, 0, SIZE_MAX) : NULL);
    put_text(c, how, a->text.data, a->text.len);
    if (a->tool_calls) json_object_set(json_object_get(c, "message"), "tool_calls", a->tool_calls);
    say(b, c, how);
}

static bool same(const json_t *a, const json_t *b)
{
    return a == b || (a && b && json_equal(a, b));
}

static void check_said(const struct answer *a, const struct buf *b, bool stream)
{
    struct answer again = read_all(b->data, b->len, stream);
    FUZZ_NEED(!b->failed && again.text.len == a->text.len && memcmp(again.text.data, a->text.data, a->text.len) == 0 &&
              strcmp(again.finish, a->finish) == 0);
    FUZZ_NEED(same(again.tool_calls, a->tool_calls) && same(again.logprobs, a->logprobs));
    answer_close(&again);
}

static void say_again(const struct answer *a, unsigned how, unsigned cut)
{
    struct buf b;
    if (a->tool_calls || a->logprobs) how &= ~(unsigned)TEXT; /* which has no calls, and logprobs of another shape */
    buf_init(&b, 1 << 24);
    say_object(&b, a, how & ~(unsigned)STREAM);
    check_said(a, &b, false);
    buf_reset(&b);
    say_stream(&b, a, how | STREAM, cut);
    check_said(a, &b, true);
    buf_close(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    unsigned how = fuzz_byte(&data, &n), cut = fuzz_byte(&data, &n);
    char *s = fuzz_text(data, n);
    struct answer a = read_all(s, n, how & STREAM);
    check_bounds(&a, n, how & STREAM);
    if (how & STREAM) check_cut(&a, s, n, n * cut / 256);
    say_again(&a, how, cut);
    answer_close(&a);
    free(s);
    return 0;
}
