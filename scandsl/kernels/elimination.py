"""Block elimination on systems whose blocks are strictly lower triangles of a chunk.

In: unknowns `y_r = f_r + Σ_s M_rs y_s`, each with a value per row, `M_rs` a `[i, j]` table with
nothing on or above its diagonal where s is not before r (`None` is zero).  Out: the unknowns.  What
a right side is, and how a table is applied to it, the caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Ref
from scandsl.kernels.program import COLUMN, INNER, ROW

Side = TypeVar("Side")


class Tables:
    """Arithmetic of `[i, j]` tables.

    `row` tells which rows hold a token, where those that hold none have no unknowns.
    """

    def __init__(self, builder: Builder, row: Ref | None = None) -> None:
        self.b = builder
        self.row = row

    def times(self, left: Ref, right: Ref) -> Ref:
        """The product of two tables."""
        moved = self.b.rename(right, [(ROW, COLUMN), (COLUMN, INNER)])
        return self.b.rename(self.b.contract(left, moved, (COLUMN,)), [(INNER, COLUMN)])

    def plus(self, *xs: Ref | None) -> Ref | None:
        """The sum of what is there."""
        total: Ref | None = None
        for x in xs:
            if x is not None:
                total = x if total is None else self.b.add(total, x)
        return total

    def inverse(self, below: Ref) -> Ref:
        """`(1 - L)⁻¹`."""
        if self.row is not None:
            below = self.b.where(self.row, below, self.b.const(0.0))
        return self.b.inverse(below, ROW, COLUMN, INNER)

    def eliminated(
        self,
        m: Sequence[Sequence[Ref | None]],
        right: Sequence[Side],
        applied: Callable[[Ref, Side, int, int], Side],
        joined: Callable[[Side, Side], Side],
    ) -> list[Side]:
        """The unknowns; `applied(M, y, r, s)` is `M y_s` as row r sees it."""
        lines, found = [list(line) for line in m], list(right)
        n = len(found)
        for r in range(n):
            pivot = lines[r][r]
            if pivot is not None:
                inverse = self.inverse(pivot)
                found[r] = applied(inverse, found[r], r, r)
                lines[r] = [x if x is None else self.times(inverse, x) for x in lines[r]]
            for q in range(r + 1, n):
                factor = lines[q][r]
                if factor is None:
                    continue
                found[q] = joined(found[q], applied(factor, found[r], q, r))
                for s in range(r + 1, n):
                    step = lines[r][s]
                    more = None if step is None else self.times(factor, step)
                    lines[q][s] = self.plus(lines[q][s], more)
        for r in range(n - 1, -1, -1):
            for s in range(r + 1, n):
                coupling = lines[r][s]
                if coupling is not None:
                    found[r] = joined(found[r], applied(coupling, found[s], r, s))
        return found
