"""Matrix states that feed each other: their step as events, of all of them together.

In: a recurrence and the states of a component.  Out: `Together`, an equal recurrence in which
values look at these states only through results of events, and the events of one step in order; or
`Unfit`, with the reason, where a step is more than scalars times states plus products of vectors.

A step has two moments.  Probes, and reads of old values, look at states as the step finds them.
Then come decays and couplings, all at once, then updates and writes; reads of new values are last.
What a step looks at in between is expanded into these, by linear forms.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scandsl.analysis.events import looking, rewritten, updates, writes
from scandsl.analysis.forms import event_fault
from scandsl.analysis.graph import dependency_graph
from scandsl.analysis.linear import Linear, NotAffine, Term, looks_at
from scandsl.analysis.program import (
    Component,
    Couple,
    Decay,
    Event,
    Form,
    Probe,
    Read,
    Transition,
)
from scandsl.analysis.rewrite import Copier
from scandsl.analysis.show import show
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Dims, Kind, Prev, Recurrence, Ref, State, made_of

MOST_STATES = 4
"""Each pair of states may take a table of a chunk with itself."""


@dataclass(frozen=True, slots=True)
class Together:
    """What was found; `new` carries the numbers of the old recurrence over to the new one."""

    recurrence: Recurrence
    new: dict[Ref, Ref]
    events: tuple[Event, ...]
    contracted: Dims
    free: Dims


class Unfit(Exception):
    """The states are not carried out together; `culprit` is the value that is the reason."""

    def __init__(self, reason: str, culprit: Ref) -> None:
        self.reason = reason
        self.culprit = culprit
        super().__init__(reason)


# ---------------------------------------------------------------- which states


def clusters(recurrence: Recurrence) -> tuple[tuple[str, ...], ...]:
    """States that are carried out together although not all of them feed each other.

    One of them follows another as a whole: `S = a S + M`.
    """
    out = []
    for names in _followers(recurrence):
        groups = dependency_graph(recurrence, [names]).groups
        group = next(g for g in groups if names[0] in g.states)
        if group.memories:
            continue
        try:
            together(recurrence, group.states, frozenset())
        except (NotAffine, Unfit):
            continue
        out.append(group.states)
    return tuple(out)


def _followers(recurrence: Recurrence) -> list[tuple[str, ...]]:
    """Matrix states of the same dimensions, joined where one takes another as a whole."""
    shapes: dict[frozenset[str], list[State]] = {}
    for state in recurrence.states:
        if len(state.dims) > 1 and state.kind is Kind.REAL:
            shapes.setdefault(frozenset(state.dims), []).append(state)
    out = []
    for states in shapes.values():
        parts = [{s.name} for s in states]
        for pair in _edges(recurrence, states):
            met = [p for p in parts if p & pair]
            parts = [p for p in parts if p not in met] + [set().union(*met)]
        order = [s.name for s in states]
        out += [tuple(sorted(p, key=order.index)) for p in parts if len(p) > 1]
    return out


def _edges(recurrence: Recurrence, states: Sequence[State]) -> Iterable[set[str]]:
    """The pairs of which one takes the other."""
    if len(states) < 2:
        return
    names = {s.name for s in states}
    atoms = {
        r: v.op.state
        for r, v in enumerate(recurrence.values)
        if isinstance(v.op, Prev) and v.op.state in names
    }
    b = Builder(recurrence.dims, recurrence.values)
    linear = Linear(b, looks_at(b.values, dict.fromkeys(atoms, True)))
    linear.versions.update(dict.fromkeys(atoms, 0))
    for state in states:
        try:
            form = linear.form(state.next)
        except NotAffine:
            continue
        for term in form.terms:
            if term.atom in atoms:
                yield {state.name, atoms[term.atom]}


# ---------------------------------------------------------------- their events


def together(recurrence: Recurrence, names: Sequence[str], kept: frozenset[Ref]) -> Together:
    """The events of states; `kept` are results of events of others, not taken apart."""
    states = [s for s in recurrence.states if s.name in names]
    first = states[0]
    if len(states) > MOST_STATES:
        raise Unfit(f"{len(states)} states feed each other; chunks take {MOST_STATES}", first.next)
    for state in states:
        if state.kind is not Kind.REAL:
            raise Unfit(f"state `{state.name}` is {state.kind.value}", state.next)
        if set(state.dims) != set(first.dims):
            reason = f"`{state.name}` and `{first.name}` have different dimensions"
            raise Unfit(reason, state.next)
        if not 0 < len(state.dims) < 4:
            raise Unfit(f"state `{state.name}` has {len(state.dims)} dimensions", state.next)
    found = _Joint(recurrence, states, kept)
    try:
        return found.found()
    except (NotAffine, Unfit) as fault:
        origin = {new: old for old, new in reversed(found.copier.new.items())}
        raise type(fault)(fault.reason, origin.get(fault.culprit, first.next)) from None


@dataclass(frozen=True, slots=True)
class _Step:
    """How one state moves: coefficients of the states before, images of them, and the rest."""

    state: State
    whole: dict[str, Ref | None]
    images: tuple[Term, ...]
    rest: Ref | None


class _Joint:
    """Rewrites a recurrence and finds the events.

    What the new states are made of is taken back to the old ones, all else to either.
    """

    def __init__(
        self, recurrence: Recurrence, states: Sequence[State], kept: frozenset[Ref]
    ) -> None:
        self.old = recurrence
        self.states = states
        self.copier = Copier(recurrence)
        self.b = self.copier.builder
        self.known: dict[Ref, bool] = {}
        looks = looks_at(self.b.values, self.known)
        self.moving, self.reading = Linear(self.b, looks), Linear(self.b, looks)
        self.reading.images, self.reading.views = self.moving.images, self.moving.views
        self.start: dict[Ref, str] = {}
        self.end: dict[Ref, str] = {}
        self._copy(kept)

    def _copy(self, kept: frozenset[Ref]) -> None:
        inside = made_of(self.old.values, [s.next for s in self.states])
        names = {s.name for s in self.states}
        ends = {s.next: s.name for s in self.states}
        for ref, value in enumerate(self.old.values):
            linear = self.moving if ref in inside else self.reading
            new = self.copier.copy(ref) if ref in kept else rewritten(self.copier, linear, ref)
            if isinstance(value.op, Prev) and value.op.state in names:
                self.known[new] = True
                self.start[new] = value.op.state
                self.moving.versions[new] = self.reading.versions[new] = 0
            elif ref in ends and self.reading.looks(new) and new not in self.start:
                self.end.setdefault(new, ends[ref])
                self.reading.versions[new] = 1

    def found(self) -> Together:
        """The events in order."""
        steps = [self._step(s) for s in self.states]
        probed = list(dict.fromkeys(t.atom for step in steps for t in step.images))
        reads = [r for r in looking(self.copier, self.reading, self.states) if r not in probed]
        contracted = self._contracted(probed, reads)
        free = tuple(d for d in self.b.sort(self.states[0].dims) if d not in contracted)
        images = self.moving.images
        events: list[Event] = []
        for ref in probed:
            image = images[ref]
            events.append(Probe(self.start[image.version], image.weight, image.over, ref))
        events += self._looks(reads, self.start)
        for step in steps:
            events += self._moves(step)
        for step in steps:
            events += self._added(step, contracted, free)
        events += self._looks(reads, self.end)
        recurrence = self.copier.finish()
        self._judged(recurrence, events, contracted, free)
        return Together(recurrence, self.copier.new, tuple(events), contracted, free)

    def _step(self, state: State) -> _Step:
        whole: dict[str, Ref | None] = {}
        images: list[Term] = []
        form = self.moving.form(self.copier.new[state.next])
        for term in form.terms:
            if term.atom in self.start:
                whole[self.start[term.atom]] = term.coefficient
            elif term.atom in self.moving.images:
                images.append(term)
            else:
                text = show(self.b.values, term.atom)
                raise Unfit(f"`{text}` takes entries of a state to other places", term.atom)
        return _Step(state, whole, tuple(images), form.rest)

    def _contracted(self, probed: Sequence[Ref], reads: Sequence[Ref]) -> Dims:
        """The dimension that probes, else reads, sum over; of vectors, only what probes need."""
        images = self.moving.images
        over = next((images[r].over for r in (*probed, *reads) if r in images), ())
        first = self.states[0]
        if not over or (set(over) == set(first.dims) and not (probed and len(over) == 1)):
            raise Unfit(f"no query along one of its dimensions looks at `{first.name}`", first.next)
        return self.b.sort(over)

    def _looks(self, reads: Sequence[Ref], moment: dict[Ref, str]) -> list[Event]:
        """The reads at one moment."""
        out: list[Event] = []
        for ref in reads:
            image = self.moving.images.get(ref)
            if image is not None and image.version in moment:
                out.append(Read(moment[image.version], image.weight, image.over, ref))
            elif ref in moment:
                out.append(Read(moment[ref], None, (), ref))
        return out

    def _moves(self, step: _Step) -> list[Event]:
        """The decay and the couplings of one state."""
        b, name = self.b, step.state.name
        out: list[Event] = []
        if name not in step.whole:
            out.append(Decay(name, b.const(0.0), None, ()))
        for other, coefficient in step.whole.items():
            factor = b.const(1.0) if coefficient is None else b.cast(coefficient, Kind.REAL)
            if other != name:
                out.append(Couple(name, other, factor))
            elif coefficient is not None:
                out.append(Decay(name, factor, None, b.dims_of(factor)))
        return out

    def _added(self, step: _Step, contracted: Dims, free: Dims) -> list[Event]:
        out: list[Event] = []
        for term in step.images:
            out += updates(self.b, step.state, term, contracted, free)
        if step.rest is not None and self.b.constant_of(step.rest) != 0:
            out += writes(self.b, step.state, step.rest, contracted, free)
        return out

    def _judged(
        self, recurrence: Recurrence, events: Sequence[Event], contracted: Dims, free: Dims
    ) -> None:
        names = tuple(s.name for s in self.states)
        whole = Component(
            names, Transition.BLOCK, tuple(events), contracted, free, (), Form.CHUNK, ""
        )
        for event in events:
            rank = max(2, len(self.states[0].dims))  # vectors are not read as a whole either
            fault = event_fault(recurrence, whole, event, rank)
            if fault is not None:
                culprit = self.states[0].next if fault.culprit is None else fault.culprit
                raise Unfit(fault.reason, culprit)
