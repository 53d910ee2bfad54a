"""make_demo.py MODEL.gguf ADAPTERS_DIR CASES.json OUT.json: what transformers and PEFT answer, greedily.

CASES.json: a list of {"adapter": name or null, "messages": [...]}; an older OUT.json will do, for the same prompts again. ADAPTERS_DIR holds
a PEFT directory for each name. OUT.json gets, for each case, the rendered prompt, its ids, the greedy tokens (to the end token, at most
LIMIT), the text, the five best log-probabilities of every step, and min_gap: the smallest distance between best and second, where
another order of summing may part ways.

Everything is float32 on the weights dequantized from the GGUF, one prompt at a time, for padding changes bits. The tokenizer that
transformers makes from SmolLM2's GGUF lacks the splitting of digits, which is put back.

    pip install -r requirements.txt
    HF_HUB_OFFLINE=1 OMP_NUM_THREADS=2 python make_demo.py "$WEFT_MODEL" ../../ops/demo demo.json new.json
"""
import json
import os
import sys

import torch
from peft import PeftModel
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

LIMIT = 40
BEST = 5


def load_base(path):
    folder, file = os.path.split(os.path.abspath(path))
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    tok = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    tok.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return model.eval(), tok


def load_adapters(model, folder, names):
    """One PeftModel that holds all of them in float32, or the bare model where there are none."""
    for i, name in enumerate(names):
        path = os.path.join(folder, name)
        if i == 0:
            model = PeftModel.from_pretrained(model, path, adapter_name=name, autocast_adapter_dtype=False)
        else:
            model.load_adapter(path, adapter_name=name, autocast_adapter_dtype=False)
    return model.float().eval()


@torch.no_grad()
def greedy(model, ids, ends):
    """Tokens, and of every step the best ids with their log-probabilities."""
    out, best, cache = [], [], None
    feed = torch.tensor([ids])
    while len(out) < LIMIT:
        step = model(input_ids=feed, past_key_values=cache, use_cache=True)
        cache = step.past_key_values
        top = torch.log_softmax(step.logits[0, -1].double(), -1).topk(BEST)
        best.append([[int(i), round(float(p), 6)] for i, p in zip(top.indices, top.values)])
        out.append(best[-1][0][0])
        if out[-1] in ends:
            break
        feed = torch.tensor([out[-1:]])
    return out, best


def answer(model, tok, case):
    prompt = tok.apply_chat_template(case["messages"], add_generation_prompt=True, tokenize=False)
    ids = tok(prompt, add_special_tokens=False)["input_ids"]
    ends = {tok.eos_token_id, tok.convert_tokens_to_ids("<|im_end|>")}
    if case["adapter"]:
        model.set_adapter(case["adapter"])
        tokens, best = greedy(model, ids, ends)
    elif isinstance(model, PeftModel):
        with model.disable_adapter():
            tokens, best = greedy(model, ids, ends)
    else:
        tokens, best = greedy(model, ids, ends)
    return {**case, "prompt": prompt, "prompt_ids": ids, "tokens": tokens,
            "text": tok.decode(tokens, skip_special_tokens=True), "top5": best, "min_gap": min(b[0][1] - b[1][1] for b in best)}


def main():
    gguf, adapters, cases_file, out = sys.argv[1:]
    with open(cases_file) as f:
        cases = json.load(f)
    cases = cases["cases"] if isinstance(cases, dict) else cases
    torch.set_num_threads(2)
    base, tok = load_base(gguf)
    model = load_adapters(base, adapters, sorted({c["adapter"] for c in cases if c["adapter"]}))
    with open(out, "w") as f:
        json.dump({"cases": [answer(model, tok, c) for c in cases]}, f, ensure_ascii=False)
        f.write("\n")


main()
