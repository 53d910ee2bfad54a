"""Statistics and costs over HTTP: what clients were told, times the price that was valid, is what series, top lists, costs and invoices say; a tenant sees its
own; what nobody can mean is refused by name. On a gateway of this file's own with the fake engine, which counts 11 tokens in and 3 of them cached."""

import json
import os
import subprocess
import time
import uuid

import pytest

from gateway_process import BASE, BIN, Gateway, until

PROMPT, CACHED = 11, 3
FIRST, THEN = (100, 10, 400), (150, 20, 500)  # nano-units of a token: prompt, cached, output


def price(output, of=FIRST):
    return (PROMPT - CACHED) * of[0] + CACHED * of[1] + output * of[2]


class World:
    def __init__(self, g):
        self.g = g
        self.acme, self.other, self.idle = (g.tenant(n) for n in ("acme", "other", "idle"))
        self.rows = []  # tenant, model, output, price

    def set_price(self, of):
        r = self.g.admin.post("/admin/v1/prices", json={"base": BASE, "prompt_nano": of[0], "cached_nano": of[1], "output_nano": of[2]})
        assert r.status_code == 201, r.text
        return r.json()["id"]

    def ask(self, tenant, model, output, of):
        r = tenant.ask(f"tokens={output}", model)
        assert r.status_code == 200, r.text
        self.rows.append((tenant.name, model, output, price(output, of)))
        return r.headers["x-request-id"]

    def cost(self, tenant=None, model=None):
        return sum(c for t, m, _, c in self.rows if tenant in (None, t) and model in (None, m))

    def tokens(self, tenant=None, model=None):
        return sum(PROMPT + n for t, m, n, _ in self.rows if tenant in (None, t) and model in (None, m))


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("stats"), "--currency", "EUR", fake=True)
    yield g
    assert g.admin.get("/admin/v1/ledger?verify=1").json()["verify"]["bad_buckets"] == 0
    g.close()


@pytest.fixture(scope="module")
def w(g):
    while time.time() % 86400 > 86370:
        time.sleep(0.5)  # all of it on one day
    w = World(g)
    for t in (w.acme, w.other):
        assert t.upload("sql").status_code == 201
    w.first_price = w.set_price(FIRST)
    for i in range(4):
        w.ask(w.acme, BASE, 3 + i, FIRST)
        w.ask(w.acme, "sql", 5 + i, FIRST)
        w.ask(w.other, "sql", 2, FIRST)
    w.set_price(THEN)
    for i in range(3):
        w.id = w.ask(w.acme, "sql", 7, THEN)
    assert g.admin.delete(f"/admin/v1/prices/{w.first_price}").status_code == 200  # invoices still know what it said
    r = w.acme.ask("status=503 code=queue_full tokens=1", BASE)
    assert r.status_code == 503
    w.bad = r.headers["x-request-id"]
    w.acme.usage(w.bad)
    until(lambda: len(w.acme.usage_rows()) == 12 and len(w.other.usage_rows()) == 4, what="all rows")
    return w


def get(client, path, **query):
    r = client.get(path, params=query)
    assert r.status_code == 200, f"{path} {query}: {r.text}"
    return r.json()


def refused(r, status, param):
    assert r.status_code == status and r.json()["error"]["param"] == param, r.text


# --- series and top lists ---


@pytest.mark.parametrize("interval", ["1m", "1h", "1d"])
def test_a_series_is_what_was_told_at_every_interval(g, w, interval):
    for measure, whole in (("tokens", w.tokens()), ("cost_nano", w.cost()), ("requests", len(w.rows) + 1), ("errors", 0)):
        s = get(g.admin, "/admin/v1/stats/series", interval=interval, measure=measure, start_time=int(time.time()) - 1800)
        assert (s["total"], [x["total"] for x in s["series"]], s["other"], s["previous"]) == (whole, [whole], None, None)
        assert len(s["points"]) == len(s["series"][0]["values"]) and sum(s["series"][0]["values"]) == whole
    s = get(g.admin, "/admin/v1/stats/series", interval=interval, by="tenant", measure="cost_nano", top=1, start_time=int(time.time()) - 1800)
    assert [(x["name"], x["total"]) for x in s["series"]] == [("acme", w.cost("acme"))]
    assert s["other"]["total"] == w.cost("other")
    with w.other.http() as c:
        s = get(c, "/v1/stats/series", interval=interval, by="state", measure="cost_nano")
    assert [(x["name"], x["total"]) for x in s["series"]] == [("completed", w.cost("other"))]


