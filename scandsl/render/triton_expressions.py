"""Elementwise functions as Triton expressions.

In: operand texts (float32 tiles or numbers).  Out: one expression.  Only `triton.language` core
functions are used, so that the same text runs under Triton's interpreter.
"""

from __future__ import annotations

import operator
import re

from scandsl.diagnostics import InternalError

_TEMPLATES = {
    "neg": "-{x}",
    "not": "({x} == 0)",
    "exp": "tl.exp({x})",
    "log": "tl.log({x})",
    "log1p": "_log1p({x})",
    "expm1": "_expm1({x})",
    "sqrt": "tl.sqrt_rn({x})",
    "rsqrt": "tl.rsqrt({x})",
    "abs": "tl.abs({x})",
    "sign": "tl.where({x} > 0, 1.0, tl.where({x} < 0, -1.0, 0.0))",
    "floor": "tl.floor({x})",
    "sin": "tl.sin({x})",
    "cos": "tl.cos({x})",
    "tanh": "_tanh({x})",
    "sigmoid": "tl.sigmoid({x})",
    "logsigmoid": "(tl.minimum({x}, 0.0) - _log1p(tl.exp(-tl.abs({x}))))",
    "softplus": "(tl.maximum({x}, 0.0) + _log1p(tl.exp(-tl.abs({x}))))",
    "silu": "({x} * tl.sigmoid({x}))",
    "relu": "tl.maximum({x}, 0.0)",
    "elu": "tl.where({x} > 0, {x}, _expm1(tl.minimum({x}, 0.0)))",
    "gelu": "(0.5 * {x} * (1.0 + tl.erf(0.7071067811865476 * {x})))",
    "erf": "tl.erf({x})",
    "re": "{x}",
    "conj": "{x}",
}

_INFIX = {
    "add": "({a} + {b})",
    "sub": "({a} - {b})",
    "mul": "({a} * {b})",
    "div": "({a} / {b})",
    "max": "tl.maximum({a}, {b})",
    "min": "tl.minimum({a}, {b})",
    "logaddexp": "_logaddexp({a}, {b})",
    "lt": "({a} < {b})",
    "le": "({a} <= {b})",
    "gt": "({a} > {b})",
    "ge": "({a} >= {b})",
    "eq": "({a} == {b})",
    "ne": "({a} != {b})",
    "and": "({a} & {b})",
    "or": "({a} | {b})",
}

_COMPARE = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "eq": operator.eq,
    "ne": operator.ne,
}

