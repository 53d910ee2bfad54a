"""R12, identity: what answers is the adapter version that was asked for. 64 adapters of mixed ranks of four tenants share 8 slots, while versions come, go, are unloaded under the requests
that use them, and clients leave in mid-answer; each answer, its log-probabilities included, is the one that its version gives when it is asked alone."""
import concurrent.futures
import itertools
import json
import random
import struct
import threading
import time

from gateway_process import BASE, DEMO, Gateway, until
from trust import row, without

ADAPTERS, SLOTS, TENANTS, AT_ONCE = 64, 8, 4, 6
RANKS = (1, 2, 3, 4, 6, 8, 12, 16)
LAYERS, HIDDEN, OUT = 30, 576, {"q_proj": 576, "v_proj": 192}  # of the demo base
PROMPTS = ("The quick brown fox", "In the beginning there was", "def main():")
# A bf16's upper byte, sign and exponent, from a random byte: +-2^-5 to 2^-2, so that every adapter speaks in tongues of its own.
UPPER = bytes((0x3D, 0xBD, 0x3D, 0xBD, 0x3E, 0xBE, 0x3D, 0xBD)[b % 8] for b in range(256))


def adapter(seed):
    """(config, weights) of an adapter that nobody has trained."""
    rank, draw = RANKS[seed % len(RANKS)], random.Random(seed)
    config = {**json.loads((DEMO / "sql/adapter_config.json").read_text()), "r": rank, "lora_alpha": 2 * rank, "target_modules": sorted(OUT)}
    head, data = {}, bytearray()
    for layer in range(LAYERS):
        for module, out in OUT.items():
            for letter, shape in (("A", [rank, HIDDEN]), ("B", [out, rank])):
                n = shape[0] * shape[1]
                lower, upper = draw.randbytes(n), draw.randbytes(n).translate(UPPER)
                values = bytearray(2 * n)
                values[::2], values[1::2] = lower, upper
                head[f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_{letter}.weight"] = {"dtype": "BF16", "shape": shape, "data_offsets": [len(data), len(data) + 2 * n]}
                data += values
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return json.dumps(config).encode(), struct.pack("<Q", len(text)) + text + bytes(data)


def body(model, seed, **more):
    return {"model": model, "prompt": PROMPTS[seed % len(PROMPTS)], "max_tokens": 5, "temperature": 0, "logprobs": 1, "ignore_eos": True, **more}


class Fleet:
    """Names of adapters, and which seed is behind each of their versions."""

    def __init__(self, g):
        self.g = g
        self.tenants = [g.tenant(f"t{i}") for i in range(TENANTS)]
        self.clients = [t.http() for t in self.tenants]
        self.seed_of, self.digest_of, self.lock = {}, {}, threading.Lock()
        self.live = {}  # (tenant, name) -> versions
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: self.upload(i % TENANTS, f"a{i}", i), range(ADAPTERS)))

    def upload(self, tenant, name, seed):
        config, weights = adapter(seed)
        r = self.clients[tenant].post("/v1/adapters", params={"wait": "ready"}, data={"name": name}, files={"config": config, "weights": weights})
        assert r.status_code == 201, r.text
        version = r.json()["version"]
        with self.lock:
            self.seed_of[tenant, name, version] = seed
            self.digest_of[tenant, name, version] = r.json()["digest"]
            self.live.setdefault((tenant, name), []).append(version)
        return version

    def any(self, draw):
        """Half of the time one of several versions, where there are any."""
        with self.lock:
            several = [x for x in sorted(self.live.items()) if len(x[1]) > 1]
            (tenant, name), versions = draw.choice(several if several and draw.random() < 0.5 else sorted(self.live.items()))
            return tenant, name, draw.choice(versions)


