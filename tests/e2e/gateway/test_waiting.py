"""Requests that wait in the gateway for a place on an engine: how many may, and whose turn it is."""
import concurrent.futures

from gateway_process import until
from test_pool import fakes, pool  # noqa: F401 (fixtures)


def test_who_finds_no_place_among_the_waiting_is_refused_at_once_and_another_tenant_still_finds_one(pool):
    g, (a,) = pool(1, "--max-waiting", "4")
    crowd, other = g.tenant("acme"), g.tenant("other")
    assert g.admin.patch("/admin/v1/engines/e0", json={"capacity": 1}).status_code == 200
    with concurrent.futures.ThreadPoolExecutor(12) as many:
        first = many.submit(crowd.ask, "tokens=1 delay_ms=6000")
        until(lambda: a.log()["running"] == 1, what="a request on the engine")
        rest = [many.submit(crowd.ask, "tokens=1 delay_ms=10") for _ in range(8)]
        until(lambda: sum(f.done() for f in rest) == 6, what="refusals")
        assert not first.done()  # they did not wait for it
        late = other.ask("tokens=1 delay_ms=10")
        answers = sorted(f.result().status_code for f in rest)
    refused = [f.result() for f in rest if f.result().status_code != 200]
    assert answers == [200, 200] + [503] * 6 and first.result().status_code == late.status_code == 200
    assert all(r.json()["error"]["code"] == "queue_full" and r.headers["retry-after"] == "1" for r in refused)


def test_a_place_that_comes_free_is_for_the_tenant_that_has_the_fewest(pool):
    g, (a,) = pool(1)
    crowd, other = g.tenant("acme"), g.tenant("other")
    assert g.admin.patch("/admin/v1/engines/e0", json={"capacity": 2}).status_code == 200
    ended = []

    def ask(t):
        assert t.ask("tokens=1 delay_ms=20").status_code == 200
        ended.append(t.name)

    def waiting(n):
        until(lambda: g.admin.get("/admin/v1/now").json()["waiting"] >= n, what=f"{n} requests that wait")

    with concurrent.futures.ThreadPoolExecutor(16) as many:
        busy = [many.submit(crowd.ask, f"tokens=1 delay_ms={ms}") for ms in (6000, 9000)]
        until(lambda: a.log()["running"] == 2, what="a busy engine")
        asked = [many.submit(ask, crowd) for _ in range(5)]
        waiting(5)
        asked += [many.submit(ask, other) for _ in range(2)]
        waiting(7)
        assert ended == [] and not any(f.done() for f in busy)
        for f in asked:
            f.result()
    assert ended[:3].count("other") == 2, ended  # by their arrival they would be the last
