"""`weft doctor`: each thing that can be wrong is found, told with a remedy, and changes nothing."""

import fcntl
import hashlib
import json
import os
import socket
import sqlite3
import time

import pytest

from cli_fake import TOP, fake, weft  # noqa: F401

SHAPE = max(int(line[2:].split(",")[0]) for line in (TOP / "schema/migrations.def").read_text().splitlines() if line.startswith("X("))


def books(**other):
    return {"object": "ledger.health", "time": 1_700_000_000, "last_verify": {"t": 1_700_000_000 - 3 * 3600, "rows": 70, "bad": 0, "took_ms": 3.5},
            "webhooks": [{"name": "meter", "tenant": None, "lag": 12, "state": "enabled"}], "schedules": [{"name": "daily", "behind_s": 60, "last_error": "", "state": "enabled"}],
            "backups": {"last": 1_700_000_000 - 90 * 60, "age_s": 90 * 60}, **other}


@pytest.fixture
def gateway(fake):
    fake.answers["GET", "/health"] = (200, {"status": "ok"})
    fake.answers["GET", "/ready"] = (200, {"status": "ready", "engine": True, "database": True})
    fake.answers["GET", "/v1/models"] = (200, {"object": "list", "data": []})
    fake.answers["GET", "/admin/v1/tenants"] = (200, {"data": [], "has_more": False})
    fake.answers["GET", "/admin/v1/engines"] = (200, {"data": [{"name": "local", "state": "enabled", "status": {"state": "ready"}}], "has_more": False})
    fake.answers["GET", "/admin/v1/ledger/health"] = (200, books())
    fake.answers["GET", "/admin/v1/top"] = lambda a: (200, {"object": "top", "time": time.time()})
    return fake


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "pepper").write_bytes(b"p" * 32)
    (folder / "pepper").chmod(0o600)
    (folder / "lock").touch()
    db = sqlite3.connect(folder / "weft.db")
    db.executescript(f"PRAGMA user_version={SHAPE}; CREATE TABLE t(x TEXT); CREATE INDEX i ON t(x);")
    db.executemany("INSERT INTO t VALUES(?)", [(f"row {i}" * 20,) for i in range(2000)])
    db.commit()
    db.close()
    return folder


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def settings(tmp_path, data):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + b"x" * 1000)
    path = tmp_path / "gateway.conf"
    path.write_text(f"listen = 127.0.0.1:{free_port()}\nadmin_listen = 127.0.0.1:{free_port()}\ndata = {data}\nmodel = {model}\nmax_connections = 16\n")
    return path


def doctor(fake, *args, **env):
    got = weft(fake, "doctor", "--json", *args, env=env)
    o = json.loads(got.stdout)
    assert got.returncode == (0 if o["ok"] else 1) and o["ok"] == (o["failed"] == 0)
    assert all(c["remedy"] for c in o["checks"] if c["verdict"] in ("warn", "fail")), o
    return o["checks"]


def found(checks, check, verdict):
    return " | ".join(c["found"] for c in checks if c["check"] == check and c["verdict"] == verdict)


def test_a_sound_set_up_has_no_failure(gateway, settings, data):
    before = {p.name: p.stat().st_mtime_ns for p in data.iterdir()}
    checks = doctor(gateway, "--settings", str(settings))
    assert not [c for c in checks if c["verdict"] == "fail"]
    programs = [c["found"] for c in checks if c["check"] == "versions" and c["verdict"] == "ok"]
    assert any("weft-gateway 0" in p for p in programs) and any("weft-engine 0" in p for p in programs), programs
    assert {"settings", "data folder", "space", "lock", "pepper", "versions", "database", "port", "admin port", "model", "CPU", "huge pages", "clock",
            "API", "admin API", "ready", "key", "admin key", "engine", "backup", "books", "webhooks", "exports"} <= {c["check"] for c in checks if c["verdict"] != "skip"} | {"huge pages"}
    assert {p.name: p.stat().st_mtime_ns for p in data.iterdir()} == before
    assert hashlib.sha256(b"GGUF" + b"x" * 1000).hexdigest()[:16] in found(checks, "model", "ok")


def test_lines_for_people_say_verdict_and_remedy(gateway):
    gateway.answers["GET", "/v1/models"] = (401, {"error": {"message": "no"}})
    got = weft(gateway, "doctor")
    assert got.returncode == 1
    lines = got.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("fail  key"))
    assert lines[at + 1].strip().startswith("-> weft key create") and " 1 failed, " in lines[-1]
    assert "skip  data folder" in got.stdout


def spoil_mode(data, settings):
    data.chmod(0o755)


