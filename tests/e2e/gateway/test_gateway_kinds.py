"""Adapters of every kind that is served, each on the small base that it was trained on: upload, self-test, an answer as PEFT's, a chat; and what is
refused says why by name. Base, adapters and logits are the golden files of tests/golden."""

import json
import math
import shutil
import struct
from pathlib import Path

import pytest

from gateway_process import TOP, Gateway, until

ADAPTERS = TOP / "tests/golden/adapters"
FAMILIES = TOP / "tests/golden/families"
GOLDEN = json.loads((ADAPTERS / "golden.json").read_text())
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

MODULES = {
    "plain": DENSE, "rslora": ["q_proj", "down_proj"], "patterns": [m for m in DENSE if m != "k_proj"], "layers": ["q_proj", "v_proj", "up_proj"],
    "regex": ["q_proj", "o_proj", "gate_proj"], "all-linear": DENSE, "unsloth": DENSE, "infix": ["q_proj", "up_proj"], "dora": DENSE,
    "dora-rslora": ["q_proj", "o_proj", "down_proj", "lm_head"], "dora-old-names": ["v_proj", "gate_proj"], "alora": DENSE,
    "ends": ["q_proj", "embed_tokens", "lm_head"], "saved": ["q_proj", "embed_tokens", "lm_head"], "saved-old-names": ["q_proj", "lm_head"],
    "along": None, "tied-embed": ["v_proj", "embed_tokens"], "tied-both": None, "tied-saved": ["v_proj", "embed_tokens"], "tied-saved-both": None,
    "tied-loaded": None, "router": ["q_proj", "down_proj", "experts", "router"], "gate-up": ["gate_proj", "up_proj", "experts"],
    "experts": ["q_proj", "gate_proj", "up_proj", "down_proj", "experts"], "fused-dora": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"],
    "ends-loaded": ["q_proj", "embed_tokens", "lm_head"], "tied-embed-loaded": None, "tied-both-loaded": None, "tied-head-dora-loaded": None,
    "saved-and-lora": ["q_proj", "embed_tokens", "lm_head"],
}
KINDS = {"dora": "dora", "dora-rslora": "dora", "dora-old-names": "dora", "fused-dora": "dora", "tied-head-dora-loaded": "dora", "alora": "alora"}


def cases():
    """(case, logits of the last position of each prompt)"""
    data, at = (ADAPTERS / "golden.bin").read_bytes(), 0
    vocab, positions = GOLDEN["vocab"], GOLDEN["positions"]
    for c in GOLDEN["cases"]:
        last = []
        for _ in c["prompts"]:
            at += 4 * vocab * positions
            last.append(struct.unpack(f"<{vocab}f", data[at - 4 * vocab:at]))
        yield c, last
    assert at == len(data)


CASES = {c["name"]: (c, last) for c, last in cases()}


def top(logits, n):
    peak = max(logits)
    total = peak + math.log(sum(math.exp(x - peak) for x in logits))
    return sorted((x - total for x in logits), reverse=True)[:n]


class Served:
    def __init__(self, folder, model, *options):
        (folder / "t.jinja").write_text(TEMPLATE)
        self.gateway = Gateway(folder, "--precision", "exact", "--chat-template", str(folder / "t.jinja"), *options, model=model)
        self.tenant = self.gateway.tenant("solo")
        self.base = self.gateway.engine_state()["base"]["name"]
        self.uploaded = {}

    def upload(self, name, folder=None):
        if name not in self.uploaded:
            r = self.tenant.upload(name, folder or ADAPTERS / name)
            assert r.status_code == 201, r.text
            self.uploaded[name] = r.json()
        return self.uploaded[name]

    def post(self, path, **body):
        with self.tenant.http() as c:
            return c.post(path, json={"temperature": 0, **body})

    def logprobs(self, ids, n=20, **body):
        r = self.post("/v1/completions", prompt=ids, max_tokens=1, logprobs=n, add_special_tokens=False, return_token_ids=True, ignore_eos=True, **body)
        assert r.status_code == 200, r.text
        lp = r.json()["choices"][0]["logprobs"]
        return lp["token_logprobs"][0], sorted(lp["top_logprobs"][0].values(), reverse=True)

    def assert_as(self, prompts, last, tokens=None, **body):
        """tokens: how many the tokenizer has, where the embedding has more rows: those count in sums and are never chosen."""
        for ids, logits in zip(prompts, last):
            best, several = self.logprobs(ids, **body)
            want = top(logits, 20)
            behind = max(logits) - max(logits[:tokens])
            assert best == pytest.approx(want[0] - behind, abs=2e-4)
            assert all(min(abs(x - w) for w in want) < 3e-4 for x in several) and len(several) > 3  # names of half characters coincide

    def selftest(self, digest):
        with self.gateway.engine() as c:  # an upload is answered while the engine loads it
            until(lambda: c.post("/weft/v1/selftest", json={"digest": digest}, timeout=60).status_code != 404)
            r = c.post("/weft/v1/selftest", json={"digest": digest}, timeout=60)
        assert r.status_code == 200, r.text
        return r.json()


