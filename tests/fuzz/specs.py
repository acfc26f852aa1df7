"""Whole specs: some steps, in front of, behind and beside each other, with maps between them."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.expressions import Expressions
from tests.fuzz.scope import Scope
from tests.fuzz.source import Source
from tests.fuzz.steps import STEPS

CLASSES = tuple(STEPS)
NO_STATE = "no state"
RARE = ("dense matrix per token", "vectors along both dimensions", NO_STATE)
"""What is drawn for these often turns out to be of another class: they get a second turn."""
TURNS = (*CLASSES, *RARE)
"""The class that the first step of a spec is meant to have, in the order of their numbers."""


def draw_spec(source: Source, first: str) -> str:
    """The text of a scan that holds a step meant to have the class `first`."""
    dims = ("K", "V", "M")[: source.pick([2, 2, 2, 1, 3])]
    scope = Scope(source, dims, lags=first == "window of earlier tokens" or source.chance(15))
    scope.taken |= {"t", "K", "V", "M", "R", "W"}
    x = Expressions(scope)
    if source.chance(15):
        scope.hide(dims[:1], source.pick([f"l2norm[{dims[0]}]({{}})", "silu({})", "0.5 * {}"]))
    if source.chance(15):
        free = frozenset(source.some(dims))
        scope.local(free, x.real(free, 2))
    for name in _classes(source, first):
        if scope.states and source.chance(12):
            _every(source, x)
        STEPS[name](x)
    return scope.text()


def _classes(source: Source, first: str) -> list[str]:
    """Mostly one class; others before or after it."""
    if first == NO_STATE and source.chance(50):
        return [first]
    more = [source.pick(CLASSES) for _ in range(source.pick([0, 0, 0, 1, 1, 2]))]
    return source.shuffled([first, *more])


def _every(source: Source, x: Expressions) -> None:
    """A block that changes a state which is there already."""
    name = source.pick(x.scope.states).split("[")[0].split(" ")[0].split(":")[0]
    period = source.pick([8, 3, 16, 5])
    x.scope.lines += [f"every {period}:", f"    {name} {source.pick(['*= 0.5', '= 0', '*= -0.3'])}"]


@st.composite
def specs(draw: st.DrawFn, first: str) -> str:
    """A well-typed spec that holds a step meant to have the class `first`."""
    return draw_spec(Source(draw), first)
