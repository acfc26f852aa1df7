"""The checker: every diagnostic beside its text, and what valid specs become."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scandsl.check import Checked, check_file
from scandsl.diagnostics import InternalError, ScanError, Source, render_all
from scandsl.ir.nodes import (
    Const,
    Contract,
    Expand,
    Grad,
    Insert,
    Kind,
    Lag,
    LagState,
    Prev,
    Recurrence,
    Rename,
    Select,
    Stack,
    Value,
    Where,
)
from scandsl.ir.printer import print_recurrence
from scandsl.ir.verify import verify
from scandsl.syntax.parse import parse

ROOT = Path(__file__).parent
PAIRS = sorted((ROOT / "errors" / "check").glob("*.scan"))
EXAMPLES = sorted((ROOT.parent / "examples").glob("*.scan"))


def check(text: str, **settings: int) -> Checked:
    source = Source("test.scan", text)
    return check_file(parse(source), source, settings)


def step(body: str, **settings: int) -> Recurrence:
    """The recurrence of `scan step` with the given lines; no warnings allowed, verified."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))
    checked = check(f"scan step:\n{lines}\n", **settings)
    assert checked.warnings == ()
    (recurrence,) = checked.recurrences
    verify(recurrence)
    return recurrence


def fails(body: str, **settings: int) -> str:
    with pytest.raises(ScanError) as caught:
        step(body, **settings)
    return str(caught.value)


def output(recurrence: Recurrence, name: str | None = None) -> Value:
    found = next(o for o in recurrence.outputs if name in (None, o.name))
    return recurrence.values[found.value]


def ops(recurrence: Recurrence, kind: type) -> list[Value]:
    return [v for v in recurrence.values if isinstance(v.op, kind)]


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("path", PAIRS, ids=lambda p: p.stem)
def test_messages(path: Path) -> None:
    source = Source(path.name, path.read_text())
    try:
        shown = render_all(source, check_file(parse(source), source).warnings)
    except ScanError as error:
        shown = str(error)
    assert shown + "\n" == path.with_suffix(".txt").read_text()


def test_every_wording_is_reached() -> None:
    """Each function of `errors` shows in a pair or in a test of this file."""
    import ast as python

    tree = python.parse((ROOT.parent / "scandsl/check/errors.py").read_text())
    names = {n.name for n in tree.body if isinstance(n, python.FunctionDef)}
    public = {n for n in names if not n.startswith("_")} - {"excerpt", "function_usage"}
    reached: set[str] = set()
    for path in PAIRS:
        reached |= reached_by(path)
    elsewhere = {"setting_unknown", "setting_value"}
    unreachable = {"integer_too_large"}  # the parser refuses them first
    assert public - reached - elsewhere - unreachable == set()


