/* What exports write: a row of CSV fields is read back by the rules of Python's csv (excel dialect) as it was, but for bad UTF-8 and the ' that guards a
 * formula; a JSON string is read back by jansson; amounts, integers and times are read back as they were. Input: fields, with NULs between; at most 16. */
#include "base/buf.h"
#include "base/json.h"
#include "gateway/export/export_text.h"
#include "tests/fuzz/fuzz.h"
#include <time.h>

#define FIELDS_MAX 16

/* The excel dialect of Python's csv.reader: one field from *p on, unquoted into out; steps over its comma. False: a new line ends the row here. */
static bool read_field(const char **p, const char *end, struct buf *out)
{
    const char *s = *p;
    bool quoted = s < end && *s == '"';
    if (quoted)
        for (s++; s < end; s++) {
            if (*s == '"' && !(s + 1 < end && s[1] == '"')) break;
            if (*s == '"') s++;
            buf_addc(out, *s);
        }
    if (quoted) {
        FUZZ_NEED(s < end); /* the closing quote */
        s++;
    } else
        for (; s < end && *s != ',' && *s != '\r' && *s != '\n'; s++) buf_addc(out, *s);
    bool more = s < end && *s == ',';
    FUZZ_NEED(more || s == end || *s == '\n');
    *p = s + more;
    return more;
}

/* The text with bad UTF-8 as U+FFFD. */
static void mended(const char *s, size_t n, struct buf *out)
{
    while (n) {
        bool valid;
        size_t k = buf_utf8(s, n, &valid);
        if (valid)
            buf_add(out, s, k);
        else
            buf_adds(out, "\xef\xbf\xbd");
        s += k;
        n -= k;
    }
}

static bool is_command(const struct buf *b)
{
    static const char *const begins[] = {"=", "+", "-", "@", "\t", "\r", "\n", "\xef\xbc\x9d", "\xef\xbc\x8b", "\xef\xbc\x8d", "\xef\xbc\xa0"};
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++)
        if (strncmp(b->data, begins[i], strlen(begins[i])) == 0) return true;
    return false;
}

static void check_field(const char *field, const struct buf *got)
{
    struct buf want;
    buf_init(&want, 3 * strlen(field) + 16);
    mended(field, strlen(field), &want);
    bool guarded = is_command(&want);
    FUZZ_NEED(got->len == want.len + guarded && memcmp(got->data + guarded, want.data, want.len) == 0);
    FUZZ_NEED(!guarded || got->data[0] == '\'');
    FUZZ_NEED(!is_command(got));
    buf_close(&want);
}

static void check_row(char *const *field, int n)
{
    size_t cap = 16;
    for (int i = 0; i < n; i++) cap += strlen(field[i]) * TEXT_GROWTH + TEXT_AROUND + 1;
    char *row = malloc(cap), *at = row;
    FUZZ_NEED(row);
    for (int i = 0; i < n; i++) {
        if (i) *at++ = ',';
        at = text_csv(at, field[i]);
    }
    *at++ = '\n';
    FUZZ_NEED((size_t)(at - row) <= cap);
    const char *p = row;
    for (int i = 0; i < n; i++) {
        struct buf got;
        buf_init(&got, cap);
        bool more = read_field(&p, at, &got);
        FUZZ_NEED(more == (i + 1 < n));
        check_field(field[i], &got);
        buf_close(&got);
    }
    free(row);
}

static void check_json(const char *s)
{
    size_t n = strlen(s);
    char *text = malloc(n * TEXT_GROWTH + TEXT_AROUND), *end = text_json(text, s);
    FUZZ_NEED((size_t)(end - text) <= n * TEXT_GROWTH + TEXT_AROUND);
    struct buf want;
    json_t *v = json_loadb(text, (size_t)(end - text), JSON_DECODE_ANY, NULL);
    buf_init(&want, 3 * n + 16);
    mended(s, n, &want);
    FUZZ_NEED(json_is_string(v) && json_string_length(v) == want.len && memcmp(json_string_value(v), want.data, want.len) == 0);
    json_decref(v);
    buf_close(&want);
    free(text);
}

static void check_numbers(const uint8_t *data, size_t n)
{
    char text[64];
    int64_t v = 0;
    struct text_day day = {0};
    memcpy(&v, data, n < sizeof v ? n : sizeof v);
    *text_int(text, v) = 0;
    FUZZ_NEED(strtoll(text, NULL, 10) == v);
    *text_nano(text, v) = 0;
    __int128 nano = 0;
    int places = -1;
    for (const char *s = text + (*text == '-'); *s; s++) {
        if (*s == '.')
            places = 0;
        else {
            nano = nano * 10 + (*s - '0');
            if (places >= 0) places++;
        }
    }
    FUZZ_NEED(places != 0 && places <= 9 && (places < 0 || text[strlen(text) - 1] != '0'));
    for (int i = places < 0 ? 0 : places; i < 9; i++) nano *= 10;
    FUZZ_NEED((*text == '-' ? -nano : nano) == v);
    int64_t s = (int64_t)((uint64_t)v % 253402300800u), month = text_month_start(s, 0);
    *text_time_s(text, &day, s) = 0;
    struct tm tm = {0};
    FUZZ_NEED(strptime(text, "%Y-%m-%dT%H:%M:%SZ", &tm) && timegm(&tm) == s);
    FUZZ_NEED(month <= s && s - month < 31 * 86400 && text_month_start(s, 1) > s && text_month_start(text_month_start(s, 1), -1) == month);
    *text_time_us(text, &day, v) = 0;
    FUZZ_NEED(strlen(text) == 27);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *field[FIELDS_MAX];
    int fields = 0;
    check_numbers(data, n);
    while (n && fields < FIELDS_MAX) field[fields++] = fuzz_until(&data, &n, 0);
    if (fields) check_row(field, fields);
    for (int i = 0; i < fields; i++) {
        check_json(field[i]);
        free(field[i]);
    }
    return 0;
}
