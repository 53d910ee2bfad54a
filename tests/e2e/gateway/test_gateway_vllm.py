"""An engine of kind vllm, the fake one that answers as a real one did: what it is sent, what the client gets, what is counted, what it says no to.
tests/vllm/run does the same with a real vLLM."""

import json

import httpx
import pytest
from upstream_process import Upstream

from gateway_process import BASE, Gateway, events, until

KEY = "vllm-key-0123456789"


@pytest.fixture(scope="module")
def world(tmp_path_factory, _model):
    """(gateway, vLLM): the gateway has no engine but this one."""
    g = Gateway(tmp_path_factory.mktemp("vllm"), "--pool-only", "true", "--first-byte-ms", "3000", "--idle-ms", "1500", model="", ready=False)
    up = Upstream("vllm", model="org/SmolLM2-135M", key=KEY)
    up.join(g)
    yield g, up
    g.close()
    up.close()


@pytest.fixture(scope="module")
def acme(world):
    t = world[0].tenant("acme")
    assert t.upload("sql").status_code == 201
    assert t.upload("pirate").status_code == 201
    return t


@pytest.fixture
def gateway(world):
    return world[0]


@pytest.fixture
def up(world, acme):
    """Whole, empty, and idle again at the end."""
    world[1].set("/fake/load", status=200)
    yield world[1]
    until(lambda: world[1].log()["running"] == 0, what="an idle engine")


