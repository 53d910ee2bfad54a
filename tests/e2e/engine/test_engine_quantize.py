"""`weft-engine quantize` and `eval`: what is written serves and answers as itself, what is damaged is refused by name, and what fails or is killed
leaves nothing behind."""

import re
import resource
import shutil
import signal
import subprocess
import time

import pytest

from engine_process import DEMO, MODEL, PROGRAM, adapter_digest, run_program

TEXT = ("The sea was calm in the morning, and the fishermen went out early. By noon the wind had turned, and they came home with little. "
        "In the evening they sat together and told each other of larger fish in better years. ") * 12
ASK = {"messages": [{"role": "user", "content": "What is the sea?"}], "max_tokens": 16, "temperature": 0}


def quantize(out, *args, model=MODEL, **kw):
    return run_program("quantize", str(model), str(out), *args, **kw)


def figures(**settings):
    args = [x for k, v in settings.items() for x in (f"--{k.replace('_', '-')}", str(v))]
    r = run_program("eval", *args, timeout=120)
    assert r.returncode == 0, r.stderr
    return {k: v if k == "model" else float(v) for k, v in (line.split(" ", 1) for line in r.stdout.strip().split("\n"))}


def answer(engine, **kw):
    r = engine.http.post("/v1/chat/completions", json={"model": engine.base, **ASK, **kw})
    assert r.status_code == 200, r.text
    return r.json()["choices"][0]["message"]["content"]


def logged(result, event):
    return [dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line)) for line in result.stderr.split("\n") if f"event={event}" in line]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "sea.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def int2(tmp_path_factory):
    out = tmp_path_factory.mktemp("int2") / "small.weft"
    r = quantize(out, "--type", "int2")
    assert r.returncode == 0, r.stderr
    return out


@pytest.fixture(scope="module")
def int8(tmp_path_factory):
    out = tmp_path_factory.mktemp("int8") / "same.weft"
    r = quantize(out, "--type", "int8")
    assert r.returncode == 0, r.stderr
    layers = logged(r, "layer_quantized")
    assert len(layers) == 30 and all(x["bytes_before"] == x["bytes_after"] for x in layers)  # a 4-bit base is small enough already
    return out


# --- what is written serves ---

def test_a_base_of_two_bits_serves_and_answers_the_same_after_a_restart(start, int2):
    first = start(model=int2)
    said = answer(first), answer(first, temperature=1, seed=5)
    state = first.state()
    assert state["base"]["name"] == "small" and state["weight_bytes"] < 75e6
    first.assert_idle()
    assert first.terminate() == 0
    second = start(model=int2, unix=True)
    assert (answer(second), answer(second, temperature=1, seed=5)) == said
    assert second.state()["base"] == state["base"]
    second.assert_idle()


def test_a_copy_that_changed_nothing_answers_as_the_base_itself(engine, start, int8):
    copy = start(model=int8)
    for kw in ({}, {"temperature": 0.8, "seed": 3, "logprobs": True, "top_logprobs": 3}):
        assert answer(copy, **kw) == answer(engine, **kw)
    copy.assert_idle()


def test_adapters_are_served_on_it(start, int8):
    e = start(model=int8)
    digest = adapter_digest(DEMO / "pirate", e.state()["base"]["digest"])
    r = e.http.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(DEMO / "pirate")})
    if r.status_code == 400:  # named for the file, and trained on something of another name: said so
        assert "same" in r.json()["error"]["message"]
        e = start("--name", "smollm2-135m-instruct", model=int8)
        digest = adapter_digest(DEMO / "pirate", e.state()["base"]["digest"])
        r = e.http.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(DEMO / "pirate")})
    assert r.status_code == 200, r.text
    with e.openai() as c:
        plain, pirate = (c.chat.completions.create(model=m, **ASK).choices[0].message.content for m in (e.base, digest))
    assert plain != pirate
    e.assert_idle()


