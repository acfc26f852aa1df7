"""What one sequence of a batch cannot do to another, and what strides cannot do to anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy in the interpreter

CLASSES = (  # one for every way in which states move, and every form
    "linear_attention", "simple_gla", "gla", "gated_delta_rule", "kimi_delta_attention", "mamba",
    "mlstm", "xpos_retention", "lru", "decayed_max", "log_sum_exp", "linoss", "s4", "ttt_linear",
    "gru", "hippo_legs", "conv_gated_delta_rule", "short_convolution", "rwkv4",
)  # fmt: skip
ON_TRITON = ("simple_gla", "gated_delta_rule", "mamba", "gru")
EXAMPLES = tuple(sorted(p.stem for p in (ROOT / "examples").glob("*.scan")))
LENGTHS, BAD = (37, 70, 0, 21), 1
Results = dict[str, Tensor]


def recurrence_of(name: str) -> Recurrence:
    """The scan of an example."""
    return check(read_source(ROOT / "examples" / f"{name}.scan")).recurrences[0]


def called(
    recurrence: Recurrence,
    given: Mapping[str, Tensor],
    marks: Sequence[int] | None,
    backend: str,
    form: str | None = None,
) -> Results:
    """Outputs, states, and gradients of the inputs, by names."""
    module = load(ROOT / "examples" / f"{recurrence.name}.scan", form=form)
    leaves = {n: given[n].detach().requires_grad_() for n in recurrence.arguments}
    cu = None if marks is None else torch.tensor(marks)
    function = getattr(module, recurrence.name)
    *outputs, state = function(
        *leaves.values(), cu_seqlens=cu, backend=backend, output_final_state=True
    )
    ends = [state] if isinstance(state, Tensor) else list(state)
    found = {f"output {i}": x for i, x in enumerate(outputs)}
    found |= {f"state {i}": x for i, x in enumerate(ends)}
    smooth = [x for x in found.values() if x.requires_grad]
    wanted = [x for n, x in leaves.items() if n in {i.name for i in recurrence.inputs}]
    names = [n for n in leaves if n in {i.name for i in recurrence.inputs}]
    slopes = [torch.cos(torch.arange(x.numel()) + 0.3).reshape(x.shape).to(x) for x in smooth]
    if marks is None:  # the same for every sequence
        slopes = [g[:1].expand(x.shape) for g, x in zip(slopes, smooth, strict=True)]
    grads = torch.autograd.grad(smooth, wanted, slopes, allow_unused=True)
    found |= {f"d {n}": g for n, g in zip(names, grads, strict=True) if g is not None}
    return {n: x.detach() for n, x in found.items()}


def isolated(name: str, backend: str, form: str | None, poison: float, where: str) -> None:
    """What is not finite in one packed sequence does not reach the others."""
    recurrence = recurrence_of(name)
    lengths = LENGTHS if backend == "torch" else (3, 6, 0, 4)
    dtype = torch.float64 if backend == "torch" else torch.float32
    sizes = {d.name: 4 for d in recurrence.dims if d.size is None and d.base is None}
    data = draw(
        recurrence,
        {} if backend == "torch" else sizes,
        Layout(lengths=lengths, heads=1),
        dtype=dtype,
        seed=1,
    )
    marks = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
    start, end = marks[BAD], marks[BAD + 1]
    hit = {"all": slice(start, end), "first": slice(start, start + 1), "last": slice(end - 1, end)}
    inputs = {x.name for x in recurrence.inputs}
    bad = {n: x.clone() for n, x in data.tensors.items()}
    for n in inputs:
        bad[n][:, hit[where]] = poison
    clean = called(recurrence, data.tensors, marks, backend, form)
    found = called(recurrence, bad, marks, backend, form)
    if poison != poison and where == "all":
        assert not torch.isfinite(found["output 0"][:, start:end]).all()
    tokens = [i for i in range(marks[-1]) if not start <= i < end]
    others = [i for i in range(len(lengths)) if i != BAD]
    for what, x in clean.items():
        y = found[what]
        x, y = (x[others], y[others]) if what.startswith("state") else (x[:, tokens], y[:, tokens])
        # on a CPU how decays are multiplied up is chosen by what is at hand, for all at once
        torch.testing.assert_close(y, x, rtol=1e-10 if backend == "torch" else 0, atol=1e-13)


@pytest.mark.parametrize("name", CLASSES)
def test_nothing_reaches_another_sequence(name: str) -> None:
    isolated(name, "torch", None, float("nan"), "all")
    isolated(name, "torch", None, float("inf"), "last")


@pytest.mark.parametrize("name", ON_TRITON)
def test_nothing_reaches_another_sequence_on_triton(name: str) -> None:
    isolated(name, "triton", None, float("nan"), "all")


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "sequential"])
@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_reaches_another_sequence_anywhere(
    name: str, backend: str, form: str | None
) -> None:
    for poison in (float("nan"), float("inf"), float("-inf")):
        for where in ("all", "first", "last"):
            isolated(name, backend, form, poison, where)


# ---------------------------------------------------------------- the same bits


@pytest.mark.parametrize("name", ON_TRITON)
def test_neighbours_do_not_change_a_bit_on_triton(name: str) -> None:
    recurrence = recurrence_of(name)
    sizes = {d.name: 4 for d in recurrence.dims if d.size is None and d.base is None}
    data = draw(recurrence, sizes, Layout(lengths=(5, 18), heads=1), seed=2)
    inputs = {x.name for x in recurrence.inputs}
    alone = {n: x[:, 5:] if n in inputs else x for n, x in data.tensors.items()}
    before = called(recurrence, data.tensors, [0, 5, 23], "triton")
    single = called(recurrence, alone, None, "triton")
    again = called(recurrence, alone, None, "triton")
    three = {n: x.expand(3, *x.shape[1:]) if n in inputs else x for n, x in alone.items()}
    batch = called(recurrence, three, None, "triton")
    for what, x in single.items():
        assert torch.equal(again[what], x), what
        assert torch.equal(batch[what][2:], x), what
        if what.startswith("output"):
            assert torch.equal(before[what][:, 5:], x), what
        elif what.startswith("state"):
            assert torch.equal(before[what][1:], x), what


@pytest.mark.parametrize("name", CLASSES[::3])
def test_the_same_call_gives_the_same_bits_on_torch(name: str) -> None:
    recurrence = recurrence_of(name)
    data = draw(recurrence, {}, Layout(batch=2, time=70, heads=2), seed=3)
    one = called(recurrence, data.tensors, None, "torch")
    two = called(recurrence, data.tensors, None, "torch")
    assert all(torch.equal(two[what], x) for what, x in one.items())


# ---------------------------------------------------------------- strides


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("name", ["simple_gla", "mamba"])
def test_strides_do_not_matter(name: str, backend: str) -> None:
    recurrence = recurrence_of(name)
    sizes = {d.name: 4 for d in recurrence.dims if d.size is None and d.base is None}
    data = draw(recurrence, sizes, Layout(batch=2, time=9, heads=2), seed=4).tensors
    same = {n: x[..., :1, :1].expand(x.shape) if x.ndim == 4 else x for n, x in data.items()}
    views = (
        (data, {n: x.movedim(-1, 0).contiguous().movedim(0, -1) for n, x in data.items()}),
        (data, {n: torch.stack([x, x], -1)[..., 1] for n, x in data.items()}),
        (same, {n: x.contiguous() for n, x in same.items()}),
    )
    for plain, odd in views:
        first = called(recurrence, plain, None, backend)
        second = called(recurrence, odd, None, backend)
        for what, x in first.items():
            torch.testing.assert_close(second[what], x)


def test_wrong_kinds_of_numbers_are_told() -> None:
    module = load(ROOT / "examples" / "gated_delta_rule.scan")
    recurrence = recurrence_of("gated_delta_rule")
    data = draw(recurrence, {}, Layout(batch=1, time=3, heads=2)).tensors
    given = [data[n] for n in recurrence.arguments]
    turned = [given[0].to(torch.complex64), *given[1:]]
    with pytest.raises(TypeError, match=r"`q` must be a real floating tensor, got torch.complex64"):
        module.gated_delta_rule(*turned)
    with pytest.raises(TypeError, match=r"unknown keyword `cu_seqlen`; did you mean `cu_seqlens`"):
        module.gated_delta_rule(*given, cu_seqlen=None)
    with pytest.raises(TypeError, match=r"unknown keyword `stat`; did you mean `state`"):
        module.gated_delta_rule_step(*(x[:, 0] for x in given), stat=None)


def test_the_environment_asks_for_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load(ROOT / "examples" / "gated_delta_rule.scan")
    recurrence = recurrence_of("gated_delta_rule")
    data = draw(recurrence, {}, Layout(batch=1, time=3, heads=2)).tensors
    data["g"][0, 2, 1] = 0.5
    given = [data[n] for n in recurrence.arguments]
    module.gated_delta_rule(*given)
    monkeypatch.setattr(module, "_ALWAYS_CHECK", True)
    with pytest.raises(ValueError, match=r"`g` is promised in .*, got 0.5 at \(0, 2, 1\)"):
        module.gated_delta_rule(*given)
