"""The benchmarks run: the loops are right, and the script for a GPU works without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import kernels
from benchmarks.baselines import CONVOLUTIONS, LOOPS, PLAIN
from benchmarks.chunked import CHUNK, CHUNKED
from benchmarks.common import realistic, sizes_for
from benchmarks.stress import STRESSES, SUBJECTS, arguments, compared
from scandsl.driver import check
from scandsl.loader import read_source
from scandsl.reference import interpret
from scandsl.testing.compare import relative_rms

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_loops_are_the_examples(name):
    (recurrence,) = check(read_source(ROOT / "examples" / f"{name}.scan")).recurrences
    tensors = realistic(recurrence, sizes_for(recurrence, 5, 7), (2, 9, 3), torch.float64)
    expected = interpret(recurrence, tensors).outputs[0]
    assert relative_rms(LOOPS[name](*tensors.values()), expected) < 1e-14
    assert relative_rms(PLAIN[name](*tensors.values()), expected) < 1e-14


@pytest.mark.parametrize("name", sorted(CONVOLUTIONS))
def test_convolutions_are_the_examples(name):
    (recurrence,) = check(read_source(ROOT / "examples" / f"{name}.scan")).recurrences
    sizes = sizes_for(recurrence, 5, 7) | {d.name: d.size for d in recurrence.dims if d.size}
    tensors = realistic(recurrence, sizes, (2, 9, 1), torch.float64)
    expected = interpret(recurrence, tensors).outputs[0]
    assert relative_rms(CONVOLUTIONS[name](*tensors.values()), expected) < 1e-13


@pytest.mark.parametrize("name", sorted(CHUNKED))
def test_chunked_forms_are_the_loops(name):
    (recurrence,) = check(read_source(ROOT / "examples" / f"{name}.scan")).recurrences
    shape = (2, 2 * CHUNK, 3)
    tensors = realistic(recurrence, sizes_for(recurrence, 5, 7), shape, torch.float64)
    expected = LOOPS[name](*tensors.values())
    assert relative_rms(CHUNKED[name](*tensors.values()), expected) < 1e-13


def _run(script: str, *options: str, blocked: Path, **environment: str):
    paths = os.pathsep.join([str(blocked), str(ROOT)])
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, *options],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )


@pytest.fixture
def blocked(tmp_path: Path) -> Path:
    """A folder in front of the path, where rich and click cannot be imported."""
    for name in ("rich", "click"):
        (tmp_path / "blocked" / name).mkdir(parents=True)
        (tmp_path / "blocked" / name / "__init__.py").write_text("raise ImportError('not here')\n")
    return tmp_path / "blocked"


def test_gpu_script_runs_dry(tmp_path, blocked):
    pytest.importorskip("triton")
    done = _run("gpu.py", "--dry", "--only", "simple_gla", "--out", str(tmp_path), blocked=blocked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing wrong" in done.stdout
    found = json.loads((tmp_path / "gpu-dry.json").read_text())
    kinds = {r["kind"] for r in found["results"]}
    assert {"compare", "large", "bandwidth", "time", "profile"} <= kinds
    for result in found["results"]:
        if result["kind"] in ("compare", "large"):
            roles = {v["role"] for v in result["verdicts"]}
            assert roles >= {"output", "final state", "gradient", "gate gradient"}


def test_gpu_script_lists_what_is_wrong(tmp_path, blocked):
    """Processes that die at the first kernel: each is told, and the rest is done."""
    pytest.importorskip("triton")
    (blocked / "triton").mkdir()
    (blocked / "triton" / "__init__.py").write_text("import os; os._exit(3)\n")
    options = ["--dry", "--only", "retnet", "--stages", "core", "--out", str(tmp_path)]
    done = _run("gpu.py", *options, blocked=blocked)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WRONG: 2" in done.stdout
    found = json.loads((tmp_path / "gpu-dry.json").read_text())
    assert ["the process died" in r["failure"] for r in found["results"]] == [True, True]
    assert len(found["wrong"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_script_without_gpu(tmp_path, blocked):
    done = _run("gpu.py", "--out", str(tmp_path / "none"), blocked=blocked)
    assert done.returncode == 0
    assert "no GPU" in done.stdout
    assert not (tmp_path / "none").exists()


def test_cpu_script(tmp_path, blocked):
    options = "--spec simple_gla -T 70 -H 2 -K 16 -V 16 --repeats 2 --threads 1 --out".split()
    done = _run("cpu.py", *options, str(tmp_path), blocked=blocked)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob("cpu-*.json")
    (result,) = json.loads(file.read_text())["results"]
    assert result["ratios"]["plain loop"] > 0
    assert all(v["ok"] for v in result["verdicts"])


def test_every_stress_spoils_the_arguments_of_a_scan():
    for stress in STRESSES:
        generator = torch.Generator().manual_seed(2)
        given = ((one, arguments(one, 3)) for one in SUBJECTS)
        assert any(stress.spoil(one, tensors, generator) for one, tensors in given), stress.name


def test_the_cost_of_a_call_has_parts(tmp_path, blocked):
    pytest.importorskip("triton")
    file = tmp_path / "launch.json"
    options = ("--only", "simple_gla", "--rounds", "3", "--out", str(file))
    done = _run("launch.py", *options, blocked=blocked)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(file.read_text())
    assert [r["launches"] for r in found["rows"]] == [1, 3, 0]
    for row in found["rows"]:
        assert sum(row["parts"].values()) == pytest.approx(row["total"], abs=0.1)


def test_kernels_stand_beside_those_of_the_last_release(tmp_path, monkeypatch):
    """The latest by number; what is too large for the target is marked."""
    monkeypatch.setattr(kernels, "RESULTS", tmp_path)
    made = {"versions": {"triton": "3"}, "time": "2026-01-02T03:04:05Z", "target": "sm_90"}
    kernel = {
        "name": "_gla_scan", "registers": 128, "spilled_bytes": 8, "shared_bytes": 1 << 18,
        "warps": 4, "matrix_instructions": {"HGMMA": 3}, "loads": {"128": 2},
    }  # fmt: skip
    cost = {"read": 335.0, "written": 0.0, "kept": 0.0, "operations": 1.0}
    entry = {
        "form": "chunk", "size": 128, "kernels": [kernel],
        "needs": {d: {"bytes": 3.35, "operations": 1.0} for d in ("forward", "backward")},
        "costs": {"forward": [cost, cost], "backward": []},
    }  # fmt: skip
    (tmp_path / "kernels-sm_90.json").write_text(json.dumps({**made, "scans": {"gla": entry}}))
    assert "| scan | 128 | 8 | 256 **of 227** |" in kernels.page()
    assert "forward floor 0 µs, predicted 26 µs; backward floor 0 µs." in kernels.page()
    frozen = json.loads(kernels._freeze().read_text())
    frozen["targets"]["sm_90"]["gla"]["_gla_scan"]["registers"] = 64
    for release, spilled in (("0.9.0", 100), ("0.10.0", 200)):
        frozen["targets"]["sm_90"]["gla"]["_gla_scan"]["spilled_bytes"] = spilled
        file = tmp_path / f"kernels-{release}.json"
        file.write_text(json.dumps({**frozen, "release": release}))
    text = kernels.page()
    assert "| scan | 128 (64) | 8 (200) | 256 **of 227** |" in text
    assert "another in release 0.10.0" in text


def test_errors_under_stress_are_measured_against_the_loop_in_float64():
    pair = compared(SUBJECTS[1], arguments(SUBJECTS[1], 70))
    assert 0 < pair.output < 1e-6 > pair.gradient > 0
    assert 0 < pair.loop_output < 1e-6 > pair.loop_gradient > 0
