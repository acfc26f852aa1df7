"""States whose sum is a maximum, a minimum or a log-sum-exp: values, ties, infinities, lengths.

The judge, and loops over tokens written by hand in torch, stand on one side; on the other chunks,
many at once or one after the other, and the kernels under Triton's interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.analysis import analyse
from scandsl.diagnostics import Source
from scandsl.driver import Options, check, compile_source
from scandsl.explain import explanation, lines
from scandsl.ir.nodes import Recurrence
from scandsl.plan import make_plan
from scandsl.reference import interpret
from scandsl.testing.compare import Case, backends, relative_rms, runs
from scandsl.testing.data import Layout
from tests.generated import ROOT, arguments, built, example, imported

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SPECS = ROOT / "tests" / "specs" / "semiring.scan"
STAGES = {
    "running": "",
    "tied": "",
    "queue": "",
    "drawdown": "scan scan",
    "soft_average": "scan chunk",
    "stable_average": "scan scan",
    "two_gates": "convolution scan scan chunk",
    "held": "",
}


def source() -> Source:
    return Source("semiring.scan", SPECS.read_text("utf-8"))


@cache
def recurrences() -> dict[str, Recurrence]:
    return {r.name: r for r in check(source()).recurrences}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    found = compile_source(source(), Options(chunk=16))
    return imported(found.module, tmp_path_factory.mktemp("semiring"), "semiring")


def of_one_chunk(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each piece be one chunk, as where there is much work."""
    many = module._pieces

    def pieces(chunks, heads, *rest, **how):
        return many(chunks, 10**9, *rest, **how)

    monkeypatch.setattr(module, "_pieces", pieces)


@pytest.mark.parametrize("name", STAGES)
def test_no_part_is_left_to_a_loop(name: str) -> None:
    found = analyse(recurrences()[name])
    assert " ".join(s.form.value for s in found.stages) == STAGES[name]
    assert found.form.value == ("chain" if STAGES[name] else "scan")
    assert {c.form.value for c in found.components} <= {"scan", "chunk", "convolution"}


