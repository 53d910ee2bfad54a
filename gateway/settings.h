/* The gateway's settings: schema/gateway_settings.def as a struct and a table (base/conf.h). */
#pragma once
#include "base/conf.h"

struct settings {
#define X(field, type, deflt, min, max, env, help) CONF_CTYPE_##type field;
#include "schema/gateway_settings.def"
#undef X
};

extern const struct conf_row settings_rows[];
extern const size_t settings_nrows;
