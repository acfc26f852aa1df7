"""The policy: which form each component takes, and why others are refused.

In: what was found about every component.  Out: form, reason and refusals.  All that limits today's
parallel forms to one family stands here and nowhere else; later families widen it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.invariant import SystemFault, system_of
from scandsl.analysis.linear import looks_at
from scandsl.analysis.program import (
    Block,
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
    Transition,
    Update,
    Write,
)
from scandsl.analysis.ranges import intervals
from scandsl.analysis.show import show
from scandsl.analysis.stretches import REACH, block_rows, bound, sides
from scandsl.ir.nodes import Every, Kind, Lag, LagState, Prev, Range, Recurrence, Ref, memories

_SCALAR = (Transition.NONE, Transition.SCALAR_CONSTANT, Transition.SCALAR)
_CHUNKED = (
    *_SCALAR, Transition.KEY, Transition.VALUE, Transition.BOTH, Transition.LOW_RANK,
)  # fmt: skip
_ENTRIES = (*_SCALAR, Transition.KEY, Transition.VALUE, Transition.BOTH, Transition.ELEMENTWISE,
    Transition.ROTATION, Transition.SHIFT,
)  # fmt: skip
CHUNKS = (Form.CHUNK, Form.SCAN)
"""The forms of components that a stage of chunks carries out, folds aside."""
MOST_PAIRS = 200
"""Products of a chunk with itself, of what enters the state in one step and what looks at it."""
_SUMS = {"max": "(max, +)", "min": "(min, +)", "logaddexp": "(log-sum-exp, +)"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a form does not serve."""

    reason: str
    culprit: Ref | None = None


def choose(
    recurrence: Recurrence,
    components: Sequence[Component],
    apart: bool = False,
    wanted: str | None = None,
) -> Program:
    """Give every component its form; `wanted` asks for one where there are several.

    The whole is carried out in chunks if all of it can be; what else it is `chain` finds out.
    With `apart`, states that move entry by entry need not share a stage with matrix states: each
    takes the form that costs less by itself.
    """
    faults = [_chunk_fault(recurrence, components, i) for i in range(len(components))]
    matrices = any(c.contracted and f is None for c, f in zip(components, faults, strict=True))
    if apart:
        faults = [
            fault or _dearer(recurrence, component, matrices)
            for component, fault in zip(components, faults, strict=True)
        ]
    ranges = intervals(recurrence)
    chosen = tuple(
        _chosen(recurrence, c, fault, ranges) for c, fault in zip(components, faults, strict=True)
    )
    chosen = chosen if apart else _of_one_kind(recurrence, chosen)
    chosen = tuple(_convolved(recurrence, c, wanted) for c in chosen)
    whole = _program_fault(recurrence, chosen)
    if whole is not None:
        return Program(recurrence, chosen, Form.SEQUENTIAL, whole.reason)
    return Program(recurrence, chosen, Form.CHUNK, "every component is carried out in chunks")


def _chosen(
    recurrence: Recurrence, component: Component, fault: Fault | None, ranges: Sequence[Range]
) -> Component:
    if fault is None and len(component.states) > 1:
        reason = "states that feed each other: tokens in chunks, by matrix products; "
        reason += "what is left of what is added, by products of their decays and couplings"
        return replace(component, form=Form.CHUNK, reason=reason)
    if fault is None:
        reason = f"affine with {_decay_words(component)}: tokens in chunks, by matrix products"
        reason += _numeric_words(component, ranges)
        return replace(component, form=Form.CHUNK, reason=reason)
    refused = [Refusal(Form.CHUNK, fault.reason, fault.culprit)]
    if is_fold(component):
        return _by_folds(component)
    if _only_entries(recurrence, component):
        return _by_entries(component, refused)
    return replace(
        component,
        form=Form.SEQUENTIAL,
        reason=fault.reason,
        culprit=fault.culprit,
        refused=tuple(refused),
    )


def _dearer(recurrence: Recurrence, component: Component, matrices: bool) -> Fault | None:
    """Why matrices of rows and columns cost more than running along the rows.

    A chunk of C tokens multiplies and adds C / 2 times for every entry and token, and where decays
    differ from entry to entry no two share a matrix; running along the rows does so once.  (On a
    CPU 1.5 to 170 times faster, where one matrix serves all entries up to 2 times slower.)  One
    number beside matrix states costs them next to nothing.
    """
    if component.contracted or not _only_entries(recurrence, component):
        return None
    (name,) = component.states
    state = next(s for s in recurrence.states if s.name == name)
    if not state.dims and matrices:
        return None
    decays = [e for e in component.events if isinstance(e, Decay)]
    culprit = next((e.factor for e in decays if set(e.dims) == set(state.dims)), None)
    if culprit is None:
        return None
    text = f"`{show(recurrence.values, culprit)}`"
    return Fault(f"with {text}, each entry of `{name}` needs a matrix of its own", culprit)


