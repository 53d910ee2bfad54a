"""Where `weft` takes addresses and keys from: flags, profiles, environment, the configuration file."""

import json
import os
import stat

import pytest

from cli_fake import fake, weft  # noqa: F401

NONE = {"WEFT_URL": "", "WEFT_ADMIN_URL": "", "WEFT_API_KEY": "", "WEFT_ADMIN_KEY": ""}


@pytest.fixture
def home(tmp_path):
    (tmp_path / "weft").mkdir()
    return tmp_path


def write(home, text, mode=0o600):
    path = home / "weft/config"
    path.write_text(text)
    path.chmod(mode)
    return path


def run(fake, home, *args, stdin="", **env):
    return weft(fake, *args, stdin=stdin, env={**NONE, "XDG_CONFIG_HOME": str(home), **env})


def key_used(fake, home, *args, **env):
    fake.answers["GET", "/v1/adapters"] = (200, {"data": [], "has_more": False})
    got = run(fake, home, "adapter", "list", *args, **env)
    assert got.returncode == 0, got.stderr
    return fake.asked[-1].headers["Authorization"].removeprefix("Bearer ")


def test_flags_win_over_the_environment_and_that_over_the_file(fake, home):
    write(home, f"url = {fake.url}\nkey = file\n")
    assert key_used(fake, home) == "file"
    assert key_used(fake, home, WEFT_API_KEY="old") == "old"
    assert key_used(fake, home, WEFT_API_KEY="old", WEFT_KEY="env") == "env"
    assert key_used(fake, home, "--key", "flag", WEFT_KEY="env") == "flag"


def test_a_profile_is_chosen_by_flag_environment_and_file(fake, home):
    write(home, f"profile = b\nurl={fake.url}\n[a]\nurl = {fake.url} # here\nkey = \"of a\"\n\n[b]\nurl = {fake.url}\nkey=of-b\n")
    assert key_used(fake, home) == "of-b"
    assert key_used(fake, home, WEFT_PROFILE="a") == "of a"
    assert key_used(fake, home, "--profile", "a", WEFT_PROFILE="b") == "of a"


def test_a_named_profile_gets_no_key_of_the_environment(fake, home):
    write(home, f"[a]\nurl = {fake.url}\n")
    got = run(fake, home, "adapter", "list", "--profile", "a", WEFT_KEY="secret-of-elsewhere")
    assert got.returncode == 2 and "no key" in got.stderr and not fake.asked


@pytest.mark.parametrize("text,message", [("[a]\n", "no profile [x]"), ("url\n", ":1: not NAME = VALUE"), ("\n# c\npassword = 1\n", ":3: there are url")])
def test_a_file_that_is_wrong_is_told_with_its_line(fake, home, text, message):
    write(home, text)
    got = run(fake, home, "adapter", "list", "--profile", "x", WEFT_KEY="k")
    assert got.returncode == 2 and message in got.stderr and not fake.asked


@pytest.mark.parametrize("mode,warned", [(0o600, False), (0o640, True), (0o644, True)])
def test_a_file_with_keys_that_others_can_read_is_warned_about(fake, home, mode, warned):
    path = write(home, f"url = {fake.url}\nkey = k\n", mode)
    fake.answers["GET", "/v1/adapters"] = (200, {"data": [], "has_more": False})
    got = run(fake, home, "adapter", "list")
    assert got.returncode == 0 and (f"chmod 600 {path}" in got.stderr) == warned
    write(home, f"url = {fake.url}\n", mode)
    assert "chmod" not in run(fake, home, "adapter", "list", WEFT_KEY="k").stderr


def test_values_are_set_and_unset_and_the_rest_stays(fake, home):
    path = write(home, "# mine\nurl = http://a   # the first\n\n[prod]\n# keep\nurl = http://p\n[last]\nkey = x\n", 0o644)
    assert run(fake, home, "config", "set", "url", "http://b").returncode == 0
    assert run(fake, home, "config", "set", "admin-url", "http://c", "--profile", "prod").returncode == 0
    assert run(fake, home, "config", "set", "key", "--profile", "new", stdin="wft_secret\n").returncode == 0
    assert run(fake, home, "config", "unset", "key", "--profile", "last").returncode == 0
    assert path.read_text() == "# mine\nurl = http://b\n\n[prod]\n# keep\nurl = http://p\nadmin_url = http://c\n[last]\n[new]\nkey = wft_secret\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and os.listdir(home / "weft") == ["config"]
    assert run(fake, home, "config", "unset", "key").returncode == 5


def test_a_first_value_makes_the_file_for_its_owner_alone(fake, tmp_path):
    got = run(fake, tmp_path / "new", "config", "set", "admin_key", "wfa_k")
    path = tmp_path / "new/weft/config"
    assert got.returncode == 0 and path.read_text() == "admin_key = wfa_k\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_default_goes_before_the_sections(fake, home):
    path = write(home, "[prod]\nurl = http://p\n")
    assert run(fake, home, "config", "set", "profile", "prod").returncode == 0
    assert path.read_text() == "profile = prod\n[prod]\nurl = http://p\n"
    assert run(fake, home, "config", "get", "url").stdout == "http://p\n"


def test_show_hides_what_is_secret_and_get_does_not(fake, home):
    key = "wft_abcdefghijkl_" + "s" * 43 + "_checks"
    write(home, f"key = {key}\n[other]\n")
    got = run(fake, home, "config", "show")
    assert "wft_abcdefghijkl..." in got.stdout and "sss" not in got.stdout
    o = json.loads(run(fake, home, "config", "show", "--json").stdout)
    assert o["profiles"] == ["default", "other"] and o["url"] == "http://127.0.0.1:8080" and o["admin_key"] is None and "sss" not in o["key"]
    assert run(fake, home, "config", "get", "key").stdout == key + "\n"
    assert run(fake, home, "config", "get", "admin_key").returncode == 5


@pytest.mark.parametrize("args", [["set", "colour", "red"], ["set", "url", "a\nb"], ["set", "url", "x", "--profile", "a]b"], ["get", "colour"], ["unset", "url"]])
def test_what_is_no_setting_changes_nothing(fake, home, args):
    path = write(home, "# only\n")
    assert run(fake, home, "config", *args).returncode in (2, 5) and path.read_text() == "# only\n"


def test_the_path_is_said_and_can_be_given(fake, home, tmp_path):
    assert run(fake, home, "config", "path").stdout == f"{home}/weft/config\n"
    assert run(fake, home, "config", "path", WEFT_CONFIG="/x/y").stdout == "/x/y\n"
    assert run(fake, home, "config", "path", "--config", "/z", WEFT_CONFIG="/x/y").stdout == "/z\n"
    assert run(fake, home, "config", "path", HOME="/h", XDG_CONFIG_HOME="").stdout == "/h/.config/weft/config\n"
    assert run(fake, home, "adapter", "list", "--config", str(tmp_path / "none"), WEFT_KEY="k").returncode == 2
