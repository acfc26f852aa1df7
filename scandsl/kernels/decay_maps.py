"""How the decays of states that move entry by entry add up over a stretch of time, token by token.

In: a program whose steps only decay, add to and read states, and the maps that a slice of time has
(`scandsl.kernels.state_map`).  Out: a recurrence without outputs that carries the maps as states
behind its own: each is multiplied by what its state is multiplied by.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from scandsl.analysis.program import Decay, Event, Program, Read, Write
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Prev, Recurrence, Ref, State, memories
from scandsl.kernels.state_map import StateMap


def only_decays(program: Program) -> bool:
    """Whether nothing but decays multiplies the states, and nothing else is carried."""
    events = [e for c in program.components for e in c.events]
    whole = all(c.events and not c.memories for c in program.components)
    plain = all(isinstance(e, Decay | Write | Read) for e in events)
    return whole and plain and not memories(program.recurrence)


def with_maps(program: Program, maps: Sequence[StateMap]) -> Recurrence:
    """The recurrence that carries the maps too."""
    old = program.recurrence
    b = Builder(old.dims, old.values)
    taken = {*old.arguments, *(s.name for s in old.states), *(s.name for s in old.scalars)}
    events = {s: c.events for c in program.components for s in c.states}
    states = list(old.states)
    for state, found in zip(old.states, maps, strict=True):
        if found.name is None:
            continue
        name = _fresh(f"map_{state.name}", taken)
        one = b.const(1.0, state.kind)
        moved = b.emit(Prev(name), found.dims, state.kind)
        for factor in _factors(b, events[state.name]):
            moved = b.mul(b.cast(factor, state.kind), moved)
        end = b.expand(moved, found.dims)
        states.append(State(name, found.dims, state.kind, b.expand(one, found.dims), end))
    return replace(old, values=tuple(b.values), states=tuple(states), outputs=())


def _fresh(wish: str, taken: set[str]) -> str:
    while wish in taken:
        wish += "_"
    taken.add(wish)
    return wish


def _factors(b: Builder, events: Sequence[Event]) -> Iterable[Ref]:
    for event in events:
        if isinstance(event, Decay):
            yield event.factor
            if event.angle is not None:
                yield b.exp(b.make_complex(b.const(0.0), event.angle))
