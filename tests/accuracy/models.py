"""The models and adapters of the table, and the reference: transformers and PEFT in float32.

Families are those of tests/golden/make_families.py, in two sizes: as they stand there ("narrow", 32 to 128 columns), and with
256 columns and more, which ggml's K-quants and groups of 128 need ("wide"). Each size gets an adapter of every kind; the
reference keeps one PEFT model per kind and is given the weights that a file means, one format after the other."""
import json
import os
import re
import sys
import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "golden"))
import make_families as golden  # noqa: E402

WIDE_FIELDS = dict(hidden_size=256, intermediate_size=256, num_attention_heads=16, num_key_value_heads=8)
# What a converted file says otherwise: llama.cpp's converter leaves out windows of these, Gemma 2's scale of scores (its reader takes
# the heads' size), and rows of the embedding that no token has.
AS_GGUF = {"mistral": {"sliding_window": None}, "qwen2": {"use_sliding_window": False}, "gemma2": {"vocab_size": golden.VOCAB - 5, "query_pre_attn_scalar": 32},
           "gemma3": {"vocab_size": golden.VOCAB - 5}}
NARROW, WIDE, GGUF = "narrow", "wide", "gguf"
WAKE = [17, 5, 200]
PROMPTS = 2


def wide_fields(fields):
    wide = dict(fields, **WIDE_FIELDS)
    if "moe_intermediate_size" in wide:
        wide["moe_intermediate_size"] = 256
    return wide


