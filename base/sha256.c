/* sha256: nettle's SHA-256 and HMAC behind names of our own, the kernel's random bytes, and UUIDv7.
 *
 * nettle renames its functions by macros, among them sha256_init; they are undefined below so that our names stay ours.
 * UUIDv7: 48 bits of milliseconds, then a 12-bit counter that makes ids of one process strictly increasing (RFC 9562,
 * 6.2, method 1), then 62 random bits. When the counter overflows within one millisecond it carries into the time,
 * which runs ahead of the wall clock by at most the burst. Any thread. */
#include <nettle/base64.h>
#include <nettle/hmac.h>
#include <nettle/sha2.h>
#undef sha256_init
#include "base/clock.h"
#include "base/sha256.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

_Static_assert(sizeof(struct sha256_ctx) <= sizeof(struct sha256), "nettle's context fits");
_Static_assert(SHA256_DIGEST_SIZE == SHA256_BYTES, "the same digest");

static const char hex_digits[] = "0123456789abcdef";

void sha256_init(struct sha256 *h)
{
    nettle_sha256_init((struct sha256_ctx *)h->state);
}

void sha256_add(struct sha256 *h, const void *bytes, size_t n)
{
    if (n) nettle_sha256_update((struct sha256_ctx *)h->state, n, bytes);
}

void sha256_end(struct sha256 *h, uint8_t out[SHA256_BYTES])
{
    nettle_sha256_digest((struct sha256_ctx *)h->state, SHA256_BYTES, out);
}

void sha256_of(const void *bytes, size_t n, uint8_t out[SHA256_BYTES])
{
    struct sha256 h;
    sha256_init(&h);
    sha256_add(&h, bytes, n);
    sha256_end(&h, out);
}

void sha256_hmac(const void *key, size_t key_len, const void *bytes, size_t n, uint8_t out[SHA256_BYTES])
{
    struct hmac_sha256_ctx h;
    hmac_sha256_set_key(&h, key_len, key);
    hmac_sha256_update(&h, n, bytes);
    hmac_sha256_digest(&h, SHA256_BYTES, out);
    explicit_bzero(&h, sizeof h);
}

void sha256_hex(const uint8_t digest[SHA256_BYTES], char out[SHA256_HEX])
{
    for (int i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = hex_digits[digest[i] >> 4];
        out[2 * i + 1] = hex_digits[digest[i] & 15];
    }
    out[SHA256_HEX - 1] = 0;
}

void sha256_base64(const uint8_t digest[SHA256_BYTES], char out[SHA256_BASE64])
{
    base64_encode_raw(out, SHA256_BYTES, digest);
    out[SHA256_BASE64 - 1] = 0;
}

bool sha256_is_hex(const char *s)
{
    return strspn(s, hex_digits) == SHA256_HEX - 1 && s[SHA256_HEX - 1] == 0;
}

bool bytes_equal_ct(const void *a, const void *b, size_t n)
{
    const volatile unsigned char *x = a, *y = b; /* volatile: the loop must not learn to stop early */
    unsigned char diff = 0;
    for (size_t i = 0; i < n; i++) diff |= x[i] ^ y[i];
    return diff == 0;
}

int random_bytes(void *out, size_t n)
{
    unsigned char *p = out;
    while (n) {
        ssize_t got = getrandom(p, n, 0);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        p += got;
        n -= (size_t)got;
    }
    return 0;
}

static _Atomic uint64_t last_tick;

/* (milliseconds << 12 | counter), greater than every one given before. */
static uint64_t next_tick(void)
{
    uint64_t now = (uint64_t)(clock_wall_us() / 1000) << 12, seen = atomic_load(&last_tick), next;
    do next = now > seen ? now : seen + 1;
    while (!atomic_compare_exchange_weak(&last_tick, &seen, next));
    return next;
}

void uuid7_after(const char *id)
{
    unsigned high = 0, low = 0, count = 0;
    if (sscanf(id, "%8x-%4x-7%3x-", &high, &low, &count) != 3) return;
    uint64_t tick = ((uint64_t)high << 16 | low) << 12 | count, seen = atomic_load(&last_tick);
    while (seen < tick && !atomic_compare_exchange_weak(&last_tick, &seen, tick)) continue;
}

void uuid7(char out[UUID_LEN])
{
    uint64_t tick = next_tick();
    uint8_t id[16];
    if (random_bytes(id + 8, 8)) memset(id + 8, 0, 8); /* the tick alone is unique within this process */
    for (int i = 0; i < 6; i++) id[i] = (uint8_t)(tick >> (52 - 8 * i));
    id[6] = (uint8_t)(0x70 | ((tick >> 8) & 15));
    id[7] = (uint8_t)tick;
    id[8] = (uint8_t)(0x80 | (id[8] & 0x3F));
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) *out++ = '-';
        *out++ = hex_digits[id[i] >> 4];
        *out++ = hex_digits[id[i] & 15];
    }
    *out = 0;
}

bool uuid_is(const char *s)
{
    for (int i = 0; i < UUID_LEN - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;
        if (dash ? s[i] != '-' : !s[i] || !strchr("0123456789abcdefABCDEF", s[i])) return false;
    }
    return s[UUID_LEN - 1] == 0;
}
