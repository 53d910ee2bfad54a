"""Streams: order of chunks, usage, counting comments, cancelling; a stream and a whole answer say the same."""

import json
import time

import httpx
import pytest

from engine_process import sse

CHAT = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 20, "temperature": 0}
ID = "01939f2c-7b1a-7000-8000-{:012d}"


def raw(engine, body, headers=None, path="/v1/chat/completions"):
    with engine.http.stream("POST", path, json={"model": engine.base, "stream": True, **body}, headers=headers or {}) as r:
        assert r.status_code == 200, r.read()
        assert r.headers["Content-Type"].startswith("text/event-stream")
        return list(sse(r))


def objects(events):
    data = [d for kind, d in events if kind == "data"]
    assert data[-1] == "[DONE]"
    return [json.loads(d) for d in data[:-1]]


def test_a_chat_stream_equals_the_whole_answer(client, base):
    whole = client.chat.completions.create(model=base, **CHAT)
    chunks = list(client.chat.completions.create(model=base, stream=True, **CHAT))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({c.id for c in chunks}) == 1 and all(c.usage is None for c in chunks)
    assert all(c.object == "chat.completion.chunk" and c.model == base for c in chunks)


def test_a_completion_stream_equals_the_whole_answer(client, base):
    ask = dict(model=base, prompt="Roses are red,", max_tokens=20, temperature=0)
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(stream=True, **ask))
    assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


def test_streams_of_several_prompts_are_told_apart_by_index(client, base):
    ask = dict(model=base, prompt=["Roses are red,", "Two plus two is"], max_tokens=10, temperature=0)
    whole = client.completions.create(**ask)
    text = ["", ""]
    ends = []
    for c in client.completions.create(stream=True, echo=True, **ask):
        text[c.choices[0].index] += c.choices[0].text
        ends += [c.choices[0].index] * bool(c.choices[0].finish_reason)
    assert text == [p + c.text for p, c in zip(ask["prompt"], whole.choices)] and sorted(ends) == [0, 1]


def test_usage_comes_last_when_asked_for(client, base):
    whole = client.chat.completions.create(model=base, **CHAT)
    chunks = list(client.chat.completions.create(model=base, stream=True, stream_options={"include_usage": True}, **CHAT))
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])


