/* redact: texts without what a table of shapes finds in them.
 *
 * Rules are applied one after the other, the surest first: a key that holds digits must be gone before phone numbers are looked for. What a rule puts in
 * ("[email]") is no other rule's business, since none of them matches it: that one of passwords says so itself. But what stood right behind something that went
 * now begins a word ("1.2.3.4sk-..."), so the table's rules are applied until they find nothing more; a tenant's own, which may match anything, once, at the end.
 * A text is UTF-8, as jansson gives it.
 *
 * A text that is JSON itself, as a call's arguments are, is redacted piece by piece, its strings as what they say and its numbers, which become strings where
 * something is found: so it stays JSON. Then once more as a whole, for a tenant's patterns that reach over several pieces: what is found goes, whatever becomes of it.
 *
 * Pure functions; one thread has a redactor. */
#include "gateway/capture/redact.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define MATCH_STEPS 100000
#define MATCH_DEPTH 1000
#define MATCH_HEAP_KIB 1024
#define OWN_PLACES 2048    /* at which a tenant's pattern is tried between two looks at the clock: MATCH_STEPS are of each, so two seconds at most; fewer cost
                              the ordinary pattern more, as PCRE2 looks through all that is left for a first letter each time */
#define OWN_CPU_US 2000000 /* that the patterns of a tenant may take of one redactor */
#define TEXT_MAX (4u << 20)
#define WITHIN 3 /* JSON in a string of JSON, so often */
#define ROUNDS 8 /* two where something is found, three where it stood together with something else */
#define CARD_DIGITS 19
#define CARD_LEAST 13
#define PHONE_LEAST 7
#define PHONE_BARE 10 /* digits in a row without a + or a separator: fewer are an order's number */
#define PHONE_MOST 15

/* --- checks of what a pattern found: whether its n bytes count; a check may count fewer of them --- */

static int digits(const char *s, size_t n, char *out, int most)
{
    int d = 0;
    for (size_t i = 0; i < n; i++)
        if (isdigit((unsigned char)s[i])) {
            if (d == most) return -1;
            out[d++] = s[i];
        }
    return d;
}

/* ISO/IEC 7812-1, annex B. */
static bool adds_up(const char *s, size_t n)
{
    char d[CARD_DIGITS];
    int len = digits(s, n, d, CARD_DIGITS), sum = 0;
    for (int i = 0; i < len; i++) {
        int v = d[len - 1 - i] - '0';
        if (i % 2) v = v > 4 ? 2 * v - 9 : 2 * v;
        sum += v;
    }
    return len >= CARD_LEAST && sum % 10 == 0;
}

/* What stands behind a card's number is often of digits, too: when it ends, what is on its back. */
static bool is_card(const char *s, size_t *n)
{
    size_t len = *n;
    while (len >= CARD_LEAST && !adds_up(s, len)) {
        while (len && isdigit((unsigned char)s[len - 1])) len--;
        while (len && !isdigit((unsigned char)s[len - 1])) len--;
    }
    if (len < CARD_LEAST) return false;
    *n = len;
    return true;
}

static bool is_date(const char *s, size_t n)
{
    return n == 10 && ((s[4] == '-' && s[7] == '-') || (s[2] == '.' && s[5] == '.') || (s[2] == '/' && s[5] == '/'));
}

static bool is_phone(const char *s, size_t *n)
{
    char d[PHONE_MOST];
    int len = digits(s, *n, d, PHONE_MOST);
    bool bare = len == (int)*n;
    return len >= (bare ? PHONE_BARE : PHONE_LEAST) && !is_date(s, *n);
}

static bool is_address(const char *s, size_t *n)
{
    char text[INET6_ADDRSTRLEN];
    uint8_t v[16];
    if (*n >= sizeof text) return false;
    memcpy(text, s, *n);
    text[*n] = 0;
    return inet_pton(AF_INET, text, v) == 1 || inet_pton(AF_INET6, text, v) == 1;
}

/* Letters of both cases and digits, as keys have them and words don't. */
static bool is_random(const char *s, size_t *n)
{
    bool upper = false, lower = false, digit = false;
    for (size_t i = 0; i < *n; i++) {
        upper |= isupper((unsigned char)s[i]) != 0;
        lower |= islower((unsigned char)s[i]) != 0;
        digit |= isdigit((unsigned char)s[i]) != 0;
    }
    return digit && upper && lower;
}

/* --- the table --- */

