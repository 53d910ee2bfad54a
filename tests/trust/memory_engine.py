"""R5's second half: the same faults in weft-engine. Every route is asked, requests for text in all their shapes, while one allocation, or a few in a row,
fails; then once more without a fault.

Any answer without an error is held against the one that the same request had before: a struck request may be refused, broken off or served, but what it
is given is right: a whole answer is the same text, a stream a beginning of it that ends in an error event, or all of it. The next one is always all of it. In the
end nothing runs, waits or is pinned, and the program ends by itself with LeakSanitizer content. The model is a tiny one, so that the time goes into requests."""
import dataclasses
import json
import os
import random
import shutil
import sys

import httpx

from faults.shim import Shim
from memory_walk import ANSWER_S, FARTHEST, Walk
from trust import TOP

sys.path.insert(0, str(TOP / "tests/e2e/engine"))
import engine_process
from engine_process import Engine, adapter_digest

ASAN = TOP / "build/asan/weft-engine"
MODEL = TOP / "tests/golden/families/llama3"
TEMPLATE = ("{% if tools %}<tool_call>{{ tools[0].function.name }}{% endif %}{% for message in messages %}{{ message['role'][0] + ':' + message['content'] + '|' }}"
            "{% for c in message.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}"
            "{% if add_generation_prompt %}a:{% endif %}")
VOLATILE = {"id", "created", "prompt_tokens_details"}  # what differs from one right answer to the next
FRESH = "NNN"  # a number in its place, another one each time: what was compiled for it is not found again
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"title": FRESH, "type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}}}]
OLD = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]}}}]
CALLED = {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": [1, true]}"}}]}
COMBINED = {"title": FRESH, "$defs": {"n": {"type": ["integer", "null"], "minimum": 1, "maximum": 30}},
            "allOf": [{"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}, "k": {"enum": ["p", "q", 7]}}, "required": ["a"]},
                      {"properties": {"a": {"type": ["integer", "string"], "maximum": 12}, "k": {"enum": ["q", 7, "r"]}}, "required": ["k"], "additionalProperties": False}],
            "oneOf": [{"type": "object", "properties": {"k": {"const": k}}, "required": ["k"]} for k in ("q", 7)]}
SCHEMA = {"title": FRESH, "type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}}, "required": ["a", "b"], "additionalProperties": False}
ROUTES = {"chat": "/v1/chat/completions", "text": "/v1/completions", "count": "/weft/v1/tokenize"}


@dataclasses.dataclass
class Case:
    name: str
    method: str
    path: str
    body: object = None
    first: str = ""       # what is done before each try, without a fault: "load", "unload"
    shape: bool = False   # of the answer only the names are the same each time
    refused: int = 0      # the status of a request that nobody can serve
    headers: dict = dataclasses.field(default_factory=dict)


def ask(name, kind, model, body, **more):
    words = {"model": model, "max_tokens": 6, "temperature": 0, **body}
    return Case(name, "POST", ROUTES[kind], words, headers={"X-Weft-Request-Id": "r5-" + name.replace(" ", "-"), "X-Weft-Tenant": "t" + str(len(name) % 3)}, **more)


def texts(base, one, two):
    """Requests for text: every field that has memory of its own."""
    hi, prompt = {"messages": [{"role": "user", "content": "select"}]}, {"prompt": "abcabcabc"}
    told = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "logprobs": True, "top_logprobs": 3, "return_token_ids": True}
    return [
        ask("chat", "chat", base, hi), ask("chat stream", "chat", base, {**hi, "stream": True}), ask("chat told", "chat", base, {**hi, **told}),
        ask("chat adapter", "chat", one, {**hi, "stream": True}), ask("chat stack", "chat", base, {**hi, "adapters": [{"name": one, "weight": 0.5}, {"name": two, "weight": 1}]}),
        ask("chat choices", "chat", base, {**hi, "n": 3, "temperature": 1, "seed": 7, "top_p": 0.9, "presence_penalty": 0.5}),
        ask("chat choices stream", "chat", base, {**hi, "n": 3, "seed": 7, "stream": True}),
        ask("chat stops", "chat", base, {**hi, "stop": ["zz", "qqq"], "stop_token_ids": [3, 4], "min_tokens": 2, "logit_bias": {"70": 5, "71": -5}}),
        ask("chat long", "chat", base, {**hi, "max_tokens": 60, "stream": True, "ignore_eos": True}),
        ask("chat harmless", "chat", base, {**hi, "length_penalty": 1, "function_call": "auto", "modalities": ["text"], "best_of": 1, "reasoning_effort": "none", "cache_salt": "s"}),
        ask("chat schema", "chat", base, {**hi, "max_tokens": 40, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}}),
        ask("chat combined", "chat", base, {**hi, "max_tokens": 40, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": COMBINED}}}),
        ask("chat schema as text", "chat", base, {**hi, "max_tokens": 40, "guided_json": json.dumps(SCHEMA)}),
        ask("chat object", "chat", base, {**hi, "max_tokens": 12, "response_format": {"type": "json_object"}, "stream": True}),
        ask("chat regex", "chat", base, {**hi, "structured_outputs": {"regex": "[a-c]{2,4}(x|yz)+[0-9]|z" + FRESH}}),
        ask("chat choice", "chat", base, {**hi, "guided_choice": ["red", "green", "blue", "z" + FRESH]}),
        ask("chat tools", "chat", base, {**hi, "max_tokens": 60, "tools": TOOLS, "tool_choice": "required"}),
        ask("chat tools stream", "chat", base, {**hi, "max_tokens": 60, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}}, "stream": True}),
        ask("chat tools auto", "chat", base, {**hi, "tools": TOOLS, "chat_template_kwargs": {"k": [1, {"x": "y"}]}}),
        ask("chat called", "chat", base, {"messages": [hi["messages"][0], CALLED, {"role": "tool", "tool_call_id": "c1", "content": "7"}], "tools": OLD, "max_tokens": 4}),
        ask("chat too long", "chat", base, {"messages": [{"role": "user", "content": "select " * 2000}]}, refused=400),
        ask("text", "text", base, prompt), ask("text several", "text", one, {"prompt": ["ab", "cd", "ef"], "n": 2, "seed": 1, "stream": True}),
        ask("text ids", "text", base, {"prompt": [5, 9, 17, 33, 20], "return_token_ids": True}),
        ask("text echo", "text", base, {**prompt, "echo": True, "logprobs": 3}), ask("count", "count", base, {**hi, "return_token_ids": True}),
        ask("count several", "count", one, {"prompt": ["abc", "de"], "return_token_ids": True}),
        ask("no model", "chat", "nobody", hi, refused=404), ask("not loaded", "chat", "0" * 64, hi, refused=404),
        ask("beam", "text", base, {**prompt, "use_beam_search": True}, refused=400), ask("too long", "text", base, {"prompt": "ab " * 200}, refused=400),
    ]


