"""Seeds of what becomes of answers beside being served (make_seeds.py): log-probabilities taken out, transcripts, capture's policies with texts to redact."""

ENTRY = {"token": "}\"", "logprob": -0.5, "bytes": [125, 34], "top_logprobs": [{"token": "a", "logprob": -1.5, "bytes": None}]}


def strips(seed, dump):
    def of(*choices, **more):
        return dump({"id": "x", "choices": list(choices), **more})

    fine = [of({"index": 0, "logprobs": v, "text": "\"logprobs\":{}"}, {"logprobs": v}, usage={"logprobs": 1}) for v in (None, {"content": [ENTRY]}, [], "x\\\"}", 0, -1.5e3, True, "\u00fc\u2028")]
    fine += [of(), of(1, None, [{"logprobs": 1}], {"logprobs": {"logprobs": {}}}), of({"delta": {"logprobs": {}}}), dump({"choices": {"logprobs": 1}}), dump({"logprobs": {}, "choices": [{}]}), dump([{"logprobs": 1}]),
             '{ "choices" : [ { "logprobs" : { } , "a" : 1 } , { "logprobs"\t:\r1 } ] }', '{"ch\\u006fices":[{"logprobs":1}]}', '{"choices":[{"logpr\\u006fbs":1}],"logprobs":1}']
    bad = ['{"choices":[{"logprobs":{', '{"choices":[{"logprobs":{}},{"logprobs":}]}', '{"choices":[{"logprobs":1 2}]}', '{"choices":[{"logprobs":1},', '{"choices":[{"logprobs":x"y"}]}', '{"choices":[{"logprobs":1,"logprobs":2}],"choices":[{"logprobs":1}]}',
           '{"choices":[{"logprobs":{]}}', "not JSON", "", "{", "[]"]
    seed("logprobs_strip", *fine, *bad, *["data: " + s + "\n\n" for s in fine + bad[:6]], "data:" + fine[1] + "\n\n", "data:  " + fine[1] + "\n", ": c\n\ndata: [DONE]\n", "data: {\n", "data: {", "data: ",
         ": x\r\ndata: " + fine[1] + "\r\n\r\ndata: " + fine[4] + "\n\ndata: [DONE]\n\n", "event: e\ndata: " + fine[1])


def transcripts(seed, dump):
    def event(v):
        return "data: " + (v if isinstance(v, str) else dump(v)) + "\n\n"

    def delta(index=0, finish=None, logprobs=None, **d):
        return {"id": "x", "choices": [{"index": index, "delta": d, "finish_reason": finish, "logprobs": logprobs}]}

    def call(index=None, **f):
        return {**({} if index is None else {"index": index, "id": f"call_{index}", "type": "function"}), "function": f}

    streams = [[delta(role="assistant", content=""), delta(content="Hel", logprobs={"content": [ENTRY]}), delta(1, content="other"), delta(content="lo \u00fc\U0001f600", logprobs={"content": [ENTRY, {}]}), delta(finish="stop"), {"choices": [], "usage": {}}, "[DONE]"],
               [delta(tool_calls=[call(0, name="f", arguments="")]), delta(tool_calls=[call(0, arguments='{"a"')]), delta(tool_calls=[call(2, name="g", arguments="{}")]), delta(tool_calls=[call(0, arguments=":1}")]), delta(finish="tool_calls"), "[DONE]"],
               [{"choices": [{"index": 0, "text": "a", "logprobs": {"tokens": ["a"]}}]}, {"choices": [{"text": "b", "finish_reason": "length"}]}, "[DONE]"],
               [delta(tool_calls=[call(i, name="f") for i in (-1, 127, 128, 9223372036854775807)]), delta(tool_calls=[1, {}, {"index": "0", "id": 7, "function": 1}, {"function": {"name": 1, "arguments": []}}])],
               [delta(finish="x" * 40), delta(finish="\u00fc" * 20), delta(finish="", content=None), delta(finish=3, content=["a"]), {"choices": [1, {"index": "x", "delta": 2}]}, {"choices": {}}, {}], ["{", "[1]", "", "{}x", {"error": {"code": "engine_failed"}}]]
    for i, s in enumerate(streams):
        text = "".join(event(v) for v in s)
        seed("transcript", *[bytes([how, cut]) + text.encode() for how, cut in ((1, 128), (3, 10), (5, 200), (9, 255))], b"\1\x80" + text.replace("\n", "\r\n").encode(), b"\1\x40" + text.replace("data: ", "data:").encode(), b"\1\0" + text[:-9].encode())
    messages = [{"content": "Hello \u00fc", "role": "assistant"}, {"content": None, "tool_calls": [call(None, name="f", arguments="{\"\u00fc\":1}"), {"id": "c", **call(None, name="g", arguments="")}]}, {"content": 1, "tool_calls": {}}, {}, None]
    for i, m in enumerate(messages):
        for logprobs in (None, {"content": [ENTRY]}, {"content": None}, {"content": []}, {"tokens": []}):
            seed("transcript", bytes([i & 2, 90]) + dump({"choices": [{"index": 1, "message": {"content": "no"}}, {"index": 0, "message": m, "finish_reason": "stop", "logprobs": logprobs}]}).encode())
    seed("transcript", b"\4\x50" + dump({"choices": [{"text": "abc\u00fc", "finish_reason": "length"}]}).encode(), b"\0\0{", b"\0\0[]", b"\0\0", b"\1\0data:\ndata:{}\ndata:  {}\n data:{}\ndata:{}", b"")


