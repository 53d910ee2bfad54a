"""What `make install` puts below DESTDIR, and that Debian's packages take all of it: programs, man pages that render without a warning, settings files with every row of
the tables that the programs accept. The packages themselves are built and tried by `make deb-check` (tests/packages)."""

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DEBIAN = TOP / "ops/debian"
ROW = re.compile(r'^X\((\w+), \w+, "(.*?)", .*?, "(?:\w*)", "(.*)"\)$', re.M)
PAGES = ["man1/weft.1", "man5/weft-engine.conf.5", "man5/weft-gateway.conf.5", "man8/weft-engine.8", "man8/weft-gateway.8"]


def run(*words, **more):
    return subprocess.run(words, capture_output=True, text=True, timeout=600, **more)


def install(into, **variables):
    made = run("make", "-s", "-C", TOP, "install", f"DESTDIR={into}", *(f"{k}={v}" for k, v in variables.items()))
    assert made.returncode == 0, made.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    into = tmp_path_factory.mktemp("root")
    install(into, PREFIX="/usr")
    return into


def rows(program):
    return ROW.findall((TOP / f"schema/{program}_settings.def").read_text())


def page(root, name):
    """A man page as a terminal shows it, on one line."""
    shown = run("groff", "-man", "-Tascii", "-P-cbou", root / "usr/share/man" / name).stdout
    return re.sub(r"\s+", " ", re.sub(r"-\n +", "-", shown))


def test_every_program_has_its_man_page_its_settings_and_its_units(root):
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    wanted = {"usr/bin/weft", "usr/bin/weft-gateway", "usr/bin/weft-engine", "etc/weft/gateway.conf", "etc/weft/engine-default.conf", "etc/weft/standby.env", "usr/lib/sysusers.d/weft.conf",
              "usr/lib/tmpfiles.d/weft.conf", *(f"usr/share/man/{p}" for p in PAGES)}
    wanted |= {f"usr/lib/systemd/system/{p.name}" for p in [*(TOP / "ops/systemd").glob("*.socket"), *(TOP / "ops/systemd").glob("*.service")]}
    assert wanted <= files
    named = {(n, s) for u in (root / "usr/lib/systemd/system").iterdir() for n, s in re.findall(r"man:([\w.-]+)\((\d)\)", u.read_text())}
    assert named and {f"man{s}/{n}.{s}" for n, s in named} <= set(PAGES)


@pytest.mark.skipif(not shutil.which("groff") or not shutil.which("mandoc"), reason="no groff or no mandoc here")
@pytest.mark.parametrize("name", PAGES)
def test_a_man_page_renders_without_a_warning(root, name):
    path = root / "usr/share/man" / name
    shown = run("groff", "-man", "-Tutf8", "-ww", "-rF0", path)
    assert (shown.returncode, shown.stderr) == (0, "") and "@" not in re.sub(r"\S@(\S|$)|@VERSION|@default|@NAME|@FILE", "", page(root, name))
    assert run("mandoc", "-Tlint", "-Wwarning", path).stdout == ""


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff here")
def test_the_pages_name_every_setting_option_and_command(root):
    for program in ("gateway", "engine"):
        conf, options = page(root, f"man5/weft-{program}.conf.5"), page(root, f"man8/weft-{program}.8")
        for name, _, meaning in rows(program):
            assert f" {name} " in conf and f" --{name.replace('_', '-')} " in options, name
            assert meaning.split(" ")[0] in conf
    said = page(root, "man1/weft.1")
    commands = re.findall(r"^\| `(weft [a-z -]+?)(?: ?[\[A-Z].*?)?` \|", (TOP / "docs/CLI.md").read_text(), re.M)
    assert len(commands) > 90
    assert [c for c in commands if f" {c} " not in said] == []


@pytest.mark.parametrize("program, name", [("gateway", "gateway.conf"), ("engine", "engine-default.conf")])
def test_the_settings_file_has_every_row_explained_and_as_it_is_by_default(root, program, name):
    text = (root / "etc/weft" / name).read_text()
    found = dict(re.findall(r"^#(\w+) = (.*)$", text, re.M))
    assert list(found) == [r[0] for r in rows(program)]
    assert {k: v.strip('"') for k, v in found.items()} == {n: d for n, d, _ in rows(program)}
    told = re.sub(r"\n# ", " ", text)
    for field, _, meaning in rows(program):
        assert f"\n# {meaning}" in "\n" + told or f" {meaning}" in told, field
    assert [line for line in text.splitlines() if line and not line.startswith("#")] == []


