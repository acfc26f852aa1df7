"""The class of a transition: from which dimensions its coefficients carry, and where it contracts.

In: the events of an affine state, or a group of states for which there are none.  Out: `Finding`.
Looks at dimensions, kinds and variation in time only, never at names or whole formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

from scandsl.analysis.events import Normal
from scandsl.analysis.factor import Separator
from scandsl.analysis.graph import Group
from scandsl.analysis.linear import Linear, NotAffine, Term, looks_at
from scandsl.analysis.program import Decay, Fold, Probe, Transition, Update
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Cast,
    Const,
    Every,
    Iota,
    Kind,
    Lag,
    LagState,
    Prev,
    Recurrence,
    Ref,
    Select,
    State,
    Value,
    Where,
    operands,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A class, whether its coefficients are constant in time, and the term that decided it."""

    transition: Transition
    invariant: bool
    reason: str | None = None
    culprit: Ref | None = None


# ---------------------------------------------------------------- one affine state


def affine_class(normal: Normal) -> Finding:
    """The class of a single affine state, by its events."""
    values = normal.recurrence.values
    decays = [e for e in normal.events if isinstance(e, Decay)]
    probes = [e for e in normal.events if isinstance(e, Probe)]
    updates = [e for e in normal.events if isinstance(e, Update)]
    coefficients = [e.factor for e in decays] + [e.w for e in probes]
    coefficients += [r for e in updates for r in (e.p, e.strength) if r is not None]
    for view in normal.views:
        coefficients += [view.coefficient] if view.coefficient is not None else []
        coefficients += _matrix(values, view.atom)
    invariant = not any(values[r].varies for r in coefficients)
    if normal.views or any(set(values[e.w].dims) - set(e.over) for e in probes):
        return Finding(_dense(normal, invariant), invariant)
    if probes:
        return Finding(Transition.LOW_RANK, invariant)
    return Finding(_decay_class(normal, decays), invariant)


def _matrix(values: tuple[Value, ...], view: Ref) -> tuple[Ref, ...]:
    """Operands of a view that do not hold the state: the matrix of a dense transition."""
    seen = looks_at(values, {r: True for r, v in enumerate(values) if isinstance(v.op, Prev)})
    return tuple(r for r in operands(values[view].op) if not seen(r))


def _dense(normal: Normal, invariant: bool) -> Transition:
    values = normal.recurrence.values
    probes = [e for e in normal.events if isinstance(e, Probe)]
    if not probes and _shifts(values, normal.views):
        return Transition.SHIFT
    if invariant:
        return Transition.DENSE_CONSTANT
    matrices = [r for view in normal.views for r in _matrix(values, view.atom)]
    matrices += [e.w for e in probes]
    scales = [t.coefficient for t in normal.views if t.coefficient is not None]
    for event in normal.events:
        if isinstance(event, Decay | Update):
            scales.append(event.factor if isinstance(event, Decay) else event.p)
    scaled = all(not values[r].varies or not values[r].dims for r in scales)
    if scaled and not any(values[r].varies for r in matrices):
        return Transition.DENSE_SCALED
    return Transition.DENSE


def _shifts(values: tuple[Value, ...], views: tuple[Term, ...]) -> bool:
    """Whether all that moves between entries of the state moves in one direction."""
    steps = []
    for view in views:
        op = values[view.atom].op
        to = None if view.coefficient is None else _marked(values, view.coefficient)
        if not isinstance(op, Select) or to is None:
            return False
        steps.append(to - op.index)
    return all(s > 0 for s in steps) or all(s < 0 for s in steps)


def _marked(values: tuple[Value, ...], ref: Ref) -> int | None:
    """The entry that a coefficient `[iota == i] * ...` singles out."""
    match values[ref].op:
        case Cast(x):
            return _marked(values, x)
        case Binary("mul", x, y):
            found = _marked(values, x)
            return _marked(values, y) if found is None else found
        case Binary("eq", x, y):
            index = values[y].op
            if isinstance(values[x].op, Iota) and isinstance(index, Const):
                return int(index.value)
    return None


def _decay_class(normal: Normal, decays: list[Decay]) -> Transition:
    values = normal.recurrence.values
    state = next(s for s in normal.recurrence.states if s.name == normal.state)
    if not decays:
        return Transition.NONE
    if any(_is_zero(values, e.factor) for e in decays):
        return Transition.SHIFT
    if any(values[e.factor].kind is Kind.COMPLEX for e in decays):
        return Transition.ROTATION
    along = {d for e in decays for d in e.dims}
    if not along:
        varies = any(values[e.factor].varies for e in decays)
        return Transition.SCALAR if varies else Transition.SCALAR_CONSTANT
    if along == set(state.dims):
        separable = normal.contracted and normal.free and _separable(normal, decays)
        return Transition.BOTH if separable else Transition.ELEMENTWISE
    if along <= set(normal.contracted):
        return Transition.KEY
    return Transition.VALUE if along <= set(normal.free) else Transition.BOTH


