"""From grammar rules to AST nodes: one callback per rule, called by lark while it parses.

In: the tokens and nodes of one rule. Out: a node of `scandsl.syntax.ast` with its exact span, or
one of the small carriers below for rules that are only part of a node. Raises `Fault` for what the
grammar cannot say. Knows nothing of names or dimensions.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, Final

from lark import Token, Transformer

from scandsl.diagnostics import Diagnostic, Span
from scandsl.syntax import ast, errors

MAX_DEPTH: Final = 200
_MAX_INT: Final = 2**63 - 1


class Fault(Exception):
    """One finding about the rule being built; caught where lark was called."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.message)
        self.diagnostic = diagnostic


@dataclass(frozen=True, slots=True)
class Names:
    """A bracket list, or the parameters of a function."""

    items: tuple[Any, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Kind:
    """`: complex`."""

    span: Span


@dataclass(frozen=True, slots=True)
class Init:
    """`= expr` behind a declared name."""

    value: ast.Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Doc:
    """The documentation of a scan."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Header:
    """`scan x:`, `for r in R:` or `every n:`; `over` is the count of the last two."""

    keyword: str
    name: ast.Identifier | None
    over: ast.Identifier | ast.Number | None
    span: Span


@dataclass(frozen=True, slots=True)
class Block:
    """The statements under a header."""

    body: tuple[ast.Statement, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Line:
    """One logical line alone: a header (`body` is what follows on its line), or what it holds."""

    content: Header | Doc | ast.Function | ast.Statement
    body: ast.Statement | None


def _start(part: Any) -> int:
    if isinstance(part, Token):
        assert part.start_pos is not None
        return part.start_pos
    start: int = part.span.start
    return start


def _end(part: Any) -> int:
    if isinstance(part, Token):
        assert part.end_pos is not None
        return part.end_pos
    end: int = part.span.end
    return end


def span_of(*parts: Any) -> Span:
    """From the start of the first part to the end of the last."""
    return Span(_start(parts[0]), _end(parts[-1]))


def _no_tokens(parts: list[Any]) -> tuple[Any, ...]:
    return tuple(p for p in parts if not isinstance(p, Token))


def _number(token: Token) -> ast.Number:
    span = span_of(token)
    if token.type == "INT":
        value = int(token)
        if value > _MAX_INT:
            raise Fault(errors.integer_too_large(span, f"{value:.17g}"))
        return ast.Number(value, span)
    number = float(token)
    if math.isinf(number):
        raise Fault(errors.number_too_large(span))
    return ast.Number(number, span)


def depth(root: ast.Expr) -> int:
    """How many operators, calls and brackets lie inside one another."""
    deepest = 0
    todo: list[tuple[ast.Expr, int]] = [(root, 1)]
    while todo:
        node, level = todo.pop()
        deepest = max(deepest, level)
        match node:
            case ast.UnaryOp(_, inner) | ast.Paren(inner):
                todo.append((inner, level + 1))
            case ast.BinaryOp(_, left, right):
                todo += ((left, level + 1), (right, level + 1))
            case ast.Compare(parts) | ast.Call(_, _, parts):
                todo += ((part, level + 1) for part in parts)
            case _:
                pass
    return deepest


def _checked(value: ast.Expr) -> ast.Expr:
    if depth(value) > MAX_DEPTH:
        raise Fault(errors.expression_too_deep(value.span, MAX_DEPTH))
    return value


class Builder(Transformer[Token, Any]):
    """The callbacks, one per rule or alias of the grammar; each gets every token of its rule."""

    # ------------------------------------------------------------ expressions

    def number(self, parts: list[Any]) -> ast.Number:
        """`2`, `1.5e-3`."""
        return _number(parts[0])

    def dim(self, parts: list[Any]) -> ast.Identifier:
        """`K`, `K'`."""
        return ast.Identifier(str(parts[0]), span_of(parts[0]))

    def name(self, parts: list[Any]) -> ast.Identifier:
        """`x`."""
        return self.dim(parts)

    def value(self, parts: list[Any]) -> ast.Name:
        """`x` as a value."""
        return ast.Name(parts[0].text, parts[0].span)

    def dims(self, parts: list[Any]) -> Names:
        """`[K, V]`."""
        return Names(_no_tokens(parts), span_of(*parts))

    def slots(self, parts: list[Any]) -> Names:
        """`[0, V]`."""
        return Names(_no_tokens(parts), span_of(*parts))

    def subscript(self, parts: list[Any]) -> ast.Subscript:
        """`x[0, V]`."""
        return ast.Subscript(parts[0], parts[1].items, span_of(*parts))

    def call(self, parts: list[Any]) -> ast.Call:
        """`f[D](x, y)`."""
        lists = [p for p in parts[1:] if isinstance(p, Names)]
        bracketed = isinstance(parts[1], Names)
        for slot in lists[0].items if bracketed else ():
            if isinstance(slot, ast.Number):
                raise Fault(errors.number_as_dimension(slot.span, parts[0].text))
        dims = lists[0].items if bracketed else None
        rest = lists[1:] if bracketed else lists
        return ast.Call(parts[0], dims, rest[0].items if rest else (), span_of(*parts))

    def arguments(self, parts: list[Any]) -> Names:
        """`x, y`."""
        return Names(_no_tokens(parts), span_of(*parts))

    def paren(self, parts: list[Any]) -> ast.Paren:
        """`(x)`."""
        return ast.Paren(parts[1], span_of(*parts))

    def unary(self, parts: list[Any]) -> ast.UnaryOp:
        """`-x`, `not x`."""
        return ast.UnaryOp(str(parts[0]), parts[1], span_of(*parts))  # type: ignore[arg-type]

    def binary(self, parts: list[Any]) -> ast.BinaryOp:
        """`x * y`."""
        left, op, right = parts
        return ast.BinaryOp(str(op), left, right, None, span_of(op), span_of(*parts))  # type: ignore[arg-type]

    def binary_over(self, parts: list[Any]) -> ast.BinaryOp:
        """`x @[W] y`."""
        left, op, dims, right = parts
        return ast.BinaryOp("@", left, right, dims.items, span_of(op, dims), span_of(*parts))

    def compare(self, parts: list[Any]) -> ast.Compare:
        """`0 < x <= 1`."""
        ops = tuple(str(op) for op in parts[1::2])
        return ast.Compare(tuple(parts[::2]), ops, span_of(*parts))  # type: ignore[arg-type]

    # ------------------------------------------------------------ statements

    def kind(self, parts: list[Any]) -> Kind:
        """`: complex`."""
        return Kind(span_of(*parts))

    def unit(self, parts: list[Any]) -> ast.Unit:
        """`in unit`."""
        return ast.Unit(span_of(*parts))

    def interval(self, parts: list[Any]) -> ast.Interval:
        """`in (a, b]`; the span leaves out the word `in`."""
        _, opening, low, _, high, closing = parts
        span = span_of(opening, closing)
        return ast.Interval(_checked(low), _checked(high), opening == "(", closing == ")", span)

    def init(self, parts: list[Any]) -> Init:
        """`= expr`."""
        return Init(_checked(parts[1]), span_of(*parts))

    def item(self, parts: list[Any]) -> ast.Item:
        """`x[D]: complex in [a, b] = expr`."""
        dims: tuple[ast.Identifier, ...] = ()
        is_complex = False
        bounds: ast.Interval | ast.Unit | None = None
        value: ast.Expr | None = None
        for part in parts[1:]:
            match part:
                case Names(items):
                    dims = items
                case Kind():
                    is_complex = True
                case ast.Interval() | ast.Unit():
                    bounds = part
                case Init(value):
                    pass
        return ast.Item(parts[0], dims, is_complex, bounds, value, span_of(*parts))

    def declaration(self, parts: list[Any]) -> ast.Declaration:
        """`input x, y`."""
        return ast.Declaration(str(parts[0]), _no_tokens(parts), span_of(*parts))  # type: ignore[arg-type]

    def target(self, parts: list[Any]) -> ast.Target:
        """`x`, `x[0]`."""
        slots = parts[1].items if len(parts) > 1 else None
        return ast.Target(parts[0], slots, span_of(*parts))

    def assign(self, parts: list[Any]) -> ast.Assign:
        """`x += expr`."""
        target, op, value = parts
        return ast.Assign(target, str(op), _checked(value), span_of(*parts))  # type: ignore[arg-type]

    def for_header(self, parts: list[Any]) -> Header:
        """`for r in R:`."""
        return Header("for", parts[1], parts[3], span_of(*parts))

    def every_header(self, parts: list[Any]) -> Header:
        """`every n:`."""
        return Header("every", None, parts[1], span_of(*parts))

    def block(self, parts: list[Any]) -> Block:
        """The statements under a header, or behind it on its line."""
        body = _no_tokens(parts)
        return Block(body, span_of(body[0], body[-1]))

    def simple_statement(self, parts: list[Any]) -> ast.Statement:
        """A statement of one line."""
        statement: ast.Statement = parts[0]
        return statement

    def for_statement(self, parts: list[Any]) -> ast.For:
        """A loop."""
        header, block = parts
        return ast.For(header.name, header.over, block.body, span_of(header, block))

    def every_statement(self, parts: list[Any]) -> ast.Every:
        """A block of some steps only."""
        header, block = parts
        return ast.Every(header.over, block.body, span_of(header, block))

    # ------------------------------------------------------------ top level

    def parameters(self, parts: list[Any]) -> Names:
        """The parameters of a function."""
        return Names(_no_tokens(parts), span_of(*parts))

    def function(self, parts: list[Any]) -> ast.Function:
        """`fn f[D](x) = expr`."""
        *head, body, _ = parts
        dims = head[2].items if isinstance(head[2], Names) else ()
        last = head[-3]  # before `)` and `=`: the parameters, or the opening bracket
        parameters = last.items if isinstance(last, Names) else ()
        return ast.Function(head[1], dims, parameters, _checked(body), span_of(head[0], body))

    def doc(self, parts: list[Any]) -> Doc:
        """The documentation of a scan, without its quotes and indentation; no escapes."""
        text = parts[0][3:-3].replace("\r\n", "\n").replace("\r", "\n")
        return Doc(inspect.cleandoc(text), span_of(parts[0]))

    def scan_header(self, parts: list[Any]) -> Header:
        """`scan x:`."""
        return Header("scan", parts[1], None, span_of(*parts))

    def scan(self, parts: list[Any]) -> ast.Scan:
        """A whole scan."""
        header, *rest = _no_tokens(parts)
        doc = rest.pop(0).text if isinstance(rest[0], Doc) else None
        return ast.Scan(header.name, doc, tuple(rest), span_of(header, rest[-1]))

    def line(self, parts: list[Any]) -> Line:
        """One logical line."""
        content, *rest = _no_tokens(parts)
        return Line(content, rest[0] if rest else None)

    def file(self, parts: list[Any]) -> ast.File:
        """The whole file; its span is set by the caller, who knows the text."""
        return ast.File(tuple(parts))
