"""Intervals and logarithms of decays, on values built by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scandsl.analysis.decay import Logs
from scandsl.analysis.ranges import intervals
from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Kind, Output, Range, Recurrence, Ref, Tensor
from scandsl.reference.interpret import interpret

INF = math.inf
GATE = Range(-INF, 0.0)
TENSORS = (
    Tensor("x", ()),
    Tensor("g", (), range=GATE),
    Tensor("p", (), range=Range(0.0, 1.0, low_open=True)),
    Tensor("c", (), range=Range(0.0, 1.0)),
    Tensor("u", ("K",), unit=True),
)
BUILT = {
    "exp(g)": lambda b, t: b.exp(t["g"]),
    "exp(x)": lambda b, t: b.exp(t["x"]),
    "sigmoid(x)": lambda b, t: b.unary("sigmoid", t["x"]),
    "1 - sigmoid(x)": lambda b, t: b.sub(b.const(1), b.unary("sigmoid", t["x"])),
    "1/(1+exp(-x))": lambda b, t: b.div(b.const(1), b.add(b.const(1), b.exp(b.neg(t["x"])))),
    "exp(-softplus(x))": lambda b, t: b.exp(b.neg(b.unary("softplus", t["x"]))),
    "p": lambda b, t: t["p"],
    "p * sigmoid(x)": lambda b, t: b.mul(t["p"], b.unary("sigmoid", t["x"])),
    "p ** 3": lambda b, t: b.binary("pow", t["p"], b.const(3)),
    "sqrt(p)": lambda b, t: b.unary("sqrt", t["p"]),
    "1 / (1 + x*x)": lambda b, t: b.div(b.const(1), b.add(b.const(1), b.square(t["x"]))),
    "1 - 0.5*c": lambda b, t: b.sub(b.const(1), b.mul(b.const(0.5), t["c"])),
    "where(x>0, p, 0)": lambda b, t: b.where(
        b.binary("gt", t["x"], b.const(0)), t["p"], b.const(0)
    ),
    "0.5": lambda b, t: b.const(0.5),
    "c": lambda b, t: t["c"],
    "x": lambda b, t: t["x"],
    "1 - c": lambda b, t: b.sub(b.const(1), t["c"]),
    "-exp(x)": lambda b, t: b.neg(b.exp(t["x"])),
    "x*x": lambda b, t: b.square(t["x"]),
    "u*u": lambda b, t: b.sum(b.square(t["u"]), ("K",)),
    "tanh(x)": lambda b, t: b.unary("tanh", t["x"]),
}
WITHOUT_LOG = ("c", "x", "1 - c", "-exp(x)", "x*x", "u*u", "tanh(x)")


def build(name: str) -> tuple[Builder, Ref]:
    builder = Builder([*_dims()])
    leaves = {t.name: builder.input(t.name, t.dims) for t in TENSORS}
    return builder, BUILT[name](builder, leaves)


def _dims():
    from scandsl.ir.nodes import Dim

    return (Dim("K"),)


def run(builder: Builder, refs: list[Ref]) -> list[torch.Tensor]:
    outputs = tuple(Output(f"o{i}", builder.dims_of(r), Kind.REAL, r) for i, r in enumerate(refs))
    recurrence = Recurrence(
        "s", "", tuple(builder.dims), TENSORS, (), (), (), outputs, tuple(builder.values),
        tuple(t.name for t in TENSORS),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 50, 1, generator=generator, dtype=torch.float64) * 3
    u = torch.rand(1, 50, 1, generator=generator, dtype=torch.float64)
    k = torch.randn(1, 50, 1, 4, generator=generator, dtype=torch.float64)
    data = {
        "x": x, "g": -x.abs(), "p": 0.01 + 0.99 * u, "c": u, "u": k / k.norm(dim=-1, keepdim=True),
    }  # fmt: skip
    return list(interpret(recurrence, data).outputs)


@pytest.mark.parametrize("name", BUILT)
def test_values_lie_in_their_range(name: str) -> None:
    builder, ref = build(name)
    recurrence = Recurrence(
        "s", "", tuple(builder.dims), TENSORS, (), (), (), (), tuple(builder.values), ()
    )
    proved = intervals(recurrence)[ref]
    (value,) = run(builder, [ref])
    assert (value >= proved.low).all() and (value <= proved.high).all()


@pytest.mark.parametrize("name", BUILT)
def test_logs_exist_exactly_where_the_decay_is_proved_positive(name: str) -> None:
    builder, ref = build(name)
    log = Logs(builder, {t.name: t for t in TENSORS}).log(ref)
    assert (log is None) == (name in WITHOUT_LOG)
    if log is not None:
        value, found = run(builder, [ref, log])
        torch.testing.assert_close(torch.exp(found), value, rtol=1e-12, atol=1e-300)


def test_a_gate_of_minus_infinity_is_attained_only_if_the_end_is_closed() -> None:
    builder = Builder([])
    closed, open_ = builder.input("a", ()), builder.input("b", ())
    refs = [builder.exp(closed), builder.exp(open_)]
    tensors = (
        Tensor("a", (), range=Range(-INF, 0.0)),
        Tensor("b", (), range=Range(-INF, 0.0, low_open=True)),
    )
    recurrence = Recurrence("s", "", (), tensors, (), (), (), (), tuple(builder.values), ())
    found = intervals(recurrence)
    assert found[refs[0]] == Range(0.0, 1.0)
    assert found[refs[1]] == Range(0.0, 1.0, low_open=True)
