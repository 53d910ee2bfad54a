"""R14, ambiguous raw HTTP: messages that two HTTP parsers could read differently, to every listener of ours. Behind, or inside, each stands a whole second request whose
effect would be seen: an alias, a tenant, an adapter that the engine no longer has."""
import concurrent.futures
import json
import re
import socket
import time

import httpx

from gateway_process import Gateway
from trust import row, without

WAIT_S = 5
AT_ONCE = 24
READ_MAX = 1 << 20


class Door:
    """One listener: a request that reads, one that writes (both succeed where they are sent as they should be), and the one that is smuggled."""

    def __init__(self, name, address, family, key, get, write, body, smuggled, seen):
        self.name, self.address, self.family, self.seen = name, address, family, seen
        self.auth = f"Authorization: Bearer {key}\r\n" if key else ""
        self.get, self.write, self.body, self.make = get, write, json.dumps(body), smuggled

    def line(self, what):
        return f"{what} HTTP/1.1\r\n"

    def head(self, what=None, host="Host: x\r\n"):
        """Without its last empty line."""
        return self.line(what or self.get) + host + self.auth

    def post(self):
        return self.head(self.write) + "Content-Type: application/json\r\n"

    def second(self, name):
        what, body = self.make(name)
        text = json.dumps(body)
        return f"{what} HTTP/1.1\r\nHost: x\r\n{self.auth}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"

    def talk(self, message):
        """(what came back, whether the connection ended on the other side within WAIT_S)"""
        out, end = b"", time.monotonic() + WAIT_S
        with socket.socket(self.family, socket.SOCK_STREAM) as s:
            s.settimeout(WAIT_S)
            s.connect(self.address)
            try:
                s.sendall(message)
            except (ConnectionError, TimeoutError):
                pass  # it has heard enough
            try:
                while len(out) < READ_MAX:
                    s.settimeout(max(0.01, end - time.monotonic()))
                    piece = s.recv(1 << 16)
                    if not piece:
                        return out, True
                    out += piece
            except ConnectionError:
                return out, True
            except TimeoutError:
                pass
        return out, False


def chunked(text, ext="", end="\r\n", size="%x", tail="\r\n\r\n"):
    return size % len(text) + ext + end + text + end + "0" + tail


