"""Test data for a recurrence, from the ranges that its spec declares.

In: a `Recurrence`, sizes, a layout and a seed.  Out: `Data`, tensors by name.  All numbers are
drawn in float64 on the CPU, then rounded to the dtype asked for.  Does not run generated code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from scandsl.ir.nodes import Dims, Kind, Range, Recurrence
from scandsl.ir.nodes import Tensor as Declared
from scandsl.reference import interpret

GATE_LOW, GATE_HIGH = 1e-3, 50.0  # magnitudes of values that reach out to infinity
RATE_HIGH = 1.0  # those that grow without bound are rates: drawn up to one
RESETS = 0.05  # share of exact ends, where the range includes them
LIMIT, SLOPE = 100.0, 4.0  # bound on the float64 states and outputs: a sum may grow with time
SHRINK, TRIES = 0.75, 40


@dataclass(frozen=True, slots=True)
class Layout:
    """Batch and time, or the lengths of packed sequences; heads, by name where they differ."""

    batch: int = 2
    time: int = 32
    lengths: tuple[int, ...] | None = None
    heads: int = 2
    own_heads: Mapping[str, int] = field(default_factory=dict)

    @property
    def leading(self) -> tuple[int, int]:
        """Batch and time of the tensors."""
        return (self.batch, self.time) if self.lengths is None else (1, sum(self.lengths))

    @property
    def sequences(self) -> int:
        """How many sequences, packed or not."""
        return self.batch if self.lengths is None else len(self.lengths)


@dataclass(frozen=True, slots=True)
class Data:
    """Arguments by name, what to start from, and the boundaries of packed sequences."""

    tensors: dict[str, Tensor]
    initial_state: dict[str, Tensor] | None = None
    cu_seqlens: Tensor | None = None


def default_sizes(recurrence: Recurrence) -> dict[str, int]:
    """Small sizes, different for each dimension that has none yet."""
    choices = (16, 12, 8, 20, 6, 24, 10, 14)
    open_dims = [d.name for d in recurrence.dims if d.size is None and d.base is None]
    return {name: choices[i % len(choices)] for i, name in enumerate(open_dims)}


def draw(
    recurrence: Recurrence,
    sizes: Mapping[str, int] | None = None,
    layout: Layout | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    carried: bool = False,
) -> Data:
    """Draw data; `carried` starts from a state that the recurrence reached on other data."""
    layout = layout or Layout()
    full = _all_sizes(recurrence, sizes or {})
    made = _Maker(recurrence, full, layout, torch.Generator().manual_seed(seed))
    tensors = made.tensors(layout.leading)
    start: dict[str, Tensor] | None = None
    if carried:
        tensors, start = _carried(recurrence, made, tensors)
    else:
        tensors = _bounded(recurrence, tensors, None, layout)
    data = Data(
        {name: _cast(x, dtype) for name, x in tensors.items()},
        None if start is None else {name: _cast_state(x, dtype) for name, x in start.items()},
        None if layout.lengths is None else _boundaries(layout.lengths),
    )
    return data


def _carried(
    recurrence: Recurrence, made: _Maker, tensors: dict[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Bounded tensors, and the state after seven other tokens with the same params."""
    plain = Layout(batch=made.layout.sequences, time=7)
    before = made.tensors(plain.leading)
    params = {p.name for p in recurrence.params}
    factor = 1.0
    for _ in range(TRIES):
        now = _shrunk(recurrence, tensors, factor)
        first = _shrunk(recurrence, before, factor) | {n: now[n] for n in params}
        reached = interpret(recurrence, first, compute_dtype=torch.float64).state
        if _tame(recurrence, now, reached, made.layout):
            return now, reached
        factor *= SHRINK
    raise ValueError(f"{recurrence.name}: no draw keeps the state bounded")


def _bounded(
    recurrence: Recurrence,
    tensors: dict[str, Tensor],
    start: dict[str, Tensor] | None,
    layout: Layout,
) -> dict[str, Tensor]:
    factor = 1.0
    for _ in range(TRIES):
        now = _shrunk(recurrence, tensors, factor)
        if _tame(recurrence, now, start, layout):
            return now
        factor *= SHRINK
    raise ValueError(f"{recurrence.name}: no draw keeps the state bounded")


def _tame(
    recurrence: Recurrence,
    tensors: dict[str, Tensor],
    start: dict[str, Tensor] | None,
    layout: Layout,
) -> bool:
    marks = None if layout.lengths is None else _boundaries(layout.lengths)
    with torch.no_grad():
        ran = interpret(recurrence, tensors, initial_state=start, cu_seqlens=marks)
    found = [*ran.outputs, *(x for name, x in ran.state.items() if name != "t")]
    limit = LIMIT + SLOPE * layout.leading[1]
    return all(_small(x, limit) for x in found)


def _small(x: Tensor, limit: float) -> bool:
    """No NaN, and what is finite is small; an infinite stabiliser is an ordinary value."""
    if not (x.is_floating_point() or x.is_complex()) or x.numel() == 0:
        return True
    size = x.abs()
    return not bool(size.isnan().any()) and bool((size.nan_to_num(posinf=0.0) <= limit).all())


def _shrunk(
    recurrence: Recurrence, tensors: Mapping[str, Tensor], factor: float
) -> dict[str, Tensor]:
    """Scaled towards neutral: zero, where the range allows it; decays stay as they are."""
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    return {
        name: x * factor if factor != 1.0 and _scales(declared[name].range) else x
        for name, x in tensors.items()
    }