def _is_zero(values: tuple[Value, ...], ref: Ref) -> bool:
    return getattr(values[ref].op, "value", None) == 0


def _separable(normal: Normal, decays: list[Decay]) -> bool:
    builder = Builder(normal.recurrence.dims, normal.recurrence.values)
    separator = Separator(builder, normal.contracted, normal.free)
    found = [separator.pairs(e.factor) for e in decays]
    return all(pairs is not None and len(pairs) == 1 for pairs in found)


# ---------------------------------------------------------------- other groups


def group_class(recurrence: Recurrence, group: Group) -> Finding:
    """The class of a group for which no events were found."""
    states = [s for s in recurrence.states if s.name in group.states]
    try:
        return _block(recurrence, group, states)
    except NotAffine as nonlinear:
        held = _held(recurrence, states)
        if held and len(held) < len(states) and _affine_with(recurrence, states, held):
            names = ", ".join(s.name for s in states if s.next in held)
            reason = f"`{names}` is set by an `every` block only: affine between its steps"
            return Finding(Transition.BLOCKWISE, False, reason, min(held))
        return Finding(Transition.NONLINEAR, False, nonlinear.reason, nonlinear.culprit)


def _block(recurrence: Recurrence, group: Group, states: list[State]) -> Finding:
    """Several states or lags, affine in all of them together."""
    values = recurrence.values
    names, targets = set(group.states), {m.value for m in group.memories}
    atoms = [r for r, v in enumerate(values) if _is_atom(v, names, targets)]
    linear = _linear(recurrence, atoms)
    roots = [s.next for s in states] + [t for t in targets if t is not None]
    invariant = True
    for root in sorted(roots):
        form = linear.form(root)
        coefficients = [t.coefficient for t in form.terms if t.coefficient is not None]
        views = [t.atom for t in form.terms]
        varying = [r for r in coefficients if linear.b.values[r].varies]
        invariant = invariant and not varying and _constant_views(linear, views, atoms)
    if group.states:
        return Finding(Transition.BLOCK, invariant)
    return Finding(Transition.DENSE_CONSTANT if invariant else Transition.BLOCK, invariant)


def _is_atom(value: Value, names: set[str], targets: set[Ref | None]) -> bool:
    match value.op:
        case Prev(state) | LagState(state, _):
            return state in names
        case Lag(x, _):
            return x in targets
        case _:
            return False


def _constant_views(linear: Linear, views: list[Ref], atoms: list[Ref]) -> bool:
    """Whether the matrices inside linear images are constant in time."""
    todo = [v for v in views if v not in atoms]
    while todo:
        for ref in operands(linear.b.values[todo.pop()].op):
            if ref in atoms:
                continue
            if linear.looks(ref):
                todo.append(ref)
            elif linear.b.values[ref].varies:
                return False
    return True


def _linear(recurrence: Recurrence, atoms: list[Ref]) -> Linear:
    builder = Builder(recurrence.dims, recurrence.values)
    linear = Linear(builder, looks_at(builder.values, dict.fromkeys(atoms, True)))
    linear.versions.update({ref: i for i, ref in enumerate(atoms)})
    return linear


def fold_class(recurrence: Recurrence, fold: Fold) -> Finding:
    """The class of a state that is affine in another algebra."""
    soft = fold.algebra == "logaddexp"
    invariant = not recurrence.values[fold.shift].varies
    return Finding(Transition.LOG_SUM_EXP if soft else Transition.MAX_PLUS, invariant)


def _held(recurrence: Recurrence, states: list[State]) -> list[Ref]:
    """New values of states that only an `every` block sets."""
    values = recurrence.values
    held = []
    for state in states:
        op = values[state.next].op
        masked = isinstance(op, Where) and isinstance(values[op.c].op, Every)
        if isinstance(op, Where) and masked and values[op.b].op == Prev(state.name):
            held.append(state.next)
    return held


def _affine_with(recurrence: Recurrence, states: list[State], held: list[Ref]) -> bool:
    """Whether the other states are affine when the held values count as given."""
    values = recurrence.values
    others = [s for s in states if s.next not in held]
    names = {s.name for s in others}
    atoms = [r for r, v in enumerate(values) if isinstance(v.op, Prev) and v.op.state in names]
    builder = Builder(recurrence.dims, values)
    known = dict.fromkeys(atoms, True) | dict.fromkeys(held, False)
    linear = Linear(builder, looks_at(builder.values, known))
    linear.versions.update({ref: i for i, ref in enumerate(atoms)})
    try:
        for state in others:
            linear.form(state.next)
    except NotAffine:
        return False
    return True
