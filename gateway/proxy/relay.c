/* The splitter of server-sent events (WHATWG HTML, section 9.2) that takes the counts out.
 *
 * Lines are the unit: a comment line of ours is removed, any other line goes on as it came. All that one feed completes
 * is gathered and emitted as one piece, so a flush of the engine is one write to the client. The piece is cut in two
 * only where an event is not complete:
 *
 *     [ events complete: mark = OUTPUT of the last comment ] [ lines of an event that goes on: the same mark ]
 *
 * The comment comes before the event it counts, so its OUTPUT becomes the mark at the empty line that ends that event.
 * A comment of ours that stands in a block of its own takes the empty line behind it along.
 *
 * The searches for "finish_reason" and "usage" are by text: inside a JSON string every quote is escaped, so an
 * unescaped key between quotes and before a colon is a key. This spares parsing every chunk of every stream. Client's
 * thread only. */
#include "gateway/proxy/relay.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TIME_MAX_US 86400000000LL /* of a step: a day */

void relay_init(struct relay *r)
{
    memset(r, 0, sizeof *r);
    buf_init(&r->line, RELAY_LINE_MAX);
}

void relay_close(struct relay *r)
{
    buf_close(&r->line);
}

void relay_reset(struct relay *r)
{
    struct relay was = *r;
    relay_close(r);
    relay_init(r);
    r->event = was.event;
    r->event_user = was.event_user;
}

/* The value of a string member `key` (given with quotes) into out, if it is there and is a short string. */
static void find_word(const char *s, size_t n, const char *key, char out[16])
{
    const char *p = memmem(s, n, key, strlen(key)), *end = s + n;
    if (!p) return;
    for (p += strlen(key); p < end && (*p == ' ' || *p == ':'); p++) {
    }
    if (p == end || *p++ != '"') return;
    const char *q = memchr(p, '"', (size_t)(end - p));
    if (q && q - p < 16) {
        memcpy(out, p, (size_t)(q - p));
        out[q - p] = 0;
    }
}

/* The number of a member, or `absent`. s is NUL-terminated. */
static int64_t find_count(const char *s, const char *key, int64_t absent)
{
    const char *p = strstr(s, key);
    if (!p) return absent;
    p += strlen(key);
    p += strspn(p, " :");
    if (*p < '0' || *p > '9') return absent;
    int64_t v = strtoll(p, NULL, 10);
    return v >= 0 && v < INT32_MAX ? v : absent;
}

void relay_usage(const char *body, size_t n, struct relay_counts *out)
{
    static const char key[] = "\"usage\"";
    const char *p = NULL, *at = body;
    char object[1024];

    while ((at = memmem(at, (size_t)(body + n - at), key, sizeof key - 1))) {
        at += sizeof key - 1;
        const char *q = at;
        while (q < body + n && (*q == ' ' || *q == ':')) q++;
        if (q < body + n && *q == '{') p = q;
    }
    find_word(body, n, "\"finish_reason\"", out->finish);
    if (!p) return;
    size_t len = (size_t)(body + n - p);
    if (len >= sizeof object) len = sizeof object - 1;
    memcpy(object, p, len);
    object[len] = 0;
    out->prompt = find_count(object, "\"prompt_tokens\"", 0);
    out->output = find_count(object, "\"completion_tokens\"", -1);
    out->cached = find_count(object, "\"cached_tokens\"", 0);
    out->before = find_count(object, "\"policy_before_tokens\"", 0);
    out->after = find_count(object, "\"policy_after_tokens\"", 0);
    out->known = out->output >= 0;
    if (!out->known) out->output = 0;
}

void relay_read_times(const char *text, struct relay_times *out)
{
    long long v[5];
    int used = 0;
    if (sscanf(text, "%lld %lld %lld %lld %lld%n", &v[0], &v[1], &v[2], &v[3], &v[4], &used) != 5) return;
    if (strspn(text + used, " \r\n") != strlen(text + used)) return;
    for (int i = 0; i < 5; i++)
        if (v[i] < 0 || v[i] > TIME_MAX_US) return;
    *out = (struct relay_times){true, v[0], v[1], v[2], v[3], v[4]};
}

static void read_policy(const char *text, struct relay_counts *out)
{
    long long before, after;
    int used = 0;
    if (sscanf(text, "%lld %lld%n", &before, &after, &used) != 2 || strspn(text + used, " \r\n") != strlen(text + used)) return;
    if (before < 0 || after < 0 || before > INT32_MAX || after > INT32_MAX) return;
    out->before = before;
    out->after = after;
}

/* Reads ": weft P C O", ": weft-prompt B A" and ": weft-time ..."; whether the line is one of ours. */
static bool read_comment(struct relay *r, const char *s)
{
    static const char times[] = ": weft-time ", policy[] = ": weft-prompt ";
    if (strncmp(s, times, sizeof times - 1) == 0) {
        relay_read_times(s + sizeof times - 1, &r->times);
        return true;
    }
    if (strncmp(s, policy, sizeof policy - 1) == 0) {
        read_policy(s + sizeof policy - 1, &r->counts);
        return true;
    }
    long long p, c, o;
    int used = 0;
    if (sscanf(s, ": weft %lld %lld %lld%n", &p, &c, &o, &used) != 3 || strspn(s + used, " \r\n") != strlen(s + used))
        return false;
    if (p < 0 || c < 0 || o < 0 || p > INT32_MAX || c > INT32_MAX || o > INT32_MAX) return true; /* no answer has so many: nothing is counted of it */
    r->counts.prompt = p;
    r->counts.cached = c;
    if (o > r->counts.output) r->counts.output = o;
    r->counts.known = true;
    return true;
}

