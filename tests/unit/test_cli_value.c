/* Numbers of a server's answer, as `weft` adds and shows them. */
#include "gateway/cli/cli_value.c"
#include <cmocka.h>

static void any_number_becomes_a_whole_one(void **state)
{
    static const struct {
        const char *json;
        int64_t n;
    } rows[] = {{"5", 5}, {"-5", -5}, {"9223372036854775807", INT64_MAX}, {"-9223372036854775808", INT64_MIN}, {"2.75", 2}, {"-2.75", -2}, {"1e300", INT64_MAX},
                {"-1e300", INT64_MIN}, {"9223372036854775808.0", INT64_MAX}, {"-9223372036854775808.0", INT64_MIN}, {"\"5\"", 0}, {"null", 0}, {"true", 0}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *v = json_loads(rows[i].json, JSON_DECODE_ANY, NULL);
        assert_non_null(v);
        if (cli_value_whole(v) != rows[i].n) fail_msg("%s gives %lld", rows[i].json, (long long)cli_value_whole(v));
        json_decref(v);
    }
    assert_int_equal(cli_value_whole(NULL), 0);
}

static void a_sum_stays_at_its_ends(void **state)
{
    (void)state;
    assert_true(cli_value_sum(2, -5) == -3);
    assert_true(cli_value_sum(INT64_MAX, 1) == INT64_MAX && cli_value_sum(1, INT64_MAX) == INT64_MAX);
    assert_true(cli_value_sum(INT64_MIN, -1) == INT64_MIN && cli_value_sum(-1, INT64_MIN) == INT64_MIN);
    assert_true(cli_value_sum(INT64_MIN, INT64_MAX) == -1);
}

/* A flag is found by its name: of two rows of one name the second is nobody's. */
static void no_two_flags_have_one_name(void **state)
{
    static const char *const names[] = {
#define X(id, name, ...) name,
#include "gateway/cli/cli_flags.def"
#undef X
    };
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t j = 0; j < i; j++)
            if (strcmp(names[i], names[j]) == 0) fail_msg("%s", names[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_becomes_a_whole_one),
        cmocka_unit_test(a_sum_stays_at_its_ends),
        cmocka_unit_test(no_two_flags_have_one_name),
    };
    return cmocka_run_group_tests_name("cli_value", tests, NULL, NULL);
}
