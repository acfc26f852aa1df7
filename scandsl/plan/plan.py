"""Decides how a program is carried out.

In: a `Program` and what the caller forces.  Out: a `Plan`: one form for the whole step and the
length of its chunks.  It does not derive kernels (`scandsl.kernels`) and knows no text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scandsl.analysis.program import Form, Program
from scandsl.plan.launches import Table

LEAST_CHUNK, LARGEST_CHUNK = 16, 256
SCHEDULES = ("fused", "split")


@dataclass(frozen=True, slots=True)
class Plan:
    """The form of a whole step, why, and the length of its chunks where the caller forces one.

    Otherwise the length is chosen when the sizes are known: products inside a chunk of C tokens
    cost `C (K + V)` operations per token and those with the state `2 K V`, while a kept state costs
    `K V / C` numbers per token.  So is the schedule of the forward kernels on a GPU: "fused", one
    walk over time that reads the outputs on its way, or "split", a walk that only keeps the states,
    then the outputs of all chunks at once.  `launches` are those that were measured.
    """

    program: Program
    form: Form
    chunk: int | None
    reason: str
    schedule: str | None = None
    launches: Table = field(default_factory=Table)


class PlanError(ValueError):
    """A form or chunk length was forced that the program does not have."""


def make_plan(
    program: Program,
    form: str | None = None,
    chunk: int | None = None,
    schedule: str | None = None,
    launches: Table | None = None,
) -> Plan:
    """Choose the form: what analysis proved, or what the caller forces.

    `form` may be "sequential", "chunk" or "convolution"; `chunk` is a power of two from 16 to 256;
    `schedule` "fused" or "split"; `launches` were measured.
    """
    if form not in (None, Form.CHUNK.value, Form.CONVOLUTION.value, Form.SEQUENTIAL.value):
        raise PlanError(f"unknown form {form!r}: expected 'chunk', 'convolution' or 'sequential'")
    if chunk is not None and (chunk & (chunk - 1) or not LEAST_CHUNK <= chunk <= LARGEST_CHUNK):
        raise PlanError(
            f"chunk length {chunk}: expected a power of two from {LEAST_CHUNK} to {LARGEST_CHUNK}"
        )
    if schedule not in (None, *SCHEDULES):
        raise PlanError(f"unknown schedule {schedule!r}: expected 'fused' or 'split'")
    stages = [stage.form for stage in program.stages]
    chunks = {Form.CHUNK, Form.SCAN}
    if form == Form.CHUNK.value and chunks.isdisjoint((program.form, *stages)):
        raise PlanError(f"`{program.recurrence.name}` has no chunked form: {program.reason}")
    if form == Form.CONVOLUTION.value and Form.INVARIANT not in stages:
        raise PlanError(f"`{program.recurrence.name}` is no time-invariant system")
    if form == Form.SEQUENTIAL.value:
        return Plan(program, Form.SEQUENTIAL, chunk, "the sequential form was asked for")
    return Plan(program, program.form, chunk, program.reason, schedule, launches or Table())
