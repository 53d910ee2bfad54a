"""What the engine does with a prompt under a gateway's policy (engine/api_policy.c): which turns stay, and what it tells of it."""

import re

import pytest

SYSTEM = {"role": "system", "content": "You are brief."}
WORDS = "The river ran past the old mill and under the stone bridge. " * 6


def turns(n, last="Say hello."):
    """n turns of about ninety tokens, the answers among them, and a last one."""
    out = [SYSTEM]
    for i in range(n):
        out += [{"role": "user", "content": f"Turn {i}: {WORDS}"}, {"role": "assistant", "content": f"Answer {i}."}]
    return out + [{"role": "user", "content": last}]


def ask(engine, messages, policy=None, path="/v1/chat/completions", **more):
    body = {"model": engine.base, "messages": messages, "max_tokens": 4, "temperature": 0, **more}
    if policy:
        body["weft_prompt_policy"] = policy
    r = engine.http.post(path, json=body)
    return r


def ids_of(engine, messages):
    r = ask(engine, messages, path="/weft/v1/tokenize", return_token_ids=True)
    assert r.status_code == 200, r.text
    return r.json()["token_ids"][0]


def read(engine, messages, truncate):
    """The prompt's ids as the model read them, and usage."""
    r = ask(engine, messages, {"truncate": truncate}, return_token_ids=True)
    assert r.status_code == 200, r.text
    return r.json()["prompt_token_ids"], r.json()["usage"]


@pytest.mark.parametrize("truncate,kept", [({"max_tokens": 300}, lambda m: m[:1] + m[-5:]), ({"max_tokens": 60}, lambda m: m[:1] + m[-1:]),
                                           ({"max_tokens": 300, "head_turns": 1}, lambda m: m[:3] + m[-3:]),
                                           ({"max_tokens": 120, "head_turns": 1}, lambda m: m[:3] + m[-1:]),
                                           ({"max_tokens": 300, "last_turns": 3}, lambda m: m[:1] + m[-5:])])
def test_the_oldest_turns_between_head_and_tail_go_until_it_fits(engine, truncate, kept):
    messages = turns(9)
    got, usage = read(engine, messages, truncate)
    assert got == ids_of(engine, kept(messages)) and len(got) <= truncate["max_tokens"]
    details = usage["prompt_tokens_details"]
    assert (details["policy_before_tokens"], details["policy_after_tokens"]) == (len(ids_of(engine, messages)), len(got))
    assert usage["prompt_tokens"] == len(got)


def test_no_turn_more_than_needed_goes_whatever_the_budget(engine):
    messages = turns(7)
    whole = [len(ids_of(engine, messages[:1] + messages[1 + 2 * k:])) for k in range(8)]
    for budget in {n + d for n in whole for d in (-1, 0, 1)} - {whole[-1] - 1}:
        fits = next(k for k in range(8) if whole[k] <= budget)
        assert len(read(engine, messages, {"max_tokens": budget})[0]) == whole[fits]


def test_a_prompt_longer_than_the_context_is_cut_and_one_that_fits_stays(start):
    e = start("--max-context", "512")
    long = turns(12)
    assert ask(e, long).json()["error"]["code"] == "context_length_exceeded"
    r = ask(e, long, {"truncate": {"max_tokens": 400}})
    assert r.status_code == 200 and r.json()["usage"]["prompt_tokens_details"]["policy_before_tokens"] > 512
    short = turns(1)
    assert read(e, short, {"max_tokens": 400})[0] == ids_of(e, short)
    r = ask(e, long, {"truncate": {"max_tokens": 1000}})
    assert r.status_code == 400 and r.json()["error"]["code"] == "context_length_exceeded"


def test_what_is_always_kept_and_too_long_is_refused(engine):
    for truncate in ({"max_tokens": 60, "head_turns": 1}, {"max_tokens": 60, "head_turns": 50}, {"max_tokens": 150, "last_turns": 3}):
        r = ask(engine, turns(4), {"truncate": truncate})
        assert r.status_code == 400 and r.json()["error"]["code"] == "context_length_exceeded", r.text
        assert r.json()["error"]["param"] == "messages" and f"cut to {truncate['max_tokens']} tokens" in r.json()["error"]["message"]


def test_a_completion_keeps_its_first_and_its_last_tokens(engine):
    prompt = list(range(1000, 1200))
    for head in (0, 30):
        r = engine.http.post("/v1/completions", json={"model": engine.base, "prompt": [prompt, prompt[:50]], "max_tokens": 1, "return_token_ids": True,
                                                      "weft_prompt_policy": {"truncate": {"max_tokens": 100, "head_tokens": head}}})
        assert r.status_code == 200, r.text
        choices, usage = r.json()["choices"], r.json()["usage"]
        assert choices[0]["prompt_token_ids"] == prompt[:head] + prompt[-(100 - head):] and choices[1]["prompt_token_ids"] == prompt[:50]
        assert (usage["prompt_tokens_details"]["policy_before_tokens"], usage["prompt_tokens_details"]["policy_after_tokens"]) == (250, 150)


