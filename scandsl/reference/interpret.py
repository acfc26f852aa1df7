"""The reference interpreter: the step of a recurrence, carried out literally, one token at a time.

In: a `Recurrence` and the caller's tensors.  Out: its outputs and its final state, differentiable
by torch's autograd with respect to every tensor given.  It is the judge of all generated code, so
it is written to be read, and shares nothing with analysis or code generation.

It does not check the ranges that a spec declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from scandsl.ir.nodes import (
    Dims,
    Kind,
    Memory,
    Recurrence,
    Ref,
    Value,
    memories,
    operands,
    uses_time,
)
from scandsl.ir.nodes import Tensor as Declared
from scandsl.reference.evaluate import Moment, Setting, arrange, evaluate, shape, torch_dtype


@dataclass(frozen=True, slots=True)
class Interpretation:
    """Outputs `[B, T, H, *dims]` in order, and the final state by name.

    The state holds the declared states `[N, H, *dims]`, then what lags remember
    `[N, H, depth, *dims]` (newest first), then `t` (int64 `[N]`) if the step uses it.
    """

    outputs: tuple[Tensor, ...]
    state: dict[str, Tensor]


def interpret(
    recurrence: Recurrence,
    tensors: Mapping[str, Tensor],
    *,
    scalars: Mapping[str, float] | None = None,
    initial_state: Mapping[str, Tensor] | None = None,
    cu_seqlens: Tensor | None = None,
    compute_dtype: torch.dtype | None = None,
) -> Interpretation:
    """Run `recurrence` over `tensors`, the inputs and params by name.

    Parts that are missing from `initial_state` start as declared.  With `cu_seqlens` (batch 1) each
    packed sequence runs by itself.  `compute_dtype` treats every tensor as if it had been given in
    that dtype, outputs included: float64 makes a judge out of float32 data.
    """
    _check_arguments(recurrence, tensors, initial_state or {})
    dtype = compute_dtype or _compute_dtype([*tensors.values(), *(initial_state or {}).values()])
    first = tensors[recurrence.inputs[0].name]
    returned = compute_dtype or first.dtype
    given = {
        x.name: tensors[x.name].to(_width(dtype, x.kind))
        for x in (*recurrence.inputs, *recurrence.params)
    }
    setting = _setting(recurrence, given, scalars or {}, dtype)
    heads = setting.heads
    inputs = {x.name: _spread(given[x.name], 2, heads) for x in recurrence.inputs}
    start = _given_state(setting, initial_state or {})
    if cu_seqlens is None:
        return _sequence(setting, inputs, start, returned)
    return _packed(setting, inputs, start, returned, _boundaries(first, cu_seqlens))


# ---------------------------------------------------------------- arguments


def _check_arguments(
    recurrence: Recurrence, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> None:
    expected = (*recurrence.inputs, *recurrence.params)
    names = {x.name for x in expected}
    parts = {s.name for s in recurrence.states} | {m.name for m in memories(recurrence)}
    if uses_time(recurrence):
        parts.add("t")
    for found, known, what in ((tensors, names, "argument"), (state, parts, "part of the state")):
        for name in found:
            if name not in known:
                raise ValueError(f"{recurrence.name} has no {what} `{name}`")
    inputs = {x.name for x in recurrence.inputs}
    for declared in expected:
        if declared.name not in tensors:
            raise ValueError(f"{recurrence.name} needs the argument `{declared.name}`")
        _check_tensor(declared, tensors[declared.name], 3 if declared.name in inputs else 1)


def _check_tensor(declared: Declared, given: Tensor, lead: int) -> None:
    if given.ndim != lead + len(declared.dims):
        layout = ", ".join((*(("B", "T", "H")[-lead:]), *declared.dims))
        raise ValueError(f"`{declared.name}` must be [{layout}], not {tuple(given.shape)}")
    if given.is_complex() and declared.kind is not Kind.COMPLEX:
        raise ValueError(f"`{declared.name}` must be real")


def _compute_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    double = any(x.dtype in (torch.float64, torch.complex128) for x in tensors)
    return torch.float64 if double else torch.float32


def _width(dtype: torch.dtype, kind: Kind) -> torch.dtype:
    return dtype.to_complex() if kind is Kind.COMPLEX else dtype


def _boundaries(first: Tensor, cu_seqlens: Tensor) -> list[int]:
    marks = [int(mark) for mark in cu_seqlens.tolist()]
    if first.shape[0] != 1:
        raise ValueError(f"packed sequences have batch 1, not {first.shape[0]}")
    if len(marks) < 2 or marks[0] != 0 or marks[-1] != first.shape[1]:
        raise ValueError(f"`cu_seqlens` must run from 0 to {first.shape[1]}, not {marks}")
    if any(end < start for start, end in pairwise(marks)):
        raise ValueError(f"`cu_seqlens` must not decrease: {marks}")
    return marks


# ---------------------------------------------------------------- the setting


def _setting(
    recurrence: Recurrence,
    given: Mapping[str, Tensor],
    scalars: Mapping[str, float],
    dtype: torch.dtype,
) -> Setting:
    heads = max(
        *(given[x.name].shape[2] for x in recurrence.inputs),
        *(given[x.name].shape[0] for x in recurrence.params),
        1,
    )
    first = given[recurrence.inputs[0].name]
    for x in recurrence.inputs:
        if given[x.name].shape[:2] != first.shape[:2]:
            raise ValueError(
                f"`{x.name}` has batch and time {tuple(given[x.name].shape[:2])}, "
                f"`{recurrence.inputs[0].name}` has {tuple(first.shape[:2])}"
            )
    batch = first.shape[0]
    params = {
        x.name: _spread(given[x.name], 0, heads).expand(batch, *(-1,) * given[x.name].ndim)
        for x in recurrence.params
    }
    sizes = _sizes(recurrence, given)
    setting = Setting(recurrence, sizes, params, {}, batch, heads, dtype, first.device)
    return replace(setting, scalars=_scalars(setting, scalars))


def _spread(x: Tensor, axis: int, heads: int) -> Tensor:
    """Repeat each head for its group of consecutive heads."""
    own = x.shape[axis]
    if own == 0 or heads % own:
        raise ValueError(f"{own} heads do not divide {heads}")
    return x if own == heads else x.repeat_interleave(heads // own, axis)


def _sizes(recurrence: Recurrence, given: Mapping[str, Tensor]) -> dict[str, int]:
    sizes = {d.name: d.size for d in recurrence.dims if d.size is not None}
    base = {d.name: d.base or d.name for d in recurrence.dims}
    for x in (*recurrence.inputs, *recurrence.params):
        found = given[x.name].shape[given[x.name].ndim - len(x.dims) :]
        for dim, size in zip(x.dims, found, strict=True):
            if sizes.setdefault(base[dim], size) != size:
                raise ValueError(
                    f"`{x.name}` has {dim} = {size}, elsewhere it is {sizes[base[dim]]}"
                )
    return {d.name: sizes[base[d.name]] for d in recurrence.dims if base[d.name] in sizes}


def _scalars(setting: Setting, given: Mapping[str, float]) -> dict[str, float]:
    """Scalars in order; a default is a Python number, so it is computed in float64."""
    recurrence = setting.recurrence
    for name in given:
        if name not in {x.name for x in recurrence.scalars}:
            raise ValueError(f"{recurrence.name} has no scalar `{name}`")
    out: dict[str, float] = {}
    for x in recurrence.scalars:
        if x.name in given:
            out[x.name] = float(given[x.name])
            continue
        one = replace(setting, batch=1, heads=1, dtype=torch.float64, scalars=dict(out))
        out[x.name] = float(_constant(one, x.default).item())
    return out


def _constant(setting: Setting, ref: Ref) -> Tensor:
    """A value outside of time: a scalar's default, a state's initial value."""
    time = torch.zeros(setting.batch, dtype=torch.int64, device=setting.device)
    return _values(Moment(setting, {}, {}, {}, time), _reachable(setting.recurrence, [ref]))[ref]


# ---------------------------------------------------------------- the state


@dataclass(frozen=True, slots=True)
class _State:
    """Everything carried from step to step, in the terms of `Moment`."""

    states: dict[str, Tensor]
    past: dict[Ref | str, tuple[Tensor, ...]]
    time: Tensor


def _given_state(setting: Setting, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of an initial state in the dtype in which they are computed with."""
    recurrence = setting.recurrence
    kinds = {s.name: s.kind for s in recurrence.states}
    kinds |= {m.name: m.kind for m in memories(recurrence)}
    kinds["t"] = Kind.INT
    return {name: x.to(torch_dtype(setting, kinds[name])) for name, x in given.items()}


