/* otlp_answer: which answers are worth another try is the specification's list; that part of a batch was not taken stands in the body of a 200,
 * {"partialSuccess":{"rejectedSpans":"3","errorMessage":...}}, as a number or, as 64-bit ones are written in Protobuf's JSON, a string. */
#include "gateway/observe/otlp_answer.h"
#include "base/json.h"
#include <stdlib.h>
#include <string.h>

#define DIGITS 18 /* any number of them fits */

enum otlp_verdict otlp_verdict(int status)
{
    if (status >= 200 && status < 300) return OTLP_TAKEN;
    return status == 0 || status == 429 || status == 502 || status == 503 || status == 504 ? OTLP_AGAIN : OTLP_REFUSED;
}

static int64_t count_of(const json_t *v)
{
    const char *s = json_string_value(v);
    if (!s) return json_integer_value(v);
    size_t n = strspn(s, "0123456789");
    return n && n <= DIGITS && !s[n] ? strtoll(s, NULL, 10) : 0;
}

int64_t otlp_rejected(const char *body, size_t n, int64_t sent)
{
    json_t *v = NULL;
    if (json_parse(body, n, &v, NULL)) return 0;
    int64_t spans = count_of(json_object_get(json_object_get(v, "partialSuccess"), "rejectedSpans"));
    json_decref(v);
    return spans < 0 ? 0 : spans < sent ? spans : sent;
}
