"""R15, tenants apart: every operation of the API's description is sent for one tenant's things with every kind of key there is. A stranger's answers are those for things that there are
not, byte for byte; nothing of the other's is in any answer, and nothing of it has changed. What the description gains is covered by itself."""
import json
import re
import time
import uuid

from api_world import World
from gateway_process import Gateway, until
from trust import row, without

CANARY = "zq7canary"  # in all that the first tenant may name
IDS = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
LIVE = {"failures", "failing_since", "last_error", "waiting", "time", "used", "idle_s", "in_flight", "now", "at", "uptime_s", "last_used_at", "requests", "remaining", "reset_s", "resets_at", "generated_at", "end_time", "start_time", "next_page"}


class Own(World):
    """The first tenant's world; what strangers do in it changes nothing of what it knows."""

    def values(self, op):
        """Of the path's parameters; None where nothing gives one."""
        out = {n: op.parameter("path", n).get("example", self.fed.get(op.id, {}).get(n)) for n in op.names()}
        return None if None in out.values() else {n: str(v) for n, v in out.items()}

    def ask(self, op, path, key, query=None):
        kind, value = op.examples()[0]
        return self.send(op, kind, value, query=query, headers={"Authorization": f"Bearer {key}" if key else ""}, path=path, feed=False)


def missing(value):
    """What has the same shape, and nobody has it."""
    if IDS.fullmatch(value):
        return str(uuid.uuid4())
    return "9999" if value.isdigit() else uuid.uuid4().hex[: max(4, len(value))]


def fill(path, values):
    return re.sub(r"{(\w+)}", lambda m: values[m.group(1)], path)


def plain(r, named):
    """Status, type and body, but for what the request named, ids that were made for it, and times."""
    text = r.text
    for v in sorted(named, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(v)}\b", "NAMED", text)
    text = re.sub(r'("(?:id|key|created_by|first_id|last_id|redacted|secret)":)"[^"]*"', r'\1"ID"', text)
    return r.status_code, r.headers.get("content-type"), re.sub(r'"[0-9a-f]{64}"', "SUM", re.sub(r"\b1[789]\d{8}(\d{3}|\.\d+)?\b", "TIME", IDS.sub("ID", text)))


def steady(value):
    """Without what moves by itself."""
    if isinstance(value, dict):
        return {k: steady(v) for k, v in value.items() if k not in LIVE and not k.endswith(("_at", "_us", "_ms", "_s", "_time", "_mono"))}
    return [steady(v) for v in value] if isinstance(value, list) else value


def fill_world(world):
    """Everything that a tenant can have: the examples of all that makes something. Nothing of it is taken away."""
    for op in world.operations():
        if op.document is world.documents[0] and op.method in ("post", "put") and world.path(op) and "rollback" not in op.path and "revoke" not in op.path:
            for kind, value in op.examples():
                world.send(op, kind, value)


def look(world):
    """operation -> what its tenant sees"""
    out = {}
    for op in world.documents[0].operations:
        path = world.path(op)
        if op.method != "get" or not path or not op.item["security"] or "text/event-stream" in (op.response(200) or {}).get("content", {}):
            continue
        r = world.ask(op, path, world.tenant.key)
        json_ = r.headers.get("content-type", "").split(";")[0] == "application/json"
        out[op.id] = (r.status_code, steady(r.json()) if json_ else r.text)
    return out


def keys_of(g):
    """Keys of the public listener that open nothing, and those of the admin's."""
    def made(path, **body):
        r = g.admin.post(path, json=body)
        assert r.status_code == 201, r.text
        return r.json()
    end = int(time.time()) + 2
    out, late = {"public": {}, "admin": {}}, []
    for where, path in (("public", "/admin/v1/tenants/acme/keys"), ("admin", "/admin/v1/admin-keys")):
        more = {"roles": ["admin"], **({"name": "late"} if where == "admin" else {})}
        revoked, expired = made(path, **more), made(path, **more, expires_at=end)
        gone = g.admin.delete(path.replace("tenants/acme/", "") + "/" + revoked["id"])
        assert gone.status_code == 200, gone.text
        out[where] = {"none": None, "revoked": revoked["key"], "expired": expired["key"], "changed": expired["key"][:-1] + ("a" if expired["key"][-1] != "a" else "b")}
        late.append(expired)
    out["public"]["admin"] = g.admin_key
    time.sleep(max(0, end - time.time()) + 1.1)
    return out


