"""Engines whose model is shared by several devices (--tp), their kernels on the CPU: one device's answers, and clean ends."""

import os
import subprocess

import pytest

from engine_process import PROGRAM
from test_engine_device import FAMILIES, LIBRARY, PROMPTS, answers, run

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} is not built")


@pytest.mark.parametrize("family, tp", [("llama3", 2), ("qwen2", 4), ("mixtral", 2), ("llama-head", 4)])
def test_a_group_answers_as_one_device(tmp_path, family, tp):
    one = run(tmp_path / "one", family, "cuda")
    want = answers(one, family)
    assert one.terminate() == 0
    e = run(tmp_path / "group", family, "cuda", "--tp", str(tp), env={"WEFT_SIMT_DEVICES": str(tp)})
    got = answers(e, family)
    d = e.state()["device"]
    assert d["ranks"] == tp and d["replays"] > 0
    assert answers(e, family) == got
    assert e.terminate() == 0
    same = sum(a == b for x, y in zip(want, got) for a, b in zip(x, y))
    assert same >= 0.5 * sum(map(len, want)), (want, got)  # random weights: near ties, and a token that differs changes all behind it


@pytest.mark.parametrize("tp, there, why", [(3, 3, "q_proj: 4 times 16 outputs can't be shared by 3 devices"),
                                            (2, 1, "devices 0 to 1 were asked for, 1 are there")])
def test_what_no_group_can_share_is_refused_with_the_reason(tmp_path, tp, there, why):
    r = subprocess.run([PROGRAM, "serve", "--model", str(FAMILIES / "llama3"), "--socket", str(tmp_path / "e.sock"), "--device", "cuda", "--tp", str(tp)],
                       capture_output=True, text=True, timeout=60, env={**os.environ, "WEFT_DEVICE_LIB": str(LIBRARY), "WEFT_SIMT_DEVICES": str(there)})
    assert r.returncode == 4 and why in r.stderr, r.stderr


@pytest.mark.parametrize("fault", ["op:60", "launch:3", "in:3"])
def test_one_device_of_a_group_that_fails_ends_the_engine_with_4(tmp_path, fault):
    e = run(tmp_path, "llama3", "cuda", "--tp", "2", env={"WEFT_SIMT_DEVICES": "2", "WEFT_SIMT_FAULT": fault, "WEFT_SIMT_FAULT_ON": "1",
                                                          "WEFT_SIMT_STREAMS": "1"})
    base = e.http.get("/v1/models").json()["data"][0]["id"]
    r = e.http.post("/v1/completions", json={"model": base, "prompt": PROMPTS[0], "max_tokens": 50, "ignore_eos": True})
    assert r.status_code == 503, r.text
    assert e.process.wait(20) == 4
    assert "event=device_failed" in e.log.read_text()
