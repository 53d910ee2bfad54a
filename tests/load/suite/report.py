"""Results as text: tables that read well in a terminal and are Markdown too."""
import os
import re
import subprocess
from pathlib import Path

MEANS = {">=": (lambda v, g: v >= g, "at least"), "<=": (lambda v, g: v <= g, "at most")}


def describe_machine():
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    flags = Path("/proc/cpuinfo").read_text()
    has = [f for f in ("avx2", "avx512f", "avx512_bf16", "avx512_vnni") if re.search(rf"\b{f}\b", flags)]
    return {"cores": os.cpu_count(), "cpu": cpu.group(1) if cpu else "unknown", "flags": has,
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "compiler": subprocess.run(["gcc", "--version"], capture_output=True, text=True).stdout.splitlines()[0]}


def commit():
    out = subprocess.run(["git", "-C", Path(__file__).parent, "describe", "--always", "--dirty"], capture_output=True, text=True)
    return out.stdout.strip() or "no commit"


def cell(column, v):
    if v is None or v == "":
        return ""
    if isinstance(v, float):
        if column.startswith("of the bound") or column.endswith("share"):
            return f"{v:.1%}" if v < 0.1 else f"{v:.0%}"
        return f"{v:,.0f}" if abs(v) >= 100 else f"{v:.1f}" if abs(v) >= 10 else f"{v:.2f}"
    return f"{v:,}" if isinstance(v, int) else str(v)


def table(rows):
    columns = list(dict.fromkeys(c for r in rows for c in r))
    cells = [columns] + [[cell(c, r.get(c)) for c in columns] for r in rows]
    width = [max(len(r[i]) for r in cells) for i in range(len(columns))]
    number = [all(not isinstance(r.get(c), str) or r.get(c) == "" for r in rows) for c in columns]
    line = lambda r: "| " + " | ".join(x.rjust(w) if n else x.ljust(w) for x, w, n in zip(r, width, number)) + " |"
    rule = "|" + "|".join("-" * (w + 1) + (":" if n else "-") for w, n in zip(width, number)) + "|"
    return "\n".join([line(cells[0]), rule] + [line(r) for r in cells[1:]])


RATES = {"read_gb_s": "read GB/s", "fma_gflop_s": "f32 GFLOP/s", "bf16_gflop_s": "bf16 GFLOP/s", "int8_gop_s": "int8 GOP/s"}


def rates(got):
    before, after = got["rates"]
    return "Plain loops before and after: " + ", ".join(f"{words} {before[k]:.0f} and {after[k]:.0f}" for k, words in RATES.items())


def goal_row(text, value, sign, goal):
    holds, words = MEANS[sign]
    fine = goal < 0.1 or abs(value - goal) < 0.01
    show = (lambda v: f"{v:.1%}" if fine else f"{v:.0%}") if goal <= 1 else (lambda v: f"{v:.2f}")
    return {"what": text, "reached": show(value), "goal": f"{words} {show(goal)}", "": "met" if holds(value, goal) else "not met"}


def part(name, got):
    out = [f"### {got['title']}", ""]
    if got.get("rows"):
        out += [table(got["rows"]), ""]
    if got.get("lines"):
        out += ["    " + line for line in got["lines"]] + [""]
    out += [n[0].upper() + n[1:] + "." for n in got.get("notes", [])]
    if got.get("goals"):
        out += [""] if got.get("notes") else []
        out += [table([goal_row(*g) for g in got["goals"]]), ""]
    return "\n".join(out + [rates(got) + f"; `{name}`, {got['date']}, {got.get('commit', '')}, {got['seconds']:.0f} s" + (", quick" if got["quick"] else "") + "."])


def goals(results):
    rows = [goal_row(*g) | {"part": name} for name, got in results["parts"].items() for g in got.get("goals", [])]
    return "### What was aimed at\n\n" + table(rows) if rows else "No goal was measured."


def summary(results):
    """A few lines for whoever reads one page: streams over HTTP, and what others reached beside us."""
    parts, rows = results["parts"], []
    http = [r for p in ("http", "quantized") if p in parts for r in parts[p]["rows"] if r["prompt"] == 64]
    for n, adapters, words in ((1, "base", "1 stream"), (8, "base", "8 streams"), (8, "8", "8 streams over 8 adapters"), (32, "8", "32 streams over 8 adapters")):
        of = {r["base"]: r for r in http if (r["streams"], r["adapters"]) == (n, adapters)}
        rows.append({"": words} | {f"{k}, tokens/s": of[k]["tokens/s"] for k in ("bf16", "int8", "int4") if k in of})
    out = [table(rows), ""] if http else []
    beside = []
    for name in (p for p in parts if p.startswith("peer-") and p != "peer-lone"):
        kind = name.split("-")[-1]
        where = f"HTTP {kind if kind.startswith('q') else 'bf16'}" if "http" in name else kind
        for r in parts[name]["rows"]:
            case = r.get("case") or f"8 streams, {r['adapters']}, prompts of {r['prompt']}"
            beside.append({"beside llama.cpp, tokens/s": f"{where}: {case}", "ours": r["ours tokens/s"], "theirs": r["llama.cpp tokens/s"],
                           "ratio": r["ratio"]})
    return "\n".join(out + ([table(beside)] if beside else []))


def put_between(text, begin, end, what):
    at, to = text.index(begin) + len(begin), text.index(end)
    return text[:at] + "\n" + what + "\n" + text[to:]


GATEWAY = ("<!-- gateway: begin -->", "<!-- gateway: end -->")  # tests/load/bench_gateway writes between these


def with_gateway(page, text):
    """The new text of a page, with the section that bench_gateway wrote into the old one at its end."""
    old, (begin, end) = page.read_text() if page.exists() else "", GATEWAY
    return text if begin not in old else f"{text}\n{begin}{old.split(begin)[1].split(end)[0]}{end}\n"


def whole(results, plots, folder):
    m, minutes = results["machine"], sum(got["seconds"] for got in results["parts"].values()) / 60
    head = [
        "# Measured by `make bench`", "",
        f"{m['cores']} cores ({m['cpu']}; {', '.join(m['flags'])}), {m['memory_gb']} GB, {m['compiler']}. Each part carries its date and commit, what it took",
        "and what plain loops of the same machine reached right before and after it, because that changes within minutes: compare ratios.",
        "Prefix cache and guesses are off, two threads (one a core), greedy, prompts and adapters seeded; 64 tokens out unless a title says",
        "otherwise. Bounds: what must be read at the plain read rate, or multiplied at the plain dot-product rate, whichever takes longer.",
        f"All parts together took {minutes:.0f} minutes; one is taken again with `make bench ARGS=\"--only NAME\"`.", "", goals(results), ""]
    for name, got in results["parts"].items():
        head += [part(name, got), ""]
        for p in got.get("plots", []):
            head += [f"![{p}]({os.path.relpath(plots / p, folder)})", ""]
    return "\n".join(head)
