"""R22, privacy: canaries are sent as prompts, drawn out as answers and carried as keys, through every route, rightly and wrongly; afterwards they stand nowhere: not in logs at
their loudest, the data folder, open files, metrics, traces, exports, webhooks, events, error texts, other answers or core files."""
import base64
import concurrent.futures
import gzip
import itertools
import json
import os
import re
import resource
import signal
import socket
import time
import zlib
from pathlib import Path

import httpx

from api_document import Document
from gateway_process import BASE, Gateway, events, until
from otlp_collector import Collector
from trust import TOP, row, without
from webhook_process import Inbox, make

MARK = "q7vXw9ZkPn"  # in every canary, and in no program, model or key
PROMPT, ANSWER, STORED = f"Prompt{MARK}", f"Answer{MARK}", f"Stored{MARK}"


def forms(text):
    """The bytes that would give a text away: as it is, in capitals, hex, UTF-16, or base64 at any offset."""
    raw = text.encode()
    out = {raw, raw.upper(), raw.lower(), raw.hex().encode(), text.encode("utf-16-le"), raw[::-1]}
    for shift in range(3):
        out.add(base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4])
    return out


class Search:
    def __init__(self):
        self.secrets, self.found, self.looked, self.bytes, self.stored = [], [], 0, 0, 0

    def secret(self, name, text):
        self.secrets.append((name, forms(text)))

    def look(self, where, data):
        data = data if isinstance(data, bytes) else data.encode()
        self.looked, self.bytes = self.looked + 1, self.bytes + len(data)
        self.stored += STORED.encode() in data
        for name, needles in self.secrets:
            if any(n in data for n in needles):
                self.found.append(f"{name} in {where}: ...{data[max(0, self.at(data, needles) - 120):][:300]!r}")

    @staticmethod
    def at(data, needles):
        return min(data.find(n) for n in needles if n in data)

    def folder(self, top, skip=()):
        for path in sorted(Path(top).rglob("*")):
            if not path.is_file() or path.is_symlink() or any(path.is_relative_to(s) for s in skip):
                continue
            data = path.read_bytes()
            self.look(path, data)
            if data[:2] == b"\x1f\x8b":
                self.look(f"{path}, unpacked", gzip.decompress(data))
            elif path.suffix in (".z", ".zz"):
                self.look(f"{path}, unpacked", zlib.decompress(data))

    def open_files(self, pid):
        """Also those that have no name any more."""
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if fd.is_file():
                    self.look(f"descriptor {fd.name} of {pid}: {os.readlink(fd)}", fd.read_bytes())
            except OSError:
                pass  # closed meanwhile, or for writing only


