"""R17, imports from URLs: no spelling, redirect or second answer of a name server opens a socket to private space. A library in front of the gateway answers names, counts
every connect() and keeps what goes to the world on this machine (faults/names.c); listeners on loopback count who comes."""
import http.server
import os
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import trust
from gateway_process import DEMO, Gateway, until
from trust import row, without

WORLD = "8.8.4.4"  # public, and by the library a listener of ours
FILES = {"adapter_config.json", "adapter_model.safetensors"}


class Inside:
    """A service that nobody outside may reach: counts connections."""

    def __init__(self, family, host, port=0):
        self.came = 0
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.bind((host, port))
        self.socket.listen(64)
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while True:
            try:
                s, _ = self.socket.accept()
            except OSError:
                return
            self.came += 1
            s.close()

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class World:
    """The public internet: hosts that hold the demo adapter, or send whoever asks elsewhere."""

    def __init__(self, folder, names):
        self.seen, self.redirects = [], {}
        self.ca = folder / "ca.pem"
        key = folder / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=world.test", "-keyout", key, "-out", self.ca,
                        "-addext", "subjectAltName=" + ",".join(f"DNS:{n}" for n in names) + f",IP:{WORLD}"], check=True, capture_output=True, timeout=60)
        world = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_error(501)

            def do_GET(self):
                name = self.path.split("?")[0].rsplit("/", 1)[1]
                world.seen.append((self.headers["Host"], self.path))
                to = world.redirects.get(self.path.split("/")[1])
                self.send_response(302 if to else 200 if name in FILES else 404)
                body = (DEMO / "sql" / name).read_bytes() if not to and name in FILES else b""
                if to:
                    self.send_header("Location", to)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def spellings(p):
    """Hosts that are loopback, or private, by some reading; p is the port that a service listens on there."""
    loopback = ["127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0x7f.0x0.0x0.0x1", "0177.0.0.1", "017700000001", "0177.0x0.1", "127.000.000.001",
                "127.127.127.127", "0", "0.0.0.0", "00.0.0.0", "0x0", "127.0.0.1.", "localhost", "LOCALHOST", "localhost.", "loop.test", "LOOP.TEST.", "%6c%6f%6f%70.test",
                "127%2e0%2e0%2e1", "\u2460\u2461\u2466.0.0.1", "127\u30020\u30020\u30021", "xn--127001-9ua.test", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
                "[::ffff:7f00:1]", "[::ffff:0:127.0.0.1]", "[0000::ffff:7F00:0001]", "[::127.0.0.1]", "[::1%25lo]", "[::1%25 1]", "[fe80::1%25lo]", "six.test", "mapped.test"]
    private = ["10.0.0.1", "10.1", "0xa000001", "012.0.0.1", "167772161", "172.16.0.1", "172.31.255.254", "192.168.1.1", "0xc0a80101", "169.254.169.254", "2852039166",
               "0xa9fea9fe", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::10.0.0.1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[2002:a00:1::1]",
               "[2002:c0a8:0101::1]", "[2001:0:a00:1::]", "[fc00::1]", "[fd00:ec2::254]", "[fe80::1]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "100.64.0.1", "100.100.100.200",
               "192.0.0.192", "198.18.0.1", "224.0.0.1", "255.255.255.255", "168.63.129.16", "meta.test", "both.test", "six-four.test", "private.test"]
    return [f"https://{h}:{p}/a" for h in loopback] + [f"https://{h}/a" for h in private] + [
        f"https://8.8.4.4@127.0.0.1:{p}/a", f"https://127.0.0.1:{p}@world.test/a", f"https://world.test#@127.0.0.1:{p}/a", f"https://world.test\\@127.0.0.1:{p}/a",
        f"https://world.test:443@127.0.0.1:{p}/a", f"https:/127.0.0.1:{p}/a", f"https:127.0.0.1:{p}/a", f"https:///127.0.0.1:{p}/a", f"https://127.0.0.1:{p}\t/a",
        f"https://127.0.0.1:{p}\r\nHost: x/a", f" https://127.0.0.1:{p}/a", f"http://127.0.0.1:{p}/a", f"HTTP://127.0.0.1:{p}/a", f"//127.0.0.1:{p}/a",
        f"gopher://127.0.0.1:{p}/_x", f"dict://127.0.0.1:{p}/x", f"ftp://127.0.0.1:{p}/a", f"ldap://127.0.0.1:{p}/a", f"tftp://127.0.0.1:{p}/a", "file:///etc/passwd",
        f"unix://127.0.0.1:{p}/a", f"https://trusted.test.:{p}/a", f"https://127.0.0.1:{p}/trusted.test", "http://world.test/a"]


