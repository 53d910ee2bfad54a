/* header: what clients say in headers that has a grammar of its own. Each is read here, apart from who answers by it. */
#include "gateway/api/header.h"
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SEQ_DIGITS 15
#define OWS " \t"

/* The parameters of one coding, from its first `;` on: is its weight 0? */
static bool is_refused(const char *s, size_t n)
{
    const char *end = s + n;
    if (s == end || *s != ';') return false;
    s += 1 + strspn(s + 1, OWS);
    if (end - s < 3 || strncasecmp(s, "q=", 2) != 0) return false;
    s += 2;
    while (end > s && strchr(OWS, end[-1])) end--;
    return s < end && strspn(s, "0.") >= (size_t)(end - s);
}

bool header_takes_gzip(const char *s)
{
    bool star = false, found = false, gzip = false;
    while (s && *s) {
        s += strspn(s, OWS ",");
        size_t n = strcspn(s, ","), name = strcspn(s, OWS ";,"), to = name + strspn(s + name, OWS);
        bool taken = !is_refused(s + to, n - to);
        if (name == 1 && *s == '*') star = taken;
        if (name == 4 && strncasecmp(s, "gzip", 4) == 0) {
            found = true;
            gzip = taken;
        }
        s += n;
    }
    return found ? gzip : star;
}

int header_last_event(const char *id, int64_t *out, struct err *e)
{
    size_t digits = id ? strspn(id, "0123456789") : 0;
    if (digits > SEQ_DIGITS || (id && id[digits]))
        return err_field(e, ERR_INVALID, "Last-Event-ID", "'Last-Event-ID' must be the id of an event, at most %d digits, not '%.40s'.", SEQ_DIGITS, id);
    if (digits) *out = strtoll(id, NULL, 10);
    return 0;
}
