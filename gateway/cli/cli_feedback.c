/* weft feedback give REQUEST RATING: how good an answer was, as a word or a number; the server says what is wrong with it. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <stdlib.h>

/* A number where it is one, else the word as it is. */
static json_t *rating(const char *text)
{
    char *end;
    double v = strtod(text, &end);
    return *text && !*end ? json_real(v) : json_string(text);
}

int cli_feedback_give(const struct cli *c)
{
    json_t *body = NULL, *out = NULL;
    int rc = cli_body(c, &body);
    if (!rc && (json_object_set_new(body, "request_id", json_string(c->arg[0])) || json_object_set_new(body, "rating", rating(c->arg[1]))))
        rc = cli_error(CLI_USAGE, "'%s' is no rating", c->arg[1]);
    if (!rc) rc = cli_call(c, c->command->side, c->command->method, c->command->path, body, &out);
    if (!rc && c->json)
        rc = cli_json(out);
    else if (!rc)
        cli_fields(c->command->view, out);
    json_decref(body);
    json_decref(out);
    return rc;
}
