/* Where the gateway is and with which keys: flags, environment, configuration file. */
#pragma once
#include "gateway/cli/cli.h"

/* Fills url, admin_url, key, admin_key. A value is the flag's; else, with --profile, that section's; else the
 * environment's; else that of the section that WEFT_PROFILE or the file's `profile` names, or [default]. */
int cli_config_settle(struct cli *c);

int cli_config_path(const struct cli *c, char out[4096]); /* --config, WEFT_CONFIG, XDG_CONFIG_HOME, ~/.config */

int cli_config_show(const struct cli *c);
int cli_config_get(const struct cli *c);
int cli_config_set(const struct cli *c);
int cli_config_unset(const struct cli *c);
int cli_config_where(const struct cli *c);
