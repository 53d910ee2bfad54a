"""make_chat_templates.py [--table TEST_CHAT] FOLDER [OUT.json]: what transformers makes of published chat templates.

FOLDER holds one *.jinja per model; every template renders every conversation that concerns it, by transformers' own
renderer (its sandbox, tojson, generation blocks, the names it gives reasoning), with the date frozen. tests/golden/
chat_templates holds those whose licence allows it. Others (the sources of llama-cpp-python bring about 70 under
vendor/llama.cpp/models/templates) are compared without being kept:

    python make_chat_templates.py chat_templates chat_templates.json
    python make_chat_templates.py --table ../../build/release/tests/unit/test_chat_templates SOME_FOLDER
"""
import json
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils as ctu

NOW = datetime(2026, 1, 15, 12, 0, 0, tzinfo=timezone.utc)


class Frozen(datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


ctu.datetime = Frozen


def user(s):
    return {"role": "user", "content": s}


def call(id, name, args):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": args}}


def calling(*calls, content=""):
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def result(id, name, s):
    return {"role": "tool", "tool_call_id": id, "name": name, "content": s}


SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "assistant", "content": "Hello! "}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather, now & \"later\"", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "description": "Name"},
                                         "days": {"type": "integer", "description": "Days", "enum": [1, 3]}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "add", "description": "Sum", "parameters": {
        "type": "object", "properties": {"terms": {"type": "array", "description": "What", "items": {"type": "number"}},
                                         "how": {"type": "object", "description": "How", "properties": {"round": {"type": "boolean"}}}}, "required": ["terms"]}}},
]
ONE = call("a1B2c3D4e", "get_weather", {"city": "Oslo", "days": 3})
TWO = call("f5G6h7I8j", "add", {"terms": [1, 2.5, -3], "how": {"round": True, "é<\"": None}})
EMPTY = call("k9L0m1N2o", "add", {})
THOUGHT = {"role": "assistant", "content": "It is 4.", "reasoning_content": "2 + 2, so 4."}
COLD, SUM = result("a1B2c3D4e", "get_weather", '{"t": -2.5}'), result("f5G6h7I8j", "add", "0.5")

# name: messages, tools, add_generation_prompt, further variables
TALKS = {
    "plain": ([user("Hi")], None, True, {}),
    "no prompt": ([user("Hi"), HI], None, False, {}),
    "system": ([SYSTEM, user("Hi, \"you\" & <me>\n")], None, True, {}),
    "turns": ([SYSTEM, user("Hi"), HI, user("Zürich 你好 👍")], None, True, {}),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}], None, True, {}),
    "tools": ([user("Weather?")], TOOLS, True, {}),
    "tools and system": ([SYSTEM, user("Weather?")], TOOLS, True, {}),
    "call": ([user("Weather?"), calling(ONE)], TOOLS, False, {}),
    "call with null content": ([user("Weather?"), calling(ONE, content=None)], TOOLS, False, {}),
    "two calls": ([user("Weather?"), calling(ONE, TWO)], TOOLS, False, {}),
    "call without arguments": ([user("Add"), calling(EMPTY)], TOOLS, False, {}),
    "call with words": ([user("Weather?"), calling(ONE, content="I look.")], TOOLS, False, {}),
    "result": ([SYSTEM, user("Weather?"), calling(ONE), COLD], TOOLS, True, {}),
    "results": ([user("Weather?"), calling(ONE, TWO), COLD, SUM], TOOLS, True, {}),
    "after": ([user("Weather?"), calling(ONE), COLD, {"role": "assistant", "content": "Cold."}, user("Thanks")], TOOLS, True, {}),
    "arguments as text": ([user("Weather?"), calling(call("a1B2c3D4e", "get_weather", '{"city": "Oslo"}'))], TOOLS, False, {}),
    "no thinking": ([user("Hi")], None, True, {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}),
    "thinking": ([SYSTEM, user("2+2?"), THOUGHT, user("Sure?")], None, True, {"enable_thinking": True, "thinking": True}),
    "thought in text": ([user("2+2?"), {"role": "assistant", "content": "<think>\nsum\n</think>\n\nIt is 4."}, user("Sure?")], None, True, {}),
    "thought by another name": ([user("2+2?"), {"role": "assistant", "content": "4", "reasoning": "sum"}], None, False, {}),
    "date": ([SYSTEM, user("Hi")], None, True, {"date_string": "26 Jul 2024", "current_date": "2024-07-26"}),
    "two users": ([user("a"), user("b")], None, True, {}),
    "unknown role": ([{"role": "narrator", "content": "x"}], None, True, {}),
    "nobody": ([], None, True, {}),
}


def place_tools(source, messages, tools, extra):
    """Some templates don't read `tools`: Phi-4-mini's wants them as text in the system message, SmolLM3's under another
    name. Callers of transformers see to that themselves; we do it for ours."""
    if tools and "message['tools']" in source:
        system = messages[0] if messages and messages[0]["role"] == "system" else {"role": "system", "content": ""}
        rest = messages[1:] if messages and messages[0]["role"] == "system" else messages
        messages = [system | {"tools": json.dumps(tools, ensure_ascii=False)}, *rest]
    return messages, extra | ({"xml_tools": tools} if tools and "xml_tools" in source else {})


def render(source, messages, tools, add, extra):
    messages, extra = place_tools(source, messages, tools, extra)
    try:
        out, _ = ctu.render_jinja_template([messages], tools=tools, chat_template=source, add_generation_prompt=add,
                                           bos_token="<s>", eos_token="</s>", **extra)
        return {"want": out[0]}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"[:160]}


def renderings(folder):
    files = sorted(Path(folder).glob("*.jinja"))
    out = []
    for f in files:
        source = f.read_text()
        got = {name: render(source, *talk) for name, talk in TALKS.items()}
        out.append({"template": f.name, "renderings": got})
    return {"made with": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}", "now": int(NOW.timestamp()),
            "talks": {n: {"messages": m, "tools": t, "add_generation_prompt": a, "extra": x} for n, (m, t, a, x) in TALKS.items()},
            "templates": out}


def main():
    args = sys.argv[1:]
    test = None
    if args[0] == "--table":
        test, args = args[1], args[2:]
    made = renderings(args[0])
    out = args[1] if len(args) > 1 else tempfile.mkstemp(suffix=".json")[1]
    with open(out, "w") as f:
        json.dump(made, f, ensure_ascii=False, indent=0)
        f.write("\n")
    n = sum(len(t["renderings"]) for t in made["templates"])
    errors = sum("error" in r for t in made["templates"] for r in t["renderings"].values())
    print(f"{len(made['templates'])} templates, {n} renderings, {errors} of them refusals: {out}", file=sys.stderr)
    if test:
        sys.exit(subprocess.run([test, args[0], out]).returncode)


main()
