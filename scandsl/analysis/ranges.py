"""Interval arithmetic over a recurrence: what every real value is proved to lie between.

In: a recurrence with declared ranges.  Out: one `Range` per value.  Ends are open or closed; an
infinite end that is closed may be attained (a gate of −∞).  Statements are about exact arithmetic,
and hold wherever the reference is not NaN.  Nothing is said about complex values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    Expand,
    Input,
    Insert,
    Iota,
    Kind,
    Lag,
    Normalize,
    Param,
    Range,
    Recurrence,
    Reduce,
    Ref,
    Rename,
    Select,
    Size,
    Stack,
    StopGrad,
    Tensor,
    Time,
    Unary,
    Value,
    Where,
)

ALL = Range(-math.inf, math.inf)
FINITE = Range(-math.inf, math.inf, low_open=True, high_open=True)
_MARK = Range(0.0, 1.0)
_COUNT = Range(0.0, math.inf, high_open=True)
_NONNEGATIVE = Range(0.0, math.inf)

End = tuple[float, bool]  # a bound, and whether it is left out


def intervals(recurrence: Recurrence) -> tuple[Range, ...]:
    """The proved range of every value of a recurrence."""
    declared = {t.name: t for t in (*recurrence.inputs, *recurrence.params)}
    return extended((), recurrence.values, declared)


def extended(
    known: Sequence[Range], values: Sequence[Value], declared: Mapping[str, Tensor]
) -> tuple[Range, ...]:
    """Ranges of all values of a program of which the first are known."""
    out = list(known)
    for ref in range(len(out), len(values)):
        value = values[ref]
        if value.kind is Kind.COMPLEX:
            out.append(ALL)
        elif value.kind is Kind.BOOL:
            out.append(_MARK)
        else:
            out.append(_range(value, ref, out, declared))
    return tuple(out)


def positive(r: Range) -> bool:
    """Whether every number of a range is above zero."""
    return r.low > 0 or (r.low == 0 and r.low_open)


def nonnegative(r: Range) -> bool:
    """Whether no number of a range is below zero."""
    return r.low >= 0


def _range(  # noqa: C901 - one rule per operation
    value: Value, ref: Ref, known: Sequence[Range], declared: Mapping[str, Tensor]
) -> Range:
    match value.op:
        case Const(number):
            return Range(float(number), float(number))
        case Size():
            return Range(1.0, math.inf, high_open=True)
        case Iota() | Time():
            return _COUNT
        case Input(name) | Param(name):
            return _declared(declared.get(name))
        case Cast(x) | Rename(x) | Select(x) | Expand(x) | StopGrad(x):
            return known[x]
        case Lag(x, _):
            return _hull(Range(0.0, 0.0), known[x]) if x < ref else ALL
        case Unary(fn, x):
            return _unary(fn, known[x])
        case Binary(fn, a, b):
            return _square(known[a]) if fn == "mul" and a == b else _binary(fn, known[a], known[b])
        case Clamp(x, low, high):
            return _least(_greatest(known[x], known[low]), known[high])
        case Where(_, a, b):
            return _hull(known[a], known[b])
        case Insert(x, _, _, y):
            return _hull(known[x], known[y])
        case Stack(xs):
            out = known[xs[0]]
            for x in xs[1:]:
                out = _hull(out, known[x])
            return out
        case Contract(a, b):
            return _NONNEGATIVE if a == b else _summed(_product(known[a], known[b]))
        case Reduce(fn, x):
            return _reduced(fn, known[x])
        case Normalize("softmax"):
            return _MARK
        case Normalize("l2norm"):
            return Range(-1.0, 1.0)
        case _:
            return ALL


def _declared(tensor: Tensor | None) -> Range:
    if tensor is None:
        return ALL
    if tensor.range is not None:
        return tensor.range
    return Range(-1.0, 1.0) if tensor.unit else FINITE


# ---------------------------------------------------------------- ends


def _low(r: Range) -> End:
    return r.low, r.low_open


def _high(r: Range) -> End:
    return r.high, r.high_open


def _made(low: End, high: End) -> Range:
    if math.isnan(low[0]):
        low = (-math.inf, False)
    if math.isnan(high[0]):
        high = (math.inf, False)
    return Range(low[0], high[0], low[1], high[1])


def _lower(one: End, two: End) -> End:
    if one[0] == two[0]:
        return one[0], one[1] and two[1]
    return one if one[0] < two[0] else two


def _upper(one: End, two: End) -> End:
    if one[0] == two[0]:
        return one[0], one[1] and two[1]
    return one if one[0] > two[0] else two


def _hull(a: Range, b: Range) -> Range:
    return _made(_lower(_low(a), _low(b)), _upper(_high(a), _high(b)))


def _greatest(a: Range, b: Range) -> Range:
    return _made(_tighter(_low(a), _low(b), True), _upper(_high(a), _high(b)))


def _least(a: Range, b: Range) -> Range:
    return _made(_lower(_low(a), _low(b)), _tighter(_high(a), _high(b), False))


def _tighter(one: End, two: End, upward: bool) -> End:
    """The greater (or smaller) of two ends; at a tie it is left out if one of them is."""
    if one[0] == two[0]:
        return one[0], one[1] or two[1]
    return one if (one[0] > two[0]) == upward else two


# ---------------------------------------------------------------- functions


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _softplus(x: float) -> float:
    return x if x > 700 else math.log1p(math.exp(x))


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


_INCREASING: Mapping[str, Callable[[float], float]] = {
    "exp": _exp,
    "expm1": lambda x: _exp(x) - 1,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "logsigmoid": lambda x: -_softplus(-x),
    "tanh": math.tanh,
    "erf": math.erf,
    "relu": lambda x: max(x, 0.0),
    "elu": lambda x: x if x > 0 else _exp(x) - 1,
    "log": lambda x: math.log(x) if x > 0 else -math.inf,
    "log1p": lambda x: math.log1p(x) if x > -1 else -math.inf,
    "sqrt": lambda x: math.sqrt(x) if x > 0 else 0.0,
    "floor": lambda x: math.floor(x) if math.isfinite(x) else x,
}
# where a strictly positive limit rounds to its bound, the end is still not attained
_FLAT = frozenset({"relu", "floor"})
_DOMAIN = {"log": 0.0, "log1p": -1.0, "sqrt": 0.0}  # where it begins: the end there is attained


def _unary(fn: str, x: Range) -> Range:
    if fn in _INCREASING:
        f = _INCREASING[fn]
        low, high = f(x.low), f(x.high)
        flat = fn in _FLAT
        left_out = x.low_open and not flat and x.low >= _DOMAIN.get(fn, -math.inf)
        return _made(
            (low, left_out or _unreached(fn, x.low, low)),
            (high, x.high_open and not flat),
        )
    match fn:
        case "neg":
            return Range(-x.high, -x.low, x.high_open, x.low_open)
        case "abs":
            return _absolute(x)
        case "sign":
            return Range(-1.0 if x.low < 0 else 0.0, 1.0 if x.high > 0 else 0.0)
        case "sin" | "cos":
            return Range(-1.0, 1.0)
        case "silu" | "gelu":
            return Range(0.0 if x.low >= 0 else -0.2785, max(x.high, 0.0), False, x.high_open)
        case "rsqrt":
            return Range(0.0, math.inf, low_open=x.high < math.inf or x.high_open)
        case _:
            return ALL


def _unreached(fn: str, at: float, bound: float) -> bool:
    """An underflow of the bound's own evaluation: `exp(-800)` is above zero."""
    return fn in ("exp", "sigmoid", "softplus") and bound == 0.0 and math.isfinite(at)


