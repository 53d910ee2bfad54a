"""What takes engines down: a request or an adapter that was at two crashes is refused, everybody else goes on; who lifts it, and what is told of it."""

import sqlite3
import subprocess
import threading
import time

import httpx
import pytest

from gateway_process import BASE, BIN, DEMO, events, until
from test_gateway_exchange import stream


@pytest.fixture
def world(start):
    g = start(fake=True)
    t = g.tenant("acme")
    for name in ("sql", "pirate"):
        assert t.upload(name).status_code == 201
    return g, t


def state(t, name):
    with t.http() as c:
        return c.get(f"/v1/adapters/{name}/versions/1").json()


def happened(t, kind):
    with t.http() as c:
        return [e for e in c.get("/v1/events", params={"limit": 100}).json()["data"] if e["type"] == kind]


def audited(g, action):
    return [a for a in g.admin.get("/admin/v1/audit", params={"limit": 100}).json()["data"] if a["action"] == action]


def crashes(g):
    return g.log.read_text().count("event=engine_down")


def crash(g, t, text, model=BASE):
    """A stream in whose middle the engine ends by its own doing."""
    n = crashes(g)
    r, lines = stream(t, text, model=model)
    until(lambda: crashes(g) == n + 1, what="the crash")
    chunks, done = events(lines)
    assert not done and chunks[-1]["error"]["code"] == "engine_error"
    until(g.engine_pid, what="the next engine")


def gauges(g):
    lines = dict(x.rsplit(" ", 1) for x in httpx.get(g.admin_url + "/metrics").text.splitlines() if x.startswith("weft_quarantined_"))
    return {"adapters": int(lines["weft_quarantined_adapters"]), "requests": int(lines["weft_quarantined_requests"])}


def counted(g, *tenants):
    """How many are in quarantine, as `now` says: of all, and of each of these."""
    told = [g.admin.get("/admin/v1/now").json()["quarantined"]]
    for t in tenants:
        with t.http() as c:
            told.append(c.get("/v1/now").json()["quarantined"])
    assert told[0] == gauges(g)
    return told


def ask_when_there(t, *args, **kw):
    return until(lambda: (r := t.ask(*args, **kw)) and r.status_code != 503 and r, what="an answer")


def test_an_adapter_that_was_at_two_crashes_is_quarantined_and_its_tenants_others_go_on(world):
    g, t = world
    for i in range(2):
        assert state(t, "sql")["state"] == "ready"
        crash(g, t, f"die_after=2 prompt={i + 5}", "sql")
        assert ask_when_there(t, "tokens=2", model="pirate").status_code == 200
    until(lambda: state(t, "sql")["state"] == "quarantined")
    assert state(t, "sql")["failure"] == {"code": "engine_lost", "tensor": "", "detail": "2 engines were lost with it"}
    (row,) = g.admin.get("/admin/v1/stats/adapters", params={"state": "quarantined"}).json()["data"]
    assert row["failure"] == state(t, "sql")["failure"] and row["changed_at"] == state(t, "sql")["changed_at"] > time.time() - 60
    other = g.tenant("other")
    none = {"adapters": 0, "requests": 0}
    assert counted(g, t, other) == [{"adapters": 1, "requests": 0}] * 2 + [none]
    assert [e["target"] for e in happened(t, "version.quarantined")] == ["sql@1"]
    assert audited(g, "version.state")[0]["after"]["state"] == "quarantined"
    for model in ("sql", "sql@1"):
        r = t.ask("tokens=2", model=model)
        assert (r.status_code, r.json()["error"]["code"]) == (422, "quarantined")
    assert other.ask("tokens=2", model="sql").status_code == 404  # nothing is told to others
    assert t.ask("tokens=2", model="pirate").status_code == 200 and t.ask("tokens=2").status_code == 200
    with t.http() as c:
        for path in ("/v1/adapters/sql/restore", "/v1/adapters/sql/versions/1/restore"):
            r = c.post(path)
            assert (r.status_code, state(t, "sql")["state"]) == (403, "quarantined"), r.text  # each try would cost the others two crashes
    assert g.admin.post("/admin/v1/tenants/acme/adapters/sql/restore?wait=ready").json()["state"] == "ready"
    assert t.ask("tokens=2", model="sql").status_code == 200
    rows = g.admin.get("/admin/v1/stats/adapters").json()["data"]
    assert counted(g, t) == [none] * 2 and {(x["state"], x["failure"] is None) for x in rows} == {("ready", True)}
    crash(g, t, "die_after=2 prompt=8", "sql")
    assert state(t, "sql")["state"] == "ready"  # it began anew


