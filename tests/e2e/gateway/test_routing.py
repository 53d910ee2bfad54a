"""Adaptive aliases: which of two models answers, what is told and billed of it, and what feedback changes. On a gateway of this file's own with the real engine:
the small model is the base, the large one an adapter."""

import json
import os
import subprocess

import pytest

from gateway_process import BASE, BIN, Gateway, events, until
from two_models import LARGE, SMALL, TARGETS, balanced, two_models

DEFAULTS = {"probe_tokens": 24, "exploration": 0.4, "error_cost": 3.0, "cost_ratio": 0.0, "arm": "auto", "learn": True}
KEEPS = {"error_cost": 0.01}  # an error costs next to nothing
DOUBTS = {"error_cost": 5, "exploration": 0, "probe_tokens": 8}
HOT = {"temperature": 2, "seed": 7, "max_tokens": 24}  # no token of it is sure
STORY = [{"role": "user", "content": "Tell me a story about a mill."}]
SQL = [{"role": "system", "content": "You turn questions about the orders table into SQL."}, {"role": "user", "content": "How many orders were placed from Chile?"}]


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    with two_models(tmp_path_factory.mktemp("routing")) as g:
        yield g


def put(g, name, routing, targets=TARGETS, policy="fallback"):
    with g.acme.http() as c:
        return c.put(f"/v1/aliases/{name}", json={"policy": policy, "targets": targets, "routing": routing})


def ask(g, model, messages=STORY, **more):
    with g.acme.http() as c:
        r = c.post("/v1/chat/completions", json={"model": model, "messages": messages, "temperature": 0, "max_tokens": 24, **more})
    assert r.status_code == 200, r.text
    return r


def row(g, r):
    with g.acme.http() as c:
        return until(lambda: (x := c.get("/v1/usage/requests/" + r.headers["x-request-id"])).status_code == 200 and x.json())


def said(r):
    """The text of an answer, streamed or whole."""
    if r.headers["content-type"].startswith("text/event-stream"):
        chunks, done = events(r.text.splitlines())
        assert done, r.text
        return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    return r.json()["choices"][0]["message"]["content"]


def logprobs_of(r):
    if r.headers["content-type"].startswith("text/event-stream"):
        return [x for c in events(r.text.splitlines())[0] for x in ((c["choices"] or [{}])[0].get("logprobs") or {}).get("content", [])]
    return (r.json()["choices"][0]["logprobs"] or {}).get("content", [])


def way(r):
    return dict(x.split("=") for x in r.headers["x-weft-route"].split("; ")[1:])["way"]


# --- what an alias may say ---


def test_routing_is_stored_with_its_defaults_and_taken_away(g):
    r = put(g, "stored", {"arm": "auto"})
    assert r.status_code == 201 and r.json()["routing"] == DEFAULTS, r.text
    for nothing in (None, {}):
        assert put(g, "stored", nothing).json()["routing"] is None
    with g.acme.http() as c:
        assert c.post("/v1/aliases/stored/rollback").json()["routing"] == DEFAULTS


@pytest.mark.parametrize("body,param", [
    ({"routing": {"colour": 1}}, "routing"), ({"routing": {"probe_tokens": -1}}, "routing.probe_tokens"), ({"routing": {"arm": "middle"}}, "routing.arm"),
    ({"routing": DEFAULTS, "policy": "weighted"}, "routing"), ({"routing": DEFAULTS, "targets": TARGETS[:1]}, "routing"), ({"routing": []}, "routing"),
])
def test_routing_that_makes_no_sense_is_refused_by_its_field(g, body, param):
    r = put(g, "wrong", body["routing"], body.get("targets", TARGETS), body.get("policy", "fallback"))
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text


