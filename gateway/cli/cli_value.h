/* Values as people write them, as JSON as the API takes it.
 *
 *     COUNT    100k 5M 1.5G none      powers of 1000; "none" is null
 *     BYTES    512k 10MB 2GiB none    powers of 1000, with an i of 1024
 *     MONEY    12.50 none             nano-units, exactly
 *     MILLION  0.15                   a price of a million: nano-units of one
 *     SPAN     90 90s 15m 24h 30d 4w  seconds
 *     TIME     30d 2027-01-31 2027-01-31T12:00:00Z never    Unix seconds; a span is from now on
 *     FILE     a path, or - for stdin: its first line
 *     JSON     '{"a": 1}', @FILE, or none: an object; none is null
 *     PAIR     NAME=VALUE: an object of one; number, true and false where VALUE is one
 *
 * Decimals are taken exactly: what would have to be rounded is refused. */
#pragma once
#include <jansson.h>
#include <stdint.h>

enum cli_value_kind {
    CLI_V_ON,
    CLI_V_STR,
    CLI_V_INT,
    CLI_V_NUM,
    CLI_V_BOOL,
    CLI_V_LIST, /* a word of it */
    CLI_V_PAIR,
    CLI_V_COUNT,
    CLI_V_BYTES,
    CLI_V_MONEY,
    CLI_V_MILLION,
    CLI_V_SPAN,
    CLI_V_TIME,
    CLI_V_FILE,
    CLI_V_JSON,
};

#define CLI_WHY 256

/* 0 and *out, the caller's; or -1 and the reason, "not a number of bytes (...)". least, most: of numbers and spans; most 0:
 * none. */
int cli_value_read(enum cli_value_kind kind, const char *text, double least, double most, json_t **out,
                   char why[CLI_WHY]);

/* The other way: 100000 -> "100k", where that is exact; nano-units -> "12.5". */
void cli_value_count(int64_t v, char *out, size_t cap);
void cli_value_money(int64_t nano, char *out, size_t cap);

/* Numbers that a server says: as a whole one, and sums of them, which stay at the least and the greatest that there are. What is no number is 0. */
int64_t cli_value_whole(const json_t *v);
int64_t cli_value_sum(int64_t a, int64_t b);
