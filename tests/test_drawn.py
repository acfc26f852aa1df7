"""Specs put together at random: every form that a scan has agrees with the judge.

Values, final states and all gradients, packed and with a carried state, in float64 for torch
(chunked with short chunks, and sequential) and in float32 for Triton under the interpreter.
"""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load
from scandsl.syntax.format import format_source
from scandsl.testing.compare import Case, backends, runs
from scandsl.testing.data import Layout
from tests.drawn_specs import drawn
from tests.drawn_states import drawn_state

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

FAST, ALL = 40, 400


def is_hard(seed: int) -> bool:
    return seed % 3 == 0


def text_of(seed: int) -> str:
    return drawn(random.Random(seed), is_hard(seed))


def packed(recurrence: Recurrence, lengths: tuple[int, ...]) -> Case:
    own = {name: (1, 2, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}
    return Case(
        "packed", Layout(lengths=lengths, heads=2, own_heads=own), {"K": 3, "V": 5}, carried=True
    )


def judge(
    recurrence: Recurrence,
    module: ModuleType,
    case: Case,
    only: tuple[str, ...],
    dtype: torch.dtype,
) -> None:
    for run in runs(recurrence, module, [case], only=only, dtypes=(dtype,)):
        bad = [v for v in run.verdicts if not v.ok]
        assert run.ok, f"{run.backend}: {run.failure or bad}"


def judge_seed(seed: int, tmp_path: Path, triton: bool) -> None:
    file = tmp_path / "drawn.scan"
    file.write_text(text_of(seed), "utf-8")
    recurrence = check(Source("drawn.scan", text_of(seed))).recurrences[0]
    case = packed(recurrence, (17, 0, 1, 3))
    judge(recurrence, load(file, chunk=16), case, ("torch", "reference"), torch.float64)
    judge(recurrence, load(file, form="sequential"), case, ("torch",), torch.float64)
    module = load(file)
    if triton and "triton" in backends(module, recurrence.name):
        judge(recurrence, module, packed(recurrence, (65, 0, 1)), ("triton",), torch.float32)


@pytest.mark.parametrize("seed", range(FAST))
def test_drawn_specs_agree_with_the_judge(seed: int, tmp_path: Path) -> None:
    judge_seed(seed, tmp_path, triton=seed % 5 == 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FAST, ALL))
def test_more_drawn_specs_agree_with_the_judge(seed: int, tmp_path: Path) -> None:
    judge_seed(seed, tmp_path, triton=True)


def judge_state(seed: int, tmp_path: Path, triton: bool) -> None:
    """One matrix state moved in any order by what has a form in chunks."""
    text = drawn_state(random.Random(seed))
    file = tmp_path / "drawn.scan"
    file.write_text(text, "utf-8")
    recurrence = check(Source("drawn.scan", text)).recurrences[0]
    assert analyse(recurrence).form.value == "chunk"
    module = load(file, chunk=16)
    judge(recurrence, module, packed(recurrence, (0, 1, 35, 2)), ("torch",), torch.float64)
    if triton:
        judge(recurrence, module, packed(recurrence, (18, 0, 1)), ("triton",), torch.float32)


@pytest.mark.parametrize("seed", range(5))
def test_drawn_states_take_chunks(seed: int, tmp_path: Path) -> None:
    judge_state(seed, tmp_path, triton=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 100))
def test_more_drawn_states_take_chunks(seed: int, tmp_path: Path) -> None:
    judge_state(seed, tmp_path, triton=seed % 10 == 0)


def test_drawn_specs_are_varied_and_well_typed() -> None:
    """All of them check; both kinds of form, and most of the language, occur among them."""
    words = (
        "every",
        "for ",
        "lag(",
        "window[",
        "where(",
        "stopgrad",
        "@[R]",
        "K'",
        "scalar",
        "param",
        "grad(",
    )
    texts = [text_of(seed) for seed in range(ALL)]
    assert len(set(texts)) == ALL
    for text in texts:
        front = check(Source("drawn.scan", text))
        assert len(front.recurrences) == 1
    for word in words:
        assert sum(word in text for text in texts) >= 5, word


def test_drawn_specs_survive_formatting() -> None:
    for seed in range(0, ALL, 10):
        once = format_source(Source("drawn.scan", text_of(seed)))
        assert format_source(Source("drawn.scan", once)) == once
        check(Source("drawn.scan", once))
