/* The description of a base as an engine (or an operator) gives it: what is read is printed and read again as the same, and a name that an adapter was
 * trained on is taken or refused with both names. Input: JSON, a NUL, the name. */
#include "adapters/adapter.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

/* No layer has more than the largest that the description names. */
static void check_layers(const struct base_desc *b)
{
    for (int l = 0; l < b->layers; l++)
        for (int m = 0; m < LORA_MODULES; m++) {
            int in = base_desc_in(b, l, (enum lora_module)m), out = base_desc_out(b, l, (enum lora_module)m);
            FUZZ_NEED(in >= 0 && in <= b->in[m] && out >= 0 && out <= b->out[m]);
        }
}

/* What another process filled: the reader's own, with bytes of it changed, is taken or refused, and no more is looked at than there is. */
static void check_filled(const uint8_t *data, size_t n)
{
    struct base_desc *b = calloc(1, sizeof *b); /* of its own, so that a byte behind it is seen */
    struct err e = {0};
    if (n > sizeof *b) n = sizeof *b;
    if (b && n) memcpy(b, data, n);
    if (b && base_desc_check(b, &e) == 0) check_layers(b);
    else FUZZ_NEED(!b || e.code == ERR_INVALID);
    free(b);
}

/* A description that is right, with as many bytes as there are pairs (place, byte) changed. */
static void check_changed(const struct base_desc *good, const uint8_t *data, size_t n)
{
    struct base_desc b = *good;
    for (size_t i = 0; i + 3 <= n; i += 3) ((uint8_t *)&b)[((size_t)data[i] << 8 | data[i + 1]) % sizeof b] = data[i + 2];
    check_filled((const uint8_t *)&b, sizeof b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = fuzz_until(&data, &n, 0), *name = fuzz_text(data, n);
    struct base_desc b = {0}, again = {0};
    struct err e = {0}, named = {0};
    json_t *j = NULL;
    if (json_parse(text, strlen(text), &j, NULL) == 0) {
        if (base_desc_from_json(&b, j, &e))
            FUZZ_NEED(e.code == ERR_INVALID || e.code == ERR_MISSING);
        else {
            json_t *out = base_desc_to_json(&b);
            FUZZ_NEED(out && base_desc_from_json(&again, out, NULL) == 0);
            FUZZ_NEED(!strcmp(b.name, again.name) && !strcmp(b.digest, again.digest) && b.layers == again.layers && b.vocab == again.vocab);
            FUZZ_NEED(!memcmp(b.in, again.in, sizeof b.in) && !memcmp(b.out, again.out, sizeof b.out) && b.experts == again.experts);
            FUZZ_NEED(b.uneven == again.uneven && !memcmp(b.widths, again.widths, sizeof b.widths));
            FUZZ_NEED(base_desc_check(&b, NULL) == 0);
            check_layers(&b);
            FUZZ_NEED(b.layers >= 1 && b.hidden >= 0 && b.vocab >= 0 && b.experts >= 0 && b.expert_mlp >= 0);
            json_decref(out);
            FUZZ_NEED(base_desc_accepts(&b, name, &named) == 0 || named.code == ERR_ADAPTER_INVALID);
            FUZZ_NEED(base_desc_accepts(&b, "", NULL) == 0);
            check_changed(&b, data, n);
        }
    }
    json_decref(j);
    free(text);
    free(name);
    return 0;
}
