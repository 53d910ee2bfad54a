/* digest_header: what a request says of its bytes, read strictly: what we can't read we don't guess, for the client asked
 * us to check. Pure; any thread. */
#include "gateway/registry/digest_header.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BASE64_LEN 44 /* of 32 bytes, with its one = */
#define DIGITS_MAX 18

static int sextet(char c)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(alphabet, c) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

/* 43 letters and a =, of which the last letter's two low bits say nothing and are 0. */
static bool decode(const char *s, uint8_t out[SHA256_BYTES])
{
    uint32_t bits = 0;
    int have = 0, n = 0;
    if (strlen(s) < BASE64_LEN || s[BASE64_LEN - 1] != '=') return false;
    for (int i = 0; i < BASE64_LEN - 1; i++) {
        int v = sextet(s[i]);
        if (v < 0) return false;
        bits = bits << 6 | (uint32_t)v;
        have += 6;
        if (have < 8) continue;
        have -= 8;
        out[n++] = (uint8_t)(bits >> have);
        bits &= (1u << have) - 1;
    }
    return n == SHA256_BYTES && bits == 0;
}

int digest_header(const char *text, const char *name, uint8_t out[SHA256_BYTES], struct err *e)
{
    static const char key[] = "sha-256=:";
    uint8_t sum[SHA256_BYTES];
    if (!text) return 0;
    const char *at = text;
    for (; (at = strstr(at, key)); at++)
        if (at == text || at[-1] == ' ' || at[-1] == ',' || at[-1] == '\t') break;
    if (!at) return err_field(e, ERR_UNSUPPORTED, name, "%s has no sha-256 that we could check.", name);
    at += sizeof key - 1;
    if (!decode(at, sum) || at[BASE64_LEN] != ':')
        return err_field(e, ERR_INVALID, name, "The sha-256 in %s is not 32 bytes in base64.", name);
    memcpy(out, sum, sizeof sum);
    return 1;
}

static const char *number(const char *s, int64_t *out)
{
    size_t n = strspn(s, "0123456789");
    if (n < 1 || n > DIGITS_MAX) return NULL;
    *out = strtoll(s, NULL, 10);
    return s + n;
}

int content_range(const char *text, int64_t *first, int64_t *last, int64_t *total, struct err *e)
{
    int64_t a = 0, b = 0, t = -1;
    const char *s = strncmp(text, "bytes ", 6) == 0 ? number(text + 6, &a) : NULL;
    if (s && *s == '-')
        s = number(s + 1, &b);
    else
        s = NULL;
    if (s && strcmp(s, "/*") == 0)
        s += 2;
    else
        s = s && *s == '/' ? number(s + 1, &t) : NULL;
    if (!s || *s || b < a || (t >= 0 && b >= t))
        return err_field(e, ERR_INVALID, "Content-Range",
                         "Content-Range must be 'bytes FIRST-LAST/TOTAL', not '%.80s'.", text);
    *first = a;
    *last = b;
    *total = t;
    return 0;
}
