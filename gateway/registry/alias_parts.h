/* The parts of an alias (alias.h), a row for each: where it stands, who reads it, what of it is nobody's to see. */
#pragma once
#include "gateway/registry/alias.h"
#include <jansson.h>

#define ALIAS_PART_COLUMNS "l.prompt_policy, l.evaluation, l.routing, l.capture" /* of alias as `l`, in the order of enum alias_part */

struct alias_part_row {
    const char *field; /* in the alias's JSON */
    const char *set;   /* SQL: ?1 the row, ?2 the text, '' for none */
    /* What a client says into the object that is stored, all defaults written out; *out NULL where v is NULL, null or {}. The caller owns it. ERR_INVALID
     * and ERR_MISSING name the field below. */
    int (*read)(const json_t *v, json_t **out, struct err *e);
    const char *secret; /* member that the trail and events know by its SHA-256 alone; NULL: none */
    unsigned scope;     /* that who sets or changes it needs beside SCOPE_WRITE; 0: none. Everybody who may write may take it away */
};

extern const struct alias_part_row alias_part_row[ALIAS_PARTS];
