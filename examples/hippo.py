"""HiPPO matrices and their discretisation, in plain torch: what S4 and its relatives start from.

Gu, Dao, Ermon, Rudra, Re 2020, "HiPPO: Recurrent Memory with Optimal Polynomial Projections",
arXiv:2008.07669, for `x' = A x + B u`; the diagonal plus low-rank form: Gu, Goel, Re 2021,
arXiv:2111.00396.
"""

from __future__ import annotations

import torch
from torch import Tensor


def legs(size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """HiPPO-LegS, the whole past on scaled Legendre polynomials: `A` [N, N] and `B` [N]."""
    n = torch.arange(size, dtype=dtype)
    root = (2 * n + 1).sqrt()
    a = -torch.tril(root[:, None] * root, -1) - torch.diag(n + 1)
    return a, root


def legt(size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """HiPPO-LegT, a sliding window of length one on Legendre polynomials."""
    n = torch.arange(size, dtype=dtype)
    root = (2 * n + 1).sqrt()
    sign = torch.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1.0).to(dtype)
    return -root[:, None] * sign * root, root


def zero_order_hold(a: Tensor, b: Tensor, dt: float | Tensor) -> tuple[Tensor, Tensor]:
    """`x_t = A x_{t-1} + B u_t` for an input that is held over each step of length `dt`."""
    size = a.shape[-1]
    step = torch.as_tensor(dt, dtype=a.dtype)[..., None, None]
    whole = a.new_zeros((*torch.broadcast_shapes(a.shape[:-2], step.shape[:-2]), *[size + 1] * 2))
    whole[..., :size, :size] = step * a
    whole[..., :size, size] = step[..., 0] * b
    found = torch.linalg.matrix_exp(whole)
    return found[..., :size, :size], found[..., :size, size]


def bilinear(a: Tensor, b: Tensor, dt: float | Tensor) -> tuple[Tensor, Tensor]:
    """The same by the bilinear (trapezoidal) rule."""
    step = torch.as_tensor(dt, dtype=a.dtype)[..., None, None]
    one = torch.eye(a.shape[-1], dtype=a.dtype)
    left = one - step / 2 * a
    moved = torch.linalg.solve(left, one + step / 2 * a)
    return moved, torch.linalg.solve(left, step * b[..., None])[..., 0]


def diagonal_plus_low_rank(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """HiPPO-LegS as `V (L - P P*) V*`: complex `L`, `P`, `V* B` [N] and the unitary `V` [N, N]."""
    a, b = legs(size)
    p = (torch.arange(size, dtype=a.dtype) + 0.5).sqrt()
    normal = a + p[:, None] * p  # a half of the identity less, and skew-symmetric
    skew = normal + 0.5 * torch.eye(size, dtype=a.dtype)
    turn, v = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    back = v.mH
    return torch.complex(torch.full_like(turn, -0.5), turn), back @ (p + 0j), back @ (b + 0j), v