def test_a_packed_file_can_be_quantized_again(int8, tmp_path):
    r = quantize(tmp_path / "x.weft", "--type", "int2", model=int8)
    assert r.returncode == 0, r.stderr
    f = figures(model=tmp_path / "x.weft", text=DEMO.parents[1] / "README.md", tokens=32)
    assert f["weight_bytes"] < 75e6


def test_auto_measures_layer_by_layer_and_keeps_to_the_bound(text, tmp_path):
    out = tmp_path / "auto.weft"
    r = quantize(out, "--type", "auto", "--text", str(text), "--tokens", "32", "--max-kl", "2", timeout=180)
    assert r.returncode == 0, r.stderr
    layers = logged(r, "layer_quantized")
    assert len(layers) == 30 and len({x["type"] for x in layers}) >= 1
    done = logged(r, "quantized")[0]
    assert int(done["bytes_after"]) < int(done["bytes_before"])  # so generous a bound leaves something to save
    f = figures(model=out, against=MODEL, text=text, tokens=32)
    assert 0 < f["mean_kl"] < 3 and f["weight_bytes"] == int(done["bytes_after"])


# --- figures ---

def test_eval_tells_a_base_from_a_ruin_of_it(int2, int8, text):
    base = figures(model=MODEL, text=text, tokens=128)
    assert 1 < base["perplexity"] < 40 and base["tokens"] in (127, 128)
    same = figures(model=int8, against=MODEL, text=text, tokens=128, precision="exact")
    assert same["mean_kl"] == pytest.approx(0, abs=1e-6) and same["same_top1"] == 1
    ruin = figures(model=int2, against=MODEL, text=text, tokens=128)
    assert ruin["mean_kl"] > 0.5 and ruin["max_kl"] >= ruin["mean_kl"] and ruin["perplexity"] > base["perplexity"] and 0 <= ruin["same_top1"] < 1
    assert figures(model=MODEL, text=text, tokens=128)["perplexity"] == base["perplexity"]


@pytest.mark.parametrize("args, word", [
    (["quantize"], "IN OUT"), (["quantize", MODEL], "IN OUT"), (["quantize", MODEL, "OUT"], "TYPE"), (["quantize", MODEL, "OUT", "--type", "int3"], "int3"),
    (["quantize", MODEL, "OUT", "OUT2", "OUT3", "--type", "int8"], None), (["quantize", MODEL, "OUT", "--type", "auto"], "text"),
    (["quantize", MODEL, "OUT", "--type", "auto", "--text", "/dev/null/no"], "/dev/null/no"),
    (["quantize", MODEL, "OUT", "--type", "auto", "--max-kl", "-1"], "max-kl"), (["quantize", MODEL, "OUT", "--type", "int8", "--max-kl", "nan"], "max-kl"),
    (["eval", "--model", MODEL], "--text"), (["eval", "--text", "/etc/hostname", "--model", ""], "--model"),
    (["eval", "--model", MODEL, "--text", "/dev/null/no"], "/dev/null/no"), (["eval", "--model", MODEL, "--text", "/etc/hostname", "--precision", "odd"], "odd"),
])
def test_wrong_arguments_are_named(tmp_path, args, word):
    r = run_program(*(str(tmp_path / a) if a.startswith("OUT") else str(a) for a in args))
    assert r.returncode in (2, 3) and (word or "") in r.stderr and len(r.stderr) > 20, r.stderr
    assert list(tmp_path.iterdir()) == []


def test_over_itself_is_refused_by_any_name(tmp_path):
    own, other = tmp_path / "m.gguf", tmp_path / "other.gguf"
    shutil.copy(MODEL, own)
    other.symlink_to(own)
    (tmp_path / "hard.gguf").hardlink_to(own)
    before = own.read_bytes()
    for out in (own, other, tmp_path / "hard.gguf", tmp_path / "." / "m.gguf"):
        r = quantize(out, "--type", "int2", model=own)
        assert r.returncode == 2 and "over itself" in r.stderr
    assert own.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["hard.gguf", "m.gguf", "other.gguf"]


# --- damage ---

def flipped(at):
    def change(raw):
        raw[at] ^= 4
    return change


