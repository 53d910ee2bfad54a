"""A standby: what it has is a whole state of the primary at any moment, whatever is cut, changed or killed; what it takes over is all that was told before
its last look; it never takes over by itself. Gateways with the fake engine."""

import concurrent.futures
import json
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import threading
import time

import httpx
import pytest

from gateway_process import BASE, BIN, PROGRAM, START_S, Gateway, until
from standby_process import Load, Primary, Restored, Standby, backup_key, moment_of, promote, take_over
from way import Way


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Primary(tmp_path_factory.mktemp("primary"))
    for i in range(5):
        assert g.acme.ask(f"tokens={i + 1}", model="sql").status_code == 200
    yield g
    g.close()


@pytest.fixture
def standby(g, tmp_path):
    s = Standby(tmp_path / "standby", g.admin_url, g.backup_key)
    yield s
    s.close()


def books_are_right(g):
    v = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert (v["verify"]["bad_buckets"], v["audit"]["first_bad"], v["open_admissions"]) == (0, 0, 0), v
    return v["verify"]["rows"]


def copy_of(standby, to):
    """What a kill of the machine would leave, promoted: its rows."""
    shutil.copytree(standby.data, to / "data", ignore=shutil.ignore_patterns("promote"))
    promote(to / "data", "--force")
    with sqlite3.connect(to / "data/weft.db") as db:
        assert db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        months = [r[0] for r in db.execute("SELECT name FROM sqlite_schema WHERE name GLOB 'usage_[0-9]*' AND type = 'table'")]
        n = sum(db.execute(f"SELECT count(*) FROM {m}").fetchone()[0] for m in months)
    db.close()
    return n


def fill(primary, megabytes):
    """The primary's database, with what no gateway asks for; it is started anew."""
    primary.stop()
    with sqlite3.connect(primary.data / "weft.db") as db:
        db.executemany("INSERT INTO meta(name, value) VALUES(printf('filler-%d-%s', ?1, hex(randomblob(500000))), 0)", [(i,) for i in range(megabytes)])
    db.close()
    primary.start()


# --- taking over ---

def test_under_load_all_that_was_told_before_the_last_look_is_taken_over_and_the_loss_is_bounded(tmp_path, _model):
    primary = Gateway(tmp_path / "primary", fake=True)
    s = Standby(tmp_path / "standby", primary.admin_url, backup_key(primary), every=0.5)
    again = None
    try:
        acme = primary.tenant("acme")
        for name in ("sql", "pirate"):
            assert acme.upload(name).status_code == 201
        r = primary.admin.put("/admin/v1/tenants/acme/limits", json={"tokens_per_day": 10**9, "concurrent_requests": 20})
        assert r.status_code == 200, r.text
        limits = primary.admin.get("/admin/v1/tenants/acme/limits").json()
        s.start().synced()
        load = Load(acme, models=(BASE, "sql", "pirate"))
        until(lambda: len(load.told) > 200, what="load")
        before = s.state()
        until(lambda: s.state()["gen"] >= before["gen"] + 4, what="looks under load")
        primary.kill()
        killed = time.time()
        load.end()
        again, said, began, promoted = take_over(s, primary)
        tenant = type(acme)(again, "acme", acme.key)
        first = tenant.ask("tokens=2", model="sql")
        served = time.monotonic() - began
        assert first.status_code == 200, first.text
        rows = {r["id"]: r for r in tenant.usage_rows()}
        moment = moment_of(said)
        lost = [t for i, (n, t) in load.told.items() if i not in rows]
        print(f"told {len(load.told)}, lost {len(lost)} of {killed - moment:.2f} s, promote {promoted:.2f} s, first answer after {served:.2f} s")
        assert not [t for t in lost if t < moment], "told before the moment, and not there"
        assert killed - moment < 0.5 + 3, "longer than --every and a look"
        assert all(rows[i]["output_tokens"] == n for i, (n, t) in load.told.items() if i in rows and rows[i]["state"] == "completed")
        assert {r["state"] for r in rows.values()} <= {"completed", "gateway_crash"}
        told_but_open = [i for i in load.told if i in rows and rows[i]["state"] != "completed"]
        assert len(told_but_open) <= len(lost) + 20  # under way at the moment, and ended before the kill
        assert books_are_right(again) == len(rows)
        now = again.admin.get("/admin/v1/tenants/acme/limits").json()
        assert (now["limits"], now["revision"]) == (limits["limits"], limits["revision"])
        assert now["used"]["tokens_per_day"] == sum(r["input_tokens"] + r["output_tokens"] for r in tenant.usage_rows())
        said = {g: [x["headers"]["x-weft-takeover"] for x in g.fake_log()["log"] if "x-weft-takeover" in x["headers"]] for g in (primary, again)}
        assert {x.split("-")[1] for x in said[primary]} == {"0"} and {x.split("-")[1] for x in said[again]} == {"1"}
        assert {x.split("-")[0] for x in said[primary]} == {x.split("-")[0] for x in said[again]}
        assert "standby.promoted" in [e["type"] for e in again.admin.get("/admin/v1/events", params={"limit": 100}).json()["data"]]
        assert tenant.ask("tokens=1", model="pirate").status_code == 200
    finally:
        if again:
            again.close()
        s.close()
        primary.close()


