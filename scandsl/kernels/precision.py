"""Finds chunk programs whose products need more digits than 16-bit operands hold.

In: a forward `ChunkProgram`.  Out: a yes or no; the printers choose the types.

A mean weighted by the state, `o = (q · S) / (q · z)`, has the gradient `S (do/d) - z (o · do)/d`
with `d = q · z`: two vectors that nearly cancel, the more so the more even the weights are.  A
rounding of 2^-9 in each becomes an error of several per cent in their difference.

A norm of what a state gave, `o = norm(q · S)`, brings rows in which the terms nearly cancel to the
size of all others, and their roundings with them.

Vectors turned by angles that are summed over the rows of a chunk give gradients of the angles as
differences, too: what the queries from a row on have, less what the keys from there on have.
"""

from __future__ import annotations

from scandsl.ir.nodes import Binary, CumSum, Load, Normalize, Op, Ref, Unary, operands
from scandsl.kernels.program import ROW, ChunkProgram


def cancels(program: ChunkProgram) -> bool:
    """Whether quotients or norms of reads, or turned vectors, lose digits."""
    return _divides(program) or _turns(program)


def _turns(program: ChunkProgram) -> bool:
    """Whether something is turned by angles that are summed over rows."""
    sums: list[bool] = []
    for value in program.values:
        op = value.op
        if isinstance(op, Unary) and op.fn in ("sin", "cos") and sums[op.x]:
            return True
        own = isinstance(op, CumSum) and op.dim == ROW
        sums.append(own or any(sums[r] for r in operands(op)))
    return False


def _divides(program: ChunkProgram) -> bool:
    """Whether something is divided by what a carried state gave, or that is normalised."""
    carried = {c.name for c in program.carries}
    looks: list[bool] = []
    for value in program.values:
        op = value.op
        of_carry = isinstance(op, Load) and op.name in carried
        looks.append(of_carry or any(looks[r] for r in operands(op)))
        divisor = _divisor(op)
        if divisor is not None and looks[divisor]:
            return True
    return False


def _divisor(op: Op) -> Ref | None:
    """What is small where a value is large."""
    match op:
        case Binary("div", _, b):
            return b
        case Unary("rsqrt", x):
            return x
        case Normalize(fn, x) if fn != "softmax":
            return x
    return None
