"""Generated operators under torch's own machinery: opcheck, compile, export, checkpointing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from scandsl.ir.nodes import Recurrence
from scandsl.render.scan import scan_names
from scandsl.testing.data import Layout
from tests.generated import arguments, example

NAMES = ("simple_gla", "gru", "mlstm", "mamba3", "hippo_legs", "short_convolution")
LAYOUTS = (Layout(batch=2, time=7, heads=2), Layout(lengths=(3, 0, 4), heads=2))


def _operator(module: ModuleType, recurrence: Recurrence) -> object:
    return getattr(module, f"{scan_names(recurrence).table}_OPERATOR")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["plain", "packed"])
def test_opcheck(name: str, layout: Layout, tmp_path: Path) -> None:
    module, recurrence = example(name, tmp_path)
    tensors, data = arguments(recurrence, layout, torch.float32)
    scalars = [None] * len(recurrence.scalars)
    state = [None] * len(scan_names(recurrence).state)
    call = (*tensors, *scalars, *state, data.cu_seqlens, "torch", False, True)
    torch.library.opcheck(_operator(module, recurrence).run, call)


@pytest.mark.parametrize("name", NAMES)
def test_compile_fullgraph_with_dynamic_shapes(name: str, tmp_path: Path) -> None:
    module, recurrence = example(name, tmp_path)
    scan = getattr(module, name)
    torch._dynamo.reset()
    compiled = torch.compile(scan, fullgraph=True, dynamic=True, backend="aot_eager")
    for time in (5, 9):
        tensors, _ = arguments(recurrence, Layout(batch=2, time=time, heads=2), torch.float32)
        _same(scan, compiled, tensors)


def _same(scan: object, compiled: object, tensors: list[torch.Tensor]) -> None:
    results = []
    for call in (scan, compiled):
        out, state = call(*tensors, output_final_state=True)
        parts = [state] if isinstance(state, torch.Tensor) else list(state)
        loss = out.square().sum()
        for part in parts:
            if part.is_floating_point() or part.is_complex():
                loss = loss + part.abs().square().nan_to_num(0, 0, 0).sum()
        grads = torch.autograd.grad(loss, tensors, allow_unused=True)
        results.append((out, *parts, *grads))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_compile_packed(tmp_path: Path) -> None:
    module, recurrence = example("gated_delta_rule", tmp_path)
    torch._dynamo.reset()
    compiled = torch.compile(module.gated_delta_rule, fullgraph=True, backend="aot_eager")
    tensors, data = arguments(recurrence, Layout(lengths=(3, 0, 4), heads=2), torch.float32)
    out, _ = compiled(*tensors, cu_seqlens=data.cu_seqlens)
    torch.testing.assert_close(
        out, module.gated_delta_rule(*tensors, cu_seqlens=data.cu_seqlens)[0]
    )


def test_compile_a_step_under_autocast(tmp_path: Path) -> None:
    module, recurrence = example("gated_delta_rule", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=2, time=1, heads=2), torch.float32)
    token = [x.detach()[:, 0] for x in tensors]
    torch._dynamo.reset()
    step = torch.compile(module.gated_delta_rule_step, fullgraph=True, backend="aot_eager")
    _, state = module.gated_delta_rule_step(*token)
    plain = module.gated_delta_rule_step(*token, state=state)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = step(*token, state=state)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_export(tmp_path: Path) -> None:
    module, recurrence = example("mamba2", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=2, time=6, heads=2), torch.float32)
    params = {n: x.detach() for n, x in zip(recurrence.arguments, tensors, strict=True)}
    layer = module.Mamba2(2, **{n: params[n] for n in ("A_log", "D", "dt_bias")})
    inputs = tuple(params[n] for n in ("x", "dt", "B", "C"))
    program = torch.export.export(layer, inputs)
    torch.testing.assert_close(program.module()(*inputs)[0], layer(*inputs)[0])


def test_activation_checkpointing(tmp_path: Path) -> None:
    module, recurrence = example("gated_delta_rule", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=2, time=6, heads=2))
    plain = torch.autograd.grad(module.gated_delta_rule(*tensors)[0].sum(), tensors)
    out = checkpoint(lambda *x: module.gated_delta_rule(*x)[0], *tensors, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(out.sum(), tensors), plain, strict=True):
        torch.testing.assert_close(a, b)


def test_inference_keeps_nothing_for_backward(tmp_path: Path) -> None:
    module, recurrence = example("gru", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=70, heads=1), torch.float32)
    operator = _operator(module, recurrence)
    kept = operator.run(*(x.detach() for x in tensors), None, None, "torch", False, False)[-1]
    assert kept.numel() == 0
    with torch.no_grad():
        out, _ = module.gru(*tensors)
    assert not out.requires_grad


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_gradients_that_nobody_asks_for_are_not_computed(backend: str, tmp_path: Path) -> None:
    """Of fixed tensors none; where only the start is asked for, the whole backward does not run."""
    module, recurrence = example("gla", tmp_path)
    tensors, _ = arguments(recurrence, Layout(batch=1, time=20, heads=1), torch.float32)
    _, last = module.gla(*tensors, backend=backend, output_final_state=True)
    start = last.detach().requires_grad_()
    out, _ = module.gla(*tensors, backend=backend, initial_state=start)
    *_, true = torch.autograd.grad(out.square().sum(), [*tensors, start])

    def called(*args: object) -> None:
        raise AssertionError("gradients of the tensors are computed")

    operator = _operator(module, recurrence)
    operator.forms[backend] = operator.forms[backend]._replace(backward=called)
    fixed = [x.detach() for x in tensors]
    out, _ = module.gla(*fixed, backend=backend, initial_state=start)
    (found,) = torch.autograd.grad(out.square().sum(), [start])
    torch.testing.assert_close(found, true)
    with pytest.raises(AssertionError, match="are computed"):
        out, _ = module.gla(*fixed[:-1], tensors[-1], backend=backend, initial_state=start)
        torch.autograd.grad(out.square().sum(), [tensors[-1]])