def test_a_stream_and_the_receipt_tell_the_same(engine):
    body = {"model": engine.base, "messages": turns(6), "max_tokens": 3, "stream": True, "weft_prompt_policy": {"truncate": {"max_tokens": 200}}}
    with engine.http.stream("POST", "/v1/chat/completions", json=body, headers={"X-Weft-Request-Id": "policy-1"}) as r:
        text = "".join(r.iter_text())
    before, after = len(ids_of(engine, body["messages"])), len(read(engine, body["messages"], {"max_tokens": 200})[0])
    assert text.count(f": weft-prompt {before} {after}\n\n") == 1
    receipt = engine.receipt("policy-1").json()
    assert (receipt["policy_before_tokens"], receipt["policy_after_tokens"], receipt["prompt_tokens"]) == (before, after, after)
    plain = ask(engine, turns(1)).json()["usage"]["prompt_tokens_details"]
    assert set(plain) == {"cached_tokens"}


@pytest.mark.parametrize("policy", [{"truncate": {}}, {"truncate": {"max_tokens": 8}}, {"truncate": {"max_tokens": "9"}}, {"truncate": []}, [], {"shorten": {}},
                                    {"truncate": {"max_tokens": 100, "head_tokens": 100}}, {"truncate": {"max_tokens": 100, "keep": 1}},
                                    {"truncate": {"max_tokens": 100, "last_turns": 0}}])
def test_what_no_policy_can_say_is_refused_by_its_name(engine, policy):
    body = {"model": engine.base, "messages": turns(1), "max_tokens": 1, "weft_prompt_policy": policy}
    r = engine.http.post("/v1/chat/completions", json=body)
    assert r.status_code == 400 and r.json()["error"]["param"].startswith("weft_prompt_policy"), r.text


# --- compression ---

FILL = "Thank you for calling us. All our lines are busy at the moment. Please hold the line. "
FACT = "The parcel to Lisbon was weighed at 41 kilograms by Ms Okonkwo."
LONG = [SYSTEM, {"role": "user", "content": FILL * 8 + FACT + " " + FILL * 8}, {"role": "assistant", "content": "I see."}, {"role": "user", "content": "How heavy was it?"}]


def compressed(engine, messages=LONG, **how):
    r = ask(engine, messages, {"compress": {"ratio": 0.5, **how}}, return_token_ids=True, max_tokens=8)
    assert r.status_code == 200, r.text
    details = r.json()["usage"]["prompt_tokens_details"]
    return r.json()["prompt_token_ids"], r.json()["usage"]["prompt_tokens"], details["policy_before_tokens"], details["policy_after_tokens"], r.json()["choices"][0]["message"]["content"]


def test_what_is_repeated_goes_and_what_is_new_stays(engine):
    ids, computed, before, after, text = compressed(engine, ratio=0.2)
    assert before == len(ids_of(engine, LONG)) and after == len(ids) and after < 0.3 * before
    assert "41" in text
    fact = ids_of(engine, [{"role": "user", "content": "Oh. " + FACT}])
    inner = fact[-20:-6]  # of the fact itself, whatever stands around it
    assert any(ids[i:i + len(inner)] == inner for i in range(len(ids)))
    assert before + after - 100 < computed < before + after + 20  # the pass over what may be left out is counted


