"""R5: memory that runs out. The Nth allocation of a request's handling returns NULL, wherever it is: our own code, SQLite, jansson, libmicrohttpd, curl.

Every operation of the API's description is sent with its example while one allocation, or a few in a row, fails (tests/trust/faults/shim.c); then once
more without a fault. The answer to the first is what the program can still say: an error in JSON, a closed connection, or the answer, where the
allocation was not needed. The second is served. In the end the books balance, nothing is held by anybody, and the program ends by itself with LeakSanitizer
content. A program that was built with ASan and UBSan is taken where there is one, so that a crash is any wrong access. The engine's half is memory_engine.py."""
import os
import random

import httpx

import gateway_process
import memory_engine
from api_world import World
from faults.shim import Shim
from gateway_process import BASE, Gateway, until
from memory_walk import ANSWER_S, FARTHEST, Walk
from trust import TOP, row, without

ASAN = TOP / "build/asan/weft-gateway"


def nodes(answer):
    """How many values an answer in JSON has, at all levels; 0 of another, and of none."""
    def count(v):
        return 1 + sum(map(count, v.values() if isinstance(v, dict) else v if isinstance(v, list) else ()))

    return count(answer.json()) if answer is not None and answer.status_code == 200 and answer.headers.get("content-type", "").split(";")[0] == "application/json" else 0


class GatewayWalk(Walk):
    def __init__(self, gateway, shim, rng):
        super().__init__(gateway, shim, rng)
        self.g = gateway

    def serve(self, what, send, lasting=False):
        """The next request, without a fault. The writer waits 100 ms where two groups in a row met no memory: then one soon after."""
        if lasting:
            until(self.is_well, 10, "a database that writes")
        r = self.unstruck(what, send)
        if r is None:
            return
        if r.status_code >= 500:
            self.wrong("not served", f"{what}: {r.status_code} {r.text[:120]}")
        self.blame(what, r.status_code)

    def unstruck(self, what, send):
        """The answer to a request beside which nothing fails; None: it broke off, which is told with what the gateway said last."""
        try:
            return send()
        except httpx.TransportError as e:
            self.wrong("not served", f"{what}: {e!r}\n{self.server.tail()[-1500:]}")
            return None

    def is_well(self):
        """A kept connection that was struck between two requests ends with the next one."""
        try:
            return self.g.admin.get("/ready").status_code == 200 and self.writes()
        except httpx.TransportError:
            return False

    def writes(self):
        return self.g.admin.put("/admin/v1/tenants/tenant-0/limits", json={}).status_code == 200

    def blame(self, what, status):
        """Memory that ran out is no fault of the client's: an answer of 4xx is that of the request without a fault, or one of an object that is gone or made."""
        for (w, said), (point, text) in self.said.items():
            if "/backups/{id}" in w and said == 404:
                continue  # it is there once it is complete, which may be after the first question
            if w == what and 400 <= said < 500 and said != status and said not in (() if what.startswith("GET") else (404, 409)):
                self.wrong("blamed on the client", f"{point}: {said} instead of {status}: {text}")

    def completeness(self, op, send):
        """For a question: whether a 200 has less in it than the answers before and after."""
        before = nodes(self.unstruck(f"{op}, before", send))

        def look(what, r):
            if r.status_code == 200 and nodes(r) < min(before, nodes(self.unstruck(f"{what}, after", send))):
                self.wrong("lacking something", f"{what}: {r.text[:160]}")

        return look

    def operation(self, world, op, kind, value, points):
        def send():
            return world.send(op, kind, value)

        far, lasting = FARTHEST, False
        look = self.completeness(op, send) if op.method == "get" else None
        for _ in range(points):
            at, times = self.point(far)
            lasting |= times > 1 or points > 1  # several points in a row are no single shortage either
            if not self.strike(str(op), send, at, times, look):
                far = max(8, at)
        self.serve(str(op), send, lasting)


def ask(walk, key, body):
    def send():
        with httpx.Client(base_url=walk.g.url, headers={"Authorization": f"Bearer {key}"}, timeout=ANSWER_S) as c:
            return c.post("/v1/chat/completions", json=body)

    return send


def inference(walk, tenant, step):
    """Every allocation, or one in `step`, of a request that costs money; every one of libcurl's in any case, which has places that lose a socket."""
    words = [{"role": "user", "content": "tokens=3"}]
    for body in ({"model": BASE, "messages": words}, {"model": "sql", "messages": words, "stream": True}):
        at = walk.rng.randrange(step)
        while walk.strike(f"chat stream={body.get('stream', False)}", ask(walk, tenant.key, body), at, 1):
            at += step
        at = 0
        while step > 1 and walk.strike(f"chat stream={body.get('stream', False)}", ask(walk, tenant.key, body), at, 1, library="*/libcurl*"):
            at += 1
        walk.serve("chat", ask(walk, tenant.key, body), lasting=True)  # the walk is many points in a row


