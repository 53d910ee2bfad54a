"""Seeds of what the gateway's API is sent (make_seeds.py): policies with the bodies that meet them, headers, bodies of settings."""


def policies(seed, dump):
    """What an alias asks for beside the bodies that meet it."""
    def slot(**s):
        return {"template": {"slots": {"a": s}, "messages": [{"role": "user", "content": "Sort: {{a}}."}]}}

    def both(policy, body, chat=1):
        return bytes([chat]) + dump(policy).encode() + b"\0" + dump(body).encode()

    text, cut = slot(type="string", max_length=20), {"truncate": {"max_tokens": 16, "head_turns": 1, "last_turns": 2, "head_tokens": 3}}
    less = {"compress": {"ratio": 0.5, "min_tokens": 0, "unit": "word"}}
    messages = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    two = {"template": {"slots": {"a": {"type": "string"}, "b": {"type": "enum", "values": ["x", "{{a}}"], "default": "x"}},
                        "messages": [{"role": "system", "content": "{{b}}{{a}}}}"}, {"role": "developer", "content": ""}, {"role": "assistant", "content": "{ {{a}} }} {{b}}"}]}}
    values = ["plain", "{{a}}", "}}", "\u00fc\U0001f600", "", "\",\"role\":\"system\"", "<|im_end|>", 7, True, None, [1], {"x": [1.5, {}]}, "y" * 21]
    seed("prompt_policy", *[both(text, {"slots": {"a": v}, "temperature": 1}) for v in values], *[both(slot(type="json", max_length=40), {"slots": {"a": v}}) for v in values],
         *[both(slot(type="integer", min=-3, max=9), {"slots": {"a": v}}) for v in (-4, 9, 10, "1", 1.0)], *[both(slot(type="boolean"), {"slots": {"a": v}}) for v in (True, False, 1)],
         *[both(slot(type="enum", values=["a", "bc" * 100]), {"slots": {"a": v}}) for v in ("a", "b", 1)], both(two, {"slots": {"a": "{{b}}", "b": "{{a}}"}}), both(two, {"slots": {}}), both(two, {"slots": {"a": "x"}, "messages": []}),
         both(two, messages), both(two, {"slots": {"c": 1}}), both(two, {"slots": []}), both(two, {}), both(slot(type="string", default="d"), {"slots": None}), both(text, {"slots": {"a": "x"}, "messages": {"role": "user"}}),
         both(cut, messages), both(less, messages), both({**cut, **less, **text}, {"slots": {"a": "x"}, "weft_prompt_policy": {"text": {}}}), both(text, {"slots": {"a": "x"}}, 0), both(cut, {"prompt": "x"}, 0))
    bad = [[], {"x": 1}, {"truncate": []}, {"truncate": {}}, {"truncate": {"max_tokens": 16, "head_tokens": 16}}, {"truncate": {"max_tokens": 16, "x": 1}}, {"compress": []}, {"compress": {}}, {"compress": {"ratio": 0.5, "unit": "page"}}, {"compress": {"ratio": 0.5, "x": 1}},
           {"template": []}, {"template": {"x": 1}}, {"template": {"messages": []}}, {"template": {"messages": [{"role": "tool", "content": "x"}]}}, {"template": {"messages": [{"role": "user", "content": "x", "name": "y"}]}},
           {"template": {"messages": [{"role": "user", "content": "{{a"}]}}, {"template": {"messages": [{"role": "user", "content": "{{b}}"}], "slots": {}}}, {"template": {"messages": [{"role": "user", "content": "x"}], "slots": {"a": {"type": "string"}}}},
           {"template": {"messages": [{"role": "user", "content": "x"}], "slots": []}}, {"template": {"messages": [], "slots": {"A": {"type": "string"}}}}, {"template": {"messages": [], "slots": {"a": 1}}}, {}, {"template": None},
           slot(), slot(type="integer", min=3, max=1), slot(type="enum", values=[]), slot(type="enum", values=[""]), slot(type="string", max_length=2, default="abc"), slot(type="string", max_length=0), slot(type="string", min=0), slot(type="json", default={"b": 1, "a": [2]})]
    seed("prompt_policy", *[both(p, {"slots": {}}) for p in bad], b"\1{}", b"\1", b"")
    policy = {"truncate": {"max_tokens": 16}, "compress": {"ratio": 0.5}, "text": {"a": "x"}}
    wrong = [[], {"x": 1}, {"truncate": []}, {"truncate": {}}, {"truncate": {"max_tokens": 16, "head_tokens": 16}}, {"compress": []}, {"compress": {}}, {"compress": {"ratio": 0.5, "unit": "page"}}, {"text": []}, {"text": {"a": 1}}]
    seed("ask", "\1" + dump({**messages, "weft_prompt_policy": policy}), *["\1" + dump({**messages, "weft_prompt_policy": p}) for p in wrong], "\0" + dump({"model": "m", "prompt": "x", "weft_prompt_policy": policy}))


