"""What is going on now, as numbers and as a stream, and what stands beside it: refusals, adapters, canaries, budgets, the ledger's health. On a
gateway of this file's own with the fake engine, which counts 11 tokens in and 3 of them cached."""

import json
import re
import sqlite3
import threading
import time

import httpx
import pytest

from gateway_process import BASE, Gateway, until

HTTP = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=None))  # one for all: each of its own costs 30 ms


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("live"), fake=True)
    yield g
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert (verdict["verify"]["bad_buckets"], verdict["open_admissions"]) == (0, 0)
    g.close()


@pytest.fixture(scope="module")
def tenant(g):
    """tenant("name", "sql"): a tenant with these adapters."""
    def make(name, *adapters):
        t = g.tenant(name)
        for adapter in adapters:
            assert t.upload(adapter).status_code == 201
        return t
    return make


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def ask(t, text, model=BASE, **more):
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    return HTTP.post(t.gateway.url + "/v1/chat/completions", json=body, headers=bearer(t.key))


def own(t, path, status=200, **query):
    r = HTTP.get(f"{t.gateway.url}/v1/{path}", params=query, headers=bearer(t.key))
    assert r.status_code == status, r.text
    return r.json()


def admin(g, path, status=200, **query):
    r = g.admin.get(f"/admin/v1/{path}", params=query)
    assert r.status_code == status, r.text
    return r.json()


def set_alias(t, name, status, body):
    r = HTTP.put(f"{t.gateway.url}/v1/aliases/{name}", json=body, headers=bearer(t.key))
    assert r.status_code == status, r.text


class Listener:
    """Reads a stream of events on a thread of its own: (event, id, data)."""

    def __init__(self, url, key, path="/v1/live", last=None, **query):
        self.events, self.ended, self.status = [], threading.Event(), None
        head = {**bearer(key), **({"Last-Event-ID": str(last)} if last is not None else {})}
        self.thread = threading.Thread(target=self.read, args=(url + path, head, query), daemon=True)
        self.thread.start()

    def read(self, url, head, query):
        try:
            with HTTP.stream("GET", url, headers=head, params=query) as r:
                self.status, fields = r.status_code, {}
                self.kind = r.headers["content-type"]
                for line in r.iter_lines():
                    if line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                    elif "data" in fields:
                        self.events.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
                        fields = {}
        except httpx.HTTPError:
            pass
        self.ended.set()

    def of(self, kind):
        return [x for x in self.events if x[0] == kind]


# --- now ---

def test_now_says_what_ended_and_what_is_under_way(g, tenant):
    a, b = tenant("now-a"), tenant("now-b")
    before = admin(g, "now")
    for t, n in ((a, 5), (b, 2)):
        for _ in range(n):
            assert ask(t, "tokens=6 delay_ms=5", stream=True).status_code == 200
    assert ask(a, "tokens=4 status=500").status_code == 502
    until(lambda: own(a, "now")["today"]["requests"] == 6, what="the settlements")
    now = own(a, "now")
    assert (now["in_flight"], now["waiting"], now["errors"], now["refused"], now["window_s"]) == (0, 0, 1, 0, 60)
    assert now["today"] == now["month"] == {"requests": 6, "errors": 1, "input_tokens": 55, "cached_tokens": 15, "output_tokens": 30, "cost_nano": 0}
    assert now["ttft_ms"]["n"] == 5 and now["duration_ms"]["n"] == 6 and now["tpot_ms"]["n"] == 5
    assert 3 < now["tpot_ms"]["p50"] <= now["tpot_ms"]["p90"] <= now["tpot_ms"]["p99"] < 200
    assert now["tokens_per_s"] == 3.0 and 0.09 < now["requests_per_s"] < 0.15 and now["currency"] == "USD"
    assert "engines" not in now and "tenants" not in now
    assert own(b, "now")["today"]["requests"] == 2 and own(b, "now")["errors"] == 0
    whole = admin(g, "now")
    assert whole["today"]["requests"] - before["today"]["requests"] == 8 and whole["ttft_ms"]["n"] >= 7
    assert whole["engines"]["ready"] == whole["engines"]["total"] == 1 and {"now-a", "now-b"} <= {t["tenant"] for t in whole["tenants"]}
    narrowed = admin(g, "now", tenant="now-b")
    assert narrowed["today"]["requests"] == 2 and "tenants" not in narrowed and narrowed["engines"]["total"] == 1


