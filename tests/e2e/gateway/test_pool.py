"""Several engines behind one gateway: placement, loss, ejection, drain, private tenants, tokens. Fakes but for the last ones."""

import concurrent.futures
import http.server
import json
import subprocess
import threading
import time

import httpx
import pytest

from gateway_process import BASE, FAKE, events, until

LOAD_S = 60


class Fake:
    """A fake engine at an address."""

    def __init__(self, folder, name, token="", base="", port=0):
        self.name, self.folder, self.token, self.base = name, folder, token, base
        self.start(port)

    def start(self, port):
        command = [str(FAKE), "serve", "--listen", f"127.0.0.1:{port}", "--base", self.base]
        if self.token:
            path = self.folder / f"{self.name}.token"
            path.write_text(self.token)
            command += ["--token-file", str(path)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().split()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def log(self):
        return httpx.get(f"{self.url}/fake/log", timeout=10).json()

    def served(self):
        """The model of each request, adapters as digests."""
        return [x["body"]["model"] for x in self.log()["log"]]

    def set(self, path, **body):
        assert httpx.post(self.url + path, json=body, timeout=10).status_code == 200

    def kill(self):
        self.process.kill()
        self.process.wait()

    def restart(self):
        self.kill()
        self.start(self.port)


@pytest.fixture
def fakes(tmp_path):
    started = []

    def go(name, **kw):
        started.append(Fake(tmp_path, name, **kw))
        return started[-1]

    yield go
    for f in started:
        f.kill()


@pytest.fixture
def pool(start, fakes):
    """pool(n) -> a gateway without an engine of its own, and n fakes e0, e1, ... that it serves from."""
    def go(n, *args, **kw):
        g = start("--pool-only", "true", "--model", "", *args, fake=True, ready=False)
        engines = [fakes(f"e{i}", **kw) for i in range(n)]
        for f in engines:
            add(g, f)
        return g, engines

    return go


def add(g, f, **fields):
    body = {"name": f.name, "base": f.base or BASE, "url": f.url, "local": True, **fields}
    r = g.admin.post("/admin/v1/engines", json=body)
    assert r.status_code == 201, r.text
    until(lambda: status(g, f.name)["state"] == "ready", what=f"{f.name} ready")
    return r.json()


def engine(g, name):
    r = g.admin.get(f"/admin/v1/engines/{name}")
    assert r.status_code == 200, r.text
    return r.json()


def status(g, name):
    return engine(g, name)["status"]


def idle(g):
    until(lambda: all(e["status"]["in_flight"] == 0 for e in g.admin.get("/admin/v1/engines").json()["data"]), what="idle engines")
    until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, what="a settled ledger")


def stream(t, text, model=BASE):
    with t.http() as c, c.stream("POST", "/v1/chat/completions", json={"model": model, "stream": True, "messages": [{"role": "user", "content": text}]}) as r:
        if r.status_code != 200:
            return r.status_code, [], False
        return (200, *events(r.iter_lines()))


class Traffic:
    """Requests from some threads, until it is stopped."""

    def __init__(self, ask, threads=4):
        self.answers, self.stop = [], threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(ask,)) for _ in range(threads)]
        for t in self.threads:
            t.start()

    def run(self, ask):
        while not self.stop.is_set():
            self.answers.append(ask().status_code)

    def after(self, n):
        """Waits for so many further answers."""
        want = len(self.answers) + n
        until(lambda: len(self.answers) >= want, LOAD_S, f"{n} further answers")

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join()
        return self.answers


def metered(t, n):
    """All n requests stand in the ledger, each once."""
    rows = until(lambda: (r := t.usage_rows()) and len(r) >= n and r, what=f"{n} usage rows")
    assert len(rows) == n and len({r["id"] for r in rows}) == n
    return rows


# --- placement ---


def test_requests_for_the_base_are_spread_and_an_adapters_stay_on_one_engine(pool):
    g, engines = pool(3)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    for _ in range(60):
        assert t.ask("tokens=1").status_code == 200
    assert all(len(e.served()) >= 5 for e in engines)
    before = [len(e.served()) for e in engines]
    for _ in range(30):
        assert t.ask("tokens=1", model="sql").status_code == 200
    grown = [len(e.served()) - b for e, b in zip(engines, before)]
    assert sorted(grown) == [0, 0, 30]
    assert [len(e.log()["loads"]) for e in engines] == [int(n > 0) for n in grown]
    rows = [r for r in metered(t, 90) if r["adapter"] == "sql"]
    assert {r["engine"] for r in rows} == {engines[grown.index(30)].name}


