/* The multipart reader: one byte-driven machine, no look-ahead, no copy of bodies.
 *
 *              delimiter            CRLF              empty line
 *   PREAMBLE ------------> AFTER ---------> HEADERS -------------> BODY
 *                           ^ |  "--"                                |
 *                           | +-------> EPILOGUE                     |
 *                           +----------------------- delimiter ------+
 *
 * The delimiter is CR LF "--" boundary. A boundary cannot contain CR, so after a mismatch the only place where a new
 * match can begin is the byte that did not match: the matched prefix is body, and no table of failures is needed. At
 * the very start the line end before the first delimiter counts as seen.
 *
 * A mistake is final: the caller answers 400 and drops the rest. Called on the connection's worker thread only. */
#include "gateway/registry/multipart.h"
#include <string.h>
#include <strings.h>

enum { PREAMBLE, AFTER, AFTER_CR, AFTER_DASH, HEADERS, BODY, EPILOGUE };

/* RFC 2046's bchars; the last one must not be a space. */
static bool boundary_ok(const char *s, size_t n)
{
    static const char also[] = "'()+_,-./:=? ";
    if (n < 1 || n > MULTIPART_BOUNDARY_MAX || s[n - 1] == ' ') return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool alnum = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!alnum && (c == 0 || !strchr(also, c))) return false;
    }
    return true;
}

static const char *skip_space(const char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    return s;
}

/* One `; name=value` at *s: the name as [*name, *name_len), the value into out. Returns 1, 0 at the end of the header,
 * -1 when malformed or when the value does not fit. */
static int next_parameter(const char **s, const char **name, size_t *name_len, char *out, size_t out_size)
{
    const char *p = skip_space(*s);
    size_t n = 0;
    if (*p == 0) return 0;
    if (*p++ != ';') return -1;
    p = skip_space(p);
    *name = p;
    *name_len = strcspn(p, "=; \t\"");
    p += *name_len;
    if (*name_len == 0 || *p++ != '=') return -1;
    bool quoted = *p == '"';
    p += quoted;
    while (quoted ? *p && *p != '"' : *p && !strchr("; \t\"", *p)) {
        if (quoted && *p == '\\' && p[1]) p++;
        if (n + 1 >= out_size) return -1;
        out[n++] = *p++;
    }
    if (quoted && *p++ != '"') return -1;
    out[n] = 0;
    *s = p;
    return 1;
}

int multipart_boundary(const char *content_type, char out[MULTIPART_BOUNDARY_MAX + 1], struct err *e)
{
    static const char type[] = "multipart/form-data";
    const char *name, *p = content_type ? content_type : "";
    size_t name_len;
    char value[MULTIPART_BOUNDARY_MAX + 2];
    bool found = false;
    int rc;

    if (strncasecmp(p, type, sizeof type - 1) != 0 || !strchr("; \t", p[sizeof type - 1]))
        return err_set(e, ERR_MEDIA_TYPE, "this route takes multipart/form-data");
    p += sizeof type - 1;
    while ((rc = next_parameter(&p, &name, &name_len, value, sizeof value)) > 0) {
        if (name_len != 8 || strncasecmp(name, "boundary", 8) != 0) continue;
        if (found || !boundary_ok(value, strlen(value)))
            return err_set(e, ERR_INVALID, "the Content-Type's boundary is not 1 to %d allowed characters, given once",
                           MULTIPART_BOUNDARY_MAX);
        memcpy(out, value, strlen(value) + 1);
        found = true;
    }
    if (rc < 0 || !found) return err_set(e, ERR_INVALID, "the Content-Type multipart/form-data needs a valid boundary");
    return 0;
}

