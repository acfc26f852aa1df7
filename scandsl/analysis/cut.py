"""Where a program is cut in two: the fewest numbers per token that separate sources from users.

In: a graph of values with the size of each.  Out: the values to hand over, those nearest to their
users where there is a choice.  Knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

NEVER = 10**9
"""The size of a value that cannot be handed over."""

_FREE = 10**15  # capacity of an edge that is not to be cut


class _Network:
    """A flow network; edge `e ^ 1` is the reverse of edge `e`."""

    def __init__(self, nodes: int) -> None:
        self.out: list[list[int]] = [[] for _ in range(nodes)]
        self.to: list[int] = []
        self.room: list[int] = []

    def connect(self, a: int, b: int, capacity: int) -> None:
        """An edge from `a` to `b`."""
        for start, end, room in ((a, b, capacity), (b, a, 0)):
            self.out[start].append(len(self.to))
            self.to.append(end)
            self.room.append(room)

    def saturate(self, source: int, sink: int) -> int:
        """Send as much as can be, along shortest paths."""
        total = 0
        while True:
            path = self._path(source, sink)
            if path is None:
                return total
            flow = min(self.room[e] for e in path)
            total += flow
            for edge in path:
                self.room[edge] -= flow
                self.room[edge ^ 1] += flow

    def _path(self, source: int, sink: int) -> list[int] | None:
        via: dict[int, int] = {source: -1}
        queue = [source]
        for node in queue:
            for edge in self.out[node]:
                if self.room[edge] and self.to[edge] not in via:
                    via[self.to[edge]] = edge
                    queue.append(self.to[edge])
        if sink not in via:
            return None
        path = []
        node = sink
        while via[node] >= 0:
            path.append(via[node])
            node = self.to[via[node] ^ 1]
        return path

    def reaching(self, sink: int) -> set[int]:
        """The nodes from which more could be sent to the sink."""
        found = {sink}
        queue = [sink]
        for node in queue:
            for edge in self.out[node]:
                start = self.to[edge]
                if self.room[edge ^ 1] and start not in found:
                    found.add(start)
                    queue.append(start)
        return found


def cheapest(
    uses: Mapping[int, Sequence[int]],
    sizes: Mapping[int, int],
    sources: Iterable[int],
    ends: Iterable[int],
) -> tuple[int, ...] | None:
    """The nodes to cut between `sources` and `ends`; `None` if each way is barred by `NEVER`.

    `uses` lists, for every node, the nodes it is made of; sources and ends may be cut themselves.
    """
    order = sorted(uses)
    place = {node: 2 * i + 2 for i, node in enumerate(order)}  # its entrance; the exit is next
    net = _Network(2 * len(order) + 2)
    for node in order:
        net.connect(place[node], place[node] + 1, sizes[node])
        for made_of in uses[node]:
            net.connect(place[made_of] + 1, place[node], _FREE)
    for node in sorted(sources):
        net.connect(0, place[node], _FREE)
    for node in sorted(ends):
        net.connect(place[node] + 1, 1, _FREE)
    if net.saturate(0, 1) >= NEVER:
        return None
    beyond = net.reaching(1)
    return tuple(n for n in order if place[n] not in beyond and place[n] + 1 in beyond)
