"""make_constrain.py OUT.json: texts that JSON schemas and regular expressions accept or not, as the packages jsonschema and re have it.

`schemas`: random and hand-written schemas of the dialect that engine/constrain.h names; `yes` are documents in the order of the schema's
properties, in three layouts, that jsonschema finds valid; `no` are such documents changed until jsonschema finds them invalid.
`regexes`: `yes` and `no` by re.fullmatch (ASCII classes, as ECMA-262 has them).

    pip install 'jsonschema[format]==4.26.0' && python make_constrain.py constrain.json
"""
import copy
import json
import random
import re
import sys

from jsonschema import Draft202012Validator

R = random.Random(20261121)
WORDS = ["a", "b", "id", "name", "näme", "x y", "q\"t", "tab\t", "über", "日本", "kind", "list", "π", "abc", "ab"]
TEXTS = ["", "a", "ab", "abc", "ü", "日本語", "😀", "a\"b", "back\\slash", "line\nbreak", "x" * 12, "\u001f", "\u007f", "/", "null", "12", "a,b", "😀😀"]
ATOMS = [None, True, False, 0, 1, -1, 7, 42, 100, 1.5, -0.25, 1000000, "a", "", "日本", [], {}, [1], {"a": 1}, "2024-02-29", 12.75]


def dump(v, style):
    sep = {0: (",", ":"), 1: (", ", ": "), 2: (",", ": ")}[style]
    return json.dumps(v, ensure_ascii=False, separators=sep, indent=2 if style == 2 else None)


def gen_schema(depth):
    kind = R.choice(["string", "integer", "number", "boolean", "null", "enum", "const"] + ["object", "array", "object", "anyOf", "types"] * (depth > 0))
    if kind == "string":
        s = {"type": "string"}
        if R.random() < .5:
            s["minLength"] = R.randint(0, 3)
        if R.random() < .5:
            s["maxLength"] = s.get("minLength", 0) + R.randint(0, 12)
        return s
    if kind in ("integer", "number"):
        s = {"type": kind}
        lo = R.choice([-1000, -17, -1, 0, 1, 3, 99, 100]) if R.random() < .7 else None
        if kind == "number" and lo is not None and R.random() < .5:
            lo += R.choice([.5, .25, .125])
        if lo is not None:
            s[R.choice(["minimum", "exclusiveMinimum"])] = lo
        if R.random() < .7:
            s[R.choice(["maximum", "exclusiveMaximum"])] = (lo if lo is not None else -5) + R.choice([2, 5, 10, 98, 900, 12345])
        if kind == "integer" and R.random() < .3:
            s["multipleOf"] = R.choice([1, 2, 3, 5, 10])
            if "maximum" in s or "exclusiveMaximum" in s:
                s["maximum"] = s.pop("exclusiveMaximum", s.get("maximum")) + 20
        return s
    if kind in ("boolean", "null"):
        return {"type": kind}
    if kind == "enum":
        return {"enum": R.sample(ATOMS[:6] + TEXTS + [[1, 2], {"k": None}], R.randint(1, 5))}
    if kind == "const":
        return {"const": R.choice(ATOMS)}
    if kind == "types":
        return {"type": R.sample(["string", "integer", "boolean", "null"], 2)}
    if kind == "anyOf":
        return {"anyOf": [gen_schema(depth - 1) for _ in range(R.randint(1, 3))]}
    if kind == "array":
        s = {"type": "array"}
        if R.random() < .3:
            s["prefixItems"] = [gen_schema(depth - 1) for _ in range(R.randint(1, 2))]
        s["items"] = gen_schema(depth - 1) if R.random() < .8 else R.choice([True, False] if "prefixItems" in s else [True])
        if R.random() < .5:
            s["minItems"] = R.randint(0, len(s.get("prefixItems", [])) if s["items"] is False else 3)
        if R.random() < .5:
            s["maxItems"] = s.get("minItems", 0) + R.randint(0, 3)
        return s
    names = R.sample(WORDS, R.randint(0, 4))
    s = {"type": "object", "properties": {n: gen_schema(depth - 1) for n in names}}
    s["required"] = [n for n in names if R.random() < .5]
    extra = R.random()
    if extra < .4:
        s["additionalProperties"] = False
    elif extra < .5:
        s["additionalProperties"] = True
    elif extra < .7:
        s["additionalProperties"] = gen_schema(depth - 1)
    return s


