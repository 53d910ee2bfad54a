"""What a request says of its answer, through the gateway with OpenAI's client: several choices, biases, shapes, tools, log-probabilities; and what
of it all is counted, the prompt that was found in the cache included."""

import json
import math
import re
import time
import uuid

import openai
import pydantic
import pytest

from gateway_process import BASE, events, until

CHAT = [{"role": "user", "content": "Describe a person as JSON: name and age."}]
ADD = {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"], "additionalProperties": False}}}


class Person(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=12)
    age: int = pydantic.Field(ge=0, le=130)


@pytest.fixture
def own(tenants):
    return tenants["all"]


@pytest.fixture
def client(own):
    with own.openai() as c:
        yield c


def ask(client, **kw):
    return client.chat.completions.create(**{"model": BASE, "messages": CHAT, "max_tokens": 24, "temperature": 0, **kw})


def raw(resource, **kw):
    """The parsed answer and its request id."""
    r = resource.with_raw_response.create(**{"model": BASE, "temperature": 0, **kw})
    return r.parse(), r.headers["x-request-id"]


def assert_booked(tenant, request_id, usage, **more):
    row = tenant.usage(request_id)
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
    assert (row["state"], row["input_tokens"], row["input_cached_tokens"], row["output_tokens"], row["produced_tokens"]) == (
        "completed", usage.prompt_tokens, cached, usage.completion_tokens, usage.completion_tokens), (row, usage)
    assert {k: row[k] for k in more} == more
    return row


# --- several choices ---

def test_the_tokens_of_all_choices_are_counted_and_the_prompt_once(own, client):
    one, _ = raw(client.chat.completions, messages=CHAT, max_tokens=9, extra_body={"ignore_eos": True})
    four, request_id = raw(client.chat.completions, messages=CHAT, max_tokens=9, n=4, temperature=1, seed=3, extra_body={"ignore_eos": True})
    assert [c.index for c in four.choices] == [0, 1, 2, 3] and len({c.message.content for c in four.choices}) > 1
    assert four.usage.completion_tokens == 4 * 9 and four.usage.prompt_tokens == one.usage.prompt_tokens
    assert_booked(own, request_id, four.usage, endpoint="/v1/chat/completions")


def test_several_prompts_with_several_choices(own, client):
    r, request_id = raw(client.completions, prompt=["One", "Two", "Three of them"], n=2, best_of=2, max_tokens=5, temperature=1, extra_body={"ignore_eos": True})
    assert len(r.choices) == 6 and r.usage.completion_tokens == 6 * 5
    alone = [client.completions.create(model=BASE, prompt=p, max_tokens=1).usage.prompt_tokens for p in ("One", "Two", "Three of them")]
    assert r.usage.prompt_tokens == sum(alone)
    assert_booked(own, request_id, r.usage)


@pytest.mark.parametrize("options", [{}, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
def test_a_stream_of_choices_is_counted_whether_usage_is_asked_for_or_not(own, options):
    body = {"model": BASE, "messages": CHAT, "n": 3, "max_tokens": 7, "temperature": 1, "seed": 1, "ignore_eos": True, "stream": True,
            **({"stream_options": options} if options else {})}
    with own.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
        lines = list(r.iter_lines())
        request_id = r.headers["x-request-id"]
    assert not [x for x in lines if x.startswith(":")]
    chunks, done = events(lines)
    assert done and {c["choices"][0]["index"] for c in chunks if c["choices"]} == {0, 1, 2}
    row = own.usage(request_id)
    assert (row["state"], row["output_tokens"], row["produced_tokens"], row["stream"]) == ("completed", 21, 21, 1)
    if options:
        usage = chunks[-1]["usage"]
        assert chunks[-1]["choices"] == [] and usage["completion_tokens"] == 21
        assert (row["input_tokens"], row["input_cached_tokens"]) == (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])
    else:
        assert not [c for c in chunks if c.get("usage")] and row["input_tokens"] > 0


def test_a_client_that_leaves_choices_is_billed_what_it_was_sent(real, own):
    body = {"model": BASE, "messages": CHAT, "n": 4, "max_tokens": 800, "ignore_eos": True, "stream": True, "temperature": 1}
    read = 0
    with own.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
        request_id = r.headers["x-request-id"]
        for line in r.iter_lines():
            read += line.startswith("data:")
            if read == 20:
                break
    row = own.usage(request_id)
    assert row["state"] == "client_abort" and 0 < row["output_tokens"] <= row["produced_tokens"] < 3200
    until(lambda: (s := real.engine_state())["running"] == 0 and s["pages"]["used"] == 0)


@pytest.mark.parametrize("kw, param", [({"n": 0}, "n"), ({"n": 129}, "n"), ({"n": "2"}, "n"), ({"n": 2.5}, "n"), ({"n": 100, "prompt": ["a", "b"]}, "n"),
                                       ({"best_of": 3, "n": 2}, "best_of"), ({"logit_bias": {"x": 1}}, "logit_bias"),
                                       ({"logit_bias": {"5": 101}}, "logit_bias"), ({"logit_bias": {"999999": 1}}, "logit_bias")])
def test_what_cannot_be_is_refused_by_name_and_costs_nothing(own, kw, param):
    with own.http() as c:
        r = c.post("/v1/completions", json={"model": BASE, "prompt": "x", "max_tokens": 2, **kw})
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text
    rows = [x for x in own.usage_rows() if x["id"] == r.headers["x-request-id"]]
    assert all((x["state"], x["output_tokens"], x["input_tokens"]) == ("rejected", 0, 0) for x in rows)


# --- what may be said ---

def test_a_bias_forces_a_token_and_bans_one(client):
    plain, _ = raw(client.completions, prompt="The sea is", max_tokens=1, extra_body={"return_token_ids": True})
    first = plain.choices[0].model_extra["token_ids"][0]
    banned, _ = raw(client.completions, prompt="The sea is", max_tokens=1, logit_bias={str(first): -100}, extra_body={"return_token_ids": True})
    other = banned.choices[0].model_extra["token_ids"][0]
    assert other != first
    forced, _ = raw(client.completions, prompt="Once", max_tokens=3, logit_bias={str(other): 100}, extra_body={"return_token_ids": True})
    assert forced.choices[0].model_extra["token_ids"] == [other] * 3


def test_shapes_pass_through(own, client):
    r = client.chat.completions.parse(model=BASE, messages=CHAT, response_format=Person, temperature=0, max_tokens=200)
    assert isinstance(r.choices[0].message.parsed, Person)
    r = ask(client, extra_body={"guided_regex": r"[A-Z]{3}-\d{2}"}, temperature=1)
    assert re.fullmatch(r"[A-Z]{3}-\d{2}", r.choices[0].message.content)
    r = ask(client, extra_body={"structured_outputs": {"choice": ["ja", "nein"]}}, model="pirate")
    assert r.choices[0].message.content in ("ja", "nein") and r.model == "pirate"
    r, request_id = raw(client.completions, prompt="Number:", max_tokens=8, extra_body={"guided_json": {"type": "integer", "minimum": 10, "maximum": 99}})
    assert 10 <= json.loads(r.choices[0].text) <= 99
    assert_booked(own, request_id, r.usage)


def test_a_shape_that_cannot_be_served_is_refused_by_name(client):
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, extra_body={"guided_regex": r"(a)\1"})
    assert e.value.param == "guided_regex" and len(e.value.message) > 20
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, model="pirate", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}})
    assert e.value.param == "response_format"