def reached_by(path: Path) -> set[str]:
    import sys

    seen: set[str] = set()

    def trace(frame: object, event: str, argument: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if event == "call" and code.co_filename.endswith("check/errors.py"):
            seen.add(code.co_name)

    source = Source(path.name, path.read_text())
    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        check_file(parse(source), source)
    except ScanError:
        pass
    finally:
        sys.setprofile(before)
    return seen


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    source = Source(path.name, path.read_text())
    checked = check_file(parse(source), source)
    assert checked.warnings == ()
    for recurrence in checked.recurrences:
        verify(recurrence)
        assert print_recurrence(recurrence)


# ---------------------------------------------------------------- values


def test_dump() -> None:
    text = """
input x[D] in [-1, 1), k[D] in unit
param w[D]
scalar c = D ** -0.5
state h[D] = w
h = c * h + x
output y = k @ h
"""
    assert print_recurrence(step(text)).split("\n") == [
        "recurrence step",
        "  dim D",
        "  input x[D] in [-1, 1)",
        "  input k[D] in unit",
        "  param w[D]",
        "  scalar c = %3",
        "  state h[D] = %4",
        "  %0: [] int = size D  # constant",
        "  %1: [] = -0.5  # constant",
        "  %2: [] = cast %0  # constant",
        "  %3: [] = pow %2 %1  # constant",
        "  %4: [D] = param w  # constant",
        "  %5: [] = scalar c  # constant",
        "  %6: [D] = prev h",
        "  %7: [D] = mul %5 %6",
        "  %8: [D] = input x",
        "  %9: [D] = add %7 %8  # h",
        "  %10: [D] = input k",
        "  %11: [] = contract[D] %10 %9  # y",
        "  next h = %9",
        "  output y = %11",
        "",
    ]


def test_equal_expressions_are_shared() -> None:
    recurrence = step("input x\noutput y = exp(x) * exp(x)")
    assert len(recurrence.values) == 3


def test_literals_of_different_kinds_are_kept_apart() -> None:
    recurrence = step("input x\na = 1 + t\noutput y = x + 1 + a + 1.0 - 0.0 * x + -0.0")
    found = [repr(v.op.value) for v in recurrence.values if isinstance(v.op, Const)]
    assert sorted(found) == ["-0.0", "0.0", "1", "1.0"]


def test_dead_values_are_left_out() -> None:
    recurrence = step("input x\na = exp(x)\noutput y = x")
    assert len(recurrence.values) == 1


def test_states_are_previous_before_assignment_and_new_after() -> None:
    recurrence = step("input x\nstate h\noutput a = h\nh = h + x\noutput b = h")
    assert output(recurrence, "a").op == Prev("h")
    assert recurrence.outputs[1].value == recurrence.states[0].next


def test_a_local_hides_an_input_and_keeps_its_slots() -> None:
    recurrence = step("static R = 2\ninput k[R, K]\nk = l2norm[K](k)\noutput y[K] = k[1]")
    assert isinstance(output(recurrence).op, Select)


def test_numbers_fill_their_target() -> None:
    recurrence = step("input x[D]\nstate m[D] = -inf\nm = 0\noutput y[D] = x + m")
    values = recurrence.values
    init = values[recurrence.states[0].init]
    assert isinstance(init.op, Expand) and values[init.op.x].op == Const(float("-inf"))
    assert init.kind is Kind.REAL and init.dims == ("D",)


def test_dimensions_in_order_of_appearance() -> None:
    recurrence = step(
        "input b[V], a[K]\nparam m[K', V]\noutput y[K, V] = a * b + sum[K'](m[K', V])*a"
    )
    assert [d.name for d in recurrence.dims] == ["V", "K", "K'"]
    assert output(recurrence).dims == ("V", "K")
    assert recurrence.outputs[0].dims == ("K", "V")
    assert recurrence.dims[2].base == "K"


def test_statics_and_settings() -> None:
    body = "static R = 2\ninput x[R]\nlast = 0\nfor r in R:\n    last = x[r] * R\noutput y = last"
    (selected,) = ops(step(body, R=5), Select)
    assert selected.op.index == 4  # type: ignore[union-attr]
    assert "the setting `Q` names no `static`" in fails(body, Q=1)
    assert "the setting `R=0` is not a positive integer" in fails(body, R=0)


# ---------------------------------------------------------------- dimensions


def test_brackets_rename_at_once() -> None:
    recurrence = step("input x[N]\nparam A[N, N']\noutput y[N] = A[N', N] @ x[N']")
    pairs = {v.op.pairs for v in recurrence.values if isinstance(v.op, Rename)}
    assert (("N", "N'"), ("N'", "N")) in pairs


def test_trailing_slots_keep_their_names() -> None:
    recurrence = step("static R = 2\ninput k[R, K]\noutput y[K] = k[0]\noutput z[K'] = k[1, K']")
    assert output(recurrence, "y").dims == ("K",)
    assert output(recurrence, "z").dims == ("K'",)


def test_contraction_over_given_dimensions() -> None:
    recurrence = step("static W = 3\ninput a[W, D], b[W, D]\noutput y[D] = a @[W] b")
    assert output(recurrence).op == Contract(0, 1, ("W",))


@pytest.mark.parametrize(
    ("expression", "good"),
    [
        ("g * k @ S", True),
        ("k * g @ S", True),
        ("S @ k * g", True),
        ("k @ S * g", True),
        ("v * k @ S", False),
        ("k @ S * k", False),
        ("(k @ S) * k", True),
        ("k * v / g @ S", False),
    ],
)
def test_two_readings(expression: str, good: bool) -> None:
    body = f"input k[K], v[V], g, S[K, V]\na = sum[K](k) * sum[V](v) * g * S\nb = {expression}\n"
    body += "output y[K, V] = a"
    if good:
        step(body)
    else:
        assert "can be read in two ways" in fails(body)


# ---------------------------------------------------------------- kinds


def test_integers() -> None:
    recurrence = step(
        "input x[K]\noutput a = t + K * 2\noutput b = t / 2\noutput c[K] = iota(K) * x"
    )
    assert output(recurrence, "a").kind is Kind.INT
    assert output(recurrence, "b").kind is Kind.REAL
    assert output(recurrence, "c").kind is Kind.REAL


def test_bools() -> None:
    recurrence = step(
        "input x\noutput a = 0 < x <= 1\noutput b = (x > 0) * x\noutput c = (x > 0) * (x < 1)"
    )
    kinds = [output(recurrence, n).kind for n in "abc"]
    assert kinds == [Kind.BOOL, Kind.REAL, Kind.INT]


def test_complex_of_integers() -> None:
    recurrence = step(
        "input x\nstate h: complex = 1\nh = complex(0, 1) * h * t + x\noutput y = abs(h)"
    )
    assert recurrence.states[0].kind is Kind.COMPLEX
    assert output(recurrence).kind is Kind.REAL


# ---------------------------------------------------------------- time


def test_lag_of_lag_and_window() -> None:
    recurrence = step("static W = 3\ninput x\nparam w[W]\noutput y = w @ window[W](lag(x, 2))")
    (stack,) = ops(recurrence, Stack)
    lags = [recurrence.values[x].op for x in stack.op.xs]  # type: ignore[union-attr]
    assert [lag.n for lag in lags] == [2, 3, 4]  # type: ignore[union-attr]


def test_lag_of_a_state() -> None:
    recurrence = step(
        "input x[D]\nstate h[D]\nh = h + x\na = lag(h, 1)\nb = lag(lag(h, 2), 1)\n"
        "output y[D] = a\noutput z[D] = b\noutput r[D'] = lag(h[D'], 2)"
    )
    assert output(recurrence, "y").op == Prev("h")
    assert output(recurrence, "z").op == LagState("h", 3)
    assert isinstance(output(recurrence, "r").op, Rename)


def test_lag_of_a_later_local() -> None:
    recurrence = step(
        "input x[D]\nparam R[D, D']\ny[D] = tanh(R @ lag(y[D'], 1) + x)\noutput o[D] = y"
    )
    ((position, lag),) = [(i, v) for i, v in enumerate(recurrence.values) if isinstance(v.op, Lag)]
    assert lag.op.x > position  # type: ignore[union-attr]
    assert lag.dims == ("D'",)


def test_lag_of_a_later_local_of_inferred_type() -> None:
    recurrence = step(
        "static P = 2\ninput x[D]\nparam a[P]\ny = a @[P] window[P](lag(y, 1)) + x\noutput o[D] = y"
    )
    assert [v.dims for v in ops(recurrence, Lag)] == [("D",), ("D",)]


def test_every_keeps_the_old_value() -> None:
    recurrence = step("input x\nstate h\na = x\nevery 4:\n    h = a\n    a = 2\noutput y = a + h")
    next_h = recurrence.values[recurrence.states[0].next]
    assert isinstance(next_h.op, Where)
    assert recurrence.values[next_h.op.b].op == Prev("h")
    assert len(ops(recurrence, Where)) == 2


def test_entries() -> None:
    recurrence = step(
        "static R = 2\ninput x[R]\nstate s[R]\ns[1] = x[0]\ns[1] += 1\noutput y = s[1] + s[0]"
    )
    first, second = ops(recurrence, Insert)
    assert first.op.index == second.op.index == 1  # type: ignore[union-attr]
    assert {v.op.index for v in ops(recurrence, Select)} == {0}  # type: ignore[union-attr]


# ---------------------------------------------------------------- grad


def test_grad_by_a_state() -> None:
    recurrence = step("input k[K]\nstate W[K]\nW -= grad((k @ W) ** 2, W)\noutput y[K] = W")
    (grad,) = ops(recurrence, Grad)
    assert recurrence.values[grad.op.wrt].op == Prev("W")  # type: ignore[union-attr]
    assert grad.dims == ("K",)


@pytest.mark.parametrize(
    "body",
    [
        "a = exp(x)\noutput y[K] = grad(sum[K](a * exp(x)), a)",
        "b = exp(x)\na = b\noutput y[K] = grad(sum[K](a * b), a)",
        "a = x\noutput y[K] = grad(sum[K](a * x), a)",
    ],
)
def test_grad_sees_the_name_and_not_an_equal_expression(body: str) -> None:
    recurrence = step(f"input x[K]\n{body}")
    (grad,) = ops(recurrence, Grad)
    wrt = grad.op.wrt  # type: ignore[union-attr]
    product = recurrence.values[recurrence.values[grad.op.e].op.x].op  # type: ignore[union-attr]
    assert sorted([product.a == wrt, product.b == wrt]) == [False, True]  # type: ignore[union-attr]


# ---------------------------------------------------------------- functions


def test_functions_are_inlined() -> None:
    text = """
fn unit[D](x) = x * rsqrt(sum[D](x * x) + 1e-6)
fn both[A, B](x) = unit[A](x) + unit[B](x)
scan step:
    input S[K, V]
    output o[K, V] = both[V, K](S)
"""
    (recurrence,) = check(text).recurrences
    verify(recurrence)
    assert output(recurrence).dims == ("K", "V")


# ---------------------------------------------------------------- robustness


def test_rest_of_a_broken_file() -> None:
    """Nothing is said about names that only the unreadable part may declare."""
    text = "scan step:\n    output y = x * z + w\n"
    source = Source("test.scan", text)
    with pytest.raises(ScanError) as caught:
        check_file(parse(source), source, lost=frozenset({"x", "z"}))
    assert [d.message for d in caught.value.diagnostics] == ["unknown name `w`"]


@pytest.mark.parametrize("depth", [50, 99])
def test_deep_expressions(depth: int) -> None:
    step("input x\noutput y = " + "exp(" * depth + "x" + ")" * depth)


def test_names_of_python() -> None:
    names = "lambda", "class", "import", "__class__"
    step(f"input {', '.join(names)}\noutput return = {' * '.join(names)}")


def test_an_error_in_a_function_is_enough() -> None:
    with pytest.raises(ScanError, match="unknown function `sqare`"):
        check("fn f(x) = sqare(x)\nscan step:\n    input x\n    output y = f(x)\n")


def test_verify_finds_faults() -> None:
    recurrence = step("input x[D]\nstate h[D]\nh = h + x\noutput y[D] = h")
    values = list(recurrence.values)
    broken = [
        [*values[:-1], replace(values[-1], kind=Kind.INT)],
        [*values[:-1], replace(values[-1], dims=())],
        [*values[:-1], replace(values[-1], varies=False)],
        list(reversed(values)),
    ]
    for faulty in broken:
        with pytest.raises(InternalError):
            verify(replace(recurrence, values=tuple(faulty)))
