/* multipart/form-data, read piece by piece (RFC 7578 on RFC 2046 section 5.1).
 *
 * Nothing is collected but a part's headers: bodies go to on_data as they come, in any cut. Strict where leniency would
 * let two readers disagree: lines end in CRLF, each part has exactly one Content-Disposition of type form-data with a
 * name, no transfer encoding, no nesting. Bounds: boundary 1..70 characters, headers of a part MULTIPART_HEADERS_MAX
 * bytes, MULTIPART_PARTS_MAX parts, preamble and epilogue MULTIPART_MARGIN_MAX bytes. Sizes of bodies are the
 * callbacks' to bound. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

#define MULTIPART_HEADERS_MAX 8192
#define MULTIPART_PARTS_MAX 8
#define MULTIPART_MARGIN_MAX 1024
#define MULTIPART_BOUNDARY_MAX 70
#define MULTIPART_NAME_MAX 64

struct multipart_part {
    char name[MULTIPART_NAME_MAX + 1];
    bool is_file; /* it carried a filename, which is not looked at further */
};

/* Each returns 0, or -1 with *e set: parsing stops there. */
struct multipart_events {
    int (*on_part)(void *u, const struct multipart_part *p, struct err *e);
    int (*on_data)(void *u, const char *bytes, size_t n, struct err *e);
    int (*on_part_end)(void *u, struct err *e);
};

struct multipart {
    const struct multipart_events *ev;
    void *user;
    int state;
    int parts;
    size_t matched; /* characters of `delim` that the input has matched */
    bool implied;   /* the first two of them came before: they are not body */
    size_t delim_len;
    char delim[MULTIPART_BOUNDARY_MAX + 5]; /* CR LF - - boundary */
    size_t head_len, margin;
    char head[MULTIPART_HEADERS_MAX + 1];
};

/* The boundary of a Content-Type header. ERR_MEDIA_TYPE: another type; ERR_INVALID: no or a bad boundary. */
int multipart_boundary(const char *content_type, char out[MULTIPART_BOUNDARY_MAX + 1], struct err *e);

void multipart_init(struct multipart *m, const char *boundary, const struct multipart_events *ev, void *user);
int multipart_feed(struct multipart *m, const char *bytes, size_t n,
                   struct err *e);                     /* ERR_INVALID, or what a callback said */
int multipart_end(struct multipart *m, struct err *e); /* ERR_INVALID unless the closing boundary has been seen */
