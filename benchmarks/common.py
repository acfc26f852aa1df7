"""What the benchmarks share: data as in training, a description of the machine, tables, JSON.

Needs torch and the compiler, not rich: without it tables are plain text.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scandsl.ir.nodes import Recurrence
from scandsl.ir.nodes import Tensor as Declared

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
    """The machine, the versions and the command, as they go beside every result."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("scandsl", "torch", "triton", "sympy")},
    }


def version(name: str) -> str | None:
    """The installed version of a distribution; of the compiler that of this repository."""
    if name == "scandsl":
        from scandsl import __version__

        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_json(path: Path, content: Any) -> None:
    """Write a result whole or not at all; infinities and NaN become text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(_plain(content), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _plain(x: Any) -> Any:
    if isinstance(x, float):
        return x if math.isfinite(x) else str(x)
    if isinstance(x, dict):
        return {str(key): _plain(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_plain(value) for value in x]
    return x


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: with rich on a terminal that has it, else in plain columns."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        _show_plain(title, columns, rows)
        return
    if not sys.stdout.isatty():
        _show_plain(title, columns, rows)
        return
    table = Table(title=title, title_justify="left")
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _show_plain(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        pairs = zip(line, widths, strict=True)
        cells = [f"{c:>{w}}" if i else f"{c:<{w}}" for i, (c, w) in enumerate(pairs)]
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def number(x: float | None, digits: int = 3) -> str:
    """A number for a table."""
    return "-" if x is None else f"{x:.{digits}g}" if abs(x) < 100 else f"{x:.0f}"


# ---------------------------------------------------------------- data


def sizes_for(recurrence: Recurrence, key: int, value: int) -> dict[str, int]:
    """Sizes of the dimensions: rows of the first matrix state are keys, its columns values."""
    matrix = next((s.dims for s in recurrence.states if len(s.dims) == 2), ())
    out = {}
    for d in recurrence.dims:
        if d.size is None and d.base is None:
            out[d.name] = key if d.name in matrix[:1] else value
    return out


def realistic(
    recurrence: Recurrence,
    sizes: dict[str, int],
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    seed: int = 0,
    shared: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Tensors as a model would give them, batch, time and heads as in `shape`; params in float32.

    Those in `shared` have one head.
    Vectors have unit expected norm, log-decays are those of a sigmoid, decays RetNet's.
    """
    generator = torch.Generator(device).manual_seed(seed)
    inputs = {x.name for x in recurrence.inputs}
    declared = {x.name: x for x in (*recurrence.inputs, *recurrence.params)}
    out = {}
    for name in recurrence.arguments:
        heads = 1 if name in shared else shape[2]
        lead = (*shape[:2], heads) if name in inputs else (heads,)
        full = (*lead, *(sizes[d] for d in declared[name].dims))
        x = torch.randn(full, generator=generator, device=device, dtype=torch.float32)
        x = _shaped(declared[name], x, name in inputs)
        wide = torch.float64 if dtype is torch.float64 else torch.float32
        out[name] = x.to(dtype if name in inputs else wide)
    return out


def _shaped(declared: Declared, x: Tensor, varies: bool) -> Tensor:
    """Normal numbers brought into the declared range."""
    r = declared.range
    if declared.unit:
        return 0.9 * torch.nn.functional.normalize(x, dim=-1)
    if r is None:
        width = math.prod(x.shape[x.ndim - len(declared.dims) :])
        return x / math.sqrt(width) if varies else 0.5 * x
    if r.low == -math.inf and r.high <= 0:
        return r.high + torch.nn.functional.logsigmoid(1.5 * x + 3)
    if (r.low, r.high) == (0.0, 1.0):
        if varies:
            return x.sigmoid()
        heads = torch.arange(x.shape[0], device=x.device)
        return (1 - 2.0 ** (-5.0 - heads)).reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape).clone()
    low = r.low if math.isfinite(r.low) else -1.0
    high = r.high if math.isfinite(r.high) else low + 2.0
    return low + (high - low) * x.sigmoid()
