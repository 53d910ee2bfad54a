/* seal: nettle's AES-256-GCM behind two calls (see seal.h). No state; the plain text and the key's schedule are wiped
 * from what this file owns. What does not open leaves nothing behind: the tag is compared in constant time before a
 * byte of the text is handed on. */
#include "base/seal.h"
#include "base/sha256.h"
#include <nettle/gcm.h>
#include <string.h>

#define NONCE GCM_IV_SIZE
#define TAG GCM_DIGEST_SIZE

_Static_assert(NONCE + TAG == SEAL_EXTRA, "what the header says");

void seal_key(const uint8_t pepper[32], const char *purpose, uint8_t out[SEAL_KEY])
{
    sha256_hmac(pepper, 32, purpose, strlen(purpose), out);
}

static void begin(struct gcm_aes256_ctx *ctx, const uint8_t key[SEAL_KEY], const uint8_t nonce[NONCE],
                  const char *about)
{
    gcm_aes256_set_key(ctx, key);
    gcm_aes256_set_iv(ctx, NONCE, nonce);
    gcm_aes256_update(ctx, strlen(about), (const uint8_t *)about);
}

/* Room for n more bytes at the end of out, zeroed; NULL when there is none. */
static uint8_t *room(struct buf *out, size_t n)
{
    static const char zeros[256];
    size_t at = out->len;
    for (size_t left = n; left;) {
        size_t piece = left < sizeof zeros ? left : sizeof zeros;
        if (buf_add(out, zeros, piece)) return NULL;
        left -= piece;
    }
    return (uint8_t *)out->data + at;
}

int seal(const uint8_t key[SEAL_KEY], const char *about, const void *bytes, size_t n, struct buf *out, struct err *e)
{
    struct gcm_aes256_ctx ctx;
    uint8_t nonce[NONCE];
    if (random_bytes(nonce, sizeof nonce)) return err_errno(e, "random bytes for a nonce");
    uint8_t *p = room(out, n + SEAL_EXTRA);
    if (!p) return err_set(e, ERR_NO_MEMORY, "no memory for a sealed text");
    memcpy(p, nonce, NONCE);
    begin(&ctx, key, nonce, about);
    gcm_aes256_encrypt(&ctx, n, p + NONCE, bytes);
    gcm_aes256_digest(&ctx, TAG, p + NONCE + n);
    explicit_bzero(&ctx, sizeof ctx);
    return 0;
}

int seal_open(const uint8_t key[SEAL_KEY], const char *about, const void *sealed, size_t n, struct buf *out,
              struct err *e)
{
    struct gcm_aes256_ctx ctx;
    const uint8_t *in = sealed;
    uint8_t tag[TAG];
    if (n < SEAL_EXTRA) return err_set(e, ERR_IO, "a sealed text of %zu bytes is too short", n);
    size_t before = out->len, text = n - SEAL_EXTRA;
    uint8_t *p = room(out, text);
    if (text && !p) return err_set(e, ERR_NO_MEMORY, "no memory for an opened text");
    begin(&ctx, key, in, about);
    gcm_aes256_decrypt(&ctx, text, p, in + NONCE);
    gcm_aes256_digest(&ctx, TAG, tag);
    explicit_bzero(&ctx, sizeof ctx);
    if (bytes_equal_ct(tag, in + NONCE + text, TAG)) return 0;
    explicit_bzero(out->data + before, out->len - before);
    out->len = before;
    out->data[before] = 0;
    return err_set(e, ERR_IO, "a sealed text does not open: it was changed, or sealed under another pepper");
}
