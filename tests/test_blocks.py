"""Steps with `every` blocks: which are cut, and that the chunks agree with the judge."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.analysis.pipeline import analyse
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.reference import interpret
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout, draw

SPECS = Path(__file__).parent / "specs" / "blocks.scan"
SIZES = (3, 5, 2)
CUT = {  # tokens in a chunk; none for steps that are not cut
    "gated_descent": 8, "cleared": None, "keys_of_slow_weights": 12, "two_periods": 8,
    "long_block": 50, "entry_by_entry": 8, "both_kinds": 16, "set_last": None, "too_short": None,
    "nonlinear_inside": None, "nested_every": 4, "every_local": 8, "every_uses_inputs": 8,
    "ttt_mlp_batch": 4, "stop_through_block": 8, "complex_block": None,
}  # fmt: skip


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(SPECS)).recurrences}


@cache
def module() -> ModuleType:
    return load(SPECS)


def sizes(recurrence: Recurrence) -> dict[str, int]:
    free = [d.name for d in recurrence.dims if d.size is None and d.base is None]
    return dict(zip(free, SIZES, strict=False))


@pytest.mark.parametrize("name", CUT)
def test_what_comes_first_in_a_step_cuts_it(name: str) -> None:
    program = analyse(recurrences()[name])
    assert (None if program.block is None else program.block.tokens) == CUT[name]
    forms = {c.form.value for c in program.components}
    assert (forms == {"blocks"}) == (program.block is not None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("set_last", "`F` is read before the `every` block that sets it"),
        ("too_short", "blocks start every 2 tokens"),
        ("complex_block", "`x` is complex"),
        ("nonlinear_inside", "is the tanh of a value that depends on the state"),
    ],
)
def test_what_is_not_cut_says_why(name: str, reason: str) -> None:
    program = analyse(recurrences()[name])
    refused = [r.reason for c in program.components for r in c.refused if r.form.value == "blocks"]
    assert refused and all(reason in r for r in refused)


@pytest.mark.parametrize("name", CUT)
def test_chunks_between_starts_agree_with_the_judge(name: str) -> None:
    recurrence = recurrences()[name]
    own = {n: (4, 1, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    lengths = (0, 1, 37, 0, 2, 16, 5)
    cases = [
        Case("packed", Layout(lengths=lengths, heads=4, own_heads=own), sizes(recurrence), True),
        Case("carried", Layout(batch=2, time=39, heads=2), sizes(recurrence), True),
        Case("plain", Layout(batch=2, time=115, heads=1), sizes(recurrence)),
    ]
    for case in cases:
        for run in runs(recurrence, module(), [case], only=("torch",), dtypes=(torch.float64,)):
            assert run.ok, run


@pytest.mark.parametrize("name", ["gated_descent", "two_periods", "both_kinds"])
def test_sequences_at_different_places_of_a_block_go_on_together(name: str) -> None:
    """Rows of a batch, each cut at another token, and continued at once."""
    recurrence, function = recurrences()[name], getattr(module(), name)
    layout = Layout(batch=3, time=60, heads=2)
    tensors = draw(recurrence, sizes(recurrence), layout, dtype=torch.float64).tensors
    whole = interpret(recurrence, tensors)
    inputs = {x.name for x in recurrence.inputs}
    cuts = (3, 16, 29)

    def call(part: dict[str, Tensor], **more: object) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        *outputs, state = function(
            *(part[n] for n in recurrence.arguments), output_final_state=True, **more
        )
        return outputs, tuple(state)

    def rows(row: int, start: int, stop: int) -> dict[str, Tensor]:
        return {n: x[row : row + 1, start:stop] if n in inputs else x for n, x in tensors.items()}

    states = [call(rows(i, 0, c))[1] for i, c in enumerate(cuts)]
    joined = [torch.cat(parts) for parts in zip(*states, strict=True)]
    later = [rows(i, c, c + 31) for i, c in enumerate(cuts)]
    rest = {n: torch.cat([x[n] for x in later]) if n in inputs else x for n, x in tensors.items()}
    outputs, _ = call(rest, initial_state=type(call(rows(0, 0, 1))[1])(joined))
    for got, want in zip(outputs, whole.outputs, strict=True):
        for row, cut in enumerate(cuts):
            torch.testing.assert_close(got[row], want[row, cut : cut + 31])
