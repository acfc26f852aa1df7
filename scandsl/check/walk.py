"""Reading order over the syntax tree, without recursion.

In: an expression or statements.  Out: their parts in the order of the text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from scandsl.syntax import ast


def children(expr: ast.Expr) -> tuple[ast.Expr, ...]:
    """The direct operands of an expression, left to right."""
    match expr:
        case ast.UnaryOp(_, operand):
            return (operand,)
        case ast.BinaryOp(_, left, right):
            return (left, right)
        case ast.Compare(operands):
            return operands
        case ast.Call(_, _, arguments):
            return arguments
        case ast.Paren(inner):
            return (inner,)
        case _:
            return ()


def expressions(expr: ast.Expr) -> Iterator[ast.Expr]:
    """An expression and all of its parts, each before its own parts."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def strip(expr: ast.Expr) -> ast.Expr:
    """The expression inside any number of parentheses."""
    while isinstance(expr, ast.Paren):
        expr = expr.inner
    return expr


def statements(body: Iterable[ast.Statement]) -> Iterator[ast.Statement]:
    """All statements, those of nested blocks included, in the order of the text."""
    stack = list(reversed(tuple(body)))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.For | ast.Every):
            stack.extend(reversed(node.body))


def values_of(statement: ast.Statement) -> tuple[ast.Expr, ...]:
    """The expressions that stand in a statement itself (not in a nested block)."""
    match statement:
        case ast.Assign(_, _, value):
            return (value,)
        case ast.Declaration(_, items):
            return tuple(item.value for item in items if item.value is not None)
        case _:
            return ()


def dimension_names(statement: ast.Statement) -> Iterator[str]:
    """Names in bracket lists, and bare names (which may be sizes), in the order of the text."""
    match statement:
        case ast.Declaration(_, items):
            for item in items:
                yield from (d.text for d in item.dims)
                if item.value is not None:
                    yield from _in_expression(item.value)
        case ast.Assign(target, _, value):
            yield from _slot_names(target.slots or ())
            yield from _in_expression(value)
        case ast.For(_, over, _) | ast.Every(over, _):
            if isinstance(over, ast.Identifier):
                yield over.text


def _slot_names(slots: Iterable[ast.Slot]) -> Iterator[str]:
    return (slot.text for slot in slots if isinstance(slot, ast.Identifier))


def _in_expression(expr: ast.Expr) -> Iterator[str]:
    for node in expressions(expr):
        match node:
            case ast.Name(text):
                yield text
            case ast.Subscript(_, slots):
                yield from _slot_names(slots)
            case ast.Call(_, dims):
                yield from (d.text for d in dims or ())
            case ast.BinaryOp(_, _, _, over):
                yield from (d.text for d in over or ())
            case _:
                pass


def differentiated(body: Iterable[ast.Statement]) -> frozenset[str]:
    """Names that some `grad` differentiates by."""
    out: set[str] = set()
    for statement in statements(body):
        for value in values_of(statement):
            for node in expressions(value):
                if not isinstance(node, ast.Call) or node.function.text != "grad":
                    continue
                target = strip(node.arguments[-1]) if node.arguments else None
                if isinstance(target, ast.Name):
                    out.add(target.text)
    return frozenset(out)
