"""Penalties, biases, several choices, log-probabilities of prompts, several adapters on one request."""

import math

import pytest
from openai import BadRequestError
from openai.types import Completion
from openai.types.chat import ChatCompletion

CHAT = [{"role": "user", "content": "Name three colours."}]
PROMPT = "The capital of France is"


def chat(client, base, **kw):
    r = client.chat.completions.create(**{"model": base, "messages": CHAT, "max_tokens": 12, "temperature": 0, **kw})
    ChatCompletion.model_validate(r.model_dump(), strict=True)
    return r


def text(client, base, **kw):
    r = client.completions.create(**{"model": base, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **kw})
    if not (kw.get("echo") and "logprobs" in kw):  # there OpenAI's service says null for the first token, and its types don't know
        Completion.model_validate(r.model_dump())
    return r


def first_ids(client, base):
    return text(client, base, extra_body={"return_token_ids": True}).choices[0].token_ids


def test_a_bias_of_minus_100_forbids_a_token(client, base):
    first = first_ids(client, base)[0]
    r = text(client, base, logit_bias={str(first): -100}, extra_body={"return_token_ids": True})
    assert first not in r.choices[0].token_ids


def test_a_bias_of_100_forces_a_token(client, base):
    first = first_ids(client, base)[0]
    r = text(client, base, logit_bias={str(first): 100}, extra_body={"return_token_ids": True})
    assert set(r.choices[0].token_ids) == {first}


def test_a_bias_for_no_token_is_refused_by_name(client, base):
    with pytest.raises(BadRequestError) as e:
        text(client, base, logit_bias={"99999999": 1})
    assert e.value.param == "logit_bias"


def test_penalties_end_a_repetition(client, base):
    ask = dict(prompt="red red red red red red red", max_tokens=30, extra_body={"ignore_eos": True, "return_token_ids": True})
    plain = text(client, base, **ask).choices[0].token_ids
    for kw in ({"frequency_penalty": 2}, {"presence_penalty": 2, "frequency_penalty": 1}):
        assert len(set(text(client, base, **ask, **kw).choices[0].token_ids)) > len(set(plain))
    ask["extra_body"] = {**ask["extra_body"], "repetition_penalty": 1.5}
    assert len(set(text(client, base, **ask).choices[0].token_ids)) > len(set(plain))


def test_a_typical_set_of_nearly_nothing_is_deterministic(client, base):
    answers = {chat(client, base, temperature=1, seed=s, extra_body={"typical_p": 1e-6}).choices[0].message.content for s in range(4)}
    assert len(answers) == 1


def test_n_choices_differ_and_each_can_be_had_again(client, base):
    r = chat(client, base, n=4, temperature=1.2, seed=5)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    answers = [c.message.content for c in r.choices]
    assert len(set(answers)) > 1
    assert answers == [c.message.content for c in chat(client, base, n=4, temperature=1.2, seed=5).choices]
    assert answers[0] == chat(client, base, temperature=1.2, seed=5).choices[0].message.content


def test_a_prompt_counts_once_for_all_its_choices(client, base):
    one, four = chat(client, base), chat(client, base, n=4)
    assert four.usage.prompt_tokens == one.usage.prompt_tokens
    assert four.usage.completion_tokens == 4 * one.usage.completion_tokens


def test_choices_of_several_prompts_are_numbered_through(client, base):
    r = text(client, base, prompt=[PROMPT, "Two plus two is"], n=2)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert r.choices[0].text == r.choices[1].text != r.choices[2].text == r.choices[3].text


