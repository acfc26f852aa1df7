"""The two schedules of the forward kernels: the same numbers, and what each launches and moves."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from scandsl.driver import OptionError, Options, plan
from scandsl.explain import explanation
from scandsl.loader import load, read_source
from scandsl.plan.plan import SCHEDULES
from scandsl.testing.aot import kernels_for
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import ROOT, arguments

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

PACKED = Case(
    "packed", Layout(lengths=(65, 0, 1, 20), heads=2, own_heads={"k": 1}), {"K": 16, "V": 20}, True
)


def path_of(scan: str) -> Path:
    return ROOT / "examples" / f"{scan}.scan"


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("scan", ["simple_gla", "gated_delta_rule", "kimi_delta_attention"])
def test_each_schedule_agrees_with_the_judge(scan: str, schedule: str) -> None:
    _, (found,) = plan(read_source(path_of(scan)), Options(schedule=schedule))
    module = load(path_of(scan), schedule=schedule)
    dtypes = (torch.float32,)
    for run in runs(found.program.recurrence, module, [PACKED], only=("triton",), dtypes=dtypes):
        assert run.ok, (run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("scan", ["linear_attention", "gla"])
def test_schedules_give_the_same_numbers(scan: str) -> None:
    _, (found,) = plan(read_source(path_of(scan)), Options())
    recurrence = found.program.recurrence
    tensors, _ = arguments(recurrence, Layout(batch=1, time=70, heads=1), torch.float32)
    values = []
    for schedule in SCHEDULES:
        call = getattr(load(path_of(scan), schedule=schedule), scan)
        out, state = call(*tensors, backend="triton", output_final_state=True)
        parts = [state] if isinstance(state, torch.Tensor) else list(state)
        grads = torch.autograd.grad(out.sum() + sum(p.sum() for p in parts), tensors)
        values.append([out, *parts, *grads])
    for one, two in zip(*values, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_the_machine_decides() -> None:
    """Without a GPU the fused kernels run; both are there."""
    text = Path(load(path_of("simple_gla")).__file__ or "").read_text(encoding="utf-8")
    assert "_simple_gla_forward_scan" in text and "_simple_gla_forward_carry" in text
    forced = Path(load(path_of("simple_gla"), schedule="split").__file__ or "").read_text("utf-8")
    assert "_simple_gla_forward_scan" not in forced


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(OptionError, match="unknown schedule 'both'"):
        plan(read_source(path_of("simple_gla")), Options(schedule="both"))


# ---------------------------------------------------------------- launches and bytes


@cache
def kernels_of(scan: str) -> Any:
    _, (found,) = plan(read_source(path_of(scan)), Options())
    return explanation(found)["kernels"]


BOUNDS = {
    "simple_gla": (1, 2300), "retnet": (1, 2300), "mamba2": (1, 2300),
    "linear_attention": (1, 2300),
    "delta_net": (2, 2300), "gated_delta_rule": (2, 2300), "kimi_delta_attention": (3, 3700),
}  # fmt: skip
REST = ("gla", "rwkv6", "rwkv7", "delta_product")


@pytest.mark.parametrize("scan", BOUNDS)
def test_forward_launches_and_bytes(scan: str) -> None:
    """Per token and head at K = V = 128 in bfloat16, what is kept for a backward aside."""
    forward = kernels_of(scan)["forward"]
    launches, bound = BOUNDS[scan]
    assert forward["launches"] <= launches
    assert forward["compulsory"] <= forward["bytes"] <= bound
    assert forward["bytes"] < kernels_of(scan)["forward_split"]["bytes"]


@pytest.mark.parametrize("scan", REST)
def test_forward_moves_few_times_the_compulsory(scan: str) -> None:
    forward = kernels_of(scan)["forward"]
    assert forward["launches"] <= 3
    assert forward["bytes"] <= 3.4 * forward["compulsory"]


@pytest.mark.parametrize("scan", (*BOUNDS, *REST))
def test_backward_launches(scan: str) -> None:
    assert kernels_of(scan)["backward"]["launches"] <= 4


# ---------------------------------------------------------------- devices


def test_kernels_are_launched_on_the_device_of_their_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = load(path_of("simple_gla"))
    assert module._current(torch.device("cuda", 1)).idx == 1
    current: list[torch.device] = []
    launched: list[list[torch.device]] = []
    kernel = module._kernel

    class Guard:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            current.append(self.device)

        def __exit__(self, *error: object) -> None:
            current.pop()

    monkeypatch.setattr(module, "_current", Guard)
    monkeypatch.setattr(module, "_kernel", lambda f: launched.append([*current]) or kernel(f))
    _, (found,) = plan(read_source(path_of("simple_gla")), Options())
    layout = Layout(batch=1, time=3, heads=1)
    tensors, _ = arguments(found.program.recurrence, layout, torch.float32)
    out, _ = module.simple_gla(*tensors, backend="triton")
    out.sum().backward()
    assert launched == [[torch.device("cpu")]] * 3


def test_a_target_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scandsl.testing.aot.importlib.util.find_spec", lambda name: None)
    _, (found,) = plan(read_source(path_of("simple_gla")), Options())
    module = load(path_of("simple_gla"))
    with pytest.raises(OptionError, match="triton has to be installed"):
        kernels_for(found.program.recurrence, module, "sm_90", 16)
