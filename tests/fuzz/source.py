"""Choices, made by hypothesis: what all parts of a spec are drawn from.

In: the `draw` of a composite strategy.  Out: choices that shrink towards what stands first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """Where the choices of one spec come from."""

    draw: Callable[[st.SearchStrategy[Any]], Any]

    def pick(self, options: Sequence[T]) -> T:
        """One of several; shrinks to the first."""
        if len(options) == 1:
            return options[0]
        return options[self.number(0, len(options) - 1)]

    def say(self, options: Sequence[str | Callable[[], str]]) -> str:
        """One of several texts; what only makes a text makes it if it is chosen."""
        found = self.pick(options)
        return found if isinstance(found, str) else found()

    def chance(self, percent: int) -> bool:
        """True that often; shrinks to False."""
        return self.number(0, 99) >= 100 - percent

    def number(self, low: int, high: int) -> int:
        """A whole number, ends included; shrinks to the lower end."""
        return int(self.draw(st.integers(low, high)))

    def some(self, options: Sequence[T]) -> tuple[T, ...]:
        """Any part of a sequence, in its order; shrinks to nothing."""
        return tuple(x for x in options if self.chance(50))

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The same in another order; shrinks to the given one."""
        left, out = list(options), []
        while left:
            out.append(left.pop(self.number(0, len(left) - 1)))
        return out
