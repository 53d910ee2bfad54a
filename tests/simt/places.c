/* The barriers and waits that threads came by, by file and line, so that a test of a kernel can leave out each of them in
 * turn: whatever is needed must be missed. Known once a launch came by; a kernel's templates share a place. The table lies
 * in memory that is shared with cases, which run in processes of their own. */
#include "tests/simt/run.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RECENT 64

static struct table {
    int n;
    struct simt_place place[PLACES_MAX];
} * seen;
static const struct simt_place *without;
static struct simt_place recent[RECENT]; /* by line: threads come by the same few places all the time */
static struct simt_place missed[PLACES_MAX];
static int nmissed;

static struct table *table(void)
{
    if (seen) return seen;
    void *p = mmap(NULL, sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) abort();
    return seen = p;
}

static bool same(const char *a, const char *b)
{
    return a == b || !strcmp(a, b);
}

static bool is(const struct simt_place *p, struct simt_site at)
{
    return p->line == at.line && same(p->file, at.file);
}

bool place_left_out(const char *what, struct simt_site at)
{
    struct table *t = table();
    if (without && is(without, at) && same(without->what, what)) return true;
    struct simt_place *s = &recent[at.line % RECENT];
    if (s->line == at.line && s->file == at.file && s->what == what) return false;
    *s = (struct simt_place){what, at.file, at.line};
    for (int i = 0; i < t->n; i++)
        if (is(&t->place[i], at) && same(t->place[i].what, what)) return false;
    if (t->n < PLACES_MAX) t->place[t->n++] = (struct simt_place){what, at.file, at.line};
    return false;
}

void simt_forget_places(void)
{
    table()->n = 0;
    memset(recent, 0, sizeof recent);
}

int simt_places(const struct simt_place **out)
{
    *out = table()->place;
    return table()->n;
}

void simt_leave_out(const struct simt_place *p)
{
    without = p;
}

void place_is_missed(const struct simt_place *p)
{
    if (nmissed < PLACES_MAX) missed[nmissed++] = *p;
}

bool place_was_missed(const struct simt_place *p)
{
    for (int i = 0; i < nmissed; i++)
        if (missed[i].line == p->line && same(missed[i].file, p->file) && same(missed[i].what, p->what)) return true;
    return false;
}

void places_tell(FILE *to)
{
    for (int i = 0; i < nmissed; i++) fprintf(to, "missed %s %s:%d\n", missed[i].what, missed[i].file, missed[i].line);
}
