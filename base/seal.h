/* Secrets at rest: AES-256-GCM (NIST SP 800-38D) under a key that is made from the pepper, by nettle.
 *
 * What is stored is nonce (12 random bytes), ciphertext, tag (16). `about` is authenticated with it, not stored: it says
 * what the secret is for, so a sealed text that is moved to another row does not open there. Random nonces are safe for
 * 2^32 seals of one key. Any thread. */
#pragma once
#include "base/buf.h"
#include "base/err.h"

#define SEAL_KEY 32
#define SEAL_EXTRA 28 /* bytes by which the sealed text is longer */

/* A key for one purpose: HMAC-SHA-256(pepper, purpose). */
void seal_key(const uint8_t pepper[32], const char *purpose, uint8_t out[SEAL_KEY]);

/* Appends n + SEAL_EXTRA bytes to out. */
int seal(const uint8_t key[SEAL_KEY], const char *about, const void *bytes, size_t n, struct buf *out, struct err *e);

/* Appends n - SEAL_EXTRA bytes to out; ERR_IO when the text is not what was sealed under this key and about. */
int seal_open(const uint8_t key[SEAL_KEY], const char *about, const void *sealed, size_t n, struct buf *out,
              struct err *e);