HELPERS = """
def _log1p(x):
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / (u - 1.0)))


def _expm1(x):
    series = x * (1.0 + x * (0.5 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120)))))
    return tl.where(tl.abs(x) < 0.125, series, tl.exp(x) - 1.0)


def _tanh(x):
    square = x * x
    series = x * (1.0 - square * (1 / 3 - square * (2 / 15 - square * (17 / 315))))
    small = tl.exp(-2.0 * tl.abs(x))
    outer = tl.where(x < 0, -1.0, 1.0) * (1.0 - small) / (1.0 + small)
    return tl.where(tl.abs(x) < 0.125, series, outer)


def _logaddexp(a, b):
    top = tl.maximum(a, b)
    gap = -tl.abs(a - b)
    return tl.where(a == b, top + 0.6931471805599453, top + _log1p(tl.exp(gap)))


def _sum_of_sums(x):
    # of sums, as the last of running sums: for sm_100 Triton fails to lay out sums of sums
    ROWS: tl.constexpr = x.shape[0]
    last = tl.arange(0, ROWS) == ROWS - 1
    return tl.sum(tl.where(last, tl.cumsum(x, 0), 0.0), 0)


def _in_branch(a, b, count, PRECISION: tl.constexpr):
    # a product, in a branch that is always taken: outside of one Triton hands rows of it to all
    # warps if it goes into another product, and warps beyond the first four repeat their work
    out = tl.zeros([a.shape[0], b.shape[1]], dtype=tl.float32)
    if count > 0:
        out = tl.dot(a, b, input_precision=PRECISION)
    return out


def _apart(a, b, count, PRECISION: tl.constexpr):
    # rows fewer than Hopper's matrix units take go in as columns: other units want their operands
    # in registers
    if a.shape[0] < 64 and b.shape[1] >= 64:
        out = tl.trans(_in_branch(tl.trans(b), tl.trans(a), count, PRECISION))
    else:
        out = _in_branch(a, b, count, PRECISION)
    return out


def _of_rows(a, b, count, PRECISION: tl.constexpr, LATE: tl.constexpr):
    # a product with rows of a chunk: of short ones apart, that its operands are let go behind it,
    # if they are many numbers, or wide ones, or LATE: made of what is carried
    if a.shape[0] < 64 and (LATE or b.shape[1] >= 64 or a.dtype == tl.float32):
        out = _apart(a, b, count, PRECISION)
    else:
        out = tl.dot(a, b, input_precision=PRECISION)
    return out


def _dot_through(a, b, buffer, THROUGH: tl.constexpr, PRECISION: tl.constexpr):
    # a product; with THROUGH its factors go through memory, and come back a strip at a time: else
    # each stands in shared memory from its first product to its last
    if THROUGH:
        ROWS: tl.constexpr = a.shape[0]
        INNER: tl.constexpr = a.shape[1]
        COLUMNS: tl.constexpr = b.shape[1]
        row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
        inner = tl.arange(0, INNER)
        other = buffer + ROWS * INNER
        tl.debug_barrier()  # the factors of the product before have been read
        tl.store(buffer + row * INNER + inner[None, :], a)
        tl.store(other + inner[:, None] * COLUMNS + column, b)
        tl.debug_barrier()
        out = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for first in range(0, INNER, 16):
            strip = first + tl.arange(0, 16)
            left = tl.load(buffer + row * INNER + strip[None, :])
            right = tl.load(other + strip[:, None] * COLUMNS + column)
            out = tl.dot(left, right, out, input_precision=PRECISION)
    else:
        out = tl.dot(a, b, input_precision=PRECISION)
    return out


def _in_strips(
    at,
    between,
    inside,
    vector,
    size,
    ROWS: tl.constexpr,
    STRIP: tl.constexpr,
):
    # a matrix in memory times a vector, STRIP of its rows at a time: as a whole it would not fit
    # into the registers
    PARTS: tl.constexpr = ROWS // STRIP
    parts = tl.zeros([PARTS, STRIP], dtype=tl.float32)
    for part in range(PARTS):
        row = part * STRIP + tl.arange(0, STRIP)
        mask = (row < size)[:, None] & inside[None, :]
        tile = tl.load(at[None, :] + row[:, None] * between, mask=mask, other=0.0)
        total = tl.sum(tile.to(tl.float32) * vector[None, :], 1)
        here = tl.arange(0, PARTS) == part
        parts = tl.where(here[:, None], total[None, :], parts)
    return tl.reshape(parts, [ROWS])


def _ones(i, REVERSE: tl.constexpr, EXCLUSIVE: tl.constexpr):
    # which rows are part of the running sum of each
    if REVERSE:
        return (i[:, None] < i[None, :]) | ((i[:, None] == i[None, :]) & (not EXCLUSIVE))
    return (i[:, None] > i[None, :]) | ((i[:, None] == i[None, :]) & (not EXCLUSIVE))


def _tile_sums(
    x,
    i,
    PARTS: tl.constexpr,
    REVERSE: tl.constexpr,
    EXCLUSIVE: tl.constexpr,
    SHORT: tl.constexpr,
    DOT: tl.constexpr,
):
    # running sums over rows; with 16-bit vectors as products with a triangle of ones, x being
    # PARTS numbers of 8 bits each: products and sums that the matrix units hold exactly
    ROWS: tl.constexpr = x.shape[0]
    if SHORT:
        ones = tl.where(_ones(i, REVERSE, EXCLUSIVE), 1.0, 0.0).to(DOT)
        x = tl.where(x < -1e30, -1e30, x)  # a logarithm of zero
        part = x.to(tl.bfloat16)
        total = tl.dot(ones, part.to(DOT))
        for _ in tl.static_range(PARTS - 1):
            x -= part.to(tl.float32)
            part = x.to(tl.bfloat16)
            total = tl.dot(ones, part.to(DOT), total)
    elif EXCLUSIVE:
        EDGE: tl.constexpr = ROWS - 1 if REVERSE else 0
        STEP: tl.constexpr = 1 if REVERSE else -1
        place = tl.minimum(tl.maximum(i + STEP, 0), ROWS - 1)
        whole = tl.cumsum(x, 0, reverse=REVERSE)
        moved = tl.gather(whole, tl.broadcast_to(place[:, None], x.shape), 0)
        total = tl.where(i[:, None] == EDGE, 0.0, moved)
    else:
        total = tl.cumsum(x, 0, reverse=REVERSE)
    return total


def _tile_segment(logs, i, CHUNK: tl.constexpr):
    # sums over the rows j < m <= i as differences of running sums, none of which rounds off what
    # lies outside: sums of multiples of 1 / 64 are exact up to 2^18, and the rests are small; a
    # logarithm of zero is held at one whose exponential is zero
    LIMIT: tl.constexpr = 262144.0 / CHUNK
    bounded = tl.minimum(tl.maximum(logs, -LIMIT), LIMIT)
    coarse = tl.floor(bounded * 64.0 + 0.5) * 0.015625
    rest = tl.cumsum(bounded - coarse, 0)
    coarse = tl.cumsum(coarse, 0)
    total = (coarse[:, None] - coarse[None, :]) + (rest[:, None] - rest[None, :])
    return tl.where(i[:, None] >= i[None, :], total, float("-inf"))


def _tile_inverse(x, i, CHUNK: tl.constexpr, EXACT: tl.constexpr):
    # of 1 - L for the part L of x under the diagonal: of both halves by substitution, column by
    # column from the last one; then the corner between them
    PARTS: tl.constexpr = 2 if CHUNK > 16 else 1
    SIDE: tl.constexpr = CHUNK // PARTS
    b = tl.arange(0, PARTS)
    c = tl.arange(0, SIDE)
    mine = b[:, None, None, None]
    other = b[None, None, :, None]
    cut = tl.reshape(x, [PARTS, SIDE, PARTS, SIDE])
    below = tl.sum(tl.where(mine == other, cut, 0.0), 2)
    below = tl.where(c[None, :, None] > c[None, None, :], below, 0.0)
    if PARTS > 1:
        corner = tl.sum(tl.sum(tl.where(mine > other, cut, 0.0), 2), 0)
    eye = tl.where(c[:, None] == c[None, :], 1.0, 0.0)
    inverse = tl.broadcast_to(eye[None, :, :], [PARTS, SIDE, SIDE])
    for step in range(1, SIDE):
        here = c[None, None, :] == SIDE - 1 - step
        line = tl.sum(tl.where(here, below, 0.0), 2)
        more = tl.sum(inverse * line[:, None, :], 2)
        inverse += tl.where(here, more[:, :, None], 0.0)
    out = tl.where(mine == other, inverse[:, :, None, :], 0.0)
    if PARTS > 1:
        first = tl.sum(tl.where(b[:, None, None] == 0, inverse, 0.0), 0)
        second = tl.sum(tl.where(b[:, None, None] == 1, inverse, 0.0), 0)
        corner = tl.dot(corner, first, input_precision=EXACT)
        corner = tl.dot(second, corner, input_precision=EXACT)
        out += tl.where(mine > other, corner[None, :, None, :], 0.0)
    return tl.reshape(out, [CHUNK, CHUNK])


def _left(decay, FACTORS: tl.constexpr):
    # what is left after a sum of logarithms, or after a product of factors
    if FACTORS:
        return decay
    return tl.exp(decay)


def _stretched(before, after, total, i, level, FACTORS: tl.constexpr = False):
    # sums (or products) over stretches of 2^level rows become those over stretches twice as long
    second = (((i >> level) & 1) == 1)[:, None]
    near = tl.broadcast_to((i ^ (1 << level))[:, None], total.shape)
    other = tl.gather(total, near, 0)
    if FACTORS:
        before *= tl.where(second, other, 1.0)
        after *= tl.where(second, 1.0, other)
        total *= other
    else:
        before += tl.where(second, other, 0.0)
        after += tl.where(second, 0.0, other)
        total += other
    return before, after, total


def _corner(
    q,
    k,
    before,
    after,
    i,
    level,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
):
    # products of the later rows of stretches with the earlier ones, both decayed to the border
    second = (((i >> level) & 1) == 1)[:, None]
    later = tl.where(second, q * _left(before, FACTORS), 0.0)
    earlier = tl.where(second, 0.0, k * _left(after, FACTORS))
    whole = tl.dot(later.to(DOT), tl.trans(earlier.to(DOT)), input_precision=PRECISION)
    same = (i[:, None] >> (level + 1)) == (i[None, :] >> (level + 1))
    return tl.where(same, whole, 0.0)


def _short_scores(
    q,
    k,
    logs,
    out,
    i,
    PARTS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # _tile_scores of 16-bit vectors: sums to the border between halves are products with ones
    ROWS: tl.constexpr = logs.shape[0]
    LEVELS: tl.constexpr = 4 + (ROWS > 16) + (ROWS > 32) + (ROWS > 64) + (ROWS > 128)
    logs = tl.where(logs < -1e30, -1e30, logs)
    for level in range(LEVELS):
        second = ((i >> level) & 1) == 1
        border = (((i >> (level + 1)) * 2 + 1) << level)[:, None]
        down = (i[None, :] >= border) & (i[None, :] < i[:, None])
        up = (i[None, :] < border) & (i[None, :] > i[:, None])
        ones = tl.where((second[:, None] & down) | (~second[:, None] & up), 1.0, 0.0).to(DOT)
        rest = logs
        part = rest.to(tl.bfloat16)
        total = tl.dot(ones, part.to(DOT))
        for _ in tl.static_range(PARTS - 1):
            rest -= part.to(tl.float32)
            part = rest.to(tl.bfloat16)
            total = tl.dot(ones, part.to(DOT), total)
        decay = tl.exp(total)
        later = tl.where(second[:, None], q * decay, 0.0)
        earlier = tl.where(second[:, None], 0.0, k * decay)
        whole = tl.dot(later.to(DOT), tl.trans(earlier.to(DOT)), input_precision=PRECISION)
        same = (i[:, None] >> (level + 1)) == (i[None, :] >> (level + 1))
        out += tl.where(same, whole, 0.0)
    return out


def _tile_scores(
    q,
    k,
    decays,
    out,
    i,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
    SHORT: tl.constexpr = False,
    PARTS: tl.constexpr = 3,
):
    # at i > j the sum of q_i k_j exp(sum of the logs between), by halving the chunk; added to out
    if SHORT:
        out = _short_scores(q, k, decays, out, i, PARTS, DOT, PRECISION)
    else:
        ROWS: tl.constexpr = decays.shape[0]
        LEVELS: tl.constexpr = 4 + (ROWS > 16) + (ROWS > 32) + (ROWS > 64) + (ROWS > 128)
        before = tl.zeros_like(decays) + (1.0 if FACTORS else 0.0)
        after = before
        total = decays
        for level in range(LEVELS):
            out += _corner(q, k, before, after, i, level, DOT, PRECISION, FACTORS)
            before, after, total = _stretched(before, after, total, i, level, FACTORS)
    return out


def _partial_sums(x, i, level, REVERSE: tl.constexpr):
    # running sums in stretches of 2^level rows, the row itself left out
    sums = tl.zeros_like(x)
    total = x
    for step in range(level):
        near = tl.broadcast_to((i ^ (1 << step))[:, None], x.shape)
        other = tl.gather(total, near, 0)
        second = (((i >> step) & 1) == 1)[:, None]
        sums += tl.where(second != REVERSE, other, 0.0)
        total += other
    return sums


def _corner_adjoint(
    q,
    k,
    grad,
    before,
    after,
    i,
    level,
    OF: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
):
    # what one halving gives to the cotangent of q (0), k (1) or the logs (2)
    late = ((i >> level) & 1) == 1
    second = late[:, None]
    same = (i[:, None] >> (level + 1)) == (i[None, :] >> (level + 1))
    here = tl.where(same & second & (late == 0)[None, :], grad, 0.0).to(DOT)
    later = tl.where(second, q * _left(before, FACTORS), 0.0)
    earlier = tl.where(second, 0.0, k * _left(after, FACTORS))
    if OF == 0:
        part = tl.dot(here, earlier.to(DOT), input_precision=PRECISION) * _left(before, FACTORS)
        return tl.where(second, part, 0.0)
    if OF == 1:
        part = tl.dot(tl.trans(here), later.to(DOT), input_precision=PRECISION)
        part = part * _left(after, FACTORS)
        return tl.where(second, 0.0, part)
    down = later * tl.dot(here, earlier.to(DOT), input_precision=PRECISION)
    up = earlier * tl.dot(tl.trans(here), later.to(DOT), input_precision=PRECISION)
    down = _partial_sums(down, i, level, True)
    return tl.where(second, down, _partial_sums(up, i, level, False))


def _tile_scores_adjoint(
    q,
    k,
    decays,
    grad,
    i,
    OF: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
):
    # cotangent of one argument of _tile_scores, that of factors aside
    ROWS: tl.constexpr = decays.shape[0]
    LEVELS: tl.constexpr = 4 + (ROWS > 16) + (ROWS > 32) + (ROWS > 64) + (ROWS > 128)
    before = tl.zeros_like(decays) + (1.0 if FACTORS else 0.0)
    after = before
    total = decays
    out = tl.zeros_like(decays)
    for level in range(LEVELS):
        out += _corner_adjoint(
            q,
            k,
            grad,
            before,
            after,
            i,
            level,
            OF,
            DOT,
            PRECISION,
            FACTORS,
        )
        before, after, total = _stretched(before, after, total, i, level, FACTORS)
    return out


def _factor_corner(
    q,
    k,
    filled,
    small,
    grad,
    before,
    after,
    zeros_b,
    zeros_a,
    i,
    level,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # what one halving gives to the cotangent of the factors: sums over the rows that they reach
    late = ((i >> level) & 1) == 1
    second = late[:, None]
    same = (i[:, None] >> (level + 1)) == (i[None, :] >> (level + 1))
    here = tl.where(same & second & (late == 0)[None, :], grad, 0.0).to(DOT)
    later = tl.where(second & (zeros_b == 0), q * before, 0.0).to(DOT)
    earlier = tl.where(second | (zeros_a != 0), 0.0, k * after).to(DOT)
    down = q * before * tl.dot(here, earlier, input_precision=PRECISION)
    up = k * after * tl.dot(tl.trans(here), later, input_precision=PRECISION)
    part = tl.where(second, down, up)
    count = tl.where(second, zeros_b, zeros_a)
    behind = tl.where(second, i[:, None] < i[None, :], i[:, None] > i[None, :])
    near = (i[:, None] >> level) == (i[None, :] >> level)
    reached = tl.where(near & behind, 1.0, 0.0).to(DOT)
    whole = tl.where(count == 0, part, 0.0).to(DOT)
    alone = tl.where(count == 1, part, 0.0).to(DOT)
    quotient = tl.dot(reached, whole, input_precision=PRECISION) / filled
    return tl.where(small, tl.dot(reached, alone, input_precision=PRECISION), quotient)


def _tile_factors_adjoint(q, k, decays, grad, i, DOT: tl.constexpr, PRECISION: tl.constexpr):
    # cotangent of the factors of _tile_scores; the product of the others is a quotient, unless a
    # factor is (as good as) zero: then it is made of the others, if none of them is zero too
    ROWS: tl.constexpr = decays.shape[0]
    LEVELS: tl.constexpr = 4 + (ROWS > 16) + (ROWS > 32) + (ROWS > 64) + (ROWS > 128)
    small = tl.abs(decays) < 1e-20
    filled = tl.where(small, 1.0, decays)
    zeros = tl.where(small, 1.0, 0.0)
    before = tl.zeros_like(decays) + 1.0
    after = before
    total = filled
    zeros_b = tl.zeros_like(decays)
    zeros_a = zeros_b
    out = tl.zeros_like(decays)
    for level in range(LEVELS):
        out += _factor_corner(
            q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, level, DOT, PRECISION
        )
        before, after, total = _stretched(before, after, total, i, level, True)
        zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, level)
    return out


def _power(a, b):
    a, b = tl.where(b < 0.0, a, a), tl.where(a < 0.0, b, b)  # numbers as tensors
    size = tl.exp(b * tl.log(tl.abs(a)))
    whole = tl.floor(b) == b
    odd = whole & (tl.floor(b * 0.5) * 2.0 != b)
    signed = tl.where(odd & (a < 0), -size, size)
    return tl.where(b == 0.0, 1.0, tl.where((a < 0) & (whole == 0), float("nan"), signed))
"""


