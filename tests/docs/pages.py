"""Pages of documentation as the tests read them: fenced blocks with their marks, headings, links.

A command stands in a fence of a language that runs: sh, python, js. Marks in the fence's info string say what else is to be known:

    ```sh not-run="needs a GPU"     it can't run here; NOT_RUN of check.py says how many of a page may
    ```sh run-by="docs-check"       that make target runs it, not the everyday check
    ```sh until="Weft is up"        it stays: it runs beside what follows once its output has these words
    ```sh fails="3"                 it ends with this exit status, and the page says why
    ```sh on="second"               on which machine, where what runs it has several

What follows as ```output is an example of what the block before it prints (`Example`). All other fences are text.
"""
import re
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
RUN = ("sh", "python", "js")
TEXT = ("output", "text", "json", "ini", "http", "yaml", "c")
MARKS = ("not-run", "run-by", "until", "fails", "on")
COMMAND = re.compile(r"^\s*(?:\$ |\w+=\S* +)*(?:sudo )?(?:weft|weft-gateway|weft-engine|curl|make|pip|python3?|node|docker|kubectl|apt-get|systemctl|prometheus|ops/\w+)(?: |$)")
FENCE = re.compile(r"^( *)(`{3,})([\w+-]*) *(.*)$")


class Block:
    def __init__(self, page, line, language, info):
        self.page, self.line, self.language, self.lines = page, line, language, []
        self.marks = dict(re.findall(r'([\w-]+)="([^"]*)"', info))
        self.left = re.sub(r'[\w-]+="[^"]*"', "", info).strip()

    def __str__(self):
        return f"{self.page}:{self.line}"

    @property
    def text(self):
        return "\n".join(self.lines) + "\n"

    @property
    def runs(self):
        return self.language in RUN

    def here(self, long):
        """Whether it is run in this run: the everyday one, or make docs-check (long)."""
        return self.runs and "not-run" not in self.marks and (self.marks.get("run-by") in ((None, "docs-check") if long else (None,)))


class Page:
    """One file: its blocks in order, its prose (fences and inline code blanked), its headings' anchors."""

    def __init__(self, path):
        self.path, self.name = path, str(path.relative_to(TOP))
        self.blocks, self.wrong, self.prose = [], [], []
        block, indent, before = None, "", ""
        for n, line in enumerate(path.read_text().splitlines(), 1):
            fence = FENCE.match(line)
            if block is not None:
                if fence and not fence[3] and not fence[4]:
                    block = None
                else:
                    block.lines.append(line.removeprefix(indent))
                self.prose.append("")
            elif fence:
                block, indent = Block(self.name, n, fence[3], fence[4]), fence[1]
                self.blocks.append(block)
                self.prose.append("")
            else:
                if line.startswith("    ") and line.strip() and not before.strip() and not self._in_list():
                    self.wrong.append(f"{self.name}:{n}: an indented block: put it between ``` with a language")
                self.prose.append(line)
            before = line
        if block is not None:
            self.wrong.append(f"{block}: a fence that does not end")
        self._judge()

    def _in_list(self):
        for line in reversed(self.prose):
            if line.strip():
                return bool(re.match(r"\s*(?:[*-]|\d+\.) ", line)) or line.startswith("  ")
        return False

    def _judge(self):
        for b in self.blocks:
            if b.language not in RUN + TEXT:
                self.wrong.append(f"{b}: a fence of the language {b.language!r}, which is none of {', '.join(RUN + TEXT)}")
            if b.left or set(b.marks) - set(MARKS):
                self.wrong.append(f"{b}: what is {b.left or sorted(set(b.marks) - set(MARKS))}? marks are {', '.join(MARKS)}")
            if b.marks and not b.runs:
                self.wrong.append(f"{b}: a mark on what is not run")
            if not b.runs and b.language != "output":
                self.wrong += [f"{b.page}:{b.line + 1 + i}: a command in a block of {b.language}: {x.strip()[:60]}" for i, x in enumerate(b.lines) if COMMAND.match(x)]

    def anchors(self):
        """As code hosts make them of headings."""
        seen, found = {}, set()
        for line in self.prose:
            heading = re.match(r"#{1,6} +(.*?)\s*#*$", line)
            if not heading:
                continue
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            n = seen[slug] = seen.get(slug, -1) + 1
            found.add(f"{slug}-{n}" if n else slug)
        return found | set(re.findall(r'<a (?:id|name)="([^"]+)"', "\n".join(self.prose)))

    def links(self):
        """(line number, target) of each link."""
        for n, line in enumerate(self.prose, 1):
            for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`]*`", "", line)):
                yield n, target


def pages():
    """All pages whose commands are run, README.md first: its ops/run serves the others."""
    return [Page(p) for p in [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]]


def broken_links(found):
    """A line for each relative link that leads nowhere."""
    anchors = {p.path: p.anchors() for p in found}
    for page in found:
        for n, target in page.links():
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            path, _, anchor = target.partition("#")
            to = (page.path.parent / path).resolve() if path else page.path
            if not to.exists():
                yield f"{page.name}:{n}: no {target}"
            elif anchor and to.suffix == ".md":
                if to not in anchors:
                    anchors[to] = Page(to).anchors()
                if anchor not in anchors[to]:
                    yield f"{page.name}:{n}: no heading #{anchor} in {to.relative_to(TOP)}"


class Example:
    """An example of output, held against a real one by its shape: each line in its order, words as they are; a number stands for any number, an
    id for any of its kind, blanks for any number of blanks, `...` for anything, and a line `...` for any lines."""

    KINDS = (
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", r"[0-9a-f-]{36}"),
        (r"\b(wft|wfa|whsec)_[\w+/=-]*", r"\1_\\S+"),
        (r"\b[0-9a-f]{12,64}\b", r"[0-9a-f]{12,64}"),
        (r"\.\.\.", r".*"),
        (r"\d+(?:[.,:]\d+)*", r"\\d+(?:[.,:]\\d+)*"),
        (r"[ \t]+", r"[ \\t]+"),
    )

    def __init__(self, text):
        self.lines = [x for x in text.splitlines() if x.strip()]

    def pattern(self, line):
        out, rest = "", line.strip()
        while rest:
            for shape, becomes in self.KINDS:
                m = re.match(shape, rest)
                if m and m[0]:
                    out += m.expand(becomes)
                    rest = rest[len(m[0]):]
                    break
            else:
                out += re.escape(rest[0])
                rest = rest[1:]
        return re.compile(out)

    def missing(self, printed):
        """The first line that the output lacks, or None."""
        have = [x.strip() for x in printed.splitlines() if x.strip()]
        at = 0
        for line in self.lines:
            if line.strip() == "...":
                continue
            want = self.pattern(line)
            while at < len(have) and not want.fullmatch(have[at]):
                at += 1
            if at == len(have):
                return line
            at += 1
        return None
