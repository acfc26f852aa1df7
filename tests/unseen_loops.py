"""The steps of `unseen.scan` again, by hand: one sequence, one head, token by token in torch.

In: `a`, the inputs `[T, *dims]` and params `[*dims]` by name.  Out: the outputs over time, by name.
Autograd gives the gradients.  Nothing of scandsl.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace as Names

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu, softplus

Outputs = dict[str, list[Tensor]]
sigmoid, tanh, exp = torch.sigmoid, torch.tanh, torch.exp
outer = torch.outer


def full(like: Tensor, *shape: int, value: float = 0.0) -> Tensor:
    return like.new_full(shape, value)


def peephole_lstm(a: Names) -> Outputs:
    c, r, y = full(a.W, a.W.shape[1]), full(a.W, a.W.shape[0], value=0.1), []
    for t in range(len(a.xi)):
        i = sigmoid(a.xi[t] + a.Ri @ r + a.pi_ * c)
        f = sigmoid(a.xf[t] + a.Rf @ r + a.pf * c + 1)
        c = f * c + i * tanh(a.xz[t] + a.Rz @ r)
        r = a.W @ (sigmoid(a.xo[t] + a.Ro @ r + a.po * c) * tanh(c))
        y.append(r)
    return {"y": y}


def two_selective_states(a: Names) -> Outputs:
    h, g, o = full(a.a, len(a.a)), full(a.b, len(a.b), value=0.2), []
    for t in range(len(a.x)):
        d = softplus(a.dt[t] + a.w * (a.E[t] @ g))
        h = exp(-d * a.a) * h + d * a.B[t] * a.x[t]
        y = a.C[t] @ h
        keep = exp(-sigmoid(y) * a.b)
        g = keep * g + (1 - keep) * a.E[t] * silu(y)
        o.append(y + a.E[t] @ g)
    return {"o": o}


def stabilised_cell(a: Names) -> Outputs:
    size = len(a.Ri)
    c, n, h = full(a.Ri, size), full(a.Ri, size, value=1.0), full(a.Ri, size)
    m = full(a.Ri, value=-2.0)
    y, top = [], []
    for t in range(len(a.xi)):
        i = a.xi[t] + a.Ri @ h
        lf = logsigmoid(a.xf[t] + a.Rf @ h)
        m1 = torch.maximum(lf + m, i).amax()
        c = exp(lf + m - m1) * c + exp(i - m1) * tanh(a.xz[t] + a.Rz @ h)
        n = exp(lf + m - m1) * n + exp(i - m1)
        gate = sigmoid(a.xo[t] + a.Ro @ h)
        h = gate * c / torch.maximum(n, full(n, size, value=0.5))
        m = m1
        y.append(h)
        top.append(m)
    return {"y": y, "top": top}


def two_key_attention(a: Names) -> Outputs:
    """Without a running maximum: all weights of the past at once."""
    o = []
    scores = torch.stack([a.k @ a.q.T, a.j @ a.q.T], 1)  # [T, 2, S]
    values = torch.stack([a.v, a.u], 1)  # [T, 2, V]
    for t in range(len(a.k)):
        weights = torch.softmax(scores[: t + 1].flatten(0, 1), 0)
        o.append(weights.T @ values[: t + 1].flatten(0, 1))
    return {"o": o}


def kalman_vector(a: Names) -> Outputs:
    """All observations of a token at once, with the inverse of their covariance."""
    size = len(a.F)
    eye = torch.eye(size, dtype=a.F.dtype)
    x, P = full(a.F, size), full(a.F, size, size, value=0.2)
    o, spread = [], []
    for t in range(len(a.y)):
        x = a.F @ x + a.u[t]
        P = a.F @ P @ a.F.T + a.q * eye
        gain = P @ a.H.T @ torch.linalg.inv(a.H @ P @ a.H.T + torch.diag(a.r))
        x = x + gain @ (a.y[t] - a.H @ x)
        P = P - gain @ a.H @ P
        o.append(x)
        spread.append(P @ (torch.arange(size, dtype=P.dtype) * 0.5))
    return {"o": o, "spread": spread}


def muon_every_step(a: Names) -> Outputs:
    W, G, o = a.W0, torch.zeros_like(a.W0), []
    for t in range(len(a.q)):
        error = a.k[t] @ W - a.v[t]
        G = a.mu * G + a.eta[t] * 2 * outer(a.k[t], error)
        X = G / torch.sqrt((G * G).sum() + 1e-2)
        for _ in range(3):
            X = 1.5 * X - 0.5 * X @ X.T @ X
        W = 0.98 * W - 0.1 * X
        o.append(W.T @ a.q[t])
    return {"o": o}


def layernorm(x: Tensor, epsilon: float) -> Tensor:
    return (x - x.mean()) / torch.sqrt(x.var(correction=0) + epsilon)


def normed_gru(a: Names) -> Outputs:
    h, y = full(a.Rz, len(a.Rz)), []
    for t in range(len(a.xz)):
        z = sigmoid(a.xz[t] + a.gz * layernorm(a.Rz @ h, 1e-5))
        r = sigmoid(a.xr[t] + layernorm(a.Rr @ h, 0.1))
        e = a.Rc @ (r * h)
        c = tanh(a.xc[t] + a.gc * e / torch.sqrt((e * e).mean() + 1e-6))
        h = (1 - z) * h + z * c
        y.append(h + a.xc[t])
    return {"y": y}


def coupled_shapes(a: Names) -> Outputs:
    S, h, z = a.S0, full(a.R, len(a.R)), full(a.R, value=0.5)
    out: Outputs = {"o": [], "y": [], "keep": []}
    for t in range(len(a.x)):
        h = tanh(a.x[t] + a.R @ h + a.U @ (S.T @ a.q[t] * z))
        z = sigmoid(a.w @ h + z - 0.1 * (S * S).sum())
        S = z * S + (1 - z) * outer(a.k[t], tanh(a.E @ h))
        for name, x in zip(out, (S.T @ a.q[t], h, z), strict=True):
            out[name].append(x)
    return out


def bilinear(a: Names) -> Outputs:
    h = full(a.B, len(a.B), value=0.3)
    y, pair = [], []
    for t in range(len(a.x)):
        h = 0.5 * h + tanh(torch.einsum("dej,j,e->d", a.B, a.x[t], h) + a.u[t])
        y.append(a.C @ h)
        pair.append(outer(h, a.C @ h))
    return {"y": y, "pair": pair}


def residual_windows(a: Names) -> Outputs:
    start = full(a.R, len(a.R), value=0.4)
    past = [start, start]  # two steps before the first, and one
    y, p = [], []
    for t in range(len(a.x)):
        seen = sum(a.w[:, j] * a.x[t - j] for j in range(3) if t >= j)
        h = past[-1]
        h = h + a.dt * tanh(a.R @ h + seen - 0.5 * past[-2])
        past.append(h)
        y.append(h)
        p.append(a.v[0] * past[-1] + a.v[1] * past[-2] + a.v[2] * past[-3])
    return {"y": y, "p": p}


def tropical_window(a: Names) -> Outputs:
    size = len(a.w)
    start = full(a.w, size, value=0.7)
    states = [start, start, start]
    soft = full(a.w, size, value=-1.0)
    out: Outputs = {"top": [], "soft": [], "behind": []}
    for t in range(len(a.x)):
        reach = torch.stack([states[-1 - j] + a.w[:, j] for j in range(3)]).amax(0)
        states.append(torch.maximum(reach, a.x[t]))
        soft = torch.logaddexp(soft + a.g[t], 0.5 * states[-1])
        for name, x in zip(out, (states[-1], soft, states[-3] * soft), strict=True):
            out[name].append(x)
    return out


def hamilton(p: Tensor, q: Tensor) -> Tensor:
    """The product of two quaternions."""
    p0, q0, pv, qv = p[0], q[0], p[1:], q[1:]
    rest = p0 * qv + q0 * pv + torch.linalg.cross(pv, qv)
    return torch.cat([(p0 * q0 - pv @ qv)[None], rest])


def quaternion(a: Names) -> Outputs:
    r, p = a.q0, full(a.q0, 3, value=1.0)
    o, q = [], []
    for t in range(len(a.w)):
        n = r + 0.3 * hamilton(r, torch.cat([full(r, 1), a.w[t]]))
        r = n / torch.sqrt((n * n).sum() + 1e-6)
        b = r[0] * p + torch.linalg.cross(r[1:], p)
        p = 0.8 * (p + 2 * torch.linalg.cross(r[1:], b)) + a.v[t]
        o.append(p)
        q.append(r)
    return {"o": o, "q": q}


def hopfield(a: Names) -> Outputs:
    X, o = a.X0, []
    for t in range(len(a.q)):
        z = a.q[t]
        for _ in range(2):
            z = torch.softmax(a.beta * (X @ z), 0) @ X
        o.append(z)
        share = (a.g[t] * torch.softmax(X @ a.k[t], 0))[:, None]
        X = X + share * (a.k[t] - X)
    return {"o": o}


def unitary(a: Names) -> Outputs:
    z = torch.complex(full(a.Mr, len(a.Mr), value=0.2), full(a.Mr, len(a.Mr)))
    y, loud = [], []
    for t in range(len(a.x)):
        turn = torch.polar(torch.ones_like(a.th[t]), a.th[t])
        z = turn * (torch.complex(a.Mr, a.Mi) @ z) + torch.complex(a.x[t], a.u[t])
        size = z.abs()
        z = z * (torch.relu(size - a.b) / (size + 0.01))
        y.append(z.real + z.imag * a.b)
        loud.append(size.sum())
    return {"y": y, "loud": loud}


def adam(a: Names) -> Outputs:
    W, M, R, o = a.W0, torch.zeros_like(a.W0), torch.full_like(a.W0, 0.1), []
    for t in range(len(a.q)):
        f = tanh(a.k[t] @ W)
        G = outer(a.k[t], 2 * (f - a.v[t]) * (1 - f * f))
        M = 0.9 * M + 0.1 * G
        R = 0.8 * R + 0.2 * G * G
        W = W - 0.05 * M / (1 - 0.9 ** (t + 1)) / torch.sqrt(R / (1 - 0.8 ** (t + 2)) + 1e-3)
        o.append(a.q[t] @ W)
    return {"o": o}


def hidden_markov(a: Names) -> Outputs:
    """The best path's score with `max`, the sum over paths with products of matrices in logs."""
    forward, best = a.p0, a.p0
    out: Outputs = {"whole": [], "best": [], "post": [], "last": []}
    for t in range(len(a.e)):
        forward = torch.logsumexp(a.A + forward[None, :], 1) + a.e[t]
        best = (a.A + best[None, :]).amax(1) + a.e[t]
        found = (forward.logsumexp(0), best.amax(), torch.softmax(forward, 0), best.argmax())
        for name, x in zip(out, found, strict=True):
            out[name].append(x)
    return out


