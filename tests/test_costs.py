"""What the cost models count for small steps, against counts done by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from scandsl.diagnostics import Source
from scandsl.driver import Options, plan
from scandsl.kernels.backward import backward_program
from scandsl.kernels.chunk import chunk_program
from scandsl.kernels.cost import Setting, compulsory_bytes, kernel_cost, setting
from scandsl.kernels.memory import rows_memory, torch_memory
from scandsl.kernels.predict import SCORES, Call, Speeds, chunks_seconds, steps_seconds
from scandsl.kernels.program import ChunkProgram
from scandsl.kernels.schedule import schedule
from scandsl.kernels.step import StepProgram, step_program
from scandsl.kernels.step_cost import checkpoint_steps, step_costs
from scandsl.kernels.step_tiles import crowding, tile_sizes
from scandsl.plan import limits
from scandsl.render.lowering import lower
from scandsl.render.sequential_triton import step_of

ADDED = """scan added:
    input q[K], k[K], v[V]
    state S[K, V]
    S = S + k * v
    output o[V] = q @ S
"""
LEAK = """scan leak:
    input a in [0, 1], x[V]
    state S[V]
    S = a * S + x
    output o[V] = S
"""
GATED = """scan gated:
    input q[K], k[K], v[V], g[K] in [-inf, 0]
    state S[K, V]
    S = exp(g) * S + k * v
    output o[V] = q @ S
"""
ENTRIES = """scan entries:
    input d[K] in [-1, 0], w[V], k[K], v[V], q[K]
    state S[K, V]
    S = exp(d * w) * S + k * v
    output o[V] = q @ S
"""
TURNED = """scan turned:
    input l[V]: complex, x[V]
    state S[V]: complex
    S = l * S + x
    output o[V] = re(S)
