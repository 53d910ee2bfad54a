"""Makes tests/golden/families/NAME/: a tiny model of each family with random weights, adapters on it, and the logits that
transformers and PEFT compute in float32 from the weights as they are in the file (bf16).

    make_families.py [NAME ...]          all rows without names; docs/ORACLE.md tells the environment
    make_families.py --rope              tests/golden/rope.json: frequencies of transformers' ROPE_INIT_FUNCTIONS
    make_families.py --gguf CONVERTER [NAME ...]   GGUF files of some rows, written by llama.cpp's convert_hf_to_gguf.py

A folder holds the model as save_pretrained() writes it, adapter*/ as PEFT does, golden.json and golden.bin. golden.json:
{"model": path, "adapters": where their folders are, "max_context", "positions", "vocab", "runs": ["base", "adapter", ..],
"prompts": [[id, ..], ..]}, paths seen from the folder; golden.bin: float32 logits [runs][prompts][positions][vocab] of the last positions of each prompt, teacher forced.
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

import gguf
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
VOCAB, POSITIONS = 272, 3
SMALL = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, bos_token_id=VOCAB - 8, eos_token_id=VOCAB - 6, pad_token_id=None)
DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ATTENTION = DENSE[:4]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
SHORT8 = [1.0 + 0.05 * i for i in range(6)]
LONG8 = [1.0 + 0.9 * i for i in range(6)]


def row(config, model, modules=DENSE, lengths=(40, 21), max_context=0, parameters=(), old=None, of=None, stored=None, **fields):
    """`of`: another row's weights and adapters, in another context."""
    return dict(config=config, model=model, modules=modules, lengths=lengths, max_context=max_context,
                parameters=parameters, old=old, of=of, stored=stored, fields=fields)


def old_rope(config):
    """rope_theta and rope_scaling instead of rope_parameters, as transformers 4 wrote them."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = dict(rope, type=rope.pop("rope_type")) if rope.get("rope_type") != "default" else None
    return config


def old_gemma(config):
    """A composite's text_config as Google published it: what the class has by default is left out."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = {"rope_type": "linear", "factor": rope["full_attention"]["factor"]}
    config["sliding_window_pattern"] = 2
    for key in ("layer_types", "_sliding_window_pattern", "tie_word_embeddings", "query_pre_attn_scalar", "hidden_activation"):
        config.pop(key, None)
    return config


def without_original(config):
    """As configs that lean on the class's default, which counts before what stands in rope_parameters."""
    config.pop("original_max_position_embeddings")
    config["rope_parameters"]["original_max_position_embeddings"] = 2048
    return config


def both_ropes(config):
    """Settings of both generations: the old ones are put over the new, and their "type" is passed over."""
    config["rope_scaling"] = {"type": "yarn", "factor": 4.0}
    return config