def number(s, integer):
    lo, hi = s.get("minimum", s.get("exclusiveMinimum")), s.get("maximum", s.get("exclusiveMaximum"))
    lo = lo if lo is not None else (hi - 50 if hi is not None else -500)
    hi = hi if hi is not None else lo + 5000
    for _ in range(200):
        v = R.choice([R.randint(int(lo) - 1, int(hi) + 1), lo, hi]) if integer else R.choice([lo, hi, round(R.uniform(lo, hi), R.randint(0, 6)), R.randint(int(lo), int(hi))])
        if integer:
            v = int(v)
        if Draft202012Validator(s).is_valid(v):
            return v
    raise ValueError


def gen_doc(s, root, depth=0):
    """A valid document in the order of the properties; ValueError where none was found."""
    if depth > 12:
        raise ValueError
    if s is True or s == {}:
        return R.choice(ATOMS)
    if s is False:
        raise ValueError
    if "$ref" in s:
        at = root
        for part in s["$ref"].split("/")[1:]:
            at = at[part]
        return gen_doc(at, root, depth + 1)
    if "const" in s:
        return s["const"]
    if "enum" in s:
        return R.choice(s["enum"])
    for k in ("anyOf", "oneOf"):
        if k in s and set(s) <= {k, "$defs", "title"}:
            return gen_doc(R.choice(s[k]), root, depth + 1)
    t = s.get("type")
    if isinstance(t, list):
        t = R.choice(t)
    if t == "null":
        return None
    if t == "boolean":
        return R.choice([True, False])
    if t in ("integer", "number"):
        return number(s, t == "integer")
    if t == "string":
        for _ in range(60):
            v = R.choice(TEXTS)
            if R.random() < .4:
                v = "".join(R.choice("abü日😀\"\\\n ") for _ in range(R.randint(s.get("minLength", 0), min(s.get("maxLength", 20), 20))))
            if Draft202012Validator(s, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(v):
                return v
        raise ValueError
    if t == "array":
        pre, items = s.get("prefixItems", []), s.get("items", True)
        n = R.randint(s.get("minItems", 0), min(s.get("maxItems", 4), max(4, s.get("minItems", 0))))
        return [gen_doc(pre[i] if i < len(pre) else items, root, depth + 1) for i in range(n)]
    if t == "object":
        out = {}
        for k, v in s.get("properties", {}).items():
            if k in s.get("required", []) or R.random() < .5 - depth * .05:
                out[k] = gen_doc(v, root, depth + 1)
        extra = s.get("additionalProperties", "properties" not in s)
        for k in R.sample(WORDS + ["zzz", "nam", "names", "日"], 3):
            if extra is not False and k not in s.get("properties", {}) and R.random() < .3:
                out[k] = gen_doc(extra, root, depth + 1)
        return out
    raise ValueError


def mutate(v):
    if isinstance(v, dict) and v and R.random() < .7:
        k = R.choice(list(v))
        v = dict(v)
        how = R.random()
        if how < .3:
            del v[k]
        elif how < .45:
            v[R.choice(WORDS)] = R.choice(ATOMS)
        else:
            v[k] = mutate(v[k])
        return v
    if isinstance(v, list) and v and R.random() < .7:
        i = R.randrange(len(v))
        return v[:i] + ([] if R.random() < .3 else [mutate(v[i])]) + v[i + 1:] + ([v[i]] if R.random() < .3 else [])
    if isinstance(v, (int, float)) and not isinstance(v, bool) and R.random() < .6:
        return v + R.choice([1, -1, 10, -1000, 100000, .5])
    if isinstance(v, str) and R.random() < .5:
        return v + R.choice(["a", "xxxxxxxxxxxxxxx", "ü", "-"]) if R.random() < .6 else v[1:]
    return copy.deepcopy(R.choice(ATOMS))


LIST = {"$defs": {"n": {"type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}]}},
                        "required": ["v", "next"], "additionalProperties": False}}, "$ref": "#/$defs/n"}
TREE = {"type": "object", "properties": {"name": {"type": "string"}, "kids": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3}}, "required": ["name"],
        "additionalProperties": False}