def cases(d):
    """name -> (message without the smuggled request, where that goes: behind it, or at the mark {S})"""
    g, p, b = d.head(), d.post(), d.body
    n = len(b)
    te, cl = "Transfer-Encoding: chunked\r\n", f"Content-Length: {n}\r\n"
    ok = te + "\r\n" + chunked(b)
    out = {
        # one length and another
        "CL and TE": p + cl + te + "\r\n" + chunked(b),
        "TE and CL": p + te + cl + "\r\n" + chunked(b),
        "CL 0 and TE": p + "Content-Length: 0\r\n" + te + "\r\n" + chunked(b),
        "CL short of the chunks, TE": p + "Content-Length: 4\r\n" + te + "\r\n0\r\n\r\n",
        "two CL that differ": p + cl + f"Content-Length: {n + 5}\r\n\r\n" + b,
        "two CL that are equal": p + cl + cl + "\r\n" + b,
        "CL as a list": p + f"Content-Length: {n}, {n}\r\n\r\n" + b,
        "CL as a list that differs": p + f"Content-Length: {n},0\r\n\r\n" + b,
        "CL with a plus": p + f"Content-Length: +{n}\r\n\r\n" + b,
        "CL with a minus": p + f"Content-Length: -{n}\r\n\r\n" + b,
        "CL minus nothing": p + "Content-Length: -0\r\n\r\n",
        "CL in hex": p + f"Content-Length: {n:#x}\r\n\r\n" + b,
        "CL with a fraction": p + f"Content-Length: {n}.0\r\n\r\n" + b,
        "CL with an exponent": p + "Content-Length: 1e1\r\n\r\n" + b[:10],
        "CL with an underscore": p + f"Content-Length: {n // 10}_{n % 10}\r\n\r\n" + b,
        "CL in two words": p + f"Content-Length: {n} {n}\r\n\r\n" + b,
        "CL empty": p + "Content-Length:\r\n\r\n",
        "CL of 2^64 and more": p + f"Content-Length: {(1 << 64) + n}\r\n\r\n" + b,
        "CL of 2^63": p + f"Content-Length: {1 << 63}\r\n\r\n" + b,
        "CL with an underscore in its name": p + f"Content_Length: {n}\r\n\r\n" + b,
        # encodings
        "two TE": p + te + te + "\r\n" + chunked(b),
        "TE chunked, chunked": p + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked(b),
        "TE gzip, chunked": p + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked(b),
        "TE chunked, identity": p + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunked(b),
        "TE identity": p + "Transfer-Encoding: identity\r\n\r\n" + chunked(b),
        "TE identity and CL": p + "Transfer-Encoding: identity\r\n" + cl + "\r\n" + b,
        "TE xchunked": p + "Transfer-Encoding: xchunked\r\n\r\n" + chunked(b),
        "TE in quotes": p + 'Transfer-Encoding: "chunked"\r\n\r\n' + chunked(b),
        "TE with a parameter": p + "Transfer-Encoding: chunked;q=1\r\n\r\n" + chunked(b),
        "TE with a comma": p + "Transfer-Encoding: ,chunked\r\n\r\n" + chunked(b),
        "TE with a vertical tab": p + "Transfer-Encoding: \x0bchunked\r\n\r\n" + chunked(b),
        "TE empty": p + "Transfer-Encoding:\r\n\r\n" + chunked(b),
        "TE on a folded line": p + "Transfer-Encoding:\r\n chunked\r\n\r\n" + chunked(b),
        "TE with a space before the colon": p + "Transfer-Encoding : chunked\r\n\r\n" + chunked(b),
        "TE with a space before the name": p + " Transfer-Encoding: chunked\r\n\r\n" + chunked(b),
        "TE with an underscore": p + "Transfer_Encoding: chunked\r\n" + cl + "\r\n" + b,
        "TE behind a bare LF": p + "X: a\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b),
        "TE behind a bare CR": p + "X: a\rTransfer-Encoding: chunked\r\n\r\n" + chunked(b),
        "TE and NUL": p + "Transfer-Encoding: chunked\0\r\n\r\n" + chunked(b),
        "TE in HTTP/1.0": p.replace("HTTP/1.1", "HTTP/1.0") + ok,
        # lines and bytes of the head
        "a bare LF after the first line": d.get + " HTTP/1.1\nHost: x\r\n" + d.auth + "\r\n",
        "bare LFs": g.replace("\r\n", "\n") + "\n",
        "a bare LF after one header": g + "X: a\nY: b\r\n\r\n",
        "a bare LF at the end": g + "X: a\r\n\n",
        "a bare LF and a line without a name at the end": g + "X: a\n:x\n",
        "a bare LF and a line of NUL at the end": g + "X: a\n\0:\n",
        "CR CR LF": g + "X: a\r\r\n\r\n",
        "an old fold": g + "X: a\r\n b\r\n\r\n",
        "an old fold with a tab": g + "X: a\r\n\tb\r\n\r\n",
        "a fold behind the first line": d.line(d.get) + " X: a\r\nHost: x\r\n" + d.auth + "\r\n",
        "a space before a colon": g + "X : a\r\n\r\n",
        "a tab before a colon": g + "X\t: a\r\n\r\n",
        "a header without a colon": g + "X a\r\n\r\n",
        "a header without a name": g + ": a\r\n\r\n",
        "a name in brackets": g + "X[a]: a\r\n\r\n",
        "a name that is not ASCII": g + "X\xe9: a\r\n\r\n",
        "NUL in a value": g + "X: a\0b\r\n\r\n",
        "NUL in a name": g + "X\0: a\r\n\r\n",
        "a control byte in a value": g + "X: a\x01b\r\n\r\n",
        "DEL in a value": g + "X: a\x7fb\r\n\r\n",
        "70 headers": g + "".join(f"X{i}: a\r\n" for i in range(70)) + "\r\n",
        "a header of 64 KiB": g + "X: " + "a" * 65536 + "\r\n\r\n",
        "a name of 64 KiB": g + "X" * 65536 + ": a\r\n\r\n",
        # who, twice
        "no Host": d.head(host="") + "\r\n",
        "no Host in HTTP/1.0": d.head(host="").replace("HTTP/1.1", "HTTP/1.0") + "\r\n",
        "two Hosts": g + "Host: y\r\n\r\n",
        "two equal Hosts": g + "Host: x\r\n\r\n",
        "Hosts as a list": d.head(host="Host: x, y\r\n") + "\r\n",
        "an empty Host": d.head(host="Host:\r\n") + "\r\n",
        "a Host with a user": d.head(host="Host: a@x\r\n") + "\r\n",
        "a Host with a path": d.head(host="Host: x/y\r\n") + "\r\n",
        "two Authorizations": g + "Authorization: Bearer x\r\nAuthorization: Bearer x\r\n\r\n",
        "two Content-Types": p + "Content-Type: text/plain\r\n" + cl + "\r\n" + b,
        "an underscore for a Host": g + "HOST_: y\r\nho_st: z\r\n" + "X: a\r\n y\r\n\r\n",
        # the first line
        "HTTP/0.9": d.get + "\r\n\r\n",
        "HTTP/0.9 with a version": g.replace("HTTP/1.1", "HTTP/0.9") + "\r\n",
        "HTTP/1.2": g.replace("HTTP/1.1", "HTTP/1.2") + "\r\n",
        "HTTP/2.0": g.replace("HTTP/1.1", "HTTP/2.0") + "\r\n",
        "HTTP/1.10": g.replace("HTTP/1.1", "HTTP/1.10") + "\r\n",
        "HTTP/01.1": g.replace("HTTP/1.1", "HTTP/01.1") + "\r\n",
        "http/1.1": g.replace("HTTP/1.1", "http/1.1") + "\r\n",
        "HTTP/2's preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "TLS": "\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + "\0" * 200 + "\r\n\r\n",
        "two spaces before the target": g.replace(" ", "  ", 1) + "\r\n",
        "two spaces before the version": g.replace(" HTTP", "  HTTP", 1) + "\r\n",
        "a tab in the first line": g.replace(" ", "\t", 1) + "\r\n",
        "a space behind the version": g.replace("HTTP/1.1", "HTTP/1.1 ", 1) + "\r\n",
        "a space before the method": " " + g + "\r\n",
        "a method in small letters": g.replace("GET", "get", 1) + "\r\n",
        "a method in both": g.replace("GET", "Get", 1) + "\r\n",
        "a method that is no token": g.replace("GET", "G(T", 1) + "\r\n",
        "NUL in the method": g.replace("GET", "GE\0T", 1) + "\r\n",
        "a long method": g.replace("GET", "G" * 65536, 1) + "\r\n",
        "an absolute target": d.head("GET http://x" + d.get[4:]) + "\r\n",
        "an absolute target of another host": d.head("GET http://y" + d.get[4:]) + "\r\n",
        "an authority": d.head("CONNECT x:80") + "\r\n",
        "an asterisk": d.head("GET *") + "\r\n",
        "a target without a slash": d.head("GET " + d.get[5:]) + "\r\n",
        "two slashes": d.head("GET /" + d.get[4:]) + "\r\n",
        "dots": d.head("GET /x/.." + d.get[4:]) + "\r\n",
        "encoded dots": d.head("GET /x/%2e%2e" + d.get[4:]) + "\r\n",
        "an encoded slash": d.head(d.get + "%2f") + "\r\n",
        "a backslash": d.head(d.get + "\\") + "\r\n",
        "%00": d.head(d.get + "%00") + "\r\n",
        "%00 in the query": d.head(d.get + "?a=%00") + "\r\n",
        "NUL in the target": d.head(d.get + "\0") + "\r\n",
        "%0d%0a": d.head(d.get + "%0d%0aX:a") + "\r\n",
        "a fragment": d.head(d.get + "#x") + "\r\n",
        "a raw high byte": d.head(d.get + "\xff") + "\r\n",
        "half an escape": d.head(d.get + "%2") + "\r\n",
        "a target of 64 KiB": d.head(d.get + "?" + "a" * 65536) + "\r\n",
        # chunks
        "a chunk's size with a plus": p + te + "\r\n" + chunked(b, size="+%x"),
        "a chunk's size with a minus": p + te + "\r\n" + chunked(b, size="-%x"),
        "a chunk's size with 0x": p + te + "\r\n" + chunked(b, size="0x%x"),
        "a chunk's size behind a space": p + te + "\r\n" + chunked(b, size=" %x"),
        "a chunk's size before a space": p + te + "\r\n" + chunked(b, size="%x "),
        "a chunk's size of 2^64 and more": p + te + "\r\n" + chunked(b, size="1%016x"),
        "a chunk's size in many zeros": p + te + "\r\n" + chunked(b, size="0" * 100 + "%x"),
        "a chunk without a size": p + te + "\r\n" + chunked(b, size="%.0s"),
        "a chunk's size that is none": p + te + "\r\n" + chunked(b, size="%.0szz"),
        "a chunk's size and NUL": p + te + "\r\n" + chunked(b, size="%x\0"),
        "a chunk's extension": p + te + "\r\n" + chunked(b, ext=";a=b"),
        "a chunk's extension with a bare LF": p + te + "\r\n" + chunked(b, ext=";a\nb"),
        "a chunk's extension in quotes": p + te + "\r\n" + chunked(b, ext=';a="\r\n"'),
        "a long chunk's extension": p + te + "\r\n" + chunked(b, ext=";" + "a" * 65536),
        "chunks and bare LFs": p + te + "\r\n" + chunked(b, end="\n", tail="\n\n"),
        "a chunk longer than its size": p + te + "\r\n" + chunked(b).replace(b, b + "xx"),
        "a chunk without an end": p + te + "\r\n" + f"{n:x}\r\n{b}0\r\n\r\n",
        "a bare CR behind a chunk's size": p + te + "\r\n" + f"{n:x}\r{b}\r\n0\r\n\r\n",
        "a last chunk and a bare LF": p + te + "\r\n" + chunked(b, tail="\n\r\n"),
        "a last chunk and one line end": p + te + "\r\n" + chunked(b, tail="\r\n\n"),
        "a trailer": p + te + "\r\n" + chunked(b, tail="\r\nX: a\r\n\r\n"),
        "a trailer with a length": p + te + "\r\n" + chunked(b, tail="\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "a trailer without a colon": p + te + "\r\n" + chunked(b, tail="\r\nX a\r\n\r\n"),
        # what else may ask for a second reading
        "Expect of something else": p + cl + "Expect: 200-ok\r\n\r\n" + b,
        "two Expects": p + cl + "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n" + b,
        "a second request in a refused body": p + "Content-Length: 0\r\nContent-Length: {S}\r\n\r\n",
    }
    return out


# What libmicrohttpd reads and shows us nothing of: the body's own framing. One answer, and the connection ends.
HIDDEN = {"a chunk's size in many zeros", "a chunk's extension", "chunks and bare LFs", "a last chunk and a bare LF", "a last chunk and one line end",
          "a trailer", "a trailer with a length"}


def answers(raw):
    """Statuses of the answers in what came back, 100 left out. The library's own page is sent with its head twice."""
    if b"<html>" in raw and raw.count(b"<html>") == 1 and b"application/json" not in raw:
        return [int(raw[9:12])]
    return [int(s) for s in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", raw) if s != b"100"]


def doors(g):
    acme = g.tenant("acme")
    up = acme.upload("sql")
    assert up.status_code == 201, up.text
    digest = up.json()["digest"]
    host, port = g.url.removeprefix("http://").rsplit(":", 1)
    admin_port = g.admin_url.rsplit(":", 1)[1]
    engine = next((g.data / "run").glob("*.sock"))

    def aliases():
        with acme.http() as c:
            return {a["name"] for a in c.get("/v1/aliases", params={"limit": 100}).json()["data"]} - {"kept"}

    def tenants():
        return {t["name"] for t in g.admin.get("/admin/v1/tenants", params={"limit": 100}).json()["data"]} - {"acme"}

    def unloaded():
        with g.engine() as c:
            return set() if digest in [m["id"] for m in c.get("/v1/models").json()["data"]] else {digest}

    base = g.engine_state()["base"]["name"]
    return [
        Door("public", (host, int(port)), socket.AF_INET, acme.key, "GET /v1/models", "PUT /v1/aliases/kept", {"targets": [{"adapter": "sql"}]},
             lambda name: (f"PUT /v1/aliases/{name}", {"targets": [{"adapter": "sql"}]}), aliases),
        Door("admin", (host, int(admin_port)), socket.AF_INET, g.admin_key, "GET /admin/v1/tenants", "PATCH /admin/v1/tenants/acme", {"weight": 1},
             lambda name: ("POST /admin/v1/tenants", {"name": name}), tenants),
        Door("engine", str(engine), socket.AF_UNIX, None, "GET /v1/models", "POST /weft/v1/tokenize", {"model": base, "prompt": "hello"},
             lambda name: ("POST /v1/unload_lora_adapter", {"lora_name": digest}), unloaded),
    ]


def show_effect(d):
    """Sent as it should be, behind a good request on the same connection, the second request does what would be seen; and good chunks are served."""
    for i, first in enumerate((d.head() + "\r\n", d.post() + f"Content-Length: {len(d.body)}\r\n\r\n{d.body}")):
        raw, _ = d.talk((first + d.second(f"plain-{i}").replace("Host: x", "Host: x\r\nConnection: close", 1)).encode("latin-1"))
        assert [s // 100 for s in answers(raw)][: 2 - i] == [2, 2][: 2 - i], (d.name, raw)  # an adapter is unloaded only once
    raw, _ = d.talk((d.post() + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunked(d.body)).encode("latin-1"))
    assert [s // 100 for s in answers(raw)] == [2], (d.name, raw)
    assert d.seen(), f"{d.name}: the effect does not show"


without("R14", "one length only: Content-Length beside Transfer-Encoding", "base/http_guard.c",
         old='    if (te && length) return err_set(e, ERR_BAD_HTTP, "both Content-Length and Transfer-Encoding");\n', new="")
without("R14", "lines of the head exactly one behind the other (bare LF, folds, spaces)", "base/http_guard.c",
         old='    else if (name != w->next || name[-1] || name[-2])\n        err_set(w->e, ERR_BAD_HTTP, "%s", not_plain);\n', new="")


def unseen(d):
    """What nobody behind libmicrohttpd can tell from an ordinary head, NUL LF being read as CR LF, a line without a name as the end, and NULs before a request as empty lines: told in the table, refused by proxies."""
    return {"NUL LF at the end of a line": d.head() + "X: a\0\nY: b\r\n\r\n", "NUL LF at the end of the head": d.head() + "X: a\r\n\0\n", "NULs before a request": "\0\0\r\n" + d.head() + "\r\n",
            "a length behind NUL LF": d.head() + "X: a\0\nContent-Length: 5\r\n\r\n", "a colon and LF at the end of the head": d.head() + "X: a\r\n:\n"}


without("R14", "the end of the connection behind a chunked body", "base/http_exchange.c",
         old="    x->close = x->chunked; /* its last request: see http_guard.c */\n", new="")
@row("R14", "ambiguous raw HTTP: all refused and closed, never a second request")
def check(t):
    g = Gateway(t.folder)
    tried = refused = still_open = second = served = passed = 0
    odd = []

    def send(d, i, message):
        s = d.second(f"smuggled-{i}")
        return d.talk((message.replace("{S}", str(len(s))) + s).encode("latin-1"))

    try:
        for d in doors(g):
            all_cases = cases(d)
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                heard = list(pool.map(lambda x: send(d, x[0], x[1]), enumerate(all_cases.values())))
            for name, (raw, closed) in zip(all_cases, heard):
                got = answers(raw)
                good = len(got) <= 1 and all(x >= 400 for x in got)
                tried, refused, still_open, second = tried + 1, refused + good, still_open + (not closed), second + (len(got) > 1)
                if not good and name in HIDDEN and len(got) == 1:
                    served += 1
                elif not good or not closed:
                    odd.append(f"{d.name}: {name}: {got} {'' if closed else 'open'}")
            passed += sum(any(s < 400 for s in answers(d.talk((m + d.head() + "Connection: close\r\n\r\n").encode("latin-1"))[0])) for m in unseen(d).values())
            seen = d.seen()
            if seen:
                odd.append(f"{d.name}: effects {sorted(seen)}")
                second += len(seen)
            else:
                show_effect(d)
        with httpx.Client() as c:
            assert c.get(g.url + "/health").status_code == 200
    finally:
        for o in odd:
            print(o)
        g.close()
    t.count("ambiguous messages", tried // 3, least=60)
    t.count("sent, to three listeners", tried)
    t.count("refused", refused)
    t.count("neither refused nor hidden by the library", len(odd), most=0)
    t.count("served once, their framing being hidden from us", served, most=3 * len(HIDDEN))
    t.count("with NUL for CR, which nobody behind the library can see: served", passed, most=3 * 5)
    t.count("connections left open", still_open, most=0)
    t.count("second requests", second, most=0)
    t.note("hidden by the library (docs/RELIABILITY.md, section 1): " + ", ".join(sorted(HIDDEN)))
