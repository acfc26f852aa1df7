"""Decays of every size, in short: digits in float64, factors of any size and sign."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.reference import interpret
from scandsl.testing.compare import relative_rms
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT

TIME, SIZE = 400, 16
FLOOR = 1e-9  # an error that is none, whatever the loop's is
GATES = {"wide": -50.0, "mild": -5.0}  # the least, the greatest is 0


def values_and_gradients(
    recurrence: Recurrence, tensors: Mapping[str, Tensor], dtype: torch.dtype, function: object
) -> dict[str, Tensor]:
    """Outputs and gradients of all arguments, by a generated function or by the judge."""
    leaves = {n: x.to(dtype, copy=True).requires_grad_() for n, x in tensors.items()}
    given = [leaves[n] for n in recurrence.arguments]
    if callable(function):
        outputs = function(*given, backend="torch")[:-1]
    else:
        outputs = interpret(recurrence, leaves, compute_dtype=dtype).outputs
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(o.shape, generator=generator).to(dtype) for o in outputs]
    grads = torch.autograd.grad(outputs, given, seeds)
    named = zip(recurrence.arguments, grads, strict=True)
    return {**{f"output {i}": o for i, o in enumerate(outputs)}, **dict(named)}


def gated(recurrence: Recurrence, gate: str, kind: str) -> dict[str, Tensor]:
    sizes = {d.name: SIZE for d in recurrence.dims if d.size is None and d.base is None}
    layout = Layout(batch=1, time=TIME, heads=1)
    tensors = draw(recurrence, sizes, layout, dtype=torch.float32).tensors
    generator = torch.Generator().manual_seed(2)
    tensors[gate] = GATES[kind] * (1 - torch.rand(tensors[gate].shape, generator=generator))
    return tensors


def test_float64_keeps_its_digits() -> None:
    """Sums of logarithms run outward; a difference of running sums would lose three digits."""
    file = ROOT / "examples/simple_gla.scan"
    recurrence = check(read_source(file)).recurrences[0]
    tensors = {n: x.double() for n, x in gated(recurrence, "g", "wide").items()}
    true = values_and_gradients(recurrence, tensors, torch.float64, None)
    found = values_and_gradients(recurrence, tensors, torch.float64, load(file).simple_gla)
    assert max(relative_rms(found[k], x) for k, x in true.items()) < 2e-15


@pytest.mark.parametrize("least", [-0.3, -2.0, -35.0])
@pytest.mark.parametrize("name", ["signed", "signed_key", "value_signed", "signed_delta"])
def test_factors_of_any_size_and_sign(name: str, least: float) -> None:
    """Down to 1e-35, a tenth of them zero: as good as the loop, gradients of the decay included."""
    file = ROOT / "tests/specs/decays.scan"
    recurrence = next(r for r in check(read_source(file)).recurrences if r.name == name)
    tensors = gated(recurrence, "d", "mild")
    generator = torch.Generator().manual_seed(3)
    shape = tensors["d"].shape
    size = 10 ** (torch.rand(shape, generator=generator) * least)
    drawn = torch.where(torch.rand(shape, generator=generator) < 0.5, -size, size)
    tensors["d"] = torch.where(torch.rand(shape, generator=generator) < 0.1, 0.0, drawn)
    true = values_and_gradients(recurrence, tensors, torch.float64, None)
    loop = values_and_gradients(recurrence, tensors, torch.float32, None)
    function = getattr(load(file), name)
    narrow = values_and_gradients(recurrence, tensors, torch.float32, function)
    wide = values_and_gradients(recurrence, tensors, torch.float64, function)
    for key, want in true.items():
        assert relative_rms(narrow[key], want) <= 2 * relative_rms(loop[key], want) + FLOOR, key
        assert relative_rms(wide[key], want) < 2e-15, key
