/* What `weft doctor` finds: a list of checks, each ok, warn, fail or skip, with what to do. */
#pragma once
#include "base/conf.h"
#include "gateway/cli/cli.h"

struct doctor_settings {
#define X CONF_FIELD
#include "schema/gateway_settings.def"
#undef X
};

struct doctor {
    const struct cli *c;
    json_t *checks;
    int warned, failed;
    struct doctor_settings set;
    bool settings_known;
    const char *data; /* the data folder, or NULL */
    bool running;     /* a gateway holds its lock */
};

enum doctor_verdict { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL, DOCTOR_SKIP };

/* `remedy` "" where nothing is to be done. */
void doctor_say(struct doctor *d, enum doctor_verdict v, const char *check, const char *remedy, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

void doctor_settings(struct doctor *d); /* cli_doctor_data.c: what the gateway would be started with */
void doctor_data(struct doctor *d);     /* the data folder, its lock, its database */
void doctor_ports(struct doctor *d);    /* cli_doctor_host.c */
void doctor_model(struct doctor *d);
void doctor_host(struct doctor *d);    /* CPU, memory, pages, clock, descriptors */
void doctor_gateway(struct doctor *d); /* cli_doctor_remote.c: over HTTP */
