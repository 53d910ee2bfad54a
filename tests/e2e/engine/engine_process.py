"""A weft-engine under test: started, asked, stopped. Plain classes, usable without pytest's fixtures."""

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import openai

TOP = Path(__file__).resolve().parents[3]
PROGRAM = os.environ.get("WEFT_ENGINE", str(TOP / "build/release/weft-engine"))
MODEL = os.environ.get("WEFT_MODEL", "")
DEMO = TOP / "ops/demo"
TOKEN = "test-token-0123456789abcdef"
SLOW = float(os.environ.get("WEFT_SLOW", 1))  # so many times as long is waited: programs under a sanitizer or valgrind
START_S, STOP_S, IDLE_S, ANSWER_S = 60 * SLOW, 30 * SLOW, 20 * SLOW, 60 * SLOW


class Engine:
    """`unix=True` listens on a socket, else on a free TCP port with a bearer token."""

    def __init__(self, folder, *args, unix=False, model=MODEL, store=DEMO, ready=True, env=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "engine.log"
        self.socket = self.folder / "e.sock"
        command = [PROGRAM, "serve", "--model", str(model), "--store", str(store)]
        if unix:
            command += ["--socket", str(self.socket)]
        else:
            (self.folder / "token").write_text(TOKEN + "\n")
            command += ["--listen", "127.0.0.1:0", "--token-file", str(self.folder / "token")]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command + list(args), stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        self.unix = unix
        self.url = "http://engine" if unix else "http://" + self.logged("listening", "address")
        if unix:
            self.logged("listening", "address")
        self.token = None if unix else TOKEN
        self.http = self.client()
        if ready:
            self.wait_ready()

    def client(self, token=True):
        headers = {"Authorization": f"Bearer {self.token}"} if token and self.token else {}
        transport = httpx.HTTPTransport(uds=str(self.socket)) if self.unix else None
        return httpx.Client(base_url=self.url, headers=headers, transport=transport, timeout=ANSWER_S)

    def openai(self, token=None, **kw):
        transport = httpx.HTTPTransport(uds=str(self.socket)) if self.unix else None
        return openai.OpenAI(base_url=self.url + "/v1", api_key=token or self.token or "none", max_retries=0,
                             http_client=httpx.Client(transport=transport, timeout=ANSWER_S), **kw)

    def logged(self, event, field, timeout=START_S):
        """The value of a field in the first line of that event, as soon as it stands in the log."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            m = re.search(rf"event={event} .*?\b{field}=(\S+)", self.log.read_text())
            if m:
                return m.group(1)
            if self.process.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"no {event} in the log (exit {self.process.poll()}):\n{self.log.read_text()}")

    def tail(self):
        return self.log.read_text()[-6000:]

    def wait_ready(self):
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            assert self.process.poll() is None, f"exit {self.process.returncode}:\n{self.log.read_text()}"
            if self.http.get("/ready").status_code == 200:
                return
            time.sleep(0.05)
        raise AssertionError("not ready in time")

    def state(self):
        r = self.http.get("/weft/v1/state")
        assert r.status_code == 200, r.text
        return r.json()

    def busy(self):
        s = self.state()
        return {k: v for k, v in {"running": s["running"], "waiting": s["waiting"], "pages": s["pages"]["used"],
                                  "pins": s["slots"]["pins"]}.items() if v}

    def assert_idle(self):
        """Pages, pins and queues go back to zero."""
        end = time.monotonic() + IDLE_S
        while (left := self.busy()) and time.monotonic() < end:
            time.sleep(0.02)
        assert not left, left

    @property
    def base(self):
        return self.state()["base"]["name"]

    def load(self, name, digest=None):
        digest = digest or demo_digest(name, self.state()["base"]["digest"])
        r = self.http.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(DEMO / name)})
        assert r.status_code == 200, r.text
        return digest

    def receipt(self, request_id):
        return self.http.get(f"/weft/v1/receipts/{request_id}")

    def wait_receipt(self, request_id, state):
        end = time.monotonic() + IDLE_S
        while time.monotonic() < end:
            r = self.receipt(request_id)
            if r.status_code == 200 and r.json()["state"] == state:
                return r.json()
            time.sleep(0.02)
        raise AssertionError(f"receipt of {request_id}: {r.text}")

    def terminate(self, sig=signal.SIGTERM):
        self.process.send_signal(sig)
        return self.process.wait(STOP_S)

    def close(self):
        """Stops what still runs; a sanitizer's finding or a hang shows in the exit code."""
        self.http.close()
        if self.process.poll() is not None:
            return
        try:
            code = self.terminate()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert code == 0, self.log.read_text()[-8000:]


def run_program(*args, timeout=60):
    env = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_")}
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True, timeout=timeout * SLOW, stdin=subprocess.DEVNULL, env=env)


def sse(response):
    """Yields ("comment", text) and ("data", text) of an event stream, as a strict reader sees them."""
    for block in "".join(response.iter_text()).split("\n\n"):
        if not block:
            continue
        assert "\n" not in block, block
        if block.startswith(": "):
            yield "comment", block[2:]
        else:
            assert block.startswith("data: "), block
            yield "data", block[6:]


# --- the digest of an adapter, written again from its definition (adapters/digest.h) ---


def _integral(x):
    return int(x) if isinstance(x, float) and x.is_integer() else x


def adapter_digest(folder, base_digest):
    raw = (Path(folder) / "adapter_model.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    lines = b""
    for name in sorted(header, key=lambda n: n.encode()):
        t = header[name]
        begin, end = t["data_offsets"]
        data = raw[8 + size + begin:8 + size + end]
        shape = "[" + ",".join(map(str, t["shape"])) + "]"
        lines += f"{name} {t['dtype']} {shape} {hashlib.sha256(data).hexdigest()}\n".encode()
    c = json.loads((Path(folder) / "adapter_config.json").read_text())
    pattern = lambda key: [[k, _integral(v)] for k, v in (c.get(key) or {}).items()]
    listed = lambda v: sorted(set(v)) if isinstance(v, list) else v
    kept = {
        "alora_invocation_tokens": None, "alpha_pattern": pattern("alpha_pattern"), "base": base_digest,
        "fan_in_fan_out": bool(c.get("fan_in_fan_out")), "layers_pattern": listed(c.get("layers_pattern")),
        "layers_to_transform": listed(c.get("layers_to_transform")), "lora_alpha": _integral(c["lora_alpha"]), "peft_type": "LORA",
        "r": c["r"], "rank_pattern": pattern("rank_pattern"), "target_modules": listed(c["target_modules"]),
        "use_dora": bool(c.get("use_dora")), "use_rslora": bool(c.get("use_rslora")),
    }
    return hashlib.sha256(lines + json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def demo_digest(name, base_digest):
    return adapter_digest(DEMO / name, base_digest)