def redactions(seed, dump):
    def both(policy, text):
        return dump(policy).encode() + b"\0" + (text if isinstance(text, bytes) else text.encode())

    kinds = ["secret", "email", "card", "ip", "phone"]
    texts = ["Mail a.b+c@example.co.uk now, j\u00fcrgen@b\u00fccher.example", "a@b is none", "card 4111 1111 1111 1111 12/27", "4111-1111-1111-1111 123", "5500005555555559", "room 1 4111111111111111", "411111111111111", "10.1.2.3 and 256.1.1.1 and 1.2.3.4.5", "at 2001:db8::1, ::1, 12:30:45, ::ffff:10.0.0.1",
             "call +47 22 33 41 30 or (030) 123-4567 or 0047 2233 4130!", "of 2026-11-23, 23.11.2026, 12 pieces at 3.50", "sk-abcdefghijklmnop1234 AKIAIOSFODNN7EXAMPLE AKIA1234567890123456", "Authorization: Bearer abcdefghijklmnopqrst", "eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "token=hunter22&x=1 password: [email]",
             "token=::1 password=a@b.cc", "1.2.3.4sk-abcdefghijklmnopqrst", "dGhpcyBpcyBub3QgYSB3b3JkIDEyMzQ1Njc4OQ==", "an-ordinary-hyphenated-chain-of-words-in-a-row", "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- after", "+4912345678", b"\xff\xfe", "\u00fc" * 50, "", "a" * 60 + "!",
             "1.1.1.1 " * 300, dump({"model": "m", "logprobs": False}), dump({"logprobs": True, "top_logprobs": 2}), dump({"logprobs": None})]
    patterns = ["ORD-\\d+", "(a+)+$", "x*", "a\\Ka*", "(?<=a)|b", "\\p{L}+", "^", "$", ".", "(?s).*", "[email]", "(?<n>a)(?&n)", "(*LIMIT_MATCH=1)a", "(?=a\\K)", "a\\K(?<=.)", "\\R", "\\X"]
    bad = ["(", "\\C", "a{9", "[", "(?P<", "(*NO_UTF_CHECK)a", "x" * 257, "", "(?C1)a", "(?:(?:a{1000}){1000}){1000}", "(*UTF)(*UCP)a"]
    seed("redact", *[both({"sample": 1, "top_logprobs": 5}, t) for t in texts], *[both({"redact": [k]}, " ".join(t for t in texts[:19] if isinstance(t, str))) for k in kinds],
         *[both({"redact": [], "patterns": [{"name": "p", "regex": r}]}, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa ORD-17 b\u00fc\r\n") for r in patterns + bad])
    pattern = {"name": "p", "regex": "a"}
    more = [None, {}, [], {"x": 1}, {"sample": 0}, {"sample": 0.0001}, {"sample": "1"}, {"expires_days": 366}, {"expires_days": 365, "max_rows": 20000}, {"max_rows": 0}, {"top_logprobs": 21}, {"redact": "email"}, {"redact": ["name"]}, {"redact": [1]}, {"redact": ["secret"] * 2},
            {"redact": ["secret"] * 12}, {"redact": ["email"] * 17}, {"redact": None, "patterns": None}, {"patterns": {}}, {"patterns": [pattern] * 8}, {"patterns": [pattern] * 9}, {"patterns": [1]}, {"patterns": [{"name": "P", "regex": "a"}]}, {"patterns": [{"name": "p"}]},
            {"patterns": [{**pattern, "x": 1}]}, {"redact": kinds, "patterns": [{"name": "email", "regex": "a"}]}]
    seed("redact", *[both(p, "a 10.1.2.3 a@b.cc") for p in more], b"{", b"")