SHAPES = {"oneOf": [{"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number", "minimum": 0}}, "required": ["kind", "r"]},
                    {"type": "object", "properties": {"kind": {"const": "box"}, "w": {"type": "integer"}, "h": {"type": "integer"}}, "required": ["kind", "w", "h"]}]}
BASE = {"$defs": {"b": {"type": "object", "properties": {"id": {"type": "integer", "minimum": 1}}, "required": ["id"]}},
        "allOf": [{"$ref": "#/$defs/b"}], "type": "object", "properties": {"note": {"type": "string", "maxLength": 5}}, "required": ["note"]}
EITHER = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "boolean"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}],
          "additionalProperties": False}

# schema, yes, no (documents)
HAND = [
    (LIST, [{"v": 1, "next": None}, {"v": 1, "next": {"v": -2, "next": None}}], [{"v": 1}, {"v": 1, "next": {}}, None]),
    (TREE, [{"name": ""}, {"name": "a", "kids": [{"name": "b", "kids": []}, {"name": "c"}]}], [{"kids": []}, {"name": "a", "kids": [{}]}]),
    (SHAPES, [{"kind": "circle", "r": 0.5}, {"kind": "box", "w": 1, "h": 2}], [{"kind": "circle", "r": -1}, {"kind": "box", "r": 1}, {"kind": "x"}]),
    (BASE, [{"id": 3, "note": "x"}], [{"id": 0, "note": "x"}, {"id": 1}, {"id": 1, "note": "xxxxxx"}, {"note": "x"}]),
    (EITHER, [{"a": 1}, {"b": True}, {"a": 2, "b": False}], [{}, {"a": "x"}, {"c": 1}, {"a": 1, "c": 1}]),
    ({"type": "string", "pattern": "^[A-Z]{3}-\\d+$"}, ["ABC-1", "XYZ-0099"], ["ABC-", "abC-1", "ABCD-1", "ABC-1x"]),
    ({"type": "string", "pattern": "b+"}, ["b", "abba", "日b\"", "\nb\n"], ["", "a", "日本"]),
    ({"type": "string", "pattern": "^a|z$"}, ["a", "abc", "xyz", "az", "\nz"], ["", "ba", "zx"]),
    ({"type": "string", "pattern": "^[^\"]*$"}, ["", "a\\b", "日"], ["\"", "a\"b"]),
    ({"type": "string", "pattern": "^a*b*$", "minLength": 2, "maxLength": 4}, ["aa", "ab", "aabb", "bbbb"], ["a", "", "aaabb", "ba"]),
    ({"type": "string", "pattern": "^[\\u0000-\\u001f\\\\\"/]+$"}, ["\n\t", "\u001f", "\\\"", "/"], ["a", ""]),
    ({"type": "string", "pattern": "é|😀", "maxLength": 3}, ["é", "a😀b", "😀é"], ["e", "abcé", ""]),
    ({"type": "string", "format": "date"}, ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-13-01", "2024-1-1", "24-01-01", "2024-04-31"]),
    ({"type": "string", "format": "time"}, ["12:00:00Z", "23:59:59.25+01:30"], ["24:00:00Z", "12:60:00Z", "12:00"]),
    ({"type": "string", "format": "date-time"}, ["2024-02-29T12:00:00Z", "1985-04-12T23:20:50.52Z"], ["2024-02-30T12:00:00Z", "2024-01-01", "2024-01-01 12:00:00Z"]),
    ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567-e89b-12d3-a456-42661417400", "123e4567e89b12d3a456426614174000", "g23e4567-e89b-12d3-a456-426614174000"]),
    ({"type": "string", "format": "ipv4"}, ["127.0.0.1", "255.255.255.255", "0.0.0.0"], ["256.0.0.1", "1.2.3", "01.2.3.4", "1.2.3.4.5"]),
    ({"type": "string", "format": "ipv6"}, ["::1", "::", "2001:db8::8a2e:370:7334", "1:2:3:4:5:6:7:8", "fe80::", "1::8"], ["1::2::3", ":::", "1:2:3:4:5:6:7:8:9", "12345::", "1:2:3:4:5:6:7"]),
    ({"type": "string", "format": "email"}, ["a@b.org", "first.last+x@sub.example.com"], ["a.b.org", "", "x"]),
    ({"type": "number", "multipleOf": 5, "minimum": 3}, [5, 10, 1000], [0, 3, 7, 12]),
    ({"type": ["integer", "null"], "minimum": 10, "maximum": 19}, [10, 19, None], [9, 20, 1, 100, "10"]),
    ({"properties": {"a": {"type": "integer"}}, "type": "object"}, [{}, {"a": 1}], [{"a": "x"}, []]),
    ({"type": "object"}, [{}, {"a": [1, {"b": None}]}, {"": ""}], [[], None, 1, "x"]),
    ({}, [1, -1.5, "x", None, [[]], {"a": {"b": []}}, True, 1e-05, 12345678901], []),
    ({"type": "object", "additionalProperties": {"type": "integer"}}, [{}, {"x": 1, "y": 2}], [{"x": "1"}]),
    ({"type": "object", "required": ["z"], "additionalProperties": True, "properties": {"a": {}}}, [{"z": 1}, {"a": 2, "z": None, "more": 1}], [{}, {"a": 1}]),
    ({"enum": ["a", "ab", "abc", 1, 12, None, {"a": [1, 2]}]}, ["a", "ab", "abc", 1, 12, None], ["", "abcd", 2, 123]),
    ({"type": "integer", "minimum": -5, "exclusiveMaximum": 5}, [-5, 0, 4], [-6, 5, 10, -10, 0.5]),
    ({"type": "integer", "minimum": 5, "maximum": 12}, [5, 9, 10, 12], [4, 13, 1, 0, 99, 50, -5]),
    ({"type": "integer", "minimum": 123, "maximum": 54321}, [123, 200, 999, 1000, 9999, 10000, 54321], [122, 99, 54322, 99999, 100000]),
    ({"type": "integer", "minimum": -999999999999, "maximum": -1000, "multipleOf": 7}, [-1001, -7007, -999999999999 + 999999999999 % 7], [-1000, -994, 0, 7]),
    ({"type": "number", "minimum": 0.1, "exclusiveMaximum": 2.5}, [0.1, 0.11, 1, 2.49999, 2, 1.75], [0.09, 0, 2.5, 2.51, 3, -1, 25]),
    ({"type": "number", "exclusiveMinimum": -1.5, "maximum": 0}, [-1.49, -1, 0, -0.001], [-1.5, -1.51, 0.1, -2, 1]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5, 0.001, 0.999], [0, 1, 1.5, -0.5]),
    ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False}, [[], [1], [1, "a"]], [["a"], [1, "a", 2], [1, 2]]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [[True, False], [True, True, True]], [[], [True], [1, 2]]),
]

