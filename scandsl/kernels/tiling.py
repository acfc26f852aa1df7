"""Decides which dimensions of a kernel may be cut over the grid, and makes that right.

In: the values of a kernel and its results.  Out: the dimensions that may be cut, the values with
masks put in, and for every result the dimensions over which its tiles have to be summed.

A value is *partial* along a cut dimension when its tile holds only its own tile's share of a sum.
Sums may go on through anything linear.  Where a partial value is added to one that every tile
holds whole, the latter counts in the first tile only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Contract,
    CumProd,
    CumSum,
    Dims,
    Expand,
    Input,
    Insert,
    Inverse,
    Kind,
    Load,
    Normalize,
    Param,
    Recur,
    Reduce,
    Ref,
    Rename,
    Scores,
    ScoresAdjoint,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Select,
    Spread,
    Stack,
    StopGrad,
    Unary,
    Value,
    Where,
    operands,
)
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ChunkProgram

FIRST = "#first:"


@dataclass(frozen=True, slots=True)
class Tiling:
    """Cut dimensions, the rewritten values, where the old refs went, and what is partial."""

    dims: Dims
    values: tuple[Value, ...]
    moved: Mapping[Ref, Ref]
    partial: Mapping[Ref, frozenset[str]]


class _Bound(Exception):
    """A dimension that cannot be cut."""

    def __init__(self, dims: frozenset[str]) -> None:
        super().__init__(str(sorted(dims)))
        self.dims = dims


def tile(program: ChunkProgram, refs: Sequence[Ref], whole: Sequence[Ref]) -> Tiling:
    """Cut as many dimensions as possible; the values `whole` must not be partial."""
    wanted = [
        d.name
        for d in program.dims
        if d.size is None and d.base is None and not d.name.startswith("#")
    ]
    while True:
        try:
            return _Cutter(program, frozenset(wanted)).run(refs, whole)
        except _Bound as bound:
            wanted = [d for d in wanted if d not in bound.dims]


class _Cutter:
    """One attempt with a fixed set of cut dimensions."""

    def __init__(self, program: ChunkProgram, cut: frozenset[str]) -> None:
        self.program = program
        self.cut = cut
        self.b = Builder(program.dims)
        self.moved: dict[Ref, Ref] = {}
        self.partial: dict[Ref, frozenset[str]] = {}

    def run(self, refs: Sequence[Ref], whole: Sequence[Ref]) -> Tiling:
        for ref in refs:
            self._value(ref, self.program.values[ref])
        for ref in whole:
            self._forbid(self.partial[ref])
        used = {d for ref in refs for d in self.program.values[ref].dims}
        dims = tuple(d.name for d in self.program.dims if d.name in self.cut and d.name in used)
        return Tiling(dims, tuple(self.b.values), self.moved, self.partial)

    def _forbid(self, dims: frozenset[str]) -> None:
        if dims:
            raise _Bound(dims)

    def _value(self, ref: Ref, value: Value) -> None:
        parts = [self.partial[r] for r in operands(value.op)]
        news = [self.moved[r] for r in operands(value.op)]
        partial = self._partial(value, parts)
        if isinstance(value.op, Where | Insert | Stack) or (
            isinstance(value.op, Binary) and value.op.fn in ("add", "sub")
        ):
            skip = 1 if isinstance(value.op, Where) else 0
            for place in range(skip, len(news)):
                news[place] = self._first_only(news[place], partial - parts[place])
        self._forbid(partial & frozenset(value.dims))
        op = with_operands(value.op, news)
        self.moved[ref] = self.b.emit(
            op, value.dims, value.kind, value.name, value.span, varies=value.varies
        )
        self.partial[ref] = partial

    def _first_only(self, ref: Ref, dims: frozenset[str]) -> Ref:
        b = self.b
        if b.constant_of(ref) == 0:
            return ref
        for dim in sorted(dims, key=[d.name for d in b.dims].index):
            first = b.load(FIRST + dim, (), Kind.BOOL)
            ref = b.where(first, ref, b.const(0.0, b.kind_of(ref)))
        return ref

    def _partial(  # noqa: C901 - one case per operation
        self, value: Value, parts: Sequence[frozenset[str]]
    ) -> frozenset[str]:
        """Along which cut dimensions a value is partial."""
        union = frozenset().union(*parts) if parts else frozenset()
        match value.op:
            case Contract(_, _, over):
                self._forbid(parts[0] & parts[1])
                return union | (frozenset(over) & self.cut)
            case Reduce(fn, _, over):
                summed = frozenset(over) & self.cut
                if fn not in ("sum", "mean"):
                    self._forbid(summed | union)
                return union | summed
            case Normalize(_, _, over):
                self._forbid(union | (frozenset(over) & self.cut))
            case Binary(fn) if fn in ("add", "sub"):
                return union
            case Binary("mul"):
                self._forbid(parts[0] & parts[1])
                return union
            case Binary("div"):
                self._forbid(parts[1])
                return parts[0]
            case Unary("neg") | Expand() | StopGrad() | SegmentAdjoint() | Insert() | Stack():
                return union
            case Where():
                self._forbid(parts[0])
                return union
            case Rename(_, pairs):
                self._forbid(frozenset(d for pair in pairs for d in pair) & self.cut)
                return union
            case CumSum(_, dim) | Select(_, dim):
                self._forbid(frozenset((dim,)) & self.cut)
                return union
            case CumProd(_, dim):
                self._forbid((frozenset((dim,)) & self.cut) | union)
            case Recur(adjoint=adjoint):
                self._forbid(parts[0] if adjoint else union)
                return union
            case Spread():
                self._forbid((parts[0] & parts[1]) | parts[2])
                return union
            case Scores(over=along):
                self._forbid((frozenset((along,)) & self.cut) | union)
            case ScoresAdjoint():
                self._forbid(parts[0] | parts[1] | parts[2])
                return union  # linear in the cotangent, by itself for each entry of `over`
            case Segment() | SegmentProduct() | Inverse():
                self._forbid(union)
            case Input() | Load() | Param():
                pass
            case _:
                self._forbid(union)
        return union
