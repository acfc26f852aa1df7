"""Decays that a range bounds: over how many rows they are taken to one reference.

The scans of `specs/bounded.scan` run in chunks of several blocks, packed and plain, with a carried
state and shared heads, against the judge.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import pytest
import torch

from scandsl.analysis.pipeline import analyse
from scandsl.analysis.program import Decay
from scandsl.analysis.stretches import block_rows
from scandsl.driver import check
from scandsl.ir.nodes import Range, Recurrence, Scores, ScoresAdjoint, Spread
from scandsl.kernels.backward import backward_program
from scandsl.kernels.chunk import chunk_program
from scandsl.loader import load, read_source
from scandsl.testing.compare import Case, relative_rms, runs
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT
from tests.test_numerics import values_and_gradients
from tests.test_numerics_long import BOUNDED_DELTA, no_worse_than_twice, recurrence_of, subject
from tests.test_numerics_long import module as module_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

FILE = ROOT / "tests" / "specs" / "bounded.scan"
BLOCKS = {  # along the key, along the value
    "bounded_delta": {16},
    "bounded_activation": {16},
    "bounded_both": {16, 4},
    "bounded_growth": {16},
}


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(FILE)).recurrences}


@cache
def module(chunk: int) -> ModuleType:
    return load(FILE, chunk=chunk)


ROWS = (
    [(-5.0, 0.0, 16), (-5.5, 0.0, 16), (-5.6, 0.0, 8), (-22.0, 0.0, 4), (-22.1, 0.0, 0)],
    [(-0.3, 0.0, 16), (-1.0, 5.0, 16), (-math.inf, 0.0, 0)],
)


@pytest.mark.parametrize(("low", "high", "rows"), [x for line in ROWS for x in line])
def test_rows_of_a_block(low: float, high: float, rows: int) -> None:
    """As many, to 16, as keep sums of logarithms within what float32 takes the exponential of."""
    decay = Decay("S", 0, 0, ("K",))
    assert block_rows([decay], [Range(low, high)]) == rows


def test_bounds_of_one_step_add_up() -> None:
    decays = [Decay("S", 0, 0, ("K",)), Decay("S", 1, 1, ())]
    assert block_rows(decays, [Range(-5.0, 0.0), Range(-5.0, 0.0)]) == 8
    assert block_rows([*decays, Decay("S", 0, None, ("K",))], [Range(-1.0, 0.0)] * 2) == 0


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_of_the_programs(name: str) -> None:
    """The forward has them, and what is derived from it."""
    recurrence = recurrences()[name]
    forward = chunk_program(analyse(recurrence))
    backward = backward_program(forward, recurrence.inputs, recurrence.params).program
    for program in (forward, backward):
        ops = [v.op for v in program.values]
        assert {x.block for x in ops if isinstance(x, Scores | ScoresAdjoint | Spread)} == (
            BLOCKS[name]
        )


def cases(recurrence: Recurrence, longest: int) -> list[Case]:
    sizes = {d.name: {"K": 3, "V": 5}[d.name] for d in recurrence.dims}
    own = {name: (4, 1, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}
    packed = Layout(lengths=(0, 1, longest, 0, 2), heads=4, own_heads=own)
    plain = Layout(batch=2, time=70, heads=2)
    return [Case("packed", packed, sizes, carried=True), Case("plain", plain, sizes)]


@pytest.mark.parametrize("name", BLOCKS)
def test_chunks_agree_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    for run in runs(
        recurrence, module(64), cases(recurrence, 75), only=("torch",), dtypes=(torch.float64,)
    ):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


def test_triton_agrees_with_the_judge() -> None:
    recurrence = recurrences()["bounded_delta"]
    packed = cases(recurrence, 20)[:1]
    for run in runs(recurrence, module(64), packed, only=("triton",), dtypes=(torch.float32,)):
        assert run.ok, (run.failure, [v for v in run.verdicts if not v.ok])


def test_no_worse_than_twice_the_loop() -> None:
    """Over the whole range, also where keys are equal; 4096 tokens are a slow test."""
    loop = load(FILE, form="sequential").bounded_delta
    no_worse_than_twice(BOUNDED_DELTA, loop, 150)


@pytest.mark.parametrize(
    ("low", "rows"), [(-1.0, 16), (-5.5, 16), (-11.0, 8), (-22.0, 4), (-23, 0)]
)
def test_a_cpu_finds_how_many_rows_the_gates_at_hand_allow(low: float, rows: int) -> None:
    """With no declared range; errors stay within twice those of the loop over tokens."""
    one = subject("kimi_delta_attention", "g")
    recurrence, chunked = recurrence_of(one), module_of(one)
    sizes = {d.name: 16 for d in recurrence.dims}
    drawn = draw(recurrence, sizes, Layout(batch=1, time=1024, heads=2), dtype=torch.float32)
    tensors = dict(drawn.tensors)
    g = low * torch.rand(tensors["g"].shape, generator=torch.Generator().manual_seed(1))
    g[0, 0, 0, 0] = low
    tensors["g"] = g
    assert chunked._tame_rows(g[0].transpose(0, 1)) == rows
    loop = getattr(module_of(one, "sequential"), one.scan)
    true = values_and_gradients(recurrence, tensors, torch.float64, loop)
    narrow = values_and_gradients(recurrence, tensors, torch.float32, loop)
    mine = values_and_gradients(recurrence, tensors, torch.float32, getattr(chunked, one.scan))
    for name, want in true.items():
        assert relative_rms(mine[name], want) <= 2 * relative_rms(narrow[name], want), name


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_where_gates_are_no_numbers_chunks_are_halved(odd: float) -> None:
    tame = module_of(subject("kimi_delta_attention", "g"))._tame_rows
    logs = torch.zeros(2, 32, 3)
    assert tame(logs) == 16
    logs[1, 5, 0] = odd
    assert tame(logs) == 0
