"""Where the padding of a tile may hold what is not finite.

In: an operation, how its operands stand.  Out: dimensions.  Loads put zeros into the padding, so
that a quotient, a logarithm or the inverse of a root may be infinite there although it is not where
data is; a factor of zero does not take that away: zero times infinity is NaN.
"""

from __future__ import annotations

from scandsl.ir.nodes import Binary, Op, Rename, Unary
from scandsl.kernels.program import COLUMN, ROW

Dims = frozenset[str]

_WILD = frozenset({"log", "rsqrt"})  # not finite at zero
_WILD_BELOW = frozenset({"sqrt", "log1p"})  # finite at zero, but not below
_WILD_ABOVE = frozenset({"exp", "expm1"})  # finite but for large numbers


def wild(op: Op, padded: Dims, given: Dims, zeros: Dims, shifted: Dims, divisor: Dims) -> Dims:
    """Dimensions along which the padding of the value may hold infinities or NaN.

    `padded` are those of the value that have a padding, `given` those along which an operand is
    wild, `zeros` those along which the operand of a function is zero, `shifted` those that not all
    of its terms have (as in `exp(x - largest)`), `divisor` those of the second operand.  Rows
    behind the end of a sequence repeat its last token: they are as finite as that.
    """
    padded -= {ROW, COLUMN}
    match op:
        case Unary(fn) if fn in _WILD:
            return padded
        case Unary(fn) if fn in _WILD_BELOW:
            return (given | padded - zeros) & padded
        case Unary(fn) if fn in _WILD_ABOVE:
            return (given | shifted - zeros) & padded
        case Binary("div" | "pow" | "mod"):
            return (given | divisor) & padded
        case Rename(_, pairs):
            return frozenset(dict(pairs).get(d, d) for d in given) & padded
        case _:
            return given & padded
