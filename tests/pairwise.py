"""All-pairs sampling: few points of a grid that hold every pair of values of any two factors."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, TypeAlias

Point: TypeAlias = tuple[Any, ...]
Pair: TypeAlias = tuple[int, Any, int, Any]


def complete(factors: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    """The whole grid."""
    return product(*factors.values())


def pairs_of(point: Point) -> set[Pair]:
    """The pairs of values that a point holds."""
    numbered = list(enumerate(point))
    return {(i, x, j, y) for (i, x), (j, y) in combinations(numbered, 2)}


def pairwise(
    factors: Mapping[str, Sequence[Any]],
    allowed: Callable[[Point], bool] = lambda point: True,
    tries: int = 60,
) -> list[Point]:
    """Points that hold every pair of values which some allowed point holds; the same every time.

    Greedy: each point starts from a pair that is still missing and is the best of several fillings.
    """
    rng = random.Random(0)
    values = list(factors.values())
    missing = [
        (i, x, j, y)
        for (i, xs), (j, ys) in combinations(enumerate(values), 2)
        for x, y in product(xs, ys)
    ]
    rng.shuffle(missing)
    left = dict.fromkeys(missing)
    points = []
    while left:
        seed = next(iter(left))
        best, most = None, 0
        for _ in range(tries):
            point = _filled(seed, values, left, rng)
            gain = sum(p in left for p in pairs_of(point))
            if gain > most and allowed(point):
                best, most = point, gain
        if best is None:
            raise ValueError(f"no allowed point holds {seed}")
        points.append(best)
        for pair in pairs_of(best):
            left.pop(pair, None)
    return points


def _filled(
    seed: Pair, values: Sequence[Sequence[Any]], left: Mapping[Pair, None], rng: random.Random
) -> Point:
    """A point with the given pair; the other factors in random order, each by what it gains."""
    point: dict[int, Any] = {seed[0]: seed[1], seed[2]: seed[3]}
    rest = [i for i in range(len(values)) if i not in point]
    rng.shuffle(rest)
    for i in rest:
        known = list(point.items())

        def gain(x: Any, i: int = i, known: Sequence[tuple[int, Any]] = known) -> float:
            pairs = ((i, x, j, y) if i < j else (j, y, i, x) for j, y in known)
            return sum(p in left for p in pairs) + rng.random()

        point[i] = max(values[i], key=gain)
    return tuple(point[i] for i in range(len(values)))
