"""README.md and docs/: every command block is run (tests/docs/pages.py has the convention), examples of output are held against what came, links
lead somewhere, references are what the tables say, and the runbook has for each alert what it means, where to look and what to do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/docs"))
import check  # noqa: E402
import pages as docs  # noqa: E402
import session  # noqa: E402

PAGES = docs.pages()
RUNNING = [p for p in PAGES if any(b.here(False) for b in p.blocks)]


def listed(lines):
    return "\n".join(lines)


def test_every_command_stands_in_a_fence_with_a_language():
    assert not listed(w for p in PAGES for w in p.wrong)


def test_only_named_pages_have_blocks_that_are_not_run_and_no_more_than_they_may(capsys):
    assert not listed(check.judge_marks(PAGES, check.make_targets()))
    ran, shut = check.count(PAGES, False)
    with capsys.disabled():
        print(f"\ndocs: {ran} blocks are run, {sum(map(len, shut.values()))} are not: " + ", ".join(f"{k} {len(v)}" for k, v in shut.items()))


def test_links_between_pages_lead_to_files_and_headings():
    more = [docs.Page(TOP / p) for p in ("ARCHITECTURE.md", "STYLE.md", "tests/README.md", "tests/TRUST.md", "ops/demo/README.md", "schema/ENGINE_API.md")]
    assert not listed(docs.broken_links(PAGES + more))


def test_every_page_is_reached_from_the_index():
    index = docs.Page(TOP / "docs/README.md")
    told = {(index.path.parent / t.partition("#")[0]).resolve() for _, t in index.links() if not t.startswith("http")}
    assert not [p.name for p in PAGES[1:] if p.path not in told and p.path != index.path]


def test_the_references_are_what_the_tables_say():
    out = subprocess.run([sys.executable, TOP / "tests/docs/reference", "--check"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stdout + out.stderr


def test_the_runbook_has_meaning_first_look_and_fix_for_each_alert():
    rules = (TOP / "ops/prometheus/alerts.yml").read_text()
    alerts = dict(re.findall(r"- alert: (\w+)\n.*?severity: (\w+)", rules, re.S))
    book = (TOP / "docs/RUNBOOK.md").read_text()
    assert len(alerts) > 40
    for name, severity in alerts.items():
        part = re.search(rf"^### {name}\n\n(.*?)(?=^##|\Z)", book, re.M | re.S)
        assert part, f"{name} has no section"
        meaning = re.match(r"\*(\w+)\*\. (.+?)\n\n", part[1], re.S)
        assert meaning and meaning[1] == severity and len(meaning[2]) > 30, f"{name}: *{severity}*. what it means"
        for word in ("Look", "Do"):
            found = re.search(rf"^{word}: (.+?)(?=\n\n|\Z)", part[1], re.M | re.S)
            assert found and len(found[1]) > 15, f"{name}: {word}"


# --- the commands ---


@pytest.fixture(scope="module")
def place():
    p = session.Place()
    yield p
    p.close()


@pytest.fixture(scope="module")
def started(place):
    return check.demo(place)


@pytest.mark.parametrize("page", RUNNING, ids=lambda p: p.name)
def test_the_commands_of(page, place, started):
    assert check.run_page(place, page, started) > 0


# --- the checks themselves, each seen to fail ---


@pytest.mark.parametrize("text, wrong", [
    ("words\n\n    weft tenant list\n", "an indented block"),
    ("```\nweft tenant list\n```\n", "a fence of the language ''"),
    ("```text\nweft tenant list\n```\n", "a command in a block of text"),
    ("```text\n$ curl http://x\n```\n", "a command in a block of text"),
    ("```sh nonsense\ntrue\n```\n", "what is nonsense"),
    ("```text not-run=\"no\"\nwords\n```\n", "a mark on what is not run"),
    ("```sh\ntrue\n", "a fence that does not end"),
])
def test_a_page_in_no_convention_is_told(tmp_path, monkeypatch, text, wrong):
    monkeypatch.setattr(docs, "TOP", tmp_path)
    (tmp_path / "x.md").write_text(text)
    assert wrong in listed(docs.Page(tmp_path / "x.md").wrong)


def test_a_link_to_nothing_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "TOP", tmp_path)
    (tmp_path / "x.md").write_text("# A `b`: c\n[1](#a-b-c) [2](#d) [3](y.md) `[4](z.md)`\n")
    assert list(docs.broken_links([docs.Page(tmp_path / "x.md")])) == ["x.md:2: no heading #d in x.md", "x.md:2: no y.md"]


@pytest.mark.parametrize("example, printed, fits", [
    ("3 requests, 41 tokens", "12 requests,   7 tokens", True),
    ("3 requests, 41 tokens", "3 requests", False),
    ("a\n...\nb", "a\nx\ny\nb", True),
    ("a\nb", "b\na", False),
    ("id 01a2039e-0d1e-7000-8c1f-5b1d3f0a9e77 ...", "id 11111111-2222-3333-4444-555555555555 and more", True),
    ("key wft_...", "key wft_abc_def_12", True),
    ("state ready", "state failed", False),
])
def test_examples_are_compared_by_shape(example, printed, fits):
    assert (docs.Example(example).missing(printed) is None) == fits


@pytest.mark.parametrize("text, why", [
    ("```sh\nfalse\necho on\n```\n", "exit status 1"),
    ("```sh\nfalse | cat\n```\n", "exit status 1"),
    ("```sh\ntrue\n```\n```sh fails=\"3\"\nexit 4\n```\n", "exit status 4"),
    ("```sh\nA=1\n```\n```sh\ntest \"$A\" = 2\n```\n", "exit status 1"),
    ("```python\nimport os\n```\n```python\nos.nothing\n```\n", "AttributeError"),
    ("```sh\necho 3 ready\n```\n\n```output\n4 failed\n```\n", "nothing printed is like"),
])
def test_a_block_that_goes_wrong_fails_its_page(tmp_path, monkeypatch, text, why):
    monkeypatch.setattr(docs, "TOP", tmp_path)
    (tmp_path / "x.md").write_text(text)
    where = session.Place()
    try:
        with pytest.raises(session.Failed, match=why):
            check.run_page(where, docs.Page(tmp_path / "x.md"))
    finally:
        where.close()
