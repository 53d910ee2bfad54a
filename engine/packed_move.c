/* packed_move: out of the page cache's pages into 2 MB pages, under the feet of those who read.
 *
 * Measured, one gigabyte read by two threads: 41 GB/s from anonymous 2 MB pages, 35 to 39 from a file's pages (large ones already, where the
 * file system has them; with 4 KB pages ENGINE.md section 3 has 5 to 13 %). Reading it into such pages before the start would cost what the
 * memory costs: 0.2 s, but 1 to 4 s on a virtual machine whose host takes free memory back. So a start maps the file and is ready, and
 * this moves it afterwards:
 *
 *     a chunk of anonymous 2 MB pages <- copy of the file's chunk; then mremap() puts it in the chunk's place
 *
 * mremap() with MREMAP_FIXED takes the old mapping away and puts the new one there under one lock of the address space: whoever reads
 * meanwhile finds the old page or waits in the page fault for the new one, and both hold the same bytes. Pointers stay what they are.
 *
 * Chunks are moved until half of the memory that is available is gone: then it stays as it is. One thread. */
#include "base/log.h"
#include "base/memory.h"
#include "engine/packed_impl.h"
#include <string.h>
#include <sys/mman.h>

#define MOVE_CHUNK ((size_t)64 << 20) /* few mappings for large models; a multiple of PACKED_HUGE */
#define COPY_SLICE ((size_t)2 << 20)

/* Anonymous memory at a multiple of PACKED_HUGE; NULL: none. */
static char *take_chunk(size_t bytes)
{
    char *room = mmap(NULL, bytes + PACKED_HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) return NULL;
    size_t skip = (PACKED_HUGE - (uintptr_t)room % PACKED_HUGE) % PACKED_HUGE;
    if (skip) munmap(room, skip);
    if (skip < PACKED_HUGE) munmap(room + skip + bytes, PACKED_HUGE - skip);
    madvise(room + skip, bytes, MADV_HUGEPAGE);
    return room + skip;
}

static bool move_chunk(char *at, size_t bytes, const atomic_bool *stop)
{
    char *to = take_chunk(bytes);
    bool whole = to != NULL;
    for (size_t i = 0; whole && i < bytes; i += COPY_SLICE) {
        memcpy(to + i, at + i, bytes - i < COPY_SLICE ? bytes - i : COPY_SLICE);
        whole = !atomic_load(stop);
    }
    whole = whole && mprotect(to, bytes, PROT_READ) == 0 &&
            mremap(to, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at;
    if (!whole && to) munmap(to, bytes);
    return whole;
}

void packed_move(struct packed *p, const atomic_bool *stop)
{
    size_t all = p->size / PACKED_HUGE * PACKED_HUGE; /* the rest is the index's end */
    while (atomic_load(&p->moved) < all && !atomic_load(stop)) {
        size_t at = atomic_load(&p->moved), bytes = all - at < MOVE_CHUNK ? all - at : MOVE_CHUNK;
        if (memory_available() / 2 < all - at) break;
        if (!move_chunk((char *)(uintptr_t)p->map + at, bytes, stop)) break;
        atomic_store(&p->moved, at + bytes);
    }
    if (all)
        log_info("weights_moved", LS("file", p->path), LI("bytes", (int64_t)atomic_load(&p->moved)),
                 LI("of", (int64_t)p->size));
}

size_t packed_moved(const struct packed *p)
{
    return atomic_load(&p->moved);
}

size_t packed_size(const struct packed *p)
{
    return p->size;
}