def test_requests_under_way_are_in_flight_and_their_tokens_flow(g, tenant):
    t = tenant("flow", "sql")
    threads = [threading.Thread(target=ask, args=(t, "tokens=150 delay_ms=20", "sql"), kwargs={"stream": True}) for _ in range(3)]
    [x.start() for x in threads]
    now = until(lambda: (lambda n: n if n["in_flight"] == 3 and n["tokens_per_s"] > 0 and n["ttft_ms"]["n"] == 3 else None)(own(t, "now")))
    assert now["waiting"] == 0 and now["duration_ms"] == {"n": 0, "p50": None, "p90": None, "p99": None}
    assert any(x["adapter"] == "sql" and x["in_flight"] == 3 for x in admin(g, "now")["adapters"] if x["tenant"] == "flow")
    [x.join() for x in threads]
    until(lambda: own(t, "now")["in_flight"] == 0, what="the end of all")  # the last byte comes before


def test_nobody_sees_anothers(g, tenant):
    t = tenant("mine")
    inference = g.key("mine", ["inference"])
    for path in ("now", "live", "stats/refused", "stats/adapters", "stats/canary", "stats/budgets"):
        assert HTTP.get(f"{g.url}/v1/{path}").status_code == 401
        assert HTTP.get(f"{g.url}/t/flow/v1/{path}", headers=bearer(t.key)).status_code == 401
        assert HTTP.get(f"{g.url}/v1/{path}", headers=bearer(inference)).status_code == 403
        r = own(t, path, 400, tenant="flow")
        assert r["error"]["param"] == "tenant"
        assert admin(g, path, 404, tenant="nobody", **({"alias": "x"} if path.endswith("canary") else {}))
    assert HTTP.get(g.admin_url + "/admin/v1/ledger/health", headers=bearer(t.key)).status_code == 401


# --- the stream ---

def test_a_listener_gets_the_view_every_second_and_events_of_its_tenant(g, tenant):
    t, other = tenant("stream", "sql"), tenant("stream-other", "sql")
    one, all_of_it = Listener(g.url, t.key), Listener(g.admin_url, g.admin_key, "/admin/v1/live")
    narrowed = Listener(g.admin_url, g.admin_key, "/admin/v1/live", tenant="stream")
    until(lambda: one.of("now") and all_of_it.of("now") and narrowed.of("now"), what="the first views")
    assert one.kind.startswith("text/event-stream")
    set_alias(t, "chat", 201, {"targets": [{"adapter": "sql"}]})
    set_alias(other, "chat", 201, {"targets": [{"adapter": "sql"}]})
    ask(t, "tokens=5", "sql")
    until(lambda: len(all_of_it.of("event")) >= 2 and one.of("event") and narrowed.of("event"), what="the events")
    until(lambda: one.of("now")[-1][2]["today"]["requests"] == 1, what="the request in the view")
    assert [(x[2]["type"], x[2]["target"]) for x in one.of("event")] == [("alias.changed", "chat")]
    assert "tenant" not in one.of("event")[0][2] and int(one.of("event")[0][1]) == one.of("event")[0][2]["seq"]
    assert {x[2]["tenant"] for x in all_of_it.of("event")} == {"stream", "stream-other"}
    assert {x[2]["tenant"] for x in narrowed.of("event")} == {"stream"}
    assert set(one.of("now")[-1][2]) == set(own(t, "now")) and set(all_of_it.of("now")[-1][2]) == set(admin(g, "now"))
    since = one.of("event")[0][2]["seq"] - 1
    listed = [x for x in admin(g, "events", after=since)["data"] if x["tenant"] == "stream"]
    assert listed and admin(g, "events", after=since, tenant="stream")["data"] == listed
    assert g.admin.get("/admin/v1/events", params={"tenant": "nobody"}).status_code == 404
    times = [x[2]["time"] for x in one.of("now")]
    assert all(0.5 < b - a < 2.5 for a, b in zip(times[1:], times[2:]))
    # who comes back gets what it missed, once
    seen = int(one.of("event")[0][1])
    for weight in range(2, 7):
        set_alias(t, "chat", 200, {"targets": [{"adapter": "sql", "weight": weight}]})
    again = Listener(g.url, t.key, last=seen, seconds=2)
    assert again.ended.wait(6)
    assert len(again.of("event")) == 5 and all(int(x[1]) > seen for x in again.of("event"))
    again = Listener(g.admin_url, g.admin_key, "/admin/v1/live", last=seen, seconds=1, tenant="stream")
    assert again.ended.wait(6) and [x[2]["tenant"] for x in again.of("event")] == ["stream"] * 5


