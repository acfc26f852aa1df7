"""Rebuilding operations on other operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Contract,
    CumProd,
    CumSum,
    Expand,
    Grad,
    Insert,
    Inverse,
    Lag,
    MakeComplex,
    Normalize,
    Op,
    Recur,
    Reduce,
    Ref,
    Rename,
    Scores,
    ScoresAdjoint,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Select,
    Spread,
    Stack,
    StopGrad,
    Tangent,
    Unary,
    Where,
)


def with_operands(op: Op, refs: Sequence[Ref]) -> Op:  # noqa: C901 - one line per operation
    """The same operation on other operands."""
    match op:
        case Unary(fn):
            return Unary(fn, refs[0])
        case Binary(fn):
            return Binary(fn, refs[0], refs[1])
        case Cast():
            return Cast(refs[0])
        case Clamp():
            return Clamp(refs[0], refs[1], refs[2])
        case Where():
            return Where(refs[0], refs[1], refs[2])
        case MakeComplex():
            return MakeComplex(refs[0], refs[1])
        case StopGrad():
            return StopGrad(refs[0])
        case Contract(_, _, over):
            return Contract(refs[0], refs[1], over)
        case Reduce(fn, _, over):
            return Reduce(fn, refs[0], over)
        case Normalize(fn, _, over, eps):
            return Normalize(fn, refs[0], over, eps)
        case Rename(_, pairs):
            return Rename(refs[0], pairs)
        case Select(_, dim, index):
            return Select(refs[0], dim, index)
        case Insert(_, dim, index, _):
            return Insert(refs[0], dim, index, refs[1])
        case Stack(_, dim):
            return Stack(tuple(refs), dim)
        case Expand():
            return Expand(refs[0])
        case CumSum(_, dim, reverse, exclusive):
            return CumSum(refs[0], dim, reverse, exclusive)
        case CumProd(_, dim, reverse, exclusive):
            return CumProd(refs[0], dim, reverse, exclusive)
        case Scores():
            return replace(op, q=refs[0], k=refs[1], a=refs[2])
        case ScoresAdjoint():
            return replace(op, q=refs[0], k=refs[1], a=refs[2], g=refs[3])
        case Spread():
            return replace(op, m=refs[0], x=refs[1], a=refs[2])
        case Recur():
            after = refs[4] if len(refs) > 4 else None
            return replace(op, a=refs[0], b=refs[1], start=refs[2], rows=refs[3], after=after)
        case Tangent():
            x, a, b, start, rows = refs
            return replace(op, x=x, a=a, b=b, start=start, rows=rows)
        case SegmentProduct():
            return replace(op, x=refs[0])
        case Inverse(_, row, column, inner):
            return Inverse(refs[0], row, column, inner)
        case Segment(_, row, column):
            return Segment(refs[0], row, column)
        case SegmentAdjoint(_, row, column):
            return SegmentAdjoint(refs[0], row, column)
        case Lag(_, n):
            return Lag(refs[0], n)
        case Grad():
            return Grad(refs[0], refs[1])
        case _:
            return op
