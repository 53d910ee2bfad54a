"""The tables of tests/README.md, out of the figures of `run`, and what in them is beyond its limit."""
import math

BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
KL_LIMIT = 1e-2  # mean over families and kinds of adapters; section 4's 1e-3 is for real models, these choose at random
KL_CELL = 5e-2
KL_EXPERTS = 3e-1  # a rounding that turns a choice of experts changes the whole answer, and random routers are full of near ties
WEIGHTS_LIMIT = 1e-7  # one rounding: bitsandbytes multiplies by 0.007874016, where the engine divides by 127


def label(group, fmt):
    return {"directory": fmt, "gguf": "GGUF " + fmt, "packed": "packed " + fmt}[group]


def figure(x):
    return "%.0e" % x if x else "0"


def worst_of(cells):
    worst = max(((x, f, k) for f, c in cells.items() for k, x in c.get("exact", {}).items()), default=None)
    not_served = ["%s: %s" % (f, c["refused"]) for f, c in cells.items() if "refused" in c]
    return "%s worst %s %s; %s" % (len(cells), *(("%.1e" % worst[0], worst[1:]) if worst else ("-", "")), not_served or "all served")


class Notes:
    """Reasons, numbered in the order in which they come."""

    def __init__(self):
        self.seen = []

    def mark(self, text):
        if text not in self.seen:
            self.seen.append(text)
        return "[%d]" % (self.seen.index(text) + 1)

    def lines(self):
        return ["%d. %s" % (i + 1, t) for i, t in enumerate(self.seen)]


def grid(corner, columns, rows):
    """rows: [(name, [cell, ..])]"""
    lines = ["| %s |" % " | ".join([corner, *columns]), "|" + "---|" * (len(columns) + 1)]
    return lines + ["| %s |" % " | ".join([name, *cells]) for name, cells in rows]


def by_format(formats, results, notes):
    def cell(c):
        if "misfit" in c or "refused" in c:
            return notes.mark(c.get("misfit") or "refused: " + c["refused"])
        marks = sorted({notes.mark("refused for some adapters: " + w) for w in c["adapters_refused"].values()})
        return figure(max(c["exact"].values())) + " ".join(["", *marks])
    return grid("format", list(results), [(f, [cell(results[n][f]) for n in results]) for f in formats])


def by_kind(results):
    kinds = list(dict.fromkeys(k for cells in results.values() for c in cells.values() for k in c.get("exact", {})))

    def cell(name, kind):
        found = [c["exact"][kind] for c in results[name].values() if kind in c.get("exact", {})]
        return figure(max(found)) if found else ""
    return grid("adapter", list(results), [(k, [cell(n, k) for n in results]) for k in kinds])


def fast_of(results, f):
    return [(kl, top, n, k) for n in results for k, (kl, top) in results[n][f].get("fast", {}).items()]


def fast(formats, results):
    rows = []
    for f in formats:
        all_of = fast_of(results, f)
        if all_of:
            kl, top = (sum(x[i] for x in all_of) / len(all_of) for i in (0, 1))
            worst = max(all_of)
            rows.append((f, [figure(kl), "%.1f %%" % (100 * top), "%s (%s, %s)" % (figure(worst[0]), *worst[2:])]))
    return grid("format", ["mean KL", "same choice", "largest mean KL of a family and adapter"], rows)


def breaches(formats, results, real):
    out = []
    for n, cells in results.items():
        for f, c in cells.items():
            at = "%s, %s" % (n, f)
            if "refused" in c:
                out.append("%s: refused: %s" % (at, c["refused"]))
            out += ["%s, %s: EXACT %.2e" % (at, k, x) for k, x in c.get("exact", {}).items() if not x <= c["limit"][k]]
            out += ["%s, %s: FAST KL %.2e" % (at, k, x[0]) for k, x in c.get("fast", {}).items()
                    if not x[0] <= (KL_EXPERTS if c["experts"] else KL_CELL)]
            if not c.get("weights", 0) <= (0 if f != "LLM.int8" else WEIGHTS_LIMIT):
                out.append("%s: weights differ by %.2e" % (at, c["weights"]))
    for f in formats:
        all_of = fast_of(results, f)
        if all_of and not sum(x[0] for x in all_of) / len(all_of) <= KL_LIMIT:
            out.append("%s: mean KL of FAST" % f)
    if real and real["status"]:
        out.append("the real model: test_golden fails")
    return out


def render(formats, results, real, versions, limit):
    notes = Notes()
    first = by_format(formats, results, notes)
    worst = max((x for cells in results.values() for c in cells.values() for x in c.get("exact", {}).values()), default=math.nan)
    count = sum(len(c.get("exact", {})) for cells in results.values() for c in cells.values())
    lines = [BEGIN, "Written by `make accuracy` (%s)." % versions, "",
             "**EXACT, format x family**: the largest difference of a logit, over the base and all kinds of adapters. Limit "
             "%s, or 1e-5 of the largest logit where logits exceed 10; the largest of all %d combinations is %.1e." % (figure(limit), count, worst), "",
             *first, ""]
    lines += ["No combination, or refused:", "", *notes.lines(), ""] if notes.seen else []
    lines += ["**EXACT, adapter x family**: the largest difference, over all formats.", "", *by_kind(results), "",
              "**FAST, by format**: mean over families and adapters; the models choose nearly at random, so that roundings "
              "show more than in a trained model, most of all in the choice of experts.", "", *fast(formats, results), ""]
    if real:
        lines += ["**A real model**: SmolLM2-135M-Instruct, GGUF Q4_1, with the three adapters of `tests/golden/demo.json` "
                  "(`test_golden`):", "", *["    " + x for x in real["lines"]], ""]
    return "\n".join(lines + [END]), breaches(formats, results, real)


def write(path, text):
    with open(path, encoding="utf-8") as f:
        before, rest = f.read().split(BEGIN)
    with open(path, "w", encoding="utf-8") as f:
        f.write(before + text + rest.split(END)[1])