def test_keys_that_were_revoked_and_adapters_that_came_are_so_there(g, standby, tmp_path):
    standby.start().synced()
    key = g.key("acme", ["inference"])
    gone = g.key("acme", ["inference"])
    assert g.admin.delete(f"/admin/v1/keys/{gone.split('_')[1]}").status_code in (200, 204)
    assert g.acme.upload("pirate").status_code == 201
    standby.synced()
    standby.stop()
    promote(standby.data, "--force")
    again = Restored(standby.folder, g.admin_key)
    try:
        for k, status in ((key, 200), (gone, 401)):
            r = httpx.post(again.url + "/v1/chat/completions", headers={"Authorization": f"Bearer {k}"}, timeout=30,
                           json={"model": "pirate", "messages": [{"role": "user", "content": "tokens=2"}]})
            assert r.status_code == status, r.text
        assert sorted(again.blobs()) == sorted(g.blobs())
        books_are_right(again)
    finally:
        again.close()


# --- what these tests wait for ---

def test_a_status_that_is_long_on_its_way_is_not_taken_for_that_of_a_newer_state(tmp_path, monkeypatch):
    """Of the helper itself: a state asked for 50 ms before synced(), whose age comes 200 ms late; then one asked for after it."""
    s, now, ages = Standby(tmp_path / "none", "http://127.0.0.1:1", "wfa_none"), [1000.0], [0.05, 0.01]

    class Alive:
        @staticmethod
        def poll():
            return None

    def status():
        now[0] += 0.2
        return {"behind_s": ages.pop(0)}

    s.process = Alive
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(s, "status", status)
    assert s.synced() == {"behind_s": 0.01} and not ages


# --- what travels ---

def test_only_what_changed_travels_and_after_a_start_of_the_primary_only_what_differs(tmp_path, _model):
    primary = Gateway(tmp_path / "primary", "--admin-listen", "127.0.0.1:0", fake=True)
    key = backup_key(primary)
    fill(primary, 8)  # so much that a few looks more than are waited for are nothing beside it
    s = Standby(tmp_path / "standby", primary.admin_url, key)
    try:
        acme = primary.tenant("acme")
        assert acme.upload("sql").status_code == 201
        for _ in range(30):
            acme.ask("tokens=3")
        s.start().synced()
        first = s.metric("weft_standby_received_bytes")
        size = s.metric("weft_standby_database_bytes")
        assert first > size
        acme.ask("tokens=3")
        s.synced()
        assert s.metric("weft_standby_last_bytes") < size / 3
        syncs = s.metric("weft_standby_syncs")
        until(lambda: s.metric("weft_standby_syncs") > syncs + 2, what="idle looks")
        assert s.metric("weft_standby_last_bytes") < 40000 and s.metric("weft_standby_last_pages") < 8
        port = primary.admin_url.rsplit(":", 1)[1]
        primary.stop()
        s.failed("cannot connect")
        before = s.metric("weft_standby_received_bytes")
        primary.args = ["--admin-listen", f"127.0.0.1:{port}"]
        primary.start()
        s.synced()
        assert s.metric("weft_standby_compared_pages") >= size / 4096 - 1
        assert s.metric("weft_standby_received_bytes") - before < size / 2
        s.stop()
        assert copy_of(s, tmp_path / "copy") == 31
    finally:
        s.close()
        primary.close()


