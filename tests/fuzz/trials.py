"""How one spec is tried: sizes, lengths, heads, a split, a carried state; and as one line of text.

In: choices.  Out: a `Trial`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hypothesis import strategies as st

from scandsl.ir.nodes import Recurrence
from scandsl.testing.compare import Case
from scandsl.testing.data import Layout
from tests.fuzz.source import Source

CHUNK = 16
LENGTHS = (3, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 3)
SIZES = (3, 2, 1, 5, 8)
HEADS = ((1,), (2, 1), (2, 1, 2), (4, 1, 2))


@dataclass(frozen=True, slots=True)
class Trial:
    """Numbers that say how a spec is called; `heads` go round among the arguments."""

    sizes: tuple[int, ...] = (3, 5, 2)
    length: int = 17
    packed: tuple[int, ...] = (17, 0, 1, 3)
    heads: tuple[int, ...] = (2, 1)
    split: int = 0
    seed: int = 0
    triton: bool = False

    def line(self) -> str:
        """As one line of text."""
        return json.dumps(asdict(self))

    @staticmethod
    def read(line: str) -> Trial:
        """What `line` wrote."""
        data = json.loads(line)
        return Trial(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})

    def plain(self, recurrence: Recurrence) -> Case:
        """A batch of two, from nothing."""
        layout = Layout(2, self.length, None, max(self.heads), self._own(recurrence))
        return Case("plain", layout, self._named(recurrence))

    def packs(self, recurrence: Recurrence) -> Case:
        """Packed sequences, from a carried state."""
        own = self._own(recurrence)
        layout = Layout(lengths=self.packed, heads=max(self.heads), own_heads=own)
        return Case("packed", layout, self._named(recurrence), carried=True)

    def _own(self, recurrence: Recurrence) -> dict[str, int]:
        count = len(self.heads)
        return {name: self.heads[i % count] for i, name in enumerate(recurrence.arguments)}

    def _named(self, recurrence: Recurrence) -> dict[str, int]:
        free = [d.name for d in recurrence.dims if d.size is None and d.base is None]
        return dict(zip(free, self.sizes, strict=False))


def draw_trial(source: Source, triton: bool) -> Trial:
    """How a spec is tried."""
    length = source.pick(LENGTHS)
    count = source.number(1, 4)
    packed: Sequence[int] = [source.pick((*LENGTHS, 0)) for _ in range(count)]
    return Trial(
        sizes=tuple(source.pick(SIZES) for _ in range(3)),
        length=length,
        packed=tuple(packed) if sum(packed) else (3,),
        heads=source.pick(HEADS),
        split=source.number(0, length - 1),
        seed=source.number(0, 999),
        triton=triton,
    )


@st.composite
def trials(draw: st.DrawFn, triton: bool = False) -> Trial:
    """How a spec is tried."""
    return draw_trial(Source(draw), triton)
