"""Hand-written loops over time: what a user of torch writes without a compiler.  Frozen.

In: the tensors of the example of the same name, in its order.  Out: its output.  Inputs are taken
apart with `unbind` and autograd does the rest.  `LOOPS` are tuned: what can be done for all tokens
at once is done before the loop, and a token costs as few torch calls as it can.  `PLAIN` are the
equations as they are read, one line each.  These functions are what speed is measured against: they
do not change when the compiler does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def _columns(x: Tensor) -> tuple[Tensor, ...]:
    """`[B, T, H, D]` as T columns `[B, H, D, 1]`."""
    return x.unsqueeze(-1).unbind(1)


def _rows(x: Tensor) -> tuple[Tensor, ...]:
    """`[B, T, H, D]` as T rows `[B, H, 1, D]`."""
    return x.unsqueeze(-2).unbind(1)


def _matrix_state(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    batch, _, heads, size = k.shape
    return q.new_zeros(batch, heads, size, v.shape[-1])


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """S += phi(k) v,  z += phi(k),  o = phi(q) S / max(phi(q) z, 1e-6),  phi = elu + 1."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = _matrix_state(q, k, v)
    total = torch.zeros_like(k[:, 0]).unsqueeze(-1)
    out = []
    for q_t, k_t, v_t in zip(_rows(q), _columns(k), _rows(v), strict=True):
        state = torch.addcmul(state, k_t, v_t)
        total = total + k_t
        out.append((q_t @ state) / (q_t @ total).clamp(min=1e-6))
    return torch.stack(out, 1).squeeze(-2)


def retnet(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """S = gamma S + k v,  o = scale q S."""
    state = _matrix_state(q, k, v)
    decay = gamma[:, None, None]
    rows = _rows(q * k.shape[-1] ** -0.5)
    out = []
    for q_t, k_t, v_t in zip(rows, _columns(k), _rows(v), strict=True):
        state = torch.addcmul(decay * state, k_t, v_t)
        out.append(q_t @ state)
    return torch.stack(out, 1).squeeze(-2)


def simple_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """S = exp(g) S + k v,  o = scale q S."""
    state = _matrix_state(q, k, v)
    decays = g.exp()[..., None, None].unbind(1)
    rows = _rows(q * k.shape[-1] ** -0.5)
    out = []
    for q_t, k_t, v_t, decay in zip(rows, _columns(k), _rows(v), decays, strict=True):
        state = torch.addcmul(decay * state, k_t, v_t)
        out.append(q_t @ state)
    return torch.stack(out, 1).squeeze(-2)


def mamba2(
    x: Tensor, dt: Tensor, b: Tensor, c: Tensor, a_log: Tensor, d: Tensor, dt_bias: Tensor
) -> Tensor:
    """S = exp(-delta exp(A_log)) S + delta B x,  y = C S + D x,  delta = softplus(dt + dt_bias)."""
    delta = F.softplus(dt + dt_bias)
    decays = torch.exp(-delta * a_log.exp())[..., None, None].unbind(1)
    state = _matrix_state(c, b, x)
    written = _columns(b * delta[..., None])
    out = []
    for c_t, b_t, x_t, decay in zip(_rows(c), written, _rows(x), decays, strict=True):
        state = torch.addcmul(decay * state, b_t, x_t)
        out.append(c_t @ state)
    return torch.stack(out, 1).squeeze(-2) + d[:, None] * x


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """S = exp(g) S,  S += beta k (v - k S),  o = scale q S."""
    state = _matrix_state(q, k, v)
    decays = g.exp()[..., None, None].unbind(1)
    rows = _rows(q * k.shape[-1] ** -0.5)
    written = _columns(k * beta[..., None])
    out = []
    for q_t, k_t, w_t, v_t, decay in zip(rows, _rows(k), written, _rows(v), decays, strict=True):
        state = decay * state
        state = torch.addcmul(state, w_t, v_t - k_t @ state)
        out.append(q_t @ state)
    return torch.stack(out, 1).squeeze(-2)


def kimi_delta_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """S = diag(exp(g)) S,  S += beta k (v - k S),  o = scale q S."""
    state = _matrix_state(q, k, v)
    decays = _columns(g.exp())
    rows = _rows(q * k.shape[-1] ** -0.5)
    written = _columns(k * beta[..., None])
    out = []
    for q_t, k_t, w_t, v_t, decay in zip(rows, _rows(k), written, _rows(v), decays, strict=True):
        state = decay * state
        state = torch.addcmul(state, w_t, v_t - k_t @ state)
        out.append(q_t @ state)
    return torch.stack(out, 1).squeeze(-2)


def mamba(
    x: Tensor, dt: Tensor, b: Tensor, c: Tensor, a_log: Tensor, d: Tensor, dt_bias: Tensor
) -> Tensor:
    """State h = exp(-delta exp(A_log)) h + delta B x,  y = C h + D x;  delta as in `mamba2`."""
    delta = F.softplus(dt + dt_bias)
    decays = torch.exp(-delta[..., None] * a_log.exp())
    written = (delta * x)[..., None] * b
    state = torch.zeros_like(decays[:, 0])
    out = []
    for c_t, w_t, a_t in zip(c.unbind(1), written.unbind(1), decays.unbind(1), strict=True):
        state = torch.addcmul(w_t, a_t, state)
        out.append((c_t * state).sum(-1))
    return torch.stack(out, 1) + d * x


def lru(
    x: Tensor, nu: Tensor, theta: Tensor, br: Tensor, bi: Tensor, cr: Tensor, ci: Tensor
) -> Tensor:
    """State h = exp(-exp(nu) + i theta) h + B x,  y = Re(C h), B and C complex matrices."""
    decay = torch.exp(torch.complex(-nu.exp(), theta))
    parts = [torch.einsum("hnp,bthp->bthn", b, x) for b in (br, bi)]
    state = torch.zeros_like(torch.complex(*parts)[:, 0])
    states = []
    for u_t in torch.complex(*parts).unbind(1):
        state = torch.addcmul(u_t, decay, state)
        states.append(state)
    return torch.einsum("hpn,bthn->bthp", torch.complex(cr, ci), torch.stack(states, 1)).real


LOOPS: dict[str, Callable[..., Tensor]] = {
    "linear_attention": linear_attention,
    "retnet": retnet,
    "simple_gla": simple_gla,
    "mamba2": mamba2,
    "gated_delta_rule": gated_delta_rule,
    "kimi_delta_attention": kimi_delta_attention,
    "mamba": mamba,
    "lru": lru,
}


# ------------------------------------------------------------ the same, written down as it is read


def _read(q: Tensor, state: Tensor) -> Tensor:
    return torch.einsum("bhk,bhkv->bhv", q, state)


def _outer(k: Tensor, v: Tensor) -> Tensor:
    return k[..., :, None] * v[..., None, :]


def plain_simple_gla(q: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
    """The step of `simple_gla`, one line an equation."""
    state = _matrix_state(q, k, v)
    out = []
    for q_t, k_t, v_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), g.unbind(1), strict=True):
        state = g_t.exp()[..., None, None] * state + _outer(k_t, v_t)
        out.append(k.shape[-1] ** -0.5 * _read(q_t, state))
    return torch.stack(out, 1)


