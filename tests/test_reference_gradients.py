"""The interpreter's gradients: against slopes of the numpy loops, and behind `where`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scandsl.ir.nodes import uses_time
from scandsl.reference import interpret
from tests.loops import LOOPS
from tests.reference_data import Data, draw, read, run_loop, spec, tensors

# Lengths in which something happens: a mini-batch of 16 ends.
LENGTHS = {"ttt_linear": 18, "ttt_muon": 18, "seasonal_autoregression": 16}


def weighted(outputs, state, weights) -> float:
    """A loss in which every number of the outputs and of the state has a weight of its own."""
    total = 0.0
    for key, x in [*enumerate(outputs), *state.items()]:
        if key != "t":
            total = total + (weights[key].conj() * x).sum().real
    return total


def weights_for(outputs, state):
    random = np.random.default_rng(7)
    out = {}
    for key, x in [*enumerate(outputs), *state.items()]:
        w = random.standard_normal(x.shape)
        out[key] = w + 1j * random.standard_normal(x.shape) if np.iscomplexobj(x) else w
    return out


def moved(data: Data, name: str, step: np.ndarray) -> Data:
    group = {part: x + step if part == name else x for part, x in data.tensors.items()}
    state = {part: x + step if part == name else x for part, x in data.state.items()}
    return Data(group, state)


def slope(name: str, data: Data, part: str, direction: np.ndarray, weights) -> float:
    """Five-point central difference of the loop's loss along a direction."""
    h = 2e-4

    def loss(factor: float) -> float:
        return weighted(*run_loop(name, moved(data, part, factor * h * direction)), weights)

    return (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * h)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("from_state", [False, True], ids=["from its start", "from a state"])
def test_gradients_are_the_slopes_of_the_loop(name: str, from_state: bool) -> None:
    data = draw(name, length=LENGTHS.get(name, 6), seed=1, state=from_state)
    if from_state and uses_time(spec(name)):
        data.state["t"] = np.array([1])  # in the middle of a mini-batch
    arguments, state = tensors(data.tensors, grad=True), tensors(data.state, grad=True)
    result = interpret(spec(name), arguments, initial_state=state)
    weights = weights_for(*run_loop(name, data))
    as_tensors = {key: torch.tensor(w) for key, w in weights.items()}
    weighted(result.outputs, result.state, as_tensors).backward()
    random = np.random.default_rng(3)
    for part, x in {**arguments, **state}.items():
        if part == "t":
            continue
        direction = random.standard_normal(x.shape)
        if x.is_complex():
            direction = direction + 1j * random.standard_normal(x.shape)
        assert x.grad is not None, part
        found = float((x.grad.numpy().conj() * direction).sum().real)
        expected = slope(name, data, part, direction, weights)
        scale = abs(x.grad.numpy() * direction).sum() + abs(expected)
        assert scale > 0, part
        assert abs(found - expected) <= 1e-7 * scale, part


def test_a_planted_fault_is_seen() -> None:
    """The comparison can fail: the loop of another recurrence has other slopes."""
    data = draw("gla", length=6, seed=1)
    arguments = tensors(data.tensors, grad=True)
    result = interpret(spec("gla"), arguments)
    result.outputs[0].sum().backward()
    wrong = Data({**data.tensors, "g": data.tensors["g"] * 1.001})
    outputs, state = run_loop("gla", wrong)
    weights = {0: np.ones_like(outputs[0]), "S": np.zeros_like(state["S"])}
    direction = np.ones_like(data.tensors["g"])
    found = float((arguments["g"].grad.numpy() * direction).sum())
    assert abs(found - slope("gla", wrong, "g", direction, weights)) > 1e-6 * abs(found)


# ---------------------------------------------------------------- the branch not taken