def soft_stack(a: Names) -> Outputs:
    size = a.R.shape[1]
    s, e = full(a.R, 4, size), full(a.R, size)
    top, deep = [], []
    for t in range(len(a.a)):
        push, pop, stay = torch.softmax(a.a[t] + a.R @ tanh(s[0]), 0)
        down = torch.cat([a.v[t][None], s[:3]])
        up = torch.cat([s[1:], e[None]])
        e = 0.5 * e + 0.1 * s[3]
        s = push * down + pop * up + stay * s
        top.append(s[0])
        deep.append((s * torch.arange(4, dtype=s.dtype)[:, None]).sum())
    return {"top": top, "deep": deep}


def leapfrog(a: Names) -> Outputs:
    q, p = full(a.w, len(a.w), value=0.5), full(a.w, len(a.w))
    y, energy = [], []
    for t in range(len(a.x)):
        p = p - 0.1 * (q**3 + a.x[t] + a.w.T @ sigmoid(a.w @ q))
        q = q + 0.2 * p
        p = 0.9 * (p - 0.1 * (q**3 + a.x[t] + a.w.T @ sigmoid(a.w @ q)))
        potential = (q**4).sum() / 4 + q @ a.x[t] + softplus(a.w @ q).sum()
        y.append(q)
        energy.append(0.5 * (p @ p) + potential)
    return {"y": y, "energy": energy}