def cases(base, load, two):
    one = load["lora_name"]
    return texts(base, one, two) + [
        Case("health", "GET", "/health"), Case("ready", "GET", "/ready"), Case("hello", "GET", "/weft/v1/hello?nonce=" + "ab" * 32, shape=True),
        Case("metrics", "GET", "/metrics", shape=True), Case("models", "GET", "/v1/models"), Case("model", "GET", f"/v1/models/{base}"),
        Case("adapter", "GET", f"/v1/models/{one}"), Case("state", "GET", "/weft/v1/state", shape=True), Case("trace", "GET", "/weft/v1/trace", shape=True),
        Case("receipt", "GET", "/weft/v1/receipts/r5-chat", shape=True), Case("no receipt", "GET", "/weft/v1/receipts/nobody", refused=404),
        Case("nowhere", "GET", "/v1/nothing", refused=404), Case("no json", "POST", "/v1/completions", b'{"model": ', refused=400),
        Case("load", "POST", "/v1/load_lora_adapter", load, first="unload"), Case("load again", "POST", "/v1/load_lora_adapter", load),
        Case("load elsewhere", "POST", "/v1/load_lora_adapter", {**load, "lora_path": "/etc"}, first="unload", refused=400),
        Case("unload", "POST", "/v1/unload_lora_adapter", {"lora_name": one}, first="load"), Case("selftest", "POST", "/weft/v1/selftest", {"digest": two}),
    ]