def redirects(p):
    return [f"https://127.0.0.1:{p}/a", f"http://127.0.0.1:{p}/a", f"//127.0.0.1:{p}/a", f"https://loop.test:{p}/a", f"https://2130706433:{p}/a", f"https://[::1]:{p}/a",
            f"https://[::ffff:7f00:1]:{p}/a", "https://169.254.169.254/latest/meta-data/", "http://169.254.169.254/latest/meta-data/", f"gopher://127.0.0.1:{p}/_x",
            "file:///etc/passwd", f"https://world.test@127.0.0.1:{p}/a", f"https://both.test:{p}/a", f"HTTPS://LOCALHOST:{p}/a", "https://world.test/hop/a", f"https:127.0.0.1:{p}/a",
            f"\\\\127.0.0.1:{p}/a", f"/\\127.0.0.1:{p}/a", f"https://127.1:{p}/a?https://world.test", "unix:///var/run/docker.sock", "http://world.test/a/adapter_config.json"]


NAMES = """localhost 127.0.0.1,::1
localhost. 127.0.0.1,::1
loop.test 127.0.0.1
loop.test. 127.0.0.1
six.test ::1
mapped.test ::ffff:127.0.0.1
meta.test 169.254.169.254
private.test 10.0.0.7
both.test 10.0.0.8,127.0.0.1,::1
six-four.test 64:ff9b::7f00:1
world.test {w}
""".format(w=WORLD) + "".join(f"n{i}.later.test {WORLD}|127.0.0.1\n" for i in range(50))


class Imports:
    """A gateway whose names and connections are ours."""

    def __init__(self, folder):
        self.names = folder / "names"
        self.names.write_text(NAMES)
        self.log = folder / "names.log"
        self.log.touch()
        self.inside = [Inside(socket.AF_INET, "127.0.0.1")]
        self.port = self.inside[0].port
        try:
            self.inside.append(Inside(socket.AF_INET6, "::1", self.port))
        except OSError:
            pass  # no IPv6 here: the library still counts who would connect
        self.world = World(folder, ["world.test", "*.later.test"])
        shim = trust.TOP / "build/release/tests/trust/names.so"
        subprocess.run(["make", "-s", "build/release/tests/trust/names.so"], cwd=trust.TOP, check=True, capture_output=True, timeout=120)
        self.g = Gateway(folder, "--max-uploads", "1000", "--max-adapters", "2000", "--upload-jobs", "8", fake=True,
                         env={"LD_PRELOAD": str(shim), "WEFT_NAMES": str(self.names), "WEFT_WORLD": f"{WORLD} {self.world.port}", "WEFT_WORLD_CA": str(self.world.ca)})
        self.acme = self.g.tenant("acme")

    def connects(self):
        return [line.split() for line in self.log.read_text().splitlines()]

    def ask(self, c, name, body):
        """The import's upload, or the refusal's status."""
        r = c.post(f"/v1/adapters/{name}/import", json=body)
        return r.json()["id"] if r.status_code in (200, 201, 202) else r.status_code

    def ended(self, c, name, id):
        """Its state once it is over, and why."""
        def state():
            s = c.get(f"/v1/adapters/{name}/uploads/{id}").json()
            return (s["state"], s) if s["state"] in ("done", "failed") else None
        return until(state, 60, f"the end of {name}")

    def close(self):
        self.g.close()
        self.world.close()
        for i in self.inside:
            i.close()


without("R17", "the judgement of the address that is dialled", "gateway/registry/import.c",
        old="    return f->listed || import_address_is_public(a) ? 0 : -1;", new="    return f->listed || a->sa_family ? 0 : -1;")
without("R17", "loopback on the list of what is not public", "gateway/registry/import_address.c",
        old="    {0x7f000000, 8},  /* 127.0.0.0/8        loopback */\n", new="")
