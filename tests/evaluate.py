"""Evaluates a chunk program value by value, in float64: the tests' own naive meaning of tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from scandsl.ir import nodes as n

_KINDS = {
    n.Kind.REAL: torch.float64, n.Kind.COMPLEX: torch.complex128, n.Kind.INT: torch.int64,
    n.Kind.BOOL: torch.bool,
}  # fmt: skip
_functional = torch.nn.functional
_UNARY = {
    "neg": torch.neg, "logsigmoid": _functional.logsigmoid, "softplus": _functional.softplus,
    "silu": _functional.silu, "relu": _functional.relu, "elu": _functional.elu,
    "gelu": _functional.gelu, "not": torch.logical_not, "re": torch.real, "im": torch.imag,
}  # fmt: skip
_BINARY = {
    "mod": torch.remainder, "max": torch.maximum, "min": torch.minimum,
    "and": torch.logical_and, "or": torch.logical_or,
}  # fmt: skip
_REDUCE = {
    "sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin,
    "logsumexp": torch.logsumexp,
}  # fmt: skip


def left(a: Tensor, op: n.Scores | n.ScoresAdjoint | n.Spread) -> Tensor:
    """`[i, j, k]`: what the decays strictly between rows j and i leave; zero for i ≤ j."""
    zero = a.new_zeros(a.shape[-1])
    rows = []
    for i in range(len(a)):
        between = [a[j + 1 : i] for j in range(i)]
        weights = [x.prod(0) if op.factors else x.sum(0).exp() for x in between]
        rows.append(torch.stack([*weights, *[zero] * (len(a) - i)]))
    return torch.stack(rows)


class Evaluator:
    """`leaves` maps inputs, params, scalars and loads, by name, to tensors.

    `layouts` gives the order of their axes, a row for every token aside, which comes first.
    """

    def __init__(
        self,
        values: Sequence[n.Value],
        sizes: Mapping[str, int],
        leaves: Mapping[str, Tensor],
        row: Tensor,
        layouts: Mapping[str, n.Dims],
    ) -> None:
        self.values, self.sizes, self.leaves, self.row = values, sizes, leaves, row
        self.layouts = layouts
        self.known: dict[n.Ref, Tensor] = {}

    def __call__(self, ref: n.Ref, order: n.Dims | None = None) -> Tensor:
        """The value `ref`, its axes in the order of its dims, or in the order given."""
        if ref not in self.known:
            value = self.values[ref]
            out = self._compute(value).expand([self.sizes[d] for d in value.dims])
            self.known[ref] = out.to(_KINDS[value.kind])
        return self.known[ref] if order is None else self._spread(ref, order)

    def _spread(self, ref: n.Ref, dims: n.Dims) -> Tensor:
        own = self.values[ref].dims
        x = self(ref).permute([own.index(d) for d in dims if d in own])
        return x.reshape([self.sizes[d] if d in own else 1 for d in dims])

    def _recurrence(self, op: n.Recur, dims: n.Dims) -> Tensor:
        """Row after row, as its definition says."""
        inner = tuple(d for d in dims if d != op.row)
        full = (op.row, *inner)
        size = self.sizes[op.row]
        shape = [self.sizes[d] for d in full]
        a, b = self(op.a, full).expand(shape), self(op.b, full).expand(shape)
        after = None if op.after is None else self(op.after, full).expand(shape)
        state = self(op.start, inner).expand(shape[1:])
        before: list[Tensor] = [state] * size
        each: list[Tensor] = [state] * size
        for i in reversed(range(size)) if op.adjoint else range(size):
            before[i] = state
            if not self.row[i]:
                each[i] = torch.zeros_like(state) if op.adjoint else state
            elif op.adjoint:
                each[i] = state + b[i]
                state = a[i] * each[i] + (0 if after is None else after[i])
            else:
                state = each[i] = a[i] * state + b[i]
        if op.of == "end":
            return state
        rows = torch.stack(each if op.of == "each" else before)
        return rows.movedim(0, dims.index(op.row))

    def _axis(self, ref: n.Ref, dim: str) -> int:
        return self.values[ref].dims.index(dim)

    def _compute(self, value: n.Value) -> Tensor:  # noqa: C901 - one line per operation
        dims = value.dims
        match value.op:
            case n.Const(number):
                return torch.tensor(number, dtype=_KINDS[value.kind])
            case n.Input(name) | n.Param(name) | n.Load(name) | n.Scalar(name):
                return self._leaf(name, dims)
            case n.Size(dim):
                return torch.tensor(self.sizes[dim])
            case n.Iota(dim):
                return torch.arange(self.sizes[dim])
            case n.Row():
                return self.row
            case n.Unary(fn, x):
                return (_UNARY.get(fn) or getattr(torch, fn))(self(x))
            case n.Binary(fn, a, b):
                return (_BINARY.get(fn) or getattr(torch, fn))(self(a, dims), self(b, dims))
            case n.Clamp(x, low, high):
                return self(x, dims).maximum(self(low, dims)).minimum(self(high, dims))
            case n.Cast(x) | n.StopGrad(x):
                return self(x)
            case n.MakeComplex(re, im):
                return torch.complex(self(re, dims), self(im, dims))
            case n.Recur():
                return self._recurrence(value.op, dims)
            case n.Expand(x):
                return self(x, dims)
            case n.Where(c, a, b):
                return torch.where(self(c, dims), self(a, dims), self(b, dims))
            case n.Contract(a, b, over):
                full = (*dims, *over)
                return (self(a, full) * self(b, full)).sum(tuple(range(len(dims), len(full))))
            case n.Reduce(fn, x, over):
                return _REDUCE[fn](self(x), dim=tuple(self._axis(x, d) for d in over))
            case n.Normalize("l2norm", x, over, eps):
                axes = tuple(self._axis(x, d) for d in over)
                return self(x) * (self(x).square().sum(axes, keepdim=True) + eps).rsqrt()
            case n.Normalize("softmax", x, (over,)):
                return self(x).softmax(self._axis(x, over))
            case n.Inverse(x, row, column):
                below = self(x, (row, column)).tril(-1)
                return torch.linalg.inv(torch.eye(len(below), dtype=below.dtype) - below)
            case n.Rename(x, pairs):
                table = dict(pairs)
                names = [table.get(d, d) for d in self.values[x].dims]
                return self(x).permute([names.index(d) for d in dims])
            case n.Select(x, dim, index):
                return self(x).select(self._axis(x, dim), index)
            case n.Insert(x, dim, index, y):
                out = self(x, dims).clone()
                out.select(dims.index(dim), index).copy_(
                    self(y, tuple(d for d in dims if d != dim))
                )
                return out
            case n.Stack(xs, dim):
                rest = tuple(d for d in dims if d != dim)
                return torch.stack([self(x, rest) for x in xs], dims.index(dim))
            case n.CumSum(x, dim, reverse, exclusive):
                return self._running(self(x), self._axis(x, dim), reverse, exclusive)
            case n.CumProd(x, dim, reverse, exclusive):
                return self._running(self(x), self._axis(x, dim), reverse, exclusive, torch.prod)
            case n.SegmentProduct(x, exclusive=exclusive):
                return self._segment_product(self(x), exclusive)
            case n.Scores() | n.ScoresAdjoint() | n.Spread():
                return self._decayed(value.op, dims)
            case n.Segment(x):
                return self._segment(self(x))
            case n.SegmentAdjoint(g, row, column):
                return self._segment_adjoint(self(g, (row, column)))
        raise NotImplementedError(value.op)

    def _leaf(self, name: str, dims: n.Dims) -> Tensor:
        own = self.layouts.get(name, ())
        order = [d for d in dims if d not in own] + list(own)
        return self.leaves[name].permute([order.index(d) for d in dims])

    def _decayed(self, op: n.Scores | n.ScoresAdjoint | n.Spread, dims: n.Dims) -> Tensor:
        """By the definitions; adjoints by autograd."""
        wide, square = (op.row, op.over), (op.row, op.column)
        a = self(op.a, wide)
        if isinstance(op, n.Spread):
            weights = left(a, op)
            out = torch.einsum("ij,jv,ijv->iv", self(op.m, square), self(op.x, wide), weights)
            return self._ordered(out, wide, dims)
        more = [d for d in self.values[op.q].dims if d not in wide]  # queries of one token
        tall, block = (op.row, *more, op.over), (op.row, *more, op.column)
        q, k = self(op.q, tall), self(op.k, wide)
        if isinstance(op, n.Scores):
            return self._ordered(
                torch.einsum("i...k,jk,ijk->i...j", q, k, left(a, op)), block, dims
            )
        leaves = {
            name: x.detach().clone().requires_grad_()
            for name, x in zip("qka", (q, k, a), strict=True)
        }
        with torch.enable_grad():
            weights = left(leaves["a"], op)
            scores = torch.einsum("i...k,jk,ijk->i...j", leaves["q"], leaves["k"], weights)
            (out,) = torch.autograd.grad(scores, leaves[op.of], self(op.g, block))
            return self._ordered(out, tall if op.of == "q" else wide, dims)

    def _ordered(self, x: Tensor, have: n.Dims, want: n.Dims) -> Tensor:
        return x.permute([have.index(d) for d in want])

    def _running(
        self,
        x: Tensor,
        axis: int,
        reverse: bool,
        exclusive: bool,
        total: Callable[..., Tensor] = torch.sum,
    ) -> Tensor:
        x = x.movedim(axis, 0)
        places = range(x.shape[0])
        rows = []
        for i in places:
            inside = [
                m for m in places if (m > i if reverse else m < i) or (m == i and not exclusive)
            ]
            rows.append(total(x[inside], 0))
        return torch.stack(rows).movedim(0, axis)

    def _segment_product(self, x: Tensor, exclusive: bool) -> Tensor:
        out = torch.zeros((len(x), len(x)), dtype=x.dtype)
        for i in range(len(x)):
            for j in range(i if exclusive else i + 1):
                out[i, j] = x[j + 1 : i if exclusive else i + 1].prod()
        return out

    def _segment(self, x: Tensor) -> Tensor:
        out = torch.full((len(x), len(x)), -torch.inf, dtype=x.dtype)
        for i in range(len(x)):
            for j in range(i + 1):
                out[i, j] = x[j + 1 : i + 1].sum()
        return out

    def _segment_adjoint(self, g: Tensor) -> Tensor:
        out = torch.zeros(len(g), dtype=g.dtype)
        for m in range(len(g)):
            for i in range(m, len(g)):
                out[m] += g[i, :m].sum()
        return out
