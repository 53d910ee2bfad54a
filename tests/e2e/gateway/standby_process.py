"""A `weft-gateway standby` under test, a primary for it, and clients that note what they were told."""

import datetime
import json
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time

import httpx

from gateway_process import BASE, PROGRAM, SLOW, START_S, Gateway, until


class Primary(Gateway):
    """With a tenant and an adapter, and a key for standbys."""

    def __init__(self, folder, *args):
        super().__init__(folder, *args, fake=True)
        self.acme = self.tenant("acme")
        assert self.acme.upload("sql").status_code == 201
        self.backup_key = backup_key(self)


class Restored(Gateway):
    """A gateway on a folder that is there, whose admin key is known."""

    def __init__(self, folder, admin_key, *args):
        self.known = admin_key
        super().__init__(folder, *args, fake=True)

    def _admin_key(self):
        return self.known


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def backup_key(g, roles=("backup",), name="standby"):
    r = g.admin.post("/admin/v1/admin-keys", json={"name": name, "roles": list(roles)})
    assert r.status_code == 201, r.text
    return r.json()["key"]


class Standby:
    """Its folder is FOLDER/data, so that a Gateway can be started on FOLDER after the promotion."""

    def __init__(self, folder, url, key, every=0.2, file_limit=None, more=()):
        self.folder, self.url, self.every, self.file_limit, self.more = folder, url, every, file_limit, more
        folder.mkdir(parents=True, exist_ok=True)
        self.data, self.token, self.log = folder / "data", folder / "token", folder / "standby.log"
        self.token.write_text(key + "\n")
        self.at = f"http://127.0.0.1:{free_port()}"
        self.process = None

    def start(self):
        def limit():
            if self.file_limit:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.file_limit, self.file_limit))

        command = [PROGRAM, "standby", "--from", self.url, "--token-file", self.token, "--data", self.data, "--every", self.every, "--listen", self.at[7:], *self.more]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=limit)
        return self

    def status(self):
        try:
            return httpx.get(self.at + "/status", timeout=5 * SLOW).json()
        except httpx.HTTPError:
            return {}

    def metric(self, name):
        found = re.search(rf"^{re.escape(name)} (\S+)$", httpx.get(self.at + "/metrics", timeout=5 * SLOW).text, re.M)
        return float(found.group(1)) if found else None

    def synced(self, timeout=START_S):
        """A state that was asked for after now is there; its status."""
        since = time.time()

        def look():
            assert self.process.poll() is None, f"exit {self.process.returncode}:\n{self.tail()}"
            before = time.time()  # an answer may be long on its way: by the time behind it an old state would look new
            o = self.status()
            return o if o.get("behind_s") is not None and before - o["behind_s"] > since else None

        return until(look, timeout, f"a state of the primary ({self.tail()})")

    def failed(self, words, timeout=START_S):
        return until(lambda: (lambda o: o if words in (o.get("error") or "") else None)(self.status()), timeout, f"the failure {words!r} ({self.tail()})")

    def state(self):
        return json.loads((self.data / "standby/state.json").read_text())

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(30 * SLOW) == 0, self.tail()

    def tail(self):
        return self.log.read_text()[-3000:] if self.log.exists() else ""

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        shutil.rmtree(self.data, ignore_errors=True)


def promote(data, *more, status=0):
    done = subprocess.run([PROGRAM, "promote", "--data", data, *more], capture_output=True, text=True, timeout=60 * SLOW)
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def moment_of(said):
    """Of the state that was taken over, as promote says it; time.time()'s seconds."""
    text = re.search(r"of the state of (\S+),", said).group(1)
    return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.timezone.utc).timestamp()


class Load:
    """Clients of a tenant; `told` is the oracle: what each was told to be complete, and when (time.time(), before and after the answer)."""

    def __init__(self, tenant, workers=4, models=(BASE,), tokens=9):
        self.tenant, self.models, self.tokens, self.told, self.failed, self.stop = tenant, models, tokens, {}, 0, threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(i,), daemon=True) for i in range(workers)]
        for t in self.threads:
            t.start()

    def client(self, i):
        n = i
        with self.tenant.http() as c:
            while not self.stop.is_set():
                n += 1
                tokens = n % self.tokens + 1
                slow = " delay_ms=300" if i == 0 else ""  # there is always one under way
                try:
                    r = c.post("/v1/chat/completions", json={"model": self.models[n % len(self.models)], "messages": [{"role": "user", "content": f"tokens={tokens}{slow}"}]})
                except httpx.HTTPError:
                    self.failed += 1
                    time.sleep(0.02)
                    continue
                if r.status_code == 200:
                    self.told[r.headers["x-request-id"]] = (tokens, time.time())
                else:
                    self.failed += 1

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(60)


def take_over(standby, primary, *args):
    """Promotes and starts; the gateway, and the seconds from the beginning of `promote` to the first request that was served."""
    began = time.monotonic()
    said = promote(standby.data)
    promoted = time.monotonic() - began
    g = Restored(standby.folder, primary.admin_key, *args)
    return g, said, began, promoted
