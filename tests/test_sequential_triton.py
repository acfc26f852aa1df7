"""The sequential form on Triton: its numbers against the judge, and what callers see of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scandsl.ir.nodes import Recurrence
from scandsl.testing.compare import Case, backends, runs
from scandsl.testing.data import Layout
from tests.generated import EXAMPLES, arguments, built, example, imported, text_of

pytest.importorskip("triton")

# Checkpoints lie 16 steps apart, so that 18 steps cross one.
CROSSING = (18, 0, 1)


def judge(
    module: object, recurrence: Recurrence, case: Case, dtype: torch.dtype = torch.float32
) -> None:
    for run in runs(recurrence, module, (case,), only=("triton",), dtypes=(dtype,)):  # type: ignore[arg-type]
        assert run.ok, (run.case, run.failure, [v for v in run.verdicts if not v.ok])


def shared(recurrence: Recurrence) -> dict[str, int]:
    return {n: (2, 1)[i % 2] for i, n in enumerate(recurrence.arguments)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_every_example_agrees_with_the_judge(path: Path, tmp_path: Path) -> None:
    module, (recurrence,) = text_of(path, "sequential")
    made = imported(module, tmp_path, path.stem)
    assert backends(made, recurrence.name) == ("torch", "triton", "reference")
    layout = Layout(lengths=CROSSING, heads=2, own_heads=shared(recurrence))
    judge(made, recurrence, Case("packed", layout, carried=True))


@pytest.mark.parametrize("name", ["gated_delta_rule", "mamba", "lstm", "h3", "hippo_legs"])
def test_a_batch_of_several_checkpoints(name: str, tmp_path: Path) -> None:
    module, recurrence = example(name, tmp_path, "sequential")
    judge(module, recurrence, Case("plain", Layout(batch=2, time=35, heads=1), carried=True))


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_matrices_that_do_not_stay_on_chip(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, recurrence = example(name, tmp_path, "sequential")
    monkeypatch.setattr(module, "_step_warps", lambda numbers: 0)  # no room for any
    layout = Layout(lengths=(3, 2), heads=2, own_heads=shared(recurrence))
    judge(module, recurrence, Case("packed", layout, carried=True))


@pytest.mark.parametrize(
    "name", ["gru", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lstm", "hippo_legs"))]
)
def test_matrices_in_strips(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None held on chip, and a few of their rows at a time; twelve rows lie in tiles of sixteen."""
    module, recurrence = example(name, tmp_path, "sequential")
    monkeypatch.setattr(module, "_step_warps", lambda numbers: 0)
    strips: list[int] = []
    monkeypatch.setattr(module, "_step_strip", lambda rows, *_: strips.append(rows) or 4)
    sizes = {d.name: 12 for d in recurrence.dims if d.base is None}
    layout = Layout(lengths=(3, 2), heads=2, own_heads=shared(recurrence))
    judge(module, recurrence, Case("packed", layout, sizes, carried=True))
    assert len(strips) >= 2 and set(strips) == {16}


@pytest.mark.parametrize("name", ["kalman_filter"])
def test_products_whose_factors_go_through_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, recurrence = example(name, tmp_path, "sequential")
    monkeypatch.setattr(module, "_step_through", lambda numbers: True)
    layout = Layout(lengths=(3, 2), heads=2, own_heads=shared(recurrence))
    judge(module, recurrence, Case("packed", layout, {"N": 20}, carried=True))


@pytest.mark.parametrize("name", ["gated_delta_rule", "gla"])
def test_it_equals_the_chunked_form(name: str, tmp_path: Path) -> None:
    """The same numbers from two derivations: the step's adjoint, and that of a chunk."""
    layout = Layout(batch=1, time=40, heads=2)
    found = []
    for form in ("sequential", "chunk"):
        folder = tmp_path / form
        folder.mkdir()
        module, recurrence = example(name, folder, form)
        tensors, _ = arguments(recurrence, layout, torch.float32)
        scan = getattr(module, name)
        out, end = scan(*tensors, output_final_state=True, backend="triton")
        grads = torch.autograd.grad(out.square().sum() + end.square().sum(), tensors)
        found.append((out, end, *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=1e-4)


def test_steps_without_a_state_and_results_without_gradients(tmp_path: Path) -> None:
    spec = """
scan places:
    input x[A, B]
    output y[A, B] = 2 * x
    output i = argmax[A, B](x)
    output late = t > 1 and sum[A, B](x) > 0
"""
    module, recurrence = built(spec, tmp_path, "places")
    assert "triton" in backends(module, "places")
    judge(module, recurrence, Case("packed", Layout(lengths=(2, 0, 3), heads=2), carried=True))


def test_names_of_the_launching_functions_are_free(tmp_path: Path) -> None:
    spec = """
scan taken:
    input slots: complex, slots_re, warps[held], offsets in [0, 1]
    param hold[held, held'], hold_left[held], d_hold[held]
    scalar lane_held = 0.5
    state whole[held], room: complex, step
    whole = offsets * whole + tanh(hold @ whole[held'] + warps) * hold_left
    room = 0.5 * room + slots * slots_re
    step = step * lane_held + sum[held](whole * d_hold)
    output scratch[held] = whole + re(room) + step
    output grid: complex = room
"""
    module, recurrence = built(spec, tmp_path, "taken")
    layout = Layout(lengths=(3, 2), heads=2, own_heads={"warps": 1, "hold": 1})
    judge(module, recurrence, Case("packed", layout, carried=True))


@pytest.mark.parametrize(
    "line",
    [
        "z = log(z) + 0.1 * c * z",
        "z = sqrt(z) + c",
        "z = rsqrt(z + 3) * c",
        "z = tanh(z) * c + 0.5 * sin(z)",
        "z = cos(z) / (c + 3) + conj(z)",
        "z = where(abs(z) > 1, z / 2, z * c + 1)",
    ],
)
def test_complex_functions_as_pairs(line: str, tmp_path: Path) -> None:
    spec = f"""
scan pairs:
    input c: complex, x in [0.1, 1]
    state z: complex = 1
    {line}
    z = z + x
    output re_z = re(z)
    output whole: complex = z
"""
    module, recurrence = built(spec, tmp_path, "pairs")
    layout = Layout(lengths=(3, 2), heads=2, own_heads={"c": 1})
    judge(module, recurrence, Case("packed", layout, carried=True))


@pytest.mark.parametrize("name", ["rwkv7", "mlstm", "s4d"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    module, recurrence = example(name, tmp_path, "sequential")
    judge(module, recurrence, Case("plain", Layout(batch=1, time=18, heads=2)), dtype)


@pytest.mark.parametrize("name", ["mlstm", "gla", "mamba", "hgrn", "short_convolution"])
def test_shares_of_tiles_and_heads_add_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tiles of two, everything that can be cut is cut."""
    module, recurrence = example(name, tmp_path, "sequential")
    monkeypatch.setattr(module, "_step_block", lambda size, others, limit: 2)
    own = {n: (6, 1, 2)[i % 3] for i, n in enumerate(recurrence.arguments)}
    layout = Layout(lengths=(2, 4), heads=6, own_heads=own)
    judge(module, recurrence, Case("packed", layout, carried=True))