@pytest.mark.parametrize("pieces", ["many", "one"])
@pytest.mark.parametrize("name", STAGES)
def test_chunks_agree_with_the_judge(
    name: str, pieces: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recurrence = recurrences()[name]
    if pieces == "one":
        of_one_chunk(module, monkeypatch)
    own = {n: (1, 2, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    cases = (
        Case("plain", Layout(batch=2, time=67, heads=2)),
        Case("one token", Layout(batch=1, time=1, heads=2, own_heads=own), carried=True),
        Case("packed", Layout(lengths=(1, 33, 0, 18), heads=2, own_heads=own), carried=True),
    )
    for run in runs(recurrence, module, cases, only=("torch",), dtypes=(torch.float64,)):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", ["tied", "drawdown", "stable_average", "two_gates"])
def test_kernels_agree_with_the_judge(name: str, module: ModuleType) -> None:
    recurrence = recurrences()[name]
    assert "triton" in backends(module, name)
    own = {n: (1, 2, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    case = Case("packed", Layout(lengths=(19, 0, 1), heads=2, own_heads=own), carried=True)
    for run in runs(recurrence, module, [case], only=("triton",), dtypes=(torch.float32,)):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


# ---------------------------------------------------------------- loops written by hand


def tied(x: Tensor, y: Tensor, g: Tensor, w: Tensor) -> tuple[Tensor, ...]:
    m = x.new_full(x[:, 0].shape, -1.0)
    out: list[list[Tensor]] = [[], [], []]
    for t in range(x.shape[1]):
        out[0].append(m * w)
        moved = m + (torch.floor(2 * g[:, t]) - 1)[..., None]
        m = torch.maximum(moved, torch.floor(2 * x[:, t]) * w / w)
        out[1].append(m * x[:, t])
        m = torch.maximum(torch.maximum(m, y[:, t].floor()) - 1, (x[:, t] + y[:, t]).floor())
        out[2].append(torch.tanh(m) * w)
    return tuple(torch.stack(o, 1) for o in out)


def drawdown(x: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    peak = torch.full_like(x[:, 0], -math.inf)
    fall = torch.full_like(x[:, 0], math.inf)
    out: list[list[Tensor]] = [[], []]
    for t in range(x.shape[1]):
        peak = torch.maximum(peak + g[:, t], x[:, t])
        fall = torch.minimum(x[:, t] - peak, fall)
        out[0].append(-fall)
        out[1].append(peak)
    return tuple(torch.stack(o, 1) for o in out)


def soft_average(s: Tensor, v: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """By the sums themselves, in which nothing is normalised."""
    total, weighted = torch.zeros_like(s[:, 0]), torch.zeros_like(v[:, 0])
    out: list[list[Tensor]] = [[], []]
    for t in range(s.shape[1]):
        total = total * g[:, t].exp() + s[:, t].exp()
        weighted = weighted * g[:, t].exp()[..., None] + s[:, t].exp()[..., None] * v[:, t]
        out[0].append(weighted / total[..., None])
        out[1].append(total.log())
    return tuple(torch.stack(o, 1) for o in out)


@pytest.mark.parametrize("loop", [tied, drawdown, soft_average])
def test_loops_written_by_hand_agree(
    loop: Callable[..., tuple[Tensor, ...]], module: ModuleType
) -> None:
    """Of whole numbers every second step of `tied` is a tie, and its gradient is shared."""
    recurrence = recurrences()[loop.__name__]
    tensors, _ = arguments(recurrence, Layout(batch=2, time=83, heads=2))
    if loop is drawdown:
        tensors[1].data[:, (5, 40)] = -math.inf
    true = loop(*tensors)
    found = getattr(module, loop.__name__)(*tensors, backend="torch")[:-1]
    seeds = [torch.randn_like(o) for o in true]
    for x, y in zip(found, true, strict=True):
        assert relative_rms(x, y) < 1e-12
    gradients = [
        torch.autograd.grad(
            sum((o * s).sum() for o, s in zip(outputs, seeds, strict=True)), tensors
        )
        for outputs in (found, true)
    ]
    for x, y in zip(*gradients, strict=True):
        assert relative_rms(x, y) < 1e-11


def test_ties_share_half_each(tmp_path: Path) -> None:
    """A maximum that ties at every token halves what goes back at each of them."""
    text = "scan top:\n    input x\n    state m\n    m = max(m, x)\n    output y = m\n"
    module, _ = built(text, tmp_path)
    x = torch.zeros(1, 70, 1, dtype=torch.float64, requires_grad=True)
    y, _ = module.top(x, backend="torch")
    y[0, -1, 0].backward()
    shares = 0.5 ** torch.arange(70, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(x.grad[0, :, 0], shares, rtol=0, atol=0)


# ---------------------------------------------------------------- infinities, growth, length


def test_what_is_infinite_ends_at_a_reset(tmp_path: Path) -> None:
    text = """
scan cut:
    input x, g, c
    state m = inf, l = inf
    m = where(c > 0, x, max(m + g, x))
    l = where(c > 0, x, logaddexp(l, x + g))
    output y = m
    output z = l
"""
    module, recurrence = built(text, tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=150, heads=1))
    tensors[2].data.fill_(-1.0)
    tensors[2].data[:, (70, 130)] = 1.0
    true = interpret(recurrence, dict(zip(recurrence.arguments, tensors, strict=True)))
    found = module.cut(*tensors, backend="torch")[:-1]
    for x, y in zip(found, true.outputs, strict=True):
        assert y[:, 70:].isfinite().all() and y[:, :70].isinf().all()
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    shares = [
        torch.autograd.grad(sum(o[:, 70:].sum() for o in outputs), tensors[:2])
        for outputs in (found, true.outputs)
    ]
    for x, y in zip(*shares, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["log_sum_exp", *(pytest.param(n, marks=pytest.mark.slow) for n in ("rwkv4", "mlstm"))]
)
@pytest.mark.parametrize("drift", [-1.0, 0.0, 0.5])
def test_long_sequences_lose_no_more_than_the_loop(name: str, drift: float, tmp_path: Path) -> None:
    """4096 tokens in float32, with inputs that grow or fall away by `drift` a token.

    Exponentials of differences of states have the error of a state beside that of the loop.
    """
    module, recurrence = example(name, tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=4096, heads=1), torch.float32)
    drift *= 0.01 if name == "mlstm" else 1.0  # which divides by exp(-m)
    grows = tensors[{"log_sum_exp": 0, "rwkv4": 1, "mlstm": 3}[name]]
    steps = drift * torch.arange(4096.0)
    grows.data += steps.view(1, -1, *[1] * (grows.dim() - 2))
    wide = [x.detach().double().requires_grad_() for x in tensors]
    found = []
    for given, backend in ((wide, "torch"), (tensors, "torch"), (tensors, "reference")):
        *outputs, _ = getattr(module, name)(*given, backend=backend)
        gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), given)
        found.append([*outputs, *gradients])
    size = max(10.0, abs(drift) * 4096)
    for true, chunks, loop in zip(*found, strict=True):
        assert loop.isfinite().all() and chunks.isfinite().all()
        bound = 2 * relative_rms(loop.double(), true) + size * 2.0**-24
        assert relative_rms(chunks.double(), true) < bound


# ---------------------------------------------------------------- what is told


def test_explanations_name_the_algebra() -> None:
    plan = make_plan(analyse(recurrences()["two_gates"]))
    data = explanation(plan)
    first = data["components"][1]
    assert first["form"] == "scan" and "(max, +)" in first["reason"]
    assert first["events"] == [
        {"event": "fold", "state": "m", "algebra": "max", "shift": "lf", "term": "i"}
    ]
    assert data["stages"][1]["kernels"]["forward"]["launches"] == 1
    assert "fold    m ← max(m + lf, i)" in "\n".join(lines(plan))


def test_values_beside_a_maximum_move_as_it_does() -> None:
    """RWKV-4: on a GPU one kernel in each direction carries all three states."""
    found = check(Source("rwkv4", (ROOT / "examples/rwkv4.scan").read_text("utf-8")))
    data = explanation(make_plan(analyse(found.recurrences[0])))
    assert [c["form"] for c in data["components"]] == ["scan"] * 3
    assert data["kernels"]["forward"]["launches"] == 1
