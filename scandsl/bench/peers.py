"""What other packages offer for the same recurrence.

In: a recurrence, a shape, a device.  Out: callables that take our arguments in our order and give
our first output, with the conversions that their users would write.  Whether one computes the same
is judged before it is timed: a peer whose results are others is named, not timed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, elu, silu, softplus

from scandsl.ir.nodes import Recurrence

Call = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a peer may want to know of a call besides its tensors."""

    heads: int
    cu_seqlens: Tensor | None = None

    @property
    def packed(self) -> dict[str, Tensor]:
        """The keyword of packed sequences, as flash-linear-attention wants it."""
        return {} if self.cu_seqlens is None else {"cu_seqlens": self.cu_seqlens.long()}


@dataclass(frozen=True, slots=True)
class Peer:
    """An operation of a package; `scan` and `arguments` say which of our examples it computes."""

    name: str
    package: str
    scan: str
    arguments: tuple[str, ...]
    make: Callable[[Setup], Call]
    gpu: bool = True
    one_head: bool = False


def peers(recurrence: Recurrence, device: str, setup: Setup) -> list[Peer]:
    """Those installed that run on the device and are meant for this recurrence."""
    return [
        p
        for p in PEERS
        if (p.scan, p.arguments) == (recurrence.name, recurrence.arguments)
        and (device == "cuda" or not p.gpu)
        and not (p.one_head and (setup.heads != 1 or setup.cu_seqlens is not None))
        and importlib.util.find_spec(p.package) is not None
    ]


def _op(module: str, function: str) -> Callable[..., Any]:
    return getattr(importlib.import_module(module), function)  # type: ignore[no-any-return]


# ---------------------------------------------------------------- flash-linear-attention


def _fla(module: str, function: str, keywords: str = "") -> Callable[[Setup], Call]:
    """One whose arguments come as ours do: positions first, then these keywords."""
    names = keywords.split()

    def make(setup: Setup) -> Call:
        call = _op(f"fla.ops.{module}", function)

        def run(a: Sequence[Tensor]) -> Tensor:
            split = len(a) - len(names)
            named = dict(zip(names, a[split:], strict=True))
            found: Tensor = call(*a[:split], **named, **setup.packed)[0]
            return found

        return run

    return make


def _retention(setup: Setup) -> Call:
    """Its decays are fixed: those that ordinary data have."""
    call = _op("fla.ops.retention", "chunk_retention")
    return lambda a: call(a[0], a[1], a[2], **setup.packed)[0]


def _linear(setup: Setup) -> Call:
    call = _op("fla.ops.linear_attn", "chunk_linear_attn")
    return lambda a: call(
        elu(a[0]) + 1, elu(a[1]) + 1, a[2], scale=1.0, normalize=True, **setup.packed
    )[0]


def _rwkv6(setup: Setup) -> Call:
    call = _op("fla.ops.rwkv6", "chunk_rwkv6")
    return lambda a: call(*a[:4], a[4], scale=1.0, **setup.packed)[0]


def _rwkv7(setup: Setup) -> Call:
    call = _op("fla.ops.rwkv7", "chunk_rwkv7")
    return lambda a: call(*a, scale=1.0, **setup.packed)[0]


def _mamba2(setup: Setup) -> Call:
    call = _op("fla.ops.simple_gla", "chunk_simple_gla")

    def run(a: Sequence[Tensor]) -> Tensor:
        x, dt, b, c, a_log, d, dt_bias = a
        delta = softplus(dt.float() + dt_bias)
        write = (b * delta[..., None]).to(b.dtype)
        y = call(c, write, x, g=-delta * a_log.exp(), scale=1.0, **setup.packed)[0]
        out: Tensor = y + (d[:, None] * x).to(y.dtype)
        return out

    return run


# ---------------------------------------------------------------- others


def _selective_scan(_setup: Setup) -> Call:
    call = _op("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")

    def run(a: Sequence[Tensor]) -> Tensor:
        x, dt, b, c, a_log, d, dt_bias = a
        rows = (t.transpose(1, 2) for t in (x, dt))
        shared = (t[:, :, 0].transpose(1, 2) for t in (b, c))
        y: Tensor = call(*rows, -a_log.exp(), *shared, d, delta_bias=dt_bias, delta_softplus=True)
        return y.transpose(1, 2)

    return run


