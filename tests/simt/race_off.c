/* The build that doesn't look for races: nothing is noted. */
#include "tests/simt/run.h"

bool simt_finds_races(void)
{
    return false;
}

void race_launch(void) {}

void race_cluster(void) {}

void race_give(struct race_clock *c, struct fiber *f)
{
    (void)c, (void)f;
}

void race_take(const struct race_clock *c, struct fiber *f)
{
    (void)c, (void)f;
}

void race_clear(struct race_clock *c)
{
    (void)c;
}

void race_move(struct race_clock *to, struct race_clock *from)
{
    (void)to, (void)from;
}

void race_access(struct fiber *f, const void *p, size_t bytes, bool write)
{
    (void)f, (void)p, (void)bytes, (void)write;
}

void race_seen(struct fiber *f, const void *p, size_t bytes)
{
    (void)f, (void)p, (void)bytes;
}

void race_read_only(const void *p, size_t bytes)
{
    (void)p, (void)bytes;
}

void race_atomic(struct fiber *f, void *p)
{
    (void)f, (void)p;
}

void race_copy_begins(struct fiber *f, void *to, const void *from, size_t to_bytes, size_t from_bytes, bool hold_source)
{
    (void)f, (void)to, (void)from, (void)to_bytes, (void)from_bytes, (void)hold_source;
}

void race_copy_source_free(struct fiber *f, const void *from, size_t bytes)
{
    (void)f, (void)from, (void)bytes;
}

void race_copy_ends(struct fiber *f, struct mbar *b, void *to, size_t bytes)
{
    (void)f, (void)b, (void)to, (void)bytes;
}

void race_fence_async(struct fiber *f)
{
    (void)f;
}

void race_fenced_async(const struct fiber *f, const void *p, size_t bytes)
{
    (void)f, (void)p, (void)bytes;
}

void race_pdl_wait(struct fiber *f)
{
    (void)f;
}

void race_cta_ends(struct cta *c)
{
    (void)c;
}
