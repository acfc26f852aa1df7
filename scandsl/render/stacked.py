"""Joins products of several constant matrices with one vector, for the loop in tensor operations.

In: a `Lowered` step.  Out: the same with the matrices stacked: one product for all of them, whose
entries are taken apart again.  A call of a small product costs more than the product itself.

The stack does not look at what is carried, so that it is made once, in front of the loop.  In the
adjoint the cotangents of all entries become one stack, again for one product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Contract,
    Dim,
    Dims,
    Insert,
    Kind,
    Prev,
    Ref,
    Stack,
    Value,
    made_of,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.render.lowering import Lowered

STACK = "#stack"  # the first letters of the dimensions that are made here
_Key = tuple[Ref, Dims, Dims, Dims, Kind]


def with_stacked_products(lowered: Lowered) -> Lowered:
    """The step with each vector's products with constant matrices made at once."""
    groups = [g for g in _groups(lowered) if len(g) > 1]
    if not groups:
        return lowered
    dims = tuple(Dim(f"{STACK}{i}", len(group)) for i, group in enumerate(groups))
    return _Rebuilt(lowered, dims, groups).whole()


def _groups(lowered: Lowered) -> list[list[Ref]]:
    """Products with the same vector, in their order; the vector looks at what is carried."""
    values = lowered.values
    found: dict[_Key, list[Ref]] = {}
    carried = _carried(values)
    for ref, value in enumerate(values):
        pair = _matrix_and_vector(values, value)
        if pair is None or not carried[pair[1]]:
            continue
        matrix, vector = pair
        assert isinstance(value.op, Contract)
        key = (vector, values[matrix].dims, value.dims, value.op.over, value.kind)
        found.setdefault(key, []).append(ref)
    return list(found.values())


def _carried(values: Sequence[Value]) -> list[bool]:
    """Which values look at what is carried."""
    out: list[bool] = []
    for value in values:
        inner = operands(value.op)
        out.append(isinstance(value.op, Prev) or any(r < len(out) and out[r] for r in inner))
    return out


def _matrix_and_vector(values: Sequence[Value], value: Value) -> tuple[Ref, Ref] | None:
    """The factors of a product that leaves some of the matrix's dimensions, real ones only."""
    op = value.op
    if not isinstance(op, Contract) or value.kind is not Kind.REAL:
        return None
    for matrix, vector in ((op.a, op.b), (op.b, op.a)):
        own, other = values[matrix], values[vector]
        if own.varies or not other.varies or own.kind is not other.kind:
            continue
        if set(own.dims) - set(other.dims) and set(other.dims) == set(op.over):
            return matrix, vector
    return None


class _Rebuilt:
    """The step once more, each value behind those that it is made of."""

    def __init__(
        self, lowered: Lowered, dims: tuple[Dim, ...], groups: Sequence[Sequence[Ref]]
    ) -> None:
        self.lowered = lowered
        self.values = lowered.values
        self.builder = Builder((*dims, *lowered.dims))
        self.place = {
            ref: (dim.name, index, tuple(group))
            for dim, group in zip(dims, groups, strict=True)
            for index, ref in enumerate(group)
        }
        self.new: dict[Ref, Ref] = {}

    def whole(self) -> Lowered:
        """All values, parts and outputs."""
        for ref in range(len(self.values)):
            self._visit(ref)
        at = self.new.__getitem__
        old = self.lowered
        return replace(
            old,
            dims=tuple(self.builder.dims),
            values=tuple(self.builder.values),
            parts=tuple(replace(p, prev=at(p.prev), next=at(p.next)) for p in old.parts),
            outputs=tuple(map(at, old.outputs)),
            behind=frozenset(map(at, old.behind)),
        )

    def _visit(self, root: Ref) -> None:
        """Emit a value, and first what it needs."""
        stack = [root]
        while stack:
            ref = stack[-1]
            missing = [r for r in self._needs(ref) if r not in self.new]
            if missing:
                stack += missing
                continue
            stack.pop()
            if ref not in self.new:
                self.new[ref] = self._emitted(ref)

    def _needs(self, ref: Ref) -> Iterable[Ref]:
        if ref in self.place:
            return [r for one in self.place[ref][2] for r in operands(self.values[one].op)]
        return operands(self.values[ref].op)

    def _emitted(self, ref: Ref) -> Ref:
        value, b = self.values[ref], self.builder
        if ref in self.place:
            dim, index, group = self.place[ref]
            entry = b.select(self._product(dim, group), dim, index)
            b.values[entry] = replace(b.values[entry], name=value.name, span=value.span)
            return entry
        op = with_operands(value.op, [self.new[r] for r in operands(value.op)])
        return b.emit(op, value.dims, value.kind, value.name, value.span, value.varies)

    def _product(self, dim: str, group: Sequence[Ref]) -> Ref:
        pairs = [_matrix_and_vector(self.values, self.values[r]) for r in group]
        matrices = [self.new[pair[0]] for pair in pairs if pair is not None]
        first, op = pairs[0], self.values[group[0]].op
        assert first is not None and isinstance(op, Contract)
        stacked = self.builder.stack(matrices, dim)
        return self.builder.contract(stacked, self.new[first[1]], op.over)


# ---------------------------------------------------------------- the adjoint


def with_stacked_entries(builder: Builder, roots: Sequence[Ref | None]) -> list[Ref | None]:
    """The roots, made with stacks where sums of zeros with one entry each put in are complete."""
    wanted = [r for r in roots if r is not None]
    stop = len(builder.values)
    whole = _complete(builder, stop)
    if not whole:
        return list(roots)
    new: dict[Ref, Ref] = {}
    for ref in sorted(made_of(builder.values, wanted)):
        value = builder.values[ref]
        inner = [new[r] for r in operands(value.op)]
        if ref in whole:
            dim, entries = whole[ref]
            op = Stack(tuple(new[entries[i]] for i in range(len(entries))), dim)
            new[ref] = builder.emit(op, value.dims, value.kind)
        elif inner == list(operands(value.op)):
            new[ref] = ref
        else:
            op_ = with_operands(value.op, inner)
            new[ref] = builder.emit(op_, value.dims, value.kind, value.name, value.span)
    return [None if r is None else new[r] for r in roots]


def _complete(builder: Builder, stop: int) -> Mapping[Ref, tuple[str, dict[int, Ref]]]:
    """Sums that put in every entry along a stack, and each once: its dimension, its entries."""
    sizes = {d.name: d.size for d in builder.dims if d.name.startswith(STACK)}
    found: dict[Ref, tuple[str, dict[int, Ref]]] = {}
    for ref in range(stop):
        op = builder.values[ref].op
        if isinstance(op, Insert) and op.dim in sizes and builder.constant_of(op.x) == 0:
            found[ref] = (op.dim, {op.index: op.y})
        elif isinstance(op, Binary) and op.fn == "add" and {op.a, op.b} <= found.keys():
            (dim, one), (other_dim, other) = found[op.a], found[op.b]
            if dim == other_dim and one.keys().isdisjoint(other):
                found[ref] = (dim, one | other)
    return {r: (d, e) for r, (d, e) in found.items() if len(e) == sizes[d]}