static void look_at_data(struct relay *r, const char *s, size_t n)
{
    r->data = true;
    find_word(s, n, "\"finish_reason\"", r->counts.finish);
    s += 5;
    s += strspn(s, " ");
    if (strncmp(s, "[DONE]", 6) == 0)
        r->done = true;
    else if (strncmp(s, "{\"error\"", 8) == 0 || strncmp(s, "{ \"error\"", 9) == 0) {
        r->error = true;
        find_word(s, strlen(s), "\"code\"", r->code);
    }
}

static bool is_done(const char *data)
{
    return strncmp(data + strspn(data, " "), "[DONE]", 6) == 0;
}

/* A data line in the words of its kind: what goes on takes its place in r->line. *gone: nothing does. */
static int rewrite(struct relay *r, bool *gone)
{
    struct buf said, line;
    size_t skip = 5 + strspn(r->line.data + 5, " "), n = strcspn(r->line.data + skip, "\r\n");
    buf_init(&said, RELAY_LINE_MAX);
    buf_init(&line, RELAY_LINE_MAX);
    int rc = r->event(r->event_user, r->line.data + skip, n, &r->counts, &said);
    if (!rc && said.len) rc = buf_adds(&line, "data: ") | buf_add(&line, said.data, said.len) | buf_addc(&line, '\n');
    *gone = !rc && !said.len;
    buf_close(&said);
    if (rc || *gone) {
        buf_close(&line);
        return rc;
    }
    buf_close(&r->line);
    r->line = line;
    return 0;
}

/* The complete line in r->line, its end included. *whole moves to the end of `out` when the line ends an event. */
static int take_line(struct relay *r, struct buf *out, size_t *whole)
{
    const char *s = r->line.data;
    size_t n = r->line.len;
    bool blank = s[0] == '\n' || (s[0] == '\r' && s[1] == '\n');

    if (!r->in_long && s[0] == ':' && read_comment(r, s)) {
        r->drop_blank = !r->in_event;
        return 0;
    }
    if (!r->in_long && blank) {
        bool drop = r->drop_blank;
        r->drop_blank = false;
        if (drop) return 0;
        if (buf_add(out, s, n)) return -1;
        r->in_event = r->spoken = false;
        r->mark = (uint64_t)r->counts.output;
        *whole = out->len;
        return 0;
    }
    if (r->event && strncmp(s, "data:", 5) == 0) {
        bool gone = r->error; /* whatever comes behind an error, an end mark too, is not part of an answer */
        if (!gone && !is_done(s + 5) && rewrite(r, &gone)) return -1;
        if (gone) {
            r->drop_blank = !r->in_event;
            return 0;
        }
        s = r->line.data;
        n = r->line.len;
    }
    r->in_event = true;
    r->drop_blank = false;
    r->spoken |= r->in_long || strncmp(s, "data:", 5) == 0;
    if (!r->in_long && strncmp(s, "data:", 5) == 0) look_at_data(r, s, n);
    r->in_long = false;
    return buf_add(out, s, n);
}

/* A line that is too long to be held goes on in pieces; it is data, never a comment of ours. */
static int flush_long(struct relay *r, struct buf *out)
{
    if (r->event) return -1; /* what can't be read as a whole can't be put into our words */
    if (!r->in_long && strncmp(r->line.data, "data:", 5) == 0) look_at_data(r, r->line.data, r->line.len);
    r->in_long = r->in_event = true;
    r->drop_blank = false;
    return buf_add(out, r->line.data, r->line.len);
}

static int split(struct relay *r, const char *s, size_t n, struct buf *out, size_t *whole)
{
    while (n > 0) {
        if (r->done && !r->in_event) return 0; /* what follows the end is no part of an answer, and counts for nobody */
        size_t room = RELAY_LINE_MAX - 1 - r->line.len;
        size_t take = n < room ? n : room;
        const char *nl = memchr(s, '\n', take);
        if (nl) take = (size_t)(nl - s) + 1;
        if (buf_add(&r->line, s, take)) return -1;
        s += take;
        n -= take;
        if (!nl && take < room) return 0;
        if (nl ? take_line(r, out, whole) : flush_long(r, out)) return -1;
        buf_reset(&r->line);
    }
    return 0;
}

int relay_cut(struct relay *r, bool *wants_blank)
{
    if (r->in_long) return -1;
    *wants_blank = r->in_event;
    if (r->in_event && r->spoken) r->mark = (uint64_t)r->counts.output;
    r->in_event = r->spoken = false;
    return 0;
}

int relay_feed(struct relay *r, const char *bytes, size_t n,
               int (*emit)(void *u, const char *bytes, size_t n, uint64_t mark), void *u)
{
    struct buf out;
    size_t whole = 0;
    int rc;

    buf_init(&out, n + RELAY_LINE_MAX);
    rc = split(r, bytes, n, &out, &whole);
    if (!rc && whole) rc = emit(u, out.data, whole, r->mark);
    if (!rc && out.len > whole) rc = emit(u, out.data + whole, out.len - whole, r->mark);
    buf_close(&out);
    return rc;
}
