/* auth_key: what a key looks like, and what is kept of it.
 *
 *     wft_ 12 characters _ 43 characters _ 6 characters        (wfa_ for admin keys, wfe_ for engines' tokens)
 *          public id       256 random bits checksum
 *
 * All in base 62, so a double click selects the whole of it and no shell or URL needs quotes. 62^43 > 2^256: the secret is the number
 * itself, nothing is thrown away. The checksum (SHA-256 of what stands before it, modulo 62^6) finds a key that was copied in part
 * before any secret is touched; that difference goes to a counter, never to the client. Stored is HMAC-SHA-256(pepper, secret): with 256
 * random bits there is nothing to guess, so a slow hash would only help those who want to keep us busy. Pure functions, any thread. */
#include "gateway/auth/auth.h"
#include <stdio.h>
#include <string.h>

#define ID_CHARS 12
#define SECRET_CHARS 43
#define CHECK_CHARS 6
#define PREFIX_CHARS 4
#define ID_AT PREFIX_CHARS
#define SECRET_AT (ID_AT + ID_CHARS + 1)
#define CHECK_AT (SECRET_AT + SECRET_CHARS + 1)
#define TEXT_CHARS (CHECK_AT + CHECK_CHARS)

static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
enum kind { TENANT_KEY, ADMIN_KEY, ENGINE_TOKEN };
static const char *const prefix[] = {[TENANT_KEY] = "wft_", [ADMIN_KEY] = "wfa_", [ENGINE_TOKEN] = "wfe_"};

static const struct role {
    const char *word;
    bool admin;
    unsigned scopes;
} roles[] = {
    {"admin", false, SCOPE_INFER | SCOPE_WRITE | SCOPE_USAGE | SCOPE_KEYS},
    {"writer", false, SCOPE_WRITE},
    {"inference", false, SCOPE_INFER},
    {"billing", false, SCOPE_USAGE},
    {"admin", true, SCOPE_ADMIN | SCOPE_ADMIN_READ},
    {"viewer", true, SCOPE_ADMIN_READ},
    {"backup", true, SCOPE_BACKUP},
};

/* What a key may do, one by one; the order in which lists show them. */
static const struct word {
    const char *word;
    bool admin;
    unsigned scope;
} scopes[] = {
    {"inference", false, SCOPE_INFER}, {"adapters", false, SCOPE_WRITE}, {"usage", false, SCOPE_USAGE},
    {"keys", false, SCOPE_KEYS},       {"read", true, SCOPE_ADMIN_READ}, {"write", true, SCOPE_ADMIN},
    {"backup", true, SCOPE_BACKUP},
};
#define NSCOPES (sizeof scopes / sizeof *scopes)

bool auth_role(const char *word, bool admin, unsigned *out)
{
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        if (roles[i].admin != admin || strcmp(roles[i].word, word) != 0) continue;
        *out = roles[i].scopes;
        return true;
    }
    return false;
}

bool auth_scope(const char *word, bool admin, unsigned *out)
{
    for (size_t i = 0; i < NSCOPES; i++) {
        if (scopes[i].admin != admin || strcmp(scopes[i].word, word) != 0) continue;
        *out = scopes[i].scope;
        return true;
    }
    return false;
}

const char *auth_scope_word(unsigned have, int *at)
{
    while (*at < (int)NSCOPES) {
        const struct word *w = &scopes[(*at)++];
        if (have & w->scope) return w->word;
    }
    return NULL;
}

static unsigned sum_words(const char *list, bool (*of)(const char *word, bool admin, unsigned *out), bool admin)
{
    unsigned all = 0, one;
    char words[KEY_WORDS_LEN], *rest = words, *word;
    snprintf(words, sizeof words, "%s", list);
    while ((word = strsep(&rest, ",")))
        if (of(word, admin, &one)) all |= one;
    return all;
}

