"""Splitting products by dimensions: a sum of terms `b[K] ∘ x[V]`, and contractions of products.

In: a builder, a value, and two disjoint sets of dimensions.  Out: pairs of values whose products
sum to it, or `None` if no such pairs are found structurally.  Exact algebra; nothing is
approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Contract,
    Dims,
    Expand,
    Kind,
    Reduce,
    Ref,
    Rename,
    Stack,
    Unary,
    Where,
)

_MOST_TERMS = 16
Pair = tuple[Ref, Ref]


class Separator:
    """Writes values as sums of products of a part over `left` and a part over `right`."""

    def __init__(self, builder: Builder, left: Sequence[str], right: Sequence[str]) -> None:
        self.b = builder
        self.left = frozenset(left)
        self.right = frozenset(right)

    def pairs(self, ref: Ref) -> list[Pair] | None:
        """The terms of `ref`; those that share a factor are merged."""
        found = self._split(ref)
        return None if found is None or len(found) > _MOST_TERMS else self._merge(found)

    def _split(self, ref: Ref) -> list[Pair] | None:  # noqa: C901 - one rule per operation
        b = self.b
        value = b.values[ref]
        dims = set(value.dims)
        one = b.const(1.0, value.kind)
        if dims <= self.left and self.left:
            return [(ref, one)]
        if dims <= self.right:
            return [(one, ref)]
        match value.op:
            case Binary("add", x, y):
                return _joined(self._split(x), self._split(y))
            case Binary("sub", x, y):
                return _joined(self._split(x), self._scaled(self._split(y), None))
            case Binary("mul", x, y):
                return self._product(self._split(x), self._split(y))
            case Binary("div", x, y):
                return self._quotient(self._split(x), y)
            case Unary("neg", x):
                return self._scaled(self._split(x), None)
            case Unary("exp", x) if value.kind is Kind.REAL:
                sides = self._sides(x)
                return sides and [(b.exp(sides[0]), b.exp(sides[1]))]
            case Expand(x):
                return self._split(x)
            case Cast(x) if value.kind in (Kind.REAL, Kind.COMPLEX):
                found = self._split(x)
                return found and [(b.cast(p, value.kind), b.cast(q, value.kind)) for p, q in found]
            case Where(c, x, y):
                return self._choice(c, self._split(x), self._split(y))
            case Rename(x, pairs):
                return self._renamed(x, pairs)
            case Contract(x, y, over):
                return self._contraction(x, y, over)
            case Reduce("sum", x, over):
                return self._static_sum(over, lambda dim, i: self._split(entry(b, x, dim, i)))
            case _:
                return None

    def _sides(self, ref: Ref) -> Pair | None:
        """A sum as two, each of which has dimensions on one side only."""
        b, value = self.b, self.b.values[ref]
        dims = set(value.dims)
        zero = b.const(0.0, value.kind)
        if dims <= self.left and self.left:
            return ref, zero
        if dims <= self.right:
            return zero, ref
        match value.op:
            case Binary("add" | "sub" as fn, x, y):
                one, two = self._sides(x), self._sides(y)
                if one is None or two is None:
                    return None
                join = b.add if fn == "add" else b.sub
                return join(one[0], two[0]), join(one[1], two[1])
            case Unary("neg", x):
                found = self._sides(x)
                return found and (b.neg(found[0]), b.neg(found[1]))
            case Expand(x):
                return self._sides(x)
            case _:
                return None

    def _scaled(self, found: list[Pair] | None, by: Ref | None) -> list[Pair] | None:
        if found is None:
            return None
        if by is None:
            left = bool(self.left)
            return [(self.b.neg(x), y) if left else (x, self.b.neg(y)) for x, y in found]
        if set(self.b.dims_of(by)) <= self.left and self.left:
            return [(self.b.mul(by, x), y) for x, y in found]
        return [(x, self.b.mul(by, y)) for x, y in found]

    def _product(self, one: list[Pair] | None, two: list[Pair] | None) -> list[Pair] | None:
        if one is None or two is None or len(one) * len(two) > _MOST_TERMS:
            return None
        return [(self.b.mul(p, r), self.b.mul(q, s)) for p, q in one for r, s in two]

    def _quotient(self, found: list[Pair] | None, by: Ref) -> list[Pair] | None:
        if found is None:
            return None
        dims = set(self.b.dims_of(by))
        if dims <= self.left and self.left:
            return [(self.b.div(x, by), y) for x, y in found]
        if dims <= self.right:
            return [(x, self.b.div(y, by)) for x, y in found]
        divisor = self._split(by)
        if divisor is None or len(divisor) != 1:
            return None
        p, q = divisor[0]
        return [(self.b.div(x, p), self.b.div(y, q)) for x, y in found]

    def _choice(self, c: Ref, one: list[Pair] | None, two: list[Pair] | None) -> list[Pair] | None:
        b, dims = self.b, set(self.b.dims_of(c))
        if one is None or two is None:
            return None
        on_left = dims <= self.left and bool(self.left)
        if not on_left and not dims <= self.right:
            return None

        def masked(pair: Pair, taken: bool) -> Pair:
            x, y = pair
            part = x if on_left else y
            zero = b.const(0.0, b.kind_of(part))
            part = b.where(c, part, zero) if taken else b.where(c, zero, part)
            return (part, y) if on_left else (x, part)

        kept = [masked(p, True) for p in one if not self._zero(p)]
        return kept + [masked(p, False) for p in two if not self._zero(p)]

    def _zero(self, pair: Pair) -> bool:
        return any(self.b.constant_of(x) == 0 for x in pair)

    def _renamed(self, x: Ref, pairs: tuple[tuple[str, str], ...]) -> list[Pair] | None:
        back = {new: old for old, new in pairs}
        left = {back.get(d, d) for d in self.left}
        right = {back.get(d, d) for d in self.right}
        if left & right:
            return None
        inner = Separator(self.b, sorted(left), sorted(right))._split(x)
        return inner and [(self.b.rename(p, pairs), self.b.rename(q, pairs)) for p, q in inner]

    def _contraction(self, x: Ref, y: Ref, over: Dims) -> list[Pair] | None:
        """A sum over static dimensions, term by term; or one that lies on one side only.

        Within the sum its dimensions are its own, whatever they are outside.
        """
        b, summed = self.b, frozenset(over)
        for right in (True, False):
            left = self.left - summed if right else self.left | summed
            other = self.right | summed if right else self.right - summed
            wide = Separator(b, sorted(left), sorted(other))
            found = self._product_of(wide, x, y, over, right)
            if found is not None:
                return found

        def product(dim: str, index: int) -> list[Pair] | None:
            at_x, at_y = entry(b, x, dim, index), entry(b, y, dim, index)
            return self._product(self._split(at_x), self._split(at_y))

        return self._static_sum(over, product)

    def _static_sum(
        self, over: Dims, term: Callable[[str, int], list[Pair] | None]
    ) -> list[Pair] | None:
        """The terms of a sum over one static dimension."""
        size = static_size(self.b, over[0]) if len(over) == 1 else None
        if size is None or size > _MOST_TERMS:
            return None
        terms: list[Pair] | None = []
        for index in range(size):
            terms = _joined(terms, term(over[0], index))
        return terms

    def _product_of(
        self, wide: Separator, x: Ref, y: Ref, over: Dims, right: bool
    ) -> list[Pair] | None:
        """`Σ_over x y` where the summed dimensions belong to one side of a single product."""
        one, two = wide._split(x), wide._split(y)
        if one is None or two is None or len(one) * len(two) > _MOST_TERMS:
            return None
        out = []
        for p, q in one:
            for r, s in two:
                if right:
                    out.append((self.b.mul(p, r), dot(self.b, q, s, over)))
                else:
                    out.append((dot(self.b, p, r, over), self.b.mul(q, s)))
        return out

    def _merge(self, found: list[Pair]) -> list[Pair]:
        """`b x + b y = b (x + y)` and `a x + b x = (a + b) x`."""
        by_left: dict[Ref, Ref] = {}
        for x, y in found:
            by_left[x] = self.b.add(by_left[x], y) if x in by_left else y
        by_right: dict[Ref, Ref] = {}
        for x, y in by_left.items():
            by_right[y] = self.b.add(by_right[y], x) if y in by_right else x
        return [(x, y) for y, x in by_right.items()]


def _joined(one: list[Pair] | None, two: list[Pair] | None) -> list[Pair] | None:
    return None if one is None or two is None else one + two


def static_size(builder: Builder, dim: str) -> int | None:
    """The size of a dimension that is fixed at compile time."""
    return next(d.size for d in builder.dims if d.name == dim)


def entry(builder: Builder, ref: Ref, dim: str, index: int) -> Ref:
    """One entry along a static dimension, taken as far down in an expression as possible."""
    b, value = builder, builder.values[ref]
    if dim not in value.dims:
        return ref
    match value.op:
        case Binary(fn, x, y):
            at_x, at_y = entry(b, x, dim, index), entry(b, y, dim, index)
            return b.mul(at_x, at_y) if fn == "mul" else b.binary(fn, at_x, at_y)
        case Unary(fn, x):
            return b.unary(fn, entry(b, x, dim, index))
        case Cast(x):
            return b.cast(entry(b, x, dim, index), value.kind)
        case Expand(x):
            rest = [d for d in value.dims if d != dim]
            return b.expand(entry(b, x, dim, index), rest)
        case Stack(xs, along) if along == dim:
            return xs[index]
        case _:
            return b.select(ref, dim, index)


def dot(builder: Builder, a: Ref, b: Ref, over: Sequence[str]) -> Ref:
    """`Σ_over a ∘ b`, whichever of the two has which of the dimensions."""
    dims_a, dims_b = set(builder.dims_of(a)), set(builder.dims_of(b))
    chosen = set(over)
    nowhere = chosen - dims_a - dims_b
    a = builder.sum(a, (chosen & dims_a) - dims_b)
    b = builder.sum(b, (chosen & dims_b) - dims_a)
    out = builder.contract(a, b, chosen & dims_a & dims_b)
    return builder.mul(out, builder.size(builder.sort(nowhere)))


def pull(builder: Builder, ref: Ref, over: Sequence[str]) -> tuple[Ref | None, Ref]:
    """`ref = outer ∘ inner` with all dimensions of `over` in `inner`; `outer` is `None` for 1."""
    chosen = set(over)
    dims = set(builder.dims_of(ref))
    if dims <= chosen:
        return None, ref
    found = Separator(builder, sorted(chosen), sorted(dims - chosen)).pairs(ref)
    if found is None or len(found) != 1:
        return None, ref
    inner, outer = found[0]
    return outer, inner
