"""The modulus and the angle of a complex decay, where its expression separates them.

In: a builder and a complex factor.  Out: `Polar`, real values with `factor = modulus exp(i angle)`,
or `None` where they do not separate.  The modulus may be negative; an angle is never computed from
an arc tangent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from scandsl.analysis.decay import Logs
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Expand,
    Kind,
    MakeComplex,
    Ref,
    Rename,
    Select,
    Unary,
    Where,
)

Change: TypeAlias = Callable[[Ref], Ref]
Parts: TypeAlias = tuple[Ref, Ref | None]


@dataclass(frozen=True, slots=True)
class Polar:
    """`modulus · exp(i angle)`, with the logarithm of the modulus if it is proved to have one."""

    modulus: Ref
    log: Ref | None
    angle: Ref | None  # `None` for none


class Polars:
    """Separates complex values of one growing program."""

    def __init__(self, logs: Logs) -> None:
        self.logs = logs
        self.b = logs.b

    def polar(self, ref: Ref) -> Polar | None:
        """Modulus and angle of a value."""
        b, value = self.b, self.b.values[ref]
        if value.kind is not Kind.COMPLEX:
            return Polar(ref, self.logs.log(ref), None)
        match value.op:
            case Cast(x):
                return Polar(x, self.logs.log(x), None)
            case Unary("exp", x):
                re, im = self._parts(x)
                return Polar(b.exp(re), re, im)
            case Unary("neg", x):
                found = self.polar(x)
                return found and Polar(b.neg(found.modulus), None, found.angle)
            case Unary("conj", x):
                found = self.polar(x)
                return found and Polar(found.modulus, found.log, self._opposite(found.angle))
            case Binary("mul" | "div" as fn, x, y):
                return self._product(self.polar(x), self.polar(y), fn == "div")
            case Where(c, x, y):
                return self._choice(c, self.polar(x), self.polar(y))
            case MakeComplex(x, y):
                return self._wave(x, y)
            case Expand(x):
                return self.polar(x)
            case Rename(x, pairs):
                found = self.polar(x)
                return found and self._each(found, lambda r: b.rename(r, pairs))
            case Select(x, dim, index):
                found = self.polar(x)
                return found and self._each(
                    found, lambda r: b.select(r, dim, index) if dim in b.dims_of(r) else r
                )
            case _:
                return None

    def _each(self, found: Polar, change: Change) -> Polar:
        log = None if found.log is None else change(found.log)
        angle = None if found.angle is None else change(found.angle)
        return Polar(change(found.modulus), log, angle)

    def _opposite(self, angle: Ref | None) -> Ref | None:
        return None if angle is None else self.b.neg(angle)

    def _product(self, one: Polar | None, two: Polar | None, inverse: bool) -> Polar | None:
        """A product; of a quotient the divisor needs a logarithm."""
        b = self.b
        if one is None or two is None or (inverse and two.log is None):
            return None
        log = None
        if one.log is not None and two.log is not None:
            log = b.sub(one.log, two.log) if inverse else b.add(one.log, two.log)
        modulus = (b.div if inverse else b.mul)(one.modulus, two.modulus)
        angle = self._opposite(two.angle) if inverse else two.angle
        if one.angle is not None:
            angle = one.angle if angle is None else b.add(one.angle, angle)
        return Polar(modulus, log, angle)

    def _choice(self, c: Ref, one: Polar | None, two: Polar | None) -> Polar | None:
        b = self.b
        if one is None or two is None:
            return None
        log = None
        if one.log is not None and two.log is not None:
            log = b.where(c, one.log, two.log)
        angle = None
        if one.angle is not None or two.angle is not None:
            zero = b.const(0.0)
            angle = b.where(
                c,
                zero if one.angle is None else one.angle,
                zero if two.angle is None else two.angle,
            )
        return Polar(b.where(c, one.modulus, two.modulus), log, angle)

    def _wave(self, x: Ref, y: Ref) -> Polar | None:
        """`r cos a + i r sin a`, numbers without one of the parts, and constants."""
        b, re, im = self.b, self.b.constant_of(x), self.b.constant_of(y)
        if im == 0:
            return Polar(x, self.logs.log(x), None)
        if re == 0:
            return Polar(y, self.logs.log(y), b.const(math.pi / 2))
        if re is not None and im is not None:
            modulus = b.const(math.hypot(re, im))
            return Polar(modulus, self.logs.log(modulus), b.const(math.atan2(im, re)))
        left, right = self._factors(x), self._factors(y)
        for ref in left:
            op = self.b.values[ref].op
            if isinstance(op, Unary) and op.fn == "cos":
                sine = self.b.unary("sin", op.x)
                rest = [r for r in left if r != ref]
                if sorted([*rest, sine]) == sorted(right):
                    modulus = self.b.const(1.0)
                    for factor in rest:
                        modulus = self.b.mul(modulus, factor)
                    return Polar(modulus, self.logs.log(modulus), op.x)
        return None

    def _factors(self, ref: Ref) -> list[Ref]:
        op = self.b.values[ref].op
        if isinstance(op, Binary) and op.fn == "mul":
            return [*self._factors(op.a), *self._factors(op.b)]
        return self._factors(op.x) if isinstance(op, Expand) else [ref]

    # ------------------------------------------------------------ real and imaginary parts

    def _parts(self, ref: Ref) -> tuple[Ref, Ref | None]:
        """The real and the imaginary part of an exponent, without complex values if possible."""
        b, value = self.b, self.b.values[ref]
        if value.kind is not Kind.COMPLEX:
            return ref, None
        match value.op:
            case Cast(x):
                return x, None
            case MakeComplex(x, y):
                return x, None if b.constant_of(y) == 0 else y
            case Expand(x):
                return self._parts(x)
            case Unary("neg", x):
                re, im = self._parts(x)
                return b.neg(re), self._opposite(im)
            case Binary("add" | "sub" as fn, x, y):
                return self._sum(self._parts(x), self._parts(y), fn == "sub")
            case Binary("mul" | "div" as fn, x, y):
                found = self._multiple(self._parts(x), self._parts(y), fn == "div")
                if found is not None:
                    return found
        return b.unary("re", ref), b.unary("im", ref)

    def _sum(self, x: Parts, y: Parts, minus: bool) -> Parts:
        b = self.b
        re = b.sub(x[0], y[0]) if minus else b.add(x[0], y[0])
        other = self._opposite(y[1]) if minus else y[1]
        if x[1] is None or other is None:
            return re, other if x[1] is None else x[1]
        return re, b.add(x[1], other)

    def _multiple(self, x: Parts, y: Parts, inverse: bool) -> Parts | None:
        """A product in which one side is real; the divisor, if it is a quotient."""
        b = self.b
        if y[1] is not None:
            if x[1] is not None or inverse:
                return None
            x, y = y, x
        times = b.div if inverse else b.mul
        return times(x[0], y[0]), None if x[1] is None else times(x[1], y[0])
