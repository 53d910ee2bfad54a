"""A device that breaks or hangs: the engine ends with 4 and the reason, within its bound, and nobody waits for ever.

The shim plays the faults (tests/simt/fault.h): a file that is written while the engine runs says which call."""

import os
import signal
import subprocess
import threading
import time

import httpx
import pytest

from engine_process import PROGRAM, Engine, adapter_digest
from test_engine_device import FAMILIES, LIBRARY, PROMPTS

FAMILY = FAMILIES / "llama3"
HANG_S = 1
ENDS_S = 20  # for an end that takes HANG_S on a machine that is not busy
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} is not built")
SMALL = ["--max-running", "4", "--step-tokens", "64", "--kv-mb", "4", "--adapter-mb", "8", "--max-slots", "4", "--max-rank", "64",
         "--threads", "1", "--hang-s", str(HANG_S)]


class Faulty:
    """An engine on the shim, and the file through which it is told what to do wrong."""

    def __init__(self, folder, *args, env=None, ready=True):
        self.file = folder / "fault"
        self.engine = Engine(folder, "--device", "cuda", *SMALL, *args, unix=True, model=FAMILY, store=FAMILIES, ready=ready,
                             env={"WEFT_DEVICE_LIB": str(LIBRARY), "WEFT_SIMT_FAULT_FILE": str(self.file), **(env or {})})

    def fault(self, text):
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)

    def ended(self):
        return self.engine.process.wait(ENDS_S)

    def log(self):
        return self.engine.log.read_text()

    def said(self, event):
        return [line for line in self.log().splitlines() if f"event={event}" in line]


@pytest.fixture
def faulty(tmp_path):
    started = []

    def start(*args, **kw):
        started.append(Faulty(tmp_path, *args, **kw))
        return started[-1]
    yield start
    for f in started:
        f.engine.process.kill()
        f.engine.process.wait()
        f.engine.http.close()


class Stream(threading.Thread):
    """A long answer that is read as it comes; what is left of it when it ends."""

    def __init__(self, engine):
        super().__init__()
        self.engine, self.text, self.broken = engine, "", False
        self.first = threading.Event()
        self.base = engine.http.get("/v1/models").json()["data"][0]["id"]
        self.start()
        assert self.first.wait(20)

    def run(self):
        body = {"model": self.base, "prompt": PROMPTS[0], "max_tokens": 120, "temperature": 0, "ignore_eos": True, "stream": True}
        try:
            with self.engine.client() as c, c.stream("POST", "/v1/completions", json=body) as r:
                for piece in r.iter_text():
                    self.text += piece
                    self.first.set()
        except httpx.TransportError:
            self.broken = True
        self.first.set()

    def came_to_an_end(self):
        """By an error event or a broken connection, never as if the answer were whole."""
        self.join(ENDS_S)
        assert not self.is_alive() and "[DONE]" not in self.text
        return self.broken or "service_unavailable" in self.text


def refused(tmp_path, *args, **env):
    r = subprocess.run([PROGRAM, "serve", "--model", str(FAMILY), "--socket", str(tmp_path / "e.sock"), *args], capture_output=True, text=True,
                       timeout=60, env={**os.environ, "WEFT_DEVICE_LIB": str(LIBRARY), **env})
    assert r.returncode == 4, r.stderr
    return next(line for line in r.stderr.splitlines() if "event=refused" in line or "event=device_hangs" in line)


# --- at the start ---


@pytest.mark.parametrize("fault, words", [("open", "no device: a test asked"), ("alloc", "gives no"), ("side:3", "copying the weights")])
def test_a_fault_at_the_start_refuses_with_the_reason(tmp_path, fault, words):
    assert words in refused(tmp_path, "--device", "cuda", WEFT_SIMT_FAULT=fault)


def test_a_device_too_small_is_refused_with_the_sums(tmp_path):
    line = refused(tmp_path, "--device", "cuda", WEFT_SIMT_MB="20")
    assert "the device has 20 MB: weights" in line and "workspace" in line and "do not fit" in line


def test_a_device_too_old_is_refused_by_its_capability(tmp_path):
    assert "SIMT shim, has compute capability 7.5: 8.0 or more" in refused(tmp_path, "--device", "cuda", WEFT_SIMT_CC="75")


def test_a_hang_at_the_start_ends_with_4(tmp_path):
    assert "call=start" in refused(tmp_path, "--device", "cuda", "--hang-s", "1", WEFT_SIMT_FAULT="side:3:hang")


def test_a_driver_that_hangs_when_opened_ends_with_4(tmp_path):
    assert "call=open" in refused(tmp_path, "--device", "auto", "--hang-s", "1", WEFT_SIMT_FAULT="open:1:hang")


def test_a_hang_at_the_start_obeys_sigterm(faulty):
    f = faulty("--hang-s", "600", ready=False, env={"WEFT_SIMT_FAULT_FILE": "", "WEFT_SIMT_FAULT": "side:3:hang"})
    f.engine.logged("device", "name")
    assert f.engine.http.get("/ready").status_code == 503
    assert f.engine.terminate() == 0


@pytest.mark.parametrize("env, words", [({"WEFT_DEVICE_LIB": "/nowhere.so"}, "/nowhere.so"), ({"WEFT_SIMT_FAULT": "open"}, "no device"),
                                        ({"WEFT_SIMT_CC": "75"}, "compute capability 7.5")])