# the formats: valid ones that are served, invalid ones
FORMATS = {
    "duration": (["P1D", "PT1H2M3S", "P1Y2M3DT4H", "P3W", "PT5S", "P1M", "PT1H"], ["P", "PT", "P1DT", "1D", "P1S", "P1W2D", "P2D1M", ""]),
    "json-pointer": (["", "/", "/a/b", "/a~0b/~1", "/日/0"], ["a", "/~", "/~2", "#/a"]),
    "relative-json-pointer": (["0", "1#", "2/a/~0b", "10/"], ["", "/a", "01", "-1", "1a", "0##"]),
    "regex": (["^a(b|c)*$", "[a-z0-9_]+\\d?", "a{2}", "(?:x|y)z", "\\.\\["], ["(", "a**", "[", "a)", "*"]),
    "idn-email": (["a@b.org"], ["a", ""]),
    "idn-hostname": (["example.org", "a-b.c"], ["-a", "a..b", "a b"]),
    "hostname": (["example.org", "a", "A-b.c1.d.e.f", "x" * 63 + ".y", ".".join(["a" * 63] * 3), ".".join(["b" * 30] * 7)],
                 ["-a", "a-", "a..b", "x" * 64, ".".join(["a" * 60] * 5), "a_b"]),
    "uri": (["https://a.b/c?d#e", "ftp://x:21"], ["a/b", "//x", "http://a b"]),
    "iri": (["https://a.b/c?d#e"], ["a/b", "http://a b"]),
    "uri-reference": (["", "a/b", "/a/b", "?x", "#y", "https://a.b/c", "./a:b"], ["a b", "\\\\x", "%zz"]),
    "iri-reference": (["", "a/b", "/a/b", "?x", "#y", "https://a.b/c"], ["a b", "\\\\x"]),
    "uri-template": (["", "/a/{b}", "{+a,b:3}{?c*}", "x{#y.z}"], ["{", "{a", "a}b", "{a b}"]),
}
HAND += [({"type": "string", "format": f}, yes, no) for f, (yes, no) in FORMATS.items()]
HAND += [
    ({"type": "string", "format": "hostname", "maxLength": 300, "minLength": 2}, ["a.b", "ab"], ["a", ".".join(["a" * 60] * 5)]),
    ({"type": "string", "format": "password"}, ["", "x y"], [1]),
    ({"type": "integer", "format": "int32"}, [1, -5], ["1"]),
    # every digit of a bound counts, also beyond 2^53
    ({"type": "integer", "minimum": 9007199254740993, "maximum": 9007199254740995}, [9007199254740993, 9007199254740994, 9007199254740995],
     [9007199254740992, 9007199254740996]),
    ({"type": "integer", "exclusiveMinimum": -999999999999999999, "exclusiveMaximum": -999999999999999996}, [-999999999999999998, -999999999999999997],
     [-999999999999999999, -999999999999999996]),
    ({"allOf": [{"type": "integer", "maximum": 9007199254740995}, {"minimum": 9007199254740993}, {"minimum": 9007199254740994}]},
     [9007199254740994, 9007199254740995], [9007199254740993, 9007199254740996]),
    ({"type": "integer", "minimum": 4, "exclusiveMinimum": 4.0, "maximum": 6.5}, [5, 6], [4, 7]),
    # numbers are equal by value
    ({"type": "integer", "enum": [1, 1.5, 2.0, "a"]}, [1, 2.0], [1.5, "a", 3]),
    ({"allOf": [{"enum": [1, [2, {"a": 3.0}], "x"]}, {"enum": [1.0, [2.0, {"a": 3}], "y"]}]}, [1, [2, {"a": 3.0}]], ["x", "y", 2]),
    ({"oneOf": [{"const": 1}, {"const": 1.5}, {"enum": ["1", True]}]}, [1, 1.5, "1", True], [2, False]),
    ({"type": "integer", "nullable": True}, [1], [None]),
    # $id below the root where it changes nothing
    ({"$id": "https://a.b/c", "properties": {"a": {"$id": "https://a.b/d", "type": "integer"}, "b": {"$ref": "#/$defs/x"}}, "required": ["a", "b"], "$defs": {"x": {"type": "null"}}},
     [{"a": 1, "b": None}], [{"a": "1", "b": None}, {"a": 1, "b": 1}]),
    # tags, and tags within tags
    ({"oneOf": [{"type": "object", "properties": {"k": {"const": k}, "v": {"enum": [v, str(v)]}}, "required": ["k", "v"]} for k in "ab" for v in range(3)]},
     [{"k": "a", "v": 0}, {"k": "b", "v": "2"}], [{"k": "c", "v": 0}, {"k": "a", "v": 3}, {"k": "a"}]),
    ({"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"], "additionalProperties": False},
                {"type": "object", "properties": {"t": {"const": "a"}}, "required": ["t"], "additionalProperties": False},
                {"type": "object", "properties": {"t": {"const": "b"}}, "required": ["t"], "additionalProperties": False}, {"type": ["string", "null"]}]},
     [{"k": "a"}, {"t": "a"}, {"t": "b"}, "x", None], [{}, {"k": "a", "t": "a"}, {"k": "b"}, 1]),
]

