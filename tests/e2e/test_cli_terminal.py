"""`weft` on a terminal, and to a shell: widths, colours, progress, `top`, completion, help."""

import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from cli_fake import TOP, WEFT, env_of, fake, on_a_terminal, weft  # noqa: F401

TENANTS = [{"name": "acme", "class": "batch"}, {"name": "日本語", "class": "normal"}, {"name": "e\u0301te\u0301", "class": "normal"}]
ADAPTERS = [{"name": "sql", "state": "ready", "rank": 8}, {"name": "bad", "state": "failed", "rank": 8}]


def shown(text):
    return re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", text)


def test_columns_align_by_what_a_terminal_shows(fake):
    fake.answers["GET", "/admin/v1/tenants"] = (200, {"data": TENANTS, "has_more": False})
    lines = weft(fake, "tenant", "list").stdout.splitlines()
    assert lines[1].startswith("acme    batch") and lines[2].startswith("日本語  normal") and lines[3].startswith("e\u0301te\u0301     normal")


@pytest.mark.parametrize("env,coloured", [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(fake, tmp_path, env, coloured):
    fake.answers["GET", "/v1/adapters"] = (200, {"data": ADAPTERS, "has_more": False})
    seen = on_a_terminal([WEFT, "adapter", "list"], env_of(fake, **{"TERM": "xterm", **env}), tmp_path)
    assert (b"\x1b[32mready\x1b[0m" in seen and b"\x1b[31mfailed" in seen) == coloured and (b"\x1b" in seen) == coloured
    assert [line.split()[:2] for line in shown(seen).splitlines()[1:]] == [[b"sql", b"ready"], [b"bad", b"failed"]]


def test_what_a_server_says_steers_no_terminal_by_way_of_stderr(fake):
    fake.answers["GET", "/v1/invoice"] = (200, {"month": "2026-10\x1b[2J\x07", "currency": "eur\x9b0m", "lines": [], "total_nano": 0})
    got = weft(fake, "invoice")
    assert got.returncode == 0 and got.stderr == "weft: 2026-10?[2J?, eur??0m; not final\n"


def test_there_is_no_colour_in_a_pipe(fake):
    fake.answers["GET", "/v1/adapters"] = (200, {"data": ADAPTERS, "has_more": False})
    assert "\x1b" not in weft(fake, "adapter", "list", env={"TERM": "xterm"}).stdout


# --- top ---

TOP_ANSWER = {
    "object": "top", "time": 1763719200.5, "window_s": 10,
    "engines": [{"name": "a", "kind": "weft", "base": "smol", "capacity": 64, "state": "enabled",
                 "status": {"state": "ready", "why": "", "in_flight": 2, "running": 2, "waiting": 0, "adapters": 1, "requests": 10, "lost": 0}},
                {"name": "b", "kind": "vllm", "base": "smol", "capacity": 64, "state": "enabled",
                 "status": {"state": "ejected", "why": "no answer", "in_flight": 0, "running": 0, "waiting": 7, "adapters": 0, "requests": 3, "lost": 3}}],
    "tenants": [{"tenant": "quiet", "in_flight": 0, "tokens_per_s": 0.5}, {"tenant": "acme", "in_flight": 2, "tokens_per_s": 99.5}],
    "adapters": [{"tenant": "acme", "adapter": "sql", "version": 2, "digest": "ab" * 32, "in_flight": 2, "tokens_per_s": 99.5,
                  "engines": [{"engine": "a", "in_flight": 2, "resident": True}, {"engine": "b", "in_flight": 0, "resident": True}]}]}


@pytest.fixture
def top(fake):
    fake.answers["GET", "/admin/v1/top"] = (200, TOP_ANSWER)
    return fake


def test_top_once_is_plain_text_of_engines_tenants_and_where_adapters_are(top):
    got = weft(top, "top", "--once")
    assert got.returncode == 0 and "\x1b" not in got.stdout
    lines = got.stdout.splitlines()
    assert "in flight 2" in lines[0] and "tokens/s 100.0" in lines[0] and "engines ready 1 of 2" in lines[0]
    rows = [line.split() for line in lines if line]
    order = [r[0] for r in rows]
    assert order.index("a") < order.index("b") and order.index("acme") < order.index("quiet")
    assert next(r for r in rows if r[0] == "b")[3] == "ejected"
    assert next(r for r in rows if r[0] == "acme/sql@2")[1:] == ["2", "99.5", "abababababab", "a", "(2),", "b"]


@pytest.mark.parametrize("sort,first", [("queue", "b"), ("in_flight", "a"), ("name", "a"), ("tokens", "a")])
def test_top_sorts(top, sort, first):
    rows = [line.split() for line in weft(top, "top", "--once", "--sort", sort).stdout.splitlines() if line]
    assert next(r[0] for r in rows if r[0] in "ab") == first


def test_top_for_scripts_is_the_answer_as_json(top):
    assert json.loads(weft(top, "top", "--json").stdout) == TOP_ANSWER
    assert len(weft(top, "top", "--json", "--count", "2", "--interval", "1").stdout.splitlines()) == 2
    assert weft(top, "top", "--sort", "colour").returncode == 2
    top.answers["GET", "/admin/v1/top"] = (401, {"error": {"message": "no"}})
    assert weft(top, "top", "--once").returncode == 4


class Terminal:
    def __init__(self, command, env, rows=24, columns=80):
        try:
            self.pid, self.fd = pty.fork()
        except OSError:
            pytest.skip("no pseudo terminals here")
        if self.pid == 0:
            os.execve(command[0], command, env)
        self.size(rows, columns)
        self.seen = b""

    def size(self, rows, columns):
        import fcntl
        import termios
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def until(self, what, seconds=20):
        end = time.time() + seconds
        while what not in self.seen:
            assert time.time() < end, self.seen[-2000:]
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    break
        assert what in self.seen, self.seen[-2000:]

    def press(self, key):
        self.seen = b""
        os.write(self.fd, key)

    def end(self):
        while True:
            try:
                piece = os.read(self.fd, 65536)
            except OSError:
                break
            if not piece:
                break
            self.seen += piece
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_top_is_live_on_a_terminal_and_gives_it_back(top):
    t = Terminal([WEFT, "top", "--interval", "60"], env_of(top, TERM="xterm"))
    t.until(b"\x1b[?1049h")
    t.until(b"acme/sql@2")
    t.press(b"s")
    t.until(b"by tokens")
    t.press(b"p")
    t.until(b"paused")
    t.press(b"p")
    t.until(b"by tokens  in flight")
    busy = dict(TOP_ANSWER, tenants=[{"tenant": "acme", "in_flight": 2, "tokens_per_s": 200}])
    top.answers["GET", "/admin/v1/top"] = (200, busy)
    t.press(b" ")
    t.until(b"tokens/s 200.0")
    assert len(top.asked) == 2
    t.press(b"")
    t.size(4, 30)  # the kernel tells it
    t.until(b"by tok\x1b")
    t.until(b"\x1b[J")
    frame = t.seen.split(b"\x1b[H")[-1]
    lines = shown(frame).replace(b"\r", b"").split(b"\n")
    assert len([x for x in lines if x]) <= 3 and all(len(x) <= 30 for x in lines)
    t.press(b"q")
    assert t.end() == 0 and t.seen.endswith(b"\x1b[?25h\x1b[?1049l")


def test_top_says_that_the_gateway_is_away_and_goes_on(top):
    t = Terminal([WEFT, "top", "--interval", "60"], env_of(top, TERM="xterm"))
    t.until(b"acme/sql@2")
    top.answers["GET", "/admin/v1/top"] = (503, {"error": {"message": "x"}})
    t.press(b" ")
    t.until(b"answers 503")
    top.answers["GET", "/admin/v1/top"] = (200, TOP_ANSWER)
    t.press(b" ")
    t.until(b"acme/sql@2")
    os.kill(t.pid, signal.SIGTERM)
    assert t.end() == 0 and t.seen.endswith(b"\x1b[?25h\x1b[?1049l")


def test_an_upload_shows_its_progress_on_a_terminal_only(fake, tmp_path):
    fake.answers["POST", "/v1/adapters"] = (201, {"name": "sql", "version": 1, "state": "ready"})
    t = Terminal([WEFT, "adapter", "push", "sql", str(TOP / "ops/demo/sql")], env_of(fake, TERM="xterm"))
    t.until(b"100 % of 3.7 MB")
    assert t.end() == 0
    assert "%" not in weft(fake, "adapter", "push", "sql", str(TOP / "ops/demo/sql")).stderr


# --- completion ---


@pytest.fixture
def named(fake):
    def names(*rows):
        return 200, {"data": [{"name": n, "id": n, "state": "ready"} for n in rows], "has_more": False}

    fake.answers["GET", "/admin/v1/tenants"] = names("acme", "apex", "zeta")
    fake.answers["GET", "/admin/v1/engines"] = names("local", "remote")
    fake.answers["GET", "/v1/adapters"] = names("sql", "sequel", "triage")
    fake.answers["GET", "/v1/aliases"] = names("chat")
    fake.answers["GET", "/v1/models"] = names("sql", "smol")
    fake.answers["GET", "/v1/adapters/sql"] = (200, {"versions": [{"version": 1, "state": "ready"}, {"version": 2, "state": "failed"}]})
    return fake


@pytest.mark.parametrize("words,found", [
    (["ten"], {"tenant"}), (["tenant", "s"], {"show", "set"}), (["tenant", "show", "a"], {"acme", "apex"}),
    (["adapter", "show", "s"], {"sql", "sequel"}), (["adapter", "pin", "sql@"], {"sql@1", "sql@2"}), (["alias", "set", ""], {"chat"}),
    (["alias", "set", "chat", "sql@2,tr"], {"sql@2,triage"}), (["engine", "drain", ""], {"local", "remote"}), (["chat", "--model", "s"], {"sql", "smol"}),
    (["chat", "--model=sm"], {"--model=smol"}), (["key", "list", "--ten"], {"--tenant"}), (["key", "create", "--tenant", "z"], {"zeta"}),
    (["key", "create", "--role", ""], {"admin", "writer", "inference", "billing", "viewer", "backup"}), (["completion", ""], {"bash", "zsh", "fish"}),
    (["adapter", "push", "x", ""], {":files"}), (["engine", "add", "b", "--secret-file", ""], {":files"}), (["limit", "set", "tokens_per_m"],
     {"tokens_per_minute=", "tokens_per_month=", "tokens_per_month_soft="}), (["frobnicate", "x"], set()), (["tenant", "show", "acme", ""], set()),
    (["config", "set", "u"], {"url"}), (["help", ""], set()),
])
def test_completion_knows_commands_flags_and_names(named, words, found):
    got = weft(named, "complete", "--", *words)
    assert got.returncode == 0 and got.stderr == ""
    assert {line.split("\t")[0] for line in got.stdout.splitlines()} == found


def test_completion_is_quiet_and_quick_where_nobody_answers(fake):
    began = time.time()
    got = weft(fake, "complete", "--", "tenant", "show", "", env={"WEFT_ADMIN_URL": "http://127.0.0.1:1"})
    assert (got.returncode, got.stdout, got.stderr) == (0, "", "") and time.time() - began < 5
    got = weft(fake, "complete", "--", "tenant", "show", "", env={"WEFT_ADMIN_KEY": ""})
    assert (got.returncode, got.stdout, got.stderr) == (0, "", "")


@pytest.mark.parametrize("line,replies", [
    ("weft ten", ["tenant"]), ("weft tenant show a", ["acme", "apex"]), ("weft adapter pin sql@", ["1", "2"]), ("weft chat --model=sm", ["smol"]),
    ("weft alias set chat sql@2,tr", ["2,triage"]), ("weft tenant ", ["create", "list", "show", "set", "disable", "enable"])])
def test_bash_completes_behind_its_word_breaks(named, line, replies):
    script = (f'PATH={Path(WEFT).parent}:$PATH; source <(weft completion bash); COMP_LINE=$1; COMP_POINT=${{#1}}; shift; COMP_WORDS=("$@");'
              ' COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _weft; printf "%s\\n" "${COMPREPLY[@]}"')
    words = [w for w in re.split(r"([=@:])| ", line) if w]  # as COMP_WORDBREAKS does
    if line.endswith(" "):
        words.append("")
    got = subprocess.run(["bash", "-c", script, "bash", line, *words], capture_output=True, text=True, env=env_of(named), timeout=60)
    assert got.stderr == "" and got.stdout.split() == replies


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(fake, shell):
    got = weft(fake, "completion", shell)
    assert got.returncode == 0 and "weft complete -- " in got.stdout
    assert weft(fake, "completion", "sh").returncode == 2


@pytest.mark.parametrize("shell", [s for s in ("bash", "zsh", "fish") if shutil.which(s)])
def test_each_shell_that_is_here_takes_its_script(named, shell, tmp_path):
    script = tmp_path / "script"
    script.write_text(weft(named, "completion", shell).stdout)
    got = subprocess.run([shell, "-n", script], capture_output=True, text=True, timeout=60)
    assert (got.returncode, got.stderr) == (0, "")
    if shell == "fish":
        got = subprocess.run([shell, "-c", f'source {script}; complete -C "weft ad"'], capture_output=True, text=True, timeout=60,
                             env={**env_of(named), "PATH": f"{Path(WEFT).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)})
        assert got.stdout.split() == ["adapter", "admin-key"], got


# --- help ---


def commands(fake):
    return [line.split("weft ")[1] for line in weft(fake, "help").stdout.splitlines() if line.startswith("  weft ")]


def test_every_command_has_help_of_its_own_with_its_flags(fake):
    names = commands(fake)
    assert len(names) > 60
    for line in names:
        words = [w for w in line.split() if re.fullmatch("[a-z][a-z-]*", w)]
        got = weft(fake, *words, "--help")
        assert got.returncode == 0 and got.stdout.startswith("usage: weft " + " ".join(words)), words
        assert got.stdout == weft(fake, "help", *words).stdout
    assert not fake.asked


def test_the_reference_lists_every_command(fake):
    text = (TOP / "docs/CLI.md").read_text()
    for line in commands(fake):
        usage = re.split(r" (?:--|\[FLAGS\])", line)[0]
        assert f"| `weft {usage}` |" in text, usage


def test_help_says_what_each_exit_status_means(fake):
    assert re.search(r"0 done, 1 .* 8 not ready", weft(fake, "help").stdout, re.S)
    assert weft(fake, "--version").stdout.startswith("weft ")
