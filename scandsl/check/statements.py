"""The statements of a step, in order: assignments, outputs, loops and `every` blocks.

In: statements and a `Context`.  Out: the context's bindings, outputs and findings.

Decisions on what the language page leaves open:
* entries `s[m] = e` can be assigned once `s` has a value: a state, an input (which a local then
  hides), or a local assigned with its dimensions, for instance `s[M] = 0`;
* a local assigned with its dimensions keeps them when it is assigned again without;
* an `every` block changes whatever had a value before it; other names end with the block.
"""

from __future__ import annotations

from scandsl.check import brackets, errors, kinds, names, operators
from scandsl.check.builder import TooLarge
from scandsl.check.constants import CONSTANTS
from scandsl.check.context import Context, Typed
from scandsl.check.expressions import evaluate
from scandsl.check.kinds import RANK
from scandsl.check.operators import Operand
from scandsl.check.walk import differentiated
from scandsl.diagnostics import Span
from scandsl.ir.nodes import Dims, Every, Insert, Kind, Load, Ref, Where
from scandsl.syntax import ast


def run(ctx: Context, body: tuple[ast.Statement, ...], block: str | None = None) -> None:
    """All statements of a block; `block` names the loop or `every` block they stand in."""
    for statement in body:
        ctx.spend()
        match statement:
            case ast.Declaration():
                _declaration(ctx, statement, block)
            case ast.Assign():
                _assign(ctx, statement)
            case ast.For():
                _loop(ctx, statement, block)
            case ast.Every():
                _every(ctx, statement)


def run_step(ctx: Context, body: tuple[ast.Statement, ...]) -> bool:
    """The whole step; false if it had to be given up because it unrolls into too much."""
    for statement in body:
        try:
            run(ctx, (statement,))
        except TooLarge as limit:
            ctx.frames.clear()
            ctx.report(limit.diagnostic(_header(statement)))
            return False
    return True


def _header(statement: ast.Statement) -> Span:
    """The place that stands for a statement: the variable and range of a loop, else all of it."""
    if isinstance(statement, ast.For):
        return Span(statement.variable.span.start, statement.over.span.end)
    return statement.period.span if isinstance(statement, ast.Every) else statement.span


# ---------------------------------------------------------------- fitting values to targets


def fit(ctx: Context, ref: Typed, dims: Dims, kind: Kind | None, span: Span, target: str) -> Typed:
    """The value with the dimensions (and the kind) of what it is assigned to."""
    if ref is None:
        return None
    builder = ctx.builder
    if kind is not None:
        found = builder.kind_of(ref)
        if found is Kind.BOOL and kind is not Kind.BOOL:
            ctx.report(errors.bool_in_arithmetic(span, ctx.text(span)))
            return None
        if RANK[found] > RANK[kind]:
            ctx.report(errors.wider_kind(span, target, found.value, kind.value))
            return None
        ref = builder.cast(ref, kind, span)
    have = builder.dims_of(ref)
    if have and have != ctx.dims.sort(dims):
        ctx.report(errors.shape_mismatch(span, target, dims, have, ctx.dims.same_size))
        return None
    return builder.expand(ref, dims, span)


# ---------------------------------------------------------------- assignments


def _assign(ctx: Context, node: ast.Assign) -> None:
    target, name = node.target, node.target.name.text
    since = len(ctx.builder.values)
    value = evaluate(ctx, node.value)
    if not _assignable(ctx, target.name):
        return
    if target.slots is not None and _has_index(ctx, target):
        _assign_entry(ctx, node, value)
    else:
        _assign_whole(ctx, node, value)
    if name in ctx.declared.states:
        ctx.updated.add(name)
    ref = ctx.env.get(name)
    if ref is None:
        return
    if name in ctx.watched:
        ref = ctx.env[name] = ctx.builder.separate(ref, since, node.span)
    ctx.builder.label(ref, name)


def _assignable(ctx: Context, name: ast.Identifier) -> bool:
    """Whether a name may be assigned; reports what it is otherwise."""
    text = name.text
    if text in ctx.declared.doubtful:
        return False
    if text == "t" or text in CONSTANTS:
        ctx.report(errors.assign_reserved(name.span, text))
    elif text in ctx.loops:
        ctx.report(errors.assign_to(name.span, text, "loop variable", None))
    elif ctx.dims.knows(text):
        ctx.report(errors.assign_to_dim(name.span, text, text in ctx.declared.statics))
    elif text in ctx.declared.outputs:
        _report_output(ctx, name)
    elif text in ctx.declared.params or text in ctx.declared.scalars:
        role = ctx.declared.role(text) or ""
        ctx.report(errors.assign_to(name.span, text, role, ctx.declared.spans.get(text)))
    else:
        return True
    return False


def _report_output(ctx: Context, name: ast.Identifier) -> None:
    """An output's name on the left of an assignment, before or after the output itself."""
    text = name.text
    if text in ctx.outputs:
        ctx.report(errors.output_twice(name.span, text, ctx.declared.spans.get(text)))
    elif ctx.declared.outputs[text].item.value is not None and text not in ctx.env:
        ctx.report(errors.output_is_local(name.span, text, ctx.declared.spans[text]))
        ctx.env[text] = None


