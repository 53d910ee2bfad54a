/* The page that shim.c shares with a test: 32 rules, the clock's shift. shim.py has the same layout. Whoever writes a rule arms it last. */
#pragma once
#include <stdint.h>

#define SHIM_MAGIC 0x77656674u
#define SHIM_RULES 32

enum shim_call {
    SHIM_READ = 1, SHIM_WRITE = 2, SHIM_PREAD = 4, SHIM_PWRITE = 8, SHIM_WRITEV = 16, SHIM_SEND = 32, SHIM_RECV = 64, SHIM_FDATASYNC = 128,
    SHIM_FSYNC = 256, SHIM_FTRUNCATE = 512, SHIM_OPEN = 1024, SHIM_RENAME = 2048, SHIM_MKDIR = 4096, SHIM_UNLINK = 8192, SHIM_ACCEPT = 16384,
    SHIM_MALLOC = 32768
};

enum shim_kind { SHIM_FILE = 1, SHIM_SOCKET = 2, SHIM_OTHER = 4 };

struct shim_rule {
    _Atomic uint32_t armed;
    uint32_t calls;    /* of enum shim_call, any of them */
    uint32_t kinds;    /* of enum shim_kind; 0: all */
    int32_t error;     /* errno of the failure; 0: the call is made, shorter or later */
    int64_t from;      /* the matching call, counted from 0, that is the first to be struck */
    int64_t times;     /* how many of them; -1: all from then on */
    int64_t delay_us;  /* before the call */
    int64_t short_to;  /* bytes; 0: half of them */
    _Atomic int64_t seen, done; /* calls that matched; those that were struck */
    char path[128];    /* pattern with *, "": any */
};

struct shim_page {
    uint32_t magic;
    _Atomic uint32_t any; /* 0: no rule is armed, look no further */
    _Atomic int64_t clock_us;
    _Atomic int64_t pid;  /* of the last program that mapped it */
    struct shim_rule rule[SHIM_RULES];
};
