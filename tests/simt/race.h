/* Happens-before (race.c), or nothing of it (race_off.c): which one is linked decides the build.
 *
 * Every thread counts its steps of synchronisation; a clock says for each thread up to which step one has seen it. An
 * access that conflicts with an earlier one must have seen it. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fiber;
struct cta;
struct mbar;

struct race_clock {
    struct race_vector *vector; /* NULL: has seen nothing */
};

void race_launch(void);  /* a grid begins */
void race_cluster(void); /* a cluster begins: its fibers and blocks stand in `run` */

void race_give(struct race_clock *c, struct fiber *f); /* c has seen what f has; f's next step begins */
void race_take(const struct race_clock *c, struct fiber *f);
void race_clear(struct race_clock *c);
void race_move(struct race_clock *to, struct race_clock *from); /* and clear `from` */

/* The shim reads or writes for a thread. */
void race_access(struct fiber *f, const void *p, size_t bytes, bool write);
/* The memory must be as a barrier's init left it: seen, not changed since. */
void race_seen(struct fiber *f, const void *p, size_t bytes);
void race_read_only(const void *p, size_t bytes);
void race_atomic(struct fiber *f, void *p);
/* A copy is on its way: nobody may touch its target, nor change its source. */
void race_copy_begins(struct fiber *f, void *to, const void *from, size_t to_bytes, size_t from_bytes,
                      bool hold_source);
void race_copy_source_free(struct fiber *f, const void *from, size_t bytes);
/* It has landed: seen by f, or by who waits for the mbarrier. */
void race_copy_ends(struct fiber *f, struct mbar *b, void *to, size_t bytes);

/* Bulk copies see what ordinary stores left in shared memory only where the storing thread has fenced it since. */
void race_fence_async(struct fiber *f);
void race_fenced_async(const struct fiber *f, const void *p, size_t bytes);

void race_pdl_wait(struct fiber *f);
void race_cta_ends(struct cta *c);
