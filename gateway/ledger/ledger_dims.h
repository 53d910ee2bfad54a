/* rollup_by: a day of a tenant by one dimension at a time (schema/migrations.def). What each row stands for, for those who write and those who read it.
 *
 *     dim           tenants'   name           version   base                         price
 *     BILL          own, ''    adapter ('')   version   base                         price row; of tenant '' without adapter and version
 *     KEY           own        key id         0         ''                           0
 *     MODEL         own, ''    as called      0         the base, if it is its name  0; tenant '': only of those that name a base
 *     ENDPOINT      own, ''    endpoint       0         ''                           0
 *     STATE         own, ''    "0" to "5"     0         ''                           0
 *     TENANT        ''         tenant id      0         ''                           0
 *     TENANT_MONTH  ''         tenant id      0         ''                           0; t is the month's start
 *
 * Rows of adjustments have price -1 in every dimension: so a bill's tokens times their price are its cost, and what was corrected stands beside. Errors
 * are upstream_error, timeout and gateway_crash, aborts client_abort, as in rollup_adapter. */
#pragma once

enum rollup_dim { DIM_BILL, DIM_KEY, DIM_MODEL, DIM_ENDPOINT, DIM_STATE, DIM_TENANT, DIM_TENANT_MONTH, ROLLUP_DIMS };

#define ROLLUP_PRICE_ADJUSTED (-1)

/* Kinds of rollup_latency, and by the day (tenant '' only) the same plus LATENCY_DAY. */
enum latency_kind { LATENCY_TTFT, LATENCY_DURATION, LATENCY_TPOT, LATENCY_KINDS, LATENCY_DAY = 16 };
