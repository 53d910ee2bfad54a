"""All parts of an alias at once: a prompt policy, routing, an evaluation and a capture. What a client gets is what it gets without anybody looking, and who looks sees the
answer that the client got. With the real engine: the small model is the base, the large one an adapter; with the fake one where engines fail, and where what they are asked counts."""

import json
import time

import httpx
import pytest

from gateway_process import BASE, Gateway, events, until
from test_gateway_outputs import ADD, CHAT, TEMPLATE
from test_routing import DOUBTS, HOT, KEEPS, logprobs_of, said, way
from two_models import TARGETS, balanced, two_models

BRIEF = {"name": "brief", "kind": "length", "unit": "words", "max": 100000}
LOOKED_AT = {"evaluation": {"rules": [BRIEF], "groundedness": {}}, "capture": {"top_logprobs": 2, "redact": []}}
CUT = {"truncate": {"max_tokens": 100, "head_turns": 0, "last_turns": 1, "head_tokens": 0}}
SQUEEZE = {"compress": {"ratio": 0.5, "min_tokens": 32, "unit": "word"}}
PAST = [{"role": "user", "content": "The river ran past the old mill and under the stone bridge. " * 12}, {"role": "assistant", "content": "I see."}]
STORY = PAST + [{"role": "user", "content": "Tell me a story about a mill. The mill was built beside the river."}]
RAG = {"rag": {"passages": [{"text": "The mill was built beside the river.", "score": 0.5}]}}
ROUTINGS = {"kept": KEEPS, "escalated": DOUBTS}
MORE = {"kept": {}, "escalated": HOT}
LETTER = {"messages": [{"role": "user", "content": "Sort this: {{text}}"}], "slots": {"text": {"type": "string", "max_length": 500}}}


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    with two_models(tmp_path_factory.mktemp("together"), "--precision", "exact", "--prefix-cache", "false") as g:
        yield g


@pytest.fixture
def fake(tmp_path, _model):
    f = Gateway(tmp_path, "--first-byte-ms", "3000", "--idle-ms", "1500", fake=True, env={"FAKE_POLICIES": "1"})
    f.acme = f.tenant("acme")
    assert f.acme.upload("sql").status_code == 201
    yield f
    balanced(f)
    f.close()


def put(g, name, routing=None, **parts):
    with g.acme.http() as c:
        r = c.put(f"/v1/aliases/{name}", json={"policy": "fallback", "targets": TARGETS, "routing": routing, **parts})
    assert r.status_code in (200, 201), r.text


def pair(g, routing, **parts):
    """An alias that nobody looks at, and its like with an evaluation and a capture."""
    put(g, "plain", routing, **parts)
    put(g, "watched", routing, **{**LOOKED_AT, **parts})


def ask(g, model, messages=STORY, code=200, **more):
    with g.acme.http() as c:
        r = c.post("/v1/chat/completions", json={"model": model, "messages": messages, "temperature": 0, "max_tokens": 24, **more})
    assert r.status_code == code, r.text
    return r


def row(g, r):
    id = r if isinstance(r, str) else r.headers["x-request-id"]
    with g.acme.http() as c:
        return until(lambda: (x := c.get("/v1/usage/requests/" + id)).status_code == 200 and x.json())


def plain_bytes(r):
    """A body without what no two answers have in common: ids and times. To the letter otherwise."""
    text = r.text
    chunks = events(text.splitlines())[0] if r.headers["content-type"].startswith("text/event-stream") else [r.json()]
    for id, created in {(c.get("id"), c.get("created")) for c in chunks}:
        if id:
            text = text.replace(json.dumps(id), '"ID"').replace(f'"created":{created}', '"created":0')
    return text.replace("watched", "plain")


def capture_of(g, r):
    with g.acme.http() as c:
        return until(lambda: (x := c.get("/v1/captures/" + r.headers["x-request-id"])).status_code == 200 and x.json(), what="the capture")


def scores_of(g, r, alias="watched"):
    """By rule, each once."""
    def find():
        with g.acme.http() as c:
            return [x for x in c.get("/v1/evaluations", params={"limit": 100, "alias": alias}).json()["data"] if x["request_id"] == r.headers["x-request-id"]]
    rows = until(find, what="scores")
    assert len({x["rule"] for x in rows}) == len(rows), rows
    return {x["rule"]: x for x in rows}


def spelled(logprobs):
    """A token may be a part of a character."""
    return bytes(b for t in logprobs for b in t["bytes"]).decode(errors="replace")


def captures(g):
    with g.acme.http() as c:
        return c.get("/v1/captures/summary").json()["captures"]


