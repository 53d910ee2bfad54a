/* The pre-tokenizers that a GGUF names: its `tokenizer.ggml.pre` says how text is split, and nothing else in the file does.
 *
 * A row of the table is a name as it stands there and up to LEVELS patterns, applied one inside the other. A vocabulary that is split
 * otherwise is one more row. Names that llama.cpp knows and this table lacks have patterns that PCRE2 lacks (sets minus sets) or that
 * take quadratic time (look-aheads over all digits): they are refused by name, with all that nobody knows.
 *
 * Sources: the published tokenizer.json of each family; names as llama.cpp's converter writes them. */
#include "engine/tokenizer_impl.h"
#include <string.h>

#define LEVELS 6

#define SPACES "\\s+(?!\\S)|\\s+"
#define LINES "\\s*[\\r\\n]+|"
#define SUFFIX "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|" SPACES
#define CL100K(digits) SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" LINES SPACES
#define UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(suffix, digits)                                                                                          \
    "[^\\r\\n\\p{L}\\p{N}]?" UP "*" LOW "+" suffix "|[^\\r\\n\\p{L}\\p{N}]?" UP "+" LOW "*" suffix "|" digits          \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" LINES SPACES
#define QWEN35 SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES SPACES
#define BAILING                                                                                                        \
    "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|" SPACES
#define SEED SUFFIX "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" LINES SPACES
#define WORDS " ?[^(\\s|.,!?…。，、।۔،)]+"
#define CJK "[一-龥぀-ゟ゠-ヿ]+"
#define DEEPSEEK3                                                                                                      \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "              \
    "?[\\p{P}\\p{S}]+[\\r\\n]*|" LINES SPACES
#define DEEPSEEK_LETTERS                                                                                               \
    "\\s?["                                                                                                            \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"                    \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}"             \
    "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}"                    \
    "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                  \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}"                  \
    "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-"                   \
    "\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"                   \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}"                  \
    "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"                     \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}"                   \
    "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}"                    \
    "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}"                  \
    "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"                  \
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-"                  \
    "\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"                                                             \
    "]+"
#define YOUTU "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" CJK

#define DIGITS3 "\\p{N}{1,3}"
#define LLAMA3                                                                                                         \
    {                                                                                                                  \
        .whole_first = true, .adds_bos = true                                                                          \
    }

const char pre_gpt2[] = GPT2;

