"""4096 tokens in float32: the chunked form against float64, beside the loop over tokens.

The loop is the generated sequential form on torch, which takes the steps as the judge does, only
faster; tests hold it against the judge.  All kinds of gates lie side by side in one batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from scandsl.driver import check
from scandsl.ir.nodes import Recurrence
from scandsl.loader import load, read_source
from scandsl.testing.compare import relative_rms
from scandsl.testing.data import Layout, draw
from tests.generated import ROOT
from tests.test_numerics import FLOOR, values_and_gradients

TIME, SIZE, HEADS = 4096, 16, 4


@dataclass(frozen=True, slots=True)
class Subject:
    """A scan, its gates (logarithms, or factors), and the key and strength of its delta rules."""

    file: str
    scan: str
    gates: tuple[str, ...]
    factors: bool = False
    key: str = ""
    strength: str = ""
    bounded: bool = False  # the gates declare that they are -5 at least


def subject(scan: str, *gates: str, **more: Any) -> Subject:
    return Subject(f"examples/{scan}.scan", scan, gates, **more)


def spec(scan: str, *gates: str, **more: Any) -> Subject:
    return Subject("tests/specs/decays.scan", scan, gates, **more)


DELTA = {"key": "k", "strength": "beta"}
FEW = (
    subject("simple_gla", "g"),
    subject("gla", "g"),
    subject("gated_delta_rule", "g", **DELTA),
    subject("kimi_delta_attention", "g", **DELTA),
    spec("value_decay", "g"),
)
BOUNDED_DELTA = Subject("tests/specs/bounded.scan", "bounded_delta", ("g",), bounded=True, **DELTA)
MORE = (
    BOUNDED_DELTA,
    subject("hgrn2", "f", factors=True),
    subject("rwkv6", "w"),
    subject("rwkv7", "w"),
    subject("delta_product", "g", **DELTA),
    subject("gated_oja_rule", "g", key="v", strength="beta"),
    subject("gated_slot_attention", "alpha", factors=True),
    spec("both_decays", "g", "h"),
    spec("rows_and_columns", "g", "h"),
)

# What fills a gate: the least and the greatest logarithm, and the share of exact resets.
KINDS = {
    "wide": (-50.0, 0.0, 0.0),
    "mild": (-5.0, 0.0, 0.0),
    "steep": (-50.0, -10.0, 0.0),
    "wide, resets": (-50.0, 0.0, 0.02),
    "mild, resets": (-5.0, 0.0, 0.02),
    "steep, resets": (-50.0, -10.0, 0.1),
}
BOUNDED = {"mild": KINDS["mild"], "least": (-5.0, -4.5, 0.0), "slight": (-0.1, 0.0, 0.0)}
# For delta rules, strength one: the same key at all tokens, or nearly; gates of one, or mild.
CORRELATED = {"equal keys": 0.0, "nearly equal keys": 0.01}


# Where the shares of reads, probes and writes in a gate's gradient cancel to a few thousandths, it
# has 2.0 to 2.1 times the error of the loop, whatever the length of the chunks.
CANCELLED = {
    ("gated_delta_rule", "g (gated, nearly equal keys)"): 2.2,
    ("delta_product", "g (gated, nearly equal keys)"): 2.2,
    # Gradients of angles per token are differences of sums over the other tokens of a chunk.
    ("mamba3", "theta"): 4.0,
}


def recurrence_of(one: Subject) -> Recurrence:
    (found,) = (r for r in check(read_source(ROOT / one.file)).recurrences if r.name == one.scan)
    return found


def data(recurrence: Recurrence, one: Subject, time: int) -> tuple[list[str], dict[str, Tensor]]:
    """The kinds, and arguments with one sequence for each."""
    kinds = [
        *(BOUNDED if one.bounded else KINDS),
        *(f"{g}{c}" for c in CORRELATED if one.key for g in ("", "gated, ")),
    ]
    sizes = {d.name: SIZE for d in recurrence.dims if d.size is None and d.base is None}
    layout = Layout(batch=len(kinds), time=time, heads=HEADS)
    tensors = dict(draw(recurrence, sizes, layout, dtype=torch.float32).tensors)
    generator = torch.Generator().manual_seed(2)
    for row, kind in enumerate(kinds):
        _fill_gates(tensors, one, kind, row, generator)
        name = kind.removeprefix("gated, ")
        if name in CORRELATED:
            key, noise = tensors[one.key], CORRELATED[name]
            same = key[row, :1] + noise * torch.randn(key[row].shape, generator=generator)
            key[row] = torch.nn.functional.normalize(same, dim=-1)
            tensors[one.strength][row] = 1.0
    return kinds, tensors


def _fill_gates(
    tensors: dict[str, Tensor], one: Subject, kind: str, row: int, generator: torch.Generator
) -> None:
    given = {**KINDS, **BOUNDED}
    low, high, resets = KINDS["mild"] if kind.startswith("gated") else given.get(kind, (0, 0, 0))
    for gate in one.gates:
        shape = tensors[gate][row].shape
        logs = torch.rand(shape, generator=generator) * (high - low) + low
        reset = torch.rand(shape, generator=generator) < resets
        logs = torch.where(reset, -math.inf, logs)
        tensors[gate][row] = logs.exp() if one.factors else logs


def module(one: Subject, form: str | None = None) -> ModuleType:
    return load(ROOT / one.file, form=form)


def off(
    found: Mapping[str, Tensor], true: Mapping[str, Tensor], kinds: list[str]
) -> dict[str, float]:
    """Relative errors, sequence by sequence; those of params over all."""
    errors = {}
    for name, want in true.items():
        if want.shape[0] != len(kinds):
            errors[name] = relative_rms(found[name], want)
            continue
        for row, kind in enumerate(kinds):
            errors[f"{name} ({kind})"] = relative_rms(found[name][row], want[row])
    return errors


def no_worse_than_twice(one: Subject, loop: object, time: int = TIME) -> None:
    """The chunked form beside a loop: a function, or None for the judge."""
    recurrence = recurrence_of(one)
    kinds, tensors = data(recurrence, one, time)
    true = values_and_gradients(recurrence, tensors, torch.float64, loop)
    its = off(values_and_gradients(recurrence, tensors, torch.float32, loop), true, kinds)
    function = getattr(module(one), one.scan)
    mine = off(values_and_gradients(recurrence, tensors, torch.float32, function), true, kinds)
    assert all(math.isfinite(x) for x in mine.values())
    bound = {n: CANCELLED.get((one.scan, n), 2) * x + FLOOR for n, x in its.items()}
    assert {n: (x, its[n]) for n, x in mine.items() if x > bound[n]} == {}


@pytest.mark.parametrize(
    "one",
    [*FEW, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)],
    ids=lambda one: one.scan,
)
def test_no_worse_than_twice_the_loop(one: Subject) -> None:
    no_worse_than_twice(one, getattr(module(one, "sequential"), one.scan))


@pytest.mark.slow
@pytest.mark.parametrize("one", FEW[2:4], ids=lambda one: one.scan)
def test_no_worse_than_twice_the_judge(one: Subject) -> None:
    no_worse_than_twice(one, None)


@pytest.mark.parametrize("one", FEW, ids=lambda one: one.scan)
def test_the_loop_is_as_exact_as_the_judge(one: Subject) -> None:
    """In float64 it has those digits, in float32 errors of the same size."""
    recurrence = recurrence_of(one)
    _, tensors = data(recurrence, one, 100)
    sequential = getattr(module(one, "sequential"), one.scan)
    true = values_and_gradients(recurrence, tensors, torch.float64, None)
    wide = values_and_gradients(recurrence, tensors, torch.float64, sequential)
    narrow = values_and_gradients(recurrence, tensors, torch.float32, sequential)
    judge = values_and_gradients(recurrence, tensors, torch.float32, None)
    for name, want in true.items():
        assert relative_rms(wide[name], want) < 1e-14, name
        assert relative_rms(narrow[name], want) < 1.3 * relative_rms(judge[name], want), name


# Params that decay or rotate, maps before and after, chains: arguments as they are drawn.
DRAWN = """
    retnet xpos_retention linear_attention mamba2 mamba3 mlstm mlstm_sigmoid delta_net_block
    gated_delta_net
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("scan", DRAWN)
def test_no_worse_than_twice_the_loop_on_drawn_arguments(scan: str) -> None:
    one = subject(scan)
    recurrence = recurrence_of(one)
    sizes = {d.name: SIZE for d in recurrence.dims if d.size is None and d.base is None}
    layout = Layout(batch=2, time=TIME, heads=HEADS)
    tensors = dict(draw(recurrence, sizes, layout, dtype=torch.float32).tensors)
    if "gamma" in tensors:  # as in its paper, else the states forget at once
        tensors["gamma"] = 1 - 2.0 ** (-5 - torch.arange(HEADS))
    loop = getattr(module(one, "sequential"), scan)
    true = values_and_gradients(recurrence, tensors, torch.float64, loop)
    narrow = values_and_gradients(recurrence, tensors, torch.float32, loop)
    chunk = values_and_gradients(recurrence, tensors, torch.float32, getattr(module(one), scan))
    for name, want in true.items():
        bound = CANCELLED.get((scan, name), 2) * relative_rms(narrow[name], want) + FLOOR
        assert relative_rms(chunk[name], want) <= bound, name