"""
K, V = 3, 5
SIZES = {"K": K, "V": V}
STARTS = Speeds(1.0, math.inf, math.inf)
BYTES = Speeds(0.0, 1.0, math.inf)
PRODUCTS = Speeds(0.0, math.inf, 1.0)


def planned(text: str) -> Any:
    return plan(Source("spec.scan", text), Options())[1][0].program


def stepped(text: str) -> tuple[Any, StepProgram]:
    recurrence = planned(text).recurrence
    return recurrence, step_program(step_of(lower(recurrence)))


def chunked(text: str) -> tuple[Any, ChunkProgram, ChunkProgram]:
    program = planned(text)
    recurrence, forward = program.recurrence, chunk_program(program)
    backward = backward_program(forward, recurrence.inputs, recurrence.params).program
    return recurrence, forward, backward


# ---------------------------------------------------------------- seconds


def test_seconds_of_a_loop_over_tokens() -> None:
    """k v, S + k v, q S; of the adjoint S ḋo, do q, dS + do q, dS v, k dS."""
    _, step = stepped(ADDED)
    call = Call(2, 7, 3)
    rows = 2 * 3 * 7

    def both(speeds: Speeds) -> tuple[float, float]:
        found = steps_seconds(step, SIZES, call, speeds)
        return found["forward"], found["backward"]

    # all heads and sequences at once, so that only tokens count
    assert both(STARTS) == pytest.approx((8 * 7 / 3, 8 * 7))
    outer, sums = K * V + K + V, 3 * K * V
    assert both(BYTES)[1] == 4 * rows * (6 * outer + 2 * sums)
    # a product reaches K / (K + 16) of the speed: K is the least of its three sides
    assert both(PRODUCTS)[1] == pytest.approx(rows * 4 * (2 * K * V) * (K + 16) / K)


def test_seconds_of_a_loop_whose_kernels_take_heads_together() -> None:
    """a S, a S + x; of the adjoint do + dS, a dS, S dS summed to one number."""
    _, step = stepped(LEAK)
    assert step.heads
    found = steps_seconds(step, SIZES, Call(1, 1, 4), STARTS)
    assert found["backward"] == 5
    found = steps_seconds(step, SIZES, Call(1, 1, 4), BYTES)
    assert found["backward"] == 4 * 4 * (2 * (2 * V + 1) + 2 * 3 * V + (2 * V + 1))
    found = steps_seconds(step, SIZES, Call(1, 1, 4), PRODUCTS)
    assert found["backward"] == pytest.approx(4 * 2 * V * (V + 16) / V)


def test_seconds_of_chunks() -> None:
    """Scores, their mask, what of it is left, and three products; then the carry."""
    _, forward, _ = chunked(ADDED)
    length, call = 16, Call(2, 40, 3)
    chunks, many = 3, 3 * 2 * 3

    def seconds(speeds: Speeds) -> float:
        return chunks_seconds(forward, SIZES, call, length, speeds)

    # nine operators, and for each chunk two more that hand the carry on
    assert seconds(STARTS) == 9 + 2 * chunks
    k, v, square, state = length * K, length * V, length**2, K * V
    touched = (
        (k + state + v)  # q S
        + (2 * k + square)  # q k
        + (length + length + square)  # the mask
        + (square + square + 1 + square)  # masked scores
        + (square + v + v)  # scores v
        + 3 * v  # both parts of the output
        + (length + v + 1 + v)  # v of tokens that there are
        + (k + v + state)  # k v
        + 3 * state  # the new state
    )
    handed = chunks * 3 * 4 * state * 2 * 3
    assert seconds(BYTES) == 4 * many * touched + handed
    products = (
        2 * v * K * (K + 16) / K
        + 2 * square * K * (K + 16) / K
        + 2 * v * length * (V + 16) / V
        + 2 * state * length * (K + 16) / K
    )
    handed = chunks * 2 * V * state * 2 * 3
    assert seconds(PRODUCTS) == pytest.approx(many * products + handed)


def test_scores_of_vector_decays_take_many_operators() -> None:
    """Beside those of the same step whose keys do not decay."""
    gated, added = (
        chunks_seconds(chunked(text)[1], SIZES, Call(1, 16, 1), 16, STARTS)
        for text in (GATED, ADDED)
    )
    assert gated - added >= SCORES - 1
    # what they multiply counts four times: twice for the decays
    length, call = 16, Call(1, 16, 1)
    products = (
        2 * length * V * K * (K + 16) / K  # q S
        + 4 * length**2 * K * (K + 16) / K  # the scores of earlier rows
        + 2 * length * K * (K + 16) / K  # each row's own
        + 2 * length * V * length * (V + 16) / V  # scores v
        + 2 * K * V * length * (K + 16) / K  # k v
        + 2 * V * K * V  # the carry
    )
    found = chunks_seconds(chunked(GATED)[1], SIZES, call, length, PRODUCTS)
    assert found == pytest.approx(products)


# ---------------------------------------------------------------- bytes and operations


def test_kernels_of_chunks() -> None:
    """In numbers of two bytes; a chunk has sixteen tokens."""
    recurrence, forward, _ = chunked(ADDED)
    at = Setting(SIZES, 2, 2, 16)
    (walk,) = schedule(forward, fused=True)
    found = kernel_cost(recurrence, walk, at)
    scores, weighted, state = 2 * 16 * K, 2 * 16 * V, 2 * K * V
    assert (found.read, found.written) == (2 * (2 * K + V), 2 * V)
    assert found.operations == scores + weighted + 2 * state
    assert found.kept == 2 * K * V / 16
    carry, chunk = (kernel_cost(recurrence, k, at) for k in schedule(forward, fused=False))
    assert (carry.read, carry.written, carry.kept) == (2 * (K + V), found.kept, 0)
    assert (chunk.read, chunk.written, chunk.kept) == (found.read + found.kept, 2 * V, 0)
    assert (carry.operations, chunk.operations) == (state, scores + weighted + state)
    assert compulsory_bytes(recurrence, at) == 2 * (2 * K + 2 * V)
    assert compulsory_bytes(recurrence, at, backward=True) == 2 * (4 * K + 3 * V)


def test_kernels_read_a_vector_for_every_tile_that_lacks_it() -> None:
    """A walk cuts V into tiles of 64, and adds what their parts of a gradient along K make."""
    recurrence, forward, backward = chunked(ADDED)
    at = Setting({"K": 64, "V": 256}, 2, 2, 64)
    (walk,) = schedule(forward, fused=True)
    assert walk.tiled == ("V",)
    found = kernel_cost(recurrence, walk, at)
    assert found.read == 2 * (4 * 64 + 4 * 64 + 256)
    assert found.operations == 2 * (4 * 64 * 64 + 64 * 256 + 2 * 64 * 256)
    costs = [kernel_cost(recurrence, k, at) for k in schedule(backward)]
    assert sum(c.written for c in costs) >= 2 * (64 + 64 + 256)


def test_states_of_three_dimensions_are_cut_into_smaller_tiles() -> None:
    deep = """scan deep:
    input q[K], k[K], a[A], v[V]
    state S[K, A, V]
    S = S + k * a * v
    S -= k * (k @ S)
    output o[A, V] = q @ S
