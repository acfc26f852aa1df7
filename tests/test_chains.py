"""Chains: stages of different forms, joined by per-token values, agree with the judge.

Values, final states and all gradients, with sequences shorter than the windows that look back, and
cut anywhere; in float64 for torch and in float32 for Triton under its interpreter.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.analysis.cut import NEVER, cheapest
from scandsl.diagnostics import Source
from scandsl.driver import Options, check, compile_source
from scandsl.explain import explanation, lines
from scandsl.ir.nodes import Recurrence
from scandsl.plan import make_plan
from scandsl.testing.compare import Case, backends, runs
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT, imported

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SPECS = ROOT / "tests" / "specs" / "chains.scan"

STAGES = {
    "convolved": "map convolution chunk",
    "twice_convolved": "map convolution convolution chunk",
    "preconditioned": "sequential chunk",
    "stabilised": "convolution scan chunk",
    "sandwich": "chunk convolution chunk sequential",
    "flagged": "invariant sequential chunk",
    "turning": "convolution scan chunk",
    "heads_apart": "map convolution chunk",
    "batches": "sequential chunk",
    "alone": "convolution",
    "waiting": "sequential chunk sequential",
    "complex_inputs": "map chunk",
    "complex_reads": "",
    "beside": "scan chunk",
    "turning_apart": "scan chunk",
}
EXAMPLES = {
    "conv_gated_delta_rule": "convolution chunk",
    "h3": "convolution scan",
    "mlstm": "scan chunk",
    "rational_transfer_function": "convolution invariant",
    "short_convolution": "convolution",
}
IN_CHUNKS = ("slots", "later_query")
NAMES = (*STAGES, *IN_CHUNKS)


@cache
def recurrences() -> dict[str, Recurrence]:
    front = check(Source("chains.scan", SPECS.read_text("utf-8")))
    return {r.name: r for r in front.recurrences}


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    source = Source("chains.scan", SPECS.read_text("utf-8"))
    found = compile_source(source, Options(chunk=16))
    return imported(found.module, tmp_path_factory.mktemp("chains"), "chains")


def stages(recurrence: Recurrence) -> str:
    return " ".join(s.form.value for s in analyse(recurrence).stages)


@pytest.mark.parametrize("name", STAGES)
def test_stages_in_order(name: str) -> None:
    assert stages(recurrences()[name]) == STAGES[name]


@pytest.mark.parametrize("name", IN_CHUNKS)
def test_chunks_alone_are_no_chain(name: str) -> None:
    found = analyse(recurrences()[name])
    assert found.form.value == "chunk" and not found.stages


@pytest.mark.parametrize("name", EXAMPLES)
def test_stages_of_examples(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.scan").read_text("utf-8")
    assert stages(check(Source(name, text)).recurrences[0]) == EXAMPLES[name]


def test_what_is_handed_on_is_small() -> None:
    """One number per token goes from the stabiliser to the matrix, not the gates made of it."""
    found = analyse(recurrences()["stabilised"]).stages
    assert [len(s.passed) for s in found] == [1, 1, 0]
    handed = found[1].program.recurrence.outputs[0]
    assert handed.name in found[1].passed and handed.dims == ()


def test_explanations_show_the_chain() -> None:
    plan = make_plan(analyse(recurrences()["sandwich"]))
    data = explanation(plan)
    found = data["stages"]
    assert isinstance(found, list)
    assert " ".join(s["form"] for s in found) == STAGES["sandwich"]
    assert [sorted(s["hands_on"]) for s in found] == [["r"], ["c"], ["y"], []]
    assert [s["outputs"] for s in found] == [["first"], [], [], ["o", "plain"]]
    assert found[0]["kernels"]["forward"]["launches"] >= 1 and found[1]["kernels"] is None
    text = "\n".join(lines(plan))
    assert "stage 2: convolution of r_lag" in text
    assert "hands on r[V] = (read 1 of S)" in text


def shared_heads(recurrence: Recurrence) -> dict[str, int]:
    return {name: (1, 2, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}


def cases(recurrence: Recurrence) -> tuple[Case, ...]:
    own = shared_heads(recurrence)
    short = Layout(lengths=(17, 0, 1, 3, 2), heads=2, own_heads=own)
    fresh = Layout(lengths=(1, 2, 0, 20), heads=2, own_heads=own)
    return (
        Case("plain", Layout(batch=2, time=21, heads=2)),
        Case("carried", Layout(batch=2, time=3, heads=2, own_heads=own), carried=True),
        Case("packed and carried", short, carried=True),
        Case("packed", fresh),
    )


@pytest.mark.parametrize("name", NAMES)
def test_chains_agree_with_the_judge(name: str, module: ModuleType) -> None:
    recurrence = recurrences()[name]
    for run in runs(
        recurrence, module, cases(recurrence), only=("torch",), dtypes=(torch.float64,)
    ):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


TRITON = (
    ("convolved", torch.float32),
    ("convolved", torch.bfloat16),
    ("stabilised", torch.float32),
    ("stabilised", torch.bfloat16),
    ("sandwich", torch.float32),
    ("preconditioned", torch.float16),
    ("beside", torch.float32),
)


@pytest.mark.parametrize(("name", "dtype"), TRITON)
def test_chains_on_triton_agree_with_the_judge(
    name: str, dtype: torch.dtype, module: ModuleType
) -> None:
    recurrence = recurrences()[name]
    assert "triton" in backends(module, name)
    own = shared_heads(recurrence)
    packed = Layout(lengths=(66, 0, 1, 3), heads=2, own_heads=own)
    case = Case("packed and carried", packed, carried=True)
    for run in runs(recurrence, module, [case], only=("triton",), dtypes=(dtype,)):
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


@pytest.mark.parametrize("name", NAMES)
def test_a_sequence_may_be_cut_anywhere(name: str, module: ModuleType) -> None:
    recurrence = recurrences()[name]
    layout = Layout(batch=1, time=23, heads=2)
    data = draw(recurrence, {}, layout, dtype=torch.float64, seed=3)
    function = getattr(module, name)
    inputs = {x.name for x in recurrence.inputs}

    def part(begin: int, end: int, state: object) -> tuple[torch.Tensor, ...]:
        tensors = [
            data.tensors[n][:, begin:end] if n in inputs else data.tensors[n]
            for n in recurrence.arguments
        ]
        found: tuple[torch.Tensor, ...] = function(
            *tensors, initial_state=state, output_final_state=True, backend="torch"
        )
        return found

    *whole, last = part(0, 23, None)
    for marks in ((0, 1, 2, 4, 7, 23), (0, 16, 17, 23), (0, 22, 23)):
        state: object = None
        pieces: list[tuple[torch.Tensor, ...]] = []
        for begin, end in pairwise(marks):
            *outputs, state = part(begin, end, state)
            pieces.append(tuple(outputs))
        for place, output in enumerate(whole):
            joined = torch.cat([p[place] for p in pieces], 1)
            torch.testing.assert_close(joined, output, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(state, last, rtol=1e-9, atol=1e-9)


def test_packed_sequences_do_not_leak(module: ModuleType) -> None:
    """What one sequence holds, NaN included, changes nothing in its neighbours."""
    recurrence = recurrences()["convolved"]
    layout = Layout(lengths=(2, 5, 1, 9), heads=2)
    data = draw(recurrence, {}, layout, dtype=torch.float64, seed=1)
    tensors = [data.tensors[n].clone() for n in recurrence.arguments]
    cu = data.cu_seqlens

    def run() -> torch.Tensor:
        output: torch.Tensor = module.convolved(*tensors, cu_seqlens=cu, backend="torch")[0]
        return output

    before = run()
    for name, tensor in zip(recurrence.arguments, tensors, strict=True):
        if name in ("q", "k", "v"):
            tensor[:, 2:7] = torch.nan
    after = run()
    assert after[:, 2:7].isnan().any()
    assert torch.equal(before[:, :2], after[:, :2])
    assert torch.equal(before[:, 7:], after[:, 7:])


def test_backward_keeps_no_convolved_values(tmp_path: Path) -> None:
    """Only chunk starts are kept: what the convolutions give is computed again."""
    text = (ROOT / "examples" / "conv_gated_delta_rule.scan").read_text("utf-8")
    found = compile_source(Source("conv.scan", text), Options())
    module = imported(found.module, tmp_path, "conv")
    recurrence = found.front.recurrences[0]
    data = draw(recurrence, {}, Layout(batch=1, time=64, heads=2), dtype=torch.float64, seed=0)
    tensors = [data.tensors[n].clone().requires_grad_() for n in recurrence.arguments]
    shapes: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: (shapes.append(tuple(x.shape)), x)[1], lambda x: x
    ):
        module.conv_gated_delta_rule(*tensors, backend="torch")
    given = {tuple(x.shape) for x in tensors}
    kept = [s for s in shapes if s not in given and len(s) > 1]
    tokens = min(math.prod(x.shape) for x in tensors[:3])
    assert kept and all(math.prod(s) < tokens for s in kept)


# ---------------------------------------------------------------- cuts


def test_the_cheapest_cut_is_found_nearest_to_the_users() -> None:
    uses: dict[int, list[int]] = {0: [], 1: [0], 2: [0], 3: [1, 2], 4: [3], 5: [4], 6: [4]}
    sizes = dict.fromkeys(uses, 1) | {0: 8}
    assert cheapest(uses, sizes, [0], [5, 6]) == (4,)
    assert cheapest(uses, sizes, [0], [4]) == (4,)
    assert cheapest(uses, sizes | {3: 9, 4: 9}, [0], [5, 6]) == (5, 6)
    assert cheapest(uses, sizes | {3: 9, 4: 9, 5: 9}, [0], [5, 6]) == (1, 2)
    assert cheapest(uses, dict.fromkeys(uses, NEVER), [0], [5]) is None
