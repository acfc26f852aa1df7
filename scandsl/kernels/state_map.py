"""How a slice of time takes the carries it is handed to those it leaves: `S ↦ M S + N`.

In: the forward `ChunkProgram` of a recurrence.  Out: a `Composition`: a program without stores that
carries each state from zero, which gives `N`, and beside it the map `M`, which starts as the
identity (design: "Composition").  `M` is as large as it has to be: one number, a diagonal along
the dimensions in which decays differ, or a matrix over the dimensions that updates sum over.  A
program whose carries move in another way, such as by a matrix for every column, has none.

The map of a carry may look at other carries (a read of one that feeds the decay or the writes of
another).  Levels say in which order starts have to be known: the maps of level n are right once
the starts of the lower levels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Contract,
    CumSum,
    Dim,
    Dims,
    Expand,
    Kind,
    Load,
    Recur,
    Reduce,
    Ref,
    Rename,
    Unary,
    Where,
    operands,
)
from scandsl.kernels.program import Carry, ChunkProgram
from scandsl.kernels.prune import prune
from scandsl.kernels.split import reach

BY = "#by:"


@dataclass(frozen=True, slots=True)
class StateMap:
    """`M` of one carry: its name and dimensions, `None` and empty if it is the identity.

    `over` are the dimensions that updates sum over; `M` has them, then each of them again under
    another name (`BY`), then `beside`, those in which it differs from entry to entry.
    """

    name: str | None
    over: Dims
    beside: Dims
    level: int

    @property
    def dims(self) -> Dims:
        """The dimensions of `M`."""
        return (*self.over, *(BY + d for d in self.over), *self.beside)


@dataclass(frozen=True, slots=True)
class Composition:
    """A program whose carries are those of the forward, then the maps that are no identity."""

    program: ChunkProgram
    maps: tuple[StateMap, ...]  # one for each carry of the forward


class _NoMap(Exception):
    """A carry moves in a way that has no map of this kind."""


def composition(forward: ChunkProgram) -> Composition | None:
    """The maps of a slice of time, if every carry has one."""
    b = Builder(forward.dims, forward.values)
    maps: list[StateMap] = []
    carries: list[Carry] = []
    try:
        levels = _levels(forward)
        for carry, level in zip(forward.carries, levels, strict=True):
            found, moved = _Homogeneous(b, forward, carry, level).run()
            maps.append(found)
            if found.name is not None:
                carries.append(Carry(found.name, found.dims, carry.kind, moved))
    except _NoMap:
        return None
    whole = replace(
        forward,
        dims=tuple(b.dims),
        values=tuple(b.values),
        carries=(*forward.carries, *carries),
        stores=(),
    )
    return Composition(prune(whole), tuple(maps))


def _levels(program: ChunkProgram) -> list[int]:
    """For each carry, how many others have to be known one after the other before its map is."""
    names = [c.name for c in program.carries]
    needs: dict[str, list[str]] = {}
    for carry in program.carries:
        needed = reach(program, [carry.next])
        loaded = {
            v.op.name
            for r, v in enumerate(program.values)
            if needed[r] and isinstance(v.op, Load) and v.op.name in names
        }
        needs[carry.name] = [n for n in names if n in loaded and n != carry.name]
    levels: dict[str, int] = {}
    for _ in names:
        for name in names:
            if name not in levels and all(n in levels for n in needs[name]):
                levels[name] = max((levels[n] + 1 for n in needs[name]), default=0)
    if len(levels) < len(names):
        raise _NoMap
    return [levels[n] for n in names]


class _Homogeneous:
    """The part of a carry's way that is linear in it, applied to the identity."""

    def __init__(self, b: Builder, program: ChunkProgram, carry: Carry, level: int) -> None:
        self.b = b
        self.program = program
        self.carry = carry
        self.level = level
        self.inside = self._inside()

    def _inside(self) -> dict[Ref, None]:
        """The values between the carry and its successor."""
        values = self.program.values
        needed = reach(self.program, [self.carry.next])
        found: dict[Ref, None] = {}
        for ref, value in enumerate(values):
            own = isinstance(value.op, Load) and value.op.name == self.carry.name
            if needed[ref] and (own or any(r in found for r in operands(value.op))):
                found[ref] = None
        return found

    def run(self) -> tuple[StateMap, Ref]:
        """The map, and its value behind a chunk."""
        b, carry = self.b, self.carry
        if carry.kind not in (Kind.REAL, Kind.COMPLEX) or carry.next not in self.inside:
            raise _NoMap
        over = self._summed()
        beside = self._differing(over)
        if over and beside:  # a matrix for every column is larger than what it saves
            raise _NoMap
        found = StateMap(f"map {carry.name}", over, beside, self.level)
        for dim in over:
            b.add_dim(Dim(BY + dim, base=dim))
        start = b.load(f"map {carry.name}", found.dims, carry.kind)
        self.gone = frozenset(carry.dims) - {*over, *beside}
        self.by = found.dims
        moved: dict[Ref, Ref] = {}
        for ref in self.inside:
            value = self.program.values[ref]
            if isinstance(value.op, Load):
                moved[ref] = start
            else:
                dims = [d for d in value.dims if d not in self.gone]
                moved[ref] = b.expand(self._one(ref, moved), dims)
        end = moved[carry.next]
        if end == start:
            return replace(found, name=None, over=(), beside=()), end
        return found, b.expand(end, found.dims)

    def _summed(self) -> Dims:
        """The dimensions of the carry that it is summed over, or that change their name."""
        found: set[str] = set()
        for ref in self.inside:
            match self.program.values[ref].op:
                case Contract(_, _, over) | Reduce(_, _, over):
                    found |= set(over)
                case Rename(_, pairs):
                    found |= {d for pair in pairs for d in pair}
        return tuple(d for d in self.carry.dims if d in found)

    def _differing(self, over: Sequence[str]) -> Dims:
        """The other dimensions in which what multiplies the carry differs."""
        found: set[str] = set()
        for ref in self.inside:
            op = self.program.values[ref].op
            if isinstance(op, Recur):
                found |= set(self.program.values[op.a].dims)
            elif isinstance(op, Contract | Where) or (
                isinstance(op, Binary) and op.fn in ("mul", "div")
            ):
                for other in operands(op):
                    if other not in self.inside:
                        found |= set(self.program.values[other].dims)
        return tuple(d for d in self.carry.dims if d in found and d not in over)

    def _one(self, ref: Ref, moved: dict[Ref, Ref]) -> Ref:
        b, value = self.b, self.program.values[ref]
        match value.op:
            case Binary("add" | "sub", x, y):
                return self._sum(value.op, moved.get(x), moved.get(y))
            case Binary("mul", x, y) if (x in moved) != (y in moved):
                return b.mul(moved.get(x, x), moved.get(y, y))
            case Binary("div", x, y) if y not in moved:
                return b.div(moved[x], y)
            case Contract(x, y, over) if (x in moved) != (y in moved):
                return b.contract(moved.get(x, x), moved.get(y, y), over)
            case Where(c, x, y) if c not in moved:
                zero = b.const(0.0)
                return b.where(c, moved.get(x, zero), moved.get(y, zero))
            case Unary("neg", x):
                return b.neg(moved[x])
            case Reduce("sum", x, over):
                return b.sum(moved[x], over)
            case Rename(x, pairs):
                return b.rename(moved[x], pairs)
            case CumSum(x, dim, reverse, exclusive):
                return b.cumsum(moved[x], dim, reverse, exclusive)
            case Recur() as op:
                return self._along_rows(op, moved)
            case Cast(x) | Expand(x):
                return b.cast(moved[x], value.kind)
            case _:
                raise _NoMap

    def _along_rows(self, op: Recur, moved: dict[Ref, Ref]) -> Ref:
        if op.a in moved or op.b in moved or op.adjoint or op.algebra != "linear":
            raise _NoMap
        zero = self.b.const(0.0, self.carry.kind)
        return self.b.recur(op.a, zero, moved[op.start], op.rows, op.row, op.of)

    def _sum(self, op: Binary, x: Ref | None, y: Ref | None) -> Ref:
        b = self.b
        if x is None:
            assert y is not None
            return y if op.fn == "add" else b.neg(y)
        if y is None:
            return x
        return b.add(x, y) if op.fn == "add" else b.sub(x, y)