def test_usage_grows_in_every_chunk_when_it_is_continuous(engine):
    events = raw(engine, {**CHAT, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
    counts = [o["usage"]["completion_tokens"] for o in objects(events)]
    assert counts == sorted(counts) and counts[0] <= 1 and counts[-1] == 20


@pytest.mark.parametrize("path,body", [("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2}),
                                       ("/v1/completions", {"prompt": "Roses are", "max_tokens": 12, "temperature": 0, "logprobs": 2})])
def test_logprobs_of_a_stream_are_those_of_the_whole_answer(engine, path, body):
    whole = engine.http.post(path, json={"model": engine.base, **body}).json()["choices"][0]["logprobs"]
    joined = {}
    for o in objects(raw(engine, body, path=path)):
        for key, part in ((o["choices"][0]["logprobs"] or {}) if o["choices"] else {}).items():
            joined.setdefault(key, [])
            joined[key] += part or []
    assert joined == {k: v or [] for k, v in whole.items()}


def test_counting_comments_go_before_what_they_count(engine):
    events = raw(engine, CHAT, {"X-Weft-Request-Id": ID.format(1)})
    usage = engine.http.post("/v1/chat/completions", json={"model": engine.base, **CHAT}).json()["usage"]
    assert events[0][0] == "comment" and events[-1] == ("data", "[DONE]")
    counts, seen_text = [], False
    for kind, text in events:
        if kind == "comment" and text.startswith("weft-time "):
            continue
        if kind == "comment":
            word, prompt, cached, output = text.split(" ")
            assert word == "weft" and int(prompt) == usage["prompt_tokens"] and int(cached) >= 0
            counts.append(int(output))
        elif text != "[DONE]" and json.loads(text)["choices"][0]["delta"].get("content"):
            seen_text = True
            assert counts[-1] >= 1
    assert seen_text and counts == sorted(counts) and counts[-1] == usage["completion_tokens"]


@pytest.mark.parametrize("body", [CHAT, {**CHAT, "stop": ["zzzz", "qqq"], "n": 2, "seed": 1}, {**CHAT, "max_tokens": 1}])
def test_a_stream_that_breaks_off_anywhere_was_counted_no_higher_than_what_came(engine, body):
    """The last comment before each chunk, against the tokens that the chunks up to it bring: an end token comes with the last one."""
    events = raw(engine, {**body, "return_token_ids": True}, {"X-Weft-Request-Id": ID.format(6)})
    count = came = 0
    for kind, text in events:
        if kind == "comment" and text.startswith("weft "):
            count = int(text.split(" ")[3])
        elif kind == "data" and text != "[DONE]":
            choice = json.loads(text)["choices"][0]
            came += len(choice.get("token_ids") or [])
            assert count <= came, (count, came, text)
    assert count == came > 0


def test_where_the_time_went_is_told_with_the_first_token_and_at_the_end(engine):
    events = raw(engine, CHAT, {"X-Weft-Request-Id": ID.format(3)})
    times = [[int(n) for n in text.split(" ")[1:]] for kind, text in events if kind == "comment" and text.startswith("weft-time ")]
    (queue, load, prefill, decode, paused), last = times
    assert len(times) == 2 and decode == 0 < prefill and last[:3] == [queue, load, prefill] and last[3] > 0 and last[4] >= paused
    assert [i for i, (kind, text) in enumerate(events) if text.startswith("weft-time")] == [1, len(events) - 2]
    whole = engine.http.post("/v1/chat/completions", json={"model": engine.base, **CHAT}, headers={"X-Weft-Request-Id": ID.format(4)})
    said = [int(n) for n in whole.headers["x-weft-time"].split(" ")]
    assert list(engine.receipt(ID.format(4)).json()["times"].values()) == said and said[2] > 0 and said[3] > 0
    assert "x-weft-time" not in engine.http.post("/v1/chat/completions", json={"model": engine.base, **CHAT}).headers


def test_the_log_names_the_trace_and_the_gateways_request(start):
    e = start("--log-level", "debug", unix=True)
    for parent in ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-broken"):
        r = e.http.post("/v1/chat/completions", json={"model": e.base, **CHAT}, headers={"X-Weft-Request-Id": ID.format(5), "traceparent": parent})
        assert r.status_code == 200
    log = e.log.read_text()
    assert f"request={ID.format(5)} trace=4bf92f3577b34da6a3ce929d0e0e4736 " in log and f'request={ID.format(5)} trace="" ' in log
    assert "broken" not in log and "colours" not in log


def test_without_a_request_id_there_are_no_comments(engine):
    assert {kind for kind, _ in raw(engine, CHAT)} == {"data"}


def test_the_model_that_the_gateway_names_is_shown(engine):
    head = {"X-Weft-Request-Id": ID.format(2), "X-Weft-Model": "acme/support@3"}
    assert {o["model"] for o in objects(raw(engine, CHAT, head))} == {"acme/support@3"}
    r = engine.http.post("/v1/chat/completions", json={"model": engine.base, **CHAT}, headers=head)
    assert r.json()["model"] == "acme/support@3"


def test_hot_sampling_never_splits_a_character(engine):
    """At temperature 2 byte tokens are frequent; the stream joined must be the whole answer with the same seed."""
    for seed in range(4):
        body = {"prompt": "😀 Ünïcödé 漢字:", "max_tokens": 60, "temperature": 2, "seed": seed, "ignore_eos": True}
        whole = engine.http.post("/v1/completions", json={"model": engine.base, **body}).json()["choices"][0]["text"]
        parts = [o["choices"][0]["text"] for o in objects(raw(engine, body, path="/v1/completions"))]
        assert "".join(parts) == whole


def test_a_stop_string_in_a_stream_is_never_shown_in_part(engine):
    body = {"prompt": "The capital of France is", "max_tokens": 20, "temperature": 0, "stop": ["ris."]}
    parts = [o["choices"][0] for o in objects(raw(engine, body, path="/v1/completions"))]
    assert "".join(p["text"] for p in parts) == " Pa" and parts[-1]["finish_reason"] == "stop"


def test_receipts_tell_what_became_of_a_request(engine):
    raw(engine, CHAT, {"X-Weft-Request-Id": ID.format(3)})
    r = engine.receipt(ID.format(3)).json()
    assert (r["state"], r["output_tokens"], r["finish_reason"]) == ("completed", 20, "length") and r["prompt_tokens"] > 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_pages_and_pins(engine, adapters, stream):
    rid = ID.format(10 + stream)
    body = {"model": adapters["pirate"], "prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": stream}
    with engine.client() as c:
        if stream:
            with c.stream("POST", "/v1/completions", json=body, headers={"X-Weft-Request-Id": rid}) as r:
                chunks = r.iter_bytes()  # kept: dropping it would close the connection
                next(chunks)
        else:
            with pytest.raises(httpx.ReadTimeout):
                c.post("/v1/completions", json=body, headers={"X-Weft-Request-Id": rid}, timeout=0.5)
    receipt = engine.wait_receipt(rid, "cancelled")
    assert 0 < receipt["output_tokens"] < 4000 and receipt["finish_reason"] == "cancelled"
    engine.assert_idle()


def test_a_cut_is_noticed_soon(engine):
    body = {"model": engine.base, "prompt": "Once", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with engine.client() as c, c.stream("POST", "/v1/completions", json=body) as r:
        chunks = r.iter_bytes()  # kept: dropping it would close the connection
        next(chunks)
    begin = time.monotonic()
    engine.assert_idle()
    assert time.monotonic() - begin < 1


def test_a_reader_that_does_not_read_is_cut(engine):
    """Its stream may lag by a bounded number of bytes; then the request is ended, not the process."""
    import socket
    host, port = engine.url.removeprefix("http://").split(":")
    rid = ID.format(20)
    body = json.dumps({"model": engine.base, "prompt": ["Once"] * 32, "max_tokens": 1000, "ignore_eos": True, "stream": True,
                       "logprobs": 20}).encode()
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((host, int(port)))
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nX-Weft-Request-Id: %s\r\nContent-Length: %d\r\n\r\n%s"
              % (engine.token.encode(), rid.encode(), len(body), body))
    end = time.monotonic() + 60
    while time.monotonic() < end and engine.receipt(rid).json().get("state") in (None, "running"):
        time.sleep(0.2)
    r = engine.receipt(rid).json()
    s.close()
    assert r["state"] == "cancelled" and r["output_tokens"] < 32000
