/* Values as people write them: the kinds of gateway/cli/cli_value.h, a function each.
 *
 * A decimal is read as digits and a power of ten, and scaled in whole numbers, so "0.15" of a million is 150 nano-units and
 * not 149.99. Nothing is rounded: what does not come out whole is told. Bounds: 18 digits, a line of FILE_LINE bytes. */
#include "gateway/cli/cli_value.h"
#include "base/json.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DIGITS_MAX 18
#define FILE_LINE 4096
#define JSON_FILE_MAX (1 << 20) /* bytes */
#define NANO 1000000000LL
#define NANO_PER_MILLION 1000LL /* a price of 1 per million is 1000 nano-units each */
#define WORD 64                 /* of a value shown in a message */

static int no(char why[CLI_WHY], const char *what)
{
    snprintf(why, CLI_WHY, "%s", what);
    return -1;
}

/* --- exact decimals --- */

struct decimal {
    int64_t digits;
    int places; /* digits * 10^-places */
};

/* Digits with at most one point, from *s on; steps over them. */
static int read_decimal(const char **s, struct decimal *out)
{
    struct decimal d = {0};
    const char *p = *s;
    bool point = false;
    int n = 0;
    for (; isdigit((unsigned char)*p) || (*p == '.' && !point); p++) {
        if (*p == '.') {
            point = true;
            continue;
        }
        if (++n > DIGITS_MAX) return -1;
        d.digits = d.digits * 10 + (*p - '0');
        d.places += point;
    }
    if (!n || p[-1] == '.') return -1;
    *s = p;
    *out = d;
    return 0;
}

/* d * unit, whole and no larger than INT64_MAX; else -1. */
static int64_t scale(struct decimal d, int64_t unit)
{
    __int128 v = (__int128)d.digits * unit;
    for (int i = 0; i < d.places; i++) {
        if (v % 10) return -1;
        v /= 10;
    }
    return v <= INT64_MAX ? (int64_t)v : -1;
}

struct unit {
    const char *word;
    int64_t of;
};

