"""Elementwise functions and reductions whose derivative is safe under `where`.

In: torch tensors of one shape.  Out: a tensor that can be differentiated any number of times.
Values are torch's.  Derivatives are torch's too, with one promise beyond: an incoming gradient that
is exactly zero gives a gradient that is exactly zero, whatever the local derivative is (infinite,
or NaN because the argument is).  So `where` cuts off the branch that was not taken.

Functions whose derivative in torch is made of masks alone (`maximum`, `clamp`, `where`, `relu`)
keep the promise by themselves and are not listed here, nor are the linear ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

Function: TypeAlias = Callable[..., Tensor]
Axes: TypeAlias = tuple[int, ...]

# ---------------------------------------------------------------- the chain rule


def _recorded(*xs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in xs)


def _chain_value(g: Tensor, d: Tensor) -> Tensor:
    product = g * d
    return torch.where(g == 0, torch.zeros_like(product), product)


class _Chain(torch.autograd.Function):
    """`g * d`, zero where `g` is zero."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, d: Tensor) -> Tensor:
        ctx.save_for_backward(g, d)
        return _chain_value(g, d)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (h,) = grads
        g, d = ctx.saved_tensors
        # An infinite cotangent meets a vanished gradient behind a branch that was not taken.
        lost = (g == 0) & ~torch.isfinite(h)
        return chain(h, d.conj()), chain(torch.where(lost, torch.zeros_like(h), h), g.conj())


def chain(g: Tensor, d: Tensor) -> Tensor:
    """The incoming gradient `g` times the local derivative `d`: zero where `g` is zero."""
    if _recorded(g, d):
        result: Tensor = _Chain.apply(g, d)  # type: ignore[no-untyped-call]
        return result
    return _chain_value(g, d)


