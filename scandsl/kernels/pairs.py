"""Rewrites complex values as pairs of real ones, for targets that know only these.

In: values and the ones wanted.  Out: a builder without complex values, and where each wanted value
went: its real and its imaginary part.  A complex `Load` called `x` becomes two, `x re` and `x im`.
An imaginary part that is surely zero is `None`, and nothing is computed for it.  Positions become
the `Load` that `POSITION` names, and `Every` a comparison of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from scandsl.diagnostics import InternalError
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Contract,
    Dim,
    Every,
    Expand,
    Input,
    Insert,
    Inverse,
    Kind,
    Load,
    MakeComplex,
    Param,
    Reduce,
    Ref,
    Rename,
    Scores,
    Select,
    Spread,
    Stack,
    StopGrad,
    Time,
    Unary,
    UnaryFn,
    Value,
    Where,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import POSITION

Pair = tuple[Ref, Ref | None]


def parts_of(name: str, kind: Kind) -> tuple[str, ...]:
    """The names of the real tensors that stand for a tensor."""
    return (f"{name} re", f"{name} im") if kind is Kind.COMPLEX else (name,)


def holds_pairs(names: Iterable[str]) -> bool:
    """Whether some of the names are those of real tensors that stand for a complex one."""
    return any(name.endswith((" re", " im")) for name in names)


def real_pairs(
    dims: Sequence[Dim], values: Sequence[Value], wanted: Iterable[Ref]
) -> tuple[Builder, dict[Ref, Pair]]:
    """All that the wanted values need, in real numbers."""
    needed = [False] * len(values)
    for ref in wanted:
        needed[ref] = True
    for ref in range(len(values) - 1, -1, -1):
        if needed[ref]:
            for operand in operands(values[ref].op):
                needed[operand] = True
    rewriter = _Rewriter(dims, values)
    for ref, value in enumerate(values):
        if needed[ref]:
            rewriter.pairs[ref] = rewriter.pair(value)
    return rewriter.b, rewriter.pairs


class _Rewriter:
    def __init__(self, dims: Sequence[Dim], values: Sequence[Value]) -> None:
        self.values = values
        self.b = Builder(dims)
        self.pairs: dict[Ref, Pair] = {}

    # ------------------------------------------------------------ dispatch

    def pair(self, value: Value) -> Pair:
        """What stands for a value."""
        inner = operands(value.op)
        if isinstance(value.op, Time):
            return self.b.emit(Load(POSITION), (), Kind.INT), None
        if isinstance(value.op, Every):
            return self._every(value.op.period), None
        if value.kind is not Kind.COMPLEX and not any(self._complex(r) for r in inner):
            return self._emit(value, [self.pairs[r][0] for r in inner]), None
        re, im = self._complex_pair(value)  # one part may lack dimensions that the other has
        dims = value.dims
        return self.b.expand(re, dims), None if im is None else self.b.expand(im, dims)

    def _complex(self, ref: Ref) -> bool:
        return self.values[ref].kind is Kind.COMPLEX

    def _emit(self, value: Value, refs: Sequence[Ref]) -> Ref:
        """The same operation on real operands."""
        kind = Kind.REAL if value.kind is Kind.COMPLEX else value.kind
        op = with_operands(value.op, refs)
        return self.b.emit(op, value.dims, kind, value.name, value.span, value.varies)

    def _every(self, period: int) -> Ref:
        b = self.b
        time = b.emit(Load(POSITION), (), Kind.INT)
        rest = b.binary("mod", time, b.const(period, Kind.INT))
        return b.binary("eq", rest, b.const(0, Kind.INT))

    def _complex_pair(self, value: Value) -> Pair:
        b = self.b
        match value.op:
            case Load(name) | Input(name) | Param(name):
                first, second = (
                    b.emit(replace(value.op, name=part), value.dims, Kind.REAL, varies=value.varies)
                    for part in parts_of(name, Kind.COMPLEX)
                )
                return first, second
            case Scores() | Spread() | Inverse():
                return self._over_rows(value.op)
            case Cast(x):
                return self.pairs[x][0], None
            case MakeComplex(re, im):
                dims = value.dims
                return b.expand(self.pairs[re][0], dims), b.expand(self.pairs[im][0], dims)
            case Unary(fn, x):
                return self._unary(fn, self.pairs[x])
            case Binary(fn, x, y):
                return self._binary(fn, self.pairs[x], self.pairs[y])
            case Contract(x, y, over):
                return self._contract(self.pairs[x], self.pairs[y], over)
            case Where(c, x, y):
                condition = self.pairs[c][0]
                return self._both(
                    value, self.pairs[x], self.pairs[y], lambda u, v: b.where(condition, u, v)
                )
            case Insert(x, dim, index, y):
                return self._both(
                    value, self.pairs[x], self.pairs[y], lambda u, v: b.insert(u, dim, index, v)
                )
            case Stack(xs):
                return self._stack(value, [self.pairs[x] for x in xs])
            case Reduce() | Rename() | Select() | Expand() | StopGrad():
                real, other = self.pairs[operands(value.op)[0]]
                first = self._emit(value, [real])
                return first, None if other is None else self._emit(value, [other])
            case _:
                raise InternalError(f"{type(value.op).__name__} has no complex form")

    # ------------------------------------------------------------ pieces

    def _zeros_like(self, ref: Ref) -> Ref:
        return self.b.zeros(self.b.dims_of(ref))

    def _both(self, value: Value, x: Pair, y: Pair, combine: Callable[[Ref, Ref], Ref]) -> Pair:
        """An operation that treats both parts alike."""
        re = combine(x[0], y[0])
        if x[1] is None and y[1] is None:
            return re, None
        left = self._zeros_like(x[0]) if x[1] is None else x[1]
        right = self._zeros_like(y[0]) if y[1] is None else y[1]
        return re, combine(left, right)

    def _stack(self, value: Value, xs: Sequence[Pair]) -> Pair:
        re = self._emit(value, [x[0] for x in xs])
        if all(x[1] is None for x in xs):
            return re, None
        return re, self._emit(value, [self._zeros_like(x[0]) if x[1] is None else x[1] for x in xs])

    def _binary(self, fn: str, x: Pair, y: Pair) -> Pair:
        b = self.b
        match fn:
            case "add":
                return b.add(x[0], y[0]), self._sum(x[1], y[1])
            case "sub":
                other = None if y[1] is None else b.neg(y[1])
                return b.sub(x[0], y[0]), self._sum(x[1], other)
            case "mul":
                return self._product(x, y)
            case "div":
                return self._quotient(x, y)
            case _:
                raise InternalError(f"`{fn}` of complex values")

    def _sum(self, x: Ref | None, y: Ref | None) -> Ref | None:
        if x is None or y is None:
            return y if x is None else x
        return self.b.add(x, y)

    def _product(self, x: Pair, y: Pair) -> Pair:
        return self._bilinear(x, y, self.b.mul)

    def _contract(self, x: Pair, y: Pair, over: tuple[str, ...]) -> Pair:
        return self._bilinear(x, y, lambda u, v: self.b.contract(u, v, over))

    def _bilinear(self, x: Pair, y: Pair, times: Callable[[Ref, Ref], Ref]) -> Pair:
        re = times(x[0], y[0])
        if x[1] is not None and y[1] is not None:
            re = self.b.sub(re, times(x[1], y[1]))
        left = None if y[1] is None else times(x[0], y[1])
        right = None if x[1] is None else times(x[1], y[0])
        return re, self._sum(left, right)

    def _over_rows(self, op: Scores | Spread | Inverse) -> Pair:
        """What joins the rows of a chunk."""
        match op:
            case Scores(q, k, a):
                return self._bilinear(self.pairs[q], self.pairs[k], self._scores(op, a))
            case Spread(m, x, a):
                return self._bilinear(self.pairs[m], self.pairs[x], self._spread(op, a))
            case Inverse(x):
                return self._inverse(op, self.pairs[x])

    def _scores(self, op: Scores, a: Ref) -> Callable[[Ref, Ref], Ref]:
        log = self.pairs[a][0]
        how = (op.row, op.column, op.over, op.factors, op.block)
        return lambda q, k: self.b.scores(q, k, log, *how)

    def _spread(self, op: Spread, a: Ref) -> Callable[[Ref, Ref], Ref]:
        log = self.pairs[a][0]
        how = (op.row, op.column, op.over, op.factors, op.block)
        return lambda m, x: self.b.spread(m, x, log, *how)

    def _inverse(self, op: Inverse, x: Pair) -> Pair:
        """`(A - iB)⁻¹`, with `A = 1 - re` and `B = im`, both triangles: two inverses of real ones.

        With `P = A⁻¹` the real part is `X = (A + B P B)⁻¹`, the imaginary part `P B X`.
        """
        b, (re, im) = self.b, x
        first = b.inverse(re, op.row, op.column, op.inner)
        if im is None:
            return first, None
        below = b.binary("gt", b.iota(op.row), b.iota(op.column))
        im = b.where(below, im, b.const(0.0))

        def product(left: Ref, right: Ref) -> Ref:
            moved = b.rename(right, [(op.row, op.column), (op.column, op.inner)])
            return b.rename(b.contract(left, moved, (op.column,)), [(op.inner, op.column)])

        half = product(first, im)
        rest = b.sub(re, product(im, half))
        real = b.inverse(rest, op.row, op.column, op.inner)
        return real, product(half, real)

    def _quotient(self, x: Pair, y: Pair) -> Pair:
        b = self.b
        if y[1] is None:
            return b.div(x[0], y[0]), None if x[1] is None else b.div(x[1], y[0])
        # scaled, so that squares neither overflow nor vanish
        big = b.binary("max", b.unary("abs", y[0]), b.unary("abs", y[1]))
        u, v = b.div(y[0], big), b.div(y[1], big)
        size = b.mul(b.add(b.square(u), b.square(v)), big)
        re, im = self._product(x, (u, b.neg(v)))
        assert im is not None
        return b.div(re, size), b.div(im, size)

    # ------------------------------------------------------------ functions

    def _unary(self, fn: UnaryFn, x: Pair) -> Pair:
        """A function of a pair; what has no imaginary part stays so where it can."""
        b = self.b
        re, im = x
        if fn == "re":
            return re, None
        if im is None and fn == "im":
            return self._zeros_like(re), None
        if im is None and fn == "conj":
            return x
        if im is None and fn not in ("log", "sqrt", "rsqrt"):
            return b.unary(fn, re), None
        return self._function(fn, re, self._zeros_like(re) if im is None else im)

    def _function(self, fn: UnaryFn, re: Ref, im: Ref) -> Pair:
        b = self.b
        match fn:
            case "im":
                return im, None
            case "conj":
                return re, b.neg(im)
            case "neg":
                return b.neg(re), b.neg(im)
            case "abs":
                return self._size(re, im), None
            case "exp":
                size = b.exp(re)
                return b.mul(size, b.unary("cos", im)), b.mul(size, b.unary("sin", im))
            case "sin" | "cos":
                return self._wave(fn, re, im)
            case "tanh":
                return self._tanh(re, im)
            case "log":
                return b.unary("log", self._size(re, im)), self._angle(re, im)
            case "sqrt":
                return self._root(re, im)
            case "rsqrt":
                return self._quotient((b.const(1.0), None), self._root(re, im))
            case _:
                raise InternalError(f"`{fn}` of a complex value")

    def _size(self, re: Ref, im: Ref) -> Ref:
        b = self.b
        return b.unary("sqrt", b.add(b.square(re), b.square(im)))

    def _wave(self, fn: UnaryFn, re: Ref, im: Ref) -> tuple[Ref, Ref]:
        """`sin(a + ib) = sin a cosh b + i cos a sinh b`, `cos` with `-i sin a sinh b`."""
        b = self.b
        half = b.const(0.5)
        back = b.neg(im)
        cosh = b.mul(half, b.add(b.exp(im), b.exp(back)))
        sinh = b.mul(half, b.sub(b.unary("expm1", im), b.unary("expm1", back)))
        if fn == "sin":
            return b.mul(b.unary("sin", re), cosh), b.mul(b.unary("cos", re), sinh)
        return b.mul(b.unary("cos", re), cosh), b.neg(b.mul(b.unary("sin", re), sinh))

    def _tanh(self, re: Ref, im: Ref) -> tuple[Ref, Ref]:
        """With `h = tanh a`: `(h + i sin b cos b (1 - h²)) / (cos² b + h² sin² b)`."""
        b = self.b
        h, s, c = b.unary("tanh", re), b.unary("sin", im), b.unary("cos", im)
        below = b.add(b.square(c), b.mul(b.square(h), b.square(s)))
        above = b.mul(b.mul(s, c), b.sub(b.const(1.0), b.square(h)))
        return b.div(h, below), b.div(above, below)

    def _root(self, re: Ref, im: Ref) -> tuple[Ref, Ref]:
        """The root in the right half plane, without cancellation."""
        b = self.b
        half, zero = b.const(0.5), b.const(0.0)
        large = b.unary("sqrt", b.mul(half, b.add(b.unary("abs", re), self._size(re, im))))
        none = b.binary("eq", large, zero)
        small = b.div(b.mul(half, im), b.where(none, b.const(1.0), large))
        right = b.binary("ge", re, zero)
        up = b.where(b.binary("lt", im, zero), b.neg(large), large)
        return b.where(right, large, b.unary("abs", small)), b.where(right, small, up)

    def _angle(self, re: Ref, im: Ref) -> Ref:
        """The argument of a number; the arc tangent by the polynomial of Cephes (`atanf`)."""
        b = self.b
        x, y = b.unary("abs", re), b.unary("abs", im)
        top, low = b.binary("max", x, y), b.binary("min", x, y)
        zero, one = b.const(0.0), b.const(1.0)
        ratio = b.div(low, b.where(b.binary("eq", top, zero), one, top))
        steep = b.binary("gt", ratio, b.const(math.tan(math.pi / 8)))
        small = b.where(steep, b.div(b.sub(ratio, one), b.add(ratio, one)), ratio)
        square = b.square(small)
        series = b.const(8.05374449538e-2)
        for coefficient in (-1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1):
            series = b.add(b.mul(series, square), b.const(coefficient))
        arc = b.add(b.mul(b.mul(series, square), small), small)
        arc = b.where(steep, b.add(arc, b.const(math.pi / 4)), arc)
        arc = b.where(b.binary("gt", y, x), b.sub(b.const(math.pi / 2), arc), arc)
        arc = b.where(b.binary("lt", re, zero), b.sub(b.const(math.pi), arc), arc)
        return b.where(b.binary("lt", im, zero), b.neg(arc), arc)