def only_the_head(folder):
    """A tied model whose one matrix is stored as the head."""
    path = os.path.join(folder, "model.safetensors")
    tensors = {k.replace("model.embed_tokens.", "lm_head."): v for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


GEMMA3 = dict(head_dim=32, num_hidden_layers=3, sliding_window=8, query_pre_attn_scalar=32, hidden_size=64,
              layer_types=["sliding_attention", "sliding_attention", "full_attention"],
              rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                               "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}})
PHI3 = dict(intermediate_size=96, partial_rotary_factor=0.75, original_max_position_embeddings=32, max_position_embeddings=128,
            rope_parameters={"rope_type": "longrope", "short_factor": SHORT8, "long_factor": LONG8,
                             "rope_theta": 10000.0, "partial_rotary_factor": 0.75})
QWEN3_MOE = dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
FAMILIES = {
    "llama3": row("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True, intermediate_size=96,
                  rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 32}),
    "llama-biases": row("LlamaConfig", "LlamaForCausalLM", attention_bias=True, mlp_bias=True, old=old_rope,
                        rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}),
    "mistral": row("MistralConfig", "MistralForCausalLM", head_dim=32, sliding_window=8, tie_word_embeddings=True),
    "qwen2": row("Qwen2Config", "Qwen2ForCausalLM", intermediate_size=96, tie_word_embeddings=True, use_sliding_window=True, sliding_window=8,
                 max_window_layers=1,
                 rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0,
                                  "original_max_position_embeddings": 32}),
    "qwen3": row("Qwen3Config", "Qwen3ForCausalLM", head_dim=32, attention_bias=True, tie_word_embeddings=True,
                 max_position_embeddings=64,
                 rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}),
    "qwen3-dynamic": row("Qwen3Config", "Qwen3ForCausalLM", of="qwen3", lengths=(96, 96), max_context=96),
    "gemma2": row("Gemma2Config", "Gemma2ForCausalLM", head_dim=32, sliding_window=8, query_pre_attn_scalar=64,
                  attn_logit_softcapping=5.0, final_logit_softcapping=10.0),
    "gemma3": row("Gemma3TextConfig", "Gemma3ForCausalLM", **GEMMA3),
    "gemma3-vision": row("Gemma3TextConfig", "Gemma3ForConditionalGeneration", old=old_gemma,
                         **dict(GEMMA3, num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"])),
    "phi3": row("Phi3Config", "Phi3ForCausalLM", modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
                lengths=(30, 21), sliding_window=16, tie_word_embeddings=True, **PHI3),
    "phi3-long": row("Phi3Config", "Phi3ForCausalLM", of="phi3", lengths=(48, 40), max_context=64),
    "mixtral": row("MixtralConfig", "MixtralForCausalLM", modules=ATTENTION, parameters=EXPERTS, num_local_experts=4,
                   num_experts_per_tok=2, intermediate_size=32),
    "qwen3moe": row("Qwen3MoeConfig", "Qwen3MoeForCausalLM", modules=ATTENTION, parameters=EXPERTS, norm_topk_prob=True,
                    tie_word_embeddings=True,
                    **QWEN3_MOE),
    "qwen3moe-dense": row("Qwen3MoeConfig", "Qwen3MoeForCausalLM", modules=ATTENTION, norm_topk_prob=False,
                          decoder_sparse_step=2, mlp_only_layers=[1], num_hidden_layers=4, tie_word_embeddings=True,
                          **QWEN3_MOE),
    "smollm3": row("SmolLM3Config", "SmolLM3ForCausalLM", num_hidden_layers=4, tie_word_embeddings=True),
    "smollm3-window": row("SmolLM3Config", "SmolLM3ForCausalLM", num_hidden_layers=2, sliding_window=6,
                          use_sliding_window=False, layer_types=["sliding_attention", "full_attention"]),
    "smollm3-switched": row("SmolLM3Config", "SmolLM3ForCausalLM", num_hidden_layers=2, sliding_window=6,
                            use_sliding_window=True, no_rope_layer_interval=2),
    "phi3-original": row("Phi3Config", "Phi3ForCausalLM", modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
                         tie_word_embeddings=True, old=without_original, **dict(PHI3, max_position_embeddings=16384,
                                                                                original_max_position_embeddings=4096)),
    "gemma3-ropes": row("Gemma3TextConfig", "Gemma3ForCausalLM", old=both_ropes, **GEMMA3),
    "llama-head": row("LlamaConfig", "LlamaForCausalLM", tie_word_embeddings=True, stored=only_the_head),
}


def random_weights(model, seed):
    """Of a size that makes logits of a few units: every matrix keeps the size of what it multiplies."""
    g = torch.Generator().manual_seed(seed)
    norm_is_w_minus_1 = "Gemma" in type(model).__name__
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=g)
        if name.endswith("norm.weight") or "layernorm" in name:
            p.data = 0.3 * noise + (0.0 if norm_is_w_minus_1 else 1.0)
        elif p.ndim == 1:
            p.data = 0.5 * noise
        elif "embed_tokens" in name:
            p.data = 0.4 * noise
        else:
            p.data = noise * (1.5 / p.shape[-1] ** 0.5)
        p.data = p.data.to(torch.bfloat16).to(torch.float32)


