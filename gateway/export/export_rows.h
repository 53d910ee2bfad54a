/* Usage rows as the lines of a file: CSV, JSON lines, or FOCUS 1.2 CSV (docs/EXPORTS.md).
 *
 * A writer takes rows one by one (export_row fits as ledger_rows()'s callback) into a fixed piece of memory that its owner empties. It counts what
 * it wrote, for manifests. One thread at a time.
 *
 *     export_begin(&w, format, world, memory, cap) -> export_head -> export_row ... (full: take w.out[0 .. w.len), w.len = 0, go on)
 */
#pragma once
#include "gateway/export/export_text.h"
#include "gateway/ledger/ledger_rows.h"

enum export_format { EXPORT_CSV, EXPORT_JSONL, EXPORT_FOCUS, EXPORT_FORMATS };

struct export_kind {
    const char *word, *content_type, *extension;
};
extern const struct export_kind export_kinds[EXPORT_FORMATS];
int export_format_of(const char *word); /* -1: no such */

#define EXPORT_MEMORY ((size_t)512 << 10)  /* a good size; least: EXPORT_ROW_MAX */
#define EXPORT_ROW_MAX ((size_t)128 << 10) /* a row that may need more is refused with ERR_INTERNAL */

/* What a line says beyond its row (gateway/export/export_world.h). */
struct export_world;

struct export_sums {
    int64_t lines, requests, adjustments, input, cached, output, produced, cost;
    char first[UUID_LEN], last[UUID_LEN];
};

struct export_writer {
    enum export_format format;
    struct export_world *world;
    char *out; /* borrowed */
    size_t len, cap;
    bool full; /* the last row was not taken: there is no room for it */
    struct text_day day;
    struct export_sums sums;
};

void export_begin(struct export_writer *w, enum export_format format, struct export_world *world, char *memory, size_t cap);
void export_head(struct export_writer *w); /* the line of names; JSON lines have none */

/* u: the writer. -1 with w->full: empty it and give the row again; else e says why. */
int export_row(void *u, const struct usage_row *r, struct err *e);

/* export_row()'s, of FOCUS: a row is up to three lines, which it counts in w->sums.lines. */
char *export_focus_head(char *at);
char *export_focus_row(char *at, struct export_writer *w, const struct usage_row *r, struct err *e); /* NULL: e says why */
