"""What tests/vllm/run does, in its order:

1. weft-engine behind a gateway answers every case of tests/golden/demo.json: the texts to compare with
2. a gateway whose only engine is a vLLM gets the demo adapters and the same cases
3. texts, counts (the answer's, the usage row's, vLLM's own sums), streams, an adapter that vLLM lost, one that is deleted"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path

import httpx

from vllm_server import BASE, HERE, Server, folder as made

TOP = HERE.parents[1]
sys.path.insert(0, str(TOP / "tests/e2e/gateway"))

from gateway_process import Gateway, events, until  # noqa: E402

CASES = json.loads((TOP / "tests/golden/demo.json").read_text())["cases"]
NAMES = ("triage", "sql", "pirate")
KEY = "key-of-the-vllm-under-test"
LEAST = 0.9
STREAM_EVERY = 4


def ask(tenant, case, **more):
    body = {"model": case["adapter"] or BASE, "messages": case["messages"], "temperature": 0, "max_tokens": len(case["tokens"]), **more}
    with tenant.http() as c:
        r = c.post("/v1/chat/completions", json=body)
    assert r.status_code == 200, f"{r.status_code} {r.text}"
    return r


def text_of(r):
    return r.json()["choices"][0]["message"]["content"].strip()


def prepared(gateway):
    tenant = gateway.tenant("demo")
    for name in NAMES:
        r = tenant.upload(name)
        assert r.status_code == 201, r.text
    return tenant


def by_weft_engine(folder, model):
    """Its answers, and how it describes the base."""
    gateway = Gateway(folder, "--precision", "exact", model=model)
    try:
        tenant = prepared(gateway)
        return [text_of(ask(tenant, case)) for case in CASES], gateway.engine_state()["base"]
    finally:
        gateway.close()


def join(gateway, server, described):
    row = {"name": "vllm", "kind": "vllm", "base": BASE, "url": server.url, "model": BASE, "secret": KEY, "local": True, "settings": {"base": described}}
    r = gateway.admin.post("/admin/v1/engines", json=row)
    assert r.status_code == 201, r.text
    until(lambda: gateway.admin.get("/admin/v1/engines/vllm").json()["status"]["state"] == "ready", what="vLLM in the pool")


def sums(server):
    """Tokens of all requests so far, as vLLM counts them."""
    page = httpx.get(server.url + "/metrics", timeout=10).text
    return [int(float(re.search(rf"^vllm:{name}_total{{[^}}]*}} (\S+)", page, re.M).group(1))) for name in ("prompt_tokens", "generation_tokens")]


def residents(server):
    data = httpx.get(server.url + "/v1/models", headers={"Authorization": f"Bearer {KEY}"}, timeout=10).json()["data"]
    return {m["id"] for m in data if m["parent"]}


def check_row(tenant, r):
    usage, row = r.json()["usage"], tenant.usage(r.headers["x-request-id"])
    assert (row["input_tokens"], row["output_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"]), (usage, row)
    assert row["engine"] == "vllm" and row["state"] == "completed", row
    return row


def golden(tenant, rows):
    texts = []
    for case in CASES:
        r = ask(tenant, case)
        assert r.json()["model"] == (case["adapter"] or BASE), r.text
        rows.append(check_row(tenant, r))
        texts.append(text_of(r))
    return texts


def streamed(tenant, case, rows):
    body = {"model": case["adapter"] or BASE, "messages": case["messages"], "temperature": 0, "max_tokens": len(case["tokens"]), "stream": True}
    with tenant.http() as c, c.stream("POST", "/v1/chat/completions", json=body) as r:
        assert r.status_code == 200, r.read()
        data, done = events(r.iter_lines())
    assert done and not [x for x in data if "usage" in x]
    assert {x["model"] for x in data} == {case["adapter"] or BASE}
    rows.append(tenant.usage(r.headers["x-request-id"]))
    return "".join(x["choices"][0]["delta"].get("content") or "" for x in data).strip()


def check_streams(tenant, texts, rows):
    """One request at a time a stream is the same answer, counted the same."""
    for i in range(0, len(CASES), STREAM_EVERY):
        assert streamed(tenant, CASES[i], rows) == texts[i], CASES[i]["messages"][-1]
        assert rows[-1]["output_tokens"] == rows[i]["output_tokens"] and rows[-1]["state"] == "completed", (rows[-1], rows[i])
    return len(range(0, len(CASES), STREAM_EVERY))


def check_loss(tenant, server, texts, rows):
    """An adapter that vLLM has no more is loaded again; one that is deleted here goes there too."""
    held = residents(server)
    assert len(held) == len(NAMES), held
    for digest in held:
        httpx.post(server.url + "/v1/unload_lora_adapter", json={"lora_name": digest}, headers={"Authorization": f"Bearer {KEY}"}, timeout=30).raise_for_status()
    first = next(i for i, c in enumerate(CASES) if c["adapter"])
    r = ask(tenant, CASES[first])
    rows.append(check_row(tenant, r))
    assert text_of(r) == texts[first]
    assert len(residents(server)) == 1
    with tenant.http() as c:
        assert c.delete(f"/v1/adapters/{CASES[first]['adapter']}").status_code in (200, 204)
    until(lambda: not residents(server), what="the deleted adapter's end in vLLM")


def check_sums(server, before, rows):
    after = sums(server)
    ours = [sum(r["input_tokens"] for r in rows), sum(r["output_tokens"] for r in rows)]
    assert [a - b for a, b in zip(after, before)] == ours, f"vLLM counted {before} -> {after}, the ledger {ours}"
    return ours


def share(texts, others):
    return sum(a == b for a, b in zip(texts, others)) / len(texts)


def through_vllm(folder, server, described):
    gateway = Gateway(folder, "--pool-only", "true", model="", ready=False)
    try:
        join(gateway, server, described)
        tenant, rows, before = prepared(gateway), [], sums(server)
        texts = golden(tenant, rows)
        streams = check_streams(tenant, texts, rows)
        check_loss(tenant, server, texts, rows)
        return texts, streams, check_sums(server, before, rows)
    finally:
        gateway.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    p.add_argument("--same-weights", action="store_true")
    p.add_argument("--json")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        ours, described = by_weft_engine(folder / "weft", str(made() / "SmolLM2-135M-Instruct") if args.same_weights else None)
        with Server(folder / "vllm.log", args.dtype, key=KEY) as server:
            texts, streams, counted = through_vllm(folder / "gateway", server, described)
    golden_texts = [c["text"].strip() for c in CASES]
    result = {"dtype": args.dtype, "same_weights": args.same_weights, "cases": len(CASES), "as_weft_engine": share(texts, ours), "as_peft": share(texts, golden_texts),
              "weft_engine_as_peft": share(ours, golden_texts), "streams": streams, "prompt_tokens": counted[0], "output_tokens": counted[1]}
    for case, a, b in zip(CASES, texts, ours):
        if a != b:
            print(f"# {case['adapter'] or 'base'}: smallest gap {case['min_gap']:.3g}\n#   weft-engine {b!r}\n#   vLLM        {a!r}")
    print(json.dumps(result, indent=1))
    print(f"{result['as_weft_engine']:.1%} of {len(CASES)} answers are the same as weft-engine's; {counted[0]} + {counted[1]} tokens counted as by vLLM")
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if result["as_weft_engine"] >= LEAST else 1)


if __name__ == "__main__":
    main()
