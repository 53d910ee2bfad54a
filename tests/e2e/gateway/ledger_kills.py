"""Kills of gateway and engine under load, and what the ledger must say afterwards (docs/METERING.md section 3).

    python ledger_kills.py --kills 150 [--seed N]        the whole form; tests/e2e/gateway/test_ledger_kills.py runs a short one

Clients of two tenants, one under a token budget, ask by alias and by name, streamed and whole, and leave some answers; meanwhile the gateway is killed with
SIGKILL again and again, sometimes the engine, sometimes both, at random moments. Clients note what they saw. A last start settles what is left; then each
check_* holds the ledger against that."""

import argparse
import asyncio
import collections
import datetime
import functools
import json
import random
import sqlite3
import sys
import tempfile
import time

import httpx

from gateway_process import BASE, Gateway, until

LOAD_LEAST, LOAD_MOST_S = 25, 20  # answers begun between two kills
WORKERS = 16
STATES = {"completed", "client_abort", "upstream_error", "timeout", "rejected", "gateway_crash"}
STATE = ("completed", "client_abort", "upstream_error", "timeout", "rejected", "gateway_crash")
BUDGET = 400_000
TARGETS = ("pirate", "sql")


class Seen:
    """What one client saw of one request."""

    def __init__(self, tenant, asked, stream, aliased):
        self.tenant, self.asked, self.stream, self.aliased = tenant, asked, stream, aliased
        self.id, self.status, self.events, self.done, self.left = None, None, 0, False, False
        self.usage = None  # as the answer's end had it: prompt, cached and completion tokens

    def note_usage(self, usage):
        self.usage = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], usage["completion_tokens"]


