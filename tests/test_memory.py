"""Memory over 65,536 tokens: what the plan states holds for what torch allocates on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from scandsl.driver import Options, plan
from scandsl.explain import memory
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.plan import limits
from tests.generated import ROOT

TOKENS, SIZE = 65536, 32
ENTRIES = """
scan entries:
    input d[K] in [-1, 0], w[V], k[K], v[V], q[K]
    state S[K, V]
    S = exp(d * w) * S + k * v
    output o[V] = q @ S
"""
SCANS = (
    "examples/simple_gla.scan",
    "benchmarks/kimi_delta_attention_bounded.scan",
)


def drawn(recurrence: Recurrence, time: int) -> list[Tensor]:
    declared = {x.name: x for x in recurrence.inputs}
    out = []
    for name in recurrence.arguments:
        shape = (1, time, 1, *(SIZE for _ in declared[name].dims))
        x = torch.rand(shape) / 8
        r = declared[name].range
        out.append((-x if r is not None and r.high <= 0 else x).requires_grad_())
    return out


def beside_results(function: object, tensors: list[Tensor]) -> int:
    """The most that forward and backward hold at a time, without outputs and gradients."""
    assert callable(function)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        (out,) = function(*tensors, backend="torch")[:-1]
        seed = torch.ones_like(out)
        grads = torch.autograd.grad(out, tensors, seed)
    held = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most - sum(x.nbytes for x in (out, seed, *grads))


@pytest.mark.parametrize("file", [*SCANS, "entries"])
def test_no_more_than_the_plan_states(file: str, tmp_path: Path) -> None:
    """A state for every token would take 256 MiB, scores of all tokens 16 GiB."""
    path = ROOT / file
    if file == "entries":
        path = tmp_path / "entries.scan"
        path.write_text(ENTRIES, encoding="utf-8")
    _, (made,) = plan(read_source(path), Options())
    recurrence = made.program.recurrence
    function = getattr(load(path), recurrence.name)
    beside_results(function, drawn(recurrence, 64))
    short, long = (beside_results(function, drawn(recurrence, t)) for t in (TOKENS // 2, TOKENS))
    stated = memory(made, SIZE, TOKENS)
    assert stated is not None
    assert long <= stated.kept + stated.working < TOKENS * SIZE * SIZE * 4 / 3
    assert long >= stated.kept + stated.working / 4
    # what grows with the length are the states that are kept
    assert abs(long - short - stated.kept / 2) < 0.1 * stated.kept


def test_chunks_and_pieces_are_those_of_the_module() -> None:
    module = load(ROOT / SCANS[0])
    for size in (8, 64, 65, 256):
        assert module._chunk_length(size, size) == limits.torch_chunk(size * size)
    chunks = module._chunks(1, TOKENS, 64, None)
    piece = module._pieces(chunks, 1, 128, torch.device("cpu"), reverse=False)[0]
    assert piece.per_row * 64 * 128 == limits.PIECE
    module = load(ROOT / "examples" / "mamba.scan")
    piece = module._pieces(chunks, 1, 128, torch.device("cpu"), reverse=False, square=False)[0]
    assert piece.per_row * 64 * 128 == limits.ROWS_PIECE and module._ROWS == limits.ROWS
