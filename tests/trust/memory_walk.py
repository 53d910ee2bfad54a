"""Requests that are sent while allocations fail (R5): one point at a time, each answer judged, whoever answers."""
import collections
import errno

import httpx

ANSWER_S = 15  # for any answer: only a hang takes so long
FARTHEST = 900  # allocations into a request; the longest common ones make about a thousand


class Walk:
    """server: a Gateway or an Engine: its .process is the one that the shim is in, .tail() the end of its log."""

    def __init__(self, server, shim, rng):
        self.server, self.shim, self.rng, self.count = server, shim, rng, collections.Counter()
        self.met = collections.Counter()  # answers to requests that were struck
        self.bad, self.said = [], {}

    def wrong(self, what, text):
        self.count[what] += 1
        self.bad.append(f"{what}: {text}")

    def judge(self, what, send):
        """The answer of a request that was struck, None where it broke off."""
        try:
            r = send()
        except httpx.TimeoutException:
            self.wrong("hung", what)
            return None
        except httpx.TransportError:
            self.met["closed"] += 1
            return None
        self.met[f"{r.status_code // 100}xx"] += 1
        self.said[(what.split(" at ")[0], r.status_code)] = (what, r.text[:160])
        if r.status_code >= 400:
            try:
                fine = isinstance(r.json()["error"]["message"], str)
            except (ValueError, KeyError, TypeError):
                fine = False
            if not fine:
                self.wrong("not an error of ours", f"{what}: {r.status_code} {r.text[:80]!r}")
        return r

    def point(self, far):
        """Which allocation fails, early ones more often, and how many from there on."""
        at = self.rng.randrange(8) if self.rng.random() < 0.2 else int(far ** self.rng.random())
        return at, self.rng.choice((1, 1, 1, 2, 6, 40))

    def strike(self, what, send, at, times, look=None, library=""):
        """One point. False: the request made fewer allocations. look(what, response): for more to be said about the answer. library: a pattern, only what
        this asks for fails."""
        with self.shim.rule("malloc", error=errno.ENOMEM, at=at, times=times, path=library) as rule:
            r = self.judge(f"{what} at {library}{at}", send)
        if look and r is not None:
            look(f"{what} at {at}+{times}", r)
        if self.server.process.poll() is not None:
            raise AssertionError(f"{what} at {at}+{times}: the program ended with {self.server.process.returncode}\n{self.server.tail()[-3500:]}")
        self.count["points"] += rule.done > 0
        self.count["failed"] += rule.done
        return rule.done > 0

    def told(self, asan):
        return ("ASan and UBSan" if asan else "the release build") + "; answers while it failed: " + ", ".join(f"{k} {v}" for k, v in sorted(self.met.items()))
