"""Finds a dimension that a kernel may walk over in strips, adding up what it sums over it.

In: the values of a kernel and its results.  Out: a dimension that every use of it sums away, and
what is printed before the walk, inside, and behind it.  A strip takes a fraction of the registers
and of the shared memory that the whole dimension takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Dim,
    Expand,
    Input,
    Insert,
    Iota,
    Load,
    Normalize,
    Param,
    Reduce,
    Ref,
    Rename,
    Scores,
    Select,
    Stack,
    StopGrad,
    Unary,
    Value,
    Where,
    operands,
)
from scandsl.kernels.program import ROW

_BY_ENTRY = (
    Binary, Cast, Clamp, Const, Expand, Input, Iota, Load, Param, StopGrad, Unary, Where,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Strips:
    """A dimension, the values before the walk over it and inside, and the sums among the latter."""

    dim: str
    before: tuple[Ref, ...]
    inside: tuple[Ref, ...]
    sums: tuple[Ref, ...]


def strips(
    dims: Sequence[Dim], values: Sequence[Value], refs: Sequence[Ref], results: Sequence[Ref]
) -> Strips | None:
    """The first dimension that can be walked over in strips."""
    for dim in dims:
        if dim.size is None and dim.base is None and not dim.name.startswith("#"):
            found = _along(dim.name, values, refs, results)
            if found is not None:
                return found
    return None


def _along(
    dim: str, values: Sequence[Value], refs: Sequence[Ref], results: Sequence[Ref]
) -> Strips | None:
    sums: list[Ref] = []
    inside: list[Ref] = []
    behind: set[Ref] = set()  # what needs a sum
    for ref in refs:
        parts = operands(values[ref].op)
        late = bool(behind.intersection(parts))
        if dim in values[ref].dims:
            if late or ref in results or not _by_entry(values[ref], dim):
                return None
            inside.append(ref)
        elif any(dim in values[r].dims for r in parts):
            if late or not _sums(values[ref], dim):
                return None
            inside.append(ref)
            sums.append(ref)
            late = True
        if late:
            behind.add(ref)
    if not sums:
        return None
    return Strips(dim, _needed(values, refs, inside), tuple(inside), tuple(sums))


def _needed(values: Sequence[Value], refs: Sequence[Ref], inside: Sequence[Ref]) -> tuple[Ref, ...]:
    """What the values inside are made of, these aside."""
    found = set(inside)
    for ref in reversed(refs):
        if ref in found:
            found.update(operands(values[ref].op))
    return tuple(r for r in refs if r in found and r not in set(inside))


def _by_entry(value: Value, dim: str) -> bool:
    """Whether each entry along a dimension is made of the same entries of the operands."""
    if isinstance(value.op, CumSum | CumProd | Insert | Select | Stack):
        return value.op.dim != dim
    if isinstance(value.op, Contract | Normalize | Reduce):
        return dim not in value.op.over
    if isinstance(value.op, Rename):
        return not any(dim in pair for pair in value.op.pairs)
    return isinstance(value.op, _BY_ENTRY)


def _sums(value: Value, dim: str) -> bool:
    """Whether a value is a sum over a dimension, by rows."""
    if ROW not in value.dims:
        return False
    match value.op:
        case Contract(_, _, over):
            return dim in over
        case Reduce(fn, _, over):
            return fn == "sum" and dim in over
        case Scores(over=over):
            return over == dim
        case _:
            return False