def test_a_month_in_a_file_travels_once_and_goes_when_it_is_removed(tmp_path, _model):
    primary = Gateway(tmp_path / "primary", "--archive-months", "1", fake=True)
    key = backup_key(primary)
    again = None
    try:
        acme = primary.tenant("acme")
        for i in range(3):
            acme.ask(f"tokens={i + 1}")
        rows = until(lambda: (lambda r: r if len(r) == 3 else None)(acme.usage_rows()), what="the rows")
        primary.stop()
        month = time.strftime("%Y%m", time.gmtime(rows[0]["created_at"]))
        with sqlite3.connect(primary.data / "weft.db") as db:  # as if they were of January 2025
            db.execute(f"ALTER TABLE usage_{month} RENAME TO usage_202501")
        db.close()
        primary.start()
        until(lambda: (primary.data / "archive/usage_202501.db").exists(), what="the file")
        s = Standby(tmp_path / "standby", primary.admin_url, key).start()
        s.synced()
        there = s.data / "archive/usage_202501.db"
        until(lambda: there.exists() or s.synced() and there.exists(), what="the month")
        assert there.read_bytes() == (primary.data / "archive/usage_202501.db").read_bytes()
        inode = there.stat().st_ino
        for _ in range(3):
            acme.ask("tokens=1")
            s.synced()
        assert there.stat().st_ino == inode
        s.stop()
        primary.stop()
        promote(s.data)
        again = Restored(s.folder, primary.admin_key, "--archive-months", "1")
        assert len(type(acme)(again, "acme", acme.key).usage_rows()) == 6
        assert again.admin.get("/admin/v1/ledger?verify=1").json()["verify"]["rows"] == 6
    finally:
        if again:
            again.close()
        primary.close()


# --- what goes wrong ---

def test_changed_and_cut_bytes_are_refused_and_it_goes_on_from_the_last_good_state(g, standby, tmp_path):
    proxy = Way(g.admin_url)
    standby.url = proxy.url
    rng = random.Random(7)
    try:
        standby.start().synced()
        good = standby.state()
        assert standby.metric('weft_standby_verify_failures_total{what="answer"}') == 0

        def flip(data, n):
            if len(data) < 600:
                return data
            at = rng.randrange(300, len(data))
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]

        g.acme.ask("tokens=4")
        proxy.change = flip
        standby.failed("digest is another")
        assert standby.metric('weft_standby_verify_failures_total{what="answer"}') >= 1
        proxy.change = lambda data, n: None if n > 2000 else data[:2500]
        failures = standby.status()["failures"]
        until(lambda: standby.status()["failures"] > failures, what="a cut answer")
        copied = copy_of(standby, tmp_path / "copy")
        assert copied >= 5
        now = standby.state()
        assert now["epoch"] == good["epoch"]
        proxy.change = lambda data, n: data
        o = standby.synced()
        assert o["error"] is None and standby.state()["gen"] > now["gen"]
    finally:
        proxy.close()


def test_a_large_adapter_whose_way_is_cut_goes_on_where_it_was(g, standby):
    """Pieces of 8 MB: of one that is cut only that piece is sent again."""
    blob = g.data / "blobs" / g.blobs()[0][:2] / g.blobs()[0] / "adapter_model.safetensors"
    weights, kept = blob.read_bytes(), blob.stat()
    blob.write_bytes(weights + os.urandom(20 << 20))
    proxy = Way(g.admin_url)
    standby.url = proxy.url
    cut = []

    def once(data, n):  # in the second piece
        if not cut and proxy.answered > 12 << 20:
            cut.append(1)
            return None
        return data

    try:
        proxy.change = once
        standby.start()
        standby.synced()
        assert cut and (standby.data / "blobs" / g.blobs()[0][:2] / g.blobs()[0] / "adapter_model.safetensors").stat().st_size == len(weights) + (20 << 20)
        assert proxy.answered < 36 << 20
    finally:
        proxy.close()
        blob.write_bytes(weights)
        os.utime(blob, ns=(kept.st_atime_ns, kept.st_mtime_ns))


@pytest.mark.parametrize("roles, words", [(["viewer"], "403"), (["admin"], "403"), (None, "401")])
def test_only_a_key_of_the_role_backup_is_given_anything(g, tmp_path, roles, words):
    s = Standby(tmp_path / "standby", g.admin_url, backup_key(g, roles) if roles else "wfa_wrong")
    try:
        s.start().failed(words)
        assert not (s.data / "weft.db").exists() and not (s.data / "pepper").exists()
        assert "no complete state" in promote(s.data, "--force", status=1)
    finally:
        s.close()


