/* webhook_secret: what signs a webhook's messages, by Standard Webhooks (github.com/standard-webhooks/standard-webhooks, spec 1.0.0).
 *
 *     webhook-id         names the message; a message that is sent again has the same
 *     webhook-timestamp  Unix seconds of this attempt
 *     webhook-signature  "v1," base64(HMAC-SHA-256(secret, id "." timestamp "." body)), for each secret with a space between
 *
 * The secret is 32 random bytes, shown as "whsec_" and base64, once. At rest it is sealed under a key from the pepper, for its row only.
 * After a rotation the old one signs beside the new one until its grace is over, so a receiver may change when it likes. Any thread. */
#include "base/seal.h"
#include "base/sha256.h"
#include "base/version.h"
#include "gateway/webhook/webhook_impl.h"
#include <stdio.h>
#include <string.h>

#define ABOUT_LEN 64
#define PURPOSE "webhook secret"

int webhook_secret_new(uint8_t out[SHA256_BYTES], struct err *e)
{
    return random_bytes(out, SHA256_BYTES) ? err_errno(e, "random bytes for a secret") : 0;
}

void webhook_secret_text(const uint8_t secret[SHA256_BYTES], char out[WEBHOOK_SECRET_TEXT])
{
    memcpy(out, "whsec_", 6);
    sha256_base64(secret, out + 6);
}

int webhook_secret_seal(struct db *d, const char *id, const struct webhook_secret *s, struct buf *out, struct err *e)
{
    uint8_t key[SEAL_KEY];
    char about[ABOUT_LEN];
    seal_key(db_pepper(d), PURPOSE, key);
    snprintf(about, sizeof about, "webhook %s", id);
    int rc = seal(key, about, s, sizeof *s, out, e);
    explicit_bzero(key, sizeof key);
    return rc;
}

int webhook_secret_open(struct db *d, const char *id, const void *sealed, size_t n, struct webhook_secret *out, struct err *e)
{
    uint8_t key[SEAL_KEY];
    char about[ABOUT_LEN];
    struct buf text;
    seal_key(db_pepper(d), PURPOSE, key);
    snprintf(about, sizeof about, "webhook %s", id);
    buf_init(&text, sizeof *out);
    int rc = seal_open(key, about, sealed, n, &text, e);
    if (rc == 0 && text.len != sizeof *out) rc = err_set(e, ERR_IO, "the sealed secret of the webhook %s has a wrong length", id);
    if (rc == 0) memcpy(out, text.data, sizeof *out);
    explicit_bzero(text.data, text.len);
    explicit_bzero(key, sizeof key);
    buf_close(&text);
    return rc;
}

int webhook_sign(const struct webhook_secret *s, const char *id, int64_t t_s, const void *body, size_t n, struct webhook_headers *out,
                 struct err *e)
{
    uint8_t mac[SHA256_BYTES];
    char text[SHA256_BASE64];
    struct buf b;
    buf_init(&b, n + 256);
    int rc = buf_addf(&b, "%s.%lld.", id, (long long)t_s) || buf_add(&b, body, n) ? err_set(e, ERR_NO_MEMORY, "no memory for a signature") : 0;
    if (rc == 0) {
        sha256_hmac(s->now, sizeof s->now, b.data, b.len, mac);
        sha256_base64(mac, text);
        int used = snprintf(out->signature, sizeof out->signature, "webhook-signature: v1,%s", text);
        if (s->before_until > t_s) {
            sha256_hmac(s->before, sizeof s->before, b.data, b.len, mac);
            sha256_base64(mac, text);
            snprintf(out->signature + used, sizeof out->signature - (size_t)used, " v1,%s", text);
        }
        snprintf(out->id, sizeof out->id, "webhook-id: %s", id);
        snprintf(out->timestamp, sizeof out->timestamp, "webhook-timestamp: %lld", (long long)t_s);
        snprintf(out->authorization, sizeof out->authorization, "Authorization: %s", s->authorization);
        const char *const line[HOOK_HEADERS] = {HOOK_CONTENT_TYPE, "User-Agent: weft/" WEFT_VERSION, out->id, out->timestamp, out->signature,
                                                *s->authorization ? out->authorization : NULL};
        memcpy(out->line, line, sizeof line);
    }
    buf_close(&b);
    return rc;
}
