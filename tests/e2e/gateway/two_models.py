"""A gateway whose tenant has a small model, the base, and a large one, the adapter sql, each at a price of its own: what tests of adaptive aliases begin with."""

from contextlib import contextmanager

from gateway_process import BASE, Gateway, until

SMALL, LARGE = {"prompt_nano": 10, "cached_nano": 1, "output_nano": 40}, {"prompt_nano": 100, "cached_nano": 10, "output_nano": 400}
TARGETS = [{"base": BASE}, {"adapter": "sql"}]


def balanced(g):
    until(lambda: g.admin.get("/admin/v1/ledger").json()["open_admissions"] == 0)
    verdict = g.admin.get("/admin/v1/ledger?verify=1").json()
    assert verdict["verify"]["bad_buckets"] == 0
    held = g.admin.get("/admin/v1/ledger/health").json()["held"]
    assert not any(held.values()), held


@contextmanager
def two_models(folder, *args):
    """The gateway, with g.acme the tenant; its books are balanced when it ends."""
    g = Gateway(folder, *args)
    try:
        g.acme = g.tenant("acme")
        assert g.acme.upload("sql").status_code == 201
        for price in ({"base": BASE, **SMALL}, {"base": BASE, "tenant": "acme", "adapter": "sql", **LARGE}):
            assert g.admin.post("/admin/v1/prices", json={"valid_from": 0, **price}).status_code == 201
        yield g
        balanced(g)
    finally:
        g.close()
