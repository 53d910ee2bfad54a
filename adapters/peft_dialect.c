/* Which regular expressions mean to PCRE2 what they mean to Python's re, which PEFT uses.
 *
 * The two read most patterns alike. Where they don't, a pattern would name other modules here than in training, or be
 * an error there and a match here; so what only one of them knows is refused by its spelling, before it is compiled:
 *
 *     \Q..\E  \N  \h  \K  \R  ...    Python: "bad escape"
 *     [[:alpha:]]                    Python: a class of the letters ":alph" and a "]"
 *     (?i) behind the start          Python: an error; at the start of a pattern that stands alone it is fine
 *     (?R) (?1) (?|..) (?<n>..)      Python: an error
 *     {,3}                           Python: up to three times; PCRE2 before 10.43: the letters
 *
 * What PCRE2 refuses itself is not looked for. Names of modules have no newline and no letter beyond ASCII, where the
 * two differ more.
 *
 * Threads: any. */
#include "adapters/peft.h"
#include <stdio.h>
#include <string.h>

/* Letters that Python's re takes behind a backslash and PCRE2 reads alike. */
#define ESCAPES "AbBdDsSwWZafnrtx"
#define FLAGS "aimsux-"

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_hex(char c)
{
    return c && strchr("0123456789abcdefABCDEF", c);
}

/* `p` stands behind a backslash. */
static bool escape_differs(const char *p)
{
    if (*p == 'x') return !is_hex(p[1]) || !is_hex(p[2]);
    return is_letter(*p) && !strchr(ESCAPES, *p);
}

/* `p` stands at "(?". */
static bool group_differs(const char *p, bool at_start)
{
    static const char *const both[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?#", "(?(", "(?>", "(?P<", "(?P="};
    for (size_t i = 0; i < sizeof both / sizeof *both; i++)
        if (!strncmp(p, both[i], strlen(both[i]))) return false;
    size_t n = strspn(p + 2, FLAGS);
    if (!n) return true;
    return p[2 + n] == ')' ? !at_start : p[2 + n] != ':';
}

/* The end of a class that begins at p; *differs: it holds a POSIX class. */
static const char *class_end(const char *p, bool *differs)
{
    p += p[1] == '^' ? 2 : 1;
    for (const char *first = p; *p && (*p != ']' || p == first); p++) {
        if (*p == '[' && p[1] && strchr(":.=", p[1])) *differs = true;
        if (*p == '\\' && p[1] && escape_differs(++p)) *differs = true;
    }
    return p;
}

const char *peft_dialect_differs(const char *pattern, bool alone)
{
    for (const char *p = pattern; *p; p++) {
        bool differs = false;
        const char *at = p;
        if (*p == '\\' && p[1])
            differs = escape_differs(++p);
        else if (*p == '[')
            p = class_end(p, &differs);
        else if (!strncmp(p, "(?", 2))
            differs = group_differs(p, alone && p == pattern);
        else if (!strncmp(p, "{,", 2))
            differs = true;
        if (differs) return at;
        if (!*p) break;
    }
    return NULL;
}
