"""The heads of a chunk program as one more dimension of its values.

In: a `ChunkProgram`, and the dimensions that shall come before the heads.  Out: an equal program,
in which all that differs from head to head has the dimension `HEAD`, and dimensions are in another
order.  Tensor operations work on the entries that lie side by side: where rows are summed entry by
entry over a dimension of the state, as  y_i = Σ_n c_in h_in,  it is the heads that should.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scandsl.ir.nodes import Contract, Dim, Dims, Expand, Input, Load, Param, Ref, Value, operands
from scandsl.kernels.program import HEAD, POSITION, ChunkProgram


def summed(program: ChunkProgram) -> Dims:
    """The dimensions of states that rows are summed over entry by entry."""
    carried = {d for c in program.carries for d in c.dims}
    found: set[str] = set()
    for value in program.values:
        if isinstance(value.op, Contract) and not is_product(program.values, value.op):
            found |= carried & set(value.op.over)
    return tuple(d.name for d in program.dims if d.name in found)


def is_product(values: Sequence[Value], op: Contract) -> bool:
    """Whether a sum is a product of matrices: each side has dimensions of its own."""
    a, b = (set(values[r].dims) - set(op.over) - {HEAD} for r in (op.a, op.b))
    return bool(a - b and b - a)


def with_heads(program: ChunkProgram, before: Dims) -> ChunkProgram:
    """The program with the heads behind the dimensions `before` (and behind rows)."""
    names = [d.name for d in program.dims]
    inner = [d for d in names if d not in before and not d.startswith("#")]
    rows = [d for d in names if d.startswith("#")]
    order = {d: i for i, d in enumerate((*rows, *before, HEAD, *inner))}
    by_name = {d.name: d for d in (*program.dims, Dim(HEAD))}
    values: list[Value] = []
    for value in program.values:
        heads = (HEAD,) if _differs(values, value) else ()
        dims = tuple(sorted({*value.dims, *heads}, key=order.__getitem__))
        values.append(replace(value, dims=dims))
    same: dict[Ref, Ref] = {r: r for r in range(len(values))}
    for ref in dict.fromkeys(s.value for s in program.stores):  # results are there for each head
        value = values[ref]
        if HEAD not in value.dims:
            dims = tuple(sorted({*value.dims, HEAD}, key=order.__getitem__))
            values.append(replace(value, op=Expand(ref), dims=dims))
            same[ref] = len(values) - 1
    return replace(
        program,
        dims=tuple(by_name[d] for d in order),
        values=tuple(values),
        stores=tuple(replace(s, value=same[s.value]) for s in program.stores),
    )


def _differs(values: Sequence[Value], value: Value) -> bool:
    """Whether a value differs from head to head."""
    if isinstance(value.op, Input | Param):
        return True
    if isinstance(value.op, Load):
        return value.op.name != POSITION
    return any(HEAD in values[r].dims for r in operands(value.op))
