"""An engine of kind openai: an upstream with a key of the operator's and models of its own, behind the gateway beside a weft-engine."""

import json

import pytest
from test_gateway_vllm import stream
from upstream_process import Upstream

from gateway_process import Gateway, until

KEY = "sk-operators-0123456789abcdef"
REMOTE = "big-model"  # as clients call it
THEIRS = "gpt-9-large-2026-01-01"


@pytest.fixture(scope="module")
def world(tmp_path_factory, _model):
    """(gateway, upstream): a fake weft-engine serves the base and its adapters, the upstream a base of its own."""
    g = Gateway(tmp_path_factory.mktemp("openai"), "--first-byte-ms", "3000", "--idle-ms", "1500", fake=True)
    up = Upstream("openai", model=THEIRS, key=KEY)
    up.join(g, base=REMOTE)
    yield g, up
    g.close()
    up.close()


@pytest.fixture(scope="module")
def acme(world):
    t = world[0].tenant("acme")
    assert t.upload("sql").status_code == 201
    return t


@pytest.fixture
def gateway(world):
    return world[0]


@pytest.fixture
def up(world):
    yield world[1]
    until(lambda: world[1].log()["running"] == 0, what="an idle upstream")


def last(up):
    return up.asked()[-1]


def test_its_model_has_our_name_on_both_sides_of_us_and_its_own_beyond(acme, up):
    r = acme.ask("tokens=3", model=REMOTE)
    assert r.status_code == 200 and r.json()["model"] == REMOTE
    assert last(up)["body"]["model"] == THEIRS
    _, data, done = stream(acme, "tokens=3", model=REMOTE)
    assert done and {x["model"] for x in data} == {REMOTE}


def test_our_key_goes_out_and_nothing_of_the_clients(acme, up):
    with acme.http() as c:
        r = c.post("/v1/chat/completions", json={"model": REMOTE, "messages": [{"role": "user", "content": "x"}], "cache_salt": "theirs"},
                   headers={"X-Weft-Tenant": "evil", "Cookie": "a=b", "OpenAI-Organization": "o", "X-Anything": "x", "traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"})
    assert r.status_code == 200
    seen = last(up)
    assert seen["headers"]["authorization"] == f"Bearer {KEY}"
    assert set(seen["headers"]) <= {"host", "accept", "authorization", "content-type", "content-length", "user-agent"}
    assert set(seen["body"]) == {"model", "messages"}  # no salt of a cache, ours or the client's
    assert acme.key not in json.dumps(up.log()) and "acme" not in json.dumps(up.log())


def test_the_key_is_shown_to_nobody(gateway, acme, up):
    acme.ask("x", model=REMOTE)
    shown = gateway.admin.get("/admin/v1/engines/up").text + gateway.admin.get("/admin/v1/audit").text + gateway.log.read_text()
    assert KEY not in shown
    assert not [p for p in gateway.data.glob("weft.db*") if KEY.encode() in p.read_bytes()]


def test_adapters_never_go_there(acme, up):
    before = len(up.asked())
    r = acme.ask("x", model="sql")
    assert r.status_code == 200
    r = acme.ask("x", model=REMOTE, adapters=[{"name": "sql"}])
    assert r.status_code == 400 and "was made for the base" in r.json()["error"]["message"], r.text
    assert len(up.asked()) == before
    assert not up.asked("/v1/load_lora_adapter")


def test_the_usage_row_is_the_upstreams_usage(acme, up):
    r = acme.ask("tokens=7", model=REMOTE)
    row = acme.usage(r.headers["x-request-id"])
    assert (row["input_tokens"], row["output_tokens"], row["engine"], row["count_source"]) == (33, 7, "up", "usage")


def test_a_stream_is_counted_by_its_last_chunk_which_goes_on_only_to_who_asked(acme, up):
    request, data, done = stream(acme, "tokens=5", model=REMOTE)
    assert done and not [x for x in data if "usage" in x]
    assert last(up)["body"]["stream_options"] == {"include_usage": True}
    row = acme.usage(request)
    assert (row["input_tokens"], row["output_tokens"], row["count_source"]) == (33, 5, "usage")
    _, data, _ = stream(acme, "tokens=2", model=REMOTE, stream_options={"include_usage": True})
    assert [x["usage"]["completion_tokens"] for x in data if "usage" in x] == [2]


def test_a_stream_that_is_cut_is_estimated_by_its_chunks_and_the_row_says_so(acme, up):
    request, data, done = stream(acme, "tokens=9 cut_after=3", model=REMOTE)
    assert not done and data[-1]["error"]["code"] == "engine_error"
    row = acme.usage(request)
    assert (row["state"], row["output_tokens"], row["count_source"]) == ("upstream_error", 3, "estimate")


def test_usage_of_each_chunk_is_refused_by_name(acme, up):
    r = acme.ask("x", model=REMOTE, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert r.status_code == 400 and r.json()["error"]["param"] == "stream_options"


def test_a_wrong_request_is_refused_with_our_name_of_the_model(acme, up):
    r = acme.ask("status=400 message=`MODEL`_has_no_tools param=tools code=unsupported_parameter", model=REMOTE)
    assert r.status_code == 400
    assert r.json()["error"] == {"message": f"`{REMOTE}`_has_no_tools", "type": "invalid_request_error", "param": "tools", "code": "unsupported_parameter"}


def test_a_field_that_it_does_not_know_is_its_refusal(acme, up):
    r = acme.ask("x", model=REMOTE, top_k=3)
    assert r.status_code == 400 and "top_k" in r.json()["error"]["message"]


@pytest.mark.parametrize("what", ["status=401 message=Incorrect_API_key_sk-oper code=invalid_api_key", "status=429 message=You_are_broke code=insufficient_quota",
                                  "status=404 message=no_MODEL code=model_not_found", "status=500 message=trace code=x"])
def test_what_it_says_of_our_account_is_not_told(acme, up, what):
    r = acme.ask(what, model=REMOTE)
    assert r.status_code == 502 and r.json()["error"] == {"message": "the engine failed while it served the request", "type": "server_error", "param": None, "code": "engine_error"}
    assert acme.usage(r.headers["x-request-id"])["output_tokens"] == 0


def test_its_own_rate_limit_is_said_to_be_one(acme, up):
    r = acme.ask("status=429 message=Rate_limit_for_org-secret code=rate_limit_exceeded", model=REMOTE)
    assert r.status_code == 429 and r.json()["error"]["code"] == "rate_limit_exceeded" and "org-secret" not in r.text


def test_a_key_that_it_refuses_is_said_in_the_row(gateway, acme, up):
    r = gateway.admin.post("/admin/v1/engines", json={**up.row("locked", base="locked"), "secret": "sk-wrong-wrong-wrong"})
    assert r.status_code == 201, r.text
    until(lambda: "refuses our key" in up.status(gateway, "locked")["why"], what="the reason")
    r = acme.ask("x", model="locked")
    assert r.status_code in (404, 503)
    assert gateway.admin.delete("/admin/v1/engines/locked").status_code in (200, 204)
