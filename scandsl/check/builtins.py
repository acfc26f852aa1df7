"""The functions of the language: their names, how many arguments, whether they take dimensions.

Pure tables, read by `calls` and by the checks of function definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from scandsl.ir.nodes import NormalizeFn, ReduceFn, UnaryFn


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call of a builtin looks like.

    `dims`: 0 takes no dimension list, 1 takes exactly one dimension, -1 takes one or more.
    """

    usage: str
    least: int
    most: int
    dims: int = 0


UNARY: Mapping[str, UnaryFn] = {
    name: name for name in get_args(UnaryFn) if name not in ("neg", "not")
}
REDUCE: Mapping[str, ReduceFn] = {name: name for name in get_args(ReduceFn)}
NORMALIZE: Mapping[str, NormalizeFn] = {name: name for name in get_args(NormalizeFn)}

# The constant under the root (unused by softmax), as torch has it.
EPSILON: Mapping[str, float] = {"softmax": 0.0, "l2norm": 1e-6, "rmsnorm": 1e-6, "layernorm": 1e-5}

# What torch gives for complex arguments as well.
COMPLEX_UNARY = frozenset(
    {"exp", "log", "sqrt", "rsqrt", "sin", "cos", "tanh", "abs", "re", "im", "conj"}
)
COMPLEX_REDUCE = frozenset({"sum", "mean"})

# Functions that keep an INT an INT.
INT_UNARY = frozenset({"abs", "sign", "re", "conj"})


def _table() -> dict[str, Signature]:
    out = {name: Signature(f"{name}(x)", 1, 1) for name in UNARY}
    out |= {name: Signature(f"{name}[K](x)", 1, 1, -1) for name in REDUCE}
    out |= {name: Signature(f"{name}[K](x)", 1, 2, -1) for name in NORMALIZE}
    out["softmax"] = Signature("softmax[K](x)", 1, 1, -1)
    out["logaddexp"] = Signature("logaddexp(a, b)", 2, 2)
    out["clamp"] = Signature("clamp(x, low, high)", 3, 3)
    out["where"] = Signature("where(condition, a, b)", 3, 3)
    out["complex"] = Signature("complex(re, im)", 2, 2)
    out["stopgrad"] = Signature("stopgrad(x)", 1, 1)
    out["iota"] = Signature("iota(K)", 1, 1)
    out["lag"] = Signature("lag(x, n)", 2, 2)
    out["window"] = Signature("window[W](x)", 1, 1, 1)
    out["grad"] = Signature("grad(loss, W)", 2, 2)
    return out


SIGNATURES: Mapping[str, Signature] = _table()

# `max` and `min` of two arguments are elementwise.
PAIRWISE: Mapping[str, Signature] = {
    name: Signature(f"{name}(a, b)", 2, 2) for name in ("max", "min")
}
