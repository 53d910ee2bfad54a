/* Where made adapters lie while weft-engine calibrate measures: DIR/weft-calibrate-XXXXXX/aN/. Not thread-safe, apart from what
 * calibrate_folder_end_with() starts. */
#pragma once
#include "base/err.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>

#define CALIBRATE_ADAPTERS 10
#define CALIBRATE_FOLDER_LEN 3100

struct calibrate_folder {
    char path[CALIBRATE_FOLDER_LEN];
    int lock;         /* of the folder, as long as its process lives */
    atomic_bool made; /* set when both are */
    sigset_t ends;    /* signals that remove it */
};

/* Makes one in `dir` (empty: /tmp), and removes those of this user that nobody holds any more. */
int calibrate_folder_make(struct calibrate_folder *f, const char *dir, struct err *e);
void calibrate_folder_remove(struct calibrate_folder *f);

/* From now on SIGINT, SIGTERM and SIGHUP remove the folder and then end the process as they would have. To be called before any other thread
 * is started; `f` stays. */
int calibrate_folder_end_with(struct calibrate_folder *f, struct err *e);