def segments(a: Names) -> Outputs:
    eye = torch.eye(a.x.shape[1], dtype=a.x.dtype)
    S, n, new = eye, 1, False
    o, age = [], []
    for t in range(len(a.x)):
        S, n = (eye, 0) if new else (S, n)
        n += 1
        S = (eye - 0.5 * outer(a.x[t], a.y[t])) @ S
        new = bool(a.mark[t] > 0.7)
        o.append(S @ a.x[t])
        age.append(full(a.x, value=float(n)))
    return {"o": o, "age": age}


def clockwork(a: Names) -> Outputs:
    fast, total = full(a.Rf, len(a.Rf)), full(a.Rf, len(a.Rf))
    slow = full(a.Rs, len(a.Rs), value=0.2)
    y, z = [], []
    for t in range(len(a.x)):
        fast = tanh(a.x[t] + a.Rf @ fast + a.U @ slow)
        total = total + fast
        if t % 4 == 0:
            slow = tanh(a.Rs @ slow + a.V @ total / 4)
            total = torch.zeros_like(total)
        y.append(fast)
        z.append(slow)
    return {"y": y, "z": z}


LOOPS: dict[str, Callable[[Names], Outputs]] = {
    f.__name__: f
    for f in (
        peephole_lstm, two_selective_states, stabilised_cell, two_key_attention, kalman_vector,
        muon_every_step, normed_gru, coupled_shapes, bilinear, residual_windows, tropical_window,
        quaternion, hopfield, unitary, adam, hidden_markov, soft_stack, leapfrog, segments,
        clockwork,
    )
}  # fmt: skip
