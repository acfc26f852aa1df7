"""Cuts a chunk program around its loop.

In: a `ChunkProgram`.  Out: a `Split`.  What does not look at the carries can run for all chunks at
once before the loop; what looks at them without feeding them can run for all chunks at once after
it, from the carries kept at the start of every chunk.
"""

from __future__ import annotations

from scandsl.ir.nodes import Load, Ref, made_of, operands
from scandsl.kernels.program import ChunkProgram, Split


def split(program: ChunkProgram) -> Split:
    """The values before, inside and after the loop over chunks."""
    names = {c.name for c in program.carries}
    looks = [False] * len(program.values)
    for ref, value in enumerate(program.values):
        carried = isinstance(value.op, Load) and value.op.name in names
        looks[ref] = carried or any(looks[r] for r in operands(value.op))
    feeds = reach(program, [c.next for c in program.carries])
    refs = range(len(program.values))
    return Split(
        before=tuple(r for r in refs if not looks[r]),
        inside=tuple(r for r in refs if looks[r] and feeds[r]),
        after=tuple(r for r in refs if looks[r] and not feeds[r]),
    )


def reach(program: ChunkProgram, roots: list[Ref]) -> list[bool]:
    """Which values the roots are made of, the roots included."""
    found = made_of(program.values, roots)
    return [ref in found for ref in range(len(program.values))]
