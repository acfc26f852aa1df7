"""`S ↦ M S + N`: the maps of a slice of time, against the chunks themselves, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scandsl.analysis import analyse
from scandsl.analysis.program import Form, Program
from scandsl.diagnostics import Source
from scandsl.driver import check
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.state_map import BY, StateMap, composition
from tests.generated import ROOT
from tests.test_chunk_program import BOUND, CHUNK, SIZES, TIME, Chunked, drawn

FILES = (*(f"tests/specs/{x}.scan" for x in ("chunk", "decays", "coupled_matrices", "blocks")), *(
    f"examples/{x}.scan" for x in (
        "linear_attention", "simple_gla", "gla", "gated_delta_rule", "delta_product", "rwkv7",
        "kimi_delta_attention", "gated_slot_attention", "mlstm_sigmoid",
    )
))  # fmt: skip
# A state that two others are needed for, one after the other; and one whose map is a number.
LEVELS = """scan levels:
    input q[K], k[K], v[V], g in (-inf, 0]
    state S[K, V], A[K, V], B[V], c
    S = exp(g) * S + k * v
    A = 0.5 * A + k * tanh(q @ S)
    B = sigmoid(q @ k) * B - q @ A
    c = c / 2 + g
    output o[V] = B + c
"""


def programs() -> dict[str, Program]:
    found = {}
    for text in (*((ROOT / path).read_text(encoding="utf-8") for path in FILES), LEVELS):
        for recurrence in check(Source("spec.scan", text)).recurrences:
            program = analyse(recurrence)
            if program.form is Form.CHUNK:
                found[recurrence.name] = program
    return found


PROGRAMS = programs()
MAPS = {n: c for n, p in PROGRAMS.items() if (c := composition(chunk_program(p))) is not None}


def identity(found: StateMap, sizes: dict[str, int]) -> Tensor:
    side = [sizes[d] for d in found.over]
    eye = torch.eye(math.prod(side), dtype=torch.float64).reshape([*side, *side])
    beside = [sizes[d] for d in found.beside]
    return eye.reshape([*eye.shape, *[1] * len(beside)]).expand([*eye.shape, *beside]).clone()


def applied(found: StateMap, by: Tensor, state: Tensor, dims: tuple[str, ...]) -> Tensor:
    """`M S`, the axes of S as `dims`."""
    letters = {d: chr(97 + i) for i, d in enumerate((*dims, *(BY + x for x in found.over)))}
    m = "".join(letters[d] for d in found.dims)
    s = "".join(letters[BY + d] if d in found.over else letters[d] for d in dims)
    return torch.einsum(f"{m},{s}->{''.join(letters[d] for d in dims)}", by, state)


@pytest.mark.parametrize("name", MAPS)
def test_a_slice_leaves_what_its_map_says(name: str) -> None:
    program, found = PROGRAMS[name], MAPS[name]
    recurrence, forward = program.recurrence, chunk_program(program)
    tensors, state = drawn(recurrence, TIME)
    chunked = Chunked(recurrence, tensors, CHUNK)
    chunked.sizes |= {BY + d: n for d, n in chunked.sizes.items()}
    chunked.layouts |= {m.name: m.dims for m in found.maps if m.name is not None}
    starts = {c.name: state[c.name][0, 0] for c in forward.carries}
    _, ends = chunked.forward(forward, starts)
    names = [c.name for c in forward.carries]
    levels = {n: m.level for n, m in zip(names, found.maps, strict=True)}
    for carry, moved in zip(forward.carries, found.maps, strict=True):
        # others that the map looks at are known by now; all else starts from zero
        given = {n: x if levels[n] < moved.level else 0 * x for n, x in starts.items()}
        given |= {m.name: identity(m, chunked.sizes) for m in found.maps if m.name is not None}
        _, left = chunked.forward(found.program, given)
        by = identity(moved, chunked.sizes) if moved.name is None else left[moved.name]
        got = applied(moved, by, starts[carry.name], carry.dims) + left[carry.name]
        torch.testing.assert_close(got, ends[carry.name], rtol=BOUND, atol=BOUND)


def sizes_of(name: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...], int, bool]]:
    forward = chunk_program(PROGRAMS[name])
    pairs = zip(forward.carries, MAPS[name].maps, strict=True)
    return {c.name: (m.over, m.beside, m.level, m.name is None) for c, m in pairs}


def test_maps_are_as_large_as_they_have_to_be() -> None:
    """The identity, a number, a diagonal, a matrix; levels in the order of what has to be known."""
    assert set(sizes_of("linear_attention").values()) == {((), (), 0, True)}
    assert sizes_of("simple_gla") == {"S": ((), (), 0, False)}
    assert sizes_of("gla") == {"S": ((), ("K",), 0, False)}
    assert sizes_of("gated_delta_rule") == {"S": (("K",), (), 0, False)}
    assert sizes_of("kimi_delta_attention") == {"S": (("K",), (), 0, False)}
    found = sizes_of("levels")
    assert {n: x[2] for n, x in found.items()} == {"S": 0, "A": 1, "B": 2, "c": 0}
    assert {x[:2] for x in found.values()} == {((), ())}


def test_no_map_is_larger_than_what_it_saves() -> None:
    """A matrix for every column has none, nor has a state that two others stand in a ring with."""
    assert set(PROGRAMS) - set(MAPS)
    for name, found in MAPS.items():
        for moved, carry in zip(found.maps, chunk_program(PROGRAMS[name]).carries, strict=True):
            assert not (moved.over and moved.beside), name
            assert {*moved.over, *moved.beside} <= {*carry.dims}


assert SIZES["K"] != SIZES["V"]  # or a map that is applied to the wrong side may go unseen