def _scales(found: Range | None) -> bool:
    if found is None:
        return True
    holds_zero = found.low <= 0.0 <= found.high and not (found.low == 0.0 and found.low_open)
    return holds_zero and found.low != -math.inf


# ---------------------------------------------------------------- drawing


@dataclass(frozen=True, slots=True)
class _Maker:
    recurrence: Recurrence
    sizes: Mapping[str, int]
    layout: Layout
    generator: torch.Generator

    def tensors(self, leading: tuple[int, int]) -> dict[str, Tensor]:
        """All arguments in the order of declaration."""
        inputs = {x.name for x in self.recurrence.inputs}
        declared = {x.name: x for x in (*self.recurrence.inputs, *self.recurrence.params)}
        return {
            name: self._one(declared[name], leading if name in inputs else ())
            for name in self.recurrence.arguments
        }

    def _one(self, x: Declared, leading: tuple[int, ...]) -> Tensor:
        heads = self.layout.own_heads.get(x.name, self.layout.heads)
        shape = (*leading, heads, *(self.sizes[d] for d in x.dims))
        if x.kind is Kind.COMPLEX:
            parts = [self._plain(replace(x, kind=Kind.REAL), shape, not leading) for _ in range(2)]
            return torch.complex(*parts) / math.sqrt(2)
        if x.unit:
            return self._unit(shape, self._vector_axes(x.dims))
        if x.range is not None:
            return self._ranged(x.range, shape)
        return self._plain(x, shape, not leading)

    def _normal(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def _uniform(self, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def _plain(self, x: Declared, shape: tuple[int, ...], param: bool) -> Tensor:
        """Inputs: vectors of unit expected norm.  Params: small, matrices smaller."""
        if param:
            fan = self.sizes[x.dims[-1]] if len(x.dims) > 1 else 1
            return self._normal(shape) * (0.5 / math.sqrt(fan))
        free = [self.sizes[d] for d in self._vector_dims(x.dims)]
        return self._normal(shape) / math.sqrt(math.prod(free))

    def _unit(self, shape: tuple[int, ...], axes: tuple[int, ...]) -> Tensor:
        """Directions at random, lengths in [0.5, 0.98]: rounding must not pass one."""
        x = self._normal(shape)
        norm = x.square().sum(axes, keepdim=True).sqrt()
        return x / norm * (0.5 + 0.48 * self._uniform(tuple(norm.shape)))

    def _ranged(self, r: Range, shape: tuple[int, ...]) -> Tensor:
        if math.isinf(r.low) and math.isinf(r.high):
            return self._normal(shape)
        if math.isinf(r.low):
            drawn, end, closed = r.high - self._magnitude(shape, GATE_HIGH), r.low, not r.low_open
        elif math.isinf(r.high):
            drawn, end, closed = r.low + self._magnitude(shape, RATE_HIGH), r.high, not r.high_open
        else:
            return self._interval(r, shape)
        return torch.where(self._uniform(shape) < RESETS, end, drawn) if closed else drawn

    def _magnitude(self, shape: tuple[int, ...], high: float) -> Tensor:
        low, top = math.log(GATE_LOW), math.log(high)
        return (low + (top - low) * self._uniform(shape)).exp()

    def _interval(self, r: Range, shape: tuple[int, ...]) -> Tensor:
        """Uniform; closed ends are hit exactly now and then, open ones kept at a distance."""
        width = r.high - r.low
        low = r.low + (0.01 * width if r.low_open else 0.0)
        high = r.high - (0.01 * width if r.high_open else 0.0)
        drawn = low + (high - low) * self._uniform(shape)
        ends = self._uniform(shape)
        if not r.low_open:
            drawn = torch.where(ends < RESETS / 2, r.low, drawn)
        if not r.high_open:
            drawn = torch.where(ends > 1 - RESETS / 2, r.high, drawn)
        return drawn

    def _vector_dims(self, dims: Dims) -> Dims:
        static = {d.name for d in self.recurrence.dims if d.size is not None}
        return tuple(d for d in dims if d not in static) or dims

    def _vector_axes(self, dims: Dims) -> tuple[int, ...]:
        kept = self._vector_dims(dims)
        return tuple(i - len(dims) for i, d in enumerate(dims) if d in kept)


# ---------------------------------------------------------------- sizes and dtypes


def _all_sizes(recurrence: Recurrence, given: Mapping[str, int]) -> dict[str, int]:
    sizes = default_sizes(recurrence) | {d.name: d.size for d in recurrence.dims if d.size}
    for name, size in given.items():
        if name not in sizes:
            raise ValueError(f"{recurrence.name} has no dimension `{name}`")
        sizes[name] = size
    return {d.name: sizes[d.base or d.name] for d in recurrence.dims}


def _boundaries(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).to(torch.int32)


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to `dtype`; complex values to that width, but never below complex64."""
    if x.is_complex():
        return x if dtype is torch.float64 else x.to(torch.complex64)
    return x.to(dtype)


def _cast_state(x: Tensor, dtype: torch.dtype) -> Tensor:
    """States are float32 for 16-bit inputs; positions stay integers."""
    if not (x.is_floating_point() or x.is_complex()):
        return x
    return _cast(x, torch.float64 if dtype is torch.float64 else torch.float32)
