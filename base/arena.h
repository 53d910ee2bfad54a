/* Arena: memory that lives as long as one request (or one load) and is freed in one call.
 *
 * Allocations are aligned to 16 bytes, zeroed, and never freed alone. An arena has a limit; beyond it, and when malloc
 * fails, arena_alloc() returns NULL. Not thread-safe: one owner at a time. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct arena;

struct arena *arena_new(size_t limit_bytes); /* NULL: out of memory */
void arena_free(struct arena *a);            /* NULL is fine */

void *arena_alloc(struct arena *a, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
size_t arena_used(const struct arena *a);
bool arena_is_full(const struct arena *a); /* something was refused for the limit, not for want of memory */