@pytest.mark.parametrize("unit", ["sentence", "word"])
def test_the_system_message_the_last_turn_and_tools_stay_whatever_the_ratio(engine, unit):
    call = [{"role": "assistant", "content": FILL * 3, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": FILL * 3, "tool_call_id": "1"}]
    kept = [{"role": "system", "content": FILL * 3}, {"role": "user", "content": "Hello."}] + call
    last = [{"role": "user", "content": FILL * 3}, {"role": "assistant", "content": FILL * 2}]
    ids, _, before, after, _ = compressed(engine, kept + last, ratio=0.1, unit=unit)
    assert ids == ids_of(engine, kept + last) and before == after
    more = kept[:1] + [{"role": "user", "content": FILL * 12}] + call + last
    ids, _, before, after, _ = compressed(engine, more, ratio=0.1, unit=unit)
    whole, head, tail = ids_of(engine, more), ids_of(engine, kept[:1])[:60], ids_of(engine, [SYSTEM] + last)[-90:]
    assert len(ids) < len(whole) - 200 and ids[:60] == head and ids[-90:] == tail


def prompt_tokens(engine):
    return float(re.search(r"^vllm:prompt_tokens_total(?:\{.*\})? ([0-9.e+]+)$", engine.http.get("/metrics").text, re.M).group(1))


def test_a_prompt_that_fits_with_its_answer_only_when_it_is_compressed_is_answered(start):
    e = start("--max-context", "512")
    before, half = len(ids_of(e, LONG)), {"compress": {"ratio": 0.2}}
    room = 512 - before // 2
    assert ask(e, LONG, max_tokens=room).json()["error"]["code"] == "context_length_exceeded"
    r = ask(e, LONG, half, max_tokens=room, stop=["."])
    assert r.status_code == 200 and r.json()["usage"]["prompt_tokens_details"]["policy_after_tokens"] + room <= 512, r.text
    computed = prompt_tokens(e)
    for more in ({"max_tokens": 512 - before // 8}, {"max_tokens": 512}, {"max_tokens": 8, "min_tokens": 9}):
        r = ask(e, LONG, half, **more)
        assert r.status_code == 400, r.text
    assert ask(e, LONG, {"compress": {"ratio": 0.2, "min_tokens": before + 1}}, max_tokens=room).json()["error"]["code"] == "context_length_exceeded"
    assert prompt_tokens(e) == computed  # nothing was read of what can't fit
    e.assert_idle()


def test_a_prompt_below_the_least_is_left_alone(engine):
    assert compressed(engine, min_tokens=5000)[0] == ids_of(engine, LONG)
    assert compressed(engine, turns(0))[0] == ids_of(engine, turns(0))


def test_the_same_prompt_is_compressed_alike_in_any_company_and_in_a_stream(engine):
    from concurrent.futures import ThreadPoolExecutor
    alone = compressed(engine)[0]
    with ThreadPoolExecutor(6) as pool:
        crowd = [pool.submit(compressed, engine) for _ in range(4)] + [pool.submit(ask, engine, turns(2, f"Say {i}.")) for i in range(4)]
        assert all(f.result()[0] == alone for f in crowd[:4])
    body = {"model": engine.base, "messages": LONG, "max_tokens": 3, "stream": True, "weft_prompt_policy": {"compress": {"ratio": 0.5}}}
    with engine.http.stream("POST", "/v1/chat/completions", json=body, headers={"X-Weft-Request-Id": "compressed-1"}) as r:
        text = "".join(r.iter_text())
    assert f": weft-prompt {len(ids_of(engine, LONG))} {len(alone)}\n\n" in text
    assert engine.receipt("compressed-1").json()["policy_after_tokens"] == len(alone)


def test_truncation_comes_first_and_choices_share_what_is_left(engine):
    messages = LONG[:3] * 1 + turns(3)[1:]
    r = ask(engine, messages, {"truncate": {"max_tokens": 330}, "compress": {"ratio": 0.5}}, n=2, return_token_ids=True)
    assert r.status_code == 200, r.text
    details = r.json()["usage"]["prompt_tokens_details"]
    assert details["policy_before_tokens"] == len(ids_of(engine, messages)) and details["policy_after_tokens"] < 250
    assert len(r.json()["choices"]) == 2


def test_a_client_that_leaves_while_its_prompt_is_scored_leaves_nothing(engine):
    long = [SYSTEM, {"role": "user", "content": WORDS * 60}, {"role": "user", "content": "And?"}]
    for i in range(4):
        with pytest.raises(Exception):
            engine.http.post("/v1/chat/completions", json={"model": engine.base, "messages": long, "max_tokens": 4, "weft_prompt_policy": {"compress": {"ratio": 0.5}}}, timeout=0.05)
    engine.assert_idle()
    assert compressed(engine)[3] > 0


@pytest.mark.parametrize("policy", [{}, {"ratio": 0.05}, {"ratio": 1}, {"ratio": "half"}, {"ratio": 0.5, "unit": "page"}, {"ratio": 0.5, "min_tokens": -1}, {"ratio": 0.5, "x": 1}])
def test_what_no_compression_can_say_is_refused_by_its_name(engine, policy):
    r = ask(engine, LONG, {"compress": policy})
    assert r.status_code == 400 and r.json()["error"]["param"].startswith("weft_prompt_policy"), r.text


def test_a_completion_has_no_turns_to_compress(engine):
    r = engine.http.post("/v1/completions", json={"model": engine.base, "prompt": FILL, "weft_prompt_policy": {"compress": {"ratio": 0.5}}})
    assert r.status_code == 400 and r.json()["error"]["param"] == "prompt"
