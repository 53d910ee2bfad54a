"""Exports and retention: a month whose rows were removed is never passed over in silence, be it gone before an export begins or while it runs."""

import os
import socket
import sqlite3
import time
from urllib.parse import urlsplit

import pytest

from gateway_process import Gateway, until
from past_rows import Past, spread
from test_export import fetch, folder, month_start, rows_of, schedule, weft

GONE, LATE, MANY, LAST, THIS = month_start(4), month_start(3), month_start(2), month_start(1), month_start(0)
ROWS = 20000  # of MANY: more than lie in the buffers of sockets, less than a scheduled file writes before its first fdatasync


def number(start):
    return int(time.strftime("%Y%m", time.gmtime(start)))


def sql(g, *statements):
    """Beside the gateway that runs, as retention would; all of it is on the disk then."""
    with sqlite3.connect(g.data / "weft.db", timeout=20) as db:
        for s in statements:
            db.execute(*s)
    db.close()


def is_gone(start, removed=1):
    return ("INSERT OR REPLACE INTO archive(month, rows, bytes, sha256, made, dropped, removed, lost) VALUES(?, 5, 0, '', 1, 1, ?, 5)", (number(start), removed))


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    """GONE was removed; so was LATE, for which rows came later; MANY and LAST are whole."""
    g = Gateway(tmp_path_factory.mktemp("gone"), "--stream-buffer", "8k", fake=True)
    g.tenants = {"acme": g.tenant("acme")}
    g.tenants["acme"].usage(g.tenants["acme"].ask("hello").headers["x-request-id"])
    g.stop()
    past = Past(g.data)
    acme = [past.tenants()["acme"]]
    for start, n in ((LATE, 3), (MANY, ROWS), (LAST, 50)):
        past.add(spread(n, (start + 60) * 1000000, (start + 86400) * 1000000, acme, seed=start))
    past.db.execute(*is_gone(GONE))
    past.db.execute(*is_gone(LATE))
    past.close()
    g.start()
    yield g
    g.close()


@pytest.fixture
def forgets(g):
    """A test that says a month is gone: afterwards it is not."""
    yield
    sql(g, ("DELETE FROM archive WHERE month >= ?", (number(MANY),)))


def first_id(g, start):
    return rows_of(fetch(g, start_time=start, end_time=start + 86400 * 20, partial="true").text)[0]["id"]


def test_who_asks_for_removed_months_is_told_which_and_where_to_begin(g):
    name = time.strftime("%Y-%m", time.gmtime(GONE)), time.strftime("%Y-%m", time.gmtime(LATE))
    for who in (None, g.tenants["acme"]):
        for query in ({"start_time": GONE}, {"start_time": GONE, "end_time": GONE + 60}, {"start_time": LATE + 86400}, {"after": first_id(g, LATE)}, {"start_time": 0, "format": "focus"}):
            r = fetch(g, who, **query)
            assert r.status_code == 410, (query, r.status_code, r.text[:200])
            error = r.json()["error"]
            assert error["code"] == "rows_removed" and error["param"] == "start_time" and "archive_keep_months" in error["message"]
        message = fetch(g, who, start_time=GONE).json()["error"]["message"]
        assert f"2 months from {name[0]} to {name[1]}" in message and f"start_time={MANY};" in message
        whole = fetch(g, who, start_time=MANY)
        assert whole.status_code == 200 and len(rows_of(whole.text)) == ROWS + 50 and "x-weft-removed-before" not in whole.headers
        resumed = fetch(g, who, after=first_id(g, LATE), start_time=MANY)
        assert resumed.text == whole.text


def test_without_a_start_or_with_partial_there_is_what_is_left_and_a_header_says_so(g):
    for query in ({}, {"start_time": 0, "partial": "true"}):
        r = fetch(g, **query)
        assert r.status_code == 200 and len(rows_of(r.text)) == 3 + ROWS + 50
        assert r.headers["x-weft-removed-before"] == str(MANY)
    assert fetch(g, partial="yes").json()["error"]["param"] == "partial"


def test_weft_export_says_it_and_takes_what_is_left_when_asked(g, tmp_path):
    file = tmp_path / "usage"
    r = weft(g, "export", file, "--since", GONE, "--until", THIS)
    assert r.returncode == 5 and b"were removed (archive_keep_months)" in r.stderr and b"code rows_removed" in r.stderr and file.read_bytes() == b"", r
    r = weft(g, "export", file, "--since", GONE, "--until", THIS, "--partial")
    assert r.returncode == 0 and len(rows_of(file.read_text())) == 3 + ROWS + 50, r


@pytest.mark.parametrize("query", ["", "&partial=true", f"&start_time={MANY}"])
def test_an_export_is_cut_where_a_month_is_removed_meanwhile_and_its_resumption_refused(g, forgets, query):
    at = urlsplit(g.url)
    with socket.create_connection((at.hostname, at.port), timeout=20) as s:
        s.sendall(f"GET /v1/exports/usage?format=jsonl&end_time={THIS}{query} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {g.tenants['acme'].key}\r\n\r\n".encode())
        got = s.recv(1000)
        time.sleep(0.3)  # all buffers are full
        sql(g, is_gone(MANY))
        while piece := s.recv(1 << 20):
            got += piece
    rows = got.count(b'{"id":"')
    assert b" 200 " in got[:20] and 500 < rows < ROWS and not got.endswith(b"0\r\n\r\n")
    last = got[got.rindex(b'{"id":"', 0, got.rindex(b"\n")):][7:43].decode()
    assert fetch(g, g.tenants["acme"], after=last).status_code == 410


def test_a_scheduled_file_of_a_month_that_is_removed_while_it_is_written_has_no_manifest(g, forgets):
    """The file's place is a pipe, which is full after the first slice."""
    month = time.strftime("%Y-%m.csv", time.gmtime(MANY))
    folder(g, "cut").mkdir(parents=True)
    pipe = folder(g, "cut") / (month + ".tmp")
    os.mkfifo(pipe)
    schedule(g, "cut", every="month", **{"from": MANY})
    got = b""
    with open(pipe, "rb") as f:
        got += f.read(1000)
        sql(g, is_gone(MANY))
        while piece := f.read(1 << 20):
            got += piece
    assert got.count(b"\r\n") > 4096
    said = until(lambda: g.admin.get("/admin/v1/export-schedules/cut").json()["last_error"])
    assert f"the rows of the month {number(MANY)} were removed" in said
    assert list(folder(g, "cut").iterdir()) == []


def test_a_scheduled_file_of_a_removed_month_whose_late_rows_are_archived_is_refused(g):
    sql(g, is_gone(LATE, None))
    schedule(g, "late", every="month", **{"from": LATE})
    said = until(lambda: g.admin.get("/admin/v1/export-schedules/late").json()["last_error"])
    assert f"the rows of the month {number(LATE)} were removed" in said
    assert list(folder(g, "late").iterdir()) == []
