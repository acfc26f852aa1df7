"""Counts what chunks take of memory beside arguments and results.

In: the chunk programs of both directions, and sizes.  Out: bytes for one sequence and head.  What a
backward needs is kept: the states at the starts of the chunks.  All else is computed again, a piece
of the sequence at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.nodes import (
    Const,
    Dims,
    Expand,
    Iota,
    Kind,
    Recur,
    Rename,
    Row,
    Scalar,
    Scores,
    Select,
    Size,
    Value,
)
from scandsl.kernels.carry_map import sizes_of, with_carry_maps
from scandsl.kernels.factors import gathered
from scandsl.kernels.joint import joint
from scandsl.kernels.program import COLUMN, INNER, ROW, ChunkProgram
from scandsl.plan.limits import PIECE, ROWS, ROWS_PIECE, torch_chunk

WIDE = 4  # bytes of a number while it is computed with
INSIDE = 16  # tiles of rows that the functions for vector decays hold
_VIEWS = (Const, Expand, Iota, Rename, Row, Scalar, Size, Select)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes beside arguments and results, for one sequence and head of `tokens`.

    `kept` from the forward to the backward; `working` at most while either computes, on a CPU.
    """

    tokens: int
    chunk: int
    kept: int
    working: int


def torch_memory(
    forward: ChunkProgram,
    backward: ChunkProgram,
    sizes: Mapping[str, int],
    tokens: int,
    chunk: int | None = None,
) -> Memory:
    """What tensor operations take in float32; `chunk` is a forced length."""
    widest = max((c.dims for c in forward.carries), key=len, default=())
    length = chunk or torch_chunk(math.prod(sizes[d] for d in widest))
    count = -(-tokens // length)
    kept = sum(_volume(c.dims, sizes) for c in forward.carries) * count
    broad = max((sizes[d.name] for d in forward.dims if d.name in sizes), default=1)
    piece = max(1, min(count, PIECE // (length * max(broad, length))))
    each = max(_of_a_chunk(p, sizes, length) for p in (forward, backward))
    return Memory(tokens, length, WIDE * kept, WIDE * piece * each)


def rows_memory(
    forward: ChunkProgram,
    backward: ChunkProgram,
    sizes: Mapping[str, int],
    tokens: int,
    chunk: int | None = None,
) -> Memory:
    """The same where all states run along the rows, entry by entry."""
    length = chunk or ROWS
    known = {ROW: length, **sizes}
    count = -(-tokens // length)
    kept = sum(_numbers(c.dims, c.kind, sizes) for c in forward.carries) * count
    most = 0
    for program in (forward, backward):
        values = gathered(program).values
        rows = [_volume(v.dims, known) for v in values if ROW in v.dims]
        piece = ROWS_PIECE // max(rows, default=1)
        piece = min(count, piece if piece >= 4 else 1)
        runs = _runs(values, known) * (2 if piece > 1 else 1)  # once for what chunks leave of zero
        plain = [v for v in values if not isinstance(v.op, (*_VIEWS, Recur))]
        each = runs + sum(_numbers(v.dims, v.kind, known) for v in plain)
        most = max(most, piece * each)
    return Memory(tokens, length, WIDE * kept, WIDE * most)


def _runs(values: Sequence[Value], known: Mapping[str, int]) -> int:
    """Numbers in the rows of all recurrences, with the row that each starts from."""
    longest: dict[Recur, int] = {}
    for value in values:
        if isinstance(value.op, Recur):
            dims = tuple(dict.fromkeys((ROW, *value.dims)))
            numbers = _numbers(dims, value.kind, {**known, ROW: known[ROW] + 1})
            longest[replace(value.op, of="each")] = numbers
    return sum(longest.values())


def _numbers(dims: Dims, kind: Kind, sizes: Mapping[str, int]) -> int:
    """Real numbers in a value."""
    return _volume(dims, sizes) * (2 if kind is Kind.COMPLEX else 1)


def _of_a_chunk(program: ChunkProgram, sizes: Mapping[str, int], length: int) -> int:
    """Numbers that one chunk fills, were nothing given back before the next."""
    mapped = joint(gathered(with_carry_maps(program)))
    known = {**dict.fromkeys((ROW, COLUMN, INNER), length), **sizes}
    known |= {name: sizes[base] for name, base in sizes_of(mapped).items()}
    known |= {d.name: d.size for d in mapped.dims if d.size is not None}
    values = [v for v in mapped.values if not isinstance(v.op, _VIEWS)]
    total = sum(_volume(v.dims, known) for v in values)
    decayed = [v.op for v in values if isinstance(v.op, Scores)]
    inside = max((length * known[op.over] for op in decayed), default=0)
    return total + INSIDE * inside


def _volume(dims: Dims, sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[d] for d in dims)