def _channels(x: Tensor) -> Tensor:
    """From [B, T, H, D] to [B, H D, T], as convolutions want it."""
    return x.flatten(2).transpose(1, 2)


def _causal_conv1d(_setup: Setup) -> Call:
    call = _op("causal_conv1d", "causal_conv1d_fn")

    def run(a: Sequence[Tensor]) -> Tensor:
        x, w = a
        y: Tensor = call(_channels(x), w.flip(-1).flatten(0, 1).to(x.dtype), activation="silu")
        return y.transpose(1, 2).reshape(x.shape)

    return run


def _conv1d(_setup: Setup) -> Call:
    def run(a: Sequence[Tensor]) -> Tensor:
        x, w = a
        kernel = w.flip(-1).flatten(0, 1)[:, None].to(x.dtype)
        width, channels = kernel.shape[-1], kernel.shape[0]
        y = conv1d(_channels(x), kernel, padding=width - 1, groups=channels)
        return silu(y[..., : x.shape[1]]).transpose(1, 2).reshape(x.shape)

    return run


def _lstm(_setup: Setup) -> Call:
    """Torch projects inputs: here by the identity, which costs it a product of `4 D` squared."""

    def run(a: Sequence[Tensor]) -> Tensor:
        x = torch.cat([t[:, :, 0] for t in a[:4]], -1)
        held = torch.cat([r[0] for r in a[4:]]).to(x.dtype)
        start = x.new_zeros(1, x.shape[0], held.shape[1])
        weights = [torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), held]
        y = torch.lstm(x, [start, start], weights, False, 1, 0.0, True, False, True)[0]
        return y[:, :, None]

    return run


def _gru(_setup: Setup) -> Call:
    """As `_lstm`; torch's update gate keeps the state where ours replaces it."""

    def run(a: Sequence[Tensor]) -> Tensor:
        z, r, c, on_z, on_r, on_c = a
        x = torch.cat([t[:, :, 0] for t in (r, -z, c)], -1)
        held = torch.cat([t[0] for t in (on_r, -on_z, on_c)]).to(x.dtype)
        start = x.new_zeros(1, x.shape[0], held.shape[1])
        weights = [torch.eye(x.shape[-1], dtype=x.dtype, device=x.device), held]
        y = torch.gru(x, start, weights, False, 1, 0.0, True, False, True)[0]
        return y[:, :, None]

    return run


def _of(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FLA, SSM = "flash-linear-attention", _of("x dt B C A_log D dt_bias")
PEERS = (
    Peer(FLA, "fla", "simple_gla", _of("q k v g"), _fla("simple_gla", "chunk_simple_gla")),
    Peer(FLA, "fla", "retnet", _of("q k v gamma"), _retention),
    Peer(FLA, "fla", "linear_attention", _of("q k v"), _linear),
    Peer(FLA, "fla", "mamba2", SSM, _mamba2),
    Peer(FLA, "fla", "gla", _of("q k v g"), _fla("gla", "chunk_gla")),
    Peer(FLA, "fla", "rwkv6", _of("r k v w u"), _rwkv6),
    Peer(FLA, "fla", "rwkv7", _of("r w k v a b"), _rwkv7),
    Peer(FLA, "fla", "delta_net", _of("q k v beta"), _fla("delta_rule", "chunk_delta_rule")),
    Peer(
        FLA, "fla", "gated_delta_rule", _of("q k v g beta"),
        _fla("gated_delta_rule", "chunk_gated_delta_rule", "g beta"),
    ),
    Peer(
        FLA, "fla", "kimi_delta_attention", _of("q k v g beta"),
        _fla("kda", "chunk_kda", "g beta"),
    ),
    Peer("mamba_ssm", "mamba_ssm", "mamba", SSM, _selective_scan),
    Peer("causal_conv1d", "causal_conv1d", "short_convolution", _of("x w"), _causal_conv1d),
    Peer("torch conv1d", "torch", "short_convolution", _of("x w"), _conv1d, gpu=False),
    Peer(
        "torch LSTM", "torch", "lstm", _of("xi xf xg xo Ri Rf Rg Ro"), _lstm,
        gpu=False, one_head=True,
    ),
    Peer("torch GRU", "torch", "gru", _of("xz xr xc Rz Rr Rc"), _gru, gpu=False, one_head=True),
)  # fmt: skip
