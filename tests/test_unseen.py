"""Coupled, nonlinear and stabilised steps against loops written by hand: values and gradients.

No judge but the loops of `unseen_loops` and autograd through them: plain, packed with shared heads,
and cut in two; in float64 on torch, in float32 on Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import pairwise
from types import ModuleType
from types import SimpleNamespace as Names
from typing import Any

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.compare import relative_rms
from scandsl.testing.data import Data, Layout, draw
from scandsl.testing.interpreter import mend
from scandsl.testing.tolerances import Role, tolerance
from tests.generated import ROOT
from tests.unseen_loops import LOOPS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SPECS = ROOT / "tests" / "unseen.scan"
LENGTHS = (1, 21, 0, 18)  # the checkpoints of a kernel lie 16 steps apart
CUT = 7
Found = dict[str, Tensor]
QUICK = (  # one of each kind; the others are slow tests
    "peephole_lstm", "two_selective_states", "two_key_attention", "tropical_window", "unitary",
    "adam", "hidden_markov", "clockwork",
)  # fmt: skip


def marked(quick: Iterable[str]) -> list[Any]:
    """All steps; those that are not quick run with `-m slow`."""
    slow = pytest.mark.slow
    return [n if n in quick else pytest.param(n, marks=slow) for n in LOOPS]


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(SPECS)).recurrences}


@cache
def module() -> ModuleType:
    return load(SPECS)


def data(recurrence: Recurrence, packed: bool, dtype: torch.dtype) -> Data:
    free = [d.name for d in recurrence.dims if d.size is None and d.base is None]
    sizes = dict(zip(free, (5, 3, 4), strict=False))
    own = {n: (2, 1)[i % 2] for i, n in enumerate(recurrence.arguments)}
    layout = Layout(lengths=LENGTHS, heads=2, own_heads=own) if packed else Layout(2, 19, heads=2)
    return draw(recurrence, sizes, layout, dtype=dtype, seed=3)


def by_hand(recurrence: Recurrence, tensors: Mapping[str, Tensor], bounds: list[int]) -> Found:
    """The loop for every sequence and head, laid out as generated functions lay it out."""
    inputs = {x.name for x in recurrence.inputs}
    heads = max(x.shape[2 if n in inputs else 0] for n, x in tensors.items())
    rows: dict[str, list[Tensor]] = {o.name: [] for o in recurrence.outputs}
    for batch in range(tensors[recurrence.inputs[0].name].shape[0]):
        for begin, end in pairwise(bounds):
            if begin == end:
                continue
            found: dict[str, list[Tensor]] = {name: [] for name in rows}
            for head in range(heads):
                own = {}
                for name, x in tensors.items():
                    shared = heads // x.shape[2 if name in inputs else 0]
                    h = head // shared
                    own[name] = x[batch, begin:end, h] if name in inputs else x[h]
                for name, over_time in LOOPS[recurrence.name](Names(**own)).items():
                    found[name].append(torch.stack(over_time))
            for name, over_heads in found.items():
                rows[name].append(torch.stack(over_heads, 1))
    shape = tensors[recurrence.inputs[0].name].shape[:2]
    return {n: torch.cat(x).reshape(*shape, *x[0].shape[1:]) for n, x in rows.items()}


def weighted(outputs: Found, leaves: Mapping[str, Tensor]) -> Found:
    """Gradients of the outputs in fixed random directions, beside the outputs."""
    torch.manual_seed(7)
    total = torch.zeros((), dtype=torch.float64)
    for x in outputs.values():
        if x.requires_grad:
            total = total + (x.double() * torch.randn(x.shape, dtype=torch.float64)).sum()
    grads = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
    return {**outputs, **{f"d {n}": g for n, g in zip(leaves, grads, strict=True)}}


def leaves_of(given: Data, dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: x.to(dtype).clone().requires_grad_() for n, x in given.tensors.items()}


def judged(found: Found, true: Found, bounds: Callable[[str], float]) -> None:
    assert found.keys() == true.keys()
    errors = {n: relative_rms(found[n].detach(), x.detach()) for n, x in true.items()}
    assert all(e <= bounds(n) for n, e in errors.items()), errors


def called(recurrence: Recurrence, leaves: Mapping[str, Tensor], **more: object) -> Found:
    *outputs, _ = getattr(module(), recurrence.name)(
        *(leaves[n] for n in recurrence.arguments), **more
    )
    return {o.name: x for o, x in zip(recurrence.outputs, outputs, strict=True)}


def bounds_of(recurrence: Recurrence, given: Data) -> list[int]:
    if given.cu_seqlens is not None:
        return [int(x) for x in given.cu_seqlens]
    return [0, given.tensors[recurrence.inputs[0].name].shape[1]]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", marked(QUICK))
def test_torch_agrees_with_loops_by_hand(name: str, packed: bool) -> None:
    recurrence = recurrences()[name]
    given = data(recurrence, packed, torch.float64)
    true = leaves_of(given, torch.float64)
    wanted = weighted(by_hand(recurrence, true, bounds_of(recurrence, given)), true)
    leaves = leaves_of(given, torch.float64)
    found = called(recurrence, leaves, cu_seqlens=given.cu_seqlens, backend="torch")
    judged(weighted(found, leaves), wanted, lambda _: 1e-9)


@pytest.mark.parametrize("name", marked(("residual_windows", "segments")))
def test_a_cut_changes_nothing(name: str) -> None:
    recurrence = recurrences()[name]
    given = data(recurrence, False, torch.float64)
    true = leaves_of(given, torch.float64)
    wanted = weighted(by_hand(recurrence, true, bounds_of(recurrence, given)), true)
    leaves = leaves_of(given, torch.float64)
    inputs = {x.name for x in recurrence.inputs}
    state, parts = None, []
    for at in (slice(0, CUT), slice(CUT, None)):
        here = [leaves[n][:, at] if n in inputs else leaves[n] for n in recurrence.arguments]
        *outputs, state = getattr(module(), name)(
            *here, initial_state=state, output_final_state=True, backend="torch"
        )
        parts.append(outputs)
    joined = (torch.cat(x, 1) for x in zip(*parts, strict=True))
    found = {o.name: x for o, x in zip(recurrence.outputs, joined, strict=True)}
    judged(weighted(found, leaves), wanted, lambda _: 1e-9)


@pytest.mark.parametrize("name", marked(("bilinear",)))
def test_triton_agrees_with_loops_by_hand(name: str) -> None:
    pytest.importorskip("triton")
    mend(module())
    recurrence = recurrences()[name]
    given = data(recurrence, True, torch.float32)
    bounds = bounds_of(recurrence, given)
    true = leaves_of(given, torch.float64)
    wanted = weighted(by_hand(recurrence, true, bounds), true)
    single = leaves_of(given, torch.float32)
    own = weighted(by_hand(recurrence, single, bounds), single)
    leaves = leaves_of(given, torch.float32)
    found = called(recurrence, leaves, cu_seqlens=given.cu_seqlens, backend="triton")

    def bound(name: str) -> float:
        error = relative_rms(own[name].detach(), wanted[name].detach())
        return tolerance(torch.float32, Role.VECTOR, error)

    judged(weighted(found, leaves), wanted, bound)
