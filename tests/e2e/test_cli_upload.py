"""`weft adapter push --resume`, import, wait: a gateway that takes parts, loses connections and takes its time."""

import base64
import hashlib
import json
import re
import subprocess

import pytest

from cli_fake import WEFT, env_of, fake, weft  # noqa: F401

MB = 1 << 20


class Parts:
    """Uploads in parts as the gateway keeps them; lose: how many PUTs are answered 503 after `lose_after` good ones."""

    def __init__(self, fake):
        self.files, self.puts, self.uploads, self.completed = {}, [], 0, 0
        self.lose_after, self.lose, self.state, self.busy = None, 0, "open", 0
        fake.answers["POST", "/v1/adapters/sql/uploads"] = self.begin
        self.fake = fake

    def object(self):
        received = {n: {"received": len(self.files.get(n, b"")), "total": None, "sha256": None} for n in ("config", "weights")}
        return {"object": "adapter.upload", "id": f"0198-{self.uploads}", "adapter": "sql", "version": 1, "state": self.state, "files": received}

    def begin(self, asked):
        self.uploads += 1
        self.files, self.state = {}, "open"
        here = f"/v1/adapters/sql/uploads/0198-{self.uploads}"
        self.fake.answers["GET", here] = lambda a: (200, self.object())
        self.fake.answers["POST", here + "/complete"] = self.complete
        for name in ("config", "weights"):
            self.fake.answers["PUT", f"{here}/{name}"] = self.put
        return 201, self.object()

    def put(self, asked):
        if self.lose_after is not None and len(self.puts) >= self.lose_after and self.lose:
            self.lose -= 1
            return 503, {"error": {"message": "gone"}}
        name = asked.path.rsplit("/", 1)[1]
        first, last, total = map(int, re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", asked.headers["Content-Range"]).groups())
        digest = "sha-256=:" + base64.b64encode(bytes.fromhex(asked.digest)).decode() + ":"
        assert asked.headers["Content-Digest"] == digest and last - first + 1 == asked.length <= 8 * MB
        assert first == len(self.files.get(name, b""))
        self.files[name] = self.files.get(name, b"") + asked.body
        self.puts.append((name, first, last, total))
        if len(self.files[name]) == total:
            whole = base64.b64encode(hashlib.sha256(self.files[name]).digest()).decode()
            assert asked.headers["Repr-Digest"] == f"sha-256=:{whole}:"
        return 200, self.object()

    def complete(self, asked):
        if self.busy:
            self.busy -= 1
            return 409, {"error": {"message": "another request works on this upload"}}
        self.completed += 1
        self.state = "done"
        return 201, {"object": "adapter.version", "name": "sql", "version": 1, "state": "ready", "rank": 8}


@pytest.fixture
def parts(fake):
    return Parts(fake)


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "lora"
    where.mkdir()
    (where / "adapter_config.json").write_text('{"r": 8}')
    (where / "adapter_model.safetensors").write_bytes(bytes(i * 7 % 251 for i in range(1000)) * 20000)  # 20 MB
    return where


def push(fake, folder, *args, **env):
    return weft(fake, "adapter", "push", "sql", str(folder), "--resume", *args, env={"XDG_STATE_HOME": str(folder.parent / "state"), **env})


def test_a_push_in_parts_arrives_whole(fake, parts, folder):
    got = push(fake, folder, "--description", "x")
    assert got.returncode == 0, got.stderr
    assert "ready" in got.stdout and parts.completed == 1
    assert parts.files == {"config": b'{"r": 8}', "weights": (folder / "adapter_model.safetensors").read_bytes()}
    assert [p[1] for p in parts.puts] == [0, 0, 8 * MB, 16 * MB] and fake.asked[0].json == {"description": "x"}
    assert not list((folder.parent / "state/weft/uploads").iterdir())


def test_a_push_that_broke_off_goes_on_where_it_ended(fake, parts, folder):
    parts.lose_after, parts.lose = 2, 100
    got = push(fake, folder)
    assert got.returncode == 8 and "the same command goes on" in got.stderr
    parts.lose = 0
    got = push(fake, folder)
    assert got.returncode == 0 and "going on with upload 0198-1" in got.stderr
    assert parts.uploads == 1 and [p[1] for p in parts.puts] == [0, 0, 8 * MB, 16 * MB]
    assert parts.files["weights"] == (folder / "adapter_model.safetensors").read_bytes()


def test_a_short_loss_is_not_noticed(fake, parts, folder):
    parts.lose_after, parts.lose = 2, 1
    got = push(fake, folder)
    assert got.returncode == 0 and got.stderr == "" and parts.completed == 1


def test_a_gateway_that_is_not_done_with_the_last_part_is_asked_again(fake, parts, folder):
    parts.busy = 2
    got = push(fake, folder)
    assert got.returncode == 0 and got.stderr == "" and parts.completed == 1


def test_a_gateway_that_loses_what_it_has_again_and_again_is_given_up(fake, parts, folder):
    kept = parts.put

    def put(asked):
        answer = kept(asked)
        if len(parts.files["config"]) and len(parts.files.get("weights", b"")) > 8 * MB:
            parts.files["weights"] = b""  # the next part is the first one again
            return 200, parts.object()
        return answer

    parts.put = put
    p = push(fake, folder)
    assert p.returncode == 1 and "lost parts of adapter_model.safetensors 3 times" in p.stderr
    assert len(parts.puts) == 1 + 3 * 2 and not parts.completed


def test_changed_files_begin_anew(fake, parts, folder):
    parts.lose_after, parts.lose = 2, 100
    assert push(fake, folder).returncode == 8
    parts.lose = 0
    (folder / "adapter_config.json").write_text('{"r": 9}')
    assert push(fake, folder).returncode == 0 and parts.uploads == 2 and parts.files["config"] == b'{"r": 9}'


def test_an_upload_that_expired_begins_anew(fake, parts, folder):
    parts.lose_after, parts.lose = 2, 100
    assert push(fake, folder).returncode == 8
    parts.lose = 0
    fake.answers["GET", "/v1/adapters/sql/uploads/0198-1"] = (404, {"error": {"message": "There is no upload."}})
    got = push(fake, folder)
    assert got.returncode == 0 and got.stderr == "" and parts.uploads == 2


def test_an_upload_that_is_whole_is_only_completed(fake, parts, folder):
    assert push(fake, folder).returncode == 0
    puts = len(parts.puts)
    parts.state, parts.uploads = "validating", 1
    fake.answers["POST", "/v1/adapters/sql/uploads/0198-1/complete"] = (500, {"error": {"message": "crash"}})
    parts.begin = None
    state = folder.parent / "state/weft/uploads"
    fake.answers["POST", "/v1/adapters/sql/uploads"] = (201, parts.object() | {"files": {n: {"received": (folder / f).stat().st_size} for n, f in
                                                        (("config", "adapter_config.json"), ("weights", "adapter_model.safetensors"))}})
    assert push(fake, folder).returncode == 1 and len(list(state.iterdir())) == 1  # to be completed again
    fake.answers["POST", "/v1/adapters/sql/uploads/0198-1/complete"] = parts.complete
    assert push(fake, folder).returncode == 0 and len(parts.puts) == puts


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_folder_that_lacks_a_file_begins_no_upload(fake, parts, folder, missing):
    (folder / missing).unlink()
    got = push(fake, folder)
    assert got.returncode == 2 and missing in got.stderr and not fake.asked
    (folder / missing).write_bytes(b"")
    assert "is empty" in push(fake, folder).stderr


def test_a_refusal_ends_the_push_at_once_and_is_told_once(fake, parts, folder):
    parts.lose_after = 0
    fake.answers["PUT", "/v1/adapters/sql/uploads/0198-1/config"] = None
    begin = parts.begin

    def refused(asked):
        out = begin(asked)
        fake.answers["PUT", "/v1/adapters/sql/uploads/0198-1/config"] = (413, {"error": {"message": "too large"}})
        return out

    fake.answers["POST", "/v1/adapters/sql/uploads"] = refused
    got = push(fake, folder)
    assert got.returncode == 1 and got.stderr.count("too large (413)") == 1


# --- waiting ---


def versions(*states):
    return {"name": "sql", "state": states[-1], "versions": [{"name": "sql", "version": i + 1, "state": s, "reason": "nan in x"} for i, s in enumerate(states)]}


@pytest.mark.parametrize("end,status", [("ready", 0), ("failed", 1), ("quarantined", 1)])
def test_an_import_is_waited_for_until_it_is_ready_or_has_failed(fake, end, status):
    answers = [(404, {"error": {"message": "none"}}), (200, versions("uploading")), (200, versions("validating")), (200, versions(end))]
    fake.answers["POST", "/v1/adapters/sql/import"] = (202, {"object": "adapter.upload", "id": "u", "version": 1, "state": "open"})
    fake.answers["GET", "/v1/adapters/sql"] = lambda a: answers.pop(0)
    got = weft(fake, "adapter", "import", "sql", "https://h/x/", "--sha256", "ab", "--wait")
    assert got.returncode == status and end in got.stdout and not answers
    assert fake.asked[0].json == {"url": "https://h/x/", "sha256": "ab"}


def test_an_import_of_two_urls(fake):
    fake.answers["POST", "/v1/adapters/sql/import"] = (202, {"object": "adapter.upload", "id": "u", "state": "open"})
    assert weft(fake, "adapter", "import", "sql", "--config-url", "https://h/c", "--weights-url", "https://h/w").returncode == 0
    assert fake.asked[0].json == {"config_url": "https://h/c", "weights_url": "https://h/w"}
    assert weft(fake, "adapter", "import", "sql").returncode == 2
    assert weft(fake, "adapter", "import", "sql", "--config-url", "https://h/c").returncode == 2
    assert len(fake.asked) == 1


def test_waiting_has_an_end(fake):
    fake.answers["GET", "/v1/adapters/sql"] = (200, versions("validating"))
    got = weft(fake, "adapter", "wait", "sql", "--timeout", "1s")
    assert got.returncode == 8 and "weft adapter wait sql" in got.stderr


def test_waiting_for_what_is_not_there_ends_at_once(fake):
    fake.answers["GET", "/v1/adapters/sql"] = (404, {"error": {"message": "none"}})
    assert weft(fake, "adapter", "wait", "sql").returncode == 5 and len(fake.asked) == 1


def test_a_named_version_is_waited_for_and_not_a_newer_one(fake):
    fake.answers["GET", "/v1/adapters/sql"] = (200, versions("ready", "validating"))
    got = weft(fake, "adapter", "wait", "sql@1", "--json")
    assert got.returncode == 0 and json.loads(got.stdout)["version"] == 1


def test_a_push_that_is_validated_later_is_waited_for(fake, folder):
    fake.answers["POST", "/v1/adapters"] = (202, {"name": "sql", "version": 1, "state": "validating"})
    fake.answers["GET", "/v1/adapters/sql"] = (200, versions("ready"))
    assert weft(fake, "adapter", "push", "sql", str(folder)).returncode == 0 and fake.asked[1].method == "GET"
    got = weft(fake, "adapter", "push", "sql", str(folder), "--no-wait")
    assert got.returncode == 0 and "validating" in got.stdout and fake.asked[2].query == {} and len(fake.asked) == 3


def test_a_validation_keeps_nothing_and_says_what_is_wrong(fake, folder):
    fake.answers["POST", "/v1/adapters:validate"] = (200, {"object": "adapter.validation", "valid": False, "error": {"code": "adapter_invalid", "message": "rank 900"}})
    got = weft(fake, "adapter", "validate", str(folder))
    assert got.returncode == 1 and "rank 900" in got.stdout
    assert b'name="name"' not in fake.asked[0].body


def test_a_large_file_is_pushed_in_parts_in_little_memory(fake, parts, folder):
    with open(folder / "adapter_model.safetensors", "wb") as f:
        f.truncate(40 * MB)
    import resource
    got = subprocess.run([WEFT, "adapter", "push", "sql", str(folder), "--resume"], capture_output=True, text=True, timeout=60,
                         env=env_of(fake, XDG_STATE_HOME=str(folder.parent / "state")),
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (200 * MB, 200 * MB)))
    assert got.returncode == 0, got.stderr
