/* settings: the table behind gateway/settings.h. */
#include "gateway/settings.h"

const struct conf_row settings_rows[] = {
#define X(field, type, deflt, min, max, env, help) {#field, CONF_##type, deflt, min, max, env, help, offsetof(struct settings, field)},
#include "schema/gateway_settings.def"
#undef X
};
const size_t settings_nrows = sizeof settings_rows / sizeof *settings_rows;
