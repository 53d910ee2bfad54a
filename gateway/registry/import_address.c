/* import_address: the guard against requests that a stranger makes us send into our own network (SSRF).
 *
 * Asked for the very address that a connection is about to be opened to, after resolution, so no second answer of a name
 * server comes between. IPv4 is judged by a table of what is not public; IPv6 the other way round: only global unicast
 * (2000::/3) is public at all, less its special blocks; an address that carries an IPv4 address (mapped, compatible,
 * NAT64, 6to4) is judged by that one, and Teredo, which hides one, is refused. Cloud metadata stands in link-local space
 * (169.254.169.254), in unique-local (fd00:ec2::254) or in 100.64.0.0/10 (100.100.100.200), and in one public block of
 * its own (168.63.129.16). */
#include "gateway/registry/import_address.h"
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct {
    uint32_t net;
    int bits;
} closed4[] = {
    {0x00000000, 8},  /* 0.0.0.0/8          this network */
    {0x0a000000, 8},  /* 10.0.0.0/8         private */
    {0x64400000, 10}, /* 100.64.0.0/10      shared by carriers (CGNAT) */
    {0x7f000000, 8},  /* 127.0.0.0/8        loopback */
    {0xa83f8110, 32}, /* 168.63.129.16      Azure's host */
    {0xa9fe0000, 16}, /* 169.254.0.0/16     link-local, metadata */
    {0xac100000, 12}, /* 172.16.0.0/12      private */
    {0xc0000000, 24}, /* 192.0.0.0/24       protocol assignments, metadata */
    {0xc0000200, 24}, /* 192.0.2.0/24       documentation */
    {0xc01fc400, 24}, /* 192.31.196.0/24    AS112 */
    {0xc034c100, 24}, /* 192.52.193.0/24    AMT */
    {0xc0586300, 24}, /* 192.88.99.0/24     6to4 relays */
    {0xc0a80000, 16}, /* 192.168.0.0/16     private */
    {0xc0af3000, 24}, /* 192.175.48.0/24    AS112 */
    {0xc6120000, 15}, /* 198.18.0.0/15      benchmarks */
    {0xc6336400, 24}, /* 198.51.100.0/24    documentation */
    {0xcb007100, 24}, /* 203.0.113.0/24     documentation */
    {0xe0000000, 4},  /* 224.0.0.0/4        multicast */
    {0xf0000000, 4},  /* 240.0.0.0/4        reserved, broadcast */
};

static bool public4(uint32_t a)
{
    for (size_t i = 0; i < sizeof closed4 / sizeof *closed4; i++)
        if ((a ^ closed4[i].net) >> (32 - closed4[i].bits) == 0) return false;
    return true;
}

static bool begins(const uint8_t a[16], const uint8_t *net, int bits)
{
    int whole = bits / 8, rest = bits % 8;
    if (memcmp(a, net, (size_t)whole) != 0) return false;
    return !rest || ((a[whole] ^ net[whole]) >> (8 - rest)) == 0;
}

/* Blocks that hold an IPv4 address at byte `at`. */
static const struct {
    uint8_t net[16];
    int bits, at;
} carries4[] = {
    {{[10] = 0xff, [11] = 0xff}, 96, 12}, /* ::ffff:0:0/96       mapped */
    {{[8] = 0xff, [9] = 0xff}, 96, 12},   /* ::ffff:0:0:0/96     translated (SIIT) */
    {{0x00, 0x64, 0xff, 0x9b}, 96, 12},   /* 64:ff9b::/96        NAT64 */
    {{0x20, 0x02}, 16, 2},                /* 2002::/16           6to4 */
};

static const struct {
    uint8_t net[16];
    int bits;
} closed6[] = {
    {{0x20, 0x01, 0x00, 0x00}, 23},             /* 2001::/23     protocol assignments: Teredo, ORCHID, benchmarks */
    {{0x20, 0x01, 0x0d, 0xb8}, 32},             /* 2001:db8::/32 documentation */
    {{0x26, 0x20, 0x00, 0x4f, 0x80, 0x00}, 48}, /* 2620:4f:8000::/48 AS112 */
    {{0x3f, 0xff, 0x00}, 20},                   /* 3fff::/20     documentation */
    {{0x3f, 0xfe}, 16},                         /* 3ffe::/16     the old 6bone */
};

