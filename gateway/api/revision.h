/* Revisions of one object: its ETag, and what If-Match and If-None-Match ask of a change (RFC 9110, 13.1).
 *
 * The handler reads what is wanted, the change's job compares it with the row's revision in its own transaction, and the answer shows the
 * new one. So of two changes that were made from one reading, the second is refused with 412 and nothing is lost. */
#pragma once
#include "base/http.h"

enum {
    REVISION_ANY = -1,  /* no condition */
    REVISION_SOME = -2, /* If-Match: *        there must be one */
    REVISION_NONE = 0,  /* If-None-Match: *   there must be none yet */
};

/* > 0: this very revision. ERR_INVALID for what is no tag of ours, or both headers at once. */
int revision_wanted(const struct http_request *r, int64_t *want, struct err *e);
/* The same where a condition is required: ERR_PRECONDITION_REQUIRED (428) without one. */
int revision_required(const struct http_request *r, int64_t *want, struct err *e);

/* have: the row's revision, 0: there is no row. ERR_PRECONDITION (412). */
int revision_check(int64_t want, int64_t have, struct err *e);

void revision_show(struct http_request *r, int64_t revision); /* ETag: "N" */
