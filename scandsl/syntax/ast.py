"""The abstract syntax of `.scan` files: plain frozen dataclasses with source spans.

Nothing here is resolved: names are strings, numbers are Python numbers.  Spans come last and do
not take part in comparison, so that `parse(format(x)) == x` can be tested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from scandsl.diagnostics import Span

NO_SPAN = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Identifier:
    """A name as written after NFKC, primes included for dimensions (`K'`)."""

    text: str
    span: Span = field(default=NO_SPAN, compare=False)


# ---------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True)
class Number:
    """A literal; `value` is an int when written without point and exponent."""

    value: int | float
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A bare name used as a value (also `inf`, `pi`, `t`, a dimension used as its size)."""

    text: str
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Subscript:
    """`name[slot, slot, ...]`; a slot is an index literal, a dimension or a loop variable."""

    name: Identifier
    slots: tuple[Slot, ...]
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class UnaryOp:
    """`-x`, `+x`, `not x`."""

    op: Literal["-", "+", "not"]
    operand: Expr
    span: Span = field(default=NO_SPAN, compare=False)


BinarySymbol: TypeAlias = Literal["+", "-", "*", "/", "**", "%", "@", "and", "or"]


@dataclass(frozen=True, slots=True)
class BinaryOp:
    """A two-operand operator.  `over` is the dimension list of `a @[W] b`, else `None`."""

    op: BinarySymbol
    left: Expr
    right: Expr
    over: tuple[Identifier, ...] | None = None
    op_span: Span = field(default=NO_SPAN, compare=False)
    span: Span = field(default=NO_SPAN, compare=False)


CompareSymbol: TypeAlias = Literal["<", "<=", ">", ">=", "==", "!="]


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain `operands[0] ops[0] operands[1] ops[1] ...` as in Python."""

    operands: tuple[Expr, ...]
    ops: tuple[CompareSymbol, ...]
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """`function[dims](arguments)`; `dims` is `None` when no bracket list was written."""

    function: Identifier
    dims: tuple[Identifier, ...] | None
    arguments: tuple[Expr, ...]
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Paren:
    """A parenthesised expression: kept, because `x * y @ z` is judged by its parentheses."""

    inner: Expr
    span: Span = field(default=NO_SPAN, compare=False)


Expr: TypeAlias = Number | Name | Subscript | UnaryOp | BinaryOp | Compare | Call | Paren
Slot: TypeAlias = Number | Identifier

# ---------------------------------------------------------------- declarations


@dataclass(frozen=True, slots=True)
class Interval:
    """`in [a, b]` with open or closed ends."""

    low: Expr
    high: Expr
    low_open: bool
    high_open: bool
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Unit:
    """`in unit`: vectors of Euclidean length at most 1."""

    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Item:
    """One declared name with its suffixes, in the order `x[D]: complex in [a, b] = expr`."""

    name: Identifier
    dims: tuple[Identifier, ...] = ()
    is_complex: bool = False
    range: Interval | Unit | None = None
    value: Expr | None = None
    span: Span = field(default=NO_SPAN, compare=False)


DeclarationKind: TypeAlias = Literal["input", "param", "scalar", "static", "state", "output"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """`input q[K], k[K]`: a keyword and its items.  Outputs are declarations too, in step order."""

    kind: DeclarationKind
    items: tuple[Item, ...]
    span: Span = field(default=NO_SPAN, compare=False)


# ---------------------------------------------------------------- statements


@dataclass(frozen=True, slots=True)
class Target:
    """Left side of an assignment: `h`, `s[0]` (one entry) or `A[K, K'] = ...` (with dimensions)."""

    name: Identifier
    slots: tuple[Slot, ...] | None = None
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Assign:
    """`target op value` with op one of `=`, `+=`, `-=`, `*=`, `/=`."""

    target: Target
    op: Literal["=", "+=", "-=", "*=", "/="]
    value: Expr
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class For:
    """`for r in R:` over a static dimension, or over a literal count."""

    variable: Identifier
    over: Identifier | Number
    body: tuple[Statement, ...]
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Every:
    """`every n:`; `period` is a literal or a static name."""

    period: Identifier | Number
    body: tuple[Statement, ...]
    span: Span = field(default=NO_SPAN, compare=False)


Statement: TypeAlias = Declaration | Assign | For | Every

# ---------------------------------------------------------------- top level


@dataclass(frozen=True, slots=True)
class Function:
    """`fn name[dims](parameters) = body`."""

    name: Identifier
    dims: tuple[Identifier, ...]
    parameters: tuple[Identifier, ...]
    body: Expr
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class Scan:
    """One recurrence: its documentation and its statements in order."""

    name: Identifier
    doc: str | None
    body: tuple[Statement, ...]
    span: Span = field(default=NO_SPAN, compare=False)


@dataclass(frozen=True, slots=True)
class File:
    """All scans and functions of one source, in order."""

    items: tuple[Function | Scan, ...]
    span: Span = field(default=NO_SPAN, compare=False)
