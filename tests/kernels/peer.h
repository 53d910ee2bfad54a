/* The same matrix product by somebody else's library, for the bench alone: oneDNN where its header is installed
 * (peer_onednn.c), nobody otherwise (peer_none.c). The Makefile picks the file. */
#pragma once
#include <stdbool.h>

enum peer_type { PEER_BF16, PEER_INT8 }; /* bf16 x bf16, u8 x s8 with a scale per output; float32 out */

struct peer; /* one weight [n][k], packed by the library as it likes, times m rows */

extern const char *const peer_name; /* NULL: there is none */

/* NULL: the library has no such product here. It runs on as many threads as the machine has cores. */
struct peer *peer_new(enum peer_type type, int m, int n, int k, int copies);
void peer_run(struct peer *p, int copy); /* each copy of the weight has memory of its own */
void peer_free(struct peer *p);
