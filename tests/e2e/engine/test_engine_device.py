"""An engine on a device, whose kernels run on the CPU (build/release/simt/weft-cuda.so): same answers, and clean ends."""

import os
import re
import subprocess

import pytest

from engine_process import PROGRAM, TOP, Engine, adapter_digest, run_program

LIBRARY = TOP / "build/release/simt/weft-cuda.so"
FAMILIES = TOP / "tests/golden/families"
PROMPTS = [[5, 9, 17, 33, 20], list(range(30, 61)), [7] * 3 + [11, 12, 13]]
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY} is not built")


def run(folder, family, device, *args, env=None, **kw):
    env = {"WEFT_DEVICE_LIB": str(LIBRARY), **(env or {})}
    return Engine(folder, "--device", device, "--max-running", "4", "--step-tokens", "64", "--kv-mb", "4", "--adapter-mb", "8",
                  "--max-slots", "4", "--max-rank", "64", "--threads", "1", *args, unix=True, model=FAMILIES / family, store=FAMILIES, env=env, **kw)


def ask(e, model, prompt, **more):
    r = e.http.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": 6, "temperature": 0, "ignore_eos": True,
                                             "return_token_ids": True, **more})
    assert r.status_code == 200, r.text
    return r.json()["choices"][0]["token_ids"]


def answers(e, family):
    base = e.http.get("/v1/models").json()["data"][0]["id"]
    folder = FAMILIES / family / "adapter"
    digest = adapter_digest(folder, e.state()["base"]["digest"])
    r = e.http.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(folder)})
    assert r.status_code == 200, r.text
    return [ask(e, n, p) for n in (base, digest) for p in PROMPTS]


@pytest.mark.parametrize("family", ["llama3", "qwen2", "mixtral", "gemma3"])
def test_answers_are_those_of_the_cpu(tmp_path, family):
    cpu = run(tmp_path / "cpu", family, "cpu")
    want = answers(cpu, family)
    assert cpu.state()["device"] == {"backend": "cpu"}
    assert cpu.terminate() == 0
    e = run(tmp_path / "device", family, "cuda")
    got = answers(e, family)
    d = e.state()["device"]
    assert d["backend"] == "cuda" and d["ranks"] == 1 and d["graphs"] > 0 and d["replays"] > 0
    assert "event=device_plan" in e.log.read_text()
    assert e.terminate() == 0
    same = sum(a == b for x, y in zip(want, got) for a, b in zip(x, y))
    assert same >= 0.5 * sum(map(len, want)), (want, got)  # random weights: near ties, and a token that differs changes all behind it


def test_adapters_can_be_columns_of_products(tmp_path):
    off = run(tmp_path / "off", "llama3", "cuda", env={"WEFT_AUGMENT": "off"})
    want = answers(off, "llama3")
    assert "event=augment" not in off.log.read_text()
    assert off.terminate() == 0
    on = run(tmp_path / "on", "llama3", "cuda", env={"WEFT_AUGMENT": "on"})
    got = answers(on, "llama3")
    line = next(x for x in on.log.read_text().splitlines() if "event=augment" in x)
    assert "rank=16" in line and "taken=0" not in line
    assert on.terminate() == 0
    same = sum(a == b for x, y in zip(want, got) for a, b in zip(x, y))
    assert same >= 0.5 * sum(map(len, want)), (want, got)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ids_that_pad_the_embedding_are_never_sampled(tmp_path, device):
    """The family has 272 rows for 267 tokens; who chooses, the device or the host, says what can be chosen."""
    e = run(tmp_path, "llama3", device, "--speculate", "0")
    base = e.http.get("/v1/models").json()["data"][0]["id"]
    wish = {str(i): 100 for i in range(267, 272)}
    for p in PROMPTS:
        assert max(ask(e, base, p, logit_bias=wish)) < 267
        for more in ({"temperature": 2, "seed": 3}, {"temperature": 0}):
            plain, told = ask(e, base, p, max_tokens=40, **more), ask(e, base, p, max_tokens=40, logprobs=1, **more)
            assert max(plain + told) < 267
            assert plain == told, "a token is another one where its log-probability is asked for"
    assert e.terminate() == 0


