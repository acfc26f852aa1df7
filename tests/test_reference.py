"""The interpreter against hand-written numpy loops, and what it promises about calls."""

from __future__ import annotations

import ast
from itertools import pairwise

import numpy as np
import pytest
import torch

import scandsl.reference
from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import CumSum, Dim, Input, Kind, Load, Op, Output, Recurrence, Row, Value
from scandsl.ir.nodes import Tensor as Declared
from scandsl.reference import Interpretation, interpret
from tests.loops import LOOPS
from tests.reference_data import ROOT, Data, draw, read, run_loop, spec, started, tensors

REMEMBERING = [
    "everything_remembered", "conv_gated_delta_rule", "rational_transfer_function", "mamba3",
    "hippo_legs", "ttt_small_batches", "mlstm", "based", "short_convolution",
]  # fmt: skip


def length(name: str) -> int:
    return 35 if name in ("ttt_linear", "ttt_muon") else 9


def run(name: str, data: Data, **options) -> Interpretation:
    return interpret(
        spec(name), tensors(data.tensors), initial_state=tensors(data.state), **options
    )


def same(found: Interpretation, expected: Interpretation, tolerance: float = 1e-12) -> None:
    assert len(found.outputs) == len(expected.outputs)
    assert list(found.state) == list(expected.state)
    for a, b in zip(found.outputs, expected.outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for part in found.state:
        a, b = found.state[part], expected.state[part]
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# ---------------------------------------------------------------- against the loops


def test_every_example_has_its_loop() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.scan")} <= set(LOOPS)


def test_the_loops_know_nothing_of_us() -> None:
    """The loops import numpy alone; the interpreter imports the IR and torch alone."""

    def imported(path) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
        return found

    assert not {m for m in imported(ROOT / "tests/loops.py") if m.startswith(("torch", "scandsl"))}
    allowed = ("scandsl.ir", "scandsl.reference", "scandsl.diagnostics")
    for path in (ROOT / "scandsl/reference").glob("*.py"):
        ours = {m for m in imported(path) if m.startswith("scandsl")}
        assert all(m.startswith(allowed) for m in ours), (path, ours)


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("state", [False, True], ids=["from its start", "from a state"])
def test_outputs_and_state_are_those_of_the_loop(name: str, state: bool) -> None:
    data = draw(name, length(name), batch=2, state=state)
    if state and "t" in started(name, data):
        data.state["t"] = np.array([4, 31])
    outputs, final = run_loop(name, data)
    found = run(name, data)
    assert list(found.state) == list(final)
    pairs = [*zip(found.outputs, outputs, strict=True)]
    pairs += [(found.state[part], final[part]) for part in final]
    for a, b in pairs:
        assert a.shape == b.shape
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-10, atol=1e-10)


def test_another_recurrence_is_told_apart() -> None:
    data = draw("gated_delta_rule", 9)
    outputs, _ = run_loop("gated_delta_rule", data)
    data.tensors["beta"] = data.tensors["beta"] * (1 + 1e-6)
    assert not np.allclose(run("gated_delta_rule", data).outputs[0], outputs[0], 1e-10, 1e-10)


# ---------------------------------------------------------------- time


@pytest.mark.parametrize("name", REMEMBERING)
def test_cut_anywhere_and_carried_on_is_the_whole(name: str) -> None:
    data = draw(name, 8, batch=2)
    whole = run(name, data)
    inputs = {x.name for x in spec(name).inputs}
    for cut in range(9):

        def part(begin: int, end: int) -> dict[str, torch.Tensor]:
            given = tensors(data.tensors)
            return {n: x[:, begin:end] if n in inputs else x for n, x in given.items()}

        first = interpret(spec(name), part(0, cut), initial_state=tensors(data.state))
        second = interpret(spec(name), part(cut, 8), initial_state=first.state)
        pairs = zip(first.outputs, second.outputs, strict=True)
        joined = tuple(torch.cat(pair, 1) for pair in pairs)
        same(Interpretation(joined, second.state), whole)


