/* A vocabulary for tests that stands in for engine/tokenizer: single bytes, and words that cross every border inside JSON. A test that
 * includes this defines the tokenizer's functions that engine/constrain calls, so the real ones are not linked. */
#pragma once
#include "engine/tokenizer.h"
#include <string.h>

static const char *const words[] = {
    "{\"",       "\":",   "\": ",         "\",\"",   "\", \"",   "\"}",  "\"}}",     "\"]",
    "],",        "}}}",   "{}",           "[]",      "[[",       "]]",   "},{",      "\": \"",
    "\":\"",     "a\":1", "name",         "nam",     "\"name\"", "true", "false",    "null",
    "tru",       "e,",    "12",           "100",     "-1",       "0.5",  ".25",      "1e",
    "\\u",       "\\n",   "\\\"",         "\\ud83d", "\\ude00",  "00",   "\xc3\xa9", "\xe6\x97\xa5\xe6\x9c\xac",
    "\xe6\x97",  "\xa5",  "\xf0\x9f\x98", "\x80\"",  "\xc3",     " ",    "  ",       "\n  ",
    "\n    ",    ",\n",   "abc",          "ab",      "abb",      "bb",   "xyz",      "hello world",
    "kind\":\"", "2024-", "-02-29",       "::",      "127.0",    "a@b",  " \"",
};
#define NWORDS ((int)(sizeof words / sizeof *words))
#define TOKEN_END (256 + NWORDS)     /* ends the answer */
#define TOKEN_EOT (256 + NWORDS + 1) /* so does this */
#define TOKEN_CTL (256 + NWORDS + 2) /* a control token whose text is a brace */
#define VOCAB (256 + NWORDS + 4)     /* the last token is empty */
#define WORDS32 ((VOCAB + 31) / 32)

struct tokenizer {
    char byte[256];
};
static struct tokenizer tok;

int tokenizer_vocab(const struct tokenizer *t)
{
    (void)t;
    return VOCAB;
}
bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
    (void)t;
    return id == TOKEN_END || id == TOKEN_EOT;
}
bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
    return tokenizer_is_end(t, id) || id == TOKEN_CTL;
}
const char *tokenizer_bytes(const struct tokenizer *t, int32_t id, size_t *len)
{
    const char *s = id < 256 ? &t->byte[id] : id < TOKEN_END ? words[id - 256] : id == TOKEN_CTL ? "{" : "";
    *len = id < 256 ? 1 : strlen(s);
    return s;
}
