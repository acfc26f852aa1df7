"""Recurrences written by hand in numpy, from their papers: one sequence, one head, step by step.

In: `a`, the inputs `[T, *dims]` and params `[*dims]` by name; `s`, the states by name, which a loop
updates in place.  Out: the list of every output over time.  No torch, and nothing of scandsl.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace as Names

import numpy as np

Array = np.ndarray
Outputs = tuple[list, ...]
exp = np.exp
outer = np.outer


def sigmoid(x):
    return 1 / (1 + exp(-x))


def softplus(x):
    return np.log(1 + exp(x))


def silu(x):
    return x * sigmoid(x)


def phi(x):
    return np.where(x > 0, x, exp(x) - 1) + 1


def normalised(x):
    return x / np.sqrt((x * x).sum() + 1e-6)


def layernorm(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def normal_cdf(x):
    return np.array([(1 + math.erf(e / math.sqrt(2))) / 2 for e in x])


def normal_pdf(x):
    return exp(-x * x / 2) / math.sqrt(2 * math.pi)


def gelu(x):
    return x * normal_cdf(x)


def steps(x):
    return range(len(x))


def longer(past, x):
    """A sequence with what came before it (`past` is newest first)."""
    return np.concatenate([past[::-1], x])


def newest(history, depth):
    return history[::-1][:depth].copy()


def convolved(weights, past, x):
    """`y_t = sum_j w_j x_{t-j}`; the width is the last axis of the weights."""
    width = weights.shape[-1]
    history = longer(past, x)
    out = []
    for t in steps(x):
        here = t + len(past)
        out.append(sum(weights[..., j] * history[here - j] for j in range(width)))
    return out, newest(history, width - 1)


# ---------------------------------------------------------------- decay only


def linear_attention(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        q, k = phi(a.q[t]), phi(a.k[t])
        s.S = s.S + outer(k, a.v[t])
        s.z = s.z + k
        o.append(s.S.T @ q / max(s.z @ q, 1e-6))
    return (o,)


def based(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        q, k, v = a.q[t], a.k[t], a.v[t]
        s.S0 = s.S0 + v
        s.S1 = s.S1 + outer(k, v)
        s.S2 = s.S2 + np.multiply.outer(outer(k, k), v) / 2
        s.z1 = s.z1 + k
        s.z2 = s.z2 + outer(k, k) / 2
        s.t = s.t + 1
        above = s.S0 + s.S1.T @ q
        below = s.t + s.z1 @ q + q @ s.z2 @ q
        for i in steps(q):
            for j in steps(q):
                above = above + q[i] * q[j] * s.S2[i, j]
        o.append(above / below)
    return (o,)


def decayed(a, s, decay, q, k, v, scale=1.0) -> Outputs:
    """`S_t = Diag(decay_t) S_{t-1} + k_t v_t^T`, `o_t = scale S_t^T q_t`."""
    o = []
    for t in steps(q):
        d = np.broadcast_to(decay(t), s.S.shape[:1])
        s.S = np.diag(d) @ s.S + outer(k[t], v[t])
        o.append(scale * s.S.T @ q[t])
    return (o,)


def retnet(a, s):
    return decayed(a, s, lambda t: a.gamma, a.q, a.k, a.v, a.q.shape[1] ** -0.5)


def xpos_retention(a, s):
    """Complex numbers written out: the rotation turns the pair (real, imaginary)."""
    c, d = np.cos(a.theta), np.sin(a.theta)
    re, im = s.S.real.copy(), s.S.imag.copy()
    o = []
    for t in steps(a.q_re):
        re, im = c[:, None] * re - d[:, None] * im, d[:, None] * re + c[:, None] * im
        re = a.gamma * re + outer(a.k_re[t], a.v[t])
        im = a.gamma * im - outer(a.k_im[t], a.v[t])
        o.append((a.q_re[t] @ re - a.q_im[t] @ im) / math.sqrt(2 * len(c)))
    s.S = re + 1j * im
    return (o,)


def gla(a, s):
    return decayed(a, s, lambda t: exp(a.g[t]), a.q, a.k, a.v, a.q.shape[1] ** -0.5)


simple_gla = gla


def hgrn2(a, s):
    return decayed(a, s, lambda t: a.f[t], a.q, 1 - a.f, a.i)


def mamba2(a, s) -> Outputs:
    d = softplus(a.dt + a.dt_bias)
    k = d[:, None] * a.B
    (o,) = decayed(a, s, lambda t: exp(-exp(a.A_log) * d[t]), a.C, k, a.x)
    return ([y + a.D * x for y, x in zip(o, a.x, strict=True)],)


def rwkv6(a, s) -> Outputs:
    o = []
    for t in steps(a.r):
        kv = outer(a.k[t], a.v[t])
        o.append((s.S + np.diag(a.u) @ kv).T @ a.r[t])
        s.S = np.diag(exp(a.w[t])) @ s.S + kv
    return (o,)


def gated_slot_attention(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        f = a.alpha[t]
        s.Ks = np.diag(f) @ s.Ks + outer(1 - f, a.k[t])
        s.Vs = np.diag(f) @ s.Vs + outer(1 - f, a.v[t])
        e = exp(s.Ks @ a.q[t] * a.q.shape[1] ** -0.5)
        o.append(s.Vs.T @ (e / e.sum()))
    return (o,)


def mlstm(a, s) -> Outputs:
    """The memory, not stabilised; `m` only scales what is returned."""
    C, n = s.C * exp(s.m), s.n * exp(s.m)
    o = []
    for t in steps(a.q):
        i, f = exp(a.i[t]), sigmoid(a.f[t])
        C = f * C + i * outer(a.k[t], a.v[t])
        n = f * n + i * a.k[t]
        s.m = max(np.log(f) + s.m, a.i[t])
        o.append(C.T @ a.q[t] / max(abs(n @ a.q[t]), 1))
    s.C, s.n = C * exp(-s.m), n * exp(-s.m)
    return (o,)


# ---------------------------------------------------------------- updates of low rank


def mlstm_sigmoid(a, s) -> Outputs:
    h = []
    for t in steps(a.q):
        kv = outer(a.k[t], a.v[t])
        s.C = s.C / (1 + exp(-a.f[t])) + kv / (1 + exp(-a.i[t]))
        h.append(s.C.T @ (a.q[t] / math.sqrt(len(a.q[t]))))
    return (h,)


def delta(S, k, v, beta):
    return (np.eye(len(k)) - beta * outer(k, k)) @ S + beta * outer(k, v)


def delta_net(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        s.S = delta(s.S, a.k[t], a.v[t], a.beta[t])
        o.append(s.S.T @ a.q[t] * a.q.shape[1] ** -0.5)
    return (o,)


def gated_delta_rule(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        decay = np.broadcast_to(exp(a.g[t]), a.k[t].shape)
        s.S = delta(np.diag(decay) @ s.S, a.k[t], a.v[t], a.beta[t])
        o.append(s.S.T @ a.q[t] * a.q.shape[1] ** -0.5)
    return (o,)


kimi_delta_attention = gated_delta_rule


def conv_gated_delta_rule(a, s) -> Outputs:
    q, s.q_lag = convolved(a.wq, s.q_lag, a.q)
    k, s.k_lag = convolved(a.wk, s.k_lag, a.k)
    v, s.v_lag = convolved(a.wv, s.v_lag, a.v)
    o = []
    for t in steps(a.q):
        s.S = s.S * exp(-exp(a.A_log) * softplus(a.a[t] + a.dt_bias))
        s.S = delta(s.S, normalised(silu(k[t])), silu(v[t]), sigmoid(a.b[t]))
        o.append(s.S.T @ normalised(silu(q[t])) * a.q.shape[1] ** -0.5)
    return (o,)


def gated_delta_net(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        gate, beta = (1 + exp(a.a[t] + a.dt_bias)) ** -exp(a.A_log), sigmoid(a.b[t])
        k = normalised(a.k[t])
        transition = gate * (np.eye(len(k)) - beta * outer(k, k))
        s.S = transition @ s.S + beta * outer(k, a.v[t])
        o.append(s.S.T @ normalised(a.q[t]) / math.sqrt(len(k)))
    return (o,)


def delta_net_block(a, s) -> Outputs:
    q, s.q_lag = convolved(a.wq, s.q_lag, a.q)
    k, s.k_lag = convolved(a.wk, s.k_lag, a.k)
    v, s.v_lag = convolved(a.wv, s.v_lag, a.v)
    o = []
    for t in steps(a.q):
        s.S = delta(s.S, normalised(silu(k[t])), silu(v[t]), sigmoid(a.b[t]))
        read = s.S.T @ normalised(silu(q[t])) / math.sqrt(a.q.shape[1])
        o.append(a.gain * read / np.sqrt((read * read).mean() + 1e-6))
    return (o,)


def delta_product(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        s.S = exp(a.g[t]) * s.S
        for r in steps(a.k[t]):
            s.S = delta(s.S, a.k[t, r], a.v[t, r], a.beta[t, r])
        o.append(s.S.T @ a.q[t])
    return (o,)


def rwkv7(a, s) -> Outputs:
    o = []
    for t in steps(a.r):
        transition = np.diag(exp(a.w[t])) + outer(a.b[t], a.a[t])
        s.S = transition @ s.S + outer(a.k[t], a.v[t])
        o.append(s.S.T @ a.r[t])
    return (o,)


def gated_oja_rule(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        s.S = s.S @ np.diag(exp(a.g[t]))
        s.S = s.S + a.beta[t] * outer(a.k[t] - s.S @ a.v[t], a.v[t])
        o.append(s.S.T @ a.q[t] * a.q.shape[1] ** -0.5)
    return (o,)


# ---------------------------------------------------------------- elementwise and complex states


def mamba(a, s) -> Outputs:
    y = []
    for t in steps(a.x):
        d = softplus(a.dt[t] + a.dt_bias)
        s.h = exp(-d * exp(a.A_log)) * s.h + d * a.B[t] * a.x[t]
        y.append(a.C[t] @ s.h + a.D * a.x[t])
    return (y,)


def mamba3(a, s) -> Outputs:
    br, bi, x = s.Br_lag[0], s.Bi_lag[0], s.x_lag[0]
    y = []
    for t in steps(a.x):
        d = softplus(a.dt[t] + a.dt_bias)
        decay = exp(d * (-exp(a.A_log) + 1j * a.theta[t]))
        now = outer(a.Br[t] + 1j * a.Bi[t], a.x[t])
        old = (1 - a.lam[t]) * d * decay[:, None] * outer(br + 1j * bi, x)
        s.h = np.diag(decay) @ s.h + old + a.lam[t] * d * now
        br, bi, x = a.Br[t], a.Bi[t], a.x[t]
        y.append(((a.Cr[t] + 1j * a.Ci[t]) @ s.h).real + a.D * a.x[t])
    s.Br_lag, s.Bi_lag, s.x_lag = br[None], bi[None], x[None]
    return (y,)


def exponential_moving_average(a, s) -> Outputs:
    y = []
    for t in steps(a.x):
        s.m = a.alpha * a.x[t] + (1 - a.alpha) * s.m
        y.append(s.m)
    return (y,)


def min_gru(a, s) -> Outputs:
    y = []
    for t in steps(a.xz):
        z = sigmoid(a.xz[t])
        s.h = (1 - z) * s.h + z * a.xc[t]
        y.append(s.h)
    return (y,)


def min_lstm(a, s) -> Outputs:
    y = []
    for t in steps(a.xf):
        f, i = sigmoid(a.xf[t]), sigmoid(a.xi[t])
        s.h = (f * s.h + i * a.xc[t]) / (f + i)
        y.append(s.h)
    return (y,)


def mega_moving_average(a, s) -> Outputs:
    y = []
    for t in steps(a.x):
        u = a.beta * a.x[t][:, None]
        s.h = a.alpha * u + s.h - a.alpha * a.delta * s.h
        y.append((a.eta * s.h).sum(1))
    return (y,)


def rg_lru(a, s) -> Outputs:
    y = []
    for t in steps(a.x):
        decay = sigmoid(-a.L) ** (8 * a.r[t])
        s.h = decay * s.h + np.sqrt(1 - decay**2) * a.i[t] * a.x[t]
        y.append(s.h)
    return (y,)


def hgrn(a, s) -> Outputs:
    real, imaginary = [], []
    for t in steps(a.f):
        s.h = a.f[t] * exp(1j * a.theta) * s.h + (1 - a.f[t]) * (a.c_re[t] + 1j * a.c_im[t])
        real.append(s.h.real)
        imaginary.append(s.h.imag)
    return real, imaginary


def lru(a, s) -> Outputs:
    decay = exp(-exp(a.nu) + 1j * a.theta)
    y = []
    for t in steps(a.x):
        s.h = decay * s.h + (a.Br + 1j * a.Bi) @ a.x[t]
        y.append(((a.Cr + 1j * a.Ci) @ s.h).real)
    return (y,)


def s4d(a, s) -> Outputs:
    A = -exp(a.A_log) + 1j * a.A_im
    decay = exp(exp(a.log_dt)[:, None] * A)
    y = []
    for t in steps(a.u):
        s.h = decay * s.h + (decay - 1) / A * a.u[t][:, None]
        C = a.C_re + 1j * a.C_im
        y.append(2 * (C * s.h).sum(1).real + a.skip * a.u[t])
    return (y,)


def s5(a, s) -> Outputs:
    L = -exp(a.L_log) + 1j * a.L_im
    decay = exp(exp(a.log_dt) * L)
    y = []
    for t in steps(a.u):
        s.h = decay * s.h + (decay - 1) / L * ((a.B_re + 1j * a.B_im) @ a.u[t])
        y.append(2 * ((a.C_re + 1j * a.C_im) @ s.h).real + a.D * a.u[t])
    return (y,)


def h3(a, s) -> Outputs:
    shifted, s.k_lag = convolved(a.shift, s.k_lag, a.k)
    inner = Names(**{**vars(a), "u": np.array(shifted) * a.v})
    (y,) = s4d(inner, s)
    return ([q * e for q, e in zip(a.q, y, strict=True)],)


def decayed_max(a, s) -> Outputs:
    y = []
    for t in steps(a.x):
        s.m = np.array([max(m + g, x) for m, g, x in zip(s.m, a.g[t], a.x[t], strict=True)])
        y.append(s.m)
    return (y,)


def log_sum_exp(a, s) -> Outputs:
    total = exp(s.l)
    y = []
    for t in steps(a.x):
        total = total * exp(a.g[t]) + exp(a.x[t])
        y.append(np.log(total))
    s.l = np.log(total)
    return (y,)


def rwkv4(a, s) -> Outputs:
    """The paper's two sums, not stabilised; `p` only scales what is returned."""
    above, below = s.a * exp(s.p), s.b * exp(s.p)
    o = []
    for t in steps(a.r):
        now = exp(a.u + a.k[t])
        o.append(sigmoid(a.r[t]) * (above + now * a.v[t]) / (below + now))
        above = exp(-a.w) * above + exp(a.k[t]) * a.v[t]
        below = exp(-a.w) * below + exp(a.k[t])
        s.p = np.maximum(s.p - a.w, a.k[t])
    s.a, s.b = above * exp(-s.p), below * exp(-s.p)
    return (o,)


