"""States that feed each other entry by entry: `s_a ← Σ_b A_ab s_b + r_a`, a small matrix per entry.

In: a program whose components are found.  Out: the same in chunks, if all of its components are of
this kind, with the coefficients as values of the step; or why not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.blocks import complex_value
from scandsl.analysis.linear import Linear, NotAffine, looks_at
from scandsl.analysis.program import Component, Coupled, Form, Program, Refusal
from scandsl.analysis.show import show
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Lag, LagState, Prev, Recurrence, Ref, State

MOST_STATES = 4
"""Composing two steps of p states takes p³ products for each entry."""


@dataclass(frozen=True, slots=True)
class _Fault:
    reason: str
    culprit: Ref | None


def in_pairs(program: Program) -> Program:
    """The program with all states in chunks, if they feed each other entry by entry."""
    several = any(len(c.states) > 1 for c in program.components)
    if not several or program.form not in (Form.SEQUENTIAL, Form.CHAIN):
        return program
    found = _found(program)
    if isinstance(found, _Fault):
        return _refused(program, found)
    values, coupled = found
    return replace(
        program,
        recurrence=replace(program.recurrence, values=values),
        components=tuple(_named(c) for c in program.components),
        form=Form.SCAN,
        reason="every component moves entry by entry, in chunks",
        stages=(),
        coupled=coupled,
    )


def _found(program: Program) -> tuple[tuple, tuple[Coupled, ...]] | _Fault:  # type: ignore[type-arg]
    recurrence = program.recurrence
    for ref, value in enumerate(recurrence.values):
        if isinstance(value.op, Lag | LagState):
            return _Fault(f"`{show(recurrence.values, ref)}` remembers earlier tokens", ref)
    complex_ = complex_value(recurrence)
    if complex_ is not None:
        return _Fault(*complex_)
    builder = Builder(recurrence.dims, recurrence.values)
    coupled = []
    for component in program.components:
        states = [s for s in recurrence.states if s.name in component.states]
        found = _coefficients(builder, recurrence, states)
        if isinstance(found, _Fault):
            return found
        coupled.append(found)
    return tuple(builder.values), tuple(coupled)


def _coefficients(
    builder: Builder, recurrence: Recurrence, states: Sequence[State]
) -> Coupled | _Fault:
    """The matrix and the rest of one component, if each entry moves by itself."""
    values = recurrence.values
    if len(states) > MOST_STATES:
        return _Fault(f"{len(states)} states feed each other; chunks take {MOST_STATES}", None)
    place = {s.name: i for i, s in enumerate(states)}
    for state in states:
        if set(state.dims) != set(states[0].dims):
            reason = f"`{state.name}` and `{states[0].name}` have different dimensions"
            return _Fault(reason, state.next)
    atoms = {
        r: place[v.op.state]
        for r, v in enumerate(values)
        if isinstance(v.op, Prev) and v.op.state in place
    }
    linear = Linear(builder, looks_at(builder.values, dict.fromkeys(atoms, True)))
    linear.versions.update({ref: i for i, ref in enumerate(atoms)})
    rows: list[tuple[Ref | None, ...]] = []
    rests: list[Ref | None] = []
    for state in states:
        try:
            form = linear.form(state.next)
        except NotAffine as fault:
            return _Fault(fault.reason, fault.culprit)
        row: list[Ref | None] = [None] * len(states)
        for term in form.terms:
            if term.atom not in atoms:
                text = show(builder.values, term.atom)
                return _Fault(f"`{text}` takes entries of the state together", state.next)
            column = atoms[term.atom]
            factor = builder.const(1.0) if term.coefficient is None else term.coefficient
            known = row[column]
            row[column] = factor if known is None else builder.add(known, factor)
        rows.append(tuple(row))
        rests.append(form.rest)
    static = {d.name for d in recurrence.dims if d.size is not None}
    if len(set(states[0].dims) - static) > 1:
        reason = f"each entry of `{states[0].name}` takes part in products of rows with rows, which"
        return _Fault(f"{reason} for a matrix are more work than the loop over tokens", None)
    return Coupled(tuple(s.name for s in states), tuple(rows), tuple(rests))


def _named(component: Component) -> Component:
    count = len(component.states)
    what = f"a matrix of {count} x {count} for each" if count > 1 else "each"
    reason = f"affine, {what} entry by itself: tokens in chunks, their steps composed in pairs"
    return replace(component, form=Form.SCAN, reason=reason, events=(), culprit=None, refused=())


def _refused(program: Program, fault: _Fault) -> Program:
    """The program, with the reason why states that feed each other are not composed in pairs."""
    refusal = Refusal(Form.SCAN, fault.reason)
    components = tuple(
        replace(c, refused=(*c.refused, refusal))
        if len(c.states) > 1 and c.form is Form.SEQUENTIAL
        else c
        for c in program.components
    )
    return replace(program, components=components)
