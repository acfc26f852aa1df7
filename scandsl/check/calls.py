"""Calls: builtin functions, the special forms, and functions of the file, which are inlined.

In: a call and a way to evaluate its arguments.  Out: a value, or `None` after a report.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from scandsl.check import errors, kinds, special
from scandsl.check.builtins import (
    COMPLEX_REDUCE,
    COMPLEX_UNARY,
    EPSILON,
    INT_UNARY,
    NORMALIZE,
    PAIRWISE,
    REDUCE,
    SIGNATURES,
    UNARY,
    Signature,
)
from scandsl.check.constants import fold
from scandsl.check.context import Context, Typed
from scandsl.ir.nodes import (
    Binary,
    Clamp,
    Dims,
    Kind,
    MakeComplex,
    Normalize,
    Reduce,
    Ref,
    StopGrad,
    Unary,
    Where,
)
from scandsl.syntax import ast

Evaluate: TypeAlias = Callable[[Context, ast.Expr], Typed]


def call(ctx: Context, node: ast.Call, evaluate: Evaluate) -> Typed:
    """The value of a call."""
    name = node.function.text
    if name in ctx.functions:
        return special.inline(ctx, node, ctx.functions[name], evaluate)
    signature = signature_of(node)
    if signature is None:
        is_value = name in ctx.value_names()
        ctx.report(errors.unknown_function(node.function, [*SIGNATURES, *ctx.functions], is_value))
        evaluate_all(ctx, node, evaluate)
        return None
    if not check_usage(ctx, node, signature):
        return None
    match name:
        case "iota":
            return special.iota(ctx, node)
        case "lag":
            return special.lag(ctx, node, evaluate)
        case "window":
            return special.window(ctx, node, evaluate)
        case "grad":
            return special.gradient(ctx, node, evaluate)
        case _:
            return _ordinary(ctx, node, evaluate)


def signature_of(node: ast.Call) -> Signature | None:
    """The signature of the builtin that is called; `max` and `min` have two."""
    name = node.function.text
    if name in PAIRWISE and node.dims is None:
        return PAIRWISE[name]
    return SIGNATURES.get(name)


def evaluate_all(ctx: Context, node: ast.Call, evaluate: Evaluate) -> list[Typed]:
    """All arguments, so that each finds its own faults."""
    return [evaluate(ctx, argument) for argument in node.arguments]


def check_usage(ctx: Context, node: ast.Call, signature: Signature) -> bool:
    """Whether arguments and dimensions are as many as the function takes."""
    name, given = node.function.text, len(node.arguments)
    if name in PAIRWISE and node.dims is None and given == 1:
        ctx.report(errors.max_of_one(node.span, name, ctx.text(node.arguments[0].span)))
        return False
    if signature.dims and not node.dims:
        ctx.report(errors.dims_needed(node.span, name, signature.usage))
        return False
    if not signature.dims and node.dims is not None:
        span = node.dims[0].span if node.dims else node.function.span
        ctx.report(errors.no_dims_taken(span, name, signature.usage))
        return False
    if signature.dims == 1 and node.dims is not None and len(node.dims) > 1:
        ctx.report(errors.one_dim_only(node.dims[1].span, name, signature.usage))
        return False
    if not signature.least <= given <= signature.most:
        counts = signature.least, signature.most
        ctx.report(errors.argument_count(node.span, name, counts, given, signature.usage))
        return False
    return True


def _ordinary(ctx: Context, node: ast.Call, evaluate: Evaluate) -> Typed:
    """A function whose arguments are plain values."""
    name = node.function.text
    if name in NORMALIZE:
        return _normalize(ctx, node, evaluate(ctx, node.arguments[0]))
    refs = evaluate_all(ctx, node, evaluate)
    good = [ref for ref in refs if ref is not None]
    if len(good) < len(refs):
        return good[0] if ctx.optimistic and good else None
    if name in UNARY:
        return _unary(ctx, node, good[0])
    if name in REDUCE and node.dims is not None:
        return _reduce(ctx, node, good[0])
    if name == "stopgrad":
        value = ctx.builder.values[good[0]]
        return ctx.builder.emit(StopGrad(good[0]), value.dims, value.kind, node.span)
    return _several(ctx, node, good)


def _unary(ctx: Context, node: ast.Call, ref: Ref) -> Typed:
    name, argument = node.function.text, node.arguments[0]
    user = None if name in COMPLEX_UNARY else f"`{name}`"
    number = kinds.number(ctx, ref, argument.span, complex_user=user)
    if number is None:
        return None
    builder = ctx.builder
    kind = builder.kind_of(number)
    if kind is not Kind.COMPLEX and name in ("re", "conj"):
        return number
    if kind is not Kind.COMPLEX and name == "im":
        ctx.report(errors.im_of_real(argument.span, ctx.text(argument.span)))
        return None
    if kind is Kind.INT and name not in INT_UNARY:
        number, kind = builder.cast(number, Kind.REAL, node.span), Kind.REAL
    if name in ("re", "im", "abs") and kind is Kind.COMPLEX:
        kind = Kind.REAL
    return builder.emit(Unary(UNARY[name], number), builder.dims_of(number), kind, node.span)


def _over(ctx: Context, node: ast.Call, ref: Ref) -> Dims | None:
    """The dimensions in the brackets of a call, all of which its argument must have."""
    named = ctx.resolve_dims(node.dims or ())
    if named is None:
        return None
    have = ctx.builder.dims_of(ref)
    for identifier, dim in zip(node.dims or (), named, strict=True):
        if dim not in have:
            argument = ctx.text(node.arguments[0].span)
            ctx.report(
                errors.dim_not_there(identifier.span, node.function.text, dim, argument, have)
            )
            return None
    return named


def _reduce(ctx: Context, node: ast.Call, ref: Ref) -> Typed:
    name, builder = node.function.text, ctx.builder
    user = None if name in COMPLEX_REDUCE else f"`{name}`"
    number = kinds.number(ctx, ref, node.arguments[0].span, complex_user=user)
    over = _over(ctx, node, ref)
    if number is None or over is None:
        return None
    if name in ("mean", "logsumexp") and builder.kind_of(number) is Kind.INT:
        number = builder.cast(number, Kind.REAL, node.span)
    kind = Kind.INT if name == "argmax" else builder.kind_of(number)
    dims = [d for d in builder.dims_of(number) if d not in over]
    ordered = over if name == "argmax" else ctx.dims.sort(over)
    return builder.emit(Reduce(REDUCE[name], number, ordered), dims, kind, node.span)


def _normalize(ctx: Context, node: ast.Call, ref: Typed) -> Typed:
    name = node.function.text
    eps = _epsilon(ctx, node)
    number = kinds.real(ctx, ref, node.arguments[0].span, f"`{name}`")
    if ref is None or number is None or eps is None:
        return None
    over = _over(ctx, node, ref)
    if over is None:
        return None
    op = Normalize(NORMALIZE[name], number, ctx.dims.sort(over), eps)
    return ctx.builder.emit(op, ctx.builder.dims_of(number), Kind.REAL, node.span)


def _epsilon(ctx: Context, node: ast.Call) -> float | None:
    if len(node.arguments) < 2:
        return EPSILON[node.function.text]
    value = fold(node.arguments[1], ctx.numbers())
    if value is None or value < 0:
        ctx.report(errors.epsilon(node.arguments[1].span, node.function.text))
        return None
    return float(value)


def _several(ctx: Context, node: ast.Call, refs: list[Ref]) -> Typed:
    """Elementwise functions of two and three arguments."""
    name, builder = node.function.text, ctx.builder
    if name == "where":
        return _where(ctx, node, refs)
    spans = [argument.span for argument in node.arguments]
    numbers = [
        kinds.number(ctx, ref, span, complex_user=f"`{name}`")
        for ref, span in zip(refs, spans, strict=True)
    ]
    good = [n for n in numbers if n is not None]
    if len(good) < len(numbers):
        return None
    least = Kind.REAL if name in ("logaddexp", "complex") else Kind.INT
    xs = kinds.together(ctx, good, node.span, least)
    dims = [d for x in xs for d in builder.dims_of(x)]
    match name:
        case "complex":
            return builder.emit(MakeComplex(xs[0], xs[1]), dims, Kind.COMPLEX, node.span)
        case "clamp":
            return builder.emit(Clamp(xs[0], xs[1], xs[2]), dims, builder.kind_of(xs[0]), node.span)
        case "max" | "min" | "logaddexp":
            return builder.emit(Binary(name, xs[0], xs[1]), dims, builder.kind_of(xs[0]), node.span)
        case _:
            raise AssertionError(name)


def _where(ctx: Context, node: ast.Call, refs: list[Ref]) -> Typed:
    builder = ctx.builder
    condition = kinds.condition(ctx, refs[0], node.arguments[0].span, "`where`")
    branches = refs[1:]
    found = {builder.kind_of(r) for r in branches}
    if found != {Kind.BOOL}:
        for ref, argument in zip(branches, node.arguments[1:], strict=True):
            if kinds.number(ctx, ref, argument.span) is None:
                return None
    if condition is None:
        return None
    a, b = kinds.together(ctx, branches, node.span)
    dims = [d for x in (condition, a, b) for d in builder.dims_of(x)]
    return builder.emit(Where(condition, a, b), dims, builder.kind_of(a), node.span)
