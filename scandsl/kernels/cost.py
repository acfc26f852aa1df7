"""Counts what kernels move and compute.

In: scheduled kernels and the sizes of a call.  Out: bytes and operations per token and head, for
each kernel and beside them the compulsory bytes (every input read once, every output written once).
Bytes are counted per program that issues the load or store, caches aside.  What a fused walk keeps
of its carries for a backward (`kept`) is counted apart, since it does so only where there is one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from scandsl.ir.nodes import (
    Contract,
    Dims,
    Kind,
    Recurrence,
    Ref,
    Scores,
    ScoresAdjoint,
    Spread,
    Tensor,
)
from scandsl.kernels.pairs import holds_pairs
from scandsl.kernels.precision import cancels
from scandsl.kernels.program import COLUMN, INNER, ROW, Carry, ChunkProgram
from scandsl.kernels.rules import rule
from scandsl.kernels.schedule import Kernel, schedule
from scandsl.plan.launches import TILES
from scandsl.plan.limits import block, chunk_size

WIDE = 4  # bytes of sums, gates and short states


@dataclass(frozen=True, slots=True)
class Setting:
    """Sizes of the dimensions, bytes of an entry of vectors and kept states, tokens in a chunk."""

    sizes: Mapping[str, int]
    item: int
    kept: int
    chunk: int


@dataclass(frozen=True, slots=True)
class KernelCost:
    """Of one launch, per token and head."""

    name: str
    read: float
    written: float
    operations: float
    kept: float = 0.0


def setting(
    recurrence: Recurrence, size: int, item: int, program: ChunkProgram | None = None
) -> Setting:
    """All free dimensions of one size, the static ones of theirs; chunks as `program` has them."""
    kept = WIDE if program is not None and cancels(program) else item
    sizes = {d.name: size if d.size is None else d.size for d in recurrence.dims}
    return Setting(sizes, item, kept, chunk_size(size * planes(recurrence, program), kept))


def planes(recurrence: Recurrence, program: ChunkProgram | None) -> int:
    """How many matrix states of the same dimensions lie side by side in a fused walk.

    A part of a complex one counts twice, for products of complex vectors have four products.
    Where a walk can cut no dimension of a state, that one takes two tiles and all states count, and
    scores decayed entry by entry, or what they weight, as two more: registers have room for two
    tiles beside 16-bit factors, for more only in shorter chunks.
    """
    found: Counter[Dims] = Counter()
    for state in recurrence.states:
        if len(state.dims) > 1:
            paired = state.kind is Kind.COMPLEX or holds_pairs([state.name])
            found[state.dims] += 2 if paired else 1
    alone = max(found.values(), default=1)
    walk = None if program is None else _walk(program)
    if program is None or walk is None or not found:
        return alone
    deep = {dims: n for dims, n in found.items() if len(dims) == max(map(len, found))}
    tiles = sum(n * (1 if {*dims} & {*walk.tiled} else 2) for dims, n in deep.items())
    tiles += 2 * any(_halves(walk, ref) for ref in walk.refs)
    fits = tiles == sum(deep.values()) or (tiles == 2 and not cancels(program))
    return alone if fits else max(alone, tiles)


def _halves(walk: Kernel, ref: Ref) -> bool:
    """Whether a value takes whole rows of vectors, halved again and again."""
    value = walk.program.values[ref]
    match value.op:
        case Scores(over=over) | ScoresAdjoint(over=over) | Spread(over=over):
            return over not in walk.tiled
        case _:
            return False


@lru_cache(maxsize=8)
def _walk(program: ChunkProgram) -> Kernel | None:
    """The fused walk over the chunks of a forward program."""
    return next((k for k in schedule(program, fused=True) if k.loop and k.stores), None)


def compulsory_bytes(recurrence: Recurrence, at: Setting, backward: bool = False) -> float:
    """Inputs and outputs once; in the backward also the cotangents of both."""
    inputs = sum(_row_bytes(t, at) for t in recurrence.inputs)
    outputs = sum(_volume(o.dims, at) * at.item for o in recurrence.outputs)
    return 2 * inputs + outputs if backward else inputs + outputs


def kernel_cost(recurrence: Recurrence, kernel: Kernel, at: Setting) -> KernelCost:
    """Bytes and operations of one launch, per token and head."""
    tensors = {t.name: t for t in (*recurrence.inputs, *recurrence.params)}
    read = sum(
        _row_bytes(tensors[n], at) * _copies(kernel, tensors[n].dims, at) for n in kernel.inputs
    )
    read += sum(
        _volume(c.dims, at) * at.item * _copies(kernel, c.dims, at) for c in kernel.cotangents
    )
    read += sum(
        _kept_bytes(c.dims, at) * _copies(kernel, c.dims, at) / at.chunk for c in kernel.loads
    )
    read += sum(
        _volume(s.dims, at) * (at.item if s.dims else WIDE) * _copies(kernel, s.dims, at)
        for s in kernel.prepared
    )
    kept = kept_bytes(kernel.carries, at)
    written = 0.0
    if not kernel.stores:
        kept, written = 0.0, kept
    for store, partial in zip(kernel.stores, kernel.partial, strict=True):
        parts = math.prod(_tiles(d, kernel, at) for d in partial)
        rows = ROW in kernel.program.values[store.value].dims
        item = WIDE if parts > 1 or not rows else at.item if store.dims else WIDE
        amount = _volume(store.dims, at) * item * parts / (1 if rows else at.chunk)
        written += amount
        read += amount if parts > 1 else 0
    return KernelCost(kernel.name, read, written, _operations(kernel, at), kept)


def kept_bytes(carries: Sequence[Carry], at: Setting) -> float:
    """What is kept per token and head for a backward: the carries at the start of each chunk."""
    return sum(_kept_bytes(c.dims, at) for c in carries) / at.chunk


def _row_bytes(tensor: Tensor, at: Setting) -> float:
    return _volume(tensor.dims, at) * (at.item if tensor.dims else WIDE)


def _kept_bytes(dims: Dims, at: Setting) -> float:
    return _volume(dims, at) * (at.kept if len(dims) >= 2 else WIDE)


def _volume(dims: Sequence[str], at: Setting) -> int:
    return math.prod(_size(d, at) for d in dims)


def _size(dim: str, at: Setting) -> int:
    return at.chunk if dim in (ROW, COLUMN, INNER) else at.sizes[dim]


def _tiles(dim: str, kernel: Kernel, at: Setting) -> int:
    deep = any(len(c.dims) > 2 for c in (*kernel.carries, *kernel.loads))
    return -(-at.sizes[dim] // block(at.sizes[dim], TILES[rule(kernel, deep).tile]))


def _copies(kernel: Kernel, dims: Dims, at: Setting) -> int:
    """How many programs read the same part of a tensor: the tiles of dimensions that it lacks."""
    return math.prod(_tiles(d, kernel, at) for d in kernel.tiled if d not in dims)


def _operations(kernel: Kernel, at: Setting) -> float:
    """Multiplications and additions of the sums over products."""
    total = 0.0
    for value in kernel.program.values:
        if isinstance(value.op, Contract):
            used = (*value.dims, *value.op.over)
            copies = math.prod(_tiles(d, kernel, at) for d in kernel.tiled if d not in used)
            total += 2 * _volume(used, at) * copies / at.chunk
    return total
