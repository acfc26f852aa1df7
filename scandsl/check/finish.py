"""From the values of a pass to the flat program of a recurrence.

In: all values that were built, the roots, and what stands for each forward reference.  Out: the
values that the roots need, operands before their users (but for lags), and their new places.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import Lag, Op, Ref, Value, operands
from scandsl.ir.rewrite import with_operands


def finish(
    values: Sequence[Value], roots: Iterable[Ref], forwards: Mapping[Ref, Ref]
) -> tuple[tuple[Value, ...], dict[Ref, Ref]]:
    """The values reachable from the roots in a valid order, and where each old one went."""
    order = _order(values, _reachable(values, roots, forwards), forwards)
    place = {old: new for new, old in enumerate(order)}
    place |= {stand_in: place[ref] for stand_in, ref in forwards.items() if ref in place}
    out = [replace(values[old], op=_moved(values[old].op, place)) for old in order]
    return tuple(out), place


def _moved(op: Op, place: Mapping[Ref, Ref]) -> Op:
    return with_operands(op, [place[x] for x in operands(op)])


def _reachable(
    values: Sequence[Value], roots: Iterable[Ref], forwards: Mapping[Ref, Ref]
) -> list[Ref]:
    stack = [forwards.get(r, r) for r in roots]
    seen = set(stack)
    while stack:
        for x in operands(values[stack.pop()].op):
            target = forwards.get(x, x)
            if target not in seen:
                seen.add(target)
                stack.append(target)
    return sorted(seen)


def _order(
    values: Sequence[Value], needed: Iterable[Ref], forwards: Mapping[Ref, Ref]
) -> list[Ref]:
    """Operands first, otherwise as built; a lag does not wait for what it looks back at."""
    out: list[Ref] = []
    done: set[Ref] = set()
    for start in needed:
        stack: list[tuple[Ref, bool]] = [(start, False)]
        path: set[Ref] = set()
        while stack:
            ref, ready = stack.pop()
            if ref in done:
                continue
            if ready:
                done.add(ref)
                path.discard(ref)
                out.append(ref)
                continue
            if ref in path:
                raise InternalError("a value of the step depends on itself")
            path.add(ref)
            stack.append((ref, True))
            op = values[ref].op
            if not isinstance(op, Lag):
                stack.extend((forwards.get(x, x), False) for x in reversed(operands(op)))
    return out
