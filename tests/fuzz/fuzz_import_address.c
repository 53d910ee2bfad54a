/* URLs of imports and the addresses behind them. A host that is taken stands in the URL, with no user part; an address that counts as public is in none of
 * the blocks that a second reading (by text, from IANA's lists) closes, and forms that carry an IPv4 address say what that one says. Input: 16 bytes of
 * address, then the URL up to a line end, then the operator's list. */
#include "gateway/registry/import_address.h"
#include "tests/fuzz/fuzz.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <strings.h>

static bool public6(const uint8_t a[16])
{
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    memcpy(&v6.sin6_addr, a, 16);
    return import_address_is_public((const struct sockaddr *)&v6);
}

static bool public4(const uint8_t a[4])
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    memcpy(&v4.sin_addr, a, 4);
    return import_address_is_public((const struct sockaddr *)&v4);
}

static bool closed4(const uint8_t a[4])
{
    return a[0] == 0 || a[0] == 10 || a[0] == 127 || a[0] >= 224 || (a[0] == 100 && a[1] >= 64 && a[1] < 128) || (a[0] == 169 && a[1] == 254) ||
           (a[0] == 172 && a[1] >= 16 && a[1] < 32) || (a[0] == 192 && a[1] == 168) || (a[0] == 192 && a[1] == 0 && a[2] == 0) ||
           (a[0] == 198 && (a[1] == 18 || a[1] == 19));
}

static void check_address(const uint8_t a[16])
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}, nat64[12] = {0, 0x64, 0xff, 0x9b};
    uint8_t other[16] = {0};
    bool four = public4(a);
    FUZZ_NEED(!four || !closed4(a));
    FUZZ_NEED(!public6(a) || (a[0] >> 5) == 1 || !memcmp(a, nat64, 12) || (!memcmp(a, other, 8) && a[10] == 0xff) || (!memcmp(a, other, 8) && a[8] == 0xff));
    memcpy(other, mapped, 12);
    memcpy(other + 12, a, 4);
    FUZZ_NEED(public6(other) == four);
    memcpy(other, nat64, 12);
    FUZZ_NEED(public6(other) == four);
    memset(other, 0, sizeof other);
    other[0] = 0x20;
    other[1] = 0x02;
    memcpy(other + 2, a, 4);
    FUZZ_NEED(public6(other) == four);
    memset(other, 0, sizeof other);
    memcpy(other + 12, a, 4); /* compatible: never */
    FUZZ_NEED(!public6(other));
    FUZZ_NEED(!import_address_is_public(&(struct sockaddr){.sa_family = AF_UNIX}));
}

static void check_url(const char *url, const char *list)
{
    char host[IMPORT_HOST_LEN] = "";
    bool https = false;
    struct err e = {0};
    if (import_address_host(url, &https, host, "url", &e)) {
        FUZZ_NEED(e.code == ERR_INVALID && strcmp(e.param, "url") == 0 && !host[0]);
        return;
    }
    size_t n = strlen(host), at = https ? 8 : 7;
    FUZZ_NEED(n > 0 && strncasecmp(url, https ? "https://" : "http://", at) == 0 && strncmp(url + at, host, n) == 0 && strchr("/?#", url[at + n]));
    FUZZ_NEED(!strpbrk(host, "@/?#\\ ") && import_address_is_listed(host, host));
    FUZZ_NEED(!import_address_is_listed("", host));
    if (import_address_is_listed(list, host)) FUZZ_NEED(list[strspn(list, ", ")]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint8_t address[16] = {0};
    size_t took;
    const uint8_t *at = fuzz_take(&data, &n, sizeof address, &took);
    if (took) memcpy(address, at, took);
    check_address(address);
    char *url = fuzz_until(&data, &n, '\n'), *list = fuzz_until(&data, &n, 0);
    check_url(url, list);
    free(url);
    free(list);
    return 0;
}