struct kind {
    const char *word, *pattern;
    bool (*check)(const char *s, size_t *n); /* NULL: the pattern says enough */
};

/* In the order in which they are applied. Rows of one kind stand together. */
static const struct kind kinds[] = {
    {"secret", "-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[A-Za-z0-9+/=\\s]{0,20000}(?:-----END [A-Z ]{0,40}PRIVATE KEY-----)?", NULL},
    {"secret", "\\beyJ[A-Za-z0-9_-]{8,}\\.[A-Za-z0-9_-]{8,}(?:\\.[A-Za-z0-9_-]*)?", NULL},
    {"secret", "\\b(?:sk|pk|rk|wft|wfa|wfe|ghp|gho|ghs|ghu|ghr|github_pat|xox[abprs]|glpat|hf|npm|pypi)[_-][A-Za-z0-9_-]{16,}", NULL},
    {"secret", "\\b(?:AKIA|ASIA)[A-Z0-9]{16}\\b", NULL},
    {"secret", "(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{16,}", NULL},
    {"secret", "(?i)(?<=password: |password=|passwd=|secret=|api_key=|apikey=|token=)(?!\\[[a-z0-9_-]{1,32}\\])[^\\s\"'&,;]{4,}", NULL},
    {"secret", "(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{32,}={0,2}(?![A-Za-z0-9+/_-])", is_random},
    {"email", "[\\p{L}\\p{N}._%+-]{1,64}@(?:[\\p{L}\\p{N}-]{1,63}\\.){1,8}\\p{L}{2,63}", NULL},
    {"card", "(?<!\\d)\\d(?:[ -]?\\d){12,18}(?!\\d)", is_card},
    {"ip", "(?<![\\d.])(?:\\d{1,3}\\.){3}\\d{1,3}(?![\\d.]*\\d)", is_address},
    {"ip", "(?<![\\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|(?:\\d{1,3}\\.){3}\\d{1,3})?(?![\\w:])", is_address},
    {"phone", "(?<![\\w.+-])(?:\\+|00)?\\(?\\d(?:[ ()./-]{0,2}\\d){6,14}(?![\\w])", is_phone},
};
#define KINDS ((int)(sizeof kinds / sizeof *kinds))

struct rule {
    char name[33]; /* of the kind, or of the tenant's own pattern */
    bool (*check)(const char *s, size_t *n);
    pcre2_code *code;
    bool own; /* a tenant's */
    int found;
};

struct redactor {
    struct rule rule[KINDS + REDACT_PATTERNS_MAX];
    int n, nkinds, found; /* the first nkinds rules are the table's */
    int64_t own_us; /* of OWN_CPU_US, so far */
    pcre2_match_context *limits;
    pcre2_match_data *at;
};

const char *redact_kind(int i)
{
    const char *was = "";
    for (int k = 0; k < KINDS; k++) {
        if (strcmp(kinds[k].word, was) == 0) continue;
        was = kinds[k].word;
        if (i-- == 0) return was;
    }
    return NULL;
}

bool redact_is_kind(const char *word)
{
    for (int i = 0; redact_kind(i); i++)
        if (strcmp(redact_kind(i), word) == 0) return true;
    return false;
}

bool redact_names(const json_t *words, const char *word)
{
    const json_t *v;
    size_t i;
    json_array_foreach(words, i, v) if (json_is_string(v) && strcmp(json_string_value(v), word) == 0) return true;
    return false;
}

static int add_rule(struct redactor *r, const struct kind *k, bool own, struct err *e)
{
    struct rule *to = &r->rule[r->n];
    uint32_t how = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | (own ? PCRE2_USE_OFFSET_LIMIT : 0);
    char why[128];
    int code;
    PCRE2_SIZE at;
    snprintf(to->name, sizeof to->name, "%s", k->word);
    to->check = k->check;
    to->own = own;
    to->code = pcre2_compile((PCRE2_SPTR)k->pattern, strlen(k->pattern), how, &code, &at, NULL);
    if (to->code) {
        r->n++;
        return 0;
    }
    pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
    return err_field(e, ERR_INVALID, "patterns", "The pattern '%.32s' is not a regular expression: %s (at %zu).", k->word, why, at);
}

