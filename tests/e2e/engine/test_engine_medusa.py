"""Medusa heads beside the demo base: answers are those without them, whatever the heads are; what can't go with them is refused; their metrics tell what they did."""

import array
import json
import random
import re
import struct
import subprocess

import pytest
from engine_process import DEMO, MODEL, PROGRAM, Engine

HIDDEN, HEADS = 576, 3
PROMPTS = ["The capital of France is", "Once upon a time there was a small dragon who", "def add(a, b):"]
TRAINED = DEMO / "medusa"


def write_heads(folder, seed=1, **config):
    """Residual blocks by chance: small ones leave the base's own guess standing, so some guesses are right."""
    folder.mkdir()
    header, data, r = {}, b"", random.Random(seed)
    for k in range(HEADS):
        for name, shape in ((f"{k}.0.linear.weight", [HIDDEN, HIDDEN]), (f"{k}.0.linear.bias", [HIDDEN])):
            n = shape[0] * (shape[1] if len(shape) > 1 else 1)
            values = array.array("f", [r.uniform(-0.05, 0.05) for _ in range(n)]).tobytes()
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
            data += values
    text = json.dumps(header).encode()
    (folder / "medusa_lm_head.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "config.json").write_text(json.dumps({"medusa_num_heads": HEADS, "medusa_num_layers": 1, **config}))
    return folder


def answers(engine, model, **kw):
    with engine.openai() as client:
        return [client.completions.create(**{"model": model, "prompt": p, "max_tokens": 40, "temperature": 0, "extra_body": {"return_token_ids": True}, **kw}).choices[0].token_ids
                for p in PROMPTS]


def counted(engine, name):
    return sum(float(v) for v in re.findall(rf"^{name}(?:\{{.*\}})? ([0-9.e+]+)$", engine.http.get("/metrics").text, re.M))


@pytest.mark.parametrize("nodes", [3, 8])
def test_answers_are_those_without_heads(tmp_path, nodes):
    heads = write_heads(tmp_path / "heads", medusa_accuracy=[[0.4, 0.3, 0.2], [0.4, 0.3], [0.3]])
    asked = {}
    for name, args in {"without": [], "with": ["--medusa", str(heads), "--medusa-nodes", str(nodes)]}.items():
        e = Engine(tmp_path / name, "--device", "cpu", *args)
        adapter = e.load("triage")
        asked[name] = [answers(e, e.base), answers(e, adapter), answers(e, e.base, temperature=1, seed=5)]
        asked[name + " heads"] = counted(e, "weft_medusa_asked_total")
        e.close()
    assert asked["with"] == asked["without"]
    assert asked["with heads"] > 0 and asked["without heads"] == 0


def test_trained_heads_of_the_demo_are_often_right(tmp_path):
    """Of what was asked of them, and not by chance: one of 3,104 tokens."""
    e = Engine(tmp_path / "e", "--device", "cpu", "--medusa", str(TRAINED))
    with e.openai() as client:
        for ask in ("Explain rain to a child.", "List five facts about owls.", "Write a letter to a friend about a garden."):
            client.chat.completions.create(model=e.base, messages=[{"role": "user", "content": ask}], max_tokens=64, temperature=0)
    asked, right = (float(re.search(rf'^weft_medusa_{w}_total{{head="1"}} (\d+)', e.http.get("/metrics").text, re.M).group(1)) for w in ("asked", "right"))
    e.close()
    assert asked >= 20 and right > asked / 10, f"{right} of {asked}"


@pytest.mark.parametrize("args, code, told", [
    (["--medusa", "NOWHERE"], 3, "cannot open"),
    (["--medusa", "HEADS", "--draft-model", MODEL], 2, "either --medusa or --draft-model"),
    (["--medusa", "HEADS", "--medusa-nodes", "9"], 2, "medusa_nodes"),
    (["--medusa", "OTHER"], 3, "hidden size 577"),
])
def test_what_does_not_go_together_is_refused(tmp_path, args, code, told):
    places = {"HEADS": str(write_heads(tmp_path / "heads")), "OTHER": str(write_heads(tmp_path / "other", hidden_size=577)), "NOWHERE": str(tmp_path / "nowhere")}
    done = subprocess.run([PROGRAM, "serve", "--model", MODEL, "--device", "cpu", "--socket", str(tmp_path / "s"), *[places.get(a, a) for a in args]],
                          capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == code and told in done.stderr
