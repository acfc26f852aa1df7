"""States moved by decays, writes and rank-one updates, which stand in any order in the step."""

from __future__ import annotations

from functools import partial

from tests.fuzz.expressions import LOG_DECAY, NONE, Expressions
from tests.fuzz.reads import seen

TURNS = (
    "exp(complex({g}, {a}))", "exp(complex(0, {a}))", "complex(0, 1)", "{d} * exp(complex(0, {b}))",
    "exp(complex(0, {b}))", "complex(0.6, 0.8)",
)  # fmt: skip


def matrix(
    x: Expressions, decay: str = "none", updates: bool = False, turning: bool = False
) -> None:
    """A state with a contracted dimension; a normaliser beside it now and then."""
    dims = _shape(x)
    keys = frozenset(dims[:-1]) if len(dims) > 1 else frozenset(dims)
    values = frozenset(dims) - keys
    begin = "" if turning else x.source.say(["", "0.5", partial(x.scope.tensor, dims, param=True)])
    s = x.scope.state(dims, begin, ": complex" if turning else "")
    decay = (
        x.source.pick(["none", "constant", "scalar", "key", "value"]) if decay == "any" else decay
    )
    lines = _decays(x, s, decay, keys, values)
    if turning:
        lines += [f"{s} *= {_turn(x, keys)}" for _ in range(x.source.number(1, 2))]
    if updates and len(keys) == 1:
        lines += [_update(x, s, next(iter(keys)), values) for _ in range(x.source.number(1, 2))]
    lines += [_write(x, s, keys, values, turning) for _ in range(x.source.number(0, 1))]
    first = _write(x, s, keys, values, turning)
    if x.source.chance(10) and not turning:
        lines.append(f"{s} = where({x.condition(NONE)}, 0, {s})")
    lines = x.source.shuffled([*lines, first])
    if x.source.chance(25):
        x.scope.lines += lines[:1]
        lines = lines[1:]
        _output(x, s, dims, turning)
    x.scope.lines += lines
    if x.source.chance(15) and not updates and not turning and len(keys) == 1:
        _loop(x, s, keys, values)
    for _ in range(x.source.number(1, 2)):
        _output(x, s, dims, turning)
    if values and x.source.chance(20) and not turning:
        _normaliser(x, s, decay, keys, values)


def _shape(x: Expressions) -> tuple[str, ...]:
    """Mostly one contracted and one free dimension; also vectors, and two contracted ones."""
    found = x.scope.dims
    if len(found) >= 3 and x.source.chance(50):
        return found[:3]
    return found[:1] if x.source.chance(12) else found[:2]


def _output(x: Expressions, s: str, dims: tuple[str, ...], turning: bool) -> None:
    if len(dims) == 3 and x.source.chance(80):
        over = frozenset(dims[:-1])
        text, left = f"({x.real(over, 1)} @ {s})", frozenset(dims[-1:])
    elif turning:
        text, left = f"({x.real(frozenset(dims[:1]), 1)} @ {s})", frozenset(dims[1:])
    else:
        text, left = seen(x, s, dims)
    if turning:
        text = f"{x.source.pick(['re', 'im', 're'])}({text})"
    x.scope.output(left, text)


def _decays(
    x: Expressions, s: str, kind: str, keys: frozenset[str], values: frozenset[str]
) -> list[str]:
    """Statements that scale the state."""
    sides = {"scalar": [NONE], "key": [keys], "value": [values or keys], "both": [keys, values]}
    if kind == "constant":
        return [f"{s} *= {x.constant()}"]
    lines = [f"{s} *= {x.gate(side)}" for side in sides.get(kind, [])]
    if kind in ("key", "both") and x.source.chance(25):
        lines.append(f"{s} *= {x.gate(NONE)}")
    if kind == "both" and values and x.source.chance(30):
        a, b = (x.scope.tensor(x.scope.ordered(d), LOG_DECAY) for d in (keys, values))
        lines.append(f"{s} *= exp({a} + {b})")
    return lines


def _turn(x: Expressions, keys: frozenset[str]) -> str:
    made = {"g": partial(x.scope.tensor, (), LOG_DECAY), "b": partial(x.real, NONE, 0)}
    made |= {"a": partial(x.real, x.source.pick([NONE, keys]), 1), "d": partial(x.gate, NONE)}
    text = x.source.pick(TURNS)
    return text.format(**{key: make() for key, make in made.items() if f"{{{key}}}" in text})


def _write(
    x: Expressions, s: str, keys: frozenset[str], values: frozenset[str], turning: bool
) -> str:
    value = x.real(values, 2)
    if turning and x.source.chance(40):
        value = f"complex({value}, {x.real(values, 1)})"
    scale = x.source.say(["", "", lambda: f"{x.real(NONE, 1)} * ", "0.5 * "])
    return f"{s} += {scale}{x.real(keys, 2)} * {value}"


def _update(x: Expressions, s: str, key: str, values: frozenset[str]) -> str:
    k = x.unit(key)
    kind = x.source.number(0, 5)
    value = "" if kind == 3 else x.real(values, 1)
    if kind <= 2:
        strength = partial(x.scope.tensor, ())
        beta = x.source.say(
            [
                lambda: strength("in [0, 1]"), "0.5", lambda: strength("in [0, 2]"),
                lambda: f"sigmoid({x.real(NONE, 1)})",
            ]
        )  # fmt: skip
        return f"{s} += {beta} * {k} * ({value} - {k} @ {s})"
    if kind == 3:
        return f"{s} -= 0.5 * {x.unit(key)} * ({k} @ {s})"
    if kind == 4:
        scalar = f"sum[{', '.join(sorted(values))}]" if values else ""
        loss = f"{scalar}(({k} @ {s} - {value}) ** 2)"
        return f"{s} -= 0.3 * grad({loss}, {s})"
    return f"{s} += 0.4 * {x.unit(key)} * ({value} + {k} @ {s})"


def _loop(x: Expressions, s: str, keys: frozenset[str], values: frozenset[str]) -> None:
    """Writes or updates of every entry of a static dimension."""
    static = x.scope.static("R")
    k = x.scope.tensor((static, *x.scope.ordered(keys)), "in unit")
    v = x.scope.tensor((static, *x.scope.ordered(values)))
    what = f"{v}[i] - {k}[i] @ {s}" if x.source.chance(50) else f"{v}[i]"
    x.scope.lines += [f"for i in {static}:", f"    {s} += 0.4 * {k}[i] * ({what})"]


def _normaliser(
    x: Expressions, s: str, decay: str, keys: frozenset[str], values: frozenset[str]
) -> None:
    """One more column of the state."""
    z = x.scope.state(x.scope.ordered(keys))
    lines = _decays(x, z, decay if decay != "value" else "scalar", keys, NONE)
    lines.append(f"{z} += {x.real(keys, 1)}")
    x.scope.lines += x.source.shuffled(lines)
    q = x.real(keys, 1)
    x.scope.output(values, f"({q} @ {s}) / max(abs({q} @ {z}), 1)")
