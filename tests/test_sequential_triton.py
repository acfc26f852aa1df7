"""The sequential form on Triton: its numbers against the judge, and what callers see of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scandsl.ir.nodes import Recurrence
from scandsl.testing.compare import Case, backends, runs
from scandsl.testing.data import Layout
from tests.generated import EXAMPLES, example, imported, text_of

pytest.importorskip("triton")

# Checkpoints lie 16 steps apart, so that 18 steps cross one.
CROSSING = (18, 0, 1)


def judge(
    module: object, recurrence: Recurrence, case: Case, dtype: torch.dtype = torch.float32
) -> None:
    for run in runs(recurrence, module, (case,), only=("triton",), dtypes=(dtype,)):  # type: ignore[arg-type]
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


def shared(recurrence: Recurrence) -> dict[str, int]:
    return {n: (2, 1)[i % 2] for i, n in enumerate(recurrence.arguments)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_agrees_with_the_judge(path: Path, tmp_path: Path) -> None:
    module, (recurrence,) = text_of(path, "sequential")
    made = imported(module, tmp_path, path.stem)
    assert backends(made, recurrence.name) == ("torch", "triton", "reference")
    layout = Layout(lengths=CROSSING, heads=2, own_heads=shared(recurrence))
    judge(made, recurrence, Case("packed", layout, carried=True))


@pytest.mark.parametrize("name", ["gated_delta_rule", "mamba", "lstm", "h3", "hippo_legs"])
def test_a_batch_of_several_checkpoints(name: str, tmp_path: Path) -> None:
    module, recurrence = example(name, tmp_path, "sequential")
    judge(module, recurrence, Case("plain", Layout(batch=2, time=35, heads=1), carried=True))


@pytest.mark.parametrize("name", ["rwkv7", "mlstm", "s4d"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    module, recurrence = example(name, tmp_path, "sequential")
    judge(module, recurrence, Case("plain", Layout(batch=1, time=18, heads=2)), dtype)


@pytest.mark.parametrize("name", ["mlstm", "gla", "mamba", "hgrn", "short_convolution"])
def test_shares_of_tiles_and_heads_add_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiles of two, everything that can be cut is cut."""
    module, recurrence = example(name, tmp_path, "sequential")
    monkeypatch.setattr(module, "_step_block", lambda size, others, limit: 2)
    own = {n: (6, 1, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    layout = Layout(lengths=(2, 4), heads=6, own_heads=own)
    judge(module, recurrence, Case("packed", layout, carried=True))
