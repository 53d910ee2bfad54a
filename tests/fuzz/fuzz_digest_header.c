/* Content-Digest and Content-Range: a digest that is read stands in the header in base64; a range that is read is printed and read again as the same, and
 * is one: first <= last < total. */
#include "gateway/registry/digest_header.h"
#include "tests/fuzz/fuzz.h"

static void encode(const uint8_t *bytes, size_t n, char *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
        *out++ = alphabet[v >> 18];
        *out++ = alphabet[v >> 12 & 63];
        *out++ = i + 1 < n ? alphabet[v >> 6 & 63] : '=';
        *out++ = i + 2 < n ? alphabet[v & 63] : '=';
    }
    *out = 0;
}

static void check_digest(const char *s)
{
    uint8_t sum[SHA256_BYTES];
    char text[64] = "sha-256=:";
    struct err e = {0};
    int rc = digest_header(s, "Content-Digest", sum, &e);
    FUZZ_NEED(rc == 1 || (rc == -1 && (e.code == ERR_INVALID || e.code == ERR_UNSUPPORTED)));
    if (rc != 1) return;
    encode(sum, sizeof sum, text + strlen(text));
    snprintf(text + strlen(text), sizeof text - strlen(text), ":");
    FUZZ_NEED(strstr(s, text));
}

static void check_range(const char *s)
{
    int64_t first = -7, last = -7, total = -7, again[3];
    struct err e = {0};
    char text[96];
    if (content_range(s, &first, &last, &total, &e)) {
        FUZZ_NEED(e.code == ERR_INVALID && first == -7 && last == -7 && total == -7);
        return;
    }
    FUZZ_NEED(first >= 0 && last >= first && (total == -1 || total > last));
    if (total < 0)
        snprintf(text, sizeof text, "bytes %lld-%lld/*", (long long)first, (long long)last);
    else
        snprintf(text, sizeof text, "bytes %lld-%lld/%lld", (long long)first, (long long)last, (long long)total);
    FUZZ_NEED(content_range(text, &again[0], &again[1], &again[2], &e) == 0 && again[0] == first && again[1] == last && again[2] == total);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n);
    uint8_t sum[SHA256_BYTES];
    FUZZ_NEED(digest_header(NULL, "Content-Digest", sum, NULL) == 0);
    check_digest(s);
    check_range(s);
    free(s);
    return 0;
}
