/* The digest of an adapter version, by the rule in digest.h.
 *
 * The tensors' bytes are hashed one tensor at a time, so that the order in the file has no say, and the lines go
 * straight into the outer hash: nothing but one line is held. The config's part is what peft.c made canonical, with the
 * base's digest put in its place among the sorted keys, because the same tensors over another base are another model.
 *
 * Threads: any. Costs one reading of the file at the speed of SHA-256. */
#include "adapters/digest.h"
#include "base/json.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define BREATH_BYTES ((size_t)256 << 10) /* hashed in one go: a sixth of a millisecond */
#define LINE_MAX_BYTES 512               /* name 256, dtype 4, shape 42, hash 64 */

/* Whole embeddings may be tensors too: nobody is to wait for the end of one. */
static void hash_tensor(const struct st_tensor *t, void (*breathe)(void *u), void *u, uint8_t digest[SHA256_BYTES])
{
    struct sha256 h;
    sha256_init(&h);
    for (size_t at = 0; at < t->bytes; at += BREATH_BYTES) {
        size_t rest = t->bytes - at;
        sha256_add(&h, (const char *)t->data + at, rest < BREATH_BYTES ? rest : BREATH_BYTES);
        if (breathe) breathe(u);
    }
    sha256_end(&h, digest);
}

static void add_tensor(struct sha256 *h, const struct st_tensor *t, void (*breathe)(void *u), void *u)
{
    char line[LINE_MAX_BYTES], hex[SHA256_HEX], shape[64];
    uint8_t digest[SHA256_BYTES];
    hash_tensor(t, breathe, u, digest);
    sha256_hex(digest, hex);
    if (t->ndim == 1)
        snprintf(shape, sizeof shape, "[%" PRId64 "]", t->dim[0]);
    else
        snprintf(shape, sizeof shape, "[%" PRId64 ",%" PRId64 "]", t->dim[0], t->dim[1]);
    int n = snprintf(line, sizeof line, "%s %s %s %s\n", t->name, st_dtype_name(t->dtype), shape, hex);
    sha256_add(h, line, (size_t)n);
}

static int add_config(struct sha256 *h, const struct peft_config *c, const char *base_digest, struct err *e)
{
    json_t *o = NULL;
    if (json_parse(c->canonical, strlen(c->canonical), &o, e)) return -1;
    struct buf b;
    buf_init(&b, 8 * PEFT_CONFIG_MAX);
    int rc = json_object_set_new(o, "base", json_string(base_digest)) || json_dump(o, true, &b) ? -1 : 0;
    if (!rc) sha256_add(h, b.data, b.len);
    buf_close(&b);
    json_decref(o);
    return rc ? err_set(e, ERR_NO_MEMORY, "out of memory for the adapter's digest") : 0;
}

int adapter_digest(const struct st_file *f, const struct peft_config *c, const char *base_digest,
                   void (*breathe)(void *u), void *u, char out[SHA256_HEX], struct err *e)
{
    struct sha256 h;
    uint8_t digest[SHA256_BYTES];
    sha256_init(&h);
    for (int i = 0; i < f->ntensors; i++) add_tensor(&h, &f->tensor[i], breathe, u);
    if (add_config(&h, c, base_digest, e)) return -1;
    sha256_end(&h, digest);
    sha256_hex(digest, out);
    return 0;
}
