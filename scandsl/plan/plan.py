"""Decides how a program is carried out.

In: a `Program` and what the caller forces.  Out: a `Plan`: one form for the whole step and the
length of its chunks.  It does not derive kernels (`scandsl.kernels`) and knows no text.
"""

from __future__ import annotations

from dataclasses import dataclass

from scandsl.analysis.program import Form, Program

CHUNK = 64
"""Tokens in a chunk of the torch form.

Products of one chunk cost `C (K + V)` operations per token inside and `2 K V` with the state; at K
= V = 64 the two meet near C = 64, where the matrices are also large enough for a processor's
caches.
"""

LEAST_CHUNK, LARGEST_CHUNK = 16, 256


@dataclass(frozen=True, slots=True)
class Plan:
    """The form of a whole step, the length of its chunks, and why."""

    program: Program
    form: Form
    chunk: int
    reason: str


class PlanError(ValueError):
    """A form or chunk length was forced that the program does not have."""


def make_plan(program: Program, form: str | None = None, chunk: int | None = None) -> Plan:
    """Choose the form: what analysis proved, or what the caller forces.

    `form` may be "sequential" or "chunk"; `chunk` is a power of two from 16 to 256.
    """
    if form not in (None, Form.CHUNK.value, Form.SEQUENTIAL.value):
        raise PlanError(f"unknown form {form!r}: expected 'chunk' or 'sequential'")
    size = CHUNK if chunk is None else chunk
    if size & (size - 1) or not LEAST_CHUNK <= size <= LARGEST_CHUNK:
        raise PlanError(
            f"chunk length {size}: expected a power of two from {LEAST_CHUNK} to {LARGEST_CHUNK}"
        )
    if form == Form.CHUNK.value and program.form is not Form.CHUNK:
        raise PlanError(f"`{program.recurrence.name}` has no chunked form: {program.reason}")
    if form == Form.SEQUENTIAL.value:
        return Plan(program, Form.SEQUENTIAL, size, "the sequential form was asked for")
    chunked = program.form is Form.CHUNK
    return Plan(program, Form.CHUNK if chunked else Form.SEQUENTIAL, size, program.reason)
