"""Where the padding of tiles may not be finite; kernels of such steps are in `regressions`."""

from __future__ import annotations

import pytest

from scandsl.ir.nodes import Binary, Op, Rename, Unary
from scandsl.kernels.program import ROW
from scandsl.render.padding import wild

K, V, BOTH, NONE = frozenset("K"), frozenset("V"), frozenset("KV"), frozenset[str]()


@pytest.mark.parametrize(
    ("op", "given", "zeros", "shifted", "found"),
    [
        (Unary("log", 0), NONE, BOTH, NONE, BOTH),
        (Unary("rsqrt", 0), NONE, BOTH, NONE, BOTH),
        (Unary("sqrt", 0), NONE, K, NONE, V),
        (Unary("log1p", 0), NONE, BOTH, NONE, NONE),
        (Unary("exp", 0), NONE, NONE, NONE, NONE),
        (Unary("exp", 0), NONE, NONE, K, K),
        (Unary("exp", 0), NONE, K, K, NONE),
        (Unary("tanh", 0), K, NONE, NONE, K),
        (Binary("div", 0, 1), NONE, NONE, NONE, V),
        (Binary("mul", 0, 1), K, NONE, NONE, K),
        (Rename(0, (("K", "V"),)), K, NONE, NONE, V),
    ],
    ids=str,
)
def test_padding_that_is_not_finite(
    op: Op, given: frozenset[str], zeros: frozenset[str], shifted: frozenset[str],
    found: frozenset[str],
) -> None:  # fmt: skip
    divisor = V  # the second operand has that dimension
    assert wild(op, BOTH | {ROW}, given, zeros, shifted, divisor) == found
