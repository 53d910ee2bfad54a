"""An engine that lies and a wire that breaks: whatever comes, the client gets one well-formed end or a closed connection, is billed no more than it was
given, and the gateway serves the next request. The wire is tests/trust/faults/proxy.py, the lies are fake_lies.py."""

import json
import time

import httpx
import pytest

from gateway_process import BASE, TOP, Gateway, until

WIRE = TOP / "tests/trust/faults/proxy.py"
LIES = ("many", "below", "garbage", "headers", "line", "other", "after", "twice", "short", "nul", "status")
MAX_TOKENS, RESERVED = 16, 2048


def body(text, stream):
    return {"model": BASE, "stream": stream, "max_tokens": MAX_TOKENS, "messages": [{"role": "user", "content": text}]}


def read(tenant, text, stream=True):
    """(status, request id, tokens that came, how it ended): "done", "error" or "closed"."""
    tokens, last, seen = 0, "", b""
    try:
        with httpx.Client(base_url=tenant.gateway.url, headers={"Authorization": f"Bearer {tenant.key}"}, timeout=30) as c, \
                c.stream("POST", "/v1/chat/completions", json=body(text, stream)) as r:
            status, id = r.status_code, r.headers.get("x-request-id")
            try:
                for part in r.iter_bytes():
                    seen += part
            except httpx.TransportError:
                last = "closed"
    except httpx.TransportError:
        return 0, None, 0, "closed"
    if status != 200:
        return status, id, 0, "error" if json.loads(seen)["error"]["message"] else "?"
    if not stream:
        return status, id, 0, last or "done"
    data = [line[5:].strip() for line in seen.decode(errors="replace").split("\n") if line.startswith("data:")]
    tokens = sum('"delta"' in d for d in data)
    errors = [d for d in data if d.startswith('{"error"')]
    assert len(errors) <= 1 and data.count("[DONE]") <= 1 and not (errors and "[DONE]" in data), data[-3:]
    if not last:
        last = "done" if data and data[-1] == "[DONE]" else "error" if errors and data[-1] == errors[0] and json.loads(errors[0]) else f"? {data[-1:]}"
    return status, id, tokens, last


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", LIES)
def test_an_engine_that_lies_costs_the_client_no_more_than_it_got(fake, acme, kind, stream):
    status, id, tokens, end = read(acme, f"lie={kind} tokens=2", stream)
    assert end in ("done", "error", "closed"), end
    row = acme.usage(id)
    most = RESERVED if kind == "many" else tokens if stream else MAX_TOKENS  # what cannot be is cut to what was reserved
    assert 0 <= row["output_tokens"] <= most, row
    assert 0 <= row["input_cached_tokens"] <= row["input_tokens"] < RESERVED, row
    # A second answer that comes after the connection was kept is taken for the next one's, and refused as that: it costs one request.
    until(lambda: acme.ask("tokens=2").status_code == 200, what="an answer to an honest request")
    until(lambda: acme.gateway.admin.get("/admin/v1/tenants/acme/limits").json()["used"]["reserved"] == {"tokens": 0, "cost": 0}, what="nothing reserved")


@pytest.fixture(scope="module")
def wired(tmp_path_factory, _model):
    """A gateway whose engine stands behind a wire; plan(...) says what that does with the answers to come."""
    folder = tmp_path_factory.mktemp("wired")
    plan = folder / "plan"
    plan.write_text("{}")
    g = Gateway(folder, "--engine", str(WIRE), "--idle-ms", "1000", "--first-byte-ms", "2000", fake=True, env={"WEFT_WIRE": str(plan)})
    tenant = g.tenant("acme")

    def set_plan(**what):
        fresh = folder / "plan.new"
        fresh.write_text(json.dumps({"match": "/v1/chat/completions", **what} if what else {}))
        fresh.rename(plan)
    yield tenant, set_plan
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert verdict["verify"]["bad_buckets"] == 0 and verdict["open_admissions"] == 0, verdict
    g.close()


def test_single_bytes_delays_and_a_stall_change_nothing_but_the_time(wired):
    tenant, plan = wired
    for how in ({"split": 1}, {"split": 7, "delay_ms": 1}, {"flood": 1 << 20}, {"flood": 16 << 20}):
        plan(**how)
        assert read(tenant, "tokens=3")[2:] == (3, "done"), how
    plan(stall=400)
    status, id, tokens, end = read(tenant, "tokens=3")
    assert end == "error" and tenant.usage(id)["output_tokens"] <= tokens
    plan()
    assert tenant.ask("tokens=2").status_code == 200


def test_a_reader_that_pauses_loses_nothing_of_what_an_engine_sends_at_once(wired):
    """More than its stream may lag: the engine waits for it, for a moment."""
    tenant, plan = wired
    plan(flood=16 << 20)
    with httpx.Client(base_url=tenant.gateway.url, headers={"Authorization": f"Bearer {tenant.key}"}, timeout=30) as c, \
            c.stream("POST", "/v1/chat/completions", json=body("tokens=3", True)) as r:
        parts = r.iter_bytes()
        seen = next(parts)
        time.sleep(0.7)
        seen = len(seen) + sum(map(len, parts))
    plan()
    assert seen > 16 << 20
    row = tenant.usage(r.headers["x-request-id"])
    assert row["state"] == "completed" and row["output_tokens"] == 3


def test_a_reader_that_stops_is_given_up_and_the_engine_with_it(wired):
    tenant, plan = wired
    plan(flood=64 << 20)
    with httpx.Client(base_url=tenant.gateway.url, headers={"Authorization": f"Bearer {tenant.key}"}, timeout=30) as c, \
            c.stream("POST", "/v1/chat/completions", json=body("tokens=3", True)) as r:
        row = tenant.usage(r.headers["x-request-id"])
    plan()
    assert row["state"] == "client_abort" and row["output_tokens"] == 0
    assert tenant.ask("tokens=2").status_code == 200
