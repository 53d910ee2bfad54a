/* weft key create, weft admin-key create: a role where none is given, the least that is of use. */
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_verbs.h"
#include <string.h>

int cli_key_create(const struct cli *c)
{
    struct cli with = *c;
    bool admin = !strncmp(c->command->words, "admin-key", 9),
         roleless = !cli_has(c, CLI_ROLE_FLAG) && !cli_has(c, CLI_SCOPE_FLAG);
    if (roleless) with.flag[CLI_ROLE_FLAG] = json_pack("[s]", admin ? "viewer" : "inference");
    int rc = cli_plain(&with);
    if (roleless) json_decref(with.flag[CLI_ROLE_FLAG]);
    return rc;
}
