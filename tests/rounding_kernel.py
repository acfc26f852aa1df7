"""A kernel that stores float32 numbers as bfloat16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _store(x, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """`x`, a power of two float32 numbers, as a kernel stores it in bfloat16."""
    out = torch.empty_like(x, dtype=torch.bfloat16)
    _store[(1,)](x, out, x.numel())
    return out