def test_an_id_that_no_event_has_is_refused(g, tenant):
    t = tenant("ids")
    for last in ("x", "-1", "1 2", "1" * 16, b"\xc2\x84", b"\xff"):
        for url, key in ((g.url + "/v1/live", t.key), (g.admin_url + "/admin/v1/live", g.admin_key)):
            r = HTTP.get(url, headers={**bearer(key), "Last-Event-ID": last}, params={"seconds": 1})
            assert r.status_code == 400 and r.json()["error"]["param"] == "Last-Event-ID", r.text
    assert HTTP.get(g.url + "/v1/live", headers={**bearer(t.key), "Last-Event-ID": ""}, params={"seconds": 1}).status_code == 200


def test_a_stream_ends_when_it_was_to_and_when_its_key_is_no_longer_good(g, tenant):
    t = tenant("ends")
    key = g.key("ends", ["billing"])
    short, revoked, disabled = Listener(g.url, t.key, seconds=1), Listener(g.url, key), Listener(g.url, t.key, "/t/ends/v1/live")
    assert short.ended.wait(4) and 1 <= len(short.of("now")) <= 2
    until(lambda: revoked.events and disabled.events)
    assert g.admin.delete(f"/admin/v1/keys/{key.split('_')[1]}").status_code == 200
    assert revoked.ended.wait(4) and not disabled.ended.is_set()
    assert g.admin.patch("/admin/v1/tenants/ends", json={"disabled": True}).status_code == 200
    assert disabled.ended.wait(4)


def test_listeners_of_a_tenant_are_bounded_and_their_places_come_back(g, tenant):
    t, other = tenant("many"), tenant("few")
    some = [Listener(g.url, t.key, seconds=3) for _ in range(16)]
    until(lambda: all(x.events for x in some), what="16 listeners")
    more = HTTP.get(g.url + "/v1/live", headers=bearer(t.key))
    assert more.status_code == 503 and more.json()["error"]["code"] == "queue_full" and "retry-after" in more.headers
    assert HTTP.get(g.url + "/v1/live?seconds=1", headers=bearer(other.key)).status_code == 200
    assert all(x.ended.wait(6) for x in some)
    assert HTTP.get(g.url + "/v1/live?seconds=1", headers=bearer(t.key)).status_code == 200
    assert HTTP.head(g.url + "/v1/live", headers=bearer(t.key)).status_code == 200  # which is over at once


# --- refusals ---

def test_refusals_are_told_by_whose_limit_and_which(g, tenant):
    t = tenant("refused")
    assert g.admin.put("/admin/v1/tenants/refused/limits", json={"requests_per_minute": 2}).status_code == 200
    assert g.admin.put(f"/admin/v1/keys/{t.key.split('_')[1]}/limits", json={"tokens_per_day": 5}).status_code == 200
    assert [ask(t, "hello").status_code for _ in range(3)] == [429] * 3
    assert g.admin.put(f"/admin/v1/keys/{t.key.split('_')[1]}/limits", json={}).status_code == 200
    assert [ask(t, "tokens=2", max_tokens=2).status_code for _ in range(6)] == [200] * 2 + [429] * 4
    r = own(t, "stats/refused")
    assert [(s["scope"], s["kind"], s["total"]) for s in r["series"]] == [("tenant", "requests_per_minute", 4), ("key", "tokens_per_day", 3)]
    assert r["total"] == 7 and (r["compared_total"], r["previous_total"]) == (0, 0) and len(r["points"]) in (24, 25) and r["interval_s"] == 3600
    assert all(len(s["values"]) == len(r["points"]) and sum(s["values"]) == s["total"] for s in r["series"])
    assert own(t, "now")["refused"] == 7 and admin(g, "stats/refused")["total"] >= 7
    assert admin(g, "stats/refused", tenant="refused", interval="1d")["total"] == 7
    later = int(time.time()) + 86400
    after = own(t, "stats/refused", start_time=later, end_time=later + 86400)  # nothing of it is over, so nothing is compared
    assert (after["compared"], after["compared_total"], after["previous_total"]) == (None, None, None)
    for query, param in (({"interval": "1m"}, "interval"), ({"start_time": 0}, "interval"), ({"start_time": later}, "start_time"), ({"x": 1}, "x")):
        assert own(t, "stats/refused", 400, **query)["error"]["param"] == param


# --- adapters ---

