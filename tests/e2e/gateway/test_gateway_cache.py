"""The gateway's engine keeps packed copies of its base in the data folder and starts from them: an engine that died is back sooner."""

from gateway_process import until


def weights(g):
    return g.engine_state()["memory"]["weights"]["from"]


def copies(g):
    return [p for p in (g.data / "cache").glob("*.weft")]


def test_an_engine_that_died_starts_from_the_copy(start):
    g = start()
    assert weights(g) == "packed"
    until(lambda: copies(g), what="a copy")
    old = g.kill_engine()
    until(lambda: g.engine_pid() not in (None, old), 60, "another engine")
    assert weights(g) == "copy"
    g.stop()
    g.start()
    assert weights(g) == "copy" and len(copies(g)) == 1


def test_without_a_cache_there_is_none(start):
    g = start("--engine-cache-mb", "0", "--adapter-mb", "77")
    assert weights(g) == "packed" and g.engine_state()["memory"]["adapters"]["max"] == 77 << 20
    assert not (g.data / "cache").exists()
