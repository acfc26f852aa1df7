"""Products of cotangents with slopes that torch has kernels for are found, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from scandsl.diagnostics import Source
from scandsl.driver import Options, compile_source
from scandsl.ir.adjoint import vjp
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Kind, Ref, UnaryFn
from scandsl.render.slopes import Slope, slope
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import imported

SPEC = """
scan smooth:
    input x[D], y, c[D]: complex
    param w[D], m[D, D']
    state h[D], z[D]: complex
    u = gelu(w * x) + silu(y * x) + tanh(x) + sigmoid(x) * y
    h = tanh(m @ h[D'] + u) * sigmoid(y) + gelu(y) * silu(h)
    z = 0.5 * z * tanh(c) + sigmoid(y) * x
    output o[D] = silu(h) + re(z)
"""
FUNCTIONS: tuple[UnaryFn, ...] = ("silu", "gelu", "tanh", "sigmoid")


def leaves(kind: Kind = Kind.REAL) -> tuple[Builder, Ref, Ref]:
    b = Builder(())
    return b, b.load("first", (), kind), b.load("second", (), kind)


def slopes(b: Builder) -> list[Slope]:
    return [x for r in range(len(b.values)) if (x := slope(b.values, r)) is not None]


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_derived_slopes_are_found(fn: UnaryFn) -> None:
    b, g, x = leaves()
    y = b.unary(fn, x)
    end = vjp(b, {y: g}, (x,))[x]
    assert end is not None
    found = slope(b.values, end)
    assert found is not None
    assert found.kernel == f"torch.ops.aten.{fn}_backward" and found.g == g
    assert found.at == (y if fn in ("tanh", "sigmoid") else x)


def test_those_of_complex_values_are_not() -> None:
    b, g, x = leaves(Kind.COMPLEX)
    end = b.mul(g, b.sub(b.const(1.0), b.square(b.unary("tanh", x))))
    assert b.kind_of(end) is Kind.COMPLEX and not slopes(b)


def test_what_is_made_elsewhere_is_not_looked_into() -> None:
    b, g, x = leaves()
    y = b.unary("tanh", x)
    slow = b.sub(b.const(1.0), b.square(y))
    end = b.mul(g, slow)
    assert slope(b.values, end, lambda ref: ref == slow) is None
    found = slope(b.values, end, lambda ref: ref in (x, y, g))
    assert found is not None and found.at == y


def test_what_only_looks_like_a_slope_is_left() -> None:
    b, g, x = leaves()
    one = b.const(1.0)
    s, other = b.unary("sigmoid", x), b.unary("sigmoid", g)
    b.mul(g, b.sub(one, b.square(x)))  # no tanh
    b.mul(g, b.mul(s, b.sub(one, other)))  # of two arguments
    b.mul(g, b.mul(s, b.add(one, b.mul(g, b.sub(one, s)))))
    b.mul(g, b.mul(s, b.sub(b.const(2.0), s)))
    b.mul(g, b.mul(s, b.sub(s, one)))
    assert not slopes(b)


def test_they_have_the_right_values(tmp_path: Path) -> None:
    made = compile_source(Source("smooth.scan", SPEC), Options())
    for fn in FUNCTIONS:
        assert f"torch.ops.aten.{fn}_backward(" in made.module
    module = imported(made.module, tmp_path, "smooth")
    layout = Layout(lengths=(9, 0, 1), heads=2, own_heads={"y": 1})
    case = Case("packed", layout, carried=True)
    for run in runs(made.front.recurrences[0], module, (case,), only=("torch",)):
        assert run.ok, (run.dtype, run.failure, [v for v in run.verdicts if not v.ok])
