/* Files of an upload that comes in parts: $WEFT_DATA/tmp/ID/files/{adapter_config.json,adapter_model.safetensors}, and
 * beside them what was said about them (ID/said.json). What has been received is the file's own size, so it is right
 * after any crash. */
#pragma once
#include "gateway/registry/registry_upload.h"
#include "gateway/registry/upload.h"

enum { FILE_CONFIG, FILE_WEIGHTS, FILES };

struct part_file {
    int64_t received;
    int64_t total;           /* -1: not said yet */
    char sha256[SHA256_HEX]; /* of the whole file, as Repr-Digest said; "": it did not */
};
extern const char *const part_file_name[FILES]; /* in routes: "config", "weights" */

int64_t parts_limit(const struct gateway *g, int which);
int parts_make(struct gateway *g, const char *id, struct err *e);
void parts_discard(struct gateway *g, const char *id);
int parts_open(struct gateway *g, const char *id, int which,
               struct err *e); /* a descriptor for reading and writing, or -1 */
int parts_read(struct gateway *g, const char *id, struct part_file out[FILES], struct err *e);
/* Of one file: total -1 and sha256 NULL leave what was said. ERR_INVALID: another total than before. Not beside another
 * call for this upload. */
int parts_say(struct gateway *g, const char *id, int which, int64_t total, const char *sha256, struct err *e);

/* The upload as its clients see it. */
struct json_t;
struct json_t *parts_json(struct gateway *g, const struct upload_row *row, struct err *e);
struct json_t *parts_json_new(const struct upload_row *row); /* of one that has just begun; NULL: no memory */
/* Completes what upload_json() made. */
int parts_add_files(struct gateway *g, struct json_t *upload, struct err *e);
