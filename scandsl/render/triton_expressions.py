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


def _merged(total, x, i, WIDTH: tl.constexpr, EXACT: tl.constexpr):
    # inverses of blocks of 2 WIDTH rows from those of their halves
    pair = (i[:, None] // (2 * WIDTH)) == (i[None, :] // (2 * WIDTH))
    apart = (i[:, None] // WIDTH) != (i[None, :] // WIDTH)
    side = tl.where(pair & apart, x, 0.0)
    left = tl.dot(total, side, input_precision=EXACT)
    return total + tl.dot(left, total, input_precision=EXACT)


def _tile_inverse(x, i, CHUNK: tl.constexpr, EXACT: tl.constexpr):
    # 1 - L for the part L of x under the diagonal: blocks of 16 by substitution, then merged
    BLOCKS: tl.constexpr = CHUNK // 16
    x = tl.where(i[:, None] > i[None, :], x, 0.0)
    b = tl.arange(0, BLOCKS)
    c = tl.arange(0, 16)
    own = b[:, None, None, None] == b[None, None, :, None]
    below = tl.sum(tl.where(own, tl.reshape(x, [BLOCKS, 16, BLOCKS, 16]), 0.0), 2)
    eye = tl.where(c[:, None] == c[None, :], 1.0, 0.0)
    inverse = tl.broadcast_to(eye[None, :, :], [BLOCKS, 16, 16])
    for r in range(1, 16):
        here = c[None, :, None] == r
        line = tl.sum(tl.where(here, below, 0.0), 1)
        more = tl.sum(line[:, :, None] * inverse, 1)
        inverse += tl.where(here, more[:, None, :], 0.0)
    wide = tl.where(own, inverse[:, :, None, :], 0.0)
    total = tl.reshape(tl.broadcast_to(wide, [BLOCKS, 16, BLOCKS, 16]), [CHUNK, CHUNK])
    if CHUNK > 16:
        total = _merged(total, x, i, 16, EXACT)
    if CHUNK > 32:
        total = _merged(total, x, i, 32, EXACT)
    if CHUNK > 64:
        total = _merged(total, x, i, 64, EXACT)
    return total


def _left(decay, FACTORS: tl.constexpr):
    # what is left after a sum of logarithms, or after a product of factors
    if FACTORS:
        return decay
    return tl.exp(decay)


def _stretched(before, after, total, i, HALF: tl.constexpr, FACTORS: tl.constexpr = False):
    # sums (or products) over stretches of HALF rows become those over stretches of twice as many
    ROWS: tl.constexpr = total.shape[0]
    WIDTH: tl.constexpr = total.shape[1]
    second = ((i // HALF) % 2 == 1)[:, None]
    part = tl.arange(0, 2)[None, :, None, None]
    pairs = tl.reshape(total, [ROWS // (2 * HALF), 2, HALF, WIDTH])
    low = tl.sum(tl.where(part == 0, pairs, 0.0), 1)[:, None, :, :]
    high = tl.sum(tl.where(part == 1, pairs, 0.0), 1)[:, None, :, :]
    other = tl.reshape(tl.where(part == 1, low, high), [ROWS, WIDTH])
    if FACTORS:
        before *= tl.where(second, other, 1.0)
        after *= tl.where(second, 1.0, other)
        return before, after, total * other
    before += tl.where(second, other, 0.0)
    after += tl.where(second, 0.0, other)
    return before, after, total + other


def _corner(
    q,
    k,
    before,
    after,
    i,
    HALF: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
):
    # products of the later rows of stretches with the earlier ones, both decayed to the border
    second = ((i // HALF) % 2 == 1)[:, None]
    later = tl.where(second, q * _left(before, FACTORS), 0.0)
    earlier = tl.where(second, 0.0, k * _left(after, FACTORS))
    whole = tl.dot(later.to(DOT), tl.trans(earlier.to(DOT)), input_precision=PRECISION)
    same = (i[:, None] // (2 * HALF)) == (i[None, :] // (2 * HALF))
    return tl.where(same, whole, 0.0)


def _short_scores(
    q,
    k,
    logs,
    i,
    PARTS: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # _tile_scores of 16-bit vectors: sums to the border between halves are products with ones
    ROWS: tl.constexpr = logs.shape[0]
    LEVELS: tl.constexpr = 4 + (ROWS > 16) + (ROWS > 32) + (ROWS > 64) + (ROWS > 128)
    out = tl.zeros([ROWS, ROWS], dtype=tl.float32)
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
    i,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
    SHORT: tl.constexpr = False,
    PARTS: tl.constexpr = 3,
):
    # at i > j the sum of q_i k_j exp(sum of the logs between), by halving the chunk
    if SHORT:
        out = _short_scores(q, k, decays, i, PARTS, DOT, PRECISION)
    else:
        ROWS: tl.constexpr = decays.shape[0]
        before = tl.zeros_like(decays) + (1.0 if FACTORS else 0.0)
        after = before
        total = decays
        out = _corner(q, k, before, after, i, 1, DOT, PRECISION, FACTORS)
        before, after, total = _stretched(before, after, total, i, 1, FACTORS)
        out += _corner(q, k, before, after, i, 2, DOT, PRECISION, FACTORS)
        before, after, total = _stretched(before, after, total, i, 2, FACTORS)
        out += _corner(q, k, before, after, i, 4, DOT, PRECISION, FACTORS)
        before, after, total = _stretched(before, after, total, i, 4, FACTORS)
        out += _corner(q, k, before, after, i, 8, DOT, PRECISION, FACTORS)
        if ROWS > 16:
            before, after, total = _stretched(before, after, total, i, 8, FACTORS)
            out += _corner(q, k, before, after, i, 16, DOT, PRECISION, FACTORS)
        if ROWS > 32:
            before, after, total = _stretched(before, after, total, i, 16, FACTORS)
            out += _corner(q, k, before, after, i, 32, DOT, PRECISION, FACTORS)
        if ROWS > 64:
            before, after, total = _stretched(before, after, total, i, 32, FACTORS)
            out += _corner(q, k, before, after, i, 64, DOT, PRECISION, FACTORS)
    return out


def _partial_sums(x, HALF: tl.constexpr, REVERSE: tl.constexpr):
    # running sums in stretches of HALF rows, the row itself left out
    ROWS: tl.constexpr = x.shape[0]
    WIDTH: tl.constexpr = x.shape[1]
    cut = tl.reshape(x, [ROWS // HALF, HALF, WIDTH])
    return tl.reshape(tl.cumsum(cut, 1, reverse=REVERSE) - cut, [ROWS, WIDTH])


def _corner_adjoint(
    q,
    k,
    grad,
    before,
    after,
    i,
    HALF: tl.constexpr,
    OF: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
    FACTORS: tl.constexpr = False,
):
    # what one halving gives to the cotangent of q (0), k (1) or the logs (2)
    second = ((i // HALF) % 2 == 1)[:, None]
    same = (i[:, None] // (2 * HALF)) == (i[None, :] // (2 * HALF))
    here = tl.where(same & second & ((i // HALF) % 2 == 0)[None, :], grad, 0.0).to(DOT)
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
    return tl.where(second, _partial_sums(down, HALF, True), _partial_sums(up, HALF, False))


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
    before = tl.zeros_like(decays) + (1.0 if FACTORS else 0.0)
    after = before
    total = decays
    out = tl.zeros_like(decays)
    if OF != 2:  # no row lies between two neighbours
        out += _corner_adjoint(
            q,
            k,
            grad,
            before,
            after,
            i,
            1,
            OF,
            DOT,
            PRECISION,
            FACTORS,
        )
    before, after, total = _stretched(before, after, total, i, 1, FACTORS)
    out += _corner_adjoint(
        q,
        k,
        grad,
        before,
        after,
        i,
        2,
        OF,
        DOT,
        PRECISION,
        FACTORS,
    )
    before, after, total = _stretched(before, after, total, i, 2, FACTORS)
    out += _corner_adjoint(
        q,
        k,
        grad,
        before,
        after,
        i,
        4,
        OF,
        DOT,
        PRECISION,
        FACTORS,
    )
    before, after, total = _stretched(before, after, total, i, 4, FACTORS)
    out += _corner_adjoint(
        q,
        k,
        grad,
        before,
        after,
        i,
        8,
        OF,
        DOT,
        PRECISION,
        FACTORS,
    )
    if ROWS > 16:
        before, after, total = _stretched(before, after, total, i, 8, FACTORS)
        out += _corner_adjoint(
            q,
            k,
            grad,
            before,
            after,
            i,
            16,
            OF,
            DOT,
            PRECISION,
            FACTORS,
        )
    if ROWS > 32:
        before, after, total = _stretched(before, after, total, i, 16, FACTORS)
        out += _corner_adjoint(
            q,
            k,
            grad,
            before,
            after,
            i,
            32,
            OF,
            DOT,
            PRECISION,
            FACTORS,
        )
    if ROWS > 64:
        before, after, total = _stretched(before, after, total, i, 32, FACTORS)
        out += _corner_adjoint(
            q,
            k,
            grad,
            before,
            after,
            i,
            64,
            OF,
            DOT,
            PRECISION,
            FACTORS,
        )
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
    HALF: tl.constexpr,
    DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    # what one halving gives to the cotangent of the factors: sums over the rows that they reach
    second = ((i // HALF) % 2 == 1)[:, None]
    same = (i[:, None] // (2 * HALF)) == (i[None, :] // (2 * HALF))
    here = tl.where(same & second & ((i // HALF) % 2 == 0)[None, :], grad, 0.0).to(DOT)
    later = tl.where(second & (zeros_b == 0), q * before, 0.0).to(DOT)
    earlier = tl.where(second | (zeros_a != 0), 0.0, k * after).to(DOT)
    down = q * before * tl.dot(here, earlier, input_precision=PRECISION)
    up = k * after * tl.dot(tl.trans(here), later, input_precision=PRECISION)
    part = tl.where(second, down, up)
    count = tl.where(second, zeros_b, zeros_a)
    behind = tl.where(second, i[:, None] < i[None, :], i[:, None] > i[None, :])
    near = (i[:, None] // HALF) == (i[None, :] // HALF)
    reached = tl.where(near & behind, 1.0, 0.0).to(DOT)
    whole = tl.where(count == 0, part, 0.0).to(DOT)
    alone = tl.where(count == 1, part, 0.0).to(DOT)
    quotient = tl.dot(reached, whole, input_precision=PRECISION) / filled
    return tl.where(small, tl.dot(reached, alone, input_precision=PRECISION), quotient)


def _tile_factors_adjoint(q, k, decays, grad, i, DOT: tl.constexpr, PRECISION: tl.constexpr):
    # cotangent of the factors of _tile_scores; the product of the others is a quotient, unless a
    # factor is (as good as) zero: then it is made of the others, if none of them is zero too
    ROWS: tl.constexpr = decays.shape[0]
    small = tl.abs(decays) < 1e-20
    filled = tl.where(small, 1.0, decays)
    zeros = tl.where(small, 1.0, 0.0)
    before = tl.zeros_like(decays) + 1.0
    after = before
    total = filled
    zeros_b = tl.zeros_like(decays)
    zeros_a = zeros_b
    before, after, total = _stretched(before, after, total, i, 1, True)
    zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, 1)
    out = _factor_corner(
        q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, 2, DOT, PRECISION
    )
    before, after, total = _stretched(before, after, total, i, 2, True)
    zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, 2)
    out += _factor_corner(
        q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, 4, DOT, PRECISION
    )
    before, after, total = _stretched(before, after, total, i, 4, True)
    zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, 4)
    out += _factor_corner(
        q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, 8, DOT, PRECISION
    )
    if ROWS > 16:
        before, after, total = _stretched(before, after, total, i, 8, True)
        zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, 8)
        out += _factor_corner(
            q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, 16, DOT, PRECISION
        )
    if ROWS > 32:
        before, after, total = _stretched(before, after, total, i, 16, True)
        zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, 16)
        out += _factor_corner(
            q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, 32, DOT, PRECISION
        )
    if ROWS > 64:
        before, after, total = _stretched(before, after, total, i, 32, True)
        zeros_b, zeros_a, zeros = _stretched(zeros_b, zeros_a, zeros, i, 32)
        out += _factor_corner(
            q, k, filled, small, grad, before, after, zeros_b, zeros_a, i, 64, DOT, PRECISION
        )
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
