/* Inside structured output: a net at work. A state is the list of places (node, stack) where the text read so far may stand; states are
 * built when they are first met, numbered, and remembered with their transitions, so reading a byte again is a look-up.
 *
 * Not thread-safe: the grammar's lock covers its machine. */
#pragma once
#include "engine/grammar_net.h"

#define PLACES_MAX 2048 /* of a state; what goes beyond is left out: fewer texts are offered then, never a wrong one */

struct place {
    uint32_t node, stack; /* stack 0: empty */
};

struct mstate {
    const struct place *place;
    uint32_t n;
    bool final;  /* the answer may end here */
    bool cut;    /* PLACES_MAX was reached on the way */
    bool looked; /* `live` is known */
    int8_t
        loop; /* well-formed text without quote, backslash and control characters leads back here: 1 yes, 0 no, -1 not known */
    bool stuck; /* no token fits though the answer isn't whole (a vocabulary without single bytes): ends may come */
    struct byte_set live; /* the bytes that lead on */
    int32_t *next;        /* [nklass]; -1: not known */
    uint32_t *paid;       /* [nklass]: the last walk that took this transition */
    uint32_t *mask;
};

struct frame {
    uint32_t parent, ret; /* ret: the node to go on with */
    uint16_t depth;
};

struct machine {
    const struct net *net;
    struct mstate *state;
    struct frame *frame;
    uint32_t nstate, cap_state, nframe, cap_frame, walk;
    int32_t *state_slot; /* hash of states and frames: index + 1 */
    uint32_t *frame_slot;
    uint32_t state_slots, frame_slots;
    struct block *blocks; /* memory of lists, transitions and masks; freed as a whole */
    size_t bytes;         /* all of it */
    struct closing *closing;
};

int machine_init(struct machine *m, const struct net *net); /* -1: no memory */
void machine_close(struct machine *m);

#define MACHINE_DEAD 0 /* the state of texts that match nothing */
#define MACHINE_NOMEM (-1)
int32_t machine_start(struct machine *m);
int32_t machine_step(struct machine *m, int32_t state, uint8_t byte);
/* The bytes that lead on from a state, without building where to: true for exactly those that machine_step() finds not dead. */
const struct byte_set *machine_live(struct machine *m, int32_t state);
int32_t machine_move(struct machine *to, const struct machine *from,
                     int32_t state); /* the same state in another machine of the net */
/* Looks ahead from the start, some states far, until the clock's time is up. 0; 1: states pass PLACES_MAX; -1: no memory. */
int machine_probe(struct machine *m, struct clock *c);
bool machine_loops(struct machine *m, int32_t state); /* mstate.loop, found out; false also when memory is short */
void *machine_alloc(struct machine *m, size_t bytes); /* not zeroed, aligned to 8; NULL: no memory */
