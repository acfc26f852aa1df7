"""Vectors of events that are equal up to a factor free of the contracted dimensions.

In: events.  Out: pairs of values proved to be collinear.  Proved by splitting products where that
is enough, and by sympy on what is left.  sympy decides only; nothing it makes is computed with.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy

from scandsl.analysis.program import Event, Probe, Update, Write
from scandsl.ir.nodes import Binary, Cast, Const, Dims, Expand, Recurrence, Ref, Unary, Value

MOST_LEADERS = 12  # vectors that each further one is compared with
Factors = tuple[tuple[Ref, int], ...]  # values along the contracted dimensions, with powers


def merged_pairs(
    recurrence: Recurrence, events: Sequence[Event], contracted: Dims
) -> tuple[tuple[Ref, Ref], ...]:
    """Pairs of different vectors along `contracted` whose ratio is free of it."""
    vectors = [
        ref
        for ref in dict.fromkeys(_vector(e) for e in events)
        if ref is not None and contracted and recurrence.values[ref].dims == contracted
    ]
    leaders: list[Ref] = []
    pairs: list[tuple[Ref, Ref]] = []
    for ref in vectors:
        nearest = leaders[-MOST_LEADERS:]
        leader = next(
            (x for x in nearest if collinear(recurrence.values, x, ref, contracted)), None
        )
        if leader is None:
            leaders.append(ref)
        else:
            pairs.append((leader, ref))
    return tuple(pairs)


def _vector(event: Event) -> Ref | None:
    match event:
        case Probe(_, w, _, _):
            return w
        case Update(_, p, _, _):
            return p
        case Write(_, b, _):
            return b
        case _:
            return None


def collinear(values: Sequence[Value], a: Ref, b: Ref, along: Dims) -> bool:
    """Whether `a / b` is proved to be free of the dimensions `along`."""
    one, two = _factors(values, a, along), _factors(values, b, along)
    return one == two or _ratio_is_free(values, one, two, along)


def _has(values: Sequence[Value], ref: Ref, along: Dims) -> bool:
    return bool(set(values[ref].dims) & set(along))


def _factors(values: Sequence[Value], ref: Ref, along: Dims) -> Factors:
    """The factors of a product that have dimensions of `along`, by number."""
    powers: dict[Ref, int] = {}

    def walk(at: Ref, power: int) -> None:
        if not _has(values, at, along):
            return
        match values[at].op:
            case Binary("mul", x, y):
                walk(x, power)
                walk(y, power)
            case Binary("div", x, y):
                walk(x, power)
                walk(y, -power)
            case Unary("neg", x):
                walk(x, power)
            case Expand(x) if _has(values, x, along) or len(along) == 0:
                walk(x, power)
            case Expand():
                return
            case _:
                powers[at] = powers.get(at, 0) + power

    walk(ref, 1)
    return tuple(sorted((at, power) for at, power in powers.items() if power))


def _ratio_is_free(values: Sequence[Value], one: Factors, two: Factors, along: Dims) -> bool:
    total = dict(one)
    for ref, power in two:
        total[ref] = total.get(ref, 0) - power
    ratio = sympy.Integer(1)
    for ref, power in sorted(total.items()):
        ratio *= _expression(values, ref, along) ** power
    names = {str(s) for s in sympy.powsimp(sympy.cancel(ratio)).free_symbols}
    return not any(name.startswith("along") for name in names)


def _expression(values: Sequence[Value], ref: Ref, along: Dims) -> sympy.Expr:
    """A value as an expression; whatever is not arithmetic becomes a symbol."""
    match values[ref].op:
        case Const(value) if not isinstance(value, bool) and float(value).is_integer():
            return sympy.Integer(int(value))
        case Binary("add", a, b):
            return _expression(values, a, along) + _expression(values, b, along)
        case Binary("sub", a, b):
            return _expression(values, a, along) - _expression(values, b, along)
        case Binary("mul", a, b):
            return _expression(values, a, along) * _expression(values, b, along)
        case Binary("div", a, b):
            return _expression(values, a, along) / _expression(values, b, along)
        case Unary("neg", x):
            return -_expression(values, x, along)
        case Unary("exp", x):
            return sympy.exp(_expression(values, x, along))
        case Cast(x) | Expand(x):
            return _expression(values, x, along)
        case _:
            kind = "along" if _has(values, ref, along) else "free"
            return sympy.Symbol(f"{kind}_{ref}", real=True)
