/* Standby: a folder that is kept a few seconds behind a gateway, by a process of its own, and taken over on demand (docs/BACKUP.md section 4).
 *
 *     weft-gateway standby --from URL --token-file FILE --data DIR [--every S] [--listen ADDR] [--ca-file FILE] [--plain-http]
 *     weft-gateway promote --data DIR [--force]
 *
 *     DIR/weft.db  pepper  archive/  blobs/    the last complete state, as a gateway would have it
 *     DIR/.standby                             no gateway starts here while it is there
 *     DIR/standby/state.json  names            which state that is, and the files that it names
 *     DIR/standby/fresh  redo  in/             what is being received; what is being applied; files that came for it
 *     DIR/standby/promote                      whoever promotes holds its lock
 *
 * Nobody takes over by himself: two gateways on one stream of requests would both bill. promote asks the primary first, and refuses where it answers. */
#pragma once

/* argv[1] is the word. Exit codes: 0 ended or promoted, 1 failed, 2 bad arguments. */
int standby_main(int argc, char **argv);
int promote_main(int argc, char **argv);