def test_the_top_has_shares_and_only_ones_own(g, w):
    top = get(g.admin, "/admin/v1/stats/top", by="adapter", sort="cost_nano")
    assert [(x["name"], x["tenant"], x["cost_nano"]) for x in top["data"]] == sorted(
        [("sql", "acme", w.cost("acme", "sql")), ("(base)", "acme", w.cost("acme", BASE)), ("sql", "other", w.cost("other"))], key=lambda x: -x[2])
    assert abs(sum(x["share"] for x in top["data"]) - 1) < 1e-9 and top["total"] == w.cost()
    assert all(x["previous"] == {"requests": 0, "tokens": 0, "cost_nano": 0} and x["change"] is None for x in top["data"])
    with w.other.http() as c:
        for by, names in (("adapter", ["sql"]), ("version", ["sql@1"]), ("model", ["sql"]), ("base", [BASE]), ("endpoint", ["/v1/chat/completions"])):
            assert [(x["name"], x["cost_nano"]) for x in get(c, "/v1/stats/top", by=by)["data"]] == [(n, w.cost("other")) for n in names]
    with w.idle.http() as c:
        assert get(c, "/v1/stats/top")["data"] == []
    models = get(g.admin, "/admin/v1/stats/top", by="model")["data"]
    assert [x.get("tenant") for x in models if x["name"] == BASE] == [None]


def test_an_adapter_has_a_series_and_a_top_of_its_own(g, w):
    for by, lines in (("none", ["all"]), ("adapter", ["sql"]), ("version", ["sql@1"]), ("base", [BASE])):
        s = get(g.admin, "/admin/v1/stats/series", tenant="acme", adapter="sql", by=by, measure="cost_nano", compare="true")
        assert [(x["name"], x["total"]) for x in s["series"]] == [(n, w.cost("acme", "sql")) for n in lines], by
        assert (s["total"], s["interval_s"], s["other"], s["previous_total"]) == (w.cost("acme", "sql"), 86400, None, 0)
    with w.acme.http() as c:
        assert get(c, "/v1/stats/series", adapter="(base)", measure="cost_nano")["total"] == w.cost("acme", BASE)
        assert get(c, "/v1/stats/series", adapter="sql", measure="tokens")["total"] == w.tokens("acme", "sql")
        assert get(c, "/v1/stats/series", adapter="gone", by="version")["series"] == []
        top = get(c, "/v1/stats/top", adapter="sql", sort="tokens")
        assert (top["by"], top["total"], [(x["name"], x["share"]) for x in top["data"]]) == ("version", w.tokens("acme", "sql"), [("sql@1", 1.0)])
    with w.idle.http() as c:  # another's adapter of that name is not this tenant's
        assert get(c, "/v1/stats/series", adapter="sql")["total"] == 0


def test_latency_counts_each_request_once(g, w):
    for kind, n in (("duration", 16), ("ttft", 15), ("tpot", 15)):
        for interval in ("1h", "1d"):
            a = get(g.admin, "/admin/v1/stats/latency", kind=kind, interval=interval)
            assert a["total"]["n"] == n == sum(map(sum, a["cells"])) and len(a["cells"]) == len(a["points"]) == len(a["percentiles"])
            assert all(len(row) == len(a["buckets_ms"]) for row in a["cells"]) and a["total"]["p50"] <= a["total"]["p99"]
    with w.idle.http() as c:
        a = get(c, "/v1/stats/latency")
        assert a["total"] == {"n": 0, "p50": None, "p90": None, "p99": None} and a["buckets_ms"] == []


def test_an_abort_is_billed_what_was_delivered(g, w):
    before = get(g.admin, "/admin/v1/stats/aborts", interval="1d")["totals"]
    assert before["requests"] == 0 and before["of_requests"] == 16
    with w.idle.http() as c, c.stream("POST", "/v1/chat/completions", json={"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=2000 gap=5"}]}) as r:
        for line in r.iter_lines():
            if "content" in line:
                break
    row = until(lambda: [x for x in w.idle.usage_rows() if x["state"] == "client_abort"], what="the abort")[0]
    a = get(g.admin, "/admin/v1/stats/aborts", interval="1h", tenant="idle")
    assert a["totals"] == {"requests": 1, "output_tokens": row["output_tokens"], "produced_tokens": row["produced_tokens"], "cost_nano": row["cost_nano"], "of_requests": 1}
    assert sum(a["cost_nano"]) == row["cost_nano"]


