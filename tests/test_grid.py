"""The first family over a grid of lengths, sizes, packings, head groups and dtypes.

Every point is one call, forward and backward, with the final state and, where `start` says so, from
a carried one; errors are judged by `scandsl.testing`.  The normal run takes points that hold every
pair of values, the slow one all lengths, sizes, packings and head groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import combinations, product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load
from scandsl.testing.compare import Case, Run, backends, relative_rms, runs, state_names
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT
from tests.pairwise import Point, complete, pairs_of, pairwise

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

LENGTHS = (1, 2, 15, 63, 64, 65, 100, 257)
SIZES = (1, 3, 16, 60, 64, 100, 128, 256)
PACKINGS = ("plain", "packed")
GROUPS = ("1:1", "1:4", "all-to-one")
SPECS = (
    "linear_attention", "retnet", "mamba2", "simple_gla",
    "chunk/reads_everywhere", "chunk/gate_from_read", "chunk/values_first",
)  # fmt: skip
STARTS = ("zero", "carried")
DTYPES = {
    "float64": torch.float64, "float32": torch.float32,
    "bfloat16": torch.bfloat16, "float16": torch.float16,
}  # fmt: skip

FACTORS: Mapping[str, tuple[Any, ...]] = {
    "T": LENGTHS,
    "K": SIZES,
    "V": SIZES,
    "packing": PACKINGS,
    "groups": GROUPS,
    "spec": SPECS,
    "start": STARTS,
    "dtype": tuple(DTYPES),
}


@cache
def recurrence_of(spec: str) -> Recurrence:
    file, _, name = spec.rpartition("/")
    path = _path(spec)
    found = check(Source(path.name, path.read_text(encoding="utf-8"))).recurrences
    return next(r for r in found if r.name == (name or file))


def _path(spec: str) -> Path:
    file, slash, _ = spec.partition("/")
    return ROOT / ("tests/specs" if slash else "examples") / f"{file}.scan"


@cache
def module_of(spec: str) -> ModuleType:
    return load(_path(spec))


# ---------------------------------------------------------------- points of the grid


def heads_of(recurrence: Recurrence, groups: str) -> tuple[int, dict[str, int]]:
    """The number of heads, and that of the tensors which have fewer."""
    names = recurrence.arguments
    match groups:
        case "1:1":
            return 2, {}
        case "1:4":  # every other tensor is shared by four heads
            return 4, {name: 1 for name in names[1::2]}
        case "all-to-one":  # one tensor has heads, all others are shared by them
            return 3, {name: 1 for name in names if name != names[len(names) // 2]}
    raise ValueError(groups)


def packed(length: int) -> tuple[int, ...]:
    """Uneven sequences around one of `length`: of one token, beside empty ones."""
    return (1, 0, length, 0, 0, 18, 1)


def case_of(point: Point) -> tuple[Recurrence, Case]:
    time, k, v, packing, groups, spec, start, _ = point
    recurrence = recurrence_of(spec)
    heads, own = heads_of(recurrence, groups)
    if packing == "packed":
        layout = Layout(lengths=packed(time), heads=heads, own_heads=own)
    else:
        # a mean over one or two numbers says little: short sequences come in larger batches
        batch = max(16 // time, 2 if time < 64 else 1)
        layout = Layout(batch=batch, time=time, heads=heads, own_heads=own)
    matrix = next(s for s in recurrence.states if len(s.dims) == 2)
    sizes = dict(zip(matrix.dims, (k, v), strict=True))
    return recurrence, Case("-".join(map(str, point)), layout, sizes, carried=start == "carried")


def judged(point: Point) -> Iterator[Run]:
    recurrence, case = case_of(point)
    module = module_of(point[5])
    only = ("torch", "triton")
    assert set(only) <= set(backends(module))
    yield from runs(recurrence, module, (case,), only=only, dtypes=(DTYPES[point[-1]],))


def check_point(point: Point) -> None:
    found = list(judged(point))
    expected = {"torch"} if point[-1] == "float64" else {"torch", "triton"}
    assert {r.backend for r in found} == expected
    bad = [_words(r) for r in found if not r.ok]
    assert not bad, "\n".join(bad)


def _words(run: Run) -> str:
    off = [
        f"{v.role.value} {v.tensor}: {v.error:.1e} > {v.bound:.1e}"
        for v in run.verdicts
        if not v.ok
    ]
    return f"{run.backend}: {run.failure or ', '.join(off)}"


def cost(point: Point) -> int:
    """About what Triton's interpreter has to do."""
    time, k, v, packing, groups, _, _, dtype = point
    heads = {"1:1": 2, "1:4": 4, "all-to-one": 3}[groups]
    tokens = time + 20 if packing == "packed" else time
    return heads * tokens * max(k, 16) * max(v, 16) if dtype != "float64" else 0


def _cheap(point: Point) -> bool:
    return cost(point) <= 5_000_000


def _id(point: Point) -> str:
    return "-".join(str(x) for x in point).replace("/", ".")


SAMPLE = pairwise(FACTORS, _cheap)


def full() -> Iterator[Point]:
    """All lengths, sizes, packings and groups; specs, starts and dtypes take turns."""
    grid = {name: FACTORS[name] for name in ("T", "K", "V", "packing", "groups")}
    rest = list(product(SPECS, STARTS, DTYPES))
    for number, point in enumerate(complete(grid)):
        yield (*point, *rest[(number * 5) % len(rest)])