def test_a_backup_key_reads_and_changes_nothing_else(g):
    with httpx.Client(base_url=g.admin_url, headers={"Authorization": f"Bearer {g.backup_key}"}) as c:
        for method, path in (("GET", "/admin/v1/tenants"), ("POST", "/admin/v1/tenants"), ("GET", "/admin/v1/standby"), ("GET", "/admin/v1/settings"), ("POST", "/admin/v1/admin-keys")):
            assert c.request(method, path, json={} if method == "POST" else None).status_code == 403, path
        for path in ("weft.db", "../pepper", "pepper/", "lock", "archive/usage_000000.db", "archive/../pepper", "blobs/ab", "", "%2e%2e/pepper", "blobs/aa/" + "a" * 64 + "/x"):
            assert c.get("/admin/v1/standby/files", params={"path": path}).status_code == 404, path
        r = c.get("/admin/v1/standby/files", params={"path": "pepper"})
        assert r.status_code == 200 and (g.data / "pepper").read_bytes() in r.content and r.headers["cache-control"] == "no-store"
        assert c.get("/admin/v1/standby/files", params={"path": "pepper", "offset": 33}).status_code == 400
        for body in ({"since": 1}, {"since": 1, "epoch": "x"}):
            assert c.post("/admin/v1/standby/pages", json=body).status_code == 409
        for body in ({"from": 0}, {"ranges": [1]}, {"ranges": [5, 2]}, {"ranges": ["a", 2]}, {"since": -1}, {"x": 1}, {"most": 0}, {"most": 8001}, {"have": -1}):
            assert c.post("/admin/v1/standby/pages", json=body).status_code == 400, body


def test_another_gateway_is_not_followed(g, standby, tmp_path):
    standby.start().synced()
    standby.stop()
    other = Gateway(tmp_path / "other", fake=True)
    try:
        standby.url = other.admin_url
        standby.token.write_text(backup_key(other))
        standby.start().failed("another gateway")
        standby.stop()
        assert copy_of(standby, tmp_path / "copy") >= 5
    finally:
        other.close()


def test_a_pepper_that_is_not_the_states_own_is_noticed_and_fetched_again(g, standby):
    standby.start().synced()
    standby.stop()
    (standby.data / "pepper").write_bytes(os.urandom(32))
    assert "not the one of the state" in promote(standby.data, "--force", status=1)
    standby.start().synced()
    assert (standby.data / "pepper").read_bytes() == (g.data / "pepper").read_bytes()
    assert standby.metric('weft_standby_verify_failures_total{what="pepper"}') == 1


def test_a_folder_with_another_gateways_pepper_and_no_state_does_not_follow(g, standby):
    standby.data.mkdir(parents=True)
    other = os.urandom(32)
    (standby.data / "pepper").write_bytes(other)
    standby.start().failed("another gateway")
    assert (standby.data / "pepper").read_bytes() == other


def test_a_primary_that_was_set_back_is_not_followed_and_what_is_newer_stays(tmp_path, _model):
    primary = Gateway(tmp_path / "primary", "--admin-listen", "127.0.0.1:0", fake=True)
    s = Standby(tmp_path / "standby", primary.admin_url, backup_key(primary))
    try:
        acme = primary.tenant("acme")
        acme.ask("tokens=2")
        s.start().synced()
        port = primary.admin_url.rsplit(":", 1)[1]
        primary.stop()
        s.failed("cannot connect")
        with sqlite3.connect(primary.data / "weft.db") as db:  # as a backup of an hour ago has it
            db.execute("UPDATE meta SET value = value - 3600000000 WHERE name = 'standby'")
        db.close()
        good = s.state()
        primary.args = ["--admin-listen", f"127.0.0.1:{port}"]
        primary.start()
        s.failed("was set back")
        assert s.state() == good
        assert copy_of(s, tmp_path / "copy") == 1
    finally:
        s.close()
        primary.close()


# --- what can't be had, or not at once ---

