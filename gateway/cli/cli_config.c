/* The configuration file: profiles with addresses and keys, read by every command, changed by `weft config`.
 *
 *     profile = staging          # used where neither --profile nor WEFT_PROFILE says otherwise
 *     url = http://10.0.0.5:8080 # before any section: of [default]
 *     [staging]
 *     url = https://weft.example
 *     key = wft_...
 *
 * The file is kept as its lines, so that a change leaves comments and order as they are. It is written beside itself and
 * renamed, mode 0600; one that holds keys and that others may read is warned about. --profile is as good as flags: it wins
 * over the environment, so that no key of one gateway goes to another. Bounds: FILE_MAX bytes, LINES_MAX lines. */
#include "gateway/cli/cli_config.h"
#include "gateway/cli/cli_command.h"
#include "gateway/cli/cli_print.h"
#include "gateway/cli/cli_value.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (256u << 10)
#define LINES_MAX 4000
#define PATH_BYTES 4096
#define NAME 64
#define VALUE 1024

/* The settings of a profile. */
static const struct setting {
    const char *name, *env, *old_env;
    enum cli_flag flag;
    size_t offset;
    const char *otherwise;
    bool secret;
} settings[] = {
    {"url", "WEFT_URL", NULL, CLI_URL_FLAG, offsetof(struct cli, url), "http://127.0.0.1:8080", false},
    {"admin_url", "WEFT_ADMIN_URL", NULL, CLI_ADMIN_URL_FLAG, offsetof(struct cli, admin_url), "http://127.0.0.1:8081",
     false},
    {"key", "WEFT_KEY", "WEFT_API_KEY", CLI_KEY_FLAG, offsetof(struct cli, key), NULL, true},
    {"admin_key", "WEFT_ADMIN_KEY", NULL, CLI_ADMIN_KEY_FLAG, offsetof(struct cli, admin_key), NULL, true},
};

struct file {
    char path[PATH_BYTES];
    char *line[LINES_MAX];
    int n;
    bool there, open_to_others;
};

static const char *env_of(const char *name)
{
    const char *v = name ? getenv(name) : NULL;
    return v && *v ? v : NULL;
}

/* --- the file --- */

int cli_config_path(const struct cli *c, char out[PATH_BYTES])
{
    const char *flag = cli_str(c, CLI_CONFIG_FLAG), *env = env_of("WEFT_CONFIG"), *xdg = env_of("XDG_CONFIG_HOME"),
               *home = env_of("HOME");
    int n;
    if (flag || env)
        n = snprintf(out, PATH_BYTES, "%s", flag ? flag : env);
    else if (xdg)
        n = snprintf(out, PATH_BYTES, "%s/weft/config", xdg);
    else
        n = snprintf(out, PATH_BYTES, "%s/.config/weft/config", home ? home : "");
    if (n < PATH_BYTES - 16) return CLI_OK;
    return cli_error(CLI_USAGE, "the path of the configuration file is too long");
}

static int split(struct file *f, char *text)
{
    for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
        if (!rest && !*line) break; /* after the last line end */
        if (f->n == LINES_MAX) return cli_error(CLI_USAGE, "%s: more than %d lines", f->path, LINES_MAX);
        line[strcspn(line, "\r")] = 0;
        f->line[f->n++] = strdup(line);
    }
    return CLI_OK;
}

/* A missing file is an empty one, unless it was named. */
static int load(const struct cli *c, struct file *f, bool must)
{
    struct stat st;
    *f = (struct file){0};
    int rc = cli_config_path(c, f->path);
    if (rc) return rc;
    int fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT && !must) return CLI_OK;
    char *text = calloc(1, FILE_MAX + 1);
    ssize_t n = fd >= 0 && text && !fstat(fd, &st) ? read(fd, text, FILE_MAX) : -1;
    if (n < 0)
        rc = cli_error(CLI_USAGE, "%s: %s", f->path, strerror(errno));
    else if (n == FILE_MAX || memchr(text, 0, (size_t)n))
        rc = cli_error(CLI_USAGE, "%s is no configuration file", f->path);
    else {
        f->there = true;
        f->open_to_others = st.st_mode & 077;
        rc = split(f, text);
    }
    if (fd >= 0) close(fd);
    free(text);
    return rc;
}

static void unload(struct file *f)
{
    for (int i = 0; i < f->n; i++) {
        if (f->line[i]) explicit_bzero(f->line[i], strlen(f->line[i]));
        free(f->line[i]);
    }
}

static char *trim(char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    for (size_t n = strlen(s); n && (s[n - 1] == ' ' || s[n - 1] == '\t'); n--) s[n - 1] = 0;
    return s;
}

