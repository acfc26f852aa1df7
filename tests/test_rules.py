"""Steps that take rules which hardly any other spec does: their forms and their numbers."""

from __future__ import annotations

from functools import cache
from types import ModuleType

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.compare import Case, runs, standard_cases
from scandsl.testing.data import Layout
from tests.generated import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

FILE = ROOT / "tests" / "specs" / "rules.scan"
# The form, and for those without a parallel one what the reason names.
FORMS = {
    "complex_functions": ("sequential", "`tanh(s)` is the tanh of a value that depends"),
    "clamped": ("scan", "entry by entry"),
    "clamped_twice": ("sequential", "`clamp(m + g, x, 3)` is not linear in the state"),
    "turned_round": ("scan", "entry by entry"),
    "exponents": ("chunk", ""), "turned_square": ("chunk", ""), "decayed_square": ("chunk", ""),
    "marked": ("chunk", ""), "separable": ("chunk", ""), "shared_out": ("chunk", ""),
    "strength_of_the_largest": ("chunk", ""), "strength_of_all": ("chunk", ""),
    "written_beside_momentum": ("chunk", ""), "two_pairs": ("chain", ""),
    "one_more": ("chunk", ""),
    "parts_missing": ("sequential", "tanh"),
    "within_a_sum": ("chunk", ""), "looked_at": ("chunk", ""), "probed_sum": ("chunk", ""),
}  # fmt: skip
TRITON = ("complex_functions", "clamped", "turned_round", "exponents", "marked",
    "strength_of_the_largest", "parts_missing",
)  # fmt: skip


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(FILE)).recurrences}


@cache
def module() -> ModuleType:
    return load(FILE)


@pytest.mark.parametrize("name", recurrences())
def test_forms(name: str) -> None:
    found = analyse(recurrences()[name])
    form, reason = FORMS[name]
    assert found.form.value == form
    assert reason in found.reason


@pytest.mark.parametrize("name", recurrences())
def test_numbers(name: str) -> None:
    recurrence = recurrences()[name]
    dtypes = (torch.float64, torch.float32)
    only = ("torch", "step", *(["triton"] if name in TRITON else []))
    for run in runs(recurrence, module(), standard_cases(recurrence, 37), only=only, dtypes=dtypes):
        bad = [v for v in run.verdicts if not v.ok]
        assert run.ok, (run.backend, run.case, run.dtype, run.failure, bad)


@pytest.mark.parametrize("name", ["strength_of_the_largest", "strength_of_all"])
def test_vectors_longer_than_a_strip(name: str) -> None:
    """Kernels that prepare a chunk walk over K in strips of 32, but not past a maximum over it."""
    recurrence = recurrences()[name]
    case = Case("wide", Layout(batch=1, time=19, heads=1), {"K": 40, "V": 5})
    for run in runs(recurrence, module(), [case], only=("triton",), dtypes=[torch.float32]):
        assert run.ok, (run.failure, [v for v in run.verdicts if not v.ok])