# ---------------------------------------------------------------- filters and dense transitions


def short_convolution(a, s) -> Outputs:
    y, s.x_lag = convolved(a.w, s.x_lag, a.x)
    return ([silu(e) for e in y],)


def rational_transfer_function(a, s) -> Outputs:
    x, y = list(longer(s.x_lag, a.x)), list(s.y_lag[::-1])
    for t in steps(a.x):
        here = t + len(s.x_lag)
        y.append(
            sum(a.a[p] * y[-1 - p] for p in steps(a.a))
            + sum(a.b[w] * x[here - w] for w in steps(a.b))
        )
    out = y[len(s.y_lag) :]
    s.x_lag, s.y_lag = newest(np.array(x), len(s.x_lag)), newest(np.array(y), len(s.y_lag))
    return (out,)


def linear_state_space(a, s) -> Outputs:
    y = []
    for t in steps(a.u):
        s.x = a.A @ s.x + a.B * a.u[t]
        y.append(a.C @ s.x + a.D * a.u[t])
    return (y,)


def seasonal_autoregression(a, s) -> Outputs:
    y, season = list(s.y_lag[::-1]), len(s.y_lag) - 1
    for t in steps(a.x):
        y.append(a.a * y[-1] + a.b * y[-season] - a.a * a.b * y[-season - 1] + a.x[t] + a.c)
    s.y_lag = newest(np.array(y), len(s.y_lag))
    return (y[season + 1 :],)


