"""The export page where the way to the gateway breaks: whatever was under way then, the file is the one that an unbroken export would have been."""

import datetime
import random
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from gateway_process import Gateway
from past_rows import Past, request

UTC = datetime.timezone.utc
N, FOREIGN = 60, "7fffffff-ffff-7fff-bfff-ffffffffffff"
NOW = datetime.datetime.now(UTC)
START = int(datetime.datetime(NOW.year - (NOW.month == 1), (NOW.month - 2) % 12 + 1, 3, tzinfo=UTC).timestamp())  # a day of last month
END = START + 86400
# What a client may call a model: texts with line ends, quotes, and what looks like a row.
MODELS = ["sql", 'two\r\nlines, "quoted"', f"sql\n{FOREIGN},0.5,\n{FOREIGN}", 'a "" b\n"', "ünï✓\r\n"]
LINE_END = ",completed\r\n"


def moment(i):
    return f"{datetime.datetime.fromtimestamp(START + 60 * i, UTC):%Y-%m-%dT%H:%M:%S}.{i:06d}Z"


@pytest.fixture(scope="module")
def g(tmp_path_factory):
    """A gateway with a day of requests that are three charges each."""
    g = Gateway(tmp_path_factory.mktemp("exports"), fake=True)
    t = g.tenant("acme")
    t.usage(t.ask("hello").headers["x-request-id"])
    g.stop()
    past, rnd = Past(g.data), random.Random(3)
    past.price(1)
    past.add([request((START + 60 * i) * 1000000 + i, rnd, past.tenants()["acme"], price=1, cost=60 * 150 + 40 * 20 + 30 * 600, model=MODELS[i % len(MODELS)]) for i in range(N)])
    past.close()
    g.start()
    yield g
    g.close()


class Cuts:
    """A way to the gateway that ends an export's connection right behind the first of `marks` that comes by; the next of them is the next export's."""

    def __init__(self, url, marks):
        self.to, self.marks, self.asked = urlsplit(url), [m.encode() for m in marks], []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server = socket.create_connection((self.to.hostname, self.to.port))
            state = {"mark": None}
            for way in ((self.to_server, client, server, state), (self.to_client, server, client, state)):
                threading.Thread(target=self.run, args=way, daemon=True).start()

    def run(self, way, a, b, state):
        try:
            way(a, b, state)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            a.close(), b.close()

    def to_server(self, client, server, state):
        while piece := client.recv(65536):
            if found := re.match(rb"GET \S*/exports/usage\?(\S*)", piece):
                self.asked.append(found.group(1).decode())
                state["mark"] = self.marks.pop(0) if self.marks else None
                piece = re.sub(rb"(?i)\r\naccept-encoding: [^\r]*", b"", piece)  # so that bytes are where the test knows them
            server.sendall(piece)

    def to_client(self, server, client, state):
        seen = b""
        while piece := server.recv(65536):
            mark = state["mark"]
            old, seen = len(seen), seen + piece if mark else b""
            at = seen.find(mark) if mark else -1
            if at < 0:
                client.sendall(piece)
                continue
            client.sendall(seen[old:at + len(mark)])
            time.sleep(0.3)  # what is queued when an error comes is not read any more
            server.shutdown(socket.SHUT_RDWR)
            return

    def close(self):
        self.listener.close()


@pytest.fixture
def way(g):
    made = []

    def make(*marks):
        made.append(Cuts(g.admin_url, marks))
        return made[-1]
    yield make
    for w in made:
        w.close()


def unbroken(g, form):
    r = httpx.get(g.admin_url + "/admin/v1/exports/usage", params={"format": form, "start_time": START, "end_time": END}, headers={"Authorization": f"Bearer {g.admin_key}"}, timeout=30)
    assert r.status_code == 200
    return r.text


HURRY = "const later = window.setTimeout; window.setTimeout = (f, ms) => later(f, Math.min(ms, 50));"  # pauses between tries
BUSY = "const ask = window.fetch; let n = 0; window.fetch = (u, o) => String(u).includes('/exports/usage') && ++n === 2 ? Promise.resolve(new Response('{}', {status: 503})) : ask(u, o);"


def download(browser, g, url, form, script=HURRY):
    browser.login(url, g.admin_key)
    browser.open(f"exports?format={form}&range=own&from={START}&to={END}")
    browser.js(script)
    browser.click("#download")


def only_breaks(browser):
    said = browser.trouble()
    return bool(said) and all("/exports/usage" in t and "ERR_INCOMPLETE_CHUNKED_ENCODING" in t for t in said)


# What stands before the cut; {n}: the id of request n.
CUTS = {
    "focus": ["{0}", moment(7) + LINE_END, moment(21) + LINE_END + "{21}", moment(33) + LINE_END + "{34}", "x_RequestId,Bil"],  # the first line of a request, part of its second, of its third, of the names
    "csv": ["two\r\n", f"sql\n{FOREIGN},0.5,\n{FOREIGN}", "{30}", ",policy_after_tokens\r\n"],  # a line end within quotes, what looks like an id there, part of a row, the names
    "jsonl": ['{"id":"{0}"', '{"id":"{20}",'],
}


@pytest.mark.parametrize("form, ending", [("csv", ".csv"), ("jsonl", ".jsonl"), ("focus", ".focus.csv")])
def test_an_export_that_breaks_goes_on_without_a_line_lost_or_doubled(browser, g, way, form, ending):
    whole = unbroken(g, form)
    ids = [i for i in dict.fromkeys(re.findall(r'^(?:{"id":")?([0-9a-f-]{36})[,"]', whole, re.M)) if i != FOREIGN]
    assert len(ids) == N and (form != "focus" or whole.count("\n" + ids[7]) == 3)
    to = way(*(re.sub(r"{(\d+)}", lambda n: ids[int(n[1])], mark) for mark in CUTS[form]))
    download(browser, g, to.url, form)
    assert browser.downloaded(ending) == whole
    assert not to.marks and len(to.asked) == len(CUTS[form]) + 1 and FOREIGN not in "".join(to.asked)  # it did break, everywhere
    assert f"{N * 3 if form == 'focus' else N} lines" in browser.text("#export-status")
    assert only_breaks(browser)


def test_an_export_goes_on_however_often_it_breaks_and_while_the_gateway_is_busy(browser, g, way):
    whole = unbroken(g, "jsonl")
    to = way(*(moment(i) for i in range(3, 35, 4)))  # more often than it may be in vain
    download(browser, g, to.url, "jsonl", HURRY + BUSY)
    assert browser.downloaded(".jsonl") == whole and not to.marks
    assert only_breaks(browser)
