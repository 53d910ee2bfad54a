"""The program's life: arguments, exit codes, readiness, stopping."""

import json
import os
import signal
import stat
import threading
import time

import pytest

from engine_process import MODEL, TOKEN, run_program, sse

LONG = {"prompt": "Once upon a time", "max_tokens": 4000, "ignore_eos": True, "stream": True}


@pytest.mark.parametrize("args", [
    [], ["serve"], ["dance", "--model", "x", "--socket", "y"], ["serve", "--model", "x"], ["serve", "--socket", "y"],
    ["serve", "--model", "x", "--socket", "y", "--listen", "127.0.0.1:0"], ["serve", "--model", "x", "--listen", "127.0.0.1:0"],
    ["serve", "--model", "x", "--socket", "y", "--max-slots", "0"], ["serve", "--model", "x", "--socket", "y", "--no-such", "1"],
    ["serve", "--model", "x", "--socket", "y", "--device", "toaster"], ["serve", "--model", "x", "--socket", "y", "--precision", "vague"],
    ["serve", "--model", "x", "--socket", "y", "--log-level", "loud"], ["serve", "more", "--model", "x", "--socket", "y"],
    ["serve", "--model", "x", "--listen", "127.0.0.1:0", "--token-file", "/no/such/file"],
    ["serve", "--model", "x", "--listen", "127.0.0.1:0", "--token-file", "/dev/null"],
    ["serve", "--model", "x", "--socket", "/no/such/folder/e.sock"],
], ids=lambda a: " ".join(a) or "nothing")
def test_bad_arguments_exit_2_with_one_line(args):
    r = run_program(*args)
    assert r.returncode == 2 and r.stderr.strip(), r


def test_help_and_version_exit_0():
    assert "--kv-mb" in (r := run_program("--help")).stdout and r.returncode == 0
    assert run_program("--version").stdout.startswith("weft-engine ")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all" * 100, "cut", None], ids=["empty", "magic", "text", "cut", "missing"])
def test_a_model_that_is_none_exits_3(tmp_path, content):
    path = tmp_path / "bad.gguf"
    if content == "cut":
        with open(MODEL, "rb") as f:
            path.write_bytes(f.read(5 << 20))
    elif content is not None:
        path.write_bytes(content)
    r = run_program("serve", "--model", str(path), "--socket", str(tmp_path / "e.sock"))
    assert r.returncode == 3 and "event=refused" in r.stderr, r.stderr


def test_health_answers_before_the_model_is_loaded(start):
    e = start(unix=True, ready=False)
    assert e.http.get("/health").status_code == 200
    r = e.http.get("/ready")
    if r.status_code != 200:  # on a fast machine it is ready already
        assert r.status_code == 503 and "loaded" in r.json()["error"]["message"] and r.headers["Retry-After"]
        assert e.http.get("/v1/models").status_code in (200, 503)
    e.wait_ready()
    assert e.terminate() == 0


def test_the_socket_is_its_owners_alone_and_goes_with_the_program(start):
    e = start(unix=True)
    assert stat.S_IMODE(os.stat(e.socket).st_mode) == 0o600
    assert e.terminate() == 0
    assert not e.socket.exists()


def test_a_stale_socket_is_replaced(start, tmp_path):
    one = start(unix=True)
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    assert one.socket.exists()
    r = run_program_until_ready(one)
    assert r


def run_program_until_ready(dead):
    from engine_process import Engine
    e = Engine(dead.folder, unix=True)
    try:
        return e.http.get("/ready").status_code == 200
    finally:
        e.close()


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_stops(start, sig):
    e = start()
    assert e.terminate(sig) == 0


def test_a_running_request_finishes_when_the_grace_is_long_enough(start):
    e = start("--drain-ms", "20000")
    got = []

    def ask():
        with e.client() as c:
            got.append(c.post("/v1/completions", json={"model": e_base, "prompt": "Once", "max_tokens": 60, "ignore_eos": True}))
    e_base = e.base
    t = threading.Thread(target=ask)
    t.start()
    while not e.busy():
        time.sleep(0.005)
    assert e.terminate() == 0
    t.join()
    assert got[0].status_code == 200 and got[0].json()["usage"]["completion_tokens"] == 60


def test_a_stream_that_outlives_the_grace_ends_with_an_error_and_no_done(start):
    e = start("--drain-ms", "200")
    with e.client() as c, c.stream("POST", "/v1/completions", json={"model": e.base, **LONG}) as r:
        chunks = r.iter_bytes()
        first = next(chunks)
        begin = time.monotonic()
        e.process.send_signal(signal.SIGTERM)
        text = (first + b"".join(chunks)).decode()
    assert e.process.wait(20) == 0 and time.monotonic() - begin < 10
    last = text.rstrip("\n").split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "service_unavailable"
    assert "[DONE]" not in text


def test_nobody_asking_ends_an_orphan(start):
    e = start("--orphan-s", "1")
    for _ in range(6):
        time.sleep(0.4)
        assert e.http.get("/health").status_code == 200
    assert e.process.wait(10) == 0
    assert "orphan_s" in e.log.read_text()


def test_exact_precision_serves_too(start):
    e = start("--precision", "exact", "--kernels", "plain", "--max-context", "256", "--name", "tiny", unix=True)
    s = e.state()
    assert (s["precision"], s["kernels"], s["max_context"], s["base"]["name"]) == ("exact", "plain", 256, "tiny")
    r = e.http.post("/v1/completions", json={"model": "tiny", "prompt": "The capital of France is", "max_tokens": 2, "temperature": 0})
    assert r.json()["choices"][0]["text"].startswith(" Paris")
    assert r.json()["system_fingerprint"].endswith("_exact")


def test_a_small_kv_pool_bounds_the_context(start):
    e = start("--kv-mb", "12", unix=True)
    s = e.state()
    assert s["max_context"] == s["pages"]["total"] * 16 < 8192
    r = e.http.post("/v1/chat/completions", json={"model": e.base, "messages": [{"role": "user", "content": "Say hello."}], "temperature": 0})
    assert r.status_code == 200, r.text
    r = e.http.post("/v1/completions", json={"model": e.base, "prompt": [5] * s["max_context"]})
    assert r.status_code == 400 and r.json()["error"]["code"] == "context_length_exceeded"
    e.assert_idle()


def test_the_log_holds_no_prompt_and_no_token(start):
    e = start("--log-level", "debug")
    secret = "xyzzy-plugh-canary"
    e.http.post("/v1/completions", json={"model": e.base, "prompt": secret, "max_tokens": 2})
    e.http.post("/v1/completions", content='{"model":"' + secret)
    assert e.terminate() == 0
    log = e.log.read_text()
    assert "event=request" in log and secret not in log and TOKEN not in log
