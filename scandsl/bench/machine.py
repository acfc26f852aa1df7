"""What a machine is and what it gives: names, versions, the speed of copies and of products.

In: a device.  Out: plain data.  Needs torch alone.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def environment() -> dict[str, Any]:
    """The machine, the versions and the command, as they go beside every result."""
    versions = {name: version(name) for name in ("scandsl", "torch", "triton", "sympy")}
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": versions,
    }


def version(name: str) -> str | None:
    """The installed version of a distribution; of the compiler that of this code."""
    if name == "scandsl":
        from scandsl import __version__  # noqa: PLC0415  (the package imports the loader)

        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def device_name(device: str) -> str:
    """The name of a GPU, or of the processor."""
    return torch.cuda.get_device_name() if device == "cuda" else _cpu()


def cache_bytes(device: str) -> int:
    """The size of the largest cache, or a guess where the system does not tell."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).L2_cache_size)
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    found = [1 << 23]
    for file in CACHES.glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        if text[:-1].isdecimal() and text[-1:] in units:
            found.append(int(text[:-1]) * units[text[-1]])
    return max(found)


# ---------------------------------------------------------------- speed


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes of a large copy (read plus written) and operations of a large product, per second."""

    copy: float
    matrix: float


def rates(device: str, dtype: torch.dtype) -> Rates:
    """Measured now, the median of seven each."""
    count = (1 << 32) if device == "cuda" else (1 << 28)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy = 2 * count / _median(lambda: target.copy_(source), device)
    side = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return Rates(copy, 2 * side**3 / _median(lambda: a @ b, device))


def _median(work: Callable[[], object], device: str) -> float:
    """Seconds."""
    work()
    return statistics.median(lap(work, device) for _ in range(7)) / 1e3


def lap(work: Callable[[], object], device: str) -> float:
    """Milliseconds of one call: between two events on a GPU, by the clock on a CPU."""
    if device == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def rotation(count: int, device: str, most: int = 8) -> int:
    """How many sets of `count` bytes it takes that none is in the cache when its turn comes."""
    return max(1, min(most, math.ceil(3 * cache_bytes(device) / max(count, 1))))
