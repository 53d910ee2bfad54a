"""One set of books: whatever is asked - rows, lists, rollups by every dimension, costs by every group, invoices, exports in each format, budgets - says the same to
the nano-unit, with prices that change and go in mid-day, cached tokens, a chain, aborts, refusals and adjustments. On a gateway of this file's own with the fake
engine: 11 tokens in, 3 of them cached."""

import csv
import io
import json
import random
import sqlite3
import subprocess
import time
from decimal import Decimal

import pytest

from gateway_process import BASE, PROGRAM, Gateway, until
from past_rows import uuid7

FIRST, THEN, OWN = (100, 10, 400), (151, 23, 509), (7, 3, 11)  # nano-units of a token: prompt, cached, output
DAY = 86400


def set_price(g, of, **more):
    names = ("prompt_nano", "cached_nano", "output_nano")
    r = g.admin.post("/admin/v1/prices", json={"base": BASE, **dict(zip(names, of)), **more})
    assert r.status_code == 201, r.text
    return r.json()["id"]


def adjust(g, **body):
    r = g.admin.post("/admin/v1/adjustments", json={"reason": "a test", **body})
    assert r.status_code == 201, r.text
    return r.json()


def ask(t, text, model=BASE, status=200):
    r = t.ask(text, model)
    assert r.status_code == status, r.text
    return t.usage(r.headers["x-request-id"])


def abort(t):
    with t.http() as c, c.stream("POST", "/v1/chat/completions", json={"model": "chain", "stream": True, "messages": [{"role": "user", "content": "tokens=2000 gap=5"}]}) as r:
        for line in r.iter_lines():
            if "content" in line:
                break
    return until(lambda: [x for x in t.usage_rows() if x["state"] == "client_abort"], what="the abort")[0]


def get(c, path, **query):
    r = c.get(path, params=query)
    assert r.status_code == 200, f"{path} {query}: {r.text}"
    return r.json()


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    while time.time() % DAY > DAY - 40:
        time.sleep(0.5)  # all of it on one day
    g = Gateway(tmp_path_factory.mktemp("books"), fake=True)
    g.acme, g.other = g.tenant("acme"), g.tenant("other")
    first = set_price(g, FIRST)
    for t in (g.acme, g.other):
        assert t.upload("sql").status_code == 201
        with t.http() as c:
            assert c.put("/v1/aliases/chain", json={"policy": "fallback", "targets": [{"adapter": "sql"}, {"base": BASE}]}).status_code == 201
    g.budget = g.admin.put("/admin/v1/tenants/acme/limits", json={"tokens_per_day": 10**9, "cost_per_day": 10**12})
    assert g.budget.status_code in (200, 201), g.budget.text
    g.early = [ask(t, f"tokens={5 + i}", m) for t in (g.acme, g.other) for i, m in enumerate((BASE, "sql", "chain"))]
    set_price(g, THEN)
    set_price(g, OWN, tenant="acme", adapter="sql")
    assert g.admin.delete(f"/admin/v1/prices/{first}").status_code == 200
    g.late = [ask(t, f"tokens={7 + i}", m) for t in (g.acme, g.other) for i, m in enumerate((BASE, "sql", "chain"))]
    ask(g.acme, "status=503 code=queue_full tokens=1", BASE, 503)
    abort(g.acme)
    g.fixes = [adjust(g, request=g.late[0]["id"], output_tokens=-2, input_cached_tokens=-1), adjust(g, request=g.late[1]["id"], cost_nano=-5),
               adjust(g, tenant="other", cost_nano=-777), adjust(g, request=g.late[4]["id"], output_tokens=3)]
    yield g
    assert get(g.admin, "/admin/v1/ledger", verify=1)["verify"]["bad_buckets"] == 0
    g.close()


def test_tokens_of_a_request_are_given_back_at_the_price_it_was_billed_at_though_that_price_is_gone(g):
    row = g.early[1]
    a = adjust(g, request=row["id"], input_tokens=-row["input_tokens"], input_cached_tokens=-3, output_tokens=-row["output_tokens"])
    g.fixes.append(a)
    assert (row["cost_nano"], a["cost_nano"]) == (8 * 100 + 3 * 10 + row["output_tokens"] * 400, -row["cost_nano"])
    b = adjust(g, request=g.early[3]["id"], output_tokens=-1)
    g.fixes.append(b)
    assert b["cost_nano"] == -400




def plus(*sums):
    return tuple(map(sum, zip(*sums)))


