/* The text of keys: what is taken has the form to the letter, and a key with another last letter is refused (its checksum is wrong); keys that are made
 * are taken; words of roles and scopes say no more than they stand for. */
#include "gateway/auth/auth.h"
#include "tests/fuzz/fuzz.h"

#define TEXT 67

static void check_text(const char *s)
{
    char id[KEY_ID_LEN], secret[44], other[TEXT + 1];
    bool admin;
    if (!auth_key_parse(s, &admin, id, secret)) return;
    FUZZ_NEED(strlen(s) == TEXT && strlen(id) == 12 && strlen(secret) == 43);
    FUZZ_NEED(strncmp(s, admin ? "wfa_" : "wft_", 4) == 0 && strncmp(s + 4, id, 12) == 0 && strncmp(s + 17, secret, 43) == 0);
    snprintf(other, sizeof other, "%s", s);
    other[TEXT - 1] = s[TEXT - 1] == '0' ? '1' : '0';
    FUZZ_NEED(!auth_key_parse(other, &admin, id, secret));
}

/* A true key with some letters put elsewhere by the input: position and letter, and again. */
static void check_changed(const uint8_t *data, size_t n)
{
    static const uint8_t pepper[32] = {1, 2, 3};
    static struct new_key key;
    char id[KEY_ID_LEN], secret[44];
    uint8_t hash[SHA256_BYTES];
    bool admin;
    if (!key.text[0]) FUZZ_NEED(auth_key_make(pepper, false, &key, NULL) == 0);
    FUZZ_NEED(auth_key_parse(key.text, &admin, id, secret) && !admin && strcmp(id, key.id) == 0);
    auth_key_hash(pepper, secret, hash);
    FUZZ_NEED(memcmp(hash, key.hash, sizeof hash) == 0);
    char text[KEY_TEXT_LEN];
    snprintf(text, sizeof text, "%s", key.text);
    for (size_t i = 0; i + 1 < n; i += 2) text[data[i] % TEXT] = (char)data[i + 1];
    if (strcmp(text, key.text) != 0) FUZZ_NEED(!auth_key_parse(text, &admin, id, secret));
}

static void check_words(const char *s)
{
    unsigned scopes = 0, tenant = auth_scopes_of(s, s, false), admin = auth_scopes_of(s, s, true);
    int at = 0;
    FUZZ_NEED((tenant & ~(unsigned)(SCOPE_INFER | SCOPE_WRITE | SCOPE_USAGE | SCOPE_KEYS)) == 0);
    FUZZ_NEED((admin & ~(unsigned)(SCOPE_ADMIN | SCOPE_ADMIN_READ | SCOPE_BACKUP)) == 0);
    for (const char *w; (w = auth_scope_word(tenant, &at));) {
        unsigned one = 0;
        FUZZ_NEED(auth_scope(w, false, &one) && (one & tenant));
        scopes |= one;
    }
    FUZZ_NEED(scopes == tenant);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n);
    check_text(s);
    check_changed(data, n);
    check_words(s);
    free(s);
    return 0;
}
