"""Rows that look at the same decayed keys do so together: one product in place of several.

In: a `ChunkProgram`.  Out: an equal one, in which `Scores` with the same keys and decays are one
`Scores` of their queries stacked, `[row, several, over]`, and so are their adjoints, whose
cotangents of keys and decays come out added up.  The keys are then brought to the border between
halves once, and products have more rows.  For tensor operations; a kernel holds too much as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Dim, Ref, Scores, ScoresAdjoint, Value, made_of, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ROW, ChunkProgram
from scandsl.kernels.prune import prune
from scandsl.kernels.split import split

_Member = tuple[Ref, ...]  # query; for an adjoint the cotangent of the scores too


def joint(program: ChunkProgram) -> ChunkProgram:
    """Join what can be joined."""
    while (found := next(_groups(program), None)) is not None:
        program = prune(_Joiner(program, found).run())
    return program


@dataclass(frozen=True, slots=True)
class _Group:
    """Scores, or all values of their adjoints, that differ in `members` only."""

    values: tuple[Ref, ...]
    members: tuple[_Member, ...]


def _groups(program: ChunkProgram) -> Iterator[_Group]:
    """Groups of two or more that may be joined."""
    values = program.values
    alike: dict[tuple[object, ...], list[Ref]] = {}
    for ref, value in enumerate(values):
        op = value.op
        if not isinstance(op, Scores | ScoresAdjoint):
            continue
        q = values[op.q]
        if len(q.dims) == 2 and all(values[r].varies for r in operands(op)):
            how = (type(op), op.k, op.a, op.row, op.column, op.over, op.factors, op.block)
            alike.setdefault((*how, q.dims, q.kind), []).append(ref)
    for refs in alike.values():
        members = tuple(sorted({_member(values[r]) for r in refs}))
        if len(members) > 1 and _may_join(program, refs, len(members)):
            yield _Group(tuple(refs), members)


def _member(value: Value) -> _Member:
    op = value.op
    assert isinstance(op, Scores | ScoresAdjoint)
    return (op.q, op.g) if isinstance(op, ScoresAdjoint) else (op.q,)


def _may_join(program: ChunkProgram, refs: Sequence[Ref], members: int) -> bool:
    """None is made of another, none is kept from running before the loop, sums are sums."""
    values = program.values
    below = made_of(values, (r for ref in refs for r in operands(values[ref].op)))
    if not below.isdisjoint(refs):
        return False
    parts = split(program)
    inside = set(parts.inside)
    looks = [r in inside or r in parts.after for r in refs]
    fed = made_of(values, (c.next for c in program.carries))
    if any(looks) and any(r in fed for r in refs) and not inside.issuperset(refs):
        return False
    uses = _Uses(program)
    for of in ("k", "a"):
        added = [r for r in refs if getattr(values[r].op, "of", "q") == of]
        if added and len(added) < members:
            return False
        if any(not uses.meet(added[0], other) for other in added[1:]):
            return False
    return True


class _Uses:
    """Who uses the values of a program."""

    def __init__(self, program: ChunkProgram) -> None:
        self.values = program.values
        self.users: dict[Ref, list[Ref]] = {}
        for ref, value in enumerate(program.values):
            for operand in operands(value.op):
                self.users.setdefault(operand, []).append(ref)
        self.ends = Counter([c.next for c in program.carries] + [s.value for s in program.stores])

    def meet(self, one: Ref, other: Ref) -> bool:
        """Whether two values are only ever added, in the end to each other."""
        return not set(self._sums(one)).isdisjoint(self._sums(other))

    def _sums(self, ref: Ref) -> Iterable[Ref]:
        dims = self.values[ref].dims
        while len(self.users.get(ref, ())) == 1 and not self.ends[ref]:
            (ref,) = self.users[ref]
            value = self.values[ref]
            if not (isinstance(value.op, Binary) and value.op.fn == "add" and value.dims == dims):
                return
            yield ref


class _Joiner:
    """Writes a program anew with one group joined."""

    def __init__(self, program: ChunkProgram, group: _Group) -> None:
        self.program, self.group = program, group
        self.several = f"#{len(group.members)}"
        dims = list(program.dims)
        if self.several not in {d.name for d in dims}:
            place = [d.name for d in dims].index(ROW) + 1
            dims.insert(place, Dim(self.several, size=len(group.members)))
        self.b = Builder(dims)
        self.moved: dict[Ref, Ref | None] = {}  # `None`: a part of a sum that another brings

    def run(self) -> ChunkProgram:
        """The new program."""
        values = self.program.values
        pending = list(range(len(values)))[::-1]
        joined = set(self.group.values)
        needs = [*dict.fromkeys(r for ref in joined for r in operands(values[ref].op))]
        while pending:
            ref = pending[-1]
            if ref in self.moved:
                pending.pop()
                continue
            mine = needs if ref in joined else operands(values[ref].op)
            missing = [r for r in mine if r not in self.moved]
            if missing:
                pending += missing
            elif ref in joined:
                self._join()
            else:
                self.moved[ref] = self._copy(values[ref])
        dims = tuple(self.b.dims)
        done = {old: new for old, new in self.moved.items() if new is not None}
        return replace(self.program, dims=dims).rewritten(self.b.values, done)

    def _copy(self, value: Value) -> Ref | None:
        refs = [self.moved[r] for r in operands(value.op)]
        left = [r for r in refs if r is not None]
        if len(left) < len(refs):  # a sum; of parts that another brings there is nothing left
            return left[0] if left else None
        op = with_operands(value.op, left)
        return self.b.emit(op, value.dims, value.kind, value.name, value.span, varies=value.varies)

    def _join(self) -> None:
        values, b = self.program.values, self.b
        places = {member: i for i, member in enumerate(self.group.members)}
        stacked = [self._stack(part) for part in zip(*self.group.members, strict=True)]
        found: dict[str, Ref] = {}
        for ref in self.group.values:
            value = values[ref]
            op, of = value.op, getattr(value.op, "of", "")
            assert isinstance(op, Scores | ScoresAdjoint)
            if of in found and of in ("k", "a"):
                self.moved[ref] = None
                continue
            if of not in found:
                own = replace(op, q=stacked[0], k=self._at(op.k), a=self._at(op.a))
                if isinstance(own, ScoresAdjoint):
                    own = replace(own, g=stacked[1])
                dims = value.dims if of in ("k", "a") else (*value.dims, self.several)
                found[of] = b.emit(own, dims, value.kind, varies=value.varies)
            place = places[_member(value)]
            whole = of in ("k", "a")
            self.moved[ref] = found[of] if whole else b.select(found[of], self.several, place)

    def _at(self, ref: Ref) -> Ref:
        new = self.moved[ref]
        assert new is not None
        return new

    def _stack(self, refs: Sequence[Ref]) -> Ref:
        return self.b.stack([self._at(r) for r in refs], self.several)
