"""Backups of a gateway that serves: made, listed, verified and removed over HTTP and by `weft`; restored offline into a gateway that knows the same keys,
adapters and usage; archives of closed months. On gateways of this file's own with the fake engine."""

import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time

import httpx
import pytest

from gateway_process import BASE, BIN, PROGRAM, Gateway, until


class Settings(Gateway):
    """A gateway whose admin key is known: one on a restored folder."""

    def __init__(self, folder, admin_key, *args):
        self.known = admin_key
        super().__init__(folder, *args, fake=True)

    def _admin_key(self):
        return self.known


@pytest.fixture(scope="module")
def g(tmp_path_factory, _model):
    g = Gateway(tmp_path_factory.mktemp("backup"), "--backup-keep", "3", fake=True)
    g.acme = g.tenant("acme")
    assert g.acme.upload("sql").status_code == 201
    for i in range(5):
        assert g.acme.ask(f"tokens={i + 1}", model="sql").status_code == 200
    until(lambda: len(g.acme.usage_rows()) == 5, what="the rows")
    yield g
    g.close()


def over(g, backup_id):
    def look():
        o = g.admin.get(f"/admin/v1/backups/{backup_id}").json()
        return o if o["state"] in ("complete", "failed") and not o["verifying"] else None
    return until(look, what="the backup")


def made(g, verify=True):
    r = until(lambda: (lambda r: r if r.status_code != 409 else None)(g.admin.post("/admin/v1/backups", json={"verify": verify})), what="a free place")
    assert r.status_code == 202, r.text
    assert r.json()["state"] == "waiting"
    o = over(g, r.json()["id"])
    assert o["state"] == "complete", o
    return o


def restore(backup, data, *more):
    return subprocess.run([PROGRAM, "restore", "--from", backup, "--data", data, *more], capture_output=True, text=True, timeout=60)


def folder(g, o):
    return g.data / "backup" / o["id"]


def test_what_is_restored_serves_as_before(g, tmp_path):
    o = made(g)
    assert o["verification"]["good"] and o["verification"]["requests"] == 5 and o["adapters"] == 1, o
    files = sorted(str(p.relative_to(folder(g, o))) for p in folder(g, o).rglob("*") if p.is_file())
    assert {"SHA256SUMS", "backup.json", "pepper", "weft.db", "verified.json"} <= set(files) and len(files) == 7
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder(g, o)).returncode == 0
    assert not [p for p in folder(g, o).rglob("*") if p.stat().st_mode & 0o077]
    assert g.acme.ask("tokens=9").status_code == 200  # after the backup: not in it
    done = restore(folder(g, o), tmp_path / "data", "--digest", o["sha256"])
    assert done.returncode == 0, done.stderr
    assert "5 requests" in done.stdout
    again = Settings(tmp_path, g.admin_key)
    try:
        with httpx.Client(base_url=again.url, headers={"Authorization": f"Bearer {g.acme.key}"}, timeout=30) as c:
            rows = c.get("/v1/usage/requests", params={"limit": 100}).json()["data"]
            assert sorted(r["output_tokens"] for r in rows) == [1, 2, 3, 4, 5]
            r = c.post("/v1/chat/completions", json={"model": "sql", "messages": [{"role": "user", "content": "tokens=2"}]})
            assert r.status_code == 200, r.text
        verdict = again.admin.get("/admin/v1/ledger?verify=1").json()
        assert (verdict["verify"]["bad_buckets"], verdict["audit"]["first_bad"]) == (0, 0)
    finally:
        again.close()


def test_a_backup_under_load_loses_nothing(g, tmp_path):
    stop, asked = threading.Event(), []

    def load():
        with g.acme.http() as c:
            while not stop.is_set():
                r = c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "tokens=3"}]})
                assert r.status_code == 200
                asked.append(r.headers["x-request-id"])

    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    until(lambda: len(asked) > 100, what="load")
    settled = {r["id"] for r in g.acme.usage_rows()}
    o = made(g, verify=False)
    stop.set()
    for t in threads:
        t.join()
    done = restore(folder(g, o), tmp_path / "data")
    assert done.returncode == 0, done.stderr
    again = Settings(tmp_path, g.admin_key)
    try:
        with httpx.Client(base_url=again.url, headers={"Authorization": f"Bearer {g.acme.key}"}, timeout=30) as c:
            again.acme = type(g.acme)(again, "acme", g.acme.key)
            rows = {r["id"]: r for r in again.acme.usage_rows()}
        assert settled <= set(rows) and set(rows) <= settled | set(asked) | {r["id"] for r in g.acme.usage_rows()}
        verdict = again.admin.get("/admin/v1/ledger?verify=1").json()
        assert verdict["verify"]["bad_buckets"] == 0 and verdict["verify"]["rows"] == len(rows) and verdict["open_admissions"] == 0
        # What was under way at the moment of the copy was closed by the start, as after a crash.
        assert {r["state"] for r in rows.values()} <= {"completed", "gateway_crash"}
    finally:
        again.close()


