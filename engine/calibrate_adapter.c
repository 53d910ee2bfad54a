/* One file of weights: a header that names every A and B, then bf16 numbers of about a thousandth, the same everywhere. */
#include "engine/calibrate_adapter.h"
#include "adapters/tensor_name.h"
#include "base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MLP_FROM 4       /* q, k, v, o stand before */
#define SMALL_BF16 0x3a3a /* 0.0007 */
#define CHUNK 4096
#define PATH_LEN 4200

static size_t add_tensor(json_t *header, int layer, int module, const char *which, int rows, int columns, size_t at)
{
    char name[160];
    size_t end = at + 2 * (size_t)rows * (size_t)columns;
    snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.%s.lora_%s.weight", layer, module < MLP_FROM ? "self_attn" : "mlp",
             lora_module_name[module], which);
    json_object_set_new(header, name,
                        json_pack("{s:s, s:[i,i], s:[I,I]}", "dtype", "BF16", "shape", rows, columns, "data_offsets", (json_int_t)at, (json_int_t)end));
    return end;
}

static json_t *header_of(const struct base_desc *base, int rank, size_t *bytes)
{
    json_t *header = json_object();
    *bytes = 0;
    for (int l = 0; l < base->layers; l++)
        for (int m = 0; m < LORA_MODULES; m++) {
            int in = base_desc_in(base, l, m), out = base_desc_out(base, l, m);
            if (!in) continue;
            *bytes = add_tensor(header, l, m, "A", rank, in, *bytes);
            *bytes = add_tensor(header, l, m, "B", out, rank, *bytes);
        }
    return header;
}

static int write_weights(const char *path, const struct base_desc *base, int rank, struct err *e)
{
    uint16_t small[CHUNK];
    size_t bytes;
    json_t *header = header_of(base, rank, &bytes);
    char *text = json_dumps(header, JSON_COMPACT);
    FILE *f = fopen(path, "wbe");
    json_decref(header);
    if (!text || !f) {
        free(text);
        if (f) fclose(f);
        return err_errno(e, "can't write %.200s", path);
    }
    uint64_t n = strlen(text);
    for (int i = 0; i < CHUNK; i++) small[i] = SMALL_BF16;
    fwrite(&n, sizeof n, 1, f);
    fwrite(text, 1, n, f);
    for (size_t left = bytes; left;) {
        size_t now = left < sizeof small ? left : sizeof small;
        fwrite(small, 1, now, f);
        left -= now;
    }
    free(text);
    bool bad = ferror(f);
    return fclose(f) || bad ? err_errno(e, "can't write %.200s", path) : 0;
}

static int write_config(const char *path, const struct base_desc *base, int rank, int alpha, struct err *e)
{
    json_t *modules = json_array();
    for (int m = 0; m < LORA_MODULES; m++)
        if (base->in[m]) json_array_append_new(modules, json_string(lora_module_name[m]));
    json_t *config = json_pack("{s:s, s:s, s:i, s:i, s:f, s:s, s:o, s:b}", "peft_type", "LORA", "task_type", "CAUSAL_LM", "r", rank, "lora_alpha",
                               alpha, "lora_dropout", 0.0, "bias", "none", "target_modules", modules, "fan_in_fan_out", 0);
    int rc = config ? json_dump_file(config, path, 0) : -1;
    json_decref(config);
    return rc ? err_errno(e, "can't write %.200s", path) : 0;
}

int made_adapter(const char *folder, const struct base_desc *base, int rank, int alpha, const char *weights, struct err *e)
{
    char path[PATH_LEN];
    if (mkdir(folder, 0700)) return err_errno(e, "can't make the folder %.200s", folder);
    snprintf(path, sizeof path, "%s/adapter_config.json", folder);
    if (write_config(path, base, rank, alpha, e)) return -1;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", folder);
    if (!weights) return write_weights(path, base, rank, e);
    return link(weights, path) ? err_errno(e, "can't link %.200s", weights) : 0;
}
