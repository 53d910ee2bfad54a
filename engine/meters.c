/* meters: the engine's metrics as rows.
 *
 * schema/engine_metrics.def is read three times: as the enum of meters.h, as this table, and by whoever documents them.
 * Nothing here runs. */
#include "engine/meters.h"

const struct metric_row meter_rows[METERS] = {
#define X(id, kind, name, help, labels) [M_##id] = {METRIC_##kind, name, help, labels},
#include "schema/engine_metrics.def"
#undef X
};
