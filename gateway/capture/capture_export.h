/* Captures as a training set: lines {"messages": [...], "weft": {...}} as `ops/demo/train/train` and other trainers take them (docs/DISTILL.md). */
#pragma once
#include "gateway/capture/capture.h"

struct capture_ask {
    struct capture_filter filter;
    const char *version;          /* NAME@N, or the base's name: whose own answer it is; NULL: all */
    const char *answer;           /* the last message is that version's answer, rows without it are left out; NULL: the own */
    const char *other;            /* with `answer`: rows whose answer of this version is the same are left out, the others say it as weft.other; or NULL */
    double least, most;           /* of the rating */
    bool rated;                   /* rows without a rating are left out */
    bool cut;                     /* answers that ended for their length, too */
};

/* Writes the lines to fd. */
int capture_export(struct captures *c, struct db *d, const char *tenant, const struct capture_ask *a, int fd, int *rows, struct err *e);
