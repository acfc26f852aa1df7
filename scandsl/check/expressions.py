"""Expressions: syntax in, typed values out.

In: an expression and a `Context`.  Out: the value, or `None` after a report.  Chains of operators
are walked in a loop and nesting is limited, so that no text can exhaust the stack.
"""

from __future__ import annotations

from scandsl.check import brackets, calls, errors, names, operators
from scandsl.check.constants import MAX_INT
from scandsl.check.context import Context, Typed
from scandsl.check.operators import Factor, Operand, Run
from scandsl.check.walk import strip
from scandsl.diagnostics import Span
from scandsl.ir.nodes import Kind
from scandsl.syntax import ast

MAX_DEPTH = 100

MULTIPLICATIVE = ("*", "/", "%", "@")


def evaluate(ctx: Context, expr: ast.Expr) -> Typed:
    """The typed value of an expression."""
    expr = strip(expr)
    ctx.spend()
    if ctx.depth >= MAX_DEPTH:
        if not ctx.gave_up:
            ctx.report(errors.too_deep(expr.span))
        ctx.gave_up = True
        return None
    ctx.depth += 1
    try:
        return _evaluate(ctx, expr)
    finally:
        ctx.depth -= 1


def _evaluate(ctx: Context, expr: ast.Expr) -> Typed:
    match expr:
        case ast.Number(value, span):
            return _literal(ctx, value, span)
        case ast.Name(text, span):
            return names.lookup(ctx, text, span)
        case ast.Subscript(name, _, _):
            return brackets.read(ctx, expr, names.lookup(ctx, name.text, name.span))
        case ast.UnaryOp(op, operand, span):
            ref = evaluate(ctx, operand)
            return (
                None if ref is None else operators.unary(ctx, op, Operand(ref, operand.span), span)
            )
        case ast.BinaryOp():
            return _chain(ctx, expr)
        case ast.Compare():
            return _compare(ctx, expr)
        case ast.Call():
            return calls.call(ctx, expr, evaluate)
        case _:
            raise AssertionError(expr)  # parentheses were stripped


def _literal(ctx: Context, value: int | float, span: Span) -> Typed:
    if isinstance(value, int) and value > MAX_INT:
        ctx.report(errors.integer_too_large(span))
        return None
    return ctx.builder.constant(value, Kind.INT if isinstance(value, int) else Kind.REAL, span)


def _compare(ctx: Context, node: ast.Compare) -> Typed:
    refs = [evaluate(ctx, operand) for operand in node.operands]
    links = []
    for i, op in enumerate(node.ops):
        a, b = refs[i], refs[i + 1]
        if a is None or b is None:
            continue
        left, right = Operand(a, node.operands[i].span), Operand(b, node.operands[i + 1].span)
        span = Span(left.span.start, right.span.end)
        links.append(operators.comparison(ctx, op, left, right, span))
    good = [link for link in links if link is not None]
    if len(good) < len(node.ops):
        return None
    return operators.conjunction(ctx, good, node.span)


def _chain(ctx: Context, node: ast.BinaryOp) -> Typed:
    """A left-leaning chain of operators, from its first operand on."""
    nodes: list[ast.BinaryOp] = []
    first: ast.Expr = node
    while isinstance(first, ast.BinaryOp):
        nodes.append(first)
        first = first.left
    ref = evaluate(ctx, first)
    run = Run([])
    if ref is not None:
        run.start(ctx.builder.dims_of(ref), first.span)
    for link in reversed(nodes):
        right = evaluate(ctx, link.right)
        ref = _link(ctx, link, ref, right, run)
    return ref


def _link(ctx: Context, node: ast.BinaryOp, left: Typed, right: Typed, run: Run) -> Typed:
    """One operator of a chain."""
    if left is None or right is None:
        run.factors.clear()
        if not ctx.optimistic or node.op == "@":
            return None
        return right if left is None else left
    a, b = Operand(left, node.left.span), Operand(right, node.right.span)
    if node.op in MULTIPLICATIVE:
        new = _factor(ctx, node, a, b)
        if not run.factors:
            run.start(ctx.builder.dims_of(left), node.left.span)
        if not run.check(ctx, new):
            run.factors.clear()
            return None
        ref = _apply(ctx, node, a, b)
        run.factors.append(new)
    else:
        ref = _apply(ctx, node, a, b)
        if ref is not None:
            run.start(ctx.builder.dims_of(ref), node.span)
    return ref


def _factor(ctx: Context, node: ast.BinaryOp, a: Operand, b: Operand) -> Factor:
    builder = ctx.builder
    over = None
    if node.over is not None:
        over = frozenset(ctx.meant(d.text) for d in node.over)
    before = frozenset(builder.dims_of(a.ref))
    return Factor(node.op, frozenset(builder.dims_of(b.ref)), b.span, before, over)


def _apply(ctx: Context, node: ast.BinaryOp, a: Operand, b: Operand) -> Typed:
    if node.op in ("and", "or"):
        return operators.logical(ctx, node.op, a, b, node.span)
    if node.op == "@":
        return operators.contract(ctx, a, b, node.over, node.span)
    return operators.arithmetic(ctx, node.op, a, b, node.span)