def test_the_operator_restores_the_version_that_is_meant(world):
    g, t = world
    assert t.upload("sql", weights=None, folder=DEMO / "triage").json()["version"] == 2
    for i in range(2):
        t.ask(f"status=422 code=adapter_fault prompt={i + 5}", model="sql@1")
    until(lambda: state(t, "sql")["state"] == "quarantined")
    assert state(t, "sql")["failure"] == {"code": "adapter_fault", "tensor": "", "detail": "values that are not finite in 2 answers"}
    with t.http() as c:
        assert c.post("/v1/adapters/sql/versions/2/archive").json()["state"] == "archived"
    path = "/admin/v1/tenants/acme/adapters/sql/versions/%s/restore?wait=ready"
    r = g.admin.post(path % 1)
    assert r.status_code == 200 and (r.json()["version"], r.json()["state"]) == (1, "ready"), r.text
    with t.http() as c:
        assert c.get("/v1/adapters/sql/versions/2").json()["state"] == "archived"
    assert [g.admin.post(path % v).status_code for v in (1, 3, "x")] == [409, 404, 400]
    assert g.admin.post("/admin/v1/tenants/nobody/adapters/sql/versions/1/restore").status_code == 404
    viewer = g.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"]}).json()["key"]
    assert httpx.post(g.admin_url + path % 2, headers={"Authorization": f"Bearer {viewer}"}).status_code == 403
    assert audited(g, "version.state")[0]["actor"] == "system" and audited(g, "version.state")[1]["target"] == "acme/sql@1"


def test_a_request_that_was_at_two_crashes_is_refused_until_it_is_lifted(world):
    g, t = world
    n = crashes(g)
    assert t.ask("die_after=0").json()["error"]["code"] == "engine_error"  # it had not begun: sent again once, and that was the second crash
    until(lambda: crashes(g) == n + 2, what="two crashes")
    until(g.engine_pid)
    r = until(lambda: (r := t.ask("die_after=0")) and r.status_code == 422 and r)
    assert r.json()["error"]["code"] == "quarantined" and crashes(g) == n + 2
    assert t.ask("tokens=3").status_code == 200
    other = g.tenant("other")
    with t.http() as c, other.http() as o:
        listed = c.get("/v1/quarantine").json()["data"]
        assert len(listed) == 1 and listed[0]["model"] == BASE and listed[0]["crashes"] == 2 and listed[0]["id"] in r.json()["error"]["message"]
        assert listed[0]["adapter"] is None and abs(listed[0]["created_at"] - time.time()) < 60
        assert abs(listed[0]["expires_at"] - listed[0]["created_at"] - 600) <= 1 and abs(listed[0]["expires_at"] - time.time() - listed[0]["refused_s"]) <= 2
        assert counted(g, t, other) == [{"adapters": 0, "requests": 1}] * 2 + [{"adapters": 0, "requests": 0}]
        assert o.get("/v1/quarantine").json()["data"] == []
        assert o.delete(f"/v1/quarantine/{listed[0]['id']}").status_code == 404
        for query in ({}, {"tenant": "acme"}):
            (one,) = g.admin.get("/admin/v1/quarantine", params=query).json()["data"]
            assert one == {**listed[0], "tenant": "acme", "refused_s": one["refused_s"]}
        assert g.admin.get("/admin/v1/quarantine", params={"tenant": "other"}).json()["data"] == []
        assert g.admin.get("/admin/v1/quarantine", params={"tenant": "nobody"}).status_code == 404
        assert [e["target"] for e in happened(t, "request.quarantined")] == [listed[0]["id"]] == [a["target"] for a in audited(g, "request.quarantine")]
        assert c.delete(f"/v1/quarantine/{listed[0]['id']}").status_code == 200
        assert c.get("/v1/quarantine").json()["data"] == [] and kept(g) == []
        assert happened(t, "request.lifted") and audited(g, "request.lift")
    assert t.ask("die_after=0").status_code == 502  # served again, and as bad as before
    until(lambda: crashes(g) == n + 4, what="two more crashes")