def test_choices_stream_side_by_side(client, base):
    parts, ends = {}, {}
    with client.chat.completions.create(model=base, messages=CHAT, max_tokens=10, temperature=1.2, seed=3, n=3, stream=True,
                                        stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            for c in chunk.choices:
                parts[c.index] = parts.get(c.index, "") + (c.delta.content or "")
                if c.finish_reason:
                    ends[c.index] = c.finish_reason
            usage = chunk.usage
    whole = chat(client, base, max_tokens=10, temperature=1.2, seed=3, n=3)
    assert [parts[i] for i in range(3)] == [c.message.content for c in whole.choices] and len(ends) == 3
    assert usage.completion_tokens == whole.usage.completion_tokens and usage.prompt_tokens == whole.usage.prompt_tokens


def test_too_many_choices_are_refused(client, base):
    with pytest.raises(BadRequestError) as e:
        text(client, base, prompt=["a"] * 64, n=3)
    assert e.value.param == "n"


def test_echo_with_logprobs_scores_the_prompt(client, base):
    """As evaluation harnesses use it: the prompt's own tokens, each given those before it."""
    c = text(client, base, echo=True, logprobs=3, max_tokens=4).choices[0]
    lp = c.logprobs
    assert "".join(lp.tokens) == c.text and c.text.startswith(PROMPT)
    assert lp.token_logprobs[0] is None and lp.top_logprobs[0] is None
    assert all(v <= 0 for v in lp.token_logprobs[1:])
    for i, token in enumerate(lp.tokens):
        assert c.text[lp.text_offset[i]:].startswith(token)
    for best, value in zip(lp.top_logprobs[1:], lp.token_logprobs[1:]):
        assert value <= max(best.values()) + 1e-6


def test_a_prompts_logprobs_are_those_that_an_answer_would_have(client, base):
    answer = text(client, base, logprobs=1, max_tokens=6).choices[0]
    again = text(client, base, prompt=PROMPT + answer.text, echo=True, logprobs=1, max_tokens=1).choices[0]
    n = len(answer.logprobs.tokens)
    assert again.logprobs.tokens[-n - 1:-1] == answer.logprobs.tokens
    for a, b in zip(answer.logprobs.token_logprobs, again.logprobs.token_logprobs[-n - 1:-1]):
        assert math.isclose(a, b, abs_tol=1e-6)


def test_echo_with_logprobs_streams_the_same(client, base):
    whole = text(client, base, echo=True, logprobs=1, max_tokens=4).choices[0]
    tokens, values = [], []
    for chunk in text_stream(client, base):
        if chunk.choices and chunk.choices[0].logprobs:
            tokens += chunk.choices[0].logprobs.tokens
            values += chunk.choices[0].logprobs.token_logprobs
    assert tokens == whole.logprobs.tokens and values == whole.logprobs.token_logprobs


def text_stream(client, base):
    return client.completions.create(model=base, prompt=PROMPT, max_tokens=4, temperature=0, echo=True, logprobs=1, stream=True)


def test_a_stack_of_one_is_that_adapter(client, base, adapters):
    ask = dict(messages=[{"role": "user", "content": "Tell me about the sea."}], max_tokens=24)
    alone = chat(client, adapters["pirate"], **ask).choices[0].message.content
    assert alone == chat(client, base, **ask, extra_body={"adapters": [{"name": adapters["pirate"]}]}).choices[0].message.content
    assert alone != chat(client, base, **ask).choices[0].message.content


def test_a_stack_of_weight_zero_is_the_base(client, base, adapters):
    stack = [{"name": d, "weight": 0} for d in adapters.values()]
    assert chat(client, base).choices[0].message.content == chat(client, base, extra_body={"adapters": stack}).choices[0].message.content


def test_a_stack_does_not_depend_on_its_neighbours(client, base, adapters):
    from concurrent.futures import ThreadPoolExecutor
    names = list(adapters.values())
    stacks = [[], [{"name": names[0]}], [{"name": names[0], "weight": 0.5}, {"name": names[1], "weight": 0.5}],
              [{"name": n, "weight": 0.4} for n in names]]
    ask = lambda s: chat(client, base, max_tokens=20, logprobs=True, extra_body={"adapters": s}).choices[0]
    alone = [ask(s) for s in stacks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, stacks * 4))
    for i, c in enumerate(together):
        assert c == alone[i % 4]


@pytest.mark.parametrize("stack, param", [([{"name": "nobody"}], "adapters"), ([{"name": "x", "weight": 99}], "adapters.weight"), ([{}], "adapters.name")])
def test_a_bad_stack_is_refused_by_name(client, base, stack, param):
    with pytest.raises(Exception) as e:
        chat(client, base, extra_body={"adapters": stack})
    assert e.value.status_code in (400, 404) and e.value.param == param


def sampled(client, base, seed):
    return chat(client, base, temperature=1.1, top_p=0.9, seed=seed, max_tokens=24, frequency_penalty=0.3, logprobs=True).choices[0]


def test_a_seed_gives_the_same_answer_in_a_crowd(client, base):
    from concurrent.futures import ThreadPoolExecutor
    alone = [sampled(client, base, s) for s in range(6)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda s: sampled(client, base, s % 6), range(24))) == alone * 4


def test_guessing_ahead_changes_no_answer(start, client, base):
    """The shared engine guesses, as it does by default; this one doesn't, and keeps no prefixes either."""
    plain = start("--speculate", "0", "--prefix-cache", "off")
    prompt = "SELECT id, name FROM users; SELECT id, name FROM orders; SELECT id, name FROM"
    ask = lambda c, **kw: text(c, base, prompt=prompt, max_tokens=40, logprobs=1, **kw).choices[0]
    with plain.openai() as other:
        for kw in ({}, {"temperature": 0.8, "seed": 7}, {"presence_penalty": 1.0}, {"temperature": 1, "seed": 1, "extra_body": {"guided_regex": "[a-z ,;()]{20,60}"}}):
            assert ask(client, **kw) == ask(other, **kw)
            assert ask(client, **kw) == ask(other, **kw)  # now the first engine knows the answer
    drafted = client._client.get(str(client.base_url).replace("/v1/", "/metrics"), headers={"Authorization": f"Bearer {client.api_key}"}).text
    assert any(l.startswith("weft_spec_accepted_total") and float(l.split()[-1]) > 0 for l in drafted.splitlines())
