"""What can be seen of requests from outside: the access log, the log of slow ones, traces; and that none of it holds a prompt or a key."""

import re
import secrets
import time

import httpx
import pytest

from gateway_process import BASE, events, until
from otlp_collector import Collector

PROMPT = "xyzzy-the-prompt"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def parent_of(trace=TRACE, span=PARENT, flags="01"):
    return f"00-{trace}-{span}-{flags}"


@pytest.fixture(scope="module")
def collector():
    c = Collector()
    yield c
    c.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, collector):
    from gateway_process import Gateway
    folder = tmp_path_factory.mktemp("observe")
    token = folder / "token"
    token.write_text("collector-secret\n")
    g = Gateway(folder, "--otlp-url", collector.url, "--otlp-token-file", token, "--access-log", "true", "--slow-ms", "150", fake=True)
    yield g
    g.close()


@pytest.fixture(scope="module")
def acme(gateway):
    t = gateway.tenant("acme")
    assert t.upload("sql").status_code == 201
    return t


def ask(tenant, text, model=BASE, headers=None, path="/v1/chat/completions", **more):
    with tenant.http() as c:
        return c.post(path, json={"model": model, "messages": [{"role": "user", "content": f"{PROMPT} {text}"}], **more}, headers=headers or {})


def lines(gateway, event, **fields):
    """The log's lines of an event as dicts, those whose fields match."""
    found = []
    for line in gateway.log.read_text().splitlines():
        d = {k: v.strip('"') for k, v in re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)}
        if d.get("event") == event and all(d.get(k) == v for k, v in fields.items()):
            found.append(d)
    return found


def the_line(gateway, event, **fields):
    found = until(lambda: lines(gateway, event, **fields), what=f"{event} {fields}")
    assert len(found) == 1, found
    return found[0]


def spans_of(collector, request_id, n=1):
    return until(lambda: (s := collector.of_request(request_id)) and len(s) >= n and s, what=f"the spans of {request_id}")


def by_name(spans):
    assert len({s.name for s in spans}) == len(spans), [s.name for s in spans]
    return {s.name: s for s in spans}


# --- traces ---


def test_a_request_becomes_a_tree_of_spans(acme, collector):
    r = ask(acme, "times=2000,3000,40000,5000,0 first_ms=60", "sql", stream=True)
    spans = by_name(spans_of(collector, r.headers["x-request-id"]))
    root = spans["POST /v1/chat/completions"]
    assert root.parent is None and root.raw["kind"] == 2 and not root.error
    for name in ("admission", "pick", "chat sql"):
        s = spans[name]
        assert s.parent == root.id and s.trace == root.trace and root.start <= s.start <= s.end <= root.end, name
    order = [spans[n] for n in ("admission", "pick", "chat sql")]
    assert all(a.end <= b.start for a, b in zip(order, order[1:]))
    sent = spans["chat sql"]
    assert sent.raw["kind"] == 3 and [e["name"] for e in sent.raw["events"]] == ["first_token"]
    first = int(sent.raw["events"][0]["timeUnixNano"]) / 1e9
    for name, ms in (("engine.load", 3), ("engine.queue", 2), ("engine.prefill", 40)):
        step = spans[name]
        assert step.parent == sent.id and sent.start <= step.start and step.end <= sent.end
        assert step.end - step.start == pytest.approx(ms / 1000, abs=1e-5)
    assert spans["engine.prefill"].end == pytest.approx(first, abs=1e-5)


def test_a_load_has_a_span_and_so_has_each_time_that_the_request_is_sent(gateway, acme, collector):
    gateway.fake_set("/fake/forget")
    r = ask(acme, "", "sql")
    assert r.status_code == 200
    inner = (s for s in spans_of(collector, r.headers["x-request-id"]) if s.raw["kind"] != 2 and s.name not in ("receive", "answer"))  # quick ones have none
    spans = sorted(inner, key=lambda s: s.start)
    assert [s.name for s in spans] == ["admission", "pick", "chat sql", "load", "chat sql"]
    assert spans[2].attributes["error.type"] == "sent_again" and spans[3].attributes["weft.engine"] == spans[4].attributes["weft.engine"] != ""
    assert all(a.end <= b.start for a, b in zip(spans, spans[1:]))