@pytest.mark.parametrize("point", SAMPLE, ids=_id)
def test_sampled(point: Point) -> None:
    check_point(point)


@pytest.mark.slow
@pytest.mark.parametrize("point", list(full()), ids=_id)
def test_complete(point: Point) -> None:
    check_point(point)


def test_the_sample_holds_every_pair() -> None:
    held = set().union(*map(pairs_of, SAMPLE))
    names = list(FACTORS)
    for i, j in combinations(range(len(names)), 2):
        for x, y in product(FACTORS[names[i]], FACTORS[names[j]]):
            assert (i, x, j, y) in held, (names[i], x, names[j], y)
    everything = set().union(*map(pairs_of, full()))
    assert held <= everything, "the complete grid lacks pairs of the sample"


# ---------------------------------------------------------------- head groups between the ends


@pytest.mark.parametrize("spec", ["simple_gla", "mamba2", "chunk/reads_everywhere"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_groups_of_several_sizes(spec: str, dtype: str) -> None:
    """Eight heads, of which tensors have eight, two, one or four."""
    recurrence = recurrence_of(spec)
    own = {name: (8, 2, 1, 4)[i % 4] for i, name in enumerate(recurrence.arguments)}
    for layout in (
        Layout(batch=2, time=17, heads=8, own_heads=own),
        Layout(lengths=(1, 17, 0, 2), heads=8, own_heads=own),
    ):
        case = Case("groups", layout)
        found = runs(
            recurrence, module_of(spec), (case,), only=("torch", "triton"), dtypes=(DTYPES[dtype],)
        )
        bad = [_words(r) for r in found if not r.ok]
        assert not bad, "\n".join(bad)


# ---------------------------------------------------------------- splits


def _call(
    spec: str, tensors: Mapping[str, torch.Tensor], state: Any, backend: str
) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
    recurrence = recurrence_of(spec)
    function = getattr(module_of(spec), recurrence.name)
    arguments = [tensors[name] for name in recurrence.arguments]
    *outputs, final = function(
        *arguments, initial_state=state, output_final_state=True, backend=backend
    )
    return outputs, final


def split_errors(
    spec: str, cut: int, dtype: torch.dtype, backend: str, time: int = 67
) -> list[float]:
    """The whole against two halves that hand on their state: outputs, states and gradients."""
    recurrence = recurrence_of(spec)
    inputs = {x.name for x in recurrence.inputs}
    layout = Layout(batch=1, time=time, heads=2)
    data = draw(recurrence, {}, layout, dtype=dtype, carried=True, seed=cut)
    assert data.initial_state is not None
    names = state_names(recurrence)
    start = [data.initial_state[n] for n in names]
    leaves = {n: x.requires_grad_() for n, x in data.tensors.items()}
    starts = [x.requires_grad_() if x.is_floating_point() else x for x in start]
    given = starts[0] if len(starts) == 1 else tuple(starts)

    def parts(final: Any) -> list[torch.Tensor]:
        return [final] if isinstance(final, torch.Tensor) else list(final)

    whole, final = _call(spec, leaves, given, backend)
    first = {n: x[:, :cut] if n in inputs else x for n, x in leaves.items()}
    second = {n: x[:, cut:] if n in inputs else x for n, x in leaves.items()}
    begun, middle = _call(spec, first, given, backend)
    ended, last = _call(spec, second, middle, backend)
    halves = [torch.cat(pair, 1) for pair in zip(begun, ended, strict=True)]
    values = [*whole, *parts(final)], [*halves, *parts(last)]
    generator = torch.Generator().manual_seed(1)
    seeds = [torch.randn(x.shape, generator=generator).to(x.dtype) for x in values[0]]
    wanted = [*leaves.values(), *(x for x in starts if x.is_floating_point())]
    grads = [_gradients(v, wanted, seeds) for v in values]
    pairs = zip([*values[1], *grads[1]], [*values[0], *grads[0]], strict=True)
    return [relative_rms(a, b) for a, b in pairs]


def _gradients(
    values: list[torch.Tensor], wanted: list[torch.Tensor], seeds: list[torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    smooth = [(v, s) for v, s in zip(values, seeds, strict=True) if v.requires_grad]
    return torch.autograd.grad(
        [v for v, _ in smooth], wanted, [s for _, s in smooth], materialize_grads=True
    )


SPLIT_SPECS = (*SPECS, "chunk/by_position", "chunk/resets", "chunk/decay_last")


@pytest.mark.parametrize("spec", SPLIT_SPECS)
def test_a_split_anywhere_equals_the_whole(spec: str) -> None:
    for cut in (1, 2, 31, 63, 64, 65, 66):
        errors = split_errors(spec, cut, torch.float64, "torch")
        assert max(errors) < 1e-9, (cut, errors)


@pytest.mark.slow
@pytest.mark.parametrize("cut", range(1, 130))
@pytest.mark.parametrize("spec", SPLIT_SPECS)
def test_every_split_equals_the_whole(spec: str, cut: int) -> None:
    errors = split_errors(spec, cut, torch.float64, "torch", 130)
    assert max(errors) < 1e-9, errors


@pytest.mark.parametrize("spec", SPLIT_SPECS)
def test_a_split_equals_the_whole_on_triton(spec: str) -> None:
    for cut in (1, 33, 64):
        errors = split_errors(spec, cut, torch.float32, "triton")
        assert max(errors) < 2e-5, (cut, errors)