def save_tokenizer(folder):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB - 8, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=[], show_progress=False)
    t.train_from_iterator(["the cat sat on the mat and the dog sat on the log; " * 3, "what is that and where is it"],
                          trainer)
    while t.get_vocab_size() < VOCAB - 8:  # the ids of the special tokens are those of the configs
        t.add_tokens(["word%d" % t.get_vocab_size()])
    t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    template = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None,
                                            "eos_token": "<|im_end|>", "chat_template": template})
    write(folder, "generation_config.json", {"eos_token_id": [VOCAB - 6, VOCAB - 8]})


def write(folder, name, value):
    with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1, sort_keys=True)
        f.write("\n")


def build(r):
    config = getattr(transformers, r["config"])(**{**SMALL, **r["fields"]})
    if "Conditional" not in r["model"]:
        return getattr(transformers, r["model"])(config)
    vision = transformers.SiglipVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                             num_attention_heads=1, image_size=28, patch_size=14)
    both = transformers.Gemma3Config(text_config=config, vision_config=vision, mm_tokens_per_image=1,
                                     boi_token_index=265, eoi_token_index=266, image_token_index=267)
    return transformers.Gemma3ForConditionalGeneration(both)


def logits_of(model, prompts):
    out = []
    with torch.no_grad():
        for p in prompts:  # one at a time: padding changes bits
            out.append(model(input_ids=torch.tensor([p])).logits[0, -POSITIONS:].float())
    return torch.stack(out)


