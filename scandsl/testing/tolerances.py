"""The one table of tolerances: relative RMS errors per dtype and kind of tensor.

In: a dtype, what a tensor is, the reference's own error.  Out: a bound.  No other module holds one.
The 16-bit rows are those which flash-linear-attention demands of itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch


class Role(Enum):
    """What a compared tensor is."""

    OUTPUT = "output"
    STATE = "final state"
    VECTOR = "gradient"
    GATE = "gate gradient"


@dataclass(frozen=True, slots=True)
class Row:
    """Bounds of one dtype; `own` multiplies the error that the reference makes in float32."""

    forward: float
    vector: float
    gate: float
    own: float


# Nothing wider tells what the reference errs in float64: roundings of the same formula are to those
# in float32 as their units, 2^-52 and 2^-23.
_WIDE = 2.0**-29
# Of a number that float32 gets wrong by more than this many times its size, no more is concluded.
_MOST_OWN = 10.0

TABLE: dict[torch.dtype, Row] = {
    torch.float64: Row(1e-9, 1e-9, 1e-9, 2.0 * _WIDE),
    torch.float32: Row(1e-5, 1e-5, 1e-5, 2.0),
    torch.bfloat16: Row(0.005, 0.008, 0.02, 0.0),
    torch.float16: Row(0.005, 0.008, 0.02, 0.0),
}

# A tensor whose true RMS is below the first number is zero by cancellation; it is then judged as
# if its RMS were the second.
ZERO = (1e-12, 1e-2)


def tolerance(dtype: torch.dtype, role: Role, own_error: float) -> float:
    """The bound for one tensor; `own_error` is that of the reference in float32."""
    row = TABLE[dtype]
    match role:
        case Role.OUTPUT | Role.STATE:
            base = row.forward
        case Role.VECTOR:
            base = row.vector
        case Role.GATE:
            base = row.gate
    if dtype is torch.float64:
        own_error = min(own_error, _MOST_OWN) if math.isfinite(own_error) else 0.0
    return max(base, row.own * own_error)
