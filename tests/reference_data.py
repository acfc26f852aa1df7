"""What the tests of the interpreter share: specs, data drawn from their ranges, numpy loops.

In: the name of a scan.  Out: its recurrence, data in float64, and what `tests.loops` makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from scandsl.check import check_file
from scandsl.diagnostics import Source
from scandsl.ir.nodes import Dims, Kind, Recurrence, Tensor, memories, uses_time
from scandsl.syntax.parse import parse
from tests.loops import LOOPS

ROOT = Path(__file__).parent.parent
SIZES = {"K": 4, "V": 3, "D": 3, "N": 2, "P": 3, "M": 5}
HEADS = 2

# Where a start is not drawn: the equation needs a symmetric P, or a param is the start.
FROM_PARAMS: dict[str, dict[str, str]] = {
    "ttt_mlp": {"U": "U0", "W": "W0"},
    "ttt_muon": {"F": "W0"},
}
NOT_DRAWN: dict[str, set[str]] = {
    "kalman_filter": {"P"},
    "ttt_mlp": {"U", "W"},
    "ttt_muon": {"F"},
}
FROM_MINUS_INFINITY: dict[str, str] = {
    "mlstm": "m",
    "slstm": "m",
    "decayed_max": "m",
    "log_sum_exp": "l",
    "rwkv4": "p",
}


def read(text: str) -> Recurrence:
    """The first scan of a text."""
    source = Source("test.scan", text)
    return check_file(parse(source), source).recurrences[0]


@cache
def _scans(path: Path) -> dict[str, Recurrence]:
    source = Source(path.name, path.read_text(encoding="utf-8"))
    return {r.name: r for r in check_file(parse(source), source).recurrences}


def spec(name: str) -> Recurrence:
    """The scan of `examples/<name>.scan`, or one of `specs/reference.scan`."""
    example = ROOT / "examples" / f"{name}.scan"
    return _scans(example if example.exists() else ROOT / "tests/specs/reference.scan")[name]


@dataclass
class Data:
    """Float64 arrays of one call."""

    tensors: dict[str, np.ndarray]
    state: dict[str, np.ndarray] = field(default_factory=dict)


def sizes(recurrence: Recurrence) -> dict[str, int]:
    static = {d.name: d.size for d in recurrence.dims if d.size is not None}
    known = SIZES | static
    return {d.name: known[d.base or d.name] for d in recurrence.dims}


def _in_range(declared: Tensor, x: np.ndarray) -> np.ndarray:
    if declared.unit:
        return x / (0.1 + np.linalg.norm(x, axis=-1, keepdims=True))
    if declared.range is None:
        return 0.5 * x
    low, high = declared.range.low, declared.range.high
    if np.isinf(low):
        return high - 0.5 * np.exp(x)
    if np.isinf(high):
        return low + 0.5 * np.exp(x)
    return low + (high - low) / (1 + np.exp(-x))


def draw(name: str, length: int, batch: int = 1, seed: int = 0, state: bool = True) -> Data:
    """Arguments, every third with a single head, and a random state (without `t`)."""
    recurrence = spec(name)
    size = sizes(recurrence)
    random = np.random.default_rng([seed, *name.encode()])
    inputs = {x.name for x in recurrence.inputs}
    data = Data({})
    for i, declared in enumerate((*recurrence.inputs, *recurrence.params)):
        lead = (batch, length) if declared.name in inputs else ()
        shape = (*lead, 1 if i % 3 == 1 else HEADS, *(size[d] for d in declared.dims))
        data.tensors[declared.name] = _in_range(declared, random.standard_normal(shape))
    for part, dims, kind, depth in _parts(recurrence) if state else ():
        if part not in NOT_DRAWN.get(name, ()):
            shape = (batch, HEADS, *depth, *(size[d] for d in dims))
            x = 0.5 * np.abs(random.standard_normal(shape))
            if kind is Kind.COMPLEX:
                x = x + 0.5j * random.standard_normal(shape)
            data.state[part] = x > 0.4 if kind is Kind.BOOL else x
    return data


def _parts(recurrence: Recurrence) -> Iterator[tuple[str, Dims, Kind, tuple[int, ...]]]:
    for s in recurrence.states:
        yield s.name, s.dims, s.kind, ()
    for m in memories(recurrence):
        yield m.name, m.dims, m.kind, (m.depth,)


def started(name: str, data: Data) -> dict[str, np.ndarray]:
    """The whole initial state: what was drawn, else the start that the spec declares."""
    recurrence = spec(name)
    size = sizes(recurrence)
    batch = data.tensors[recurrence.inputs[0].name].shape[0]
    out: dict[str, np.ndarray] = {}
    for part, dims, kind, depth in _parts(recurrence):
        shape = (batch, HEADS, *depth, *(size[d] for d in dims))
        start = np.zeros(shape, complex if kind is Kind.COMPLEX else float)
        if FROM_MINUS_INFINITY.get(name) == part:
            start = start - np.inf
        if (name, part) == ("kalman_filter", "P"):
            start = start + np.eye(size["N"])
        if part in FROM_PARAMS.get(name, {}):
            start = start + _spread(data.tensors[FROM_PARAMS[name][part]], 0)
        out[part] = data.state.get(part, start)
    if uses_time(recurrence):
        out["t"] = data.state.get("t", np.zeros(batch, dtype=np.int64))
    return out


def _spread(x: np.ndarray, axis: int) -> np.ndarray:
    return np.repeat(x, HEADS // x.shape[axis], axis)


def run_loop(name: str, data: Data) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Outputs `[B, T, H, ...]` and final state of the loop, each sequence and head by itself."""
    recurrence = spec(name)
    inputs = {x.name: _spread(data.tensors[x.name], 2) for x in recurrence.inputs}
    params = {x.name: _spread(data.tensors[x.name], 0) for x in recurrence.params}
    start = started(name, data)
    batch = inputs[recurrence.inputs[0].name].shape[0]
    outputs: list[list[list]] = [[] for _ in recurrence.outputs]
    state: dict[str, list[list]] = {part: [] for part in start}
    for b in range(batch):
        for column in (*outputs, *state.values()):
            column.append([])
        for h in range(HEADS):
            a = SimpleNamespace(
                **{n: x[b, :, h] for n, x in inputs.items()}, **{n: x[h] for n, x in params.items()}
            )
            s = SimpleNamespace(**{n: x[b] if n == "t" else x[b, h] for n, x in start.items()})
            for column, made in zip(outputs, LOOPS[name](a, s), strict=True):
                column[b].append(np.array(made))
            for part, column in state.items():
                column[b].append(getattr(s, part))
    final = {part: np.array(column) for part, column in state.items()}
    if "t" in final:
        final["t"] = final["t"][:, 0]
    return [np.moveaxis(np.array(column), 1, 2) for column in outputs], final


def tensors(arrays: Mapping[str, np.ndarray], *, grad: bool = False) -> dict[str, torch.Tensor]:
    """The arrays as tensors."""
    out = {name: torch.tensor(x) for name, x in arrays.items()}
    for x in out.values():
        if grad and (x.is_floating_point() or x.is_complex()):
            x.requires_grad_()
    return out
