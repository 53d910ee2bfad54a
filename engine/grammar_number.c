/* grammar_number: ranges of numbers as automata over their digits.
 *
 * An integer range falls into runs of lengths: the numbers as long as the lower end, those as long as the upper end, and all lengths
 * between. While the digits read so far equal an end's, the next one is bounded by that end ("tight"); once they differ, any digit does.
 * A divisor adds the remainder of what was read to the state. Ends and remainders that can't be completed are pruned by need
 * (grammar_net.c). No leading zeros, no "-0".
 *
 * A decimal is compared like its digits: the integer part against the ends' integer parts, and where they are equal the fraction against
 * the ends' fractions. Such numbers have no exponent, and so few digits (DECIMAL_DIGITS) that a reader's double keeps their order: what is
 * below an end as text is not rounded up to it. */
#include "engine/grammar_net.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NOT_BUILT UINT32_MAX

/* --- integers --- */

/* Digits that are free from some point on: at most `left` more, at least left - slack (and not less than 0). */
struct digits {
    struct net *net;
    uint32_t multiple, next;
    int slack;
    uint32_t *memo; /* [INT_DIGITS + 1][multiple] */
};

static uint32_t with(const struct digits *d, uint32_t rem, char digit)
{
    return (rem * 10 + (uint32_t)(digit - '0')) % d->multiple;
}

static uint32_t digit_span(struct digits *d, char first, char last, int left, uint32_t rem);

static uint32_t free_digits(struct digits *d, int left, uint32_t rem)
{
    uint32_t *memo = &d->memo[(size_t)left * d->multiple + rem];
    if (d->net->failed) return NODE_FAIL;
    if (*memo != NOT_BUILT) return *memo;
    uint32_t end = rem == 0 && left <= d->slack ? d->next : NODE_FAIL;
    return *memo = left > 0 ? net_or(d->net, digit_span(d, '0', '9', left - 1, rem), end) : end;
}

/* One of the digits first..last, then `left` free ones: a single node where no remainder tells the digits apart. */
static uint32_t digit_span(struct digits *d, char first, char last, int left, uint32_t rem)
{
    uint32_t all = NODE_FAIL;
    if (first > last) return NODE_FAIL;
    if (d->multiple == 1) return net_range(d->net, (uint8_t)first, (uint8_t)last, free_digits(d, left, 0));
    for (char c = first; c <= last; c++)
        all = net_or(d->net, all, net_range(d->net, (uint8_t)c, (uint8_t)c, free_digits(d, left, with(d, rem, c))));
    return all;
}

/* The rest of a number of exactly `left` more digits between lo and hi (their rests); NULL: no longer tight at that end. */
static uint32_t tight_digits(struct digits *d, const char *lo, const char *hi, int left, uint32_t rem)
{
    if (left == 0) return rem == 0 ? d->next : NODE_FAIL;
    if (!lo && !hi) return free_digits(d, left, rem);
    char first = lo ? *lo : '0', last = hi ? *hi : '9';
    if (first > last) return NODE_FAIL;
    const char *lo_rest = lo ? lo + 1 : NULL, *hi_rest = hi ? hi + 1 : NULL;
    uint32_t all = NODE_FAIL;
    if (first == last)
        return net_range(d->net, (uint8_t)first, (uint8_t)first,
                         tight_digits(d, lo_rest, hi_rest, left - 1, with(d, rem, first)));
    if (lo) {
        all = net_range(d->net, (uint8_t)first, (uint8_t)first,
                        tight_digits(d, lo_rest, NULL, left - 1, with(d, rem, first)));
        first++;
    }
    if (hi) {
        uint32_t rest = tight_digits(d, NULL, hi_rest, left - 1, with(d, rem, last));
        all = net_or(d->net, all, net_range(d->net, (uint8_t)last, (uint8_t)last, rest));
        last--;
    }
    return net_or(d->net, all, digit_span(d, first, last, left - 1, rem));
}