@pytest.mark.parametrize("name", REMEMBERING)
@pytest.mark.parametrize("marks", [[0, 9], [0, 0, 1, 1, 5, 9, 9], [0, 3, 4, 9]])
def test_packed_sequences_are_separate(name: str, marks: list[int]) -> None:
    data = draw(name, 9)
    states = draw(name, 1, batch=len(marks) - 1, seed=5).state
    state = tensors(states)
    given = tensors(data.tensors)
    inputs = {x.name for x in spec(name).inputs}
    packed = interpret(
        spec(name), given, initial_state=state, cu_seqlens=torch.tensor(marks, dtype=torch.int32)
    )
    for n, (begin, end) in enumerate(pairwise(marks)):
        alone = interpret(
            spec(name),
            {k: x[:, begin:end] if k in inputs else x for k, x in given.items()},
            initial_state={k: x[n : n + 1] for k, x in state.items()},
        )
        own = {k: x[n : n + 1] for k, x in packed.state.items()}
        same(Interpretation(tuple(o[:, begin:end] for o in packed.outputs), own), alone)
        if begin == end:
            for part, x in state.items():
                torch.testing.assert_close(own[part], x[n : n + 1], rtol=0, atol=0)


def test_the_position_restarts_with_each_packed_sequence() -> None:
    data = draw("everything_remembered", 6, state=False)
    found = run("everything_remembered", data, cu_seqlens=torch.tensor([0, 2, 2, 6]))
    assert found.outputs[1][0, :, 0].tolist() == [0, 1, 0, 1, 2, 3]
    assert found.state["t"].tolist() == [2, 0, 4]
    assert found.state["t"].dtype == torch.int64


def test_positions_are_exact_beyond_float32() -> None:
    recurrence = read("scan s:\n    input x\n    output o = t\n    output odd = t % 2 * x\n")
    start = torch.tensor([2**53], dtype=torch.int64)
    found = interpret(recurrence, {"x": torch.ones(1, 3, 1)}, initial_state={"t": start})
    assert found.outputs[0].flatten().tolist() == [2**53, 2**53 + 1, 2**53 + 2]
    assert found.outputs[1].flatten().tolist() == [0, 1, 0]
    assert found.state["t"].tolist() == [2**53 + 3]


def test_what_lags_remember() -> None:
    """By hand: `x`, `x² + t`, the sign of the sum and the state, at their declared starts."""
    data = draw("everything_remembered", 6, state=False)
    x, g = data.tensors["x"][0], np.broadcast_to(data.tensors["g"][0], (6, 2))
    s_past, s = {-1: np.full((2, 4), 2.0)}, np.full((2, 4), 2.0)
    out = []
    for t in range(6):
        lag_x = x[t - 2] if t >= 2 else 0
        lag_y = x[t - 3] ** 2 + t - 3 if t >= 3 else 0
        lag_up = (x[t - 1].sum(-1, keepdims=True) > 0) if t >= 1 else 0
        s = np.exp(g[t])[:, None] * s + lag_x + lag_y * lag_up
        s_past[t] = s
        out.append(s + s_past.get(t - 3, s_past[-1]) - s_past[t - 1])
    found = run("everything_remembered", data)
    np.testing.assert_allclose(found.outputs[0][0].numpy(), out, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.state["x_lag"][0, :, 1].numpy(), x[4])
    np.testing.assert_allclose(found.state["y_lag"][0, :, 2].numpy(), x[3] ** 2 + 3)
    np.testing.assert_allclose(found.state["s_lag"][0, :, 0].numpy(), s)
    assert found.state["up_lag"].dtype == torch.bool


def test_no_steps_at_all() -> None:
    data = draw("mamba3", 0, batch=2)
    found = run("mamba3", data)
    assert found.outputs[0].shape == (2, 0, 2, 3)
    for part, x in data.state.items():
        np.testing.assert_array_equal(found.state[part].numpy(), x)


# ---------------------------------------------------------------- heads and the initial state


