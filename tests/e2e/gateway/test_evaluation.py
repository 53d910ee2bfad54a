"""Evaluations of answers: what an alias may ask for, who is picked, what rows and sums say, what a judge costs, what is left where nobody asks."""

import json
import os
import subprocess
import time

import pytest

from gateway_process import BASE, BIN
from test_gateway_adapters import events_of, get, put_alias
from test_policies import aliases_that_go_again, row_of  # noqa: F401 (a fixture)

LONG = {"name": "long", "kind": "length", "unit": "words", "min": 100000}
SHORT = {"name": "short", "kind": "length", "unit": "words", "max": 100000}


def chat(t, model, text="Say hello.", n=4, **more):
    with t.http() as c:
        r = c.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": n, "temperature": 0, **more})
        assert r.status_code == 200, r.text
        return r


def scores_of(t, n, **query):
    """The rows by rule, as soon as there are n of them."""
    until = time.monotonic() + 20
    while True:
        with t.http() as c:
            r = c.get("/v1/evaluations", params={"limit": 100, **query})
        assert r.status_code == 200, r.text
        rows = r.json()["data"]
        if len(rows) >= n or time.monotonic() > until:
            return rows
        time.sleep(0.05)


def metric(real, name, **labels):
    for line in real.admin.get("/metrics").text.splitlines():
        if line.startswith(name) and all(f'{k}="{v}"' in line for k, v in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    return 0


# --- what an alias may say ---


def test_an_evaluation_is_stored_with_its_defaults_rolled_back_and_taken_away(tenants):
    t = tenants["sql"]
    r = put_alias(t, "judged", [{"base": BASE}], evaluation={"rules": [SHORT], "groundedness": {}})
    assert r.status_code == 201, r.text
    whole = {"sample": 1.0, "rules": [{**SHORT, "min": 0}], "groundedness": {"support": 0.6, "ngram": 3, "min": 0.5}}
    assert r.json()["evaluation"] == whole == get(t, "/v1/aliases/judged")["evaluation"]
    assert put_alias(t, "judged", [{"base": BASE}]).json()["evaluation"] is None
    with t.http() as c:
        assert c.post("/v1/aliases/judged/rollback").json()["evaluation"] == whole
    refused = put_alias(t, "judged", [{"base": BASE}], evaluation={"rules": [{"name": "x", "kind": "regex", "pattern": "("}]})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "evaluation.rules.0.pattern", refused.text
    # the patterns are the tenant's own: events and the trail know them by their hash
    assert all("rules" not in (e["detail"].get("evaluation") or {}) for e in events_of(t, "alias.changed"))


# --- rows and sums ---


@pytest.mark.parametrize("stream", [False, True])
def test_each_sampled_answer_has_its_scores(tenants, stream):
    t, alias = tenants["sql"], f"scored-{stream}".lower()
    put_alias(t, alias, [{"adapter": "sql"}], evaluation={"rules": [SHORT, LONG]})
    r = chat(t, alias, stream=stream)
    rows = {x["rule"]: x for x in scores_of(t, 3, alias=alias)}
    assert set(rows) == {"short", "long", "overall"}
    assert rows["short"]["score"] == 1 and rows["short"]["passed"] and not rows["long"]["passed"] and rows["long"]["score"] == 0
    assert rows["overall"]["score"] == 0.5 and "words" in rows["long"]["note"]
    for x in rows.values():
        assert x["request_id"] == r.headers["x-request-id"] and x["adapter"] == "sql" and x["version"] == 1 and len(x["digest"]) == 64 and x["judge_request_id"] is None
    with t.http() as c:
        s = c.get("/v1/evaluations/summary", params={"alias": alias}).json()
        assert c.get("/v1/evaluations", params={"alias": alias, "passed": "false"}).json()["data"][-1]["rule"] in ("long", "overall")
    of = {g["rule"]: g for g in s["data"]}
    assert of["overall"]["scored"] == 1 and of["overall"]["mean"] == 0.5 and of["long"]["failed"] == 1 and of["short"]["pass_rate"] == 1
    assert [v for v in of["overall"]["series"] if v is not None] == [0.5] and len(s["points"]) == len(of["long"]["series"])


def test_an_answer_that_begins_with_the_clients_own_prompt_is_not_looked_at(tenants):
    """The version would be blamed for what the client wrote."""
    t = tenants["sql"]
    put_alias(t, "echoed", [{"base": BASE}], evaluation={"rules": [{"name": "mill", "kind": "regex", "pattern": "Millstone", "expect": "no_match"}]})
    with t.http() as c:
        for more in ({"echo": True}, {"echo": True, "stream": True}, {"echo": False}):
            r = c.post("/v1/completions", json={"model": "echoed", "prompt": "Millstone, and", "max_tokens": 4, "temperature": 0, **more})
            assert r.status_code == 200 and ("Millstone" in r.text) == more["echo"], r.text
            row_of(t, r)
    rows = scores_of(t, 2, alias="echoed")
    assert {x["request_id"] for x in rows} == {r.headers["x-request-id"]} and all(x["score"] == 1 for x in rows), rows


def test_the_operator_sees_all_tenants_and_a_tenant_its_own(real, tenants):
    t, other = tenants["sql"], tenants["triage"]
    put_alias(t, "seen", [{"base": BASE}], evaluation={"rules": [SHORT]})
    chat(t, "seen")
    row = scores_of(t, 2, alias="seen")[0]
    assert row["adapter"] is None and row["version"] == 0 and row["base"] == BASE and "tenant" not in row
    assert scores_of(other, 0, alias="seen") == []
    c = real.admin
    assert {x["tenant"] for x in c.get("/admin/v1/evaluations", params={"alias": "seen"}).json()["data"]} == {"sql"}
    assert c.get("/admin/v1/evaluations", params={"alias": "seen", "tenant": "triage"}).json()["data"] == []
    assert c.get("/admin/v1/evaluations/summary").status_code == 400
    assert c.get("/admin/v1/evaluations/summary", params={"tenant": "sql", "alias": "seen"}).json()["data"]
    assert c.get("/admin/v1/evaluations", params={"tenant": "nobody"}).status_code == 404
    with t.http() as c:
        assert c.get("/v1/evaluations", params={"passed": "maybe"}).json()["error"]["param"] == "passed"


def test_the_sample_is_drawn_by_the_request_and_nobody_else_is_looked_at(tenants, real):
    t = tenants["sql"]
    before = metric(real, "weft_quality_transcripts_total", outcome="taken")
    put_alias(t, "half", [{"base": BASE}], evaluation={"sample": 0.5, "rules": [SHORT]})
    put_alias(t, "none", [{"base": BASE}], evaluation={"sample": 0, "rules": [SHORT]})
    put_alias(t, "plain", [{"base": BASE}])
    ids = [chat(t, "half", n=1).headers["x-request-id"] for _ in range(24)]
    for _ in range(3):
        chat(t, "none", n=1), chat(t, "plain", n=1), chat(t, BASE, n=1)
    put_alias(t, "all", [{"base": BASE}], evaluation={"rules": [SHORT]})
    chat(t, "all", n=1)  # the last: what came before was looked at
    assert scores_of(t, 2, alias="all")
    picked = {x["request_id"] for x in scores_of(t, 0, alias="half")}
    assert picked <= set(ids) and 3 <= len(picked) <= 21
    assert scores_of(t, 0, alias="none") == scores_of(t, 0, alias="plain") == []
    assert metric(real, "weft_quality_transcripts_total", outcome="taken") - before == len(picked) + 1


# --- groundedness ---


def test_groundedness_tells_what_is_in_the_passages_and_what_was_not_retrieved(tenants):
    t = tenants["sql"]
    put_alias(t, "rag", [{"base": BASE}], evaluation={"groundedness": {}})
    asked = "Repeat exactly: The mill was built beside the river."
    plain = chat(t, "rag", asked, n=24).json()
    said = plain["choices"][0]["message"]["content"]
    assert scores_of(t, 0, alias="rag") == []  # it sent no passages
    rag = {"passages": [{"id": "1", "text": said, "score": 0.75}], "query": "mill"}
    r = chat(t, "rag", asked, n=24, metadata={"rag": rag})
    assert r.json()["choices"] == plain["choices"] and r.json()["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    rows = {x["rule"]: x for x in scores_of(t, 5, alias="rag")}
    assert rows["groundedness"]["score"] == rows["groundedness.ngrams"]["score"] == rows["retrieval"]["score"] == 1 and rows["retrieval.score"]["score"] == 0.75
    chat(t, "rag", asked, n=24, metadata={"rag": {"passages": [{"text": "Elephants eat grass."}]}})
    rows = {x["rule"]: x for x in scores_of(t, 9, alias="rag")[:4]}
    assert rows["groundedness"]["score"] == 0 and not rows["groundedness"]["passed"], rows
    chat(t, "rag", asked, n=24, metadata={"rag": {"passages": []}})
    chat(t, "rag", asked, n=24, metadata={"rag": "none"})
    rows = scores_of(t, 12, alias="rag")
    assert rows[0]["score"] is None and "metadata.rag" in rows[0]["note"]
    empty = [x for x in rows if x["rule"] == "retrieval" and x["passed"] is False]
    assert len(empty) == 1


def test_a_request_too_long_to_be_kept_is_answered_and_its_answer_judged(start):
    t = start("--max-body", "4000000", fake=True).tenant("acme")
    put_alias(t, "huge", [{"base": BASE}], evaluation={"rules": [SHORT], "groundedness": {}})
    chat(t, "huge", metadata={"rag": {"passages": [{"text": "mill " * 300_000}]}})
    rows = scores_of(t, 2, alias="huge")
    assert {x["rule"]: x["score"] for x in rows} == {"short": 1, "overall": 1}, rows  # its passages are not there to be looked at


# --- judges ---


def test_a_judge_is_asked_as_the_tenant_billed_by_itself_and_not_judged(tenants, real):
    t = tenants["sql"]
    put_alias(t, "bench", [{"base": BASE}], evaluation={"judge": {"model": BASE}})  # its own answers would be judged, were they the judge's
    put_alias(t, "asked", [{"base": BASE}], evaluation={"judge": {"model": "bench", "scale": {"min": 0, "max": 3}}})
    chat(t, "asked", "What is two and two?", n=8)
    rows = scores_of(t, 1, alias="asked")
    assert [x["rule"] for x in rows] == ["judge"] and rows[0]["score"] in (0, 1 / 3, 2 / 3, 1), rows
    row = get(t, "/v1/usage/requests/" + rows[0]["judge_request_id"])
    with t.http() as c:  # nobody got its answer: it is not rated
        assert c.post("/v1/feedback", json={"request_id": rows[0]["judge_request_id"], "rating": "up"}).status_code == 404
    assert row["model"] == "bench" and row["state"] == "completed" and row["input_tokens"] > 20 and row["output_tokens"] > 0
    time.sleep(0.3)
    assert scores_of(t, 0, alias="bench") == []
    put_alias(t, "asked", [{"base": BASE}], evaluation={"judge": {"model": "nothing"}})
    chat(t, "asked", n=1)
    last = scores_of(t, 2, alias="asked")[0]
    assert last["score"] is None and "404" in last["note"] and last["judge_request_id"]


@pytest.mark.parametrize("ticket", ["wfj_", "wfj_" + "0" * 64, "wfj_" + "0" * 63, "wfj_" + "0" * 65])
def test_a_ticket_that_nobody_made_opens_nothing(tenants, ticket):
    with tenants["sql"].http() as c:
        assert c.get("/v1/models", headers={"Authorization": "Bearer " + ticket}).status_code == 401


# --- falling scores ---


def test_a_version_whose_scores_fall_is_told_once_and_when_it_recovers(tenants, real):
    t = tenants["sql"]
    alert = {"rule": "said", "below": 0.5, "answers": 10}
    rule = {"name": "said", "kind": "regex", "pattern": "."}
    put_alias(t, "falls", [{"base": BASE}], evaluation={"rules": [{**rule, "expect": "no_match"}], "alert": alert})
    for _ in range(20):
        chat(t, "falls", n=1)
    assert len(scores_of(t, 40, alias="falls")) == 40
    told = events_of(t, "evaluation.")
    assert [(e["type"], e["target"]) for e in told] == [("evaluation.below", "falls")]
    assert told[0]["detail"] == {"alias": "falls", "adapter": None, "version": 0, "rule": "said", "score": 0.0, "below": 0.5, "answers": 10}
    assert metric(real, "weft_evaluation_below", alias="falls", tenant="sql") == 1
    put_alias(t, "falls", [{"base": BASE}], evaluation={"rules": [rule], "alert": alert})
    for _ in range(10):
        chat(t, "falls", n=1)
    assert len(scores_of(t, 60, alias="falls")) == 60
    assert [e["type"] for e in events_of(t, "evaluation.")] == ["evaluation.below", "evaluation.recovered"]
    assert metric(real, "weft_evaluation_below", alias="falls") == 0 and metric(real, "weft_evaluation_score", alias="falls") == 1


def test_another_rule_begins_a_window_of_its_own(start):
    g = start(fake=True)
    t = g.tenant("acme")

    def ask(alert, times, rows):
        assert put_alias(t, "two", [{"base": BASE}], evaluation={"rules": [SHORT, LONG], "alert": alert}).status_code < 300
        for _ in range(times):
            chat(t, "two")
        assert len(scores_of(t, rows, alias="two")) == rows

    low, high = {"rule": "long", "below": 0.5, "answers": 10}, {"rule": "short", "below": 0.6, "answers": 10}
    ask(low, 5, 15)  # three rows an answer: two rules and what they make together
    ask(high, 5, 30)  # ten answers, five of which count for neither rule's window
    assert events_of(t, "evaluation.") == []
    ask(low, 5, 45)
    ask(high, 5, 60)  # whose rule was never below
    assert [(e["type"], e["detail"]["rule"]) for e in events_of(t, "evaluation.")] == [("evaluation.below", "long")]


def test_a_gauge_goes_with_what_it_tells_of(start):
    g = start(fake=True)
    t = g.tenant("acme")
    judged = {"rules": [LONG], "alert": {"rule": "long", "below": 0.5, "answers": 10}}

    def gauges():
        return [x for x in g.admin.get("/metrics").text.splitlines() if x.startswith(("weft_evaluation_below{", "weft_evaluation_score{"))]

    for rows, end in ((20, "part"), (40, "alias"), (60, "rule")):
        put_alias(t, "falls", [{"base": BASE}], evaluation=judged)
        for _ in range(10):
            chat(t, "falls")
        scores_of(t, rows, alias="falls")
        until = time.monotonic() + 10
        while not gauges() and time.monotonic() < until:
            time.sleep(0.05)
        assert metric(g, "weft_evaluation_below", alias="falls") == 1 and len(gauges()) == 2, end
        if end == "part":
            put_alias(t, "falls", [{"base": BASE}])
        elif end == "alias":
            with t.http() as c:
                assert c.delete("/v1/aliases/falls").status_code == 200
        else:
            put_alias(t, "falls", [{"base": BASE}], evaluation={**judged, "alert": {**judged["alert"], "rule": "overall"}})
        assert gauges() == [], end


# --- the switch ---


def test_the_operators_switch_turns_it_off(start):
    g = start("--evaluation", "false", fake=True)
    t = g.tenant("acme")
    put_alias(t, "judged", [{"base": BASE}], evaluation={"rules": [SHORT]})
    chat(t, "judged")
    assert scores_of(t, 0) == [] and metric(g, "weft_quality_transcripts_total") == 0