SECRET = "die_after=0 prompt=42 of which nobody may read a word"


def kept(g):
    with sqlite3.connect(f"file:{g.data}/weft.db?mode=ro", uri=True) as db:
        db.row_factory = sqlite3.Row
        return [dict(r) for r in db.execute("SELECT * FROM quarantine")]


def test_a_refused_request_is_refused_after_a_restart_and_not_a_day_longer(world):
    g, t = world
    assert t.ask(SECRET).status_code == 502
    (before,) = until(lambda: g.admin.get("/admin/v1/quarantine").json()["data"])
    until(lambda: kept(g), what="its row")
    n = crashes(g)
    for end in (g.kill, g.stop):
        end()
        g.start()
        r = t.ask(SECRET)
        assert (r.status_code, r.json()["error"]["code"]) == (422, "quarantined") and before["id"] in r.json()["error"]["message"] and crashes(g) == n
        (now,) = g.admin.get("/admin/v1/quarantine").json()["data"]
        assert {k: now[k] for k in ("id", "tenant", "model", "adapter", "crashes")} == {k: before[k] for k in ("id", "tenant", "model", "adapter", "crashes")}
        assert abs(now["created_at"] - before["created_at"]) <= 1 and abs(now["expires_at"] - before["expires_at"]) <= 1
        assert counted(g) == [{"adapters": 0, "requests": 1}]
    (row,) = kept(g)
    assert not any(str(v) in SECRET.split() or "nobody" in str(v) for v in row.values()) and row["request"].startswith(now["id"])
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as db:
        db.execute("UPDATE quarantine SET until = ?", (int(time.time() * 1e6) - 1,))
    g.start()
    assert g.admin.get("/admin/v1/quarantine").json()["data"] == [] and counted(g) == [{"adapters": 0, "requests": 0}]
    assert t.ask(SECRET).status_code == 502  # its time was over


def test_as_many_rows_are_kept_as_there_is_room_for_and_none_that_are_over(world):
    g, t = world
    for i in range(12):  # no tenant has more than 128
        g.tenant(f"tenant-{i}")
    g.stop()
    now = int(time.time() * 1e6)
    with sqlite3.connect(g.data / "weft.db") as db:
        rows = [(f"{i:064x}", f"tenant-{i % 12}", now + (i - 50) * 10**9 if i < 100 else now + 10**12 + i) for i in range(1500)]  # 50 of them are over
        db.executemany(f"INSERT INTO quarantine VALUES(?, (SELECT id FROM tenant WHERE name = ?), 'm', '', 0, 2, {now - 10**9}, ?)", rows)
    g.start()
    assert gauges(g)["requests"] == 1024
    t.ask("die_after=0")
    until(lambda: any(r["crashes"] == 2 and r["request"][:40].strip("0") for r in kept(g)), what="the new row")
    assert len(kept(g)) == 1024 and min(r["until"] for r in kept(g)) > now
    assert gauges(g)["requests"] == 1024