@pytest.mark.parametrize("own", [1, 2, 4])
def test_heads_are_shared_by_consecutive_groups(own: int) -> None:
    random = torch.Generator().manual_seed(1)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, dtype=torch.float64, generator=random).requires_grad_()

    few = {
        "q": drawn(2, 5, own, 3),
        "k": drawn(2, 5, own, 3),
        "v": drawn(2, 5, 4, 2),
        "gamma": drawn(own),
    }
    every = {
        n: x.detach().repeat_interleave(4 // x.shape[a], a).requires_grad_()
        for n, x, a in ((n, x, 0 if n == "gamma" else 2) for n, x in few.items())
    }
    shared, repeated = interpret(spec("retnet"), few), interpret(spec("retnet"), every)
    same(shared, repeated)
    weight = torch.randn(2, 5, 4, 2, dtype=torch.float64, generator=random)
    for result in (shared, repeated):
        ((result.outputs[0] * weight).sum() + result.state["S"].sum()).backward()
    for name, x in few.items():
        axis = 0 if name == "gamma" else 2
        grad = every[name].grad
        assert grad is not None
        summed = grad.unflatten(axis, (x.shape[axis], -1)).sum(axis + 1)
        torch.testing.assert_close(x.grad, summed)


def test_declared_starts_from_params_scalars_and_sizes() -> None:
    x = torch.rand(1, 0, 1, 4, dtype=torch.float64)
    w = torch.rand(2, 3, dtype=torch.float64)
    found = interpret(spec("started"), {"x": x, "w": w}).state
    expected = w[None, :, :, None] * 0.5 * torch.arange(4) + 4
    torch.testing.assert_close(found["S"], expected)
    torch.testing.assert_close(found["z"], torch.ones(1, 2, 4, dtype=torch.float64))
    assert bool((found["m"] == -torch.inf).all())
    changed = interpret(spec("started"), {"x": x, "w": w}, scalars={"c": 3.0}).state
    assert bool((changed["z"] == 6).all())
    both = interpret(spec("started"), {"x": x, "w": w}, scalars={"c": 3, "d": 1.5}).state
    assert bool((both["z"] == 1.5).all())


def test_missing_parts_of_the_state_start_as_declared() -> None:
    data = draw("mlstm", 4)
    only = {"C": tensors(data.state)["C"]}
    whole = dict(only)
    for part, x in started("mlstm", Data(data.tensors)).items():
        whole.setdefault(part, torch.tensor(x))
    given = tensors(data.tensors)
    same(
        interpret(spec("mlstm"), given, initial_state=only),
        interpret(spec("mlstm"), given, initial_state=whole),
        0,
    )


def test_a_given_state_is_also_its_own_past() -> None:
    """Before the start a lagged state has its initial value: the one that was given."""
    recurrence = read("scan s:\n    input x\n    state s\n    s += x\n    output o = lag(s, 3)\n")
    found = interpret(
        recurrence, {"x": torch.ones(1, 5, 1)}, initial_state={"s": torch.full((1, 1), 10.0)}
    )
    assert found.outputs[0].flatten().tolist() == [10, 10, 10, 11, 12]


# ---------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    ("first", "second", "computed"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.bfloat16, torch.float64, torch.float64),
        (torch.float64, torch.float16, torch.float64),
    ],
)
def test_dtypes(first: torch.dtype, second: torch.dtype, computed: torch.dtype) -> None:
    data = draw("lru", 5, state=False)
    given = {n: x.to(first if n == "x" else second) for n, x in tensors(data.tensors).items()}
    for x in given.values():
        x.requires_grad_()
    found = interpret(spec("lru"), given)
    assert found.outputs[0].dtype == first
    assert found.state["h"].dtype == computed.to_complex()
    found.outputs[0].sum().backward()
    for name, x in given.items():
        assert x.grad is not None and x.grad.dtype == x.dtype, name
    wide = {n: x.detach().to(computed) for n, x in given.items()}
    torch.testing.assert_close(
        found.state["h"], interpret(spec("lru"), wide).state["h"], rtol=0, atol=0
    )


def test_compute_dtype_makes_a_judge() -> None:
    data = draw("gated_delta_rule", 20, state=False)
    narrow = {n: x.float().requires_grad_() for n, x in tensors(data.tensors).items()}
    wide = {n: x.detach().double() for n, x in narrow.items()}
    judge = interpret(spec("gated_delta_rule"), narrow, compute_dtype=torch.float64)
    assert judge.outputs[0].dtype == torch.float64
    same(judge, interpret(spec("gated_delta_rule"), wide), 0)
    judge.outputs[0].sum().backward()
    assert all(x.grad is not None and x.grad.dtype == torch.float32 for x in narrow.values())


