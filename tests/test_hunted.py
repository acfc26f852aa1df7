"""Steps as a researcher might write them, and hostile names, against the judge.

Each scan of `specs/hunted*.scan` runs packed (with empty sequences and sequences of one token,
shared heads and a carried state) and plain, with gradients, in every form that it has.
"""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.reference import interpret
from scandsl.testing.compare import Case, backends, runs
from scandsl.testing.data import Layout, draw

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

SPECS = Path(__file__).parent / "specs"
FILES = ("hunted", "hunted_names")
LENGTHS = (0, 1, 18, 0, 2)
TRITON = (  # a fault was found, or might be, in what is printed for Triton alone
    "states", "chunks", "cots", "unit_dim", "sizes_used", "const_chunk", "where_time", "ops",
    "numbers",
)  # fmt: skip


@cache
def recurrences(file: str) -> dict[str, Recurrence]:
    return {r.name: r for r in check(read_source(SPECS / f"{file}.scan")).recurrences}


@cache
def module(file: str, form: str | None = None) -> ModuleType:
    return load(SPECS / f"{file}.scan", form=form, chunk=16)


def scans() -> list[tuple[str, str]]:
    return [(file, name) for file in FILES for name in recurrences(file)]


def small(recurrence: Recurrence) -> dict[str, int]:
    free = [d.name for d in recurrence.dims if d.size is None and d.base is None]
    return dict(zip(free, (3, 5, 1, 2, 4), strict=False))


def cases(recurrence: Recurrence, lengths: tuple[int, ...] = LENGTHS) -> list[Case]:
    own = {name: (4, 1, 2)[i % 3] for i, name in enumerate(recurrence.arguments)}
    sizes = small(recurrence)
    return [
        Case("packed", Layout(lengths=lengths, heads=4, own_heads=own), sizes, carried=True),
        Case("plain", Layout(batch=2, time=17, heads=2), sizes),
    ]


@pytest.mark.parametrize(("file", "name"), scans())
def test_every_form_agrees_with_the_judge(file: str, name: str) -> None:
    recurrence = recurrences(file)[name]
    chunked, plain = module(file), module(file, "sequential")
    for case in cases(recurrence):
        for run in runs(
            recurrence,
            chunked,
            [case],
            only=("torch", "reference", "step"),
            dtypes=(torch.float64,),
        ):
            assert run.ok, run
        for run in runs(recurrence, plain, [case], only=("torch",), dtypes=(torch.float64,)):
            assert run.ok, run


@pytest.mark.parametrize("name", TRITON)
def test_triton_agrees_with_the_judge(name: str) -> None:
    file = next(f for f in FILES if name in recurrences(f))
    recurrence, made = recurrences(file)[name], module(file)
    assert "triton" in backends(made, name)
    packed = cases(recurrence, (0, 1, 66))[:1]
    for run in runs(recurrence, made, packed, only=("triton",), dtypes=(torch.float32,)):
        assert run.ok, run


@pytest.mark.parametrize(("file", "name"), scans())
def test_sequences_without_tokens(file: str, name: str) -> None:
    recurrence = recurrences(file)[name]
    data = draw(recurrence, small(recurrence), Layout(batch=2, time=2), dtype=torch.float64)
    inputs = {x.name for x in recurrence.inputs}
    given = {n: x[:, :0] if n in inputs else x for n, x in data.tensors.items()}
    true = interpret(recurrence, given)
    made = module(file)
    function = getattr(made, name if hasattr(made, f"{name}_step") else f"{name}_")
    for backend in ("torch", "reference"):
        leaves = {n: x.clone().requires_grad_() for n, x in given.items()}
        *outputs, state = function(
            *(leaves[n] for n in recurrence.arguments), output_final_state=True, backend=backend
        )
        for got, want in zip(outputs, true.outputs, strict=True):
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
        parts = () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)
        for got, want in zip(parts, true.state.values(), strict=True):
            torch.testing.assert_close(got, want)


@pytest.mark.parametrize("file", FILES)
def test_no_name_of_a_module_is_defined_twice(file: str) -> None:
    path = module(file).__file__
    assert path is not None
    defined: Counter[str] = Counter()
    for node in ast.parse(Path(path).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined[node.name] += 1
        elif isinstance(node, ast.Assign):
            defined.update(t.id for t in node.targets if isinstance(t, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            defined.update(a.asname or a.name for a in node.names)
    assert [name for name, count in defined.items() if count > 1] == []


def double(name: str) -> tuple[Recurrence, dict[str, Tensor]]:
    recurrence = recurrences("hunted")[name]
    layout = Layout(batch=2, time=20, heads=2)
    return recurrence, draw(recurrence, small(recurrence), layout, dtype=torch.float64).tensors


@pytest.mark.parametrize("name", ["complex_mat", "complex_vec", "many_states"])
def test_compiled_graphs_give_the_same(name: str) -> None:
    """Conjugates, too: a lazy one is lost inside operators of a compiled graph."""
    recurrence, tensors = double(name)
    function = getattr(module("hunted"), name)

    def call(*given: Tensor) -> Tensor:
        outputs = function(*given)[:-1]
        return torch.stack([x.abs().square().sum() for x in outputs])

    given = [tensors[n] for n in recurrence.arguments]
    torch._dynamo.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), call(*given))


def test_float64_is_refused_on_triton() -> None:
    recurrence, tensors = double("where_reset")
    with pytest.raises(TypeError, match="float32, got float64"):
        module("hunted").where_reset(*(tensors[n] for n in recurrence.arguments), backend="triton")
