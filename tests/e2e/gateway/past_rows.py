"""Usage of days gone by, put straight into the database of a gateway that is stopped: what exports, archives and their benches read.

The tables are made as the gateway made this month's, so that one must be there (a request was answered)."""

import datetime
import random
import sqlite3

UTC = datetime.timezone.utc


def uuid7(us, rnd):
    ms = us // 1000
    return f"{ms >> 16:08x}-{ms & 0xffff:04x}-7{rnd.getrandbits(12):03x}-8{rnd.getrandbits(12):03x}-{rnd.getrandbits(48):012x}"


def month_of(us):
    return datetime.datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y%m")


def request(us, rnd, tenant, **fields):
    """A row of usage_YYYYMM, as a dict."""
    return {"id": uuid7(us - 300, rnd), "tenant": tenant, "key": "k7Kd9QmR2pLs", "base": "smollm2-135m-instruct", "adapter": "sql", "version": 1,
            "model": "sql", "alias": "", "endpoint": "/v1/chat/completions", "stream": 1, "state": 0, "http": 200, "finish": "stop", "t_start": us,
            "t_first": us + 80000, "t_end": us + 900000, "prompt": 100, "cached": 40, "output": 30, "produced": 30, "source": 1, "price": 0, "cost": 0,
            "attempt": 1, "cold": 0, "load_us": 0, "engine": "local", "adjusts": None, **fields}


class Past:
    def __init__(self, data):
        self.db = sqlite3.connect(data / "weft.db")
        self.db.execute("PRAGMA synchronous = OFF")
        self.pattern = self.db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name GLOB 'usage_[0-9]*'").fetchone()
        self.columns = {}

    def _month(self, yyyymm):
        if yyyymm not in self.columns:
            name, sql = self.pattern
            self.db.execute(sql.replace(name, f"usage_{yyyymm}").replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
            self.db.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS usage_{yyyymm}_tenant ON usage_{yyyymm}(tenant, id)")
            self.columns[yyyymm] = [r[1] for r in self.db.execute(f"PRAGMA table_info(usage_{yyyymm})")]
        return self.columns[yyyymm]

    def tenants(self):
        return dict(self.db.execute("SELECT name, id FROM tenant"))

    def add(self, rows):
        """Rows as of request()."""
        by_month = {}
        for r in rows:
            by_month.setdefault(month_of(r["t_start"]), []).append(r)
        for yyyymm, of in by_month.items():
            columns = self._month(yyyymm)
            marks = ",".join("?" * len(columns))
            self.db.executemany(f"INSERT INTO usage_{yyyymm} VALUES({marks})", ([r[c] for c in columns] for r in of))

    def price(self, row, base="smollm2-135m-instruct", tenant="", prompt=150, cached=20, output=600, valid_from=0):
        self.db.execute("INSERT INTO price(row, base, tenant, valid_from, prompt, cached, output, created) VALUES(?,?,?,?,?,?,?,0)",
                        (row, base, tenant, valid_from, prompt, cached, output))

    def close(self):
        self.db.commit()
        self.db.close()


def spread(n, start_us, end_us, tenants, seed=1, **fields):
    """n requests of these tenants' ids, evenly over the time, priced by price 1 of Past.price()."""
    rnd = random.Random(seed)
    for i in range(n):
        prompt = rnd.randrange(20, 4000)
        cached, output = rnd.randrange(prompt), rnd.randrange(1, 800)
        yield request(start_us + (end_us - start_us) * i // n, rnd, tenants[rnd.randrange(len(tenants))], key=f"k{rnd.randrange(2000):07d}AbCd",
                      adapter=f"sql{rnd.randrange(500)}" if rnd.random() < 0.8 else "", prompt=prompt, cached=cached, output=output, produced=output,
                      price=1, cost=(prompt - cached) * 150 + cached * 20 + output * 600, **fields)
