"""Exports: what goes out is what the ledger has, in every format, as often and from wherever it is asked for; by a schedule, one whole file a period."""

import csv
import datetime
import gzip
import hashlib
import io
import json
import os
import random
import socket
import subprocess
import time
from decimal import Decimal
from urllib.parse import urlsplit

import httpx
import pytest

import focus
from gateway_process import BASE, BIN, Gateway, until
from past_rows import Past, request, spread
from way import Breaks, Way

UTC = datetime.timezone.utc
TOKENS = ("input_tokens", "input_cached_tokens", "output_tokens", "produced_tokens")


def at(*when):
    return int(datetime.datetime(*when, tzinfo=UTC).timestamp())


def month_start(back):
    now = datetime.datetime.now(UTC)
    month = now.year * 12 + now.month - 1 - back
    return at(month // 12, month % 12 + 1, 1)


THIS, LAST, BEFORE = month_start(0), month_start(1), month_start(2)
HOSTILE = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "\nx", "＝1", 'say "hi", twice', "two\r\nlines", "ünï✓", "plain", "a,b", "'x", ""]


def fill(g):
    """Two months and a bit: 600 requests of two tenants in each, requests with hostile names, corrections of all kinds."""
    rnd = random.Random(7)
    past = Past(g.data)
    ids = past.tenants()
    past.price(1)
    past.price(2, tenant=ids["other"], prompt=100, cached=10, output=500)
    both = [ids["acme"], ids["other"]]
    for start in (BEFORE, LAST):
        past.add(spread(600, (start + 60) * 1000000, (start + 27 * 86400) * 1000000, both, seed=start))
    # The last second of one month and the first of the next.
    past.add([request((LAST * 1000000) + d, rnd, ids["acme"], price=1, cost=100 * 150 - 40 * 130 + 30 * 600, prompt=100) for d in (-1, 0)])
    past.add([request((LAST + 100) * 1000000 + 1000 * i, rnd, ids["acme"], model=text, state=i % 6, price=0) for i, text in enumerate(HOSTILE)])
    first = past.db.execute(f"SELECT id FROM usage_{time.strftime('%Y%m', time.gmtime(BEFORE))} WHERE tenant = ? ORDER BY id", (ids["acme"],)).fetchone()[0]
    same = past.db.execute(f"SELECT id FROM usage_{time.strftime('%Y%m', time.gmtime(LAST))} WHERE tenant = ? ORDER BY id", (ids["acme"],)).fetchall()[1][0]
    nothing = {"prompt": 0, "cached": 0, "output": 0, "produced": 0, "endpoint": "", "model": "", "adapter": "", "version": 0, "finish": "", "t_first": 0}
    corrections = [(first, -5000), (same, -700), ("", -100000), (same, 900), ("", 12)]
    past.add([request((LAST + 20 * 86400 + i) * 1000000, rnd, ids["acme"], adjusts=a, cost=c, **nothing) for i, (a, c) in enumerate(corrections)])
    # Of the other's own price, of a price that nobody knows, of one whose cost was cut, and of none at all.
    past.add([request((LAST + 200) * 1000000, rnd, ids["other"], price=2, cost=60 * 100 + 40 * 10 + 30 * 500),
              request((LAST + 201) * 1000000, rnd, ids["other"], price=99, cost=12345),
              request((LAST + 202) * 1000000, rnd, ids["other"], price=1, cost=10**14, prompt=10**9, output=10**9),
              request((LAST + 203) * 1000000, rnd, ids["other"], prompt=0, cached=0, output=0, produced=0, state=4)])
    past.close()


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("export"), "--stream-buffer", "8k", fake=True)
    g.tenants = {n: g.tenant(n) for n in ("acme", "other")}
    g.tenants["acme"].usage(g.tenants["acme"].ask("hello").headers["x-request-id"])
    g.stop()
    fill(g)
    g.start()
    yield g
    g.close()


