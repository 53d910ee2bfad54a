/* The numbers that limits are, as a body says them and as people see them. Pure functions over JSON. */
#pragma once
#include "gateway/limits/limit.h"
#include <jansson.h>

#define LIMIT_SOFTS 4 /* budgets have a soft limit, too: NAME_soft */
#define LIMIT_VALUES (LIMIT_KINDS + LIMIT_SOFTS)

/* {NAME: number or null}; what is not named is not limited, -1. ERR_INVALID names the field. */
int limit_body_read(const json_t *body, int64_t value[LIMIT_VALUES], struct err *e);
/* All of them by name, null where there is none. */
json_t *limit_body_json(const int64_t value[LIMIT_VALUES]);
