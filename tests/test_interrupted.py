"""Commands that are killed, meet each other, or find no room: the old file or the new one."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from scandsl import loader
from scandsl.cli import main

ROOT = Path(__file__).resolve().parent.parent
SPEC = """\
scan leaky:
    input x[D], g in [-inf, 0]
    state h[D]
    h = exp(g) * h + x
    output y[D] = h
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    file = tmp_path / "leaky.scan"
    file.write_text(SPEC)
    return file


def started(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "scandsl", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


_WRITER = """
import sys
from pathlib import Path
from scandsl.loader import write_atomic
texts = ["a" * 300_000 + "\\n", "b" * 400_000 + "\\n"]
print("ready", flush=True)
while True:
    for text in texts:
        write_atomic(Path(sys.argv[1]), text)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_file_is_whole_whenever_its_writer_is_killed(seed: int, tmp_path: Path) -> None:
    file, rng = tmp_path / "module.py", random.Random(seed)
    command = [sys.executable, "-c", _WRITER, str(file)]
    writer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for _ in range(20):
        time.sleep(rng.random() / 200)
        if file.exists():
            assert len(file.read_bytes()) in (300_001, 400_001)
    writer.kill()
    writer.wait()
    assert len(file.read_bytes()) in (300_001, 400_001)
    for left in tmp_path.glob(".*.tmp"):  # what was being written; the next writer clears it away
        os.utime(left, (0, 0))
    loader.write_atomic(file, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["module.py"]


@pytest.mark.slow
def test_compile_killed_at_any_moment(spec: Path) -> None:
    rng = random.Random(0)
    assert started("compile", spec).wait() == 0
    new = spec.with_suffix(".py").read_bytes()
    for _ in range(25):
        spec.with_suffix(".py").write_text("old")
        process = started("compile", spec)
        time.sleep(rng.random() * 2.5)
        process.kill()
        process.wait()
        assert spec.with_suffix(".py").read_bytes() in (b"old", new)


def test_two_processes_compile_the_same_file(spec: Path) -> None:
    processes = [started("compile", spec) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    compile(spec.with_suffix(".py").read_text(), "leaky.py", "exec")
    assert sorted(p.name for p in spec.parent.iterdir()) == ["leaky.py", "leaky.scan"]


@pytest.mark.parametrize("call", ["fsync", "fdopen"])
def test_a_full_disk_is_told(call: str, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    spec.with_suffix(".py").write_text("old")
    monkeypatch.setattr(loader.os, call, full)
    result = CliRunner().invoke(main, ["compile", str(spec)])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "No space left on device" in result.stderr and "leaky.scan" in result.stderr
    assert spec.with_suffix(".py").read_text() == "old"
    assert sorted(p.name for p in spec.parent.iterdir()) == ["leaky.py", "leaky.scan"]


def test_a_folder_that_cannot_be_written_is_told(spec: Path) -> None:
    (spec.parent / "file").write_text("")
    result = CliRunner().invoke(main, ["compile", str(spec), "--out", str(spec.parent / "file/x")])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "Not a directory" in result.stderr
    spec.with_suffix(".py").mkdir()
    result = CliRunner().invoke(main, ["compile", str(spec)])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "leaky.py" in result.stderr


def test_what_stands_in_the_place_of_a_module_need_not_be_text(spec: Path) -> None:
    spec.with_suffix(".py").write_bytes(b"\xff\xfe\x00")
    assert CliRunner().invoke(main, ["compile", "--check", str(spec)]).exit_code == 1
    assert CliRunner().invoke(main, ["compile", str(spec)]).exit_code == 0
    assert "def leaky(" in spec.with_suffix(".py").read_text()


def test_a_damaged_cache_entry_is_made_anew(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(spec.parent / "cache"))
    file = loader.cached_module(spec)
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole.replace(b"exp", b"sin"), b"\xff\x00"):
        file.write_bytes(damaged)
        assert loader.cached_module(spec) == file
        assert file.read_bytes() == whole


def test_damaged_bytecode_is_passed_over(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(spec.parent / "cache"))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = loader.cached_module(spec)
    loader.import_file(file, "damaged_once")
    (bytecode,) = (file.parent / "__pycache__").iterdir()
    bytecode.write_bytes(bytecode.read_bytes()[:200])
    assert callable(loader.import_file(file, "damaged_twice").leaky)
