"""A `Recurrence` as text, one value per line.

In: a recurrence.  Out: text for people and for tests of other stages; it is never read back.
"""

from __future__ import annotations

from collections.abc import Iterable

from scandsl.ir.nodes import (
    Binary,
    Cast,
    Clamp,
    Const,
    Contract,
    CumProd,
    CumSum,
    Dim,
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
    Op,
    Param,
    Prev,
    Range,
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
    Tensor,
    Time,
    Unary,
    Value,
    Where,
)


def print_recurrence(recurrence: Recurrence) -> str:
    """The whole recurrence: declarations, then values, then what states and outputs become."""
    lines = [f"recurrence {recurrence.name}"]
    lines += [f"  dim {_dim(d)}" for d in recurrence.dims]
    lines += [f"  input {_tensor(x)}" for x in recurrence.inputs]
    lines += [f"  param {_tensor(p)}" for p in recurrence.params]
    lines += [f"  scalar {s.name} = {_ref(s.default)}" for s in recurrence.scalars]
    lines += [
        f"  state {s.name}{_shape(s.dims)}{_kind(s.kind)} = {_ref(s.init)}"
        for s in recurrence.states
    ]
    lines += print_values(recurrence.values)
    lines += [f"  next {s.name} = {_ref(s.next)}" for s in recurrence.states]
    lines += [
        f"  output {o.name}{_shape(o.dims)}{_kind(o.kind)} = {_ref(o.value)}"
        for o in recurrence.outputs
    ]
    return "\n".join(lines) + "\n"


def print_values(values: Iterable[Value]) -> list[str]:
    """One line per value: its place, dimensions, kind, operation, and the user's name for it."""
    out = []
    for ref, value in enumerate(values):
        text = (
            f"  {_ref(ref)}: {_shape(value.dims) or '[]'}{_kind(value.kind)} = {print_op(value.op)}"
        )
        notes = [*([value.name] if value.name else []), *([] if value.varies else ["constant"])]
        out.append(text + (f"  # {', '.join(notes)}" if notes else ""))
    return out


def print_op(op: Op) -> str:  # noqa: C901 - one line per operation
    """An operation on one line, operands as `%i`."""
    match op:
        case Const(value):
            return repr(value)
        case Size(dim) | Iota(dim) | Row(dim):
            return f"{type(op).__name__.lower()} {dim}"
        case Time():
            return "time"
        case Every(period):
            return f"every {period}"
        case Input(name) | Param(name) | Scalar(name) | Load(name) | Prev(name):
            return f"{type(op).__name__.lower()} {name}"
        case Unary(fn, x):
            return f"{fn} {_ref(x)}"
        case Binary(fn, a, b):
            return f"{fn} {_ref(a)} {_ref(b)}"
        case Cast(x) | StopGrad(x) | Expand(x):
            return f"{type(op).__name__.lower()} {_ref(x)}"
        case Clamp(x, low, high):
            return f"clamp {_ref(x)} {_ref(low)} {_ref(high)}"
        case Where(c, a, b):
            return f"where {_ref(c)} {_ref(a)} {_ref(b)}"
        case MakeComplex(re, im):
            return f"complex {_ref(re)} {_ref(im)}"
        case Contract(a, b, over):
            return f"contract{_shape(over)} {_ref(a)} {_ref(b)}"
        case Reduce(fn, x, over):
            return f"{fn}{_shape(over)} {_ref(x)}"
        case Normalize(fn, x, over, eps):
            return f"{fn}{_shape(over)} {_ref(x)}" + (f" eps={eps:g}" if fn != "softmax" else "")
        case Rename(x, pairs):
            return f"rename {_ref(x)} " + ", ".join(f"{old}→{new}" for old, new in pairs)
        case Select(x, dim, index):
            return f"select {_ref(x)} {dim}={index}"
        case Insert(x, dim, index, y):
            return f"insert {_ref(x)} {dim}={index} {_ref(y)}"
        case Stack(xs, dim):
            return f"stack[{dim}] {' '.join(map(_ref, xs))}"
        case Lag(x, n):
            return f"lag {_ref(x)} {n}"
        case LagState(state, n):
            return f"lag state {state} {n}"
        case Grad(e, wrt):
            return f"grad {_ref(e)} {_ref(wrt)}"
        case Scores(q, k, a, row, column, over, factors, block):
            head = f"scores[{row}, {column}; {over}]{_factors(factors)}{_block(block)}"
            return f"{head} {_ref(q)} {_ref(k)} {_ref(a)}"
        case ScoresAdjoint(q, k, a, g, row, column, over, of, factors, block):
            head = f"scores adjoint of {of}[{row}, {column}; {over}]"
            head += _factors(factors) + _block(block)
            return f"{head} {_ref(q)} {_ref(k)} {_ref(a)} {_ref(g)}"
        case Spread(m, x, a, row, column, over, factors, block):
            head = f"spread[{row}, {column}; {over}]{_factors(factors)}{_block(block)}"
            return f"{head} {_ref(m)} {_ref(x)} {_ref(a)}"
        case Recur(a, b, start, rows, row, of, adjoint, after, algebra):
            head = f"{'adjoint ' if adjoint else ''}recurrence[{row}] {of}"
            head += "" if algebra == "linear" else f" of {algebra}"
            rest = "" if after is None else f" {_ref(after)}"
            return f"{head} {_ref(a)} {_ref(b)} {_ref(start)} {_ref(rows)}{rest}"
        case Tangent(x, a, b, start, rows, row, of):
            head = f"tangent[{row}] {of} {_ref(x)}"
            return f"{head} {_ref(a)} {_ref(b)} {_ref(start)} {_ref(rows)}"
        case Inverse(x, row, column):
            return f"inverse[{row}, {column}] {_ref(x)}"
        case SegmentProduct(x, row, column, _, exclusive):
            flag = " exclusive" if exclusive else ""
            return f"segment product[{row}, {column}] {_ref(x)}{flag}"
        case Segment(x, row, column):
            return f"segment[{row}, {column}] {_ref(x)}"
        case SegmentAdjoint(g, row, column):
            return f"segment adjoint[{row}, {column}] {_ref(g)}"
        case CumSum(x, dim, reverse, exclusive):
            flags = (" reverse" if reverse else "") + (" exclusive" if exclusive else "")
            return f"cumsum[{dim}] {_ref(x)}{flags}"
        case CumProd(x, dim, reverse, exclusive):
            flags = (" reverse" if reverse else "") + (" exclusive" if exclusive else "")
            return f"cumprod[{dim}] {_ref(x)}{flags}"


def _factors(factors: bool) -> str:
    return " of factors" if factors else ""


def _block(block: int) -> str:
    return f" in blocks of {block}" if block else ""


def _ref(ref: Ref) -> str:
    return f"%{ref}"


def _shape(dims: Dims) -> str:
    return f"[{', '.join(dims)}]" if dims else ""


def _kind(kind: Kind) -> str:
    return "" if kind is Kind.REAL else f" {kind.value}"


def _dim(dim: Dim) -> str:
    size = "" if dim.size is None else f" = {dim.size}"
    return dim.name + size + ("" if dim.base is None else f" like {dim.base}")


def _range(bounds: Range) -> str:
    left, right = "(" if bounds.low_open else "[", ")" if bounds.high_open else "]"
    return f" in {left}{bounds.low:g}, {bounds.high:g}{right}"


def _tensor(tensor: Tensor) -> str:
    promise = "" if tensor.range is None else _range(tensor.range)
    return f"{tensor.name}{_shape(tensor.dims)}{_kind(tensor.kind)}{promise}" + (
        " in unit" if tensor.unit else ""
    )
