"""make_tokenizer_hf.py OUTDIR [N DUMPDIR]: small tokenizers in the style of each model family, and what Hugging Face's tokenizers makes
of random strings with them.

Each is trained here on the few lines below, with the normalizer, pre-tokenizer, decoder, added tokens and patterns that the family's
published tokenizer.json has. OUTDIR gets texts.json (shared strings: words, code, scripts of the world, long runs, special tokens) and one
file per family: {"tokenizer": the tokenizer.json, "ids": per text, "decoded": per text, with special tokens skipped}. Where decoded
equals the text, it is null. spm.gguf and spm.json are a vocabulary
that sentencepiece trained, as the converters write it (model "llama"), and what sentencepiece makes of the texts. With N and DUMPDIR, tokenizers and N fuzz strings go there instead, for a run by hand.

    pip install -r requirements.txt && python make_tokenizer_hf.py tokenizer_hf
"""
import json
import os
import random
import sys
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs; how vexingly quick daft zebras jump!",
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness.",
    "def merge(self, left, right):\n    return [x for x in left if x not in right]  # the rest\n",
    "for (int i = 0; i < 100; i++) {\n\tprintf(\"%d\\n\", array[i]);\n}\n\n\nint main(void) { return 0; }",
    "I'm sure you're right, he's wrong, they've left, we'd stay and I'll go. DON'T SHOUT. It isn't 3.14159 or 2024 but 1234567.",
    "Größe, Übermut und Ärger; café, naïve, résumé, garçon; señor, mañana; Ærøskøbing, smørrebrød.",
    "Съешь ещё этих мягких французских булок, да выпей чаю. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列張。いろはにほへと ちりぬるを わかよたれそ 다람쥐 헌 쳇바퀴에 타고파",
    "हिन्दी में लिखा हुआ वाक्य، نص حكيم له سر قاطع וגם עברית ภาษาไทย",
    "😀😃😄 👍🏽 👨‍👩‍👧‍👦 🇳🇴 ❤️ — “quoted” ‘text’ … • item\n- item\n* item\n",
    "    indented\n        twice\n\t\ttabs\r\nwindows\r\n\r\nlines   with   spaces",
    "https://example.com/a/b?c=d&e=%20#f user@example.org foo_bar-baz.qux::quux->x {\"a\": [1, 2, {\"b\": null}]}",
    "HTTPServer XMLHttpRequest camelCase PascalCase snake_case SCREAMING_CASE iPhone macOS",
] * 3

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (r"[^\r\n\p{L}\p{N}]?" + UP + "*" + LOW + r"+%s|[^\r\n\p{L}\p{N}]?" + UP + "+" + LOW + r"*%s|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPM_DECODER = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(use_regex=False, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def special(*texts, **flags):
    return [AddedToken(s, special=True, normalized=False, **flags) for s in texts]


def words(*texts, **flags):
    return [AddedToken(s, special=False, **flags) for s in texts]


def train_bytes(pre, size, ignore_merges=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer = pre_tokenizers.Sequence(pre) if len(pre) > 1 else pre[0]
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def train_chars(size, front, fallback=True, fuse=True, unk="<unk>"):
    """SentencePiece's look: `front` tokens, the bytes', then what was merged."""
    t = Tokenizer(models.BPE(unk_token=unk))
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=[], show_progress=False))
    j = json.loads(t.to_str())
    names = front + (["<0x%02X>" % b for b in range(256)] if fallback else [])
    learned = sorted(j["model"]["vocab"], key=j["model"]["vocab"].get)
    vocab = {s: i for i, s in enumerate(dict.fromkeys(names + [m[0] + m[1] for m in j["model"]["merges"]] + [s for s in learned]))}
    merges = [tuple(m) for m in j["model"]["merges"]]
    return Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unk, fuse_unk=fuse, byte_fallback=fallback))


def template(bos, i):
    return processors.TemplateProcessing(single=[bos, "$A"], pair=[bos, "$A", "$B"], special_tokens=[(bos, i)])


def gpt2():
    t = train_bytes([byte_level(True)], 700)
    t.add_special_tokens(special("<|endoftext|>"))
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def llama3():
    t = train_bytes([split(CL100K % r"\p{N}{1,3}"), byte_level()], 700, ignore_merges=True)
    t.add_special_tokens(special("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"))
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])
    return t


def qwen2():
    t = train_bytes([split(CL100K % r"\p{N}"), byte_level()], 700)
    t.normalizer = normalizers.NFC()
    t.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    t.add_tokens(words("<think>", "</think>", "<tool_call>", normalized=False))
    return t


