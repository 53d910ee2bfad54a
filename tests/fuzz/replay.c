/* Feeds files to one fuzzer, without libFuzzer: tests/fuzz/seeds/NAME and tests/fuzz/found/NAME, or the folders and files that are given, each input in
 * a heap block of its own size. The program's name says which fuzzer it is linked with (replay_NAME). Prints TAP: one test for the seeds, one for what
 * was found where there is any; an input that breaks something ends the program, after its name was told. */
#include "tests/fuzz/fuzz.h"
#include <dirent.h>
#include <sys/stat.h>

#define FILE_MAX_BYTES (1u << 20)
#define PATH_LEN 1024

static char doing[PATH_LEN]; /* for a debugger, and for who reads a core */

static int one_file(const char *path)
{
    struct stat s;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &s) || !S_ISREG(s.st_mode) || s.st_size > FILE_MAX_BYTES) {
        if (f) fclose(f);
        return 0;
    }
    size_t n = (size_t)s.st_size;
    uint8_t *bytes = malloc(n ? n : 1);
    FUZZ_NEED(bytes && fread(bytes, 1, n, f) == n);
    fclose(f);
    snprintf(doing, sizeof doing, "%s", path);
    if (getenv("FUZZ_TELL")) fprintf(stderr, "%s\n", path);
    LLVMFuzzerTestOneInput(bytes, n);
    free(bytes);
    return 1;
}

static int is_shown(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* All files of a folder, by name; or the one file. How many they were. */
static int all_files(const char *path)
{
    struct dirent **list = NULL;
    char file[PATH_LEN];
    int n = scandir(path, &list, is_shown, alphasort), ran = 0;
    if (n < 0) return one_file(path);
    for (int i = 0; i < n; i++) {
        if (snprintf(file, sizeof file, "%s/%s", path, list[i]->d_name) < (int)sizeof file) ran += one_file(file);
        free(list[i]);
    }
    free(list);
    return ran;
}

static void tell(int *test, bool ok, const char *name, const char *what, int n)
{
    printf("%s %d - %s: %d %s\n", ok ? "ok" : "not ok", ++*test, name, n, what);
}

int main(int argc, char **argv)
{
    const char *base = strrchr(argv[0], '/'), *name = base ? base + 1 : argv[0];
    char folder[PATH_LEN];
    int test = 0, seeds, found;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1) {
        int n = 0;
        for (int i = 1; i < argc; i++) n += all_files(argv[i]);
        tell(&test, n > 0, name, "inputs", n);
        return n > 0 ? 0 : 1;
    }
    if (strncmp(name, "replay_", 7) == 0) name += 7;
    snprintf(folder, sizeof folder, "tests/fuzz/seeds/%s", name);
    seeds = all_files(folder);
    tell(&test, seeds > 0, name, "seeds", seeds);
    snprintf(folder, sizeof folder, "tests/fuzz/found/%s", name);
    found = all_files(folder);
    if (found > 0) tell(&test, true, name, "inputs that broke something once", found);
    printf("1..%d\n", test);
    return seeds > 0 ? 0 : 1;
}