def same_books(g, a, b):
    keys = ("adapter", "input_tokens", "input_cached_tokens", "output_tokens", "finish_reason", "state", "cost_nano", "policy_before_tokens", "policy_after_tokens")
    a, b = row(g, a), row(g, b)
    assert [a[k] for k in keys] == [b[k] for k in keys]
    assert [a["route"][k] for k in ("way", "reason")] == [b["route"][k] for k in ("way", "reason")] and (a["route"]["probe"] is None) == (b["route"]["probe"] is None)
    if a["route"]["probe"]:
        p, q = row(g, a["route"]["probe"]), row(g, b["route"]["probe"])
        assert p["alias"] == "plain" and q["alias"] == "watched"
        of = ("adapter", "input_tokens", "state") + (() if a["stream"] else ("output_tokens", "cost_nano"))  # of a stream: until the engine noticed
        assert [p[k] for k in of] == [q[k] for k in of]
        assert p["output_tokens"] > 0 and q["output_tokens"] > 0


# --- what the client gets, what is kept, what is scored ---


@pytest.mark.parametrize("logprobs", [{}, {"logprobs": True}, {"logprobs": True, "top_logprobs": 1}], ids=["unasked", "asked", "top"])
@pytest.mark.parametrize("stream", [{}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}], ids=["whole", "stream", "usage"])
@pytest.mark.parametrize("how", ["kept", "escalated"])
def test_a_client_gets_what_it_gets_without_anybody_looking_and_that_is_looked_at(g, how, stream, logprobs):
    pair(g, ROUTINGS[how], prompt_policy=CUT)
    more = {**MORE[how], **stream, **logprobs, "metadata": RAG}
    plain, r = ask(g, "plain", **more), ask(g, "watched", **more)
    assert way(plain) == way(r) == how and plain.headers["x-weft-route"] == r.headers["x-weft-route"]
    assert plain_bytes(r) == plain_bytes(plain)
    assert bool(logprobs_of(r)) == bool(logprobs) and ('"usage":{' in r.text) == (stream.get("stream_options") is not None or not stream)
    same_books(g, plain, r)
    it, kept = row(g, r), capture_of(g, r)
    assert it["policy_after_tokens"] < it["policy_before_tokens"]
    assert kept["answer"]["content"] == said(r) and kept["version"] == ("sql@1" if how == "escalated" else BASE) and kept["finish_reason"] == it["finish_reason"]
    assert [m["content"] for m in kept["messages"]] == [m["content"] for m in STORY]
    told = kept["logprobs"]
    assert spelled(told) == said(r) and [x["token"] for x in logprobs_of(r)] in ([], [t["token"] for t in told])
    assert {len(t["top_logprobs"]) for t in told} == {logprobs.get("top_logprobs", 0) if logprobs else 2}  # what the client asked for stands
    scores = scores_of(g, r)
    assert {"brief", "overall", "groundedness.ngrams", "retrieval", "retrieval.score"} <= set(scores)
    assert all((x["adapter"], x["version"]) == (("sql", 1) if how == "escalated" else (None, 0)) for x in scores.values())
    balanced(g)


@pytest.mark.parametrize("stream", [False, True])
def test_of_several_answers_all_go_to_the_client_and_the_first_is_kept(g, stream):
    pair(g, KEEPS, prompt_policy=CUT)
    more = {"n": 2, "stream": stream, "temperature": 1, "seed": 3, "metadata": RAG}
    plain, r = ask(g, "plain", **more), ask(g, "watched", **more)
    assert way(r) == "small" and not logprobs_of(r)

    def by_choice(r):
        out = {0: "", 1: ""}
        for c in [r.json()] if not stream else events(r.text.splitlines())[0]:
            for x in c["choices"]:
                out[x["index"]] += (x["delta"] if stream else x["message"]).get("content") or ""
                assert x["logprobs"] is None
        return out
    assert by_choice(r) == by_choice(plain) and len(set(by_choice(r).values())) == 2
    same_books(g, plain, r)
    kept = capture_of(g, r)
    assert kept["answer"]["content"] == by_choice(r)[0] == spelled(kept["logprobs"])
    assert scores_of(g, r)["overall"]["score"] is not None


def calls_of(r):
    """Name and arguments of the calls in an answer, streamed or whole."""
    if not r.headers["content-type"].startswith("text/event-stream"):
        return [(t["function"]["name"], t["function"]["arguments"]) for t in r.json()["choices"][0]["message"]["tool_calls"]]
    parts = [t["function"] for c in events(r.text.splitlines())[0] for x in c["choices"] for t in x["delta"].get("tool_calls") or []]
    return [tuple("".join(p.get(k) or "" for p in parts) for k in ("name", "arguments"))]