static const struct row {
    const char *name;
    const char *pattern[LEVELS];
    struct pre_traits traits;
} rows[] = {
    {"gpt-2", {GPT2}, {0}},
    {"default", {GPT2}, {0}},
    {"phi-2", {GPT2}, {0}},
    {"mpt", {GPT2}, {0}},
    {"olmo", {GPT2}, {0}},
    {"jais", {GPT2}, {0}},
    {"trillion", {GPT2}, {0}},
    {"granite-docling", {GPT2}, {0}},
    {"gigachat", {GPT2}, {0}},
    {"a.x-4.0", {GPT2}, {0}},
    {"mellum", {GPT2}, {0}},
    {"exaone4", {GPT2}, {0}},
    {"smollm", {"\\p{N}", GPT2}, {0}},
    {"starcoder", {"\\p{N}", GPT2}, {0}},
    {"refact", {"\\p{N}", GPT2}, {0}},
    {"command-r", {"\\p{N}", GPT2}, {.nfc = true}},
    {"codeshell", {"\\p{N}", GPT2}, {0}},
    {"exaone", {"\\p{N}", GPT2}, {0}},
    {"minerva-7b", {"\\p{N}", GPT2}, {0}},
    {"mellum2", {"\\p{N}", GPT2}, {0}},
    {"llama-bpe", {CL100K(DIGITS3)}, LLAMA3},
    {"llama3", {CL100K(DIGITS3)}, LLAMA3},
    {"llama-v3", {CL100K(DIGITS3)}, LLAMA3},
    {"falcon3", {CL100K(DIGITS3)}, LLAMA3},
    {"falcon-h1", {CL100K(DIGITS3)}, LLAMA3},
    {"pixtral", {CL100K(DIGITS3)}, LLAMA3},
    {"midm-2.0", {CL100K(DIGITS3)}, LLAMA3},
    {"lfm2", {CL100K(DIGITS3)}, LLAMA3},
    {"dbrx", {CL100K(DIGITS3)}, {0}},
    {"smaug-bpe", {CL100K(DIGITS3)}, {0}},
    {"chatglm-bpe", {CL100K(DIGITS3)}, {0}},
    {"glm4", {CL100K(DIGITS3)}, {.whole_first = true}},
    {"glm5", {CL100K(DIGITS3)}, {.whole_first = true}},
    {"qwen2", {CL100K("\\p{N}")}, {.nfc = true}},
    {"deepseek-r1-qwen", {CL100K("\\p{N}")}, {.nfc = true}},
    {"qwen35", {QWEN35}, {.nfc = true}},
    {"stablelm2", {CL100K("\\p{N}")}, {.nfc = true}},
    {"hunyuan", {CL100K("\\p{N}")}, {0}},
    {"megrez", {CL100K("\\p{N}")}, {.nfc = true}},
    {"grok-2", {CL100K("\\p{N}")}, {0}},
    {"solar-open", {CL100K("\\p{N}")}, {0}},
    {"tekken", {O200K("", "\\p{N}")}, {.whole_first = true, .adds_bos = true}},
    {"gpt-4o", {O200K(SUFFIX "?", DIGITS3)}, {0}},
    {"llama4", {O200K(SUFFIX "?", DIGITS3)}, {0}},
    {"kanana2", {O200K(SUFFIX "?", DIGITS3)}, {0}},
    {"minimax-m2", {O200K(SUFFIX "?", DIGITS3)}, {0}},
    {"deepseek-llm",
     {"[\\r\\n]", DEEPSEEK_LETTERS, "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$", "[一-龥ࠀ-一가-퟿]+", "\\p{N}+"},
     {0}},
    {"deepseek-coder", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[一-龥ࠀ-一가-퟿]+", "\\p{N}"}, {0}},
    {"deepseek-v3", {DIGITS3, CJK, DEEPSEEK3}, {0}},
    {"hunyuan-dense", {DIGITS3, CJK, DEEPSEEK3}, {0}},
    {"joyai-llm", {DIGITS3, CJK, DEEPSEEK3}, {0}},
    {"youtu", {YOUTU, O200K(SUFFIX "?", "\\p{N}")}, {.whole_first = true}},
    {"falcon", {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}, {0}},
    {"bloom", {WORDS}, {0}},
    {"poro-chat", {WORDS}, {0}},
    {"gpt3-finnish", {WORDS}, {0}},
    {"viking", {WORDS, "\\p{N}"}, {0}},
    {"bailingmoe", {BAILING}, {0}},
    {"bailingmoe2", {BAILING}, {0}},
    {"llada-moe", {BAILING}, {0}},
    {"seed-coder", {SEED}, {0}},
    {"laguna", {"[^\\n]+|[\\n]+", CL100K("\\p{N}")}, {0}},
    {"gemma4", {NULL}, {.chars = true}},
    {"sarvam-moe", {NULL}, {.chars = true}},
};

int pre_by_name(struct pre *p, const char *name, size_t len, struct pre_traits *traits, struct err *e)
{
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (strlen(rows[i].name) != len || memcmp(rows[i].name, name, len)) continue;
        for (int k = 0; k < LEVELS && rows[i].pattern[k]; k++)
            if (pre_add_regex(p, rows[i].pattern[k], e)) return -1;
        *traits = rows[i].traits;
        return 0;
    }
    return err_set(
        e, ERR_MODEL,
        "tokenizer.ggml.pre: the pre-tokenizer \"%.*s\" is not known; serve the model's Hugging Face folder, which "
        "spells it out",
        (int)(len < 64 ? len : 64), name);
}
