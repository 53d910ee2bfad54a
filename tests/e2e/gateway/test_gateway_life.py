"""Supervision and restarts, with the fake engine: who lives on, who is adopted, who is replaced, and one usage row per request through kill -9."""

import os
import signal
import subprocess
import threading
import time

import httpx
import pytest

from gateway_process import BASE, FAKE, events, until
from test_gateway_exchange import stream


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def test_an_engine_survives_its_gateway_and_is_adopted(start):
    g = start(fake=True)
    t = g.tenant("acme")
    pid = g.engine_pid()
    g.kill()
    assert alive(pid)
    g.start()
    assert g.engine_pid() == pid and t.ask("tokens=2").status_code == 200


def test_a_clean_stop_ends_the_engine_unless_it_is_kept(start):
    g = start(fake=True)
    pid = g.engine_pid()
    g.stop()
    until(lambda: not alive(pid), what="the engine's end")
    g.args.append("--engine-keep=true")
    g.start()
    pid = g.engine_pid()
    g.stop()
    assert alive(pid)
    g.start()
    assert g.engine_pid() == pid


def test_an_engine_with_other_settings_is_replaced(start):
    g = start(fake=True)
    pid = g.engine_pid()
    g.kill()
    g.args += ["--max-slots", "5"]
    g.start(ready=False)
    until(lambda: not alive(pid), what="the old engine's end")
    assert until(g.engine_pid) != pid


