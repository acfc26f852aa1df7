"""Bracket lists after a name: `k[r]`, `h[D']`, `k[r, K']`.

In: the slots as written and the declared dimensions of the name.  Out: entries to select and
dimensions to rename, applied to the value.
"""

from __future__ import annotations

from dataclasses import dataclass

from scandsl.check import errors
from scandsl.check.context import Context, StateView, Typed
from scandsl.diagnostics import Span
from scandsl.ir.nodes import Dims, Ref
from scandsl.syntax import ast


@dataclass(frozen=True, slots=True)
class View:
    """Resolved brackets: entries to take, then dimensions to rename."""

    selects: tuple[tuple[str, int], ...]
    renames: tuple[tuple[str, str], ...]


def resolve(
    ctx: Context, name: str, declared: Dims, slots: tuple[ast.Slot, ...], span: Span
) -> View | None:
    """What the slots after a name of these dimensions mean; reports every slot that is wrong."""
    if len(slots) > len(declared):
        ctx.report(errors.too_many_slots(slots[len(declared)].span, name, declared, len(slots)))
        return None
    selects: list[tuple[str, int]] = []
    renames: list[tuple[str, str]] = []
    good = True
    for dim, slot in zip(declared, slots, strict=False):
        index = slot_index(ctx, slot)
        if index is not None:
            good &= check_index(ctx, name, dim, index, slot)
            selects.append((dim, index))
            continue
        assert isinstance(slot, ast.Identifier)
        new = _renamed(ctx, name, dim, slot)
        good &= new is not None
        renames.append((dim, new or dim))
    renames += [(d, d) for d in declared[len(slots) :]]
    result = [new for _, new in renames]
    twice = next((d for i, d in enumerate(result) if d in result[:i]), None)
    if good and twice is not None:
        ctx.report(errors.dim_twice_in_view(span, ctx.text(span), twice, result))
        return None
    return View(tuple(selects), tuple(renames)) if good else None


def slot_index(ctx: Context, slot: ast.Slot) -> int | None:
    """The index that a slot stands for, `None` when it names a dimension."""
    if isinstance(slot, ast.Number):
        return int(slot.value)
    if ctx.frame is not None:
        return None
    return ctx.loops.get(slot.text)


def check_index(ctx: Context, name: str, dim: str, index: int, slot: ast.Slot) -> bool:
    """Whether an index may be used along a dimension; reports it otherwise."""
    size = ctx.dims.size(dim)
    if size is None:
        ctx.report(errors.index_not_static(slot.span, name, dim))
        return False
    if not 0 <= index < size:
        shown = slot.text if isinstance(slot, ast.Identifier) else None
        ctx.report(errors.index_out_of_range(slot.span, index, dim, size, shown))
        return False
    return True


def _renamed(ctx: Context, name: str, dim: str, slot: ast.Identifier) -> str | None:
    new = ctx.resolve_dim(slot)
    if new is not None and not ctx.dims.same_size(dim, new):
        ctx.report(errors.slot_size(slot.span, name, dim, new))
        return None
    return new


def apply(ctx: Context, ref: Ref, view: View | StateView, span: Span) -> Ref:
    """The value seen through resolved brackets."""
    for dim, index in view.selects:
        ref = ctx.builder.select(ref, dim, index, span)
    return ctx.builder.rename(ref, dict(view.renames), span)


def slot_order(ctx: Context, name: str) -> Dims | None:
    """The dimensions that brackets after a name stand for, in the order of its declaration.

    A local has them when it was assigned with its dimensions, or when it hides an input or is an
    output and still has the declared dimensions.
    """
    if name in ctx.local_dims:
        return ctx.local_dims[name]
    declared = ctx.declared.dims(name)
    if declared is None and name not in ctx.env:
        return ctx.written.get(name)
    if declared is None or name not in ctx.env:
        return declared
    ref = ctx.env[name]
    if ref is None or set(ctx.builder.dims_of(ref)) == set(declared):
        return declared
    return None


def read(ctx: Context, node: ast.Subscript, ref: Typed) -> Typed:
    """The value of `name[slots]`, given the value of the name."""
    if ref is None:
        return None
    name = node.name.text
    order = None if ctx.frame is not None else slot_order(ctx, name)
    if order is None:
        local = ctx.frame is None
        ctx.report(errors.brackets_on_local(node.span, name, ctx.builder.dims_of(ref), local))
        return None
    view = resolve(ctx, name, order, node.slots, node.span)
    return None if view is None else apply(ctx, ref, view, node.span)
