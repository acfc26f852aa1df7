"""Steps put together at random: whatever analysis finds replays to the same numbers."""

from __future__ import annotations

import random

import pytest

from scandsl.analysis import analyse
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.verify import verify
from tests.analysis_tools import agree, replayed

WRITES = [
    "k * v", "b * k * x", "w * (v - x)", "(k + w) * v", "-(c * k) * (v * x)", "k * v / (2 + a)",
    "where(c > 0, k, w) * v", "A @[R] B * 0.3", "sum[R](A * B)", "c",
]  # fmt: skip
UPDATES = [
    "k * (v - w @ S)", "b * k * (w @ S)", "-b * k * (k @ S)", "w * (x * (k @ (b * S)))",
    "k * (w @ (S + k * v))", "0.2 * w * (k @ (a * S - k * v))", "k * (w @ S) / 4",
]  # fmt: skip
SCALAR_GATES = [
    "a", "exp(g)", "sigmoid(c)", "(1 - 0.5 * b)", "(1 / (1 + exp(-c)))", "exp(-softplus(c))",
    "0.7", "where(c > 0, 0, 1)", "where(c > 0, 0.5, a)", "a * exp(g)",
]  # fmt: skip
VECTOR_GATES = ["exp(gk)", "exp(gv)", "gk2"]
READS = [
    "q @ S", "q @ (S * 2 + k * v)", "b * (q @ S) + x", "(q @ S) / max(abs(q @ z), 1)",
    "tanh(q @ (S - w * v))", "sum[K](q * S)", "mean[K](S)", "Q @ S @[R] Q2",
    "q @ (S + u * k * v)", "softmax[V](w @ S)", "where(c > 0, q @ S, v)", "x * (z @ q)",
]  # fmt: skip
HEAD = """scan drawn:
    static R = 2
    input q[K], k[K], w[K], v[V], x[V], a in (0, 1], b in [0, 1], c, g in (-inf, 0],
          gk[K] in (-inf, 0], gv[V] in [-inf, 0], gk2[K] in (0, 1], A[R, K], B[R, V], Q[R, K], Q2[R]
    param u[K]
    state S[K, V], z[K]
"""


def drawn(rng: random.Random) -> str:
    """A spec with a matrix state and a normaliser, gates, writes, updates and reads mixed."""
    hard = rng.random() < 0.5
    gates = SCALAR_GATES + (VECTOR_GATES if hard else [])
    terms = WRITES + (UPDATES if hard else [])
    lines = []
    for place in range(rng.randint(2, 5)):
        match rng.randrange(5):
            case 0:
                lines.append(f"S *= {rng.choice(gates)}")
            case 1:
                lines.append(f"S += {rng.choice(terms)}")
            case 2:
                by = rng.choice(["b", "0.3", "sigmoid(c)"])
                lines.append(f"S = S - {by} * S + {rng.choice(terms)}")
            case 3:
                other = rng.choice(["0", "0.5 * S", "S + k * v", "k * v"])
                lines.append(f"S = where(c > 0, S, {other})")
            case _:
                lines.append(f"output o{place}[V] = {rng.choice(READS)}")
    lines.append(f"z = {rng.choice(SCALAR_GATES)} * z + {rng.choice(['k', 'w * c'])}")
    lines.append(f"S = {rng.choice(gates)} * S + {rng.choice(terms)}")
    lines.append(f"output o[V] = {rng.choice(READS)}")
    lines.append("e = a * b * c * g * (u @ gk) * (gk2 @ q) * (k @ w) * sum[R, K](A * Q)")
    lines.append("output used[V] = e * v * x * gv * (B @[R] Q2)")
    return HEAD + "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize("seed", range(40))
def test_drawn_steps_replay(seed: int) -> None:
    text = drawn(random.Random(seed))
    recurrence = check(Source("drawn.scan", text)).recurrences[0]
    found = analyse(recurrence)
    verify(found.recurrence)
    agree(recurrence, found.recurrence, seed)
    agree(recurrence, replayed(found), seed)