enum line_kind { LINE_EMPTY, LINE_SECTION, LINE_VALUE, LINE_BAD };

/* A line taken apart; a # after a blank begins a comment. */
static enum line_kind read_line(const char *line, char name[NAME], char value[VALUE])
{
    char copy[NAME + VALUE + 64];
    if (snprintf(copy, sizeof copy, "%s", line) >= (int)sizeof copy) return LINE_BAD;
    for (char *p = copy; *p; p++)
        if (*p == '#' && (p == copy || p[-1] == ' ' || p[-1] == '\t')) *p-- = 0;
    char *s = trim(copy), *eq = strchr(s, '=');
    size_t n = strlen(s);
    if (!n) return LINE_EMPTY;
    if (s[0] == '[' && s[n - 1] == ']' && n > 2 && n < NAME) {
        s[n - 1] = 0;
        snprintf(name, NAME, "%s", trim(s + 1));
        return LINE_SECTION;
    }
    if (!eq) return LINE_BAD;
    *eq = 0;
    s = trim(s);
    char *v = trim(eq + 1);
    n = strlen(v);
    if (n >= 2 && v[0] == '"' && v[n - 1] == '"') v[n - 1] = 0, v++;
    if (snprintf(name, NAME, "%s", s) >= NAME || snprintf(value, VALUE, "%s", v) >= VALUE) return LINE_BAD;
    return LINE_VALUE;
}

/* The line that sets `name` in a profile, -1: none; *end: where that section ends, -1: there is no such section. */
static int find(const struct file *f, const char *profile, const char *name, char value[VALUE], int *end)
{
    char section[NAME] = "default", word[NAME];
    int found = -1;
    *end = strcmp(profile, "default") ? -1 : 0;
    for (int i = 0; i < f->n; i++) {
        char text[VALUE];
        enum line_kind kind = read_line(f->line[i], word, text);
        if (kind == LINE_SECTION) snprintf(section, sizeof section, "%s", word);
        if (strcmp(section, profile) || kind == LINE_EMPTY) continue;
        *end = i + 1;
        if (kind != LINE_VALUE || strcmp(word, name)) continue;
        found = i;
        snprintf(value, VALUE, "%s", text);
    }
    return found;
}

static int check(const struct file *f)
{
    char name[NAME], value[VALUE];
    for (int i = 0; i < f->n; i++) {
        enum line_kind kind = read_line(f->line[i], name, value);
        bool known = kind != LINE_VALUE || !strcmp(name, "profile");
        for (int k = 0; k < CLI_COUNT(settings); k++) known |= !strcmp(name, settings[k].name);
        if (kind == LINE_BAD || !known)
            return cli_error(CLI_USAGE, "%s:%d: %s", f->path, i + 1,
                             kind == LINE_BAD ? "not NAME = VALUE"
                                              : "there are url, admin_url, key, admin_key and profile");
    }
    return CLI_OK;
}

static bool holds_keys(const struct file *f)
{
    char name[NAME], value[VALUE];
    for (int i = 0; i < f->n; i++)
        if (read_line(f->line[i], name, value) == LINE_VALUE && (!strcmp(name, "key") || !strcmp(name, "admin_key")))
            return true;
    return false;
}

/* --- what commands use --- */

/* *named: by --profile. */
static const char *profile_of(const struct cli *c, const struct file *f, char kept[VALUE], bool *named)
{
    const char *flag = cli_str(c, CLI_PROFILE_FLAG), *env = env_of("WEFT_PROFILE");
    int end;
    *named = flag != NULL;
    if (flag || env) return flag ? flag : env;
    return find(f, "default", "profile", kept, &end) >= 0 ? kept : "default";
}

static int settle_one(struct cli *c, const struct file *f, const struct setting *s, const char *profile, bool named)
{
    char kept[VALUE];
    int end;
    const char *v = cli_str(c, s->flag), *env = env_of(s->env);
    if (!env) env = env_of(s->old_env);
    if (!v && !named) v = env;
    if (!v && find(f, profile, s->name, kept, &end) >= 0 && *kept) v = kept;
    if (!v) v = s->otherwise;
    *(char **)((char *)c + s->offset) = v ? strdup(v) : NULL;
    explicit_bzero(kept, sizeof kept);
    return CLI_OK;
}

