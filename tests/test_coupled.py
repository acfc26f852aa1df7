"""States that feed each other: which are carried out in chunks, against the judge, and why not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scandsl.analysis.pipeline import analyse
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout

SPECS = Path(__file__).parent / "specs" / "coupled.scan"
SIZES = (3, 5)
TOGETHER = (
    "level_and_trend", "momentum", "three_in_a_ring", "feeding_another", "pair_with_every",
    "pair_in_time", "pair_static",
)  # fmt: skip
ELSEWHERE = ("pair_then_matrix",)
MATRICES = ("matrix_momentum", "probed")
REFUSED = {
    "of_matrices": "more work than the loop",
    "through_a_sum": "`k @ x` takes entries of the state together",
    "pair_mixes_rows": "`x[1]` takes entries of the state together",
    "of_two_shapes": "`u` and `S` have different dimensions",
}


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(SPECS)).recurrences}


@cache
def module() -> ModuleType:
    return load(SPECS)


def test_every_scan_of_the_file_has_its_line_here() -> None:
    assert {*TOGETHER, *ELSEWHERE, *MATRICES, *REFUSED} == set(recurrences())


@pytest.mark.parametrize("name", TOGETHER)
def test_small_matrices_for_each_entry_are_composed(name: str) -> None:
    program = analyse(recurrences()[name])
    assert {c.form.value for c in program.components} == {"scan"}
    assert program.coupled


@pytest.mark.parametrize("name", MATRICES)
def test_matrices_take_part_in_products(name: str) -> None:
    assert {c.form.value for c in analyse(recurrences()[name]).components} == {"chunk"}


@pytest.mark.parametrize("name", REFUSED)
def test_others_stay_in_the_loop_and_say_why(name: str) -> None:
    (component,) = analyse(recurrences()[name]).components
    assert component.form.value == "sequential"
    assert REFUSED[name] in {r.form.value: r.reason for r in component.refused}["scan"]


@pytest.mark.parametrize("name", recurrences())
def test_they_agree_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    free = [d.name for d in recurrence.dims if d.size is None and d.base is None]
    sizes = dict(zip(free, SIZES, strict=False))
    own = {n: (4, 1, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    cases = [
        Case("packed", Layout(lengths=(0, 1, 37, 16, 2), heads=4, own_heads=own), sizes, True),
        Case("plain", Layout(batch=2, time=50, heads=2), sizes),
    ]
    for case in cases:
        for run in runs(recurrence, module(), [case], only=("torch",), dtypes=(torch.float64,)):
            assert run.ok, run
