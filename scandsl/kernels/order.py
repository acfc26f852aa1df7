"""The order in which a kernel computes its values: the one that holds few tiles at a time.

In: the values of a kernel and its results, in the order in which they are wanted.  Out: the values
that they need, operands before users.  Each value is computed where it is first needed, and of its
operands first the one whose making takes most room beside its result (Sethi and Ullman 1970).
Products that share a decayed factor follow each other where that lets it go.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

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
    made_of,
    operands,
)
from scandsl.kernels.apart import multiplies
from scandsl.kernels.program import ROW

_WITHIN = (Segment, SegmentAdjoint, SegmentProduct, CumSum, CumProd)  # hold some tiles on the way
_DEEP = (Inverse, Scores, ScoresAdjoint, Spread)  # hold many


def in_order(values: Sequence[Value], roots: Sequence[Ref]) -> tuple[Ref, ...]:
    """The values that the roots are made of, in the order of their computation."""
    peaks = _peaks(values)
    users: dict[Ref, list[Ref]] = {}
    for ref in sorted(made_of(values, roots)):
        for part in set(operands(values[ref].op)):
            users.setdefault(part, []).append(ref)
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
            found.update(dict.fromkeys(_last_uses(values, users, found, top)))
    return tuple(found)


def _last_uses(
    values: Sequence[Value], users: Mapping[Ref, Sequence[Ref]], found: Container[Ref], ref: Ref
) -> list[Ref]:
    """The products after which a decayed or turned factor is let go, if all can be made now.

    The matrix units take the factor in a form of its own, which then serves all of them.
    """
    out: list[Ref] = []
    for factor in operands(values[ref].op) if multiplies(values, values[ref]) else ():
        rest = [r for r in users[factor] if r not in found]
        if not any(isinstance(values[r].op, CumSum) for r in made_of(values, [factor])):
            continue
        if all(multiplies(values, values[r]) and _known(values, found, r) for r in rest):
            for user in rest:
                leaves = (r for r in operands(values[user].op) if r not in found)
                out += [*leaves, user]
    return out


def _known(values: Sequence[Value], found: Container[Ref], ref: Ref) -> bool:
    """Whether the operands of a value are computed, or carried."""
    return all(
        r in found or (isinstance(values[r].op, Load) and ROW not in values[r].dims)
        for r in operands(values[ref].op)
    )


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
