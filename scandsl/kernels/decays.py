"""How much of a state is left after stretches of steps, along one set of its dimensions.

In: the events of a state, in order, and which of its decays count.  Out: values of a chunk program,
in one of two spaces.  Where every decay has a logarithm, stretches are sums of logarithms, running
outward from the earlier row, and `exp` of them is what is left.  Else they are products of the
factors themselves, which may be negative or zero:

    Π_{j<m≤i} d_m,   with   ∂/∂d_m = (Π after m up to i) (Π after j before m),

the product of the others: right at `d_m = 0`, where dividing the product by `d_m` is not.  A zero
cuts the past exactly in both spaces.

A *unit* is a stretch in its space; `None` stands for one without decays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scandsl.analysis.program import Decay, Event
from scandsl.diagnostics import InternalError
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Kind, Ref
from scandsl.kernels.program import COLUMN, INNER, ROW


class Decays:
    """The decays of one state that differ along `along`, or along nothing.

    `lift` gives a value of the step with one row per token; `row` tells which rows hold a token.
    Over `block` rows the logarithms are known to be small (0: they are not).
    """

    def __init__(
        self,
        builder: Builder,
        events: Sequence[Event],
        own: Sequence[Decay],
        along: str | None,
        lift: Callable[[Ref], Ref],
        row: Ref,
        block: int = 0,
    ) -> None:
        self.b = builder
        self.events = events
        self.own = own
        self.along = along
        self.lift = lift
        self.row = row
        self.block = block
        self.factors = any(e.log is None for e in own)

    # ------------------------------------------------------------ units

    def _value(self, event: Decay) -> Ref:
        if self.factors or event.log is None:
            return self.lift(event.factor)
        return self.lift(event.log)

    def _one(self) -> Ref:
        """The unit of a step without decay."""
        return self.b.const(1.0 if self.factors else 0.0)

    def _joined(self, *units: Ref | None) -> Ref | None:
        total: Ref | None = None
        for unit in units:
            if unit is not None:
                join = self.b.mul if self.factors else self.b.add
                total = unit if total is None else join(total, unit)
        return total

    def among(self, events: Sequence[Event]) -> Ref | None:
        """The unit of the decays among some events of the step, per row."""
        return self._joined(*(self._value(e) for e in self._mine(events)))

    def _mine(self, events: Sequence[Event]) -> list[Decay]:
        return [own for e in events for own in self.own if own is e]

    def _count(self, events: Sequence[Event]) -> int:
        return len(self._mine(events))

    def step(self) -> Ref | None:
        """The unit of the whole step: none in rows without token, where nothing decays."""
        total = self.among(self.events)
        if total is None:
            return None
        if self.along is not None:
            total = self.b.expand(total, (ROW, self.along))
        return self.b.where(self.row, total, self._one())

    def _running(self, step: Ref, reverse: bool = False, exclusive: bool = False) -> Ref:
        run = self.b.cumprod if self.factors else self.b.cumsum
        return run(step, ROW, reverse, exclusive)

    def scaled(self, x: Ref, unit: Ref | None) -> Ref:
        """`x` after a stretch."""
        if unit is None:
            return x
        return self.b.mul(x, unit if self.factors else self.b.exp(unit))

    # ------------------------------------------------------------ stretches

    def since_start(self, place: int) -> Ref | None:
        """From the chunk's start to an event of each row."""
        step = self.step()
        if step is None:
            return None
        before = self.events[:place]
        if self._count(before) == len(self.own):
            return self._running(step)
        return self._joined(self._running(step, exclusive=True), self.among(before))

    def to_end(self, place: int) -> Ref | None:
        """What is left at the chunk's end of 1, added at an event of each row.

        Zero in rows without token; `None` if nothing decays.
        """
        b, step = self.b, self.step()
        if step is None:
            return None
        rest = self._running(step, reverse=True, exclusive=True)
        unit = self._joined(rest, self.among(self.events[place + 1 :]))
        assert unit is not None
        if self.factors:
            return b.where(self.row, unit, b.const(0.0))
        return b.exp(b.where(self.row, unit, b.infinity(negative=True)))

    def whole(self) -> Ref | None:
        """The factor of the whole chunk."""
        b, step = self.b, self.step()
        if step is None:
            return None
        if not self.factors:
            return b.exp(b.sum(step, (ROW,)))
        from_row = self._running(step, reverse=True)
        first = b.binary("eq", b.iota(ROW), b.const(0, Kind.INT))
        return b.sum(b.where(first, from_row, b.const(0.0)), (ROW,))

    def covers(self, place: int, other: int) -> bool:
        """Whether an observer at `place` sees its own row's term at `other` as it sees all others.

        That is, as weighted with the decays of the steps between.
        """
        between = self._count(self.events[other:place])
        ahead = self._count(self.events[:place])
        if other >= place or between:
            return False
        return ahead == len(self.own) or (ahead == 0 and not self.factors)

    def weights(self, place: int, other: int, diagonal: bool) -> Ref:
        """What is left of a term in row j (column) at an observer in row i; zero above."""
        b, step = self.b, self.step()
        mask = b.binary("ge" if diagonal else "gt", b.iota(ROW), b.iota(COLUMN))
        if step is None:
            return b.cast(mask, Kind.REAL)
        before = self.events[:place]
        after = self.among(self.events[other + 1 :])
        after = None if after is None else b.rename(after, [(ROW, COLUMN)])
        if self.factors:
            return self._product_weights(step, before, after, diagonal)
        if self._count(before) == len(self.own):
            log = self._joined(b.segment(step, ROW, COLUMN), after)
            if diagonal and log is not None:
                return b.exp(log)
        elif diagonal:
            # every decay comes after the observer in its step: Σ_{j≤m<i} a_m
            triangle = b.binary("ge", b.iota(ROW), b.iota(COLUMN))
            log = b.cumsum(b.where(triangle, step, b.const(0.0)), ROW, exclusive=True)
        else:
            triangle = b.binary("gt", b.iota(ROW), b.iota(COLUMN))
            rest = b.cumsum(b.where(triangle, step, b.const(0.0)), ROW, exclusive=True)
            log = self._joined(rest, self.among(before), after)
        if log is None:
            raise InternalError("a decay without a logarithm")
        return b.exp(b.where(mask, log, b.infinity(negative=True)))

    def _product_weights(
        self, step: Ref, before: Sequence[Event], after: Ref | None, diagonal: bool
    ) -> Ref:
        b = self.b
        whole = self._count(before) == len(self.own)
        product = b.segment_product(step, ROW, COLUMN, INNER, exclusive=not whole)
        total = self._joined(product, None if whole else self.among(before), after)
        assert total is not None
        if diagonal or not whole:
            return total
        mask = b.binary("gt", b.iota(ROW), b.iota(COLUMN))
        return b.where(mask, total, b.const(0.0))

    # ------------------------------------------------------------ along one dimension

    def scores(self, q: Ref, k: Ref, place: int, other: int) -> Ref:
        """Products of the observer's `q` with the terms' `k`, weighted; below the diagonal."""
        b = self.b
        step, along = self._vector()
        later = self.scaled(q, self.among(self.events[:place]))
        earlier = self.scaled(k, self.among(self.events[other + 1 :]))
        wide = (ROW, along)
        later, earlier = b.expand(later, wide), b.expand(earlier, wide)
        how = (along, self.factors, self.block)
        return b.scores(later, earlier, step, ROW, COLUMN, *how)

    def spread(self, matrix: Ref, x: Ref, place: int, other: int) -> Ref:
        """What observers see of the terms' `x`, each with its weight, through a `[i, j]` matrix."""
        b = self.b
        step, along = self._vector()
        earlier = self.scaled(x, self.among(self.events[other + 1 :]))
        wide, earlier = b.expand(matrix, (ROW, COLUMN)), b.expand(earlier, (ROW, along))
        how = (along, self.factors, self.block)
        seen = b.spread(wide, earlier, step, ROW, COLUMN, *how)
        return self.scaled(seen, self.among(self.events[:place]))

    def _vector(self) -> tuple[Ref, str]:
        step = self.step()
        if step is None or self.along is None:
            raise InternalError("no decay differs along this dimension")
        return step, self.along
