"""Predicts how long tensor operations take: the cost model of the torch backend.

In: a program of chunks or of a step, sizes, what the machine gives.  Out: seconds.  Every value
that is computed costs the start of an operator, and then the longer of its bytes at the speed of a
copy and its operations at that of a large product; products over few numbers reach a part of it.
`scandsl bench --forms` holds the order of forms against the clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scandsl.ir.nodes import (
    Const,
    Contract,
    Dims,
    Expand,
    Input,
    Iota,
    Kind,
    Load,
    Param,
    Ref,
    Rename,
    Row,
    Scalar,
    Scores,
    Select,
    Size,
    Value,
    operands,
)
from scandsl.kernels.carry_map import sizes_of, with_carry_maps
from scandsl.kernels.factors import gathered
from scandsl.kernels.joint import joint
from scandsl.kernels.program import COLUMN, INNER, ROW, ChunkProgram
from scandsl.kernels.step import StepProgram

_FREE = (Const, Expand, Input, Iota, Load, Param, Rename, Row, Scalar, Size, Select)
WIDE = 4


@dataclass(frozen=True, slots=True)
class Speeds:
    """Seconds to start an operator; bytes and operations per second."""

    start: float
    copy: float
    matrix: float


@dataclass(frozen=True, slots=True)
class Call:
    """Sequences, tokens in each, heads."""

    sequences: int
    tokens: int
    heads: int


def chunks_seconds(
    program: ChunkProgram, sizes: Mapping[str, int], call: Call, length: int, speeds: Speeds
) -> float:
    """One direction of the chunked form."""
    mapped = joint(gathered(with_carry_maps(program)))
    known = {**dict.fromkeys((ROW, COLUMN, INNER), length), **sizes}
    known |= {name: sizes[base] for name, base in sizes_of(mapped).items()}
    known |= {d.name: d.size for d in mapped.dims if d.size is not None}
    count = -(-call.tokens // length)
    values = list(enumerate(mapped.values))
    many = count * call.sequences * call.heads
    total = sum(_seconds(mapped.values, r, v, known, many, speeds) for r, v in values)
    for carry in mapped.carries:  # handed from chunk to chunk, all sequences and heads at once
        numbers = _volume(carry.dims, known) * call.sequences * call.heads
        wide = max((known[d] for d in carry.dims), default=1)
        each = max(3 * WIDE * numbers / speeds.copy, 2 * wide * numbers / speeds.matrix)
        total += count * (2 * speeds.start + each)
    return total


def steps_seconds(
    program: StepProgram, sizes: Mapping[str, int], call: Call, speeds: Speeds
) -> dict[str, float]:
    """Both directions of the loop over tokens; the backward runs the steps once more."""
    many = call.sequences * call.heads
    each = sum(
        _seconds(program.values, r, v, sizes, many, speeds) for r, v in enumerate(program.values)
    )
    return {"forward": call.tokens * each / 3, "backward": call.tokens * each}


def _seconds(
    values: tuple[Value, ...],
    ref: Ref,
    value: Value,
    known: Mapping[str, int],
    many: int,
    speeds: Speeds,
) -> float:
    """One value for all chunks, or all heads, at once."""
    op = value.op
    if isinstance(op, _FREE):
        return 0.0
    numbers = _numbers(value, known)
    touched = numbers + sum(_numbers(values[x], known) for x in operands(op))
    moved = many * WIDE * touched / speeds.copy
    if isinstance(op, Contract):
        over = _volume(op.over, known)
        inner = min((over, *(known[d] for d in value.dims[-2:] if d in known)))
        rate = speeds.matrix * inner / (inner + HALF)
        return speeds.start + max(moved, many * 2 * numbers * over / rate)
    if isinstance(op, Scores):
        over = known[op.over]
        rate = speeds.matrix * over / (over + HALF)
        return SCORES * speeds.start + moved + many * 4 * numbers * over / rate
    return speeds.start + moved


HALF = 16
"""The least side of a product that reaches half the speed of a large one."""

SCORES = 12
"""Operators that the scores of decayed keys take."""


def _numbers(value: Value, known: Mapping[str, int]) -> int:
    return _volume(value.dims, known) * (2 if value.kind is Kind.COMPLEX else 1)


def _volume(dims: Dims, known: Mapping[str, int]) -> int:
    return math.prod(known.get(d, 1) for d in dims)