def plain(v):
    """Without what differs each time."""
    if isinstance(v, dict):
        return {k: "call" if k == "id" and "function" in v else plain(x) for k, x in v.items() if k not in VOLATILE or "function" in v}
    return [plain(x) for x in v] if isinstance(v, list) else v


def names(v):
    """The names in it, at every depth; of a list those of its first."""
    if isinstance(v, dict):
        return {k: names(x) for k, x in v.items()}
    return [names(x) for x in v[:1]] if isinstance(v, list) else None


def families(text):
    return sorted({line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")})


def events(text):
    """The data of a stream, each choice's in its order (who of them comes first is nobody's promise), and whether its last piece is whole."""
    pieces = text.split("\n\n")
    data = [d if d == "[DONE]" else plain(json.loads(d)) for d in (p[6:] for p in pieces if p.startswith("data: "))]
    return sorted(data, key=choice_of), pieces[-1] == ""


def choice_of(event):
    choices = event.get("choices") if isinstance(event, dict) else None
    return choices[0]["index"] if choices else 99


def essence(case, r):
    """What a right answer to the case always is."""
    kind = r.headers.get("content-type", "")
    if "event-stream" in kind:
        return events(r.text)[0]
    if case.name == "metrics":
        return [f for f in families(r.text) if f.startswith("vllm:num_requests_") or f.endswith("_tokens_total")]
    if "json" not in kind:
        return r.text
    if case.name == "trace":
        return {k: names(v) if isinstance(v, list) and k == "steps" else None for k, v in r.json().items()}
    if case.name == "state":
        return names({k: v for k, v in r.json().items() if k != "tenants"})
    return names(r.json()) if case.shape else plain(r.json())


class EngineWalk(Walk):
    """load: the body that loads the adapter, which comes and goes."""

    def __init__(self, e, shim, rng, load):
        super().__init__(e, shim, rng)
        self.right, self.load, self.sent = {}, load, 0
        self.case = self.loading = Case("load again", "POST", "/v1/load_lora_adapter", load)
        self.http = httpx.Client(base_url=e.url, headers={"Authorization": f"Bearer {e.token}"}, timeout=ANSWER_S)

    def send(self):
        c = self.case
        body = c.body
        if body is not None and not isinstance(body, bytes):
            self.sent += 1
            body = json.dumps(body).replace(FRESH, f"{self.sent % 1000:03}").encode()
        return self.http.request(c.method, c.path, headers=c.headers, content=body)

    def look(self, what, r):
        """An answer of a request that was struck."""
        c, right = self.case, self.right[self.case.name]
        if r.status_code in (503, 500):
            return
        if r.status_code != (c.refused or 200) or c.refused and essence(c, r) != right:
            self.wrong("blamed on the client", f"{what}: {r.status_code} {r.text[:160]}")
        elif "event-stream" in r.headers.get("content-type", ""):
            self.look_at_stream(what, r.text, right)
        elif r.status_code == 200 and essence(c, r) != right:
            self.wrong("wrong answers", f"{what}: {str(essence(c, r))[:300]} instead of {str(right)[:300]}")

    def look_at_stream(self, what, text, right):
        got, whole = events(text)
        failed = bool(got) and isinstance(got[-1], dict) and "error" in got[-1]
        got = got[:-1] if failed else got
        if not whole or got != right and not (failed and self.begins(got, right)):
            self.wrong("wrong answers", f"{what}: {str(got)[-300:]} instead of {str(right)[-300:]}")

    def begins(self, got, right):
        """Each choice's events are the first of that choice's."""
        def of(list, i):
            return [x for x in list if choice_of(x) == i]
        return all(of(right, i)[:len(of(got, i))] == of(got, i) for i in range(8))

    def first(self):
        if self.case.first:
            self.http.post(f"/v1/{self.case.first}_lora_adapter", json=self.load if self.case.first == "load" else {"lora_name": self.load["lora_name"]})

    def serve(self):
        """The next one, without a fault, is right."""
        c = self.case
        try:
            r = self.send()
        except httpx.TransportError as e:
            self.wrong("not served", f"{c.name}: {e!r}")
            return
        if r.status_code != (c.refused or 200):
            self.wrong("not served", f"{c.name}: {r.status_code} {r.text[:160]}")
        elif r.status_code == 200 and essence(c, r) != self.right[c.name]:
            self.wrong("wrong answers", f"{c.name}, the next one: {str(essence(c, r))[:300]} instead of {str(self.right[c.name])[:300]}")

    def learn(self, case):
        """The right answer, twice the same."""
        self.case = case
        for _ in range(2):
            self.first()
            r = self.send()
            assert r.status_code == (case.refused or 200), f"{case.name}: {r.status_code} {r.text}"
            was = self.right.setdefault(case.name, essence(case, r))
            assert was == essence(case, r), f"{case.name}: {was}\n{essence(case, r)}"

    def points(self, case, n):
        self.case, far = case, FARTHEST
        for _ in range(n):
            at, times = self.point(far)
            self.first()
            if not self.strike(case.name, self.send, at, times, self.look):
                far = max(8, at)
            if case.name != "unload":  # it may have been done
                self.serve()
        self.restore()

    def every(self, case, step):
        """Every allocation, or one in `step`."""
        self.case, at = case, self.rng.randrange(step)
        while self.strike(case.name, self.send, at, 1, self.look):
            at += step
            self.serve()
        self.serve()

    def restore(self):
        self.case = self.loading
        self.serve()


def adapters(store):
    """Folders of two on the same base: the model's own, and one that is as large and weighs otherwise."""
    for name in ("one", "two"):
        shutil.copytree(MODEL / "adapter", store / name)
    config = json.loads((store / "two/adapter_config.json").read_text())
    (store / "two/adapter_config.json").write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] / 2}))
    return store / "one", store / "two"