def fetch(g, who=None, **query):
    key, url = (who.key, g.url + "/v1") if who else (g.admin_key, g.admin_url + "/admin/v1")
    return httpx.get(f"{url}/exports/usage", params={"end_time": THIS, **query}, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def ledger_rows(g, tenant=None):
    """All rows before this month as the ledger has them: (month, id) -> row."""
    past = Past(g.data)
    names = {v: k for k, v in past.tenants().items()}
    out = []
    for (table,) in past.db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*' ORDER BY name").fetchall():
        cursor = past.db.execute(f"SELECT * FROM {table} WHERE t_start < ? ORDER BY id", (THIS * 1000000,))
        out += [dict(zip([c[0] for c in cursor.description], r)) for r in cursor]
    past.close()
    return [{**r, "tenant_name": names[r["tenant"]]} for r in out if tenant in (None, names[r["tenant"]])]


# --- formats ---


def test_csv_says_what_the_ledger_has(g):
    r = fetch(g)
    assert r.status_code == 200 and r.headers["content-type"].startswith("text/csv"), r.text
    assert r.content.count(b"\r\n") >= 1200 and r.text.endswith("\r\n")
    rows, want = rows_of(r.text), ledger_rows(g)
    assert [x["id"] for x in rows] == [x["id"] for x in want]
    pairs = {"tenant": "tenant_name", "tenant_id": "tenant", "api_key_id": "key", "base": "base", "adapter": "adapter", "endpoint": "endpoint",
             "engine": "engine", "alias": "alias", "finish_reason": "finish"}
    numbers = {"http_status": "http", "start_us": "t_start", "end_us": "t_end", "input_tokens": "prompt", "input_cached_tokens": "cached",
               "output_tokens": "output", "produced_tokens": "produced", "price_id": "price", "cost_nano": "cost", "attempt": "attempt", "load_us": "load_us"}
    states = ["completed", "client_abort", "upstream_error", "timeout", "rejected", "gateway_crash"]
    for x, w in zip(rows, want):
        assert {a: x[a] for a in pairs} == {a: w[b] for a, b in pairs.items()}
        assert {a: int(x[a]) for a in numbers} == {a: w[b] for a, b in numbers.items()}
        assert x["first_us"] == (str(w["t_first"]) if w["t_first"] else "") and x["version"] == (str(w["version"]) if w["adapter"] else "")
        assert (x["state"], x["stream"], x["cold"], x["currency"]) == (states[w["state"]], "true" if w["stream"] else "false", "false", "USD")
        assert (x["kind"], x["adjusts"]) == ("request" if w["adjusts"] is None else "adjustment", w["adjusts"] or "")
        moment = datetime.datetime.fromtimestamp(w["t_start"] // 1000000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        assert x["time"] == f"{moment}.{w['t_start'] % 1000000:06d}Z"


def test_no_cell_of_a_csv_is_run_by_a_spreadsheet_and_numbers_stay_numbers(g):
    models = [x["model"] for x in rows_of(fetch(g, g.tenants["acme"]).text) if int(x["start_us"]) // 1000000 == LAST + 100]
    assert models == [("'" + h if h[:1] in "=+-@\t\r\n＝" and h else h) for h in HOSTILE]
    for row in csv.reader(io.StringIO(fetch(g, format="focus").text, newline="")):
        assert all(not c or c[0] not in "=+@\t\r\n" and (c[0] != "-" or float(c) < 0) for c in row)
    assert {"-5000", "-700", "-100000"} <= {x["cost_nano"] for x in rows_of(fetch(g).text)}


def test_jsonl_says_the_same_as_csv(g):
    r = fetch(g, format="jsonl")
    assert r.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in r.text.split("\n")[:-1]]
    word = {True: "true", False: "false", None: ""}
    told = rows_of(fetch(g).text)
    for a, b in zip(lines, told, strict=True):
        a = {k: word[v] if v is None or isinstance(v, bool) else str(v) for k, v in a.items()}
        assert {**a, "model": ""} == {**b, "model": ""} and b["model"].lstrip("'") == a["model"].lstrip("'")
    assert [x["model"] for x in lines if x["start_us"] // 1000000 == LAST + 100] == HOSTILE


def test_focus_keeps_the_rules_and_its_sum_is_the_ledgers(g):
    r = fetch(g, format="focus")
    rows, want = rows_of(r.text), ledger_rows(g)
    assert focus.wrong(rows[0].keys(), rows) == []
    assert sum(Decimal(x["BilledCost"]) for x in rows) == Decimal(sum(w["cost"] for w in want)) / 10**9
    by_id = {}
    for x in rows:
        by_id.setdefault(x["x_RequestId"], []).append(x)
    for w in want:
        lines = by_id.get(w["id"], [])
        assert sum(int(x["x_CostNano"]) for x in lines) == w["cost"]
        assert all(x["BillingAccountId"] == w["tenant"] and x["BillingAccountName"] == w["tenant_name"] for x in lines)
        tokens = {x["SkuMeter"]: int(x["PricingQuantity"]) for x in lines if x["PricingUnit"] == "Tokens"}
        if w["adjusts"] is None and w["price"] in (0, 1, 2) and w["cost"] < 10**14:
            said = {"Input Tokens": w["prompt"] - w["cached"], "Cached Input Tokens": w["cached"], "Output Tokens": w["output"]}
            assert tokens == {k: v for k, v in said.items() if v}


def test_focus_tells_credits_corrections_discounts_and_prices_that_are_gone(g):
    rows = rows_of(fetch(g, format="focus").text)
    credits = [(x["ChargeCategory"], x["ChargeClass"], x["BilledCost"]) for x in rows if x["ChargeCategory"] != "Usage"]
    assert credits == [("Credit", "Correction", "-0.000005"), ("Credit", "", "-0.0000007"), ("Credit", "", "-0.0001"), ("Adjustment", "", "0.0000009"),
                       ("Adjustment", "", "0.000000012")]
    special = {s: [x for x in rows if x["x_StartedAt"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(LAST + s)))] for s in range(200, 204)}
    assert {(x["SkuMeter"], x["ListUnitPrice"], x["ContractedUnitPrice"]) for x in special[200]} == {
        ("Input Tokens", "0.00000015", "0.0000001"), ("Cached Input Tokens", "0.00000002", "0.00000001"), ("Output Tokens", "0.0000006", "0.0000005")}
    assert [(x["PricingUnit"], x["PricingQuantity"], x["BilledCost"]) for x in special[201]] == [("Requests", "1", "0.000012345")]
    assert [(x["PricingUnit"], x["BilledCost"]) for x in special[202]] == [("Requests", "100000")]
    assert special[203] == []  # used nothing, cost nothing


def test_adjustments_are_rows_of_their_own(g):
    asked = g.tenants["other"].ask("tokens=5").headers["x-request-id"]
    g.tenants["other"].usage(asked)
    made = [g.admin.post("/admin/v1/adjustments", json=body) for body in (
        {"request": asked, "cost_nano": 700, "reason": "=why"}, {"tenant": "other", "cost_nano": -1200, "reason": "a gift"})]
    assert [r.status_code for r in made] == [201, 201], [r.text for r in made]
    query = {"start_time": THIS, "end_time": int(time.time()) + 5, "all": "true"}
    told = {x["id"]: x for x in rows_of(fetch(g, g.tenants["other"], **query).text)}
    for r, adjusts, cost in zip(made, (asked, ""), ("700", "-1200")):
        x = told[r.json()["id"]]
        assert (x["kind"], x["adjusts"], x["cost_nano"], x["tenant"]) == ("adjustment", adjusts, cost, "other")
    charges = {x["x_RequestId"]: x for x in rows_of(fetch(g, format="focus", **query).text)}
    assert focus.wrong(list(charges.values())[0].keys(), list(charges.values())) == []
    assert [(charges[r.json()["id"]]["ChargeCategory"], charges[r.json()["id"]]["ChargeClass"], charges[r.json()["id"]]["BilledCost"]) for r in made] == [
        ("Adjustment", "", "0.0000007"), ("Credit", "", "-0.0000012")]


def test_a_price_that_was_removed_still_explains_what_it_cost(g):
    body = {"base": BASE, "prompt_nano": 7, "output_nano": 9}
    price = g.admin.post("/admin/v1/prices", json=body).json()
    until(lambda: g.tenants["acme"].ask("hello").status_code == 200)
    assert g.admin.delete(f"/admin/v1/prices/{price['id']}").status_code == 200
    asked = g.tenants["acme"].ask("tokens=5").headers["x-request-id"]
    g.tenants["acme"].usage(asked)
    rows = [x for x in rows_of(fetch(g, format="focus", start_time=THIS, end_time=int(time.time()) + 5, all="true").text) if x["x_PriceId"] == price["id"]]
    assert {(x["SkuMeter"], x["ContractedUnitPrice"]) for x in rows} == {
        ("Input Tokens", "0.000000007"), ("Cached Input Tokens", "0.000000007"), ("Output Tokens", "0.000000009")}


# --- ranges, tenants, cursors ---


def test_a_tenant_sees_its_own_rows_only_and_the_operator_may_name_one(g):
    for name, tenant in g.tenants.items():
        want = [w["id"] for w in ledger_rows(g, name)]
        assert [x["id"] for x in rows_of(fetch(g, tenant).text)] == want == [x["id"] for x in rows_of(fetch(g, tenant=name).text)]
        with tenant.http() as c:
            assert c.get(f"/t/{name}/v1/exports/usage", params={"end_time": THIS}).text == fetch(g, tenant).text
            assert c.get("/v1/exports/usage", params={"tenant": "acme"}).status_code == 400
    foreign = ledger_rows(g, "other")[3]["id"]
    told = [x["id"] for x in rows_of(fetch(g, g.tenants["acme"], after=foreign).text)]
    assert told == [w["id"] for w in ledger_rows(g, "acme") if w["id"] > foreign]
    assert fetch(g, tenant="nobody").status_code == 404


def test_start_is_inclusive_and_end_exclusive(g):
    starts = [w["t_start"] for w in ledger_rows(g, "acme")]
    for a, b in [(BEFORE, LAST), (LAST, THIS), (LAST, LAST + 1), (LAST + 100, LAST + 101), (0, BEFORE), (LAST - 1, LAST)]:
        want = [t for t in starts if a * 1000000 <= t < b * 1000000]
        assert [int(x["start_us"]) for x in rows_of(fetch(g, g.tenants["acme"], start_time=a, end_time=b).text)] == want


def test_from_any_row_on_the_rest_comes(g):
    whole = fetch(g).text
    head, ids = whole.index("\r\n") + 2, [x["id"] for x in rows_of(whole)]
    for i in (0, 1, 599, 600, 601, len(ids) - 2, len(ids) - 1):
        rest = fetch(g, after=ids[i]).text
        assert [x["id"] for x in rows_of(rest)] == ids[i + 1:] and whole.endswith(rest[head:])
    assert fetch(g, after="00000000-0000-7000-8000-000000000000").text == whole
    assert rows_of(fetch(g, after="7fffffff-ffff-7fff-bfff-ffffffffffff").text) == [] or fetch(g, after="7fffffff-ffff-7fff-bfff-ffffffffffff").status_code == 400


def test_only_final_rows_are_told_unless_all_are_asked_for(g):
    asked = g.tenants["acme"].ask("hello").headers["x-request-id"]
    g.tenants["acme"].usage(asked)
    now = int(time.time()) + 5
    final = fetch(g, g.tenants["acme"], end_time=now)
    assert asked not in final.text and asked in fetch(g, g.tenants["acme"], end_time=now, all="true").text
    assert now - 70 - 5 <= int(final.headers["x-weft-complete-before"]) <= now - 60


@pytest.mark.parametrize("query, param", [
    ({"format": "xlsx"}, "format"), ({"format": ""}, "format"), ({"start_time": "-1"}, "start_time"), ({"start_time": THIS}, "start_time"),
    ({"end_time": "tomorrow"}, "end_time"), ({"after": "x"}, "after"), ({"after": "' OR 1=1"}, "after"), ({"all": "yes"}, "all"), ({"cursor": "1"}, "cursor")])
def test_what_makes_no_sense_is_refused_by_name(g, query, param):
    r = fetch(g, **query)
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text


# --- the stream ---


def test_gzip_where_the_client_takes_it(g):
    plain = fetch(g)
    url, key = g.admin_url + "/admin/v1/exports/usage", {"Authorization": f"Bearer {g.admin_key}"}
    for accept, packed in (("gzip", True), ("br, gzip;q=0.5", True), ("*", True), ("identity", False), ("gzip;q=0", False), ("", False)):
        with httpx.stream("GET", url, params={"end_time": THIS}, headers={**key, "Accept-Encoding": accept}) as r:
            raw = b"".join(r.iter_raw())
        assert (r.headers.get("content-encoding") == "gzip") == packed, accept
        assert (gzip.decompress(raw) if packed else raw) == plain.content


def raw_get(g, path, key, head="", url=None):
    at = urlsplit(url or g.admin_url)
    s = socket.create_connection((at.hostname, at.port), timeout=20)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n{head}\r\n".encode())
    return s


def test_head_has_the_headers_and_no_rows(g):
    r = httpx.head(f"{g.url}/v1/exports/usage", headers={"Authorization": f"Bearer {g.tenants['acme'].key}"})
    assert r.status_code == 200 and r.content == b"" and "x-weft-complete-before" in r.headers


def test_a_slow_reader_gets_all_and_holds_up_nobody(g):
    whole = fetch(g, format="focus").content
    slow = raw_get(g, f"/admin/v1/exports/usage?format=focus&end_time={THIS}", g.admin_key)
    try:
        assert slow.recv(100)
        for _ in range(3):  # of another key's right, and of the same key
            assert fetch(g, format="focus").content == whole
        got = b""
        while piece := slow.recv(65536):
            got += piece
        assert got.endswith(b"0\r\n\r\n")
    finally:
        slow.close()


def test_readers_that_leave_are_forgotten(g):
    for _ in range(12):  # four times what one key may have
        s = raw_get(g, f"/admin/v1/exports/usage?format=focus&end_time={THIS}", g.admin_key)
        s.recv(10)
        s.close()
        until(lambda: fetch(g, end_time=BEFORE).status_code == 200, what="an export after a reader has left")


def test_a_tenants_keys_share_what_it_may_have_at_a_time(g):
    keys = [g.key("acme", ["billing"]) for _ in range(4)]
    begun = [raw_get(g, f"/v1/exports/usage?format=focus&end_time={THIS}", keys[i % 4], url=g.url) for i in range(8)]
    try:
        assert all(s.recv(12) == b"HTTP/1.1 200" for s in begun)
        r = httpx.get(f"{g.url}/v1/exports/usage", headers={"Authorization": f"Bearer {keys[0]}"})
        assert r.status_code == 429 and "of this tenant" in r.json()["error"]["message"] and int(r.headers["retry-after"]) > 0
        other = next(t for n, t in g.tenants.items() if n != "acme")
        assert httpx.get(f"{g.url}/v1/exports/usage", headers={"Authorization": f"Bearer {other.key}"}).status_code == 200
    finally:
        for s in begun:
            s.close()
    until(lambda: httpx.get(f"{g.url}/v1/exports/usage", headers={"Authorization": f"Bearer {keys[0]}"}).status_code == 200, what="an export after the others")


# --- schedules ---


def schedule(g, name, **body):
    r = g.admin.post("/admin/v1/export-schedules", json={"name": name, **body})
    assert r.status_code == 201, r.text
    return r.json()


def folder(g, name):
    return g.data / "exports" / name


def manifest(g, name, file):
    return json.loads((folder(g, name) / f"{file}.manifest.json").read_text())


def wait_done(g, name, end):
    until(lambda: g.admin.get(f"/admin/v1/export-schedules/{name}").json()["done_until"] >= end, 20, f"the files of {name}")


def last_midnight():
    """Up to which days are over and final."""
    return (int(time.time()) - 70) // 86400 * 86400


def check_files(g, name, files, rows):
    """Each file is what its manifest says, and all together are the rows."""
    there = sorted(p.name for p in folder(g, name).iterdir())
    assert there == sorted(files + [f + ".manifest.json" for f in files])
    ids = []
    for file in files:
        data, m = (folder(g, name) / file).read_bytes(), manifest(g, name, file)
        told = rows_of(data.decode())
        assert (m["bytes"], m["sha256"], m["lines"]) == (len(data), hashlib.sha256(data).hexdigest(), len(told))
        assert m["requests"] == sum(x["kind"] == "request" for x in told) and m["adjustments"] == len(told) - m["requests"]
        assert [m[t] for t in TOKENS] == [sum(int(x[t]) for x in told) for t in TOKENS]
        assert m["cost_nano"] == sum(int(x["cost_nano"]) for x in told) and m["currency"] == "USD"
        assert [m["first_id"], m["last_id"]] == ([told[0]["id"], told[-1]["id"]] if told else [None, None])
        ids += [x["id"] for x in told]
    assert ids == [w["id"] for w in rows]


def test_a_schedule_writes_one_whole_file_for_each_period_that_is_over(g):
    rows = ledger_rows(g)
    made = schedule(g, "monthly", every="month", **{"from": BEFORE + 5})
    assert made["done_until"] == BEFORE and made["state"] == "enabled" and made["tenant"] is None
    schedule(g, "acme-daily", every="day", tenant="acme", **{"from": BEFORE})
    wait_done(g, "monthly", THIS)
    months = [time.strftime("%Y-%m.csv", time.gmtime(m)) for m in (BEFORE, LAST)]
    check_files(g, "monthly", months, rows)
    wait_done(g, "acme-daily", last_midnight())
    done = g.admin.get("/admin/v1/export-schedules/acme-daily").json()["done_until"]
    days = [time.strftime("%Y-%m-%d.csv", time.gmtime(t)) for t in range(BEFORE, done, 86400)]
    fresh = [x for x in rows_of(fetch(g, g.tenants["acme"], start_time=THIS, end_time=done).text)] if done > THIS else []
    check_files(g, "acme-daily", days, ledger_rows(g, "acme") + fresh)


def test_going_back_writes_no_file_twice_and_mends_one_that_was_damaged(g):
    schedule(g, "again", every="month", **{"from": LAST})
    wait_done(g, "again", THIS)
    file = folder(g, "again") / time.strftime("%Y-%m.csv", time.gmtime(LAST))
    before, data = file.stat(), file.read_bytes()
    back = g.admin.patch("/admin/v1/export-schedules/again", json={"from": LAST})
    assert back.status_code == 200, back.text
    wait_done(g, "again", THIS)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    file.write_bytes(data[:-100])
    g.admin.patch("/admin/v1/export-schedules/again", json={"from": LAST})
    wait_done(g, "again", THIS)
    until(lambda: file.read_bytes() == data, what="the file, mended")


def test_another_schedules_file_is_not_overwritten(g):
    schedule(g, "first", every="month", **{"from": LAST})
    wait_done(g, "first", THIS)
    assert g.admin.delete("/admin/v1/export-schedules/first").status_code == 200
    file = folder(g, "first") / time.strftime("%Y-%m.csv", time.gmtime(LAST))
    data = file.read_bytes()
    schedule(g, "first", every="month", tenant="other", **{"from": LAST})
    said = until(lambda: g.admin.get("/admin/v1/export-schedules/first").json()["last_error"])
    assert "another schedule" in said and file.read_bytes() == data
    events = g.admin.get("/admin/v1/events", params={"limit": 100}).json()["data"]
    assert [x["target"] for x in events if x["type"] == "export.failed"] == ["first"]
    assert g.admin.delete("/admin/v1/export-schedules/first").status_code == 200


def test_killed_at_any_moment_there_is_one_whole_file_for_each_period(g):
    rows, rnd = ledger_rows(g), random.Random(11)
    schedule(g, "killed", every="day", format="csv", **{"from": BEFORE})
    for _ in range(6):
        time.sleep(rnd.random() * 0.25)
        g.kill()
        for p in folder(g, "killed").glob("*.manifest.json"):  # at every moment: what has a manifest is whole
            m = json.loads(p.read_text())
            assert hashlib.sha256((folder(g, "killed") / m["file"]).read_bytes()).hexdigest() == m["sha256"]
        g.start()
    wait_done(g, "killed", last_midnight())
    files = sorted(p.name for p in folder(g, "killed").glob("*.csv"))
    assert not list(folder(g, "killed").glob("*.tmp"))
    told = [x["id"] for f in files for x in rows_of((folder(g, "killed") / f).read_text()) if int(x["start_us"]) < THIS * 1000000]
    assert told == [w["id"] for w in rows] and len(files) == len(set(files)) >= (THIS - BEFORE) // 86400


@pytest.mark.parametrize("body, param", [
    ({"name": "../x", "every": "day"}, "name"), ({"name": "x", "every": "week"}, "every"), ({"name": "x", "every": "day", "format": "xml"}, "format"),
    ({"name": "x", "every": "hour", "from": 5}, "from"), ({"name": "x", "every": "hour", "from": 4 * 10**9}, "from"),
    ({"name": "x", "every": "day", "tenant": "nobody"}, "tenant"), ({"every": "day"}, "name"), ({"name": "x"}, "every")])
def test_schedules_that_make_no_sense_are_refused_by_name(g, body, param):
    r = g.admin.post("/admin/v1/export-schedules", json=body)
    assert r.status_code in (400, 404) and r.json()["error"]["param"] == param, r.text


# --- weft export ---


def weft(g, *args, who="acme", admin_url=None, url=None, **more):
    env = {"PATH": os.environ["PATH"], "HOME": str(g.folder), "WEFT_URL": url or g.url, "WEFT_ADMIN_URL": admin_url or g.admin_url,
           "WEFT_KEY": g.tenants[who].key, "WEFT_ADMIN_KEY": g.admin_key, "NO_COLOR": "1"}
    return subprocess.run([BIN / "weft", *map(str, args)], env=env, capture_output=True, timeout=60, **more)


@pytest.mark.parametrize("form", ["csv", "jsonl", "focus"])
def test_weft_export_writes_the_file_and_goes_on_where_it_ends(g, tmp_path, form):
    whole, file = fetch(g, g.tenants["acme"], format=form).content, tmp_path / "usage"
    args = ["export", file, "--format", form, "--until", THIS]
    assert weft(g, *args, "--until", LAST).returncode == 0
    half = file.read_bytes()
    assert 0 < len(half) < len(whole) and whole.startswith(half)
    for torn in (half, half[:-1], half[:-40], half[: len(half) // 2], half[:30], b"", whole):  # as a kill leaves it
        file.write_bytes(torn)
        r = weft(g, *args)
        assert r.returncode == 0 and file.read_bytes() == whole, r.stderr
    assert weft(g, *args, "--until", BEFORE).returncode == 0 and file.read_bytes() == whole  # nothing came: nothing is lost


@pytest.mark.parametrize("form", ["csv", "focus"])
def test_weft_export_goes_on_after_a_broken_connection(g, tmp_path, form):
    file, way = tmp_path / "usage", Way(g.admin_url, change=Breaks(60000, 4))
    r = weft(g, "export", file, "--all", "--format", form, "--until", THIS, admin_url=way.url)
    assert r.returncode == 0 and r.stderr.count(b"broke off") == 4, r.stderr
    assert file.read_bytes() == fetch(g, format=form).content


def test_weft_export_says_what_is_wrong(g, tmp_path):
    file = tmp_path / "usage"
    assert weft(g, "export", file, "--until", THIS).returncode == 0
    before = file.read_bytes()
    for args, code, says in [(["--format", "focus"], 2, b"other columns"), (["--format", "jsonl"], 1, b"no export of this format"),
                             (["--format", "xml"], 1, b"csv, jsonl or focus"), (["--tenant", "nobody"], 5, b"no tenant"), (["--after", "x"], 2, b"not the id"),
                             (["--days", "3", "--since", "2026-01-01"], 2, b"go together")]:
        r = weft(g, "export", file, *args)
        assert r.returncode == code and says in r.stderr, (args, r)
        assert file.read_bytes() == before
    r = weft(g, "export", "--until", THIS)
    assert r.stdout == before
    file.write_text("some other file\n")
    assert weft(g, "export", file).returncode in (1, 2) and file.read_text() == "some other file\n"
    dead = weft(g, "export", tmp_path / "new", url="http://127.0.0.1:9")
    assert dead.returncode == 3


def test_weft_export_schedule_does_what_its_verbs_say(g):
    assert weft(g, "export-schedule", "create", "by-hand", "--every", "month", "--format", "jsonl", "--since", LAST).returncode == 0
    wait_done(g, "by-hand", THIS)
    assert b"by-hand" in weft(g, "export-schedules").stdout
    for verb, state in (("pause", "paused"), ("resume", "enabled")):
        assert weft(g, "export-schedule", verb, "by-hand").returncode == 0
        assert json.loads(weft(g, "export-schedule", "show", "by-hand", "--json").stdout)["state"] == state
    assert weft(g, "export-schedule", "set", "by-hand", "--since", BEFORE).returncode == 0
    wait_done(g, "by-hand", THIS)
    assert len(list(folder(g, "by-hand").glob("*.jsonl"))) == 2
    assert weft(g, "export-schedule", "rm", "by-hand").returncode == 0
    assert weft(g, "export-schedule", "show", "by-hand").returncode == 5


def test_a_key_that_is_revoked_in_mid_stream_gets_no_further_row(g):
    """The last test here: it needs more rows than lie in the sockets' buffers."""
    g.stop()
    past = Past(g.data)
    oldest = month_start(3)
    past.add(spread(30000, (oldest + 60) * 1000000, (oldest + 86400) * 1000000, [past.tenants()["acme"]]))
    past.close()
    g.start()
    key = g.key("acme", ["billing"])
    at = urlsplit(g.url)
    with socket.create_connection((at.hostname, at.port), timeout=20) as s:
        s.sendall(f"GET /v1/exports/usage?format=focus HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode())
        got = s.recv(1000)
        time.sleep(0.3)  # all buffers are full
        assert g.admin.delete(f"/admin/v1/keys/{key.split('_')[1]}").status_code == 200
        while piece := s.recv(1 << 20):
            got += piece
    assert 100 < got.count(b"\r\n") < 80000 and not got.endswith(b"0\r\n\r\n")