def _convolved(recurrence: Recurrence, component: Component, wanted: str | None) -> Component:
    """The component as a time-invariant system, where nothing else is parallel, or if wanted."""
    if component.form is not Form.SEQUENTIAL and wanted != Form.CONVOLUTION.value:
        return component
    found = system_of(recurrence, component)
    if isinstance(found, SystemFault):
        return component
    refused = component.refused
    if component.form is Form.SEQUENTIAL:
        reason = "linear with constant coefficients: powers of its matrix, computed once per call"
    else:
        reason = "the convolution was asked for"
        refused = (*refused, Refusal(component.form, reason))
    return replace(
        component, form=Form.CONVOLUTION, reason=reason, culprit=None, refused=refused, events=()
    )


def _of_one_kind(recurrence: Recurrence, components: Sequence[Component]) -> tuple[Component, ...]:
    """Complex states of one scan all move entry by entry, or else all by matrix products.

    Matrix products take complex numbers apart, into pairs; entry by entry they stay what they are.
    """
    complex_ = {s.name for s in recurrence.states if s.kind is Kind.COMPLEX}
    scans = [c for c in components if c.form is Form.SCAN and complex_ & set(c.states)]
    turning = [c for c in components if c.form is Form.CHUNK and complex_ & set(c.states)]
    if not scans or not turning:
        return tuple(components)
    why = Fault("another complex state of the scan moves entry by entry")
    if all(_only_entries(recurrence, c) for c in turning):
        refused = (Refusal(Form.CHUNK, why.reason),)
        return tuple(_by_entries(c, refused) if c in turning else c for c in components)
    why = Fault("another complex state of the scan takes part in matrix products")
    return tuple(
        replace(
            c, form=Form.SEQUENTIAL, reason=why.reason, refused=(Refusal(Form.CHUNK, why.reason),)
        )
        if c in scans
        else c
        for c in components
    )


def _by_entries(component: Component, refused: Sequence[Refusal]) -> Component:
    """The component as one whose entries move by themselves: nothing needs a logarithm."""
    reason = f"affine, each entry by itself ({component.transition.value}): "
    reason += "tokens in chunks, their decays multiplied and added up row by row"
    events = tuple(replace(e, log=None) if isinstance(e, Decay) else e for e in component.events)
    return replace(component, form=Form.SCAN, reason=reason, events=events, refused=tuple(refused))


def is_fold(component: Component) -> bool:
    """Whether a component is one state that is affine in another algebra."""
    return any(isinstance(e, Fold) for e in component.events)


def _by_folds(component: Component) -> Component:
    """The component in chunks; no matrix products serve where the sum is a maximum."""
    (event,) = component.events
    assert isinstance(event, Fold)
    reason = f"affine in {_SUMS[event.algebra]}, each entry by itself: tokens in chunks, row by row"
    reason += "; against time a linear scan with the slopes of the steps"
    why = f"there are no matrix products in {_SUMS[event.algebra]}"
    return replace(component, form=Form.SCAN, reason=reason, refused=(Refusal(Form.CHUNK, why),))


def _only_entries(recurrence: Recurrence, component: Component) -> bool:
    """Whether steps do nothing to the component but decay it, add to it and read it."""
    if len(component.states) != 1 or component.memories or component.reason:
        return False
    if component.transition not in _ENTRIES or not component.events:
        return False
    (name,) = component.states
    if any(isinstance(v.op, LagState) and v.op.state == name for v in recurrence.values):
        return False
    return all(isinstance(e, Decay | Write | Read) for e in component.events)


def _decay_words(component: Component) -> str:
    if component.transition is Transition.NONE:
        return "no decay"
    if component.transition is not Transition.LOW_RANK:
        return f"a decay ({component.transition.value})"
    decays = [e for e in component.events if isinstance(e, Decay)]
    if not decays:
        return "low-rank updates and no decay"
    along = {e.dims for e in decays if e.dims}
    kind = Transition.KEY if along <= {component.contracted} else Transition.BOTH
    kind = Transition.VALUE if along == {component.free} else kind
    return f"low-rank updates and a decay ({kind.value if along else 'scalar'})"