def test_what_was_timed_at_start_is_logged(tmp_path):
    e = run(tmp_path, "llama3", "cuda", "--step-tokens", "16", env={"WEFT_SIMT_TIMED": "1"})
    line = next(x for x in e.log.read_text().splitlines() if "event=device_measured" in x)
    assert "bf16:" in line
    assert e.state()["cost"]["step"] > 0
    assert e.terminate() == 0


def test_steps_follow_each_other_and_change_no_answer(tmp_path):
    seen = {}
    for follow in ("false", "true"):
        e = run(tmp_path / follow, "llama3", "cuda", "--device-follow", follow, "--speculate", "0", env={"WEFT_SIMT_STREAMS": "1"})
        base = e.http.get("/v1/models").json()["data"][0]["id"]
        got = [ask(e, base, p, max_tokens=20, seed=7, temperature=t) for p in PROMPTS for t in (0, 0.8)]
        got += [ask(e, base, PROMPTS[0], max_tokens=20, stop_token_ids=[got[0][5]]), ask(e, base, PROMPTS[1], max_tokens=20)]
        assert len(got[-2]) == got[0].index(got[0][5]) + 1
        m = {n: float(v) for n, v in re.findall(r"^(\S+) (\S+)$", e.http.get("/metrics").text, re.M)}
        seen[follow] = got, m["vllm:generation_tokens_total"]
        assert (m["weft_steps_followed_total"] > 60) == (follow == "true"), m
        assert (m["weft_rows_discarded_total"] > 0) == (follow == "true"), m
        assert e.terminate() == 0
    assert seen["true"] == seen["false"]


def test_a_device_that_is_not_there_exits_4_with_the_reason(tmp_path):
    for device, env in (("cuda:5", {}), ("cuda", {"WEFT_DEVICE_LIB": "/nowhere.so"}), ("cuda", {"WEFT_SIMT_MB": "1"})):
        r = subprocess.run([PROGRAM, "serve", "--model", str(FAMILIES / "llama3"), "--socket", str(tmp_path / "e.sock"), "--device", device],
                           capture_output=True, text=True, timeout=60, env={**os.environ, "WEFT_DEVICE_LIB": str(LIBRARY), **env})
        assert r.returncode == 4 and "event=refused" in r.stderr, r.stderr


def test_auto_takes_the_cpu_where_no_device_answers(tmp_path):
    e = run(tmp_path, "llama3", "auto", env={"WEFT_SIMT_DEVICES": "0"})
    assert e.state()["device"] == {"backend": "cpu"} and "event=device device=cpu why=" in e.log.read_text()
    assert e.terminate() == 0


def test_auto_takes_the_device_that_answers(tmp_path):
    e = run(tmp_path, "llama3", "auto")
    assert e.state()["device"]["backend"] == "cuda"
    assert e.terminate() == 0


def test_a_device_that_fails_ends_the_engine_with_4(tmp_path):
    e = run(tmp_path, "llama3", "cuda", env={"WEFT_SIMT_FAULT": "op:60"})
    base = e.http.get("/v1/models").json()["data"][0]["id"]
    r = e.http.post("/v1/completions", json={"model": base, "prompt": PROMPTS[0], "max_tokens": 50, "ignore_eos": True})
    assert r.status_code == 503, r.text
    assert e.process.wait(20) == 4
    assert "event=device_failed" in e.log.read_text() and "a test asked for this fault" in e.log.read_text()


@pytest.mark.parametrize("args", [["--device", "cuda", "--precision", "exact"], ["--device", "cpu", "--tp", "2"], ["--device", "cuda:x"]])
def test_what_no_device_does_is_refused(args):
    r = run_program("serve", "--model", "x", "--socket", "y", *args)
    assert r.returncode == 2 and r.stderr.strip()
