"""One state that steps only multiply entry by entry and add to, for all rows of a chunk.

In: the decays, writes and reads of a step, in order.  Out: what the reads see and what the chunk
leaves, as values of a chunk program.  A step is  s ← a s + b  with `a` the product of its decays
and `b` its writes, decayed by what comes after them in the step; `Recur` runs it along the rows,
with `a` and `b` as large as they are.  A read in the middle of a step sees what the row was handed,
moved by the events before it.  Numbers may be complex, of any size, zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from scandsl.analysis.program import Decay, Event, Read, Write
from scandsl.diagnostics import InternalError
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Ref, State, Unary
from scandsl.kernels.program import ROW


@dataclass(frozen=True, slots=True)
class _Step:
    """`s ← factor s + term`; `None` where there is none."""

    factor: Ref | None = None
    term: Ref | None = None


class ElementwiseState:
    """One state's reads and final value.

    `lift` gives a value of the step for all rows; `row` tells which rows hold a token.
    """

    def __init__(
        self,
        builder: Builder,
        state: State,
        events: Sequence[Event],
        lift: Callable[[Ref], Ref],
        row: Ref,
        start: Ref | None = None,
    ) -> None:
        self.b = builder
        self.state = state
        self.events = events
        self.lift = lift
        self.row = row
        self.start = start

    def _moved(self, events: Sequence[Event]) -> _Step:
        """What events make of the state."""
        b, step = self.b, _Step()
        for event in events:
            match event:
                case Decay():
                    own = self._factor(event)
                    step = _Step(
                        own if step.factor is None else b.mul(own, step.factor),
                        None if step.term is None else b.mul(own, step.term),
                    )
                case Write(_, vector, x):
                    own = self.lift(x)
                    if vector is not None:
                        own = b.mul(self.lift(vector), own)
                    step = _Step(step.factor, own if step.term is None else b.add(step.term, own))
                case Read():
                    pass
                case _:
                    raise InternalError("an elementwise state has no probes")
        return step

    def _factor(self, event: Decay) -> Ref:
        """All that a decay multiplies by, with its rotation."""
        b, modulus = self.b, self.lift(event.factor)
        if event.angle is None:
            return modulus
        angle, op = self.lift(event.angle), b.values[modulus].op
        if isinstance(op, Unary) and op.fn == "exp":
            return b.exp(b.make_complex(op.x, angle))
        return b.mul(modulus, b.exp(b.make_complex(b.const(0.0), angle)))

    def _run(self, of: Literal["each", "before", "end"]) -> Ref:
        b, kind = self.b, self.state.kind
        start = self.start
        if start is None:
            start = b.load(self.state.name, self.state.dims, kind)
        start = b.expand(start, self.state.dims)
        step = self._moved(self.events)
        factor = b.const(1.0, kind) if step.factor is None else step.factor
        term = b.const(0.0, kind) if step.term is None else step.term
        return b.recur(factor, term, start, self.row, ROW, of)

    def read(self, event: Read) -> Ref:
        """The result of a read, for all rows."""
        b = self.b
        place = next(i for i, e in enumerate(self.events) if e is event)
        if any(isinstance(e, Decay | Write) for e in self.events[place:]):
            step = self._moved(self.events[:place])
            seen = self._run("before")
            seen = seen if step.factor is None else b.mul(step.factor, seen)
            seen = seen if step.term is None else b.add(seen, step.term)
        else:
            seen = self._run("each")
        if event.q is None:
            return b.sum(seen, event.over)
        return b.contract(self.lift(event.q), seen, event.over)

    def final(self) -> Ref:
        """The state at the end of the chunk."""
        return self._run("end")
