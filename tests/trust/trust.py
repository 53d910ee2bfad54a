"""What the rows of RELIABILITY.md section 4 are written in. A row is a file r01_streams.py .. r22_privacy.py with

    from trust import row

    @row("R3", "kills of the gateway under load: nothing lost, doubled or wrong")
    def check(t):
        kills = t.size(short=5, whole=150)
        ...
        t.count("kills", kills, least=kills)
        t.count("lost", lost, most=0)
        t.speed("added p99", ms, most=10, unit="ms")

count() is judged in every run; speed() is printed in every run and judged only where nothing else runs beside it (--timed, so never in the everyday
check). What is not counted was not shown: a row that counts nothing fails. A row runs in a process of its own with a folder of its own, may use
what tests/e2e/gateway has (gateway_process.Gateway, ...), and ends what it starts. An exception is a failure of the row, with its text.

    @without("R3", "the ledger's recovery at start", file="gateway/ledger/ledger_recover.c", old="...", new="...")

beside a row says how to take the control away that the row tests: the text `old`, which stands once in the file, is replaced by `new` in a copy of the
tree, the copy is built, and the row's short form must fail there (tests/trust/run --without). `mode` is the build that it needs."""
import dataclasses
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "tests/e2e/gateway"), str(TOP / "tests/e2e"), str(TOP / "tests/trust")]

ROWS = {}
CONTROLS = []


@dataclasses.dataclass
class Row:
    id: str
    title: str
    check: object


@dataclasses.dataclass
class Control:
    row: str
    what: str
    file: str
    old: str
    new: str
    mode: str = "release"


@dataclasses.dataclass
class Figure:
    name: str
    value: float
    goal: str  # "" where it is only told
    unit: str
    fine: bool
    timed: bool

    def text(self):
        value = f"{self.value:,.0f}" if float(self.value).is_integer() else f"{self.value:,.2f}"
        return f"{self.name} {value}{' ' + self.unit if self.unit else ''}" + (f" ({self.goal})" if self.goal else "")


class Trust:
    """One run of a row. folder: a Path of its own, removed after it."""

    def __init__(self, whole, timed, folder):
        self.whole, self.timed, self.folder = whole, timed, Path(folder)
        self.figures, self.notes = [], []

    def size(self, short, whole):
        """How much of it: the everyday check's, or all that the design asks for."""
        return whole if self.whole else short

    def _judge(self, name, value, least, most, unit, timed):
        goal = " and ".join(f"{word} {round(limit, 2):,}" for word, limit in (("at least", least), ("at most", most)) if limit is not None)
        fine = (least is None or value >= least) and (most is None or value <= most)
        self.figures.append(Figure(name, value, goal, unit, fine, timed))
        return fine

    def count(self, name, value, least=None, most=None, unit=""):
        return self._judge(name, value, least, most, unit, False)

    def speed(self, name, value, least=None, most=None, unit=""):
        return self._judge(name, value, least, most, unit, True)

    def note(self, text):
        """What the reader of the table should know: the machine's own rate, what was left out and why."""
        self.notes.append(text)

    def bad(self):
        """The figures that miss their goals, as far as they are judged in this run."""
        return [f for f in self.figures if not f.fine and (self.timed or not f.timed)]


def row(id, title):
    def add(check):
        assert id not in ROWS, id
        ROWS[id] = Row(id, title, check)
        return check

    return add


def without(row, what, file, old, new, mode="release"):
    CONTROLS.append(Control(row, what, file, old, new, mode))


def load(only=()):
    """All rows, by importing their files."""
    for path in sorted(Path(__file__).parent.glob("r[0-9][0-9]_*.py")):
        if not only or "R" + str(int(path.stem[1:3])) in only:
            __import__(path.stem)


def run_one(id, whole, timed):
    """In this process: the row's figures as a plain dict."""
    load({id})
    with tempfile.TemporaryDirectory(prefix="weft-", dir="/tmp") as folder:  # short: sockets' paths have 107 bytes
        t = Trust(whole, timed, folder)
        error = ""
        try:
            ROWS[id].check(t)
        except Exception as e:  # whatever it is, the row has not shown what it is for
            import traceback
            traceback.print_exc()
            error = f"{type(e).__name__}: {e}"[:400]
    bad = [f.text() for f in t.bad()]
    if not error and not t.figures:
        error = "it counted nothing"
    return {"id": id, "title": ROWS[id].title, "figures": [f.text() for f in t.figures], "bad": bad, "notes": t.notes, "error": error, "whole": whole, "timed": timed, "has_times": any(f.timed and f.goal for f in t.figures)}
