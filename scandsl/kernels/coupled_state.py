"""States that feed each other entry by entry, for all rows of a chunk.

In: the coefficients of a step `s_a ← Σ_b A_ab s_b + r_a` for all rows.  Out: what each row is
handed, and what the chunk leaves.  Steps are composed in pairs, then pairs in pairs, and so on: at
the level of distance d, row i holds the map of the rows `i - 2 d < j ≤ i`.  Rows move down by a
product with a matrix of zeros and ones.  Nothing is divided by, so coefficients may be of any size,
zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scandsl.analysis.program import Coupled
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Kind, Ref, State
from scandsl.kernels.program import COLUMN, ROW

ROWS = 16
"""Rows of a chunk: each level takes products of all rows with all rows."""


@dataclass(frozen=True, slots=True)
class _Map:
    """`s ↦ A s + r`; entries that are `None` are zero."""

    matrix: tuple[tuple[Ref | None, ...], ...]
    rest: tuple[Ref | None, ...]


class CoupledStates:
    """The states of one component."""

    def __init__(
        self,
        builder: Builder,
        states: Sequence[State],
        coupled: Coupled,
        lift: Callable[[Ref], Ref],
        row: Ref,
    ) -> None:
        self.b = builder
        self.states = states
        self.starts = [builder.load(s.name, s.dims, s.kind) for s in states]
        self.whole = self._composed(self._steps(coupled, lift, row))

    def before(self, place: int) -> Ref:
        """What every row is handed of one state."""
        b = self.b
        handed = self._down(self.whole, 1)
        return b.expand(self._applied(handed, place), (ROW, *self.states[place].dims))

    def final(self, place: int) -> Ref:
        """What the chunk leaves of one state."""
        b = self.b
        here = b.binary("eq", b.iota(ROW), b.const(ROWS - 1, Kind.INT))
        last = b.where(here, b.const(1.0), b.const(0.0))

        def picked(x: Ref | None) -> Ref | None:
            return None if x is None else b.contract(last, b.expand(x, (ROW,)), (ROW,))

        matrix = tuple(tuple(picked(x) for x in row) for row in self.whole.matrix)
        end = _Map(matrix, tuple(picked(x) for x in self.whole.rest))
        return b.expand(self._applied(end, place), self.states[place].dims)

    def _steps(self, coupled: Coupled, lift: Callable[[Ref], Ref], row: Ref) -> _Map:
        """The step of each row; a row without a token changes nothing."""
        b = self.b
        zero = b.const(0.0)

        def kept(x: Ref | None, same: bool) -> Ref | None:
            if x is None and not same:
                return None
            own = zero if x is None else lift(x)
            return b.where(row, own, b.const(1.0) if same else zero)

        matrix = tuple(
            tuple(kept(x, i == j) for j, x in enumerate(line))
            for i, line in enumerate(coupled.matrix)
        )
        return _Map(matrix, tuple(kept(x, False) for x in coupled.rest))

    def _composed(self, steps: _Map) -> _Map:
        distance = 1
        while distance < ROWS:
            steps = self._after(steps, self._down(steps, distance))
            distance *= 2
        return steps

    def _down(self, steps: _Map, distance: int) -> _Map:
        """What stands so many rows above; the identity behind the first row."""
        b = self.b
        i, j = b.iota(ROW), b.iota(COLUMN)
        far = b.binary("eq", b.binary("sub", i, j), b.const(distance, Kind.INT))
        moves = b.where(far, b.const(1.0), b.const(0.0))
        near = b.binary("lt", i, b.const(distance, Kind.INT))
        first = b.where(near, b.const(1.0), b.const(0.0))

        def moved(x: Ref | None, same: bool) -> Ref | None:
            if x is None:
                return None
            down = b.contract(moves, b.rename(x, [(ROW, COLUMN)]), (COLUMN,))
            return b.add(down, first) if same else down

        matrix = tuple(
            tuple(moved(x, p == q) for q, x in enumerate(line))
            for p, line in enumerate(steps.matrix)
        )
        return _Map(matrix, tuple(moved(x, False) for x in steps.rest))

    def _after(self, later: _Map, earlier: _Map) -> _Map:
        """The earlier map, then the later one."""
        count = range(len(self.states))
        matrix = tuple(
            tuple(self._dot(later.matrix[p], [earlier.matrix[m][q] for m in count]) for q in count)
            for p in count
        )
        rest = tuple(
            self._plus(self._dot(later.matrix[p], earlier.rest), later.rest[p]) for p in count
        )
        return _Map(matrix, rest)

    def _applied(self, to: _Map, place: int) -> Ref:
        found = self._plus(self._dot(to.matrix[place], self.starts), to.rest[place])
        return self.b.const(0.0) if found is None else found

    def _dot(self, left: Sequence[Ref | None], right: Sequence[Ref | None]) -> Ref | None:
        total: Ref | None = None
        for x, y in zip(left, right, strict=True):
            if x is not None and y is not None:
                total = self._plus(total, self.b.mul(x, y))
        return total

    def _plus(self, x: Ref | None, y: Ref | None) -> Ref | None:
        if x is None or y is None:
            return y if x is None else x
        return self.b.add(x, y)