SINGULAR = [
    "log(x)", "log1p(x - 1)", "sqrt(x)", "rsqrt(x)", "1 / x", "x ** 0.5", "x ** -1.5", "x ** x",
    "exp(1e4 * x) * exp(1e4)", "exp(1e4 * (1 - x))", "log(abs(x))", "tanh(log(x))",
    "sigmoid(log(x))", "gelu(1 / x)", "silu(log(x))", "elu(log(x))", "softplus(log(x))",
    "logsigmoid(1 / x)",
    "sin(1 / x)", "cos(log(x))", "erf(log(x))", "floor(log(x))", "sign(log(x))", "relu(log(x))",
    "expm1(1e4 * (1 - x))", "abs(log(x))", "logaddexp(log(x), 1)", "clamp(log(x), 0, 1)",
    "max(log(x), 0)", "min(1 / x, log(x))", "1 % x", "(1 / x) % 0.3", "sqrt(log(x)) * inf",
    "log(x) * (1 / x)", "exp(-1 / x) / x", "re(log(complex(x, 0)))", "abs(complex(x, 0) / x)",
    "sum[K](log(x * w))", "mean[K](sqrt(x * w))", "max[K](log(x * w))", "min[K](w / x)",
    "logsumexp[K](log(x * w))", "softmax[K](log(x * w)) @ w", "l2norm[K](w / x) @ w",
    "rmsnorm[K](w / x) @ w", "layernorm[K](log(x * w)) @ w", "w @ log(x * w)",
    "sum[K](log(w * x) ** 2) / x", "l2norm[K](x * w, 0) @ w", "rmsnorm[K](log(x * w)) @ w",
]  # fmt: skip


def behind_where(expression: str):
    text = f"""
scan guarded:
    input x, w[K]
    output y = where(x > 0, {expression}, 0)
    output unused[K] = x * w
"""
    return read(text)


@pytest.mark.parametrize("expression", SINGULAR)
@pytest.mark.parametrize("at", [0.0, -1.0, -0.0])
def test_the_branch_not_taken_gets_zero(expression: str, at: float) -> None:
    x = torch.full((1, 1, 1), at, dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.5, 1.5], dtype=torch.float64).reshape(1, 1, 1, 2).requires_grad_()
    y = interpret(behind_where(expression), {"x": x, "w": w}).outputs[0]
    first = torch.autograd.grad(y, (x, w), torch.ones_like(y), create_graph=True, allow_unused=True)
    for g in first:
        assert g is None or bool((g == 0).all())
    kept = [g for g in first if g is not None and g.requires_grad]
    total = sum((g.sum() for g in kept), torch.zeros((), requires_grad=True))
    for g in torch.autograd.grad(total, (x, w), allow_unused=True):
        assert g is None or bool((g == 0).all())


@pytest.mark.parametrize("expression", SINGULAR)
def test_the_branch_taken_has_its_own_gradient(expression: str) -> None:
    x = torch.full((1, 1, 1), 0.7, dtype=torch.float64, requires_grad=True)
    w = torch.tensor([0.5, 1.5], dtype=torch.float64).reshape(1, 1, 1, 2).requires_grad_()
    if "inf" in expression or "floor" in expression or "1e4" in expression:
        pytest.skip("no finite slope to compare with")

    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return interpret(behind_where(expression), {"x": x, "w": w}).outputs[0]

    assert torch.autograd.gradcheck(call, (x, w))


def gradient(expression: str, *xs: float) -> list[float]:
    """Gradients of an expression of `x0`, `x1`, ... at a point."""
    names = [f"x{i}" for i in range(len(xs))]
    recurrence = read(f"scan s:\n    input {', '.join(names)}\n    output y = {expression}\n")
    given = {
        name: torch.full((1, 1, 1), x, dtype=torch.float64, requires_grad=True)
        for name, x in zip(names, xs, strict=True)
    }
    interpret(recurrence, given).outputs[0].sum().backward()
    return [float(x.grad.sum()) for x in given.values()]


INF = math.inf

