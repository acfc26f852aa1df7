"""Makes the stages of a chain: recurrences of their own, joined by per-token values.

In: a program and for every stage its states, its lags, what it hands on and which outputs of the
scan it computes.  Out: `Stage`s.  Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.events import moved
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
    Stage,
    Update,
    Write,
)
from scandsl.analysis.ranges import intervals
from scandsl.analysis.rewrite import map_operands
from scandsl.ir.nodes import (
    Const,
    Input,
    Kind,
    Lag,
    Load,
    Memory,
    Output,
    Param,
    Prev,
    Range,
    Recurrence,
    Ref,
    State,
    Tensor,
    Value,
    memories,
    operands,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stage to be made: what it carries, the values it hands on, the outputs it computes."""

    form: Form
    states: tuple[State, ...]
    memories: tuple[Memory, ...]
    passed: tuple[Ref, ...]
    outputs: tuple[Output, ...]


def taken(events: Sequence[Event]) -> tuple[Ref, ...]:
    """The values that the events of a state take when it is carried out in chunks.

    Of decays these are the logs, and the factors as soon as one of them has no log.
    """
    factors = any(isinstance(e, Decay) and e.log is None for e in events)
    found: list[Ref | None] = []
    for event in events:
        match event:
            case Decay(_, factor, log, _, angle):
                found += [log, factor if factors else None, angle]
            case Probe(_, w):
                found.append(w)
            case Update(_, p, _, strength):
                found += [p, strength]
            case Write(_, b, x):
                found += [b, x]
            case Read(_, q):
                found.append(q)
            case Couple(_, _, factor):
                found.append(factor)
            case Fold(_, shift, term):
                found += [shift, term]
    return tuple(r for r in found if r is not None)


def extracted(
    program: Program, pieces: Sequence[Piece], results: Collection[Ref]
) -> tuple[Stage, ...]:
    """The stages, in order; `results` are those of events that are carried out in chunks.

    What no later stage takes is not handed on.
    """
    while True:
        names = _names(program.recurrence, [r for p in pieces for r in p.passed])
        given: dict[Ref, str] = {}
        stages = []
        for piece in pieces:
            stages.append(_Extraction(program, piece, given, names, results).stage())
            given |= {ref: names[ref] for ref in piece.passed}
        takes = [{*stage.program.recurrence.arguments} for stage in stages]
        less = []
        for place, piece in enumerate(pieces):
            later = set().union(*takes[place + 1 :])
            passed = tuple(r for r in piece.passed if names[r] in later)
            if passed or piece.states or piece.memories or piece.outputs:
                less.append(replace(piece, passed=passed))
        if less == list(pieces):
            return tuple(stages)
        pieces = less


def _names(recurrence: Recurrence, refs: Iterable[Ref]) -> dict[Ref, str]:
    """A name for each value that is handed on: the author's, numbered where it is taken."""
    taken_names = {*recurrence.arguments, *(s.name for s in recurrence.states), "t"}
    taken_names |= {s.name for s in recurrence.scalars} | {o.name for o in recurrence.outputs}
    taken_names |= {d.name for d in recurrence.dims}
    out: dict[Ref, str] = {}
    for ref in dict.fromkeys(refs):
        wish = recurrence.values[ref].name or "value"
        name, count = wish, 1
        while name in taken_names:
            count += 1
            name = f"{wish}_{count}"
        taken_names.add(name)
        out[ref] = name
    return out