def test_spans_speak_the_conventions_of_generative_ai(acme, collector):
    r = ask(acme, "tokens=7 prompt=23", "sql")
    a = by_name(spans_of(collector, r.headers["x-request-id"]))["POST /v1/chat/completions"].attributes
    want = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "weft", "gen_ai.request.model": "sql", "gen_ai.response.model": "sql@1",
            "gen_ai.usage.input_tokens": 23, "gen_ai.usage.output_tokens": 7, "gen_ai.usage.cache_read.input_tokens": 3,
            "gen_ai.response.finish_reasons": ["length"], "gen_ai.request.stream": False, "http.request.method": "POST",
            "http.route": "/v1/chat/completions", "http.response.status_code": 200, "weft.tenant": "acme", "weft.state": "completed"}
    assert {k: a.get(k) for k in want} == want
    with acme.http() as c:
        r = c.post("/v1/completions", json={"model": BASE, "prompt": "tokens=2"})
    a = by_name(spans_of(collector, r.headers["x-request-id"]))["POST /v1/completions"].attributes
    assert (a["gen_ai.operation.name"], a["gen_ai.response.model"]) == ("text_completion", BASE)


def test_the_callers_trace_goes_on_to_the_engine(gateway, acme, collector):
    trace = secrets.token_hex(16)
    r = ask(acme, "", headers={"traceparent": parent_of(trace), "tracestate": "vendor=1, other@x=a b"})
    note = gateway.fake_log()["log"][-1]["headers"]
    spans = by_name(spans_of(collector, r.headers["x-request-id"]))
    root, sent = spans["POST /v1/chat/completions"], spans[f"chat {BASE}"]
    assert root.trace == trace and root.parent == PARENT and root.raw["flags"] & 0x300 == 0x300
    assert note["traceparent"] == f"00-{trace}-{sent.id}-01" and note["tracestate"] == "vendor=1, other@x=a b"
    assert root.raw["traceState"] == "vendor=1, other@x=a b"


def test_several_tracestate_headers_are_one_list(gateway, acme):
    with acme.http() as c:
        c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "hi"}]},
               headers=[("traceparent", parent_of()), ("tracestate", "a=1"), ("tracestate", "b=2")])
    assert gateway.fake_log()["log"][-1]["headers"]["tracestate"] == "a=1,b=2"


def test_a_broken_traceparent_is_none(gateway, acme, collector):
    broken = ["", "00", "ff-" + parent_of()[3:], parent_of(trace="0" * 32), parent_of(span="0" * 16), parent_of(trace=TRACE.upper()), parent_of() + "-more",
              "00-" + "z" * 32 + parent_of()[35:], "x" * 4000, parent_of().replace("-", "_")]
    answers = [ask(acme, "", headers={"traceparent": header, "tracestate": "a=1"}) for header in broken]
    assert [r.status_code for r in answers] == [200] * len(broken)
    notes = [n["headers"] for n in gateway.fake_log()["log"][-len(broken):]]
    for r, note in zip(answers, notes):
        root = by_name(spans_of(collector, r.headers["x-request-id"]))["POST /v1/chat/completions"]
        assert root.parent is None and note["traceparent"].split("-")[1] == root.trace != TRACE and "tracestate" not in note


def test_a_broken_tracestate_is_not_passed_on(gateway, acme):
    for state in ("a", "A=1", "a=1;b=2,=", "a=" + "x" * 300, ",".join(f"k{i}=v" for i in range(33)), "a=b=c", "a=" + ",b=".join(["x" * 200] * 3)):
        assert ask(acme, "", headers={"traceparent": parent_of(), "tracestate": state}).status_code == 200
        assert "tracestate" not in gateway.fake_log()["log"][-1]["headers"], state


