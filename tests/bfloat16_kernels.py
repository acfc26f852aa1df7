"""Kernels that do one thing with bfloat16 each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _store(x, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i))


@triton.jit
def _multiply(a, b, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.arange(0, N)
    at = i[:, None] * N + i[None, :]
    tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))


def rounded(x: torch.Tensor) -> torch.Tensor:
    """`x`, a power of two float32 numbers, as a kernel stores it in bfloat16."""
    out = torch.empty_like(x, dtype=torch.bfloat16)
    _store[(1,)](x, out, x.numel())
    return out


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The product in float32 of square matrices in bfloat16 of 16 rows or more."""
    out = torch.empty_like(a, dtype=torch.float32)
    _multiply[(1,)](a, b, out, a.shape[0])
    return out