class _Differentiable(torch.autograd.Function):
    """A function with its partial derivatives given; `g` is spread over the shape of `x`."""

    @staticmethod
    def forward(ctx: Any, value: Function, partials: Sequence[Function], *xs: Tensor) -> Tensor:
        ctx.partials = partials
        ctx.save_for_backward(*xs)
        return value(*xs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        xs = ctx.saved_tensors
        g = grads[0].expand(xs[0].shape)
        parts = [
            chain(g, partial(*xs).conj()) if needed else None
            for partial, needed in zip(ctx.partials, ctx.needs_input_grad[2:], strict=True)
        ]
        return (None, None, *parts)


def _apply(value: Function, partials: Sequence[Function], *xs: Tensor) -> Tensor:
    if _recorded(*xs):
        result: Tensor = _Differentiable.apply(value, partials, *xs)  # type: ignore[no-untyped-call]
        return result
    return value(*xs)


# ---------------------------------------------------------------- two arguments


def mul(a: Tensor, b: Tensor) -> Tensor:
    """`a * b`."""
    return _apply(torch.mul, (lambda a, b: b, lambda a, b: a), a, b)


def div(a: Tensor, b: Tensor) -> Tensor:
    """`a / b`."""
    return _apply(
        torch.div,
        (lambda a, b: reciprocal(b), lambda a, b: -mul(div(a, b), reciprocal(b))),
        a,
        b,
    )


def reciprocal(x: Tensor) -> Tensor:
    """`1 / x`."""
    return _apply(torch.reciprocal, (lambda x: -mul(reciprocal(x), reciprocal(x)),), x)


def power(a: Tensor, b: Tensor) -> Tensor:
    """`a ** b`; like torch, no gradient to `a` where `b = 0`, nor to `b` where `a = 0 <= b`."""
    return _apply(torch.pow, (_power_by_base, _power_by_exponent), a, b)


def _power_by_base(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b == 0, torch.zeros_like(b), mul(b, power(a, b - 1)))


def _power_by_exponent(a: Tensor, b: Tensor) -> Tensor:
    return torch.where((a == 0) & (b >= 0), torch.zeros_like(a), mul(power(a, b), log(a)))


def remainder(a: Tensor, b: Tensor) -> Tensor:
    """`a - b * floor(a / b)`."""
    return _apply(
        torch.remainder,
        (lambda a, b: torch.ones_like(a), lambda a, b: -torch.floor((a / b).detach())),
        a,
        b,
    )


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """`log(exp(a) + exp(b))`; of two −∞ it is −∞, with gradient zero."""
    return _apply(torch.logaddexp, (lambda a, b: _share(a, b), lambda a, b: _share(b, a)), a, b)


def _share(a: Tensor, b: Tensor) -> Tensor:
    """`exp(a) / (exp(a) + exp(b))`, zero where `a` is −∞."""
    return sigmoid(torch.where(a == -math.inf, torch.full_like(a, -math.inf), a - b))


def hypot(a: Tensor, b: Tensor) -> Tensor:
    """`sqrt(a² + b²)`, with derivative zero at the origin."""
    return _apply(torch.hypot, (lambda a, b: _cosine(a, b), lambda a, b: _cosine(b, a)), a, b)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    r = hypot(a, b)
    return torch.where(r == 0, torch.zeros_like(a), div(a, r))


# ---------------------------------------------------------------- one argument


def exp(x: Tensor) -> Tensor:
    """`e ** x`."""
    return _apply(torch.exp, (exp,), x)


def expm1(x: Tensor) -> Tensor:
    """`exp(x) - 1`."""
    return _apply(torch.expm1, (exp,), x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm."""
    return _apply(torch.log, (reciprocal,), x)


def log1p(x: Tensor) -> Tensor:
    """`log(1 + x)`."""
    return _apply(torch.log1p, (lambda x: reciprocal(1 + x),), x)


def sqrt(x: Tensor) -> Tensor:
    """The square root."""
    return _apply(torch.sqrt, (lambda x: rsqrt(x) / 2,), x)


def rsqrt(x: Tensor) -> Tensor:
    """`1 / sqrt(x)`: derivative `-1 / (2 x sqrt(x))`."""
    return _apply(torch.rsqrt, (lambda x: mul(rsqrt(x), reciprocal(x)) / -2,), x)


def absolute(x: Tensor) -> Tensor:
    """`|x|`, with derivative zero at zero; the modulus of a complex number."""
    if x.is_complex():
        return hypot(x.real, x.imag)
    return _apply(torch.abs, (lambda x: torch.sign(x.detach()),), x)


def sin(x: Tensor) -> Tensor:
    """The sine."""
    return _apply(torch.sin, (cos,), x)


def cos(x: Tensor) -> Tensor:
    """The cosine."""
    return _apply(torch.cos, (lambda x: -sin(x),), x)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return _apply(torch.tanh, (lambda x: 1 - mul(tanh(x), tanh(x)),), x)


def sigmoid(x: Tensor) -> Tensor:
    """The logistic function, `1 / (1 + exp(-x))`."""
    return _apply(torch.sigmoid, (lambda x: mul(sigmoid(x), sigmoid(-x)),), x)


def softplus(x: Tensor) -> Tensor:
    """`log(1 + exp(x))`, exact for every `x`."""
    return _apply(_softplus_value, (sigmoid,), x)


def _softplus_value(x: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


def logsigmoid(x: Tensor) -> Tensor:
    """`log(sigmoid(x))`, exact for every `x`."""
    return -softplus(-x)


def silu(x: Tensor) -> Tensor:
    """`x * sigmoid(x)`."""
    return mul(x, sigmoid(x))


def elu(x: Tensor) -> Tensor:
    """`x` where positive, else `exp(x) - 1`."""
    return torch.where(x > 0, x, expm1(x))


def erf(x: Tensor) -> Tensor:
    """The error function: derivative `2 / sqrt(pi) * exp(-x²)`."""
    return _apply(torch.erf, (lambda x: exp(-mul(x, x)) * (2 / math.sqrt(math.pi)),), x)


def gelu(x: Tensor) -> Tensor:
    """`x * Φ(x)` with the normal distribution's Φ, in its erf form."""
    return mul(x, (1 + erf(x * math.sqrt(0.5))) / 2)


# ---------------------------------------------------------------- reductions (axes are kept)


def amax(x: Tensor, axes: Axes) -> Tensor:
    """The largest entry; entries that tie share the gradient evenly."""

    def share(x: Tensor) -> Tensor:
        largest = (x == x.amax(axes, keepdim=True)).to(x.dtype)
        return largest / largest.sum(axes, keepdim=True).clamp(min=1)

    return _apply(lambda x: x.amax(axes, keepdim=True), (share,), x)


def logsumexp(x: Tensor, axes: Axes) -> Tensor:
    """`log(sum(exp(x)))`; where all entries are −∞ it is −∞, with gradient zero."""

    def share(x: Tensor) -> Tensor:
        gap = x - logsumexp(x, axes)
        return exp(torch.where(x == -math.inf, torch.full_like(x, -math.inf), gap))

    return _apply(lambda x: torch.logsumexp(x, axes, keepdim=True), (share,), x)


def mean(x: Tensor, axes: Axes) -> Tensor:
    """The arithmetic mean."""
    return x.sum(axes, keepdim=True) / math.prod(x.shape[axis] for axis in axes)


def softmax(x: Tensor, axes: Axes) -> Tensor:
    """`exp(x) / sum(exp(x))`, shifted by the largest entry."""
    e = exp(x - x.detach().amax(axes, keepdim=True))
    return div(e, e.sum(axes, keepdim=True).expand_as(e))


def l2norm(x: Tensor, axes: Axes, eps: float) -> Tensor:
    """`x / sqrt(sum(x²) + eps)`."""
    return _scaled(x, mul(x, x).sum(axes, keepdim=True) + eps)


def rmsnorm(x: Tensor, axes: Axes, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps)`."""
    return _scaled(x, mean(mul(x, x), axes) + eps)


def layernorm(x: Tensor, axes: Axes, eps: float) -> Tensor:
    """`rmsnorm` of `x` less its mean."""
    return rmsnorm(x - mean(x, axes), axes, eps)


def _scaled(x: Tensor, square: Tensor) -> Tensor:
    return mul(x, rsqrt(square).expand_as(x))
