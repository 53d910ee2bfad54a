/* Packing adapters for the CUDA kernels (lora_layout.h has the order and why).
 *
 * Two functions say where an element lies; packing is a walk over the source that asks them for every eighth element of
 * A, whose eight neighbours lie in two runs of known places, and for every pair of B. What the source does not have
 * (padding) is zeroed first: the kernels multiply it. Any thread may call; no state. */
#include "kernels/cuda/lora_layout.h"
#include <assert.h>
#include <string.h>

#define PART_ALIGN 128 /* where B begins: what a bulk copy and a sector like */

static int pad(int n, int step)
{
    return (n + step - 1) / step * step;
}

static int k_steps(int k)
{
    return (k + LORA_K_STEP - 1) / LORA_K_STEP;
}

/* Steps of a part of k; the last parts may have fewer, or none. */
static int part_steps(int k)
{
    return (k_steps(k) + LORA_SPLIT - 1) / LORA_SPLIT;
}

static size_t a_bytes(int r, int k)
{
    return (size_t)pad(r, LORA_RANK_STEP) * (size_t)k_steps(k) * LORA_K_STEP * 2;
}

size_t lora_layout_bytes(int r, int n, int k, size_t *b_at)
{
    if (r < 1 || r > LORA_RANK_MAX || n < 1 || k < 1) return 0;
    size_t at = (a_bytes(r, k) + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
    if (b_at) *b_at = at;
    return at + (size_t)pad(n, LORA_N_STEP) * (size_t)pad(r, LORA_RANK_STEP) * 2;
}

size_t lora_layout_a(int r, int k, int rank, int input)
{
    int r8 = pad(r, LORA_RANK_STEP), per = part_steps(k), step = input / LORA_K_STEP, part = step / per;
    int steps = k_steps(k) - part * per < per ? k_steps(k) - part * per : per; /* of this part */
    int chunk = rank / LORA_CHUNK, ranks = r8 - chunk * LORA_CHUNK < LORA_CHUNK ? r8 - chunk * LORA_CHUNK : LORA_CHUNK;
    size_t at = (size_t)r8 * (size_t)(part * per) * LORA_K_STEP +
                (size_t)chunk * LORA_CHUNK * (size_t)steps * LORA_K_STEP +
                (size_t)(step - part * per) * (size_t)ranks * LORA_K_STEP;
    int tile = rank % LORA_CHUNK / 16, j = rank % 16, i = input % LORA_K_STEP;
    at += (size_t)tile * 16 * LORA_K_STEP;
    if (ranks - tile * 16 < 16) return at + (size_t)(j * LORA_K_STEP + i);
    int t = i / 8, h = i % 8 / 4, lane = j % 8 * 4 + t;
    return at + (size_t)(h * 256 + lane * 8 + i % 4 / 2 * 4 + j / 8 * 2 + i % 2);
}

size_t lora_layout_b(int r, int output, int rank)
{
    int r8 = pad(r, LORA_RANK_STEP), o = output % LORA_N_STEP, j = rank % 16, lane = o / 2 * 4 + j % 8 / 2;
    size_t at = (size_t)(output / LORA_N_STEP) * LORA_N_STEP * (size_t)r8 + (size_t)(rank / 16) * 256;
    int wide = r8 - rank / 16 * 16 >= 16;
    return at + (size_t)(wide ? lane * 8 + j / 8 * 4 + o % 2 * 2 + j % 2 : lane * 4 + o % 2 * 2 + j % 2);
}

static void pack_a(uint16_t *dst, int r, int k, const uint16_t *a)
{
    for (int j = 0; j < r; j++)
        for (int i = 0; i < k; i += 2) {
            uint16_t *to = dst + lora_layout_a(r, k, j, i); /* pairs stay together */
            to[0] = a[(size_t)j * (size_t)k + (size_t)i];
            if (i + 1 < k) to[1] = a[(size_t)j * (size_t)k + (size_t)i + 1];
        }
}

static void pack_b(uint16_t *dst, int r, int n, const uint16_t *b)
{
    for (int o = 0; o < n; o++)
        for (int j = 0; j < r; j += 2) {
            uint16_t *to = dst + lora_layout_b(r, o, j);
            to[0] = b[(size_t)o * (size_t)r + (size_t)j];
            if (j + 1 < r) to[1] = b[(size_t)o * (size_t)r + (size_t)j + 1];
        }
}

void lora_layout_pack(void *dst, int r, int n, int k, const uint16_t *a, const uint16_t *b)
{
    size_t b_at, bytes = lora_layout_bytes(r, n, k, &b_at);
    assert(bytes > 0);
    memset(dst, 0, bytes);
    pack_a((uint16_t *)dst, r, k, a);
    pack_b((uint16_t *)((char *)dst + b_at), r, n, b);
}
