"""Calls may be captured in a CUDA graph: nothing on the way looks at values on the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.ir.nodes import Recurrence
from scandsl.testing.aot import record
from scandsl.testing.compare import backends
from scandsl.testing.data import Layout
from tests.generated import EXAMPLES, arguments, example, imported, text_of

LAYOUTS = (Layout(batch=2, time=70, heads=2), Layout(lengths=(3, 0, 67), heads=2))
IDS = ["plain", "packed"]
CAPTURED = ("simple_gla", "gated_delta_rule", "kimi_delta_attention", "mlstm", "gru", "mamba")


def _call(
    module: ModuleType, recurrence: Recurrence, given: list[Tensor], cu: Tensor | None, backend: str
) -> list[Tensor]:
    """Outputs, the final state, and all gradients."""
    *outputs, state = getattr(module, recurrence.name)(
        *given, cu_seqlens=cu, output_final_state=True, backend=backend
    )
    parts = [state] if isinstance(state, Tensor) else [*(state or ())]
    ends = [x for x in (*outputs, *parts) if x.requires_grad]
    ones = [torch.ones_like(x) for x in ends]
    grads = torch.autograd.grad(ends, given, ones, allow_unused=True)
    return [*ends, *(g for g in grads if g is not None)]


# ---------------------------------------------------------------- without a GPU


@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_calls_look_at_no_values(path: Path, layout: Layout, tmp_path: Path) -> None:
    """Tensors of the meta device have none; all that would wait for a GPU fails on them."""
    text, recurrences = text_of(path)
    module = imported(text, tmp_path, f"meta_{path.stem}")
    for recurrence in recurrences:
        tensors, data = arguments(recurrence, layout, torch.float32)
        given = [x.detach().to("meta").requires_grad_() for x in tensors]
        cu = None if data.cu_seqlens is None else data.cu_seqlens.to("meta")
        _call(module, recurrence, given, cu, "torch")
        if "triton" in backends(module, recurrence.name):
            record(module, partial(_call, module, recurrence, given, cu, "triton"))


def test_a_look_at_a_value_would_be_seen(tmp_path: Path) -> None:
    module, recurrence = example("simple_gla", tmp_path)
    tensors, data = arguments(recurrence, LAYOUTS[1], torch.float32)
    given = [x.detach().to("meta") for x in tensors]
    assert data.cu_seqlens is not None
    with pytest.raises((NotImplementedError, RuntimeError)):
        module.simple_gla(*given, cu_seqlens=data.cu_seqlens.to("meta"), check=True)


# ---------------------------------------------------------------- with a GPU


def _graph(run: Callable[[], list[Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
    """A graph of a call, behind three calls of which the kernels are compiled."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    return graph, results


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", LAYOUTS, ids=IDS)
@pytest.mark.parametrize("name", CAPTURED)
def test_a_captured_call_replays_with_new_data(name: str, layout: Layout, tmp_path: Path) -> None:
    """Forward and backward in one graph; also with other boundaries of packed sequences."""
    module, recurrence = example(name, tmp_path)
    for backend in ("triton", "torch"):
        tensors, data = arguments(recurrence, layout, torch.float32)
        given = [x.detach().cuda().requires_grad_() for x in tensors]
        cu = None if data.cu_seqlens is None else data.cu_seqlens.cuda()
        run = partial(_call, module, recurrence, given, cu, backend)
        graph, results = _graph(run)
        others, _ = arguments(recurrence, layout, torch.float32, seed=1)
        with torch.no_grad():
            for x, new in zip(given, others, strict=True):
                x.copy_(new)
            if cu is not None:
                cu.copy_(torch.tensor([0, 20, 20, 70]))
        graph.replay()
        torch.cuda.synchronize()
        found = [x.clone() for x in results]
        for a, b in zip(found, run(), strict=True):
            torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_step_replays(tmp_path: Path) -> None:
    """Decoding: the state that a step leaves is copied to where the next one finds it."""
    module, recurrence = example("gated_delta_rule", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=8, heads=2), torch.float32)
    tokens = [x.detach().cuda() for x in tensors]
    here = [x[:, 0].clone() for x in tokens]
    _, state = module.gated_delta_rule_step(*here)
    state.zero_()

    def run() -> list[Tensor]:
        out, after = module.gated_delta_rule_step(*here, state=state)
        state.copy_(after)
        return [out]

    graph, (out,) = _graph(run)
    state.zero_()
    rows = []
    for i in range(8):
        for x, whole in zip(here, tokens, strict=True):
            x.copy_(whole[:, i])
        graph.replay()
        rows.append(out.clone())
    true, end = module.gated_delta_rule(*tokens, output_final_state=True)
    torch.testing.assert_close(torch.stack(rows, 1), true, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(state, end, atol=1e-4, rtol=1e-3)