def _numeric_words(component: Component, ranges: Sequence[Range]) -> str:
    """How stretches of decays are computed, and why."""
    decays = [e for e in component.events if isinstance(e, Decay)]
    if not decays:
        return ""
    turns = any(e.angle is not None for e in decays)
    words = "; rotations go to the vectors, by angles summed within a chunk" if turns else ""
    if any(e.log is None for e in decays):
        return f"{words}; decays that may be zero or negative as products of factors"
    words += "; decays as sums of logarithms, running outward"
    found = sides(component.events, component.contracted)
    for side in (found.key, found.value):
        along = next((d for e in side for d in e.dims), None)
        if along is not None:
            words += _vector_words(along, bound(side, ranges), block_rows(side, ranges))
    return words


def _vector_words(along: str, size: float, block: int) -> str:
    if block:
        return (
            f"; along {along}, on torch, {block} rows are taken to one reference: the logarithms "
            f"of a step are within {size:.4g}, so that no exponent passes {REACH:.0f}"
        )
    if size < math.inf:
        why = f"the logarithms of a step reach {size:.4g}"
    else:
        why = "no range bounds the logarithms (a CPU looks whether those at hand are small)"
    return f"; along {along} by halving the chunk: {why}"


# ---------------------------------------------------------------- blocks


def with_blocks(program: Program, block: Block) -> Program:
    """The program carried out from one start of its `every` blocks to the next."""
    inner = {s: c for c in block.between.components for s in c.states}
    held = ", ".join(f"`{name}`" for name in block.held)
    words = f"{held} held between starts of blocks: " if held else "between starts of blocks "
    words += f"{block.tokens} tokens at once"
    components = []
    for component in program.components:
        own = dict.fromkeys(inner[s].reason for s in component.states if s in inner)
        reason = "; ".join((words, *own))
        components.append(
            replace(component, form=Form.BLOCKS, reason=reason, culprit=None, refused=())
        )
    reason = f"chunks of {block.tokens} tokens, from one start of an `every` block to the next"
    return replace(
        program,
        components=tuple(components),
        form=Form.BLOCKS,
        reason=reason,
        stages=(),
        block=block,
    )


def without_blocks(program: Program, reason: str) -> Program:
    """The program, with the reason why its `every` blocks do not cut it."""
    components = tuple(
        replace(c, refused=(*c.refused, Refusal(Form.BLOCKS, reason)))
        if c.form is Form.SEQUENTIAL
        else c
        for c in program.components
    )
    return replace(program, components=components)


# ---------------------------------------------------------------- one component


def _chunk_fault(
    recurrence: Recurrence, components: Sequence[Component], index: int
) -> Fault | None:
    component = components[index]
    joint = len(component.states) > 1 and component.events
    fault = None if joint else _class_fault(recurrence, components, component)
    if fault is not None:
        return fault
    state = next(s for s in recurrence.states if s.name == component.states[0])
    if len(state.dims) > 3:
        return Fault(f"state `{state.name}` has {len(state.dims)} dimensions; chunks take up to 3")
    for ref, value in enumerate(recurrence.values):
        if isinstance(value.op, LagState) and value.op.state in component.states:
            return Fault(f"`{show(recurrence.values, ref)}` looks back at the state", ref)
    fault = _many_fault(component)
    if fault is not None:
        return fault
    for event in component.events:
        fault = event_fault(recurrence, component, event, len(state.dims))
        if fault is not None:
            return fault
    return None


def _many_fault(component: Component) -> Fault | None:
    """Why a step that does very much to one state goes token by token."""
    enter = sum(isinstance(e, Update | Write) for e in component.events)
    look = sum(isinstance(e, Probe | Read) for e in component.events)
    if enter * look <= MOST_PAIRS:
        return None
    text = f"{enter} terms enter the state in one step and {look} look at it"
    return Fault(f"{text}: a chunk would take {enter * look} products, at most {MOST_PAIRS} serve")


def _is_column(components: Sequence[Component], component: Component) -> bool:
    """Whether a vector is one more column of a matrix state: a normaliser, with its decays."""
    if component.free or not component.contracted or len(component.states) != 1:
        return False

    def decays(of: Component) -> list[tuple[Ref, Ref | None]]:
        found = [e for e in of.events if isinstance(e, Decay)]
        return [(e.factor, e.angle) for e in found if not set(e.dims) & set(of.free)]

    like = [c for c in components if c.free and c.contracted == component.contracted]
    return any(decays(c) == decays(component) for c in like)


