/* Private to engine/packed*.c: the head and the index of a packed file as they lie in it (packed.c draws them). */
#pragma once
#include "engine/packed.h"
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define PACKED_VERSION 1
#define PACKED_ALIGN 64
#define PACKED_DATA 4096 /* where the first entry's bytes begin: a page */

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "packed files are mapped as they are: little-endian machines only"
#endif

struct packed_head {
    char magic[8];
    uint32_t version, zero;
    uint64_t index, entries;
    uint64_t meta, meta_bytes;
    uint64_t file_bytes;
    uint64_t zero8;
    uint8_t sha256[32]; /* packed_seal() */
    uint8_t zero32[32];
};

struct packed_entry {
    uint32_t kind, layout;
    int32_t n, k; /* of a weight; n of a vector */
    uint64_t offset, bytes;
    float table[16];
    uint8_t sha256[32];
    char name[128];
};

#define PACKED_HUGE ((size_t)2 << 20)

struct packed {
    char *path;
    int fd;
    const char *map; /* at a multiple of PACKED_HUGE */
    size_t size;
    _Atomic size_t moved; /* bytes from the map's beginning that no longer are the file's (packed_move.c) */
    int count;
    const struct packed_entry **entry; /* sorted by name */
    json_t *meta;
};

/* Over the head up to its digest, the meta data and the index, which has the digests of everything else. */
void packed_seal(const struct packed_head *h, const void *meta, const void *index, uint8_t digest[32]);

_Static_assert(sizeof(struct packed_head) == 128, "the head is two lines");
_Static_assert(sizeof(struct packed_entry) == 256, "entries are records of 256 bytes");
