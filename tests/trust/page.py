"""tests/TRUST.md from what runs showed (shown.json): the table of figures, and how each row was seen to fail."""
import os
from pathlib import Path


def one_line(text):
    return " ".join(str(text).replace("|", "\\|").split())


def reached(got, form):
    """What a run without a miss shows: a short one not the design's numbers, one that was not timed no times."""
    return "reached" + (", times not judged" if got.get("has_times", True) and not got["timed"] else "") + (" (short form, less than the design asks for)" if form == "short" else "")


def figures(shown):
    lines = []
    for id in sorted(set(shown.get("whole", {})) | set(shown.get("short", {})), key=lambda i: int(i[1:])):
        form = "whole" if id in shown.get("whole", {}) else "short"
        got = shown[form][id]
        state = "**failed**: " + got["error"] if got["error"] else "**missed**: " + "; ".join(got["bad"]) if got["bad"] else reached(got, form)
        what = "; ".join(got["figures"]) + "".join(f". {n}" for n in got["notes"])
        lines.append(f"| {id} | {one_line(got['title'])} | {one_line(what)} | {one_line(state)} | {form}{', timed' if got['timed'] else ''}, {got['took_s']:.0f} s, {got['day']} |")
    return lines


def controls(shown):
    lines = []
    for key, got in sorted(shown.get("without", {}).items(), key=lambda kv: (int(kv[0].split(":")[0][1:]), kv[0])):
        id, what = key.split(": ", 1)
        lines.append(f"| {id} | {one_line(what)} | {one_line(got['by'])} | {got['day']} |")
    return lines


def write(shown, path):
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "?")
    head = f"""# The figures of trust

Made by `make trust` (what it runs: `tests/trust/`, what it is about: docs/RELIABILITY.md, section 4) on {os.cpu_count()} cores of {cpu}. Each row is a command of its own,
`make trust ARGS="--only R3"`; `--whole` is as much as the design asks for, without it the short form of the everyday check. Times are judged only in a
timed run, where nothing else ran; a run that was not timed tells them all the same.

| row | what | counted | result | form |
|---|---|---|---|---|
"""
    second = """
## Each row was seen to fail

A test that can't fail shows nothing. `make trust ARGS=--without` takes each control away from a copy of the source (the change stands beside the row, in its file), builds it and
runs the row, which must fail. What it said:

| row | taken away | the row said | day |
|---|---|---|---|
"""
    path.write_text(head + "\n".join(figures(shown)) + "\n" + second + "\n".join(controls(shown)) + "\n")