def inference(p):
    """name -> (route, body as JSON or bytes) with the prompt in all places that a prompt has, in good and bad company."""
    says = [{"role": "user", "content": f"say {p}"}]
    chat = {"model": BASE, "messages": says, "max_tokens": 2}
    old = {"model": BASE, "prompt": f"say {p}", "max_tokens": 2}
    whole = json.dumps(chat).encode()
    chats = {
        "plain": chat, "stream": {**chat, "stream": True}, "adapter": {**chat, "model": "sql"}, "choices": {**chat, "n": 2}, "echo of logprobs": {**chat, "logprobs": True},
        "parts": {**chat, "messages": [{"role": "user", "content": [{"type": "text", "text": p}]}]}, "system": {**chat, "messages": [{"role": "system", "content": p}, *says]},
        "answer": {**chat, "max_tokens": 30, "structured_outputs": {"choice": [ANSWER, ANSWER + "2"]}}, "stop": {**chat, "stop": [p]}, "user": {**chat, "user": p},
        "answer in a stream": {**chat, "stream": True, "max_tokens": 30, "structured_outputs": {"choice": [ANSWER, ANSWER + "2"]}},
        "tools": {**chat, "tools": [{"type": "function", "function": {"name": "f", "description": p, "parameters": {"type": "object", "properties": {p: {"type": "string"}}}}}]},
        "tool call": {**chat, "messages": [*says, {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": p}}]}]},
        "schema": {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "properties": {p: {"const": p}}}}}},
        "a schema that is none": {**chat, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": p}}}},
        "a pattern that is none": {**chat, "structured_outputs": {"regex": f"({p}"}}, "an unknown model": {**chat, "model": "absent"}, "too many tokens": {**chat, "max_tokens": 10**9},
        "too hot": {**chat, "temperature": 99}, "no model": {"messages": says}, "messages as text": {**chat, "messages": p}, "a message as text": {**chat, "messages": [p]},
        "content as a number": {**chat, "messages": [{"role": "user", "content": 7}, *says]}, "content as an object": {**chat, "messages": [{"role": "user", "content": {"text": p}}]},
        "a part of another type": {**chat, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"data:text/plain,{p}"}}]}]},
        "a role that is none": {**chat, "messages": [{"role": p, "content": p}]}, "stop as an object": {**chat, "stop": {p: 1}}, "a long stop": {**chat, "stop": p * 90},
        "logit_bias": {**chat, "logit_bias": {p: 1}}, "a field that nobody knows": {**chat, p: p}, "a value for a switch": {**chat, "stream": p}, "tools as text": {**chat, "tools": p},
        "too long a prompt": {**chat, "messages": [{"role": "user", "content": f"{p} " * 3000}]}, "prefix": {**chat, "chat_template_kwargs": {p: p}}, "bad words": {**chat, "bad_words": [p]},
        "response_format as text": {**chat, "response_format": p}, "metadata": {**chat, "metadata": {"x": p}}, "half of it": whole[: len(whole) // 2 + 20], "a comma": whole[:-1] + b",}",
        "a key twice": whole[:-1] + b',"' + p.encode() + b'":1,"' + p.encode() + b'":2}', "two of them": whole + whole, "NUL": whole.replace(b"say ", b"say \x00"),
        "an escaped NUL": whole.replace(b"say ", b"\\u0000"), "not UTF-8": whole.replace(b"say ", b"\xff\xfe"), "bare words": p.encode(), "in quotes": f'"{p}"'.encode(),
        "an array": f'["{p}"]'.encode(), "deep": b'{"a":' * 2000 + f'"{p}"'.encode(), "a number": f'{{"messages": 1{p}}}'.encode(),
        "an open string": b'{"messages":"' + p.encode(), "a bad escape": f'{{"messages":"\\{p}"}}'.encode(),
    }
    olds = {
        "text": old, "echo": {**old, "echo": True, "logprobs": 1}, "texts": {**old, "prompt": [p, p]}, "suffix": {**old, "suffix": p}, "stream": {**old, "stream": True},
        "an object": {**old, "prompt": {p: p}}, "words among ids": {**old, "prompt": [1, p]}, "answer": {**old, "max_tokens": 30, "guided_choice": [ANSWER, ANSWER + "2"]},
        "too long": {**old, "prompt": f"{p} " * 3000}, "half": json.dumps(old).encode()[:-9], "no model": {"prompt": p}, "best_of": {**old, "best_of": 5},
    }
    return {**{f"chat, {k}": ("/v1/chat/completions", v) for k, v in chats.items()}, **{f"completion, {k}": ("/v1/completions", v) for k, v in olds.items()}}


def send(c, path, body, **more):
    if isinstance(body, bytes):
        return c.post(path, content=body, headers={"Content-Type": "application/json"}, **more)
    return c.post(path, json=body, **more)


def everywhere(g, key, documents, search):
    """The prompt as the body, and in the query, of every route there is: what a client with a wrong address does."""
    def one(o):
        d, auth = o.document, {"Authorization": f"Bearer {o.document.key}"}
        path = re.sub(r"{\w+}", "x", o.path)
        stream = "?seconds=1" if "text/event-stream" in (o.response(200) or {}).get("content", {}) else ""
        for body in (json.dumps({"messages": [{"role": "user", "content": PROMPT}], "prompt": PROMPT}).encode(), f'{{"prompt": "{PROMPT}'.encode()):
            r = httpx.request(o.method, d.url + path + stream, headers={**auth, "Content-Type": "application/json"}, content=body, timeout=20)
            if r.status_code >= 400:
                search.look(f"the error of {o}: {r.status_code}", r.content)
        r = httpx.request(o.method, d.url + path, params={"api_key": key, "prompt": PROMPT, "seconds": 1}, headers=auth, timeout=20)
        if r.status_code >= 400:
            search.look(f"the error of {o}", r.content)
        return 3

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return sum(pool.map(one, [o for d in documents for o in d.operations if o.method != "delete" or "{" in o.path]))