def headers(seed):
    tag, other = "0123456789abcdef" * 2, "f" * 32
    whole = "X-Weft-Request-Id: 0191d8a0-0000-7000-8000-000000000001\nX-Weft-Tenant: acme\nX-Weft-Model: sql@3\nX-Weft-Class: batch\nX-Weft-Weight: 2.5\nX-Weft-Deadline-Ms: 30000\ntraceparent: 00-" + "a" * 32 + "-" + "b" * 16 + "-01\n\n"
    seed("headers", whole, *[f"X-Weft-Takeover: {tag}-{a}\n\nX-Weft-Takeover: {other}-7\n\nX-Weft-Takeover: {tag}-{b}\n\n" for a, b in ((1, 2), (2, 1), (3, 3), (0, 0), (999999999, 5))],
         *[f"X-Weft-Takeover: {v}\n" for v in (tag, tag + "-", tag + "-1234567890", tag + "-1x", tag[:-1] + "-1", tag + "+1", "")], *[f"X-Weft-Class: {v}\n" for v in ("interactive", "normal", "BATCH", "", "x" * 64)],
         *[f"X-Weft-Weight: {v}\n" for v in ("0.001", "1000", "1000.1", "0", ".", "1e3", "nan", "0x10", "1.2.3", "1" * 40)], *[f"X-Weft-Deadline-Ms: {v}\n" for v in ("1", "86400000", "86400001", "1.", "0", "-1")],
         "X-Weft-Tenant: a\nx-weft-tenant: b\n", "X-Weft-Tenant: a\nX-Weft-Tenant: a\n", "X-Weft-Tenant: a b\n", "X-Weft-Tenant: \u00fc\n", "X-Weft-Tenant:\n", "X-Weft-Request-Id: " + "x" * 80 + "\n", "X-Weft-Model: " + "m" * 255 + "\n", "X-Weft-Model: " + "m" * 256 + "\n", "X-Weft-Model: " + "m" * 600 + "\nX-Weft-Model: x\n",
         *[f"Authorization: {v}\n" for v in ("Bearer wft_x", "bearer   wft_x", "Bearer ", "Bearer a b", "Basic eDp5", "Bearerx", "Bearer\ta")],
         *[f"Accept-Encoding: {v}\n" for v in ("gzip", "br, gzip;q=0.5", "gzip;q=0", "gzip;q=0 , br", "gzip ; q=0.000", "*", "*;q=0", "gzip;q=0, *", "*;q=0, GZIP", "gzip qq=0", "x-gzip", "gzip;q=00.1", "gzip;q=", "", ",,gzip", "identity")],
         *[f"Last-Event-ID: {v}\n" for v in ("0", "123456789012345", "1234567890123456", "1x", "-1", "")])


