"""Which launches are tried.

In: the kernels of a form and a `Space`.  Out: lengths of chunks, and configurations of a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scandsl.plan.launches import Config
from scandsl.plan.limits import block
from scandsl.render.form import Site, SiteKernel


@dataclass(frozen=True, slots=True)
class Space:
    """The values that are tried of each number; `None` among `chunks` is the length by rule."""

    chunks: tuple[int | None, ...] = (None, 16, 32, 64)
    tiles: tuple[int, ...] = (16, 32, 64, 128)
    warps: tuple[int, ...] = (2, 4, 8)
    stages: tuple[int, ...] = (1, 2, 3)
    numbers: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    step_warps: tuple[int, ...] = (1, 2, 4, 8, 16)


FULL = Space()
DRY = Space((None, 16), tiles=(16, 32), warps=(4,), stages=(1, 2), numbers=(512,), step_warps=(4,))
"""Of an interpreter, for which warps and stages are all the same."""


def configs(kernel: SiteKernel, sizes: Mapping[str, int], space: Space) -> Iterator[Config]:
    """All configurations of a kernel: tiles no wider than what is cut, stages where it walks."""
    if kernel.steps:
        yield from (Config(None, w, None, n) for n in space.numbers for w in space.step_warps)
        return
    widest = max((block(sizes[d]) for d in kernel.cut), default=0)
    tiles: list[int | None] = [t for t in space.tiles if t <= widest]
    stages: tuple[int | None, ...] = space.stages if kernel.walks else (None,)
    for tile in tiles or [None]:
        for warps in space.warps:
            for count in stages:
                yield Config(tile, warps, count)


def lengths(site: Site, space: Space) -> tuple[int | None, ...]:
    """The lengths of chunks that are tried."""
    return space.chunks if site.chunked else (None,)


def count(site: Site, sizes: Mapping[str, int], space: Space) -> int:
    """How many configurations there are of all kernels of a form, for one length of chunks."""
    return sum(1 for kernel in site.kernels for _ in configs(kernel, sizes, space))