class Family:
    """A row of make_families.py in one size (narrow, wide, or wide as GGUF can say it); `folder` gets its model, plain, in bfloat16."""

    def __init__(self, name, size, folder):
        wide = size != NARROW
        self.name, self.row, self.folder = name, golden.FAMILIES[name], folder
        if self.row["of"]:  # another row's weights, in another context
            of = golden.FAMILIES[self.row["of"]]
            self.row = dict(of, lengths=self.row["lengths"], max_context=self.row["max_context"], of=self.row["of"])
        if wide:
            self.row = dict(self.row, fields=wide_fields(self.row["fields"]))
        if size == GGUF:
            self.row = dict(self.row, fields=dict(self.row["fields"], **AS_GGUF.get(self.row["of"] or name, {})))
        self.seed = 1000 + 10 * sorted(golden.FAMILIES).index(self.row["of"] or name) + wide
        self.small = 0.5 if wide else 1.0  # keeps what an adapter adds of the size of what it is added to
        self.prompts = self.make_prompts()
        self.adapters = {}  # kind: folder

    def make_prompts(self):
        g = torch.Generator().manual_seed(self.seed + 1)
        prompts = [torch.randint(0, 256, (n,), generator=g).tolist() for n in self.row["lengths"]]
        for p in prompts:
            at = len(p) // 2
            p[at:at + len(WAKE)] = WAKE
        return prompts

    def make(self):
        os.makedirs(self.folder)
        torch.manual_seed(self.seed)
        model = golden.build(self.row)
        golden.random_weights(model, self.seed)
        model.get_input_embeddings().weight.data *= self.small  # logits of a few units, in both sizes, where the head is tied
        model.to(torch.bfloat16).save_pretrained(self.folder)
        golden.save_tokenizer(self.folder)
        if self.row["old"]:
            golden.rewrite_config(self.folder, self.row["old"])
        for i, kind in enumerate(KINDS):
            fields = KINDS[kind](self)
            if fields is not None:
                self.adapters[kind] = os.path.join(self.folder, "adapter-%d" % i)
                self.make_adapter(self.adapters[kind], self.seed + 100 + i, fields)

    def load(self, folder=None):
        return golden.load(folder or self.folder, self.row)

    def make_adapter(self, folder, seed, fields):
        model = get_peft_model(self.load(), LoraConfig(**fields))
        fill(model, seed, self.small)
        model.save_pretrained(folder, save_embedding_layers=False)  # else the base's own go along, and replace a quantized one
        path = os.path.join(folder, "adapter_model.safetensors")
        save_file({k: v.to(torch.bfloat16).contiguous() for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
        golden.change_json(os.path.join(folder, "adapter_config.json"), base_model_name_or_path="")

    # --- what adapters target ---

    @property
    def tied(self):
        with open(os.path.join(self.folder, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        return config.get("text_config", config).get("tie_word_embeddings", "Gemma" in self.row["model"])

    def targets(self, modules, layer=None):
        if "Conditional" in self.row["model"]:  # the vision half has modules of these names too
            at = r"layers\.%s\." % (r"\d+" if layer is None else layer)
            return {"target_modules": r".*language_model.*%s(%s)|.*language_model\.(%s)|(%s)" % (
                (at + r".*", *["|".join(m for m in modules if (m in ENDS) == e) or "-" for e in (False, True, True)]))}
        return {"target_modules": list(modules), **({} if layer is None else {"layers_to_transform": [layer]})}


ENDS = ("embed_tokens", "lm_head")


def fill(model, seed, small):
    g = torch.Generator().manual_seed(seed)
    for key, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=g)
        if "magnitude" in key:
            new = p.data * (1 + 0.2 * noise)
        elif "lora_" in key:
            new = noise * 0.12 * small
        elif "modules_to_save" in key:
            new = p.data + noise * 0.05
        else:
            continue
        p.data.copy_(new.to(torch.bfloat16).to(torch.float32))  # in place: tied ones stay one


def rslora(f):
    first, last = f.row["modules"][0], f.row["modules"][-1]
    return dict(r=4, lora_alpha=8, use_rslora=True, rank_pattern={first: 3, "layers.1.*." + last: 12},
                alpha_pattern={f.row["modules"][1]: 3.5}, **f.targets(f.row["modules"]))


def ends(f):
    tied = {"ensure_weight_tying": True} if f.tied else {}
    return dict(r=4, lora_alpha=8, **tied, **f.targets([f.row["modules"][0], "embed_tokens"] + ([] if f.tied else ["lm_head"])))


def saved(f):
    tied = {"ensure_weight_tying": True} if f.tied else {}
    return dict(r=4, lora_alpha=8, modules_to_save=["embed_tokens"] + ([] if f.tied else ["lm_head"]), **tied,
                **f.targets(f.row["modules"][:1]))


def experts(f):
    if not f.row["parameters"]:
        return None
    return dict(r=3, lora_alpha=6, target_modules=[], target_parameters=list(f.row["parameters"]))


KINDS = {  # kind: LoraConfig's fields for a family; None: it has no such modules
    "all modules": lambda f: dict(r=8, lora_alpha=12, **f.targets(f.row["modules"])),
    "rsLoRA, patterns": rslora,
    "DoRA": lambda f: dict(r=4, lora_alpha=8, use_dora=True, **f.targets(f.row["modules"])),
    "aLoRA": lambda f: dict(r=8, lora_alpha=16, alora_invocation_tokens=WAKE, task_type="CAUSAL_LM", **f.targets(f.row["modules"])),
    "embedding and head": ends,
    "whole embedding and head": saved,
    "one layer": lambda f: dict(r=4, lora_alpha=8, **f.targets(f.row["modules"], layer=1)),
    "experts": experts,
}


# --- the reference ---

class Reference:
    """Logits of the base and of each adapter, of a family whose weights can be exchanged."""

    def __init__(self, family):
        self.family = family
        self.models, self.parameters = {}, {}
        for kind, folder in [("base", None), *family.adapters.items()]:
            base = family.load()
            self.parameters[kind] = dict(base.named_parameters())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.models[kind] = PeftModel.from_pretrained(base, folder).eval() if folder else base

    def logits(self, values):
        """{kind: [positions][vocab]} with these weights, named as transformers names its parameters."""
        out = {}
        for kind, model in self.models.items():
            for key, p in self.parameters[kind].items():
                p.data.copy_(values[key])
            with torch.no_grad():  # one at a time: padding changes bits
                out[kind] = torch.cat([model(input_ids=torch.tensor([p])).logits[0].float() for p in self.family.prompts])
        return out


def values_of(model):
    return {k: p.data.clone() for k, p in model.named_parameters()}


# --- weights as the engine has them ---

PARTS = {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
         "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down", "mlp.gate": "router",
         "self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}


def dumped(key, dump):
    """The parameter of that name out of the engine's matrices; None for what is no matrix of the decoder."""
    if "vision" in key or "multi_modal" in key:
        return None
    if key.endswith("embed_tokens.weight"):
        return dump["embed"]
    if key.endswith("lm_head.weight"):
        return dump["head"]
    at = re.search(r"layers\.(\d+)\.(.*?)(\.weight)?$", key)
    if not at:
        return None
    layer, part = "layers.%s." % at[1], at[2]
    if ".experts." in part:
        count = sum(k.startswith(layer + "experts.") and k.endswith(".down") for k in dump)
        each = ["gate", "up"] if part.endswith("gate_up_proj") else ["down"]
        return torch.stack([torch.cat([dump["%sexperts.%d.%s" % (layer, x, e)] for e in each]) for x in range(count)])
    names = PARTS.get(part)
    if not names or not key.endswith(".weight"):
        return None
    return torch.cat([dump[layer + n] for n in ([names] if isinstance(names, str) else names)])


def weights_differ(values, dump):
    """The largest difference between the engine's matrices and those that the file means."""
    worst = 0.0
    for key, v in values.items():
        d = dumped(key, dump)
        if d is not None:
            worst = max(worst, float((d - v[:d.shape[0]]).abs().max()))
    return worst


def with_dump(values, dump):
    out = dict(values)
    for key, v in values.items():
        d = dumped(key, dump)
        if d is not None:
            out[key] = torch.cat([d, v[d.shape[0]:]]) if d.shape[0] < v.shape[0] else d
    return out