def plain_retnet(q: Tensor, k: Tensor, v: Tensor, gamma: Tensor) -> Tensor:
    """The step of `retnet`, one line an equation."""
    state = _matrix_state(q, k, v)
    out = []
    for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
        state = gamma[:, None, None] * state + _outer(k_t, v_t)
        out.append(k.shape[-1] ** -0.5 * _read(q_t, state))
    return torch.stack(out, 1)


def plain_linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The step of `linear_attention`, one line an equation."""
    state = _matrix_state(q, k, v)
    total = torch.zeros_like(k[:, 0])
    out = []
    for q_t, k_t, v_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
        q_t, k_t = F.elu(q_t) + 1, F.elu(k_t) + 1
        state = state + _outer(k_t, v_t)
        total = total + k_t
        norm = (q_t * total).sum(-1, keepdim=True).clamp(min=1e-6)
        out.append(_read(q_t, state) / norm)
    return torch.stack(out, 1)


def plain_mamba2(
    x: Tensor, dt: Tensor, b: Tensor, c: Tensor, a_log: Tensor, d: Tensor, dt_bias: Tensor
) -> Tensor:
    """The step of `mamba2`, one line an equation."""
    state = _matrix_state(c, b, x)
    out = []
    tokens = zip(x.unbind(1), dt.unbind(1), b.unbind(1), c.unbind(1), strict=True)
    for x_t, dt_t, b_t, c_t in tokens:
        delta = F.softplus(dt_t + dt_bias)
        decay = torch.exp(-delta * a_log.exp())
        state = decay[..., None, None] * state + _outer(delta[..., None] * b_t, x_t)
        out.append(_read(c_t, state) + d[:, None] * x_t)
    return torch.stack(out, 1)


def plain_gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The step of `gated_delta_rule`, one line an equation."""
    state = _matrix_state(q, k, v)
    out = []
    tokens = zip(q.unbind(1), k.unbind(1), v.unbind(1), g.unbind(1), beta.unbind(1), strict=True)
    for q_t, k_t, v_t, g_t, beta_t in tokens:
        state = g_t.exp()[..., None, None] * state
        state = state + _outer(beta_t[..., None] * k_t, v_t - _read(k_t, state))
        out.append(k.shape[-1] ** -0.5 * _read(q_t, state))
    return torch.stack(out, 1)


