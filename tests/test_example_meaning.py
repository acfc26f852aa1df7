"""Examples against other forms of the same mathematics: closed forms, torch's own layers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.loader import load, read_source
from scandsl.reference import interpret
from scandsl.testing.data import Layout, draw

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
T = 24


def ran(
    name: str, scalars: dict[str, float] | None = None, **changed: Tensor
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Outputs and arguments of an example, one batch and one head, both axes taken away."""
    (recurrence,) = check(read_source(EXAMPLES / f"{name}.scan")).recurrences
    layout = Layout(batch=1, time=T, heads=1)
    tensors = draw(recurrence, layout=layout, dtype=torch.float64).tensors | changed
    outputs = interpret(recurrence, tensors, scalars=scalars).outputs
    inputs = {x.name for x in recurrence.inputs}
    plain = {n: x[0, :, 0] if n in inputs else x[0] for n, x in tensors.items()}
    return tuple(x[0, :, 0] for x in outputs), plain


def same(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def weights(log_decay: Tensor) -> Tensor:
    """exp of the sum of log decays over (j, i], zero above the diagonal."""
    total = log_decay.cumsum(0)
    lower = torch.ones(T, T, dtype=torch.bool).tril()
    return torch.where(lower, total[:, None] - total[None], -torch.inf).exp()


def test_linear_attention_is_normalised_attention() -> None:
    (o,), a = ran("linear_attention")
    q, k = (torch.nn.functional.elu(a[n]) + 1 for n in "qk")
    scores = (q @ k.T).tril()
    same(o, scores @ a["v"] / scores.sum(1, keepdim=True))


def test_retnet_is_masked_attention() -> None:
    (o,), a = ran("retnet")
    mask = weights(a["gamma"].log().expand(T))
    same(o, (a["q"] @ a["k"].T * mask * a["q"].shape[-1] ** -0.5) @ a["v"])


def test_xpos_retention_depends_on_distances_only() -> None:
    """The parallel form of the paper: queries and keys turned by their positions, then a mask."""
    (o,), a = ran("xpos_retention")
    turn = torch.polar(torch.ones(1, dtype=torch.float64), torch.arange(T)[:, None] * a["theta"])
    q = torch.complex(a["q_re"], a["q_im"]) * turn
    k = torch.complex(a["k_re"], a["k_im"]) * turn
    mask = weights(a["gamma"].log().expand(T))
    same(o, ((q @ k.conj().T).real * mask * (2 * q.shape[1]) ** -0.5) @ a["v"])


def test_mlstm_sigmoid_is_masked_attention() -> None:
    (h,), a = ran("mlstm_sigmoid")
    mask = weights(torch.nn.functional.logsigmoid(a["f"])) * a["i"].sigmoid()
    same(h, (a["q"] @ a["k"].T * mask * a["q"].shape[1] ** -0.5) @ a["v"])


def unit(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


def convolved(x: Tensor, w: Tensor) -> Tensor:
    """SiLU of a causal depthwise convolution, `w` newest first."""
    padded = torch.nn.functional.pad(x.T, (w.shape[1] - 1, 0))
    out = torch.nn.functional.conv1d(padded[None], w.flip(1)[:, None], groups=len(w))
    return torch.nn.functional.silu(out[0].T)


def products_of_transitions(a: dict[str, Tensor], gate: Tensor, beta: Tensor, k: Tensor) -> Tensor:
    """States of the gated delta rule as sums over writes, each under the later transitions."""
    eye = torch.eye(k.shape[1], dtype=torch.float64)
    moves = [g * (eye - b * torch.outer(x, x)) for g, b, x in zip(gate, beta, k, strict=True)]
    states = []
    for t in range(T):
        total, product = torch.zeros(k.shape[1], a["v"].shape[1], dtype=torch.float64), eye
        for j in range(t, -1, -1):
            total = total + product @ torch.outer(k[j], beta[j] * a["v"][j])
            product = product @ moves[j]
        states.append(total)
    return torch.stack(states)


@pytest.mark.parametrize("beta_max", [1.0, 2.0])
def test_gated_delta_net_is_a_sum_over_products_of_transitions(beta_max: float) -> None:
    (o,), a = ran("gated_delta_net", scalars={"beta_max": beta_max})
    gate = (1 + (a["a"] + a["dt_bias"]).exp()) ** -a["A_log"].exp()
    S = products_of_transitions(a, gate, beta_max * a["b"].sigmoid(), unit(a["k"]))
    same(o, torch.einsum("tk,tkv->tv", unit(a["q"]), S) * a["q"].shape[1] ** -0.5)


def test_delta_net_block_is_convolutions_then_the_delta_rule() -> None:
    (o,), a = ran("delta_net_block")
    q, k, v = (convolved(a[n], a[f"w{n}"]) for n in "qkv")
    S = products_of_transitions({"v": v}, torch.ones(T), a["b"].sigmoid(), unit(k))
    read = torch.einsum("tk,tkv->tv", unit(q), S) * q.shape[1] ** -0.5
    same(o, torch.nn.functional.rms_norm(read, (read.shape[1],), a["gain"], 1e-6))


def test_mamba2_is_masked_attention() -> None:
    (y,), a = ran("mamba2")
    d = torch.nn.functional.softplus(a["dt"] + a["dt_bias"])
    scores = a["C"] @ a["B"].T * weights(-d * a["A_log"].exp()) * d
    same(y, scores @ a["x"] + a["D"] * a["x"])


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> Tensor:
    """The reference of mamba_ssm by its equations, `[batch, channels, tokens]`, softplus of delta.

    x_t = exp(delta_t A) x_{t-1} + delta_t B_t u_t,  y_t = (C_t x_t + D u_t) silu(z_t).
    """
    delta = torch.nn.functional.softplus(delta + bias[:, None])
    deltaA = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    deltaB_u = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
    x = torch.zeros_like(deltaA[:, :, 0])
    ys = []
    for i in range(u.shape[2]):
        x = deltaA[:, :, i] * x + deltaB_u[:, :, i]
        ys.append(torch.einsum("bdn,bn->bd", x, C[:, :, i]))
    y = torch.stack(ys, 2) + u * D[:, None]
    return y * torch.nn.functional.silu(z)


def test_mamba_is_the_selective_scan() -> None:
    """Values and all gradients; channels are heads, B and C have one."""
    channels, size, tokens = 6, 16, 130
    torch.manual_seed(0)
    shapes = {
        "u": (2, channels, tokens), "delta": (2, channels, tokens), "A_log": (channels, size),
        "B": (2, size, tokens), "C": (2, size, tokens), "D": (channels,),
        "z": (2, channels, tokens), "bias": (channels,),
    }  # fmt: skip
    a = {n: torch.randn(s, dtype=torch.float64, requires_grad=True) for n, s in shapes.items()}
    want = selective_scan(
        a["u"], a["delta"], -a["A_log"].exp(), a["B"], a["C"], a["D"], a["z"], a["bias"]
    )
    x, dt = a["u"].mT, a["delta"].mT
    B, C = (a[n].mT[:, :, None] for n in "BC")
    mamba = load(EXAMPLES / "mamba.scan").mamba
    y, _ = mamba(x, dt, B, C, a["A_log"], a["D"], a["bias"], backend="torch")
    got = y.mT * torch.nn.functional.silu(a["z"])
    same(got, want)
    seed = torch.randn_like(want)
    leaves = list(a.values())
    pairs = zip(*(torch.autograd.grad(o, leaves, seed) for o in (got, want)), strict=True)
    for mine, theirs in pairs:
        same(mine, theirs)


def test_mlstm_is_its_unstabilised_form() -> None:
    (h,), a = ran("mlstm")
    scores = (a["q"] @ a["k"].T) * weights(torch.nn.functional.logsigmoid(a["f"])) * a["i"].exp()
    same(h, scores @ a["v"] / scores.sum(1, keepdim=True).abs().clamp(min=1))


def test_rwkv4_is_its_sum_of_exponentials() -> None:
    (o,), a = ran("rwkv4")
    for t in range(T):
        age = torch.arange(t - 1, -1, -1, dtype=torch.float64)[:, None]
        past = (a["k"][:t] - age * a["w"]).exp()
        now = (a["u"] + a["k"][t]).exp()
        wkv = ((past * a["v"][:t]).sum(0) + now * a["v"][t]) / (past.sum(0) + now)
        same(o[t], a["r"][t].sigmoid() * wkv)


def test_the_delta_rule_interpolates() -> None:
    beta = torch.ones(1, T, 1, dtype=torch.float64)
    k = torch.nn.functional.one_hot(torch.arange(T) % 5, 16).double()[None, :, None]
    (o,), a = ran("delta_net", beta=beta, k=k, q=k)
    same(o, a["v"] * 16**-0.5)


def test_titans_without_momentum_is_gradient_descent() -> None:
    zero = torch.zeros(1, T, 1, dtype=torch.float64)
    (o,), a = ran("titans", eta=zero, alpha=zero)
    memory = torch.zeros(a["k"].shape[1], a["v"].shape[1], dtype=torch.float64)
    for t in range(T):
        error = a["k"][t] @ memory - a["v"][t]
        memory = memory - 2 * a["theta"][t] * torch.outer(a["k"][t], error)
        same(o[t], a["q"][t] @ memory)


def layer_of_torch(cls: type[Any], matrices: Sequence[Tensor], gates: int) -> torch.nn.Module:
    """A torch layer whose input matrix is the identity, with copied recurrent weights."""
    size = matrices[0].shape[0]
    layer: torch.nn.Module = cls(
        size * gates, size, bias=False, batch_first=True, dtype=matrices[0].dtype
    )
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.eye(size * gates))
        layer.weight_hh_l0.copy_(torch.cat(list(matrices)))
    return layer


def agrees_with_torch(
    name: str, cls: type[Any], gates: str, matrices: str, turned: str, backend: str
) -> None:
    """Values, and gradients of inputs, weights and the initial state, in float32.

    Gates in `turned` have the opposite sign there.
    """
    torch.manual_seed(0)
    size, tokens = 12, 40
    sign = {g: -1.0 if g in turned else 1.0 for g in gates}
    x = {g: torch.randn(2, tokens, 1, size, requires_grad=True) for g in gates}
    weights = {m: (0.4 * torch.randn(1, size, size)).requires_grad_() for m in matrices}
    layer = layer_of_torch(cls, [sign[m] * weights[m][0].detach() for m in matrices], len(gates))
    twin = torch.cat([sign[g] * x[g].detach()[:, :, 0] for g in gates], -1).requires_grad_()
    start = [torch.randn(1, 2, size, requires_grad=True) for _ in range(1 + (cls is torch.nn.LSTM))]
    own = [s.detach().transpose(0, 1).clone().requires_grad_() for s in start]
    hidden = tuple(start) if len(start) == 2 else start[0]
    want, last = layer(twin, hidden)
    module = load(EXAMPLES / f"{name}.scan")
    state = module.LstmState(c=own[1], h=own[0]) if len(own) == 2 else own[0]
    got, final = getattr(module, name)(
        *(x[g] for g in _declared(name, "x", gates)),
        *(weights[m] for m in _declared(name, "R", matrices)),
        initial_state=state,
        output_final_state=True,
        backend=backend,
    )
    lasts = (last[1], last[0]) if len(start) == 2 else (last,)
    finals = tuple(final) if len(start) == 2 else (final,)
    pull = torch.randn_like(want)
    ends = [torch.randn_like(f) for f in finals]
    torch.autograd.backward([got[:, :, 0], *finals], [pull, *ends])
    torch.autograd.backward([want, *lasts], [pull, *(e.transpose(0, 1) for e in ends)])
    near(got[:, :, 0], want)
    for mine, theirs in zip(finals, lasts, strict=True):
        near(mine, theirs.transpose(0, 1))
    for mine, theirs in zip(own, start, strict=True):
        near(mine.grad, theirs.grad.transpose(0, 1))
    for n, g in enumerate(gates):
        near(x[g].grad[:, :, 0], sign[g] * twin.grad[..., n * size : (n + 1) * size])
    for n, m in enumerate(matrices):
        theirs = layer.weight_hh_l0.grad[n * size : (n + 1) * size]
        near(weights[m].grad[0], sign[m] * theirs)


def _declared(name: str, letter: str, gates: str) -> list[str]:
    """The gates in the order in which the example declares their tensors."""
    (recurrence,) = check(read_source(EXAMPLES / f"{name}.scan")).recurrences
    found = [n[1:] for n in recurrence.arguments if n[0] == letter]
    assert sorted(found) == sorted(gates)
    return found


def near(got: Tensor, want: Tensor) -> None:
    """Within 1e-5 of the largest number."""
    scale = max(1.0, float(want.detach().abs().max()))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
def test_lstm_is_that_of_torch(backend: str) -> None:
    agrees_with_torch("lstm", torch.nn.LSTM, "ifgo", "ifgo", "", backend)


@pytest.mark.parametrize("backend", ["torch", "triton", "reference"])
def test_gru_is_that_of_torch(backend: str) -> None:
    """Torch keeps z of the old state, we keep 1 - z: the gate is turned round."""
    agrees_with_torch("gru", torch.nn.GRU, "rzc", "rzc", "z", backend)


def test_short_convolution_is_conv1d_reversed() -> None:
    (y,), a = ran("short_convolution")
    same(y, convolved(a["x"], a["w"]))


def test_s4d_is_a_convolution() -> None:
    (y,), a = ran("s4d")
    A = torch.complex(-a["A_log"].exp(), a["A_im"])
    C = torch.complex(a["C_re"], a["C_im"])
    dA = a["log_dt"].exp()[:, None] * A
    kernel = torch.stack(
        [(2 * C * (dA * t).exp() * (dA.exp() - 1) / A).sum(1).real for t in range(T)]
    )
    for t in range(T):
        same(y[t], (kernel[: t + 1].flip(0) * a["u"][: t + 1]).sum(0) + a["skip"] * a["u"][t])


def test_rational_transfer_function_divides_polynomials() -> None:
    (o,), a = ran("rational_transfer_function")
    whole = torch.cat([torch.ones(1, dtype=torch.float64), -a["a"]])
    for t in range(T):
        left = sum(float(c) * float(o[t - p]) for p, c in enumerate(whole) if p <= t)
        right = sum(float(c) * float(a["x"][t - w]) for w, c in enumerate(a["b"]) if w <= t)
        assert left == pytest.approx(right, abs=1e-10)


def test_holt_follows_a_line_at_once_and_forecasts_it() -> None:
    one = torch.ones(1, 3, dtype=torch.float64)
    x = (2.0 + 0.5 * torch.arange(T, dtype=torch.float64))[None, :, None, None].expand(1, T, 1, 3)
    (forecast,), _ = ran("holt", alpha=one, beta=one, x=x)
    same(forecast[1:], x[0, 1:, 0] + 0.5)


def test_linoss_is_a_sum_over_powers_of_its_oscillators() -> None:
    (x,), a = ran("linoss")
    A, dt = a["A"], a["dt"]
    S = 1 / (1 + dt**2 * A)
    z_of = torch.stack((-S * dt * A, S), -1)  # the new velocity from (y, z)
    y_of = torch.stack((torch.ones_like(A), torch.zeros_like(A)), -1) + dt[:, None] * z_of
    M = torch.stack((y_of, z_of), -2)
    force = a["u"] @ a["B"].T
    for t in range(T):
        state = torch.zeros(len(A), 2, dtype=torch.float64)
        for j in range(t + 1):
            push = torch.stack((dt * dt * S * force[j], dt * S * force[j]), -1)
            state += (torch.matrix_power(M, t - j) @ push[..., None])[..., 0]
        same(x[t], a["C"] @ state[:, 0] + a["D"] * a["u"][t])


def test_log_sum_exp_and_decayed_max() -> None:
    (y,), a = ran("log_sum_exp")
    same(y, (weights(a["g"]) @ a["x"].exp()).log())
    (m,), a = ran("decayed_max")
    total = a["g"].cumsum(0)
    lower = torch.ones(T, T, dtype=torch.bool).tril()[:, :, None]
    same(m, torch.where(lower, total[:, None] - total[None] + a["x"][None], -torch.inf).amax(1))


def test_kalman_filter_in_its_information_form() -> None:
    (mean, residual), a = ran("kalman_filter")
    size = len(a["c"])
    x, P = torch.zeros(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    for t in range(T):
        x, P = a["A"] @ x, a["A"] @ P @ a["A"].T + a["log_q"].exp().diag()
        information = P.inverse() + torch.outer(a["c"], a["c"]) / a["log_r"].exp()
        new = information.inverse()
        x = new @ (P.inverse() @ x + a["c"] * a["y"][t] / a["log_r"].exp())
        P = new
        torch.testing.assert_close(mean[t], x, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(residual[t], a["y"][t] - a["c"] @ x, rtol=1e-6, atol=1e-8)


def test_muon_steps_give_a_nearly_orthogonal_update() -> None:
    (o,), a = ran("ttt_muon")
    error = a["k"][:16] @ a["W0"] - a["v"][:16]
    gradient = 2 * (a["k"][:16] * a["eta"][:16, None]).T @ error
    X = gradient / (gradient.square().sum() + 1e-6).sqrt()
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
    same(o[16:], a["q"][16:] @ (a["W0"] - 0.1 * X))
    values = torch.linalg.svdvals(X)
    assert float(values.max()) < 1.3


def hippo() -> Any:
    """The helpers that stand beside the examples."""
    spec = importlib.util.spec_from_file_location("hippo", EXAMPLES / "hippo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluated(name: str, u: Tensor, **params: Tensor) -> tuple[Tensor, ...]:
    """The outputs of an example for one sequence, without its leading axes."""
    (recurrence,) = check(read_source(EXAMPLES / f"{name}.scan")).recurrences
    tensors = {"u": u[None, :, None]} | {n: p[None] for n, p in params.items()}
    return tuple(x[0, :, 0] for x in interpret(recurrence, tensors).outputs)


def test_hippo_legs_reconstructs_a_signal_from_its_coefficients() -> None:
    """Its coefficients are those of a Legendre series of the whole past, here a smooth curve."""
    size, length = 12, 1024
    x = torch.linspace(0, 1, length, dtype=torch.float64)
    signal = torch.sin(5 * x) + 0.5 * torch.cos(9 * x) - x**2
    a, b = hippo().legs(size)
    (coefficients,) = evaluated("hippo_legs", signal, A=-a, B=b)
    for seen in (length // 2, length):
        z = torch.linspace(-1, 1, seen, dtype=torch.float64)
        basis = torch.stack([torch.special.legendre_polynomial_p(z, n) for n in range(size)])
        found = coefficients[seen - 1] * b @ basis
        error = (found - signal[:seen]).square().mean().sqrt()
        assert error < 0.02 * signal[:seen].square().mean().sqrt()


def test_s4_is_its_dense_discretised_system() -> None:
    """LegS as a diagonal plus a low rank, and as the matrix itself under the bilinear rule."""
    h, size, dt = hippo(), 8, 0.05
    torch.manual_seed(0)
    u = torch.randn(T, dtype=torch.float64)
    c, skip = torch.randn(size, dtype=torch.float64), torch.randn((), dtype=torch.float64)
    a, b = h.bilinear(*h.legs(size), dt)
    (expected,) = evaluated("linear_state_space", u, A=a, B=b, C=c, D=skip)
    poles, low, driven, basis = h.diagonal_plus_low_rank(size)
    read = (c + 0j) @ basis
    parts = {"P": low, "B": driven, "C": read}
    named = {f"{n}_{p}": getattr(x, q)[None] for n, x in parts.items()
             for p, q in (("re", "real"), ("im", "imag"))}  # fmt: skip
    rates = {"log_dt": torch.tensor([dt], dtype=torch.float64).log(), "skip": skip[None]}
    poles = {"L_log": (-poles.real).log()[None], "L_im": poles.imag[None]}
    (got,) = evaluated("s4", u[:, None], **rates, **poles, **named)
    same(got[:, 0], expected)


def test_zero_order_hold_is_exact_for_a_held_input() -> None:
    """Two steps over a held input are one step of twice the length; LegT keeps what it saw last."""
    h = hippo()
    a, b = h.zero_order_hold(*h.legt(6), 0.1)
    twice, driven = h.zero_order_hold(*h.legt(6), 0.2)
    same(a @ a, twice)
    same(a @ b + b, driven)
    state = torch.zeros(6, dtype=torch.float64)
    for _ in range(100):
        state = a @ state + b
    same(state, torch.eye(6, dtype=torch.float64)[0])


def test_seasonal_autoregression_multiplies_its_polynomials() -> None:
    """Undoing one factor after the other gives back what drove it."""
    (o,), a = ran("seasonal_autoregression")

    def less(x: Tensor, weight: Tensor, n: int) -> Tensor:
        before = torch.cat([torch.zeros_like(x[:1]).expand(n), x[:-n]])
        return x - weight * before

    same(less(less(o, a["a"], 1), a["b"], 12), a["x"] + a["c"])
