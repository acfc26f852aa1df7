"""Where programs are cut: against all ways to cut small graphs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest

from scandsl.analysis.cut import NEVER, cheapest

Graph = dict[int, list[int]]


def separates(uses: Graph, cut: Sequence[int], sources: set[int], ends: set[int]) -> bool:
    """Whether no end is reached from a source without a value of the cut."""
    reached: set[int] = set()
    for node in sorted(uses):  # what a node is made of comes before it
        if node not in cut and (node in sources or any(r in reached for r in uses[node])):
            reached.add(node)
    return reached.isdisjoint(ends)


def best(uses: Graph, sizes: dict[int, int], sources: set[int], ends: set[int]) -> int | None:
    costs = [
        sum(sizes[n] for n in cut)
        for count in range(len(uses) + 1)
        for cut in combinations(uses, count)
        if separates(uses, cut, sources, ends) and all(sizes[n] < NEVER for n in cut)
    ]
    return min(costs, default=None)


def drawn(seed: int) -> tuple[Graph, dict[int, int], set[int], set[int]]:
    chance = random.Random(seed)
    count = chance.randint(2, 9)
    uses = {n: sorted(chance.sample(range(n), min(n, chance.choice((1, 2, 2, 3))))) for n in
            range(count)}  # fmt: skip
    sizes = {n: chance.choice((1, 1, 2, 3, 5, NEVER)) for n in uses}
    sources = {n for n in uses if not uses[n] or chance.random() < 0.1}
    ends = {count - 1, *(n for n in uses if chance.random() < 0.2)}
    return uses, sizes, sources, ends


def check(uses: Graph, sizes: dict[int, int], sources: set[int], ends: set[int]) -> None:
    found = cheapest(uses, sizes, sources, ends)
    cost = best(uses, sizes, sources, ends)
    if cost is None:
        assert found is None
        return
    assert found is not None and separates(uses, found, sources, ends)
    assert sum(sizes[n] for n in found) == cost


@pytest.mark.parametrize("seed", range(150))
def test_no_cut_is_cheaper(seed: int) -> None:
    check(*drawn(seed))


def ladders() -> Iterator[Graph]:
    """Graphs in which a shortest path has to be taken back."""
    yield {0: [], 1: [0], 2: [0], 3: [1], 4: [1, 2], 5: [2, 4], 6: [3, 5]}
    yield {0: [], 1: [], 2: [0, 1], 3: [1], 4: [2], 5: [2, 3], 6: [4, 5], 7: [5]}


@pytest.mark.parametrize("uses", list(ladders()))
def test_flow_is_taken_back(uses: Graph) -> None:
    sources = {n for n in uses if not uses[n]}
    for seed in range(60):
        chance = random.Random(seed)
        sizes = {n: chance.choice((1, 2, 3, 7)) for n in uses}
        check(uses, sizes, sources, {max(uses)})


def test_the_nearest_to_the_users_are_handed_over() -> None:
    assert cheapest({0: [], 1: [0], 2: [1]}, {0: 1, 1: 1, 2: 1}, {0}, {2}) == (2,)
    assert cheapest({0: [], 1: [0], 2: [1]}, {0: 1, 1: 1, 2: 2}, {0}, {2}) == (1,)
    assert cheapest({0: []}, {0: NEVER}, {0}, {0}) is None
    assert cheapest({0: []}, {0: 4}, {0}, {0}) == (0,)
    assert cheapest({0: [], 1: []}, {0: 4, 1: 4}, {0}, {1}) == ()


def test_the_nearest_where_flow_is_taken_back() -> None:
    """Of two cuts of the same size; a shortest path took room that another path needs."""
    uses = {0: [], 1: [0], 2: [0, 1], 3: [1, 2], 4: [0, 1, 3], 5: [2, 4], 6: [4, 5]}
    sizes = {0: 1, 1: 1, 2: 5, 3: 2, 4: 1, 5: 1, 6: 1}
    assert cheapest(uses, sizes, {0, 1, 3, 4}, {5, 6}) == (5, 6)
    uses = {0: [], 1: [0], 2: [0, 1], 3: [0, 1], 4: [2], 5: [1, 4], 6: [2, 4], 7: [6], 8: [2, 5],
        9: [5]}  # fmt: skip
    sizes = {0: 2, 1: 3, 2: 2, 3: 2, 4: 1, 5: 1, 6: 5, 7: 1, 8: 1, 9: 1}
    assert cheapest(uses, sizes, {0, 5}, {4, 8, 9}) == (4, 8, 9)