def _start(setting: Setting, given: Mapping[str, Tensor]) -> _State:
    recurrence = setting.recurrence
    states = {}
    for s in recurrence.states:
        if s.name in given:
            states[s.name] = _checked(s.name, given[s.name], shape(setting, s.dims))
        else:
            init = _as(setting, recurrence.values[s.init], _constant(setting, s.init), s.kind)
            states[s.name] = arrange(setting, init, recurrence.values[s.init].dims, s.dims)
    past: dict[Ref | str, tuple[Tensor, ...]] = {}
    for m in memories(recurrence):
        batch, heads, *sizes = shape(setting, m.dims)
        if m.name in given:
            whole = _checked(m.name, given[m.name], (batch, heads, m.depth, *sizes))
            past[_key(m)] = whole.unbind(2)
        elif m.state is not None:
            past[_key(m)] = (states[m.state],) * m.depth
        else:
            dtype = torch_dtype(setting, m.kind)
            zero = torch.zeros((batch, heads, *sizes), dtype=dtype, device=setting.device)
            past[_key(m)] = (zero,) * m.depth
    zero_time = torch.zeros(setting.batch, dtype=torch.int64, device=setting.device)
    position = given["t"] if uses_time(recurrence) and "t" in given else zero_time
    return _State(states, past, _checked("t", position, (setting.batch,)))


