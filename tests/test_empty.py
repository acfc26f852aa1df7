"""No sequence, or sequences without tokens: shapes, final states and gradients on every form."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.compare import backends
from tests.generated import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SCANS = (  # chunks, a chain of stages, a rotation, loops over tokens
    "kimi_delta_attention",
    "conv_gated_delta_rule",
    "linear_attention",
    "xpos_retention",
    "gru",
    "lru",
)
HEADS, SIZE = 2, 4
CASES = {  # batch, tokens, boundaries
    "no sequence": (0, 5, None),
    "no token": (2, 0, None),
    "packed, no token": (1, 0, (0, 0, 0)),
}


def leaves(recurrence: Recurrence, batch: int, time: int) -> list[Tensor]:
    sizes = {d.name: SIZE if d.size is None else d.size for d in recurrence.dims}
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    inputs = {x.name for x in recurrence.inputs}
    out = []
    for name in recurrence.arguments:
        lead = (batch, time, HEADS) if name in inputs else (HEADS,)
        shape = (*lead, *(sizes[d] for d in declared[name].dims))
        out.append(torch.rand(shape, requires_grad=True))
    return out


def parts(state: object) -> list[Tensor]:
    """The parts of a state that have gradients."""
    found = [state] if isinstance(state, Tensor) else list(state)  # type: ignore[call-overload]
    return [x for x in found if x.dtype != torch.int64]


@pytest.mark.parametrize("form", [None, "sequential"])
@pytest.mark.parametrize("name", SCANS)
def test_nothing_to_do(name: str, form: str | None) -> None:
    path = ROOT / "examples" / f"{name}.scan"
    (recurrence,) = check(read_source(path)).recurrences
    module = load(path, form=form)
    for backend in backends(module, name):
        for case, (batch, time, boundaries) in CASES.items():
            nothing_to_do(module, recurrence, backend, case, (batch, time), boundaries)


def nothing_to_do(
    module: ModuleType,
    recurrence: Recurrence,
    backend: str,
    case: str,
    shape: tuple[int, int],
    boundaries: tuple[int, ...] | None,
) -> None:
    packed = None if boundaries is None else torch.tensor(boundaries)
    how = {"backend": backend, "cu_seqlens": packed, "output_final_state": True}
    sequences = shape[0] if boundaries is None else len(boundaries) - 1
    given = leaves(recurrence, *shape)
    function = getattr(module, recurrence.name)
    *outputs, first = function(*given, **how)
    assert all(x.shape[:3] == (*shape, HEADS) for x in outputs), (backend, case)
    assert all(x.shape[:2] == (sequences, HEADS) for x in parts(first)), (backend, case)
    start = [(x.detach() + 1).requires_grad_() for x in parts(first)]
    state = start[0] if isinstance(first, Tensor) else type(first)(*start)
    *outputs, last = function(*given, **how, initial_state=state)
    assert all(torch.equal(x, y) for x, y in zip(parts(last), start, strict=True))
    total = sum((x.sum() for x in outputs), sum(x.real.sum() for x in parts(last)))
    d_given = torch.autograd.grad(total, [*given, *start], allow_unused=True)
    for x, d in zip(given, d_given, strict=False):
        assert d is None or (d.shape == x.shape and not bool(d.any())), (backend, case)
    assert all(bool((d == 1).all()) for d in d_given[len(given) :]), (backend, case)