"""
    recurrence, forward, _ = chunked(deep)
    (walk,) = (k for k in schedule(forward, fused=True) if k.loop)
    sizes = {"K": 16, "A": 64, "V": 64}
    assert set(walk.tiled) == {"A", "V"}
    found = kernel_cost(recurrence, walk, Setting(sizes, 2, 2, 16))
    # sixteen programs read q and k; four of those that share a tile of A read it, and so for V
    read = 2 * (16 * 2 * 16 + 4 * 64 + 4 * 64)
    prepared = found.read - read
    assert 0 <= prepared <= 16 * 2 * 16


def test_settings() -> None:
    """Chunks for two tiles are those of vectors twice as wide; static sizes stay."""
    plain, turned = planned(ADDED).recurrence, planned(TURNED).recurrence
    assert setting(plain, 128, 2).chunk == limits.chunk_size(128, 2) == 64
    assert setting(plain, 128, 4).chunk == limits.chunk_size(128, 4) == 32
    assert setting(turned, 64, 2) == Setting({"V": 64}, 2, 2, 64)
    matrix = TURNED.replace("x[V]", "x[K]").replace("S[V]", "S[K, V]").replace("re(S)", "re(x @ S)")
    assert setting(planned(matrix).recurrence, 64, 4).chunk == limits.chunk_size(2 * 64, 4) == 32
    static = planned(ADDED.replace("input", "static K = 8\n    input")).recurrence
    assert setting(static, 128, 2).sizes == {"K": 8, "V": 128}


def test_kernels_over_time() -> None:
    """One token: k v, S + k v and q S; backward the first two again, S do, do q, dS, dk, dv."""
    recurrence, step = stepped(ADDED)
    found = step_costs(recurrence, step, Setting(SIZES, 2, 2, 16))
    state, inputs = K * V, 2 * (2 * K + V)
    forward, backward = found["forward"], found["backward"]
    assert (forward.read, forward.written) == (inputs, 2 * V)
    assert forward.operations == 2 * state + 2 * state
    assert forward.kept == 4 * state / 64
    # the step again reads k and v, the adjoint all inputs, the states before and after, and do
    again = 2 * (K + V)
    assert backward.read == again + inputs + 4 * state + 2 * V + forward.kept
    assert backward.written == 4 * state + inputs
    assert backward.operations == 2 * state + (2 * state + 3 * 2 * state + 2 * state)
    wide = step_costs(recurrence, step, Setting(SIZES, 2, 2, 16), frozenset({"q", "o"}))
    assert wide["forward"].read == inputs + 2 * K
    assert wide["forward"].written == 4 * V
    assert wide["backward"].written == backward.written + 2 * K


def test_kernels_over_time_cut_a_dimension() -> None:
    """Four programs of 64 columns forward, eight backward: each reads q and k."""
    recurrence, step = stepped(ADDED)
    sizes = {"K": 64, "V": 256}
    assert (crowding(step), step.independent) == (1, ("V",))
    assert tile_sizes(step, sizes, "forward") == {"K": 64, "V": 64}
    assert tile_sizes(step, sizes, "backward") == {"K": 64, "V": 32}
    found = step_costs(recurrence, step, Setting(sizes, 2, 2, 16))
    assert found["forward"].read == 2 * (4 * 128 + 256)
    # gradients of q and k come in eight parts in float32, which are read to be added
    backward, parts, state = found["backward"], 4 * 8 * 128, 4 * 64 * 256
    assert backward.written == state + parts + 2 * 256
    replay, adjoint = 2 * (8 * 64 + 256), 2 * (8 * 128 + 256)
    assert backward.read == replay + adjoint + state + 2 * 256 + state / 64 + parts


def test_complex_arguments_are_pairs_of_float32() -> None:
    recurrence, step = stepped(TURNED)
    found = step_costs(recurrence, step, Setting(SIZES, 2, 2, 16))
    assert found["forward"].read == 8 * V + 2 * V
    assert found["forward"].written == 2 * V


MATRIX = """scan matrix:
    input x[D]
    param R[D, D']
    state h[D]
    h = tanh(R @ h[D'] + x)
    output o[D] = h
"""


def test_matrices_that_do_not_fit_are_read_for_every_token() -> None:
    """Eight warps hold 64 numbers a thread forward, 32 backward."""
    recurrence, step = stepped(MATRIX)
    read = {}
    for size in (64, 128, 256):
        at = Setting({"D": size, "D'": size}, 2, 2, 16)
        found = step_costs(recurrence, step, at)
        read[size] = [found[d].read for d in ("forward", "backward")]
        # the product, the renamed state, the sum and tanh
        assert found["forward"].operations == 2 * size**2 + 3 * size
    assert [x[0] for x in read.values()] == [2 * 64, 2 * 128, 2 * 256 + 2 * 256**2]
    # backward without a matrix: the step once more, x of it and the cotangent of o, the state
    small = read[64][1] / 64
    assert read[128][1] == pytest.approx(small * 128 + 2 * 2 * 128**2)
    assert read[256][1] == pytest.approx(small * 256 + 2 * 2 * 256**2)


def test_checkpoints_lie_about_the_root_of_the_length_apart() -> None:
    assert [checkpoint_steps(n) for n in (0, 1, 256, 257, 1024, 4096, 65536, 1 << 20)] == [
        16, 16, 16, 32, 32, 64, 256, 256,
    ]  # fmt: skip
    for tokens in (300, 1000, 5000, 30000):
        assert math.sqrt(tokens) / 2 <= checkpoint_steps(tokens) <= 2 * math.sqrt(tokens)


# ---------------------------------------------------------------- memory


def test_states_are_kept_at_the_start_of_every_chunk() -> None:
    _, forward, backward = chunked(ADDED)
    found = torch_memory(forward, backward, SIZES, 100)
    assert (found.tokens, found.chunk, found.kept) == (100, 32, 4 * 4 * K * V)
    forced = torch_memory(forward, backward, SIZES, 100, 16)
    assert (forced.chunk, forced.kept) == (16, 4 * 7 * K * V)
    large = {"K": 65, "V": 64}
    assert torch_memory(forward, backward, large, 128).kept == 4 * 2 * 65 * 64


def test_pieces_hold_as_many_chunks_as_fit() -> None:
    """2^17 numbers of the widest tile, or of scores: what more chunks take is not more."""
    _, forward, backward = chunked(ADDED)
    for sizes, widest in (({"K": 16, "V": 64}, 64), ({"K": 16, "V": 16}, 32)):
        fit = limits.PIECE // (32 * widest)
        full = torch_memory(forward, backward, sizes, 32 * fit).working
        assert torch_memory(forward, backward, sizes, 32 * fit * 3).working == full
        assert torch_memory(forward, backward, sizes, 32 * fit // 2).working == full // 2


def test_memory_where_states_move_entry_by_entry() -> None:
    _, forward, backward = chunked(ENTRIES)
    found = rows_memory(forward, backward, SIZES, 130)
    assert (found.tokens, found.chunk, found.kept) == (130, limits.ROWS, 4 * 3 * K * V)
    assert rows_memory(forward, backward, SIZES, 130, 16).kept == 4 * 9 * K * V
    # six values of all entries, five of V, six of K, both states; two recurrences, each with the
    # row that it starts from, and once more where several chunks are taken at a time
    length, state = limits.ROWS, K * V
    plain = 6 * length * state + 5 * length * V + 6 * length * K + 2 * state
    runs = 2 * (length + 1) * state
    assert rows_memory(forward, backward, SIZES, length).working == 4 * (plain + runs)
    assert found.working == 4 * 3 * (plain + 2 * runs)
    # fewer than four chunks of the widest rows in a piece are taken one by one, and hold each
    # recurrence once; from four on twice
    wide = {"K": 64, "V": limits.ROWS_PIECE // (64 * 64) // 3}
    one = rows_memory(forward, backward, wide, 64).working
    assert rows_memory(forward, backward, wide, 64 * 3).working == one
    less = {"K": 64, "V": limits.ROWS_PIECE // (64 * 64) // 4}
    four = rows_memory(forward, backward, less, 64 * 4).working
    assert rows_memory(forward, backward, less, 64 * 9).working == four
    assert rows_memory(forward, backward, less, 64 * 2).working == four / 2
    widest = 64 * limits.ROWS * wide["V"]
    assert 4 * 4 * widest < one < four
