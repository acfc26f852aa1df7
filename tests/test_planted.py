"""The judge finds faults that are put into the compiler (`tests/faults/planted.py`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.copies import ROOT, altered
from tests.faults.planted import FAULTS, Fault


def _judged(folder: Path, scans: Sequence[tuple[str, str]], backend: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "tests.faults.judge", json.dumps(scans), backend]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, marks=[pytest.mark.slow] * (i % 4 > 0)) for i, f in enumerate(FAULTS)],
    ids=lambda f: f"{f.name}-{f.backend}",
)
def test_the_judge_finds_a_planted_fault(fault: Fault, tmp_path: Path) -> None:
    text = (ROOT / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.old) == 1
    folder = altered(tmp_path, Path(fault.file), text.replace(fault.old, fault.new))
    status, said = _judged(folder, [fault.scan], fault.backend)
    assert status == 1, said
    # a wrong number, not a crash: that anybody would notice
    assert fault.backend in said and "['" in said, said


def test_the_judge_finds_nothing_where_nothing_is_planted() -> None:
    scans = list(dict.fromkeys(fault.scan for fault in FAULTS[::4]))
    status, said = _judged(ROOT, scans, "torch")
    assert (status, said.strip()) == (0, "nothing")
