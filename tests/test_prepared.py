"""What kernels of chunks compute before the walk over time, and what the walk computes early."""

from __future__ import annotations

from functools import cache

import pytest

from scandsl.driver import Options, plan
from scandsl.ir.nodes import Inverse, Load, Scores, made_of
from scandsl.kernels.backward import backward_program
from scandsl.kernels.chunk_pairs import real_chunks
from scandsl.kernels.program import COLUMN, ROW, ChunkProgram
from scandsl.kernels.schedule import PREPARED, Kernel, schedule
from scandsl.loader import read_source
from tests.generated import ROOT

# Matrices of rows and columns that are prepared, forward and backward.  Of a delta rule what the
# inverse goes into; with vector decays the scores of reads as well, and of every key; with two
# updates in a step both inverses, and forward the matrices that these are made of.
COUNTS = {
    "simple_gla": (0, 0), "gla": (1, 1), "delta_net": (1, 1), "gated_delta_rule": (1, 1),
    "kimi_delta_attention": (2, 3), "rwkv7": (4, 4), "delta_product": (4, 2),
    "gated_oja_rule": (1, 3),
}  # fmt: skip


@cache
def programs(scan: str) -> tuple[ChunkProgram, ChunkProgram]:
    _, (found,) = plan(read_source(ROOT / "examples" / f"{scan}.scan"), Options())
    recurrence, forward = real_chunks(found.program, True)
    return forward, backward_program(forward, recurrence.inputs, recurrence.params).program


def kernels(scan: str) -> list[list[Kernel]]:
    forward, backward = programs(scan)
    found = [schedule(forward, fused=True), schedule(forward, fused=False)]
    return [list(k) for k in (*found, schedule(backward, fused=True))]


def costly(kernel: Kernel) -> list[type]:
    ops = (kernel.program.values[r].op for r in kernel.refs)
    return [type(op) for op in ops if isinstance(op, Inverse | Scores)]


@pytest.mark.parametrize("scan", COUNTS)
def test_inverses_and_scores_are_computed_before_the_walk(scan: str) -> None:
    forward, backward = COUNTS[scan]
    for number, count in zip(kernels(scan), (forward, forward, backward), strict=True):
        first, *rest = number if count else [None, *number]
        for kernel in rest:
            assert kernel is not None and not costly(kernel)
        if first is None:
            continue
        assert first.name == "prepare" and costly(first) and not first.loop
        assert len(first.stores) == count
        for store in first.stores:
            assert set(first.program.values[store.value].dims) == {ROW, COLUMN}
        loaded = {s.name for kernel in rest if kernel for s in kernel.prepared}
        assert loaded == {s.name for s in first.stores}
        assert all(name.startswith(PREPARED) for name in loaded)


@pytest.mark.parametrize("scan", COUNTS)
def test_nothing_prepared_looks_at_a_state(scan: str) -> None:
    for found in kernels(scan):
        carried = {c.name for k in found for c in k.carries}
        for kernel in (k for k in found if k.name == "prepare"):
            values = kernel.program.values
            ops = (values[r].op for r in made_of(values, [s.value for s in kernel.stores]))
            assert not [op for op in ops if isinstance(op, Load) and op.name in carried]


@pytest.mark.parametrize("scan", ["simple_gla", "gated_delta_rule", "gla", "delta_product"])
def test_the_walk_computes_early_what_the_new_state_takes(scan: str) -> None:
    """Vectors of rows, and what decays the state over the chunk: not the states themselves."""
    walk = next(k for k in kernels(scan)[0] if k.name == "scan")
    values = walk.program.values
    assert walk.early
    dims = [values[r].dims for r in walk.early]
    assert "delta" not in scan or any(ROW in d for d in dims)
    assert any(ROW not in d and len(d) < 2 for d in dims)
    carried = {c.name for c in walk.carries}
    for ref in walk.early:
        ops = (values[r].op for r in made_of(values, [ref]))
        assert not [op for op in ops if isinstance(op, Load) and op.name in carried]
        assert ROW in values[ref].dims or len(values[ref].dims) < 2
