"""A small server that records what it was asked and answers as told, and `weft` run against it."""

import hashlib
import http.server
import json
import os
import pty
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

TOP = Path(__file__).resolve().parents[2]
WEFT = os.environ.get("WEFT_BIN", str(TOP / "build/release/weft"))


class Asked:
    def __init__(self, method, path, headers, body, digest, length):
        self.method, self.headers, self.body = method, headers, body
        self.path = urlsplit(path).path
        self.query = {k: v[0] for k, v in parse_qs(urlsplit(path).query).items()}
        self.digest, self.length = digest, length

    @property
    def json(self):
        return json.loads(self.body)


class Fake:
    """answers: (method, path) -> (status, body) or a function of the request that gives one; headers beside them."""

    def __init__(self):
        self.asked, self.answers, self.headers = [], {}, {}
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def read_body(self):
                left, digest, kept = int(self.headers.get("Content-Length") or 0), hashlib.sha256(), b""
                total = left
                while left:
                    piece = self.rfile.read(min(left, 1 << 20))
                    if not piece:
                        break
                    digest.update(piece)
                    kept += piece if len(kept) < 8 << 20 else b""
                    left -= len(piece)
                return Asked(self.command, self.path, self.headers, kept, digest.hexdigest(), total)

            def answer(self):
                asked = self.read_body()
                fake.asked.append(asked)
                found = fake.answers.get((asked.method, asked.path), (404, {"error": {"message": "no such route"}}))
                status, body = found(asked) if callable(found) else found
                kind = "application/json"
                if isinstance(body, list):  # events, in the pieces given
                    kind = "text/event-stream"
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for piece in body:
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(0.01)
                    self.close_connection = True
                    return
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("x-request-id", "req-" + str(len(fake.asked)))
                for name, value in fake.headers.get((asked.method, asked.path), {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do_PATCH = do_PUT = answer

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def fake():
    f = Fake()
    yield f
    f.server.shutdown()
    f.server.server_close()


def env_of(fake, **more):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WEFT_") and k != "NO_COLOR"}
    return clean | {"XDG_CONFIG_HOME": str(Path(tempfile.gettempdir()) / "weft-no-configuration"), "WEFT_URL": fake.url, "WEFT_ADMIN_URL": fake.url + "/", "WEFT_API_KEY": "wft_tenant",
                    "WEFT_ADMIN_KEY": "wfa_admin"} | more


def weft(fake, *args, stdin="", env=None, **kw):
    return subprocess.run([WEFT, *args], input=stdin, capture_output=True, text=True, timeout=60,
                          env=env_of(fake, **(env or {})), **kw)


def on_a_terminal(command, env, folder):
    """What a command writes to a terminal: a pseudo one, or, where a chroot has none, a pipe that a preloaded isatty() takes for one."""
    try:
        lead, follow = pty.openpty()
    except OSError:
        source, shim = folder / "isatty.c", folder / "isatty.so"
        source.write_text("int isatty(int fd) { return fd == 1; }\n")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source], check=True)
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**env, "LD_PRELOAD": str(shim)}, timeout=60).stdout
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=follow, env=env, timeout=60)
    os.close(follow)
    seen = b""
    try:
        while piece := os.read(lead, 4096):
            seen += piece
    except OSError:
        pass
    os.close(lead)
    return seen
