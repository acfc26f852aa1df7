"""The derived chunk program and its adjoint, against the naive loop and autograd in float64.

Chunks are carried out one after the other by `tests.evaluate`, which knows nothing of printers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from scandsl.analysis import analyse
from scandsl.analysis.program import Form, Program
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import Binary, Iota, Range, Recurrence, Scores, ScoresAdjoint
from scandsl.kernels.backward import Backward, backward_program, cotangent
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.joint import joint
from scandsl.kernels.program import COLUMN, INNER, POSITION, ROW, ChunkProgram
from scandsl.reference import interpret
from scandsl.testing.compare import relative_rms
from scandsl.testing.data import Layout, draw
from tests.evaluate import Evaluator
from tests.generated import ROOT

SIZES = {"K": 3, "V": 2, "D": 3, "N": 3, "P": 2, "R": 2, "M": 3, "J": 2, "W": 4}
TIME, CHUNK = 11, 4  # the last chunk holds three tokens
BOUND = 1e-11
RESETS = torch.tensor([2, 4, 5, 9])  # steps at which a gate that may be −∞ is
FILES = (*(f"tests/specs/{x}.scan" for x in ("chunk", "decays", "wide", "analysis")), *(
    f"examples/{x}.scan" for x in ("linear_attention", "retnet", "mamba2", "simple_gla", "based")
))  # fmt: skip


@cache
def programs() -> dict[str, Program]:
    """All scans of the files that take the chunked form, by name."""
    found = {}
    for file in FILES:
        path = ROOT / file
        for recurrence in check(Source(path.name, path.read_text(encoding="utf-8"))).recurrences:
            program = analyse(recurrence)
            if program.form is Form.CHUNK:
                found[f"{path.stem}-{recurrence.name}"] = program
            else:
                assert path.stem == "analysis", f"{recurrence.name}: {program.reason}"
    return found


NAMES = tuple(programs())


# ---------------------------------------------------------------- carrying out chunk programs


class Chunked:
    """One sequence of one head, cut into chunks of `size` tokens."""

    def __init__(self, recurrence: Recurrence, tensors: Mapping[str, Tensor], size: int) -> None:
        inputs = {x.name for x in recurrence.inputs}
        self.recurrence = recurrence
        self.inputs = {n: tensors[n][0, :, 0] for n in inputs}
        self.params = {p.name: tensors[p.name][0] for p in recurrence.params}
        self.size = size
        self.time = next(iter(self.inputs.values())).shape[0]
        sizes = {d.name: d.size or SIZES[d.base or d.name] for d in recurrence.dims}
        self.sizes = {**sizes, ROW: size, COLUMN: size, INNER: size, "#2": 2, "#3": 3, "#4": 4}
        self.scalars = {s.name: self._default(s.default) for s in recurrence.scalars}
        declared = (*recurrence.inputs, *recurrence.params, *recurrence.states)
        layouts = {x.name: x.dims for x in (*declared, *recurrence.outputs)}
        self.layouts = {**layouts, **{cotangent(n): dims for n, dims in layouts.items()}}
        self.starts: list[dict[str, Tensor]] = []

    def _default(self, ref: int) -> Tensor:
        evaluator = Evaluator(self.recurrence.values, self.sizes, {}, torch.tensor(True), {})
        return evaluator(ref)

    def _places(self) -> Iterator[tuple[int, int]]:
        for first in range(0, self.time, self.size):
            yield first, min(self.size, self.time - first)

    def _rows(self, first: int, count: int) -> dict[str, Tensor]:
        """What a chunk sees of the inputs: behind the end stands the last token again."""
        places = first + torch.arange(self.size).clamp(max=count - 1)
        rows = {name: x[places] for name, x in self.inputs.items()}
        position = {POSITION: first + torch.arange(self.size)}
        return {**rows, **self.params, **self.scalars, **position}

    def _evaluator(
        self, program: ChunkProgram, count: int, leaves: Mapping[str, Tensor]
    ) -> Evaluator:
        row = torch.arange(self.size) < count
        return Evaluator(program.values, self.sizes, leaves, row, self.layouts)

    def forward(
        self, program: ChunkProgram, start: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs over time, and the carries at the end."""
        carries = dict(start)
        outputs: dict[str, list[Tensor]] = {s.name: [] for s in program.stores}
        self.starts = []
        for first, count in self._places():
            self.starts.append(carries)
            run = self._evaluator(program, count, {**self._rows(first, count), **carries})
            for store in program.stores:
                outputs[store.name].append(run(store.value, (ROW, *store.dims))[:count])
            carries = {c.name: run(c.next, c.dims) for c in program.carries}
        return {name: torch.cat(rows) for name, rows in outputs.items()}, carries

    def backward(
        self, backward: Backward, d_outputs: Mapping[str, Tensor], d_end: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Cotangents of inputs and params, and those of the start; `forward` ran before."""
        program = backward.program
        carries = {cotangent(name): x for name, x in d_end.items()}
        found = {s.name: torch.zeros(()) for s in program.stores}
        rows: dict[str, list[Tensor]] = {cotangent(n): [] for n in self.inputs}
        for (first, count), start in reversed(list(zip(self._places(), self.starts, strict=True))):
            pad = self.size - count
            grads = {
                cotangent(n): torch.cat([x[first : first + count], x.new_zeros(pad, *x.shape[1:])])
                for n, x in d_outputs.items()
            }
            leaves = {**self._rows(first, count), **start, **grads, **carries}
            run = self._evaluator(program, count, leaves)
            for store in program.stores:
                if store.name in rows:
                    rows[store.name].insert(0, run(store.value, (ROW, *store.dims))[:count])
                else:
                    found[store.name] = found[store.name] + run(store.value, store.dims)
            carries = {c.name: run(c.next, c.dims) for c in program.carries}
        return {**found, **{n: torch.cat(x) for n, x in rows.items() if x}}, carries


# ---------------------------------------------------------------- the judge


def _holds_zero(r: Range) -> bool:
    return -math.inf < r.low <= 0 <= r.high < math.inf and not (r.low == 0 and r.low_open)


def drawn(recurrence: Recurrence, time: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors and a carried state, of one sequence and one head, in float64."""
    sizes = {d.name: SIZES[d.name] for d in recurrence.dims if not d.size and not d.base}
    layout = Layout(batch=1, time=time, heads=1)
    data = draw(recurrence, sizes, layout, dtype=torch.float64, seed=3, carried=True)
    assert data.initial_state is not None
    for x in recurrence.inputs:
        if x.range is not None and x.range.low == -math.inf and not x.range.low_open:
            data.tensors[x.name][:, RESETS[time > RESETS]] = -math.inf
        elif x.range is not None and _holds_zero(x.range):  # exact zeros, one or two in a chunk
            data.tensors[x.name][:, RESETS[time > RESETS]] = 0.0
    return data.tensors, data.initial_state


def differences(
    program: Program, time: int = TIME, size: int = CHUNK, joined: bool = False
) -> dict[str, float]:
    """Relative RMS errors of everything a chunk program computes, forward and backward."""
    recurrence = program.recurrence
    tensors, state = drawn(recurrence, time)
    states = {s.name: state[s.name] for s in recurrence.states}
    leaves = {k: x.requires_grad_() for k, x in {**tensors, **states}.items()}
    position = {"t": torch.zeros(1, dtype=torch.int64)} if "t" in state else {}
    true = interpret(recurrence, tensors, initial_state={**states, **position})
    ends = {s: true.state[s] for s in states}
    generator = torch.Generator().manual_seed(5)
    names = [o.name for o in recurrence.outputs]
    values = [*true.outputs, *ends.values()]
    seeds = [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in values]
    grads = torch.autograd.grad(values, list(leaves.values()), seeds, allow_unused=True)

    forward = chunk_program(program)
    backward = backward_program(forward, recurrence.inputs, recurrence.params)
    if joined:
        forward, backward = joint(forward), replace(backward, program=joint(backward.program))
    chunked = Chunked(recurrence, {n: x.detach() for n, x in tensors.items()}, size)
    outputs, final = chunked.forward(forward, {n: x.detach()[0, 0] for n, x in states.items()})
    d_outputs = dict(zip(names, (s[0, :, 0] for s in seeds), strict=False))
    d_end = dict(zip(states, (s[0, 0] for s in seeds[len(names) :]), strict=True))
    d_tensors, d_start = chunked.backward(backward, d_outputs, d_end)

    errors = {}
    for name, x in zip(names, true.outputs, strict=True):
        errors[name] = relative_rms(outputs[name], x[0, :, 0])
    for name, x in ends.items():
        errors[f"end {name}"] = relative_rms(final[name], x[0, 0])
    inputs = {x.name for x in recurrence.inputs}
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        want = torch.zeros_like(leaf) if grad is None else grad
        if name in states:
            errors[f"start {name}"] = relative_rms(d_start[cotangent(name)], want[0, 0])
        elif name in backward.unreached:
            errors[f"d {name}"] = float(want.abs().max())
        else:
            own = want[0, :, 0] if name in inputs else want[0]
            errors[f"d {name}"] = relative_rms(d_tensors[cotangent(name)], own)
    return errors


# ---------------------------------------------------------------- tests


def test_the_table_holds_many_structures() -> None:
    assert len(NAMES) >= 35


@pytest.mark.parametrize("name", NAMES)
def test_chunks_equal_the_loop_forward_and_backward(name: str) -> None:
    errors = differences(programs()[name])
    assert max(errors.values()) < BOUND, errors


@pytest.mark.parametrize("time", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("name", ["chunk-reads_everywhere", "chunk-resets", "mamba2-mamba2"])
def test_any_length(name: str, time: int) -> None:
    errors = differences(programs()[name], time)
    assert max(errors.values()) < BOUND, errors


def test_one_chunk_longer_than_the_sequence() -> None:
    errors = differences(programs()["chunk-three_decays"], time=5, size=16)
    assert max(errors.values()) < BOUND, errors


def _decayed(program: ChunkProgram) -> list[Scores | ScoresAdjoint]:
    return [v.op for v in program.values if isinstance(v.op, Scores | ScoresAdjoint)]


JOINED = [n for n, p in programs().items() if len(_decayed(chunk_program(p))) > 1]


@pytest.mark.parametrize("name", JOINED)
def test_queries_of_the_same_keys_are_taken_together(name: str) -> None:
    program = programs()[name]
    forward = chunk_program(program)
    inputs, params = program.recurrence.inputs, program.recurrence.params
    apart = backward_program(forward, inputs, params).program
    keys = {(op.k, op.a) for op in _decayed(forward)}
    assert len(_decayed(joint(forward))) == len(keys)
    for of in ("k", "a"):  # one cotangent for all queries of the same keys
        before, after = (
            [op for op in _decayed(p) if isinstance(op, ScoresAdjoint) and op.of == of]
            for p in (apart, joint(apart))
        )
        assert len(after) == len({(op.k, op.a) for op in before})
    errors = differences(program, joined=True)
    assert max(errors.values()) < BOUND, errors


# ---------------------------------------------------------------- faults are seen


def _flipped(program: Program, wrong: Mapping[str, str]) -> float:
    """The largest error when comparisons of rows with columns are replaced."""
    recurrence = program.recurrence
    forward = chunk_program(program)
    values = list(forward.values)
    changed = 0
    for ref, value in enumerate(values):
        match value.op:
            case Binary(fn, a, b) if (
                fn in wrong and isinstance(values[a].op, Iota) and isinstance(values[b].op, Iota)
            ):
                values[ref] = replace(value, op=Binary(wrong[fn], a, b))
                changed += 1
    assert changed, "no such comparison"
    tensors, state = drawn(recurrence, TIME)
    start = {s.name: state[s.name] for s in recurrence.states}
    true = interpret(recurrence, tensors, initial_state=start)
    chunked = Chunked(recurrence, tensors, CHUNK)
    broken = replace(forward, values=tuple(values))
    outputs, _ = chunked.forward(broken, {n: x[0, 0] for n, x in start.items()})
    pairs = zip(recurrence.outputs, true.outputs, strict=True)
    return max(relative_rms(outputs[o.name], x[0, :, 0]) for o, x in pairs)


@pytest.mark.parametrize("wrong", [{"ge": "gt"}, {"gt": "ge"}, {"ge": "le"}])
def test_a_wrong_triangle_is_seen(wrong: Mapping[str, str]) -> None:
    name = "chunk-read_between" if "gt" in wrong else "chunk-no_decay"
    assert _flipped(programs()[name], wrong) > 1e-3


def test_a_dropped_row_mask_is_seen() -> None:
    """Rows behind the end must not decay nor write: with the mask always true they do."""
    program = programs()["chunk-decay_first"]
    forward = chunk_program(program)
    recurrence = program.recurrence
    tensors, state = drawn(recurrence, TIME)
    chunked = Chunked(recurrence, tensors, CHUNK)
    chunked._evaluator = lambda p, count, leaves: Evaluator(  # type: ignore[method-assign]
        p.values, chunked.sizes, leaves, torch.ones(CHUNK, dtype=torch.bool), chunked.layouts
    )
    true = interpret(recurrence, tensors, initial_state=state).state["S"][0, 0]
    _, final = chunked.forward(forward, {"S": state["S"][0, 0]})
    assert relative_rms(final["S"], true) > 1e-3