# --- single requests ---


def test_one_request_with_its_times_and_adjustments(g, w):
    with w.acme.http() as c:
        r = get(c, f"/v1/usage/requests/{w.id}")
        assert (r["id"], r["model"], r["output_tokens"], r["cost_nano"], r["adjustments"]) == (w.id, "sql", 7, price(7, THEN), [])
        assert 0 < r["ttft_ms"] <= r["duration_ms"] and "tenant" not in r
    assert get(g.admin, f"/admin/v1/usage/requests/{w.id}")["tenant"] == "acme"
    for id in (str(uuid.uuid4()), "x", w.id[:-1] + "0" if w.id[-1] != "0" else w.id[:-1] + "1"):
        refused(g.admin.get(f"/admin/v1/usage/requests/{id}"), 404, None)
    with w.other.http() as c:
        refused(c.get(f"/v1/usage/requests/{w.id}"), 404, None)
    refused(g.admin.get(f"/admin/v1/usage/requests/{w.id}?tenant=other"), 404, None)


def test_filters_and_errors(g, w):
    def ids(path="/admin/v1/usage/requests", client=g.admin, **query):
        return [r["id"] for r in get(client, path, limit=100, **query)["data"]]

    assert ids(state="upstream_error") + ids(state="rejected") == [w.bad] == ids("/admin/v1/stats/errors", tenant="acme")
    assert len(ids(adapter="sql@1", tenant="acme")) == 7 and ids(adapter="sql@2") == [] and len(ids(adapter="(base)", tenant="acme")) == 5
    assert len(ids(key=w.other.key.split("_")[1])) == 4 and ids(model="none") == [] and ids(engine="nowhere") == []
    assert ids(end_time=1000000) == [] and len(ids(start_time=int(time.time()) - 3600, tenant="acme")) == 12
    assert ids(min_duration_ms=3600000) == []
    began = get(g.admin, f"/admin/v1/usage/requests/{w.bad}")["created_at"]
    for start, end, found in ((began, began + 1, [w.bad]), (0, began, []), (began + 1, began + 3600, []), (began - 90000, began - 86400, [])):
        assert ids("/admin/v1/stats/errors", tenant="acme", start_time=start, end_time=end) == found, (start, end)
    with w.other.http() as c:
        assert ids("/v1/stats/errors", c) == [] and len(ids("/v1/usage/requests", c, endpoint="/v1/chat/completions")) == 4
    for path, query, param in (("usage/requests", "state=odd", "state"), ("usage/requests", "model=" + "m" * 256, "model"), ("usage/requests", "min_duration_ms=-1", "min_duration_ms"), ("stats/errors", "after=x", "after"),
                               ("usage/requests", "start_time=9&end_time=9", "start_time"), ("usage/requests", "colour=red", "colour"), ("stats/errors", "limit=101", "limit"),
                               ("stats/errors", "start_time=9&end_time=9", "start_time")):
        refused(g.admin.get(f"/admin/v1/{path}?{query}"), 400, param)


# --- costs ---