int cli_config_settle(struct cli *c)
{
    struct file f;
    char kept[VALUE];
    bool named, must = cli_has(c, CLI_CONFIG_FLAG) && c->command && strncmp(c->command->words, "config", 6);
    int end, rc = load(c, &f, must);
    if (!rc) rc = check(&f);
    const char *profile = rc ? "" : profile_of(c, &f, kept, &named);
    if (!rc && strcmp(profile, "default")) {
        char value[VALUE];
        find(&f, profile, "", value, &end);
        bool writing = c->command && !strncmp(c->command->words, "config ", 7);
        if (end < 0 && !writing) rc = cli_error(CLI_USAGE, "%s has no profile [%s]", f.path, profile);
    }
    if (!rc && f.open_to_others && holds_keys(&f))
        cli_note("warning: %s holds keys and others can read it: chmod 600 %s", f.path, f.path);
    for (int i = 0; !rc && i < CLI_COUNT(settings); i++) rc = settle_one(c, &f, &settings[i], profile, named);
    unload(&f);
    return rc;
}

/* --- weft config --- */

/* A key's kind and public id; the rest is secret. */
static void hide(const char *value, char out[VALUE])
{
    snprintf(out, VALUE, "%.*s...", strlen(value) > 24 ? 16 : 4, value);
}

static json_t *describe(const struct cli *c, const struct file *f)
{
    char kept[VALUE], shown[VALUE];
    bool named;
    json_t *o = json_object();
    json_object_set_new(o, "file", json_string(f->path));
    json_object_set_new(o, "exists", json_boolean(f->there));
    json_object_set_new(o, "profile", json_string(profile_of(c, f, kept, &named)));
    for (int i = 0; i < CLI_COUNT(settings); i++) {
        const char *v = *(char *const *)((const char *)c + settings[i].offset);
        if (v && settings[i].secret) hide(v, shown);
        json_object_set_new(o, settings[i].name, v ? json_string(settings[i].secret ? shown : v) : json_null());
    }
    return o;
}

static json_t *profiles(const struct file *f)
{
    char name[NAME], value[VALUE];
    json_t *list = json_array();
    json_array_append_new(list, json_string("default"));
    for (int i = 0; i < f->n; i++)
        if (read_line(f->line[i], name, value) == LINE_SECTION && strcmp(name, "default"))
            json_array_append_new(list, json_string(name));
    return list;
}

int cli_config_show(const struct cli *c)
{
    static const struct cli_column columns[] = {
        {"file", "file", CLI_TEXT, CLI_IN_SHOW},
        {"exists", "exists", CLI_YES, CLI_IN_SHOW},
        {"profiles", "profiles", CLI_LIST_CELL, CLI_IN_SHOW},
        {"profile", "profile", CLI_TEXT, CLI_IN_SHOW},
        {"url", "url", CLI_TEXT, CLI_IN_SHOW},
        {"admin url", "admin_url", CLI_TEXT, CLI_IN_SHOW},
        {"key", "key", CLI_TEXT, CLI_IN_SHOW},
        {"admin key", "admin_key", CLI_TEXT, CLI_IN_SHOW},
    };
    struct file f;
    int rc = load(c, &f, false);
    if (!rc) {
        json_t *o = describe(c, &f);
        json_object_set_new(o, "profiles", profiles(&f));
        if (c->json)
            rc = cli_json(o);
        else
            cli_fields(&(struct cli_view){columns, CLI_COUNT(columns)}, o);
        json_decref(o);
    }
    unload(&f);
    return rc;
}

int cli_config_where(const struct cli *c)
{
    char path[PATH_BYTES];
    int rc = cli_config_path(c, path);
    if (!rc) puts(path);
    return rc;
}

static const struct setting *setting_named(const char *name)
{
    char plain[NAME];
    snprintf(plain, sizeof plain, "%s", name);
    for (char *p = plain; *p; p++) *p = *p == '-' ? '_' : *p;
    for (int i = 0; i < CLI_COUNT(settings); i++)
        if (!strcmp(plain, settings[i].name)) return &settings[i];
    return NULL;
}

static int not_a_setting(const char *name)
{
    return cli_error(CLI_USAGE, "%s: there are url, admin_url, key, admin_key and profile", name);
}

int cli_config_get(const struct cli *c)
{
    const struct setting *s = setting_named(c->arg[0]);
    if (!s) return not_a_setting(c->arg[0]);
    const char *v = *(char *const *)((const char *)c + s->offset);
    if (!v) return cli_error(CLI_NOT_FOUND, "%s is not set", s->name);
    puts(v);
    return CLI_OK;
}

/* The folder of the file, and those above it. */
static int make_folders(const char *path)
{
    char folder[PATH_BYTES];
    snprintf(folder, sizeof folder, "%s", path);
    for (char *p = folder + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        if (mkdir(folder, 0700) && errno != EEXIST) return cli_error(CLI_FAILED, "%s: %s", folder, strerror(errno));
        *p = '/';
    }
    return CLI_OK;
}

