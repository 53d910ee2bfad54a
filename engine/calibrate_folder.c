/* calibrate_folder: a folder that outlives no run by more than one.
 *
 * Adapters are loaded by their path, again and again, so the folder has to be there until the last load: it can't be unlinked when it is open, as
 * a file could. So it is removed three ways:
 *
 *     the run ends                          calibrate_folder_remove()
 *     SIGINT, SIGTERM, SIGHUP               a thread that waits for them: it removes it, then the signal does what it always did
 *     SIGKILL, a crash, a loss of power     the next run: a lock on the folder ends with the process, so what can be locked is nobody's
 *
 * What is removed is named: the adapters' two files in CALIBRATE_ADAPTERS folders, below a folder of that name that this user owns, each step by
 * the descriptor of the one before. So nothing that another user puts into a shared /tmp makes us remove anything else. */
#include "engine/calibrate_folder.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define PREFIX "weft-calibrate-"
#define TRIES 8 /* another run may take a new folder for a stale one before it is locked */

static const char *dir_or_tmp(const char *dir)
{
    return dir[0] ? dir : "/tmp";
}

/* A descriptor of the folder, locked; -1: it is not ours, held, or gone. A new one is taken as well where the file system knows no such locks:
 * there what a killed run left stays. */
static int lock_folder(int at, const char *name, bool new)
{
    struct stat st;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -1;
    bool ours = fstat(fd, &st) == 0 && st.st_uid == geteuid();
    bool locked = ours && (flock(fd, LOCK_EX | LOCK_NB) == 0 || (new && errno != EWOULDBLOCK));
    if (locked && fstat(fd, &st) == 0 && st.st_nlink > 0) return fd;
    close(fd);
    return -1;
}

static void empty_folder(int fd)
{
    for (int i = 0; i < CALIBRATE_ADAPTERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "a%d", i);
        int sub = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0) continue;
        unlinkat(sub, "adapter_model.safetensors", 0);
        unlinkat(sub, "adapter_config.json", 0);
        close(sub);
        unlinkat(fd, name, AT_REMOVEDIR);
    }
}

static void remove_stale(const char *dir)
{
    DIR *d = opendir(dir);
    if (!d) return;
    for (const struct dirent *it; (it = readdir(d));) {
        if (strncmp(it->d_name, PREFIX, strlen(PREFIX)) != 0) continue;
        int fd = lock_folder(dirfd(d), it->d_name, false);
        if (fd < 0) continue;
        empty_folder(fd);
        unlinkat(dirfd(d), it->d_name, AT_REMOVEDIR);
        close(fd);
    }
    closedir(d);
}

int calibrate_folder_make(struct calibrate_folder *f, const char *dir, struct err *e)
{
    remove_stale(dir_or_tmp(dir));
    for (int i = 0; i < TRIES; i++) {
        snprintf(f->path, sizeof f->path, "%s/" PREFIX "XXXXXX", dir_or_tmp(dir));
        if (!mkdtemp(f->path)) break;
        f->lock = lock_folder(AT_FDCWD, f->path, true);
        if (f->lock >= 0) {
            f->made = true;
            return 0;
        }
        rmdir(f->path);
    }
    return err_errno(e, "can't make a folder in %.200s", dir_or_tmp(dir));
}

void calibrate_folder_remove(struct calibrate_folder *f)
{
    if (!atomic_exchange(&f->made, false)) return;
    empty_folder(f->lock);
    rmdir(f->path);
    close(f->lock);
}

/* The main thread may still make adapters: what it makes from here on goes at the next run. */
static void *remove_at_signal(void *folder)
{
    struct calibrate_folder *f = folder;
    int number;
    pthread_setname_np(pthread_self(), "signals");
    if (sigwait(&f->ends, &number)) return NULL;
    calibrate_folder_remove(f);
    signal(number, SIG_DFL);
    pthread_sigmask(SIG_UNBLOCK, &f->ends, NULL);
    raise(number);
    return NULL;
}

int calibrate_folder_end_with(struct calibrate_folder *f, struct err *e)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    pthread_t thread;
    sigemptyset(&f->ends);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        struct sigaction was;
        if (sigaction(ends[i], NULL, &was) == 0 && was.sa_handler != SIG_IGN) sigaddset(&f->ends, ends[i]); /* nohup stays one */
    }
    if (pthread_sigmask(SIG_BLOCK, &f->ends, NULL) || pthread_create(&thread, NULL, remove_at_signal, f))
        return err_set(e, ERR_NO_MEMORY, "no thread to wait for signals");
    pthread_detach(thread);
    return 0;
}
