/* Live streams: listeners of GET .../live, who get the view of now once a second and each new row of the events that they
 * may see, as server-sent events:
 *
 *     event: now      data: as GET .../now                      (every second)
 *     event: event    id: SEQ   data: as in GET .../events      (as they come)
 *
 * One thread serves all. Listeners are few by their bounds; one who reads too slowly, or whose key is no longer good, is
 * ended. A HEAD request gets the head. */
#pragma once
#include "gateway/gateway.h"

#define LIVE_LISTENERS 256       /* in all */
#define LIVE_LISTENERS_TENANT 16 /* of one tenant */
#define LIVE_LISTENERS_ADMIN 64  /* of operators: fewer than the admin listener has connections */

int live_streams_open(struct live_streams **out, struct gateway *g, struct err *e);
/* Ends all, and refuses further ones; before a listener drains, for none of them ends by itself. Repeatable; NULL is fine. */
void live_streams_stop(struct live_streams *s);
void live_streams_close(struct live_streams *s); /* when no request is in flight any more */
