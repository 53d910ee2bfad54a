"""Hugging Face transformers' generate beside 64 streams of ours: bf16, prompts of 64, 64 tokens out. A part of tests/load/bench where
WEFT_ORACLE_PYTHON names a Python with torch, transformers and gguf; run by that Python, this file is the other side.

  WEFT_ORACLE_PYTHON transformers_generate.py FILE.gguf STREAMS REPEATS THREADS      prints {"tokens_s": ...}"""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

PROMPT, OUTPUT, STREAMS = 64, 64, 64


def part(ctx):
    from suite.servers import Engine, load
    from suite.speed import SMOL, base
    model = base(SMOL, "bf16", ctx.demo)
    theirs = lambda streams, repeats: json.loads(subprocess.run(
        [ctx.oracle, __file__, str(model), str(streams), str(repeats), str(os.cpu_count())], capture_output=True, text=True,
        check=True).stdout.splitlines()[-1])["tokens_s"]
    with Engine(model, SMOL, "--max-running", STREAMS) as e:
        load(e, [e.target()], STREAMS, PROMPT, 8)
        one, first = theirs(1, 3), load(e, [e.target()], STREAMS, PROMPT, OUTPUT, requests=2 * STREAMS, seed=2)["tokens_s"]
        batch, second = theirs(STREAMS, 1), load(e, [e.target()], STREAMS, PROMPT, OUTPUT, requests=2 * STREAMS, seed=3)["tokens_s"]
    ours = (first + second) / 2
    rows = [{"": "ours, 64 streams over HTTP", "tokens/s": ours}, {"": "generate, one at a time", "tokens/s": one},
            {"": "generate, a static batch of 64", "tokens/s": batch}]
    return {"title": f"Beside transformers' generate, {SMOL} bf16, prompts of {PROMPT}, {OUTPUT} tokens out", "rows": rows,
            "goals": [("64 streams over generate one at a time", ours / one, ">=", 40), ("64 streams over its batch of 64", ours / batch, ">=", 4)]}


PARTS = {"transformers": part}


def generate(path, streams, repeats, threads):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    path = Path(path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16).eval()
    torch.manual_seed(1)
    run = lambda: model.generate(torch.randint(100, model.config.vocab_size, (streams, PROMPT)), max_new_tokens=OUTPUT,
                                 min_new_tokens=OUTPUT, do_sample=False, pad_token_id=0, attention_mask=torch.ones(streams, PROMPT, dtype=torch.long))
    with torch.inference_mode():
        if streams == 1:
            run()
        start = time.monotonic()
        for _ in range(repeats):
            run()
    return streams * OUTPUT * repeats / (time.monotonic() - start)


if __name__ == "__main__":
    print(json.dumps({"tokens_s": generate(sys.argv[1], *map(int, sys.argv[2:5]))}))
