"""Steps of states, by the structure class that they are meant to have.

In: a scope with its expressions.  Out: declared states and statements.  What class a step really
has is the compiler's word; here it is only made likely, so that every class is met often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tests.fuzz.expressions import LOG_DECAY, NONE, Dims, Expressions
from tests.fuzz.matrices import matrix
from tests.fuzz.reads import read

Draw = Callable[[Expressions], None]


# ---------------------------------------------------------------- entry by entry


def shape(x: Expressions, least: int = 0) -> tuple[str, ...]:
    """Dimensions of a state."""
    dims = x.source.some(x.scope.dims[:2])
    return dims if len(dims) >= least else x.scope.dims[:least]


def start(x: Expressions, dims: tuple[str, ...]) -> str:
    """How a state begins."""
    return x.source.say(["", "", "0.5", "-1", lambda: x.scope.tensor(dims, param=True)])


def entrywise(x: Expressions) -> None:
    """A state whose entries move by themselves, under a decay of any of its dimensions."""
    dims = shape(x, 1)
    s = x.scope.state(dims, start(x, dims))
    decay = x.gate(frozenset(dims))
    for _ in range(x.source.number(0, 1)):
        x.scope.lines.append(f"{s} *= {x.gate(frozenset(x.source.some(dims)))}")
    x.scope.lines.append(f"{s} = {decay} * {s} + {x.real(frozenset(dims), 2)}")
    read(x, s, dims)


def shifted(x: Expressions) -> None:
    """Entries of a static dimension that hand on what they hold, or a state that is overwritten."""
    if x.source.chance(40):
        dims = shape(x)
        s = x.scope.state(dims, start(x, dims))
        read(x, s, dims)
        x.scope.lines.append(f"{s} = {x.real(frozenset(dims), 2)}")
        return
    static, more = x.scope.static("R"), shape(x)[:1]
    size = x.scope.statics[static]
    s = x.scope.state((static, *more))
    back = x.source.chance(30)
    order = range(size - 1) if back else range(size - 1, 0, -1)
    read(x, s, (static, *more))
    for i in order:
        scale = x.source.say(["", "0.7 * ", lambda: f"{x.gate(NONE)} * "])
        x.scope.lines.append(f"{s}[{i}] = {scale}{s}[{i + 1 if back else i - 1}]")
    x.scope.lines.append(f"{s}[{size - 1 if back else 0}] = {x.real(frozenset(more), 1)}")
    read(x, s, (static, *more))


def turning(x: Expressions) -> None:
    """A complex state that turns, entry by entry or a matrix."""
    if x.source.chance(50):
        matrix(x, turning=True)
        return
    dims = shape(x, 1)
    s = x.scope.state(dims, "", ": complex")
    part = frozenset(x.source.some(dims))
    learned = partial(x.scope.tensor, dims, param=True)
    decay = x.source.say(
        [
            lambda: f"exp(complex(-abs({x.leaf(part)}), {x.leaf(part)}))",
            lambda: f"complex(0.6 * {x.gate(part)}, 0.5)",
            lambda: f"{x.gate(part)} * exp(complex(0, {x.real(part, 1)}))",
            lambda: f"exp(complex(-exp({learned()}), {learned()}))",
        ]
    )
    value = partial(x.real, frozenset(dims), 1)
    y = x.source.say(
        [lambda: f"complex({value()}, {value()})", value, lambda: f"complex(0, {value()})"]
    )
    x.scope.lines.append(f"{s} = {decay} * {s} + {y}")
    text = x.source.pick([f"re({s})", f"im({s})", f"abs({s} + 2.5)", s, f"re(conj({s}) * {s})"])
    x.scope.output(frozenset(dims), text)


# ---------------------------------------------------------------- matrices that mix entries


def mixing(x: Expressions, matrix_text: str, scale: str) -> None:
    """A vector, or the columns of a matrix, under a square matrix."""
    dim = x.scope.dims[0]
    dims = (dim, *shape(x)[1:]) if x.source.chance(30) else (dim,)
    dims = tuple(dict.fromkeys(dims))
    s = x.scope.state(dims, start(x, dims))
    renamed = ", ".join(f"{d}'" if d == dim else d for d in dims)
    drive = x.real(frozenset(dims), 2)
    x.scope.lines.append(
        f"{s} = {scale.format(s=s, image=f'({matrix_text} @ {s}[{renamed}])')} + {drive}"
    )
    read(x, s, dims)


def constant_matrix(x: Expressions) -> None:
    """A matrix that never changes; or lags that feed themselves."""
    if x.scope.lags and x.source.chance(30):
        width = x.scope.static("W")
        taps = x.scope.tensor((width,), "in [-0.3, 0.3]", param=True)
        dims = frozenset(shape(x)[:1])
        name = x.scope.fresh("e")
        drive = x.real(dims, 1)
        x.scope.lines.append(f"{name} = {taps} @ window[{width}](lag({name}, 1)) + {drive}")
        x.scope.output(dims, name)
        return
    a = x.scope.tensor((x.scope.dims[0], f"{x.scope.dims[0]}'"), param=True)
    mixing(x, a, x.source.pick(["0.8 * {image}", "0.5 * {s} - 0.4 * {image}", "{image}"]))


def scaled_matrix(x: Expressions) -> None:
    """The same with a scale that changes in time."""
    a = x.scope.tensor((x.scope.dims[0], f"{x.scope.dims[0]}'"), param=True)
    scale = x.source.pick(["{s} - {image} / (t + 1)", "{g} * {image}", "{g} * {s} - 0.3 * {image}"])
    mixing(x, a, scale.replace("{g}", x.gate(NONE)) if "{g}" in scale else scale)


def varying_matrix(x: Expressions) -> None:
    """A matrix of its own for every token."""
    dim = x.scope.dims[0]
    if len(x.scope.dims) > 1 and x.source.chance(30):
        other = x.scope.dims[1]
        s = x.scope.state((dim, other))
        strength = x.gate(frozenset({other}))
        key = x.unit(dim)
        x.scope.lines.append(
            f"{s} -= {strength} * {key} * ({key} @ {s} - {x.leaf(frozenset({other}))})"
        )
        read(x, s, (dim, other))
        return
    a = x.scope.tensor((dim, f"{dim}'"))
    text = x.source.pick([f"(0.6 * {a})", f"softmax[{dim}']({a})", f"tanh({a})"])
    mixing(x, text, x.source.pick(["{image}", "0.4 * {s} + 0.5 * {image}"]))


# ---------------------------------------------------------------- several states


def joint(x: Expressions) -> None:
    """Matrix states that feed each other by one number per token, and by what is read of them."""
    key, value = x.scope.dims[:2]
    names = [x.scope.state((key, value), start(x, (key, value))) for _ in range(2)]
    if x.source.chance(25):
        names.append(x.scope.state((key, value)))
    for i, name in enumerate(names):
        terms = [f"0.4 * {x.gate(NONE)} * {names[i - 1]}"]
        if x.source.chance(75):
            terms.append(
                f"{x.source.say(['0.5', '-0.4', lambda: f'0.6 * {x.gate(NONE)}'])} * {name}"
            )
        v = x.real(frozenset({value}), 1)
        if x.source.chance(60):
            v = f"0.5 * ({v} - {x.unit(key)} @ {x.source.pick(names)})"
        terms.append(f"{x.unit(key)} * {v}")
        x.scope.lines.append(f"{name} = {' + '.join(x.source.shuffled(terms))}")
    for name in names[:2]:
        left, other = x.source.pick([(value, key), (value, key), (key, value)])
        x.scope.output({left}, f"({x.real(frozenset({other}), 1)} @ {name})")


def coupled(x: Expressions) -> None:
    """States that feed each other, linearly."""
    if len(x.scope.dims) > 1 and x.source.chance(40):
        joint(x)
        return
    dims = shape(x)
    count = x.source.number(2, 3)
    names = [x.scope.state(dims, start(x, dims)) for _ in range(count)]
    for i, name in enumerate(names):
        terms = [f"0.3 * {x.gate(frozenset(x.source.some(dims)))} * {names[i - 1]}"]
        if x.source.chance(70):
            terms.append(f"{x.source.pick(['0.5', '-0.4'])} * {name}")
        terms.append(x.real(frozenset(dims), 1))
        x.scope.lines.append(f"{name} = {' + '.join(x.source.shuffled(terms))}")
    if len(dims) == 2 and x.source.chance(40):
        key = x.unit(dims[0])
        x.scope.lines.append(f"{names[0]} -= 0.3 * {key} * ({key} @ {names[1]})")
    for name in names[:2]:
        read(x, name, dims)


# ---------------------------------------------------------------- other algebras


def folded(x: Expressions, soft: bool) -> None:
    """A running maximum, minimum or log-sum-exp; now and then it gates a matrix state."""
    dims = shape(x)[:1]
    low = "logaddexp" if soft else x.source.pick(["max", "max", "min"])
    begin = "inf" if low == "min" else "-inf"
    learned = partial(x.scope.tensor, dims, param=True)
    m = x.scope.state(dims, x.source.say([begin, "0", learned]))
    part = frozenset(dims)
    decays = partial(x.scope.tensor, dims, LOG_DECAY)
    shift = x.source.say(
        [lambda: f" + {decays()}", "", " - 0.1", lambda: f" + logsigmoid({x.leaf(part)})"]
    )
    term = x.real(part, 1)
    before = x.scope.fresh("e")
    x.scope.lines.append(f"{before} = {m}")
    new = f"{low}({m}{shift}, {term})"
    if x.source.chance(20):
        new = f"where({x.condition(part)}, {x.leaf(part)}, {new})"
    x.scope.lines.append(f"{m} = {new}")
    if x.source.chance(60):
        x.scope.output(part, x.source.say([m, f"tanh({m})", lambda: f"{m} * {x.leaf(part)}"]))
        return
    if low == "min":
        x.scope.output(part, f"exp(min({m}, 1))")
        return
    s = x.scope.state(dims)
    x.scope.lines.append(f"{s} = exp({before}{shift} - max({m}, {before}{shift})) * {s}"
                         f" + exp({term} - {m}) * {x.leaf(part)}")  # fmt: skip
    read(x, s, dims)


# ---------------------------------------------------------------- mini-batches


def blockwise(x: Expressions) -> None:
    """States that are set where blocks start, and others that move in between."""
    k, v = x.scope.dims[0], x.scope.dims[min(1, len(x.scope.dims) - 1)]
    period = x.source.pick([4, 8, 16, 3, 12, 24])
    dims = (k, v) if k != v else (k,)
    both = frozenset(dims)
    w, f = x.scope.state(dims, start(x, dims)), x.scope.state(dims, start(x, dims))
    held = x.source.pick([w, f"0.5 * ({w} + {f})", f"tanh({w})", f"stopgrad({w})", f"0.9 * {w}"])
    every = [f"every {period}:", f"    {f} = {held}"]
    if x.source.chance(25):
        every.append(f"    {w} = 0.5 * {w}")
    rate = x.scope.tensor((), "in [0, 0.3]")
    if len(dims) == 2:
        key = x.unit(k)
        value = x.leaf(frozenset({v}))
        loss = x.source.pick(
            ["({i} - {v}) ** 2", "(layernorm[V]({i}) - {v}) ** 2", "(tanh({i}) - {v}) ** 2"]
        ).replace("[V]", f"[{v}]")
        loss = loss.format(i=f"{key} @ {f}", v=value)
        step = f"{w} -= {rate} * grad(sum[{v}]({loss}), {f})"
    else:
        step = f"{w} = {w} - {rate} * {f} + {x.real(both, 1)}"
    moves = [f"{w} *= {x.gate(frozenset(x.source.some(dims)))}"] if x.source.chance(50) else []
    parts = x.source.shuffled([every, [*moves, step]])
    x.scope.lines += [line for part in parts for line in part]
    read(x, w, dims)
    if x.source.chance(50):
        read(x, f, dims)


# ---------------------------------------------------------------- nonlinear


def nonlinear(x: Expressions) -> None:
    """Steps that are not affine in any way that is known."""
    k = x.scope.dims[0]
    kind = x.source.number(0, 6)
    if kind >= 4 and len(x.scope.dims) > 1:
        nonlinear_matrix(x, kind)
        return
    dims: tuple[str, ...] = (k,)
    s = x.scope.state(dims, start(x, dims))
    drive = x.real(frozenset(dims), 1)

    def image() -> str:
        square = x.scope.tensor((k, f"{k}'"), param=True)
        return f"{square} @ {s}[{k}']"

    step = x.source.say(
        [
            lambda: f"{s} = tanh({image()} + {drive})",
            lambda: (
                f"{s} = mix({s}, tanh({image()} + {drive}), sigmoid({x.leaf(NONE)} + {image()}))"
            ),
            f"{s} = sin({s}) + {drive}",
            lambda: f"{s} = {x.gate(frozenset(dims))} * {s} + {drive} * sigmoid({s})",
            f"{s} = rmsnorm[{k}]({s} + {drive})",
            f"{s} = where({s} > 1, 0.5 * {s}, {s} + 0.3 * {drive})",
            f"{s} = {s} / (1 + abs({s})) + {drive}",
        ]
    )
    if "mix(" in step:
        x.scope.function("mix")
    x.scope.lines.append(step)
    read(x, s, dims)


def nonlinear_matrix(x: Expressions, kind: int) -> None:
    """Test-time training at the present state, orthogonalised steps, squashed matrices."""
    k, v = x.scope.dims[:2]
    s = x.scope.state((k, v), start(x, (k, v)))
    key, value = x.unit(k), x.leaf(frozenset({v}))
    if kind == 4:
        rate = x.scope.tensor((), "in [0, 0.3]")
        image = f"{key} @ {s}"
        losses = [f"(layernorm[{v}]({image}) - {value}) ** 2", f"tanh({image} - {value})"]
        loss = x.source.pick([*losses, f"softplus({image}) * {value}"])
        x.scope.lines.append(f"{s} -= {rate} * grad(sum[{v}]({loss}), {s})")
    elif kind == 5:
        x.scope.lines += [
            f"{s} = {x.gate(NONE)} * {s} + {key} * {value}",
            f"for i in {x.source.number(1, 2)}:",
            f"    {s} = 0.9 * {s} - 0.1 * tanh({s}) * (i + 1)",
        ]
    else:
        x.scope.lines.append(f"{s} = tanh({x.gate(NONE)} * {s} + {key} * {value})")
    read(x, s, (k, v))


def windowed(x: Expressions) -> None:
    """Lags and windows in front of a state, behind it, or alone."""
    dims = frozenset(shape(x))
    name = x.scope.local(dims, x._lagged(dims, 1))
    if x.source.chance(60):
        x.scope.output(dims, name)
    else:
        order = x.scope.ordered(dims)
        s = x.scope.state(order)
        x.scope.lines.append(f"{s} = {x.gate(NONE)} * {s} + {name}")
        read(x, s, order)


def pointwise(x: Expressions) -> None:
    """No state at all."""
    dims: Dims = frozenset(x.source.some(x.scope.dims))
    x.scope.output(dims, x.real(dims, 3))


STEPS: Mapping[str, Draw] = {
    "none (cumulative sum)": lambda x: matrix(x, decay="none"),
    "constant scalar": lambda x: matrix(x, decay="constant"),
    "time-varying scalar": lambda x: matrix(x, decay="scalar"),
    "vector along the contracted dimension": lambda x: matrix(x, decay="key"),
    "vector along the free dimension": lambda x: matrix(x, decay="value"),
    "vectors along both dimensions": lambda x: matrix(x, decay="both"),
    "decay plus low-rank updates": lambda x: matrix(x, decay="any", updates=True),
    "elementwise over the whole state": entrywise,
    "rotation (complex)": turning,
    "constant dense matrix": constant_matrix,
    "time-scaled constant matrix": scaled_matrix,
    "dense matrix per token": varying_matrix,
    "shift (nilpotent)": shifted,
    "block of several states": coupled,
    "affine in (max, +)": lambda x: folded(x, soft=False),
    "affine in (log-sum-exp)": lambda x: folded(x, soft=True),
    "constant within mini-batches": blockwise,
    "window of earlier tokens": windowed,
    "nonlinear": nonlinear,
    "no state": pointwise,
}
"""By the compiler's word for a class, a step that is likely to have it."""
