"""Slices of time over processes: outputs, gradients and states equal those of one process.

The judge is the reference interpreter on the whole, under torch's autograd, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from scandsl.diagnostics import Source
from scandsl.driver import Options, compile_source
from scandsl.ir.nodes import Kind, Recurrence, memories, uses_time
from scandsl.ir.nodes import Tensor as Declared
from scandsl.reference import interpret
from tests.generated import ROOT, imported
from tests.slices_worker import work

BOUND = {torch.float64: 1e-9, torch.float32: 2e-5}

CHAINED = """
scan chained:  # the second state takes in what is read of the first, and has params
    input q[K], k[K], v[V], g in (-inf, 0]
    param gamma in (0, 1], D
    state S[K, V], A[K, V]
    S = exp(g) * S + k * v
    r = q @ S
    A = gamma * A + k * tanh(r)
    output o[V] = q @ A + D * v
"""

TIMED = """
scan timed:  # looks at its position; one output for each of two states
    input q[K], k[K], v[V]
    state S[K, V], z[K] = 1
    d = 1 - 1 / (t + 20)
    S = d * S + k * v
    z = d * z + k
    output o[V] = (q @ S) / (1 + (q @ z) ** 2)
    output p = q @ z
"""

BOTH = """
scan both:  # decays along both sides, one of them of any sign
    input q[K], k[K], v[V], g[K] in (-inf, 0], d[V]
    state S[K, V]
    S = (1 - 0.1 * d) * exp(g) * S + k * v
    output o[V] = q @ S
"""

KEPT = """
scan kept:  # a window of what one state gives, in front of another
    input q[K], k[K], v[V], g in (-inf, 0]
    param w[W]
    static W = 3
    state S[K, V], A[V]
    S = exp(g) * S + k * v
    r = w @[W] window[W](q @ S)
    A = exp(g) * A + r
    output o[V] = A + r
"""


COLUMNS = """
scan columns:  # its map would be a matrix for every column
    input q[K], k[K] in unit, v[V], h[V] in (-inf, 0], beta in [0, 1]
    state S[K, V]
    S *= exp(h)
    S += beta * k * (v - k @ S)
    output o[V] = q @ S