def _has_index(ctx: Context, target: ast.Target) -> bool:
    return any(brackets.slot_index(ctx, slot) is not None for slot in target.slots or ())


def _assign_whole(ctx: Context, node: ast.Assign, value: Typed) -> None:
    name = node.target.name.text
    dims = _target_dims(ctx, node.target)
    if dims is None:
        ctx.env[name] = None
        return
    if node.op != "=":
        current = names.lookup(ctx, name, node.target.name.span)
        value = _compound(ctx, node, current, value)
    state = ctx.declared.states.get(name)
    if state is not None:
        ref = fit(ctx, value, state.dims, state.kind, node.value.span, name)
        ctx.env[name] = _stand_in(ctx, ref, name, state.dims, state.kind)
    elif dims or name in ctx.local_dims:
        ctx.env[name] = fit(ctx, value, dims, None, node.value.span, name)
        if node.target.slots is not None:
            ctx.local_dims[name] = dims
    else:
        ctx.env[name] = value


def _stand_in(ctx: Context, ref: Typed, name: str, dims: Dims, kind: Kind) -> Ref:
    """The value, or after an error one of the declared type, so that what follows is checked."""
    return ref if ref is not None else ctx.builder.emit(Load(name), dims, kind, Span(0, 0))


def _target_dims(ctx: Context, target: ast.Target) -> Dims | None:
    """The dimensions that a target asks for, `()` if it asks for none, `None` after a report."""
    name = target.name.text
    state = ctx.declared.states.get(name)
    if target.slots is None:
        return state.dims if state is not None else ctx.local_dims.get(name, ())
    dims = ctx.resolve_dims(s for s in target.slots if isinstance(s, ast.Identifier))
    if dims is None:
        return None
    if state is not None and dims != state.dims:
        ctx.report(errors.state_dims(target.span, name, state.dims))
        return None
    return dims


def _compound(ctx: Context, node: ast.Assign, current: Typed, value: Typed) -> Typed:
    """`current op value` of `+=` and its like."""
    if current is None or value is None:
        if not ctx.optimistic:
            return None
        return value if current is None else current
    a, b = Operand(current, node.target.span), Operand(value, node.value.span)
    return operators.arithmetic(ctx, node.op[0], a, b, node.span)


def _assign_entry(ctx: Context, node: ast.Assign, value: Typed) -> None:
    """`s[m] = e`: the value of `s` with one entry replaced."""
    name = node.target.name.text
    whole = _entry_base(ctx, node.target.name)
    if whole is None:
        ctx.env[name] = None
        return
    order = brackets.slot_order(ctx, name)
    slots = node.target.slots or ()
    if order is None:
        dims = ctx.builder.dims_of(whole)
        ctx.report(errors.brackets_on_local(node.target.span, name, dims, True))
        return
    view = brackets.resolve(ctx, name, order, slots, node.target.span)
    if view is None:
        return
    if any(old != new for old, new in view.renames):
        ctx.report(errors.rename_in_target(node.target.span, name))
        return
    path = [whole]
    for dim, index in view.selects:
        path.append(ctx.builder.select(path[-1], dim, index, node.target.span))
    if node.op != "=":
        value = _compound(ctx, node, path[-1], value)
    state = ctx.declared.states.get(name)
    value = fit(
        ctx, value, ctx.builder.dims_of(path[-1]), None, node.value.span, ctx.text(node.target.span)
    )
    if value is None:
        return
    kind = None if state is None else state.kind
    ctx.env[name] = _insert(ctx, path, view, value, kind, node)


def _entry_base(ctx: Context, name: ast.Identifier) -> Typed:
    text = name.text
    known = text in ctx.env or text in ctx.declared.states or text in ctx.declared.inputs
    if not known:
        ctx.report(errors.entry_of_nothing(name.span, text))
        return None
    return names.lookup(ctx, text, name.span)


def _insert(
    ctx: Context,
    path: list[Ref],
    view: brackets.View,
    value: Ref,
    kind: Kind | None,
    node: ast.Assign,
) -> Typed:
    """Put the entry back into the entries around it, innermost first."""
    builder = ctx.builder
    if kind is not None:
        fitted = fit(
            ctx, value, builder.dims_of(value), kind, node.value.span, node.target.name.text
        )
        if fitted is None:
            return None
        value = fitted
    elif (builder.kind_of(value) is Kind.BOOL) != (builder.kind_of(path[0]) is Kind.BOOL):
        ctx.report(errors.bool_in_arithmetic(node.value.span, ctx.text(node.value.span)))
        return None
    for outer, (dim, index) in zip(reversed(path[:-1]), reversed(view.selects), strict=True):
        x, y = kinds.together(ctx, (outer, value), node.span)
        op = Insert(x, dim, index, y)
        value = builder.emit(op, builder.dims_of(x), builder.kind_of(x), node.span)
    return value


# ---------------------------------------------------------------- outputs


