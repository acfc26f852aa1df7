"""Complex values by pairs of real ones, and by modulus and angle: against complex numbers."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import pytest
import torch

from scandsl.analysis.decay import Logs
from scandsl.analysis.turn import Polars
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Dim, Kind, Ref, Tensor
from scandsl.kernels.pairs import real_pairs
from scandsl.kernels.turns import Turns
from tests.evaluate import Evaluator

C = Kind.COMPLEX
DIMS = (Dim("K"), Dim("L", base="K"), Dim("R", 2), Dim("S", 3))
SIZES = {"K": 3, "L": 3, "R": 2, "S": 3}
REAL = {"a": ("K",), "b": ("K",), "c": (), "r": ("K", "R")}
COMPLEX = {"z": ("K",), "w": ("K",), "u": (), "m": ("K", "L"), "s": ("K", "R")}
Leaves = dict[str, Ref]


def leaves_of(b: Builder) -> Leaves:
    found = {n: b.input(n, dims) for n, dims in REAL.items()}
    return found | {n: b.input(n, dims, C) for n, dims in COMPLEX.items()}


def data() -> dict[str, torch.Tensor]:
    """Numbers in all quadrants, on both axes, of sizes far apart."""
    generator = torch.Generator().manual_seed(3)
    full = {n: [SIZES[d] for d in dims] for n, dims in {**REAL, **COMPLEX}.items()}
    out = {n: torch.randn(s, generator=generator, dtype=torch.float64) for n, s in full.items()}
    for name in COMPLEX:
        im = torch.randn(full[name], generator=generator, dtype=torch.float64)
        out[name] = torch.complex(out[name], im)
    return out


CORNERS = [1 + 0.3j, -1 + 0.3j, -1 - 0.3j, 1 - 0.3j, 0.3 + 1j, -0.3 + 1j, -0.3 - 1j, 0.3 - 1j,
    2, 2j, -2j, 1e-8 + 1e8j, 3e7 - 2e7j, 0.5 + 0.5j, 0.41 + 1j, 1 + 0.42j,
]  # fmt: skip
PAIRS: dict[str, Callable[[Builder, Leaves], Ref]] = {
    "add": lambda b, t: b.add(t["z"], t["w"]),
    "add a real": lambda b, t: b.add(t["z"], b.cast(t["a"], C)),
    "add to a real": lambda b, t: b.add(b.cast(t["a"], C), t["z"]),
    "sub": lambda b, t: b.sub(t["z"], t["w"]),
    "sub a real": lambda b, t: b.sub(t["z"], b.cast(t["a"], C)),
    "sub from a real": lambda b, t: b.sub(b.cast(t["a"], C), t["z"]),
    "mul": lambda b, t: b.mul(t["z"], t["w"]),
    "mul a real": lambda b, t: b.mul(t["z"], b.cast(t["a"], C)),
    "mul a number": lambda b, t: b.mul(t["u"], t["z"]),
    "two reals": lambda b, t: b.mul(b.cast(t["a"], C), b.cast(t["b"], C)),
    "div": lambda b, t: b.div(t["z"], t["w"]),
    "div by a real": lambda b, t: b.div(t["z"], b.cast(t["a"], C)),
    "div a real": lambda b, t: b.div(b.cast(t["a"], C), t["w"]),
    "neg": lambda b, t: b.neg(t["z"]),
    "conj": lambda b, t: b.unary("conj", t["z"]),
    "conj of a real": lambda b, t: b.unary("conj", b.cast(t["a"], C)),
    "re": lambda b, t: b.unary("re", t["z"]),
    "im": lambda b, t: b.unary("im", t["z"]),
    "im of a real": lambda b, t: b.unary("im", b.cast(t["a"], C)),
    "abs": lambda b, t: b.unary("abs", t["z"]),
    "made": lambda b, t: b.make_complex(t["a"], t["b"]),
    "made of a number": lambda b, t: b.make_complex(t["c"], t["b"]),
    "contract": lambda b, t: b.contract(t["z"], t["w"], ("K",)),
    "contract with a real": lambda b, t: b.contract(t["z"], b.cast(t["a"], C), ("K",)),
    "contract a matrix": lambda b, t: b.contract(t["m"], t["z"], ("K",)),
    "sum": lambda b, t: b.sum(t["m"], ("L",)),
    "mean": lambda b, t: b.reduce("mean", t["z"], ("K",)),
    "where": lambda b, t: b.where(b.binary("gt", t["a"], t["b"]), t["z"], t["w"]),
    "where a real": lambda b, t: b.where(b.binary("gt", t["a"], t["b"]), t["z"], b.cast(t["a"], C)),
    "where not a real": lambda b, t: b.where(
        b.binary("gt", t["a"], t["b"]), b.cast(t["a"], C), t["z"]
    ),
    "where two reals": lambda b, t: b.where(
        b.binary("gt", t["a"], t["b"]), b.cast(t["a"], C), b.cast(t["b"], C)
    ),
    "insert": lambda b, t: b.insert(t["s"], "R", 1, t["z"]),
    "insert a real": lambda b, t: b.insert(t["s"], "R", 0, b.cast(t["a"], C)),
    "insert into a real": lambda b, t: b.insert(b.cast(t["r"], C), "R", 1, t["z"]),
    "stack": lambda b, t: b.stack([t["z"], t["w"], t["z"]], "S"),
    "stack a real": lambda b, t: b.stack([t["z"], b.cast(t["a"], C), t["w"]], "S"),
    "stack reals": lambda b, t: b.stack([b.cast(t["a"], C), b.cast(t["b"], C)], "R"),
    "select": lambda b, t: b.select(t["s"], "R", 1),
    "rename": lambda b, t: b.rename(t["z"], [("K", "L")]),
    "expand": lambda b, t: b.expand(t["z"], ("K", "L")),
    "kept": lambda b, t: b.stop_grad(t["z"]),
    "positive real part": lambda b, t: b.where(
        b.binary("gt", b.unary("re", t["z"]), b.const(0.0)), t["z"], b.neg(t["z"])
    ),
}
FUNCTIONS = ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "abs", "conj")


def both(b: Builder, ref: Ref, leaves: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """A value, and what its pair stands for."""
    row = torch.tensor(True)
    layouts: dict[str, tuple[str, ...]] = {**REAL, **COMPLEX}
    true = Evaluator(b.values, SIZES, leaves, row, layouts)(ref)
    real, pairs = real_pairs(b.dims, b.values, [ref])
    assert not any(v.kind is C for v in real.values)
    parts = dict(leaves)
    for name, dims in COMPLEX.items():
        parts |= {f"{name} re": leaves[name].real, f"{name} im": leaves[name].imag}
        layouts |= {f"{name} re": dims, f"{name} im": dims}
    run = Evaluator(real.values, SIZES, parts, row, layouts)
    re, im = pairs[ref]
    found = run(re, b.values[ref].dims)
    if true.is_complex():
        zero = torch.zeros(true.shape, dtype=torch.float64)
        found = torch.complex(
            found.expand(true.shape), zero if im is None else run(im, b.values[ref].dims) + zero
        )
    else:
        assert im is None
    return true, found


@pytest.mark.parametrize("name", PAIRS)
def test_pairs(name: str) -> None:
    b = Builder(DIMS)
    ref = PAIRS[name](b, leaves_of(b))
    true, found = both(b, ref, data())
    torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_functions_of_pairs(fn: str) -> None:
    """In all quadrants, near the axes and on them, far from one and near zero."""
    corners = [z for z in CORNERS if fn not in ("exp", "sin", "cos", "tanh") or abs(z) < 9]
    for z in corners:
        b = Builder(DIMS)
        leaves = data() | {"u": torch.tensor(z, dtype=torch.complex128)}
        true, found = both(b, b.unary(fn, leaves_of(b)["u"]), leaves)
        torch.testing.assert_close(found, true, rtol=3e-7, atol=1e-14)


@pytest.mark.parametrize("fn", ["sqrt", "exp", "sin", "cos", "tanh", "abs"])
def test_functions_of_zero(fn: str) -> None:
    b = Builder(DIMS)
    leaves = data() | {"u": torch.zeros((), dtype=torch.complex128)}
    true, found = both(b, b.unary(fn, leaves_of(b)["u"]), leaves)
    torch.testing.assert_close(found, true)


@pytest.mark.parametrize("fn", ["log", "sqrt", "rsqrt", "exp", "tanh"])
def test_functions_of_reals_that_are_taken_for_complex(fn: str) -> None:
    for x in (2.0, 0.25, -3.0):
        b = Builder(DIMS)
        leaves = data() | {"c": torch.tensor(x, dtype=torch.float64)}
        true, found = both(b, b.unary(fn, b.cast(leaves_of(b)["c"], C)), leaves)
        torch.testing.assert_close(found, true, rtol=3e-7, atol=1e-14)


def test_what_is_surely_real_has_no_imaginary_part() -> None:
    real = ("two reals", "conj of a real", "where two reals", "stack reals")
    for name, build in PAIRS.items():
        b = Builder(DIMS)
        ref = build(b, leaves_of(b))
        _, pairs = real_pairs(b.dims, b.values, [ref])
        none = name in real or b.values[ref].kind is not C
        assert (pairs[ref][1] is None) == none, name


# ---------------------------------------------------------------- modulus and angle


def _wave(b: Builder, t: Leaves, sign: float = 1.0) -> Ref:
    factor, angle = b.exp(t["g"]), t["b"]
    im = b.mul(factor, b.unary("sin", angle))
    return b.make_complex(b.mul(factor, b.unary("cos", angle)), im)


def exponent(b: Builder, t: Leaves) -> Ref:
    return b.exp(b.make_complex(t["g"], t["b"]))


# What is built, whether it separates, has a logarithm, and turns.
POLAR: dict[str, tuple[Callable[[Builder, Leaves], Ref], bool, bool, bool]] = {
    "exp": (exponent, True, True, True),
    "exp without a turn": (
        lambda b, t: b.exp(b.make_complex(t["g"], b.const(0.0))), True, True, False),
    "exp of a sum": (
        lambda b, t: b.exp(b.add(b.make_complex(t["g"], t["b"]), b.make_complex(t["g"], t["a"]))),
        True, True, True),
    "exp of a sum with a real": (
        lambda b, t: b.exp(b.add(b.make_complex(t["g"], t["b"]), b.cast(t["g"], C))),
        True, True, True),
    "exp of a real and a sum": (
        lambda b, t: b.exp(b.add(b.cast(t["g"], C), b.make_complex(t["g"], t["b"]))),
        True, True, True),
    "exp of a difference": (
        lambda b, t: b.exp(b.sub(b.make_complex(t["g"], t["b"]), b.make_complex(t["h"], t["a"]))),
        True, True, True),
    "exp of a difference from a real": (
        lambda b, t: b.exp(b.sub(b.cast(t["g"], C), b.make_complex(t["h"], t["a"]))),
        True, True, True),
    "exp of a negative": (
        lambda b, t: b.exp(b.neg(b.make_complex(t["h"], t["b"]))), True, True, True),
    "exp of a multiple": (
        lambda b, t: b.exp(b.mul(b.cast(t["h"], C), b.make_complex(t["g"], t["b"]))),
        True, True, True),
    "exp of a multiple, turned": (
        lambda b, t: b.exp(b.mul(b.make_complex(t["g"], t["b"]), b.cast(t["h"], C))),
        True, True, True),
    "exp of a part": (
        lambda b, t: b.exp(b.div(b.make_complex(t["g"], t["b"]), b.cast(b.add(t["h"], b.const(1.0)),
        C))), True, True, True),
    "exp of a quotient": (
        lambda b, t: b.exp(b.div(b.cast(t["h"], C), t["z"])), True, True, True),
    "exp of a product": (lambda b, t: b.exp(b.mul(t["z"], t["z"])), True, True, True),
    "exp of any": (lambda b, t: b.exp(t["z"]), True, True, True),
    "product": (lambda b, t: b.mul(exponent(b, t), _wave(b, t)), True, True, True),
    "product with a real": (
        lambda b, t: b.mul(b.cast(b.exp(t["g"]), C), exponent(b, t)), True, True, True),
    "product with any real": (
        lambda b, t: b.mul(b.cast(t["a"], C), exponent(b, t)), True, False, True),
    "product of reals": (
        lambda b, t: b.mul(b.cast(b.exp(t["g"]), C), b.cast(b.exp(t["g"]), C)), True, True, False),
    "product with any": (lambda b, t: b.mul(t["z"], exponent(b, t)), False, False, False),
    "quotient": (
        lambda b, t: b.div(_wave(b, t), b.exp(b.make_complex(t["g"], t["a"]))), True, True, True),
    "quotient by any real": (
        lambda b, t: b.div(exponent(b, t), b.cast(t["a"], C)), False, False, False),
    "quotient by a real": (
        lambda b, t: b.div(exponent(b, t), b.cast(b.exp(t["g"]), C)), True, True, True),
    "real over a turn": (
        lambda b, t: b.div(b.cast(b.exp(t["g"]), C), exponent(b, t)), True, True, True),
    "negative": (lambda b, t: b.neg(exponent(b, t)), True, False, True),
    "conjugate": (lambda b, t: b.unary("conj", exponent(b, t)), True, True, True),
    "conjugate of a real": (
        lambda b, t: b.unary("conj", b.cast(b.exp(t["g"]), C)), True, True, False),
    "choice": (
        lambda b, t: b.where(b.binary("gt", t["a"], t["b"]), exponent(b, t), _wave(b, t)),
        True, True, True),
    "choice of a real": (
        lambda b, t: b.where(
            b.binary("gt", t["a"], t["b"]), exponent(b, t), b.cast(b.exp(t["g"]), C)),
        True, True, True),
    "choice, a real or": (
        lambda b, t: b.where(
            b.binary("gt", t["a"], t["b"]), b.cast(t["a"], C), exponent(b, t)),
        True, False, True),
    "choice of reals": (
        lambda b, t: b.where(
            b.binary("gt", t["a"], t["b"]), b.cast(b.exp(t["g"]), C), b.const(1.0, C)),
        True, True, False),
    "choice of any": (
        lambda b, t: b.where(b.binary("gt", t["a"], t["b"]), exponent(b, t), t["z"]),
        False, False, False),
    "wave": (_wave, True, True, True),
    "wave with two factors": (
        lambda b, t: b.make_complex(
            b.mul(b.mul(b.exp(t["g"]), t["a"]), b.unary("cos", t["b"])),
            b.mul(b.mul(b.exp(t["g"]), t["a"]), b.unary("sin", t["b"]))), True, False, True),
    "plain wave": (
        lambda b, t: b.make_complex(b.unary("cos", t["b"]), b.unary("sin", t["b"])),
        True, True, True),
    "not quite a wave": (
        lambda b, t: b.make_complex(b.unary("cos", t["b"]), b.unary("sin", t["a"])),
        False, False, False),
    "wave turned the other way": (
        lambda b, t: b.make_complex(b.unary("sin", t["b"]), b.unary("cos", t["b"])),
        False, False, False),
    "real part only": (
        lambda b, t: b.make_complex(b.exp(t["g"]), b.const(0.0)), True, True, False),
    "imaginary part only": (
        lambda b, t: b.make_complex(b.const(0.0), b.exp(t["g"])), True, True, True),
    "numbers": (lambda b, t: b.make_complex(b.const(-0.3), b.const(0.4)), True, True, True),
    "entry": (lambda b, t: b.select(b.exp(b.make_complex(t["k"], t["r"])), "R", 1),
        True, True, True),
    "entry where only the angle has it": (
        lambda b, t: b.select(b.exp(b.make_complex(t["g"], t["r"])), "R", 1), True, True, True),
    "renamed": (
        lambda b, t: b.rename(exponent(b, t), [("K", "L")]), True, True, True),
    "renamed real": (
        lambda b, t: b.rename(b.cast(b.exp(t["g"]), C), [("K", "L")]), True, True, False),
    "spread": (lambda b, t: b.expand(exponent(b, t), ("K", "L")), True, True, True),
    "real": (lambda b, t: b.exp(t["g"]), True, True, False),
    "any real": (lambda b, t: t["a"], True, False, False),
    "any": (lambda b, t: t["z"], False, False, False),
    "sum": (lambda b, t: b.add(exponent(b, t), exponent(b, t)), False, False, False),
}  # fmt: skip


@pytest.mark.parametrize("name", POLAR)
def test_modulus_and_angle(name: str) -> None:
    build, separates, has_log, turns = POLAR[name]
    b = Builder(DIMS)
    t = leaves_of(b)
    layouts: dict[str, tuple[str, ...]] = {**REAL, **COMPLEX, "g": ("K",), "h": ("K",)}
    layouts["k"] = ("K", "R")
    t |= {"g": b.input("g", ("K",)), "h": b.input("h", ("K",)), "k": b.input("k", ("K", "R"))}
    ref = build(b, t)
    found = Polars(Logs(b, {n: Tensor(n, d) for n, d in layouts.items()})).polar(ref)
    assert (found is not None) == separates
    if found is None:
        return
    assert (found.log is not None, found.angle is not None) == (has_log, turns)
    leaves = data()
    leaves |= {"g": -leaves["a"].abs(), "h": leaves["b"].abs(), "k": -leaves["r"].abs()}
    run = Evaluator(b.values, SIZES, leaves, torch.tensor(True), layouts)
    dims = b.values[ref].dims
    modulus = run(found.modulus, dims)
    angle = torch.zeros(()) if found.angle is None else run(found.angle, dims)
    got = modulus * torch.exp(1j * angle.double())
    true = run(ref).to(got.dtype)
    torch.testing.assert_close(got.expand_as(true), true, rtol=1e-12, atol=1e-14)
    assert b.values[found.modulus].kind is not C
    if found.log is not None:
        torch.testing.assert_close(run(found.log, dims).exp(), modulus, rtol=1e-12, atol=1e-14)


def test_angles_of_numbers() -> None:
    for number in (1j, -1j, -2.0, 0.5 - 0.5j, -3 + 4j):
        b = Builder(DIMS)
        ref = b.make_complex(b.const(complex(number).real), b.const(complex(number).imag))
        found = Polars(Logs(b, {})).polar(ref)
        assert found is not None
        modulus = b.constant_of(found.modulus)
        angle = 0.0 if found.angle is None else b.constant_of(found.angle)
        assert modulus is not None and angle is not None
        assert modulus * cmath.exp(1j * angle) == pytest.approx(complex(number))


def test_full_turns_are_left_out_of_angles() -> None:
    """To the nearest turn, so that cosines are taken of small numbers; nothing else changes."""
    b = Builder(DIMS)
    turns = Turns(b, (), (), lambda ref: ref, b.input("a", ("K",)))
    ref = turns._reduced(b.input("b", ("K",)))
    layouts: dict[str, tuple[str, ...]] = {"a": ("K",), "b": ("K",)}
    for size in (0.1, 3.0, 3.3, 6.2, 6.4, 9.5, 100.0, 1e4):
        angles = torch.tensor([-size, 0.3 * size, size], dtype=torch.float64)
        found = Evaluator(b.values, SIZES, {"b": angles}, torch.tensor(True), layouts)(ref)
        assert float(found.abs().max()) <= math.pi + 1e-6
        torch.testing.assert_close(torch.exp(1j * found), torch.exp(1j * angles))
