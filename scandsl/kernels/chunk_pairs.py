"""A chunk program in real numbers: complex values become pairs, complex tensors two tensors.

In: a recurrence and its forward `ChunkProgram`.  Out: declarations without complex tensors, and the
program that goes with them.  A tensor, state or output `z` that is complex becomes `z re`, `z im`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from scandsl.analysis.program import Form, Program
from scandsl.ir.nodes import Kind, Output, Recur, Recurrence, State, Tensor
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.pairs import parts_of, real_pairs
from scandsl.kernels.program import Carry, ChunkProgram, Store
from scandsl.kernels.simplify import simplify

Declared = TypeVar("Declared", Tensor, State, Output)


def real_chunks(program: Program, late: bool = False) -> tuple[Recurrence, ChunkProgram]:
    """Declarations and forward chunk program in real numbers; `late` as in `chunk_program`."""
    recurrence, forward = program.recurrence, chunk_program(program, late)
    if not any(v.kind is Kind.COMPLEX for v in forward.values) or runs_complex(forward):
        return recurrence, forward
    return real_declarations(recurrence), real_program(forward)


def runs(program: ChunkProgram) -> bool:
    """Whether some state runs along the rows entry by entry."""
    return any(isinstance(v.op, Recur) for v in program.values)


def by_tables(program: Program) -> bool:
    """Whether matrix states feed each other: what is left of one in another is tables of a chunk.

    They are too many for the registers of kernels that hold several matrix states as well.
    """
    joint = (c for c in program.components if len(c.states) > 1)
    return any(c.form is Form.CHUNK for c in joint)


def runs_complex(program: ChunkProgram) -> bool:
    """Whether complex states run along the rows entry by entry: they stay complex."""
    return any(isinstance(v.op, Recur) and v.kind is Kind.COMPLEX for v in program.values)


def real_declarations(recurrence: Recurrence) -> Recurrence:
    """The same recurrence with two real tensors for each complex one; its values are left."""
    arguments: list[str] = []
    kinds = {t.name: t.kind for t in (*recurrence.inputs, *recurrence.params)}
    for name in recurrence.arguments:
        arguments += parts_of(name, kinds[name])
    return replace(
        recurrence,
        inputs=tuple(_parts(recurrence.inputs)),
        params=tuple(_parts(recurrence.params)),
        states=tuple(_parts(recurrence.states)),
        outputs=tuple(_parts(recurrence.outputs)),
        arguments=tuple(arguments),
    )


def _parts(declared: Iterable[Declared]) -> Iterable[Declared]:
    """Each real one as it is, each complex one as its two parts."""
    for one in declared:
        names = parts_of(one.name, one.kind)
        if len(names) == 1:
            yield one
        else:
            yield from (replace(one, name=name, kind=Kind.REAL) for name in names)


def real_program(program: ChunkProgram) -> ChunkProgram:
    """The program in real numbers."""
    roots = [c.next for c in program.carries] + [s.value for s in program.stores]
    b, pairs = real_pairs(program.dims, program.values, roots)

    def parts(name: str, kind: Kind, ref: int) -> list[tuple[str, int]]:
        re, im = pairs[ref]
        names = parts_of(name, kind)
        if len(names) == 1:
            return [(name, re)]
        dims = program.values[ref].dims
        zero = b.zeros(dims) if im is None else b.expand(im, dims)
        return [(names[0], b.expand(re, dims)), (names[1], zero)]

    carries = [
        Carry(name, c.dims, Kind.REAL if c.kind is Kind.COMPLEX else c.kind, ref)
        for c in program.carries
        for name, ref in parts(c.name, c.kind, c.next)
    ]
    stores = [
        Store(name, s.dims, Kind.REAL if s.kind is Kind.COMPLEX else s.kind, ref)
        for s in program.stores
        for name, ref in parts(s.name, s.kind, s.value)
    ]
    found = replace(
        program,
        dims=tuple(b.dims),
        values=tuple(b.values),
        carries=tuple(carries),
        stores=tuple(stores),
    )
    return simplify(found)
