"""The order in which a kernel computes its values: the one that holds few tiles at a time.

In: the values of a kernel and its results, in the order in which they are wanted.  Out: the values
that they need, operands before users.  Each value is computed where it is first needed, and of its
operands first the one whose making takes most room beside its result (Sethi and Ullman 1970).
"""

from __future__ import annotations

from collections.abc import Sequence

from scandsl.ir.nodes import (
    CumProd,
    CumSum,
    Input,
    Inverse,
    Load,
    Param,
    Ref,
    Scores,
    ScoresAdjoint,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Spread,
    Value,
    operands,
)
from scandsl.kernels.program import ROW

_WITHIN = (Segment, SegmentAdjoint, SegmentProduct, CumSum, CumProd)  # hold some tiles on the way
_DEEP = (Inverse, Scores, ScoresAdjoint, Spread)  # hold many


def in_order(values: Sequence[Value], roots: Sequence[Ref]) -> tuple[Ref, ...]:
    """The values that the roots are made of, in the order of their computation."""
    peaks = _peaks(values)
    found: dict[Ref, None] = {}
    for root in roots:
        pending = [root]
        while pending:
            top = pending[-1]
            if top in found:
                pending.pop()
                continue
            missing = [r for r in operands(values[top].op) if r not in found]
            if missing:
                pending += sorted(missing, key=lambda r: peaks[r] - _size(values[r]))
                continue
            pending.pop()
            found[top] = None
    return tuple(found)


def _size(value: Value) -> int:
    """Registers that hold a value, in numbers per 64 of a row; what is carried is held anyway."""
    if isinstance(value.op, Load) and ROW not in value.dims:
        return 0
    width = len(value.dims)
    tile: int = 64 ** max(width - 1, 0)
    return tile // 2 if isinstance(value.op, Input | Load | Param) else tile


def _peaks(values: Sequence[Value]) -> list[int]:
    """How much is held at most while each value is computed, nothing being shared."""
    out: list[int] = []
    for value in values:
        held = 0
        most = 0
        parts = sorted(set(operands(value.op)), key=lambda r: _size(values[r]) - out[r])
        for ref in parts:
            most = max(most, held + out[ref])
            held += _size(values[ref])
        extra = 6 if isinstance(value.op, _DEEP) else 2 if isinstance(value.op, _WITHIN) else 0
        tile = max([_size(value), *(_size(values[r]) for r in parts)])
        out.append(max(most, held + extra * tile, _size(value)))
    return out
