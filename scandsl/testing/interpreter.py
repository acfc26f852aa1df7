"""Triton's interpreter, made to round to bfloat16 as GPUs do.

In: nothing.  Out: nothing; `round_to_nearest` changes the interpreter of this process.

GPUs round float32 to the nearest bfloat16, ties to even; the interpreter cuts the last 16 bits off.
That doubles the error and gives it a sign, so that sums of many such numbers drift: a bound that
holds on a GPU would be missed here for a reason that is not the kernel's.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

_MARK = "_scandsl_rounds"


def interpreting() -> bool:
    """Whether kernels of this process run under the interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def nearest_bfloat16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The bits (uint16) of the bfloat16 numbers nearest to float32 `x`, of any shape."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = (bits + (even + np.uint32(0x7FFF))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FC0), rounded).astype(np.uint16)


def round_to_nearest() -> None:
    """Let the interpreter of this process round; once is enough.  `ImportError` without Triton."""
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    if hasattr(interpreter, _MARK):
        return
    convert = interpreter._convert_float

    def rounded(x: Any, source: Any, target: Any, mode: Any) -> Any:
        if str(source) == "fp32" and str(target) == "bf16":
            return nearest_bfloat16(x)
        return convert(x, source, target, mode)

    interpreter._convert_float = rounded
    setattr(interpreter, _MARK, True)