def test_a_later_version_is_read_as_far_as_it_is_known(gateway, acme):
    ask(acme, "", headers={"traceparent": "cc-" + parent_of()[3:] + "-what-comes"})
    assert gateway.fake_log()["log"][-1]["headers"]["traceparent"].startswith(f"00-{TRACE}-")


def test_who_does_not_sample_is_not_traced(gateway, acme, collector):
    trace = secrets.token_hex(16)
    ask(acme, "", headers={"traceparent": parent_of(trace, flags="00")})
    last = ask(acme, "")
    assert gateway.fake_log()["log"][-2]["headers"]["traceparent"] == parent_of(trace, flags="00")
    spans_of(collector, last.headers["x-request-id"])
    assert collector.of_trace(trace) == []


def test_refusals_are_traced_with_their_reason(acme, collector):
    for text, model, status, error, ours in (("", "nobody", 404, "model_not_found", False), ("status=400 code=invalid_value", BASE, 400, "400", False),
                                             ("status=500", BASE, 502, "engine_error", True)):
        r = ask(acme, text, model)
        assert r.status_code == status
        root = [s for s in spans_of(collector, r.headers["x-request-id"]) if s.raw["kind"] == 2][0]
        assert root.attributes["http.response.status_code"] == status and root.attributes["error.type"] == error and root.error == ours


def test_an_answer_without_a_key_is_traced_too(gateway, collector):
    r = httpx.post(gateway.url + "/v1/chat/completions", json={}, headers={"Authorization": "Bearer nonsense"})
    root = spans_of(collector, r.headers["x-request-id"])[0]
    assert root.attributes["error.type"] == "invalid_api_key" and "weft.tenant" not in root.attributes


def test_each_try_has_a_span(gateway, acme, collector):
    r = ask(acme, "die_after=0", stream=True)
    until(gateway.engine_pid, what="the engine again")
    sent = [s for s in spans_of(collector, r.headers["x-request-id"]) if s.raw["kind"] == 3]
    assert len(sent) > 1 and all(s.error for s in sent) and len({s.id for s in sent}) == len(sent)
    assert sent[0].attributes["error.type"] == "sent_again"


def test_a_client_that_leaves_is_told_as_such(gateway, acme, collector):
    with acme.http() as c, c.stream("POST", "/v1/chat/completions", json={"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=200 delay_ms=20"}]}) as r:
        next(r.iter_lines())
        request = r.headers["x-request-id"]
    root = [s for s in spans_of(collector, request) if s.raw["kind"] == 2][0]
    assert root.attributes["weft.state"] == root.attributes["error.type"] == "client_abort" and not root.error
    assert the_line(gateway, "access", id=request)["state"] == "client_abort"


# --- the collector's moods ---


def metric(gateway, name):
    text = httpx.get(gateway.admin_url + "/metrics").text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{") or line.startswith(name + " "))


def refused(gateway):
    found = re.search(r'^weft_traces_total\{outcome="refused"\} (\d+)', httpx.get(gateway.admin_url + "/metrics").text, re.M)
    return int(found.group(1)) if found else 0


@pytest.mark.parametrize("answers", [[503], [429, (502, b"busy", {"Retry-After": "1"})], ["close"]])
def test_a_collector_that_can_not_now_is_asked_again(acme, collector, answers):
    collector.answers = list(answers)
    r = ask(acme, "")
    spans_of(collector, r.headers["x-request-id"])
    assert collector.answers == []


@pytest.mark.parametrize("status", [400, 401, 500])
def test_a_collector_that_refuses_is_not_asked_again(gateway, acme, collector, status):
    before, n = refused(gateway), len(collector.bodies)
    collector.answers = [status]
    ask(acme, "")
    until(lambda: refused(gateway) == before + 1, what="a refused record")
    assert len(collector.bodies) == n + 1


def test_what_a_collector_took_in_part_is_counted(gateway, acme, collector):
    before = metric(gateway, "weft_trace_spans_refused_total")
    collector.answers = [(200, b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}', {})]
    ask(acme, "")
    until(lambda: metric(gateway, "weft_trace_spans_refused_total") == before + 3, what="the refused spans")


def test_the_collector_gets_its_token_and_the_resource(acme, collector):
    r = ask(acme, "")
    spans_of(collector, r.headers["x-request-id"])
    assert collector.headers[-1]["Authorization"] == "Bearer collector-secret"
    assert b'"service.name","value":{"stringValue":"weft-gateway"}' in collector.bodies[-1]


def test_a_collector_that_hangs_delays_no_answer_and_the_queue_is_bounded(gateway, acme, collector):
    collector.hold.clear()
    try:
        ask(acme, "")
        time.sleep(1.2)  # the sender is with the collector now
        took, n = [], 300
        with acme.http() as c:
            for _ in range(n):
                begin = time.monotonic()
                assert c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "hi"}]}).status_code == 200
                took.append(time.monotonic() - begin)
        assert sorted(took)[int(n * 0.95)] < 0.25, sorted(took)[-10:]
        assert n <= metric(gateway, "weft_traces_waiting") <= 4096
    finally:
        collector.hold.set()
    until(lambda: metric(gateway, "weft_traces_waiting") == 0, what="an empty queue")


