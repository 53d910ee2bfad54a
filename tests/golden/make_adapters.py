"""Makes tests/golden/adapters/: adapters of every kind that PEFT writes and the logits that transformers and PEFT compute
with them in float32. docs/ORACLE.md tells the environment.

base*/ are tiny models: base itself a Llama with biases and a head of its own; NAME/ are adapters as save_pretrained()
writes them (in bf16), some rewritten as other programs write them. golden.json: {"positions", "vocab", "cases": [{"name",
"model", "adapters": [{"dir", "weight"}], "prompts": [[id, ..], ..]}]}; golden.bin: float32 logits of the last positions of
each prompt, case by case.
"""
import json
import os
import shutil
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
import transformers
from transformers import AutoModelForCausalLM

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "adapters")
POSITIONS, VOCAB = 2, 264
DENSE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WAKE = [17, 5, 200]
TIED, MOE, QWEN, PHI = "base-tied", "base-mixtral", "base-qwen3moe", "base-phi3"
SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
             num_key_value_heads=1, max_position_embeddings=64, bos_token_id=260, eos_token_id=261, pad_token_id=None,
             tie_word_embeddings=False)
BASES = {
    "base": ("Llama", dict(attention_bias=True)),
    TIED: ("Llama", dict(tie_word_embeddings=True)),
    MOE: ("Mixtral", dict(num_local_experts=4, num_experts_per_tok=2, intermediate_size=32)),
    QWEN: ("Qwen3Moe", dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                            mlp_only_layers=[1], num_hidden_layers=3)),
    PHI: ("Phi3", {}),
}
UNSLOTH = (r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|k_proj|v_proj|"
           r"o_proj|gate_proj|up_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|"
           r"feed_forward|ffn|dense)\.(?:(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)))")

