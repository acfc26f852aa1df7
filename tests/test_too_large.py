"""Kernels that do not fit or do not compile on a GPU: computed in tensor operations."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from scandsl.driver import check
from scandsl.loader import load, read_source
from scandsl.testing.data import Layout
from tests.generated import ROOT, arguments

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

from triton.runtime.errors import OutOfResources  # noqa: E402

PATH = ROOT / "examples" / "gated_delta_rule.scan"
PACKED = Layout(lengths=(9, 0, 30), heads=2)


NO_ROOM = OutOfResources(305152, 232448, "shared memory")
NO_CODE = RuntimeError("PassManager::run failed")  # what triton says where its compiler fails


def without_room(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> list[str]:
    """Kernels of one direction do not launch; the names of those that were asked for."""
    asked: list[str] = []
    kernel = module._kernel

    def lacking(function: Callable[..., None]) -> Any:
        asked.append(function.__name__)
        if part in function.__name__:
            raise error
        return kernel(function)

    monkeypatch.setattr(module, "_kernel", lacking)
    monkeypatch.setattr(module._GATED_DELTA_RULE_OPERATOR, "too_large", set())
    return asked


def results(module: ModuleType, backend: str) -> list[torch.Tensor]:
    (recurrence,) = check(read_source(PATH)).recurrences
    tensors, data = arguments(recurrence, PACKED, torch.float32)
    call = module.gated_delta_rule
    marks = data.cu_seqlens
    out, state = call(*tensors, cu_seqlens=marks, backend=backend, output_final_state=True)
    return [out, state, *torch.autograd.grad(out.sum() + state.sum(), tensors)]


@pytest.mark.parametrize("error", [NO_ROOM, NO_CODE], ids=["room", "code"])
@pytest.mark.parametrize("part", ["_forward_", "_backward_"])
def test_what_does_not_launch_is_computed_all_the_same(
    part: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load(PATH)
    wanted = results(module, "torch")
    asked = without_room(module, monkeypatch, part, error)
    with pytest.warns(UserWarning, match="^gated_delta_rule: .*It is computed") as told:
        found = results(module, "triton")
    assert len([w for w in told if "tensor operations" in str(w.message)]) == 1
    assert any(part in name for name in asked)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_other_failures_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(PATH)

    def broken(function: Callable[..., None]) -> Any:
        raise ValueError(function.__name__)

    monkeypatch.setattr(module, "_kernel", broken)
    with pytest.raises(ValueError, match="_gated_delta_rule_forward_"):
        results(module, "triton")