class Storm:
    def __init__(self, fleet, seed):
        self.fleet, self.draw, self.stop = fleet, random.Random(seed), threading.Event()
        self.got, self.refused, self.cut, self.other, self.done, self.bad = [], {}, 0, 0, {}, []
        self.lock = threading.Lock()

    def ask(self, i):
        f, draw = self.fleet, random.Random(i)
        tenant, name, version = f.any(draw)
        model = name if draw.random() < 0.5 else f"{name}@{version}"
        question = int(name[1:]) % len(PROMPTS)
        if i % 12 == 0:
            return self.leave(tenant, model, question)
        r = f.clients[tenant].post("/v1/completions", json=body(model, question))
        with self.lock:
            if r.status_code == 200:
                said = int(r.headers["x-weft-adapter-version"].rsplit("@", 1)[-1])
                self.other += model != name and said != version
                self.got.append((tenant, name, said, question, r.json()["choices"]))
            else:
                self.refused[r.status_code] = self.refused.get(r.status_code, 0) + 1
                if r.status_code not in (404, 503):
                    self.bad.append(r.text)

    def leave(self, tenant, model, question):
        with self.fleet.clients[tenant].stream("POST", "/v1/completions", json=body(model, question, stream=True, max_tokens=60)) as r:
            next(r.iter_raw(), None)
        with self.lock:
            self.cut += 1

    def churn(self):
        """Versions come and go, and slots are taken from under those who use them."""
        f, seed = self.fleet, 1000
        engine = f.g.engine()
        for what in itertools.cycle(("unload", "version", "load", "delete", "unload", "warm", "pin")):
            if self.stop.is_set():
                return
            tenant, name, version = self.many() if what == "delete" else f.any(self.draw)
            c, digest = f.clients[tenant], f.digest_of[tenant, name, version]
            if what == "unload":
                status = engine.post("/v1/unload_lora_adapter", json={"lora_name": digest}).status_code
            elif what == "load":
                status = engine.post("/v1/load_lora_adapter", json={"lora_name": digest, "lora_path": str(f.g.data / "blobs" / digest[:2] / digest)}).status_code
            elif what == "version":
                seed += 1
                f.upload(tenant, name, seed)
                status = 201
            elif what == "delete":
                with f.lock:
                    f.live[tenant, name].remove(version)
                status = c.delete(f"/v1/adapters/{name}/versions/{version}").status_code
            else:
                status = c.post(f"/v1/adapters/{name}/{what}").status_code
                if what == "pin":
                    c.post(f"/v1/adapters/{name}/unpin")
            self.done[what] = self.done.get(what, 0) + (200 <= status < 300)
            time.sleep(0.02)

    def many(self):
        """The oldest version of an adapter that has another."""
        with self.fleet.lock:
            (tenant, name), versions = self.draw.choice([x for x in sorted(self.fleet.live.items()) if len(x[1]) > 1])
            return tenant, name, versions[0]


class Alone:
    """Answers of one seed's bytes, asked while nobody else asks."""

    def __init__(self, fleet):
        self.fleet, self.known, self.place = fleet, {}, {}
        for key, versions in fleet.live.items():
            for v in versions:
                self.place.setdefault(fleet.seed_of[(*key, v)], (*key, v))

    def answer(self, seed, question):
        if (seed, question) not in self.known:
            f = self.fleet
            if seed not in self.place:
                self.place[seed] = (0, f"again-{seed}", f.upload(0, f"again-{seed}", seed))
            tenant, name, version = self.place[seed]

            def ask():
                r = f.clients[tenant].post("/v1/completions", json=body(f"{name}@{version}", question))
                return r if r.status_code == 200 else None
            self.known[seed, question] = until(ask, 30, f"an answer of {name}@{version}").json()["choices"]
        return self.known[seed, question]


without("R12", "slots are taken only where no request is on them", "engine/lora_loader.c", old="p->owner && p->pins == 0 && (!oldest", new="p->owner && (!oldest")
without("R12", "the version in the look-up of NAME@VERSION", "gateway/registry/registry.c", old="(!version || k->version == version)", new="(!version || k->version)")


@row("R12", "64 adapters, 8 slots, versions coming and going: every answer is its own adapter's")
def check(t):
    g = Gateway(t.folder, "--max-slots", SLOTS, "--max-context", "256", "--upload-jobs", "2", "--precision", "exact")
    try:
        pid, fleet = g.engine_pid(), Fleet(g)
        storm, n = Storm(fleet, 7), t.size(150, 10_000)
        churner = threading.Thread(target=storm.churn)
        churner.start()
        try:
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(storm.ask, range(n)))
        finally:
            storm.stop.set()
            churner.join(60)
        until(lambda: g.engine_state()["running"] == 0, 60, "an idle engine")
        alone, wrong, other = Alone(fleet), [], 0
        for tenant, name, version, question, choices in storm.got:
            seed = fleet.seed_of[tenant, name, version]
            if choices != alone.answer(seed, question):
                wrong.append((seed, question, choices))
        for seed, question, choices in wrong:
            other += any(choices == c for (s, q), c in alone.known.items() if s != seed and q == question)
            print("differs:", seed, question, choices, alone.known[seed, question])
        said = {json.dumps(c) for (s, q), c in alone.known.items()}
        verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
        ends = g.engine_pid() != pid
    finally:
        g.close()
    t.count("requests", n, least=t.size(150, 10_000))
    t.count("answers compared", len(storm.got), least=n // 2)
    t.count("answers that differ from those asked alone", len(wrong), most=0)
    t.count("outputs of a wrong adapter", other, most=0)
    t.count("answers of another version than was named", storm.other, most=0)
    t.count("ends of the engine", ends, most=0)
    t.count("different answers among those asked alone", len(said), least=int(0.95 * len(alone.known)))
    t.count("versions whose answers were compared", len({s for s, _ in alone.known}), least=40)
    t.count("clients that left in mid-answer", storm.cut, least=n // 20)
    for what, least in (("unload", 5), ("load", 1), ("version", 1), ("delete", 1), ("warm", 1)):
        t.count(what + " meanwhile", storm.done.get(what, 0), least=least)
    t.count("refusals other than gone or busy", len(storm.bad), most=0)
    t.count("buckets of the ledger that do not add up", verdict["verify"]["bad_buckets"], most=0)
    t.note(f"refused because the version was gone or no slot came free: {storm.refused}")
