"""One value of a step, from the values before it.

In: a `Moment` (what the step can see: sizes, params, inputs, states, memories) and the values of
the step computed so far.  Out: the tensor of one more value, `[B, H, *Value.dims]`.  Every kind is
held that way, bools (`torch.bool`) and integers (`int64`) too.

Nothing is simplified, reordered or shared between steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from typing_extensions import assert_never

from scandsl.diagnostics import InternalError
from scandsl.ir.nodes import (
    Binary,
    BinaryFn,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Dims,
    Every,
    Expand,
    Grad,
    Input,
    Insert,
    Inverse,
    Iota,
    Kind,
    Lag,
    LagState,
    Load,
    MakeComplex,
    Normalize,
    Param,
    Prev,
    Recur,
    Recurrence,
    Reduce,
    Ref,
    Rename,
    Row,
    Scalar,
    Scores,
    ScoresAdjoint,
    Segment,
    SegmentAdjoint,
    SegmentProduct,
    Select,
    Size,
    Spread,
    Stack,
    StopGrad,
    Tangent,
    Time,
    Unary,
    UnaryFn,
    Value,
    Where,
    operands,
)
from scandsl.reference import primitives

Known: TypeAlias = Mapping[Ref, Tensor]

Leaf: TypeAlias = (
    Const | Size | Iota | Time | Every | Input | Param | Scalar | Prev | Lag | LagState
)
Elementwise: TypeAlias = Unary | Binary | Cast | Clamp | Where | MakeComplex | StopGrad
Dimensional: TypeAlias = Contract | Reduce | Normalize | Rename | Select | Insert | Stack | Expand


@dataclass(frozen=True, slots=True)
class Setting:
    """What stays the same during a call: sizes, params `[B, H, *declared dims]`, scalars."""

    recurrence: Recurrence
    sizes: Mapping[str, int]
    params: Mapping[str, Tensor]
    scalars: Mapping[str, float]
    batch: int
    heads: int
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True)
class Moment:
    """What one step sees.  Tensors are `[B, H, *declared dims]`; `time` is int64 `[B]`.

    `past` holds what a lag remembers, newest first, under the value or the state that it follows.
    """

    setting: Setting
    inputs: Mapping[str, Tensor]
    states: Mapping[str, Tensor]
    past: Mapping[Ref | str, tuple[Tensor, ...]]
    time: Tensor


def evaluate(moment: Moment, known: Known, value: Value) -> Tensor:
    """The tensor of `value`, whose operands are `known`."""
    match value.op:
        case Const() | Size() | Iota() | Time() | Every() | Input() | Param():
            return _leaf(moment, value, value.op)
        case Scalar() | Prev() | Lag() | LagState():
            return _leaf(moment, value, value.op)
        case Unary() | Binary() | Cast() | Clamp() | Where() | MakeComplex() | StopGrad():
            return _elementwise(moment, known, value, value.op)
        case Contract() | Reduce() | Normalize() | Rename():
            return _dimensional(moment, known, value, value.op)
        case Select() | Insert() | Stack() | Expand():
            return _dimensional(moment, known, value, value.op)
        case Grad():
            return _gradient(moment, known, value.op)
        case (
            CumSum()
            | CumProd()
            | SegmentProduct()
            | Recur()
            | Tangent()
            | Spread()
            | Segment()
            | SegmentAdjoint()
            | Inverse()
            | Scores()
            | ScoresAdjoint()
            | Row()
            | Load()
        ):
            raise InternalError(f"{type(value.op).__name__} belongs to a chunk, not to a step")
        case _:
            assert_never(value.op)


# ---------------------------------------------------------------- layout and kinds


def torch_dtype(setting: Setting, kind: Kind) -> torch.dtype:
    """How values of a kind are held."""
    match kind:
        case Kind.BOOL:
            return torch.bool
        case Kind.INT:
            return torch.int64
        case Kind.REAL:
            return setting.dtype
        case Kind.COMPLEX:
            return setting.dtype.to_complex()
        case _:
            assert_never(kind)


def shape(setting: Setting, dims: Dims) -> tuple[int, ...]:
    """The full shape of a value with these dimensions."""
    return (setting.batch, setting.heads, *(setting.sizes[d] for d in dims))


def arrange(setting: Setting, x: Tensor, have: Dims, want: Dims) -> Tensor:
    """`x[B, H, *have]` as `[B, H, *want]`: permuted, and repeated along what it lacks."""
    kept = [d for d in want if d in have]
    x = x.permute(0, 1, *(2 + have.index(d) for d in kept))
    for position, dim in enumerate(want):
        if dim not in have:
            x = x.unsqueeze(2 + position)
    return x.expand(shape(setting, want))


def _operand(moment: Moment, known: Known, ref: Ref, want: Dims) -> Tensor:
    have = moment.setting.recurrence.values[ref].dims
    return arrange(moment.setting, known[ref], have, want)


def _axes(dims: Dims, over: Dims) -> tuple[int, ...]:
    return tuple(2 + dims.index(d) for d in over)


# ---------------------------------------------------------------- leaves


def _leaf(moment: Moment, value: Value, op: Leaf) -> Tensor:
    setting = moment.setting
    match op:
        case Const(number):
            return _filled(setting, value, number)
        case Size(dim):
            return _filled(setting, value, setting.sizes[dim])
        case Scalar(name):
            return _filled(setting, value, setting.scalars[name])
        case Iota(dim):
            steps = torch.arange(setting.sizes[dim], device=setting.device)
            return steps.to(torch_dtype(setting, value.kind)).expand(shape(setting, value.dims))
        case Time():
            return _time(moment).to(torch_dtype(setting, value.kind))
        case Every(period):
            return _time(moment) % period == 0
        case _:
            return _remembered(moment, value, op)


def _remembered(moment: Moment, value: Value, op: Input | Param | Prev | Lag | LagState) -> Tensor:
    setting = moment.setting
    recurrence = setting.recurrence
    match op:
        case Input(name):
            dims = next(x.dims for x in recurrence.inputs if x.name == name)
            return arrange(setting, moment.inputs[name], dims, value.dims)
        case Param(name):
            dims = next(x.dims for x in recurrence.params if x.name == name)
            return arrange(setting, setting.params[name], dims, value.dims)
        case Prev(name):
            return arrange(setting, moment.states[name], _state_dims(recurrence, name), value.dims)
        case Lag(x, n):
            return arrange(setting, moment.past[x][n - 1], recurrence.values[x].dims, value.dims)
        case LagState(name, n):
            then = moment.past[name][n - 1]
            return arrange(setting, then, _state_dims(recurrence, name), value.dims)
        case _:
            assert_never(op)


def _state_dims(recurrence: Recurrence, name: str) -> Dims:
    return next(s.dims for s in recurrence.states if s.name == name)


def _filled(setting: Setting, value: Value, number: bool | int | float) -> Tensor:
    dtype = torch_dtype(setting, value.kind)
    return torch.full(shape(setting, value.dims), number, dtype=dtype, device=setting.device)


def _time(moment: Moment) -> Tensor:
    return moment.time[:, None].expand(shape(moment.setting, ()))


# ---------------------------------------------------------------- elementwise


def _elementwise(moment: Moment, known: Known, value: Value, op: Elementwise) -> Tensor:
    xs = [_operand(moment, known, ref, value.dims) for ref in operands(op)]
    match op:
        case Unary(fn):
            return _UNARY[fn](*xs)
        case Binary(fn):
            return _binary(fn, *xs)
        case Cast():
            return xs[0].to(torch_dtype(moment.setting, value.kind))
        case Clamp():
            return torch.clamp(xs[0], xs[1], xs[2])
        case Where():
            return torch.where(xs[0], xs[1], xs[2])
        case MakeComplex():
            return torch.complex(xs[0], xs[1])
        case StopGrad():
            return xs[0].detach()
        case _:
            assert_never(op)


def _binary(fn: BinaryFn, a: Tensor, b: Tensor) -> Tensor:
    if fn == "mul" and not (a.is_floating_point() or a.is_complex()):
        return a * b
    return _BINARY[fn](a, b)


def _imaginary(x: Tensor) -> Tensor:
    return x.imag if x.is_complex() else torch.zeros_like(x)


_UNARY: dict[UnaryFn, primitives.Function] = {
    "neg": torch.neg,
    "not": torch.logical_not,
    "exp": primitives.exp,
    "log": primitives.log,
    "log1p": primitives.log1p,
    "expm1": primitives.expm1,
    "sqrt": primitives.sqrt,
    "rsqrt": primitives.rsqrt,
    "abs": primitives.absolute,
    "sign": torch.sgn,
    "floor": torch.floor,
    "sin": primitives.sin,
    "cos": primitives.cos,
    "tanh": primitives.tanh,
    "sigmoid": primitives.sigmoid,
    "logsigmoid": primitives.logsigmoid,
    "softplus": primitives.softplus,
    "silu": primitives.silu,
    "relu": torch.relu,
    "elu": primitives.elu,
    "gelu": primitives.gelu,
    "erf": primitives.erf,
    "re": torch.real,
    "im": _imaginary,
    "conj": torch.conj,
}

_BINARY: dict[BinaryFn, primitives.Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": primitives.mul,
    "div": primitives.div,
    "pow": primitives.power,
    "mod": primitives.remainder,
    "max": torch.maximum,
    "min": torch.minimum,
    "logaddexp": primitives.logaddexp,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "and": torch.logical_and,
    "or": torch.logical_or,
}

# ---------------------------------------------------------------- dimensions


def _dimensional(moment: Moment, known: Known, value: Value, op: Dimensional) -> Tensor:
    setting = moment.setting
    values = setting.recurrence.values
    match op:
        case Contract():
            return _contract(moment, known, value, op)
        case Reduce(_, x):
            return _reduce(known[x], values[x].dims, op)
        case Normalize(_, x):
            return _normalize(known[x], values[x].dims, op)
        case Rename(x, pairs):
            new = dict(pairs)
            renamed = tuple(new.get(d, d) for d in values[x].dims)
            return arrange(setting, known[x], renamed, value.dims)
        case Select(x, dim, index):
            return known[x].select(2 + values[x].dims.index(dim), index)
        case Insert(x, dim, index, y):
            axis = value.dims.index(dim)
            entries = list(_operand(moment, known, x, value.dims).unbind(2 + axis))
            rest = value.dims[:axis] + value.dims[axis + 1 :]
            entries[index] = _operand(moment, known, y, rest)
            return torch.stack(entries, 2 + axis)
        case Stack(xs, dim):
            axis = value.dims.index(dim)
            rest = value.dims[:axis] + value.dims[axis + 1 :]
            return torch.stack([_operand(moment, known, x, rest) for x in xs], 2 + axis)
        case Expand(x):
            return _operand(moment, known, x, value.dims)
        case _:
            assert_never(op)


def _contract(moment: Moment, known: Known, value: Value, op: Contract) -> Tensor:
    every = value.dims + op.over
    a = _operand(moment, known, op.a, every)
    b = _operand(moment, known, op.b, every)
    return _binary("mul", a, b).sum(_axes(every, op.over))


def _reduce(x: Tensor, dims: Dims, op: Reduce) -> Tensor:
    axes = _axes(dims, op.over)
    match op.fn:
        case "sum":
            return x.sum(axes)
        case "mean":
            return primitives.mean(x, axes).squeeze(axes)
        case "max":
            return _largest(x, axes)
        case "min":
            return -_largest(-x, axes)
        case "logsumexp":
            return primitives.logsumexp(x, axes).squeeze(axes)
        case "argmax":
            last = tuple(range(-len(axes), 0))
            return x.movedim(axes, last).flatten(-len(axes)).argmax(-1)
        case _:
            assert_never(op.fn)


def _largest(x: Tensor, axes: primitives.Axes) -> Tensor:
    return primitives.amax(x, axes).squeeze(axes)


def _normalize(x: Tensor, dims: Dims, op: Normalize) -> Tensor:
    axes = _axes(dims, op.over)
    match op.fn:
        case "softmax":
            return primitives.softmax(x, axes)
        case "l2norm":
            return primitives.l2norm(x, axes, op.eps)
        case "rmsnorm":
            return primitives.rmsnorm(x, axes, op.eps)
        case "layernorm":
            return primitives.layernorm(x, axes, op.eps)
        case _:
            assert_never(op.fn)


# ---------------------------------------------------------------- the gradient operator


def _gradient(moment: Moment, known: Known, op: Grad) -> Tensor:
    """`∂e/∂wrt`: recompute what lies between from a fresh copy of `wrt`, and differentiate.

    The copy stays tied to the value that it is a copy of, and everything else is used as it is, so
    the result can itself be differentiated.  Batch elements and heads do not meet in a step: the
    gradient of the sum over them is each one's own.
    """
    values = moment.setting.recurrence.values
    outer = torch.is_grad_enabled()
    with torch.enable_grad():
        copy = known[op.wrt].clone()
        if not copy.requires_grad:
            copy.requires_grad_()
        again = {op.wrt: copy}
        read: set[Ref] = set()
        for ref in _between(values, op):
            again[ref] = evaluate(moment, {**known, **again}, values[ref])
            read.update(operands(values[ref].op))
        follow = outer and any(known[ref].requires_grad for ref in {op.wrt, *read})
        loss = again[op.e].sum() if op.e in again else copy.detach().sum()
        return _derivative(loss, copy, follow)


def _between(values: tuple[Value, ...], op: Grad) -> list[Ref]:
    """The values of this step through which `e` depends on `wrt`, in order, `e` included."""
    needed = {op.e}
    for ref in range(op.e, op.wrt, -1):
        if ref in needed and not isinstance(values[ref].op, Lag):
            needed.update(operands(values[ref].op))
    moved = {op.wrt}
    for ref in range(op.wrt + 1, op.e + 1):
        lagged = isinstance(values[ref].op, Lag)
        if ref in needed and not lagged and not moved.isdisjoint(operands(values[ref].op)):
            moved.add(ref)
    return sorted(moved - {op.wrt})


def _derivative(loss: Tensor, copy: Tensor, follow: bool) -> Tensor:
    if not loss.requires_grad:
        return torch.zeros_like(copy, requires_grad=False)
    (found,) = torch.autograd.grad(
        loss, copy, create_graph=follow, retain_graph=follow, materialize_grads=True
    )
    return found
