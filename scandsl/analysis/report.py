"""What analysis found, as data and as text.

In: a `Program`.  Out: a dictionary that goes into `explain --json`, or lines for the terminal.  The
plan adds launches, bytes and operations to the dictionary; nothing here knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import assert_never

from scandsl.analysis.program import (
    Component,
    Couple,
    Decay,
    Event,
    Fold,
    Form,
    Probe,
    Program,
    Read,
    Refusal,
    Update,
    Write,
)
from scandsl.analysis.show import show
from scandsl.diagnostics import Source, Span, line_and_column
from scandsl.ir.nodes import Const, Recurrence, Ref, Value, memories, operands

Json = dict[str, object]


def report(program: Program, source: Source | None = None) -> Json:
    """The components in order, as plain data; the `source` tells where reasons stand."""
    recurrence = program.recurrence
    return {
        "scan": program.recurrence.name,
        "form": program.form.value,
        "reason": program.reason,
        "components": [_component(recurrence, c, source) for c in program.components],
    }


def _component(recurrence: Recurrence, component: Component, source: Source | None) -> Json:
    values = recurrence.values
    return {
        "states": list(component.states),
        "memories": list(component.memories),
        "class": component.transition.value,
        "time_invariant": component.invariant,
        "form": component.form.value,
        "reason": component.reason,
        "culprit": None if component.culprit is None else show(values, component.culprit),
        "place": place(recurrence, component, source),
        "contracted": list(component.contracted),
        "free": list(component.free),
        "events": [event_data(values, e) for e in component.events],
        "merged": [[show(values, a), show(values, b)] for a, b in component.merged],
        "refused": [_refusal(values, r) for r in component.refused],
    }


def place(recurrence: Recurrence, component: Component, source: Source | None) -> str | None:
    """Where the term stands that makes a component sequential: `file:line:column`."""
    if component.form is not Form.SEQUENTIAL or source is None:
        return None
    own = (s.next for s in recurrence.states if s.name in component.states)
    kept = (m.value for m in memories(recurrence) if m.name in component.memories)
    for ref in (component.culprit, *own, *kept):
        span = None if ref is None else _written(recurrence.values, ref)
        if span is not None:
            line, column = line_and_column(source.text, span.start)
            return f"{source.name}:{line}:{column}"
    return None


def _written(values: Sequence[Value], ref: Ref) -> Span | None:
    """The place of a value, or of the first one that it is made of which the author wrote."""
    queue = [ref]
    for found in queue:
        span = values[found].span
        if span.end > span.start:
            return span
        queue += [r for r in operands(values[found].op) if r not in queue]
    return None


def _refusal(values: Sequence[Value], refusal: Refusal) -> Json:
    culprit = None if refusal.culprit is None else show(values, refusal.culprit)
    return {"form": refusal.form.value, "reason": refusal.reason, "culprit": culprit}


def event_data(values: Sequence[Value], event: Event) -> Json:
    """One event as plain data, its values as expressions in the user's names."""

    def text(ref: Ref | None) -> str | None:
        return None if ref is None else show(values, ref)

    match event:
        case Decay(state, factor, log, dims, angle):
            turn = {} if angle is None else {"angle": text(angle)}
            return {
                "event": "decay", "state": state, "factor": text(factor), "log": text(log),
                "dims": list(dims), **turn,
            }  # fmt: skip
        case Probe(state, w, over, result):
            return {
                "event": "probe", "state": state, "vector": text(w), "over": list(over),
                "result": text(result),
            }  # fmt: skip
        case Update(state, p, probe, strength):
            return {
                "event": "update", "state": state, "vector": text(p), "probe": text(probe),
                "strength": text(strength),
            }  # fmt: skip
        case Write(state, b, x):
            return {"event": "write", "state": state, "key": text(b), "value": text(x)}
        case Read(state, q, over, result):
            return {
                "event": "read", "state": state, "query": text(q), "over": list(over),
                "result": text(result),
            }  # fmt: skip
        case Couple(state, other, factor):
            return {"event": "couple", "state": state, "other": other, "factor": text(factor)}
        case Fold(state, shift, term, algebra):
            return {
                "event": "fold", "state": state, "algebra": algebra, "shift": text(shift),
                "term": text(term),
            }  # fmt: skip
        case unreachable:
            assert_never(unreachable)


def event_text(values: Sequence[Value], event: Event) -> str:
    """One event as an assignment."""

    def text(ref: Ref) -> str:
        return show(values, ref)

    def factor(ref: Ref) -> str:
        found = show(values, ref)
        return f"({found})" if " + " in found or " - " in found[1:] else found

    match event:
        case Decay(state, by, log, _, angle):
            known = "" if log is None else f"    (log: {text(log)})"
            turn = "" if angle is None else f" exp(i {factor(angle)})"
            return f"decay   {state} ← {factor(by)}{turn} ∘ {state}{known}"
        case Probe(state, w, over, _):
            return f"probe   u = {factor(w)} @[{', '.join(over)}] {state}"
        case Update(state, p, _, strength):
            more = "" if strength is None else f" {factor(strength)}"
            return f"update  {state} ← {state} + {factor(p)} ∘{more} u"
        case Write(state, b, x):
            key = "" if b is None else f"{factor(b)} ∘ "
            return f"write   {state} ← {state} + {key}{factor(x)}"
        case Read(state, None, _, _):
            return f"read    r = {state}"
        case Read(state, q, over, _):
            assert q is not None
            return f"read    r = {factor(q)} @[{', '.join(over)}] {state}"
        case Couple(state, other, by):
            return f"couple  {state} ← {state} + {factor(by)} {other} as it was"
        case Fold(state, shift, term, algebra):
            moved = state if _is_zero(values, shift) else f"{state} + {factor(shift)}"
            return f"fold    {state} ← {algebra}({moved}, {text(term)})"
        case unreachable:
            assert_never(unreachable)


def _is_zero(values: Sequence[Value], ref: Ref) -> bool:
    return values[ref].op == Const(0.0)


def describe(program: Program, source: Source | None = None) -> list[str]:
    """Lines of text about the components, for the terminal."""
    out = [f"whole: {program.form.value} ({program.reason})", ""]
    for number, component in enumerate(program.components, 1):
        out += [*_described(program, number, component, source), ""]
    return out[:-1]


def _described(
    program: Program, number: int, component: Component, source: Source | None
) -> list[str]:
    values = program.recurrence.values
    names = ", ".join((*component.states, *component.memories))
    constant = ", constant in time" if component.invariant else ""
    out = [
        f"component {number}: {names}",
        f"  class   {component.transition.value}{constant}",
        f"  form    {component.form.value}: {component.reason}",
    ]
    where = place(program.recurrence, component, source)
    out += [f"  place   {where}"] if where is not None else []
    if component.contracted:
        free = f", free [{', '.join(component.free)}]" if component.free else ""
        out.append(f"  roles   contracted [{', '.join(component.contracted)}]{free}")
    out += [f"  {'events' if i == 0 else '      '}  {event_text(values, e)}"
            for i, e in enumerate(component.events)]  # fmt: skip
    out += [f"  merged  {show(values, a)}  ∥  {show(values, b)}" for a, b in component.merged]
    out += [f"  refused {r.form.value}: {r.reason}" for r in component.refused]
    return out
