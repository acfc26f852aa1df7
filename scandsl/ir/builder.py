"""Appends typed values to a program: infers dimensions and kinds, shares equal values.

In: operands by `Ref`.  Out: a `Ref` per operation.  Only identities that are exact in floating
point (`x * 1`, `x + 0`, `-(-x)`) are simplified; nothing here knows what the values mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from scandsl.diagnostics import Span
from scandsl.ir.nodes import (
    NO_SPAN,
    Algebra,
    Binary,
    BinaryFn,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Dim,
    Dims,
    Every,
    Expand,
    Input,
    Insert,
    Inverse,
    Iota,
    Kind,
    Load,
    MakeComplex,
    Normalize,
    NormalizeFn,
    Of,
    Op,
    Param,
    Prev,
    Recur,
    Reduce,
    ReduceFn,
    Ref,
    Rename,
    Row,
    Scores,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Select,
    Size,
    Spread,
    Stack,
    StopGrad,
    Tangent,
    Time,
    Unary,
    UnaryFn,
    Value,
    Where,
    operands,
)

_RANK = {Kind.BOOL: 0, Kind.INT: 1, Kind.REAL: 2, Kind.COMPLEX: 3}
_COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})
_LEAVES_IN_TIME = (Input, Prev, Time, Every, Row, Load)


class Builder:
    """A growing list of values; `values` and `dims` may start from an existing program."""

    def __init__(self, dims: Sequence[Dim], values: Sequence[Value] = ()) -> None:
        self.dims: list[Dim] = list(dims)
        self.values: list[Value] = list(values)
        self._order = {d.name: i for i, d in enumerate(self.dims)}
        self._seen: dict[tuple[str, Op, Dims, Kind], Ref] = {}
        for ref, value in enumerate(self.values):
            self._seen.setdefault(self._key(value.op, value.dims, value.kind), ref)

    # ------------------------------------------------------------ basics

    @staticmethod
    def _key(op: Op, dims: Dims, kind: Kind) -> tuple[str, Op, Dims, Kind]:
        # repr tells 1 from 1.0 from True and 0.0 from -0.0, which compare equal
        return (repr(op.value) if isinstance(op, Const) else "", op, dims, kind)

    def add_dim(self, dim: Dim) -> None:
        """Make a further dimension known, behind all others."""
        if dim.name not in self._order:
            self._order[dim.name] = len(self.dims)
            self.dims.append(dim)

    def sort(self, dims: Iterable[str]) -> Dims:
        """A set of dimensions in canonical order."""
        return tuple(sorted(set(dims), key=self._order.__getitem__))

    def emit(
        self,
        op: Op,
        dims: Iterable[str],
        kind: Kind,
        name: str | None = None,
        span: Span = NO_SPAN,
        varies: bool | None = None,
    ) -> Ref:
        """Append a value, or return the equal one that exists."""
        ordered = self.sort(dims)
        key = self._key(op, ordered, kind)
        if key in self._seen:
            return self._seen[key]
        if varies is None:
            varies = isinstance(op, _LEAVES_IN_TIME) or any(
                self.values[r].varies for r in operands(op)
            )
        self.values.append(Value(op, ordered, kind, varies, name, span))
        self._seen[key] = len(self.values) - 1
        return len(self.values) - 1

    def dims_of(self, x: Ref) -> Dims:
        """Dimensions of a value."""
        return self.values[x].dims

    def kind_of(self, x: Ref) -> Kind:
        """Kind of a value."""
        return self.values[x].kind

    def constant_of(self, x: Ref) -> bool | int | float | None:
        """The number behind a value if it is a literal (casts and expansions looked through)."""
        op = self.values[x].op
        while isinstance(op, Cast | Expand):
            op = self.values[op.x].op
        return op.value if isinstance(op, Const) else None

    # ------------------------------------------------------------ leaves

    def const(self, value: bool | int | float, kind: Kind = Kind.REAL) -> Ref:
        """A literal; REAL unless asked otherwise (COMPLEX by a cast)."""
        if kind is Kind.COMPLEX:
            return self.cast(self.const(value), Kind.COMPLEX)
        typed = float(value) if kind is Kind.REAL else value
        return self.emit(Const(typed), (), kind)

    def size(self, dims: Sequence[str]) -> Ref:
        """The product of the sizes of dimensions, as a REAL."""
        out = self.const(1.0)
        for dim in dims:
            out = self.mul(out, self.cast(self.emit(Size(dim), (), Kind.INT), Kind.REAL))
        return out

    def iota(self, dim: str) -> Ref:
        """0, 1, ... along a dimension (INT)."""
        return self.emit(Iota(dim), (dim,), Kind.INT)

    def input(self, name: str, dims: Iterable[str], kind: Kind = Kind.REAL) -> Ref:
        """An input at the present step."""
        return self.emit(Input(name), dims, kind)

    def param(self, name: str, dims: Iterable[str], kind: Kind = Kind.REAL) -> Ref:
        """A param."""
        return self.emit(Param(name), dims, kind)

    def load(self, name: str, dims: Iterable[str], kind: Kind = Kind.REAL) -> Ref:
        """A named tensor of the enclosing chunk program."""
        return self.emit(Load(name), dims, kind)

    # ------------------------------------------------------------ elementwise

    def cast(self, x: Ref, kind: Kind) -> Ref:
        """`x` in a larger number system; itself if it is there already."""
        if self.kind_of(x) is kind:
            return x
        op = self.values[x].op
        if isinstance(op, Const) and kind in (Kind.INT, Kind.REAL):
            return self.const(op.value, kind)
        return self.emit(Cast(x), self.dims_of(x), kind)

    def unary(self, fn: UnaryFn, x: Ref) -> Ref:
        """An elementwise function of one argument."""
        value = self.values[x]
        if fn == "neg":
            if isinstance(value.op, Unary) and value.op.fn == "neg":
                return value.op.x
            if isinstance(value.op, Const):
                return self.const(-value.op.value, value.kind)
        if fn in ("re", "conj") and value.kind is not Kind.COMPLEX:
            return x
        kind = value.kind
        if fn in ("re", "im") or (fn == "abs" and kind is Kind.COMPLEX):
            kind = Kind.REAL
        return self.emit(Unary(fn, x), value.dims, kind)

    def _covered(self, x: Ref, other: Ref) -> Ref:
        """`x` without an expansion that `other` brings about anyway."""
        op = self.values[x].op
        if isinstance(op, Expand):
            need = set(self.dims_of(x)) - set(self.dims_of(op.x))
            if need <= set(self.dims_of(other)):
                return op.x
        return x

    def binary(self, fn: BinaryFn, a: Ref, b: Ref) -> Ref:
        """An elementwise function of two arguments, brought to one kind."""
        if fn not in ("and", "or"):
            kind = max(self.kind_of(a), self.kind_of(b), key=_RANK.__getitem__)
            if fn in ("div", "pow", "logaddexp") and kind is not Kind.COMPLEX:
                kind = Kind.REAL
            a, b = self.cast(a, kind), self.cast(b, kind)
        else:
            kind = Kind.BOOL
        a = self._covered(a, b)
        b = self._covered(b, a)
        dims = (*self.dims_of(a), *self.dims_of(b))
        result = Kind.BOOL if fn in _COMPARISONS else kind
        return self.emit(Binary(fn, a, b), dims, result)

    def _is(self, x: Ref, value: float) -> bool:
        found = self.constant_of(x)
        return found is not None and not isinstance(found, bool) and found == value

    def _covers(self, x: Ref, other: Ref) -> bool:
        return set(self.dims_of(other)) <= set(self.dims_of(x)) and (
            _RANK[self.kind_of(other)] <= _RANK[self.kind_of(x)]
        )

    def add(self, a: Ref, b: Ref) -> Ref:
        """`a + b`."""
        if self._is(b, 0) and self._covers(a, b):
            return a
        if self._is(a, 0) and self._covers(b, a):
            return b
        return self.binary("add", a, b)

    def sub(self, a: Ref, b: Ref) -> Ref:
        """`a - b`."""
        if self._is(b, 0) and self._covers(a, b):
            return a
        return self.binary("sub", a, b)

    def mul(self, a: Ref, b: Ref) -> Ref:
        """`a * b`."""
        if self._is(b, 1) and self._covers(a, b):
            return a
        if self._is(a, 1) and self._covers(b, a):
            return b
        return self.binary("mul", a, b)

    def div(self, a: Ref, b: Ref) -> Ref:
        """`a / b`."""
        if self._is(b, 1) and self._covers(a, b):
            return a
        return self.binary("div", a, b)

    def neg(self, x: Ref) -> Ref:
        """`-x`."""
        return self.unary("neg", x)

    def exp(self, x: Ref) -> Ref:
        """`exp(x)`; exactly 1 for a literal 0."""
        if self._is(x, 0) and not self.dims_of(x):
            return self.const(1.0)
        return self.unary("exp", x)

    def square(self, x: Ref) -> Ref:
        """`x * x`."""
        return self.binary("mul", x, x)

    def where(self, c: Ref, a: Ref, b: Ref) -> Ref:
        """`a` where `c`, else `b`."""
        kind = max(self.kind_of(a), self.kind_of(b), key=_RANK.__getitem__)
        a, b = self.cast(a, kind), self.cast(b, kind)
        if a == b and set(self.dims_of(c)) <= set(self.dims_of(a)):
            return a
        dims = (*self.dims_of(c), *self.dims_of(a), *self.dims_of(b))
        return self.emit(Where(c, a, b), dims, kind)

    def clamp(self, x: Ref, low: Ref, high: Ref) -> Ref:
        """`x` held between two bounds."""
        dims = (*self.dims_of(x), *self.dims_of(low), *self.dims_of(high))
        return self.emit(Clamp(x, low, high), dims, self.kind_of(x))

    def make_complex(self, re: Ref, im: Ref) -> Ref:
        """`re + i im`."""
        return self.emit(MakeComplex(re, im), (*self.dims_of(re), *self.dims_of(im)), Kind.COMPLEX)

    def stop_grad(self, x: Ref) -> Ref:
        """`x` as a constant."""
        return self.emit(StopGrad(x), self.dims_of(x), self.kind_of(x))

    # ------------------------------------------------------------ dimensions

    def contract(self, a: Ref, b: Ref, over: Iterable[str]) -> Ref:
        """Sum of `a * b` over `over`; over nothing it is the product."""
        dims = self.sort(over)
        if not dims:
            return self.mul(a, b)
        kind = max(self.kind_of(a), self.kind_of(b), key=_RANK.__getitem__)
        a, b = self.cast(a, kind), self.cast(b, kind)
        kept = (set(self.dims_of(a)) | set(self.dims_of(b))) - set(dims)
        for one, other in ((a, b), (b, a)):
            whole = set(dims) <= set(self.dims_of(other)) and kept <= set(self.dims_of(other))
            if self._is(one, 1) and whole:
                return self.sum(other, dims)
        return self.emit(Contract(a, b, dims), kept, kind)

    def sum_product(self, a: Ref, b: Ref, keep: Iterable[str]) -> Ref:
        """Sum of `a * b` over every dimension that is not in `keep`."""
        kept = set(keep)
        in_a, in_b = set(self.dims_of(a)) - kept, set(self.dims_of(b)) - kept
        a = self.sum(a, in_a - in_b)
        b = self.sum(b, in_b - in_a)
        return self.contract(a, b, in_a & in_b)

    def reduce(self, fn: ReduceFn, x: Ref, over: Iterable[str]) -> Ref:
        """A reduction; over nothing it is `x`."""
        dims = tuple(over) if fn == "argmax" else self.sort(over)
        if not dims and fn != "argmax":
            return x
        kind = Kind.INT if fn == "argmax" else self.kind_of(x)
        return self.emit(Reduce(fn, x, dims), set(self.dims_of(x)) - set(dims), kind)

    def sum(self, x: Ref, over: Iterable[str]) -> Ref:
        """Sum over dimensions; that of an expansion is a multiple."""
        return self.reduce("sum", x, over)

    def normalize(self, fn: NormalizeFn, x: Ref, over: Iterable[str], eps: float) -> Ref:
        """A normalisation that keeps the shape."""
        return self.emit(Normalize(fn, x, self.sort(over), eps), self.dims_of(x), self.kind_of(x))

    def rename(self, x: Ref, pairs: Iterable[tuple[str, str]]) -> Ref:
        """The same numbers under other dimension names."""
        table = {old: new for old, new in pairs if old != new and old in self.dims_of(x)}
        if not table:
            return x
        op = self.values[x].op
        if isinstance(op, Rename):
            back = {new: old for old, new in op.pairs}
            merged = {back.get(old, old): new for old, new in table.items()}
            for new, old in back.items():
                merged.setdefault(old, new)
            return self.rename(op.x, merged.items())
        dims = [table.get(d, d) for d in self.dims_of(x)]
        ordered = tuple((d, table[d]) for d in self.dims_of(x) if d in table)
        return self.emit(Rename(x, ordered), dims, self.kind_of(x))

    def select(self, x: Ref, dim: str, index: int) -> Ref:
        """One entry along a static dimension."""
        dims = [d for d in self.dims_of(x) if d != dim]
        return self.emit(Select(x, dim, index), dims, self.kind_of(x))

    def insert(self, x: Ref, dim: str, index: int, y: Ref) -> Ref:
        """`x` with one entry along a static dimension replaced."""
        return self.emit(Insert(x, dim, index, y), self.dims_of(x), self.kind_of(x))

    def stack(self, xs: Sequence[Ref], dim: str) -> Ref:
        """Values laid along a static dimension."""
        return self.emit(Stack(tuple(xs), dim), (*self.dims_of(xs[0]), dim), self.kind_of(xs[0]))

    def expand(self, x: Ref, dims: Iterable[str]) -> Ref:
        """`x` repeated to have all of `dims`."""
        if set(dims) <= set(self.dims_of(x)):
            return x
        return self.emit(Expand(x), (*self.dims_of(x), *dims), self.kind_of(x))

    def zeros(self, dims: Iterable[str], kind: Kind = Kind.REAL) -> Ref:
        """A zero of given dimensions."""
        return self.expand(self.const(0.0, kind), dims)

    def cumsum(self, x: Ref, dim: str, reverse: bool = False, exclusive: bool = False) -> Ref:
        """Running sum along a dimension."""
        return self.emit(CumSum(x, dim, reverse, exclusive), self.dims_of(x), self.kind_of(x))

    def cumprod(self, x: Ref, dim: str, reverse: bool = False, exclusive: bool = False) -> Ref:
        """Running product along a dimension."""
        return self.emit(CumProd(x, dim, reverse, exclusive), self.dims_of(x), self.kind_of(x))

    def segment_product(
        self, x: Ref, row: str, column: str, inner: str, exclusive: bool = False
    ) -> Ref:
        """Products of `x` over stretches of rows."""
        op = SegmentProduct(x, row, column, inner, exclusive)
        return self.emit(op, (*self.dims_of(x), column), self.kind_of(x))

    def segment(self, x: Ref, row: str, column: str) -> Ref:
        """Sums of `x` over stretches of rows."""
        return self.emit(Segment(x, row, column), (*self.dims_of(x), column), self.kind_of(x))

    def segment_adjoint(self, g: Ref, row: str, column: str) -> Ref:
        """Transpose of `segment`."""
        dims = set(self.dims_of(g)) - {column}
        return self.emit(SegmentAdjoint(g, row, column), dims, self.kind_of(g))

    def inverse(self, x: Ref, row: str, column: str, inner: str) -> Ref:
        """Inverse of one minus the part of `x` under the diagonal."""
        return self.emit(Inverse(x, row, column, inner), self.dims_of(x), self.kind_of(x))

    def scores(
        self,
        q: Ref,
        k: Ref,
        a: Ref,
        row: str,
        column: str,
        over: str,
        factors: bool = False,
        block: int = 0,
    ) -> Ref:
        """Decayed products of the rows of `q` with the earlier rows of `k`."""
        kind = max(self.kind_of(q), self.kind_of(k), key=_RANK.__getitem__)
        op = Scores(self.cast(q, kind), self.cast(k, kind), a, row, column, over, factors, block)
        return self.emit(op, (row, column), kind)

    def spread(
        self,
        m: Ref,
        x: Ref,
        a: Ref,
        row: str,
        column: str,
        over: str,
        factors: bool = False,
        block: int = 0,
    ) -> Ref:
        """Sums of the earlier rows of `x`, decayed, with the weights `m`."""
        kind = max(self.kind_of(m), self.kind_of(x), key=_RANK.__getitem__)
        op = Spread(self.cast(m, kind), self.cast(x, kind), a, row, column, over, factors, block)
        return self.emit(op, (row, over), kind)

    def recur(
        self,
        a: Ref,
        b: Ref,
        start: Ref,
        rows: Ref,
        row: str,
        of: Of = "each",
        adjoint: bool = False,
        after: Ref | None = None,
        algebra: Algebra = "linear",
    ) -> Ref:
        """An elementwise recurrence along `row`, or its adjoint."""
        kind = self.kind_of(start)
        a, b = self.cast(a, kind), self.cast(b, kind)
        op = Recur(a, b, start, rows, row, of, adjoint, after, algebra)
        given = (op.a, op.b, start) if after is None else (op.a, op.b, start, after)
        dims = {d for x in given for d in self.dims_of(x)} - {row}
        return self.emit(op, dims if of == "end" else {row, *dims}, kind)

    def tangent(
        self, x: Ref, a: Ref, b: Ref, start: Ref, rows: Ref, row: str, of: Of = "each"
    ) -> Ref:
        """`x` with the derivative of a recurrence with the factors `a` and the terms `b`."""
        return self.emit(Tangent(x, a, b, start, rows, row, of), self.dims_of(x), self.kind_of(x))

    def infinity(self, negative: bool = False) -> Ref:
        """±∞."""
        return self.const(-math.inf if negative else math.inf)
