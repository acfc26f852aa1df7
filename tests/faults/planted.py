"""Faults of the kinds that people fear, each to be put into a copy of the compiler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fault:
    """`old` becomes `new` in a file; a scan and a backend that have to show it."""

    name: str
    file: str
    old: str
    new: str
    scan: tuple[str, str]
    backend: str


def _example(name: str) -> tuple[str, str]:
    return f"examples/{name}.scan", name


ADJOINT = "scandsl/ir/adjoint.py"
DECAYS = "scandsl/kernels/decays.py"
RUNTIME = "templates/chunk_runtime.py.jinja"
TILES = "scandsl/render/triton_expressions.py"
KERNEL = "scandsl/render/triton_kernel.py"

FAULTS = (
    Fault(
        "the sign of a difference's adjoint",
        ADJOINT, "(y, b.neg(g))", "(y, g)",
        _example("gru"), "triton",
    ),
    Fault(
        "the slope of exp",
        ADJOINT, 'case "exp":\n                return ref', 'case "exp":\n                return x',
        _example("simple_gla"), "triton",
    ),
    Fault(
        "the slope of tanh",
        ADJOINT, "b.sub(one, b.square(ref))", "b.sub(one, ref)",
        _example("elman_rnn"), "triton",
    ),
    Fault(
        "the branches of where swapped in the adjoint",
        ADJOINT, "((x, b.where(c, g, zero)), (y, b.where(c, zero, g)))",
        "((x, b.where(c, zero, g)), (y, b.where(c, g, zero)))",
        ("tests/specs/chunk.scan", "masked_write"), "torch",
    ),
    Fault(
        "a running sum's adjoint in the wrong direction",
        ADJOINT, "b.cumsum(g, dim, not reverse, exclusive)", "b.cumsum(g, dim, reverse, exclusive)",
        _example("gla"), "torch",
    ),
    Fault(
        "a product's adjoint without conjugation",
        ADJOINT, "(x, b.sum_product(g, self.conj(y), keep_x))", "(x, b.sum_product(g, y, keep_x))",
        _example("s5"), "torch",
    ),
    Fault(
        "a token that does not see itself",
        DECAYS, '"ge" if diagonal else "gt"', '"gt"',
        _example("linear_attention"), "torch",
    ),
    Fault(
        "the same in a kernel",
        DECAYS, '"ge" if diagonal else "gt"', '"gt"',
        _example("linear_attention"), "triton",
    ),
    Fault(
        "a token's own decay once too often at the end of a chunk",
        DECAYS, "rest = self._running(step, reverse=True, exclusive=True)",
        "rest = self._running(step, reverse=True)",
        _example("simple_gla"), "triton",
    ),
    Fault(
        "half the decay over a chunk",
        DECAYS, "b.exp(b.sum(step, (ROW,)))", "b.exp(b.mul(b.const(0.5), b.sum(step, (ROW,))))",
        _example("gla"), "torch",
    ),
    Fault(
        "the rows of the last chunk not written",
        RUNTIME, "if whole < count:", "if whole < count - 1:",
        _example("retnet"), "torch",
    ),
    Fault(
        "the last chunk left out in a kernel",
        KERNEL, "chunks = (length + CHUNK - 1) // CHUNK", "chunks = length // CHUNK",
        _example("retnet"), "triton",
    ),
    Fault(
        "heads that share an input in the wrong order",
        RUNTIME, "x = x.repeat_interleave(heads // x.shape[2], 2)",
        "x = x.repeat(1, 1, heads // x.shape[2], *[1] * (x.dim() - 3))",
        _example("simple_gla"), "torch",
    ),
    Fault(
        "the same in a kernel",
        KERNEL, 'f"heads_{n}", f" // (HEADS // heads_{n})", own)',
        'f"heads_{n}", f" % heads_{n}", own)',
        _example("simple_gla"), "triton",
    ),
    Fault(
        "gradients of shared heads as their mean",
        RUNTIME, "(heads, x.shape[axis] // heads)).sum(axis + 1)",
        "(heads, x.shape[axis] // heads)).mean(axis + 1)",
        _example("simple_gla"), "torch",
    ),
    Fault(
        "a packed sequence that goes on with the state of another",
        RUNTIME, "carried.index_select(0, owners[n : n + 1])",
        "carried.index_select(0, owners[n : n + 1].clamp(max=0))",
        _example("delta_net"), "torch",
    ),
    Fault(
        "the sign in the substitution of a delta rule",
        RUNTIME, "lower = eye - below.tril(-1)", "lower = eye + below.tril(-1)",
        _example("delta_net"), "torch",
    ),
    Fault(
        "a column too early in the substitution in a kernel",
        TILES, "here = c[None, None, :] == SIDE - 1 - step",
        "here = c[None, None, :] == SIDE - step",
        _example("delta_net"), "triton",
    ),
    Fault(
        "a state that is handed on in bfloat16",
        RUNTIME, "torch.addcmul(added[here], scales[here], rows[here], out=target)",
        "target.copy_(torch.addcmul(added[here], scales[here], rows[here]).bfloat16())",
        _example("simple_gla"), "torch",
    ),
    Fault(
        "cotangents of a recurrence that skip a row",
        RUNTIME, "_steps(states[-2::-1], scales[:0:-1], states[:0:-1])",
        "_steps(states[-3::-1], scales[:1:-1], states[:1:-1])",
        _example("mamba"), "torch",
    ),
)  # fmt: skip
