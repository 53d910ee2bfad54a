/* Regular expressions of structured output: what is compiled is walked along its masks, and an answer that may end is matched by PCRE2 as a whole, where that
 * reads the pattern in the same way. Choices are walked too: an answer is one of them. Input: the pattern, a NUL, bytes that steer the walk. */
#define PCRE2_CODE_UNIT_WIDTH 8
#define WALK_MAX 32
#include "tests/fuzz/constrain_walk.h"
#include <pcre2.h>

#define CHOICE_MAX 12 /* bytes: of a choice no more is to be learned from long ones */

/* False: PCRE2 could not say. */
static bool pcre_says(const char *pattern, const char *subject, bool *match)
{
    int code;
    PCRE2_SIZE at;
    char whole[8400];
    snprintf(whole, sizeof whole, "(?:%s)", pattern);
    pcre2_code *re = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ALT_BSUX | PCRE2_ALLOW_EMPTY_CLASS | PCRE2_DOLLAR_ENDONLY, &code, &at, NULL);
    if (!re) return false;
    pcre2_code_free(re);
    re = pcre2_compile((PCRE2_SPTR)whole, PCRE2_ZERO_TERMINATED,
                       PCRE2_UTF | PCRE2_ALT_BSUX | PCRE2_ALLOW_EMPTY_CLASS | PCRE2_DOLLAR_ENDONLY | PCRE2_ANCHORED | PCRE2_ENDANCHORED, &code, &at, NULL);
    if (!re) return false;
    pcre2_match_data *m = pcre2_match_data_create(1, NULL);
    pcre2_match_context *limits = pcre2_match_context_create(NULL);
    FUZZ_NEED(m && limits);
    pcre2_set_match_limit(limits, 20000);
    int rc = pcre2_match(re, (PCRE2_SPTR)subject, strlen(subject), 0, 0, m, limits);
    pcre2_match_context_free(limits);
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    *match = rc >= 0;
    return rc >= 0 || rc == PCRE2_ERROR_NOMATCH;
}

/* Where both dialects are one: letters, classes without escapes, groups, alternatives, repetitions. */
static bool is_plain(const char *p)
{
    for (const char *s = p; *s; s++)
        if (strchr("\\^$.#?", *s) || (*s == '[' && s[1] == ']') || (*s == '[' && strchr(s + 1, '[')) || (*s == '+' && s[1] == '+') || (s[0] == '(' && s[1] == '*') ||
            (*s == '}' && s[1] == '+') || (*s == '*' && s[1] == '+'))
            return false;
    return true;
}

static void check_choice(struct constrain *c, const char *pattern, const uint8_t *data, size_t n)
{
    static char out[8192];
    struct grammar *g = NULL;
    struct err e = {0};
    const char *choice[] = {pattern, "yes", "no", "yesterday"};
    if (grammar_choice(c, choice, 4, &g, &e)) {
        FUZZ_NEED(e.code == ERR_INVALID);
        return;
    }
    if (walk_grammar(g, data, n, out, sizeof out)) {
        bool one = false;
        for (int i = 0; i < 4; i++) one = one || !strcmp(out, choice[i]);
        FUZZ_NEED(one);
    }
    grammar_unref(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static char out[8192];
    struct constrain *c = walk_vocabulary();
    struct grammar *g = NULL;
    struct err e = {0};
    bool match = true;
    char *pattern = fuzz_until(&data, &n, 0);
    size_t len = strlen(pattern);
    if (len > 8192) pattern[len = 8192] = 0;
    if (grammar_regex(c, pattern, len, &g, &e))
        FUZZ_NEED(e.code == ERR_INVALID && e.msg[0] && !g);
    else if (walk_grammar(g, data, n, out, sizeof out) && is_plain(pattern) && pcre_says(pattern, out, &match))
        FUZZ_NEED(match);
    grammar_unref(g);
    if (len <= CHOICE_MAX) check_choice(c, pattern, data, n);
    free(pattern);
    return 0;
}
