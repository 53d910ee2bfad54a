"""Tools: in the prompt, forced, and taken out of an answer; the template is a small one of Hermes' manner."""

import json

import pytest
from openai import BadRequestError

TEMPLATE = """{%- if tools %}<|im_start|>system
You may call functions. Answer with <tool_call>
{"name": ..., "arguments": ...}
</tool_call>:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{%- if m.tool_calls %}{% for c in m.tool_calls %}
<tool_call>{{ c.function.arguments.items() | list | length }} {{ c.function | tojson }}</tool_call>{% endfor %}
{%- else %}
{{ m.content }}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather in a city", "strict": True, "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"$ref": "#/$defs/unit"}},
        "required": ["city", "unit"], "additionalProperties": False, "$defs": {"unit": {"enum": ["C", "F"]}}}}},
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}},
                                                                     "required": ["a"], "additionalProperties": False}}},
]
CHAT = [{"role": "user", "content": "How is the weather in Rome?"}]
CALL = r'<tool_call>\n\{"name": "add", "arguments": \{"a": [0-9]\}\}\n</tool_call>'


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    from engine_process import Engine
    folder = tmp_path_factory.mktemp("tools")
    (folder / "t.jinja").write_text(TEMPLATE)
    e = Engine(folder, "--orphan-s", "0", "--chat-template", str(folder / "t.jinja"))
    yield e
    e.close()


def ask(client, base, **kw):
    return client.chat.completions.create(**{"model": base, "messages": CHAT, "max_tokens": 200, "temperature": 0, "tools": TOOLS, **kw})


def call_of(message):
    c = message.tool_calls[0]
    assert c.type == "function" and c.id
    return c.function.name, json.loads(c.function.arguments)


def test_tools_stand_in_the_prompt_unless_they_are_not_to_be_used(client, base):
    with_tools, without, none = ask(client, base, max_tokens=1), ask(client, base, max_tokens=1, tools=[]), ask(client, base, max_tokens=1, tool_choice="none")
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 50
    assert none.usage.prompt_tokens == without.usage.prompt_tokens


def test_a_named_function_is_called(client, base):
    r = ask(client, base, tool_choice={"type": "function", "function": {"name": "get_weather"}})
    name, args = call_of(r.choices[0].message)
    assert name == "get_weather" and set(args) == {"city", "unit"} and args["unit"] in "CF"
    assert r.choices[0].finish_reason == "stop" and r.choices[0].message.content is None


def test_a_required_call_is_made(client, base):
    c = ask(client, base, tool_choice="required").choices[0]
    name, args = call_of(c.message)
    assert name in ("get_weather", "add") and c.finish_reason == "tool_calls"
    assert set(args) == ({"city", "unit"} if name == "get_weather" else {"a"})


def test_a_call_in_the_text_is_taken_out(client, base):
    c = ask(client, base, extra_body={"guided_regex": "Let me see\\.\n" + CALL}).choices[0]
    assert call_of(c.message)[0] == "add" and c.message.content == "Let me see.\n" and c.finish_reason == "tool_calls"


def test_several_calls_are_several_unless_that_is_not_wanted(client, base):
    ask_two = dict(extra_body={"guided_regex": f"{CALL}\n{CALL}"})
    assert len(ask(client, base, **ask_two).choices[0].message.tool_calls) == 2
    assert len(ask(client, base, parallel_tool_calls=False, **ask_two).choices[0].message.tool_calls) == 1


def test_a_forced_call_that_is_cut_short_is_what_there_is_of_it(client, base):
    whole = ask(client, base, tool_choice="required").choices[0].message.tool_calls[0].function
    for n in range(1, 40, 3):
        c = ask(client, base, tool_choice="required", max_tokens=n).choices[0]
        assert not c.message.content
        if c.finish_reason == "length" and c.message.tool_calls:
            f = c.message.tool_calls[0].function
            assert f.name == whole.name and (json.loads(f.arguments) if f.arguments.endswith("}") else f.arguments.startswith("{") or not f.arguments)
    named = ask(client, base, tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=3).choices[0]
    assert named.finish_reason == "length" and named.message.tool_calls[0].function.arguments.startswith("{") and named.message.content is None


def test_without_parallel_calls_one_is_made_and_none_is_lost(client, base):
    for seed in range(12):
        c = ask(client, base, tool_choice="required", parallel_tool_calls=False, temperature=1.5, seed=seed, max_tokens=300).choices[0]
        assert len(c.message.tool_calls) == 1 and c.finish_reason == "tool_calls"
        call_of(c.message)


def test_a_function_without_parameters_takes_none(client, base):
    tools = [{"type": "function", "function": {"name": "now"}}]
    for choice in ("required", {"type": "function", "function": {"name": "now"}}):
        c = ask(client, base, tools=tools, tool_choice=choice, parallel_tool_calls=False, temperature=1, seed=2).choices[0]
        assert call_of(c.message) == ("now", {})


def test_what_is_no_call_stays_text(client, base):
    pattern = r'<tool_call>\{"name": "rm", "arguments": \{\}\}</tool_call>'
    c = ask(client, base, extra_body={"guided_regex": pattern}).choices[0]
    assert c.message.tool_calls is None and c.message.content == '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
    assert c.finish_reason == "stop"


@pytest.mark.parametrize("kw", [{"tool_choice": "required"}, {"extra_body": {"guided_regex": "Well: " + CALL}},
                                {"tool_choice": {"type": "function", "function": {"name": "add"}}}])
def test_a_stream_says_the_same(client, base, kw):
    whole = ask(client, base, **kw).choices[0]
    content, calls, finish = "", {}, None
    with client.chat.completions.create(model=base, messages=CHAT, max_tokens=200, temperature=0, tools=TOOLS, stream=True, **kw) as stream:
        for chunk in stream:
            for c in chunk.choices:
                content += c.delta.content or ""
                finish = c.finish_reason or finish
                for t in c.delta.tool_calls or []:
                    name, args = calls.get(t.index, ("", ""))
                    calls[t.index] = (name + (t.function.name or ""), args + (t.function.arguments or ""))
    assert content == (whole.message.content or "") and finish == whole.finish_reason
    assert [calls[i] for i in sorted(calls)] == [(t.function.name, t.function.arguments) for t in whole.message.tool_calls]


def test_a_conversation_with_calls_is_rendered(client, base):
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = CHAT + [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    assert ask(client, base, messages=messages, max_tokens=4).choices[0].finish_reason in ("length", "stop")


@pytest.mark.parametrize("kw, param", [
    ({"tools": [{"type": "function"}]}, "tools"), ({"tool_choice": {"type": "function", "function": {"name": "rm"}}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [{"type": "function", "function": {"name": "x", "parameters": {"type": "wat"}}}], "tool_choice": "required"}, "tools"),
])
def test_bad_tools_are_refused_by_name(client, base, kw, param):
    with pytest.raises(BadRequestError) as e:
        ask(client, base, **kw)
    assert e.value.param == param
