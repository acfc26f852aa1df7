"""Fewer passes over large tiles: the order in which the factors of a product are multiplied.

In: a `ChunkProgram`.  Out: an equal one, in which every product of several factors

* takes a product of two of them that the program has anyway, and
* multiplies the small factors (numbers, one per row) before the large ones.

Worth it where every operation is a pass over memory: for tensor operations, not inside a kernel.
"""

from __future__ import annotations

from collections import Counter
from itertools import combinations

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Kind, Ref, Value, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ChunkProgram
from scandsl.kernels.prune import prune


def gathered(program: ChunkProgram) -> ChunkProgram:
    """Reorder the factors of all products and drop what that leaves unused."""
    chains = _Chains(program)
    b = Builder(program.dims)
    moved: dict[Ref, Ref] = {}
    pending = list(range(len(program.values)))[::-1]
    while pending:
        ref = pending[-1]
        value = program.values[ref]
        if ref in moved:
            pending.pop()
            continue
        factors = chains.factors(ref)
        missing = [r for r in factors or operands(value.op) if r not in moved]
        if missing:
            pending += missing
            continue
        pending.pop()
        if factors:
            moved[ref] = _product(b, [moved[f] for f in factors])
        else:
            op = with_operands(value.op, [moved[r] for r in operands(value.op)])
            moved[ref] = b.emit(
                op, value.dims, value.kind, value.name, value.span, varies=value.varies
            )
    return prune(program.rewritten(b.values, moved))


def _product(b: Builder, factors: list[Ref]) -> Ref:
    first, *rest = sorted(factors, key=lambda r: len(b.dims_of(r)))
    for factor in rest:
        first = b.mul(first, factor)
    return first


MOST = 16  # factors of a product that are looked through pair by pair


class _Chains:
    """The products of a program as lists of factors."""

    def __init__(self, program: ChunkProgram) -> None:
        self.values = program.values
        self.uses = Counter(r for v in program.values for r in operands(v.op))
        self.uses.update([c.next for c in program.carries])
        self.uses.update([s.value for s in program.stores])
        self.pairs: dict[frozenset[Ref], Ref] = {}
        for ref, value in enumerate(program.values):
            if _multiplies(value) and self.uses[ref]:
                self.pairs.setdefault(frozenset(operands(value.op)), ref)

    def factors(self, ref: Ref) -> list[Ref]:
        """The factors of a product of three or more, as far as nothing else needs its parts."""
        found, inner = self._flat(ref)
        if not 3 <= len(found) <= MOST:
            return []
        for pair in combinations(found, 2):
            known = self.pairs.get(frozenset(pair))
            if known is not None and known not in inner:
                for factor in pair:
                    found.remove(factor)
                return [*found, known]
        return found

    def _flat(self, ref: Ref) -> tuple[list[Ref], set[Ref]]:
        """The factors of a value, and the products that only it is made of."""
        if not _multiplies(self.values[ref]):
            return [], set()
        found: list[Ref] = []
        parts: set[Ref] = set()
        for operand in operands(self.values[ref].op):
            alone = self.uses[operand] == 1 and not self.values[operand].name
            factors, inner = self._flat(operand) if alone else ([], set())
            found += factors or [operand]
            parts |= inner | ({operand} if factors else set())
        return found, parts


def _multiplies(value: Value) -> bool:
    return isinstance(value.op, Binary) and value.op.fn == "mul" and value.kind is Kind.REAL
