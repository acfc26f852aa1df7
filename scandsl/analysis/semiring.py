"""States that are affine where `max`, `min` or `logaddexp` is the sum, and + the product.

In: a recurrence and a state that is not affine in the ordinary sense.  Out: a `Fold`: algebra,
shift and term of  s ← max(s + shift, term),  as further values of the recurrence, which do not
look at the state.  They tell what the state is; its derivative is taken of the step as written.
"""

from __future__ import annotations

from typing import TypeAlias

from scandsl.analysis.linear import looks_at
from scandsl.analysis.program import Fold
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Clamp,
    Expand,
    Kind,
    LagState,
    Prev,
    Recurrence,
    Ref,
    State,
    StopGrad,
    SumFn,
    Unary,
    Where,
)

_SUMS: tuple[SumFn, ...] = ("max", "min", "logaddexp")
_Parts: TypeAlias = tuple[Ref | None, Ref | None]  # shift and term; an absent one is −∞


class _NoFold(Exception):
    """A value is not affine in this algebra."""


def fold(b: Builder, recurrence: Recurrence, state: State) -> Fold | None:
    """How the state moves, if it does so in one of the algebras."""
    own = any(isinstance(v.op, LagState) and v.op.state == state.name for v in recurrence.values)
    if state.kind is not Kind.REAL or own:
        return None
    for algebra in _SUMS:
        try:
            shift, term = _Reader(b, recurrence, state).parts(state.next, algebra, 1)
        except _NoFold:
            continue
        if shift is None:
            return None
        return Fold(state.name, shift, _filled(b, term, algebra), algebra)
    return None


def _filled(b: Builder, part: Ref | None, algebra: SumFn) -> Ref:
    """A part, or what adds nothing."""
    return b.infinity(negative=algebra != "min") if part is None else part


class _Reader:
    """Takes the new state apart, from the outside inward."""

    def __init__(self, b: Builder, recurrence: Recurrence, state: State) -> None:
        self.b = b
        self.values = recurrence.values
        roots = [r for r, v in enumerate(self.values) if v.op == Prev(state.name)]
        self.looks = looks_at(self.values, dict.fromkeys(roots, True))
        self.known: dict[tuple[Ref, SumFn, int], _Parts] = {}

    def parts(self, ref: Ref, algebra: SumFn, sign: int) -> _Parts:
        """Shift and term of a value; with the sign −1 those of  term − state."""
        key = (ref, algebra, sign)
        if key not in self.known:
            self.known[key] = self._parts(ref, algebra, sign)
        return self.known[key]

    def _parts(self, ref: Ref, algebra: SumFn, sign: int) -> _Parts:  # noqa: C901 - one per case
        b, op = self.b, self.values[ref].op
        if not self.looks(ref):
            return None, ref
        match op:
            case Prev() if sign > 0:
                return b.const(0.0), None
            case Binary(fn, x, y) if fn == algebra:
                return self._joined(
                    self.parts(x, algebra, sign), self.parts(y, algebra, sign), algebra
                )
            case Binary("add", x, y) if not self.looks(y):
                return self._shifted(self.parts(x, algebra, sign), y)
            case Binary("add", x, y) if not self.looks(x):
                return self._shifted(self.parts(y, algebra, sign), x)
            case Binary("sub", x, y) if not self.looks(y):
                return self._shifted(self.parts(x, algebra, sign), b.neg(y))
            case Binary("sub", x, y) if not self.looks(x):
                return self._shifted(self._turned(y, algebra, sign), x)
            case Unary("neg", x):
                return self._turned(x, algebra, sign)
            case Unary("relu", x) if algebra == "max":
                return self._joined(self.parts(x, algebra, sign), (None, b.const(0.0)), algebra)
            case Clamp(x, low, high) if self._one_sided(low, high, algebra):
                bound = low if algebra == "max" else high
                return self._joined(self.parts(x, algebra, sign), (None, bound), algebra)
            case Where(c, x, y) if not self.looks(c):
                return self._chosen(
                    c, self.parts(x, algebra, sign), self.parts(y, algebra, sign), algebra
                )
            case StopGrad(x) | Expand(x):
                return self.parts(x, algebra, sign)
            case _:
                raise _NoFold

    def _one_sided(self, low: Ref, high: Ref, algebra: SumFn) -> bool:
        """Whether a clamp has one bound only, that of the algebra, which does not move along."""
        end = {"max": (high, float("inf")), "min": (low, float("-inf"))}.get(algebra)
        moves = self.looks(low) or self.looks(high)
        return end is not None and not moves and self.b.constant_of(end[0]) == end[1]

    def _turned(self, ref: Ref, algebra: SumFn, sign: int) -> _Parts:
        """Minus a value:  −min(x, y) = max(−x, −y)."""
        if algebra == "logaddexp":
            raise _NoFold
        shift, term = self.parts(ref, "min" if algebra == "max" else "max", -sign)
        b = self.b
        return (
            None if shift is None else b.neg(shift),
            None if term is None else b.neg(term),
        )

    def _shifted(self, found: _Parts, by: Ref) -> _Parts:
        b = self.b
        shift, term = (None if x is None else b.add(x, by) for x in found)
        return shift, term

    def _joined(self, x: _Parts, y: _Parts, algebra: SumFn) -> _Parts:
        def both(p: Ref | None, q: Ref | None) -> Ref | None:
            return q if p is None else p if q is None else self.b.binary(algebra, p, q)

        return both(x[0], y[0]), both(x[1], y[1])

    def _chosen(self, c: Ref, x: _Parts, y: _Parts, algebra: SumFn) -> _Parts:
        def either(p: Ref | None, q: Ref | None) -> Ref | None:
            if p is None and q is None:
                return None
            return self.b.where(c, _filled(self.b, p, algebra), _filled(self.b, q, algebra))

        return either(x[0], y[0]), either(x[1], y[1])
