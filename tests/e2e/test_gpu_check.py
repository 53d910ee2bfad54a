"""tests/gpu/check and tests/gpu/measure on a machine that only looks as if it had a GPU: what they say, and how they end."""

import os
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def gpu(tmp_path):
    """A folder of programs that pass, and an nvidia-smi that answers."""
    smi, programs = tmp_path / "path", tmp_path / "gpu"
    for folder, name in ((smi, "nvidia-smi"), (programs, "test_rmsnorm"), (programs, "bench")):
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("#!/bin/sh\necho '# 1 passed'\n")
        (folder / name).chmod(0o755)
    env = dict(os.environ, PATH=f"{smi}:/usr/bin:/bin", GPU_BIN=str(programs), GPU_LOGS=str(tmp_path / "logs"),
               GPU_RESULTS=str(tmp_path / "RESULTS.md"))
    env.pop("WEFT_MODEL", None)
    return env


def run(env, script, *args):
    done = subprocess.run([TOP / "tests/gpu" / script, "build/none", *args], cwd=TOP, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout


def test_what_passed_is_counted(gpu):
    assert run(gpu, "check", "--quick", "--only", "tests")[0] == 0


@pytest.mark.parametrize("args", [["--only", "test"], ["--only"], ["--only", "racecheck", "--quick"], ["--fast"]])
def test_a_part_that_there_is_not_is_refused(gpu, args):
    code, said = run(gpu, "check", *args)
    assert code == 2 and said.startswith("usage:")


def test_nothing_checked_is_no_success(gpu):
    code, said = run(gpu, "check", "--only", "golden")
    assert code == 1 and "skipped golden" in said and "0 passed, 0 failed" in said


def test_without_a_gpu_or_programs_both_say_so(gpu, tmp_path):
    scripts = (("check", "nothing was checked"), ("measure", "nothing was measured"))
    for script, _ in scripts:
        code, said = run(dict(gpu, GPU_BIN=str(tmp_path / "empty")), script)
        assert code == 4 and "nvcc is missing" in said
    (tmp_path / "path/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    for script, nothing in scripts:
        code, said = run(gpu, script)
        assert code == 3 and nothing in said
    assert not (tmp_path / "RESULTS.md").exists()


def test_a_measurement_that_there_is_not_is_refused_and_leaves_no_trace(gpu, tmp_path):
    assert run(gpu, "measure", "speed")[0] == 2
    assert not (tmp_path / "RESULTS.md").exists()
