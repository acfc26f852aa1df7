"""What looks at a state: outputs, and locals that later expressions take up."""

from __future__ import annotations

from functools import partial

from tests.fuzz.expressions import Expressions

LATE = (
    "{y}", "{y} * {n}", "{y} / max(abs({n}), 1)", "tanh({y})", "gelu({y}) + {e}",
    "sigmoid({n}) * {y}",
    "where({c}, {y}, {e})", "{y} / ({n} ** 2 + 1)", "{e} - {y}", "{y} > 0.1", "exp(-abs({y}))",
    "{y} ** 2",
)  # fmt: skip


def read(x: Expressions, state: str, dims: tuple[str, ...]) -> None:
    """An output of a state, or a local for what comes after it."""
    text, left = seen(x, state, dims)
    if x.source.chance(25):
        text = late(x, text, left)
        if text.endswith("> 0.1"):
            x.scope.output(left, text)
            return
    if x.source.chance(75):
        x.scope.output(left, text)
        return
    name = x.scope.local(left, text)
    x.scope.output(left, late(x, name, left))


def late(x: Expressions, y: str, dims: frozenset[str]) -> str:
    """A map of what was read."""
    text = x.source.pick(LATE)
    made = {"n": partial(x.real, frozenset(), 1), "e": partial(x.real, dims, 1)}
    made["c"] = partial(x.condition, dims)
    used = {key: make() for key, make in made.items() if f"{{{key}}}" in text}
    return text.format(y=y, **used)


def seen(x: Expressions, state: str, dims: tuple[str, ...]) -> tuple[str, frozenset[str]]:
    """A view of a state, with its dimensions."""
    every = frozenset(dims)
    if not dims:
        return state, every
    kind = x.source.number(0, 11)
    dim = dims[0] if x.source.chance(75) else x.source.pick(dims)
    if kind <= 6:
        return f"({x.real(frozenset({dim}), 1)} @ {state})", every - {dim}
    if kind == 7:
        name = x.source.pick(["sum", "mean", "max", "logsumexp", "argmax"])
        return f"{name}[{dim}]({state})", every - {dim}
    if kind == 8 and len(dims) > 1:
        return f"({x.real(every, 1)} @ {state})", frozenset()
    if kind == 9:
        name = x.source.pick(["softmax", "layernorm", "rmsnorm", "l2norm"])
        constant = "" if name == "softmax" else ", 0.1"  # a state begins at zero
        return f"{name}[{dim}]({state}{constant})", every
    if kind == 10 and x.scope.lags:
        return f"lag({state}, {x.source.number(1, 3)})", every
    if kind == 10:
        return f"tanh({state} + {x.real(every, 1)})", every
    return state, every