static int add_rules(struct redactor *r, const json_t *words, const json_t *patterns, struct err *e)
{
    const json_t *v;
    size_t i;
    for (int k = 0; k < KINDS; k++)
        if (redact_names(words, kinds[k].word) && add_rule(r, &kinds[k], false, e)) return -1;
    r->nkinds = r->n;
    json_array_foreach(patterns, i, v)
    {
        const char *name = json_string_value(json_object_get(v, "name")), *regex = json_string_value(json_object_get(v, "regex"));
        if (i == REDACT_PATTERNS_MAX || !name || !regex) return err_field(e, ERR_INVALID, "patterns", "There are too many patterns, or one has no name or no regex.");
        if (add_rule(r, &(struct kind){name, regex, NULL}, true, e)) return -1;
    }
    return 0;
}

int redactor_new(struct redactor **out, const json_t *words, const json_t *patterns, struct err *e)
{
    struct redactor *r = calloc(1, sizeof *r);
    if (!r) return err_set(e, ERR_NO_MEMORY, "no memory for a redaction");
    r->limits = pcre2_match_context_create(NULL);
    r->at = pcre2_match_data_create(1, NULL);
    int rc = r->limits && r->at ? add_rules(r, words, patterns, e) : err_set(e, ERR_NO_MEMORY, "no memory for a redaction");
    if (rc) {
        redactor_free(r);
        return -1;
    }
    pcre2_set_match_limit(r->limits, MATCH_STEPS);
    pcre2_set_depth_limit(r->limits, MATCH_DEPTH);
    pcre2_set_heap_limit(r->limits, MATCH_HEAP_KIB);
    *out = r;
    return 0;
}

void redactor_free(struct redactor *r)
{
    if (!r) return;
    for (int i = 0; i < r->n; i++) pcre2_code_free(r->rule[i].code);
    pcre2_match_data_free(r->at);
    pcre2_match_context_free(r->limits);
    free(r);
}

/* --- texts --- */

static int64_t thread_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* pcre2_match(). PCRE2 counts steps for each place anew: a pattern that takes some less than it may at each place of a long text would take minutes. */
static int match(struct redactor *r, const struct rule *x, const char *s, size_t n, size_t from)
{
    int rc = PCRE2_ERROR_NOMATCH;
    int64_t start_us = x->own ? thread_us() : 0;
    while (from <= n && rc == PCRE2_ERROR_NOMATCH) {
        size_t last = x->own ? from + OWN_PLACES : PCRE2_UNSET;
        pcre2_set_offset_limit(r->limits, last);
        rc = pcre2_match(x->code, (PCRE2_SPTR)s, n, from, from ? PCRE2_NO_UTF_CHECK : 0, r->at, r->limits);
        if (!x->own) return rc;
        if (r->own_us + thread_us() - start_us > OWN_CPU_US) return PCRE2_ERROR_MATCHLIMIT;
        for (from = last + 1; from < n && ((unsigned char)s[from] & 0xc0) == 0x80;) from++;
    }
    r->own_us += thread_us() - start_us;
    return rc;
}

/* Whether what stands from begin to *end does, which may end earlier then. */
static bool counts(const struct rule *x, const char *s, size_t begin, size_t *end)
{
    size_t n = *end - begin;
    if (x->check && !x->check(s + begin, &n)) return false;
    *end = begin + n;
    return true;
}

/* Where a match that counts begins and ends, from `from` on: 1, or 0 where there is none. That the text is UTF-8 is looked at once; each time would be
 * quadratic. What did not count is tried again from its second character on: a card's number may stand behind a number. */
static int find(struct redactor *r, const struct rule *x, const char *s, size_t n, size_t from, size_t *begin, size_t *end, struct err *e)
{
    while (from <= n) {
        int rc = match(r, x, s, n, from);
        if (rc == PCRE2_ERROR_NOMATCH) return 0;
        if (rc < 0) return err_set(e, ERR_TOO_LARGE, "the pattern '%s' takes too long on a text", x->name);
        *begin = pcre2_get_ovector_pointer(r->at)[0];
        *end = pcre2_get_ovector_pointer(r->at)[1];
        if (*begin >= from && *end > *begin && counts(x, s, *begin, end)) return 1;
        if (++r->found > REDACT_MATCHES_MAX) return err_set(e, ERR_TOO_LARGE, "the pattern '%s' matches too often", x->name);
        r->found--;
        from = (*begin > from ? *begin : from) + 1; /* \K may put a beginning anywhere */
        while (from < n && ((unsigned char)s[from] & 0xc0) == 0x80) from++;
    }
    return 0;
}

