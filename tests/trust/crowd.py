"""For the rows about load: a gateway before weft-fake-engine, and weft-exchanges against both (tests/load/*.c)."""
import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

from gateway_process import TOP, Gateway, until

FAKE, EXCHANGES = TOP / "build/release/tests/load/fake_engine", TOP / "build/release/tests/load/exchanges"
MODEL = "fake-base"
RUN_MOST_S = 300
PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Crowd(Gateway):
    """Its engine costs nothing and listens beside it, too: `direct`. With `places` the engine is one of the pool, with so many at a time."""

    def __init__(self, folder, *args, places=0):
        assert FAKE.exists() and EXCHANGES.exists(), "make trust builds tests/load/fake_engine and exchanges"
        self.direct = f"127.0.0.1:{free_port()}"
        own = ["--pool-only", "true"] if places else []
        super().__init__(folder, "--engine", FAKE, "--disk-reserve", "0", *own, *args, model="" if places else "/dev/null", env={"FAKE_ENGINE_LISTEN": self.direct}, ready=not places)
        if places:
            r = self.admin.post("/admin/v1/engines", json={"name": "crowded", "kind": "weft", "base": MODEL, "model": "/dev/null", "capacity": places})
            assert r.status_code == 201, r.text
            until(lambda: self.admin.get("/ready").status_code == 200, what="an engine")
        self.at = self.url.removeprefix("http://")

    def close(self):
        super().close()
        assert self.process.returncode in (0, -9), f"the gateway ended with {self.process.returncode}:\n{self.tail()}"

    def limit(self, tenant, **limits):
        r = self.admin.put(f"/admin/v1/tenants/{tenant}/limits", json=limits)
        assert r.status_code == 200, r.text

    def metric(self, name, **labels):
        text = self.admin.get("/metrics").text
        of = ",".join(f'{k}="{v}"' for k, v in labels.items())
        found = re.search(rf"^{re.escape(name + (f'{{{of}}}' if of else ''))} (\S+)$", text, re.M)
        return float(found.group(1)) if found else 0.0

    def connections(self):
        return self.metric("weft_http_connections", listener="public")

    def resident(self):
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_s(self):
        words = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def billed(self):
        """request id -> output tokens, of all rows that the ledger has."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data}/weft.db?mode=ro", uri=True)) as c:
            tables = [n for (n,) in c.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*'")]
            return dict(row for t in tables for row in c.execute(f"SELECT id, output FROM {t}"))

    def via(self, key):
        return ["--via", self.at, "--key", key, "--pid", self.process.pid]


@contextlib.contextmanager
def crowd(t, *args, **more):
    g = Crowd(t.folder / f"crowd-{time.monotonic_ns()}", *args, **more)
    try:
        yield g
    finally:
        g.close()


def begin(*args):
    """weft-exchanges in the background."""
    return subprocess.Popen([str(EXCHANGES), *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)


def result(process):
    try:
        out, err = process.communicate(timeout=RUN_MOST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    if not out.strip().endswith("}"):
        raise RuntimeError(f"weft-exchanges ended with {process.returncode}: {err[-500:]}")
    if err:
        print(err)
    return json.loads(out)


def exchanges(*args):
    return result(begin(*args))
