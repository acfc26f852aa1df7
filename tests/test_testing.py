"""The judge judged: data keeps its promises, and faults are seen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load
from scandsl.reference import interpret
from scandsl.testing.compare import (
    FEW,
    Bench,
    Run,
    Verdict,
    averaged,
    doubtful,
    pooled,
    relative_rms,
    runs,
    standard_cases,
    state_names,
)
from scandsl.testing.data import LIMIT, SLOPE, Layout, draw
from scandsl.testing.interpreter import interpreting, mend, nearest_bfloat16
from scandsl.testing.tolerances import Role, tolerance

SPEC = """\
scan gated:
    static R = 3
    input q[K], k[R, K] in unit, v[V], g in [-inf, 0], h in (-inf, 0], b in (0, 2], e in [0, inf)
    param w in (0, 1), u[K, V]
    state S[K, V] = u
    S *= w * exp(g + h)
    for r in R:
        S += b * e * k[r] * v
    output o[V] = q @ S
"""


@pytest.fixture(scope="module")
def gated() -> Recurrence:
    return recurrence(SPEC)


def recurrence(text: str) -> Recurrence:
    (found,) = check(Source("test.scan", text)).recurrences
    return found


# ---------------------------------------------------------------- data


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_draws_keep_to_the_declared_ranges(gated: Recurrence, dtype: torch.dtype) -> None:
    t = draw(gated, {"K": 8, "V": 5}, Layout(batch=4, time=64, heads=2), dtype=dtype).tensors
    assert t["q"].shape == (4, 64, 2, 8)
    assert t["k"].shape == (4, 64, 2, 3, 8)
    assert t["u"].shape == (2, 8, 5)
    assert all(x.dtype == dtype for x in t.values())
    t = {name: x.double() for name, x in t.items()}
    assert bool((t["k"].square().sum(-1) <= 1).all())
    assert bool((t["k"].square().sum(-1).sqrt() >= 0.45).all())
    assert bool((t["g"] <= 0).all())
    share = float(t["g"].isinf().double().mean())
    assert 0.01 < share < 0.15
    assert bool(t["h"].isfinite().all())
    assert bool((t["h"] <= -0.9e-3).all())
    assert float(t["h"].min()) < -20
    assert float(t["h"].max()) > -0.01
    assert bool(((t["b"] > 0) & (t["b"] <= 2)).all())
    assert bool((t["b"] == 2).any())
    assert bool(((t["w"] > 0) & (t["w"] < 1)).all())
    assert bool((t["e"] > 0).all())
    assert 0.7 < float(t["q"].square().sum(-1).mean()) < 1.3


def test_the_same_seed_gives_the_same_data(gated: Recurrence) -> None:
    first, again, other = (draw(gated, seed=s).tensors for s in (1, 1, 2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert not torch.equal(first["q"], other["q"])


def test_packed_sequences_and_head_groups(gated: Recurrence) -> None:
    layout = Layout(lengths=(1, 0, 9), heads=4, own_heads={"q": 1, "w": 2})
    data = draw(gated, {"K": 3}, layout, carried=True)
    assert data.tensors["q"].shape[:3] == (1, 10, 1)
    assert data.tensors["v"].shape[:3] == (1, 10, 4)
    assert data.tensors["w"].shape == (2,)
    assert data.cu_seqlens is not None
    assert data.cu_seqlens.tolist() == [0, 1, 1, 10]
    assert data.initial_state is not None
    assert data.initial_state["S"].shape[:2] == (3, 4)


def test_draws_are_shrunk_until_the_state_is_bounded() -> None:
    wild = recurrence(
        "scan wild:\n    input x[D], y[D]\n    state h[D]\n"
        "    h = (3 + x) * h + y\n    output o[D] = h\n"
    )
    with pytest.raises(ValueError, match="no draw keeps the state bounded"):
        draw(wild, layout=Layout(time=400))
    grows = recurrence(
        "scan grows:\n    input x[D], y[D]\n    state h[D]\n"
        "    h = (1 + 5 * x) * h + y\n    output o[D] = h\n"
    )
    tensors = draw(grows, layout=Layout(time=60), dtype=torch.float64).tensors
    assert float(interpret(grows, tensors).outputs[0].abs().max()) <= LIMIT + SLOPE * 60


# ---------------------------------------------------------------- comparison


def test_relative_rms() -> None:
    true = torch.tensor([3.0, -4.0])
    assert relative_rms(true, true) == 0
    assert relative_rms(true * 1.01, true) == pytest.approx(0.01, rel=1e-4)
    assert relative_rms(torch.tensor([3.0, math.nan]), true) == math.inf
    assert relative_rms(true[:1], true) == math.inf
    infinite = torch.tensor([3.0, -math.inf])
    assert relative_rms(infinite, infinite) == 0
    assert relative_rms(torch.tensor([3.0, math.inf]), infinite) == math.inf
    assert relative_rms(torch.tensor([3.0, 7.0]), torch.tensor([3.0, math.nan])) == 0
    assert relative_rms(torch.tensor([0.0, 1e-4]), torch.zeros(2)) > 1e-3
    assert relative_rms(torch.tensor([1, 2]), torch.tensor([1, 3])) == math.inf


def test_the_table_of_tolerances() -> None:
    assert tolerance(torch.float64, Role.OUTPUT, 0.2) == 1e-9
    assert tolerance(torch.float64, Role.OUTPUT, 1.0) == 2.0**-28
    assert tolerance(torch.float64, Role.OUTPUT, 1e6) == 10 * 2.0**-28
    assert tolerance(torch.float64, Role.OUTPUT, math.inf) == 1e-9
    assert tolerance(torch.float32, Role.OUTPUT, 1e-7) == 1e-5
    assert tolerance(torch.float32, Role.GATE, 1e-4) == 2e-4
    assert tolerance(torch.bfloat16, Role.VECTOR, 1.0) == 0.008
    assert tolerance(torch.float16, Role.GATE, 1.0) == 0.02


def module(found: Recurrence, fault: str = "") -> ModuleType:
    """A module that runs the reference, with a planted fault."""

    def function(*tensors: Any, initial_state: Any, cu_seqlens: Any, **_: Any) -> tuple[Any, ...]:
        given = dict(zip(found.arguments, tensors, strict=True))
        if fault == "gradient":
            given["g"] = given["g"].detach()
        if fault == "crash":
            raise RuntimeError("out of luck")
        parts = None if initial_state is None else [initial_state]
        start = None if parts is None else dict(zip(state_names(found), parts, strict=True))
        if fault == "state":
            start = None
        ran = interpret(found, given, initial_state=start, cu_seqlens=cu_seqlens)
        outputs = [x * (1.001 if fault == "output" else 1) for x in ran.outputs]
        return (*outputs, *ran.state.values())

    def step(*tensors: Any, state: Any) -> tuple[Any, ...]:
        inputs = {x.name for x in found.inputs}
        pairs = zip(found.arguments, tensors, strict=True)
        given = {n: x[:, None] if n in inputs else x for n, x in pairs}
        start = None if state is None else {"S": state}
        ran = interpret(found, given, initial_state=None if fault == "step" else start)
        return (*(x[:, 0] for x in ran.outputs), ran.state["S"])

    made = ModuleType("made")
    made.__dict__.update({"gated": function, "gated_step": step, "BACKENDS": ("torch",)})
    return made


def judged(found: Recurrence, fault: str) -> list[Run]:
    cases = standard_cases(found, time=12)
    return list(runs(found, module(found, fault), cases, dtypes=(torch.float64, torch.float32)))


def test_an_honest_module_passes(gated: Recurrence) -> None:
    found = judged(gated, "")
    assert len(found) == 6
    assert all(run.ok for run in found)
    names = {(v.tensor, v.role) for run in found for v in run.verdicts}
    assert {("o", Role.OUTPUT), ("S", Role.STATE), ("q", Role.VECTOR), ("g", Role.GATE)} <= names
    assert ("initial S", Role.VECTOR) in names


@pytest.mark.parametrize(
    ("fault", "seen"),
    [("output", "o"), ("gradient", "g"), ("state", "S"), ("step", "S"), ("crash", "out of luck")],
)
def test_a_planted_fault_is_seen(gated: Recurrence, fault: str, seen: str) -> None:
    failed = [run for run in judged(gated, fault) if not run.ok]
    assert failed
    words = [run.failure or "" for run in failed]
    words += [v.tensor for run in failed for v in run.verdicts if not v.ok]
    assert any(seen in word for word in words)


# ---------------------------------------------------------------- the interpreter's roundings


def test_bfloat16_is_rounded_as_torch_rounds() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (100_000,), generator=generator).to(torch.int32)
    ties = bits & ~0xFFFF | 0x8000
    for x in (bits.view(torch.float32), ties.view(torch.float32)):
        found = torch.from_numpy(nearest_bfloat16(x.numpy()).view("int16")).view(torch.bfloat16)
        torch.testing.assert_close(found, x.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(not interpreting(), reason="kernels run on a GPU")
def test_interpreted_kernels_round_to_nearest() -> None:
    mend()
    from tests import bfloat16_kernels

    x = torch.randn(128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bfloat16_kernels.rounded(x), x.to(torch.bfloat16))


@pytest.mark.skipif(not interpreting(), reason="kernels run on a GPU")
def test_interpreted_products_take_bfloat16() -> None:
    mend()
    from tests import bfloat16_kernels

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 16, 16, generator=generator).to(torch.bfloat16)
    torch.testing.assert_close(bfloat16_kernels.product(a, b), a.float() @ b.float())


@pytest.mark.skipif(not interpreting(), reason="kernels run on a GPU")
def test_modules_are_judged_with_rounded_operands(gated: Recurrence, tmp_path: Path) -> None:
    (tmp_path / "gated.scan").write_text(SPEC, encoding="utf-8")
    module = load(tmp_path / "gated.scan")
    assert module._BFLOAT16_INTERPRETED is False
    (case, _) = standard_cases(gated, 5)
    wanted = {"only": ("triton",), "dtypes": (torch.bfloat16,)}
    assert all(run.ok for run in runs(gated, module, (case,), **wanted))
    assert module._BFLOAT16_INTERPRETED is True


# ---------------------------------------------------------------- few numbers


def _run(*verdicts: tuple[float, float, int]) -> Run:
    """Errors, scales and counts, all against a bound of 0.01."""
    found = (Verdict("x", Role.GATE, e, 0.01, s, n) for e, s, n in verdicts)
    return Run("scan", "case", "torch", torch.bfloat16, tuple(found))


def test_few_numbers_are_judged_over_several_draws() -> None:
    unlucky, usual = _run((0.5, 0.01, 1)), _run((0.004, 1.0, 1))
    assert doubtful(unlucky) and not unlucky.ok
    together = pooled([unlucky, *[usual] * 7])
    assert together.ok and together.verdicts[0].count == 8
    assert not pooled([_run((0.5, 0.01, 1)), *[_run((0.5, 1.0, 1))] * 7]).ok
    assert not pooled([unlucky, *[usual] * 6, _run((math.nan, 1.0, 1))]).ok
    assert not pooled([unlucky, *[usual] * 6, _run((math.inf, 1.0, 1))]).ok


def _wide(error: float, bound: float) -> Run:
    found = Verdict("x", Role.VECTOR, error, bound, 1.0, FEW)
    return Run("scan", "case", "triton", torch.float32, (found,))


def test_rounding_is_judged_on_numbers_next_to_each_other() -> None:
    """What was unlucky once keeps the mean bound; what is wrong everywhere does not."""
    unlucky, usual = _wide(3e-4, 1e-4), _wide(1e-4, 2e-4)
    assert not unlucky.ok
    assert averaged([unlucky, *[usual] * 7]).ok
    assert not averaged([unlucky, *[_wide(3e-4, 2e-4)] * 7]).ok
    assert not averaged([unlucky, *[usual] * 6, _wide(math.nan, 1e-4)]).ok
    assert averaged([unlucky, replace(usual, failure="broke")]).failure == "broke"


def test_neighbours_keep_what_is_promised(gated: Recurrence) -> None:
    (case, _) = standard_cases(gated, 5)
    bench = Bench.prepare(gated, case, torch.float32, 0, "cpu")
    near = bench.next_to(case, 0)
    for x in (*gated.inputs, *gated.params):
        one, other = bench.data.tensors[x.name], near.data.tensors[x.name]
        promised = x.range is not None or x.unit
        assert torch.equal(one, other) == promised
        torch.testing.assert_close(one, other, rtol=2e-7, atol=0)
    assert near.own.keys() == bench.own.keys() and near.own != bench.own


def test_many_numbers_are_judged_in_every_draw() -> None:
    assert not doubtful(_run((0.5, 1.0, FEW))) and not doubtful(_run((0.5, 1.0, 1), (0.5, 1, FEW)))
    mixed = [_run((0.5, 0.01, 1), (0.0, 1.0, FEW)), _run((0.0, 1.0, 1), (0.5, 1.0, FEW))]
    assert not pooled(mixed).ok
