"""Dimensions that kernels of chunks cut over the grid, or walk over in strips, in several parts.

Tiles of 64 and 128 would need long vectors; here they are made as small as they can be.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.judge import compiled, wrong
from tests.generated import ROOT

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