def spoil_pepper(data, settings):
    (data / "pepper").unlink()


def spoil_pepper_size(data, settings):
    (data / "pepper").write_bytes(b"short")


def spoil_database(data, settings):
    raw = bytearray((data / "weft.db").read_bytes())
    raw[4096 * 3:4096 * 5] = os.urandom(4096 * 2)
    (data / "weft.db").write_bytes(raw)


def spoil_header(data, settings):
    (data / "weft.db").write_bytes(b"no database" * 500)


def spoil_shape(data, settings):
    db = sqlite3.connect(data / "weft.db")
    db.execute("PRAGMA user_version=999")
    db.commit()
    db.close()


def spoil_settings(data, settings):
    settings.write_text(settings.read_text() + "max_rank = 9999\n")


def spoil_name(data, settings):
    settings.write_text("listn = 127.0.0.1:1\n")


def spoil_settings_mode(data, settings):
    settings.chmod(0o666)


def spoil_model(data, settings):
    (settings.parent / "model.gguf").unlink()


def spoil_digest(data, settings):
    (settings.parent / "model.gguf.sha256").write_text("0" * 64 + "  model.gguf\n")


def spoil_admin(data, settings):
    settings.write_text(settings.read_text().replace("admin_listen = 127.0.0.1:", "admin_listen = 0.0.0.0:"))


def spoil_folder(data, settings):
    settings.write_text(settings.read_text().replace(f"data = {data}", "data = /proc/self/cmdline"))


@pytest.mark.parametrize("spoil,check,verdict,message", [
    (spoil_mode, "data folder", "warn", "mode 755"), (spoil_pepper, "pepper", "fail", "is missing"), (spoil_pepper_size, "pepper", "fail", "5 bytes"),
    (spoil_database, "database", "fail", ""), (spoil_header, "database", "fail", "not a database"), (spoil_shape, "versions", "fail", "shape 999"),
    (spoil_settings, "settings", "fail", "max_rank must be from 1 to 512"), (spoil_name, "settings", "fail", "listn"),
    (spoil_settings_mode, "settings", "warn", "changed by others"), (spoil_model, "model", "fail", "No such file"), (spoil_digest, "model", "fail", "hashes to"),
    (spoil_admin, "admin port", "warn", "from other machines"), (spoil_folder, "data folder", "fail", "no folder")])
def test_what_is_wrong_with_the_gateways_own_is_found(gateway, settings, data, spoil, check, verdict, message):
    spoil(data, settings)
    checks = doctor(gateway, "--settings", str(settings))
    assert any(c["check"] == check and c["verdict"] == verdict and message in c["found"] for c in checks), checks