def _absolute(x: Range) -> Range:
    if x.low >= 0:
        return x
    mirrored = Range(-x.high, -x.low, x.high_open, x.low_open)
    if x.high <= 0:
        return mirrored
    return _made((0.0, False), _upper(_high(x), _high(mirrored)))


def _square(x: Range) -> Range:
    y = _absolute(x)
    return _product(y, y)


def _binary(fn: str, a: Range, b: Range) -> Range:
    match fn:
        case "add":
            return _added(a, b)
        case "sub":
            return _added(a, _unary("neg", b))
        case "mul":
            return _product(a, b)
        case "div":
            return _quotient(a, b)
        case "max":
            return _greatest(a, b)
        case "min":
            return _least(a, b)
        case "logaddexp":
            return _made(_tighter(_low(a), _low(b), True), (math.inf, False))
        case "pow":
            return _power(a, b)
        case "mod" if b.low > 0:
            return Range(0.0, b.high)
        case _:
            return ALL


def _added(a: Range, b: Range) -> Range:
    return _made(
        (a.low + b.low, a.low_open or b.low_open), (a.high + b.high, a.high_open or b.high_open)
    )


def _times(a: End, b: End) -> End:
    """A corner of a product; zero times infinity is zero, and a zero that is attained stays so."""
    if a[0] == 0 or b[0] == 0:
        attained = (a[0] == 0 and not a[1]) or (b[0] == 0 and not b[1])
        return 0.0, not attained
    return a[0] * b[0], a[1] or b[1]


def _product(a: Range, b: Range) -> Range:
    corners = [_times(p, q) for p in (_low(a), _high(a)) for q in (_low(b), _high(b))]
    low = high = corners[0]
    for corner in corners[1:]:
        low, high = _lower(low, corner), _upper(high, corner)
    return _made(low, high)


def _quotient(a: Range, b: Range) -> Range:
    if positive(b):
        high = math.inf if b.low == 0 else 1 / b.low
        return _product(a, Range(1 / b.high, high, b.high_open, b.low_open and b.low != 0))
    if positive(_unary("neg", b)):
        return _unary("neg", _quotient(a, _unary("neg", b)))
    return ALL


def _power(a: Range, b: Range) -> Range:
    if b.low == b.high and b.low % 2 == 0 and b.low > 0:
        return _NONNEGATIVE
    if positive(a):
        shrinking = a.high <= 1 and b.low >= 0
        growing = a.low >= 1 and b.low >= 0
        bounded = b.high < math.inf or b.high_open
        return Range(
            1.0 if growing else 0.0, 1.0 if shrinking else math.inf, not growing and bounded
        )
    return _NONNEGATIVE if nonnegative(a) else ALL


def _summed(x: Range) -> Range:
    """A sum of at least one number of a range."""
    low = _low(x) if x.low >= 0 else (-math.inf, False)
    high = _high(x) if x.high <= 0 else (math.inf, False)
    return _made(low, high)


def _reduced(fn: str, x: Range) -> Range:
    match fn:
        case "sum":
            return _summed(x)
        case "mean" | "max" | "min":
            return x
        case "logsumexp":
            return _made(_low(x), (math.inf, False))
        case "argmax":
            return _COUNT
        case _:
            return ALL
