"""Packed copies of the base: a second start maps what the first wrote, and answers the same; whatever happens to the folder costs time only."""

import json
import os
import resource
import signal
import subprocess
import time

import pytest

from engine_process import MODEL, PROGRAM

ASK = {"prompt": "The capital of France is", "max_tokens": 24, "temperature": 0, "logprobs": 2, "ignore_eos": True}


def answer(e):
    r = e.http.post("/v1/completions", json={"model": e.base, **ASK})
    assert r.status_code == 200, r.text
    c = r.json()["choices"][0]
    return c["text"], json.dumps(c["logprobs"])


def copies(folder):
    return sorted(p for p in folder.iterdir() if p.suffix == ".weft") if folder.exists() else []


def left_over(folder):
    return [p.name for p in folder.iterdir() if p.suffix != ".weft" and p.name != "sums"]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def one(start, cache):
    """A first start whose copy is written; what it answered."""
    e = start("--cache", str(cache))
    said, state = answer(e), e.state()
    e.logged("cache_written", "bytes")
    e.close()
    return said, state


def check_same(e, one, weights):
    state = e.state()
    assert answer(e) == one[0]
    assert state["base"] == one[1]["base"] and state["fingerprint"] == one[1]["fingerprint"]
    assert state["memory"]["weights"]["from"] == weights, e.log.read_text()
    e.assert_idle()


def test_a_second_start_maps_the_copy_and_answers_the_same(start, cache, one):
    assert one[1]["memory"]["weights"]["from"] == "packed" and len(copies(cache)) == 1 and left_over(cache) == []
    e = start("--cache", str(cache))
    check_same(e, one, "copy")
    moved = int(e.logged("weights_moved", "bytes"))
    w = e.state()["memory"]["weights"]
    assert w["huge"] + w["mapped"] == w["bytes"] and w["huge"] == min(moved, w["bytes"])
    assert answer(e) == one[0]
    shared = start("--cache", str(cache), "--share-weights", "true")
    check_same(shared, one, "copy")
    w = shared.state()["memory"]["weights"]
    assert w["mapped"] == w["bytes"] == one[1]["weight_bytes"] and "weights_moved" not in shared.log.read_text()


def test_another_precision_is_another_copy(start, cache, one):
    e = start("--cache", str(cache), "--precision", "exact", "--max-context", "256")
    assert e.state()["memory"]["weights"]["from"] == "packed"


def test_without_a_folder_nothing_is_written(start, tmp_path):
    for args in ((), ("--cache", ""), ("--cache", str(tmp_path / "c"), "--cache-mb", "0")):
        e = start(*args)
        assert e.state()["memory"]["weights"]["from"] == "packed"
    assert not (tmp_path / "c").exists()


def test_the_plan_is_told(start):
    e = start("--kv-mb", "64", "--adapter-mb", "300")
    m = e.state()["memory"]
    assert m["weights"]["bytes"] == e.state()["weight_bytes"] and 0 < m["kv"] <= 64 << 20 and 0 < m["logits"] < m["workspace"]
    assert m["adapters"] == {"max": 300 << 20, "resident": 0}
    for field, want in (("weights", m["weights"]["bytes"]), ("kv", m["kv"]), ("workspace", m["workspace"]), ("logits", m["logits"]), ("adapters", 300 << 20)):
        assert int(e.logged("memory_plan", field)) == want
    e.load("pirate")
    assert e.state()["memory"]["adapters"]["resident"] == e.state()["slots"]["bytes"] > 0
    e.assert_idle()


def damaged(raw, at):
    raw[at] ^= 1
    return raw


@pytest.mark.parametrize("what", ["a bit in the middle", "cut", "of another version", "empty", "a folder in its place", "a pipe in its place"])
def test_a_damaged_copy_is_not_served_and_replaced(start, cache, one, what):
    path = copies(cache)[0]
    raw = bytearray(path.read_bytes())
    if what == "a folder in its place":
        path.unlink()
        path.mkdir()
    elif what == "a pipe in its place":
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes({"a bit in the middle": damaged(raw, len(raw) // 2), "cut": raw[:-1], "of another version": damaged(raw, 8), "empty": b""}[what])
    e = start("--cache", str(cache))
    check_same(e, one, "packed")
    assert "cache_refused" in e.log.read_text()
    if what != "a folder in its place":
        e.logged("cache_written", "bytes")
        check_same(start("--cache", str(cache)), one, "copy")


def test_a_folder_that_others_may_write_to_is_not_used(start, cache, one):
    os.chmod(cache, 0o777)
    e = start("--cache", str(cache))
    check_same(e, one, "packed")
    assert "no_cache" in e.log.read_text() and "others may write" in e.log.read_text()


def test_a_folder_that_cannot_be_made_is_said_and_the_engine_starts(start, tmp_path):
    e = start("--cache", str(tmp_path / "no" / "such" / "folder"))
    assert answer(e) and "no_cache" in e.log.read_text()


def test_two_engines_that_start_at_once_answer_the_same_and_leave_one_copy(start, cache):
    a = start("--cache", str(cache), ready=False)
    b = start("--cache", str(cache), ready=False)
    a.wait_ready(), b.wait_ready()
    assert answer(a) == answer(b)
    for e in (a, b):
        if e.state()["memory"]["weights"]["from"] == "packed":
            e.logged("cache_written", "bytes")
    assert len(copies(cache)) == 1 and left_over(cache) == []
    c = start("--cache", str(cache))
    assert c.state()["memory"]["weights"]["from"] == "copy" and answer(c) == answer(a)


@pytest.mark.parametrize("delay", [0, 0.02, 0.05, 0.1])
def test_killed_while_it_writes_it_leaves_no_half_copy(start, cache, delay):
    e = start("--cache", str(cache))
    said = answer(e)
    f = start("--cache", str(cache) + "2")
    time.sleep(delay)
    f.process.send_signal(signal.SIGKILL)
    f.process.wait()
    second = cache.parent / "cache2"
    assert left_over(second) == []
    again = start("--cache", str(second))
    assert answer(again) == said


def test_a_full_disk_is_said_and_the_engine_serves(start, cache, tmp_path):
    log = open(tmp_path / "log", "wb")

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40 << 20, 40 << 20))
    p = subprocess.Popen([PROGRAM, "serve", "--model", MODEL, "--socket", str(tmp_path / "s"), "--cache", str(cache), "--orphan-s", "20"], stderr=log, preexec_fn=limit)
    end = time.monotonic() + 60
    while "cache_not_written" not in (text := (tmp_path / "log").read_text()) and time.monotonic() < end and p.poll() is None:
        time.sleep(0.02)
    assert "cache_not_written" in text and "event=ready" in text and p.poll() is None, text
    p.terminate()
    assert p.wait(30) == 0
    assert copies(cache) == [] and left_over(cache) == []


def test_a_cache_that_is_too_small_is_said(start, cache):
    e = start("--cache", str(cache), "--cache-mb", "50")
    e.logged("cache_not_written", "why")
    assert copies(cache) == [] and answer(e)


def test_stopping_does_not_wait_for_a_copy(start, cache):
    for _ in range(3):
        e = start("--cache", str(cache))
        assert e.terminate() == 0
        assert left_over(cache) == []
