"""Chunked forms written by hand in torch, from the equations of the papers.  Frozen.

In: the tensors of the example of the same name, in its order.  Out: its output.  All chunks are
computed at once but for the state that they hand on; autograd does the rest.  T has to be a
multiple of the chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CHUNK = 64


def _chunks(x: Tensor, size: int) -> Tensor:
    """`[B, T, H, ...]` as `[B, H, N, C, ...]`."""
    return x.unflatten(1, (-1, size)).movedim(3, 1).contiguous()


def _tokens(x: Tensor) -> Tensor:
    """`[B, H, N, C, ...]` as `[B, T, H, ...]`."""
    return x.movedim(1, 3).flatten(1, 2)


def _lower(size: int, diagonal: int = 0) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool).tril(diagonal)


def _ratios(g: Tensor) -> tuple[Tensor, Tensor]:
    """Running sums of log-decays, and the decay between any two rows of a chunk."""
    total = g.cumsum(-1)
    between = total[..., :, None] - total[..., None, :]
    return total, between.masked_fill(~_lower(g.shape[-1]), -torch.inf).exp()


def simple_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """Dao and Gu 2024 (Mamba-2), section 6: block decomposition of a semiseparable matrix."""
    q, k, v, g = (_chunks(x, CHUNK) for x in (q * k.shape[-1] ** -0.5, k, v, g))
    total, ratios = _ratios(g)
    inside = (q @ k.mT * ratios) @ v
    left = (k * (total[..., -1:] - total).exp()[..., None]).mT @ v
    state = torch.zeros_like(left[:, :, 0])
    starts = []
    for term, decay in zip(left.unbind(2), total[..., -1].exp().unbind(2), strict=True):
        starts.append(state)
        state = decay[..., None, None] * state + term
    return _tokens(inside + (q * total.exp()[..., None]) @ torch.stack(starts, 2))


def retnet(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """Sun et al. 2023 (RetNet), eq. 7: the chunkwise representation."""
    g = gamma.log().expand(q.shape[:3])
    return simple_gla(q, k, v, g)


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """Yang et al. 2025 (Gated DeltaNet), section 3.3: the extended WY representation."""
    q, k, v, g, beta = (_chunks(x, CHUNK) for x in (q * k.shape[-1] ** -0.5, k, v, g, beta))
    total, ratios = _ratios(g)
    below = (beta[..., None] * (k @ k.mT) * ratios).masked_fill(~_lower(CHUNK, -1), 0.0)
    eye = torch.eye(CHUNK, dtype=k.dtype)
    inverse = torch.linalg.solve_triangular(eye + below, eye, upper=False, unitriangular=True)
    values = inverse @ (beta[..., None] * v)
    keys = inverse @ ((beta * total.exp())[..., None] * k)
    return _delta(q, k, values, keys, total[..., None], q @ k.mT * ratios)


def _delta(
    q: Tensor, k: Tensor, values: Tensor, keys: Tensor, total: Tensor, scores: Tensor
) -> Tensor:
    """The pass over chunks of a delta rule in WY form; `total` is `[..., C, K or 1]`."""
    read = q * total.exp()
    written = k * (total[..., -1:, :] - total).exp()
    decays = total[..., -1, :].exp()[..., None]
    state = k.new_zeros(*k.shape[:2], k.shape[-1], values.shape[-1])
    out = []
    for n in range(k.shape[2]):
        u = values[:, :, n] - keys[:, :, n] @ state
        out.append(read[:, :, n] @ state + scores[:, :, n] @ u)
        state = decays[:, :, n] * state + written[:, :, n].mT @ u
    return _tokens(torch.stack(out, 2))


def kimi_delta_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """Kimi Team 2025 (Kimi Linear), section 3: chunks of the delta rule with a decay per channel.

    The decay between two rows is the exponential of a difference, taken column by column, so that
    it holds for every decay.
    """
    q, k, v, g, beta = (_chunks(x, CHUNK) for x in (q * k.shape[-1] ** -0.5, k, v, g, beta))
    total = g.cumsum(-2)
    rows = torch.arange(CHUNK)
    overlap, scores = [], []
    for j in range(CHUNK):
        between = (total - total[..., j : j + 1, :]).masked_fill(rows[:, None] < j, -torch.inf)
        decayed = between.exp() * k[..., j : j + 1, :]
        overlap.append((k * decayed).sum(-1))
        scores.append((q * decayed).sum(-1))
    below = beta[..., None] * torch.stack(overlap, -1).masked_fill(~_lower(CHUNK, -1), 0.0)
    eye = torch.eye(CHUNK, dtype=k.dtype)
    inverse = torch.linalg.solve_triangular(eye + below, eye, upper=False, unitriangular=True)
    values = inverse @ (beta[..., None] * v)
    keys = inverse @ (beta[..., None] * total.exp() * k)
    return _delta(q, k, values, keys, total, torch.stack(scores, -1))


CHUNKED: dict[str, Callable[..., Tensor]] = {
    "retnet": retnet,
    "simple_gla": simple_gla,
    "gated_delta_rule": gated_delta_rule,
    "kimi_delta_attention": kimi_delta_attention,
}
