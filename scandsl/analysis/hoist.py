"""Takes products with constant matrices out of a step that is walked token by token.

In: a `Program`.  Out: the same as a chain: what applies matrices to inputs in front, the step, what
applies them to what the step leaves behind; or nothing, where no such products are.

A matrix that stays the same in time, applied to a vector of each token, need not run inside a
loop over tokens: all tokens are one product of matrices.  In the loop it would have to be held on
chip beside the state, and its dimensions could not be cut over the grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.extract import Piece, extracted
from scandsl.analysis.graph import dependency_graph, reaching
from scandsl.analysis.program import Form, Program
from scandsl.ir.nodes import (
    Contract,
    Every,
    Kind,
    Lag,
    LagState,
    Memory,
    Output,
    Prev,
    Recurrence,
    Ref,
    Time,
    Value,
    memories,
    operands,
)


def hoisted(program: Program) -> Program | None:
    """The program with its products with constant matrices in stages of their own."""
    recurrence = program.recurrence
    if not recurrence.states and not memories(recurrence):
        return None
    found = _Hoist.of(recurrence)
    front = found.front()
    behind = found.behind()
    if not front and not behind.outputs:
        return None
    inside = tuple(o for o in recurrence.outputs if o not in behind.outputs)
    remembered = memories(recurrence)
    pieces = [
        Piece(Form.SEQUENTIAL, recurrence.states, remembered, behind.taken, inside),
    ]
    if front:
        pieces.insert(0, Piece(Form.MAP, (), (), front, ()))
    if behind.outputs:
        pieces.append(Piece(Form.MAP, (), (), (), behind.outputs))
    stages = extracted(program, pieces, ())
    return replace(program, form=Form.CHAIN, stages=stages)


@dataclass(frozen=True, slots=True)
class _Behind:
    """Outputs that are computed behind the loop, and the values of the loop that they take."""

    outputs: tuple[Output, ...] = ()
    taken: tuple[Ref, ...] = ()


@dataclass(frozen=True, slots=True)
class _Hoist:
    """What of a recurrence may leave the loop over tokens."""

    recurrence: Recurrence
    values: tuple[Value, ...]
    remembered: tuple[Memory, ...]
    looks: tuple[bool, ...]  # whether a value looks at what is carried, or at the position
    sizes: dict[str, int]

    @classmethod
    def of(cls, recurrence: Recurrence) -> _Hoist:
        """Looks at the values once."""
        values = recurrence.values
        carried = [bool(mask) for mask in dependency_graph(recurrence).looks]
        looks: list[bool] = []
        for ref, value in enumerate(values):
            inner = () if isinstance(value.op, Lag) else operands(value.op)
            timed = isinstance(value.op, Time | Every | Lag | LagState | Prev)
            looks.append(carried[ref] or timed or any(looks[r] for r in inner))
        static = {d.name: d.size for d in recurrence.dims if d.size is not None}
        return cls(recurrence, values, memories(recurrence), tuple(looks), static)

    def front(self) -> tuple[Ref, ...]:
        """Products with inputs that the loop takes instead of computing them."""
        roots = [s.next for s in self.recurrence.states]
        roots += [m.value for m in self.remembered if m.value is not None]
        roots += [o.value for o in self.recurrence.outputs]
        found = []
        for ref in self._seen(roots):
            if self._is_product(ref) and not self.looks[ref] and self._is_vector(ref):
                found.append(ref)
        return tuple(sorted(found))

    def behind(self) -> _Behind:
        """What of the outputs comes behind the loop, if it takes nothing but vectors of it."""
        recurrence = self.recurrence
        roots = [s.next for s in recurrence.states]
        roots += [m.value for m in self.remembered if m.value is not None]
        feeding = reaching(recurrence, tuple(roots))
        late = self._late(feeding)
        outputs = tuple(o for o in recurrence.outputs if late[o.value])
        needed = reaching(recurrence, tuple(o.value for o in outputs))
        taken = set()
        for ref, value in enumerate(self.values):
            if late[ref] and needed[ref] and not isinstance(value.op, Lag):
                taken |= {r for r in operands(value.op) if self.looks[r] and not late[r]}
        if not all(self._may_pass(r) for r in taken):
            return _Behind()
        return _Behind(outputs, tuple(sorted(taken)))

    def _late(self, feeding: Sequence[bool]) -> list[bool]:
        """The values behind a product of a matrix with what the loop leaves."""
        late: list[bool] = []
        for ref, value in enumerate(self.values):
            inner = () if isinstance(value.op, Lag) else operands(value.op)
            product = self.looks[ref] and self._is_product(ref)
            late.append(not feeding[ref] and (product or any(late[r] for r in inner)))
        return late

    def _seen(self, roots: Iterable[Ref]) -> set[Ref]:
        """The values that are computed for `roots`, as far as none stands before the loop."""
        seen: set[Ref] = set()
        stack = list(roots)
        while stack:
            ref = stack.pop()
            if ref in seen:
                continue
            seen.add(ref)
            ready = self._is_product(ref) and not self.looks[ref] and self._is_vector(ref)
            if not ready:
                stack += operands(self.values[ref].op)
        return seen

    def _is_product(self, ref: Ref) -> bool:
        """Whether a matrix that stays the same is applied to a value of each token."""
        op = self.values[ref].op
        if not isinstance(op, Contract):
            return False
        for matrix, vector in ((op.a, op.b), (op.b, op.a)):
            if self.values[matrix].varies or not self.values[vector].varies:
                continue
            new = set(self.values[matrix].dims) - set(self.values[vector].dims)
            over = set(op.over) - set(self.sizes)
            if new - set(self.sizes) and over:
                return True
        return False

    def _may_pass(self, ref: Ref) -> bool:
        return self.values[ref].kind in (Kind.REAL, Kind.COMPLEX) and self._is_vector(ref)

    def _is_vector(self, ref: Ref) -> bool:
        """Whether a value of all tokens at once takes no more room than a vector or an input."""
        free = set(self.values[ref].dims) - set(self.sizes)
        return len(free) <= 1 or any(free <= set(t.dims) for t in self.recurrence.inputs)


__all__ = ["hoisted"]
