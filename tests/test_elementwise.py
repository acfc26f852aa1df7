"""States that move entry by entry: lengths, pieces, what is kept, infinities before a reset."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.analysis.program import Form
from scandsl.reference import interpret
from scandsl.testing.compare import Case, relative_rms, runs
from scandsl.testing.data import Layout
from tests.generated import arguments, built, example

RESET = """
scan cut:
    input x[D], a[D] in [-1, 1], c, q[D]
    state s[D]: complex
    s = where(c > 0, complex(x, 0), complex(a, 0.1) * s + complex(x, q))
    output y[D] = re(s)
    output z[D] = im(s)
"""

GATES = """
scan gates:
    input x[D], g[D] in [-inf, 0], b[D] in [-1, 1], c[D]
    param r[D]
    state s[D] = r, n
    s = where(c > 1, 0, exp(g) * b) * s + x
    n = 0.5 * n + sum[D](x)
    s *= r
    output y[D] = s * n
"""

# Rows are summed over a dimension of the state, so that the heads lie innermost.
SUMMED = {
    "results_without_heads": """
scan results_without_heads:
    input x[D], B[N], c
    param A[D, N], C[D, N]
    state h[D, N]
    f = where(t % 3 == 0, 0.5, 1)
    h = where(c > 1, 0, f * sigmoid(A)) * h + x * B
    output y[D] = C @[N] h
    output e = 2.0
    output p = t + 1
""",
    "entries_of_static_dimensions": """
scan entries_of_static_dimensions:
    static R = 3
    input x[R], a[R] in [-1, 1], q[K], b[K]
    state h[R, K]
    h = a * sigmoid(b) * h + x * b
    u = h[0] + 2 * h[2]
    output y = q @ u
    output z[R] = q @[K] h
""",
    "matrices_beside": """
scan matrices_beside:
    input x[P], B[N], g
    param W[Q, P], A[P, N], E[N, M]
    state h[N, P]
    h = exp(-softplus(g) * exp(A)) * h + x * B
    output y[Q] = W @[P] (B @[N] h)
    output z[P, M] = E @[N] h
""",
}


def ran(function, tensors, seeds, **options):
    """Outputs, final state and gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    *outputs, end = function(*leaves, output_final_state=True, backend="torch", **options)
    loss = sum((o * s).sum() for o, s in zip(outputs, seeds, strict=True))
    return [*outputs, end, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("name", ["mamba", "lru", "s4d"])
def test_pieces_of_many_chunks_and_of_one_agree(name: str, tmp_path: Path) -> None:
    """Over three chunks and a rest, in float64, with the judge on one side."""
    module, recurrence = example(name, tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=2, time=210, heads=2))
    true = interpret(recurrence, dict(zip(recurrence.arguments, tensors, strict=True)))
    seeds = [torch.randn_like(o) for o in true.outputs]
    loss = sum((o * s).sum() for o, s in zip(true.outputs, seeds, strict=True))
    gradients = torch.autograd.grad(loss, tensors)
    expected = [*true.outputs, *true.state.values(), *gradients]
    many = module._pieces
    for pieces in (many, lambda chunks, heads, *rest, **how: many(chunks, 10**9, *rest, **how)):
        module._pieces = pieces
        found = ran(getattr(module, name), tensors, seeds)
        for x, y in zip(found, expected, strict=True):
            assert relative_rms(x, y) < 1e-9


def test_what_is_infinite_ends_at_a_reset(tmp_path: Path) -> None:
    module, recurrence = built(RESET, tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=200, heads=1))
    x, _, c, _ = (t.detach() for t in tensors)
    c.fill_(-1.0)
    c[:, (70, 130)] = 1.0
    x[:, 30] = math.inf
    true = interpret(recurrence, dict(zip(recurrence.arguments, tensors, strict=True)))
    outputs = module.cut(*tensors, backend="torch")[:2]
    for output, expected in zip(outputs, true.outputs, strict=True):
        assert expected[:, 70:].isfinite().all()
        torch.testing.assert_close(output[:, 70:], expected[:, 70:], rtol=1e-12, atol=1e-12)


def test_gates_that_are_zero_negative_and_reset(tmp_path: Path) -> None:
    """Real states all of whose entries decay by themselves: none takes matrices of rows."""
    module, recurrence = built(GATES, tmp_path)
    assert {c.form for c in analyse(recurrence).components} == {Form.SCAN}
    own = {"x": 2, "g": 1, "b": 2, "c": 1, "r": 1}
    layout = Layout(lengths=(70, 0, 1, 139), heads=2, own_heads=own)
    (run,) = runs(
        recurrence,
        module,
        [Case("gates", layout, carried=True)],
        only=("torch",),
        dtypes=(torch.float64,),
    )
    assert run.ok, (run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", SUMMED)
def test_heads_innermost_agree_with_the_judge(name: str, tmp_path: Path) -> None:
    module, recurrence = built(SUMMED[name], tmp_path, name)
    own = {n: (1, 2, 4)[i % 3] for i, n in enumerate(recurrence.arguments)}
    packed = Layout(lengths=(70, 0, 1, 130), heads=4, own_heads=own)
    cases = (
        Case("plain", Layout(batch=2, time=150, heads=3)),
        Case("packed", packed, carried=True),
    )
    for run in runs(recurrence, module, cases, only=("torch",), dtypes=(torch.float64,)):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


def test_only_starts_of_chunks_are_kept(tmp_path: Path) -> None:
    module, recurrence = example("s4d", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=256, heads=1))
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (kept.append(x.numel()), x)[1], lambda x: x
    ):
        _, end = module.s4d(*tensors, output_final_state=True, backend="torch")
    given = sum(x.numel() for x in tensors)
    assert given < sum(kept) <= given + 4 * end.numel() + 16
