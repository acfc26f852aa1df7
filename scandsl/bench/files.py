"""Results as JSON.

In: plain data.  Out: a file, written whole or not at all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scandsl.loader import write_atomic


def write_json(file: Path, content: Any) -> None:
    """Infinities and NaN, which JSON has no numbers for, become text."""
    write_atomic(file, json.dumps(_plain(content), indent=1) + "\n")


def _plain(x: Any) -> Any:
    if isinstance(x, float):
        return x if math.isfinite(x) else str(x)
    if isinstance(x, Mapping):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    return x