def test_an_upload_in_parts_begins_anew_after_a_restore(g, tmp_path):
    config = b'{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}'
    with g.acme.http() as c:
        upload = c.post("/v1/adapters/parts/uploads", json={}).json()
        assert c.put(f"/v1/adapters/parts/uploads/{upload['id']}/config", content=config).status_code in (200, 201, 204)
    o = made(g)
    assert o["verification"]["good"], o
    done = restore(folder(g, o), tmp_path / "data")
    assert done.returncode == 0, done.stderr
    again = Settings(tmp_path, g.admin_key)
    try:
        with httpx.Client(base_url=again.url, headers={"Authorization": f"Bearer {g.acme.key}"}, timeout=30) as c:
            r = c.get(f"/v1/adapters/parts/uploads/{upload['id']}")
            assert r.status_code in (200, 404), r.text
            r = c.post(f"/v1/adapters/parts/uploads/{upload['id']}/complete", json={})
            assert 400 <= r.status_code < 500, r.text  # nothing of it is here
            fresh = c.post("/v1/adapters/parts/uploads", json={})
            assert fresh.status_code == 201, fresh.text
            assert c.put(f"/v1/adapters/parts/uploads/{fresh.json()['id']}/config", content=config).status_code in (200, 201, 204)
    finally:
        again.close()


def test_one_at_a_time_and_the_newest_are_kept(g):
    ids = [made(g, verify=False)["id"] for _ in range(4)]
    page = g.admin.get("/admin/v1/backups").json()
    assert [b["id"] for b in page["data"]] == ids[:0:-1]
    first = g.admin.get("/admin/v1/backups", params={"limit": 1}).json()
    assert first["has_more"] and first["data"][0]["id"] == ids[3]
    rest = g.admin.get("/admin/v1/backups", params={"limit": 5, "after": ids[3]}).json()
    assert not rest["has_more"] and [b["id"] for b in rest["data"]] == [ids[2], ids[1]]
    back = g.admin.get("/admin/v1/backups", params={"limit": 1, "before": ids[1]}).json()
    assert back["has_more"] and [b["id"] for b in back["data"]] == [ids[2]]
    assert g.admin.delete(f"/admin/v1/backups/{ids[1]}").json() == {"id": ids[1], "object": "backup", "deleted": True}
    assert g.admin.get(f"/admin/v1/backups/{ids[1]}").status_code == 404
    actions = [a["action"] for a in g.admin.get("/admin/v1/audit", params={"limit": 20}).json()["data"]]
    assert actions[0] == "backup.delete" and actions.count("backup.create") >= 4


def test_damage_is_found_and_told(g):
    o = made(g, verify=False)
    with open(folder(g, o) / "weft.db", "r+b") as f:
        f.seek(9000)
        byte = f.read(1)
        f.seek(9000)
        f.write(bytes([byte[0] ^ 4]))
    assert g.admin.post(f"/admin/v1/backups/{o['id']}/verify").status_code == 202
    after = over(g, o["id"])
    assert after["verification"]["good"] is False and "weft.db" in after["verification"]["reason"]
    assert "backup.bad" in [e["type"] for e in g.admin.get("/admin/v1/events", params={"limit": 100}).json()["data"]]
    refused = restore(folder(g, o), g.folder / "nothing")
    assert refused.returncode == 1 and "is not what it was" in refused.stderr
    assert g.admin.delete(f"/admin/v1/backups/{o['id']}").status_code == 200


@pytest.mark.parametrize("bad", ["x", "20261122T100000.000Z", "..", "..%2f..%2fblobs", "20261122T100000.000Z.part", "%00", "a" * 64])
def test_what_is_no_backup_is_not_found(g, bad):
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/verify")):
        assert g.admin.request(method, f"/admin/v1/backups/{bad}{path}").status_code in (400, 404)


def test_a_failed_backup_says_why(g):
    blobs = list((g.data / "blobs").glob("*/*"))
    moved = [p.rename(g.folder / "away") for p in blobs]
    r = g.admin.post("/admin/v1/backups", json={})
    o = over(g, r.json()["id"])
    assert o["state"] == "failed" and "bytes are missing" in o["error"], o
    assert not list((g.data / "backup").glob("*.part"))
    moved[0].rename(blobs[0])
    listed = g.admin.get("/admin/v1/backups").json()["data"]
    assert listed[0]["id"] == o["id"] and listed[0]["state"] == "failed"
    assert g.admin.delete(f"/admin/v1/backups/{o['id']}").status_code == 200
    assert g.admin.delete(f"/admin/v1/backups/{o['id']}").status_code == 404
    assert all(x["id"] != o["id"] for x in g.admin.get("/admin/v1/backups").json()["data"])