static void forget(struct digits *d, int slack)
{
    d->slack = slack;
    memset(d->memo, 0xff, (INT_DIGITS + 1) * (size_t)d->multiple * sizeof *d->memo);
}

/* Positive numbers lo..hi. */
static uint32_t positive(struct digits *d, uint64_t lo, uint64_t hi)
{
    static const char least[] = "1000000000000000000", most[] = "999999999999999999";
    char a[24], b[24];
    if (lo > hi) return NODE_FAIL;
    int na = snprintf(a, sizeof a, "%llu", (unsigned long long)lo),
        nb = snprintf(b, sizeof b, "%llu", (unsigned long long)hi);
    bool low_whole = a[0] == '1' && strspn(a + 1, "0") == (size_t)na - 1, high_whole = strspn(b, "9") == (size_t)nb;
    int from = low_whole ? na : na + 1, to = high_whole ? nb : nb - 1; /* lengths that are wanted whole */
    uint32_t all = NODE_FAIL;
    forget(d, 0);
    if (na == nb && from > to) return tight_digits(d, a, b, na, 0);
    if (from > na) all = tight_digits(d, a, most, na, 0);
    if (to < nb) all = net_or(d->net, all, tight_digits(d, least, b, nb, 0));
    if (from > to) return all;
    forget(d, to - from);
    return net_or(d->net, all, digit_span(d, '1', '9', to - 1, 0));
}

uint32_t net_integer(struct net *n, int64_t lo, int64_t hi, uint32_t multiple, uint32_t next)
{
    struct digits d = {.net = n, .multiple = multiple, .next = next};
    if (n->failed || lo > hi) return NODE_FAIL;
    d.memo = malloc((INT_DIGITS + 1) * (size_t)multiple * sizeof *d.memo);
    if (!d.memo) return net_no_memory(n);
    uint32_t all = lo <= 0 && hi >= 0 ? net_range(n, '0', '0', next) : NODE_FAIL;
    if (hi > 0) all = net_or(n, all, positive(&d, lo > 0 ? (uint64_t)lo : 1, (uint64_t)hi));
    if (lo < 0) all = net_or(n, all, net_range(n, '-', '-', positive(&d, hi < 0 ? (uint64_t)-hi : 1, (uint64_t)-lo)));
    free(d.memo);
    return all;
}

/* --- decimals --- */

/* An end of a range of magnitudes. */
struct end {
    bool set, exclusive;
    int64_t whole;
    int digits;                    /* of the integer part */
    char part[DECIMAL_DIGITS + 1]; /* the fraction's digits, padded with zeros */
};

/* False: more digits than are kept in order. */
static bool read_end(struct end *x, double magnitude, bool exclusive)
{
    char s[64];
    int precision = 0;
    *x = (struct end){.set = true, .exclusive = exclusive};
    memset(x->part, '0', DECIMAL_DIGITS);
    if (!(magnitude < 1e15)) return false;
    for (;; precision++) {
        if (precision > DECIMAL_DIGITS) return false;
        snprintf(s, sizeof s, "%.*f", precision, magnitude);
        if (strtod(s, NULL) == magnitude) break;
    }
    const char *dot = strchr(s, '.');
    x->whole = strtoll(s, NULL, 10);
    x->digits = (int)(dot ? (size_t)(dot - s) : strlen(s));
    if (dot) memcpy(x->part, dot + 1, (size_t)precision);
    return x->digits + precision <= DECIMAL_DIGITS;
}

struct fraction {
    struct net *net;
    uint32_t next;
    int max; /* digits at most */
    uint32_t memo[DECIMAL_DIGITS + 1][2][2];
};

static bool zeros_from(const struct end *x, int pos)
{
    return strspn(x->part + pos, "0") == (size_t)(DECIMAL_DIGITS - pos);
}

/* The number may end after `pos` digits of the fraction, so far equal to lo's and hi's (NULL: apart from it). */
static bool may_stop(const struct end *lo, const struct end *hi, int pos)
{
    if (lo && (lo->exclusive || !zeros_from(lo, pos))) return false;
    return !hi || !hi->exclusive || !zeros_from(hi, pos);
}