@pytest.mark.parametrize("wide", [False, True])
def test_complex_inputs(wide: bool) -> None:
    random = np.random.default_rng(0)
    complex_, real = (torch.complex128, torch.float64) if wide else (torch.complex64, torch.float32)
    x = random.standard_normal((1, 4, 2, 3)) + 1j * random.standard_normal((1, 4, 2, 3))
    w = random.standard_normal((1, 3)) + 1j * random.standard_normal((1, 3))
    a = random.random((2, 3))
    given = {
        "x": torch.tensor(x, dtype=complex_),
        "w": torch.tensor(w, dtype=complex_),
        "a": torch.tensor(a, dtype=real),
    }
    found = interpret(spec("complex_filter"), given)
    h, out = np.zeros((1, 2, 3), complex), []
    for t in range(4):
        h = a * h + w.conj() * x[:, t]
        out.append(h)
    expected = np.stack(out, 1)
    tolerance = 1e-12 if wide else 1e-5
    np.testing.assert_allclose(found.outputs[0].numpy(), expected**2, tolerance, tolerance)
    np.testing.assert_allclose(found.outputs[1].numpy(), abs(expected), tolerance, tolerance)
    assert found.outputs[0].dtype == found.state["h"].dtype == complex_
    assert found.outputs[1].dtype == real


def test_a_real_tensor_will_do_for_a_complex_one() -> None:
    x, w, a = torch.rand(1, 2, 1, 3), torch.rand(1, 3), torch.rand(1, 3)
    found = interpret(spec("complex_filter"), {"x": x, "w": w, "a": a})
    assert found.outputs[0].dtype == torch.complex64
    assert found.outputs[1].dtype == torch.float32


# ---------------------------------------------------------------- dimensions


def test_entries_of_static_dimensions() -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((1, 3, 1, 3, 2)), random.standard_normal((1, 3, 1, 2))
    found = interpret(spec("indexing"), {"x": torch.tensor(x), "y": torch.tensor(y)})
    last, every, trace, best, flag, turned = found.outputs
    A = np.zeros((3, 2))
    for t in range(3):
        for r in range(3):
            A[r] = 0.5 * A[r] + r * x[0, t, 0, r]
        A[1] = y[0, t, 0]
        now = x[0, t, 0]
        np.testing.assert_allclose(last[0, t, 0], A[2])
        np.testing.assert_allclose(every[0, t, 0], A.T)
        np.testing.assert_allclose(turned[0, t, 0], A.T)
        np.testing.assert_allclose(trace[0, t, 0], (now**2).sum(-1))
        assert int(best[0, t, 0]) == int(now.argmax())
        np.testing.assert_array_equal(flag[0, t, 0].numpy(), now[0] > y[0, t, 0])
    assert best.dtype == torch.int64
    assert flag.dtype == torch.bool


def test_argmax_counts_in_the_order_written() -> None:
    recurrence = read(
        "scan s:\n    input x[A, B]\n"
        "    output rows = argmax[A, B](x)\n    output columns = argmax[B, A](x)\n"
    )
    x = torch.zeros(1, 1, 1, 2, 3)
    x[0, 0, 0, 1, 0] = 1
    rows, columns = interpret(recurrence, {"x": x}).outputs
    assert (int(rows), int(columns)) == (3, 1)


EXPRESSIONS = [
    ("x % 0.7", lambda x, w: np.mod(x, 0.7)),
    ("floor(x) + sign(w)", lambda x, w: np.floor(x) + np.sign(w)),
    ("x ** 2 - w ** 3", lambda x, w: x**2 - w**3),
    ("0 < x < w", lambda x, w: (x > 0) & (x < w)),
    ("not (x >= 0 or w != w)", lambda x, w: ~(x >= 0)),
    ("clamp(x, -0.2, w)", lambda x, w: np.minimum(np.maximum(x, -0.2), w)),
    ("x * (w > 0) + K", lambda x, w: x * (w > 0) + 3),
    ("x * iota(K) + pi", lambda x, w: x * np.arange(3) + np.pi),
    ("where(x > w, x, w) + 1", lambda x, w: np.maximum(x, w) + 1),
    ("cos(x) + sin(w)", lambda x, w: np.cos(x) + np.sin(w)),
    ("expm1(x) / (1 + w * w)", lambda x, w: np.expm1(x) / (1 + w * w)),
    ("log1p(x * x) - rsqrt(w * w)", lambda x, w: np.log1p(x * x) - 1 / abs(w)),
    ("softplus(40 * x) - relu(w)", lambda x, w: np.logaddexp(0, 40 * x) - np.maximum(w, 0)),
    ("logaddexp(x, w)", np.logaddexp),
    ("im(complex(x, w) / complex(w, 1))",
     lambda x, w: ((x + 1j * w) / (w + 1j)).imag),
    ("softmax[K](x)", lambda x, w: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    ("l2norm[K](x, 0.5)", lambda x, w: x / np.sqrt((x * x).sum(-1, keepdims=True) + 0.5)),
    ("rmsnorm[K](x)", lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)),
    ("min[K](x) + mean[K](w) + 0 * x",
     lambda x, w: x.min(-1, keepdims=True) + w.mean(-1, keepdims=True) + 0 * x),
    ("logsumexp[K](x) + 0 * x",
     lambda x, w: np.log(np.exp(x).sum(-1, keepdims=True)) + 0 * x),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "expected"), EXPRESSIONS)