def test_an_adapter_that_the_primary_lost_is_told_and_asked_for_at_each_look_and_the_rest_goes_on(g, standby, tmp_path):
    before = set(g.blobs())
    r = g.acme.upload("pirate")
    assert r.status_code in (200, 201), r.text
    digest = next(iter(set(g.blobs()) - before), g.blobs()[-1])
    lost = g.data / "blobs" / digest[:2] / digest / "adapter_model.safetensors"
    aside = lost.with_name("aside")
    lost.rename(aside)
    try:
        o = standby.start().synced()
        assert o["missing_files"] == 1 and digest in o["warning"] and o["error"] is None
        assert standby.metric("weft_standby_missing_files") == 1 and standby.metric("weft_standby_failing") == 0
        gen = standby.state()["gen"]
        g.acme.ask("tokens=3")
        standby.synced()
        assert standby.state()["gen"] > gen
        standby.stop()
        assert "standby_warns" in standby.tail()
        shutil.copytree(standby.data, tmp_path / "copy")
        assert digest in promote(tmp_path / "copy", "--force")
        standby.start().synced()  # it knows of it after a start, too
        assert standby.status()["missing_files"] == 1
    finally:
        aside.rename(lost)
    until(lambda: standby.synced()["missing_files"] == 0, what="the file")
    assert (standby.data / "blobs" / digest[:2] / digest / lost.name).read_bytes() == lost.read_bytes()
    assert standby.status()["warning"] is None
    (standby.data / "blobs" / digest[:2] / digest / lost.name).unlink()  # by somebody's mistake: what is not there is seen at the start
    standby.stop()
    standby.start().synced()
    assert (standby.data / "blobs" / digest[:2] / digest / lost.name).exists()


def test_a_month_that_the_primary_lost_is_told_and_comes_when_it_is_there_again(tmp_path, _model):
    primary = Gateway(tmp_path / "primary", "--archive-months", "1", fake=True)
    s = Standby(tmp_path / "standby", primary.admin_url, backup_key(primary))
    try:
        acme = primary.tenant("acme")
        acme.ask("tokens=1")
        rows = until(acme.usage_rows, what="the row")
        primary.stop()
        month = time.strftime("%Y%m", time.gmtime(rows[0]["created_at"]))
        with sqlite3.connect(primary.data / "weft.db") as db:
            db.execute(f"ALTER TABLE usage_{month} RENAME TO usage_202501")
        db.close()
        primary.start()
        s.url = primary.admin_url
        there, file = s.data / "archive/usage_202501.db", primary.data / "archive/usage_202501.db"
        until(file.exists, what="the file")
        good = file.read_bytes()
        damaged = good[:5000] + bytes([good[5000] ^ 1]) + good[5001:]
        file.unlink()
        s.start()
        until(lambda: s.synced()["missing_files"] == 1, what="a state without it")
        file.write_bytes(damaged)
        until(lambda: "usage_202501" in (s.synced()["warning"] or ""), what="a state without it")
        assert s.metric('weft_standby_verify_failures_total{what="month"}') >= 1
        assert not there.exists()
        file.write_bytes(good)
        until(lambda: s.synced()["missing_files"] == 0, what="the month")
        assert there.read_bytes() == good
    finally:
        s.close()
        primary.close()


def test_over_a_link_that_breaks_every_few_megabytes_a_state_comes_nearer_with_each_look(tmp_path, _model):
    """Answers have 8 MB: of a database of some 30 MB no look gets more than one of them. What came is taken up after a kill, too."""
    primary = Gateway(tmp_path / "primary", fake=True)
    key = backup_key(primary)
    fill(primary, 30)
    proxy = Way(primary.admin_url)
    s = Standby(tmp_path / "standby", proxy.url, key)
    cuts, goes_on = [0], threading.Event()

    def breaks(data, n):
        if len(cuts) == 3 and not goes_on.is_set():
            return None
        if proxy.answered - cuts[-1] < 12 << 20:
            return data
        cuts.append(proxy.answered)
        return None

    try:
        proxy.change = breaks
        s.start()
        until(lambda: s.status().get("receiving_pages", 0) >= 4000 and s.status()["failures"] >= 3, START_S, "two answers")
        s.kill()
        goes_on.set()
        s.start()
        s.synced()
        assert "standby_takes_up" in s.tail()
        until(lambda: s.status()["receiving_pages"] == 0, what="the end of a look")  # there is always a next one, which has a page or two
        size = (s.data / "weft.db").stat().st_size
        assert size > 28 << 20 and proxy.answered < 2 * size
        copy_of(s, tmp_path / "copy")
    finally:
        s.close()
        proxy.close()
        primary.close()