static bool public6(const uint8_t a[16])
{
    for (size_t i = 0; i < sizeof carries4 / sizeof *carries4; i++) {
        if (!begins(a, carries4[i].net, carries4[i].bits)) continue;
        const uint8_t *p = a + carries4[i].at;
        return public4((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);
    }
    if (a[0] >> 5 != 1) return false; /* not 2000::/3: loopback, compatible, link-local, unique-local, multicast, ... */
    for (size_t i = 0; i < sizeof closed6 / sizeof *closed6; i++)
        if (begins(a, closed6[i].net, closed6[i].bits)) return false;
    return true;
}

bool import_address_is_public(const struct sockaddr *a)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    if (a->sa_family == AF_INET) {
        memcpy(&v4, a, sizeof v4);
        return public4(ntohl(v4.sin_addr.s_addr));
    }
    if (a->sa_family != AF_INET6) return false;
    memcpy(&v6, a, sizeof v6);
    return public6(v6.sin6_addr.s6_addr);
}

/* --- the URL before that --- */

/* NAME[:PORT] or [IPv6][:PORT]. What else URLs may have there two readers take apart in two ways, of which one would be the list's. */
static bool is_host(const char *s, size_t n)
{
    const char *end = s + n, *p = s;
    if (*p == '[') {
        size_t k = strspn(p + 1, "0123456789abcdefABCDEF:.%");
        p += 1 + k;
        if (!k || p >= end || *p++ != ']') return false;
    } else {
        while (p < end && *p != ':') {
            char c = *p++;
            bool alnum = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
            if (!alnum && !strchr("-._~%", c)) return false;
        }
        if (p == s) return false;
    }
    if (p == end) return true;
    return *p++ == ':' && strspn(p, "0123456789") >= (size_t)(end - p);
}

int import_address_host(const char *url, bool *https, char out[IMPORT_HOST_LEN], const char *field, struct err *e)
{
    const char *s = NULL;
    if (strlen(url) > IMPORT_URL_MAX)
        return err_field(e, ERR_INVALID, field, "'%s' is longer than %d characters.", field, IMPORT_URL_MAX);
    for (const char *p = url; *p; p++)
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f || *p == '\\')
            return err_field(e, ERR_INVALID, field, "'%s' holds a character that no URL has.", field);
    if (strncasecmp(url, "https://", 8) == 0)
        s = url + 8;
    else if (strncasecmp(url, "http://", 7) == 0)
        s = url + 7;
    if (!s) return err_field(e, ERR_INVALID, field, "'%s' must begin with https://.", field);
    size_t n = strcspn(s, "/?#");
    if (n < 1 || n >= IMPORT_HOST_LEN) return err_field(e, ERR_INVALID, field, "'%s' names no host.", field);
    if (memchr(s, '@', n)) return err_field(e, ERR_INVALID, field, "'%s' must hold no user or password.", field);
    if (!is_host(s, n)) return err_field(e, ERR_INVALID, field, "'%s' has a host that is none.", field);
    *https = s - url == 8;
    snprintf(out, IMPORT_HOST_LEN, "%.*s", (int)n, s);
    return 0;
}

bool import_address_is_listed(const char *list, const char *at)
{
    size_t host = *at == '[' ? strcspn(at, "]") + (strchr(at, ']') != NULL) : strcspn(at, ":");
    for (const char *s = list; *s;) {
        s += strspn(s, ", ");
        size_t n = strcspn(s, ", ");
        if (n && ((n == strlen(at) && strncasecmp(s, at, n) == 0) || (n == host && strncasecmp(s, at, n) == 0)))
            return true;
        s += n;
    }
    return false;
}
