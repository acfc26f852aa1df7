"""What a call costs before it computes: checks once per signature, operators without detours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scandsl.ir.nodes import Recurrence
from scandsl.render.scan import scan_names
from scandsl.testing.data import Layout
from tests.generated import EXAMPLES, ROOT, arguments, imported, text_of

PATH = ROOT / "examples" / "gated_delta_rule.scan"


@pytest.fixture
def module(tmp_path: Path) -> ModuleType:
    return imported(text_of(PATH)[0], tmp_path, "launch")


def _given(time: int = 6, batch: int = 1) -> list[torch.Tensor]:
    recurrence = text_of(PATH)[1][0]
    tensors, _ = arguments(recurrence, Layout(batch=batch, time=time, heads=2), torch.float32)
    return [x.detach() for x in tensors]


# ---------------------------------------------------------------- checks


def test_a_signature_is_checked_once(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    fully = module._checked_fully
    monkeypatch.setattr(module, "_checked_fully", lambda *a: seen.append("") or fully(*a))
    given = _given()
    module.gated_delta_rule(*given)
    module.gated_delta_rule(*(x + 0 for x in given))
    module.gated_delta_rule(*(x.transpose(0, 2).contiguous().transpose(0, 2) for x in given))
    assert len(seen) == 1
    module.gated_delta_rule(*_given(time=7))
    module.gated_delta_rule(*given, output_final_state=True, backend="torch")
    module.gated_delta_rule(*given, scale=1)
    assert len(seen) == 4


def _cases() -> list[tuple[str, Callable[[list[torch.Tensor]], dict[str, Any]]]]:
    state = torch.zeros(1, 2, 3, 3)
    return [
        ("rank", lambda x: {"q": x[0][0]}),
        ("type", lambda x: {"k": None}),
        ("integers", lambda x: {"v": x[2].long()}),
        ("heads", lambda x: {"g": x[3].expand(1, 6, 2).repeat(1, 1, 2)[..., :3]}),
        ("length", lambda x: {"beta": x[4][:, :3]}),
        ("device", lambda x: {"beta": x[4].to("meta")}),
        ("scalar", lambda x: {"scale": "2"}),
        ("tensor for a scalar", lambda x: {"scale": torch.ones(())}),
        ("state", lambda x: {"initial_state": state}),
        ("parts", lambda x: {"initial_state": (state, state)}),
        ("no tensor", lambda x: {"initial_state": 3}),
        ("complex state", lambda x: {"initial_state": torch.zeros(1, 2, 4, 4) * 1j}),
        ("backend", lambda x: {"backend": "cuda"}),
        ("backend's type", lambda x: {"backend": ["torch"]}),
        ("keyword", lambda x: {"scal": 1.0}),
        ("group", lambda x: {"group": 3}),
        ("marks", lambda x: {"cu_seqlens": torch.tensor([0, 4, 5])}),
        ("falling marks", lambda x: {"cu_seqlens": torch.tensor([0, 7, 6])}),
        ("floating marks", lambda x: {"cu_seqlens": torch.tensor([0.0, 6.0])}),
        ("a list", lambda x: {"cu_seqlens": [0, 6]}),
        ("range", lambda x: {"g": -x[3] + 1, "check": True}),
    ]


@pytest.mark.parametrize(("name", "change"), _cases(), ids=[n for n, _ in _cases()])
def test_errors_are_the_same_behind_good_calls(
    name: str, change: Callable[[list[torch.Tensor]], dict[str, Any]], tmp_path: Path
) -> None:
    """The first call of a module and the hundredth say the same of the same fault."""
    names = ("q", "k", "v", "g", "beta")
    good = dict(zip(names, _given(), strict=True))
    messages = []
    for warm in (False, True):
        module = imported(text_of(PATH)[0], tmp_path, f"launch_{warm}")
        if warm:
            state = torch.zeros(1, 2, *(good[n].shape[-1] for n in "kv"))
            for backend in (None, "torch"):
                module.gated_delta_rule(**good, backend=backend)
                module.gated_delta_rule(**good, backend=backend, scale=2.0)
                module.gated_delta_rule(**good, backend=backend, initial_state=state)
                for ends in ([0, 2, 6], [0, 6]):
                    module.gated_delta_rule(**good, cu_seqlens=torch.tensor(ends))
        with pytest.raises((TypeError, ValueError)) as found:
            module.gated_delta_rule(**{**good, **change([*good.values()])})
        messages.append((found.type, str(found.value)))
    assert messages[0] == messages[1]


def test_a_state_comes_in_the_width_it_is_carried_in(module: ModuleType) -> None:
    given = _given()
    state = torch.randn(1, 2, given[1].shape[-1], given[2].shape[-1])
    for _ in range(2):
        narrow, _ = module.gated_delta_rule(*given, initial_state=state.half())
        wide, _ = module.gated_delta_rule(*given, initial_state=state.half().float())
        assert torch.equal(narrow, wide)


def test_signatures_do_not_pile_up(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_SEEN", 8)
    for time in range(1, 20):
        module.gated_delta_rule(*_given(time=time))
        assert len(module._SEEN) <= 8


def test_tensors_with_symbolic_sizes_leave_nothing_behind(module: ModuleType) -> None:
    given, mode = _given(), FakeTensorMode()
    fake = [mode.from_tensor(x) for x in given]
    with mode:
        out, _ = module.gated_delta_rule(*fake)
    assert out.shape == given[2].shape
    assert not module._SEEN


# ---------------------------------------------------------------- operators


def test_a_call_imports_no_compiler(tmp_path: Path) -> None:
    """Neither that of torch, which takes a second, nor ours."""
    (tmp_path / "one.py").write_text(text_of(PATH)[0], encoding="utf-8")
    code = (
        "import sys, torch, one; q = torch.ones(1, 2, 1, 4, requires_grad=True); g = q[..., 0] * 0;"
        "one.gated_delta_rule(q, q, q, g, g)[0].sum().backward();"
        "print([n for n in ('torch._dynamo', 'triton', 'scandsl') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_results_share_no_memory_with_arguments(path: Path, tmp_path: Path) -> None:
    """Which torch demands of operators: it may write into either."""
    text, recurrences = text_of(path)
    module = imported(text, tmp_path, f"alias_{path.stem}")
    for recurrence in recurrences:
        for layout in (Layout(batch=1, time=3, heads=1), Layout(lengths=(1, 2), heads=1)):
            _same_memory_nowhere(module, recurrence, layout)


def _same_memory_nowhere(module: ModuleType, recurrence: Recurrence, layout: Layout) -> None:
    tensors, data = arguments(recurrence, layout, torch.float32)
    operator = getattr(module, f"{scan_names(recurrence).table}_OPERATOR")
    calls: list[tuple[tuple[Any, ...], tuple[torch.Tensor, ...]]] = []

    def kept(run: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            calls.append((args, run(*args)))
            return calls[-1][1]

        return call

    operator.run, operator.run_backward = kept(operator.run), kept(operator.run_backward)
    *outputs, state = getattr(module, recurrence.name)(
        *tensors, cu_seqlens=data.cu_seqlens, output_final_state=True
    )
    parts = [state] if isinstance(state, torch.Tensor) else [*(state or ())]
    ends = [x for x in (*outputs, *parts) if x.requires_grad]
    torch.autograd.backward(ends, [torch.ones_like(x) for x in ends])
    assert len(calls) == 2
    for given, results in calls:
        places = [x.untyped_storage().data_ptr() for x in results if x.numel()]
        taken = {x.untyped_storage().data_ptr() for x in given if isinstance(x, torch.Tensor)}
        assert len({*places}) == len(places)
        assert taken.isdisjoint(places)
