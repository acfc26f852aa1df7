"""Reverse-mode differentiation of a program, as further values of the same program.

In: a builder, cotangents of some values, and the values whose cotangents are wanted.  Out: one
`Ref` per wanted value, or `None` where no gradient flows.  Derivatives are torch's.  For complex
values the cotangent `g` of `z` means `dL = Re(conj(g) dz)`, as in torch.

A `where` gives exactly zero to the branch not taken.  Behind such a branch, a local derivative may
be infinite; there a cotangent that is zero stays zero, whatever it is multiplied with.

`Lag` is a leaf here (its past is a separate memory); `Grad` has to be expanded before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from typing_extensions import assert_never

from scandsl.diagnostics import InternalError
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Every,
    Expand,
    Grad,
    Input,
    Insert,
    Inverse,
    Iota,
    Kind,
    Lag,
    LagState,
    Load,
    MakeComplex,
    Normalize,
    Param,
    Prev,
    Recur,
    Reduce,
    Ref,
    Rename,
    Row,
    Scalar,
    Scores,
    ScoresAdjoint,
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
    Value,
    Where,
    operands,
)

Contribution = tuple[Ref, Ref]  # (operand, its share of the cotangent)
SMALL = 1e-20  # a factor under this is not divided by


def vjp(
    builder: Builder, seeds: Mapping[Ref, Ref], wrt: Sequence[Ref], behind: Iterable[Ref] = ()
) -> dict[Ref, Ref | None]:
    """Cotangents of `wrt` for the given cotangents of other values.

    A value in `wrt` is a variable of its own: the cotangent does not go on behind it to others in
    `wrt`, unless by other paths.  `behind` lists values that a `where` of another program, which
    uses the results of this one, may leave out.
    """
    stop = len(builder.values)
    active = _depends_on(builder.values, wrt, stop)
    guarded = _behind_where(builder.values, stop, behind)
    leaves = set(wrt)
    cotangents: dict[Ref, Ref] = {}
    for ref, g in seeds.items():
        _accumulate(builder, cotangents, ref, g)
    push = _Push(builder, guarded)
    runs = _runs(builder.values, stop)
    for ref in range(stop - 1, -1, -1):
        if ref in cotangents and active[ref]:
            value = builder.values[ref]
            g = builder.expand(cotangents[ref], value.dims)
            cotangents[ref] = g
            if ref in leaves and not any(active[r] for r in _followed(value)):
                continue
            shares = push.contributions(ref, value, g)
        elif ref in runs:
            shares = ()
        else:
            continue
        if ref in runs:
            shares = push.recurrence(ref, runs[ref])
        for operand, share in shares:
            if active[operand]:
                fitted = builder.sum(
                    share, set(builder.dims_of(share)) - set(builder.dims_of(operand))
                )
                _accumulate(builder, cotangents, operand, fitted)
    out: dict[Ref, Ref | None] = {}
    for ref in wrt:
        found = cotangents.get(ref)
        out[ref] = None if found is None else builder.expand(found, builder.dims_of(ref))
    return out


def _runs(values: Sequence[Value], stop: int) -> dict[Ref, Recur | Tangent]:
    """Recurrences by the first of the values that are made of each."""
    found: dict[Recur | Tangent, Ref] = {}
    for ref in range(stop):
        op = values[ref].op
        if isinstance(op, Recur | Tangent):
            found.setdefault(_whole(op), ref)
    return {ref: op for op, ref in found.items()}


def _whole(op: Recur | Tangent) -> Recur | Tangent:
    """What all values of one recurrence have in common."""
    if isinstance(op, Tangent):
        return replace(op, x=op.start, of="each")
    return replace(op, of="each")


def _followed(value: Value) -> tuple[Ref, ...]:
    return () if isinstance(value.op, Lag) else operands(value.op)


def _accumulate(builder: Builder, cotangents: dict[Ref, Ref], ref: Ref, g: Ref) -> None:
    cotangents[ref] = builder.add(cotangents[ref], g) if ref in cotangents else g


def _depends_on(values: Sequence[Value], wrt: Sequence[Ref], stop: int) -> list[bool]:
    """Which values are differentiable functions of `wrt`."""
    chosen = set(wrt)
    active = [False] * stop
    for ref in range(stop):
        value = values[ref]
        if value.kind not in (Kind.REAL, Kind.COMPLEX):
            continue
        if ref in chosen:
            active[ref] = True
        elif not isinstance(value.op, StopGrad):
            active[ref] = any(active[r] for r in _followed(value) if r < ref)
    return active


def _behind_where(values: Sequence[Value], stop: int, known: Iterable[Ref]) -> frozenset[Ref]:
    """Values that some `where` may leave out because of the data."""
    behind: set[Ref] = set(known)
    for ref in range(stop - 1, -1, -1):
        op = values[ref].op
        if isinstance(op, Where) and not _structural(values, op.c):
            behind.update((op.a, op.b))
        elif ref in behind:
            behind.update(_followed(values[ref]))
    return frozenset(behind)


def _structural(values: Sequence[Value], c: Ref) -> bool:
    """Whether a condition is about the rows of a chunk (a triangle, the tail), not about data."""
    pending, seen = [c], {c}
    while pending:
        op = values[pending.pop()].op
        if isinstance(op, Row) or (isinstance(op, Iota) and op.dim.startswith("#")):
            continue
        inner = operands(op)
        if not inner:
            return False
        pending += [r for r in inner if r not in seen]
        seen.update(inner)
    return True


class _Push:
    """The transposed derivative of one operation."""

    def __init__(self, builder: Builder, guarded: frozenset[Ref]) -> None:
        self.b = builder
        self.guarded = guarded
        self.runs: dict[Recur | Tangent, dict[str, Ref]] = {}

    # ------------------------------------------------------------ helpers

    def times(self, ref: Ref, g: Ref, derivative: Ref) -> Ref:
        """`g * derivative`; where `ref` may be left out by a `where`, a zero `g` gives zero."""
        b = self.b
        product = b.mul(g, derivative)
        if ref not in self.guarded or b.constant_of(derivative) is not None:
            return product
        if b.kind_of(g) is Kind.COMPLEX:
            zero = b.const(0.0)
            still = b.binary(
                "and",
                b.binary("eq", b.unary("re", g), zero),
                b.binary("eq", b.unary("im", g), zero),
            )
        else:
            still = b.binary("eq", g, b.const(0.0))
        return b.where(still, b.const(0.0, b.kind_of(product)), product)

    def conj(self, x: Ref) -> Ref:
        return self.b.unary("conj", x)

    # ------------------------------------------------------------ dispatch

    def contributions(  # noqa: C901 - one case per operation
        self, ref: Ref, value: Value, g: Ref
    ) -> Sequence[Contribution]:
        """Shares of the cotangent `g` of a value for each of its operands."""
        b = self.b
        match value.op:
            case Unary():
                return self._unary(ref, value.op, g)
            case Binary():
                return self._binary(ref, value.op, g)
            case Contract(x, y):
                keep_x, keep_y = b.dims_of(x), b.dims_of(y)
                return (
                    (x, b.sum_product(g, self.conj(y), keep_x)),
                    (y, b.sum_product(g, self.conj(x), keep_y)),
                )
            case Reduce():
                return self._reduce(ref, value.op, g)
            case Normalize():
                return ((value.op.x, self._normalize(ref, value.op, g)),)
            case Cast(x):
                return ((x, b.unary("re", g) if b.kind_of(x) is Kind.REAL else g),)
            case Clamp(x, low, high):
                return self._clamp(x, low, high, g)
            case Where(c, x, y):
                zero = b.const(0.0, b.kind_of(g))
                return ((x, b.where(c, g, zero)), (y, b.where(c, zero, g)))
            case MakeComplex(re, im):
                return ((re, b.unary("re", g)), (im, b.unary("im", g)))
            case Rename(x, pairs):
                return ((x, b.rename(g, [(new, old) for old, new in pairs])),)
            case Select(x, dim, index):
                empty = b.zeros(b.dims_of(x), b.kind_of(g))
                return ((x, b.insert(empty, dim, index, g)),)
            case Insert(x, dim, index, y):
                without = b.zeros(b.dims_of(y), b.kind_of(g))
                return ((x, b.insert(g, dim, index, without)), (y, b.select(g, dim, index)))
            case Stack(xs, dim):
                return [(x, b.select(g, dim, i)) for i, x in enumerate(xs)]
            case Expand(x):
                return ((x, g),)
            case Recur() | Tangent():  # those of all values of one, `recurrence` takes together
                self.runs.setdefault(_whole(value.op), {})[value.op.of] = g
                return ()
            case CumSum(x, dim, reverse, exclusive):
                return ((x, b.cumsum(g, dim, not reverse, exclusive)),)
            case CumProd(x):
                return ((x, self._cumprod(value.op, g)),)
            case SegmentProduct(x):
                return ((x, self._segment_product(value.op, g)),)
            case Scores():
                return self._scores(value.op, g)
            case Spread():
                return self._spread(value.op, g)
            case Inverse(x, row, column, inner):
                return ((x, self._inverse(ref, row, column, inner, g)),)
            case Segment(x, row, column):
                return ((x, b.segment_adjoint(g, row, column)),)
            case Grad() | SegmentAdjoint() | ScoresAdjoint():
                raise InternalError("a `grad` has to be expanded before it is differentiated")
            case StopGrad() | Lag() | LagState() | Const() | Size() | Iota() | Time() | Every():
                return ()
            case Input() | Param() | Scalar() | Prev() | Row() | Load():
                return ()
            case unreachable:
                assert_never(unreachable)

    # ------------------------------------------------------------ families

    def _unary(self, ref: Ref, op: Unary, g: Ref) -> Sequence[Contribution]:
        b, x = self.b, op.x
        match op.fn:
            case "neg":
                return ((x, b.neg(g)),)
            case "re":
                return ((x, b.cast(g, Kind.COMPLEX)),)
            case "im":
                return ((x, b.make_complex(b.const(0.0), g)),)
            case "conj":
                return ((x, self.conj(g)),)
            case "sign" | "floor" | "not":
                return ()
            case "relu":
                return ((x, b.where(b.binary("gt", x, b.const(0.0)), g, b.const(0.0))),)
            case "abs" if b.kind_of(x) is Kind.COMPLEX:
                safe = b.where(b.binary("eq", ref, b.const(0.0)), b.const(1.0), ref)
                direction = b.div(x, b.cast(safe, Kind.COMPLEX))
                return ((x, self.times(ref, b.cast(g, Kind.COMPLEX), direction)),)
            case _:
                return ((x, self.times(ref, g, self.conj(self._slope(ref, op)))),)

    def _slope(self, ref: Ref, op: Unary) -> Ref:  # noqa: C901 - one case per function
        """The derivative of a smooth function at `op.x`; by its value `ref` where cheaper."""
        b, x = self.b, op.x
        one = b.const(1.0)
        match op.fn:
            case "exp":
                return ref
            case "log":
                return b.div(one, x)
            case "log1p":
                return b.div(one, b.add(one, x))
            case "expm1":
                return b.exp(x)
            case "sqrt":
                return b.div(b.const(0.5), ref)
            case "rsqrt":
                return b.mul(b.mul(b.const(-0.5), ref), b.square(ref))
            case "abs":
                return b.unary("sign", x)
            case "sin":
                return b.unary("cos", x)
            case "cos":
                return b.neg(b.unary("sin", x))
            case "tanh":
                return b.sub(one, b.square(ref))
            case "sigmoid":
                return b.mul(ref, b.sub(one, ref))
            case "logsigmoid":
                return b.unary("sigmoid", b.neg(x))
            case "softplus":
                return b.unary("sigmoid", x)
            case "silu":
                s = b.unary("sigmoid", x)
                return b.mul(s, b.add(one, b.mul(x, b.sub(one, s))))
            case "elu":
                return b.where(b.binary("gt", x, b.const(0.0)), one, b.add(ref, one))
            case "gelu":
                half = b.mul(b.const(0.5), b.unary("erf", b.mul(x, b.const(math.sqrt(0.5)))))
                bell = b.exp(b.mul(b.const(-0.5), b.square(x)))
                density = b.mul(b.const(1 / math.sqrt(2 * math.pi)), bell)
                return b.add(b.add(b.const(0.5), half), b.mul(x, density))
            case "erf":
                return b.mul(b.const(2 / math.sqrt(math.pi)), b.exp(b.neg(b.square(x))))
            case _:
                raise InternalError(f"no derivative for `{op.fn}`")

    def _binary(self, ref: Ref, op: Binary, g: Ref) -> Sequence[Contribution]:
        b, x, y = self.b, op.a, op.b
        match op.fn:
            case "add":
                return ((x, g), (y, g))
            case "sub":
                return ((x, g), (y, b.neg(g)))
            case "mul":
                return self._product(ref, x, y, g)
            case "div":
                share = self.times(ref, g, self.conj(b.div(b.const(1.0), y)))
                back = self.times(ref, g, self.conj(b.neg(b.div(ref, y))))
                return ((x, share), (y, back))
            case "pow":
                return self._power(ref, x, y, g)
            case "mod":
                whole = b.unary("floor", b.div(x, y))
                return ((x, g), (y, self.times(ref, g, b.neg(whole))))
            case "max":
                return self._choice(x, y, g, b.binary("gt", x, y))
            case "min":
                return self._choice(x, y, g, b.binary("lt", x, y))
            case "logaddexp":
                return tuple((z, self._soft(ref, z, ref, g)) for z in (x, y))
            case _:
                return ()

    def _product(self, ref: Ref, x: Ref, y: Ref, g: Ref) -> Sequence[Contribution]:
        b = self.b
        out = []
        for this, other in ((x, y), (y, x)):
            if ref in self.guarded:
                out.append((this, self.times(ref, g, self.conj(other))))
            else:
                out.append((this, b.sum_product(g, self.conj(other), b.dims_of(this))))
        return out

    def _power(self, ref: Ref, x: Ref, y: Ref, g: Ref) -> Sequence[Contribution]:
        b = self.b
        zero, one = b.const(0.0), b.const(1.0)
        exponent = b.constant_of(y)
        if exponent is not None and exponent == 2:
            return ((x, self.times(ref, g, b.mul(b.const(2.0), x))),)
        slope = b.mul(y, b.binary("pow", x, b.sub(y, one)))
        base = self.times(ref, g, b.where(b.binary("eq", y, zero), zero, slope))
        vanishing = b.binary("and", b.binary("eq", x, zero), b.binary("ge", y, zero))
        log = b.unary("log", b.where(vanishing, one, x))
        power = self.times(ref, g, b.where(vanishing, zero, b.mul(ref, log)))
        return ((x, base), (y, power))

    def _choice(self, x: Ref, y: Ref, g: Ref, first: Ref) -> Sequence[Contribution]:
        """`max`/`min`: all to the chosen side, half to each at a tie."""
        b = self.b
        zero = b.const(0.0)
        tie = b.binary("eq", x, y)
        half = b.mul(b.const(0.5), g)
        to_x = b.where(tie, half, b.where(first, g, zero))
        to_y = b.where(tie, half, b.where(first, zero, g))
        return ((x, to_x), (y, to_y))

    def _soft(self, ref: Ref, x: Ref, total: Ref, g: Ref) -> Ref:
        """Share of `x` in a log-sum-exp: `g exp(x - total)`, zero where the total is −∞."""
        b = self.b
        empty = b.binary("eq", total, b.infinity(negative=True))
        safe = b.where(empty, b.const(0.0), total)
        weight = b.where(empty, b.const(0.0), b.exp(b.sub(x, safe)))
        return self.times(ref, g, weight)

    def _clamp(self, x: Ref, low: Ref, high: Ref, g: Ref) -> Sequence[Contribution]:
        b = self.b
        zero = b.const(0.0)
        below, above = b.binary("lt", x, low), b.binary("gt", x, high)
        inside = b.where(b.binary("or", below, above), zero, g)
        to_low = b.where(b.binary("and", below, b.binary("lt", low, high)), g, zero)
        to_high = b.where(b.binary("or", above, b.binary("ge", low, high)), g, zero)
        return ((x, inside), (low, to_low), (high, to_high))

    def _reduce(self, ref: Ref, op: Reduce, g: Ref) -> Sequence[Contribution]:
        b, x = self.b, op.x
        match op.fn:
            case "sum":
                return ((x, g),)
            case "mean":
                return ((x, b.div(g, b.size(op.over))),)
            case "max" | "min":
                hit = b.cast(b.binary("eq", x, ref), Kind.REAL)
                share = b.div(hit, b.sum(hit, op.over))
                return ((x, self.times(ref, g, share)),)
            case "logsumexp":
                return ((x, self._soft(ref, x, ref, g)),)
            case "argmax":
                return ()
            case unreachable:
                assert_never(unreachable)

    def recurrence(self, ref: Ref, op: Recur | Tangent) -> Sequence[Contribution]:
        """Shares of the cotangents of all values of a recurrence: it runs back once for all."""
        found = self.runs.get(op)
        if not found:
            return ()
        if isinstance(op, Recur) and (op.adjoint or op.algebra != "linear"):
            raise InternalError("this recurrence is not differentiated")
        b = self.b
        zero = b.const(0.0, b.kind_of(op.start))
        a, rows, row = self.conj(op.a), op.rows, op.row
        end = b.expand(found.get("end", zero), set(b.dims_of(ref)) - {row})
        each, after = found.get("each", zero), found.get("before")
        run = b.recur(a, each, end, rows, row, "each", True, after)
        back = b.recur(a, each, end, rows, row, "end", True, after)
        if isinstance(op, Tangent):
            return ((op.b, run), (op.start, back))
        before = self.conj(b.recur(op.a, op.b, op.start, rows, row, "before"))
        if ref in self.guarded:
            slope = self.times(ref, run, before)
        else:
            slope = b.sum_product(run, before, b.dims_of(op.a))
        return ((op.a, slope), (op.b, run), (op.start, back))

    def _scores(self, op: Scores, g: Ref) -> Sequence[Contribution]:
        b = self.b
        given: tuple[tuple[Literal["q", "k", "a"], Ref], ...]
        given = (("q", op.q), ("k", op.k), ("a", op.a))
        out = []
        for name, ref in given:
            part = ScoresAdjoint(
                op.q, op.k, op.a, g, op.row, op.column, op.over, name, op.factors, op.block
            )
            out.append((ref, b.emit(part, b.dims_of(ref), b.kind_of(ref))))
        return out

    def _spread(self, op: Spread, g: Ref) -> Sequence[Contribution]:
        """`Σ g_i m_ij x_j w_ij` is what `Scores` of `g` and `x` gives, times `m`."""
        b = self.b
        m = b.scores(g, op.x, op.a, op.row, op.column, op.over, op.factors, op.block)
        given: tuple[tuple[Literal["q", "k", "a"], Ref], ...] = (("k", op.x), ("a", op.a))
        out = [(op.m, m)]
        for name, ref in given:
            part = ScoresAdjoint(
                g, op.x, op.a, op.m, op.row, op.column, op.over, name, op.factors, op.block
            )
            out.append((ref, b.emit(part, b.dims_of(ref), b.kind_of(ref))))
        return out

    def _cumprod(self, op: CumProd, g: Ref) -> Ref:
        """`Σ g_i (Π of the others)`: by division, but where a factor is (as good as) zero.

        There only products without another such factor count; those are made of the rest.
        """
        b, x = self.b, op.x
        zero, one = b.const(0.0), b.const(1.0)
        small = b.binary("lt", b.unary("abs", x), b.const(SMALL))
        filled = b.where(small, one, x)
        count = b.cumsum(b.cast(small, Kind.REAL), op.dim, op.reverse, op.exclusive)
        share = b.mul(g, b.cumprod(filled, op.dim, op.reverse, op.exclusive))
        without = b.where(b.binary("eq", count, zero), share, zero)
        alone = b.where(b.binary("eq", count, one), share, zero)
        quotient = b.div(b.cumsum(without, op.dim, not op.reverse, op.exclusive), filled)
        return b.where(small, b.cumsum(alone, op.dim, not op.reverse, op.exclusive), quotient)

    def _segment_product(self, op: SegmentProduct, g: Ref) -> Ref:
        """At m, `Σ_{i,j} g_ij (Π after m up to i) (Π after j before m)`: nothing is divided."""
        b = self.b
        row, column, inner = op.row, op.column, op.inner
        after = b.segment_product(op.x, row, column, inner, op.exclusive)
        before = b.segment_product(op.x, row, column, inner, exclusive=True)
        moved = b.rename(before, [(row, inner)])
        seen = b.contract(g, moved, (column,))
        at = b.contract(b.rename(after, [(column, inner)]), seen, (row,))
        return b.rename(at, [(inner, row)])

    def _inverse(self, ref: Ref, row: str, column: str, inner: str, g: Ref) -> Ref:
        """`Tᵀ g Tᵀ` under the diagonal, for the inverse `T`."""
        b = self.b
        flipped = b.rename(ref, [(row, inner), (column, row)])
        left = b.contract(flipped, b.rename(g, [(row, inner)]), (inner,))
        right = b.rename(ref, [(row, column), (column, inner)])
        whole = b.contract(b.rename(left, [(column, inner)]), right, (inner,))
        below = b.binary("gt", b.iota(row), b.iota(column))
        return b.where(below, whole, b.const(0.0))

    def _normalize(self, ref: Ref, op: Normalize, g: Ref) -> Ref:
        b, x, over = self.b, op.x, op.over
        if op.fn == "softmax":
            return self.times(ref, ref, b.sub(g, b.contract(g, ref, over)))
        if op.fn == "l2norm":
            r = b.unary("rsqrt", b.add(b.contract(x, x, over), b.const(op.eps)))
            along = b.contract(g, ref, over)
            return self.times(ref, b.sub(g, b.mul(ref, along)), r)
        n = b.size(over)
        centred = x
        if op.fn == "layernorm":
            centred = b.sub(x, b.reduce("mean", x, over))
            g = b.sub(g, b.reduce("mean", g, over))
        power = b.div(b.contract(centred, centred, over), n)
        r = b.unary("rsqrt", b.add(power, b.const(op.eps)))
        along = b.div(b.contract(g, ref, over), n)
        return self.times(ref, b.sub(g, b.mul(ref, along)), r)