@pytest.mark.parametrize("what", ["environment", "file"])
def test_an_engine_that_would_answer_otherwise_is_replaced(start, tmp_path, what):
    """What the gateway has no setting for reaches the engine by the environment; a base may be a folder, and a file in it be written over."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    g = start(fake=True, model=folder)
    pid = g.engine_pid()
    g.kill()
    g.start()
    assert g.engine_pid() == pid
    g.kill()
    if what == "file":
        (folder / "config.json").write_text('{"rope_scaling": null}')
    else:
        g.env["WEFT_KV_WINDOW"] = "512"
    g.start(ready=False)
    until(lambda: not alive(pid), what="the old engine's end")
    assert until(g.engine_pid) != pid and "event=engine_replaced" in g.log.read_text()


def test_a_pid_file_that_names_somebody_else_harms_nobody(start):
    g = start(fake=True)
    g.stop()
    bystander = os.fork()
    if bystander == 0:
        time.sleep(60)
        os._exit(0)
    try:
        for path in (g.data / "run").glob("*.sock"):
            path.unlink()
        for name in ("engine", f"engine-{BASE}"):  # whichever the gateway looks for
            (g.data / f"run/{name}.sock.pid").write_text(f"{bystander} 12345 {'a' * 64}\n")
        g.start()
        assert g.engine_pid() != bystander and alive(bystander)
    finally:
        os.kill(bystander, signal.SIGKILL)
        os.waitpid(bystander, 0)


def test_an_engine_that_dies_is_started_again_and_again_with_pauses(start):
    g = start(fake=True)
    t = g.tenant("acme")
    for _ in range(3):
        pid = g.kill_engine()
        until(lambda: (p := g.engine_pid()) and p != pid, what="a new engine")
    answer = t.ask("tokens=1")
    assert answer.status_code == 200, answer.text + g.tail()
    pauses = [int(l.split("retry_ms=")[1].split()[0]) for l in g.log.read_text().splitlines() if "event=engine_down" in l]
    assert pauses == [250, 500, 1000]


def test_a_model_that_the_engine_refuses_ends_the_start_and_is_no_restart_loop(start, tmp_path):
    (tmp_path / "refused.gguf").write_bytes(b"x")
    g = start(fake=True, model=tmp_path / "refused.gguf", ready=False)
    assert g.process.wait(10) == 3
    assert g.log.read_text().count("event=engine_spawned") == 1


def test_a_gateway_killed_under_load_has_one_row_per_request_and_none_twice(start):
    g = start(fake=True)
    t = g.tenant("acme")
    assert t.upload("sql").status_code == 201
    seen, lock = {}, threading.Lock()

    def one(i):
        body = {"model": "sql" if i % 2 else "smollm2-135m-instruct", "stream": True, "messages": [{"role": "user", "content": "tokens=40 delay_ms=50"}]}
        got, request_id = 0, None
        try:
            with t.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
                request_id = r.headers.get("x-request-id")
                for line in r.iter_lines():
                    got += line.startswith("data:") and "[DONE]" not in line
        except Exception:
            pass
        with lock:
            seen[request_id] = got

    threads = [threading.Thread(target=one, args=(i,)) for i in range(20)]
    [x.start() for x in threads]
    time.sleep(1.6)
    g.kill()
    [x.join() for x in threads]
    g.start()
    rows = until(lambda: len(t.usage_rows()) >= 20 and t.usage_rows(), what="20 rows")
    assert len(rows) == 20 and {x["id"] for x in rows} == set(seen)
    for row in rows:
        assert row["state"] == "gateway_crash"
        # Never more than was sent; at most one second of tokens below (a note every second).
        assert row["output_tokens"] <= seen[row["id"]] and row["output_tokens"] >= seen[row["id"]] - 30, (row["output_tokens"], seen[row["id"]])
    assert t.ask("tokens=2", model="sql").status_code == 200


def test_a_clean_stop_lets_streams_finish(start):
    g = start(fake=True)
    t = g.tenant("acme")
    result = {}
    thread = threading.Thread(target=lambda: result.update(r=stream(t, "tokens=10 delay_ms=100")))
    thread.start()
    until(lambda: g.engine_state()["running"] == 1)
    g.stop()
    thread.join()
    chunks, done = events(result["r"][1])
    assert done and len(chunks) == 10


def test_a_stream_that_outlasts_the_drain_ends_in_an_error_event_and_is_not_the_clients_abort(start):
    g = start("--drain-ms", "300", fake=True)
    t = g.tenant("acme")
    result = {}
    thread = threading.Thread(target=lambda: result.update(r=stream(t, "tokens=200 delay_ms=100")))
    thread.start()
    until(lambda: g.engine_state()["running"] == 1)
    g.stop()
    thread.join()
    r, lines = result["r"]
    chunks, done = events(lines)
    assert not done and "shutting down" in chunks[-1]["error"]["message"]
    g.start()
    row = t.usage(r.headers["x-request-id"])
    assert row["state"] == "upstream_error" and row["output_tokens"] <= len(chunks) - 1


def test_with_durable_acknowledgement_the_row_is_there_when_the_answer_ends(start):
    g = start("--ack", "durable", fake=True)
    t = g.tenant("acme")
    for _ in range(5):
        r = t.ask("tokens=3")
        assert [x["output_tokens"] for x in t.usage_rows() if x["id"] == r.headers["x-request-id"]] == [3]
        r, lines = stream(t, "tokens=4")
        assert events(lines)[1]
        assert [x["output_tokens"] for x in t.usage_rows() if x["id"] == r.headers["x-request-id"]] == [4]


def test_strict_refuses_fields_that_are_not_known(start):
    g = start("--strict=true", fake=True)
    t = g.tenant("acme")
    r = t.ask("x", whatever=1)
    assert r.status_code == 400 and r.json()["error"]["param"] == "whatever"
    assert t.ask("x", temperature=0, user="u").status_code == 200


def test_an_engine_elsewhere_is_used_lost_and_found_again(start, tmp_path):
    def engine(port):
        p = subprocess.Popen([FAKE, "serve", "--listen", f"127.0.0.1:{port}", "--token-file", tmp_path / "token"], stdout=subprocess.PIPE, text=True)
        return p, int(p.stdout.readline().split()[1])

    (tmp_path / "token").write_text("secret-of-the-engine\n")
    process, port = engine(0)
    try:
        g = start("--engine-url", f"http://127.0.0.1:{port}", "--engine-token-file", tmp_path / "token", fake=True, ready=False)
        t = g.tenant("acme")
        assert t.upload("sql").status_code == 201
        assert t.ask("tokens=2", model="sql").status_code == 200
        with httpx.Client() as c:
            log = c.get(f"http://127.0.0.1:{port}/fake/log").json()["log"]
        assert log[-1]["headers"]["authorization"] == "Bearer secret-of-the-engine"
        process.kill()
        process.wait()
        replaced = threading.Timer(1, lambda: again.append(engine(port)[0]))
        again = []
        replaced.start()
        assert t.ask("tokens=2", model="sql").status_code == 200  # waited for it
        replaced.join()
        process = again[0]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("asked", ["whole", "stream"])
def test_what_a_client_was_told_to_be_complete_is_in_the_ledger_whatever_dies_next(start, asked):
    g = start(fake=True)
    t = g.tenant("acme")
    told = {}
    for tokens in range(2, 7):
        if asked == "whole":
            r = t.ask(f"tokens={tokens}")
        else:
            r, lines = stream(t, f"tokens={tokens} burst={tokens}")
            assert events(lines)[1]
        g.kill()
        told[r.headers["x-request-id"]] = tokens
        g.start()
    rows = t.usage_rows()
    assert {x["id"]: x["output_tokens"] for x in rows} == told and {x["state"] for x in rows} == {"completed"}


def test_a_stream_whose_reader_stops_before_its_end_is_billed_for_what_it_took_and_frees_its_place(start):
    g = start("--stream-buffer", "1m", fake=True)
    t = g.tenant("acme")
    with t.http() as c, c.stream("POST", "/v1/chat/completions", json={"model": BASE, "stream": True, "max_tokens": 4096, "messages": [
            {"role": "user", "content": "tokens=60 burst=60 bytes=16000"}]}) as r:
        request_id = r.headers["x-request-id"]
        next(r.iter_lines())
        until(lambda: g.engine_state()["running"] == 0, what="the engine's end")
    row = t.usage(request_id)
    assert row["state"] in ("completed", "client_abort") and row["output_tokens"] <= 60
    assert t.ask("tokens=1").status_code == 200