def test_costs_and_invoices_add_up_to_the_last_nano_unit(g, w):
    def amounts(path="/admin/v1/costs", client=g.admin, **query):
        results = [r for b in get(client, path, **query)["data"] for r in b["results"]]
        assert all(abs(r["amount"]["value"] * 1e9 - r["amount_nano"]) < 1e-3 and r["amount"]["currency"] == "EUR" for r in results)
        return results

    idle = w.idle.usage_rows()
    extra = sum(r["cost_nano"] for r in idle)
    assert sum(r["amount_nano"] for r in amounts()) == w.cost() + extra
    by_tenant = {r["tenant"]: r["amount_nano"] for r in amounts(group_by="tenant")}
    assert by_tenant["acme"] == w.cost("acme") and by_tenant["other"] == w.cost("other")
    items = {r["line_item"]: (r["quantity"], r["amount_nano"]) for r in amounts(group_by="line_item", tenant="other")}
    assert items == {"input": (32, 3200), "cached input": (12, 120), "output": (8, 3200)}
    with w.acme.http() as c:
        assert {r["adapter"]: r["amount_nano"] for r in amounts("/v1/costs", c, group_by="adapter")} == {"sql": w.cost("acme", "sql"), "(base)": w.cost("acme", BASE)}
        own = get(c, "/v1/invoice")
    assert own["total_nano"] == w.cost("acme") == sum(x["amount_nano"] for x in own["lines"]) and not own["final"] and own["currency"] == "EUR"
    assert all(x["tokens"] * x["unit_price_nano"] == x["amount_nano"] for x in own["lines"])
    assert [x["unit_price_nano"] for x in own["lines"] if x["line_item"] == "output" and x["adapter"] == "sql"] == [400, 500]
    everybody = get(g.admin, "/admin/v1/invoice")
    assert {x["tenant"]: x["total_nano"] for x in everybody["data"]}["acme"] == w.cost("acme")
    for query, param in (("group_by=key,model", "group_by"), ("group_by=line_item,key", "group_by"), ("group_by=moon", "group_by"), ("bucket_width=1h", "bucket_width"),
                         ("limit=181", "limit"), ("page=99999999999", "page")):
        refused(g.admin.get(f"/admin/v1/costs?{query}"), 400, param)
    for month in ("2026-13", "26-1", "9999-01", "2026-01x", ""):
        refused(g.admin.get("/admin/v1/invoice", params={"month": month}), 400, "month")
    with w.acme.http() as c:
        refused(c.get("/v1/costs?group_by=tenant"), 400, "group_by")
        refused(c.get("/v1/invoice?tenant=other"), 400, "tenant")


def test_an_adjustment_stands_on_the_invoice_of_its_month(g, w):
    r = g.admin.post("/admin/v1/adjustments", json={"request": w.id, "reason": "it was slow", "cost_nano": -1000})
    assert r.status_code == 201, r.text
    with w.acme.http() as c:
        own = get(c, "/v1/invoice")
        assert own["total_nano"] == w.cost("acme") - 1000 and own["adjustments_nano"] == -1000
        assert [(a["reason"], a["cost_nano"], a["request"]) for a in own["adjustments"]] == [("it was slow", -1000, w.id)] and own["requests"] == 12
        assert [a["cost_nano"] for a in get(c, f"/v1/usage/requests/{w.id}")["adjustments"]] == [-1000]
        assert get(c, "/v1/stats/series", by="none", measure="cost_nano", interval="1d")["total"] == w.cost("acme") - 1000
        items = [x for b in get(c, "/v1/costs", group_by="line_item")["data"] for x in b["results"]]
    assert [x["amount_nano"] for x in items if x["line_item"] == "adjustment"] == [-1000]
    before = get(g.admin, "/admin/v1/invoice", tenant="idle")
    r = g.admin.post("/admin/v1/adjustments", json={"tenant": "idle", "reason": "welcome", "cost_nano": -500})
    assert r.status_code == 201, r.text
    after = get(g.admin, "/admin/v1/invoice", tenant="idle")
    assert after["total_nano"] == before["total_nano"] - 500 and after["lines"] == before["lines"] and after["requests"] == before["requests"]
    assert get(g.admin, "/admin/v1/ledger", verify=1)["verify"]["bad_buckets"] == 0


# --- what nobody can mean ---


@pytest.mark.parametrize("query, param", [
    ("series?by=moon", "by"), ("series?by=key&interval=1h", "interval"), ("series?interval=2h", "interval"), ("series?measure=x", "measure"), ("series?top=0", "top"),
    ("series?top=51", "top"), ("series?compare=yes", "compare"), ("series?start_time=0&interval=1m", "interval"), ("series?start_time=0&interval=1d", "interval"),
    ("series?start_time=5&end_time=5", "start_time"), ("series?end_time=-1", "end_time"), ("series?end_time=99999999999999", "end_time"), ("series?x=1", "x"),
    ("series?by=tenant&tenant=acme", "by"), ("top?by=none", "by"), ("top?by=state", "by"), ("top?by=tenant&tenant=acme", "by"), ("top?sort=name", "sort"),
    ("top?limit=101", "limit"), ("top?start_time=0", "start_time"), ("latency?kind=mood", "kind"), ("latency?interval=1m", "interval"), ("aborts?interval=1m", "interval"),
    ("series?by=key&tenant=acme&adapter=sql", "by"), ("series?by=state&tenant=acme&adapter=sql", "by"), ("series?adapter=sql", "tenant"), ("series?adapter=&tenant=acme", "adapter"),
    ("series?interval=1h&tenant=acme&adapter=sql", "interval"), ("top?adapter=sql&by=model&tenant=acme", "by"), ("top?adapter=sql", "tenant"), ("latency?adapter=sql", "adapter"),
    ("series?by=key&by=key", "by"), ("latency?start_time=0", "interval")])
