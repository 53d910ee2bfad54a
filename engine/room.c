/* room: which files an engine on the CPU may open, and from when on.
 *
 *     settings -> room_enter (Landlock) -> bind, start threads -> room_close (seccomp) -> load the model, serve
 *
 * Adapters are strangers' files; should one ever take this process over, it finds no database, no pepper, no keys, no
 * network and no shell. So what the engine reads is named here: the model, its drafts, heads and templates, the store of
 * adapters, and what the C library and the processor's description ask for. Nothing but the cache of packed bases and
 * the socket's folder is changed.
 *
 * A device's driver opens what it likes (its nodes, its cache, its compiler), and was not looked at under a filter: with a
 * device `auto` leaves the engine as it is and `on` is refused. Under a sanitizer `auto` does nothing either. */
#include "engine/room.h"
#include "base/confine.h"
#include "base/log.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char driver_node[] = "/dev/nvidiactl";

/* Of the system besides: libraries that are not the distribution's, and what /proc and /sys say of memory, processors and this process. */
static const char *const system_paths[] = {"/usr/local/lib", "/proc/self", "/proc/stat", "/proc/meminfo", "/proc/cpuinfo", "/sys/devices/system",
                                           "/sys/fs/cgroup", "/sys/kernel/mm"};

#define SYSTEM (sizeof system_paths / sizeof *system_paths)

bool room_word_is_good(const char *word)
{
    return !strcmp(word, "auto") || !strcmp(word, "on") || !strcmp(word, "off");
}

static bool is_on(const struct room *r)
{
    return strcmp(r->word, "on") == 0;
}

/* Whether anything is to be given up; -1: it can't be, though it must. */
static int wanted(const struct room *r, struct err *e)
{
    bool device = strcmp(r->device, "cpu") != 0 && (strcmp(r->device, "auto") != 0 || access(driver_node, F_OK) == 0);
    if (strcmp(r->word, "off") == 0) return 0;
    if (device && is_on(r))
        return err_set(e, ERR_USAGE, "confine on goes with device cpu: a device's driver opens what it likes");
    return !device && (is_on(r) || !confine_is_sanitized());
}

/* What a kernel, or a container around it, does not let us give up is no reason to stay away, unless it must. */
static int judge(const struct room *r, int rc, struct err *why, struct err *e)
{
    if (rc == 0) return 0;
    if (is_on(r)) return err_set(e, ERR_USAGE, "confine: %s", why->msg);
    log_warn("not_confined", LS("why", why->msg));
    return 0;
}

int room_enter(const struct room *r, struct err *e)
{
    char socket_folder[PATH_MAX], program[PATH_MAX] = "", program_folder[PATH_MAX];
    struct err why = {0};
    int want = wanted(r, e);
    if (want <= 0) return want;
    if (r->cache[0])
        mkdir(r->cache, 0700); /* what is not there can't be named; cache_open() tells what is wrong with it */
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) program[0] = 0;
    struct confine_path paths[SYSTEM + 9] = {
        {r->model, CONFINE_READ},
        {r->draft_model, CONFINE_READ},
        {r->medusa, CONFINE_READ},
        {r->chat_template, CONFINE_READ},
        {r->token_file, CONFINE_READ},
        {r->store, CONFINE_READ},
        {confine_folder_of(program, program_folder), CONFINE_READ}, /* the device's library lies beside it */
        {r->cache, CONFINE_CHANGE},
        {confine_folder_of(r->socket, socket_folder), CONFINE_SOCKET},
    };
    for (size_t i = 0; i < SYSTEM; i++) paths[9 + i] = (struct confine_path){system_paths[i], CONFINE_READ};
    return judge(r, confine_files(paths, sizeof paths / sizeof *paths, &why), &why, e);
}

int room_close(const struct room *r, struct err *e)
{
    struct err why = {0};
    int want = wanted(r, e);
    if (want <= 0) return want;
    return judge(r, confine_calls(&why), &why, e);
}
