/* JSON from strangers: what passes the scan and jansson is printed and read again as the same value, whatever its numbers; what is refused says why, without
 * quoting it; a reader for models (whole numbers of any length) takes all that the strict one takes. */
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

static void read_fields(const json_t *o)
{
    const char *key, *text;
    json_t *v;
    int64_t i;
    double d;
    bool b, there;
    json_object_foreach((json_t *)o, key, v)
    {
        struct err e[4] = {0};
        int64_t was = i = -5;
        if (json_get_int(o, key, 0, 100, &i, &there, &e[0]) == 0) FUZZ_NEED(i == was || (i >= 0 && i <= 100));
        d = 0.5;
        if (json_get_num(o, key, -1, 1, &d, NULL, &e[1]) == 0) FUZZ_NEED(d >= -1 && d <= 1);
        json_get_bool(o, key, &b, NULL, &e[2]);
        text = NULL;
        if (json_get_str(o, key, 10, &text, NULL, &e[3]) == 0) FUZZ_NEED(!text || strlen(text) <= 10);
        json_need_str(o, key, 10, &text, NULL);
        for (int k = 0; k < 4; k++) FUZZ_NEED(e[k].code == ERR_NONE || e[k].code == ERR_INVALID);
    }
}

static void print_again(const json_t *o, bool canonical)
{
    struct buf b;
    json_t *again = NULL;
    buf_init(&b, 8u << 20);
    FUZZ_NEED(json_dump(o, canonical, &b) == 0);
    FUZZ_NEED(json_parse(b.data, b.len, &again, NULL) == 0 && json_equal((json_t *)o, again));
    json_decref(again);
    buf_close(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *s = fuzz_text(data, n);
    json_t *o = NULL, *wide = NULL;
    struct err e = {0}, ew = {0};
    struct buf b;
    int rc = json_parse(s, n, &o, &e), rw = json_parse_wide(s, n, &wide, &ew);
    FUZZ_NEED((rc == 0) == (e.code == ERR_NONE) && (rc == 0) == (o != NULL) && (rc != 0 || rw == 0));
    if (o) {
        FUZZ_NEED(json_is_object(o));
        print_again(o, false);
        print_again(o, true);
        read_fields(o);
    } else {
        FUZZ_NEED(e.code == ERR_INVALID_JSON && !strstr(e.msg, " near '"));
        buf_init(&b, 1u << 16);
        FUZZ_NEED(json_error(&e, &b) == 0 && json_parse(b.data, b.len, &o, NULL) == 0);
        buf_close(&b);
    }
    json_decref(o);
    json_decref(wide);
    free(s);
    return 0;
}
