"""What measures must itself be right: the load generator, the seeded weights, the bench's report (tests/load)."""

import json
import subprocess
import sys

import pytest

from engine_process import TOP

sys.path.insert(0, str(TOP / "tests/load"))
sys.path.insert(0, str(TOP / "tests/peers"))

import gguf_adapter  # noqa: E402
from suite import growth, plot, random_weights, report, rounds, servers, speed, widen  # noqa: E402

LOAD = TOP / "build/release/tests/load/load"
STEPS = TOP / "build/release/tests/load/steps"
TINY = random_weights.SHAPES["qwen2.5-0.5b"] | {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 600, "max_position_embeddings": 512, "bos_token_id": 598, "eos_token_id": 599}


@pytest.fixture(scope="module", autouse=True)
def built():
    subprocess.run(["make", "-s", "-C", str(TOP), "load"], check=True)


@pytest.fixture
def run(engine, tmp_path):
    """run(options) -> the report and the requests' records."""

    def go(*args, targets=None, ok=True):
        command = [LOAD, "--url", engine.url, "--records", tmp_path / "records", *args]
        for t in targets or [f"{engine.token}={engine.base}"]:
            command += ["--target", t]
        out = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        assert (out.returncode == 0) == ok, out.stderr
        return json.loads(out.stdout), [json.loads(line) for line in (tmp_path / "records").read_text().splitlines()]

    return go


def test_a_closed_loop_sends_all_requests_with_no_more_than_its_streams_at_a_time(run):
    told, records = run("--streams", 3, "--requests", 7, "--prompt", 8, "--output", 5)
    assert (told["requests"], told["failed"], told["unfinished"], told["tokens"]) == (7, 0, 0, 35)
    assert [r["tokens"] for r in records] == [5] * 7
    spans = [(r["start_ms"], r["start_ms"] + r["total_ms"]) for r in records]
    assert max(sum(a <= t < b for a, b in spans) for t, _ in spans) <= 3
    assert 0 < told["ttft_ms"] <= told["ttft_p90_ms"] <= told["ttft_p99_ms"] <= told["ttft_max_ms"]


def test_an_open_loop_sends_the_same_arrivals_for_the_same_seed_whatever_the_server_does(run):
    def arrivals(output):
        return [r["start_ms"] for r in run("--rate", 40, "--seconds", 1, "--prompt", 4, "--output", output, "--seed", 9)[1]]

    quick, slow = arrivals(1), arrivals(8)
    assert len(quick) == len(slow) >= 10
    assert all(abs(a - b) < 200 for a, b in zip(quick, slow))
    assert len({round(b - a) for a, b in zip(quick, quick[1:])}) > 3


def test_arrivals_beyond_the_bound_are_not_sent_and_are_counted(run):
    told, records = run("--rate", 200, "--streams", 1, "--seconds", 0.5, "--prompt", 32, "--output", 40)
    assert told["unsent"] > 0 and told["failed"] == 0 and told["requests"] == len(records)


def test_popularity_by_zipf_prefers_the_first_targets_and_reaches_others(run, engine, adapters):
    targets = [f"{engine.token}={m}" for m in [engine.base, *adapters.values()]]
    _, records = run("--streams", 4, "--requests", 60, "--prompt", 2, "--output", 1, "--zipf", 1.5, targets=targets)
    counts = [sum(r["target"] == k for r in records) for k in range(4)]
    assert counts[0] > 25 and counts[0] > counts[1] > counts[3] and sum(c > 0 for c in counts) >= 3


def test_what_is_cut_off_counts_as_unfinished_with_the_tokens_that_came(run):
    told, records = run("--streams", 2, "--prompt", 4, "--output", 4000, "--seconds", 0.5, "--cut")
    assert told["unfinished"] == 2 and told["failed"] == 0
    assert 0 < told["tokens"] == sum(r["tokens"] for r in records) < 8000


def test_what_comes_while_it_warms_up_is_left_out(run):
    told, records = run("--streams", 2, "--prompt", 4, "--output", 8, "--seconds", 0.8, "--warm", 0.4, "--cut")
    assert 0 < told["tokens"] < sum(r["tokens"] for r in records)
    assert 0.3 < told["seconds"] < 0.8 and told["requests"] == len(records)
    ends = [r["start_ms"] + r["total_ms"] for r in records]
    assert told["tokens"] <= sum(r["tokens"] for r, end in zip(records, ends) if end >= 400)


def test_the_processor_time_of_the_client_itself_is_told(run):
    assert 0 < run("--streams", 2, "--prompt", 4, "--output", 8)[0]["client_cpu"] < 1


def test_a_request_that_is_refused_makes_the_run_fail(run, engine):
    told, records = run("--streams", 1, "--prompt", 4, "--output", 4, targets=[f"{engine.token}=nobody"], ok=False)
    assert told["failed"] == 1 and records[0]["status"] == 404


def test_an_address_beyond_this_machine_is_refused():
    out = subprocess.run([LOAD, "--url", "http://192.0.2.1:80", "--target", "k=m"], capture_output=True, text=True)
    assert out.returncode == 2 and not out.stdout


