"""Time-invariant systems by powers of their matrices agree with the judge and with their loop."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

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


def test_rounding_stays_small_over_many_tokens(tmp_path: Path) -> None:
    """S5: the recurrent and the convolution form in float32, 4096 tokens, and all gradients."""
    torch.manual_seed(0)
    count = 4
    shapes = [(1, count), (1, 8), (1, 8), (1, 8), *[(1, 8, count)] * 2, *[(1, count, 8)] * 2]
    u = torch.randn(1, 4096, 1, count)
    log_dt, log, turn = torch.full((1, 8), -4.0), torch.zeros(1, 8), torch.arange(8.0)[None] * 3
    rest = [torch.randn(s) for s in shapes[4:]]
    tensors = [u, log_dt, log, turn, *rest, torch.randn(1, count)]
    found = []
    for form in (None, "convolution"):
        module, _ = example("s5", tmp_path, form)
        given = [x.clone().requires_grad_() for x in tensors]
        out, _ = module.s5(*given)
        found.append((out, *torch.autograd.grad(out.square().sum(), given)))
    for recurrent, convolved in zip(*found, strict=True):
        assert (recurrent - convolved).norm() < 1e-4 * recurrent.norm()
