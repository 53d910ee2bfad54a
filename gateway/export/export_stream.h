/* Exports that are answers: usage rows streamed to who asked, however many they are, in bounded memory and without a thread of their own.
 *
 *     struct exports: exports_open() after ledger and prices, before the listeners; exports_close() after they have stopped. */
#pragma once
#include "gateway/export/export_rows.h"
#include "gateway/gateway.h"

#define EXPORTS_MAX 32        /* at a time */
#define EXPORTS_PER_KEY_MAX 3 /* of one key */
#define EXPORTS_PER_TENANT_MAX 8 /* of one tenant's keys */

struct exports;

struct export_ask {
    enum export_format format;
    struct rows_query rows;   /* tenant is copied */
    struct rows_cursor after;
    int first, last;          /* YYYYMM: the months that it goes through */
    struct rows_gone gone;    /* of these, when it was asked for: an export is cut where that changes */
    bool partial;             /* asked for although rows are gone */
    bool gzip;
    bool admin; /* whose right is looked at again while it goes on */
};

int exports_open(struct exports **out, struct gateway *g, struct err *e);
void exports_close(struct exports *x); /* what still goes on is cut; NULL is fine */

/* Answers the request: a stream, whole where its end comes. ERR_RATE_LIMIT: this key or its tenant has as many under way as it may; ERR_UNAVAILABLE: all
 * have EXPORTS_MAX. On failure nothing was answered. */
int exports_start(struct exports *x, struct http_request *r, const struct export_ask *ask, struct err *e);