static int apply(struct redactor *r, struct rule *x, const struct buf *in, struct buf *out, struct err *e)
{
    size_t at = 0, begin = 0, end = 0;
    int rc;
    while ((rc = find(r, x, in->data, in->len, at, &begin, &end, e)) == 1) {
        if (++r->found > REDACT_MATCHES_MAX) return err_set(e, ERR_TOO_LARGE, "the pattern '%s' matches too often", x->name);
        x->found++;
        buf_add(out, in->data + at, begin - at);
        buf_addf(out, "[%s]", x->name);
        at = end;
    }
    if (rc < 0) return -1;
    return buf_add(out, in->data + at, in->len - at) ? err_set(e, ERR_TOO_LARGE, "a text is too long to be redacted") : 0;
}

/* Rules first..last-1 over the text in a; b is room. */
static int apply_rules(struct redactor *r, int first, int last, struct buf *a, struct buf *b, struct err *e)
{
    for (int i = first; i < last; i++) {
        struct buf was = *a;
        if (apply(r, &r->rule[i], a, b, e)) return -1;
        *a = *b;
        *b = was;
        buf_reset(b);
    }
    return 0;
}

static int apply_all(struct redactor *r, struct buf *a, struct buf *b, struct err *e)
{
    int before = -1;
    for (int round = 0; r->found != before; round++) {
        if (round == ROUNDS) return err_set(e, ERR_TOO_LARGE, "a text takes too long to be redacted");
        before = r->found;
        if (apply_rules(r, 0, r->nkinds, a, b, e)) return -1;
    }
    return apply_rules(r, r->nkinds, r->n, a, b, e);
}

static int plain_text(struct redactor *r, const char *s, size_t n, struct buf *out, struct err *e)
{
    struct buf a, b;
    buf_init(&a, TEXT_MAX);
    buf_init(&b, TEXT_MAX);
    int rc = buf_add(&a, s, n) ? err_set(e, ERR_TOO_LARGE, "a text is too long to be redacted") : apply_all(r, &a, &b, e);
    if (rc == 0 && buf_add(out, a.data, a.len)) rc = err_set(e, ERR_TOO_LARGE, "a text is too long to be redacted");
    buf_close(&a);
    buf_close(&b);
    return rc;
}

/* --- texts that are JSON --- */

static int text_at(struct redactor *r, const char *s, size_t n, int depth, struct buf *out, struct err *e);

/* An object or a list; read as a member, since json_parse() wants an object. */
static bool is_json(const char *s, size_t n)
{
    struct buf b;
    struct err e = {0};
    json_t *v = NULL;
    size_t at = 0;
    while (at < n && isspace((unsigned char)s[at])) at++;
    if (at == n || (s[at] != '{' && s[at] != '[')) return false;
    buf_init(&b, TEXT_MAX + 64);
    buf_adds(&b, "{\"a\":");
    buf_add(&b, s, n);
    buf_addc(&b, '}');
    bool is = !b.failed && json_parse_wide(b.data, b.len, &v, &e) == 0;
    json_decref(v);
    buf_close(&b);
    return is;
}

/* How long the string or the number is that begins here; 0: neither does. */
static size_t piece_len(const char *s, size_t n)
{
    size_t at = 1;
    if (*s == '"') {
        while (at < n && s[at] != '"') at += s[at] == '\\' ? 2 : 1;
        return at < n ? at + 1 : n;
    }
    if (*s != '-' && !isdigit((unsigned char)*s)) return 0;
    while (at < n && (isalnum((unsigned char)s[at]) || s[at] == '.' || s[at] == '+' || s[at] == '-')) at++;
    return at;
}

/* As it stands, or where something was found in it as a string. */
static int add_piece(struct redactor *r, const char *s, size_t n, int depth, struct buf *out, struct err *e)
{
    json_t *v = *s == '"' ? json_load(s, n, JSON_DECODE_ANY, NULL) : NULL;
    struct buf b;
    int before = r->found;
    if (*s == '"' && !v) return err_set(e, ERR_NO_MEMORY, "no memory for a redaction");
    buf_init(&b, TEXT_MAX);
    int rc = v ? text_at(r, json_string_value(v), json_string_length(v), depth + 1, &b, e) : n < PHONE_LEAST && r->n == r->nkinds ? 0 : plain_text(r, s, n, &b, e);
    if (rc == 0 && (r->found == before ? buf_add(out, s, n) : buf_add_json(out, b.data, b.len))) rc = err_set(e, ERR_TOO_LARGE, "a text is too long to be redacted");
    buf_close(&b);
    json_decref(v);
    return rc;
}

