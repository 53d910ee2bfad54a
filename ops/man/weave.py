"""Fills a man page's or a settings file's template with what the programs and the tables say of themselves, so that no option is described twice.

    weave.py BIN TEMPLATE      BIN is the folder of the built programs; the page goes to stdout

A line of the template that is nothing but one of these is replaced:

    @OPTIONS PROGRAM [VERB]@   the options that `PROGRAM [VERB] --help` lists
    @USES PROGRAM@             what it lists below them: the program's other uses
    @SETTINGS PROGRAM@         the rows of schema/PROGRAM_settings.def: type, default, bounds, environment, meaning
    @COMMANDS@                 every command of `weft help`, with its flags and examples
    @COMMON@, @END@            the flags of all commands; what `weft help` says at its end
    @DEFAULTS PROGRAM@         a settings file with every row, each explained and each commented out

and @VERSION@ and @DATE@ anywhere. A help text that does not look as expected ends this with an error: the build fails, not the page."""

import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
ROW = re.compile(r'^X\((\w+), (STR|INT|BOOL|SIZE), "((?:[^"\\]|\\.)*)", (-?\d+), (-?\d+), "(\w*)", "((?:[^"\\]|\\.)*)"\)$', re.M)
TYPES = {"STR": "text", "INT": "a number", "BOOL": "true or false", "SIZE": "bytes; k, m, g"}
CONF_WIDTH = 110


def need(fine, what):
    if not fine:
        sys.exit(f"weave.py: {what}")


def ask(bin_dir, *words):
    run = subprocess.run([bin_dir / words[0], *words[1:]], capture_output=True, text=True, timeout=60, env={**os.environ, "NO_COLOR": "1", "LC_ALL": "C"})
    need(run.returncode == 0 and run.stdout, f"{' '.join(words)} ended with {run.returncode}: {run.stderr}")
    return run.stdout


