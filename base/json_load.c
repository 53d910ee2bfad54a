/* json_load: jansson's parser, left at the first allocation that fails.
 *
 * jansson (2.14) does not look whether a byte of a string could be kept: where its buffer can't grow, it goes on and copies what lies behind the
 * buffer, up to the next quote. So a parse that is short of memory must not go on. Its allocations come here (json_set_alloc_funcs); during a parse each
 * is noted, and the one that fails leaves the parser by longjmp and frees all that was noted. jansson holds no lock and keeps no state of its own
 * while it parses, so nothing but those blocks is left behind.
 *
 *     json_load() -> json_loadb() -> take() ... take() --fails--> longjmp -> all blocks freed, "out of memory"
 *
 * Outside of a parse the functions are malloc and free: jansson minds what those say there, and who gets a text from json_dumps() frees it as ever. Blocks
 * have no header for the same reason. The list is searched from its end, where nearly all that a parse frees stands. Any thread. */
#include "base/json.h"
#include "base/clock.h"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 64

struct parse {
    jmp_buf out;
    void **block; /* [room]; n of them are in use */
    size_t n, room;
};

static _Thread_local struct parse *parse;
static _Thread_local int64_t short_us; /* when an allocation failed last, monotonic; 0: none did, or it was told */

static void *take(size_t size)
{
    struct parse *p = parse;
    if (!p) {
        void *b = malloc(size);
        if (!b) short_us = clock_mono_us();
        return b;
    }
    if (p->n == p->room) {
        size_t room = p->room ? 2 * p->room : FIRST_ROOM;
        void **block = realloc(p->block, room * sizeof *block);
        if (!block) longjmp(p->out, 1);
        p->block = block;
        p->room = room;
    }
    void *b = malloc(size);
    if (!b) longjmp(p->out, 1);
    p->block[p->n++] = b;
    return b;
}

static void give(void *b)
{
    struct parse *p = parse;
    for (size_t i = p && b ? p->n : 0; i-- > 0;)
        if (p->block[i] == b) {
            p->block[i] = p->block[--p->n];
            break;
        }
    free(b);
}

bool json_was_short(int64_t since_us)
{
    return short_us && short_us >= since_us;
}

void json_short_is_told(void)
{
    short_us = 0;
}

void json_load_start(void) { json_set_alloc_funcs(take, give); }

static void forget(struct parse *p)
{
    while (p->n) free(p->block[--p->n]);
}

json_t *json_load(const char *text, size_t len, size_t flags, json_error_t *je)
{
    struct parse p = {.block = NULL};
    json_t *volatile v = NULL;
    json_error_t why = {0};
    parse = &p;
    if (setjmp(p.out) == 0) {
        v = json_loadb(text, len, flags, &why);
    } else {
        forget(&p);
        short_us = clock_mono_us();
        snprintf(why.text, sizeof why.text, "out of memory");
        why.text[JSON_ERROR_TEXT_LENGTH - 1] = json_error_out_of_memory; /* where json_error_code() looks */
    }
    parse = NULL;
    free(p.block);
    if (je) *je = why;
    return v;
}
