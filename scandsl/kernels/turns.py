"""Rotations of a complex state, moved from the state into the vectors that meet it.

In: the events of a state, in order, whose decays may have angles.  Out: values of a chunk program.
With `Φ_i` the angles summed from the chunk's start to a moment of row i, the state in the turning
frame, `exp(-i Φ) ∘ S`, knows the moduli of its decays only.  A vector that observes the state is
turned forward, `q exp(i Φ)`, one that is written to it back, `b exp(-i Φ)`; the state at the end
of the chunk is turned forward as a whole.  Angles along the free side turn what is written and
what is read.

Sums start anew with every chunk, and lose no digits: full turns are taken out of every angle, and
what is left is split into a multiple of 2⁻¹⁴, whose sums are exact, and a small rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scandsl.analysis.program import Decay, Event
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Dims, Ref
from scandsl.kernels.program import ROW

_TURN = 2 * math.pi
_COARSE = 6.28125  # most of a turn, of which small multiples are exact
_STEP = 2.0**-14


class Turns:
    """The angles of one state that lie along `side`, as rows of a chunk."""

    def __init__(
        self,
        builder: Builder,
        events: Sequence[Event],
        own: Sequence[Decay],
        lift: Callable[[Ref], Ref],
        row: Ref,
    ) -> None:
        self.b = builder
        self.events = events
        self.own = own
        self.lift = lift
        self.row = row

    def _sum(self, events: Sequence[Event]) -> Ref | None:
        """The angles among some events of the step, per row."""
        total: Ref | None = None
        for event in self.own:
            if event.angle is not None and any(e is event for e in events):
                angle = self.lift(event.angle)
                if len(self.own) > 1:  # a sum of large ones would round
                    angle = self._reduced(angle)
                total = angle if total is None else self.b.add(total, angle)
        return total

    def _step(self) -> Ref | None:
        """The angle of a whole step; none in rows without token."""
        total = self._sum(self.events)
        return None if total is None else self.b.where(self.row, total, self.b.const(0.0))

    def _split(self, angle: Ref) -> tuple[Ref, Ref]:
        """An angle without full turns as a difference; the first is exact, the second small."""
        b = self.b
        turns = b.add(b.mul(angle, b.const(1 / _TURN)), b.const(0.5))
        count = b.stop_grad(b.unary("floor", turns))
        most = b.sub(angle, b.mul(count, b.const(_COARSE)))
        return most, b.mul(count, b.const(_TURN - _COARSE))

    def _reduced(self, angle: Ref) -> Ref:
        """An angle without full turns."""
        return self.b.sub(*self._split(angle))

    def _parts(self, step: Ref) -> tuple[Ref, Ref]:
        """An angle without full turns as a sum; sums of the first part are exact."""
        b = self.b
        most, small = self._split(step)
        nearest = b.add(b.mul(most, b.const(1 / _STEP)), b.const(0.5))
        coarse = b.stop_grad(b.mul(b.unary("floor", nearest), b.const(_STEP)))
        return coarse, b.sub(b.sub(most, coarse), small)

    def _running(self, step: Ref, exclusive: bool = False) -> Ref:
        """The angles summed over rows, without full turns."""
        b = self.b
        coarse, rest = (b.cumsum(x, ROW, False, exclusive) for x in self._parts(step))
        return b.add(self._reduced(coarse), rest)

    def _since_start(self, place: int) -> Ref | None:
        step, before = self._step(), self._sum(self.events[:place])
        if step is None:
            return None
        if before == self._sum(self.events):
            return self._running(step)
        rest = self._running(step, exclusive=True)
        return rest if before is None else self.b.add(rest, before)

    def _turned(self, x: Ref, angle: Ref | None, back: bool) -> Ref:
        b = self.b
        if angle is None:
            return x
        sine = b.unary("sin", angle)
        unit = b.make_complex(b.unary("cos", angle), b.neg(sine) if back else sine)
        return b.mul(x, unit)

    def observing(self, x: Ref, place: int) -> Ref:
        """What observes the state at an event, or was observed there, in the turning frame."""
        return self._turned(x, self._since_start(place), back=False)

    def written(self, x: Ref, place: int) -> Ref:
        """What is written to the state at an event, in the turning frame."""
        return self._turned(x, self._since_start(place), back=True)

    def ahead(self, x: Ref, between: Sequence[Event]) -> Ref:
        """What observes, beyond some events of its own step, what was written before them."""
        return self._turned(x, self._sum(between), back=False)

    def ended(self, state: Ref) -> Ref:
        """The state at the end of the chunk, out of the turning frame."""
        b, step = self.b, self._step()
        if step is None:
            return state
        coarse, rest = (b.sum(x, (ROW,)) for x in self._parts(step))
        return self._turned(state, b.add(self._reduced(coarse), rest), back=False)


def turns(
    builder: Builder,
    events: Sequence[Event],
    contracted: Dims,
    lift: Callable[[Ref], Ref],
    row: Ref,
) -> tuple[Turns, Turns]:
    """The rotations along the contracted side, those along none included, and the free side."""
    key: list[Decay] = []
    free: list[Decay] = []
    for event in events:
        if isinstance(event, Decay) and event.angle is not None:
            along = set(builder.dims_of(lift(event.angle))) - {ROW}
            (key if along <= set(contracted) else free).append(event)
    return Turns(builder, events, key, lift, row), Turns(builder, events, free, lift, row)