@pytest.fixture(scope="session")
def _served(tmp_path_factory):
    open_, made = {}, []

    def go(model):
        if model not in open_:
            open_[model] = Served(tmp_path_factory.mktemp("kinds"), model)
        return open_[model]

    yield go
    for s in open_.values():
        s.gateway.close()


@pytest.fixture
def served(_served):
    return lambda name: _served(ADAPTERS / CASES[name][0]["model"])


SINGLE = [n for n, (c, _) in CASES.items() if len(c["adapters"]) == 1 and c["adapters"][0]["weight"] == 1]
SUMMED = [n for n, (c, _) in CASES.items() if c["adapters"] and n not in SINGLE]


@pytest.mark.parametrize("name", SINGLE)
def test_an_adapter_of_any_kind_is_taken_tested_and_answers_as_pefts(served, name):
    s, (case, last) = served(name), CASES[name]
    o = s.upload(name)
    assert (o["state"], o["kind"], o["base"]) == ("ready", KINDS.get(name, "lora"), s.base)
    if MODULES[name]:
        assert sorted(o["modules"]) == sorted(MODULES[name])
    test = s.selftest(o["digest"])
    assert test["modules"] and test["max_error"] < 1e-3, test
    s.assert_as(case["prompts"], last, model=name)
    r = s.post("/v1/chat/completions", model=name, messages=[{"role": "user", "content": "ahoy"}], max_tokens=4)
    assert r.status_code == 200 and r.json()["model"] == name and r.headers["x-weft-adapter-version"] == f"{name}@1", r.text


@pytest.mark.parametrize("name", SUMMED)
def test_a_sum_answers_as_pefts(served, name):
    s, (case, last) = served(name), CASES[name]
    for a in case["adapters"]:
        s.upload(a["dir"])
    s.assert_as(case["prompts"], last, model=s.base, adapters=[{"name": a["dir"], "weight": a["weight"]} for a in case["adapters"]])


def test_the_bases_themselves_answer_as_transformers(served):
    for name in ("base", "base-tied", "base-mixtral"):
        case, last = CASES[name]
        s = served(name)
        s.assert_as(case["prompts"], last, model=s.base)


@pytest.mark.parametrize("name", ["plain", "dora", "alora", "ends", "router"])
def test_lists_states_and_the_command_tell_kind_and_modules(served, name):
    s = served(name)
    o = s.upload(name)
    with s.tenant.http() as c:
        one = c.get(f"/v1/adapters/{name}").json()
        listed = next(a for a in c.get("/v1/adapters", params={"limit": 100}).json()["data"] if a["name"] == name)
        version = c.get(f"/v1/adapters/{name}/versions/1").json()
    for seen in (one, one["versions"][0], listed, version):
        assert (seen["kind"], seen["modules"]) == (o["kind"], o["modules"])
    s.selftest(o["digest"])  # resident now
    with s.gateway.engine() as c:
        assert c.get(f"/v1/models/{o['digest']}").json()["kind"] == o["kind"]
    assert s.gateway.engine_state()["slots"]["kinds"][o["kind"]] >= 1
    shown = weft(s, "adapter", "show", name)
    assert o["kind"] in shown and all(m in shown for m in o["modules"])
    assert o["kind"] in next(line for line in weft(s, "adapter", "list").split("\n") if line.startswith(name))