without("R17", "the IPv4 address in an IPv6 one", "gateway/registry/import_address.c",
        old="        return public4((uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]);", new="        return p[0] < 255;")
without("R17", "https, or a host that the operator lists", "gateway/registry/import.c",
        old="    if (https || *listed) return 0;\n", new="    if (https || *listed || strcmp(field, \"url\") == 0) return 0;\n")


def hooks(x, changing):
    """Webhooks to the same places: (how many were refused or called, what was delivered). A name that changes is called twice."""
    called, delivered, admin = 0, [], x.g.admin
    for url in spellings(x.port) + [f"https://n{49 - i}.later.test/a" for i in range(changing)]:
        r = admin.post("/admin/v1/webhooks", json={"name": "hook", "url": url})
        called += 1
        if r.status_code == 400:
            continue
        assert r.status_code == 201, f"{url}: {r.text}"
        for turn in range(2):
            said = admin.post(f"/admin/v1/webhooks/{r.json()['id']}/test").json()
            if said.get("delivered") and "world.test#" not in url:  # that one is the world's
                delivered.append(f"webhook {url}")
        admin.delete(f"/admin/v1/webhooks/{r.json()['id']}")
    return called, delivered


@row("R17", "imports and webhooks by 100 spellings, redirects and a name that changes: no socket to private space")
def check(t):
    x = Imports(t.folder)
    wrong = []
    try:
        with x.acme.http() as c:
            # it can be done at all: the world's host, by name and by number, also by a redirect
            x.world.redirects["moved"] = "https://world.test/a/adapter_model.safetensors"
            good = 0
            for name, body in (("good", {"url": "https://world.test/a"}), ("number", {"url": f"https://{WORLD}/a"}),
                               ("moved", {"config_url": "https://world.test/a/adapter_config.json", "weights_url": "https://world.test/moved/x"})):
                id = x.ask(c, name, body)
                how = x.ended(c, name, id)
                assert how[0] == "done", (name, how, x.connects())
                good += 1
            before, tried, jobs = len(x.world.seen), 0, []
            for i, url in enumerate(spellings(x.port)):
                jobs += [(f"s{i}", url, x.ask(c, f"s{i}", {"url": url}))]
            for i, to in enumerate(redirects(x.port)):
                x.world.redirects[f"r{i}"] = to
                jobs += [(f"r{i}", to, x.ask(c, f"r{i}", {"url": f"https://world.test/r{i}"}))]
            x.world.redirects["hop"] = "https://world.test/hop/a"
            for i in range(t.size(3, 50)):  # the name's first answer is public, all later ones are not
                jobs += [(f"f{i}", "a name that changes", x.ask(c, f"f{i}", {"url": f"https://n{i}.later.test/a"}))]
            for name, what, id in jobs:
                tried += 1
                state = x.ended(c, name, id)[0] if isinstance(id, str) else "refused"
                if state not in ("failed", "refused") and "world.test#" not in what:  # that one is the world's, with a fragment
                    wrong.append(f"{what}: {state}")
            called, delivered = hooks(x, t.size(3, 25))
            wrong += delivered
            said = x.acme.http().get("/v1/events", params={"limit": 100}).text + x.g.log.read_text()
        private = [a for a in x.connects() if a != [WORLD, "443"]]
        changed = sum(".later.test" in host for host, _ in x.world.seen)
        for w in wrong + private[:20]:
            print(w)
        t.count("spellings", len(spellings(0)), least=40)
        t.count("redirects", len(redirects(0)), least=10)
        t.count("names that change", sum(name[0] == "f" for name, _, _ in jobs), least=3)
        t.count("imported from a host of the world, by name, number and redirect", good, least=3)
        t.count("webhooks to the same spellings and names that change, refused or called", called, least=40)
        t.count("files that they gave while they were public", changed, least=3)
        t.count("imports and calls that came through", len(wrong), most=0)
        t.count("sockets opened to other than the world's https", len(private), most=0)
        t.count("connections that reached a service inside", sum(i.came for i in x.inside), most=0)
        t.count("mentions of a file of this machine", said.count("root:"), most=0)
    finally:
        x.close()
