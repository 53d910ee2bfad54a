/* Units of compressed prompts: where a text may be cut, and what is left out of it. */
#include "engine/prompt_units.h"
#include <cmocka.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *text, *sentences, *words; /* with a | at each cut */
} texts[] = {
    {"One. Two! Three? Four", "One.| Two!| Three?| Four", "One.| Two!| Three?| Four"},
    {"At 3.50 a.m. it \"ended.\" Then (so.) no.", "At 3.50 a.m.| it \"ended.\"| Then (so.)| no.", "At| 3.50| a.m.| it| \"ended.\"| Then| (so.)| no."},
    {"a line\nanother\n\nlast", "a line|\nanother|\n\nlast", "a| line|\nanother|\n\nlast"},
    {"  lead", "  lead", "  lead"},
    {"trail.  ", "trail.|  ", "trail.|  "},
    {"What...?! Yes", "What...?!| Yes", "What...?!| Yes"},
    {"x", "x", "x"},
    {" ", " ", " "},
    {"他来了。你呢？！“好。”走吧", "他来了。|你呢？！|“好。”|走吧", "他来了。|你呢？！|“好。”|走吧"},
    {"雨，雪、风。\nA b", "雨，雪、风。|\nA b", "雨，|雪、|风。|\nA| b"},
    {"यह एक है। वह दो है॥", "यह एक है।| वह दो है॥", "यह| एक| है।| वह| दो| है॥"},
    {"كيف؟ جيد", "كيف؟| جيد", "كيف؟| جيد"},
    {"价格3.5元", "价格3.5元", "价格3.5元"},
};

static void cut(const char *s, bool words, char *out)
{
    size_t n = strlen(s), at = 0;
    while (at < n) {
        size_t end = unit_end(s, n, at, words);
        assert_true(end > at && end <= n);
        if (at) *out++ = '|';
        memcpy(out, s + at, end - at);
        out += end - at;
        at = end;
    }
    *out = 0;
}

static void texts_are_cut_into_sentences_and_words_and_nothing_is_lost(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char got[256];
        cut(texts[i].text, false, got);
        assert_string_equal(got, texts[i].sentences);
        cut(texts[i].text, true, got);
        assert_string_equal(got, texts[i].words);
    }
}

static const struct {
    double ratio;
    struct unit unit[6];
    int n, stay;
    const char *left_out; /* one letter a unit: x is left out */
} choices[] = {
    {0.5, {{0, 10, 1, false}, {0, 10, 3, false}, {0, 10, 2, false}, {0, 10, 4, false}}, 4, 20, "x.x."},
    {0.5, {{0, 30, 1, false}, {0, 5, 3, false}, {0, 5, 2, false}}, 3, 10, "x.."},
    {0.9, {{0, 10, 1, false}, {0, 10, 1, false}}, 2, 10, "x."},      /* of equals the earlier */
    {0.1, {{0, 10, 1, false}, {1, 10, 9, false}, {1, 10, 8, false}}, 3, 20, "..x"}, /* each part keeps one */
    {0.1, {{0, 10, 1, false}, {0, 10, 5, false}, {1, 10, 0, false}}, 3, 20, "x.."},
    {0.3, {{0, 10, INFINITY, false}, {0, 10, 2, false}, {0, 10, 1, false}}, 3, 10, ".xx"},
    {1.0, {{0, 10, 1, false}, {0, 10, 2, false}}, 2, 20, ".."},
};

static void the_least_informative_go_until_the_ratio_is_met(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        struct unit u[6];
        struct unit_rank rank[6];
        int stands[6];
        char got[7] = "";
        memcpy(u, choices[i].unit, sizeof u);
        int stay = units_choose(u, choices[i].n, choices[i].ratio, rank, stands);
        for (int k = 0; k < choices[i].n; k++) got[k] = u[k].left_out ? 'x' : '.';
        if (stay != choices[i].stay || strncmp(got, choices[i].left_out, 6) != 0) fail_msg("case %zu: %s, %d tokens stay", i, got, stay);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_are_cut_into_sentences_and_words_and_nothing_is_lost),
        cmocka_unit_test(the_least_informative_go_until_the_ratio_is_met),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