void multipart_init(struct multipart *m, const char *boundary, const struct multipart_events *ev, void *user)
{
    size_t n = strnlen(boundary, MULTIPART_BOUNDARY_MAX);
    memset(m, 0, sizeof *m);
    memcpy(m->delim, "\r\n--", 4);
    memcpy(m->delim + 4, boundary, n);
    m->delim_len = n + 4;
    m->ev = ev;
    m->user = user;
    m->state = PREAMBLE;
    m->matched = 2;
    m->implied = true;
}

/* Content-Disposition's value: `form-data; name="..."` and perhaps a filename. */
static int read_disposition(const char *v, struct multipart_part *part, struct err *e)
{
    const char *name;
    size_t name_len;
    char value[1025];
    int rc;

    if (strncasecmp(v, "form-data", 9) != 0)
        return err_set(e, ERR_INVALID, "multipart: a part's Content-Disposition is not form-data");
    v += 9;
    while ((rc = next_parameter(&v, &name, &name_len, value, sizeof value)) > 0) {
        if (name_len == 4 && strncasecmp(name, "name", 4) == 0) {
            if (part->name[0] || !value[0] || strlen(value) > MULTIPART_NAME_MAX)
                return err_set(e, ERR_INVALID, "multipart: a part's name must be 1 to %d characters, given once",
                               MULTIPART_NAME_MAX);
            memcpy(part->name, value, strlen(value) + 1);
        } else if (name_len >= 8 && strncasecmp(name, "filename", 8) == 0) {
            part->is_file = true;
        }
    }
    if (rc < 0 || !part->name[0])
        return err_set(e, ERR_INVALID, "multipart: a part's Content-Disposition is malformed or has no name");
    return 0;
}

/* One header line without its CRLF. */
static int read_header(char *line, struct multipart_part *part, bool *disposed, struct err *e)
{
    char *colon = strchr(line, ':');
    const char *v;

    if (!colon || colon == line || line[0] == ' ' || line[0] == '\t')
        return err_set(e, ERR_INVALID, "multipart: a part has a malformed header line");
    *colon = 0;
    v = skip_space(colon + 1);
    if (strcasecmp(line, "Content-Disposition") == 0) {
        if (*disposed) return err_set(e, ERR_INVALID, "multipart: a part has two Content-Disposition headers");
        *disposed = true;
        return read_disposition(v, part, e);
    }
    if (strcasecmp(line, "Content-Transfer-Encoding") == 0 && strcasecmp(v, "binary") && strcasecmp(v, "8bit") &&
        strcasecmp(v, "7bit"))
        return err_set(e, ERR_INVALID, "multipart: transfer encodings are not taken; send the bytes as they are");
    return 0;
}

/* The header block of a part is complete in m->head, which ends with CRLF CRLF (or is CRLF alone). */
static int finish_headers(struct multipart *m, struct err *e)
{
    struct multipart_part part = {0};
    bool disposed = false;
    char *line = m->head;

    if (strlen(m->head) != m->head_len) return err_set(e, ERR_INVALID, "multipart: a NUL byte in a part's headers");
    for (char *end; (end = strstr(line, "\r\n")) && end != line; line = end + 2) {
        *end = 0;
        if (strpbrk(line, "\r\n")) return err_set(e, ERR_INVALID, "multipart: header lines must end in CRLF");
        if (read_header(line, &part, &disposed, e)) return -1;
    }
    if (!disposed) return err_set(e, ERR_INVALID, "multipart: a part has no Content-Disposition");
    if (++m->parts > MULTIPART_PARTS_MAX)
        return err_set(e, ERR_INVALID, "multipart: more than %d parts", MULTIPART_PARTS_MAX);
    m->state = BODY;
    m->matched = 2; /* an empty body's delimiter may share the CRLF that ended the headers */
    m->implied = true;
    return m->ev->on_part(m->user, &part, e);
}