def test_a_question_that_cannot_be_meant_is_refused_by_name(g, w, query, param):
    refused(g.admin.get(f"/admin/v1/stats/{query}"), 400, param)


def test_strangers_and_wrong_tenants_get_nothing(g, w):
    refused(g.admin.get("/admin/v1/stats/series?tenant=nobody"), 404, None)
    key = g.key("acme", ["inference"])
    with w.acme.http() as c:
        refused(c.get("/v1/stats/series?by=tenant"), 400, "by")
        refused(c.get("/v1/stats/top?by=tenant"), 400, "by")
        assert c.get("/t/acme/v1/stats/series").status_code == 200 and c.get("/t/acme/v1/invoice").status_code == 200
        for path in ("/t/other/v1/stats/series", "/t/other/v1/costs", f"/t/other/v1/usage/requests/{w.id}"):
            assert c.get(path).status_code in (401, 403, 404)
        for path in ("/v1/stats/series", "/v1/costs", "/v1/invoice", "/v1/stats/errors", f"/v1/usage/requests/{w.id}"):
            assert c.get(path, headers={"Authorization": f"Bearer {key}"}).status_code == 403
            assert c.get(path, headers={"Authorization": "Bearer x"}).status_code == 401


# --- the command ---


def test_the_commands_print_what_the_api_says(g, w):
    env = {**os.environ, "WEFT_URL": g.url, "WEFT_ADMIN_URL": g.admin_url, "WEFT_KEY": w.acme.key, "WEFT_ADMIN_KEY": g.admin_key, "WEFT_CONFIG": "/nonexistent/x"}

    def weft(*args):
        r = subprocess.run([BIN / "weft", *args], env=env, capture_output=True, text=True, timeout=30)
        assert r.returncode == 0, r.stderr
        return r.stdout

    names = [x.split()[0] for x in weft("usage", "top", "tenant", "--all", "--sort", "cost").splitlines()[1:]]
    assert sorted(names) == ["acme", "idle", "other"] and names.index("acme") < names.index("other")
    today = int(time.time()) // 86400 * 86400
    assert weft("usage", "top", "tenant", "--all", "--until", time.strftime("%Y-%m-%d", time.gmtime(today - 86400 * 40)), "--days", "1") == ""  # a day without any
    assert {x["name"] for x in json.loads(weft("usage", "top", "tenant", "--all", "--since", time.strftime("%Y-%m-%d", time.gmtime(today)), "--json"))["data"]} >= {"acme"}
    assert [x.split()[0] for x in weft("usage", "top", "--adapter", "sql").splitlines()] == ["NAME", "sql@1"]
    lines = weft("usage", "latency", "--all").splitlines()
    assert lines[0].split()[:3] == ["TIME", "REQUESTS", "P50"] and any(x.startswith("in all") for x in lines) and weft("usage", "latency", "tpot").startswith("TIME")
    assert weft("request", "list", "--all", "--until", "2001-01-01").splitlines()[1:] == [] and w.id in weft("request", "list", "--all", "--until", "30d")
    assert subprocess.run([BIN / "weft", "usage", "top", "--days", "2", "--since", "2026-01-01"], env=env, capture_output=True, timeout=30).returncode == 2
    assert "adjustment" in weft("invoice") and "it was slow" in weft("invoice")
    assert json.loads(weft("invoice", "--json"))["tenant"] == "acme"
    assert w.bad in weft("usage", "errors") and w.bad in weft("request", "list", "--all", "--state", w.acme.usage(w.bad)["state"])
    assert weft("costs", "--all").splitlines()[-1].startswith("total") and "sql" in weft("costs", "--group-by", "adapter")
    assert w.id in weft("request", "show", w.id)
    assert "acme" in weft("invoice", "--all")
