"""What OpenAI's own client sees: models, answers, sampling, stops, log-probabilities."""

import pytest

CHAT = [{"role": "user", "content": "Name three colours."}]


def chat(client, base, **kw):
    return client.chat.completions.create(**{"model": base, "messages": CHAT, "max_tokens": 12, "temperature": 0, **kw})


def text(client, base, **kw):
    return client.completions.create(**{"model": base, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0, **kw})


def test_the_models_list_shows_the_base(client, base):
    m = client.models.list().data[0]
    assert (m.id, m.object, m.owned_by) == (base, "model", "weft")
    assert m.max_model_len > 0 and m.parent is None
    assert client.models.retrieve(base) == m


def test_a_chat_answer_has_openais_shape(client, base):
    r = chat(client, base)
    assert r.id.startswith("chatcmpl-") and r.object == "chat.completion" and r.model == base
    assert r.system_fingerprint.startswith("fp_")
    assert len(r.choices) == 1 and r.choices[0].message.role == "assistant" and r.choices[0].message.content
    assert r.choices[0].finish_reason == "length" and r.choices[0].logprobs is None
    assert r.usage.completion_tokens == 12 and r.usage.total_tokens == r.usage.prompt_tokens + 12
    assert r.usage.prompt_tokens_details.cached_tokens >= 0


def test_a_chat_ends_by_itself_within_the_rest_of_the_context(client, base):
    r = client.chat.completions.create(model=base, messages=[{"role": "user", "content": "Say hello."}], temperature=0)
    assert r.choices[0].finish_reason == "stop"


def test_the_base_knows_paris(client, base):
    assert text(client, base).choices[0].text.startswith(" Paris")


def test_greedy_answers_repeat(client, base):
    assert chat(client, base).choices[0].message.content == chat(client, base).choices[0].message.content


def test_a_seed_repeats_and_another_differs(client, base):
    one, same, other = (chat(client, base, temperature=1.5, seed=s, max_tokens=24).choices[0].message.content for s in (1, 1, 2))
    assert one == same != other


def test_without_a_seed_answers_vary(client, base):
    assert len({chat(client, base, temperature=1.8, max_tokens=24).choices[0].message.content for _ in range(4)}) > 1


def test_top_k_of_one_is_greedy(client, base):
    assert chat(client, base, temperature=1, extra_body={"top_k": 1}).choices[0].message.content == chat(client, base).choices[0].message.content


def test_max_tokens_of_completions_defaults_to_16(client, base):
    r = client.completions.create(model=base, prompt="Once upon a time", extra_body={"ignore_eos": True})
    assert r.usage.completion_tokens == 16


def test_max_completion_tokens_is_the_newer_name(client, base):
    r = client.chat.completions.create(model=base, messages=CHAT, max_completion_tokens=3, temperature=0)
    assert r.usage.completion_tokens == 3


def test_text_parts_are_joined(client, base):
    parts = [{"type": "text", "text": "Name three"}, {"type": "text", "text": "colours."}]
    whole = chat(client, base, messages=[{"role": "user", "content": "Name three\ncolours."}])
    assert chat(client, base, messages=[{"role": "user", "content": parts}]).choices[0].message == whole.choices[0].message


def test_token_ids_are_a_prompt_too(engine, client, base):
    r = engine.http.post("/weft/v1/tokenize", json={"model": base, "prompt": "The capital of France is", "return_token_ids": True}).json()
    ids = r["token_ids"][0]
    assert r["prompt_tokens"] == len(ids) == text(client, base).usage.prompt_tokens
    expected = text(client, base).choices[0].text
    assert text(client, base, prompt=ids).choices[0].text == expected
    assert text(client, base, prompt=[ids]).choices[0].text == expected


def test_tokenize_counts_a_chat_as_the_chat_does(engine, client, base):
    r = engine.http.post("/weft/v1/tokenize", json={"model": base, "messages": CHAT}).json()
    assert r["prompt_tokens"] == chat(client, base).usage.prompt_tokens


def test_several_prompts_are_answered_each_as_alone(client, base):
    prompts = ["The capital of France is", "Two plus two is", "Roses are red,"]
    alone = [text(client, base, prompt=p) for p in prompts]
    r = text(client, base, prompt=prompts)
    assert [c.index for c in r.choices] == [0, 1, 2]
    assert [c.text for c in r.choices] == [a.choices[0].text for a in alone]
    assert r.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)
    assert r.usage.completion_tokens == sum(a.usage.completion_tokens for a in alone)


