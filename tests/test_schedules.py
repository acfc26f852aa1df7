"""The two schedules of the forward kernels: the same numbers, and what each launches and moves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from scandsl.analysis.program import Form
from scandsl.driver import OptionError, Options, plan
from scandsl.explain import explanation
from scandsl.ir.nodes import Contract, CumSum, Load, made_of, operands
from scandsl.kernels.backward import backward_program, cotangent_stores
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.cost import compulsory_bytes, kernel_cost, setting
from scandsl.kernels.schedule import Kernel
from scandsl.kernels.schedule import schedule as scheduled
from scandsl.loader import load, read_source
from scandsl.plan.plan import SCHEDULES
from scandsl.testing.aot import kernels_for
from scandsl.testing.compare import Case, runs
from scandsl.testing.data import Layout
from tests.generated import EXAMPLES, ROOT, arguments

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
def told_of(scan: str) -> Any:
    _, (found,) = plan(read_source(path_of(scan)), Options())
    return explanation(found)


@cache
def kernels_of(scan: str) -> Any:
    """The kernels of chunks of an example, or of the stage that has some; None without."""
    told = told_of(scan)
    found = [told["kernels"], *(stage["kernels"] for stage in told["stages"])]
    return next((k for k in found if k is not None and "chunk" in k), None)


# Per token and head at K = V = 128 in bfloat16, what is kept for a backward aside.
SCALAR = """
    simple_gla retnet mamba2 linear_attention mlstm mlstm_sigmoid
""".split()
DELTA = """
    delta_net delta_net_block gated_delta_rule gated_delta_net conv_gated_delta_rule
""".split()
KEYED = ["kimi_delta_attention"]
BYTES = {scan: 2300 for scan in (*SCALAR, *DELTA)} | {scan: 3700 for scan in KEYED}
REST = """
    gla rwkv6 rwkv7 delta_product hgrn2 gated_oja_rule gated_slot_attention based
""".split()
NORMALISED = ["linear_attention", "mlstm", "based"]  # outputs divided by a sum over the keys
CHUNKED = [f.stem for f in EXAMPLES if kernels_of(f.stem) is not None]


def test_all_of_these_run_in_chunks() -> None:
    assert {*BYTES, *REST} <= {*CHUNKED}


@pytest.mark.parametrize("scan", CHUNKED)
def test_launches(scan: str) -> None:
    kernels = kernels_of(scan)
    assert kernels["forward"]["launches"] <= (1 if scan in SCALAR else 2)
    assert kernels["forward_split"]["launches"] <= (2 if scan in SCALAR else 3)
    prepares = scan not in SCALAR or scan in NORMALISED
    assert kernels["backward"]["launches"] <= (3 if prepares else 2)


@pytest.mark.parametrize("scan", BYTES)
def test_forward_bytes(scan: str) -> None:
    forward = kernels_of(scan)["forward"]
    assert forward["compulsory"] <= forward["bytes"] <= BYTES[scan]
    assert forward["bytes"] < kernels_of(scan)["forward_split"]["bytes"]


@pytest.mark.parametrize("scan", [scan for scan in CHUNKED if scan not in (*BYTES, "based")])
def test_forward_moves_few_times_the_compulsory(scan: str) -> None:
    forward = kernels_of(scan)["forward"]
    assert forward["bytes"] <= 3.4 * forward["compulsory"]


def test_a_feature_map_of_second_order_moves_few_times_the_compulsory() -> None:
    """Its state is K x K x V: at K = 128 no chip holds it; its paper has K = 16."""
    _, (found,) = plan(read_source(path_of("based")), Options())
    recurrence = found.program.recurrence
    at = replace(setting(recurrence, 128, 2), sizes={"K": 16, "K'": 16, "V": 128})
    kernels = scheduled(chunk_program(found.program, late=True), fused=True)
    costs = [kernel_cost(recurrence, kernel, at) for kernel in kernels]
    assert len(costs) == 1
    assert sum(c.read + c.written for c in costs) <= 3.4 * compulsory_bytes(recurrence, at)


@pytest.mark.parametrize("scan", CHUNKED)
def test_explain_names_events_merged_vectors_and_the_numeric_form(scan: str) -> None:
    found = [c for c in told_of(scan)["components"] if c["form"] == "chunk"]
    assert found
    for component in found:
        events = [event["event"] for event in component["events"]]
        assert "write" in events and "read" in events
        merged = {first for first, _ in component["merged"]}
        probes = [e["vector"] for e in component["events"] if e["event"] == "probe"]
        if scan != "rwkv7":  # its two vectors are independent
            assert merged == {*probes}
        forms = ("sums of logarithms, running outward", "products of factors", "no decay")
        assert sum(form in component["reason"] for form in forms) == 1
        assert ("decay" in events) == ("no decay" not in component["reason"])


@pytest.mark.parametrize("scan", ["gated_delta_rule", "kimi_delta_attention"])
def test_as_many_kernels_are_launched(scan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As told, also where heads share keys; sums over heads are torch's."""
    module = load(path_of(scan))
    kernel = module._kernel
    launched: list[str] = []
    monkeypatch.setattr(module, "_kernel", lambda f: launched.append(f.__name__) or kernel(f))
    _, (found,) = plan(read_source(path_of(scan)), Options())
    layout = Layout(batch=1, time=3, heads=2, own_heads={"q": 1, "k": 1})
    tensors, _ = arguments(found.program.recurrence, layout, torch.float32)
    out, _ = getattr(module, scan)(*tensors, backend="triton")
    assert len(launched) == kernels_of(scan)["forward"]["launches"]
    out.sum().backward()
    both = kernels_of(scan)["forward"]["launches"] + kernels_of(scan)["backward"]["launches"]
    assert len(launched) == both