def test_a_busy_adapter_spills_to_further_engines_in_one_order(pool):
    g, engines = pool(8)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    with concurrent.futures.ThreadPoolExecutor(6) as many:  # above four it leaves home: one engine for each two in flight, and a quarter of all to choose from
        answers = list(many.map(lambda _: t.ask("tokens=4 delay_ms=50", model="sql").status_code, range(24)))
    assert answers == [200] * 24
    used = [e for e in engines if e.served()]
    assert 2 <= len(used) <= 6
    top = g.admin.get("/admin/v1/top").json()
    where = [x for x in top["adapters"] if x["adapter"] == "sql"][0]["engines"]
    assert {x["engine"] for x in where if x["resident"]} == {e.name for e in used}


def test_several_bases_are_served_side_by_side(pool, fakes):
    g, (one,) = pool(1)
    two = fakes("two", base="other-base")
    add(g, two)
    t = g.tenant("acme")
    for model, f in ((BASE, one), ("other-base", two)):
        before = len(f.served())
        assert t.ask("tokens=1", model=model).status_code == 200
        assert len(f.served()) == before + 1
    r = t.ask("tokens=1", model="third-base")
    assert r.status_code == 404 and r.json()["error"]["code"] == "model_not_found"
    g.admin.delete("/admin/v1/engines/two")
    assert t.ask("tokens=1", model="other-base").status_code == 404


def test_a_base_may_be_served_under_another_name_than_the_engines_own(pool, fakes):
    g, (one,) = pool(1)
    two = fakes("two", base="inner-name")
    add(g, two, base="outer/name")
    t = g.tenant("acme")
    r = t.ask("tokens=1", model="outer/name")
    assert r.status_code == 200 and r.json()["model"] == "outer/name"
    assert two.served() == ["inner-name"] and one.served() == []


def test_an_engine_of_another_base_under_the_same_name_gets_nothing(pool, fakes):
    g, (one,) = pool(1)
    two = fakes("two", base="not-the-same")
    r = g.admin.post("/admin/v1/engines", json={"name": "two", "base": BASE, "url": two.url, "local": True})
    assert r.status_code == 201
    until(lambda: status(g, "two")["state"] == "conflict", what="the conflict")
    t = g.tenant("acme")
    for _ in range(20):
        assert t.ask("tokens=1").status_code == 200
    assert two.served() == [] and "another base" in status(g, "two")["why"]


# --- losing engines ---