SCHEMAS = [
    ({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 9, "multipleOf": 2}}, "required": ["a"], "additionalProperties": False}, ['{"a":4}', '{"a":3}', '{"a":4,"b":1}', "{}", "[]", "```\n{}\n```", "1,\"v\":2"]),
    ({"type": "array", "prefixItems": [{"const": 1}], "items": {"type": ["string", "null"]}, "minItems": 1, "maxItems": 3, "uniqueItems": True}, ['[1,"x",null]', "[1.0]", '[1,"x","x"]', "[]", "[2]", "[1,2]", "{}"]),
    ({"anyOf": [{"type": "string", "minLength": 2, "maxLength": 3}, {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}], "not": {"enum": ["xy", 0.5]}}, ['"ab"', '"a"', '"xy"', "0.25", "0.5", "1", "true"]),
    ({"oneOf": [{"type": "integer"}, {"minimum": 2}], "allOf": [{"type": "number"}, True]}, ["1", "2.5", "3", "0.5", "9007199254740993"]), ({"minProperties": 1, "maxProperties": 2, "additionalProperties": {"type": "boolean"}, "title": "t"}, ['{"a":true}', '{"a":1}', "{}", '{"a":true,"b":true,"c":true}']),
    ({"$defs": {"n": {"type": ["object", "null"], "properties": {"next": {"$ref": "#/$defs/n"}}, "required": ["next"]}}, "$ref": "#/$defs/n"}, ['{"next":{"next":null}}', '{"next":{}}', "null"]), ({"$ref": "#"}, ["1"]), ({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}, ["1"]), ({"not": {"$ref": "#"}}, ["1"]),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}], "items": {"$ref": "#/allOf/1"}}, ["2", "[4]"]), ({"pattern": "^(a+)+$"}, ['"aaa"', '"' + "a" * 40 + 'b"', '"\u00e9"', "1"]), ({"pattern": "^\u00e4{1,3}"}, ['"\u00e4"', '"x"']), ({"const": {"a": [1, 2.5, {"b": None}]}}, ['{"a":[1,2.5,{"b":null}]}', '{"a":[1.0,2.5,{"b":null}]}', "1"]), ({"enum": [1, "1", [], {}, None, 9007199254740992]}, ["1", "1.0", '"1"', "[]", "{}", "null", "9007199254740993"]),
    (True, ["1"]), (False, ["1", ""]), ({}, ["{}", "x", "\x00", '"\\u0000"'])]
NO_SCHEMAS = [1, None, [], {"if": {}}, {"type": 7}, {"type": "strnig"}, {"type": []}, {"type": [1]}, {"minLength": -1}, {"minLength": 1.5}, {"multipleOf": 0}, {"multipleOf": "1"}, {"pattern": "("}, {"pattern": 1}, {"anyOf": []}, {"anyOf": {}}, {"properties": []}, {"properties": {"a": 1}}, {"items": [1]}, {"required": "a"}, {"required": [1]}, {"enum": 1},
              {"uniqueItems": 1}, {"$ref": 1}, {"$ref": "#/x"}, {"$ref": "http://a/b"}, {"$ref": "#/" + "x" * 600}, {"title": 1}, {"$ref": "#/default", "default": {"required": [1]}}, {"$ref": "#/enum/0", "enum": [{"pattern": 7}]}, {"$ref": "#/const", "const": {"$ref": 5}}, {"$ref": "#/allOf/x", "allOf": [{}]}]
SENTENCES = ["The parcel was sent on Monday and should be with you in two days.", "Das Paket wurde am Montag verschickt und sollte in zwei Tagen bei Ihnen sein.", "Le colis est parti lundi et vous devriez le recevoir dans deux jours.", "El paquete se envió el lunes y debería llegar en dos días.", "La pakettet var sendt",
             "\u041f\u043e\u0441\u044b\u043b\u043a\u0430 \u0431\u044b\u043b\u0430 \u043e\u0442\u043f\u0440\u0430\u0432\u043b\u0435\u043d\u0430 \u0432 \u043f\u043e\u043d\u0435\u0434\u0435\u043b\u044c\u043d\u0438\u043a \u0438 \u0431\u0443\u0434\u0435\u0442 \u0443 \u0432\u0430\u0441.", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c", "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\uc548\ub155 \uc138\uacc4", "\u0645\u0631\u062d\u0628\u0627", "\u03ba\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
             "ok", "", "It costs 1,000.50 or 1.5. Then 7! \u00dc\u00c9 \u0130 \U0001f600 x", "a" * 70 + " 1" + ".1" * 40, b"\xff\xfe the \xe2\x82"]