def weft(s, *args):
    import os
    import subprocess
    env = {**os.environ, "WEFT_URL": s.gateway.url, "WEFT_API_KEY": s.tenant.key}
    r = subprocess.run([TOP / "build/release/weft", *args], capture_output=True, text=True, timeout=30, env=env)
    assert r.returncode == 0, r.stderr
    return r.stdout


def test_a_dry_run_tells_them_too(served):
    s = served("ends")
    r = s.tenant.upload("x", ADAPTERS / "ends", path="/v1/adapters:validate").json()
    assert r["valid"] and r["kind"] == "lora" and sorted(r["modules"]) == sorted(MODULES["ends"])


@pytest.mark.parametrize("name", ["dora", "saved", "ends"])
def test_what_cannot_be_summed_is_told_by_the_clients_name(served, name):
    s = served(name)
    s.upload(name), s.upload("plain")
    for adapters in ([{"name": name}, {"name": "plain"}], [{"name": name, "weight": 0.5}]):
        r = s.post("/v1/completions", model=s.base, prompt=[1, 2, 3], max_tokens=1, adapters=adapters)
        if name == "ends":
            assert r.status_code == 200
            continue
        assert r.status_code == 400 and name in r.json()["error"]["message"], r.text
        assert s.uploaded[name]["digest"] not in r.text


def test_an_alora_sleeps_without_its_words(served):
    s = served("alora")
    s.upload("alora")
    for prompt, same in (([1, 2, 3, 4], True), ([1, 2, 17, 5, 200, 4, 9], False)):
        assert (s.logprobs(prompt, model="alora") == s.logprobs(prompt, model=s.base)) == same


def test_adapters_of_all_kinds_run_in_one_batch_as_alone(served):
    from concurrent.futures import ThreadPoolExecutor
    s = served("plain")
    names = [n for n in SINGLE if CASES[n][0]["model"] == "base"]
    for n in names:
        s.upload(n)
    def run(n):
        return s.post("/v1/completions", model=n, prompt=CASES[n][0]["prompts"][0], max_tokens=20, ignore_eos=True, return_token_ids=True).json()["choices"][0]["token_ids"]
    alone = [run(n) for n in names]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, names)) == alone


# --- refusals ---

def split(raw):
    n = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8:8 + n]), raw[8 + n:]