class _Extraction:
    """Copies what one stage needs."""

    def __init__(
        self,
        program: Program,
        piece: Piece,
        given: Mapping[Ref, str],
        names: Mapping[Ref, str],
        results: Collection[Ref],
    ) -> None:
        self.program = program
        self.old: Recurrence = program.recurrence
        self.piece = piece
        self.given = given
        self.names = names
        self.results = results
        self.ranges = intervals(self.old)
        self.values: list[Value] = []
        self.new: dict[Ref, Ref] = {}
        own = {s.name for s in piece.states}
        self.components = [c for c in program.components if own & set(c.states)]
        events = [e for c in self.components for e in c.events if isinstance(e, Probe | Read)]
        self.reads = {e.result: f"read {i} of {e.state}" for i, e in enumerate(events, 1)}

    def stage(self) -> Stage:
        """The stage."""
        chunk = self.piece.form in (Form.CHUNK, Form.SCAN)
        scalars = [s.default for s in self.old.scalars]
        nexts = [] if self.piece.form is Form.CHUNK else [s.next for s in self.piece.states]
        told = self.components if chunk else []
        events = [r for c in told for r in taken(c.events)]
        outputs = [*self.piece.passed, *(o.value for o in self.piece.outputs)]
        self._copy([*scalars, *nexts, *events, *outputs, *self._lags()])
        recurrence = self._recurrence()
        components = tuple(self._component(c) for c in told)
        kept = memories(recurrence)
        place = {self.new[m.value]: m.name for m in self.piece.memories if m.value is not None}
        followed = {m.state: m.name for m in self.piece.memories}
        return Stage(
            self.piece.form,
            Program(recurrence, components, self.piece.form),
            tuple(self.names[r] for r in self.piece.passed),
            tuple(followed[m.state] if m.value is None else place[m.value] for m in kept),
        )

    # ------------------------------------------------------------ values

    def _lags(self) -> list[Ref]:
        """The lags that belong to this stage, and the values that they remember."""
        targets = {m.value for m in self.piece.memories}
        lags = [r for r, v in enumerate(self.old.values) if isinstance(v.op, Lag)]
        own = [r for r in lags if self._target(r) in targets]
        return [*own, *(r for r in sorted(t for t in targets if t is not None))]

    def _target(self, ref: Ref) -> Ref:
        op = self.old.values[ref].op
        assert isinstance(op, Lag)
        return op.x

    def _is_leaf(self, ref: Ref) -> bool:
        return ref in self.given or (self.piece.form is Form.CHUNK and ref in self.results)

    def _copy(self, roots: Iterable[Ref]) -> None:
        needed: set[Ref] = set()
        stack = list(roots)
        if self.piece.form in (Form.CHUNK, Form.SCAN):
            stack += self.reads
        while stack:
            ref = stack.pop()
            if ref not in needed:
                needed.add(ref)
                if not self._is_leaf(ref):
                    stack += operands(self.old.values[ref].op)
        for ref in sorted(needed):
            self.values.append(self._copied(ref))
            self.new[ref] = len(self.values) - 1
        for place, value in enumerate(self.values):
            if isinstance(value.op, Lag):
                self.values[place] = replace(value, op=Lag(self.new[value.op.x], value.op.n))

    def _bounds(self, ref: Ref) -> Range | None:
        """The proved range of a value that is handed on, if it says something."""
        found = self.ranges[ref]
        return found if math.isfinite(found.low) and math.isfinite(found.high) else None

    def _copied(self, ref: Ref) -> Value:
        value = self.old.values[ref]
        if ref in self.given:
            return replace(value, op=Input(self.given[ref]), varies=True)
        if self._is_leaf(ref):
            return replace(value, op=Load(self.reads[ref]))
        if isinstance(value.op, Lag):
            return value  # its operand may come later, and is put right at the end
        made = [self.values[self.new[r]] for r in operands(value.op)]
        varies = value.varies or any(v.varies for v in made)  # what is handed on comes per token
        return replace(value, op=map_operands(value.op, self.new.__getitem__), varies=varies)

    # ------------------------------------------------------------ declarations

    def _recurrence(self) -> Recurrence:
        old = self.old
        used = {v.op.name for v in self.values if isinstance(v.op, Input | Param)}
        passed = [
            Tensor(name, old.values[ref].dims, old.values[ref].kind, self._bounds(ref))
            for ref, name in self.given.items()
            if name in used
        ]
        inputs = [t for t in old.inputs if t.name in used]
        if not inputs and not passed:
            inputs = [old.inputs[0]]  # tells the number of tokens
        params = [t for t in old.params if t.name in used]
        declared = {t.name for t in (*inputs, *params)}
        arguments = [n for n in old.arguments if n in declared] + [t.name for t in passed]
        return Recurrence(
            name=old.name,
            doc="",
            dims=old.dims,
            inputs=(*inputs, *passed),
            params=tuple(params),
            scalars=tuple(replace(s, default=self.new[s.default]) for s in old.scalars),
            states=tuple(self._state(s) for s in self.piece.states),
            outputs=tuple(self._outputs()),
            arguments=tuple(arguments),
            values=tuple(self.values),
        )

    def _outputs(self) -> list[Output]:
        old = self.old.values
        passed = [
            Output(self.names[r], old[r].dims, old[r].kind, self.new[r]) for r in self.piece.passed
        ]
        return [*passed, *(replace(o, value=self.new[o.value]) for o in self.piece.outputs)]

    def _state(self, state: State) -> State:
        """Initial values are given by the caller; in chunks the events tell the next ones."""
        if self.piece.form is Form.CHUNK:
            self.values.append(Value(Prev(state.name), state.dims, state.kind, True))
            following = len(self.values) - 1
        else:
            following = self.new[state.next]
        self.values.append(Value(Const(0.0), (), Kind.REAL, False))
        return replace(state, init=len(self.values) - 1, next=following)

    def _component(self, component: Component) -> Component:
        events = tuple(self._event(e) for e in component.events)
        return replace(component, events=events, merged=(), culprit=None, refused=())

    def _event(self, event: Event) -> Event:
        new = self.new
        if isinstance(event, Decay) and event.log is not None and event.factor not in new:
            new = new | {event.factor: new[event.log]}  # the factor itself may be out of sight
        return moved(event, new)