def test_a_call_of_a_tool_is_kept_as_the_client_gets_it(start, tmp_path):
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    own = start("--chat-template", tmp_path / "t.jinja", "--prefix-cache", "false", "--speculate", "0")
    own.acme = own.tenant("acme")
    assert own.acme.upload("sql").status_code == 201
    pair(own, KEEPS, prompt_policy=CUT)
    for stream in (False, True):
        more = {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "add"}}, "max_tokens": 60, "stream": stream}
        plain, r = ask(own, "plain", CHAT, **more), ask(own, "watched", CHAT, **more)
        assert way(r) == "kept" and calls_of(r) == calls_of(plain) and calls_of(r)[0][0] == "add" and not logprobs_of(r)
        kept = capture_of(own, r)
        assert [(t["function"]["name"], t["function"]["arguments"]) for t in kept["answer"]["tool_calls"]] == calls_of(r) and kept["tools"] == [ADD]
        assert scores_of(own, r)["brief"]["score"] is None  # no text, so nothing to say
    balanced(own)


@pytest.mark.parametrize("how", ["kept", "escalated"])
def test_a_compressed_prompt_is_one_request_of_each_model_and_kept_as_it_came(g, how):
    pair(g, ROUTINGS[how], prompt_policy=SQUEEZE)
    for stream in (False, True):
        more = {**MORE[how], "stream": stream}
        plain, r = ask(g, "plain", **more), ask(g, "watched", **more)
        assert way(r) == how and plain_bytes(r) == plain_bytes(plain)
        same_books(g, plain, r)
        it = row(g, r)
        assert 0 < it["policy_after_tokens"] < it["policy_before_tokens"] < it["input_tokens"]
        kept = capture_of(g, r)
        assert kept["messages"] == STORY and kept["answer"]["content"] == said(r)
        if how == "escalated":
            assert row(g, it["route"]["probe"])["input_tokens"] == it["input_tokens"]
    balanced(g)


def test_a_client_that_leaves_is_neither_kept_nor_scored_and_holds_nothing(g):
    put(g, "watched", {**KEEPS, "probe_tokens": 256}, prompt_policy=CUT, **LOOKED_AT)
    before = captures(g)
    with g.acme.http() as c, pytest.raises(httpx.TimeoutException):
        c.post("/v1/chat/completions", json={"model": "watched", "messages": STORY, "max_tokens": 400, "temperature": 0, "stream": True, "ignore_eos": True}, timeout=0.5)
    balanced(g)
    it = g.acme.usage_rows()[0]
    assert (it["state"], it["alias"], it["output_tokens"]) == ("client_abort", "watched", 0)
    r = ask(g, "watched")
    assert capture_of(g, r) and captures(g) == before + 1


# --- engines that fail ---


SURE, UNSURE = "sure=-0.001", "sure=-9"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fate", ["status=500", "status=503", "status=400", "cut_after=3", "errs_at=3", "cached=4"])
def test_where_engines_fail_the_client_hears_what_it_hears_without_anybody_looking(fake, fate, stream):
    pair(fake, {"arm": "auto"}, prompt_policy=CUT)
    more = {"stream": stream}
    text = f"{SURE} tokens=40 {fate}"
    plain, r = fake.acme.ask(text, "plain", **more), fake.acme.ask(text, "watched", **more)
    assert r.status_code == plain.status_code and plain_bytes(r) == plain_bytes(plain)
    assert row(fake, r)["state"] == row(fake, plain)["state"]
    if row(fake, r)["state"] == "completed":
        assert capture_of(fake, r)["answer"]["content"] == said(r)
    else:
        assert captures(fake) == 0
    balanced(fake)


@pytest.mark.parametrize("stream", [False, True])
def test_an_engine_that_fails_where_the_large_one_has_no_room_fails_the_request_alone(fake, stream):
    put(fake, "watched", {"arm": "auto"}, **LOOKED_AT)
    assert fake.admin.put("/admin/v1/tenants/acme/adapters/sql/limits", json={"tokens_per_day": 1}).status_code == 200
    r = fake.acme.ask(f"{SURE} tokens=40 " + ("errs_at=3" if stream else "status=500"), "watched", stream=stream)
    assert "error" in r.text and "sml" not in r.text, r.text
    assert row(fake, r)["state"] == "upstream_error"
    assert "sml0" in fake.acme.ask(f"{SURE} tokens=4", "watched", stream=stream).text  # it lives


@pytest.mark.parametrize("stream", [False, True])
def test_a_small_adapter_that_is_not_finite_is_blamed_though_its_answer_is_held_back(fake, stream):
    assert fake.acme.upload("pirate").status_code == 201
    targets = [{"adapter": "pirate"}, {"base": BASE}]
    put(fake, "watched", {"arm": "auto"}, targets=targets, **LOOKED_AT)
    for _ in range(2):
        fake.acme.ask(f"{SURE} tokens=40 " + ("error_after=2" if stream else "status=422 code=adapter_fault"), "watched", stream=stream)
    with fake.acme.http() as c:
        until(lambda: c.get("/v1/adapters/pirate/versions/1").json()["state"] == "quarantined", timeout=5)


