/* What `weft chat` reads of an answer: what it says and keeps doesn't depend on how the stream was cut, is what a second reading (whole lines, jansson) finds up to the [DONE],
 * and is text without NULs; of several error events the first is kept; a refusal's body and a whole document are kept as they came. Input: a byte for how (1 a
 * whole document, 2 a refusal, the rest how to cut), then the answer. */
#include "gateway/cli/cli_chat_stream.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

static struct buf told; /* what say() got */

static void say(const char *text, size_t n)
{
    FUZZ_NEED(text && !buf_add(&told, text, n));
}

/* 0 or -1, as the last piece. step 0: all at once. */
static int feed(struct chat_stream *s, unsigned how, size_t step, const char *text, size_t n)
{
    int rc = 0;
    chat_stream_init(s, how & 1, say);
    s->status = how & 2 ? 503 : 200;
    for (size_t at = 0, k; at < n && !rc; at += k) {
        k = step && step < n - at ? step : n - at;
        char *piece = fuzz_text((const uint8_t *)text + at, k);
        rc = chat_stream_feed(s, piece, k);
        free(piece);
    }
    return rc;
}

/* The same by lines that are there whole. True: [DONE] came. */
static bool read_again(const char *p, size_t n, struct buf *text, struct buf *error)
{
    for (const char *end; (end = n ? memchr(p, '\n', n) : NULL); n -= (size_t)(end + 1 - p), p = end + 1) {
        size_t k = (size_t)(end - p) - (end > p && end[-1] == '\r');
        if (k < 5 || strncmp(p, "data:", 5)) continue;
        const char *data = p + 5 + (k > 5 && p[5] == ' ');
        size_t len = (size_t)(p + k - data);
        if (len == 6 && !strncmp(data, "[DONE]", 6)) return true;
        json_t *o = NULL;
        if (json_parse(data, len, &o, NULL)) continue;
        const json_t *said = json_object_get(json_object_get(json_array_get(json_object_get(o, "choices"), 0), "delta"), "content");
        if (json_object_get(o, "error")) FUZZ_NEED(error->len || !buf_add(error, data, len));
        else if (json_is_string(said)) buf_add(text, json_string_value(said), json_string_length(said));
        json_decref(o);
    }
    return false;
}

static bool same(const struct buf *a, const struct buf *b)
{
    return a->len == b->len && !memcmp(a->data, b->data, a->len);
}

static void check_said(const struct chat_stream *s)
{
    char *said = chat_stream_said(s);
    json_t *o = NULL;
    if (!s->whole) FUZZ_NEED(said && strlen(said) == s->text.len && !strcmp(said, s->text.data));
    else FUZZ_NEED(!said == (json_parse(s->text.data, s->text.len, &o, NULL) != 0));
    json_t *kept = said ? json_string(said) : NULL; /* as a message of the conversation's next turn */
    FUZZ_NEED(!said || kept);
    json_decref(kept);
    json_decref(o);
    free(said);
}

static void check_stream(const struct chat_stream *s, const char *text, size_t n)
{
    struct buf again, error;
    buf_init(&again, CHAT_ANSWER_MAX);
    buf_init(&error, CHAT_ERROR_MAX);
    FUZZ_NEED(s->done == read_again(text, n, &again, &error));
    FUZZ_NEED(same(&s->text, &again) && same(&s->error, &error) && same(&s->text, &told));
    buf_close(&again);
    buf_close(&error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct chat_stream s, cut;
    unsigned how = fuzz_byte(&data, &n);
    char *text = fuzz_text(data, n);
    buf_init(&told, CHAT_ANSWER_MAX);
    FUZZ_NEED(feed(&s, how, 0, text, n) == 0); /* inputs are shorter than any bound */
    if (how & 2) FUZZ_NEED(s.error.len == n && !memcmp(s.error.data, text, n) && !s.text.len);
    else if (how & 1) FUZZ_NEED(s.text.len == n && !memcmp(s.text.data, text, n) && !s.error.len);
    else check_stream(&s, text, n);
    if (!(how & 2)) check_said(&s);
    buf_reset(&told);
    FUZZ_NEED(feed(&cut, how, 1 + (how >> 2), text, n) == 0 && same(&cut.text, &s.text) && same(&cut.error, &s.error) && cut.done == s.done);
    FUZZ_NEED((how & 3) || same(&cut.text, &told));
    chat_stream_close(&s);
    chat_stream_close(&cut);
    buf_close(&told);
    free(text);
    return 0;
}
