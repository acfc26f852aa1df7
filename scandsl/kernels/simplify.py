"""Cheaper forms of the sums in a chunk program.

In: a `ChunkProgram`.  Out: an equal one.  Two rules:

* factors that a sum does not run over leave it:  Σ_v (s_i x_iv) y_vk = s_i Σ_v x_iv y_vk;
* a sum of three is taken in the order of which half is there already:
  Σ_v a_iv (Σ_k q_ik S_kv) = Σ_k q_ik (Σ_v a_iv S_kv), if the program has the sum on the right.

The second drops a matrix product wherever the gradient of a row's factor is wanted beside that of
the row itself.
"""

from __future__ import annotations

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Binary, Contract, Dims, Ref, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ChunkProgram
from scandsl.kernels.prune import prune
from scandsl.kernels.separate import separated


def simplify(program: ChunkProgram) -> ChunkProgram:
    """Apply the rules and drop what they leave unused."""
    return _reordered(prune(_pulled(separated(program))))


def _pulled(program: ChunkProgram) -> ChunkProgram:
    """The first rule."""
    b = Builder(program.dims)
    moved: dict[Ref, Ref] = {}
    for ref, value in enumerate(program.values):
        op = with_operands(value.op, [moved[r] for r in operands(value.op)])
        if isinstance(op, Contract):
            moved[ref] = _outside(b, op)
        else:
            moved[ref] = b.emit(
                op, value.dims, value.kind, value.name, value.span, varies=value.varies
            )
    return program.rewritten(b.values, moved)


def _outside(b: Builder, op: Contract) -> Ref:
    left, a = _factors(b, op.a, op.over, b.dims_of(op.b))
    right, c = _factors(b, op.b, op.over, b.dims_of(op.a))
    out = b.contract(a, c, op.over)
    for factor in (*left, *right):
        out = b.mul(out, factor)
    return out


def _factors(b: Builder, ref: Ref, over: Dims, other: Dims) -> tuple[list[Ref], Ref]:
    """Factors without the summed dimensions, and what is left, which keeps its dimensions."""
    found: list[Ref] = []
    while True:
        op = b.values[ref].op
        if not (isinstance(op, Binary) and op.fn == "mul"):
            return found, ref
        for factor, rest in ((op.a, op.b), (op.b, op.a)):
            free = not set(b.dims_of(factor)) & set(over)
            if free and b.dims_of(rest) == b.dims_of(ref) and len(b.dims_of(ref)) > 1:
                found.append(factor)
                ref = rest
                break
        else:
            return found, ref


def _reordered(program: ChunkProgram) -> ChunkProgram:
    """The second rule."""
    values = program.values
    uses = [0] * len(values)
    for value in values:
        for operand in operands(value.op):
            uses[operand] += 1
    for root in [c.next for c in program.carries] + [s.value for s in program.stores]:
        uses[root] += 1
    known: dict[tuple[frozenset[Ref], Dims], Ref] = {}
    for ref, value in enumerate(values):
        if isinstance(value.op, Contract):
            known[frozenset((value.op.a, value.op.b)), value.op.over] = ref
    changed: dict[Ref, Contract] = {}
    for ref, value in enumerate(values):
        if isinstance(value.op, Contract):
            better = _other_order(program, ref, uses, known)
            if better is not None:
                changed[ref] = better
    if not changed:
        return program
    return prune(_sorted(program, changed))


def _other_order(
    program: ChunkProgram,
    ref: Ref,
    uses: list[int],
    known: dict[tuple[frozenset[Ref], Dims], Ref],
) -> Contract | None:
    values = program.values
    outer = values[ref].op
    assert isinstance(outer, Contract)
    for a, inner_ref in ((outer.a, outer.b), (outer.b, outer.a)):
        inner = values[inner_ref].op
        if not isinstance(inner, Contract) or uses[inner_ref] > 1:
            continue
        for q, s in ((inner.a, inner.b), (inner.b, inner.a)):
            found = known.get((frozenset((a, s)), outer.over))
            sums = set(values[q].dims) & set(outer.over) or set(values[a].dims) & set(inner.over)
            if found is not None and not sums and found != ref:
                return Contract(q, found, inner.over)
    return None


def _sorted(program: ChunkProgram, changed: dict[Ref, Contract]) -> ChunkProgram:
    """The program with some values replaced, operands before users again."""
    b = Builder(program.dims)
    moved: dict[Ref, Ref] = {}

    def place(ref: Ref) -> None:
        pending = [ref]
        while pending:
            top = pending[-1]
            if top in moved:
                pending.pop()
                continue
            op = changed.get(top, program.values[top].op)
            missing = [r for r in operands(op) if r not in moved]
            if missing:
                pending.extend(missing)
                continue
            pending.pop()
            value = program.values[top]
            new = with_operands(op, [moved[r] for r in operands(op)])
            moved[top] = b.emit(
                new, value.dims, value.kind, value.name, value.span, varies=value.varies
            )

    for root in [c.next for c in program.carries] + [s.value for s in program.stores]:
        place(root)
    return program.rewritten(b.values, moved)
