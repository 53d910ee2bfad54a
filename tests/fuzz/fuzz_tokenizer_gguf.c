/* A vocabulary out of a GGUF's keys: what is taken turns a text into ids of the vocabulary, the same each time, whose bytes can be read. Input: the file. */
#include "engine/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#define TOKENS_MAX 4096

static void use(const struct tokenizer *t, const char *text, bool special)
{
    struct tokens a = {0}, b = {0};
    if (tokenizer_encode(t, text, strlen(text), special, TOKENS_MAX, &a, NULL)) return;
    FUZZ_NEED(tokenizer_encode(t, text, strlen(text), special, TOKENS_MAX, &b, NULL) == 0 && a.n == b.n && a.n <= TOKENS_MAX);
    for (size_t i = 0; i < a.n; i++) {
        size_t n = 0;
        FUZZ_NEED(a.id[i] == b.id[i] && a.id[i] >= 0 && a.id[i] < tokenizer_vocab(t));
        FUZZ_NEED(tokenizer_bytes(t, a.id[i], &n) && tokenizer_first_bytes(t, a.id[i], &n));
    }
    free(a.id);
    free(b.id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g = NULL;
    struct tokenizer *t = NULL;
    struct err e = {0};
    uint8_t *bytes = aligned_alloc(64, n + 64 - n % 64);
    FUZZ_NEED(bytes);
    memcpy(bytes, data, n);
    if (gguf_open_memory(&g, bytes, n, NULL) == 0) {
        if (tokenizer_from_gguf(&t, g, &e))
            FUZZ_NEED(e.code != ERR_NONE && e.msg[0] && !t);
        else {
            FUZZ_NEED(tokenizer_bos(t) < tokenizer_vocab(t) && tokenizer_eos(t) < tokenizer_vocab(t));
            use(t, "Hello ab a  b\n12345 \xc3\xbc \xe6\x97\xa5 \xff <s></s>", true);
            use(t, "ab <|endoftext|> A", false);
            tokenizer_free(t);
        }
        gguf_close(g);
    }
    free(bytes);
    return 0;
}