def books(g):
    """By tenant, from the rows that each tenant is told and the adjustments."""
    out = {}
    for t in (g.acme, g.other):
        rows = [(1, r["input_tokens"], r["input_cached_tokens"], r["output_tokens"], r["cost_nano"]) for r in t.usage_rows()]
        with t.http() as c:
            fixes = get(c, "/v1/adjustments", limit=100)["data"]
        rows += [(0, a["input_tokens"], a["input_cached_tokens"], a["output_tokens"], a["cost_nano"]) for a in fixes]
        out[t.name] = plus(*rows)
    out[""] = plus(out["acme"], out["other"])
    return out


def test_series_and_tops_of_every_dimension(g):
    want = books(g)
    for tenant, sums in want.items():
        q = {"tenant": tenant} if tenant else {}
        for by in ("none", "tenant", "key", "adapter", "version", "model", "base", "endpoint", "state"):
            if tenant and by == "tenant":
                continue
            for interval in ("1m", "1h", "1d") if by in ("none", "state") or by == "tenant" else ("1d",):
                for measure, n in (("requests", sums[0]), ("input_tokens", sums[1]), ("output_tokens", sums[3]), ("tokens", sums[1] + sums[3]), ("cost_nano", sums[4])):
                    s = get(g.admin, "/admin/v1/stats/series", by=by, measure=measure, interval=interval, start_time=int(time.time()) - 3600, **q)
                    told = sum(x["total"] for x in s["series"]) + (s["other"]["total"] if s["other"] else 0)
                    assert (s["total"], told) == (n, n), (tenant, by, interval, measure)
            if by in ("none", "state"):
                continue
            top = get(g.admin, "/admin/v1/stats/top", by=by, sort="cost_nano", limit=100, **q)["data"]
            assert plus(*[(x["requests"], x["input_tokens"], x["cached_tokens"], x["output_tokens"], x["cost_nano"]) for x in top]) == sums, (tenant, by)


def test_costs_usage_and_invoices(g):
    want = books(g)
    for tenant, sums in want.items():
        q = {"tenant": tenant} if tenant else {}
        for group in ("", "tenant", "key", "adapter", "model", "line_item", "tenant,line_item", "adapter,line_item"):
            got = [r for b in get(g.admin, "/admin/v1/costs", **({"group_by": group} if group else {}), **q)["data"] for r in b["results"]]
            assert sum(r["amount_nano"] for r in got) == sums[4], (tenant, group)
            if "line_item" in group:
                assert sum(r["quantity"] for r in got) == sums[1] + sums[3], (tenant, group)
    for t in (g.acme, g.other):
        sums = want[t.name]
        with t.http() as c:
            rows = [r for b in get(c, "/v1/usage", start_time=int(time.time()) - DAY)["data"] for r in b["results"]]
            assert plus(*[(r["num_model_requests"], r["input_tokens"], r["input_cached_tokens"], r["output_tokens"], r["cost_nano"]) for r in rows]) == sums
            bill = get(c, "/v1/invoice")
        assert (bill["requests"], bill["total_nano"]) == (sums[0], sums[4])
        assert sum(x["amount_nano"] for x in bill["lines"]) + bill["adjustments_nano"] == sums[4]
        assert sum(a["cost_nano"] for a in bill["adjustments"]) == bill["adjustments_nano"]
        assert all(x["tokens"] * x["unit_price_nano"] == x["amount_nano"] for x in bill["lines"])
        assert sum(x["tokens"] for x in bill["lines"]) + sum(a["input_tokens"] + a["output_tokens"] for a in bill["adjustments"]) == sums[1] + sums[3]
        assert Decimal(str(bill["total"])) == Decimal(sums[4]).scaleb(-9)
    everybody = get(g.admin, "/admin/v1/invoice")
    assert everybody["total_nano"] == want[""][4]
    assert {x["tenant"]: (x["requests"], x["input_tokens"], x["cached_tokens"], x["output_tokens"], x["total_nano"]) for x in everybody["data"]} == {t: want[t] for t in ("acme", "other")}


def test_exports_in_each_format(g):
    want = books(g)
    for tenant, sums in want.items():
        q = {"all": "true", "start_time": 0, **({"tenant": tenant} if tenant else {})}
        texts = {f: g.admin.get("/admin/v1/exports/usage", params={"format": f, **q}).text for f in ("csv", "jsonl", "focus")}
        for rows in (list(csv.DictReader(io.StringIO(texts["csv"]))), [json.loads(x) for x in texts["jsonl"].splitlines()]):
            got = [(r["kind"] == "request", *(int(r[k]) for k in ("input_tokens", "input_cached_tokens", "output_tokens", "cost_nano"))) for r in rows]
            assert plus(*got) == sums, (tenant, rows)
        focus = list(csv.DictReader(io.StringIO(texts["focus"])))
        assert sum(int(r["x_CostNano"]) for r in focus) == sums[4], tenant
        for column in ("BilledCost", "EffectiveCost"):
            assert sum(Decimal(r[column]) for r in focus) == Decimal(sums[4]).scaleb(-9), (tenant, column)