class Run:
    def __init__(self, folder, kills, seed=1):
        self.random, self.kills, self.seen, self.killed = random.Random(seed), kills, [], collections.Counter()
        self.g = Gateway(folder, fake=True)
        self.tenants = [self.g.tenant("acme"), self.g.tenant("frugal")]
        for t in self.tenants:
            for name in TARGETS:
                assert t.upload(name).status_code == 201
            with t.http() as c:
                r = c.put("/v1/aliases/talk", json={"targets": [{"adapter": n, "weight": 1} for n in TARGETS]})
                assert r.status_code in (200, 201), r.text
        r = self.g.admin.put("/admin/v1/tenants/frugal/limits", json={"tokens_per_day": BUDGET, "concurrent_requests": WORKERS})
        assert r.status_code == 200, r.text
        self.limit_more()
        self.price = None
        self.new_price()
        self.over = False

    def limit_more(self):
        """Budgets that nothing reaches, of a key and of an adapter: their sums are held against the rows."""
        key = self.tenants[1].key.split("_")[1]
        for path in (f"keys/{key}", "tenants/acme/adapters/sql"):
            r = self.g.admin.put(f"/admin/v1/{path}/limits", json={"tokens_per_day": 10**12, "cost_per_month": 10**15})
            assert r.status_code == 200, r.text

    def new_price(self):
        """From a while ago on, and the one before is removed: a crash in between must not price its requests by what it finds afterwards."""
        was, unit = self.price, self.random.randint(1, 1000)
        try:
            r = self.g.admin.post("/admin/v1/prices", json={"base": BASE, "valid_from": int(time.time()) - self.random.randint(1, 10**6), "prompt_nano": unit, "cached_nano": unit // 2, "output_nano": 3 * unit})
            if r.status_code == 201:
                self.price = r.json()["id"]
                if was:
                    self.g.admin.delete(f"/admin/v1/prices/{was}")
        except httpx.HTTPError:
            pass  # it is being killed

    # --- clients ---

    async def ask(self, c, rng):
        tenant, tokens, stream, aliased = rng.choice(self.tenants), rng.randint(1, 30), rng.random() < 0.7, rng.random() < 0.5
        leave = rng.randint(1, tokens) if rng.random() < 0.2 else None
        s = Seen(tenant.name, tokens, stream, aliased)
        self.seen.append(s)
        prompt = rng.randint(1, 20)
        body = {"model": "talk" if aliased else rng.choice((BASE, *TARGETS)), "stream": stream, "max_tokens": 64,
                "messages": [{"role": "user", "content": f"tokens={tokens} delay_ms={rng.randint(0, 8)} prompt={prompt} cached={rng.randint(0, prompt)}"}]}
        if stream:
            body["stream_options"] = {"include_usage": True}
        request = c.stream("POST", self.g.url + "/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {tenant.key}"})
        async with request as r:
            s.id, s.status = r.headers.get("x-request-id"), r.status_code
            async for line in r.aiter_lines():
                if line.startswith("data: {") and '"delta"' in line:
                    s.events += 1
                elif '"usage"' in line and r.status_code == 200:
                    s.note_usage(json.loads(line.removeprefix("data: "))["usage"])
                s.done |= line == "data: [DONE]" or ('"chat.completion"' in line and not stream)
                if leave and s.events >= leave:
                    s.left = True
                    return

    async def worker(self, n):
        rng = random.Random(1000 * n + self.kills)
        while not self.over:
            try:
                async with httpx.AsyncClient(timeout=20) as c:
                    while not self.over:
                        await self.ask(c, rng)
            except (httpx.HTTPError, OSError):
                await asyncio.sleep(0.02)

    # --- kills ---

    def kill(self):
        what = self.random.choices(("gateway", "engine", "both"), (10, 1, 1))[0]
        self.killed[what] += 1
        if what != "gateway":
            try:
                self.g.kill_engine()
            except (TypeError, ProcessLookupError):
                pass  # it is being started
        if what != "engine":
            self.new_price()
            self.g.kill()
            self.g.start(ready=False)
        if what != "gateway":
            until(self.g.engine_pid, 60, "an engine after the kill")

    def told(self):
        return sum(s.status == 200 for s in self.seen)

    async def load_since(self, told):
        """A kill on a busy machine has as many requests before it as one on an idle one."""
        end = time.monotonic() + LOAD_MOST_S
        while self.told() < told + LOAD_LEAST and time.monotonic() < end:
            await asyncio.sleep(0.01)

    async def go(self):
        workers, told = [asyncio.create_task(self.worker(n)) for n in range(WORKERS)], 0
        for _ in range(self.kills):
            await asyncio.sleep(self.random.uniform(0.02, 0.4))
            await self.load_since(told)
            told = self.told()
            await asyncio.to_thread(self.kill)
        await asyncio.sleep(0.3)
        self.over = True
        await asyncio.gather(*workers)

    def finish(self):
        """One more kill in the middle of nothing, a last start, a clean state."""
        asyncio.run(self.go())
        self.g.kill()
        self.g.start()
        until(lambda: self.g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, 30, "the end of all admissions")
        self.verdict = self.g.admin.get("/admin/v1/ledger?verify=1").json()
        self.limits = self.g.admin.get("/admin/v1/tenants/frugal/limits").json()
        self.held = self.g.admin.get("/admin/v1/ledger/health").json()["held"]
        self.g.stop()
        self.rows = self.read_rows()
        return self

    def read_rows(self):
        c = sqlite3.connect(self.g.data / "weft.db")
        c.row_factory = sqlite3.Row
        tables = [n for (n,) in c.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*'")]
        rows = [dict(r) for t in tables for r in c.execute(f"SELECT u.*, t.name AS tenant_name FROM {t} u JOIN tenant t ON t.id = u.tenant")]
        self.admissions = c.execute("SELECT count(*) FROM admission").fetchone()[0]
        self.budget = c.execute("SELECT tokens FROM budget_use b JOIN tenant t ON b.subject = 'tenant:' || t.id WHERE period = 0 AND t.name = 'frugal'").fetchone()[0]
        self.budgets = [tuple(r) for r in c.execute("SELECT l.subject, b.period, b.t, b.tokens, b.cost FROM limits l JOIN budget_use b USING(subject)")]
        self.prices = {0: (0, 0, 0)} | {r[0]: tuple(r[1:]) for r in c.execute("SELECT row, prompt, cached, output FROM price UNION ALL SELECT row, prompt, cached, output FROM price_removed")}
        self.integrity = c.execute("PRAGMA integrity_check").fetchone()[0]
        c.close()
        return rows

    @functools.cached_property
    def rows_by_id(self):
        return {r["id"]: r for r in self.rows}

    def by_id(self):
        return self.rows_by_id

    def answered(self):
        """Requests that were let in, as far as their clients know."""
        return [s for s in self.seen if s.status == 200 and s.id]

    # --- the invariants ---

    def check_i1_one_row_per_admitted_request_and_none_twice(self):
        rows = self.by_id()
        assert len(rows) == len(self.rows), "an id stands in two tables"
        missing = [s.id for s in self.answered() if s.id not in rows]
        assert not missing, f"{len(missing)} of {len(self.answered())} answered requests have no row: {missing[:3]}"
        assert len(rows) <= len(self.seen), "more rows than requests were sent"
        assert self.admissions == 0 and self.verdict["open_admissions"] == 0 and self.integrity == "ok"

    def check_i2_states_are_complete(self):
        assert {STATE[r["state"]] for r in self.rows} <= STATES
        for s in self.answered():
            row = self.by_id()[s.id]
            if row["state"] == 0:
                assert row["output"] == s.asked and row["finish"] == "length"
            assert row["alias"] == ("talk" if s.aliased else "")
            assert not s.aliased or row["adapter"] in TARGETS

    def check_i3_billed_is_what_was_delivered_and_the_engines_count_stands_beside(self):
        rows = self.by_id()
        for s in self.answered():
            row = rows[s.id]
            assert row["output"] <= row["produced"] or row["state"] == 5, row
            assert row["output"] <= s.asked, row
            if s.stream and s.left and row["state"] in (0, 1):  # what a crash noted may be older than what was read
                assert s.events <= row["output"], (s.events, row)
            if s.stream and s.done and row["state"] == 0:
                assert row["output"] == s.events, (s.events, row)

    def check_i3_the_row_says_what_the_end_of_the_answer_said(self):
        done = [s for s in self.seen if s.done]
        assert len({s.usage for s in done if s.stream}) > 10 and len({s.usage for s in done if not s.stream}) > 10, "too few different answers came to their end"
        for s in done:
            row = self.by_id()[s.id]
            assert STATE[row["state"]] == "completed" and (row["prompt"], row["cached"], row["output"]) == s.usage, (s.usage, row)

    def check_i5_a_lost_engine_or_gateway_is_never_a_clean_end(self):
        for s in self.answered():
            if s.stream and s.done:
                assert s.events == s.asked, f"{s.id} ended cleanly after {s.events} of {s.asked}"

    def check_i6_budgets_are_never_passed(self):
        spent = sum(r["prompt"] + r["output"] for r in self.rows if r["tenant_name"] == "frugal")
        assert spent <= BUDGET
        assert self.budget == spent, f"the budget's sum is {self.budget}, that of its rows {spent}"
        assert self.limits["used"]["tokens_per_day"] == spent

    def check_i6_every_budgets_sum_is_that_of_its_rows(self):
        kinds = collections.Counter(subject.split(":")[0] for subject, *_ in self.budgets)
        assert set(kinds) == {"tenant", "key", "adapter"}, kinds
        for subject, period, t, tokens, cost in self.budgets:
            begins = (lambda us: us // 86_400_000_000 * 86400) if period == 0 else (lambda us: int(datetime.datetime.fromtimestamp(us / 1e6, datetime.UTC).replace(
                day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()))
            mine = [r for r in self.rows if subject in (f"tenant:{r['tenant']}", f"key:{r['key']}", f"adapter:{r['tenant']}/{r['adapter']}") and begins(r["t_start"]) == t]
            assert (tokens, cost) == (sum(r["prompt"] + r["output"] for r in mine), sum(r["cost"] for r in mine)), (subject, period, t)

    def check_i6_each_row_costs_its_tokens_at_the_price_that_it_names(self):
        assert len(self.prices) > 1
        for r in self.rows:
            prompt, cached, output = self.prices[r["price"]]
            assert r["cost"] == (r["prompt"] - r["cached"]) * prompt + r["cached"] * cached + r["output"] * output, r

    def check_i7_refused_requests_are_free_and_all_places_are_given_back(self):
        rows = self.by_id()
        for s in self.seen:
            if s.status is not None and s.status in (400, 401, 404, 429):
                assert s.id not in rows
        assert self.limits["used"]["concurrent_requests"] == 0
        assert self.limits["used"]["reserved"] == {"tokens": 0, "cost": 0}
        assert self.held == {"places": 0, "tokens": 0, "cost_nano": 0}
        assert "held_at_stop" not in self.g.log.read_text()

    def check_i9_rollups_equal_the_rows(self):
        assert self.verdict["verify"] == {"rows": len(self.rows), "bad_buckets": 0}
        assert self.verdict["audit"]["first_bad"] == 0

    def checks(self):
        return [name for name in dir(self) if name.startswith("check_i")]

    def summary(self):
        states = collections.Counter(STATE[r["state"]] for r in self.rows)
        return {"kills": dict(self.killed), "sent": len(self.seen), "answered": len(self.answered()), "rows": len(self.rows), "states": dict(states)}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kills", type=int, default=150)
    p.add_argument("--seed", type=int, default=int(time.time()))
    a = p.parse_args()
    with tempfile.TemporaryDirectory(prefix="weft-kills-") as folder:
        run = Run(folder, a.kills, a.seed).finish()
        print(json.dumps({"seed": a.seed, **run.summary()}), flush=True)
        failed = 0
        for name in run.checks():
            try:
                getattr(run, name)()
                print("ok    ", name)
            except AssertionError as e:
                failed += 1
                print("FAILED", name, e)
        run.g.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
