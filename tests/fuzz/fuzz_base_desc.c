/* The description of a base as an engine (or an operator) gives it: what is read is printed and read again as the same, and a name that an adapter was
 * trained on is taken or refused with both names. Input: JSON, a NUL, the name. */
#include "adapters/adapter.h"
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

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
            FUZZ_NEED(b.layers >= 1 && b.hidden >= 0 && b.vocab >= 0 && b.experts >= 0 && b.expert_mlp >= 0);
            json_decref(out);
            FUZZ_NEED(base_desc_accepts(&b, name, &named) == 0 || named.code == ERR_ADAPTER_INVALID);
            FUZZ_NEED(base_desc_accepts(&b, "", NULL) == 0);
        }
    }
    json_decref(j);
    free(text);
    free(name);
    return 0;
}