def test_adapters_are_listed_with_their_use_and_by_it(g, tenant):
    t = tenant("board", "sql", "pirate")
    set_alias(t, "front", 201, {"targets": [{"adapter": "sql"}]})
    for name, n in (("sql", 2), ("pirate", 3)):
        for _ in range(n):
            assert ask(t, "tokens=4", name).status_code == 200
    until(lambda: own(t, "now")["today"]["requests"] == 5)
    rows = own(t, "stats/adapters", sort="requests")["data"]
    assert [(x["adapter"], x["version"], x["requests"], x["tokens"]) for x in rows] == [("pirate", 1, 3, 45), ("sql", 1, 2, 30)]
    assert rows[1]["aliases"] == ["front"] and rows[0]["aliases"] == [] and rows[0]["resident"] == ["local"]
    assert all(abs(x["last_used"] - time.time()) < 60 and x["state"] == "ready" and x["tenant"] == "board" and not x["errors"] for x in rows)
    assert [x["adapter"] for x in own(t, "stats/adapters")["data"]] == ["pirate", "sql"]
    first = own(t, "stats/adapters", limit=1)
    assert first["has_more"] and [x["adapter"] for x in own(t, "stats/adapters", limit=1, after=first["last_id"])["data"]] == ["sql"]
    assert own(t, "stats/adapters", idle_days=1)["data"] == [] and own(t, "stats/adapters", state="failed")["data"] == []
    assert [x["tenant"] for x in admin(g, "stats/adapters", q="board/", sort="bytes")["data"]] == ["board"] * 2
    assert admin(g, "stats/adapters", tenant="board", q="sql")["data"][0]["requests"] == 2
    for query, param in (({"sort": "colour"}, "sort"), ({"state": "odd"}, "state"), ({"after": "nonsense"}, "after"), ({"limit": 101}, "limit"),
                         ({"idle_days": 0}, "idle_days"), ({"q": "x" * 130}, "q")):
        assert own(t, "stats/adapters", 400, **query)["error"]["param"] == param


def test_a_cold_request_says_how_long_the_load_took(g, tenant):
    t = tenant("cold", "sql")
    assert ask(t, "tokens=4", "sql").headers["x-weft-cold"] == "false"
    pid = g.kill_engine()
    until(lambda: g.engine_pid() not in (None, pid), what="another engine")
    until(lambda: admin(g, "now")["engines"]["ready"] == 1)
    r = ask(t, "tokens=4", "sql")
    assert r.status_code == 200 and r.headers["x-weft-cold"] == "true", r.text
    t.usage(r.headers["x-request-id"])
    row = until(lambda: (lambda x: x if x["cold"] == 1 else None)(own(t, "stats/adapters", q="sql")["data"][0]))
    assert 0 < row["load_ms_avg"] < 5000 and 0 < row["cold_share"] <= 1


def test_an_adapter_says_how_often_it_left_an_engine(g, tenant):
    t = tenant("gone", "sql")

    def evictions():
        (engine,) = admin(g, "engines")["data"]
        told = re.search(r'^weft_engine_evictions\{engine="local"\} (\d+)$', httpx.get(g.admin_url + "/metrics").text, re.M)
        assert int(told.group(1)) == engine["status"]["evictions"]
        return own(t, "stats/adapters", q="sql")["data"][0]["evictions"], engine["status"]["evictions"]

    assert ask(t, "tokens=4", "sql").status_code == 200
    before = evictions()
    assert ask(t, "tokens=4", "sql").status_code == 200 and evictions() == before
    g.fake_set("/fake/forget")  # it made room for others
    assert evictions() == before
    assert ask(t, "tokens=4", "sql").headers["x-weft-cold"] == "true"
    assert evictions() == (before[0] + 1, before[1] + 1)
    pid = g.kill_engine()
    until(lambda: g.engine_pid() not in (None, pid) and admin(g, "now")["engines"]["ready"] == 1, what="another engine")
    of, total = evictions()
    assert of == before[0] + 2 and total >= before[1] + 2


# --- canaries ---