# --- the log ---


def test_each_answer_has_a_line(gateway, acme, collector):
    r = ask(acme, "tokens=5 prompt=12", "sql")
    d = the_line(gateway, "access", id=r.headers["x-request-id"])
    want = {"listener": "public", "method": "POST", "route": "/v1/chat/completions", "status": "200", "tenant": "acme", "model": "sql", "adapter": "sql", "version": "1",
            "state": "completed", "prompt": "12", "output": "5", "finish": "length", "peer": "127.0.0.1", "key": acme.key[4:16], "base": BASE}
    assert {k: d.get(k) for k in want} == want
    assert int(d["bytes"]) == len(r.content) and 0 < float(d["ms"]) < 10000 and float(d["first_ms"]) <= float(d["ms"])
    assert d["trace"] == spans_of(collector, r.headers["x-request-id"])[0].trace
    r = gateway.admin.get("/admin/v1/tenants")
    d = the_line(gateway, "access", id=r.headers["x-request-id"])
    assert (d["listener"], d["route"], d["key"]) == ("admin", "/admin/v1/tenants", gateway.admin_key[4:16])
    r = httpx.get(gateway.url + "/no/such?secret=1")
    d = the_line(gateway, "access", id=r.headers["x-request-id"])
    assert (d["route"], d["status"], d["error"]) == ("none", "404", "not_found")


def test_a_slow_request_says_where_its_time_went(gateway, acme):
    r = ask(acme, "first_ms=200 times=11000,22000,150000,7000,5000", stream=True)
    assert events(r.text.splitlines())[1] and "weft-time" not in r.text
    d = the_line(gateway, "slow_request", id=r.headers["x-request-id"])
    assert float(d["ms"]) >= 200 and d["level"] == "warn"
    stages = [float(d.get(k, 0)) for k in ("receive_ms", "admission_ms", "pick_ms", "load_ms", "upstream_ms", "answer_ms")]
    assert sum(stages) == pytest.approx(float(d["ms"]), abs=20) and float(d["upstream_ms"]) >= 200
    assert [d[f"engine_{k}_ms"] for k in ("queue", "load", "prefill", "decode", "paused")] == ["11", "22", "150", "7", "5"]
    quick = ask(acme, "")
    the_line(gateway, "access", id=quick.headers["x-request-id"])
    assert lines(gateway, "slow_request", id=quick.headers["x-request-id"]) == []


def test_an_engines_account_that_makes_no_sense_is_left_out(gateway, acme):
    for said in ("1,2,3,4", "1,2,3,4,5,6", "-1,2,3,4,5", "a,b,c,d,e", "99999999999999,1,1,1,1", "1,2,3,4,99999999999999999999"):
        r = ask(acme, f"first_ms=160 times={said}")
        assert r.status_code == 200
        assert "engine_queue_ms" not in the_line(gateway, "slow_request", id=r.headers["x-request-id"]), said


