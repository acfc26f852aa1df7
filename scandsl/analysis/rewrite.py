"""Copying programs with changes: operands renumbered, lags patched, dead values dropped.

In: values and a builder.  Out: a `Recurrence` with renumbered values.  Decides no mathematics.

What a lag remembers is part of the carried state, so targets of lags are never merged with equal
values: the memories of a copy are those of the original, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Lag,
    LagState,
    Op,
    Recurrence,
    Ref,
    Time,
    Value,
    operands,
)
from scandsl.ir.rewrite import with_operands


def map_operands(op: Op, change: Callable[[Ref], Ref]) -> Op:
    """The same operation on operands changed one by one."""
    return with_operands(op, [change(ref) for ref in operands(op)])


def lag_targets(values: Sequence[Value]) -> frozenset[Ref]:
    """The values that some lag remembers."""
    return frozenset(v.op.x for v in values if isinstance(v.op, Lag))


class Copier:
    """Copies the values of a recurrence in order into a builder; `new[old]` is the copy's `Ref`.

    `share=False` keeps equal values apart.
    """

    def __init__(self, recurrence: Recurrence, share: bool = True) -> None:
        self.old = recurrence
        self.builder = Builder(recurrence.dims)
        self.new: dict[Ref, Ref] = {}
        self._share = share
        self._kept = lag_targets(recurrence.values)

    def copy(self, ref: Ref) -> Ref:
        """Copy one value, its operands having been copied (a lag's is patched at the end)."""
        value = self.old.values[ref]
        if isinstance(value.op, Lag):
            op: Op = Lag(-1 - value.op.x, value.op.n)
        else:
            op = map_operands(value.op, self.new.__getitem__)
        return self.put(ref, op)

    def put(self, ref: Ref, op: Op) -> Ref:
        """Let `op`, on new operands, be the copy of an old value."""
        value = self.old.values[ref]
        if self._share and ref not in self._kept:
            out = self.builder.emit(
                op, value.dims, value.kind, value.name, value.span, value.varies
            )
        else:
            self.builder.values.append(replace(value, op=op))
            out = len(self.builder.values) - 1
        self.new[ref] = out
        return out

    def set(self, ref: Ref, replacement: Ref) -> None:
        """Let an existing new value stand for an old one, under its name if that has none."""
        value = self.builder.values[replacement]
        name = self.old.values[ref].name
        if ref in self._kept:  # keeps its own place and name, see above
            self.builder.values.append(replace(value, name=name))
            replacement = len(self.builder.values) - 1
        elif value.name is None and name is not None:
            self.builder.values[replacement] = replace(value, name=name)
        self.new[ref] = replacement

    def finish(self) -> Recurrence:
        """The recurrence made of the copies."""
        values = self.builder.values
        for ref, value in enumerate(values):
            if isinstance(value.op, Lag) and value.op.x < 0:
                values[ref] = replace(value, op=Lag(self.new[-1 - value.op.x], value.op.n))
        return renumbered(self.old, values, self.new.__getitem__)


def renumbered(
    recurrence: Recurrence, values: Sequence[Value], new: Callable[[Ref], Ref]
) -> Recurrence:
    """The recurrence with other values, and its own references carried over by `new`."""
    return replace(
        recurrence,
        values=tuple(values),
        scalars=tuple(replace(s, default=new(s.default)) for s in recurrence.scalars),
        states=tuple(replace(s, init=new(s.init), next=new(s.next)) for s in recurrence.states),
        outputs=tuple(replace(o, value=new(o.value)) for o in recurrence.outputs),
    )


@dataclass(frozen=True, slots=True)
class Pruned:
    """A recurrence without dead values, and the new number of every value that is left."""

    recurrence: Recurrence
    new: dict[Ref, Ref]


def prune(recurrence: Recurrence, also: Iterable[Ref]) -> Pruned:
    """Drop what neither states, outputs, scalars nor `also` need; carried memories stay."""
    values = recurrence.values
    live = [isinstance(v.op, Lag | LagState | Time) for v in values]
    roots = [s.default for s in recurrence.scalars] + [o.value for o in recurrence.outputs]
    roots += [r for s in recurrence.states for r in (s.init, s.next)]
    for ref in (*roots, *lag_targets(values), *also):
        live[ref] = True
    for ref in range(len(values) - 1, -1, -1):
        if live[ref]:
            for operand in operands(values[ref].op):
                live[operand] = True
    new: dict[Ref, Ref] = {}
    for ref in range(len(values)):
        if live[ref]:
            new[ref] = len(new)
    kept = [replace(values[ref], op=map_operands(values[ref].op, new.__getitem__)) for ref in new]
    return Pruned(renumbered(recurrence, kept, new.__getitem__), new)
