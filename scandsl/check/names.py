"""What a bare name means at a place of a scan.

In: a name.  Out: the value it is bound to, or a report that says why there is none.
"""

from __future__ import annotations

from scandsl.check import errors
from scandsl.check.constants import CONSTANTS
from scandsl.check.context import Context, Place, Typed
from scandsl.diagnostics import Span
from scandsl.ir.nodes import Input, Kind, Param, Prev, Scalar, Size, Tensor, Time


def lookup(ctx: Context, name: str, span: Span) -> Typed:
    """The value of a name; a dimension is its size."""
    if name in CONSTANTS:
        return ctx.builder.constant(CONSTANTS[name], Kind.REAL, span)
    if name == "t":
        return _time(ctx, span)
    if ctx.frame is not None:
        return _in_function(ctx, name, span)
    if name in ctx.loops:
        return ctx.builder.constant(ctx.loops[name], Kind.INT, span)
    if ctx.dims.knows(name):
        return size(ctx, name, span)
    if name in ctx.env:
        return ctx.env[name]
    ctx.used.add(name)
    declared = _declared(ctx, name, span)
    if declared is not None:
        return declared
    return _unbound(ctx, name, span)


def _time(ctx: Context, span: Span) -> Typed:
    if ctx.place is not Place.STEP:
        ctx.report(errors.not_allowed_here(span, "t", "the position", ctx.place.value))
        return None
    return ctx.builder.emit(Time(), (), Kind.INT, span)


def size(ctx: Context, dim: str, span: Span) -> Typed:
    """The size of a dimension as an INT: a literal for a static one."""
    ctx.used.add(dim.rstrip("'"))
    static = ctx.dims.size(dim)
    if static is not None:
        return ctx.builder.constant(static, Kind.INT, span)
    ctx.dims.register(dim)
    return ctx.builder.emit(Size(dim), (), Kind.INT, span)


def _in_function(ctx: Context, name: str, span: Span) -> Typed:
    assert ctx.frame is not None
    if name in ctx.frame.values:
        return ctx.frame.values[name]
    base = name.rstrip("'")
    if base in ctx.frame.dims:
        return size(ctx, ctx.frame.dims[base] + name[len(base) :], span)
    ctx.report(errors.unknown_in_function(span, name, ctx.frame.function, list(ctx.frame.values)))
    return None


def _tensor(ctx: Context, tensor: Tensor, op: Input | Param, span: Span) -> Typed:
    return ctx.builder.emit(op, tensor.dims, tensor.kind, span)


def _declared(ctx: Context, name: str, span: Span) -> Typed:
    declared, place = ctx.declared, ctx.place
    if name in declared.params and place is not Place.SCALAR:
        return _tensor(ctx, declared.params[name], Param(name), span)
    if name in declared.scalars and (place is not Place.SCALAR or name in ctx.ready_scalars):
        return ctx.builder.emit(Scalar(name), (), Kind.REAL, span)
    if place is not Place.STEP:
        return None
    if name in declared.inputs:
        return _tensor(ctx, declared.inputs[name], Input(name), span)
    if name in declared.states:
        state = declared.states[name]
        return ctx.builder.emit(Prev(name), state.dims, state.kind, span)
    return None


def _unbound(ctx: Context, name: str, span: Span) -> Typed:
    if ctx.place is not Place.STEP:
        role = ctx.declared.role(name)
        if role is not None or name in ctx.assigned:
            ctx.report(
                errors.not_allowed_here(span, name, f"the {role or 'local'}", ctx.place.value)
            )
            return None
    elif name in ctx.assigned:
        return _forward(ctx, name, span)
    elif name in ctx.block_local:
        ctx.report(errors.local_to_block(span, name))
        return None
    ctx.report(errors.unknown_name(span, name, ctx.value_names(), name in ctx.functions))
    return None


def _forward(ctx: Context, name: str, span: Span) -> Typed:
    """A local read before the step assigns it: fine where a lag looks back at it."""
    if not ctx.lag_depth:
        ctx.report(errors.use_before_assignment(span, name, name in ctx.declared.outputs))
        return None
    ctx.wanted.setdefault(name, span)
    if ctx.expected is None or name not in ctx.expected:
        return None
    expected = ctx.expected[name]
    return ctx.builder.forward(name, expected.dims, expected.kind)