def edit(folder, out, config=None, drop=None, rename=None, reshape=None):
    """A changed copy: fields of the config, tensors left out, renamed, or cut to fewer rows."""
    shutil.copytree(folder, out)
    path = out / "adapter_model.safetensors"
    header, data = split(path.read_bytes())
    tensors = {k: (v["dtype"], v["shape"], data[slice(*v["data_offsets"])]) for k, v in header.items() if k != "__metadata__"}
    if drop:
        tensors = {k: v for k, v in tensors.items() if drop not in k}
    if rename:
        tensors = {k.replace(*rename): v for k, v in tensors.items()}
    for k, (dtype, shape, raw) in list(tensors.items()):
        if reshape and reshape in k:
            tensors[k] = (dtype, [shape[0] - 1] + shape[1:], raw[:len(raw) // shape[0] * (shape[0] - 1)])
    header, body = {}, b""
    for k, (dtype, shape, raw) in tensors.items():
        header[k] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    if config:
        c = out / "adapter_config.json"
        c.write_text(json.dumps({**json.loads(c.read_text()), **config}))
    return out


REFUSED = {
    "DoRA without one magnitude": ("base", "dora", dict(drop="layers.0.self_attn.q_proj.lora_magnitude"), ["layers.0", "q_proj", "magnitude"]),
    "magnitudes without use_dora": ("base", "dora", dict(config={"use_dora": False}), ["magnitude", "use_dora"]),
    "use_dora without magnitudes": ("base", "plain", dict(config={"use_dora": True}), ["magnitude"]),
    "a magnitude of the wrong length": ("base", "dora", dict(reshape="layers.1.mlp.up_proj.lora_magnitude"), ["up_proj", "magnitude", "64"]),
    "a whole head of another vocabulary": ("base", "saved", dict(reshape="lm_head"), ["lm_head", "263", "264"]),
    "a whole embedding that is not there": ("base", "saved", dict(drop="embed_tokens"), ["embed_tokens", "modules_to_save"]),
    "modules_to_save of something else": ("base", "saved", dict(config={"modules_to_save": ["lm_head", "norm"]}), ["modules_to_save", "norm", "merge"]),
    "an aLoRA with whole modules": ("base", "saved", dict(config={"alora_invocation_tokens": [17], "task_type": "CAUSAL_LM"}), ["alora_invocation_tokens", "train without modules_to_save"]),
    "an aLoRA that PEFT would not wake": ("base", "alora", dict(config={"task_type": None}), ["task_type", "set task_type to CAUSAL_LM"]),
    "a method by its empty settings": ("base", "plain", dict(config={"kasa_config": {}}), ["kasa_config", "merge_and_unload"]),
    "a pattern that Python reads otherwise": ("base", "plain", dict(config={"alpha_pattern": {"[[:alpha:]]_proj": 7}}), ["alpha_pattern", "[[:alpha:]]"]),
    "a word that begins like a harmless one": ("base", "plain", dict(config={"init_lora_weights": "gaussian2"}), ["init_lora_weights", "gaussian2"]),
    "a module that the file lacks": ("base", "plain", dict(drop="layers.1.self_attn.k_proj"), ["layers.1.self_attn.k_proj", "adapter_model.safetensors", "saved together"]),
    "a norm that was trained along": ("base", "saved", dict(rename=("lm_head.weight", "model.norm.weight")), ["norm.weight"]),
    "an embedding's half": ("base", "ends", dict(drop="lora_embedding_B"), ["embed_tokens", "lora_B"]),
    "experts for a base that has none": ("base", "experts", {}, ["experts"]),
    "a router for a base that has none": ("base", "router", {}, ["layers."]),
    "an adapter with more layers than the base": ("base-mixtral", "router", {}, ["layer"]),
    "trainable tokens": ("base", "plain", dict(config={"trainable_token_indices": [1, 2]}), ["trainable_token_indices"]),
    "replicated layers": ("base", "plain", dict(config={"layer_replication": [[0, 2], [1, 2]]}), ["layer_replication"]),
    "an aLoRA of no tokens": ("base", "alora", dict(config={"alora_invocation_tokens": []}), ["alora_invocation_tokens"]),
    "an aLoRA of a token beyond the vocabulary": ("base", "alora", dict(config={"alora_invocation_tokens": [17, 99999]}), ["alora_invocation_tokens", "99999"]),
    "layers_to_transform that the file does not keep to": ("base", "plain", dict(config={"layers_to_transform": [1]}), ["layers.0"]),
    "a regex that misses a tensor": ("base", "plain", dict(config={"target_modules": ".*q_proj"}), ["k_proj", "adapter_config.json"]),
    "a regex that is none": ("base", "plain", dict(config={"target_modules": "(q_proj"}), ["target_modules"]),
    "a method that we don't serve": ("base", "plain", dict(config={"use_qalora": True}), ["use_qalora"]),
    "a switch that we don't know": ("base", "plain", dict(config={"use_warp": True}), ["use_warp"]),
    "a bias": ("base", "plain", dict(config={"lora_bias": True}), ["lora_bias"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_names_the_tensor_or_the_key_and_leaves_nothing(_served, tmp_path, what):
    base, name, change, words = REFUSED[what]
    s = _served(ADAPTERS / base)
    before = s.gateway.blobs()
    folder = edit(ADAPTERS / name, tmp_path / "x", **change)
    r = s.tenant.upload("bad", folder)
    assert r.status_code == 400, r.text
    e = r.json()["error"]
    print(what, "->", e["message"])
    assert e["code"] == "adapter_invalid" and len(e["message"]) > 25
    for word in words:
        assert word in e["message"], (word, e["message"])
    dry = s.tenant.upload("bad", folder, path="/v1/adapters:validate").json()
    assert dry["valid"] is False and dry["error"]["message"] == e["message"]
    assert s.gateway.blobs() == before
    until(lambda: s.gateway.temporary() == [])


def test_limits_of_size_and_rank_name_the_setting(start, tmp_path):
    g = start("--max-adapter-bytes", "20k", "--max-rank", "4", model=ADAPTERS / "base")
    t = g.tenant("solo")
    r = t.upload("saved", ADAPTERS / "saved")
    assert r.status_code == 413 and "max_adapter_bytes" in r.json()["error"]["message"] and r.json()["error"]["param"] == "weights"
    with t.http() as c:  # said before it is sent
        r = c.post("/v1/adapters", content=b"x" * (2 << 20), headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert r.status_code == 413 and "max_adapter_bytes" in r.text
    r = t.upload("alora", ADAPTERS / "alora")
    assert r.status_code == 400 and "8" in r.json()["error"]["message"] and "4" in r.json()["error"]["message"]
    assert t.upload("layers", ADAPTERS / "layers").status_code == 201


# --- the families ---

def family_last(folder, golden):
    """The prompts, and {run: logits of the last position of each}; one that fills the context leaves room for the answer's token."""
    data, at, vocab, out = (folder / "golden.bin").read_bytes(), 0, golden["vocab"], {}
    over = [int(len(p) == golden["max_context"]) for p in golden["prompts"]]
    for run in golden["runs"]:
        out[run] = []
        for n in over:
            at += 4 * vocab * golden["positions"]
            out[run].append(struct.unpack(f"<{vocab}f", data[at - 4 * vocab * (1 + n):at - 4 * vocab * n]))
    assert at == len(data)
    return [p[:len(p) - n] for p, n in zip(golden["prompts"], over)], out


def tokens_of(path):
    """Of the tokenizer beside a model's weights; None: the file of the weights names a token for each row."""
    if not path.exists():
        return None
    words = json.loads(path.read_text())
    return 1 + max([*words["model"]["vocab"].values(), *(a["id"] for a in words["added_tokens"])])


@pytest.mark.parametrize("family", sorted(p.parent.name for p in FAMILIES.glob("*/golden.json")))
def test_a_familys_adapter_answers_as_pefts(tmp_path, family):
    folder = FAMILIES / family
    golden = json.loads((folder / "golden.json").read_text())
    prompts, last = family_last(folder, golden)
    tokens = tokens_of(folder / golden["model"] / "tokenizer.json")
    s = Served(tmp_path, folder / golden["model"] if golden["model"] != "." else folder, "--max-context", str(golden["max_context"]))
    try:
        s.assert_as(prompts, last["base"], tokens, model=s.base)
        for run in golden["runs"][1:]:
            o = s.upload(run, folder / golden["adapters"] / run)
            assert o["state"] == "ready" and s.selftest(o["digest"])["max_error"] < 1e-3
            s.assert_as(prompts, last[run], tokens, model=run)
    finally:
        s.gateway.close()


# --- of a real size ---

def with_whole_head(folder, vocab, hidden, out):
    """The adapter with a head of its own beside it, in bfloat16: the bytes of 2^-7, for what it says is of no interest here."""
    shutil.copytree(folder, out)
    path = out / "adapter_model.safetensors"
    header, data = split(path.read_bytes())
    header.pop("__metadata__", None)
    size = 2 * vocab * hidden
    header["base_model.model.lm_head.weight"] = {"dtype": "BF16", "shape": [vocab, hidden], "data_offsets": [len(data), len(data) + size]}
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
        f.write(b"\x00\x3c" * (size // 2))
    c = out / "adapter_config.json"
    c.write_text(json.dumps({**json.loads(c.read_text()), "modules_to_save": ["lm_head"]}))
    return out


def test_a_whole_head_of_a_real_vocabulary_passes_by_default(real, tenants, tmp_path):
    from gateway_process import DEMO
    t, state = tenants["triage"], real.engine_state()
    folder = with_whole_head(DEMO / "triage", state["vocab"], 576, tmp_path / "x")
    r = t.upload("wide", folder)
    try:
        assert r.status_code == 201, r.text
        assert r.json()["bytes"] > 56e6 and "lm_head" in r.json()["modules"]
        with t.http() as c:
            r = c.post("/v1/completions", json={"model": "wide", "prompt": "x", "max_tokens": 1, "logprobs": 0, "temperature": 0, "ignore_eos": True})
        assert r.status_code == 200, r.text
        assert r.json()["choices"][0]["logprobs"]["token_logprobs"][0] == pytest.approx(-math.log(state["vocab"]), abs=1e-3)  # all rows are one
    finally:
        with t.http() as c:
            c.delete("/v1/adapters/wide")
