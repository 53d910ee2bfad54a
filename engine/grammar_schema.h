/* Inside structured output: a JSON schema on its way into a net.
 *
 * grammar_schema.c decides what a schema asks for, grammar_scalar.c writes strings and numbers, grammar_shape.c values, objects and arrays,
 * grammar_merge.c turns combinations (allOf, anyOf beside other keywords) into plain schemas, grammar_apart.c proves that a oneOf's schemas
 * exclude each other, grammar_format.c has the formats. A function that builds takes the node that
 * comes `next`, as in grammar_net.h; one that refuses says so through the net and returns NODE_FAIL, NULL, false or -1. */
#pragma once
#include "engine/grammar_net.h"
#include <jansson.h>

#define SCHEMA_NESTING 100      /* schemas inside schemas */
#define SCHEMA_WORK 2000000     /* keywords walked (1), copied (4) and compared while combinations are multiplied out */
#define SCHEMA_ALTERNATIVES 512 /* of one combination */
#define SCHEMA_REFS 2048        /* different $ref */
#define SCHEMA_PROPERTIES 2000  /* of one object */
#define SCHEMA_PATH 200
#define SCHEMA_NAME_MAX 256 /* bytes of a property's name where other names are allowed beside it */

struct schema_ref {
    const char *pointer; /* "#/$defs/a" */
    uint64_t hash;
    uint32_t rule;
};

struct flat { /* what a schema was multiplied out to */
    const json_t *schema, *list;
};

struct schema {
    struct net *net;
    const json_t *root;
    struct schema_ref *ref;
    int nref;
    json_t *made;      /* a list that keeps what merging made */
    struct flat *flat; /* hashed by the schema's address */
    size_t nflat, flat_slots;
    int depth, work;
    char path[SCHEMA_PATH];                      /* of the schema in hand, for messages */
    uint32_t value, chr, space, number, integer; /* shared rules + 1; 0: not built yet */
};

enum { /* kinds of values, as bits */
       K_NULL = 1,
       K_BOOL = 2,
       K_INT = 4,
       K_NUM = 8, /* integers too */
       K_STR = 16,
       K_ARR = 32,
       K_OBJ = 64,
       K_ALL = 127 - K_INT,
};

/* --- grammar_schema.c --- */
int schema_compile(struct net *n, const json_t *root, struct err *e); /* the whole answer is such a value */
uint32_t schema_net(struct schema *s, const json_t *schema, uint32_t next);
uint32_t schema_refuse(struct schema *s, const char *keyword, const char *why); /* "#/a: keyword: why"; NODE_FAIL */
size_t schema_enter(struct schema *s, const char *key, const char *sub);        /* lengthens the path */
void schema_leave(struct schema *s, size_t mark);
const json_t *schema_target(struct schema *s, const json_t *ref); /* what a $ref points to */
int schema_check(struct schema *s, const json_t *schema);         /* the number of keywords that are served */
bool schema_serves(const char *keyword);
bool schema_spend(struct schema *s, size_t work);         /* false: too much work, and refused */
int schema_kinds(struct schema *s, const json_t *schema); /* what `type` allows; K_ALL where absent */
int schema_kind_of(const json_t *value);                  /* one bit; an integral real is K_INT */
int schema_kinds_both(int a, int b);
bool schema_kind_fits(int kind, int kinds); /* a value's one kind among those that are allowed */

/* --- grammar_scalar.c --- */
uint32_t scalar_string(struct schema *s, const json_t *schema, uint32_t next);
uint32_t scalar_number(struct schema *s, const json_t *schema, bool integer, uint32_t next);
uint32_t scalar_literals(struct schema *s, const json_t *schema, int kinds, uint32_t next); /* enum and const */
char *scalar_dump(const json_t *v); /* JSON with escapes as net_json_char() has them; free() */
uint32_t scalar_text(struct schema *s, uint32_t min, uint32_t max,
                     uint32_t next); /* any string of min..max characters */
uint32_t scalar_any_number(struct schema *s, bool integer, uint32_t next);
int schema_count(struct schema *s, const json_t *schema, const char *keyword, uint32_t *out); /* absent: *out stays */

/* --- grammar_shape.c --- */
uint32_t shape_value(struct schema *s, uint32_t next);                    /* any value */
uint32_t shape_literal(struct schema *s, const json_t *v, uint32_t next); /* this value, in any layout */
uint32_t shape_object(struct schema *s, const json_t *schema, uint32_t next);
uint32_t shape_array(struct schema *s, const json_t *schema, uint32_t next);
int shape_compile_object(struct net *n, struct err *e); /* the whole answer is any object */

/* --- grammar_format.c --- */
struct format {
    const char *name, *regex;
    const char *counted; /* instead, where lengths are counted anyway; NULL: the same */
    uint32_t max;        /* characters of it then */
};
const struct format *schema_format(const char *name); /* NULL: an annotation */

/* --- grammar_merge.c --- */
/* The plain schemas (without $ref, allOf, anyOf, oneOf) whose union is `schema`: a list that s->made keeps. NULL: refused. */
const json_t *merge_flatten(struct schema *s, const json_t *schema);

/* --- grammar_apart.c --- */
bool merge_apart(struct schema *s,
                 const json_t *list); /* no value is valid for two of a oneOf's schemas; else refused */