def strangers(world, op, n):
    """The same request for the first tenant's things and for things that there are not, each by a tenant that was made for it. Their answers, and those words
    of the first's world that it did not name itself."""
    g, values, got = world.gateway, world.values(op), []
    for i, (tenant, named) in enumerate((("acme", values), ("nobody", {k: v if "enum" in op.parameter("path", k)["schema"] else missing(v) for k, v in values.items()}))):
        me = g.tenant(f"s{n}-{i}")
        for prefix in ("", f"/t/{tenant}", f"/t/{me.name}"):
            r = world.ask(op, prefix + fill(op.path, named), me.key)
            got.append((plain(r, [*named.values(), tenant, me.name]), r.text, set(named.values())))
    kinds = range(3) if values else (1,)  # where the path names nothing but the tenant, the rest is the stranger's own affair
    return [(got[i][0], got[i + 3][0]) for i in kinds], [(text, named) for _, text, named in got]


without("R15", "the tenant in the look-up of an adapter", "gateway/registry/registry_list.c",
        old='ADAPTER_COLUMNS "WHERE a.tenant = ?1 AND a.name = ?2 LIMIT ?3"', new='ADAPTER_COLUMNS "WHERE ?1 = ?1 AND a.name = ?2 LIMIT ?3"')
without("R15", "the tenant in the look-up of a webhook", "gateway/webhook/webhook_store.c",
        old='"WHERE w.id = ?1 AND (?2 IS NULL OR w.tenant = ?2)"', new='"WHERE w.id = ?1 AND (?2 IS NULL OR ?2 = ?2)"')
without("R15", "the end of a key", "gateway/auth/auth.c", old="now >= k->expires", new="now < 0")


@row("R15", "every operation with every kind of key: nothing across tenants, and another's is as if there were none")
def check(t):
    g = Gateway(t.folder, "--webhook-hosts", "127.0.0.1", "--import-hosts", "127.0.0.1", "--max-uploads", "100", fake=True)
    wrong = {"answers that tell another's from none": [], "words of another tenant in an answer": [], "operations that a bad key opened": [], "refusals that differ": []}
    try:
        world = Own(g)
        for name in ("sql", "triage"):
            world.tenant.upload(name, description=CANARY, path="/v1/adapters")
        keys = keys_of(g)
        fill_world(world)
        until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, what="the last settlement")
        time.sleep(0.5)
        before = look(world)
        marks = set(IDS.findall(json.dumps([v for v in before.values()]))) | {CANARY}
        asked = opened = compared = 0
        refusals = {}
        for n, op in enumerate(o for o in world.documents[0].operations if o.item["security"] and world.values(o) is not None):
            pairs, texts = strangers(world, op, n)
            compared, asked = compared + len(pairs), asked + 6
            wrong["answers that tell another's from none"] += [f"{op}: {a} / {b}" for a, b in pairs if a != b]
            for text, named in texts:
                wrong["words of another tenant in an answer"] += [f"{op}: {m}" for m in marks - named if m in text]
        for d, where in zip(world.documents, ("public", "admin")):
            bad = {**keys[where], **({"a tenant's": world.tenant.key} if where == "admin" else {})}
            for op in (o for o in d.operations if o.item["security"]):
                values = world.values(op) or {k: "x" for k in op.names()}
                for kind, key in bad.items():
                    r = world.ask(op, fill(op.path, values), key)
                    asked += 1
                    if r.status_code != 401:
                        wrong["operations that a bad key opened"].append(f"{op}, {kind}: {r.status_code} {r.text[:200]}")
                    refusals.setdefault((where, kind == "none", plain(r, [])), f"{op}, {kind}")
        after = look(world)
        changed = [k for k in before if before[k] != after.get(k)]
        for k in changed:
            print("changed:", k, json.dumps(before[k])[:1500], "\n   ->", json.dumps(after.get(k))[:1500])
        opened = sum(v[0] == 200 for v in before.values())
        for name, found in wrong.items():
            for f in found:
                print(f"{name}: {f}"[:600])
    finally:
        g.close()
    t.count("operations of the description", sum(len(d.operations) for d in world.documents), least=150)
    t.count("requests with keys that should open nothing", asked, least=1000)
    t.count("pairs of answers compared, another's and none", compared, least=100)
    t.count("operations that read the tenant's own things", opened, least=20)
    for name, found in wrong.items():
        t.count(name, len(found), most=0)
    t.count("different refusals of bad keys", len(refusals), most=4)
    t.count("things of the tenant that strangers changed", len(changed), most=0)
