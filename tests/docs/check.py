"""What holds of every page, and how one is run. Used by tests/e2e/test_docs.py (every check) and tests/docs/run (make docs-check)."""
import re

from pages import TOP, Example, pages
from session import Failed, Place, Session

# Pages that may have blocks which can't run here: how many at most, and why. A page that is not named has none.
NOT_RUN = {
    "docs/BACKUP.md": (2, "restores into the folder of a service; needs a second machine"),
    "docs/CONTAINERS.md": (1, "needs Docker"),
    "docs/ENGINE.md": (4, "need a second machine"),
    "docs/GPU.md": (1, "needs a GPU"),
    "docs/INTEGRATE.md": (1, "npm's registry is out of reach"),
    "docs/KUBERNETES.md": (12, "need a cluster"),
    "docs/OBSERVABILITY.md": (1, "runs until it is stopped, on a port that may be taken"),
    "docs/ORACLE.md": (1, "3 GB of packages"),
    "docs/PLACEMENT.md": (1, "minutes of both cores"),
    "docs/UPGRADE.md": (1, "root's /usr and a service manager"),
    "docs/VLLM.md": (1, "needs vLLM, 3 GB"),
    "docs/WEBHOOKS.md": (1, "sends to somebody's service"),
    "README.md": (2, "root's /usr; a model of the reader's"),
}


def judge_marks(found, targets):
    """A line for each mark that is not in order; `targets` are the make targets that there are."""
    for page in found:
        shut = [b for b in page.blocks if "not-run" in b.marks]
        most = NOT_RUN.get(page.name, (0, ""))[0]
        if len(shut) > most:
            yield f"{page.name}: {len(shut)} blocks that are not run; NOT_RUN of tests/docs/check.py allows {most}"
        for b in page.blocks:
            if b.marks.get("not-run", "x") == "" or ("run-by" in b.marks and b.marks["run-by"] not in targets):
                yield f"{b}: a reason is missing, or there is no make target {b.marks.get('run-by')!r}"


def make_targets():
    text = "".join(p.read_text() for p in [TOP / "Makefile", *(TOP / "tests").rglob("*.mk"), *(TOP / "ops").rglob("*.mk")])
    return set(re.findall(r"^([a-z][\w.-]*):(?!=)", text, re.M))


def demo(place):
    """README's ops/run: the gateway that all pages talk to. Returns its block."""
    block = next(b for b in pages()[0].blocks if "until" in b.marks)
    place.stay(block)
    return block


def run_page(place, page, skip=None, long=False, tell=lambda *a: None):
    """Runs a page's blocks in order; returns how many. Failed, where one fails or prints something else than its example."""
    session, ran, printed = Session(place, long), 0, None
    try:
        for block in page.blocks:
            if block.language == "output" and printed is not None:
                lacks = Example(block.text).missing(printed)
                if lacks is not None:
                    raise Failed(f"{block}: nothing printed is like\n{lacks}\n-- printed:\n{printed[-3000:]}")
            if not block.runs:
                continue
            printed = None
            if block is skip or (skip and str(block) == str(skip)):
                ran += 1
            elif block.here(long):
                tell(block)
                printed = session.run(block)
                ran += 1
    finally:
        session.close()
    return ran


def count(found, long):
    """(blocks run, {page: [(block, reason)]} of those that are not)."""
    ran, shut = 0, {}
    for page in found:
        for b in page.blocks:
            if b.here(long):
                ran += 1
            elif b.runs:
                shut.setdefault(page.name, []).append((b, b.marks.get("not-run") or f"run by make {b.marks['run-by']}"))
    return ran, shut


__all__ = ["Failed", "Place", "count", "demo", "judge_marks", "make_targets", "pages", "run_page"]
