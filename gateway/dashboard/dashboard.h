/* The pages under /dashboard: the files of gateway/dashboard/ and Debian's chart.js, embedded by the build (Makefile). */
#pragma once

struct dashboard_file {
    const char *name; /* "app.js"; NULL ends the table */
    const char *from, *to;
};

extern const struct dashboard_file dashboard_files[]; /* made by the Makefile from what lies in gateway/dashboard/ */