TIES = [
    ("max(x0, x1)", (1.0, 1.0), [0.5, 0.5]),
    ("min(x0, x1)", (1.0, 1.0), [0.5, 0.5]),
    ("max(x0, x1)", (-INF, -INF), [0.5, 0.5]),
    ("relu(x0)", (0.0,), [0.0]),
    ("elu(x0)", (0.0,), [1.0]),
    ("abs(x0)", (0.0,), [0.0]),
    ("sign(x0)", (3.0,), [0.0]),
    ("floor(x0)", (3.5,), [0.0]),
    ("clamp(x0, 0, 1)", (0.0,), [1.0]),
    ("clamp(x0, 0, 1)", (1.0,), [1.0]),
    ("clamp(x0, 0, 1)", (1.5,), [0.0]),
    ("clamp(x0, x1, x2)", (0.5, 1.0, 2.0), [0.0, 1.0, 0.0]),
    ("x0 % x1", (7.5, 2.0), [1.0, -3.0]),
    ("x0 % x1", (-0.5, 2.0), [1.0, 1.0]),
    ("x0 ** x1", (0.0, 0.0), [0.0, 0.0]),
    ("x0 ** 2", (0.0,), [0.0]),
    ("x0 ** 2", (-3.0,), [-6.0]),
    ("x0 ** 1", (0.0,), [1.0]),
    ("logaddexp(x0, x1)", (-INF, -INF), [0.0, 0.0]),
    ("logaddexp(x0, x1)", (-INF, 2.0), [0.0, 1.0]),
    ("logaddexp(x0, x1)", (3.0, 3.0), [0.5, 0.5]),
    ("softplus(x0)", (-800.0,), [0.0]),
    ("softplus(x0)", (0.0,), [0.5]),
    ("logsigmoid(x0)", (-800.0,), [1.0]),
    ("exp(x0)", (-INF,), [0.0]),
    ("stopgrad(x0) * x0", (3.0,), [3.0]),
    ("x0 * (x0 > 1)", (3.0,), [1.0]),
    ("re(conj(complex(x0, x1)) * complex(2, 3))", (0.0, 0.0), [2.0, 3.0]),
    ("im(conj(complex(x0, x1)) * complex(2, 3))", (0.0, 0.0), [3.0, -2.0]),
    ("abs(complex(x0, x1))", (3.0, 4.0), [0.6, 0.8]),
    ("abs(complex(x0, x1))", (0.0, 0.0), [0.0, 0.0]),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "at", "expected"), TIES)
def test_ties_and_edges(expression: str, at: tuple[float, ...], expected: list[float]) -> None:
    assert gradient(expression, *at) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("reduction", "at", "expected"),
    [
        ("max[K]", [1.0, 3.0, 3.0], [0.0, 0.5, 0.5]),
        ("min[K]", [1.0, 1.0, 3.0], [0.5, 0.5, 0.0]),
        ("logsumexp[K]", [-INF, -INF, -INF], [0.0, 0.0, 0.0]),
        ("logsumexp[K]", [-INF, 1.0, 1.0], [0.0, 0.5, 0.5]),
        ("mean[K]", [1.0, 2.0, 3.0], [1 / 3, 1 / 3, 1 / 3]),
    ],
)
def test_ties_of_reductions(reduction: str, at: list[float], expected: list[float]) -> None:
    recurrence = read(f"scan s:\n    input x[K]\n    output y = {reduction}(x)\n")
    x = torch.tensor(at, dtype=torch.float64).reshape(1, 1, 1, 3).requires_grad_()
    interpret(recurrence, {"x": x}).outputs[0].sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx(expected)


def test_logaddexp_of_two_minus_infinities_is_minus_infinity() -> None:
    recurrence = read("scan s:\n    input x[K]\n    output y = logaddexp(max[K](x), min[K](x))\n")
    x = torch.full((1, 1, 1, 2), -math.inf, dtype=torch.float64)
    assert float(interpret(recurrence, {"x": x}).outputs[0]) == -math.inf


# ---------------------------------------------------------------- smooth functions, twice

SMOOTH = [
    "exp(x)", "expm1(x)", "log(x * x + 1)", "log1p(x * x)", "sqrt(x * x + 1)", "rsqrt(x * x + 1)",
    "sin(x)", "cos(x)", "tanh(x)", "sigmoid(x)", "logsigmoid(x)", "softplus(x)", "silu(x)",
    "elu(x)", "gelu(x)", "erf(x)", "x / (w * w + 1)", "(x * x + 1) ** w", "logaddexp(x, w)",
    "x * w",
    "softmax[K](x)", "l2norm[K](x)", "rmsnorm[K](x)", "layernorm[K](x)", "w * logsumexp[K](x)",
    "w * max[K](x)", "w * mean[K](x * x)", "w * (x @ w)", "abs(complex(x, w))",
    "re(exp(complex(x, w)))", "im(tanh(complex(x, w)))", "re(complex(x, w) / complex(w, 2))",
    "re(sqrt(complex(x, w)))", "re(log(complex(x, w)))", "re(sin(complex(x, w)))",
]  # fmt: skip