def test_a_taken_port_is_a_fault_unless_a_gateway_runs_there(gateway, settings, data):
    port = int(settings.read_text().split("127.0.0.1:")[1].split("\n")[0])
    with socket.create_server(("127.0.0.1", port)):
        assert "in use" in found(doctor(gateway, "--settings", str(settings)), "port", "fail")
        with open(data / "lock", "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            checks = doctor(gateway, "--settings", str(settings))
    assert "a gateway runs" in found(checks, "port", "ok") and "held" in found(checks, "lock", "ok")


def test_the_lock_is_given_back(gateway, settings, data):
    doctor(gateway, "--settings", str(settings))
    with open(data / "lock", "r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_database_in_use_is_looked_at_through_its_wal(gateway, settings, data):
    db = sqlite3.connect(data / "weft.db")
    db.executescript("PRAGMA journal_mode=WAL; CREATE TABLE later(x);")
    size = (data / "weft.db-wal").stat().st_size
    assert size > 0 and "integrity is ok" in found(doctor(gateway, "--settings", str(settings)), "database", "ok")
    assert (data / "weft.db-wal").stat().st_size == size
    db.close()


def test_the_data_folder_may_come_from_the_environment(gateway, data):
    assert str(data) in found(doctor(gateway, WEFT_DATA=str(data)), "data folder", "ok")
    assert "No such" in found(doctor(gateway, "--data", str(data / "none")), "data folder", "warn")


@pytest.mark.parametrize("route,answer,check,message", [
    ("/health", (404, {}), "API", "answers 404"),
    ("/ready", (503, {"status": "not_ready", "engine": False, "database": True}), "ready", "no engine answers"),
    ("/ready", (503, {"status": "not_ready", "engine": True, "database": False}), "ready", "takes no writes"),
    ("/v1/models", (401, {"error": {"message": "x"}}), "key", "does not know it"),
    ("/v1/models", (500, {"error": {"message": "x"}}), "key", "answers 500"),
    ("/admin/v1/tenants", (401, {"error": {"message": "x"}}), "admin key", "does not know it"),
    ("/admin/v1/engines", (200, {"data": [{"name": "b", "state": "enabled", "status": {"state": "ejected", "why": "refused"}}]}), "engine", "b: ejected: refused"),
    ("/admin/v1/engines", (200, {"data": []}), "engine", "there is none")])
def test_what_is_wrong_with_the_gateway_is_found(gateway, route, answer, check, message):
    gateway.answers["GET", route] = answer
    assert message in found(doctor(gateway), check, "fail")


def test_sound_books_are_told(gateway):
    checks = doctor(gateway)
    assert "90 min old" in found(checks, "backup", "ok") and "3 h ago: 70 rows, no difference" in found(checks, "books", "ok")
    assert "1, none failing" in found(checks, "webhooks", "ok") and "1, none more than" in found(checks, "exports", "ok")
    gateway.answers["GET", "/admin/v1/ledger/health"] = (200, books(webhooks=[], schedules=[]))
    checks = doctor(gateway)
    assert found(checks, "webhooks", "ok") == "none" == found(checks, "exports", "ok")


@pytest.mark.parametrize("wrong,check,verdict,message", [
    ({"backups": None}, "backup", "warn", "there is none"),
    ({"backups": {"last": 0, "age_s": 3 * 86400}}, "backup", "warn", "the newest is 3 days old"),
    ({"last_verify": None}, "books", "warn", "never verified"),
    ({"last_verify": {"t": 1_700_000_000 - 40 * 86400, "rows": 70, "bad": 0, "took_ms": 1}}, "books", "warn", "verified 40 days ago"),
    ({"last_verify": {"t": 1_700_000_000 - 60, "rows": 70, "bad": 5, "took_ms": 1}}, "books", "fail", "5 sums differed from the rows when they were verified 1 min ago"),
    ({"webhooks": [{"name": "fine", "tenant": None, "lag": 0, "state": "paused"}, {"name": "meter", "tenant": "acme", "lag": 9, "state": "failing"}]}, "webhooks", "warn",
     "1 of 2 failing: meter of tenant acme"),
    ({"webhooks": [{"name": n, "tenant": None, "lag": 9, "state": "failing"} for n in ("one", "two")]}, "webhooks", "warn", "2 of 2 failing: one and others"),
    ({"schedules": [{"name": "old", "behind_s": 9000, "last_error": "", "state": "paused"}, {"name": "daily", "behind_s": 7200, "last_error": "no room", "state": "enabled"}]},
     "exports", "warn", "1 of 2 more than an hour behind: daily")])
def test_what_is_wrong_with_the_books_is_found(gateway, wrong, check, verdict, message):
    gateway.answers["GET", "/admin/v1/ledger/health"] = (200, books(**wrong))
    assert message in found(doctor(gateway), check, verdict)


@pytest.mark.parametrize("status,verdict", [(404, "skip"), (403, "skip"), (500, "warn")])
def test_a_gateway_that_does_not_tell_of_its_books(gateway, status, verdict):
    gateway.answers["GET", "/admin/v1/ledger/health"] = (status, {"error": {"message": "x"}})
    assert str(status) in found(doctor(gateway), "books", verdict)


def test_a_key_of_a_lesser_role_and_an_engine_at_rest_are_no_faults(gateway):
    gateway.answers["GET", "/v1/models"] = (403, {"error": {"message": "x"}})
    gateway.answers["GET", "/admin/v1/engines"] = (200, {"data": [{"name": "b", "state": "draining", "status": {"state": "draining"}}]})
    checks = doctor(gateway)
    assert not [c for c in checks if c["verdict"] == "fail"] and "b: draining" in found(checks, "engine", "ok")


def test_clocks_that_differ_are_told(gateway):
    gateway.answers["GET", "/admin/v1/top"] = lambda a: (200, {"time": time.time() - 100})
    assert "100." in found(doctor(gateway), "clock", "warn")


def test_nobody_there_is_a_failure_with_the_address(fake):
    checks = doctor(fake, WEFT_URL="http://127.0.0.1:1", WEFT_ADMIN_URL="http://127.0.0.1:2")
    assert "127.0.0.1:1" in found(checks, "API", "fail") and "127.0.0.1:2" in found(checks, "admin API", "fail")
    assert not fake.asked


def test_no_key_reaches_the_output(gateway, settings):
    key = "wft_abcdefghijkl_" + "s" * 43 + "_checks"
    got = weft(gateway, "doctor", "--settings", str(settings), env={"WEFT_KEY": key, "WEFT_ADMIN_KEY": key})
    assert "ssss" not in got.stdout + got.stderr
