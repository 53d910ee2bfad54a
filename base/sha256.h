/* SHA-256, HMAC-SHA-256, hex, random bytes, and comparison in constant time (FIPS 180-4, RFC 2104), by nettle. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32
#define SHA256_HEX 65 /* with the NUL */
#define SHA256_BASE64 45

struct sha256 {
    _Alignas(16) unsigned char state[256]; /* nettle's context; its size is asserted in sha256.c */
};

void sha256_init(struct sha256 *h);
void sha256_add(struct sha256 *h, const void *bytes, size_t n);
void sha256_end(struct sha256 *h, uint8_t out[SHA256_BYTES]);

void sha256_of(const void *bytes, size_t n, uint8_t out[SHA256_BYTES]);
void sha256_hmac(const void *key, size_t key_len, const void *bytes, size_t n, uint8_t out[SHA256_BYTES]);
void sha256_hex(const uint8_t digest[SHA256_BYTES], char out[SHA256_HEX]); /* lower case */
void sha256_base64(const uint8_t digest[SHA256_BYTES], char out[SHA256_BASE64]); /* RFC 4648, with its = */
bool sha256_is_hex(const char *s);                                         /* exactly 64 lower-case digits */

bool bytes_equal_ct(const void *a, const void *b, size_t n); /* time depends on n only */
int random_bytes(void *out, size_t n);                       /* getrandom(2); 0 or -1 */

/* UUIDv7 (RFC 9562) as 36 characters: time-ordered, monotonic within this process. */
#define UUID_LEN 37
void uuid7(char out[UUID_LEN]);
void uuid7_after(const char *id); /* the next ones are greater than this one of ours, whatever the clock says */
bool uuid_is(const char *s);