def rules(seed, dump):
    """Rules of evaluations with answers; what was retrieved beside answers; questions for judges and what they say."""
    def both(rule, text):
        return dump(rule).encode() + b"\0" + (text if isinstance(text, bytes) else text.encode())

    def rule(kind, **more):
        return {"name": "r", "kind": kind, **more}

    seed("rule", *[both(rule("json_schema", schema=s), t) for s, texts in SCHEMAS for t in texts], *[both(rule("json_schema", schema=s), "{}") for s in NO_SCHEMAS], both(rule("json_schema"), "{}"))
    for s in SENTENCES:
        seed("rule", both(rule("language", languages=["en", "ru"]), s), both(rule("length", unit="words", min=2, max=9), s))
    seed("rule", *[both(rule("regex", pattern=p, **more), t) for p, t in (("^Dear .*,$", "Dear Ann,"), ("^(a+)+(b+)+$", "a" * 40 + "b" * 40 + "c"), ("\u00e9+", "\u00c9"), ("(*UTF)x|(?R)y", "xy"), ("x", b"\xff"), ("(?C1)a\\Kb", "ab\0ab")) for more in ({}, {"expect": "no_match"}, {"ignore_case": True})],
         *[both(rule("regex", **m), "x") for m in ({"pattern": "("}, {"pattern": "\\C"}, {}, {"pattern": 1}, {"pattern": "a", "expect": "x"}, {"pattern": "a", "x": 1})],
         *[both(rule("length", **m), "gr\u00fc\u00dfe") for m in ({"max": 5}, {"min": 5, "max": 5}, {"unit": "tokens", "max": 2}, {"unit": "lines", "max": 1}, {}, {"min": 3, "max": 2}, {"min": -1}, {"max": 1048577})],
         *[both(rule("language", **m), "x") for m in ({}, {"languages": []}, {"languages": ["xx"]}, {"languages": "en"}, {"languages": [1]})], both(rule("tone"), "x"), both({"name": "A b", "kind": "length"}, "x"), both({"kind": "length"}, "x"), both([], "x"), b"", b"{}")
    text = "The warranty lasts 24 months. Batteries are covered for 6.5 months."
    passages = [{"id": "a", "text": text, "score": 0.9}, {"text": "Returns take 30 days.", "score": -2}]
    answers = [text, "The warranty lasts 24 months. It covers floods.", "Batteries: 6.5 months, covered 7", "It is the.", "", "\u4e16\u754c\u3002 x"]
    seed("grounded", *[bytes([how]) + both({"passages": passages, "query": "q"}, a) for how in (152, 0, 254) for a in answers],
         *[b"\x98" + dump(v).encode() + b"\0" + text.encode() for v in ({"passages": []}, {"passages": {}}, {}, [], None, 1, {"passages": [1]}, {"passages": [{"text": ""}]}, {"passages": [{"text": "x", "score": "1"}]}, {"passages": [{"text": "x", "score": None}]}, {"passages": [{"text": "x"}] * 65},
                                                                        {"passages": [{"text": "x", "score": 1e308}, {"text": "y", "score": -1e308}, {"text": "z", "score": 1e308}]}, {"passages": [{"text": "word " * 90}]})], b"\0", b"")
    said = ['{"score":4}', ' {"score": 1}\n', '{"score":9}', '{"score":"4"}', '{"score":4.0}', '{"score":4,"x":1}', '{"score":4,"score":5}', "4", "[4]", "", '```{"score":4}```', '{"score":-1}', '{"score":1e99}']
    seed("judge", *["\1\5" + s for s in said], *["\0\25" + dump({"choices": [{"message": {"content": s}}]}) for s in said[:3]], *["\0\5" + dump(v) for v in ({}, {"choices": []}, {"choices": [{}]}, {"choices": [{"message": {"content": None}}]}, {"error": {"code": "x"}})], "\0\5<html>",
         *[bytes([2, 20, times]) + both(asked, t) for times in (0, 60, 255) for asked, t in (({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]}, "A\"}"), ({"messages": [{"role": "system", "content": "x"}]}, "\u00e4"), ({"prompt": ["p", "q"]}, "\u20ac\u20ac\u20acx"), ({"prompt": [[1, 2]]}, "\U0001f600a"), ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "x" * 63), ({"messages": 1}, "\u20ac"))], b"\2\0\0[", b"\2")


