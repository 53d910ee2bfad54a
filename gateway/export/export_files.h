/* The thread that writes scheduled exports: for each schedule one file for each period that is over and final, and beside it a manifest.
 *
 *     EXPORT_DIR/NAME/2026-11-22.csv                 (hours: 2026-11-22T05.csv, months: 2026-11.csv)
 *     EXPORT_DIR/NAME/2026-11-22.csv.manifest.json   comes last: where it lies, the file is whole
 *
 *     struct export_files: export_files_open() after ledger and prices; export_files_close() before them */
#pragma once
#include "gateway/gateway.h"

struct export_files;

int export_files_open(struct export_files **out, struct gateway *g, struct err *e);
void export_files_close(struct export_files *x); /* a file that is being written is given up; the next start begins it anew. NULL is fine */

/* Seconds since the end of the oldest period that an enabled schedule has not written; 0: none is over. Any thread. */
int64_t export_files_behind(const struct export_files *x);

void export_files_wake(struct export_files *x); /* a schedule was changed: look now */
