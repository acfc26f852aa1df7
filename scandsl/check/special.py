"""Forms whose arguments are more than values: `iota`, `lag`, `window`, `grad`, inlined functions.

In: a call whose argument count is right, and a way to evaluate expressions.  Out: a value, or
`None` after a report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from scandsl.check import brackets, errors, names
from scandsl.check.builder import MAX_LAG, MAX_VALUES, TooLarge
from scandsl.check.constants import fold
from scandsl.check.context import Context, Frame, Place, StateView, Typed
from scandsl.check.walk import strip
from scandsl.diagnostics import Span
from scandsl.ir.nodes import Grad, Iota, Kind, LagState, Prev, Ref, Stack, operands
from scandsl.syntax import ast

Evaluate: TypeAlias = Callable[[Context, ast.Expr], Typed]


def iota(ctx: Context, node: ast.Call) -> Typed:
    """`iota(K)`: 0, 1, ... along `K`."""
    argument = strip(node.arguments[0])
    if not isinstance(argument, ast.Name):
        ctx.report(errors.iota_argument(argument.span))
        return None
    dim = ctx.resolve_dim(ast.Identifier(argument.text, argument.span))
    if dim is None:
        return None
    ctx.used.add(dim.rstrip("'"))
    return ctx.builder.emit(Iota(dim), (dim,), Kind.INT, node.span)


# ---------------------------------------------------------------- looking back


def _in_step(ctx: Context, node: ast.Call) -> bool:
    if ctx.place is Place.STEP:
        return True
    name = node.function.text
    ctx.report(errors.not_allowed_here(node.span, name, "the function", ctx.place.value))
    return False


def lag(ctx: Context, node: ast.Call, evaluate: Evaluate) -> Typed:
    """`lag(x, n)`: a state's earlier ends, or any other expression's earlier values."""
    if not _in_step(ctx, node):
        return None
    n = _distance(ctx, node.arguments[1])
    view = state_view(ctx, node.arguments[0])
    if view is not None:
        return None if n is None else _earlier_state(ctx, view, n, node.span)
    with ctx.lagging():
        ref = evaluate(ctx, node.arguments[0])
    if ref is None or n is None:
        return None
    return ctx.builder.lag(ref, n, node.span)


def _distance(ctx: Context, expr: ast.Expr) -> int | None:
    """The `n` of a lag: an integer known here, at least 1."""
    n = fold(expr, ctx.numbers())
    if not isinstance(n, int):
        ctx.report(errors.lag_distance(expr.span))
        return None
    if n < 1:
        ctx.report(errors.lag_too_short(expr.span, ctx.text(expr.span), n))
        return None
    if n > MAX_LAG:
        ctx.report(errors.lag_too_long(expr.span, n, MAX_LAG))
        return None
    return n


def state_view(ctx: Context, expr: ast.Expr) -> StateView | None:
    """How an expression that is nothing but a state, with brackets or lags, sees that state."""
    extra = 0
    expr = strip(expr)
    while isinstance(expr, ast.Call) and expr.function.text == "lag" and len(expr.arguments) == 2:
        n = fold(expr.arguments[1], ctx.numbers())
        if not isinstance(n, int) or n < 1 or expr.dims is not None:
            return None
        extra += n
        expr = strip(expr.arguments[0])
    view = _bare_view(ctx, expr)
    return None if view is None else replace(view, back=view.back + extra)


def _bare_view(ctx: Context, expr: ast.Expr) -> StateView | None:
    match expr:
        case ast.Name(name):
            if ctx.frame is not None:
                return ctx.frame.views.get(name)
            if name not in ctx.declared.states:
                return None
            ctx.used.add(name)
            return StateView(name, (), ())
        case ast.Subscript(identifier, slots, span):
            state = ctx.declared.states.get(identifier.text)
            if state is None or ctx.frame is not None:
                return None
            view = brackets.resolve(ctx, state.name, state.dims, slots, span)
            ctx.used.add(state.name)
            return None if view is None else StateView(state.name, view.selects, view.renames)
        case _:
            return None


def _earlier_state(ctx: Context, view: StateView, n: int, span: Span) -> Ref:
    """A state at the end of the step `n` steps before the one that the view shows."""
    state = ctx.declared.states[view.state]
    total = n + view.back
    op = Prev(state.name) if total == 1 else LagState(state.name, total)
    ref = ctx.builder.emit(op, state.dims, state.kind, span)
    return brackets.apply(ctx, ref, view, span)


def window(ctx: Context, node: ast.Call, evaluate: Evaluate) -> Typed:
    """`window[W](x)`: the present value and its lags along the static dimension `W`."""
    if not _in_step(ctx, node):
        return None
    assert node.dims is not None
    dim = ctx.resolve_dim(node.dims[0])
    size = None if dim is None else ctx.dims.size(dim)
    if dim is not None and size is None:
        ctx.report(errors.window_not_static(node.dims[0].span, dim))
    argument = node.arguments[0]
    view = state_view(ctx, argument)
    present = evaluate(ctx, argument)
    if present is None or dim is None or size is None:
        return None
    ctx.used.add(dim.rstrip("'"))
    value = ctx.builder.values[present]
    if dim in value.dims:
        ctx.report(errors.window_has_dim(node.dims[0].span, dim, ctx.text(argument.span)))
        return None
    if size > MAX_VALUES:
        raise TooLarge
    if view is None:
        xs = [ctx.builder.lag(present, w, node.span) for w in range(size)]
    else:
        # literally: entry 0 is the state as it is now, entry w its end w steps ago
        xs = [present, *(_earlier_state(ctx, view, w, node.span) for w in range(1, size))]
    return ctx.builder.emit(Stack(tuple(xs), dim), (*value.dims, dim), value.kind, node.span)


# ---------------------------------------------------------------- derivatives


def gradient(ctx: Context, node: ast.Call, evaluate: Evaluate) -> Typed:
    """`grad(e, W)`: the derivative of a number by what the name `W` is bound to."""
    e = evaluate(ctx, node.arguments[0])
    target = strip(node.arguments[1])
    if not isinstance(target, ast.Name):
        ctx.report(errors.grad_target(target.span, ctx.text(target.span)))
        return None
    wrt = names.lookup(ctx, target.text, target.span)
    if e is None or wrt is None:
        return wrt if ctx.optimistic else None
    builder = ctx.builder
    span = node.arguments[0].span
    if builder.dims_of(e):
        ctx.report(errors.grad_not_number(span, ctx.text(span), builder.dims_of(e)))
        return None
    for ref, place in ((e, span), (wrt, target.span)):
        if builder.kind_of(ref) is not Kind.REAL:
            ctx.report(errors.grad_kind(place, ctx.text(place), builder.kind_of(ref).value))
            return None
    if ctx.place is Place.STEP and not _depends(ctx, e, wrt):
        ctx.report(errors.grad_zero(node.span, ctx.text(span), target.text))
    return builder.emit(Grad(e, wrt), builder.dims_of(wrt), Kind.REAL, node.span)


def _depends(ctx: Context, e: Ref, wrt: Ref) -> bool:
    """Whether `e` is made of `wrt`."""
    stack, seen = [e], {e}
    while stack:
        ref = stack.pop()
        if ref == wrt:
            return True
        for x in operands(ctx.builder.values[ref].op):
            if x not in seen and x >= wrt:
                seen.add(x)
                stack.append(x)
    return False


# ---------------------------------------------------------------- functions of the file


def inline(ctx: Context, node: ast.Call, function: ast.Function, evaluate: Evaluate) -> Typed:
    """The body of a function with arguments for its parameters."""
    arguments = [evaluate(ctx, argument) for argument in node.arguments]
    dims = ctx.resolve_dims(node.dims or ())
    usage = errors.function_usage(function)
    given, wanted = len(node.arguments), len(function.parameters)
    if given != wanted:
        name = function.name.text
        ctx.report(errors.argument_count(node.span, name, (wanted, wanted), given, usage))
        return None
    if len(node.dims or ()) != len(function.dims):
        counts = len(function.dims), len(node.dims or ())
        ctx.report(errors.dim_count(node.span, function.name.text, counts, usage))
        return None
    if dims is None or any(frame.function == function.name.text for frame in ctx.frames):
        return None  # recursion was reported where the functions are checked
    views = {}
    for parameter, argument in zip(function.parameters, node.arguments, strict=True):
        view = state_view(ctx, argument) if ctx.place is Place.STEP else None
        if view is not None:
            views[parameter.text] = view
    frame = Frame(
        function=function.name.text,
        values={p.text: ref for p, ref in zip(function.parameters, arguments, strict=True)},
        views=views,
        dims={d.text: dim for d, dim in zip(function.dims, dims, strict=True)},
        call=node.span,
    )
    with ctx.inlined(frame):
        return evaluate(ctx, function.body)
