"""The map by which a chunk takes the carries it is handed to those it hands on.

In: a `ChunkProgram`.  Out: an equal one, in which a carry that goes through sums becomes `M S + N`,
with `M` and `N` known before the carries are (design: "Composition").  Programs whose carries only
decay, or whose maps are not linear, come back as they are.

Values between a carry and its successor are followed as  base + diagonal ∘ S + matrix · S,  where
the matrix has a second name of the contracted dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Contract, Dim, Expand, Load, Ref, Unary, operands
from scandsl.kernels.program import Carry, ChunkProgram
from scandsl.kernels.prune import prune
from scandsl.kernels.split import reach, split

INTO = "#from:"


@dataclass(frozen=True, slots=True)
class Linear:
    """`base + diagonal ∘ S + matrix · S`; parts that are absent are zero."""

    base: Ref | None = None
    diagonal: Ref | None = None
    matrix: Ref | None = None


class _NotLinear(Exception):
    """A value is no such map of one carry."""


def with_carry_maps(program: ChunkProgram) -> ChunkProgram:
    """Carries that go through sums as `M S + N`."""
    inside = split(program).inside
    if not any(isinstance(program.values[r].op, Contract) for r in inside):
        return program
    try:
        return prune(_rewritten(program, inside))
    except _NotLinear:
        return program


def _rewritten(program: ChunkProgram, inside: Sequence[Ref]) -> ChunkProgram:
    b = Builder(program.dims, program.values)
    carries = []
    for carry in program.carries:
        over = _contracted(program, carry, inside)
        if over is None:
            carries.append(carry)
            continue
        b.add_dim(Dim(INTO + over, base=over))
        found = _Follower(b, program, carry, over, inside).value(carry.next)
        carries.append(replace(carry, next=_next(b, carry, over, found)))
    return replace(program, dims=tuple(b.dims), values=tuple(b.values), carries=tuple(carries))


def _contracted(program: ChunkProgram, carry: Carry, inside: Sequence[Ref]) -> str | None:
    """The one dimension over which the carry is summed on its way, if any."""
    found: set[str] = set()
    reached = {r for r in inside if _is_load(program, r, carry.name)}
    for ref in inside:
        op = program.values[ref].op
        taken = [r for r in operands(op) if r in reached]
        if taken or ref in reached:
            reached.add(ref)
        if taken and isinstance(op, Contract):
            found.update(d for d in op.over if d in carry.dims)
    if len(found) > 1:
        raise _NotLinear
    return next(iter(found), None)


def _is_load(program: ChunkProgram, ref: Ref, name: str) -> bool:
    op = program.values[ref].op
    return isinstance(op, Load) and op.name == name


def _next(b: Builder, carry: Carry, over: str, found: Linear) -> Ref:
    if found.matrix is None:
        raise _NotLinear
    matrix = found.matrix
    if found.diagonal is not None:
        same = b.binary("eq", b.iota(over), b.iota(INTO + over))
        matrix = b.add(matrix, b.where(same, found.diagonal, b.const(0.0)))
    state = b.rename(b.load(carry.name, carry.dims, carry.kind), [(over, INTO + over)])
    moved = b.contract(matrix, state, (INTO + over,))
    return moved if found.base is None else b.add(moved, b.expand(found.base, carry.dims))


class _Follower:
    """Follows one carry through the values inside the loop."""

    def __init__(
        self, b: Builder, program: ChunkProgram, carry: Carry, over: str, inside: Sequence[Ref]
    ) -> None:
        self.b = b
        self.program = program
        self.carry = carry
        self.over = over
        self.free = frozenset(carry.dims) - {over}
        self.inside = frozenset(inside)
        self.known: dict[Ref, Linear] = {}

    def value(self, root: Ref) -> Linear:
        """The map from the carry to `root`."""
        needed = reach(self.program, [root])
        for ref in range(root + 1):
            if ref in self.inside and needed[ref]:
                self.known[ref] = self._one(ref)
        return self.known[root] if root in self.known else Linear(base=root)

    def _of(self, ref: Ref) -> Linear:
        return self.known.get(ref, Linear(base=ref))

    def _one(self, ref: Ref) -> Linear:
        b, op = self.b, self.program.values[ref].op
        match op:
            case Load(name) if name == self.carry.name:
                return Linear(diagonal=b.const(1.0))
            case Binary("add", x, y):
                return self._sum(self._of(x), self._of(y))
            case Binary("sub", x, y):
                return self._sum(self._of(x), self._scaled(self._of(y), b.const(-1.0)))
            case Unary("neg", x):
                return self._scaled(self._of(x), b.const(-1.0))
            case Binary("mul", x, y) if x not in self.inside or y not in self.inside:
                factor, moved = (y, x) if x in self.inside else (x, y)
                return self._scaled(self._of(moved), factor)
            case Contract(x, y, over) if x not in self.inside or y not in self.inside:
                factor, moved = (y, x) if x in self.inside else (x, y)
                return self._contracted(factor, self._of(moved), over)
            case Expand(x):
                return self._of(x)
            case _:
                raise _NotLinear

    def _sum(self, x: Linear, y: Linear) -> Linear:
        def plus(p: Ref | None, q: Ref | None) -> Ref | None:
            return q if p is None else p if q is None else self.b.add(p, q)

        return Linear(plus(x.base, y.base), plus(x.diagonal, y.diagonal), plus(x.matrix, y.matrix))

    def _scaled(self, x: Linear, factor: Ref) -> Linear:
        b = self.b
        if (x.diagonal is not None or x.matrix is not None) and (
            self.free & set(b.dims_of(factor))
        ):
            raise _NotLinear

        def times(part: Ref | None) -> Ref | None:
            return None if part is None else b.mul(part, factor)

        return Linear(times(x.base), times(x.diagonal), times(x.matrix))

    def _contracted(self, factor: Ref, x: Linear, over: Sequence[str]) -> Linear:
        b = self.b
        if self.free & (set(b.dims_of(factor)) | set(over)):
            raise _NotLinear
        base, matrix = (
            None if part is None else b.sum_product(factor, part, self._kept(factor, part, over))
            for part in (x.base, x.matrix)
        )
        if x.diagonal is not None:
            if tuple(over) != (self.over,):
                raise _NotLinear
            moved = b.rename(b.mul(factor, x.diagonal), [(self.over, INTO + self.over)])
            matrix = moved if matrix is None else b.add(matrix, moved)
        return Linear(base, None, matrix)

    def _kept(self, x: Ref, y: Ref, over: Sequence[str]) -> set[str]:
        return (set(self.b.dims_of(x)) | set(self.b.dims_of(y))) - set(over)


def sizes_of(program: ChunkProgram) -> Mapping[str, str]:
    """The dimensions that this module added, with those whose size they have."""
    return {d.name: d.base for d in program.dims if d.name.startswith(INTO) and d.base}
