/* UTF-8 and the few facts about characters that the tokenizer, the detokenizer and the template language need.
 *
 * Decoding is strict (RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF). */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_MORE 0   /* the bytes may be the beginning of a character */
#define UTF8_BAD (-1) /* they are none */

/* The first character of s[0..n): its length 1..4 and *cp, or UTF8_MORE, or UTF8_BAD. n 0 is UTF8_MORE. */
int utf8_decode(const char *s, size_t n, uint32_t *cp);

/* How many bytes of s, from its beginning, are whole valid characters. */
size_t utf8_valid(const char *s, size_t n);

/* Writes cp (a valid one) to out, returns the length. */
int utf8_encode(uint32_t cp, char out[4]);

/* Simple (one to one) case mapping and classes by Unicode's tables. */
uint32_t utf8_upper(uint32_t cp);
uint32_t utf8_lower(uint32_t cp);
bool utf8_is_alpha(uint32_t cp);
bool utf8_is_digit(uint32_t cp);
bool utf8_is_space(uint32_t cp);     /* as Python's str.isspace() */
bool utf8_is_printable(uint32_t cp); /* as Python's str.isprintable() */

bool utf8_is_white(uint32_t cp);   /* Unicode's White_Space */
bool utf8_is_numeric(uint32_t cp); /* Nd, Nl, No */
bool utf8_is_punct(uint32_t cp);   /* P */
bool utf8_is_accent(uint32_t cp);  /* M */
bool utf8_is_word(uint32_t cp);    /* letters, marks, digits, connectors: \w of regular expressions */

/* A normal form of valid text into a malloc'ed *out of *outlen bytes, in linear time; *out NULL when the text is in that form already, as
 * almost all is. -1: out of memory. Source: UAX 15. */
enum utf8_form { UTF8_NFC, UTF8_NFD, UTF8_NFKC, UTF8_NFKD };
int utf8_normal(enum utf8_form f, const char *s, size_t n, char **out, size_t *outlen);