def errors_and_answers(c, tenant, search, start):
    """All inference requests. (sent, of them refused, that drew the answer)"""
    def one(item):
        name, (path, body) = item
        r = send(c, path, body)
        if r.status_code >= 400:
            search.look(f"the error of {name}", r.content)
        said = "".join(x["choices"][0].get("delta", {}).get("content") or "" for x in events(r.text.splitlines())[0] if x.get("choices")) if "stream" in name else r.text
        return r.status_code >= 400, ANSWER in said

    prefix = ("", f"/t/{tenant.name}")
    asks = [(name, (prefix[i % 2] + path, body)) for i, (name, (path, body)) in enumerate(inference(PROMPT).items(), start)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        got = list(pool.map(one, asks))
    return len(got), sum(x[0] for x in got), sum(x[1] for x in got)


def raw_and_cut(g, tenant):
    """Keys and prompts in messages that are no good, and clients that leave in mid-answer."""
    host, port = g.url.removeprefix("http://").rsplit(":", 1)
    body = json.dumps({"model": BASE, "stream": True, "messages": [{"role": "user", "content": PROMPT}]})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {tenant.key}\r\n"
    for text in (head + f"Content-Length: {len(body)}\r\n\r\n{body}", head + f"Content-Length: {len(body) + 9}\r\n\r\n{body}", head + f"X: {PROMPT}\r\n y\r\n\r\n",
                 head + f"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{body}", head + f"{PROMPT} : x\r\n\r\n{body}", f"{PROMPT}\r\n\r\n", head + f"X: {PROMPT}\0\r\n\r\n",
                 head + f"Transfer-Encoding: chunked\r\n\r\nzz{PROMPT}\r\n"):
        with socket.create_connection((host, int(port)), timeout=5) as s:
            s.sendall(text.encode("latin-1"))
            s.settimeout(0.2)
            try:
                s.recv(2000)
            except (TimeoutError, ConnectionError):
                pass
    for key in (tenant.key[:-1] + "x", tenant.key + tenant.key, g.admin_key, f"Basic {tenant.key}", "sk-" + MARK):
        httpx.get(g.url + "/v1/models", headers={"Authorization": f"Bearer {key}"})
        httpx.get(g.admin_url + "/admin/v1/tenants", headers={"Authorization": f"Bearer {tenant.key}"})
    for target in (f"/v1/models?key={tenant.key}", f"/v1/models?prompt={PROMPT}", f"/v1/models/{PROMPT}", f"/v1/{tenant.key}", f"/{PROMPT}"):
        httpx.get(g.url + target)


def key_made_twice(tenant, search):
    """A key whose text is kept for whoever asks again by the same Idempotency-Key; whether it was given again."""
    with tenant.http() as c:
        first, again = (c.post("/v1/keys", json={"name": "once", "roles": ["billing"]}, headers={"Idempotency-Key": "one"}) for _ in range(2))
    key = first.json()["key"]
    search.secret("the text of a key that was made once", key)
    search.secret("its secret", key.split("_")[2])
    return again.status_code == 201 and again.json().get("key") == key


def told(g, tenant, search, hook):
    """All that answers questions about what was."""
    for c, paths in ((g.admin, ["/metrics", "/admin/v1/audit?limit=100", "/admin/v1/events?limit=100", "/admin/v1/usage/requests?limit=100", "/admin/v1/top", "/admin/v1/settings",
                                "/admin/v1/ledger?verify=1", "/admin/v1/export?format=csv", "/admin/v1/export?format=jsonl", "/admin/v1/export?format=focus", "/admin/v1/tenants",
                                f"/admin/v1/tenants/{tenant.name}/keys", "/admin/v1/admin-keys", "/admin/v1/engines", f"/admin/v1/webhooks/{hook}"]),
                     (tenant.http(), ["/v1/usage/requests?limit=100", "/v1/events?limit=100", "/v1/usage", "/v1/keys", "/v1/models", "/v1/adapters", "/v1/export?format=csv"])):
        for path in paths:
            r = c.get(path)
            search.look(path, r.content)
    with g.engine() as c:
        for path in ("/metrics", "/weft/v1/state", "/weft/v1/trace", "/v1/models"):
            search.look("the engine's " + path, c.get(path).content)


def core_limits(pid):
    line = next(x for x in Path(f"/proc/{pid}/limits").read_text().splitlines() if x.startswith("Max core file size"))
    return [x for x in line.split()[4:6]]


def cores():
    return {p for p in itertools.chain(TOP.glob("core*"), Path("/tmp").glob("core*"), Path("/var/lib/systemd/coredump").glob("*")) if p.is_file()}


without("R22", "the cut of what the JSON parser quotes from a body", "base/json.c",
        old="    int shown = near ? (int)(near - text) : (int)strlen(text);", new="    int shown = near ? (int)strlen(text) : (int)strlen(text);")
without("R22", "the seal of answers that are kept to be given again", "gateway/api/idempotency.c", old="    if (rc == 0) to_hex(&sealed, hex);", new="    if (rc == 0) to_hex(&plain, hex);")
without("R22", "the limit of core files", "base/confine.c", old="    setrlimit(RLIMIT_CORE, &(struct rlimit){1, 1});\n", new="")
without("R22", "a route's pattern in the log, not what the client wrote", "gateway/observe/observe_log.c",
        old='r->route ? r->route->pattern : "none");', new="r->path);")
without("R22", "no client's text in the engine's errors", "engine/api_params_output.c",
        old='"\'logit_bias\' has a key that is no token id below %d", vocab);', new='"\'logit_bias\' has the key %s, no id below %d", key, vocab);')


@row("R22", "canaries as prompts, answers and keys: nowhere after requests to all routes")
def check(t):
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))  # whoever starts it would get core files
    before = cores()
    collector, inbox = Collector(), Inbox(t.folder / "inbox")
    (t.folder / "tmp").mkdir()
    g = Gateway(t.folder, "--log-level", "debug", "--access-log", "true", "--slow-ms", "1", "--otlp-url", collector.url, "--webhook-hosts", "127.0.0.1",
                "--max-context", "512", "--backup-dir", t.folder / "backup", env={"TMPDIR": str(t.folder / "tmp")})
    search = Search()
    try:
        acme = g.tenant("acme")
        for name, text in (("the prompt", PROMPT), ("the answer", ANSWER), ("the tenant's key", acme.key), ("its secret", acme.key.split("_")[2]),
                           ("the admin key", g.admin_key), ("its secret", g.admin_key.split("_")[2])):
            search.secret(name, text)
        assert acme.upload("sql", description=STORED).status_code == 201
        hook = make(g, inbox, "usage")
        sent = 0
        with acme.http() as c:
            for i in range(t.size(1, 20)):
                n, refused, drawn = errors_and_answers(c, acme, search, i)
                sent += n
        documents = [Document(g.url, acme.key), Document(g.admin_url, g.admin_key)]
        sent += everywhere(g, acme.key, documents, search)
        raw_and_cut(g, acme)
        given_again = key_made_twice(acme, search)
        backup = g.admin.post("/admin/v1/backups", json={})
        limits = [core_limits(p) for p in (g.process.pid, g.engine_pid())]
        until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, what="the last settlement")
        until(lambda: collector.bodies and inbox.batches("usage"), what="traces and webhooks")
        told(g, acme, search, hook["id"])
        for pid in (g.process.pid, g.engine_pid()):
            search.open_files(pid)
        with acme.http() as c:  # both end badly, an answer under way
            with c.stream("POST", "/v1/chat/completions", json={"model": BASE, "stream": True, "messages": [{"role": "user", "content": PROMPT}]}) as r:
                pieces = r.iter_raw()
                next(pieces)
                os.kill(g._pid_file(), signal.SIGABRT)
                assert b"error" in b"".join(pieces)
        until(g.engine_pid, 60, "another engine")
        g.process.send_signal(signal.SIGABRT)
        g.process.wait(30)
        search.folder(t.folder, skip=[g.data / "blobs", g.data / "cache"])
        for i, raw in enumerate(collector.bodies):
            search.look(f"trace {i}", raw if isinstance(raw, (bytes, str)) else json.dumps(raw))
        log = g.log.read_text()
    finally:
        g.close()
        inbox.kill()
        collector.close()
    for f in search.found:
        print(f)
    t.count("requests with canaries", sent, least=200)
    t.count("of them to each route of both listeners", sum(len(d.operations) for d in documents), least=100)
    t.count("answers that were the canary", drawn, least=2)
    t.count("answers kept under a seal, given again", int(given_again), least=1)
    t.count("places looked at", search.looked, least=200)
    t.count("MB looked at", search.bytes / 1e6, least=1)
    t.count("places where what may be stored was found, by the same search", search.stored, least=2)
    t.count("lines of the log", log.count("\n"), least=200)
    t.count("canaries found", len(search.found), most=0)
    t.count("processes that may leave a core file", sum(x not in ("0", "1") for two in limits for x in two), most=0)
    left = cores() - before
    t.count("core files of two that were aborted", len(left), most=0)
    for core in left:  # they hold what was looked for
        core.unlink(missing_ok=True)
    t.note(f"a backup was asked for ({backup.status_code}); the base's packed copy and the adapters' blobs were not searched")
