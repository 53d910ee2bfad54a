"""`weft-engine calibrate` measures the demo base as it is served, and `weft plan` computes from the file that it writes."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("WEFT_BIN", TOP / "build/release"))
MODEL = os.environ.get("WEFT_MODEL")


def run(*command, **env):
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=280, env=os.environ | env)


def settings(path):
    return dict(line.split(" = ") for line in path.read_text().splitlines() if not line.startswith("#"))


pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    if not MODEL:
        pytest.skip("WEFT_MODEL names no base")
    folder = tmp_path_factory.mktemp("plan")
    r = run(BIN / "weft-engine", "calibrate", "--model", MODEL, "--seconds", 1, "--out", folder / "here.conf", TMPDIR=str(folder))
    assert r.returncode == 0, r.stderr
    assert [p.name for p in folder.iterdir()] == ["here.conf"]  # made adapters are gone
    return folder / "here.conf"


def made(folder):
    return sorted(p for p in folder.iterdir() if p.name.startswith("weft-calibrate-"))


@contextlib.contextmanager
def calibrating(folder):
    """A run whose adapters lie in `folder`."""
    process = subprocess.Popen([BIN / "weft-engine", "calibrate", "--model", MODEL, "--threads", "1", "--out", folder / "out"], env=os.environ | {"TMPDIR": str(folder)})
    before = made(folder)
    try:
        for _ in range(1200):
            if any((p / "a9" / "adapter_model.safetensors").exists() for p in made(folder) if p not in before):
                break
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not MODEL, reason="WEFT_MODEL names no base")
def test_what_a_killed_run_left_goes_with_the_next_and_a_signal_leaves_nothing(tmp_path):
    held = tmp_path / "weft-calibrate-held"
    (held / "a0").mkdir(parents=True)
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)  # another run's
    mine = tmp_path / "weft-calibrate-mine"
    mine.mkdir()
    (mine / "notes").write_text("no adapter\n")
    with calibrating(tmp_path) as process:
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
    left = set(made(tmp_path)) - {held, mine}
    assert len(left) == 1
    with calibrating(tmp_path) as process:
        assert not left & set(made(tmp_path)) and len(made(tmp_path)) == 3
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    os.close(lock)
    assert made(tmp_path) == [held, mine] and (held / "a0").exists() and (mine / "notes").exists()


def plan(profile, *words):
    r = run(BIN / "weft", "plan", profile, *words)
    return r.returncode, r.stdout, r.stderr


def test_what_is_measured_is_this_base(profile):
    v = {k: int(x) for k, x in settings(profile).items()}
    assert v["kv_token_bytes"] == 23040 and v["max_context"] == 8192 and v["rank_bytes"] == 610560 and 50e6 < v["weight_bytes"] < 300e6
    for cost, least in (("step_ns", 100_000), ("prefill_row_ns", 10_000), ("decode_row_ns", 10_000), ("rank_ns", 100), ("rank_row_ns", 10)):
        lost = f"# {cost} was lost" in profile.read_text()  # beside other work a second of measuring may see nothing of one
        assert v[cost] > least or lost, (cost, v)
        assert (v[cost] == 0) == lost
    assert v["step_ns"] + v["decode_row_ns"] + v["prefill_row_ns"] > 100_000
    assert 0 <= v["free_rows"] <= 32
    assert v["load_busy_percent"] >= 100 and v["load_bytes_us"] > 1
    assert "rounds" in profile.read_text()


def test_a_plan_names_engines_settings_memory_and_cost(profile):
    rc, out, err = plan(profile, "requests_minute=10", "adapters=200", "engines=2", "ttft_ms=86400000", "tpot_ms=60000", "price_hour=0.2", "--json")
    assert rc == 0, err
    p = json.loads(out)
    assert p["holds"] and p["engines"] == 2 and p["settings"]["max_slots"] >= 32
    assert p["memory_mb"]["engine"] > p["memory_mb"]["weights"] and p["cost_per_million"]["mean"] > p["cost_per_million"]["full"] > 0
    peak = p["peak"]
    assert 0 < peak["ttft_ms"]["p50"] <= peak["ttft_ms"]["p90"] <= peak["ttft_ms"]["p99"] and 0 < peak["busy"] < 1
    rc, out, _ = plan(profile, "requests_minute=10", "engines=1", "ttft_ms=86400000", "tpot_ms=60000", "--explain")
    assert rc == 0 and "work(k)" in out and "bottleneck" in out


def test_more_than_engines_can_do_is_said_so(profile):
    rc, out, _ = plan(profile, "requests_minute=1000000", "engines=1")
    assert rc == 1 and "what engines can do at most" in out


def test_words_that_are_none_are_refused(profile, tmp_path):
    for words, told in ((["rows=5"], "rows"), (["5"], "NAME=VALUE"), (["=5"], "NAME=VALUE"), (["engines=x"], "engines"), (["ranks=8"], "ranks")):
        rc, _, err = plan(profile, *words)
        assert rc == 2 and told in err, (words, err)
    assert plan(tmp_path / "none.conf")[0] == 2


def test_sizes_alone_scale_a_profile_to_another_base(profile, tmp_path):
    other = tmp_path / "large.conf"
    r = run(BIN / "weft-engine", "calibrate", "--model", MODEL, "--seconds", 0, "--out", other)
    assert r.returncode == 0 and "no measurement" in other.read_text()
    same = settings(other)["weight_bytes"]
    other.write_text(other.read_text().replace(f"weight_bytes = {same}", f"weight_bytes = {10 * int(same)}"))
    a, b = (json.loads(plan(profile, "streams=1", "adapters=0", "engines=1", "ttft_ms=86400000", "tpot_ms=60000", "--json", *w)[1]) for w in ([], [f"base={other}"]))
    assert b["peak"]["tpot_ms"]["mean"] > 5 * a["peak"]["tpot_ms"]["mean"] and b["memory_mb"]["weights"] > 9 * a["memory_mb"]["weights"]


def test_a_base_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.gguf").write_text("none")
    assert run(BIN / "weft-engine", "calibrate", "--model", tmp_path / "x.gguf").returncode == 3
    assert run(BIN / "weft-engine", "calibrate", WEFT_MODEL="").returncode == 2
    assert run(BIN / "weft-engine", "calibrate", "--model", tmp_path, "--precision", "x").returncode == 2
