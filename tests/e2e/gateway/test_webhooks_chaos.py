"""Traffic, while gateway and receiver are killed and the receiver answers as it likes: after all, who counts each id once has what the ledger has."""

import os
import threading
import time

import httpx

from gateway_process import BASE, until
from webhook_process import arrived, ledger_ids, make, outbox, start

SEED = int(os.environ.get("WEFT_CHAOS_SEED", "7"))
CHAOS = {"ok": 10, "500": 1, "drop": 1, "lose": 1, "cut": 1, "slow": 1, "429": 0.3, "die": 0.15}


def test_whatever_is_killed_the_receivers_have_exactly_what_the_ledger_has(tmp_path, _model, inbox):
    g = start(tmp_path / "chaos")
    try:
        tenants = [g.tenant(n) for n in ("acme", "other")]
        make(g, inbox, "all")
        make(g, inbox, "acme", tenant="acme")
        inbox.tell(chaos={"all": CHAOS, "acme": CHAOS}, seed=SEED)
        stop = threading.Event()

        def traffic(tenant):
            while not stop.is_set():
                try:
                    with tenant.http() as c:
                        for _ in range(50):
                            if stop.is_set():
                                break
                            c.post("/v1/chat/completions", json={"model": BASE, "messages": [{"role": "user", "content": "tokens=2 delay_ms=5"}]})
                except httpx.HTTPError:
                    time.sleep(0.05)

        threads = [threading.Thread(target=traffic, args=(t,)) for t in tenants for _ in range(2)]
        for t in threads:
            t.start()
        for i in range(10):
            time.sleep(0.6)
            if i % 5 == 3:
                g.kill()
                g.start()
            elif i % 3 == 1 and inbox.process.poll() is None:
                inbox.kill()
            if inbox.process.poll() is not None:
                inbox.start()
        stop.set()
        for t in threads:
            t.join(30)
        if inbox.process.poll() is not None:
            inbox.start()
        inbox.tell(chaos={p: {"ok": 1} for p in ("all", "acme")})
        until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0, what="the last settlement")
        every, own = ledger_ids(g), ledger_ids(g, "acme")
        assert len(every) > 300 and len(set(every)) == len(every)
        arrived(inbox, "all", every)
        arrived(inbox, "acme", own)
        assert set(inbox.usage("all")) == set(every) and set(inbox.usage("acme")) == set(own)
        mine = set(own)
        assert [i for i in inbox.usage("all") if i in mine] == inbox.usage("acme"), "both have the order of the ledger"
        assert inbox.state()["wrong"] == []
        sums = g.admin.get("/admin/v1/usage", params={"bucket_width": "1d", "limit": 2}).json()["data"]
        used = sum(r["output_tokens"] for b in sums for r in b["results"])
        assert sum(e["data"]["output_tokens"] for e in inbox.events("all")) == used
        until(lambda: outbox(g) == 0, what="an empty outbox")
    finally:
        g.close()
