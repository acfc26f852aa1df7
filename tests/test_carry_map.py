"""Carries by `M S + N`: the same numbers as the chunk program itself."""

from __future__ import annotations

import pytest
import torch

from scandsl.analysis import analyse
from scandsl.analysis.program import Form, Program
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.kernels.carry_map import sizes_of, with_carry_maps
from scandsl.kernels.chunk import chunk_program
from tests.generated import ROOT
from tests.test_chunk_program import BOUND, CHUNK, TIME, Chunked, drawn, programs

MORE = """scan turned_and_added:
    input q[K], k[K] in unit, v[V], w[V], g in (-inf, 0], beta in [0, 1]
    state S[K, V]
    S = -exp(g) * (w - S)
    S = k * v - (S - beta * k * (k @ S))
    output o[V] = q @ S

scan twice:
    input q[K], k[K] in unit, h[K] in unit, v[V], beta in [0, 1], c[K] in (-inf, 0]
    state S[K, V]
    S *= exp(c)
    S += beta * k * (v - k @ S)
    S -= h * (h @ S) - 0.5 * k * (h @ S)
    output o[V] = q @ S

scan columns:
    input q[K], k[K] in unit, v[V], d[V] in (-inf, 0], beta in [0, 1]
    state S[K, V]
    S *= exp(d)
    S += beta * k * (v - k @ S)
    output o[V] = q @ S
"""


def all_programs() -> dict[str, Program]:
    found = dict(programs())
    rules = (ROOT / "tests" / "specs" / "rules.scan").read_text(encoding="utf-8")
    for text in (rules, MORE):
        for recurrence in check(Source("spec.scan", text)).recurrences:
            program = analyse(recurrence)
            complex_ = any(s.kind.value == "complex" for s in recurrence.states)
            if program.form is Form.CHUNK and not complex_ and not program.stages:
                found[recurrence.name] = program
    return found


PROGRAMS = all_programs()
MAPPED = [n for n, p in PROGRAMS.items() if sizes_of(with_carry_maps(chunk_program(p)))]


@pytest.mark.parametrize("name", MAPPED)
def test_the_same_numbers(name: str) -> None:
    program = PROGRAMS[name]
    forward = chunk_program(program)
    mapped = with_carry_maps(forward)
    tensors, state = drawn(program.recurrence, TIME)
    chunked = Chunked(program.recurrence, tensors, CHUNK)
    start = {c.name: state[c.name][0, 0] for c in forward.carries}
    outputs, ends = chunked.forward(forward, start)
    chunked.sizes |= {new: chunked.sizes[base] for new, base in sizes_of(mapped).items()}
    found, left = chunked.forward(mapped, start)
    for one, two in ((outputs, found), (ends, left)):
        assert one.keys() == two.keys()
        for key in one:
            torch.testing.assert_close(two[key], one[key], rtol=BOUND, atol=BOUND)


def test_which_carries_have_maps() -> None:
    """Those that go through sums; not those that only decay, nor what differs along columns."""
    assert {"turned_and_added", "twice"} <= {*MAPPED}
    assert {"columns", "shared_out", "marked"}.isdisjoint(MAPPED)
    forward = chunk_program(PROGRAMS["twice"])
    assert set(sizes_of(with_carry_maps(forward)).values()) == {"K"}
