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

/* What is built of a stranger's values says what they say, and shares nothing that is changed afterwards. */
static void build_with(const json_t *o)
{
    json_t *top = json_copy_top(o), *all = json_copy_all(o), *list = json_array(), *holder = json_object();
    FUZZ_NEED(top && all && json_equal(top, o) && json_equal(all, o));
    json_list_add(&list, all);
    json_object_put(&holder, "list", list);
    FUZZ_NEED(json_object_size(holder) == 1 && json_equal(json_array_get(json_object_get(holder, "list"), 0), o));
    json_object_clear(top);
    json_object_clear(all);
    FUZZ_NEED(json_object_size(json_array_get(list, 0)) == 0);
    json_decref(top);
    json_decref(holder);
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
        size_t there = json_object_size(o);
        build_with(o);
        FUZZ_NEED(json_object_size(o) == there);
    } else {
        FUZZ_NEED(e.code == ERR_INVALID_JSON && !strstr(e.msg, " near '"));
        snprintf(e.param, sizeof e.param, "%.20s", s);
        buf_init(&b, 1u << 16);
        FUZZ_NEED(json_error(&e, &b) == 0 && json_parse(b.data, b.len, &o, NULL) == 0);
        buf_close(&b);
    }
    json_decref(o);
    json_decref(wide);
    free(s);
    return 0;
}
