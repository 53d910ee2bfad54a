/* Values as text, at the end of a piece of memory that the caller knows to be large enough: the inner loop of exports, which has a microsecond for
 * thirty values. Each function writes at `at` and returns the new end; none writes a NUL. Pure but for the cache of a day's date. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The most bytes that a byte of text becomes (\u001f), and those that a text has around it. */
#define TEXT_GROWTH 6
#define TEXT_AROUND 4
#define TEXT_NUMBER 24 /* of an integer, an amount */
#define TEXT_TIME 32

static inline char *text_bytes(char *at, const char *s, size_t n)
{
    memcpy(at, s, n);
    return at + n;
}
static inline char *text_word(char *at, const char *s)
{
    return text_bytes(at, s, strlen(s));
}

char *text_int(char *at, int64_t v);
char *text_nano(char *at, int64_t nano); /* in units: 1500000000 -> 1.5, 1 -> 0.000000001; exact */

/* A field of a CSV file (RFC 4180). In quotes where it needs them; what a spreadsheet would take for a formula or a command gets a ' before it
 * (OWASP, "CSV Injection"): it begins with = + - @, tab, CR, LF or the full-width forms of the first four. Bad UTF-8 becomes U+FFFD. */
char *text_csv(char *at, const char *s);
char *text_json(char *at, const char *s); /* a JSON string with its quotes */

/* UTC, RFC 3339. {0} to begin with. */
struct text_day {
    int64_t day;
    char date[11]; /* "2026-11-21T"; [0] 0: none yet */
};
char *text_time_us(char *at, struct text_day *d, int64_t wall_us); /* 2026-11-21T10:04:00.123456Z */
char *text_time_s(char *at, struct text_day *d, int64_t wall_s);   /* 2026-11-21T10:04:00Z */

/* The first second of the month that lies `months` after the one of wall_s (0: its own). */
int64_t text_month_start(int64_t wall_s, int months);