def _checked(name: str, given: Tensor, expected: tuple[int, ...]) -> Tensor:
    if tuple(given.shape) != expected:
        raise ValueError(f"initial state `{name}` must be {expected}, not {tuple(given.shape)}")
    return given


def _key(memory: Memory) -> Ref | str:
    if memory.state is not None:
        return memory.state
    assert memory.value is not None
    return memory.value


def _as(setting: Setting, value: Value, x: Tensor, kind: Kind) -> Tensor:
    return x if value.kind is kind else x.to(torch_dtype(setting, kind))


def _named(recurrence: Recurrence, state: _State) -> dict[str, Tensor]:
    """The state as it is returned."""
    out = dict(state.states)
    for m in memories(recurrence):
        out[m.name] = torch.stack(state.past[_key(m)], 2)
    if uses_time(recurrence):
        out["t"] = state.time
    return out


# ---------------------------------------------------------------- running


def _packed(
    setting: Setting,
    inputs: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    returned: torch.dtype,
    marks: Sequence[int],
) -> Interpretation:
    for name, x in start.items():
        if x.shape[0] != len(marks) - 1:
            raise ValueError(f"initial state `{name}` is not for {len(marks) - 1} sequences")
    parts = [
        _sequence(
            setting,
            {name: x[:, begin:end] for name, x in inputs.items()},
            {name: x[n : n + 1] for name, x in start.items()},
            returned,
        )
        for n, (begin, end) in enumerate(pairwise(marks))
    ]
    outputs = zip(*(p.outputs for p in parts), strict=True)
    state = {name: torch.cat([p.state[name] for p in parts]) for name in parts[0].state}
    return Interpretation(tuple(torch.cat(out, 1) for out in outputs), state)


def _sequence(
    setting: Setting,
    inputs: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    returned: torch.dtype,
) -> Interpretation:
    recurrence = setting.recurrence
    state = _start(setting, start)
    order = _reachable(recurrence, _wanted(recurrence))
    results: list[list[Tensor]] = [[] for _ in recurrence.outputs]
    unbound = {name: x.unbind(1) for name, x in inputs.items()}
    for step in range(len(next(iter(unbound.values())))):
        now = {name: x[step] for name, x in unbound.items()}
        moment = Moment(setting, now, state.states, state.past, state.time)
        values = _values(moment, order)
        for output, collected in zip(recurrence.outputs, results, strict=True):
            collected.append(_arranged(setting, values, output.value, output.dims, output.kind))
        state = _advance(setting, state, values)
    outputs = []
    for output, collected in zip(recurrence.outputs, results, strict=True):
        dtype = _output_dtype(setting, output.kind, returned)
        outputs.append(_joined(setting, collected, output.dims, dtype))
    return Interpretation(tuple(outputs), _named(recurrence, state))


def _wanted(recurrence: Recurrence) -> list[Ref]:
    """What a step must compute: the new states, the outputs, and what lags will look at."""
    looked_at = [m.value for m in memories(recurrence) if m.value is not None]
    states = [s.next for s in recurrence.states]
    return states + [o.value for o in recurrence.outputs] + looked_at


def _reachable(recurrence: Recurrence, wanted: Sequence[Ref]) -> list[Ref]:
    """The values that `wanted` need, in order."""
    found: set[Ref] = set()
    open_ = list(wanted)
    while open_:
        ref = open_.pop()
        if ref not in found:
            found.add(ref)
            open_.extend(operands(recurrence.values[ref].op))
    return sorted(found)


def _values(moment: Moment, order: Sequence[Ref]) -> dict[Ref, Tensor]:
    known: dict[Ref, Tensor] = {}
    for ref in order:
        known[ref] = evaluate(moment, known, moment.setting.recurrence.values[ref])
    return known


def _advance(setting: Setting, state: _State, values: Mapping[Ref, Tensor]) -> _State:
    recurrence = setting.recurrence
    states = {s.name: _arranged(setting, values, s.next, s.dims, s.kind) for s in recurrence.states}
    past: dict[Ref | str, tuple[Tensor, ...]] = {}
    for m in memories(recurrence):
        if m.state is not None:
            newest = states[m.state]
        else:
            assert m.value is not None
            newest = values[m.value]
        past[_key(m)] = (newest, *state.past[_key(m)][:-1])
    return _State(states, past, state.time + 1)


def _arranged(
    setting: Setting, values: Mapping[Ref, Tensor], ref: Ref, dims: Dims, kind: Kind
) -> Tensor:
    value = setting.recurrence.values[ref]
    return arrange(setting, _as(setting, value, values[ref], kind), value.dims, dims)


def _output_dtype(setting: Setting, kind: Kind, returned: torch.dtype) -> torch.dtype:
    if kind is Kind.REAL and returned.is_floating_point:
        return returned
    return torch_dtype(setting, kind)


def _joined(
    setting: Setting, collected: Sequence[Tensor], dims: Dims, dtype: torch.dtype
) -> Tensor:
    if collected:
        return torch.stack(list(collected), 1).to(dtype)
    batch, heads, *sizes = shape(setting, dims)
    return torch.zeros((batch, 0, heads, *sizes), dtype=dtype, device=setting.device)