def test_one_that_is_not_complete_yet_cannot_be_removed(g):
    for _ in range(20):
        made = g.admin.post("/admin/v1/backups", json={}).json()
        answer = g.admin.delete(f"/admin/v1/backups/{made['id']}").status_code
        assert answer in (200, 409), answer  # 200: it was complete already
        over(g, made["id"]) if answer == 409 else None


def test_the_same_request_sent_again_makes_no_second_one(g):
    def post():
        return g.admin.post("/admin/v1/backups", json={}, headers={"Idempotency-Key": "once"})
    first = until(lambda: (lambda r: r if r.status_code == 202 else None)(post()), what="a free place")
    over(g, first.json()["id"])
    again = post()
    assert again.headers["idempotent-replayed"] == "true" and again.json()["id"] == first.json()["id"]


def test_weft_does_it_all(g):
    env = {**os.environ, "WEFT_ADMIN_URL": g.admin_url, "WEFT_ADMIN_KEY": g.admin_key, "WEFT_CONFIG": "/dev/null"}

    def weft(*args, status=0):
        done = subprocess.run([BIN / "weft", *args], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stderr
        return done.stdout

    o = json.loads(weft("backup", "create", "--json"))
    assert o["state"] == "complete" and o["verification"]["good"]
    assert o["id"] in weft("backup", "list") and o["sha256"] in weft("backup", "show", o["id"])
    assert "good" in weft("backup", "verify", o["id"])
    table = weft("usage", "verify").splitlines()
    assert [line.split()[-1] for line in table[1:]] == ["ok", "ok"]
    (folder(g, o) / "pepper").chmod(0o600)
    (folder(g, o) / "pepper").write_bytes(b"x" * 32)
    assert "False" not in weft("backup", "verify", o["id"], status=1)
    weft("backup", "rm", o["id"])
    weft("backup", "show", o["id"], status=5)


@pytest.mark.parametrize("args", [[], ["--from", "x"], ["--data", "x"], ["--from", "x", "--data", "y", "z"], ["--from", "x", "--data", "y", "--digest", "z"], ["--nothing"]])
def test_restore_says_what_it_takes(args):
    done = subprocess.run([PROGRAM, "restore", *args], capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "--from DIR" in done.stderr


def test_a_closed_month_goes_into_a_file_at_the_start_and_is_in_the_backup(tmp_path, _model):
    g = Gateway(tmp_path, "--archive-months", "1", fake=True)
    try:
        acme = g.tenant("acme")
        for i in range(3):
            acme.ask(f"tokens={i + 1}")
        rows = until(lambda: (lambda r: r if len(r) == 3 else None)(acme.usage_rows()), what="the rows")
        g.stop()
        month = time.strftime("%Y%m", time.gmtime(rows[0]["created_at"]))
        with sqlite3.connect(g.data / "weft.db") as db:  # as if they were of January 2025
            db.execute(f"ALTER TABLE usage_{month} RENAME TO usage_202501")
        db.close()
        (g.data / "archive/usage_202501.db/in_the_way").mkdir(parents=True)
        g.start()
        failing = lambda n: f'weft_upkeep_failing{{task="archive"}} {n}\n' in httpx.get(g.admin_url + "/metrics").text
        until(lambda: failing(1), what="a month that can't be archived")
        g.stop()
        shutil.rmtree(g.data / "archive/usage_202501.db")
        g.start()
        until(lambda: (g.data / "archive/usage_202501.db").exists(), what="the file")
        o = made(g)
        assert o["archived_months"] == 1 and failing(0)
        with sqlite3.connect(f"file:{folder(g, o)}/archive/usage_202501.db?immutable=1", uri=True) as file:
            assert file.execute("SELECT count(*), sum(output) FROM usage_202501").fetchone() == (3, 6)
        file.close()
        done = restore(folder(g, o), tmp_path / "again")
        assert (tmp_path / "again/archive/usage_202501.db").exists(), done.stderr
    finally:
        g.close()


def test_a_backup_is_made_when_it_is_due(tmp_path, _model):
    g = Gateway(tmp_path, "--backup-every-h", "1", "--backup-dir", tmp_path / "elsewhere", fake=True)
    try:
        o = until(lambda: g.admin.get("/admin/v1/backups").json()["data"], what="a backup")[0]
        o = over(g, o["id"])
        assert o["verification"]["good"] and (tmp_path / "elsewhere" / o["id"] / "weft.db").exists()
        g.stop()
        g.start()
        time.sleep(0.3)
        assert len(g.admin.get("/admin/v1/backups").json()["data"]) == 1  # not again before the hour is over
    finally:
        g.close()