def plain_kimi_delta_attention(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The step of `kimi_delta_attention`, one line an equation."""
    state = _matrix_state(q, k, v)
    out = []
    tokens = zip(q.unbind(1), k.unbind(1), v.unbind(1), g.unbind(1), beta.unbind(1), strict=True)
    for q_t, k_t, v_t, g_t, beta_t in tokens:
        state = g_t.exp()[..., None] * state
        state = state + _outer(beta_t[..., None] * k_t, v_t - _read(k_t, state))
        out.append(k.shape[-1] ** -0.5 * _read(q_t, state))
    return torch.stack(out, 1)


def plain_mamba(
    x: Tensor, dt: Tensor, b: Tensor, c: Tensor, a_log: Tensor, d: Tensor, dt_bias: Tensor
) -> Tensor:
    """The step of `mamba`, one line an equation."""
    state = x.new_zeros(x.shape[0], x.shape[2], a_log.shape[-1])
    out = []
    tokens = zip(x.unbind(1), dt.unbind(1), b.unbind(1), c.unbind(1), strict=True)
    for x_t, dt_t, b_t, c_t in tokens:
        delta = F.softplus(dt_t + dt_bias)
        decay = torch.exp(-delta[..., None] * a_log.exp())
        state = decay * state + (delta * x_t)[..., None] * b_t
        out.append((c_t * state).sum(-1) + d * x_t)
    return torch.stack(out, 1)


def plain_lru(
    x: Tensor, nu: Tensor, theta: Tensor, br: Tensor, bi: Tensor, cr: Tensor, ci: Tensor
) -> Tensor:
    """The step of `lru`, one line an equation."""
    decay = torch.exp(torch.complex(-nu.exp(), theta))
    b, c = torch.complex(br, bi), torch.complex(cr, ci)
    state = torch.zeros_like(decay).expand(x.shape[0], *decay.shape)
    out = []
    for x_t in x.unbind(1):
        state = decay * state + torch.einsum("hnp,bhp->bhn", b, x_t.to(b.dtype))
        out.append(torch.einsum("hpn,bhn->bhp", c, state).real)
    return torch.stack(out, 1)


PLAIN: dict[str, Callable[..., Tensor]] = {
    "linear_attention": plain_linear_attention,
    "retnet": plain_retnet,
    "simple_gla": plain_simple_gla,
    "mamba2": plain_mamba2,
    "gated_delta_rule": plain_gated_delta_rule,
    "kimi_delta_attention": plain_kimi_delta_attention,
    "mamba": plain_mamba,
    "lru": plain_lru,
}


# ---------------------------------------------------------------- convolutions


def _by_fft(kernel: Tensor, u: Tensor) -> Tensor:
    """The causal convolution of `[T, H, D]` with each sequence of `[B, T, H, D]`."""
    length = u.shape[1]
    seen = torch.fft.rfft(kernel, 2 * length, dim=0) * torch.fft.rfft(u, 2 * length, dim=1)
    return torch.fft.irfft(seen, 2 * length, dim=1)[:, :length]


def convolved_s4(
    u: Tensor, log_dt: Tensor, l_log: Tensor, l_im: Tensor, p_re: Tensor, p_im: Tensor,
    b_re: Tensor, b_im: Tensor, c_re: Tensor, c_im: Tensor, skip: Tensor,
) -> Tensor:  # fmt: skip
    """The example `s4` as an S4 layer does it: a Krylov sequence by doubling, then an FFT."""
    dt, p = log_dt.exp()[..., None, None], torch.complex(p_re, p_im)
    b, c = torch.complex(b_re, b_im), torch.complex(c_re, c_im)
    a = torch.diag_embed(torch.complex(-l_log.exp(), l_im)) - p[..., None] * p.conj()[..., None, :]
    one = torch.eye(p.shape[-1], dtype=p.dtype)
    right = torch.cat((one + dt / 2 * a, dt * b[..., None]), -1)
    found = torch.linalg.solve(one - dt / 2 * a, right)
    power, states = found[..., :-1], found[..., -1:]
    while states.shape[-1] < u.shape[1]:
        states = torch.cat((states, power @ states), -1)
        power = power @ power
    kernel = (c[..., None, :] @ states[..., : u.shape[1]])[..., 0, :].real
    return _by_fft(kernel.movedim(-1, 0), u) + skip * u


def convolved_short(x: Tensor, w: Tensor) -> Tensor:
    """The example `short_convolution` by torch's depthwise convolution, one head."""
    channels = F.pad(x[:, :, 0].transpose(1, 2), (w.shape[2] - 1, 0))
    y = F.conv1d(channels, w[0].flip(1)[:, None], groups=w.shape[1])
    return F.silu(y).transpose(1, 2)[:, :, None]


CONVOLUTIONS: dict[str, Callable[..., Tensor]] = {
    "s4": convolved_s4,
    "short_convolution": convolved_short,
}
"""Time-invariant layers as convolutions, written by hand."""
