"""Takes `every` blocks out of a step: what they do at the start of a block, and the step between.

In: a recurrence without `Grad`.  Out: a `Split`: the step between two starts, in which a state that
only `every` blocks set is an input, and the value that each state has right after a start; or why
there is none.  It serves where all that the blocks do comes before the rest of the step looks at
what they set: then tokens between two starts meet one and the same value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from scandsl.analysis.rewrite import Copier, prune
from scandsl.analysis.show import show
from scandsl.ir.nodes import (
    Every,
    Input,
    Kind,
    Lag,
    LagState,
    Prev,
    Recurrence,
    Ref,
    Tensor,
    Where,
    operands,
)

LEAST_TOKENS, MOST_TOKENS = 4, 64
"""How many tokens between two starts are worth a chunk, and how many a chunk takes at most."""


@dataclass(frozen=True, slots=True)
class Split:
    """A step cut at its `every` blocks.

    `starts` are values of the whole step: what states are after a start, by name.  `tokens` is the
    length of chunks such that every start is that of a chunk.
    """

    between: Recurrence
    held: tuple[str, ...]
    starts: tuple[tuple[str, Ref], ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class Unsplit:
    """Why a step is not cut, and the value that is the reason."""

    reason: str
    culprit: Ref | None = None


def split_blocks(recurrence: Recurrence) -> Split | Unsplit:
    """The step between the starts of blocks, if what happens at a start comes first."""
    values = recurrence.values
    for ref, value in enumerate(values):
        if isinstance(value.op, Lag | LagState):
            return Unsplit(f"`{show(values, ref)}` remembers earlier tokens", ref)
    complex_ = complex_value(recurrence)
    if complex_ is not None:
        return Unsplit(*complex_)
    period = math.gcd(*(v.op.period for v in values if isinstance(v.op, Every)))
    tokens = max(d for d in range(1, min(period, MOST_TOKENS) + 1) if period % d == 0)
    if tokens < LEAST_TOKENS:
        return Unsplit(f"blocks start every {period} tokens: too few between two, or no divisor")
    masked = _masked(recurrence)
    if not masked:
        return Unsplit("no state is set by an `every` block")
    last = {name: ref for ref, name in masked.items()}
    states = {s.name: s for s in recurrence.states}
    held = tuple(s.name for s in recurrence.states if last.get(s.name) == s.next)
    roots = [o.value for o in recurrence.outputs]
    roots += [s.next for s in recurrence.states if s.name not in held]
    fault = _reads_before(recurrence, roots, last)
    if fault is not None:
        return fault
    if len(held) == len(states):
        return Unsplit("nothing changes between the starts of blocks")
    return Split(_between(recurrence, last, held), held, tuple(last.items()), tokens)


def complex_value(recurrence: Recurrence) -> tuple[str, Ref] | None:
    """What is complex in a step, states first, in words and as a value."""
    for state in recurrence.states:
        if state.kind is Kind.COMPLEX:
            return f"`{state.name}` is complex", state.next
    values = recurrence.values
    for ref, value in enumerate(values):
        if value.kind is Kind.COMPLEX:
            return f"`{show(values, ref)}` is complex", ref
    return None


def _masked(recurrence: Recurrence) -> dict[Ref, str]:
    """Values that are a state's old value but where a block starts, in order."""
    values = recurrence.values
    found: dict[Ref, str] = {}
    for ref, value in enumerate(values):
        op = value.op
        if not isinstance(op, Where) or not isinstance(values[op.c].op, Every):
            continue
        before = values[op.b].op
        if isinstance(before, Prev):
            found[ref] = before.state
        elif op.b in found:
            found[ref] = found[op.b]
    return found


def _reads_before(
    recurrence: Recurrence, roots: Iterable[Ref], last: dict[str, Ref]
) -> Unsplit | None:
    """Whether the rest of the step sees a state as it was before a block set it."""
    values = recurrence.values
    given = set(last.values())
    seen: set[Ref] = set()
    stack = list(roots)
    while stack:
        ref = stack.pop()
        if ref in seen or ref in given:
            continue
        seen.add(ref)
        stack += operands(values[ref].op)
    for ref in sorted(seen):
        op = values[ref].op
        if isinstance(op, Prev) and op.state in last:
            reason = f"`{op.state}` is read before the `every` block that sets it"
            return Unsplit(reason, last[op.state])
    return None


def _between(recurrence: Recurrence, last: dict[str, Ref], held: tuple[str, ...]) -> Recurrence:
    """The step of a token that starts no block; held states are inputs."""
    copier = Copier(recurrence)
    place = {ref: name for name, ref in last.items()}
    for ref in range(len(recurrence.values)):
        name = place.get(ref)
        if name is None:
            copier.copy(ref)
        else:
            copier.put(ref, Input(name) if name in held else Prev(name))
    whole = copier.finish()
    states = [s for s in whole.states if s.name not in held]
    inputs = [Tensor(s.name, s.dims, s.kind) for s in whole.states if s.name in held]
    return prune(
        replace(
            whole,
            states=tuple(states),
            inputs=(*whole.inputs, *inputs),
            arguments=(*whole.arguments, *held),
        ),
        (),
    ).recurrence
