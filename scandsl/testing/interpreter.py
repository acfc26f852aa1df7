"""Triton's interpreter, made to treat bfloat16 as GPUs do.

In: nothing.  Out: nothing; `mend` changes the interpreter of this process.

GPUs round float32 to the nearest bfloat16, ties to even; the interpreter cuts the last 16 bits off.
That doubles the error and gives it a sign, so that sums of many such numbers drift: a bound that
holds on a GPU would be missed here for a reason that is not the kernel's.  And in products the
interpreter takes the bits of bfloat16 operands for integers; generated modules keep away from that
by products in float32, which hide the error of rounded operands, unless they are told otherwise.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Any

import numpy as np

_MARK = "_mended_by_scandsl"
_TOLD = "_BFLOAT16_INTERPRETED"


def interpreting() -> bool:
    """Whether kernels of this process run under the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def nearest_bfloat16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits (uint16) of the bfloat16 numbers nearest to float32 `x`, of any shape."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + (even + np.uint32(0x7FFF))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def mend(module: ModuleType | None = None) -> None:
    """Mend the interpreter of this process and tell a generated module.

    `ImportError` without Triton.
    """
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    if not hasattr(interpreter, _MARK):
        _mend_rounding(interpreter)
        _mend_products(interpreter)
        setattr(interpreter, _MARK, True)
    if hasattr(module, _TOLD):
        setattr(module, _TOLD, True)


def _mend_rounding(interpreter: Any) -> None:
    convert = interpreter._convert_float

    def rounded(x: Any, source: Any, target: Any, mode: Any) -> Any:
        if str(source) == "fp32" and str(target) == "bf16":
            return nearest_bfloat16(x)
        return convert(x, source, target, mode)

    interpreter._convert_float = rounded


def _mend_products(interpreter: Any) -> None:
    handle = interpreter.TensorHandle
    product = interpreter.InterpreterBuilder.create_dot

    def widened(x: Any) -> Any:
        if str(x.dtype.scalar) != "bf16":
            return x
        wide = (x.data.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return handle(wide, interpreter.tl.float32)

    def dot(builder: Any, a: Any, b: Any, *more: Any) -> Any:
        return product(builder, widened(a), widened(b), *more)

    interpreter.InterpreterBuilder.create_dot = dot
