/* Tests of gateway/import_address: which addresses an import may connect to. */
#include "gateway/registry/import_address.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static bool is_public(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1) return import_address_is_public((struct sockaddr *)&v4);
    if (inet_pton(AF_INET6, text, &v6.sin6_addr) != 1) fail_msg("'%s' is no address", text);
    return import_address_is_public((struct sockaddr *)&v6);
}

static const char *const closed[] = {
    "0.0.0.0",
    "0.1.2.3",
    "0.255.255.255",
    "10.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.0",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.0",
    "127.0.0.1",
    "127.1.2.3",
    "127.255.255.255",
    "168.63.129.16",
    "169.254.0.0",
    "169.254.169.254",
    "169.254.170.2",
    "169.254.255.255",
    "172.16.0.0",
    "172.17.0.1",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.192",
    "192.0.0.255",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.168.0.0",
    "192.168.1.1",
    "192.168.255.255",
    "192.175.48.1",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    /* IPv6 */
    "::",
    "::1",
    "::2",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:192.168.0.1",
    "::ffff:0:127.0.0.1",
    "::ffff:0:10.1.2.3",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:20::1",
    "2001:1ff:ffff::1",
    "2001:db8::1",
    "2001:db8:ffff::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:a9fe:a9fe::",
    "2002:c0a8:101::1",
    "2620:4f:8000::1",
    "3fff::1",
    "3fff:fff::1",
    "3ffe::1",
    "4000::1",
    "5f00::1",
    "8000::1",
    "fc00::1",
    "fd00:ec2::254",
    "fdff:ffff::1",
    "fe00::1",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "febf::1",
    "fec0::1",
    "feff::1",
    "ff00::1",
    "ff02::1",
    "ff0e::1",
};

static const char *const open_ones[] = {
    "1.0.0.1",          "1.1.1.1",           "8.8.8.8",
    "9.255.255.255",    "11.0.0.0",          "100.63.255.255",
    "100.128.0.0",      "126.255.255.255",   "128.0.0.0",
    "168.63.129.15",    "168.63.129.17",     "169.253.255.255",
    "169.255.0.0",      "172.15.255.255",    "172.32.0.0",
    "192.0.1.0",        "192.0.3.0",         "192.167.255.255",
    "192.169.0.0",      "198.17.255.255",    "198.20.0.0",
    "203.0.112.255",    "203.0.114.0",       "223.255.255.255",
    "2000::1",          "2001:200::1",       "2001:4860:4860::8888",
    "2001:db7:ffff::1", "2001:db9::1",       "2002:808:808::1",
    "2606:4700::1111",  "2a00:1450:4001::1", "3fff:1000::1",
    "::ffff:8.8.8.8",   "::ffff:1.1.1.1",    "64:ff9b::8.8.8.8",
    "::ffff:0:8.8.8.8",
};

static void what_is_not_the_public_internet_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++)
        if (is_public(closed[i])) fail_msg("%s is taken as public", closed[i]);
}

static void public_addresses_are_taken_up_to_the_edges_of_the_blocks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof open_ones / sizeof *open_ones; i++)
        if (!is_public(open_ones[i])) fail_msg("%s is taken as closed", open_ones[i]);
}

static void other_families_are_refused(void **state)
{
    (void)state;
    struct sockaddr a = {.sa_family = AF_UNIX};
    assert_false(import_address_is_public(&a));
    a.sa_family = AF_UNSPEC;
    assert_false(import_address_is_public(&a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_the_public_internet_is_refused),
        cmocka_unit_test(public_addresses_are_taken_up_to_the_edges_of_the_blocks),
        cmocka_unit_test(other_families_are_refused),
    };
    return cmocka_run_group_tests_name("import_address", tests, NULL, NULL);
}
