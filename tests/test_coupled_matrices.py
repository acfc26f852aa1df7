"""Matrix states that feed each other: in chunks, against loops written by hand and the judge."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.analysis.pipeline import analyse
from scandsl.analysis.program import Couple
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import ROOT, arguments

SPECS = Path(__file__).parent / "specs" / "coupled_matrices.scan"
TOGETHER = (
    "momentum_rule", "momentum_attention", "second_order", "oscillator", "three_in_a_row",
    "three_in_a_ring", "correcting_each_other", "scaled_follower", "vectors_with_momentum",
)  # fmt: skip
ELSEWHERE = {"behind_a_convolution": "chain", "momentum_in_blocks": "blocks"}
REFUSED = {
    "coupled_along_keys": "the coupling `eta` with `M` differs along [K]",
    "read_as_a_whole": "the state is read as a whole in `S`, not by a query",
    "coupled_in_blocks": "depends on an `every` block",
}


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(SPECS)).recurrences}


@cache
def module() -> ModuleType:
    return load(SPECS)


# ---------------------------------------------------------------- what is found


def test_every_scan_of_the_file_has_its_line_here() -> None:
    assert {*TOGETHER, *ELSEWHERE, *REFUSED} == set(recurrences())


@pytest.mark.parametrize("name", TOGETHER)
def test_they_are_one_component_in_chunks(name: str) -> None:
    program = analyse(recurrences()[name])
    (component,) = program.components
    assert program.form.value == component.form.value == "chunk"
    assert set(component.states) == {s.name for s in recurrences()[name].states}
    assert component.contracted == ("K",)
    assert component.free == (() if name == "vectors_with_momentum" else ("V",))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_they_are_part_of_more(name: str) -> None:
    assert analyse(recurrences()[name]).form.value == ELSEWHERE[name]


@pytest.mark.parametrize("name", REFUSED)
def test_others_stay_in_the_loop_and_say_why(name: str) -> None:
    (component,) = analyse(recurrences()[name]).components
    assert component.form.value == "sequential"
    assert REFUSED[name] in component.reason


def test_couplings_that_are_not_there_are_no_events() -> None:
    (component,) = analyse(recurrences()["correcting_each_other"]).components
    assert not [e for e in component.events if isinstance(e, Couple)]
    (component,) = analyse(recurrences()["three_in_a_ring"]).components
    ring = {(e.state, e.other) for e in component.events if isinstance(e, Couple)}
    assert ring == {("A", "B"), ("B", "C"), ("C", "A")}


# ---------------------------------------------------------------- the judge


def sized(recurrence: Recurrence) -> dict[str, int]:
    given = {"K": 5, "V": 3}
    return {d.name: given[d.name] for d in recurrence.dims if d.name in given}


@pytest.mark.parametrize("name", recurrences())
def test_they_agree_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    own = {n: (4, 1, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    sizes = sized(recurrence)
    uneven = Layout(lengths=(0, 1, 37, 0, 64, 65), heads=4, own_heads=own)
    cases = [
        Case("packed", uneven, sizes, carried=True),
        Case("plain", Layout(batch=2, time=40, heads=2), sizes),
    ]
    for run in runs(recurrence, module(), cases, only=("torch", "step"), dtypes=(torch.float64,)):
        assert run.ok, run


@pytest.mark.parametrize(
    "name",
    ["second_order", *(pytest.param(n, marks=pytest.mark.slow) for n in (*TOGETHER, "titans"))],
)
def test_kernels_agree_with_the_judge(name: str) -> None:
    source = ROOT / "examples" / "titans.scan" if name == "titans" else SPECS
    (recurrence,) = (r for r in check(read_source(source)).recurrences if r.name == name)
    made = load(source) if name == "titans" else module()
    own = {n: (2, 1)[i % 2] for i, n in enumerate(recurrence.arguments)}
    layout = Layout(lengths=(0, 19), heads=2, own_heads=own)
    case = Case("packed", layout, sized(recurrence), carried=True)
    for run in runs(recurrence, made, [case], only=("triton",), dtypes=(torch.float32,)):
        assert run.ok, run


# ---------------------------------------------------------------- loops written by hand

Step = Callable[[dict[str, Tensor], dict[str, Tensor]], tuple[Tensor, ...]]


def seen(q: Tensor, state: Tensor) -> Tensor:
    return torch.einsum("bhk,bhkv->bhv", q, state)


def outer(k: Tensor, v: Tensor) -> Tensor:
    return k[..., :, None] * v[..., None, :]


def number(x: Tensor) -> Tensor:
    return x[..., None, None]


def momentum_rule(x: dict[str, Tensor], s: dict[str, Tensor]) -> tuple[Tensor, ...]:
    ahead = number(x["g"].exp()) * s["S"] + number(x["eta"]) * s["M"]
    error = x["theta"][..., None] * (x["v"] - seen(x["k"], ahead))
    s["M"] = number(x["eta"]) * s["M"] + outer(x["k"], error)
    s["S"] = number(x["g"].exp()) * s["S"] + s["M"]
    return seen(x["q"], s["S"]), seen(x["q"], s["M"])


def second_order(x: dict[str, Tensor], s: dict[str, Tensor]) -> tuple[Tensor, ...]:
    old = s["S"]
    s["S"] = number(x["a"]) * s["S"] + number(x["b"]) * s["P"] + outer(x["k"], x["v"])
    s["P"] = old
    return (seen(x["q"], s["S"]),)


def oscillator(x: dict[str, Tensor], s: dict[str, Tensor]) -> tuple[Tensor, ...]:
    cos, sin = number(x["angle"].cos()), number(x["angle"].sin())
    damping, old = number(x["damping"]), s["X"]
    s["X"] = damping * (cos * old - sin * s["Y"]) + outer(x["k"], x["v"])
    s["Y"] = damping * (sin * old + cos * s["Y"]) + outer(x["q"], x["w"])
    last = torch.einsum("bhkv,bhv->bhk", s["Y"], x["v"])
    return seen(x["q"], s["X"]), seen(x["k"], old), last


HAND: dict[str, tuple[Step, dict[str, float]]] = {
    "momentum_rule": (momentum_rule, {"S": 0.0, "M": 0.1}),
    "second_order": (second_order, {"S": 0.0, "P": 0.3}),
    "oscillator": (oscillator, {"X": 0.0, "Y": 0.0}),
}


def by_hand(name: str, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Outputs, then the final states."""
    step, starts = HAND[name]
    batch, time, heads, keys = given["q"].shape
    shape = (batch, heads, keys, given["v"].shape[-1])
    states = {s: torch.full(shape, x, dtype=torch.float64) for s, x in starts.items()}
    rows = []
    for t in range(time):
        here = {n: x if x.dim() == 1 else x[:, t] for n, x in given.items()}
        rows.append(step(here, states))
    outputs = [torch.stack(column, 1) for column in zip(*rows, strict=True)]
    return (*outputs, *states.values())