def test_auto_serves_on_the_cpu_and_says_why_in_one_line(tmp_path, env, words):
    e = Engine(tmp_path, "--device", "auto", *SMALL, unix=True, model=FAMILY, store=FAMILIES, env={"WEFT_DEVICE_LIB": str(LIBRARY), **env})
    lines = [line for line in e.log.read_text().splitlines() if "event=device " in line]
    assert len(lines) == 1 and "device=cpu" in lines[0] and words in lines[0], lines
    assert e.http.get("/health").json()["device"] == {"backend": "cpu"}
    assert e.terminate() == 0


def test_a_library_of_another_version_is_refused(tmp_path):
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text("struct { int version; unsigned long sizes; } weft_device_backend = {9999, 1};")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert f"{library} belongs to another version of this program" in refused(tmp_path, "--device", "cuda", WEFT_DEVICE_LIB=str(library))


# --- while it serves ---


@pytest.mark.parametrize("fault, words", [("in:4", "metadata"), ("launch:3", "running a graph"), ("op:200", "running a graph"), ("out:3", "results"),
                                          ("wait:3", "a step")])
def test_a_step_that_fails_ends_streams_and_the_engine(faulty, fault, words):
    f = faulty()
    s = Stream(f.engine)
    f.fault(fault)
    assert s.came_to_an_end() and "service_unavailable" in s.text
    assert f.ended() == 4
    assert len(f.said("device_failed")) == 1 and words in f.said("device_failed")[0]
    assert not f.engine.socket.exists()


@pytest.mark.parametrize("point", ["launch", "wait"])
def test_a_step_that_hangs_ends_the_engine_within_its_bound(faulty, point):
    f = faulty()
    s = Stream(f.engine)
    f.fault(f"{point}:2:hang")
    begin = time.monotonic()
    assert f.ended() == 4 and time.monotonic() - begin >= HANG_S * 0.9
    assert s.came_to_an_end()
    assert "s=1" in f.said("step_hangs")[0]
    assert not f.engine.socket.exists()


@pytest.mark.parametrize("point", ["launch:2", "side:1"])
def test_sigterm_while_the_device_hangs_still_ends_the_engine(faulty, point):
    f = faulty("--drain-ms", "300", "--hang-s", "3")
    s = Stream(f.engine) if point.startswith("launch") else None
    f.fault(point + ":hang")
    if not s:
        threading.Thread(target=load, args=(f.engine,), daemon=True).start()
    deadline = time.monotonic() + 10
    while f.file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    f.engine.process.send_signal(signal.SIGTERM)
    assert f.ended() == 4
    assert f.said("stopping") and (f.said("stop_hangs") or f.said("step_hangs") or f.said("device_hangs"))
    assert not s or s.came_to_an_end()


@pytest.mark.parametrize("sigterm_first", [True, False])
def test_a_device_that_fails_beside_sigterm_is_told_by_the_exit_code(faulty, sigterm_first):
    f = faulty()
    s = Stream(f.engine)
    if not sigterm_first:
        f.fault("op:60")
        f.engine.logged("device_failed", "why")
    f.engine.process.send_signal(signal.SIGTERM)
    if sigterm_first:
        f.fault("op:60")
    assert s.came_to_an_end() and f.ended() == 4
    assert len(f.said("device_failed")) == 1 and not f.said("stop_hangs")
    assert not f.engine.socket.exists()


# --- adapters ---


def load(engine):
    folder = FAMILY / "adapter"
    digest = adapter_digest(folder, engine.state()["base"]["digest"])
    try:
        with engine.client() as c:
            return c.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(folder)})
    except httpx.TransportError:
        return None


def test_an_adapter_whose_copy_breaks_the_device_ends_the_idle_engine(faulty):
    f = faulty()
    f.fault("side:2")
    answer = load(f.engine)
    assert answer is None or answer.status_code == 503, answer.text
    assert f.ended() == 4 and "copying an adapter" in f.said("device_failed")[0]


def test_an_adapter_whose_copy_hangs_ends_the_engine(faulty):
    f = faulty()
    f.fault("side:2:hang")
    assert load(f.engine) is None
    assert f.ended() == 4 and "call=adapter" in f.said("device_hangs")[0]


# --- what an operator sees ---


def test_the_device_and_its_plan_are_told(faulty):
    f = faulty()
    e = f.engine
    s = Stream(e)
    s.join(ENDS_S)
    assert e.http.get("/health").json() == {"status": "ok", "device": {"backend": "cuda", "name": "SIMT shim", "ranks": 1, "memory": 1 << 30}}
    d = e.state()["device"]
    plan = d["plan"]
    assert plan["total"] == sum(plan[a] for a in ("weights", "constants", "kv", "adapters", "workspace")) <= d["memory"]
    assert plan["kv_pages"] == e.state()["pages"]["total"]
    metrics = e.http.get("/metrics").text
    assert 'weft_device_info{backend="cuda",name="SIMT shim",ranks="1"} 1' in metrics
    for area in ("weights", "kv", "adapters", "workspace"):
        assert f'weft_device_bytes{{area="{area}"}} {plan[area]}' in metrics, area
    assert f"weft_device_kv_pages {plan['kv_pages']}" in metrics
    d = e.state()["device"]
    assert f'weft_device_steps{{how="replayed"}} {d["replays"]}' in metrics and f'weft_device_steps{{how="walked"}} {d["graphs"]}' in metrics
    assert "backend" not in f.said("device")[0] and 'name="SIMT shim"' in f.said("device")[0] and "kv_pages=" in f.said("device_plan")[0]
    assert e.terminate() == 0
