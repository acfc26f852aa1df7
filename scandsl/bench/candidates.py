"""Held against the clock: which of a scan's forms the cost model takes for the fastest.

In: a `Job` and a `Shape` on a CPU.  Out: milliseconds of forward and backward of every candidate,
predicted and measured, and in how many pairs both have the same order.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import torch

from scandsl.analysis.program import Form
from scandsl.bench.contenders import Job, Shape
from scandsl.bench.inputs import all_sizes
from scandsl.bench.machine import Rates, lap
from scandsl.kernels.backward import backward_program
from scandsl.kernels.chunk_pairs import real_chunks, runs
from scandsl.kernels.predict import Call, Speeds, chunks_seconds, steps_seconds
from scandsl.kernels.step import step_program
from scandsl.kernels.tangents import without_tangents
from scandsl.plan import Plan
from scandsl.render.lowering import lower
from scandsl.render.sequential_triton import step_of

CHUNKS = (16, 32, 64, 128, 256)
APART = 1.15
"""Two measured times whose ratio is less are taken for the same."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A form, the length of its chunks if it has some, milliseconds."""

    form: str
    chunk: int | None
    predicted: float
    measured: float

    @property
    def name(self) -> str:
        """For a table."""
        return self.form if self.chunk is None else f"{self.form} of {self.chunk}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """All candidates of one scan at one shape."""

    scan: str
    shape: Shape
    candidates: tuple[Candidate, ...]

    @property
    def pairs(self) -> list[bool]:
        """Of each pair that the clock tells apart, whether the model has its order."""
        return [
            (a.measured < b.measured) == (a.predicted < b.predicted)
            for a, b in combinations(self.candidates, 2)
            if max(a.measured, b.measured) >= APART * min(a.measured, b.measured)
        ]

    @property
    def lost(self) -> float:
        """How many times the least measured time the model's choice takes."""
        chosen = min(self.candidates, key=lambda c: c.predicted)
        return chosen.measured / min(c.measured for c in self.candidates)

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        each = [asdict(c) for c in self.candidates]
        return {"scan": self.scan, **asdict(self.shape), "candidates": each, "lost": self.lost}


def speeds(rates: Rates) -> Speeds:
    """What the model asks of a machine: the start of an operator is measured here."""
    small = torch.zeros(8, 8)
    return Speeds(statistics.median(lap(lambda: small + 1.0, "cpu") for _ in range(2000)) / 1e3,
                  rates.copy, rates.matrix)  # fmt: skip


def compare(job: Job, shape: Shape, at: Speeds, rounds: int) -> Comparison:
    """Predict, then measure all candidates in turn, in this process."""
    plan = job.plan()
    predicted = list(_predicted(plan, job, shape, at))
    calls = [_call(job, shape, form, chunk) for form, chunk, _ in predicted]
    laps: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, found in zip(calls, laps, strict=True):
            if turn == 0:
                call()
            elif len(found) < 2 or found[0] < SLOW:
                found.append(lap(call, job.device))
    each = [
        Candidate(form, chunk, seconds * 1e3, statistics.median(found))
        for (form, chunk, seconds), found in zip(predicted, laps, strict=True)
    ]
    return Comparison(job.scan, shape, tuple(each))


SLOW = 1000.0  # milliseconds beyond which a candidate is timed twice at most


def _predicted(
    plan: Plan, job: Job, shape: Shape, at: Speeds
) -> Iterator[tuple[str, int | None, float]]:
    """Form, chunk length and seconds of every candidate."""
    sizes = all_sizes(plan.program.recurrence, shape.sizes)
    sequences = len(shape.lengths) or shape.batch
    call = Call(sequences, shape.batch * shape.time // sequences, shape.heads)
    if plan.form is Form.CHUNK:
        recurrence, forward = real_chunks(plan.program)
        if not runs(forward):
            backward = backward_program(forward, recurrence.inputs, recurrence.params).program
            both = (without_tangents(forward), backward)
            for chunk in CHUNKS:
                seconds = sum(chunks_seconds(p, sizes, call, chunk, at) for p in both)
                yield "chunk", chunk, seconds
    recurrence = plan.program.recurrence
    step = step_program(step_of(lower(recurrence)))
    yield "sequential", None, sum(steps_seconds(step, sizes, call, at).values())


def _call(job: Job, shape: Shape, form: str, chunk: int | None) -> Callable[[], object]:
    forced = replace(job, options=replace(job.options, form=form, chunk=chunk))
    function = getattr(forced.module(), job.scan)
    leaves = [x.requires_grad_() for x in job.tensors(shape)]
    grad, marks = job.cotangent(shape), job.marks(shape)

    def both() -> object:
        out = function(*leaves, cu_seqlens=marks, backend="torch")[0]
        return torch.autograd.grad(out, leaves, grad.to(out.dtype), allow_unused=True)

    return both


def agreement(found: Sequence[Comparison]) -> tuple[int, int]:
    """Pairs in the order that was measured, and all that the clock tells apart."""
    pairs = [x for c in found for x in c.pairs]
    return sum(pairs), len(pairs)
