/* backup: the folder of backups: which there are, and which go (see backup.h).
 *
 *     ID.part --backup_make: rename--> ID --backup_remove: rename--> ID.part --> (nothing)
 *
 * So an ID that is there is complete, and whatever ends in .part is nobody's: backup_open() removes it. Names come from strangers by way of the API;
 * backup_id_is() knows twenty characters of one form, so no name leads out of the folder. */
#include "gateway/backup/backup_impl.h"
#include "base/json.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define JSON_BYTES 65536

bool backup_id_is(const char *t)
{
    static const char form[] = "ddddddddTdddddd.dddZ";
    size_t n = sizeof form - 1;
    for (size_t i = 0; i < n; i++)
        if (form[i] == 'd' ? t[i] < '0' || t[i] > '9' : t[i] != form[i]) return false;
    return !t[n];
}

void backup_new_id(const char *dir, int64_t wall_us, char id[BACKUP_ID_LEN])
{
    char path[FILES_PATH_MAX];
    int64_t ms = wall_us / 1000;
    do {
        time_t s = (time_t)(ms / 1000);
        struct tm tm = {0};
        gmtime_r(&s, &tm);
        size_t n = strftime(id, BACKUP_ID_LEN, "%Y%m%dT%H%M%S", &tm);
        snprintf(id + n, BACKUP_ID_LEN - n, ".%03dZ", (int)(ms++ % 1000));
        files_join(path, dir, id);
    } while (access(path, F_OK) == 0);
}

/* --- JSON files --- */

int read_json(const char *path, json_t **out, struct err *e)
{
    char text[JSON_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "%s is missing", path) : err_errno(e, "%s", path);
    ssize_t n = read(fd, text, sizeof text);
    close(fd);
    if (n < 0) return err_errno(e, "%s", path);
    if (json_parse(text, (size_t)n, out, e)) return err_prefix(e, "%s", path);
    return 0;
}

int write_json(const char *path, const json_t *v, struct err *e)
{
    struct buf b;
    buf_init(&b, JSON_BYTES);
    int rc = !v || json_dump(v, false, &b) || buf_addc(&b, '\n') ? err_set(e, ERR_NO_MEMORY, "no memory for %s", path) : files_write(path, b.data, b.len, e);
    buf_close(&b);
    return rc;
}

/* --- which there are --- */

static int newest_first(const void *a, const void *b) { return strcmp(b, a); }

/* Ids of the complete ones; the array is the caller's. */
static int read_ids(const char *dir, char (**out)[BACKUP_ID_LEN], int *n, struct err *e)
{
    DIR *d = opendir(dir);
    *n = 0;
    *out = NULL;
    if (!d) return errno == ENOENT ? 0 : err_errno(e, "%s", dir);
    char(*ids)[BACKUP_ID_LEN] = calloc(BACKUPS_MAX, sizeof *ids);
    for (struct dirent *x; ids && *n < BACKUPS_MAX && (x = readdir(d));)
        if (backup_id_is(x->d_name)) memcpy(ids[(*n)++], x->d_name, strlen(x->d_name)); /* which fits: its form says so */
    closedir(d);
    if (!ids) return err_set(e, ERR_NO_MEMORY, "no memory for a list of backups");
    qsort(ids, (size_t)*n, sizeof *ids, newest_first);
    *out = ids;
    return 0;
}

int backup_get(const char *dir, const char *id, json_t **out, struct err *e)
{
    char folder[FILES_PATH_MAX], path[FILES_PATH_MAX];
    json_t *o = NULL, *verified = NULL;
    if (!backup_id_is(id)) return err_set(e, ERR_NOT_FOUND, "There is no backup '%.64s'.", id);
    files_join(folder, dir, id);
    files_join(path, folder, BACKUP_FILE);
    struct err why = {0};
    if (read_json(path, &o, &why)) {
        if (why.code == ERR_NOT_FOUND) return err_set(e, ERR_NOT_FOUND, "There is no backup '%.64s'.", id);
        return err_set(e, why.code == ERR_INVALID_JSON ? ERR_IO : why.code, "%s", why.msg);
    }
    files_join(path, folder, VERIFIED_FILE);
    if (read_json(path, &verified, NULL)) verified = json_null();
    json_object_set_new(o, "verification", verified);
    json_object_set_new(o, "id", json_string(id)); /* the folder may have been renamed */
    *out = o;
    return 0;
}

int backup_list(const char *dir, json_t *list, struct err *e)
{
    char(*ids)[BACKUP_ID_LEN];
    int n;
    if (read_ids(dir, &ids, &n, e)) return -1;
    for (int i = 0; i < n; i++) {
        json_t *o;
        if (backup_get(dir, ids[i], &o, NULL) == 0) json_array_append_new(list, o);
    }
    free(ids);
    return 0;
}

/* --- which go --- */

static int discard(const char *dir, const char *name, struct err *e)
{
    char path[FILES_PATH_MAX];
    files_join(path, dir, name);
    return files_remove_tree(path, e);
}

int backup_remove(const char *dir, const char *id, struct err *e)
{
    char path[FILES_PATH_MAX], part[FILES_PATH_MAX], name[BACKUP_ID_LEN + 8];
    if (!backup_id_is(id)) return err_set(e, ERR_NOT_FOUND, "There is no backup '%.64s'.", id);
    snprintf(name, sizeof name, "%s.part", id);
    files_join(path, dir, id);
    files_join(part, dir, name);
    if (rename(path, part)) return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "There is no backup '%.64s'.", id) : err_errno(e, "%s", path);
    return discard(dir, name, e);
}

int backup_retain(const char *dir, int keep, struct err *e)
{
    char(*ids)[BACKUP_ID_LEN];
    int n, rc = 0;
    if (!keep) return 0;
    if (read_ids(dir, &ids, &n, e)) return -1;
    for (int i = keep; i < n && rc == 0; i++) rc = backup_remove(dir, ids[i], e);
    free(ids);
    return rc;
}

static bool is_part(const char *name)
{
    size_t n = strlen(name);
    char id[BACKUP_ID_LEN + 8];
    if (n < 6 || n >= sizeof id || strcmp(name + n - 5, ".part") != 0) return false;
    snprintf(id, sizeof id, "%.*s", (int)n - 5, name);
    return backup_id_is(id) || strcmp(id, "verify") == 0;
}

int backup_open(const char *dir, struct err *e)
{
    char path[FILES_PATH_MAX];
    if (strlen(dir) >= BACKUP_PATH_MAX) return err_set(e, ERR_USAGE, "the path of the backups' folder is longer than %d bytes", BACKUP_PATH_MAX - 1);
    snprintf(path, sizeof path, "%s", dir);
    if (files_folder(path, e)) return -1;
    DIR *d = opendir(dir);
    if (!d) return err_errno(e, "%s", dir);
    int rc = 0;
    for (struct dirent *x; rc == 0 && (x = readdir(d));)
        if (is_part(x->d_name)) rc = discard(dir, x->d_name, e);
    closedir(d);
    return rc;
}