@pytest.mark.parametrize("expression", SMOOTH)
def test_first_and_second_derivatives(expression: str) -> None:
    recurrence = read(
        "scan s:\n    input x[K], w[K]\n"
        f"    output y[K] = {expression}\n    output unused = x @ w\n"
    )
    random = torch.Generator().manual_seed(2)

    def drawn() -> torch.Tensor:
        x = torch.randn(1, 2, 1, 3, dtype=torch.float64, generator=random)
        return x.requires_grad_()

    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return interpret(recurrence, {"x": x, "w": w}).outputs[0]

    given = (drawn(), drawn())
    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


# ---------------------------------------------------------------- the gradient operator


def test_grad_of_a_vanished_gradient_is_still_trained_through() -> None:
    """At W = 0 the inner gradient of U is zero; its derivative by W is not."""
    recurrence = read("""
scan two_layers:
    input k[K], v[V]
    param U[K, M], W[M, V]
    output d[K, M] = grad(sum[V]((tanh(k @ U) @ W - v) ** 2), U)
""")
    random = torch.Generator().manual_seed(4)
    k, v = (torch.randn(1, 2, 1, n, dtype=torch.float64, generator=random) for n in (3, 2))
    U = torch.randn(1, 3, 4, dtype=torch.float64, generator=random).requires_grad_()
    W = torch.zeros(1, 4, 2, dtype=torch.float64, requires_grad=True)

    def call(U: torch.Tensor, W: torch.Tensor) -> torch.Tensor:
        return interpret(recurrence, {"k": k, "v": v, "U": U, "W": W}).outputs[0]

    assert bool((call(U, W) == 0).all())
    assert torch.autograd.gradcheck(call, (U, W))
    assert torch.autograd.gradgradcheck(call, (U, W))


def test_grad_keeps_batch_and_heads_apart() -> None:
    recurrence = read("""
scan inner:
    input x[K]
    param w[K]
    output d[K] = grad((x @ w) ** 3, w)
""")
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    w = torch.randn(1, 5, dtype=torch.float64)
    (d,) = interpret(recurrence, {"x": x, "w": w}).outputs
    torch.testing.assert_close(d, 3 * ((x * w).sum(-1, keepdim=True)) ** 2 * x)


def test_grad_of_grad_and_stopgrad() -> None:
    recurrence = read("""
scan nested:
    input x
    first = grad(x ** 4, x)
    output second = grad(first, x)
    output held = grad(stopgrad(x) * x, x)
    output none = grad(stopgrad(x), x)
""")
    x = torch.tensor([1.5, -2.0], dtype=torch.float64).reshape(1, 2, 1)
    second, held, none = interpret(recurrence, {"x": x}).outputs
    torch.testing.assert_close(second, 12 * x**2)
    torch.testing.assert_close(held, x)
    assert bool((none == 0).all())


def test_grad_needs_no_grad_mode_of_the_caller() -> None:
    data = draw("ttt_mlp", length=4)
    with torch.no_grad():
        without = interpret(spec("ttt_mlp"), tensors(data.tensors, grad=True))
    plain = interpret(spec("ttt_mlp"), tensors(data.tensors))
    traced = interpret(spec("ttt_mlp"), tensors(data.tensors, grad=True))
    torch.testing.assert_close(without.outputs[0], traced.outputs[0], rtol=0, atol=0)
    torch.testing.assert_close(plain.outputs[0], traced.outputs[0], rtol=0, atol=0)
    assert not plain.outputs[0].requires_grad
    assert not without.outputs[0].requires_grad
    assert traced.outputs[0].requires_grad