def test_expressions(expression: str, expected) -> None:
    recurrence = read(
        "scan s:\n    input x[K], w[K]\n"
        f"    output y[K] = {expression}\n    output unused = x @ w\n"
    )
    random = np.random.default_rng(3)
    x, w = random.standard_normal((2, 1, 4, 2, 3))
    found = interpret(recurrence, {"x": torch.tensor(x), "w": torch.tensor(w)}).outputs[0]
    made = expected(x, w)
    np.testing.assert_allclose(found.numpy(), made, rtol=1e-12, atol=1e-12)
    assert (found.dtype == torch.bool) == (made.dtype == bool)


def test_infinite_exponentials_stay_finite_where_they_should() -> None:
    recurrence = read(
        "scan s:\n    input x[K]\n    output a[K] = softplus(x)\n    output b[K] = logsigmoid(x)\n"
        "    output c = logsumexp[K](x)\n    output d[K] = sigmoid(x)\n"
    )
    x = torch.tensor([-1e4, 0.0, 1e4], dtype=torch.float64).reshape(1, 1, 1, 3)
    a, b, c, d = (o.flatten().tolist() for o in interpret(recurrence, {"x": x}).outputs)
    assert a == pytest.approx([0, np.log(2), 1e4])
    assert b == pytest.approx([-1e4, -np.log(2), 0])
    assert c == [1e4]
    assert d == [0, 0.5, 1]


# ---------------------------------------------------------------- wrong calls


def test_wrong_calls_name_the_argument() -> None:
    data = draw("retnet", 4, state=False)
    good = tensors(data.tensors)
    recurrence = spec("retnet")
    wrong = [
        ({k: x for k, x in good.items() if k != "v"}, {}, "needs the argument `v`"),
        ({**good, "x": good["q"]}, {}, "no argument `x`"),
        ({**good, "k": good["k"][..., :1]}, {}, "`k` has K = 1"),
        ({**good, "k": good["k"][:, :2]}, {}, "`k` has batch and time"),
        ({**good, "k": good["k"][0]}, {}, r"`k` must be \[B, T, H, K\]"),
        ({**good, "k": good["k"].to(torch.complex128)}, {}, "`k` must be real"),
        ({**good, "v": good["v"].repeat(1, 1, 3, 1)[:, :, :3]}, {}, "do not divide 3"),
        (good, {"scalars": {"scal": 1.0}}, "no scalar `scal`"),
        (good, {"initial_state": {"T": good["q"]}}, "no part of the state `T`"),
        (good, {"initial_state": {"S": torch.zeros(1, 1, 3, 2)}}, "initial state `S` must be"),
        (good, {"cu_seqlens": torch.tensor([0, 3])}, "must run from 0 to 4"),
        (good, {"cu_seqlens": torch.tensor([0, 3, 2, 4])}, "must not decrease"),
    ]
    for given, options, message in wrong:
        with pytest.raises(ValueError, match=message):
            interpret(recurrence, given, **options)
    two = tensors(draw("retnet", 4, batch=2, state=False).tensors)
    with pytest.raises(ValueError, match="batch 1"):
        interpret(recurrence, two, cu_seqlens=torch.tensor([0, 4]))


@pytest.mark.parametrize("op", [CumSum(0, "K"), Row("K"), Load("x")])
def test_operations_of_a_chunk_are_a_bug(op: Op) -> None:
    values = (Value(Input("x"), ("K",), Kind.REAL, True), Value(op, ("K",), Kind.REAL, True))
    recurrence = Recurrence(
        name="chunk",
        doc="",
        dims=(Dim("K"),),
        inputs=(Declared("x", ("K",)),),
        params=(),
        scalars=(),
        states=(),
        outputs=(Output("o", ("K",), Kind.REAL, 1),),
        values=values,
        arguments=("x",),
    )
    with pytest.raises(InternalError):
        interpret(recurrence, {"x": torch.zeros(1, 1, 1, 2)})


def test_the_interface() -> None:
    assert scandsl.reference.__all__ == ["Interpretation", "interpret"]
