"""Counts what chunks take of memory beside arguments and results.

In: the chunk programs of both directions, and sizes.  Out: bytes for one sequence and head.  What a
backward needs is kept: the states at the starts of the chunks.  All else is computed again, a piece
of the sequence at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scandsl.ir.nodes import (
    Const,
    Dims,
    Expand,
    Iota,
    Rename,
    Row,
    Scalar,
    Scores,
    Select,
    Size,
)
from scandsl.kernels.carry_map import sizes_of, with_carry_maps
from scandsl.kernels.factors import gathered
from scandsl.kernels.joint import joint
from scandsl.kernels.program import COLUMN, INNER, ROW, ChunkProgram
from scandsl.plan.limits import PIECE, torch_chunk

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
