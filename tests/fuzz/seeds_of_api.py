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
