"""What `explain` counts with is what launches choose."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import scandsl
from scandsl.driver import Options, plan
from scandsl.explain import explanation
from scandsl.kernels.step import step_program
from scandsl.kernels.step_cost import TOKENS, checkpoint_steps
from scandsl.kernels.step_tiles import tile_sizes
from scandsl.loader import load, read_source
from scandsl.plan import limits
from scandsl.render.lowering import lower
from scandsl.render.sequential_triton import step_of
from scandsl.testing.data import Layout, draw

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def module():
    return scandsl.load(ROOT / "examples" / "gated_delta_rule.scan")


def test_tiles_are_those_of_the_launches(module):
    deep = scandsl.load(ROOT / "tests" / "specs" / "wide.scan")
    assert module._LOOP_TILE == limits.LOOP_TILE
    assert deep._DEEP_TILE == limits.DEEP_TILE
    assert module._chunk_tile(torch.bfloat16) == (64 if torch.version.hip else limits.CHUNK_TILE)


def test_blackwell_s_variants_share_their_limits():
    assert (
        limits.SHARED["sm_103"] == limits.SHARED["sm_100"] == limits.SHARED["sm_90"] == 227 * 1024
    )
    assert limits.SHARED["sm_120"] == limits.SHARED["sm_89"] == limits.SHARED["sm_86"] == 99 * 1024


@pytest.mark.parametrize("size", [1, 3, 16, 17, 60, 64, 100, 128, 200, 256, 300])
def test_blocks_and_chunks_are_those_of_the_launches(module, size):
    assert module._block(size) == limits.block(size)
    assert module._block(size, 64) == limits.block(size, 64)
    for dtype in (torch.bfloat16, torch.float32):
        assert module._chunk_size((size, 8), dtype) == limits.chunk_size(
            max(size, 8), dtype.itemsize
        )


# Two tiles of a complex state take the room of one twice as wide, and so do states in float32,
# which are kept where products nearly cancel.  Where states go through a softmax, walks cut no
# dimension of theirs.
CHUNKS = [
    ("simple_gla", 64), ("linear_attention", 32), ("xpos_retention", 16),
    ("gated_slot_attention", 16), ("gated_oja_rule", 16),
]  # fmt: skip


@pytest.mark.parametrize(("scan", "chunk"), CHUNKS)
def test_explain_counts_chunks_as_long_as_those_of_the_launches(scan, chunk, monkeypatch):
    path = ROOT / "examples" / f"{scan}.scan"
    _, (found,) = plan(read_source(path), Options())
    assert explanation(found)["kernels"]["chunk"] == chunk
    module, chosen = load(path), []
    size = module._chunk_size
    monkeypatch.setattr(module, "_chunk_size", lambda *a, **k: chosen.append(size(*a, **k)) or 16)
    sizes = {d.name: 128 for d in found.program.recurrence.dims}
    tensors = draw(found.program.recurrence, sizes, Layout(1, 1, heads=1)).tensors
    given = [tensors[n].bfloat16() for n in found.program.recurrence.arguments]
    getattr(module, scan)(*given, backend="triton")
    assert {*chosen} == {chunk}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter
@pytest.mark.parametrize("scan", ["titans", "mamba", "gru"])
def test_kernels_over_time_have_the_tiles_that_explain_counts(
    scan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / "examples" / f"{scan}.scan"
    module = load(path, form="sequential")
    _, (found,) = plan(read_source(path), Options(form="sequential"))
    recurrence = found.program.recurrence
    sizes = {d.name: 48 for d in recurrence.dims}
    layout = Layout(batch=1, time=1, heads=1)
    given = draw(recurrence, {n: 48 for n in sizes if "'" not in n}, layout).tensors
    tensors = [given[n].requires_grad_() for n in recurrence.arguments]
    launched: list[dict[str, Any]] = []
    kernel = module._kernel

    def seen(function: Any) -> Any:
        made = kernel(function)

        class Launch:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                return lambda **kw: launched.append(kw | {"grid": grid}) or made[grid](**kw)

        return Launch()

    monkeypatch.setattr(module, "_kernel", seen)
    out, _ = getattr(module, scan)(*tensors, backend="triton")
    out.sum().backward()
    program = _program(found)
    for kw, direction in zip(launched, ("forward", "backward"), strict=True):
        expected = tile_sizes(program, sizes, direction)
        blocks = {d: kw[f"BLOCK_{d.replace(chr(39), '_')}"] for d in expected}
        assert blocks == expected
        cut = [-(-sizes[d] // expected[d]) for d in program.independent]
        assert kw["grid"][2] == math.prod(cut)


def test_explain_counts_kernels_over_time():
    """One launch in each direction, at least the compulsory bytes, checkpoints beside them."""
    _, (found,) = plan(read_source(ROOT / "examples/titans.scan"), Options(form="sequential"))
    kernels = explanation(found)["kernels"]
    state = 2 * 4 * 128 * 128  # two matrices in float32, once in the checkpoints' distance
    module = load(ROOT / "examples/titans.scan", form="sequential")
    assert checkpoint_steps(TOKENS) == module._checkpoint_steps(TOKENS) == 64
    assert kernels["forward"]["kept"] == state / 64
    # four tiles of 32 columns: q and k are read by each
    tiles = tile_sizes(_program(found), {"K": 128, "V": 128}, "forward")
    copies = 128 // tiles["V"]
    assert kernels["forward"]["bytes"] == (2 * copies * 128 + 128 + 128) * 2 + 3 * 4 * copies
    assert kernels["backward"]["bytes"] > 2 * state
    assert [kernels[d]["launches"] for d in ("forward", "backward")] == [1, 1]


def _program(found: Any) -> Any:
    return step_program(step_of(lower(found.program.recurrence)))