TEMPLATE = """{%- if tools %}<|im_start|>system
<tool_call>
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_without_a_place_for_tools_in_the_template_they_are_refused(client):
    with pytest.raises(openai.BadRequestError) as e:
        ask(client, tools=[ADD], tool_choice="required")
    assert "template" in e.value.message


def test_a_forced_tool_is_called_and_counted(start, tmp_path):
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    own = start("--chat-template", tmp_path / "t.jinja", "--prefix-cache", "false", "--speculate", "0").tenant("solo")
    client = own.openai()
    kw = dict(messages=CHAT, tools=[ADD], tool_choice={"type": "function", "function": {"name": "add"}}, max_tokens=60)
    r, request_id = raw(client.chat.completions, **kw)
    [call] = r.choices[0].message.tool_calls
    assert call.function.name == "add" and set(json.loads(call.function.arguments)) == {"a"}
    assert_booked(own, request_id, r.usage)
    name, args = "", ""
    for chunk in ask(client, stream=True, **kw):
        for c in chunk.choices:
            for t in c.delta.tool_calls or []:
                name, args = name + (t.function.name or ""), args + (t.function.arguments or "")
    assert (name, args) == ("add", call.function.arguments)


def test_log_probabilities_of_chat(own, client):
    r, request_id = raw(client.chat.completions, messages=CHAT, max_tokens=6, logprobs=True, top_logprobs=3, n=2)
    for c in r.choices:
        assert len(c.logprobs.content) >= 1 and all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in c.logprobs.content)
        assert all(t.logprob == t.top_logprobs[0].logprob for t in c.logprobs.content)  # greedy
    assert_booked(own, request_id, r.usage)


def test_echo_with_log_probabilities_scores_the_prompt_and_bills_the_answer(own, client):
    r, request_id = raw(client.completions, prompt="The capital of France is", echo=True, logprobs=2, max_tokens=3)
    lp, c = r.choices[0].logprobs, r.choices[0]
    assert c.text.startswith("The capital of France is") and "".join(lp.tokens) == c.text
    assert len(lp.tokens) == r.usage.prompt_tokens + r.usage.completion_tokens == len(lp.token_logprobs)
    assert lp.token_logprobs[0] is None and all(x <= 0 and math.isfinite(x) for x in lp.token_logprobs[1:])
    assert r.usage.completion_tokens == 3
    assert_booked(own, request_id, r.usage)
    body = {"model": BASE, "prompt": "The capital of France is", "echo": True, "logprobs": 2, "max_tokens": 3, "temperature": 0, "stream": True}
    with own.http() as h, h.stream("POST", "/v1/completions", json=body) as s:
        chunks, done = events(list(s.iter_lines()))
        request_id = s.headers["x-request-id"]
    assert done and "".join(x["choices"][0]["text"] for x in chunks if x["choices"]) == c.text
    assert own.usage(request_id)["output_tokens"] == 3


# --- strict ---

SERVED = {
    "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "typical_p": 0.95, "seed": 1, "stop": ["zzz"], "stop_token_ids": [3], "max_tokens": 4,
    "min_tokens": 1, "ignore_eos": False, "skip_special_tokens": True, "presence_penalty": 0.1, "frequency_penalty": 0.1, "repetition_penalty": 1.1,
    "logit_bias": {"5": 1}, "stream": False, "return_token_ids": True, "add_special_tokens": False, "user": "u", "cache_salt": "mine",
    "metadata": {"a": "b"}, "adapters": [{"name": "sql", "weight": 0.5}],
}
SHAPES = [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"choice": ["a", "b"]}}, {"guided_json": {"type": "integer"}},
          {"guided_regex": "[a-z]+"}, {"guided_choice": ["a", "b"]}]
CHAT_ONLY = {"messages": CHAT, "logprobs": True, "top_logprobs": 1, "max_completion_tokens": 3, "add_generation_prompt": True, "chat_template_kwargs": {"x": 1},
             "tools": [ADD], "tool_choice": "none", "parallel_tool_calls": False, "store": False, "service_tier": "auto"}
OLDER_ONLY = {"prompt": "x", "logprobs": 1, "best_of": 2, "echo": True, "suffix": None}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    from gateway_process import Gateway
    g = Gateway(tmp_path_factory.mktemp("strict"), "--strict", "true")
    t = g.tenant("solo")
    assert t.upload("sql").status_code == 201
    yield t
    g.close()


@pytest.mark.parametrize("path, extra", [("/v1/chat/completions", CHAT_ONLY), ("/v1/completions", OLDER_ONLY)])
def test_strict_mode_lets_all_that_is_served_pass_and_nothing_else(strict, path, extra):
    with strict.http() as c:
        for shape in [{}] + SHAPES:
            r = c.post(path, json={"model": BASE, **SERVED, **extra, **shape})
            assert r.status_code == 200, r.text
        r = c.post(path, json={"model": BASE, **SERVED, **extra, "stream": True, "stream_options": {"include_usage": True}})
        assert r.status_code == 200 and events(r.text.split("\n"))[1]
        for unknown in ("temprature", "Temperature", "guided_json ", "xn"):
            r = c.post(path, json={"model": BASE, **extra, unknown: 1})
            assert r.status_code == 400 and (e := r.json()["error"])["code"] == "unsupported_parameter" and e["param"] == unknown, r.text


# --- the prefix cache ---

def long_chat():
    """The first of its tokens are like no other's, the template's few aside."""
    facts = " ".join(f"Fact {i} is that {i} is {'even' if i % 2 == 0 else 'odd'}." for i in range(60))
    return [{"role": "system", "content": str(uuid.uuid4())}, {"role": "user", "content": facts}]


def cached(usage):
    return usage.prompt_tokens_details.cached_tokens


@pytest.mark.parametrize("model", [BASE, "sql"])
def test_the_second_time_a_long_prompt_is_cached_and_the_row_says_so(own, client, model):
    messages = long_chat()
    first, one = raw(client.chat.completions, model=model, messages=messages, max_tokens=8)
    second, two = raw(client.chat.completions, model=model, messages=messages, max_tokens=8)
    assert cached(first.usage) == 0 and 0 < cached(second.usage) < second.usage.prompt_tokens
    assert cached(second.usage) > second.usage.prompt_tokens - 64
    assert first.choices[0].message.content == second.choices[0].message.content
    assert assert_booked(own, one, first.usage)["input_cached_tokens"] == 0
    assert assert_booked(own, two, second.usage)["input_cached_tokens"] == cached(second.usage)


def test_a_streams_cached_tokens_are_booked(own, client):
    messages = long_chat()
    ask(client, messages=messages, max_tokens=2)
    with own.http() as c, c.stream("POST", "/v1/chat/completions", json={"model": BASE, "messages": messages, "max_tokens": 5, "stream": True, "n": 2,
                                                                         "stream_options": {"include_usage": True}}) as r:
        chunks, done = events(list(r.iter_lines()))
        request_id = r.headers["x-request-id"]
    usage = chunks[-1]["usage"]
    assert done and 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]
    row = own.usage(request_id)
    assert (row["input_tokens"], row["input_cached_tokens"]) == (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


def test_two_tenants_never_share_a_prompt(tenants):
    messages = long_chat()
    for _ in range(2):
        for name, expect in (("sql", False), ("pirate", False)) if _ == 0 else (("sql", True), ("pirate", True)):
            r, request_id = raw(tenants[name].openai().chat.completions, messages=messages, max_tokens=4)
            assert (cached(r.usage) > 0) == expect
            assert_booked(tenants[name], request_id, r.usage)


def test_neither_do_adapters_nor_stacks_of_other_weights(client):
    messages = long_chat()
    def seen(**kw):
        return cached(ask(client, messages=messages, max_tokens=2, **kw).usage) > 0
    ways = [{}, {"model": "sql"}, {"model": "pirate"}]
    ways += [{"extra_body": {"adapters": a}} for a in ([{"name": "sql", "weight": 0.5}], [{"name": "sql", "weight": 0.25}],
                                                       [{"name": "sql", "weight": 0.5}, {"name": "pirate", "weight": 0.5}])]
    assert [seen(**w) for w in ways] == [False] * len(ways)
    assert [seen(**w) for w in ways] == [True] * len(ways)


def test_a_client_cannot_choose_its_salt(tenants):
    messages = long_chat()
    for name in ("sql", "pirate"):
        r, _ = raw(tenants[name].openai().chat.completions, messages=messages, max_tokens=2, extra_body={"cache_salt": "the same"})
        assert cached(r.usage) == 0


def test_the_sums_of_usage_hold_the_cached_tokens(own, client):
    def total():
        with own.http() as c:
            page = c.get("/v1/usage", params={"start_time": int(time.time()) - 86400}).json()
        return sum(r["input_cached_tokens"] for b in page["data"] for r in b.get("results", [b]))
    before = until(lambda: total() is not None and [total()])[0]
    messages = long_chat()
    got = 0
    for _ in range(2):
        r, request_id = raw(client.chat.completions, messages=messages, max_tokens=2)
        own.usage(request_id)
        got += cached(r.usage)
    assert got > 0 and until(lambda: total() == before + got, what="the sums")