def load(folder, r):
    return getattr(transformers, r["model"]).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def add_adapter(folder, r, name, seed, **targets):
    config = LoraConfig(r=3, lora_alpha=6, **targets)
    model = get_peft_model(load(folder, r), config)
    g = torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        if "lora_" in key:
            p.data = (torch.randn(p.shape, generator=g) * 0.08).to(torch.bfloat16).to(torch.float32)
    for c in model.peft_config.values():
        c.base_model_name_or_path = os.path.basename(folder)
    model.save_pretrained(os.path.join(folder, name))
    os.remove(os.path.join(folder, name, "README.md"))
    path = os.path.join(folder, name, "adapter_model.safetensors")
    save_file({k: v.to(torch.bfloat16) for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)


def rewrite_config(folder, change):
    path = os.path.join(folder, "config.json")
    with open(path, encoding="utf-8") as f:
        config = json.load(f)
    if "text_config" in config:
        config["text_config"] = change(config["text_config"])
        config.pop("tie_word_embeddings", None)
    else:
        config = change(config)
    write(folder, "config.json", config)


def new_model(folder, r, seed):
    torch.manual_seed(seed)
    model = build(r)
    random_weights(model, seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    save_tokenizer(folder)
    if r["stored"]:
        r["stored"](folder)
    if r["old"]:
        rewrite_config(folder, r["old"])
    add_adapter(folder, r, "adapter", seed + 10, target_modules=r["modules"] if "Conditional" not in r["model"] else
                r".*language_model.*\.(%s)" % "|".join(r["modules"]))
    if r["parameters"]:
        add_adapter(folder, r, "adapter-experts", seed + 11, target_modules=[], target_parameters=list(r["parameters"]))


def run_all(folder, fresh, adapters, runs, r, prompts, **golden):
    """fresh(): the model, anew each time, since PEFT changes what it wraps."""
    want = []
    for run in runs:
        m = fresh() if run == "base" else PeftModel.from_pretrained(fresh(), os.path.join(folder, adapters, run)).eval()
        want.append(logits_of(m, prompts)[:, :, :golden["vocab"]])
    want = torch.stack(want)
    write(folder, "golden.json", dict(golden, adapters=adapters, runs=runs, prompts=prompts, positions=POSITIONS,
                                      max_context=r["max_context"]))
    want.numpy().astype("<f4").tofile(os.path.join(folder, "golden.bin"))
    print("%-18s logits rms %.2f, adapters change them by %s" % (
        os.path.basename(folder), want[0].pow(2).mean().sqrt(),
        ["%.2f" % (w - want[0]).pow(2).mean().sqrt() for w in want[1:]]), flush=True)


def make(name, r, seed):
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    where = "../" + r["of"] if r["of"] else "."
    if not r["of"]:
        new_model(folder, r, seed)
    g = torch.Generator().manual_seed(seed + 1)
    prompts = [torch.randint(0, 256, (n,), generator=g).tolist() for n in r["lengths"]]
    runs = ["base", "adapter"] + (["adapter-experts"] if r["parameters"] else [])
    run_all(folder, lambda: load(os.path.join(folder, where), r), where, runs, r, prompts, model=where, vocab=VOCAB)


# --- GGUF ---

GGUF = [("llama3", "f16"), ("gemma3", "f16"), ("phi3-long", "f16"), ("qwen3moe", "f16"), ("mixtral", "q8_0"),
        ("smollm3", "f16")]


def as_the_file_has_it(model, path, near=0.05):
    """Put the values of a GGUF file in place of the model's, matrix by matrix, in transformers' order of rows; they must be
    near the model's own."""
    reader = gguf.GGUFReader(path)
    arch = gguf.MODEL_ARCH_NAMES
    name = reader.fields["general.architecture"].contents()
    names = gguf.get_tensor_name_map(next(k for k, v in arch.items() if v == name), model.config.num_hidden_layers)
    values = {t.name: torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for t in reader.tensors}
    c = model.config
    for key, p in model.named_parameters():
        stem, end = key.rsplit(".", 1)
        if "experts.gate_up_proj" in key:
            layer = key.split(".layers.")[1].split(".")[0]
            v = torch.cat([values["blk.%s.ffn_%s_exps.weight" % (layer, x)] for x in ("gate", "up")], dim=1)
        elif "experts.down_proj" in key:
            v = values["blk.%s.ffn_down_exps.weight" % key.split(".layers.")[1].split(".")[0]]
        else:
            v = values[names.get_name(stem) + "." + end]
        if name in ("llama", "smollm3") and stem.endswith(("q_proj", "k_proj")):
            heads = c.num_attention_heads if stem.endswith("q_proj") else c.num_key_value_heads
            v = v.reshape(heads, v.shape[0] // heads // 2, 2, *v.shape[1:]).swapaxes(1, 2).reshape(v.shape)
        if "Gemma" in type(model).__name__ and "norm" in stem:
            v = v - 1
        if "embed_tokens" in stem and v.shape[0] < VOCAB:
            v = torch.cat([v, p.data[v.shape[0]:]])
        assert v.shape == p.shape and (v - p.data).abs().max() < near, key
        p.data = v.to(torch.float32)
    return model


def run_converter(name, weights, path, kind, converter):
    """llama.cpp's converter on a folder of weights of that family."""
    with tempfile.TemporaryDirectory() as work:  # the converter asks for names of tokenizers' classes, and for their digests
        shutil.copytree(weights, work, dirs_exist_ok=True)
        change_json(os.path.join(work, "tokenizer_config.json"), tokenizer_class="GPT2Tokenizer")
        if name == "gemma3":  # its converter leaves padding rows out, but not the names that it made up for them
            change_json(os.path.join(work, "config.json"), vocab_size=VOCAB - 5)
        run = ("import runpy, sys; sys.path[0] = %r; import conversion.base as b, conversion.gemma as g; "
               "b.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'gpt-2'; "
               # it would ask for a tokenizer of SentencePiece's
               "g.Gemma2Model.set_vocab = b.TextModel._set_vocab_gpt2; "
               # the pattern of windows, which the converter leaves to the reader to guess
               "add = b.gguf.GGUFWriter.add_sliding_window; b.gguf.GGUFWriter.add_sliding_window = "
               "lambda w, n: (add(w, n), n and w.arch == 'gemma3' and w.add_sliding_window_pattern([True, True, False])); "
               "sys.argv = ['convert', %r, '--outfile', %r, '--outtype', %r]; runpy.run_path(%r, run_name='__main__')" % (
                   os.path.dirname(converter), work, path, kind, converter))
        subprocess.run([sys.executable, "-c", run], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def convert(name, kind, converter):
    source, folder = os.path.join(HERE, name), os.path.join(HERE, "%s-gguf-%s" % (name, kind))
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    weights = os.path.join(HERE, FAMILIES[name]["of"] or name)
    path = os.path.join(folder, os.path.basename(weights) + ".gguf")
    run_converter(name, weights, path, kind, converter)
    with open(os.path.join(source, "golden.json"), encoding="utf-8") as f:
        golden = json.load(f)
    r = FAMILIES[name]
    rows = next(t.shape[1] for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")
    run_all(folder, lambda: as_the_file_has_it(load(weights, r), path), "../" + os.path.basename(weights), golden["runs"],
            r, golden["prompts"], model=os.path.basename(path), vocab=int(rows))
    os.chmod(path, 0o644)


def change_json(path, **values):
    with open(path, encoding="utf-8") as f:
        j = json.load(f)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(dict(j, **values), f)


# --- frequencies ---

def rope_rows():
    llama3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=8192)
    yarn = dict(rope_type="yarn", rope_theta=1000000.0, factor=4.0, original_max_position_embeddings=32768)
    longrope = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1 + 0.01 * i for i in range(48)],
                    long_factor=[1 + 0.7 * i for i in range(48)], partial_rotary_factor=0.75)
    llama = dict(model_type="llama", max_position_embeddings=131072, hidden_size=4096, num_attention_heads=32)
    phi = dict(model_type="phi3", max_position_embeddings=131072, original_max_position_embeddings=4096,
               hidden_size=4096, num_attention_heads=32, partial_rotary_factor=0.75)
    yield llama, dict(rope_type="default", rope_theta=10000.0), 0
    yield llama, llama3, 0
    yield llama, dict(llama3, factor=32.0), 0
    yield llama, dict(rope_type="linear", rope_theta=10000.0, factor=2.5), 0
    yield dict(llama, max_position_embeddings=4096), dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), 4096
    yield dict(llama, max_position_embeddings=4096), dict(rope_type="dynamic", rope_theta=10000.0, factor=2.0), 7000
    yield llama, yarn, 0
    yield llama, dict(yarn, beta_fast=16, beta_slow=2, truncate=False), 0
    yield llama, dict(yarn, mscale=1.2, mscale_all_dim=0.8), 0
    yield llama, dict(yarn, attention_factor=1.25), 0
    yield dict(llama, max_position_embeddings=32768), dict(yarn, factor=40.0, original_max_position_embeddings=4096), 0
    yield phi, longrope, 4096
    yield phi, longrope, 131072
    yield phi, dict(longrope, attention_factor=1.1), 8192


def rope():
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    out = []
    for base, rope_parameters, context in rope_rows():
        values = {k: v for k, v in base.items() if k != "model_type"}
        kind = transformers.Phi3Config if base["model_type"] == "phi3" else transformers.LlamaConfig
        config = kind(**values, rope_parameters=dict(rope_parameters), pad_token_id=None)
        if rope_parameters["rope_type"] == "default":
            freq, attention = 1.0 / (1e4 ** (torch.arange(0, 128, 2, dtype=torch.float) / 128)), 1.0
        else:
            freq, attention = ROPE_INIT_FUNCTIONS[rope_parameters["rope_type"]](config, seq_len=context or None)
        out.append({"config": dict(base, rope_parameters=rope_parameters), "context": context, "attention": attention,
                    "frequencies": [float(x) for x in freq]})
    with open(os.path.join(os.path.dirname(HERE), "rope.json"), "w", encoding="utf-8") as f:
        f.write("[\n" + ",\n".join(json.dumps(x, sort_keys=True) for x in out) + "\n]\n")


def main(args):
    if args[:1] == ["--rope"]:
        return rope()
    if args[:1] == ["--gguf"]:
        for name, kind in GGUF:
            if not args[2:] or name in args[2:]:
                convert(name, kind, os.path.abspath(args[1]))
        return None
    for i, (name, r) in enumerate(FAMILIES.items()):
        if not args or name in args:
            make(name, r, 100 * (i + 1))
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