static uint32_t fraction_from(struct fraction *f, const struct end *lo, const struct end *hi, int pos)
{
    uint32_t *memo = &f->memo[pos][lo != NULL][hi != NULL], all = NODE_FAIL;
    if (f->net->failed) return NODE_FAIL;
    if (*memo != NOT_BUILT) return *memo;
    if (pos > 0 && may_stop(lo, hi, pos)) all = f->next;
    char first = lo ? lo->part[pos] : '0', last = hi ? hi->part[pos] : '9';
    for (char c = first, to; pos < f->max && c <= last; c = (char)(to + 1)) {
        const struct end *l = c == first ? lo : NULL, *h = c == last ? hi : NULL;
        to = l || h ? c : (char)(last - (hi != NULL)); /* digits strictly between go together */
        all = net_or(f->net, all, net_range(f->net, (uint8_t)c, (uint8_t)to, fraction_from(f, l, h, pos + 1)));
    }
    return *memo = all;
}

/* What may stand behind an integer part that equals lo's, hi's, both or neither. */
static uint32_t behind_whole(struct net *n, const struct end *lo, const struct end *hi, int max, uint32_t next)
{
    struct fraction f = {.net = n, .next = next, .max = max};
    memset(f.memo, 0xff, sizeof f.memo);
    uint32_t all = net_range(n, '.', '.', fraction_from(&f, lo, hi, 0));
    return may_stop(lo, hi, 0) ? net_or(n, all, next) : all;
}

static uint32_t at_end(struct net *n, int64_t whole, const struct end *lo, const struct end *hi, int max, uint32_t next)
{
    char s[24];
    int len = snprintf(s, sizeof s, "%lld", (long long)whole);
    return net_text(n, s, (size_t)len, behind_whole(n, lo, hi, max, next));
}

/* Magnitudes between two ends; hi may be unset. */
static uint32_t magnitudes(struct net *n, const struct end *lo, const struct end *hi, uint32_t next)
{
    int64_t most = hi->set ? hi->whole : 999999999999999;
    int digits = hi->set && hi->digits > lo->digits ? hi->digits : lo->digits, max = DECIMAL_DIGITS - digits;
    if (hi->set && lo->whole == hi->whole) return at_end(n, lo->whole, lo, hi, max, next);
    if (lo->whole > most) return NODE_FAIL;
    uint32_t all = at_end(n, lo->whole, lo, NULL, max, next);
    if (hi->set) all = net_or(n, all, at_end(n, most--, NULL, hi, max, next));
    if (lo->whole + 1 > most) return all;
    return net_or(n, all, net_integer(n, lo->whole + 1, most, 1, behind_whole(n, NULL, NULL, max, next)));
}

uint32_t net_decimal(struct net *n, struct bound lo, struct bound hi, const char *where, uint32_t next)
{
    struct end zero = {.set = true, .digits = 1}, a = {0}, b = {0};
    memset(zero.part, '0', DECIMAL_DIGITS);
    if ((lo.set && !read_end(&a, fabs(lo.value), lo.exclusive)) ||
        (hi.set && !read_end(&b, fabs(hi.value), hi.exclusive)))
        return net_refuse(n, "%s: bounds of more than %d digits are not served", where, DECIMAL_DIGITS);
    if (lo.set && hi.set && lo.value > hi.value) return NODE_FAIL;
    bool below = !lo.set || lo.value < 0, only_below = hi.set && hi.value < 0;
    uint32_t all = only_below ? NODE_FAIL : magnitudes(n, below ? &zero : &a, &b, next);
    if (!below) return all;
    zero.exclusive = hi.set && hi.value == 0 && hi.exclusive;
    return net_or(n, all, net_range(n, '-', '-', magnitudes(n, only_below ? &b : &zero, &a, next)));
}
