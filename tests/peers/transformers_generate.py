"""Hugging Face transformers' generate beside 64 streams of ours: bf16, prompts of 64 random tokens, 64 tokens out, from nothing to the last of them.
A part of tests/load/bench where WEFT_ORACLE_PYTHON names a Python with torch, transformers and gguf; run by that Python, this file is the
other side: it reads a number of streams a line and answers each with what generate() reached, once.

  WEFT_ORACLE_PYTHON transformers_generate.py FILE.gguf THREADS      prints {"tokens_s": ...} for each line"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PROMPT, OUTPUT, STREAMS = 64, 64, 64
WARM = 4  # tokens out of a first call, which is not timed
SET_BY = (26, 264)  # tokens/s one at a time and in a batch of 64 that the goals were set by: docs/PEERS.md


class Generate:
    """The other side as a process; its model is loaded once."""

    def __init__(self, python, model):
        self.process = subprocess.Popen([python, __file__, str(model), str(os.cpu_count())], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def tokens_s(self, streams):
        self.process.stdin.write(f"{streams}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("transformers: no answer; are torch, transformers and gguf there?")
        return json.loads(line)["tokens_s"]


def limits(model):
    """tokens/s of the same work by our passes alone, without scheduler and HTTP, and by the plain bf16 rate if nothing else took time."""
    from suite.rounds import median
    from suite.speed import passes
    told = passes(model, 3, ["prefill:512", f"decode:{STREAMS}:{PROMPT + OUTPUT // 2}:4"])
    prompts, decode = told["cases"].values()
    seconds = prompts["seconds"] * STREAMS * PROMPT / 512 + decode["seconds"] * OUTPUT
    multiply = 2 * STREAMS * ((PROMPT + OUTPUT) * told["matrices"] + OUTPUT * told["hidden"] * told["vocab"])
    rate = median(t["bf16_gflop_s"] for c in (prompts, decode) for t in c["turns"]) * 1e9
    return STREAMS * OUTPUT / seconds, STREAMS * OUTPUT * rate / multiply


def part(ctx):
    from suite.rounds import median, spread
    from suite.servers import Engine, load
    from suite.speed import SMOL, base
    model, took = base(SMOL, "bf16", ctx.demo), []
    with Generate(ctx.oracle, model) as theirs, Engine(model, SMOL, "--max-running", STREAMS) as e:
        ours = lambda seed: load(e, [e.target()], STREAMS, PROMPT, OUTPUT, requests=STREAMS, seed=seed)
        theirs.tokens_s(1), ours(1)
        for r in range(1 if ctx.quick else 3):
            took.append((ours(2 * r + 2), theirs.tokens_s(1), ours(2 * r + 3), theirs.tokens_s(STREAMS)))
    mine = [x for a, _, b, _ in took for x in (a, b)]
    alone, bound = limits(model)
    over = lambda i: [(t[0]["tokens_s"] + t[2]["tokens_s"]) / 2 / t[i] for t in took]
    rows = [{"": "ours, 64 streams over HTTP", "tokens/s": median(x["tokens_s"] for x in mine), "the client's share": median(x["client_cpu"] for x in mine)},
            {"": "our passes alone, without HTTP", "tokens/s": alone}, {"": "the plain bf16 rate allows", "tokens/s": bound},
            {"": "generate, one at a time", "tokens/s": median(t[1] for t in took), "ours over it": spread(over(1))},
            {"": "generate, a static batch of 64", "tokens/s": median(t[3] for t in took), "ours over it": spread(over(3))}]
    reached = rows[0]["tokens/s"]
    return {"title": f"Beside transformers' generate, {SMOL} bf16, prompts of {PROMPT}, {OUTPUT} tokens out", "rows": rows,
            "notes": [f"over what generate reached where the goals were set ({SET_BY[0]} and {SET_BY[1]} tokens/s): "
                      f"{reached / SET_BY[0]:.1f} and {reached / SET_BY[1]:.2f}"],
            "goals": [("64 streams over generate one at a time", median(over(1)), ">=", 40), ("64 streams over its batch of 64", median(over(3)), ">=", 4)]}


PARTS = {"transformers": part}


def serve(path, threads):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    path = Path(path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16).eval()
    assert model.dtype == torch.bfloat16
    torch.manual_seed(1)
    warmed = set()

    def run(streams, output):
        prompts = torch.randint(100, model.config.vocab_size, (streams, PROMPT))
        out = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=output, min_new_tokens=output, do_sample=False,
                             pad_token_id=0)
        assert out.shape == (streams, PROMPT + output)

    for line in sys.stdin:
        streams = int(line)
        with torch.inference_mode():
            if streams not in warmed:
                run(streams, WARM)
                warmed.add(streams)
            start = time.monotonic()
            run(streams, OUTPUT)
        print(json.dumps({"tokens_s": streams * OUTPUT / (time.monotonic() - start)}), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