def stream(tenant, text, model="sql", path="/v1/chat/completions", **more):
    body = {"model": model, "stream": True, **more, **({"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]})}
    with tenant.http() as c, c.stream("POST", path, json=body) as r:
        assert r.status_code == 200, r.read()
        return r.headers["x-request-id"], *events(r.iter_lines())


def last(up, path="/v1/chat/completions"):
    return up.asked(path)[-1]


# --- what it is sent ---

def test_an_adapter_is_loaded_from_the_store_under_its_digest_and_asked_for_by_it(gateway, acme, up):
    up.set("/fake/forget")
    r = acme.ask("tokens=3", model="sql")
    assert r.status_code == 200 and r.json()["model"] == "sql"
    load, seen = last(up, "/v1/load_lora_adapter")["body"], last(up)["body"]
    assert seen["model"] == load["lora_name"] and load["lora_name"] in gateway.blobs()
    assert load["lora_path"].endswith(f"/blobs/{load['lora_name'][:2]}/{load['lora_name']}")
    assert r.headers["x-weft-adapter-version"] == "sql@1"


def test_the_base_is_asked_for_by_the_engines_own_name_and_answered_by_ours(acme, up):
    r = acme.ask("tokens=3")
    assert r.status_code == 200 and r.json()["model"] == BASE
    assert last(up)["body"]["model"] == "org/SmolLM2-135M"


def test_the_engines_key_goes_out_and_nothing_of_the_clients_or_of_ours(acme, up):
    with acme.http() as c:
        r = c.post("/v1/chat/completions", json={"model": "sql", "messages": [{"role": "user", "content": "x"}]},
                   headers={"X-Weft-Tenant": "evil", "X-Forwarded-For": "1.2.3.4", "Cookie": "a=b", "OpenAI-Organization": "o"})
    assert r.status_code == 200
    headers = last(up)["headers"]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert set(headers) <= {"host", "accept", "authorization", "content-type", "content-length", "user-agent"}
    assert acme.key not in json.dumps(up.log())


def test_each_tenant_and_adapter_has_a_cache_of_its_own_there(acme, up):
    salts = []
    for model in (BASE, "sql", "pirate"):
        assert acme.ask("x", model=model).status_code == 200
        salts.append(last(up)["body"]["cache_salt"])
    assert len(set(salts)) == 3


@pytest.mark.parametrize("model,field", [(BASE, {"adapters": [{"name": "sql", "weight": 0.5}]}),
                                         (BASE, {"adapters": [{"name": "sql"}, {"name": "pirate"}]}), (BASE, {"typical_p": 0.5})])
def test_what_vllm_has_not_is_refused_by_name_and_never_half_applied(acme, up, model, field):
    before = len(up.asked())
    r = acme.ask("x", model=model, **field)
    assert r.status_code == 400, r.text
    error = r.json()["error"]
    assert error["code"] == "unsupported_parameter" and error["param"] == list(field)[0]
    assert len(up.asked()) == before
    assert acme.usage(r.headers["x-request-id"])["state"] == "rejected"


def test_one_whole_adapter_of_adapters_is_the_model(gateway, acme, up):
    r = acme.ask("x", adapters=[{"name": "pirate", "weight": 1}])
    assert r.status_code == 200 and r.json()["model"] == BASE
    seen = last(up)["body"]
    assert seen["model"] in gateway.blobs() and "adapters" not in seen


# --- what the client gets, and what is counted ---

def test_the_usage_row_is_vllms_usage(acme, up):
    r = acme.ask("tokens=7", model="sql")
    usage, row = r.json()["usage"], acme.usage(r.headers["x-request-id"])
    assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"]) == (33, 7)
    assert row["state"] == "completed" and row["engine"] == "up" and row["count_source"] == "usage"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_says_the_clients_name_and_no_usage_that_nobody_asked_for(acme, up, path):
    request, data, done = stream(acme, "tokens=5", path=path)
    assert done and {x["model"] for x in data} == {"sql"}
    assert not [x for x in data if "usage" in x] and all(x["choices"] for x in data)
    text = "".join((x["choices"][0]["delta"]["content"] if "chat" in path else x["choices"][0]["text"]) for x in data)
    assert text == "tok0 tok1 tok2 tok3 tok4 "
    row = acme.usage(request)
    assert (row["input_tokens"], row["output_tokens"], row["state"], row["finish_reason"]) == (33, 5, "completed", "length")
    assert last(up, path)["body"]["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


def test_a_client_that_asks_for_usage_gets_it_once_at_the_end(acme, up):
    _, data, done = stream(acme, "tokens=2", stream_options={"include_usage": True})
    assert done and [x["usage"]["completion_tokens"] for x in data if "usage" in x] == [2]
    assert data[-1]["choices"] == [] and data[-1]["model"] == "sql"


def test_a_client_that_asks_for_usage_of_each_chunk_gets_that(acme, up):
    _, data, _ = stream(acme, "tokens=2", stream_options={"include_usage": True, "continuous_usage_stats": True})
    assert [x["usage"]["completion_tokens"] for x in data] == [0, 1, 2, 2]


def test_several_choices_are_counted_together(acme, up):
    request, data, done = stream(acme, "tokens=4", n=3)
    assert done and {x["choices"][0]["index"] for x in data} == {0, 1, 2}
    assert acme.usage(request)["output_tokens"] == 12


def test_a_stream_that_is_cut_is_billed_what_was_delivered(acme, up):
    request, data, done = stream(acme, "tokens=9 cut_after=3 n=1", n=2)
    assert not done and data[-1]["error"]["code"] == "engine_error"
    row = acme.usage(request)
    assert (row["state"], row["input_tokens"], row["output_tokens"]) == ("upstream_error", 33, 6)


def test_an_error_within_a_stream_is_no_end_of_an_answer(gateway, acme, up):
    request, data, done = stream(acme, "tokens=9 error_after=2")
    assert not done and data[-1]["error"] == {"message": "trouble with sql", "type": "server_error", "param": None, "code": "engine_error"}
    row = acme.usage(request)
    assert (row["state"], row["output_tokens"]) == ("upstream_error", 2)


def test_a_client_that_leaves_stops_the_work_there(acme, up):
    with acme.http() as c, c.stream("POST", "/v1/chat/completions", json={
            "model": "sql", "stream": True, "messages": [{"role": "user", "content": "tokens=500 delay_ms=50 leave=1"}]}) as r:
        next(r.iter_lines())
    until(lambda: [x for x in up.asked() if x.get("left") and "leave=1" in x["body"]["messages"][0]["content"]], what="the engine's end of it")


def uncounted(gateway, kind):
    page = httpx.get(gateway.admin_url + "/metrics", headers={"Authorization": f"Bearer {gateway.admin_key}"}).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith(f'weft_uncounted_requests_total{{kind="{kind}"}}'))


def leave_early(tenant, model, streamed):
    """Asks, leaves before anything came, and returns the row."""
    before = {r["id"] for r in tenant.usage_rows()}
    with tenant.http() as c, pytest.raises(httpx.ReadTimeout):
        c.post("/v1/chat/completions", json={"model": model, "stream": streamed, "messages": [{"role": "user", "content": "first_ms=2500"}]}, timeout=0.4)
    return until(lambda: next((r for r in tenant.usage_rows() if r["id"] not in before), None), what="the row")


@pytest.mark.parametrize("streamed", [False, True])
def test_who_leaves_before_it_counted_is_billed_nothing_and_counted(gateway, acme, up, streamed):
    was = uncounted(gateway, "vllm")
    row = leave_early(acme, "sql", streamed)
    assert (row["state"], row["input_tokens"], row["output_tokens"], row["count_source"]) == ("client_abort", 0, 0, "none")
    assert uncounted(gateway, "vllm") == was + 1


# --- what it says no to ---

def test_an_adapter_that_it_forgot_is_loaded_again_once(acme, up):
    assert acme.ask("x", model="sql").status_code == 200
    loads = len(up.asked("/v1/load_lora_adapter"))
    up.set("/fake/forget")
    r = acme.ask("x", model="sql")
    assert r.status_code == 200
    assert len(up.asked("/v1/load_lora_adapter")) == loads + 1


def test_an_adapter_that_it_has_already_needs_no_loading(gateway, acme, up):
    digests = [d for d in gateway.blobs()]
    up.set("/fake/forget")
    for d in digests:  # as if a gateway before this one had loaded it
        path = gateway.data.resolve() / "blobs" / d[:2] / d
        import httpx
        assert httpx.post(up.url + "/v1/load_lora_adapter", json={"lora_name": d, "lora_path": str(path)}, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    assert acme.ask("x", model="sql").status_code == 200 and acme.ask("x", model="pirate").status_code == 200


@pytest.mark.parametrize("status,code", [(404, "engine_error"), (500, "engine_error")])
def test_an_adapter_that_it_refuses_is_no_fault_of_the_client(gateway, acme, up, status, code):
    up.set("/fake/forget")
    assert acme.ask("x").status_code == 200
    up.set("/fake/load", status=status)
    acme.ask("x", model="sql")  # it may be believed to be there still
    r = acme.ask("x", model="sql")
    assert r.status_code == 502 and r.json()["error"]["code"] == code
    assert str(gateway.data) not in r.text
    up.set("/fake/load", status=200)
    assert until(lambda: acme.ask("x", model="sql").status_code == 200, what="the adapter")


def test_a_wrong_request_is_refused_in_our_words_with_the_clients_names(acme, up):
    r = acme.ask("status=400 message=no_good_for_MODEL param=temperature", model="sql")
    assert r.status_code == 400
    assert r.json()["error"] == {"message": "no_good_for_sql", "type": "invalid_request_error", "param": "temperature", "code": "invalid_value"}
    assert acme.usage(r.headers["x-request-id"])["state"] == "rejected"


def test_a_full_engine_is_said_to_be_full(acme, up):
    r = acme.ask("status=503", model="sql")
    assert r.status_code == 503 and r.json()["error"]["code"] == "queue_full" and r.headers["retry-after"]


def test_what_it_has_trouble_with_is_not_told(acme, up):
    r = acme.ask("status=500 message=secret_trace", model="sql")
    assert r.status_code == 502 and "secret_trace" not in r.text and r.json()["error"]["code"] == "engine_error"


# --- how it is ---

def test_its_queue_is_what_its_metrics_say(gateway, acme, up):
    up.set("/fake/queue", running=3, waiting=5)
    until(lambda: (up.status(gateway)["running"], up.status(gateway)["waiting"]) == (3, 5), what="the queue")
    up.set("/fake/queue", running=0, waiting=0)


def test_another_model_there_than_the_rows_is_not_served_and_the_row_says_why(gateway, acme, up):
    r = gateway.admin.post("/admin/v1/engines", json=up.row("wrong", model="another", base="another-base"))
    assert r.status_code == 201, r.text
    until(lambda: "org/SmolLM2-135M" in up.status(gateway, "wrong")["why"], what="the reason")
    assert gateway.admin.delete("/admin/v1/engines/wrong").status_code in (200, 204)


def test_a_key_that_it_refuses_keeps_it_out_and_is_not_told_on(gateway, acme, up):
    r = gateway.admin.post("/admin/v1/engines", json={**up.row("locked", base="locked-base"), "secret": "not-the-key-at-all"})
    assert r.status_code == 201, r.text
    until(lambda: up.status(gateway, "locked")["why"], what="the reason")
    assert up.status(gateway, "locked")["state"] != "ready"
    assert "not-the-key-at-all" not in gateway.log.read_text() and KEY not in gateway.log.read_text()
    assert gateway.admin.delete("/admin/v1/engines/locked").status_code in (200, 204)
