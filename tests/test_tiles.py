"""Dimensions that kernels of chunks cut over the grid, or walk over in strips, in several parts.

Tiles of 64 and 128 would need long vectors; here they are made as small as they can be.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.faults.judge import compiled, wrong
from tests.generated import ROOT, imported

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SCANS = (
    "chunk/reads_everywhere", "chunk/three_decays", "decays/both_decays", "simple_gla",
    "delta_net", "gla", "linear_attention", "rules/strength_of_the_largest", "rules/one_more",
)  # fmt: skip


@pytest.mark.parametrize("scan", SCANS)
def test_several_tiles(scan: str, tmp_path: Path) -> None:
    file, slash, name = scan.rpartition("/")
    path = ROOT / (f"tests/specs/{file}.scan" if slash else f"examples/{name}.scan")
    found = compiled(path, name)
    assert "_LOOP_TILE" in found.module
    assert (said := wrong(found, tmp_path, 0, ["triton"], wide=True)) is None, said


# A walk of many products, which does not run fused there in float32, and one of few.
@pytest.mark.parametrize(("name", "fused"), [("resets", False), ("bonus", True)])
def test_walks_take_half_the_tile_where_sums_lie_apart(
    name: str, fused: bool, tmp_path: Path
) -> None:
    found = compiled(ROOT / "tests/specs/chunk.scan", name)
    (recurrence,) = found.front.recurrences
    module = imported(found.module, tmp_path, f"apart_{name}")
    module._ARCHITECTURES[torch.device("cpu")] = "sm_100"
    module._LOOP_TILE = 32
    cpu, single, half = torch.device("cpu"), torch.float32, torch.bfloat16
    assert module._walk_tile(single, cpu, full=False) == 16
    assert module._walk_tile(half, cpu, full=False) == 32
    assert module._walk_tile(half, cpu, full=True) == 16
    tiles, choices = [], []
    for spy, kept in (("_walk_tile", tiles), ("_fills", choices)):
        _spied(module, spy, kept)
    case = Case("apart", Layout(batch=1, time=19, heads=1), dict.fromkeys(("K", "V"), 24))
    verdicts = [
        run.ok for run in runs(recurrence, module, (case,), only=["triton"], dtypes=[single])
    ]
    assert verdicts and all(verdicts)
    assert {*tiles} == {16} and {*choices} == {fused}


def _spied(module: ModuleType, name: str, kept: list[object]) -> None:
    """Keeps what a function of a module gives back."""
    plain = getattr(module, name)

    def spy(*args: object, **named: object) -> object:
        kept.append(plain(*args, **named))
        return kept[-1]

    setattr(module, name, spy)
