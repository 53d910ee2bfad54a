/* feedback_body: what is said of an answer, as it comes over HTTP (feedback.h). Pure functions over JSON; any thread. */
#include "gateway/quality/feedback.h"
#include "base/json.h"
#include "base/sha256.h"
#include <string.h>

static int read_rating(const json_t *body, double *out, struct err *e)
{
    const json_t *v = json_object_get(body, "rating");
    const char *word = json_string_value(v);
    if (!v) return err_field(e, ERR_MISSING, "rating", "'rating' is missing.");
    double n = json_number_value(v);
    if (word && (strcmp(word, "up") == 0 || strcmp(word, "down") == 0)) {
        *out = strcmp(word, "up") == 0 ? 1 : -1;
        return 0;
    }
    if (!json_is_number(v) || !(n >= -1 && n <= 1)) return err_field(e, ERR_INVALID, "rating", "'rating' must be \"up\", \"down\" or a number from -1 to 1.");
    *out = n;
    return 0;
}

int feedback_read(const json_t *body, struct feedback *f, struct err *e)
{
    if (json_need_str(body, "request_id", UUID_LEN - 1, &f->request, e) || read_rating(body, &f->rating, e) ||
        json_get_str(body, "label", FEEDBACK_LABEL_MAX, &f->label, NULL, e) || json_get_str(body, "comment", FEEDBACK_COMMENT_MAX, &f->comment, NULL, e))
        return -1;
    return uuid_is(f->request) ? 0 : err_field(e, ERR_INVALID, "request_id", "'request_id' must be the id of a request: an answer's x-request-id.");
}