PATTERNS = ["a*", "(a|b)*abb", "a{2,4}", "a{3}", "a{2,}b?", "(ab)+|c", "[a-c]x[^a-c]", r"\d{3}-\d{4}", r"\w+@\w+\.com", r"a\.b\*", r"[\]\-\\^]+", "x(?:y|z)*?w",
            "(?P<year>[0-9]{4})", "(a?){3}", "(a*)*b", "(a|ab)(c|bcd)", ".*c", "a.c", "[é-ü]+", "日本?", "[^日]", "😀{2}", r"\x41\u00e9", "^abc$", "a||b", "()", "(a{0,2}b){2}", r"[\d_]+\s\S\D\W",
            "{a}", "a{,b", "x{1,2}{", r"\{\}", "[a-]b", "[-a]b", "a+?b*?"]
ALPHABET = ["a", "b", "c", "x", "y", "z", "w", "abb", "bcd", "1", "12", "555-1234", "@", ".com", ".", "*", "]", "-", "\\", "^", "é", "ü", "日", "本", "😀", "A", "2024", " ", "_", "\n", "{", "}", "a{,b", "x{", "{a}"]


def gen_pattern(depth):
    k = R.random()
    if depth == 0 or k < .3:
        return R.choice(["a", "b", "c", "[ab]", "[^a]", "."])
    if k < .55:
        return gen_pattern(depth - 1) + gen_pattern(depth - 1)
    if k < .75:
        return "(" + gen_pattern(depth - 1) + "|" + gen_pattern(depth - 1) + ")"
    return "(" + gen_pattern(depth - 1) + ")" + R.choice(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{2,}"])


def schemas():
    for schema, yes, no in HAND:
        v = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        for d in yes:
            assert v.is_valid(d), (schema, d)
        for d in no:
            assert not v.is_valid(d), (schema, d)
        yield {"schema": schema, "yes": [dump(d, s) for d in yes for s in range(3)], "no": [dump(d, s) for d in no for s in range(2)]}
    made = 0
    while made < 160:
        schema = gen_schema(3)
        v = Draft202012Validator(schema)
        yes, no = [], []
        for _ in range(6):
            try:
                d = gen_doc(schema, schema)
            except ValueError:
                continue
            assert v.is_valid(d), (schema, d)
            yes.append(dump(d, R.randrange(3)))
            for _ in range(4):
                d = mutate(d)
                if not v.is_valid(d):
                    no.append(dump(d, 0))
                    break
        if yes and len(json.dumps(schema)) < 1200:
            made += 1
            yield {"schema": schema, "yes": sorted(set(yes)), "no": sorted(set(no))}


def regexes():
    for p in PATTERNS + [gen_pattern(4) for _ in range(60)]:
        try:
            r = re.compile(p, re.ASCII)
        except re.error:
            continue
        texts = {""} | {"".join(R.choice(ALPHABET if p in PATTERNS else "abc") for _ in range(R.randint(1, 6))) for _ in range(400)}
        texts |= {"ABC", "Aé", "555-1234", "a@b.com", "1 x-.", "_ ab?", "abc", "aaab", "aab"}
        yes, no = [t for t in sorted(texts) if r.fullmatch(t)], [t for t in sorted(texts) if not r.fullmatch(t)]
        yield {"pattern": p, "yes": R.sample(yes, min(12, len(yes))), "no": R.sample(no, min(12, len(no)))}


out = {"schemas": list(schemas()), "regexes": list(regexes())}
with open(sys.argv[1], "w", encoding="utf-8") as f:
    json.dump(out, f, ensure_ascii=False, separators=(",", ":"), indent=0)
    f.write("\n")
print(len(out["schemas"]), "schemas", len(out["regexes"]), "regexes")