def test_the_command_line_lists_and_lifts(world):
    g, t = world
    t.ask("die_after=0", model="sql")
    until(lambda: g.admin.get("/admin/v1/quarantine").json()["data"])
    env = {"WEFT_ADMIN_URL": g.admin_url, "WEFT_ADMIN_KEY": g.admin_key, "WEFT_URL": g.url, "WEFT_KEY": t.key, "HOME": str(g.folder), "PATH": "/usr/bin"}

    def weft(*args):
        done = subprocess.run([BIN / "weft", *args], capture_output=True, text=True, env=env, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    (one,) = g.admin.get("/admin/v1/quarantine").json()["data"]
    shown = weft("quarantine", "list")
    assert one["adapter"] == "sql@1" and "sql@1" in shown
    assert one["id"] in shown and "acme" in shown and time.strftime("%Y-%m-%d", time.gmtime(one["expires_at"])) in shown and "UNTIL" in shown.upper()
    assert one["id"] in weft("quarantine", "list", "--own") and one["id"] in weft("quarantine", "list", "--tenant", "acme")
    weft("quarantine", "lift", one["id"], "--own")
    assert one["id"] not in weft("quarantine", "list")


def test_the_same_bytes_are_quarantined_under_each_name(world):
    g, t = world
    assert t.upload("copy", DEMO / "sql").json()["state"] == "ready"
    for i in range(2):
        crash(g, t, f"die_after=2 prompt={i + 5}", "sql")
    until(lambda: state(t, "sql")["state"] == state(t, "copy")["state"] == "quarantined")
    assert state(t, "copy")["failure"]["code"] == "engine_lost"
    r = t.upload("another", DEMO / "sql")
    assert (r.status_code, r.json()["error"]["code"]) == (422, "quarantined") and "engines were lost" in r.json()["error"]["message"]
    assert t.upload("sql").status_code == 422
    assert t.upload("pirate").status_code == 200
    other = g.tenant("other")
    assert other.upload("sql").status_code == 201  # nobody else's
    assert g.admin.post("/admin/v1/tenants/acme/adapters/copy/restore?wait=ready").json()["state"] == "ready"
    assert state(t, "sql")["state"] == "quarantined"


def test_a_poison_is_refused_on_the_later_routes_of_a_chain_too(world):
    g, t = world
    with t.http() as c:
        assert c.put("/v1/aliases/chain", json={"policy": "fallback", "targets": [{"adapter": "sql"}, {"base": BASE}]}).status_code == 201
    n = crashes(g)
    for i in range(3):
        g.fake_set("/fake/forget")
        g.fake_set("/fake/load", status=422)  # no engine can load the first route's adapter
        r = t.ask("die_after=0", model="chain")
        if i < 2:
            until(lambda: crashes(g) == n + i + 1, what="a crash by the second route")
            until(g.engine_pid)
            until(lambda: i == 0 or g.admin.get("/admin/v1/quarantine").json()["data"])
    assert (r.status_code, r.json()["error"]["code"], crashes(g)) == (422, "quarantined", n + 2), r.text


def beside(g, good, bad, crash_now):
    """The innocent tenant's stream on its adapter is in flight when the other one's request comes; what that got."""
    def innocent():
        stream(good, "tokens=60 delay_ms=20", model="sql")

    thread = threading.Thread(target=innocent)
    thread.start()
    time.sleep(0.3)
    r = crash_now()
    thread.join()
    until(g.engine_pid)
    return r


def test_no_tenant_can_have_anothers_adapter_quarantined_and_who_tries_with_ever_new_bodies_is_stopped(world):
    g, t = world
    evil, n, refused = g.tenant("evil"), crashes(g), None
    for i in range(12):
        r = beside(g, t, evil, lambda i=i: evil.ask(f"die_after=2 prompt={i + 5}", stream=True))
        if r.status_code == 429:
            refused = r
            break
    assert refused is not None and crashes(g) - n <= 5, crashes(g) - n
    assert refused.json()["error"]["code"] == "tenant_quarantined" and int(refused.headers["retry-after"]) > 1
    assert evil.ask("tokens=2").status_code == 429
    assert ask_when_there(t, "tokens=2", model="sql").status_code == 200 and t.ask("tokens=2").status_code == 200
    assert state(t, "sql")["state"] == "ready" and happened(t, "version.quarantined") == []
    (one,) = until(lambda: g.admin.get("/admin/v1/quarantine").json()["data"])
    assert (one["scope"], one["tenant"]) == ("tenant", "evil") and one["crashes"] >= 4
    assert [e["target"] for e in happened(evil, "tenant.quarantined")] == [one["id"]] == [a["target"] for a in audited(g, "tenant.quarantine")]
    with evil.http() as c:
        assert [q["id"] for q in c.get("/v1/quarantine").json()["data"]] == [one["id"]]
        assert c.delete(f"/v1/quarantine/{one['id']}").status_code == 403
    assert g.admin.delete(f"/admin/v1/quarantine/{one['id']}").status_code == 200
    assert evil.ask("tokens=2").status_code == 200 and audited(g, "tenant.lift")


def test_a_poison_adapter_beside_others_is_quarantined_by_a_third_crash_that_it_is_alone_at(world):
    g, t = world
    evil = g.tenant("evil")
    assert evil.upload("triage").status_code == 201
    for i in range(3):
        assert state(evil, "triage")["state"] == "ready"
        beside(g, t, evil, lambda i=i: evil.ask(f"die_after=2 prompt={i + 5}", model="triage", stream=True))
    until(lambda: state(evil, "triage")["state"] == "quarantined")
    assert state(t, "sql")["state"] == "ready"
    assert ask_when_there(t, "tokens=2", model="sql").status_code == 200


def test_kills_from_outside_blame_nobody(world):
    g, t = world
    for _ in range(4):
        threads = [threading.Thread(target=lambda m=m: stream(t, "tokens=200 delay_ms=20", model=m)) for m in ("sql", "pirate", BASE)]
        for x in threads:
            x.start()
        until(lambda: g.engine_pid() and g.engine_state()["running"] == 3)
        g.kill_engine()
        for x in threads:
            x.join()
        until(g.engine_pid)
    assert state(t, "sql")["state"] == state(t, "pirate")["state"] == "ready"
    assert g.admin.get("/admin/v1/quarantine").json()["data"] == []
    assert t.ask("tokens=200 delay_ms=0", model="sql").status_code == 200


def test_of_many_that_were_there_both_times_only_the_guilty_one_is_refused(world):
    g, t = world
    answers, lock = {}, threading.Lock()

    def one(text, model):
        r = t.ask(text, model=model)
        with lock:
            answers[text] = r

    def wave(texts):
        threads = [threading.Thread(target=one, args=x) for x in texts]
        for x in threads:
            x.start()
        for x in threads:
            x.join()

    good = [(f"tokens=3 first_ms=400 prompt={i + 5}", ("pirate", BASE)[i % 2]) for i in range(8)]
    wave(good + [("die_after=0 first_ms=200", "sql")])  # all are there at the first crash, are sent again, and are there at the second
    until(g.engine_pid)
    wave(good)
    assert {r.status_code for r in answers.values()} <= {200, 422, 502, 503}
    until(lambda: [ask_when_there(t, *x[:1], model=x[1]).status_code for x in good] == [200] * 8)
    for _ in range(3):
        if t.ask("die_after=0 first_ms=200", model="sql").status_code == 422:
            break
        until(g.engine_pid)
    assert t.ask("die_after=0 first_ms=200", model="sql").status_code == 422
    assert state(t, "pirate")["state"] == "ready"
    assert [ask_when_there(t, *x[:1], model=x[1]).status_code for x in good] == [200] * 8
    assert crashes(g) <= 4


def test_an_adapter_whose_self_test_takes_engines_down_is_quarantined_and_not_tried_for_ever(start):
    g = start(fake=True)
    t = g.tenant("acme")
    g.fake_set("/fake/selftest", die=True)
    n = crashes(g)

    def keep_it_bad():  # the next engine is as bad to it
        while not over.wait(0.01):
            try:
                g.fake_set("/fake/selftest", die=True)
            except (httpx.HTTPError, AssertionError):
                pass

    over = threading.Event()
    thread = threading.Thread(target=keep_it_bad)
    thread.start()
    try:
        r = t.upload("sql")
        assert r.json()["state"] == "quarantined", r.text
    finally:
        over.set()
        thread.join()
    assert crashes(g) == n + 2
    until(g.engine_pid)
    assert t.ask("tokens=2").status_code == 200
