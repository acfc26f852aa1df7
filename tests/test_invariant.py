"""Time-invariant systems by powers of their matrices agree with the judge and with their loop."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.analysis.program import Form, Program
from scandsl.diagnostics import Source
from scandsl.driver import Options, check, compile_source
from scandsl.ir.nodes import Recurrence
from scandsl.plan import PlanError, make_plan
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import ROOT, example, imported

SPECS = ROOT / "tests" / "specs" / "invariant.scan"
SOURCE = Source("invariant.scan", SPECS.read_text(encoding="utf-8"))
RECURRENCES = {r.name: r for r in check(SOURCE).recurrences}
STAGES = {
    "level_and_trend": "map invariant",
    "looking_back": "invariant map",
    "channels": "map invariant map",
    "cascade": "map invariant invariant",
    "complex_matrix": "invariant",
    "by_entries": "invariant",
}


def forms(program: Program) -> str:
    return " ".join(s.form.value for s in program.stages)


@pytest.mark.parametrize("name", STAGES)
def test_systems_are_stages(name: str) -> None:
    program = analyse(RECURRENCES[name], "convolution")
    assert forms(program) == STAGES[name]
    assert {c.form for c in program.components} == {Form.CONVOLUTION}


def test_what_is_parallel_anyhow_is_a_convolution_only_if_asked_for() -> None:
    plain = analyse(RECURRENCES["by_entries"])
    assert Form.CONVOLUTION not in {c.form for c in plain.components}
    with pytest.raises(PlanError):
        make_plan(plain, "convolution")


def test_a_matrix_that_varies_is_no_system() -> None:
    text = """
scan varying:
    input x[N], a
    param A[N, N']
    state h[N]
    h = a * (A @ h[N']) + x
    output y[N] = h
"""
    (recurrence,) = check(Source("varying.scan", text)).recurrences
    assert analyse(recurrence, "convolution").form is Form.SEQUENTIAL


def test_a_constant_part_is_no_linear_function_of_what_drives() -> None:
    """Beside a zero the real part drives alone; beside 0.3 it would lose that."""
    text = """
scan shifted:
    input x
    param A[N, N'], B[N]
    state h[N]: complex
    h = 0.2 * (A @ h[N']) + complex(x * B, {})
    output y = re(sum[N](h))
"""
    for number, form in (("0", Form.CONVOLUTION), ("0.3", Form.SEQUENTIAL)):
        (recurrence,) = check(Source("shifted.scan", text.format(number))).recurrences
        (component,) = analyse(recurrence, "convolution").components
        assert component.form is form


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    found = compile_source(SOURCE, Options(form="convolution"))
    return imported(found.module, tmp_path_factory.mktemp("invariant"), "invariant")


def cases(recurrence: Recurrence) -> tuple[Case, ...]:
    own = {name: (1, 2, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}
    packed = Layout(lengths=(37, 0, 1, 16, 32, 2, 0), heads=2, own_heads=own)
    return (
        Case("plain", Layout(batch=2, time=53, heads=2)),
        Case("carried", Layout(batch=2, time=48, heads=2, own_heads=own), carried=True),
        Case("short", Layout(batch=1, time=3, heads=2), carried=True),
        Case("packed and carried", packed, carried=True),
    )


@pytest.mark.parametrize("name", STAGES)
def test_systems_agree_with_the_judge(name: str, module: ModuleType) -> None:
    recurrence = RECURRENCES[name]
    for run in runs(
        recurrence, module, cases(recurrence), only=("torch",), dtypes=(torch.float64,)
    ):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", STAGES)
def test_the_transform_agrees_with_the_judge(
    name: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same by a Fourier transform, which is chosen for large systems only."""
    calls = []

    def always(rows: int, length: int, m: object, pieces: Any) -> bool:
        calls.append(length)
        return pieces.index is None and length > 1

    monkeypatch.setattr(module, "_by_transform", always)
    recurrence = RECURRENCES[name]
    only, dtypes = ("torch",), (torch.float64,)
    for run in runs(recurrence, module, cases(recurrence)[:3], only=only, dtypes=dtypes):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])
    assert calls


def test_the_transform_is_for_large_systems(module: ModuleType) -> None:
    """A chunk is as long as the walk over chunks is dear; transforms take sequences as a whole."""

    def chosen(rows: int, size: int, packed: bool = False) -> bool:
        a, b = torch.empty(1, size, size), torch.empty(1, size, 1)
        m = module._Matrices(a, b, b.mT, torch.empty(1, 1, 1))
        bounds = torch.tensor([0, 4096]) if packed else None
        pieces = module._stretches(4096, module._stretch_size(rows, 4096, m), bounds)
        found: bool = module._by_transform(rows, 4096, m, pieces)
        return found

    assert not chosen(1, 64) and chosen(32, 256) and not chosen(32, 256, packed=True)


def s4_and_s5() -> dict[str, tuple[str | None, list[torch.Tensor]]]:
    """Their recurrent form, and tensors whose states last for some hundred tokens."""
    torch.manual_seed(0)
    n, m = 8, 4
    low = [0.3 * torch.randn(1, 2, n) for _ in range(2)]
    poles = [
        torch.full((1, 2), -4.0),
        torch.zeros(1, 2, n),
        3 * torch.arange(2.0 * n).view(1, 2, n),
    ]
    s4 = [torch.randn(1, 4096, 1, 2), *poles, *low, *torch.randn(4, 1, 2, n), torch.randn(1, 2)]
    poles = [torch.full((1, n), -4.0), torch.zeros(1, n), 3 * torch.arange(1.0 * n)[None]]
    maps = [*torch.randn(2, 1, n, m), *torch.randn(2, 1, m, n)]
    s5 = [torch.randn(1, 4096, 1, m), *poles, *maps, torch.randn(1, m)]
    return {"s4": ("sequential", s4), "s5": (None, s5)}


@pytest.mark.parametrize("name", ["s4", "s5"])
def test_rounding_stays_small_over_many_tokens(name: str, tmp_path: Path) -> None:
    """The recurrent and the convolution form in float32, 4096 tokens, and all gradients."""
    recurrent, tensors = s4_and_s5()[name]
    found = []
    for form in (recurrent, "convolution"):
        module, _ = example(name, tmp_path, form)
        given = [x.clone().requires_grad_() for x in tensors]
        out, _ = getattr(module, name)(*given)
        found.append((out, *torch.autograd.grad(out.square().sum(), given)))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 1e-4 * one.norm()