def gradients(results: tuple[Tensor, ...], tensors: list[Tensor]) -> tuple[Tensor, ...]:
    seed = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=seed, dtype=torch.float64) for r in results]
    total = sum((w.to(r.dtype) * r).sum() for w, r in zip(weights, results, strict=True))
    return torch.autograd.grad(total, tensors)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", HAND)
def test_loops_written_by_hand(name: str, seed: int) -> None:
    recurrence = recurrences()[name]
    tensors, _ = arguments(recurrence, Layout(batch=2, time=83, heads=2), seed=seed)
    given = dict(zip(recurrence.arguments, tensors, strict=True))
    for gate in {"eta", "a", "b"} & set(given):  # exact zeros, alone and in a row
        with torch.no_grad():
            given[gate][:, 3::17] = 0
            given[gate][0, 40:43] = 0
    expected = by_hand(name, given)
    scan = getattr(module(), name)
    *outputs, states = scan(*tensors, output_final_state=True, backend="torch")
    got = (*outputs, *states)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for one, other in zip(gradients(got, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_sequence_cut_in_two_is_the_same() -> None:
    recurrence = recurrences()["correcting_each_other"]
    tensors, _ = arguments(recurrence, Layout(batch=2, time=83, heads=2))
    scan = module().correcting_each_other
    *whole, end = scan(*tensors, output_final_state=True)
    *first, between = scan(*(x[:, :50] for x in tensors), output_final_state=True)
    *second, last = scan(
        *(x[:, 50:] for x in tensors), initial_state=between, output_final_state=True
    )
    joined = [torch.cat(pair, 1) for pair in zip(first, second, strict=True)]
    for one, other in zip((*joined, *last), (*whole, *end), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    wanted = gradients((*whole, *end), tensors)
    for one, other in zip(gradients((*joined, *last), tensors), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_far_decays_are_neither_divided_by_nor_lost() -> None:
    """Gates that leave nothing within a few tokens, in float32: gradients stay as good."""
    recurrence = recurrences()["momentum_rule"]
    tensors, _ = arguments(recurrence, Layout(batch=1, time=130, heads=2))
    given = dict(zip(recurrence.arguments, tensors, strict=True))
    with torch.no_grad():
        given["g"].mul_(60).clamp_(min=-300)
        given["eta"].pow_(8)
    expected = gradients(by_hand("momentum_rule", given), tensors)
    narrow = [x.detach().float().requires_grad_() for x in tensors]
    *outputs, states = module().momentum_rule(*narrow, output_final_state=True, backend="torch")
    found = gradients((*outputs, *states), narrow)
    for one, other in zip(found, expected, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= 3e-6 * other.norm()