@pytest.mark.parametrize("every", [False, True])
def test_the_programs_accept_the_settings_file(root, tmp_path, every):
    def settings(name):
        text = (root / "etc/weft" / name).read_text()
        (tmp_path / name).write_text(re.sub(r"^#(\w+ = )", r"\1", text, flags=re.M) if every else text)
        return tmp_path / name

    said = run(root / "usr/bin/weft-gateway", "admin-key", "--config", settings("gateway.conf"), "--data", tmp_path / "data", env={})
    assert said.returncode == 0 and said.stdout.startswith("wfa_"), said.stderr
    said = run(root / "usr/bin/weft-engine", "serve", "--config", settings("engine-default.conf"), env={})
    assert (said.returncode, said.stderr) == (2, "weft-engine: --model is missing\n")


def test_settings_that_are_there_already_stay(root, tmp_path):
    (tmp_path / "etc/weft").mkdir(parents=True)
    (tmp_path / "etc/weft/gateway.conf").write_text("model = /mine\n")
    install(tmp_path, PREFIX="/usr")
    assert (tmp_path / "etc/weft/gateway.conf").read_text() == "model = /mine\n"
    assert (tmp_path / "etc/weft/engine-default.conf").exists()


def test_another_prefix_has_its_own_settings_and_the_units_know_where(tmp_path):
    install(tmp_path, PREFIX="/opt/weft")
    units = tmp_path / "opt/weft/lib/systemd/system"
    for unit, name in {"weft-gateway.service": "gateway.conf", "weft-engine@.service": "engine-%i.conf"}.items():
        assert re.search(rf"^ExecStart=/opt/weft/bin/weft-\S+ .*--config /opt/weft/etc/weft/{name}( |$)", (units / unit).read_text(), re.M)
    assert (tmp_path / "opt/weft/etc/weft/gateway.conf").exists() and not (tmp_path / "etc").exists()


def test_the_engine_finds_an_installed_backend(root, tmp_path):
    shutil.copytree(root / "usr/bin", tmp_path / "bin")
    (tmp_path / "lib/weft").mkdir(parents=True)
    words = [tmp_path / "bin/weft-engine", "serve", "--device", "cuda", "--model", TOP / "tests/golden/families/llama3", "--socket", tmp_path / "s", "--orphan-s", "1"]
    assert f"no backend for devices: {tmp_path}/bin/weft-cuda.so" in run(*words).stderr
    (tmp_path / "lib/weft/weft-cuda.so").write_text("not a library")
    assert f"no backend for devices: {tmp_path}/bin/../lib/weft/weft-cuda.so" in run(*words).stderr


def test_the_packages_take_all_that_is_installed_and_nothing_that_is_not(root):
    there = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    there = {re.sub("^usr/lib/systemd", "lib/systemd", f) for f in there}  # ops/debian/rules moves them
    taken = set()
    for path in DEBIAN.glob("*.install"):
        for line in path.read_text().splitlines():
            what = line.split()[0]
            found = fnmatch.filter(there, what)
            assert found or (TOP / what).exists() or what == "usr/lib/weft/weft-cuda.so", f"{path.name}: {what}"
            taken |= set(found)
    assert there - taken - {"usr/lib/weft/weft-cuda.so"} == set()
    for path in DEBIAN.glob("*.docs"):
        assert [d for d in path.read_text().split() if not (TOP / d).exists()] == []


def test_the_packages_are_built_of_what_the_set_up_installs():
    control, setup = (DEBIAN / "control").read_text(), (TOP / "ops/setup.sh").read_text()
    wanted = set(re.findall(r"[a-z][a-z0-9.+-]+", control.split("Build-Depends:")[1].split("\n\n")[0].replace("(= 13)", "")))
    installed = set(re.search(r'build_packages="(.*?)"', setup, re.S).group(1).split())
    libraries = {p for p in installed if re.match(r"lib(?!c6|cmocka)|nettle|zlib", p)}
    assert wanted - {"debhelper-compat", "dh-sequence-installsysusers", "python3"} == libraries


def test_the_guide_has_blocks_that_a_shell_reads(tmp_path):
    blocks = re.findall(r"^```sh[^\n]*\n(.*?)^```$", (TOP / "docs/OPERATOR.md").read_text(), re.M | re.S)
    assert len(blocks) >= 10
    for block in blocks:
        assert run("bash", "-n", "-c", block).returncode == 0, block