def everything(walk, world, points):
    world.backup_key()  # before anything fails
    waiting = world.operations()
    while waiting:
        later = []
        for op in waiting:
            if world.path(op) is None:
                later.append(op)
                continue
            for kind, value in op.examples():
                walk.operation(world, op, kind, value, points)
        if len(later) == len(waiting):
            walk.wrong("without an id", f"{later}")
            break
        waiting = later


def books(walk, g):
    until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, 30, "the end of all admissions")
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()["verify"]
    walk.count["wrong buckets"] += verdict["bad_buckets"]
    for name in [x["name"] for x in g.admin.get("/admin/v1/tenants?limit=100").json()["data"]]:
        used = g.admin.get(f"/admin/v1/tenants/{name}/limits").json()["used"]
        if used["concurrent_requests"] or any(used["reserved"].values()):
            walk.wrong("reservations kept", f"{name}: {used}")
    until(lambda: g.admin.get("/admin/v1/now").json()["in_flight"] == 0, 10, "nobody in flight")


def of_the_gateway(t):
    asan = ASAN.exists() and "WEFT_GATEWAY" not in os.environ
    if asan:
        gateway_process.PROGRAM = ASAN
    with Shim(t.folder, "weft-gateway") as shim:
        g = Gateway(t.folder, "--max-adapters", "500", fake=True, env=shim.env(asan))
        try:
            assert shim.pid == g.process.pid, "the shim is not in the gateway"
            walk = GatewayWalk(g, shim, random.Random(5))
            world = World(g)
            inference(walk, world.tenant, t.size(24, 1))
            everything(walk, world, t.size(1, 12))
            books(walk, g)
            g.process.terminate()
            code = g.process.wait(60)
        finally:
            if g.process.poll() is None:
                g.kill()
        tail, leaks = g.tail(), g.log.read_text().count("ERROR: LeakSanitizer")
        g.close()
    for line in walk.bad[:12]:
        print(line)
    if code:
        print(tail[-6000:])
    t.count("points", walk.count["points"], least=t.size(60, 2000))
    t.count("allocations that failed", walk.count["failed"], least=walk.count["points"])
    for what in ("not served", "hung", "not an error of ours", "blamed on the client", "lacking something", "reservations kept", "wrong buckets", "without an id"):
        t.count(what, walk.count[what], most=0)
    t.count("crashes", int(code not in (0, 77)), most=0)
    if asan:  # another build tells of none
        t.count("leaks", leaks, most=0)
    if t.whole:
        t.count("of it under ASan and UBSan", int(asan), least=1)
    t.note(walk.told(asan))


@row("R5", "allocations that fail, over all endpoints of the gateway and of the engine: no crash, no leak, the next request is served and right, the books balance")
def check(t):
    of_the_gateway(t)
    memory_engine.check(t)


without("R5", "a parse that ends at the first allocation that fails", file="base/json.c",
        old="json_t *v = json_load(text, len, JSON_REJECT_DUPLICATES, &je);", new="json_t *v = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);")
without("R5", "calls that end where libcurl lost their socket", file="base/client.c",
        old="if (c->astray) give_up_unanswered(c);", new="if (c->astray && !c->multi) give_up_unanswered(c);")
without("R5", "one shortage that is no failure of the disk", file="gateway/db/db_writer.c",
        old="if (rc == SQLITE_NOMEM && sqlite3_get_autocommit(d->writer.c) && d->shortages++ == 0) return;", new="")
without("R5", "an answer of the gateway's that lacks what had no memory is none", file="base/json_load.c",
        old="    return short_us && short_us >= since_us;\n", new="    return short_us && since_us < 0;\n")
without("R5", "an answer of the engine's that lacks what had no memory is none", file="base/json.c",
        old="    if (!failed) return;\n", new="    if (!failed || *v) return;\n")
without("R5", "an answer whose headers had no memory is none", file="base/http_reply.c",
        old="    if (whole) return;\n", new="    return;\n")
without("R5", "an adapter that could not be looked up is not called unknown", file="engine/api_models.c",
        old="    free(list);\n    return found;\n",
        new="    if (!found) err_set(e, ERR_ADAPTER_NOT_LOADED, \"-\");\n    free(list);\n    return found;\n")
