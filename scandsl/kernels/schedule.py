"""Cuts a chunk program into kernels.

In: a `ChunkProgram`.  Out: at most two `Kernel`s: one that walks over the chunks of a sequence with
the carries on chip and keeps what each chunk was handed, and one that runs for all chunks at once from
what was kept.  Dimensions along which no value of a kernel sums are cut over the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

from scandsl.ir.nodes import (
    Contract,
    CumSum,
    Dims,
    Input,
    Load,
    Normalize,
    Param,
    Reduce,
    Ref,
    Rename,
    Scalar,
    Value,
)
from scandsl.kernels.program import POSITION, Carry, ChunkProgram, Store
from scandsl.kernels.split import reach


@dataclass(frozen=True, slots=True)
class Kernel:
    """One launch.

    `loop`: walks over the chunks of one sequence (grid: sequences, heads, tiles), `carries` in
    registers, storing what each chunk is handed.  Otherwise one program per chunk and head, reading
    `loads` (carries kept by the loop kernels).  `tiled` dimensions are cut over the third grid axis.
    """

    name: str
    program: ChunkProgram
    loop: bool
    refs: tuple[Ref, ...]
    inputs: tuple[str, ...]
    params: tuple[str, ...]
    scalars: tuple[str, ...]
    loads: tuple[Carry, ...]
    cotangents: tuple[Store, ...]
    carries: tuple[Carry, ...]
    stores: tuple[Store, ...]
    tiled: Dims
    uses_position: bool


def schedule(program: ChunkProgram, cotangents: tuple[Store, ...] = ()) -> tuple[Kernel, ...]:
    """The kernels of a chunk program, in the order in which they run.

    `cotangents` are the outputs whose cotangents the program loads by row (in a backward).
    """
    kernels = []
    if program.carries:
        kernels.append(_kernel(program, cotangents, loop=True))
    if program.stores:
        kernels.append(_kernel(program, cotangents, loop=False))
    return tuple(kernels)


def _kernel(program: ChunkProgram, cotangents: tuple[Store, ...], loop: bool) -> Kernel:
    carries = program.carries if loop else ()
    stores = () if loop else program.stores
    roots = [c.next for c in carries] + [s.value for s in stores]
    marks = reach(program, roots)
    refs = tuple(r for r in range(len(program.values)) if marks[r])
    values = [program.values[r] for r in refs]
    loaded = [v.op.name for v in values if isinstance(v.op, Load)]
    kept = (*program.carries, *program.saved)
    carried = {c.name for c in carries}
    return Kernel(
        name="carry" if loop else "chunk",
        program=program,
        loop=loop,
        refs=refs,
        inputs=_names(values, Input),
        params=_names(values, Param),
        scalars=_names(values, Scalar),
        loads=tuple(c for c in kept if c.name in loaded and c.name not in carried),
        cotangents=tuple(c for c in cotangents if c.name in loaded),
        carries=carries,
        stores=stores,
        tiled=_tileable(program, refs, carries, stores),
        uses_position=POSITION in loaded,
    )


def _names(values: list[Value], kind: type[Input] | type[Param] | type[Scalar]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(v.op.name for v in values if isinstance(v.op, kind)))


def _tileable(
    program: ChunkProgram,
    refs: tuple[Ref, ...],
    carries: tuple[Carry, ...],
    stores: tuple[Store, ...],
) -> Dims:
    """Dimensions of the results along which nothing is summed, renamed or ordered."""
    bound: set[str] = set()
    for ref in refs:
        match program.values[ref].op:
            case Contract(_, _, over) | Reduce(_, _, over) | Normalize(_, _, over):
                bound.update(over)
            case CumSum(_, dim):
                bound.add(dim)
            case Rename(_, pairs):
                bound.update(d for pair in pairs for d in pair)
            case _:
                pass
    free: list[str] = []
    for result in (*carries, *stores):
        free.extend(d for d in result.dims if d not in bound and d not in free)
    return tuple(d.name for d in program.dims if d.name in free and d.size is None)