static int save(const struct file *f)
{
    char fresh[PATH_BYTES + 8];
    int rc = make_folders(f->path);
    if (rc) return rc;
    snprintf(fresh, sizeof fresh, "%s.new", f->path);
    unlink(fresh);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    FILE *out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (!out) return cli_error(CLI_FAILED, "%s: %s", fresh, strerror(errno));
    for (int i = 0; i < f->n; i++) fprintf(out, "%s\n", f->line[i]);
    bool failed = fflush(out) || fsync(fd);
    if (fclose(out) || failed || rename(fresh, f->path)) {
        rc = cli_error(CLI_FAILED, "%s: %s", f->path, strerror(errno));
        unlink(fresh);
    }
    return rc;
}

static int insert(struct file *f, int at, const char *line)
{
    if (f->n == LINES_MAX) return cli_error(CLI_USAGE, "%s: more than %d lines", f->path, LINES_MAX);
    memmove(&f->line[at + 1], &f->line[at], (size_t)(f->n - at) * sizeof *f->line);
    f->line[at] = strdup(line);
    f->n++;
    return CLI_OK;
}

/* `profile` stands in [default], which begins the file. */
static int put(struct file *f, const char *profile, const char *name, const char *value)
{
    char line[NAME + VALUE + 8], head[NAME + 4], old[VALUE];
    int end, rc = CLI_OK, at = find(f, profile, name, old, &end);
    snprintf(line, sizeof line, "%s = %s", name, value);
    if (at >= 0) {
        free(f->line[at]);
        f->line[at] = strdup(line);
        return CLI_OK;
    }
    if (end < 0) {
        snprintf(head, sizeof head, "[%s]", profile);
        rc = insert(f, f->n, head);
        end = f->n;
    }
    return rc ? rc : insert(f, end, line);
}

static const char *profile_to_change(const struct cli *c, const char *name)
{
    const char *flag = cli_str(c, CLI_PROFILE_FLAG);
    return flag && strcmp(name, "profile") ? flag : "default";
}

static int check_value(const char *name, const char *value, const char *profile)
{
    if (strcmp(name, "profile") && !setting_named(name)) return not_a_setting(name);
    if (strpbrk(value, "\r\n\"#") || strlen(value) >= VALUE - 8 || value[0] == ' ')
        return cli_error(CLI_USAGE, "%s: not a value for the file", name);
    if (strlen(profile) >= NAME - 3 || strpbrk(profile, "[]#=\r\n") || !*profile)
        return cli_error(CLI_USAGE, "%s is no name for a profile", profile);
    return CLI_OK;
}

/* arg[1] absent: a key asked for on stdin, so that it stands in no shell's history. */
static int value_to_set(const struct cli *c, char out[VALUE])
{
    json_t *v = NULL;
    char why[256];
    if (c->nargs == 2 && strcmp(c->arg[1], "-")) {
        snprintf(out, VALUE, "%s", c->arg[1]);
        return strlen(c->arg[1]) < VALUE ? CLI_OK : cli_error(CLI_USAGE, "%s: the value is too long", c->arg[0]);
    }
    if (isatty(STDIN_FILENO)) fprintf(stderr, "%s: ", c->arg[0]);
    if (cli_value_read(CLI_V_FILE, "-", 0, 0, &v, why)) return cli_error(CLI_USAGE, "stdin: %s", why);
    snprintf(out, VALUE, "%s", json_string_value(v));
    json_decref(v);
    return CLI_OK;
}

int cli_config_set(const struct cli *c)
{
    struct file f;
    char value[VALUE];
    const struct setting *s = setting_named(c->arg[0]);
    const char *name = s ? s->name : c->arg[0], *profile = profile_to_change(c, name);
    int rc = value_to_set(c, value);
    if (!rc) rc = check_value(name, value, profile);
    if (rc) return rc;
    rc = load(c, &f, false);
    if (!rc) rc = put(&f, profile, name, value);
    if (!rc) rc = save(&f);
    if (!rc) cli_note("%s is set in [%s] of %s", name, profile, f.path);
    unload(&f);
    explicit_bzero(value, sizeof value);
    return rc;
}

int cli_config_unset(const struct cli *c)
{
    struct file f;
    char old[VALUE];
    const struct setting *s = setting_named(c->arg[0]);
    const char *name = s ? s->name : c->arg[0], *profile = profile_to_change(c, name);
    int end, at, rc = load(c, &f, false);
    at = rc ? -1 : find(&f, profile, name, old, &end);
    if (!rc && at < 0) rc = cli_error(CLI_NOT_FOUND, "%s is not set in [%s] of %s", name, profile, f.path);
    if (!rc) {
        free(f.line[at]);
        memmove(&f.line[at], &f.line[at + 1], (size_t)(--f.n - at) * sizeof *f.line);
        rc = save(&f);
    }
    unload(&f);
    return rc;
}
