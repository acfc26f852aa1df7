"""The events of one affine state: decay, probe, update, write, read, each at its own moment.

In: a recurrence and a state.  Out: `Normal`, an equal recurrence in which values look at the
state only through results of events, and the events of one step in order.  `NotAffine` if the new
state is not affine in the old.  Which form to take is decided elsewhere.

The moments of a step are the *versions* of the state: the values that lie on every elementwise path
from the old state to the new.  Between two versions there is one decay, then updates and writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.factor import Separator
from scandsl.analysis.linear import Form, Linear, NotAffine, Term, looks_at
from scandsl.analysis.program import Couple, Decay, Event, Fold, Probe, Read, Update, Write
from scandsl.analysis.rewrite import Copier
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import (
    Binary,
    Contract,
    Dims,
    Expand,
    Insert,
    Lag,
    Prev,
    Recurrence,
    Reduce,
    Ref,
    State,
    Unary,
    Where,
    operands,
)


@dataclass(frozen=True, slots=True)
class Normal:
    """What was found for one state.

    `new` carries the numbers of the recurrence that went in to that which comes out.  `views` are
    linear images of the state with no event of their own (transposes, shifted entries); where
    there are some in the new state, `events` does not tell the whole step and `complete` is false.
    """

    recurrence: Recurrence
    new: dict[Ref, Ref]
    state: str
    versions: tuple[Ref, ...]
    events: tuple[Event, ...]
    contracted: Dims
    free: Dims
    views: tuple[Term, ...]
    complete: bool


class _Tangled(Exception):
    """A version looks past the one before it."""


def normalise(recurrence: Recurrence, name: str, kept: frozenset[Ref]) -> Normal:
    """Rewrite a recurrence for one affine state, and find its events.

    `kept` are results of events of other states, which are not taken apart.
    """
    state = next(s for s in recurrence.states if s.name == name)
    chain = versions(recurrence, state)
    try:
        return _normalised(recurrence, state, chain, kept)
    except _Tangled:
        return _normalised(recurrence, state, (chain[0], chain[-1]), kept)


def _normalised(
    recurrence: Recurrence, state: State, old_chain: tuple[Ref, ...], kept: frozenset[Ref]
) -> Normal:
    name = state.name
    old_versions = {ref: i for i, ref in enumerate(old_chain)}
    copier = Copier(recurrence)
    known: dict[Ref, bool] = {}
    linear = Linear(copier.builder, looks_at(copier.builder.values, known))
    for ref, value in enumerate(recurrence.values):
        new = copier.copy(ref) if ref in kept else rewritten(copier, linear, ref)
        if isinstance(value.op, Prev) and value.op.state == name:
            known[new] = True
            linear.versions.setdefault(new, 0)
        if ref in old_versions:
            linear.versions.setdefault(new, old_versions[ref])
    before = copier.builder.emit(Prev(name), state.dims, state.kind)
    chain = tuple(dict.fromkeys((before, *(copier.new[ref] for ref in old_versions))))
    try:
        return _Finder(copier, linear, state, chain).found()
    except NotAffine as fault:
        origin = {new: old for old, new in reversed(copier.new.items())}
        raise NotAffine(fault.reason, origin.get(fault.culprit, state.next)) from None


def versions(recurrence: Recurrence, state: State) -> tuple[Ref, ...]:
    """Values on every elementwise path from the old state to the new, ends included, in order.

    By counting paths, which is exact in integers.
    """
    values = recurrence.values
    start = [r for r, v in enumerate(values) if v.op == Prev(state.name)]
    ways: list[int] = [0] * len(values)
    edges: list[tuple[Ref, ...]] = []
    for ref, value in enumerate(values):
        carried = _carried(value.op) if value.dims == state_dims(recurrence, state) else ()
        edges.append(carried)
        ways[ref] = int(ref in start) + sum(ways[r] for r in carried)
    back: list[int] = [0] * len(values)
    back[state.next] = 1
    for ref in range(state.next, -1, -1):
        for operand in edges[ref]:
            back[operand] += back[ref]
    total = ways[state.next]
    inner = [
        ref
        for ref in range(len(values))
        if total and ref not in start and ref != state.next and ways[ref] * back[ref] == total
    ]
    return (*start[:1], *inner, state.next)


def state_dims(recurrence: Recurrence, state: State) -> Dims:
    """The dimensions of a state in canonical order."""
    order = {d.name: i for i, d in enumerate(recurrence.dims)}
    return tuple(sorted(state.dims, key=order.__getitem__))


def _carried(op: object) -> tuple[Ref, ...]:
    """Operands that an operation may carry on elementwise."""
    match op:
        case Binary("add" | "sub" | "mul", a, b):
            return (a, b) if a != b else (a,)
        case Binary("div", a, _):
            return (a,)
        case Unary("neg", x) | Expand(x) | Insert(x):
            return (x,)
        case Where(_, a, b):
            return (a, b) if a != b else (a,)
        case _:
            return ()


def rewritten(copier: Copier, linear: Linear, ref: Ref) -> Ref:
    """Copy a value; a contraction of something that holds the state becomes one of the state."""
    value = copier.old.values[ref]
    op = value.op
    summing = isinstance(op, Contract) or (isinstance(op, Reduce) and op.fn in ("sum", "mean"))
    if not summing or not any(_holds(linear, copier.new[r]) for r in operands(op)):
        return copier.copy(ref)
    try:
        form = _summed(copier, linear, ref)
    except NotAffine:
        return copier.copy(ref)
    replacement = linear.value(form, value.dims, value.kind)
    copier.set(ref, replacement)
    if replacement in linear.images:  # what a lag remembers has a value of its own
        linear.images[copier.new[ref]] = linear.images[replacement]
    return copier.new[ref]


def _holds(linear: Linear, ref: Ref) -> bool:
    """Whether a value is linear in the state and holds some of it as it is."""
    if not linear.looks(ref):
        return False
    try:
        form = linear.form(ref)
    except NotAffine:
        return False
    return any(t.atom not in linear.images for t in form.terms)


def _summed(copier: Copier, linear: Linear, ref: Ref) -> Form:
    op = copier.old.values[ref].op
    new = copier.new
    if isinstance(op, Contract):
        return linear.contraction(new[op.a], new[op.b], op.over)
    assert isinstance(op, Reduce)
    return linear.reduction(op.fn, new[op.x], op.over)


@dataclass(frozen=True, slots=True)
class _Step:
    """What happens between two versions."""

    decay: Ref | None
    images: tuple[Term, ...]
    rest: Ref | None


class _Finder:
    """Turns forms of the versions into events."""

    def __init__(
        self, copier: Copier, linear: Linear, state: State, chain: tuple[Ref, ...]
    ) -> None:
        self.copier = copier
        self.linear = linear
        self.b = copier.builder
        self.state = state
        self.chain = chain
        self.dims = state_dims(copier.old, state)
        self.views: list[Term] = []
        self.complete = True

    def found(self) -> Normal:
        steps = [self._step(i) for i in range(1, len(self.chain))]
        probed = [t.atom for step in steps for t in step.images if t.atom in self.linear.images]
        reads = looking(self.copier, self.linear, [self.state])
        contracted = self._contracted(probed, reads)
        free = tuple(d for d in self.dims if d not in contracted)
        events: list[Event] = []
        for index, version in enumerate(self.chain):
            events += self._looks(version, list(dict.fromkeys(probed)), reads)
            if index < len(steps):
                events += self._changes(steps[index], contracted, free)
        recurrence = self.copier.finish()
        return Normal(
            recurrence, self.copier.new, self.state.name, self.chain, tuple(events),
            contracted, free, tuple(self.views), self.complete,
        )  # fmt: skip

    def _step(self, index: int) -> _Step:
        """The form of a version in the one before it."""
        linear, version = self.linear, self.chain[index]
        form = linear.unfold(version) if linear.looks(version) else linear.form(version)
        decay: Ref | None = None
        direct = False
        images: list[Term] = []
        for term in form.terms:
            if term.atom == self.chain[index - 1]:
                decay, direct = term.coefficient, True
            elif term.atom in linear.versions:
                raise _Tangled
            else:
                images.append(term)
        if not direct:
            decay = self.b.const(0.0, self.state.kind)
        return _Step(decay, tuple(images), form.rest)

    def _contracted(self, probed: list[Ref], reads: list[Ref]) -> Dims:
        """The dimensions that the first probe, else the first read sums over.

        A vector state that is also read as a whole has none: its writes are not taken apart.
        """
        whole = any(ref in self.linear.versions for ref in reads)
        if whole and not probed and len(self.dims) <= 1:
            return ()
        for ref in (*probed, *reads):
            if ref in self.linear.images:
                return self.b.sort(self.linear.images[ref].over)
        return ()

    def _looks(self, version: Ref, probed: list[Ref], reads: list[Ref]) -> list[Event]:
        """Probes and reads at the moment of one version."""
        out: list[Event] = []
        images = self.linear.images
        for ref in probed:
            if images[ref].version == version:
                out.append(Probe(self.state.name, images[ref].weight, images[ref].over, ref))
        for ref in reads:
            if ref in images and images[ref].version == version:
                out.append(Read(self.state.name, images[ref].weight, images[ref].over, ref))
            elif ref == version or (
                version == self.chain[0] and ref not in self.chain and ref in self.linear.versions
            ):
                out.append(Read(self.state.name, None, (), ref))
        return out

    def _changes(self, step: _Step, contracted: Dims, free: Dims) -> list[Event]:
        out: list[Event] = []
        if step.decay is not None:
            for factor in self._sides(step.decay, contracted, free):
                out.append(Decay(self.state.name, factor, None, self.b.dims_of(factor)))
        for term in step.images:
            out += self._updates(term, contracted, free)
        if step.rest is not None and self.b.constant_of(step.rest) != 0:
            out += writes(self.b, self.state, step.rest, contracted, free)
        return out

    def _sides(self, decay: Ref, contracted: Dims, free: Dims) -> tuple[Ref, ...]:
        """A decay along both sides as one along each, if it is such a product."""
        dims = set(self.b.dims_of(decay))
        if not dims & set(contracted) or not dims & set(free):
            return (decay,)
        found = Separator(self.b, contracted, free).pairs(decay)
        return (decay,) if found is None or len(found) != 1 else found[0]

    def _updates(self, term: Term, contracted: Dims, free: Dims) -> list[Event]:
        if term.atom not in self.linear.images:
            self.views.append(term)
            self.complete = False
            return []
        return updates(self.b, self.state, term, contracted, free)


def updates(b: Builder, state: State, term: Term, contracted: Dims, free: Dims) -> list[Event]:
    """The updates by which an image of a state enters one."""
    one = b.const(1.0, state.kind)
    coefficient = one if term.coefficient is None else term.coefficient
    found = Separator(b, contracted, free).pairs(coefficient)
    if not found:
        return [Update(state.name, coefficient, term.atom, None)]
    out: list[Event] = []
    for p, strength in found:
        factor = None if b.constant_of(strength) == 1 else strength
        out.append(Update(state.name, b.expand(p, contracted), term.atom, factor))
    return out


def writes(b: Builder, state: State, rest: Ref, contracted: Dims, free: Dims) -> list[Event]:
    """The writes of what a step adds to a state."""
    name, kind = state.name, state.kind
    whole = Write(name, None, b.expand(b.cast(rest, kind), b.sort(state.dims)))
    if not contracted:
        return [whole]
    found = Separator(b, contracted, free).pairs(rest)
    if not found:
        return [whole]
    return [
        Write(name, b.expand(b.cast(k, kind), contracted), b.expand(b.cast(x, kind), free))
        for k, x in found
    ]


def looking(copier: Copier, linear: Linear, states: Sequence[State]) -> list[Ref]:
    """Results through which outputs and other states look at these states, in order."""
    builder, new, old = copier.builder, copier.new, copier.old
    own = {s.name for s in states}
    todo = [new[o.value] for o in old.outputs]
    todo += [new[s.next] for s in old.states if s.name not in own]
    todo += [new[v.op.x] for v in old.values if isinstance(v.op, Lag)]
    seen: set[Ref] = set()
    found: list[Ref] = []
    while todo:
        ref = todo.pop()
        if ref in seen or not linear.looks(ref):
            continue
        seen.add(ref)
        if ref in linear.versions or (ref in linear.images and not _wide(builder, linear, ref)):
            found.append(ref)
            continue
        if not isinstance(builder.values[ref].op, Lag):
            todo += operands(builder.values[ref].op)
    return sorted(found)


def _wide(builder: Builder, linear: Linear, ref: Ref) -> bool:
    """A vector state seen through a matrix: the whole state is read, the matrix is a map."""
    image = linear.images[ref]
    wide = set(builder.dims_of(image.weight)) > set(image.over)
    return wide and len(builder.dims_of(image.version)) == 1


def moved(event: Event, new: dict[Ref, Ref]) -> Event:
    """An event with its references carried over to a rewritten recurrence."""

    def at(ref: Ref | None) -> Ref | None:
        return None if ref is None else new[ref]

    match event:
        case Decay(_, factor, log, _, angle):
            return replace(event, factor=new[factor], log=at(log), angle=at(angle))
        case Probe(_, w, _, result):
            return replace(event, w=new[w], result=new[result])
        case Update(_, p, probe, strength):
            return replace(event, p=new[p], probe=new[probe], strength=at(strength))
        case Write(_, b, x):
            return replace(event, b=at(b), x=new[x])
        case Read(_, q, _, result):
            return replace(event, q=at(q), result=new[result])
        case Couple(_, _, factor):
            return replace(event, factor=new[factor])
        case Fold(_, shift, term):
            return replace(event, shift=new[shift], term=new[term])
