"""How the decays of one state are carried over stretches of steps.

In: the events of a state and the proved ranges of all values.  Out: which decays go together, and
over how many rows they may be taken to one reference.

A decay along a dimension weighs the products of queries with earlier keys.  It can be divided over
both, `(q_i E_i) · (k_j / E_j)` with `E` the product of the decays since a reference row, where
neither factor leaves the numbers of float32: with the reference in the middle of B rows and
logarithms of at most L per step, both stay within `exp(±B L / 2)`, and what is discarded above the
diagonal within `exp(B L)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.analysis.program import Decay, Event, Probe
from scandsl.ir.nodes import Dims, Range

REACH = 88.0
"""The largest exponent of float32, rounded down: ln(3.4e38) = 88.7."""

LEAST, MOST = 4, 16
"""Shorter blocks save nothing over halving; longer ones cost digits in gradients of the decays."""


@dataclass(frozen=True, slots=True)
class Sides:
    """The decays of a state along the contracted dimension, the free one, and along none."""

    key: tuple[Decay, ...]
    value: tuple[Decay, ...]
    plain: tuple[Decay, ...]


def sides(events: Sequence[Event], contracted: Dims) -> Sides:
    """The decays of a state by what they differ along.

    Those along none go with others where there are any, first with the contracted dimension; but
    they stay apart where the others have logarithms and they have not.  Beside probes they do not
    go with the free dimension: between a probe and its update no column may decay by itself.
    """
    found = [e for e in events if isinstance(e, Decay)]
    key = [e for e in found if set(e.dims) & set(contracted)]
    value = [e for e in found if e.dims and e not in key]
    scalar = [e for e in found if not e.dims]
    joined: list[Decay] = []
    probed = any(isinstance(e, Probe) for e in events)
    if key or (value and not probed):
        logs = all(e.log is not None for e in key or value)
        joined = [e for e in scalar if e.log is not None or not logs]
    plain = tuple(e for e in scalar if e not in joined)
    if key:
        return Sides((*key, *joined), tuple(value), plain)
    return Sides((), (*value, *joined), plain)


def bound(decays: Sequence[Decay], ranges: Sequence[Range]) -> float:
    """The largest size of the sum of the logarithms of a step's decays; infinite if unknown."""
    low = high = 0.0
    for decay in decays:
        if decay.log is None:
            return math.inf
        low += ranges[decay.log].low
        high += ranges[decay.log].high
    return max(-low, high, 0.0)


def block_rows(decays: Sequence[Decay], ranges: Sequence[Range]) -> int:
    """Over how many rows decays may be taken to one reference: a power of two, or 0."""
    size = bound(decays, ranges)
    rows = MOST
    while rows >= LEAST and not rows * size <= REACH:
        rows //= 2
    return rows if rows >= LEAST else 0
