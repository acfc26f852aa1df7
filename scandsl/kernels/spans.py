"""Decays over a chunk that the decays between its rows tell on the way.

In: the values of a chunk program.  Out: which of them are products of decays from the chunk's start
to a row, from a row to its end, or over all of it, and of which decays.  Scores of vectors that
decay take the same products over ever longer stretches; the last of these is the whole chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.ir.nodes import (
    Const,
    CumSum,
    Reduce,
    Ref,
    Scores,
    ScoresAdjoint,
    Spread,
    Unary,
    Value,
    Where,
)
from scandsl.kernels.program import ROW


@dataclass(frozen=True, slots=True)
class Span:
    """A product of decays: `of` is `through` (with the row's own), `since`, `until` or `total`.

    `until` is zero in rows without a token, which `rows` tells.
    """

    decays: Ref
    block: int
    of: str
    rows: Ref | None = None


def spans(values: Sequence[Value]) -> dict[Ref, Span]:
    """The values that are such products of decays by which scores are weighted, too."""
    blocks: dict[Ref, int] = {}
    for value in values:
        if isinstance(value.op, Scores | ScoresAdjoint | Spread) and not value.op.factors:
            blocks.setdefault(value.op.a, value.op.block)
    if not blocks:
        return {}
    found = ((ref, _span(values, value, blocks)) for ref, value in enumerate(values))
    return {ref: span for ref, span in found if span is not None}


def _span(values: Sequence[Value], value: Value, blocks: dict[Ref, int]) -> Span | None:
    if not (isinstance(value.op, Unary) and value.op.fn == "exp"):
        return None
    match values[value.op.x].op:
        case CumSum(x, dim, False, exclusive) if dim == ROW and x in blocks:
            return Span(x, blocks[x], "since" if exclusive else "through")
        case Reduce("sum", x, over) if tuple(over) == (ROW,) and x in blocks:
            return Span(x, blocks[x], "total")
        case Where(rows, sums, other):
            run, filling = values[sums].op, values[other].op
            if not isinstance(run, CumSum) or run.x not in blocks:
                return None
            back = run.dim == ROW and run.reverse and run.exclusive
            nothing = isinstance(filling, Const) and filling.value == -float("inf")
            return Span(run.x, blocks[run.x], "until", rows) if back and nothing else None
        case _:
            return None
