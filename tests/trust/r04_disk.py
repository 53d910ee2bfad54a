"""R4: a disk that is full, or fails, at any of its calls.

Two ways. tests/trust/faults/disk.c runs the ledger in one process and lets the Nth call to the disk fail, N = 0, 1, 2, ..., once and sticky, with ENOSPC and
with EIO; it says there what it holds. Then a real gateway meets what hurts most, through a library before the C library's calls (shim.c): its ledger,
uploads, backups, scheduled exports and log on a full or failing disk, and files that take and give less than was asked. While the ledger can't be written
new requests are answered 503 and those under way finish; what failed says so in JSON, leaves nothing behind, and succeeds when it is asked again."""
import errno
import json
import subprocess
import threading
import time

import httpx

import gateway_process
from faults.shim import DISK, Shim
from gateway_process import BASE, Gateway, until
from trust import row, without

STREAM = {"model": BASE, "stream": True, "messages": [{"role": "user", "content": "tokens=40 delay_ms=15"}]}


def walker():
    top = gateway_process.BIN.parents[1]  # of the tree that is tested, which may be a copy
    made = subprocess.run(["make", "-s", "build/release/tests/trust/faults/disk"], cwd=top, capture_output=True, text=True, timeout=600)
    assert made.returncode == 0, made.stderr[-1500:]
    return top / "build/release/tests/trust/faults/disk"


def walk(t):
    """Every call of the workload, or one in `stride`."""
    done = subprocess.run([walker(), "--stride", str(t.size(16, 1))], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    print(done.stderr[-2000:])
    got = json.loads(done.stdout)
    t.count("points", got["struck"], least=t.size(24, 400))
    t.count("acknowledged", got["acknowledged"], least=got["struck"] * 5)
    t.count("refused", got["refused"] + got["refused_meanwhile"], least=1)
    for what, name in (("lost", "acknowledged rows lost"), ("twice", "told twice"), ("wrong", "wrong errors or rollups"), ("corrupt", "corrupt files"),
                       ("hung", "hung"), ("unserved", "never served again"), ("let_in", "let in while the disk refused")):
        t.count(name, got[what], most=0)
    t.speed("slowest to serve again", got["slowest_ms"], most=1000, unit="ms")


class Stream(threading.Thread):
    """A request that is under way when the disk fails."""

    def __init__(self, g, tenant):
        super().__init__()
        self.g, self.tenant, self.text, self.id, self.begun = g, tenant, "", "", threading.Event()
        self.start()
        assert self.begun.wait(20)

    def run(self):
        with self.tenant.http() as c, c.stream("POST", "/v1/chat/completions", json=STREAM) as r:
            self.id = r.headers.get("x-request-id")
            for part in r.iter_text():
                self.text += part
                self.begun.set()

    def whole(self):
        return self.text.count('"delta"') == 40 and self.text.rstrip().endswith("data: [DONE]")


class Disk:
    def __init__(self, t, g, shim):
        self.t, self.g, self.shim, self.tenant = t, g, shim, g.tenant("acme")
        self.points = self.unfinished = self.let_in = self.untold = self.left = self.not_again = self.refused = self.answered = 0
        self.slowest_ms = 0

    def ask(self):
        r = self.tenant.ask("tokens=2")
        self.answered += r.status_code == 200
        return r

    def struck(self, rule):
        assert rule.done, "the fault was not met"
        self.points += 1

    def again(self, do):
        """How soon it serves, without a restart."""
        began = time.monotonic()
        until(do, 20, "service after the fault")
        self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)

    def ledger(self, calls, error, path):
        """The ledger's own files refuse."""
        stream = Stream(self.g, self.tenant)
        with self.shim.rule(calls, error=error, path=path) as rule:
            end = time.monotonic() + 20
            while not rule.done and time.monotonic() < end:
                self.ask()
            until(lambda: self.ask().status_code == 503, 20, "a refusal")
            r = self.ask()
            self.let_in += r.status_code == 200
            self.untold += r.status_code != 503 or r.json()["error"]["code"] != "ledger_unavailable"
            stream.join(20)
            self.unfinished += not stream.whole()
        self.struck(rule)
        self.again(lambda: self.ask().status_code == 200)
        row = self.tenant.usage(stream.id)
        self.unfinished += row["output_tokens"] != 40

    def change(self, calls, error, path, do, at=0, times=-1):
        """Something that is asked for fails, says so, leaves nothing, and succeeds when asked again."""
        with self.shim.rule(calls, error=error, path=path, at=at, times=times) as rule:
            r = do()
            self.untold += r.status_code < 500 or not r.json()["error"]["message"]
        self.struck(rule)
        until(lambda: self.ask().status_code == 200, 20, "service after the fault")
        self.left += len(self.g.temporary())
        r = do()
        self.not_again += r.status_code not in (200, 201, 202)

    def backup(self, error, calls=DISK):
        """It fails in full view, and the next one is complete."""
        def make():
            until(lambda: not any(x["state"] in ("waiting", "making") for x in self.g.admin.get("/admin/v1/backups").json()["data"]), 30, "a free place")
            r = self.g.admin.post("/admin/v1/backups", json={"verify": False})
            assert r.status_code == 202, r.text
            return until(lambda: (lambda b: b["state"] in ("complete", "failed") and b["state"])(self.g.admin.get(f"/admin/v1/backups/{r.json()['id']}").json()), 30, "the backup")

        with self.shim.rule(calls, error=error, path="*/backup/*") as rule:
            self.untold += make() != "failed"
        self.struck(rule)
        self.not_again += make() != "complete"
        self.left += sum(p.name.endswith(".part") for p in (self.g.data / "backup").iterdir())

    def export(self, error):
        g, name = self.g, f"daily-{error}"
        with self.shim.rule(DISK + " rename", error=error, path="*/exports/*") as rule:
            assert g.admin.post("/admin/v1/export-schedules", json={"name": name, "format": "csv", "every": "day", "from": int(time.time()) - 2 * 86400}).status_code == 201
            until(lambda: rule.done, 20, "an export's first write")
            until(lambda: g.admin.get(f"/admin/v1/export-schedules/{name}").json()["last_error"], 20, "the schedule to tell of it")
        self.struck(rule)
        r = g.admin.patch(f"/admin/v1/export-schedules/{name}", json={"from": int(time.time()) - 2 * 86400})
        assert r.status_code == 200, r.text
        until(lambda: len(list((g.data / "exports" / name).glob("*.manifest.json"))) >= 1, 30, "the files after the fault")

    def while_it_serves(self, calls, path="", kind="", error=0, times=-1, short_to=0, log=False):
        """What a program may have to take without anybody noticing."""
        with self.shim.rule(calls, error=error, path=path, kind=kind, times=times, short_to=short_to) as rule:
            for _ in range(3):
                self.refused += self.ask().status_code != 200
            if log:
                self.g.admin.post("/admin/v1/tenants", json={"name": "?"})
                self.tenant.ask("x", model="none")
            self.refused += self.tenant.upload("sql").status_code not in (200, 201, 202)
        self.struck(rule)