def cut(n):
    def change(raw):
        del raw[n:]
    return change


DAMAGE = {
    "cut in half": cut(35_000_000), "without its last byte": cut(-1), "only its head": cut(64), "less than its head": cut(20), "a longer file": lambda raw: raw.extend(b"more"),
    "a bit in the magic": flipped(2), "a bit in the version": flipped(8), "a bit in the head": flipped(24), "a bit of the first entry": flipped(4100),
    "a bit in the middle": flipped(40_000_000), "a bit in the index": flipped(-140), "a bit of its padding": flipped(-1), "zeros for its index": lambda raw: raw.__setitem__(slice(-4096, None), bytes(4096)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_refused_by_name(int2, tmp_path, what):
    raw = bytearray(int2.read_bytes())
    DAMAGE[what](raw)
    bad = tmp_path / "damaged.weft"
    bad.write_bytes(raw)
    r = run_program("serve", "--model", str(bad), "--socket", str(tmp_path / "s"), "--orphan-s", "2", timeout=30)
    assert r.returncode == 3 and "damaged.weft" in r.stderr, (r.returncode, r.stderr)
    r = run_program("eval", "--model", str(bad), "--text", "/etc/hostname", timeout=30)
    assert r.returncode == 3 and "damaged.weft" in r.stderr, r.stderr


# --- nothing is left behind ---

def limited(out, megabytes):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (megabytes << 20, megabytes << 20))
    return subprocess.run([PROGRAM, "quantize", MODEL, str(out), "--type", "int2"], capture_output=True, text=True, timeout=60, preexec_fn=limit)


@pytest.mark.parametrize("megabytes", [0, 1, 30, 68])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, megabytes):
    out = tmp_path / "x.weft"
    r = limited(out, megabytes)
    assert r.returncode == 3 and "x.weft" in r.stderr and "large" in r.stderr.lower(), (r.returncode, r.stderr)
    assert list(tmp_path.iterdir()) == []
    out.write_bytes(b"what was there")
    assert limited(out, megabytes).returncode == 3
    assert out.read_bytes() == b"what was there" and [p.name for p in tmp_path.iterdir()] == ["x.weft"]


def test_a_folder_that_is_not_there_or_not_ones_own_is_named(tmp_path):
    r = quantize(tmp_path / "no" / "x.weft", "--type", "int2")
    assert r.returncode == 3 and "x.weft" in r.stderr and "No such" in r.stderr
    r = quantize(tmp_path, "--type", "int2")
    assert r.returncode == 2 and str(tmp_path) in r.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("there", [False, True])
def test_killed_in_the_middle_it_leaves_no_half_file(tmp_path, sig, there):
    out, log = tmp_path / "x.weft", tmp_path.parent / f"{tmp_path.name}.log"
    if there:
        out.write_bytes(b"what was there")
    with open(log, "wb") as f:
        p = subprocess.Popen([PROGRAM, "quantize", MODEL, str(out), "--type", "int2"], stderr=f, stdin=subprocess.DEVNULL,
                             preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job in the background is started without it
    end = time.monotonic() + 30
    while log.read_text().count("layer_quantized") < 5 and time.monotonic() < end and p.poll() is None:
        time.sleep(0.005)
    p.send_signal(sig)
    assert p.wait(30) == -sig and log.read_text().count("layer_quantized") >= 5 and "event=quantized" not in log.read_text()
    assert [(x.name, x.read_bytes()) for x in tmp_path.iterdir()] == ([("x.weft", b"what was there")] if there else [])
    assert quantize(out, "--type", "int2").returncode == 0 and [x.name for x in tmp_path.iterdir()] == ["x.weft"]


def test_an_older_file_is_replaced_while_an_engine_serves_it(start, int8, tmp_path):
    out = tmp_path / "x.weft"
    shutil.copy(int8, out)
    e = start(model=out)
    before = answer(e)
    assert quantize(out, "--type", "int2").returncode == 0
    assert answer(e) == before  # it keeps what it has mapped
    e.assert_idle()
