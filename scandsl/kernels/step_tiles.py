"""How the kernels over time cut a step into tiles.

In: a `StepProgram`.  Out: the values that decide it, and for given sizes the tiles themselves, as
the generated functions that launch the kernels choose them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scandsl.ir.nodes import Contract, Expand, Iota, Load, Value, operands
from scandsl.kernels.step import HEAD, StepProgram

# Numbers of a value in one program: a thread of four warps has 32 of 4096, beside its adjoint 16.
LIMITS = {"forward": 4096, "backward": 2048}

# Numbers of a matrix in memory that a vector is multiplied by at a time: a thread of sixteen warps
# has 32 of 16384, beside those of the adjoint 16.
STRIPS = {"forward": 16384, "backward": 8192}


def widest(program: StepProgram) -> list[frozenset[str]]:
    """The dimensions of the widest values, sums about to be taken included."""
    found: set[frozenset[str]] = set()
    for value in program.values:
        dims = set(value.dims)
        if isinstance(value.op, Contract) and not is_product(program, value):
            dims |= set(value.op.over)
        found.add(frozenset(dims))
    places = {d.name: i for i, d in enumerate(program.dims)}
    return sorted(
        (x for x in found if not any(x < y for y in found)),
        key=lambda x: sorted(places[d] for d in x),
    )


def is_product(program: StepProgram, value: Value) -> bool:
    """Whether a sum is a product of matrices."""
    op = value.op
    assert isinstance(op, Contract)
    a, b = (set(program.values[r].dims) for r in (op.a, op.b))
    return len(a) == len(b) == 2 and len(op.over) == 1 and a != b


def matrix_dims(program: StepProgram) -> set[str]:
    """The dimensions that products of matrices have."""
    out: set[str] = set()
    for value in program.values:
        if isinstance(value.op, Contract) and is_product(program, value):
            out |= set(value.dims) | set(value.op.over)
    return out


def crowding(program: StepProgram) -> int:
    """How crowded registers are: values of full size that stay on chip, two of them free."""
    values = program.values
    tiles = widest(program)
    lead = {HEAD} if program.heads else set()
    planes = sum({*lead, *p.dims} in tiles for p in program.parts)
    read = {r for v in values if v.varies for r in operands(v.op)}
    steady = (values[r] for r in read if not values[r].varies)
    planes += sum(
        set(v.dims) in tiles and not isinstance(v.op, Load | Expand | Iota) for v in steady
    )
    weight = 1
    while 2 * weight < planes:
        weight *= 2
    return weight


def tile_sizes(program: StepProgram, sizes: Mapping[str, int], direction: str) -> dict[str, int]:
    """The tile of every dimension, powers of two; those that are not cut lie whole in one."""
    matrix = matrix_dims(program)
    out = {
        dim: max(16 if dim in matrix else 1, _power(size))
        for dim, size in sizes.items()
        if dim not in program.independent
    }
    limit = LIMITS[direction] // crowding(program)
    for dim in reversed(program.independent):
        others = max(math.prod(out.get(d, 1) for d in x) for x in widest(program) if dim in x)
        tile = max(1, min(_power(sizes[dim]), limit // max(others, 1)))
        out[dim] = max(16, tile) if dim in matrix else tile
    return out


def _power(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
