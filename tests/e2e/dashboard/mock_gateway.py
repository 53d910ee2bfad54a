#!/usr/bin/env python3
"""A gateway's API with nothing behind it: 1,000 tenants, 10,000 adapters, 90 days of use, all of it made up from one seed.

For looking at the dashboard and for tests that need much data or answers that a small gateway does not give (a spent budget, a canary that is worse, an
engine that is down). It speaks the shapes of the real one as far as the pages read them; tests of what is true run against the real one.

    mock_gateway.py [PORT [PORT]]    serves the pages and both APIs (operators' first), prints the two addresses; keys: OPERATOR, TENANT below

`Mock.fail[path] = status` makes a path answer with an error. Standard library only."""

import bisect
import json
import math
import random
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

TOP = Path(__file__).resolve().parents[3]
PAGES = TOP / "gateway/dashboard"
CHART = Path("/usr/share/javascript/chart.js/chart.min.js")
OPERATOR = "wfa_Op3ratorKey0_" + "s" * 43 + "_abcdef"
TENANT = "wft_T3nantKey000_" + "s" * 43 + "_abcdef"
TENANTS, ADAPTERS, DAY, BASE = 1000, 10000, 86400, "smollm2-135m-instruct"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
STATES = ["completed", "client_abort", "upstream_error", "timeout", "rejected"]
HOSTILE = '<img src=x onerror="alert(1)">'
WORDS = "acme globex initech umbrella stark wayne hooli vehement massive soylent cyberdyne tyrell oscorp wonka duff aperture".split()
FAILURES = {"failed": {"code": "shape_mismatch", "tensor": "model.layers.3.q_proj.lora_A", "detail": "has 16 x 512, the base needs 16 x 576"}, "quarantined": {"code": "engine_lost", "tensor": "", "detail": "2 engines were lost with it"}}
TASKS = "sql triage pirate summary support legal medical invoice translate classify extract chat rewrite email codegen review".split()


def policy():
    """The very header that the program sends."""
    text = (TOP / "gateway/dashboard/dashboard.c").read_text()
    value = re.search(r'"Content-Security-Policy",\s*((?:"[^"]*"\s*)+)}', text).group(1)
    return "".join(re.findall(r'"([^"]*)"', value))


