"""What it takes to hand a value from one stage to the next.

In: a value of a recurrence.  Out: its numbers per token, for `cut` to weigh.
"""

from __future__ import annotations

from scandsl.analysis.cut import NEVER
from scandsl.ir.nodes import Kind, Recurrence, Ref

_OPEN = 64  # what a dimension of unknown size counts for


class Sizes:
    """Numbers per token of the values of a recurrence."""

    def __init__(self, recurrence: Recurrence) -> None:
        self.values = recurrence.values
        self.inputs = [set(t.dims) for t in recurrence.inputs]
        self.static = {d.name: d.size for d in recurrence.dims if d.size is not None}

    def of(self, ref: Ref) -> int:
        """`NEVER` where a value is no vector of reals, or larger than every input.

        All tokens may have theirs at once only if it is as small as an input.
        """
        value = self.values[ref]
        free = set(value.dims) - set(self.static)
        small = len(free) <= 1 or any(free <= dims for dims in self.inputs)
        if value.kind is not Kind.REAL or not small:
            return NEVER
        size = 1
        for dim in value.dims:
            size *= self.static.get(dim, _OPEN)
        return size
