"""A GGUF base as the folder that vLLM reads: bf16 weights, config, tokenizer and chat template.

    make_base.py BASE.gguf OUT

The weights are those that the file means, rounded to bf16 once. transformers' tokenizer of a Llama-style GGUF lacks the step that splits numbers
into digits; it is put back before ByteLevel, or numbers would become other tokens than the model has learned."""

import json
import sys
from pathlib import Path

DIGITS = {"type": "Digits", "individual_digits": True}


def write_weights(source, out):
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig
    # Without `dequantize` the weights stay packed, and saving fails.
    model = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32,
                                                 quantization_config=GgufConfig(dequantize=True)).to(torch.bfloat16)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(out)


def write_tokenizer(source, out):
    from transformers import AutoTokenizer
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(out)
    path = out / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    before = tokenizer["pre_tokenizer"]
    steps = before["pretokenizers"] if before["type"] == "Sequence" else [before]
    assert [s["type"] for s in steps if s["type"] == "ByteLevel"], before
    if not [s for s in steps if s["type"] == "Digits"]:
        at = [s["type"] for s in steps].index("ByteLevel")
        steps[at:at] = [DIGITS]
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def check(out):
    from transformers import AutoTokenizer
    t = AutoTokenizer.from_pretrained(out)
    assert [t.decode([i]) for i in t.encode("2048")] == ["2", "0", "4", "8"], t.encode("2048")
    assert t.chat_template, "the chat template is missing"


def main():
    source, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True)
    write_weights(source, out)
    write_tokenizer(source, out)
    check(out)


if __name__ == "__main__":
    main()
