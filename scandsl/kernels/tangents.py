"""Values that tell how they are differentiated, once that is done: they are what is known of them.

In: a chunk program whose backward has been derived.  Out: the same numbers, without `Tangent`.

Where a recurrence and its step are the same computation, what the recurrence found is taken: slopes
such as exp(s_{t-1} - s_t) then cancel over time but for the rounding of a loop over tokens.
"""

from __future__ import annotations

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Recur, Ref, StopGrad, Tangent, operands
from scandsl.ir.rewrite import with_operands
from scandsl.kernels.program import ChunkProgram
from scandsl.kernels.prune import prune


def without_tangents(program: ChunkProgram) -> ChunkProgram:
    """The program with what is known in the place of tangents; nothing is differentiated again."""
    if not any(isinstance(v.op, Tangent) for v in program.values):
        return program
    b = Builder(program.dims)
    found = {
        v.op.b: v.op.x
        for v in program.values
        if isinstance(v.op, Tangent) and isinstance(program.values[v.op.x].op, Recur)
        if v.op.of == "each"
    }
    moved: dict[Ref, Ref] = {}
    for ref, value in enumerate(program.values):
        if isinstance(value.op, Tangent | StopGrad):
            moved[ref] = moved[value.op.x]
            continue
        if found.get(ref, ref) < ref:
            moved[ref] = moved[found[ref]]
            continue
        op = with_operands(value.op, [moved[r] for r in operands(value.op)])
        moved[ref] = b.emit(op, value.dims, value.kind, value.name, value.span, value.varies)
    return prune(program.rewritten(b.values, moved))
