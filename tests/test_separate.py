"""Sums over products of vectors: equal numbers, by smaller products."""

from __future__ import annotations

import pytest
import torch

from scandsl.ir.builder import Builder
from scandsl.ir.nodes import Contract, Dim, Dims, Ref
from scandsl.kernels.program import ROW, ChunkProgram, Store
from scandsl.kernels.prune import prune
from scandsl.kernels.separate import separated
from tests.evaluate import Evaluator

SIZES = {ROW: 4, "#j": 4, "K": 3, "K'": 3, "V": 2}
LAYOUTS: dict[str, Dims] = {
    "q": ("K",), "k": ("K",), "m": ("K'",), "v": ("V",), "w": (), "Z": ("K", "K'"),
    "S": ("K", "K'", "V"),
}  # fmt: skip
CARRIED = ("Z", "S")


def program(left: str, right: str, over: Dims, turned: bool = False) -> ChunkProgram:
    """The sum of the products of two lists of factors; `k'` is `k` along `K'`, `kj` in columns.

    A product is that of the first two with the third, or, `turned`, the other way round.
    """
    base = {"#j": ROW, "K'": "K"}
    b = Builder([Dim(d, base=base.get(d)) for d in SIZES])

    def factor(text: str) -> Ref:
        name = text.rstrip("'j")
        if name in CARRIED:
            return b.load(name, LAYOUTS[name])
        out = b.input(name, (ROW, *LAYOUTS[name]))
        out = b.rename(out, [("K", "K'")]) if "'" in text else out
        return b.rename(out, [(ROW, "#j")]) if "j" in text else out

    def product(text: str) -> Ref:
        first, *rest = [factor(x) for x in text.split()]
        for x in rest:
            first = b.mul(x, first) if turned else b.mul(first, x)
        return first

    value = b.contract(product(left), product(right), over)
    store = Store("o", b.dims_of(value), b.kind_of(value), value)
    return ChunkProgram(tuple(b.dims), tuple(b.values), (), (store,), (), False)


def evaluated(program: ChunkProgram) -> torch.Tensor:
    torch.manual_seed(0)
    leaves = {
        name: torch.randn([*([] if name in CARRIED else [4]), *(SIZES[d] for d in dims)]).double()
        for name, dims in LAYOUTS.items()
    }
    run = Evaluator(program.values, SIZES, leaves, torch.ones(4, dtype=torch.bool), LAYOUTS)
    return run(program.stores[0].value)


# Left and right factors, the dimensions summed, and the sums that are left, by their dimensions.
SUMS: list[tuple[str, str, Dims, list[Dims]]] = [
    ("q q'", "kj k'j", ("K", "K'"), [("K",)]),  # the square of one sum
    ("q m", "kj mj", ("K", "K'"), [("K",), ("K'",)]),
    ("q m w", "kj mj vj", ("K", "K'"), [("K",), ("K'",)]),
    ("q q'", "Z", ("K", "K'"), [("K'",), ("K",)]),
    ("Z", "q q'", ("K", "K'"), [("K'",), ("K",)]),
    ("k k'", "w", (ROW,), [(ROW,)]),
    ("w", "k m", (ROW,), [(ROW,)]),
    ("q q'", "S", ("K", "K'"), [("K", "K'")]),  # by turns it would be no smaller
    ("k k'", "v", (ROW,), [(ROW,)]),  # a product of matrices as it is
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("left", "right", "over", "sums"), SUMS, ids=lambda x: str(x))
def test_sums_are_separated(
    left: str, right: str, over: Dims, sums: list[Dims], turned: bool
) -> None:
    before = program(left, right, over, turned)
    after = prune(separated(before))
    found = [v.op.over for v in after.values if isinstance(v.op, Contract)]
    assert sorted(found) == sorted(sums) if turned else found == sums
    torch.testing.assert_close(evaluated(after), evaluated(before), rtol=1e-12, atol=1e-12)


def test_vectors_are_not_multiplied_out() -> None:
    for left, right, over, _ in SUMS[:7]:
        after = prune(separated(program(left, right, over)))
        widest = max(len(v.dims) for v in after.values)
        assert widest == (3 if "v" in right else 2), (left, right)


def test_nested_powers_are_not_taken_apart_without_end() -> None:
    b = Builder([Dim(d) for d in ("K", "V")])
    x = b.mul(b.input("k", ("K",)), b.input("v", ("V",)))
    for _ in range(40):
        x = b.mul(x, x)
    value = b.contract(x, b.load("S", ("K", "V")), ("K", "V"))
    store = Store("o", b.dims_of(value), b.kind_of(value), value)
    found = separated(ChunkProgram(tuple(b.dims), tuple(b.values), (), (store,), (), False))
    assert len(found.values) < 200