def test_a_standby_whose_question_takes_long_keeps_nobody_from_the_admin_api(g):
    """A file that can't be read to its end holds the turn of standbys: others are told to come again, and the rest of the admin API answers."""
    digest = "ab" + "0" * 62
    pipe = g.data / "blobs/ab" / digest / "adapter_config.json"
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    headers = {"Authorization": f"Bearer {g.backup_key}"}

    def ask(method, path, **more):
        began = time.monotonic()
        r = httpx.request(method, g.admin_url + path, headers=headers, timeout=60, **more)
        return r.status_code, r.headers.get("retry-after"), time.monotonic() - began

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        stuck = [pool.submit(ask, "GET", "/admin/v1/standby/files", params={"path": f"blobs/ab/{digest}/adapter_config.json"}) for _ in range(6)]
        try:
            until(lambda: sum(x.done() for x in stuck) == 5, what="all but one to be answered")
            assert {x.result()[:2] for x in stuck if x.done()} == {(503, "1")}
            status, later, took = ask("POST", "/admin/v1/standby/pages", json={})
            assert (status, later) == (503, "1") and took < 3
            assert g.admin.get("/admin/v1/tenants", timeout=5).status_code == 200
        finally:
            os.close(os.open(pipe, os.O_WRONLY))
    assert sorted(x.result()[0] for x in stuck) == [200, 503, 503, 503, 503, 503]
    assert ask("POST", "/admin/v1/standby/pages", json={"most": 10})[0] == 200
    shutil.rmtree(pipe.parent)


def primary_view(g):
    """The standby that was seen last, as the primary tells of it."""
    return max(g.admin.get("/admin/v1/standby").json()["data"], key=lambda o: o["seen_at"])


