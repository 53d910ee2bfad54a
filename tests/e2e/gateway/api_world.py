"""A gateway with something of everything, and the examples of the API's description sent to it. Plain classes, no fixtures.

Names in paths are the parameters' own examples (tenant acme, adapter sql); ids come from the answers of operations that link to them."""

import re

import httpx

from api_document import Document
from gateway_process import DEMO, until

# Makers first, so that there is what the others look at; what takes away comes last.
ORDER = {"post": 0, "put": 1, "get": 3, "patch": 4, "delete": 6}
FILES = {"config": "adapter_config.json", "weights": "adapter_model.safetensors"}


class World:
    def __init__(self, gateway):
        self.gateway = gateway
        self.tenant = gateway.tenant("acme")
        for name in ("sql", "triage", "pirate"):
            assert self.tenant.upload(name).status_code == 201
        for i in range(3):
            gateway.tenant(f"tenant-{i}")
            gateway.key("acme", ["inference"])
            assert gateway.admin.post("/admin/v1/admin-keys", json={"roles": ["viewer"], "name": f"viewer {i}"}).status_code == 201
            self.request = self.tenant.ask("hello", "sql").headers["x-request-id"]
            self.tenant.usage(self.request)
        self.made_key = None
        self.documents = [Document(gateway.url, self.tenant.key), Document(gateway.admin_url, gateway.admin_key)]
        self.http = httpx.Client(timeout=30)
        self.fed = {"addCaptureAnswer": {"id": self.capture()}}  # operationId -> {parameter: value}

    def capture(self):
        """Three conversations that an alias kept; the id of the last, to which something is added before lists are read."""
        with self.tenant.http() as c:
            r = c.put("/v1/aliases/kept", json={"targets": [{"adapter": "sql"}], "capture": {"sample": 1}})
            assert r.status_code == 201, r.text
            for _ in range(3):
                assert self.tenant.ask("hello", "kept").status_code == 200
            until(lambda: c.get("/v1/captures/summary").json()["captures"] == 3, what="captures")
            return c.get("/v1/captures").json()["data"][0]["id"]

    def operations(self):
        """All of both listeners, in an order in which their examples can run: makers, actions, readers, changes, removers from the leaves up."""
        def rank(o):
            action = o.method == "post" and o.path.count("{") and not o.path.endswith("s")
            return (2 if action else ORDER[o.method], -o.path.count("/") if o.method == "delete" else o.path.count("/"))
        return sorted((o for d in self.documents for o in d.operations), key=rank)

    def path(self, op):
        """Filled in; None while nothing feeds one of its parameters."""
        values = {}
        for name in op.names():
            p = op.parameter("path", name)
            value = p.get("example", self.fed.get(op.id, {}).get(name))
            if value is None:
                return None
            values[name] = value
        return re.sub(r"{(\w+)}", lambda m: str(values[m.group(1)]), op.path)

    def backup_key(self):
        """Of the one role that may what it alone may."""
        if not self.made_key:
            r = self.http.post(self.gateway.admin_url + "/admin/v1/admin-keys", json={"name": "standby", "roles": ["backup"]}, headers={"Authorization": f"Bearer {self.gateway.admin_key}"})
            self.made_key = r.json()["key"]
        return self.made_key

    def send(self, op, kind=None, value=None, query=None, headers=None, path=None, feed=True):
        path = path or self.path(op)
        assert path is not None, f"{op}: neither an example nor a link gives {op.names()}"
        given = {p["name"]: p["example"] for p in op.parameters if p["in"] == "query" and p.get("required") and "example" in p}
        if "text/event-stream" in (op.response(200) or {}).get("content", {}) and op.parameter("query", "seconds"):
            given["seconds"] = 1  # it would not end by itself
        given.update(query or {})
        head = {p["name"]: str(p["example"]) for p in op.parameters if p["in"] == "header" and p.get("required") and "example" in p}
        head.update(headers or {})
        if op.item.get("security"):
            alone = op.item["security"] == [{"AdminKey": ["backup"]}]
            head.setdefault("Authorization", f"Bearer {self.backup_key() if alone else op.document.key}")
        more = {}
        if kind == "multipart/form-data":
            name = value.get("name", "sql") if value.get("name") in ("sql", "triage", "pirate") else "sql"
            more = {"data": {k: v for k, v in value.items() if k not in FILES},
                    "files": {k: (DEMO / name / file).read_bytes() for k, file in FILES.items()}}
        elif kind and kind.endswith("json"):
            if isinstance(value, dict) and "request_id" in value:  # of the answer that is rated
                value = {**value, "request_id": self.request}
            more = {"json": value}
        elif kind:
            more, head["Content-Type"] = {"content": value if isinstance(value, (str, bytes)) else str(value)}, kind
        r = self.http.request(op.method, op.document.url + path, params=given, headers=head, **more)
        if feed:
            self.feed(op, r)
        return r

    def feed(self, op, r):
        """Remembers what the answer's links say about other operations."""
        if r.status_code >= 300 or r.headers.get("content-type", "").split(";")[0] != "application/json":
            return
        for link in (op.response(r.status_code) or {}).get("links", {}).values():
            for name, expression in link.get("parameters", {}).items():
                value = self.value(expression, op, r)
                if value is not None:
                    self.fed.setdefault(link["operationId"], {})[name.split(".")[-1]] = value

    def value(self, expression, op, r):
        if expression.startswith("$response.body#"):
            found = r.json()
            for step in expression.split("#", 1)[1].strip("/").split("/"):
                found = found[int(step)] if isinstance(found, list) and int(step) < len(found) else found.get(step) if isinstance(found, dict) else None
            return found
        if expression.startswith("$request.path."):
            name = expression.rsplit(".", 1)[1]
            p = op.parameter("path", name)
            return p.get("example", self.fed.get(op.id, {}).get(name)) if p else None
        if expression.startswith("$response.header."):
            return r.headers.get(expression.rsplit(".", 1)[1])
        return expression if not expression.startswith("$") else None
