"""Data as a model in training would give it.

In: a recurrence, sizes, a shape.  Out: tensors by name.  `scandsl.testing.data` draws hard data to
compare with; here they are ordinary, so that sums over long sequences stay of ordinary size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from scandsl.ir.nodes import Kind, Recurrence
from scandsl.ir.nodes import Tensor as Declared


def sizes_for(recurrence: Recurrence, key: int, value: int) -> dict[str, int]:
    """Sizes of the open dimensions: rows of the first matrix state are keys, all else values."""
    matrix = next((s.dims for s in recurrence.states if len(s.dims) == 2), ())
    return {
        d.name: key if d.name in matrix[:1] else value
        for d in recurrence.dims
        if d.size is None and d.base is None
    }


def all_sizes(recurrence: Recurrence, given: Mapping[str, int]) -> dict[str, int]:
    """The size of every dimension: as given, as declared, or as the one that it copies."""
    known = {d.name: d.size for d in recurrence.dims if d.size is not None} | dict(given)
    return {d.name: known[d.base or d.name] for d in recurrence.dims}


def realistic(
    recurrence: Recurrence,
    sizes: Mapping[str, int],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    seed: int = 0,
    own_heads: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Tensors in the order of arguments; batch, time and heads as in `shape`, params in float32.

    Vectors have unit expected norm, log-decays are those of a sigmoid, constant decays RetNet's.
    `own_heads` names tensors with another number of heads.
    """
    generator = torch.Generator(device).manual_seed(seed)
    inputs = {x.name for x in recurrence.inputs}
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    full_sizes = all_sizes(recurrence, sizes)
    out = {}
    for name in recurrence.arguments:
        heads = (own_heads or {}).get(name, shape[2])
        lead = (*shape[:2], heads) if name in inputs else (heads,)
        full = (*lead, *(full_sizes[d] for d in declared[name].dims))
        parts = [
            _shaped(declared[name], torch.randn(full, generator=generator, device=device), lead)
            for _ in range(1 + (declared[name].kind is Kind.COMPLEX))
        ]
        found = parts[0].to(dtype if name in inputs else wide)
        if len(parts) == 2:
            found = torch.complex(*(x.to(wide) for x in parts)) / math.sqrt(2)
        out[name] = found
    return out


def _shaped(declared: Declared, x: Tensor, lead: tuple[int, ...]) -> Tensor:
    """Normal numbers brought into the declared range."""
    r, varies = declared.range, len(lead) > 1
    if declared.unit:
        return 0.9 * normalize(x, dim=-1)
    if r is None:
        width = math.prod(x.shape[len(lead) :])
        if varies:
            return x / math.sqrt(width)
        return 0.5 * x / math.sqrt(x.shape[-1] if len(declared.dims) > 1 else 1)
    if r.low == -math.inf and r.high <= 0:
        return r.high + logsigmoid(1.5 * x + 3)
    if (r.low, r.high) == (0.0, 1.0):
        if varies:
            return x.sigmoid()
        heads = torch.arange(x.shape[0], device=x.device)
        return (1 - 2.0 ** (-5.0 - heads)).reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape).clone()
    low = r.low if math.isfinite(r.low) else -1.0
    high = r.high if math.isfinite(r.high) else low + 2.0
    return low + (high - low) * x.sigmoid()
