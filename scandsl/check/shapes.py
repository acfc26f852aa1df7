"""Named dimensions: their order, their sizes, and how they are written in messages.

In: dimension names as written.  Out: sets of dimensions as tuples in one fixed order.
This module finds no faults and knows no expressions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from scandsl.ir.nodes import Dim, Dims


def base_of(dim: str) -> str:
    """`K` for `K`, `K'` and `K''`."""
    return dim.rstrip("'")


def shape_text(dims: Iterable[str]) -> str:
    """`[K, V]` as a user writes it, `[]` for a value without dimensions."""
    return "[" + ", ".join(dims) + "]"


@dataclass(slots=True)
class DimTable:
    """The dimensions of one scan by first appearance; later ones are only ever appended."""

    sizes: dict[str, int] = field(default_factory=dict)
    families: set[str] = field(default_factory=set)
    order: dict[str, int] = field(default_factory=dict)

    def register(self, dim: str) -> None:
        """Give a dimension its place, if it has none yet."""
        self.order.setdefault(dim, len(self.order))

    def knows(self, dim: str) -> bool:
        """Whether the name, without primes, is a dimension of this scan."""
        return base_of(dim) in self.families

    def size(self, dim: str) -> int | None:
        """The size of a static dimension, `None` for one that is read off the tensors."""
        return self.sizes.get(base_of(dim))

    def same_size(self, a: str, b: str) -> bool:
        """Whether two dimensions are known to have one size."""
        if base_of(a) == base_of(b):
            return True
        size = self.size(a)
        return size is not None and size == self.size(b)

    def sort(self, dims: Iterable[str]) -> Dims:
        """The set of the given dimensions in the fixed order."""
        return tuple(sorted(set(dims), key=self.order.__getitem__))

    def listing(self) -> tuple[Dim, ...]:
        """All dimensions in order, as the recurrence holds them."""
        return tuple(
            Dim(name, self.size(name), base_of(name) if base_of(name) != name else None)
            for name in self.order
        )