def _declaration(ctx: Context, node: ast.Declaration, block: str | None) -> None:
    if block is not None:
        ctx.report(errors.declaration_in_block(node.span, node.kind, block))
    if node.kind == "output":
        for item in node.items:
            _output(ctx, item)


def _output(ctx: Context, item: ast.Item) -> None:
    name = item.name.text
    declared = ctx.declared.outputs.get(name)
    value = None if item.value is None else evaluate(ctx, item.value)
    if declared is None or declared.item is not item or item.value is None:
        return  # a duplicate, or one without a value: reported with the declarations
    kind = None
    if item.is_complex and value is not None:
        kind = Kind.COMPLEX
    ref = fit(ctx, value, declared.dims, kind, item.value.span, name)
    ctx.outputs[name] = ref
    ctx.env[name] = _stand_in(ctx, ref, name, declared.dims, kind or Kind.REAL)
    if ref is not None:
        ctx.builder.label(ref, name)


# ---------------------------------------------------------------- blocks


def _loop(ctx: Context, node: ast.For, block: str | None) -> None:
    """`for r in R:` and `for i in 5:`, unrolled."""
    variable = node.variable.text
    count = _loop_count(ctx, node.over)
    role = "loop variable" if variable in ctx.loops else ctx.declared.role(variable)
    if variable == "t" or variable in CONSTANTS:
        ctx.report(errors.reserved(node.variable.span, variable))
        return
    if ctx.dims.knows(variable):
        role = "dimension"
    elif variable in ctx.env:
        role = role or "local"
    if role is not None:
        ctx.report(errors.loop_variable_taken(node.variable.span, variable, role))
        return
    if count is None:
        return
    for index in range(count):
        ctx.loops[variable] = index
        run(ctx, node.body, block or f"for {variable}")
    del ctx.loops[variable]


def _loop_count(ctx: Context, over: ast.Identifier | ast.Number) -> int | None:
    if isinstance(over, ast.Number):
        if not isinstance(over.value, int) or over.value < 1:
            ctx.report(errors.loop_count(over.span))
            return None
        return over.value
    if not ctx.dims.knows(over.text):
        ctx.report(errors.loop_over_unknown(over, list(ctx.declared.statics)))
        return None
    ctx.used.add(over.text.rstrip("'"))
    size = ctx.dims.size(over.text)
    if size is None:
        ctx.report(errors.loop_not_static(over.span, over.text))
    return size


def _period(ctx: Context, period: ast.Identifier | ast.Number) -> int | None:
    if isinstance(period, ast.Identifier):
        ctx.used.add(period.text)
        size = ctx.declared.statics.get(period.text)
        if size is None:
            ctx.report(errors.period_not_static(period.span, period.text))
        return size
    if not isinstance(period.value, int) or period.value < 1:
        ctx.report(errors.period_invalid(period.span))
        return None
    return period.value


def _every(ctx: Context, node: ast.Every) -> None:
    """`every n:`: what had a value before the block keeps it at the other steps."""
    period = _period(ctx, node.period)
    before = dict(ctx.env)
    local_dims = dict(ctx.local_dims)
    watched, ctx.watched = ctx.watched, differentiated(node.body)
    run(ctx, node.body, "every")
    ctx.watched = watched
    inside, ctx.env = ctx.env, before
    ctx.local_dims = {n: d for n, d in ctx.local_dims.items() if n in before or n in local_dims}
    if period is None:
        for name in inside:
            if inside[name] != before.get(name) and _existed(ctx, name, before):
                before[name] = None
        return
    for name, new in inside.items():
        if name not in before or before[name] != new:
            _merge(ctx, name, new, period, node)


def _existed(ctx: Context, name: str, before: dict[str, Typed]) -> bool:
    return name in before or name in ctx.declared.states or name in ctx.declared.inputs


def _merge(ctx: Context, name: str, new: Typed, period: int, node: ast.Every) -> None:
    """Bind a name to its new value at the steps where the block runs, to the old one elsewhere."""
    if not _existed(ctx, name, ctx.env):
        return
    builder = ctx.builder
    since = len(builder.values)
    used = name in ctx.used
    old = names.lookup(ctx, name, node.span)
    if not used:
        ctx.used.discard(name)
    if old is None or new is None:
        ctx.env[name] = None
        return
    have, had = builder.dims_of(new), builder.dims_of(old)
    span = builder.values[new].span
    if have and had and have != had:
        ctx.report(errors.shape_mismatch(span, name, had, have, ctx.dims.same_size))
        ctx.env[name] = None
        return
    if (builder.kind_of(old) is Kind.BOOL) != (builder.kind_of(new) is Kind.BOOL):
        ctx.report(errors.bool_in_arithmetic(span, ctx.text(span)))
        ctx.env[name] = None
        return
    condition = builder.emit(Every(period), (), Kind.BOOL, node.span)
    a, b = kinds.together(ctx, (new, old), node.span)
    ref = builder.emit(Where(condition, a, b), (*have, *had), builder.kind_of(a), node.span)
    if name in ctx.watched:
        ref = builder.separate(ref, since, node.span)
    builder.label(ref, name)
    ctx.env[name] = ref
