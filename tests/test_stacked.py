"""Loops in tensor operations: one product for all matrices of a vector; which states are kept."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import ROOT, built, text_of

SEVERAL = """
scan several:
    input x[D], y[E], mark
    param A[D, D'], B[D, D'], C[D, D'], F[E, D], G[E, D], H[D, E], J[D, E]
    state h[D] = 0.3, e[E]
    old = lag(h, 2)
    a = tanh(A @ h[D'] + x)
    b = where(mark > 0, sigmoid(B @ h[D']), log(abs(C @ h[D'])))
    e = tanh(F @ h + 0.5 * (G @ h) + e * y) - G @ old
    h = 0.5 * a * b + 0.1 * ((J @ e) * (H @ e) + stopgrad(H @ e))
    output o[D] = h
    output p[E] = F @ old + e
"""


def function(text: str, name: str) -> str:
    found = re.search(rf"^def {name}\(.*?(?=^def |\Z)", text, re.M | re.S)
    assert found is not None, name
    return found[0]


def test_a_vector_meets_its_matrices_once() -> None:
    text = text_of(ROOT / "examples" / "lstm.scan")[0]
    assert function(text, "_lstm_sequential_step").count("torch.einsum(") == 1
    assert function(text, "_lstm_sequential_step_backward").count("torch.einsum(") == 2


def test_products_of_several_vectors_agree_with_the_judge(tmp_path: Path) -> None:
    """Stacks of two shapes, under a choice, of a past state; matrices with heads of their own."""
    module, recurrence = built(SEVERAL, tmp_path, "several", "sequential")
    own = {n: (4, 1, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    cases = (
        Case("plain", Layout(batch=3, time=17, heads=2)),
        Case("packed", Layout(lengths=(1, 9, 0, 3), heads=4, own_heads=own), carried=True),
    )
    text = Path(str(module.__file__)).read_text("utf-8")
    assert "entry" in function(text, "_several_sequential_step")
    for run in runs(recurrence, module, cases, only=("torch", "step"), dtypes=(torch.float64,)):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


VECTOR = """
scan small:
    input x[D], y[D]
    state h[D], m
    h = tanh(h * x + y + m)
    m = tanh(m + x @ h)
    output o[D] = h
"""
MATRIX = """
scan small:
    input x[D], y[D]
    state S[D, D']
    S = tanh(S + x * y[D'])
    output o[D'] = x @ S
"""


def test_states_no_larger_than_the_inputs_are_all_kept(tmp_path: Path) -> None:
    for spec, count in ((VECTOR, 130), (MATRIX, 3)):
        module, recurrence = built(spec, tmp_path, "small", "sequential")
        dims = {d.name: 8 for d in recurrence.dims}
        sizes = module._Sizes(2, 130, 2, 2, False, dims, *[torch.float32] * 3, torch.device("cpu"))
        shapes = module._saved_shapes(module._SMALL, sizes, True)
        assert {shape[0] for shape, _ in shapes} == {count}
