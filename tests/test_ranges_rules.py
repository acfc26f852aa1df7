"""Interval rules, one by one: what is proved holds, and is no wider than it has to be."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch

from scandsl.analysis.decay import Logs
from scandsl.analysis.ranges import extended, intervals, nonnegative, positive
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Dim, Kind, Range, Recurrence, Ref, Tensor

INF, E, LOG2 = math.inf, math.e, math.log(2)


def r(text: str) -> Range:
    """`[a, b)` in the usual notation."""
    low, high = text[1:-1].split(",")
    names = {"log2": LOG2, "e": E, "half": 0.5, "sigmoid1": 1 / (1 + math.exp(-1))}
    ends = [names[x] if (x := y.strip()) in names else float(x) for y in (low, high)]
    return Range(ends[0], ends[1], text[0] == "(", text[-1] == ")")


def proved(build: Callable[..., Ref], *given: str) -> Range:
    """The range of what is built of inputs with these ranges."""
    b = Builder([Dim("K"), Dim("P", 3)])
    tensors = [Tensor(f"x{i}", ("K",), range=r(text)) for i, text in enumerate(given)]
    ref = build(b, *(b.input(t.name, t.dims) for t in tensors))
    recurrence = Recurrence(
        "s", "", tuple(b.dims), tuple(tensors), (), (), (), (), tuple(b.values), ()
    )
    return intervals(recurrence)[ref]


def close(found: Range, expected: Range) -> None:
    assert (found.low_open, found.high_open) == (expected.low_open, expected.high_open), found
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high)), found


UNARY = [
    ("exp", "[-inf, 0]", "[0, 1]"), ("exp", "(-inf, 0]", "(0, 1]"), ("exp", "[-800, 1]", "(0, e]"),
    ("exp", "[0, 800]", "[1, inf]"), ("exp", "[0, 699)", f"[1, {math.exp(699)})"),
    ("expm1", "[-inf, 0]", "[-1, 0]"), ("expm1", "(0, 1)", f"(0, {E - 1})"),
    ("sigmoid", "[-inf, 0]", "[0, half]"), ("sigmoid", "(-inf, inf)", "(0, 1)"),
    ("sigmoid", "[-800, 1]", "(0, sigmoid1]"), ("sigmoid", "[0, inf]", "[half, 1]"),
    ("sigmoid", "[-699, 0]", f"[{math.exp(-699)}, half]"),
    ("softplus", "[-inf, 0]", "[0, log2]"), ("softplus", "[-800, 0)", "(0, log2)"),
    ("softplus", "[0, 1000]", "[log2, 1000]"), ("softplus", "[690, 701]", "[690, 701]"),
    ("logsigmoid", "[-1000, 0]", f"[-1000, {-LOG2}]"), ("logsigmoid", "[0, inf]", f"[{-LOG2}, 0]"),
    ("tanh", "[-inf, inf]", "[-1, 1]"), ("tanh", "(-inf, 0]", "(-1, 0]"),
    ("erf", "[0, inf)", "[0, 1)"), ("relu", "[-1, 2]", "[0, 2]"), ("relu", "(-1, 2)", "[0, 2]"),
    ("relu", "[-2, -1]", "[0, 0]"), ("elu", "[-inf, 2]", "[-1, 2]"), ("elu", "[1, 2]", "[1, 2]"),
    ("elu", "[-1, 0]", f"[{math.exp(-1) - 1}, 0]"), ("log", "[0, 1]", "[-inf, 0]"),
    ("abs", "[-3, -0.5)", "(0.5, 3]"), ("abs", "(-3, 0]", "[0, 3)"), ("abs", "[-3, 0.5]", "[0, 3]"),
    ("log", "(0, e)", "(-inf, 1)"), ("log", "[-1, e]", "[-inf, 1]"), ("log", "[1, e]", "[0, 1]"),
    ("log1p", "[-1, 0]", "[-inf, 0]"), ("log1p", "[0, 1]", "[0, log2]"),
    ("log1p", "[-2, 0]", "[-inf, 0]"), ("sqrt", "[4, 9)", "[2, 3)"), ("sqrt", "[-1, 4]", "[0, 2]"),
    ("sqrt", "(0, 1]", "(0, 1]"), ("floor", "[0.5, 1.5]", "[0, 1]"),
    ("floor", "(0.5, inf)", "[0, inf]"), ("log", "(-1, 1]", "[-inf, 0]"),
    ("sqrt", "(-1, 1]", "[0, 1]"), ("log1p", "(-2, 0]", "[-inf, 0]"),
    ("log1p", "(-1, 0]", "(-inf, 0]"), ("neg", "[-1, 2)", "(-2, 1]"), ("neg", "(0, 1]", "[-1, 0)"),
    ("abs", "[-2, 1]", "[0, 2]"), ("abs", "(-2, 1]", "[0, 2)"), ("abs", "[-2, -1)", "(1, 2]"),
    ("abs", "(1, 2]", "(1, 2]"), ("abs", "[-1, 1)", "[0, 1]"), ("abs", "[0, 2]", "[0, 2]"),
    ("abs", "(-2, 0]", "[0, 2)"), ("sign", "[-2, -1]", "[-1, 0]"), ("sign", "[0, 2]", "[0, 1]"),
    ("sign", "[-1, 1]", "[-1, 1]"), ("sign", "[-1, 0]", "[-1, 0]"), ("sign", "[1, 2]", "[0, 1]"),
    ("sin", "[0, 1]", "[-1, 1]"), ("cos", "[0, 1]", "[-1, 1]"), ("silu", "[0, 2)", "[0, 2)"),
    ("silu", "[-1, 2]", "[-0.2785, 2]"), ("gelu", "[-3, -1]", "[-0.2785, 0]"),
    ("rsqrt", "[1, 4]", "(0, inf]"), ("rsqrt", "[1, inf]", "[0, inf]"),
    ("rsqrt", "[1, inf)", "(0, inf]"),
]  # fmt: skip
BINARY = [
    ("add", "[0, 1]", "(2, 3]", "(2, 4]"), ("add", "(0, 1)", "[2, 3]", "(2, 4)"),
    ("add", "[-inf, 0]", "[0, inf]", "[-inf, inf]"), ("sub", "[0, 1]", "[2, 5)", "(-5, -1]"),
    ("sub", "[0, inf]", "[0, inf]", "[-inf, inf]"), ("mul", "[-1, 2]", "[3, 4)", "(-4, 8)"),
    ("mul", "[-1, 2]", "[-3, 1]", "[-6, 3]"), ("mul", "(0, 1]", "(0, 1]", "(0, 1]"),
    ("mul", "[0, 1]", "(0, 1]", "[0, 1]"), ("mul", "[0, 1]", "[0, inf]", "[0, inf]"),
    ("mul", "[0, 1]", "[1, inf)", "[0, inf)"), ("mul", "(0, 1)", "[-2, -1]", "(-2, 0)"),
    ("mul", "[-2, -1]", "[-2, -1)", "(1, 4]"), ("mul", "[0, 0]", "[-inf, inf]", "[0, 0]"),
    ("mul", "(0, 1]", "[0, 1]", "[0, 1]"), ("mul", "(1, 2]", "[1, 2)", "(1, 4)"),
    ("div", "[1, 4]", "[2, 4]", "[0.25, 2]"), ("div", "[1, 2]", "(0, 1]", "[1, inf]"),
    ("div", "[1, 1]", "[1, inf)", "(0, 1]"), ("div", "[1, 4]", "[-4, -2]", "[-2, -0.25]"),
    ("div", "[1, 4]", "(2, 4)", "(0.25, 2)"), ("div", "[1, 2]", "[0, 1]", "[-inf, inf]"),
    ("div", "[1, 2]", "[-1, 1]", "[-inf, inf]"), ("max", "[0, 2]", "[1, 3)", "[1, 3)"),
    ("max", "(0, 2]", "[0, 2)", "(0, 2]"), ("max", "[0, 1)", "[-5, -4]", "[0, 1)"),
    ("min", "[0, 2]", "(1, 3]", "[0, 2]"), ("min", "(0, 2)", "[0, 2]", "[0, 2)"),
    ("min", "[0, 9]", "(-3, 1]", "(-3, 1]"), ("logaddexp", "[0, 1]", "[2, 3]", "[2, inf]"),
    ("logaddexp", "(0, 1]", "[0, 3]", "(0, inf]"), ("mod", "[-5, 5]", "[1, 3]", "[0, 3]"),
    ("mod", "[-5, 5]", "[0, 3]", "[-inf, inf]"), ("pow", "[-2, 3]", "[2, 2]", "[0, inf]"),
    ("pow", "[-2, 3]", "[3, 3]", "[-inf, inf]"), ("pow", "[-2, 3]", "[0, 0]", "[-inf, inf]"),
    ("pow", "[-2, 3]", "[-2, -2]", "[-inf, inf]"), ("pow", "[-2, 3]", "[2, 4]", "[-inf, inf]"),
    ("pow", "[0.5, 1]", "[0, 3]", "(0, 1]"), ("pow", "[1, 2]", "[0, 3]", "[1, inf]"),
    ("pow", "(0, 2]", "[-1, 3]", "(0, inf]"), ("pow", "[0, 2]", "[0, 3]", "[0, inf]"),
    ("pow", "[0.5, 1]", "[-1, 3]", "(0, inf]"), ("pow", "[0.5, 1]", "[1, inf]", "[0, 1]"),
    ("pow", "[0.5, 1]", "[1, inf)", "(0, 1]"), ("pow", "[1, 2]", "[-1, 3]", "(0, inf]"),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "x", "expected"), UNARY)
def test_functions_of_one(fn: str, x: str, expected: str) -> None:
    close(proved(lambda b, a: b.unary(fn, a), x), r(expected))


@pytest.mark.parametrize(("fn", "x", "y", "expected"), BINARY)
def test_functions_of_two(fn: str, x: str, y: str, expected: str) -> None:
    close(proved(lambda b, p, q: b.binary(fn, p, q), x, y), r(expected))


OTHER: list[tuple[str, Callable[..., Ref], list[str], str]] = [
    ("square", lambda b, x: b.square(x), ["[-2, 1)"], "[0, 4]"),
    ("square of what is open", lambda b, x: b.square(x), ["(-2, 1]"], "[0, 4)"),
    ("choice", lambda b, x, y: b.where(b.binary("gt", x, y), x, y), ["[0, 1)", "(-2, 1]"],
     "(-2, 1]"),
    ("choice at a tie", lambda b, x, y: b.where(b.binary("gt", x, y), x, y), ["(0, 1)", "[0, 1)"],
     "[0, 1)"),
    ("sum", lambda b, x: b.sum(x, ("K",)), ["[0, 1]"], "[0, inf]"),
    ("sum of what is positive", lambda b, x: b.sum(x, ("K",)), ["(0, 1]"], "(0, inf]"),
    ("sum of what is negative", lambda b, x: b.sum(x, ("K",)), ["[-1, 0)"], "[-inf, 0)"),
    ("sum of any", lambda b, x: b.sum(x, ("K",)), ["[-1, 1]"], "[-inf, inf]"),
    ("sum from one on", lambda b, x: b.sum(x, ("K",)), ["[1, 2]"], "[1, inf]"),
    ("mean", lambda b, x: b.reduce("mean", x, ("K",)), ["[-1, 2)"], "[-1, 2)"),
    ("largest", lambda b, x: b.reduce("max", x, ("K",)), ["(-1, 2]"], "(-1, 2]"),
    ("log of a sum", lambda b, x: b.reduce("logsumexp", x, ("K",)), ["(0, 1]"], "(0, inf]"),
    ("products summed", lambda b, x, y: b.contract(x, y, ("K",)), ["[1, 2]", "[3, 4]"], "[3, inf]"),
    ("signed products summed", lambda b, x, y: b.contract(x, y, ("K",)), ["[-1, 2]", "[3, 4]"],
     "[-inf, inf]"),
    ("length", lambda b, x: b.contract(x, x, ("K",)), ["[-1, 2]"], "[0, inf]"),
    ("l2norm", lambda b, x: b.normalize("l2norm", x, ("K",), 1e-6), ["[-3, 3]"], "[-1, 1]"),
    ("softmax", lambda b, x: b.normalize("softmax", x, ("K",), 0.0), ["[-3, 3]"], "[0, 1]"),
    ("layernorm", lambda b, x: b.normalize("layernorm", x, ("K",), 1e-5), ["[-3, 3]"],
     "[-inf, inf]"),
    ("argmax", lambda b, x: b.reduce("argmax", x, ("K",)), ["[-3, 3]"], "[0, inf)"),
    ("insert", lambda b, x, y: b.insert(b.stack([x, x, x], "P"), "P", 1, y),
     ["[0, 1]", "(-1, 0]"], "(-1, 1]"),
    ("clamp", lambda b, x, y, z: b.clamp(x, y, z), ["[-9, 9]", "[-1, 0]", "[2, 3)"], "[-1, 3)"),
    ("stack", lambda b, x, y: b.stack([x, y, y], "P"), ["[0, 1]", "(-1, 0]"], "(-1, 1]"),
    ("number", lambda b, x: b.const(-2.5), ["[0, 1]"], "[-2.5, -2.5]"),
    ("position", lambda b, x: b.iota("K"), ["[0, 1]"], "[0, inf)"),
    ("mark", lambda b, x: b.binary("gt", x, x), ["[-3, 3]"], "[0, 1]"),
    ("from zero to a mark", lambda b, x: b.cast(b.binary("gt", x, x), Kind.REAL), ["[5, 6]"],
     "[0, 1]"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "given", "expected"), [x[1:] for x in OTHER],
                         ids=[x[0] for x in OTHER])  # fmt: skip
def test_other_operations(build: Callable[..., Ref], given: list[str], expected: str) -> None:
    close(proved(build, *given), r(expected))


def test_what_is_declared() -> None:
    b = Builder([Dim("K")])
    tensors = {t.name: t for t in (Tensor("u", ("K",), unit=True), Tensor("f", ("K",)))}
    refs = [b.input(n, ("K",)) for n in ("u", "f", "nowhere")]
    found = extended((), b.values, tensors)
    finite = Range(-INF, INF, low_open=True, high_open=True)
    assert [found[x] for x in refs] == [Range(-1.0, 1.0), finite, Range(-INF, INF)]


def test_signs() -> None:
    assert [positive(r(x)) for x in ("[1, 2]", "(0, 1]", "[0, 1]", "(-1, 1]")] == [1, 1, 0, 0]
    assert [nonnegative(r(x)) for x in ("[0, 1]", "(0, 1]", "(-1, 1]")] == [1, 1, 0]


# ---------------------------------------------------------------- drawn intervals

TORCH = {
    "exp": torch.exp, "expm1": torch.expm1, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus, "logsigmoid": torch.nn.functional.logsigmoid,
    "erf": torch.erf, "relu": torch.relu, "elu": torch.nn.functional.elu, "floor": torch.floor,
    "abs": torch.abs, "sign": torch.sign, "sin": torch.sin, "cos": torch.cos,
    "silu": torch.nn.functional.silu, "gelu": torch.nn.functional.gelu, "neg": torch.neg,
    "sqrt": torch.sqrt, "log": torch.log, "log1p": torch.log1p, "rsqrt": torch.rsqrt,
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "max": torch.maximum,
    "min": torch.minimum, "logaddexp": torch.logaddexp, "mod": torch.remainder, "pow": torch.pow,
}  # fmt: skip
ENDS = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0)


def _drawn(chance: random.Random) -> str:
    low, high = sorted(chance.sample(ENDS, 2))
    return f"{chance.choice('[(')}{low}, {high}{chance.choice('])')}"


def _inside(text: str) -> torch.Tensor:
    found = r(text)
    x = torch.linspace(0, 1, 41, dtype=torch.float64) * (found.high - found.low) + found.low
    return x[int(found.low_open) : 41 - int(found.high_open)]


@pytest.mark.parametrize("fn", TORCH)
def test_no_value_lies_outside(fn: str) -> None:
    """Of intervals with ends that are left out or not; NaN is not told about."""
    chance = random.Random(fn)
    for _ in range(40):
        two = fn in {x[0] for x in BINARY}
        given = [_drawn(chance) for _ in range(2 if two else 1)]
        build = (lambda b, p, q: b.binary(fn, p, q)) if two else (lambda b, p: b.unary(fn, p))
        found = proved(build, *given)
        values = TORCH[fn](*torch.meshgrid(*map(_inside, given), indexing="ij"))
        values = values[~values.isnan()]
        above = values > found.low if found.low_open else values >= found.low
        below = values < found.high if found.high_open else values <= found.high
        near = 1e-12  # the last bits of a function are not told about either
        above |= (values - found.low).abs() < near if not found.low_open else above
        below |= (values - found.high).abs() < near if not found.high_open else below
        assert above.all() and below.all(), (given, found)


# ---------------------------------------------------------------- logarithms


def logarithm(build: Callable[..., Ref], *given: str) -> tuple[Builder, Ref | None, Ref]:
    b = Builder([Dim("K"), Dim("P", 2)])
    tensors = {f"x{i}": Tensor(f"x{i}", ("K", "P"), range=r(t)) for i, t in enumerate(given)}
    ref = build(b, *(b.input(n, ("K", "P")) for n in tensors))
    return b, Logs(b, tensors).log(ref), ref


LOGS: list[tuple[str, Callable[..., Ref], list[str], str | None]] = [
    ("exp", lambda b, x: b.exp(x), ["[-inf, 0]"], "input"),
    ("sqrt", lambda b, x: b.unary("sqrt", x), ["(0, 1]"], "mul"),
    ("sqrt of zero", lambda b, x: b.unary("sqrt", x), ["[0, 1]"], None),
    ("rsqrt", lambda b, x: b.unary("rsqrt", x), ["[1, 2]"], "mul"),
    ("power", lambda b, x, y: b.binary("pow", x, y), ["(0, 1]", "[0, 3]"], "mul"),
    ("power of zero", lambda b, x, y: b.binary("pow", x, y), ["[0, 1]", "[0, 3]"], None),
    ("quotient", lambda b, x, y: b.div(x, y), ["(0, 1]", "[1, 2]"], "sub"),
    ("quotient of exps", lambda b, x, y: b.div(b.exp(x), b.exp(y)), ["[-inf, 0]", "(-inf, 0]"],
     "sub"),
    ("quotient by what may be zero", lambda b, x, y: b.div(b.exp(x), y), ["[-inf, 0]", "[0, 1]"],
     None),
    ("product", lambda b, x, y: b.mul(b.exp(x), b.unary("sigmoid", y)), ["[-inf, 0]", "[-3, 3]"],
     "add"),
    ("product with what may be zero", lambda b, x, y: b.mul(b.exp(x), y), ["[-inf, 0]", "[0, 1]"],
     None),
    ("one less a sigmoid", lambda b, x: b.sub(b.const(1), b.unary("sigmoid", x)), ["[-3, 3]"],
     "logsigmoid"),
    ("two less a sigmoid", lambda b, x: b.sub(b.const(2), b.unary("sigmoid", x)), ["[-3, 3]"],
     "log"),
    ("one over one and an exp",
     lambda b, x: b.div(b.const(1), b.add(b.const(1), b.exp(x))), ["[-3, 3]"], "logsigmoid"),
    ("the same turned",
     lambda b, x: b.div(b.const(1), b.add(b.exp(x), b.const(1))), ["[-3, 3]"], "logsigmoid"),
    ("one over one and a size",
     lambda b, x: b.div(b.const(1), b.add(b.const(1), b.unary("abs", x))), ["[-3, 3]"], "sub"),
    ("one over two and an exp",
     lambda b, x: b.div(b.const(1), b.add(b.const(2), b.exp(x))), ["[-3, 3]"], "sub"),
    ("two over one and an exp",
     lambda b, x: b.div(b.const(2), b.add(b.const(1), b.exp(x))), ["[-3, 3]"], "sub"),
    ("choice", lambda b, x, y: b.where(b.binary("gt", x, y), b.exp(x), b.const(0.5)),
     ["[-inf, 0]", "[0, 1]"], "where"),
    ("choice of what has none", lambda b, x, y: b.where(b.binary("gt", x, y), b.exp(x), y),
     ["[-inf, 0]", "[-1, 1]"], None),
    ("an entry", lambda b, x: b.select(b.exp(x), "P", 1), ["[-inf, 0]"], "select"),
    ("a mark", lambda b, x: b.cast(b.binary("gt", x, b.const(0)), Kind.REAL), ["[-1, 1]"], "where"),
    ("a number", lambda b, x: b.const(0.25), ["[-1, 1]"], "const"),
    ("zero", lambda b, x: b.const(0.0), ["[-1, 1]"], "const"),
    ("a negative number", lambda b, x: b.const(-0.25), ["[-1, 1]"], None),
    ("what may be negative", lambda b, x: b.mul(x, x), ["[-1, 1]"], None),
]  # fmt: skip


@pytest.mark.parametrize(("build", "given", "kind"), [x[1:] for x in LOGS],
                         ids=[x[0] for x in LOGS])  # fmt: skip
def test_logarithms(build: Callable[..., Ref], given: list[str], kind: str | None) -> None:
    """Which operation a logarithm ends in, and that its exponential is the value."""
    from tests.evaluate import Evaluator

    b, found, ref = logarithm(build, *given)
    assert (found is None) == (kind is None)
    if found is None:
        return
    op = b.values[found].op
    assert getattr(op, "fn", type(op).__name__.lower()) == kind
    generator = torch.Generator().manual_seed(2)
    leaves = {}
    for i, text in enumerate(given):
        ends = r(text)
        low, high = max(ends.low, -5.0), ends.high
        share = torch.rand(6, 2, generator=generator, dtype=torch.float64)
        leaves[f"x{i}"] = low + (high - low) * (0.01 + 0.98 * share)
        if ends.low == -INF and not ends.low_open:
            leaves[f"x{i}"][3] = -INF
    sizes = {"K": 6, "P": 2}
    layouts = {n: ("K", "P") for n in leaves}
    run = Evaluator(b.values, sizes, leaves, torch.tensor(True), layouts)
    torch.testing.assert_close(run(found).exp(), run(ref), rtol=1e-12, atol=1e-300)