def _class_fault(
    recurrence: Recurrence, components: Sequence[Component], component: Component
) -> Fault | None:
    name = component.transition.value
    if component.transition is Transition.NONLINEAR:
        return Fault(component.reason, component.culprit)
    if component.transition in (Transition.DENSE, Transition.DENSE_SCALED):
        return _dense_fault(recurrence, component)
    if component.transition is Transition.DENSE_CONSTANT:
        return Fault(f"{name}: it mixes all entries; chunks take decays and low-rank updates")
    later = f"{name}: the parallel form of this class is still to come"
    if len(component.states) != 1 or component.memories or component.reason:
        if component.reason:
            return Fault(f"{name}: {component.reason}", component.culprit)
        return _named(recurrence, component, later)
    vector = component.transition is Transition.ELEMENTWISE and not component.contracted
    column = _is_column(components, component)
    vector = vector or column
    state = next(s for s in recurrence.states if s.name == component.states[0])
    matrix = column or (component.contracted and component.free and component.events)
    turning = component.transition is Transition.ROTATION and matrix
    if component.transition is Transition.ELEMENTWISE and not vector:
        culprit = next((_weight(e) for e in component.events if _marks(e)), None)
        text = "its decay" if culprit is None else f"the decay `{show(recurrence.values, culprit)}`"
        return Fault(f"{text} is no product of one along each dimension", culprit)
    if component.transition is Transition.ROTATION and not turning:
        return Fault(f"state `{state.name}` is complex, and no matrix")
    if component.transition not in _CHUNKED and not vector and not turning:
        culprit = next((_weight(e) for e in component.events if _marks(e)), None)
        if culprit is None:
            return _named(recurrence, component, later)
        return Fault(f"{later} (`{show(recurrence.values, culprit)}`)", culprit)
    if state.kind is Kind.REAL:
        return None
    if state.kind is Kind.COMPLEX and matrix:
        return _turn_fault(recurrence, component)
    return Fault(f"state `{state.name}` is {state.kind.value}; chunks take real states")


def _named(recurrence: Recurrence, component: Component, reason: str) -> Fault:
    """A reason with the term that says how the component moves."""
    own = [s.next for s in recurrence.states if s.name in component.states]
    kept = [m.value for m in memories(recurrence) if m.name in component.memories]
    term = next(r for r in (*own, *kept) if r is not None)
    return Fault(f"{reason} (`{show(recurrence.values, term, inside=True)}`)", term)


def _dense_fault(recurrence: Recurrence, component: Component) -> Fault:
    """Why a matrix that differs from token to token goes through the loop, and where it does."""
    found = system_of(recurrence, component)
    culprit = found.culprit if isinstance(found, SystemFault) else component.culprit
    text = "" if culprit is None else f" (`{show(recurrence.values, culprit)}`)"
    reason = "a product of matrices for every token costs more than the loop over tokens"
    return Fault(f"{component.transition.value}{text}: {reason}, which keeps its matrix", culprit)


def _turn_fault(recurrence: Recurrence, component: Component) -> Fault | None:
    """Why the rotations of a complex state do not go over to its vectors.

    A rotation along the free side goes to what is written and read; it must not stand between a
    probe and its update, which would carry it from one moment of the step to another.
    """
    values = recurrence.values
    for event in component.events:
        if not isinstance(event, Decay):
            continue
        text = f"`{show(values, event.factor)}`"
        if values[event.factor].kind is Kind.COMPLEX:
            return Fault(f"modulus and angle of {text} are not written apart", event.factor)
        if event.angle is None:
            continue
        dims = set(values[event.angle].dims)
        free = dims <= set(component.free) and not _between(component, event)
        if not dims <= set(component.contracted) and not free:
            along = ", ".join(values[event.angle].dims)
            text = f"`{show(values, event.angle)}`"
            return Fault(f"the angle {text} differs along [{along}]", event.angle)
        if _masked(recurrence, event.angle):
            return Fault(f"the angle {text} depends on an `every` block", event.angle)
    return None


def _marks(event: Event) -> bool:
    return isinstance(event, Decay) and event.dims != ()


def _weight(event: Event) -> Ref:
    match event:
        case Decay(_, factor):
            return factor
        case Probe(_, w):
            return w
        case Update(_, p):
            return p
        case Write(_, _, x):
            return x
        case Read(_, _, _, result):
            return result
        case Couple(_, _, factor):
            return factor
        case Fold(_, shift):
            return shift


