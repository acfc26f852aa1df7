"""Tile programs: what one chunk of tokens does to its carries and stores.

A chunk holds up to `C` consecutive tokens of one sequence and one head.  Its program is a flat list
of IR values in which per-token values have the row dimension `#i` (or `#j` when they stand in
columns). Both printers (Triton and torch) print this one form; the torch printer runs many chunks
at once.

Leaves: `Input(x)` with a row dimension repeats the last token of the sequence in rows behind its
end; `Load(x)` with a row dimension is zero there; `Load(x)` without one is a carry or a saved
carry; `Row('#i')` is true for rows that hold a token.  `#h` are the heads, where a program is for
all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.nodes import Dim, Dims, Kind, Ref, Value

ROW = "#i"
COLUMN = "#j"
INNER = "#k"
POSITION = "#t"
HEAD = "#h"


@dataclass(frozen=True, slots=True)
class Carry:
    """A value that one chunk hands to the next; `Load(name)` is what it was handed."""

    name: str
    dims: Dims
    kind: Kind
    next: Ref


@dataclass(frozen=True, slots=True)
class Store:
    """A result: one row per token if it has the row dimension, else one per chunk."""

    name: str
    dims: Dims
    kind: Kind
    value: Ref


@dataclass(frozen=True, slots=True)
class ChunkProgram:
    """Chunks run in order of time, or against it when `reverse`.

    `saved` names the carries whose value at the start of each chunk the program loads although it
    does not carry them (the forward's states, in its backward).
    """

    dims: tuple[Dim, ...]
    values: tuple[Value, ...]
    carries: tuple[Carry, ...]
    stores: tuple[Store, ...]
    saved: tuple[Carry, ...]
    reverse: bool

    def rewritten(self, values: Sequence[Value], moved: Mapping[Ref, Ref]) -> ChunkProgram:
        """The program over other values; `moved` tells where what it ends in has gone."""
        return replace(
            self,
            values=tuple(values),
            carries=tuple(replace(c, next=moved[c.next]) for c in self.carries),
            stores=tuple(replace(s, value=moved[s.value]) for s in self.stores),
        )


@dataclass(frozen=True, slots=True)
class Split:
    """A chunk program cut around its loop: what may run for all chunks at once, and what may not.

    `before` does not look at the carries; `inside` does and feeds them; `after` does and feeds only
    stores.  Each lists refs in order.
    """

    before: tuple[Ref, ...]
    inside: tuple[Ref, ...]
    after: tuple[Ref, ...]
