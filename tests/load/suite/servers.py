"""weft-engine alone and behind weft-gateway, and the load generator. Standard library only; loopback only; what is started is stopped."""
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import random_weights

TOP = Path(__file__).resolve().parents[3]
BUILD = TOP / "build/release"
LOAD = BUILD / "tests/load/load"
CACHE = Path(os.environ.get("WEFT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "weft") / "bench"
START_S, STOP_S, LOAD_MOST_S = 120, 30, 180
COMPUTED = ["--prefix-cache", "false", "--speculate", "0"]  # what is measured is computed
MIXED_RANKS = (8, 8, 16, 16, 32, 32, 64, 64)


def wait_for(what, ready, process, seconds=START_S):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = ready()
        if value:
            return value
        if process.poll() is not None:
            raise RuntimeError(f"{what}: the process ended with {process.returncode}")
        time.sleep(0.02)
    raise RuntimeError(f"{what}: not within {seconds} s")


class Process:
    """A program with a folder of its own and a log in it."""

    def __init__(self, command, env=None):
        self.folder = Path(tempfile.mkdtemp(prefix="weft-bench-"))
        self.log, self.started = self.folder / "log", time.monotonic()
        own = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_") or k == "WEFT_KERNELS"}
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([str(c) for c in command(self.folder)], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env=own | (env or {}))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def tail(self):
        return self.log.read_text(errors="replace")[-2000:]


# --- adapters ---


class Adapters:
    """Seeded adapters of one base in the cache folder; one file of weights a rank, as many adapters of it as there are alphas."""

    def __init__(self, base_name, base):
        self.root, self.base = CACHE / "adapters" / base_name, base
        self.lines = {}  # rank -> what the digest says of the tensors

    def weights(self, rank):
        return self.root / f"r{rank}-0" / "adapter_model.safetensors"

    def folder(self, rank, number):
        """The adapter of that number: its alpha is 16 and so many 64ths, which every JSON printer writes the same way."""
        folder = self.root / f"r{rank}-{number}"
        if not self.weights(rank).exists():
            random_weights.write_adapter(self.base, rank, self.root / f"r{rank}-0")
        if not (folder / "adapter_config.json").exists():
            random_weights.write_adapter(self.base, rank, folder, 16 + number / 64 if number % 64 else 16 + number // 64, self.weights(rank))
        return folder

    def mixed(self, count):
        """(rank, folder) of `count` adapters of ranks 8 to 64 in turn."""
        return [(MIXED_RANKS[i % 8], self.folder(MIXED_RANKS[i % 8], i)) for i in range(count)]

    def equal(self, count, rank, first=0):
        return [(rank, self.folder(rank, first + i)) for i in range(count)]

    def tensor_lines(self, rank):
        if rank not in self.lines:
            with open(self.weights(rank), "rb") as f:
                size = int.from_bytes(f.read(8), "little")
                header, out = json.loads(f.read(size)), b""
                header.pop("__metadata__", None)
                for name in sorted(header):
                    t = header[name]
                    f.seek(8 + size + t["data_offsets"][0])
                    digest = hashlib.sha256(f.read(t["data_offsets"][1] - t["data_offsets"][0])).hexdigest()
                    out += f"{name} {t['dtype']} [{','.join(map(str, t['shape']))}] {digest}\n".encode()
            self.lines[rank] = out
        return self.lines[rank]

    def digest(self, rank, folder):
        """adapters/digest.h, for the configurations that random_weights writes."""
        c = json.loads((folder / "adapter_config.json").read_text())
        kept = {"alora_invocation_tokens": None, "alpha_pattern": [], "base": self.base["digest"], "fan_in_fan_out": False,
                "layers_pattern": None, "layers_to_transform": None, "lora_alpha": c["lora_alpha"], "peft_type": "LORA", "r": c["r"],
                "rank_pattern": [], "target_modules": c["target_modules"], "use_dora": False, "use_rslora": False}
        config = json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()
        return hashlib.sha256(self.tensor_lines(rank) + config).hexdigest()


# --- the engine ---


class Engine(Process):
    """weft-engine on a TCP port with a token, adapters by digest."""

    def __init__(self, model, base_name, *args):
        (CACHE / "adapters").mkdir(parents=True, exist_ok=True)

        def command(folder):
            (folder / "token").write_text("bench\n")
            return [BUILD / "weft-engine", "serve", "--model", model, "--listen", "127.0.0.1:0", "--token-file", folder / "token",
                    "--store", CACHE / "adapters", "--orphan-s", "0", *COMPUTED, *map(str, args)]

        super().__init__(command)
        try:
            self.address = wait_for("weft-engine", self.listening, self.process)
            wait_for("weft-engine", lambda: self.ask("GET", "/ready")[0] == 200, self.process)
        except RuntimeError as e:
            print(self.tail())
            self.__exit__()
            raise e
        self.start_s = time.monotonic() - self.started
        self.state = self.get_state()
        self.url, self.key, self.vocab = f"http://{self.address}", "bench", self.state["vocab"]
        self.base = self.state["base"]["name"]
        self.adapters = Adapters(base_name, self.state["base"])

    def listening(self):
        m = re.search(r"event=listening .*?address=(\S+)", self.log.read_text(errors="replace"))
        return m and m.group(1)

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection(self.address, timeout=300)
        c.request(method, path, body=json.dumps(body) if body is not None else None,
                  headers={"Authorization": "Bearer bench", "Content-Type": "application/json"})
        r = c.getresponse()
        text = r.read()
        c.close()
        return r.status, text

    def get_state(self):
        return json.loads(self.ask("GET", "/weft/v1/state")[1])

    def metric(self, name, label=""):
        """The sum over its rows with that label."""
        text = self.ask("GET", "/metrics")[1].decode()
        return sum(float(v) for labels, v in re.findall(rf"^{name}(\{{.*\}})? ([0-9.e+]+)$", text, re.M) if label in labels)

    def load(self, adapters):
        """Makes them resident; returns their targets. Several at a time: each waits for the one before it anyway."""
        digests = [self.adapters.digest(*a) for a in adapters]

        def one(digest, folder):
            status, text = self.ask("POST", "/v1/load_lora_adapter", {"lora_name": digest, "lora_path": str(folder)})
            if status != 200:
                raise RuntimeError(f"{folder}: {status} {text[:300]}")

        with ThreadPoolExecutor(4) as several:
            list(several.map(one, digests, [folder for _, folder in adapters]))
        return [self.target(d) for d in digests]

    def target(self, model=None):
        return f"{self.key}={model or self.base}"

    def __repr__(self):
        return "engine"


# --- the gateway ---


class Gateway(Process):
    """weft-gateway with its engine, tenants and their adapters."""

    def __init__(self, model, *args):
        def command(folder):
            return [BUILD / "weft-gateway", "--model", model, "--data", folder / "data", "--listen", "127.0.0.1:0", "--admin-listen",
                    "127.0.0.1:0", "--ports-file", folder / "ports", "--log-level", "warn", *COMPUTED, *map(str, args)]

        self.admin_key = None
        first = command

        def with_key(folder):
            (folder / "data").mkdir(mode=0o700)
            out = subprocess.run([BUILD / "weft-gateway", "admin-key", "--new", "--data", folder / "data"], capture_output=True, text=True)
            self.admin_key = re.search(r"wfa_[\w-]+", out.stdout + out.stderr).group(0)
            return first(folder)

        super().__init__(with_key)
        try:
            wait_for("weft-gateway", (self.folder / "ports").exists, self.process)
        except RuntimeError as e:
            print(self.tail())
            self.__exit__()
            raise e
        ports = dict(re.findall(r"^(\w+)='?([^'\n]*)'?$", (self.folder / "ports").read_text(), re.M))
        self.url, self.admin_url = ports["WEFT_URL"], ports["WEFT_ADMIN_URL"]

    def weft(self, *args):
        env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "WEFT_URL": self.url, "WEFT_ADMIN_URL": self.admin_url,
               "WEFT_ADMIN_KEY": self.admin_key}
        out = subprocess.run([str(BUILD / "weft"), *map(str, args)], capture_output=True, text=True, env=env)
        if out.returncode:
            raise RuntimeError(f"weft {' '.join(map(str, args))}: {out.stderr or out.stdout}")
        return out.stdout

    def tenant(self, name):
        """A tenant's key."""
        self.weft("tenant", "create", name)
        return re.findall(r"wft_[\w-]+", self.weft("key", "create", "--tenant", name, "--name", "bench", "--role", "admin", "--json"))[-1]

    def push(self, key, name, folder):
        self.weft("adapter", "push", name, folder, "--key", key)
        return f"{key}={name}"

    def __repr__(self):
        return "gateway"


# --- load ---


def load_command(server, targets, streams, prompt, output, **options):
    command = [str(LOAD), "--url", server.url, "--vocab", str(server.vocab), "--prompt", str(prompt), "--output", str(output)]
    if streams:
        command += ["--streams", str(streams)]
    for name, value in options.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    if len(targets) > 32:
        path = server.folder / f"targets-{abs(hash(tuple(targets)))}"
        path.write_text("\n".join(targets) + "\n")
        return command + ["--targets", str(path)]
    for t in targets:
        command += ["--target", t]
    return command


class Load:
    """A run of the load generator; result() waits for it, end_loads() ends those that nobody waits for any more."""

    running = set()

    def __init__(self, server, targets, streams, prompt, output, **options):
        self.process = subprocess.Popen(load_command(server, targets, streams, prompt, output, **options), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)
        self.running.add(self.process)

    def end(self):
        """Now, and the result up to now."""
        self.process.send_signal(signal.SIGTERM)
        return self.result()

    def result(self):
        try:
            out, errors = self.process.communicate(timeout=LOAD_MOST_S)
        finally:
            end_process(self.process)
            self.running.discard(self.process)
        if not out:
            raise RuntimeError(f"weft-load: {errors}")
        result = json.loads(out)
        if result["failed"]:
            print(f"  {result['failed']} of {result['requests']} requests failed: {errors.strip()[:400]}", flush=True)
        return result


def end_process(process):
    if process.poll() is None:
        process.kill()
        process.wait()


def end_loads():
    while Load.running:
        end_process(Load.running.pop())


def load(*args, **options):
    return Load(*args, **options).result()


def load_recorded(server, *args, **options):
    """Its result, and what it tells of each request."""
    path = server.folder / "records"
    result = load(server, *args, records=path, **options)
    return result, [json.loads(line) for line in path.read_text().splitlines()]
