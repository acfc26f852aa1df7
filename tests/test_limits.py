"""What `explain` counts with is what launches choose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import scandsl
from scandsl.plan import limits

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def module():
    return scandsl.load(ROOT / "examples" / "gated_delta_rule.scan")


def test_tiles_are_those_of_the_launches(module):
    deep = scandsl.load(ROOT / "tests" / "specs" / "wide.scan")
    assert module._LOOP_TILE == limits.LOOP_TILE
    assert deep._DEEP_TILE == limits.DEEP_TILE
    assert module._chunk_tile(torch.bfloat16) == (64 if torch.version.hip else limits.CHUNK_TILE)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 60, 64, 100, 128, 200, 256, 300])
def test_blocks_and_chunks_are_those_of_the_launches(module, size):
    assert module._block(size) == limits.block(size)
    assert module._block(size, 64) == limits.block(size, 64)
    for dtype in (torch.bfloat16, torch.float32):
        assert module._chunk_size((size, 8), dtype) == limits.chunk_size(
            max(size, 8), dtype.itemsize
        )