# name: (model, LoraConfig's fields)
ADAPTERS = {
    "plain": ("base", dict(r=8, lora_alpha=12, target_modules=DENSE)),
    "rslora": ("base", dict(r=6, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "down_proj"])),
    "patterns": ("base", dict(r=4, lora_alpha=8, target_modules=DENSE, exclude_modules=["k_proj"],
                              rank_pattern={"q_proj": 3, r"layers.1.mlp.down_proj": 12},
                              alpha_pattern={"up_proj": 3.5, "self_attn.v_proj": 20})),
    "layers": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj"], layers_to_transform=[1],
                            layers_pattern="layers")),
    "regex": ("base", dict(r=4, lora_alpha=8, target_modules=r".*\.layers\.0\..*(q|o|gate)_proj")),
    "all-linear": ("base", dict(r=2, lora_alpha=8, target_modules="all-linear")),
    "unsloth": ("base", dict(r=8, lora_alpha=16, target_modules=UNSLOTH)),
    "infix": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj"])),
    "dora": ("base", dict(r=4, lora_alpha=8, use_dora=True, target_modules=DENSE)),
    "dora-rslora": ("base", dict(r=5, lora_alpha=6, use_dora=True, use_rslora=True,
                                 target_modules=["q_proj", "o_proj", "down_proj", "lm_head"])),
    "dora-old-names": ("base", dict(r=4, lora_alpha=8, use_dora=True, target_modules=["v_proj", "gate_proj"])),
    "alora": ("base", dict(r=8, lora_alpha=16, alora_invocation_tokens=WAKE, target_modules=DENSE, task_type="CAUSAL_LM")),
    "ends": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "saved": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])),
    "saved-old-names": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj"], modules_to_save=["lm_head"])),
    "along": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj"])),
    "tied-embed": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj", "embed_tokens"])),
    "tied-both": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj", "embed_tokens"], ensure_weight_tying=True)),
    "tied-saved": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=["embed_tokens"])),
    "tied-saved-both": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=["embed_tokens"],
                                   ensure_weight_tying=True)),
    "tied-loaded": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj"])),
    "router": (QWEN, dict(r=3, lora_alpha=6, target_modules=["q_proj"], rank_pattern={"experts.down_proj": 5},
                          target_parameters=["mlp.gate.weight", "mlp.experts.down_proj"])),
    "gate-up": (MOE, dict(r=3, lora_alpha=6, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])),
    "experts": (MOE, dict(r=2, lora_alpha=4, target_modules=["q_proj"])),
    "fused-dora": (PHI, dict(r=4, lora_alpha=8, use_dora=True, target_modules=["qkv_proj", "gate_up_proj"])),
    "ends-loaded": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens", "lm_head"])),
    "tied-embed-loaded": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj", "embed_tokens"])),
    "tied-both-loaded": (TIED, dict(r=4, lora_alpha=8, target_modules=["v_proj", "embed_tokens"], ensure_weight_tying=True)),
    "tied-head-dora-loaded": (TIED, dict(r=4, lora_alpha=8, use_dora=True, target_modules=["v_proj", "lm_head"])),
    "saved-and-lora": ("base", dict(r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"], modules_to_save=["lm_head"])),
}
REBASED = ("ends-loaded", "tied-embed-loaded", "tied-both-loaded", "tied-head-dora-loaded")
STACKS = {"two": [("plain", 0.7), ("patterns", -0.4)], "four": [("plain", 0.5), ("rslora", 0.5), ("ends", 1.0), ("regex", 2.0)],
          "half": [("patterns", 0.5)]}


def noise(g, shape, size):
    return (torch.randn(shape, generator=g) * size).to(torch.bfloat16).to(torch.float32)


def save_tokenizer(folder):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    t = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens(["<s%d>" % i for i in range(VOCAB - len(letters))])
    t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    with open(os.path.join(folder, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        f.write('{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<s5>"}\n')


def make_base(name, seed):
    family, fields = BASES[name]
    folder = os.path.join(HERE, name)
    config = getattr(transformers, family + "Config")(**dict(SMALL, **fields))
    model, g = getattr(transformers, family + "ForCausalLM")(config), torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        size = 0.3 if p.ndim == 1 else 0.4 if "embed_tokens" in key else 1.5 / p.shape[-1] ** 0.5
        p.data = noise(g, p.shape, size) + (1.0 if "norm" in key else 0.0)
    model.to(torch.bfloat16).save_pretrained(folder)
    os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
    save_tokenizer(folder)


def load(model):
    return AutoModelForCausalLM.from_pretrained(os.path.join(HERE, model), dtype=torch.float32,
                                                attn_implementation="eager").eval()


def fill(model, seed):
    g = torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        if "magnitude" in key:
            new = (p.data * (1 + 0.2 * torch.randn(p.shape, generator=g))).to(torch.bfloat16).to(torch.float32)
        elif "lora_" in key:
            new = noise(g, p.shape, 0.12)
        elif "modules_to_save" in key:
            new = p.data + noise(g, p.shape, 0.05)
        else:
            continue
        p.data.copy_(new)  # in place: tied ones stay one


def edit_config(folder, **fields):
    path = os.path.join(folder, "adapter_config.json")
    with open(path, encoding="utf-8") as f:
        config = dict(json.load(f), **fields)
    for key in ("target_modules", "target_parameters", "modules_to_save"):  # sets come in any order
        if isinstance(config.get(key), list):
            config[key].sort()
    with open(path, "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1, sort_keys=True)
        f.write("\n")


def experts_one_by_one(tensors, model):
    """As transformers 4 named Mixtral's experts; PEFT's own loader turns them into parameters again."""
    g = torch.Generator().manual_seed(77)
    c = model.config
    for layer in range(c.num_hidden_layers):
        at = "base_model.model.model.layers.%d.block_sparse_moe." % layer
        for e in range(c.num_local_experts):
            for w, i, o in (("w1", c.hidden_size, c.intermediate_size), ("w3", c.hidden_size, c.intermediate_size),
                            ("w2", c.intermediate_size, c.hidden_size)):
                tensors[at + "experts.%d.%s.lora_A.weight" % (e, w)] = noise(g, (2, i), 0.12)
                tensors[at + "experts.%d.%s.lora_B.weight" % (e, w)] = noise(g, (o, 2), 0.12)


def rewrite(name, folder, model):
    """What the program that writes such files does differently."""
    path = os.path.join(folder, "adapter_model.safetensors")
    tensors, fields = load_file(path), {}
    g = torch.Generator().manual_seed(5)
    if name == "unsloth":
        fields = dict(unsloth_fixed=True, revision="unsloth", auto_mapping=dict(base_model_class="LlamaForCausalLM",
                      parent_library="transformers.models.llama.modeling_llama", unsloth_fixed=True))
    if name == "infix":
        tensors = {k.replace(".weight", ".mine.weight").replace("base_model.model.", "base_model.model._orig_mod."): v
                   for k, v in tensors.items()}
    if name == "dora-old-names":
        tensors = {k + ".weight" if "magnitude" in k else k: v for k, v in tensors.items()}
    if name == "saved-old-names":
        tensors = {k.replace("lm_head.weight", "lm_head.modules_to_save.weight"): v for k, v in tensors.items()}
    if name == "tied-loaded":
        w = model.get_input_embeddings().weight.data
        tensors["base_model.model.model.embed_tokens.weight"] = w + noise(g, w.shape, 0.05)
    if name in REBASED:  # trained on a copy of the base with other values: PEFT loads them over the base
        shared = noise(g, (VOCAB, SMALL["hidden_size"]), 0.05)
        for k in [k for k in sorted(tensors) if k.endswith(("base_layer.weight", "embed_tokens.weight", "lm_head.weight"))]:
            tensors[k] = tensors[k].float() + (noise(g, shared.shape, 0.05) if name.startswith("ends") else shared)
    if name == "experts":
        experts_one_by_one(tensors, model)
        fields = dict(target_modules=["q_proj", "w1", "w2", "w3"])
    save_file({k: v.to(torch.bfloat16).contiguous() for k, v in tensors.items()}, path, metadata={"format": "pt"})
    os.chmod(path, 0o644)
    edit_config(folder, base_model_name_or_path="", **fields)


def make_adapter(name, seed):
    model, fields = ADAPTERS[name]
    folder, base = os.path.join(HERE, name), load(model)
    peft = get_peft_model(base, LoraConfig(**fields))
    fill(peft, seed)
    peft.save_pretrained(folder, save_embedding_layers=True if name == "along" else "auto")
    os.remove(os.path.join(folder, "README.md"))
    rewrite(name, folder, load(model))


ODD = ("infix", "dora-old-names", "saved-old-names")


def loadable(name):
    """The folder, or of names that this PEFT no longer reads a copy under today's."""
    folder = os.path.join(HERE, name)
    if name not in ODD:
        return folder
    copy = os.path.join("/tmp", "weft-golden-" + name)
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    path = os.path.join(copy, "adapter_model.safetensors")
    tensors = {k.replace(".mine.", ".").replace("_orig_mod.", "").replace("magnitude_vector.weight", "magnitude_vector")
               .replace("modules_to_save.", ""): v for k, v in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return copy


def with_adapters(model, uses):
    peft = PeftModel.from_pretrained(load(model), loadable(uses[0][0]), adapter_name="a0")
    for i, (name, _) in enumerate(uses[1:], 1):
        peft.load_adapter(loadable(name), adapter_name="a%d" % i)
    if len(uses) > 1:
        peft.base_model.set_adapter(["a%d" % i for i in range(len(uses))])
    for m in peft.modules():
        for i, (_, weight) in enumerate(uses):
            if weight != 1 and isinstance(getattr(m, "scaling", None), dict) and "a%d" % i in m.scaling:
                m.scaling["a%d" % i] *= weight
    return peft.eval()


def logits_of(model, prompts):
    with torch.no_grad():  # one at a time: padding changes bits
        return torch.cat([model(input_ids=torch.tensor([p])).logits[0, -POSITIONS:].float() for p in prompts])


def main():
    shutil.rmtree(HERE, ignore_errors=True)
    for seed, name in enumerate(BASES, 1):
        make_base(name, seed)
    for seed, name in enumerate(ADAPTERS, 100):
        make_adapter(name, seed)
    g = torch.Generator().manual_seed(9)
    prompts = [torch.randint(0, 256, (n,), generator=g).tolist() for n in (23, 14)]
    woken = [prompts[0][:4] + WAKE + prompts[0][4:9] + WAKE + prompts[0][9:12], prompts[1], prompts[1][:9] + WAKE]
    cases, values = [], []
    for name, uses in [(m, []) for m in BASES] + [(n, [(n, 1.0)]) for n in ADAPTERS] + list(STACKS.items()):
        model = ADAPTERS[uses[0][0]][0] if uses else name
        of = woken if name == "alora" else prompts
        plain = logits_of(load(model), of)
        got = logits_of(with_adapters(model, uses), of) if uses else plain
        print("%-16s changes the logits by %.3f" % (name, (got - plain).pow(2).mean().sqrt()), flush=True)
        cases.append(dict(name=name, model=model, prompts=of, adapters=[dict(dir=n, weight=w) for n, w in uses]))
        values.append(got)
    with open(os.path.join(HERE, "golden.json"), "w", encoding="utf-8") as f:
        json.dump(dict(positions=POSITIONS, vocab=VOCAB, cases=cases), f)
        f.write("\n")
    torch.cat(values).numpy().astype("<f4").tofile(os.path.join(HERE, "golden.bin"))


if __name__ == "__main__":
    sys.exit(main())