def test_budgets_know_it_too_and_after_a_start(g):
    def used():
        r = get(g.admin, "/admin/v1/tenants/acme/limits")["used"]
        return r["tokens_per_day"], r["cost_per_day"]

    want = books(g)["acme"]
    assert used() == (want[1] + want[3], want[4])
    g.stop()
    g.start()
    assert used() == (want[1] + want[3], want[4])
    test_costs_usage_and_invoices(g)


def test_sums_that_were_spoilt_are_made_anew_by_the_command_and_say_the_same_again(g):
    def rebuild(*args):
        done = subprocess.run([PROGRAM, "rebuild", *args], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, _, said = rebuild("--data", g.data)
    assert code == 1 and "another process uses" in said
    g.stop()
    with sqlite3.connect(g.data / "weft.db") as db:
        db.execute("UPDATE rollup_by SET cost = cost + 1 WHERE dim = 0 AND tenant <> ''")
        db.execute("UPDATE rollup_adapter SET last_used = 1")
        db.execute("INSERT INTO rollup_day SELECT tenant, 951782400, key, base, adapter, version, model, endpoint, state, 1, 1, 0, 1, 1, 7 FROM rollup_day LIMIT 1")
        now = db.execute("SELECT strftime('%Y%m', max(t), 'unixepoch') FROM rollup_day").fetchone()[0]
    db.close()
    code, text, _ = rebuild("--data", g.data)
    assert code == 0 and "every rollup equals its rows" in text.splitlines()[-1], text
    for spoilt in (f"rollup_by of {now}", f"rollup_adapter of {now}", "rollup_day of 200002"):
        assert f"before: {spoilt}: " in text, text
    assert rebuild("--data", g.data)[1].startswith("before: every rollup equals its rows\n")
    with sqlite3.connect(g.data / "weft.db") as db:
        db.execute("UPDATE budget_use SET cost = cost + 1")
    db.close()
    code, text, _ = rebuild("--data", g.data)
    assert code == 0 and "before: budget_use: " in text and "still" not in text, text
    g.start()
    test_budgets_know_it_too_and_after_a_start(g)


@pytest.mark.parametrize("args", [[], ["--data"], ["--data", "x", "y"], ["--nothing"]])
def test_rebuild_says_what_it_takes_and_makes_no_folder(args, tmp_path):
    done = subprocess.run([PROGRAM, "rebuild", *args], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "--data DIR" in done.stderr
    done = subprocess.run([PROGRAM, "rebuild", "--data", tmp_path / "none"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and not (tmp_path / "none").exists()


def test_a_clock_that_was_set_back_hides_no_row_from_the_export_of_its_time(g):
    """Ids go on from the last one; a row's time must not fall behind its id, into a time that was told to be final, or beyond what an export of that time reads."""
    ahead = int(time.time() * 1e6) + 5 * 3600 * 10**6
    g.stop()
    db = sqlite3.connect(g.data / "weft.db")
    (month,) = db.execute("SELECT max(name) FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*'").fetchone()
    db.execute(f"CREATE TEMP TABLE one AS SELECT * FROM {month} LIMIT 1")
    db.execute("UPDATE one SET id = ?, tenant = 'nobody', t_start = ?, t_first = ?, t_end = ?, prompt = 0, cached = 0, output = 0, cost = 0", (uuid7(ahead, random.Random(1)), ahead, ahead, ahead))
    db.execute(f"INSERT INTO {month} SELECT * FROM one")
    db.commit()
    g.start()
    try:
        row = ask(g.other, "tokens=4")
        fix = adjust(g, request=row["id"], cost_nano=-1)
        for id, start in ((row["id"], row["created_at"]), (fix["id"], fix["created_at"])):
            text = g.admin.get("/admin/v1/exports/usage", params={"format": "csv", "all": "true", "start_time": start - 60, "end_time": start + 61}).text
            assert id in text, (id, start)
    finally:
        g.stop()
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*'").fetchall():
            db.execute(f"DELETE FROM {name} WHERE tenant = 'nobody'")
        db.commit()
        db.close()
        g.start()