def test_a_seeded_base_and_its_adapters_load_and_answer_and_are_timed_without_http(start, tmp_path, monkeypatch):
    monkeypatch.setitem(random_weights.SHAPES, "tiny", TINY)
    model = random_weights.write_base("tiny", tmp_path / "tiny")
    monkeypatch.setattr(servers, "CACHE", tmp_path)
    (tmp_path / "adapters").mkdir()
    e = start("--orphan-s", "0", model=model, store=tmp_path / "adapters")
    adapters = servers.Adapters("tiny", e.state()["base"])
    answers = set()
    for rank, folder in adapters.mixed(8):
        digest = adapters.digest(rank, folder)
        r = e.http.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(folder)})
        assert r.status_code == 200, r.text
        body = {"model": digest, "prompt": [5, 6, 7, 8], "max_tokens": 8, "temperature": 0, "logprobs": 1}
        answers.add(str(e.http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["token_logprobs"]))
    assert len(answers) == 8
    folder = adapters.folder(8, 0)
    out = subprocess.run([STEPS, "--rounds", "1", "--adapter", folder, model, "prefill:64", "decode:4:16:3", "decode:4:16:3:1"],
                         capture_output=True, text=True, check=True)
    told = json.loads(out.stdout)
    assert [c["passes"] for c in told["cases"]] == [1, 3, 3] and [c["tokens"] for c in told["cases"]] == [64, 4, 4]
    assert told["matrices"] == 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 96 * 64) and told["adapter_bytes"][0] > 0


def test_a_widened_base_says_what_the_narrow_one_says(start, tmp_path, engine):
    wide = start("--orphan-s", "0", "--precision", "exact", model=widen.widen(servers.os.environ["WEFT_MODEL"], tmp_path / "wide.gguf"))
    narrow = start("--orphan-s", "0", "--precision", "exact")
    body = {"prompt": list(range(200, 220)), "max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
    of = lambda e: e.http.post("/v1/completions", json=body | {"model": e.base}).json()["choices"][0]["logprobs"]["token_logprobs"][1:20]
    assert max(abs(a - b) for a, b in zip(of(wide), of(narrow))) < 0.3


def test_llama_cpps_form_of_an_adapter_holds_every_number_once(tmp_path):
    base = {"layers": 2, "modules": {"q_proj": [64, 64], "k_proj": [32, 64], "down_proj": [64, 96]}}
    folder = random_weights.write_adapter(base, 8, tmp_path / "a")
    raw, ours = gguf_adapter.convert(folder, tmp_path / "a.gguf", 16).read_bytes(), (folder / "adapter_model.safetensors").read_bytes()
    body = ours[8 + int.from_bytes(ours[:8], "little"):]
    assert raw[:4] == b"GGUF" and raw.count(b".lora_a") == raw.count(b".lora_b") == 6
    assert sorted(raw[-len(body):]) == sorted(body) and raw[-len(body):] != body


def test_rows_of_q_and_k_are_interleaved_by_head():
    rows = b"".join(bytes([h * 4 + i]) for h in range(2) for i in range(4))
    assert gguf_adapter.interleave(rows, 8, 2) == bytes([0, 2, 1, 3, 4, 6, 5, 7])


def test_a_goal_is_met_or_not_as_its_sign_says():
    rows = [report.goal_row("x", v, s, 0.9)[""] for v, s in ((0.91, ">="), (0.89, ">="), (0.89, "<="), (0.91, "<="))]
    assert rows == ["met", "not met", "met", "not met"]


def test_a_plot_is_svg_with_a_line_and_all_points_of_each_series(tmp_path):
    plot.line_plot(tmp_path / "p.svg", "a < b", "x", "y", {"one": [(1, 10), (2, 20)], "two": [(1, 5), (2, 900)]})
    text = (tmp_path / "p.svg").read_text()
    assert text.count("<polyline") == 2 and text.count("<circle") == 4 and "a &lt; b" in text


def test_what_is_compared_takes_turns_and_nobody_is_always_first():
    order = []
    took = rounds.in_turn(3, lambda r: order.append(("a", r)) or 10 + r, lambda r: order.append(("b", r)) or 20 + r)
    assert took == [[10, 20], [11, 21], [12, 22]]
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]


def test_a_quantile_is_the_least_value_that_so_many_do_not_exceed():
    assert [rounds.quantile(range(1, 101), q) for q in (0.5, 0.99, 1)] == [50, 99, 100] and rounds.quantile([7], 0.99) == 7


def test_the_largest_drop_between_neighbours_is_the_cliff():
    what, lost, sign, goal = growth.cliff_goal("streams", [(1, 100), (2, 190), (4, 95), (8, 94), (32, 47)])
    assert "2 to 4" in what and (lost, sign) == (0.5, "<=") and report.goal_row(what, lost, sign, goal)[""] == "not met"
    assert growth.cliff_goal("streams", [(1, 100), (2, 190)])[1] == 0


def test_products_are_judged_by_the_least_of_all_shapes_for_each_number_of_rows():
    product = lambda shape, rows, ratio: {"shape": shape, "rows": rows, "state": "hot", "peer_ratio": ratio}
    goals = speed.peer_goals("BF16", [product("q", 1, 1.5), product("head", 1, 0.9), product("q", 8, 1.2), {"rows": 64}])
    assert [(g[1], "head" in g[0]) for g in goals] == [(0.9, True), (1.2, False)]
