/* err: one sentence about what went wrong, and the table of what a code means to a client.
 *
 * The struct lives in the caller's frame and nothing here allocates, so an error can be recorded when memory is gone.
 * The first error wins: a failing clean-up cannot hide the cause that made it necessary. A message longer than the
 * struct is cut at a whole UTF-8 character, for it goes into JSON as it is. Any thread; no state. */
#include "base/err.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct err_info infos[ERR_CODES] = {
    [ERR_NONE] = {"NONE", 200, "none", NULL},
#define X(name, status, type, code, doc) [ERR_##name] = {#name, status, type, code},
#include "schema/errors.def"
#undef X
};

/* snprintf may have cut a character of several bytes in two: drop what is left of it. */
static void trim_utf8(char *s)
{
    size_t n = strlen(s), i = n;
    while (i > 0 && n - i < 3 && ((unsigned char)s[i - 1] & 0xC0) == 0x80) i--;
    if (i == 0) return;
    unsigned char lead = (unsigned char)s[i - 1];
    size_t want = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (want > n - (i - 1)) s[i - 1] = 0;
}

static void fill(struct err *e, enum err_code code, const char *param, const char *fmt, va_list ap)
{
    e->code = code;
    snprintf(e->param, sizeof e->param, "%s", param);
    if (vsnprintf(e->msg, sizeof e->msg, fmt, ap) >= (int)sizeof e->msg) trim_utf8(e->msg);
}

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
    if (!e || e->code) return -1;
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, "", fmt, ap);
    va_end(ap);
    return -1;
}

int err_later(struct err *e, enum err_code code, int s, const char *fmt, ...)
{
    if (!e || e->code) return -1;
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, "", fmt, ap);
    va_end(ap);
    e->retry_after_s = s;
    return -1;
}

int err_field(struct err *e, enum err_code code, const char *param, const char *fmt, ...)
{
    if (!e || e->code) return -1;
    va_list ap;
    va_start(ap, fmt);
    fill(e, code, param, fmt, ap);
    va_end(ap);
    return -1;
}

int err_errno(struct err *e, const char *fmt, ...)
{
    int saved = errno;
    if (!e || e->code) return -1;
    va_list ap;
    va_start(ap, fmt);
    fill(e, ERR_IO, "", fmt, ap);
    va_end(ap);
    char reason[96];
    const char *word = strerror_r(saved, reason, sizeof reason);
    size_t n = strlen(e->msg);
    if (snprintf(e->msg + n, sizeof e->msg - n, ": %s", word) >= (int)(sizeof e->msg - n)) trim_utf8(e->msg);
    return -1;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
    if (!e || !e->code) return -1;
    char before[sizeof e->msg], all[2 * sizeof e->msg + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(before, sizeof before, fmt, ap);
    va_end(ap);
    snprintf(all, sizeof all, "%s: %s", before, e->msg);
    size_t n = strlen(all), fits = n < sizeof e->msg ? n : sizeof e->msg - 1;
    memcpy(e->msg, all, fits);
    e->msg[fits] = 0;
    if (fits < n) trim_utf8(e->msg);
    return -1;
}

int err_within(struct err *e, const char *owner)
{
    if (!e || !e->code) return -1;
    char field[sizeof e->param];
    snprintf(field, sizeof field, "%s", e->param);
    int n = snprintf(e->param, sizeof e->param, "%s%s%s", owner, *field ? "." : "", field);
    if (n < 0 || n >= (int)sizeof e->param) snprintf(e->param, sizeof e->param, "%s", owner);
    return -1;
}

void err_clear(struct err *e)
{
    memset(e, 0, sizeof *e);
}

const struct err_info *err_info(enum err_code code)
{
    return (unsigned)code < ERR_CODES ? &infos[code] : &infos[ERR_INTERNAL];
}

enum err_code err_by_word(const char *word)
{
    for (int i = 1; word && i < ERR_CODES; i++)
        if (infos[i].code && strcmp(infos[i].code, word) == 0) return (enum err_code)i;
    return ERR_NONE;
}