def test_a_canary_that_fails_is_found_worse(g, tenant):
    t = tenant("canary", "sql", "pirate")
    set_alias(t, "chat", 201, {"sticky": "user", "targets": [{"adapter": "pirate", "weight": 40}, {"adapter": "sql", "weight": 60}]})
    few = own(t, "stats/canary", alias="chat")
    assert few["verdict"] == "too few requests" and few["baseline"] == 1 and [x["requests"] for x in few["targets"]] == [0, 0]
    users = {"pirate": [], "sql": []}
    for i in range(40):
        answer = ask(t, "tokens=2", "chat", user=f"u{i}")
        users[answer.headers["x-weft-adapter-version"].split("@")[0]].append(f"u{i}")
    sent = {name: len(of) for name, of in users.items()}
    for name, words, n in (("pirate", ["tokens=3", "tokens=3 status=500"], 60), ("sql", ["tokens=3"], 60)):
        for i in range(n):
            ask(t, words[i % len(words)], "chat", user=users[name][i % len(users[name])])
    done = {name: n + 60 for name, n in sent.items()}
    c = until(lambda: (lambda x: x if [y["requests"] for y in x["targets"]] == [done["pirate"], done["sql"]] else None)(own(t, "stats/canary", alias="chat")))
    assert c["verdict"] == "worse" and c["reason"].startswith("pirate@1 has more errors than sql@1: "), c
    pirate, sql = c["targets"]
    assert pirate["error_rate"] == round(30 / done["pirate"], 6) and sql["error_rate"] == 0 and sql["completed"] == done["sql"]
    assert abs(pirate["share"] + sql["share"] - 1) < 1e-5 and sql["ttft_ms"]["n"] == done["sql"] and sql["output_tokens_avg"] > 2
    found = {x["metric"]: x for x in c["comparison"]}
    assert set(found) == {"error_rate", "abort_rate", "ttft_ms", "tpot_ms", "duration_ms"} and all(x["between"] == [1, 0] for x in c["comparison"])
    assert found["error_rate"]["significant"] and found["error_rate"]["p_value"] < 1e-6 and not found["abort_rate"]["significant"]
    assert admin(g, "stats/canary", alias="chat", tenant="canary")["verdict"] == "worse"
    assert admin(g, "stats/canary", 400, alias="chat")["error"]["param"] == "tenant"
    assert own(t, "stats/canary", 400)["error"]["param"] == "alias"
    own(t, "stats/canary", 404, alias="nothing")
    assert own(t, "stats/canary", 400, alias="chat", start_time=1)["error"]["param"] == "start_time"


# --- budgets ---

def test_budgets_show_what_is_used_and_where_it_ends(g, tenant):
    t = tenant("budget", "sql")
    for _ in range(4):
        assert ask(t, "tokens=9", "sql", max_tokens=9).status_code == 200  # 20 tokens each
    until(lambda: own(t, "now")["today"]["requests"] == 4)
    assert g.admin.put("/admin/v1/tenants/budget/limits", json={"tokens_per_day": 100000, "tokens_per_day_soft": 50, "cost_per_month": 7}).status_code == 200
    assert g.admin.put("/admin/v1/tenants/budget/adapters/sql/limits", json={"tokens_per_month": 70}).status_code == 200
    assert g.admin.put(f"/admin/v1/keys/{t.key.split('_')[1]}/limits", json={"tokens_per_month": 10**9}).status_code == 200
    rows = own(t, "stats/budgets")["data"]
    assert [(x["subject"].get("adapter"), x["limit"], x["used"], x["state"]) for x in rows[:2]] == [
        ("sql", "tokens_per_month", 80, "hard"), (None, "tokens_per_day", 80, "soft")]
    adapter, day = rows[:2]
    assert adapter["exhausted_at"] <= time.time() + 2 and adapter["series"]["values"][-1] == 80 and adapter["period"] == "month"
    assert day["series"]["values"][-1] == 80 and day["forecast"] >= 80 and day["exhausted_at"] is None and day["hard"] == 100000 and day["soft"] == 50
    assert len(day["series"]["points"]) == len(day["series"]["values"]) and day["start_time"] == day["series"]["points"][0]
    assert {x["subject"].get("key") for x in rows} == {None, t.key.split("_")[1]} and all(x["subject"]["tenant"] == "budget" for x in rows)
    page = own(t, "stats/budgets", limit=3)
    rest = own(t, "stats/budgets", limit=3, after=page["last_id"])
    assert page["has_more"] and not rest["has_more"] and page["data"] + rest["data"] == rows
    assert own(t, "stats/budgets", 400, after="x")["error"]["param"] == "after"
    assert own(t, "stats/budgets", 400, after="inf:0:x")["error"]["param"] == "after"
    assert len(admin(g, "stats/budgets", tenant="budget")["data"]) == len(rows) == 4
    thread = threading.Thread(target=ask, args=(t, "tokens=20 delay_ms=50",), kwargs={"stream": True, "max_tokens": 20})
    thread.start()
    until(lambda: any(x["reserved"] > 20 for x in own(t, "stats/budgets")["data"]), what="what a request under way holds")
    thread.join()


