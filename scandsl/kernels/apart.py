"""Finds the vectors that a fused walk computes by themselves, before what looks at its carries.

In: the values of a kernel that walks over chunks, and its results.  Out: those vectors.  Each is a
row of numbers per token that was decayed (or turned) over the rows of its chunk and that nothing
but products of matrices uses.  On its way it takes many registers, as the operand of a product only
few, or shared memory: in a branch of its own, what it is made of is let go behind it.
"""

from __future__ import annotations

from collections.abc import Sequence

from scandsl.ir.nodes import (
    Contract,
    CumProd,
    CumSum,
    Dims,
    Kind,
    Load,
    Ref,
    Value,
    made_of,
    operands,
)
from scandsl.kernels.program import COLUMN, INNER, ROW, Carry

_FEW = 3  # of them, whose tiles registers hold beside all others


def vectors_apart(
    values: Sequence[Value], results: Sequence[Ref], carries: Sequence[Carry]
) -> tuple[Ref, ...]:
    """The decayed vectors that do not look at the carries and are only multiplied as matrices."""
    names = {c.name for c in carries}
    used = made_of(values, results)
    looks = [False] * len(values)
    decayed = [False] * len(values)
    multiplied = set(used) - set(results)
    for ref, value in enumerate(values):
        parts = operands(value.op)
        carried = isinstance(value.op, Load) and value.op.name in names
        looks[ref] = carried or any(looks[r] for r in parts)
        running = isinstance(value.op, CumSum | CumProd) and len(value.dims) == 2
        decayed[ref] = running or any(decayed[r] for r in parts)
        if ref in used and not multiplies(values, value):
            multiplied -= set(parts)
    found = [r for r in sorted(multiplied) if decayed[r] and not looks[r] and _is_vector(values[r])]
    return tuple(found) if len(found) > _FEW else ()


def _is_vector(value: Value) -> bool:
    rows = set(value.dims) & {ROW, COLUMN, INNER}
    return len(value.dims) == 2 and rows == {ROW} and value.kind is Kind.REAL


def multiplies(values: Sequence[Value], value: Value) -> bool:
    """Whether a value is a product of two matrices."""
    op = value.op
    return isinstance(op, Contract) and is_matrix_product(
        values[op.a].dims, values[op.b].dims, op.over
    )


def is_matrix_product(a: Dims, b: Dims, over: Dims) -> bool:
    """Whether a contraction has dimensions of its own on both sides, and shares only the summed."""
    only_a, only_b = set(a) - set(b), set(b) - set(a)
    shared = set(a) & set(b)
    return bool(only_a and only_b) and shared == set(over)
