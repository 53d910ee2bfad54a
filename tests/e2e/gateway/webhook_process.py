"""The receiver of webhooks as a process of its own: started, told what to do, killed, asked what it has; and a gateway's webhooks. No fixtures."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx

from gateway_process import BASE, Gateway, until

PROGRAM = Path(__file__).with_name("webhook_receiver.py")


class Inbox:
    def __init__(self, folder, *tls):
        """tls: files of a certificate and its key: then by https."""
        self.folder, self.port, self.process, self.control, self.tls = Path(folder), 0, None, {}, tls
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, str(PROGRAM), str(self.folder), str(self.port), *map(str, self.tls)], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.tell()

    def kill(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def url(self, path, host="127.0.0.1"):
        return f"http{'s' if self.tls else ''}://{host}:{self.port}/{path}"

    def tell(self, **control):
        """What it was told before it was killed holds after; a plan is for now."""
        now = {"plan": control.pop("plan")} if "plan" in control else {}
        for name, value in control.items():
            self.control[name] = {**self.control.get(name, {}), **value} if isinstance(value, dict) else value
        assert httpx.post(self.url("control"), json={**self.control, **now}, verify=False).status_code == 200

    def state(self):
        return httpx.get(self.url("state"), verify=False).json()

    def batches(self, path):
        lines = (self.folder / "journal").read_bytes().split(b"\n")[:-1]
        return [b for b in map(json.loads, lines) if b["path"] == path]

    def events(self, path):
        """Each once, in the order in which they came first."""
        seen = {}
        for batch in self.batches(path):
            for e in batch["events"]:
                first = seen.setdefault((e["source"], e["id"]), e)
                assert first == e, f"two events of one id: {first} {e}"
        return list(seen.values())

    def usage(self, path):
        return [e["id"] for e in self.events(path) if e["type"] == "weft.usage.settled"]


# --- the gateway's side ---

def start(folder, *args):
    return Gateway(folder, "--webhook-hosts", "127.0.0.1", "--webhook-retry-s", "1", *args, fake=True)


def make(g, inbox, path, tenant=None, **more):
    """A webhook to this path of the receiver, which knows its secret from now on."""
    body = {"name": path, "url": inbox.url(path), **more, **({"tenant": tenant} if tenant else {})}
    r = g.admin.post("/admin/v1/webhooks", json=body)
    assert r.status_code == 201, r.text
    inbox.tell(secrets={path: [r.json()["secret"]]})
    return r.json()


def look(g, hook):
    r = g.admin.get(f"/admin/v1/webhooks/{hook['id']}")
    assert r.status_code == 200, r.text
    return r.json()


def act(g, hook, verb, **body):
    r = g.admin.post(f"/admin/v1/webhooks/{hook['id']}/{verb}", json=body)
    assert r.status_code in (200, 201, 202), r.text
    return r.json()


def remove(g, *hooks):
    for hook in hooks:
        assert g.admin.delete(f"/admin/v1/webhooks/{hook['id']}").status_code == 200


def ask(tenant, n=1, text="tokens=2"):
    """One after the other, each settled before the next: the last bytes don't wait for that."""
    ids = []
    with tenant.http() as c:
        for _ in range(n):
            r = c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": text}]})
            assert r.status_code == 200, r.text
            ids.append(r.headers["x-request-id"])
            until(lambda: ids[-1] in c.get("/v1/usage/requests", params={"limit": 3}).text, what="the settlement")
    return ids


def ledger_ids(g, tenant=None):
    ids, query = [], {"limit": 100, **({"tenant": tenant} if tenant else {})}
    while True:
        page = g.admin.get("/admin/v1/usage/requests", params=query).json()
        ids += [row["id"] for row in page["data"]]
        if not page["has_more"]:
            return ids
        query["after"] = page["last_id"]


def arrived(inbox, path, ids, what="all of it"):
    until(lambda: set(ids) <= set(inbox.usage(path)), what=what)


def outbox(g):
    with contextlib.closing(sqlite3.connect(f"file:{g.data}/weft.db?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(*) FROM outbox").fetchone()[0]
