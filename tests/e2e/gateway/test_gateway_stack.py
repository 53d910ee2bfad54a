"""Several adapters on one request: whose they may be, how they get into the engine, what is answered, counted and never said."""

import concurrent.futures
import json
import re

import openai
import pytest

from gateway_process import BASE, DEMO, events, until

ASK = [{"role": "user", "content": "Tell me about the sea."}]
DIGEST = re.compile(r"[0-9a-f]{64}")


def stack(*names):
    return {"adapters": [n if isinstance(n, dict) else {"name": n, "weight": 0.5} for n in names]}


def chat(tenant, model=BASE, tokens=12, path="/v1/chat/completions", **more):
    with tenant.http() as c:
        return c.post(path, json={"model": model, "messages": ASK, "temperature": 0, "max_tokens": tokens, **more})


def text(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def error(response, status):
    assert response.status_code == status, response.text
    assert not DIGEST.search(response.text) and not DIGEST.search(str(response.headers))
    return response.json()["error"]


def versions(tenant, name):
    with tenant.http() as c:
        return c.get(f"/v1/adapters/{name}").json()["versions"]


def unload(gateway, *digests):
    """Behind the gateway's back."""
    with gateway.engine() as c:
        for d in digests:
            assert c.post("/v1/unload_lora_adapter", json={"lora_name": d}).status_code == 200


@pytest.fixture
def own(tenants):
    return tenants["all"]


@pytest.fixture
def digests(own):
    return {n: versions(own, n)[0]["digest"] for n in ("sql", "pirate", "triage")}


def test_a_weight_of_one_is_the_adapter_and_of_nought_the_base(own):
    assert text(chat(own, **stack({"name": "pirate"}))) == text(chat(own, "pirate"))
    assert text(chat(own, **stack({"name": "pirate", "weight": 0}))) == text(chat(own))
    both = text(chat(own, **stack("pirate", "sql")))
    assert both == text(chat(own, **stack("pirate", "sql"))) and len({both, text(chat(own, "pirate")), text(chat(own, "sql")), text(chat(own))}) == 4


def test_an_empty_list_or_null_leaves_the_models_own(own):
    alone = text(chat(own, "pirate"))
    assert text(chat(own, "pirate", adapters=[])) == text(chat(own, "pirate", adapters=None)) == alone


def test_the_stack_stands_in_place_of_the_models_own_adapter(real, own, digests):
    unload(real, digests["triage"]) if digests["triage"] in resident(real) else None
    r = chat(own, "triage", **stack("pirate"))
    assert text(r) == text(chat(own, **stack("pirate"))) and r.json()["model"] == "triage"
    assert digests["triage"] not in resident(real), "the model's own adapter was loaded for nothing"


def resident(gateway):
    with gateway.engine() as c:
        return {m["id"] for m in c.get("/v1/models").json()["data"]}


def test_the_header_names_the_versions_that_answered(own):
    r = chat(own, **stack("pirate", "sql@1"))
    assert r.headers["x-weft-adapter-version"] == "pirate@1, sql@1" and r.headers["x-weft-cold"] in ("true", "false")
    assert r.json()["model"] == BASE and not DIGEST.search(r.text + str(r.headers))
    assert "x-weft-adapter-version" not in chat(own).headers
    assert chat(own, "sql").headers["x-weft-adapter-version"] == "sql@1"


def test_a_stack_is_one_usage_row(own):
    before = len(own.usage_rows())
    r = chat(own, "sql", **stack("pirate", "triage"))
    row, usage = own.usage(r.headers["x-request-id"]), r.json()["usage"]
    assert (row["state"], row["model"], row["adapter"]) == ("completed", "sql", "sql")
    assert (row["input_tokens"], row["output_tokens"], row["produced_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"], usage["completion_tokens"])
    r = chat(own, **stack("pirate", "triage"))
    row = own.usage(r.headers["x-request-id"])
    assert (row["model"], row["adapter"]) == (BASE, None) or (row["model"], row["adapter"]) == (BASE, "")
    assert len(own.usage_rows()) == before + 2


def test_a_stream_of_a_stack_says_the_same(own):
    whole = text(chat(own, **stack("pirate", "sql")))
    body = {"model": BASE, "messages": ASK, "temperature": 0, "max_tokens": 12, "stream": True, "stream_options": {"include_usage": True}, **stack("pirate", "sql")}
    with own.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
        lines = list(r.iter_lines())
        headers = r.headers
    chunks, done = events(lines)
    assert done and "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == whole
    assert headers["x-weft-adapter-version"] == "pirate@1, sql@1" and not DIGEST.search("".join(lines))
    row = own.usage(headers["x-request-id"])
    assert (row["state"], row["output_tokens"], row["stream"]) == ("completed", chunks[-1]["usage"]["completion_tokens"], 1)


def test_openais_client_and_the_older_route_take_it_too(own):
    c = own.openai()
    r = c.chat.completions.create(model=BASE, messages=ASK, temperature=0, max_tokens=12, extra_body=stack("pirate", "sql"))
    assert r.choices[0].message.content == text(chat(own, **stack("pirate", "sql")))
    with own.http() as h:
        r = h.post("/t/all/v1/completions", json={"model": BASE, "prompt": "The sea", "max_tokens": 4, "temperature": 0, **stack("pirate")})
    assert r.status_code == 200 and r.json()["model"] == BASE


# --- whose ---

@pytest.mark.parametrize("where", [0, 1])
def test_another_tenants_adapter_is_a_missing_one(tenants, where):
    sql = tenants["sql"]  # has sql, and neither pirate nor nobody
    answers = []
    for name in ("pirate", "nobody"):
        names = ["sql", "sql"]
        names[where] = name
        e = error(chat(sql, **stack(*names[:where + 1])), 404)
        assert (e["code"], e["param"]) == ("model_not_found", "adapters") and f"`{name}`" in e["message"]
        answers.append(json.dumps(e).replace(name, "X"))
    assert answers[0] == answers[1]
    e = error(chat(sql, "pirate", **stack("sql")), 404)
    assert e["param"] == "model"


def test_another_tenants_digest_is_no_name(tenants, digests):
    for name in (digests["pirate"], digests["sql"]):
        e = chat(tenants["sql"], **stack(name)).json()["error"]
        assert e["code"] == "model_not_found" and name in e["message"]  # as it was asked


def test_an_old_version_is_served_by_its_number(own):
    config = json.loads((DEMO / "pirate/adapter_config.json").read_text())
    for alpha in (config["lora_alpha"], config["lora_alpha"] / 8):
        assert own.upload("moods", DEMO / "pirate", config=json.dumps({**config, "lora_alpha": alpha}).encode()).status_code == 201
    try:
        one, two, newest = [text(chat(own, **stack({"name": n}))) for n in ("moods@1", "moods@2", "moods")]
        assert one == text(chat(own, "pirate")) and two == newest != one
        r = chat(own, **stack("moods@1", "moods"))
        assert r.headers["x-weft-adapter-version"] == "moods@1, moods@2"
        assert error(chat(own, **stack("moods@3")), 404)["code"] == "model_not_found"
        with own.http() as c:
            assert c.delete("/v1/adapters/moods/versions/2").status_code == 200
        assert error(chat(own, **stack("moods@2")), 404)["code"] == "model_not_found"
        assert text(chat(own, **stack({"name": "moods"}))) == one
    finally:
        with own.http() as c:
            c.delete("/v1/adapters/moods")


def test_two_names_of_the_same_bytes_are_told_by_a_name(own):
    assert own.upload("twin", DEMO / "pirate").status_code == 201
    try:
        for names in (("pirate", "twin"), ("pirate", "pirate"), ("pirate", "pirate@1")):
            e = error(chat(own, **stack(*names)), 400)
            assert "twice" in e["message"] and "pirate" in e["message"]
    finally:
        with own.http() as c:
            c.delete("/v1/adapters/twin")


WRONG = [
    ([{"name": BASE}], "base"), ([{"name": "sql"}] * 5, "4"), (["sql"], "objects"), ([{}], "name"), ([{"name": 5}], "name"), ([{"name": ""}], None),
    ({"name": "sql"}, "array"), ("sql", "array"), (1, "array"), ([{"name": "sql", "weight": "x"}], "weight"), ([{"name": "sql", "weight": 1e9}], "weight"),
    ([{"name": "sql", "weight": None}, 7], "objects"), ([None], "objects"), ([{"name": "x" * 300}], None),
]


@pytest.mark.parametrize("list_,word", WRONG, ids=[json.dumps(w[0])[:40] for w in WRONG])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_wrong_list_is_refused_by_its_field(own, list_, word, streamed):
    r = chat(own, adapters=list_, stream=streamed)
    assert r.status_code in (400, 404), r.text
    e = r.json()["error"]
    assert not DIGEST.search(r.text)
    assert e["param"] in ("adapters", "adapters.weight"), e
    if word:
        assert word in e["message"], e


def test_strict_mode_knows_the_field(start):
    g = start("--strict", "true", fake=True)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    assert chat(t, **stack("sql")).status_code == 200
    assert chat(t, adaptors=[]).json()["error"]["param"] == "adaptors"


# --- into the engine ---

def test_cold_ones_are_loaded_before_the_request(real, own, digests):
    warm = text(chat(own, **stack("pirate", "sql")))
    with real.engine() as c:
        loaded = resident(real)
    unload(real, *(d for d in (digests["pirate"], digests["sql"]) if d in loaded))
    assert text(chat(own, **stack("pirate", "sql"))) == warm


@pytest.mark.parametrize("gone", [("pirate",), ("sql",), ("pirate", "sql")])
@pytest.mark.parametrize("streamed", [False, True])
def test_one_that_the_engine_dropped_is_loaded_again_and_the_request_sent_once_more(real, own, digests, gone, streamed):
    warm = text(chat(own, **stack("pirate", "sql")))
    unload(real, *(digests[n] for n in gone))
    body = {"model": BASE, "messages": ASK, "temperature": 0, "max_tokens": 12, "stream": streamed, **stack("pirate", "sql")}
    with own.http() as c:
        r = c.post("/v1/chat/completions", json=body)
    assert r.status_code == 200, r.text
    if streamed:
        chunks, done = events(r.text.split("\n"))
        assert done and "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == warm
    else:
        assert text(r) == warm
    assert r.headers["x-weft-cold"] == "true"
    row = own.usage(r.headers["x-request-id"])
    assert row["state"] == "completed" and row["attempt"] == 2


def test_an_engine_that_was_started_again_gets_the_whole_stack(start):
    g = start("--precision", "exact")
    t = g.tenant("solo")
    for n in ("pirate", "sql", "triage"):
        assert t.upload(n).status_code == 201
    names = stack("pirate", "sql", "triage")
    before = text(chat(t, **names))
    old = g.kill_engine()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # while it is away, and after
        assert {text(r) for r in pool.map(lambda _: chat(t, **names), range(4))} == {before}
    assert until(g.engine_pid) != old
    assert text(chat(t, **names)) == before


def test_an_engine_lost_between_two_loads_gets_the_first_again(start):
    g = start(fake=True)
    t = g.tenant("solo")
    for n in ("pirate", "sql", "triage"):
        assert t.upload(n).status_code == 201
    for _ in range(3):
        g.kill_engine()
        r = chat(t, **stack("pirate", "sql", "triage"))
        assert r.status_code == 200, r.text
        seen = g.fake_log()
        assert len(seen["loaded"]) == 3
        body = [x for x in seen["log"] if x["headers"]["x-weft-request-id"] == r.headers["x-request-id"]][-1]["body"]
        assert body["model"] == BASE and [a["name"] for a in body["adapters"]] == [versions(t, n)[0]["digest"] for n in ("pirate", "sql", "triage")]
        assert [a["weight"] for a in body["adapters"]] == [0.5] * 3


def test_fewer_slots_than_all_stacks_need_serve_them_in_turn(start):
    g = start("--precision", "exact", "--max-slots", "2")
    t = g.tenant("solo")
    for n in ("pirate", "sql", "triage"):
        assert t.upload(n).status_code == 201
    pairs = [("pirate", "sql"), ("sql", "triage"), ("triage", "pirate")]
    alone = [text(chat(t, **stack(*p))) for p in pairs]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda p: text(chat(t, **stack(*p))), pairs * 4))
    assert together == alone * 4
    e = error(chat(t, **stack("pirate", "sql", "triage")), 400)
    assert "3 adapters" in e["message"] and "2" in e["message"]
    until(lambda: (s := g.engine_state())["running"] == 0 and s["slots"]["pins"] == 0)


def test_an_error_event_in_mid_stream_says_names(start):
    g = start(fake=True)
    t = g.tenant("solo")
    for n in ("pirate", "sql"):
        assert t.upload(n).status_code == 201
    with t.http() as c:
        r = c.post("/v1/chat/completions", json={"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=4 blame_after=2"}], **stack("pirate", "sql")})
    chunks, done = events(r.text.split("\n"))
    assert not done and "pirate" in chunks[-1]["error"]["message"] and "sql" in chunks[-1]["error"]["message"]
    assert not DIGEST.search(r.text)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_fault_of_a_stack_names_all_of_it(fake, acme, streamed):
    assert acme.upload("pirate").status_code == 201
    try:
        with acme.http() as c:
            r = c.post("/v1/chat/completions", json={"model": BASE, "stream": streamed, "messages": [{"role": "user", "content": "status=422 code=adapter_fault"}], **stack("pirate", "sql")})
        assert r.status_code == 500 and "pirate" in r.text and "sql" in r.text and not DIGEST.search(r.text)
    finally:
        with acme.http() as c:
            c.delete("/v1/adapters/pirate")
