"""The exchange with the engine, on the fake one: what it is sent, what the client gets, what is billed, and every way to fail."""

import json
import socket
import threading
import time

import httpx
import pytest

from gateway_process import BASE, events, until

TOKEN = 'tok{}   '


def stream(tenant, text, model=BASE, **more):
    """Reads a whole stream: (response, raw lines)."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": text}], **more}
    with tenant.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
        return r, list(r.iter_lines()) if r.status_code == 200 else r.read().decode().split("\n")


def asked(gateway, request_id):
    found = [x for x in gateway.fake_log()["log"] if x["headers"].get("x-weft-request-id") == request_id]
    assert found, f"the engine never saw {request_id}"
    return found


# --- what the engine is sent ---

def test_the_engine_sees_the_digest_the_tags_and_the_name_that_the_client_used(fake, acme):
    r = acme.ask("hello", model="sql")
    assert r.status_code == 200 and r.json()["model"] == "sql"
    seen = asked(fake, r.headers["x-request-id"])[0]
    digest = fake.blobs()
    assert seen["body"]["model"] in digest and len(seen["body"]["model"]) == 64
    assert seen["headers"]["x-weft-model"] == "sql"
    assert len(seen["headers"]["x-weft-tenant"]) == 32 and "acme" not in seen["headers"]["x-weft-tenant"]
    assert float(seen["headers"]["x-weft-weight"]) == 1
    assert len(seen["body"]["cache_salt"]) == 64
    assert r.headers["x-weft-adapter-version"] == "sql@1" and r.headers["x-weft-cold"] in ("true", "false")


def test_what_a_client_sends_under_the_protocols_own_names_is_dropped(fake, acme):
    with acme.http() as c:
        r = c.post("/v1/chat/completions", json={"model": BASE, "cache_salt": "theirs", "messages": [{"role": "user", "content": "x"}]},
                   headers={"X-Weft-Tenant": "evil", "X-Weft-Weight": "99", "X-Weft-Model": "evil", "X-Weft-Request-Id": "evil", "X-Weft-Class": "evil"})
    assert r.status_code == 200
    seen = asked(fake, r.headers["x-request-id"])[0]
    assert "evil" not in json.dumps(seen["headers"]) and seen["headers"]["x-weft-weight"] == "1" and seen["body"]["cache_salt"] != "theirs"


def test_cache_salts_differ_between_tenants_and_adapters(fake, acme, other):
    salts = set()
    for tenant, model in ((acme, BASE), (acme, "sql"), (other, BASE), (other, "pirate")):
        r = tenant.ask("x", model=model)
        salts.add(asked(fake, r.headers["x-request-id"])[0]["body"]["cache_salt"])
    assert len(salts) == 4


def test_fields_that_the_gateway_does_not_know_pass_on_unchanged(fake, acme):
    extra = {"temperature": 0.1, "whatever": {"a": [1, 2.5, None, "\u00e9\U0001f600"]}, "seed": 9007199254740993}
    r = acme.ask("x", **extra)
    body = asked(fake, r.headers["x-request-id"])[0]["body"]
    assert {k: body[k] for k in extra} == extra


def test_the_older_route_goes_to_the_engines_older_route(fake, acme):
    with acme.http() as c:
        r = c.post(f"/t/acme/v1/completions", json={"model": "sql@1", "prompt": "tokens=2"})
    assert r.status_code == 200 and r.json()["model"] == "sql@1"
    assert asked(fake, r.headers["x-request-id"])[0]["path"] == "/v1/completions"


# --- answers ---

def test_a_stream_passes_untouched_but_for_the_counts(fake, acme):
    r, lines = stream(acme, "tokens=5")
    assert r.headers["content-type"].startswith("text/event-stream")
    assert not [x for x in lines if x.startswith(":")]
    chunks, done = events(lines)
    assert done and [c["choices"][0]["delta"]["content"].strip() for c in chunks] == [f"tok{i}" for i in range(5)]
    row = acme.usage(r.headers["x-request-id"])
    assert (row["state"], row["output_tokens"], row["produced_tokens"], row["input_tokens"], row["input_cached_tokens"], row["finish_reason"]) == ("completed", 5, 5, 11, 3, "length")


def test_a_whole_answer_is_billed_by_its_usage(fake, acme):
    r = acme.ask("tokens=7", model="sql")
    row = acme.usage(r.headers["x-request-id"])
    usage = r.json()["usage"]
    assert (row["state"], row["output_tokens"], row["input_tokens"]) == ("completed", usage["completion_tokens"], usage["prompt_tokens"]) == ("completed", 7, 11)
    assert row["adapter"] == "sql" and row["version"] == 1 and row["model"] == "sql" and not row["stream"]


def test_keep_alive_comments_come_before_the_first_token_and_not_after(fake, acme):
    r, lines = stream(acme, "first_ms=2000 tokens=3 delay_ms=450")
    first_data = next(i for i, x in enumerate(lines) if x.startswith("data:"))
    comments = [i for i, x in enumerate(lines) if x == ": keep-alive"]
    assert 2 <= len(comments) <= 7 and max(comments) < first_data
    assert events(lines)[1]
    assert acme.usage(r.headers["x-request-id"])["output_tokens"] == 3


def test_each_chunk_arrives_when_it_is_made(fake, acme):
    times = []
    body = {"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=5 delay_ms=200"}]}
    with acme.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
        for line in r.iter_lines():
            if line.startswith("data:"):
                times.append(time.monotonic())
    assert all(b - a > 0.12 for a, b in zip(times[:4], times[1:5])), times


# --- refusals ---

@pytest.mark.parametrize("status,code", [(400, "context_length_exceeded"), (400, "invalid_value"), (503, "queue_full"), (503, "no_slot")])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_engines_refusals_pass_on_with_the_clients_name(fake, acme, status, code, streamed):
    if streamed:
        r, lines = stream(acme, f"status={status} code={code}", model="sql")
        body = json.loads("\n".join(lines))
    else:
        r = acme.ask(f"status={status} code={code}", model="sql")
        body = r.json()
    assert r.status_code == status and body["error"]["code"] == code
    assert body["error"]["message"] == "refused for sql"
    assert (r.headers.get("retry-after") == "7") == (status == 503)
    row = acme.usage(r.headers["x-request-id"])
    assert (row["state"], row["http_status"], row["output_tokens"]) == ("rejected", status, 0)


@pytest.mark.parametrize("said, told", [("Fri,_01_Jan_2100_00:00:00_GMT", "86400"), ("Sat,_01_Jan_2000_00:00:00_GMT", "0"), ("soon", "1"), ("12", "12")])
def test_an_engines_retry_after_goes_on_in_seconds_or_not_at_all(acme, said, told):
    r = acme.ask(f"status=503 after={said}")
    assert r.status_code == 503 and r.headers["retry-after"] == told


def test_a_refusal_after_a_keep_alive_comes_as_an_event_without_done(fake, acme):
    r, lines = stream(acme, "first_ms=10")
    assert events(lines)[1]
    fake.fake_set("/fake/load", status=200)
    r, lines = stream(acme, "first_ms=700 tokens=1 cut_after=0")
    chunks, done = events(lines)
    assert not done and chunks[-1]["error"]["code"] == "engine_error"


def test_an_adapter_that_faults_is_a_500_of_the_server(fake, acme):
    r = acme.ask("status=422 code=adapter_fault", model="sql")
    assert r.status_code == 500 and r.json()["error"]["code"] == "adapter_fault"
    assert acme.usage(r.headers["x-request-id"])["state"] == "upstream_error"


def test_an_engines_500_is_a_502(fake, acme):
    r = acme.ask("status=500 code=internal_error")
    assert r.status_code == 502 and r.json()["error"]["code"] == "engine_error"


@pytest.mark.parametrize("body,status,param", [
    (b"{", 400, None), (b"[]", 400, None), (b"", 400, None), (b'{"model":3}', 400, "model"), (b"{}", 400, "model"),
    (b'{"model":"sql","stream":"yes"}', 400, "stream"), (b'{"model":"sql","max_tokens":-1}', 400, "max_tokens"),
    (b'{"model":"sql","max_completion_tokens":"9"}', 400, "max_completion_tokens"), (b'{"model":"sql","n":0}', 400, "n"),
    (b'{"model":"nope"}', 404, "model"), (b'{"model":"pirate"}', 404, "model"), (b'{"model":"sql@2"}', 404, "model"),
    (b'{"model":"sql@01"}', 404, "model"), (b'{"model":""}', 404, "model"), (b'{"model":"a","model":"b"}', 400, None),
    (b'{"model":"sql","x":' + b"[" * 100 + b"]" * 100 + b"}", 400, None),
])
def test_bad_requests_are_refused_and_not_metered(fake, acme, body, status, param):
    before = len(acme.usage_rows())
    with acme.http() as c:
        r = c.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"})
    assert r.status_code == status, r.text
    if param:
        assert r.json()["error"]["param"] == param
    assert len(acme.usage_rows()) == before


def test_a_body_beyond_the_limit_is_refused_with_and_without_a_length(fake, acme):
    big = json.dumps({"model": BASE, "messages": [{"role": "user", "content": "x" * 70000}]}).encode()
    with acme.http() as c:
        assert c.post("/v1/chat/completions", content=big).status_code == 413
        assert c.post("/v1/chat/completions", content=iter([big[:100], big[100:]])).status_code == 413


def test_another_tenants_adapter_answers_byte_for_byte_as_an_absent_one(fake, acme, other):
    def refusal(name):
        r = acme.ask("x", model=name)
        return r.status_code, r.content.replace(name.encode(), b"NAME")
    assert refusal("pirate") == refusal("absent") == refusal("pirate@1")
    assert refusal("pirate")[0] == 404


# --- retries ---

def test_an_adapter_that_the_engine_forgot_is_loaded_again_unnoticed(fake, acme):
    assert acme.ask("x", model="sql").status_code == 200
    fake.fake_set("/fake/forget")
    r = acme.ask("x", model="sql")
    assert r.status_code == 200 and r.headers["x-weft-cold"] == "true"
    assert len(asked(fake, r.headers["x-request-id"])) == 2


def test_an_adapter_that_others_unload_again_and_again_is_loaded_again_but_not_for_ever(fake, acme):
    r = acme.ask("unloads=4", model="sql")
    assert r.status_code == 200 and len(asked(fake, r.headers["x-request-id"])) == 5, r.text
    r = acme.ask("unloads=100", model="sql")
    assert r.status_code == 502 and len(asked(fake, r.headers["x-request-id"])) == 9
    assert acme.usage(r.headers["x-request-id"])["output_tokens"] == 0


@pytest.mark.parametrize("load,status,code", [(503, 503, "no_slot"), (404, 404, "model_not_found"), (400, 502, "engine_error")])
def test_a_load_that_fails_is_told_once_and_metered(fake, acme, load, status, code):
    fake.fake_set("/fake/forget")
    assert acme.ask("x").status_code == 200  # the base needs no load
    fake.fake_set("/fake/load", status=load)
    r = acme.ask("x", model="sql")
    fake.fake_set("/fake/load", status=200)
    assert r.status_code == status and r.json()["error"]["code"] == code, r.text
    assert acme.usage(r.headers["x-request-id"])["output_tokens"] == 0
    assert acme.ask("x", model="sql").status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_a_connection_lost_before_the_first_byte_is_tried_again_once(fake, acme, streamed):
    if streamed:
        r, lines = stream(acme, "cut_after=0")
        assert r.status_code == 502, lines
    else:
        r = acme.ask("cut_after=0")
        assert r.status_code == 502
    # A kept-alive connection that dies before it carried a byte is tried again by libcurl, beneath us: the engine may see one more.
    assert len(asked(fake, r.headers["x-request-id"])) in (2, 3)
    row = acme.usage(r.headers["x-request-id"])
    assert (row["state"], row["attempt"]) == ("upstream_error", 2)


def test_an_engine_that_dies_before_the_first_byte_is_replaced_and_asked_again(fake, acme):
    pid = fake.engine_pid()
    r = acme.ask("die_after=0")
    assert r.status_code == 502  # the second one died of it too
    assert until(fake.engine_pid, what="a new engine") != pid
    assert acme.ask("tokens=2").status_code == 200


def test_a_request_waits_for_an_engine_that_is_being_restarted(fake, acme):
    fake.kill_engine()
    r = acme.ask("tokens=2", model="sql")
    assert r.status_code == 200, r.text
    assert acme.usage(r.headers["x-request-id"])["output_tokens"] == 2


# --- broken streams ---

@pytest.mark.parametrize("how", ["die_after=2", "cut_after=2", "no_done=1 tokens=2"])
def test_an_engine_lost_in_mid_stream_ends_in_an_error_event_and_no_done(fake, acme, how):
    r, lines = stream(acme, how)
    chunks, done = events(lines)
    assert r.status_code == 200 and not done
    assert [c["choices"][0]["delta"]["content"].strip() for c in chunks[:-1]] == ["tok0", "tok1"]
    assert chunks[-1]["error"]["code"] == "engine_error"
    row = acme.usage(r.headers["x-request-id"])
    assert (row["state"], row["output_tokens"], row["produced_tokens"]) == ("upstream_error", 2, 2)
    until(fake.engine_pid, what="an engine")
    assert acme.ask("tokens=1").status_code == 200


def test_the_engines_own_error_event_passes_on_alone(fake, acme):
    r, lines = stream(acme, "error_after=2 tokens=5")
    chunks, done = events(lines)
    assert not done and [c for c in chunks if "error" in c] == [chunks[-1]] and chunks[-1]["error"]["code"] == "adapter_fault"
    assert acme.usage(r.headers["x-request-id"])["state"] == "upstream_error"


def test_a_silent_engine_is_given_up_after_idle_ms(fake, acme):
    t = time.monotonic()
    r, lines = stream(acme, "stall_after=2")
    chunks, done = events(lines)
    assert 1.2 < time.monotonic() - t < 4
    assert not done and chunks[-1]["error"]["code"] == "upstream_timeout"
    row = acme.usage(r.headers["x-request-id"])
    assert (row["state"], row["output_tokens"]) == ("timeout", 2)


def test_an_engine_that_does_not_begin_is_given_up_after_first_byte_ms(fake, acme):
    r = acme.ask("stall_after=0")
    assert r.status_code == 504 and r.json()["error"]["code"] == "upstream_timeout"
    assert acme.usage(r.headers["x-request-id"])["state"] == "timeout"


# --- clients that leave ---

def raw_request(gateway, tenant, body):
    text = json.dumps(body).encode()
    host, port = gateway.url.removeprefix("http://").rsplit(":", 1)
    s = socket.create_connection((host, int(port)))
    s.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\nContent-Type: application/json\r\n"
              f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
    return s


def test_a_client_that_leaves_a_stream_cancels_the_engine_at_once_and_pays_what_was_sent(fake, acme):
    body = {"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=100 delay_ms=100"}]}
    s = raw_request(fake, acme, body)
    got = b""
    while got.count(b"data:") < 3:
        got += s.recv(65536)
    request_id = got.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()
    gone = time.time()
    s.close()
    seen = until(lambda: [x for x in asked(fake, request_id) if x["left"]], what="the cancel")[0]
    assert seen["left_at"] - gone < 2  # 50 ms on a quiet machine; without the watcher, the idle time-out
    row = acme.usage(request_id)
    assert row["state"] == "client_abort" and 2 <= row["output_tokens"] <= got.count(b"data:") + 1 and row["output_tokens"] <= row["produced_tokens"]
    until(lambda: fake.engine_state()["running"] == 0)


def test_a_client_that_leaves_before_a_whole_answer_pays_nothing(fake, acme):
    before = len(acme.usage_rows())
    s = raw_request(fake, acme, {"model": BASE, "messages": [{"role": "user", "content": "first_ms=2000"}]})
    until(lambda: fake.engine_state()["running"] == 1)
    s.close()
    until(lambda: fake.engine_state()["running"] == 0, timeout=1)
    rows = until(lambda: rows if len(rows := acme.usage_rows()) > before else None, what="the row")
    assert (rows[0]["state"], rows[0]["output_tokens"]) == ("client_abort", 0)


def test_a_reader_that_does_not_read_is_cut_and_pays_what_it_took(fake, acme):
    body = {"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=4000 burst=20 bytes=4000"}]}
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    host, port = fake.url.removeprefix("http://").rsplit(":", 1)
    s.connect((host, int(port)))
    text = json.dumps(body).encode()
    s.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {acme.key}\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
    head = b""
    while b"\r\n\r\n" not in head:
        head += s.recv(1024)
    request_id = head.split(b"x-request-id: ")[1].split(b"\r\n")[0].decode()
    row = acme.usage(request_id)
    assert row["state"] == "client_abort" and row["output_tokens"] < 4000
    s.close()


# --- many at once ---

def test_many_streams_at_once_stay_apart(fake, acme, other):
    results = {}

    def one(i):
        tenant = (acme, other)[i % 2]
        n = 3 + i % 5
        r, lines = stream(tenant, f"tokens={n} delay_ms=5")
        results[i] = (n, tenant, r.headers["x-request-id"], *events(lines))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(60)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 60
    rows = {x["id"]: x for t in (acme, other) for x in until(lambda: t.usage_rows())}
    for n, tenant, request_id, chunks, done in results.values():
        assert done and len(chunks) == n
        assert tenant.usage(request_id)["output_tokens"] == n
    assert rows


def test_a_cold_adapter_is_loaded_once_for_many_requests(fake, acme):
    fake.kill_engine()
    until(fake.engine_pid, what="a new engine")
    results = []
    threads = [threading.Thread(target=lambda: results.append(acme.ask("x", model="sql").status_code)) for _ in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert results == [200] * 12


def test_http_errors_of_the_client_library_are_the_right_classes(fake, acme):
    with httpx.Client(base_url=fake.url) as c:
        assert c.post("/v1/chat/completions", json={}).status_code == 401
        assert c.get("/v1/chat/completions", headers={"Authorization": f"Bearer {acme.key}"}).status_code == 405
