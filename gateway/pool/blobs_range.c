/* blobs_range: the part of a file that a fetch which is taken up again asks for, "bytes=N-" or "bytes=N-M". What is not one of these is no Range at all,
 * as RFC 9110 (section 14.2) allows, and gets the whole file: lists of ranges and suffixes are nobody's here. */
#include "gateway/pool/blobs.h"
#include <stdlib.h>
#include <string.h>

int blobs_range(const char *range, int64_t size, int64_t *from, int64_t *n)
{
    char *end;
    *from = 0;
    *n = size;
    if (!range || strncmp(range, "bytes=", 6) != 0 || range[6] < '0' || range[6] > '9') return 0;
    int64_t first = strtoll(range + 6, &end, 10), last = size - 1;
    if (*end++ != '-') return 0;
    if (*end >= '0' && *end <= '9' && (last = strtoll(end, &end, 10)) < first) return 0;
    if (*end) return 0;
    if (first >= size) return -1;
    if (last > size - 1) last = size - 1;
    *from = first;
    *n = last - first + 1;
    return 1;
}