def holt(a, s) -> Outputs:
    """By the errors of the forecasts, the other way to write it."""
    forecasts = []
    for t in steps(a.x):
        error = a.x[t] - (s.level + s.trend)
        s.level = s.level + s.trend + a.alpha * error
        s.trend = s.trend + a.alpha * a.beta * error
        forecasts.append(s.level + s.trend)
    return (forecasts,)


def linoss(a, s) -> Outputs:
    """Each oscillator's step as the solution of its two implicit equations."""
    s.y, s.z = s.y.copy(), s.z.copy()
    out = []
    for t in steps(a.u):
        force = a.B @ a.u[t]
        for n in steps(a.A):
            step = np.array([[1, a.dt[n] * a.A[n]], [-a.dt[n], 1]])
            given = np.array([s.z[n] + a.dt[n] * force[n], s.y[n]])
            s.z[n], s.y[n] = np.linalg.solve(step, given)
        out.append(a.C @ s.y + a.D * a.u[t])
    return (out,)


def s4(a, s) -> Outputs:
    """With the matrices themselves, instead of Woodbury's identity."""
    y = []
    C, P = a.C_re + 1j * a.C_im, a.P_re + 1j * a.P_im
    B, L = a.B_re + 1j * a.B_im, -exp(a.L_log) + 1j * a.L_im
    for t in steps(a.u):
        x = []
        for d in steps(a.log_dt):
            dt, one = exp(a.log_dt[d]), np.eye(P.shape[1])
            A = np.diag(L[d]) - outer(P[d], P[d].conj())
            right = (one + dt / 2 * A) @ s.x[d] + dt * B[d] * a.u[t, d]
            x.append(np.linalg.solve(one - dt / 2 * A, right))
        s.x = np.array(x)
        y.append((C * s.x).sum(1).real + a.skip * a.u[t])
    return (y,)


