"""Evaluates a chunk program one value at a time, in float64: the test's own, naive meaning of tiles."""

from __future__ import annotations

import torch

from scandsl.ir import nodes as n


class Evaluator:
    """`leaves` maps ("input"|"param"|"load", name) to tensors laid out as the value's dims."""

    def __init__(self, values, sizes, leaves, scalars=None, row=None):
        self.values, self.sizes, self.leaves = values, sizes, leaves
        self.scalars = scalars or {}
        self.row = row
        self.cache = {}

    def align(self, ref, dims):
        value = self.values[ref]
        x = self(ref)
        x = x.permute([value.dims.index(d) for d in dims if d in value.dims])
        return x.reshape([self.sizes[d] if d in value.dims else 1 for d in dims])

    def __call__(self, ref):
        for r in range(ref + 1):
            if r not in self.cache and self.needed(r, ref):
                self.cache[r] = self.compute(self.values[r])
        return self.cache[ref]

    def needed(self, r, ref):
        if not hasattr(self, "_need"):
            self._need = {}
        if ref not in self._need:
            mark, stack = set(), [ref]
            while stack:
                top = stack.pop()
                if top not in mark:
                    mark.add(top)
                    stack.extend(n.operands(self.values[top].op))
            self._need[ref] = mark
        return r in self._need[ref]

    def compute(self, value):
        out = self._compute(value)
        if not isinstance(out, torch.Tensor):
            out = torch.tensor(out)
        out = out.expand([self.sizes[d] for d in value.dims])
        kinds = {n.Kind.REAL: torch.float64, n.Kind.INT: torch.int64, n.Kind.BOOL: torch.bool}
        return out.to(kinds[value.kind])

    def _compute(self, value):
        dims = value.dims
        match value.op:
            case n.Const(v):
                return torch.tensor(v)
            case n.Input(name):
                return self.leaves["input", name]
            case n.Param(name):
                return self.leaves["param", name]
            case n.Load(name):
                return self.leaves["load", name]
            case n.Scalar(name):
                return torch.tensor(self.scalars[name], dtype=torch.float64)
            case n.Size(dim):
                return torch.tensor(self.sizes[dim])
            case n.Iota(dim):
                return torch.arange(self.sizes[dim])
            case n.Row():
                return self.row
            case n.Unary(fn, x):
                f = torch.nn.functional
                table = {"neg": torch.neg, "logsigmoid": f.logsigmoid, "softplus": f.softplus, "silu": f.silu,
                         "relu": f.relu, "elu": f.elu, "gelu": f.gelu, "not": torch.logical_not}
                return (table.get(fn) or getattr(torch, fn))(self(x))
            case n.Binary(fn, a, b):
                table = {"mod": torch.remainder, "max": torch.maximum, "min": torch.minimum,
                         "and": torch.logical_and, "or": torch.logical_or}
                return (table.get(fn) or getattr(torch, fn))(self.align(a, dims), self.align(b, dims))
            case n.Cast(x) | n.StopGrad(x):
                return self(x)
            case n.Expand(x):
                return self.align(x, dims)
            case n.Where(c, a, b):
                return torch.where(self.align(c, dims), self.align(a, dims), self.align(b, dims))
            case n.Contract(a, b, over):
                full = tuple(dims) + tuple(over)
                return (self.align(a, full) * self.align(b, full)).sum(dim=tuple(range(len(dims), len(full))))
            case n.Reduce(fn, x, over):
                inner = self.values[x].dims
                axes = tuple(inner.index(d) for d in over)
                table = {"sum": torch.sum, "mean": torch.mean, "max": torch.amax, "min": torch.amin,
                         "logsumexp": torch.logsumexp}
                return table[fn](self(x), dim=axes)
            case n.Rename(x, pairs):
                table = dict(pairs)
                names = [table.get(d, d) for d in self.values[x].dims]
                return self(x).permute([names.index(d) for d in dims])
            case n.CumSum(x, dim, reverse, exclusive):
                axis = self.values[x].dims.index(dim)
                t = self(x)
                if reverse:
                    t = t.flip(axis)
                out = t.cumsum(axis)
                if exclusive:
                    out = torch.cat([torch.zeros_like(out.narrow(axis, 0, 1)), out.narrow(axis, 0, out.shape[axis] - 1)], axis)
                return out.flip(axis) if reverse else out
        raise NotImplementedError(value.op)
