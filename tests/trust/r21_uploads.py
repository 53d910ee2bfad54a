"""R21: the gateway is killed in the middle of uploads of large adapters, as one body and in parts. No adapter that is not whole is ever listed or served, what was
left in tmp/ is gone after the next start (an upload in parts goes on where it stood, and is gone with its end), and who tries again gets the digest of the file."""

import array
import hashlib
import http.client
import json
import random
import struct
import threading
from urllib.parse import urlsplit

import httpx

from gateway_process import DEMO, Gateway, until
from test_gateway_adapters import begin, get
from trust import row, without

LAYERS, HIDDEN, KV, FFN = 30, 576, 192, 1536  # of the base that the fake engine describes
SHAPES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KV, HIDDEN), "self_attn.v_proj": (KV, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
          "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}
PER_RANK = 4 * LAYERS * sum(o + i for o, i in SHAPES.values())
PIECE, BOUNDARY = 1 << 20, "weftboundary"


def adapter(megabytes):
    """(config, weights) of an adapter of about that size: every linear module of every layer, in float32."""
    rank = max(1, megabytes * 1_000_000 // PER_RANK)
    config = {**json.loads((DEMO / "sql/adapter_config.json").read_text()), "r": rank, "lora_alpha": rank, "target_modules": sorted(m.split(".")[1] for m in SHAPES)}
    header, at = {}, 0
    for layer in range(LAYERS):
        for module, (out, inner) in sorted(SHAPES.items()):
            for side, shape in (("A", [rank, inner]), ("B", [out, rank])):
                size = 4 * shape[0] * shape[1]
                header[f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
                at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = random.Random(21)
    block = array.array("f", (rng.uniform(-0.01, 0.01) for _ in range(65521))).tobytes()  # of a prime length: no two tensors are alike
    return json.dumps(config).encode(), struct.pack("<Q", len(text)) + text + (block * (at // len(block) + 1))[:at]


class Uploads:
    def __init__(self, g, tenant, config, weights, rng):
        self.g, self.t, self.config, self.weights, self.rng = g, tenant, config, weights, rng
        self.sha256 = hashlib.sha256(weights).hexdigest()
        self.partial = self.left = self.stray = self.served = self.wrong = 0
        self.digest = None

    # --- what is killed ---

    def send_cut(self, method, path, pieces, share, headers):
        """Sends so much of the body (all of it: beyond 1), then the gateway is killed; the server may also have been faster."""
        total = sum(map(len, pieces))
        c = http.client.HTTPConnection(urlsplit(self.g.url).hostname, urlsplit(self.g.url).port, timeout=60)
        try:
            c.putrequest(method, path)
            for name, value in {**headers, "Authorization": f"Bearer {self.t.key}", "Content-Length": str(total)}.items():
                c.putheader(name, value)
            c.endheaders()
            sent = 0
            for body in pieces:
                for at in range(0, len(body), PIECE):
                    if sent >= share * total:
                        return
                    c.send(body[at : at + PIECE])
                    sent += len(body[at : at + PIECE])
            threading.Event().wait((share - 1) * 2)  # it is being checked and kept
        except OSError:
            pass
        finally:
            self.look()
            self.g.kill()
            c.close()

    def whole_cut(self, name, share):
        def field(what, file=""):
            return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{what}"{file}\r\n\r\n'.encode()
        pieces = [field("name") + name.encode() + b"\r\n" + field("config", '; filename="c"') + self.config + b"\r\n" + field("weights", '; filename="w"'),
                  self.weights, f"\r\n--{BOUNDARY}--\r\n".encode()]
        self.send_cut("POST", "/v1/adapters?wait=ready", pieces, share, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"})

    def part_cut(self, u, share):
        with self.t.http() as c:
            n = len(self.config)
            assert c.put(f"/v1/adapters/{u['adapter']}/uploads/{u['id']}/config", content=self.config, headers={"Content-Range": f"bytes 0-{n - 1}/{n}"}).status_code == 200
        n = len(self.weights)
        self.send_cut("PUT", f"/v1/adapters/{u['adapter']}/uploads/{u['id']}/weights", [self.weights], min(share, 1), {"Content-Range": f"bytes 0-{n - 1}/{n}"})

    # --- what is seen of it ---

    def look(self, open_upload=None):
        """No version that is not whole is ready or a model; nothing lies about that nobody needs."""
        try:
            versions = [v for a in get(self.t, "/v1/adapters?limit=100")["data"] for v in get(self.t, f"/v1/adapters/{a['name']}")["versions"]]
            with self.t.http() as c:
                models = [m["id"] for m in c.get("/v1/models").json()["data"]]
        except httpx.HTTPError:
            return  # it was killed a moment ago
        ready = {v["id"].split("@")[0] for v in versions if v["state"] == "ready"}
        self.partial += sum(v["state"] == "ready" and v["file_sha256"] != self.sha256 for v in versions)
        self.partial += sum(m.split("@")[0] not in ready for m in models if m.startswith("big"))

    def after_start(self, name, upload=None):
        """After a kill and a start: what is left, and whether the half of it answers."""
        self.g.start()
        self.look()
        with self.t.http() as c:
            state = c.get(f"/v1/adapters/{name}").json().get("state")  # or it is not there
        if state != "ready" and state != "validating":
            self.served += self.t.ask("tokens=1", model=name).status_code == 200
        keep = [upload["id"]] if upload else []
        self.left += sum(x not in keep for x in self.g.temporary()) if state != "validating" else 0
        self.stray += len(set(self.g.blobs()) - {v["digest"] for a in get(self.t, "/v1/adapters?limit=100")["data"] for v in get(self.t, f"/v1/adapters/{a['name']}")["versions"]})

    def settle(self, name, v):
        """The version that the second try made: same digest; then it goes."""
        self.wrong += v.get("state") != "ready" or v.get("file_sha256") != self.sha256 or (self.digest or v.get("digest")) != v.get("digest")
        self.digest = self.digest or v.get("digest")
        with self.t.http() as c:
            assert c.delete(f"/v1/adapters/{name}").status_code == 200
        until(lambda: self.g.temporary() == [] and self.g.blobs() == [], 30, "the end of all that was uploaded")

    def whole(self, n):
        name = f"big-{n}"
        self.whole_cut(name, self.rng.uniform(0.05, 1.15))
        self.after_start(name)
        r = self.t.upload(name, config=self.config, weights=self.weights)
        assert r.status_code in (200, 201), r.text
        self.settle(name, r.json())

    def in_parts(self, n):
        name = f"big-{n}"
        u = begin(self.t, name)
        self.part_cut(u, self.rng.uniform(0.05, 0.95))
        self.after_start(name, u)
        path = f"/v1/adapters/{name}/uploads/{u['id']}"
        at, total = get(self.t, path)["files"]["weights"]["received"], len(self.weights)
        with self.t.http() as c:
            if at < total:
                r = c.put(path + "/weights", content=self.weights[at:], headers={"Content-Range": f"bytes {at}-{total - 1}/{total}"})
                assert r.status_code == 200, r.text
            r = c.post(path + "/complete?wait=ready")
        assert r.status_code == 201, r.text
        self.settle(name, r.json())


@row("R21", "kills during uploads: no partial adapter, nothing left, the same digest")
def check(t):
    kills, size = t.size(short=3, whole=20), t.size(short=8, whole=256)
    config, weights = adapter(size)
    g = Gateway(t.folder / "g", fake=True)
    try:
        run = Uploads(g, g.tenant("acme"), config, weights, random.Random(21))
        for n in range(kills):
            (run.in_parts if n % 3 == 1 else run.whole)(n)
        t.count("kills", kills, least=kills)
        t.count("megabytes of each upload", len(weights) // 1_000_000, least=size - 1)
        t.count("partial adapters that were listed as ready, or as models", run.partial, most=0)
        t.count("partial adapters that answered", run.served, most=0)
        t.count("files and folders left in tmp/ after a start", run.left, most=0)
        t.count("bytes in the store that no version needs", run.stray, most=0)
        t.count("second tries with another digest", run.wrong, most=0)
    finally:
        g.close()


without("R21", "the sweep of tmp/ at a start", "gateway/registry/upload_parts.c", "    if (rc == 0) rc = store_clean_but(g->tmp, lives, &l, e);", "    (void)lives;")
without("R21", "only what is ready is served", "gateway/registry/registry.c",
        "        if (k->state == VERSION_READY && (!version || k->version == version) && served(u, k->base)) return k;",
        "        if ((!version || k->version == version) && (k->state != VERSION_READY || served(u, k->base))) return k;")