def parts(of):
    """Of bodies: feedback, and the parts of aliases one by one (6) and in an alias (0)."""
    id = "0191d8a0-0000-7000-8000-000000000001"
    of(5, *[{"request_id": id, "rating": r} for r in ("up", "down", 0.5, -1, 1, 2, "good", None, True, 1e-320)], {"request_id": id, "rating": 1, "label": "wrong", "comment": "no\n\u00e4"}, {"request_id": id}, {"rating": 1}, {"request_id": "x", "rating": 1}, {"request_id": id.upper(), "rating": 0}, {"request_id": id, "rating": 1, "label": "x" * 65}, {"request_id": id, "rating": 0, "comment": 1}, {})
    rule = {"name": "short", "kind": "length", "max": 100}
    judge = {"model": "m", "rubric": "Is it right?", "sample": 0.1, "scale": {"min": 0, "max": 9}, "min": 0.6}
    evaluations = [{"rules": [rule, {"name": "json", "kind": "json_schema", "schema": {"type": "object"}}], "sample": 0.5, "groundedness": {"support": 0.7, "ngram": 2, "min": 0.1}, "judge": judge, "alert": {"rule": "short", "below": 0.5, "answers": 20}}, {"groundedness": {}, "alert": {"below": 0}}, {"judge": {"model": "m", "scale": None}, "alert": {"rule": "judge", "below": 1}},
                   {"groundedness": {}, "alert": {"rule": "groundedness.ngrams", "below": 0.5}}, {"groundedness": {}, "alert": {"rule": "tone", "below": 0.5}}, {"groundedness": {}, "alert": {"rule": "groundedness.x", "below": 0.5}}, {"groundedness": {}, "alert": {}}, {"groundedness": {}, "alert": 1}, {"groundedness": {"x": 1}}, {"groundedness": {"ngram": 6}}, {"groundedness": []}, {"judge": {}}, {"judge": []}, {"judge": {**judge, "scale": {"min": 5, "max": 5}}},
                   {"judge": {**judge, "scale": 1}}, {"judge": {**judge, "scale": {"x": 1}}}, {"rules": {}}, {"rules": [rule, rule]}, {"rules": [1]}, {"rules": [{**rule, "name": "overall"}]}, {"rules": [{**rule, "name": "retrieval.x"}]}, {"rules": [{**rule, "x": 1}]}, {"rules": [{**rule, "y" * 90: 1}]}, {"rules": [rule] * 17}, {"sample": 0.5}, {"sample": 2, "rules": [rule]}, {"x": 1}, [], {}, None, {"rules": [], "judge": None}]
    routings = [{"probe_tokens": 0, "exploration": 0.25, "error_cost": 10, "cost_ratio": 0.1, "arm": "small", "learn": False}, {"arm": "auto"}, {"arm": "x"}, {"arm": "\u00e4\u00e4\u00e4\u00e4"}, {"arm": 1}, {"probe_tokens": 257}, {"error_cost": 0}, {"x": 1}, {"exploration": 1e-7, "error_cost": 0.01}, [], {}, {"learn": 1}]
    captures = [{"sample": 0.25, "expires_days": 7, "max_rows": 100, "top_logprobs": 5, "redact": ["email", "secret"], "patterns": [{"name": "order", "regex": "A[0-9]{6}"}]}, {"sample": 1}, {"redact": []}, {"redact": ["x"]}, {"redact": [1]}, {"redact": 1}, {"redact": ["email"] * 17}, {"patterns": [{"name": "a", "regex": "("}]}, {"patterns": [{"name": "A", "regex": "x"}]}, {"patterns": [{"name": "a"}]},
                {"patterns": [{"name": "a", "regex": "x", "y": 1}]}, {"patterns": [1]}, {"patterns": 1}, {"patterns": [{"name": "a", "regex": "x"}] * 9}, {"sample": 0}, {"expires_days": 366}, {"max_rows": 0}, {"top_logprobs": 21}, {"x": 1}, [], {}, {"redact": None, "patterns": None}]
    of(6, *[{"evaluation": v} for v in evaluations], *[{"routing": v} for v in routings], *[{"capture": v} for v in captures], {"prompt_policy": {"truncate": {"max_tokens": 16}}, "evaluation": evaluations[0], "routing": routings[0], "capture": captures[0]})
    base = {"targets": [{"base": "smol"}]}
    of(0, {"targets": [{"base": "a"}, {"base": "b"}], "policy": "fallback", "evaluation": evaluations[0], "routing": routings[0], "capture": captures[0]}, {**base, "routing": routings[0]}, {**base, "evaluation": evaluations[0]}, {**base, "capture": captures[0]}, {**base, "evaluation": {"x": 1}}, {**base, "capture": {"x": 1}})


