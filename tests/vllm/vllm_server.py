"""vLLM for CPUs as a process of ours: started on loopback, waited for, stopped with all that it started.

It reads the base as bf16 and computes in float32: sums in bf16 part ways with everyone else's wherever the two best tokens lie closer than about
0.07, which half of the base's own answers of 40 tokens come to."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = "smollm2-135m-instruct"
START_S, STOP_S = 240, 20


def folder():
    """What tests/vllm/setup made, and makes here where it is missing."""
    out = subprocess.run([HERE / "setup"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(out.stdout.strip().splitlines()[-1])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One request at a time: its CPU path mixes up rows of the base and of adapters in one batch."""

    def __init__(self, log, dtype="float32", max_rank=16, key=None):
        made, self.port = folder(), free_port()
        self.url, self.log = f"http://127.0.0.1:{self.port}", Path(log)
        cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "lib64"
        libraries = os.pathsep.join(x for x in (str(cuda), os.environ.get("LD_LIBRARY_PATH")) if x)
        env = {**os.environ, "LD_LIBRARY_PATH": libraries, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(os.cpu_count()),
               "VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1"}
        command = [made / "venv/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", made / "SmolLM2-135M-Instruct",
                   "--served-model-name", BASE, "--host", "127.0.0.1", "--port", self.port, "--dtype", dtype, "--enforce-eager",
                   "--max-model-len", "2048", "--max-num-seqs", "1", "--generation-config", "vllm", "--enable-prompt-tokens-details",
                   "--enable-lora", "--max-loras", "4", "--max-cpu-loras", "8", "--max-lora-rank", max_rank,
                   *(["--api-key", key] if key else [])]
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([str(c) for c in command], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                            cwd=self.log.parent, start_new_session=True)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _alive(self):
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=2) as r:
                return r.status == 200
        except (OSError, urllib.error.URLError):
            return False

    def _wait(self):
        end = time.monotonic() + START_S
        while not self._alive():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"vLLM did not start (exit {self.process.poll()}); the end of {self.log}:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)

    def close(self):
        """Its own way to stop first; then whatever is left of its group."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(STOP_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
