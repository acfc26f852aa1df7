"""The first family over a grid of lengths, sizes, packings, head groups and dtypes.

Every point is one call, forward and backward, with the final state and, where `start` says so, from
a carried one; errors are judged by `scandsl.testing`.  The normal run takes points that hold every
pair of values, the slow one all lengths, sizes, packings and head groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load
from scandsl.testing.compare import Case, Run, backends, relative_rms, runs, state_names
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT
from tests.pairwise import Point, complete, pairs_of, pairwise

LENGTHS = (1, 2, 15, 63, 64, 65, 100, 257)
SIZES = (1, 3, 16, 60, 64, 100, 128, 256)
PACKINGS = ("plain", "packed")
GROUPS = ("1:1", "1:4", "all-to-one")
SPECS = (
    "linear_attention", "retnet", "mamba2", "simple_gla",
    "chunk/reads_everywhere", "chunk/gate_from_read", "chunk/values_first",
)  # fmt: skip
STARTS = ("zero", "carried")
DTYPES = {
    "float64": torch.float64, "float32": torch.float32,
    "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip

FACTORS: Mapping[str, tuple[Any, ...]] = {
    "T": LENGTHS,
    "K": SIZES,
    "V": SIZES,
    "packing": PACKINGS,
    "groups": GROUPS,
    "spec": SPECS,
    "start": STARTS,
    "dtype": tuple(DTYPES),
}


@cache
def recurrence_of(spec: str) -> Recurrence:
    file, _, name = spec.rpartition("/")
    path = _path(spec)
    found = check(Source(path.name, path.read_text(encoding="utf-8"))).recurrences
    return next(r for r in found if r.name == (name or file))


def _path(spec: str) -> Path:
    file, slash, _ = spec.partition("/")
    return ROOT / ("tests/specs" if slash else "examples") / f"{file}.scan"


@cache
def module_of(spec: str) -> ModuleType:
    return load(_path(spec))


# ---------------------------------------------------------------- points of the grid


def heads_of(recurrence: Recurrence, groups: str) -> tuple[int, dict[str, int]]:
    """The number of heads, and that of the tensors which have fewer."""
    names = recurrence.arguments
    match groups:
        case "1:1":
            return 2, {}
        case "1:4":  # every other tensor is shared by four heads
            return 4, {name: 1 for name in names[1::2]}
        case "all-to-one":  # one tensor has heads, all others are shared by them
            return 3, {name: 1 for name in names if name != names[len(names) // 2]}
    raise ValueError(groups)


def packed(length: int) -> tuple[int, ...]:
    """Uneven sequences around one of `length`: of one token, beside empty ones."""
    return (1, 0, length, 0, 0, 18, 1)


def case_of(point: Point) -> tuple[Recurrence, Case]:
    time, k, v, packing, groups, spec, start, _ = point
    recurrence = recurrence_of(spec)
    heads, own = heads_of(recurrence, groups)
    if packing == "packed":
        layout = Layout(lengths=packed(time), heads=heads, own_heads=own)
    else:
        layout = Layout(batch=2 if time < 64 else 1, time=time, heads=heads, own_heads=own)
    matrix = next(s for s in recurrence.states if len(s.dims) == 2)
    sizes = dict(zip(matrix.dims, (k, v), strict=True))
    return recurrence, Case("-".join(map(str, point)), layout, sizes, carried=start == "carried")


def judged(point: Point) -> Iterator[Run]:
    recurrence, case = case_of(point)
    module = module_of(point[5])
    only = ("torch", "triton")
    assert set(only) <= set(backends(module))
    yield from runs(recurrence, module, (case,), only=only, dtypes=(DTYPES[point[-1]],))


def check_point(point: Point) -> None:
    found = list(judged(point))
    assert {r.backend for r in found} == {"torch"} | ({"triton"} - {point[-1]} if _has(point) else set())
    bad = [_words(r) for r in found if not r.ok]
    assert not bad, "\n".join(bad)


def _has(point: Point) -> bool:
    """Whether Triton runs at this point: it has no float64."""
    return bool(point[-1] != "float64")


def _words(run: Run) -> str:
    off = [f"{v.role.value} {v.tensor}: {v.error:.1e} > {v.bound:.1e}" for v in run.verdicts if not v.ok]
    return f"{run.backend}: {run.failure or ', '.join(off)}"


def cost(point: Point) -> int:
    """About what Triton's interpreter has to do."""
    time, k, v, packing, groups, _, _, dtype = point
    heads = {"1:1": 2, "1:4": 4, "all-to-one": 3}[groups]
    tokens = time + 20 if packing == "packed" else time
    return heads * tokens * max(k, 16) * max(v, 16) if dtype != "float64" else 0


def _cheap(point: Point) -> bool:
    return cost(point) <= 5_000_000


def _id(point: Point) -> str:
    return "-".join(str(x) for x in point).replace("/", ".")


SAMPLE = pairwise(FACTORS, _cheap)


def full() -> Iterator[Point]:
    """All lengths, sizes, packings and groups; specs, starts and dtypes take turns."""
    grid = {name: FACTORS[name] for name in ("T", "K", "V", "packing", "groups")}
    rest = list(product(SPECS, STARTS, DTYPES))
    for number, point in enumerate(complete(grid)):
        yield (*point, *rest[(number * 5) % len(rest)])


@pytest.mark.parametrize("point", SAMPLE, ids=_id)
def test_sampled(point: Point) -> None:
    check_point(point)


@pytest.mark.slow
@pytest.mark.parametrize("point", full(), ids=_id)
def test_complete(point: Point) -> None:
    check_point(point)


def test_the_sample_holds_every_pair() -> None:
    held = set().union(*map(pairs_of, SAMPLE))
    names = list(FACTORS)
    for i, j in ((i, j) for j in range(len(names)) for i in range(j)):
        for x, y in product(FACTORS[names[i]], FACTORS[names[j]]):
            assert (i, x, j, y) in held, (names[i], x, names[j], y)
    everything = set().union(*map(pairs_of, full()))
    assert held <= everything, "the complete grid lacks pairs of the sample"
