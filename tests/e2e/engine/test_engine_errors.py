"""Every refusal is OpenAI's error object with the right status, and OpenAI's client makes the right exception of it."""

import json

import openai
import pytest

CHAT = [{"role": "user", "content": "hi"}]


def error_of(response):
    e = response.json()["error"]
    assert set(e) == {"message", "type", "param", "code"} and e["message"]
    return e


REFUSED = [
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 129}, "n", "invalid_value"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_value"),
    ({"presence_penalty": -3}, "presence_penalty", "invalid_value"),
    ({"logit_bias": {"1": 500}}, "logit_bias", "invalid_value"),
    ({"response_format": {"type": "xml"}}, "response_format", "unsupported_parameter"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
    ({"temperature": 3}, "temperature", "invalid_value"),
    ({"top_p": -1}, "top_p", "invalid_value"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value"),
    ({"stop": ["a"] * 5}, "stop", "invalid_value"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
    ({"messages": []}, "messages", "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages.0", "unsupported_parameter"),
    ({"extra_body": {"min_tokens": 50}, "max_tokens": 5}, "min_tokens", "invalid_value"),
    ({"extra_body": {"repetition_penalty": -1.3}}, "repetition_penalty", "invalid_value"),
    ({"extra_body": {"guided_grammar": "root ::= x"}}, "guided_grammar", "unsupported_parameter"),
]


@pytest.mark.parametrize("fields,param,code", REFUSED, ids=[f"{p}-{i}" for i, (_, p, _c) in enumerate(REFUSED)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_field_that_is_wrong_or_not_served_is_named(client, base, fields, param, code, stream):
    with pytest.raises(openai.BadRequestError) as why:
        client.chat.completions.create(**{"model": base, "messages": CHAT, "stream": stream, **fields})
    assert why.value.param == param and why.value.code == code and why.value.type == "invalid_request_error"


def test_more_than_the_context_is_refused_with_the_numbers(client, base):
    limit = client.models.retrieve(base).max_model_len
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {limit}") as why:
        client.chat.completions.create(model=base, messages=CHAT, max_tokens=limit)
    assert why.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="maximum context length") as why:
        client.completions.create(model=base, prompt="word " * (limit + 10))
    assert why.value.code == "context_length_exceeded" and why.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as why:
        client.completions.create(model=base, prompt=[5] * (limit + 1))
    assert why.value.code == "context_length_exceeded"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as why:
        client.chat.completions.create(model="gpt-4o", messages=CHAT)
    assert why.value.code == "model_not_found" and why.value.param == "model"


def test_an_unknown_digest_is_an_adapter_that_is_not_loaded(client):
    with pytest.raises(openai.NotFoundError) as why:
        client.chat.completions.create(model="0" * 64, messages=CHAT)
    assert why.value.code == "adapter_not_loaded"


def test_a_wrong_or_missing_token_is_refused_everywhere_but_on_health(engine):
    with engine.openai(token="wrong") as c, pytest.raises(openai.AuthenticationError) as why:
        c.models.list()
    assert why.value.code == "invalid_api_key"
    with engine.client(token=False) as c:
        assert c.get("/health").status_code == 200
        for method, path in [("GET", "/ready"), ("GET", "/metrics"), ("GET", "/v1/models"), ("GET", "/weft/v1/state"),
                             ("GET", "/weft/v1/receipts/x"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions"),
                             ("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"), ("POST", "/weft/v1/selftest"),
                             ("POST", "/weft/v1/tokenize")]:
            r = c.request(method, path, json={} if method == "POST" else None)
            assert r.status_code == 401 and error_of(r)["code"] == "invalid_api_key", path


BODIES = [
    (b"", "invalid_json"), (b"{", "invalid_json"), (b"[]", "invalid_json"), (b"nonsense", "invalid_json"),
    (b'{"model":"m","model":"m"}', "invalid_json"), (b'{"prompt":"x"}', "missing_required_parameter"),
    (b'{"model":"\xff"}', "invalid_json"), (b"[" * 100000, "invalid_json"),
    (b'{"model":1,"prompt":"x"}', "invalid_value"),
]


@pytest.mark.parametrize("body,code", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("path", ["/v1/completions", "/weft/v1/tokenize"])
def test_a_body_that_is_not_a_request_is_refused(engine, path, body, code):
    r = engine.http.post(path, content=body)
    assert r.status_code == 400 and error_of(r)["code"] == code


def test_too_large_a_body_is_refused(engine, base):
    body = json.dumps({"model": base, "prompt": "x" * (1 << 20)})
    r = engine.http.post("/v1/completions", content=body)
    assert r.status_code == 413 and error_of(r)["code"] == "request_too_large"


def test_unknown_routes_and_methods(engine):
    r = engine.http.get("/v1/nothing")
    assert r.status_code == 404 and error_of(r)["code"] == "not_found"
    r = engine.http.get("/v1/completions")
    assert r.status_code == 405 and error_of(r)["code"] == "method_not_allowed"


@pytest.mark.parametrize("name,value", [("X-Weft-Weight", "0"), ("X-Weft-Weight", "nan"), ("X-Weft-Weight", "1x"),
                                        ("X-Weft-Weight", "0x2"), ("X-Weft-Weight", "1e1"), ("X-Weft-Weight", "inf"), ("X-Weft-Weight", "1.2.3"),
                                        ("X-Weft-Deadline-Ms", "-5"), ("X-Weft-Deadline-Ms", "0x10"), ("X-Weft-Deadline-Ms", "1e3"), ("X-Weft-Deadline-Ms", "99.5"),
                                        ("X-Weft-Deadline-Ms", "+99"), ("X-Weft-Deadline-Ms", "86400001"), ("X-Weft-Tenant", "x" * 600), ("X-Weft-Request-Id", "x" * 64), ("X-Weft-Tenant", "a b"),
                                        ("X-Weft-Model", "m" * 256)])
def test_a_header_that_is_wrong_is_named(engine, base, name, value):
    r = engine.http.post("/v1/completions", json={"model": base, "prompt": "x"}, headers={name: value})
    assert r.status_code == 400 and error_of(r)["param"] == name


@pytest.mark.parametrize("name,values", [("X-Weft-Class", ("batch", "batch")), ("X-Weft-Class", ("normal", "interactive")), ("X-Weft-Class", ("normal", "")),
                                         ("X-Weft-Deadline-Ms", ("60000", "60000")), ("X-Weft-Weight", ("1", "2")), ("X-Weft-Tenant", ("a", "b"))])
def test_a_header_that_comes_twice_is_refused(engine, base, name, values):
    r = engine.http.post("/v1/completions", json={"model": base, "prompt": "x"}, headers=[(name, v) for v in values])
    assert r.status_code == 400 and error_of(r)["param"] == name and "twice" in error_of(r)["message"]


def test_an_unknown_receipt_is_not_found(engine):
    for name in ("nothing", "x" * 500):
        r = engine.receipt(name)
        assert r.status_code == 404 and error_of(r)["code"] == "not_found"


def test_a_full_queue_answers_503_with_retry_after(start):
    e = start("--max-running", "1", "--max-waiting", "1")
    ask = {"model": e.base, "prompt": "Once", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    with e.client() as c, c.stream("POST", "/v1/completions", json=ask) as one:
        chunks = one.iter_bytes()  # kept: dropping it would close the connection
        next(chunks)
        with e.client() as d, d.stream("POST", "/v1/completions", json={**ask, "prompt": ["a", "b", "c"]}) as many:
            assert many.status_code == 503
            assert error_of_stream(many)["code"] == "queue_full" and many.headers["Retry-After"]
    e.assert_idle()


def error_of_stream(response):
    response.read()
    return error_of(response)


def test_a_deadline_that_cannot_be_met_answers_503(start):
    e = start("--max-running", "1")
    ask = {"model": e.base, "prompt": "Once", "max_tokens": 4000, "stream": True, "ignore_eos": True}
    with e.client() as c, c.stream("POST", "/v1/completions", json=ask) as one:
        chunks = one.iter_bytes()  # kept: dropping it would close the connection
        next(chunks)
        r = e.http.post("/v1/completions", json={"model": e.base, "prompt": "x"}, headers={"X-Weft-Deadline-Ms": "50"})
        assert r.status_code == 503 and error_of(r)["code"] == "deadline" and r.headers["Retry-After"]
    e.assert_idle()


def test_a_gateway_that_another_one_took_over_from_is_refused(engine, base):
    """X-Weft-Takeover (ENGINE_API.md): who comes with a smaller number than was heard of the same books must not serve any more."""
    def ask(takeover):
        with engine.client() as c:
            return c.post("/v1/chat/completions", json={"model": base, "messages": CHAT, "max_tokens": 1}, headers={"X-Weft-Takeover": takeover})

    mine, other = "ab" * 16, "cd" * 16
    for takeover, status in ((f"{mine}-0", 200), (f"{mine}-2", 200), (f"{mine}-1", 409), (f"{mine}-0", 409), (f"{other}-0", 200), (f"{mine}-2", 200)):
        r = ask(takeover)
        assert r.status_code == status, r.text
        if status == 409:
            assert "taken over" in error_of(r)["message"]
    for bad in (mine, f"{mine}-", f"{mine}-x", f"{mine[:-1]}-1", f"{mine.upper()}-1", f"{mine}-1234567890", f"{mine}--1"):
        r = ask(bad)
        assert r.status_code == 400 and error_of(r)["param"] == "X-Weft-Takeover", bad