def test_an_error_in_one_piece_with_tokens_takes_no_log_probabilities_to_the_client(fake):
    put(fake, "watched", **LOOKED_AT)
    r = fake.acme.ask(f"{SURE} tokens=40 burst=4 errs_at=4", "watched", stream=True)
    assert "sml0" in r.text and '"error"' in r.text and '"top_logprobs"' not in r.text, r.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("routing", [None, {"arm": "auto"}])
def test_an_engine_that_refuses_log_probabilities_is_asked_without_them(fake, routing, stream):
    put(fake, "watched", routing, **LOOKED_AT)
    r = fake.acme.ask(f"{SURE} tokens=4 dumb=1", "watched", stream=stream)
    assert r.status_code == 200 and not logprobs_of(r), r.text
    kept = capture_of(fake, r)
    assert kept["answer"]["content"] == said(r) and "logprobs" not in kept
    assert fake.acme.ask(f"{SURE} tokens=4 dumb=1", "watched", stream=stream, logprobs=True).status_code == 400
    balanced(fake)


@pytest.mark.parametrize("stream", [False, True])
def test_of_an_escalated_request_nothing_of_the_small_answer_is_kept_or_shown(fake, stream):
    pair(fake, DOUBTS, prompt_policy=CUT)
    text = f"{UNSURE} tokens=40 delay_ms=2"
    plain, r = fake.acme.ask(text, "plain", stream=stream), fake.acme.ask(text, "watched", stream=stream)
    assert way(r) == way(plain) == "escalated" and plain_bytes(r) == plain_bytes(plain) and "sml" not in r.text
    kept = capture_of(fake, r)
    assert kept["answer"]["content"] == said(r) and kept["answer"]["content"].startswith("lrg0") and len(kept["logprobs"]) == 40
    assert scores_of(fake, r)["overall"]["adapter"] == "sql"
    asked = [x["body"] for x in fake.fake_log()["log"]]
    assert [x["model"] == BASE for x in asked] == [True, False] * 2 and [x.get("top_logprobs") for x in asked] == [None, None, 2, 2]
    assert all("rag" not in (x.get("metadata") or {}) for x in asked)


def test_an_answer_whose_log_probabilities_are_too_long_is_kept_and_scored_without_them(fake):
    put(fake, "watched", **{**LOOKED_AT, "capture": {"top_logprobs": 20, "redact": []}})
    r = fake.acme.ask(f"{SURE} tokens=1200", "watched")
    assert r.status_code == 200 and not logprobs_of(r)
    kept = capture_of(fake, r)
    assert kept["answer"]["content"] == said(r) and "logprobs" not in kept
    assert scores_of(fake, r)["brief"]["score"] == 1


# --- judges ---


def judge_bodies(g):
    return [x["body"] for x in g.fake_log()["log"] if "rubric" in json.dumps(x["body"]) or "score" in json.dumps(x["body"].get("response_format") or {})]


@pytest.mark.parametrize("capture", [None, {"redact": []}])
def test_a_judge_reads_the_question_that_a_template_made_whether_it_is_captured_or_not(fake, capture):
    put(fake, "sort", prompt_policy={"template": LETTER}, evaluation={"judge": {"model": BASE}}, capture=capture)
    with fake.acme.http() as c:
        r = c.post("/v1/chat/completions", json={"model": "sort", "slots": {"text": "Where is my parcel?"}})
    assert r.status_code == 200, r.text
    body = until(lambda: judge_bodies(fake), what="the judge")[0]
    assert "Sort this: Where is my parcel?" in json.dumps(body)


def test_a_judges_own_request_is_neither_kept_nor_scored_nor_routed(fake):
    put(fake, "bench", DOUBTS, prompt_policy=CUT, **LOOKED_AT)
    put(fake, "watched", DOUBTS, prompt_policy=CUT, capture={"redact": []}, evaluation={"rules": [BRIEF], "judge": {"model": "bench"}})
    r = fake.acme.ask(f"{UNSURE} tokens=40", "watched")
    assert way(r) == "escalated"
    judged = until(lambda: (s := scores_of(fake, r)).get("judge") and s, what="the judge's score")["judge"]
    it = row(fake, judged["judge_request_id"])
    assert it["alias"] == "bench" and it["route"] is None and it["adapter"] is None  # a chain: its first answers, so that one model judges all
    time.sleep(0.3)
    with fake.acme.http() as c:
        assert c.get("/v1/evaluations", params={"alias": "bench"}).json()["data"] == []
    assert captures(fake) == 1
    assert "logprobs" not in judge_bodies(fake)[0]