def test_what_was_given_counts_as_had_only_where_the_standby_says_so(g):
    """`since` is what it asks on from, `have` the state that it keeps: of two that differ the second says how old its state is."""
    key = backup_key(g, name="asks-itself")

    def ask(**body):
        r = httpx.post(g.admin_url + "/admin/v1/standby/pages", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        assert r.status_code == 200, r.text
        head = json.loads(r.content.split(b"\n", 1)[0])
        assert head["next"] == 0  # all of it, so a state once it is kept
        mine = [o for o in g.admin.get("/admin/v1/standby").json()["data"] if o["key"] == key.split("_")[1]][0]
        return head["epoch"], head["gen"], mine["synced_at"]

    epoch, first, synced = ask()
    assert synced is None
    epoch, second, synced = ask(epoch=epoch, since=first, have=0)
    assert synced is None and second > first
    epoch, third, synced = ask(epoch=epoch, since=first, have=second)
    assert synced is not None
    assert ask(epoch=epoch, since=third)[2] >= synced  # where it says nothing they are the same


def test_a_full_disk_keeps_the_last_good_state_and_says_so(g, tmp_path):
    s = Standby(tmp_path / "standby", g.admin_url, g.backup_key)
    try:
        s.start().synced()
        s.stop()
        good = s.state()  # behind the last look
        s.file_limit = (s.data / "weft.db").stat().st_size + 8192
        for i in range(60):  # rows: the database grows
            g.admin.post("/admin/v1/tenants", json={"name": f"more-{random.randrange(10**9)}"})
        for i in range(300):
            g.acme.key and g.key("acme", ["inference"])
        s.start().failed("File too large")  # what a full disk says of a limit: where the pages are collected, or where they go
        assert s.state()["gen"] == good["gen"] and s.state()["epoch"] == good["epoch"]
        assert copy_of(s, tmp_path / "copy") >= 5
        since = primary_view(g)["synced_at"]
        until(lambda: primary_view(g)["seen_at"] > since + 3, what="further looks that failed")
        assert primary_view(g)["synced_at"] == since  # what was given and not kept is no state of the standby's
        s.stop()
        s.file_limit = None
        s.start().synced()
    finally:
        s.close()


def test_killed_at_any_moment_it_is_a_whole_state_and_goes_on(tmp_path, _model):
    primary = Gateway(tmp_path / "primary", fake=True)
    s = Standby(tmp_path / "standby", primary.admin_url, backup_key(primary), every=0.1)
    rng, load = random.Random(3), None
    try:
        acme = primary.tenant("acme")
        s.start().synced()
        load = Load(acme, workers=2)
        rows = 0
        for i in range(8):
            time.sleep(rng.uniform(0.02, 0.4))
            s.kill()
            n = copy_of(s, tmp_path / f"copy{i}")
            assert n >= rows, "an older state than before"
            rows = n
            shutil.rmtree(tmp_path / f"copy{i}")
            s.start()
        s.synced()
        load.end()
        s.synced()
        s.kill()  # a copy of a folder that changes is none
        assert copy_of(s, tmp_path / "last") == len(acme.usage_rows())
    finally:
        if load:
            load.end()
        s.close()
        primary.close()


# --- nobody takes over by himself ---

def test_no_gateway_starts_on_a_standbys_folder_and_no_standby_on_a_gateways(g, standby, tmp_path):
    standby.start().synced()
    done = subprocess.run([PROGRAM, "admin-key", "--data", standby.data], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "uses" in done.stderr
    standby.stop()
    done = subprocess.run([PROGRAM, "admin-key", "--data", standby.data], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "promote" in done.stderr
    mine = Standby(tmp_path / "mine", g.admin_url, g.backup_key)
    shutil.copytree(standby.data, mine.data)
    (mine.data / ".standby").unlink()
    mine.start()
    assert mine.process.wait(30) == 1 and "holds a gateway's data" in mine.tail()


def test_promote_ends_the_standby_and_refuses_while_the_primary_answers(g, standby):
    standby.start().synced()
    assert "takes connections" in promote(standby.data, status=1)
    assert standby.process.wait(30) == 0
    said = promote(standby.data, "--force")
    assert "takeover 1" in said and "Make sure" in said
    assert "no standby's folder" in promote(standby.data, status=1)


def test_promote_takes_silence_for_no_end(g, standby):
    """A primary that is stalled, and a socket that would start one, take connections and say nothing; a name that is not found says nothing either."""
    standby.start().synced()
    standby.stop()
    mark = standby.data / ".standby"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mark.write_text(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "takes connections" in promote(standby.data, status=1)
        mark.write_text(f"https://127.0.0.1:{silent.getsockname()[1]}")
        assert "takes connections" in promote(standby.data, status=1)
    mark.write_text("http://no-such-host.invalid:8081")
    assert "may be serving" in promote(standby.data, status=1)
    mark.write_text(f"http://127.0.0.1:{silent_port()}")
    assert "does not answer" in promote(standby.data)


def silent_port():
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


@pytest.mark.parametrize("args", [[], ["--from", "http://127.0.0.1:1"], ["--from", "ftp://x", "--token-file", "/dev/null", "--data", "x"], ["--nothing"],
                                  ["--from", "http://10.0.0.1:1", "--token-file", "/dev/null", "--data", "x"],
                                  ["--from", "http://127.0.0.1:1", "--token-file", "/dev/null", "--data", "x", "--every", "0"]])
def test_standby_says_what_it_takes(args, tmp_path):
    done = subprocess.run([PROGRAM, "standby", *args], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.returncode == 2 and "--token-file FILE" in done.stderr


# --- who looks ---

def test_how_far_it_is_behind_is_told_on_both_sides(g, standby):
    standby.start().synced()
    assert httpx.get(standby.at + "/ready").status_code == 200
    assert standby.metric("weft_standby_lag_seconds") < 10 and standby.metric("weft_standby_failing") == 0
    mine = g.backup_key.split("_")[1]
    text = httpx.get(g.admin_url + "/metrics").text
    assert f'weft_standby_age_seconds{{key="{mine}"}}' in text
    o = [x for x in g.admin.get("/admin/v1/standby").json()["data"] if x["key"] == mine][0]
    assert o["behind_s"] < 10 and o["bytes"] > 0 and o["peer"].startswith("127.0.0.1")
    env = {**os.environ, "WEFT_ADMIN_URL": g.admin_url, "WEFT_ADMIN_KEY": g.admin_key, "WEFT_CONFIG": "/dev/null"}
    done = subprocess.run([BIN / "weft", "standby", "status"], env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and mine in done.stdout, done.stderr
    assert "standby.follows" in [e["type"] for e in g.admin.get("/admin/v1/events", params={"limit": 100}).json()["data"]]
