"""R3: the gateway is killed with SIGKILL again and again under load, sometimes the engine with it. Clients retry by the plain rule (what broke off or was a 5xx
is asked again) and note what they were told, which is the oracle: the run and its invariants are those of tests/e2e/gateway/ledger_kills.py, its clients
are faster, and what the ledger says is counted against the oracle's log."""

import asyncio
import collections
import os
import random

import clients
import ledger_kills
from gateway_process import BASE, until
from ledger_kills import BUDGET, STATE, TARGETS, Seen
from trust import row, without

CLIENTS, RETRIES_MAX = 48, 200


class Run(ledger_kills.Run):
    """The same tenants, kills and checks; each request is a job that is asked until it is answered, and each attempt is Seen."""

    def __init__(self, folder, kills, requests, seed):
        super().__init__(folder, kills, seed)
        self.per_kill = requests // kills
        self.jobs = self.unanswered = 0
        self.told = collections.Counter()
        for t in self.tenants:  # what is asked for, ready made: a client of Python's spends its time on little else
            t.asks = [self.ready_made(t, tokens, stream, aliased) for tokens in range(1, 9) for stream in (False, True) for aliased in (False, True)]

    def ready_made(self, tenant, tokens, stream, aliased):
        model = "talk" if aliased else (BASE, *TARGETS)[tokens % 3]
        text = f"tokens={tokens} delay_ms={tokens % 3} prompt={5 + 2 * tokens} cached={tokens + aliased}"
        return clients.chat(tenant.key, model, text, stream, usage=True), tokens, stream, aliased

    async def attempt(self, c, tenant, ask, leave):
        data, tokens, stream, aliased = ask
        s, a = Seen(tenant.name, tokens, stream, aliased), clients.Answer()
        try:
            await c.ask(data, a, leave)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
            self.told["nothing"] += a.sent and not a.id
        s.id, s.status, s.events, s.done, s.left = a.id, a.status, a.events, a.done and a.over, bool(leave) and not a.over and a.events >= (leave or 0)
        s.error = a.error
        if s.done and (usage := a.usage()):
            s.note_usage(usage)
        if a.sent:
            self.seen.append(s)
        return s

    async def job(self, c, rng):
        tenant = self.tenants[rng.random() < 0.1]  # the frugal one spends its budget in the first tenth
        ask = rng.choice(tenant.asks)
        leave = rng.randint(1, ask[1]) if ask[2] and rng.random() < 0.1 else None
        self.jobs += 1
        for _ in range(RETRIES_MAX):
            s = await self.attempt(c, tenant, ask, leave)
            if s.done or s.left or (s.status and s.status < 500 and s.status != 200):
                return
            if not s.id:
                c = clients.Connection(self.g.url)
                await asyncio.sleep(0.02)
        self.unanswered += 1

    async def worker(self, n):
        rng = random.Random(1000 * n + self.kills)
        while not self.over:
            c = clients.Connection(self.g.url)  # which moves with each start
            for _ in range(50):
                if not self.over:
                    await self.job(c, rng)
            c.close()

    async def go(self):
        workers = [asyncio.create_task(self.worker(n)) for n in range(CLIENTS)]
        for n in range(self.kills):
            while len(self.seen) < (n + 1) * self.per_kill:
                await asyncio.sleep(0.01)
            await asyncio.sleep(self.random.uniform(0, 0.05))
            await asyncio.to_thread(self.kill)
        await asyncio.sleep(0.3)
        self.over = True
        await asyncio.gather(*workers)

    # --- what the ledger says against what was told ---

    def figures(self):
        rows = self.by_id()
        done = [s for s in self.seen if s.done]
        billed = {i: (r["prompt"], r["cached"], r["output"]) for i, r in rows.items()}
        named = {s.id for s in self.seen if s.id}
        spent = collections.Counter()
        for r in self.rows:
            spent[r["tenant_name"]] += r["prompt"] + r["output"]
        used = self.limits["used"]
        return {
            "lost": sum(s.id not in rows for s in done),
            "told as done, in the ledger as something else": sum(s.id in rows and STATE[rows[s.id]["state"]] != "completed" for s in done),
            "double": len(self.rows) - len(rows) + max(0, sum(r["id"] not in named for r in self.rows) - self.told["nothing"]),
            "wrong tokens": sum(s.id in rows and (billed[s.id] != s.usage or s.usage[2] != (s.events if s.stream else s.asked)) for s in done)
            + sum(s.id in rows and not s.done and not s.left and s.status == 200 and rows[s.id]["output"] > s.events for s in self.seen)
            + sum(r["output"] > r["produced"] and r["state"] != 5 for r in self.rows),
            "billed but refused": sum(s.id in rows for s in self.seen if s.status in (400, 401, 404, 422, 429)),
            "leaked reservations": self.admissions + self.verdict["open_admissions"] + used["concurrent_requests"] + used["reserved"]["tokens"] + used["reserved"]["cost"],
            "buckets of the rollups that differ from the ledger": self.verdict["verify"]["bad_buckets"] + (self.verdict["verify"]["rows"] != len(self.rows)),
            "balances that differ from the ledger": int(self.budget != spent["frugal"]) + int(used["tokens_per_day"] != spent["frugal"]) + int(spent["frugal"] > BUDGET),
        }

    def broken_invariants(self):
        failed = []
        for name in self.checks():
            try:
                getattr(self, name)()
            except AssertionError as e:
                failed.append(f"{name}: {str(e)[:300]}")
        return failed


@row("R3", "kills of the gateway under load: nothing lost, doubled, wrong or leaked")
def check(t):
    kills, requests = t.size(short=5, whole=150), t.size(short=1500, whole=100_000)
    seed = int(os.environ.get("WEFT_KILLS_SEED", 3))
    ledger_kills.BUDGET = BUDGET
    run = Run(t.folder / "g", kills, requests, seed)
    try:
        run.finish()
        t.count("kills", sum(run.killed.values()), least=kills)
        t.count("requests, with their retries", len(run.seen), least=requests)
        t.count("requests that no client got an answer to at last", run.unanswered, most=0)
        for name, n in run.figures().items():
            t.count(name, n, most=0)
        broken = run.broken_invariants()
        t.count("invariants of the ledger that are broken", len(broken), most=0)
        for what in broken:
            t.note(what)
        states = collections.Counter(STATE[r["state"]] for r in run.rows)
        t.note(f"seed {seed}; of the kills {dict(run.killed)}; rows {len(run.rows)}: {dict(states)}; {run.told['nothing']} attempts were told nothing")
    finally:
        run.g.close()


without("R3", "the recovery of what was open at a kill", "gateway/main.c",
        "    return ledger_recover(p->g.ledger, pool_receipt, p->g.pool, &closed, e);", "    (void)closed, (void)pool_receipt;\n    return 0;")
without("R3", "the count of what was delivered", "gateway/proxy/upstream_settle.c",
        "    if (s.state == USAGE_COMPLETED && (!streamed || done)) s.delivered = c->output;", "")
without("R3", "rollups in the transaction of the row", "gateway/ledger/ledger_settle.c",
        "    return *fresh ? db_later(d, end_group, r, e) : 0;", "    return *fresh && r->month == 1 ? db_later(d, end_group, r, e) : 0;")
without("R3", "balances in the transaction of the row", "gateway/ledger/ledger_settle.c",
        "    if (fresh && limit_settle_run(", "    if (fresh && s->state == USAGE_GATEWAY_CRASH && limit_settle_run(")
without("R3", "the count of the prompt's cached tokens", "gateway/proxy/upstream_settle.c", "    s.cached = c->cached;", "")
