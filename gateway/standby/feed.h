/* Feed: what a primary gives the standbys that follow it, over its admin listener, to keys with the scope `backup` (docs/BACKUP.md section 4).
 *
 *     POST /admin/v1/standby/pages   pages of weft.db that changed, of one moment; what that state names, where it changed
 *     POST /admin/v1/standby/hashes  hashes of pages, for a standby that does not know what it has
 *     GET  /admin/v1/standby/files   the pepper, months in files, adapters' bytes, in pieces
 *     GET  /admin/v1/standby         who follows, and how far they are
 *
 * The first three answer with parcels (parcel.h). One is made at a time; one more waits for its turn, a second at most; who does not get it, and all beyond
 * these two, are told to come again (503, Retry-After): so half of the database threads are always free for the admin API. */
#pragma once
#include "gateway/gateway.h"

#define FEED_PAGES 2000         /* of one answer, unless it is asked for more: 8 MB */
#define FEED_PAGES_MOST 8000    /* of one answer: 33 MB */
#define FEED_HASHES 32768       /* of one answer: 128 MB are read */
#define FEED_HASH_BYTES 16      /* the beginning of the page's SHA-256 */
#define FEED_PIECE (8 << 20)    /* of a file */
#define FEED_NAMES_MAX (32u << 20) /* the list of files that a state names: 400,000 adapters */
#define FEED_INSIDE 2           /* requests of standbys that may hold a database thread */
#define FEED_TURN_MS 1000
#define FEED_STANDBYS 8         /* that are remembered */
#define FEED_AWAY_S 60          /* an event is written when one has not been seen for so long */

struct feed;
struct metrics;

int feed_open(struct feed **out, struct gateway *g, struct err *e); /* after the database, before the listeners */
void feed_close(struct feed *f);                                    /* after the listeners; NULL is fine */

void feed_tick(struct feed *f); /* about once a second */
void feed_meter(struct feed *f, struct metrics *m);
