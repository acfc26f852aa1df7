"""The analysis stage: a recurrence in, a `Program` in normal form out.

Composes the passes; each of them is a module of its own.  Knows no hardware and chooses no tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scandsl.analysis.blocks import Unsplit, split_blocks
from scandsl.analysis.chain import chained, separated
from scandsl.analysis.collinear import merged_pairs
from scandsl.analysis.coupled import in_pairs
from scandsl.analysis.coupled_matrices import Unfit, clusters, together
from scandsl.analysis.decay import Logs
from scandsl.analysis.events import Normal, moved, normalise
from scandsl.analysis.expand import expand_grads
from scandsl.analysis.forms import choose, event_operands, with_blocks, without_blocks
from scandsl.analysis.graph import Group, dependency_graph
from scandsl.analysis.linear import NotAffine
from scandsl.analysis.program import (
    Block,
    Component,
    Decay,
    Event,
    Form,
    Probe,
    Program,
    Read,
    Transition,
    Update,
)
from scandsl.analysis.rewrite import Copier, prune
from scandsl.analysis.semiring import fold
from scandsl.analysis.structure import Finding, affine_class, fold_class, group_class
from scandsl.analysis.turn import Polars
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Dims, Every, Recurrence, Ref


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is known of one component; references are those of the present recurrence."""

    states: tuple[str, ...]
    finding: Finding | None
    events: tuple[Event, ...] = ()
    contracted: Dims = ()
    free: Dims = ()


def analyse(recurrence: Recurrence, wanted: str | None = None) -> Program:
    """Find components, classes, events and forms of a recurrence.

    `wanted` asks for a form where a component has several ("convolution").
    """
    whole = _shared(expand_grads(recurrence))
    program = _in_blocks(_analysed(whole, wanted=wanted), whole)
    systems = any(stage.form is Form.INVARIANT for stage in program.stages)
    return program if systems and wanted == Form.CONVOLUTION.value else in_pairs(program)


def _analysed(recurrence: Recurrence, apart: bool = True, wanted: str | None = None) -> Program:
    """The same of a recurrence without derivatives, blocks left where they are.

    With `apart`, states that move entry by entry may have stages of their own.
    """
    drafts: list[_Draft] = []
    joined = clusters(recurrence)
    for group in dependency_graph(recurrence, joined).groups:
        recurrence, new, draft = _normalised(recurrence, group, drafts)
        drafts = [_moved(d, new) for d in drafts] + [draft]
    recurrence, drafts = _with_logs(recurrence, drafts)
    recurrence, drafts = _with_folds(recurrence, drafts, joined)
    components = _components(recurrence, drafts, joined)
    if apart:
        found = separated(_pruned(choose(recurrence, components, True, wanted)))
        if found is not None:
            return found
    return chained(_pruned(choose(recurrence, components, wanted=wanted)))


def _in_blocks(program: Program, whole: Recurrence) -> Program:
    """The program as tokens between the starts of `every` blocks, where that makes longer chunks.

    A chain that holds chunks already is left unless a state moves by what a block makes of it.
    """
    blocks = any(isinstance(v.op, Every) for v in whole.values)
    mutual = any(c.transition is Transition.BLOCKWISE for c in program.components)
    forms = {program.form, *(s.form for s in program.stages)}
    chunks = not forms.isdisjoint((Form.CHUNK, Form.SCAN))
    if not blocks or (chunks and not mutual):
        return program
    found = split_blocks(whole)
    if isinstance(found, Unsplit):
        return without_blocks(program, found.reason)
    between = _analysed(found.between, apart=False)
    if between.form is not Form.CHUNK:
        return without_blocks(program, f"between its starts {between.reason}")
    return with_blocks(program, Block(found.tokens, whole, found.starts, found.held, between))


def _shared(recurrence: Recurrence) -> Recurrence:
    """The recurrence with equal values shared."""
    copier = Copier(recurrence)
    for ref in range(len(recurrence.values)):
        copier.copy(ref)
    return copier.finish()


def _normalised(
    recurrence: Recurrence, group: Group, drafts: list[_Draft]
) -> tuple[Recurrence, dict[Ref, Ref], _Draft]:
    same = {r: r for r in range(len(recurrence.values))}
    if not group.states or group.memories:
        return recurrence, same, _Draft(group.states, None)
    results = frozenset(e.result for d in drafts for e in d.events if isinstance(e, Probe | Read))
    if len(group.states) > 1:
        return _coupled(recurrence, group, results)
    try:
        normal = normalise(recurrence, group.states[0], results)
    except NotAffine:
        return recurrence, same, _Draft(group.states, None)
    draft = _Draft(
        group.states, affine_class(normal), _told(normal), normal.contracted, normal.free
    )
    return normal.recurrence, normal.new, draft


