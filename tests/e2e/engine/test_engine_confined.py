"""An engine on the CPU gives up what it does not need: files, sockets, processes, core files. It serves all the same, as whoever it runs."""

import errno
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from engine_process import MODEL, PROGRAM, TOP, Engine
from inside import Inside


def statuses(pid):
    """Each thread's lines of /proc/PID/task/TID/status as a dict."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        yield dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)


def chat(engine, **more):
    body = {"model": engine.name if hasattr(engine, "name") else "smollm2-135m-instruct", "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 8, "temperature": 0}
    r = engine.http.post("/v1/chat/completions", json=body | more)
    assert r.status_code == 200, r.text
    return r.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def confined(tmp_path_factory):
    e = Engine(tmp_path_factory.mktemp("confined"), "--confine", "on", "--device", "cpu", unix=True)
    yield e
    e.close()


@pytest.fixture(scope="module")
def free(tmp_path_factory):
    e = Engine(tmp_path_factory.mktemp("free"), "--confine", "off", unix=True)
    yield e
    e.close()


def test_all_threads_are_under_the_filter_and_gain_no_privileges(confined, free):
    threads = list(statuses(confined.process.pid))
    assert len(threads) > 4
    assert {(t["Seccomp"], t["NoNewPrivs"]) for t in threads} == {("2", "1")}
    assert {(t["Seccomp"], t["NoNewPrivs"]) for t in statuses(free.process.pid)} == {("0", "1")}  # set in any case
    assert {t["Umask"] for e in (confined, free) for t in statuses(e.process.pid)} == {"0077"}


def test_who_takes_it_over_finds_no_network_no_programs_and_no_files_of_others(confined, free, tmp_path):
    (tmp_path / "secret").write_text("of another")
    with Inside(confined.process.pid) as it:
        assert it.call("open", Path(MODEL), 0, 0) > 2  # what it serves
        for path in (tmp_path / "secret", "/etc/passwd", "/proc/self/root/etc/passwd", TOP / "Makefile", f"/proc/{os.getpid()}/environ", "/"):
            assert it.call("open", path, 0, 0) == -errno.EACCES, path
        assert it.call("open", tmp_path / "new", os.O_RDWR | os.O_CREAT, 0o600) == it.call("unlink", tmp_path / "secret") == -errno.EACCES
        for call in (("socket", 2, 1, 0), ("socket", 1, 1, 0), ("fork",), ("execve", "/bin/true", 0, 0), ("kill", os.getppid(), 0), ("ptrace", 16, os.getppid(), 0, 0)):
            assert it.call(*call) == -errno.EPERM, call
    with Inside(free.process.pid) as it:  # the same calls of one that gave nothing up
        assert it.call("open", tmp_path / "secret", 0, 0) > 2 and it.call("socket", 2, 1, 0) > 2
    assert chat(confined) == chat(free)


def test_it_answers_what_a_free_one_answers(confined, free):
    assert chat(confined) == chat(free)
    assert confined.http.get("/metrics").text.count("weft_") > 20


@pytest.mark.parametrize("engine", ["confined", "free"])
def test_there_is_no_core_file_and_nobody_but_root_reads_the_memory(engine, request):
    pid = request.getfixturevalue(engine).process.pid
    limits = Path(f"/proc/{pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert set(core.split()[4:6]) <= {"0", "1"}
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0  # what a process that may not be dumped looks like


def test_a_packed_copy_is_written_and_found_again(tmp_path):
    cache = tmp_path / "cache"
    for _ in range(2):
        e = Engine(tmp_path / "e", "--confine", "on", "--device", "cpu", "--cache", str(cache), unix=True)
        chat(e)
        end = time.monotonic() + 30
        while not list(cache.glob("*.weft")):  # written beside serving
            assert time.monotonic() < end, e.log.read_text()
            time.sleep(0.05)
        e.close()
        assert "not_confined" not in e.log.read_text() and "no_cache" not in e.log.read_text()
    assert len(list(cache.glob("*.weft"))) == 1
    assert not (tmp_path / "e/e.sock").exists()  # it is removed at the end


def test_a_folder_of_links_as_a_hugging_face_cache_has_them_is_read(tmp_path):
    """snapshots/REVISION/model.gguf -> ../../blobs/DIGEST: the link lies in the folder that is named, the file does not."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots/main"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    os.link(MODEL, blobs / "digest") if os.stat(MODEL).st_dev == os.stat(blobs).st_dev else shutil.copy(MODEL, blobs / "digest")
    (snapshot / "model.gguf").symlink_to("../../blobs/digest")
    e = Engine(tmp_path / "e", "--confine", "on", "--device", "cpu", "--name", "smollm2-135m-instruct", model=snapshot / "model.gguf", unix=True)
    chat(e)
    e.close()


@pytest.mark.parametrize("args, said", [(["--confine", "perhaps"], "auto, on or off"), (["--confine", "on", "--device", "cuda"], "goes with device cpu")])
def test_what_cannot_be_is_refused(args, said, tmp_path):
    run = subprocess.run([PROGRAM, "serve", "--model", MODEL, "--socket", str(tmp_path / "s"), *args], capture_output=True, text=True, timeout=30)
    assert run.returncode == 2 and said in run.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="another user is taken on by root alone")
def test_a_user_without_any_rights_runs_it():
    with tempfile.TemporaryDirectory(prefix="weft-", dir="/tmp") as folder:
        room = Path(folder)
        room.chmod(0o755)
        shutil.copy(PROGRAM, room / "weft-engine")
        shutil.copy(MODEL, room / "model.gguf")
        os.chmod(room / "model.gguf", 0o644)
        (room / "run").mkdir()
        os.chown(room / "run", 65534, 65534)
        script = room / "start"
        script.write_text(f"#!/bin/sh\nshift\nexec setpriv --reuid 65534 --regid 65534 --clear-groups {room}/weft-engine serve \"$@\"\n")
        script.chmod(0o755)
        import engine_process
        before, engine_process.PROGRAM = engine_process.PROGRAM, str(script)
        try:
            e = Engine(room / "log", "--confine", "on", "--device", "cpu", "--socket", str(room / "run/s"), model=room / "model.gguf", store=room, unix=True, ready=False)
        finally:
            engine_process.PROGRAM = before
        e.socket = room / "run/s"
        e.http = e.client()
        e.wait_ready()
        assert {t["Uid"].split()[0] for t in statuses(e.process.pid)} == {"65534"}
        assert {t["Seccomp"] for t in statuses(e.process.pid)} == {"2"}
        r = e.http.post("/v1/completions", json={"model": "model", "prompt": "a", "max_tokens": 2})
        assert r.status_code in (200, 404), r.text
        e.close()