def hippo_legs(a, s) -> Outputs:
    o = []
    for t in steps(a.u):
        s.t = s.t + 1
        s.c = (np.eye(len(a.B)) - a.A / s.t) @ s.c + a.B / s.t * a.u[t]
        o.append(s.c)
    return (o,)


def kalman_filter(a, s) -> Outputs:
    mean, residual = [], []
    for t in steps(a.y):
        s.x = a.A @ s.x
        P = a.A @ s.P @ a.A.T + np.diag(exp(a.log_q))
        g = P @ a.c / (a.c @ P @ a.c + exp(a.log_r))
        s.x = s.x + g * (a.y[t] - a.c @ s.x)
        s.P = P - outer(g, a.c @ P)
        mean.append(s.x)
        residual.append(a.y[t] - a.c @ s.x)
    return mean, residual


# ---------------------------------------------------------------- nonlinear


def elman_rnn(a, s) -> Outputs:
    y = []
    for t in steps(a.x):
        s.h = np.tanh(a.x[t] + a.R @ s.h)
        y.append(s.h)
    return (y,)


def gru(a, s) -> Outputs:
    y = []
    for t in steps(a.xz):
        z = sigmoid(a.xz[t] + a.Rz @ s.h)
        r = sigmoid(a.xr[t] + a.Rr @ s.h)
        c = np.tanh(a.xc[t] + r * (a.Rc @ s.h))
        s.h = (1 - z) * s.h + z * c
        y.append(s.h)
    return (y,)