def _coupled(
    recurrence: Recurrence, group: Group, results: frozenset[Ref]
) -> tuple[Recurrence, dict[Ref, Ref], _Draft]:
    """States that feed each other: as matrices with events, if they are such."""
    same = {r: r for r in range(len(recurrence.values))}
    draft = _Draft(group.states, None)
    try:
        finding = group_class(recurrence, group)
        if finding.transition is not Transition.BLOCK:
            return recurrence, same, draft
        found = together(recurrence, group.states, results)
    except NotAffine:
        return recurrence, same, draft
    except Unfit as fault:
        why = replace(finding, reason=fault.reason, culprit=fault.culprit)
        return recurrence, same, replace(draft, finding=why)
    return (
        found.recurrence,
        found.new,
        _Draft(group.states, finding, found.events, found.contracted, found.free),
    )


def _told(normal: Normal) -> tuple[Event, ...]:
    """The events, if they tell the whole step."""
    return normal.events if normal.complete else ()


def _moved(draft: _Draft, new: dict[Ref, Ref]) -> _Draft:
    events = tuple(moved(e, new) for e in draft.events)
    finding = draft.finding
    if finding is not None and finding.culprit is not None:
        finding = replace(finding, culprit=new[finding.culprit])
    return replace(draft, events=events, finding=finding)


def _with_logs(recurrence: Recurrence, drafts: list[_Draft]) -> tuple[Recurrence, list[_Draft]]:
    """Add the logarithm of every decay that has one, and the angle of a complex one."""
    builder = Builder(recurrence.dims, recurrence.values)
    logs = Logs(builder, {t.name: t for t in (*recurrence.inputs, *recurrence.params)})
    polars = Polars(logs)

    def known(event: Event) -> Event:
        if not isinstance(event, Decay):
            return event
        found = polars.polar(event.factor)
        if found is None:
            return event
        dims = builder.dims_of(found.modulus)
        return replace(event, factor=found.modulus, log=found.log, dims=dims, angle=found.angle)

    out = [replace(draft, events=tuple(known(e) for e in draft.events)) for draft in drafts]
    return replace(recurrence, values=tuple(builder.values)), out


def _with_folds(
    recurrence: Recurrence, drafts: list[_Draft], joined: Sequence[Sequence[str]]
) -> tuple[Recurrence, list[_Draft]]:
    """Add how states move that are affine in another algebra."""
    groups = dependency_graph(recurrence, joined).groups
    states = {s.name: s for s in recurrence.states}
    builder = Builder(recurrence.dims, recurrence.values)
    out = []
    for draft, group in zip(drafts, groups, strict=True):
        found = None
        if draft.finding is None and len(group.states) == 1 and not group.memories:
            found = fold(builder, recurrence, states[group.states[0]])
        whole = replace(recurrence, values=tuple(builder.values))
        if found is not None:
            draft = replace(draft, finding=fold_class(whole, found), events=(found,))
        out.append(draft)
    return replace(recurrence, values=tuple(builder.values)), out


def _components(
    recurrence: Recurrence, drafts: list[_Draft], joined: Sequence[Sequence[str]]
) -> list[Component]:
    groups = dependency_graph(recurrence, joined).groups
    out: list[Component] = []
    for draft, group in zip(drafts, groups, strict=True):
        finding = draft.finding or group_class(recurrence, group)
        out.append(
            Component(
                states=draft.states,
                transition=finding.transition,
                events=draft.events,
                contracted=draft.contracted,
                free=draft.free,
                merged=merged_pairs(recurrence, draft.events, draft.contracted),
                form=Form.SEQUENTIAL,
                reason=finding.reason or "",
                culprit=finding.culprit,
                invariant=finding.invariant,
                memories=tuple(m.name for m in group.memories),
            )
        )
    return out


def _event_refs(event: Event) -> tuple[Ref, ...]:
    match event:
        case Probe(_, _, _, result) | Read(_, _, _, result):
            return (*event_operands(event), result)
        case Update(_, _, probe, _):
            return (*event_operands(event), probe)
        case _:
            return event_operands(event)


def _pruned(program: Program) -> Program:
    """Drop dead values and carry all references over."""
    also: list[Ref] = []
    for c in program.components:
        also += [r for e in c.events for r in _event_refs(e)]
        also += [r for pair in c.merged for r in pair]
        also += [r for r in (c.culprit, *(x.culprit for x in c.refused)) if r is not None]
    pruned = prune(program.recurrence, also)
    new = pruned.new

    def at(ref: Ref | None) -> Ref | None:
        return None if ref is None else new[ref]

    out = tuple(
        replace(
            c,
            events=tuple(moved(e, new) for e in c.events),
            merged=tuple((new[p], new[q]) for p, q in c.merged),
            culprit=at(c.culprit),
            refused=tuple(replace(r, culprit=at(r.culprit)) for r in c.refused),
        )
        for c in program.components
    )
    return replace(program, recurrence=pruned.recurrence, components=out)
