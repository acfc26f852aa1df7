"""Counts what the kernels over time move and compute.

In: a `StepProgram` and the sizes of a call.  Out: bytes and operations per token and head of both
launches.  Bytes are counted per program that issues the load or store, caches aside; what happens
once per sequence (the state at both ends, gradients of params, params that stay on chip) is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scandsl.ir.nodes import (
    Contract,
    Expand,
    Kind,
    Load,
    Output,
    Recurrence,
    Ref,
    Tensor,
    made_of,
)
from scandsl.kernels.backward import cotangent
from scandsl.kernels.cost import WIDE, KernelCost, Setting
from scandsl.kernels.pairs import parts_of
from scandsl.kernels.program import Store
from scandsl.kernels.step import HEAD, StepProgram
from scandsl.kernels.step_tiles import crowding, tile_sizes, widest

TOKENS = 4096
"""The length of the sequences that costs are shown for."""

REGISTERS = {"forward": 64, "backward": 32}
"""Of each thread, for matrices among the params that stay on chip."""


def step_costs(
    recurrence: Recurrence, program: StepProgram, at: Setting, wide: frozenset[str] = frozenset()
) -> dict[str, KernelCost]:
    """The launch of each direction; `wide` are inputs and outputs in float32 whatever the call."""
    out = {"forward": _Launch(recurrence, program, at, "forward", wide).forward()}
    if program.d_inputs or program.d_params or program.d_outer or program.d_parts:
        out["backward"] = _Launch(recurrence, program, at, "backward", wide).backward()
    return out


def checkpoint_steps(tokens: int) -> int:
    """Steps between two checkpoints of the carried parts."""
    return min(max(16, 1 << ((max(tokens, 1) - 1).bit_length() + 1) // 2), 256)


@dataclass(frozen=True, slots=True)
class _Launch:
    """One direction of one step."""

    recurrence: Recurrence
    program: StepProgram
    at: Setting
    direction: str
    wide: frozenset[str]

    # ------------------------------------------------------------ sizes

    @property
    def tiles(self) -> Mapping[str, int]:
        return tile_sizes(self.program, self.at.sizes, self.direction)

    def volume(self, dims: Iterable[str]) -> int:
        return math.prod(self.at.sizes[d] for d in dims if d != HEAD)

    def copies(self, dims: Iterable[str]) -> int:
        """How many programs hold the same part: the tiles of cut dimensions that it lacks."""
        own, tiles, sizes = set(dims), self.tiles, self.at.sizes
        lacking = (d for d in self.program.independent if d not in own)
        return math.prod(-(-sizes[d] // tiles[d]) for d in lacking)

    def row(self, x: Tensor | Output) -> int:
        """Bytes of one token's share of an argument or a result."""
        if x.kind is Kind.COMPLEX:
            return 2 * WIDE * self.volume(x.dims)
        return self.volume(x.dims) * (self.at.item if x.dims and x.name not in self.wide else WIDE)

    # ------------------------------------------------------------ loads

    def needed(self, roots: Iterable[Ref]) -> list[Ref]:
        return sorted(made_of(self.program.values, roots))

    def loaded(self, roots: Iterable[Ref]) -> set[str]:
        ops = (self.program.values[r].op for r in self.needed(roots))
        return {op.name for op in ops if isinstance(op, Load)}

    def arguments(self, names: set[str]) -> float:
        """Bytes of a step's inputs, and of the matrices that do not stay on chip."""
        total = 0.0
        params = () if self.holds() else self.matrices()
        for tensor in (*self.recurrence.inputs, *params):
            if names & set(parts_of(tensor.name, tensor.kind)):
                total += self.row(tensor) * self.copies(tensor.dims)
        return total

    def matrices(self) -> tuple[Tensor, ...]:
        static = {d.name for d in self.recurrence.dims if d.size is not None}
        return tuple(t for t in self.recurrence.params if len(set(t.dims) - static) > 1)

    def holds(self) -> bool:
        """Whether matrices among the params are loaded once."""
        if self.program.heads:
            return True
        tiles = self.tiles
        held = sum(
            math.prod(tiles[d] for d in t.dims) * len(parts_of(t.name, t.kind))
            for t in self.matrices()
        )
        widest_tile = max(math.prod(tiles.get(d, 1) for d in x) for x in widest(self.program))
        numbers = max(crowding(self.program) * widest_tile, held // 2)
        warps = 4 if numbers <= 4096 else 8 if numbers <= 16384 else 16
        return held <= REGISTERS[self.direction] * 32 * warps

    # ------------------------------------------------------------ operations

    def operations(self, roots: Iterable[Ref]) -> float:
        """Two for each product of a sum, one for each number computed otherwise."""
        total = 0.0
        for ref in self.needed(roots):
            value = self.program.values[ref]
            if not value.varies or isinstance(value.op, Load | Expand):
                continue
            dims, each = value.dims, 1
            if isinstance(value.op, Contract):
                dims, each = (*dims, *value.op.over), 2
            total += each * self.volume(dims) * self.copies(dims)
        return total

    # ------------------------------------------------------------ launches

    def forward(self) -> KernelCost:
        p = self.program
        roots = [*(s.value for s in p.outputs), *(c.next for c in p.parts)]
        written = sum(self.row(o) for o in self.recurrence.outputs)
        kept = WIDE * sum(self.volume(c.dims) for c in p.parts) / checkpoint_steps(TOKENS)
        return KernelCost(
            "forward", self.arguments(self.loaded(roots)), written, self.operations(roots), kept
        )

    def backward(self) -> KernelCost:
        """The steps once more into a buffer, then their adjoint from it."""
        p = self.program
        by_row = [*p.d_inputs, *(s for x in p.d_outer for s in (x.left, x.right))]
        replay = [c.next for c in p.parts]
        adjoint = [*(s.value for s in (*by_row, *p.d_params)), *(c.next for c in p.d_parts)]
        names = self.loaded(adjoint)
        carried = [WIDE * self.volume(c.dims) * self.copies(c.dims) for c in p.parts]
        again = sum(x for c, x in zip(p.parts, carried, strict=True) if c.name in names)
        read = self.arguments(self.loaded(replay)) + self.arguments(names) + again
        read += sum(self.row(o) for o in self.recurrence.outputs)
        read += sum(carried) / checkpoint_steps(TOKENS)
        shares = [self.shares(store) for store in by_row]
        read += sum(x for x, parts in shares if parts > 1)
        written = sum(carried) + sum(x for x, _ in shares)
        operations = self.operations(replay) + self.operations(adjoint)
        return KernelCost("backward", read, written, operations)

    def shares(self, store: Store) -> tuple[float, int]:
        """Bytes of a gradient's row in all its shares, and how many these are."""
        parts = self.copies(store.dims)
        alone = parts == 1 and store.dims and store in self.program.d_inputs
        alone = alone and store.name not in map(cotangent, self.wide)
        return self.volume(store.dims) * (self.at.item if alone else WIDE) * parts, parts