def run(t, e, shim, folders):
    base = e.state()["base"]
    one, two = ({"lora_name": adapter_digest(f, base["digest"]), "lora_path": str(f)} for f in folders)
    walk = EngineWalk(e, shim, random.Random(5), one)
    assert e.http.post("/v1/load_lora_adapter", json=two).status_code == 200
    all = cases(base["name"], one, two["lora_name"])
    walk.learn(walk.loading)
    for c in all:
        walk.learn(c)
        walk.restore()
    for c in all:
        walk.points(c, t.size(8 if c.method == "GET" else 2, 30))
    for c in all[:2]:
        walk.every(c, t.size(24, 1))
    e.assert_idle()
    walk.http.close()
    return walk


def check(t):
    asan = ASAN.exists() and "WEFT_ENGINE" not in os.environ
    if asan:
        engine_process.PROGRAM = str(ASAN)
    folder = t.folder / "engine"
    store = folder / "store"
    store.mkdir(parents=True)
    (folder / "t.jinja").write_text(TEMPLATE)
    with Shim(t.folder, "weft-engine") as shim:
        e = Engine(folder, "--orphan-s", "0", "--chat-template", str(folder / "t.jinja"), "--threads", "1", "--kv-mb", "4", "--adapter-mb", "8", "--max-slots", "4",
                   "--max-rank", "64", "--precision", "exact", model=MODEL, store=store, env=shim.env(asan))
        try:
            assert shim.pid == e.process.pid, "the shim is not in the engine"
            walk = run(t, e, shim, adapters(store))
            code = e.terminate()
        finally:
            if e.process.poll() is None:
                e.process.kill()
                e.process.wait()
    tail = e.tail()
    for line in walk.bad[:12]:
        print(line)
    if code:
        print(tail)
    t.count("points in the engine", walk.count["points"], least=t.size(60, 600))
    t.count("allocations that failed in the engine", walk.count["failed"], least=walk.count["points"])
    for what in ("not served", "hung", "not an error of ours", "blamed on the client", "wrong answers"):
        t.count(f"{what} by the engine", walk.count[what], most=0)
    t.count("crashes of the engine", int(code not in (0, 77)), most=0)
    if asan:
        t.count("leaks of the engine", e.log.read_text().count("ERROR: LeakSanitizer"), most=0)
    if t.whole:
        t.count("of it under ASan and UBSan, in the engine", int(asan), least=1)
    t.note("engine: " + walk.told(asan))
