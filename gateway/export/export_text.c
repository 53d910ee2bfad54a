/* export_text: see export_text.h. No printf and no locale: a row of an export has thirty values and five microseconds, reading it included.
 *
 * Dates are computed by the proleptic Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms": days from civil and back) and
 * the last day's text is kept, for rows come nearly in order. Any thread; a text_day belongs to one. */
#include "gateway/export/export_text.h"
#include "base/buf.h"
#include <stdbool.h>

#define DAY 86400
#define NANO 1000000000

char *text_int(char *at, int64_t v)
{
    char digit[20];
    uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
    int n = 0;
    if (v < 0) *at++ = '-';
    do digit[n++] = (char)('0' + u % 10);
    while (u /= 10);
    while (n) *at++ = digit[--n];
    return at;
}

/* Exactly n digits. */
static char *fixed(char *at, uint64_t v, int n)
{
    for (int i = n; i-- > 0; v /= 10) at[i] = (char)('0' + v % 10);
    return at + n;
}

char *text_nano(char *at, int64_t nano)
{
    uint64_t u = nano < 0 ? -(uint64_t)nano : (uint64_t)nano, part = u % NANO;
    if (nano < 0) *at++ = '-';
    at = text_int(at, (int64_t)(u / NANO));
    if (!part) return at;
    *at++ = '.';
    at = fixed(at, part, 9);
    while (at[-1] == '0') at--;
    return at;
}

/* --- texts --- */

static const char replacement[] = "\xef\xbf\xbd";

/* One character of more than a byte; what is none becomes U+FFFD. */
static char *copy_character(char *at, const char **s, size_t n)
{
    bool valid;
    size_t len = buf_utf8(*s, n, &valid);
    at = valid ? text_bytes(at, *s, len) : text_bytes(at, replacement, 3);
    *s += len;
    return at;
}

static bool is_formula(const char *s)
{
    static const char *const wide[] = {"\xef\xbc\x9d", "\xef\xbc\x8b", "\xef\xbc\x8d", "\xef\xbc\xa0"}; /* full-width = + - @ */
    if (*s && strchr("=+-@\t\r\n", *s)) return true;
    for (size_t i = 0; i < sizeof wide / sizeof *wide && (unsigned char)*s == 0xef; i++)
        if (strncmp(s, wide[i], 3) == 0) return true;
    return false;
}

/* Bytes from s on that are in a CSV field as they are, quoted or not. */
static size_t plain_csv(const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && (unsigned char)s[i] < 0x80 && s[i] != '"') i++;
    return i;
}

static char *quoted_csv(char *at, const char *s, size_t n)
{
    const char *end = s + n;
    *at++ = '"';
    if (is_formula(s)) *at++ = '\'';
    while (s < end) {
        size_t k = plain_csv(s, (size_t)(end - s));
        at = text_bytes(at, s, k);
        s += k;
        if (s == end) break;
        if (*s == '"') {
            at = text_bytes(at, "\"\"", 2);
            s++;
        } else
            at = copy_character(at, &s, (size_t)(end - s));
    }
    *at++ = '"';
    return at;
}

/* Letters, digits and the signs of names and paths, which need no look. */
static bool is_easy(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '-' || c == '/' || c == ':';
}

char *text_csv(char *at, const char *s)
{
    size_t n = 0;
    if (*s != '-')
        for (; is_easy((unsigned char)s[n]); n++) at[n] = s[n];
    if (!s[n]) return at + n;
    return quoted_csv(at, s, n + strlen(s + n));
}

static char *escape(char *at, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";
    if (c == '"' || c == '\\') {
        *at++ = '\\';
        *at++ = (char)c;
        return at;
    }
    at = text_bytes(at, "\\u00", 4);
    *at++ = hex[c >> 4];
    *at++ = hex[c & 15];
    return at;
}

char *text_json(char *at, const char *s)
{
    const char *end = s + strlen(s);
    *at++ = '"';
    while (s < end) {
        unsigned char c = (unsigned char)*s;
        if (c >= 0x80)
            at = copy_character(at, &s, (size_t)(end - s));
        else if (c < 0x20 || c == 0x7f || c == '"' || c == '\\')
            at = escape(at, (unsigned char)*s++);
        else
            *at++ = *s++;
    }
    *at++ = '"';
    return at;
}

/* --- times --- */

struct civil {
    int64_t year;
    unsigned month, day;
};

static struct civil civil_of(int64_t days)
{
    days += 719468; /* since 0000-03-01 */
    int64_t era = (days >= 0 ? days : days - 146096) / 146097;
    unsigned of_era = (unsigned)(days - era * 146097);
    unsigned year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * year + year / 4 - year / 100), shifted = (5 * of_year + 2) / 153;
    unsigned month = shifted < 10 ? shifted + 3 : shifted - 9;
    return (struct civil){(int64_t)year + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) / 5 + 1};
}

static int64_t days_of(struct civil c)
{
    int64_t year = c.year - (c.month <= 2), era = (year >= 0 ? year : year - 399) / 400;
    unsigned of_era = (unsigned)(year - era * 400), of_year = (153 * (c.month > 2 ? c.month - 3 : c.month + 9) + 2) / 5 + c.day - 1;
    return era * 146097 + (int64_t)(of_era * 365 + of_era / 4 - of_era / 100 + of_year) - 719468;
}

int64_t text_month_start(int64_t wall_s, int months)
{
    struct civil c = civil_of(wall_s / DAY);
    int64_t month = c.year * 12 + c.month - 1 + months;
    return days_of((struct civil){month / 12, (unsigned)(month % 12) + 1, 1}) * DAY;
}

static int64_t clamp(int64_t wall_s)
{
    return wall_s < 0 ? 0 : wall_s > 253402300799 ? 253402300799 : wall_s; /* 9999-12-31 */
}

static char *until_seconds(char *at, struct text_day *d, int64_t wall_s)
{
    int64_t day = wall_s / DAY, s = wall_s % DAY;
    if (!d->date[0] || d->day != day) {
        struct civil c = civil_of(day);
        char *p = fixed(d->date, (uint64_t)c.year, 4);
        *p++ = '-';
        p = fixed(p, c.month, 2);
        *p++ = '-';
        p = fixed(p, c.day, 2);
        *p = 'T';
        d->day = day;
    }
    at = fixed(text_bytes(at, d->date, 11), (uint64_t)s / 3600, 2);
    *at++ = ':';
    at = fixed(at, (uint64_t)s / 60 % 60, 2);
    *at++ = ':';
    return fixed(at, (uint64_t)s % 60, 2);
}

char *text_time_s(char *at, struct text_day *d, int64_t wall_s)
{
    at = until_seconds(at, d, clamp(wall_s));
    *at++ = 'Z';
    return at;
}

char *text_time_us(char *at, struct text_day *d, int64_t wall_us)
{
    if (wall_us < 0) wall_us = 0;
    at = until_seconds(at, d, clamp(wall_us / 1000000));
    *at++ = '.';
    at = fixed(at, (uint64_t)wall_us % 1000000, 6);
    *at++ = 'Z';
    return at;
}
