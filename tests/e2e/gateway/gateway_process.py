"""A weft-gateway under test: started on a folder of its own, asked, stopped, killed, started again. Plain classes, no fixtures."""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import openai

TOP = Path(__file__).resolve().parents[3]
BIN = Path(os.environ.get("WEFT_BIN", TOP / "build/release"))
PROGRAM = Path(os.environ.get("WEFT_GATEWAY", BIN / "weft-gateway"))
ENGINE = Path(os.environ.get("WEFT_ENGINE", BIN / "weft-engine"))
FAKE = Path(__file__).with_name("fake_engine.py")
MODEL = os.environ.get("WEFT_MODEL", "")
DEMO = TOP / "ops/demo"
BASE = "smollm2-135m-instruct"
SLOW = float(os.environ.get("WEFT_SLOW", 1))  # so many times as long is waited: programs under a sanitizer
START_S, STOP_S, WAIT_S = 90 * SLOW, 30 * SLOW, 20 * SLOW
ALL_ROLES = ["admin"]


def until(ask, timeout=WAIT_S, what="it"):
    """Asks until the answer is true; returns it."""
    end = time.monotonic() + timeout
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < end, f"{what} did not come about within {timeout} s"
        time.sleep(0.02)


class Gateway:
    def __init__(self, folder, *args, fake=False, model=None, env=None, ready=True):
        self.folder = Path(folder)
        self.data = self.folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.fake, self.args, self.env = fake, list(args), env or {}
        self.model = MODEL if model is None else model
        self.log = self.folder / "gateway.log"
        self.process = None
        self.admin_key = self._admin_key()
        self.start(ready)

    # --- life ---

    def _admin_key(self):
        out = subprocess.run([PROGRAM, "admin-key", "--data", self.data], capture_output=True, text=True, timeout=30 * SLOW)
        found = re.search(r"wfa_[\w-]+", out.stdout)
        assert found, f"no admin key: {out.stdout} {out.stderr}"
        return found.group(0)

    def start(self, ready=True):
        ports = self.folder / "ports.env"
        ports.unlink(missing_ok=True)
        command = [PROGRAM, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", self.data, "--ports-file", ports,
                   "--model", self.model, "--engine", FAKE if self.fake else ENGINE] + self.args
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([str(c) for c in command], stderr=log, stdout=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.env})
        until(lambda: ports.exists() or self.process.poll() is not None, START_S, "the ports file")
        if not ready and self.process.poll() is not None:
            return
        assert self.process.poll() is None, f"exit {self.process.returncode}:\n{self.tail()}"
        text = ports.read_text()
        self.url = re.search(r"WEFT_URL='(.*)'", text).group(1)
        self.admin_url = re.search(r"WEFT_ADMIN_URL='(.*)'", text).group(1)
        self.admin = httpx.Client(base_url=self.admin_url, headers={"Authorization": f"Bearer {self.admin_key}"}, timeout=30 * SLOW)
        if ready:
            until(self.engine_pid, START_S, "an engine")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(STOP_S)
        assert code == 0, f"exit {code}:\n{self.tail()}"

    def kill(self):
        self.process.kill()
        self.process.wait(STOP_S)

    def close(self):
        if self.process and self.process.poll() is None:
            self.stop()
        pid = self._pid_file()
        if pid:  # left behind by a killed gateway
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.data, ignore_errors=True)

    def tail(self):
        return self.log.read_text()[-6000:]

    # --- its engine ---

    def _pid_file(self):
        for path in glob.glob(str(self.data / "run/*.pid")):
            words = Path(path).read_text().split()
            return int(words[0]) if words else None
        return None

    def engine(self):
        sockets = glob.glob(str(self.data / "run/*.sock"))
        return httpx.Client(base_url="http://engine", transport=httpx.HTTPTransport(uds=sockets[0] if sockets else "/nonexistent"), timeout=10 * SLOW)

    def engine_pid(self):
        """The engine's pid once it is ready."""
        try:
            with self.engine() as c:
                return c.get("/weft/v1/state").json()["pid"] if c.get("/ready").status_code == 200 else None
        except httpx.HTTPError:
            return None

    def engine_state(self):
        with self.engine() as c:
            return c.get("/weft/v1/state").json()

    def kill_engine(self):
        pid = self._pid_file()
        os.kill(pid, signal.SIGKILL)
        return pid

    def fake_log(self):
        with self.engine() as c:
            return c.get("/fake/log").json()

    def fake_set(self, path, **body):
        with self.engine() as c:
            assert c.post(path, json=body).status_code == 200

    # --- tenants ---

    def tenant(self, name, roles=None):
        r = self.admin.post("/admin/v1/tenants", json={"name": name})
        assert r.status_code in (200, 201), r.text
        return Tenant(self, name, self.key(name, roles or ALL_ROLES))

    def key(self, tenant, roles):
        r = self.admin.post(f"/admin/v1/tenants/{tenant}/keys", json={"roles": roles})
        assert r.status_code in (200, 201), r.text
        return r.json()["key"]

    # --- what lies on the disk ---

    def blobs(self):
        return sorted(p.name for p in (self.data / "blobs").glob("*/*"))

    def temporary(self):
        return sorted(p.name for p in (self.data / "tmp").iterdir())


class Tenant:
    def __init__(self, gateway, name, key):
        self.gateway, self.name, self.key = gateway, name, key

    def http(self):
        return httpx.Client(base_url=self.gateway.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=120 * SLOW)

    def openai(self, in_path=False, key=None, retries=0):
        path = f"/t/{self.name}/v1" if in_path else "/v1"
        return openai.OpenAI(base_url=self.gateway.url + path, api_key=key or self.key, max_retries=retries, timeout=120 * SLOW)

    def upload(self, name, folder=None, config=None, weights=None, path="/v1/adapters?wait=ready", **fields):
        folder = Path(folder or DEMO / name)
        files = {"config": config if config is not None else (folder / "adapter_config.json").read_bytes(),
                 "weights": weights if weights is not None else (folder / "adapter_model.safetensors").read_bytes()}
        with self.http() as c:
            return c.post(path, data={"name": name, **fields}, files=files)

    def ask(self, text, model=BASE, **more):
        with self.http() as c:
            return c.post("/v1/chat/completions", json={"model": model, "messages": [{"role": "user", "content": text}], **more})

    def usage_rows(self):
        """All settled requests of this tenant, newest first."""
        rows, after = [], None
        with self.http() as c:
            while True:
                r = c.get("/v1/usage/requests", params={"limit": 100, **({"after": after} if after else {})})
                assert r.status_code == 200, r.text
                page = r.json()
                rows += page["data"]
                if not page["has_more"]:
                    return rows
                after = page["last_id"]

    def usage(self, request_id):
        """The one row of a request, once it is settled."""
        def find():
            return [x for x in self.usage_rows() if x["id"] == request_id]
        rows = until(find, what=f"the usage row of {request_id}")
        assert len(rows) == 1, rows
        return rows[0]


def events(lines):
    """The data of a stream's events, and whether it ended with [DONE]."""
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    done = bool(data) and data[-1] == "[DONE]"
    return [json.loads(d) for d in data if d != "[DONE]"], done