def lstm(a, s) -> Outputs:
    y = []
    for t in steps(a.xi):
        i, f = sigmoid(a.xi[t] + a.Ri @ s.h), sigmoid(a.xf[t] + a.Rf @ s.h)
        g, o = np.tanh(a.xg[t] + a.Rg @ s.h), sigmoid(a.xo[t] + a.Ro @ s.h)
        s.c = f * s.c + i * g
        s.h = o * np.tanh(s.c)
        y.append(s.h)
    return (y,)


def slstm(a, s) -> Outputs:
    """The memory, not stabilised; `m` only scales what is returned."""
    c, n = s.c * exp(s.m), s.n * exp(s.m)
    y = []
    for t in steps(a.xz):
        z = np.tanh(a.xz[t] + a.Rz @ s.h)
        log_i = a.xi[t] + a.Ri @ s.h
        f, o = sigmoid(a.xf[t] + a.Rf @ s.h), sigmoid(a.xo[t] + a.Ro @ s.h)
        c, n = f * c + exp(log_i) * z, f * n + exp(log_i)
        s.m = np.maximum(np.log(f) + s.m, log_i)
        s.h = o * c / n
        y.append(s.h)
    s.c, s.n = c * exp(-s.m), n * exp(-s.m)
    return (y,)


def titans(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        surprise = 2 * outer(a.k[t], s.S.T @ a.k[t] - a.v[t])
        s.M = a.eta[t] * s.M - a.theta[t] * surprise
        s.S = (1 - a.alpha[t]) * s.S + s.M
        o.append(s.S.T @ a.q[t])
    return (o,)


def layernorm_loss_slope(z, v):
    """The derivative of `|layernorm(z) - v|²` by `z`."""
    y = layernorm(z)
    g = 2 * (y - v)
    return (g - g.mean() - y * (g * y).mean()) / np.sqrt(z.var() + 1e-5)


def ttt_linear(a, s, batch=16) -> Outputs:
    o = []
    for t in steps(a.q):
        if s.t % batch == 0:
            s.F = s.W
        s.t = s.t + 1
        s.W = s.W - a.eta[t] * outer(a.k[t], layernorm_loss_slope(a.k[t] @ s.F, a.v[t]))
        o.append(layernorm(a.q[t] @ s.W))
    return (o,)


def ttt_small_batches(a, s):
    return ttt_linear(a, s, batch=3)


def ttt_mlp(a, s) -> Outputs:
    o = []
    for t in steps(a.q):
        z = a.k[t] @ s.U
        error = 2 * (gelu(z) @ s.W - a.v[t])
        slope = normal_cdf(z) + z * normal_pdf(z)
        dU = outer(a.k[t], (s.W @ error) * slope)
        dW = outer(gelu(z), error)
        s.U = s.U - a.eta[t] * dU
        s.W = s.W - a.eta[t] * dW
        o.append(gelu(a.q[t] @ s.U) @ s.W)
    return (o,)


def ttt_muon(a, s, batch=16, rate=0.1) -> Outputs:
    o = []
    for t in steps(a.q):
        if s.t % batch == 0:
            X = s.G / np.sqrt((s.G * s.G).sum() + 1e-6)
            for _ in range(5):
                A = X @ X.T
                X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
            s.F = s.F - rate * X
            s.G = 0 * s.G
        s.t = s.t + 1
        s.G = s.G + a.eta[t] * 2 * outer(a.k[t], s.F.T @ a.k[t] - a.v[t])
        o.append(s.F.T @ a.q[t])
    return (o,)


Loop = Callable[[Names, Names], Outputs]

EXAMPLES: tuple[Loop, ...] = (
    linear_attention, based, retnet, xpos_retention, gla, hgrn2, mamba2, rwkv6,
    gated_slot_attention, mlstm, mlstm_sigmoid, delta_net, delta_net_block, gated_delta_rule,
    gated_delta_net, conv_gated_delta_rule, delta_product, rwkv7, gated_oja_rule, mamba, mamba3,
    exponential_moving_average, mega_moving_average, min_gru, min_lstm, rg_lru, hgrn, lru, s4d, s5,
    h3, decayed_max, log_sum_exp,
    rwkv4, short_convolution, rational_transfer_function, linear_state_space, hippo_legs,
    s4, seasonal_autoregression, holt, linoss,
    kalman_filter, elman_rnn, gru, lstm, slstm, titans, ttt_linear, ttt_mlp, ttt_muon,
)  # fmt: skip

LOOPS: dict[str, Loop] = {loop.__name__: loop for loop in EXAMPLES}
LOOPS |= {
    "simple_gla": simple_gla,
    "kimi_delta_attention": kimi_delta_attention,
    "ttt_small_batches": ttt_small_batches,
}
"""Every loop by the name of the scan that it judges."""