def roff(text):
    """Text as troff prints it: no escapes, no requests, dashes as they are typed."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.M)


def tagged(tag, text):
    return f".TP\n.B {tag}\n{roff(text)}\n"


def example(lines):
    width = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return ".RS 4\n.EX\n" + "\n".join(roff(line[width:]) or "\\&" for line in lines) + "\n.EE\n.RE\n"


def option(words):
    """`--name VALUE` with its name in bold."""
    name, _, value = words.partition(" ")
    return f"{roff(name)}" + (f" \\fI{roff(value)}\\fP" if value.strip() else "")


# --- weft-gateway, weft-engine ---

def split_help(text):
    """The options, and what follows them."""
    need(text.startswith("usage: "), "a help text begins otherwise")
    _, options, *rest = re.split(r"\n\n", text.strip("\n"))
    return options.split("\n"), "\n".join(rest).split("\n") if rest else []


def two_columns(line):
    found = re.fullmatch(r"  (\S.*?\S)(?:  +| (?=[^ ]*$))(\S.*)", line)
    need(found, f"a line of a help text has no two columns: {line!r}")
    return found.groups()


def options(bin_dir, *words):
    out = ""
    for line in split_help(ask(bin_dir, *words, "--help"))[0]:
        found = re.fullmatch(r"  (--[a-z0-9-]+(?: [A-Z]+)?) +(\S.*)", line)
        need(found, f"not an option: {line!r}")
        out += tagged(option(found.group(1)), found.group(2))
    return out


def uses(bin_dir, program):
    out = ""
    for line in split_help(ask(bin_dir, program, "--help"))[1]:
        words, _, text = line.strip().partition("  ")
        out += tagged(roff(words), text.strip() or "print the version")
    need(out, f"{program} lists no other uses")
    return out


def rows(program):
    path = TOP / f"schema/{program.removeprefix('weft-')}_settings.def"
    text = path.read_text()
    found = ROW.findall(text)
    need(found and len(found) == len(re.findall(r"^X\(", text, re.M)), f"{path} has rows that are not understood")
    return [(name, kind, deflt, int(least), int(most), env, meaning.replace('\\"', '"')) for name, kind, deflt, least, most, env, meaning in found]


def bounds(kind, least, most):
    if kind in ("INT", "SIZE"):
        return f"from {least} to {most}"
    return f"at most {most} bytes" if kind == "STR" and most else ""


def settings(_, program):
    out = ""
    for name, kind, deflt, least, most, env, meaning in rows(program):
        facts = [TYPES[kind], bounds(kind, least, most), f"default {deflt}" if deflt else "empty by default", f"environment {env}" if env else ""]
        out += tagged(roff(name), meaning) + ".br\n" + roff("(" + "; ".join(f for f in facts if f) + ")") + "\n"
    return out


def defaults(_, program):
    out = []
    for name, kind, deflt, least, most, env, meaning in rows(program):
        facts = [bounds(kind, least, most), f"environment {env}" if env else ""]
        text = "; ".join([meaning, *(f for f in facts if f)])
        value = f'"{deflt}"' if kind == "STR" and (not deflt or re.search(r'[ #"]', deflt)) else deflt
        out.append("\n".join(textwrap.wrap(text, CONF_WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False)) + f"\n#{name} = {value}\n")
    return "\n".join(out)


# --- weft ---

def sections(text):
    """A help text of `weft` as {title: lines}; what stands before the first title is under ''."""
    found, title = {"": []}, ""
    for line in text.strip("\n").split("\n"):
        if re.fullmatch(r"[A-Z][^:]*:", line):
            title = line[:-1]
            found[title] = []
        else:
            found[title].append(line)
    return found


def flags(lines):
    out = ""
    for line in lines:
        if line.strip():
            words, text = two_columns(line)
            out += tagged(option(words), text)
    return out


def commands(bin_dir):
    out = ""
    list_of = [line for line in ask(bin_dir, "weft", "help").split("\n\n")[1].split("\n") if line.startswith("  weft ")]
    need(len(list_of) > 20, "weft help lists no commands")
    for line in list_of:
        words = []
        for word in line.split()[1:]:
            if not re.fullmatch(r"[a-z][a-z-]*", word):
                break
            words.append(word)
        said = sections(ask(bin_dir, "weft", "help", *words))
        usage, meaning = said[""][0].removeprefix("usage: "), " ".join(said[""][1:]).strip()
        need(usage.startswith("weft " + " ".join(words)) and meaning, f"weft help {' '.join(words)} is not understood")
        out += f".SS {roff(usage)}\n{roff(meaning[0].upper() + meaning[1:])}.\n" + flags(said.get("Flags", []))
        if said.get("Examples"):
            out += ".PP\n" + example(said["Examples"])
    return out


def common(bin_dir):
    return flags(ask(bin_dir, "weft", "help").split("For every command (and weft COMMAND --help says more):\n")[1].split("\n\n")[0].split("\n"))


def the_end(bin_dir):
    return ".PP\n".join(roff(part) + "\n" for part in ask(bin_dir, "weft", "help").strip().split("\n\n")[-2:])


FILL = {"OPTIONS": options, "USES": uses, "SETTINGS": settings, "DEFAULTS": defaults, "COMMANDS": commands, "COMMON": common, "END": the_end}


def main():
    bin_dir, template = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    version = re.search(r'WEFT_VERSION "([^"]+)"', (TOP / "base/version.h").read_text()).group(1)
    when = int(os.environ.get("SOURCE_DATE_EPOCH", (TOP / "base/version.h").stat().st_mtime))
    for line in template.read_text().splitlines():
        found = re.fullmatch(r"@([A-Z]+)((?: [a-z-]+)*)@", line)
        if found:
            sys.stdout.write(FILL[found.group(1)](bin_dir, *found.group(2).split()))
        else:
            print(line.replace("@VERSION@", version).replace("@DATE@", time.strftime("%Y-%m-%d", time.gmtime(when))))


main()