def test_the_settings_of_the_log_can_change(gateway, tmp_path):
    names = {s["name"]: s["live"] for s in gateway.admin.get("/admin/v1/settings").json()["data"]}
    assert names["access_log"] and names["slow_ms"] and names["otlp_percent"] and not names["otlp_url"]


# --- secrets ---


def test_no_prompt_answer_or_key_is_in_any_of_it(gateway, acme, collector):
    ask(acme, "bytes=24", "sql")
    last = ask(acme, "bytes=24", "sql", stream=True, headers={"traceparent": parent_of(), "user-agent": "agent " + PROMPT})
    spans_of(collector, last.headers["x-request-id"])
    told = gateway.log.read_text() + b"".join(collector.bodies).decode() + httpx.get(gateway.admin_url + "/metrics").text
    for secret in (PROMPT, "tok1", acme.key, acme.key[17:60], gateway.admin_key, gateway.admin_key[17:60], "collector-secret"):
        assert secret not in told, secret


# --- gateways of their own ---


def test_without_a_collector_traces_pass_through_as_they_came(start):
    g = start(fake=True)
    t = g.tenant("acme")
    assert t.ask("hi").status_code == 200
    assert "traceparent" not in g.fake_log()["log"][-1]["headers"]
    ask(t, "", headers={"traceparent": parent_of(), "tracestate": "a=1"})
    note = g.fake_log()["log"][-1]["headers"]
    assert (note["traceparent"], note["tracestate"]) == (parent_of(), "a=1")
    assert "event=access" not in g.log.read_text()


def test_a_share_of_the_requests_is_traced_and_what_waits_at_a_stop_is_sent(start):
    c = Collector()
    g = start("--otlp-url", c.url, "--otlp-percent", "25", fake=True)
    t = g.tenant("acme")
    with t.http() as http:
        for _ in range(200):
            assert http.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "hi"}]}).status_code == 200
    g.stop()
    roots = [s for s in c.spans if s.raw["kind"] == 2]
    c.close()
    assert 20 < len(roots) < 90 and not c.bad


def test_a_collector_that_is_not_there_costs_no_answer_and_no_stop(start):
    g = start("--otlp-url", "http://127.0.0.1:9/v1/traces", fake=True)
    t = g.tenant("acme")
    assert t.ask("hi").status_code == 200
    begin = time.monotonic()
    g.stop()
    assert time.monotonic() - begin < 6
    assert "event=traces_not_taken" in g.log.read_text()


def test_a_collectors_address_must_be_one(tmp_path):
    import subprocess

    from gateway_process import PROGRAM
    out = subprocess.run([PROGRAM, "--data", tmp_path, "--pool-only", "true", "--otlp-url", "ftp://x"], capture_output=True, text=True, timeout=30)
    assert out.returncode == 2 and "otlp_url" in out.stderr


def test_the_real_engine_says_where_its_time_went(start):
    g = start("--slow-ms", "1", "--precision", "exact")
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    body = {"model": "sql", "max_tokens": 8, "messages": [{"role": "user", "content": "How many orders?"}]}
    with t.http() as c:
        whole = c.post("/v1/chat/completions", json=body)
        streamed = c.post("/v1/chat/completions", json={**body, "stream": True})
    assert "weft-time" not in streamed.text and "x-weft-time" not in {k.lower() for k in streamed.headers}
    for r in (whole, streamed):
        d = the_line(g, "slow_request", id=r.headers["x-request-id"])
        steps = {k: float(d[f"engine_{k}_ms"]) for k in ("queue", "load", "prefill", "decode")}
        assert steps["prefill"] > 0 and steps["decode"] > 0 and sum(steps.values()) <= float(d["upstream_ms"]) + 1 <= float(d["ms"]) + 1
        with g.engine() as c:
            said = c.get(f"/weft/v1/receipts/{r.headers['x-request-id']}").json()["times"]
        assert said["prefill_us"] / 1000 == pytest.approx(steps["prefill"], abs=0.01)