class World:
    """What there is. Everything follows from the seed and the time of the start."""

    def __init__(self):
        r = self.random = random.Random(7)
        self.now = int(time.time())
        self.tenants = sorted(f"{WORDS[i % len(WORDS)]}-{i:03d}" if i else "acme" for i in range(TENANTS))
        self.weight = {t: 1 / (1 + i) ** 0.9 for i, t in enumerate(r.sample(self.tenants, TENANTS))}
        self.weight["acme"] = max(self.weight.values())
        self.adapters = [self.adapter(r, i) for i in range(ADAPTERS)]
        self.adapters.sort(key=lambda a: (a["tenant"], a["adapter"], a["version"]))
        self.engines = [self.engine(r, i) for i in range(4)]
        self.alias_revision, self.alias_weights = 3, [90, 10]

    def adapter(self, r, i):
        tenant = self.tenants[0] if i < 60 else self.tenants[int(TENANTS * r.random() ** 1.6)]
        state = r.choices(["ready", "archived", "failed", "quarantined", "validating"], [90, 6, 2, 1, 1])[0]
        used = int(2e6 / (1 + i) * r.random()) if state == "ready" else 0
        cold = int(math.sqrt(used) * r.random())
        return {"tenant": tenant, "adapter": f"{TASKS[i % len(TASKS)]}-{i // len(TASKS):03d}" if i >= 16 else TASKS[i], "version": 1 + i % 3, "state": state, "changed_at": self.now - r.randrange(30 * DAY), "failure": FAILURES.get(state), "kind": r.choice(["lora", "lora", "lora", "dora"]),
                "rank": r.choice([8, 16, 16, 32, 64]), "bytes": r.randrange(2_000_000, 160_000_000), "digest": f"{r.getrandbits(256):064x}", "created_at": self.now - r.randrange(200 * DAY), "pinned": i % 97 == 0,
                "resident": ["gpu-a", "gpu-b"][: r.randrange(3)] if used > 300 else [], "last_used": self.now - int(r.random() ** 3 * 100 * DAY) if used else None, "requests": used, "tokens": used * 412, "cost_nano": used * 412 * 310,
                "errors": used // 350, "cold": cold, "load_ms_avg": round(20 + 300 * r.random(), 1) if cold else None, "cold_share": round(r.random() ** 3, 3) if cold else None, "evictions": cold // 9, "aliases": ["prod"] if i % 40 == 0 else []}

    def engine(self, r, i):
        down = i == 3
        return {"object": "engine", "name": ["gpu-a", "gpu-b", "cpu-local", "vllm-west"][i], "kind": ["weft", "weft", "weft", "vllm"][i], "base": BASE, "url": ["unix:/run/weft/a.sock", "https://gpu-b.internal:9000", "", "http://10.0.4.7:8000"][i], "model": "", "settings": {}, "local": i != 3, "capacity": 64, "has_secret": True,
                "state": "draining" if i == 2 else "enabled", "source": "api", "revision": 4, "created_at": self.now - 40 * DAY,
                "status": {"state": "down" if down else "ready", "why": "connect: Connection refused" if down else "", "weight": 0 if down else 1, "in_flight": 0 if down else [41, 23, 0][i], "running": 0 if down else [38, 23, 0][i], "waiting": [3, 0, 0, 0][i], "kv_used": [0.82, 0.41, 0, 0][i], "adapters": [31, 22, 4, 0][i],
                           "drained": i == 2, "requests": r.randrange(10**6), "lost": [0, 2, 0, 118][i], "refused": [12, 0, 0, 3][i], "ejections": [0, 1, 0, 9][i], "evictions": [810, 44, 0, 3][i], "slots": {"max": 32, "resident": [31, 22, 4, 0][i], "loading": [1, 0, 0, 0][i]}, "pages": {"total": 4096, "used": [3358, 1680, 0, 0][i]}, "steps": {"count": 10**6, "p50_ms": 11.2, "p99_ms": 24.9},
                           "device": {"backend": "cuda" if i < 2 else "cpu", "name": "NVIDIA H100" if i < 2 else "Zen 5", "ranks": 1, "memory": 85_000_000_000 if i < 2 else 0}}}

    def load(self, t, share=1.0):
        """Requests of an hour around t: days, weeks, a little noise."""
        day = 0.55 + 0.45 * math.sin((t % DAY) / DAY * 2 * math.pi - 1.9)
        week = 0.7 if (t // DAY) % 7 in (2, 3) else 1.0
        noise = 0.9 + 0.2 * random.Random(int(t) // 60 * 31 + int(share * 1e6)).random()
        return 9000 * day * week * noise * share * (1 + (t - self.now) / (200 * DAY))


class Answers:
    """The API's answers; a method a route, found by ROUTES."""

    def __init__(self, world):
        self.w = world

    # --- helpers ---

    def listed(self, rows, q, key, limit=None):
        limit = min(int(q.get("limit", 20)), 100) if limit is None else limit
        keys = [key(r) for r in rows]
        if "before" in q:
            end = bisect.bisect_left(keys, q["before"])
            page, more = rows[max(0, end - limit):end], end > limit
        else:
            at = bisect.bisect_right(keys, q["after"]) if "after" in q else 0
            page, more = rows[at:at + limit], at + limit < len(rows)
        return {"object": "list", "data": page, "first_id": key(page[0]) if page else None, "last_id": key(page[-1]) if page else None, "has_more": more}

    def span(self, q):
        end = int(q.get("end_time", self.w.now))
        return int(q.get("start_time", end - DAY)), end

    def sums(self, requests, errors=0.004):
        n = int(requests)
        return {"requests": n, "errors": int(n * errors), "aborts": int(n * 0.021), "input_tokens": n * 310, "cached_tokens": n * 118, "output_tokens": n * 102, "cost_nano": n * 127_000}

    def measure(self, requests, m):
        s = self.sums(requests)
        return s["input_tokens"] + s["output_tokens"] if m == "tokens" else s[m]

    def share(self, q):
        return self.w.weight.get(q["tenant"], 0) / 8 if q.get("tenant") else 1.0

    # --- now ---

    def held(self, tenant):
        return sum(a["state"] == "quarantined" and (not tenant or a["tenant"] == tenant) for a in self.w.adapters)

    def refused_rows(self, q):
        rows = [{"object": "quarantine", "id": f"{i * 0x51ed270b:032x}", "scope": "tenant" if i == 4 else "request", "tenant": "acme" if i % 2 else self.w.tenants[i], "model": HOSTILE if i == 1 else "triage", "adapter": "triage@2" if i % 3 else None, "crashes": 2 + i % 2,
                 "created_at": self.w.now - 40 * i, "expires_at": self.w.now - 40 * i + 600, "refused_s": 600 - 40 * i} for i in range(1, 8)]
        return [x for x in rows if not q.get("tenant") or x["tenant"] == q["tenant"]]

    def quarantine(self, q, admin):
        return self.listed(self.refused_rows(q), q, lambda x: x["id"])

    def now(self, q, admin):
        t, r, share = time.time(), random.Random(), self.share(q)
        start = self.w.now // DAY * DAY
        d, m = self.sums(60_000 * share + 1), self.sums(2_400_000 * share + 1)
        flight = max(0, int(60 * share + 8 * math.sin(t / 3) + r.random() * 5))
        v = {"object": "now", "time": t, "window_s": 60, "in_flight": flight, "tokens_per_s": 2600 * share + 300 * math.sin(t / 5) * share + 90 * r.random(), "requests_per_s": 9.2 * share, "ttft_ms": {"n": 540, "p50": 84.0, "p90": 190.0, "p99": 612.0}, "tpot_ms": {"n": 540, "p50": 11.4, "p90": 15.0, "p99": 31.0},
             "duration_ms": {"n": 540, "p50": 1310.0, "p90": 2900.0, "p99": 7400.0}, "errors": 2, "refused": 14, "quarantined": {"adapters": self.held(q.get("tenant")), "requests": len(self.refused_rows(q))}, "waiting": 3, "today": {k: d[k] for k in d if k != "aborts"}, "month": {k: m[k] for k in m if k != "aborts"}, "currency": "EUR", "start": start}
        if admin:
            top = sorted(self.w.weight, key=self.w.weight.get, reverse=True)[:10]
            v.update(engines={"ready": 3, "total": 4, "running": 61, "waiting": 3}, adapters_resident=57, open_admissions=flight, tenants=[{"tenant": n, "in_flight": 12 - i, "tokens_per_s": 500 / (1 + i)} for i, n in enumerate(top)],
                     adapters=[{"tenant": a["tenant"], "adapter": a["adapter"], "version": a["version"], "in_flight": 9 - i // 2, "tokens_per_s": 300 / (1 + i)} for i, a in enumerate(self.w.adapters[:10])])
        return v

    # --- stats ---

    def names(self, by):
        top = sorted(self.w.weight, key=self.w.weight.get, reverse=True)
        some = self.w.adapters[:200]
        return {"none": [("all", "", 1.0)], "tenant": [(t, t, self.w.weight[t] / 8) for t in top], "state": [(s, "", x) for s, x in zip(STATES, (0.965, 0.021, 0.006, 0.003, 0.005))],
                "key": [(f"K{i:011d}", top[i], 0.3 / (1 + i)) for i in range(40)], "adapter": [(a["adapter"], a["tenant"], 0.3 / (1 + i)) for i, a in enumerate(some)], "version": [(f"{a['adapter']}@{a['version']}", a["tenant"], 0.3 / (1 + i)) for i, a in enumerate(some)],
                "model": [("prod", "acme", 0.4), (BASE, "", 0.3), (HOSTILE, "acme", 0.2), ("=1+2", "acme", 0.1)], "base": [(BASE, "", 0.8), ("llama-3.2-1b", "", 0.2)], "endpoint": [("chat/completions", "", 0.9), ("completions", "", 0.1)]}[by]

    def series(self, q, admin):
        step = {"1m": 60, "1h": 3600, "1d": DAY}[q.get("interval", "1h")]
        start, end = self.span(q)
        points = list(range(start // step * step, end, step))[:1500]
        by, m, top = q.get("by", "none"), q.get("measure", "requests"), int(q.get("top", 8))
        compare = q.get("compare") == "true"
        over = sum(t + step <= self.w.now for t in points)  # these are compared
        share, old, compared = self.share(q), over * step, {"start_time": points[0], "end_time": points[0] + over * step, "previous_start_time": points[0] - over * step} if over and compare else None
        names = [("all", "", 0.02)] if by == "none" and "adapter" in q else [(f"{q['adapter']}@{v}", "acme", 0.02 / v) for v in (1, 2)] if "adapter" in q else self.names(by)

        loads = {shift: [self.w.load(t - shift + step // 2) * step / 3600 * share for t in points] for shift in (0, old)}

        def values(x, shift=0):
            return [self.measure(v * x, m) for v in loads[shift]]
        series = [{"name": n, "id": n, "tenant": t, "values": values(x)} for n, t, x in names[:top]]
        for s, (_, _, x) in zip(series, names):
            s["total"], s["compared_total"] = sum(s["values"]), sum(s["values"][:over]) if compared else None
            s["previous_total"] = int(s["compared_total"] * 0.93) if compared else None
        rest = sum(x for _, _, x in names[top:])
        other = {"values": values(rest)} if rest else None
        if other:
            other["total"] = sum(other["values"])
        before = values(sum(x for _, _, x in names), old)[:over] if compared else None
        total = sum(s["total"] for s in series) + (other["total"] if other else 0)
        return {"object": "series", "start_time": start, "end_time": end, "interval_s": step, "by": by, "measure": m, "points": points, "series": series, "other": other, "total": total,
                "compared": compared, "compared_total": sum(s["compared_total"] for s in series) if compared else None, "previous_total": int(total * 0.93) if compared else None, "previous": before}

    def top(self, q, admin):
        start, end = self.span(q)
        sort, hours, share = q.get("sort", "tokens"), (end - start) / 3600, self.share(q)
        names = self.names(q["by"])
        whole = sum(x for _, _, x in names)
        rows = []
        for i, (n, t, x) in enumerate(names[:int(q.get("limit", 10))]):
            s = self.sums(6000 * hours * x * share, 0.004 + 0.01 * (i % 5 == 4))
            was = self.sums(6000 * hours * x * share * (0.7 + 0.08 * (i % 9)))
            change = None if i == 3 else 1 / (0.7 + 0.08 * (i % 9)) - 1
            rows.append({"name": n, "id": n, "tenant": t, **s, "share": x / whole, "previous": None if i == 3 else {"requests": was["requests"], "tokens": was["input_tokens"] + was["output_tokens"], "cost_nano": was["cost_nano"]}, "change": change})
        rows.sort(key=lambda r: -(r["input_tokens"] + r["output_tokens"] if sort == "tokens" else r.get(sort, 0)))
        first, over = start // DAY * DAY, min(self.w.now, end) // DAY * DAY
        return {"object": "list", "data": rows, "compared": {"start_time": first, "end_time": over, "previous_start_time": 2 * first - over} if over > first else None}

    def latency(self, q, admin):
        start, end = self.span(q)
        step = 3600 if end - start <= 8 * DAY else DAY
        points = list(range(start // step * step, end, step))
        edges = [2 ** i for i in range(0, 18)]
        middle = {"ttft": 6.6, "duration": 10.3, "tpot": 3.6}[q.get("kind", "ttft")]
        r, cells, rows = random.Random(3), [], []
        for t in points:
            n = self.w.load(t) * step / 3600
            bump = 1.5 if (t // 3600) % 17 == 0 else 0
            weights = [math.exp(-((i - middle - bump) ** 2) / 2.2) + (0.004 if i > middle + 3 else 0) for i in range(18)]
            cells.append([int(n * x / sum(weights) * (0.8 + 0.4 * r.random())) for x in weights])
            rows.append({"t": t, "p50": 2 ** (middle + bump - 0.2), "p90": 2 ** (middle + bump + 1), "p99": 2 ** (middle + bump + 2.4), "n": int(n)})
        total = {"p50": 2 ** middle, "p90": 2 ** (middle + 1.1), "p99": 2 ** (middle + 2.7), "n": sum(x["n"] for x in rows)}
        return {"object": "latency", "interval_s": step, "points": points, "buckets_ms": edges, "cells": cells, "percentiles": rows, "total": total, "previous": {**total, "p50": total["p50"] * 0.96, "p99": total["p99"] * 1.2}}

    def aborts(self, q, admin):
        start, end = self.span(q)
        step = {"1h": 3600, "1d": DAY}[q.get("interval", "1h")]
        points = list(range(start // step * step, end, step))
        n = [int(self.w.load(t) * 0.02 * step / 3600) for t in points]
        v = {"requests": n, "output_tokens": [x * 44 for x in n], "produced_tokens": [x * 47 for x in n], "cost_nano": [x * 44 * 400 for x in n]}
        return {"points": points, **v, "totals": {k: sum(x) for k, x in v.items()}}

    def refused(self, q, admin):
        start, end = self.span(q)
        step = {"1h": 3600, "1d": DAY}[q.get("interval", "1h")]
        points = list(range(start // step * step, end, step))
        series = [{"scope": s, "kind": k, "values": [int(self.w.load(t) * x) for t in points]} for s, k, x in (("tenant", "requests_per_minute", 0.01), ("key", "tokens_per_minute", 0.004), ("tenant", "cost_per_month", 0.001), ("adapter", "concurrent_requests", 0.002))]
        for s in series:
            s["total"] = sum(s["values"])
        return {"object": "refused", "points": points, "series": series, "total": sum(s["total"] for s in series), "previous_total": 900}

    def adapters(self, q, admin):
        rows = [a for a in self.w.adapters if (not q.get("tenant") or a["tenant"] == q["tenant"]) and (not q.get("state") or a["state"] == q["state"]) and (not q.get("q") or q["q"] in a["tenant"] + "/" + a["adapter"])
                and (not q.get("idle_days") or not a["last_used"] or self.w.now - a["last_used"] > int(q["idle_days"]) * DAY)]
        sort = q.get("sort", "name")
        if sort != "name":
            rows.sort(key=lambda a: -(a[sort] or 0))
        for i, a in enumerate(rows):
            a["id"] = f"{i:06d}"
        return self.listed(rows, q, lambda a: a["id"])

    def canary(self, q, admin):
        def target(i, n, slow, bad):
            return {"adapter": "triage", "version": i + 1, "weight": self.w.alias_weights[i], "requests": n, "share": n / 21000, "completed": int(n * (1 - bad)), "error_rate": bad, "abort_rate": 0.02, "ttft_ms": {"p50": 84 * slow, "p90": 190 * slow, "p99": 610 * slow, "n": n},
                    "tpot_ms": {"p50": 11.4, "p90": 15, "p99": 30, "n": n}, "duration_ms": {"p50": 1300, "p90": 2900, "p99": 7000, "n": n}, "output_tokens_avg": 102.4, "cost_nano_avg": 127000, "scored": n // 10, "score": 0.94 - 0.06 * i}
        return {"alias": q.get("alias"), "policy": "weighted", "since": self.w.now - 3 * DAY, "targets": [target(0, 18900, 1, 0.004), target(1, 2100, 1.3, 0.019)], "verdict": "worse", "reason": "B fails 1.5 points more often than A (1.90 % against 0.40 %), which chance alone would do in less than one of ten thousand such comparisons.",
                "comparison": [{"between": [0, 1], "metric": "error_rate", "difference": 0.015, "p_value": 0.00004, "significant": True}, {"between": [0, 1], "metric": "ttft_ms", "difference": 25.2, "interval": [11.0, 41.0], "significant": True}, {"between": [0, 1], "metric": "abort_rate", "difference": 0.0004, "p_value": 0.83, "significant": False}]}

    def scores(self, q, admin):
        step = DAY if q.get("interval") == "1d" else 3600
        start, end = int(q.get("start_time", self.w.now - DAY)) // step * step, int(q.get("end_time", self.w.now))
        points = list(range(start, end, step))

        def of(version, rule, kind, mean):
            return {"alias": q.get("alias") or "prod", "adapter": q.get("adapter") or "triage", "version": version, "base": "smollm2", "digest": "ab" * 32, "rule": rule, "kind": kind, "scored": 412 * version, "not_scored": 3, "failed": int(412 * version * (1 - mean)), "mean": mean, "deviation": 0.21,
                    "pass_rate": mean, "series": [None if i % 11 == 5 else max(0, min(1, mean + 0.04 * math.sin(i / 3 + version))) for i in range(len(points))]}
        data = [of(v, rule, kind, mean - 0.05 * (v - 1)) for v in (1, 2) for rule, kind, mean in (("overall", "overall", 0.93), ("valid", "json_schema", 0.97), ("groundedness", "groundedness", 0.88))]
        return {"object": "evaluation_summary", "start_time": start, "end_time": end, "interval_s": step, "points": points, "data": data, "truncated": False}

    def budgets(self, q, admin):
        now, out = self.w.now, []
        for i, (limit, period, used, hard, soft, state) in enumerate((("cost_per_month", "month", 0.71, 2e12, 1.4e12, "soft"), ("tokens_per_day", "day", 0.42, 40_000_000, 32_000_000, "ok"), ("tokens_per_month", "month", 1.0, 900_000_000, None, "hard"), ("cost_per_day", "day", 0.2, 9e10, None, "ok"))):
            step = 3600 if period == "day" else DAY
            start = now // DAY * DAY if period == "day" else now // DAY * DAY - 20 * DAY
            points = list(range(start, now, step)) or [start]
            end = start + (DAY if period == "day" else 30 * DAY)
            values = [int(hard * used * (k + 1) / len(points)) for k in range(len(points))]
            forecast = int(values[-1] * (end - start) / max(1, now - start))
            out.append({"subject": {"tenant": q.get("tenant") or self.w.tenants[i * 3], "key": "K00000000012" if i == 3 else None}, "limit": limit, "period": period, "start_time": start, "end_time": end, "used": values[-1], "reserved": int(hard * 0.01), "hard": int(hard), "soft": soft and int(soft),
                        "series": {"points": points, "values": values}, "forecast": forecast, "exhausted_at": now + 4 * DAY if i == 0 else None, "state": state})
        return {"object": "list", "data": out}

    # --- rows ---

    def request(self, i):
        r = random.Random(i)
        state = r.choices(STATES, [96, 2, 1, 0.5, 0.5])[0]
        at, a = self.w.now - i * 7, self.w.adapters[i % 50]
        first, took = int(60000 + r.random() ** 4 * 900000), int(400000 + r.random() ** 3 * 9e6)
        out = r.randrange(4, 400)
        return {"object": "usage.request", "id": f"{at * 1000:012x}"[:8] + "-" + f"{at * 1000:012x}"[8:12] + f"-7{i % 4096:03x}-8000-{i:012x}", "api_key_id": f"K{i % 9:011d}", "tenant": a["tenant"], "model": "prod" if i % 3 else HOSTILE, "base": BASE, "adapter": a["adapter"] if i % 5 else None, "version": a["version"] if i % 5 else None,
                "endpoint": "chat/completions", "stream": bool(i % 2), "state": state, "http_status": {"completed": 200, "client_abort": 200, "upstream_error": 502, "timeout": 504, "rejected": 422}[state], "finish_reason": "stop", "input_tokens": r.randrange(10, 1200), "input_cached_tokens": 8, "output_tokens": out, "produced_tokens": out + (5 if state == "client_abort" else 0),
                "count_source": "engine", "attempt": 1, "cold": i % 31 == 0, "engine": "gpu-a", "cost_nano": out * 400_000, "created_at": at, "start_us": at * 10**6, "first_us": at * 10**6 + first, "end_us": at * 10**6 + first + took, "load_us": 41000 if i % 31 == 0 else 0, "policy_before_tokens": 0, "policy_after_tokens": 0, "alias": "prod" if i % 3 else ""}

    def requests(self, q, admin, bad=False):
        n, rows, i = min(int(q.get("limit", 20)), 100), [], 0
        at = int(q["after"][-12:], 16) + 1 if "after" in q else max(0, int(q["before"][-12:], 16) - n) if "before" in q else 0
        while len(rows) < n and i < 5000:
            x = self.request(at + i)
            i += 1
            if (bad and x["state"] == "completed") or (q.get("state") and x["state"] != q["state"]) or (q.get("min_duration_ms") and (x["end_us"] - x["start_us"]) / 1000 < float(q["min_duration_ms"])):
                continue
            rows.append(x)
        return {"object": "list", "data": rows, "first_id": rows[0]["id"] if rows else None, "last_id": rows[-1]["id"] if rows else None, "has_more": at > 0 if "before" in q else True}

    def one_request(self, q, admin, id):
        return {**self.request(int(id[-12:], 16)), "adjustments": [{"id": "adj-1", "created_at": self.w.now - 99, "reason": "goodwill", "cost_nano": -1000000}]}

    def events(self, q, admin):
        kinds = ["version.ready", "alias.changed", "budget.soft", "engine.ejected", "version.failed", "budget.hard", "engine.ready", "webhook.failing"]
        rows = [{"object": "event", "seq": s, "created_at": self.w.now - (400 - s) * 700, "tenant": self.w.tenants[s % 9], "type": kinds[s % 8], "target": ["sql@3", "prod", "tokens_per_day", "gpu-b"][s % 4], "detail": {"limit": 1000, "used": 812} if s % 8 in (2, 5) else {}} for s in range(1, 401)]
        rows = [e for e in rows if not q.get("tenant") or e["tenant"] == q["tenant"]]
        q = {k: v.zfill(15) if k in ("after", "before") else v for k, v in q.items()}
        v = self.listed(rows, q, lambda e: f"{e['seq']:015d}")
        return {**v, "first_id": v["data"][0]["seq"] if v["data"] else None, "last_id": v["data"][-1]["seq"] if v["data"] else None}

    def audit(self, q, admin):
        kinds = ["tenant.create", "key.create", "limits.put", "alias.put", "engine.drain", "adapter.create"]
        seqs = range(400, 0, -1)
        at = int(q["after"]) - 1 if "after" in q else 400
        seqs = [s for s in range(at, 0, -1)][:int(q.get("limit", 20))]
        rows = [{"object": "audit", "seq": s, "created_at": self.w.now - (400 - s) * 1300, "actor": "Op3ratorKey0", "ip": "10.1.0.7", "request_id": "0192f0aa-0000-7000-8000-000000000000", "action": kinds[s % 6], "target": ["acme", HOSTILE, "acme/prod"][s % 3], "before": {"weight": 1, "revision": 2} if s % 2 else None, "after": {"weight": 2, "revision": 3}, "hash": f"{s:064x}"} for s in seqs]
        return {"object": "list", "data": rows, "first_id": rows[0]["seq"] if rows else None, "last_id": rows[-1]["seq"] if rows else None, "has_more": bool(rows) and rows[-1]["seq"] > 1}

    def tenant(self, name):
        i = bisect.bisect_left(self.w.tenants, name)
        return {"object": "tenant", "name": name, "id": f"0192f0aa-0000-7000-8000-{i:012x}", "weight": 1 + i % 3, "disabled": i % 41 == 7, "private": i % 11 == 0, "class": ["normal", "interactive", "batch"][i % 3], "deadline_ms": 2000 if i % 5 == 0 else None, "revision": 2, "created_at": self.w.now - (i + 1) * 3 * DAY}

    def tenants(self, q, admin):
        v = self.listed(self.w.tenants, q, lambda t: t)
        return {**v, "data": [self.tenant(t) for t in v["data"]]}

    def one_tenant(self, q, admin, name):
        return self.tenant(name) if name in self.w.tenants else None

    def key(self, i, id=None):
        return {"object": "key", "id": id or f"K{i:011d}", "tenant": "acme", "name": ["production", "ci", "", "finance"][i % 4], "redacted": "wft_K…", "roles": [["inference"], ["writer"], ["admin"], ["billing"]][i % 4], "scopes": ["inference"], "created_at": self.w.now - i * 9 * DAY, "created_by": "Op3ratorKey0", "expires_at": self.w.now + 90 * DAY if i % 3 == 0 else None,
                "revoked_at": self.w.now - DAY if i == 5 else None, "last_used_at": self.w.now - i * 77 if i != 3 else None, "replaced_by": None, "revision": 1}

    def keys(self, q, admin, *_):
        return self.listed([self.key(i) for i in range(7)], q, lambda k: k["id"])

    def admin_key(self, q, admin, id):
        return {**self.key(2, id), "name": "on call", "roles": ["admin"], "scopes": ["read", "write"]} if id == OPERATOR.split("_")[1] else None

    def limits_of(self, *_):
        return {"object": "limits", "revision": 2, "limits": {"requests_per_minute": 6000, "tokens_per_minute": 1_000_000, "concurrent_requests": 64, "tokens_per_day": 40_000_000, "tokens_per_day_soft": 32_000_000, "cost_per_month": 2 * 10**12, "cost_per_month_soft": 14 * 10**11, "adapters": 200, "adapter_bytes": 50 * 10**9, "adapter_rank": 64, "adapters_pinned": 8},
                "used": {"requests_per_minute": 512, "tokens_per_minute": 210_000, "concurrent_requests": 12, "tokens_per_day": 16_800_000, "tokens_per_month": 410_000_000, "cost_per_day": 7 * 10**9, "cost_per_month": 142 * 10**10, "reserved": {"tokens": 41000, "cost": 9 * 10**8}}}

    def own_limits(self, q, admin):
        return {"object": "own_limits", "tenant": self.limits_of(), "key": {**self.limits_of(), "limits": {}, "revision": 0}}

    def alias(self, q, admin, *names):
        name = names[-1] if names else "prod"
        return {"id": name, "object": "alias", "name": name, "targets": [{"adapter": "triage", "version": i + 1, "weight": x} for i, x in enumerate(self.w.alias_weights)], "policy": "weighted", "sticky": "user", "system_prefix": "You sort letters.", "prompt_policy": None, "evaluation": None, "capture": None, "revision": self.w.alias_revision, "created_at": self.w.now - 9 * DAY, "changed_at": self.w.now - 3600, "can_roll_back": True}

    def aliases(self, q, admin, *_):
        return self.listed([self.alias(q, admin, n) for n in ("beta", "prod", "stable")], q, lambda a: a["id"])

    def one_adapter(self, q, admin, *names):
        rows = [a for a in self.w.adapters if a["adapter"] == names[-1] and (len(names) == 1 or a["tenant"] == names[0])] or self.w.adapters[:1]
        versions = [{"id": f"{names[-1]}@{n}", "object": "adapter.version", "name": names[-1], "version": n, "state": s, "reason": "", "failure": FAILURES.get(s), "rank": 16, "kind": "lora", "modules": ["q_proj", "v_proj"], "scale": 2.0, "bytes": 4_800_000, "digest": f"{n:064x}", "base": BASE,
                     "file_sha256": f"{n + 9:064x}", "pinned": n == 3, "max_error": 0.0041 if s == "ready" else None, "changed_at": self.w.now - DAY, "created_at": self.w.now - (9 - n) * DAY, "requests": 90210 // n, "last_used_at": self.w.now - 60 * n, "residency": [{"engine": "gpu-a", "resident": n > 1}]} for n, s in ((5, "quarantined"), (4, "failed"), (3, "ready"), (2, "ready"), (1, "archived"))]
        return {"id": names[-1], "object": "adapter", "name": names[-1], "description": "Sorts letters into queues.", "created_at": self.w.now - 20 * DAY, "revision": 3, "versions_count": 4, "requests": 90210, "last_used_at": self.w.now - 60, "state": rows[0]["state"], "versions": versions}

    def engine_list(self, q, admin):
        return self.listed(self.w.engines, q, lambda e: e["name"])

    def health(self, q, admin):
        return {"open_admissions": 61, "oldest_admission_s": 14, "queue": 0, "writable": True, "settled": 41_220_911, "retried": 0, "final_before": self.w.now - 90, "database_bytes": 2_140_000_000, "wal_bytes": 4_100_000, "last_verify": {"t": self.w.now - 5400, "rows": 41_220_000, "bad": 0, "took_ms": 8100},
                "months": [{"month": m, "rows": n, "place": p} for m, n, p in (("2026-11", 8_100_400, "database"), ("2026-10", 11_400_911, "database"), ("2026-09", 10_909_311, "both"), ("2026-08", 10_810_289, "archive"))], "webhooks": [{"name": "billing", "tenant": "", "lag": 0, "state": "active"}, {"name": "acme-events", "tenant": "acme", "lag": 4120, "state": "failing"}],
                "schedules": [{"name": "daily-focus", "behind_s": 0, "last_error": "", "state": "enabled"}], "engines": [{"name": e["name"], "requests_gateway": 102_331 * (4 - i), "requests_engine": 102_331 * (4 - i), "tokens_gateway": 40_101_221, "tokens_engine": 40_101_221 + 52_000 * i, "ratio": 1 + 0.0013 * i} for i, e in enumerate(self.w.engines[:3])], "backups": {"last": self.w.now - 7200, "age_s": 7200}}

    def invoice(self, q, admin):
        final = q["month"] < time.strftime("%Y-%m", time.gmtime(self.w.now))
        if admin and not q.get("tenant"):
            rows = [{"tenant": t, "requests": int(9e6 * x), "input_tokens": int(28e8 * x), "cached_tokens": int(11e8 * x), "output_tokens": int(9e8 * x), "total_nano": int(9e6 * x * 127000), "total": 1} for t, x in sorted(self.w.weight.items(), key=lambda i: -i[1])[:100]]
            return {"object": "invoices", "month": q["month"], "currency": "EUR", "final": final, "data": rows, "total_nano": sum(r["total_nano"] for r in rows), "total": 1}
        lines = [{"base": BASE, "adapter": a, "line_item": i, "tokens": n, "unit_price_nano": p, "amount_nano": n * (p or 500)} for a in ("", "sql", "triage") for i, n, p in (("input", 31_200_000, 150), ("cached input", 11_800_000, 75), ("output", 10_250_000, None if a == "sql" else 600))]
        return {"month": q["month"], "tenant": q.get("tenant", "acme"), "currency": "EUR", "final": final, "lines": lines, "adjustments": [], "requests": 100_412, "total_nano": sum(x["amount_nano"] for x in lines), "total": 1}

    def models(self, q, admin):
        return {"object": "list", "data": [{"id": n, "object": "model", "created": 1, "owned_by": "acme" if p else "weft", "root": None, "parent": p} for n, p in (("prod", BASE), ("sql", BASE), ("triage", BASE), (BASE, None))]}

    def schedules(self, q, admin):
        return {"object": "list", "has_more": False, "first_id": "daily-focus", "last_id": "daily-focus", "data": [{"name": "daily-focus", "format": "focus", "every": "day", "tenant": None, "state": "active", "files": 41, "done_until": self.w.now // DAY * DAY, "behind_s": 0, "last_error": None}]}

    def webhooks(self, q, admin):
        def hook(i, name, tenant, state, waiting, events, **more):
            return {"object": "webhook", "id": f"01a2039e-1bc4-7001-a2e2-{i:012d}", "tenant": tenant, "name": name, "url": f"https://{name}.example/weft", "usage": not events, "events": events, "state": state, "failures": 0, "failing_since": None, "last_error": None, "last_status": 200, "delivered": 41_220_911 // i,
                    "last_delivered_at": self.w.now - 3, "waiting": waiting, "waiting_s": waiting // 10, "redelivery": None, "created_at": self.w.now - 30 * DAY, "revision": 1, **more}
        rows = [hook(1, "billing", None, "enabled", 12, []), hook(2, "ops", None, "paused", 0, ["*"]), hook(3, "watch", "acme", "enabled", 40, ["budget.", "version.failed"], redelivery={"start_time": self.w.now - DAY, "end_time": self.w.now}),
                hook(4, "acme-billing", "acme", "failing", 10_000, [], failures=93, failing_since=self.w.now - 9 * DAY, last_error=HOSTILE, last_status=None, redelivery={"start_time": self.w.now - 9 * DAY, "end_time": None})]
        return self.listed([x for x in rows if not q.get("tenant") or x["tenant"] == q["tenant"]], q, lambda x: x["id"])

    def whoami(self, q, admin):
        return {"object": "whoami", "key": (OPERATOR if admin else TENANT).split("_")[1], "tenant": None if admin else "acme", "scopes": ["read", "write"] if admin else ["inference", "adapters", "usage", "keys"], "currency": "EUR"}

    def verified(self, q, admin):
        return {"object": "audit.verification", "valid": True, "rows": 400, "first_bad": None, "hash": "ab" * 32}


P = r"/(?:admin/v1|v1)"
ROUTES = [(re.compile(f"^{P}/{p}$"), n) for p, n in (
    ("now", "now"), ("whoami", "whoami"), ("stats/series", "series"), ("stats/top", "top"), ("stats/latency", "latency"), ("stats/aborts", "aborts"), ("stats/refused", "refused"), ("stats/adapters", "adapters"), ("stats/canary", "canary"), ("stats/budgets", "budgets"), ("evaluations/summary", "scores"), ("usage/requests", "requests"), ("usage/requests/([^/]+)", "one_request"),
    ("events", "events"), ("audit", "audit"), ("audit/verify", "verified"), ("tenants", "tenants"), ("tenants/([^/]+)", "one_tenant"), ("tenants/([^/]+)/keys", "keys"), ("keys", "keys"), ("admin-keys", "keys"), ("admin-keys/([^/]+)", "admin_key"), ("tenants/([^/]+)/limits", "limits_of"), ("keys/([^/]+)/limits", "limits_of"), ("tenants/([^/]+)/adapters/([^/]+)/limits", "limits_of"),
    ("limits", "own_limits"), ("aliases", "aliases"), ("aliases/([^/]+)", "alias"), ("tenants/([^/]+)/aliases", "aliases"), ("tenants/([^/]+)/aliases/([^/]+)", "alias"), ("adapters", "adapters"), ("adapters/([^/]+)", "one_adapter"), ("tenants/([^/]+)/adapters/([^/]+)", "one_adapter"), ("engines", "engine_list"), ("quarantine", "quarantine"), ("ledger/health", "health"), ("invoice", "invoice"), ("export-schedules", "schedules"), ("webhooks", "webhooks"), ("models", "models"))]
ONLY_ADMIN = re.compile(r"^/admin/v1/")
FOREIGN = {True: re.compile(r"^/v1/"), False: ONLY_ADMIN}


class Mock:
    def __init__(self, ports=(0, 0)):
        self.world, self.fail, self.headers = World(), {}, {"Content-Security-Policy": policy(), "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        self.answers = Answers(self.world)
        self.servers = [ThreadingHTTPServer(("127.0.0.1", p), self.handler(admin)) for p, admin in zip(ports, (True, False))]
        self.admin_url, self.url = [f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers]
        for s in self.servers:
            s.daemon_threads = True
            threading.Thread(target=s.serve_forever, daemon=True).start()

    def close(self):
        for s in self.servers:
            s.shutdown()
            s.server_close()

    def handler(mock, admin):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def send(self, status, body, kind="application/json", **headers):
                self.send_response(status)
                for k, v in {**mock.headers, "Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(k, v)
                try:
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # a page that was left
                    self.close_connection = True

            def refuse(self, status, message="as asked"):
                self.send(status, json.dumps({"error": {"message": message, "type": "error", "param": None, "code": "mock"}}).encode())

            def file(self, name):
                path = CHART if name == "chart.js" else PAGES / name
                if "/" in name or not path.is_file():
                    return self.refuse(404)
                self.send(200, path.read_bytes(), TYPES.get(path.suffix, "text/plain"))

            def live(self, query):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(f"event: now\ndata: {json.dumps(mock.answers.now(query, admin))}\n\n".encode())
                        self.wfile.flush()
                        time.sleep(1)
                except OSError:
                    self.close_connection = True

            def do_GET(self):
                url = urlsplit(self.path)
                path, query = url.path, {k: v[-1] for k, v in parse_qs(url.query).items()}
                if path == "/dashboard" or path.startswith("/dashboard/"):
                    return self.file(unquote(path[len("/dashboard/"):]) or "index.html")
                if self.headers.get("Authorization") != f"Bearer {OPERATOR if admin else TENANT}":
                    return self.refuse(404 if FOREIGN[admin].match(path) else 401, "Incorrect API key provided, or none.")
                if FOREIGN[admin].match(path):
                    return self.refuse(404, "There is no such route.")
                if path in mock.fail:
                    return self.refuse(mock.fail[path])
                if path.endswith("/live"):
                    return self.live(query)
                if path.endswith("/exports/usage"):
                    return self.send(200, b"id,cost_nano\r\n" + b"".join(b"%s,5\r\n" % mock.answers.request(i)["id"].encode() for i in range(2000)), "text/csv")
                if path.endswith("/stats/errors"):
                    return self.answer(mock.answers.requests(query, admin, True))
                if not admin:
                    query["tenant"] = "acme"
                for pattern, name in ROUTES:
                    found = pattern.match(path)
                    if found:
                        return self.answer(getattr(mock.answers, name)(query, admin, *[unquote(g) for g in found.groups()]))
                self.refuse(404, "There is no such route.")

            def answer(self, v):
                self.refuse(404, "There is none of this name.") if v is None else self.send(200, json.dumps(v).encode())

            def change(self):
                raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = json.loads(raw) if raw[:1] == b"{" else {}
                path = urlsplit(self.path).path
                if "/aliases/" in path and self.command == "PUT":
                    mock.world.alias_weights = [t.get("weight", 1) for t in body["targets"]][:2]
                    mock.world.alias_revision += 1
                    return self.answer(mock.answers.alias({}, admin, path.rsplit("/", 1)[1]))
                if path.endswith("/keys"):
                    return self.answer({**mock.answers.key(1, "N3wKey000000"), "key": TENANT})
                self.answer({"object": "ok", "name": body.get("name", "x"), "targets": []})

            do_POST = do_PUT = do_PATCH = do_DELETE = change
        return Handler


if __name__ == "__main__":
    m = Mock(tuple(int(p) for p in (sys.argv[1:] + ["0", "0"])[:2]))
    print(f"operators: {m.admin_url}/dashboard  key {OPERATOR}\ntenants:   {m.url}/dashboard  key {TENANT}", flush=True)
    threading.Event().wait()