# --- the ledger and its engines ---

def test_the_ledgers_health_and_the_engines_counters(g, tenant):
    t = tenant("health", "sql")
    before = {x["name"]: x for x in admin(g, "ledger/health")["engines"]}["local"]
    for _ in range(3):
        ask(t, "tokens=8", "sql")
    h = until(lambda: (lambda x: x if x["engines"][0]["tokens_engine"] == x["engines"][0]["tokens_gateway"] >= before["tokens_gateway"] + 24 else None)(
        admin(g, "ledger/health")), what="the engine's counters")
    assert h["engines"][0]["ratio"] == 1.0 and h["engines"][0]["requests_gateway"] == before["requests_gateway"] + 3
    assert h["open_admissions"] == 0 and h["oldest_admission_s"] is None and h["writable"] and h["queue"] == 0 and h["settled"] > 0
    assert h["database_bytes"] > 4096 and h["months"][0] == {"month": time.strftime("%Y-%m", time.gmtime()), "rows": None, "place": "database"}
    assert 0 < time.time() - h["final_before"] < 120 and h["webhooks"] == [] and h["schedules"] == [] and h["backups"] is None
    g.admin.get("/admin/v1/ledger?verify=1")
    last = admin(g, "ledger/health")["last_verify"]
    assert last["bad"] == 0 and last["rows"] > 0 and abs(last["t"] - time.time()) < 30
    thread = threading.Thread(target=ask, args=(t, "tokens=40 delay_ms=50",), kwargs={"stream": True})
    thread.start()
    until(lambda: (admin(g, "ledger/health")["oldest_admission_s"] or 0) >= 1, what="an open admission's age")
    thread.join()
    status = admin(g, "engines/local")["status"]
    assert status["slots"]["max"] == 8 and status["slots"]["resident"] > 0 and status["pages"]["total"] == 400
    assert status["steps"]["p50_ms"] == 2.5 and status["steps"]["p99_ms"] == 9.0


# --- a stop ---

def fresh_id(i):
    """Of a request that began now: what waits for too long makes a webhook fail."""
    ms = f"{int(time.time() * 1000):012x}"
    return f"{ms[:8]}-{ms[8:]}-7000-8000-{i:012x}"


def test_a_stop_ends_the_streams_and_keeps_the_refusals(start):
    g = start(fake=True)
    t = g.tenant("acme")
    assert g.admin.put("/admin/v1/tenants/acme/limits", json={"requests_per_minute": 0}).status_code == 200
    assert ask(t, "hello").status_code == 429
    streams = [Listener(g.url, t.key), Listener(g.admin_url, g.admin_key, "/admin/v1/live")]
    until(lambda: all(x.events for x in streams))
    began = time.monotonic()
    g.stop()
    assert time.monotonic() - began < 5 and all(x.ended.wait(2) for x in streams)
    made = g.data / "backup/20200101T000000.000Z"
    made.mkdir(parents=True)
    (made / "backup.json").write_text(json.dumps({"created_at": int(time.time()) - 30}))
    (g.data / "backup/20990101T000000.000Z.part").mkdir()
    with sqlite3.connect(g.data / "weft.db") as db:  # paused, so that nobody sends or writes anything
        db.execute("INSERT INTO webhook(id, tenant, name, url, secret, usage, state, usage_seq, event_seq, created)"
                   " VALUES('w', '', 'meter', 'https://x', x'00', 1, 'paused', 1, 0, 0)")
        db.executemany("INSERT INTO outbox(seq, id, month, tenant) VALUES(?, ?, 202611, 'x')", [(i, fresh_id(i)) for i in range(1, 5)])
        db.execute("INSERT INTO export_schedule(id, name, format, every, state, done_until, last_error, created) VALUES('e', 'daily', 'csv', 'day', 'paused',"
                   " ?, 'no room', 0)", (int(time.time()) - 3 * 86400,))
    g.start()
    t.gateway = g
    assert own(t, "stats/refused")["total"] == 1
    h = admin(g, "ledger/health")
    assert h["webhooks"] == [{"name": "meter", "tenant": None, "lag": 3, "state": "paused"}]
    assert h["schedules"][0]["name"] == "daily" and abs(h["schedules"][0]["behind_s"] - 2 * 86400) < 60
    assert h["schedules"][0]["last_error"] == "no room" and h["schedules"][0]["state"] == "paused"
    assert 30 <= h["backups"]["age_s"] < 90
