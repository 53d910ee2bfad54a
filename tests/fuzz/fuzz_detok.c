/* Tokens' bytes to text: what is shown is UTF-8, the text with bad bytes as U+FFFD up to the first stop string, whatever the tokens' borders. Input: two stop
 * strings with NULs behind, a byte for the cuts, the text; tokens are pieces of it. */
#include "base/buf.h"
#include "engine/detok.h"
#include "tests/fuzz/fuzz.h"

/* A tokenizer of pieces: id i is the bytes from place[i] to place[i + 1]. */
#define PIECES 4096
struct tokenizer {
    const char *text;
    size_t place[PIECES + 1];
};

const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    *len = t->place[id + 1] - t->place[id];
    return t->text + t->place[id];
}
const char *tokenizer_first_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    return tokenizer_bytes(t, id, len);
}
bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    (void)t, (void)id;
    return false;
}

static int run(const struct tokenizer *t, int tokens, const char *const *stops, int nstops, struct buf *out)
{
    struct detok d;
    const char *text = NULL;
    size_t len = 0;
    int rc = 0;
    if (detok_init(&d, t, stops, nstops, NULL)) return -1;
    for (int i = 0; i < tokens && rc == 0; i++) {
        rc = detok_push(&d, i, false, &text, &len);
        FUZZ_NEED(rc >= 0);
        buf_add(out, text, len);
    }
    if (rc == 0) {
        FUZZ_NEED(detok_flush(&d, &text, &len) == 0);
        buf_add(out, text, len);
    }
    rc = d.stop_hit;
    FUZZ_NEED(rc >= -1 && rc < nstops);
    detok_close(&d);
    return rc;
}

static int cut(struct tokenizer *t, const char *text, size_t n, size_t step)
{
    int tokens = 0;
    t->text = text;
    for (size_t at = 0; at < n && tokens < PIECES; at += step) t->place[tokens++] = at;
    t->place[tokens] = n;
    return tokens;
}

static bool is_utf8(const char *s)
{
    for (size_t n = strlen(s), i = 0; i < n;) {
        bool valid;
        i += buf_utf8(s + i, n - i, &valid);
        if (!valid) return false;
    }
    return true;
}

/* The text as it has to come: mended, and ended before the stop string that is complete first. */
static void expect(const char *s, size_t n, const char *const *stops, int nstops, struct buf *out)
{
    size_t ends = 0;
    while (n) {
        bool valid;
        size_t k = buf_utf8(s, n, &valid);
        if (valid)
            buf_add(out, s, k);
        else
            buf_adds(out, "\xef\xbf\xbd");
        s += k;
        n -= k;
    }
    for (int i = 0; i < nstops; i++) {
        const char *hit = memmem(out->data, out->len, stops[i], strlen(stops[i]));
        if (!hit) continue;
        size_t end = (size_t)(hit - out->data) + strlen(stops[i]);
        if (!ends || end < ends) ends = end;
    }
    if (!ends) return;
    size_t longest = 0; /* of those that are complete at that place, the one that began first */
    for (int i = 0; i < nstops; i++) {
        size_t k = strlen(stops[i]);
        if (k <= ends && !memcmp(out->data + ends - k, stops[i], k) && k > longest) longest = k;
    }
    out->len = ends - longest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static struct tokenizer t;
    char *stop[2] = {fuzz_until(&data, &n, 0), fuzz_until(&data, &n, 0)};
    const char *stops[2];
    int nstops = 0;
    size_t step = 1 + fuzz_byte(&data, &n) % 7;
    for (int i = 0; i < 2; i++)
        if (stop[i][0] && is_utf8(stop[i]) && strlen(stop[i]) < DETOK_STOP_BYTES) stops[nstops++] = stop[i];
    if (n > PIECES) n = PIECES;
    char *text = fuzz_text(data, n);
    struct buf a, b, want;
    buf_init(&a, 4 * n + 64);
    buf_init(&b, 4 * n + 64);
    buf_init(&want, 4 * n + 64);
    int ra = run(&t, cut(&t, text, n, n ? n : 1), stops, nstops, &a), rb = run(&t, cut(&t, text, n, step), stops, nstops, &b);
    FUZZ_NEED((ra < 0) == (rb < 0) && a.len == b.len && !memcmp(a.data, b.data, a.len));
    expect(text, n, stops, nstops, &want);
    FUZZ_NEED(a.len == want.len && !memcmp(a.data, want.data, a.len));
    buf_close(&a);
    buf_close(&b);
    buf_close(&want);
    free(stop[0]);
    free(stop[1]);
    free(text);
    return 0;
}
