"""Drops the values that no store and no carry needs, keeping the order of the rest."""

from __future__ import annotations

from dataclasses import replace

from scandsl.ir.nodes import Ref, Value, made_of, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ChunkProgram


def prune(program: ChunkProgram) -> ChunkProgram:
    """The same program without dead values; refs are renumbered."""
    roots = [s.value for s in program.stores] + [c.next for c in program.carries]
    needed = made_of(program.values, roots)
    renumbered: dict[Ref, Ref] = {}
    values: list[Value] = []
    for ref, value in enumerate(program.values):
        if ref in needed:
            renumbered[ref] = len(values)
            refs = [renumbered[r] for r in operands(value.op)]
            values.append(replace(value, op=with_operands(value.op, refs)))
    return program.rewritten(values, renumbered)