def whole_gateway(t):
    with Shim(t.folder, "weft-gateway") as shim:
        g = Gateway(t.folder, "--max-adapters", "50", fake=True, env=shim.env())
        try:
            assert shim.pid == g.process.pid
            d = Disk(t, g, shim)
            reserve = g.data / "reserve"
            assert reserve.exists() and d.tenant.upload("sql").status_code == 201
            for calls, error in ((DISK, errno.ENOSPC), ("fdatasync", errno.EIO), ("pwrite", errno.EIO)):
                d.ledger(calls, error, "*/weft.db*")
                if error == errno.ENOSPC:
                    t.count("reserve kept on a full disk", int(reserve.exists()), most=0)
            for calls, error, path in (("write pwrite writev", errno.ENOSPC, "*/data/tmp*"), ("fsync fdatasync", errno.EIO, "*/data/tmp*"),
                                       ("mkdir", errno.ENOSPC, "*/blobs/*"), ("rename", errno.EIO, "*/blobs/*")):
                d.change(calls, error, path, lambda: d.tenant.upload("pirate"))
                with d.tenant.http() as c:
                    assert c.delete("/v1/adapters/pirate").status_code == 200
            d.backup(errno.ENOSPC)
            d.backup(errno.EIO, "fsync fdatasync")
            d.export(errno.ENOSPC)
            d.while_it_serves("write writev", path="*/gateway.log", error=errno.ENOSPC, log=True)
            d.while_it_serves("read pread write pwrite writev", kind="file")
            d.while_it_serves("read pread write pwrite writev fdatasync fsync", kind="file", short_to=512)
            d.while_it_serves("recv send", kind="socket", error=errno.EINTR, times=3)
            d.while_it_serves("accept", error=errno.EMFILE, times=3)
            until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, 30, "the end of all admissions")
            verdict = g.admin.get("/admin/v1/ledger?verify=1").json()["verify"]
            until(lambda: len(d.tenant.usage_rows()) >= d.answered, 20, "all rows")
        finally:
            g.close()
    t.count("kinds of faults met by a whole gateway", d.points, least=14)
    t.count("let in while the ledger refused", d.let_in, most=0)
    t.count("streams under way that did not finish or were billed otherwise", d.unfinished, most=0)
    t.count("failures without their word", d.untold, most=0)
    t.count("left behind", d.left, most=0)
    t.count("not done when asked again", d.not_again, most=0)
    t.count("noticed what is to be taken silently", d.refused, most=0)
    t.count("rollups that differ", verdict["bad_buckets"], most=0)
    t.speed("slowest of a gateway to serve again", d.slowest_ms, most=1000, unit="ms")


@row("R4", "a full or failing disk, at every call: nothing acknowledged is lost, new requests get 503, it serves again without a restart")
def check(t):
    walk(t)
    whole_gateway(t)


without("R4", "the settlement that is handed in again", file="gateway/ledger/ledger.c",
        old="    if (again && hand_in(x, NULL) == 0) {", new="    if (again && l->closing && hand_in(x, NULL) == 0) {")
without("R4", "the reserve that is given up", file="gateway/db/db_writer.c",
        old="if (rc == SQLITE_FULL && db_reserve_drop(&d->files)) d->reserve_gone = true;", new="")
