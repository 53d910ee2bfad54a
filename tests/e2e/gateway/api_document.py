"""The API's description as tests use it: both listeners' documents, their operations, and whether an answer is what they say. Plain classes."""

import json
import re

import httpx
import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

METHODS = ("post", "put", "get", "patch", "delete")
ROOT = "urn:weft:openapi"


class Operation:
    def __init__(self, document, path, method, item):
        self.document, self.path, self.method, self.item = document, path, method, item
        self.id = item["operationId"]
        shared = document.json["paths"][path].get("parameters", [])
        self.parameters = [document.seek(p) for p in shared + item.get("parameters", [])]

    def __repr__(self):
        return f"{self.method.upper()} {self.path}"

    def parameter(self, where, name):
        return next((p for p in self.parameters if p["in"] == where and p["name"] == name), None)

    def names(self):
        """Of the parameters in the path."""
        return re.findall(r"{(\w+)}", self.path)

    def examples(self):
        """[(content type, value)] of the body; [(None, None)] where there is none."""
        body = self.document.seek(self.item.get("requestBody", {}))
        return [(kind, example["value"]) for kind, media in body.get("content", {}).items() for example in media.get("examples", {}).values()] or [(None, None)]

    def response(self, status):
        return self.document.seek(self.item["responses"].get(str(status)))

    def check(self, r):
        """The answer's status, type, required headers and body are described, and its members too."""
        described = self.response(r.status_code)
        assert described, f"{self}: {r.status_code} is not described: {r.text[:300]}"
        for name, header in described.get("headers", {}).items():
            assert name in r.headers or not self.document.seek(header).get("required"), f"{self}: no header {name}"
        content = described.get("content", {})
        kind = r.headers.get("content-type", "").split(";")[0]
        if r.status_code == 304 or (not content and not r.content):
            return None
        assert kind in content, f"{self}: {r.status_code} with the type {kind}"
        if kind != "application/json":
            return r.text
        where = f"#/paths/{escape(self.path)}/{self.method}/responses/{r.status_code}"
        if "$ref" in self.item["responses"][str(r.status_code)]:
            where = self.item["responses"][str(r.status_code)]["$ref"]
        self.document.validate(r.json(), f"{where}/content/application~1json/schema", str(self))
        extra = self.document.undescribed(content[kind]["schema"], r.json())
        assert not extra, f"{self}: members that are not described: {extra}"
        return r.json()


def escape(text):
    return text.replace("~", "~0").replace("/", "~1")


class Document:
    def __init__(self, url, key):
        self.url, self.key = url, key
        self.json = httpx.get(url + "/openapi.json").json()
        self.registry = Registry().with_resource(ROOT, Resource.from_contents(self.json, default_specification=DRAFT202012))
        self.operations = [Operation(self, path, m, item[m]) for path, item in self.json["paths"].items() for m in METHODS if m in item]

    def operation(self, name):
        return next((o for o in self.operations if o.id == name), None)

    def at(self, path, method):
        return next((o for o in self.operations if o.path == path and o.method == method), None)

    def seek(self, value):
        while isinstance(value, dict) and "$ref" in value:
            found = self.json
            for step in value["$ref"][2:].split("/"):
                found = found[step.replace("~1", "/").replace("~0", "~")]
            value = found
        return value

    def validate(self, value, where, what):
        validator = jsonschema.Draft202012Validator({"$ref": ROOT + where}, registry=self.registry)
        errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(value)]
        assert not errors, f"{what}: {errors} in {json.dumps(value)[:600]}"

    def _known(self, schema):
        """(properties, item schema, whether that is all) of a schema, allOf taken together."""
        s = self.seek(schema)
        properties, items, whole = dict(s.get("properties", {})), s.get("items"), True
        if any(k in s for k in ("anyOf", "oneOf", "additionalProperties", "patternProperties")):
            whole = False
        for part in s.get("allOf", []):
            p, i, w = self._known(part)
            for name, v in p.items():
                properties[name] = {"allOf": [properties[name], v]} if name in properties else v
            items, whole = i or items, whole and w
        return properties, items, whole

    def undescribed(self, schema, value, at=""):
        properties, items, whole = self._known(schema)
        if isinstance(value, list) and items:
            return [x for i, v in enumerate(value) for x in self.undescribed(items, v, f"{at}/{i}")]
        if not isinstance(value, dict) or not properties or not whole:
            return []
        out = [f"{at}/{k}" for k in value if k not in properties]
        return out + [x for k, v in value.items() if k in properties for x in self.undescribed(properties[k], v, f"{at}/{k}")]