def test_when_an_engine_is_killed_under_load_no_request_that_has_not_begun_is_lost(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    traffic = Traffic(lambda: t.ask("tokens=2 first_ms=20"), threads=8)
    traffic.after(40)
    a.kill()
    traffic.after(120)
    answers = traffic.end()
    assert set(answers) == {200}
    assert len(a.served() if a.process.poll() is None else []) == 0
    rows = metered(t, len(answers))
    assert {r["state"] for r in rows} == {"completed"} and {r["engine"] for r in rows} == {"e0", "e1"}
    assert all(r["output_tokens"] == 2 for r in rows) and any(r["attempt"] > 1 for r in rows)
    idle(g)


def test_a_stream_that_has_begun_ends_in_an_error_event_and_is_billed_what_was_delivered(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    status_code, data, done = stream(t, "tokens=9 delay_ms=20 die_after=3")
    assert status_code == 200 and not done and data[-1]["error"]["code"] == "engine_error"
    assert len(data) == 4
    row = metered(t, 1)[0]
    assert row["state"] == "upstream_error" and row["output_tokens"] == 3 and row["attempt"] == 1
    idle(g)


def test_a_request_that_kills_engines_does_not_kill_all_of_them(pool):
    g, engines = pool(4)
    t = g.tenant("acme")
    r = t.ask("die_after=0")
    assert r.status_code == 502 and r.json()["error"]["code"] == "engine_error"
    until(lambda: len([e for e in engines if e.process.poll() is None]) == 1, what="three ends")
    assert metered(t, 1)[0]["attempt"] == 3
    assert t.ask("tokens=1").status_code == 200


def test_an_engine_that_fails_three_times_in_a_row_is_ejected_and_comes_back(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    with concurrent.futures.ThreadPoolExecutor(4) as many:
        answers = list(many.map(lambda _: t.ask("status=500").status_code, range(6)))
    assert set(answers) == {502}
    states = {status(g, n)["state"] for n in ("e0", "e1")}
    assert states == {"ejected"} and t.ask("tokens=1").status_code == 200  # better than none
    assert all(status(g, n)["ejections"] == 1 for n in ("e0", "e1"))
    until(lambda: status(g, "e0")["state"] == "ready", what="its return")
    assert status(g, "e0")["weight"] < 1

    def told(engine):
        return [e["type"] for e in g.admin.get("/admin/v1/events").json()["data"] if e["target"] == engine]
    until(lambda: told("e0") == ["engine.ejected", "engine.back"], what="the events")


def test_a_busy_engines_refusal_is_passed_on_only_when_no_other_engine_takes_the_request(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    r = t.ask("status=503 code=queue_full")
    assert r.status_code == 503 and r.headers["retry-after"] == "7"
    assert len(a.served()) == 1 and len(b.served()) == 1
    row = metered(t, 1)[0]
    assert row["state"] == "rejected" and row["attempt"] == 2 and row["output_tokens"] == 0


def test_an_adapter_that_one_engine_can_not_load_is_served_by_another(pool):
    g, engines = pool(2)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    for _ in range(2):  # wherever its home is
        for f, other in (engines, engines[::-1]):
            f.set("/fake/load", status=503)
            f.set("/fake/forget")
            assert t.ask("tokens=1", model="sql").status_code == 200
            assert t.usage_rows()[0]["engine"] == other.name
            f.set("/fake/load", status=200)
    idle(g)


# --- changes while traffic runs ---


def test_an_engine_is_added_drained_disabled_and_removed_while_traffic_runs(pool, fakes):
    g, (a,) = pool(1)
    t = g.tenant("acme")
    traffic = Traffic(lambda: t.ask("tokens=2 first_ms=10"), threads=6)
    traffic.after(20)
    b = fakes("b")
    add(g, b)
    until(lambda: len(b.served()) >= 5, LOAD_S, "requests on the new one")
    r = g.admin.post("/admin/v1/engines/e0/drain")
    assert r.status_code == 200 and r.json()["state"] == "draining"
    until(lambda: status(g, "e0")["drained"], what="the drain")
    had = len(a.served())
    traffic.after(20)
    assert len(a.served()) == had
    assert g.admin.post("/admin/v1/engines/e0/enable").json()["state"] == "enabled"
    until(lambda: len(a.served()) > had, LOAD_S, "requests on the enabled one")
    assert g.admin.post("/admin/v1/engines/b/disable").json()["state"] == "disabled"
    traffic.after(10)
    had = len(b.served())
    traffic.after(20)
    assert len(b.served()) == had
    assert g.admin.delete("/admin/v1/engines/b").json() == {"id": "b", "object": "engine", "deleted": True}
    traffic.after(10)
    answers = traffic.end()
    assert set(answers) == {200}
    metered(t, len(answers))
    idle(g)


def test_a_stream_on_an_engine_that_is_removed_ends_there(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    with concurrent.futures.ThreadPoolExecutor(1) as one:
        running = one.submit(stream, t, "tokens=30 delay_ms=40", "sql")
        home = until(lambda: [f for f in (a, b) if f.log()["running"]], what="the stream")[0]
        assert g.admin.delete(f"/admin/v1/engines/{home.name}").status_code == 200
        again = g.admin.post("/admin/v1/engines", json={"name": home.name, "base": BASE, "url": home.url})
        assert again.status_code == 409
        code, data, done = running.result()
    assert code == 200 and done and len(data) == 30
    until(lambda: g.admin.post("/admin/v1/engines", json={"name": home.name, "base": BASE, "url": home.url}).status_code == 201, what="the free name")


def test_capacity_bounds_what_an_engine_gets_and_the_rest_waits(pool):
    g, (a,) = pool(1)
    t = g.tenant("acme")
    assert g.admin.patch("/admin/v1/engines/e0", json={"capacity": 2}).status_code == 200
    most, stop = [0], threading.Event()

    def watch():
        while not stop.is_set():
            most[0] = max(most[0], a.log()["running"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    with concurrent.futures.ThreadPoolExecutor(10) as many:
        answers = list(many.map(lambda _: t.ask("tokens=2 delay_ms=20").status_code, range(20)))
    stop.set()
    watcher.join()
    assert answers == [200] * 20 and most[0] == 2


# --- chains ---


def test_a_chain_goes_on_to_its_next_base_where_no_engine_serves_the_first_before_the_first_byte(pool, fakes):
    g, (near,) = pool(1)
    first = fakes("first", base="first-base")
    add(g, first)
    t = g.tenant("acme")
    with t.http() as c:
        r = c.put("/v1/aliases/chain", json={"policy": "fallback", "targets": [{"base": "first-base"}, {"base": BASE}]})
        assert r.status_code in (200, 201), r.text
    assert t.ask("tokens=1", model="chain").status_code == 200
    assert (first.served(), near.served()) == (["first-base"], [])
    assert t.ask("status=503 code=queue_full", model="chain").status_code == 503  # both said so
    assert (len(first.served()), len(near.served())) == (2, 1)
    g.admin.post("/admin/v1/engines/first/drain")
    assert t.ask("tokens=1", model="chain").status_code == 200
    assert len(near.served()) == 2
    g.admin.post("/admin/v1/engines/first/enable")
    first.kill()
    r = t.ask("tokens=3", model="chain")
    assert r.status_code == 200 and len(near.served()) == 3
    rows = metered(t, 4)
    assert rows[0]["engine"] == "e0" and rows[0]["output_tokens"] == 3
    idle(g)


# --- private tenants ---


def test_no_byte_of_a_private_tenant_reaches_an_engine_that_is_not_local(pool, fakes):
    g, (near,) = pool(1)
    far = fakes("far")
    add(g, far, local=False)
    quiet = g.tenant("quiet")
    assert g.admin.patch("/admin/v1/tenants/quiet", json={"private": True}).status_code == 200
    assert quiet.upload("sql").status_code == 201
    digest = near.log()["loads"][0]
    for model in (BASE, "sql") * 20:
        assert quiet.ask("tokens=1", model=model).status_code == 200
    assert len(near.served()) == 40
    near.set("/fake/load", status=503)
    near.set("/fake/forget")
    assert quiet.ask("tokens=1", model="sql").status_code == 503
    g.admin.post("/admin/v1/engines/e0/drain")
    r = quiet.ask("tokens=1")
    assert r.status_code == 503 and "leave for no other" in r.json()["error"]["message"]
    with quiet.http() as c:
        assert c.delete("/v1/adapters/sql").status_code in (200, 204)
    assert g.tenant("loud").ask("tokens=1").status_code == 200
    seen = json.dumps(far.log())
    assert len(far.served()) == 1 and digest not in seen and "quiet" not in seen and far.log()["loads"] == []


def test_a_private_tenants_request_whose_engine_dies_is_not_sent_elsewhere(pool, fakes):
    g, (near,) = pool(1)
    far = fakes("far")
    add(g, far, local=False)
    quiet = g.tenant("quiet")
    assert g.admin.patch("/admin/v1/tenants/quiet", json={"private": True}).status_code == 200
    with concurrent.futures.ThreadPoolExecutor(1) as one:
        asked = one.submit(quiet.ask, "tokens=2 first_ms=400")
        until(lambda: near.log()["running"], what="the request")
        near.restart()
        assert asked.result().status_code == 200  # on the one that came back
    assert far.served() == []


def test_a_request_that_waits_when_its_tenant_becomes_private_stays_with_local_engines(pool, fakes):
    g, _ = pool(0)
    far = fakes("far")
    add(g, far, local=False)
    assert g.admin.patch("/admin/v1/engines/far", json={"capacity": 1}).status_code == 200
    t, other = g.tenant("quiet"), g.tenant("other")
    with concurrent.futures.ThreadPoolExecutor(2) as two:
        holder = two.submit(other.ask, "tokens=2 delay_ms=700")
        until(lambda: far.log()["running"], what="the full engine")
        waiter = two.submit(t.ask, "tokens=1")
        until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 2, what="the waiting request")
        assert g.admin.patch("/admin/v1/tenants/quiet", json={"private": True}).status_code == 200
        assert holder.result().status_code == 200
        r = waiter.result()
    assert r.status_code == 503 and "leave for no other" in r.json()["error"]["message"]
    assert len(far.served()) == 1
    idle(g)


# --- tokens ---


class Impostor(http.server.BaseHTTPRequestHandler):
    """Answers like an engine, and keeps all it is told."""

    seen = None
    real = None

    def do_GET(self):
        self.seen.append((self.path, str(self.headers)))
        if self.path.startswith("/weft/v1/hello"):
            body = json.dumps(self.real(self.path)).encode()
        else:
            body = json.dumps({"status": "ok"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *args):
        pass


@pytest.mark.parametrize("proof", ["nothing", "a proof of another token", "an old proof"])
def test_an_engine_that_does_not_know_the_token_never_sees_it(pool, fakes, proof):
    g, _ = pool(0)
    other = fakes("other", token="some-other-token")
    genuine = fakes("genuine", token="the-secret-token")
    old = httpx.get(f"{genuine.url}/weft/v1/hello?nonce={'0' * 64}").json()
    answers = {"nothing": lambda path: {"hello": "you"}, "a proof of another token": lambda path: httpx.get(other.url + path).json(), "an old proof": lambda path: old}
    seen = []
    handler = type("It", (Impostor,), {"seen": seen, "real": staticmethod(answers[proof])})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        r = g.admin.post("/admin/v1/engines", json={"name": "it", "base": BASE, "url": f"http://127.0.0.1:{server.server_port}", "secret": "the-secret-token"})
        assert r.status_code == 201
        until(lambda: len([p for p, _ in seen if p.startswith("/weft/v1/hello")]) >= 3, what="greetings")
        assert "token" in status(g, "it")["why"] and status(g, "it")["state"] == "starting"
        assert g.tenant("acme").ask("tokens=1", model=BASE).status_code in (404, 503)
        assert "the-secret-token" not in json.dumps(seen)
        assert all(p.startswith("/weft/v1/hello") for p, _ in seen)
    finally:
        server.shutdown()
        server.server_close()


def test_the_token_of_an_engine_is_proved_sent_sealed_and_never_shown(pool, fakes):
    g, _ = pool(0)
    f = fakes("f", token="the-secret-token")
    made = add(g, f, secret="the-secret-token")
    assert made["has_secret"] is True
    t = g.tenant("acme")
    assert t.ask("tokens=1").status_code == 200
    assert f.log()["log"][-1]["headers"]["authorization"] == "Bearer the-secret-token"
    shown = json.dumps([g.admin.get(p).json() for p in ("/admin/v1/engines", "/admin/v1/engines/f", "/admin/v1/audit", "/admin/v1/top")])
    assert "the-secret-token" not in shown and "the-secret-token" not in g.tail()
    g.stop()
    for path in g.data.glob("weft.db*"):
        assert b"the-secret-token" not in path.read_bytes()
    g.start(ready=False)
    until(lambda: status(g, "f")["state"] == "ready", what="the engine after a restart")
    assert t.ask("tokens=1").status_code == 200
    assert g.admin.patch("/admin/v1/engines/f", json={"secret": "a-wrong-token"}).status_code == 200
    until(lambda: "token" in status(g, "f")["why"], what="the refusal")
    assert t.ask("tokens=1").status_code in (404, 503)


# --- the admin API ---


def test_engines_are_listed_by_name_changed_under_their_revision_and_audited(pool, fakes):
    g, engines = pool(3)
    page = g.admin.get("/admin/v1/engines", params={"limit": 2}).json()
    assert [e["name"] for e in page["data"]] == ["e0", "e1"] and page["has_more"] and page["last_id"] == "e1"
    rest = g.admin.get("/admin/v1/engines", params={"after": "e1"}).json()
    assert [e["name"] for e in rest["data"]] == ["e2"] and not rest["has_more"]
    back = g.admin.get("/admin/v1/engines", params={"before": "e2", "limit": 1}).json()
    assert [e["name"] for e in back["data"]] == ["e1"] and back["has_more"]

    r = g.admin.get("/admin/v1/engines/e0")
    tag = r.headers["etag"]
    changed = g.admin.patch("/admin/v1/engines/e0", json={"capacity": 7}, headers={"If-Match": tag})
    assert changed.status_code == 200 and changed.json()["capacity"] == 7 and changed.headers["etag"] != tag
    for method, path in (("PATCH", "e0"), ("DELETE", "e0"), ("POST", "e0/drain")):
        r = g.admin.request(method, f"/admin/v1/engines/{path}", json={"capacity": 8} if method == "PATCH" else None, headers={"If-Match": tag})
        assert r.status_code == 412, r.text
    assert engine(g, "e0")["capacity"] == 7 and engine(g, "e0")["state"] == "enabled"
    assert g.admin.delete("/admin/v1/engines/e0", headers={"If-Match": changed.headers["etag"]}).status_code == 200
    assert g.admin.get("/admin/v1/engines/e0").status_code == 404
    actions = [a["action"] for a in g.admin.get("/admin/v1/audit", params={"limit": 100}).json()["data"]]
    assert actions[:2] == ["engine.delete", "engine.update"] and actions.count("engine.create") == 3


def test_a_repeated_post_with_its_key_makes_one_engine(pool, fakes):
    g, _ = pool(0)
    f = fakes("f")
    ask = {"json": {"name": "f", "base": BASE, "url": f.url}, "headers": {"Idempotency-Key": "k1"}}
    first, second = g.admin.post("/admin/v1/engines", **ask), g.admin.post("/admin/v1/engines", **ask)
    assert first.status_code == second.status_code == 201 and first.json() == second.json()
    assert g.admin.post("/admin/v1/engines", json=ask["json"]).status_code == 409


@pytest.mark.parametrize("fields, param", [
    ({"name": None}, "name"), ({"name": "Big"}, "name"), ({"kind": "ollama"}, "kind"), ({"base": None}, "base"), ({"base": "a b"}, "base"),
    ({"url": "ftp://x"}, "url"), ({"url": "http://user@host"}, "url"), ({"url": "http://"}, "url"), ({"url": "unix:relative"}, "url"),
    ({"url": "http://h/?q=1"}, "url"), ({"url": ""}, "url"), ({"url": "", "model": "relative.gguf"}, "model"), ({"capacity": 0}, "capacity"),
    ({"capacity": "many"}, "capacity"), ({"local": "yes"}, "local"), ({"secret": "two words"}, "secret"), ({"settings": []}, "settings"),
    ({"settings": {"threads": 2}}, "settings"), ({"settings": {"store": "relative"}}, "settings"), ({"wheels": 4}, "wheels"),
    ({"url": "", "model": "/m.gguf", "settings": {"listen": "0.0.0.0:1"}}, "settings"), ({"url": "", "model": "/m.gguf", "secret": "s"}, "secret"),
])
def test_an_engine_that_can_not_be_is_refused_by_the_name_of_its_field(pool, fields, param):
    g, _ = pool(0)
    body = {"name": "e", "base": BASE, "url": "http://127.0.0.1:9", **fields}
    r = g.admin.post("/admin/v1/engines", json={k: v for k, v in body.items() if v is not None})
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text
    assert g.admin.get("/admin/v1/engines").json()["data"] == []


def test_the_engine_of_the_settings_is_in_the_pool_drains_and_is_changed_by_the_settings_only(fake, acme, fakes):
    e = engine(fake, "local")
    assert e["source"] == "settings" and e["status"]["state"] == "ready" and e["local"]
    assert fake.admin.patch("/admin/v1/engines/local", json={"capacity": 3}).status_code == 409
    assert fake.admin.delete("/admin/v1/engines/local").status_code == 409
    assert fake.admin.post("/admin/v1/engines", json={"name": "local", "base": BASE, "url": "http://127.0.0.1:9"}).status_code == 409
    assert fake.admin.post("/admin/v1/engines/local/drain").status_code == 200
    try:
        assert acme.ask("tokens=1").status_code == 503
        second = fakes("second")
        add(fake, second)
        assert acme.ask("tokens=1").status_code == 200 and len(second.served()) == 1
    finally:
        assert fake.admin.post("/admin/v1/engines/local/enable").status_code == 200
        fake.admin.delete("/admin/v1/engines/second")
    assert acme.ask("tokens=1").status_code == 200


def test_an_engine_of_the_table_is_spawned_served_from_and_ended(start):
    g = start(fake=True)
    r = g.admin.post("/admin/v1/engines", json={"name": "two", "base": BASE, "model": "/some/model.gguf", "settings": {"threads": 1, "prefix_cache": False}})
    assert r.status_code == 201 and r.json()["local"] is True
    until(lambda: status(g, "two")["state"] == "ready", what="the spawned one")
    assert g.admin.post("/admin/v1/engines/local/drain").status_code == 200
    t = g.tenant("acme")
    assert t.ask("tokens=1").status_code == 200
    assert metered(t, 1)[0]["engine"] == "two"
    command = next(p.read_bytes().split(b"\0") for p in __import__("pathlib").Path("/proc").glob("[0-9]*/cmdline")
                   if b"engine-two.1.sock" in p.read_bytes())
    assert command[command.index(b"--threads") + 1] == b"1" and command.count(b"--threads") == 1
    assert g.admin.delete("/admin/v1/engines/two").status_code == 200
    until(lambda: not any((g.data / "run").glob("engine-two*.pid")), what="its end")
    assert t.ask("tokens=1").status_code == 503


# --- what could not be, and what lies ---


def test_an_engine_that_can_not_be_opened_leaves_no_row_that_keeps_the_next_start_from_serving(pool):
    g, _ = pool(1)
    for fields in ({"name": "long", "settings": {"kernels": "x" * 2000}}, {"name": "n" * 64}):
        r = g.admin.post("/admin/v1/engines", json={"base": BASE, "model": "/m.gguf", **fields})
        assert r.status_code == 400, r.text
    r = g.admin.patch("/admin/v1/engines/e0", json={"url": "", "model": "/m.gguf", "settings": {"kernels": "x" * 2000}})
    assert r.status_code == 400 and status(g, "e0")["state"] == "ready"
    g.stop()
    g.start(ready=False)
    assert [e["name"] for e in g.admin.get("/admin/v1/engines").json()["data"]] == ["e0"]


def test_a_change_that_has_no_room_among_all_engines_is_refused_and_loses_none(pool):
    g, (a,) = pool(1)
    for i in range(63):
        assert g.admin.post("/admin/v1/engines", json={"name": f"x{i}", "base": BASE, "url": a.url}).status_code == 201
    assert g.admin.post("/admin/v1/engines", json={"name": "more", "base": BASE, "url": a.url}).status_code == 409
    assert g.admin.patch("/admin/v1/engines/x3", json={"url": a.url + "/"}).status_code == 409
    assert engine(g, "x3")["url"] == a.url and engine(g, "x3")["revision"] == 1
    assert g.admin.patch("/admin/v1/engines/x3", json={"capacity": 3}).status_code == 200
    assert g.tenant("acme").ask("tokens=1").status_code == 200


def test_a_base_whose_only_engine_is_changed_under_load_is_never_one_that_does_not_exist(pool):
    g, (a,) = pool(1)
    t = g.tenant("acme")
    traffic = Traffic(lambda: t.ask("tokens=1"), threads=6)
    for i in range(20):
        assert g.admin.patch("/admin/v1/engines/e0", json={"url": a.url + "/" * (i % 2 == 0)}).status_code == 200
        traffic.after(10)
    until(lambda: status(g, "e0")["state"] == "ready", what="e0 ready")
    traffic.after(10)
    assert set(traffic.end()) <= {200, 503}
    assert t.ask("tokens=1").status_code == 200
    idle(g)


def test_an_answer_that_counts_nothing_is_no_answer_and_is_asked_of_another_engine(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    a.set("/fake/garbage", on=True)
    for _ in range(10):
        r = t.ask("tokens=1")
        assert r.status_code == 200 and r.json()["usage"]["completion_tokens"] == 1
    b.set("/fake/garbage", on=True)
    r = t.ask("tokens=1")
    assert r.status_code == 502 and r.json()["error"]["code"] == "engine_error"
    assert {x["state"] for x in metered(t, 11)} == {"completed", "upstream_error"}
    idle(g)


def test_an_engine_that_was_replaced_at_its_address_is_looked_at_as_a_new_one(pool, fakes):
    g, (one,) = pool(1)
    two = fakes("two")
    add(g, two)
    two.base = "not-the-same"
    two.restart()  # sooner than three looks of its health could fail
    until(lambda: status(g, "two")["state"] == "conflict", what="the conflict")
    t = g.tenant("acme")
    for _ in range(20):
        assert t.ask("tokens=1").status_code == 200
    assert two.served() == []


def test_who_takes_an_engines_address_without_its_token_is_not_given_it(pool, fakes):
    g, _ = pool(0)
    f = fakes("f", token="the-secret-token")
    add(g, f, secret="the-secret-token")
    seen = []
    handler = type("It", (Impostor,), {"seen": seen, "real": staticmethod(lambda path: {"hello": "you"})})
    f.kill()
    http.server.ThreadingHTTPServer.allow_reuse_address = True
    server = http.server.ThreadingHTTPServer(("127.0.0.1", f.port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        until(lambda: "token" in status(g, "f")["why"], what="the refusal")
        assert status(g, "f")["state"] == "starting"
        until(lambda: len(seen) >= 4, what="looks")
        assert "the-secret-token" not in json.dumps(seen)
    finally:
        server.shutdown()
        server.server_close()


def test_an_upstream_that_is_not_there_is_asked_less_and_less(pool):
    g, _ = pool(0)
    seen = []

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(time.monotonic())
            self.send_error(500)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        r = g.admin.post("/admin/v1/engines", json={"name": "up", "kind": "openai", "base": BASE, "url": f"http://127.0.0.1:{server.server_port}", "model": "m"})
        assert r.status_code == 201
        until(lambda: len(seen) >= 5, what="five looks")
        assert seen[4] - seen[3] > 3 * (seen[1] - seen[0])
    finally:
        server.shutdown()
        server.server_close()


def test_an_adapter_on_a_base_whose_engines_take_none_is_the_requests_fault(pool):
    g, (a,) = pool(1)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    r = g.admin.post("/admin/v1/engines", json={"name": "up", "kind": "openai", "base": BASE, "url": a.url, "model": "m"})
    assert r.status_code == 201
    until(lambda: status(g, "up")["state"] == "ready", what="the upstream")
    assert g.admin.delete("/admin/v1/engines/e0").status_code == 200
    r = t.ask("tokens=1", model="sql")
    assert r.status_code == 400 and "adapters" in r.json()["error"]["message"], r.text


# --- what is seen ---


def test_top_shows_engines_tenants_and_where_adapters_are(pool):
    g, (a, b) = pool(2)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    with concurrent.futures.ThreadPoolExecutor(3) as many:
        running = [many.submit(stream, t, "tokens=40 delay_ms=30", "sql") for _ in range(3)]
        until(lambda: sum(f.log()["running"] for f in (a, b)) == 3, what="three streams")
        top = until(lambda: (x := g.admin.get("/admin/v1/top").json()) and x["tenants"] and x["tenants"][0]["tokens_per_s"] > 0 and x, what="tokens")
        assert top["object"] == "top" and [e["name"] for e in top["engines"]] == ["e0", "e1"]
        assert sum(e["status"]["in_flight"] for e in top["engines"]) == 3
        assert all(e["status"]["kv_used"] in (0, 0.25) for e in top["engines"])
        until(lambda: any(e["status"]["kv_used"] == 0.25 for e in g.admin.get("/admin/v1/top").json()["engines"]), what="pages in use")
        assert top["tenants"] == [{"tenant": "acme", "in_flight": 3, "tokens_per_s": top["tenants"][0]["tokens_per_s"]}]
        adapter = top["adapters"][0]
        assert (adapter["tenant"], adapter["adapter"], adapter["version"], adapter["in_flight"]) == ("acme", "sql", 1, 3)
        assert sum(e["in_flight"] for e in adapter["engines"]) == 3 and all(e["resident"] for e in adapter["engines"])
        assert [r.result()[0] for r in running] == [200] * 3
    idle(g)
    until(lambda: g.admin.get("/admin/v1/top").json()["tenants"][0]["in_flight"] == 0, what="a tenant without requests")
    assert g.admin.get("/admin/v1/top", params={"limit": 0}).status_code == 400
    text = httpx.get(g.admin_url + "/metrics").text
    assert 'weft_engine_ready{engine="e0"} 1' in text and 'weft_engine_in_flight{engine="e1"} 0' in text


def test_class_deadline_and_weight_of_the_tenant_reach_a_weft_engine(pool):
    g, (a,) = pool(1)
    t = g.tenant("acme")
    r = g.admin.patch("/admin/v1/tenants/acme", json={"class": "interactive", "deadline_ms": 5000, "weight": 2.5})
    assert r.status_code == 200, r.text
    assert t.ask("tokens=1").status_code == 200
    said = a.log()["log"][-1]["headers"]
    assert said["x-weft-class"] == "interactive" and said["x-weft-weight"] == "2.5" and 0 < int(said["x-weft-deadline-ms"]) <= 5000
    assert g.admin.patch("/admin/v1/tenants/acme", json={"class": "batch"}).status_code == 200
    assert t.ask("tokens=1").status_code == 200
    said = a.log()["log"][-1]["headers"]
    assert said["x-weft-class"] == "batch" and "x-weft-deadline-ms" not in said


# --- real engines ---


def test_two_real_engines_serve_one_base_and_one_may_die(start, tmp_path):
    g = start("--precision", "exact", "--max-context", "512")
    r = g.admin.post("/admin/v1/engines", json={"name": "second", "base": BASE, "model": g.model, "settings": {"precision": "exact", "max_context": 512}})
    assert r.status_code == 201, r.text
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    until(lambda: status(g, "second")["state"] == "ready", LOAD_S, "the second engine")
    ask = {"temperature": 0, "max_tokens": 8}
    alone = [t.ask("Capital of France?", model=m, **ask).json()["choices"][0]["message"]["content"] for m in (BASE, "sql")]
    with concurrent.futures.ThreadPoolExecutor(8) as many:
        jobs = [many.submit(t.ask, "Capital of France?", model=(BASE, "sql")[i % 2], **ask) for i in range(40)]
        until(lambda: sum(j.done() for j in jobs) >= 10, LOAD_S, "ten answers")
        g.kill_engine()
        answers = [j.result() for j in jobs]
    assert [a.status_code for a in answers] == [200] * 40
    assert [a.json()["choices"][0]["message"]["content"] for a in answers] == alone * 20
    rows = metered(t, 42)
    assert {r["engine"] for r in rows} == {"local", "second"} and {r["state"] for r in rows} == {"completed"}
    until(lambda: status(g, "local")["state"] == "ready", LOAD_S, "its return")
    idle(g)
