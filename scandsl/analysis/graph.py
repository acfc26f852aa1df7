"""Which states feed which: the dependency graph of a recurrence and its strongly connected parts.

In: a `Recurrence`.  Out: for every value the carried things it looks at (as bit masks), and the
components of the graph in topological order.  Knows nothing of what the operations compute.

A node of the graph is a declared state or a memory (what a lag remembers).  An edge `a → b` says
that the new value of `a` looks at the old value of `b`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scandsl.ir.nodes import Lag, LagState, Memory, Prev, Recurrence, Ref, memories, operands


@dataclass(frozen=True, slots=True)
class Group:
    """One strongly connected component: nodes in order of declaration.

    `recurrent` is false for a state whose new value does not look at any state of its own group.
    """

    states: tuple[str, ...]
    memories: tuple[Memory, ...]
    mask: int
    recurrent: bool


@dataclass(frozen=True, slots=True)
class Graph:
    """`looks[v]`: mask of the nodes that value `v` reads within the step; bit order is `names`."""

    names: tuple[str, ...]
    looks: tuple[int, ...]
    feeds: tuple[int, ...]
    groups: tuple[Group, ...]


def dependency_graph(recurrence: Recurrence, together: Sequence[Sequence[str]] = ()) -> Graph:
    """The dependency graph, its groups in topological order (what feeds comes first).

    States named `together` are in one group, with all that lies between them.
    """
    remembered = memories(recurrence)
    names = tuple(s.name for s in recurrence.states) + tuple(m.name for m in remembered)
    looks = _looks(recurrence, remembered)
    feeds = tuple(looks[s.next] for s in recurrence.states) + tuple(
        _memory_feeds(recurrence, looks, memory) for memory in remembered
    )
    groups: list[Group] = []
    for part in strongly_connected(tied(feeds, names, together)):
        mask = sum(1 << node for node in part)
        recurrent = len(part) > 1 or bool(feeds[part[0]] & mask)
        count = len(recurrence.states)
        states = tuple(names[node] for node in part if node < count)
        inside = tuple(remembered[node - count] for node in part if node >= count)
        if states or recurrent:
            groups.append(Group(states, inside, mask, recurrent))
    return Graph(names, looks, feeds, tuple(groups))


def tied(
    feeds: tuple[int, ...], names: Sequence[str], together: Sequence[Sequence[str]]
) -> tuple[int, ...]:
    """The edges, and some more between states that are to be in one part."""
    bit = {name: 1 << i for i, name in enumerate(names)}
    masks = {n: sum(bit[other] for other in group) for group in together for n in group}
    return tuple(mask | masks.get(name, 0) for mask, name in zip(feeds, names, strict=True))


def _looks(recurrence: Recurrence, remembered: tuple[Memory, ...]) -> tuple[int, ...]:
    count = len(recurrence.states)
    state_bit = {s.name: 1 << i for i, s in enumerate(recurrence.states)}
    memory_bit: dict[tuple[Ref | None, str | None], int] = {
        (m.value, m.state): 1 << (count + i) for i, m in enumerate(remembered)
    }
    looks: list[int] = []
    for value in recurrence.values:
        match value.op:
            case Prev(state):
                mask = state_bit[state]
            case Lag(x, _):
                mask = memory_bit[x, None]
            case LagState(state, _):
                mask = memory_bit[None, state]
            case op:
                mask = 0
                for ref in operands(op):
                    mask |= looks[ref]
        looks.append(mask)
    return tuple(looks)


def _memory_feeds(recurrence: Recurrence, looks: tuple[int, ...], memory: Memory) -> int:
    if memory.value is not None:
        return looks[memory.value]
    for index, state in enumerate(recurrence.states):
        if state.name == memory.state:
            return looks[state.next] | 1 << index
    raise AssertionError(memory)


def strongly_connected(feeds: tuple[int, ...]) -> list[list[int]]:
    """Tarjan's algorithm on masks of successors; parts come out with what they look at first.

    Deterministic: nodes and successors are visited in order of their number.
    """
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    parts: list[list[int]] = []

    def visit(node: int) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in range(len(feeds)):
            if not feeds[node] >> other & 1:
                continue
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            cut = stack.index(node)
            parts.append(sorted(stack[cut:]))
            del stack[cut:]

    for node in range(len(feeds)):
        if node not in index:
            visit(node)
    return parts


def reaching(recurrence: Recurrence, roots: tuple[Ref, ...]) -> list[bool]:
    """For every value, whether one of `roots` is computed from it within the step."""
    out = [False] * len(recurrence.values)
    for root in roots:
        out[root] = True
    for ref in range(len(out) - 1, -1, -1):
        op = recurrence.values[ref].op
        if out[ref] and not isinstance(op, Lag):
            for operand in operands(op):
                out[operand] = True
    return out
