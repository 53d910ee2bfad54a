/* SHA256SUMS of a backup: what is read names known files alone, in order and each once; written again it is the same file with the same digest. In a
 * folder of /dev/shm: no link is followed. */
#include "gateway/backup/backup_sums.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct digests s = {0}, again = {0};
    char digest[SHA256_HEX], other[SHA256_HEX], whole[SHA256_HEX];
    struct err e = {0};
    uint8_t sum[SHA256_BYTES];
    char path[96];
    const char *folder = fuzz_folder();
    fuzz_put(SUMS_FILE, data, n, path);
    int rc = digests_read(&s, folder, digest, &e);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE));
    for (size_t i = 0; i < s.n; i++) {
        FUZZ_NEED(digests_path_is_known(s.v[i].path) && sha256_is_hex(s.v[i].sha256) && !strstr(s.v[i].path, ".."));
        FUZZ_NEED(i == 0 || strcmp(s.v[i - 1].path, s.v[i].path) < 0);
        FUZZ_NEED(digests_find(&s, s.v[i].path) == &s.v[i]);
    }
    if (rc == 0) {
        sha256_of(data, n, sum);
        sha256_hex(sum, whole);
        FUZZ_NEED(strcmp(whole, digest) == 0);
        digests_sort(&s);
        FUZZ_NEED(digests_write(&s, folder, other, &e) == 0 && strcmp(other, digest) == 0);
        FUZZ_NEED(digests_read(&again, folder, other, &e) == 0 && again.n == s.n && strcmp(other, digest) == 0);
    }
    digests_close(&s);
    digests_close(&again);
    return 0;
}
