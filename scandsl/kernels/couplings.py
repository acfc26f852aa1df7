"""What states that feed each other keep over stretches of steps: a table for each of them.

In: the decays and couplings of a step `s_a ← A_aa s_a + Σ A_ab s_b`, all numbers per token.  Out:
values of a chunk program, one for each state: what is left at the start of a row's step of what was
there at the chunk's start (a factor per row), or of what was added in earlier rows in the
proportion `c` (a table `[i, j]`):

    X_a = r_a s_a + Σ_b D_a A_ab X_b,        W_a = D_a c_a + Σ_b D_a A_ab W_b,

with `D_a[i, j]` the product of `A_aa` over `j < m < i`, and `r_a[i]` that over `m < i`.  `D_a A_ab`
is strictly lower, so both are solved by elimination; in an order in which no state takes a later
one, where there is such an order, so that nothing is inverted.  `None` is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from scandsl.analysis.graph import strongly_connected
from scandsl.analysis.program import Couple, Decay, Event
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Kind, Ref
from scandsl.kernels.decays import Decays
from scandsl.kernels.elimination import Tables
from scandsl.kernels.program import COLUMN, ROW

Each = tuple[Ref | None, ...]
"""A value for each state."""


class Couplings:
    """The decays and couplings of a component; `lift` gives a value of the step for all rows."""

    def __init__(
        self,
        builder: Builder,
        names: Sequence[str],
        events: Sequence[Event],
        lift: Callable[[Ref], Ref],
        row: Ref,
    ) -> None:
        self.b = builder
        self.row = row
        self.tables = Tables(builder, row)
        self.count = len(names)
        place = {name: i for i, name in enumerate(names)}
        self.decays = []
        for name in names:
            own = [e for e in events if isinstance(e, Decay) and e.state == name]
            self.decays.append(Decays(builder, own, own, None, lift, row))
        self.factors: dict[tuple[int, int], Ref] = {
            (place[e.state], place[e.other]): builder.where(row, lift(e.factor), builder.const(0.0))
            for e in events
            if isinstance(e, Couple)
        }
        self._added: dict[Each, Each] = {}
        self._started: list[Each] | None = None

    # ------------------------------------------------------------ stretches

    def since(self, c: Each) -> Each:
        """At the start of row i's step, what is left of 1 added in row j in the proportion `c`."""
        if c not in self._added:
            right: list[Ref | None] = []
            for a, own in enumerate(c):
                right.append(None if own is None else self._weighed(self._kept(a), own))
            self._added[c] = self._solved(right)
        return self._added[c]

    def since_start(self) -> list[Each]:
        """What is left of the start of each state, at the start of the steps."""
        if self._started is None:
            one = self.b.expand(self.b.const(1.0), (ROW,))
            self._started = []
            for state in range(self.count):
                right: list[Ref | None] = [None] * self.count
                own = self.decays[state]
                right[state] = own.scaled(one, own.since_start(0))
                self._started.append(self._solved(right))
        return self._started

    def stepped(self, state: int, xs: Each) -> Ref | None:
        """What a state has of `xs` behind the step of each row."""
        own, mine = self.decays[state], xs[state]
        unit = own.step()
        kept = mine if mine is None or unit is None else own.scaled(mine, unit)
        more = [
            None if x is None else self.b.mul(self.factors[state, other], x)
            for other, x in enumerate(xs)
            if (state, other) in self.factors
        ]
        return self.tables.plus(kept, *more)

    def whole(self, state: int, start: int) -> Ref | None:
        """What a state has at the chunk's end of 1 in another at its start."""
        b = self.b
        total = self._ended(state, self.since_start()[start])
        if state != start:
            return total
        none = b.binary("eq", self._count(), b.const(0, Kind.INT))  # nothing happens
        return self.tables.plus(total, b.where(none, b.const(1.0), b.const(0.0)))

    def _ended(self, state: int, xs: Each) -> Ref | None:
        """What a state has of `xs` behind the last step of the chunk."""
        b = self.b
        own, mine = self.decays[state], xs[state]
        one = b.expand(b.const(1.0), (ROW,))
        unit = own.step()
        parts = [] if mine is None else [(one if unit is None else own.scaled(one, unit), mine)]
        parts += [
            (self.factors[state, other], x)
            for other, x in enumerate(xs)
            if x is not None and (state, other) in self.factors
        ]
        found = (b.contract(self._of_last(factor), x, (ROW,)) for factor, x in parts)
        return self.tables.plus(*found)

    def left(self, state: int, c: Each) -> Ref:
        """At the chunk's end, what a state has of 1 added in row j in the proportion `c`."""
        b, own = self.b, c[state]
        seen = self._ended(state, self.since(c))
        rows = None if seen is None else b.rename(seen, [(COLUMN, ROW)])
        total = self.tables.plus(rows, None if own is None else self._of_last(own))
        return b.const(0.0) if total is None else total  # behind the last token all of it is zero

    # ------------------------------------------------------------ pieces

    def _kept(self, state: int) -> Ref:
        """`D_a`: what a state keeps of its own."""
        return self.decays[state].weights(0, 0, diagonal=False)

    def _weighed(self, table: Ref, by: Ref) -> Ref:
        """A table whose columns are weighed with a factor of their rows, or a constant."""
        return self.b.mul(table, self.b.rename(by, [(ROW, COLUMN)]))

    def _of_last(self, x: Ref) -> Ref:
        """What a value is in the last row that holds a token, else zero."""
        b = self.b
        last = b.binary("sub", self._count(), b.const(1, Kind.INT))
        return b.where(b.binary("eq", b.iota(ROW), last), x, b.const(0.0))

    def _count(self) -> Ref:
        """How many rows hold a token."""
        b = self.b
        here = b.where(self.row, b.const(1, Kind.INT), b.const(0, Kind.INT))
        return b.sum(here, (ROW,))

    def _order(self) -> list[int]:
        """The states, those that others take first."""
        feeds = tuple(
            sum(1 << b for b in range(self.count) if (a, b) in self.factors)
            for a in range(self.count)
        )
        return [state for part in strongly_connected(feeds) for state in part]

    def _solved(self, right: Sequence[Ref | None]) -> Each:
        order = self._order()
        m = [
            [
                self._weighed(self._kept(a), self.factors[a, b]) if (a, b) in self.factors else None
                for b in order
            ]
            for a in order
        ]
        found = self.tables.eliminated(
            m, [right[a] for a in order], self._applied, self.tables.plus
        )
        return tuple(found[order.index(a)] for a in range(self.count))

    def _applied(self, table: Ref, x: Ref | None, _row: int, _column: int) -> Ref | None:
        if x is None:
            return None
        if COLUMN in self.b.dims_of(x):
            return self.tables.times(table, x)
        return self.b.contract(table, self.b.rename(x, [(ROW, COLUMN)]), (COLUMN,))
