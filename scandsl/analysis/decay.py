"""The logarithm of a decay factor, where one is proved to exist, in stable form.

In: a builder and a factor.  Out: a value equal to its logarithm, or `None` where the factor may be
zero or negative.  Zero is allowed only where it is written as such: a literal, or a mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scandsl.analysis.ranges import extended, positive
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Const,
    Expand,
    Kind,
    Range,
    Ref,
    Rename,
    Select,
    Tensor,
    Unary,
    Where,
)


class Logs:
    """Finds logarithms of values of one growing program."""

    def __init__(self, builder: Builder, declared: Mapping[str, Tensor]) -> None:
        self.b = builder
        self.declared = declared
        self._ranges: tuple[Range, ...] = ()

    def range_of(self, ref: Ref) -> Range:
        """The proved range of a value."""
        if ref >= len(self._ranges):
            self._ranges = extended(self._ranges, self.b.values, self.declared)
        return self._ranges[ref]

    def log(self, ref: Ref) -> Ref | None:  # noqa: C901 - one rule per operation
        """`log(ref)`, in logarithms as far as the expression allows."""
        b, value = self.b, self.b.values[ref]
        if value.kind is Kind.COMPLEX:
            return None
        match value.op:
            case Const(number):
                return self._constant(float(number))
            case Unary("exp", x):
                return x
            case Unary("sigmoid", x):
                return b.unary("logsigmoid", x)
            case Unary("sqrt", x):
                return self._multiple(x, b.const(0.5))
            case Unary("rsqrt", x):
                return self._multiple(x, b.const(-0.5))
            case Binary("mul", x, y):
                return self._first(self._both(x, y), ref)
            case Binary("div", x, y):
                return self._quotient(ref, x, y)
            case Binary("pow", x, y):
                return self._multiple(x, y)
            case Binary("sub", x, y):
                return self._first(self._complement(x, y), ref)
            case Where(c, x, y):
                return self._first(self._choice(c, x, y), ref)
            case Expand(x):
                inner = self.log(x)
                return None if inner is None else b.expand(inner, value.dims)
            case Rename(x, pairs):
                inner = self.log(x)
                return None if inner is None else b.rename(inner, pairs)
            case Select(x, dim, index):
                inner = self.log(x)
                return None if inner is None else b.select(inner, dim, index)
            case Cast(x) if b.kind_of(x) is Kind.BOOL:
                return b.where(x, b.const(0.0), b.infinity(negative=True))
            case _:
                return self._by_range(ref)

    def _constant(self, number: float) -> Ref | None:
        if number < 0:
            return None
        return self.b.const(math.log(number) if number > 0 else -math.inf)

    def _by_range(self, ref: Ref) -> Ref | None:
        return self.b.unary("log", ref) if positive(self.range_of(ref)) else None

    def _first(self, found: Ref | None, ref: Ref) -> Ref | None:
        return self._by_range(ref) if found is None else found

    def _multiple(self, x: Ref, by: Ref) -> Ref | None:
        # a power of zero is not a multiple of −∞ when the exponent may be zero
        if not positive(self.range_of(x)):
            return None
        inner = self.log(x)
        return None if inner is None else self.b.mul(by, inner)

    def _both(self, x: Ref, y: Ref) -> Ref | None:
        one = self.log(x)
        two = self.log(y) if one is not None else None
        if one is None or two is None:
            return None
        return self.b.add(one, two)

    def _quotient(self, ref: Ref, x: Ref, y: Ref) -> Ref | None:
        """`1 / (1 + exp(x)) = sigmoid(-x)`, else the difference of the logarithms."""
        b = self.b
        power = self._one_plus_exp(y)
        if b.constant_of(x) == 1 and power is not None:
            return b.unary("logsigmoid", b.neg(power))
        if not positive(self.range_of(y)):
            return self._by_range(ref)
        one, two = self.log(x), self.log(y)
        if one is None or two is None:
            return self._by_range(ref)
        return b.sub(one, two)

    def _one_plus_exp(self, ref: Ref) -> Ref | None:
        b, op = self.b, self.b.values[ref].op
        if isinstance(op, Binary) and op.fn == "add":
            for one, other in ((op.a, op.b), (op.b, op.a)):
                inner = b.values[other].op
                if b.constant_of(one) == 1 and isinstance(inner, Unary) and inner.fn == "exp":
                    return inner.x
        return None

    def _complement(self, x: Ref, y: Ref) -> Ref | None:
        """`1 - sigmoid(z) = sigmoid(-z)`."""
        b, op = self.b, self.b.values[y].op
        if b.constant_of(x) == 1 and isinstance(op, Unary) and op.fn == "sigmoid":
            return b.unary("logsigmoid", b.neg(op.x))
        return None

    def _choice(self, c: Ref, x: Ref, y: Ref) -> Ref | None:
        one = self.log(x)
        two = self.log(y) if one is not None else None
        if one is None or two is None:
            return None
        return self.b.where(c, one, two)
