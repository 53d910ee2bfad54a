"""Batch invariance: what a request gets doesn't depend on who else is in the step, to the last bit of its log-probabilities."""

from concurrent.futures import ThreadPoolExecutor

PROMPTS = ["Tell me about ships.", "List all users older than 30.", "My order never arrived!", "What is the capital of France?"]


def requests(base, adapters):
    models = [base, adapters["pirate"], adapters["sql"], adapters["triage"]]
    for i in range(8):
        yield {"model": models[i % 4], "messages": [{"role": "user", "content": PROMPTS[(i * 3) % 4] * (1 + i)}], "max_tokens": 24,
               "temperature": 0 if i < 4 else 1, "seed": i, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}


def answers(engine, bodies, workers):
    def one(body):
        with engine.client() as c:
            r = c.post("/v1/chat/completions", json=body)
        assert r.status_code == 200, r.text
        return r.json()["choices"]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(one, bodies))


def test_eight_at_once_over_four_models_are_bit_equal_to_each_alone(engine, base, adapters):
    bodies = list(requests(base, adapters))
    alone = answers(engine, bodies, 1)
    for _ in range(3):
        assert answers(engine, bodies, 8) == alone
    assert "".join(m["adapters"] for m in metrics_adapters(engine)) != "0"  # some step did hold several adapters


def metrics_adapters(engine):
    import re
    return [m.groupdict() for m in re.finditer(r'weft_step_adapters_total\{adapters="(?P<adapters>\d+)"\}', engine.http.get("/metrics").text)]


def test_metrics_count_what_was_served(engine, base):
    def value(name):
        import re
        m = re.search(rf"^{re.escape(name)} (\S+)$", engine.http.get("/metrics").text, re.M)
        return float(m.group(1)) if m else 0
    names = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total", 'vllm:request_success_total{finished_reason="length"}',
             'weft_http_requests_total{route="/v1/completions",status="200"}']
    before = [value(n) for n in names]
    r = engine.http.post("/v1/completions", json={"model": base, "prompt": "The capital of", "max_tokens": 7, "ignore_eos": True}).json()
    engine.assert_idle()
    assert [value(n) - b for n, b in zip(names, before)] == [r["usage"]["prompt_tokens"], 7, 1, 1]
