"""Finds chunk programs whose products need more digits than 16-bit operands hold.

In: a forward `ChunkProgram`.  Out: a yes or no; the printers choose the types.

A mean weighted by the state, `o = (q · S) / (q · z)`, has the gradient `S (do/d) - z (o · do)/d`
with `d = q · z`: two vectors that nearly cancel, the more so the more even the weights are.  A
rounding of 2^-9 in each becomes an error of several per cent in their difference.
"""

from __future__ import annotations

from scandsl.ir.nodes import Binary, Load, operands
from scandsl.kernels.program import ChunkProgram


def cancels(program: ChunkProgram) -> bool:
    """Whether something is divided by what a carried state gave."""
    carried = {c.name for c in program.carries}
    looks: list[bool] = []
    for value in program.values:
        op = value.op
        of_carry = isinstance(op, Load) and op.name in carried
        looks.append(of_carry or any(looks[r] for r in operands(op)))
        if isinstance(op, Binary) and op.fn == "div" and looks[op.b]:
            return True
    return False