static int feed_header_byte(struct multipart *m, char c, struct err *e)
{
    if (m->head_len == MULTIPART_HEADERS_MAX)
        return err_set(e, ERR_INVALID, "multipart: a part's headers are longer than %d bytes", MULTIPART_HEADERS_MAX);
    m->head[m->head_len++] = c;
    m->head[m->head_len] = 0;
    bool blank = (m->head_len == 2 && memcmp(m->head, "\r\n", 2) == 0) ||
                 (m->head_len >= 4 && memcmp(m->head + m->head_len - 4, "\r\n\r\n", 4) == 0);
    return blank ? finish_headers(m, e) : 0;
}

static int feed_margin(struct multipart *m, size_t n, struct err *e)
{
    m->margin += n;
    if (m->margin > MULTIPART_MARGIN_MAX)
        return err_set(e, ERR_INVALID, "multipart: more than %d bytes outside the parts; is the boundary right?",
                       MULTIPART_MARGIN_MAX);
    return 0;
}

/* Bytes that turned out to be no delimiter. */
static int not_delimiter(struct multipart *m, const char *bytes, size_t n, struct err *e)
{
    if (n == 0) return 0;
    return m->state == PREAMBLE ? feed_margin(m, n, e) : m->ev->on_data(m->user, bytes, n, e);
}

/* PREAMBLE and BODY: look for the delimiter. *used gets how many bytes were taken. */
static int feed_search(struct multipart *m, const char *s, size_t n, size_t *used, struct err *e)
{
    if (m->matched == 0) { /* the common case: everything up to the next CR */
        const char *cr = memchr(s, '\r', n);
        *used = cr ? (size_t)(cr - s) : n;
        if (cr) m->matched = 1, ++*used;
        return not_delimiter(m, s, *used - (cr ? 1 : 0), e);
    }
    if (*s == m->delim[m->matched]) {
        *used = 1;
        if (++m->matched < m->delim_len) return 0;
        bool in_part = m->state == BODY;
        m->matched = m->head_len = 0;
        m->implied = false;
        m->state = AFTER;
        return in_part ? m->ev->on_part_end(m->user, e) : 0;
    }
    size_t skip = m->implied ? 2 : 0, held = m->matched;
    m->matched = 0;
    m->implied = false;
    *used = 0;
    return not_delimiter(m, m->delim + skip, held - skip, e);
}

/* Behind a delimiter: padding, then CRLF and headers, or "--" and the end. */
static int feed_after(struct multipart *m, char c, struct err *e)
{
    if (m->state == AFTER && c == '-' && m->head_len == 0)
        m->state = AFTER_DASH;
    else if (m->state == AFTER_DASH && c == '-')
        m->state = EPILOGUE;
    else if (m->state == AFTER && c == '\r')
        m->state = AFTER_CR;
    else if (m->state == AFTER && (c == ' ' || c == '\t') && m->head_len < MULTIPART_MARGIN_MAX)
        m->head_len++; /* RFC 2046's transport-padding */
    else if (m->state == AFTER_CR && c == '\n')
        m->state = HEADERS, m->head_len = 0;
    else
        return err_set(e, ERR_INVALID, "multipart: a boundary is followed by something else than a line end or \"--\"");
    return 0;
}

int multipart_feed(struct multipart *m, const char *bytes, size_t n, struct err *e)
{
    size_t i = 0;
    while (i < n) {
        size_t used = 1;
        int rc;
        switch (m->state) {
        case PREAMBLE:
        case BODY:
            rc = feed_search(m, bytes + i, n - i, &used, e);
            break;
        case HEADERS:
            rc = feed_header_byte(m, bytes[i], e);
            break;
        case EPILOGUE:
            used = n - i;
            rc = feed_margin(m, used, e);
            break;
        default:
            rc = feed_after(m, bytes[i], e);
        }
        if (rc) return -1;
        i += used;
    }
    return 0;
}

int multipart_end(struct multipart *m, struct err *e)
{
    if (m->state != EPILOGUE) return err_set(e, ERR_INVALID, "multipart: the body ends before the closing boundary");
    return 0;
}
