"""Classes, deadlines and the trace of steps, seen from outside."""

import json
import os
import threading
import time

import pytest

from engine_process import run_program, sse
from test_engine_errors import error_of


def ask(e, headers=None, **fields):
    body = {"model": e.base, "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0, "ignore_eos": True, **fields}
    return e.http.post("/v1/completions", json=body, headers=headers or {})


def metric(e, name, **labels):
    wanted = "".join(sorted(f'{k}="{v}"' for k, v in labels.items()))
    for line in e.http.get("/metrics").text.splitlines():
        head, _, value = line.rpartition(" ")
        label = head.partition("{")[2].rstrip("}")
        if head.partition("{")[0] == name and "".join(sorted(label.split(","))) == wanted:
            return float(value)
    return 0.0


class Busy:
    """N streams that go on until the block is left."""

    def __init__(self, e, n, headers=None):
        self.e, self.stop, self.begun = e, threading.Event(), threading.Semaphore(0)
        self.threads = [threading.Thread(target=self.run, args=(i, headers or {})) for i in range(n)]

    def run(self, i, headers):
        body = {"model": self.e.base, "prompt": f"Story {i}:", "max_tokens": 2000, "ignore_eos": True, "stream": True}
        with self.e.client() as c, c.stream("POST", "/v1/completions", json=body, headers=headers) as r:
            for n, _ in enumerate(r.iter_lines()):
                if n == 2:
                    self.begun.release()
                if self.stop.is_set():
                    return

    def __enter__(self):
        for t in self.threads:
            t.start()
        for _ in self.threads:
            assert self.begun.acquire(timeout=60)
        return self

    def __exit__(self, *_):
        self.stop.set()
        for t in self.threads:
            t.join()


@pytest.mark.parametrize("name", ["interactive", "normal", "batch"])
def test_every_class_is_served_and_counted(engine, name):
    before = metric(engine, "weft_queue_wait_seconds_count", **{"class": name})
    assert ask(engine, {"X-Weft-Class": name}).status_code == 200
    assert metric(engine, "weft_queue_wait_seconds_count", **{"class": name}) == before + 1


def test_without_a_class_a_request_is_normal(engine):
    before = metric(engine, "weft_queue_wait_seconds_count", **{"class": "normal"})
    assert ask(engine).status_code == 200
    assert metric(engine, "weft_queue_wait_seconds_count", **{"class": "normal"}) == before + 1


@pytest.mark.parametrize("name", ["Interactive", "urgent", "0", "normal,batch"])
def test_an_unknown_class_is_refused_by_name(engine, name):
    r = ask(engine, {"X-Weft-Class": name})
    assert r.status_code == 400
    assert error_of(r)["param"] == "X-Weft-Class" and name in error_of(r)["message"]


def test_answers_do_not_depend_on_the_class(engine):
    texts = {ask(engine, {"X-Weft-Class": c}).json()["choices"][0]["text"] for c in ("interactive", "normal", "batch")}
    assert len(texts) == 1


def test_interactive_takes_the_place_of_batch_which_goes_on_later(start):
    e = start("--max-running", "2", "--speculate", "0")
    with Busy(e, 2, {"X-Weft-Class": "batch"}):
        assert ask(e, {"X-Weft-Class": "interactive"}).status_code == 200
        state = e.state()
        assert state["steps"]["yields"] >= 1 and metric(e, "weft_yields_total", reason="class") >= 1
        for _ in range(100):  # it has its place again
            if e.state()["running"] == 2:
                break
            time.sleep(0.05)
        assert e.state()["running"] == 2
    e.assert_idle()


def test_a_deadline_that_the_queue_can_not_meet_is_refused_before_it_is_over(start):
    e = start("--max-running", "1", "--speculate", "0")
    long = {"prompt": [5] * 3000, "max_tokens": 2000}
    for _ in range(3):
        assert ask(e, max_tokens=20).status_code == 200  # steps to learn from
    threads = [threading.Thread(target=lambda: ask(e, **{**long, "max_tokens": 1})) for _ in range(6)]
    for t in threads:
        t.start()
    for _ in range(200):
        if e.state()["waiting"] >= 5:
            break
        time.sleep(0.01)
    t0 = time.monotonic()
    r = ask(e, {"X-Weft-Deadline-Ms": "20"}, **long)
    took = time.monotonic() - t0
    left = e.state()["waiting"]
    assert r.status_code == 503 and error_of(r)["code"] == "deadline"
    assert int(r.headers["Retry-After"]) >= 1 and "expected in" in error_of(r)["message"]
    assert left >= 1, took  # it was not the queue's end that told
    assert metric(e, "weft_refused_total", code="deadline") == 1
    for t in threads:
        t.join()
    assert ask(e, {"X-Weft-Deadline-Ms": "60000"}).status_code == 200
    e.assert_idle()


def test_the_model_of_steps_is_visible(engine):
    assert ask(engine, max_tokens=40).status_code == 200
    cost = engine.state()["cost"]
    assert cost["step"] >= 0 and cost["prefill_row"] >= 0 and cost["error"] > 0
    assert metric(engine, "weft_step_estimated_seconds_count") == metric(engine, "weft_step_seconds_count")
    assert metric(engine, "weft_step_cost_us", term="step") >= 0
    assert 0 <= engine.state()["pages"]["waste"] < 1


# --- the trace ---


def nested(events):
    """Spans of a track are apart or one within the other."""
    for key in {(e["pid"], e["tid"]) for e in events}:
        spans = sorted(((e["ts"], -e["dur"]) for e in events if (e["pid"], e["tid"]) == key))
        stack = []
        for ts, dur in spans:
            while stack and stack[-1] <= ts:
                stack.pop()
            assert not stack or ts - dur <= stack[-1], (key, ts, -dur, stack)
            stack.append(ts - dur)


def test_a_trace_becomes_a_file_for_chrome(start, tmp_path):
    e = start(unix=True)
    digest = e.load("pirate")
    with Busy(e, 3):
        for i in range(4):
            assert ask(e, {"X-Weft-Request-Id": f"traced-{i}"}, model=digest if i % 2 else e.base).status_code == 200
        out = tmp_path / "trace.json"
        r = run_program("trace", str(out), "--socket", str(e.socket))
        assert r.returncode == 0, r.stderr
    events = json.loads(out.read_text())
    spans = [v for v in events if v["ph"] == "X"]
    nested(spans)
    assert all(v["dur"] >= 0 and v["ts"] >= 0 for v in spans)
    steps = [v for v in spans if v["name"] == "step"]
    assert len(steps) > 8 and any(v["args"]["decode_rows"] >= 3 for v in steps)
    assert {"plan", "forward", "sample", "emit"} >= {v["name"] for v in spans if v["pid"] == 1 and v["cat"] == "phase"} >= {"forward"}
    mine = [v for v in spans if v["cat"] == "request" and v["name"].startswith("traced-")]
    assert len(mine) == 4
    for m in mine:
        inner = [v["name"] for v in spans if v["pid"] == 2 and v["tid"] == m["tid"] and v["cat"] == "phase"
                 and m["ts"] <= v["ts"] and v["ts"] + v["dur"] <= m["ts"] + m["dur"]]
        assert {"queued", "prefill", "decode"} <= set(inner)
    e.assert_idle()


def test_the_trace_over_tcp_asks_for_the_token(start, tmp_path):
    e = start()
    assert ask(e).status_code == 200
    out, token = tmp_path / "t.json", str(e.folder / "token")
    assert run_program("trace", str(out), "--url", e.url).returncode == 4 and not out.exists()
    assert run_program("trace", str(out), "--url", e.url, "--token-file", token).returncode == 0
    assert run_program("trace", str(out), "--url", e.url + "/", "--token-file", token).returncode == 0
    assert isinstance(json.loads(out.read_text()), list)


def test_a_trace_goes_into_a_pipe_that_stands_in_its_place(engine, tmp_path):
    assert ask(engine).status_code == 200
    pipe, token, got = tmp_path / "t.json", str(engine.folder / "token"), []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)  # nobody else opens it if the pipe is replaced
    reader.start()
    assert run_program("trace", str(pipe), "--url", engine.url, "--token-file", token).returncode == 0
    reader.join(10)
    assert pipe.is_fifo() and isinstance(json.loads(got[0]), list)


def test_without_a_trace_there_is_none(start, tmp_path):
    e = start("--trace-steps", "0")
    assert ask(e).status_code == 200
    assert e.http.get("/weft/v1/trace").status_code == 404


@pytest.mark.parametrize("args", [[], ["out"], ["out", "--socket", "a", "--url", "b"], ["--socket", "a"]], ids=" ".join)
def test_bad_arguments_of_trace_exit_2(args):
    assert run_program("trace", *args).returncode == 2


def test_a_trace_of_nobody_exits_4_and_leaves_no_file(tmp_path):
    out = tmp_path / "t.json"
    r = run_program("trace", str(out), "--socket", str(tmp_path / "none.sock"))
    assert r.returncode == 4 and r.stderr.strip() and list(tmp_path.iterdir()) == []