# ---------------------------------------------------------------- what is cut over the grid


@pytest.mark.parametrize("scan", NORMALISED)
def test_a_normaliser_s_cotangent_leaves_the_walk(scan: str) -> None:
    """It sums over the values' dimension, which the walk against time cuts all the same."""
    _, (found,) = plan(read_source(path_of(scan)), Options())
    program = found.program
    part = next((s.program for s in program.stages if s.form is Form.CHUNK), program)
    forward = chunk_program(part, late=True)
    backward = backward_program(forward, part.recurrence.inputs, part.recurrence.params).program
    kernels = scheduled(backward, cotangent_stores(forward))
    prepare, walk, _ = kernels
    assert [k.name for k in kernels] == ["prepare", "carry", "chunk"]
    assert "V" in walk.tiled and prepare.tiled == () and prepare.strips is not None
    numbers = {s.name for s in prepare.stores if not s.dims}
    assert {s.name for s in walk.prepared} & numbers


# ---------------------------------------------------------------- registers


def walk_of(scan: str) -> Kernel:
    """The fused walk of an example."""
    _, (found,) = plan(read_source(path_of(scan)), Options())
    kernels = scheduled(chunk_program(found.program, late=True), fused=True)
    return next(k for k in kernels if k.name == "scan")


@pytest.mark.parametrize(("scan", "count"), [("rwkv7", 4), ("kimi_delta_attention", 0), ("gla", 0)])
def test_many_decayed_vectors_are_computed_apart(scan: str, count: int) -> None:
    """Each of them is decayed, nothing but products uses it, and no carried value goes into it."""
    walk = walk_of(scan)
    values = walk.program.values
    assert len(walk.vectors) == count
    carried = {c.name for c in walk.carries}
    for ref in walk.vectors:
        made = [values[r].op for r in made_of(values, [ref])]
        assert not [op for op in made if isinstance(op, Load) and op.name in carried]
        assert [op for op in made if isinstance(op, CumSum)]
        users = [values[r] for r in walk.refs if ref in operands(values[r].op)]
        assert users and all(isinstance(user.op, Contract) for user in users)


@pytest.mark.parametrize(("scan", "stages"), [("delta_product", 1), ("gated_delta_rule", 2)])
def test_walks_of_many_products_load_one_chunk_at_a_time(scan: str, stages: int) -> None:
    assert walk_of(scan).stages == stages
    text = Path(load(path_of(scan)).__file__ or "").read_text(encoding="utf-8")
    launch = text.split(f"_kernel(_{scan}_forward_scan)[grid](")[1].split("\n        )")[0]
    assert f"num_stages={stages}," in launch or f"stages or {stages}," in launch


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
