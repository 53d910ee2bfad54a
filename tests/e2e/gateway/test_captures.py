"""Captures: nothing is kept unless an alias says so; what is kept is redacted, bounded, expires, is its tenant's alone, and becomes a training set."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway_process import BASE, BIN, Gateway, until

SECRET = "zanzibar-quokka-7741"
PERSON = "Write to vera.holm@example.com or +47 22 33 41 30; card 4111 1111 1111 1111; host 10.1.2.3; key sk-abcdefghijklmnop1234."


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("captures"), fake=True)
    g.acme, g.other = g.tenant("acme"), g.tenant("other")
    yield g
    g.close()


@pytest.fixture(autouse=True)
def a_clean_slate(g):
    yield
    for t in (g.acme, g.other):
        with t.http() as c:
            c.put("/v1/captures/stop", json={"stopped": False})
            c.delete("/v1/captures")
            for a in c.get("/v1/aliases").json()["data"]:
                c.delete(f"/v1/aliases/{a['id']}")


def put(t, name, capture, key=None, **more):
    with t.http() as c:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return c.put(f"/v1/aliases/{name}", json={"targets": [{"base": BASE}], "capture": capture, **more}, headers=headers)


def ask(t, text, model="talk", **more):
    r = t.ask(text, model, **more)
    assert r.status_code == 200, r.text
    return r


def summary(t):
    with t.http() as c:
        return c.get("/v1/captures/summary").json()


def kept(t, n):
    """All of them, once there are n."""
    until(lambda: summary(t)["captures"] >= n, what=f"{n} captures")
    with t.http() as c:
        ids = [x["id"] for x in c.get("/v1/captures", params={"limit": 100}).json()["data"]]
        return [c.get(f"/v1/captures/{i}").json() for i in ids]


def export(t, **query):
    query = {"cut": "true", **query}  # the fake engine's answers end for their length
    with t.http() as c:
        r = c.get("/v1/captures/export", params=query)
    assert r.status_code == 200, r.text
    lines = [json.loads(line) for line in r.text.splitlines()]
    assert len(lines) == int(r.headers["x-weft-captures"])
    return lines


def on_disk(g, text):
    """Files of the data folder that have this text in them."""
    return [p for p in g.data.rglob("*") if p.is_file() and not p.is_symlink() and text.encode() in p.read_bytes()]


# --- nothing without ---


def test_without_a_capture_no_text_stands_anywhere_and_there_is_no_folder(g):
    assert put(g.acme, "plain", None).json()["capture"] is None
    for stream in (False, True):
        ask(g.acme, f"tokens=4 {SECRET}", "plain", stream=stream)
    ask(g.acme, f"tokens=4 {SECRET}", BASE)
    assert not on_disk(g, SECRET) and summary(g.acme)["captures"] == 0
    assert not (g.data / "captures").exists()


def test_a_capture_stands_in_one_file_and_not_in_the_database(g):
    assert put(g.acme, "talk", {"sample": 1}).status_code == 201
    r = ask(g.acme, f"tokens=4 {SECRET}")
    row = kept(g.acme, 1)[0]
    assert row["id"] == r.headers["x-request-id"] and row["alias"] == "talk" and row["version"] == BASE
    assert row["messages"][-1]["content"].endswith(SECRET) and row["answer"]["content"] == r.json()["choices"][0]["message"]["content"]
    files = on_disk(g, SECRET)
    assert [p.parent.parent.name for p in files] == ["captures"] and files[0].stat().st_mode & 0o777 == 0o600


def test_a_stream_is_kept_as_its_client_reads_it(g):
    put(g.acme, "talk", {"redact": []})
    whole = ask(g.acme, "tokens=5 the same").json()["choices"][0]["message"]["content"]
    ask(g.acme, "tokens=5 the same", stream=True)
    rows = kept(g.acme, 2)
    assert sorted(r["stream"] for r in rows) == [False, True] and {r["answer"]["content"] for r in rows} == {whole}


def test_what_the_engine_read_is_kept_with_the_alias_prefix(g):
    put(g.acme, "talk", {"expires_days": 1}, system_prefix="You are a ferry.")
    ask(g.acme, "tokens=2 hello")
    assert kept(g.acme, 1)[0]["messages"][0] == {"role": "system", "content": "You are a ferry."}


# --- who may ---


def test_only_an_admin_key_or_the_operator_switches_it_on_and_every_writer_off(g):
    writer = g.key("acme", ["writer"])
    writer = writer if isinstance(writer, str) else writer["key"]
    r = put(g.acme, "talk", {"sample": 1}, key=writer)
    assert r.status_code == 403 and r.json()["error"]["param"] == "capture", r.text
    was = put(g.acme, "talk", {"sample": 0.5}).json()
    assert put(g.acme, "talk", was["capture"], key=writer).status_code == 200  # as it stands: a writer may change the rest
    assert put(g.acme, "talk", {**was["capture"], "redact": []}, key=writer).status_code == 403
    assert put(g.acme, "talk", None, key=writer).json()["capture"] is None
    with g.acme.http() as c:
        r = c.post("/v1/aliases/talk/rollback", headers={"Authorization": f"Bearer {writer}"})
        assert r.status_code in (403, 409) and c.get("/v1/aliases/talk").json()["capture"] is None
        assert c.get("/v1/captures", headers={"Authorization": f"Bearer {writer}"}).status_code == 403
    r = g.admin.put("/admin/v1/tenants/acme/aliases/talk", json={"targets": [{"base": BASE}], "capture": {"sample": 1}})
    assert r.status_code == 200 and r.json()["capture"]["sample"] == 1
    trail = [a for a in g.admin.get("/admin/v1/audit", params={"limit": 100}).json()["data"] if a["action"].startswith("alias.") and a["target"].endswith("/talk")]
    assert trail[0]["after"]["capture"]["sample"] == 1 and trail[-1]["before"] is None


@pytest.mark.parametrize("capture,param", [
    ([], "capture"), ({"rate": 1}, "capture"), ({"sample": 0}, "capture.sample"), ({"sample": 1.5}, "capture.sample"), ({"expires_days": 0}, "capture.expires_days"),
    ({"expires_days": 366}, "capture.expires_days"), ({"max_rows": 20001}, "capture.max_rows"), ({"top_logprobs": 21}, "capture.top_logprobs"), ({"redact": ["names"]}, "capture.redact"), ({"redact": ["ip", "ip"]}, "capture.redact"),
    ({"redact": "all"}, "capture.redact"), ({"patterns": [{"name": "x"}]}, "capture.patterns"), ({"patterns": [{"name": "x", "regex": "("}]}, "capture.patterns"),
    ({"patterns": [{"name": "X", "regex": "a"}]}, "capture.patterns"), ({"patterns": [{"name": "x", "regex": "a" * 257}]}, "capture.patterns"),
    ({"patterns": [{"name": "x", "regex": "a"}] * 9}, "capture.patterns"),
])
def test_a_capture_that_says_nothing_sensible_is_refused_by_its_field(g, capture, param):
    r = put(g.acme, "wrong", capture)
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text


def test_another_tenant_sees_and_removes_nothing(g):
    put(g.acme, "talk", {"sample": 1})
    ask(g.acme, "tokens=2 mine")
    row = kept(g.acme, 1)[0]
    with g.other.http() as c:
        assert c.get("/v1/captures").json()["data"] == [] and c.get("/v1/captures/export").text == ""
        absent = c.get("/v1/captures/00000000-0000-7000-8000-000000000000")
        for r in (c.get(f"/v1/captures/{row['id']}"), c.delete(f"/v1/captures/{row['id']}"),
                  c.post(f"/v1/captures/{row['id']}/answers", json={"version": "x@1", "content": "y"})):
            assert r.status_code == 404 and r.json()["error"]["code"] == absent.json()["error"]["code"]
        assert c.get(f"/t/acme/v1/captures/{row['id']}").status_code == 401
        assert c.delete("/v1/captures").json()["captures"] == 0
    assert summary(g.acme)["captures"] == 1
    assert SECRET not in g.admin.get("/admin/v1/tenants/acme/captures/summary").text


# --- redaction ---


def test_what_has_a_shape_is_gone_before_anything_is_written(g):
    put(g.acme, "talk", {"patterns": [{"name": "order", "regex": "\\bORD-\\d{4}\\b"}]})
    ask(g.acme, f"tokens=4 {PERSON} About ORD-4711 of 2026-11-23, 12 pieces.")
    row = kept(g.acme, 1)[0]
    text = row["messages"][-1]["content"]
    for word in ("[email]", "[phone]", "[card]", "[ip]", "[secret]", "[order]", "2026-11-23", "12 pieces"):
        assert word in text, text
    assert row["redacted"]["email"] >= 1 and row["redacted"]["order"] >= 1
    for gone in ("vera.holm", "22 33 41", "4111 1111", "10.1.2.3", "abcdefghijklmnop", "ORD-4711"):
        assert not on_disk(g, gone), gone
    assert "vera.holm" not in g.tail()


def test_a_pattern_that_takes_too_long_keeps_nothing(g):
    put(g.acme, "talk", {"patterns": [{"name": "slow", "regex": "(a+)+$"}]})
    ask(g.acme, "tokens=2 " + "a" * 200 + "!")
    put(g.acme, "talk", {"sample": 1})
    ask(g.acme, "tokens=2 after")
    assert [r["messages"][-1]["content"] for r in kept(g.acme, 1)] == ["tokens=2 after"]
    assert not on_disk(g, "a" * 200)


# --- bounds, ends ---


def test_the_oldest_go_where_there_are_too_many(g):
    put(g.acme, "talk", {"max_rows": 3})
    ids = [ask(g.acme, f"tokens=1 number {i}").headers["x-request-id"] for i in range(5)]
    until(lambda: any(ids[-1] == x["id"] for x in kept(g.acme, 1)), what="the last")
    assert [r["id"] for r in kept(g.acme, 3)] == ids[:1:-1]
    with g.acme.http() as c:
        page = c.get("/v1/captures", params={"limit": 2}).json()
        assert [x["id"] for x in page["data"]] == ids[:2:-1] and page["has_more"]
        rest = c.get("/v1/captures", params={"limit": 2, "after": page["last_id"]}).json()
        assert [x["id"] for x in rest["data"]] == [ids[2]] and not rest["has_more"]
        back = c.get("/v1/captures", params={"limit": 2, "before": ids[2]}).json()
        assert [x["id"] for x in back["data"]] == ids[:2:-1]


def test_the_stop_keeps_nothing_until_it_ends_and_survives_a_restart(g):
    put(g.acme, "talk", {"sample": 1})
    with g.acme.http() as c:
        assert c.put("/v1/captures/stop", json={"stopped": True}).json()["stopped"]
    ask(g.acme, f"tokens=2 {SECRET}")
    g.stop()
    g.start()
    ask(g.acme, f"tokens=2 {SECRET}")
    assert summary(g.acme) == {**summary(g.acme), "captures": 0, "stopped": True} and not on_disk(g, SECRET)
    assert g.admin.put("/admin/v1/tenants/acme/captures/stop", json={"stopped": False}).json()["stopped"] is False
    ask(g.acme, "tokens=2 again")
    assert len(kept(g.acme, 1)) == 1
    with g.acme.http() as c:
        assert [e["type"] for e in c.get("/v1/events", params={"limit": 100}).json()["data"] if e["type"].startswith("capture.")][-2:] == ["capture.stopped", "capture.resumed"]
    actions = [a["action"] for a in g.admin.get("/admin/v1/audit", params={"limit": 20}).json()["data"]]
    assert "capture.stop" in actions and "capture.resume" in actions


def outcomes(g):
    text = g.admin.get("/metrics").text
    return {line.split('outcome="')[1].split('"')[0]: int(float(line.split()[-1])) for line in text.splitlines() if line.startswith("weft_captures_total{")}


@pytest.mark.parametrize("end", ["none", "gone", "rolled_back"])
def test_what_was_picked_before_the_alias_kept_nothing_is_not_kept_after(g, end):
    if end == "rolled_back":
        put(g.acme, "talk", None)
    put(g.acme, "talk", {"sample": 1})
    before = outcomes(g)
    with ThreadPoolExecutor(1) as crowd, g.acme.http() as c:
        late = crowd.submit(ask, g.acme, f"tokens=4 first_ms=700 {SECRET}")
        until(lambda: g.engine_state()["running"] == 1, what="a request that is under way")
        if end == "none":
            assert put(g.acme, "talk", None).json()["capture"] is None
        elif end == "gone":
            assert c.delete("/v1/aliases/talk").status_code == 200
        else:
            assert c.post("/v1/aliases/talk/rollback").json()["capture"] is None
        late.result()
    until(lambda: outcomes(g).get("stopped", 0) > before.get("stopped", 0), what="a capture that is dropped")
    assert outcomes(g).get("kept", 0) == before.get("kept", 0) and summary(g.acme)["captures"] == 0 and not on_disk(g, SECRET)


def test_a_stop_of_the_operator_is_not_the_tenants_to_end(g):
    put(g.acme, "talk", {"sample": 1})
    with g.acme.http() as c:
        assert c.put("/v1/captures/stop", json={"stopped": True}).json()["stopped"]
        assert g.admin.put("/admin/v1/tenants/acme/captures/stop", json={"stopped": True}).json()["stopped"]
        for _ in range(2):
            r = c.put("/v1/captures/stop", json={"stopped": False})
            assert r.status_code == 403 and r.json()["error"]["code"] == "insufficient_permissions" and summary(g.acme)["stopped"]
            assert c.put("/v1/captures/stop", json={"stopped": True}).status_code == 200  # says so again, and takes nothing over
        assert g.admin.put("/admin/v1/tenants/acme/captures/stop", json={"stopped": False}).json()["stopped"] is False
        assert c.put("/v1/captures/stop", json={"stopped": True}).json()["stopped"]
        assert c.put("/v1/captures/stop", json={"stopped": False}).json()["stopped"] is False


def test_what_has_expired_is_gone_from_the_disk_after_the_upkeep_looked(g):
    put(g.acme, "talk", {"expires_days": 1})
    ask(g.acme, f"tokens=2 {SECRET}")
    row = kept(g.acme, 1)[0]
    assert abs(row["expires_at"] - row["created_at"] - 86400) < 120
    g.stop()
    file, = on_disk(g, SECRET)
    name = file.name.split(".")
    file.rename(file.with_name(".".join([name[0], str(int(time.time()) - 1), *name[2:]])))  # as if a day had passed
    g.start()
    until(lambda: not on_disk(g, SECRET), what="the end of an expired capture")
    assert summary(g.acme)["captures"] == 0


def test_removing_takes_the_file_and_is_told(g):
    put(g.acme, "talk", {"sample": 1})
    put(g.acme, "more", {"sample": 1})
    one = ask(g.acme, "tokens=1 one").headers["x-request-id"]
    ask(g.acme, "tokens=1 two")
    ask(g.acme, f"tokens=1 {SECRET}", "more")
    kept(g.acme, 3)
    with g.acme.http() as c:
        assert c.delete(f"/v1/captures/{one}").json()["captures"] == 1 and c.get(f"/v1/captures/{one}").status_code == 404
        assert c.delete("/v1/captures", params={"alias": "more"}).json()["captures"] == 1 and not on_disk(g, SECRET)
        assert summary(g.acme)["captures"] == 1
    assert g.admin.delete("/admin/v1/tenants/acme/captures").json()["captures"] == 1
    with g.acme.http() as c:
        gone = [e for e in c.get("/v1/events", params={"limit": 100}).json()["data"] if e["type"] == "capture.deleted"]
    assert [e["target"] for e in gone[-3:]] == [one, "more", "*"]


def test_captures_are_in_no_backup(g):
    put(g.acme, "talk", {"sample": 1})
    ask(g.acme, f"tokens=2 {SECRET}")
    kept(g.acme, 1)
    made = g.admin.post("/admin/v1/backups", json={}).json()
    until(lambda: g.admin.get(f"/admin/v1/backups/{made['id']}").json()["state"] == "complete", what="a backup")
    assert {p.parent.parent.name for p in on_disk(g, SECRET)} == {"captures"}


# --- a training set ---


def test_the_export_is_a_line_for_each_with_its_rating(g):
    put(g.acme, "talk", {"redact": []})
    ids = [ask(g.acme, f"tokens=2 question {i}").headers["x-request-id"] for i in range(3)]
    kept(g.acme, 3)
    with g.acme.http() as c:
        until(lambda: c.post("/v1/feedback", json={"request_id": ids[1], "rating": -1, "label": "wrong"}).status_code == 200, what="a settled request")
    lines = export(g.acme, alias="talk")
    assert [x["weft"]["request"] for x in lines] == ids
    assert [m["role"] for m in lines[0]["messages"]] == ["user", "assistant"]
    assert [(x["weft"].get("rating"), x["weft"].get("label")) for x in lines] == [(None, None), (-1, "wrong"), (None, None)]
    assert [x["weft"]["request"] for x in export(g.acme, rating_below=0)] == [ids[1]] and export(g.acme, rating_above=0) == []
    assert export(g.acme, cut="false") == [] and export(g.acme, alias="other") == [] and export(g.acme, version="x@1") == [] and len(export(g.acme, version=BASE)) == 3
    with g.acme.http() as c:
        for query, param in (({"format": "csv"}, "format"), ({"rating_below": 2}, "rating_below"), ({"rating_below": "nan"}, "rating_below"), ({"rating_above": "-inf"}, "rating_above"), ({"disagreements": "a"}, "disagreements"), ({"cut": "maybe"}, "cut"),
                             ({"disagreements": "a,b", "answer": "a"}, "disagreements"), ({"what": 1}, "what")):
            r = c.get("/v1/captures/export", params=query)
            assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text


def test_another_versions_answers_make_disagreements(g):
    put(g.acme, "talk", {"sample": 1})
    for i in range(3):
        ask(g.acme, f"tokens=2 question {i}")
    rows = kept(g.acme, 3)
    with g.acme.http() as c:
        same = c.post(f"/v1/captures/{rows[0]['id']}/answers", json={"version": "small@1", "content": rows[0]["answer"]["content"] + "\n"})
        other = c.post(f"/v1/captures/{rows[1]['id']}/answers", json={"version": "small@1", "content": "no, ask vera@example.com"})
        assert same.status_code == other.status_code == 200, other.text
        assert other.json()["answers"] == [{"version": "small@1", "answer": {"role": "assistant", "content": "no, ask [email]"}}]
        for i in range(7):
            assert c.post(f"/v1/captures/{rows[1]['id']}/answers", json={"version": f"v@{i + 1}", "content": "x"}).status_code == 200
        assert c.post(f"/v1/captures/{rows[1]['id']}/answers", json={"version": "v@8", "content": "x"}).status_code == 409
    line, = export(g.acme, disagreements=f"{BASE},small@1")
    assert line["weft"]["request"] == rows[1]["id"] and line["messages"][-1] == rows[1]["answer"]
    assert line["weft"]["other"] == {"version": "small@1", "answer": {"role": "assistant", "content": "no, ask [email]"}}
    assert [x["messages"][-1]["content"] for x in export(g.acme, answer="small@1")] == ["no, ask [email]", rows[0]["answer"]["content"] + "\n"]


def test_answers_that_come_at_once_are_all_kept(g):
    put(g.acme, "talk", {"sample": 1})
    ask(g.acme, "tokens=4 alpha")
    (row,) = kept(g.acme, 1)

    def add(version, content="x"):
        with g.acme.http() as c:
            return c.post(f"/v1/captures/{row['id']}/answers", json={"version": version, "content": content}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(add, [f"v@{i}" for i in range(8)])) == 8 * [200]
    (row,) = kept(g.acme, 1)
    assert sorted(x["version"] for x in row["answers"]) == [f"v@{i}" for i in range(8)]


def test_answers_take_no_more_room_than_captures_may(tmp_path):
    g = Gateway(tmp_path, "--capture-mb", "1", fake=True)
    try:
        acme = g.tenant("acme")
        put(acme, "talk", {"sample": 1})
        for i in range(3):
            ask(acme, f"tokens=4 {i}")
        with acme.http() as c:
            codes = [c.post(f"/v1/captures/{row['id']}/answers", json={"version": f"v@{i}", "content": "word " * 12000}).status_code for row in kept(acme, 3) for i in range(7)]
        assert codes[0] == 200 and codes[-1] == 409 and summary(acme)["bytes"] <= 1 << 20
    finally:
        g.close()


def test_the_command_exports_and_compares(g, tmp_path):
    put(g.acme, "talk", {"sample": 1})
    for i in range(2):
        ask(g.acme, f"tokens=2 question {i}")
    kept(g.acme, 2)
    env = {**os.environ, "WEFT_URL": g.url, "WEFT_KEY": g.acme.key, "WEFT_CONFIG": "/dev/null"}
    weft = lambda *words: subprocess.run([BIN / "weft", *words], env=env, capture_output=True, text=True, timeout=60)
    out = weft("capture", "export", str(tmp_path / "set.jsonl"), "--alias", "talk", "--cut")
    assert out.returncode == 0 and "2 conversations" in out.stderr, out
    assert len((tmp_path / "set.jsonl").read_text().splitlines()) == 2
    out = weft("capture", "compare", "--with", "talk", "--limit", "1", "--json")
    assert out.returncode == 0 and json.loads(out.stdout)["asked"] == 1, out
    assert weft("capture", "summary").returncode == 0 and "talk" in weft("capture", "list").stdout
    assert weft("capture", "stop").returncode == 0 and summary(g.acme)["stopped"]


# --- log-probabilities, on the real engine ---


SORT = [{"role": "system", "content": "You sort customer messages. Answer with one JSON object."}, {"role": "user", "content": "I was charged twice for my blender."}]


def chat(t, model, **more):
    with t.http() as c:
        r = c.post("/v1/chat/completions", json={"model": model, "messages": SORT, "temperature": 0, "max_tokens": 60, **more})
    assert r.status_code == 200, r.text
    return r


def choices(r):
    if r.headers["content-type"].startswith("application/json"):
        return r.json()["choices"]
    return [c for line in r.text.splitlines() if line.startswith("data: {") for c in json.loads(line[6:])["choices"]]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_captured_and_the_client_sees_none_that_it_did_not_ask_for(tenants, stream):
    t = tenants["triage"]
    plain = chat(t, "triage", stream=stream)
    with t.http() as c:
        assert c.put("/v1/aliases/watched", json={"targets": [{"adapter": "triage"}], "capture": {"top_logprobs": 3}}).status_code == 201
    try:
        r = chat(t, "watched", stream=stream)
        assert all(x["logprobs"] is None for x in choices(r)) and len(choices(r)) == len(choices(plain))
        asked = chat(t, "watched", stream=stream, logprobs=True)
        assert any(x["logprobs"] for x in choices(asked))
        rows = {x["id"]: x for x in kept(t, 2)}
        row = rows[r.headers["x-request-id"]]
        text = row["answer"]["content"]
        assert text.startswith("{") and "".join(x["token"] for x in row["logprobs"]) == text
        assert all(len(x["top_logprobs"]) == 3 and x["top_logprobs"][0]["logprob"] >= x["top_logprobs"][1]["logprob"] for x in row["logprobs"])
        line = next(x for x in export(t) if x["weft"]["request"] == row["id"])
        assert line["weft"]["logprobs"] == row["logprobs"] and line["weft"]["version"] == "triage@1"
        says = lambda a: "".join((x.get("message") or x.get("delta"))["content"] or "" for x in choices(a) if "content" in (x.get("message") or x["delta"]))
        assert says(r) == says(plain) == says(asked) == text
        usage = [get for get in (t.usage(x.headers["x-request-id"]) for x in (plain, r))]
        assert usage[0]["output_tokens"] == usage[1]["output_tokens"]
    finally:
        with t.http() as c:
            c.delete("/v1/aliases/watched")
            c.delete("/v1/captures")