"""


@dataclass(frozen=True)
class Case:
    """A scan, where its slices and sequences lie, and what else is asked of it."""

    name: str
    spec: str
    lengths: tuple[int, ...] | None = None  # of sequences packed along time
    own_heads: Mapping[str, int] = field(default_factory=dict)
    carried: bool = True
    final: bool = True
    form: str | None = None
    uneven: bool = False
    time: int = 90
    size: int = 8
    backend: str | None = None  # Triton runs in float32, under its interpreter

    @property
    def dtype(self) -> torch.dtype:
        """What the slices are computed in."""
        return torch.float32 if self.backend == "triton" else torch.float64


PACKED = (13, 0, 40, 1, 31, 0, 5)  # with empty ones, some inside of a slice, some over several
LONG = (2, 86, 2)

CASES = (
    Case("simple_gla", "simple_gla", uneven=True),
    Case("simple_gla-plain", "simple_gla", carried=False, final=False),
    Case("simple_gla-packed", "simple_gla", PACKED),
    Case("linear_attention", "linear_attention", own_heads={"k": 1}),
    Case("linear_attention-packed", "linear_attention", LONG, uneven=True),
    Case("gated_delta_rule", "gated_delta_rule", own_heads={"v": 1, "g": 1}, uneven=True),
    Case("gated_delta_rule-packed", "gated_delta_rule", PACKED, uneven=True),
    Case("gated_delta_rule-long", "gated_delta_rule", LONG),
    Case("gla", "gla", uneven=True),
    Case("kimi_delta_attention", "kimi_delta_attention"),
    Case("kimi-packed", "kimi_delta_attention", PACKED, final=False),
    Case("rwkv7", "rwkv7", uneven=True),
    Case("delta_product", "delta_product", carried=False),
    Case("retnet", "retnet"),
    Case("oja", "gated_oja_rule", uneven=True),
    Case("slots", "gated_slot_attention"),
    Case("min_gru-packed", "min_gru", LONG),
    Case("both", BOTH, uneven=True),
    Case("mamba-packed", "mamba", PACKED, own_heads={"B": 1}),
    Case("lru", "lru", uneven=True),
    Case("chained", CHAINED, uneven=True),
    Case("chained-packed", CHAINED, PACKED),
    Case("timed", TIMED, uneven=True),
    Case("timed-packed", TIMED, LONG, carried=False),
    Case("timed-state-packed", TIMED, PACKED),
    Case("lstm", "lstm", time=40, uneven=True),
    Case("lstm-packed", "lstm", (3, 0, 30, 7), time=40),
    Case("conv", "conv_gated_delta_rule", time=40, uneven=True),
    Case("conv-packed", "conv_gated_delta_rule", (3, 0, 30, 7), time=40),
    Case("conv-short", "conv_gated_delta_rule", (2, 7), time=9),  # windows longer than slices
    Case("mlstm", "mlstm", time=40),
    Case("titans-packed", "titans", (3, 0, 30, 7), time=40),
    Case("mamba3-packed", "mamba3", (3, 0, 30, 7), time=40),
    Case("columns", COLUMNS, time=40, uneven=True),
    Case("kept", KEPT, (3, 0, 30, 7), time=40),
    Case("s4", "s4", time=40, uneven=True, own_heads={"P_re": 1, "skip": 1}),
    Case("autoregression-packed", "seasonal_autoregression", (3, 0, 30, 7), time=40),
    Case("triton-gated_delta_rule", "gated_delta_rule", backend="triton", time=70, uneven=True),
    Case("triton-kimi-packed", "kimi_delta_attention", (1, 66, 3), backend="triton", time=70),
    Case("triton-wide", "gated_delta_rule", backend="triton", time=36, size=72),
    Case("triton-gla", "gla", backend="triton", time=70, own_heads={"v": 1}),
    Case("sequential", TIMED, form="sequential", time=40),
)


@cache
def compiled(spec: str, form: str | None) -> tuple[str, Recurrence]:
    """The text of a module, and what it computes."""
    text = spec if "\n" in spec else (ROOT / f"examples/{spec}.scan").read_text(encoding="utf-8")
    found = compile_source(Source("sliced.scan", text), Options(form=form))
    return found.module, found.front.recurrences[0]


OFTEN = (
    "simple_gla", "simple_gla-packed", "linear_attention", "gated_delta_rule",
    "gated_delta_rule-long", "gla", "kimi-packed", "rwkv7", "retnet", "chained-packed",
    "timed-state-packed", "lstm-packed", "conv-short", "triton-gla",
)  # fmt: skip


def sizes_of(case: Case, recurrence: Recurrence) -> dict[str, int]:
    return {d.name: d.size or case.size for d in recurrence.dims}


def draw(case: Case, recurrence: Recurrence, rows: int) -> dict[str, Tensor]:
    """Arguments with which the far past still counts."""
    made = torch.Generator().manual_seed(len(case.name))
    lead = {x.name for x in recurrence.inputs}
    out = {}
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    for name in recurrence.arguments:
        heads = case.own_heads.get(name, 2)
        shape = (*((rows, case.time) if name in lead else ()), heads)
        sizes = sizes_of(case, recurrence)
        shape += tuple(sizes[d] for d in declared[name].dims)
        out[name] = _values(declared[name], shape, made)
    return out


def _values(x: Declared, shape: tuple[int, ...], made: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=made, dtype=torch.float64)
    even = torch.rand(shape, generator=made, dtype=torch.float64)
    if x.unit:
        return 0.7 * normal / normal.norm(dim=-1, keepdim=True)
    if x.range is not None and x.range.low == -math.inf:
        return -0.02 * even
    if x.range is not None and x.range.low >= 0:
        return 0.05 + 0.2 * even if x.range.low_open is False else 0.95 + 0.04 * even
    return normal * 0.3


def slices_of(case: Case, count: int) -> tuple[int, ...]:
    """Even slices, or uneven ones of which one is empty if there are more than two."""
    if not case.uneven:
        return tuple(case.time * (i + 1) // count - case.time * i // count for i in range(count))
    if count == 2:
        return (7, case.time - 7)
    return (0, 17, case.time - 17) if count == 3 else (14, 0, 11, case.time - 25)


def made_case(case: Case, count: int, folder: Path) -> dict[str, Any]:
    """What the processes read, with what the judge says."""
    module, recurrence = compiled(case.spec, case.form)
    file = folder / f"{case.name.replace('-', '_')}.py"
    file.write_text(module, encoding="utf-8")
    made = torch.Generator().manual_seed(1)
    rows = 1 if case.lengths else 2
    tensors = draw(case, recurrence, rows)
    cu = None
    if case.lengths:
        assert sum(case.lengths) == case.time
        cu = torch.tensor([0, *case.lengths]).cumsum(0)
    start = _start(case, recurrence, len(case.lengths or (0, 0)), made) if case.carried else None
    leaves = {n: x.clone().requires_grad_() for n, x in tensors.items()}
    starts = {n: _leaf(x) for n, x in (start or {}).items()}
    ran = interpret(recurrence, leaves, initial_state=starts or None, cu_seqlens=cu)
    weights = [torch.randn(o.shape, generator=made, dtype=torch.float64) for o in ran.outputs]
    ends = list(ran.state.values())
    end_weights = [torch.randn(x.shape, generator=made, dtype=torch.float64) for x in ends]
    loss = sum((o * w).sum() for o, w in zip(ran.outputs, weights, strict=True))
    if case.final:
        pairs = zip(ends, end_weights, strict=True)
        smooth = [(x, w) for x, w in pairs if x.is_floating_point() or x.is_complex()]
        loss = loss + sum((x * w).sum() for x, w in smooth)
    (loss.real if loss.is_complex() else loss).backward()
    return {
        "module": str(file),
        "scan": recurrence.name,
        "inputs": [x.name for x in recurrence.inputs],
        "tensors": tensors,
        "state": None if start is None else list(start.values()),
        "cu_seqlens": cu,
        "lengths": slices_of(case, count),
        "final": case.final,
        "backend": case.backend,
        "dtype": case.dtype,
        "weights": weights,
        "end_weights": end_weights,
        "judge": count // 2,
        "expected": {
            "outputs": [o.detach() for o in ran.outputs],
            "ends": [x.detach() for x in ends],
            "gradients": [x.grad for x in leaves.values()],
            "state_gradients": [x.grad for x in starts.values()],
        },
    }


def _start(
    case: Case, recurrence: Recurrence, rows: int, made: torch.Generator
) -> dict[str, Tensor]:
    out = {}
    sizes = sizes_of(case, recurrence)
    for s in recurrence.states:
        shape = (rows, 2, *(sizes[d] for d in s.dims))
        dtype = torch.complex128 if s.kind is Kind.COMPLEX else torch.float64
        out[s.name] = torch.randn(shape, generator=made, dtype=dtype)
    for m in memories(recurrence):
        shape = (rows, 2, m.depth, *(sizes[d] for d in m.dims))
        out[m.name] = torch.randn(shape, generator=made, dtype=torch.float64)
    if uses_time(recurrence):
        out["t"] = torch.arange(rows) * 3 + 1
    return out


def _leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_(x.is_floating_point() or x.is_complex())


def counts_of(case: Case) -> tuple[int, ...]:
    """Every case over three processes, one of each kind over two and four as well."""
    return (2, 3, 4) if case.name in OFTEN else (3,)


PAIRS = [(n, c.name) for n in (2, 3, 4) for c in CASES if n in counts_of(c)]

Found = dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Found]:
    """All cases over a number of processes, started once for each number."""
    known: dict[int, Found] = {}

    def run(count: int) -> Found:
        if count not in known:
            known[count] = all_over(count, tmp_path_factory.mktemp(f"slices{count}"))
        return known[count]

    return run


def all_over(count: int, folder: Path) -> Found:
    """The cases of a number of processes, and what each rank has to say."""
    cases = {c.name: made_case(c, count, folder) for c in CASES if count in counts_of(c)}
    if count == 3:
        cases |= wrong_cases(count, folder)
    for name, case in cases.items():
        torch.save(case, folder / f"{name}.case")
    mp.spawn(work, (count, str(folder)), nprocs=count)
    return {
        name: (
            case,
            [torch.load(folder / f"{name}.{r}", weights_only=False) for r in range(count)],
        )
        for name, case in cases.items()
    }


def close(a: Tensor, b: Tensor, dtype: torch.dtype) -> None:
    """Equal to rounding, against the size of the whole tensor."""
    assert a.shape == b.shape
    if b.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    if not b.is_floating_point():
        assert torch.equal(a, b)
        return
    assert a.dtype == dtype
    scale = max(float(b.abs().max()), 1e-3) if b.numel() else 1.0
    torch.testing.assert_close(a.double(), b, rtol=0, atol=BOUND[dtype] * scale)


@pytest.mark.parametrize(("count", "name"), PAIRS)
def test_slices_equal_one_process(ran: Callable[[int], Found], count: int, name: str) -> None:
    case, ranks = ran(count)[name]
    expected, dtype = case["expected"], case["dtype"]
    for i, whole in enumerate(expected["outputs"]):
        close(torch.cat([r["outputs"][i] for r in ranks], 1), whole, dtype)
    for r in ranks:
        assert len(r["ends"]) == (len(expected["ends"]) if case["final"] else 0)
        for end, whole in zip(r["ends"], expected["ends"], strict=False):
            close(end, whole, dtype)
    for i, (argument, whole) in enumerate(zip(case["tensors"], expected["gradients"], strict=True)):
        shares = [r["gradients"][i] for r in ranks]
        if argument in case["inputs"]:
            close(torch.cat(shares, 1), whole, dtype)
        else:
            close(torch.stack(shares).sum(0), whole, dtype)
    for i, whole in enumerate(expected["state_gradients"]):
        if whole is not None:
            close(torch.stack([r["state_gradients"][i] for r in ranks]).sum(0), whole, dtype)


# ---------------------------------------------------------------- wrong calls


WRONG = ("heads", "sizes", "packing", "final state", "dtype", "gradients", "boundaries", "backend")


def wrong_cases(count: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Calls in which the last rank gives something else than the others, or all are wrong."""
    module, recurrence = compiled("simple_gla", None)
    file = folder / "wrong.py"
    file.write_text(module, encoding="utf-8")
    calls = {what: [_call() for _ in range(count)] for what in WRONG}
    calls["heads"][-1] = {n: x.repeat_interleave(2, 2) for n, x in _call().items()}
    calls["sizes"][-1]["v"] = torch.zeros(1, 5, 2, 7)
    for what, last in (("packing", None), ("boundaries", 5 * count)):
        for call in calls[what]:
            call["cu_seqlens"] = torch.tensor([0, 3, 5 * count + (last is not None)])
    calls["packing"][-1] = _call()
    calls["final state"][-1]["output_final_state"] = True
    calls["dtype"][-1] = {n: x.double() for n, x in _call().items()}
    calls["gradients"][-1]["q"].requires_grad_()
    for call in calls["backend"]:
        call["backend"] = "reference"
    common = {"module": str(file), "scan": recurrence.name, "wrong": True}
    return {f"wrong {what}": {**common, "calls": found} for what, found in calls.items()}


