/* Closed days of rollup_by in memory: what a dashboard asks again and again does not change but for today.
 *
 * A day is closed SUMS_CLOSED_S after its end. What is settled into it later (a stream of hours, a crash that is recovered from, a rebuild) counts up
 * `rollups_past` in the same transaction (gateway/ledger/ledger_sums.c), and all that was kept before stands for nothing any more: so an answer is that
 * of its own snapshot, whatever was kept. */
#pragma once
#include "gateway/stats/stats.h"

#define KEPT_BYTES_MAX (64u << 20) /* in all; the least lately used leave */
#define KEPT_DAYS 16               /* of a block */

struct stats_kept *stats_kept_new(struct db *d, size_t bytes_max); /* NULL: no memory */
void stats_kept_free(struct stats_kept *k);                        /* after db_close(); NULL is fine */
struct db *stats_kept_db(const struct stats_kept *k);
size_t stats_kept_bytes(struct stats_kept *k); /* now */