def smollm():
    t = train_bytes([pre_tokenizers.Digits(individual_digits=True), byte_level(True)], 600)
    t.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    return t


def phi4mini():
    t = train_bytes([split(O200K % (SUFFIX, SUFFIX, r"\p{N}{1,3}")), byte_level()], 700)
    t.add_special_tokens(special("<|endoftext|>") + special("<|assistant|>", "<|user|>", "<|end|>", "<|system|>", rstrip=True))
    return t


def nemo():
    t = train_bytes([split(O200K % ("", "", r"\p{N}")), byte_level()], 700, ignore_merges=True)
    t.add_special_tokens(special("<unk>", "<s>", "</s>", "[INST]", "[/INST]"))
    t.post_processor = template("<s>", t.token_to_id("<s>"))
    return t


def deepseek3():
    t = train_bytes([split(r"\p{N}{1,3}"), split("[一-龥\u3040-ゟ゠-ヿ]+"), split(DEEPSEEK3), byte_level()], 650)
    t.normalizer = normalizers.Sequence([])
    t.add_special_tokens(special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>") + [AddedToken("<｜User｜>", special=False, normalized=False)])
    return t


def falcon():
    t = train_bytes([pre_tokenizers.Punctuation("contiguous"), byte_level(True), pre_tokenizers.Digits(individual_digits=False),
                     split("[0-9][0-9][0-9]")], 600)
    t.add_special_tokens(special(">>TITLE<<", "<|endoftext|>"))
    return t


def llama2():
    t = train_chars(700, ["<unk>", "<s>", "</s>"])
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(SPM_DECODER + [decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(special("<unk>", "<s>", "</s>"))
    t.add_tokens(words("<pad>", normalized=True))
    t.post_processor = template("<s>", 1)
    return t


def phi3():
    t = train_chars(650, ["<unk>", "<s>", "</s>"])
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(SPM_DECODER + [decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(special("<unk>", "<s>"))
    t.add_tokens([AddedToken("</s>", special=False, normalized=False, rstrip=True)])
    t.add_special_tokens(special("<|endoftext|>") + special("<|assistant|>", "<|user|>", "<|end|>", rstrip=True))
    return t


def mistral():
    t = train_chars(700, ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"])
    t.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    t.decoder = decoders.Sequence(SPM_DECODER + [decoders.Strip(" ", 1, 0)])
    t.add_special_tokens(special("<unk>", "<s>", "</s>", "[INST]", "[/INST]"))
    return t


def gemma():
    t = train_chars(700, ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<b>"])
    t.normalizer = normalizers.Replace(" ", "▁")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence(SPM_DECODER)
    t.add_special_tokens(special("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"))
    t.add_tokens(words("\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<b>", normalized=False))
    return t


def metaspace():
    """Metaspace in full, characters without bytes, unknown ones each a token: what old conversions have."""
    t = train_chars(500, ["<unk>", "<s>", "</s>"], fallback=False, fuse=False)
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    t.decoder = decoders.Metaspace("▁", prepend_scheme="always", split=True)
    t.add_special_tokens(special("<unk>", "<s>", "</s>"))
    t.add_tokens(words("fox", single_word=True) + words("«left", lstrip=True))
    return t


def odds():
    """What is left: lower case, accents, splits of every behaviour, joined by spaces."""
    t = train_chars(500, ["<unk>"], fallback=False)
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d+"), "contiguous"), pre_tokenizers.Split("e", "merged_with_next"),
                                               pre_tokenizers.Split("a", "merged_with_previous"), pre_tokenizers.Split(Regex("[o-z]+"), "isolated", invert=True),
                                               pre_tokenizers.Punctuation(), pre_tokenizers.Split(Regex("x*"), "isolated"), pre_tokenizers.Split("t", "removed")])
    return t


def plain():
    t = train_chars(500, ["<unk>"], fallback=False)
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.Fuse()
    return t


FAMILIES = [gpt2, llama3, qwen2, smollm, phi4mini, nemo, deepseek3, falcon, llama2, phi3, mistral, gemma, metaspace, odds, plain]
TOKENS = ["<|endoftext|>", "<|begin_of_text|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<|assistant|>", "<|end|>",
          "<|user|>", "<｜User｜>", "<｜begin▁of▁sentence｜>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<b>", "▁", "▁▁", "<0x41>", "fox", "«left", "<|im_st", "<s", ">>TITLE<<"]
PLANES = [(0x20, 0x7e), (0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x5ff), (0x600, 0x6ff), (0x900, 0xdff), (0xe00, 0xe7f), (0x1100, 0x11ff), (0x1e00, 0x1fff),
          (0x2000, 0x2bff), (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xfb00, 0xfdff), (0xff00, 0xffef), (0x1f300, 0x1faff), (0x10000, 0x10fff), (0x20000, 0x2a6df),
          (0xe0000, 0xe007f), (0, 0x20)]
GAPS = ["", "", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n ", "7", "42", "2024", "'s", "'LL", "'t ", ". ", ",", "!?", "...", "\u00a0", "\u3000", "\u2028", "\u0085", "x", "e", "a"]
CODE = " ".join(CORPUS[:13]).split(" ")


def old(c):
    """Characters that came later are classed and decomposed differently by libraries of different age."""
    return ord(c) < 0x20 or 0x1f300 <= ord(c) < 0x1f600 or 0x20000 <= ord(c) or unicodedata.ucd_3_2_0.name(c, None) is not None


def piece(r):
    k = r.random()
    if k < 0.35:
        return " ".join(r.choice(CODE) for _ in range(r.randint(1, 6)))
    if k < 0.45:
        return r.choice(TOKENS)
    if k < 0.55:
        return r.choice(["a", "A", "aB", " ", "\n", " \n", "\t", "1", "=", "-", "é", "e\u0301", "\u0301\u0323", "中", "ア", "한", "👍", "👩‍👩", "▁", "ab", "the ", "!", "'s", "\u200d"]) * r.choice([2, 3, 7, 17, 40])
    lo, hi = r.choice(PLANES)
    return "".join(c for c in (chr(r.randint(lo, hi)) for _ in range(r.randint(1, 7))) if old(c))


def text(r):
    return "".join(piece(r) + r.choice(GAPS) for _ in range(r.randint(1, 6)))


def fixed():
    return ["", " ", "  ", "a", " a", "a ", "Hello, world!", "\n", "\n\n\n\n\n", " <s> a</s>  b", "fox foxes fox", "x «left", "<s>", "\u0000a", "\ufeffbom", "▁▁a ▁b", "İI ſS", "a" * 300, " " * 300, "é" * 60,
            "\u0301\u0323" * 70 + "a"]


def dump(out, names, texts):
    for make in names:
        t = make()
        enc = [t.encode(s, add_special_tokens=False).ids for s in texts]
        dec = [t.decode(ids, skip_special_tokens=True) for ids in enc]
        data = {"tokenizer": json.loads(t.to_str()), "ids": enc, "decoded": [None if d == s else d for d, s in zip(dec, texts)]}
        with open(os.path.join(out, make.__name__ + ".json"), "w") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")


def sentencepiece_model(out, texts):
    """No user-defined symbols: where such stand, sentencepiece puts its space elsewhere than llama.cpp."""
    import io

    import gguf
    import sentencepiece as sp

    room = io.BytesIO()
    lines = [x for s in CORPUS for x in s.split("\n") if x.strip()]
    sp.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=room, model_type="bpe", vocab_size=900, byte_fallback=True, character_coverage=0.98,
                                  normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True, num_threads=1, minloglevel=2)
    m = sp.SentencePieceProcessor(model_proto=room.getvalue())
    n = range(m.get_piece_size())
    w = gguf.GGUFWriter(os.path.join(out, "spm.gguf"), "llama")
    w.add_tokenizer_model("llama")
    w.add_token_list([m.id_to_piece(i).encode() for i in n])
    w.add_token_scores([m.get_score(i) for i in n])
    w.add_token_types([2 if m.is_unknown(i) else 3 if m.is_control(i) else 6 if m.is_byte(i) else 1 for i in n])
    w.add_bos_token_id(m.bos_id())
    w.add_eos_token_id(m.eos_id())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    enc = [m.encode(s) for s in texts]
    dec = [m.decode(x) for x in enc]
    with open(os.path.join(out, "spm.json"), "w") as f:
        json.dump({"ids": enc, "decoded": [None if d == s else d for d, s in zip(dec, texts)]}, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    r = random.Random(7)
    os.makedirs(sys.argv[1] if len(sys.argv) < 4 else sys.argv[3], exist_ok=True)
    if len(sys.argv) > 3:
        r = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 99)
        texts, out = [text(r) for _ in range(int(sys.argv[2]))], sys.argv[3]
    else:
        texts, out = fixed() + [text(r) for _ in range(150)], sys.argv[1]
    with open(os.path.join(out, "texts.json"), "w") as f:
        json.dump(texts, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")
    dump(out, FAMILIES, texts)
    sentencepiece_model(out, texts)


main()
