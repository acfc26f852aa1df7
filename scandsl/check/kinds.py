"""Number systems of operands: which are accepted where, and the casts that bring them to one kind.

In: typed values with the place they were written at.  Out: values of the kind that is needed, or
`None` after a report.
"""

from __future__ import annotations

from collections.abc import Sequence

from scandsl.check import errors
from scandsl.check.context import Context, Typed
from scandsl.diagnostics import Span
from scandsl.ir.nodes import Binary, BinaryFn, Kind, Ref

RANK = {Kind.BOOL: 0, Kind.INT: 1, Kind.REAL: 2, Kind.COMPLEX: 3}


def widest(ctx: Context, refs: Sequence[Ref]) -> Kind:
    """The kind that holds all of the values."""
    return max((ctx.builder.kind_of(r) for r in refs), key=RANK.__getitem__)


def number(ctx: Context, ref: Typed, span: Span, *, complex_user: str | None = None) -> Typed:
    """The value if it is a number; `complex_user` names what cannot take a complex one."""
    if ref is None:
        return None
    kind = ctx.builder.kind_of(ref)
    if kind is Kind.BOOL:
        ctx.report(errors.bool_in_arithmetic(span, ctx.text(span)))
        return None
    if kind is Kind.COMPLEX and complex_user is not None:
        ctx.report(errors.complex_not_real(span, ctx.text(span), complex_user))
        return None
    return ref


def real(ctx: Context, ref: Typed, span: Span, user: str) -> Typed:
    """The value as a REAL; bool and complex are reported."""
    ref = number(ctx, ref, span, complex_user=user)
    return None if ref is None else ctx.builder.cast(ref, Kind.REAL, span)


def condition(ctx: Context, ref: Typed, span: Span, user: str) -> Typed:
    """The value if it is a bool."""
    if ref is not None and ctx.builder.kind_of(ref) is not Kind.BOOL:
        ctx.report(errors.needs_bool(span, ctx.text(span), user))
        return None
    return ref


def elementwise(
    ctx: Context, fn: BinaryFn, a: Ref, b: Ref, span: Span, result: Kind | None = None
) -> Ref:
    """A binary operation on operands of one kind, aligned by name."""
    builder = ctx.builder
    dims = (*builder.dims_of(a), *builder.dims_of(b))
    return builder.emit(Binary(fn, a, b), dims, result or builder.kind_of(a), span)


def together(ctx: Context, refs: Sequence[Ref], span: Span, least: Kind = Kind.BOOL) -> list[Ref]:
    """The values cast to the widest of their kinds, at least `least`."""
    kind = max(widest(ctx, refs), least, key=RANK.__getitem__)
    return [ctx.builder.cast(r, kind, span) for r in refs]
