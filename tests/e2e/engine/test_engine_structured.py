"""Structured output: whatever the model would like to say, the answer keeps to the shape."""

import json
import re

import pydantic
import pytest
from openai import BadRequestError

CHAT = [{"role": "user", "content": "Describe a person as JSON: name, age, tags."}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "mood": {"enum": ["glad", "sad"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "mood", "tags"],
    "additionalProperties": False,
}


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=20)
    age: int = pydantic.Field(ge=0, le=130)
    tags: list[str] = pydantic.Field(min_length=1, max_length=3)


def ask(client, base, **kw):
    return client.chat.completions.create(**{"model": base, "messages": CHAT, "max_tokens": 300, "temperature": 0, **kw})


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": schema}}


@pytest.mark.parametrize("temperature", [0, 1, 1.8])
def test_an_answer_keeps_to_its_schema(client, base, temperature):
    for seed in range(4):
        c = ask(client, base, response_format=schema_format(SCHEMA), temperature=temperature, seed=seed).choices[0]
        if c.finish_reason == "length":
            continue
        v = json.loads(c.message.content)
        assert list(v) == ["name", "age", "mood", "tags"] and 0 <= v["age"] <= 130 and v["mood"] in ("glad", "sad")
        assert len(v["name"]) <= 20 and 1 <= len(v["tags"]) <= 3
        assert c.finish_reason == "stop"


def test_openais_parse_gets_its_pydantic_model(client, base):
    r = client.chat.completions.parse(model=base, messages=CHAT, response_format=Person, temperature=0, max_tokens=300)
    assert isinstance(r.choices[0].message.parsed, Person)


def test_a_json_object_is_one(client, base):
    c = ask(client, base, response_format={"type": "json_object"}, max_tokens=400).choices[0]
    if c.finish_reason == "stop":
        assert isinstance(json.loads(c.message.content), dict)
    assert c.message.content.lstrip().startswith("{")


@pytest.mark.parametrize("extra, pattern", [
    ({"guided_regex": r"[A-Z][a-z]{2,5}-\d{3}"}, r"[A-Z][a-z]{2,5}-\d{3}"),
    ({"structured_outputs": {"regex": r"(yes|no), [a-f]+!"}}, r"(yes|no), [a-f]+!"),
    ({"guided_choice": ["positive", "negative", "neutral"]}, "positive|negative|neutral"),
    ({"structured_outputs": {"choice": ["ja", "nein"]}}, "ja|nein"),
    ({"guided_regex": "[äöü]{4}"}, "[äöü]{4}"),
])
def test_a_pattern_is_matched_as_a_whole(client, base, extra, pattern):
    for seed in range(3):
        c = ask(client, base, extra_body=extra, temperature=1, seed=seed, max_tokens=60).choices[0]
        assert c.finish_reason == "length" or re.fullmatch(pattern, c.message.content), c.message.content


def test_completions_take_shapes_too(client, base):
    r = client.completions.create(model=base, prompt="Answer:", max_tokens=20, temperature=0, extra_body={"guided_json": {"type": "integer", "minimum": 10, "maximum": 99}})
    assert 10 <= json.loads(r.choices[0].text) <= 99


def test_a_shape_streams_and_is_whole(client, base):
    text = ""
    with client.chat.completions.create(model=base, messages=CHAT, temperature=0, max_tokens=300, stream=True, response_format=schema_format(SCHEMA)) as s:
        for chunk in s:
            if chunk.choices:
                text += chunk.choices[0].delta.content or ""
    assert text == ask(client, base, response_format=schema_format(SCHEMA)).choices[0].message.content


def test_a_shape_with_an_adapter_and_choices(client, adapters):
    r = ask(client, adapters["pirate"], response_format=schema_format(SCHEMA), n=3, temperature=1, seed=1)
    for c in r.choices:
        if c.finish_reason == "stop":
            json.loads(c.message.content)


def test_biases_do_not_break_a_shape(client, base):
    every = {str(i): -100 for i in range(1000)}  # the single characters are among them
    for extra in ({"guided_choice": ["A", "B"]}, {"guided_regex": "[0-9]{3}"}):
        r = client.chat.completions.create(model=base, messages=[{"role": "user", "content": "Say."}], max_tokens=20, temperature=0, logit_bias=every, extra_body=extra)
        assert re.fullmatch("A|B|[0-9]{3}", r.choices[0].message.content), r.choices[0]


def test_shapes_run_beside_free_answers(client, base):
    from concurrent.futures import ThreadPoolExecutor
    free = ask(client, base, max_tokens=40)
    shaped = ask(client, base, response_format=schema_format(SCHEMA))
    calls = [dict(max_tokens=40), dict(response_format=schema_format(SCHEMA))] * 4
    with ThreadPoolExecutor(8) as pool:
        for i, r in enumerate(pool.map(lambda kw: ask(client, base, **kw), calls)):
            assert r.choices[0].message.content == (shaped if i % 2 else free).choices[0].message.content


BOMB = {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 20} for i in range(20)} | {"d20": {"type": "string"}}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize("kw, param", [
    ({"response_format": schema_format({"type": "wat"})}, "response_format"),
    ({"response_format": schema_format({"type": "object", "patternProperties": {"(": {}}})}, "response_format"),
    ({"response_format": schema_format({"not": {"type": "string"}})}, "response_format"),
    ({"extra_body": {"guided_regex": "(a{1,1000}){1,1000}"}}, "guided_regex"),
    ({"extra_body": {"guided_regex": "(a"}}, "guided_regex"),
    ({"extra_body": {"guided_regex": r"(a)\1"}}, "guided_regex"),
    ({"extra_body": {"guided_grammar": "root ::= 'a'"}}, "guided_grammar"),
])
def test_a_shape_that_cannot_be_served_is_refused_by_name(client, base, kw, param):
    with pytest.raises(BadRequestError) as e:
        ask(client, base, **kw)
    assert e.value.param == param and len(e.value.message) > 20


def test_a_schema_bomb_is_refused_or_harmless(client, base):
    try:
        ask(client, base, response_format=schema_format(BOMB), max_tokens=5)
    except BadRequestError as e:
        assert e.param == "response_format"