def event_fault(  # noqa: C901 - one rule per event
    recurrence: Recurrence, component: Component, event: Event, rank: int
) -> Fault | None:
    """Why an event of a component, whose states have `rank` dimensions, is none of chunks."""
    values = recurrence.values
    text = f"`{show(values, _weight(event))}`"
    match event:
        case Decay(_, factor, _):
            if _masked(recurrence, factor):
                return Fault(f"the decay {text} depends on an `every` block", factor)
            along = ", ".join(event.dims)
            if event.dims and len(component.states) > 1:
                reason = f"differs along [{along}]; states that feed each other take one number"
                return Fault(f"the decay {text} {reason}", factor)
            if event.dims not in ((), component.contracted, component.free) or len(event.dims) > 1:
                return Fault(f"the decay {text} differs along [{along}]; this is to come", factor)
            if event.dims and event.dims != component.contracted and _between(component, event):
                reason = f"differs along [{along}] and stands between a probe and its update"
                return Fault(f"the decay {text} {reason}", factor)
        case Couple(_, other, factor):
            if _masked(recurrence, factor):
                return Fault(f"the coupling {text} depends on an `every` block", factor)
            if values[factor].dims:
                along = ", ".join(values[factor].dims)
                return Fault(f"the coupling {text} with `{other}` differs along [{along}]", factor)
        case Probe(_, w, over):
            if over != component.contracted or set(values[w].dims) != set(over):
                return Fault(f"{text} probes along [{', '.join(over)}], not as the others", w)
            if _masked(recurrence, w):
                return Fault(f"the probe {text} depends on an `every` block", w)
        case Update(_, p, _, strength):
            if strength is not None:
                along = ", ".join(values[strength].dims)
                reason = (
                    f"has a strength along [{along}]: with an inverse for each column, chunks would"
                    " make more passes over memory than the loop over tokens"
                )
                return Fault(f"the update {text} {reason}", p)
            if set(values[p].dims) != set(component.contracted) or _masked(recurrence, p):
                return Fault(f"the update {text} is no vector along the contracted dimension", p)
        case Write(_, b, x):
            if b is None and component.contracted:
                return Fault(f"the term {text} is no product of a key and a value", x)
            if _masked(recurrence, x) or (b is not None and _masked(recurrence, b)):
                return Fault(f"the term {text} depends on an `every` block", x)
        case Read(_, None, _, result):
            if rank > 1:
                return Fault(f"the state is read as a whole in {text}, not by a query", result)
        case Read(_, q, over, result):
            if over not in (component.contracted, component.free):
                return Fault(f"{text} reads along [{', '.join(over)}], not as the others", result)
            if q is not None and set(values[q].dims) != set(over):
                return Fault(f"{text} reads with a matrix, not with one query", result)
    return None


def _between(component: Component, decay: Event) -> bool:
    """Whether an event stands between a probe and the update that takes its result."""
    place = next(i for i, e in enumerate(component.events) if e is decay)
    probed = {e.result: i for i, e in enumerate(component.events) if isinstance(e, Probe)}
    updates = [(i, e.probe) for i, e in enumerate(component.events) if isinstance(e, Update)]
    return any(probed[probe] < place < i for i, probe in updates)


def _masked(recurrence: Recurrence, ref: Ref) -> bool:
    """Whether a value depends on a block by itself, not through what a state holds."""
    values = recurrence.values
    states = [r for r, v in enumerate(values) if isinstance(v.op, Prev | Lag | LagState)]
    carried = looks_at(values, dict.fromkeys(states, True))
    known = {r: False for r in range(len(values)) if carried(r)}
    known |= {r: True for r, v in enumerate(values) if isinstance(v.op, Every)}
    return looks_at(values, known)(ref)


def event_operands(event: Event) -> tuple[Ref, ...]:
    """The values that an event takes (not its result)."""
    match event:
        case Decay(_, factor, log, _, angle):
            found: tuple[Ref | None, ...] = (factor, log, angle)
        case Probe(_, w):
            found = (w,)
        case Update(_, p, _, strength):
            found = (p, strength)
        case Write(_, b, x):
            found = (b, x)
        case Read(_, q):
            found = (q,)
        case Couple(_, _, factor):
            found = (factor,)
        case Fold(_, shift, term):
            found = (shift, term)
    return tuple(r for r in found if r is not None)


# ---------------------------------------------------------------- the whole program


def _program_fault(recurrence: Recurrence, components: Sequence[Component]) -> Fault | None:
    for component in components:
        if is_fold(component):
            (name,) = component.states
            return Fault(f"`{name}` is found before what looks at it")
        if component.form not in CHUNKS:
            names = ", ".join(component.states or component.memories)
            reason = f"component {names} is sequential ({component.reason})"
            return Fault(reason, component.culprit)
    for ref, value in enumerate(recurrence.values):
        if isinstance(value.op, Lag | LagState):
            return Fault(f"the scan remembers `{show(recurrence.values, ref)}`", ref)
    if not components:
        return Fault("there is no recurrence: every token is mapped by itself")
    return None
