/* Tests of gateway/digest_header: Repr-Digest, Content-Digest, Content-Range. */
#include "gateway/registry/digest_header.h"
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* SHA-256 of "hello world" (RFC 9530 writes digests so). */
#define HELLO "uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek="
#define HELLO_HEX "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"

static void a_sha_256_is_found_among_others(void **state)
{
    static const char *const texts[] = {
        "sha-256=:" HELLO ":", "md5=:AAAA:, sha-256=:" HELLO ":",
        "sha-256=:" HELLO ":,sha-512=:AA==:", "xsha-256=:" HELLO ":, sha-256=:" HELLO ":"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        uint8_t sum[SHA256_BYTES];
        char hex[SHA256_HEX];
        struct err e = {0};
        assert_int_equal(digest_header(texts[i], "Repr-Digest", sum, &e), 1);
        sha256_hex(sum, hex);
        assert_string_equal(hex, HELLO_HEX);
    }
}

static void what_cannot_be_checked_is_refused_and_nothing_is_nothing(void **state)
{
    static const struct {
        const char *text;
        enum err_code code;
    } rows[] = {
        {"", ERR_UNSUPPORTED},
        {"sha-512=:AA==:", ERR_UNSUPPORTED},
        {"xsha-256=:" HELLO ":", ERR_UNSUPPORTED},
        {"sha-256=" HELLO, ERR_UNSUPPORTED},
        {"sha-256=:", ERR_INVALID},
        {"sha-256=::", ERR_INVALID},
        {"sha-256=:AAAA:", ERR_INVALID},
        {"sha-256=:" HELLO, ERR_INVALID},
        {"sha-256=:uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzel=:", ERR_INVALID}, /* bits that are left over */
        {"sha-256=:uU0nuZNNPgilLlLX2n2r-sSE7_N6U4DukIj3rOLvzek=:", ERR_INVALID},
        {"sha-256=: U0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=:", ERR_INVALID},
    };
    uint8_t sum[SHA256_BYTES];
    (void)state;
    assert_int_equal(digest_header(NULL, "Repr-Digest", sum, NULL), 0);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err e = {0};
        if (digest_header(rows[i].text, "Repr-Digest", sum, &e) != -1 || e.code != rows[i].code)
            fail_msg("'%s'", rows[i].text);
        assert_string_equal(e.param, "Repr-Digest");
    }
}

static void a_range_is_read_to_the_letter(void **state)
{
    static const struct {
        const char *text;
        int64_t first, last, total; /* first -1: refused */
    } rows[] = {
        {"bytes 0-9/10", 0, 9, 10},
        {"bytes 5-9/*", 5, 9, -1},
        {"bytes 0-0/1", 0, 0, 1},
        {"bytes 7-8/100", 7, 8, 100},
        {"", -1, 0, 0},
        {"bytes", -1, 0, 0},
        {"bytes 0-9", -1, 0, 0},
        {"bytes 9-0/10", -1, 0, 0},
        {"bytes 0-10/10", -1, 0, 0},
        {"bytes -5/10", -1, 0, 0},
        {"bytes 0-9/10 ", -1, 0, 0},
        {"bytes */10", -1, 0, 0},
        {"octets 0-9/10", -1, 0, 0},
        {"bytes 0-9/10,20-30/40", -1, 0, 0},
        {"bytes 0x0-9/10", -1, 0, 0},
        {"bytes 0-9999999999999999999/*", -1, 0, 0},
        {"bytes +0-9/10", -1, 0, 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t a = -7, b = -7, t = -7;
        struct err e = {0};
        int rc = content_range(rows[i].text, &a, &b, &t, &e);
        if (rows[i].first < 0 ? rc != -1 || e.code != ERR_INVALID || a != -7
                              : rc != 0 || a != rows[i].first || b != rows[i].last || t != rows[i].total)
            fail_msg("'%s' gives %d: %lld-%lld/%lld", rows[i].text, rc, (long long)a, (long long)b, (long long)t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sha_256_is_found_among_others),
        cmocka_unit_test(what_cannot_be_checked_is_refused_and_nothing_is_nothing),
        cmocka_unit_test(a_range_is_read_to_the_letter),
    };
    return cmocka_run_group_tests_name("digest_header", tests, NULL, NULL);
}