def unary(fn: str, x: str) -> str:
    """The function `fn` of the expression `x`."""
    if fn not in _TEMPLATES:
        raise InternalError(f"no Triton form of `{fn}`")
    return _TEMPLATES[fn].format(x=x)


def repeats_operand(fn: str) -> bool:
    """Whether the text of `fn` holds its operand more than once, which then has to be a name."""
    return _TEMPLATES.get(fn, "").count("{x}") > 1


def binary(fn: str, a: str, b: str, integer: bool) -> str:
    """The function `fn` of two expressions."""
    if fn == "mod":
        return f"((({a} % {b}) + {b}) % {b})" if integer else f"({a} - tl.floor({a} / {b}) * {b})"
    if fn == "pow":
        return f"_power({a}, {b})"
    if fn in _COMPARE and _is_number(a) and _is_number(b):
        return f"tl.full([], {int(_COMPARE[fn](float(a), float(b)))}, tl.int1)"
    return _INFIX[fn].format(a=a, b=b)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d*)?(e[-+]?\d+)?", text) is not None


def power(a: str, exponent: float) -> str | None:
    """A power with a literal exponent, where there is a short form; `a` has to be a name."""
    short = {
        1.0: a,
        2.0: f"({a} * {a})",
        3.0: f"({a} * {a} * {a})",
        4.0: f"({a} * {a} * {a} * {a})",
        -1.0: f"(1.0 / {a})",
        -2.0: f"(1.0 / ({a} * {a}))",
        0.5: f"tl.sqrt_rn({a})",
        -0.5: f"tl.rsqrt({a})",
    }
    return short.get(float(exponent))
