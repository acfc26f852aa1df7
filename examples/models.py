"""Small sequence models around generated scans.

In: the module that `scandsl compile` wrote, and sizes.  Out: a model that reads a whole sequence at
once (`forward`) or one token at a time (`step`), with the same numbers.  Nothing here knows the
compiler: the generated file is all that a model needs.

A mixer mixes tokens along time: called with `[B, T, D]` it gives `[B, T, D]`; its `step` takes
`[B, D]` and what it carries, and gives both anew.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class LinearAttention(nn.Module):
    """Projections around `linear_attention.scan`: the plain layer to compare with."""

    def __init__(self, scans: ModuleType, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.scan = scans.LinearAttention()
        self.project = nn.Linear(width, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)

    def arguments(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, `[..., H, K]` each; for a batch of sequences or of tokens."""
        return self.project(x).unflatten(-1, (3, self.heads, self.size)).unbind(-3)

    def forward(self, x: Tensor) -> Tensor:
        """All tokens at once, in chunks."""
        o, _ = self.scan(*self.arguments(x))
        return self.out(o.flatten(-2))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token; `None` starts."""
        o, state = self.scan.step(*self.arguments(x), state=state)
        return self.out(o.flatten(-2)), state


class Mamba2(nn.Module):
    """Projections and an output gate around `mamba2.scan`; B and C serve all heads."""

    def __init__(self, scans: ModuleType, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        rates = torch.linspace(1.0, 8.0, heads).log()
        steps = torch.expm1(torch.full((heads,), 0.05)).log()  # softplus of it is 0.05
        self.scan = scans.Mamba2(heads, A_log=rates, D=torch.ones(heads), dt_bias=steps)
        self.project = nn.Linear(width, 2 * heads * size + 2 * size + heads, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)

    def arguments(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """What the scan takes, and the gate on what it gives."""
        inner = self.heads * self.size
        parts = (inner, self.heads, self.size, self.size, inner)
        values, dt, b, c, gate = self.project(x).split(parts, -1)
        heads = values.unflatten(-1, (self.heads, self.size))
        return (heads, dt, b.unsqueeze(-2), c.unsqueeze(-2)), functional.silu(gate)

    def forward(self, x: Tensor) -> Tensor:
        """All tokens at once, in chunks."""
        given, gate = self.arguments(x)
        y, _ = self.scan(*given)
        return self.out(y.flatten(-2) * gate)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token; `None` starts."""
        given, gate = self.arguments(x)
        y, state = self.scan.step(*given, state=state)
        return self.out(y.flatten(-2) * gate), state


class DeltaNet(nn.Module):
    """Projections, unit keys and a strength around `delta_net.scan`."""

    def __init__(self, scans: ModuleType, width: int, heads: int, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.scan = scans.DeltaNet()
        self.project = nn.Linear(width, 3 * heads * size, bias=False)
        self.strength = nn.Linear(width, heads)
        self.out = nn.Linear(heads * size, width, bias=False)

    def arguments(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key, value and strength."""
        q, k, v = self.project(x).unflatten(-1, (3, self.heads, self.size)).unbind(-3)
        return q, functional.normalize(k, dim=-1), v, torch.sigmoid(self.strength(x))

    def forward(self, x: Tensor) -> Tensor:
        """All tokens of a batch."""
        o, _ = self.scan(*self.arguments(x))
        return self.out(o.flatten(-2))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token; `None` starts."""
        o, state = self.scan.step(*self.arguments(x), state=state)
        return self.out(o.flatten(-2)), state


class Block(nn.Module):
    """A mixer along time, then a small network per token, each behind a norm, each added."""

    def __init__(self, mixer: nn.Module, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mixer = mixer
        self.per_token = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """All tokens at once."""
        x = x + self.mixer(self.norms[0](x))
        return x + self.per_token(self.norms[1](x))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One token and what the mixer carries."""
        mixed, state = self.mixer.step(self.norms[0](x), state)
        x = x + mixed
        return x + self.per_token(self.norms[1](x)), state


class SequenceModel(nn.Module):
    """Tokens to logits at every token: summed embeddings, blocks, a norm, a linear readout.

    A token is a tuple of numbers, one for each of `vocabularies`.  `pooled` reads the mean of all
    tokens so far beside the last one.
    """

    def __init__(
        self,
        mixers: list[nn.Module],
        vocabularies: tuple[int, ...],
        width: int,
        classes: int,
        pooled: bool,
    ) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in vocabularies)
        self.blocks = nn.ModuleList(Block(mixer, width) for mixer in mixers)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(2 * width if pooled else width, classes)
        self.pooled = pooled

    def embed(self, tokens: Tensor) -> Tensor:
        """`[..., number of vocabularies] → [..., D]`."""
        parts = [table(tokens[..., i]) for i, table in enumerate(self.embeddings)]
        return torch.stack(parts).sum(0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits `[B, T, C]` of all tokens `[B, T, n]` at once: the parallel form."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.pooled:
            count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
            x = torch.cat([x, x.cumsum(1) / count[:, None]], -1)
        return self.readout(x)

    def step(self, token: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits `[B, C]` behind one token `[B, n]`, and the state to go on from."""
        states, total, count = state or ([None] * len(self.blocks), 0.0, 0)
        x = self.embed(token)
        after = []
        for block, carried in zip(self.blocks, states, strict=True):
            x, carried = block.step(x, carried)
            after.append(carried)
        x = self.norm(x)
        total, count = total + x, count + 1
        read = torch.cat([x, total / count], -1) if self.pooled else x
        return self.readout(read), (after, total, count)


def decode(model: SequenceModel, tokens: Tensor) -> Tensor:
    """The logits of `model(tokens)`, one token after the other through `step`."""
    state, found = None, []
    for token in tokens.unbind(1):
        logits, state = model.step(token, state)
        found.append(logits)
    return torch.stack(found, 1)
