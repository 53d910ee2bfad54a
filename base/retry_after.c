/* retry_after: what a stranger's answer asks us to wait. strptime() knows the days' and months' names by the locale: no program of ours
 * leaves C's for times. It takes blanks and short numbers where the forms have none, so what it read is printed again and compared. */
#include "base/retry_after.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define DATE_MAX 64
#define YEAR_1000 (1000 - 1900) /* of four digits */
#define DIGITS 9 /* of seconds; more are more than anybody waits */

static bool read_date(const char *text, int64_t *out)
{
    static const char *const forms[] = {"%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"};
    char again[DATE_MAX];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        struct tm t = {0};
        if (!strptime(text, forms[i], &t) || !strftime(again, sizeof again, forms[i], &t) || strcmp(again, text) != 0 || t.tm_year < YEAR_1000) continue;
        *out = (int64_t)timegm(&t);
        return true;
    }
    return false;
}

int64_t retry_after_s(const char *text, int64_t now_s, int64_t most)
{
    int64_t s = 0;
    if (!text || !*text) return -1;
    size_t digits = strspn(text, "0123456789");
    if (!text[digits])
        s = digits <= DIGITS ? strtoll(text, NULL, 10) : most;
    else if (read_date(text, &s))
        s -= now_s;
    else
        return -1;
    return s < 0 ? 0 : s < most ? s : most;
}