def test_the_command_sets_keeps_and_removes_it(g):
    def weft(*args):
        env = {**os.environ, "WEFT_URL": g.url, "WEFT_KEY": g.acme.key, "WEFT_CONFIG": "/nonexistent/x"}
        r = subprocess.run([BIN / "weft", *args], env=env, capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return r.stdout

    def stands():
        with g.acme.http() as c:
            return c.get("/v1/aliases/typed").json()["routing"]

    weft("alias", "set", "typed", f"base:{BASE},sql", "--policy", "fallback", "--routing", '{"arm":"large"}')
    assert stands() == {**DEFAULTS, "arm": "large"}
    weft("alias", "set", "typed", f"base:{BASE},sql@1")
    assert stands() == {**DEFAULTS, "arm": "large"} and '"arm":"large"' in weft("alias", "show", "typed").replace(" ", "")
    r = ask(g, "typed", SQL)
    row(g, r)
    assert '"way":"large"' in weft("request", "show", r.headers["x-request-id"]).replace(" ", "")
    weft("alias", "set", "typed", f"base:{BASE},sql", "--routing", "none")
    assert stands() is None


# --- who answers ---


def test_an_alias_without_routing_has_no_trace_of_it(g):
    put(g, "plain", None)
    r = ask(g, "plain")
    assert "x-weft-route" not in r.headers and row(g, r)["route"] is None


def test_the_operators_switch_makes_a_chain_of_it(start):
    g = start("--routing", "false", fake=True)
    g.acme = g.tenant("acme")
    assert g.acme.upload("sql").status_code == 201
    assert put(g, "desk", {"arm": "large"}).status_code == 201
    r = ask(g, "desk")
    assert "x-weft-route" not in r.headers
    it = row(g, r)
    assert it["adapter"] is None and it["route"] is None  # the first of the two, as in any chain


@pytest.mark.parametrize("stream", [False, True])
def test_a_fixed_arm_answers_and_nothing_is_looked_at(g, stream):
    for arm, adapter in (("small", None), ("large", "sql")):
        put(g, f"fixed-{arm}", {"arm": arm})
        r = ask(g, f"fixed-{arm}", SQL, stream=stream)
        assert r.headers["x-weft-route"].startswith(f"{arm}; way={arm};") and "reason=arm" in r.headers["x-weft-route"]
        it = row(g, r)
        assert (it["adapter"], it["route"]["way"], it["route"]["model"], it["route"]["probe"]) == (adapter, arm, arm, None)
        assert said(r) == said(ask(g, "sql" if adapter else BASE, SQL))


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_small_one_is_kept_to_say_is_what_it_says_alone(g, stream):
    put(g, "keeps", KEEPS)
    alone, r = ask(g, BASE, stream=stream, max_tokens=40), ask(g, "keeps", stream=stream, max_tokens=40)
    assert way(r) == "kept" and said(r) == said(alone) and not logprobs_of(r)
    it, other = row(g, r), row(g, alone)
    assert [it[k] for k in ("adapter", "input_tokens", "output_tokens", "finish_reason", "state")] == [other[k] for k in ("adapter", "input_tokens", "output_tokens", "finish_reason", "state")]
    assert (it["route"]["way"], it["route"]["reason"], it["route"]["probe"]) == ("kept", "tokens", None)
    asked = ask(g, "keeps", stream=stream, logprobs=True)
    assert way(asked) == "kept" and len(logprobs_of(asked)) == row(g, asked)["output_tokens"]
    short = ask(g, "keeps", stream=stream, max_tokens=3)  # fewer tokens than are looked at
    assert way(short) == "kept" and said(short) == said(ask(g, BASE, max_tokens=3))


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_small_one_is_unsure_of_the_large_one_says_and_both_are_billed(g, stream):
    put(g, "doubts", DOUBTS)
    alone, r = ask(g, "sql", stream=stream, **HOT), ask(g, "doubts", stream=stream, **HOT)
    assert r.headers["x-weft-route"].startswith("large; way=escalated;"), r.headers["x-weft-route"]
    assert said(r) == said(alone) and not logprobs_of(r) and ": weft" not in r.text
    it, other = row(g, r), row(g, alone)
    assert (it["adapter"], it["output_tokens"]) == ("sql", other["output_tokens"]) and it["route"]["way"] == "escalated" and it["route"]["need"] > 0.2
    with g.acme.http() as c:
        probe = c.get("/v1/usage/requests/" + it["route"]["probe"]).json()
        rated = [c.post("/v1/feedback", json={"request_id": x["id"], "rating": "up"}) for x in (probe, it)]
        assert [x.status_code for x in rated] == [404, 200] and rated[0].json()["error"]["param"] == "request_id"  # nobody got the probe's answer
        assert c.delete("/v1/feedback/" + it["id"]).status_code == 200
    assert (probe["adapter"], probe["alias"], probe["state"], probe["route"]) == (None, "doubts", "completed", None)
    assert probe["input_tokens"] == row(g, ask(g, BASE, max_tokens=1))["input_tokens"] and 0 < probe["output_tokens"] <= 24
    paid = [(probe, SMALL), (it, LARGE)]
    for one, price in paid:
        assert one["cost_nano"] == (one["input_tokens"] - one["input_cached_tokens"]) * price["prompt_nano"] + one["input_cached_tokens"] * price["cached_nano"] + one["output_tokens"] * price["output_nano"]
    balanced(g)


def test_only_one_answer_to_one_prompt_is_looked_at(g):
    put(g, "keeps", KEEPS)
    r = ask(g, "keeps", n=2)
    assert way(r) == "small" and len(r.json()["choices"]) == 2
    with g.acme.http() as c:
        r = c.post("/v1/completions", json={"model": "keeps", "prompt": "The river", "max_tokens": 8, "temperature": 0})
        assert way(r) == "kept" and r.json()["choices"][0]["logprobs"] is None, r.text
        r = c.post("/v1/completions", json={"model": "keeps", "prompt": ["The river", "The mill"], "max_tokens": 4})
        assert way(r) == "small" and len(r.json()["choices"]) == 2


@pytest.mark.parametrize("routing", [KEEPS, DOUBTS], ids=["kept", "escalated"])
@pytest.mark.parametrize("asked,refused", [({"logprobs": 1}, "logprobs"), ({"logprobs": "yes"}, "logprobs"), ({"top_logprobs": 2}, "top_logprobs"),
                                           ({"logprobs": False, "top_logprobs": 2}, "top_logprobs"), ({"logprobs": False, "top_logprobs": 0}, None)])
def test_what_a_client_says_wrongly_of_log_probabilities_is_refused_as_without_a_look(g, routing, asked, refused):
    put(g, "looked", routing)
    with g.acme.http() as c:
        rows = len(g.acme.usage_rows())
        r = c.post("/v1/chat/completions", json={"model": "looked", "messages": STORY, "max_tokens": 8, **asked})
    if not refused:
        assert r.status_code == 200 and way(r) in ("kept", "escalated") and not logprobs_of(r)
        return
    assert r.status_code == 400 and r.json()["error"]["param"] == refused, r.text
    assert row(g, r)["state"] == "rejected" and row(g, r)["route"]["probe"] is None
    assert len(g.acme.usage_rows()) == rows + 1  # nothing was computed, so nothing is billed


def test_a_client_that_leaves_while_it_is_looked_at_costs_what_was_computed_and_leaves_nothing_open(g):
    put(g, "slow", {**KEEPS, "probe_tokens": 256})
    with g.acme.http() as c:
        try:
            c.post("/v1/chat/completions", json={"model": "slow", "messages": STORY, "max_tokens": 400, "temperature": 0, "stream": True, "ignore_eos": True}, timeout=0.15)
        except Exception:  # it left
            pass
    balanced(g)
    it = g.acme.usage_rows()[0]
    assert (it["state"], it["alias"], it["output_tokens"]) == ("client_abort", "slow", 0)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_tells_no_log_probabilities_is_decided_for_by_the_request_alone(tmp_path, stream):
    fake = Gateway(tmp_path, fake=True)
    try:
        fake.acme = fake.tenant("acme")
        assert fake.acme.upload("sql").status_code == 201
        put(fake, "auto", {"arm": "auto"})
        r = fake.acme.ask("tokens=40", "auto", stream=stream)
        assert r.status_code == 200 and r.headers["x-weft-route"].startswith("small; way=small;") and "reason=no_logprobs" in r.headers["x-weft-route"], r.headers
        assert said(r) == said(fake.acme.ask("tokens=40", BASE, stream=stream))
        assert row(fake, r)["output_tokens"] == 40
        balanced(fake)
    finally:
        fake.close()


def test_where_the_large_one_has_no_room_the_small_one_answers(g):
    put(g, "doubts", DOUBTS)
    limits = "/admin/v1/tenants/acme/adapters/sql/limits"
    assert g.admin.put(limits, json={"tokens_per_day": 1}).status_code == 200
    try:
        r = ask(g, "doubts", **HOT)
        assert r.headers["x-weft-route"].startswith("small; way=small;") and "reason=large_limited" in r.headers["x-weft-route"]
        assert said(r) == said(ask(g, BASE, **HOT)) and not logprobs_of(r)
        it = row(g, r)
        assert it["adapter"] is None and it["route"]["probe"]
    finally:
        assert g.admin.put(limits, json={}).status_code == 200
    balanced(g)


# --- what feedback changes ---


def rate(g, r, rating):
    row(g, r)
    with g.acme.http() as c:
        assert c.post("/v1/feedback", json={"request_id": r.headers["x-request-id"], "rating": rating}).status_code == 200


def test_what_is_rated_badly_goes_to_the_large_one_from_then_on_over_a_restart_too(g):
    rules = {"exploration": 0.1, "error_cost": 1.5}
    put(g, "learns", rules)
    put(g, "deaf", {**rules, "learn": False})
    for name in ("learns", "deaf"):
        assert way(ask(g, name)) == "kept"
        for _ in range(10):
            r = ask(g, name)
            rate(g, r, "down" if way(r) == "kept" else "up")
    assert way(ask(g, "learns")) == "large" and way(ask(g, "deaf")) == "kept"
    g.stop()
    g.start()
    until(lambda: g.admin.get("/admin/v1/now").status_code == 200)
    assert way(ask(g, "learns")) == "large"
    put(g, "learns", rules, [{"base": BASE}, {"adapter": "sql", "version": 1}])
    assert way(ask(g, "learns")) == "large"  # the same bytes
    put(g, "learns", {**rules, "arm": "small"})
    assert way(ask(g, "learns")) == "small"


def test_a_late_rating_of_former_models_takes_away_nothing(g):
    rules = {"exploration": 0.1, "error_cost": 1.5}
    put(g, "moves", rules, TARGETS[::-1])
    late = [ask(g, "moves") for _ in range(2)]
    put(g, "moves", rules)
    for _ in range(10):
        r = ask(g, "moves")
        rate(g, r, "down" if way(r) == "kept" else "up")
    assert way(ask(g, "moves")) == "large"
    for r in late:
        rate(g, r, "up")
    assert way(ask(g, "moves")) == "large"


def test_a_rating_that_is_taken_back_or_said_again_teaches_once(g):
    rules = {"exploration": 0.1, "error_cost": 1.5}
    put(g, "again", rules)
    r = ask(g, "again")
    for _ in range(20):  # one answer, whoever insists
        rate(g, r, "down")
    rate(g, r, "up")
    with g.acme.http() as c:
        for _ in range(3):
            assert c.delete("/v1/feedback/" + r.headers["x-request-id"]).status_code == 200
            rate(g, r, "down")
    assert way(ask(g, "again")) == "kept"
