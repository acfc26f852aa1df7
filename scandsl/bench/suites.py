"""Shapes that are timed if no other is asked for.

In: the name of a suite.  Out: its dtype and shapes.  That for GPUs has the shapes for which
flash-linear-attention gives its own times, the most telling first, a long one and a packed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scandsl.bench.contenders import Shape
from scandsl.bench.inputs import sizes_for
from scandsl.ir.nodes import Recurrence

PACKED = (511, 1024, 1, 6000, 2049, 3071, 8192, 11920)
"""Lengths of the sequences of the packed shape: 32,768 tokens."""


@dataclass(frozen=True, slots=True)
class Outline:
    """A shape but for the names of dimensions: batch, time, heads, size; lengths if packed."""

    batch: int
    time: int
    heads: int
    size: int
    lengths: tuple[int, ...] = ()

    def shape(self, recurrence: Recurrence, sizes: Mapping[str, int]) -> Shape:
        """For one scan; `sizes` take the place of the outline's."""
        every = sizes_for(recurrence, self.size, self.size)
        wanted = {name: size for name, size in sizes.items() if name in every}
        return Shape(self.batch, self.time, self.heads, every | wanted, self.lengths)


SUITES: dict[str, tuple[str, tuple[Outline, ...]]] = {
    "cpu": (
        "float32",
        tuple(Outline(1, time, 4, 64) for time in (512, 1024, 2048, 4096, 8192, 16384)),
    ),
    "gpu": (
        "bfloat16",
        (
            Outline(4, 4096, 64, 128),
            Outline(1, 8192, 96, 128),
            Outline(2, 16384, 16, 128),
            Outline(4, 2048, 16, 128),
            Outline(8, 1024, 8, 64),
            Outline(8, 2048, 32, 256),
            Outline(1, 65536, 8, 128),
            Outline(1, sum(PACKED), 16, 128, PACKED),
        ),
    ),
}
