/* revision: tags of objects (see revision.h). A tag is the revision in quotes, strong: the object's JSON is a function of its row. A weak tag
 * or a list of tags can't come from reading one of our objects, so both are refused by name instead of being taken for a mismatch. Pure but
 * for the request. Any thread. */
#include "gateway/api/revision.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIGITS_MAX 18

static int read_tag(const char *text, int64_t *want, struct err *e)
{
    size_t digits = *text == '"' ? strspn(text + 1, "0123456789") : 0;
    if (digits < 1 || digits > DIGITS_MAX || strcmp(text + 1 + digits, "\"") != 0)
        return err_field(e, ERR_INVALID, "If-Match",
                         "If-Match must be one ETag as it was read, such as \"3\" with its quotes, or *; not %.40s.",
                         text);
    *want = strtoll(text + 1, NULL, 10);
    if (*want < 1) *want = INT64_MAX; /* "0": no row ever has it */
    return 0;
}

int revision_wanted(const struct http_request *r, int64_t *want, struct err *e)
{
    const char *match = http_header(r, "if-match"), *none = http_header(r, "if-none-match");
    if (match && none)
        return err_field(e, ERR_INVALID, "If-None-Match", "If-Match and If-None-Match don't go together.");
    if (none && strcmp(none, "*") != 0)
        return err_field(e, ERR_INVALID, "If-None-Match", "If-None-Match can only be * here, not %.40s.", none);
    *want = none ? REVISION_NONE : REVISION_ANY;
    if (!match) return 0;
    if (strcmp(match, "*") == 0)
        *want = REVISION_SOME;
    else
        return read_tag(match, want, e);
    return 0;
}

int revision_required(const struct http_request *r, int64_t *want, struct err *e)
{
    if (revision_wanted(r, want, e)) return -1;
    if (*want != REVISION_ANY) return 0;
    return err_set(e, ERR_PRECONDITION_REQUIRED,
                   "This change needs If-Match with the ETag that was read, or If-None-Match: * for a new one.");
}

int revision_check(int64_t want, int64_t have, struct err *e)
{
    if (want == REVISION_ANY || want == have || (want == REVISION_SOME && have)) return 0;
    if (want == REVISION_NONE)
        return err_set(e, ERR_PRECONDITION, "There is one already, of revision %lld.", (long long)have);
    if (!have) return err_set(e, ERR_PRECONDITION, "There is none that could match.");
    return err_set(e, ERR_PRECONDITION, "It has changed since it was read: its revision is %lld now.", (long long)have);
}

void revision_show(struct http_request *r, int64_t revision)
{
    char tag[24];
    snprintf(tag, sizeof tag, "\"%lld\"", (long long)revision);
    http_set_header(r, "ETag", tag);
}
