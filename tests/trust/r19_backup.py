"""R19: a backup made while the gateway serves; the restored copy passes the ledger's invariants; and each single bit that is flipped in a backup is either refused
by name, by `weft-gateway restore`, or changes nothing that is restored, which is shown byte by byte."""

import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import threading

from gateway_process import BASE, PROGRAM, Gateway, until
from test_backup import Settings, folder, made, restore
from trust import row, without

CLIENTS = 4


class Load:
    """Requests that go on while the backup is made; each client keeps what it was told."""

    def __init__(self, tenant):
        self.tenant, self.stop, self.told, self.failed = tenant, threading.Event(), {}, []
        self.threads = [threading.Thread(target=self.client, args=(n,), daemon=True) for n in range(CLIENTS)]
        for x in self.threads:
            x.start()

    def client(self, n):
        with self.tenant.http() as c:
            while not self.stop.is_set():
                slow = " delay_ms=400" if n == 0 else ""  # there is always one under way
                r = c.post("/v1/chat/completions", json={"model": ("sql", BASE)[n % 2], "messages": [{"role": "user", "content": f"tokens={n + 1}{slow}"}]})
                if r.status_code == 200:
                    self.told[r.headers["x-request-id"]] = n + 1
                else:
                    self.failed.append(r.text)

    def end(self):
        self.stop.set()
        for x in self.threads:
            x.join(60)


def open_admissions(data):
    with sqlite3.connect(f"file:{data / 'weft.db'}?mode=ro", uri=True) as c:
        return c.execute("SELECT count(*) FROM admission").fetchone()[0]


def invariants(t, g, acme, before, all_told):
    """Of the gateway on the restored folder: what was told before the backup is there, as it was told."""
    again = type(acme)(g, "acme", acme.key)
    rows = {r["id"]: r for r in again.usage_rows()}
    t.count("told before the backup, and not in it", sum(i not in rows for i in before), most=0)
    t.count("of other tokens than was told", sum(r["output_tokens"] != all_told.get(i, r["output_tokens"]) and r["state"] == "completed" for i, r in rows.items()), most=0)
    v = g.admin.get("/admin/v1/ledger?verify=1").json()
    t.count("rollups that differ from the rows", v["verify"]["bad_buckets"] + (v["verify"]["rows"] != len(rows)), most=0)
    t.count("open admissions", v["open_admissions"], most=0)
    t.count("of them in the database", open_admissions(g.data), most=0)
    t.count("wrong links in the audit trail", v["audit"]["first_bad"], most=0)
    t.count("answers of the restored gateway", int(again.ask("tokens=2", model="sql").status_code == 200), least=1)


def contents(data):
    """What a restore made: every file's digest; the database by its rows, for its bytes depend on the moment of the copy."""
    out = {}
    for p in sorted(x for x in data.rglob("*") if x.is_file()):
        name = str(p.relative_to(data))
        if name == "weft.db":
            with sqlite3.connect(f"file:{p}?immutable=1", uri=True) as c:
                lines = [line for line in c.iterdump() if not line.startswith('INSERT INTO "verified"')]  # when the books were looked at
                out[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            c.close()
        elif not name.endswith(("-wal", "-shm", "lock")):
            out[name] = hashlib.sha256(p.read_bytes()).hexdigest()
    return out


def flip(path, rng):
    data = bytearray(path.read_bytes())
    at = rng.randrange(len(data))
    data[at] ^= 1 << rng.randrange(8)
    mode = path.stat().st_mode
    path.unlink()  # it may be a link to the gateway's own file
    path.write_bytes(data)
    os.chmod(path, mode)
    return at


def flips(t, backup, n, rng):
    scratch = t.folder / "flips"
    scratch.mkdir()
    assert restore(backup, scratch / "good").returncode == 0
    good = contents(scratch / "good")
    assert restore(backup, scratch / "twice").returncode == 0 and contents(scratch / "twice") == good, "two restores of one backup differ"
    files = sorted(str(p.relative_to(backup)) for p in backup.rglob("*") if p.is_file())
    refused = harmless = harmful = 0
    hit = set()
    for i in range(n):
        name = files[i % len(files)]
        copy, data = scratch / "copy", scratch / "data"
        shutil.copytree(backup, copy)
        at = flip(copy / name, rng)
        done = subprocess.run([PROGRAM, "restore", "--from", copy, "--data", data], capture_output=True, text=True, errors="replace", timeout=60)
        hit.add(name)
        if done.returncode == 1 and done.stderr.strip():
            refused += 1
        elif done.returncode == 0 and contents(data) == good:
            harmless += 1
        else:
            harmful += 1
            t.note(f"byte {at} of {name}: exit {done.returncode} {done.stderr[-200:]}")
        shutil.rmtree(copy)
        shutil.rmtree(data, ignore_errors=True)
    t.count("flipped bits", n, least=n)
    t.count("files that were hit", len(hit), least=min(n, len(files)))
    t.count("refused", refused, least=1)
    t.count("neither refused nor harmless", harmful, most=0)
    t.note(f"of {n} flips {refused} were refused, {harmless} changed nothing that is restored")


@row("R19", "online backup under load, restored and held to the invariants; flipped bits")
def check(t):
    g = Gateway(t.folder / "g", fake=True)
    again = None
    try:
        acme = g.tenant("acme")
        assert acme.upload("sql").status_code == 201
        load = Load(acme)
        until(lambda: len(load.told) > t.size(short=100, whole=2000), 120, "load")
        before = set(load.told)
        at = len(before)
        o = made(g)
        t.count("requests that ended while it was made", len(load.told) - at, least=1)
        load.end()
        t.count("failed requests", len(load.failed), most=0)
        t.count("verified as good", int(o["verification"]["good"]), least=1)
        backup = folder(g, o)
        (t.folder / "again").mkdir()
        done = restore(backup, t.folder / "again/data", "--digest", o["sha256"])
        assert done.returncode == 0, done.stderr
        t.count("requests under way at its moment", open_admissions(t.folder / "again/data"), least=1)
        again = Settings(t.folder / "again", g.admin_key)
        invariants(t, again, acme, before, load.told)
        flips(t, backup, t.size(short=14, whole=100), random.Random(19))
    finally:
        if again:
            again.close()
        g.close()


without("R19", "the digest of each file that is restored", "gateway/backup/restore.c",
        "        if (strcmp(sha256, s->sha256) != 0) return err_set(e, ERR_CONFLICT,", "        if (strlen(sha256) != strlen(s->sha256)) return err_set(e, ERR_CONFLICT,")
without("R19", "the end of what was under way at the backup's moment", "gateway/main.c",
        "    return ledger_recover(p->g.ledger, pool_receipt, p->g.pool, &closed, e);", "    (void)closed, (void)pool_receipt;\n    return 0;")