static const struct unit counts[] = {{"", 1}, {"k", 1000}, {"m", 1000000}, {"g", NANO}, {"b", NANO}, {NULL, 0}};
static const struct unit bytes[] = {
    {"", 1},          {"b", 1},         {"k", 1000},      {"kb", 1000},       {"m", 1000000},
    {"mb", 1000000},  {"g", NANO},      {"gb", NANO},     {"t", 1000 * NANO}, {"tb", 1000 * NANO},
    {"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1LL << 40}, {NULL, 0}};
static const struct unit spans[] = {{"", 1}, {"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 604800}, {NULL, 0}};
static const struct unit money[] = {{"", NANO}, {NULL, 0}};
static const struct unit per_million[] = {{"", NANO_PER_MILLION}, {NULL, 0}};

/* A decimal with a unit: its value, or -1. */
static int64_t with_unit(const char *text, const struct unit *units)
{
    struct decimal d;
    const char *p = text;
    if (read_decimal(&p, &d)) return -1;
    for (; units->word; units++)
        if (!strcasecmp(p, units->word)) return scale(d, units->of);
    return -1;
}

static bool is_none(const char *text)
{
    return !strcasecmp(text, "none") || !strcasecmp(text, "never") || !strcasecmp(text, "unlimited");
}

static int read_united(const char *text, const struct unit *units, bool none, const char *what, json_t **out,
                       char why[CLI_WHY])
{
    int64_t v = none && is_none(text) ? 0 : with_unit(text, units);
    if (v < 0) return no(why, what);
    *out = none && is_none(text) ? json_null() : json_integer(v);
    return 0;
}

/* --- numbers --- */

static int read_number(enum cli_value_kind kind, const char *text, double least, double most, json_t **out,
                       char why[CLI_WHY])
{
    char *end;
    errno = 0;
    double x = strtod(text, &end);
    bool whole = kind != CLI_V_INT || x == floor(x);
    if (end == text || *end || errno || !whole || !(x >= least && x <= most)) {
        snprintf(why, CLI_WHY, "not a %snumber from %g to %g", kind == CLI_V_INT ? "whole " : "", least, most);
        return -1;
    }
    *out = kind == CLI_V_INT ? json_integer((json_int_t)x) : json_real(x);
    return 0;
}

static int read_bool(const char *text, json_t **out, char why[CLI_WHY])
{
    static const char *const words[] = {"no", "yes", "false", "true", "off", "on", "0", "1"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i])) continue;
        *out = json_boolean(i % 2);
        return 0;
    }
    return no(why, "neither yes nor no");
}

/* --- times --- */

static int read_span(const char *text, double least, double most, json_t **out, char why[CLI_WHY])
{
    int64_t v = with_unit(text, spans);
    if (v < 0) return no(why, "not a time like 90s, 15m, 24h or 30d");
    if ((double)v < least || (most > 0 && (double)v > most)) {
        snprintf(why, CLI_WHY, "not from %g to %g seconds", least, most > 0 ? most : 1e9);
        return -1;
    }
    *out = json_integer(v);
    return 0;
}

/* A date alone is its first second, UTC; -1: none. */
static int64_t read_date(const char *text)
{
    static const char *const formats[] = {"%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M:%S",
                                          "%Y-%m-%d %H:%M", "%Y-%m-%d"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        struct tm tm = {0};
        const char *end = strptime(text, formats[i], &tm);
        if (end && !*end) return timegm(&tm);
    }
    return -1;
}

static int read_time(const char *text, json_t **out, char why[CLI_WHY])
{
    int64_t t = read_date(text), span = with_unit(text, spans);
    bool bare = !text[strspn(text, "0123456789")];
    if (is_none(text)) {
        *out = json_null();
        return 0;
    }
    if (t < 0 && span >= 0 && span < INT64_MAX / 2)
        t = bare ? span : (int64_t)time(NULL) + span; /* digits alone: Unix seconds */
    if (t < 0) return no(why, "not a time like 30d, 2027-01-31, 2027-01-31T12:00:00Z or never");
    *out = json_integer(t);
    return 0;
}

/* --- words --- */

static int read_text(const char *text, json_t **out, char why[CLI_WHY])
{
    *out = json_string(text);
    return *out ? 0 : no(why, "not valid UTF-8");
}

static int read_file(const char *path, json_t **out, char why[CLI_WHY])
{
    char line[FILE_LINE] = "";
    bool standard = !strcmp(path, "-");
    FILE *f = standard ? stdin : fopen(path, "re");
    if (!f || !fgets(line, sizeof line, f)) line[0] = 0;
    int failed = errno;
    bool there = f != NULL;
    if (f && !standard) fclose(f);
    if (!there) return no(why, strerrordesc_np(failed));
    bool whole = strlen(line) + 1 < sizeof line;
    line[strcspn(line, "\r\n")] = 0;
    int rc = !whole   ? no(why, "its first line is too long")
             : !*line ? no(why, "its first line is empty")
                      : read_text(line, out, why);
    explicit_bzero(line, sizeof line);
    return rc;
}

static json_t *guess(const char *text)
{
    json_t *v = NULL;
    char why[CLI_WHY], *end;
    if (!strcmp(text, "true") || !strcmp(text, "false")) return json_boolean(text[0] == 't');
    if (!read_number(CLI_V_INT, text, -9e15, 9e15, &v, why)) return v;
    double x = strtod(text, &end);
    return *text && !*end && isfinite(x) ? json_real(x) : json_string(text);
}

static int read_pair(const char *text, json_t **out, char why[CLI_WHY])
{
    const char *eq = strchr(text, '=');
    char name[WORD];
    if (!eq || eq == text || eq - text >= WORD) return no(why, "not of the form NAME=VALUE");
    snprintf(name, sizeof name, "%.*s", (int)(eq - text), text);
    json_t *o = json_object();
    if (!json_object_set_new(o, name, guess(eq + 1))) {
        *out = o;
        return 0;
    }
    json_decref(o);
    return no(why, "not valid UTF-8");
}

/* A file's text, to be freed; NULL with the reason. */
static char *read_all(const char *path, char why[CLI_WHY])
{
    FILE *f = fopen(path, "rb");
    char *text = f ? malloc(JSON_FILE_MAX + 1) : NULL;
    size_t n = text ? fread(text, 1, JSON_FILE_MAX + 1, f) : 0;
    bool good = text && !ferror(f) && n <= JSON_FILE_MAX;
    if (f) fclose(f);
    if (good) {
        text[n] = 0;
        return text;
    }
    free(text);
    snprintf(why, CLI_WHY, "%.120s: %s", path, f ? "too long, or it can't be read" : strerror(errno));
    return NULL;
}

static int read_json(const char *text, json_t **out, char why[CLI_WHY])
{
    char *file = NULL;
    struct err e = {0};
    json_t *o = NULL;
    if (!strcmp(text, "none")) return *out = json_null(), 0;
    if (*text == '@' && !(file = read_all(text + 1, why))) return -1;
    const char *said = file ? file : text;
    int rc = json_parse(said, strlen(said), &o, &e);
    if (rc) snprintf(why, CLI_WHY, "%.*s", CLI_WHY - 1, e.msg);
    free(file);
    *out = o;
    return rc;
}

int cli_value_read(enum cli_value_kind kind, const char *text, double least, double most, json_t **out,
                   char why[CLI_WHY])
{
    switch (kind) {
    case CLI_V_ON:
        *out = json_true();
        return 0;
    case CLI_V_STR:
    case CLI_V_LIST:
        return read_text(text, out, why);
    case CLI_V_INT:
    case CLI_V_NUM:
        return read_number(kind, text, least, most, out, why);
    case CLI_V_BOOL:
        return read_bool(text, out, why);
    case CLI_V_PAIR:
        return read_pair(text, out, why);
    case CLI_V_COUNT:
        return read_united(text, counts, true, "not a whole number like 500, 100k, 5M or none", out, why);
    case CLI_V_BYTES:
        return read_united(text, bytes, true, "not a size like 512k, 10MB, 2GiB or none", out, why);
    case CLI_V_MONEY:
        return read_united(text, money, true, "not an amount like 12.50 (to 9 decimals) or none", out, why);
    case CLI_V_MILLION:
        return read_united(text, per_million, false, "not a price of a million tokens like 0.15 (to 3 decimals)", out,
                           why);
    case CLI_V_SPAN:
        return read_span(text, least, most, out, why);
    case CLI_V_TIME:
        return read_time(text, out, why);
    case CLI_V_FILE:
        return read_file(text, out, why);
    case CLI_V_JSON:
        return read_json(text, out, why);
    }
    return no(why, "not a value");
}

/* --- the other way --- */

void cli_value_count(int64_t v, char *out, size_t cap)
{
    static const struct unit up[] = {{"G", NANO}, {"M", 1000000}, {"k", 1000}};
    for (size_t i = 0; i < sizeof up / sizeof *up; i++) {
        if (v < up[i].of || v % (up[i].of / 10)) continue;
        int tenth = (int)(v % up[i].of / (up[i].of / 10));
        int n = snprintf(out, cap, "%" PRId64, v / up[i].of);
        if (tenth) n += snprintf(out + n, cap - (size_t)n, ".%d", tenth);
        snprintf(out + n, cap - (size_t)n, "%s", up[i].word);
        return;
    }
    snprintf(out, cap, "%" PRId64, v);
}

void cli_value_money(int64_t nano, char *out, size_t cap)
{
    char text[48];
    uint64_t v = nano < 0 ? -(uint64_t)nano : (uint64_t)nano;
    int n = snprintf(text, sizeof text, "%s%" PRIu64 ".%09" PRIu64, nano < 0 ? "-" : "", v / (uint64_t)NANO,
                     v % (uint64_t)NANO);
    while (n > 3 && text[n - 1] == '0' && text[n - 3] != '.') text[--n] = 0; /* two decimals stay */
    snprintf(out, cap, "%s", text);
}

int64_t cli_value_whole(const json_t *v)
{
    double d = json_number_value(v);
    if (json_is_integer(v)) return json_integer_value(v);
    if (d >= 0x1p63) return INT64_MAX;
    return d < -0x1p63 ? INT64_MIN : (int64_t)d;
}

int64_t cli_value_sum(int64_t a, int64_t b)
{
    int64_t sum;
    if (!__builtin_add_overflow(a, b, &sum)) return sum;
    return a < 0 ? INT64_MIN : INT64_MAX;
}
