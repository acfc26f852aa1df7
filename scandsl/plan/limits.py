"""Sizes of tiles and chunks on the chip: the only numbers about hardware in the compiler.

A tile of float32 sums of 128 x 128 fills the registers of eight warps; operands of 64 x 128 in
bfloat16 take 16 KiB of shared memory.  Measured choices belong here as well.
"""

from __future__ import annotations

SHARED = {
    "sm_80": 163 << 10, "sm_86": 99 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10,
    "sm_100": 227 << 10, "sm_103": 227 << 10, "sm_120": 99 << 10, "gfx90a": 64 << 10,
    "gfx942": 64 << 10, "gfx950": 160 << 10,
}  # fmt: skip
"""Bytes of shared memory that one program may have, by architecture."""

TENSOR_COLUMNS = 512
"""Columns of the memory for sums of products that one program may have, where there is one."""

LOOP_TILE = 64
"""Largest tile of a dimension that the kernels over time cut over the grid."""

DEEP_TILE = 16
"""The same where states have three dimensions, in all kernels."""

CHUNK_TILE = 128
"""The same for the kernels that run for all chunks at once."""

PIECE = 2**17
"""Numbers of a tile of all chunks that tensor operations on a CPU compute at once."""

ROWS = 64
"""Tokens in a chunk of tensor operations where recurrences run along the rows."""

ROWS_PIECE = 2**18
"""`PIECE` there, for the largest value of a row; fewer than four chunks are taken one by one."""


def torch_chunk(state: int) -> int:
    """Tokens in a chunk of tensor operations, for states of so many numbers."""
    return 32 if state <= 4096 else 64


def block(size: int, limit: int = 1 << 20) -> int:
    """The padded size of a dimension on chip: a power of two, 16 at least."""
    return min(max(16, 1 << (size - 1).bit_length()), limit)


def chunk_size(widest: int, item: int) -> int:
    """Tokens in a chunk on the GPU, for vectors of a width and operands of `item` bytes."""
    width = widest * (1 if item == 2 else 2)
    return 64 if width <= 128 else 32 if width <= 256 else 16