static int add_pieces(struct redactor *r, const char *s, size_t n, int depth, struct buf *out, struct err *e)
{
    size_t len;
    for (size_t at = 0; at < n; at += len ? len : 1) {
        len = piece_len(s + at, n - at);
        if (len && add_piece(r, s + at, len, depth, out, e)) return -1;
        if (!len && buf_addc(out, s[at])) return err_set(e, ERR_TOO_LARGE, "a text is too long to be redacted");
    }
    return 0;
}

/* What was found so far is as in `was` again, but for the time that it took. */
static void count_as(struct redactor *r, const struct redactor *was)
{
    r->found = was->found;
    for (int i = 0; i < r->n; i++) r->rule[i].found = was->rule[i].found;
}

/* As it stands first: most texts hold nothing, and what no escape hides need not be taken apart for that. */
static int text_at(struct redactor *r, const char *s, size_t n, int depth, struct buf *out, struct err *e)
{
    struct redactor was = *r;
    struct buf plain, pieces;
    buf_init(&plain, TEXT_MAX);
    buf_init(&pieces, TEXT_MAX);
    int rc = plain_text(r, s, n, &plain, e);
    bool apart = rc == 0 && depth < WITHIN && (r->found != was.found || memchr(s, '\\', n)) && is_json(s, n);
    if (apart) {
        count_as(r, &was);
        rc = add_pieces(r, s, n, depth, &pieces, e);
    }
    if (rc == 0) rc = apart ? plain_text(r, pieces.data, pieces.len, out, e) : buf_add(out, plain.data, plain.len) ? err_set(e, ERR_TOO_LARGE, "a text is too long to be redacted") : 0;
    buf_close(&plain);
    buf_close(&pieces);
    return rc;
}

int redact_text(struct redactor *r, const char *s, size_t n, struct buf *out, struct err *e) { return text_at(r, s, n, 0, out, e); }

static json_t *string_of(struct redactor *r, const json_t *v, struct err *e)
{
    struct buf b;
    json_t *o = NULL;
    buf_init(&b, TEXT_MAX);
    if (redact_text(r, json_string_value(v), json_string_length(v), &b, e) == 0 && !(o = json_stringn(b.data, b.len)))
        err_set(e, ERR_NO_MEMORY, "no memory for a redaction");
    buf_close(&b);
    return o;
}

/* A member's name is a text, too: of a tool's parameters it is the client's. Takes `v`, also where it fails. */
static int put_named(struct redactor *r, json_t **o, const char *key, json_t *v, struct err *e)
{
    struct buf name;
    buf_init(&name, TEXT_MAX);
    int rc = redact_text(r, key, strlen(key), &name, e);
    if (rc) json_decref(v);
    else json_object_put(o, name.len ? name.data : "", v);
    buf_close(&name);
    return rc;
}

/* Depth is that of json_parse(), which read it. */
static json_t *copy_of(struct redactor *r, const json_t *v, struct err *e)
{
    json_t *o, *item, *one;
    const char *key;
    size_t i;
    if (json_is_string(v)) return string_of(r, v, e);
    if (json_is_array(v)) {
        o = json_array();
        json_array_foreach(v, i, item)
        {
            one = copy_of(r, item, e);
            json_list_add(&o, one);
            if (!one) break;
        }
    } else if (json_is_object(v)) {
        o = json_object();
        json_object_foreach((json_t *)v, key, item)
        {
            one = copy_of(r, item, e);
            if (!one || put_named(r, &o, key, one, e)) {
                json_decref(o);
                return NULL;
            }
        }
    } else {
        return json_incref((json_t *)v);
    }
    if (!o && !e->code) err_set(e, ERR_NO_MEMORY, "no memory for a redaction");
    return o;
}

int redact_json(struct redactor *r, const json_t *v, json_t **out, struct err *e)
{
    struct err why = {0};
    json_t *o = copy_of(r, v, &why);
    if (!o) {
        *e = why;
        return -1;
    }
    *out = o;
    return 0;
}

int redactor_found(const struct redactor *r) { return r->found; }

json_t *redactor_counts(const struct redactor *r)
{
    json_t *o = json_object();
    for (int i = 0; i < r->n; i++) {
        if (!r->rule[i].found) continue;
        json_int_t before = json_integer_value(json_object_get(o, r->rule[i].name));
        json_object_put(&o, r->rule[i].name, json_integer(before + r->rule[i].found));
    }
    return o;
}
