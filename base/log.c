/* log: one event, one line, one write(2).
 *
 * A line is built on the caller's stack and written whole, so lines of several threads never mix (POSIX promises that
 * for pipes up to PIPE_BUF, which is the 4 KiB of a line, and Linux keeps it for files opened with O_APPEND). What it
 * refuses: a value that forges a line or a field. Anything but plain visible characters is quoted; control characters,
 * C1 included, are escaped; bytes that are no UTF-8 become U+FFFD. A line that does not fit is cut and says "...". A
 * write that fails is dropped: a full disk must not stop the service. Any thread, after log_init(). */
#include "base/log.h"
#include "base/buf.h"
#include "base/clock.h"
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096
#define TAIL 8 /* kept free for the closing quote, "..." and the newline */

static const char *const words[] = {"debug", "info", "warn", "error"};
static char program_name[32];
static _Atomic int least_level = LOG_INFO;

struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
    bool full;
};

void log_init(const char *program, enum log_level least)
{
    snprintf(program_name, sizeof program_name, "%s", program);
    least_level = least;
}

void log_set_level(enum log_level least)
{
    least_level = least;
}

bool log_is_on(enum log_level level)
{
    return (int)level >= least_level;
}

int log_level_parse(const char *word)
{
    for (int i = 0; i < (int)(sizeof words / sizeof *words); i++)
        if (strcmp(word, words[i]) == 0) return i;
    return -1;
}

/* All or nothing, so a cut never falls inside a character or an escape. */
static void put(struct line *l, const char *s, size_t n)
{
    if (l->full || n > sizeof l->text - TAIL - l->len) {
        l->full = true;
        return;
    }
    memcpy(l->text + l->len, s, n);
    l->len += n;
}

static void puts_line(struct line *l, const char *s)
{
    put(l, s, strlen(s));
}

static bool is_bare(const char *s)
{
    if (!*s) return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7F || *s == '"' || *s == '=' || *s == '\\') return false;
    return true;
}

static void put_char(struct line *l, const char *s, size_t len, bool valid)
{
    unsigned char c = (unsigned char)s[0];
    bool c1 = valid && len == 2 && c == 0xC2 && (unsigned char)s[1] < 0xA0;
    char esc[8];
    if (!valid)
        put(l, "\xEF\xBF\xBD", 3);
    else if (c == '"' || c == '\\')
        put(l, (char[2]){'\\', (char)c}, 2);
    else if (c == '\n')
        put(l, "\\n", 2);
    else if (c == '\r')
        put(l, "\\r", 2);
    else if (c == '\t')
        put(l, "\\t", 2);
    else if (c < 0x20 || c == 0x7F || c1) {
        snprintf(esc, sizeof esc, "\\u%04x", c1 ? (unsigned char)s[1] : c);
        put(l, esc, 6);
    } else
        put(l, s, len);
}

static void put_value(struct line *l, const char *s)
{
    if (is_bare(s)) {
        for (; *s && !l->full; s++) put(l, s, 1);
        return;
    }
    put(l, "\"", 1);
    bool opened = !l->full;
    for (size_t n = strlen(s), i = 0; i < n && !l->full;) {
        bool valid;
        size_t len = buf_utf8(s + i, n - i, &valid);
        put_char(l, s + i, len, valid);
        i += len;
    }
    if (opened && l->full) {
        memcpy(l->text + l->len, "...\"", 4); /* TAIL has the room */
        l->len += 4;
    } else
        put(l, "\"", 1);
}

static void put_field(struct line *l, const struct log_field *f)
{
    char number[32];
    put(l, " ", 1);
    puts_line(l, f->key);
    put(l, "=", 1);
    if (f->kind == LOG_STR) {
        put_value(l, f->s ? f->s : "");
        return;
    }
    if (f->kind == LOG_INT)
        snprintf(number, sizeof number, "%lld", (long long)f->i);
    else
        snprintf(number, sizeof number, "%.6g", isfinite(f->d) ? f->d : 0.0);
    puts_line(l, number);
}

static void put_head(struct line *l, enum log_level level, const char *event)
{
    char ts[CLOCK_ISO_LEN];
    clock_iso(clock_wall_us(), ts);
    puts_line(l, "ts=");
    puts_line(l, ts);
    put_field(l, &LS("level", words[level]));
    if (program_name[0]) put_field(l, &LS("program", program_name));
    put_field(l, &LS("event", event));
}

void log_event(enum log_level level, const char *event, const struct log_field *fields)
{
    if (!log_is_on(level)) return;
    int saved = errno;
    struct line l;
    l.len = 0;
    l.full = false;
    put_head(&l, level, event);
    for (const struct log_field *f = fields; f->key && !l.full; f++) put_field(&l, f);
    if (l.full && l.text[l.len - 1] != '"') {
        memcpy(l.text + l.len, "...", 3);
        l.len += 3;
    }
    l.text[l.len++] = '\n';
    ssize_t written;
    do written = write(STDERR_FILENO, l.text, l.len);
    while (written < 0 && errno == EINTR);
    errno = saved;
}