def _call() -> dict[str, Any]:
    return {
        "q": torch.zeros(1, 5, 2, 4),
        "k": torch.zeros(1, 5, 2, 4),
        "v": torch.zeros(1, 5, 2, 3),
        "g": torch.zeros(1, 5, 2),
    }


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("heads", ("agree on the number of heads", "2, 4]")),
        ("sizes", ("agree on the size V", "3, 7]")),
        ("packing", ("agree on the length of `cu_seqlens`", "3, 0]")),
        ("final state", ("agree on `output_final_state`",)),
        ("dtype", ("agree on the compute dtype",)),
        ("gradients", ("agree on whether gradients are required",)),
        ("boundaries", ("`cu_seqlens` must rise from 0 to T = ",)),
        ("backend", ("`group` needs `backend` 'torch' or 'triton'",)),
    ],
)
def test_ranks_that_do_not_agree_are_told(
    ran: Callable[[int], Found], what: str, words: tuple[str, ...]
) -> None:
    _, ranks = ran(3)[f"wrong {what}"]
    for rank in ranks:
        for word in ("simple_gla: ", *words):
            assert word in rank["error"]


def test_a_group_needs_distributed_and_has_no_step(tmp_path: Path) -> None:
    module = imported(compiled("simple_gla", None)[0], tmp_path, "alone")
    call = _call()
    with pytest.raises(ValueError, match=r"simple_gla: `group` needs .*init_process_group"):
        module.simple_gla(**call, group=object())
    token = {n: x[:, 0] for n, x in call.items()}
    with pytest.raises(TypeError, match="unknown keyword `group`"):
        module.simple_gla_step(**token, group=object())
    place = f"file://{tmp_path}/meeting"
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        with pytest.raises(TypeError, match=r"must be a group of torch\.distributed, got object"):
            module.simple_gla(**call, group=object())
        other = torch.distributed.GroupMember.NON_GROUP_MEMBER
        with pytest.raises(ValueError, match="no member of `group`"):
            module.simple_gla(**call, group=other)
        one, _ = module.simple_gla(**call, group=torch.distributed.group.WORLD)
        assert torch.equal(one, module.simple_gla(**call)[0])
    finally:
        torch.distributed.destroy_process_group()
