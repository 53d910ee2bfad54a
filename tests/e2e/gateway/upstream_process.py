"""A fake vLLM or other upstream as a process, and its row in a gateway's pool. Plain classes, no fixtures."""

import subprocess
import sys
from pathlib import Path

import httpx
from fake_engine import BASE as DESCRIBED

from gateway_process import BASE, until

PROGRAM = Path(__file__).with_name("fake_vllm.py")


class Upstream:
    def __init__(self, kind, model=BASE, key=None, port=0):
        self.kind, self.model, self.key = kind, model, key
        command = [sys.executable, PROGRAM, kind, "--model", model, "--listen", f"127.0.0.1:{port}"] + (["--key", key] if key else [])
        self.process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline().split()
        assert line[:1] == ["listening"], line
        self.port = int(line[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self):
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()

    def log(self):
        return httpx.get(self.url + "/fake/log").json()

    def asked(self, path="/v1/chat/completions"):
        """What was asked on a path: bodies and headers, oldest first."""
        return [x for x in self.log()["log"] if x["path"] == path]

    def set(self, path, **body):
        assert httpx.post(self.url + path, json=body).status_code == 200

    def row(self, name="up", **more):
        row = {"name": name, "kind": self.kind, "base": BASE, "url": self.url, "model": self.model}
        if self.kind == "vllm":
            row["settings"] = {"base": DESCRIBED}
        if self.key:
            row["secret"] = self.key
        return {**row, **more}

    def join(self, gateway, name="up", **more):
        """Its row, once the gateway finds it ready."""
        r = gateway.admin.post("/admin/v1/engines", json=self.row(name, **more))
        assert r.status_code == 201, r.text

        def ready():
            return self.status(gateway, name)["state"] == "ready"
        until(ready, what=f"the engine {name}")

    def status(self, gateway, name="up"):
        return gateway.admin.get(f"/admin/v1/engines/{name}").json()["status"]