unsigned auth_scopes_of(const char *role_words, const char *scope_words, bool admin)
{
    return sum_words(role_words, auth_role, admin) | sum_words(scope_words, auth_scope, admin);
}

/* The big-endian number in `n` bytes, which is destroyed, as `chars` digits. */
static void base62(uint8_t *number, size_t n, char *out, int chars)
{
    for (int i = chars - 1; i >= 0; i--) {
        unsigned rest = 0;
        for (size_t j = 0; j < n; j++) {
            unsigned v = rest << 8 | number[j];
            number[j] = (uint8_t)(v / 62);
            rest = v % 62;
        }
        out[i] = digits[rest];
    }
}

static void checksum(const char *text, size_t n, char out[CHECK_CHARS])
{
    uint8_t h[SHA256_BYTES];
    sha256_of(text, n, h);
    base62(h, 8, out, CHECK_CHARS);
}

static int make(const uint8_t pepper[32], enum kind kind, struct new_key *out, struct err *e)
{
    uint8_t bits[32 + 9]; /* secret; id: 72 bits for 71.5 */
    if (random_bytes(bits, sizeof bits)) return err_errno(e, "random bytes for a key");
    char *t = out->text;
    memcpy(t, prefix[kind], PREFIX_CHARS);
    base62(bits + 32, 9, t + ID_AT, ID_CHARS);
    t[SECRET_AT - 1] = t[CHECK_AT - 1] = '_';
    base62(bits, 32, t + SECRET_AT, SECRET_CHARS);
    checksum(t, CHECK_AT - 1, t + CHECK_AT);
    t[TEXT_CHARS] = 0;
    memcpy(out->id, t + ID_AT, ID_CHARS);
    out->id[ID_CHARS] = 0;
    sha256_hmac(pepper, 32, t + SECRET_AT, SECRET_CHARS, out->hash);
    explicit_bzero(bits, sizeof bits);
    return 0;
}

int auth_key_make(const uint8_t pepper[32], bool admin, struct new_key *out, struct err *e)
{
    return make(pepper, admin ? ADMIN_KEY : TENANT_KEY, out, e);
}

int auth_engine_token_make(const uint8_t pepper[32], struct new_key *out, struct err *e)
{
    return make(pepper, ENGINE_TOKEN, out, e);
}

static bool parse(const char *text, enum kind kind, char id[KEY_ID_LEN], char secret[44])
{
    if (strnlen(text, TEXT_CHARS + 1) != TEXT_CHARS || memcmp(text, prefix[kind], PREFIX_CHARS) != 0) return false;
    for (int i = ID_AT; i < TEXT_CHARS; i++) {
        bool dash = i == SECRET_AT - 1 || i == CHECK_AT - 1;
        if (dash ? text[i] != '_' : !strchr(digits, text[i])) return false;
    }
    char check[CHECK_CHARS];
    checksum(text, CHECK_AT - 1, check);
    if (memcmp(check, text + CHECK_AT, CHECK_CHARS) != 0) return false;
    memcpy(id, text + ID_AT, ID_CHARS);
    id[ID_CHARS] = 0;
    memcpy(secret, text + SECRET_AT, SECRET_CHARS);
    secret[SECRET_CHARS] = 0;
    return true;
}

bool auth_key_parse(const char *text, bool *admin, char id[KEY_ID_LEN], char secret[44])
{
    *admin = strncmp(text, prefix[ADMIN_KEY], PREFIX_CHARS) == 0;
    return parse(text, *admin ? ADMIN_KEY : TENANT_KEY, id, secret);
}

bool auth_engine_token_parse(const char *text, char id[KEY_ID_LEN], char secret[44])
{
    return parse(text, ENGINE_TOKEN, id, secret);
}

void auth_key_hash(const uint8_t pepper[32], const char *secret, uint8_t out[SHA256_BYTES])
{
    sha256_hmac(pepper, 32, secret, strlen(secret), out);
}
