"""make_tokenizer.py MODEL.gguf OUT.json: what Hugging Face's tokenizers makes of several hundred strings.

The tokenizer is built from the GGUF's own vocabulary and merges, with the pre-tokenizer that SmolLM2's tokenizer.json has (digits one
by one, then GPT-2's byte level). `splits` holds the pieces of other vocabularies' pre-tokenizers (their published patterns, run by
tokenizers' own regex engine) as byte lengths; `nfc` pairs for composition. Bad UTF-8 can't be handed to tokenizers as text: there the
valid parts are encoded by it and each bad run as one piece of the byte alphabet.

    pip install -r requirements.txt && python make_tokenizer.py "$WEFT_MODEL" tokenizer.json
"""
import json
import random
import sys
import unicodedata

from gguf import GGUFReader
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (r"[^\r\n\p{L}\p{N}]?" + UP + "*" + LOW + r"+%s|[^\r\n\p{L}\p{N}]?" + UP + "+" + LOW +
         r"*%s|%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
SPLITS = {
    "gpt-2": [GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "llama-bpe": [CL100K % r"\p{N}{1,3}"],
    "qwen2": [CL100K % r"\p{N}"],
    "tekken": [O200K % ("", "", r"\p{N}")],
    "gpt-4o": [O200K % (SUFFIX, SUFFIX, r"\p{N}{1,3}")],
}

HAND = [
    "", " ", "  ", "a", " a", "a ", "Hello, world!", "Hello,  world!   ", "\n", "\n\n\n", "\r\n\r\n", "a\r\nb\rc\nd", "\t\tif (x) {\n\t\t\treturn 1;\n\t\t}",
    "    def f(self):\n        return self.x  # comment\n", "I'm you're he's they've we'd I'll can't", "I'M YOU'RE HE'S THEY'VE", "'s't're've'm'll'd",
    "1", "12", "123", "1234567890", "3.14159", "2024-11-21T10:04:00Z", "a1b22c333", " 1 22  333", "x  1", "½ ² Ⅷ ٣٤ १२ 一二三 ㊿", "$1,234.56 (USD)",
    "https://example.com/a/b?c=d&e=%20#f", "user@example.org", "foo_bar-baz.qux::quux->x", "SELECT * FROM orders WHERE total > 10;",
    "café naïve Zürich Ærøskøbing", "cafe\u0301 e\u0301\u0302\u0303", "Ελληνικά кириллица עברית العربية", "हिन्दी தமிழ் ไทย 한국어 日本語 中文，标点。", "👍🏽 👨‍👩‍👧‍👦 🇳🇴 ❤️ ☃",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠀀 🜁", "\u00a0\u1680\u2003\u2028\u2029\u202f\u205f\u3000x", "a\u180eb \u180e c", "a\u0085b", "\ufeffbom", "zero\u200bwidth\u200d\u200c", "\u0000\u0001\u001c\u001f\u007f",
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|><|im_end|><|endoftext|>", "<|im_start", "<|im_start|", "<<|im_end|>>", "x<|im_end|>y", " <|im_end|> ",
    "<repo_name>a<file_sep>b<filename>c<gh_stars>", "<reponame><jupyter_code>x = 1", "<empty_output", "ſ 'ſ 'K", "…—–“”‘’«»", "!!!???...,,,;;;", "=====", "-" * 80, " " * 100, "a" * 200,
    "ab" * 100, "\u0301" * 50, " \n" * 40, "\n " * 40, "\t \t ", "x" + " " * 17 + "y", "{\"a\": [1, 2, {\"b\": null}]}", "\\n\\t\\\\", "A" * 33 + "b" * 31,
    "The quick brown fox jumps over the lazy dog. " * 4, "supercalifragilisticexpialidocious antidisestablishmentarianism",
]
BAD = ["ff", "80", "c3", "c328", "e28228", "f09f98", "f0288cbc", "6162ff6364", "20ff20", "c0afc0ae", "eda080", "f4908080", "f8888080", "41c341", "2020e2822020", "fffefdfc",
       "31ff32", "3c7c696d5f656e64ff7c3e", "e282ace282", "c2a0ff0a"]
PLANES = [(0x20, 0x7e), (0xa0, 0x24f), (0x300, 0x36f), (0x370, 0x5ff), (0x600, 0x6ff), (0x900, 0xdff), (0x1e00, 0x1fff), (0x2000, 0x2bff), (0x3000, 0x30ff),
          (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0x1f300, 0x1faff), (0x10000, 0x10fff), (0x20000, 0x2a6df), (0xe0000, 0xe007f)]


def random_text(r):
    out = []
    for _ in range(r.randint(1, 9)):
        lo, hi = r.choice(PLANES)
        # a character without a name is one that two versions of Unicode may class differently
        word = [c for c in (chr(r.randint(lo, hi)) for _ in range(r.randint(1, 7))) if unicodedata.name(c, None)]
        out.append("".join(word) + r.choice(["", " ", "  ", "\n", "\r\n", "\t", "7", "'s", "'LL", ". "]))
    return "".join(out)


def build(path):
    f = GGUFReader(path).fields
    get = lambda k: f["tokenizer.ggml." + k].contents()
    tokens, kinds = get("tokens"), get("token_type")
    merges = [tuple(m.split(" ")) for m in get("merges")]
    t = Tokenizer(models.BPE(vocab={s: i for i, s in enumerate(tokens)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s, k in zip(tokens, kinds) if k == 3])
    return t


def alphabet():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {**{b: chr(b) for b in keep}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def encode_bytes(t, raw):
    """Valid spans by the tokenizer, each maximal run of bytes that begin no character as one piece."""
    ids, byte = [], alphabet()
    while raw:
        try:
            return ids + t.encode(raw.decode(), add_special_tokens=False).ids
        except UnicodeDecodeError as e:
            ids += t.encode(raw[:e.start].decode(), add_special_tokens=False).ids
            end = e.start
            while end < len(raw) and not any(is_char(raw[end:end + n]) for n in (1, 2, 3, 4)):
                end += 1
            ids += [x.id for x in t.model.tokenize("".join(byte[b] for b in raw[e.start:end]))]
            raw = raw[end:]
    return ids


def is_char(b):
    try:
        return len(b.decode()) == 1
    except UnicodeDecodeError:
        return False


def pieces(pattern, text):
    p = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(x), "isolated") for x in pattern])
    return [len(s.encode()) for s, _ in p.pre_tokenize_str(text)]


def main():
    t, r = build(sys.argv[1]), random.Random(20)
    texts = HAND + [random_text(r) for _ in range(300)]
    cases = [{"text": s, "ids": t.encode(s, add_special_tokens=False).ids} for s in texts]
    cases += [{"hex": h, "ids": encode_bytes(t, bytes.fromhex(h))} for h in BAD]
    some = HAND[:46] + [random_text(r) for _ in range(60)]
    splits = [{"pre": name, "cases": [pieces(p, s) for s in some]} for name, p in SPLITS.items()]
    nfc = normalizers.NFC()
    raw = [random_text(r) for _ in range(40)] + ["e\u0301", "\u1100\u1161\u11a8", "\u0958", "a\u0323\u0307", "a\u0307\u0323", "\u212b", "\u09c7\u09be"]
    pairs = [[s, nfc.normalize_str(s)] for s in raw]
    with open(sys.argv[2], "w") as f:
        json.dump({"cases": cases, "split_texts": some, "splits": splits, "nfc": pairs}, f, ensure_ascii=True, separators=(",", ":"))
        f.write("\n")


main()