def test_echo_puts_the_prompt_before_the_answer(client, base):
    assert text(client, base, echo=True).choices[0].text == "The capital of France is" + text(client, base).choices[0].text


@pytest.mark.parametrize("stop", [".", ["!!", "."], ["aris."]])
def test_a_stop_string_ends_the_text_before_it(client, base, stop):
    full = text(client, base, max_tokens=16).choices[0].text
    c = text(client, base, max_tokens=16, stop=stop).choices[0]
    word = stop if isinstance(stop, str) else stop[-1]
    assert c.text == full[:full.index(word)] and c.finish_reason == "stop"


def test_a_stop_token_id_ends_the_text(engine, client, base):
    r = text(client, base, extra_body={"return_token_ids": True})
    ids = r.choices[0].token_ids
    assert len(ids) == 8
    c = text(client, base, extra_body={"stop_token_ids": [ids[1]]})
    assert c.choices[0].finish_reason == "stop" and c.usage.completion_tokens == 2
    assert c.choices[0].text == " Paris"


def test_ignore_eos_goes_on_to_max_tokens(client, base):
    ask = dict(messages=[{"role": "user", "content": "Say hello."}], max_tokens=150)
    assert chat(client, base, **ask).choices[0].finish_reason == "stop"
    r = chat(client, base, **ask, extra_body={"ignore_eos": True})
    assert r.choices[0].finish_reason == "length" and r.usage.completion_tokens == 150


def test_min_tokens_holds_the_end_back(client, base):
    ask = dict(messages=[{"role": "user", "content": "Say hello."}], max_tokens=150)
    short = chat(client, base, **ask).usage.completion_tokens
    assert chat(client, base, **ask, extra_body={"min_tokens": short + 5}).usage.completion_tokens >= short + 5


def test_chat_logprobs_say_what_was_chosen(client, base):
    r = chat(client, base, logprobs=True, top_logprobs=3)
    entries = r.choices[0].logprobs.content
    assert len(entries) == r.usage.completion_tokens
    assert b"".join(bytes(e.bytes) for e in entries).decode() == r.choices[0].message.content
    for e in entries:
        assert len(e.top_logprobs) == 3 and e.logprob <= 0
        assert e.top_logprobs[0].token == e.token and e.top_logprobs[0].logprob == e.logprob  # greedy
        values = [t.logprob for t in e.top_logprobs]
        assert values == sorted(values, reverse=True)


def test_chat_logprobs_without_alternatives(client, base):
    assert all(e.top_logprobs == [] for e in chat(client, base, logprobs=True).choices[0].logprobs.content)


def test_the_end_token_has_no_logprob(client, base):
    r = chat(client, base, messages=[{"role": "user", "content": "Say hello."}], max_tokens=150, logprobs=True)
    entries = r.choices[0].logprobs.content
    assert r.choices[0].finish_reason == "stop" and len(entries) == r.usage.completion_tokens - 1
    assert b"".join(bytes(e.bytes) for e in entries).decode() == r.choices[0].message.content


def test_completion_logprobs_are_parallel_lists(client, base):
    c = text(client, base, logprobs=2).choices[0]
    lp = c.logprobs
    assert "".join(lp.tokens) == c.text
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset) == 8
    for i, token in enumerate(lp.tokens):
        assert c.text[lp.text_offset[i]:].startswith(token)
        assert lp.top_logprobs[i][token] == lp.token_logprobs[i] == max(lp.top_logprobs[i].values())


def test_logprobs_sum_to_no_more_than_one(client, base):
    import math
    for e in chat(client, base, logprobs=True, top_logprobs=20).choices[0].logprobs.content:
        assert 0.05 < sum(math.exp(t.logprob) for t in e.top_logprobs) <= 1.0001


def test_fields_that_change_nothing_are_accepted(client, base):
    r = chat(client, base, n=1, frequency_penalty=0, presence_penalty=0, logit_bias={}, user="u", store=False, metadata={"a": "b"},
             response_format={"type": "text"}, extra_body={"repetition_penalty": 1.0, "something_new": {"x": 1}})
    assert r.choices[0].message.content == chat(client, base).choices[0].message.content
