"""Long sequences cut into segments that run at once, under Triton's interpreter.

The judge is the reference interpreter on the whole, under torch's autograd, in float64.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.generated import imported
from tests.test_slices import CHAINED, TIMED, Case, close, compiled, made_case

SHORT = (5, 0, 17, 1, 13)

CASES = (
    Case("simple_gla", "simple_gla", backend="triton", time=36),
    Case("linear_attention", "linear_attention", SHORT, backend="triton", time=36),
    Case("gla", "gla", SHORT, backend="triton", time=36, own_heads={"v": 1}),
    Case("gated_delta_rule", "gated_delta_rule", backend="triton", time=36),
    Case("packed", "gated_delta_rule", SHORT, carried=False, backend="triton", time=36),
    Case("retnet", "retnet", carried=False, backend="triton", time=36),
    Case("chained", CHAINED, backend="triton", time=36),
    Case("chained-packed", CHAINED, SHORT, backend="triton", time=36),
    Case("timed", TIMED, SHORT, backend="triton", time=36),
    Case("mamba", "mamba", backend="triton", time=36, own_heads={"B": 1}),
    Case("lru-packed", "lru", SHORT, backend="triton", time=36),
)
LENGTH = 11


def _narrow(x: torch.Tensor) -> torch.Tensor:
    if x.is_complex():
        return x.to(torch.complex64).requires_grad_()
    return x.float().requires_grad_() if x.is_floating_point() else x


@pytest.mark.parametrize("case", CASES, ids=[c.name for c in CASES])
def test_segments_equal_the_whole(case: Case, tmp_path: Path) -> None:
    made = made_case(case, 1, tmp_path)
    module = imported(compiled(case.spec, None)[0], tmp_path, "segments")
    expected = made["expected"]
    tensors = [x.float().requires_grad_() for x in made["tensors"].values()]
    states = [_narrow(x) for x in made["state"] or []]
    start = None if not states else states[0] if len(states) == 1 else tuple(states)
    found = []
    for tokens in (LENGTH, 0):
        module._SEGMENT_TOKENS = tokens
        *outputs, final = getattr(module, made["scan"])(
            *tensors,
            initial_state=start,
            output_final_state=True,
            cu_seqlens=made["cu_seqlens"],
            backend="triton",
        )
        ends = [final] if torch.is_tensor(final) else list(final)
        loss = sum((o * w).sum() for o, w in zip(outputs, made["weights"], strict=True))
        pairs = zip(ends, made["end_weights"], strict=True)
        smooth = [(x, w) for x, w in pairs if x.is_floating_point() or x.is_complex()]
        loss = loss + sum((x * w).sum() for x, w in smooth)
        loss = loss.real if loss.is_complex() else loss
        leaves = [x for x in (*tensors, *states) if x.requires_grad]
        gradients = torch.autograd.grad(loss, leaves)
        found.append([x.detach() for x in (*outputs, *ends, *gradients)])
    shares = [x for x in (*expected["gradients"], *expected["state_gradients"]) if x is not None]
    whole = [*expected["outputs"], *expected["ends"], *shares]
    for x, y in zip(found[0], whole, strict=True):
        close(x, y, torch.float32)
    # the order of rounding tells that segments did run
    assert any(not torch.equal(x, y) for x, y in zip(*found, strict=True))


def test_segments_are_known_to_the_operator(tmp_path: Path) -> None:
    """Shapes without values, and gradients through the registered operator."""
    made = made_case(CASES[4], 1, tmp_path)
    module = imported(compiled(CASES[4].spec, None)[0], tmp_path, "segments_fake")
    module._SEGMENT_TOKENS = 32
    tensors = [x.float().requires_grad_() for x in made["tensors"].values()]
    state = torch.zeros(len(SHORT), 2, 8, 8)
    run = module._GATED_DELTA_RULE_OPERATOR.run
    args = (*tensors, None, state, made["cu_seqlens"], "triton", False, True)
    torch.library.opcheck(run, args, test_utils=("test_schema", "test_faketensor"))


def test_few_long_sequences_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(compiled("simple_gla", None)[0], tmp_path, "segments_plan")
    given = [torch.zeros(1, 1, 2, 8) for _ in "qkv"]
    sizes = module._measured(module._SIMPLE_GLA, [*given, given[0][..., 0]], (None,), None)
    sizes = sizes._replace(length=65536)
    assert module._segment_length(sizes) == 0  # no device to fill
    monkeypatch.setattr(module, "_processors", lambda: 132)
    assert module._segment_length(sizes) == 2048
    assert module._segment_length(sizes._replace(heads=64)) == 0
    assert module._segment_length(sizes._replace(length=4096)) % 64 == 0
    assert module._segment_length(sizes._replace(length=2048)) == 0
