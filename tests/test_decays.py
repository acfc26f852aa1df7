"""Decays of every kind over several chunks: zeros, signs, resets, along either dimension.

In `specs/decays.scan` each scan has a structure of its own; in `specs/wide.scan` states have three
dimensions.  Here they run packed and plain, with a carried state, against the judge; and exact
zeros are put where a decay may be one.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.analysis import analyse
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.state_map import composition
from scandsl.loader import load, read_source
from scandsl.reference import interpret
from scandsl.testing.compare import Case, backends, relative_rms, runs
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

FILES = [ROOT / "tests" / "specs" / f"{x}.scan" for x in ("decays", "wide")]
SIZES = {"K": 3, "V": 5, "D": 4, "M": 2, "J": 2, "W": 4}
TRITON = ("signed_late", "signed_key", "value_between", "both_apart", "oja_turned", "quadratic")


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for path in FILES for r in check(read_source(path)).recurrences}


@cache
def module(name: str) -> ModuleType:
    modules = [load(path, chunk=16) for path in FILES]
    return next(m for m in modules if hasattr(m, name))


def sizes(recurrence: Recurrence) -> dict[str, int]:
    return {d.name: SIZES[d.name] for d in recurrence.dims if d.base is None}


def cases(recurrence: Recurrence) -> list[Case]:
    own = {name: (4, 1, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}
    packed = Layout(lengths=(0, 1, 37, 0, 2), heads=4, own_heads=own)
    return [
        Case("packed", packed, sizes(recurrence), carried=True),
        Case("plain", Layout(batch=2, time=17, heads=2), sizes(recurrence)),
    ]


@pytest.mark.parametrize("name", recurrences())
def test_chunks_agree_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    for run in runs(
        recurrence, module(name), cases(recurrence), only=("torch",), dtypes=(torch.float64,)
    ):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", [*TRITON, pytest.param("column_twice", marks=pytest.mark.slow)])
def test_triton_agrees_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    assert "triton" in backends(module(name), name)
    packed = cases(recurrence)[:1]
    for run in runs(recurrence, module(name), packed, only=("triton",), dtypes=(torch.float32,)):
        assert run.ok, (run.failure, [v for v in run.verdicts if not v.ok])


def zeroed(recurrence: Recurrence, time: int) -> dict[str, Tensor]:
    """Data with exact zeros wherever a range holds them: alone, and in pairs."""
    layout = Layout(batch=2, time=time, heads=2)
    data = draw(recurrence, sizes(recurrence), layout, dtype=torch.float64)
    for x in recurrence.inputs:
        r = x.range
        if r is not None and -math.inf < r.low <= 0 < r.high:
            data.tensors[x.name][0, 3::9] = 0.0
            data.tensors[x.name][1, 5::11] = 0.0
            data.tensors[x.name][1, 6::11] = 0.0
    return data.tensors


@pytest.mark.parametrize(
    ("name", "backend"),
    [(n, "torch") for n in ("signed", "signed_late", "hgrn2", "signed_key", "signed_delta_key")]
    + [(n, "torch") for n in ("value_signed", "both_apart", "vector_decayed", "vector_probed")]
    + [("column_signed", "torch")]
    + [("signed_late", "triton"), ("signed_key", "triton"), ("value_signed", "triton")],
)
def test_gradients_at_exact_zeros(name: str, backend: str) -> None:
    """Where a decay is zero its own gradient is that of the product of the others."""
    recurrence = recurrences()[name]
    tensors = zeroed(recurrence, 37)
    dtype = torch.float64 if backend == "torch" else torch.float32
    bound = 1e-10 if backend == "torch" else 1e-5
    true = [tensors[n].clone().requires_grad_() for n in recurrence.arguments]
    mine = [x.detach().to(dtype).requires_grad_() for x in true]
    wanted = interpret(recurrence, dict(zip(recurrence.arguments, true, strict=True))).outputs
    found = getattr(module(name), name)(*mine, backend=backend)[:-1]
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in wanted]
    d_true = torch.autograd.grad(wanted, true, seeds)
    d_mine = torch.autograd.grad(found, mine, [s.to(dtype) for s in seeds])
    for got, want in zip((*found, *d_mine), (*wanted, *d_true), strict=True):
        assert relative_rms(got, want) < bound
    at = [i for i, x in enumerate(true) if bool((x == 0).any())]
    assert at
    assert any(bool(d_true[i][true[i] == 0].abs().max() > 1e-3) for i in at)


def test_a_matrix_for_every_column_is_no_map() -> None:
    """Slices of time are not composed by maps that are larger than all the states on the way."""
    found = {n: composition(chunk_program(analyse(r))) for n, r in recurrences().items()}
    none = [n for n, maps in found.items() if maps is None]
    assert none == [n for n in found if n.startswith("column_")]
