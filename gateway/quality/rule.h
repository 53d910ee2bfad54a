/* Rules: what an answer's text must be like, as an alias's `evaluation` states it (docs/EVALUATION.md). A kind of rule is a row of rule.c: how it is checked
 * when it is set, and how it judges a text. Pure functions; a text or a rule of a stranger costs bounded time and memory. */
#pragma once
#include "base/err.h"
#include "base/json.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RULES_MAX 16
#define RULE_NAME_MAX 64     /* characters a-z 0-9 . _ - */
#define RULE_PATTERN_MAX 4096 /* bytes */
#define RULE_NOTE_LEN 160

/* What is looked at. */
struct rule_text {
    const char *s; /* UTF-8 */
    size_t n;
    int64_t tokens; /* of the answer, as billed */
};

struct verdict {
    bool scored; /* false: the rule has nothing to say of this text; note says why */
    bool passed;
    double score;             /* 0 to 1 */
    char note[RULE_NOTE_LEN]; /* why not, without the text's words as far as that can be; "": nothing to say */
};

void verdict_pass(struct verdict *v, bool passed, const char *why, ...) __attribute__((format(printf, 3, 4))); /* why: of one that failed */
void verdict_skip(struct verdict *v, const char *why);

/* One rule {name, kind, ...}: *out with all defaults written out, the caller's. ERR_INVALID, ERR_MISSING naming the field of the rule. */
int rule_read(const json_t *v, json_t **out, struct err *e);
/* Of one that was read. Never fails: what can't be judged is not scored. */
void rule_apply(const json_t *rule, const struct rule_text *t, struct verdict *v);

/* --- the kinds with a file of their own --- */

int rule_schema_read(const json_t *v, json_t *to, struct err *e);
void rule_schema_apply(const json_t *rule, const struct rule_text *t, struct verdict *v);
int rule_language_read(const json_t *v, json_t *to, struct err *e);
void rule_language_apply(const json_t *rule, const struct rule_text *t, struct verdict *v);

/* A pattern of PCRE2 in a text, under limits of steps and depth: 1 it is there, 0 not, -1 with why (it is none, or a limit was met). s NULL: is it one? */
int rule_match(const char *pattern, bool ignore_case, const char *s, size_t n, char why[RULE_NOTE_LEN]);
/* The same in so many steps. */
int rule_match_within(const char *pattern, bool ignore_case, const char *s, size_t n, uint32_t steps, char why[RULE_NOTE_LEN]);

/* The word of a language for a text, "" where it can't be told, and by how much it is the best (0 to 1). */
const char *language_of(const char *s, size_t n, double *sure);
bool language_known(const char *word);
/* Whether this is among the commonest words of any language that is known by them; w: lower case. */
bool language_stop_word(const char *w, size_t n);

/* One word of a text, from *at on: letters and digits, lower case, points and commas within numbers as points; a character of a script without spaces is a word. False: no more.
 * *end is set where a sentence ended between this word and the one before. */
#define WORD_MAX 64
struct word {
    char s[WORD_MAX]; /* cut there */
    size_t n, letters;
    bool number, after_end;
};
bool word_next(const char *s, size_t n, size_t *at, struct word *w);
