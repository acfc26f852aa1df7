"""Products with constant matrices leave the loop over tokens of the kernels.

What leaves, and what stays; values, final states and all gradients against the judge, under
Triton's interpreter.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest

from scandsl.analysis import analyse
from scandsl.analysis.hoist import hoisted
from scandsl.diagnostics import Source
from scandsl.driver import Options, check, compile_source
from scandsl.ir.nodes import Contract, Param, Recurrence, operands
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import ROOT, imported

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SPECS = ROOT / "tests" / "specs" / "projected.scan"
# What goes in front, what the loop hands on, which outputs come behind.
TAKEN_OUT = {
    "recurrent": (2, 1, ("y",)),
    "complex_projected": (1, 1, ("y",)),
    "through_lags": (1, 2, ("y",)),
    "in_a_chain": None,
    "not_taken_out": None,
}
EXAMPLES = ("lru", "s5", "linoss")


@cache
def recurrences() -> dict[str, Recurrence]:
    front = check(Source("projected.scan", SPECS.read_text("utf-8")))
    return {r.name: r for r in front.recurrences}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    found = compile_source(Source("projected.scan", SPECS.read_text("utf-8")), Options())
    return imported(found.module, tmp_path_factory.mktemp("projected"), "projected")


@pytest.mark.parametrize("name", TAKEN_OUT)
def test_what_leaves_the_loop(name: str) -> None:
    found = hoisted(analyse(recurrences()[name]))
    expected = TAKEN_OUT[name]
    if found is None or expected is None:
        assert found is None and expected is None
        return
    front, loop, behind = found.stages
    outputs = tuple(o.name for o in behind.program.recurrence.outputs)
    assert (len(front.passed), len(loop.passed), outputs) == expected


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_projection_stays_in_the_loop(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.scan").read_text("utf-8")
    found = hoisted(analyse(check(Source(name, text)).recurrences[0]))
    assert found is not None
    (loop,) = [s.program.recurrence for s in found.stages if s.program.recurrence.states]
    products = [v for v in loop.values if isinstance(v.op, Contract)]
    assert not products, "entries of the state move by themselves, and tiles may cut them"


def test_recurrent_matrices_stay() -> None:
    found = hoisted(analyse(recurrences()["recurrent"]))
    assert found is not None
    loop = found.stages[1].program.recurrence
    inner = {r for v in loop.values if isinstance(v.op, Contract) for r in operands(v.op)}
    matrices = {loop.values[r].op for r in inner} & {Param(n) for n in ("Wz", "Wc", "Rz", "U")}
    assert matrices == {Param("Rz")}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("recurrent", "in_a_chain")))
        for name in TAKEN_OUT
    ],
)
def test_kernels_agree_with_the_judge(name: str, module: ModuleType) -> None:
    recurrence = recurrences()[name]
    own = {n: (1, 2, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    case = Case("packed", Layout(lengths=(9, 0, 1), heads=2, own_heads=own), carried=True)
    found = list(runs(recurrence, module, (case,), only=("torch", "triton")))
    assert {r.backend for r in found} >= {"torch", "triton"}
    for run in found:
        assert run.ok, (run.backend, run.dtype, run.failure, [v for v in run.verdicts if not v.ok])
