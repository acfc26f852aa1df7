"""The growing list of SSA values of one scan.

In: operations with operands already typed.  Out: references to values, equal ones shared.
Small identities are applied (a cast literal is a literal, an entry of a stack is that entry);
nothing is judged here: callers pass what is well typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from scandsl.check import errors
from scandsl.check.shapes import DimTable
from scandsl.diagnostics import Diagnostic, Span
from scandsl.ir.nodes import (
    Cast,
    Const,
    Dims,
    Every,
    Expand,
    Input,
    Insert,
    Kind,
    Lag,
    LagState,
    Load,
    Op,
    Prev,
    Ref,
    Rename,
    Select,
    Stack,
    Time,
    Value,
    operands,
)

MAX_VALUES = 2_500
MAX_LAG = 20_000
MAX_DIMS = 8  # of one value: products are written with a letter for each

Key: TypeAlias = tuple[Op, Dims, Kind, str]


class TooLarge(Exception):
    """The unrolled step passed the limit; caught where the scan is checked."""

    def diagnostic(self, span: Span) -> Diagnostic:
        """How it is told."""
        return errors.too_large(span)


class TooWide(TooLarge):
    """A value has more dimensions than can be computed with."""

    def __init__(self, dims: Dims) -> None:
        super().__init__(dims)
        self.dims = dims

    def diagnostic(self, span: Span) -> Diagnostic:
        """How it is told."""
        return errors.too_many_dims(span, self.dims, MAX_DIMS)


@dataclass(slots=True)
class Builder:
    """Values in the order of creation, and where to find an equal one."""

    dims: DimTable
    values: list[Value] = field(default_factory=list)
    known: dict[Key, Ref] = field(default_factory=dict)
    forwards: dict[str, Ref] = field(default_factory=dict)

    def emit(self, op: Op, dims: Iterable[str], kind: Kind, span: Span) -> Ref:
        """The value of an operation: an equal earlier one if there is one."""
        ordered = self.dims.sort(dims)
        key = self._key(op, ordered, kind)
        ref = self.known.get(key)
        if ref is None:
            ref = self.known[key] = self._append(op, ordered, kind, span)
        return ref

    def _key(self, op: Op, dims: Dims, kind: Kind) -> Key:
        # 1 == 1.0 and 0.0 == -0.0, so a literal is told apart by how it is written.
        return op, dims, kind, repr(op.value) if isinstance(op, Const) else ""

    def _append(self, op: Op, dims: Dims, kind: Kind, span: Span) -> Ref:
        if len(self.values) >= MAX_VALUES:
            raise TooLarge
        if len(dims) > MAX_DIMS:
            raise TooWide(dims)
        varies = isinstance(op, Input | Prev | Time | Every | Lag | LagState | Load)
        varies = varies or any(self.values[x].varies for x in operands(op))
        self.values.append(Value(op, dims, kind, varies, None, span))
        return len(self.values) - 1

    def dims_of(self, ref: Ref) -> Dims:
        """The dimensions of a value."""
        return self.values[ref].dims

    def kind_of(self, ref: Ref) -> Kind:
        """The kind of a value."""
        return self.values[ref].kind

    def label(self, ref: Ref, name: str) -> None:
        """Remember the user's name of a value; the first name stays, leaves keep none."""
        value = self.values[ref]
        if value.name is None and (operands(value.op) or isinstance(value.op, LagState)):
            self.values[ref] = replace(value, name=name)

    def separate(self, ref: Ref, since: Ref, span: Span) -> Ref:
        """A value of its own for a name that is differentiated by.

        No other expression may share it, or `grad` would see through that one as well.  A value
        made since `since` leaves the table of equal ones; an older one, or a leaf, is copied.
        """
        value = self.values[ref]
        if not operands(value.op):
            return self._append(value.op, value.dims, value.kind, span)
        if ref < since:
            return self._append(Expand(ref), value.dims, value.kind, span)
        key = self._key(value.op, value.dims, value.kind)
        if self.known.get(key) == ref:
            del self.known[key]
        return ref

    def constant(self, value: int | float, kind: Kind, span: Span) -> Ref:
        """A literal of the given kind (INT or REAL)."""
        number = float(value) if kind is Kind.REAL else value
        return self.emit(Const(number), (), kind, span)

    def cast(self, ref: Ref, kind: Kind, span: Span) -> Ref:
        """The value in another kind; literals are converted at once."""
        value = self.values[ref]
        if value.kind is kind:
            return ref
        if kind is Kind.COMPLEX and value.kind is not Kind.REAL:
            return self.cast(self.cast(ref, Kind.REAL, span), kind, span)
        if isinstance(value.op, Const) and kind is Kind.REAL:
            return self.constant(value.op.value, Kind.REAL, span)
        if isinstance(value.op, Expand) and isinstance(self.values[value.op.x].op, Const):
            return self.expand(self.cast(value.op.x, kind, span), value.dims, span)
        return self.emit(Cast(ref), value.dims, kind, span)

    def expand(self, ref: Ref, dims: Dims, span: Span) -> Ref:
        """The value repeated to have all of `dims`."""
        if self.dims_of(ref) == self.dims.sort(dims):
            return ref
        return self.emit(Expand(ref), dims, self.kind_of(ref), span)

    def rename(self, ref: Ref, names: Mapping[str, str], span: Span) -> Ref:
        """The value with dimensions renamed all at once; those that stay are left out."""
        dims = self.dims_of(ref)
        pairs = tuple((d, names[d]) for d in dims if names.get(d, d) != d)
        if not pairs:
            return ref
        renamed = (names.get(d, d) for d in dims)
        return self.emit(Rename(ref, pairs), renamed, self.kind_of(ref), span)

    def select(self, ref: Ref, dim: str, index: int, span: Span) -> Ref:
        """One entry along a static dimension, looked up through stacks and insertions."""
        op = self.values[ref].op
        while isinstance(op, Insert) and op.dim == dim:
            if op.index == index:
                return self.cast(op.y, self.kind_of(ref), span)
            ref, op = op.x, self.values[op.x].op
        if isinstance(op, Stack) and op.dim == dim:
            return op.xs[index]
        dims = tuple(d for d in self.dims_of(ref) if d != dim)
        if isinstance(op, Expand) and dim not in self.dims_of(op.x):
            return self.expand(op.x, dims, span)
        return self.emit(Select(ref, dim, index), dims, self.kind_of(ref), span)

    def lag(self, ref: Ref, n: int, span: Span) -> Ref:
        """The value `n` steps ago; a lag of a lag is one lag, a lag of a stack a stack of lags."""
        if n == 0:
            return ref
        value = self.values[ref]
        match value.op:
            case Lag(x, m):
                return self.lag(x, n + m, span)
            case Stack(xs, dim):
                lagged = tuple(self.lag(x, n, span) for x in xs)
                return self.emit(Stack(lagged, dim), value.dims, value.kind, span)
            case _:
                return self.emit(Lag(ref, n), value.dims, value.kind, span)

    def forward(self, name: str, dims: Dims, kind: Kind) -> Ref:
        """A stand-in for the last value of the local `name` in a step, which only lags may use."""
        ref = self.emit(Load(name), dims, kind, Span(0, 0))
        self.forwards[name] = ref
        return ref
