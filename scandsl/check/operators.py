"""Operators on typed values: arithmetic, `@`, comparisons, and the two readings of `x * y @ z`.

In: typed operands with the places they were written at.  Out: a value, or `None` after a report.
"""

from __future__ import annotations

from dataclasses import dataclass

from scandsl.check import errors, kinds
from scandsl.check.context import Context, Typed
from scandsl.diagnostics import Diagnostic, Span
from scandsl.ir.nodes import Binary, BinaryFn, Const, Contract, Dims, Kind, Ref, Unary
from scandsl.syntax import ast

ARITHMETIC: dict[str, BinaryFn] = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow", "%": "mod",
}  # fmt: skip
COMPARISON: dict[str, BinaryFn] = {
    "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operand:
    """A value and where it stands in the text."""

    ref: Ref
    span: Span


def arithmetic(ctx: Context, op: str, a: Operand, b: Operand, span: Span) -> Typed:
    """`a op b` for `+ - * / ** %`."""
    if op == "*":
        return _product(ctx, a, b, span)
    user = {"**": "`**`", "%": "`%`"}.get(op)
    left = kinds.number(ctx, a.ref, a.span, complex_user=user)
    right = kinds.number(ctx, b.ref, b.span, complex_user=user)
    if left is None or right is None:
        return None
    if op in "+-":
        _warn_shapes(ctx, op, a, b, span)
    least = Kind.REAL if op in ("/", "**") else Kind.INT
    x, y = kinds.together(ctx, (left, right), span, least)
    return kinds.elementwise(ctx, ARITHMETIC[op], x, y, span)


def _product(ctx: Context, a: Operand, b: Operand, span: Span) -> Ref:
    """`a * b`, in which a bool is a factor 0 or 1."""
    x, y = kinds.together(ctx, (a.ref, b.ref), span, Kind.INT)
    return kinds.elementwise(ctx, "mul", x, y, span)


def _warn_shapes(ctx: Context, op: str, a: Operand, b: Operand, span: Span) -> None:
    left, right = ctx.builder.dims_of(a.ref), ctx.builder.dims_of(b.ref)
    if left and right and left != right:
        texts = ctx.text(a.span), ctx.text(b.span)
        result = ctx.dims.sort((*left, *right))
        ctx.report(errors.sum_of_shapes(span, op, texts, (left, right), result))


def contract(
    ctx: Context, a: Operand, b: Operand, over: tuple[ast.Identifier, ...] | None, span: Span
) -> Typed:
    """`a @ b` over all shared dimensions, or `a @[W] b` over those given."""
    left, right = ctx.builder.dims_of(a.ref), ctx.builder.dims_of(b.ref)
    texts = ctx.text(a.span), ctx.text(b.span)
    if over is None:
        shared = tuple(d for d in left if d in right)
        if not shared:
            ctx.report(_nothing_shared(ctx, texts, (left, right), span))
            return None
    else:
        named = ctx.resolve_dims(over)
        if named is None:
            return None
        for identifier, dim in zip(over, named, strict=True):
            for text, dims in zip(texts, (left, right), strict=True):
                if dim not in dims:
                    ctx.report(errors.over_missing(identifier.span, dim, text, dims))
                    return None
        shared = ctx.dims.sort(named)
    x, y = kinds.together(ctx, (a.ref, b.ref), span, Kind.INT)
    kept = [d for d in (*left, *right) if d not in shared]
    return ctx.builder.emit(Contract(x, y, shared), kept, ctx.builder.kind_of(x), span)


def _nothing_shared(
    ctx: Context, texts: tuple[str, str], dims: tuple[Dims, Dims], span: Span
) -> Diagnostic:
    """The report, with a state that the left side could be contracted with instead."""
    left = set(dims[0])
    states = () if ctx.frame else ctx.declared.states.values()
    partner = next((s.name for s in states if left and left < set(s.dims)), None)
    primed = None
    for d in dims[0]:
        primed = primed or next((e for e in dims[1] if e != d and ctx.dims.same_size(d, e)), None)
    return errors.nothing_shared(span, texts, dims, partner, primed)


def logical(ctx: Context, op: str, a: Operand, b: Operand, span: Span) -> Typed:
    """`a and b`, `a or b`."""
    left = kinds.condition(ctx, a.ref, a.span, f"`{op}`")
    right = kinds.condition(ctx, b.ref, b.span, f"`{op}`")
    if left is None or right is None:
        return None
    fn: BinaryFn = "and" if op == "and" else "or"
    return kinds.elementwise(ctx, fn, left, right, span)


def comparison(ctx: Context, op: str, a: Operand, b: Operand, span: Span) -> Typed:
    """One link of a chain of comparisons."""
    user = f"`{op}`"
    left = kinds.number(ctx, a.ref, a.span, complex_user=user)
    right = kinds.number(ctx, b.ref, b.span, complex_user=user)
    if left is None or right is None:
        return None
    x, y = kinds.together(ctx, (left, right), span)
    return kinds.elementwise(ctx, COMPARISON[op], x, y, span, Kind.BOOL)


def unary(ctx: Context, op: str, a: Operand, span: Span) -> Typed:
    """`-a`, `+a`, `not a`; the sign of a literal is part of the literal."""
    builder = ctx.builder
    if op == "not":
        ref = kinds.condition(ctx, a.ref, a.span, "`not`")
        return (
            ref
            if ref is None
            else builder.emit(Unary("not", ref), builder.dims_of(ref), Kind.BOOL, span)
        )
    ref = kinds.number(ctx, a.ref, a.span)
    if ref is None or op == "+":
        return ref
    value = builder.values[ref]
    if isinstance(value.op, Const):
        return builder.constant(-value.op.value, value.kind, span)
    return builder.emit(Unary("neg", ref), value.dims, value.kind, span)


def conjunction(ctx: Context, links: list[Ref], span: Span) -> Ref:
    """All comparisons of a chain together."""
    ref = links[0]
    for link in links[1:]:
        dims = (*ctx.builder.dims_of(ref), *ctx.builder.dims_of(link))
        ref = ctx.builder.emit(Binary("and", ref, link), dims, Kind.BOOL, span)
    return ref


# ---------------------------------------------------------------- two readings


@dataclass(frozen=True, slots=True)
class Factor:
    """One operand of an unparenthesised run of `* / % @`, with what stands to its left."""

    op: str  # the operator before it, "" for the first
    dims: frozenset[str]
    span: Span
    before: frozenset[str]  # dimensions of the value to its left
    over: frozenset[str] | None  # the list of `@[W]` before it

    @property
    def symbol(self) -> str:
        """The operator as it is written."""
        return self.op if self.over is None else f"@[{', '.join(sorted(self.over))}]"


@dataclass(slots=True)
class Run:
    """The factors seen so far in a run of operators that bind alike."""

    factors: list[Factor]

    def start(self, dims: Dims, span: Span) -> None:
        """Begin a new run."""
        self.factors = [Factor("", frozenset(dims), span, frozenset(), None)]

    def check(self, ctx: Context, new: Factor) -> bool:
        """Whether the run, read in the other way, has the same dimensions; reports it if not."""
        return self._check_at(ctx, new) if new.op == "@" else self._check_factor(ctx, new)

    def _check_at(self, ctx: Context, new: Factor) -> bool:
        """`x * y @ z`: `(x * y) @ z` against `x * (y @ z)`, wherever the run splits."""
        right: set[str] = set()
        first = _contracted(new.before, new.dims, new.over)
        for i in range(len(self.factors) - 1, 0, -1):
            factor = self.factors[i]
            if factor.op == "@":
                break
            right |= factor.dims
            shared = _shared(right, new.dims, new.over)
            if not shared:
                continue
            second = factor.before | ((right | new.dims) - shared)
            if first != second:
                x = Span(self.factors[0].span.start, self.factors[i - 1].span.end)
                y = Span(factor.span.start, self.factors[-1].span.end)
                self._report(ctx, (x, y, new.span), (factor.op, new.symbol), (first, second))
                return False
        return True

    def _check_factor(self, ctx: Context, new: Factor) -> bool:
        """`x @ y * z`: `(x @ y) * z` against `x @ (y * z)`."""
        middle: set[str] = set()
        for i in range(len(self.factors) - 1, 0, -1):
            factor = self.factors[i]
            middle |= factor.dims
            if factor.op != "@":
                continue
            first = new.before | new.dims
            second = _contracted(factor.before, middle | new.dims, factor.over)
            if first != second:
                x = Span(self.factors[0].span.start, self.factors[i - 1].span.end)
                y = Span(factor.span.start, self.factors[-1].span.end)
                self._report(
                    ctx, (x, y, new.span), (factor.symbol, new.op), (frozenset(first), second)
                )
                return False
            break
        return True

    def _report(
        self,
        ctx: Context,
        parts: tuple[Span, Span, Span],
        ops: tuple[str, str],
        dims: tuple[frozenset[str], frozenset[str]],
    ) -> None:
        x, y, z = (ctx.text(part) for part in parts)
        whole = Span(parts[0].start, parts[2].end)
        first = f"({x} {ops[0]} {y}) {ops[1]} {z}", ctx.dims.sort(dims[0])
        second = f"{x} {ops[0]} ({y} {ops[1]} {z})", ctx.dims.sort(dims[1])
        ctx.report(errors.ambiguous_product(whole, ctx.text(whole), first, second))


def _shared(
    a: set[str] | frozenset[str], b: frozenset[str], over: frozenset[str] | None
) -> frozenset[str]:
    """What `a @ b` sums over, empty where it is not allowed."""
    both = frozenset(a) & b
    if over is None:
        return both
    return over if over <= both else frozenset()


def _contracted(
    a: frozenset[str], b: set[str] | frozenset[str], over: frozenset[str] | None
) -> frozenset[str]:
    shared = over if over is not None else a & b
    return (a | b) - shared
