"""The engine's plain C path under valgrind's memcheck: tiny models of tests/golden/families, each with an adapter, and packed ones; answers whole, streamed, of a shape, cut short, refused, and a clean stop."""
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
FAMILIES = TOP / "tests/golden/families"
# What is served, and whose adapter fits it: tensors of both containers, experts, windows, and llama3 packed.
MODELS = [("llama3", "llama3"), ("llama3-gguf-f16/llama3.gguf", "llama3"), ("qwen2", "qwen2"), ("gemma3", "gemma3"), ("mixtral", "mixtral"), ("qwen3moe", "qwen3moe")]
PACKED = ("bf16", "int8", "int4", "nf4", "mxfp4", "int2")
ARGS = ["--kernels", "plain", "--confine", "off", "--threads", "2", "--max-running", "4", "--step-tokens", "64", "--kv-mb", "4", "--adapter-mb", "8", "--max-slots", "4", "--max-rank", "64", "--orphan-s", "0", "--hang-s", "600"]
# Errors of use are of every kind; of leaks what nothing points to any more.
VALGRIND = ["valgrind", "--tool=memcheck", "--error-exitcode=66", "--leak-check=full", "--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite", "--track-fds=no", "--fair-sched=yes", "--num-callers=30"]


def command(logs):
    return [*VALGRIND, f"--log-file={logs}/memcheck.%p"]


def ask(e, model, prompt, **more):
    return e.http.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True, **more})


def requests(e, adapter):
    """Asks all of them; how many were answered as they should be."""
    from engine_process import adapter_digest, sse
    base = e.base
    digest = adapter_digest(adapter, e.state()["base"]["digest"])
    r = e.http.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(adapter)})
    assert r.status_code == 200, r.text
    asked = 1
    for name in (base, digest):
        for prompt in ([5, 9, 17, 33, 20], list(range(30, 61)), "abc", [[5, 6, 7], [5, 6, 8]]):
            r = ask(e, name, prompt)
            assert r.status_code == 200, r.text
            asked += 1
        shape = {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": {"type": "object", "properties": {"a": {"enum": ["x", "y"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a", "n"], "additionalProperties": False}}}
        for more in ({"temperature": 1.3, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "seed": 3, "logprobs": 2, "n": 2}, {"frequency_penalty": 1, "presence_penalty": 0.5, "stop": ["zz"]},
                     {"response_format": shape, "max_tokens": 24, "ignore_eos": False}, {"response_format": {"type": "json_object"}, "ignore_eos": False}):
            r = ask(e, name, [5, 9, 17], **more)
            assert r.status_code == 200, r.text
            asked += 1
        with e.http.stream("POST", "/v1/completions", json={"model": name, "prompt": [5, 9, 17], "max_tokens": 8, "stream": True, "ignore_eos": True}) as r:
            assert list(sse(r))[-1] == ("data", "[DONE]")
        with e.http.stream("POST", "/v1/completions", json={"model": name, "prompt": [5, 9, 17], "max_tokens": 100, "stream": True, "ignore_eos": True}) as r:
            next(r.iter_raw(), None)  # and leaves
        asked += 2
        beside = [threading.Thread(target=ask, args=(e, name, [7] * k)) for k in (3, 20, 70)]
        for t in beside:
            t.start()
        for t in beside:
            t.join()
        asked += len(beside)
    for bad in ({"model": "absent", "prompt": "x"}, {"model": base, "prompt": [1 << 30]}, {"model": base}, {"model": base, "prompt": "x", "max_tokens": -1}):
        assert e.http.post("/v1/completions", json=bad).status_code in (400, 404)
        asked += 1
    assert e.http.post("/v1/unload_lora_adapter", json={"lora_name": digest}).status_code == 200
    assert e.http.get("/metrics").status_code == 200
    e.assert_idle()
    return asked + 2


def run(a, logs):
    assert shutil.which("valgrind"), "valgrind is not installed"
    folder = Path(tempfile.mkdtemp(prefix="weft-", dir="/tmp"))
    engine = folder / "engine"
    engine.write_text("#!/bin/sh\nexec " + " ".join(command(logs)) + f" {TOP}/build/release/weft-engine \"$@\"\n")
    engine.chmod(0o755)
    os.environ.update(WEFT_ENGINE=str(engine), WEFT_SLOW=str(a.slow))
    sys.path.insert(0, str(TOP / "tests/e2e/engine"))
    from engine_process import Engine, run_program
    asked = 0
    try:
        served = [(FAMILIES / model, FAMILIES / family / "adapter") for model, family in MODELS]
        for kind in PACKED if not a.only else [k for k in PACKED if k in a.only]:
            done = run_program("quantize", str(FAMILIES / "llama3"), str(folder / kind), "--type", kind, "--kernels", "plain")
            assert done.returncode == 0, done.stderr
            served.append((folder / kind, FAMILIES / "llama3/adapter"))
        for i, (model, adapter) in enumerate(served):
            if a.only and not any(w in model.name for w in a.only):
                continue
            e = Engine(folder / f"e{i}", *ARGS, "--name", adapter.parent.name, unix=True, model=model, store=adapter.parent)
            try:
                count = requests(e, adapter)
            finally:
                e.close()  # asserts an exit status of 0
            print(f"{count} requests against {model.name}, kernels plain", flush=True)
            asked += count
    finally:
        shutil.rmtree(folder)
    return asked