def bodies(seed, dump):
    def of(which, *all_of, change=0):
        seed("bodies", *[bytes([which | change << 3]) + dump(v).encode() for v in all_of])

    sql, base = {"adapter": "sql", "version": 3, "weight": 9}, {"base": "smol"}
    of(0, {"targets": [sql, base], "policy": "weighted", "sticky": "user", "system_prefix": "Be brief."}, {"targets": [base]}, {"targets": [base], "policy": "fallback"}, {"targets": [sql, sql]}, {"targets": [{"adapter": "a", "weight": 0}]}, {"targets": [{"adapter": "a", "weight": 0}], "policy": "fallback"},
       {"targets": [{"adapter": "a", "base": "b"}]}, {"targets": [{"base": "b", "version": 1}]}, {"targets": [{}]}, {"targets": [1]}, {"targets": []}, {"targets": {}}, {}, {"targets": [base], "x": 1}, {"targets": [{"base": "b", "x": 1}]}, {"targets": [{"adapter": "a", "version": 0}]}, {"targets": [{"adapter": "a" * 80}]},
       {"targets": [{"base": "b", "weight": "1"}]}, {"targets": [base], "policy": "x"}, {"targets": [base], "sticky": 1}, {"targets": [base], "system_prefix": "x" * 4000}, {"targets": [base], "prompt_policy": {"truncate": {"max_tokens": 16}}}, {"targets": [base], "prompt_policy": {"x": 1}}, {"targets": [{"base": str(i)} for i in range(9)]},
       {"targets": [{"base": str(i)} for i in range(40)]}, {"targets": [base], "policy": None, "prompt_policy": None})
    of(1, {"requests_per_minute": 60, "tokens_per_day": 1000, "tokens_per_day_soft": 900, "cost_per_month": 0, "cost_per_month_soft": 0}, {"tokens_per_day": 5, "tokens_per_day_soft": 6}, {"tokens_per_month_soft": 7}, {"adapters": None}, {"x": 1}, {"requests_per_minute_soft": 1}, {"concurrent_requests": -1},
       {"cost_per_day": 10 ** 15}, {"cost_per_day": 10 ** 15 + 1}, {"cost_per_day": 1.5}, {"adapter_bytes": "1"}, {"adapter_rank": 64, "adapters_pinned": 2}, {})
    price = {"base": "smol", "prompt_nano": 100, "output_nano": 300}
    of(2, price, {**price, "cached_nano": 10, "tenant": "acme", "adapter": "sql", "valid_from": 1800000000}, {**price, "adapter": "sql"}, {**price, "base": ""}, {**price, "base": "x" * 128}, {"base": "b", "prompt_nano": 1}, {"prompt_nano": 1}, {**price, "prompt_nano": -1}, {**price, "cached_nano": 1 << 62}, {**price, "valid_from": 253402300800}, {**price, "tenant": 1})
    hook = {"name": "bills", "url": "https://example.org/in?token=x"}
    for change in (0, 1):
        of(3, hook, {**hook, "usage": False, "events": ["version.", "budget.hard", "*"], "authorization": "Bearer x", "tenant": "acme"}, {"name": "a"}, {"url": "https://example.org"}, {}, {**hook, "name": "A b"}, {**hook, "url": "http://example.org"}, {**hook, "url": "http://127.0.0.1:9/x"}, {**hook, "url": "HTTP://hooks.lan:8443"}, {**hook, "url": "ftp://x"},
           {**hook, "events": []}, {**hook, "events": [""]}, {**hook, "events": ["a,b"]}, {**hook, "events": ["x" * 65]}, {**hook, "events": [1]}, {**hook, "events": "x"}, {**hook, "events": ["x" * 64] * 16}, {**hook, "events": ["x"] * 17}, {**hook, "authorization": None}, {**hook, "authorization": "a\r\nX: y"}, {**hook, "authorization": "\u00fc"}, {**hook, "usage": 1}, change=change)
    of(4, {"start_time": 1799990000}, {"start_time": 1799990000, "end_time": 1799999999}, {"start_time": 1800000001}, {"start_time": 5, "end_time": 5}, {"after_event": 7}, {"after_event": 7, "start_time": 1}, {"after_event": 7, "end_time": 9}, {}, {"start_time": -1}, {"start_time": "1"}, {"after_event": 1 << 62}, {"start_time": 0, "end_time": 253402300799})
    parts(of)
