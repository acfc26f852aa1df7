"""Specs whose names mean something in Python, in torch or in generated code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scandsl import load
from scandsl.diagnostics import Source
from scandsl.loader import read_source
from scandsl.testing.session import Choice, judge

CHUNKED = """\
scan lambda:
    input class[def], g in (-inf, 0], scale, tl[W], q[def], self[def]
    state is[def, W], n[W]
    is = exp(g) * is + class * scale * tl
    n += tl
    output return[W] = q @ is + self @ is + n
"""
SEQUENTIAL = """\
scan torch:
    input β[D], initial_state, k[R, D] in unit
    static R = 2
    scalar backend = 2
    state α[D]
    α = tanh(α) + backend * β * initial_state + k[0] + lag(k[1], 2)
    output α_out[D] = α
    output len = t
"""


@pytest.mark.parametrize("text", [CHUNKED, SEQUENTIAL], ids=["chunked", "sequential"])
def test_any_name_will_do(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANDSL_CACHE_DIR", str(tmp_path))
    file = tmp_path / "import.scan"
    file.write_text(text, encoding="utf-8")
    source: Source = read_source(file)
    found = list(judge(source, {}, load(file), Choice(dtypes=("float64", "float32"), time=20)))
    assert found
    assert all(run.ok for run in found), [(r.backend, r.failure, r.worst()) for r in found]
    assert {run.dtype for run in found} == {torch.float64, torch.float32}
