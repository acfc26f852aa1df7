"""Examples against the naive functions that flash-linear-attention publishes (PyPI `fla-core`).

Its modules are read by their path, so that no kernel of it is imported.  They compute in float32
whatever they are given; their text is run with float64 in its place, and both sides have to agree
to its digits: outputs, final states, gradients of every argument and of the initial state.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Names
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from scandsl.driver import check
from scandsl.loader import load, read_source
from scandsl.testing.compare import Case, relative_rms, state_names
from scandsl.testing.data import Layout
from tests.generated import ROOT

pytest.importorskip("einops")
FLA = importlib.util.find_spec("fla")  # finds the package without running it
if FLA is None or not FLA.submodule_search_locations:
    pytest.skip("fla-core is not installed", allow_module_level=True)

TIME = 70
Values = dict[str, Tensor]


@cache
def published(path: str) -> ModuleType:
    """One module of fla, its widths doubled."""
    (folder,) = FLA.submodule_search_locations
    text = (Path(folder) / "ops" / f"{path}.py").read_text(encoding="utf-8")
    wide = re.sub(r"\btorch\.float(32)?\b", "torch.float64", text.replace(".float()", ".double()"))
    module = ModuleType(f"published_{path.replace('/', '_')}")
    exec(compile(wide, path, "exec"), module.__dict__)
    return module


def heads_first(*tensors: Tensor) -> list[Tensor]:
    """`[B, T, H, ...]` as `[B, H, T, ...]`, and the other way round."""
    return [x.transpose(1, 2) for x in tensors]


def unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()


def phi(x: Tensor) -> Tensor:
    return functional.elu(x) + 1


def convolved(x: Tensor, w: Tensor) -> Tensor:
    """SiLU of a causal depthwise convolution; `x` is `[B, T, H, D]`, `w` is `[H, D, W]`."""
    batch, time = x.shape[:2]
    width = w.shape[-1]
    rows = functional.pad(x.reshape(batch, time, -1).mT, (width - 1, 0))
    w = w.flip(-1).reshape(-1, 1, width)
    return functional.silu(functional.conv1d(rows, w, groups=len(w)).mT.reshape(x.shape))


def decay(a: Names) -> Tensor:
    return -a.A_log.exp() * functional.softplus(a.a + a.dt_bias)


# ---------------------------------------------------------------- theirs, called with our arguments
# `a` has the arguments by name; `s` the initial states by name, or None for each.


def linear_attention(a: Names, s: Names) -> Values:
    start = (s.S, s.z[:, None])
    o, (S, z) = published("linear_attn/naive").naive_recurrent_linear_attn(
        phi(a.q), phi(a.k), a.v, normalize=True, initial_state=start, output_final_state=True
    )
    return {"o": o, "S": S, "z": z[:, 0]}


def based(a: Names, s: Names) -> Values:
    naive = published("based/naive").naive_parallel_based
    q, k, v = heads_first(a.q, a.k, a.v)
    above = naive(q, k, v, scale=1, use_norm=False)
    below = naive(q, k, torch.ones_like(v[..., :1]), scale=1, use_norm=False)
    return {"o": (above / below).transpose(1, 2)}


def retnet_of_fixed_decay(a: Names, s: Names) -> Values:
    (o,) = heads_first(published("retention/naive").naive_retention(*heads_first(a.q, a.k, a.v)))
    return {"o": o}


def scalar_decay(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Any, scale: float) -> Any:
    return published("simple_gla/naive").naive_recurrent_simple_gla(
        q, k, v, g, scale=scale, initial_state=S
    )


def retnet(a: Names, s: Names) -> Values:
    g = a.gamma.log().expand(a.q.shape[:3])
    o, S = scalar_decay(a.q, a.k, a.v, g, s.S, a.q.shape[-1] ** -0.5)
    return {"o": o, "S": S}


def xpos_retention(a: Names, s: Names) -> Values:
    """Queries and keys turned by their positions, both parts side by side."""
    time = torch.arange(TIME, dtype=torch.float64)[:, None, None]
    c, d = (time * a.theta).cos(), (time * a.theta).sin()
    q = torch.cat([a.q_re * c - a.q_im * d, a.q_re * d + a.q_im * c], -1)
    k = torch.cat([a.k_re * c - a.k_im * d, a.k_re * d + a.k_im * c], -1)
    o, _ = scalar_decay(q, k, a.v, a.gamma.log().expand(q.shape[:3]), None, q.shape[-1] ** -0.5)
    return {"o": o}


def simple_gla(a: Names, s: Names) -> Values:
    o, S = scalar_decay(a.q, a.k, a.v, a.g, s.S, a.q.shape[-1] ** -0.5)
    return {"o": o, "S": S}


def mamba2(a: Names, s: Names) -> Values:
    d = functional.softplus(a.dt + a.dt_bias)
    k, q = (x.expand(*a.x.shape[:3], -1) for x in (a.B, a.C))
    o, S = scalar_decay(q, k, d[..., None] * a.x, -d * a.A_log.exp(), s.S, 1.0)
    return {"y": o + a.D[:, None] * a.x, "S": S}


def mlstm_sigmoid(a: Names, s: Names) -> Values:
    k = a.i.sigmoid()[..., None] * a.k
    o, C = scalar_decay(a.q, k, a.v, functional.logsigmoid(a.f), s.C, a.q.shape[-1] ** -0.5)
    return {"h": o, "C": C}


def gla(a: Names, s: Names) -> Values:
    o, S = published("gla/naive").naive_recurrent_gla(a.q, a.k, a.v, a.g, s.S, True)
    return {"o": o, "S": S}


def hgrn2(a: Names, s: Names) -> Values:
    q = a.q * a.q.shape[-1] ** 0.5
    o, S = published("gla/naive").naive_recurrent_gla(q, 1 - a.f, a.i, a.f.log(), s.S, True)
    return {"o": o, "S": S}


def rwkv6(a: Names, s: Names) -> Values:
    o, S = published("rwkv6/recurrent_naive").naive_recurrent_rwkv6(
        *heads_first(a.r, a.k, a.v, a.w), a.u, 1.0, s.S, True
    )
    return {"o": o.transpose(1, 2), "S": S}


def rwkv7(a: Names, s: Names) -> Values:
    q = a.r * a.r.shape[-1] ** 0.5
    o, S = published("generalized_delta_rule/dplr/naive").dplr_recurrence(
        *heads_first(q, a.k, a.v, a.a, a.b, a.w), s.S
    )
    return {"o": o.transpose(1, 2), "S": S}


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Any) -> Values:
    given = heads_first(q, k, v, beta)
    o, S = published("delta_rule/naive").delta_rule_recurrence(*given, S)
    return {"o": o.transpose(1, 2), "S": S}


def delta_net(a: Names, s: Names) -> Values:
    return delta_rule(a.q, a.k, a.v, a.beta, s.S)


def delta_net_block(a: Names, s: Names) -> Values:
    q, k, v = (convolved(x, w) for x, w in ((a.q, a.wq), (a.k, a.wk), (a.v, a.wv)))
    found = delta_rule(unit(q), unit(k), v, a.b.sigmoid(), None)
    o = functional.rms_norm(found["o"], (v.shape[-1],), eps=1e-6)
    return {"o": a.gain * o, "S": found["S"]}


def gated_delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Any) -> Values:
    o, S = published("gated_delta_rule/naive").naive_recurrent_gated_delta_rule(
        q, k, v, beta, g, initial_state=S, output_final_state=True
    )
    return {"o": o, "S": S}


def gated_delta_rule(a: Names, s: Names) -> Values:
    return gated_delta(a.q, a.k, a.v, a.beta, a.g, s.S)


def gated_delta_net(a: Names, s: Names) -> Values:
    return gated_delta(unit(a.q), unit(a.k), a.v, a.b.sigmoid(), decay(a), s.S)


def conv_gated_delta_rule(a: Names, s: Names) -> Values:
    q, k, v = (convolved(x, w) for x, w in ((a.q, a.wq), (a.k, a.wk), (a.v, a.wv)))
    return gated_delta(unit(q), unit(k), v, a.b.sigmoid(), decay(a), None)


def kimi_delta_attention(a: Names, s: Names) -> Values:
    o, S = published("kda/naive").naive_recurrent_kda(
        a.q, a.k, a.v, a.g, a.beta, initial_state=s.S, output_final_state=True
    )
    return {"o": o, "S": S}


def delta_product(a: Names, s: Names) -> Values:
    """Theirs has the updates of one step behind one another along time."""
    k, v, beta = (x.transpose(2, 3).flatten(1, 2) for x in (a.k, a.v, a.beta))
    o, S = published("gated_delta_product/naive").naive_recurrent_gated_delta_product(
        a.q, k, v, a.g, beta, 1.0, initial_state=s.S, num_householder=a.k.shape[3]
    )
    return {"o": o, "S": S}


def gated_slot_attention(a: Names, s: Names) -> Values:
    o, (Ks, Vs) = published("gsa/naive").naive_recurrent_gsa(
        a.q, a.k, a.v, 1 - a.alpha, a.alpha.log(),
        initial_state=(s.Ks.mT, s.Vs), output_final_state=True,
    )  # fmt: skip
    return {"o": o, "Ks": Ks.mT, "Vs": Vs}


def min_gru(a: Names, s: Names) -> Values:
    x, g = (a.xz.sigmoid() * a.xc).flatten(2), functional.logsigmoid(-a.xz).flatten(2)
    y, h = published("hgrn/naive").naive_recurrent_hgrn(x, g, s.h.flatten(1), True)
    return {"y": y.reshape(a.xz.shape), "h": h.reshape(s.h.shape)}


def titans(a: Names, s: Names) -> Values:
    """Theirs keeps the momentum with the opposite sign."""
    o, states = published("momentum_delta_rule/naive").recurrent_momentum_delta_rule_ref(
        a.q, a.k, a.v, (1 - a.alpha).log(), a.eta.log(), a.k, torch.ones_like(a.eta), 2 * a.theta,
        scale=1.0, initial_S=s.S, initial_M=-s.M, output_final_state=True,
    )  # fmt: skip
    return {"o": o, "S": states[0], "M": -states[1]}


FROM_A_STATE = (
    linear_attention, retnet, simple_gla, mamba2, mlstm_sigmoid, gla, hgrn2, rwkv6, rwkv7,
    delta_net, gated_delta_rule, gated_delta_net, kimi_delta_attention, delta_product,
    gated_slot_attention, min_gru, titans,
)  # fmt: skip
FROM_ZERO = (
    based, retnet_of_fixed_decay, xpos_retention, delta_net_block, conv_gated_delta_rule,
)  # fmt: skip

# Heads that differ, where theirs knows of it, and arguments drawn elsewhere than in their ranges:
# theirs takes the logarithm of some, and one has its decays written into it.
SHARED = {"kimi_delta_attention": {"q": 1, "k": 1}, "mamba2": {"B": 1, "C": 1}}
INNER = {"hgrn2": "f", "gated_slot_attention": "alpha", "titans": "alpha eta"}


def drawn(name: str, scan: str, carried: bool) -> tuple[Any, Values, Values]:
    """The recurrence, its arguments and its initial state, as leaves."""
    (recurrence,) = check(read_source(ROOT / f"examples/{scan}.scan")).recurrences
    case = Case("", Layout(batch=2, time=TIME, own_heads=SHARED.get(scan, {})), carried=carried)
    data = case.draw(recurrence, torch.float64, 0)
    tensors = dict(data.tensors)
    for gate in INNER.get(scan, "").split():
        tensors[gate] = 0.02 + 0.96 * tensors[gate]
    if name == "retnet_of_fixed_decay":
        tensors["gamma"] = 1 - 2.0 ** (-5 - torch.arange(2, dtype=torch.float64))
    start = data.initial_state or {}
    return recurrence, leaves(tensors), leaves(start)


def leaves(tensors: Mapping[str, Tensor]) -> Values:
    return {n: x.detach().clone().requires_grad_() for n, x in tensors.items()}


def ours(recurrence: Any, scan: str, tensors: Values, start: Values) -> Values:
    names = state_names(recurrence)
    parts = tuple(start[n] for n in names) if start else None
    *outputs, state = getattr(load(ROOT / f"examples/{scan}.scan"), scan)(
        *(tensors[n] for n in recurrence.arguments),
        initial_state=parts[0] if parts and len(parts) == 1 else parts,
        output_final_state=True,
        backend="torch",
    )
    ends = [state] if isinstance(state, Tensor) else list(state)
    named = zip((*(o.name for o in recurrence.outputs), *names), (*outputs, *ends), strict=True)
    return dict(named)


def gradients(values: Values, of: Values) -> Values:
    """Of sums of the values under random weights; nothing for what they do not depend on."""
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(x.shape, generator=generator).double() for x in values.values()]
    found = torch.autograd.grad([*values.values()], [*of.values()], seeds, allow_unused=True)
    return {n: x for n, x in zip(of, found, strict=True) if x is not None}


@pytest.mark.parametrize("theirs", [*FROM_A_STATE, *FROM_ZERO], ids=lambda f: f.__name__)
def test_it_agrees_with_what_is_published(theirs: Callable[[Names, Names], Values]) -> None:
    scan = theirs.__name__.removesuffix("_of_fixed_decay")
    recurrence, tensors, start = drawn(theirs.__name__, scan, theirs in FROM_A_STATE)
    want = theirs(Names(**tensors), Names(**start))
    got = {n: x for n, x in ours(recurrence, scan, tensors, start).items() if n in want}
    assert list(got) == list(want)
    want |= gradients(want, {f"d{n}": x for n, x in (tensors | start).items()})
    inner = {f"d{n}": x for n, x in (tensors | start).items() if f"d{n}" in want}
    got |= gradients(got, inner)
    fixed = {"dgamma"} if theirs is retnet_of_fixed_decay else set()
    assert {*want, *fixed} >= {*got} | {f"d{n}" for n in recurrence.arguments}
    off = {n: relative_rms(got[n], x) for n, x in want.items()}
    assert max(off.values()) < 1e-9, off
